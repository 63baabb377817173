//! The runs of a sweep as CSV and as text.

use std::path::Path;

use puna_io::AtomicFile;
use puna_train::sweep::SweepRun;
use serde::Serialize;

use crate::{output, units};

/// A run with what came of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    /// What was run.
    #[serde(flatten)]
    pub(super) run: SweepRun,
    /// Final loss on held-out text, nats per token.
    pub(super) loss: f64,
    /// Of the steps.
    pub(super) seconds: f64,
    /// Largest resident memory after a step.
    pub(super) peak_bytes: u64,
    /// Whether it was run just now.
    #[serde(skip)]
    pub(super) fresh: bool,
}

const COLUMNS: &str = "budget_flops,run,layers,hidden,heads,ffn,params_matmul,params_total,tokens,\
    epochs,flops_6nd,flops_exact,batch_tokens,lr,steps,loss,seconds,peak_bytes";

/// Writes the rows, whole or not at all.
pub(super) fn write(path: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let mut text = String::from(COLUMNS);
    text.push('\n');
    for Row { run, loss, seconds, peak_bytes, .. } in rows {
        let shape = run.shape;
        text.push_str(&format!(
            "{:e},{},{},{},{},{},{},{},{},{:.4},{:.6e},{:.6e},{},{:.6},{},{loss:.6},{seconds:.1},\
             {peak_bytes}\n",
            run.budget_flops,
            run.name,
            shape.layers,
            shape.hidden,
            shape.heads,
            shape.ffn,
            run.params_matmul,
            run.params_total,
            run.tokens,
            run.epochs,
            run.flops_6nd,
            run.flops_exact,
            run.batch_tokens,
            run.lr,
            run.steps,
        ));
    }
    let mut file = AtomicFile::create(path)?;
    file.append(text.as_bytes())?;
    Ok(file.commit()?)
}

fn cells(run: &SweepRun) -> Vec<String> {
    vec![
        format!("{:e}", run.budget_flops),
        format!("{} x {}", run.shape.hidden, run.shape.layers),
        units::grouped(run.params_matmul),
        units::grouped(run.tokens),
        format!("{:.1}", run.tokens as f64 / run.params_matmul as f64),
        format!("{:.2}", run.epochs),
        format!("{:.2}", run.flops_exact / run.flops_6nd),
        units::grouped(run.batch_tokens),
        format!("{:.1e}", run.lr),
        units::grouped(run.steps),
    ]
}

const HEAD: [&str; 10] = [
    "FLOPs",
    "hidden x layers",
    "parameters",
    "tokens",
    "tokens/param",
    "epochs",
    "exact/6ND",
    "batch",
    "lr",
    "steps",
];

/// The runs before they are made.
pub(super) fn planned(runs: &[SweepRun]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned).to_vec()];
    lines.extend(runs.iter().map(cells));
    output::table(&lines)
}

/// The runs with their losses.
pub(super) fn text(rows: &[Row]) -> String {
    let mut lines =
        vec![HEAD.iter().chain(&["loss", "seconds"]).map(|s| (*s).to_owned()).collect()];
    for row in rows {
        let mut line = cells(&row.run);
        line.push(format!("{:.4}", row.loss));
        line.push(format!("{:.0}", row.seconds));
        lines.push(line);
    }
    output::table(&lines)
}
