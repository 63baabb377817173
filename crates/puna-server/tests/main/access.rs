//! Who may ask.

use crate::http::{Answer, exchange, request};
use crate::running::{MODEL, Running, config, greedy, spec};
use puna_server::{Exposure, Server, ServerConfig, ServerError};

fn with_headers(server: &Running, path: &str, headers: &[(&str, &str)]) -> Answer {
    exchange(server.address, &request(server.address, "GET", path, headers, b""))
}

#[test]
fn with_keys_every_endpoint_but_pages_and_health_needs_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "sk-the-first-key\nsk-the-second-key\n").unwrap();
    let config = ServerConfig { api_key_file: Some(file), ..config() };
    let server = Running::with(config, vec![spec(MODEL, None)]);
    for path in ["/v1/models", "/api/tags", "/metrics"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(server.post("/v1/completions", &greedy("x", 1)).error()["code"], "invalid_api_key");
    for path in ["/health", "/", "/docs", "/openapi.json"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    for (name, value, status) in [
        ("Authorization", "Bearer sk-the-second-key", 200),
        ("authorization", "bearer sk-the-first-key", 200),
        ("x-api-key", "sk-the-first-key", 200),
        ("Authorization", "Bearer sk-the-first-ke", 401),
        ("Authorization", "Bearer ", 401),
        ("Authorization", "Basic sk-the-first-key", 401),
        ("Authorization", "sk-the-first-key", 401),
        ("Authorization", "\u{e9}", 401),
    ] {
        let answer = with_headers(&server, "/v1/models", &[(name, value)]);
        assert_eq!(answer.status, status, "{name}: {value}");
    }
}

#[test]
fn names_that_are_not_this_machine_s_are_refused() {
    let server = Running::start();
    let port = server.address.port();
    for (host, status) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        ("[::1]".to_owned(), 200),
        ("evil.example".to_owned(), 403),
        (format!("evil.example:{port}"), 403),
        (format!("localhost.evil.example:{port}"), 403),
        ("192.168.0.1".to_owned(), 403),
        (String::new(), 403),
    ] {
        let answer = with_headers(&server, "/v1/models", &[("Host", &host)]);
        assert_eq!(answer.status, status, "{host}");
    }
    let bare = "GET /v1/models HTTP/1.0\r\n\r\n";
    assert_eq!(exchange(server.address, bare.as_bytes()).status, 400);
}

#[test]
fn pages_of_other_origins_are_refused_unless_named() {
    let server = Running::start();
    let own = format!("http://{}", server.address);
    for (origin, status) in [
        (own.as_str(), 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1", 403),
    ] {
        let answer = with_headers(&server, "/v1/models", &[("Origin", origin)]);
        assert_eq!(answer.status, status, "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let friend = "https://friend.example";
    let config = ServerConfig { cors_origins: vec![friend.to_owned()], ..config() };
    let server = Running::with(config, vec![spec(MODEL, None)]);
    let answer = with_headers(&server, "/v1/models", &[("Origin", friend)]);
    assert_eq!(answer.header("access-control-allow-origin"), Some(friend));
    let headers = [("Origin", friend), ("Access-Control-Request-Method", "POST")];
    let bytes = request(server.address, "OPTIONS", "/v1/chat/completions", &headers, b"");
    let preflight = exchange(server.address, &bytes);
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some(friend));
    let answer = with_headers(&server, "/v1/models", &[("Origin", "https://friend.example.evil")]);
    assert_eq!(answer.status, 403);
}

#[test]
fn other_machines_may_ask_only_with_keys_or_when_told_so() {
    let bind = |config: ServerConfig| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(Server::bind(config, vec![spec(MODEL, None)])).map(|_| ())
    };
    let open = ServerConfig { host: "0.0.0.0".to_owned(), ..config() };
    assert!(matches!(bind(open.clone()), Err(ServerError::Unguarded { .. })));
    bind(ServerConfig { exposure: Exposure::Anywhere, ..open.clone() }).unwrap();
    let missing = ServerConfig { api_key_file: Some("/nowhere/keys".into()), ..open };
    assert!(matches!(bind(missing), Err(ServerError::KeyFile { .. })));
    let origin = ServerConfig { cors_origins: vec!["example.org".to_owned()], ..config() };
    assert!(matches!(bind(origin), Err(ServerError::Origin { .. })));
}
