"""Load on a puna server, with clients that behave badly.

Starts `puna serve`, asks it with many clients at once, and checks that
- greedy answers are those that the same prompts get alone,
- every error is an object with message, type, param and code,
- no request is lost, and memory does not grow with the number of requests.

A tenth of the clients go away in the middle, a twentieth send what is no request, a twentieth read
slowly. Standard library only.

    python3 benchmarks/serve/soak.py PUNA [-m MODEL] [--requests 1000] [--clients 32] [--json FILE]
"""

import argparse
import collections
import http.client
import json
import queue
import random
import subprocess
import sys
import threading
import time

PROMPTS = [
    "A vector is", "The string", "Returns the number of", "impl Iterator for", "Panics if",
    "An example of a closure:", "The llama", "Memory is", "use std::collections::HashMap;",
    "This function", "In Rust, a trait", "Errors are", "fn main() {", "Unsafe code", "The compiler",
    "A slice of bytes",
]
MALFORMED = [
    b"", b"{", b"[]", b'{"prompt": 5}', b'{"prompt": "x", "temperature": "hot"}', b"\xff\xfe",
    b'{"prompt": "x", "prompt": "y"}', b'{"messages": []}', b'{"prompt": "x", "unknown": 1}',
    b'{"prompt": ' + b"[" * 20000 + b"]" * 20000 + b"}", b'{"prompt": "x", "max_tokens": 1e99}',
]


class Load:
    def __init__(self, address, tokens):
        self.address = address
        self.tokens = tokens
        self.lock = threading.Lock()
        self.kinds = collections.Counter()
        self.problems = []
        self.first, self.total, self.completion_tokens = [], [], 0
        self.expected = {}

    def body(self, prompt, stream):
        return json.dumps({"prompt": prompt, "max_tokens": self.tokens, "temperature": 0,
                           "stream": stream}).encode()

    def open(self, body):
        connection = http.client.HTTPConnection(self.address, timeout=300)
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        return connection, connection.getresponse()

    def alone(self):
        for prompt in PROMPTS:
            connection, response = self.open(self.body(prompt, False))
            self.expected[prompt] = json.loads(response.read())["choices"][0]["text"]
            connection.close()

    def note(self, kind, problem=None):
        with self.lock:
            self.kinds[kind] += 1
            if problem:
                self.problems.append(f"{kind}: {problem}")

    def check_error(self, kind, response):
        text = response.read()
        try:
            error = json.loads(text)["error"]
            fine = {"message", "type", "param", "code"} <= set(error) and 400 <= response.status < 500
        except (ValueError, TypeError, KeyError):
            fine = False
        self.note(kind, None if fine else f"{response.status} {text[:80]!r}")

    def one(self, dice):
        prompt, lot = dice.choice(PROMPTS), dice.random()
        if lot < 0.05:
            connection, response = self.open(dice.choice(MALFORMED))
            self.check_error("malformed", response)
        elif lot < 0.15:
            connection, response = self.open(self.body(prompt, dice.random() < 0.7))
            if response.headers.get("Content-Type", "").startswith("text/event-stream"):
                response.read(dice.randrange(1, 400))
            self.note("cancelled", None if response.status in (200, 429) else response.status)
        else:
            connection = self.answer(prompt, slow=lot < 0.20, stream=dice.random() < 0.5)
        connection.close()

    def answer(self, prompt, slow, stream):
        began = time.monotonic()
        connection, response = self.open(self.body(prompt, stream))
        if response.status == 429:
            self.check_error("refused (429)", response)
            return connection
        if response.status != 200:
            self.note("answered", f"{response.status} {response.read()[:80]!r}")
            return connection
        text, first = "", None
        if stream:
            for line in response:
                if first is None:
                    first = time.monotonic() - began
                if slow:
                    time.sleep(0.02)
                if line.startswith(b"data: {"):
                    choices = json.loads(line[6:]).get("choices") or [{}]
                    text += choices[0].get("text", "")
        else:
            text = json.loads(response.read())["choices"][0]["text"]
        same = text == self.expected[prompt]
        self.note("slow reader" if slow else "answered",
                  None if same else f"{prompt!r} gave {text!r}, alone {self.expected[prompt]!r}")
        with self.lock:
            self.completion_tokens += self.tokens
            if not slow:
                self.total.append(time.monotonic() - began)
                if first is not None:
                    self.first.append(first)
        return connection


def rss_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def quantile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


def run(load, clients, requests):
    work = queue.Queue()
    for number in range(requests):
        work.put(number)

    def client():
        while True:
            try:
                number = work.get_nowait()
            except queue.Empty:
                return
            try:
                load.one(random.Random(number))
            except Exception as error:  # a lost connection is what this looks for
                load.note("lost", repr(error))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("puna")
    parser.add_argument("-m", "--model")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--json")
    options = parser.parse_args()
    command = [options.puna, "serve", "--port", "0", "--kv-memory", "64MiB"]
    if options.model:
        command += ["-m", options.model]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    address = server.stdout.readline().strip().removeprefix("http://")
    load = Load(address, options.tokens)
    load.alone()
    # The first third fills caches; growth is counted from there.
    took = run(load, options.clients, options.requests // 3)
    before = rss_mib(server.pid)
    took += run(load, options.clients, options.requests - options.requests // 3)
    after = rss_mib(server.pid)
    connection = http.client.HTTPConnection(address)
    for _ in range(100):  # those that went away are noticed within moments
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
        idle = 'puna_sequences_running{model="puna-mini"} 0\n' in metrics or options.model
        if idle:
            break
        time.sleep(0.1)
    if not idle:
        load.problems.append("sequences of clients that went away are still running")
    connection.close()
    server.terminate()
    code = server.wait(timeout=60)
    report = {
        "requests": sum(load.kinds.values()), "clients": options.clients, "kinds": dict(load.kinds),
        "seconds": round(took, 1), "requests_per_second": round(sum(load.kinds.values()) / took, 1),
        "new_tokens_per_second": round(load.completion_tokens / took, 1),
        "first_token_ms_p50": round(quantile(load.first, 0.5) * 1000, 1),
        "first_token_ms_p95": round(quantile(load.first, 0.95) * 1000, 1),
        "answer_ms_p50": round(quantile(load.total, 0.5) * 1000, 1),
        "answer_ms_p95": round(quantile(load.total, 0.95) * 1000, 1),
        "rss_mib_after_a_third": round(before, 1), "rss_mib_at_the_end": round(after, 1),
        "exit_code": code, "problems": load.problems[:20], "problem_count": len(load.problems),
    }
    print(json.dumps(report, indent=2))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=2)
    sys.exit(1 if load.problems or code != 0 else 0)


if __name__ == "__main__":
    main()
