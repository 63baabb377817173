//! Which files of a folder are the checkpoint.
//!
//! | rank | files |
//! |---|---|
//! | 1 | `model.safetensors`, else `model.safetensors.index.json` |
//! | 2 | `pytorch_model.bin`, else `pytorch_model.bin.index.json` |
//! | 3 | `params.json` with `consolidated.*` |
//! | 4 | one other `*.safetensors.index.json` or `gptq_model*.safetensors` |
//! | 5 | one other `*.safetensors` (beside `config.json`), `*.gguf`, `*.pth`, `*.pt` or `*.bin` |
//!
//! Within a rank two candidates are ambiguous. Adapters are not checkpoints.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::pytorch::{PICKLE_MAGIC, ZIP_MAGIC};
use crate::{IoError, meta};

/// A checkpoint that was found, not yet opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Safetensors(PathBuf),
    SafetensorsIndex(PathBuf),
    PyTorch(PathBuf),
    PyTorchIndex(PathBuf),
    Meta(PathBuf),
    Gguf(PathBuf),
}

const SAFETENSORS_INDEX: &str = ".safetensors.index.json";
const PYTORCH_INDEX: &str = ".bin.index.json";
const GGUF_MAGIC: &[u8] = b"GGUF";

impl Found {
    /// The folder of the files.
    pub(super) fn root(&self) -> &Path {
        match self {
            Self::Meta(dir) => dir,
            Self::Safetensors(file)
            | Self::SafetensorsIndex(file)
            | Self::PyTorch(file)
            | Self::PyTorchIndex(file)
            | Self::Gguf(file) => parent(file),
        }
    }
}

/// Looks at a folder or file.
pub(super) fn find(path: &Path) -> Result<Found, IoError> {
    let meta = std::fs::metadata(path).map_err(IoError::os(path, "open"))?;
    if meta.is_dir() { in_folder(path) } else { from_file(path) }
}

fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// A file is what its first bytes say; a shard stands for its whole.
fn from_file(path: &Path) -> Result<Found, IoError> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if name.ends_with(SAFETENSORS_INDEX) {
        return Ok(Found::SafetensorsIndex(path.to_path_buf()));
    }
    if name.ends_with(PYTORCH_INDEX) {
        return Ok(Found::PyTorchIndex(path.to_path_buf()));
    }
    if meta::shard_rank(name).is_some() && path.with_file_name(meta::PARAMS).is_file() {
        return Ok(Found::Meta(parent(path).to_path_buf()));
    }
    if let Some(index) = index_of_shard(path, name) {
        return Ok(match index.1 {
            SAFETENSORS_INDEX => Found::SafetensorsIndex(index.0),
            _ => Found::PyTorchIndex(index.0),
        });
    }
    let first = first_bytes(path)?;
    if first.starts_with(GGUF_MAGIC) {
        Ok(Found::Gguf(path.to_path_buf()))
    } else if first.starts_with(ZIP_MAGIC) || first.starts_with(PICKLE_MAGIC) {
        Ok(Found::PyTorch(path.to_path_buf()))
    } else if first.get(8) == Some(&b'{') || name.ends_with(".safetensors") {
        Ok(Found::Safetensors(path.to_path_buf()))
    } else {
        let found = vec![format!("a file that starts with `{}`", first.escape_ascii())];
        Err(IoError::NotACheckpoint { path: path.to_path_buf(), found })
    }
}

/// The index beside `STEM-00001-of-00003.safetensors`, and its ending.
fn index_of_shard(path: &Path, name: &str) -> Option<(PathBuf, &'static str)> {
    let (stem, of) = name.rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    let (count, ending) = of.split_once('.')?;
    if !number.bytes().chain(count.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let index = match ending {
        "safetensors" => SAFETENSORS_INDEX,
        "bin" => PYTORCH_INDEX,
        _ => return None,
    };
    let path = path.with_file_name(format!("{stem}{index}"));
    path.is_file().then_some((path, index))
}

fn first_bytes(path: &Path) -> Result<Vec<u8>, IoError> {
    let mut first = Vec::new();
    let file = File::open(path).map_err(IoError::os(path, "open"))?;
    file.take(16).read_to_end(&mut first).map_err(IoError::os(path, "read"))?;
    Ok(first)
}

fn in_folder(dir: &Path) -> Result<Found, IoError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(IoError::os(dir, "list"))? {
        let entry = entry.map_err(IoError::os(dir, "list"))?;
        if entry.path().is_file() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    names.sort_unstable();
    let has = |name: &str| names.iter().any(|n| n == name);
    for (name, found) in [
        ("model.safetensors", Found::Safetensors as fn(PathBuf) -> Found),
        ("model.safetensors.index.json", Found::SafetensorsIndex),
        ("pytorch_model.bin", Found::PyTorch),
        ("pytorch_model.bin.index.json", Found::PyTorchIndex),
    ] {
        if has(name) {
            return Ok(found(dir.join(name)));
        }
    }
    let meta_files = names.iter().any(|n| meta::shard_rank(n).is_some());
    if has(meta::PARAMS) && (meta_files || has(meta::SINGLE_SAFETENSORS)) {
        return Ok(Found::Meta(dir.to_path_buf()));
    }
    let ranks: [fn(&str, bool) -> bool; 2] = [
        |n, _| {
            n.ends_with(SAFETENSORS_INDEX)
                || (n.starts_with("gptq_model") && n.ends_with(".safetensors"))
        },
        is_other_weights,
    ];
    let config = has("config.json");
    for is_candidate in ranks {
        let mut candidates: Vec<String> =
            names.iter().filter(|n| is_candidate(n, config)).cloned().collect();
        candidates.retain(|n| !is_later_split(n));
        match candidates.as_slice() {
            [] => {}
            [only] => return from_file(&dir.join(only)),
            _ => return Err(IoError::Ambiguous { path: dir.to_path_buf(), candidates }),
        }
    }
    Err(IoError::NotACheckpoint { path: dir.to_path_buf(), found: names })
}

/// Weights under a name of the user's choice.
fn is_other_weights(name: &str, has_config: bool) -> bool {
    const NOT_MODELS: [&str; 5] = ["adapter", "optimizer", "scheduler", "training_args", "rng_"];
    if NOT_MODELS.iter().any(|prefix| name.starts_with(prefix)) {
        return false;
    }
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        // Without its configuration a safetensors file is data, not a model.
        Some("safetensors") => has_config,
        Some("gguf" | "pth" | "pt" | "bin") => true,
        _ => false,
    }
}

/// Whether a name is `…-0000i-of-0000N.…` with i above 1: the first part stands for all.
fn is_later_split(name: &str) -> bool {
    name.rsplit_once("-of-")
        .and_then(|(stem, _)| stem.rsplit_once('-'))
        .and_then(|(_, number)| number.parse::<u32>().ok())
        .is_some_and(|number| number > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temp");
        for name in names {
            let start: &[u8] = match name.rsplit_once('.') {
                Some((_, "gguf")) => b"GGUF",
                Some((_, "safetensors")) => b"\x02\0\0\0\0\0\0\0{}",
                Some((_, "bin" | "pth")) => b"\x80\x02",
                _ => b"{}",
            };
            std::fs::write(dir.path().join(name), start).expect("write");
        }
        dir
    }

    fn found(names: &[&str]) -> Result<Found, String> {
        let dir = folder(names);
        let relative = |p: PathBuf| p.strip_prefix(dir.path()).expect("inside").to_path_buf();
        find(dir.path()).map_err(|e| e.to_string()).map(|f| match f {
            Found::Safetensors(p) => Found::Safetensors(relative(p)),
            Found::SafetensorsIndex(p) => Found::SafetensorsIndex(relative(p)),
            Found::PyTorch(p) => Found::PyTorch(relative(p)),
            Found::PyTorchIndex(p) => Found::PyTorchIndex(relative(p)),
            Found::Meta(p) => Found::Meta(relative(p)),
            Found::Gguf(p) => Found::Gguf(relative(p)),
        })
    }

    #[test]
    fn published_names_come_first() {
        let both = found(&["model.safetensors", "pytorch_model.bin", "golden.safetensors"]);
        assert_eq!(both, Ok(Found::Safetensors("model.safetensors".into())));
        let bin = found(&["pytorch_model.bin", "extra.safetensors", "config.json"]);
        assert_eq!(bin, Ok(Found::PyTorch("pytorch_model.bin".into())));
        let meta = found(&["params.json", "consolidated.00.pth", "extra.safetensors"]);
        assert_eq!(meta, Ok(Found::Meta("".into())));
        let gptq = found(&["config.json", "gptq_model-4bit.safetensors", "extra.safetensors"]);
        assert_eq!(gptq, Ok(Found::Safetensors("gptq_model-4bit.safetensors".into())));
    }

    #[test]
    fn a_single_file_may_have_any_name() {
        let gguf = found(&["tiny-q8.gguf", "golden.safetensors"]);
        assert_eq!(gguf, Ok(Found::Gguf("tiny-q8.gguf".into())));
        let split = found(&["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]);
        assert_eq!(split, Ok(Found::Gguf("m-00001-of-00002.gguf".into())));
        let tensors = found(&["weights.safetensors", "config.json"]);
        assert_eq!(tensors, Ok(Found::Safetensors("weights.safetensors".into())));
    }

    #[test]
    fn several_or_no_candidates_are_listed() {
        let several = found(&["a.gguf", "b.gguf"]).expect_err("two");
        assert!(several.contains("a.gguf, b.gguf"), "{several}");
        let none = found(&["config.json", "adapter_model.safetensors"]).expect_err("none");
        assert!(none.contains("no checkpoint here; found adapter_model.safetensors"), "{none}");
        assert!(found(&[]).expect_err("none").contains("found nothing"));
    }

    #[test]
    fn a_shard_stands_for_its_whole() {
        let dir = folder(&["model-00002-of-00002.safetensors", "model.safetensors.index.json"]);
        let found = find(&dir.path().join("model-00002-of-00002.safetensors")).expect("found");
        assert_eq!(found, Found::SafetensorsIndex(dir.path().join("model.safetensors.index.json")));
    }
}
