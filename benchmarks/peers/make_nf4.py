"""Writes an NF4 checkpoint of random values in a real model's shape, as bitsandbytes and transformers do.

    python make_nf4.py --shape llama2-7b --out DIR [--context 4096] [--seed 1]

Blocks of 64 values in 4 bits, double quantization of their scales; embedding, head and norms stay 16 bits.
One tensor is in memory at a time.
"""

import argparse
import json
import pathlib

import numpy as np
from make_model import SHAPES, bf16, config, tensors, write_sidecars

BLOCK, NESTED = 64, 256
CODES = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]


def parts(name, dims):
    """Name, type and shape of a tensor's parts."""
    if len(dims) == 1 or "_proj" not in name:
        return [(name, "BF16", list(dims))]
    blocks = dims[0] * dims[1] // BLOCK
    return [
        (name, "U8", [dims[0] * dims[1] // 2, 1]), (f"{name}.absmax", "U8", [blocks]),
        (f"{name}.quant_map", "F32", [16]), (f"{name}.nested_absmax", "F32", [-(-blocks // NESTED)]),
        (f"{name}.nested_quant_map", "F32", [256]),
        (f"{name}.quant_state.bitsandbytes__nf4", "U8", [len(state(dims))]),
    ]


def state(dims):
    return json.dumps(dict(
        quant_type="nf4", blocksize=BLOCK, dtype="bfloat16", shape=list(dims), nested_blocksize=NESTED,
        nested_dtype="float32", nested_offset=0.02,
    )).encode()


def values(name, dtype, shape, dims, rng):
    if name.endswith("bitsandbytes__nf4"):
        return np.frombuffer(state(dims), np.uint8)
    if name.endswith(".nested_quant_map"):
        return np.linspace(-1, 1, 256, dtype=np.float32)
    if name.endswith(".quant_map"):
        return np.array(CODES, np.float32)
    if name.endswith(".nested_absmax"):
        return np.full(shape, 0.005, np.float32)
    if dtype == "U8":
        return rng.integers(0, 256, shape, np.uint8)
    if len(shape) == 1:
        return bf16(np.ones(shape, np.float32))
    return bf16(rng.standard_normal(shape, np.float32) * dims[1] ** -0.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[name for name in SHAPES if "experts" not in SHAPES[name]], default="llama2-7b")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--context", type=int, default=4096, help="max_position_embeddings")
    parser.add_argument("--layers", type=int, metavar="N", help="fewer than the shape has")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    shape, rng = dict(SHAPES[args.shape]), np.random.default_rng(args.seed)
    shape["layers"] = args.layers or shape["layers"]
    quantization = dict(
        quant_method="bitsandbytes", load_in_4bit=True, load_in_8bit=False, bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="bfloat16", bnb_4bit_quant_storage="uint8",
    )
    write_sidecars(args.out, shape, config(shape, args.context) | dict(quantization_config=quantization))
    listed = [(*part, dims) for name, dims in tensors(shape) for part in parts(name, dims)]
    sizes = {"U8": 1, "BF16": 2, "F32": 4}
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, dims, _ in listed:
        end = offset + int(np.prod(dims)) * sizes[dtype]
        header[name] = dict(dtype=dtype, shape=dims, data_offsets=[offset, end])
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(args.out / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, dtype, dims, whole in listed:
            file.write(values(name, dtype, dims, whole, rng).tobytes())


if __name__ == "__main__":
    main()
