//! Schemas of requests.

use serde_json::{Map, Value, json};

use super::Answers;

/// An endpoint with a body.
pub(super) struct Request {
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    pub(super) answers: Answers,
    pub(super) response: &'static str,
    pub(super) schema: Value,
    pub(super) example: Value,
}

type Field = (&'static str, Value, &'static str);

fn schema(required: &[&str], groups: &[Vec<Field>]) -> Value {
    let mut properties = Map::new();
    for (name, schema, description) in groups.iter().flatten() {
        // `null` is as good as absent.
        let mut schema = match required.contains(name) {
            true => schema.clone(),
            false => json!({ "anyOf": [schema, { "type": "null" }] }),
        };
        if !description.is_empty() {
            schema["description"] = json!(description);
        }
        properties.insert((*name).to_owned(), schema);
    }
    json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": false,
    })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn switch() -> Value {
    json!({ "type": "boolean" })
}

fn count(least: u64, most: Option<u64>) -> Value {
    match most {
        Some(most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        None => json!({ "type": "integer", "minimum": least }),
    }
}

fn number(least: f64, most: f64) -> Value {
    json!({ "type": "number", "minimum": least, "maximum": most })
}

fn above_zero(most: f64) -> Value {
    json!({ "type": "number", "exclusiveMinimum": 0, "maximum": most })
}

fn any_object() -> Value {
    json!({ "type": "object" })
}

fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

fn texts() -> Value {
    json!({ "anyOf": [{ "type": "string", "minLength": 1 },
        { "type": "array", "items": { "type": "string", "minLength": 1 }, "maxItems": 16 }] })
}

fn model() -> Field {
    ("model", text(), "A name from /v1/models; the first model where it is absent.")
}

fn delivery() -> Vec<Field> {
    vec![
        ("stream", switch(), "Server-sent events instead of one answer."),
        (
            "stream_options",
            json!({ "type": "object", "properties": { "include_usage": switch() },
                "additionalProperties": false }),
            "include_usage: a last event with the numbers of tokens.",
        ),
    ]
}

/// What chooses tokens: the names of OpenAI, vLLM and llama.cpp.
fn sampling() -> Vec<Field> {
    vec![
        ("temperature", number(0.0, 2.0), "0 takes the most probable token."),
        ("top_p", above_zero(1.0), ""),
        ("top_k", count(0, None), "0 and -1 are off."),
        ("min_p", number(0.0, 1.0), ""),
        ("typical_p", above_zero(1.0), ""),
        ("seed", json!({ "type": "integer" }), "Choice i of a prompt uses seed + i."),
        ("presence_penalty", number(-2.0, 2.0), ""),
        ("frequency_penalty", number(-2.0, 2.0), ""),
        ("repetition_penalty", above_zero(10.0), ""),
        ("logit_bias", any_object(), "Token ids to -100…100; -100 forbids the token."),
    ]
}

fn choices() -> Vec<Field> {
    vec![
        ("n", count(1, Some(64)), "Answers to each prompt."),
        ("stop", texts(), "Ends the answer; not part of it."),
        ("ignore_eos", switch(), "Answers end by their length only."),
        ("user", text(), "Users of one key or address share the model equally."),
    ]
}

fn grammars() -> Vec<Field> {
    vec![
        ("response_format", any_object(), "text, json_object, or json_schema with a schema."),
        ("json_schema", any_object(), "The answer fits this schema."),
        ("guided_json", any_object(), "The same."),
        ("regex", text(), "The answer matches as a whole."),
        ("guided_regex", text(), "The same."),
        ("grammar", text(), "GBNF (with ::=) or Lark."),
        ("guided_grammar", text(), "The same."),
        ("guided_choice", list(text()), "The answer is one of these."),
    ]
}

fn messages() -> Field {
    (
        "messages",
        json!({ "type": "array", "minItems": 1, "items": any_object() }),
        "The conversation.",
    )
}

fn prompt_schema() -> Value {
    json!({ "anyOf": [text(), list(text()), list(count(0, None)), list(list(count(0, None)))] })
}

/// All of them.
pub(super) fn all() -> Vec<Request> {
    let mut all = openai();
    all.extend(others());
    all.extend(ollama());
    all
}

fn openai() -> Vec<Request> {
    let chat = vec![
        model(),
        messages(),
        ("max_completion_tokens", count(1, None), "New tokens; all that fit where it is absent."),
        ("max_tokens", count(1, None), "The older name."),
        ("logprobs", switch(), ""),
        ("top_logprobs", count(0, Some(20)), ""),
        ("tools", list(any_object()), "Functions, for models whose template has tools."),
        ("tool_choice", json!({ "type": ["string", "object"] }), "none, auto, required or one."),
        ("parallel_tool_calls", switch(), ""),
        ("chat_template_kwargs", any_object(), "Further variables of the template."),
        ("add_generation_prompt", switch(), "Whether the assistant's turn is begun."),
    ];
    let completion = vec![
        model(),
        ("prompt", prompt_schema(), "Text, token ids, or a list of either."),
        ("max_tokens", count(0, None), "New tokens; 16 where it is absent."),
        ("logprobs", count(0, Some(20)), "Alternatives of each token."),
        ("echo", switch(), "The prompt, with its log-probabilities, before the text."),
    ];
    let responses = vec![
        model(),
        ("input", json!({ "anyOf": [text(), list(any_object())] }), "Text, or items."),
        ("instructions", text(), "A system message."),
        ("max_output_tokens", count(1, None), ""),
        ("stream", switch(), ""),
        ("text", any_object(), "format: text, json_object or json_schema."),
        ("tools", list(any_object()), ""),
        ("tool_choice", json!({ "type": ["string", "object"] }), ""),
        ("parallel_tool_calls", switch(), ""),
        ("metadata", any_object(), "Repeated in the answer."),
        ("user", text(), ""),
    ];
    let embeddings = vec![
        model(),
        ("input", prompt_schema(), "Text, token ids, or a list of either."),
        ("encoding_format", json!({ "enum": ["float", "base64"] }), ""),
        ("dimensions", count(1, None), "The model's own number only."),
        ("user", text(), ""),
    ];
    let hello = json!([{ "role": "user", "content": "What is a vector?" }]);
    vec![
        Request {
            path: "/v1/chat/completions",
            summary: "Answer a conversation",
            answers: Answers::JsonOrEvents,
            response: "ChatCompletion",
            schema: schema(&["messages"], &[chat, delivery(), choices(), sampling(), grammars()]),
            example: json!({ "messages": hello, "max_tokens": 64 }),
        },
        Request {
            path: "/v1/completions",
            summary: "Continue a text",
            answers: Answers::JsonOrEvents,
            response: "Completion",
            schema: schema(
                &["prompt"],
                &[completion, delivery(), choices(), sampling(), grammars()],
            ),
            example: json!({ "prompt": "A vector is", "max_tokens": 32, "temperature": 0 }),
        },
        Request {
            path: "/v1/responses",
            summary: "Answer an input; nothing is stored",
            answers: Answers::JsonOrEvents,
            response: "Response",
            schema: schema(&["input"], &[responses, sampling()]),
            example: json!({ "input": "What is a vector?", "max_output_tokens": 64 }),
        },
        Request {
            path: "/v1/embeddings",
            summary: "Vectors of texts",
            answers: Answers::Json,
            response: "Embeddings",
            schema: schema(&["input"], &[embeddings]),
            example: json!({ "input": ["A llama", "An alpaca"] }),
        },
    ]
}

fn others() -> Vec<Request> {
    let hello = json!([{ "role": "user", "content": "What is a vector?" }]);
    let conversation = || {
        vec![
            model(),
            messages(),
            ("system", json!({ "anyOf": [text(), list(any_object())] }), ""),
            ("tools", list(any_object()), ""),
            ("tool_choice", any_object(), ""),
        ]
    };
    let answer = vec![
        ("max_tokens", count(1, None), "New tokens."),
        ("stream", switch(), ""),
        ("stop_sequences", list(json!({ "type": "string", "minLength": 1 })), ""),
        ("metadata", any_object(), "user_id: users share the model equally."),
    ];
    let tokenize = vec![
        model(),
        ("content", text(), "llama.cpp's name."),
        ("prompt", text(), "vLLM's name."),
        ("messages", list(any_object()), "A conversation instead."),
        ("add_special_tokens", switch(), ""),
        ("add_special", switch(), ""),
        ("with_pieces", switch(), ""),
        ("return_token_strs", switch(), ""),
    ];
    let detokenize = vec![model(), ("tokens", list(count(0, None)), "")];
    let feedback = vec![
        ("messages", list(any_object()), "What the answer answered."),
        ("answer", text(), ""),
        ("rating", json!({ "enum": ["up", "down"] }), ""),
        ("model", text(), "Recorded with it."),
        ("conversation", text(), "Recorded with it."),
    ];
    vec![
        Request {
            path: "/v1/messages",
            summary: "Anthropic: answer a conversation",
            answers: Answers::JsonOrEvents,
            response: "AnthropicMessage",
            schema: schema(&["messages", "max_tokens"], &[conversation(), answer, sampling()]),
            example: json!({ "messages": hello, "max_tokens": 64 }),
        },
        Request {
            path: "/v1/messages/count_tokens",
            summary: "Anthropic: count a conversation's tokens",
            answers: Answers::Json,
            response: "TokenCount",
            schema: schema(&["messages"], &[conversation()]),
            example: json!({ "messages": hello }),
        },
        Request {
            path: "/tokenize",
            summary: "Text to token ids",
            answers: Answers::Json,
            response: "Tokens",
            schema: schema(&[], &[tokenize]),
            example: json!({ "content": "A llama" }),
        },
        Request {
            path: "/detokenize",
            summary: "Token ids to text",
            answers: Answers::Json,
            response: "Text",
            schema: schema(&["tokens"], &[detokenize]),
            example: json!({ "tokens": [0, 10, 20] }),
        },
        Request {
            path: "/v1/feedback",
            summary: "Store a rating of an answer",
            answers: Answers::Json,
            response: "Stored",
            schema: schema(&["messages", "answer", "rating"], &[feedback]),
            example: json!({ "messages": hello, "answer": "Hello!", "rating": "up" }),
        },
    ]
}

fn ollama() -> Vec<Request> {
    let common = || {
        vec![
            model(),
            ("stream", switch(), "Lines of JSON; on where it is absent."),
            ("options", any_object(), "temperature, top_k, num_predict, seed, stop and so on."),
            ("format", json!({ "type": ["string", "object"] }), "json, or a schema."),
            ("keep_alive", json!({ "type": ["string", "number"] }), "Seconds, or 5m; 0 unloads."),
            ("logprobs", switch(), ""),
            ("top_logprobs", count(0, Some(20)), ""),
        ]
    };
    let chat = vec![
        ("messages", list(any_object()), "The conversation; none only loads the model."),
        ("tools", list(any_object()), ""),
    ];
    let generate = vec![
        ("prompt", text(), "None only loads the model."),
        ("system", text(), ""),
        ("raw", switch(), "Without the model's template."),
    ];
    let keep_alive = || ("keep_alive", json!({ "type": ["string", "number"] }), "");
    let embed = vec![model(), ("input", prompt_schema(), ""), keep_alive()];
    let embedding = vec![model(), ("prompt", text(), ""), keep_alive()];
    let show = vec![model(), ("name", text(), "The older name."), ("verbose", switch(), "")];
    let request = |path, summary, answers, response, schema, example| Request {
        path,
        summary,
        answers,
        response,
        schema,
        example,
    };
    let hello = json!([{ "role": "user", "content": "What is a vector?" }]);
    vec![
        request(
            "/api/chat",
            "Ollama: answer a conversation",
            Answers::JsonOrLines,
            "OllamaAnswer",
            schema(&[], &[common(), chat]),
            json!({ "messages": hello, "options": { "num_predict": 64 } }),
        ),
        request(
            "/api/generate",
            "Ollama: continue a prompt",
            Answers::JsonOrLines,
            "OllamaAnswer",
            schema(&[], &[common(), generate]),
            json!({ "prompt": "What is a vector?", "options": { "num_predict": 64 } }),
        ),
        request(
            "/api/embed",
            "Ollama: vectors of texts",
            Answers::Json,
            "OllamaEmbeddings",
            schema(&["input"], &[embed]),
            json!({ "input": ["A llama", "An alpaca"] }),
        ),
        request(
            "/api/embeddings",
            "Ollama: the vector of a text",
            Answers::Json,
            "OllamaEmbedding",
            schema(&["prompt"], &[embedding]),
            json!({ "prompt": "A llama" }),
        ),
        request(
            "/api/show",
            "Ollama: what a model is",
            Answers::Json,
            "OllamaShow",
            schema(&[], &[show]),
            json!({}),
        ),
    ]
}
