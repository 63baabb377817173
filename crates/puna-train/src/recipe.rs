//! Runs as data: a TOML file with every setting of a run. Unknown keys are errors.

use std::path::{Path, PathBuf};

use puna_data::sft::{Packing, SftFormat, TooLong, ToolStyle, TrainOn, Unusable};
use puna_model::{Precision, Recompute};
use puna_peft::AdapterConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{OptimizerConfig, Schedule, TrainError};

/// What is trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Predicting the next token of prepared text.
    Pretrain,
    /// Answering in conversations.
    Sft,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is trained for.
    pub task: Task,
    /// Folder of the run: metrics, checkpoints, curves, the final model.
    pub output: PathBuf,
    /// Seed of weights, order and samples.
    #[serde(default)]
    pub seed: u64,
    /// The model.
    pub model: ModelSection,
    /// What is trained instead of the model, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterConfig>,
    /// The data.
    pub data: DataSection,
    /// How steps are made.
    pub train: TrainSection,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// The learning rate over the run.
    #[serde(default)]
    pub schedule: Schedule,
    /// The loss.
    #[serde(default)]
    pub loss: LossSection,
    /// What is saved.
    #[serde(default)]
    pub checkpoint: CheckpointSection,
    /// What is shown and recorded.
    #[serde(default)]
    pub log: LogSection,
}

/// The model to begin with: `from`, or `config` and `tokenizer`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// A model to go on from: a folder or a file in any format.
    pub from: Option<PathBuf>,
    /// A Hugging Face `config.json` of a model to begin with random weights.
    pub config: Option<PathBuf>,
    /// Folder or file of its tokenizer; default: the one the data was prepared with.
    pub tokenizer: Option<PathBuf>,
    /// Standard deviation of random matrices.
    pub init_std: Option<f64>,
    /// Whether random matrices that write to the residual stream are divided by `sqrt(2 layers)`.
    pub scale_residual: bool,
}

/// The data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSection {
    /// Pretraining: a folder of `puna data prepare`. SFT: json or jsonl files.
    #[serde(skip_serializing_if = "Paths::is_none")]
    pub train: Paths,
    /// The same for validation; default: the held-out part of `train`.
    #[serde(skip_serializing_if = "Paths::is_none")]
    pub validation: Paths,
    /// Tokens of a row.
    pub sequence_length: usize,
    /// Whether the order changes with the seed; otherwise it is that of the files.
    pub shuffle: Option<bool>,
    /// Pretraining: whether documents that share a row are kept from seeing each other.
    pub document_mask: bool,
    /// SFT: share of conversations held out, if `validation` is empty.
    pub validation_fraction: Option<f64>,
    /// SFT: the format of the files; default: found out from their keys.
    pub format: Option<SftFormat>,
    /// SFT: what is trained.
    pub train_on: TrainOn,
    /// SFT: what happens to conversations longer than a row.
    pub too_long: TooLong,
    /// SFT: whether conversations share rows.
    pub packing: Packing,
    /// SFT: what happens to records that cannot be used.
    pub unusable: Unusable,
    /// SFT: how functions and calls are written, for templates that have no place for them.
    pub tools: ToolStyle,
    /// SFT: name of a built-in chat template or a file, for models that have none.
    pub template: Option<String>,
}

/// One path or several.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Paths {
    /// None.
    #[default]
    None,
    /// One.
    One(PathBuf),
    /// Several.
    Many(Vec<PathBuf>),
}

impl Paths {
    fn is_none(&self) -> bool {
        *self == Paths::None
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[PathBuf] {
        match self {
            Paths::None => &[],
            Paths::One(path) => std::slice::from_ref(path),
            Paths::Many(paths) => paths,
        }
    }
}

/// Arithmetic of the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipePrecision {
    /// Operands rounded to bfloat16, sums, weights and everything else in float32.
    #[default]
    Bf16,
    /// Float32 throughout.
    F32,
}

impl From<RecipePrecision> for Precision {
    fn from(precision: RecipePrecision) -> Self {
        match precision {
            RecipePrecision::Bf16 => Precision::Fast,
            RecipePrecision::F32 => Precision::Exact,
        }
    }
}

/// What is computed twice to save memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecomputeSection {
    /// Nothing.
    #[default]
    None,
    /// Every block.
    Block,
}

impl From<RecomputeSection> for Recompute {
    fn from(recompute: RecomputeSection) -> Self {
        match recompute {
            RecomputeSection::None => Recompute::Nothing,
            RecomputeSection::Block => Recompute::Blocks,
        }
    }
}

/// How steps are made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSection {
    /// Optimizer steps; or `tokens` or `epochs`.
    pub steps: Option<u64>,
    /// Tokens to see, rounded up to whole steps.
    pub tokens: Option<u64>,
    /// Passes over the data, rounded up to whole steps.
    pub epochs: Option<f64>,
    /// Rows per optimizer step, over all processes.
    pub batch_sequences: u64,
    /// Rows at a time; default: `batch_sequences`.
    pub micro_batch: Option<u64>,
    /// Arithmetic of the products.
    pub precision: RecipePrecision,
    /// What is computed twice to save memory.
    pub recompute: RecomputeSection,
    /// Where to compute: `auto` (the default: the first GPU if puna was built with the feature `cuda`
    /// and finds one, else the CPU), `cpu`, `cuda` or `cuda:N`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// The loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossSection {
    /// Factor of the squared logarithm of the softmax's sum (PaLM has 1e-4).
    pub z_loss: f64,
    /// Factor of the load-balancing loss of mixtures of experts (Switch Transformers has 0.01).
    pub load_balance: f64,
}

impl Default for LossSection {
    fn default() -> Self {
        Self { z_loss: 0.0, load_balance: 0.01 }
    }
}

/// Type of the final model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveType {
    /// bfloat16.
    #[default]
    Bf16,
    /// IEEE half.
    F16,
    /// Float32.
    F32,
}

/// What is saved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSection {
    /// Steps between checkpoints; 0: only at the end and when stopped.
    pub every_steps: u64,
    /// Newest checkpoints that are kept.
    pub keep_last: usize,
    /// Type of the final model's weights; checkpoints have float32.
    pub save_type: SaveType,
}

impl Default for CheckpointSection {
    fn default() -> Self {
        Self { every_steps: 500, keep_last: 2, save_type: SaveType::Bf16 }
    }
}

/// What is shown and recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// Steps between validations; 0: only at the end.
    pub validate_every_steps: u64,
    /// Rows of a validation at most; 0: all.
    pub validation_rows: u64,
    /// Steps between samples; 0: none.
    pub sample_every_steps: u64,
    /// What samples begin with.
    pub sample_prompts: Vec<String>,
    /// Tokens of a sample.
    pub sample_tokens: usize,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            validate_every_steps: 0,
            validation_rows: 0,
            sample_every_steps: 0,
            sample_prompts: Vec::new(),
            sample_tokens: 64,
        }
    }
}

impl Recipe {
    /// Reads a recipe and changes what `set` says (`section.key=value`, the value in TOML or a plain
    /// word).
    ///
    /// # Errors
    /// Names the key that is unknown or has a wrong value.
    pub fn read(path: &Path, set: &[String]) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TrainError::Read { path: path.to_path_buf(), source })?;
        Self::parse(&text, path, set)
    }

    /// [`Self::read`] of a text.
    ///
    /// # Errors
    /// As there.
    pub fn parse(text: &str, path: &Path, set: &[String]) -> Result<Self, TrainError> {
        let recipe: Recipe = parse_as(text, path, set)?;
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
        let setting =
            |key, value: String, expected| Err(TrainError::Setting { key, value, expected });
        let train = &self.train;
        if train.batch_sequences == 0 {
            return setting("train.batch_sequences", "0".into(), "at least 1 row per step");
        }
        let micro = train.micro_batch.unwrap_or(train.batch_sequences);
        if micro == 0 || micro > train.batch_sequences {
            return setting("train.micro_batch", micro.to_string(), "1 to batch_sequences");
        }
        if self.data.sequence_length == 0 {
            return setting("data.sequence_length", "0".into(), "at least 1 token per row");
        }
        if self.data.train.all().is_empty() {
            return setting("data.train", "nothing".into(), "where the data is");
        }
        let lengths = [train.steps.is_some(), train.tokens.is_some(), train.epochs.is_some()];
        if lengths.iter().filter(|&&given| given).count() != 1 {
            let given = format!("{:?}, {:?}, {:?}", train.steps, train.tokens, train.epochs);
            return setting("train.steps, tokens, epochs", given, "exactly one of them");
        }
        if self.model.from.is_some() == self.model.config.is_some() {
            return setting(
                "model.from, model.config",
                "both or none".into(),
                "from (a model to go on from) or config (a model to begin)",
            );
        }
        let numbers = [
            ("optimizer.lr", self.optimizer.lr),
            ("optimizer.weight_decay", self.optimizer.weight_decay),
            ("optimizer.clip", self.optimizer.clip),
            ("loss.z_loss", self.loss.z_loss),
            ("loss.load_balance", self.loss.load_balance),
        ];
        for (key, value) in numbers {
            if !(value.is_finite() && value >= 0.0) {
                return setting(key, value.to_string(), "a number that is not negative");
            }
        }
        for (key, beta) in
            [("optimizer.betas", self.optimizer.betas)].iter().flat_map(|(k, b)| b.map(|b| (*k, b)))
        {
            if !(0.0..1.0).contains(&beta) {
                return setting(key, beta.to_string(), "from 0 to below 1");
            }
        }
        Ok(())
    }

    /// Optimizer steps of the run.
    #[must_use]
    pub fn steps(&self, rows_per_epoch: u64) -> u64 {
        let rows = self.train.batch_sequences;
        let tokens = rows * self.data.sequence_length as u64;
        match (self.train.steps, self.train.tokens, self.train.epochs) {
            (Some(steps), ..) => steps,
            (_, Some(total), _) => total.div_ceil(tokens),
            (.., epochs) => {
                (epochs.unwrap_or(1.0) * rows_per_epoch as f64 / rows as f64).ceil() as u64
            }
        }
    }
}

/// A recipe of some kind from a text, changed by what `set` says.
pub(crate) fn parse_as<T: DeserializeOwned>(
    text: &str,
    path: &Path,
    set: &[String],
) -> Result<T, TrainError> {
    let wrong = |problem: String| TrainError::Recipe { path: path.to_path_buf(), problem };
    if set.is_empty() {
        // As a whole: errors then have a place in the text.
        return toml::from_str(text).map_err(|error| wrong(error.to_string()));
    }
    let mut table: toml::Table = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
    for setting in set {
        apply(&mut table, setting)
            .map_err(|problem| wrong(format!("--set {setting}: {problem}")))?;
    }
    table.try_into().map_err(|error: toml::de::Error| wrong(error.to_string()))
}

/// A recipe of some kind as TOML; an error names its output.
pub(crate) fn as_toml(recipe: &impl Serialize, output: &Path) -> Result<String, TrainError> {
    toml::to_string(recipe).map_err(|error| TrainError::Recipe {
        path: output.to_path_buf(),
        problem: error.to_string(),
    })
}

/// `section.key=value` into a table.
pub(crate) fn apply(table: &mut toml::Table, setting: &str) -> Result<(), String> {
    let (key, value) = setting.split_once('=').ok_or("expected section.key=value")?;
    let value: toml::Value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().ok_or("expected section.key=value")?;
    let mut at = table;
    for part in parts {
        let next = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = next.as_table_mut().ok_or_else(|| format!("{part} is no section"))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        task = "pretrain"
        output = "run"
        [model]
        from = "model"
        [data]
        train = "tokens"
        sequence_length = 64
        [train]
        steps = 10
        batch_sequences = 8
        [optimizer]
        name = "muon"
        lr = 1e-3
    "#;

    fn parse(text: &str, set: &[&str]) -> Result<Recipe, String> {
        let set: Vec<String> = set.iter().map(|&s| s.to_owned()).collect();
        Recipe::parse(text, Path::new("r.toml"), &set).map_err(|e| e.to_string())
    }

    #[test]
    fn a_recipe_is_read_and_settings_change_it() {
        let set = ["train.steps=20", "output=other", "schedule.warmup_steps=3"];
        let recipe = parse(TEXT, &set).unwrap();
        assert_eq!((recipe.steps(100), recipe.output), (20, PathBuf::from("other")));
        assert_eq!(recipe.schedule.warmup_steps, 3);
        assert_eq!(recipe.optimizer.name, crate::OptimizerName::Muon);
    }

    #[test]
    fn every_recipe_of_the_repository_is_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let recipes: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
        assert!(recipes.len() >= 3, "{recipes:?}");
        for path in recipes {
            let mut table: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
            if table.contains_key("pet") {
                crate::pet::PetRecipe::read(&path, &[]).unwrap();
                continue;
            }
            // What `puna compare-adapters` takes out of its recipes.
            for section in table.remove("compare").iter().flat_map(|list| list.as_array().unwrap())
            {
                let mut section = section.as_table().unwrap().clone();
                section.retain(|key, _| key != "name" && key != "lr");
                section.try_into::<AdapterConfig>().unwrap();
            }
            // And `puna sweep`, which decides the rest itself.
            let mut set = Vec::new();
            if let Some(section) = table.remove("sweep") {
                section.try_into::<crate::sweep::SweepSection>().unwrap();
                let decided = ["model.config=c.json", "train.steps=50", "train.batch_sequences=1"];
                set.extend(decided.map(str::to_owned));
            }
            Recipe::parse(&table.to_string(), &path, &set).unwrap();
        }
    }

    #[test]
    fn a_written_recipe_reads_as_itself() {
        let recipe = parse(TEXT, &[]).unwrap();
        assert_eq!(parse(&recipe.to_toml().unwrap(), &[]).unwrap(), recipe);
    }

    #[test]
    fn tokens_and_epochs_become_steps() {
        let tokens = TEXT.replace("steps = 10", "tokens = 1025");
        assert_eq!(parse(&tokens, &[]).unwrap().steps(0), 3);
        let epochs = TEXT.replace("steps = 10", "epochs = 1.5");
        assert_eq!(parse(&epochs, &[]).unwrap().steps(100), 19);
    }

    #[test]
    fn unknown_keys_and_senseless_values_are_named() {
        for (text, set, named) in [
            (TEXT, "train.stepz=3", "stepz"),
            (TEXT, "optimizer.name=sgd", "sgd"),
            (TEXT, "train.batch_sequences=0", "train.batch_sequences"),
            (TEXT, "train.micro_batch=9", "train.micro_batch"),
            (TEXT, "train.tokens=9", "exactly one"),
            (TEXT, "model.config=c", "model.from"),
            (TEXT, "optimizer.lr=nan", "optimizer.lr"),
            (TEXT, "task", "section.key=value"),
        ] {
            let problem = parse(text, &[set]).unwrap_err();
            assert!(problem.contains(named), "{set}: {problem}");
        }
        assert!(parse("task = 3", &[]).unwrap_err().starts_with("r.toml: "));
    }
}
