//! Reading one golden case: `golden.json` and `golden.safetensors` (testdata/golden/README.md).

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::{Tolerance, assert_close, golden_dir};

/// One golden case, read into memory.
#[derive(Debug)]
pub struct GoldenCase {
    /// Its name, such as `text/llama1`.
    pub name: String,
    /// Its folder, which holds the checkpoint too.
    pub dir: PathBuf,
    /// `golden.json`.
    pub json: Value,
    tensors: Vec<u8>,
}

/// Logits of a prompt's last positions; a trimmed set does not hold all of them.
#[derive(Debug, Clone)]
pub struct GoldenLogits {
    /// Position in the prompt of the first row.
    pub first_position: usize,
    /// Columns of a row (`V`).
    pub vocab_size: usize,
    /// `[rows, V]`, row-major.
    pub values: Vec<f32>,
}

impl GoldenLogits {
    /// The part of the logits of a whole prompt (`[T, V]`) that these rows are the reference of.
    ///
    /// # Panics
    /// If `all` is not as long as the prompt.
    #[track_caller]
    pub fn same_rows<'a>(&self, all: &'a [f32]) -> &'a [f32] {
        let skip = self.first_position * self.vocab_size;
        assert_eq!(all.len(), skip + self.values.len(), "logits of a whole prompt, [T, V]");
        &all[skip..]
    }

    /// Fails the test if the logits of a whole prompt (`[T, V]`) are not close to these.
    ///
    /// # Panics
    /// As [`assert_close`].
    #[track_caller]
    pub fn assert_close(&self, name: &str, all: &[f32], tolerance: Tolerance) {
        assert_close(name, self.same_rows(all), &self.values, tolerance);
    }
}

impl GoldenCase {
    /// Opens a case by name; `None`, and said on stderr, where it is absent.
    ///
    /// # Panics
    /// If the case is there but cannot be read.
    #[track_caller]
    pub fn open(name: &str) -> Option<Self> {
        golden_dir(name).map(|dir| Self::load(name, &dir))
    }

    /// Reads a case from its folder.
    ///
    /// # Panics
    /// If `golden.json` cannot be read or parsed.
    #[track_caller]
    pub fn load(name: &str, dir: &Path) -> Self {
        let text = must(std::fs::read_to_string(dir.join("golden.json")), name, "golden.json");
        let json = must(serde_json::from_str(&text), name, "golden.json");
        let tensors = std::fs::read(dir.join("golden.safetensors")).unwrap_or_default();
        Self { name: name.to_owned(), dir: dir.to_path_buf(), json, tensors }
    }

    /// Number of prompts.
    ///
    /// # Panics
    /// As all readers of this type: if the case's files are not what the contract says.
    #[track_caller]
    pub fn prompts(&self) -> usize {
        let n = self.json.get("n_prompts").and_then(Value::as_u64);
        must(n.ok_or("missing"), &self.name, "n_prompts") as usize
    }

    /// Token ids of prompt `i`, `[T]`.
    #[track_caller]
    pub fn input_ids(&self, i: usize) -> Vec<u32> {
        self.ids(&format!("input_ids_{i}"))
    }

    /// Logits of the prompt's positions that the set holds.
    #[track_caller]
    pub fn logits(&self, i: usize) -> GoldenLogits {
        let (shape, values) = self.tensor(&format!("logits_{i}"));
        let prompt_len = self.input_ids(i).len();
        assert!(shape.len() == 2 && shape[0] <= prompt_len, "{}: logits {shape:?}", self.name);
        GoldenLogits { first_position: prompt_len - shape[0], vocab_size: shape[1], values }
    }

    /// Greedy continuation of prompt `i`.
    #[track_caller]
    pub fn greedy(&self, i: usize) -> Vec<u32> {
        self.ids(&format!("greedy_{i}"))
    }

    /// Log-probabilities of the greedy tokens.
    #[track_caller]
    pub fn logprobs(&self, i: usize) -> Vec<f32> {
        self.tensor(&format!("logprobs_{i}")).1
    }

    /// True if `golden.safetensors` holds the tensor.
    pub fn has_tensor(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.tensors).is_ok_and(|file| file.tensor(name).is_ok())
    }

    /// Shape and values of a float32 tensor.
    #[track_caller]
    pub fn tensor(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (dtype, shape, bytes) = self.stored(name);
        assert_eq!(dtype, Dtype::F32, "{}: tensor {name}", self.name);
        let (words, _) = bytes.as_chunks::<4>();
        (shape, words.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }

    /// Values of a tensor of token ids.
    #[track_caller]
    pub fn ids(&self, name: &str) -> Vec<u32> {
        let (dtype, _, bytes) = self.stored(name);
        assert_eq!(dtype, Dtype::I64, "{}: tensor {name}", self.name);
        let (words, _) = bytes.as_chunks::<8>();
        words
            .iter()
            .map(|word| must(u32::try_from(i64::from_le_bytes(*word)), &self.name, name))
            .collect()
    }

    #[track_caller]
    fn stored(&self, name: &str) -> (Dtype, Vec<usize>, &[u8]) {
        let file = must(SafeTensors::deserialize(&self.tensors), &self.name, "golden.safetensors");
        let view = must(file.tensor(name), &self.name, name);
        (view.dtype(), view.shape().to_vec(), view.data())
    }
}

#[track_caller]
fn must<T, E: std::fmt::Display>(result: Result<T, E>, case: &str, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("golden case {case}: {what}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_gives_the_same_numbers_as_its_readable_form() {
        let Some(case) = GoldenCase::open("text/llama2-gqa") else { return };
        for i in 0..case.prompts() {
            let prompt = &case.json["prompts"][i];
            let readable = |key: &str| -> Vec<f64> {
                prompt[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
            };
            let ids: Vec<f64> = case.input_ids(i).into_iter().map(f64::from).collect();
            let greedy: Vec<f64> = case.greedy(i).into_iter().map(f64::from).collect();
            assert_eq!(ids, readable("input_ids"));
            assert_eq!(greedy, readable("greedy"));
            for (got, want) in case.logprobs(i).into_iter().zip(readable("logprobs")) {
                assert!((f64::from(got) - want).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn the_last_row_of_logits_is_largest_at_the_first_greedy_token() {
        let Some(case) = GoldenCase::open("text/llama2-gqa") else { return };
        for i in 0..case.prompts() {
            let logits = case.logits(i);
            let rows = logits.values.len() / logits.vocab_size;
            assert_eq!(logits.first_position + rows, case.input_ids(i).len());
            let last = &logits.values[(rows - 1) * logits.vocab_size..];
            let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
            assert_eq!(best as u32, case.greedy(i)[0]);
        }
    }

    #[test]
    #[should_panic(expected = "golden case made-up: greedy_7")]
    fn a_missing_tensor_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("golden.json"), "{}").unwrap();
        let none: [(String, safetensors::tensor::TensorView<'_>); 0] = [];
        let bytes = safetensors::serialize(none, None).unwrap();
        std::fs::write(dir.path().join("golden.safetensors"), bytes).unwrap();
        GoldenCase::load("made-up", dir.path()).greedy(7);
    }
}
