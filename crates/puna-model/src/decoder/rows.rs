//! What adapters do around the blocks in a pass over whole rows.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use puna_nn::ops::with_f32;
use puna_nn::{Linear, NnError, Parameter, Pass, Slot, Value, Weight};

use super::{Decoder, TokenRows};
use crate::ModelError;

/// Rows with an adapter's embeddings in front of each of their documents. These are tokens with ids
/// behind the vocabulary.
pub(super) struct Expanded {
    len: usize,
    tokens: Vec<u32>,
    targets: Vec<Option<u32>>,
    weights: Option<Vec<f32>>,
    positions: Vec<u32>,
    visible_from: Vec<u32>,
}

/// Id of an adapter's first embedding.
const FIRST_VIRTUAL: u32 = 1 << 31;

impl Expanded {
    /// All rows, and all again without targets.
    pub(super) fn twice(rows: &TokenRows<'_>) -> Self {
        let none = rows.targets.iter().map(|_| None);
        Self {
            len: rows.len,
            tokens: rows.tokens.repeat(2),
            targets: rows.targets.iter().copied().chain(none).collect(),
            weights: rows.weights.map(|weights| weights.repeat(2)),
            positions: rows.positions.repeat(2),
            visible_from: rows.visible_from.repeat(2),
        }
    }

    /// `None` if there are no embeddings.
    pub(super) fn new(rows: &TokenRows<'_>, pass: &Pass) -> Option<Self> {
        let prompt = pass.adapters.as_ref()?.prompt.as_ref()?.len();
        let weights = rows.weights.map_or(rows.tokens.len(), <[f32]>::len);
        let parts = [rows.targets.len(), weights, rows.positions.len(), rows.visible_from.len()];
        let whole = rows.len > 0 && rows.tokens.len().is_multiple_of(rows.len);
        if !whole || parts.iter().any(|&len| len != rows.tokens.len()) {
            // The layers' context says what is wrong.
            return None;
        }
        let starts = |row: &[u32]| (0..row.len()).filter(|&i| row[i] as usize == i).count();
        let documents = rows.visible_from.chunks(rows.len.max(1)).map(starts).max()?;
        let len = rows.len + documents * prompt;
        let mut all = Self {
            len,
            tokens: Vec::new(),
            targets: Vec::new(),
            weights: rows.weights.map(|_| Vec::new()),
            positions: Vec::new(),
            visible_from: Vec::new(),
        };
        for row in 0..rows.tokens.len() / rows.len.max(1) {
            let first = all.tokens.len();
            let mut start = 0;
            for at in row * rows.len..(row + 1) * rows.len {
                if rows.visible_from[at] as usize == at - row * rows.len {
                    start = (all.tokens.len() - first) as u32;
                    for p in 0..prompt as u32 {
                        all.push((FIRST_VIRTUAL + p, None), 0.0, p, start);
                    }
                }
                let position = rows.positions[at] + prompt as u32;
                let weight = rows.weights.map_or(1.0, |weights| weights[at]);
                all.push((rows.tokens[at], rows.targets[at]), weight, position, start);
            }
            while all.tokens.len() < first + len {
                let own = (all.tokens.len() - first) as u32;
                all.push((0, None), 0.0, 0, own);
            }
        }
        Some(all)
    }

    fn push(
        &mut self,
        (token, target): (u32, Option<u32>),
        weight: f32,
        position: u32,
        visible_from: u32,
    ) {
        self.tokens.push(token);
        self.targets.push(target);
        if let Some(weights) = &mut self.weights {
            weights.push(weight);
        }
        self.positions.push(position);
        self.visible_from.push(visible_from);
    }

    pub(super) fn rows(&self) -> TokenRows<'_> {
        TokenRows {
            len: self.len,
            tokens: &self.tokens,
            targets: &self.targets,
            weights: self.weights.as_deref(),
            positions: &self.positions,
            visible_from: &self.visible_from,
        }
    }
}

/// The residual stream before the first block, and what it was made of.
pub(super) struct EmbeddedRows {
    /// `[N, C]`
    pub(super) x: Tensor,
    /// Embeddings of the tokens, where an adapter makes them, and of an adapter; each with the rows
    /// that it fills and which of its rows is there.
    parts: Vec<(Value, Vec<(usize, usize)>)>,
}

impl Decoder {
    pub(super) fn embed_rows(
        &self,
        rows: &TokenRows<'_>,
        pass: &Pass,
    ) -> Result<EmbeddedRows, ModelError> {
        let is_virtual = |token: &u32| *token >= FIRST_VIRTUAL;
        if pass.adapters.is_none() {
            return Ok(EmbeddedRows { x: self.embedding.forward(rows.tokens)?, parts: Vec::new() });
        }
        let tokens: Vec<u32> = rows.tokens.iter().copied().filter(|t| !is_virtual(t)).collect();
        let own = self.embedded(&tokens, pass)?;
        let prompt = pass.adapters.as_ref().and_then(|set| set.prompt.as_ref());
        let Some(prompt) = prompt else {
            let places = (0..tokens.len()).map(|n| (n, n)).collect();
            return Ok(EmbeddedRows { x: own.tensor().clone(), parts: vec![(own, places)] });
        };
        let prompt = prompt.embeddings(pass)?;
        let (mut of_tokens, mut of_prompt) = (Vec::new(), Vec::new());
        for (n, token) in rows.tokens.iter().enumerate() {
            match token.checked_sub(FIRST_VIRTUAL) {
                Some(p) => of_prompt.push((n, p as usize)),
                None => of_tokens.push((n, of_tokens.len())),
            }
        }
        let width = self.config.hidden_size;
        let mut x = puna_kernels::zeros(rows.tokens.len() * width);
        let parts = vec![(own, of_tokens), (prompt, of_prompt)];
        for (value, places) in &parts {
            with_f32(value.tensor(), |values| {
                for &(to, from) in places {
                    x[to * width..][..width].copy_from_slice(&values[from * width..][..width]);
                }
            })?;
        }
        let x = Tensor::from_vec(x, (rows.tokens.len(), width), &Device::Cpu);
        Ok(EmbeddedRows { x: x.map_err(NnError::from)?, parts })
    }
}

impl EmbeddedRows {
    /// The model's own tokens, and the gradients of their embeddings.
    pub(super) fn of_tokens<'a>(
        &self,
        rows: &TokenRows<'a>,
        dx: &Tensor,
    ) -> Result<(Cow<'a, [u32]>, Tensor), ModelError> {
        if rows.tokens.iter().all(|&token| token < FIRST_VIRTUAL) {
            return Ok((Cow::Borrowed(rows.tokens), dx.clone()));
        }
        let own = |&n: &u32| rows.tokens[n as usize] < FIRST_VIRTUAL;
        let places: Vec<u32> = (0..rows.tokens.len() as u32).filter(own).collect();
        let tokens = places.iter().map(|&n| rows.tokens[n as usize]).collect();
        let places = Tensor::new(places, &Device::Cpu).map_err(NnError::from)?;
        Ok((Cow::Owned(tokens), dx.index_select(&places, 0).map_err(NnError::from)?))
    }

    /// Gives what made the embeddings its gradient.
    pub(super) fn backward(&self, dx: &Tensor) -> Result<(), ModelError> {
        for (value, places) in self.parts.iter().filter(|(value, _)| value.is_tracked()) {
            let (rows, width) = value.tensor().dims2().map_err(NnError::from)?;
            let mut seed = puna_kernels::zeros(rows * width);
            with_f32(dx, |dx| {
                for &(from, to) in places {
                    let sum = &mut seed[to * width..][..width];
                    sum.iter_mut().zip(&dx[from * width..]).for_each(|(sum, d)| *sum += d);
                }
            })?;
            let seed = Tensor::from_vec(seed, (rows, width), &Device::Cpu);
            value.backward(seed.map_err(NnError::from)?)?;
        }
        Ok(())
    }
}

/// Keys and values before sequences: encoded once, a leaf for every layer.
pub(super) struct Prefixes {
    all: Option<Value>,
    pub(super) layers: Vec<Value>,
}

impl Prefixes {
    pub(super) fn new(decoder: &Decoder, pass: &Pass) -> Result<Self, ModelError> {
        let prefix = pass.adapters.as_ref().and_then(|set| set.prefix.as_ref());
        let Some(prefix) = prefix else { return Ok(Self { all: None, layers: Vec::new() }) };
        let all = prefix.encode(pass)?;
        Ok(Self { layers: decoder.split_prefix(&all)?, all: Some(all) })
    }

    /// Gives what encoded them the layers' gradients.
    pub(super) fn backward(self, gradients: Vec<Option<Tensor>>) -> Result<(), ModelError> {
        let Some(all) = self.all.filter(Value::is_tracked) else { return Ok(()) };
        let parts = gradients.into_iter().zip(&self.layers);
        let parts = parts.map(|(gradient, layer)| match gradient {
            Some(gradient) => Ok(gradient),
            None => layer.tensor().zeros_like(),
        });
        let seed = parts
            .collect::<candle_core::Result<Vec<_>>>()
            .and_then(|parts| Tensor::cat(&parts, 1))
            .map_err(NnError::from)?;
        all.backward(seed)?;
        Ok(())
    }
}

/// The head as the loss takes it: the products with it are fused with the loss, so what adapts it is
/// merged into a weight of its own for the pass.
pub(super) struct AdaptedHead<'a> {
    head: &'a Linear,
    pass: &'a Pass,
    /// Merged; trained so that its gradient tells that of the adapters.
    own: Option<Weight>,
    replaced: Option<&'a Weight>,
}

impl<'a> AdaptedHead<'a> {
    pub(super) fn new(head: &'a Linear, pass: &'a Pass) -> Result<Self, ModelError> {
        let adapted = pass.adapters.as_ref().and_then(|set| set.linears.get(&Slot::Head));
        let replaced = adapted.and_then(|adapted| adapted.weight.as_deref());
        let Some(adapted) = adapted.filter(|adapted| !adapted.adapters.is_empty()) else {
            return Ok(Self { head, pass, own: None, replaced });
        };
        let weight = replaced.unwrap_or(head.weight());
        let mut values = with_f32(&weight.dequantize()?, <[f32]>::to_vec)?;
        for adapter in &adapted.adapters {
            if !adapter.merge(&mut values, None)? {
                return Err(NnError::Tracked { op: "an adapter of the head" }.into());
            }
        }
        let parameter = Parameter::new("head", &[weight.rows(), weight.cols()], values);
        let own = Some(Weight::Trained(Arc::new(parameter)));
        Ok(Self { head, pass, own, replaced })
    }

    pub(super) fn weight(&self) -> &Weight {
        self.own.as_ref().or(self.replaced).unwrap_or(self.head.weight())
    }

    /// Gives the head's adapters their gradients.
    pub(super) fn backward(&self) -> Result<(), ModelError> {
        let adapted = self.pass.adapters.as_ref().and_then(|set| set.linears.get(&Slot::Head));
        let (Some(Weight::Trained(merged)), Some(adapted)) = (&self.own, adapted) else {
            return Ok(());
        };
        merged.with_gradient(|gradient| {
            let Some(gradient) = gradient else { return Ok(()) };
            for adapter in &adapted.adapters {
                if !adapter.gradient_of_merged(gradient)? {
                    return Err(NnError::Tracked { op: "an adapter of the head" });
                }
            }
            Ok(())
        })?;
        Ok(())
    }
}
