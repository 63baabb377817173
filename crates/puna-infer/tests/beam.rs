//! Beam search against brute force and against a direct transcription of its definition.

use crate::fake::{FakeModel, FakeText, Fault, Rule};
use puna_infer::{
    BeamGeneration, BeamOptions, EarlyStopping, FinishReason, GenerateOptions, InferError,
    SamplingParams, StopOptions, beam_search, log_sum_exp,
};
use std::ops::ControlFlow;

fn options(beams: BeamOptions, max_new: usize, eos: Vec<u32>) -> GenerateOptions {
    GenerateOptions {
        beams: Some(beams),
        max_new_tokens: Some(max_new),
        stop: StopOptions { eos, ..Default::default() },
        ..Default::default()
    }
}

fn search(model: &FakeModel, prompt: &[u32], options: &GenerateOptions) -> BeamGeneration {
    let text = FakeText::numbered(model.vocab_size);
    beam_search(model, &text, prompt, options, || ControlFlow::Continue(())).unwrap()
}

/// Every sequence that ends in eos or at `max_new`, with its length-normalized score, best first.
fn brute_force(
    model: &FakeModel,
    prompt: &[u32],
    max_new: usize,
    eos: u32,
    length_penalty: f64,
) -> Vec<(Vec<u32>, f64)> {
    let mut open = vec![(prompt.to_vec(), 0.0)];
    let mut ended = Vec::new();
    for new in 1..=max_new {
        for (tokens, score) in std::mem::take(&mut open) {
            let logits = model.logits(&tokens);
            let normalizer = log_sum_exp(&logits).unwrap();
            for (token, &logit) in logits.iter().enumerate() {
                let grown = [tokens.as_slice(), &[token as u32]].concat();
                let score = score + f64::from((f64::from(logit) - normalizer) as f32);
                if token as u32 == eos || new == max_new {
                    let normalized = score / (new as f64).powf(length_penalty);
                    ended.push((grown[prompt.len()..].to_vec(), normalized));
                } else {
                    open.push((grown, score));
                }
            }
        }
    }
    ended.sort_by(|a, b| b.1.total_cmp(&a.1));
    ended
}

#[test]
fn with_enough_beams_the_search_is_exhaustive() {
    let (vocab_size, max_new, eos) = (4, 4, 2);
    let model = FakeModel::new(Rule::Hash, vocab_size, 20);
    for prompt in [[0, 1], [3, 3], [1, 0], [2, 2]] {
        for length_penalty in [0.0f32, 1.0, -0.5] {
            let beams = BeamOptions {
                // All continuations of all open sequences fit.
                num_beams: 4usize.pow(4),
                length_penalty,
                early_stopping: EarlyStopping::Never,
                num_return_sequences: 10,
            };
            let found = search(&model, &prompt, &options(beams, max_new, vec![eos]));
            let best = brute_force(&model, &prompt, max_new, eos, f64::from(length_penalty));
            for (hypothesis, (tokens, score)) in found.hypotheses.iter().zip(&best) {
                assert_eq!(hypothesis.completion.token_ids, *tokens);
                assert!((hypothesis.score - score).abs() < 1e-9);
            }
            assert_eq!(found.hypotheses.len(), 10);
        }
    }
}

#[test]
fn one_beam_is_greedy() {
    let model = FakeModel::new(Rule::Hash, 30, 50);
    let beams = BeamOptions { num_beams: 1, ..Default::default() };
    let found = search(&model, &[1, 2], &options(beams, 12, vec![]));
    let mut tokens = vec![1, 2];
    for &id in &found.hypotheses[0].completion.token_ids {
        let logits = model.logits(&tokens);
        assert!(logits.iter().all(|&logit| logit <= logits[id as usize]));
        tokens.push(id);
    }
    assert_eq!(tokens.len(), 14);
    assert_eq!(found.hypotheses[0].completion.finish, FinishReason::Length);
}

/// The definition without caches or batches: whole prefixes, scores by full recomputation.
fn reference(
    model: &FakeModel,
    prompt: &[u32],
    beams: BeamOptions,
    max_new: usize,
    eos: u32,
) -> Vec<(Vec<u32>, f64)> {
    let width = beams.num_beams;
    let norm = |score: f64, len: usize| score / (len as f64).powf(f64::from(beams.length_penalty));
    let mut running = vec![(Vec::new(), 0.0)];
    let mut finished: Vec<(Vec<u32>, f64)> = Vec::new();
    for len in 1..=max_new {
        let mut grown = Vec::new();
        for (tokens, score) in &running {
            let logits = model.logits(&[prompt, tokens].concat());
            let normalizer = log_sum_exp(&logits).unwrap();
            for (token, &logit) in logits.iter().enumerate() {
                let logprob = f64::from((f64::from(logit) - normalizer) as f32);
                grown.push(([tokens.as_slice(), &[token as u32]].concat(), score + logprob));
            }
        }
        grown.sort_by(|a, b| b.1.total_cmp(&a.1));
        grown.truncate(2 * width);
        let ends = |tokens: &[u32]| tokens.last() == Some(&eos) || len == max_new;
        let full = finished.len() == width;
        if !(full && beams.early_stopping == EarlyStopping::AllBeams) {
            let new = grown.iter().take(width).filter(|g| ends(&g.0));
            finished.extend(new.map(|(tokens, score)| (tokens.clone(), norm(*score, len))));
            finished.sort_by(|a, b| b.1.total_cmp(&a.1));
            finished.truncate(width);
        }
        running = grown.into_iter().filter(|g| !ends(&g.0)).take(width).collect();
        let Some(best) = running.first() else { break };
        if finished.len() == width {
            let len = match beams.early_stopping {
                EarlyStopping::AllBeams => break,
                EarlyStopping::Never if beams.length_penalty > 0.0 => max_new,
                _ => len,
            };
            if norm(best.1, len) <= finished[width - 1].1 {
                break;
            }
        }
    }
    finished
}

#[test]
fn narrow_searches_follow_the_definition() {
    let model = FakeModel::new(Rule::Hash, 12, 60);
    let mut ended_by_eos = 0;
    for early_stopping in [EarlyStopping::AllBeams, EarlyStopping::Heuristic, EarlyStopping::Never]
    {
        for (num_beams, length_penalty) in [(2, 1.0), (3, 0.0), (4, 2.0), (5, -1.0)] {
            for start in 0..8 {
                let beams = BeamOptions {
                    num_beams,
                    length_penalty,
                    early_stopping,
                    num_return_sequences: num_beams,
                };
                let found = search(&model, &[start], &options(beams, 15, vec![5]));
                let expected = reference(&model, &[start], beams, 15, 5);
                let found: Vec<_> = found
                    .hypotheses
                    .into_iter()
                    .map(|h| {
                        ended_by_eos += usize::from(h.completion.finish == FinishReason::Eos(5));
                        (h.completion.token_ids, h.score)
                    })
                    .collect();
                assert_eq!(found, expected, "{beams:?} from {start}");
            }
        }
    }
    assert!(ended_by_eos > 50, "{ended_by_eos} ended by eos");
}

#[test]
fn logprobs_are_the_models_own_and_the_text_leaves_eos_out() {
    let model = FakeModel::new(Rule::Successor, 10, 60);
    let beams = BeamOptions { num_beams: 2, ..Default::default() };
    let found = search(&model, &[5], &options(beams, 20, vec![8]));
    let completion = &found.hypotheses[0].completion;
    assert_eq!(completion.token_ids, [6, 7, 8]);
    assert_eq!((completion.text.as_str(), &completion.finish), ("t6 t7 ", &FinishReason::Eos(8)));
    let sum: f64 = completion.logprobs.iter().map(|&l| f64::from(l)).sum();
    assert!((found.hypotheses[0].score - sum / 3.0).abs() < 1e-9);
}

#[test]
fn penalties_act_in_beams() {
    let model = FakeModel::new(Rule::Hash, 5, 60);
    let beams = BeamOptions { num_beams: 3, ..Default::default() };
    let sampling = SamplingParams { no_repeat_ngram_size: Some(1), ..Default::default() };
    let options = GenerateOptions { sampling, ..options(beams, 4, vec![]) };
    let mut ids = search(&model, &[0], &options).hypotheses[0].completion.token_ids.clone();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4]);
}

#[test]
fn what_beams_cannot_do_is_a_typed_error() {
    let model = FakeModel::new(Rule::Hash, 5, 10);
    let text = FakeText::numbered(5);
    let base = options(BeamOptions::default(), 4, vec![]);
    let error = |options: &GenerateOptions| {
        let result = beam_search(&model, &text, &[0], options, || ControlFlow::Continue(()));
        match result.unwrap_err() {
            InferError::InvalidOption { field, .. } => field,
            other => panic!("{other:?}"),
        }
    };
    let sampling = SamplingParams { temperature: 1.0, ..Default::default() };
    assert_eq!(error(&GenerateOptions { sampling, ..base.clone() }), "temperature");
    assert_eq!(error(&GenerateOptions { completions: 2, ..base.clone() }), "completions");
    assert_eq!(error(&GenerateOptions { beams: None, ..base.clone() }), "beams");
    let stop = StopOptions { strings: vec!["x".into()], ..Default::default() };
    assert_eq!(error(&GenerateOptions { stop, ..base.clone() }), "stop.strings");
    let beams = Some(BeamOptions { num_return_sequences: 5, ..Default::default() });
    assert_eq!(error(&GenerateOptions { beams, ..base }), "num_return_sequences");
}

#[test]
fn an_error_of_the_model_and_a_cancel_end_the_search() {
    let model = FakeModel { fault: Some((3, Fault::Error)), ..FakeModel::new(Rule::Hash, 9, 60) };
    let text = FakeText::numbered(9);
    let options = options(BeamOptions::default(), 30, vec![]);
    let result = beam_search(&model, &text, &[0], &options, || ControlFlow::Continue(()));
    assert!(matches!(result, Err(InferError::Model(_))));
    let mut asked = 0;
    let keep_going = || {
        asked += 1;
        if asked == 6 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let cancelled = beam_search(&model, &text, &[0], &options, keep_going).unwrap();
    assert!(cancelled.hypotheses.is_empty());
    assert_eq!(asked, 6);
}
