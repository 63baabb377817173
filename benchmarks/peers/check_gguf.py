"""Checks with llama.cpp that GGUF files written by puna mean what their source means.

    pip install numpy safetensors llama-cpp-python
    python check_gguf.py --puna PATH --golden ../../testdata/golden --out DIR

Every text case is converted, loaded by llama.cpp, and decoded greedily from the golden prompts; the
tokens have to be the reference's. Where a BF16 file's rounding of activations in llama.cpp could
matter, the conversion is made in F32.
"""

import argparse
import pathlib
import subprocess

import llama_cpp
import numpy as np
from llama_cpp import Llama
from safetensors.numpy import load_file

STEPS = 24


def greedy(path, prompt):
    model = Llama(str(path), n_ctx=256, n_threads=1, verbose=False)
    out, ids = [], list(map(int, prompt))
    for _ in range(STEPS):
        model.eval(ids)
        row = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        ids = [int(np.ctypeslib.as_array(row, shape=(model.n_vocab(),)).argmax())]
        out += ids
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puna", required=True)
    parser.add_argument("--golden", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only")
    args = parser.parse_args()
    for case in sorted((args.golden / "text").iterdir()):
        if not (case / "golden.safetensors").exists() or (args.only and case.name != args.only):
            continue
        out = args.out / f"{case.name}.gguf"
        command = [args.puna, "convert", "-m", str(case), "--to", "gguf", "--outtype", "f32", "--out", str(out), "--force"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{case.name:24} not converted: {done.stderr.strip()[-200:]}")
            continue
        golden = load_file(case / "golden.safetensors")
        try:
            same = [
                int((np.array(greedy(out, golden[f"input_ids_{i}"])) == golden[f"greedy_{i}"]).sum()) for i in (0, 1)
            ]
            print(f"{case.name:24} {same[0]} and {same[1]} of {STEPS} greedy tokens")
        except Exception as error:  # what llama.cpp says goes into the table
            print(f"{case.name:24} llama.cpp: {error}")


if __name__ == "__main__":
    main()
