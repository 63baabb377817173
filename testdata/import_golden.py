#!/usr/bin/env python3
"""Copies the golden cases that puna's tests use into testdata/golden, trimmed to fit in a repository.

    python testdata/import_golden.py FULL_SET            # a folder that make_golden.py wrote (its --out)

Trimmed, and only this:
* groups that no test here reads yet are left out (see GROUPS);
* `template.jinja` of the chat cases is left out: those files are copies of templates that models'
  publishers wrote, under their terms;
* `logits_i` keeps the last ROWS positions of a prompt: they depend on every earlier position;
* `text/llama4-text` keeps its config only: the architecture is not supported, and its test is that
  puna says so.
Everything else is byte for byte what make_golden.py wrote. Needs Python 3.9 and nothing else.
"""
import json
import shutil
import struct
import sys
from pathlib import Path

GROUPS = ["text", "layout", "gguf", "gptq", "awq", "bnb", "tokenizers", "chat"]
ROWS = 12
UNSUPPORTED = {"text/llama4-text"}
ELEMENT_BYTES = {"F32": 4, "I64": 8}


def trim(source: Path, target: Path) -> None:
    """Rewrites a golden.safetensors with the last ROWS rows of each logits tensor."""
    data = source.read_bytes()
    (header_len,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + header_len])
    body = data[8 + header_len :]
    metadata = header.pop("__metadata__", None)
    out, parts, offset = {}, [], 0
    for name in sorted(header, key=lambda n: (-ELEMENT_BYTES[header[n]["dtype"]], n)):
        entry = header[name]
        start, end = entry["data_offsets"]
        shape = list(entry["shape"])
        if name.startswith("logits_"):
            keep = min(ROWS, shape[0])
            row_bytes = (end - start) // shape[0]
            start, shape[0] = end - keep * row_bytes, keep
        out[name] = {"dtype": entry["dtype"], "shape": shape, "data_offsets": [offset, offset + end - start]}
        parts.append(body[start:end])
        offset += end - start
    if metadata:
        out["__metadata__"] = metadata
    text = json.dumps(out, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def main() -> None:
    source = Path(sys.argv[1])
    target = Path(__file__).resolve().parent / "golden"
    for group in GROUPS:
        shutil.rmtree(target / group, ignore_errors=True)
        for file in sorted((source / group).rglob("*")):
            case = "/".join(file.relative_to(source).parts[:2])
            left_out = file.name == "template.jinja" or (case in UNSUPPORTED and file.suffix == ".safetensors")
            if not file.is_file() or left_out:
                continue
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if file.name == "golden.safetensors":
                trim(file, copy)
            else:
                copy.write_bytes(file.read_bytes())


if __name__ == "__main__":
    main()
