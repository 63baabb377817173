//! Golden cases: where they are, what they hold, and how logits are compared.

use std::path::{Path, PathBuf};

use puna_io::{Checkpoint, Dtype, StoredTensor};
use puna_model::{Decoder, KvCache, LoadOptions, Logits, Model, Precision, Segment};

/// Largest difference of logits and log-probabilities in exact mode (the goldens' contract).
pub(crate) const LOGITS_MAX_ABS: f32 = 1e-4;
/// Greedy tokens per golden prompt.
pub(crate) const GREEDY_STEPS: usize = 24;

/// The golden cases of a group (`text`, `gguf`, …), or `None`, said visibly, where there are none.
pub(crate) fn cases(group: &str) -> Option<Vec<PathBuf>> {
    let dir = golden_root()?.join(group);
    if !dir.is_dir() {
        eprintln!("skipped: {} is not there", dir.display());
        return None;
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("golden.safetensors").exists())
        .collect();
    found.sort();
    Some(found)
}

pub(crate) fn golden_root() -> Option<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let candidates = [
        std::env::var_os("PUNA_GOLDEN").map(PathBuf::from),
        Some(manifest.join("../../testdata/golden")),
        Some(manifest.join("../../../shared/golden/cases")),
    ];
    let found = candidates.into_iter().flatten().find(|dir| dir.join("text").is_dir());
    if found.is_none() {
        eprintln!("skipped: no golden cases found; set PUNA_GOLDEN");
    }
    found
}

/// One prompt of a case with the reference's results.
pub(crate) struct Prompt {
    pub(crate) input: Vec<u32>,
    pub(crate) logits: Vec<f32>,
    pub(crate) greedy: Vec<u32>,
    pub(crate) logprobs: Vec<f32>,
}

pub(crate) fn prompts(case: &Path) -> Vec<Prompt> {
    let golden = Checkpoint::open(&case.join("golden.safetensors")).unwrap();
    let tensor = |name: String| golden.tensor(&name).unwrap_or_else(|e| panic!("{e}"));
    (0..2)
        .map(|i| Prompt {
            input: ids(&tensor(format!("input_ids_{i}"))),
            logits: floats(&tensor(format!("logits_{i}"))),
            greedy: ids(&tensor(format!("greedy_{i}"))),
            logprobs: floats(&tensor(format!("logprobs_{i}"))),
        })
        .collect()
}

fn floats(t: &StoredTensor) -> Vec<f32> {
    assert_eq!(t.info.dtype, Dtype::F32);
    t.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn ids(t: &StoredTensor) -> Vec<u32> {
    assert_eq!(t.info.dtype, Dtype::I64);
    t.bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
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
    Model::load(&model_path(case), &LoadOptions { precision })
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
    let (a, b) = (&ours[ours.len() - golden.len()..], golden);
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// rms(a − b) / std(b)
pub(crate) fn rms_over_std(ours: &[f32], golden: &[f32]) -> f64 {
    let (a, b) = (&ours[ours.len() - golden.len()..], golden);
    let n = b.len() as f64;
    let error: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / n;
    let mean: f64 = b.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance: f64 = b.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    (error / variance).sqrt()
}
