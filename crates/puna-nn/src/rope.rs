//! Tables of the rotary embedding for the positions of one forward pass.
//!
//! Angles are f32 products of an f32 frequency and the position, as the reference computes them;
//! sine and cosine are then taken in f64. Positions and tables are f32 whatever the weights are:
//! with bf16 tables position 257 is not representable.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{Device, Result, Tensor};
use puna_config::{RopeConfig, RopeScaling};

use crate::RotaryTable;

/// Cosines and sines of `N` tokens, `[N, R/2]` each.
#[derive(Debug, Clone)]
pub struct RopeTables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    rotary_dim: usize,
    /// For the way back, which turns the other way.
    negated_sin: OnceLock<Vec<f32>>,
    /// The tables on the device of the pass, made once for all its layers.
    tensors: OnceLock<(Tensor, Tensor)>,
}

impl RopeTables {
    /// Tables from their values, `[N, R/2]` each.
    #[must_use]
    pub fn new(cos: Vec<f32>, sin: Vec<f32>, rotary_dim: usize) -> Self {
        let (negated_sin, tensors) = (OnceLock::new(), OnceLock::new());
        Self { cos, sin, rotary_dim, negated_sin, tensors }
    }

    /// Cosines and sines on the device of the first call, `[N, 1, R/2]` each.
    pub(crate) fn on_device(&self, device: &Device) -> Result<(Tensor, Tensor)> {
        if let Some(made) = self.tensors.get() {
            return Ok(made.clone());
        }
        let shape = (self.tokens(), 1, self.rotary_dim / 2);
        let tensor = |values: &[f32]| Tensor::from_slice(values, shape, device);
        let made = (tensor(&self.cos)?, tensor(&self.sin)?);
        Ok(self.tensors.get_or_init(|| made).clone())
    }

    /// `[N, R/2]`
    #[must_use]
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// `[N, R/2]`
    #[must_use]
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }

    /// `[N, R/2]`
    pub(crate) fn negated_sin(&self) -> &[f32] {
        self.negated_sin.get_or_init(|| self.sin.iter().map(|s| -s).collect())
    }

    /// Dimensions of a head that are rotated (`R`).
    #[must_use]
    pub fn rotary_dim(&self) -> usize {
        self.rotary_dim
    }

    /// Rotates the heads of every token in place.
    ///
    /// # Shapes
    /// `x` `[N, heads·D]`
    pub(crate) fn rotate(&self, x: &mut [f32], heads: usize, head_dim: usize) {
        let (cos, sin) = (&self.cos[..], &self.sin[..]);
        let table = puna_kernels::RopeTable { cos, sin, rotary_dim: self.rotary_dim };
        puna_kernels::rope(x, heads, head_dim, &table);
    }

    /// Number of tokens (`N`).
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.cos.len() / (self.rotary_dim / 2).max(1)
    }
}

/// One rotary embedding of a model; makes tables for any positions.
#[derive(Debug, Clone)]
pub struct Rotary {
    config: RopeConfig,
    fixed: Option<Frequencies>,
    /// The last tables for single positions: training mostly asks for the same again.
    last: Arc<Mutex<Option<AtPositions>>>,
}

#[derive(Debug)]
struct AtPositions {
    positions: Vec<u32>,
    total_len: usize,
    tables: Arc<RopeTables>,
}

#[derive(Debug, Clone)]
struct Frequencies {
    inverse: Vec<f32>,
    attention_factor: f64,
}

impl Rotary {
    /// Computes the frequencies once where they do not depend on the sequence's length.
    #[must_use]
    pub fn new(config: &RopeConfig) -> Self {
        let varies =
            matches!(config.scaling, RopeScaling::DynamicNtk { .. } | RopeScaling::LongRope { .. });
        let fixed = (!varies).then(|| frequencies(config, 0));
        Self { config: config.clone(), fixed, last: Arc::default() }
    }

    /// Which of LongRoPE's tables a sequence of this length uses; the only one of other scalings.
    #[must_use]
    pub fn table(&self, total_len: usize) -> RotaryTable {
        match self.config.scaling {
            RopeScaling::LongRope { original_max, .. } if total_len > original_max => {
                RotaryTable::Long
            }
            _ => RotaryTable::Short,
        }
    }

    /// Tables for single positions, of sequences that are `total_len` long.
    #[must_use]
    pub fn tables_at(&self, positions: &[u32], total_len: usize) -> Arc<RopeTables> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |last: &&AtPositions| last.positions == positions && last.total_len == total_len;
        if let Some(last) = last.as_ref().filter(same) {
            return Arc::clone(&last.tables);
        }
        let tokens = positions.iter().max().map_or(0, |&last| last as usize + 1);
        let all = self.tables(&[(0, tokens, total_len)]);
        let half = self.config.rotary_dim / 2;
        let gather = |values: &[f32]| {
            let mut rows = Vec::with_capacity(positions.len() * half);
            for &position in positions {
                rows.extend_from_slice(&values[position as usize * half..][..half]);
            }
            rows
        };
        let rotary_dim = self.config.rotary_dim;
        let tables = Arc::new(RopeTables::new(gather(&all.cos), gather(&all.sin), rotary_dim));
        let (positions, made) = (positions.to_vec(), Arc::clone(&tables));
        *last = Some(AtPositions { positions, total_len, tables: made });
        tables
    }

    /// Tables for runs of positions: `(first position, tokens, total length)` per segment.
    #[must_use]
    pub fn tables(&self, runs: &[(usize, usize, usize)]) -> RopeTables {
        let half = self.config.rotary_dim / 2;
        let tokens: usize = runs.iter().map(|run| run.1).sum();
        let mut cos = Vec::with_capacity(tokens * half);
        let mut sin = Vec::with_capacity(tokens * half);
        for &(first, len, total) in runs {
            let computed;
            let table = match &self.fixed {
                Some(fixed) => fixed,
                None => {
                    computed = frequencies(&self.config, total);
                    &computed
                }
            };
            for position in first..first + len {
                for inverse in &table.inverse {
                    // f32 product, as the references do
                    let angle = f64::from(position as f32 * inverse);
                    cos.push((angle.cos() * table.attention_factor) as f32);
                    sin.push((angle.sin() * table.attention_factor) as f32);
                }
            }
        }
        RopeTables::new(cos, sin, self.config.rotary_dim)
    }
}

fn frequencies(config: &RopeConfig, total_len: usize) -> Frequencies {
    let found = config.inverse_frequencies(total_len);
    Frequencies {
        inverse: found.inv_freq.iter().map(|f| *f as f32).collect(),
        attention_factor: found.attention_factor,
    }
}
