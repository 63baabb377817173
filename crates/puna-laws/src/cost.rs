//! Operations, time, energy and money of training and serving.
//!
//! Model FLOPs are counted, never hardware FLOPs: what recomputation adds lowers the utilization
//! (MFU) instead, so that two ways of training the same model compare. The peak below it is the
//! dense one in 16 bits.

use puna_config::DecoderConfig;

use crate::error::Result;
use crate::hardware::Machine;
use crate::law::{SERVE_FLOPS, TRAIN_FLOPS};

/// Share of the peak that dense models from 1B parameters on reach on A100 and H100 (Llama 3's
/// table 4: 38–43 %; LLaMA's hours: 44–51 %).
pub const USUAL_MFU: f64 = 0.40;
/// Share of a long run's wall-clock time in which it computes: Llama 3.1 405B, 67.1 days by its
/// FLOP rate against 78.4 by its GPU-hours.
pub const USUAL_UPTIME: f64 = 0.85;
/// Power usage effectiveness of LLaMA's computing centers.
pub const USUAL_PUE: f64 = 1.1;
/// Seconds of an hour.
const HOUR: f64 = 3600.0;

/// `6 N D`.
#[must_use]
pub fn training_flops(params: f64, tokens: f64) -> f64 {
    TRAIN_FLOPS * params * tokens
}

/// `2 N D`, of prompts and answers alike.
#[must_use]
pub fn serving_flops(params: f64, tokens: f64) -> f64 {
    SERVE_FLOPS * params * tokens
}

/// `(6 N_matmul + 12 L H D_head s) D`: matrices and attention, each query counted with all `s`
/// keys as PaLM's convention has it, not with the half that a causal mask leaves.
#[must_use]
pub fn training_flops_with_attention(config: &DecoderConfig, seq: usize, tokens: f64) -> f64 {
    let a = &config.attention;
    let heads = a.num_heads as f64 * a.head_dim as f64;
    let attention = 12.0 * config.num_layers as f64 * heads * seq as f64;
    (TRAIN_FLOPS * config.parameters().active_matmul as f64 + attention) * tokens
}

/// A GPT-3-like model (heads as wide as the hidden size, feed-forward of 4 h with two matrices),
/// for the published tables that use it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GptShape {
    /// Layers.
    pub layers: f64,
    /// Hidden size.
    pub hidden: f64,
    /// Attention heads.
    pub heads: f64,
    /// Sequence length.
    pub seq: f64,
    /// Vocabulary.
    pub vocab: f64,
}

impl GptShape {
    /// Model FLOPs of an iteration over `batch` sequences:
    /// `72 B L s h² (1 + s/6h + v/12hL)` (Korthikanti et al. 2022, eq. 7).
    #[must_use]
    pub fn model_flops(&self, batch: f64) -> f64 {
        self.iteration_flops(batch, 6.0)
    }

    /// Hardware FLOPs with selective recomputation: `s/3h` instead of `s/6h` (eq. 8).
    #[must_use]
    pub fn hardware_flops(&self, batch: f64) -> f64 {
        self.iteration_flops(batch, 3.0)
    }

    fn iteration_flops(&self, batch: f64, divisor: f64) -> f64 {
        let Self { layers, hidden, seq, vocab, .. } = *self;
        let rest = 1.0 + seq / (divisor * hidden) + vocab / (12.0 * hidden * layers);
        72.0 * batch * layers * seq * hidden * hidden * rest
    }
}

/// Share of the peak: `flops / (secs · gpus · peak)`.
#[must_use]
pub fn utilization(flops: f64, gpu_secs: f64, peak: f64) -> f64 {
    flops / (gpu_secs * peak)
}

/// Hours of one accelerator for `flops` at `mfu` of `peak`.
#[must_use]
pub fn gpu_hours(flops: f64, peak: f64, mfu: f64) -> f64 {
    flops / (peak * mfu * HOUR)
}

/// What `hours` hours of one accelerator compute at `mfu` of `peak`.
#[must_use]
pub fn flops_of_hours(hours: f64, peak: f64, mfu: f64) -> f64 {
    hours * HOUR * peak * mfu
}

/// kWh of GPU-hours at a board power, cooling and conversion included.
#[must_use]
pub fn energy_kwh(gpu_hours: f64, watts: f64, pue: f64) -> f64 {
    gpu_hours * watts * pue / 1000.0
}

/// What a number of operations takes on a machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// Hours, summed over accelerators.
    pub gpu_hours: f64,
    /// Days without a stop.
    pub days: f64,
    /// Days with the failures and restarts of a long run ([`USUAL_UPTIME`]).
    pub days_with_stops: f64,
    /// Energy, where the board's power is known.
    pub kwh: Option<f64>,
    /// Money, where a price per GPU-hour is.
    pub dollars: Option<f64>,
}

impl Effort {
    /// Of `flops` at `mfu`, at a price per GPU-hour.
    ///
    /// # Errors
    /// If nobody published the accelerator's peak.
    pub fn of(flops: f64, machine: &Machine, mfu: f64, price: Option<f64>) -> Result<Self> {
        let gpu_hours = gpu_hours(flops, machine.gpu.training_peak()?, mfu);
        let days = gpu_hours / machine.count as f64 / 24.0;
        Ok(Self {
            gpu_hours,
            days,
            days_with_stops: days / USUAL_UPTIME,
            kwh: machine.gpu.watts.map(|watts| energy_kwh(gpu_hours, watts, USUAL_PUE)),
            dollars: price.map(|price| price * gpu_hours),
        })
    }
}

/// Tokens per second that one stream of decoding cannot exceed: each reads all weights and the
/// cache once.
#[must_use]
pub fn decode_bound(bandwidth: f64, weight_bytes: f64, kv_bytes: f64) -> f64 {
    bandwidth / (weight_bytes + kv_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::Gpu;

    #[test]
    fn llama_s_energy_and_rate_follow_from_its_hours() {
        // LLaMA 65B: 1,022,362 hours at 400 W and PUE 1.1, printed 449 MWh; "around 380" tokens/s.
        let kwh = energy_kwh(1_022_362.0, 400.0, USUAL_PUE);
        assert!((kwh - 449_839.0).abs() < 1.0, "{kwh}");
        let rate = 1.4e12 / (1_022_362.0 * HOUR);
        assert!((rate - 380.4).abs() < 0.05);
    }

    #[test]
    fn a_week_on_a_node_is_a_budget() {
        let machine = Machine { gpu: Gpu::find("h100").unwrap(), count: 8 };
        let flops = flops_of_hours(8.0 * 168.0, 989.4e12, USUAL_MFU);
        assert!((flops / 1.91484e21 - 1.0).abs() < 1e-5, "{flops}");
        let effort = Effort::of(flops, &machine, USUAL_MFU, Some(2.0)).unwrap();
        assert!((effort.days - 7.0).abs() < 1e-9);
        assert!((effort.dollars.unwrap() - 2688.0).abs() < 1e-6);
    }

    #[test]
    fn reading_the_weights_bounds_decoding() {
        // Llama 3.2 1B in bfloat16 on a phone: 19.2 tokens/s at 47.5 GB/s.
        let bound = decode_bound(47.5e9, 2.0 * 1_235_814_400.0, 0.0);
        assert!((bound - 19.2).abs() < 0.05, "{bound}");
    }
}
