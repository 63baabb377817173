//! AdaLoRA on a golden model.

use puna_peft::{AdaLoraConfig, AdapterConfig, Targets};

use crate::adapted::Adapted;

fn adapted(change: impl FnOnce(&mut AdaLoraConfig)) -> Option<Adapted> {
    let mut config = AdaLoraConfig {
        init_r: 6,
        target_r: 2,
        lora_alpha: 12.0,
        target_modules: Targets::all_linear(),
        ..AdaLoraConfig::default()
    };
    change(&mut config);
    Adapted::new("text/llama2-gqa", &AdapterConfig::AdaLora(config))
}

#[test]
fn adalora_begins_as_the_base_with_a_singular_value_per_rank() {
    let Some(adapted) = adapted(|_| ()) else { return };
    adapted.begins_as_the_base();
    // r (in + out + 1) of each layer
    let layer = |width: usize, out: usize| 6 * (width + out + 1);
    let attention = 2 * layer(64, 64) + 2 * layer(64, 32);
    assert_eq!(adapted.method.size(), 2 * (attention + 3 * layer(64, 192)));
}

#[test]
fn adalora_learns_while_it_prunes_to_its_budget_and_saves_what_is_left() {
    let Some(adapted) = adapted(|config| {
        config.tinit = 3;
        config.tfinal = 5;
        config.delta_t = 2;
    }) else {
        return;
    };
    let losses = adapted.learns(24, 0.02);
    println!("adalora: loss {:.3} → {:.3}", losses[0], losses[losses.len() - 1]);
    adapted.merges();
    let (loaded, config) = adapted.saved_and_loaded();
    assert_eq!((&config["peft_type"], &config["total_step"]), (&"ADALORA".into(), &24.into()));
    let pattern = config["rank_pattern"].as_object().expect("a rank pattern");
    assert!(pattern.contains_key("model.layers.0.self_attn.q_proj.lora_E"));
    let ranks: Vec<usize> = pattern
        .values()
        .map(|kept| kept.as_array().expect("a mask").iter().filter(|v| **v == true).count())
        .collect();
    assert_eq!(ranks.iter().sum::<usize>(), 14 * 2, "{ranks:?}");
    assert!(ranks.iter().any(|rank| *rank != 2), "important layers keep more: {ranks:?}");
    // The pruned places are zeros again, so the sums and what is saved next are the same.
    adapted.saves();
    let files = |method: &dyn puna_peft::Method| -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let tensors = method.files().unwrap().tensors.1.into_iter();
        tensors.map(|tensor| (tensor.name, tensor.shape, tensor.values)).collect()
    };
    assert!(files(&*loaded) == files(&*adapted.method));
}

#[test]
fn a_training_with_adalora_that_was_saved_goes_on_with_the_same_bits() {
    let begun = || adapted(|config| config.delta_t = 3);
    let Some(whole) = begun() else { return };
    whole.train_some((1, 5), 12, 0.02);
    let Some(mut continued) = begun() else { return };
    let (loaded, _) = whole.saved_and_loaded();
    continued.method = loaded;
    let rest = whole.train_some((6, 12), 12, 0.02);
    assert!(rest == continued.train_some((6, 12), 12, 0.02), "other losses");
    let values = |adapted: &Adapted| -> Vec<Vec<f32>> {
        adapted.method.trained().iter().map(|t| t.parameter.values().clone()).collect()
    };
    assert!(values(&whole) == values(&continued), "other values");
    assert!(whole.method.files().unwrap().more.is_empty(), "a finished training keeps no state");
}

#[test]
fn the_gradients_of_adalora_and_of_its_orthogonality_match_central_differences() {
    let Some(adapted) = adapted(|_| ()) else { return };
    adapted.randomize(0.2);
    for part in ["lora_A", "lora_E", "lora_B"] {
        adapted.gradients_match(part);
    }
    for trained in adapted.method.trained() {
        let parameter = trained.parameter;
        parameter.clear_gradient();
        adapted.method.regularize(1.0).expect("a term");
        let gradient = parameter.with_gradient(|g| g.map(|g| g[0]));
        let Some(gradient) = gradient else {
            assert!(parameter.name().ends_with("lora_E"), "{}", parameter.name());
            continue;
        };
        let at = |shift: f32| {
            parameter.values_mut()[0] += shift;
            let term = adapted.method.regularize(1.0).expect("a term");
            parameter.values_mut()[0] -= shift;
            term
        };
        let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
        let error = (numeric - f64::from(gradient)).abs();
        assert!(
            error < 0.01 * numeric.abs() + 1e-4,
            "{}: {gradient} by {numeric}",
            parameter.name()
        );
    }
}

#[test]
fn adalora_on_the_head_learns_through_the_merged_weight() {
    let Some(adapted) = adapted(|config| {
        config.target_modules = Targets::names(&["lm_head"]);
    }) else {
        return;
    };
    adapted.randomize(0.2);
    for part in ["lora_A", "lora_E", "lora_B"] {
        adapted.gradients_match(part);
    }
}

#[test]
fn wrong_settings_of_adalora_are_named() {
    let Some(case) = puna_testkit::GoldenCase::open("text/llama2-gqa") else { return };
    let options = puna_model::LoadOptions::new(puna_model::Precision::Exact);
    let model = puna_model::Model::load(&case.dir, &options).expect("a base");
    let base = crate::adapted::base_of(&model);
    let message = |config: AdaLoraConfig| {
        AdapterConfig::AdaLora(config).build(&base, 1).expect_err("an error").to_string()
    };
    let config = AdaLoraConfig { target_r: 13, ..AdaLoraConfig::default() };
    assert_eq!(message(config), "adapter.target_r = 13: expected at most init_r");
    let config = AdaLoraConfig { total_step: Some(5), tfinal: 5, ..AdaLoraConfig::default() };
    assert_eq!(message(config), "adapter.total_step = 5: expected more than tinit + tfinal");
    let config = AdaLoraConfig { tinit: 3, tfinal: 5, ..AdaLoraConfig::default() };
    let mut config = AdapterConfig::AdaLora(config);
    let method = config.build(&base, 1).expect("an adapter");
    assert!(method.check_steps(9).is_ok());
    let few = method.check_steps(8).expect_err("too few").to_string();
    assert!(few.starts_with("adapter.tinit, tfinal = 3, 5 of 8 steps"), "{few}");
    config.clear_schedule();
    assert!(config.build(&base, 1).expect("an adapter").check_steps(5).is_ok());
}
