"""OpenAI's Python package against a puna server (PUNA_URL)."""

import json
import os
import unittest

import openai

CLIENT = openai.OpenAI(base_url=os.environ["PUNA_URL"] + "/v1", api_key="none", max_retries=0)
MODEL = "puna-mini"
HELLO = [{"role": "user", "content": "What is a vector?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 10},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


class OpenAi(unittest.TestCase):
    def chat(self, **options):
        options = {"messages": HELLO, "max_tokens": 16, "temperature": 0, **options}
        return CLIENT.chat.completions.create(model=MODEL, **options)

    def test_models(self):
        self.assertEqual([model.id for model in CLIENT.models.list()], [MODEL])
        self.assertEqual(CLIENT.models.retrieve(MODEL).owned_by, "puna")

    def test_streaming_equals_not_streaming(self):
        whole = self.chat(logprobs=True, top_logprobs=2)
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertEqual(len(whole.choices[0].logprobs.content), 16)

    def test_parsed_schemas(self):
        schema = {
            "type": "object",
            "properties": {"answer": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
            "required": ["answer", "sure"],
            "additionalProperties": False,
        }
        format = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
        answer = self.chat(response_format=format, max_tokens=100)
        value = json.loads(answer.choices[0].message.content)
        self.assertIn(value["answer"], ["yes", "no"])

    def test_tools(self):
        answer = self.chat(tools=[TOOL], tool_choice="required", max_tokens=200,
                           parallel_tool_calls=False)
        call = answer.choices[0].message.tool_calls[0]
        value = json.loads(call.function.arguments)
        self.assertTrue(1 <= value["days"] <= 7)
        joined = ""
        for chunk in self.chat(tools=[TOOL], tool_choice="required", max_tokens=200, stream=True,
                               parallel_tool_calls=False):
            for delta in chunk.choices[0].delta.tool_calls or []:
                joined += delta.function.arguments or ""
        self.assertEqual(json.loads(joined), value)
        # The result of a call goes back into the conversation.
        messages = HELLO + [
            answer.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "Rain."},
        ]
        self.assertTrue(self.chat(messages=messages, tools=[TOOL]).choices[0].message)

    def test_completions(self):
        answer = CLIENT.completions.create(
            model=MODEL, prompt=["A vector", "The"], max_tokens=4, temperature=0, echo=True, logprobs=1
        )
        self.assertTrue(answer.choices[1].text.startswith("The"))
        self.assertIsNone(answer.choices[0].logprobs.token_logprobs[0])

    def test_responses(self):
        answer = CLIENT.responses.create(model=MODEL, input="A vector is", max_output_tokens=8, temperature=0)
        text = ""
        for event in CLIENT.responses.create(
            model=MODEL, input="A vector is", max_output_tokens=8, temperature=0, stream=True
        ):
            if event.type == "response.output_text.delta":
                text += event.delta
        self.assertEqual(answer.output_text, text)
        self.assertEqual(answer.usage.output_tokens, 8)

    def test_embeddings(self):
        # The package asks for base64 unless told otherwise.
        packed = CLIENT.embeddings.create(model=MODEL, input="A llama").data[0].embedding
        plain = CLIENT.embeddings.create(model=MODEL, input="A llama", encoding_format="float")
        for a, b in zip(packed, plain.data[0].embedding, strict=True):
            self.assertAlmostEqual(a, b, places=5)

    def test_errors_are_the_package_s_own(self):
        with self.assertRaises(openai.NotFoundError) as raised:
            CLIENT.chat.completions.create(model="none", messages=HELLO)
        self.assertEqual(raised.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat(extra_body={"temprature": 1})
        self.assertEqual(raised.exception.param, "temprature")


if __name__ == "__main__":
    unittest.main()
