//! Losses, optimizers, schedules, the trainer and its checkpoints.
