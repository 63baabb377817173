//! Inputs, a tokenizer and calls that the tests share.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use puna_data::manifest::{Manifest, Split};
use puna_data::prepare::{Source, TokenizerChoice};
use puna_data::{DataError, PrepareOptions, RowSource, TokenData, TokenWindows, WindowOptions};
use puna_text::{DecodeSpecials, Tokenizer};
use tempfile::TempDir;

/// A folder for inputs and output that is gone afterwards.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(dir.path().join("in")).expect("a folder");
        Self { dir }
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes an input.
    pub(crate) fn file(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path("in").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, contents).expect("written");
    }

    /// Inputs in `in`, output in `out`, the bytes' tokenizer, no validation split.
    pub(crate) fn options(&self) -> PrepareOptions {
        let input = self.path("in").to_str().expect("UTF-8").to_owned();
        let sources = vec![Source::new("data", vec![input])];
        let mut options = PrepareOptions::new(sources, self.path("out"), bytes_tokenizer());
        options.validation_fraction = 0.0;
        options.threads = 2;
        options
    }
}

/// A tokenizer whose ids are the bytes plus 3, with bos 0 before a text: checkable by eye.
pub(crate) fn bytes_tokenizer() -> TokenizerChoice {
    let none: [&str; 0] = [];
    let trained = puna_text::train_bpe(none.iter(), 259).expect("a tokenizer without merges");
    TokenizerChoice::Files(vec![
        ("tokenizer.json".to_owned(), trained.tokenizer_json.into_bytes()),
        ("tokenizer_config.json".to_owned(), trained.tokenizer_config_json.into_bytes()),
    ])
}

/// Prepares to the end.
pub(crate) fn prepare(options: &PrepareOptions) -> Result<Manifest, DataError> {
    puna_data::prepare(options, &mut |_| ControlFlow::Continue(()))
}

/// The documents of a split as texts, in the order of the shards.
pub(crate) fn texts(dir: &Path, split: Split) -> Vec<String> {
    let data = TokenData::open(dir).expect("sound data");
    let tokenizer = Tokenizer::from_path(dir).expect("its tokenizer");
    let count = data.tokens(split) as usize;
    if count < 2 {
        return Vec::new();
    }
    let rows = TokenWindows::new(&data, split, WindowOptions::new(count - 1)).expect("a window");
    let row = rows.row(0).expect("a row");
    let mut tokens = row.tokens;
    tokens.extend(row.targets.last());
    tokens
        .split(|&token| token == 0)
        .skip(1)
        .map(|document| tokenizer.decode(document, DecodeSpecials::Skip).expect("text"))
        .collect()
}

/// All files of a folder with their contents, sorted.
pub(crate) fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .expect("a folder")
        .flatten()
        .map(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            (name, fs::read(e.path()).expect("a file"))
        })
        .collect();
    files.sort();
    files
}

/// Documents of made-up words, different ones for each number.
pub(crate) fn story(number: usize) -> String {
    let word = |i: usize| ["llama", "puna", "grass", "walks", "high", "alpaca", "the", "a"][i % 8];
    (0..40 + number % 60)
        .map(|i| format!("{}{} ", word(i * (number + 3)), number * i % 97))
        .collect()
}
