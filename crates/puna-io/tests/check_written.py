"""Loads what puna-io writes with torch and safetensors, and compares with the source.

Run by hand, from the repository root, with both libraries installed:
    python crates/puna-io/tests/check_written.py testdata/golden
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open


def repack(*arguments):
    command = ["cargo", "run", "-q", "-p", "puna-io", "--example", "repack", "--"]
    subprocess.run(command + [str(a) for a in arguments], check=True)


def load_pth(folder):
    return [
        torch.load(p, weights_only=True, mmap=mmap)
        for mmap in (False, True)
        for p in sorted(folder.glob("consolidated.*.pth"))
    ]


def load_safetensors(folder):
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    return tensors


def main(golden):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)

        source = golden / "layout/meta"
        expected = torch.load(source / "consolidated.00.pth", weights_only=True)
        expected.pop("rope.freqs", None)
        repack(source, scratch / "one", "meta", 1)
        for got in load_pth(scratch / "one"):
            assert got.keys() == expected.keys()
            for name, tensor in expected.items():
                assert torch.equal(got[name], tensor), name

        repack(source, scratch / "two", "meta", 2)
        theirs = golden / "layout/meta-mp2"
        for rank, got in enumerate(load_pth(scratch / "two")):
            shard = torch.load(theirs / f"consolidated.{rank % 2:02}.pth", weights_only=True)
            shard.pop("rope.freqs", None)
            assert got.keys() == shard.keys()
            for name, tensor in shard.items():
                assert torch.equal(got[name], tensor), name

        base = golden / "text/llama2-gqa"
        expected = load_safetensors(base)
        for size in ("1GB", "50KB"):
            repack(base, scratch / size, "hf", size)
            got = load_safetensors(scratch / size)
            assert got.keys() == expected.keys()
            for name, tensor in expected.items():
                assert torch.equal(got[name], tensor), name
    print("torch", torch.__version__, "and safetensors read the same tensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
