//! Weights, gradients and optimizer states per parameter, and how ZeRO divides them.

/// Bytes per parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateBytes {
    /// The weights that products use.
    pub weights: f64,
    /// Their gradients.
    pub gradients: f64,
    /// Master weights, moments and the like.
    pub optimizer: f64,
}

impl StateBytes {
    /// All together.
    #[must_use]
    pub fn total(self) -> f64 {
        self.weights + self.gradients + self.optimizer
    }
}

/// Optimizer and precision of full training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Optimizer {
    /// AdamW, bf16 weights and gradients, float32 master weights and moments: 16 bytes.
    #[default]
    AdamW,
    /// AdamW entirely in float32: 16 bytes as well.
    AdamWF32,
    /// The same with moments in 8 bits: 10 bytes.
    AdamW8bit,
    /// 8-bit moments and no master weights: 6 bytes.
    AdamW8bitWithoutMaster,
    /// Momentum, float32 master weights: 12 bytes.
    Momentum,
}

impl Optimizer {
    /// Bytes per parameter.
    #[must_use]
    pub fn state_bytes(self) -> StateBytes {
        let (weights, gradients, optimizer) = match self {
            Self::AdamW => (2.0, 2.0, 12.0),
            Self::AdamWF32 => (4.0, 4.0, 8.0),
            Self::AdamW8bit => (2.0, 2.0, 6.0),
            Self::AdamW8bitWithoutMaster => (2.0, 2.0, 2.0),
            Self::Momentum => (2.0, 2.0, 8.0),
        };
        StateBytes { weights, gradients, optimizer }
    }

    /// Bytes of an activation over those of 16 bits, for which the rules of activations are.
    #[must_use]
    pub fn activation_factor(self) -> f64 {
        match self {
            Self::AdamWF32 => 2.0,
            _ => 1.0,
        }
    }
}

/// What data-parallel replicas divide among themselves (Rajbhandari et al. 2020).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Zero {
    /// Nothing: every replica holds everything.
    Off,
    /// Optimizer states.
    One,
    /// Gradients too.
    Two,
    /// Weights too (FSDP).
    Three,
}

impl Zero {
    /// All stages.
    pub const ALL: [Self; 4] = [Self::Off, Self::One, Self::Two, Self::Three];

    /// 0 to 3.
    #[must_use]
    pub fn stage(self) -> usize {
        self as usize
    }

    /// Bytes per parameter that one of `replicas` holds.
    #[must_use]
    pub fn shard(self, full: StateBytes, replicas: usize) -> StateBytes {
        let share = |from: Self| if self >= from { replicas as f64 } else { 1.0 };
        StateBytes {
            weights: full.weights / share(Self::Three),
            gradients: full.gradients / share(Self::Two),
            optimizer: full.optimizer / share(Self::One),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_s_paper_example_is_reproduced() {
        // 7.5B parameters, 64 replicas: 120, 31.4, 16.6 and 1.9 GB.
        let full = Optimizer::AdamW.state_bytes();
        let gb = Zero::ALL.map(|zero| 7.5 * zero.shard(full, 64).total());
        for (got, printed) in gb.into_iter().zip([120.0, 31.4, 16.6, 1.9]) {
            assert!((got - printed).abs() < 0.05, "{got} {printed}");
        }
    }
}
