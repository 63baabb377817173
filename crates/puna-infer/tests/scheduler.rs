//! Jobs of a scheduler get the tokens they would get alone, and leave nothing behind.

use crate::fake::{FakeModel, PAGE, Rule};
use puna_infer::{
    Constraint, FinishReason, GenerateOptions, InferError, Job, JobEvent, JobUsage, LanguageModel,
    Logits, Sampler, SamplingParams, Scheduler, SchedulerOptions, Segment, SequenceCache, Session,
    StopOptions, TokenLogprob, TokensOnly, log_prob,
};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longer than any test waits for a step.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a job's sink got.
#[derive(Debug, Default)]
pub(crate) struct Got {
    pub(crate) reused: Option<usize>,
    pub(crate) prompt: Option<Vec<Option<TokenLogprob>>>,
    pub(crate) tokens: Vec<TokenLogprob>,
    pub(crate) finish: Option<(FinishReason, JobUsage)>,
    pub(crate) failed: Option<InferError>,
}

impl Got {
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    pub(crate) fn reason(&self) -> Option<&FinishReason> {
        self.finish.as_ref().map(|(reason, _)| reason)
    }

    fn take(&mut self, event: JobEvent) {
        assert!(self.finish.is_none() && self.failed.is_none(), "{event:?} after the end");
        match event {
            JobEvent::Started { reused_tokens } => self.reused = Some(reused_tokens),
            JobEvent::PromptLogprobs(all) => self.prompt = Some(all),
            JobEvent::Token(token) => self.tokens.push(token),
            JobEvent::Finished { reason, usage } => self.finish = Some((reason, usage)),
            JobEvent::Failed(error) => self.failed = Some(error),
        }
    }
}

/// A job whose events are collected until its sink is dropped; it breaks off at token `break_at`.
pub(crate) fn job<C>(prompt: &[u32], break_at: usize) -> (Job<C>, Receiver<Got>) {
    let (sender, receiver) = channel();
    // Sends what it has when the scheduler lets go of it.
    struct Collect(Got, std::sync::mpsc::Sender<Got>);
    impl Drop for Collect {
        fn drop(&mut self) {
            let _ = self.1.send(std::mem::take(&mut self.0));
        }
    }
    let mut collect = Collect(Got::default(), sender);
    let job = Job::new(prompt.to_vec(), move |event| {
        collect.0.take(event);
        match collect.0.tokens.len() >= break_at {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    (job, receiver)
}

pub(crate) fn wait(receiver: &Receiver<Got>) -> Got {
    receiver.recv_timeout(PATIENCE).unwrap()
}

/// Allows every third token, another third after each.
#[derive(Debug, Default)]
pub(crate) struct Thirds {
    phase: usize,
}

impl Constraint for Thirds {
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), InferError> {
        let forbidden = logits.iter_mut().enumerate().filter(|(i, _)| i % 3 != self.phase);
        forbidden.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), InferError> {
        assert_eq!(token as usize % 3, self.phase);
        self.phase = (self.phase + 1) % 3;
        Ok(())
    }
}

/// One of the jobs of a mixture.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) prompt: Vec<u32>,
    pub(crate) sampling: SamplingParams,
    pub(crate) max_tokens: usize,
    pub(crate) stop_tokens: Vec<u32>,
    pub(crate) constrained: Constrained,
    pub(crate) break_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Constrained {
    Yes,
    No,
}

impl Case {
    /// The `index`th of a mixture of lengths, seeds, samplers and ends; many begin alike.
    pub(crate) fn of(index: usize, vocab_size: u32, longest: usize) -> Self {
        let shared = (index % 4) * longest / 6;
        let own = 1 + (index * 7) % (longest / 4);
        let prompt = (0..shared as u32).map(|i| (i * 13 + 5) % vocab_size);
        let prompt = prompt.chain((0..own as u32).map(|i| (i * 11 + index as u32) % vocab_size));
        let mut sampling = SamplingParams { seed: index as u64, ..Default::default() };
        if !index.is_multiple_of(3) {
            sampling.temperature = 0.9;
            sampling.top_p = Some(0.95);
        }
        if index % 5 == 1 {
            sampling.repetition_penalty = 1.2;
            sampling.logit_bias = vec![(7, -3.0), (9, 2.0)];
        }
        Self {
            prompt: prompt.collect(),
            sampling,
            max_tokens: 3 + (index * 5) % (longest / 3),
            stop_tokens: if index.is_multiple_of(2) { vec![3, 4] } else { Vec::new() },
            constrained: if index % 4 == 2 { Constrained::Yes } else { Constrained::No },
            break_at: if index % 8 == 5 { 4 } else { usize::MAX },
        }
    }

    pub(crate) fn job<C>(&self) -> (Job<C>, Receiver<Got>) {
        let (mut job, receiver) = job(&self.prompt, self.break_at);
        job.sampling = self.sampling.clone();
        job.max_tokens = self.max_tokens;
        job.stop_tokens.clone_from(&self.stop_tokens);
        if self.constrained == Constrained::Yes {
            job.constraint = Some(Box::new(Thirds::default()));
        }
        (job, receiver)
    }

    /// Tokens and log-probabilities of a run alone.
    pub(crate) fn alone<M: LanguageModel>(&self, model: &M) -> Vec<(u32, f32)> {
        let mut made = match self.constrained {
            Constrained::Yes => self.alone_constrained(model),
            Constrained::No => {
                let options = GenerateOptions {
                    sampling: self.sampling.clone(),
                    max_new_tokens: Some(self.max_tokens),
                    stop: StopOptions { token_ids: self.stop_tokens.clone(), ..Default::default() },
                    ..Default::default()
                };
                let sink = |_| ControlFlow::Continue(());
                let mut session = Session::new(model);
                let made = session.generate(model, &TokensOnly, &self.prompt, &options, sink);
                let completion = made.unwrap().completion;
                completion.token_ids.into_iter().zip(completion.logprobs).collect()
            }
        };
        made.truncate(self.break_at);
        made
    }

    fn alone_constrained<M: LanguageModel>(&self, model: &M) -> Vec<(u32, f32)> {
        let mut sampler = Sampler::new(self.sampling.clone()).unwrap();
        let mut constraint = Thirds::default();
        let (mut cache, mut tokens) = (model.new_cache(), self.prompt.clone());
        let mut made: Vec<(u32, f32)> = Vec::new();
        while made.len() < self.max_tokens && tokens.len() < model.max_seq_len() {
            let part = &tokens[cache.len()..];
            let segment = Segment { tokens: part, cache: &mut cache, total_len: tokens.len() };
            let mut row = model.forward(&mut [segment], Logits::Last).unwrap();
            let mut mask = |row: &mut [f32]| constraint.mask(row);
            let sampled = sampler.sample_masked(&mut row, &tokens, Some(&mut mask)).unwrap();
            constraint.accept(sampled.token).unwrap();
            tokens.push(sampled.token);
            made.push((sampled.token, sampled.logprob));
            if self.stop_tokens.contains(&sampled.token) {
                break;
            }
        }
        made
    }
}

/// Runs the cases at once and compares each with itself alone. Every sixth joins later.
pub(crate) fn compare<M>(
    model: &Arc<M>,
    (options, reference): (SchedulerOptions, &M),
    cases: &[Case],
) where
    M: LanguageModel + 'static,
    M::Cache: 'static,
{
    let scheduler = Scheduler::start(Arc::clone(model), options).unwrap();
    let late = |index: usize| index.is_multiple_of(6);
    let submit = |index: usize| {
        let (mut job, receiver) = cases[index].job();
        job.client = format!("client {}", index % 3);
        scheduler.submit(job).unwrap();
        (index, receiver)
    };
    let mut receivers: Vec<_> = (0..cases.len()).filter(|&i| !late(i)).map(submit).collect();
    std::thread::sleep(Duration::from_millis(3));
    receivers.extend((0..cases.len()).filter(|&i| late(i)).map(submit));
    for (index, receiver) in receivers {
        let (got, case) = (wait(&receiver), &cases[index]);
        let made: Vec<_> = got.tokens.iter().map(|token| (token.id, token.logprob)).collect();
        assert_eq!(made, case.alone(reference), "{index}: {case:?}");
        assert_eq!(got.finish.is_none(), made.len() == case.break_at, "{index}");
        assert!(got.failed.is_none());
    }
    assert_eq!(scheduler.drain(std::time::Instant::now() + PATIENCE), puna_infer::Drained::Whole);
    let stats = scheduler.stats();
    assert_eq!((stats.running, stats.queued, stats.blocks_used), (0, 0, 0));
    assert_eq!(stats.finished + stats.cancelled, cases.len() as u64);
}

fn options(blocks: usize) -> SchedulerOptions {
    SchedulerOptions {
        max_sequences: 12,
        kv_bytes: blocks * PAGE * 4,
        prefill_chunk: 9,
        idle_prefill_chunk: 20,
        ..Default::default()
    }
}

#[test]
fn mixed_jobs_at_once_get_the_tokens_they_get_alone() {
    let model = Arc::new(FakeModel::new(Rule::Hash, 40, 128));
    let cases: Vec<Case> = (0..32).map(|index| Case::of(index, 40, 90)).collect();
    compare(&model, (options(1000), &model), &cases);
    assert_eq!(model.live.now(), 0, "the scheduler is gone, and all pages with it");
}

#[test]
fn where_memory_is_short_sequences_are_computed_anew_with_the_same_tokens() {
    for blocks in [33, 40, 60] {
        let model = Arc::new(FakeModel::new(Rule::Hash, 40, 128));
        // Its pages are not counted with the scheduler's.
        let reference = FakeModel::new(Rule::Hash, 40, 128);
        let cases: Vec<Case> = (0..32).map(|index| Case::of(index, 40, 90)).collect();
        compare(&model, (options(blocks), &reference), &cases);
        assert!(model.live.most() <= blocks, "{} of {blocks}", model.live.most());
    }
}

#[test]
fn the_youngest_gives_way_and_the_oldest_never_waits() {
    let model = Arc::new(FakeModel::new(Rule::Hash, 40, 128));
    let scheduler = Scheduler::start(Arc::clone(&model), options(20)).unwrap();
    let submit = |first: u32| {
        let (mut job, receiver) = job(&[first, 2, 3, 4, 5], usize::MAX);
        job.max_tokens = 50;
        scheduler.submit(job).unwrap();
        receiver
    };
    let receivers: Vec<_> = (0..4).map(submit).collect();
    let preemptions: Vec<usize> =
        receivers.iter().map(|r| wait(r).finish.unwrap().1.preemptions).collect();
    assert_eq!(preemptions[0], 0);
    assert!(preemptions[3] > 0, "{preemptions:?}");
    assert_eq!(scheduler.stats().preemptions, preemptions.iter().sum::<usize>() as u64);
    assert!(model.live.most() <= 20);
}

#[test]
fn pages_that_are_left_are_those_that_are_remembered() {
    let model = Arc::new(FakeModel::new(Rule::Hash, 40, 128));
    let scheduler = Scheduler::start(Arc::clone(&model), options(30)).unwrap();
    for index in 0..20 {
        let case = Case::of(index, 40, 60);
        let (job, receiver) = case.job();
        scheduler.submit(job).unwrap();
        wait(&receiver);
    }
    scheduler.drain(std::time::Instant::now() + PATIENCE);
    let stats = scheduler.stats();
    assert_eq!(stats.blocks_used, 0);
    assert!(stats.blocks_cached > 0 && stats.blocks_cached <= 30, "{stats:?}");
    assert_eq!(model.live.now(), stats.blocks_cached);
}

#[test]
fn a_prompt_that_begins_like_an_earlier_one_runs_only_the_rest() {
    let model = Arc::new(FakeModel::new(Rule::Hash, 40, 128));
    let scheduler = Scheduler::start(Arc::clone(&model), options(100)).unwrap();
    let run = |prompt: &[u32]| {
        let (mut job, receiver) = job(prompt, usize::MAX);
        job.max_tokens = 3;
        scheduler.submit(job).unwrap();
        let got = wait(&receiver);
        assert_eq!(got.reused, got.finish.as_ref().map(|(_, usage)| usage.reused_tokens));
        (got.reused.unwrap(), got.ids())
    };
    let prompt: Vec<u32> = (0..30).collect();
    let (reused, tokens) = run(&prompt);
    assert_eq!(reused, 0);
    assert_eq!(run(&prompt), (28, tokens.clone()), "whole pages before the last token");
    assert_eq!(run(&prompt[..28]).0, 24, "the last token is run");
    let grown = [&prompt[..], &tokens, &[1]].concat();
    assert_eq!(run(&grown).0, 32, "of the answer, too");
    let edited = [&prompt[..11], &[39, 38, 37, 36, 35]].concat();
    assert_eq!(run(&edited).0, 8);
    let stats = scheduler.stats();
    assert_eq!((stats.prefix_hits, stats.reused_tokens), (4, 28 + 24 + 32 + 8));
    assert_eq!(stats.prefilled_tokens, 30 + 2 + 4 + 2 + 8);
}

#[test]
fn sequences_that_begin_alike_at_the_same_time_compute_their_beginning_once() {
    let model = Arc::new(FakeModel::new(Rule::Hash, 40, 128));
    let scheduler = Scheduler::start(Arc::clone(&model), options(200)).unwrap();
    let (mut first, held) = job(&[1], usize::MAX);
    // The first job's sink holds the thread until the others are in the queue.
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    let (mut sink, opens) = (first.sink, Arc::clone(&gate));
    first.sink = Box::new(move |event| {
        drop(opens.lock().unwrap());
        sink(event)
    });
    first.max_tokens = 1;
    scheduler.submit(first).unwrap();
    let beginning: Vec<u32> = (0..40).collect();
    let submit = |own: u32| {
        let (mut job, receiver) = job(&[&beginning[..], &[own]].concat(), usize::MAX);
        job.max_tokens = 2;
        scheduler.submit(job).unwrap();
        receiver
    };
    let receivers: Vec<_> = (0..6).map(submit).collect();
    drop(closed);
    wait(&held);
    receivers.iter().for_each(|receiver| assert_eq!(wait(receiver).tokens.len(), 2));
    assert_eq!(scheduler.stats().prefilled_tokens, 1 + 40 + 6);
}

#[test]
fn logprobs_are_those_of_the_unmodified_logits_best_first() {
    let model = Arc::new(FakeModel::new(Rule::Hash, 40, 128));
    let scheduler = Scheduler::start(Arc::clone(&model), options(100)).unwrap();
    let prompt: Vec<u32> = (0..30).map(|i| i * 7 % 40).collect();
    for _ in 0..2 {
        let (mut job, receiver) = job(&prompt, usize::MAX);
        job.sampling.logit_bias = vec![(5, 100.0)];
        (job.max_tokens, job.top_logprobs, job.prompt_logprobs) = (2, Some(3), Some(1));
        scheduler.submit(job).unwrap();
        let got = wait(&receiver);
        assert_eq!(got.reused, Some(0), "all rows are wanted");
        let of_prompt = got.prompt.as_ref().unwrap();
        assert_eq!((of_prompt.len(), &of_prompt[0]), (30, &None));
        for (position, token) in of_prompt.iter().enumerate().skip(1) {
            let (row, token) = (model.logits(&prompt[..position]), token.as_ref().unwrap());
            assert_eq!(token.id, prompt[position]);
            assert_eq!(token.logprob, log_prob(&row, token.id).unwrap());
            assert_eq!(token.top, best(&row, 1));
        }
        assert_eq!(got.ids(), [5, 5]);
        let row = model.logits(&prompt);
        assert_eq!(got.tokens[0].logprob, log_prob(&row, 5).unwrap());
        assert_eq!(got.tokens[0].top, best(&row, 3));
    }
    let (mut job, receiver) = job(&prompt, usize::MAX);
    (job.max_tokens, job.prompt_logprobs) = (0, Some(0));
    scheduler.submit(job).unwrap();
    let got = wait(&receiver);
    assert_eq!((got.tokens.len(), got.reason()), (0, Some(&FinishReason::Length)));
    assert_eq!(got.prompt.unwrap().len(), 30);
}

fn best(row: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> =
        (0..row.len() as u32).map(|id| (id, log_prob(row, id).unwrap())).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(count);
    all
}

#[test]
fn each_pass_has_a_token_of_every_decoding_sequence_and_a_chunk_of_prompts() {
    let model = Arc::new(FakeModel::new(Rule::Hash, 40, 128));
    let scheduler = Scheduler::start(Arc::clone(&model), options(200)).unwrap();
    let decoding: Vec<_> = (0..3)
        .map(|first| {
            let (mut job, receiver) = job::<crate::fake::FakeCache>(&[first], usize::MAX);
            job.max_tokens = 60;
            (scheduler.submit(job).unwrap(), receiver)
        })
        .collect();
    let (mut long, receiver) = job(&(0..100).map(|i| i % 40).collect::<Vec<_>>(), usize::MAX);
    long.max_tokens = 1;
    scheduler.submit(long).unwrap();
    wait(&receiver);
    decoding.iter().for_each(|(_, receiver)| assert_eq!(wait(receiver).tokens.len(), 60));
    // Alone the long prompt needs 5 passes; all passes decode, so they hold 9 of it at most.
    let stats = scheduler.stats();
    assert!(stats.steps < 60 + 60, "{stats:?}");
    assert_eq!(stats.decoded_tokens, 181);
}
