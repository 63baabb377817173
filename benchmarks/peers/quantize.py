"""Quantizes a GGUF file with llama.cpp's own quantizer.

    pip install llama-cpp-python
    python quantize.py --from model-bf16.gguf --to model-q4_k_m.gguf --format q4_k_m [--threads 2] [--keep-head]

What is compared on both sides has to be the same file, and llama.cpp's quantizer is the one that
the published files were made with.
"""

import argparse
import ctypes
import os
import pathlib

import llama_cpp

FORMATS = {
    "f32": llama_cpp.LLAMA_FTYPE_ALL_F32,
    "f16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q2_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K,
    "q3_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q3_K_M,
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q5_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "q6_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
}


@llama_cpp.llama_log_callback
def silent(_level, _text, _data):
    pass


def quantize(source, target, name, threads=2, keep_head=False):
    """Writes `target` from `source`; a half-written file never has the target's name."""
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = FORMATS[name]
    params.quantize_output_tensor = not keep_head
    part = f"{target}.{os.getpid()}.part"
    code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(part), ctypes.byref(params))
    if code:
        raise RuntimeError(f"llama.cpp could not quantize {source} to {name}: code {code}")
    os.replace(part, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=pathlib.Path, required=True)
    parser.add_argument("--to", dest="target", type=pathlib.Path, required=True)
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep-head", action="store_true", help="leave the output matrix as it is")
    args = parser.parse_args()
    quantize(args.source, args.target, args.format, args.threads, args.keep_head)


if __name__ == "__main__":
    main()
