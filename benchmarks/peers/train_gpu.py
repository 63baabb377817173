"""Trains the same models on a GPU with puna and PyTorch alternately and prints ratios of speed and memory.

    python train_gpu.py --puna PATH --work DIR --text FILE... [--rounds 3] [--record NAME]

puna has to be built with the feature cuda. Both sides start from the same folder, read the same token file
in its order, and use AdamW, a cosine schedule and clipping, as in train.py. PyTorch runs transformers'
LlamaForCausalLM with fused AdamW under bf16 autocast, eager and compiled; the faster of the two counts.
Memory is what is taken of the GPU's after the last step, CUDA's context included.
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
from measure import run
from train_options import optimization_options
from train_shapes import SHAPES, flops_per_token

HERE = pathlib.Path(__file__).parent


def make_case(args, name):
    model = args.work / "models" / name
    if not (model / "model.safetensors").exists():
        subprocess.run([sys.executable, HERE / "train_shapes.py", "--shape", name, "--out", model], check=True)
    prepared = args.work / "data" / str(SHAPES[name]["vocab"])
    train_puna.prepare(args.puna, args.text, prepared, model)
    return model, prepared


def peer(args, model, data, mode):
    command = [sys.executable, HERE / "train_torch.py", "--config", model, "--tokens", *train_puna.shards(data),
               "--precision", args.precision, f"--{mode}", "--device", "cuda", "--json"]
    for option in ("steps", "batch", "length", "lr", "warmup", "final_lr_fraction", "weight_decay", "clip"):
        command += [f"--{option.replace('_', '-')}", getattr(args, option)]
    return run(command)


def puna(args, model, data):
    output = args.work / "runs" / "gpu"
    shutil.rmtree(output, ignore_errors=True)
    sections = train_puna.recipe(model, data, output, args)
    sections["train"]["device"] = "cuda"
    return train_puna.train(args.puna, sections, 8)


def gpu_name():
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def rows(args, name):
    model, data = make_case(args, name)
    modes = ["eager"] if args.no_compile else ["eager", "compile"]
    rounds = []
    for _ in range(args.rounds):
        rounds.append({"puna": puna(args, model, data)} | {mode: peer(args, model, data, mode) for mode in modes})
        print(json.dumps({side: [one["tokens_per_second"], one["device_bytes"], one["losses"][0], one["losses"][-1]]
                          for side, one in rounds[-1].items()}), flush=True)
    rate = {side: [one[side]["tokens_per_second"]["median"] for one in rounds] for side in rounds[0]}
    memory = {side: statistics.median(one[side]["device_bytes"] for one in rounds) for side in rounds[0]}
    best = max(modes, key=lambda mode: statistics.median(rate[mode]))
    ours, flops = statistics.median(rate["puna"]), flops_per_token(SHAPES[name], args.length)
    for mode in modes:
        ratios = [a / b for a, b in zip(rate["puna"], rate[mode])]
        yield (f"| {name} | {ours:,.0f} | {ours * flops / 1e12:.0f} | {mode}{', the faster' * (mode == best)} | "
               f"{statistics.median(rate[mode]):,.0f} | {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | "
               f"{memory['puna'] / 1e9:.1f} / {memory[mode] / 1e9:.1f} GB |")
    first, last = ([one["losses"][i] for one in rounds[0].values()] for i in (0, -1))
    yield f"| {name} | losses of {', '.join(rounds[0])}: | | first {', '.join(f'{x:.4f}' for x in first)} | " \
          f"last {', '.join(f'{x:.4f}' for x in last)} | | |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puna", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--text", type=pathlib.Path, nargs="+", required=True, help="files or folders to train on")
    optimization_options(parser)
    parser.set_defaults(length=1024)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--only", action="append", choices=SHAPES, help="this shape (again for more)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-compile", action="store_true", help="leave out what takes a minute to compile")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/record/NAME.md")
    args = parser.parse_args()
    import torch  # noqa: PLC0415 - its version only
    import transformers  # noqa: PLC0415

    lines = [f"# Training on {gpu_name()}, PyTorch {torch.__version__}, transformers {transformers.__version__}, "
             f"{datetime.date.today()}", "",
             f"`benchmarks/peers/train_gpu.py`: {args.rounds} rounds, alternately, {args.precision}, {args.batch} sequences of "
             f"{args.length} tokens to a step. Medians in tok/s; ratios of neighbouring runs (above 1 puna is faster).", "",
             "| model | puna | TFLOP/s | peer | tok/s | ratio | memory |", "|---|---|---|---|---|---|---|"]
    for name in args.only or ["110M", "370M"]:
        for line in rows(args, name):
            lines.append(line)
            print(line, flush=True)
    if args.record:
        (HERE.parent / "record" / f"{args.record}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
