//! A bounded queue with one producer and one consumer that may wait by blocking or by waker.
//!
//! `std::sync::mpsc` has the blocking half only and the async crates' channels bring a runtime's
//! idea of waiting with them; both sides over one mutex are shorter than an adapter. A poisoned lock
//! is taken over: the state is valid between any two statements.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    /// The other side is gone.
    closed: bool,
    waker: Option<Waker>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    drained: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let waker = state.waker.take();
        drop(state);
        self.filled.notify_all();
        self.drained.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The producer's side; dropping it ends the consumer's items after those queued.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The consumer's side; dropping it makes every `send` fail.
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// A queue of at most `capacity` items (at least one).
pub(crate) fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state =
        State { queue: VecDeque::new(), capacity: capacity.max(1), closed: false, waker: None };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        filled: Condvar::new(),
        drained: Condvar::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// Waits for room and queues `item`; `false` if the consumer is gone.
    pub(crate) fn send(&self, item: T) -> bool {
        let mut state = self.0.lock();
        while !state.closed && state.queue.len() >= state.capacity {
            state = self.0.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        state.queue.push_back(item);
        let waker = state.waker.take();
        drop(state);
        self.0.filled.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }
}

impl<T> Receiver<T> {
    /// Waits for the next item; `None` once the producer is gone and the queue empty.
    pub(crate) fn recv(&self) -> Option<T> {
        let mut state = self.0.lock();
        while !state.closed && state.queue.is_empty() {
            state = self.0.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let item = state.queue.pop_front();
        drop(state);
        self.0.drained.notify_one();
        item
    }

    /// The next item if there is one; else `context` is woken when there is.
    pub(crate) fn poll_recv(&self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.lock();
        let Some(item) = state.queue.pop_front() else {
            if state.closed {
                return Poll::Ready(None);
            }
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        drop(state);
        self.0.drained.notify_one();
        Poll::Ready(Some(item))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("queued", &self.0.lock().queue.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::channel;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    #[test]
    fn items_come_in_order_and_end_with_the_sender() {
        let (sender, receiver) = channel(2);
        let thread = std::thread::spawn(move || (0..100).all(|i| sender.send(i)));
        let mut items = Vec::new();
        while let Some(item) = receiver.recv() {
            items.push(item);
        }
        assert!(thread.join().unwrap());
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_sender_that_waits_for_room_is_freed_by_the_receivers_drop() {
        let (sender, receiver) = channel(1);
        assert!(sender.send(0));
        let thread = std::thread::spawn(move || sender.send(1));
        drop(receiver);
        assert!(!thread.join().unwrap());
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_pending_poll_is_woken_by_an_item_and_by_the_end() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let (sender, receiver) = channel(4);
        assert_eq!(receiver.poll_recv(&mut context), Poll::Pending);
        sender.send(7);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(receiver.poll_recv(&mut context), Poll::Ready(Some(7)));
        assert_eq!(receiver.poll_recv(&mut context), Poll::Pending);
        drop(sender);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        assert_eq!(receiver.poll_recv(&mut context), Poll::Ready(None));
    }
}
