//! AdapterHub's methods, AdapterDrop, AdapterFusion and AdaMix: beginnings, sizes, files, gradients.

use std::path::Path;
use std::sync::Arc;

use puna_model::{
    LoadOptions, Logits, Model, Precision, Recompute, Segment, TokenRows, TrainingPass,
};
use puna_nn::{AdapterSet, Branch, Parameter, Pass};
use puna_peft::{
    AdapterConfig, Base, BaseIdentity, Method, PeftError, combine, drop_first_layers, load, save,
};
use puna_testkit::{GoldenCase, SplitMix64, golden_cases};
use serde_json::{Value, json};

/// Hidden size, blocks, and keys and values of a block in the golden base.
const HIDDEN: usize = 64;
const LAYERS: usize = 2;
const KV: usize = 2 * 2 * 16;

fn model() -> Option<Model> {
    let case = GoldenCase::open("text/llama2-gqa")?;
    Some(Model::load(&case.dir, &LoadOptions::new(Precision::Exact)).expect("the golden base"))
}

fn base(model: &Model) -> Base<'_> {
    Base { decoder: &model.decoder, config: &model.config }
}

fn build(model: &Model, recipe: Value) -> Result<Box<dyn Method>, PeftError> {
    let config: AdapterConfig =
        serde_json::from_value(recipe.clone()).unwrap_or_else(|error| panic!("{recipe}: {error}"));
    config.build(&base(model), 5)
}

fn fresh(model: &Model, recipe: Value) -> Box<dyn Method> {
    build(model, recipe.clone()).unwrap_or_else(|error| panic!("{recipe}: {error}"))
}

fn set_of(method: &dyn Method) -> Arc<AdapterSet> {
    Arc::new(combine(&[(method, 1.0)]).expect("one adapter"))
}

fn logits(model: &Model, set: Option<Arc<AdapterSet>>) -> Vec<f32> {
    let tokens: Vec<u32> = (0..12).map(|i| (i * 37 + 11) % 320).collect();
    let mut cache = model.decoder.new_cache().with_adapters(set);
    let segment = Segment { tokens: &tokens, cache: &mut cache, total_len: tokens.len() };
    model.decoder.forward(&mut [segment], Logits::All).expect("logits")
}

fn adapted(model: &Model, method: &dyn Method) -> Vec<f32> {
    logits(model, Some(set_of(method)))
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Two rows of one document each.
struct Batch {
    tokens: Vec<u32>,
    targets: Vec<Option<u32>>,
    positions: Vec<u32>,
    visible_from: Vec<u32>,
}

impl Batch {
    const LEN: usize = 9;

    fn new() -> Self {
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

    /// The mean loss of a training pass, whose gradients are added.
    fn train(&self, model: &Model, set: &Arc<AdapterSet>, recompute: Recompute, seed: u64) -> f64 {
        let pass = self.pass(set, recompute, seed);
        let sum = model.decoder.train_on(&self.rows(), &pass, |_| ()).expect("trained");
        sum.loss / sum.targets as f64
    }

    fn loss(&self, model: &Model, set: &Arc<AdapterSet>) -> f64 {
        let pass = Pass { adapters: Some(Arc::clone(set)), ..Pass::new(Precision::Exact) };
        let sum = model.decoder.evaluate(&self.rows(), &pass).expect("evaluated");
        sum.loss / sum.targets as f64
    }
}

fn gradient(parameter: &Parameter) -> Vec<f32> {
    parameter.with_gradient(|gradient| gradient.map(|g| g.to_vec())).unwrap_or_default()
}

fn clear(method: &dyn Method) {
    method.trained().iter().for_each(|trained| trained.parameter.clear_gradient());
}

/// Gives every trained tensor values that make it matter.
fn scatter(method: &dyn Method) {
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
fn check_gradients(name: &str, model: &Model, method: &dyn Method, routing: Option<u64>) {
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
        // So far that the loss changes by more than its noise, and no farther.
        let step = ((2e-3 / norm).clamp(5e-4, 2e-2) / norm) as f32;
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
fn check_training(name: &str, model: &Model, method: &dyn Method) {
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

fn recipes() -> Vec<Value> {
    vec![
        json!({"method": "houlsby", "reduction_factor": 8.0}),
        json!({"method": "pfeiffer", "reduction_factor": {"0": 4.0, "default": 8.0}}),
        json!({"method": "parallel", "scaling": "learned", "non_linearity": "tanh"}),
        json!({"method": "compacter", "reduction_factor": 8.0}),
        json!({"method": "compacter_plus", "reduction_factor": 8.0, "phm_dim": 2, "phm_rank": 2}),
        json!({"method": "hub_prefix_tuning", "prefix_length": 4, "bottleneck_size": 10}),
        json!({"method": "hub_prefix_tuning", "prefix_length": 4, "flat": true}),
        json!({"method": "hub_lora", "r": 2, "output_lora": true}),
        json!({"method": "hub_ia3"}),
        json!({"method": "mam", "prefix": {"prefix_length": 3, "bottleneck_size": 12}}),
        json!({"method": "unipelt", "prefix": {"prefix_length": 3, "bottleneck_size": 12,
               "shared_gating": false}}),
        json!({"method": "adamix", "copies": 3, "consistency": 0.5}),
    ]
}

#[test]
fn fresh_adapters_change_nothing_where_the_method_says_so() {
    let Some(model) = model() else { return };
    let before = logits(&model, None);
    for (recipe, allowed) in [
        (json!({"method": "parallel"}), 1e-5),
        (json!({"method": "houlsby", "init_weights": "mam_adapter"}), 1e-5),
        (json!({"method": "hub_lora"}), 1e-5),
        (json!({"method": "hub_ia3"}), 1e-5),
        (json!({"method": "adamix", "adapter": {"init_weights": "mam_adapter"}}), 1e-5),
        // Near it: deviations of 0.02 in both matrices, and of 1e-4 in the rule.
        (json!({"method": "houlsby"}), 0.2),
        (json!({"method": "pfeiffer"}), 0.2),
        (json!({"method": "compacter", "reduction_factor": 8.0}), 1e-4),
    ] {
        let change = difference(&before, &adapted(&model, &*fresh(&model, recipe.clone())));
        assert!(change <= allowed, "{recipe}: {change}");
    }
    let prefix = fresh(&model, json!({"method": "hub_prefix_tuning"}));
    assert!(difference(&before, &adapted(&model, &*prefix)) > 1e-3);
}

#[test]
fn methods_have_as_many_values_as_their_papers_say() {
    let Some(model) = model() else { return };
    let bottleneck = |width: usize| 2 * HIDDEN * width + width + HIDDEN;
    // Ranks of one: a value for each input and output of a layer, and biases.
    let kronecker = |width: usize| 2 * (HIDDEN + width) + width + HIDDEN;
    let prefix =
        |len: usize, inner: usize| len * HIDDEN + (HIDDEN + 1) * inner + (inner + 1) * LAYERS * KV;
    let lora = |r: usize| LAYERS * r * ((64 + 64) + (64 + 32));
    let gates = LAYERS * 4 * (HIDDEN + 1);
    for (recipe, expected) in [
        (json!({"method": "houlsby"}), 2 * LAYERS * bottleneck(4)),
        (json!({"method": "pfeiffer"}), LAYERS * bottleneck(4)),
        (json!({"method": "pfeiffer", "leave_out": [1]}), bottleneck(4)),
        (json!({"method": "pfeiffer", "drop_layers": 1}), bottleneck(4)),
        (
            json!({"method": "pfeiffer", "reduction_factor": {"1": 8.0, "default": 4.0}}),
            bottleneck(16) + bottleneck(8),
        ),
        (json!({"method": "parallel"}), LAYERS * bottleneck(32)),
        (json!({"method": "parallel", "scaling": "learned"}), LAYERS * (bottleneck(32) + 1)),
        (json!({"method": "compacter", "reduction_factor": 8.0}), 2 * LAYERS * kronecker(8) + 64),
        (json!({"method": "compacter_plus", "reduction_factor": 8.0}), LAYERS * kronecker(8) + 64),
        (json!({"method": "hub_prefix_tuning"}), prefix(30, 512)),
        (json!({"method": "hub_prefix_tuning", "flat": true}), 30 * LAYERS * KV),
        (json!({"method": "hub_lora", "r": 4}), lora(4)),
        (json!({"method": "hub_ia3"}), LAYERS * (32 + 32 + 64)),
        (json!({"method": "mam"}), prefix(30, 800) + LAYERS * bottleneck(32)),
        (json!({"method": "unipelt"}), prefix(10, 512) + LAYERS * bottleneck(4) + lora(8) + gates),
        (json!({"method": "adamix", "copies": 3}), 3 * LAYERS * bottleneck(4)),
        (
            json!({"method": "adamix", "copies": 3, "share": "down"}),
            LAYERS * (bottleneck(4) + 2 * (HIDDEN * 4 + HIDDEN)),
        ),
    ] {
        assert_eq!(fresh(&model, recipe.clone()).size(), expected, "{recipe}");
    }
}

fn saved(method: &dyn Method, dir: &Path) {
    save(method, dir, "base", &BaseIdentity::default()).expect("saved");
}

#[test]
fn saved_adapters_give_the_same_logits() {
    let Some(model) = model() else { return };
    for recipe in recipes() {
        let method = fresh(&model, recipe.clone());
        scatter(&*method);
        let before = adapted(&model, &*method);
        assert!(difference(&before, &logits(&model, None)) > 1e-3, "{recipe} has no effect");
        let dir = tempfile::tempdir().expect("a folder");
        saved(&*method, dir.path());
        let loaded = load(dir.path(), &base(&model)).expect("loaded");
        assert_eq!(adapted(&model, &*loaded), before, "{recipe}");
    }
}

#[test]
fn golden_adapters_are_saved_under_the_librarys_names_and_settings() {
    let Some(model) = model() else { return };
    for name in golden_cases("adapters") {
        let Some(case) = GoldenCase::open(&name) else { continue };
        let method = load(&case.dir, &base(&model)).expect("loaded");
        let dir = tempfile::tempdir().expect("a folder");
        saved(&*method, dir.path());
        let read = |dir: &Path| -> Value {
            let text = std::fs::read_to_string(dir.join("adapter_config.json")).expect("a text");
            serde_json::from_str(&text).expect("JSON")
        };
        let (ours, theirs) = (read(dir.path()), read(&case.dir));
        agrees(&name, &ours["config"], &theirs["config"]);
        for key in ["hidden_size", "model_class", "model_type", "name", "version"] {
            assert_eq!(ours[key], theirs[key], "{name}: {key}");
        }
        assert_eq!(ours["model_name"], "base");
        let again = load(dir.path(), &base(&model)).expect("loaded again");
        assert_eq!(adapted(&model, &*again), adapted(&model, &*method), "{name}");
    }
}

/// Every setting that is written is as the library has it, whatever form a number has; what is not
/// written says nothing there.
fn agrees(name: &str, ours: &Value, theirs: &Value) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, theirs) in theirs {
                let nothing = theirs.is_null() || theirs == &Value::Bool(false);
                match ours.get(key) {
                    Some(ours) => agrees(&format!("{name}.{key}"), ours, theirs),
                    None => assert!(nothing, "{name}: {key} is not written"),
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            assert_eq!(ours.len(), theirs.len(), "{name}");
            ours.iter().zip(theirs).for_each(|(ours, theirs)| agrees(name, ours, theirs));
        }
        (Value::Number(a), Value::Number(b)) => assert_eq!(a.as_f64(), b.as_f64(), "{name}"),
        _ => assert_eq!(ours, theirs, "{name}"),
    }
}

#[test]
fn gradients_of_golden_adapters_are_the_slopes_of_the_loss() {
    let Some(model) = model() else { return };
    for name in golden_cases("adapters") {
        let Some(case) = GoldenCase::open(&name) else { continue };
        let method = load(&case.dir, &base(&model)).expect("loaded");
        check_gradients(&name, &model, &*method, None);
    }
}

#[test]
fn a_few_steps_lower_the_loss_and_leave_the_base_as_it_was() {
    let Some(model) = model() else { return };
    for recipe in recipes() {
        let method = fresh(&model, recipe.clone());
        scatter(&*method);
        check_training(&recipe.to_string(), &model, &*method);
    }
}

#[test]
fn dropped_blocks_have_no_adapters_at_inference_and_some_have_none_in_training() {
    let Some(model) = model() else { return };
    let recipe = json!({"method": "houlsby", "reduction_factor": 4.0, "drop_random": LAYERS});
    let method = fresh(&model, recipe);
    scatter(&*method);
    let mut set = combine(&[(&*method, 1.0)]).expect("one adapter");
    drop_first_layers(&mut set, 1);
    let mut left: Vec<_> = set.branches.keys().copied().collect();
    left.sort_unstable_by_key(|(layer, branch)| (*layer, *branch == Branch::Ffn));
    assert_eq!(left, [(1, Branch::Attention), (1, Branch::Ffn)]);
    drop_first_layers(&mut set, LAYERS);
    assert!(set.branches.is_empty());
    assert_eq!(logits(&model, Some(Arc::new(set))), {
        let nothing = Some(Arc::new(AdapterSet::default()));
        logits(&model, nothing)
    });
    // A dropped block's tensors have no gradient; blocks behind the first that is not have one.
    let (batch, whole) = (Batch::new(), set_of(&*method));
    let mut seen = [false; LAYERS + 1];
    for seed in 0..24 {
        clear(&*method);
        batch.train(&model, &whole, Recompute::Blocks, seed);
        let moved = |layer: usize| {
            let path = format!("model.layers.{layer}.");
            let of_layer = method.trained().into_iter();
            let of_layer = of_layer.filter(|t| t.parameter.name().starts_with(&path));
            let with: Vec<bool> = of_layer.map(|t| !gradient(&t.parameter).is_empty()).collect();
            assert!(with.iter().all(|&w| w == with[0]), "a block goes as a whole");
            with[0]
        };
        let dropped = (0..LAYERS).filter(|&layer| !moved(layer)).count();
        assert!((0..dropped).all(|layer| !moved(layer)), "the first blocks go");
        seen[dropped] = true;
    }
    assert_eq!(seen, [true; LAYERS + 1]);
}

#[test]
fn a_fusion_trains_attention_over_adapters_that_stay_as_they_are() {
    let Some(model) = model() else { return };
    let dirs = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let names = ["pfeiffer", "other"];
    for (index, (dir, name)) in dirs.iter().zip(names).enumerate() {
        let factor = 8.0 * (index + 1) as f64;
        let method = fresh(&model, json!({"method": "pfeiffer", "reduction_factor": factor}));
        scatter(&*method);
        saved(&*method, dir.path());
        let config = dir.path().join("adapter_config.json");
        let text = std::fs::read_to_string(&config).expect("a text");
        let text = text.replace("\"name\": \"pfeiffer\"", &format!("\"name\": \"{name}\""));
        std::fs::write(&config, text).expect("written");
        if name != "pfeiffer" {
            rename_adapter(dir.path(), "pfeiffer", name);
        }
    }
    let paths: Vec<&Path> = dirs.iter().map(tempfile::TempDir::path).collect();
    let fusion = fresh(&model, json!({"method": "fusion", "adapters": paths}));
    assert_eq!(fusion.size(), LAYERS * (3 * HIDDEN * HIDDEN + 2 * HIDDEN));
    // Keys of deviation 0.02 weigh all adapters nearly alike, and values are the identity: about the
    // mean of the two.
    let members: Vec<_> = paths.iter().map(|p| load(p, &base(&model)).expect("loaded")).collect();
    let mean = combine(&[(&*members[0], 0.5), (&*members[1], 0.5)]).expect("both");
    let one = adapted(&model, &*members[0]);
    let got = adapted(&model, &*fusion);
    let (near, far) =
        (difference(&got, &logits(&model, Some(Arc::new(mean)))), difference(&got, &one));
    assert!(near < 0.7 * far, "{near} {far}");
    assert!(fusion.regularize(1.0).expect("a term") < 1e-6);
    scatter(&*fusion);
    check_gradients("fusion", &model, &*fusion, None);
    let dir = tempfile::tempdir().expect("a folder");
    let before = adapted(&model, &*fusion);
    saved(&*fusion, dir.path());
    let loaded = load(dir.path(), &base(&model)).expect("loaded");
    assert_eq!(adapted(&model, &*loaded), before);
    check_training("fusion", &model, &*fusion);
    assert_eq!(adapted(&model, &*members[0]), one, "a member has changed");
    let twice = build(&model, json!({"method": "fusion", "adapters": [paths[0], paths[0]]}));
    assert!(twice.unwrap_err().to_string().contains("two adapters of a fusion have the name"));
}

/// Writes an adapter's tensors under another name of the adapter.
fn rename_adapter(dir: &Path, from: &str, to: &str) {
    use puna_io::safetensors::SafetensorsFile;
    use puna_io::{TensorBytes, TensorInfo, write::write_safetensors_from};
    let path = dir.join("adapter.safetensors");
    let tensors: Vec<(String, TensorInfo, Vec<u8>)> = {
        let file = SafetensorsFile::open(&path).expect("a file");
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        let read = |name: String| {
            let tensor = file.tensor(&name).expect("a tensor");
            let renamed = name.replace(&format!(".{from}."), &format!(".{to}."));
            (renamed, tensor.info.clone(), tensor.bytes.to_vec())
        };
        names.into_iter().map(read).collect()
    };
    let list: Vec<_> = tensors.iter().map(|(name, info, _)| (name.clone(), info.clone())).collect();
    write_safetensors_from(&path, &list, &std::collections::BTreeMap::new(), |name| {
        let bytes = tensors.iter().find(|(n, ..)| n == name).expect("a tensor").2.clone();
        Ok::<_, PeftError>(TensorBytes::from_vec(bytes))
    })
    .expect("written");
}

#[test]
fn adamix_routes_at_random_in_training_and_averages_afterwards() {
    let Some(model) = model() else { return };
    let recipe = json!({"method": "adamix", "copies": 3, "consistency": 2.0,
                        "placement": "houlsby"});
    let method = fresh(&model, recipe);
    scatter(&*method);
    let (batch, set) = (Batch::new(), set_of(&*method));
    let losses: Vec<f64> =
        (0..6).map(|seed| batch.train(&model, &set, Recompute::Nothing, seed)).collect();
    assert!(losses.iter().any(|loss| (loss - losses[0]).abs() > 1e-6), "{losses:?}");
    let again = batch.train(&model, &set, Recompute::Blocks, 0);
    assert!((again - losses[0]).abs() < 1e-9, "the routing is the seed's");
    method.regularize(0.0).expect("a term");
    check_gradients("adamix", &model, &*method, Some(4));
    // The term's gradient, by itself: a pass, then the difference that `regularize` makes.
    method.regularize(0.0).expect("a term");
    clear(&*method);
    batch.train(&model, &set, Recompute::Blocks, 4);
    let before: Vec<_> = method.trained().iter().map(|t| gradient(&t.parameter)).collect();
    let term = method.regularize(1.0).expect("a term");
    assert!(term > 0.0);
    let last = method.trained().len() - 1;
    let trained = method.trained();
    // Behind the last block nothing depends on the term's other places: its slope can be checked.
    let differences = trained.iter().zip(&before).map(|(t, before)| {
        let after = gradient(&t.parameter);
        let zeros = vec![0.0; after.len()];
        let before = if before.is_empty() { &zeros } else { before };
        let difference: Vec<f32> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        difference
    });
    let differences: Vec<Vec<f32>> = differences.collect();
    let chosen = (0..=last).rev().find(|&i| differences[i].iter().any(|d| d.abs() > 1e-5));
    let chosen = chosen.expect("the term has a gradient");
    let direction = &differences[chosen];
    let norm = direction.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>();
    let moved = |step: f32| {
        let parameter = &trained[chosen].parameter;
        let before = parameter.values().clone();
        let mut values = parameter.values_mut();
        values.iter_mut().zip(direction).for_each(|(v, d)| *v += step * d);
        drop(values);
        batch.train(&model, &set, Recompute::Nothing, 4);
        let term = method.regularize(0.0).expect("a term");
        *parameter.values_mut() = before;
        term
    };
    let step = (0.01 / norm.sqrt()) as f32;
    let slope = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
    assert!((slope / norm - 1.0).abs() < 0.02, "{slope} {norm}");
    // Saved is one bottleneck for each place: the mean.
    let dir = tempfile::tempdir().expect("a folder");
    saved(&*method, dir.path());
    let merged = load(dir.path(), &base(&model)).expect("loaded");
    assert_eq!(merged.name(), "houlsby");
    assert_eq!(3 * merged.size(), method.size());
    assert_eq!(adapted(&model, &*merged), adapted(&model, &*method));
}

#[test]
fn settings_that_mean_something_else_are_refused() {
    let Some(model) = model() else { return };
    for (recipe, expected) in [
        (json!({"method": "pfeiffer", "scaling": "big"}), "adapter.scaling = big"),
        (json!({"method": "pfeiffer", "reduction_factor": 0.0}), "adapter.reduction_factor"),
        (json!({"method": "pfeiffer", "drop_layers": 9}), "adapter.drop_layers = 9"),
        (json!({"method": "pfeiffer", "init_weights": "lora"}), "adapter.init_weights"),
        (json!({"method": "compacter", "phm_dim": 3}), "adapter.phm_dim = 3"),
        (json!({"method": "hub_prefix_tuning", "leave_out": [0]}), "adapter.leave_out = [0]"),
        (json!({"method": "hub_lora", "attn_matrices": ["o"]}), "adapter.attn_matrices = o"),
        (json!({"method": "hub_lora", "r": 0}), "adapter.r = 0"),
        (json!({"method": "adamix", "copies": 0}), "adapter.copies = 0"),
        (json!({"method": "fusion", "adapters": []}), "at least two adapters"),
    ] {
        let error = build(&model, recipe.clone()).expect_err("refused").to_string();
        assert!(error.starts_with(expected) || error.contains(expected), "{recipe}: {error}");
    }
    let case = GoldenCase::open("adapters/pfeiffer").expect("beside the base");
    let text = std::fs::read_to_string(case.dir.join("adapter_config.json")).expect("a text");
    for (from, to, expected) in [
        ("\"ln_before\": false", "\"ln_before\": true", "adapter.ln_before"),
        ("\"original_ln_after\": true", "\"original_ln_after\": false", "original_ln_after"),
        ("\"inv_adapter\": null", "\"inv_adapter\": \"nice\"", "adapter.inv_adapter = nice"),
        ("\"residual_before_ln\": true", "\"residual_before_ln\": false", "added twice"),
        ("\"leave_out\": []", "\"leave_out\": [], \"new\": 3", "new = 3 is not supported"),
        ("\"hidden_size\": 64", "\"hidden_size\": 32", "hidden_size is 32"),
        ("\"reduction_factor\": 16", "\"reduction_factor\": 8", "has shape [4, 64]"),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let weights = "pytorch_adapter.bin";
        std::fs::copy(case.dir.join(weights), dir.path().join(weights)).expect("copied");
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{from}");
        std::fs::write(dir.path().join("adapter_config.json"), changed).expect("written");
        let error = load(dir.path(), &base(&model)).expect_err("refused").to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}
