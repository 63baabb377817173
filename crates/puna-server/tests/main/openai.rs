//! OpenAI's endpoints, answered at once.

use crate::running::{MODEL, Running, chat, greedy};
use base64::Engine;
use serde_json::{Value, json};

#[test]
fn models_are_listed_and_shown() {
    let server = Running::start();
    assert_eq!(server.get("/v1/models").ok()["data"][0]["id"], MODEL);
    assert_eq!(server.get(&format!("/v1/models/{MODEL}")).ok()["object"], "model");
    let missing = server.get("/v1/models/none");
    assert_eq!((missing.status, missing.error()["code"].as_str()), (404, Some("model_not_found")));
}

#[test]
fn a_chat_without_template_is_its_text_continued() {
    let server = Running::start();
    let answer = server.post("/v1/chat/completions", &chat("A vector is", 12)).ok();
    let plain = server.post("/v1/completions", &greedy("A vector is", 12)).ok();
    assert_eq!(answer["choices"][0]["message"]["content"], plain["choices"][0]["text"]);
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 12);
    assert_eq!(answer["object"], "chat.completion");
}

#[test]
fn seeds_repeat_and_choices_differ() {
    let server = Running::start();
    let body = json!({
        "prompt": "The", "max_tokens": 12, "temperature": 1.0, "seed": 7, "n": 3,
    });
    let first = server.post("/v1/completions", &body).ok();
    let second = server.post("/v1/completions", &body).ok();
    assert_eq!(first["choices"], second["choices"]);
    let texts: Vec<&Value> = (0..3).map(|at| &first["choices"][at]["text"]).collect();
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    assert_eq!(first["choices"][2]["index"], 2);
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let server = Running::start();
    let whole = server.post("/v1/completions", &greedy("A vector is", 24)).ok();
    let text = whole["choices"][0]["text"].as_str().unwrap().to_owned();
    // A piece from the middle that crosses tokens.
    let at = text.char_indices().nth(9).unwrap().0;
    let stop: String = text[at..].chars().take(5).collect();
    let expected = &text[..text.find(&stop).unwrap()];
    for stop in [json!(stop), json!(["zzzz", stop])] {
        let mut body = greedy("A vector is", 24);
        body["stop"] = stop;
        let cut = server.post("/v1/completions", &body).ok();
        assert_eq!(cut["choices"][0]["text"], expected);
        assert_eq!(cut["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn echo_scores_the_prompt_as_lm_eval_reads_it() {
    let server = Running::start();
    let ids = server.post("/tokenize", &json!({ "content": "A vector is a list of numbers" })).ok();
    let ids = ids["tokens"].as_array().unwrap().clone();
    // Exactly what lm-eval's local-completions sends for loglikelihood.
    let body = json!({
        "model": MODEL, "prompt": [ids], "temperature": 0, "max_tokens": 1, "logprobs": 1,
        "seed": 1234, "echo": true,
    });
    let answer = server.post("/v1/completions", &body).ok();
    let lists = &answer["choices"][0]["logprobs"];
    let logprobs = lists["token_logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), ids.len() + 1);
    assert!(logprobs[0].is_null() && lists["top_logprobs"][0].is_null());
    for (at, logprob) in logprobs.iter().enumerate().skip(1) {
        let own = logprob.as_f64().unwrap();
        let top = lists["top_logprobs"][at].as_object().unwrap();
        let best = top.values().filter_map(Value::as_f64).fold(f64::NEG_INFINITY, f64::max);
        assert!(own <= best && best <= 0.0, "{at}: {own} {best}");
        let token = lists["tokens"][at].as_str().unwrap();
        assert!(top.contains_key(token), "{at}");
    }
    // The last token is the model's own choice.
    let last = logprobs.len() - 1;
    let top = lists["top_logprobs"][last].as_object().unwrap();
    assert_eq!(top.values().next().unwrap(), &logprobs[last]);
    // Sums do not depend on how the prompt is cut.
    let shorter = ids[..ids.len() - 2].to_vec();
    let body = json!({
        "prompt": shorter, "max_tokens": 0, "logprobs": 0, "echo": true,
    });
    let again = server.post("/v1/completions", &body).ok();
    let part = again["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().clone();
    assert_eq!(part[1..], logprobs[1..part.len()]);
    assert_eq!(again["usage"]["completion_tokens"], 0);
}

#[test]
fn lists_of_prompts_are_answered_in_their_order() {
    let server = Running::start();
    let both = json!({ "prompt": ["A vector", "The string"], "max_tokens": 6, "temperature": 0 });
    let both = server.post("/v1/completions", &both).ok();
    for (at, prompt) in ["A vector", "The string"].into_iter().enumerate() {
        let alone = server.post("/v1/completions", &greedy(prompt, 6)).ok();
        assert_eq!(both["choices"][at]["text"], alone["choices"][0]["text"]);
        assert_eq!(both["choices"][at]["index"], at);
    }
}

#[test]
fn chat_logprobs_carry_bytes_and_alternatives() {
    let server = Running::start();
    let mut body = chat("A vector is", 5);
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(3);
    let answer = server.post("/v1/chat/completions", &body).ok();
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 5);
    let mut bytes = Vec::new();
    for token in content {
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 3);
        assert_eq!(token["top_logprobs"][0]["logprob"], token["logprob"]);
        bytes.extend(token["bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8));
    }
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

#[test]
fn biases_forbid_and_penalties_count() {
    let server = Running::start();
    let mut body = chat("A vector is", 1);
    body["logprobs"] = json!(true);
    let first = server.post("/v1/chat/completions", &body).ok();
    let text = first["choices"][0]["message"]["content"].clone();
    let ids = json!({ "content": text, "add_special_tokens": false });
    let id = server.post("/tokenize", &ids).ok()["tokens"][0].clone();
    body["logit_bias"] = json!({ id.to_string(): -100 });
    let other = server.post("/v1/chat/completions", &body).ok();
    assert_ne!(other["choices"][0]["message"]["content"], text);
}

#[test]
fn embeddings_have_length_one_in_both_encodings() {
    let server = Running::start();
    let body = json!({ "input": ["A llama", "A llama", "The string"] });
    let floats = server.post("/v1/embeddings", &body).ok();
    let vector = |at: usize| -> Vec<f64> {
        let values = floats["data"][at]["embedding"].as_array().unwrap();
        values.iter().map(|value| value.as_f64().unwrap()).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    assert!((dot(&vector(0), &vector(0)) - 1.0).abs() < 1e-5);
    assert_eq!(vector(0), vector(1));
    assert!(dot(&vector(0), &vector(2)) < 0.999);
    let body = json!({ "input": "A llama", "encoding_format": "base64" });
    let packed = server.post("/v1/embeddings", &body).ok();
    let text = packed["data"][0]["embedding"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    let first = f32::from_le_bytes(bytes[..4].try_into().unwrap());
    assert!((f64::from(first) - vector(0)[0]).abs() < 1e-6);
    assert_eq!(bytes.len() / 4, vector(0).len());
}

#[test]
fn text_comes_back_from_its_tokens() {
    let server = Running::start();
    let text = "Ünïcödé 😀 and a llama";
    let body = json!({ "content": text, "add_special_tokens": false, "with_pieces": true });
    let tokens = server.post("/tokenize", &body).ok();
    assert_eq!(
        tokens["count"].as_u64().unwrap() as usize,
        tokens["tokens"].as_array().unwrap().len()
    );
    let back = server.post("/detokenize", &json!({ "tokens": tokens["tokens"] })).ok();
    assert_eq!(back["content"], text);
    let beyond = server.post("/detokenize", &json!({ "tokens": [1, 999_999] }));
    assert_eq!((beyond.status, beyond.error()["param"].as_str()), (400, Some("tokens[1]")));
}

#[test]
fn metrics_count_tokens_and_times() {
    let server = Running::start();
    server.post("/v1/completions", &greedy("A vector is", 9)).ok();
    assert_eq!(server.metric("puna_completion_tokens_total"), 9.0);
    assert_eq!(server.metric("puna_time_to_first_token_seconds_count"), 1.0);
    assert_eq!(server.metric("puna_time_per_token_seconds_count"), 8.0);
    let requests = "puna_requests_total{path=\"/v1/completions\",status=\"200\"}";
    assert_eq!(server.metric(requests), 1.0);
    assert!(server.get("/metrics").text().contains("puna_kv_cache_usage_ratio{model=\"mini\"}"));
}
