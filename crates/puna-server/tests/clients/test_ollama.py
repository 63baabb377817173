"""Ollama's Python package against a puna server (PUNA_URL)."""

import os
import unittest

import ollama

CLIENT = ollama.Client(host=os.environ["PUNA_URL"])
MODEL = "puna-mini"
HELLO = [{"role": "user", "content": "What is a vector?"}]
OPTIONS = {"num_predict": 12, "temperature": 0}


class Ollama(unittest.TestCase):
    def test_chat_streams_what_it_says(self):
        whole = CLIENT.chat(model=MODEL, messages=HELLO, options=OPTIONS)
        parts = list(CLIENT.chat(model=MODEL, messages=HELLO, options=OPTIONS, stream=True))
        self.assertEqual("".join(p.message.content for p in parts), whole.message.content)
        self.assertEqual(parts[-1].eval_count, 12)
        self.assertGreater(whole.total_duration, 0)

    def test_generate_with_a_schema(self):
        schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
                  "additionalProperties": False}
        answer = CLIENT.generate(model=MODEL, prompt="Say", format=schema,
                                 options={"num_predict": 100, "seed": 1})
        self.assertIn(answer.response.replace(" ", ""), ['{"a":true}', '{"a":false}'])

    def test_lists(self):
        self.assertEqual([model.model for model in CLIENT.list().models], [MODEL])
        self.assertEqual(CLIENT.ps().models[0].model, MODEL)
        self.assertIn("tools", CLIENT.show(MODEL).capabilities)

    def test_embeddings(self):
        vectors = CLIENT.embed(model=MODEL, input=["A llama", "The string"]).embeddings
        self.assertEqual((len(vectors), len(vectors[0])), (2, 192))

    def test_errors(self):
        with self.assertRaises(ollama.ResponseError) as raised:
            CLIENT.chat(model="none", messages=HELLO)
        self.assertEqual(raised.exception.status_code, 404)
        self.assertIn("none", raised.exception.error)


if __name__ == "__main__":
    unittest.main()
