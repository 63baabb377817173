//! How a model and its batch are divided among accelerators, checked and searched for.
//!
//! The search takes the first layout that fits in an order of cost known without measuring: no
//! recomputation before recomputation (a third more operations), no pipeline before a pipeline (a
//! bubble), less sharding before more (traffic), fewer tensor-parallel devices before more. Over PCIe
//! fewer tensor-parallel devices come first of all. A model of the network would order better and needs numbers that nobody has before running.

use puna_config::DecoderConfig;

use crate::error::{LawError, Result};
use crate::hardware::Machine;
use crate::memory::{Need, Recompute, Zero};

/// Degrees of parallelism; their product is the number of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Tensor parallelism: devices that share each layer.
    pub tp: usize,
    /// Context parallelism: devices that share each sequence.
    pub cp: usize,
    /// Pipeline stages.
    pub pp: usize,
    /// Data-parallel replicas.
    pub dp: usize,
    /// What the replicas divide among themselves.
    pub zero: Zero,
    /// Sequences per forward pass of a replica.
    pub micro_batch: usize,
    /// Micro-batches per optimizer step and replica.
    pub accumulation: usize,
    /// What is computed twice.
    pub recompute: Recompute,
}

/// What is fixed before the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fixed {
    /// Tensor parallelism.
    pub tp: Option<usize>,
    /// Pipeline stages.
    pub pp: Option<usize>,
    /// Replicas.
    pub dp: Option<usize>,
    /// ZeRO stage.
    pub zero: Option<Zero>,
    /// Recomputation.
    pub recompute: Option<Recompute>,
    /// Sequences per forward pass.
    pub micro_batch: Option<usize>,
}

/// The batch to be divided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Batch {
    /// Tokens per sequence.
    pub seq: usize,
    /// Tokens per optimizer step.
    pub tokens: f64,
}

/// A layout with what its devices must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// The layout.
    pub layout: Layout,
    /// Memory of its fullest device.
    pub need: Need,
    /// Whether that fits with the driver's context.
    pub fits: bool,
}

impl Layout {
    /// One device.
    #[must_use]
    pub fn single() -> Self {
        Self {
            tp: 1,
            cp: 1,
            pp: 1,
            dp: 1,
            zero: Zero::Off,
            micro_batch: 1,
            accumulation: 1,
            recompute: Recompute::Selective,
        }
    }

    /// Devices: `TP · CP · PP · DP`.
    #[must_use]
    pub fn gpus(&self) -> usize {
        self.tp * self.cp * self.pp * self.dp
    }

    /// Tokens per optimizer step: `DP · micro-batch · accumulation · s`.
    #[must_use]
    pub fn batch_tokens(&self, seq: usize) -> f64 {
        (self.dp * self.micro_batch * self.accumulation) as f64 * seq as f64
    }

    /// Share of the time in which a stage of a 1F1B pipeline waits:
    /// `(PP - 1) / (M + PP - 1)` of `M` micro-batches.
    #[must_use]
    pub fn bubble(&self) -> f64 {
        let waiting = self.pp as f64 - 1.0;
        waiting / (self.accumulation as f64 + waiting)
    }

    /// Whether it can run `config` on `machine`.
    ///
    /// # Errors
    /// [`LawError::DoesNotDivide`] names what is left over; [`LawError::OtherGpuCount`] and
    /// [`LawError::BeyondDomain`] what does not match the machine.
    pub fn check(&self, config: &DecoderConfig, machine: &Machine) -> Result<()> {
        if self.gpus() != machine.count {
            return Err(LawError::OtherGpuCount { layout: self.gpus(), gpus: machine.count });
        }
        if self.tp > machine.gpu.domain {
            let gpu = machine.gpu.name.clone();
            return Err(LawError::BeyondDomain { tp: self.tp, gpu, domain: machine.gpu.domain });
        }
        let a = &config.attention;
        let divisions = [
            ("heads", a.num_heads, "tensor parallelism", self.tp),
            ("KV heads", a.num_kv_heads, "tensor parallelism", self.tp),
            ("hidden size", config.hidden_size, "tensor parallelism", self.tp),
            ("vocabulary", config.vocab_size, "tensor parallelism", self.tp),
            ("layers", config.num_layers, "pipeline stages", self.pp),
        ];
        for (what, value, by, divisor) in divisions {
            if divisor == 0 || !value.is_multiple_of(divisor) {
                return Err(LawError::DoesNotDivide { what, value, by, divisor });
            }
        }
        Ok(())
    }

    /// In words: `TP4 DP2 ZeRO-1`.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        for (name, degree) in [("TP", self.tp), ("CP", self.cp), ("PP", self.pp), ("DP", self.dp)] {
            if degree > 1 {
                parts.push(format!("{name}{degree}"));
            }
        }
        if parts.is_empty() {
            parts.push("one device".to_owned());
        }
        if self.dp > 1 {
            parts.push(match self.zero {
                Zero::Off => "no ZeRO".to_owned(),
                zero => format!("ZeRO-{}", zero.stage()),
            });
        }
        if self.recompute == Recompute::Full {
            parts.push("full recomputation".to_owned());
        }
        parts.join(" ")
    }
}

/// The first layout that fits in the order of cost, or else the one that needs the least memory.
/// `need` says what a layout's fullest device holds.
///
/// # Errors
/// Of the layouts that the fixed degrees leave, why the first cannot be: none divides.
pub fn search(
    config: &DecoderConfig,
    machine: &Machine,
    batch: Batch,
    fixed: &Fixed,
    need: impl Fn(&Layout) -> Need,
) -> Result<Placed> {
    let mut smallest: Option<Placed> = None;
    let mut refused = None;
    for layout in candidates(machine, batch, fixed) {
        if let Err(error) = layout.check(config, machine) {
            refused = refused.or(Some(error));
            continue;
        }
        let need = need(&layout);
        let fits = need.fits(machine.gpu.memory_bytes);
        let placed = Placed { layout, need, fits };
        if fits {
            return Ok(placed);
        }
        if smallest.as_ref().is_none_or(|other| placed.need.bytes() < other.need.bytes()) {
            smallest = Some(placed);
        }
    }
    let none = LawError::OtherGpuCount { layout: 0, gpus: machine.count };
    smallest.ok_or_else(|| refused.unwrap_or(none))
}

/// Layouts of all devices, the cheapest first.
fn candidates(machine: &Machine, batch: Batch, fixed: &Fixed) -> Vec<Layout> {
    let gpus = machine.count;
    let micro_batch = fixed.micro_batch.unwrap_or(1);
    let degrees = |fixed: Option<usize>| match fixed {
        Some(degree) => vec![degree],
        None => (1..=gpus).filter(|n| gpus.is_multiple_of(*n)).collect(),
    };
    let mut layouts = Vec::new();
    for tp in degrees(fixed.tp) {
        // Without a wish, tensor parallelism stays on the fast link and is a power of two.
        if fixed.tp.is_none() && (tp > machine.gpu.domain || !tp.is_power_of_two()) {
            continue;
        }
        for pp in degrees(fixed.pp) {
            let dp = fixed.dp.unwrap_or(gpus / (tp * pp).max(1));
            let replica = (dp * micro_batch) as f64 * batch.seq as f64;
            let accumulation = (batch.tokens / replica).round().max(1.0) as usize;
            let zeros: &[Zero] = match (&fixed.zero, dp) {
                (Some(zero), _) => std::slice::from_ref(zero),
                (None, 1) => &[Zero::Off],
                (None, _) => &[Zero::One, Zero::Two, Zero::Three],
            };
            let recomputes: &[Recompute] = match &fixed.recompute {
                Some(recompute) => std::slice::from_ref(recompute),
                None => &[Recompute::Selective, Recompute::Full],
            };
            for &zero in zeros {
                layouts.extend(recomputes.iter().map(|&recompute| Layout {
                    tp,
                    cp: 1,
                    pp,
                    dp,
                    zero,
                    micro_batch,
                    accumulation,
                    recompute,
                }));
            }
        }
    }
    let slow = !machine.gpu.has_fast_link();
    layouts.sort_by_key(|l| {
        // One replica has nothing to shard: as good as the stage that costs no more traffic.
        let zero = l.zero.max(Zero::One);
        (if slow { l.tp } else { 0 }, l.recompute, l.pp, zero, l.tp)
    });
    layouts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::Gpu;
    use crate::memory::{self, Optimizer, Training};
    use puna_config::preset;

    fn machine(gpu: &str, count: usize) -> Machine {
        Machine { gpu: Gpu::find(gpu).unwrap(), count }
    }

    fn best(model: &str, gpus: &Machine, fixed: &Fixed) -> Result<Placed> {
        let config = preset(model).unwrap().unwrap().decoder;
        let batch = Batch { seq: 4096, tokens: 4e6 };
        let how = Training { seq: 4096, optimizer: Optimizer::AdamW };
        search(&config, gpus, batch, fixed, |layout| memory::training(&config, layout, how))
    }

    #[test]
    fn thirteen_billion_on_a_node_of_a100_40gb_is_tp4_dp2_with_zero_1() {
        let placed = best("llama-1-13b", &machine("a100-40", 8), &Fixed::default()).unwrap();
        assert!(placed.fits);
        assert_eq!(placed.layout.describe(), "TP4 DP2 ZeRO-1");
        assert!((placed.need.gib() - 37.07).abs() < 5e-3, "{}", placed.need.gib());
    }

    #[test]
    fn what_does_not_fit_says_so_and_what_does_not_divide_is_named() {
        let placed = best("llama-2-70b", &machine("4090", 8), &Fixed::default()).unwrap();
        assert!(!placed.fits);
        let fixed = Fixed { tp: Some(3), ..Fixed::default() };
        let error = best("llama-1-13b", &machine("h100", 3), &fixed).unwrap_err().to_string();
        assert!(error.contains("40") && error.contains('3'), "{error}");
        let fixed = Fixed { tp: Some(4), dp: Some(4), ..Fixed::default() };
        let error = best("llama-1-13b", &machine("h100", 8), &fixed).unwrap_err();
        assert!(matches!(error, LawError::OtherGpuCount { .. }), "{error}");
    }

    #[test]
    fn over_pcie_layers_are_recomputed_before_they_are_shared() {
        let placed = best("llama-2-7b", &machine("5090", 8), &Fixed::default()).unwrap();
        assert_eq!((placed.layout.tp, placed.fits), (1, true), "{}", placed.layout.describe());
        let linked = best("llama-2-7b", &machine("a100-40", 8), &Fixed::default()).unwrap();
        assert_eq!(linked.layout.recompute, Recompute::Selective);
    }

    #[test]
    fn a_pipeline_waits_at_both_ends() {
        let layout = Layout { pp: 4, accumulation: 9, ..Layout::single() };
        assert_eq!(layout.bubble(), 0.25);
        assert_eq!(Layout::single().bubble(), 0.0);
    }
}
