//! `puna fit`: scaling laws from the losses of runs.

mod predict;
mod print;
mod results;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use clap::ValueEnum;
use puna_laws::{
    Budgets, Count, Ensemble, Envelope, Fit, FitOptions, FrontierEnsemble, Group, IsoFlop,
    LawError, Outliers, Point, PointFile, RobustLoss, Study, bootstrap, draw_figures, envelope,
    fit, group_by_budget, isoflop, read_points, without_outliers,
};

use puna_laws::{Interval, Level, ParametricLaw};

use crate::output;
use crate::progress::{Progress, Unit};
use crate::report::Outcome;
use crate::units::read_count;
use predict::Prediction;

/// Resamples of Approaches 1 and 2: their intervals need no fine ends.
const FRONTIER_RESAMPLES: usize = 400;

/// Fits scaling laws to a table of runs by Hoffmann's three approaches, with intervals, and predicts.
#[derive(Debug, clap::Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:\n  \
    puna fit sweep.csv\n  \
    puna fit sweep.csv --out figures --predict-flops 1e21\n  \
    puna fit chinchilla_points.csv --loss l1 --bootstrap 4000 --json\n  \
    puna fit sweep.csv --count all --predict 1B,20B\n\n\
    The table has a line for each run and columns by name: loss (or L), and two of n_params (params, \
    N; params_matmul and params_total of `puna sweep`), n_tokens (tokens, D) and train_flop (flops, \
    C), with C = 6ND. A column budget_flops says which runs belong together.\n\
    Approach 1 is the lower envelope of the sizes' losses, 2 a parabola for each budget, 3 the law \
    L = E + A/N^alpha + B/D^beta."
)]
pub(crate) struct Args {
    /// Table of runs, comma-separated
    file: PathBuf,

    /// What a residual of ln loss costs: huber, or l1, the least absolute deviations
    #[arg(long, value_name = "LOSS", default_value = "huber")]
    loss: LossArg,

    /// Where Huber's loss becomes linear [default: 0.001]
    #[arg(long, value_name = "DELTA")]
    delta: Option<f64>,

    /// Starts of the parametric fit on Hoffmann's grid of 4500
    #[arg(long, value_name = "N", default_value_t = 300)]
    starts: usize,

    /// Resamples for intervals; 0 for none
    #[arg(long, value_name = "N", default_value_t = 1000)]
    bootstrap: usize,

    /// Only this approach (again for more) [default: all that the table allows]
    #[arg(long, value_name = "1|2|3")]
    approach: Vec<ApproachArg>,

    /// Parameters counted where the table has both: matmul (head, but no lookup table) or all
    #[arg(long, value_name = "COUNT", default_value = "matmul")]
    count: CountArg,

    /// Leave out so many of the highest losses [default: 0; 5 for Besiroglu et al.'s 245 points]
    #[arg(long, value_name = "N")]
    drop_highest: Option<usize>,

    /// Budgets of Approach 2, in FLOP [default: those of the table, or where runs crowd]
    #[arg(long, value_name = "C,C,…", value_delimiter = ',', value_parser = read_count)]
    budgets: Vec<f64>,

    /// Folder for figures, fit.json and bootstrap.csv
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Best size, tokens and loss for a budget in FLOP (again for more)
    #[arg(long, value_name = "C", value_parser = read_count)]
    predict_flops: Vec<f64>,

    /// Loss of a size after a number of tokens (again for more)
    #[arg(long, value_name = "N,D")]
    predict: Vec<String>,

    /// Predict more than three decades from the budgets of the table, too
    #[arg(long)]
    extrapolate: bool,

    /// Seed of starts and resamples
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LossArg {
    Huber,
    L1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CountArg {
    Matmul,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ApproachArg {
    #[value(name = "1")]
    Envelope,
    #[value(name = "2")]
    Parabolas,
    #[value(name = "3")]
    Parametric,
}

/// The parametric fit with its resamples.
struct Parametric {
    fit: Fit,
    ensemble: Option<Ensemble>,
}

/// Everything that was found.
struct Results {
    name: String,
    file: PointFile,
    /// The points that were used.
    points: Vec<Point>,
    dropped: usize,
    options: FitOptions,
    parametric: Option<Parametric>,
    parabolas: Option<(Vec<Group>, IsoFlop, Option<FrontierEnsemble>)>,
    envelope: Option<(Envelope, Option<FrontierEnsemble>)>,
    /// Approaches that the table does not allow, and why.
    missing: Vec<(&'static str, &'static str)>,
}

/// What a sweep's table says.
pub(crate) struct SweepLaw {
    pub(crate) law: ParametricLaw,
    pub(crate) ensemble: Option<Ensemble>,
    parabolas: Option<(IsoFlop, Option<FrontierEnsemble>)>,
    /// As `puna fit` prints it, and as JSON.
    pub(crate) text: String,
    pub(crate) json: serde_json::Value,
}

impl SweepLaw {
    /// The best size for a budget, by the parabolas.
    pub(crate) fn best_params(&self, flops: f64) -> Option<f64> {
        self.parabolas.as_ref().map(|(found, _)| found.law.params_for_flops(flops))
    }

    /// The lowest loss for a budget by the parabolas, and an interval of it.
    pub(crate) fn lowest_loss(
        &self,
        flops: f64,
    ) -> Option<(f64, impl Fn(Level) -> Option<Interval>)> {
        let (found, ensemble) = self.parabolas.as_ref()?;
        let interval = move |level| ensemble.as_ref()?.loss_for_flops(flops, level);
        Some((found.loss?.at(flops), interval))
    }
}

/// Fits the table of a sweep; figures, fit.json and bootstrap.csv go into `out`.
pub(crate) fn of_sweep(file: &Path, out: &Path) -> anyhow::Result<SweepLaw> {
    let args = Args {
        file: file.to_path_buf(),
        loss: LossArg::Huber,
        delta: None,
        starts: 300,
        bootstrap: 1000,
        approach: Vec::new(),
        count: CountArg::Matmul,
        drop_highest: None,
        budgets: Vec::new(),
        out: Some(out.to_path_buf()),
        predict_flops: Vec::new(),
        predict: Vec::new(),
        extrapolate: false,
        seed: 0,
        json: false,
    };
    let (results, predictions) = study(&args)?;
    let written = write(&args, &results)?;
    let json = report(&args, &results, &predictions, &written)?;
    let text = print::text(&results, &predictions, args.out.as_deref());
    let parabolas = results.parabolas.map(|(_, found, ensemble)| (found, ensemble));
    let parametric = results.parametric.context("the parametric fit was asked for")?;
    let Parametric { fit, ensemble } = parametric;
    Ok(SweepLaw { law: fit.law, ensemble, parabolas, text, json })
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let (results, predictions) = study(args)?;
    let written = write(args, &results)?;
    let report = report(args, &results, &predictions, &written)?;
    if args.json {
        output::json(&report)?;
    } else {
        output::text(&print::text(&results, &predictions, args.out.as_deref()))?;
    }
    Ok(Outcome::Done)
}

/// Everything as JSON, also in the folder for figures.
fn report(
    args: &Args,
    results: &Results,
    predictions: &[Prediction],
    written: &[PathBuf],
) -> anyhow::Result<serde_json::Value> {
    let report = results::json(results, predictions, written);
    if let Some(folder) = &args.out {
        let path = folder.join("fit.json");
        std::fs::write(&path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report)
}

/// All that the arguments ask for.
fn study(args: &Args) -> anyhow::Result<(Results, Vec<Prediction>)> {
    let options = options(args)?;
    let wants = |approach| args.approach.is_empty() || args.approach.contains(&approach);
    let predicts = !args.predict.is_empty() || !args.predict_flops.is_empty();
    if (predicts || args.out.is_some()) && !wants(ApproachArg::Parametric) {
        bail!("predictions and figures are of the parametric law: give --approach 3, too");
    }
    let questions = predict::questions(args)?;
    let mut results = read(args, options)?;
    if wants(ApproachArg::Parametric) {
        results.parametric = Some(parametric(args, &results)?);
    }
    if wants(ApproachArg::Parabolas) {
        parabolas(args, &mut results);
    }
    if wants(ApproachArg::Envelope) {
        match envelope(&results.points) {
            None => results.missing.push((
                "1",
                "fewer than three sizes are the best at some budget between runs of the same sizes",
            )),
            Some(found) => {
                let ensemble = FrontierEnsemble::of_envelope(
                    &results.points,
                    args.bootstrap.min(FRONTIER_RESAMPLES),
                    args.seed,
                );
                results.envelope = Some((found, ensemble));
            }
        }
    }
    if let ([_, ..], [(approach, why), ..]) = (&args.approach[..], &results.missing[..]) {
        bail!("{}: approach {approach} is not possible: {why}", results.name);
    }
    let predictions = predict::answers(args, &results, &questions)?;
    Ok((results, predictions))
}

fn options(args: &Args) -> anyhow::Result<FitOptions> {
    let loss = match (args.loss, args.delta) {
        (LossArg::Huber, delta) => RobustLoss::Huber { delta: delta.unwrap_or(puna_laws::DELTA) },
        (LossArg::L1, None) => RobustLoss::L1,
        (LossArg::L1, Some(_)) => bail!("--delta is of --loss huber; --loss l1 has none"),
    };
    Ok(FitOptions { loss, starts: args.starts, seed: args.seed })
}

fn read(args: &Args, options: FitOptions) -> anyhow::Result<Results> {
    let count = match args.count {
        CountArg::Matmul => Count::Matmul,
        CountArg::All => Count::All,
    };
    let file = read_points(&args.file, count)?;
    let rule = args.drop_highest.map_or(Outliers::default(), Outliers::Highest);
    let (points, dropped) = without_outliers(&file.points, rule);
    let name = args.file.file_stem().unwrap_or(args.file.as_os_str()).to_string_lossy();
    Ok(Results {
        name: name.into_owned(),
        file,
        points,
        dropped,
        options,
        parametric: None,
        parabolas: None,
        envelope: None,
        missing: Vec::new(),
    })
}

fn parametric(args: &Args, results: &Results) -> anyhow::Result<Parametric> {
    let (points, options) = (&results.points, &results.options);
    let fit = with_progress("fitting", |told| fit(points, options, told))
        .with_context(|| format!("cannot fit {}", args.file.display()))?;
    if args.bootstrap == 0 {
        return Ok(Parametric { fit, ensemble: None });
    }
    let ensemble =
        with_progress("resampling", |told| bootstrap(points, &fit, options, args.bootstrap, told));
    let ensemble = match ensemble {
        Err(LawError::FewResamples { count }) => {
            output::note(&format!(
                "warning: only {count} of {} resamples gave a law; there are no intervals",
                args.bootstrap
            ));
            None
        }
        other => Some(other?),
    };
    Ok(Parametric { fit, ensemble })
}

fn parabolas(args: &Args, results: &mut Results) {
    let budgets = match &args.budgets[..] {
        [] => results.file.budgets(),
        given => Budgets::Given(given.to_vec()),
    };
    let groups = group_by_budget(&results.points, &budgets);
    match isoflop(&groups) {
        None => results.missing.push((
            "2",
            "fewer than two budgets have four runs with the lowest loss between smaller and larger sizes",
        )),
        Some(found) => {
            let resamples = args.bootstrap.min(FRONTIER_RESAMPLES);
            let ensemble = FrontierEnsemble::of_isoflop(&groups, resamples, args.seed);
            results.parabolas = Some((groups, found, ensemble));
        }
    }
}

/// Shows how far a work of many fits is.
fn with_progress<T>(
    label: &str,
    work: impl FnOnce(&(dyn Fn(usize, usize) + Sync)) -> Result<T, LawError>,
) -> Result<T, LawError> {
    let progress = Mutex::new(Progress::new(label, Unit::Fits));
    let result = work(&|done, all| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.update(done as u64, all as u64);
    });
    progress.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
    result
}

/// Figures and resamples, if there is a folder for them.
fn write(args: &Args, results: &Results) -> anyhow::Result<Vec<PathBuf>> {
    let (Some(folder), Some(parametric)) = (&args.out, &results.parametric) else {
        return Ok(Vec::new());
    };
    let study = Study {
        title: &results.name,
        counted: &results.file.counted,
        points: &results.points,
        law: &parametric.fit.law,
        ensemble: parametric.ensemble.as_ref(),
        isoflop: results.parabolas.as_ref().map(|(groups, fit, _)| (&groups[..], fit)),
    };
    let mut written = draw_figures(&study, folder)?;
    if let Some(ensemble) = &parametric.ensemble {
        let path = folder.join("bootstrap.csv");
        write_laws(ensemble, &path)?;
        written.push(path);
    }
    Ok(written)
}

/// The resampled laws with six digits, as assets/besiroglu2024-bootstrap.csv of puna-laws has them.
fn write_laws(ensemble: &Ensemble, path: &Path) -> anyhow::Result<()> {
    let mut text = String::from("A,B,E,alpha,beta\n");
    for law in ensemble.laws() {
        let digits = [law.a, law.b, law.e, law.alpha, law.beta].map(results::six_digits);
        text.push_str(&digits.join(","));
        text.push('\n');
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
