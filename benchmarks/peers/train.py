"""Trains the same models with puna and PyTorch alternately and prints ratios of speed and memory.

    sh train_setup.sh DIR/venv
    DIR/venv/bin/python train.py --puna PATH --work DIR --text FILE... [--rounds 5] [--record NAME]

Shapes of 3, 15 and 110 million parameters; sequences of 256 tokens, 16 to an optimizer step (4 with
110M, of which puna passes 2 at a time through the model and PyTorch, which is slower then, all). Both sides start from the same folder, read the same token file in its order, and use AdamW, a
cosine schedule and clipping. PyTorch runs transformers' LlamaForCausalLM with fused AdamW; a first
pass finds whether eager or compiled is faster for float32 and for bf16 autocast. Then every round
runs puna and PyTorch in turn in both precisions. A round that others on the machine disturbed is
repeated. The last row of a shape compares the fastest precision of each side; exit code 1 if there
puna falls short of the ratios that it aims at.
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
from measure import compare, cpu_name, machine, watched, widen
from table import as_markdown, as_text
from train_options import optimization_options
from train_shapes import SHAPES, flops_per_token

HERE = pathlib.Path(__file__).parent
PRECISIONS = ("f32", "bf16")
# What puna aims at: tokens/s at least so many times the peer's, and peak RSS at most so much of it.
SPEED_TARGETS = {"3M": 1.5, "15M": 1.5, "110M": 1.2}
MEMORY_TARGET = 0.7

INTRODUCTION = (
    "`benchmarks/peers/train.py`: puna and PyTorch {torch} with transformers {transformers} (the peer) train "
    "alternately, {rounds} rounds. Medians; the ratio is the median over neighbouring runs: above 1 puna is "
    "faster. Peak RSS: puna / peer = ratio. What a share of a limit means is in benchmarks/README.md."
)


def rate(report):
    return report["tokens_per_second"]["median"]


def make_case(args, name):
    """A shape's folder of first weights and its tokens."""
    model = args.work / "models" / name
    if not (model / "model.safetensors").exists():
        subprocess.run([sys.executable, HERE / "train_shapes.py", "--shape", name, "--out", model], check=True)
    # Shapes of one vocabulary have one tokenizer, and so the same tokens.
    prepared = args.work / "data" / str(SHAPES[name]["vocab"])
    train_puna.prepare(args.puna, train_puna.texts(args), prepared, model)
    return dict(name=name, model=model, data=prepared, batch=args.batch or SHAPES[name]["batch"],
                micro_batch=args.micro_batch or SHAPES[name].get("micro_batch"))


def settings_of(args, case, precision):
    return argparse.Namespace(**vars(args) | dict(batch=case["batch"], precision=precision))


def peer_train(args, case, precision, mode, steps=None):
    command = [
        sys.executable, HERE / "train_torch.py", "--config", case["model"], "--tokens", *train_puna.shards(case["data"]),
        "--precision", precision, f"--{mode}", "--batch", case["batch"], "--threads", args.threads, "--json",
    ]
    for option in ("length", "lr", "warmup", "final_lr_fraction", "weight_decay", "clip", "micro_batch"):
        if getattr(args, option) is not None:
            command += [f"--{option.replace('_', '-')}", getattr(args, option)]
    process = watched([*command, "--steps", steps or args.steps])
    return json.loads(process["output"]) | dict(others=process["others"], peak_rss_bytes=process["peak_rss_bytes"])


def puna_train(args, case, precision):
    settings = settings_of(args, case, precision)
    settings.micro_batch = case["micro_batch"]
    output = args.work / "runs" / f"{case['name']}-{precision}-{args.next_run}"
    args.next_run += 1
    sections = train_puna.recipe(case["model"], case["data"], output, settings, recompute=args.recompute)
    report = train_puna.train(args.puna, sections, args.threads)
    shutil.rmtree(output)
    return report


def least_disturbed(args, name, measure):
    """The quietest of a few tries, and no second one where the first is quiet enough."""
    tries = []
    while len(tries) < args.tries:
        tries.append(measure())
        if tries[-1]["others"] <= args.max_others:
            break
        print(f"{name}: others took {100 * tries[-1]['others']:.0f} % of the machine", file=sys.stderr)
    return min(tries, key=lambda one: one["others"])


def faster_mode(args, case, precision):
    """Eager or compiled, as a few steps of each show."""
    tried = {}
    for mode in ("compile", "eager"):
        report = least_disturbed(args, case["name"], lambda: peer_train(args, case, precision, mode, steps=6))
        tried[mode] = rate(report)
        print(f"{case['name']} {precision}: PyTorch, {mode}: {tried[mode]:.0f} tok/s", file=sys.stderr)
    return max(tried, key=tried.get)


def one_round(args, case, modes):
    out = dict(ours={}, theirs={}, machine=machine(args.puna, args.threads))
    for precision, mode in modes.items():
        out["ours"][precision] = puna_train(args, case, precision)
        out["theirs"][precision] = peer_train(args, case, precision, mode)
    reports = [*out["ours"].values(), *out["theirs"].values()]
    return out | dict(others=max(report["others"] for report in reports))


def shares(rounds, side, precision, flops):
    limits = (r["machine"].get(precision, float("nan")) for r in rounds)
    return statistics.median(rate(r[side][precision]) * flops / limit for r, limit in zip(rounds, limits))


def row(case, rounds, test, ours, theirs, length):
    """Compares a precision of puna's with one of the peer's."""
    sides = [[r[side][precision] for r in rounds] for side, precision in (("ours", ours), ("theirs", theirs))]
    out = compare(case["name"], test, *[list(map(rate, side)) for side in sides], "tok/s")
    flops = flops_per_token(SHAPES[case["name"]], length)
    of = (shares(rounds, "ours", ours, flops), shares(rounds, "theirs", theirs, flops))
    rss = tuple(statistics.median(r["peak_rss_bytes"] for r in side) for side in sides)
    return out | dict(shares=of, limits=(ours, theirs), rss=rss,
                      imports=statistics.median(r["imports_rss_bytes"] for r in sides[1]))


def case_rows(args, name, limits):
    case = make_case(args, name)
    modes = {precision: faster_mode(args, case, precision) for precision in args.precisions}
    rounds = [least_disturbed(args, name, lambda: one_round(args, case, modes)) for _ in range(args.rounds)]
    for one in rounds:
        widen(limits, one["machine"])
    rows = [row(case, rounds, f"{p}, peer {modes[p]}", p, p, args.length) for p in modes]
    best = [max(modes, key=lambda p: statistics.median(rate(r[side][p]) for r in rounds)) for side in ("ours", "theirs")]
    rows.append(row(case, rounds, f"best: {best[0]}, peer {best[1]}", *best, args.length) | dict(best=True))
    first = rounds[0]["theirs"][best[1]]
    return rows, [agreement(name, rounds[0], p) for p in modes], {key: first[key] for key in ("torch", "transformers")}


def agreement(name, one, precision):
    """That both sides did the same work shows in their losses."""
    ours, theirs = (one[side][precision]["losses"] for side in ("ours", "theirs"))
    pairs = [f"{a:.4f} and {b:.4f}" for a, b in ((ours[0], theirs[0]), (ours[-1], theirs[-1]))]
    return f"{name} {precision}: losses of puna and the peer at the first step {pairs[0]}, at the last {pairs[1]}."


def verdict(row):
    """Whether the row meets the aims, in words, and the ratio of memory without the peer's imports."""
    speed, memory = SPEED_TARGETS[row["model"]], row["rss"][0] / row["rss"][1]
    met = row["ratio"] >= speed and memory <= MEMORY_TARGET
    net = row["rss"][0] / (row["rss"][1] - row["imports"])
    text = (
        f"{row['model']}: speed {row['ratio']:.2f} of at least {speed}, memory {memory:.2f} of at most {MEMORY_TARGET} "
        f"({net:.2f} without the {row['imports'] / 1e6:.0f} MB that the peer's imports take): "
    )
    return met, text + ("met." if met else "missed.")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puna", required=True, help="the program")
    parser.add_argument("--work", type=pathlib.Path, required=True, metavar="DIR",
                        help="for models and tokens, which are used again, and recipes")
    train_puna.text_options(parser)
    optimization_options(parser, batch=None)
    parser.add_argument("--recompute", choices=["none", "block"], default="none", help="puna's activations")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--only", action="append", choices=SPEED_TARGETS, help="this shape (again for more)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-others", type=float, default=0.1, metavar="SHARE",
                        help="of the machine's time that others may take before a round is repeated")
    parser.add_argument("--tries", type=int, default=3, help="of a round and of a first pass")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/record/NAME.md")
    args = parser.parse_args()
    args.next_run = int(datetime.datetime.now().timestamp())
    return args


def main():
    args, rows, limits, notes, versions = parse(), [], {}, [], {}
    for name in args.only or SPEED_TARGETS:
        more, said, versions = case_rows(args, name, limits)
        print(as_text(more, limits, header=not rows), end="", flush=True)
        rows, notes = rows + more, notes + said
    verdicts = [verdict(row) for row in rows if row.get("best")]
    notes = [text for _, text in verdicts] + notes
    title = f"Training: {cpu_name()}, {args.threads} threads, {datetime.date.today()}"
    print(f"\n{title}\n{as_text(rows, limits)}\n" + "\n".join(notes))
    if args.record:
        path = HERE.parent / "record" / f"{args.record}.md"
        introduction = INTRODUCTION.format(rounds=args.rounds, **versions)
        listed = "".join(f"- {note}\n" for note in notes)
        path.write_text(f"{as_markdown(rows, limits, title, introduction)}\n{listed}")
        print(f"written: {path}")
    sys.exit(0 if all(met for met, _ in verdicts) else 1)


if __name__ == "__main__":
    main()
