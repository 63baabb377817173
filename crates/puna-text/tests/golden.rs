//! Where golden data lies, and how it is read.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A golden case's folder; `None`, said on stderr, where there is no golden data.
pub(crate) fn case(name: &str) -> Option<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let candidates = [
        std::env::var_os("PUNA_GOLDEN").map(PathBuf::from),
        Some(manifest.join("../../testdata/golden")),
        Some(manifest.join("../../../shared/golden/cases")),
    ];
    let found = candidates.into_iter().flatten().map(|root| root.join(name)).find(|p| p.exists());
    if found.is_none() {
        eprintln!("skipped: no golden case {name}");
    }
    found
}

/// A file under others' licences, which is not in the repository.
pub(crate) fn foreign(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden").join(name);
    let found = Some(path).filter(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: {name} is not there");
    }
    found
}

/// The rows of a JSON-lines file.
pub(crate) fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A list of ids.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}
