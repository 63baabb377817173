//! Adapters of peft and adapters, against their logits.

use std::sync::Arc;

use puna_model::{LoadOptions, Logits, Model, Precision, Segment};
use puna_peft::{AdapterSet, Base, combine, load};
use puna_testkit::{GoldenCase, Tolerance, golden_cases};

fn base_of(case: &GoldenCase) -> Option<Model> {
    let name = case.json["base"].as_str().expect("a base");
    let base = GoldenCase::open(name)?;
    let model = Model::load(&base.dir, &LoadOptions::new(Precision::Exact));
    Some(model.expect("a golden base"))
}

fn set_of(case: &GoldenCase, model: &Model) -> Arc<AdapterSet> {
    let base = Base { decoder: &model.decoder, config: &model.config };
    let method = load(&case.dir, &base).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    Arc::new(combine(&[(&*method, 1.0)]).expect("one adapter"))
}

/// Logits of each prompt given whole and in two parts.
fn check(case: &GoldenCase, model: &Model, set: &Arc<AdapterSet>) {
    for index in 0..case.prompts() {
        let prompt = case.input_ids(index);
        for parts in [vec![prompt.len()], vec![1, prompt.len() - 1]] {
            let mut cache = model.decoder.new_cache().with_adapters(Some(Arc::clone(set)));
            let (mut logits, mut first, count) = (Vec::new(), 0, parts.len());
            for len in parts {
                let tokens = &prompt[first..first + len];
                let segment = Segment { tokens, cache: &mut cache, total_len: prompt.len() };
                let new = model.decoder.forward(&mut [segment], Logits::All);
                logits.extend(new.expect("logits"));
                first += len;
            }
            // What a gate averages over was shorter for the first part.
            if count == 1 || !set.whole_sequence {
                let name = format!("{} prompt {index} in {count}", case.name);
                case.logits(index).assert_close(&name, &logits, Tolerance::GOLDEN);
            }
        }
    }
}

fn group(name: &str) {
    for name in golden_cases(name) {
        // ONLY=ia3,dora: the cases whose names have one of these parts.
        let only = std::env::var("ONLY").unwrap_or_default();
        if !only.split(',').any(|part| name.contains(part)) {
            continue;
        }
        let Some(case) = GoldenCase::open(&name) else { continue };
        let Some(model) = base_of(&case) else { continue };
        let set = set_of(&case, &model);
        check(&case, &model, &set);
    }
}

#[test]
fn peft_adapters_give_their_logits() {
    group("peft");
}

#[test]
fn adapters_of_adapterhub_give_their_logits() {
    group("adapters");
}
