"""Trains one shape with puna and PyTorch in float32 and compares what comes out.

    python train_parity.py --puna PATH --model DIR --work DIR --text FILE... [--steps 500] [--llama-python PATH]

The folder gives the shape and the tokenizer; its weights are not used: both sides start from the same
random ones. They read the same tokens in the same order, with the learning rates that puna logged.
Checked are, with exit code 1 if one fails:

- the validation loss at the end, over all windows of the validation split: within 1 % of PyTorch's;
- that transformers loads puna's folder and finds the validation loss that puna reported, to 1e-3;
- with --llama-python, that llama.cpp continues a text with the GGUF file that puna makes of it.

The losses of all steps go to losses.csv in the work folder.
"""

import argparse
import csv
import json
import pathlib
import shutil
import subprocess
import sys

import torch
import train_puna
from train_options import optimization_options
from train_torch import learning_rate, load_model, load_tokens, train, validation_loss
from transformers import LlamaConfig, LlamaForCausalLM

SIDECARS = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
LOSS_TOLERANCE = 0.01
# Other sums in float32 and, of puna's folder, no rounding in between.
REPORT_TOLERANCE = 1e-3

CONTINUE = """
import json, sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=128, n_threads=2, verbose=False)
out = model.create_completion(sys.argv[2], max_tokens=32, temperature=0.0)
print(json.dumps(dict(text=out["choices"][0]["text"], tokens=out["usage"]["completion_tokens"])))
"""


def random_start(model, out, seed):
    """The shape with fresh weights in float32, beside its tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    config = LlamaConfig.from_pretrained(model)
    config.dtype = torch.float32
    LlamaForCausalLM(config).float().save_pretrained(out)
    for name in SIDECARS:
        if (model / name).exists():
            shutil.copy(model / name, out / name)
    return out


def reported_validation_loss(lines):
    losses = [line["validation_loss"] for line in lines if line.get("validation_loss") is not None]
    return losses[-1] if losses else None


def final_folder(output):
    """The newest folder under a run's output that holds a model."""
    folders = [path.parent for path in output.rglob("config.json") if (path.parent / "model.safetensors").exists()]
    if not folders:
        raise FileNotFoundError(f"no model in {output}")
    return max(folders, key=lambda folder: (folder / "model.safetensors").stat().st_mtime)


def train_puna_side(args, start, data):
    output = args.work / "puna"
    shutil.rmtree(output, ignore_errors=True)
    sections = train_puna.recipe(start, data, output, args, validation=args.validation or data)
    return train_puna.train(args.puna, sections, args.threads), final_folder(output)


def train_peer_side(args, start, tokens, learning_rates):
    model = load_model(start)

    def report(step):
        if step["step"] % 50 == 0:
            print(f"PyTorch: step {step['step']}, loss {step['loss']:.4f}", file=sys.stderr, flush=True)

    steps = train(model, tokens, args, learning_rates, report)
    model.save_pretrained(args.work / "torch")
    return model, [step["loss"] for step in steps]


def write_losses(path, ours, theirs, learning_rates):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "lr", "puna", "torch"])
        writer.writerows(zip(range(len(ours)), learning_rates, ours, theirs))


def compare_curves(ours, theirs):
    apart = [abs(a - b) / b for a, b in zip(ours, theirs)]
    last = max(1, len(apart) // 10)
    means = [sum(side[-last:]) / last for side in (ours, theirs)]
    print(f"training loss: {max(apart[:10]):.1e} apart at most in the first 10 steps, {max(apart):.1e} in all; "
          f"mean of the last {last}: puna {means[0]:.4f}, PyTorch {means[1]:.4f}")


def check(name, passed, text):
    print(f"{'ok    ' if passed else 'FAILED'} {name}: {text}", flush=True)
    return passed


def check_losses(args, ours, folder, peer, validation):
    loaded = load_model(folder)
    finite = bool(torch.isfinite(loaded(validation[None, : args.length]).logits).all())
    passed = [check("transformers loads puna's folder", finite, "finite logits" if finite else "not all logits are finite")]
    found, theirs = (validation_loss(model, validation, args.length) for model in (loaded, peer))
    apart = (found - theirs) / theirs
    said = f"puna {found:.5f}, PyTorch {theirs:.5f}, {100 * apart:+.3f} %"
    passed.append(check("validation loss", abs(apart) <= LOSS_TOLERANCE, said))
    reported = reported_validation_loss(ours["lines"])
    close = reported is not None and abs(reported - found) <= REPORT_TOLERANCE
    said = "no validation_loss in metrics.jsonl" if reported is None else f"puna {reported:.6f}, transformers {found:.6f}"
    passed.append(check("puna's report of it", close, said))
    return all(passed)


def check_llama_cpp(args, folder):
    if not args.llama_python:
        return True
    path = args.work / "puna.gguf"
    commands = [
        [args.puna, "convert", "-m", folder, "--to", "gguf", "--out", path, "--force"],
        [args.llama_python, "-c", CONTINUE, path, args.prompt],
    ]
    for command in commands:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            return check("llama.cpp", False, done.stderr.strip()[-500:])
    said = json.loads(done.stdout)
    text = json.dumps(args.prompt + said["text"], ensure_ascii=False)
    return check("llama.cpp", said["tokens"] > 0, f"{said['tokens']} tokens: {text}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puna", required=True, help="the program")
    parser.add_argument("--model", type=pathlib.Path, required=True, metavar="DIR",
                        help="Hugging Face folder: shape and tokenizer")
    parser.add_argument("--work", type=pathlib.Path, required=True, metavar="DIR", help="for tokens, models and losses")
    train_puna.text_options(parser)
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="prepared tokens, in place of texts")
    parser.add_argument("--validation", type=pathlib.Path, metavar="DIR",
                        help="prepared tokens whose validation split is taken instead")
    parser.add_argument("--prepare-options", default="", metavar="TEXT", help="more options for `puna data prepare`")
    optimization_options(parser)
    parser.set_defaults(steps=500, warmup=50)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--compile", action="store_true", help="compile PyTorch's model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--llama-python", metavar="PATH", help="a Python that has llama-cpp-python")
    parser.add_argument("--prompt", default="The compiler", help="that llama.cpp continues")
    args = parser.parse_args()
    args.micro_batch = args.micro_batch or args.batch
    return args


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    start = random_start(args.model, args.work / "start", args.seed)
    data = args.data or train_puna.prepare(
        args.puna, train_puna.texts(args), args.work / "data", start, *args.prepare_options.split())
    tokens = load_tokens(train_puna.shards(data))
    validation = load_tokens(train_puna.shards(args.validation or data, "validation"))
    print(f"{len(tokens):,} tokens to train on, {len(validation):,} to validate; "
          f"{args.steps} steps of {args.batch} × {args.length}")
    ours, folder = train_puna_side(args, start, data)
    rates = ours["learning_rates"]
    formula = max(abs(lr - learning_rate(args, step)) for step, lr in enumerate(rates))
    print(f"learning rates: at most {formula:.1e} from linear warm-up and cosine, peak {args.lr:g}")
    peer, theirs = train_peer_side(args, start, tokens, rates)
    write_losses(args.work / "losses.csv", ours["losses"], theirs, rates)
    compare_curves(ours["losses"], theirs)
    passed = check_losses(args, ours, folder, peer, validation)
    sys.exit(0 if check_llama_cpp(args, folder) and passed else 1)


if __name__ == "__main__":
    main()
