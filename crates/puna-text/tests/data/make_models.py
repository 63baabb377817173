"""Makes unigram.model, bpe.model and their references: python make_models.py (sentencepiece==0.2.3).

Small models with what the golden ones lack: Unigram, a character map, removed whitespace,
user-defined and control symbols, no dummy space, no byte fallback. The text is generated.
"""
import io
import json
import random
import tempfile
from pathlib import Path

import sentencepiece as spm

HERE = Path(__file__).resolve().parent
WORDS = "the a river stone house opens keeps slowly often small red window of and 12 7 café naïve 世界 né".split()
ODD = ["ﬁne", "Ａ１", "\u00ad", "<x>", "he", "▁▁", "</s>", "<s>", "<ctl>", "\n", "\n\n", "\t", "  ", " ", "😀", "Ω", "x", "é"]
RULES = {"ﬁ": "fi", "Ａ": "A", "１": "1", "\u00ad": "", "\t": " ", "é́": "é"}
MODELS = {
    "unigram": dict(model_type="unigram", vocab_size=150, user_defined_symbols=["<x>", "he", "▁▁"]),
    "bpe": dict(model_type="bpe", vocab_size=460, byte_fallback=True, remove_extra_whitespaces=False,
                add_dummy_prefix=False, normalization_rule_name="identity", control_symbols=["<ctl>"],
                user_defined_symbols=["he", "\n", "\n\n", "▁▁", "<x>"]),
}


def text(rng):
    return "".join(rng.choice(WORDS if rng.random() < 0.6 else ODD) + rng.choice(["", " ", " ", "  "])
                   for _ in range(rng.randrange(12)))


def main():
    rng = random.Random(1)
    sentences = [" ".join(rng.choice(WORDS) for _ in range(8)) for _ in range(500)]
    for name, options in MODELS.items():
        model = io.BytesIO()
        with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as rules:
            code = lambda s: " ".join(f"{ord(c):X}" for c in s)
            rules.write("".join(f"{code(a)}\t{code(b)}\n" for a, b in RULES.items()))
            rules.flush()
            if name == "unigram":
                options["normalization_rule_tsv"] = rules.name
            spm.SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_writer=model, minloglevel=2,
                                           hard_vocab_limit=False, character_coverage=1.0, **options)
        (HERE / f"{name}.model").write_bytes(model.getvalue())
        sp = spm.SentencePieceProcessor(model_proto=model.getvalue())
        texts = ["", " ", "\u00ad"] + [text(rng) for _ in range(120)]
        ids = [[rng.randrange(sp.get_piece_size()) for _ in range(rng.randrange(1, 9))] for _ in range(60)]
        rows = [{"text": t, "ids": sp.encode(t)} for t in texts] + [{"ids": i, "decoded": sp.decode(i)} for i in ids]
        with open(HERE / f"{name}.jsonl", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


main()
