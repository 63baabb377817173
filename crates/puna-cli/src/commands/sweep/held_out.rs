//! The larger run: chosen and predicted by the law before it is trained, compared after.

use std::fs;
use std::path::Path;

use anyhow::Context;
use puna_laws::{Interval, Level};
use puna_train::sweep::{SweepPlan, SweepRun};
use serde::{Deserialize, Serialize};

use super::run;
use crate::commands::fit::SweepLaw;
use crate::{output, units};

/// What the law says of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Prediction {
    run: SweepRun,
    /// Where the size comes from.
    size_from: String,
    /// By the parabolas' lowest losses where there are three, else by the parametric law.
    loss: f64,
    loss_from: String,
    /// Ends that hold 80 % and 95 % of the resampled laws.
    interval_80: Option<[f64; 2]>,
    interval_95: Option<[f64; 2]>,
    /// What the parametric law says.
    parametric_loss: f64,
    parametric_interval_80: Option<[f64; 2]>,
}

/// Where a size or a loss comes from.
const PARABOLAS: &str = "parabolas (Approach 2)";
const PARAMETRIC: &str = "parametric law (Approach 3)";

/// The prediction and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Checked {
    #[serde(flatten)]
    prediction: Prediction,
    reached_loss: f64,
    /// (predicted - reached) / reached.
    relative_error: f64,
    seconds: f64,
}

/// Predicts, trains and compares. `None` if the run was stopped.
pub(super) fn check(
    plan: &SweepPlan,
    law: &SweepLaw,
    budget: f64,
    threads: Option<usize>,
) -> anyhow::Result<Option<Checked>> {
    let path = plan.output.join("held_out.json");
    let prediction = match read(&path)? {
        // What was said before the run stays.
        Some(prediction) if prediction.run.budget_flops == budget => prediction,
        _ => {
            let prediction = predict(plan, law, budget)?;
            write(&path, &prediction)?;
            prediction
        }
    };
    let Prediction { run, loss, interval_80, .. } = &prediction;
    let between = interval_80
        .map_or_else(String::new, |[low, high]| format!(" (80 %: {low:.3} to {high:.3})"));
    output::note(&format!(
        "held out: {:.2e} FLOPs, {} parameters, {} tokens; the law predicts {loss:.3}{between}",
        run.budget_flops,
        units::grouped(run.params_matmul),
        units::grouped(run.tokens)
    ));
    let Some(row) = run::train(plan, run, threads, "held-out run")? else { return Ok(None) };
    let relative_error = (prediction.loss - row.loss) / row.loss;
    let checked =
        Checked { prediction, reached_loss: row.loss, relative_error, seconds: row.seconds };
    write(&plan.output.join("held_out_result.json"), &checked)?;
    Ok(Some(checked))
}

fn predict(plan: &SweepPlan, law: &SweepLaw, budget: f64) -> anyhow::Result<Prediction> {
    let (params, size_from) = match law.best_params(budget) {
        Some(params) => (params, PARABOLAS),
        None => (law.law.for_flops(budget).params, PARAMETRIC),
    };
    let run = plan.run_of_size(budget, params)?;
    let (n, d) = (run.params_matmul as f64, run.tokens as f64);
    let ends = |interval: Interval| [interval.low, interval.high];
    let parametric = |level| law.ensemble.as_ref().map(|ensemble| ends(ensemble.loss(n, d, level)));
    let [parametric_80, parametric_95] = [Level::Percent80, Level::Percent95].map(parametric);
    let parametric_loss = law.law.loss(n, d);
    // The run has the best size of its budget, and that is what the parabolas' losses are of.
    let (loss, loss_from, interval_80, interval_95) = match law.lowest_loss(run.flops_6nd) {
        Some((loss, interval)) => {
            let [inner, outer] = [Level::Percent80, Level::Percent95].map(interval);
            (loss, PARABOLAS, inner.map(ends), outer.map(ends))
        }
        None => (parametric_loss, PARAMETRIC, parametric_80, parametric_95),
    };
    Ok(Prediction {
        loss,
        loss_from: loss_from.to_owned(),
        size_from: size_from.to_owned(),
        interval_80,
        interval_95,
        parametric_loss,
        parametric_interval_80: parametric_80,
        run,
    })
}

fn read(path: &Path) -> anyhow::Result<Option<Prediction>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let prediction = serde_json::from_str(&text)
        .with_context(|| format!("{} is no prediction of a sweep", path.display()))?;
    Ok(Some(prediction))
}

fn write(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

impl Checked {
    /// What a person reads.
    pub(super) fn text(&self) -> String {
        let Prediction { run, loss, loss_from, interval_80, size_from, parametric_loss, .. } =
            &self.prediction;
        let between = interval_80.map_or_else(String::new, |[low, high]| {
            format!(", 80 % of the resampled laws from {low:.4} to {high:.4}")
        });
        format!(
            "held-out run: {:.2e} FLOPs, {} parameters ({size_from}), {} tokens\n\
             predicted loss  {loss:.4}{between} ({loss_from})\n\
             reached loss    {:.4}\n\
             error           {:+.2} % (parametric law: {parametric_loss:.4}, {:+.2} %)",
            run.budget_flops,
            units::grouped(run.params_matmul),
            units::grouped(run.tokens),
            self.reached_loss,
            100.0 * self.relative_error,
            100.0 * (parametric_loss / self.reached_loss - 1.0)
        )
    }
}
