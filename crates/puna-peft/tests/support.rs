//! What tests of methods do with the golden base: logits, training passes, slopes, files.

use std::path::Path;
use std::sync::Arc;

use puna_model::{
    LoadOptions, Logits, Model, Precision, Recompute, Segment, TokenRows, TrainingPass,
};
use puna_nn::{AdapterSet, Parameter, Pass};
use puna_peft::{AdapterConfig, Base, BaseIdentity, Method, PeftError, combine, save};
use puna_testkit::{GoldenCase, SplitMix64};
use serde_json::Value;

/// Hidden size, blocks, and keys and values of a block in the golden base.
pub(crate) const HIDDEN: usize = 64;
pub(crate) const LAYERS: usize = 2;
pub(crate) const KV: usize = 2 * 2 * 16;

pub(crate) fn model() -> Option<Model> {
    let case = GoldenCase::open("text/llama2-gqa")?;
    Some(Model::load(&case.dir, &LoadOptions::new(Precision::Exact)).expect("the golden base"))
}

pub(crate) fn base(model: &Model) -> Base<'_> {
    Base { decoder: &model.decoder, config: &model.config }
}

pub(crate) fn build(model: &Model, recipe: Value) -> Result<Box<dyn Method>, PeftError> {
    let config: AdapterConfig =
        serde_json::from_value(recipe.clone()).unwrap_or_else(|error| panic!("{recipe}: {error}"));
    config.build(&base(model), 5)
}

pub(crate) fn fresh(model: &Model, recipe: Value) -> Box<dyn Method> {
    build(model, recipe.clone()).unwrap_or_else(|error| panic!("{recipe}: {error}"))
}

pub(crate) fn set_of(method: &dyn Method) -> Arc<AdapterSet> {
    Arc::new(combine(&[(method, 1.0)]).expect("one adapter"))
}

pub(crate) fn logits(model: &Model, set: Option<Arc<AdapterSet>>) -> Vec<f32> {
    let tokens: Vec<u32> = (0..12).map(|i| (i * 37 + 11) % 320).collect();
    let mut cache = model.decoder.new_cache().with_adapters(set);
    let segment = Segment { tokens: &tokens, cache: &mut cache, total_len: tokens.len() };
    model.decoder.forward(&mut [segment], Logits::All).expect("logits")
}

pub(crate) fn adapted(model: &Model, method: &dyn Method) -> Vec<f32> {
    logits(model, Some(set_of(method)))
}

pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Two rows of one document each.
pub(crate) struct Batch {
    tokens: Vec<u32>,
    targets: Vec<Option<u32>>,
    positions: Vec<u32>,
    visible_from: Vec<u32>,
}

impl Batch {
    const LEN: usize = 9;

    pub(crate) fn new() -> Self {
        let count = 2 * Self::LEN;
        let token = |i: usize| ((i * 53 + 7) % 320) as u32;
        Self {
            tokens: (0..count).map(token).collect(),
            targets: (0..count).map(|i| (i % 4 != 0).then(|| token(i + 1))).collect(),
            positions: (0..count).map(|i| (i % Self::LEN) as u32).collect(),
            visible_from: vec![0; count],
        }
    }

    fn rows(&self) -> TokenRows<'_> {
        TokenRows {
            len: Self::LEN,
            tokens: &self.tokens,
            targets: &self.targets,
            weights: None,
            positions: &self.positions,
            visible_from: &self.visible_from,
        }
    }

    fn pass(&self, set: &Arc<AdapterSet>, recompute: Recompute, seed: u64) -> TrainingPass {
        TrainingPass {
            scale: 1.0 / self.targets.iter().flatten().count() as f32,
            z_loss: 0.0,
            load_balance: 0.0,
            recompute,
            precision: Precision::Exact,
            adapters: Some(Arc::clone(set)),
            seed,
        }
    }

    /// The mean loss of a training pass, whose gradients are added, with the divergence of two passes
    /// where the method has one.
    pub(crate) fn train(
        &self,
        model: &Model,
        set: &Arc<AdapterSet>,
        recompute: Recompute,
        seed: u64,
    ) -> f64 {
        let pass = self.pass(set, recompute, seed);
        let sum = model.decoder.train_on(&self.rows(), &pass, |_| ()).expect("trained");
        let divergence = f64::from(set.consistency.unwrap_or(0.0)) * sum.divergence;
        (sum.loss + divergence) / sum.targets as f64
    }

    pub(crate) fn loss(&self, model: &Model, set: &Arc<AdapterSet>) -> f64 {
        let pass = Pass { adapters: Some(Arc::clone(set)), ..Pass::new(Precision::Exact) };
        let sum = model.decoder.evaluate(&self.rows(), &pass).expect("evaluated");
        sum.loss / sum.targets as f64
    }
}

pub(crate) fn gradient(parameter: &Parameter) -> Vec<f32> {
    parameter.with_gradient(|gradient| gradient.map(|g| g.to_vec())).unwrap_or_default()
}

pub(crate) fn clear(method: &dyn Method) {
    method.trained().iter().for_each(|trained| trained.parameter.clear_gradient());
}

/// Gives every trained tensor values that make it matter.
pub(crate) fn scatter(method: &dyn Method) {
    let mut rng = SplitMix64::new(3);
    for trained in method.trained() {
        let parameter = trained.parameter;
        let width = *parameter.shape().last().unwrap_or(&1) as f32;
        let noise = rng.normals(parameter.len());
        let mut values = parameter.values_mut();
        values
            .iter_mut()
            .zip(noise)
            .for_each(|(value, noise)| *value += 0.5 * noise / width.sqrt());
    }
}

/// The derivative of the loss along each tensor's gradient is the gradient's length, with and
/// without computing blocks twice.
pub(crate) fn check_gradients(
    name: &str,
    model: &Model,
    method: &dyn Method,
    routing: Option<u64>,
) {
    let (batch, set) = (Batch::new(), set_of(method));
    let seed = routing.unwrap_or(1);
    clear(method);
    batch.train(model, &set, Recompute::Blocks, seed);
    let recomputed: Vec<Vec<f32>> =
        method.trained().iter().map(|t| gradient(&t.parameter)).collect();
    clear(method);
    batch.train(model, &set, Recompute::Nothing, seed);
    let gradients: Vec<Vec<f32>> =
        method.trained().iter().map(|t| gradient(&t.parameter)).collect();
    for ((trained, gradient), recomputed) in method.trained().iter().zip(gradients).zip(recomputed)
    {
        let parameter = &trained.parameter;
        assert_eq!(gradient, recomputed, "{name}: {} with and without saving", parameter.name());
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        if routing.is_some() && gradient.is_empty() {
            continue; // A copy that this pass does not use.
        }
        if parameter.name().ends_with("key.bias") {
            // What is added to all scores of a softmax changes nothing.
            assert!(norm < 1e-6, "{name}: {norm}");
            continue;
        }
        assert!(norm > 1e-7, "{name}: {} has no gradient", parameter.name());
        // So far that the loss changes by more than its noise, and no farther: a ReLU has kinks.
        let step = ((5e-4 / norm).clamp(5e-4, 2e-2) / norm) as f32;
        let moved = |sign: f32| {
            let before = parameter.values().clone();
            let mut values = parameter.values_mut();
            values.iter_mut().zip(&gradient).for_each(|(v, g)| *v += sign * step * g);
            drop(values);
            let loss = match routing {
                None => batch.loss(model, &set),
                Some(seed) => batch.train(model, &set, Recompute::Nothing, seed),
            };
            *parameter.values_mut() = before;
            loss
        };
        let slope = (moved(1.0) - moved(-1.0)) / (2.0 * f64::from(step) * norm);
        let error = (slope - norm).abs() / norm;
        // The loss has float32's noise, which matters where a gradient is small.
        let allowed = 0.01 + 5e-5 / norm;
        assert!(error < allowed, "{name}: {}: {slope} {norm}", parameter.name());
    }
}

/// Steps of gradient descent lower the loss and leave the base alone.
pub(crate) fn check_training(name: &str, model: &Model, method: &dyn Method) {
    let (batch, set) = (Batch::new(), set_of(method));
    let untouched = logits(model, None);
    let before = batch.loss(model, &set);
    for step in 0..8 {
        clear(method);
        batch.train(model, &set, Recompute::Nothing, step);
        method.regularize(1.0).expect("a term");
        method.after_update(step, 8);
        for trained in method.trained() {
            let gradient = gradient(&trained.parameter);
            let mut values = trained.parameter.values_mut();
            values.iter_mut().zip(gradient).for_each(|(v, g)| *v -= 0.05 * g);
        }
    }
    let after = batch.loss(model, &set);
    assert!(after < before, "{name}: {before} to {after}");
    assert_eq!(logits(model, None), untouched, "{name}: the base has changed");
}

pub(crate) fn saved(method: &dyn Method, dir: &Path) {
    save(method, dir, "base", &BaseIdentity::default()).expect("saved");
}
