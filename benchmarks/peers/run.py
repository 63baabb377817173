"""Runs puna and llama.cpp alternately on the same files and prints ratios and shares of the machine.

    sh setup.sh DIR/venv
    DIR/venv/bin/python run.py --puna PATH --models DIR/models [--rounds 5] [--threads 2] [--record NAME]

Missing models are made first (models.py). Each test of each model is a row: every round starts a
puna process, then a llama.cpp process; a first round warms the page cache and is dropped. Shared
machines drift, so the ratio is the median over neighbouring runs. llama.cpp runs with flash
attention on or off, whichever its own first runs show to be faster for the test.
"""

import argparse
import datetime
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

from measure import compare, cpu_name, machine, run, widen
from models import make_all
from table import as_markdown, as_text

HERE = pathlib.Path(__file__).parent

# What puna reads, and what llama.cpp reads beside it, or puna again.
PAIRS = {
    "BF16": ("dense-bf16.gguf", "dense-bf16.gguf"),
    "BF16 folder": ("dense-hf", "dense-bf16.gguf"),
    "Q8_0": ("dense-q8_0.gguf", "dense-q8_0.gguf"),
    "Q6_K": ("dense-q6_k.gguf", "dense-q6_k.gguf"),
    "Q4_K_M": ("dense-q4_k_m.gguf", "dense-q4_k_m.gguf"),
    "Q4_0": ("dense-q4_0.gguf", "dense-q4_0.gguf"),
    "GPTQ 4-bit act-order": ("dense-gptq", "dense-q4_0.gguf"),
    "GPTQ, peer: puna on Q4_0": ("dense-gptq", "dense-q4_0.gguf"),
    "GPTQ, peer: puna on Q4_0 with the same head": ("dense-gptq", "dense-q4_0-head16.gguf"),
    "MoE Q8_0": ("moe-q8_0.gguf", "moe-q8_0.gguf"),
    "MoE Q4_0": ("moe-q4_0.gguf", "moe-q4_0.gguf"),
}

INTRODUCTION = (
    "`benchmarks/peers/run.py`: puna and llama.cpp (the peer, unless the row names another) alternately, "
    "{rounds} rounds. Medians; the ratio is the median over neighbouring runs: above 1 puna is faster in tok/s "
    "rows, slower in rows of seconds. What a share of a limit means is in benchmarks/README.md."
)

# Filling a deep cache takes longer than all other tests together.
DEEP = ["Q4_0", "BF16"]


# What only puna knows.
TILES = "--prompt-tiles"


def tests(args, name):
    """Name -> options that both sides take but for TILES, for one of the pairs."""
    prompt, new, depth, batch = args.prompt, args.generate, args.depth, args.batch
    if "peer: puna" in name:
        return {f"tg{new}": ["-p", 0, "-n", new]}
    all_tests = {
        f"pp{prompt}": ["-p", prompt, "-n", 0],
        f"pp{prompt} {TILES}": ["-p", prompt, "-n", 0, TILES],
        f"tg{new}": ["-p", 0, "-n", new],
        f"tg{new}@d{depth}": ["-p", 0, "-n", new, "-d", depth],
        f"tg{new}@b{batch}": ["-p", 0, "-n", new, "-b", batch],
    }
    if name not in (args.deep or DEEP):
        del all_tests[f"tg{new}@d{depth}"]
    if "amx_bf16" not in pathlib.Path("/proc/cpuinfo").read_text():
        del all_tests[f"pp{prompt} {TILES}"]
    return {k: v for k, v in all_tests.items() if not args.tests or k in args.tests}


def puna_bench(args, model, options, *more):
    command = [args.puna, "bench", "-m", model, *options, "-r", 1, "-t", args.threads, "--json", *more]
    return run(command)


def peer_bench(args, model, options, flash):
    if flash == "puna":
        return puna_bench(args, model, options)[0]
    options = [option for option in options if option != TILES]
    command = [sys.executable, HERE / "llama_cpp_bench.py", "-m", model, *options, "-r", 1,
               "-t", args.threads, "--flash", flash]
    return run(command)[0]


def rate(report):
    return report["tokens_per_second"]["median"]


def speed_row(args, name, pair, test, options):
    """One test of one model; every round measures the machine, too, behind puna's test."""
    ours_path, peer_path = (args.models / part for part in pair)
    puna_bench(args, ours_path, options)
    choices = ("puna",) if "peer: puna" in name else ("on", "off")
    tried = {flash: rate(peer_bench(args, peer_path, options, flash)) for flash in choices}
    flash = max(tried, key=tried.get)
    ours, theirs, shares = [], [], []
    for _ in range(args.rounds):
        ours.append(puna_bench(args, ours_path, options, "--machine")["tests"][0])
        theirs.append(peer_bench(args, peer_path, options, flash))
        limit = ours[-1]["limit"]
        shares.append((limit["share"], limit["per_token"] * rate(theirs[-1]) / limit["limit_per_second"]))
    row = compare(name, test, [rate(r) for r in ours], [rate(r) for r in theirs], "tok/s")
    of_ours, of_theirs = (statistics.median(side) for side in zip(*shares))
    # Where the files differ, the peer's work is not known from puna's count.
    shares = (of_ours, of_theirs if pair[0] == pair[1] else None)
    bounds = [r["limit"]["limit_per_second"] for r in ours]
    row.update(limit=ours[0]["limit"]["limit"], shares=shares, bounds=bounds, flash=flash)
    row["rss"] = tuple(statistics.median(r["peak_rss_bytes"] for r in side) for side in (ours, theirs))
    return row


def forget(path):
    """Drops a model's files from the page cache, so that a start has to read the disk."""
    for file in [path] if path.is_file() else path.iterdir():
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def first_output(command):
    """Seconds from starting a process until it says something, when that was started, and what."""
    started = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    seconds = time.monotonic() - started
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{errors[-2000:]}")
    return seconds, started, line


def start_row(args, name, pair, cache):
    """Start of the process to the first token of a prompt, with a cold or warm page cache.

    llama.cpp is given the start of Python and its imports: its time begins when they are done.
    """
    ours_path, peer_path = (args.models / part for part in pair)
    rng = random.Random(1)
    ids = ",".join(str(rng.randrange(3, 4096)) for _ in range(args.start_prompt))
    ours_command = [args.puna, "generate", "-m", ours_path, "--token-ids", ids, "--max-new-tokens", 1,
                    "--temperature", 0, "--ignore-eos", "--json", "-t", args.threads]
    peer_command = [sys.executable, HERE / "llama_cpp_bench.py", "-m", peer_path, "--first-token", ids,
                    "-t", args.threads]
    ours, theirs = [], []
    for _ in range(args.rounds + 1):
        if cache == "cold":
            forget(ours_path)
        ours.append(first_output(ours_command)[0])
        if cache == "cold":
            forget(peer_path)
        told = json.loads(first_output(peer_command)[2])
        theirs.append(told["known"] - told["imported"])
    return compare(name, f"first of {args.start_prompt} tokens, {cache}", ours[1:], theirs[1:], "s")


def campaign(args):
    # The least and the most that the machine could do during the run.
    rows, limits = [], {key: (value, value) for key, value in machine(args.puna, args.threads).items()}
    for name, pair in PAIRS.items():
        if args.only and name not in args.only:
            continue
        jobs = [lambda t=t, o=o: speed_row(args, name, pair, t, o) for t, o in tests(args, name).items()]
        if not args.no_start and "peer: puna" not in name:
            jobs += [lambda c=c: start_row(args, name, pair, c) for c in ("cold", "warm")]
        for job in jobs:
            try:
                rows.append(job())
            except RuntimeError as error:  # one model that fails does not lose the others' figures
                print(error, file=sys.stderr)
                continue
            for bound in rows[-1].get("bounds", []):
                widen(limits, {rows[-1]["limit"]: bound})
            print(as_text(rows[-1:], limits, header=len(rows) == 1), end="", flush=True)
    return rows, limits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puna", required=True)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=128)
    parser.add_argument("--depth", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--start-prompt", type=int, default=16)
    parser.add_argument("--only", action="append", choices=PAIRS, help="this model (again for more)")
    parser.add_argument("--tests", action="append", metavar="NAME", help="this test, as tg128 (again for more)")
    parser.add_argument("--deep", action="append", choices=PAIRS,
                        help=f"this model behind --depth tokens, too (again for more; default {', '.join(DEEP)})")
    parser.add_argument("--no-start", action="store_true", help="leave out the time to the first token")
    parser.add_argument("--tiny", action="store_true", help="tiny models: only to try the scripts")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/record/NAME.md")
    args = parser.parse_args()
    make_all(args.puna, args.models, threads=args.threads, tiny=args.tiny)
    rows, limits = campaign(args)
    title = f"{cpu_name()}, {args.threads} threads, {datetime.date.today()}"
    print(f"\n{title}\n{as_text(rows, limits)}")
    if args.record:
        path = HERE.parent / "record" / f"{args.record}.md"
        path.write_text(as_markdown(rows, limits, title, INTRODUCTION.format(rounds=args.rounds)))
        print(f"written: {path}")


if __name__ == "__main__":
    main()
