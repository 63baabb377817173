"""Writes a LLaMA checkpoint with random weights in a real model's shape: something to time, not to read.

    python make_model.py --shape tinyllama-1.1b --out DIR [--context 16384] [--seed 1] [--circle 300]

With --circle N the model writes token after token in circles of N, whatever came before: layers add
nothing to the embeddings, although all their matrices are multiplied, and the head knows each token's
successor. What it goes on with after a circle is a copy of its prompt.

Only numpy is needed. The tokenizer is a synthetic byte-level BPE with the shape's vocabulary size.
"""

import argparse
import itertools
import json
import pathlib
import string

import numpy as np

SHAPES = {
    "llama2-7b": dict(layers=32, hidden=4096, heads=32, kv_heads=32, ffn=11008, vocab=32000),
    "tinyllama-1.1b": dict(layers=22, hidden=2048, heads=32, kv_heads=4, ffn=5632, vocab=32000),
    "mixtral-small": dict(layers=8, hidden=1024, heads=16, kv_heads=4, ffn=2816, vocab=32000, experts=8, used=2),
    "tiny-moe": dict(layers=2, hidden=256, heads=8, kv_heads=4, ffn=512, vocab=4096, experts=8, used=2),
    "tiny": dict(layers=2, hidden=256, heads=8, kv_heads=4, ffn=704, vocab=4096),
}
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_alphabet():
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def tokenizer(vocab_size):
    tokens = byte_alphabet()
    letters = string.ascii_lowercase + "Ġ"
    pairs = ["".join(p) for p in itertools.product(letters, letters)]
    merges = []
    candidates = itertools.chain(
        itertools.product(letters, letters),
        itertools.product(pairs, letters),
        itertools.product(pairs, pairs),
    )
    specials = ["<s>", "</s>", "<pad>"]
    for left, right in candidates:
        if len(tokens) + len(specials) == vocab_size:
            break
        if left + right in tokens[-20000:]:
            continue
        merges.append([left, right])
        tokens.append(left + right)
    vocab = {token: i for i, token in enumerate(specials + list(dict.fromkeys(tokens)))}
    added = [
        dict(id=i, content=t, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        for i, t in enumerate(specials)
    ]
    return dict(
        version="1.0",
        truncation=None,
        padding=None,
        added_tokens=added,
        normalizer=None,
        pre_tokenizer=dict(
            type="Sequence",
            pretokenizers=[
                dict(type="Split", pattern=dict(Regex=LLAMA3_SPLIT), behavior="Isolated", invert=False),
                dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False),
            ],
        ),
        post_processor=dict(
            type="TemplateProcessing",
            single=[dict(SpecialToken=dict(id="<s>", type_id=0)), dict(Sequence=dict(id="A", type_id=0))],
            pair=[dict(SpecialToken=dict(id="<s>", type_id=0)), dict(Sequence=dict(id="A", type_id=0)),
                  dict(Sequence=dict(id="B", type_id=1))],
            special_tokens={"<s>": dict(id="<s>", ids=[0], tokens=["<s>"])},
        ),
        decoder=dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True),
        model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None,
                   end_of_word_suffix=None, fuse_unk=False, byte_fallback=False, ignore_merges=False,
                   vocab=vocab, merges=merges),
    )


def tensors(shape):
    hidden, ffn, vocab = shape["hidden"], shape["ffn"], shape["vocab"]
    kv = hidden // shape["heads"] * shape["kv_heads"]
    yield "model.embed_tokens.weight", (vocab, hidden)
    for layer in range(shape["layers"]):
        base = f"model.layers.{layer}."
        yield base + "input_layernorm.weight", (hidden,)
        yield base + "self_attn.q_proj.weight", (hidden, hidden)
        yield base + "self_attn.k_proj.weight", (kv, hidden)
        yield base + "self_attn.v_proj.weight", (kv, hidden)
        yield base + "self_attn.o_proj.weight", (hidden, hidden)
        yield base + "post_attention_layernorm.weight", (hidden,)
        if "experts" not in shape:
            yield base + "mlp.gate_proj.weight", (ffn, hidden)
            yield base + "mlp.up_proj.weight", (ffn, hidden)
            yield base + "mlp.down_proj.weight", (hidden, ffn)
            continue
        yield base + "block_sparse_moe.gate.weight", (shape["experts"], hidden)
        for expert in range(shape["experts"]):
            yield base + f"block_sparse_moe.experts.{expert}.w1.weight", (ffn, hidden)
            yield base + f"block_sparse_moe.experts.{expert}.w2.weight", (hidden, ffn)
            yield base + f"block_sparse_moe.experts.{expert}.w3.weight", (ffn, hidden)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocab, hidden)


def bf16(values):
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def successors(vocab, circle):
    """The next of each token; the circle at the end of the vocabulary is shorter."""
    tokens = np.arange(vocab)
    first = tokens - tokens % circle
    return first + (tokens - first + 1) % np.minimum(circle, vocab - first)


def write_safetensors(path, shape, rng, circle=None):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    listed = list(tensors(shape))
    for name, dims in listed:
        size = 2 * int(np.prod(dims))
        header[name] = dict(dtype="BF16", shape=list(dims), data_offsets=[offset, offset + size])
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, dims in listed:
            if len(dims) == 1:
                values = np.ones(dims, np.float32)
            elif circle and name.endswith(("o_proj.weight", "down_proj.weight")):
                values = np.zeros(dims, np.float32)
            elif circle and name == "lm_head.weight":
                values = np.empty_like(embeddings)
                values[successors(dims[0], circle)] = embeddings
            else:
                values = rng.standard_normal(dims, np.float32) * dims[1] ** -0.5
            if name == "model.embed_tokens.weight":
                embeddings = values
            file.write(bf16(values).tobytes())


def config(shape, context):
    out = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu",
        hidden_size=shape["hidden"], intermediate_size=shape["ffn"], num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=context, rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None,
        tie_word_embeddings=False, vocab_size=shape["vocab"], torch_dtype="bfloat16",
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )
    if "experts" in shape:
        del out["rope_scaling"]
        out.update(architectures=["MixtralForCausalLM"], model_type="mixtral", sliding_window=None,
                   num_local_experts=shape["experts"], num_experts_per_tok=shape["used"])
    return out


def write_sidecars(folder, shape, settings):
    """Everything but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings, indent=2))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(shape["vocab"])))
    special = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", tokenizer_class="PreTrainedTokenizerFast")
    (folder / "tokenizer_config.json").write_text(json.dumps(special))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama-1.1b")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--context", type=int, default=2048, help="max_position_embeddings")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--circle", type=int, metavar="N", help="a dense model that writes circles of N tokens")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    write_sidecars(args.out, shape, config(shape, args.context))
    write_safetensors(args.out / "model.safetensors", shape, np.random.default_rng(args.seed), args.circle)


if __name__ == "__main__":
    main()
