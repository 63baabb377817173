//! A forward pass of which one sequence's failure does not take the others along.
//!
//! An error or a panic of the model has no sequence's name on it. So a pass that failed is run again,
//! each sequence alone, and those that fail again have failed. A sequence whose memory the failed
//! pass has changed is computed anew, once.

use super::active::Active;
use super::plan::Part;
use crate::error::{InferError, Source};
use crate::model::{LanguageModel, Segment, SequenceCache};
use crate::stream::panic_message;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What came of a sequence's part of a pass.
#[derive(Debug)]
pub(super) enum Ran {
    /// Its logits, `[rows, V]`.
    Rows(Vec<f32>),
    /// The model fails at this sequence.
    Failed(InferError),
    /// What was remembered of it is spoiled.
    Lost,
}

/// Runs the parts; one result for each.
pub(super) fn run_parts<M: LanguageModel>(
    model: &M,
    active: &mut [Active<M::Cache>],
    parts: &[Part],
) -> Vec<Ran> {
    let error = match forward(model, active, parts) {
        Ok(mut rows) => {
            let mut split = Vec::with_capacity(parts.len());
            for part in parts.iter().rev() {
                let own = part.rows() * model.vocab_size();
                split.push(Ran::Rows(rows.split_off(rows.len() - own)));
            }
            split.reverse();
            return split;
        }
        Err(error) => error,
    };
    if parts.len() == 1 {
        return vec![Ran::Failed(error)];
    }
    let alone = |part: &Part| {
        let a = &mut active[part.index];
        if a.cache.len() == part.start {
            return match forward(model, active, std::slice::from_ref(part)) {
                Ok(rows) => Ran::Rows(rows),
                Err(error) => Ran::Failed(error),
            };
        }
        a.sequence.losses += 1;
        match a.sequence.losses {
            1 => Ran::Lost,
            _ => Ran::Failed(InferError::Model(error.to_string().into())),
        }
    };
    parts.iter().map(alone).collect()
}

/// One pass.
fn forward<M: LanguageModel>(
    model: &M,
    active: &mut [Active<M::Cache>],
    parts: &[Part],
) -> Result<Vec<f32>, InferError> {
    let by_token = model.depends_on_length();
    let mut left = parts.iter().peekable();
    let mut segments = Vec::with_capacity(parts.len());
    for (index, a) in active.iter_mut().enumerate() {
        let Some(part) = left.next_if(|part| part.index == index) else { continue };
        let total_len = a.total_len(by_token);
        let tokens = &a.sequence.tokens[part.start..part.end];
        segments.push(Segment { tokens, cache: &mut a.cache, total_len });
    }
    let wanted: Vec<_> = parts.iter().map(|part| part.wanted).collect();
    let pass = || -> Result<Vec<f32>, Source> { model.forward_each(&mut segments, &wanted) };
    let rows = match catch_unwind(AssertUnwindSafe(pass)) {
        Ok(rows) => rows.map_err(InferError::Model)?,
        Err(panic) => return Err(InferError::Panicked { message: panic_message(&*panic) }),
    };
    let expected = parts.iter().map(Part::rows).sum::<usize>() * model.vocab_size();
    match rows.len() == expected {
        true => Ok(rows),
        false => Err(InferError::LogitCount { expected, got: rows.len() }),
    }
}
