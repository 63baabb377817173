//! Where the tensors of an adapter come from, and what they are called.

use std::sync::Arc;

use puna_model::{LayerSlot, Slot};
use puna_nn::Parameter;

use super::settings::InitWeights;
use crate::files::Tensors;
use crate::init::Random;
use crate::{Base, Module, PeftError};

/// Fresh values, or those of a file.
pub(crate) enum Source<'a> {
    Random(Box<Random>),
    File(&'a Tensors),
}

/// How a fresh tensor begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Init {
    Constant(f32),
    Normal(f32),
    Uniform(f32),
    /// Ones on the diagonal of a square matrix; beside it the library has 1e-6.
    Identity,
}

impl Init {
    /// A linear layer's weight in PyTorch: `kaiming_uniform_(a = √5)` of `width` inputs.
    pub(crate) fn linear(width: usize) -> Self {
        Init::Uniform(1.0 / (width.max(1) as f32).sqrt())
    }
}

/// Makes an adapter's tensors and remembers them in order.
pub(crate) struct Builder<'a> {
    pub(crate) base: Base<'a>,
    /// The adapter's name, which is a part of its tensors'.
    pub(crate) adapter: String,
    pub(crate) source: Source<'a>,
    pub(crate) tensors: HubTensors,
    modules: Vec<Module<'a>>,
}

/// The tensors of an adapter.
#[derive(Debug, Clone, Default)]
pub(crate) struct HubTensors {
    pub(crate) trained: Vec<Arc<Parameter>>,
    /// Saved, but not trained.
    pub(crate) fixed: Vec<Arc<Parameter>>,
    /// Names under which some are saved once more.
    pub(crate) copies: Vec<(String, Arc<Parameter>)>,
}

impl Source<'_> {
    /// Fresh values: the same for the same seed.
    pub(crate) fn random(seed: u64) -> Self {
        Source::Random(Box::new(Random::new(seed)))
    }
}

impl<'a> Builder<'a> {
    pub(crate) fn new(base: &Base<'a>, adapter: &str, source: Source<'a>) -> Self {
        Self {
            base: *base,
            adapter: adapter.to_owned(),
            source,
            tensors: HubTensors::default(),
            modules: base.modules(),
        }
    }

    /// Hidden size (`C`).
    pub(crate) fn hidden(&self) -> usize {
        self.base.config.decoder.hidden_size
    }

    /// Number of blocks.
    pub(crate) fn layers(&self) -> usize {
        self.base.config.decoder.num_layers
    }

    /// What Hugging Face's classes call a block: `model.layers.0`.
    pub(crate) fn block(&self, layer: usize) -> String {
        let output = Slot::Layer(layer, LayerSlot::Output);
        let path = self.modules.iter().find(|module| module.slot == output);
        let block = path.and_then(|module| module.path.rsplit_once('.')?.0.rsplit_once('.'));
        block.map_or_else(|| format!("model.layers.{layer}"), |(block, _)| block.to_owned())
    }

    /// What they call the blocks' parent: `model`.
    pub(crate) fn model(&self) -> String {
        let first = self.block(0);
        first.rsplit_once(".layers.").map_or("model", |(model, _)| model).to_owned()
    }

    /// A linear layer of a block.
    pub(crate) fn module(&self, layer: usize, slot: LayerSlot) -> Option<&Module<'a>> {
        self.modules.iter().find(|module| module.slot == Slot::Layer(layer, slot))
    }

    /// Whether a file has a tensor; true of a fresh adapter.
    pub(crate) fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Random(_) => true,
            Source::File(tensors) => tensors.has(name),
        }
    }

    /// A trained tensor.
    pub(crate) fn trained(
        &mut self,
        name: &str,
        shape: &[usize],
        init: Init,
    ) -> Result<Arc<Parameter>, PeftError> {
        let parameter = self.make(name, shape, init)?;
        self.tensors.trained.push(Arc::clone(&parameter));
        Ok(parameter)
    }

    /// A tensor that is saved and not trained.
    pub(crate) fn fixed(
        &mut self,
        name: &str,
        shape: &[usize],
        init: Init,
    ) -> Result<Arc<Parameter>, PeftError> {
        let parameter = self.make(name, shape, init)?;
        self.tensors.fixed.push(Arc::clone(&parameter));
        Ok(parameter)
    }

    fn make(
        &mut self,
        name: &str,
        shape: &[usize],
        init: Init,
    ) -> Result<Arc<Parameter>, PeftError> {
        let random = match &mut self.source {
            // The shape is compared with the file's before there is memory for it.
            Source::File(tensors) => {
                let values = tensors.values(name, shape)?;
                return Ok(Arc::new(Parameter::new(name, shape, values)));
            }
            Source::Random(random) => random,
        };
        let len = shape.iter().try_fold(1usize, |len, &width| len.checked_mul(width));
        let len = len.filter(|&len| len <= MOST_VALUES).ok_or_else(|| PeftError::Setting {
            key: "adapter",
            value: format!("a tensor {name} of shape {shape:?}"),
            expected: format!("at most {MOST_VALUES} values"),
        })?;
        let values = match init {
            Init::Constant(value) => vec![value; len],
            Init::Normal(std) => random.normal(len, std),
            Init::Uniform(bound) => random.uniform(len, bound),
            Init::Identity => {
                let diagonal = shape.last().map_or(1, |width| width + 1);
                let value = |i: usize| if i.is_multiple_of(diagonal) { 1.0 } else { 1e-6 };
                (0..len).map(value).collect()
            }
        };
        Ok(Arc::new(Parameter::new(name, shape, values)))
    }

    /// A layer's matrix `[out, in]` and bias `[out]`, which begin as `init` says: `up` layers are zero
    /// where a fresh adapter is to change nothing.
    pub(crate) fn linear(
        &mut self,
        prefix: &str,
        [out, width]: [usize; 2],
        init: LinearInit,
    ) -> Result<(Arc<Parameter>, Arc<Parameter>), PeftError> {
        let (weight, bias) = match init {
            LinearInit::Bert => (Init::Normal(BERT_STD), Init::Constant(0.0)),
            LinearInit::Zero => (Init::Constant(0.0), Init::Constant(0.0)),
            LinearInit::Kaiming => (Init::linear(width), Init::Constant(0.0)),
            LinearInit::PyTorch => (Init::linear(width), Init::linear(width)),
            LinearInit::Gate => (Init::Normal(BERT_STD), Init::linear(width)),
        };
        let weight = self.trained(&format!("{prefix}.weight"), &[out, width], weight)?;
        let bias = self.trained(&format!("{prefix}.bias"), &[out], bias)?;
        Ok((weight, bias))
    }
}

/// A fresh tensor with more is a mistake in a setting.
const MOST_VALUES: usize = 1 << 32;

/// Deviation of what begins as BERT's weights do.
const BERT_STD: f32 = 0.02;

/// How a linear layer begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LinearInit {
    /// Normal, bias 0.
    Bert,
    /// Everything 0.
    Zero,
    /// Uniform, bias 0.
    Kaiming,
    /// Uniform, bias too.
    PyTorch,
    /// Normal, bias uniform: LoRA's and the prefix's gates.
    Gate,
}

impl LinearInit {
    /// Of a bottleneck's layers, down and up.
    pub(crate) fn of_bottleneck(init: InitWeights) -> (Self, Self) {
        match init {
            InitWeights::MamAdapter => (LinearInit::Kaiming, LinearInit::Zero),
            _ => (LinearInit::Bert, LinearInit::Bert),
        }
    }
}
