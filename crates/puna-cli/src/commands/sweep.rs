//! `puna sweep`: models of several sizes under several budgets, the law they follow, and a larger
//! run to check it.

mod held_out;
mod run;
mod table;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use puna_train::sweep::{SweepPlan, SweepRun};
use serde_json::json;

use crate::commands::fit;
use crate::report::Outcome;
use crate::{interrupt, output, threads, units};
use table::Row;

/// Trains an IsoFLOP grid of models, fits the scaling law, and predicts a larger run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    puna sweep recipes/sweep.toml --list         the runs, without running them\n  \
    puna sweep recipes/sweep.toml\n  \
    puna sweep recipes/sweep.toml --set sweep.held_out=1e15\n\n\
    The recipe is one of `puna train` with a [sweep] section, which says budgets and sizes, and \
    without what the sweep decides: model, steps, batch, learning rate, schedule. The output folder \
    gets a run for each model, sweep.csv, the law and its figures. Ctrl-C stops; the same command \
    goes on. What the budgets are spent on and why: docs/laws.md.")]
pub(crate) struct Args {
    /// The recipe
    recipe: PathBuf,

    /// Change a setting: section.key=value
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Show the runs and what they will take, and stop
    #[arg(long)]
    list: bool,

    /// Leave out the larger run
    #[arg(long)]
    no_held_out: bool,

    /// Threads [default: physical cores]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    threads::start(args.threads);
    let plan = SweepPlan::read(&args.recipe, &args.set)?;
    let runs = plan.runs()?;
    if args.list {
        return list(args, &plan, &runs);
    }
    interrupt::install()?;
    let csv = plan.output.join("sweep.csv");
    let mut rows = Vec::new();
    let mut clock = Clock::new(&runs);
    for (index, one) in runs.iter().enumerate() {
        let label = format!("run {} of {}{}", index + 1, runs.len(), clock.left(index));
        let Some(row) = run::train(&plan, one, args.threads, &label)? else {
            output::note("stopped; the same command goes on");
            return Ok(Outcome::No);
        };
        clock.done(one, &row);
        rows.push(row);
        table::write(&csv, &rows)?;
    }
    if !args.json {
        output::line(&table::text(&rows))?;
    }
    let held_out = plan.section.held_out.filter(|_| !args.no_held_out);
    let law = match fit::of_sweep(&csv, &plan.output) {
        Ok(law) => Some(law),
        Err(error) if held_out.is_none() => {
            output::note(&format!("warning: the runs give no law: {error:#}"));
            None
        }
        Err(error) => return Err(error),
    };
    if let Some(law) = law.as_ref().filter(|_| !args.json) {
        output::text(&law.text)?;
    }
    let checked = match (held_out, &law) {
        (None, _) | (_, None) => None,
        (Some(budget), Some(law)) => {
            let Some(checked) = held_out::check(&plan, law, budget, args.threads)? else {
                output::note("stopped; the same command goes on");
                return Ok(Outcome::No);
            };
            Some(checked)
        }
    };
    if args.json {
        output::json(
            &json!({ "rows": rows, "fit": law.map(|law| law.json), "held_out": checked, "csv": csv }),
        )?;
    } else if let Some(checked) = checked {
        output::line(&checked.text())?;
    }
    Ok(Outcome::Done)
}

/// What is left, from what was done.
struct Clock {
    /// FLOPs of the runs, exact.
    flops: Vec<f64>,
    started: Instant,
    /// FLOPs done since then.
    done: f64,
}

impl Clock {
    fn new(runs: &[SweepRun]) -> Self {
        let flops = runs.iter().map(|run| run.flops_exact).collect();
        Self { flops, started: Instant::now(), done: 0.0 }
    }

    fn done(&mut self, run: &SweepRun, row: &Row) {
        // Runs that were there already say nothing about the speed.
        if row.fresh {
            self.done += run.flops_exact;
        } else if self.done == 0.0 {
            self.started = Instant::now();
        }
    }

    fn left(&self, next: usize) -> String {
        if self.done == 0.0 {
            return String::new();
        }
        let rate = self.done / self.started.elapsed().as_secs_f64();
        let left: f64 = self.flops[next..].iter().sum();
        format!(", about {} left", units::duration(Duration::from_secs_f64(left / rate)))
    }
}

fn list(args: &Args, plan: &SweepPlan, runs: &[SweepRun]) -> anyhow::Result<Outcome> {
    if args.json {
        output::json(&runs)?;
        return Ok(Outcome::Done);
    }
    output::line(&table::planned(runs))?;
    let flops: f64 = runs.iter().map(|run| run.flops_exact).sum();
    output::line(&format!(
        "{} runs, {flops:.2e} FLOPs with attention; {} tokens of data",
        runs.len(),
        units::grouped(plan.unique_tokens())
    ))?;
    Ok(Outcome::Done)
}
