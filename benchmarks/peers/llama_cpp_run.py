"""One measured run of llama.cpp through llama-cpp-python; prints the JSON that `puna generate --json` prints."""

import argparse
import json
import resource
import time

import llama_cpp
import numpy as np
from llama_cpp import Llama


def best(model):
    """The most likely next token; llama-cpp-python keeps no copy of the logits."""
    row = llama_cpp.llama_get_logits_ith(model.ctx, -1)
    return int(np.ctypeslib.as_array(row, shape=(model.n_vocab(),)).argmax())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--token-ids", required=True)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ctx", type=int, default=2048)
    args = parser.parse_args()
    ids = [int(i) for i in args.token_ids.split(",")]

    start = time.perf_counter()
    model = Llama(args.model, n_ctx=args.ctx, n_threads=args.threads, n_threads_batch=args.threads,
                  verbose=False, logits_all=False)
    loaded = time.perf_counter()
    model.eval(ids)
    token = best(model)
    first = time.perf_counter()
    out = [token]
    for _ in range(args.max_new_tokens - 1):
        model.eval([token])
        token = best(model)
        out.append(token)
    done = time.perf_counter()
    print(json.dumps({
        "token_ids": out,
        "timings": {
            "load_seconds": loaded - start,
            "prefill_tokens": len(ids),
            "prefill_seconds": first - loaded,
            "decode_tokens": len(out) - 1,
            "decode_seconds": done - first,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
    }))


if __name__ == "__main__":
    main()
