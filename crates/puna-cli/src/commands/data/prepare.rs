//! `puna data prepare`: arguments, progress and the closing report.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::ValueEnum;
use puna_data::manifest::Manifest;
use puna_data::prepare::{
    BadDocuments, DEFAULT_BPE_BYTES, Duplicates, Existing, Mark, Progress as Told, Quality, Stage,
    TokenizerChoice,
};
use puna_data::{PrepareOptions, prepare};
use puna_io::write::parse_size;

use super::{report, sources};
use crate::model_ref::{self, ModelRef};
use crate::progress::{Progress, Unit};
use crate::report::{Hint, Outcome};
use crate::{interrupt, output, text_side};

/// Reads text files and writes token shards (safetensors), the tokenizer and manifest.json. The
/// result depends on inputs and options only, not on threads. A run that was stopped is continued
/// by the same command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    puna data prepare book.txt -o tokens --train-bpe 4096\n  \
    puna data prepare docs/ 'web/**/*.jsonl.zst' -o tokens --tokenizer ./Llama-3.2-1B --dedup near\n  \
    puna data prepare web=crawl/ code=repos/ --weight web=0.8 --weight code=0.2 -o tokens \
    --tokenizer tokenizer.json\n\n\
    Formats: txt, md, html, json, jsonl, csv, tsv, parquet, each also .gz or .zst.")]
pub(crate) struct Args {
    /// Files, folders and patterns; NAME=PATH puts one into the source NAME [default source: data]
    #[arg(required_unless_present = "sources", value_name = "INPUT")]
    inputs: Vec<String>,
    /// TOML file of sources: `[[source]]` tables with name, inputs, weight and text_key
    #[arg(long, value_name = "FILE", conflicts_with_all = ["inputs", "weights"])]
    sources: Option<PathBuf>,
    /// A source's share of the training rows, for all sources or none
    #[arg(long = "weight", value_name = "NAME=SHARE")]
    weights: Vec<String>,
    /// Folder to write
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    #[command(flatten)]
    filters: FilterArgs,
    /// Share of the documents held out for validation, chosen by the hash of their text
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    validation_fraction: f64,
    /// Key or column of the text in JSON, CSV and Parquet
    #[arg(long, value_name = "KEY", default_value = "text")]
    text_key: String,
    /// What separates documents in a text file, as in '<|endoftext|>' [default: a file is one]
    #[arg(long, value_name = "TEXT")]
    separator: Option<String>,
    /// Cut longer documents at line ends into ones of this size at most [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    split_at: Option<String>,
    /// Tokens after which a shard is closed [default: 16777216]
    #[arg(long, value_name = "N")]
    shard_tokens: Option<u64>,
    /// Threads [default: all cores]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Skip and count unreadable files and documents instead of stopping at the first
    #[arg(long)]
    skip_bad: bool,
    /// Replace prepared data in DIR
    #[arg(long)]
    force: bool,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

/// The tokenizer and what it puts around documents.
#[derive(Debug, clap::Args)]
struct TokenizerArgs {
    /// Model, folder or file whose tokenizer to use
    #[arg(long, value_name = "MODEL", required_unless_present = "train_bpe")]
    tokenizer: Option<String>,
    /// Train a byte-level BPE of this many tokens on the documents
    #[arg(long, value_name = "VOCAB_SIZE", conflicts_with = "tokenizer")]
    train_bpe: Option<usize>,
    /// Train it on a sample of this size at most [default: 256MiB]
    #[arg(long, value_name = "SIZE", requires = "train_bpe")]
    bpe_sample: Option<String>,
    /// Put bos before each document [default: as the tokenizer's own settings say]
    #[arg(long, conflicts_with = "no_bos")]
    bos: bool,
    /// Put no bos before documents
    #[arg(long)]
    no_bos: bool,
    /// Put eos after each document [default: as the tokenizer's own settings say]
    #[arg(long, conflicts_with = "no_eos")]
    eos: bool,
    /// Put no eos after documents
    #[arg(long)]
    no_eos: bool,
}

/// Which documents stay.
#[derive(Debug, clap::Args)]
struct FilterArgs {
    /// Which duplicates to drop
    #[arg(long, value_enum, default_value = "exact")]
    dedup: Dedup,
    /// near: least similarity of two documents' sets of five words in a row [default: 0.8]
    #[arg(long, value_name = "SIMILARITY")]
    near_threshold: Option<f64>,
    /// Drop shorter documents
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_chars: usize,
    /// Drop longer documents
    #[arg(long, value_name = "N")]
    max_chars: Option<usize>,
    /// Drop documents with a larger share of characters that are no letters, digits or spaces
    #[arg(long, value_name = "SHARE")]
    max_symbol_ratio: Option<f64>,
    /// Drop documents with a larger share of lines that repeat an earlier one
    #[arg(long, value_name = "SHARE")]
    max_repeated_lines: Option<f64>,
}

/// `--dedup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dedup {
    /// Equal texts, white space aside
    Exact,
    /// Similar texts too (MinHash)
    Near,
    /// None
    None,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let options = args.options()?;
    interrupt::install()?;
    let mut bar: Option<(Stage, Progress)> = None;
    let result = prepare(&options, &mut |told| {
        show(&mut bar, told);
        if interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Some((_, bar)) = bar {
        bar.finish();
    }
    let manifest = result?;
    warn(args, &manifest);
    if args.json {
        output::json(&report::json(&args.out, &manifest)?)?;
    } else {
        output::text(&report::text(&args.out, &manifest))?;
    }
    Ok(Outcome::Done)
}

/// What a user may not expect.
fn warn(args: &Args, manifest: &Manifest) {
    if let Some(asked) = args.tokenizer.train_bpe.filter(|asked| manifest.vocab_size < *asked) {
        output::note(&format!(
            "warning: the tokenizer has {} tokens, not {asked}: the text has no more pairs that \
             occur twice",
            manifest.vocab_size
        ));
    }
    if args.validation_fraction > 0.0 && manifest.validation.is_empty() {
        let documents: u64 = manifest.train.iter().map(|shard| shard.documents).sum();
        output::note(&format!(
            "warning: none of the {documents} documents fell into the validation split; a larger \
             --validation-fraction, a smaller --split-at or, for text files, a --separator \
             makes it likely"
        ));
    }
}

/// One bar per stage.
fn show(bar: &mut Option<(Stage, Progress)>, told: &Told) {
    if bar.as_ref().is_none_or(|(stage, _)| *stage != told.stage) {
        if let Some((_, old)) = bar.take() {
            old.finish();
        }
        let label = match told.stage {
            Stage::TrainTokenizer => "reading for the tokenizer",
            Stage::Tokenize => "tokenizing",
        };
        *bar = Some((told.stage, Progress::new(label, Unit::Bytes)));
    }
    if let Some((_, bar)) = bar {
        bar.update(told.bytes, told.total_bytes);
    }
}

impl Args {
    fn options(&self) -> anyhow::Result<PrepareOptions> {
        let sources = match &self.sources {
            Some(file) => sources::from_toml(file)?,
            None => sources::from_arguments(&self.inputs, &self.weights)?,
        };
        let tokenizer = self.tokenizer.choice()?;
        let mut options = PrepareOptions::new(sources, self.out.clone(), tokenizer);
        (options.bos, options.eos) = self.tokenizer.marks();
        options.validation_fraction = self.validation_fraction;
        options.duplicates = self.filters.duplicates()?;
        options.quality = self.filters.quality();
        options.text_key.clone_from(&self.text_key);
        options.separator.clone_from(&self.separator);
        if let Some(size) = &self.split_at {
            options.piece_bytes = parse_size(size)?;
        }
        options.shard_tokens = self.shard_tokens.unwrap_or(options.shard_tokens);
        options.threads = self.threads.map_or_else(num_cpus::get, NonZeroUsize::get);
        if self.skip_bad {
            options.bad_documents = BadDocuments::Skip;
        }
        if self.force {
            options.existing = Existing::Replace;
        }
        Ok(options)
    }
}

impl TokenizerArgs {
    fn choice(&self) -> anyhow::Result<TokenizerChoice> {
        if let Some(vocab_size) = self.train_bpe {
            let sample = self.bpe_sample.as_deref().map(parse_size).transpose()?;
            let most_bytes = sample.unwrap_or(DEFAULT_BPE_BYTES);
            return Ok(TokenizerChoice::TrainBpe { vocab_size, most_bytes });
        }
        let model = model_ref::resolve(self.tokenizer.as_deref())?;
        if let ModelRef::Path(path) = &model
            && has_tokenizer_files(path)
        {
            return Ok(TokenizerChoice::Path(path.clone()));
        }
        // A GGUF file or the built-in model: its vocabulary is written as a tokenizer.json.
        Ok(TokenizerChoice::loaded(&text_side::tokenizer(&model)?)?)
    }

    fn marks(&self) -> (Mark, Mark) {
        let mark = |always, never| match (always, never) {
            (true, _) => Mark::Always,
            (_, true) => Mark::Never,
            _ => Mark::AsTokenizer,
        };
        (mark(self.bos, self.no_bos), mark(self.eos, self.no_eos))
    }
}

/// A folder with a tokenizer's files, or a file that is one and no checkpoint.
fn has_tokenizer_files(path: &Path) -> bool {
    if path.is_dir() {
        return ["tokenizer.json", "tokenizer.model"].iter().any(|n| path.join(n).is_file());
    }
    path.extension().is_none_or(|ending| ending != "gguf")
}

impl FilterArgs {
    fn duplicates(&self) -> anyhow::Result<Duplicates> {
        match (self.dedup, self.near_threshold) {
            (Dedup::Near, threshold) => {
                Ok(Duplicates::DropNear { threshold: threshold.unwrap_or(0.8) })
            }
            (_, Some(_)) => Err(anyhow!("--near-threshold has no effect without --dedup near"))
                .hint("add --dedup near, or leave --near-threshold out"),
            (Dedup::Exact, None) => Ok(Duplicates::DropExact),
            (Dedup::None, None) => Ok(Duplicates::Keep),
        }
    }

    fn quality(&self) -> Quality {
        Quality {
            min_chars: self.min_chars,
            max_chars: self.max_chars,
            max_symbols: self.max_symbol_ratio,
            max_repeated_lines: self.max_repeated_lines,
        }
    }
}
