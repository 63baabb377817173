//! The real decoder on golden checkpoints: the generator's loop adds nothing of its own.
//!
//! puna-model's tests cover every architecture; here are the cases whose caches differ: plain,
//! sliding window, and a rotary scaling that depends on the prompt's length.

use puna_infer::{
    BeamOptions, Completion, EarlyStopping, GenerateOptions, SamplingParams, ScoreOptions, Session,
    StopOptions, TokensOnly, beam_search, generate_batch, log_prob, score,
};
use puna_model::{Decoder, LoadOptions, Model, Precision};
use puna_testkit::GoldenCase;
use serde_json::Value;
use std::ops::ControlFlow;

const CASES: [&str; 3] = ["text/llama2-gqa", "text/mistral-sliding", "text/llama-dynamic-ntk"];

/// Largest error of a log-probability that the golden README allows.
const TOLERANCE: f32 = 1e-4;

fn open(name: &str) -> Option<(GoldenCase, Decoder)> {
    let case = GoldenCase::open(name)?;
    let model = Model::load(&case.dir, &LoadOptions::new(Precision::Exact)).unwrap();
    Some((case, model.decoder))
}

fn greedy(max_new: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens: Some(max_new), ..Default::default() }
}

fn alone(decoder: &Decoder, prompt: &[u32], options: &GenerateOptions) -> Completion {
    let sink = |_| ControlFlow::Continue(());
    let mut session = Session::new(decoder);
    session.generate(decoder, &TokensOnly, prompt, options, sink).unwrap().completion
}

#[test]
fn greedy_tokens_and_logprobs_are_the_references() {
    for (case, decoder) in CASES.iter().filter_map(|name| open(name)) {
        for prompt in 0..case.prompts() {
            let options = greedy(case.greedy(prompt).len());
            let completion = alone(&decoder, &case.input_ids(prompt), &options);
            assert_eq!(completion.token_ids, case.greedy(prompt), "{} {prompt}", case.name);
            for (got, expected) in completion.logprobs.iter().zip(case.logprobs(prompt)) {
                assert!((got - expected).abs() <= TOLERANCE, "{got} for {expected}");
            }
        }
    }
}

#[test]
fn batches_chunks_and_completions_change_no_bit() {
    for (case, decoder) in CASES.iter().filter_map(|name| open(name)) {
        let prompts: Vec<Vec<u32>> = (0..case.prompts()).map(|i| case.input_ids(i)).collect();
        let sampling = SamplingParams { temperature: 1.0, seed: 5, ..Default::default() };
        let options = GenerateOptions { sampling, completions: 2, prefill_chunk: 7, ..greedy(12) };
        let sink = |_, _| ControlFlow::Continue(());
        let batch = generate_batch(&decoder, &TokensOnly, &prompts, &options, sink).unwrap();
        for (index, completion) in batch.completions.iter().enumerate() {
            let seed = 5 + index as u64 % 2;
            let sampling = SamplingParams { seed, ..options.sampling.clone() };
            let single = GenerateOptions { sampling, ..greedy(12) };
            assert_eq!(
                *completion,
                alone(&decoder, &prompts[index / 2], &single),
                "{} {index}",
                case.name
            );
        }
    }
}

#[test]
fn a_turn_that_reuses_the_cache_gives_the_tokens_of_a_fresh_one() {
    // Not with dynamic NTK: its reused keys keep the scaling of the shorter prompt.
    for (case, decoder) in CASES[..2].iter().filter_map(|name| open(name)) {
        let prompt = case.input_ids(1);
        let mut session = Session::new(&decoder);
        let mut turn = |prompt: &[u32]| {
            let sink = |_| ControlFlow::Continue(());
            session.generate(&decoder, &TokensOnly, prompt, &greedy(6), sink).unwrap()
        };
        let first = turn(&prompt);
        let grown = [prompt.as_slice(), &first.completion.token_ids, &prompt[1..4]].concat();
        let second = turn(&grown);
        assert_eq!(second.timings.reused_tokens, prompt.len() + 5);
        assert_eq!(second.completion, alone(&decoder, &grown, &greedy(6)));
        // Back to a beginning: rewound, or run again where the window has moved on.
        let edited = [&prompt[..prompt.len() / 2], &prompt[1..3]].concat();
        assert_eq!(turn(&edited).completion, alone(&decoder, &edited, &greedy(6)));
    }
}

#[test]
fn scores_are_the_log_softmax_of_the_golden_logits() {
    for (case, decoder) in CASES.iter().filter_map(|name| open(name)) {
        let ids = case.input_ids(1);
        let golden = case.logits(1);
        let options = ScoreOptions { chunk: 5, ..ScoreOptions::new(&decoder, None) };
        let logprobs = score(&decoder, &ids, &options, |_| {}).unwrap();
        for (row, logits) in golden.values.chunks_exact(golden.vocab_size).enumerate() {
            let next = golden.first_position + row + 1;
            let Some(&id) = ids.get(next) else { continue };
            let got = logprobs[next].unwrap();
            let expected = log_prob(logits, id).unwrap();
            assert!((got - expected).abs() <= TOLERANCE, "{} {next}: {got}", case.name);
        }
    }
}

/// The search of one entry of `beams.json`.
fn beam_options(entry: &Value) -> GenerateOptions {
    let count = |key: &str| entry[key].as_u64().map(|n| n as usize);
    let early_stopping = match &entry["early_stopping"] {
        Value::Bool(true) => EarlyStopping::AllBeams,
        Value::Bool(false) => EarlyStopping::Heuristic,
        _ => EarlyStopping::Never,
    };
    let num_beams = count("num_beams").unwrap();
    let length_penalty = entry["length_penalty"].as_f64().unwrap() as f32;
    let num_return_sequences = num_beams;
    let beams = BeamOptions { num_beams, length_penalty, early_stopping, num_return_sequences };
    let sampling = SamplingParams {
        repetition_penalty: entry["repetition_penalty"].as_f64().unwrap_or(1.0) as f32,
        no_repeat_ngram_size: count("no_repeat_ngram_size"),
        ..Default::default()
    };
    let stop = StopOptions { eos: ids(&entry["eos"]), ..Default::default() };
    GenerateOptions {
        beams: Some(beams),
        sampling,
        stop,
        ..greedy(count("max_new_tokens").unwrap())
    }
}

fn ids(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn beam_search_finds_the_sequences_and_scores_of_transformers() {
    let Some((case, decoder)) = open("text/llama2-gqa") else { return };
    let entries: Value = serde_json::from_str(include_str!("data/beams.json")).unwrap();
    for entry in entries.as_array().unwrap() {
        let prompt = case.input_ids(entry["prompt"].as_u64().unwrap() as usize);
        let keep_going = || ControlFlow::Continue(());
        let options = beam_options(entry);
        let found = beam_search(&decoder, &TokensOnly, &prompt, &options, keep_going).unwrap();
        let sequences = entry["sequences"].as_array().unwrap();
        assert_eq!(found.hypotheses.len(), sequences.len());
        let scores = entry["scores"].as_array().unwrap();
        for ((hypothesis, sequence), score) in found.hypotheses.iter().zip(sequences).zip(scores) {
            assert_eq!(hypothesis.completion.token_ids, ids(sequence), "{entry}");
            let score = score.as_f64().unwrap();
            assert!((hypothesis.score - score).abs() < f64::from(TOLERANCE) * 16.0, "{entry}");
        }
    }
}
