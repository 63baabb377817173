//! `puna compare-adapters`: trains several methods under one budget and shows what each costs and
//! reaches.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use puna_model::{LoadOptions, Model, Precision};
use puna_peft::{AdapterConfig, Base};
use puna_train::Recipe;
use puna_train::log::{Dot, Metrics, Picture, plot_scatter, read_metrics};
use serde::Serialize;

use crate::report::{Hint, Outcome};
use crate::{child, interrupt, output, scratch, threads, units};

/// Trains adapters of several methods on one recipe, each in a process of its own with the same data,
/// order and budget, and prints what they cost and reach.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    puna compare-adapters recipes/compare.toml\n  \
    puna compare-adapters recipes/compare.toml --parameters 50000\n  \
    puna compare-adapters recipes/compare.toml --minutes 5 --only lora --only ia3\n\n\
    The recipe is one of `puna train` with a list of [[compare]] sections, each what [adapter] would \
    be, with a name and, if it wants another, a learning rate `lr`. The output folder gets a run for each, compare.json, compare.svg and compare.png. \
    A run that is done is not made again.")]
pub(crate) struct Args {
    /// The recipe
    recipe: PathBuf,

    /// Change a setting of all runs: section.key=value
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Only the method of this name (again for more)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// Choose each method's size so that it trains about so many values
    #[arg(long, value_name = "N")]
    parameters: Option<usize>,

    /// Give each method about so many minutes instead of the recipe's steps
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,

    /// Threads [default: physical cores]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A method with its name.
struct Candidate {
    name: String,
    config: AdapterConfig,
    /// Instead of the recipe's: methods want different ones.
    lr: Option<f64>,
    parameters: usize,
}

/// What a method cost and reached.
#[derive(Debug, Clone, Serialize)]
struct Row {
    name: String,
    parameters: usize,
    /// Of its folder.
    bytes: u64,
    steps: u64,
    tokens_per_second: f64,
    /// Largest resident memory after a step.
    peak_bytes: u64,
    validation_before: Option<f64>,
    validation_loss: Option<f64>,
    /// No other method trains fewer values and reaches a lower loss.
    pareto: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    threads::start(args.threads);
    interrupt::install()?;
    let (recipe, compared) = read(args)?;
    let mut candidates = candidates(args, &recipe, compared)?;
    candidates.sort_by_key(|candidate| candidate.parameters);
    let mut rows = Vec::new();
    for candidate in &candidates {
        output::note(&format!("{}: {} parameters", candidate.name, candidate.parameters));
        let folder = recipe.output.join(&candidate.name);
        let done = recipe_of(args, &recipe, candidate, &folder)?;
        if !folder.join("adapter").is_dir() {
            child::train(&done, "--restart", args.threads)?;
        }
        if interrupt::asked() {
            output::note("stopped; the same command goes on with the methods that are left");
            return Ok(Outcome::No);
        }
        rows.push(row(candidate, &folder)?);
    }
    mark_front(&mut rows);
    write(&recipe, &rows)?;
    print(args, &recipe, &rows)
}

/// A `[[compare]]` section: a name, settings and a learning rate.
type Compared = (String, AdapterConfig, Option<f64>);

/// The recipe without its list, and the list.
fn read(args: &Args) -> anyhow::Result<(Recipe, Vec<Compared>)> {
    let path = &args.recipe;
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut table: toml::Table =
        text.parse().with_context(|| format!("{} is not valid TOML", path.display()))?;
    let list = table.remove("compare").and_then(|list| list.try_into::<Vec<toml::Table>>().ok());
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Err(anyhow!("{} has no [[compare]] sections", path.display()))
            .hint("recipes/compare.toml has one for every method");
    };
    let mut compared = Vec::new();
    for mut section in list {
        let method = section.get("method").and_then(toml::Value::as_str).unwrap_or("?").to_owned();
        let name = section.remove("name").and_then(|name| name.as_str().map(str::to_owned));
        let name = name.unwrap_or_else(|| method.replace('_', "-"));
        let lr = match section.remove("lr") {
            None => None,
            Some(toml::Value::Float(lr)) => Some(lr),
            Some(other) => {
                bail!("{}: [[compare]] {name}: lr = {other} is no number", path.display())
            }
        };
        let config = section
            .try_into::<AdapterConfig>()
            .with_context(|| format!("{}: [[compare]] {name}", path.display()))?;
        if compared.iter().any(|(other, ..): &Compared| *other == name) {
            bail!("{}: two [[compare]] sections are called {name}", path.display());
        }
        compared.push((name, config, lr));
    }
    let recipe = Recipe::parse(&table.to_string(), path, &args.set)?;
    Ok((recipe, compared))
}

/// The methods that are compared, with their sizes.
fn candidates(
    args: &Args,
    recipe: &Recipe,
    compared: Vec<Compared>,
) -> anyhow::Result<Vec<Candidate>> {
    if let Some(unknown) = args.only.iter().find(|only| !compared.iter().any(|(n, ..)| n == *only))
    {
        let names: Vec<&str> = compared.iter().map(|(name, ..)| name.as_str()).collect();
        return Err(anyhow!("no method is called {unknown}")).hint(names.join(", "));
    }
    let path = recipe.model.from.clone();
    let path = path.context("the recipe has no model.from")?;
    let model = Model::load(&path, &LoadOptions::new(Precision::Exact))?;
    let base = Base { decoder: &model.decoder, config: &model.config };
    let mut found = Vec::new();
    for (name, config, lr) in compared {
        if !args.only.is_empty() && !args.only.contains(&name) {
            continue;
        }
        let config = match args.parameters {
            Some(wanted) => sized(&config, wanted, &base, recipe.seed)?,
            None => config,
        };
        let parameters = config.build(&base, recipe.seed).with_context(|| name.clone())?.size();
        found.push(Candidate { name, config, lr, parameters });
    }
    Ok(found)
}

/// The size of a method at which it trains the number of values that is nearest to `wanted`; methods
/// without a size stay as they are.
fn sized(
    config: &AdapterConfig,
    wanted: usize,
    base: &Base<'_>,
    seed: u64,
) -> anyhow::Result<AdapterConfig> {
    let parameters = |size: usize| -> anyhow::Result<Option<(AdapterConfig, usize)>> {
        let mut changed = config.clone();
        if !changed.set_size(size, base) {
            return Ok(None);
        }
        let parameters = changed.build(base, seed)?.size();
        Ok(Some((changed, parameters)))
    };
    let (mut low, mut high) = (1, 1);
    while high < 4096 {
        match parameters(high)? {
            None => return Ok(config.clone()),
            Some((_, found)) if found >= wanted => break,
            Some(_) => (low, high) = (high, 2 * high),
        }
    }
    while low + 1 < high {
        let middle = usize::midpoint(low, high);
        match parameters(middle)? {
            Some((_, found)) if found < wanted => low = middle,
            _ => high = middle,
        }
    }
    let mut best = config.clone();
    let mut distance = usize::MAX;
    for size in [low, high] {
        if let Some((changed, found)) = parameters(size)?
            && found.abs_diff(wanted) < distance
        {
            (best, distance) = (changed, found.abs_diff(wanted));
        }
    }
    Ok(best)
}

/// Writes a method's recipe.
fn recipe_of(
    args: &Args,
    recipe: &Recipe,
    candidate: &Candidate,
    folder: &Path,
) -> anyhow::Result<PathBuf> {
    let mut own = recipe.clone();
    own.adapter = Some(candidate.config.clone());
    own.output = folder.to_path_buf();
    own.optimizer.lr = candidate.lr.unwrap_or(own.optimizer.lr);
    std::fs::create_dir_all(&recipe.output)
        .with_context(|| format!("cannot create {}", recipe.output.display()))?;
    let path = folder.with_extension("toml");
    if let Some(minutes) = args.minutes
        && !folder.join("adapter").is_dir()
    {
        let seconds = seconds_per_step(args, &own, &path)?;
        let steps = (60.0 * minutes / seconds).ceil().max(1.0) as u64;
        (own.train.steps, own.train.tokens, own.train.epochs) = (Some(steps), None, None);
    }
    save(&own, &path)?;
    Ok(path)
}

fn save(recipe: &Recipe, path: &Path) -> anyhow::Result<()> {
    std::fs::write(path, recipe.to_toml()?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// What a step of a method takes: the median of a few.
fn seconds_per_step(args: &Args, recipe: &Recipe, path: &Path) -> anyhow::Result<f64> {
    let mut few = recipe.clone();
    few.output = scratch::beside(&recipe.output, "timing")?;
    (few.train.steps, few.train.tokens, few.train.epochs) = (Some(5), None, None);
    if let Some(adapter) = &mut few.adapter {
        adapter.clear_schedule();
    }
    few.log.validate_every_steps = 0;
    few.data.validation_fraction = None;
    save(&few, path)?;
    child::train(path, "--restart", args.threads)?;
    let mut seconds: Vec<f64> = read_metrics(&few.output.join("metrics.jsonl"))?
        .iter()
        .filter_map(|line| match line {
            Metrics::Step(step) => Some(step.seconds),
            Metrics::Validation(_) => None,
        })
        .collect();
    std::fs::remove_dir_all(&few.output)
        .with_context(|| format!("cannot remove {}", few.output.display()))?;
    seconds.sort_by(f64::total_cmp);
    Ok(seconds.get(seconds.len() / 2).copied().unwrap_or(1.0))
}

fn row(candidate: &Candidate, folder: &Path) -> anyhow::Result<Row> {
    let metrics = read_metrics(&folder.join("metrics.jsonl"))?;
    let (mut rates, mut validation) = (Vec::new(), Vec::new());
    let (mut peak_bytes, mut steps) = (0, 0);
    for line in &metrics {
        match line {
            Metrics::Step(step) => {
                rates.push(step.tokens_per_second);
                peak_bytes = peak_bytes.max(step.rss_bytes.unwrap_or(0));
                steps = step.step;
            }
            Metrics::Validation(scored) => validation.push((scored.step, scored.validation_loss)),
        }
    }
    rates.sort_by(f64::total_cmp);
    let files = std::fs::read_dir(folder.join("adapter"))
        .with_context(|| format!("cannot list {}", folder.join("adapter").display()))?;
    let bytes = files.flatten().filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    Ok(Row {
        name: candidate.name.clone(),
        parameters: candidate.parameters,
        bytes,
        steps,
        tokens_per_second: rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN),
        peak_bytes,
        validation_before: validation.first().filter(|(step, _)| *step == 0).map(|(_, loss)| *loss),
        validation_loss: validation.last().map(|(_, loss)| *loss),
        pareto: false,
    })
}

/// Marks the methods that no other one beats in both parameters and loss.
fn mark_front(rows: &mut [Row]) {
    let points: Vec<(usize, f64)> =
        rows.iter().map(|row| (row.parameters, row.validation_loss.unwrap_or(f64::NAN))).collect();
    for (row, &(parameters, loss)) in rows.iter_mut().zip(&points) {
        let beaten = points.iter().any(|&(other, other_loss)| {
            (other <= parameters && other_loss < loss) || (other < parameters && other_loss <= loss)
        });
        row.pareto = loss.is_finite() && !beaten;
    }
}

fn write(recipe: &Recipe, rows: &[Row]) -> anyhow::Result<()> {
    let path = recipe.output.join("compare.json");
    let json = serde_json::to_string_pretty(rows)?;
    std::fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
    let dots: Vec<Dot> = rows
        .iter()
        .map(|row| Dot {
            name: row.name.clone(),
            parameters: row.parameters as f64,
            loss: row.validation_loss.unwrap_or(f64::NAN),
            best: row.pareto,
        })
        .collect();
    if dots.iter().all(|dot| !dot.loss.is_finite()) {
        return Err(anyhow!("no run has a validation loss"))
            .hint("set data.validation_fraction or data.validation");
    }
    let steps = rows.iter().map(|row| row.steps);
    let budget = match (steps.clone().min(), steps.max()) {
        (Some(least), Some(most)) if least == most => format!("{least} steps each"),
        (Some(least), Some(most)) => format!("{least} to {most} steps"),
        _ => String::new(),
    };
    let title = "Methods, by what they train and what they reach";
    for (picture, end) in [(Picture::Svg, "svg"), (Picture::Png, "png")] {
        let path = recipe.output.join(format!("compare.{end}"));
        plot_scatter(&dots, (title, &budget), picture, &path)?;
    }
    Ok(())
}

fn print(args: &Args, recipe: &Recipe, rows: &[Row]) -> anyhow::Result<Outcome> {
    if args.json {
        output::json(&rows)?;
        return Ok(Outcome::Done);
    }
    let loss = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
    output::line(&format!(
        "{:<22} {:>10} {:>11} {:>7} {:>9} {:>12} {:>9} {:>9}  front",
        "method", "parameters", "file", "steps", "tok/s", "memory", "before", "after"
    ))?;
    for row in rows {
        output::line(&format!(
            "{:<22} {:>10} {:>11} {:>7} {:>9.0} {:>12} {:>9} {:>9}  {}",
            row.name,
            row.parameters,
            units::bytes(row.bytes),
            row.steps,
            row.tokens_per_second,
            units::bytes(row.peak_bytes),
            loss(row.validation_before),
            loss(row.validation_loss),
            if row.pareto { "*" } else { "" }
        ))?;
    }
    output::line(&format!("plot: {}", recipe.output.join("compare.png").display()))?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(parameters: usize, loss: f64) -> Row {
        Row {
            name: String::new(),
            parameters,
            bytes: 0,
            steps: 1,
            tokens_per_second: 1.0,
            peak_bytes: 0,
            validation_before: None,
            validation_loss: Some(loss),
            pareto: false,
        }
    }

    #[test]
    fn the_front_are_those_that_no_smaller_one_beats() {
        let mut rows = vec![row(10, 3.0), row(20, 3.1), row(20, 2.9), row(40, 2.9), row(50, 2.0)];
        mark_front(&mut rows);
        let front: Vec<bool> = rows.iter().map(|row| row.pareto).collect();
        assert_eq!(front, [true, false, true, false, true]);
    }
}
