//! Scoring: windows, chunks, logits.

use crate::fake::{FakeModel, Rule};
use puna_infer::{InferError, ScoreOptions, log_prob, score};

const BOS: u32 = 1;

fn text() -> Vec<u32> {
    std::iter::once(BOS).chain((0..25).map(|i| (i * 11 + 3) % 20)).collect()
}

#[test]
fn windows_start_with_bos_and_predict_every_token_once() {
    let model = FakeModel::new(Rule::Hash, 20, 8);
    let ids = text();
    for chunk in [1, 3, 100] {
        let options = ScoreOptions { window: 8, bos: Some(BOS), chunk };
        let logprobs = score(&model, &ids, &options, |_| {}).unwrap();
        assert_eq!(logprobs.len(), ids.len());
        assert_eq!(logprobs[0], None);
        for (position, logprob) in logprobs.iter().enumerate().skip(1) {
            let window_start = 1 + (position - 1) / 7 * 7;
            let context = [&[BOS], &ids[window_start..position]].concat();
            let expected = log_prob(&model.logits(&context), ids[position]).unwrap();
            assert_eq!(*logprob, Some(expected), "position {position}");
        }
    }
}

#[test]
fn the_rows_of_logits_are_one_per_token() {
    let model = FakeModel::new(Rule::Hash, 20, 8);
    let ids = text();
    let mut rows: Vec<Vec<f32>> = Vec::new();
    let options = ScoreOptions { window: 8, bos: Some(BOS), chunk: 3 };
    score(&model, &ids, &options, |row| rows.push(row.to_vec())).unwrap();
    assert_eq!(rows.len(), ids.len());
    for (position, row) in rows.iter().enumerate() {
        let window_start = if position == 0 { 1 } else { 1 + (position - 1) / 7 * 7 };
        let context = [&[BOS], &ids[window_start..=position.max(window_start - 1)]].concat();
        let context = if position == 0 { vec![BOS] } else { context };
        assert_eq!(*row, model.logits(&context), "position {position}");
    }
}

#[test]
fn without_bos_a_window_starts_with_the_last_token_of_the_one_before() {
    let model = FakeModel::new(Rule::Hash, 20, 8);
    let ids = text()[1..].to_vec();
    let options = ScoreOptions { window: 8, bos: None, chunk: 4 };
    let logprobs = score(&model, &ids, &options, |_| {}).unwrap();
    let expected = log_prob(&model.logits(&ids[7..9]), ids[9]).unwrap();
    assert_eq!(logprobs[9], Some(expected));
}

#[test]
fn a_single_token_has_no_log_probability() {
    let model = FakeModel::new(Rule::Hash, 20, 8);
    let mut rows = 0;
    let options = ScoreOptions::new(&model, Some(BOS));
    assert_eq!(score(&model, &[BOS], &options, |_| rows += 1).unwrap(), [None]);
    assert_eq!(rows, 1);
}

#[test]
fn what_cannot_be_scored_is_a_typed_error() {
    let model = FakeModel::new(Rule::Hash, 20, 8);
    let options = ScoreOptions::new(&model, Some(BOS));
    let run = |ids: &[u32], options| score(&model, ids, &options, |_| {}).unwrap_err();
    assert!(matches!(run(&[], options), InferError::EmptyPrompt { .. }));
    assert!(matches!(run(&[1, 20], options), InferError::TokenOutOfRange { position: 1, .. }));
    for window in [1, 9] {
        let error = run(&[1], ScoreOptions { window, ..options });
        assert!(matches!(error, InferError::InvalidOption { field: "window", .. }));
    }
}
