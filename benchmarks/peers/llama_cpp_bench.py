"""`puna bench` for llama.cpp: the same options for one test, the same JSON.

    python llama_cpp_bench.py -m model.gguf -p 512 [-n 128] [-d 8192] [-b 8] [-r 1] [-t 2] [--flash auto]

With `--first-token IDS` it loads the file, runs the prompt and prints when the first token was known,
on the system's monotonic clock, so that whoever started this process can subtract; the imports of
Python are told too.
"""

import argparse
import json
import resource
import statistics
import time

from llama_low import FLASH, Model

IMPORTED = time.monotonic()


def random_tokens(count, vocab, seed):
    """A linear congruential generator: Python's takes longer to start."""
    out, state = [], seed + 1
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append((state >> 33) % vocab)
    return out


def report(name, rates, args, depth, batch):
    return dict(
        test=name,
        tokens_per_second=dict(median=statistics.median(rates), min=min(rates), max=max(rates)),
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        threads=args.threads, depth=depth, batch=batch, flash=args.flash,
    )


def fill(model, depth, sequences):
    model.clear()
    if depth:
        model.prefill(random_tokens(depth, model.vocab, 99), logits="none")
        for sequence in range(1, sequences):
            model.copy_sequence(0, sequence)


def prompt_test(model, args, depth):
    rates = []
    fill(model, depth, 1)
    for repetition in range(args.repetitions + 1):
        tokens = random_tokens(args.prompt, model.vocab, repetition)
        started = time.perf_counter()
        model.prefill(tokens, first=depth)
        rates.append(args.prompt / (time.perf_counter() - started))
        model.rewind(0, depth)
    return rates[1:]


def decode_test(model, args, depth, sequences):
    rates = []
    fill(model, depth, sequences)
    for repetition in range(args.repetitions + 1):
        # The warm-up need not be as long as the test.
        steps = args.generate if repetition else min(args.generate, 8)
        tokens = random_tokens(steps * sequences, model.vocab, repetition)
        started = time.perf_counter()
        for step in range(steps):
            row = tokens[step * sequences : (step + 1) * sequences]
            model.decode([(token, depth + step, s) for s, token in enumerate(row)], "all")
        rates.append(len(tokens) / (time.perf_counter() - started))
        for sequence in range(sequences):
            model.rewind(sequence, depth)
    return rates[1:]


def first_token(args):
    ids = [int(i) for i in args.first_token.split(",")]
    model = Model(args.model, args.threads, len(ids) + 8, flash=args.flash)
    model.prefill(ids)
    token = int(model.logits().argmax())
    print(json.dumps(dict(token=token, imported=IMPORTED, known=time.monotonic())), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-p", "--prompt", type=int, default=0)
    parser.add_argument("-n", "--generate", type=int, default=0)
    parser.add_argument("-d", "--depth", type=int, default=0)
    parser.add_argument("-b", "--batch", type=int, default=1)
    parser.add_argument("-r", "--repetitions", type=int, default=1)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--flash", choices=FLASH, default="auto")
    parser.add_argument("--first-token", metavar="IDS")
    args = parser.parse_args()
    if args.first_token:
        return first_token(args)
    length = args.depth + max(args.prompt, args.generate)
    model = Model(args.model, args.threads, length, args.batch, args.flash)
    reports = []
    suffix = [f"d{args.depth}"] * bool(args.depth)
    if args.prompt:
        name = f"pp{args.prompt}" + "@" * bool(suffix) + ",".join(suffix)
        reports.append(report(name, prompt_test(model, args, args.depth), args, args.depth, 1))
    if args.generate:
        suffix += [f"b{args.batch}"] * (args.batch > 1)
        name = f"tg{args.generate}" + "@" * bool(suffix) + ",".join(suffix)
        rates = decode_test(model, args, args.depth, args.batch)
        reports.append(report(name, rates, args, args.depth, args.batch))
    print(json.dumps(reports))


if __name__ == "__main__":
    main()
