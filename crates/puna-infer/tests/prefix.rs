//! A remembered beginning changes how much is run, never the result.

use crate::fake::{FakeCache, FakeModel, FakeText, Rule};
use puna_infer::{
    GenerateOptions, Generation, LanguageModel, PrefixCache, SamplingParams, SequenceCache,
    Session, TokensOnly, generate_batch,
};
use puna_model::{KvCache, KvType, LoadOptions, Model, Precision};
use puna_testkit::GoldenCase;
use std::ops::ControlFlow;

fn options() -> GenerateOptions {
    let sampling = SamplingParams { temperature: 0.8, seed: 3, ..Default::default() };
    GenerateOptions { sampling, max_new_tokens: Some(8), ..Default::default() }
}

/// A request as a server makes it: takes a beginning, generates, leaves the sequence.
fn request<M: LanguageModel>(
    model: &M,
    prefixes: &PrefixCache<M::Cache>,
    prompt: &[u32],
) -> Generation {
    let (cache, reused) = prefixes.take(model, prompt);
    let mut session = Session::resume(prompt[..reused].to_vec(), cache);
    let sink = |_| ControlFlow::Continue(());
    let made = session.generate(model, &TokensOnly, prompt, &options(), sink).unwrap();
    assert_eq!(made.timings.reused_tokens, reused);
    let (tokens, cache) = session.into_parts();
    prefixes.store(&tokens, cache);
    made
}

fn alone<M: LanguageModel>(model: &M, prompt: &[u32]) -> Generation {
    request(model, &PrefixCache::new(0), prompt)
}

#[test]
fn a_second_request_with_the_same_beginning_runs_only_the_rest() {
    let model = FakeModel::new(Rule::Hash, 40, 200);
    let prefixes = PrefixCache::new(usize::MAX);
    let prompt: Vec<u32> = (0..30).collect();
    let first = request(&model, &prefixes, &prompt);
    assert_eq!(first.timings.reused_tokens, 0);
    // The same prompt: all but its last token.
    let again = request(&model, &prefixes, &prompt);
    assert_eq!(again.timings.reused_tokens, 29);
    assert_eq!(again.completion, first.completion);
    // The conversation goes on; the last token chosen was never run.
    let grown = [&prompt[..], &first.completion.token_ids, &[7, 7]].concat();
    let made = request(&model, &prefixes, &grown);
    assert_eq!((made.timings.reused_tokens, made.timings.prefill_tokens), (37, 3));
    assert_eq!(made.completion, alone(&model, &grown).completion);
    // Another end.
    let edited = [&prompt[..11], &[39, 38]].concat();
    let made = request(&model, &prefixes, &edited);
    assert_eq!(made.timings.reused_tokens, 11);
    assert_eq!(made.completion, alone(&model, &edited).completion);
}

#[test]
fn the_least_recently_used_goes_first_and_what_is_contained_goes_at_once() {
    let model = FakeModel::new(Rule::Hash, 40, 200);
    let cache = |tokens: &[u32]| {
        let mut cache = model.new_cache();
        cache.tokens = tokens.to_vec();
        cache
    };
    let prefixes = PrefixCache::<FakeCache>::new(10 * 4);
    let reused = |tokens: &[u32]| prefixes.take(&model, tokens).1;
    prefixes.store(&[1, 2, 3, 4], cache(&[1, 2, 3, 4]));
    prefixes.store(&[5, 6, 7, 8], cache(&[5, 6, 7, 8]));
    assert_eq!((prefixes.len(), prefixes.bytes()), (2, 32));
    assert_eq!(reused(&[1, 2, 9]), 2); // now [5, 6, 7, 8] is the older one
    prefixes.store(&[9, 9, 9], cache(&[9, 9, 9]));
    assert_eq!((reused(&[5, 6, 7]), reused(&[1, 2, 3]), reused(&[9, 9, 9])), (0, 2, 2));
    prefixes.store(&[9, 9, 9, 1], cache(&[9, 9, 9, 1]));
    assert_eq!((prefixes.len(), prefixes.bytes()), (2, 32));
    prefixes.store(&[0; 11], cache(&[0; 11]));
    assert_eq!(prefixes.len(), 2, "what exceeds the limit alone is not kept");
    // A cache that holds less than the tokens stands for what it holds.
    prefixes.store(&[20, 21, 22], cache(&[20, 21]));
    assert_eq!(reused(&[20, 21, 22, 23]), 2);
    prefixes.clear();
    assert!(prefixes.is_empty());
}

#[test]
fn a_cache_that_cannot_go_back_serves_only_what_continues_it() {
    let model = FakeModel { ring: true, ..FakeModel::new(Rule::Hash, 40, 200) };
    let prefixes = PrefixCache::new(usize::MAX);
    let prompt: Vec<u32> = (0..30).collect();
    let first = request(&model, &prefixes, &prompt);
    let edited = [&prompt[..11], &[39, 38]].concat();
    assert_eq!(request(&model, &prefixes, &edited).timings.reused_tokens, 0);
    let grown = [&prompt[..], &first.completion.token_ids, &[7, 7]].concat();
    let made = request(&model, &prefixes, &grown);
    assert_eq!(made.timings.reused_tokens, 37);
    assert_eq!(made.completion, alone(&model, &grown).completion);
}

#[test]
fn a_batch_runs_a_common_beginning_once() {
    let model = FakeModel::new(Rule::Hash, 40, 200);
    let beginning: Vec<u32> = (0..40).collect();
    let prompts: Vec<Vec<u32>> =
        (0..3u32).map(|i| [&beginning[..], &vec![i; 1 + i as usize]].concat()).collect();
    let text = FakeText::numbered(40);
    let sink = |_, _| ControlFlow::Continue(());
    let batch = generate_batch(&model, &text, &prompts, &options(), sink).unwrap();
    assert_eq!((batch.timings.prefill_tokens, batch.timings.reused_tokens), (40 + 6, 80));
    for (prompt, completion) in prompts.iter().zip(&batch.completions) {
        let mut session = Session::new(&model);
        let sink = |_| ControlFlow::Continue(());
        let single = session.generate(&model, &text, prompt, &options(), sink).unwrap();
        assert_eq!(*completion, single.completion);
    }
}

#[test]
fn real_caches_share_pages_and_give_the_same_bits() {
    let names = ["llama2-gqa", "mistral-sliding", "llama-dynamic-ntk", "phi3-longrope"];
    for name in names.map(|name| format!("text/{name}")) {
        let Some(case) = GoldenCase::open(&name) else { continue };
        for kv_type in [KvType::F32, KvType::F16] {
            let options =
                LoadOptions { kv_type: Some(kv_type), ..LoadOptions::new(Precision::Fast) };
            let model = Model::load(&case.dir, &options).unwrap().decoder;
            let prefixes = PrefixCache::<KvCache>::new(usize::MAX);
            let prompt = case.input_ids(1);
            let first = request(&model, &prefixes, &prompt);
            let again = request(&model, &prefixes, &prompt);
            assert_eq!(again.completion, first.completion, "{name}");
            // Parts from the first inside a page; what the first wrote behind it must not show.
            let half = prompt.len() / 2;
            let edited = [&prompt[..half], &prompt[1..4]].concat();
            let made = request(&model, &prefixes, &edited);
            let expected = alone(&model, &edited).completion;
            assert_eq!(made.completion, expected, "{name}");
            let grown = [&prompt[..], &first.completion.token_ids, &prompt[1..3]].concat();
            let made = request(&model, &prefixes, &grown);
            assert_eq!(made.completion, alone(&model, &grown).completion, "{name}");
            match name.as_str() {
                "text/llama-dynamic-ntk" => assert_eq!(again.timings.reused_tokens, 0),
                "text/llama2-gqa" => {
                    assert_eq!(again.timings.reused_tokens, prompt.len() - 1);
                    assert_eq!(made.timings.reused_tokens, prompt.len() + 7);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_fork_is_a_clone_that_went_back() {
    let cache = FakeCache::of(&[1, 2, 3]);
    assert_eq!(cache.fork(2).unwrap().tokens, [1, 2]);
    assert_eq!(cache.fork(3).unwrap().tokens, [1, 2, 3]);
    assert!(cache.fork(4).is_none());
}
