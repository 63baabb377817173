//! What the tests of virtual tokens share.

use std::sync::Arc;

use puna_model::{
    KvCache, LoadOptions, Logits, Model, Precision, Recompute, Segment, TokenRows, TrainingPass,
};
use puna_peft::{
    AdapterConfig, AdapterSet, Base, Method, PTuningConfig, PTuningV2Config, PrefixTuningConfig,
    PromptEncoderType, PromptTuningConfig, PromptTuningInit, combine,
};
use puna_testkit::GoldenCase;

/// A golden model, with float32 arithmetic and caches.
pub(crate) fn model(name: &str) -> Option<Model> {
    let case = GoldenCase::open(&format!("text/{name}"))?;
    Some(Model::load(&case.dir, &LoadOptions::new(Precision::Exact)).expect("a golden model"))
}

pub(crate) fn build(config: &AdapterConfig, model: &Model, seed: u64) -> Box<dyn Method> {
    let base = Base { decoder: &model.decoder, config: &model.config };
    config.build(&base, seed).unwrap_or_else(|e| panic!("{config:?}: {e}"))
}

pub(crate) fn set(method: &dyn Method) -> Arc<AdapterSet> {
    Arc::new(combine(&[(method, 1.0)]).expect("one adapter"))
}

/// A prompt that begins as some tokens.
pub(crate) fn text_prompt(tokens: &[u32], len: usize) -> AdapterConfig {
    AdapterConfig::PromptTuning(PromptTuningConfig {
        num_virtual_tokens: len,
        prompt_tuning_init: PromptTuningInit::Text,
        prompt_tuning_init_tokens: Some(tokens.to_vec()),
        ..PromptTuningConfig::default()
    })
}

/// Every method with `len` virtual tokens.
pub(crate) fn methods(len: usize) -> Vec<AdapterConfig> {
    let p_tuning = |encoder| {
        AdapterConfig::PTuning(PTuningConfig {
            num_virtual_tokens: len,
            encoder_reparameterization_type: encoder,
            encoder_hidden_size: Some(12),
            ..PTuningConfig::default()
        })
    };
    let prefix = PrefixTuningConfig {
        num_virtual_tokens: len,
        prefix_projection: true,
        encoder_hidden_size: Some(10),
        init_weights: None,
    };
    vec![
        text_prompt(&[5, 17, 9], len),
        p_tuning(PromptEncoderType::Mlp),
        p_tuning(PromptEncoderType::Lstm),
        AdapterConfig::PrefixTuning(prefix),
        AdapterConfig::PTuningV2(PTuningV2Config { num_virtual_tokens: len, init_weights: None }),
    ]
}

/// `len` tokens of a vocabulary.
pub(crate) fn tokens(seed: u32, len: usize, vocab: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % (vocab as u32 - 3) + 3
    };
    (0..len).map(|_| next()).collect()
}

/// Runs the next tokens of a sequence.
pub(crate) fn extend(model: &Model, cache: &mut KvCache, tokens: &[u32], total: usize) -> Vec<f32> {
    let segment = Segment { tokens, cache, total_len: total };
    model.decoder.forward(&mut [segment], Logits::All).expect("logits")
}

/// All logits of a sequence that is given in parts.
pub(crate) fn logits(
    model: &Model,
    set: Option<&Arc<AdapterSet>>,
    tokens: &[u32],
    part: usize,
) -> Vec<f32> {
    let mut cache = model.decoder.new_cache().with_adapters(set.cloned());
    let parts = tokens.chunks(part);
    parts.flat_map(|part| extend(model, &mut cache, part, tokens.len())).collect()
}

/// Rows of tokens that the tests own.
#[derive(Default)]
pub(crate) struct Rows {
    len: usize,
    tokens: Vec<u32>,
    targets: Vec<Option<u32>>,
    positions: Vec<u32>,
    visible_from: Vec<u32>,
}

impl Rows {
    /// Rows of documents, each filled up with tokens that nobody looks at.
    pub(crate) fn new(len: usize, rows: &[&[Vec<u32>]]) -> Self {
        let mut all = Self { len, ..Self::default() };
        for documents in rows {
            let first = all.tokens.len();
            for document in *documents {
                all.push(document, all.tokens.len() - first, true);
            }
            let at = all.tokens.len() - first;
            all.push(&vec![0; len - at], at, false);
        }
        all
    }

    /// Takes no loss of a row's first tokens.
    pub(crate) fn without_first(mut self, count: usize) -> Self {
        for row in self.targets.chunks_mut(self.len) {
            row[..count].fill(None);
        }
        self
    }

    fn push(&mut self, tokens: &[u32], start: usize, learned: bool) {
        for (index, &token) in tokens.iter().enumerate() {
            self.tokens.push(token);
            self.targets.push(tokens.get(index + 1).copied().filter(|_| learned));
            self.positions.push(index as u32);
            self.visible_from.push(start as u32);
        }
    }

    pub(crate) fn view(&self) -> TokenRows<'_> {
        TokenRows {
            len: self.len,
            tokens: &self.tokens,
            targets: &self.targets,
            weights: None,
            positions: &self.positions,
            visible_from: &self.visible_from,
        }
    }
}

/// The loss of rows, and the gradients of what a method trains.
pub(crate) fn gradients(
    model: &Model,
    method: &dyn Method,
    rows: &Rows,
    recompute: Recompute,
    seed: u64,
) -> (f64, Vec<Vec<f32>>) {
    let trained = method.trained();
    trained.iter().for_each(|t| t.parameter.clear_gradient());
    let pass = TrainingPass {
        scale: 1.0,
        z_loss: 0.0,
        load_balance: 0.0,
        recompute,
        precision: Precision::Exact,
        adapters: Some(set(method)),
        seed,
    };
    let sum = model.decoder.train_on(&rows.view(), &pass, |_| {}).expect("a pass");
    let gradient = |g: Option<&mut [f32]>| g.expect("a gradient").to_vec();
    (sum.loss, trained.iter().map(|t| t.parameter.with_gradient(gradient)).collect())
}

#[track_caller]
pub(crate) fn assert_near(name: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{name}");
    let far = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(far <= tolerance && got.iter().all(|v| v.is_finite()), "{name}: off by {far}");
}
