//! Golden cases as this crate's tests read them, and running a decoder on them.

use std::path::{Path, PathBuf};

use puna_model::{Decoder, KvCache, LoadOptions, Logits, Model, Precision, Segment};
use puna_testkit::{GoldenCase, closeness, golden_cases, golden_root};

/// Largest difference of logits and log-probabilities in exact mode (the goldens' contract).
pub(crate) const LOGITS_MAX_ABS: f32 = 1e-4;
/// Greedy tokens per golden prompt.
pub(crate) const GREEDY_STEPS: usize = 24;

/// The folders of a group of golden cases (`text`, `gguf`, …) that hold numbers, or `None`, said
/// visibly, where there are none.
pub(crate) fn cases(group: &str) -> Option<Vec<PathBuf>> {
    let root = golden_root()?;
    let dirs = golden_cases(group).into_iter().map(|name| root.join(name));
    let found: Vec<PathBuf> = dirs.filter(|dir| dir.join("golden.safetensors").exists()).collect();
    if found.is_empty() {
        puna_testkit::skipped(&format!("no golden cases in {group}/"));
        return None;
    }
    Some(found)
}

/// One prompt of a case with the reference's results.
pub(crate) struct Prompt {
    pub(crate) input: Vec<u32>,
    pub(crate) logits: Vec<f32>,
    pub(crate) greedy: Vec<u32>,
    pub(crate) logprobs: Vec<f32>,
}

pub(crate) fn prompts(case: &Path) -> Vec<Prompt> {
    let golden = GoldenCase::load(&case.display().to_string(), case);
    (0..golden.prompts())
        .map(|i| Prompt {
            input: golden.input_ids(i),
            logits: golden.logits(i).values,
            greedy: golden.greedy(i),
            logprobs: golden.logprobs(i),
        })
        .collect()
}

/// The model file or folder of a case.
pub(crate) fn model_path(case: &Path) -> PathBuf {
    if case.is_file() {
        return case.to_path_buf();
    }
    let gguf = std::fs::read_dir(case)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "gguf"));
    gguf.unwrap_or_else(|| case.to_path_buf())
}

pub(crate) fn load(case: &Path, precision: Precision) -> Model {
    Model::load(&model_path(case), &LoadOptions::new(precision))
        .unwrap_or_else(|e| panic!("{}: {e}", case.display()))
}

/// Runs tokens through a cache and returns the logits of all of them.
pub(crate) fn run(
    decoder: &Decoder,
    cache: &mut KvCache,
    tokens: &[u32],
    total_len: usize,
) -> Vec<f32> {
    let mut segment = [Segment { tokens, cache, total_len }];
    decoder.forward(&mut segment, Logits::All).unwrap()
}

/// Logits of a whole prompt.
pub(crate) fn prefill(decoder: &Decoder, tokens: &[u32]) -> (KvCache, Vec<f32>) {
    let mut cache = decoder.new_cache();
    let logits = run(decoder, &mut cache, tokens, tokens.len());
    (cache, logits)
}

pub(crate) fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.map_or(0, |(id, _)| id as u32)
}

pub(crate) fn log_softmax_at(row: &[f32], id: u32) -> f32 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|v| f64::from(v - max).exp()).sum();
    (f64::from(row[id as usize] - max) - sum.ln()) as f32
}

/// Greedy tokens and their log-probabilities, one step at a time.
pub(crate) fn greedy(decoder: &Decoder, prompt: &[u32], steps: usize) -> (Vec<u32>, Vec<f32>) {
    let vocab = decoder.config().vocab_size;
    let (mut cache, logits) = prefill(decoder, prompt);
    let mut row = logits[logits.len() - vocab..].to_vec();
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let id = argmax(&row);
        tokens.push(id);
        logprobs.push(log_softmax_at(&row, id));
        if step + 1 < steps {
            let total = cache.len() + 1;
            row = run(decoder, &mut cache, &[id], total);
        }
    }
    (tokens, logprobs)
}

/// Largest difference from the golden logits, which may be of the last positions only.
pub(crate) fn max_abs(ours: &[f32], golden: &[f32]) -> f32 {
    closeness(&ours[ours.len() - golden.len()..], golden).max_abs
}

/// rms(ours − golden) / std(golden)
pub(crate) fn rms_over_std(ours: &[f32], golden: &[f32]) -> f32 {
    puna_testkit::rms_over_std(&ours[ours.len() - golden.len()..], golden)
}
