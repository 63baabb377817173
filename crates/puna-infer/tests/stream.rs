//! The iterator and the async stream: same events, errors and panics as items, cancel by dropping.

use crate::fake::{FakeModel, FakeText, Fault, Rule};
use futures_core::Stream;
use puna_infer::{
    Event, FinishReason, GenerateOptions, InferError, LanguageModel, Session, TokenIter, spawn,
    spawn_batch,
};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

type Iter = TokenIter<Event, Session<<FakeModel as LanguageModel>::Cache>>;

fn max_new(n: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens: Some(n), ..Default::default() }
}

fn start(model: &Arc<FakeModel>, options: GenerateOptions) -> Iter {
    let text = Arc::new(FakeText::numbered(model.vocab_size));
    spawn(Session::new(&**model), Arc::clone(model), text, vec![1, 2, 3], options).unwrap()
}

fn direct(model: &FakeModel, options: &GenerateOptions) -> Vec<Event> {
    let mut events = Vec::new();
    let text = FakeText::numbered(model.vocab_size);
    let sink = |event| {
        events.push(event);
        ControlFlow::Continue(())
    };
    Session::new(model).generate(model, &text, &[1, 2, 3], options, sink).unwrap();
    events
}

#[test]
fn the_iterator_gives_the_callbacks_events_and_the_session_back() {
    let model = Arc::new(FakeModel::new(Rule::Hash, 30, 100));
    let mut iter = start(&model, max_new(40));
    let events: Vec<Event> = iter.by_ref().map(Result::unwrap).collect();
    assert_eq!(events, direct(&model, &max_new(40)));
    assert_eq!(iter.finish().unwrap().tokens().len(), 3 + 39);
}

#[test]
fn dropping_the_iterator_cancels_the_generation() {
    let model = Arc::new(FakeModel::new(Rule::Hash, 30, 1_000_000));
    let mut iter = start(&model, GenerateOptions::default());
    for _ in 0..5 {
        iter.next().unwrap().unwrap();
    }
    let session = iter.finish().unwrap();
    // What was consumed, what the queue holds, and the token at which it was noticed.
    assert!(session.tokens().len() < 40, "{} tokens", session.tokens().len());
    let after = model.passes.load(Ordering::SeqCst);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(model.passes.load(Ordering::SeqCst), after);
}

#[test]
fn an_error_in_the_generator_is_the_last_item() {
    for fault in [Fault::Error, Fault::Nan] {
        let model = FakeModel { fault: Some((3, fault)), ..FakeModel::new(Rule::Hash, 30, 100) };
        let mut iter = start(&Arc::new(model), max_new(40));
        let items: Vec<_> = iter.by_ref().collect();
        let (last, rest) = items.split_last().unwrap();
        match fault {
            Fault::Nan => assert!(matches!(last, Err(InferError::NonFiniteLogit { .. }))),
            _ => assert!(matches!(last, Err(InferError::Model(_)))),
        }
        assert!(rest.iter().all(Result::is_ok));
        assert!(iter.finish().unwrap().tokens().is_empty());
    }
}

#[test]
fn a_panic_in_the_generator_is_the_last_item_and_leaves_an_empty_session() {
    let model = FakeModel { fault: Some((3, Fault::Panic)), ..FakeModel::new(Rule::Hash, 30, 100) };
    let mut iter = start(&Arc::new(model), max_new(40));
    let last = iter.by_ref().last().unwrap();
    match last {
        Err(InferError::Panicked { message }) => assert_eq!(message, "fake panic"),
        other => panic!("{other:?}"),
    }
    assert!(iter.next().is_none());
    assert!(iter.finish().unwrap().tokens().is_empty());
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Drives a stream without any runtime.
fn block_on_all<S: Stream + Unpin>(mut stream: S) -> Vec<S::Item> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut items = Vec::new();
    loop {
        match Pin::new(&mut stream).poll_next(&mut context) {
            Poll::Ready(Some(item)) => items.push(item),
            Poll::Ready(None) => return items,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn the_async_stream_gives_the_same_events() {
    let model = Arc::new(FakeModel::new(Rule::Hash, 30, 100));
    let events = block_on_all(start(&model, max_new(40)).into_stream());
    let events: Vec<Event> = events.into_iter().map(Result::unwrap).collect();
    assert_eq!(events, direct(&model, &max_new(40)));
}

#[test]
fn the_async_stream_carries_errors() {
    let model = FakeModel { fault: Some((2, Fault::Error)), ..FakeModel::new(Rule::Hash, 30, 100) };
    let items = block_on_all(start(&Arc::new(model), max_new(40)).into_stream());
    assert!(matches!(items.last(), Some(Err(InferError::Model(_)))));
}

#[test]
fn a_batch_streams_with_its_sequence_numbers() {
    let model = Arc::new(FakeModel::new(Rule::Successor, 30, 100));
    let text = Arc::new(FakeText::numbered(30));
    let iter = spawn_batch(model, text, vec![vec![1], vec![11]], max_new(3)).unwrap();
    let mut tokens = vec![Vec::new(); 2];
    let mut done = 0;
    for item in iter {
        match item.unwrap() {
            (sequence, Event::Token { id, .. }) => tokens[sequence].push(id),
            (_, Event::Done(reason)) => {
                assert_eq!(reason, FinishReason::Length);
                done += 1;
            }
            _ => {}
        }
    }
    assert_eq!((tokens, done), (vec![vec![2, 3, 4], vec![12, 13, 14]], 2));
}
