//! Hub ids as MODEL, from a cache laid out as huggingface_hub lays it out; no network.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use puna_testkit::golden_dir;
use serde_json::Value;

use crate::run::command;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A cache that holds `case` as `org/tiny`.
fn cache_with(case: &Path, home: &Path) {
    let repo = home.join("hub/models--org--tiny");
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).expect("folders");
    fs::create_dir_all(repo.join("refs")).expect("folders");
    fs::write(repo.join("refs/main"), COMMIT).expect("written");
    for entry in fs::read_dir(case).expect("a case").flatten() {
        if !entry.file_name().to_string_lossy().starts_with("golden.") {
            fs::copy(entry.path(), snapshot.join(entry.file_name())).expect("copied");
        }
    }
}

#[test]
fn a_hub_id_in_the_cache_runs_offline() {
    let Some(case) = golden_dir("text/llama2-gqa") else { return };
    let home = tempfile::tempdir().expect("a temporary folder");
    cache_with(&case, home.path());
    let run = |args: &[&str]| {
        let output = command(args)
            .env("HF_HOME", home.path())
            .env_remove("HF_HUB_CACHE")
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts");
        (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, stdout, stderr) = run(&["info", "-m", "org/tiny", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let json: Value = serde_json::from_slice(&stdout).expect("JSON");
    assert_eq!(json["architecture"], "llama");
    let (code, stdout, stderr) = run(&["pull", "org/tiny"]);
    assert_eq!(code, Some(0), "{stderr}");
    let path = String::from_utf8(stdout).expect("UTF-8");
    assert!(Path::new(path.trim()).join("config.json").exists(), "{path}");
    let (code, _, stderr) = run(&["info", "-m", "org/other"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("HF_HUB_OFFLINE"), "{stderr}");
}
