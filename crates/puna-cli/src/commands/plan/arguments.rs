//! The options of `puna plan` as typed, and the settings made of them.

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use puna_config::{DecoderConfig, ModelConfig, preset, preset_names};
use puna_laws::{
    Choice, Fixed, Guard, LawName, Machine, Method, Question, Recompute, Resources, Setting,
    USUAL_MFU, WeightFormat, Zero,
};

use crate::args::read_json;
use crate::report::Hint;
use crate::units::read_count;

/// Tokens per sequence without --seq: Llama 2's.
const SEQ: usize = 4096;
/// Vocabulary without --vocab: LLaMA's.
const VOCAB: usize = 32_000;

fn share(text: &str) -> Result<f64, String> {
    let value = read_count(text)?;
    if value <= 1.0 { Ok(value) } else { Err(format!("{text} is more than 1, the whole peak")) }
}

fn law(text: &str) -> Result<LawName, String> {
    text.parse().map_err(|error: puna_laws::LawError| error.to_string())
}

fn format(text: &str) -> Result<WeightFormat, String> {
    text.parse().map_err(|error: puna_laws::LawError| error.to_string())
}

/// What is wished.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is known")]
pub(crate) struct WishArgs {
    /// Operations of training (6 per parameter and token)
    #[arg(long, value_name = "F", value_parser = read_count, allow_hyphen_values = true)]
    flops: Option<f64>,
    /// Tokens of training
    #[arg(long, value_name = "D", value_parser = read_count, allow_hyphen_values = true)]
    tokens: Option<f64>,
    /// Loss to reach, nats per token
    #[arg(long, value_name = "L", value_parser = read_count, allow_hyphen_values = true)]
    loss: Option<f64>,
    /// Tokens that the model will read and write in service: training and serving are made cheapest
    /// together
    #[arg(long, value_name = "T", value_parser = read_count, allow_hyphen_values = true)]
    serve_tokens: Option<f64>,
    /// Different tokens that there are; training beyond them repeats
    #[arg(long, value_name = "U", value_parser = read_count, allow_hyphen_values = true)]
    unique_tokens: Option<f64>,
}

impl WishArgs {
    pub(super) fn question(&self) -> Question {
        Question {
            flops: self.flops,
            params: None,
            tokens: self.tokens,
            loss: self.loss,
            serve_tokens: self.serve_tokens,
            unique_tokens: self.unique_tokens,
        }
    }
}

/// Which model, if that is known.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is known")]
pub(crate) struct ModelArgs {
    /// Parameters
    #[arg(long, value_name = "N", value_parser = read_count, allow_hyphen_values = true)]
    params: Option<f64>,
    /// A published model's name (llama-3.1-8b), or a config.json
    #[arg(long, value_name = "MODEL", conflicts_with = "params")]
    model: Option<String>,
    /// Vocabulary of the shape that is made for a size [default: 32000]
    #[arg(long, value_name = "V", conflicts_with = "model")]
    vocab: Option<NonZeroUsize>,
}

/// The model as far as it is given.
#[derive(Debug)]
pub(crate) enum Given {
    /// Nothing.
    Nothing { vocab: usize },
    /// A size.
    Params { params: f64, vocab: usize },
    /// All of it.
    Model { name: String, config: Box<DecoderConfig> },
}

impl Given {
    /// Parameters that a token uses.
    pub(super) fn params(&self) -> Option<f64> {
        match self {
            Self::Nothing { .. } => None,
            Self::Params { params, .. } => Some(*params),
            Self::Model { config, .. } => Some(config.parameters().active as f64),
        }
    }
}

impl ModelArgs {
    pub(super) fn given(&self) -> anyhow::Result<Given> {
        let vocab = self.vocab.map_or(VOCAB, NonZeroUsize::get);
        let Some(name) = &self.model else {
            return Ok(match self.params {
                Some(params) => Given::Params { params, vocab },
                None => Given::Nothing { vocab },
            });
        };
        let found = match preset(name)? {
            Some(config) => config,
            None => config_file(name)?,
        };
        Ok(Given::Model { name: name.clone(), config: Box::new(found.decoder) })
    }
}

fn config_file(name: &str) -> anyhow::Result<ModelConfig> {
    let path = Path::new(name);
    let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    if !file.is_file() {
        return Err(anyhow!("{name} is neither a published model known here nor a config.json"))
            .hint(format!("known are {}", preset_names()?.join(", ")));
    }
    let text = read_json(&file)?.to_string();
    ModelConfig::from_hf_json(&text).with_context(|| file.display().to_string())
}

/// Which machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct MachineArgs {
    /// Kind of GPU: h100, h200, b200, a100-40, a100-80, 4090, l4, mi300x, m4-max, …; 8xh100 gives
    /// the number too [default: h100, for the time]
    #[arg(long, value_name = "TYPE")]
    gpu: Option<String>,
    /// Number of GPUs [default: the fewest that hold the model]
    #[arg(long, value_name = "N")]
    gpus: Option<NonZeroUsize>,
    /// Days on these GPUs; without --gpus, the days in which another budget must be spent
    #[arg(long, value_name = "D", value_parser = read_count, allow_hyphen_values = true, conflicts_with = "hours")]
    days: Option<f64>,
    /// The same in hours
    #[arg(long, value_name = "H", value_parser = read_count, allow_hyphen_values = true)]
    hours: Option<f64>,
    /// Dollars to spend
    #[arg(long, value_name = "DOLLARS", value_parser = read_count, allow_hyphen_values = true)]
    budget: Option<f64>,
    /// Dollars per GPU-hour
    #[arg(long, value_name = "DOLLARS", value_parser = read_count, allow_hyphen_values = true)]
    price: Option<f64>,
    /// Share of the GPU's peak that training reaches [default: 0.40]
    #[arg(long, value_name = "SHARE", value_parser = share, allow_hyphen_values = true)]
    mfu: Option<f64>,
}

impl MachineArgs {
    pub(super) fn resources(&self) -> anyhow::Result<Resources> {
        let (gpu, named) = match &self.gpu {
            Some(name) => {
                let (gpu, count) = Machine::parse(name)?;
                (Some(gpu), count)
            }
            None => (None, None),
        };
        let counted = self.gpus.map(NonZeroUsize::get);
        if let (Some(named), Some(counted)) = (named, counted)
            && named != counted
        {
            return Err(anyhow!("--gpu says {named} GPUs and --gpus {counted}"))
                .hint("give the number once");
        }
        Ok(Resources {
            gpu,
            count: counted.or(named),
            hours: self.hours.or(self.days.map(|days| 24.0 * days)),
            budget: self.budget,
            price: self.price,
            mfu: self.mfu.unwrap_or(USUAL_MFU),
        })
    }

    pub(super) fn has_budget(&self) -> bool {
        self.days.is_some() || self.hours.is_some() || self.budget.is_some()
    }
}

/// [`Method`] as typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum MethodArg {
    /// Train all parameters
    Full,
    /// Train low-rank adapters on 16-bit weights
    Lora,
    /// Train low-rank adapters on 4-bit weights
    Qlora,
    /// Serve
    Inference,
}

/// [`Recompute`] as typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum RecomputeArg {
    /// Keep everything, attention's scores too
    Nothing,
    /// All but attention's scores, as fused attention does
    Selective,
    /// Keep each layer's input only
    Full,
}

/// How training or serving is done.
#[derive(Debug, Args)]
#[command(next_help_heading = "How")]
pub(crate) struct SettingArgs {
    /// What is done with the model
    #[arg(long, value_name = "METHOD", default_value = "full")]
    method: MethodArg,
    /// How weights are stored: bf16, f32, int8, q8_0, q4_0, nf4, … [default: bf16; qlora: nf4]
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    precision: Option<WeightFormat>,
    /// Tokens per sequence [default: 4096, or what the model can]
    #[arg(long, value_name = "S")]
    seq: Option<NonZeroUsize>,
    /// Sequences per forward pass of a replica; for inference, sequences at once [default: 1]
    #[arg(long, value_name = "B")]
    micro_batch: Option<NonZeroUsize>,
    /// Tokens per optimizer step [default: 4M, less for short trainings]
    #[arg(long, value_name = "T", value_parser = read_count, allow_hyphen_values = true)]
    batch_tokens: Option<f64>,
    /// Rank of adapters
    #[arg(long, value_name = "R", default_value = "16")]
    rank: NonZeroUsize,
    /// Tensor parallelism [default: searched for, as --pp, --dp, --zero and --recompute are]
    #[arg(long, value_name = "N")]
    tp: Option<NonZeroUsize>,
    /// Pipeline stages
    #[arg(long, value_name = "N")]
    pp: Option<NonZeroUsize>,
    /// Data-parallel replicas
    #[arg(long, value_name = "N")]
    dp: Option<NonZeroUsize>,
    /// ZeRO stage: what replicas divide among themselves
    #[arg(long, value_name = "STAGE", value_parser = clap::value_parser!(u8).range(0..=3))]
    zero: Option<u8>,
    /// What the backward pass computes again instead of keeping it
    #[arg(long, value_name = "WHAT")]
    recompute: Option<RecomputeArg>,
}

impl SettingArgs {
    pub(super) fn method(&self) -> Method {
        match self.method {
            MethodArg::Full => Method::Full,
            MethodArg::Lora => Method::Lora,
            MethodArg::Qlora => Method::Qlora,
            MethodArg::Inference => Method::Inference,
        }
    }

    /// For a training of `tokens` tokens of a model that takes sequences of `longest`.
    pub(super) fn setting(&self, tokens: Option<f64>, longest: Option<usize>) -> Setting {
        const LEAST_STEPS: f64 = 1000.0;
        let seq = self.seq.map_or_else(|| longest.map_or(SEQ, |l| l.min(SEQ)), NonZeroUsize::get);
        let usual = Setting::new(self.method(), seq);
        let short = tokens.map_or(usual.batch_tokens, |tokens| tokens / LEAST_STEPS);
        let batch = match self.method() {
            Method::Full => usual.batch_tokens.min(short.max(seq as f64)),
            _ => 16.0 * seq as f64,
        };
        let degree = |degree: Option<NonZeroUsize>| degree.map(NonZeroUsize::get);
        Setting {
            precision: self.precision,
            batch_tokens: self.batch_tokens.unwrap_or(batch),
            rank: self.rank.get(),
            fixed: Fixed {
                tp: degree(self.tp),
                pp: degree(self.pp),
                dp: degree(self.dp),
                zero: self.zero.map(|stage| Zero::ALL[usize::from(stage)]),
                recompute: self.recompute.map(|recompute| match recompute {
                    RecomputeArg::Nothing => Recompute::Nothing,
                    RecomputeArg::Selective => Recompute::Selective,
                    RecomputeArg::Full => Recompute::Full,
                }),
                micro_batch: degree(self.micro_batch),
            },
            ..usual
        }
    }
}

/// Which law, and what is allowed with it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Law")]
pub(crate) struct RuleArgs {
    /// The scaling law: besiroglu2024 (default), hoffmann2022_tex, huber_exact_epoch240,
    /// devries2023_sardana2024, muennighoff2023_c4 (default with --unique-tokens) or
    /// hoffmann2022_rounded
    #[arg(long, value_name = "NAME", value_parser = law)]
    pub(super) law: Option<LawName>,
    /// Use the law more than three decades away from the budgets it was fitted on
    #[arg(long)]
    extrapolate: bool,
    /// Use hoffmann2022_rounded, which misleads
    #[arg(long)]
    force: bool,
}

impl RuleArgs {
    pub(super) fn choice(&self) -> Choice {
        let guard = |down| if down { Guard::Down } else { Guard::Up };
        Choice {
            law: self.law,
            extrapolation: guard(self.extrapolate),
            rounding: guard(self.force),
        }
    }
}
