//! The decoder against the reference implementations' outputs, in every layout.

mod convert;
mod fast;
mod golden;
mod invariants;
mod support;
