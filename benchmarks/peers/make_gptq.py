"""Writes a GPTQ checkpoint with random integers in a real model's shape: AutoGPTQ's layout, act-order.

    python make_gptq.py --shape tinyllama-1.1b --out DIR [--context 16384] [--group 128] [--seed 1]

Four bits, a scale and a zero per group of inputs. With act-order (desc_act) the quantizer visits the
inputs by importance, so which group an input belongs to is a random permutation here: `g_idx`. Matrices
with one input (query, key and value; gate and up) see the same importance and have the same one.
"""

import argparse
import json
import pathlib

import numpy as np
from make_model import SHAPES, bf16, config, tensors, write_sidecars

BITS = 4
PER_WORD = 32 // BITS


def pack(nibbles):
    """Eight rows of [n, m] nibbles in each row of [n / 8, m] words, the first in the low bits."""
    parts = nibbles.reshape(-1, PER_WORD, nibbles.shape[1]).astype(np.uint32)
    words = np.zeros((parts.shape[0], parts.shape[2]), np.uint32)
    for i in range(PER_WORD):
        words |= parts[:, i] << np.uint32(BITS * i)
    return words.view(np.int32)


def quantized(rows, cols, group, order, rng):
    """The four tensors of a matrix [rows, cols], whose values have a variance of about 1 / cols."""
    groups = cols // group
    quants = np.clip(np.rint(rng.normal(7.5, 2.5, (cols, rows))), 0, 15).astype(np.uint8)
    # Stored zeros are one less than meant: 7 stands for 8.
    zeros = np.clip(np.rint(rng.normal(7, 0.7, (groups, rows))), 0, 14).astype(np.uint8)
    scales = rng.uniform(0.8, 1.2, (groups, rows)) * cols**-0.5 / 2.7
    return {
        "qweight": ("I32", pack(quants)),
        "qzeros": ("I32", np.ascontiguousarray(pack(np.ascontiguousarray(zeros.T)).T)),
        "scales": ("F16", scales.astype(np.float16)),
        "g_idx": ("I32", (order // group).astype(np.int32)),
    }


def matrices(shape, group, rng):
    """(name, dtype, values) of everything: what is not a projection stays 16 bits."""
    order = None
    for name, dims in tensors(shape):
        base = name.removesuffix(".weight")
        if len(dims) == 1:
            yield name, "BF16", bf16(np.ones(dims, np.float32))
        elif "_proj" in base:
            if not base.endswith((".k_proj", ".v_proj", ".up_proj")):
                order = rng.permutation(dims[1])
            for part, (dtype, values) in quantized(*dims, group, order, rng).items():
                yield f"{base}.{part}", dtype, values
        else:
            yield name, "BF16", bf16(rng.standard_normal(dims, np.float32) * dims[1] ** -0.5)


def write(path, listed):
    """A safetensors file; the values are held in memory, because the header needs every size."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, values in listed:
        header[name] = dict(dtype=dtype, shape=list(values.shape), data_offsets=[offset, offset + values.nbytes])
        offset += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, values in listed:
            file.write(values.tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[name for name in SHAPES if "experts" not in SHAPES[name]],
                        default="tinyllama-1.1b")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--context", type=int, default=2048, help="max_position_embeddings")
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    if shape["hidden"] % args.group or shape["ffn"] % args.group:
        parser.error("the group must divide hidden and feed-forward width")
    quantization = dict(
        quant_method="gptq", bits=BITS, group_size=args.group, desc_act=True, sym=False,
        damp_percent=0.01, static_groups=False, true_sequential=True, checkpoint_format="gptq",
    )
    write_sidecars(args.out, shape, config(shape, args.context) | dict(quantization_config=quantization))
    write(args.out / "model.safetensors", list(matrices(shape, args.group, np.random.default_rng(args.seed))))


if __name__ == "__main__":
    main()
