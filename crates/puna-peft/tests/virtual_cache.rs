//! Virtual tokens before sequences with a cache: parts, batches, going back, and the same from whole rows.

use std::sync::Arc;

use puna_model::{Device, LoadOptions, Logits, Model, Precision, Segment};
use puna_nn::Pass;
use puna_peft::combine;
use puna_testkit::GoldenCase;

use crate::soft::{assert_near, build, extend, logits, methods, model, set, text_prompt, tokens};

/// Grouped heads; windows of 8; soft caps and alternating windows; two rotary tables; experts; dynamic
/// NTK and LongRoPE, whose frequencies depend on the length.
const BASES: [&str; 9] = [
    "llama2-gqa",
    "mistral-sliding",
    "gemma1",
    "gemma2",
    "gemma3-text",
    "qwen3",
    "mixtral",
    "llama-dynamic-ntk",
    "phi3-longrope",
];

/// Sums over the same keys in another order.
const SAME: f32 = 1e-5;

/// Two kernels for the same attention.
const TWO_KERNELS: f32 = 3e-5;

fn vocab(model: &Model) -> usize {
    model.config.decoder.vocab_size
}

#[test]
fn a_sequence_has_the_same_logits_whole_in_parts_and_from_rows() {
    for name in BASES {
        let Some(model) = model(name) else { continue };
        let prompt = tokens(7, 26, vocab(&model));
        for config in methods(5) {
            let method = build(&config, &model, 2);
            let set = set(&*method);
            let whole = logits(&model, Some(&set), &prompt, prompt.len());
            assert!(whole != logits(&model, None, &prompt, prompt.len()));
            for part in [1, 3, 10] {
                let got = logits(&model, Some(&set), &prompt, part);
                assert_near(&format!("{name} {} by {part}", method.name()), &got, &whole, SAME);
            }
            let pass = Pass { adapters: Some(set), ..Pass::new(Precision::Exact) };
            let last = model.decoder.next_logits(&prompt, &pass).unwrap();
            let name = format!("{name} {} from rows", method.name());
            assert_near(&name, &last, &whole[25 * vocab(&model)..], TWO_KERNELS);
        }
    }
}

#[test]
fn sequences_of_a_batch_have_each_their_own_adapter_or_none() {
    for name in ["llama2-gqa", "mistral-sliding", "gemma2"] {
        let Some(model) = model(name) else { continue };
        let sets: Vec<_> = methods(5).iter().map(|c| set(&*build(c, &model, 2))).collect();
        // Two sequences share an adapter, with others between them.
        let with = [Some(&sets[0]), None, Some(&sets[4]), Some(&sets[0]), Some(&sets[3]), None];
        let prompts: Vec<_> =
            (0..6).map(|i| tokens(i, 4 + 3 * i as usize, vocab(&model))).collect();
        let mut caches: Vec<_> =
            with.iter().map(|set| model.decoder.new_cache().with_adapters(set.cloned())).collect();
        let mut batch = |parts: Vec<&[u32]>, wanted| {
            let pairs = parts.into_iter().zip(&mut caches).zip(&prompts);
            let mut segments: Vec<Segment<'_>> = pairs
                .map(|((tokens, cache), all)| Segment { tokens, cache, total_len: all.len() })
                .collect();
            model.decoder.forward(&mut segments, wanted).unwrap()
        };
        let alone: Vec<_> = (0..6).map(|i| logits(&model, with[i], &prompts[i], 100)).collect();
        let first = batch(prompts.iter().map(|p| &p[..3]).collect(), Logits::All);
        let rest = batch(prompts.iter().map(|p| &p[3..]).collect(), Logits::Last);
        let v = vocab(&model);
        for (i, alone) in alone.iter().enumerate() {
            assert_near(name, &first[3 * v * i..][..3 * v], &alone[..3 * v], SAME);
            assert_near(name, &rest[v * i..][..v], &alone[alone.len() - v..], SAME);
        }
    }
}

#[test]
fn a_cache_goes_back_and_on_and_forks() {
    for name in BASES {
        let Some(model) = model(name) else { continue };
        // Dynamic NTK's remembered keys depend on the length of the sequence.
        if name == "llama-dynamic-ntk" {
            continue;
        }
        let (first, second) = (tokens(1, 9, vocab(&model)), tokens(2, 20, vocab(&model)));
        for config in methods(4) {
            let set = set(&*build(&config, &model, 2));
            let mut cache = model.decoder.new_cache().with_adapters(Some(set.clone()));
            extend(&model, &mut cache, &first, 9);
            let mut fork = cache.clone();
            for keep in [6, 1] {
                let both = [&first[..keep], &second].concat();
                let expected = logits(&model, Some(&set), &both, 100);
                cache.truncate(keep).unwrap();
                let got = extend(&model, &mut cache, &second, keep + 20);
                assert_near(name, &got, &expected[keep * vocab(&model)..], SAME);
                cache = fork.clone();
            }
            fork.truncate(0).unwrap();
            assert_eq!(fork.bytes(), 0);
            let got = extend(&model, &mut fork, &second, 20);
            assert_near(name, &got, &logits(&model, Some(&set), &second, 100), SAME);
        }
    }
}

/// Pages of the virtual tokens that the window has passed are gone; from the beginning they are
/// needed again.
#[test]
fn a_long_prompt_behind_a_window_begins_anew() {
    let Some(model) = model("mistral-sliding") else { return };
    let prompt = tokens(1, 90, vocab(&model));
    for config in methods(200) {
        let set = set(&*build(&config, &model, 2));
        let mut cache = model.decoder.new_cache().with_adapters(Some(set.clone()));
        let expected = logits(&model, Some(&set), &prompt, 11);
        let wrong = Segment { tokens: &[1, 9999], cache: &mut cache, total_len: 2 };
        assert!(model.decoder.forward(&mut [wrong], Logits::Last).is_err());
        for _ in 0..2 {
            let mut got = Vec::new();
            for part in prompt.chunks(30) {
                got.extend(extend(&model, &mut cache, part, 90));
            }
            assert_near("window", &got, &expected, SAME);
            cache.truncate(0).unwrap();
        }
    }
}

/// Frequencies follow the length with the virtual tokens, as those of a text before the sequence do.
#[test]
fn rotary_tables_that_depend_on_the_length_count_a_prompt() {
    for (name, lens) in [("llama-dynamic-ntk", [40, 70, 130]), ("phi3-longrope", [20, 58, 90])] {
        let Some(model) = model(name) else { continue };
        for len in lens {
            for before in [3, 12] {
                let all = tokens(3, before + len, vocab(&model));
                let method = build(&text_prompt(&all[..before], before), &model, 1);
                let expected = logits(&model, None, &all, 1000);
                for part in [1000, 13] {
                    let got = logits(&model, Some(&set(&*method)), &all[before..], part);
                    let expected = &expected[before * vocab(&model)..];
                    assert_near(&format!("{name} {len} {part}"), &got, expected, SAME);
                }
            }
        }
    }
}

/// A sequence that grows token by token changes LongRoPE's table on the way, and what is remembered,
/// the virtual tokens too, is computed anew.
#[test]
fn a_growing_sequence_changes_its_rotary_table_with_the_virtual_tokens() {
    let Some(model) = model("phi3-longrope") else { return };
    let (before, len) = (9, 75);
    let all = tokens(3, before + len, vocab(&model));
    let mut text = model.decoder.new_cache();
    extend(&model, &mut text, &all[..before], before);
    let prompt = set(&*build(&text_prompt(&all[..before], before), &model, 1));
    let prefix = set(&*build(&methods(before)[4], &model, 1));
    let [mut of_prompt, mut of_prefix] =
        [&prompt, &prefix].map(|set| model.decoder.new_cache().with_adapters(Some(set.clone())));
    let mut tables = Vec::new();
    for at in 0..len {
        let token = &all[before + at..][..1];
        let expected = extend(&model, &mut text, token, before + at + 1);
        let got = extend(&model, &mut of_prompt, token, at + 1);
        assert_near(&format!("prompt {at}"), &got, &expected, SAME);
        assert_eq!(of_prompt.rotary_table(), text.rotary_table());
        tables.push(text.rotary_table());
        let got = extend(&model, &mut of_prefix, token, at + 1);
        let whole = logits(&model, Some(&prefix), &all[before..][..at + 1], 100);
        assert_near(&format!("prefix {at}"), &got, &whole[at * vocab(&model)..], SAME);
        assert_eq!(of_prefix.rotary_table(), text.rotary_table());
    }
    tables.dedup();
    assert_eq!(tables.len(), 2);
}

/// Keys come before embeddings, and those before the sequence.
#[test]
fn a_prompt_and_a_prefix_stand_together() {
    for name in BASES {
        let Some(model) = model(name) else { continue };
        let prompt = tokens(7, 26, vocab(&model));
        let (a, b) = (build(&methods(5)[0], &model, 2), build(&methods(3)[4], &model, 2));
        let set = Arc::new(combine(&[(&*a, 1.0), (&*b, 1.0)]).unwrap());
        assert_eq!((set.virtual_len(), set.first_position), (8, 8));
        let whole = logits(&model, Some(&set), &prompt, 26);
        for part in [1, 10] {
            assert_near(name, &logits(&model, Some(&set), &prompt, part), &whole, SAME);
        }
        let pass = Pass { adapters: Some(set), ..Pass::new(Precision::Exact) };
        let last = model.decoder.next_logits(&prompt, &pass).unwrap();
        assert_near(name, &last, &whole[25 * vocab(&model)..], TWO_KERNELS);
    }
}

/// Layers that run as tensors, as on a GPU.
#[test]
fn layers_over_tensors_know_virtual_tokens() {
    for name in ["llama2-gqa", "mistral-sliding", "gemma2"] {
        let (Some(model), Some(case)) = (model(name), GoldenCase::open(&format!("text/{name}")))
        else {
            continue;
        };
        let options =
            LoadOptions { device: Some(Device::Cpu), ..LoadOptions::new(Precision::Exact) };
        let tensors = Model::load(&case.dir, &options).unwrap();
        let prompt = tokens(7, 26, vocab(&model));
        for config in methods(5) {
            let method = build(&config, &model, 2);
            let set = set(&*method);
            let expected = logits(&model, Some(&set), &prompt, 26);
            for part in [26, 1, 10] {
                let got = logits(&tensors, Some(&set), &prompt, part);
                assert_near(&format!("{name} {}", method.name()), &got, &expected, TWO_KERNELS);
            }
            let mut cache = tensors.decoder.new_cache().with_adapters(Some(set));
            extend(&tensors, &mut cache, &prompt, 26);
            for keep in [9, 0] {
                cache.truncate(keep).unwrap();
                let got = extend(&tensors, &mut cache, &prompt[keep..], 26);
                assert_near(name, &got, &expected[keep * vocab(&model)..], TWO_KERNELS);
            }
        }
    }
}
