//! Scaling laws: published constants and what follows from them, and fits to a sweep's points.
//!
//! A law says which loss a number of parameters and tokens leads to, so that a budget can be
//! divided between them before it is spent. Everything here is arithmetic on a few numbers; no
//! model is loaded.

mod error;
mod law;
mod power_law;
mod repeated;

pub use error::LawError;
pub use law::{Allocation, LawName, ParametricLaw, SERVE_FLOPS, TRAIN_FLOPS};
pub use power_law::{FrontierLaw, PowerLaw, PowerLawName, kaplan_loss};
pub use repeated::{MOST_EPOCHS, RepeatedAllocation, RepeatedData};
