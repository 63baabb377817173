//! What every method that changes linear layers has to satisfy, on a golden model.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use puna_kernels::BlockFormat;
use puna_model::{
    LoadOptions, Logits, Model, Precision, Recompute, Segment, TokenRows, TrainingPass,
};
use puna_nn::ops::with_f32;
use puna_nn::{BlockWeight, Linear, Pass, Slot, Value, Vector, Weight};
use puna_peft::{
    AdapterConfig, AdapterSet, Base, BaseIdentity, Method, Trained, combine, load, save,
};
use puna_testkit::{GoldenCase, SplitMix64, random_tensor};

/// Fresh adapters and what they are tried on.
pub(crate) struct Adapted {
    pub(crate) model: Model,
    pub(crate) method: Box<dyn Method>,
    tokens: Vec<u32>,
}

/// Between a layer with adapters and one with the merged weight, both in float32.
const MERGED: f32 = 1e-4;

impl Adapted {
    /// `None` if the golden files are not there.
    pub(crate) fn new(base: &str, config: &AdapterConfig) -> Option<Self> {
        let case = GoldenCase::open(base)?;
        let model = Model::load(&case.dir, &LoadOptions::new(Precision::Exact)).expect("a base");
        let method = config.build(&base_of(&model), 7).expect("a fresh adapter");
        let tokens = case.input_ids(1);
        Some(Self { model, method, tokens })
    }

    pub(crate) fn set(&self) -> Arc<AdapterSet> {
        Arc::new(combine(&[(&*self.method, 1.0)]).expect("one adapter"))
    }

    /// Logits of all tokens.
    pub(crate) fn logits(&self, set: Option<Arc<AdapterSet>>) -> Vec<f32> {
        let mut cache = self.model.decoder.new_cache().with_adapters(set);
        let (tokens, total_len) = (self.tokens.as_slice(), self.tokens.len());
        let segment = Segment { tokens, cache: &mut cache, total_len };
        self.model.decoder.forward(&mut [segment], Logits::All).expect("logits")
    }

    /// Fresh adapters change no bit of the logits. The passes compared both go through the layers that
    /// adapters reach; those without adapters add their sums in another order.
    #[track_caller]
    pub(crate) fn begins_as_the_base(&self) {
        let adapted = self.logits(Some(self.set()));
        assert!(adapted == self.logits(Some(Arc::default())), "other logits than the base's");
        let plain = self.logits(None);
        let far = adapted.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 1e-4);
        assert!(!far, "logits far from those of a pass without adapters");
    }

    /// The loss; gradients are added to the parameters'.
    pub(crate) fn loss(&self) -> f64 {
        let len = self.tokens.len();
        let mut targets: Vec<Option<u32>> = self.tokens[1..].iter().copied().map(Some).collect();
        targets.push(None);
        let positions: Vec<u32> = (0..len as u32).collect();
        let rows = TokenRows {
            len,
            tokens: &self.tokens,
            targets: &targets,
            weights: None,
            positions: &positions,
            visible_from: &vec![0; len],
        };
        let pass = TrainingPass {
            scale: 1.0 / (len - 1) as f32,
            z_loss: 0.0,
            load_balance: 0.0,
            recompute: Recompute::Nothing,
            precision: Precision::Exact,
            adapters: Some(self.set()),
            seed: 3,
        };
        let sum = self.model.decoder.train_on(&rows, &pass, |_| ()).expect("a batch");
        sum.loss / sum.targets as f64
    }

    /// Random values around what the parameters begin with.
    pub(crate) fn randomize(&self, spread: f32) {
        let mut random = SplitMix64::new(5);
        for trained in self.method.trained() {
            let noise =
                |random: &mut SplitMix64| (random.next_u64() >> 40) as f32 / 8_388_608.0 - 1.0;
            let mut values = trained.parameter.values_mut();
            values.iter_mut().for_each(|v| *v += spread * noise(&mut random));
        }
    }

    /// Some steps of Adam (β 0.9, 0.999) at a learning rate; the loss before each.
    pub(crate) fn train(&self, steps: u64, lr: f32) -> Vec<f64> {
        self.train_some((1, steps), steps, lr)
    }

    /// Steps from `first` to `last` of a training of `steps`, with moments that begin as zeros.
    pub(crate) fn train_some(&self, (first, last): (u64, u64), steps: u64, lr: f32) -> Vec<f64> {
        let mut losses = Vec::new();
        let trained = self.method.trained();
        let mut moments: Vec<_> =
            trained.iter().map(|t| vec![(0f32, 0f32); t.parameter.len()]).collect();
        for step in first..=last {
            self.method.regularize(1.0).expect("a term");
            losses.push(self.loss());
            let correction = |beta: f32| 1.0 - beta.powi((step - first + 1) as i32);
            for (trained, moments) in trained.iter().zip(&mut moments) {
                let lr = lr * trained.lr_factor as f32;
                let gradient = trained.parameter.with_gradient(|g| g.map(|g| g.to_vec()));
                let gradient = gradient.unwrap_or_else(|| panic!("{}", trained.parameter.name()));
                let mut values = trained.parameter.values_mut();
                for ((value, g), (m, v)) in values.iter_mut().zip(gradient).zip(moments) {
                    (*m, *v) = (0.9 * *m + 0.1 * g, 0.999 * *v + 0.001 * g * g);
                    let v = *v / correction(0.999);
                    *value -= lr * (*m / correction(0.9)) / (v.sqrt() + 1e-8);
                }
            }
            self.method.after_update(step, steps);
            trained.iter().for_each(|t| t.parameter.clear_gradient());
        }
        losses.push(self.loss());
        trained.iter().for_each(|t| t.parameter.clear_gradient());
        losses
    }

    /// Training lowers the loss and leaves every base weight as it was, to the bit.
    #[track_caller]
    pub(crate) fn learns(&self, steps: u64, lr: f32) -> Vec<f64> {
        let before = self.base_values();
        let losses = self.train(steps, lr);
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        assert!(last < 0.9 * first, "{}: {losses:?}", self.method.name());
        assert!(before == self.base_values(), "a base weight has changed");
        losses
    }

    fn base_values(&self) -> Vec<Vec<f32>> {
        let linears = self.model.decoder.linears().into_iter();
        let values = |linear: &Linear| {
            let bias = linear.bias().map(|b| b.with(<[f32]>::to_vec).expect("on the CPU"));
            [dense(linear.weight()), bias.unwrap_or_default()].concat()
        };
        linears.map(|(_, linear)| values(linear)).collect()
    }

    /// Gradients of the parameters whose names contain `part` are central differences of the loss.
    #[track_caller]
    pub(crate) fn gradients_match(&self, part: &str) {
        const STEP: f32 = 4e-3;
        let clear = || self.method.trained().iter().for_each(|t| t.parameter.clear_gradient());
        clear();
        self.loss();
        let gradient_of = |trained: Trained| {
            let gradient = trained.parameter.with_gradient(|g| g.map(|g| g.to_vec()));
            (trained.parameter, gradient)
        };
        let gradients: Vec<_> = self.method.trained().into_iter().map(gradient_of).collect();
        let mut checked = 0;
        for (parameter, gradient) in gradients {
            if !parameter.name().contains(part) {
                continue;
            }
            let gradient = gradient.unwrap_or_else(|| panic!("{}", parameter.name()));
            let largest = (0..gradient.len())
                .max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()));
            let at = largest.expect("values");
            let loss_at = |shift: f32| {
                parameter.values_mut()[at] += shift;
                let loss = self.loss();
                parameter.values_mut()[at] -= shift;
                loss
            };
            let numeric = (loss_at(STEP) - loss_at(-STEP)) / f64::from(2.0 * STEP);
            let analytic = f64::from(gradient[at]);
            let error = (numeric - analytic).abs();
            // Losses are sums of float32, so small gradients are seen with an absolute error.
            let limit = 0.02 * analytic.abs() + 3e-4;
            assert!(error < limit, "{}[{at}]: {analytic} by {numeric}", parameter.name());
            checked += 1;
        }
        assert!(checked > 0, "no parameter has {part} in its name");
        clear();
    }

    /// Each adapted layer gives what a layer with the merged weight and bias gives.
    #[track_caller]
    pub(crate) fn merges(&self) {
        let set = self.set();
        let mut pass = Pass::new(Precision::Exact);
        let plain = pass.clone();
        pass.adapters = Some(Arc::clone(&set));
        let mut checked = 0;
        for (slot, linear) in self.model.decoder.linears() {
            let Some(merged) = merged_layer(&set, slot, linear) else { continue };
            let x = Value::constant(random_tensor(checked, &[5, linear.weight().cols()]));
            let expected = flat(linear.forward(&x, &pass).expect("adapted").tensor());
            let got = flat(merged.forward(&x, &plain).expect("merged").tensor());
            let scale = expected.iter().fold(1f32, |most, v| most.max(v.abs()));
            for (got, expected) in got.iter().zip(&expected) {
                assert!((got - expected).abs() < MERGED * scale, "{slot}: {got} by {expected}");
            }
            checked += 1;
        }
        assert!(checked > 0, "no layer is adapted");
    }

    /// What is saved and loaded again gives the same logits, to the bit; returns the loaded one.
    #[track_caller]
    pub(crate) fn saves(&self) -> (Box<dyn Method>, serde_json::Value) {
        let (loaded, config) = self.saved_and_loaded();
        let set = Arc::new(combine(&[(&*loaded, 1.0)]).expect("one adapter"));
        assert!(self.logits(Some(set)) == self.logits(Some(self.set())), "other logits");
        (loaded, config)
    }

    /// Saved, and loaded with another configuration.
    pub(crate) fn loaded_with(
        &self,
        change: impl FnOnce(&mut serde_json::Value),
    ) -> Box<dyn Method> {
        let dir = tempfile::tempdir().expect("a folder");
        save(&*self.method, dir.path(), "some/base", &BaseIdentity::default()).expect("saved");
        let path = dir.path().join("adapter_config.json");
        let text = std::fs::read_to_string(&path).expect("a config");
        let mut config = serde_json::from_str(&text).expect("JSON");
        change(&mut config);
        std::fs::write(&path, config.to_string()).expect("written");
        load(dir.path(), &base_of(&self.model)).expect("loaded")
    }

    pub(crate) fn saved_and_loaded(&self) -> (Box<dyn Method>, serde_json::Value) {
        let dir = tempfile::tempdir().expect("a folder");
        save(&*self.method, dir.path(), "some/base", &BaseIdentity::default()).expect("saved");
        let loaded = load(dir.path(), &base_of(&self.model)).expect("loaded");
        let names = ["adapter_config.json", "bitfit_config.json"];
        let path = names.iter().map(|name| dir.path().join(name)).find(|path| path.is_file());
        let text = std::fs::read_to_string(path.unwrap_or_else(PathBuf::new)).expect("a config");
        let config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(config["base_model_name_or_path"], "some/base");
        (loaded, config)
    }
}

pub(crate) fn base_of(model: &Model) -> Base<'_> {
    Base { decoder: &model.decoder, config: &model.config }
}

fn merged_layer(set: &AdapterSet, slot: Slot, linear: &Linear) -> Option<Linear> {
    let adapted = set.linears.get(&slot)?;
    let base = adapted.weight.as_ref().unwrap_or(linear.weight());
    let (rows, cols) = (base.rows(), base.cols());
    let mut weight = dense(base);
    let bias = adapted.bias.as_ref().or(linear.bias());
    let mut bias = bias.map(|bias| bias.with(<[f32]>::to_vec).expect("on the CPU"));
    for adapter in &adapted.adapters {
        assert!(adapter.merge(&mut weight, bias.as_deref_mut()).expect("fits"), "merges");
    }
    let bytes: Vec<u8> = weight.iter().flat_map(|v| v.to_le_bytes()).collect();
    let block = BlockWeight::new(BlockFormat::F32, rows, cols, Arc::new(bytes)).expect("fits");
    let bias = bias.map(|b| Vector::Fixed(Tensor::new(b, &Device::Cpu).expect("a tensor")));
    Some(Linear::new(Arc::new(Weight::Block(block)), bias))
}

pub(crate) fn dense(weight: &Weight) -> Vec<f32> {
    with_f32(&weight.dequantize().expect("dense"), <[f32]>::to_vec).expect("on the CPU")
}

fn flat(x: &Tensor) -> Vec<f32> {
    with_f32(x, <[f32]>::to_vec).expect("on the CPU")
}
