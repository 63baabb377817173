//! `puna pet`: classification by cloze questions.

use std::path::PathBuf;

use puna_train::TrainError;
use puna_train::pet::{Classified, PetEvent, PetRecipe, PetResult, classify, train};
use serde_json::json;

use crate::progress::{Progress, Unit};
use crate::report::{Hint, Outcome};
use crate::{interrupt, output, threads};

/// Trains a classifier on few labeled examples by cloze questions (PET, arXiv:2001.07676): an adapter for
/// each pattern, soft labels for unlabeled examples from all of them, an adapter trained on those.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    puna pet recipes/pet.toml\n  \
    puna pet recipes/pet.toml --set train.steps=50 --set output=runs/try\n  \
    puna pet recipes/pet.toml --classify new.jsonl\n\n\
    Files are JSON objects, one to a line or in a list: the fields that patterns name, and the label. The \
    output folder gets pattern-1/, pattern-2/, … and final/ (adapters in peft's files), \
    soft_labels.jsonl and pet.json. Adapters that are there are not trained again, so Ctrl-C and the \
    same command go on with the pattern that was at work.")]
pub(crate) struct Args {
    /// The recipe, a TOML file; paths in it are relative to the current folder
    recipe: PathBuf,

    /// Change a setting: section.key=value
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Label the examples of this file with what was trained, a line of JSON for each
    #[arg(long, value_name = "FILE")]
    classify: Option<PathBuf>,

    /// Begin anew although the output folder holds a run; its adapters are removed
    #[arg(long, conflicts_with = "classify")]
    restart: bool,

    /// Threads [default: physical cores]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    threads::start(args.threads);
    let recipe = PetRecipe::read(&args.recipe, &args.set)?;
    if let Some(path) = &args.classify {
        return print_labels(&classify(&recipe, path).map_err(advise)?);
    }
    interrupt::install()?;
    let mut show = Show::default();
    let result = train(&recipe, args.restart, interrupt::asked, |event| show.event(event));
    show.done();
    match result {
        Ok(result) => print(args, &recipe, &result),
        Err(TrainError::Stopped) => {
            output::note("stopped; the same command goes on with the pattern that was at work");
            Ok(Outcome::No)
        }
        Err(error) => Err(advise(error)),
    }
}

/// What is seen of a run while it goes on.
#[derive(Default)]
struct Show {
    bar: Option<Progress>,
}

impl Show {
    fn event(&mut self, event: PetEvent<'_>) {
        match event {
            PetEvent::Found(folder) => {
                output::note(&format!("{} is there already", folder.display()));
            }
            PetEvent::Labeled(count) => output::note(&format!("{count} examples have soft labels")),
            PetEvent::Step { pattern, step: (done, all), loss } => {
                let what = match pattern {
                    Some(index) => format!("pattern {}", index + 1),
                    None => "soft labels".to_owned(),
                };
                let bar = self.bar.get_or_insert_with(|| Progress::new(&what, Unit::Steps));
                bar.update(done, all);
                if done == all {
                    self.done();
                    output::note(&format!("{what}: {all} steps, loss {loss:.4} at the last"));
                }
            }
        }
    }

    fn done(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

fn print(args: &Args, recipe: &PetRecipe, result: &PetResult) -> anyhow::Result<Outcome> {
    if args.json {
        output::json(result)?;
        return Ok(Outcome::Done);
    }
    let [labeled, unlabeled, test] = result.examples;
    output::line(&format!("{labeled} labeled, {unlabeled} unlabeled and {test} test examples\n"))?;
    output::line("right: labeled before, after   test before, after   pattern")?;
    let share = |share: Option<f64>| match share {
        Some(share) => format!("{:.1} %", 100.0 * share),
        None => "-".to_owned(),
    };
    for of in &result.patterns {
        output::line(&format!(
            "{:>22} {:>8} {:>13} {:>8}   {}",
            share(Some(of.train_before)),
            share(Some(of.train)),
            share(of.test_before),
            share(of.test),
            of.pattern.replace('\n', "⏎")
        ))?;
    }
    if result.ensemble.is_some() {
        output::line(&format!("{:>54}   all patterns", share(result.ensemble)))?;
    }
    if result.distilled.is_some() {
        output::line(&format!("{:>54}   trained on soft labels", share(result.distilled)))?;
    }
    output::line(&format!("\nadapters and results: {}", recipe.output.display()))?;
    Ok(Outcome::Done)
}

fn print_labels(all: &[Classified]) -> anyhow::Result<Outcome> {
    for one in all {
        output::line(&json!(one).to_string())?;
    }
    Ok(Outcome::Done)
}

/// An error with what to do about it.
fn advise(error: TrainError) -> anyhow::Error {
    let hint = match &error {
        TrainError::OtherRecipe { .. } => {
            "--restart removes what that recipe trained; or give another folder with --set output=…"
        }
        TrainError::Setting { key: "pet.labels", .. } => {
            "`puna tokenize -m MODEL \"word\"` shows tokens; many models want a space in front \
             (\" good\")"
        }
        _ => return error.into(),
    };
    match Err::<(), _>(error).hint(hint) {
        Err(error) => error,
        Ok(()) => anyhow::anyhow!("{hint}"),
    }
}
