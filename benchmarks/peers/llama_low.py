"""llama.cpp's C interface as the scripts here need it: load, decode batches, read logits.

The low-level functions of llama-cpp-python are called directly: its `Llama` class keeps logits and
tokens in Python between the steps, which costs time that is not llama.cpp's.
"""

import ctypes
import os

import llama_cpp as ll
import numpy as np

FLASH = {
    "auto": ll.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": ll.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": ll.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


@ll.llama_log_callback
def silent(_level, _text, _data):
    pass


class Model:
    """A loaded file with one context. Everything not named here is llama.cpp's default: weights in
    the memory map, repacked where that is faster, keys and values in f16."""

    def __init__(self, path, threads, context, sequences=1, flash="auto"):
        ll.llama_log_set(silent, ctypes.c_void_p(0))
        ll.llama_backend_init()
        self.model = ll.llama_model_load_from_file(os.fsencode(path), ll.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        params = ll.llama_context_default_params()
        # Every sequence has a part of its own, rounded up as llama.cpp wants it.
        params.n_ctx = sequences * (-(-context // 256) * 256)
        params.n_batch, params.n_ubatch = 2048, 512
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH[flash]
        self.context = ll.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"llama.cpp could not make a context of {params.n_ctx} tokens")
        self.memory = ll.llama_get_memory(self.context)
        self.vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))
        self.batch = ll.llama_batch_init(2048, 0, 1)

    def decode(self, entries, logits="last"):
        """Runs (token, position, sequence) entries, at most 2048; logits: "last", "all" or "none"."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for i, (token, position, sequence) in enumerate(entries):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = logits == "all" or (logits == "last" and i + 1 == len(entries))
        code = ll.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama_decode: code {code}")
        ll.llama_synchronize(self.context)

    def prefill(self, tokens, first=0, sequence=0, logits="last"):
        """A prompt in batches of 2048, from position `first` on."""
        for at in range(0, len(tokens), 2048):
            part = tokens[at : at + 2048]
            entries = [(token, first + at + i, sequence) for i, token in enumerate(part)]
            self.decode(entries, logits if at + 2048 >= len(tokens) else "none")

    def logits(self, index=-1):
        row = ll.llama_get_logits_ith(self.context, index)
        return np.ctypeslib.as_array(row, shape=(self.vocab,))

    def clear(self):
        ll.llama_memory_clear(self.memory, True)

    def copy_sequence(self, source, target):
        ll.llama_memory_seq_cp(self.memory, source, target, -1, -1)

    def rewind(self, sequence, length):
        """Forgets what lies at and behind a position."""
        ll.llama_memory_seq_rm(self.memory, sequence, length, -1)

    def close(self):
        ll.llama_batch_free(self.batch)
        ll.llama_free(self.context)
        ll.llama_model_free(self.model)
