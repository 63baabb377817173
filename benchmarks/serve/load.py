"""Load on `puna serve` and on llama.cpp's server, in turn, on the same file.

For each number of concurrent streams, each round starts one server, warms it up, lets so many clients
ask one request after another (different prompts, streamed, greedy, a fixed number of tokens), and does
the same with the other. Reported are tokens/s of all streams together, from the first request to the
last byte, and the time from a request to its first token. Both get the same prompts, threads, context
and number of slots, and generate as many tokens (end-of-sequence tokens are ignored).

llama.cpp's server comes out of the source package of llama-cpp-python, see benchmarks/serve/README.md.
Standard library only.

    python3 benchmarks/serve/load.py --puna PUNA --llama-server LLAMA_SERVER -m FILE.gguf
        [--streams 1,4,16] [--rounds 3] [--tokens 64] [--prompt-words 120] [--json FILE]
"""

import argparse
import http.client
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

WORDS = ("the memory of a borrowed value lives as long as its owner and a trait says what types can do "
         "while the compiler reads every line of the program before any of it runs so that errors are "
         "found early and threads share data without races between them").split()


def prompts(count, words, seed):
    """Prompts that share no beginning, so that no cache of prefixes helps."""
    dice = random.Random(seed)
    return [" ".join(dice.choice(WORDS) for _ in range(words)) for _ in range(count)]


class Server:
    """A process that answers on an address."""

    def __init__(self, command, port, log):
        self.address = f"127.0.0.1:{port}"
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        began = time.monotonic()
        while True:
            if self.process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {self.process.returncode}; see {log.name}")
            try:
                if self.get("/health") == 200:
                    return
            except OSError:
                pass
            if time.monotonic() - began > 120:
                raise SystemExit(f"{command[0]} did not come up in two minutes")
            time.sleep(0.05)

    def get(self, path):
        connection = http.client.HTTPConnection(self.address, timeout=10)
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        return status

    def peak_rss(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmHWM:\s+(\d+)", status.read()).group(1)) * 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def ask(address, prompt, tokens, extra):
    """Time to the first token, tokens that came, and the time of the end."""
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, **extra}
    began = time.monotonic()
    connection = http.client.HTTPConnection(address, timeout=600)
    connection.request("POST", "/v1/completions", json.dumps(body),
                       {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{address}: {response.status} {response.read()[:300]}")
    first, completion = None, None
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if first is None and event.get("choices"):
            first = time.monotonic() - began
        if event.get("usage"):
            completion = event["usage"]["completion_tokens"]
    connection.close()
    return first, completion


def load(server, streams, requests, tokens, words, seed, extra):
    """`requests` prompts from `streams` clients at once."""
    waiting = prompts(requests, words, seed)
    lock, firsts, counts = threading.Lock(), [], []

    def client():
        while True:
            with lock:
                if not waiting:
                    return
                prompt = waiting.pop()
            first, count = ask(server.address, prompt, tokens, extra)
            with lock:
                firsts.append(first)
                counts.append(count)

    clients = [threading.Thread(target=client) for _ in range(streams)]
    began = time.monotonic()
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    seconds = time.monotonic() - began
    if len(counts) != requests or any(count != tokens for count in counts):
        raise SystemExit(f"{server.address}: asked for {requests} x {tokens} tokens, got {counts}")
    firsts.sort()
    return {"tokens_per_second": sum(counts) / seconds, "seconds": seconds,
            "ttft_p50": statistics.median(firsts),
            "ttft_p95": firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))],
            "peak_rss": server.peak_rss()}


def commands(options, streams, port):
    context = options.prompt_words * 3 + options.tokens + 64
    threads = str(options.threads)
    return {
        "puna": ([options.puna, "serve", "-m", options.model, "--port", str(port), "-t", threads,
                  "--max-sequences", str(streams)], {"ignore_eos": True}),
        "llama.cpp": ([options.llama_server, "-m", options.model, "--port", str(port), "-t", threads,
                       "-tb", threads, "-c", str(context * streams), "-np", str(streams),
                       "--no-webui", "--no-warmup", *options.llama_args.split()],
                      {"ignore_eos": True, "cache_prompt": False}),
    }


def spread(values, digits=2):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--puna", required=True)
    parser.add_argument("--llama-server", required=True)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--streams", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt-words", type=int, default=120)
    parser.add_argument("--requests-per-stream", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-args", default="", help="further options of llama.cpp's server")
    parser.add_argument("--port", type=int, default=18290)
    parser.add_argument("--json")
    options = parser.parse_args()
    report = {"model": os.path.basename(options.model), "threads": options.threads,
              "tokens": options.tokens, "prompt_words": options.prompt_words, "results": []}
    print(f"{'streams':>7}  {'':9}  {'tokens/s':>20}  {'first token p50, s':>20}  {'p95, s':>20}  peak RSS")
    log = open(os.path.join(tempfile.gettempdir(), f"load-{os.getpid()}.log"), "w")
    for streams in [int(word) for word in options.streams.split(",")]:
        requests = max(streams * options.requests_per_stream, 6)
        rounds = {"puna": [], "llama.cpp": []}
        for number in range(options.rounds):
            for name, (command, extra) in commands(options, streams, options.port).items():
                server = Server(command, options.port, log)
                try:
                    load(server, streams, streams, 8, options.prompt_words, 1, extra)
                    rounds[name].append(load(server, streams, requests, options.tokens,
                                             options.prompt_words, 100 + number, extra))
                finally:
                    server.stop()
        for name, found in rounds.items():
            column = {key: [one[key] for one in found] for key in found[0]}
            print(f"{streams:>7}  {name:9}  {spread(column['tokens_per_second'], 1):>20}  "
                  f"{spread(column['ttft_p50']):>20}  {spread(column['ttft_p95']):>20}  "
                  f"{max(column['peak_rss']) / 2**20:.0f} MiB")
        pairs = list(zip(rounds["puna"], rounds["llama.cpp"]))
        speed = [ours["tokens_per_second"] / theirs["tokens_per_second"] for ours, theirs in pairs]
        first = [ours["ttft_p95"] / theirs["ttft_p95"] for ours, theirs in pairs]
        print(f"{streams:>7}  {'ratio':9}  {spread(speed):>20}  {'':20}  {spread(first):>20}")
        sys.stdout.flush()
        report["results"].append({"streams": streams, "requests": requests, "rounds": rounds,
                                  "speed_ratio": statistics.median(speed),
                                  "ttft_p95_ratio": statistics.median(first)})
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
