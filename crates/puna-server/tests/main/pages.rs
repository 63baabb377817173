//! The web page and the description of the API.

use std::io::Read;

use puna_server::ServerConfig;

use crate::http::{exchange, request};
use crate::running::{MODEL, Running, config, spec};

#[test]
fn the_page_comes_with_its_policy_and_a_tag() {
    let server = Running::start();
    let page = server.get("/");
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'self'"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let tag = page.header("etag").unwrap();
    let again = request(server.address, "GET", "/", &[("If-None-Match", tag)], b"");
    let again = exchange(server.address, &again);
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(server.get("/index.html").body, page.body);
}

#[test]
fn files_are_compressed_for_those_who_take_it() {
    let server = Running::start();
    let plain = server.get("/docs.js");
    let bytes = request(server.address, "GET", "/docs.js", &[("Accept-Encoding", "br, gzip")], b"");
    let packed = exchange(server.address, &bytes);
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert!(packed.body.len() < plain.body.len() / 2 + 200);
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(packed.body.as_slice()).read_to_end(&mut text).unwrap();
    assert_eq!(text, plain.body);
}

#[test]
fn the_documentation_needs_nothing_from_elsewhere() {
    let server = Running::start();
    for path in ["/docs", "/docs.js", "/docs.css"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}");
        let text = answer.text();
        assert!(!text.contains("https://") && !text.contains("http://"), "{path}");
    }
}

#[test]
fn every_field_of_the_description_is_known_to_its_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let feedback = Some(folder.path().join("ratings.jsonl"));
    let server = Running::with(ServerConfig { feedback, ..config() }, vec![spec(MODEL, None)]);
    let description = server.get("/openapi.json").ok();
    assert_eq!(description["openapi"], "3.1.0");
    let mut fields = 0;
    for (path, operations) in description["paths"].as_object().unwrap() {
        let Some(post) = operations.get("post") else { continue };
        let content = &post["requestBody"]["content"]["application/json"];
        for name in content["schema"]["properties"].as_object().unwrap().keys() {
            let mut body = content["example"].clone();
            // No field takes this.
            body[name] = serde_json::json!({ "\u{0}": [[]] });
            let answer = server.post(path, &body);
            let text = answer.text();
            assert!(
                !text.contains("there is no such field here") || text.contains("\\u0000"),
                "{path} {name}: {text}"
            );
            fields += 1;
        }
        let answer = server.post(path, &content["example"]);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    assert!(fields > 140, "{fields}");
}
