"""lm-eval's own local-completions backend against a puna server (PUNA_URL).

Its API classes need neither torch nor data sets; the tokenizer is the model's (PUNA_TOKENIZER).
"""

import os
import unittest

import requests
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

URL = os.environ["PUNA_URL"] + "/v1/completions"
PAIRS = [("A vector is", " a list of numbers"), ("The string", " is not valid UTF-8"),
         ("Returns", " the number of elements"), ("Returns", " zebra quantum jelly")]


def instance(kind, arguments, index=0):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=index)


class LmEval(unittest.TestCase):
    def backend(self, **options):
        return LocalCompletionsAPI(model="puna-mini", base_url=URL, tokenizer=os.environ["PUNA_TOKENIZER"],
                                   tokenizer_backend="huggingface", **options)

    def test_loglikelihoods_are_those_of_the_prompt(self):
        backend = self.backend(batch_size=2)
        found = backend.loglikelihood([instance("loglikelihood", pair, i) for i, pair in enumerate(PAIRS)])
        for (context, continuation), (total, greedy) in zip(PAIRS, found, strict=True):
            ids, more = backend._encode_pair(context, continuation)
            answer = requests.post(URL, json={"prompt": [ids + more], "max_tokens": 0, "echo": True,
                                              "logprobs": 1}, timeout=60).json()
            lists = answer["choices"][0]["logprobs"]
            own = sum(lists["token_logprobs"][-len(more):])
            self.assertAlmostEqual(total, own, places=4)
            best = [max(top, key=top.get) for top in lists["top_logprobs"][-len(more):]]
            self.assertEqual(greedy, best == lists["tokens"][-len(more):])
        self.assertGreater(found[2][0], found[3][0])

    def test_several_at_once_and_rolling(self):
        backend = self.backend(num_concurrent=4, max_length=64)
        text = " ".join(continuation for _, continuation in PAIRS) * 8
        rolling = backend.loglikelihood_rolling([instance("loglikelihood_rolling", (text,))])
        self.assertLess(rolling[0], 0)

    def test_generates_until_a_stop(self):
        request = instance("generate_until", ("A vector is", {"until": ["."], "max_gen_toks": 24}))
        answer = self.backend().generate_until([request])[0]
        self.assertNotIn(".", answer)


if __name__ == "__main__":
    unittest.main()
