"""Reads what puna-io writes with gguf-py, whole and split, and compares with the source.

Run by hand, from the repository root, with `gguf` installed:
    python crates/puna-io/tests/check_gguf.py testdata/golden
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from gguf import GGUFReader


def resplit(*arguments):
    command = ["cargo", "run", "-q", "-p", "puna-io", "--example", "resplit_gguf", "--"]
    subprocess.run(command + [str(a) for a in arguments], check=True)


def read(paths):
    """Metadata of the first file without split and header keys, tensors of all."""
    metadata, tensors = {}, {}
    for number, path in enumerate(paths):
        reader = GGUFReader(path)
        for name, field in reader.fields.items():
            if name.startswith("split."):
                stated = {"no": number, "count": len(paths)}.get(name[6:])
                assert stated is None or field.contents() == stated, name
            elif number == 0 and not name.startswith("GGUF."):
                metadata[name] = ([t.name for t in field.types], field.contents())
        for tensor in reader.tensors:
            assert tensor.name not in tensors
            shape = tuple(int(n) for n in tensor.shape)
            tensors[tensor.name] = (tensor.tensor_type, shape, tensor.data.tobytes())
    return metadata, tensors


def main(golden):
    checked = 0
    for source in sorted(golden.glob("gguf/*/*.gguf")):
        expected = read([source])
        with tempfile.TemporaryDirectory() as scratch:
            scratch = Path(scratch)
            resplit(source, scratch / "one.gguf")
            assert read([scratch / "one.gguf"]) == expected, source
            resplit(source, scratch / "many.gguf", "50KB")
            parts = sorted(scratch.glob("many-*.gguf"))
            assert len(parts) > 1
            assert read(parts) == expected, source
            resplit(parts[-1], scratch / "joined.gguf")
            assert (scratch / "joined.gguf").read_bytes() == (scratch / "one.gguf").read_bytes()
        checked += 1
    print(f"{checked} files copied, split and joined; gguf-py reads the same")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
