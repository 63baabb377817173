#![no_main]
//! Files of text for `puna data prepare`: txt, html, json, jsonl, csv and tsv, plain, gzip and zstd.
//! What is read is text, and texts of a plain file are no longer than it. The first byte chooses the
//! ending; the reader is asked for small pieces, so that cutting is met often.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use puna_data::prepare::{ReadSettings, read_texts};

const FORMATS: [&str; 6] = ["txt", "html", "json", "jsonl", "csv", "tsv"];
const COMPRESSIONS: [&str; 3] = ["", ".gz", ".zst"];

/// A folder of this process.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("puna-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary folder");
        dir
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((&kind, data)) = data.split_first() else { return };
    let format = FORMATS[usize::from(kind) % FORMATS.len()];
    let compression = COMPRESSIONS[usize::from(kind) / FORMATS.len() % COMPRESSIONS.len()];
    let path = folder().join(format!("a.{format}{compression}"));
    std::fs::write(&path, data).expect("the file");
    let settings = ReadSettings {
        text_key: "text".to_owned(),
        separator: (kind >= 128).then(|| "<|x|>".to_owned()),
        piece_bytes: 64,
    };
    let mut bytes = 0;
    let result = read_texts(&path, &settings, &mut |text| {
        bytes += text.map_or(0, |text| text.len());
        ControlFlow::Continue(())
    });
    // Entities, and the dashes and breaks of blocks, make a page longer than it was.
    if compression.is_empty() && format != "html" {
        assert!(bytes <= data.len(), "{bytes} bytes of text in {} of {format}", data.len());
    }
    if let Err(error) = result {
        assert!(error.to_string().contains("a."), "{error} names the file");
    }
});
