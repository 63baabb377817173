//! The one thread pool: workers that start within a microsecond because they spin before they
//! sleep.
//!
//! A decode step is some hundred parallel regions of tens to hundreds of microseconds. rayon wakes
//! its threads through a futex and steals tasks through queues, which costs several microseconds a
//! region; here a region is one store that spinning workers see. Who joins a region counts itself
//! in and out of one word, so that a worker that the system has put aside is not waited for.
//! After [`SPIN`] without work a worker sleeps and costs nothing.
//!
//! Tasks are handed out by a counter: which thread runs a task is left to chance, so a task's result
//! must not depend on it.

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, TryLockError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long a worker looks for work before it sleeps: longer than what lies between the regions of
/// a decode step, shorter than a person notices.
const SPIN: Duration = Duration::from_micros(500);

/// Upper bound of [`set_threads`].
const MAX_THREADS: usize = 1024;

/// The bit of [`Pool::state`] that says a region takes workers; above it the region's number, below
/// it how many workers are inside.
const OPEN: u64 = 1 << 31;

/// A region's body, whose lifetime is that of the call to [`run`].
type Body = *const (dyn Fn(usize) + Sync);

/// What a region is.
struct Region {
    body: Option<Body>,
    tasks: usize,
    /// Workers with a higher number stay out.
    workers: usize,
}

struct Pool {
    /// Number of the region, [`OPEN`], workers inside.
    state: AtomicU64,
    /// Written by the owner of `workers` while the state is closed and empty.
    region: UnsafeCell<Region>,
    next: AtomicUsize,
    panicked: AtomicBool,
    sleepers: AtomicUsize,
    /// The started workers; holding it is the right to open a region.
    workers: Mutex<Vec<Thread>>,
}

// SAFETY: the region is written only by the holder of `workers` while nobody is inside (see `run`),
// and read only by workers that counted themselves in.
unsafe impl Sync for Pool {}
// SAFETY: as above; the pool is a static and never moves.
unsafe impl Send for Pool {}

static POOL: Pool = Pool {
    state: AtomicU64::new(0),
    region: UnsafeCell::new(Region { body: None, tasks: 0, workers: 0 }),
    next: AtomicUsize::new(0),
    panicked: AtomicBool::new(false),
    sleepers: AtomicUsize::new(0),
    workers: Mutex::new(Vec::new()),
};

/// Threads of every region; 0: not chosen.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// [`with_threads`] of this thread; 0: none.
    static OVERRIDE: Cell<usize> = const { Cell::new(0) };
    /// Whether this thread runs a task: regions inside are serial.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Sets the number of threads that kernels use, the calling one included. Without it they use one
/// per processor that this process may use.
pub fn set_threads(threads: usize) {
    THREADS.store(threads.clamp(1, MAX_THREADS), Ordering::Relaxed);
}

/// The number of threads that kernels called from this thread use.
pub fn threads() -> usize {
    if INSIDE.get() {
        return 1;
    }
    match (OVERRIDE.get(), THREADS.load(Ordering::Relaxed)) {
        (0, 0) => {
            static AVAILABLE: OnceLock<usize> = OnceLock::new();
            *AVAILABLE.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
        }
        (0, threads) => threads,
        (threads, _) => threads,
    }
}

/// Runs `f` with another number of threads for the kernels that this thread calls.
pub fn with_threads<T>(threads: usize, f: impl FnOnce() -> T) -> T {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            OVERRIDE.set(self.0);
        }
    }
    let _restore = Restore(OVERRIDE.replace(threads.clamp(1, MAX_THREADS)));
    f()
}

/// Runs `body(0)` to `body(tasks - 1)`, each once, on up to [`threads`] threads, and returns when
/// all are done. Serial inside another region, and where another thread's region is running.
///
/// # Panics
/// If a task does.
pub(crate) fn run(tasks: usize, body: impl Fn(usize) + Sync) {
    let wanted = threads().min(tasks);
    match (wanted > 1).then(|| POOL.owner()).flatten() {
        Some(workers) => POOL.open(workers, wanted - 1, tasks, &body),
        None => (0..tasks).for_each(body),
    }
}

impl Pool {
    /// The right to open a region, if no other thread has it.
    fn owner(&self) -> Option<MutexGuard<'_, Vec<Thread>>> {
        match self.workers.try_lock() {
            Ok(workers) => Some(workers),
            Err(TryLockError::Poisoned(workers)) => Some(workers.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn open(
        &'static self,
        mut workers: MutexGuard<'_, Vec<Thread>>,
        wanted: usize,
        tasks: usize,
        body: &(dyn Fn(usize) + Sync),
    ) {
        while workers.len() < wanted {
            let number = workers.len();
            let name = format!("puna-{}", number + 1);
            let started = std::thread::Builder::new().name(name).spawn(move || self.work(number));
            match started {
                Ok(handle) => workers.push(handle.thread().clone()),
                Err(_) => break, // fewer threads are slower, not wrong
            }
        }
        // SAFETY: only the lifetime changes. Nobody uses the body after this call: workers join
        // while the state is open, and the call returns once it is closed and they have left.
        let body: Body = unsafe { std::mem::transmute(std::ptr::from_ref(body)) };
        // SAFETY: the state is closed and empty, and this thread holds `workers`.
        unsafe { *self.region.get() = Region { body: Some(body), tasks, workers: wanted } };
        self.next.store(0, Ordering::Relaxed);
        let number = (self.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        self.state.store(number << 32 | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            workers.iter().take(wanted).for_each(Thread::unpark);
        }
        self.take_tasks(tasks, body);
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut turns = 0u32;
        while self.state.load(Ordering::Acquire) & (OPEN - 1) != 0 {
            turns += 1;
            pause(turns);
        }
        drop(workers);
        if self.panicked.swap(false, Ordering::AcqRel) {
            panic!("a task of a parallel region panicked");
        }
    }

    fn take_tasks(&self, tasks: usize, body: Body) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            INSIDE.set(true);
            loop {
                let task = self.next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                // SAFETY: whoever takes tasks is inside the region, so the body lives.
                unsafe { (*body)(task) }
            }
        }));
        INSIDE.set(false);
        if outcome.is_err() {
            self.panicked.store(true, Ordering::Release);
        }
    }

    /// The life of worker `number`.
    fn work(&self, number: usize) {
        let mut seen = 0;
        loop {
            let state = self.wait(seen);
            seen = state >> 32;
            if state & OPEN == 0 || !self.join(state) {
                continue;
            }
            // SAFETY: this worker counted itself in while the region was open: nobody writes it
            // before it has left.
            let (body, tasks, workers) = unsafe {
                let region = &*self.region.get();
                (region.body, region.tasks, region.workers)
            };
            if let Some(body) = body
                && number < workers
            {
                self.take_tasks(tasks, body);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Counts this worker into the open region of `state`; fails if that closes first.
    fn join(&self, state: u64) -> bool {
        let mut current = state;
        while current >> 32 == state >> 32 && current & OPEN != 0 {
            let joined = self.state.compare_exchange_weak(
                current,
                current + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match joined {
                Ok(_) => return true,
                Err(now) => current = now,
            }
        }
        false
    }

    /// The state once it has another number than `seen`.
    fn wait(&self, seen: u64) -> u64 {
        let started = Instant::now();
        let mut turns = 0u32;
        loop {
            let state = self.state.load(Ordering::Acquire);
            if state >> 32 != seen {
                return state;
            }
            turns += 1;
            pause(turns);
            if turns.is_multiple_of(256) && started.elapsed() > SPIN {
                break;
            }
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let state = loop {
            let state = self.state.load(Ordering::SeqCst);
            if state >> 32 != seen {
                break state;
            }
            std::thread::park();
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        state
    }
}

/// One turn of a waiting loop; now and then others may run, for when there are more threads than
/// processors.
fn pause(turns: u32) {
    if turns.is_multiple_of(1024) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 7] {
            for tasks in [0, 1, 2, 5, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                with_threads(threads, || {
                    run(tasks, |i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn regions_follow_each_other_and_survive_sleep() {
        let sum = AtomicUsize::new(0);
        with_threads(3, || {
            for round in 0..300 {
                if round % 100 == 99 {
                    std::thread::sleep(2 * SPIN);
                }
                run(4, |i| {
                    sum.fetch_add(i, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 300 * 6);
    }

    #[test]
    fn regions_inside_regions_and_of_other_threads_are_run() {
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    with_threads(2, || {
                        for _ in 0..50 {
                            run(2, |_| {
                                run(3, |_| {
                                    sum.fetch_add(1, Ordering::Relaxed);
                                });
                            });
                        }
                    });
                });
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 4 * 50 * 6);
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let outcome = std::panic::catch_unwind(|| {
            with_threads(2, || run(8, |i| assert!(i != 3, "task three")));
        });
        assert!(outcome.is_err());
        let done = AtomicUsize::new(0);
        with_threads(2, || {
            run(8, |_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(done.load(Ordering::Relaxed), 8);
    }
}
