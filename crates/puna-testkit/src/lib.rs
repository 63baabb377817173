//! What puna's tests share: golden files, tolerant asserts, gradcheck and reproducible random numbers.
//!
//! A dev-dependency only. Functions here panic where a test has to fail, with the numbers that say
//! why; a file that is absent makes a test skip, visibly.

mod close;
mod golden;
mod gradcheck;
mod location;
mod random;

pub use close::{Closeness, Tolerance, assert_close, closeness, rms_over_std};
pub use golden::{GoldenCase, GoldenLogits};
pub use gradcheck::{GradTolerance, gradcheck, gradcheck_by};
pub use location::{golden_cases, golden_dir, golden_root, published_dir, skipped};
pub use random::{SplitMix64, random_tensor};
