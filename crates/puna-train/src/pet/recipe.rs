//! The recipe of a classification by cloze questions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use puna_peft::AdapterConfig;
use puna_peft::pet::TEMPERATURE;
use serde::{Deserialize, Serialize};

use crate::recipe::{as_toml, parse_as};
use crate::{OptimizerConfig, RecipePrecision, Schedule, TrainError};

/// A run of `puna pet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PetRecipe {
    /// Folder of the run: adapters, soft labels, results.
    pub output: PathBuf,
    /// Seed of adapters and orders.
    #[serde(default)]
    pub seed: u64,
    /// The model: a folder or a file in any format.
    pub model: PathBuf,
    /// What is trained for each pattern, and at the end.
    pub adapter: AdapterConfig,
    /// Questions and examples.
    pub pet: PetSection,
    /// How steps are made.
    pub train: PetTrain,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// The learning rate over each training.
    #[serde(default)]
    pub schedule: Schedule,
}

/// Questions and examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PetSection {
    /// Texts with fields of an example in braces; the word of the label would come behind.
    pub patterns: Vec<String>,
    /// A word of one token for each label.
    pub labels: BTreeMap<String, String>,
    /// Labeled examples: objects in JSON, one to a line or in a list.
    pub train: PathBuf,
    /// Examples without labels, which the patterns label for the last training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlabeled: Option<PathBuf>,
    /// Labeled examples that nothing is trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// Field with an example's label.
    #[serde(default = "label_field")]
    pub label_field: String,
    /// What patterns count in their average.
    #[serde(default)]
    pub weights: PatternWeights,
    /// Temperature of the soft labels.
    #[serde(default = "temperature")]
    pub temperature: f32,
    /// Index of the pattern that is trained on soft labels.
    #[serde(default)]
    pub final_pattern: usize,
}

/// What patterns count in their average.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PatternWeights {
    /// All the same.
    #[default]
    Equal,
    /// The share of labeled examples that the model labels right by it before training.
    Accuracy,
}

/// How steps are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PetTrain {
    /// Steps for each pattern.
    pub steps: u64,
    /// Steps on soft labels; default: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_steps: Option<u64>,
    /// Examples of a step.
    pub batch: usize,
    /// Arithmetic of the products.
    #[serde(default)]
    pub precision: RecipePrecision,
}

fn label_field() -> String {
    "label".to_owned()
}

fn temperature() -> f32 {
    TEMPERATURE
}

impl PetRecipe {
    /// Reads a recipe and changes what `set` says (`section.key=value`).
    ///
    /// # Errors
    /// Names the key that is unknown or has a wrong value.
    pub fn read(path: &Path, set: &[String]) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TrainError::Read { path: path.to_path_buf(), source })?;
        let recipe: Self = parse_as(&text, path, set)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    /// If a path is not UTF-8.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        as_toml(self, &self.output)
    }

    fn check(&self) -> Result<(), TrainError> {
        let (pet, train) = (&self.pet, &self.train);
        let checks = [
            (pet.patterns.is_empty(), "pet.patterns", "none".to_owned(), "at least one pattern"),
            (
                pet.final_pattern >= pet.patterns.len(),
                "pet.final_pattern",
                pet.final_pattern.to_string(),
                "the index of a pattern, from 0",
            ),
            (
                !(pet.temperature > 0.0 && pet.temperature.is_finite()),
                "pet.temperature",
                pet.temperature.to_string(),
                "a number above 0",
            ),
            (train.batch == 0, "train.batch", "0".to_owned(), "at least 1 example"),
            (
                !(self.optimizer.lr.is_finite() && self.optimizer.lr >= 0.0),
                "optimizer.lr",
                self.optimizer.lr.to_string(),
                "a number that is not negative",
            ),
        ];
        match checks.into_iter().find(|(wrong, ..)| *wrong) {
            Some((_, key, value, expected)) => Err(TrainError::Setting { key, value, expected }),
            None => Ok(()),
        }
    }
}
