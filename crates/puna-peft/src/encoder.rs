//! What makes vectors before a sequence: a table, or a table behind a small network that is left out
//! once training is over (reparameterization, arXiv:2101.00190 section 4.3, arXiv:2103.10385 eq. 5).
//!
//! The networks are peft's, with the names that peft's modules have, so that a network trained there can
//! go on here: `embedding`, then `lstm_head`, then a stack of dense layers with an activation in between.
//! They always run in float32: they are small, and what they make is what an adapter's file holds.

use std::path::Path;
use std::sync::Arc;

use puna_nn::ops::{add_bias, linear, with_f32};
use puna_nn::{NnError, Parameter, Pass, Precision, Value, Vector, Weight};

use crate::files::Tensors;
use crate::init::Random;
use crate::lstm::Lstm;
use crate::{PeftError, SavedTensor};

/// File of a network beside peft's own files, which have no place for it.
pub(crate) const ENCODER_FILE: &str = "prompt_encoder.safetensors";

/// Name of what it makes in peft's files.
const EMBEDDINGS: &str = "prompt_embeddings";

/// What parameters are called before the names of peft's modules.
const SCOPE: &str = "prompt_encoder.";

/// Share of the largest value by which the two files of an adapter may differ: half precision.
const SAME: f32 = 1e-2;

/// Makes parameters: of random numbers, or of a file.
pub(crate) enum Source<'a> {
    Random(&'a mut Random),
    File(&'a Tensors),
}

/// How a parameter begins.
#[derive(Clone, Copy)]
pub(crate) enum Begin {
    Normal,
    Uniform { bound: f32 },
    Zero,
}

impl Source<'_> {
    pub(crate) fn parameter(
        &mut self,
        name: &str,
        shape: &[usize],
        begin: Begin,
    ) -> Result<Arc<Parameter>, PeftError> {
        let len = shape.iter().product();
        let values = match (self, begin) {
            (Source::File(tensors), _) => tensors.values(name, shape)?,
            (Source::Random(random), Begin::Normal) => random.normal(len, 1.0),
            (Source::Random(random), Begin::Uniform { bound }) => random.uniform(len, bound),
            (Source::Random(_), Begin::Zero) => vec![0.0; len],
        };
        Ok(scoped(name, shape, values))
    }
}

fn scoped(name: &str, shape: &[usize], values: Vec<f32>) -> Arc<Parameter> {
    Arc::new(Parameter::new(format!("{SCOPE}{name}"), shape, values))
}

/// What stands between dense layers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Activation {
    Relu,
    Tanh,
}

/// `y = W x + b`
#[derive(Debug)]
struct Dense {
    weight: Arc<Weight>,
    bias: Vector,
    /// The two of them.
    parameters: [Arc<Parameter>; 2],
}

/// A table of `P` vectors, and the network behind it.
#[derive(Debug)]
pub(crate) struct Encoder {
    table: Arc<Parameter>,
    lstm: Option<Lstm>,
    dense: Vec<Dense>,
    activation: Activation,
}

/// Shape of a network.
pub(crate) struct Network {
    /// Widths of the dense layers, the first one's input first.
    pub(crate) widths: Vec<usize>,
    pub(crate) activation: Activation,
    /// What peft calls the stack of dense layers: a layer's number counts activations too.
    pub(crate) stack: &'static str,
    /// How the last layer begins, if not at random.
    pub(crate) zero_last: bool,
}

/// Builds an encoder of what a source has.
type Build<'a> = &'a dyn Fn(&mut Source<'_>) -> Result<Encoder, PeftError>;

impl Encoder {
    /// A table without a network, `[P, width]`.
    pub(crate) fn table(shape: [usize; 2], values: Vec<f32>) -> Self {
        let table = scoped("embedding.weight", &shape, values);
        Self { table, lstm: None, dense: Vec::new(), activation: Activation::Relu }
    }

    /// A table `[P, C]` and a network; torch's initial values: tables normal, layers uniform within
    /// `1 / √in`.
    pub(crate) fn network(
        table: [usize; 2],
        lstm: Option<Lstm>,
        network: &Network,
        source: &mut Source<'_>,
    ) -> Result<Self, PeftError> {
        let table = source.parameter("embedding.weight", &table, Begin::Normal)?;
        let mut dense = Vec::new();
        let pairs: Vec<&[usize]> = network.widths.windows(2).collect();
        for (index, pair) in pairs.iter().enumerate() {
            let begin = match network.zero_last && index + 1 == pairs.len() {
                true => Begin::Zero,
                false => Begin::Uniform { bound: 1.0 / (pair[0] as f32).sqrt() },
            };
            let name = |part| format!("{}.{}.{part}", network.stack, 2 * index);
            let weight = source.parameter(&name("weight"), &[pair[1], pair[0]], begin)?;
            let bias = source.parameter(&name("bias"), &[pair[1]], begin)?;
            dense.push(Dense {
                weight: Arc::new(Weight::Trained(Arc::clone(&weight))),
                bias: Vector::Trained(Arc::clone(&bias)),
                parameters: [weight, bias],
            });
        }
        Ok(Self { table, lstm, dense, activation: network.activation })
    }

    /// The table or network of an adapter's folder: a network is built by `network` if its file is
    /// there, and then has to give what the adapter's own file holds.
    pub(crate) fn load(
        dir: &Path,
        shape: [usize; 2],
        network: Option<Build<'_>>,
    ) -> Result<Self, PeftError> {
        let tensors = Tensors::open(dir, &["adapter_model.safetensors", "adapter_model.bin"])?;
        let values = tensors.values(EMBEDDINGS, &shape)?;
        let Some(network) = network.filter(|_| dir.join(ENCODER_FILE).is_file()) else {
            return Ok(Self::table(shape, values));
        };
        let encoder = network(&mut Source::File(&Tensors::open(dir, &[ENCODER_FILE])?))?;
        let largest = values.iter().fold(0f32, |max, v| max.max(v.abs()));
        let made = encoder.output()?;
        let distance = made.iter().zip(&values).map(|(a, b)| (a - b).abs());
        let distance = distance.fold(0f32, f32::max);
        if distance.is_nan() || distance > SAME * largest.max(1e-3) {
            return Err(PeftError::Tensor {
                path: tensors.path.clone(),
                tensor: EMBEDDINGS.to_owned(),
                problem: format!("is not what {ENCODER_FILE} makes (off by {distance})"),
            });
        }
        Ok(encoder)
    }

    /// Number of vectors (`P`).
    pub(crate) fn len(&self) -> usize {
        self.table.shape().first().copied().unwrap_or(0)
    }

    /// The vectors, `[P, width]`.
    pub(crate) fn encode(&self, pass: &Pass) -> Result<Value, NnError> {
        let mut x = pass.parameter(&self.table)?;
        if let Some(lstm) = &self.lstm {
            x = lstm.forward(&x, pass)?;
        }
        for (index, layer) in self.dense.iter().enumerate() {
            if index > 0 {
                let activation = self.activation;
                x = Value::by_candle(&[&x], move |x| match activation {
                    Activation::Relu => x[0].relu(),
                    Activation::Tanh => x[0].tanh(),
                })?;
            }
            x = linear(&x, &layer.weight, Precision::Exact)?;
            x = add_bias(&x, &layer.bias)?;
        }
        Ok(x)
    }

    fn output(&self) -> Result<Vec<f32>, NnError> {
        let made = self.encode(&Pass::new(Precision::Exact))?;
        with_f32(made.tensor(), <[f32]>::to_vec)
    }

    /// All parameters, the table first.
    pub(crate) fn parameters(&self) -> Vec<&Arc<Parameter>> {
        let mut all = vec![&self.table];
        all.extend(self.lstm.iter().flat_map(Lstm::parameters));
        all.extend(self.dense.iter().flat_map(|layer| &layer.parameters));
        all
    }

    /// What peft reads, and the network's file if there is a network.
    pub(crate) fn saved(&self) -> Result<(SavedTensor, Option<Vec<SavedTensor>>), PeftError> {
        let values = self.output()?;
        let shape = vec![self.len(), values.len() / self.len().max(1)];
        let embeddings = SavedTensor { name: EMBEDDINGS.to_owned(), shape, values };
        let saved = |parameter: &Arc<Parameter>| {
            let name = parameter.name();
            SavedTensor::of(name.strip_prefix(SCOPE).unwrap_or(name), parameter)
        };
        let network = !self.dense.is_empty();
        let all = || self.parameters().into_iter().map(saved).collect();
        Ok((embeddings, network.then(all)))
    }
}
