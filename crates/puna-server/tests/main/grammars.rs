//! Answers that have to have a form.

use crate::running::{HERMES, LLAMA3, MISTRAL, MODEL, Running, config, spec};
use serde_json::{Value, json};

/// A short answer at random, with a form.
fn formed(field: &str, value: Value, seed: u64) -> Value {
    let mut body = json!({
        "messages": [{ "role": "user", "content": "Say something." }], "max_tokens": 300,
        "temperature": 1.0, "seed": seed,
    });
    body[field] = value;
    body
}

fn content(server: &Running, body: &Value) -> String {
    let answer = server.post("/v1/chat/completions", body).ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[test]
fn answers_fit_their_schema() {
    let server = Running::start();
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 8 },
            "tags": { "type": "array", "items": { "enum": ["a", "b"] }, "maxItems": 2 },
            "age": { "type": "integer", "minimum": 1, "maximum": 99 },
        },
        "required": ["name", "tags", "age"], "additionalProperties": false,
    });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    for seed in 0..4 {
        for (field, value) in [("response_format", &format), ("guided_json", &schema)] {
            let text = content(&server, &formed(field, value.clone(), seed));
            let value: Value = serde_json::from_str(&text).unwrap();
            let age = value["age"].as_u64().unwrap();
            assert!((1..=99).contains(&age) && value["tags"].as_array().unwrap().len() <= 2);
            assert!(value["name"].as_str().unwrap().chars().count() <= 8);
        }
    }
}

#[test]
fn regexes_grammars_and_choices_are_followed() {
    let server = Running::start();
    let date = content(&server, &formed("guided_regex", json!("[0-9]{4}-[0-9]{2}"), 1));
    assert!(date.len() == 7 && date.as_bytes()[4] == b'-', "{date}");
    let lark = content(&server, &formed("grammar", json!("start: (\"a\" | \"b\"){2,4} \"!\""), 2));
    let letters = lark.strip_suffix('!').unwrap();
    assert!(
        (2..=4).contains(&letters.len()) && letters.chars().all(|c| "ab".contains(c)),
        "{lark}"
    );
    let gbnf = "root ::= animal (\", \" animal){1,2}\nanimal ::= \"llama\" | \"vicu\\u00f1a\"";
    let gbnf = content(&server, &formed("grammar", json!(gbnf), 3));
    assert!(gbnf.split(", ").all(|animal| animal == "llama" || animal == "vicuña"), "{gbnf}");
    let choice = content(&server, &formed("guided_choice", json!(["yes", "no \"quoted\""]), 4));
    assert!(choice == "yes" || choice == "no \"quoted\"", "{choice}");
}

#[test]
fn hostile_grammars_are_refused_by_name() {
    let server = Running::start();
    for (field, value) in [
        ("guided_regex", json!("((((a{1,1000}){1,1000}){1,1000}){1,1000}")),
        ("guided_regex", json!("[")),
        ("grammar", json!("start: nowhere")),
        ("grammar", json!("root ::= (")),
        ("guided_json", json!({ "type": "nonsense" })),
        ("guided_json", json!({ "$ref": "file:///etc/passwd" })),
        ("guided_json", json!({ "allOf": [{ "type": "string" }, { "type": "integer" }] })),
        ("response_format", json!({ "type": "json_schema" })),
        ("guided_choice", json!([])),
    ] {
        let answer = server.post("/v1/chat/completions", &formed(field, value.clone(), 1));
        assert_eq!(answer.status, 400, "{field} {value}: {}", answer.text());
        let param = answer.error()["param"].as_str().unwrap_or_default().to_owned();
        assert!(param.starts_with(field), "{field}: {param}");
    }
    let mut both = formed("guided_regex", json!("a"), 1);
    both["guided_json"] = json!({ "type": "integer" });
    let answer = server.post("/v1/chat/completions", &both);
    assert_eq!((answer.status, answer.error()["code"].as_str()), (400, Some("invalid_value")));
    let mut endless = formed("guided_regex", json!("a"), 1);
    endless["ignore_eos"] = json!(true);
    let answer = server.post("/v1/chat/completions", &endless);
    assert_eq!((answer.status, answer.error()["param"].as_str()), (400, Some("ignore_eos")));
}

fn tools(count: usize) -> Value {
    let tool = |index: usize| {
        json!({ "type": "function", "function": {
            "name": format!("tool_{index}"), "description": "A tool.",
            "parameters": { "type": "object", "properties": { "x": { "enum": ["é\"}", "b"] } },
                "required": ["x"], "additionalProperties": false },
        } })
    };
    (0..count).map(tool).collect()
}

#[test]
fn named_and_required_tools_are_called_in_every_format() {
    for template in [HERMES, LLAMA3, MISTRAL] {
        let server = Running::with(config(), vec![spec(MODEL, Some(template))]);
        for (seed, choice) in [
            (1, json!("required")),
            (2, json!({ "type": "function", "function": { "name": "tool_1" } })),
        ] {
            let mut body = formed("tools", tools(2), seed);
            body["tool_choice"] = choice.clone();
            body["parallel_tool_calls"] = json!(false);
            let answer = server.post("/v1/chat/completions", &body).ok();
            let message = &answer["choices"][0]["message"];
            let calls = message["tool_calls"].as_array().unwrap();
            assert_eq!(calls.len(), 1, "{answer}");
            let name = calls[0]["function"]["name"].as_str().unwrap();
            assert!(name.starts_with("tool_"));
            if choice.is_object() {
                assert_eq!(name, "tool_1");
            }
            let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
            let value: Value = serde_json::from_str(arguments).unwrap();
            assert!(["é\"}", "b"].contains(&value["x"].as_str().unwrap()));
            assert!(message["content"].is_null());
        }
    }
}

#[test]
fn with_auto_the_model_may_answer_in_text() {
    for template in [HERMES, LLAMA3, MISTRAL] {
        let server = Running::with(config(), vec![spec(MODEL, Some(template))]);
        let mut body = formed("tools", tools(2), 3);
        body["temperature"] = json!(0);
        body["max_tokens"] = json!(20);
        let answer = server.post("/v1/chat/completions", &body).ok();
        let message = &answer["choices"][0]["message"];
        assert!(!message["content"].as_str().unwrap().is_empty(), "{answer}");
        body["tool_choice"] = json!("none");
        let none = server.post("/v1/chat/completions", &body).ok();
        assert!(none["choices"][0]["message"].get("tool_calls").is_none());
    }
}

#[test]
fn tools_need_a_template_that_has_them() {
    let server = Running::start();
    let answer = server.post("/v1/chat/completions", &formed("tools", tools(1), 1));
    assert_eq!((answer.status, answer.error()["param"].as_str()), (400, Some("tools")));
    let server = Running::with(config(), vec![spec(MODEL, Some(HERMES))]);
    for (field, value) in [
        ("tools", json!([{ "type": "web_search" }])),
        ("tools", json!([{ "type": "function", "function": { "name": "a b" } }])),
        ("tool_choice", json!("required")),
        ("tool_choice", json!({ "type": "function", "function": { "name": "none" } })),
    ] {
        let answer = server.post("/v1/chat/completions", &formed(field, value, 1));
        let param = answer.error()["param"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == 400 && param.starts_with(field), "{}", answer.text());
    }
}
