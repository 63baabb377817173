//! The decoder against the reference implementations' outputs, in every layout.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]
#![expect(clippy::print_stderr, reason = "counts and skips are for the person running the tests")]

mod convert;
mod devices;
mod fast;
mod golden;
mod invariants;
mod support;
