//! The scheduler on real decoders: the bits of single runs, shared pages, adapters side by side.

use crate::scheduler::{Case, compare, job, wait};
use puna_infer::{Scheduler, SchedulerOptions};
use puna_model::{AdapterSet, Decoder, KvBlock, LoadOptions, Model, Precision};
use puna_testkit::GoldenCase;
use std::path::Path;
use std::sync::Arc;

fn options(decoder: &Decoder, blocks: usize) -> SchedulerOptions {
    let kv_bytes = blocks * decoder.block_bytes();
    SchedulerOptions { max_sequences: 16, kv_bytes, prefill_chunk: 32, ..Default::default() }
}

/// The model inside the binary.
fn embedded() -> Arc<Decoder> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/puna-mini-q8_0.gguf");
    Arc::new(Model::load(&path, &LoadOptions::new(Precision::Fast)).unwrap().decoder)
}

#[test]
fn thirty_two_jobs_on_the_embedded_model_are_bitwise_those_alone() {
    let decoder = embedded();
    let cases: Vec<Case> = (0..32).map(|index| Case::of(index, 4000, 300)).collect();
    compare(&decoder, (options(&decoder, 500), &decoder), &cases);
    // Too little memory for all of them at once.
    compare(&decoder, (options(&decoder, 16), &decoder), &cases);
}

#[test]
fn windows_and_angles_that_depend_on_the_length_change_nothing() {
    for name in ["mistral-sliding", "llama-dynamic-ntk", "phi3-longrope", "gemma3-text"] {
        let Some(case) = GoldenCase::open(&format!("text/{name}")) else { continue };
        let model = Model::load(&case.dir, &LoadOptions::new(Precision::Exact)).unwrap();
        let decoder = Arc::new(model.decoder);
        let (vocab, context) = (decoder.config().vocab_size, decoder.config().max_seq_len);
        let longest = context.min(240);
        let cases: Vec<Case> =
            (0..12).map(|index| Case::of(index, vocab as u32, longest)).collect();
        compare(&decoder, (options(&decoder, 100), &decoder), &cases);
        compare(&decoder, (options(&decoder, 5), &decoder), &cases);
    }
}

#[test]
fn only_sequences_with_the_same_adapter_share_blocks() {
    let decoder = embedded();
    let scheduler = Scheduler::start(Arc::clone(&decoder), options(&decoder, 100)).unwrap();
    let prompt: Vec<u32> = (0..200).map(|i| i * 3 % 1000).collect();
    let sets = [Arc::new(AdapterSet::default()), Arc::new(AdapterSet::default())];
    let run = |set: Option<&Arc<AdapterSet>>| {
        let (mut job, receiver) = job(&prompt, 3);
        job.cache = set.map(|set| decoder.new_cache().with_adapters(Some(Arc::clone(set))));
        scheduler.submit(job).unwrap();
        let got = wait(&receiver);
        (got.reused.unwrap(), got.ids())
    };
    let whole = 200 / KvBlock::TOKENS * KvBlock::TOKENS;
    let (first, tokens) = run(None);
    assert_eq!(first, 0);
    assert_eq!(run(Some(&sets[0])), (0, tokens.clone()), "an adapter that changes nothing");
    assert_eq!(run(Some(&sets[1])).0, 0);
    assert_eq!(run(Some(&sets[0])), (whole, tokens.clone()));
    assert_eq!(run(None), (whole, tokens));
}
