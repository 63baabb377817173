"""Loads adapters that puna has trained in peft and compares the logits of both.

    DIR/venv/bin/pip install peft
    DIR/venv/bin/python check_adapters.py --puna PATH --model HF_FOLDER RUN/adapter... [--tokens 40]

Float32 on both sides, random token ids. Exit code 1 if a logit differs by more than 1e-3, or an adapter in peft's
layout does not load. Adapters in other layouts (AdapterHub's, BitFit's) are listed and passed over.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-3


def ours(puna, model, adapter, ids, work):
    out = work / "logits.safetensors"
    command = [puna, "score", "-m", model, "--adapter", adapter, "--exact", "--token-ids", ",".join(map(str, ids)),
               "--logits-out", out]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return load_file(out)["logits"]


@torch.no_grad()
def theirs(model, adapter, ids):
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    adapted = PeftModel.from_pretrained(base, str(adapter)).eval()
    return adapted(input_ids=torch.tensor([ids])).logits[0].float().numpy()[-len(ids):]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="+", type=pathlib.Path)
    parser.add_argument("--puna", required=True, help="the program")
    parser.add_argument("--model", required=True, type=pathlib.Path, help="Hugging Face folder of the base")
    parser.add_argument("--tokens", type=int, default=40)
    args = parser.parse_args()
    vocab = json.loads((args.model / "config.json").read_text())["vocab_size"]
    ids = np.random.default_rng(7).integers(3, vocab, args.tokens).tolist()
    bad = 0
    with tempfile.TemporaryDirectory() as work:
        for adapter in args.adapters:
            path = adapter / "adapter_config.json"
            config = json.loads(path.read_text()) if path.exists() else {}
            name = adapter.parent.name
            if "peft_type" not in config:
                print(f"{name:20} not in peft's layout")
                continue
            try:
                there = theirs(args.model, adapter, ids)
                here = ours(args.puna, args.model, adapter, ids, pathlib.Path(work))
            except Exception as error:  # what peft says goes into the table
                bad += 1
                print(f"{name:20} {config['peft_type']:14} {type(error).__name__}: {str(error)[:160]}")
                continue
            worst = float(np.abs(here - there).max())
            bad += worst > TOLERANCE
            print(f"{name:20} {config['peft_type']:14} largest difference {worst:.2e}{'' if worst <= TOLERANCE else ' TOO LARGE'}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
