"""Prints the literal numbers of tests/rope.rs: rotary frequencies in float32, written after the
formulas of transformers' modeling_rope_utils (5.0), independently of the Rust code.

    python rope_numbers.py        # needs numpy
"""
import math

import numpy as np

F = np.float32


def plain(base, dim):
    return F(1.0) / (F(base) ** (np.arange(0, dim, 2).astype(F) / F(dim)))


def dynamic(base, dim, factor, max_pos, seq_len):
    seq_len = max(seq_len, max_pos)
    return plain(base * ((factor * seq_len / max_pos) - (factor - 1)) ** (dim / (dim - 2)), dim)


def yarn(base, dim, factor, orig, fast, slow, truncate):
    def at(rot):
        return (dim * math.log(orig / (rot * 2 * math.pi))) / (2 * math.log(base))

    low, high = at(fast), at(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=F) - F(low)) / F(high - low), 0, 1)
    pos = F(base) ** (np.arange(0, dim, 2).astype(F) / F(dim))
    keep = F(1) - ramp
    return F(1.0) / (F(factor) * pos) * (F(1) - keep) + F(1.0) / pos * keep


def llama3(base, dim, factor, low, high, orig):
    inv = plain(base, dim)
    wavelen = F(2 * math.pi) / inv
    out = np.where(wavelen > orig / low, inv / F(factor), inv)
    smooth = (F(orig) / wavelen - F(low)) / F(high - low)
    smoothed = (F(1) - smooth) * out / F(factor) + smooth * out
    medium = ~(wavelen < orig / high) & ~(wavelen > orig / low)
    return np.where(medium, smoothed, out)


def longrope(base, dim, ext):
    return F(1.0) / (np.array(ext, F) * F(base) ** (np.arange(0, dim, 2).astype(F) / F(dim)))


def show(name, values):
    print(name, "[" + ", ".join(f"{float(v):.9e}" for v in values) + "]")


if __name__ == "__main__":
    show("plain", plain(5e5, 16))
    show("dynamic 100", dynamic(1e4, 16, 2.0, 32, 100))
    show("yarn", yarn(1e4, 16, 4.0, 1024, 32, 1, True))
    show("yarn exact", yarn(1e6, 16, 4.0, 32768, 32, 1, False))
    print("yarn factor", 0.1 * math.log(4.0) + 1.0)
    show("llama3", llama3(5e5, 16, 8.0, 1.0, 4.0, 8192))
    show("llama3 small", llama3(5e5, 16, 8.0, 1.0, 4.0, 64))
    show("longrope", longrope(1e4, 8, [1.0, 1.7, 2.4, 3.1]))
    print("longrope factor", math.sqrt(1 + math.log(128 / 32) / math.log(32)))
