//! How many threads the kernels use.

/// Sets the number of threads. Without one it is that of the physical cores this process may use:
/// the second thread of a core adds nothing to products that are bound by memory or by the core's
/// one set of vector units.
pub(crate) fn start(threads: Option<usize>) -> usize {
    let threads = threads.unwrap_or_else(default_threads);
    puna_kernels::set_threads(threads);
    threads
}

fn default_threads() -> usize {
    // num_cpus knows of control groups, but not for physical cores: the smaller of both.
    num_cpus::get_physical().min(num_cpus::get()).max(1)
}
