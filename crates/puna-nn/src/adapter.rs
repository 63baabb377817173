//! Where a decoder can be adapted: linear layers, the branches of a block, keys and values before a
//! sequence, embeddings.
//!
//! A decoder never changes for an adapter. An [`AdapterSet`] is an argument of a pass, like a cache:
//! layers know their [`Slot`] and ask the set whether it has something for it. What the methods do
//! is in puna-peft; here is only what they can reach.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use crate::ops::{self, LowRank};
use crate::projection::Projection;
use crate::{Linear, NnError, Parameter, Precision, Slot, Value, Vector, Weight};

/// What the layers of a pass are told besides their input.
#[derive(Debug, Clone)]
pub struct Pass {
    /// Arithmetic of the products.
    pub precision: Precision,
    /// What adapts the layers.
    pub adapters: Option<Arc<AdapterSet>>,
    /// Tokens of each sequence of the pass, which all have the same length.
    pub row_len: usize,
    /// In training, and only there: where the random numbers of dropout and routing begin. The same
    /// for both passes of a block that is computed twice.
    pub seed: Option<u64>,
    /// Frozen weights multiply as general products do: in training, and for held-out losses, which are
    /// then of the same arithmetic, and as quick.
    pub like_training: bool,
    /// The second half of the rows repeats the first: both get random numbers of their own.
    pub twice: bool,
}

impl Pass {
    /// A pass without adapters.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        Self {
            precision,
            adapters: None,
            row_len: 0,
            seed: None,
            like_training: false,
            twice: false,
        }
    }

    /// The same pass with other arithmetic.
    #[must_use]
    pub fn with_precision(&self, precision: Precision) -> Self {
        Self { precision, ..self.clone() }
    }

    /// A parameter's values: with a way back in training, else without.
    ///
    /// # Errors
    /// If there is no memory for a copy.
    pub fn parameter(&self, parameter: &Arc<Parameter>) -> Result<Value, NnError> {
        let value = Value::of_parameter(parameter)?;
        Ok(if self.seed.is_some() { value } else { Value::constant(value.tensor().clone()) })
    }

    fn adapted(&self, slot: Option<Slot>) -> Option<&AdaptedLinear> {
        self.adapters.as_ref()?.linears.get(&slot?)
    }
}

/// Changes what a linear layer computes.
pub trait LinearAdapter: Debug + Send + Sync {
    /// What the layer gets instead of `x` `[N, in]`; `None`: `x`.
    ///
    /// # Errors
    /// If shapes do not agree.
    fn input(&self, x: &Value, pass: &Pass) -> Result<Option<Value>, NnError> {
        let _ = (x, pass);
        Ok(None)
    }

    /// The adapted output, from the layer's input `x` `[N, in]` and its output `y` `[N, out]`, which
    /// has the bias; nothing else holds `y`.
    ///
    /// # Errors
    /// If shapes do not agree.
    fn output(&self, x: &Value, y: Value, layer: &Linear, pass: &Pass) -> Result<Value, NnError>;

    /// Two thin matrices, if all that the adapter does in this pass is to add their product with the
    /// layer's input: the layer may multiply by them and its own weight at once.
    fn low_rank(&self, pass: &Pass) -> Option<&LowRank> {
        let _ = pass;
        None
    }

    /// Changes the layer's dense weight `[out, in]` and bias to what the adapter makes of them;
    /// `false` if it depends on the input, so that no weight does the same.
    ///
    /// # Errors
    /// If shapes do not agree.
    fn merge(&self, weight: &mut [f32], bias: Option<&mut [f32]>) -> Result<bool, NnError>;

    /// Adds the gradient of the adapter's parameters that follows from the gradient of the merged
    /// weight `[out, in]`: for the head, whose products are fused with the loss. `false` if it has
    /// none.
    ///
    /// # Errors
    /// If shapes do not agree.
    fn gradient_of_merged(&self, dw: &[f32]) -> Result<bool, NnError> {
        let _ = dw;
        Ok(false)
    }
}

/// A part of a block that ends in a residual sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Branch {
    /// Attention.
    Attention,
    /// The feed-forward part.
    Ffn,
}

/// Changes what a branch adds to the residual stream.
pub trait BranchAdapter: Debug + Send + Sync {
    /// The adapted branch, from the residual stream `[N, C]` before the branch's norm and what the
    /// branch would add to it.
    ///
    /// # Errors
    /// If shapes do not agree.
    fn forward(&self, residual: &Value, branch: Value, pass: &Pass) -> Result<Value, NnError>;
}

/// Keys and values before every sequence, in each layer; keys are not rotated.
pub trait PrefixAdapter: Debug + Send + Sync {
    /// Number of keys (`P`).
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, `[P, L·2·K·D]`: for each layer its keys and then its values.
    ///
    /// # Errors
    /// If an op fails.
    fn encode(&self, pass: &Pass) -> Result<Value, NnError>;

    /// A layer's keys and values `[P, 2·K·D]` as they are for the input `x` `[N, C]` of its attention
    /// part: the same for all sequences (`None`), or for each of them `[N / row_len · P, 2·K·D]`.
    ///
    /// # Errors
    /// If an op fails.
    fn for_input(
        &self,
        layer: usize,
        kv: &Value,
        x: &Value,
        pass: &Pass,
    ) -> Result<Option<Value>, NnError> {
        let _ = (layer, kv, x, pass);
        Ok(None)
    }
}

/// Embeddings before every sequence.
pub trait PromptAdapter: Debug + Send + Sync {
    /// Their number (`P`).
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The embeddings, `[P, C]`.
    ///
    /// # Errors
    /// If an op fails.
    fn embeddings(&self, pass: &Pass) -> Result<Value, NnError>;
}

/// Changes the embeddings of tokens.
pub trait EmbeddingAdapter: Debug + Send + Sync {
    /// The adapted embeddings of some tokens, from those of the model `[N, C]`, which the family's
    /// `scale` was multiplied with.
    ///
    /// # Errors
    /// If an op fails.
    fn forward(&self, tokens: &[u32], x: Value, scale: f32, pass: &Pass) -> Result<Value, NnError>;

    /// Changes the dense matrix `[V, C]` to what the adapter makes of it.
    ///
    /// # Errors
    /// If shapes do not agree.
    fn merge(&self, weight: &mut [f32]) -> Result<(), NnError>;
}

/// What adapts one linear layer.
#[derive(Debug, Clone, Default)]
pub struct AdaptedLinear {
    /// In the order in which they apply.
    pub adapters: Vec<Arc<dyn LinearAdapter>>,
    /// Replaces the layer's weight.
    pub weight: Option<Arc<Weight>>,
    /// Replaces the layer's bias, or is one where it has none.
    pub bias: Option<Vector>,
}

/// What one or several adapters change in a decoder.
#[derive(Debug, Clone, Default)]
pub struct AdapterSet {
    /// Adapted linear layers; the head is [`Slot::Head`] here, tied or not.
    pub linears: HashMap<Slot, AdaptedLinear>,
    /// Adapted branches, by layer.
    pub branches: HashMap<(usize, Branch), Vec<Arc<dyn BranchAdapter>>>,
    /// Keys and values before sequences.
    pub prefix: Option<Arc<dyn PrefixAdapter>>,
    /// Embeddings before sequences.
    pub prompt: Option<Arc<dyn PromptAdapter>>,
    /// Adapted embeddings of tokens.
    pub embedding: Option<Arc<dyn EmbeddingAdapter>>,
    /// Replaces the embedding's matrix.
    pub embedding_weight: Option<Arc<Weight>>,
    /// Position of a sequence's first token: methods that count their prefix have its length.
    pub first_position: usize,
    /// Whether a token's result depends on tokens behind it (gates that average over a sequence), so
    /// that what was computed before is of no use for the next token.
    pub whole_sequence: bool,
    /// In training every row goes through the layers twice, with other random numbers ([`Pass::twice`]),
    /// and this is the factor of the divergence of the two predictions in the loss.
    pub consistency: Option<f32>,
}

impl AdapterSet {
    /// Keys before a sequence's first token.
    #[must_use]
    pub fn virtual_len(&self) -> usize {
        self.prefix.as_ref().map_or(0, |prefix| prefix.len())
            + self.prompt.as_ref().map_or(0, |prompt| prompt.len())
    }

    /// Position of what comes first, be it an embedding of the prompt or a token.
    #[must_use]
    pub fn prefix_position(&self) -> usize {
        self.first_position.saturating_sub(self.prompt.as_ref().map_or(0, |prompt| prompt.len()))
    }

    /// What a branch adds to the residual stream.
    ///
    /// # Errors
    /// If an adapter does not fit.
    pub fn branch(
        &self,
        (layer, branch): (usize, Branch),
        residual: &Value,
        mut x: Value,
        pass: &Pass,
    ) -> Result<Value, NnError> {
        for adapter in self.branches.get(&(layer, branch)).into_iter().flatten() {
            x = adapter.forward(residual, x, pass)?;
        }
        Ok(x)
    }
}

impl Linear {
    /// Applies the layer, and what adapts it in this pass.
    ///
    /// # Shapes
    /// `x` `[N, in]` → `[N, out]`
    ///
    /// # Errors
    /// If the widths do not agree.
    pub fn forward(&self, x: &Value, pass: &Pass) -> Result<Value, NnError> {
        let Some(adapted) = pass.adapted(self.slot()) else {
            return self.product(x, self.bias(), None, pass);
        };
        if let ([adapter], true) = (&adapted.adapters[..], pass.like_training)
            && let Some(low_rank) = adapter.low_rank(pass)
        {
            let weight = adapted.weight.as_ref().unwrap_or(self.weight());
            let y = ops::linear_with_low_rank(x, weight, low_rank, pass.precision)?;
            return biased(y, adapted.bias.as_ref().or(self.bias()));
        }
        let mut x = x.clone();
        for adapter in &adapted.adapters {
            if let Some(changed) = adapter.input(&x, pass)? {
                x = changed;
            }
        }
        let bias = adapted.bias.as_ref().or(self.bias());
        let mut y = self.product(&x, bias, adapted.weight.as_ref(), pass)?;
        for adapter in &adapted.adapters {
            y = adapter.output(&x, y, self, pass)?;
        }
        Ok(y)
    }

    /// The layer with what adapts it in this pass, if that is a weight and at most two thin matrices.
    pub(crate) fn projection(&self, pass: &Pass) -> Option<Projection> {
        let adapted = pass.adapted(self.slot());
        let bias = adapted.and_then(|adapted| adapted.bias.as_ref()).or(self.bias());
        let weight = adapted.and_then(|adapted| adapted.weight.as_ref()).unwrap_or(self.weight());
        let low_rank = match adapted.map(|adapted| &adapted.adapters[..]) {
            None | Some([]) => None,
            Some([adapter]) => Some(adapter.low_rank(pass)?.clone()),
            Some(_) => return None,
        };
        let multiplies = bias.is_none() && !matches!(&**weight, Weight::Dense(_));
        multiplies.then(|| Projection { weight: Arc::clone(weight), low_rank })
    }

    fn product(
        &self,
        x: &Value,
        bias: Option<&Vector>,
        replaced: Option<&Arc<Weight>>,
        pass: &Pass,
    ) -> Result<Value, NnError> {
        let tokens = x.tensor().dims2()?.0;
        let y = if pass.like_training {
            let weight = replaced.unwrap_or(self.weight());
            ops::linear_in_training(x, weight, pass.precision)?
        } else {
            let weight = replaced.unwrap_or_else(|| self.weight_for(tokens));
            ops::linear(x, weight, pass.precision)?
        }; // [N, out]
        biased(y, bias)
    }
}

fn biased(y: Value, bias: Option<&Vector>) -> Result<Value, NnError> {
    match bias {
        None => Ok(y),
        Some(bias) => ops::add_bias(&y, bias),
    }
}
