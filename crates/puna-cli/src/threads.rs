//! How many threads the kernels use, and which instructions.

use anyhow::anyhow;
use puna_kernels::Isa;

use crate::report::Hint;

/// Sets the number of threads. Without one it is that of the physical cores this process may use:
/// the second thread of a core adds nothing to products that are bound by memory or by the core's
/// one set of vector units.
pub(crate) fn start(threads: Option<usize>) -> usize {
    let threads = threads.unwrap_or_else(default_threads);
    puna_kernels::set_threads(threads);
    threads
}

/// The environment variable that limits the instruction set must name one.
pub(crate) fn check_environment() -> anyhow::Result<()> {
    let Ok(name) = std::env::var("PUNA_ISA") else { return Ok(()) };
    if Isa::ALL.iter().any(|isa| isa.name() == name) {
        return Ok(());
    }
    let names: Vec<&str> = Isa::ALL.iter().map(|isa| isa.name()).collect();
    Err(anyhow!("the environment variable PUNA_ISA is {name:?}, which is no instruction set"))
        .hint(format!("set it to one of {}, or not at all", names.join(", ")))
}

fn default_threads() -> usize {
    // num_cpus knows of control groups, but not for physical cores: the smaller of both.
    num_cpus::get_physical().min(num_cpus::get()).max(1)
}
