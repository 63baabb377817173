//! Arguments that several commands share, as typed, and the settings made of them.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use puna_model::{Device, DeviceChoice, KvType, LoadOptions, ModelError, Precision, WeightLayout};

use crate::model_ref::ModelRef;
use crate::report::Hint;
use crate::{model_ref, output, threads};

/// Which model.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Folder, file, Hub id (org/name or org/name:file.gguf) or built-in name
    /// [default: the built-in puna-mini]
    #[arg(short, long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
}

impl ModelArgs {
    /// Finds the model, downloading it if it is a Hub id that is not in the cache.
    pub(crate) fn resolve(&self) -> anyhow::Result<ModelRef> {
        model_ref::resolve(self.model.as_deref())
    }
}

/// How to compute.
#[derive(Debug, Clone, Args)]
pub(crate) struct ComputeArgs {
    /// Float32 arithmetic throughout on the stored or dequantized weights, without rounding
    /// activations: slower, and what reference numbers are compared with
    #[arg(long)]
    exact: bool,

    /// Leave weights in the file's pages: no copy in memory, pages shared between processes, but slower
    /// steps (by default they get huge pages, quantized ones interleaved, when decoding begins)
    #[arg(long)]
    no_repack: bool,

    /// Read prompts of bfloat16 and quantized models in tiles of bfloat16 where the processor has them
    /// (AMX): up to five times as fast, but the last bits of a result then depend on how a prompt is
    /// cut and batched. Q8_0 has tiles of its own, which keep its bits
    #[arg(long)]
    prompt_tiles: bool,

    /// How keys and values of past tokens are stored [default: f16, f32 with --exact]
    #[arg(long, value_name = "TYPE")]
    kv_type: Option<KvTypeArg>,

    /// Where to compute: auto (the first GPU if puna was built with the feature cuda and finds one,
    /// else the CPU; with adapters the CPU), cpu, cuda or cuda:N. On a GPU weights are expanded to
    /// bfloat16, with --exact to float32
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// Threads [default: physical cores]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

/// How to run it.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Folder of an adapter (peft's or adapters' files, or what `puna train` wrote), with a scale
    /// other than 1 behind `=`; may be given several times
    #[arg(long, value_name = "DIR[=SCALE]")]
    adapter: Vec<AdapterArg>,

    /// Use adapters also with another model than the one they were trained for
    #[arg(long)]
    force: bool,
}

/// An adapter as typed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AdapterArg {
    pub(crate) path: PathBuf,
    pub(crate) scale: f32,
}

impl FromStr for AdapterArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once('=') {
            // A folder may have a sign of its own in its name.
            Some((path, scale)) if !Path::new(text).is_dir() => {
                let parsed = scale.parse().ok().filter(|scale: &f32| scale.is_finite());
                let scale = parsed.ok_or_else(|| format!("{scale} is no scale"))?;
                Ok(Self { path: path.into(), scale })
            }
            _ => Ok(Self { path: text.into(), scale: 1.0 }),
        }
    }
}

/// Addresses that are prepared for a prompt's activations: some hundred tokens of the widest models.
const ACTIVATION_BYTES: usize = 256 << 20;

/// [`KvType`] as typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KvTypeArg {
    /// 32-bit floats
    F32,
    /// 16-bit floats
    F16,
    /// 8-bit integers with a scale per 32 values
    #[value(name = "q8_0")]
    Q8_0,
}

/// The CPU, if it may be that.
fn without_gpu(device: DeviceChoice) -> anyhow::Result<DeviceChoice> {
    match device {
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(DeviceChoice::Cpu),
        DeviceChoice::Cuda(_) => Err(anyhow!("adapters run on the CPU only"))
            .hint("leave --device out, or put the adapter into the weights with `puna merge`"),
    }
}

/// The device for tensors; `None` is the CPU with its kernels.
fn open(device: DeviceChoice) -> anyhow::Result<Option<Device>> {
    let note = |error: &ModelError| output::note(&format!("computing on the CPU: {error}"));
    device.open(note).map_err(anyhow::Error::from).hint(
        "build puna with `cargo build --release --features cuda` on a machine with an NVIDIA GPU, \
         or leave --device out",
    )
}

/// [`RunArgs`], checked; the thread pool is running.
#[derive(Debug, Clone)]
pub(crate) struct RunSettings {
    pub(crate) model: ModelRef,
    pub(crate) load: LoadOptions,
    pub(crate) threads: usize,
    pub(crate) adapters: Adapters,
}

/// Which adapters, and whether they are used with any model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Adapters {
    pub(crate) list: Vec<AdapterArg>,
    pub(crate) force: bool,
}

impl ComputeArgs {
    /// The same, on the CPU if there are adapters.
    pub(crate) fn with_adapters(&self, adapters: usize) -> anyhow::Result<Self> {
        let device = if adapters > 0 { without_gpu(self.device)? } else { self.device };
        Ok(Self { device, ..self.clone() })
    }

    /// How to load, and how many threads are running now.
    pub(crate) fn settings(&self) -> anyhow::Result<(LoadOptions, usize)> {
        let threads = threads::start(self.threads.map(NonZeroUsize::get));
        puna_kernels::set_prompt_tiles(self.prompt_tiles);
        let precision = if self.exact { Precision::Exact } else { Precision::Fast };
        let mut load = LoadOptions::new(precision);
        if self.no_repack {
            load.layout = WeightLayout::AsStored;
        }
        load.kv_type = self.kv_type.map(|kv_type| match kv_type {
            KvTypeArg::F32 => KvType::F32,
            KvTypeArg::F16 => KvType::F16,
            KvTypeArg::Q8_0 => KvType::Q8_0,
        });
        load.device = open(self.device)?;
        if load.device.is_none() {
            puna_kernels::prepare_heap(ACTIVATION_BYTES);
        } else if load.kv_type.is_some() {
            return Err(anyhow!("on a GPU the KV cache has the type of the weights"))
                .hint("leave --kv-type out, or compute on the CPU with --device cpu");
        }
        Ok((load, threads))
    }
}

impl RunArgs {
    pub(crate) fn settings(&self) -> anyhow::Result<RunSettings> {
        let (load, threads) = self.compute.with_adapters(self.adapter.len())?.settings()?;
        let adapters = Adapters { list: self.adapter.clone(), force: self.force };
        Ok(RunSettings { model: self.model.resolve()?, load, threads, adapters })
    }

    /// Whether a model was named.
    pub(crate) fn has_model(&self) -> bool {
        self.model.model.is_some()
    }
}

/// Reads a text file; `-` is stdin.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    text.with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a JSON file; `-` is stdin.
pub(crate) fn read_json(path: &Path) -> anyhow::Result<serde_json::Value> {
    serde_json::from_str(&read_text(path)?)
        .with_context(|| format!("{} is not valid JSON", path.display()))
}
