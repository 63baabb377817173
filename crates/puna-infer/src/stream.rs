//! Generation on a thread of its own: as an iterator and as an async stream.
//!
//! The generator never outlives interest in it and its consumer never waits for one that is gone:
//! dropping the iterator makes the next event the last, an error is the last item, and so is a
//! panic. The async side is the same queue with a waker, so that it works under any runtime (or
//! none) and the crate depends on none.

mod channel;

use crate::batch::generate_batch;
use crate::error::InferError;
use crate::model::LanguageModel;
use crate::options::{Event, GenerateOptions};
use crate::session::Session;
use crate::text::Detokenizer;
use channel::{Receiver, Sender, channel};
use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;

/// Events the generator may run ahead of its consumer.
const AHEAD: usize = 16;

/// What a consumer gets: events until the last one, or an error as the last item.
type Item<E> = Result<E, InferError>;

/// Blocking iterator over a running generation; dropping it cancels within one token.
///
/// `E` is [`Event`], or `(usize, Event)` for a batch; `S` is what the thread gives back at the end:
/// the [`Session`], or nothing for a batch.
#[derive(Debug)]
pub struct TokenIter<E, S> {
    receiver: Receiver<Item<E>>,
    thread: JoinHandle<S>,
}

/// Async form of [`TokenIter`]: a [`futures_core::Stream`] that needs no runtime.
#[derive(Debug)]
pub struct EventStream<E, S> {
    iter: TokenIter<E, S>,
}

/// Continues `prompt` in `session` on a thread.
///
/// # Errors
/// Requests for beams and invalid options, like all errors of the generation itself, come as the
/// iterator's item; here only [`InferError::Thread`] where no thread could be started.
pub fn spawn<M, T>(
    mut session: Session<M::Cache>,
    model: Arc<M>,
    detokenizer: Arc<T>,
    prompt: Vec<u32>,
    options: GenerateOptions,
) -> Result<TokenIter<Event, Session<M::Cache>>, InferError>
where
    M: LanguageModel + 'static,
    M::Cache: 'static,
    T: Detokenizer + 'static,
{
    start(move |sender| {
        guarded(sender, |sink| {
            let sink = |event| sink(event);
            session.generate(&*model, &*detokenizer, &prompt, &options, sink).map(|_| ())
        })
        // After a panic the cache may hold half a step.
        .unwrap_or_else(|Panicked| session.clear());
        session
    })
}

/// Continues several prompts on a thread; see [`generate_batch`].
///
/// # Errors
/// As [`spawn`].
pub fn spawn_batch<M, T>(
    model: Arc<M>,
    detokenizer: Arc<T>,
    prompts: Vec<Vec<u32>>,
    options: GenerateOptions,
) -> Result<TokenIter<(usize, Event), ()>, InferError>
where
    M: LanguageModel + 'static,
    T: Detokenizer + 'static,
{
    start(move |sender| {
        let ended = guarded(sender, |sink| {
            let sink = |sequence, event| sink((sequence, event));
            generate_batch(&*model, &*detokenizer, &prompts, &options, sink).map(|_| ())
        });
        // The consumer has the panic as its last item; nothing else is left to save.
        ended.unwrap_or(());
    })
}

fn start<E: Send + 'static, S: Send + 'static>(
    generate: impl FnOnce(Sender<Item<E>>) -> S + Send + 'static,
) -> Result<TokenIter<E, S>, InferError> {
    let (sender, receiver) = channel(AHEAD);
    let thread = std::thread::Builder::new()
        .name("puna-generate".to_string())
        .spawn(move || generate(sender))
        .map_err(InferError::Thread)?;
    Ok(TokenIter { receiver, thread })
}

/// The generator panicked; the consumer has been told.
struct Panicked;

/// Runs `generate` with a sink into the queue; an error or a panic becomes the last item.
fn guarded<E>(
    sender: Sender<Item<E>>,
    generate: impl FnOnce(&mut dyn FnMut(E) -> ControlFlow<()>) -> Result<(), InferError>,
) -> Result<(), Panicked> {
    let mut sink = |event| match sender.send(Ok(event)) {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    let ended = catch_unwind(AssertUnwindSafe(|| generate(&mut sink)));
    let (error, outcome) = match ended {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => (error, Ok(())),
        Err(panic) => (InferError::Panicked { message: panic_message(&*panic) }, Err(Panicked)),
    };
    sender.send(Err(error));
    outcome
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_string())
}

impl<E, S> TokenIter<E, S> {
    /// The same events as an async stream.
    pub fn into_stream(self) -> EventStream<E, S> {
        EventStream { iter: self }
    }

    /// Cancels what is still running, waits for it (at most one forward pass) and gives back what
    /// the generation ran in: the session, with the cache of everything run so far.
    ///
    /// # Errors
    /// [`InferError::Panicked`] where the thread is lost; a panic of model or tokenizer is the
    /// iterator's last item instead and leaves an empty session.
    pub fn finish(self) -> Result<S, InferError> {
        drop(self.receiver);
        self.thread.join().map_err(|panic| InferError::Panicked { message: panic_message(&*panic) })
    }
}

impl<E, S> Iterator for TokenIter<E, S> {
    type Item = Item<E>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receiver.recv()
    }
}

impl<E, S> EventStream<E, S> {
    /// See [`TokenIter::finish`]; blocks for at most one forward pass.
    ///
    /// # Errors
    /// As there.
    pub fn finish(self) -> Result<S, InferError> {
        self.iter.finish()
    }
}

impl<E, S> futures_core::Stream for EventStream<E, S> {
    type Item = Item<E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.iter.receiver.poll_recv(context)
    }
}
