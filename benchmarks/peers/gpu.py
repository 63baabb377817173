"""Runs puna and PyTorch (transformers) alternately on a GPU, on the same BF16 checkpoint.

    python gpu.py --puna PATH --models DIR [--rounds 3] [--record NAME]

puna has to be built with the feature cuda. PyTorch runs in its best modes (gpu_torch.py): transformers
as it is, with a static cache and compiled, and the bare forward pass recorded as a CUDA graph, without
generate() around it. Its process stays; puna's starts anew in every round. The GPU's read speed is
measured by PyTorch in the same run.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import subprocess
import sys

from measure import run

HERE = pathlib.Path(__file__).parent


class Torch:
    """The other side, kept between rounds."""

    def __init__(self, model, options):
        command = [sys.executable, HERE / "gpu_torch.py", model, *map(str, options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("gpu_torch.py ended")
        return json.loads(line)

    def round(self):
        print("go", file=self.process.stdin, flush=True)
        return self.answer()


def puna_round(args, model):
    common = ["-m", model, "--device", "cuda", "-r", 3, "--json"]
    tests = run([args.puna, "bench", *common, "-p", args.prompt, "-n", args.generate])
    if args.depth:
        tests += run([args.puna, "bench", *common, "-p", 0, "-n", args.generate, "-d", args.depth])
    if args.batch:
        tests += run([args.puna, "bench", *common, "-p", 0, "-n", args.generate, "-b", args.batch])
    return {t["test"]: t["tokens_per_second"]["median"] for t in tests}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puna", required=True)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--shape", default="tinyllama-1.1b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=128)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true", help="leave out what takes minutes to compile")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/record/NAME.md")
    args = parser.parse_args()
    model = args.models / f"{args.shape}-gpu"
    options = [args.shape, args.prompt, args.generate, args.depth, args.batch, int(not args.no_compile)]
    torch = Torch(model, options)
    print(json.dumps(torch.about), flush=True)
    rounds = []
    for _ in range(args.rounds):
        try:
            rounds.append((puna_round(args, model), torch.round()))
        except RuntimeError as error:  # what was measured before is not lost
            print(error, file=sys.stderr)
            break
        print(json.dumps(rounds[-1]), flush=True)
    if not rounds:
        sys.exit("nothing was measured")
    lines = [f"# {torch.about['gpu']}, PyTorch {torch.about['torch']}, transformers {torch.about['transformers']}, "
             f"{args.shape}, {datetime.date.today()}", "",
             f"`benchmarks/peers/gpu.py`: {len(rounds)} rounds, alternately; medians in tok/s, the ratio that of "
             "neighbouring runs (above 1 puna is faster).", "",
             "| test | puna | of the read speed | peer | tok/s | ratio |", "|---|---|---|---|---|---|"]
    for test in rounds[0][0]:
        ours = [r[0][test] for r in rounds]
        share = ""
        if test == f"tg{args.generate}":
            share = f"{statistics.median(ours) * torch.about['weight_bytes'] / torch.about['read_per_second']:.0%}"
        for mode in rounds[0][1].get(test, {}):
            theirs = [r[1][test][mode] for r in rounds]
            ratios = [a / b for a, b in zip(ours, theirs)]
            lines.append(f"| {test} | {statistics.median(ours):,.1f} | {share} | {mode} | "
                         f"{statistics.median(theirs):,.1f} | {statistics.median(ratios):.2f} "
                         f"({min(ratios):.2f}-{max(ratios):.2f}) |")
    lines += ["", f"Read speed measured: {torch.about['read_per_second'] / 1e9:,.0f} GB/s; weights of a step: "
              f"{torch.about['weight_bytes'] / 1e9:.2f} GB."]
    print("\n".join(lines))
    if args.record:
        (HERE.parent / "record" / f"{args.record}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
