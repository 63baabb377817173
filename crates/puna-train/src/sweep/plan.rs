//! The runs of a sweep.

use std::path::{Path, PathBuf};

use puna_data::{Split, TokenData};
use serde::{Deserialize, Serialize};

use super::{Shape, SweepSection};
use crate::{Recipe, ScheduleName, TrainError};

/// Steps below which a run is no training.
const LEAST_STEPS: u64 = 50;

/// What the sweep decides, and a recipe therefore must not.
const DECIDED: [(&str, &str); 9] = [
    ("model", "from"),
    ("model", "config"),
    ("train", "steps"),
    ("train", "tokens"),
    ("train", "epochs"),
    ("train", "batch_sequences"),
    ("optimizer", "lr"),
    ("schedule", "name"),
    ("schedule", "warmup_steps"),
];

/// A sweep: its section, and the recipe that all runs share.
#[derive(Debug, Clone)]
pub struct SweepPlan {
    /// The section.
    pub section: SweepSection,
    /// Folder of the sweep.
    pub output: PathBuf,
    base: toml::Table,
    path: PathBuf,
    set: Vec<String>,
    /// Tokens of the vocabulary, of a row, of the training data.
    vocab: usize,
    row: usize,
    unique_tokens: u64,
}

/// A model and what it is trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepRun {
    /// Name of its folder.
    pub name: String,
    /// The budget it belongs to, in FLOPs.
    pub budget_flops: f64,
    /// Its shape.
    pub shape: Shape,
    /// Entries of the matrices that are multiplied: N.
    pub params_matmul: u64,
    /// All values.
    pub params_total: u64,
    /// Tokens it sees: D, whole steps.
    pub tokens: u64,
    /// Tokens seen per token of the data.
    pub epochs: f64,
    /// 6 N D.
    pub flops_6nd: f64,
    /// Matrices and attention, forward and backward, all positions as long as they are.
    pub flops_exact: f64,
    /// Tokens of a step.
    pub batch_tokens: u64,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps.
    pub steps: u64,
}

impl SweepPlan {
    /// Reads a recipe with a `[sweep]` section.
    ///
    /// # Errors
    /// If it cannot be read, a value makes no sense, a key is given that the sweep decides, or the
    /// data cannot be opened.
    pub fn read(path: &Path, set: &[String]) -> Result<Self, TrainError> {
        let wrong = |problem: String| TrainError::Recipe { path: path.to_path_buf(), problem };
        let text = std::fs::read_to_string(path)
            .map_err(|source| TrainError::Read { path: path.to_path_buf(), source })?;
        let mut base: toml::Table =
            toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let (own, set): (Vec<_>, Vec<_>) =
            set.iter().cloned().partition(|setting| setting.starts_with("sweep."));
        for setting in &own {
            crate::recipe::apply(&mut base, setting)
                .map_err(|problem| wrong(format!("--set {setting}: {problem}")))?;
        }
        let section = base
            .remove("sweep")
            .ok_or_else(|| wrong("no [sweep] section; recipes/sweep.toml has one".into()))?;
        let section: SweepSection =
            section.try_into().map_err(|e| wrong(format!("[sweep]: {e}")))?;
        section.check()?;
        for (table, key) in DECIDED {
            let given = base.get(table).and_then(|table| table.get(key)).is_some();
            let set = set.iter().any(|setting| setting.starts_with(&format!("{table}.{key}=")));
            if given || set {
                return Err(wrong(format!(
                    "{table}.{key} is what the sweep decides: leave it out"
                )));
            }
        }
        let mut plan = Self {
            section,
            output: PathBuf::new(),
            base,
            path: path.to_path_buf(),
            set,
            vocab: 0,
            row: 0,
            unique_tokens: 0,
        };
        // Everything else of the recipe, with something for what is decided later.
        let recipe = plan.parse((Path::new("config.json"), 1, 1, 1.0, 0))?;
        let folder = recipe.data.train.all().first().cloned().unwrap_or_default();
        let data = TokenData::open(&folder)?;
        plan.vocab = data.vocab_size();
        plan.row = recipe.data.sequence_length;
        plan.unique_tokens = data.tokens(Split::Train);
        plan.output = recipe.output;
        Ok(plan)
    }

    /// The runs, budget by budget, small models first.
    ///
    /// # Errors
    /// If a budget is too small for its models.
    pub fn runs(&self) -> Result<Vec<SweepRun>, TrainError> {
        let section = &self.section;
        let mut runs = Vec::new();
        for &budget in &section.budgets {
            let middle = (budget / (6.0 * section.tokens_per_param)).sqrt();
            let mut shapes: Vec<Shape> = Vec::new();
            for index in 0..section.sizes {
                let steps = index as f64 - (section.sizes - 1) as f64 / 2.0;
                let params = middle * section.ratio.powf(steps);
                let shape = section.shape.nearest(params, (self.vocab, self.row))?;
                // Small sizes are coarse: the next one, where two are the same.
                let shape = match shapes.last() {
                    Some(last) if last.hidden >= shape.hidden => {
                        section.shape.of_hidden(last.hidden + section.shape.hidden_multiple.max(1))
                    }
                    _ => shape,
                };
                shapes.push(shape);
            }
            for shape in shapes {
                runs.push(self.run(budget, shape)?);
            }
        }
        Ok(runs)
    }

    /// The run of a budget that trains the model nearest to a size.
    ///
    /// # Errors
    /// As [`Self::runs`].
    pub fn run_of_size(&self, budget: f64, params: f64) -> Result<SweepRun, TrainError> {
        let shape = self.section.shape.nearest(params, (self.vocab, self.row))?;
        self.run(budget, shape)
    }

    fn run(&self, budget: f64, shape: Shape) -> Result<SweepRun, TrainError> {
        let (_, config) = self.section.shape.config(shape, (self.vocab, self.row))?;
        let parameters = config.decoder.parameters();
        let params = parameters.matmul as f64;
        let rows = (self.section.batch_tokens.at(budget) / self.row as f64).round().max(1.0) as u64;
        let batch_tokens = rows * self.row as u64;
        let steps = (budget / (6.0 * params) / batch_tokens as f64).round() as u64;
        if steps < LEAST_STEPS {
            let value = format!("{budget:e} for {params} parameters ({steps} steps)");
            let expected =
                "more compute, fewer sizes or a smaller ratio: a run has 50 steps at least";
            return Err(TrainError::Setting { key: "sweep.budgets", value, expected });
        }
        let tokens = steps * batch_tokens;
        let forward = config.decoder.prefill_flops(0, self.row, self.row) as f64 / self.row as f64;
        Ok(SweepRun {
            name: format!("{budget:.2e}-{}x{}", shape.hidden, shape.layers),
            budget_flops: budget,
            shape,
            params_matmul: parameters.matmul,
            params_total: parameters.total,
            tokens,
            epochs: tokens as f64 / self.unique_tokens as f64,
            flops_6nd: 6.0 * params * tokens as f64,
            // Backward makes two products for each one of forward.
            flops_exact: 3.0 * forward * tokens as f64,
            batch_tokens,
            lr: self.section.lr.at(budget),
            steps,
        })
    }

    /// The config of a run's model, as `config.json` has it.
    ///
    /// # Errors
    /// If the shape is none.
    pub fn config(&self, run: &SweepRun) -> Result<String, TrainError> {
        Ok(self.section.shape.config(run.shape, (self.vocab, self.row))?.0)
    }

    /// The recipe of a run whose config lies at `config`, into the folder `output`.
    ///
    /// # Errors
    /// If the base makes no recipe.
    pub fn recipe(
        &self,
        run: &SweepRun,
        config: &Path,
        output: PathBuf,
    ) -> Result<Recipe, TrainError> {
        let warmup = (run.steps as f64 * self.section.warmup_fraction).ceil() as u64;
        let rows = run.batch_tokens / self.row as u64;
        let mut recipe = self.parse((config, run.steps, rows, run.lr, warmup))?;
        recipe.schedule.name = ScheduleName::Cosine;
        recipe.schedule.final_lr_fraction = self.section.final_lr_fraction;
        recipe.output = output;
        Ok(recipe)
    }

    fn parse(
        &self,
        (config, steps, rows, lr, warmup): (&Path, u64, u64, f64, u64),
    ) -> Result<Recipe, TrainError> {
        let mut table = self.base.clone();
        let mut put = |section: &str, key: &str, value: toml::Value| {
            let entry = table.entry(section).or_insert_with(|| toml::Table::new().into());
            if let Some(section) = entry.as_table_mut() {
                section.insert(key.to_owned(), value);
            }
        };
        put("model", "config", config.to_string_lossy().into_owned().into());
        put("train", "steps", (steps as i64).into());
        put("train", "batch_sequences", (rows as i64).into());
        put("optimizer", "lr", lr.into());
        put("schedule", "warmup_steps", (warmup as i64).into());
        Recipe::parse(&table.to_string(), &self.path, &self.set)
    }

    /// Tokens of the training data.
    #[must_use]
    pub fn unique_tokens(&self) -> u64 {
        self.unique_tokens
    }
}

impl SweepSection {
    fn check(&self) -> Result<(), TrainError> {
        let wrong =
            |key, value: String, expected| Err(TrainError::Setting { key, value, expected });
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if self.budgets.is_empty() || !self.budgets.iter().all(|&budget| positive(budget)) {
            let value = format!("{:?}", self.budgets);
            return wrong("sweep.budgets", value, "positive numbers of FLOPs, at least one");
        }
        if !self.budgets.is_sorted_by(|a, b| a < b) {
            return wrong("sweep.budgets", format!("{:?}", self.budgets), "rising numbers");
        }
        if !(1..=100).contains(&self.sizes) {
            return wrong("sweep.sizes", self.sizes.to_string(), "1 to 100 models per budget");
        }
        if !(self.ratio.is_finite() && self.ratio > 1.0) {
            return wrong("sweep.ratio", self.ratio.to_string(), "a number above 1");
        }
        if !positive(self.tokens_per_param) {
            return wrong("sweep.tokens_per_param", self.tokens_per_param.to_string(), "above 0");
        }
        if self.held_out.is_some_and(|held_out| !positive(held_out)) {
            return wrong("sweep.held_out", format!("{:?}", self.held_out), "FLOPs, above 0");
        }
        for (key, rule) in [("sweep.lr", self.lr), ("sweep.batch_tokens", self.batch_tokens)] {
            if !(positive(rule.coefficient) && rule.exponent.is_finite()) {
                return wrong(key, format!("{rule:?}"), "a positive coefficient and an exponent");
            }
        }
        let shares = [
            ("sweep.warmup_fraction", self.warmup_fraction),
            ("sweep.final_lr_fraction", self.final_lr_fraction),
        ];
        for (key, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return wrong(key, share.to_string(), "0 to 1");
            }
        }
        let shape = &self.shape;
        if shape.hidden_multiple < 2 || !shape.hidden_multiple.is_multiple_of(2) {
            let value = shape.hidden_multiple.to_string();
            return wrong("sweep.shape.hidden_multiple", value, "an even number");
        }
        if !positive(shape.hidden_per_layer) || shape.head_dim == 0 || shape.min_layers == 0 {
            let value = format!("{shape:?}");
            let expected = "hidden_per_layer, min_layers and head_dim above 0";
            return wrong("sweep.shape", value, expected);
        }
        Ok(())
    }
}
