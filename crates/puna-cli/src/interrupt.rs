//! Ctrl-C: asks the running generation to stop; a second one ends the program.
//!
//! The handler only sets a flag, which the generator's callback reads at every token.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Exit code of a program ended by SIGINT, as shells count it.
const INTERRUPTED: i32 = 130;

/// Takes over Ctrl-C for the rest of the program.
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED);
        }
    })
    .context("cannot take over Ctrl-C")
}

/// Whether Ctrl-C was pressed since the last [`reset`].
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Forgets an earlier Ctrl-C; returns whether there was one.
pub(crate) fn reset() -> bool {
    ASKED.swap(false, Ordering::SeqCst)
}
