//! Clients that go away, queues that fill, servers that end.

use std::cell::RefCell;
use std::io::Read;
use std::time::{Duration, Instant};

use crate::http::{open, parse};
use crate::running::{MODEL, Running, config, greedy, spec};
use puna_infer::SchedulerOptions;
use puna_server::ServerConfig;
use serde_json::json;

/// Waits until something holds.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A request that takes the whole context.
fn endless(stream: bool) -> Vec<u8> {
    let body = json!({
        "prompt": "A", "max_tokens": 1000, "temperature": 0, "ignore_eos": true, "stream": stream,
    });
    body.to_string().into_bytes()
}

#[test]
fn a_client_that_goes_away_frees_its_sequence() {
    let server = Running::start();
    for stream in [true, false] {
        let before = server.metric("puna_disconnects_total");
        let mut connection =
            open(server.address, &server.posting("/v1/completions", &endless(stream)));
        if stream {
            connection.read_exact(&mut [0; 200]).unwrap();
        } else {
            eventually("it runs", || server.metric("puna_sequences_running{") == 1.0);
        }
        drop(connection);
        eventually("the sequence ends", || server.metric("puna_sequences_running{") == 0.0);
        eventually("it is counted", || server.metric("puna_disconnects_total") == before + 1.0);
        // The rest of the thousand tokens was not computed.
        assert!(server.metric("puna_steps_total") < 990.0 * 2.0);
    }
}

#[test]
fn a_full_queue_is_429_with_a_time() {
    let scheduler =
        SchedulerOptions { max_sequences: 1, queue_length: 1, ..SchedulerOptions::default() };
    let server = Running::with(ServerConfig { scheduler, ..config() }, vec![spec(MODEL, None)]);
    let bytes = server.posting("/v1/completions", &endless(true));
    let running = open(server.address, &bytes);
    eventually("one runs", || server.metric("puna_sequences_running{") == 1.0);
    let waiting = open(server.address, &bytes);
    eventually("one waits", || server.metric("puna_sequences_queued{") == 1.0);
    let refused = server.post("/v1/completions", &greedy("x", 1));
    assert_eq!((refused.status, refused.error()["code"].as_str()), (429, Some("queue_full")));
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    drop((running, waiting));
    eventually("both end", || server.metric("puna_sequences_running{") == 0.0);
    server.post("/v1/completions", &greedy("x", 1)).ok();
}

#[test]
fn embeddings_have_a_line_that_can_be_full() {
    let scheduler = SchedulerOptions { queue_length: 1, ..SchedulerOptions::default() };
    let server = Running::with(ServerConfig { scheduler, ..config() }, vec![spec(MODEL, None)]);
    let many = json!({ "input": vec!["A long list of short texts."; 2048] }).to_string();
    let bytes = server.posting("/v1/embeddings", many.as_bytes());
    let held = RefCell::new(Vec::new());
    eventually("one more is refused", || {
        held.borrow_mut().push(open(server.address, &bytes));
        let refused = server.post("/v1/embeddings", &json!({ "input": "x" }));
        refused.status == 429 && refused.error()["code"] == "queue_full"
    });
    drop(held);
    eventually("there is room again", || {
        server.post("/v1/embeddings", &json!({ "input": "x" })).status == 200
    });
}

#[test]
fn what_was_accepted_before_the_end_is_answered() {
    let mut server = Running::start();
    let body = json!({
        "prompt": "A", "max_tokens": 900, "temperature": 0, "ignore_eos": true, "stream": true,
    });
    let bytes = server.posting("/v1/completions", body.to_string().as_bytes());
    let mut connections: Vec<_> = (0..6).map(|_| open(server.address, &bytes)).collect();
    eventually("all run", || server.metric("puna_requests_open") == 6.0);
    server.drain();
    eventually("health says so", || server.get("/health").status == 503);
    let late = server.post("/v1/completions", &greedy("x", 1));
    assert_eq!((late.status, late.error()["code"].as_str()), (503, Some("shutting_down")));
    assert!(late.header("retry-after").is_some());
    for connection in &mut connections {
        let mut bytes = Vec::new();
        connection.read_to_end(&mut bytes).unwrap();
        let answer = parse(&bytes);
        assert!(answer.text().ends_with("data: [DONE]\n\n"));
        let events = answer.events();
        let text: String =
            events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
        assert!(text.len() > 900);
    }
    server.join();
    assert!(std::net::TcpStream::connect(server.address).is_err());
}

#[test]
fn a_request_beyond_its_time_is_an_error_not_a_shorter_answer() {
    let config = ServerConfig { request_timeout: Some(Duration::from_millis(1)), ..config() };
    let server = Running::with(config, vec![spec(MODEL, None)]);
    let answer = server.post_bytes("/v1/completions", &endless(false));
    assert_eq!((answer.status, answer.error()["code"].as_str()), (504, Some("timeout")));
    let streamed = server.post_bytes("/v1/completions", &endless(true)).events();
    assert_eq!(streamed.last().unwrap()["error"]["code"], "timeout");
}

#[test]
fn models_are_chosen_by_name_loaded_on_demand_and_unloaded_when_idle() {
    let config = ServerConfig { idle_unload: Some(Duration::from_millis(1500)), ..config() };
    let server = Running::with(config, vec![spec("first", None), spec("second", None)]);
    let resident = || {
        let models = server.get("/api/ps").ok()["models"].as_array().unwrap().clone();
        models.iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut body = greedy("A vector is", 4);
    body["model"] = json!("second");
    let answer = server.post("/v1/completions", &body).ok();
    assert_eq!(answer["model"], "second");
    assert!(resident().contains(&"second".to_owned()));
    eventually("both are unloaded", || resident().is_empty());
    let again = server.post("/v1/completions", &body).ok();
    assert_eq!(again["choices"], answer["choices"]);
    body["model"] = json!("third");
    let missing = server.post("/v1/completions", &body);
    assert_eq!((missing.status, missing.error()["code"].as_str()), (404, Some("model_not_found")));
}

#[test]
fn requests_side_by_side_get_what_they_get_alone() {
    let server = Running::start();
    let prompts = ["A vector is", "The string", "A", "impl Iterator for", "Returns the"];
    let alone: Vec<_> = prompts
        .iter()
        .map(|prompt| server.post("/v1/completions", &greedy(prompt, 24)).ok()["choices"].clone())
        .collect();
    std::thread::scope(|scope| {
        let ask = |at: usize| {
            server.post("/v1/completions", &greedy(prompts[at], 24)).ok()["choices"].clone()
        };
        let together: Vec<_> =
            (0..20).map(|at| (at % 5, scope.spawn(move || ask(at % 5)))).collect();
        for (at, answer) in together {
            assert_eq!(answer.join().unwrap(), alone[at]);
        }
    });
}
