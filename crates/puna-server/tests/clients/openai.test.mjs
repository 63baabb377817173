// OpenAI's Node package against a puna server (PUNA_URL).
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.PUNA_URL}/v1`, apiKey: "none", maxRetries: 0 });
const ask = {
  model: "puna-mini", messages: [{ role: "user", content: "What is a vector?" }],
  max_tokens: 16, temperature: 0,
};

test("a stream says what the whole answer says", async () => {
  const whole = await client.chat.completions.create(ask);
  let text = "";
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
  }
  assert.equal(text, whole.choices[0].message.content);
});

test("a stream can be given up and the server goes on", async () => {
  const stream = await client.chat.completions.create({ ...ask, max_tokens: 500, stream: true });
  for await (const _ of stream) break;
  assert.equal((await client.chat.completions.create(ask)).usage.completion_tokens, 16);
});

test("streamed calls of tools are put together", async () => {
  const tools = [{ type: "function", function: { name: "f", parameters: {
    type: "object", properties: { x: { enum: ["a", "b"] } }, required: ["x"], additionalProperties: false,
  } } }];
  const stream = client.chat.completions.stream({
    ...ask, max_tokens: 100, tools, tool_choice: "required", parallel_tool_calls: false,
  });
  const message = (await stream.finalChatCompletion()).choices[0].message;
  assert.ok(["a", "b"].includes(JSON.parse(message.tool_calls[0].function.arguments).x));
});

test("errors have their code", async () => {
  await assert.rejects(client.chat.completions.create({ ...ask, model: "none" }), { code: "model_not_found" });
});
