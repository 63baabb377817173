//! Ollama's and Anthropic's endpoints, and OpenAI's responses.

use crate::running::{HERMES, MODEL, Running, config, greedy, spec};
use serde_json::{Value, json};

fn ollama(prompt: &str, tokens: usize) -> Value {
    json!({
        "model": format!("{MODEL}:latest"), "prompt": prompt,
        "options": { "num_predict": tokens, "temperature": 0, "repeat_penalty": 1.0 },
    })
}

#[test]
fn ollama_continues_as_openai_does_with_its_counts() {
    let server = Running::start();
    let expected = server.post("/v1/completions", &greedy("A vector is", 12)).ok();
    let mut body = ollama("A vector is", 12);
    let lines = server.post("/api/generate", &body).lines();
    let text: String = lines.iter().filter_map(|line| line["response"].as_str()).collect();
    assert_eq!(text, expected["choices"][0]["text"].as_str().unwrap());
    let (last, others) = lines.split_last().unwrap();
    assert!(others.iter().all(|line| line["done"] == false) && last["done"] == true);
    assert_eq!(
        (last["eval_count"].as_u64(), last["done_reason"].as_str()),
        (Some(12), Some("length"))
    );
    for field in ["total_duration", "eval_duration", "prompt_eval_count", "prompt_eval_duration"] {
        assert!(last[field].as_u64().unwrap() > 0, "{field}");
    }
    body["stream"] = json!(false);
    assert_eq!(server.post("/api/generate", &body).ok()["response"], text);
    let chat = json!({
        "model": MODEL, "messages": [{ "role": "user", "content": "A vector is" }],
        "stream": false, "options": body["options"],
    });
    assert_eq!(server.post("/api/chat", &chat).ok()["message"]["content"], text);
}

#[test]
fn ollama_formats_and_options_work_or_are_refused() {
    let server = Running::start();
    let mut body = ollama("Say", 200);
    body["stream"] = json!(false);
    body["format"] = json!({
        "type": "object", "properties": { "a": { "type": "boolean" } }, "required": ["a"],
        "additionalProperties": false,
    });
    let text = server.post("/api/generate", &body).ok()["response"].as_str().unwrap().to_owned();
    assert!(serde_json::from_str::<Value>(&text).unwrap()["a"].is_boolean());
    for (name, value) in [
        ("num_gpu", json!(1)),
        ("num_ctx", json!(1_000_000)),
        ("mirostat", json!(1)),
        ("x", json!(1)),
    ] {
        let mut body = ollama("x", 1);
        body["options"][name] = value;
        let answer = server.post("/api/generate", &body);
        assert_eq!(answer.status, 400, "{name}");
        let message = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(message.contains(&format!("options.{name}")), "{message}");
    }
    let missing = server.post("/api/chat", &json!({ "model": "none", "messages": [] }));
    assert!(missing.status == 404 && missing.json()["error"].is_string());
}

#[test]
fn ollama_lists_loads_and_unloads() {
    let server = Running::start();
    assert_eq!(server.get("/api/tags").ok()["models"][0]["model"], MODEL);
    assert_eq!(server.get("/api/ps").ok()["models"].as_array().unwrap().len(), 1);
    assert!(server.get("/api/version").ok()["version"].is_string());
    let shown = server.post("/api/show", &json!({ "model": MODEL })).ok();
    assert_eq!(shown["model_info"]["llama.block_count"], 5);
    let gone = json!({ "model": MODEL, "keep_alive": 0 });
    assert_eq!(server.post("/api/generate", &gone).ok()["done_reason"], "unload");
    let empty = || server.get("/api/ps").ok()["models"].as_array().unwrap().is_empty();
    let unloaded = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        empty()
    });
    assert!(unloaded);
    server.post("/api/generate", &ollama("x", 1)).lines();
    assert!(!empty());
    let vectors = server.post("/api/embed", &json!({ "model": MODEL, "input": ["a", "b"] })).ok();
    assert_eq!(vectors["embeddings"].as_array().unwrap().len(), 2);
    let vector = server.post("/api/embeddings", &json!({ "model": MODEL, "prompt": "a" })).ok();
    assert_eq!(vector["embedding"], vectors["embeddings"][0]);
}

/// Names and data of server-sent events.
fn named(text: &str) -> Vec<(String, Value)> {
    let event = |block: &str| {
        let mut lines = block.lines();
        let name = lines.next()?.strip_prefix("event: ")?.to_owned();
        let data = lines.next()?.strip_prefix("data: ")?;
        Some((name, serde_json::from_str(data).unwrap()))
    };
    text.split("\n\n").filter_map(event).collect()
}

#[test]
fn anthropic_messages_stream_as_they_are() {
    let server = Running::start();
    let mut body = json!({
        "model": MODEL, "max_tokens": 12, "temperature": 0, "system": "Documentation.",
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "A vector is" }] }],
    });
    let whole = server.post("/v1/messages", &body).ok();
    let text = whole["content"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(whole["stop_reason"], "max_tokens");
    assert_eq!(whole["usage"]["output_tokens"], 12);
    let counted = json!({ "messages": body["messages"], "system": body["system"] });
    let counted = server.post("/v1/messages/count_tokens", &counted).ok();
    let usage = &whole["usage"];
    let input = usage["input_tokens"].as_u64().unwrap()
        + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(counted["input_tokens"], input);
    body["stream"] = json!(true);
    let events = named(&server.post("/v1/messages", &body).text());
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(&names[..3], ["message_start", "content_block_start", "content_block_delta"]);
    assert_eq!(&names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let joined: String =
        events.iter().filter_map(|(_, event)| event["delta"]["text"].as_str()).collect();
    assert_eq!(joined, text);
    assert!(events.iter().all(|(name, event)| event["type"] == *name));
    let word: String = text.chars().skip(6).take(4).collect();
    body["stop_sequences"] = json!([word]);
    body["stream"] = json!(false);
    let stopped = server.post("/v1/messages", &body).ok();
    assert_eq!(stopped["stop_reason"], "stop_sequence");
    assert_eq!(stopped["stop_sequence"], word);
    let error = server.post("/v1/messages", &json!({ "messages": [] }));
    assert_eq!((error.status, error.json()["type"].as_str()), (400, Some("error")));
}

#[test]
fn anthropic_tools_are_blocks() {
    let server = Running::with(config(), vec![spec(MODEL, Some(HERMES))]);
    let mut body = json!({
        "model": MODEL, "max_tokens": 300, "temperature": 1.0, "seed": 5,
        "messages": [
            { "role": "user", "content": "Weather?" },
            { "role": "assistant", "content": [{ "type": "tool_use", "id": "t", "name": "f",
                "input": {} }] },
            { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t",
                "content": "Rain." }] },
        ],
        "tools": [{ "name": "f", "input_schema": { "type": "object", "properties": {
            "x": { "enum": ["é", "b"] } }, "required": ["x"], "additionalProperties": false } }],
        "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
    });
    let whole = server.post("/v1/messages", &body).ok();
    assert_eq!(whole["stop_reason"], "tool_use", "{whole}");
    assert_eq!(whole["content"][0]["name"], "f");
    body["stream"] = json!(true);
    let events = named(&server.post("/v1/messages", &body).text());
    let joined: String =
        events.iter().filter_map(|(_, event)| event["delta"]["partial_json"].as_str()).collect();
    let value: Value = serde_json::from_str(&joined).unwrap();
    assert_eq!(value, whole["content"][0]["input"]);
}

#[test]
fn responses_stream_as_they_are_and_store_nothing() {
    let server = Running::start();
    let mut body = json!({
        "model": MODEL, "input": "A vector is", "max_output_tokens": 16, "temperature": 0,
        "metadata": { "a": "b" },
    });
    let whole = server.post("/v1/responses", &body).ok();
    let text = whole["output"][0]["content"][0]["text"].as_str().unwrap().to_owned();
    let plain = server.post("/v1/completions", &greedy("A vector is", 16)).ok();
    assert_eq!(plain["choices"][0]["text"], text);
    assert_eq!(
        (whole["status"].as_str(), whole["metadata"]["a"].as_str()),
        (Some("incomplete"), Some("b"))
    );
    body["stream"] = json!(true);
    let events = named(&server.post("/v1/responses", &body).text());
    let numbers: Vec<u64> =
        events.iter().map(|(_, event)| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let joined: String = events
        .iter()
        .filter(|(name, _)| name == "response.output_text.delta")
        .filter_map(|(_, event)| event["delta"].as_str())
        .collect();
    assert_eq!(joined, text);
    let (name, last) = events.last().unwrap();
    assert_eq!(name, "response.incomplete");
    assert_eq!(last["response"]["output"][0]["content"], whole["output"][0]["content"]);
    for (field, value) in [("previous_response_id", json!("resp_1")), ("store", json!(true))] {
        let mut body = json!({ "input": "x" });
        body[field] = value;
        assert_eq!(server.post("/v1/responses", &body).error()["param"], field);
    }
    let items = json!({ "input": [
        { "role": "user", "content": [{ "type": "input_text", "text": "A vector" }] },
        { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "is" }] },
    ], "max_output_tokens": 2, "instructions": "Documentation." });
    server.post("/v1/responses", &items).ok();
}
