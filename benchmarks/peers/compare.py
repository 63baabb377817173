"""Runs puna and llama.cpp alternately on the same weights and prints ratios.

    pip install numpy llama-cpp-python
    python make_model.py --out DIR/hf && puna convert -m DIR/hf --to gguf --out DIR/model.gguf
    python compare.py --puna PATH --gguf DIR/model.gguf [--hf DIR/hf] [--threads 2] [--runs 5]

Both sides get the same prompt as token ids, the same number of new tokens and of threads. Shared
machines drift: only the ratios of neighbouring runs mean anything. "start" is loading plus the
prompt, up to the first new token; for llama.cpp it begins after Python and the library are up.
"""

import argparse
import json
import pathlib
import random
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[:6])} … failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def figures(result):
    t = result["timings"]
    return dict(
        start=t["load_seconds"] + t["prefill_seconds"],
        prefill=t["prefill_tokens"] / t["prefill_seconds"],
        # the first new token comes with the prompt: one step less than tokens
        decode=(len(result["token_ids"]) - 1) / t["decode_seconds"],
        rss=t["peak_rss_bytes"],
    )


def measure(args, model, prompt, new_tokens):
    ids = ",".join(map(str, prompt))
    puna = [args.puna, "generate", "-m", str(model), "--token-ids", ids, "--max-new-tokens", str(new_tokens),
            "--temperature", "0", "--json", "--threads", str(args.threads), "--ignore-eos"]
    peer = [sys.executable, str(HERE / "llama_cpp_run.py"), "--model", str(args.gguf), "--token-ids", ids,
            "--max-new-tokens", str(new_tokens), "--threads", str(args.threads)]
    pairs = []
    for _ in range(args.runs + 1):  # the first pair warms the page cache and is dropped
        pairs.append((run(puna), run(peer)))
    return pairs[1:]


def report(name, pairs, file_bytes):
    ours, theirs = zip(*((figures(a), figures(b)) for a, b in pairs))
    median = lambda rows, key: statistics.median(r[key] for r in rows)
    ratio = lambda key: statistics.median(a[key] / b[key] for a, b in zip(ours, theirs))
    print(f"\n{name}: {len(pairs)} alternating pairs")
    print(f"{'':28}{'puna':>12}{'llama.cpp':>12}{'ratio':>9}")
    for key, unit in [("start", "s"), ("prefill", "tok/s"), ("decode", "tok/s")]:
        print(f"{key + ' ' + unit:28}{median(ours, key):12.3f}{median(theirs, key):12.3f}{ratio(key):9.2f}")
    print(f"{'peak RSS, MB':28}{median(ours, 'rss') / 1e6:12.0f}{median(theirs, 'rss') / 1e6:12.0f}{ratio('rss'):9.2f}")
    print(f"{'peak RSS / file':28}{median(ours, 'rss') / file_bytes:12.3f}{median(theirs, 'rss') / file_bytes:12.3f}")
    same = sum(a["token_ids"] == b["token_ids"] for a, b in pairs)
    print(f"same greedy tokens in {same} of {len(pairs)} pairs")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puna", required=True)
    parser.add_argument("--gguf", type=pathlib.Path, required=True)
    parser.add_argument("--hf", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--vocab", type=int, default=32000)
    args = parser.parse_args()
    cpu = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    print(f"{cpu}, {args.threads} threads")
    rng = random.Random(1)
    prompt = [0] + [rng.randrange(3, args.vocab) for _ in range(args.prompt - 1)]
    for name, model in [("GGUF file", args.gguf), ("Hugging Face folder against the GGUF", args.hf)]:
        if model is None:
            continue
        files = [model] if model.is_file() else list(model.glob("*.safetensors"))
        pairs = measure(args, model, prompt, args.new)
        report(name, pairs, sum(f.stat().st_size for f in files))


if __name__ == "__main__":
    main()
