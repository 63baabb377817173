//! AdapterHub's methods: beginnings, sizes, files, gradients.

use std::path::Path;

use puna_model::{Logits, Recompute, Segment};
use puna_peft::load;
use puna_testkit::{GoldenCase, golden_cases};
use serde_json::{Value, json};

use crate::support::{
    Batch, HIDDEN, KV, LAYERS, adapted, base, build, check_gradients, check_training, clear,
    difference, fresh, gradient, logits, model, saved, scatter, set_of,
};

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
fn gradients_are_slopes_and_a_few_steps_lower_the_loss_and_leave_the_base_as_it_was() {
    let Some(model) = model() else { return };
    for recipe in recipes() {
        let method = fresh(&model, recipe.clone());
        scatter(&*method);
        let routing = (method.name() == "adamix").then_some(4);
        check_gradients(&recipe.to_string(), &model, &*method, routing);
        check_training(&recipe.to_string(), &model, &*method);
    }
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
        (
            json!({"method": "hub_prefix_tuning", "flat": true, "prefix_length": u64::MAX}),
            "adapter.prefix_length",
        ),
        (json!({"method": "hub_prefix_tuning", "prefix_length": u64::MAX}), "at most 4294967296"),
        (json!({"method": "pfeiffer", "reduction_factor": 1e-300}), "at most 4294967296"),
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
        ("\"reduction_factor\": 16", "\"reduction_factor\": 1e-300", "has shape [4, 64]"),
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

#[test]
fn greedy_tokens_are_the_librarys_with_what_is_remembered_and_with_what_is_not() {
    let Some(model) = model() else { return };
    for name in golden_cases("adapters") {
        let Some(case) = GoldenCase::open(&name) else { continue };
        let set = set_of(&*load(&case.dir, &base(&model)).expect("loaded"));
        let prompt = case.input_ids(0);
        let mut cache = model.decoder.new_cache().with_adapters(Some(set));
        let (mut tokens, mut answer) = (prompt.clone(), Vec::new());
        let total_len = prompt.len() + case.greedy(0).len();
        while answer.len() < case.greedy(0).len() {
            let segment = Segment { tokens: &tokens, cache: &mut cache, total_len };
            let logits = model.decoder.forward(&mut [segment], Logits::Last).expect("logits");
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            answer.push(best.expect("a token") as u32);
            tokens = answer[answer.len() - 1..].to_vec();
        }
        assert_eq!(answer, case.greedy(0), "{name}");
    }
}

#[test]
fn dropout_is_of_training_and_the_same_in_both_passes_of_a_block() {
    let Some(model) = model() else { return };
    for recipe in [
        json!({"method": "houlsby", "reduction_factor": 4.0, "dropout": 0.5}),
        json!({"method": "hub_prefix_tuning", "bottleneck_size": 10, "dropout": 0.5}),
        json!({"method": "hub_lora", "dropout": 0.5}),
        json!({"method": "unipelt", "lora": {"dropout": 0.5}}),
    ] {
        let method = fresh(&model, recipe.clone());
        scatter(&*method);
        let (batch, set) = (Batch::new(), set_of(&*method));
        let mut of_modes = [Recompute::Nothing, Recompute::Blocks].into_iter().map(|recompute| {
            clear(&*method);
            let loss = batch.train(&model, &set, recompute, 3);
            let gradients = method.trained().into_iter().map(|t| gradient(&t.parameter));
            (loss, gradients.collect::<Vec<_>>())
        });
        let (saving, twice) = (of_modes.next(), of_modes.next());
        assert_eq!(saving, twice, "{recipe}");
        let other = batch.train(&model, &set, Recompute::Nothing, 4);
        let losses = [saving.expect("a mode").0, other, batch.loss(&model, &set)];
        let apart = |a: f64, b: f64| (a - b).abs() > 1e-6;
        assert!(apart(losses[0], losses[1]) && apart(losses[0], losses[2]), "{recipe}: {losses:?}");
    }
}
