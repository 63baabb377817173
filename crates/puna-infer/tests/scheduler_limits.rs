//! What a scheduler refuses, cuts off, and shares fairly; and that one job's fault is its own.

use crate::fake::{FakeCache, FakeModel, Fault, PAGE, Rule};
use crate::scheduler::{Got, PATIENCE, job, wait};
use puna_infer::{
    Drained, FinishReason, InferError, Job, JobEvent, Refused, Scheduler, SchedulerOptions,
};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

fn options() -> SchedulerOptions {
    SchedulerOptions {
        max_sequences: 4,
        kv_bytes: 200 * PAGE * 4,
        queue_length: 3,
        prefill_chunk: 16,
        idle_prefill_chunk: 16,
        context_tokens: None,
    }
}

fn model() -> Arc<FakeModel> {
    Arc::new(FakeModel::new(Rule::Hash, 40, 128))
}

/// A job that, once begun, holds the scheduler's thread until the sender is used or dropped.
fn stopper(max_tokens: usize) -> (Job<FakeCache>, Receiver<Got>, Sender<()>) {
    let (mut job, receiver) = job(&[1], usize::MAX);
    let (sender, opens) = channel::<()>();
    let mut sink = job.sink;
    job.max_tokens = max_tokens;
    job.client = "stopper".to_string();
    job.sink = Box::new(move |event| {
        if matches!(event, JobEvent::Started { .. }) {
            let _ = opens.recv();
        }
        sink(event)
    });
    (job, receiver, sender)
}

/// Waits until the scheduler has taken everything from the queue but `left` jobs.
fn until_queued(scheduler: &Scheduler<FakeCache>, left: usize) {
    let begun = Instant::now();
    while scheduler.stats().queued != left {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
}

#[test]
fn nonsense_and_what_does_not_fit_is_refused_with_numbers() {
    let scheduler = Scheduler::start(model(), options()).unwrap();
    let refused = |change: fn(&mut Job<FakeCache>)| {
        let (mut job, _receiver) = job(&[1, 2], usize::MAX);
        change(&mut job);
        scheduler.submit(job).unwrap_err()
    };
    let empty = refused(|job| job.prompt.clear());
    assert!(matches!(empty, Refused::Invalid(InferError::EmptyPrompt { .. })));
    let outside = refused(|job| job.prompt[1] = 40);
    assert!(matches!(outside, Refused::Invalid(InferError::TokenOutOfRange { position: 1, .. })));
    let option = refused(|job| job.sampling.temperature = -1.0);
    assert!(matches!(option, Refused::Invalid(InferError::InvalidOption { .. })));
    let bias = refused(|job| job.sampling.logit_bias = vec![(40, 1.0)]);
    assert!(matches!(bias, Refused::Invalid(InferError::TokenOutOfRange { .. })));
    let long = refused(|job| job.prompt = vec![1; 128]);
    let Refused::TooLong { prompt_tokens: 128, context_tokens: 128 } = long else {
        panic!("{long}")
    };
    assert_eq!(scheduler.stats().refused, 5);

    let small = SchedulerOptions { kv_bytes: 3 * PAGE * 4, ..options() };
    let scheduler = Scheduler::start(model(), small).unwrap();
    assert_eq!(scheduler.stats().context_tokens, 12);
    let (job, receiver) = job(&[1, 2], usize::MAX);
    scheduler.submit(job).unwrap();
    let got = wait(&receiver);
    assert_eq!((got.tokens.len(), got.reason()), (10, Some(&FinishReason::Length)));
    let none = SchedulerOptions { kv_bytes: 1, ..options() };
    let error = Scheduler::start(model(), none).unwrap_err();
    assert!(matches!(error, InferError::InvalidOption { field: "kv_bytes", .. }));
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let scheduler = Scheduler::start(model(), options()).unwrap();
    let (first, held, open) = stopper(1);
    scheduler.submit(first).unwrap();
    until_queued(&scheduler, 0);
    let jobs: Vec<_> = (0..3).map(|_| job(&[2], 2)).collect();
    let receivers: Vec<_> = jobs
        .into_iter()
        .map(|(job, receiver)| {
            scheduler.submit(job).unwrap();
            receiver
        })
        .collect();
    let refused = scheduler.submit(job(&[2], 2).0).unwrap_err();
    let Refused::QueueFull { retry_after } = refused else { panic!("{refused}") };
    assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(1));
    drop(open);
    assert_eq!(wait(&held).tokens.len(), 1);
    receivers.iter().for_each(|receiver| assert_eq!(wait(receiver).tokens.len(), 2));
    assert!(scheduler.submit(job(&[2], 2).0).is_ok());
}

#[test]
fn a_deadline_ends_what_runs_and_what_waits() {
    let scheduler = Scheduler::start(model(), options()).unwrap();
    let (mut first, held, open) = stopper(usize::MAX);
    first.deadline = Some(Instant::now() + Duration::from_millis(20));
    scheduler.submit(first).unwrap();
    until_queued(&scheduler, 0);
    let (mut waiting, waits) = job(&[2], usize::MAX);
    waiting.deadline = Some(Instant::now() + Duration::from_millis(10));
    scheduler.submit(waiting).unwrap();
    std::thread::sleep(Duration::from_millis(40));
    drop(open);
    let (ran, waited) = (wait(&held), wait(&waits));
    assert_eq!(ran.reason(), Some(&FinishReason::Deadline));
    assert!(ran.tokens.len() <= 1);
    assert_eq!((waited.reused, waited.reason()), (None, Some(&FinishReason::Deadline)));
    assert!(waited.finish.unwrap().1.queued >= Duration::from_millis(10));
    assert_eq!(scheduler.stats().blocks_used, 0);
}

#[test]
fn a_cancelled_job_ends_within_a_token_wherever_it_is() {
    let scheduler = Arc::new(Scheduler::start(model(), options()).unwrap());
    let (first, held, open) = stopper(3);
    scheduler.submit(first).unwrap();
    until_queued(&scheduler, 0);
    let (waiting, waits) = job(&[2], usize::MAX);
    let id = scheduler.submit(waiting).unwrap();
    scheduler.cancel(id);
    // One cancels itself from its sink, at its third token.
    let (mut own, owns) = job(&[3], usize::MAX);
    let (send_id, own_id) = channel();
    let (mut sink, mut seen, weak) = (own.sink, 0, Arc::downgrade(&scheduler));
    own.sink = Box::new(move |event| {
        seen += usize::from(matches!(event, JobEvent::Token(_)));
        if seen == 3
            && let Some(scheduler) = weak.upgrade()
            && let Ok(id) = own_id.try_recv()
        {
            scheduler.cancel(id);
        }
        sink(event)
    });
    send_id.send(scheduler.submit(own).unwrap()).unwrap();
    drop(open);
    assert_eq!(wait(&held).tokens.len(), 3);
    let waited = wait(&waits);
    assert_eq!((waited.tokens.len(), waited.reason()), (0, Some(&FinishReason::Cancelled)));
    let owned = wait(&owns);
    assert_eq!((owned.tokens.len(), owned.reason()), (3, Some(&FinishReason::Cancelled)));
    scheduler.cancel(id);
    assert_eq!(scheduler.drain(Instant::now() + PATIENCE), Drained::Whole);
    assert_eq!((scheduler.stats().cancelled, scheduler.stats().blocks_used), (2, 0));
}

#[test]
fn draining_finishes_what_was_accepted_and_takes_nothing_new() {
    let scheduler = Scheduler::start(model(), options()).unwrap();
    let submit = |first: u32| {
        let (mut job, receiver) = job(&[first], usize::MAX);
        job.max_tokens = 100;
        scheduler.submit(job).unwrap();
        receiver
    };
    let receivers: Vec<_> = (0..3).map(submit).collect();
    assert_eq!(scheduler.drain(Instant::now() + PATIENCE), Drained::Whole);
    for receiver in receivers {
        assert_eq!(receiver.try_recv().unwrap().tokens.len(), 100);
    }
    assert!(matches!(scheduler.submit(job(&[1], 1).0), Err(Refused::Draining)));
}

#[test]
fn a_drain_that_takes_too_long_cancels_what_is_left() {
    let scheduler = Scheduler::start(model(), options()).unwrap();
    let (mut slow, receiver) = job(&[1], usize::MAX);
    let mut sink = slow.sink;
    slow.sink = Box::new(move |event| {
        std::thread::sleep(Duration::from_millis(5));
        sink(event)
    });
    scheduler.submit(slow).unwrap();
    let ended = scheduler.drain(Instant::now() + Duration::from_millis(50));
    assert_eq!(ended, Drained::Cut(1));
    assert_eq!(receiver.try_recv().unwrap().reason(), Some(&FinishReason::Cancelled));
    assert!(matches!(scheduler.submit(job(&[1], 1).0), Err(Refused::Stopped)));
}

#[test]
fn a_client_with_many_jobs_hardly_delays_anothers_only_one() {
    let model = model();
    let many = SchedulerOptions { queue_length: 100, ..options() };
    let scheduler = Scheduler::start(Arc::clone(&model), many).unwrap();
    let (first, held, open) = stopper(1);
    scheduler.submit(first).unwrap();
    until_queued(&scheduler, 0);
    let submit = |index: u32| {
        let (mut job, receiver) = job(&[index % 40, index / 40, 7], usize::MAX);
        (job.max_tokens, job.client) = (60, "many".to_string());
        scheduler.submit(job).unwrap();
        receiver
    };
    let receivers: Vec<_> = (0..50).map(submit).collect();
    let (mut single, receiver) = job(&[5; 20], usize::MAX);
    (single.max_tokens, single.client) = (10, "single".to_string());
    let done_at = Arc::new(AtomicUsize::new(0));
    let (mut sink, at, of) = (single.sink, Arc::clone(&done_at), Arc::clone(&model));
    single.sink = Box::new(move |event| {
        if matches!(event, JobEvent::Finished { .. }) {
            at.store(of.passes.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        sink(event)
    });
    scheduler.submit(single).unwrap();
    drop(open);
    wait(&held);
    assert_eq!(wait(&receiver).tokens.len(), 10);
    // Its prompt takes two passes or three, its tokens nine more; the 50 jobs take 750.
    let passes = done_at.load(Ordering::SeqCst);
    assert!(passes <= 16, "{passes}");
    receivers.iter().for_each(|receiver| assert_eq!(wait(receiver).tokens.len(), 60));
}

#[test]
fn a_client_that_comes_late_gets_places_from_one_that_has_all() {
    let model = model();
    let longer = SchedulerOptions { queue_length: 8, ..options() };
    let scheduler = Scheduler::start(Arc::clone(&model), longer).unwrap();
    let submit = |client: &str, first: u32, max_tokens: usize| {
        let (mut job, receiver) = job(&[first, 7], usize::MAX);
        (job.max_tokens, job.client) = (max_tokens, client.to_string());
        // Slow enough that the late one comes while these run.
        let mut sink = job.sink;
        job.sink = Box::new(move |event| {
            std::thread::sleep(Duration::from_millis(1));
            sink(event)
        });
        scheduler.submit(job).unwrap();
        receiver
    };
    let early: Vec<_> = (0..4).map(|first| submit("early", first, 120)).collect();
    until_queued(&scheduler, 0);
    let late = wait(&submit("late", 30, 5));
    assert!(late.finish.unwrap().1.queued < Duration::from_millis(100));
    let early: Vec<Got> = early.iter().map(wait).collect();
    let preempted = early.iter().map(|got| got.finish.as_ref().unwrap().1.preemptions);
    assert_eq!(preempted.sum::<usize>(), 1);
    for (first, got) in early.iter().enumerate() {
        let case = [first as u32, 7];
        let expected = alone(&model, &case, 120);
        assert_eq!(got.ids(), expected, "computed anew or not");
    }
}

fn alone(model: &FakeModel, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        let row = model.logits(&tokens);
        let best = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
        tokens.push(best as u32);
    }
    tokens.split_off(prompt.len())
}

#[test]
fn a_sink_that_panics_ends_its_own_job() {
    let scheduler = Scheduler::start(model(), options()).unwrap();
    let (mut bad, _) = job(&[1], usize::MAX);
    bad.sink = Box::new(|event| match event {
        JobEvent::Token(_) => panic!("sink"),
        _ => ControlFlow::Continue(()),
    });
    scheduler.submit(bad).unwrap();
    let (mut good, receiver) = job(&[2], usize::MAX);
    good.max_tokens = 9;
    scheduler.submit(good).unwrap();
    assert_eq!(wait(&receiver).tokens.len(), 9);
    scheduler.drain(Instant::now() + PATIENCE);
    assert_eq!((scheduler.stats().cancelled, scheduler.stats().blocks_used), (1, 0));
}

#[test]
fn a_sequence_at_which_the_model_fails_fails_alone() {
    for fault in [Fault::Error, Fault::Panic] {
        let poison = Some((39, fault));
        let model = Arc::new(FakeModel { poison, ..FakeModel::new(Rule::Successor, 40, 128) });
        let scheduler = Scheduler::start(Arc::clone(&model), options()).unwrap();
        let submit = |first: u32| {
            let (mut job, receiver) = job(&[first, first + 1], usize::MAX);
            job.max_tokens = 20;
            scheduler.submit(job).unwrap();
            receiver
        };
        // The third runs into token 39 at its tenth.
        let receivers: Vec<_> = [0, 5, 28].into_iter().map(submit).collect();
        for (receiver, first) in receivers.iter().zip([2, 7]) {
            let got = wait(receiver);
            assert_eq!(got.ids(), (first..first + 20).collect::<Vec<u32>>(), "{fault:?}");
        }
        let got = wait(&receivers[2]);
        assert_eq!(got.ids(), (30..40).collect::<Vec<u32>>());
        match (fault, got.failed.unwrap()) {
            (Fault::Error, InferError::Model(_)) | (Fault::Panic, InferError::Panicked { .. }) => {}
            (_, error) => panic!("{error}"),
        }
        scheduler.drain(Instant::now() + PATIENCE);
        let stats = scheduler.stats();
        assert_eq!((stats.failed, stats.finished, stats.blocks_used), (1, 2, 0));
    }
}

#[test]
fn logits_that_are_no_numbers_fail_one_job_and_an_empty_choice_another() {
    let fault = Some((0, Fault::Nan));
    let model = Arc::new(FakeModel { fault, ..FakeModel::new(Rule::Hash, 40, 128) });
    let scheduler = Scheduler::start(model, options()).unwrap();
    let (nan, receiver) = job(&[1], 3);
    scheduler.submit(nan).unwrap();
    assert!(matches!(wait(&receiver).failed, Some(InferError::NonFiniteLogit { .. })));
    let (mut none, receiver) = job(&[1], 3);
    none.sampling.logit_bias = (0..40).map(|token| (token, f32::NEG_INFINITY)).collect();
    scheduler.submit(none).unwrap();
    assert!(matches!(wait(&receiver).failed, Some(InferError::NoCandidate)));
    assert_eq!(scheduler.stats().failed, 2);
}

#[test]
fn dropping_the_scheduler_cancels_what_is_left() {
    let scheduler = Scheduler::start(model(), options()).unwrap();
    let receivers: Vec<_> = (0..6)
        .map(|first| {
            let (mut job, receiver) = job(&[first], usize::MAX);
            let mut sink = job.sink;
            job.sink = Box::new(move |event| {
                std::thread::sleep(Duration::from_millis(1));
                sink(event)
            });
            scheduler.submit(job).map_or(None, |_| Some(receiver))
        })
        .collect();
    drop(scheduler);
    for receiver in receivers.iter().flatten() {
        assert_eq!(receiver.try_recv().unwrap().reason(), Some(&FinishReason::Cancelled));
    }
}
