//! Integration tests on models whose every logit is known.

#![expect(clippy::unwrap_used, reason = "the tests' own helpers panic as the tests do")]

mod batch;
mod beam;
mod embed;
mod fake;
mod golden;
mod prefix;
mod scheduler;
mod scheduler_limits;
mod scheduler_real;
mod score;
mod session;
mod speculate;
mod stream;
