"""Trains a LLaMA with PyTorch and transformers and reports tokens/s and memory: one measurement.

    python train_torch.py --config HF_FOLDER --tokens FILE --steps 12 --batch 16 --length 256 \\
        --precision bf16 --compile [--threads 2] [--json]

The folder's weights are trained with AdamW (fused; decay on matrices only), gradients clipped to norm
1, a cosine schedule, and attention through `scaled_dot_product_attention`; bf16 is
`torch.autocast` over float32 weights. Row n of the data is tokens[n T : n T + T + 1]: T inputs and
the T tokens that follow them, in the file's order, from the start again when all are read.

Speed is the median over the steps behind the first two, which compile and warm up. The peak of
resident memory is the process's; what Python and its imports had taken of it is told beside it,
because a PyTorch with CUDA loads libraries that a CPU never uses.
"""

import argparse
import contextlib
import json
import math
import resource
import statistics
import time

import torch
import transformers
from safetensors.numpy import load_file
from train_options import optimization_options
from transformers import LlamaForCausalLM

WARM_UP_STEPS = 2


def peak_rss_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_bytes(device):
    """Memory of the GPU that is taken, by whomever."""
    if device == "cpu":
        return None
    free, total = torch.cuda.mem_get_info()
    return total - free


def load_tokens(paths):
    """The tensor `tokens` of each file, joined."""
    parts = [torch.from_numpy(load_file(path)["tokens"].astype("int64")) for path in paths]
    return torch.cat(parts)


def row_count(tokens, length):
    return (len(tokens) - 1) // length


def rows(tokens, length, first, count):
    """Inputs and targets [count, length] of consecutive rows of the endless sequence."""
    starts = [(first + i) % row_count(tokens, length) * length for i in range(count)]
    windows = torch.stack([tokens[start : start + length + 1] for start in starts])
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def load_model(folder, dtype=torch.float32):
    torch.manual_seed(1)
    return LlamaForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")


def with_lora(model, rank):
    """The model frozen, with peft's LoRA on every linear layer; its matrices are float32."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def adamw(model, settings):
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() >= 2]
    others = [p for p in trained if p.dim() < 2]
    groups = [dict(params=matrices, weight_decay=settings.weight_decay), dict(params=others, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95), eps=1e-8, fused=True)


def learning_rate(settings, step):
    """Linear from 0 over the warm-up, then half a cosine to a fraction of the peak."""
    if step < settings.warmup:
        return settings.lr * step / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    final = settings.final_lr_fraction
    return settings.lr * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))


def forward_loss(model, inputs, targets, precision, targets_in_step):
    """transformers' own loss, as this micro-batch's part of the step's mean."""
    kind = inputs.device.type
    bf16 = torch.autocast(kind, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    with bf16:
        # Shifted already: each input has a target, the last one, too.
        out = model(input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False,
                    num_items_in_batch=targets_in_step)
    return out.loss


def train_step(model, optimizer, batch, settings):
    """Loss and gradient norm of one optimizer step."""
    inputs, targets = batch
    total = 0.0
    optimizer.zero_grad(set_to_none=True)
    for part in zip(inputs.split(settings.micro_batch), targets.split(settings.micro_batch)):
        loss = forward_loss(model, *part, settings.precision, targets.numel())
        loss.backward()
        total += loss.item()
        del loss
    norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], settings.clip)
    optimizer.step()
    return total, norm.item()


def train(model, tokens, settings, learning_rates=None, report=None):
    """All steps; a dict for each. Learning rates are the schedule's unless given."""
    model.train()
    forward = torch.compile(model) if settings.compile else model
    optimizer, steps = adamw(model, settings), []
    for step in range(settings.steps):
        started = time.perf_counter()
        lr = learning_rates[step] if learning_rates else learning_rate(settings, step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        batch = rows(tokens, settings.length, step * settings.batch, settings.batch)
        batch = [part.to(model.device) for part in batch]
        loss, norm = train_step(forward, optimizer, batch, settings)
        seconds = time.perf_counter() - started
        steps.append(dict(step=step, loss=loss, grad_norm=norm, lr=lr, seconds=seconds))
        if report:
            report(steps[-1])
    return steps


@torch.no_grad()
def validation_loss(model, tokens, length, batch=16):
    """Mean negative log-likelihood of all rows' targets, in float32."""
    model.eval()
    count, total = row_count(tokens, length), 0.0
    for first in range(0, count, batch):
        inputs, targets = rows(tokens, length, first, min(batch, count - first))
        total += forward_loss(model, inputs, targets, "f32", 1).item()
    return total / (count * length)


def measure(settings):
    imported = peak_rss_bytes()
    torch.set_num_threads(settings.threads)
    torch.set_num_interop_threads(1)
    dtype = torch.bfloat16 if settings.bf16_weights else torch.float32
    model, tokens = load_model(settings.config, dtype).to(settings.device), load_tokens(settings.tokens)
    if settings.lora:
        model = with_lora(model, settings.lora)
    steps = train(model, tokens, settings)
    in_step = settings.batch * settings.length
    rates = [in_step / s["seconds"] for s in steps[WARM_UP_STEPS:]]
    return dict(
        precision=settings.precision, mode="compiled" if settings.compile else "eager",
        threads=settings.threads, batch=settings.batch, micro_batch=settings.micro_batch,
        length=settings.length, parameters=sum(p.numel() for p in model.parameters()),
        tokens_per_second=dict(median=statistics.median(rates), min=min(rates), max=max(rates)),
        device_bytes=device_bytes(settings.device), peak_rss_bytes=peak_rss_bytes(), imports_rss_bytes=imported,
        first_step_seconds=steps[0]["seconds"], losses=[s["loss"] for s in steps],
        grad_norms=[s["grad_norm"] for s in steps], learning_rates=[s["lr"] for s in steps],
        torch=torch.__version__, transformers=transformers.__version__,
    )


def as_text(report):
    rate, rss = report["tokens_per_second"], report["peak_rss_bytes"]
    return (f"{report['precision']} {report['mode']}: {rate['median']:.0f} tok/s ({rate['min']:.0f} to {rate['max']:.0f}), "
            f"peak RSS {rss / 1e6:.0f} MB ({report['imports_rss_bytes'] / 1e6:.0f} MB after the imports), "
            f"loss {report['losses'][0]:.4f} to {report['losses'][-1]:.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="DIR", help="Hugging Face folder with the first weights")
    parser.add_argument("--tokens", required=True, nargs="+", metavar="FILE",
                        help="safetensors files with a tensor `tokens`")
    optimization_options(parser)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--compile", action="store_true", help="torch.compile")
    mode.add_argument("--eager", dest="compile", action="store_false", help="the default")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train LoRA on every linear layer with peft")
    parser.add_argument("--bf16-weights", action="store_true", help="frozen weights in bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", action="store_true", help="print everything, every step's loss too")
    settings = parser.parse_args()
    settings.micro_batch = settings.micro_batch or settings.batch
    if settings.steps <= WARM_UP_STEPS:
        parser.error(f"--steps has to be above {WARM_UP_STEPS}, which warm up")
    report = measure(settings)
    print(json.dumps(report) if settings.json else as_text(report))


if __name__ == "__main__":
    main()
