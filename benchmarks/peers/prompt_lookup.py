"""Decodes a copying task with and without prompt lookup, alternately, and prints the ratio.

    python prompt_lookup.py --puna PATH --model MODEL [--rounds 5] [--new 256] [--lookup 8]

The prompt is what the model itself wrote greedily before: one with random weights ends up in a circle, so
that going on is copying. Real models with a text to repeat take --prompt-file. Both sides have to give
the same tokens.
"""

import argparse
import json
import statistics
import subprocess
import sys


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[:6])} … failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def rate(result):
    # The first token comes with the prompt; the first step may still arrange the weights.
    return (len(result["token_ids"]) - 1) / result["timings"]["decode_seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puna", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--lookup", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm", type=int, default=400, help="tokens that the model writes as the prompt")
    parser.add_argument("--prompt-file")
    args = parser.parse_args()
    base = [args.puna, "generate", "-m", args.model, "--temperature", "0", "--ignore-eos", "--json",
            "--threads", str(args.threads)]
    if args.prompt_file:
        prompt = ["--prompt-file", args.prompt_file]
    else:
        written = run([*base, "--token-ids", "3", "-n", str(args.warm), "--prompt-lookup", "16"])
        prompt = ["--token-ids", ",".join(map(str, [3, *written["token_ids"]]))]
    plain = [*base, *prompt, "-n", str(args.new)]
    pairs = []
    for _ in range(args.rounds + 1):  # the first pair warms the page cache and is dropped
        pairs.append((run([*plain, "--prompt-lookup", str(args.lookup)]), run(plain)))
    pairs = pairs[1:]
    if any(a["token_ids"] != b["token_ids"] for a, b in pairs):
        sys.exit("the tokens differ")
    ratios = [rate(a) / rate(b) for a, b in pairs]
    done = pairs[0][0]["timings"]["speculated"]
    print(f"{len(pairs)} alternating pairs, {args.new} tokens, identical in all")
    print(f"with    {statistics.median(rate(a) for a, _ in pairs):8.1f} tok/s   {done}")
    print(f"without {statistics.median(rate(b) for _, b in pairs):8.1f} tok/s")
    print(f"ratio   {statistics.median(ratios):8.2f}   {min(ratios):.2f} - {max(ratios):.2f}")


if __name__ == "__main__":
    main()
