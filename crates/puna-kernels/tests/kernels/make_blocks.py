"""Writes blocks.txt: blocks of every quantized format with their f32 values, and f32 values with
the blocks they quantize to, as gguf-py (which is bit-exact with ggml's reference code) has them.

    pip install gguf numpy && python make_blocks.py > blocks.txt

A line is: `dequantize` or `quantize`, format, bytes in hex, little-endian f32 values in hex.
"""

import gguf
import numpy as np

# Offsets of the f16 scales in a block: random bits there could be NaN or infinite.
HALFS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}


def main():
    random = np.random.default_rng(1)
    for name, halfs in HALFS.items():
        kind = getattr(gguf.GGMLQuantizationType, name)
        length, size = gguf.GGML_QUANT_SIZES[kind]
        count = 1 if length == 256 else 3
        blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
        for at in halfs:
            scales = random.normal(size=(count, 1)).astype("<f2")
            scales[-1] = scales[-1] * 1e-6 if count > 1 else scales[-1]  # a subnormal half
            blocks[:, at : at + 2] = scales.view(np.uint8)
        values = gguf.quants.dequantize(blocks.reshape(-1), kind).astype("<f4")
        print("dequantize", name, blocks.tobytes().hex(), values.tobytes().hex())
    for name in ["F16", "BF16", "Q4_0", "Q8_0"]:
        values = random.normal(size=96).astype("<f4")
        values[32:64] = 0
        values[64:] *= np.float32(1e-3)
        values[70] = -values[71]
        kind = getattr(gguf.GGMLQuantizationType, name)
        blocks = gguf.quants.quantize(values, kind)
        print("quantize", name, blocks.tobytes().hex(), values.tobytes().hex())


main()
