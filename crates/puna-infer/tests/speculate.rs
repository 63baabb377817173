//! Speculative decoding gives the tokens of plain decoding, whoever guesses.

use crate::fake::{FakeModel, FakeText, Rule};
use puna_infer::{
    ContextPolicy, DraftModel, Drafter, FinishReason, GenerateOptions, Generation, InferError,
    PromptLookup, SamplingParams, Session, StopOptions, TokensOnly,
};
use puna_model::{Decoder, LoadOptions, Model, Precision};
use puna_testkit::GoldenCase;
use std::ops::ControlFlow;

/// Says the same whatever came before.
struct Fixed(Vec<u32>);

impl Drafter for Fixed {
    fn draft(&mut self, _tokens: &[u32], max: usize) -> Result<Vec<u32>, InferError> {
        Ok(self.0[..max.min(self.0.len())].to_vec())
    }
}

fn options(new: usize, temperature: f32) -> GenerateOptions {
    let sampling = SamplingParams {
        temperature,
        seed: 3,
        top_k: Some(20),
        repetition_penalty: 1.1,
        ..Default::default()
    };
    GenerateOptions { sampling, max_new_tokens: Some(new), ..Default::default() }
}

fn go_on<T>(_: T) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn plain(model: &FakeModel, prompt: &[u32], options: &GenerateOptions) -> Generation {
    let text = FakeText::numbered(model.vocab_size);
    Session::new(model).generate(model, &text, prompt, options, go_on).unwrap()
}

fn drafted(
    model: &FakeModel,
    prompt: &[u32],
    options: &GenerateOptions,
    drafter: &mut dyn Drafter,
) -> Generation {
    let text = FakeText::numbered(model.vocab_size);
    let mut session = Session::new(model);
    let made =
        session.generate_drafted(model, &text, (prompt, options), (drafter, 8), go_on).unwrap();
    let mut expected = prompt.to_vec();
    expected.extend(&made.completion.token_ids);
    assert!(expected.starts_with(session.tokens()), "the session holds what was said");
    assert!(session.tokens().len() + 2 > expected.len(), "and all but the last token");
    made
}

#[test]
fn any_drafter_gives_the_tokens_and_logprobs_of_plain_decoding() {
    let prompt: Vec<u32> = (0..40).map(|i| i % 7).collect();
    for rule in [Rule::Hash, Rule::Successor] {
        for ring in [false, true] {
            let mut model = FakeModel::new(rule, 11, 120);
            model.ring = ring;
            for temperature in [0.0, 0.8] {
                let options = options(50, temperature);
                let expected = plain(&model, &prompt, &options);
                let mut lookup = PromptLookup::default();
                let mut same = DraftModel::new(&model);
                let mut wrong = Fixed(vec![99, 99]);
                let mut fixed = Fixed(vec![1, 2, 3, 4, 5]);
                let drafters: [&mut dyn Drafter; 4] =
                    [&mut lookup, &mut same, &mut wrong, &mut fixed];
                for drafter in drafters {
                    let made = drafted(&model, &prompt, &options, drafter);
                    assert_eq!(made.completion, expected.completion, "{rule:?} {ring}");
                }
            }
        }
    }
}

#[test]
fn a_drafter_that_knows_the_model_saves_passes_and_a_wrong_one_costs_none() {
    let model = FakeModel::new(Rule::Hash, 30, 300);
    let prompt = [1, 2, 3];
    let mut greedy = options(100, 0.0);
    greedy.sampling.repetition_penalty = 1.0;
    let known = drafted(&model, &prompt, &greedy, &mut DraftModel::new(&model));
    let done = known.timings.speculated.unwrap();
    assert_eq!(done.accepted, done.drafted);
    assert!(done.passes <= 13, "99 tokens, 5 and then up to 9 per pass: {done:?}");
    let never = drafted(&model, &prompt, &greedy, &mut Fixed(vec![99]));
    assert_eq!(never.timings.speculated.unwrap().passes, 99);
}

#[test]
fn stops_inside_an_accepted_run_cut_where_plain_decoding_stops() {
    let model = FakeModel::new(Rule::Successor, 50, 300);
    let stop = StopOptions { strings: vec!["t13".into()], ..Default::default() };
    let by_string = GenerateOptions { stop, ..options(40, 0.0) };
    let made = drafted(&model, &[5], &by_string, &mut DraftModel::new(&model));
    assert_eq!(made.completion, plain(&model, &[5], &by_string).completion);
    assert_eq!(made.completion.finish, FinishReason::StopString("t13".into()));
    for new in 1..20 {
        let made = drafted(&model, &[5], &options(new, 0.0), &mut DraftModel::new(&model));
        assert_eq!(made.completion.token_ids.len(), new);
    }
    // The context's end.
    let short = FakeModel::new(Rule::Successor, 50, 17);
    let endless = GenerateOptions { max_new_tokens: None, ..options(1, 0.0) };
    let made = drafted(&short, &[5, 6], &endless, &mut DraftModel::new(&short));
    assert_eq!(made.completion, plain(&short, &[5, 6], &endless).completion);
}

#[test]
fn a_break_at_any_token_ends_the_run() {
    let model = FakeModel::new(Rule::Successor, 50, 300);
    for last in 1..12 {
        let mut seen = 0;
        let sink = |event| {
            seen += usize::from(matches!(event, puna_infer::Event::Token { .. }));
            if seen == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let (options, mut drafter) = (options(40, 0.0), DraftModel::new(&model));
        let text = FakeText::numbered(50);
        let mut session = Session::new(&model);
        let request = (&[5u32][..], &options);
        let made = session.generate_drafted(&model, &text, request, (&mut drafter, 8), sink);
        let completion = made.unwrap().completion;
        assert_eq!(completion.token_ids.len(), last);
        assert_eq!(completion.finish, FinishReason::Cancelled);
    }
}

#[test]
fn context_shift_is_refused() {
    let model = FakeModel::new(Rule::Hash, 30, 30);
    let context = ContextPolicy::Shift { keep: 0 };
    let options = GenerateOptions { context, ..options(5, 0.0) };
    let (mut session, mut lookup) = (Session::new(&model), PromptLookup::default());
    let request = (&[1u32][..], &options);
    let made = session.generate_drafted(&model, &TokensOnly, request, (&mut lookup, 4), go_on);
    assert!(matches!(made, Err(InferError::ConflictingOptions { .. })));
}

fn decoder(name: &str, precision: Precision) -> Option<(GoldenCase, Decoder)> {
    let case = GoldenCase::open(name)?;
    let model = Model::load(&case.dir, &LoadOptions::new(precision)).unwrap();
    Some((case, model.decoder))
}

#[test]
fn real_decoders_give_the_same_bits_with_and_without_drafts() {
    for name in ["text/llama2-gqa", "text/mistral-sliding", "text/mixtral", "text/gemma2"] {
        for precision in [Precision::Exact, Precision::Fast] {
            let Some((case, decoder)) = decoder(name, precision) else { continue };
            for prompt in (0..case.prompts()).map(|i| case.input_ids(i)) {
                for temperature in [0.0, 0.9] {
                    let options = options(24, temperature);
                    let mut session = Session::new(&decoder);
                    let alone =
                        session.generate(&decoder, &TokensOnly, &prompt, &options, go_on).unwrap();
                    let mut lookup = PromptLookup { max_ngram: 1 };
                    let mut same = DraftModel::new(&decoder);
                    let drafters: [&mut dyn Drafter; 2] = [&mut lookup, &mut same];
                    for drafter in drafters {
                        let mut session = Session::new(&decoder);
                        let request = (&prompt[..], &options);
                        let made = session
                            .generate_drafted(&decoder, &TokensOnly, request, (drafter, 6), go_on)
                            .unwrap();
                        assert_eq!(made.completion, alone.completion, "{name} {precision:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn scalings_that_depend_on_the_length_are_refused() {
    let Some((case, decoder)) = decoder("text/llama-dynamic-ntk", Precision::Exact) else { return };
    let (prompt, options) = (case.input_ids(0), options(4, 0.0));
    let (mut session, mut lookup) = (Session::new(&decoder), PromptLookup::default());
    let request = (&prompt[..], &options);
    let made = session.generate_drafted(&decoder, &TokensOnly, request, (&mut lookup, 4), go_on);
    assert!(matches!(made, Err(InferError::InvalidOption { field: "speculation", .. })));
}
