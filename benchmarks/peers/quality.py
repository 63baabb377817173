"""Compares the perplexity of puna and llama.cpp on the same quantized files and the same tokens.

    python quality.py --puna PATH --model HF_FOLDER --text FILE --out DIR [--window 512] [--threads 2]

The folder is converted to GGUF by puna as it is stored and quantized by llama.cpp to every format;
where a K-format needs rows of 256 values and the model has others, llama.cpp takes another format for
those tensors, for both sides. Windows do not overlap and start with the text's first token (bos), as
in `puna score`. Exit code 1 if a format is more than --tolerance apart. Where the processor has AMX
puna reads the text again with --prompt-tiles.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
from llama_low import Model
from quantize import quantize

FORMATS = ["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "q3_k_m", "q2_k"]


def run(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def puna_score(args, path, *more):
    command = [args.puna, "score", "-m", path, "--text-file", args.text, "--window", args.window,
               "-t", args.threads, "--json", *more]
    return json.loads(run(command))


def log_probs(rows, targets):
    """Of the target of each row, in float64 sums."""
    rows = rows.astype(np.float64)
    top = rows.max(axis=1, keepdims=True)
    norm = top[:, 0] + np.log(np.exp(rows - top).sum(axis=1))
    return rows[np.arange(len(targets)), targets] - norm


def peer_nll(path, ids, window, threads):
    """Mean negative log-likelihood over the windows that `puna score` makes."""
    model = Model(path, threads, window)
    total, count = 0.0, 0
    for at in range(1, len(ids), window - 1):
        tokens = [ids[0], *ids[at : at + window - 1]]
        model.clear()
        # The last token predicts nothing that is in the window.
        model.decode([(token, i, 0) for i, token in enumerate(tokens)], "all")
        rows = np.stack([model.logits(i).copy() for i in range(len(tokens) - 1)])
        total -= log_probs(rows, tokens[1:]).sum()
        count += len(tokens) - 1
    model.close()
    return total / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puna", required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--window", type=int, default=512, help="tokens, at most 2048")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=FORMATS)
    parser.add_argument("--tolerance", type=float, default=0.005, help="relative, of the perplexity")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plain = args.out / "plain.gguf"
    run([args.puna, "convert", "-m", args.model, "--to", "gguf", "--out", plain, "--force"])
    exact = puna_score(args, plain, "--exact")
    ids = exact["token_ids"]
    print(f"{len(ids)} tokens, windows of {args.window}; exact perplexity {exact['perplexity']:.4f}")
    amx = "amx_bf16" in pathlib.Path("/proc/cpuinfo").read_text()
    print(f"{'format':8}{'puna':>10}{'llama.cpp':>11}{'ratio':>9}" + f"{'tiles':>10}{'ratio':>9}" * amx)
    apart = False
    for name in ["plain", *args.formats]:
        path = args.out / f"{name}.gguf"
        if name != "plain":
            quantize(plain, path, name, args.threads)
        ours = puna_score(args, path)
        if ours["token_ids"] != ids:
            sys.exit(f"{name}: the quantized file's tokenizer gives other tokens")
        theirs = math.exp(peer_nll(path, ids, args.window, args.threads))
        ratio = ours["perplexity"] / theirs
        apart |= abs(ratio - 1) > args.tolerance
        line = f"{name:8}{ours['perplexity']:10.4f}{theirs:11.4f}{ratio:9.4f}"
        if amx:
            tiles = puna_score(args, path, "--prompt-tiles")["perplexity"]
            apart |= abs(tiles / theirs - 1) > args.tolerance
            line += f"{tiles:10.4f}{tiles / theirs:9.4f}"
        print(line, flush=True)
    sys.exit(1 if apart else 0)


if __name__ == "__main__":
    main()
