//! Several sequences at once give what each gives alone.

use crate::fake::{FakeModel, FakeText, Rule};
use puna_infer::{
    Completion, Event, FinishReason, GenerateOptions, SamplingParams, Session, StopOptions,
    generate_batch,
};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

fn options(seed: u64) -> GenerateOptions {
    GenerateOptions {
        sampling: SamplingParams {
            temperature: 0.9,
            top_p: Some(0.95),
            repetition_penalty: 1.1,
            seed,
            ..Default::default()
        },
        max_new_tokens: Some(24),
        // About half of the sequences end early: the batch gets ragged at its end, too.
        stop: StopOptions { eos: vec![3, 4], ..Default::default() },
        ..Default::default()
    }
}

fn alone(model: &FakeModel, prompt: &[u32], options: &GenerateOptions) -> Completion {
    let text = FakeText::numbered(model.vocab_size);
    let sink = |_| ControlFlow::Continue(());
    Session::new(model).generate(model, &text, prompt, options, sink).unwrap().completion
}

fn prompts() -> Vec<Vec<u32>> {
    [3, 1, 17, 8, 5].iter().map(|&len| (0..len).map(|i| (i * 7 + len) % 40).collect()).collect()
}

#[test]
fn a_ragged_batch_equals_single_runs_bitwise() {
    let model = FakeModel::new(Rule::Hash, 40, 64);
    let text = FakeText::numbered(40);
    for chunk in [1, 5, 512] {
        let options = GenerateOptions { prefill_chunk: chunk, ..options(3) };
        let sink = |_, _| ControlFlow::Continue(());
        let batch = generate_batch(&model, &text, &prompts(), &options, sink).unwrap();
        let lengths: Vec<_> = batch.completions.iter().map(|c| c.token_ids.len()).collect();
        assert!(lengths.iter().any(|&n| n < 24), "some end early: {lengths:?}");
        for (prompt, completion) in prompts().iter().zip(&batch.completions) {
            assert_eq!(*completion, alone(&model, prompt, &options));
        }
        assert_eq!(batch.timings.prefill_tokens, 34);
        assert_eq!(batch.timings.decode_tokens, lengths.iter().sum::<usize>());
    }
}

#[test]
fn completions_share_the_prefill_and_have_their_own_seeds() {
    let model = FakeModel::new(Rule::Hash, 40, 64);
    let text = FakeText::numbered(40);
    let options = GenerateOptions { completions: 3, ..options(7) };
    let sink = |_, _| ControlFlow::Continue(());
    let batch = generate_batch(&model, &text, &prompts()[2..4], &options, sink).unwrap();
    assert_eq!(batch.timings.prefill_tokens, 17 + 8);
    for (index, completion) in batch.completions.iter().enumerate() {
        let single = GenerateOptions {
            completions: 1,
            sampling: SamplingParams { seed: 7 + index as u64 % 3, ..options.sampling.clone() },
            ..options.clone()
        };
        assert_eq!(*completion, alone(&model, &prompts()[2 + index / 3], &single));
    }
    assert_ne!(batch.completions[0].token_ids, batch.completions[1].token_ids);
}

#[test]
fn each_step_is_one_forward_pass_and_ended_sequences_leave() {
    let model = FakeModel::new(Rule::Successor, 10, 64);
    let stop = StopOptions { eos: vec![9], ..Default::default() };
    let options = GenerateOptions { stop, ..Default::default() };
    let sink = |_, _| ControlFlow::Continue(());
    let text = FakeText::numbered(10);
    let batch = generate_batch(&model, &text, &[vec![7], vec![4]], &options, sink).unwrap();
    assert_eq!(batch.completions[0].token_ids, [8, 9]);
    assert_eq!(batch.completions[1].token_ids, [5, 6, 7, 8, 9]);
    // The prompts, then the chosen tokens but each sequence's last.
    assert_eq!(model.tokens_run(), 2 + 1 + 4);
    assert_eq!(model.passes.load(Ordering::SeqCst), 1 + 4);
}

#[test]
fn events_carry_their_sequence_and_a_break_cancels_all() {
    let model = FakeModel::new(Rule::Hash, 40, 64);
    let text = FakeText::numbered(40);
    let mut tokens = 0;
    let options = GenerateOptions { max_new_tokens: Some(9), ..Default::default() };
    let sink = |sequence, event| {
        assert!(sequence < 2);
        tokens += usize::from(matches!(event, Event::Token { .. }));
        if tokens == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let batch = generate_batch(&model, &text, &[vec![7], vec![4]], &options, sink).unwrap();
    let lengths: Vec<_> = batch.completions.iter().map(|c| c.token_ids.len()).collect();
    assert_eq!(lengths, [3, 2]);
    assert!(batch.completions.iter().all(|c| c.finish == FinishReason::Cancelled));
}

#[test]
fn an_empty_batch_is_empty() {
    let model = FakeModel::new(Rule::Hash, 4, 8);
    let sink = |_, _| ControlFlow::Continue(());
    let text = FakeText::numbered(4);
    let batch = generate_batch(&model, &text, &[], &GenerateOptions::default(), sink).unwrap();
    assert!(batch.completions.is_empty());
}
