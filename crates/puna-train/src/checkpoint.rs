//! Checkpoints: a Hugging Face folder in float32, the optimizer's states and where the run is.
//!
//! A checkpoint is written into a folder with a temporary name and renamed when all of it is on
//! disk: whatever stops the program, a folder with a checkpoint's name is whole. Rows are functions
//! of their number and samples of seed and step, so step, rows and seed are all that a data cursor
//! and a random state have to hold, as long as rows are made as they were when the run began
//! ([`BegunRecipe`]).

mod begun;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use puna_config::{ModelConfig, WeightDtype};
use puna_io::safetensors::SafetensorsFile;
use puna_io::write::{ExtraFile, write_safetensors_from};
use puna_io::{Dtype, TensorBytes, TensorInfo};

use crate::trained::Trained;
use crate::{Optimizer, Ranks, Recipe, State, TrainError};

pub(crate) use begun::BegunRecipe;

/// Beside the weights.
const OPTIMIZER: &str = "optimizer";
const RECIPE: &str = "recipe.toml";
/// Of the folder in a run's output, and of what is being written there.
const FOLDER: &str = "checkpoints";
const PARTIAL: &str = ".partial-";

/// A checkpoint on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Steps done.
    pub step: u64,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Steps done.
    pub(crate) step: u64,
    /// Rows of the data seen.
    pub(crate) rows: u64,
    /// Tokens seen.
    pub(crate) tokens: u64,
}

/// The whole checkpoints of a run, oldest first.
///
/// # Errors
/// If the folder cannot be listed.
pub fn list_checkpoints(output: &Path) -> Result<Vec<Checkpoint>, TrainError> {
    let folder = output.join(FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed("list", &folder))? {
        let path = entry.map_err(failed("list", &folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(step) = name.and_then(|name| name.strip_prefix("step-")?.parse().ok()) {
            found.push(Checkpoint { path, step });
        }
    }
    found.sort_by_key(|checkpoint| checkpoint.step);
    Ok(found)
}

/// Removes all checkpoints of a run.
pub(crate) fn remove_checkpoints(output: &Path) -> Result<(), TrainError> {
    let folder = output.join(FOLDER);
    if !folder.exists() {
        return Ok(());
    }
    std::fs::remove_dir_all(&folder).map_err(failed("remove", &folder))
}

/// What a checkpoint is made of.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) trained: &'a Trained,
    pub(crate) optimizer: &'a Optimizer,
    pub(crate) recipe: &'a BegunRecipe,
    pub(crate) progress: Progress,
    pub(crate) extra_files: Vec<ExtraFile>,
    pub(crate) ranks: &'a dyn Ranks,
}

/// Name of the file with the states of a process.
fn states_name(ranks: &dyn Ranks) -> String {
    match ranks.size() {
        1 => format!("{OPTIMIZER}.safetensors"),
        size => format!("{OPTIMIZER}-{:05}-of-{size:05}.safetensors", ranks.rank() + 1),
    }
}

/// Writes a checkpoint and removes all but the newest `keep_last`. Each process writes its states;
/// the first one everything else, and it renames the folder when all are done.
pub(crate) fn save(output: &Path, parts: &Parts<'_>) -> Result<Checkpoint, TrainError> {
    let step = parts.progress.step;
    let folder = output.join(FOLDER);
    let path = folder.join(format!("step-{step:08}"));
    let partial = folder.join(format!("{PARTIAL}{step:08}"));
    let saved = save_together(output, (folder, path, &partial), parts);
    if saved.is_err() && parts.ranks.rank() == 0 {
        // Half a checkpoint is of no use, and the disk may be full. The save's error counts.
        let _ = std::fs::remove_dir_all(&partial);
    }
    saved
}

fn save_together(
    output: &Path,
    (folder, path, partial): (PathBuf, PathBuf, &Path),
    parts: &Parts<'_>,
) -> Result<Checkpoint, TrainError> {
    let (ranks, step) = (parts.ranks, parts.progress.step);
    let written = match ranks.rank() {
        0 => begin(&folder, &path, partial, parts),
        _ => Ok(()),
    };
    together(ranks, written)?;
    let states = partial.join(states_name(ranks));
    together(ranks, save_states(&states, parts))?;
    let done = match ranks.rank() {
        0 => finish(output, (&folder, &path, partial), parts),
        _ => Ok(()),
    };
    together(ranks, done)?;
    Ok(Checkpoint { path, step })
}

/// This process's result, once all have theirs; an error if any has one.
fn together(ranks: &dyn Ranks, result: Result<(), TrainError>) -> Result<(), TrainError> {
    let failed = ranks.sum(vec![f64::from(u8::from(result.is_err()))])?[0];
    result?;
    if failed > 0.0 {
        return Err(TrainError::Mpi { problem: "process failed to save its part" });
    }
    Ok(())
}

/// Weights and recipe into a new folder.
fn begin(folder: &Path, path: &Path, partial: &Path, parts: &Parts<'_>) -> Result<(), TrainError> {
    std::fs::create_dir_all(folder).map_err(failed("create", folder))?;
    remove_partial(folder)?;
    if path.exists() {
        // Of a run that came to this step before and was continued from an earlier one.
        let doomed = folder.join(format!("{PARTIAL}old"));
        std::fs::rename(path, &doomed).map_err(failed("rename", path))?;
        std::fs::remove_dir_all(&doomed).map_err(failed("remove", &doomed))?;
    }
    let files = (WeightDtype::F32, parts.extra_files.clone());
    parts.trained.write(partial, parts.config, files)?;
    let recipe = partial.join(RECIPE);
    std::fs::write(&recipe, parts.recipe.to_toml()?).map_err(failed("write", &recipe))?;
    sync(&recipe)
}

/// The folder gets its name, and old ones go.
fn finish(
    output: &Path,
    (folder, path, partial): (&Path, &Path, &Path),
    parts: &Parts<'_>,
) -> Result<(), TrainError> {
    sync(partial)?;
    std::fs::rename(partial, path).map_err(failed("rename", partial))?;
    sync(folder)?;
    let keep = parts.recipe.checkpoint.keep_last.max(1);
    let all = list_checkpoints(output)?;
    for old in all.iter().take(all.len().saturating_sub(keep)) {
        // Renamed first: a folder with a checkpoint's name is whole at any time.
        let doomed = folder.join(format!("{PARTIAL}{:08}", old.step));
        std::fs::rename(&old.path, &doomed).map_err(failed("rename", &old.path))?;
        std::fs::remove_dir_all(&doomed).map_err(failed("remove", &doomed))?;
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TrainError {
    let path = path.to_path_buf();
    move |source| TrainError::File { action, path, source }
}

/// Removes what an interrupted save or removal left.
fn remove_partial(folder: &Path) -> Result<(), TrainError> {
    for entry in std::fs::read_dir(folder).map_err(failed("clear", folder))? {
        let path = entry.map_err(failed("clear", folder))?.path();
        let partial = path.file_name().and_then(|name| name.to_str());
        if partial.is_some_and(|name| name.starts_with(PARTIAL)) {
            std::fs::remove_dir_all(&path).map_err(failed("clear", &path))?;
        }
    }
    Ok(())
}

fn sync(path: &Path) -> Result<(), TrainError> {
    let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|source| TrainError::File { action: "write", path: path.to_path_buf(), source })
}

fn metadata(parts: &Parts<'_>) -> BTreeMap<String, String> {
    let Progress { step, rows, tokens } = parts.progress;
    let numbers = [
        ("puna.step", step),
        ("puna.rows", rows),
        ("puna.tokens", tokens),
        ("puna.seed", parts.recipe.seed),
        ("puna.updates", parts.optimizer.step_count()),
    ];
    let numbers = numbers.map(|(key, value)| (key.to_owned(), value.to_string()));
    numbers.into_iter().chain(settled(parts.recipe)).collect()
}

/// What was settled when the run began.
fn settled(recipe: &BegunRecipe) -> impl Iterator<Item = (String, String)> {
    let now = recipe.unix_seconds.map(|seconds| (begun::NOW.to_owned(), seconds.to_string()));
    let data = recipe.data.clone().map(|digest| (begun::DATA.to_owned(), digest));
    now.into_iter().chain(data)
}

/// Suffixes of a state's tensors.
fn names(state: &State) -> &'static [&'static str] {
    match state {
        State::Adam(..) => &["exp_avg", "exp_avg_sq"],
        State::Adam8(..) => {
            &["exp_avg.codes", "exp_avg.scales", "exp_avg_sq.codes", "exp_avg_sq.scales"]
        }
        State::Muon(_) => &["momentum"],
    }
}

/// Writes the states, one tensor at a time.
fn save_states(path: &Path, parts: &Parts<'_>) -> Result<(), TrainError> {
    let mut tensors = Vec::new();
    let mut owners = HashMap::new();
    for (parameter, state) in parts.optimizer.states() {
        for (index, suffix) in names(state).iter().enumerate() {
            let name = format!("{}.{suffix}", parameter.name());
            let (dtype, len) = match tensor(state, index) {
                Part::Floats(values) => (Dtype::F32, values.len()),
                Part::Codes(codes) => (Dtype::U8, codes.len()),
            };
            tensors.push((name.clone(), TensorInfo { dtype, shape: vec![len] }));
            owners.insert(name, (state, index));
        }
    }
    write_safetensors_from(path, &tensors, &metadata(parts), |name| {
        let bytes = owners.get(name).map(|&(state, index)| match tensor(state, index) {
            Part::Floats(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Part::Codes(codes) => codes.to_vec(),
        });
        Ok(TensorBytes::from_vec(bytes.unwrap_or_default()))
    })
}

enum Part<'a> {
    Floats(&'a [f32]),
    Codes(&'a [u8]),
}

/// The tensor of a state that goes by the name of this index in [`names`].
fn tensor(state: &State, index: usize) -> Part<'_> {
    match state {
        State::Adam(first, second) => Part::Floats(if index == 0 { first } else { second }),
        State::Muon(momentum) => Part::Floats(momentum),
        State::Adam8(codes, _) if index.is_multiple_of(2) => Part::Codes(&codes[index / 2]),
        State::Adam8(_, scales) => Part::Floats(&scales[index / 2]),
    }
}

/// Restores the optimizer's states of a checkpoint, whose weights are loaded like any model's.
pub(crate) fn load_states(
    checkpoint: &Checkpoint,
    optimizer: &mut Optimizer,
    recipe: &Recipe,
) -> Result<Progress, TrainError> {
    let wrong = |problem: String| TrainError::Checkpoint { path: checkpoint.path.clone(), problem };
    let files = state_files(&checkpoint.path)?;
    let Some(found) = files.first().map(SafetensorsFile::metadata) else {
        return Err(wrong(format!("has no {OPTIMIZER}.safetensors")));
    };
    let number = |key: &str| -> Result<u64, TrainError> {
        let value = found.get(key).and_then(|value| value.parse().ok());
        value.ok_or_else(|| wrong(format!("{OPTIMIZER} has no number {key} in its metadata")))
    };
    let (seed, wanted) = (number("puna.seed")?, recipe.seed);
    if seed != wanted {
        return Err(wrong(format!("was made with seed {seed}, the recipe has {wanted}")));
    }
    let updates = number("puna.updates")?;
    for (parameter, state) in optimizer.restore(updates) {
        let mut parts: HashMap<&str, TensorBytes> = HashMap::new();
        for suffix in names(state) {
            let name = format!("{}.{suffix}", parameter.name());
            let file = files.iter().find(|file| file.info(&name).is_some()).ok_or_else(|| {
                wrong(format!("{OPTIMIZER} has no {name}; was optimizer.name another one?"))
            })?;
            let tensor = file.tensor(&name)?;
            parts.insert(suffix, tensor.bytes);
        }
        let fill = |suffix: &str, out: &mut [f32]| fill(parts.get(suffix), out);
        let whole = match state {
            State::Adam(first, second) => fill("exp_avg", first) && fill("exp_avg_sq", second),
            State::Muon(momentum) => fill("momentum", momentum),
            State::Adam8([c1, c2], [s1, s2]) => {
                let codes = |suffix: &str, out: &mut Vec<u8>| {
                    let bytes = parts.get(suffix).filter(|bytes| bytes.len() == out.len());
                    bytes.is_some_and(|bytes| {
                        out.copy_from_slice(bytes);
                        true
                    })
                };
                codes("exp_avg.codes", c1)
                    && codes("exp_avg_sq.codes", c2)
                    && fill("exp_avg.scales", s1)
                    && fill("exp_avg_sq.scales", s2)
            }
        };
        if !whole {
            return Err(wrong(format!("states of {} have another size", parameter.name())));
        }
    }
    let (step, rows) = (number("puna.step")?, number("puna.rows")?);
    Ok(Progress { step, rows, tokens: number("puna.tokens")? })
}

/// The states of all processes that wrote a checkpoint.
fn state_files(folder: &Path) -> Result<Vec<SafetensorsFile>, TrainError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed("list", folder))? {
        let path = entry.map_err(failed("list", folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(OPTIMIZER) && name.ends_with(".safetensors") {
            files.push(SafetensorsFile::open(&path)?);
        }
    }
    Ok(files)
}

fn fill(bytes: Option<&TensorBytes>, out: &mut [f32]) -> bool {
    let Some(bytes) = bytes.filter(|bytes| bytes.len() == 4 * out.len()) else { return false };
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *out = f32::from_le_bytes(*bytes);
    }
    true
}
