//! What every method can do.

use std::fmt::Debug;
use std::sync::Arc;

use puna_nn::ops::LowRank;
use puna_nn::{AdapterSet, Parameter, Slot};

use crate::PeftError;

/// A trained tensor.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The tensor.
    pub parameter: Arc<Parameter>,
    /// Factor of the learning rate (LoRA+).
    pub lr_factor: f64,
}

impl Trained {
    /// With the learning rate of the run.
    #[must_use]
    pub fn new(parameter: &Arc<Parameter>) -> Self {
        Self { parameter: Arc::clone(parameter), lr_factor: 1.0 }
    }
}

/// A tensor of an adapter's file.
#[derive(Debug, Clone)]
pub struct SavedTensor {
    /// Its name there.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

impl SavedTensor {
    /// A parameter under some name.
    #[must_use]
    pub fn of(name: impl Into<String>, parameter: &Parameter) -> Self {
        let values = parameter.values().clone();
        Self { name: name.into(), shape: parameter.shape().to_vec(), values }
    }
}

/// What a folder of an adapter holds.
#[derive(Debug, Clone)]
pub struct Files {
    /// Name and content of the configuration.
    pub config: (&'static str, serde_json::Value),
    /// Name and content of the safetensors file.
    pub tensors: (&'static str, Vec<SavedTensor>),
    /// Further safetensors files (what training needs and inference does not).
    pub more: Vec<(&'static str, Vec<SavedTensor>)>,
}

/// A method applied to a model.
pub trait Method: Debug + Send + Sync {
    /// Its name in recipes.
    fn name(&self) -> &'static str;

    /// Adds what it changes to a set; `scale` 1 is what was trained.
    ///
    /// # Errors
    /// If the set holds something that it cannot be used with, or it cannot be scaled.
    fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError>;

    /// What is trained, in an order that does not change.
    fn trained(&self) -> Vec<Trained>;

    /// What is saved.
    ///
    /// # Errors
    /// If what a network makes for it cannot be computed.
    fn files(&self) -> Result<Files, PeftError>;

    /// Adds the gradient of a further term of the loss (`weight` 1 for a whole step) and returns the
    /// term.
    ///
    /// # Errors
    /// If an op fails.
    fn regularize(&self, weight: f32) -> Result<f64, PeftError> {
        let _ = weight;
        Ok(0.0)
    }

    /// Whether a training of so many updates has room for what the method does during it.
    ///
    /// # Errors
    /// If it has not.
    fn check_steps(&self, steps: u64) -> Result<(), PeftError> {
        let _ = steps;
        Ok(())
    }

    /// Is told that `step` of `steps` updates have been made, with gradients still there.
    fn after_update(&self, step: u64, steps: u64) {
        let _ = (step, steps);
    }

    /// The thin matrices that it adds to layers, if it consists of nothing else: what formats that
    /// know only LoRA can hold.
    ///
    /// # Errors
    /// If it has more, or is something else.
    fn low_rank(&self) -> Result<Vec<(Slot, LowRank)>, PeftError> {
        let problem = format!("{} is no plain LoRA, which is all that GGUF can hold", self.name());
        Err(PeftError::Combination { problem })
    }

    /// Values trained.
    fn size(&self) -> usize {
        self.trained().iter().map(|trained| trained.parameter.len()).sum()
    }
}
