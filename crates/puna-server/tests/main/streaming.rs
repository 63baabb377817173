//! Streams say what whole answers say.

use crate::running::{HERMES, MODEL, Running, chat, config, greedy, spec};
use serde_json::{Value, json};

fn streamed(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body
}

#[test]
fn chats_streamed_are_the_whole_answer_in_pieces() {
    let server = Running::start();
    for body in [
        chat("A vector is", 30),
        json!({
            "messages": [{ "role": "user", "content": "The" }], "max_tokens": 30, "temperature": 1.3,
            "seed": 5, "n": 2, "logprobs": true, "top_logprobs": 2, "stop": [" the", "\n"],
        }),
    ] {
        let whole = server.post("/v1/chat/completions", &body).ok();
        let mut body = streamed(body);
        body["stream_options"] = json!({ "include_usage": true });
        let answer = server.post("/v1/chat/completions", &body);
        assert!(answer.text().ends_with("data: [DONE]\n\n"));
        let events = answer.events();
        let choices = whole["choices"].as_array().unwrap();
        for (index, choice) in choices.iter().enumerate() {
            let of_choice = events.iter().flat_map(|event| event["choices"].as_array().unwrap());
            let of_choice: Vec<&Value> = of_choice.filter(|c| c["index"] == index).collect();
            assert_eq!(of_choice[0]["delta"]["role"], "assistant");
            let text: String =
                of_choice.iter().filter_map(|c| c["delta"]["content"].as_str()).collect();
            assert_eq!(text, choice["message"]["content"].as_str().unwrap());
            let scored: Vec<Value> = of_choice
                .iter()
                .filter_map(|c| c["logprobs"]["content"].as_array().cloned())
                .flatten()
                .collect();
            let expected = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
            assert_eq!(scored, expected);
            let last = of_choice.last().unwrap();
            assert_eq!(last["finish_reason"], choice["finish_reason"]);
        }
        let usage = events.last().unwrap();
        assert_eq!(usage["choices"], json!([]));
        for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(usage["usage"][count], whole["usage"][count], "{count}");
        }
    }
}

#[test]
fn completions_streamed_are_the_whole_answer_in_pieces() {
    let server = Running::start();
    let mut body = greedy("A vector is", 20);
    body["prompt"] = json!(["A vector is", "The string"]);
    body["logprobs"] = json!(2);
    for echo in [false, true] {
        body["echo"] = json!(echo);
        let whole = server.post("/v1/completions", &body).ok();
        let events = server.post("/v1/completions", &streamed(body.clone())).events();
        for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
            let parts = events.iter().map(|event| &event["choices"][0]);
            let parts: Vec<&Value> = parts.filter(|part| part["index"] == index).collect();
            let text: String = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            assert_eq!(text, choice["text"].as_str().unwrap());
            for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                let joined: Vec<Value> = parts
                    .iter()
                    .filter_map(|part| part["logprobs"][list].as_array().cloned())
                    .flatten()
                    .collect();
                assert_eq!(json!(joined), choice["logprobs"][list], "{list}");
            }
        }
    }
}

#[test]
fn characters_are_never_cut() {
    let server = Running::start();
    let mut body = chat("Emoji: 😀😀😀 日本語 naïve", 40);
    body["temperature"] = json!(2.0);
    body["seed"] = json!(3);
    let whole = server.post("/v1/chat/completions", &body).ok();
    let events = server.post("/v1/chat/completions", &streamed(body)).events();
    let text: String =
        events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"].as_str().unwrap());
}

#[test]
fn streamed_arguments_of_calls_join_to_valid_json() {
    let server = Running::with(config(), vec![spec(MODEL, Some(HERMES))]);
    let body = json!({
        "messages": [{ "role": "user", "content": "Weather?" }], "temperature": 1.0, "seed": 11,
        "max_tokens": 400, "tool_choice": "required", "parallel_tool_calls": false,
        "tools": [{ "type": "function", "function": {
            "name": "weather",
            "parameters": {
                "type": "object", "properties": {
                    "city": { "type": "string", "maxLength": 12 }, "days": { "type": "integer",
                    "minimum": 0, "maximum": 9 }, "exact": { "type": "boolean" },
                },
                "required": ["city", "days", "exact"], "additionalProperties": false,
            },
        } }],
    });
    let whole = server.post("/v1/chat/completions", &body).ok();
    let call = &whole["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls", "{whole}");
    assert_eq!(call["function"]["name"], "weather");
    let arguments = call["function"]["arguments"].as_str().unwrap();
    let value: Value = serde_json::from_str(arguments).unwrap();
    assert!(value["city"].is_string() && value["days"].is_u64() && value["exact"].is_boolean());
    let events = server.post("/v1/chat/completions", &streamed(body)).events();
    let deltas: Vec<&Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["tool_calls"][0].as_object())
        .map(|call| &call["function"])
        .collect();
    assert_eq!(deltas[0]["name"], "weather");
    let joined: String = deltas.iter().filter_map(|d| d["arguments"].as_str()).collect();
    assert_eq!(joined, arguments);
    let last = &events.last().unwrap()["choices"][0];
    assert_eq!(last["finish_reason"], "tool_calls");
}
