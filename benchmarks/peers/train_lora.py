"""Trains LoRA on a frozen model with puna and with peft alternately; ratios of speed and memory.

    sh train_setup.sh DIR/venv && DIR/venv/bin/pip install peft
    DIR/venv/bin/python train_lora.py --puna PATH --work DIR --text FILE... [--rounds 5]

LoRA of rank 16 on every linear layer of the 110M shape of train_shapes.py, 2 sequences of 512 tokens to
a step. The frozen weights lie in a bfloat16 folder; peft reads it as float32 under bf16 autocast, or as
bfloat16, eager or compiled: a first pass finds the fastest. puna computes with the stored weights; both
take both sequences at once, as each is faster so.
Exit code 1 if puna falls short of 1.8 times the speed or takes more than 0.4 of the memory.
"""

import argparse
import datetime
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

import train_puna
from measure import compare, watched
from train_options import optimization_options

HERE = pathlib.Path(__file__).parent
RANK = 16
SPEED_TARGET, MEMORY_TARGET = 1.8, 0.4
MODES = {
    "autocast, compiled": ["--precision", "bf16", "--compile"],
    "autocast, eager": ["--precision", "bf16", "--eager"],
    "bf16 weights, compiled": ["--precision", "bf16", "--bf16-weights", "--compile"],
    "bf16 weights, eager": ["--precision", "bf16", "--bf16-weights", "--eager"],
}


def make_case(args):
    """The frozen model in bfloat16, and tokens."""
    source, model = args.work / "models" / "110M", args.work / "models" / "110M-bf16"
    if not (source / "model.safetensors").exists():
        subprocess.run([sys.executable, HERE / "train_shapes.py", "--shape", "110M", "--out", source], check=True)
    if not (model / "config.json").exists():
        subprocess.run([args.puna, "convert", "-m", source, "--to", "hf", "--outtype", "bf16", "--out", model], check=True)
    tokens = train_puna.prepare(args.puna, train_puna.texts(args), args.work / "data" / "32000", source)
    return model, tokens


def peft_train(args, model, tokens, mode, steps=None):
    command = [
        sys.executable, HERE / "train_torch.py", "--config", model, "--tokens", *train_puna.shards(tokens),
        *MODES[mode], "--lora", RANK, "--batch", args.batch, "--length", args.length, "--threads", args.threads, "--json",
        "--steps", steps or args.steps, "--lr", args.lr, "--weight-decay", args.weight_decay,
    ]
    process = watched(command)
    return json.loads(process["output"]) | dict(others=process["others"], peak_rss_bytes=process["peak_rss_bytes"])


def puna_train(args, model, tokens, number):
    output = args.work / "runs" / f"lora-{int(datetime.datetime.now().timestamp())}-{number}"
    args.precision, args.micro_batch = "bf16", 2
    sections = train_puna.recipe(model, tokens, output, args)
    sections["adapter"] = {"method": "lora", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": "all-linear"}
    report = train_puna.train(args.puna, sections, args.threads)
    shutil.rmtree(output)
    return report


def rate(report):
    return report["tokens_per_second"]["median"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puna", required=True, help="the program")
    parser.add_argument("--work", type=pathlib.Path, required=True, metavar="DIR")
    train_puna.text_options(parser)
    optimization_options(parser, batch=2)
    parser.set_defaults(length=512, weight_decay=0.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    model, tokens = make_case(args)
    tried = {}
    for mode in MODES:
        try:
            tried[mode] = rate(peft_train(args, model, tokens, mode, steps=5))
            print(f"peft, {mode}: {tried[mode]:.0f} tok/s", file=sys.stderr)
        except RuntimeError as error:
            print(f"peft, {mode}: {str(error).splitlines()[-1]}", file=sys.stderr)
    best = max(tried, key=tried.get)
    ours, theirs = [], []
    for number in range(args.rounds):
        ours.append(puna_train(args, model, tokens, number))
        theirs.append(peft_train(args, model, tokens, best))
        others = max(ours[-1]["others"], theirs[-1]["others"])
        print(f"round {number + 1}: {rate(ours[-1]):.0f} and {rate(theirs[-1]):.0f} tok/s, others {100 * others:.0f} %", file=sys.stderr)
    row = compare("110M", "LoRA", *[list(map(rate, side)) for side in (ours, theirs)], "tok/s")
    rss = [statistics.median(r["peak_rss_bytes"] for r in side) for side in (ours, theirs)]
    memory = rss[0] / rss[1]
    low, high = row["ratio_range"]
    print(
        f"LoRA r={RANK} all-linear, 110M, {args.batch} x {args.length} tokens: puna {statistics.median(row['ours']):.0f} tok/s, "
        f"peft ({best}) {statistics.median(row['theirs']):.0f} tok/s, ratio {row['ratio']:.2f} ({low:.2f} to {high:.2f}) of at "
        f"least {SPEED_TARGET}; peak RSS {rss[0] / 1e6:.0f} / {rss[1] / 1e6:.0f} MB = {memory:.2f} of at most {MEMORY_TARGET}"
    )
    first = [side[0]["losses"] for side in (ours, theirs)]
    print(f"losses at the first step {first[0][0]:.4f} and {first[1][0]:.4f}, at the last {first[0][-1]:.4f} and {first[1][-1]:.4f}")
    sys.exit(0 if row["ratio"] >= SPEED_TARGET and memory <= MEMORY_TARGET else 1)


if __name__ == "__main__":
    main()
