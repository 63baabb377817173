//! `puna convert`: writes a checkpoint in another format, and proves that it is the same model.

mod verify;

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::ValueEnum;
use puna_io::Checkpoint;
use puna_io::write::parse_size;
use puna_model::convert::{OutType, Target, convert};
use puna_model::{LoadOptions, Model, Precision};
use puna_peft::Base;

use crate::args::ModelArgs;
use crate::model_ref::ModelRef;
use crate::progress::{Progress, Unit};
use crate::report::{Hint, Outcome};
use crate::{loaded, output, threads, units};

/// Writes a checkpoint as a Hugging Face folder, a GGUF file or Meta's folder. Files appear under
/// their names only when they are complete.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  puna convert -m ./model --to gguf --out model-q8_0.gguf --outtype q8_0\n  \
    puna convert -m model.gguf --to hf --out ./model --max-shard-size 5GB --verify\n  \
    puna convert -m ./model --to meta --out ./meta --model-parallel 2 --verify"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The format
    #[arg(long, value_enum)]
    to: Format,
    /// File (gguf) or folder (hf, meta) to write
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Type of the matrices; auto keeps what is stored where the format can hold it
    #[arg(long, value_enum, default_value = "auto")]
    outtype: Type,
    /// hf: largest shard, as in 5GB or 500MB [default: one file]
    #[arg(long, value_name = "SIZE")]
    max_shard_size: Option<String>,
    /// meta: number of shards
    #[arg(long, value_name = "N")]
    model_parallel: Option<usize>,
    /// Then load both sides and compare logits, greedy tokens and token ids; exit code 1 if they
    /// differ by more than the new type explains
    #[arg(long)]
    verify: bool,
    /// Write this LoRA of MODEL instead of MODEL (gguf), for llama.cpp's --lora
    #[arg(long, value_name = "DIR", conflicts_with_all = ["verify", "max_shard_size", "model_parallel"])]
    adapter: Option<PathBuf>,
    /// Replace what stands at PATH
    #[arg(long)]
    force: bool,
}

/// `--to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Hugging Face folder of safetensors
    Hf,
    /// One GGUF file
    Gguf,
    /// Meta's consolidated.NN.pth and params.json
    Meta,
}

/// `--outtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Type {
    /// As stored
    Auto,
    /// float32
    F32,
    /// IEEE half
    F16,
    /// bfloat16
    Bf16,
    /// 8-bit blocks (gguf)
    #[value(name = "q8_0")]
    Q8_0,
    /// 4-bit blocks, embedding and head in 8-bit ones (gguf)
    #[value(name = "q4_0")]
    Q4_0,
}

impl Type {
    fn out_type(self) -> OutType {
        match self {
            Self::Auto => OutType::Auto,
            Self::F32 => OutType::F32,
            Self::F16 => OutType::F16,
            Self::Bf16 => OutType::BF16,
            Self::Q8_0 => OutType::Q8_0,
            Self::Q4_0 => OutType::Q4_0,
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let target = args.target()?;
    threads::start(None);
    let origin = args.model.resolve()?;
    check_out(&origin, &args.out, args.force)?;
    let checkpoint = loaded::open(&origin)?;
    if let Some(dir) = &args.adapter {
        return write_adapter(args, checkpoint, dir);
    }
    let label = format!("writing {}", args.out.display());
    let mut progress = Progress::new(label, Unit::Bytes);
    let out_type = args.outtype.out_type();
    let report = convert(&checkpoint, target, out_type, &args.out, &mut |done, total| {
        progress.update(done, total);
    })?;
    progress.finish();
    for note in &report.notes {
        output::note(&format!("note: {note}"));
    }
    if args.verify && verify::verify(&origin, &args.out)? == Outcome::No {
        return Ok(Outcome::No);
    }
    output::line(&format!(
        "done: {} tensors, {} in {} files at {}",
        report.tensors,
        units::bytes(report.bytes),
        report.files.len(),
        args.out.display()
    ))?;
    Ok(Outcome::Done)
}

/// Writes a LoRA of the model as GGUF.
fn write_adapter(args: &Args, checkpoint: Checkpoint, dir: &Path) -> anyhow::Result<Outcome> {
    if args.to != Format::Gguf {
        return Err(anyhow::anyhow!("an adapter is written as GGUF only"))
            .hint("--to gguf; `puna merge` writes a whole model with the adapter in it");
    }
    let model = Model::from_checkpoint(checkpoint, &LoadOptions::new(Precision::Exact))?;
    let base = Base { decoder: &model.decoder, config: &model.config };
    puna_peft::check_base(dir, &base)?;
    let method = puna_peft::load(dir, &base)?;
    puna_peft::save_gguf(&*method, &base, &args.out)?;
    output::line(&format!("done: {} parameters at {}", method.size(), args.out.display()))?;
    Ok(Outcome::Done)
}

impl Args {
    fn target(&self) -> anyhow::Result<Target> {
        if self.max_shard_size.is_some() && self.to != Format::Hf {
            bail!("--max-shard-size is for --to hf");
        }
        if self.model_parallel.is_some() && self.to != Format::Meta {
            bail!("--model-parallel is for --to meta");
        }
        Ok(match self.to {
            Format::Hf => {
                let max_shard_bytes = self.max_shard_size.as_deref().map(parse_size).transpose()?;
                Target::Hf { max_shard_bytes }
            }
            Format::Gguf => Target::Gguf,
            Format::Meta => Target::Meta { model_parallel: self.model_parallel.unwrap_or(1) },
        })
    }
}

/// Nothing is overwritten unasked, and never the source.
fn check_out(origin: &ModelRef, out: &Path, force: bool) -> anyhow::Result<()> {
    if let ModelRef::Path(source) = origin
        && let (Ok(source), Ok(out)) = (source.canonicalize(), out.canonicalize())
        && source == out
    {
        bail!("{} is the source itself", out.display());
    }
    // an interrupted conversion leaves only its own working folder, which the next one clears
    let left_over = |name: &std::ffi::OsStr| name == ".puna.tmp";
    let is_empty_folder = || {
        std::fs::read_dir(out)
            .is_ok_and(|entries| entries.flatten().all(|entry| left_over(&entry.file_name())))
    };
    if force || !out.exists() || is_empty_folder() {
        return Ok(());
    }
    Err(anyhow::anyhow!("{} exists", out.display())).hint("--force replaces it")
}
