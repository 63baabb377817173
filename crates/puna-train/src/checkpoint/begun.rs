//! What is settled when a run begins and has to be the same whenever it goes on.
//!
//! A checkpoint holds the number of the next row, and a row is a function of its number only as long
//! as the data, the settings that make rows of it and the time that chat templates print are those
//! the run began with. Time and a digest of the data lie beside the optimizer's states; settings are
//! compared with the recipe in the checkpoint. What may change between stop and continuation (steps,
//! learning rate, batch, precision, what is logged) is left alone.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use puna_data::manifest::MANIFEST;
use puna_io::safetensors::SafetensorsFile;
use puna_io::{IoError, Sha256, hex};
use puna_text::CivilTime;
use serde::de::IgnoredAny;

use super::{Checkpoint, RECIPE, failed, state_files};
use crate::{Ranks, Recipe, Task, TrainError};

/// Keys of the metadata beside the optimizer's states.
pub(super) const NOW: &str = "puna.now";
pub(super) const DATA: &str = "puna.data";

/// Settings that say which text is in which row, and what is trained.
const ROWS: [&str; 13] = [
    "adapter",
    "task",
    "data.sequence_length",
    "data.shuffle",
    "data.document_mask",
    "data.validation_fraction",
    "data.format",
    "data.train_on",
    "data.too_long",
    "data.packing",
    "data.unusable",
    "data.tools",
    "data.template",
];

/// A recipe, and what was settled when its run began.
#[derive(Debug, Clone)]
pub(crate) struct BegunRecipe {
    recipe: Recipe,
    /// Seconds since 1970; none in runs without templates, so that equal runs leave equal files, and
    /// in those that began before it was stored.
    pub(super) unix_seconds: Option<i64>,
    /// SHA-256 over those of the data's files.
    pub(super) data: Option<String>,
}

impl Deref for BegunRecipe {
    type Target = Recipe;

    fn deref(&self) -> &Recipe {
        &self.recipe
    }
}

impl BegunRecipe {
    /// Settles a new run, or takes over what was settled from the checkpoint it goes on from.
    ///
    /// # Errors
    /// The checkpoint is not whole, or the recipe or its data are not those of the checkpoint.
    pub(crate) fn new(
        recipe: Recipe,
        resume: Option<&Checkpoint>,
        ranks: &dyn Ranks,
    ) -> Result<Self, TrainError> {
        let data = digest(&recipe)?;
        let Some(checkpoint) = resume else {
            let unix_seconds = match recipe.task {
                Task::Pretrain => None,
                Task::Sft => Some(clock(ranks)?),
            };
            return Ok(Self { recipe, unix_seconds, data });
        };
        check_whole(checkpoint)?;
        check_settings(checkpoint, &recipe)?;
        let files = state_files(&checkpoint.path)?;
        let stored = |key| files.first().and_then(|file| file.metadata().get(key));
        if let (Some(was), Some(is)) = (stored(DATA), &data)
            && was != is
        {
            let short = |digest: &str| format!("files of SHA-256 {:.12}…", digest);
            return Err(changed(checkpoint, "data.train", short(was), short(is)));
        }
        let unix_seconds = stored(NOW).and_then(|seconds| seconds.parse().ok());
        Ok(Self { recipe, unix_seconds, data })
    }

    /// SHA-256 over those of the data's files.
    pub(crate) fn data_digest(&self) -> Option<&str> {
        self.data.as_deref()
    }

    /// The time that chat templates print.
    pub(crate) fn now(&self) -> Option<CivilTime> {
        self.unix_seconds.map(CivilTime::from_unix_seconds)
    }
}

/// The first process's clock, for all of them: clocks differ.
fn clock(ranks: &dyn Ranks) -> Result<i64, TrainError> {
    let seconds = if ranks.rank() == 0 { CivilTime::now_utc().unix_seconds() } else { 0 };
    // Whole seconds are exact in a float.
    Ok(ranks.sum(vec![seconds as f64])?[0] as i64)
}

fn changed(checkpoint: &Checkpoint, key: &'static str, was: String, is: String) -> TrainError {
    TrainError::Changed { path: checkpoint.path.clone(), key, was, is }
}

fn damaged(checkpoint: &Checkpoint, source: IoError) -> TrainError {
    TrainError::Damaged { path: checkpoint.path.clone(), source: Box::new(source) }
}

/// SHA-256 over those of the files that rows are made of; none if one is missing, which the reader
/// of the data reports better.
fn digest(recipe: &Recipe) -> Result<Option<String>, TrainError> {
    let data = &recipe.data;
    let template = data.template.as_ref().map(PathBuf::from).filter(|path| path.is_file());
    let files = data.train.all().iter().map(|path| match recipe.task {
        // It names every shard by its hash.
        Task::Pretrain => path.join(MANIFEST),
        Task::Sft => path.clone(),
    });
    let mut all = Sha256::default();
    for file in files.chain(template) {
        if !file.is_file() {
            return Ok(None);
        }
        all.update(&Sha256::of_file(&file)?);
    }
    Ok(Some(hex(&all.finish())))
}

/// Opens or parses every file that the checkpoint should have, before an hour is spent on reading
/// data for it.
fn check_whole(checkpoint: &Checkpoint) -> Result<(), TrainError> {
    let damaged = |source| damaged(checkpoint, source);
    let folder = &checkpoint.path;
    let entries = std::fs::read_dir(folder).map_err(failed("list", folder))?;
    let mut states = false;
    for entry in entries {
        let path = entry.map_err(failed("list", folder))?.path();
        check_file(&path).map_err(damaged)?;
        states |= path.file_stem().is_some_and(|name| {
            name.to_str().is_some_and(|name| name.starts_with(super::OPTIMIZER))
        });
    }
    let missing = if states { RECIPE } else { "optimizer.safetensors" };
    if !states || !folder.join(RECIPE).is_file() {
        let path = folder.join(missing);
        return Err(damaged(IoError::MissingFile { path, named_by: folder.clone() }));
    }
    Ok(())
}

fn check_file(path: &Path) -> Result<(), IoError> {
    let read = || std::fs::read(path).map_err(IoError::os(path, "read"));
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("safetensors") => SafetensorsFile::open(path).map(|_| ()),
        Some("json") => match serde_json::from_slice::<IgnoredAny>(&read()?) {
            Ok(_) => Ok(()),
            Err(error) => Err(IoError::invalid(path, "contents", "JSON", error)),
        },
        _ => Ok(()),
    }
}

/// Compares what makes rows in the checkpoint's recipe and in this one.
fn check_settings(checkpoint: &Checkpoint, recipe: &Recipe) -> Result<(), TrainError> {
    let path = checkpoint.path.join(RECIPE);
    let damaged = |reason: String| {
        damaged(checkpoint, IoError::invalid(&path, "contents", "a recipe", reason))
    };
    let text = std::fs::read_to_string(&path).map_err(|error| damaged(error.to_string()))?;
    let earlier = Recipe::parse(&text, &path, &[]).map_err(|error| damaged(error.to_string()))?;
    let table = |recipe: &Recipe| toml::Table::try_from(recipe).unwrap_or_default();
    let (was, is) = (table(&earlier), table(recipe));
    for key in ROWS {
        let (was, is) = (value(&was, key), value(&is, key));
        if was != is {
            return Err(changed(checkpoint, key, was, is));
        }
    }
    Ok(())
}

/// A setting as it stands in a recipe.
fn value(table: &toml::Table, key: &str) -> String {
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    let found = match section {
        "" => table.get(name),
        _ => table.get(section).and_then(|section| section.get(name)),
    };
    found.map_or_else(|| "not set".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Alone;

    fn recipe(folder: &Path, change: &[&str]) -> Recipe {
        let text = format!(
            "task = 'sft'\noutput = 'run'\n[model]\nfrom = 'm'\n[data]\ntrain = {:?}\n\
             sequence_length = 8\n[train]\nsteps = 1\nbatch_sequences = 1\n",
            folder.join("talks.jsonl").to_str().unwrap()
        );
        let change: Vec<String> = change.iter().map(|&set| set.to_owned()).collect();
        Recipe::parse(&text, Path::new("r.toml"), &change).unwrap()
    }

    /// A checkpoint of a run that was begun with `recipe`.
    fn checkpoint(folder: &Path, begun: &BegunRecipe) -> Checkpoint {
        let path = folder.join("step-00000001");
        std::fs::create_dir_all(&path).unwrap();
        let metadata = super::super::settled(begun).collect();
        let states = path.join("optimizer.safetensors");
        puna_io::write::write_safetensors(&states, &[], &metadata).unwrap();
        std::fs::write(path.join(RECIPE), begun.to_toml().unwrap()).unwrap();
        Checkpoint { path, step: 1 }
    }

    #[test]
    fn a_continued_run_has_the_time_it_began_at() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("talks.jsonl"), "one").unwrap();
        let mut begun = BegunRecipe::new(recipe(dir.path(), &[]), None, &Alone).unwrap();
        assert!(begun.unix_seconds > Some(1_700_000_000));
        begun.unix_seconds = Some(1_721_952_000);
        let saved = checkpoint(dir.path(), &begun);
        let again = BegunRecipe::new(recipe(dir.path(), &[]), Some(&saved), &Alone).unwrap();
        assert_eq!(again.now().map(|now| now.format("%F")).as_deref(), Some("2024-07-26"));
        begun.unix_seconds = None;
        let old = checkpoint(dir.path(), &begun);
        let again = BegunRecipe::new(recipe(dir.path(), &[]), Some(&old), &Alone).unwrap();
        assert!(again.now().is_none());
    }

    #[test]
    fn what_changes_the_rows_is_refused_and_what_does_not_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let talks = dir.path().join("talks.jsonl");
        std::fs::write(&talks, "one").unwrap();
        let begun = BegunRecipe::new(recipe(dir.path(), &[]), None, &Alone).unwrap();
        let saved = checkpoint(dir.path(), &begun);
        let go_on = |set: &[&str]| {
            BegunRecipe::new(recipe(dir.path(), set), Some(&saved), &Alone).map(|_| ())
        };
        go_on(&["train.steps=9", "optimizer.lr=1e-5", "train.batch_sequences=4"]).unwrap();
        let error = go_on(&["data.sequence_length=16"]).unwrap_err().to_string();
        assert!(error.contains("data.sequence_length = 8, not 16"), "{error}");
        let error = go_on(&["data.template=chatml"]).unwrap_err().to_string();
        assert!(error.contains("data.template = not set, not \"chatml\""), "{error}");
        std::fs::write(&talks, "two").unwrap();
        let error = go_on(&[]).unwrap_err().to_string();
        assert!(error.contains("data.train = files of SHA-256"), "{error}");
    }

    #[test]
    fn a_file_that_is_cut_short_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("talks.jsonl"), "one").unwrap();
        let begun = BegunRecipe::new(recipe(dir.path(), &[]), None, &Alone).unwrap();
        for (name, contents) in
            [("optimizer.safetensors", "\0\0"), ("config.json", "{\"a\":"), (RECIPE, "task = ")]
        {
            let saved = checkpoint(dir.path(), &begun);
            std::fs::write(saved.path.join(name), contents).unwrap();
            let error =
                BegunRecipe::new(recipe(dir.path(), &[]), Some(&saved), &Alone).unwrap_err();
            let TrainError::Damaged { source, .. } = &error else { panic!("{error}") };
            assert!(source.to_string().contains(name), "{source}");
            std::fs::remove_file(saved.path.join(name)).unwrap();
        }
    }
}
