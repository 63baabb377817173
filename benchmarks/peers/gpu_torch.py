"""PyTorch's side of gpu.py: makes the checkpoint where it is missing, and measures on every line of stdin.

    python gpu_torch.py DIR SHAPE PROMPT GENERATE DEPTH BATCH COMPILE

Decoding is timed from the first generated token to the last, so that no mode pays for the prompt.
"""

import json
import pathlib
import statistics
import sys
import time

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from make_model import SHAPES, tokenizer

DEVICE = "cuda"


def make(folder, shape):
    shape = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=shape["vocab"], hidden_size=shape["hidden"], intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"], max_position_embeddings=16384, tie_word_embeddings=False,
    )
    torch.manual_seed(1)
    with torch.device(DEVICE):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(shape["vocab"])))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


def timed(work):
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def median_of(work, repeats=3):
    return statistics.median(timed(work) for _ in range(repeats))


def read_speed():
    """Bytes read per second by a sum over 4 GiB, which writes nothing."""
    x = torch.ones(2**30, dtype=torch.float32, device=DEVICE)
    x.sum()
    return x.numel() * 4 / min(timed(lambda: x.sum()) for _ in range(10))


class Recorded:
    """The forward pass of one token as a CUDA graph over a static cache: no Python between kernels."""

    def __init__(self, model, batch, capacity):
        self.model = model
        self.ids = torch.ones((batch, 1), dtype=torch.long, device=DEVICE)
        self.place = torch.zeros(1, dtype=torch.long, device=DEVICE)
        self.cache = StaticCache(config=model.config, max_cache_len=capacity)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.forward()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.next = self.forward()

    def forward(self):
        out = self.model(self.ids, past_key_values=self.cache, cache_position=self.place,
                         position_ids=self.place.unsqueeze(0), use_cache=True)
        return out.logits[:, -1:].argmax(-1)

    def generate(self, first, steps):
        self.place.fill_(first)
        for layer in self.cache.layers:  # transformers 5 counts for itself
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length.fill_(first)
        for _ in range(steps):
            self.graph.replay()
            self.ids.copy_(self.next)
            self.place += 1
            self.next.tolist()  # as a server needs each token


def generating(model, ids, steps, **how):
    """Seconds per token of generate(), the prompt's pass taken off."""
    def run(n):
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n,
                       do_sample=False, pad_token_id=0, **how)
    run(steps + 1), run(1)
    whole, first = median_of(lambda: run(steps + 1)), median_of(lambda: run(1))
    return steps / (whole - first)


@torch.inference_mode()
def measure(model, prompt, steps, depth, batch, compiled, recorded):
    one = torch.ones((1, 1), dtype=torch.long, device=DEVICE)
    long = torch.randint(3, 1000, (1, prompt), device=DEVICE)
    modes = {"transformers, generate()": {}}
    if compiled:
        modes["transformers, static cache, compiled"] = dict(cache_implementation="static")
    test = f"tg{steps}"
    results = {test: {mode: generating(model, one, steps, **how) for mode, how in modes.items()}}
    graph = recorded.get(1)
    if graph:
        seconds = median_of(lambda: graph.generate(0, steps))
        results[test]["transformers, static cache, forward as a CUDA graph"] = steps / seconds
    forward = lambda: model(long, use_cache=True, logits_to_keep=1)
    forward()
    results[f"pp{prompt}"] = {"transformers, forward": prompt / median_of(forward, 10)}
    if depth:
        deep = torch.randint(3, 1000, (1, depth), device=DEVICE)
        results[f"{test}@d{depth}"] = {"transformers, generate()": generating(model, deep, steps)}
    if batch:
        many = one.repeat(batch, 1)
        name = f"{test}@b{batch}"
        results[name] = {"transformers, generate()": batch * generating(model, many, steps)}
        if recorded.get(batch):
            seconds = median_of(lambda: recorded[batch].generate(0, steps))
            results[name]["transformers, static cache, forward as a CUDA graph"] = batch * steps / seconds
    return results


def main():
    folder, shape = pathlib.Path(sys.argv[1]), sys.argv[2]
    prompt, steps, depth, batch, compiled = map(int, sys.argv[3:8])
    if not (folder / "tokenizer.json").exists():
        make(folder, shape)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(DEVICE).eval()
    embedding = model.get_input_embeddings().weight.numel()
    parameters = sum(p.numel() for p in model.parameters()) - embedding
    recorded = {}
    for width in {1, batch} - {0}:
        try:
            with torch.inference_mode():
                recorded[width] = Recorded(model, width, 1024)
        except Exception as error:  # a mode that this version cannot run
            print(f"no CUDA graph: {error}", file=sys.stderr)
    print(json.dumps(dict(gpu=torch.cuda.get_device_name(), torch=torch.__version__,
                          transformers=transformers.__version__, weight_bytes=2 * parameters,
                          read_per_second=read_speed())), flush=True)
    for _ in sys.stdin:
        try:
            results = measure(model, prompt, steps, depth, batch, compiled, recorded)
        except Exception as error:
            print(f"measuring failed: {error!r}", file=sys.stderr)
            if not compiled:
                raise
            compiled = 0
            results = measure(model, prompt, steps, depth, batch, compiled, recorded)
        print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
