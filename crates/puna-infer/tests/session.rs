//! One sequence: stops, text, context, prefix reuse, cancel, errors.

use crate::fake::{FakeModel, FakeText, Fault, Rule};
use puna_infer::{
    BeamOptions, ContextPolicy, Event, FinishReason, GenerateOptions, Generation, InferError,
    PromptText, SamplingParams, Session, StopOptions, TextFlow, TokensOnly,
};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

fn max_new(n: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens: Some(n), ..Default::default() }
}

/// A fresh session's generation with all its events.
fn run(
    model: &FakeModel,
    text: &FakeText,
    prompt: &[u32],
    options: &GenerateOptions,
) -> (Result<Generation, InferError>, Vec<Event>) {
    let mut events = Vec::new();
    let result = Session::new(model).generate(model, text, prompt, options, |event| {
        events.push(event);
        ControlFlow::Continue(())
    });
    (result, events)
}

fn shown(events: &[Event]) -> String {
    let text = |event: &Event| match event {
        Event::Token { text, .. } => text.clone(),
        Event::PromptText(text) => Some(text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

/// Greedy continuation computed without the crate's loop.
fn greedy(model: &FakeModel, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..n {
        let logits = model.logits(&tokens);
        let best = (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a });
        tokens.push(best.unwrap() as u32);
    }
    tokens[prompt.len()..].to_vec()
}

#[test]
fn greedy_tokens_are_the_best_of_each_step_and_chunks_change_nothing() {
    let model = FakeModel::new(Rule::Hash, 50, 100);
    let text = FakeText::numbered(50);
    let prompt: Vec<u32> = (0..33).collect();
    for chunk in [1, 7, 33, 512] {
        let options = GenerateOptions { prefill_chunk: chunk, ..max_new(20) };
        let (generation, events) = run(&model, &text, &prompt, &options);
        let completion = generation.unwrap().completion;
        assert_eq!(completion.token_ids, greedy(&model, &prompt, 20));
        assert_eq!(completion.finish, FinishReason::Length);
        assert_eq!(completion.text, shown(&events));
        let done = |event: &Event| match event {
            Event::Prefill { done, total: 33 } => Some(*done),
            _ => None,
        };
        let expected: Vec<_> = (1..=33usize.div_ceil(chunk)).map(|i| (i * chunk).min(33)).collect();
        assert_eq!(events.iter().filter_map(done).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn no_forward_pass_is_larger_than_the_chunk() {
    let model = FakeModel::new(Rule::Hash, 50, 100);
    let options = GenerateOptions { prefill_chunk: 8, ..max_new(3) };
    let prompt: Vec<u32> = (0..33).collect();
    run(&model, &FakeText::numbered(50), &prompt, &options).0.unwrap();
    assert_eq!(model.largest_pass.load(Ordering::SeqCst), 8);
}

#[test]
fn every_eos_and_extra_stop_token_ends_the_text_without_showing_itself() {
    let model = FakeModel::new(Rule::Successor, 10, 100);
    let stop = StopOptions { eos: vec![9, 5], token_ids: vec![7], ..Default::default() };
    for (start, ids, finish, text) in [
        (2, vec![3, 4, 5], FinishReason::Eos(5), "t3 t4 "),
        (5, vec![6, 7], FinishReason::StopToken(7), "t6 "),
        (7, vec![8, 9], FinishReason::Eos(9), "t8 "),
    ] {
        let options = GenerateOptions { stop: stop.clone(), ..max_new(50) };
        let (generation, events) = run(&model, &FakeText::numbered(10), &[start], &options);
        let completion = generation.unwrap().completion;
        assert_eq!(completion.token_ids, ids);
        assert_eq!(completion.finish, finish);
        assert_eq!((completion.text.as_str(), shown(&events).as_str()), (text, text));
        assert_eq!(events.last(), Some(&Event::Done(finish)));
    }
}

#[test]
fn a_stop_string_across_tokens_ends_generation_at_the_token_that_completes_it() {
    let model = FakeModel::new(Rule::Successor, 6, 100);
    let text = FakeText::new(&[b"", b"one tw", b"o <", b"EN", b"D> th", b"ree"]);
    for flow in [TextFlow::Words, TextFlow::Tokens] {
        let stop = StopOptions { strings: vec!["<END>".into()], ..Default::default() };
        let options = GenerateOptions { stop, flow, ..max_new(50) };
        let (generation, events) = run(&model, &text, &[0], &options);
        let completion = generation.unwrap().completion;
        assert_eq!(completion.token_ids, [1, 2, 3, 4]);
        assert_eq!(completion.finish, FinishReason::StopString("<END>".into()));
        assert_eq!(completion.text, "one two ");
        assert_eq!(shown(&events), "one two ");
    }
}

#[test]
fn a_half_stop_string_at_the_end_is_shown() {
    let model = FakeModel::new(Rule::Successor, 6, 100);
    let text = FakeText::new(&[b"", b"a", b"<E", b"N"]);
    let stop = StopOptions { strings: vec!["<END>".into()], ..Default::default() };
    let (generation, events) = run(&model, &text, &[0], &GenerateOptions { stop, ..max_new(3) });
    assert_eq!(generation.unwrap().completion.text, "a<EN");
    assert_eq!(shown(&events), "a<EN");
}

#[test]
fn text_comes_at_word_ends_and_never_as_half_a_character() {
    let model = FakeModel::new(Rule::Successor, 8, 100);
    // "né " in three tokens, then a CJK character in two, then a broken one.
    let text = FakeText::new(&[b"", b"n\xc3", b"\xa9", b" x", b"\xe4\xbd", b"\xa0", b"b\xe4"]);
    let (generation, events) = run(&model, &text, &[0], &max_new(6));
    let pieces: Vec<Option<&str>> = events
        .iter()
        .filter_map(|e| match e {
            Event::Token { text, .. } => Some(text.as_deref()),
            _ => None,
        })
        .collect();
    assert_eq!(pieces, [None, None, Some("né "), None, Some("x你"), Some("b\u{fffd}")]);
    assert_eq!(generation.unwrap().completion.text, "né x你b\u{fffd}");
}

#[test]
fn the_prompts_text_comes_first_if_wanted() {
    let model = FakeModel::new(Rule::Successor, 10, 100);
    let options = GenerateOptions { prompt_text: PromptText::Emit, ..max_new(2) };
    let (generation, events) = run(&model, &FakeText::numbered(10), &[1, 2], &options);
    assert_eq!(events[0], Event::PromptText("t1 ".into()));
    assert_eq!(shown(&events), "t1 t2 t3 t4 ");
    assert_eq!(generation.unwrap().completion.text, "t3 t4 ");
}

#[test]
fn a_prompt_beyond_the_context_is_an_error_with_the_numbers() {
    let model = FakeModel::new(Rule::Hash, 10, 8);
    for len in [8, 9] {
        let (result, events) = run(&model, &FakeText::numbered(10), &vec![1; len], &max_new(5));
        match result {
            Err(InferError::ContextOverflow { prompt, max_new: 5, context: 8 }) => {
                assert_eq!(prompt, len);
            }
            other => panic!("{other:?}"),
        }
        assert!(events.is_empty());
    }
    assert_eq!(model.tokens_run(), 0);
}

#[test]
fn generation_ends_with_length_where_the_context_ends() {
    let model = FakeModel::new(Rule::Hash, 10, 8);
    let (generation, _) = run(&model, &FakeText::numbered(10), &[1; 5], &max_new(100));
    let completion = generation.unwrap().completion;
    assert_eq!((completion.token_ids.len(), completion.finish), (3, FinishReason::Length));
    let options = GenerateOptions { context_tokens: Some(6), ..max_new(100) };
    let (generation, _) = run(&model, &FakeText::numbered(10), &[1; 5], &options);
    assert_eq!(generation.unwrap().completion.token_ids.len(), 1);
}

#[test]
fn a_shift_continues_as_a_fresh_prompt_of_what_is_left() {
    for ring in [false, true] {
        let model = FakeModel { ring, ..FakeModel::new(Rule::Hash, 30, 12) };
        let options = GenerateOptions { context: ContextPolicy::Shift { keep: 2 }, ..max_new(40) };
        let (generation, _) = run(&model, &FakeText::numbered(30), &[1, 2, 3, 4, 5], &options);
        let completion = generation.unwrap().completion;
        assert_eq!(completion.finish, FinishReason::Length);
        let mut tokens = vec![1, 2, 3, 4, 5];
        for &id in &completion.token_ids {
            assert_eq!(vec![id], greedy(&model, &tokens, 1));
            tokens.push(id);
            if tokens.len() == 12 {
                tokens.drain(2..7);
            }
        }
    }
}

#[test]
fn a_long_prompt_is_shifted_too_and_the_kept_part_must_leave_room() {
    let model = FakeModel::new(Rule::Hash, 30, 8);
    let text = FakeText::numbered(30);
    let shift = |keep| GenerateOptions { context: ContextPolicy::Shift { keep }, ..max_new(1) };
    let prompt: Vec<u32> = (0..20).collect();
    let (generation, _) = run(&model, &text, &prompt, &shift(1));
    // 20 → 1 + 10 → 1 + 5.
    assert_eq!(
        generation.unwrap().completion.token_ids,
        greedy(&model, &[0, 15, 16, 17, 18, 19], 1)
    );
    assert!(matches!(
        run(&model, &text, &prompt, &shift(7)).0,
        Err(InferError::InvalidOption { field: "context.keep", .. })
    ));
}

#[test]
fn a_second_turn_runs_only_what_is_new() {
    for ring in [false, true] {
        let model = FakeModel { ring, ..FakeModel::new(Rule::Hash, 30, 100) };
        let text = FakeText::numbered(30);
        let mut session = Session::new(&model);
        let mut turn = |prompt: &[u32]| {
            let before = model.tokens_run();
            let sink = |_| ControlFlow::Continue(());
            let generation = session.generate(&model, &text, prompt, &max_new(4), sink).unwrap();
            assert_eq!(generation.completion.token_ids, greedy(&model, prompt, 4));
            (generation, model.tokens_run() - before)
        };
        let first: Vec<u32> = (0..10).collect();
        let (generation, tokens) = turn(&first);
        assert_eq!(tokens, 10 + 3);
        // Grown: 10 + 3 answered tokens are cached; the 4th and two new ones are not.
        let grown = [first.as_slice(), &generation.completion.token_ids, &[5, 6]].concat();
        let (generation, tokens) = turn(&grown);
        assert_eq!((generation.timings.reused_tokens, tokens), (13, 3 + 3));
        assert_eq!(generation.timings.prefill_tokens, 3);
        // Edited: only the common beginning stays, if the cache can go back.
        let mut edited = first.clone();
        edited[6] = 29;
        let (generation, tokens) = turn(&edited);
        let reused = if ring { 0 } else { 6 };
        assert_eq!((generation.timings.reused_tokens, tokens), (reused, 10 - reused + 3));
        // The same again: the last token is run for its logits.
        let (generation, _) = turn(&edited);
        assert_eq!(generation.timings.reused_tokens, if ring { 0 } else { 9 });
    }
}

#[test]
fn the_consumer_can_cancel_at_any_event() {
    let text = FakeText::numbered(30);
    for at in 0..9 {
        let model = FakeModel::new(Rule::Hash, 30, 100);
        let options =
            GenerateOptions { prefill_chunk: 2, prompt_text: PromptText::Emit, ..max_new(4) };
        let mut session = Session::new(&model);
        let mut seen = 0;
        let sink = |_| {
            seen += 1;
            if seen > at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let prompt = [1, 2, 3, 4];
        let generation = session.generate(&model, &text, &prompt, &options, sink).unwrap();
        assert_eq!(seen, at + 1);
        // 4 prompt texts, 2 prefills, then tokens.
        let tokens = (at + 1usize).saturating_sub(6);
        assert_eq!(generation.completion.token_ids.len(), tokens);
        if at < 8 {
            assert_eq!(generation.completion.finish, FinishReason::Cancelled);
        }
        let rest =
            session.generate(&model, &text, &prompt, &max_new(4), |_| ControlFlow::Continue(()));
        assert_eq!(rest.unwrap().completion.token_ids, greedy(&model, &prompt, 4));
    }
}

#[test]
fn an_error_of_the_model_leaves_an_empty_session() {
    let model = FakeModel { fault: Some((2, Fault::Error)), ..FakeModel::new(Rule::Hash, 30, 100) };
    let mut session = Session::new(&model);
    let text = FakeText::numbered(30);
    let mut generate =
        || session.generate(&model, &text, &[1], &max_new(5), |_| ControlFlow::Continue(()));
    assert!(matches!(generate(), Err(InferError::Model(_))));
    assert_eq!(generate().unwrap().timings.reused_tokens, 0);
}

#[test]
fn nonsense_requests_are_typed_errors() {
    let model = FakeModel::new(Rule::Hash, 10, 20);
    let text = FakeText::numbered(10);
    let error = |prompt: &[u32], options: &GenerateOptions| {
        run(&model, &text, prompt, options).0.unwrap_err()
    };
    assert!(matches!(error(&[], &max_new(1)), InferError::EmptyPrompt { sequence: 0 }));
    assert!(matches!(
        error(&[1, 10], &max_new(1)),
        InferError::TokenOutOfRange { position: 1, token: 10, vocab_size: 10 }
    ));
    let options = GenerateOptions { beams: Some(BeamOptions::default()), ..max_new(1) };
    assert!(matches!(error(&[1], &options), InferError::BeamsCannotStream { num_beams: 4 }));
    let stop = StopOptions { strings: vec![String::new()], ..Default::default() };
    let options = GenerateOptions { stop, ..max_new(1) };
    assert!(matches!(
        error(&[1], &options),
        InferError::InvalidOption { field: "stop.strings", .. }
    ));
    let sampling = SamplingParams { top_p: Some(2.0), ..Default::default() };
    let options = GenerateOptions { sampling, ..max_new(1) };
    assert!(matches!(error(&[1], &options), InferError::InvalidOption { field: "top_p", .. }));
    let stop = StopOptions { strings: vec!["x".into()], ..Default::default() };
    let options = GenerateOptions { stop, ..max_new(1) };
    let sink = |_| ControlFlow::Continue(());
    assert!(Session::new(&model).generate(&model, &TokensOnly, &[1], &options, sink).is_err());
}

#[test]
fn zero_new_tokens_run_the_prompt_and_end() {
    let model = FakeModel::new(Rule::Hash, 10, 4);
    let (generation, events) = run(&model, &FakeText::numbered(10), &[1; 4], &max_new(0));
    assert_eq!(generation.unwrap().completion.finish, FinishReason::Length);
    assert_eq!(events.last(), Some(&Event::Done(FinishReason::Length)));
    assert_eq!(model.tokens_run(), 4);
}
