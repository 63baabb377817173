//! Where golden files are, and what a visible skip looks like.

use puna_config::ModelConfig;
use std::path::{Path, PathBuf};

/// The first existing of: `$PUNA_GOLDEN`, the repo's copy, the shared set.
pub(crate) fn golden_root() -> Option<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [
        std::env::var_os("PUNA_GOLDEN").map(PathBuf::from),
        Some(manifest.join("../../testdata/golden")),
        Some(manifest.join("../../../shared/golden/cases")),
    ];
    places.into_iter().flatten().find(|place| place.is_dir())
}

/// The text of a golden file; `None`, with a note, where the case is absent.
pub(crate) fn golden_text(path: &str) -> Option<String> {
    let text = golden_root().and_then(|root| std::fs::read_to_string(root.join(path)).ok());
    if text.is_none() {
        skipped(path);
    }
    text
}

/// A skip that the test's output shows.
#[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
pub(crate) fn skipped(what: &str) {
    eprintln!("skipped: golden file {what} is absent");
}

/// A config.json that must parse.
pub(crate) fn hf(text: &str) -> ModelConfig {
    ModelConfig::from_hf_json(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The error of a config.json that must not parse.
pub(crate) fn hf_error(text: &str) -> String {
    match ModelConfig::from_hf_json(text) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(e) => e.to_string(),
    }
}
