//! What must hold whatever the weights: prefill = chunks = steps, batch = alone, bit for bit.

use puna_model::{Logits, Precision, Segment};

use crate::support::{cases, load, prefill, prompts, run};

/// Runs `check` on the text and gguf cases in both modes.
fn for_each_model(check: impl Fn(&puna_model::Model, &[Vec<u32>], &str)) {
    for group in ["text", "gguf"] {
        let Some(cases) = cases(group) else { continue };
        for case in cases.iter().filter(|c| !c.ends_with("llama4-text")) {
            for precision in [Precision::Exact, Precision::Fast] {
                let model = load(case, precision);
                let inputs: Vec<Vec<u32>> = prompts(case).into_iter().map(|p| p.input).collect();
                check(&model, &inputs, &format!("{} {precision:?}", case.display()));
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn prefill_in_chunks_and_step_by_step_equals_prefill_bitwise() {
    for_each_model(|model, inputs, name| {
        for input in inputs {
            let (_, whole) = prefill(&model.decoder, input);
            for chunk in [1, 5] {
                let mut cache = model.decoder.new_cache();
                let mut rows = Vec::new();
                for tokens in input.chunks(chunk) {
                    rows.extend(run(&model.decoder, &mut cache, tokens, input.len()));
                }
                assert_eq!(bits(&rows), bits(&whole), "{name}, chunks of {chunk}");
            }
        }
    });
}

#[test]
fn a_batch_of_two_equals_each_alone_bitwise() {
    for_each_model(|model, inputs, name| {
        let vocab = model.decoder.config().vocab_size;
        let alone: Vec<Vec<f32>> =
            inputs.iter().map(|input| prefill(&model.decoder, input).1).collect();
        let (mut a, mut b) = (model.decoder.new_cache(), model.decoder.new_cache());
        let mut segments = [
            Segment { tokens: &inputs[0], cache: &mut a, total_len: inputs[0].len() },
            Segment { tokens: &inputs[1], cache: &mut b, total_len: inputs[1].len() },
        ];
        let together = model.decoder.forward(&mut segments, Logits::All).unwrap();
        let split = inputs[0].len() * vocab;
        assert_eq!(bits(&together[..split]), bits(&alone[0]), "{name}");
        assert_eq!(bits(&together[split..]), bits(&alone[1]), "{name}");
    });
}

#[test]
fn a_truncated_cache_continues_like_a_fresh_one() {
    for_each_model(|model, inputs, name| {
        let input = &inputs[1];
        let half = input.len() / 2;
        let (mut cache, whole) = prefill(&model.decoder, input);
        if cache.truncate(half).is_err() {
            return; // a window dropped what it would need; the error says so
        }
        let rest = run(&model.decoder, &mut cache, &input[half..], input.len());
        let vocab = model.decoder.config().vocab_size;
        assert_eq!(bits(&rest), bits(&whole[half * vocab..]), "{name}");
    });
}
