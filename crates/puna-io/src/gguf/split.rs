//! A model split over several GGUF files, as llama.cpp's `llama-gguf-split` writes it.
//!
//! The parts are called `NAME-00001-of-00003.gguf`; each holds the keys below, the first holds all
//! other metadata. Any part stands for the whole.

use std::path::{Path, PathBuf};

use super::metadata::Metadata;
use super::part::Part;
use crate::IoError;

/// Key of a part's number, from 0.
pub(super) const NUMBER_KEY: &str = "split.no";
/// Key of the number of parts.
pub(super) const COUNT_KEY: &str = "split.count";
/// Key of the number of tensors in all parts.
pub(super) const TENSORS_KEY: &str = "split.tensors.count";
/// Start of all keys above.
pub(super) const KEY_PREFIX: &str = "split.";

const ENDING: &str = ".gguf";
const DIGITS: usize = 5;

/// A part's file name, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    stem: &'a str,
    /// From 1.
    number: u32,
    count: u32,
}

/// `STEM-00001-of-00003.gguf` for the first of three; `number` counts from 0.
pub(super) fn name(stem: &str, number: usize, count: usize) -> String {
    format!("{stem}-{:05}-of-{count:05}{ENDING}", number + 1)
}

/// The stem that a file's name, split or not, gives to its parts.
pub(super) fn stem(name: &str) -> &str {
    match parse(name) {
        Some(parsed) => parsed.stem,
        None => name.strip_suffix(ENDING).unwrap_or(name),
    }
}

/// The names of all parts of the model that a part of this name belongs to.
pub(crate) fn siblings(name: &str) -> Option<Vec<String>> {
    let parsed = parse(name)?;
    let (stem, count) = (parsed.stem, parsed.count as usize);
    Some((0..count).map(|number| self::name(stem, number, count)).collect())
}

/// Whether a name is that of a part of a model called `stem`.
pub(super) fn is_part_of(name: &str, stem: &str) -> bool {
    parse(name).is_some_and(|parsed| parsed.stem == stem)
}

fn parse(name: &str) -> Option<Name<'_>> {
    let (rest, count) = name.strip_suffix(ENDING)?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |s: &str| {
        let well_formed = s.len() == DIGITS && s.bytes().all(|b| b.is_ascii_digit());
        if well_formed { s.parse::<u32>().ok() } else { None }
    };
    let (number, count) = (digits(number)?, digits(count)?);
    (1 <= number && number <= count).then_some(Name { stem, number, count })
}

/// Opens the other parts of the model that `given` belongs to; all parts in order.
pub(super) fn open_all(
    given: Part,
    mut open: impl FnMut(&Path) -> Result<Part, IoError>,
) -> Result<Vec<Part>, IoError> {
    let path = given.path.clone();
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let stated = given.metadata.get_u64(COUNT_KEY);
    let parsed = match (parse(name), stated) {
        (None, None | Some(0 | 1)) => return single(given),
        (Some(parsed), _) => parsed,
        (None, Some(count)) => {
            let expected =
                format!("{count} files called NAME{}", self::name("", 0, count as usize));
            return Err(IoError::invalid(&path, COUNT_KEY, expected, format!("the name {name}")));
        }
    };
    if parsed.count == 1 && stated.is_none() {
        return single(given);
    }
    let mut given = Some(given);
    let mut parts = Vec::new();
    for number in 0..parsed.count {
        let part_path =
            path.with_file_name(self::name(parsed.stem, number as usize, parsed.count as usize));
        let part = match given.take_if(|_| number + 1 == parsed.number) {
            Some(part) => part,
            None if part_path.exists() => open(&part_path)?,
            None => return Err(IoError::MissingFile { path: part_path, named_by: path }),
        };
        check_key(&part, COUNT_KEY, parsed.count.into())?;
        check_key(&part, NUMBER_KEY, number.into())?;
        parts.push(part);
    }
    check_tensor_count(&parts)?;
    Ok(parts)
}

/// A model in one file, which may say so.
fn single(part: Part) -> Result<Vec<Part>, IoError> {
    let parts = vec![part];
    if parts[0].metadata.get(TENSORS_KEY).is_some() {
        check_tensor_count(&parts)?;
    }
    Ok(parts)
}

fn check_key(part: &Part, key: &str, expected: u64) -> Result<(), IoError> {
    if part.metadata.get_u64(key) == Some(expected) {
        return Ok(());
    }
    let at = format!("metadata key `{key}`");
    let expected = format!("{expected}, as the file name says");
    Err(IoError::invalid(&part.path, at, expected, stated(&part.metadata, key)))
}

fn check_tensor_count(parts: &[Part]) -> Result<(), IoError> {
    let count: usize = parts.iter().map(|part| part.entries.len()).sum();
    for part in parts {
        if part.metadata.get_u64(TENSORS_KEY) != Some(count as u64) {
            let at = format!("metadata key `{TENSORS_KEY}`");
            let expected = format!("{count}, the number of tensors in all parts");
            return Err(IoError::invalid(
                &part.path,
                at,
                expected,
                stated(&part.metadata, TENSORS_KEY),
            ));
        }
    }
    Ok(())
}

fn stated(metadata: &Metadata, key: &str) -> String {
    match metadata.get(key) {
        None => "no such key".to_owned(),
        Some(value) => match value.as_i64() {
            Some(number) => number.to_string(),
            None => format!("a value of type {}", value.type_name()),
        },
    }
}

/// Where the parts of a model called `path` are written.
pub(super) fn part_paths(path: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![path.to_path_buf()];
    }
    let file_name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    (0..count).map(|n| path.with_file_name(name(stem(file_name), n, count))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_names_are_taken_apart() {
        let parsed = parse("llama-3-00002-of-00012.gguf");
        assert_eq!(parsed, Some(Name { stem: "llama-3", number: 2, count: 12 }));
        assert_eq!(name("llama-3", 1, 12), "llama-3-00002-of-00012.gguf");
        for other in [
            "llama.gguf",
            "llama-2-of-3.gguf",
            "llama-00004-of-00003.gguf",
            "llama-00000-of-00003.gguf",
            "llama-00001-of-00003.bin",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(stem("m.gguf"), "m");
        assert_eq!(stem("m-00001-of-00002.gguf"), "m");
    }
}
