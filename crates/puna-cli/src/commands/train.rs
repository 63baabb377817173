//! `puna train`: pretraining and instruction tuning from a recipe.

mod show;

use std::path::PathBuf;
use std::sync::Arc;

use puna_data::SftError;
use puna_model::{DeviceChoice, ModelError};
use puna_train::{Outcome as RunOutcome, Ranks, Recipe, RunMode, Setup, TrainError, Trainer};
use serde_json::json;

use crate::report::{Hint, Outcome};
use crate::{interrupt, output, threads};
use show::Show;

/// Trains a model as a recipe says.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    puna train recipes/pretrain-5m.toml\n  \
    puna train recipes/pretrain-5m.toml --set train.steps=100 --set output=runs/try\n  \
    puna train recipes/pretrain-5m.toml --resume\n\n\
    The output folder gets metrics.jsonl, tensorboard/, checkpoints/, loss.svg, loss.png and, at \
    the end, model/: a Hugging Face folder. Ctrl-C saves a checkpoint and stops.")]
pub(crate) struct Args {
    /// The recipe, a TOML file; paths in it are relative to the current folder
    recipe: PathBuf,

    /// Change a setting: section.key=value
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Where to compute: auto (the first GPU if puna was built with the feature cuda and finds one,
    /// else the CPU), cpu, cuda or cuda:N; as --set train.device=…
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    device: Option<String>,

    /// Go on from the newest checkpoint in the output folder
    #[arg(long, conflicts_with = "restart")]
    resume: bool,

    /// Begin anew although the output folder holds a run; its checkpoints are removed
    #[arg(long)]
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
    let mut recipe = Recipe::read(&args.recipe, &args.set)?;
    if let Some(device) = &args.device {
        recipe.train.device = Some(device.clone());
    }
    let mode = match (args.resume, args.restart) {
        (true, _) => RunMode::Resume,
        (_, true) => RunMode::Restart,
        _ => RunMode::New,
    };
    interrupt::install()?;
    let ranks = puna_train::connect().map_err(advise)?;
    let result = train(recipe, mode, &ranks);
    match result {
        Ok(outcome) if ranks.rank() == 0 => report(args, &outcome),
        Ok(_) => Ok(Outcome::Done),
        Err(error) if ranks.size() > 1 => {
            // The others wait for this process for ever.
            output::note(&format!("process {}: {:#}", ranks.rank(), anyhow::Error::from(error)));
            ranks.abort();
            Ok(Outcome::No)
        }
        Err(error) => Err(advise(error)),
    }
}

fn train(recipe: Recipe, mode: RunMode, ranks: &Arc<dyn Ranks>) -> Result<RunOutcome, TrainError> {
    let setup = Setup::new(recipe, mode, Arc::clone(ranks))?;
    let shown = ranks.rank() == 0;
    if shown {
        setup.notes.iter().for_each(|note| output::note(&format!("note: {note}")));
    }
    let mut trainer = Trainer::new(setup)?;
    let mut show = Show::new();
    let outcome = trainer.run(interrupt::asked, |event| {
        if shown {
            show.event(&event);
        }
    });
    show.finish();
    outcome
}

fn report(args: &Args, outcome: &RunOutcome) -> anyhow::Result<Outcome> {
    match outcome {
        RunOutcome::Done { model, curves, validation_loss } if args.json => output::json(&json!({
            "model": model,
            "curves": curves,
            "validation_loss": validation_loss,
        }))?,
        RunOutcome::Done { model, curves, validation_loss } => {
            output::line(&format!("model            {}", model.display()))?;
            for curve in curves {
                output::line(&format!("loss curve       {}", curve.display()))?;
            }
            if let Some(loss) = validation_loss {
                output::line(&format!("validation loss  {loss:.4} nats per token"))?;
            }
        }
        RunOutcome::Stopped(checkpoint) if args.json => {
            output::json(&json!({ "stopped": checkpoint.step, "checkpoint": checkpoint.path }))?;
        }
        RunOutcome::Stopped(checkpoint) => {
            let (step, path) = (checkpoint.step, checkpoint.path.display());
            output::line(&format!("stopped after step {step}; saved {path}"))?;
            let recipe = args.recipe.display();
            output::line(&format!("continue with: puna train {recipe} --resume"))?;
        }
    }
    Ok(Outcome::Done)
}

/// A device as written: "cuda" leaves it to each of several processes which.
fn device(text: &str) -> Result<String, String> {
    text.parse::<DeviceChoice>().map(|_| text.to_owned())
}

/// Whether it was a GPU that had no memory left; the driver's error comes through as text only.
fn ran_out_of_memory(error: &ModelError) -> bool {
    error.to_string().contains("OUT_OF_MEMORY")
}

/// An error with what to do about it.
fn advise(error: TrainError) -> anyhow::Error {
    let hint = match &error {
        TrainError::Exists { .. } => {
            "--resume goes on from there; --restart removes its checkpoints; or give another \
             folder with --set output=…"
        }
        TrainError::Busy { .. } => {
            "wait for it, stop it, or give another folder with --set output=…"
        }
        TrainError::NothingToResume { .. } => "leave out --resume to begin",
        TrainError::Vocabulary { .. } => {
            "prepare the data with the model's own tokenizer: puna data prepare … --tokenizer MODEL"
        }
        TrainError::NotFinite { .. } => {
            "the newest checkpoint is from before; try a lower optimizer.lr, more \
             schedule.warmup_steps, or loss.z_loss = 1e-4, and --resume"
        }
        TrainError::NoMpi { .. } => {
            "build with --features mpi (Debian: libopenmpi-dev libclang-dev)"
        }
        TrainError::Sft(
            SftError::Read { .. }
            | SftError::Empty { .. }
            | SftError::Encoding { .. }
            | SftError::Json { .. },
        ) => return error.into(),
        TrainError::Sft(_) => {
            "data.unusable = \"skip\" leaves such records out and counts them; data.tools = \"text\" \
             writes calls of tools as text where a template has no place for them"
        }
        TrainError::Model(ModelError::BuiltWithoutCuda | ModelError::NoDevice { .. }) => {
            "build puna with `cargo build --release --features cuda` on a machine with an NVIDIA GPU, \
             or leave --device and train.device out"
        }
        TrainError::Model(error) if ran_out_of_memory(error) => {
            "the GPU has too little memory: lower train.micro_batch, or set train.recompute = \"block\""
        }
        TrainError::NoTargets { .. } => "look at those rows: are all answers empty or masked?",
        _ => return error.into(),
    };
    match Err::<(), _>(error).hint(hint) {
        Err(error) => error,
        Ok(()) => anyhow::anyhow!("{hint}"),
    }
}
