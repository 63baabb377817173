//! What the web page asks beyond the models.

use std::fs;

use puna_server::{Planner, ServerConfig};
use serde_json::json;

use crate::running::{MODEL, Running, config, spec};

fn server(config: ServerConfig) -> Running {
    Running::with(config, vec![spec(MODEL, None)])
}

#[test]
fn what_was_not_set_up_is_404_and_says_how() {
    let server = Running::start();
    for (path, said) in [("/v1/plan", "no planner"), ("/v1/runs", "--runs DIR")] {
        let answer = server.get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.text().contains(said), "{path}: {}", answer.text());
    }
    let rating = json!({ "messages": [{ "role": "user" }], "answer": "a", "rating": "up" });
    assert_eq!(server.post("/v1/feedback", &rating).status, 404);
}

#[test]
fn a_plan_gets_its_options_and_its_errors_are_the_client_s() {
    let planner = Planner::new(|asked| match asked.get("flops") {
        Some(flops) => Ok(json!({ "flops": flops })),
        None => Err("flops: give them".to_owned()),
    });
    let server = server(ServerConfig { planner: Some(planner), ..config() });
    assert_eq!(server.get("/v1/plan?flops=1e21").ok(), json!({ "flops": "1e21" }));
    let refused = server.get("/v1/plan?tokens=1T");
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("flops: give them"));
}

#[test]
fn runs_are_listed_and_read_from_a_step_on_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    fs::create_dir_all(runs.join("one")).unwrap();
    let lines = "{\"step\":1,\"loss\":3.0}\n{\"step\":2,\"loss\":2.0}\n";
    fs::write(runs.join("one/metrics.jsonl"), lines).unwrap();
    fs::write(folder.path().join("metrics.jsonl"), "{\"step\":9}\n").unwrap();
    let server = server(ServerConfig { runs: Some(runs), ..config() });
    let list = server.get("/v1/runs").ok();
    assert_eq!(list["data"], json!([{ "name": "one", "steps": 2, "state": "running" }]));
    assert_eq!(server.get("/v1/runs/one/metrics?after=1").text(), "{\"step\":2,\"loss\":2.0}\n");
    for path in [
        "/v1/runs/../metrics",
        "/v1/runs/%2e%2e/metrics",
        "/v1/runs/..%2f..%2fetc/metrics",
        "/v1/runs/two/metrics",
        "/v1/runs/%00/metrics",
        "/v1/runs/one/metrics?after=x",
        "/v1/runs/one/metrics?before=1",
    ] {
        let status = server.get(path).status;
        assert!((400..500).contains(&status), "{path}: {status}");
    }
}

#[test]
fn ratings_are_appended_and_two_make_a_pair() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ratings.jsonl");
    let server = server(ServerConfig { feedback: Some(file.clone()), ..config() });
    let rate = |answer: &str, rating: &str| {
        let messages = json!([{ "role": "user", "content": "hi" }]);
        let body = json!({
            "messages": messages, "answer": answer, "rating": rating, "model": MODEL,
            "conversation": "c1",
        });
        server.post("/v1/feedback", &body).status
    };
    assert_eq!((rate("yes", "up"), rate("no", "down"), rate("?", "sideways")), (200, 200, 400));
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
    let pairs = fs::read_to_string(folder.path().join("ratings.pairs.jsonl")).unwrap();
    let pair: serde_json::Value = serde_json::from_str(pairs.trim_end()).unwrap();
    assert_eq!(pair["chosen"][0]["content"], "yes");
    assert_eq!(pair["rejected"][0]["content"], "no");
}
