//! One run of a sweep, in a process of its own.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use puna_train::list_checkpoints;
use puna_train::log::{Metrics, read_metrics};
use puna_train::sweep::{SweepPlan, SweepRun};

use super::table::Row;
use crate::report::Hint;
use crate::{child, interrupt, output};

/// Trains a run, or goes on with it, or takes its result if it is done. `None` if it was stopped.
pub(super) fn train(
    plan: &SweepPlan,
    run: &SweepRun,
    threads: Option<usize>,
    label: &str,
) -> anyhow::Result<Option<Row>> {
    let folder = plan.output.join("runs").join(&run.name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let config = folder.join("shape.json");
    let recipe_path = folder.join("recipe.toml");
    let recipe = plan.recipe(run, &config, folder.clone())?.to_toml()?;
    let before = fs::read_to_string(&recipe_path).ok();
    let done = folder.join("model").is_dir();
    let checkpoints = list_checkpoints(&folder)?;
    if (done || !checkpoints.is_empty()) && before.as_ref() != Some(&recipe) {
        return Err(anyhow!("{} is of another recipe", folder.display()))
            .hint("give another folder with --set output=…, or remove this one");
    }
    if !done {
        output::note(&format!(
            "{label}: {} parameters on {} tokens",
            crate::units::grouped(run.params_matmul),
            crate::units::grouped(run.tokens)
        ));
        write(&config, &plan.config(run)?)?;
        write(&recipe_path, &recipe)?;
        let mode = if checkpoints.is_empty() { "--restart" } else { "--resume" };
        child::train(&recipe_path, mode, threads)?;
        if interrupt::asked() || !folder.join("model").is_dir() {
            return Ok(None);
        }
    }
    // They are only there to go on from.
    let leftover = folder.join("checkpoints");
    if leftover.is_dir() {
        fs::remove_dir_all(&leftover)
            .with_context(|| format!("cannot remove {}", leftover.display()))?;
    }
    Ok(Some(row(run, &folder, !done)?))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn row(run: &SweepRun, folder: &Path, fresh: bool) -> anyhow::Result<Row> {
    let path = folder.join("metrics.jsonl");
    let (mut loss, mut seconds, mut peak_bytes) = (f64::NAN, 0.0, 0);
    for line in read_metrics(&path)? {
        match line {
            Metrics::Step(step) => {
                seconds += step.seconds;
                peak_bytes = peak_bytes.max(step.rss_bytes.unwrap_or(0));
            }
            Metrics::Validation(scored) => loss = scored.validation_loss,
        }
    }
    if !loss.is_finite() {
        bail!("{} has no final validation loss", path.display());
    }
    Ok(Row { run: run.clone(), loss, seconds, peak_bytes, fresh })
}
