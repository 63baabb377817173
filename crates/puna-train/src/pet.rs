//! Classification by cloze questions (PET, arXiv:2001.07676), from a recipe: an adapter for every pattern,
//! trained on few labeled examples; soft labels for unlabeled ones from all of them; an adapter that is
//! trained on those.
//!
//! The last model of the paper is a classifier with a head of its own over a masked model's first state;
//! here it is one over the state behind one of the patterns, with the rows of the labels' words as its
//! head, as the models before it are. What a pattern, a verbalizer and the losses are is in
//! [`puna_peft::pet`].

mod examples;
mod recipe;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use puna_io::AtomicFile;
use puna_model::{LoadOptions, Model, Precision, Recompute, Stage, TrainingPass, tokenizer};
use puna_nn::Pass;
use puna_peft::pet::{ClozeLoss, ClozeRows, Verbalizer, average_scores, label_probabilities};
use puna_peft::{AdapterSet, Base, BaseIdentity, Method};
use puna_text::{SpecialTokens, Tokenizer};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::{Member, Optimizer, TrainError, clip_factor};

use examples::{Example, Pattern, read};
pub use recipe::{PatternWeights, PetRecipe, PetSection, PetTrain};

/// In an output: a copy of the recipe that it was made by, soft labels, and what came of the run.
const RECIPE: &str = "recipe.toml";
const SOFT_LABELS: &str = "soft_labels.jsonl";
const RESULT: &str = "pet.json";

/// What a run tells while it goes on.
#[derive(Debug, Clone, Copy)]
pub enum PetEvent<'a> {
    /// A step of what is trained for a pattern (`None`: on soft labels).
    Step {
        /// The pattern.
        pattern: Option<usize>,
        /// Steps done, and all.
        step: (u64, u64),
        /// Mean loss of the step's examples.
        loss: f64,
    },
    /// A pattern's adapter was there already.
    Found(&'a Path),
    /// Unlabeled examples got labels.
    Labeled(usize),
}

/// What came of a pattern.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PatternResult {
    /// The pattern.
    pub pattern: String,
    /// Share of the labeled examples that the model without an adapter labels right.
    pub train_before: f64,
    /// The same behind training.
    pub train: f64,
    /// Share of the test's examples before training.
    pub test_before: Option<f64>,
    /// The same behind training.
    pub test: Option<f64>,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PetResult {
    /// Labeled, unlabeled and test examples.
    pub examples: [usize; 3],
    /// Of the patterns alone.
    pub patterns: Vec<PatternResult>,
    /// Share of the test's examples that the patterns' average labels right.
    pub ensemble: Option<f64>,
    /// The same of what was trained on soft labels.
    pub distilled: Option<f64>,
}

/// A label for an example.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Classified {
    /// The label.
    pub label: String,
    /// Probabilities of all labels, in their order.
    pub probabilities: Vec<f32>,
    /// What the file says, if it says anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
}

/// A model with its questions.
struct Questions<'a> {
    recipe: &'a PetRecipe,
    model: Model,
    tokenizer: Tokenizer,
    patterns: Vec<Pattern>,
    verbalizer: Verbalizer,
}

/// An adapter, and what it makes of the layers with the words' head.
struct Trained {
    method: Box<dyn Method>,
    set: Arc<AdapterSet>,
}

/// Trains a recipe's adapters; what its output has already is not made again, or removed first where the
/// run is to begin anew.
///
/// # Errors
/// If model or data cannot be read, they do not fit the patterns, the output is of another recipe, or
/// `stop` says so.
pub fn train(
    recipe: &PetRecipe,
    anew: bool,
    stop: impl Fn() -> bool,
    mut tell: impl FnMut(PetEvent<'_>),
) -> Result<PetResult, TrainError> {
    let questions = Questions::new(recipe)?;
    let read = |path: &Path| read(path, recipe, &questions.patterns);
    let labeled = read(&recipe.pet.train)?;
    if let Some(without) = labeled.iter().find(|example| example.label.is_none()) {
        return Err(without.problem(&recipe.pet.train, "has no label".to_owned()));
    }
    let optional = |path: &Option<PathBuf>| match path {
        None => Ok(Vec::new()),
        Some(path) => read(path),
    };
    let (unlabeled, test) = (optional(&recipe.pet.unlabeled)?, optional(&recipe.pet.test)?);
    // Not before model and data are known to be right.
    if anew {
        remove(recipe)?;
    }
    questions.take_output()?;
    let mut run = Run { questions: &questions, stop: &stop, tell: &mut tell };
    let mut results = Vec::new();
    // Scores `[patterns][examples][labels]`.
    let (mut of_unlabeled, mut of_test) = (Vec::new(), Vec::new());
    let before = questions.bare()?;
    for (index, pattern) in questions.patterns.iter().enumerate() {
        let train_before = questions.accuracy(&before, index, &labeled)?;
        let test_before = questions.accuracy_of_some(&before, index, &test)?;
        let trained = run.of_pattern(index, &labeled)?;
        of_unlabeled.push(questions.scores(&trained.set, index, &unlabeled)?);
        of_test.push(questions.scores(&trained.set, index, &test)?);
        results.push(PatternResult {
            pattern: pattern.text().to_owned(),
            train_before,
            train: questions.accuracy(&trained.set, index, &labeled)?,
            test_before,
            test: (!test.is_empty()).then(|| right(&of_test[index], &test)),
        });
    }
    let weights = weights(recipe, &results);
    let average = |scores: &[Vec<Vec<f32>>], n: usize| {
        let of_patterns: Vec<Vec<f32>> = scores.iter().map(|all| all[n].clone()).collect();
        average_scores(&of_patterns, weights.as_deref())
    };
    let ensemble: Vec<Vec<f32>> =
        (0..test.len()).map(|n| average(&of_test, n)).collect::<Result<_, _>>()?;
    let soft: Vec<Vec<f32>> = (0..unlabeled.len())
        .map(|n| Ok(label_probabilities(&average(&of_unlabeled, n)?, recipe.pet.temperature)))
        .collect::<Result<_, TrainError>>()?;
    let mut distilled = None;
    if !soft.is_empty() {
        questions.write_soft(&unlabeled, &soft)?;
        (run.tell)(PetEvent::Labeled(soft.len()));
        let last = run.of_soft_labels(&unlabeled, &soft)?;
        distilled = questions.accuracy_of_some(&last.set, recipe.pet.final_pattern, &test)?;
    }
    let result = PetResult {
        examples: [labeled.len(), unlabeled.len(), test.len()],
        patterns: results,
        ensemble: (!test.is_empty()).then(|| right(&ensemble, &test)),
        distilled,
    };
    let json = serde_json::to_string_pretty(&result).unwrap_or_default();
    write(&recipe.output.join(RESULT), json.as_bytes())?;
    Ok(result)
}

/// What patterns count in their average; `None`: all the same, as also where none was any good.
fn weights(recipe: &PetRecipe, results: &[PatternResult]) -> Option<Vec<f32>> {
    match recipe.pet.weights {
        PatternWeights::Equal => None,
        // As in the paper: how good a pattern is before any training.
        PatternWeights::Accuracy => {
            let all: Vec<f32> = results.iter().map(|r| r.train_before as f32).collect();
            (all.iter().sum::<f32>() > 0.0).then_some(all)
        }
    }
}

/// Removes what a run left in a recipe's output.
fn remove(recipe: &PetRecipe) -> Result<(), TrainError> {
    let output = &recipe.output;
    if !output.join(RECIPE).is_file() {
        return Ok(());
    }
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| TrainError::File { action: "remove", path, source }
    };
    for entry in std::fs::read_dir(output).map_err(failed(output))? {
        let path = entry.map_err(failed(output))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = name.strip_suffix(".partial").unwrap_or(&name);
        let number =
            folder.strip_prefix("pattern-").and_then(|number| number.parse::<usize>().ok());
        if path.is_dir() && (number.is_some() || folder == "final") {
            std::fs::remove_dir_all(&path).map_err(failed(&path))?;
        } else if [RECIPE, SOFT_LABELS, RESULT].contains(&name.as_str()) {
            std::fs::remove_file(&path).map_err(failed(&path))?;
        }
    }
    Ok(())
}

/// Labels the examples of a file by a recipe's output: by what was trained on soft labels, or by all
/// patterns where there were no unlabeled examples.
///
/// # Errors
/// If there is no such output, or the file does not fit the patterns.
pub fn classify(recipe: &PetRecipe, path: &Path) -> Result<Vec<Classified>, TrainError> {
    let questions = Questions::new(recipe)?;
    questions.check_output()?;
    let patterns = match recipe.pet.unlabeled {
        Some(_) => vec![(recipe.pet.final_pattern, questions.folder(None))],
        None => (0..questions.patterns.len()).map(|i| (i, questions.folder(Some(i)))).collect(),
    };
    let examples = read(path, recipe, &questions.patterns)?;
    let mut scores = Vec::new();
    for (index, folder) in patterns {
        let trained = questions.adapter(puna_peft::load(&folder, &questions.base())?)?;
        scores.push(questions.scores(&trained.set, index, &examples)?);
    }
    let weights = match scores.len() {
        1 => None,
        _ => weights(recipe, &questions.result()?.patterns),
    };
    let names: Vec<&String> = recipe.pet.labels.keys().collect();
    let label = |n: usize, example: &Example| {
        let of_patterns: Vec<Vec<f32>> = scores.iter().map(|all| all[n].clone()).collect();
        let probabilities =
            label_probabilities(&average_scores(&of_patterns, weights.as_deref())?, 1.0);
        let label = names[largest(&probabilities)].clone();
        let given = example.label.map(|label| names[label].clone());
        Ok(Classified { label, probabilities, given })
    };
    examples.iter().enumerate().map(|(n, example)| label(n, example)).collect()
}

impl<'a> Questions<'a> {
    fn new(recipe: &'a PetRecipe) -> Result<Self, TrainError> {
        let model = Model::load(&recipe.model, &LoadOptions::new(Precision::Exact))?;
        let Some(tokenizer) = tokenizer(&model.checkpoint)? else {
            let value = recipe.model.display().to_string();
            let expected = "a model with a tokenizer";
            return Err(TrainError::Setting { key: "model", value, expected });
        };
        let mut words = Vec::new();
        for (label, word) in &recipe.pet.labels {
            let tokens = tokenizer.encode(word, SpecialTokens::Omit)?;
            if tokens.len() != 1 {
                let value = format!("{label} = {word:?} ({} tokens)", tokens.len());
                let expected = "a word of one token for each label";
                return Err(TrainError::Setting { key: "pet.labels", value, expected });
            }
            words.push(tokens);
        }
        let verbalizer = Verbalizer::new(&words, model.config.decoder.vocab_size)?;
        let patterns = recipe.pet.patterns.iter().map(|text| Pattern::parse(text));
        let patterns = patterns.collect::<Result<_, _>>()?;
        Ok(Self { recipe, model, tokenizer, patterns, verbalizer })
    }

    fn base(&self) -> Base<'_> {
        Base { decoder: &self.model.decoder, config: &self.model.config }
    }

    /// Where an adapter is kept: a pattern's, or that of soft labels.
    fn folder(&self, pattern: Option<usize>) -> PathBuf {
        match pattern {
            Some(index) => self.recipe.output.join(format!("pattern-{}", index + 1)),
            None => self.recipe.output.join("final"),
        }
    }

    /// Claims the output for the recipe.
    fn take_output(&self) -> Result<(), TrainError> {
        let output = &self.recipe.output;
        let failed = |source| TrainError::File { action: "create", path: output.clone(), source };
        std::fs::create_dir_all(output).map_err(failed)?;
        let path = output.join(RECIPE);
        if path.is_file() {
            return self.check_output();
        }
        write(&path, self.recipe.to_toml()?.as_bytes())
    }

    fn check_output(&self) -> Result<(), TrainError> {
        let path = self.recipe.output.join(RECIPE);
        let found = std::fs::read_to_string(&path)
            .map_err(|source| TrainError::Read { path: path.clone(), source })?;
        if found != self.recipe.to_toml()? {
            return Err(TrainError::OtherRecipe { path });
        }
        Ok(())
    }

    /// What came of the run that the output is of.
    fn result(&self) -> Result<PetResult, TrainError> {
        let path = self.recipe.output.join(RESULT);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| TrainError::Read { path: path.clone(), source })?;
        let wrong = |problem: String| TrainError::Recipe { path: path.clone(), problem };
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
    }

    /// The model alone, with the words' head.
    fn bare(&self) -> Result<Arc<AdapterSet>, TrainError> {
        Ok(Arc::new(self.verbalizer.restrict(&self.base(), &AdapterSet::default())?))
    }

    fn adapter(&self, method: Box<dyn Method>) -> Result<Trained, TrainError> {
        let set = puna_peft::combine(&[(&*method, 1.0)])?;
        let set = Arc::new(self.verbalizer.restrict(&self.base(), &set)?);
        Ok(Trained { method, set })
    }

    /// An example as a pattern asks about it.
    fn tokens(&self, pattern: usize, example: &Example) -> Result<Vec<u32>, TrainError> {
        let text = self.patterns[pattern].render(example);
        let tokens = self.tokenizer.encode(&text, SpecialTokens::Add)?;
        let most = self.model.config.decoder.max_seq_len;
        if tokens.len() > most {
            let problem = format!("has {} tokens, the model's context {most}", tokens.len());
            return Err(example.problem(&example.path, problem));
        }
        Ok(tokens)
    }

    /// Scores of the labels, `[examples][labels]`.
    fn scores(
        &self,
        set: &Arc<AdapterSet>,
        pattern: usize,
        examples: &[Example],
    ) -> Result<Vec<Vec<f32>>, TrainError> {
        let adapters = Some(Arc::clone(set));
        let pass = Pass { adapters, ..Pass::new(self.recipe.train.precision.into()) };
        let score =
            |example| Ok(self.model.decoder.next_logits(&self.tokens(pattern, example)?, &pass)?);
        examples.iter().map(score).collect()
    }

    fn accuracy(
        &self,
        set: &Arc<AdapterSet>,
        pattern: usize,
        examples: &[Example],
    ) -> Result<f64, TrainError> {
        Ok(right(&self.scores(set, pattern, examples)?, examples))
    }

    fn accuracy_of_some(
        &self,
        set: &Arc<AdapterSet>,
        pattern: usize,
        examples: &[Example],
    ) -> Result<Option<f64>, TrainError> {
        match examples {
            [] => Ok(None),
            examples => self.accuracy(set, pattern, examples).map(Some),
        }
    }

    fn write_soft(&self, examples: &[Example], soft: &[Vec<f32>]) -> Result<(), TrainError> {
        let names: Vec<&String> = self.recipe.pet.labels.keys().collect();
        let mut lines = String::new();
        for (example, soft) in examples.iter().zip(soft) {
            let mut line = serde_json::Map::new();
            line.extend(example.fields.iter().map(|(k, v)| (k.clone(), v.as_str().into())));
            let labels = names.iter().zip(soft).map(|(name, &p)| ((*name).clone(), p.into()));
            line.insert("labels".to_owned(), serde_json::Value::Object(labels.collect()));
            lines.push_str(&format!("{}\n", serde_json::Value::Object(line)));
        }
        write(&self.recipe.output.join(SOFT_LABELS), lines.as_bytes())
    }
}

/// A run at work.
struct Run<'a, Stop, Tell> {
    questions: &'a Questions<'a>,
    stop: &'a Stop,
    tell: &'a mut Tell,
}

impl<Stop: Fn() -> bool, Tell: FnMut(PetEvent<'_>)> Run<'_, Stop, Tell> {
    /// A pattern's adapter.
    fn of_pattern(&mut self, index: usize, labeled: &[Example]) -> Result<Trained, TrainError> {
        let questions = self.questions;
        let tokens: Vec<(Vec<u32>, usize)> = labeled
            .iter()
            .map(|e| Ok((questions.tokens(index, e)?, e.label.unwrap_or_default())))
            .collect::<Result<_, TrainError>>()?;
        self.trained(Some(index), tokens.len(), questions.recipe.train.steps, |chosen| {
            let rows: Vec<(&[u32], usize)> =
                chosen.iter().map(|&n| (tokens[n].0.as_slice(), tokens[n].1)).collect();
            Ok(ClozeRows::new(&rows, &questions.verbalizer, ClozeLoss::Words)?)
        })
    }

    /// The adapter of soft labels.
    fn of_soft_labels(
        &mut self,
        unlabeled: &[Example],
        soft: &[Vec<f32>],
    ) -> Result<Trained, TrainError> {
        let (questions, pattern) = (self.questions, self.questions.recipe.pet.final_pattern);
        let tokens: Vec<Vec<u32>> = unlabeled
            .iter()
            .map(|example| questions.tokens(pattern, example))
            .collect::<Result<_, _>>()?;
        let train = &questions.recipe.train;
        self.trained(None, tokens.len(), train.final_steps.unwrap_or(train.steps), |chosen| {
            let rows: Vec<(&[u32], &[f32])> =
                chosen.iter().map(|&n| (tokens[n].as_slice(), soft[n].as_slice())).collect();
            Ok(ClozeRows::soft(&rows, &questions.verbalizer, ClozeLoss::Words)?)
        })
    }

    /// Trains an adapter on rows of some examples at a time, or finds it in the output.
    fn trained(
        &mut self,
        pattern: Option<usize>,
        examples: usize,
        steps: u64,
        rows: impl Fn(&[usize]) -> Result<ClozeRows, TrainError>,
    ) -> Result<Trained, TrainError> {
        let (questions, folder) = (self.questions, self.questions.folder(pattern));
        let recipe = questions.recipe;
        if folder.is_dir() {
            (self.tell)(PetEvent::Found(&folder));
            return questions.adapter(puna_peft::load(&folder, &questions.base())?);
        }
        let seed = recipe.seed + pattern.map_or(0, |index| index as u64 + 1);
        let trained = questions.adapter(recipe.adapter.build(&questions.base(), seed)?)?;
        trained.method.check_steps(steps)?;
        let members: Vec<Member> = trained.method.trained().into_iter().map(member).collect();
        let mut optimizer = Optimizer::new(recipe.optimizer, &members);
        let mut order = Order::new(examples, seed);
        let batch = recipe.train.batch.min(examples);
        for step in 0..steps {
            if (self.stop)() {
                return Err(TrainError::Stopped);
            }
            let pass = TrainingPass {
                scale: 1.0 / batch as f32,
                z_loss: 0.0,
                load_balance: 0.0,
                recompute: Recompute::Nothing,
                precision: recipe.train.precision.into(),
                adapters: Some(Arc::clone(&trained.set)),
                seed: seed ^ ((step + 1) << 20),
            };
            let rows = rows(&order.next(batch))?;
            let sum = questions.model.decoder.train_on(&rows.view(), &pass, |_: Stage| ())?;
            trained.method.regularize(1.0)?;
            let (loss, norm) = (sum.loss / batch as f64, optimizer.gradient_squares()?.sqrt());
            for (what, value) in [("loss", loss), ("norm of the gradient", norm)] {
                if !value.is_finite() {
                    let last_row = batch as u64;
                    return Err(TrainError::NotFinite {
                        step,
                        what,
                        value,
                        first_row: 0,
                        last_row,
                    });
                }
            }
            let lr = recipe.schedule.lr(step, steps, recipe.optimizer.lr);
            optimizer.update(lr, clip_factor(norm, recipe.optimizer.clip))?;
            trained.method.after_update(step + 1, steps);
            optimizer.clear_gradients();
            (self.tell)(PetEvent::Step { pattern, step: (step + 1, steps), loss });
        }
        self.save(&trained, &folder)?;
        Ok(trained)
    }

    /// An adapter's folder gets its name when all of it is there.
    fn save(&self, trained: &Trained, folder: &Path) -> Result<(), TrainError> {
        let partial = folder.with_extension("partial");
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| TrainError::File { action, path, source }
        };
        if partial.is_dir() {
            std::fs::remove_dir_all(&partial).map_err(failed("remove", &partial))?;
        }
        let base = self.questions.recipe.model.to_string_lossy();
        let fingerprint = self.questions.model.decoder.fingerprint()?;
        let metadata = [("base".to_owned(), fingerprint)].into();
        puna_peft::save(&*trained.method, &partial, &base, &BaseIdentity { metadata })?;
        std::fs::rename(&partial, folder).map_err(failed("rename", &partial))
    }
}

fn member(trained: puna_peft::Trained) -> Member {
    let (parameter, lr_factor) = (trained.parameter, trained.lr_factor);
    Member { parameter, stage: Stage::Embedding, in_block: true, lr_factor }
}

/// Examples in an order that changes with every pass over them.
struct Order {
    order: Vec<usize>,
    at: usize,
    rng: ChaCha8Rng,
}

impl Order {
    fn new(examples: usize, seed: u64) -> Self {
        Self { order: (0..examples).collect(), at: examples, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    fn next(&mut self, count: usize) -> Vec<usize> {
        let mut chosen = Vec::with_capacity(count);
        while chosen.len() < count {
            if self.at == self.order.len() {
                // Fisher and Yates.
                for last in (1..self.order.len()).rev() {
                    self.order.swap(last, self.rng.next_u64() as usize % (last + 1));
                }
                self.at = 0;
            }
            chosen.push(self.order[self.at]);
            self.at += 1;
        }
        chosen
    }
}

/// Share of the labeled examples whose label has the largest score.
fn right(scores: &[Vec<f32>], examples: &[Example]) -> f64 {
    let labeled = || scores.iter().zip(examples).filter_map(|(s, e)| Some((s, e.label?)));
    let right = labeled().filter(|(scores, label)| largest(scores) == *label).count();
    right as f64 / labeled().count().max(1) as f64
}

fn largest(scores: &[f32]) -> usize {
    let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(index, _)| index)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let mut file = AtomicFile::create(path)?;
    file.append(bytes)?;
    Ok(file.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_comes_once_in_each_pass() {
        let mut order = Order::new(5, 1);
        let all: Vec<usize> = (0..4).flat_map(|_| order.next(5)).collect();
        for pass in all.chunks(5) {
            let mut pass = pass.to_vec();
            pass.sort_unstable();
            assert_eq!(pass, [0, 1, 2, 3, 4]);
        }
        assert_ne!(all[..5], all[5..10]);
    }
}
