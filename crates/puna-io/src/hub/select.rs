//! Which files of a repository are the model.
//!
//! Repositories often hold the same weights several times; one kind is taken, in the order in
//! which a folder is read (see [`crate::Checkpoint`]).

use std::path::{Path, PathBuf};

use crate::IoError;

/// Files of a repository that make up a model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) files: Vec<String>,
    weights: Vec<String>,
    /// The folder in the repository, where it is not the root.
    subfolder: Option<&'static str>,
}

const META_FOLDER: &str = "original";

impl Model {
    /// Where the model lies in a snapshot.
    pub(super) fn folder(&self, snapshot: &Path) -> PathBuf {
        match self.subfolder {
            Some(subfolder) => snapshot.join(subfolder),
            None => snapshot.to_path_buf(),
        }
    }

    /// Whether no shard is missing between those that are there.
    pub(super) fn is_complete(&self) -> bool {
        let has = |name: &str| self.weights.iter().any(|w| w == name);
        let sharded: Vec<_> = self.weights.iter().filter_map(|name| shard(name)).collect();
        if let Some(&(stem, count, ending)) = sharded.first() {
            return (1..=count).all(|n| has(&format!("{stem}-{n:05}-of-{count:05}.{ending}")));
        }
        self.weights.iter().any(|name| !is_index(name))
    }
}

/// Stem, number of shards and ending of `STEM-00001-of-00003.ENDING`.
fn shard(name: &str) -> Option<(&str, u32, &str)> {
    let (rest, of) = name.rsplit_once("-of-")?;
    let (count, ending) = of.split_once('.')?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    (digits(number) && digits(count)).then_some((stem, count.parse().ok()?, ending))
}

fn is_index(name: &str) -> bool {
    name.ends_with(".index.json")
}

/// Chooses the files of the model among all of a repository.
///
/// # Errors
/// There are only GGUF files, of which one must be named; or no weights at all.
pub(super) fn model(repo: &str, all: &[String]) -> Result<Model, IoError> {
    let root: Vec<&str> = all.iter().map(String::as_str).filter(|n| !n.contains('/')).collect();
    for choose in [safetensors, pytorch, meta] {
        let weights = choose(&root);
        if !weights.is_empty() {
            let mut files: Vec<String> =
                all.iter().filter(|name| is_beside(name)).cloned().collect();
            // Small files first; the index before its shards.
            let (index, tensors): (Vec<_>, Vec<_>) = weights.into_iter().partition(|n| is_index(n));
            let weights: Vec<String> = [index, tensors].concat();
            files.retain(|name| !weights.contains(name));
            files.extend(weights.iter().cloned());
            return Ok(Model { files, weights, subfolder: None });
        }
    }
    let inner: Vec<&str> = all
        .iter()
        .filter_map(|n| n.strip_prefix(META_FOLDER)?.strip_prefix('/'))
        .filter(|n| !n.contains('/'))
        .collect();
    let weights = meta(&inner);
    if !weights.is_empty() {
        let inside = |name: &String| format!("{META_FOLDER}/{name}");
        let beside = inner.iter().filter(|name| is_beside(name)).map(|n| (*n).to_owned());
        let mut names: Vec<String> = beside.collect();
        names.retain(|name| !weights.contains(name));
        names.extend(weights.iter().cloned());
        return Ok(Model {
            files: names.iter().map(inside).collect(),
            weights: weights.iter().map(inside).collect(),
            subfolder: Some(META_FOLDER),
        });
    }
    let ggufs: Vec<String> = all.iter().filter(|n| is_first_gguf(n)).cloned().collect();
    let path = PathBuf::from(repo);
    if ggufs.is_empty() {
        Err(IoError::NotACheckpoint { path, found: all.to_vec() })
    } else {
        Err(IoError::Ambiguous { path, candidates: ggufs })
    }
}

/// A GGUF, or the first part of a split one.
fn is_first_gguf(name: &str) -> bool {
    let is_later_part = || shard(name).is_some() && !name.contains("-00001-of-");
    name.ends_with(".gguf") && !is_later_part()
}

fn owned<'a>(names: impl Iterator<Item = &'a &'a str>) -> Vec<String> {
    names.map(|name| (*name).to_owned()).collect()
}

/// One file of a name, or an index with the shards of a stem.
fn single_or_sharded(root: &[&str], stem: &str, ending: &str) -> Vec<String> {
    let single = format!("{stem}.{ending}");
    if root.contains(&single.as_str()) {
        return vec![single];
    }
    let index = format!("{stem}.{ending}.index.json");
    if !root.contains(&index.as_str()) {
        return Vec::new();
    }
    owned(root.iter().filter(|name| {
        **name == index || shard(name).is_some_and(|(s, _, e)| s == stem && e == ending)
    }))
}

fn safetensors(root: &[&str]) -> Vec<String> {
    let usual = single_or_sharded(root, "model", "safetensors");
    if !usual.is_empty() {
        return usual;
    }
    let candidates = || root.iter().filter(|n| n.ends_with(".safetensors"));
    let gptq = owned(candidates().filter(|n| n.starts_with("gptq_model")));
    if !gptq.is_empty() {
        return gptq;
    }
    owned(candidates().filter(|n| !n.starts_with("adapter_") && !n.starts_with("consolidated")))
}

fn pytorch(root: &[&str]) -> Vec<String> {
    single_or_sharded(root, "pytorch_model", "bin")
}

fn meta(folder: &[&str]) -> Vec<String> {
    if !folder.contains(&"params.json") {
        return Vec::new();
    }
    owned(folder.iter().filter(|n| {
        n.starts_with("consolidated.") && (n.ends_with(".pth") || n.ends_with(".safetensors"))
    }))
}

/// Whether a file belongs beside the weights: configuration, tokenizer, templates, licence.
fn is_beside(name: &str) -> bool {
    if let Some(template) = name.strip_prefix("additional_chat_templates/") {
        return template.ends_with(".jinja") && !template.contains('/');
    }
    const VOCABULARIES: [&str; 2] = ["merges.txt", "vocab.txt"];
    const TRAINER_LOG: &str = "trainer_state.json";
    let lower = name.to_ascii_lowercase();
    let is_licence = lower.starts_with("license") || lower.starts_with("licence");
    let by_ending = match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("json") => !is_index(name) && name != TRAINER_LOG,
        Some("model" | "jinja" | "tiktoken") => true,
        _ => VOCABULARIES.contains(&name),
    };
    !name.contains('/') && (is_licence || by_ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(names: &[&str]) -> Result<Model, IoError> {
        let all: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        model("org/name", &all)
    }

    fn files(names: &[&str]) -> Vec<String> {
        choose(names).expect("a model").files
    }

    #[test]
    fn safetensors_win_over_other_copies_of_the_weights() {
        let chosen = files(&[
            ".gitattributes",
            "LICENSE.txt",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "original/consolidated.00.pth",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "tokenizer.model",
            "trainer_state.json",
        ]);
        assert_eq!(
            chosen,
            [
                "LICENSE.txt",
                "config.json",
                "tokenizer.model",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ]
        );
    }

    #[test]
    fn other_containers_follow_in_order() {
        let gptq = files(&["config.json", "gptq_model-4bit-128g.safetensors", "x.safetensors"]);
        assert_eq!(gptq, ["config.json", "gptq_model-4bit-128g.safetensors"]);
        let pytorch = files(&["config.json", "pytorch_model.bin", "original/params.json"]);
        assert_eq!(pytorch, ["config.json", "pytorch_model.bin"]);
        let meta = files(&["params.json", "consolidated.00.pth", "tokenizer.model"]);
        assert_eq!(meta, ["params.json", "tokenizer.model", "consolidated.00.pth"]);
        let original =
            choose(&["README.md", "original/params.json", "original/consolidated.00.pth"]);
        let original = original.expect("a model");
        assert_eq!(original.files, ["original/params.json", "original/consolidated.00.pth"]);
        assert_eq!(original.folder(Path::new("s")), Path::new("s/original"));
    }

    #[test]
    fn a_gguf_must_be_named() {
        let names = ["a-Q4_0.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"];
        let message = choose(&names).expect_err("several").to_string();
        assert!(message.contains("org/name"), "{message}");
        assert!(message.ends_with("name one: a-Q4_0.gguf, b-00001-of-00002.gguf"), "{message}");
        let none = choose(&["adapter_model.safetensors", "config.json"]).expect_err("none");
        assert!(none.to_string().contains("no checkpoint here"), "{none}");
    }

    #[test]
    fn a_missing_shard_shows() {
        let index = "model.safetensors.index.json";
        let first = "model-00001-of-00002.safetensors";
        assert!(!choose(&[index]).expect("weights").is_complete());
        assert!(!choose(&[index, first]).expect("weights").is_complete());
        let second = "model-00002-of-00002.safetensors";
        assert!(choose(&[index, first, second]).expect("weights").is_complete());
        assert!(choose(&["model.safetensors"]).expect("weights").is_complete());
    }
}
