//! What is wrong is said by name, and nothing that is sent does worse than that.

use crate::http::exchange;
use crate::running::{MODEL, Running, chat, config, greedy, spec};
use serde_json::{Value, json};

const POSTS: [&str; 13] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
];

#[test]
fn unknown_fields_are_refused_by_name_everywhere() {
    let server = Running::start();
    let mut body = json!({
        "model": MODEL, "messages": [{ "role": "user", "content": "x" }], "prompt": "x",
        "input": "x", "content": "x", "tokens": [1], "max_tokens": 1,
    });
    for path in POSTS {
        // Only the fields of the path itself.
        let fields: &[&str] = match path {
            "/v1/chat/completions" | "/v1/messages" => &["messages", "max_tokens"],
            "/v1/messages/count_tokens" | "/api/chat" => &["messages"],
            "/v1/completions" => &["prompt", "max_tokens"],
            "/api/generate" | "/api/embeddings" => &["prompt"],
            "/v1/responses" | "/v1/embeddings" | "/api/embed" => &["input"],
            "/tokenize" => &["content"],
            "/detokenize" => &["tokens"],
            _ => &[],
        };
        let mut own: Value = fields.iter().map(|&name| (name, body[name].take())).collect();
        own["temperatur"] = json!(0.5);
        let answer = server.post(path, &own);
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert!(answer.text().contains("temperatur"), "{path}: {}", answer.text());
        body = json!({
            "messages": [{ "role": "user", "content": "x" }], "prompt": "x", "input": "x",
            "content": "x", "tokens": [1], "max_tokens": 1,
        });
    }
}

#[test]
fn values_that_cannot_be_are_refused_by_name() {
    let server = Running::start();
    for (name, value) in [
        ("temperature", json!(-1)),
        ("temperature", json!("hot")),
        ("top_p", json!(0)),
        ("top_p", json!(1.5)),
        ("top_k", json!(-2)),
        ("min_p", json!(2)),
        ("n", json!(0)),
        ("n", json!(10_000)),
        ("seed", json!(1.5)),
        ("stop", json!([""])),
        ("stop", json!(5)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(1e300)),
        ("presence_penalty", json!(3)),
        ("repetition_penalty", json!(0)),
        ("logit_bias", json!({ "x": 1 })),
        ("logit_bias", json!({ "1": 1000 })),
        ("top_logprobs", json!(3)),
        ("stream", json!("yes")),
        ("messages", json!([])),
        ("messages", json!("hello")),
        ("messages", json!([{ "role": "llama", "content": "x" }])),
        ("messages", json!([{ "role": "user" }])),
        ("messages", json!([{ "role": "user", "content": [{ "type": "image_url" }] }])),
        ("response_format", json!({ "type": "yaml" })),
        ("stream_options", json!({ "include_usage": true })),
    ] {
        let mut body = chat("x", 4);
        body[name] = value.clone();
        let answer = server.post("/v1/chat/completions", &body);
        assert_eq!(answer.status, 400, "{name} {value}: {}", answer.text());
        let param = answer.error()["param"].as_str().unwrap_or_default().to_owned();
        assert!(param.starts_with(name), "{name} {value}: {param}");
    }
}

#[test]
fn what_is_known_but_not_there_is_refused_with_a_reason() {
    let server = Running::start();
    for (name, value) in [
        ("suffix", json!("end")),
        ("best_of", json!(4)),
        ("store", json!(true)),
        ("service_tier", json!("flex")),
    ] {
        let mut body = greedy("x", 1);
        body[name] = value;
        let error = server.post("/v1/completions", &body).error();
        assert_eq!(
            (error["param"].as_str(), error["code"].as_str()),
            (Some(name), Some("unsupported_parameter"))
        );
    }
    for name in ["functions", "prediction", "audio", "reasoning_effort", "web_search_options"] {
        let mut body = chat("x", 1);
        body[name] = json!([1]);
        let error = server.post("/v1/chat/completions", &body).error();
        assert_eq!(error["code"], "unsupported_parameter", "{name}");
    }
}

#[test]
fn prompts_beyond_the_context_are_refused_with_the_numbers() {
    let server = Running::start();
    let long = "word ".repeat(3000);
    for (path, body) in [
        ("/v1/chat/completions", chat(&long, 4)),
        ("/v1/chat/completions", chat("x", 5000)),
        ("/v1/completions", greedy(&long, 4)),
        ("/v1/embeddings", json!({ "input": long })),
        ("/v1/responses", json!({ "input": long })),
    ] {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(answer.error()["code"], "context_length_exceeded", "{path}");
    }
    let config = puna_server::ServerConfig { max_prompt_tokens: Some(8), ..config() };
    let server = Running::with(config, vec![spec(MODEL, None)]);
    let answer = server.post("/v1/completions", &greedy("one two three four five six seven", 1));
    assert_eq!(answer.error()["code"], "context_length_exceeded");
}

#[test]
fn hostile_bodies_are_refused_and_the_server_lives() {
    let server = Running::start();
    let deep = format!("{{\"messages\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let wide = format!("{{\"messages\":[{}1]}}", "1,".repeat(200_000));
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"\"text\"".to_vec(),
        b"{\"prompt\": \"\xff\xfe\"}".to_vec(),
        b"{\"prompt\": \"\\ud800\"}".to_vec(),
        b"{\"a\": 1e999}".to_vec(),
        b"{\"max_tokens\": 99999999999999999999999999}".to_vec(),
        b"{\"model\": \"mini\", \"model\": \"mini\"}".to_vec(),
        b"{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"content\": \"b\"}]}".to_vec(),
        b"{\"prompt\": \"a\\u0000b\", \"max_tokens\": {}}".to_vec(),
        b"{\"model\": \"../../../etc/passwd\", \"prompt\": \"x\", \"messages\": []}".to_vec(),
        deep.into_bytes(),
        wide.into_bytes(),
    ];
    for path in POSTS {
        for body in &bodies {
            let answer = server.post_bytes(path, body);
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            let is_fine = answer.status == 200 && path == "/api/show";
            assert!(
                (400..500).contains(&answer.status) || is_fine,
                "{path} {shown}: {}",
                answer.status
            );
            if answer.status >= 400 && !path.starts_with("/api/") {
                answer.error();
            }
        }
    }
    server.post("/v1/completions", &greedy("Still here", 1)).ok();
}

#[test]
fn control_characters_and_odd_text_are_only_text() {
    let server = Running::start();
    for text in ["\0\u{1}\u{7f}", "\u{202e}abc", "<|end_of_text|>", "{{ 7 * 7 }}", "😀\u{200d}"] {
        server.post("/v1/chat/completions", &chat(text, 2)).ok();
    }
}

#[test]
fn protocol_errors_are_objects_too() {
    let server = Running::start();
    for (request, status) in [
        (
            format!(
                "GET /nowhere HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                server.address
            ),
            404,
        ),
        (
            format!(
                "PUT /v1/models HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                server.address
            ),
            405,
        ),
        (
            format!(
                "GET /v1/completions HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                server.address
            ),
            405,
        ),
        (
            format!(
                "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: \
                 text/plain\r\nContent-Length: 2\r\n\r\n{{}}",
                server.address
            ),
            415,
        ),
        (
            format!(
                "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: \
                 application/json\r\nContent-Length: 99999999999\r\n\r\n",
                server.address
            ),
            413,
        ),
    ] {
        let answer = exchange(server.address, request.as_bytes());
        assert_eq!(answer.status, status, "{request}");
        answer.error();
    }
    let answer = server.get("/v1/completions");
    assert_eq!(answer.header("allow"), Some("POST"));
}

#[test]
fn bodies_beyond_the_limit_are_413_also_without_a_length() {
    let config = puna_server::ServerConfig { max_body_bytes: 1000, ..config() };
    let server = Running::with(config, vec![spec(MODEL, None)]);
    let answer = server.post("/v1/completions", &greedy(&"x".repeat(2000), 1));
    assert_eq!((answer.status, answer.error()["code"].as_str()), (413, Some("body_too_large")));
    let mut request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: \
         application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        server.address
    );
    for _ in 0..4 {
        request += &format!("190\r\n{}\r\n", "x".repeat(0x190));
    }
    request += "0\r\n\r\n";
    assert_eq!(exchange(server.address, request.as_bytes()).status, 413);
    server.post("/v1/completions", &greedy("x", 1)).ok();
}

#[test]
fn no_path_reaches_the_file_system() {
    let server = Running::start();
    for path in [
        "/../Cargo.toml",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/assets/../../Cargo.toml",
        "//etc/passwd",
        "/v1/models/../../../etc/passwd",
        "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/index.html%00.png",
    ] {
        let answer = server.get(path);
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.status);
        assert!(!answer.text().contains("[package]") && !answer.text().contains("root:"), "{path}");
    }
}
