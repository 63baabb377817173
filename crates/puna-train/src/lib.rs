//! Losses, optimizers, schedules, the trainer and its checkpoints.

mod batch;
mod checkpoint;
mod device;
mod error;
pub mod log;
mod memory;
mod optimizer;
mod output_lock;
pub mod pet;
mod quantized_state;
mod ranks;
mod recipe;
mod sample;
mod schedule;
mod setup;
pub mod sweep;
mod trained;
mod trainer;

pub use checkpoint::{Checkpoint, list_checkpoints};
pub use error::TrainError;
pub use memory::MemoryNeed;
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerName, State, clip_factor};
pub use ranks::{Alone, Ranks, connect};
pub use recipe::{
    CheckpointSection, DataSection, LogSection, LossSection, ModelSection, Recipe, RecipePrecision,
    RecomputeSection, SaveType, Task, TrainSection,
};
pub use schedule::{Schedule, ScheduleName};
pub use setup::{RunMode, Setup};
pub use trained::Member;
pub use trainer::{Event, Outcome, Probe, Trainer};
