//! Passes with adapters.
//!
//! Sequences that share an adapter run together, with the layers' `forward`, which is where adapters
//! are; those without one run as always. Weights are the same for all.

use std::sync::Arc;

use puna_nn::{AdapterSet, NnError, Pass, Value};

use super::output::{Output, Rows};
use super::{Decoder, Logits, Segment};
use crate::ModelError;

impl Decoder {
    /// [`Decoder::run`] where some sequences have adapters.
    pub(super) fn run_adapted(
        &self,
        segments: &mut [Segment<'_>],
        wanted: &[Logits],
        output: Output,
    ) -> Result<Vec<f32>, ModelError> {
        // Their parameters and several of their operations are the CPU's.
        if self.device.as_ref().is_some_and(|device| !device.is_cpu()) {
            return Err(ModelError::AdapterOnGpu);
        }
        // Before the first group has changed its caches.
        let vocab = self.config.vocab_size;
        let mut ids = segments.iter().flat_map(|segment| segment.tokens);
        if let Some(&id) = ids.find(|&&id| id as usize >= vocab) {
            return Err(NnError::TokenId { id, vocab }.into());
        }
        let width = match output {
            Output::Logits => vocab,
            Output::States => self.config.hidden_size,
        };
        let rows = |(segment, wanted): (&Segment<'_>, &Logits)| match wanted {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => segment.tokens.len(),
        };
        let rows: Vec<usize> = segments.iter().zip(wanted).map(rows).collect();
        let mut parts: Vec<Vec<f32>> = vec![Vec::new(); segments.len()];
        for group in groups(segments) {
            let mut chosen: Vec<Segment<'_>> = segments
                .iter_mut()
                .enumerate()
                .filter(|(index, _)| group.contains(index))
                .map(|(_, s)| Segment {
                    tokens: s.tokens,
                    cache: &mut *s.cache,
                    total_len: s.total_len,
                })
                .collect();
            let of_group: Vec<Logits> = group.iter().map(|&index| wanted[index]).collect();
            let mut values = self.run_group(&mut chosen, &of_group, output)?;
            for &index in group.iter().rev() {
                parts[index] = values.split_off(values.len() - rows[index] * width);
            }
        }
        Ok(parts.concat())
    }

    /// Sequences with one adapter, or none.
    fn run_group(
        &self,
        segments: &mut [Segment<'_>],
        wanted: &[Logits],
        output: Output,
    ) -> Result<Vec<f32>, ModelError> {
        let Some(set) = segments.first().and_then(|s| s.cache.adapters()).cloned() else {
            return self.run(segments, wanted, output);
        };
        if set.whole_sequence {
            let pairs = segments.iter_mut().zip(wanted);
            let each = pairs.map(|(segment, &wanted)| self.run_whole(segment, wanted, output));
            return Ok(each.collect::<Result<Vec<_>, _>>()?.concat());
        }
        let pass = self.pass_of(&segments[0]);
        for segment in segments.iter_mut() {
            self.prepare_virtual(segment, &pass)?;
        }
        let rows = Rows::new(segments, wanted);
        let tokens: Vec<u32> = segments.iter().flat_map(|s| s.tokens.iter().copied()).collect();
        let x = self.hidden_states(&tokens, segments, &pass)?;
        self.tensor_output(x, &rows, output, &pass)
    }

    /// A sequence whose remembered keys change with every new token: all of it, once more.
    fn run_whole(
        &self,
        segment: &mut Segment<'_>,
        wanted: Logits,
        output: Output,
    ) -> Result<Vec<f32>, ModelError> {
        let mut tokens = segment.cache.tokens().to_vec();
        let before = tokens.len();
        tokens.extend_from_slice(segment.tokens);
        segment.cache.clear();
        let total_len = segment.total_len.max(tokens.len());
        let mut whole = [Segment { tokens: &tokens, cache: &mut *segment.cache, total_len }];
        let pass = Pass { row_len: tokens.len(), ..self.pass_of(&whole[0]) };
        self.prepare_virtual(&mut whole[0], &pass)?;
        let x = self.hidden_states(&tokens, &mut whole, &pass)?;
        let new = x.narrow(0, before, tokens.len() - before).map_err(NnError::from)?;
        let rows = Rows::new(std::slice::from_ref(segment), &[wanted]);
        self.tensor_output(new, &rows, output, &pass)
    }

    /// What the layers are told about a segment.
    pub(super) fn pass_of(&self, segment: &Segment<'_>) -> Pass {
        Pass {
            adapters: segment.cache.adapters().cloned(),
            row_len: segment.tokens.len(),
            ..Pass::new(self.precision)
        }
    }

    /// Begins an empty cache with an adapter's keys and values: those of its embeddings are computed
    /// here, its own ones the layers write.
    pub(super) fn prepare_virtual(
        &self,
        segment: &mut Segment<'_>,
        pass: &Pass,
    ) -> Result<(), ModelError> {
        let Some(set) = pass.adapters.as_ref().filter(|_| segment.cache.is_empty()) else {
            return Ok(());
        };
        segment.cache.clear();
        segment.cache.set_virtual_len(set.prefix.as_ref().map_or(0, |prefix| prefix.len()));
        let Some(prompt) = &set.prompt else { return Ok(()) };
        let x = self.on_device(prompt.embeddings(pass)?)?;
        // Their positions come before that of the first token.
        let before = AdapterSet { first_position: set.prefix_position(), ..(**set).clone() };
        let pass = Pass { adapters: Some(Arc::new(before)), ..pass.clone() };
        let placeholders = vec![0; prompt.len()];
        let cache = &mut *segment.cache;
        let total_len = prompt.len() + segment.total_len;
        let mut virtual_tokens = [Segment { tokens: &placeholders, cache, total_len }];
        self.through_blocks(x, &mut virtual_tokens, &pass)?;
        segment.cache.forget_tokens_as_virtual();
        Ok(())
    }

    /// The embeddings of tokens, `[N, C]`.
    pub(super) fn embedded(&self, tokens: &[u32], pass: &Pass) -> Result<Value, ModelError> {
        let Some(set) = &pass.adapters else {
            return Ok(Value::constant(self.embedding.forward(tokens)?));
        };
        let x = match &set.embedding_weight {
            None => self.embedding.forward(tokens)?,
            Some(weight) => puna_nn::Embedding::new(Arc::clone(weight), self.embedding.scale())
                .forward(tokens)?,
        };
        let x = Value::constant(x);
        match &set.embedding {
            None => Ok(x),
            Some(adapter) => Ok(adapter.forward(tokens, x, self.embedding.scale(), pass)?),
        }
    }

    /// What an adapter has made, where the layers run.
    fn on_device(&self, x: Value) -> Result<Value, ModelError> {
        match &self.device {
            Some(device) if !device.is_cpu() => {
                Ok(Value::constant(x.tensor().to_device(device).map_err(NnError::from)?))
            }
            _ => Ok(x),
        }
    }

    /// Each layer's keys and values before sequences, `[P, 2·K·D]`; none without a prefix.
    pub(super) fn prefixes(&self, pass: &Pass) -> Result<Vec<Value>, ModelError> {
        let Some(prefix) = pass.adapters.as_ref().and_then(|set| set.prefix.as_ref()) else {
            return Ok(Vec::new());
        };
        self.split_prefix(&self.on_device(prefix.encode(pass)?)?)
    }

    /// The layers' parts of an encoded prefix `[P, L·2·K·D]`, as values of their own.
    pub(super) fn split_prefix(&self, all: &Value) -> Result<Vec<Value>, ModelError> {
        let attention = &self.config.attention;
        let width = 2 * attention.num_kv_heads * attention.head_dim;
        let layer = |layer: usize| -> Result<Value, NnError> {
            let part = all.tensor().narrow(1, layer * width, width)?.contiguous()?;
            Ok(if all.is_tracked() { Value::leaf(part) } else { Value::constant(part) })
        };
        Ok((0..self.config.num_layers).map(layer).collect::<Result<_, _>>()?)
    }
}

/// Indices of segments with the same adapter.
fn groups(segments: &[Segment<'_>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<(Option<*const AdapterSet>, Vec<usize>)> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let key = segment.cache.adapters().map(Arc::as_ptr);
        match groups.iter_mut().find(|(of, _)| *of == key) {
            Some((_, group)) => group.push(index),
            None => groups.push((key, vec![index])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}
