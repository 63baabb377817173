//! Servers that are absent, wrong or malicious: a clear error, and nothing outside the cache.

use std::fs;
use std::net::TcpListener;

use puna_io::IoError;
use puna_io::hub::{Hub, HubRequest};

use crate::hub::{files, model, one, pull, weights};
use crate::hub_server::{COMMIT, Fault, Server, State, etag_of};

#[test]
fn an_endpoint_where_nobody_listens_is_named() {
    let cache = tempfile::tempdir().expect("temp");
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").port()
    };
    let hub = Hub::new(cache.path(), &format!("http://127.0.0.1:{port}/"));
    let error = pull(&hub, &model()).expect_err("nobody");
    assert!(matches!(error, IoError::HubUnreachable { .. }), "{error:?}");
    let expected = format!("http://127.0.0.1:{port}/api/models/org/name/revision/main: no answer");
    assert!(error.to_string().starts_with(&expected), "{error}");
    let error = pull(&Hub::new(cache.path(), "huggingface.co"), &model()).expect_err("no scheme");
    assert!(error.to_string().contains("`huggingface.co` is not accepted"), "{error}");
}

/// Pulls from a server that `distort` has made strange; the error. Nothing may appear beside the
/// cache.
fn error(distort: impl FnOnce(&mut State)) -> String {
    let (server, folder) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    distort(&mut server.state());
    let hub = Hub::new(&folder.path().join("a/b/cache"), &server.endpoint());
    let error = pull(&hub, &model()).expect_err("hostile").to_string();
    assert_eq!(hub.cached(&model()).expect("asked"), None);
    for above in ["", "a", "a/b"] {
        let entries = fs::read_dir(folder.path().join(above)).into_iter().flatten();
        assert!(entries.count() <= 1, "something lies beside the cache");
    }
    error
}

#[test]
fn file_names_that_leave_the_cache_are_refused() {
    for name in ["../evil.json", "/etc/evil.json", "a/../../evil.json", "a\\..\\evil.json", ""] {
        let message = error(|state| state.listed.push(name.to_owned()));
        assert!(message.contains("is not accepted as a file in a repository"), "{message}");
    }
}

#[test]
fn commits_and_hashes_that_are_paths_are_refused() {
    for commit in ["../../../../evil", "main", "/evil"] {
        let message = error(|state| state.commit = Some(commit.to_owned()));
        assert!(message.contains("a commit of 40 hexadecimal digits"), "{message}");
    }
    for etag in ["../../../evil", "/evil", "a/b", ""] {
        let message = error(|state| state.etag = Some(etag.to_owned()));
        assert!(message.contains("the header ETag: expected a hash"), "{message}");
    }
}

#[test]
fn sizes_must_be_numbers_and_true() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    let hub = Hub::new(cache.path(), &server.endpoint());
    for (size, message) in [
        ("many", "the header Content-Length: expected a number of bytes, got many"),
        ("-1", "expected a number of bytes, got -1"),
        ("999", "the contents: expected 999 bytes, got more"),
    ] {
        server.state().size = Some(size.to_owned());
        let error = pull(&hub, &one("pytorch_model.bin")).expect_err(size).to_string();
        assert!(error.contains(message), "{error}");
    }
    server.state().size = None;
    pull(&hub, &one("pytorch_model.bin")).expect("pulled");
}

#[test]
fn a_resumed_download_of_other_contents_is_noticed_and_repeated() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    let hub = Hub::new(cache.path(), &server.endpoint());
    let blobs = cache.path().join("models--org--name/blobs");
    fs::create_dir_all(&blobs).expect("create");
    let incomplete = blobs.join(format!("{}.incomplete", etag_of(&weights())));
    fs::write(&incomplete, vec![7; 5000]).expect("write");
    let message = pull(&hub, &one("model.safetensors")).expect_err("damaged").to_string();
    assert!(message.contains("the contents: expected SHA-256"), "{message}");
    assert!(!incomplete.exists() && !blobs.join(etag_of(&weights())).exists());
    let path = pull(&hub, &one("model.safetensors")).expect("pulled");
    assert_eq!(fs::read(path).expect("read"), weights());
    // An attempt that is longer than the file starts anew.
    let folder = tempfile::tempdir().expect("temp");
    let hub = Hub::new(folder.path(), &server.endpoint());
    let blobs = folder.path().join("models--org--name/blobs");
    fs::create_dir_all(&blobs).expect("create");
    let incomplete = blobs.join(format!("{}.incomplete", etag_of(&weights())));
    fs::write(incomplete, vec![7; weights().len() + 1]).expect("write");
    pull(&hub, &one("model.safetensors")).expect("pulled");
}

#[test]
fn errors_of_the_server_are_passed_on_with_what_to_do() {
    let message = error(|state| state.faults.push_back(Fault::Status(404)));
    assert!(message.contains("404: no such repository, revision or file"), "{message}");
    let message = error(|state| state.faults.push_back(Fault::Status(403)));
    assert!(message.contains("set HF_TOKEN to a token that has access"), "{message}");
    let server = Server::start(&files());
    let cache = tempfile::tempdir().expect("temp");
    let hub = Hub::new(cache.path(), &server.endpoint());
    let absent = HubRequest { repo: "org/absent".into(), ..model() };
    let message = pull(&hub, &absent).expect_err("absent").to_string();
    assert!(message.contains("org/absent") && message.contains("404"), "{message}");
}

#[test]
fn an_answer_that_is_no_hubs_is_refused() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    // Below this path the server's contents are no list of files.
    let html = "api/models/org/name/revision/main";
    server.state().files.insert(html.to_owned(), b"<html>hello</html>".to_vec());
    let hub = Hub::new(cache.path(), &format!("{}/cdn", server.endpoint()));
    let message = pull(&hub, &model()).expect_err("HTML").to_string();
    assert!(message.contains("the list of files: expected JSON with `sha`"), "{message}");
}

#[test]
fn requests_with_names_that_leave_the_cache_are_refused_before_asking() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    let hub = Hub::new(cache.path(), &server.endpoint());
    for repo in ["../x", "org", "org/name/x", "org/..", "a--b/c", "org/na me"] {
        let request = HubRequest { repo: repo.into(), ..model() };
        assert!(pull(&hub, &request).is_err() && hub.cached(&request).is_err(), "{repo}");
    }
    for revision in ["../x", "/x", "a//b", ""] {
        let request = HubRequest { revision: Some(revision.into()), ..model() };
        assert!(pull(&hub, &request).is_err() && hub.cached(&request).is_err(), "{revision}");
    }
    for file in ["../x", "/etc/passwd", "a/./b"] {
        assert!(pull(&hub, &one(file)).is_err() && hub.cached(&one(file)).is_err(), "{file}");
    }
    assert!(server.take_log().is_empty());
    assert!(pull(&hub, &HubRequest { revision: Some(COMMIT.into()), ..model() }).is_ok());
}
