//! Which files the inputs name, in an order that depends on their names alone.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use puna_io::IoError;
use walkdir::WalkDir;

use crate::DataError;

/// The endings that are read, as errors and help name them.
pub const FORMATS: &str = "txt, md, html, htm, json, jsonl, ndjson, csv, tsv, parquet, each also \
                           with .gz or .zst";

/// What a file's ending says about its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Html,
    Json,
    JsonLines,
    Csv { delimiter: u8 },
    Parquet,
}

/// What its last ending says about its compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// One file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InputFile {
    pub(crate) path: Arc<Path>,
    pub(crate) format: Format,
    pub(crate) compression: Compression,
    /// On disk.
    pub(crate) bytes: u64,
}

/// The files of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct InputFiles {
    pub(crate) files: Vec<InputFile>,
    /// Files in folders and patterns whose ending is not known.
    pub(crate) left_out: u64,
}

/// Finds the files of `inputs`; what lies in `output` is not among them.
pub(crate) fn expand(inputs: &[String], output: &Path) -> Result<InputFiles, DataError> {
    let mut found = InputFiles::default();
    let mut seen = HashSet::new();
    let output = output.canonicalize().ok();
    for input in inputs {
        let path = Path::new(input);
        if path.is_file() {
            let file = input_file(path)?;
            let file = file.ok_or_else(|| DataError::UnknownFormat { path: path.to_path_buf() })?;
            if seen.insert(file.path.clone()) {
                found.files.push(file);
            }
            continue;
        }
        let paths = if path.is_dir() { files_in(path)? } else { matching(input)? };
        let (mut read, mut others) = (0, 0);
        for path in paths {
            let own = |dir: &PathBuf| path.canonicalize().is_ok_and(|p| p.starts_with(dir));
            if output.as_ref().is_some_and(own) {
                continue;
            }
            let Some(file) = input_file(&path)? else {
                others += 1;
                continue;
            };
            read += 1;
            if seen.insert(file.path.clone()) {
                found.files.push(file);
            }
        }
        if read == 0 {
            return Err(DataError::NothingToRead { input: input.clone(), files: others });
        }
        found.left_out += others as u64;
    }
    Ok(found)
}

/// All files of a folder and the folders in it, sorted.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = Vec::new();
    for entry in WalkDir::new(folder).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(folder).to_path_buf();
            let reason = error.to_string();
            let source = error.into_io_error().unwrap_or_else(|| std::io::Error::other(reason));
            IoError::Os { path, action: "list", source }
        })?;
        if entry.file_type().is_file() {
            paths.push(entry.into_path());
        }
    }
    Ok(paths)
}

/// All files that match a pattern, and those in the folders that match.
fn matching(pattern: &str) -> Result<Vec<PathBuf>, DataError> {
    let nothing = || DataError::NoInput { input: pattern.to_owned() };
    let mut paths = Vec::new();
    for entry in glob::glob(pattern).map_err(|_| nothing())? {
        let path = entry.map_err(|error| IoError::Os {
            path: error.path().to_path_buf(),
            action: "list",
            source: error.into(),
        })?;
        match path.is_dir() {
            true => paths.extend(files_in(&path)?),
            false => paths.push(path),
        }
    }
    if paths.is_empty() { Err(nothing()) } else { Ok(paths) }
}

/// A file by its ending; `None` if that is not known.
pub(crate) fn input_file(path: &Path) -> Result<Option<InputFile>, DataError> {
    let Some((format, compression)) = by_name(path) else { return Ok(None) };
    let bytes = std::fs::metadata(path).map_err(IoError::os(path, "read the size"))?.len();
    Ok(Some(InputFile { path: path.into(), format, compression, bytes }))
}

fn by_name(path: &Path) -> Option<(Format, Compression)> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let (name, compression) = match name.rsplit_once('.')? {
        (rest, "gz") => (rest, Compression::Gzip),
        (rest, "zst") => (rest, Compression::Zstd),
        _ => (name.as_str(), Compression::None),
    };
    let format = match name.rsplit_once('.')?.1 {
        "txt" | "md" => Format::Text,
        "html" | "htm" => Format::Html,
        "json" => Format::Json,
        "jsonl" | "ndjson" => Format::JsonLines,
        "csv" => Format::Csv { delimiter: b',' },
        "tsv" => Format::Csv { delimiter: b'\t' },
        "parquet" => Format::Parquet,
        _ => return None,
    };
    Some((format, compression))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn endings_say_format_and_compression() {
        let of = |name: &str| by_name(Path::new(name));
        assert_eq!(of("a/b.TXT"), Some((Format::Text, Compression::None)));
        assert_eq!(of("b.jsonl.zst"), Some((Format::JsonLines, Compression::Zstd)));
        assert_eq!(of("b.tsv.gz"), Some((Format::Csv { delimiter: b'\t' }, Compression::Gzip)));
        assert_eq!((of("b.gz"), of("b.pdf"), of("txt")), (None, None, None));
    }

    #[test]
    fn folders_and_patterns_give_sorted_files_once_and_count_the_others() {
        let dir = tempfile::tempdir().expect("temp");
        let root = dir.path();
        fs::create_dir_all(root.join("sub/out")).expect("folders");
        for name in ["b.txt", "a.txt", "sub/c.md", "sub/d.png", "sub/out/e.txt"] {
            fs::write(root.join(name), "x").expect("write");
        }
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let inputs = [text(&root.join("*.txt")), text(root)];
        let found = expand(&inputs, &root.join("sub/out")).expect("files");
        let names: Vec<_> =
            found.files.iter().map(|f| text(f.path.strip_prefix(root).expect("inside"))).collect();
        assert_eq!(names, ["a.txt", "b.txt", "sub/c.md"]);
        assert_eq!(found.left_out, 1);
    }

    #[test]
    fn an_input_that_names_nothing_is_an_error_that_says_so() {
        let error = expand(&["no/such/*.txt".to_owned()], Path::new("out")).expect_err("nothing");
        assert!(error.to_string().starts_with("no/such/*.txt: no such file"), "{error}");
        let dir = tempfile::tempdir().expect("temp");
        fs::write(dir.path().join("a.png"), "x").expect("write");
        let input = dir.path().to_str().expect("UTF-8").to_owned();
        let error = expand(&[input], Path::new("out")).expect_err("nothing known");
        assert!(error.to_string().contains("none of its 1 files has a known ending"), "{error}");
    }
}
