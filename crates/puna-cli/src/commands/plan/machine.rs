//! `puna plan --machine RECIPE`: what a recipe will take on this computer, and, once it was run, what
//! it took.
//!
//! Speed is not computed from data sheets: a few steps of the recipe itself are made in a folder
//! that is removed again, because small matrices, tokenized rows and neighbors on the machine decide
//! it and no formula knows them. Memory is counted, not tried. The prediction is kept beside the run,
//! so that what stands beside the outcome was said before it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use puna_kernels::MachineLimits;
use puna_train::log::{Metrics, read_metrics};
use puna_train::{Alone, MemoryNeed, Probe, Recipe, RunMode, Setup, Trainer};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::report::Outcome;
use crate::{output, scratch, units};

/// Seconds of steps behind the first.
const PROBE: Duration = Duration::from_secs(10);

/// Name of the kept prediction in the run's folder.
const KEPT: &str = "plan.json";

/// What a recipe will take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Prediction {
    tokens_per_second: f64,
    hours: f64,
    peak_bytes: u64,
    steps: u64,
    flops: f64,
    /// Share of the machine's arithmetic, where that was measured.
    mfu: Option<f64>,
    measured_steps: usize,
    weights_bytes: u64,
    gradients_bytes: u64,
    optimizer_bytes: u64,
    activations_bytes: u64,
    rest_bytes: u64,
}

impl Prediction {
    fn of(probe: &Probe) -> Self {
        let MemoryNeed { weights, gradients, optimizer, activations, rest } = probe.need;
        let seconds = probe.steps as f64 * probe.seconds_per_step;
        Self {
            tokens_per_second: probe.tokens_per_step as f64 / probe.seconds_per_step,
            hours: seconds / 3600.0,
            peak_bytes: probe.need.total(),
            steps: probe.steps,
            flops: probe.flops_per_step * probe.steps as f64,
            mfu: probe.peak.map(|peak| probe.flops_per_step / probe.seconds_per_step / peak),
            measured_steps: probe.measured_steps,
            weights_bytes: weights,
            gradients_bytes: gradients,
            optimizer_bytes: optimizer,
            activations_bytes: activations,
            rest_bytes: rest,
        }
    }
}

/// What a run took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Taken {
    tokens_per_second: f64,
    hours: f64,
    peak_bytes: u64,
    steps: u64,
}

/// Measures the machine; predicts a recipe, and compares where its run is done.
pub(super) fn run(recipe: Option<&Path>, set: &[String], as_json: bool) -> anyhow::Result<Outcome> {
    let Some(recipe) = recipe else {
        let limits = MachineLimits::measure();
        if as_json {
            output::json(&machine_json(&limits))?;
        } else {
            output::line(&machine_text(&limits))?;
        }
        return Ok(Outcome::Done);
    };
    let recipe = Recipe::read(recipe, set)?;
    let kept = recipe.output.join(KEPT);
    let taken = taken(&recipe)?;
    let before = fs::read_to_string(&kept).ok().and_then(|text| serde_json::from_str(&text).ok());
    let (predicted, said_before) = match before {
        Some(before) if taken.is_some() => (before, true),
        _ => (Prediction::of(&probe(&recipe)?), false),
    };
    if taken.is_none() {
        fs::create_dir_all(&recipe.output)
            .with_context(|| format!("cannot create {}", recipe.output.display()))?;
        fs::write(&kept, serde_json::to_string_pretty(&predicted)?)
            .with_context(|| format!("cannot write {}", kept.display()))?;
    }
    let limits = MachineLimits::measure();
    if as_json {
        output::json(&json!({
            "machine": machine_json(&limits),
            "predicted": predicted,
            "predicted_before_the_run": said_before,
            "outcome": taken,
        }))?;
        return Ok(Outcome::Done);
    }
    print(&limits, &predicted, taken.as_ref(), said_before)?;
    if taken.is_none() {
        output::line(&format!(
            "\nkept in {}; the same command after the run compares",
            kept.display()
        ))?;
    }
    Ok(Outcome::Done)
}

/// A few steps in a folder of their own.
fn probe(recipe: &Recipe) -> anyhow::Result<Probe> {
    let mut few = recipe.clone();
    few.output = scratch::beside(&recipe.output, "probe")?;
    output::note("making a few steps to see how long they take");
    let made = (|| -> anyhow::Result<Probe> {
        let setup = Setup::new(few.clone(), RunMode::Restart, Arc::new(Alone))?;
        Ok(Trainer::new(setup)?.probe(PROBE)?)
    })();
    let removed = fs::remove_dir_all(&few.output);
    let probe = made?;
    removed.with_context(|| format!("cannot remove {}", few.output.display()))?;
    Ok(probe)
}

/// What the run took, if all of it was made.
fn taken(recipe: &Recipe) -> anyhow::Result<Option<Taken>> {
    let path = recipe.output.join("metrics.jsonl");
    let done = ["model", "adapter"].iter().any(|name| recipe.output.join(name).is_dir());
    if !done || !path.is_file() {
        return Ok(None);
    }
    let (mut seconds, mut peak_bytes) = (Vec::new(), 0);
    let (mut tokens, mut steps) = (0, 0);
    for line in read_metrics(&path)? {
        if let Metrics::Step(step) = line {
            seconds.push(step.seconds);
            peak_bytes = peak_bytes.max(step.rss_bytes.unwrap_or(0));
            (tokens, steps) = (step.tokens, step.step);
        }
    }
    let all: f64 = seconds.iter().sum();
    Ok((all > 0.0).then(|| Taken {
        tokens_per_second: tokens as f64 / all,
        hours: all / 3600.0,
        peak_bytes,
        steps,
    }))
}

fn machine_json(limits: &MachineLimits) -> serde_json::Value {
    let peak = limits.best_peak();
    json!({
        "threads": limits.threads,
        "read_bytes_per_second": limits.read_bytes_per_sec,
        "f32_flops_per_second": peak.map(|peak| peak.f32_flops_per_sec),
        "bf16_flops_per_second": peak.and_then(|peak| peak.bf16_flops_per_sec),
    })
}

fn machine_text(limits: &MachineLimits) -> String {
    let peak = limits.best_peak();
    let giga = |rate: f64| format!("{:.0} GFLOP/s", rate / 1e9);
    let mut machine = vec![format!("{} threads", limits.threads)];
    machine.push(format!("{:.1} GB/s read", limits.read_bytes_per_sec / 1e9));
    machine.extend(peak.map(|peak| format!("{} f32", giga(peak.f32_flops_per_sec))));
    let bf16 = peak.and_then(|peak| peak.bf16_flops_per_sec);
    machine.extend(bf16.map(|rate| format!("{} bf16", giga(rate))));
    format!("machine     {}", machine.join(", "))
}

fn print(
    limits: &MachineLimits,
    predicted: &Prediction,
    taken: Option<&Taken>,
    said_before: bool,
) -> anyhow::Result<()> {
    output::line(&machine_text(limits))?;
    let mfu = predicted.mfu.map_or_else(String::new, |mfu| {
        format!(", {:.0} % of the machine's arithmetic", 100.0 * mfu)
    });
    output::line(&format!(
        "recipe      {} steps, {:.2e} FLOPs{mfu} ({} steps measured)\n",
        units::grouped(predicted.steps),
        predicted.flops,
        predicted.measured_steps
    ))?;
    let time = |hours: f64| units::duration(Duration::from_secs_f64(3600.0 * hours));
    let mut rows = vec![vec![String::new(), "predicted".into()]];
    let mut row = |name: &str, value: String, outcome: Option<(String, f64)>| {
        let mut cells = vec![name.to_owned(), value];
        if let Some((outcome, ratio)) = outcome {
            cells.extend([outcome, format!("{:+.1} %", 100.0 * (ratio - 1.0))]);
        }
        rows.push(cells);
    };
    let ratio = |p: f64, t: f64| p / t;
    row(
        "tokens/s",
        format!("{:.0}", predicted.tokens_per_second),
        taken.map(|t| {
            let of = ratio(predicted.tokens_per_second, t.tokens_per_second);
            (format!("{:.0}", t.tokens_per_second), of)
        }),
    );
    row(
        "time of the steps",
        time(predicted.hours),
        taken.map(|t| (time(t.hours), ratio(predicted.hours, t.hours))),
    );
    row(
        "peak memory",
        units::bytes(predicted.peak_bytes),
        taken.map(|t| {
            let of = ratio(predicted.peak_bytes as f64, t.peak_bytes as f64);
            (units::bytes(t.peak_bytes), of)
        }),
    );
    for (name, bytes) in [
        ("  weights", predicted.weights_bytes),
        ("  gradients", predicted.gradients_bytes),
        ("  optimizer", predicted.optimizer_bytes),
        ("  activations", predicted.activations_bytes),
        ("  logits, operands, program", predicted.rest_bytes),
    ] {
        row(name, units::bytes(bytes), None);
    }
    if taken.is_some() {
        rows[0].extend(["outcome".into(), "prediction off by".into()]);
    }
    output::line(output::table(&rows).trim_end())?;
    if taken.is_some() && !said_before {
        output::line("\nthe prediction was made after the run")?;
    }
    Ok(())
}
