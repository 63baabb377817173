//! Downloads from a server that speaks the Hub's protocol, into a cache of its own.

use std::fs;
use std::path::{Path, PathBuf};

use puna_io::IoError;
use puna_io::hub::{Hub, HubRequest, Network};

use crate::hub_server::{COMMIT, Fault, Server, etag_of};

pub(crate) fn model() -> HubRequest {
    HubRequest { repo: "org/name".into(), revision: None, file: None }
}

pub(crate) fn one(file: &str) -> HubRequest {
    HubRequest { file: Some(file.into()), ..model() }
}

/// Weights that no two ranges of agree in.
pub(crate) fn weights() -> Vec<u8> {
    (0..50_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 8).to_le_bytes()).collect()
}

pub(crate) fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("README.md", b"not needed".to_vec()),
        ("config.json", b"{\"a\": 1}".to_vec()),
        ("model.safetensors", weights()),
        ("pytorch_model.bin", vec![0; 1000]),
    ]
}

pub(crate) fn pull(hub: &Hub, request: &HubRequest) -> Result<PathBuf, IoError> {
    hub.pull(request, &mut |_| {})
}

fn repo(cache: &Path) -> PathBuf {
    cache.join("models--org--name")
}

#[test]
fn a_model_lands_in_the_cache_that_hugging_face_tools_share() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    let hub = Hub::new(cache.path(), &server.endpoint());
    let mut steps = Vec::new();
    let folder = hub.pull(&model(), &mut |step| {
        assert!(Some(step.done) <= step.total);
        steps.push((step.file.to_owned(), step.done, step.total));
    });
    let folder = folder.expect("pulled");
    assert_eq!(folder, repo(cache.path()).join("snapshots").join(COMMIT));
    let mut names: Vec<_> =
        fs::read_dir(&folder).expect("listable").map(|e| e.expect("entry").file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["config.json", "model.safetensors"]);
    assert_eq!(fs::read(folder.join("model.safetensors")).expect("read"), weights());
    let reference = fs::read_to_string(repo(cache.path()).join("refs/main")).expect("read");
    assert_eq!(reference, COMMIT);
    #[cfg(unix)]
    {
        let target = fs::read_link(folder.join("model.safetensors")).expect("a link");
        assert_eq!(target, Path::new("../../blobs").join(etag_of(&weights())));
    }
    let size = weights().len() as u64;
    assert_eq!(steps.first(), Some(&("config.json".to_owned(), 0, Some(8))));
    assert_eq!(steps.last(), Some(&("model.safetensors".to_owned(), size, Some(size))));
}

#[test]
fn a_second_pull_downloads_nothing() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    let hub = Hub::new(cache.path(), &server.endpoint());
    assert_eq!(hub.cached(&model()).expect("asked"), None);
    let folder = pull(&hub, &model()).expect("pulled");
    server.take_log();
    assert_eq!(pull(&hub, &model()).expect("pulled"), folder);
    assert_eq!(server.take_log(), ["GET /api/models/org/name/revision/main"]);
    assert_eq!(hub.cached(&model()).expect("asked"), Some(folder));
    assert_eq!(hub.cached(&one("README.md")).expect("asked"), None);
    assert!(server.take_log().is_empty(), "the cache needs no network");
}

#[test]
fn a_cut_connection_is_resumed_where_it_ended() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    let hub = Hub::new(cache.path(), &server.endpoint());
    server.state().faults.extend([
        Fault::CutAfter(usize::MAX), // config.json is whole
        Fault::CutAfter(70_000),
        Fault::Status(503),
    ]);
    let folder = pull(&hub, &model()).expect("pulled");
    assert_eq!(fs::read(folder.join("model.safetensors")).expect("read"), weights());
    let contents: Vec<String> =
        server.take_log().into_iter().filter(|line| line.starts_with("GET /cdn/")).collect();
    let resumed = "GET /cdn/model.safetensors 70000-";
    assert_eq!(contents, ["GET /cdn/model.safetensors", resumed, resumed]);
}

#[test]
fn the_next_pull_resumes_what_the_last_one_left() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    let hub = Hub::new(cache.path(), &server.endpoint());
    server.state().faults.extend([
        Fault::CutAfter(usize::MAX),
        Fault::CutAfter(90_000),
        Fault::Status(403),
    ]);
    let error = pull(&hub, &model()).expect_err("refused").to_string();
    assert!(error.contains("the Hub answers 403"), "{error}");
    assert_eq!(hub.cached(&model()).expect("asked"), None, "half a model is no model");
    let incomplete = format!("blobs/{}.incomplete", etag_of(&weights()));
    let incomplete = repo(cache.path()).join(incomplete);
    assert_eq!(fs::metadata(&incomplete).expect("kept").len(), 90_000);
    server.take_log();
    let mut first = None;
    let folder = hub.pull(&model(), &mut |step| {
        if step.file == "model.safetensors" {
            first.get_or_insert(step.done);
        }
    });
    assert_eq!(first, Some(90_000), "progress counts what is there");
    assert!(server.take_log().contains(&"GET /cdn/model.safetensors 90000-".to_owned()));
    let file = folder.expect("pulled").join("model.safetensors");
    assert_eq!(fs::read(file).expect("read"), weights());
    assert!(!incomplete.exists());
}

#[test]
fn a_server_without_ranges_is_asked_for_the_whole() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    let hub = Hub::new(cache.path(), &server.endpoint());
    server.state().ignores_ranges = true;
    server.state().faults.extend([Fault::CutAfter(usize::MAX), Fault::CutAfter(1000)]);
    let folder = pull(&hub, &model()).expect("pulled");
    assert_eq!(fs::read(folder.join("model.safetensors")).expect("read"), weights());
}

#[test]
fn offline_mode_takes_all_from_the_cache_or_says_what_is_missing() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    let online = Hub::new(cache.path(), &server.endpoint());
    let offline = online.clone().with_network(Network::Offline);
    let error = pull(&offline, &model()).expect_err("empty").to_string();
    assert!(error.starts_with("org/name is not in the cache"), "{error}");
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    assert!(server.take_log().is_empty());
    let folder = pull(&online, &model()).expect("pulled");
    server.take_log();
    assert_eq!(pull(&offline, &model()).expect("cached"), folder);
    let file = pull(&offline, &one("config.json")).expect("cached");
    assert_eq!(file, folder.join("config.json"));
    let by_commit = HubRequest { revision: Some(COMMIT.into()), ..model() };
    assert_eq!(pull(&offline, &by_commit).expect("cached"), folder);
    let error = pull(&offline, &one("model-Q4.gguf")).expect_err("absent").to_string();
    assert!(error.starts_with("org/name:model-Q4.gguf is not in the cache"), "{error}");
    assert!(server.take_log().is_empty());
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    server.state().token = Some("secret".into());
    let without = Hub::new(cache.path(), &server.endpoint());
    let error = pull(&without, &model()).expect_err("gated").to_string();
    assert!(error.contains("401") && error.contains("licence"), "{error}");
    assert!(error.contains("set HF_TOKEN"), "{error}");
    let wrong = without.clone().with_token(Some("stolen".into()));
    let error = pull(&wrong, &model()).expect_err("gated").to_string();
    assert!(error.contains("the token of HF_TOKEN has no access"), "{error}");
    assert!(!error.contains("stolen"), "{error}");
    server.take_log();
    pull(&without.with_token(Some("secret".into())), &model()).expect("pulled");
    let log = server.take_log();
    assert!(log.iter().any(|line| line.starts_with("GET /cdn/")), "{log:?}");
    for line in log {
        assert_eq!(line.ends_with(" +token"), !line.contains("/cdn/"), "{line}");
    }
}

#[test]
fn a_renamed_repository_is_followed() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    server.state().token = Some("secret".into());
    let hub = Hub::new(cache.path(), &server.endpoint()).with_token(Some("secret".into()));
    let old = HubRequest { repo: "old/name".into(), ..model() };
    let folder = pull(&hub, &old).expect("pulled");
    assert!(folder.starts_with(cache.path().join("models--old--name")));
    assert_eq!(fs::read(folder.join("model.safetensors")).expect("read"), weights());
}

#[test]
fn revisions_are_kept_apart() {
    let (server, cache) = (Server::start(&files()), tempfile::tempdir().expect("temp"));
    let hub = Hub::new(cache.path(), &server.endpoint());
    let request = HubRequest { revision: Some("refs/pr/1".into()), ..model() };
    pull(&hub, &request).expect("pulled");
    let reference = repo(cache.path()).join("refs/refs/pr/1");
    assert_eq!(fs::read_to_string(reference).expect("read"), COMMIT);
    assert_eq!(hub.cached(&model()).expect("asked"), None, "main was never pulled");
    let absent = HubRequest { revision: Some("v9".into()), ..model() };
    let error = pull(&hub, &absent).expect_err("absent").to_string();
    assert!(error.contains("revision/v9: the Hub answers 404: no such revision"), "{error}");
}

#[test]
fn a_split_gguf_comes_with_all_its_parts() {
    let first = "q 4/m-00001-of-00002.gguf";
    let second = "q 4/m-00002-of-00002.gguf";
    let contents = [(first, vec![1; 900]), (second, vec![2; 800]), ("m-Q8_0.gguf", vec![3; 700])];
    let (server, cache) = (Server::start(&contents), tempfile::tempdir().expect("temp"));
    let hub = Hub::new(cache.path(), &server.endpoint());
    let error = pull(&hub, &model()).expect_err("several").to_string();
    assert!(error.ends_with(&format!("name one: m-Q8_0.gguf, {first}")), "{error}");
    let path = pull(&hub, &one(second)).expect("pulled");
    assert_eq!(fs::read(&path).expect("read"), [2; 800]);
    assert_eq!(fs::read(path.with_file_name("m-00001-of-00002.gguf")).expect("read"), [1; 900]);
    assert_eq!(hub.cached(&one(second)).expect("asked"), Some(path.clone()));
    fs::remove_file(path.with_file_name("m-00001-of-00002.gguf")).expect("remove");
    assert_eq!(hub.cached(&one(second)).expect("asked"), None);
    let error = pull(&hub, &one("m-Q9.gguf")).expect_err("absent").to_string();
    assert!(error.starts_with("org/name has no file m-Q9.gguf; it has m-Q8_0.gguf, "), "{error}");
}
