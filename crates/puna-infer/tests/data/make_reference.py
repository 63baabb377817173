"""Makes beams.json and warpers.json with transformers, float32, on CPU.

    python make_reference.py GOLDEN_CASES    # the folder that holds text/llama2-gqa

Needs torch, transformers and safetensors.
"""

import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.generation import logits_process as lp

torch.manual_seed(0)


def beams(cases):
    folder = f"{cases}/text/llama2-gqa"
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    golden = load_file(f"{folder}/golden.safetensors")
    prompts = [golden["input_ids_0"], golden["input_ids_1"]]
    # Tokens that the searches meet, so that sequences end early.
    often = golden["greedy_0"].tolist()[5], golden["greedy_1"].tolist()[7]
    out = []
    for prompt_index, prompt in enumerate(prompts):
        for num_beams, length_penalty, early, eos, extra in [
            (2, 1.0, False, [2], {}),
            (4, 1.0, False, list(often), {}),
            (4, 0.0, True, list(often), {}),
            (3, 2.0, "never", [often[0]], {}),
            (5, -1.0, False, [2, *often], {}),
            (4, 1.0, False, [2], {"repetition_penalty": 1.3}),
            (4, 1.0, True, [2], {"no_repeat_ngram_size": 2}),
            # Frequent ends: every 7th token id.
            (4, 1.0, False, list(range(2, model.config.vocab_size, 7)), {}),
            (4, 1.5, "never", list(range(3, model.config.vocab_size, 7)), {}),
            (3, 0.5, True, list(range(4, model.config.vocab_size, 9)), {}),
        ]:
            result = model.generate(
                prompt[None],
                attention_mask=torch.ones_like(prompt[None]),
                do_sample=False,
                num_beams=num_beams,
                num_return_sequences=num_beams,
                length_penalty=length_penalty,
                early_stopping=early,
                eos_token_id=eos,
                pad_token_id=0,
                max_new_tokens=16,
                output_scores=True,
                return_dict_in_generate=True,
                **extra,
            )
            sequences = []
            for row in result.sequences[:, len(prompt):].tolist():
                end = next((i + 1 for i, t in enumerate(row) if t in eos), len(row))
                sequences.append(row[:end])
            out.append(
                {
                    "prompt": prompt_index,
                    "num_beams": num_beams,
                    "length_penalty": length_penalty,
                    "early_stopping": early,
                    "eos": eos,
                    **extra,
                    "max_new_tokens": 16,
                    "sequences": sequences,
                    "scores": result.sequences_scores.tolist(),
                }
            )
    return out


def warpers():
    out = []
    for case in range(60):
        vocab = 24
        scores = (torch.randn(1, vocab) * 3).round(decimals=3)
        history = torch.randint(0, vocab, (1, 12))
        steps = [
            ("repetition_penalty", 1.0 + 0.1 * (case % 5), lp.RepetitionPenaltyLogitsProcessor),
            ("no_repeat_ngram_size", [0, 1, 2, 3][case % 4], lp.NoRepeatNGramLogitsProcessor),
            ("temperature", [1.0, 0.7, 1.5][case % 3], lp.TemperatureLogitsWarper),
            ("top_k", [0, 3, 9, 15][case // 4 % 4], lp.TopKLogitsWarper),
            ("top_p", [1.0, 0.9, 0.5][case // 2 % 3], lp.TopPLogitsWarper),
            ("min_p", [0.0, 0.05, 0.3][case // 5 % 3], lp.MinPLogitsWarper),
            ("typical_p", [1.0, 0.9, 0.4][case // 7 % 3], lp.TypicalLogitsWarper),
        ]
        off = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "temperature": 1.0, "top_k": 0,
               "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
        entry = {"logits": scores[0].tolist(), "history": history[0].tolist()}
        for name, value, warper in steps:
            if value != off[name]:
                entry[name] = value
                scores = warper(value)(history, scores.clone())
        entry["probs"] = [round(p, 7) for p in torch.softmax(scores, -1)[0].tolist()]
        out.append(entry)
    return out


def write(name, entries):
    with open(name, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")


if __name__ == "__main__":
    write("beams.json", beams(sys.argv[1]))
    write("warpers.json", warpers())
