#!/usr/bin/env python3
"""Writes small valid inputs into fuzz/corpus/TARGET, so that fuzzing starts behind the magic numbers.

    python3 fuzz/seeds.py

Made here rather than copied from testdata: a mutation engine works best on inputs of a few hundred
bytes. Needs Python 3.9 and nothing else.
"""
import collections
import gzip
import io
import json
import pickle
import struct
import types
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent / "testdata" / "golden"


def save(target: str, name: str, data: bytes) -> None:
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


# --- GGUF ---------------------------------------------------------------------------------------

def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(version: int) -> bytes:
    values = [
        ("general.architecture", 8, gguf_string("llama")),
        ("llama.block_count", 4, struct.pack("<I", 1)),
        ("llama.rope.freq_base", 6, struct.pack("<f", 1e4)),
        ("tokenizer.ggml.add_bos_token", 7, b"\1"),
        ("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + gguf_string("a") + gguf_string("bc")),
        ("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 2) + struct.pack("<2f", 0, -1)),
    ]
    tensors = [("token_embd.weight", [4, 2], 0, 0), ("output_norm.weight", [4], 1, 32), ("q", [32, 1], 2, 64)]
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    for key, kind, value in values:
        out += gguf_string(key) + struct.pack("<I", kind) + value
    for name, dims, kind, offset in tensors:
        out += gguf_string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        out += struct.pack("<IQ", kind, offset)
    out += b"\0" * (-len(out) % 32)
    return out + bytes(32) + bytes(32) + bytes(32)


# --- safetensors --------------------------------------------------------------------------------

def safetensors() -> bytes:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(22)


# --- torch.save ---------------------------------------------------------------------------------

torch = types.ModuleType("torch")
utils = types.ModuleType("torch._utils")


class FloatStorage:
    """Stands for torch.FloatStorage: pickled by name."""


def _rebuild_tensor_v2(*_args):
    """Stands for torch's function: pickled by name."""


FloatStorage.__module__, _rebuild_tensor_v2.__module__ = "torch", "torch._utils"
torch.FloatStorage, utils._rebuild_tensor_v2, torch._utils = FloatStorage, _rebuild_tensor_v2, utils
__import__("sys").modules.update({"torch": torch, "torch._utils": utils})


class Tensor:
    """Pickles as a torch tensor over storage `key`."""

    def __init__(self, key, size, stride):
        self.key, self.size, self.stride = key, size, stride

    def __reduce__(self):
        return _rebuild_tensor_v2, (Storage(self.key), 0, self.size, self.stride, False, collections.OrderedDict())


class Storage:
    """Pickles as a persistent id."""

    def __init__(self, key):
        self.key = key


class TorchPickler(pickle.Pickler):
    """Writes storages as torch.save does."""

    legacy = False

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        tail = (None,) if self.legacy else ()
        return ("storage", FloatStorage, obj.key, "cpu", 4) + tail


def dumps(obj, legacy: bool) -> bytes:
    out = io.BytesIO()
    pickler = TorchPickler(out, protocol=2)
    pickler.legacy = legacy
    pickler.dump(obj)
    return out.getvalue()


def state_dict():
    return collections.OrderedDict(a=Tensor("0", (2, 2), (2, 1)), t=Tensor("0", (2, 2), (1, 2)))


def torch_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("m/data.pkl", dumps(state_dict(), legacy=False))
        archive.writestr("m/byteorder", b"little")
        archive.writestr("m/data/0", bytes(16))
        archive.writestr("m/version", b"3\n")
    return out.getvalue()


def torch_legacy() -> bytes:
    info = dict(protocol_version=1001, little_endian=True, type_sizes=dict(short=2, int=4, long=4))
    parts = [0x1950A86A20F9469CFC6C, 1001, info, state_dict(), ["0"]]
    return b"".join(dumps(part, legacy=True) for part in parts) + struct.pack("<Q", 4) + bytes(16)


# --- tokenizers ---------------------------------------------------------------------------------

def tokenizer_json() -> bytes:
    vocab = {"a": 0, "b": 1, "ab": 2, "<s>": 3}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": 3, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                                              "use_regex": True},
        "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                                            "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                  "merges": [["a", "b"]]},
    }).encode()


def sentencepiece(kind: int) -> bytes:
    """A ModelProto: pieces (1), trainer spec (2) with model type (3), normalizer spec (3)."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    def piece(text: str, score: float, piece_type: int) -> bytes:
        return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([piece_type]))

    out = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3) + piece("<0x41>", 0, 6)
    for i, text in enumerate(["\u2581", "a", "b", "ab", "\u2581a"]):
        out += piece(text, -float(i), 1)
    return out + field(2, b"\x18" + bytes([kind])) + field(3, field(1, b"identity") + b"\x18\1\x20\1\x28\1")


def tiktoken() -> bytes:
    import base64

    tokens = [bytes([i]) for i in range(256)] + [b"ab", b"abc"]
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


TEMPLATES = [
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | trim }}\n{% endfor %}",
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set s = messages[0].content %}{% set messages = messages[1:] %}"
    "{% endif %}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('x') }}"
    "{% endif %}[INST] {{ m.content.strip() }} [/INST]{% endfor %}",
    "{%- macro f(x) -%}{{ x | tojson(indent=2) }}{%- endmacro %}{{ f(messages) }}{{ strftime_now('%d %b %Y') }}",
    "{% for k, v in messages[0].items() %}{{ k.split('o') | join('-') }}{{ v | length }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for i in range(10) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
]


# --- training data ------------------------------------------------------------------------------

TALKS = [
    [{"instruction": "Say", "input": "a", "output": "b", "system": "s", "history": [["q", "r"]]},
     {"instruction": "x", "instances": [{"input": "1", "output": "2"}]}],
    [{"conversations": [{"from": "human", "value": "a"},
                        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
                        {"from": "observation", "value": "b"}, {"from": "gpt", "value": "ab"}],
      "system": "s", "tools": "[{\"name\": \"f\", \"parameters\": {}}]"}],
    [{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}]},
                   {"role": "assistant", "content": None, "tool_calls": [
                       {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                   {"role": "tool", "tool_call_id": "1", "content": "b"},
                   {"role": "assistant", "content": "ab", "weight": 0}],
      "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}],
]

# Format, name of the ending and contents, in the order of FORMATS of the target.
TEXTS = [
    b"first line\nsecond line, longer than the first one by a few words and then some more of them\n<|x|>third\n",
    b"<html><head><title>t</title></head><body><p>a &amp; b<br>c</p><ul><li>d<li>e</ul><pre> f\n g</pre></body>",
    b'[{"text": "a", "url": 1}, "b", {"text": "c"}]',
    b'{"text": "a", "url": 1}\n"b"\n\n{"text": "c"}\r\n',
    b'id,text\n1,"a, ""b"""\n2,c\n',
    b"id\ttext\n1\ta\n2\tc\n",
]


def zstd(data: bytes) -> bytes:
    """A frame of one raw block."""
    return b"\x28\xb5\x2f\xfd\x20" + bytes([len(data)]) + struct.pack("<I", len(data) << 3 | 1)[:3] + data


def thrift(fields: list) -> bytes:
    """A struct in Thrift's compact protocol, of (id, type, value); 5 is i32, 6 i64, 8 binary, 9 list, 12 struct."""

    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    def value(kind: int, data) -> bytes:
        if kind in (5, 6):
            return varint(data << 1 if data >= 0 else ~(data << 1))
        if kind == 8:
            return varint(len(data)) + data
        if kind == 9:
            of, items = data
            return bytes([len(items) << 4 | of]) + b"".join(value(of, item) for item in items)
        return thrift(data)

    out, last = b"", 0
    for number, kind, data in fields:
        out += bytes([(number - last) << 4 | kind]) + value(kind, data)
        last = number
    return out + b"\0"


def parquet() -> bytes:
    """One column `text` of three required strings in one plain page."""
    values = b"".join(struct.pack("<I", len(text)) + text for text in [b"one", b"two", b"three"])
    page = thrift([(1, 5, 0), (2, 5, len(values)), (3, 5, len(values)),
                   (5, 12, [(1, 5, 3), (2, 5, 0), (3, 5, 3), (4, 5, 3)])]) + values
    column = [(1, 5, 6), (2, 9, (5, [0, 3])), (3, 9, (8, [b"text"])), (4, 5, 0), (5, 6, 3), (6, 6, len(page)),
              (7, 6, len(page)), (9, 6, 4)]
    group = [(1, 9, (12, [[(2, 6, 4), (3, 12, column)]])), (2, 6, len(page)), (3, 6, 3)]
    schema = [[(4, 8, b"schema"), (5, 5, 1)], [(1, 5, 6), (3, 5, 0), (4, 8, b"text"), (6, 5, 0)]]
    footer = thrift([(1, 5, 1), (2, 9, (12, schema)), (3, 6, 3), (4, 9, (12, [group]))])
    return b"PAR1" + page + footer + struct.pack("<I", len(footer)) + b"PAR1"


def token_shard() -> bytes:
    """Eight tokens in two documents."""
    header = json.dumps({"document_starts": {"dtype": "U64", "shape": [2], "data_offsets": [0, 16]},
                         "tokens": {"dtype": "U16", "shape": [8], "data_offsets": [16, 32]}},
                        separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + struct.pack("<2Q8H", 0, 3, *range(0, 240, 30))


def token_manifest(shard_bytes: int) -> bytes:
    counts = ["read", "bad", "empty", "too_short", "too_long", "symbols", "repeated_lines", "exact_duplicates",
              "near_duplicates", "train", "validation"]
    shard = {"file": "train-00000.safetensors", "source": 0, "tokens": 8, "documents": 2, "text_bytes": 9,
             "bytes": shard_bytes, "sha256": "", "text_sha256": ""}
    source = {"name": "a", "weight": 1.0, "inputs": ["a"], "files": 1, "files_left_out": 0,
              "documents": dict.fromkeys(counts, 1)}
    return json.dumps({"format": "puna-tokens", "version": 1, "vocab_size": 300, "dtype": "U16", "options": {},
                       "tokenizer": {"file": "tokenizer.json", "sha256": "", "bos": 0, "eos": None},
                       "sources": [source], "train": [shard], "validation": []}).encode()


def main() -> None:
    save("gguf", "v3", gguf(3))
    save("gguf", "v2", gguf(2))
    save("safetensors_index", "file", b"\0" + safetensors())
    index = {"metadata": {"total_size": 16}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    save("safetensors_index", "index", b"\1" + json.dumps(index).encode())
    save("pickle", "zip", torch_zip())
    save("pickle", "legacy", torch_legacy())
    for pattern, kind in [("*/*/config.json", 0), ("layout/*/params.json", 1), ("gptq/*/quantize_config.json", 2)]:
        for file in sorted(GOLDEN.glob(pattern)):
            save("config", "-".join(file.relative_to(GOLDEN).parts), bytes([kind]) + file.read_bytes())
    for i, template in enumerate(TEMPLATES):
        save("template", str(i), template.encode())
    save("tokenizer_model", "json", b"\0" + tokenizer_json())
    save("tokenizer_model", "unigram", b"\0" + sentencepiece(1))
    save("tokenizer_model", "bpe", b"\0" + sentencepiece(2))
    save("tokenizer_model", "tiktoken", b"\0" + tiktoken())
    bytes_ = "\n".join(f"<0x{i:02X}>" for i in range(256))
    save("tokenizer_model", "llama", f"\1<unk>\n<s>\n</s>\n{bytes_}\n\u2581\na\nb\nab".encode())
    save("tokenizer_model", "gpt2", "\3<s>\n\u0120\na\nb\nab\n\u0120a\n\na b\n\u0120 a".encode())
    for i, talks in enumerate(TALKS):
        lines = "\n".join(json.dumps(talk) for talk in talks).encode()
        save("conversations", f"lines-{i}", bytes([i + 1]) + lines)
        save("conversations", f"list-{i}", b"\x0c" + json.dumps(talks).encode())
    for i, text in enumerate(TEXTS):
        save("text_files", f"plain-{i}", bytes([144 if i == 0 else i]) + text)
        save("text_files", f"gzip-{i}", bytes([i + 6]) + gzip.compress(text, mtime=0))
        save("text_files", f"zstd-{i}", bytes([i + 12]) + zstd(text))
    save("parquet", "plain", parquet())
    save("token_shards", "shard", b"\0\x08\x02" + token_shard())
    save("token_shards", "manifest", b"\1" + token_manifest(len(token_shard())))


if __name__ == "__main__":
    main()
