"""The shapes that the training benchmark runs, made from random numbers.

    python train_shapes.py --shape 15M --out DIR [--seed 1] [--random-tokens 500000]

The folder holds config.json and model.safetensors (float32, as transformers initializes), and the
synthetic tokenizer of make_model.py. With --random-tokens it also gets tokens.safetensors, which is
enough to time PyTorch alone.
"""

import argparse
import json
import pathlib

from make_model import tokenizer

# 15M and 110M are stories15M and stories110M of llama2.c. `micro_batch`: rows that puna passes through the
# model at a time; PyTorch, which is faster with more, takes all.
SHAPES = {
    "3M": dict(vocab=4096, hidden=192, layers=5, heads=6, ffn=512, batch=16),
    "15M": dict(vocab=32000, hidden=288, layers=6, heads=6, ffn=768, batch=16),
    "110M": dict(vocab=32000, hidden=768, layers=12, heads=12, ffn=2048, batch=4, micro_batch=2),
    "370M": dict(vocab=32000, hidden=1024, layers=24, heads=16, ffn=2816, batch=8),
}


def matmul_parameters(shape):
    """Entries of all matrices that are multiplied; the tied embedding counts once, as the head."""
    hidden = shape["hidden"]
    block = 4 * hidden * hidden + 3 * hidden * shape["ffn"]
    return shape["layers"] * block + shape["vocab"] * hidden


def flops_per_token(shape, length):
    """Forward and backward: 6 per entry of a matrix, and 12 L T hidden / 2 for causal attention."""
    return 6 * matmul_parameters(shape) + 6 * shape["layers"] * length * shape["hidden"]


def write_model(folder, shape, seed):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape["vocab"], hidden_size=shape["hidden"], intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
        num_key_value_heads=shape["heads"], max_position_embeddings=1024, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def write_tokenizer(folder, vocab):
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(vocab)))
    special = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", tokenizer_class="PreTrainedTokenizerFast")
    (folder / "tokenizer_config.json").write_text(json.dumps(special))


def write_random_tokens(path, vocab, count, seed):
    import numpy as np
    from safetensors.numpy import save_file

    # As uneven as words are: a small part of the vocabulary makes up most of the text.
    ids = vocab * np.random.default_rng(seed).random(count) ** 3
    save_file({"tokens": ids.astype(np.uint16)}, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random-tokens", type=int, metavar="N", help="also write N random tokens")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    args.out.mkdir(parents=True, exist_ok=True)
    if args.random_tokens:
        write_random_tokens(args.out / "tokens.safetensors", shape["vocab"], args.random_tokens, args.seed)
    write_tokenizer(args.out, shape["vocab"])
    print(f"{args.out}: {write_model(args.out, shape, args.seed):,} parameters")


if __name__ == "__main__":
    main()
