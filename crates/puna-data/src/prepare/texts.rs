//! The documents of one file as [`prepare`](super::prepare()) reads them, before it filters any: to
//! look at what a file holds, and for fuzzing the readers without a tokenizer and shards behind them.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::inputs::input_file;
use super::read::{ReadSettings, read_file};
use crate::DataError;

/// Gives `each` the text of every document of a file, or why it has none, until it breaks.
///
/// # Errors
/// The file's ending says nothing, or the file cannot be read on; documents before that have been
/// given.
pub fn read_texts(
    path: &Path,
    settings: &ReadSettings,
    each: &mut dyn FnMut(Result<String, DataError>) -> ControlFlow<()>,
) -> Result<(), DataError> {
    let file = input_file(path)?;
    let file = file.ok_or_else(|| DataError::UnknownFormat { path: path.to_path_buf() })?;
    read_file(&file, settings, &Arc::new(AtomicU64::new(0)), &mut |document| {
        each(document.and_then(|document| document.into_text(&settings.text_key)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_in_order_until_the_caller_has_enough() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, "\"one\"\n{\n{\"text\": \"three\"}\n\"four\"\n").expect("written");
        let settings = ReadSettings {
            text_key: "text".to_owned(),
            separator: None,
            piece_bytes: super::super::DEFAULT_PIECE_BYTES as usize,
        };
        let mut texts = Vec::new();
        read_texts(&path, &settings, &mut |text| {
            texts.push(text.map_err(|error| error.to_string().contains("line 2")));
            if texts.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .expect("read");
        assert_eq!(texts, [Ok("one".to_owned()), Err(true), Ok("three".to_owned())]);
        let unknown = read_texts(&dir.path().join("a.pdf"), &settings, &mut |_| unreachable!());
        assert!(matches!(unknown, Err(DataError::UnknownFormat { .. })));
    }
}
