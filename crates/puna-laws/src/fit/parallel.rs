//! Independent pieces of work on all cores.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The results of `work` for 0 to `count`, in order, whatever thread made them.
pub(super) fn map<T: Send>(
    count: usize,
    progress: &(dyn Fn(usize, usize) + Sync),
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(count);
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results = Mutex::new(Vec::with_capacity(count));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    mine.push((index, work(index)));
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, count);
                }
                // A thread that panicked has left nothing half written.
                results.lock().unwrap_or_else(|broken| broken.into_inner()).append(&mut mine);
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|broken| broken.into_inner());
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_stand_in_order() {
        let squares = super::map(100, &|_, _| (), |i| i * i);
        assert!(squares.iter().enumerate().all(|(i, square)| *square == i * i));
        assert_eq!(super::map(0, &|_, _| (), |i| i), [0_usize; 0]);
    }
}
