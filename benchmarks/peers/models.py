"""Makes the models that run.py measures, without a download: random weights in real shapes.

    python models.py --puna PATH --out DIR [--context 16384] [--tiny]

Folders are written by make_model.py and make_gptq.py, converted to GGUF by puna and quantized by
llama.cpp, so that both sides read the same file. What is there already is left alone.
"""

import argparse
import pathlib
import subprocess
import sys

from quantize import quantize

HERE = pathlib.Path(__file__).parent
DENSE_FORMATS = ["q4_0", "q8_0", "q4_k_m", "q6_k"]
MOE_FORMATS = ["q4_0", "q8_0"]


def script(name, *args):
    subprocess.run([sys.executable, str(HERE / name), *map(str, args)], check=True)


def make(puna, out, shape, name, formats, context, threads):
    folder, bf16 = out / f"{name}-hf", out / f"{name}-bf16.gguf"
    if not (folder / "model.safetensors").exists():
        script("make_model.py", "--shape", shape, "--out", folder, "--context", context)
    if not bf16.exists():
        subprocess.run([puna, "convert", "-m", folder, "--to", "gguf", "--out", bf16], check=True)
    for form in formats:
        target = out / f"{name}-{form}.gguf"
        if not target.exists():
            print(f"{name}: {form}", flush=True)
            quantize(bf16, target, form, threads)


def make_all(puna, out, context=16384, threads=2, tiny=False):
    out.mkdir(parents=True, exist_ok=True)
    dense, moe = ("tiny", "tiny-moe") if tiny else ("tinyllama-1.1b", "mixtral-small")
    make(puna, out, dense, "dense", DENSE_FORMATS, context, threads)
    make(puna, out, moe, "moe", MOE_FORMATS, context, threads)
    # GPTQ leaves the head at 16 bits; llama.cpp's Q4_0 makes it Q6_K unless told not to.
    headed = out / "dense-q4_0-head16.gguf"
    if not headed.exists():
        quantize(out / "dense-bf16.gguf", headed, "q4_0", threads, keep_head=True)
    gptq = out / "dense-gptq"
    if not (gptq / "model.safetensors").exists():
        group = 64 if tiny else 128
        script("make_gptq.py", "--shape", dense, "--out", gptq, "--context", context, "--group", group)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puna", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--context", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="shapes to try the scripts with")
    args = parser.parse_args()
    make_all(args.puna, args.out, args.context, args.threads, args.tiny)


if __name__ == "__main__":
    main()
