//! Virtual tokens in training: gradients, recomputation, packed rows, a few steps.

use puna_model::{Model, Precision, Recompute};
use puna_nn::Pass;
use puna_nn::ops::with_f32;
use puna_peft::{AdapterConfig, Method, PTuningConfig, PromptEncoderType};

use crate::soft::{Rows, assert_near, build, gradients, methods, model, set, text_prompt, tokens};

const BASES: [&str; 5] = ["llama2-gqa", "mistral-sliding", "gemma2", "gemma3-text", "qwen3"];

fn loss(model: &Model, method: &dyn Method, rows: &Rows) -> f64 {
    let pass = Pass { adapters: Some(set(method)), ..Pass::new(Precision::Exact) };
    model.decoder.evaluate(&rows.view(), &pass).expect("a loss").loss
}

/// Two documents and some padding in a row, and one that fills another.
fn packed(model: &Model) -> (Rows, Vec<Rows>) {
    let vocab = model.config.decoder.vocab_size;
    let documents: Vec<_> = [5, 12, 21].map(|len| tokens(len, len as usize, vocab)).into();
    let packed = Rows::new(21, &[&documents[..2], &documents[2..]]);
    let alone = documents.iter().map(|d| Rows::new(d.len(), &[std::slice::from_ref(d)]));
    (packed, alone.collect())
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |max, v| max.max(v.abs()))
}

/// The slope along the gradient, which is its length, and along a direction that has nothing to do
/// with it, of each parameter.
#[test]
fn gradients_match_central_differences() {
    for name in BASES {
        let Some(model) = model(name) else { continue };
        let (rows, _) = packed(&model);
        for config in methods(4) {
            let method = build(&config, &model, 5);
            let (value, all) = gradients(&model, &*method, &rows, Recompute::Nothing, 1);
            let plain = loss(&model, &*method, &rows);
            assert!((value - plain).abs() < 1e-4 * plain, "{value} {plain}");
            for (trained, gradient) in method.trained().iter().zip(&all) {
                let length = gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
                let along: Vec<f32> =
                    gradient.iter().map(|&g| (f64::from(g) / length.max(1e-20)) as f32).collect();
                let other = tokens(3, gradient.len(), 1000);
                let other: Vec<f32> = other.iter().map(|&t| t as f32 / 500.0 - 1.0).collect();
                let norm = other.iter().map(|v| v * v).sum::<f32>().sqrt();
                let other: Vec<f32> = other.iter().map(|v| v / norm).collect();
                for direction in [&along, &other] {
                    let expected: f64 =
                        direction.iter().zip(gradient).map(|(d, g)| f64::from(d * g)).sum();
                    let start = trained.parameter.values().clone();
                    // Fresh networks make small embeddings, which the norms make large: slopes are
                    // steep and bend, and a step may lead over the corner of a ReLU.
                    let slope = |step: f32| {
                        let at = |sign: f32| {
                            let moved = start.iter().zip(direction);
                            *trained.parameter.values_mut() =
                                moved.map(|(v, d)| v + sign * step * d).collect();
                            loss(&model, &*method, &rows)
                        };
                        (at(1.0) - at(-1.0)) / f64::from(2.0 * step)
                    };
                    let step = (0.04 / length as f32).min(3e-3);
                    let slopes = [step, step / 4.0, step / 10.0].map(slope);
                    *trained.parameter.values_mut() = start;
                    let off = slopes.map(|slope| (slope - expected).abs());
                    let off = off.into_iter().fold(f64::INFINITY, f64::min);
                    let what = trained.parameter.name();
                    assert!(
                        off < 0.01 * length + 0.02,
                        "{name} {} {what}: {slopes:?}, {expected} of {length}",
                        method.name()
                    );
                }
            }
        }
    }
}

#[test]
fn blocks_that_run_twice_give_the_same_gradients() {
    for name in BASES.into_iter().chain(["mixtral"]) {
        let Some(model) = model(name) else { continue };
        let (rows, _) = packed(&model);
        for config in methods(4) {
            let method = build(&config, &model, 5);
            let (a, once) = gradients(&model, &*method, &rows, Recompute::Nothing, 1);
            let (b, twice) = gradients(&model, &*method, &rows, Recompute::Blocks, 1);
            assert_eq!((a, once), (b, twice), "{name} {}", method.name());
        }
    }
}

#[test]
fn each_document_of_a_row_has_the_virtual_tokens() {
    for name in BASES {
        let Some(model) = model(name) else { continue };
        let (rows, alone) = packed(&model);
        for config in methods(4) {
            let method = build(&config, &model, 5);
            let (value, got) = gradients(&model, &*method, &rows, Recompute::Nothing, 1);
            let (mut sum, mut expected): (f64, Vec<Vec<f32>>) = (0.0, Vec::new());
            for rows in &alone {
                let (value, own) = gradients(&model, &*method, rows, Recompute::Nothing, 1);
                sum += value;
                expected.resize_with(own.len(), Vec::new);
                for (sum, own) in expected.iter_mut().zip(own) {
                    sum.resize(own.len(), 0.0);
                    sum.iter_mut().zip(own).for_each(|(sum, g)| *sum += g);
                }
            }
            assert!((value - sum).abs() < 1e-5 * sum, "{value} {sum}");
            for (got, expected) in got.iter().zip(&expected) {
                let name = format!("{name} {}", method.name());
                assert_near(&name, got, expected, 1e-5 * largest(expected).max(1.0));
            }
        }
    }
}

/// The loss behind a prompt of a text's embeddings is that of the text before the sequence.
#[test]
fn the_loss_behind_a_prompt_is_that_behind_its_text() {
    for name in BASES {
        let Some(model) = model(name) else { continue };
        let all = tokens(9, 26, model.config.decoder.vocab_size);
        let method = build(&text_prompt(&all[..6], 6), &model, 1);
        let (got, _) = gradients(
            &model,
            &*method,
            &Rows::new(20, &[&[all[6..].to_vec()]]),
            Recompute::Nothing,
            1,
        );
        let whole = Rows::new(26, &[std::slice::from_ref(&all)]).without_first(6);
        let pass = Pass::new(Precision::Exact);
        let expected = model.decoder.evaluate(&whole.view(), &pass).unwrap().loss;
        assert!((got - expected).abs() < 1e-5 * expected, "{name}: {got} {expected}");
    }
}

#[test]
fn a_few_steps_lower_the_loss_and_leave_the_base() {
    let Some(model) = model("llama2-gqa") else { return };
    let base = || -> Vec<Vec<f32>> {
        let embedding = model.decoder.embedding().weight();
        let linears = model.decoder.linears();
        let weights = linears.iter().map(|(_, linear)| linear.weight()).chain([embedding]);
        weights.map(|w| with_f32(&w.dequantize().unwrap(), <[f32]>::to_vec).unwrap()).collect()
    };
    let before = base();
    let (rows, _) = packed(&model);
    for config in methods(6) {
        let method = build(&config, &model, 5);
        let first = loss(&model, &*method, &rows);
        for step in 0..40 {
            let (_, all) = gradients(&model, &*method, &rows, Recompute::Blocks, step);
            let squares = all.iter().flatten().map(|g| f64::from(g * g)).sum::<f64>();
            let rate = 0.3 / squares.sqrt();
            for (trained, gradient) in method.trained().iter().zip(&all) {
                let mut values = trained.parameter.values_mut();
                values
                    .iter_mut()
                    .zip(gradient)
                    .for_each(|(v, g)| *v -= (rate * f64::from(*g)) as f32);
            }
        }
        let last = loss(&model, &*method, &rows);
        assert!(last < 0.95 * first, "{}: {first} to {last}", method.name());
    }
    assert!(before == base());
}

#[test]
fn dropout_between_lstm_layers_follows_the_seed_and_is_for_training() {
    let Some(model) = model("llama2-gqa") else { return };
    let config = AdapterConfig::PTuning(PTuningConfig {
        num_virtual_tokens: 4,
        encoder_reparameterization_type: PromptEncoderType::Lstm,
        encoder_hidden_size: Some(12),
        encoder_dropout: 0.4,
        ..PTuningConfig::default()
    });
    let method = build(&config, &model, 5);
    let (rows, _) = packed(&model);
    let of = |seed| gradients(&model, &*method, &rows, Recompute::Blocks, seed);
    assert!(of(1) == of(1));
    assert!(of(1).0 != of(2).0);
    assert_eq!(loss(&model, &*method, &rows), loss(&model, &*method, &rows));
}
