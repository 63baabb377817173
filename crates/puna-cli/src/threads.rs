//! The one thread pool.

use anyhow::Context;

/// Starts the global pool. Without a number it has one thread per physical core this process may
/// use: the second thread of a core adds nothing to products that are bound by memory or by the
/// core's one set of vector units.
pub(crate) fn start(threads: Option<usize>) -> anyhow::Result<usize> {
    let threads = threads.unwrap_or_else(default_threads);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("cannot start the thread pool")?;
    Ok(threads)
}

fn default_threads() -> usize {
    // num_cpus knows of control groups, but not for physical cores: the smaller of both.
    num_cpus::get_physical().min(num_cpus::get()).max(1)
}
