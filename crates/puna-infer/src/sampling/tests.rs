//! The sampler as a whole: order, determinism, frequencies, mirostat's target, errors.

use super::{Mirostat2, Sampler, SamplingParams, penalties};
use crate::error::InferError;
use puna_kernels::argmax;
use serde_json::Value;

fn logits(probs: &[f64]) -> Vec<f32> {
    probs.iter().map(|p| p.ln() as f32).collect()
}

fn counts(params: SamplingParams, probs: &[f64], draws: usize) -> Vec<usize> {
    let mut sampler = Sampler::new(params).unwrap();
    let mut counts = vec![0; probs.len()];
    for _ in 0..draws {
        counts[sampler.sample(&mut logits(probs), &[]).unwrap().token as usize] += 1;
    }
    counts
}

/// Pearson's statistic of `counts` against `probs`.
fn chi_square(counts: &[usize], probs: &[f64]) -> f64 {
    let draws = counts.iter().sum::<usize>() as f64;
    let term = |(&n, &p): (&usize, &f64)| (n as f64 - draws * p).powi(2) / (draws * p);
    counts.iter().zip(probs).map(term).sum()
}

/// 99.9th percentile of chi-square with 4 degrees of freedom.
const CHI_SQUARE_4_DF: f64 = 18.47;

#[test]
fn temperature_zero_takes_the_best_and_the_lower_id_among_equals() {
    let mut sampler = Sampler::new(SamplingParams::default()).unwrap();
    assert_eq!(sampler.sample(&mut [1.0, 3.0, 3.0], &[]).unwrap().token, 1);
}

#[test]
fn the_reported_logprob_is_that_of_the_unmodified_logits() {
    let params = SamplingParams {
        temperature: 0.3,
        logit_bias: vec![(0, f32::NEG_INFINITY)],
        repetition_penalty: 1.5,
        ..Default::default()
    };
    let mut sampler = Sampler::new(params).unwrap();
    let sampled = sampler.sample(&mut logits(&[0.75, 0.25]), &[1]).unwrap();
    assert_eq!(sampled.token, 1);
    assert!((sampled.logprob - 0.25f32.ln()).abs() < 1e-6);
}

#[test]
fn frequencies_match_the_probabilities() {
    let probs = [0.4, 0.3, 0.15, 0.1, 0.05];
    let params = SamplingParams { temperature: 1.0, seed: 11, ..Default::default() };
    let statistic = chi_square(&counts(params, &probs, 20_000), &probs);
    assert!(statistic < CHI_SQUARE_4_DF, "chi-square {statistic}");
}

#[test]
fn temperature_one_half_squares_the_probabilities() {
    let probs = [0.4, 0.3, 0.15, 0.1, 0.05];
    let squares: f64 = probs.iter().map(|p| p * p).sum();
    let expected: Vec<f64> = probs.iter().map(|p| p * p / squares).collect();
    let params = SamplingParams { temperature: 0.5, seed: 12, ..Default::default() };
    let statistic = chi_square(&counts(params, &probs, 20_000), &expected);
    assert!(statistic < CHI_SQUARE_4_DF, "chi-square {statistic}");
}

#[test]
fn truncated_tokens_are_never_drawn() {
    let probs = [0.4, 0.3, 0.15, 0.1, 0.05];
    let base = SamplingParams { temperature: 1.0, ..Default::default() };
    for params in [
        SamplingParams { top_k: Some(2), ..base.clone() },
        SamplingParams { top_p: Some(0.7), ..base.clone() },
        SamplingParams { min_p: Some(0.5), ..base.clone() },
    ] {
        let counts = counts(params, &probs, 2_000);
        assert_eq!(counts[2..], [0, 0, 0]);
        assert!(counts[0] > counts[1] && counts[1] > 0);
    }
}

#[test]
fn top_p_sees_what_top_k_left() {
    // Of 0.4, 0.3 | 0.2, 0.1 top-k leaves 4/7 and 3/7; top-p 0.55 then needs the first alone,
    // though it has only 0.4 of the whole.
    let params = SamplingParams {
        temperature: 1.0,
        top_k: Some(2),
        top_p: Some(0.55),
        ..Default::default()
    };
    assert_eq!(counts(params, &[0.4, 0.3, 0.2, 0.1], 500), [500, 0, 0, 0]);
}

/// Largest error of a probability: the reference computes in float32 and is rounded to 7 digits.
const REFERENCE_TOLERANCE: f64 = 2e-6;

#[test]
fn every_chain_of_warpers_gives_the_probabilities_of_transformers() {
    let cases: Value = serde_json::from_str(include_str!("../../tests/data/warpers.json")).unwrap();
    for (number, case) in cases.as_array().unwrap().iter().enumerate() {
        let float = |key: &str| case[key].as_f64().map(|x| x as f32);
        let count = |key: &str| case[key].as_u64().map(|n| n as usize);
        let list = |key: &str| -> Vec<f64> {
            case[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        let params = SamplingParams {
            temperature: float("temperature").unwrap_or(1.0),
            top_k: count("top_k"),
            top_p: float("top_p"),
            min_p: float("min_p"),
            typical_p: float("typical_p"),
            repetition_penalty: float("repetition_penalty").unwrap_or(1.0),
            no_repeat_ngram_size: count("no_repeat_ngram_size"),
            ..Default::default()
        };
        let mut logits: Vec<f32> = list("logits").iter().map(|&x| x as f32).collect();
        let history: Vec<u32> = list("history").iter().map(|&x| x as u32).collect();
        let mut sampler = Sampler::new(params).unwrap();
        penalties::apply(&sampler.params, &mut logits, &history).unwrap();
        sampler.collect(&logits, logits[argmax(&logits).unwrap()]);
        sampler.truncate();
        let mut probs = vec![0.0; logits.len()];
        sampler.candidates.iter().for_each(|c| probs[c.token as usize] = c.prob);
        for (token, (got, expected)) in probs.iter().zip(list("probs")).enumerate() {
            assert!(
                (got - expected).abs() < REFERENCE_TOLERANCE,
                "case {number}, token {token}: {got}, transformers {expected}"
            );
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_another_seed_others() {
    let draw = |seed| {
        let params = SamplingParams { temperature: 1.0, seed, ..Default::default() };
        let mut sampler = Sampler::new(params).unwrap();
        let draw = |_| sampler.sample(&mut [0.0; 100], &[]).unwrap().token;
        (0..20).map(draw).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    // The stream is part of the contract: these ids may never change.
    assert_eq!(draw(0)[..4], [32, 38, 35, 1]);
}

#[test]
fn mirostat_brings_the_mean_surprise_to_its_target() {
    // Zipf over 1000 tokens has 7.5 bits of entropy: a target below it has to be steered to.
    let logits: Vec<f32> = (1..=1000).map(|rank| -(rank as f32).ln()).collect();
    for tau in [2.0f32, 4.0] {
        let params = SamplingParams {
            temperature: 1.0,
            mirostat: Some(Mirostat2 { tau, eta: 0.1 }),
            ..Default::default()
        };
        let mut sampler = Sampler::new(params).unwrap();
        let mut surprise = 0.0;
        for step in 0..6_000 {
            let before = sampler.mirostat.clone().unwrap();
            let sampled = sampler.sample(&mut logits.clone(), &[]).unwrap();
            if step >= 1_000 {
                surprise += before.surprise_of(&logits, sampled.token);
            }
        }
        let mean = surprise / 5_000.0;
        assert!((mean - f64::from(tau)).abs() < 0.1, "mean surprise {mean}, target {tau}");
    }
}

#[test]
fn a_non_finite_logit_is_a_typed_error() {
    let mut sampler =
        Sampler::new(SamplingParams { temperature: 1.0, ..Default::default() }).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = sampler.sample(&mut [0.0, bad], &[]).unwrap_err();
        assert!(matches!(error, InferError::NonFiniteLogit { token: 1, .. }));
    }
}

#[test]
fn forbidding_every_token_is_a_typed_error() {
    let params = SamplingParams {
        logit_bias: vec![(0, f32::NEG_INFINITY), (1, f32::NEG_INFINITY)],
        ..Default::default()
    };
    let error = Sampler::new(params).unwrap().sample(&mut [0.0, 1.0], &[]).unwrap_err();
    assert!(matches!(error, InferError::NoCandidate));
}

#[test]
fn a_tiny_temperature_is_greedy_and_not_nan() {
    let params = SamplingParams { temperature: 1e-38, ..Default::default() };
    let sampled = Sampler::new(params).unwrap().sample(&mut [-50.0, 60.0, 59.0], &[]).unwrap();
    assert_eq!(sampled.token, 1);
}

#[test]
fn invalid_values_are_errors_that_name_the_field() {
    let base = SamplingParams::default;
    let bad = [
        ("temperature", SamplingParams { temperature: -0.1, ..base() }),
        ("temperature", SamplingParams { temperature: f32::NAN, ..base() }),
        ("top_k", SamplingParams { top_k: Some(0), ..base() }),
        ("top_p", SamplingParams { top_p: Some(0.0), ..base() }),
        ("top_p", SamplingParams { top_p: Some(1.5), ..base() }),
        ("min_p", SamplingParams { min_p: Some(2.0), ..base() }),
        ("typical_p", SamplingParams { typical_p: Some(-1.0), ..base() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: 0.0, ..base() }),
        ("presence_penalty", SamplingParams { presence_penalty: f32::INFINITY, ..base() }),
        ("frequency_penalty", SamplingParams { frequency_penalty: f32::NAN, ..base() }),
        ("no_repeat_ngram_size", SamplingParams { no_repeat_ngram_size: Some(0), ..base() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(0, f32::NAN)], ..base() }),
        (
            "mirostat.tau",
            SamplingParams { mirostat: Some(Mirostat2 { tau: 0.0, eta: 0.1 }), ..base() },
        ),
    ];
    for (name, params) in bad {
        match params.validate() {
            Err(InferError::InvalidOption { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let both = SamplingParams {
        mirostat: Some(Mirostat2 { tau: 5.0, eta: 0.1 }),
        top_k: Some(4),
        ..base()
    };
    assert!(matches!(both.validate(), Err(InferError::ConflictingOptions { other: "top_k", .. })));
}
