//! Losses, optimizers, schedules, the trainer and its checkpoints.

pub mod log;
