//! LoRA in its variants on golden models: ways to begin, LoRA+, DoRA.

use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use puna_model::{LayerSlot, Parameter, Precision, Slot};
use puna_nn::{Pass, Value, Weight};
use puna_peft::{AdapterConfig, LoraConfig, Targets, combine, loftq, loftq_from};
use puna_testkit::{GoldenCase, random_tensor};

use crate::adapted::{Adapted, base_of, dense};

fn lora(base: &str, change: impl FnOnce(&mut LoraConfig)) -> Option<Adapted> {
    let mut config = LoraConfig {
        r: 4,
        lora_alpha: 6.0,
        target_modules: Targets::all_linear(),
        ..LoraConfig::default()
    };
    change(&mut config);
    Adapted::new(base, &AdapterConfig::Lora(config))
}

/// r (in + out) of all layers of text/llama2-gqa.
const SIZE: usize = 2 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 192));

fn far(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn lora_begins_as_the_base_learns_merges_and_is_loaded_as_it_was_saved() {
    for start in [serde_json::json!(true), serde_json::json!("gaussian")] {
        let Some(adapted) = lora("text/llama2-gqa", |c| c.init_lora_weights = start.clone()) else {
            return;
        };
        adapted.begins_as_the_base();
        assert_eq!(adapted.method.size(), SIZE);
        let losses = adapted.learns(12, 0.01);
        println!("lora {start}: loss {:.3} → {:.3}", losses[0], losses[losses.len() - 1]);
        adapted.randomize(0.05);
        adapted.gradients_match("lora_");
        adapted.merges();
        adapted.saves();
    }
}

#[test]
fn lora_with_two_random_matrices_is_not_the_base() {
    let Some(adapted) = lora("text/llama2-gqa", |c| c.init_lora_weights = false.into()) else {
        return;
    };
    assert!(far(&adapted.logits(Some(adapted.set())), &adapted.logits(None)) > 0.1);
}

#[test]
fn lora_plus_gives_b_a_multiple_of_the_learning_rate() {
    let Some(adapted) = lora("text/llama2-gqa", |c| c.loraplus_lr_ratio = 16.0) else { return };
    for trained in adapted.method.trained() {
        let expected = if trained.parameter.name().contains("lora_B") { 16.0 } else { 1.0 };
        assert_eq!(trained.lr_factor, expected, "{}", trained.parameter.name());
    }
    let losses = adapted.learns(12, 0.001);
    let Some(plain) = lora("text/llama2-gqa", |_| ()) else { return };
    let slower = plain.train(12, 0.001);
    assert!(losses[12] < slower[12], "{} by {}", losses[12], slower[12]);
    // peft knows no such field; a continued training does.
    let (loaded, _) = adapted.saves();
    assert!(loaded.trained().iter().any(|trained| trained.lr_factor == 16.0));
    let (_, config) = plain.saves();
    assert!(config.get("loraplus_lr_ratio").is_none());
}

#[test]
fn dora_begins_as_the_base_learns_merges_and_is_loaded_as_it_was_saved() {
    for (base, norms) in [
        ("text/llama2-gqa", 2 * (64 + 32 + 32 + 64 + 192 + 192 + 64)),
        ("text/llama-bias", 2 * (64 + 32 + 32 + 64 + 112 + 112 + 64)),
    ] {
        let Some(adapted) = lora(base, |c| c.use_dora = true) else { return };
        let Some(plain) = lora(base, |_| ()) else { return };
        adapted.begins_as_the_base();
        // One magnitude per output more than LoRA (section 4 of the paper).
        assert_eq!(adapted.method.size(), plain.method.size() + norms);
        let losses = adapted.learns(12, 0.01);
        println!("dora on {base}: loss {:.3} → {:.3}", losses[0], losses[losses.len() - 1]);
        adapted.randomize(0.05);
        adapted.gradients_match("lora_magnitude_vector");
        adapted.merges();
        let (_, config) = adapted.saves();
        assert_eq!(config["use_dora"], true);
        // As in peft another scale is one of the matrices only; norms follow.
        let half = combine(&[(&*adapted.method, 0.5)]).expect("a scaled adapter");
        assert!(
            far(&adapted.logits(Some(half.into())), &adapted.logits(Some(adapted.set()))) > 1e-3
        );
    }
}

#[test]
fn dora_on_the_head_learns_through_the_merged_weight() {
    let Some(adapted) = lora("text/llama2-gqa", |c| {
        c.use_dora = true;
        c.target_modules = Targets::names(&["lm_head"]);
    }) else {
        return;
    };
    adapted.begins_as_the_base();
    adapted.randomize(0.05);
    adapted.gradients_match("lora_magnitude_vector");
    adapted.learns(12, 0.02);
}

#[test]
fn dora_with_trained_biases_scales_around_them() {
    let Some(adapted) = lora("text/llama-bias", |c| {
        c.use_dora = true;
        c.bias = puna_peft::Bias::All;
    }) else {
        return;
    };
    adapted.randomize(0.05);
    adapted.gradients_match(".bias");
    adapted.merges();
    adapted.saves();
}

#[test]
fn pissa_begins_near_the_base_and_is_saved_as_lora_of_twice_the_rank() {
    for start in ["pissa", "pissa_niter_4"] {
        for use_rslora in [false, true] {
            let Some(adapted) = lora("text/llama2-gqa", |c| {
                c.init_lora_weights = start.into();
                c.use_rslora = use_rslora;
            }) else {
                return;
            };
            let off = far(&adapted.logits(Some(adapted.set())), &adapted.logits(None));
            assert!(off < 1e-3, "{off}");
            assert_eq!(adapted.method.size(), SIZE);
            let zero = |name: &str| {
                let trained = adapted.method.trained().into_iter();
                let mut of_name = trained.filter(|t| t.parameter.name().contains(name));
                of_name.any(|t| t.parameter.values().iter().all(|v| *v == 0.0))
            };
            assert!(!zero("lora_A") && !zero("lora_B"), "both matrices have singular vectors");
            adapted.gradients_match("lora_");
            let losses = adapted.learns(12, 0.003);
            println!("{start}: loss {:.3} → {:.3}", losses[0], losses[losses.len() - 1]);
            adapted.merges();
            // A training goes on as it was.
            let (loaded, config) = adapted.saves();
            assert_eq!(loaded.size(), SIZE);
            // peft passes over the field that says so, and has LoRA of twice the rank.
            assert_eq!((&config["r"], &config["init_lora_weights"]), (&8.into(), &true.into()));
            let as_peft = adapted.loaded_with(|config| {
                config["puna_before_conversion"] = serde_json::Value::Null;
            });
            assert_eq!(as_peft.size(), 2 * SIZE);
            let set = combine(&[(&*as_peft, 1.0)]).expect("one adapter");
            let off = far(&adapted.logits(Some(set.into())), &adapted.logits(Some(adapted.set())));
            assert!(off < 1e-3, "{off}");
        }
    }
}

#[test]
fn loftq_brings_a_quantized_model_nearer_to_its_original() {
    // The same weights in Q4_0 and as they were.
    let (Some(original), Some(quantized)) =
        (GoldenCase::open("text/llama2-gqa"), GoldenCase::open("gguf/q4_0"))
    else {
        return;
    };
    let options = puna_model::LoadOptions::new(puna_model::Precision::Exact);
    let original = puna_model::Model::load(&original.dir, &options).expect("a model");
    let file = std::fs::read_dir(&quantized.dir).expect("a folder").flatten().map(|e| e.path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|e| e == "gguf"));
    let quantized =
        puna_model::Model::load(&file.expect("a GGUF file"), &options).expect("a model");
    let config = LoraConfig {
        r: 8,
        lora_alpha: 16.0,
        target_modules: Targets::all_linear(),
        init_lora_weights: "loftq".into(),
        ..LoraConfig::default()
    };
    let error = AdapterConfig::Lora(config.clone())
        .build(&base_of(&quantized), 1)
        .expect_err("no original");
    assert!(error.to_string().contains("loftq_from"), "{error}");
    let method = loftq_from(&config, &base_of(&quantized), &base_of(&original)).expect("adapters");
    let set = combine(&[(&*method, 1.0)]).expect("one adapter");
    let before = original.decoder.linears().into_iter().zip(quantized.decoder.linears());
    for ((slot, before), (_, linear)) in before {
        let Some(adapted) = set.linears.get(&slot) else { continue };
        let (before, mut weight) = (dense(before.weight()), dense(linear.weight()));
        let distance = |weight: &[f32]| {
            before.iter().zip(weight).map(|(w, q)| (w - q).powi(2)).sum::<f32>().sqrt()
        };
        let plain = distance(&weight);
        adapted.adapters[0].merge(&mut weight, None).expect("fits");
        // Noise of rank 32 or 64, of which 8 singular values are taken away.
        assert!(distance(&weight) < 0.9 * plain, "{slot}: {} by {plain}", distance(&weight));
    }
}

#[test]
fn loftq_quantizes_with_the_codes_of_bitsandbytes() {
    let Some(case) = GoldenCase::open("bnb/nf4") else { return };
    let options = puna_model::LoadOptions::new(Precision::Exact);
    let model = puna_model::Model::load(&case.dir, &options).expect("a model");
    let found = model.decoder.linears().into_iter().find_map(|(_, l)| match &**l.weight() {
        Weight::Codebook(weight) => Some(weight.codebook),
        _ => None,
    });
    let own = loftq(&[1.0; 64], (8, 8), (1, 1.0), 1).expect("a weight").weight;
    assert_eq!(own.codebook, found.expect("a weight in NF4"));
}

/// A run of PiSSA that was saved by peft as it was: its base is without the first matrices.
#[test]
fn a_file_that_says_pissa_is_loaded_beside_the_base_without_what_it_began_as() {
    let Some(adapted) = lora("text/llama2-gqa", |_| ()) else { return };
    let loaded = adapted.loaded_with(|config| config["init_lora_weights"] = "pissa".into());
    let set = combine(&[(&*loaded, 1.0)]).expect("one adapter");
    // B is zero, so what is left of each layer is the base without its largest singular values.
    for (slot, linear) in adapted.model.decoder.linears() {
        let Some(adapted) = set.linears.get(&slot) else { continue };
        let mut weight = dense(linear.weight());
        let norm = |weight: &[f32]| weight.iter().map(|w| w * w).sum::<f32>();
        let before = norm(&weight);
        adapted.adapters[0].merge(&mut weight, None).expect("fits");
        assert!(norm(&weight) < 0.9 * before, "{slot}: {} of {before}", norm(&weight));
    }
}

#[test]
fn doras_gradients_are_those_of_its_equation_with_a_constant_norm() {
    let Some(adapted) = lora("text/llama-bias", |c| c.use_dora = true) else { return };
    adapted.randomize(0.2);
    let mut pass = Pass::new(Precision::Exact);
    pass.adapters = Some(adapted.set());
    pass.seed = Some(1);
    let slot = Slot::Layer(0, LayerSlot::Query);
    let linears = adapted.model.decoder.linears();
    let (_, linear) = linears.iter().find(|(other, _)| *other == slot).expect("a query");
    let (rows, cols) = (linear.weight().rows(), linear.weight().cols());
    let (x, seed) = (random_tensor(1, &[5, cols]), random_tensor(2, &[5, rows]));
    let leaf = Value::leaf(x.clone());
    let y = linear.forward(&leaf, &pass).expect("a pass");
    let gradients = y.backward(seed.clone()).expect("gradients");
    let trained = adapted.method.trained();
    let of_query = |part: &str| {
        let name = format!("layers.0.self_attn.q_proj.{part}");
        let found = trained.iter().find(|t| t.parameter.name().contains(&name));
        Arc::clone(&found.expect("a parameter").parameter)
    };
    let parameters = ["lora_A", "lora_B", "lora_magnitude"].map(of_query);
    let reference = || -> candle_core::Result<Vec<Tensor>> {
        let var = |p: &Parameter| Var::from_slice(&p.values(), p.shape(), &Device::Cpu);
        let vars = [
            var(&parameters[0])?,
            var(&parameters[1])?,
            var(&parameters[2])?,
            Var::from_tensor(&x)?,
        ];
        let [a, b, m, x] = &vars;
        let w = Tensor::from_vec(dense(linear.weight()), (rows, cols), &Device::Cpu)?;
        let sum = (w + (b.matmul(a)? * 1.5)?)?; // α / r = 6 / 4
        let norm = sum.sqr()?.sum(1)?.sqrt()?.detach();
        let sum = sum.broadcast_mul(&m.div(&norm)?.reshape((rows, 1))?)?;
        let bias = linear.bias().expect("a bias").with(<[f32]>::to_vec).expect("on the CPU");
        let y = x.matmul(&sum.t()?)?.broadcast_add(&Tensor::new(bias, &Device::Cpu)?)?;
        let gradients = (y * &seed)?.sum_all()?.backward()?;
        let flat = |var: &Var| gradients.get(var).expect("a gradient").flatten_all();
        vars.iter().map(flat).collect()
    };
    let reference = reference().expect("candle's gradients");
    let mut own: Vec<Vec<f32>> =
        parameters.iter().map(|p| p.with_gradient(|g| g.expect("a gradient").to_vec())).collect();
    own.push(gradients.of(&leaf).expect("a gradient").flatten_all().unwrap().to_vec1().unwrap());
    for (name, (own, reference)) in ["A", "B", "m", "x"].iter().zip(own.iter().zip(&reference)) {
        let reference: Vec<f32> = reference.to_vec1().unwrap();
        let largest = reference.iter().fold(0f32, |most, g| most.max(g.abs()));
        assert!(far(own, &reference) < 1e-4 * largest, "{name}");
    }
}

#[test]
fn dora_begins_where_lora_does_when_both_matrices_are_random() {
    let begun = |use_dora| {
        lora("text/llama2-gqa", |c| {
            c.init_lora_weights = false.into();
            c.use_dora = use_dora;
        })
    };
    let (Some(dora), Some(plain)) = (begun(true), begun(false)) else { return };
    assert!(far(&dora.logits(Some(dora.set())), &plain.logits(Some(plain.set()))) < 1e-3);
}

#[test]
fn dora_learns_beside_a_base_in_nf4() {
    let Some(adapted) = lora("bnb/nf4", |c| c.use_dora = true) else { return };
    adapted.begins_as_the_base();
    adapted.learns(12, 0.01);
    adapted.merges();
    adapted.saves();
}

#[test]
fn what_cannot_be_begun_or_combined_is_named() {
    let Some(case) = GoldenCase::open("text/llama2-gqa") else { return };
    let options = puna_model::LoadOptions::new(puna_model::Precision::Exact);
    let model = puna_model::Model::load(&case.dir, &options).expect("a base");
    let message = |change: fn(&mut LoraConfig)| {
        let mut config = LoraConfig::default();
        change(&mut config);
        AdapterConfig::Lora(config).build(&base_of(&model), 1).expect_err("an error").to_string()
    };
    let unknown = message(|c| c.init_lora_weights = "olora".into());
    assert!(
        unknown.starts_with("adapter.init_lora_weights = \"olora\": expected true, false"),
        "{unknown}"
    );
    let both = message(|c| {
        c.init_lora_weights = "pissa".into();
        c.use_dora = true;
    });
    assert_eq!(both, "adapter.use_dora = true: expected false beside pissa");
    let embedding = message(|c| {
        c.use_dora = true;
        c.target_modules = Targets::names(&["embed_tokens"]);
    });
    assert_eq!(embedding, "adapter.use_dora = true: expected targets without the embedding");
}
