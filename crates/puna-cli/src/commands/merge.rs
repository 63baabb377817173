//! `puna merge`: writes a model with its adapters in its weights.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use puna_config::{HeadWeight, WeightDtype};
use puna_infer::{ScoreOptions, ScoreSummary, score};
use puna_io::Checkpoint;
use puna_model::convert::{OutType, Target, convert, hf_files};
use puna_model::{LoadOptions, Model, Precision, export};
use puna_peft::{
    AdapterSet, Base, Method, PeftError, changes_ends, check_mergeable, merged_values,
};

use crate::args::{AdapterArg, Adapters, ModelArgs, read_text};
use crate::progress::{Progress, Spinner, Unit};
use crate::report::{Hint, Outcome};
use crate::{adapters, loaded, output, threads};

/// Writes a model with adapters merged into its weights. A quantized model is dequantized, merged and
/// quantized anew, and what that costs is measured on a text.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  puna merge -m ./model --adapter runs/lora/adapter --out merged\n  \
    puna merge -m model-q4_0.gguf --adapter runs/lora/adapter --out merged.gguf --outtype q4_0 --text-file wiki.txt"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder of an adapter, with a scale other than 1 behind `=`; may be given several times
    #[arg(long, value_name = "DIR[=SCALE]", required = true)]
    adapter: Vec<AdapterArg>,
    /// Folder (bf16, f16, f32) or GGUF file (q8_0, q4_0) to write
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Type of the matrices [default: as the model's, where it is one of these]
    #[arg(long, value_enum)]
    outtype: Option<Type>,
    /// A text whose perplexity is measured with the adapter and with the merged model; needed where
    /// the result is quantized
    #[arg(long, value_name = "FILE")]
    text_file: Option<PathBuf>,
    /// Merge adapters also into another model than the one they were trained for; replace PATH
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `--outtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Type {
    /// float32
    F32,
    /// IEEE half
    F16,
    /// bfloat16
    Bf16,
    /// 8-bit blocks (GGUF)
    #[value(name = "q8_0")]
    Q8_0,
    /// 4-bit blocks (GGUF)
    #[value(name = "q4_0")]
    Q4_0,
}

/// What was done, and what it did to a text's perplexity.
#[derive(Debug, serde::Serialize)]
struct Report {
    out: PathBuf,
    perplexity: Option<Perplexities>,
}

#[derive(Debug, Clone, Copy, serde::Serialize)]
struct Perplexities {
    model: f64,
    with_adapter: f64,
    merged: f64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    threads::start(None);
    let origin = args.model.resolve()?;
    if args.out.exists() && !args.force {
        return Err(anyhow!("{} exists", args.out.display())).hint("--force replaces it");
    }
    let model = {
        let _spinner = Spinner::new(format!("loading {origin}"));
        Model::from_checkpoint(loaded::open(&origin)?, &LoadOptions::new(Precision::Exact))?
    };
    let outtype = args.type_for(&model)?;
    if matches!(outtype, Type::Q8_0 | Type::Q4_0) && args.text_file.is_none() {
        return Err(anyhow!("a quantized result has to be measured"))
            .hint("give a text with --text-file, or --outtype bf16");
    }
    let list = Adapters { list: args.adapter.clone(), force: args.force };
    let methods = adapters::load(&list, &model)?;
    let parts: Vec<(&dyn Method, f32)> = methods.iter().map(|(m, scale)| (&**m, *scale)).collect();
    let set = puna_peft::combine(&parts)?;
    check_mergeable(&set)?;
    write(args, &model, &set, outtype)?;
    let perplexity = match &args.text_file {
        Some(path) => Some(measure(model, set, path, &args.out)?),
        None => None,
    };
    print(args, perplexity)?;
    Ok(Outcome::Done)
}

impl Args {
    fn type_for(&self, model: &Model) -> anyhow::Result<Type> {
        if let Some(outtype) = self.outtype {
            return Ok(outtype);
        }
        Ok(match model.decoder.matrix_format() {
            "F32" => Type::F32,
            "F16" => Type::F16,
            "BF16" => Type::Bf16,
            "Q8_0" => Type::Q8_0,
            "Q4_0" => Type::Q4_0,
            other => {
                return Err(anyhow!("the model's matrices are {other}, which puna cannot write"))
                    .hint("choose a type with --outtype: bf16, q8_0, …");
            }
        })
    }
}

/// Writes the merged model: a folder, or by way of one a GGUF file.
fn write(args: &Args, model: &Model, set: &AdapterSet, outtype: Type) -> anyhow::Result<()> {
    let mut notes = Vec::new();
    let files = hf_files(&model.checkpoint, &model.config, &mut notes)?;
    let mut config = model.config.clone();
    let ends = changes_ends(set);
    if ends != (false, false) && config.decoder.embedding.head == HeadWeight::Tied {
        config.decoder.embedding.head = HeadWeight::Separate;
        output::note("note: embedding and head were one matrix and are two in the merged model");
    }
    let dtype = match outtype {
        Type::F16 => WeightDtype::F16,
        Type::Bf16 => WeightDtype::BF16,
        Type::F32 | Type::Q8_0 | Type::Q4_0 => WeightDtype::F32,
    };
    let to_gguf = match outtype {
        Type::Q8_0 => Some(OutType::Q8_0),
        Type::Q4_0 => Some(OutType::Q4_0),
        _ => None,
    };
    let base = Base { decoder: &model.decoder, config: &model.config };
    let folder = match to_gguf {
        None => args.out.clone(),
        Some(_) => args.out.with_extension("merging"),
    };
    let total = puna_model::slots(&config.decoder).len() as u64;
    let mut progress = Progress::new(format!("merging into {}", args.out.display()), Unit::Tokens);
    let mut done = 0;
    let written = export::write_values(&folder, &config, (dtype, files), |slot| {
        done += 1;
        progress.update(done, total);
        merged_values(&base, set, slot)
    });
    progress.finish();
    written.map_err(|error: PeftError| anyhow!(error))?;
    let Some(out_type) = to_gguf else { return Ok(()) };
    let converted = Checkpoint::open(&folder).map_err(anyhow::Error::from).and_then(|checkpoint| {
        convert(&checkpoint, Target::Gguf, out_type, &args.out, &mut |_, _| {})?;
        Ok(())
    });
    std::fs::remove_dir_all(&folder)
        .with_context(|| format!("cannot remove {}", folder.display()))?;
    converted
}

/// Perplexities of a text: of the model alone, with the adapter beside it, and merged.
fn measure(
    mut model: Model,
    set: AdapterSet,
    text: &Path,
    merged: &Path,
) -> anyhow::Result<Perplexities> {
    let text = read_text(text)?;
    let alone = perplexity(&model, &text)?;
    model.decoder.use_adapters(Some(std::sync::Arc::new(set)));
    let with_adapter = perplexity(&model, &text)?;
    drop(model);
    let merged = Model::load(merged, &LoadOptions::new(Precision::Exact))?;
    Ok(Perplexities { model: alone, with_adapter, merged: perplexity(&merged, &text)? })
}

fn perplexity(model: &Model, text: &str) -> anyhow::Result<f64> {
    let Some(tokenizer) = puna_model::tokenizer(&model.checkpoint)? else {
        bail!("the model has no tokenizer to measure a text with");
    };
    let ids = tokenizer.encode(text, puna_text::SpecialTokens::Add)?;
    let mut progress = Progress::new("scoring", Unit::Tokens);
    let (mut done, total) = (0, ids.len() as u64);
    let options = ScoreOptions::new(&model.decoder, tokenizer.bos());
    let logprobs = score(&model.decoder, &ids, &options, |_| {
        done += 1;
        progress.update(done, total);
    })?;
    progress.finish();
    Ok(ScoreSummary::new(&logprobs).perplexity())
}

fn print(args: &Args, perplexity: Option<Perplexities>) -> anyhow::Result<()> {
    if args.json {
        return output::json(&Report { out: args.out.clone(), perplexity });
    }
    if let Some(p) = perplexity {
        output::line(&format!(
            "perplexity: model {:.4}, with the adapter {:.4}, merged {:.4} ({:+.2} %)",
            p.model,
            p.with_adapter,
            p.merged,
            100.0 * (p.merged / p.with_adapter - 1.0)
        ))?;
    }
    output::line(&format!("done: {}", args.out.display()))
}
