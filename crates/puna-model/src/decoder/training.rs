//! The decoder in training: forward and backward of a batch of rows.
//!
//! The pass is cut at the block boundaries: each block's graph begins at a leaf, and backward walks
//! from block to block. So what a block saved is gone as soon as its backward is done, a block can
//! be computed anew instead of saved (Chen et al. 2016, arXiv:1604.06174), and whoever reduces
//! gradients over processes can begin with the last block while the first ones still run.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use puna_kernels::BlockFormat;
use puna_nn::ops::{
    CrossEntropy, LossSum, Losses, cross_entropy, embedding_backward, embedding_backward_on_device,
    with_f32,
};
use puna_nn::{
    AdapterSet, Balance, Context, FeedForward, Linear, NnError, Parameter, Pass, Precision, RmsNorm,
};
use puna_nn::{PackedWeight, RowsOfTokens, Tokens, Value, Vector, Weight};

use super::rows::{AdaptedHead, EmbeddedRows, Expanded, Prefixes};
use super::{Block, Decoder};
use crate::{Expert, LayerSlot, ModelError, Slot};

/// Rows of tokens, all of one length, behind one another.
#[derive(Debug, Clone, Copy)]
pub struct TokenRows<'a> {
    /// Tokens of a row (`T`).
    pub len: usize,
    /// `[rows·T]`
    pub tokens: &'a [u32],
    /// What each token should predict; `None` where no loss is taken. `[rows·T]`
    pub targets: &'a [Option<u32>],
    /// Factor of each target's loss, not negative, `[rows·T]`; `None`: 1.
    pub weights: Option<&'a [f32]>,
    /// Position of each token in its document, `[rows·T]`.
    pub positions: &'a [u32],
    /// Index in its row of the first token each token sees, `[rows·T]`.
    pub visible_from: &'a [u32],
}

/// What is kept of a block between forward and backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recompute {
    /// Everything its backward needs.
    Nothing,
    /// Its input: the block runs a second time.
    Blocks,
}

/// How a batch is trained on.
#[derive(Debug, Clone)]
pub struct TrainingPass {
    /// Factor of the sum of losses: one over the targets of the whole step.
    pub scale: f32,
    /// Factor of the z-loss.
    pub z_loss: f32,
    /// Factor of the load-balancing loss, a mean over the mixtures of experts.
    pub load_balance: f32,
    /// What is computed twice.
    pub recompute: Recompute,
    /// Arithmetic of the products.
    pub precision: Precision,
    /// What adapts the layers.
    pub adapters: Option<Arc<AdapterSet>>,
    /// Where the random numbers of this batch begin.
    pub seed: u64,
}

impl TrainingPass {
    fn layers(&self, row_len: usize) -> Pass {
        Pass {
            precision: self.precision,
            adapters: self.adapters.clone(),
            row_len,
            seed: Some(self.seed),
            like_training: true,
            twice: self.consistency().is_some(),
        }
    }

    /// Factor of the divergence of two passes over the same rows.
    fn consistency(&self) -> Option<f32> {
        self.adapters.as_ref()?.consistency
    }
}

/// A part of the decoder whose gradients of this pass are complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Final norm, and the head where it is not tied.
    Head,
    /// A block.
    Block(usize),
    /// The embedding, and the head where it is tied.
    Embedding,
}

/// The trained tensors of a decoder, by their places.
#[derive(Debug, Clone)]
pub struct Trainable {
    /// In the order of [`crate::slots`].
    pub parameters: Vec<(Slot, Arc<Parameter>)>,
}

/// What a block's backward starts from.
enum Saved {
    Graph { leaf: Value, out: Value },
    Input(Tensor),
}

impl Decoder {
    /// Makes every weight a trained float32 parameter, whatever it was stored as; `name` says what
    /// optimizers and checkpoints call a slot.
    ///
    /// # Errors
    /// If a weight is not on the CPU.
    pub fn make_trainable(
        &mut self,
        name: impl Fn(Slot) -> String,
    ) -> Result<Trainable, ModelError> {
        let tied = Arc::ptr_eq(self.embedding.weight(), self.head.weight());
        let mut parameters = Vec::new();
        let mut add = |slot: Slot, shape: &[usize], values: Vec<f32>| {
            let parameter = Arc::new(Parameter::new(name(slot), shape, values));
            parameters.push((slot, Arc::clone(&parameter)));
            parameter
        };
        let dense = with_f32(&self.embedding.weight().dequantize()?, <[f32]>::to_vec)?;
        let shape = [self.config.vocab_size, self.config.hidden_size];
        let weight = Arc::new(Weight::Trained(add(Slot::Embedding, &shape, dense)));
        *self.embedding.weight_mut() = Arc::clone(&weight);
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            block.make_trainable(&mut |slot, shape, values| {
                add(Slot::Layer(layer, slot), shape, values)
            })?;
        }
        train_norm(&mut self.final_norm, &mut |shape, values| add(Slot::FinalNorm, shape, values))?;
        if tied {
            *self.head.weight_mut() = weight;
        } else {
            train_linear(&mut self.head, &mut |shape, values| add(Slot::Head, shape, values))?;
        }
        Ok(Trainable { parameters })
    }

    /// Keeps the frozen matrices of the blocks and the head packed for the products of training
    /// ([`PackedWeight`]), if all of these copies take `at_most` bytes.
    ///
    /// # Errors
    /// If a weight cannot be dequantized.
    pub fn keep_packed(&mut self, at_most: usize) -> Result<(), ModelError> {
        let frozen = |linear: &Linear| PackedWeight::bytes(linear.weight());
        let all: usize = self.linears().iter().map(|(_, linear)| frozen(linear)).sum();
        if all > at_most {
            return Ok(());
        }
        // A head of bfloat16 is multiplied as quickly as it lies.
        let words = |w: &Weight| matches!(w, Weight::Block(w) if w.format() == BlockFormat::BF16);
        let head = Some(&mut self.head).filter(|head| !words(head.weight()));
        let blocks = self.blocks.iter_mut().flat_map(Block::linears_mut);
        for linear in blocks.chain(head) {
            if let Some(packed) = PackedWeight::new(linear.weight())? {
                *linear.weight_mut() = Arc::new(Weight::Packed(packed));
            }
        }
        Ok(())
    }

    /// Forward and backward of a batch; gradients are added to the parameters'. `ready` is told of
    /// every stage whose gradients are complete.
    ///
    /// # Errors
    /// If the rows do not fit together, or a token is outside the vocabulary.
    pub fn train_on(
        &self,
        rows: &TokenRows<'_>,
        pass: &TrainingPass,
        mut ready: impl FnMut(Stage),
    ) -> Result<LossSum, ModelError> {
        let layers = pass.layers(rows.len);
        let twice = layers.twice.then(|| Expanded::twice(rows));
        let rows = &twice.as_ref().map_or(*rows, Expanded::rows);
        let expanded = Expanded::new(rows, &layers);
        let rows = &expanded.as_ref().map_or(*rows, Expanded::rows);
        let mut ctx = self.row_context(rows, &layers)?;
        ctx.balance = self.balance(rows, pass);
        let embedded = self.embed_rows(rows, &layers)?;
        let prefix = Prefixes::new(self, &layers)?;
        let mut x = embedded.x.clone(); // [N, C]
        let mut saved = Vec::with_capacity(self.blocks.len());
        for (layer, block) in self.blocks.iter().enumerate() {
            let (leaf, kept) = match pass.recompute {
                Recompute::Nothing => (Value::leaf(x), None),
                Recompute::Blocks => (Value::constant(x.clone()), Some(x)),
            };
            ctx.prefix = prefix.layers.get(layer).cloned();
            if kept.is_some() {
                ctx.prefix = ctx.prefix.map(|kv| Value::constant(kv.tensor().clone()));
            }
            let out = block.forward(layer, &leaf, &mut ctx)?;
            x = out.tensor().clone();
            saved.push(match kept {
                None => Saved::Graph { leaf, out },
                Some(input) => Saved::Input(input),
            });
        }
        let (losses, mut dx) = self.head_loss(Value::leaf(x), rows, pass, &layers)?;
        ready(Stage::Head);
        let mut d_prefix = vec![None; prefix.layers.len()];
        for (layer, block) in self.blocks.iter().enumerate().rev() {
            let (leaf, out) = match saved.pop() {
                Some(Saved::Graph { leaf, out }) => (leaf, out),
                Some(Saved::Input(input)) => {
                    let leaf = Value::leaf(input);
                    ctx.prefix = prefix.layers.get(layer).cloned();
                    let out = block.forward(layer, &leaf, &mut ctx)?;
                    (leaf, out)
                }
                None => break,
            };
            let gradients = out.backward(dx)?;
            dx = gradient_of(&gradients, &leaf)?;
            if let (Some(kv), Some(to)) = (prefix.layers.get(layer), d_prefix.get_mut(layer)) {
                *to = gradients.of(kv).cloned();
            }
            ready(Stage::Block(layer));
        }
        prefix.backward(d_prefix)?;
        embedded.backward(&dx)?;
        self.embedding_gradient(&embedded, rows, &dx, &layers)?;
        ready(Stage::Embedding);
        let mut sum = losses.sum()?;
        if let Some(balance) = &ctx.balance {
            sum.balance = balance.sum / balance.mixtures.max(1) as f64 * sum.targets as f64;
        }
        Ok(sum)
    }

    /// Gives a trained embedding its gradient.
    fn embedding_gradient(
        &self,
        embedded: &EmbeddedRows,
        rows: &TokenRows<'_>,
        dx: &Tensor,
        layers: &Pass,
    ) -> Result<(), ModelError> {
        let replaced = layers.adapters.as_ref().and_then(|set| set.embedding_weight.as_deref());
        let Weight::Trained(weight) = replaced.unwrap_or(self.embedding.weight()) else {
            return Ok(());
        };
        let (tokens, dx) = embedded.of_tokens(rows, dx)?;
        let scale = self.embedding.scale();
        if weight.is_on_device() {
            embedding_backward_on_device(weight, &tokens, &dx, scale)?;
        } else {
            with_f32(&dx, |dx| embedding_backward(weight, &tokens, dx, scale))?;
        }
        Ok(())
    }

    /// What the mixtures of experts need to balance their loads. A batch counts by its targets, so
    /// that the loss of a step is a mean, like the cross-entropy.
    fn balance(&self, rows: &TokenRows<'_>, pass: &TrainingPass) -> Option<Balance> {
        let is_mixture = |block: &&Block| matches!(block.ffn, FeedForward::Moe(_));
        let mixtures = self.blocks.iter().filter(is_mixture).count();
        let targets = rows.targets.iter().flatten().count() as f32;
        let weight = pass.load_balance * pass.scale * targets / mixtures as f32;
        (mixtures > 0).then(|| Balance { weight, ..Balance::default() })
    }

    /// The sums of a batch's losses, without gradients.
    ///
    /// # Errors
    /// As [`Self::train_on`].
    pub fn evaluate(&self, rows: &TokenRows<'_>, pass: &Pass) -> Result<LossSum, ModelError> {
        let pass = Pass { row_len: rows.len, like_training: true, ..pass.clone() };
        let expanded = Expanded::new(rows, &pass);
        let rows = &expanded.as_ref().map_or(*rows, Expanded::rows);
        let x = self.rows_through_blocks(rows, &pass)?;
        let x = self.final_norm.forward_for(&x, pass.precision)?;
        let of = self.loss_of(rows, pass.precision);
        let head = AdaptedHead::new(&self.head, &pass)?;
        Ok(cross_entropy(&x, head.weight(), &of)?.0.sum()?)
    }

    /// Logits behind the last of some tokens, `[V]`, without a cache: for looking at a model while it
    /// is trained.
    ///
    /// # Errors
    /// If there are no tokens, or one is outside the vocabulary.
    pub fn next_logits(&self, tokens: &[u32], pass: &Pass) -> Result<Vec<f32>, ModelError> {
        let len = tokens.len();
        let (targets, visible_from) = (vec![None; len], vec![0; len]);
        let positions: Vec<u32> = (0..len as u32).collect();
        let rows = TokenRows {
            len,
            tokens,
            targets: &targets,
            weights: None,
            positions: &positions,
            visible_from: &visible_from,
        };
        let pass = Pass { row_len: len, ..pass.clone() };
        let expanded = Expanded::new(&rows, &pass);
        let rows = expanded.as_ref().map_or(rows, Expanded::rows);
        let x = self.rows_through_blocks(&rows, &pass)?;
        let last = x.tensor().narrow(0, rows.tokens.len() - 1, 1).map_err(NnError::from)?; // [1, C]
        let normed = self.final_norm.forward(&Value::constant(last))?;
        let logits = self.head.forward(&normed, &pass)?; // [1, V]
        let logits = logits.tensor().to_device(&Device::Cpu).map_err(NnError::from)?;
        let mut logits = with_f32(&logits, <[f32]>::to_vec)?;
        if let Some(cap) = self.config.final_logit_softcap {
            puna_kernels::soft_cap(&mut logits, cap as f32);
        }
        Ok(logits)
    }

    /// The residual stream of whole rows behind all blocks, without gradients.
    fn rows_through_blocks(&self, rows: &TokenRows<'_>, pass: &Pass) -> Result<Value, ModelError> {
        let mut ctx = self.row_context(rows, pass)?;
        let mut x = Value::constant(self.embed_rows(rows, pass)?.x); // [N, C]
        let prefixes = self.prefixes(pass)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            ctx.prefix = prefixes.get(layer).cloned();
            x = block.forward(layer, &x, &mut ctx)?;
        }
        Ok(x)
    }

    /// The loss, and its gradient by the residual stream `[N, C]`.
    fn head_loss(
        &self,
        leaf: Value,
        rows: &TokenRows<'_>,
        pass: &TrainingPass,
        layers: &Pass,
    ) -> Result<(Losses, Tensor), ModelError> {
        let normed = self.final_norm.forward_for(&leaf, pass.precision)?;
        let of = CrossEntropy {
            scale: pass.scale,
            z_loss: pass.z_loss,
            consistency: pass.consistency(),
            ..self.loss_of(rows, pass.precision)
        };
        let head = AdaptedHead::new(&self.head, layers)?;
        let (losses, d_normed) = cross_entropy(&normed, head.weight(), &of)?;
        head.backward()?;
        let Some(d_normed) = d_normed else {
            return Err(NnError::Tracked { op: "a loss without gradients" }.into());
        };
        let gradients = normed.backward(d_normed)?;
        Ok((losses, gradient_of(&gradients, &leaf)?))
    }

    fn loss_of<'a>(&self, rows: &TokenRows<'a>, precision: Precision) -> CrossEntropy<'a> {
        let softcap = self.config.final_logit_softcap.map(|cap| cap as f32);
        CrossEntropy {
            targets: rows.targets,
            weights: rows.weights,
            scale: 1.0,
            z_loss: 0.0,
            softcap,
            consistency: None,
            precision,
        }
    }

    /// What all blocks share in a pass over rows.
    fn row_context(
        &self,
        rows: &TokenRows<'_>,
        pass: &Pass,
    ) -> Result<Context<'static, 'static>, ModelError> {
        let tokens = rows.tokens.len();
        if tokens == 0 {
            return Err(ModelError::NoTokens);
        }
        let whole = rows.len > 0 && tokens.is_multiple_of(rows.len);
        let weights = rows.weights.map_or(tokens, <[f32]>::len);
        let parts = [rows.targets.len(), weights, rows.positions.len(), rows.visible_from.len()];
        if let Some(&got) = parts.iter().find(|&&len| len != tokens || !whole) {
            return Err(NnError::Shape { what: "tokens of rows", expected: tokens, got }.into());
        }
        let before = pass.adapters.as_ref().map_or(0, |set| set.prefix_position()) as u32;
        let positions: Vec<u32> = rows.positions.iter().map(|position| position + before).collect();
        let len = rows.len + before as usize;
        let global_rope = self.global_rotary.tables_at(&positions, len);
        let local_rope = match &self.local_rotary {
            None => Arc::clone(&global_rope),
            Some(rotary) => rotary.tables_at(&positions, len),
        };
        let tokens = Tokens::Rows(RowsOfTokens::new(rows.len, rows.visible_from.to_vec()));
        let (pass, prefix) = (pass.clone(), None);
        Ok(Context { pass, prefix, global_rope, local_rope, tokens, balance: None })
    }
}

fn gradient_of(gradients: &puna_nn::Gradients, leaf: &Value) -> Result<Tensor, ModelError> {
    let found = gradients.of(leaf).cloned();
    found.ok_or_else(|| NnError::Tracked { op: "a block without influence" }.into())
}

/// Makes a parameter of a shape and values.
type Add<'a> = &'a mut dyn FnMut(&[usize], Vec<f32>) -> Arc<Parameter>;

/// [`Add`] for a place in a block.
type AddSlot<'a> = &'a mut dyn FnMut(LayerSlot, &[usize], Vec<f32>) -> Arc<Parameter>;

fn train_linear(linear: &mut Linear, add: Add<'_>) -> Result<(), ModelError> {
    let weight = linear.weight();
    let shape = [weight.rows(), weight.cols()];
    let values = with_f32(&weight.dequantize()?, <[f32]>::to_vec)?;
    *linear.weight_mut() = Arc::new(Weight::Trained(add(&shape, values)));
    Ok(())
}

fn train_vector(vector: &mut Vector, add: Add<'_>) -> Result<(), ModelError> {
    let values = vector.with(<[f32]>::to_vec)?;
    *vector = Vector::Trained(add(&[values.len()], values));
    Ok(())
}

fn train_norm(norm: &mut RmsNorm, add: Add<'_>) -> Result<(), ModelError> {
    train_vector(norm.weight_mut(), add)
}

impl Block {
    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let parts = self.attention.parts_mut();
        let mut all = vec![&mut parts.query, &mut parts.key, &mut parts.value, &mut parts.output];
        let experts = match &mut self.ffn {
            FeedForward::Dense(mlp) => std::slice::from_mut(mlp),
            FeedForward::Moe(moe) => &mut moe.experts[..],
        };
        for mlp in experts {
            all.extend([&mut mlp.gate, &mut mlp.up, &mut mlp.down]);
        }
        all
    }

    fn make_trainable(&mut self, add: AddSlot<'_>) -> Result<(), ModelError> {
        use LayerSlot as L;
        let parts = self.attention.parts_mut();
        let norms = [
            (L::AttnPreNorm, Some(&mut self.attn_pre_norm)),
            (L::QueryNorm, parts.query_norm.as_mut()),
            (L::KeyNorm, parts.key_norm.as_mut()),
            (L::FfnPreNorm, Some(&mut self.ffn_pre_norm)),
            (L::AttnPostNorm, self.attn_post_norm.as_mut()),
            (L::FfnPostNorm, self.ffn_post_norm.as_mut()),
        ];
        for (slot, norm) in norms {
            if let Some(norm) = norm {
                train_norm(norm, &mut |shape, values| add(slot, shape, values))?;
            }
        }
        let mut layers = vec![
            (L::Query, Some(L::QueryBias), &mut parts.query),
            (L::Key, Some(L::KeyBias), &mut parts.key),
            (L::Value, Some(L::ValueBias), &mut parts.value),
            (L::Output, Some(L::OutputBias), &mut parts.output),
        ];
        match &mut self.ffn {
            FeedForward::Dense(mlp) => layers.extend([
                (L::Gate(Expert::Dense), Some(L::GateBias), &mut mlp.gate),
                (L::Up(Expert::Dense), Some(L::UpBias), &mut mlp.up),
                (L::Down(Expert::Dense), Some(L::DownBias), &mut mlp.down),
            ]),
            FeedForward::Moe(moe) => {
                layers.push((L::Router, None, &mut moe.router));
                for (index, mlp) in moe.experts.iter_mut().enumerate() {
                    let expert = Expert::Index(index);
                    layers.push((L::Gate(expert), None, &mut mlp.gate));
                    layers.push((L::Up(expert), None, &mut mlp.up));
                    layers.push((L::Down(expert), None, &mut mlp.down));
                }
            }
        }
        for (slot, bias_slot, linear) in layers {
            train_linear(linear, &mut |shape, values| add(slot, shape, values))?;
            if let (Some(slot), Some(bias)) = (bias_slot, linear.bias_mut()) {
                train_vector(bias, &mut |shape, values| add(slot, shape, values))?;
            }
        }
        Ok(())
    }
}
