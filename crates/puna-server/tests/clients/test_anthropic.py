"""Anthropic's Python package against a puna server (PUNA_URL)."""

import os
import unittest

import anthropic

CLIENT = anthropic.Anthropic(base_url=os.environ["PUNA_URL"], api_key="none", max_retries=0)
ASK = {"model": "puna-mini", "messages": [{"role": "user", "content": "What is a vector?"}]}
TOOL = {"name": "weather", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"], "additionalProperties": False}}


class Anthropic(unittest.TestCase):
    def test_streams_what_it_says(self):
        # Temperature is given through extra_body: newer versions of the package have dropped it.
        options = {**ASK, "max_tokens": 12, "extra_body": {"temperature": 0}}
        whole = CLIENT.messages.create(**options)
        with CLIENT.messages.stream(**options) as stream:
            text = "".join(stream.text_stream)
        self.assertEqual(text, whole.content[0].text)
        self.assertEqual((whole.stop_reason, whole.usage.output_tokens), ("max_tokens", 12))

    def test_tools(self):
        options = {**ASK, "max_tokens": 200, "tools": [TOOL], "extra_body": {"temperature": 0},
                   "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
        whole = CLIENT.messages.create(**options)
        self.assertEqual((whole.stop_reason, whole.content[-1].name), ("tool_use", "weather"))
        with CLIENT.messages.stream(**options) as stream:
            self.assertEqual(stream.get_final_message().content[-1].input, whole.content[-1].input)

    def test_counts_and_errors(self):
        self.assertGreater(CLIENT.messages.count_tokens(**ASK).input_tokens, 5)
        with self.assertRaises(anthropic.NotFoundError):
            CLIENT.messages.create(**{**ASK, "model": "none"}, max_tokens=1)


if __name__ == "__main__":
    unittest.main()
