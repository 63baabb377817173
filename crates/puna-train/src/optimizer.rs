//! Optimizers: AdamW, AdamW with 8-bit moments, Muon.
//!
//! An optimizer holds the states of the parameters it is given, which may be some of a model's: a
//! process of a sharded run has its own.

mod muon;

use std::sync::Arc;

use candle_core::Tensor;
use puna_kernels::{AdamWStep, adamw, for_each_chunk_mut, sum_of_squares};
use puna_model::Parameter;
use puna_nn::NnError;
use serde::{Deserialize, Serialize};

use crate::quantized_state::{BLOCK, Signs, dequantize, quantize};
use crate::{Member, TrainError};

/// Which optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// AdamW (arXiv:1711.05101).
    #[default]
    AdamW,
    /// AdamW with moments in 8 bits (arXiv:2110.02861); tensors under 4,096 values keep 32 bits.
    AdamW8bit,
    /// Muon (Jordan 2024; arXiv:2502.16982) on the matrices of the blocks, AdamW elsewhere.
    Muon,
}

/// An optimizer's settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Which.
    pub name: OptimizerName,
    /// Peak learning rate.
    pub lr: f64,
    /// Decay rates of the moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, on tensors with two or more dimensions.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient; 0: not clipped.
    pub clip: f64,
    /// Momentum of Muon.
    pub momentum: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            name: OptimizerName::AdamW,
            lr: 3e-4,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            momentum: 0.95,
        }
    }
}

/// What is remembered of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// First and second moment.
    Adam(Vec<f32>, Vec<f32>),
    /// The same as codes, with a scale per block.
    Adam8([Vec<u8>; 2], [Vec<f32>; 2]),
    /// Momentum.
    Muon(Vec<f32>),
}

/// Tensors below this size keep 32-bit moments.
const SMALL: usize = 4096;

struct Entry {
    parameter: Arc<Parameter>,
    decay: f64,
    lr_factor: f64,
    /// Of a parameter on a device as [`Optimizer::download`] left it.
    state: State,
    /// First and second moment of AdamW where the parameter is.
    on_device: Option<(Tensor, Tensor)>,
}

/// An optimizer and its states.
pub struct Optimizer {
    config: OptimizerConfig,
    entries: Vec<Entry>,
    /// Updates made.
    step: u64,
}

/// Factor that brings a gradient of a norm down to `clip`, as PyTorch's `clip_grad_norm_` has it;
/// 1 without clipping.
#[must_use]
pub fn clip_factor(norm: f64, clip: f64) -> f64 {
    if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

impl Optimizer {
    /// An optimizer of some parameters, with nothing remembered.
    #[must_use]
    pub fn new(config: OptimizerConfig, parameters: &[Member]) -> Self {
        let entry = |member: &Member| {
            let parameter = &member.parameter;
            let len = parameter.len();
            let matrix = parameter.shape().len() >= 2;
            let state = match config.name {
                OptimizerName::Muon if matrix && member.in_block => State::Muon(vec![0.0; len]),
                OptimizerName::AdamW8bit if len >= SMALL => {
                    let blocks = len.div_ceil(BLOCK);
                    let zero =
                        |signs| crate::quantized_state::map(signs).partition_point(|&v| v < 0.0);
                    let codes = |signs| vec![zero(signs) as u8; len];
                    let scales = || vec![0.0; blocks];
                    State::Adam8([codes(Signs::Both), codes(Signs::Positive)], [scales(), scales()])
                }
                _ => State::Adam(vec![0.0; len], vec![0.0; len]),
            };
            let decay = if matrix { config.weight_decay } else { 0.0 };
            let lr_factor = member.lr_factor;
            let parameter = Arc::clone(parameter);
            Entry { parameter, decay, lr_factor, state, on_device: None }
        };
        Self { config, entries: parameters.iter().map(entry).collect(), step: 0 }
    }

    /// Updates made.
    #[must_use]
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Parameters and what is remembered of them.
    pub fn states(&self) -> impl Iterator<Item = (&Parameter, &State)> {
        self.entries.iter().map(|entry| (&*entry.parameter, &entry.state))
    }

    /// The states, to be replaced by those of a checkpoint, and the updates made.
    pub fn restore(&mut self, step: u64) -> impl Iterator<Item = (&Parameter, &mut State)> {
        self.step = step;
        self.entries.iter_mut().map(|entry| (&*entry.parameter, &mut entry.state))
    }

    /// Copies the states of parameters that have moved to a device there.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn upload(&mut self) -> Result<(), TrainError> {
        for entry in &mut self.entries {
            let (Some(device), State::Adam(first, second)) =
                (entry.parameter.device_parameter(), &entry.state)
            else {
                continue;
            };
            let tensor = |values: &[f32]| {
                Tensor::from_slice(values, entry.parameter.shape(), device.values.device())
            };
            entry.on_device = Some((tensor(first)?, tensor(second)?));
        }
        Ok(())
    }

    /// Copies the states from the devices, to be saved.
    ///
    /// # Errors
    /// If a device refuses.
    pub fn download(&mut self) -> Result<(), TrainError> {
        for entry in &mut self.entries {
            if let (Some((m, v)), State::Adam(first, second)) = (&entry.on_device, &mut entry.state)
            {
                *first = m.flatten_all()?.to_vec1()?;
                *second = v.flatten_all()?.to_vec1()?;
            }
        }
        Ok(())
    }

    /// Bytes of the states.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.state.bytes()).sum()
    }

    /// Sum of the squares of all gradients.
    ///
    /// # Errors
    /// If a device refuses.
    pub fn gradient_squares(&self) -> Result<f64, TrainError> {
        let (mut sum, mut on_device) = (0.0, Vec::new());
        for entry in &self.entries {
            match entry.parameter.device_parameter() {
                Some(device) => on_device.extend(device.gradient),
                None => {
                    sum += entry.parameter.with_gradient(|gradient| {
                        gradient.map_or(0.0, |gradient| sum_of_squares(gradient))
                    });
                }
            }
        }
        Ok(sum + puna_cuda::square_sums(&on_device)?.unwrap_or(f64::NAN))
    }

    /// Updates all parameters by their gradients times `gradient_scale`; these are then of no more
    /// use, see [`Optimizer::clear_gradients`].
    ///
    /// # Errors
    /// If a device refuses.
    pub fn update(&mut self, lr: f64, gradient_scale: f64) -> Result<(), TrainError> {
        self.step += 1;
        let [b1, b2] = self.config.betas;
        let correction = |beta: f64| (1.0 - beta.powf(self.step as f64)) as f32;
        let base = AdamWStep {
            lr: lr as f32,
            betas: (b1 as f32, b2 as f32),
            eps: self.config.eps as f32,
            weight_decay: 0.0,
            corrections: (correction(b1), correction(b2)),
            gradient_scale: gradient_scale as f32,
        };
        for entry in &mut self.entries {
            let lr = base.lr * entry.lr_factor as f32;
            let step = AdamWStep { weight_decay: entry.decay as f32, lr, ..base };
            if let Some(moments) = &entry.on_device {
                update_on_device(&entry.parameter, moments, &step)?;
                continue;
            }
            // Other optimizers work on the CPU, wherever the passes compute.
            entry.parameter.download_gradient()?;
            entry.update(&step, self.config.momentum);
            entry.parameter.upload()?;
        }
        Ok(())
    }

    /// Forgets all gradients.
    pub fn clear_gradients(&self) {
        self.entries.iter().for_each(|entry| entry.parameter.clear_gradient());
    }
}

impl Entry {
    fn update(&mut self, step: &AdamWStep, momentum_decay: f64) {
        let (parameter, state) = (&self.parameter, &mut self.state);
        parameter.with_gradient(|gradient| {
            let Some(gradient) = gradient else { return };
            let mut values = parameter.values_mut();
            match state {
                State::Adam(first, second) => adamw(&mut values, gradient, (first, second), step),
                State::Adam8(codes, scales) => adam8(&mut values, gradient, (codes, scales), step),
                State::Muon(momentum) => {
                    let shape = (parameter.shape()[0], values.len() / parameter.shape()[0]);
                    muon::update(&mut values, gradient, (momentum, shape), step, momentum_decay);
                }
            }
        });
    }
}

/// AdamW where a parameter has moved to.
fn update_on_device(
    parameter: &Parameter,
    (first, second): &(Tensor, Tensor),
    step: &AdamWStep,
) -> Result<(), TrainError> {
    let Some(device) = parameter.device_parameter() else { return Ok(()) };
    let Some(gradient) = &device.gradient else { return Ok(()) };
    let of = puna_cuda::AdamW {
        lr: step.lr,
        betas: step.betas,
        eps: step.eps,
        keep: 1.0 - step.lr * step.weight_decay,
        corrections: step.corrections,
        gradient_scale: step.gradient_scale,
    };
    let words = device.words.as_ref();
    let made = puna_cuda::adamw(&device.values, gradient, (first, second), words, &of)?;
    Ok(made.ok_or(NnError::Tracked { op: "AdamW on this device" })?)
}

impl State {
    fn bytes(&self) -> u64 {
        let bytes = match self {
            State::Adam(first, second) => 4 * (first.len() + second.len()),
            State::Adam8(codes, scales) => {
                codes.iter().map(Vec::len).sum::<usize>()
                    + 4 * scales.iter().map(Vec::len).sum::<usize>()
            }
            State::Muon(momentum) => 4 * momentum.len(),
        };
        bytes as u64
    }
}

/// One step with 8-bit moments, block by block: the moments are exact while they are used.
fn adam8(
    values: &mut [f32],
    gradient: &[f32],
    (codes, scales): (&mut [Vec<u8>; 2], &mut [Vec<f32>; 2]),
    step: &AdamWStep,
) {
    struct Part<'a> {
        values: &'a mut [f32],
        gradient: &'a [f32],
        codes: [&'a mut [u8]; 2],
        scales: [&'a mut f32; 2],
    }
    let [first, second] = codes;
    let [first_scales, second_scales] = scales;
    let moments = first.chunks_mut(BLOCK).zip(second.chunks_mut(BLOCK));
    let scales = first_scales.iter_mut().zip(second_scales);
    let mut parts: Vec<Part<'_>> = values
        .chunks_mut(BLOCK)
        .zip(gradient.chunks(BLOCK))
        .zip(moments.zip(scales))
        .map(|((values, gradient), ((first, second), (s1, s2)))| Part {
            values,
            gradient,
            codes: [first, second],
            scales: [s1, s2],
        })
        .collect();
    for_each_chunk_mut(&mut parts, 64, |_, parts| {
        for part in parts {
            let len = part.values.len();
            let (mut m, mut v) = ([0f32; BLOCK], [0f32; BLOCK]);
            let (m, v) = (&mut m[..len], &mut v[..len]);
            dequantize(part.codes[0], *part.scales[0], Signs::Both, m);
            dequantize(part.codes[1], *part.scales[1], Signs::Positive, v);
            adamw(part.values, part.gradient, (m, v), step);
            *part.scales[0] = quantize(m, Signs::Both, part.codes[0]);
            *part.scales[1] = quantize(v, Signs::Positive, part.codes[1]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_model::Slot;

    fn parameter(len: usize) -> Vec<Member> {
        let values = (0..len).map(|i| (i as f32 * 0.37).sin()).collect();
        let parameter = Arc::new(Parameter::new("w", &[len / 64, 64], values));
        vec![Member::from((Slot::Head, parameter))]
    }

    /// Values after some steps on the gradient of `|w - 1|² / 2`.
    fn after(name: OptimizerName, steps: u64) -> Vec<f32> {
        let parameters = parameter(8192);
        let config = OptimizerConfig { name, weight_decay: 0.0, ..OptimizerConfig::default() };
        let mut optimizer = Optimizer::new(config, &parameters);
        for _ in 0..steps {
            let gradient: Vec<f32> =
                parameters[0].parameter.values().iter().map(|w| w - 1.0).collect();
            parameters[0].parameter.add_gradient(|g, _| g.copy_from_slice(&gradient));
            optimizer.update(0.01, 1.0).unwrap();
            optimizer.clear_gradients();
        }
        parameters[0].parameter.values().clone()
    }

    #[test]
    fn moments_in_eight_bits_stay_near_those_in_thirty_two() {
        let (exact, coarse) =
            (after(OptimizerName::AdamW, 30), after(OptimizerName::AdamW8bit, 30));
        let mean = exact.iter().zip(&coarse).map(|(a, b)| (a - b).abs()).sum::<f32>() / 8192.0;
        assert!(mean > 0.0 && mean < 0.01, "mean difference {mean}");
    }

    #[test]
    fn eight_bit_states_take_a_quarter_of_the_memory() {
        let (config, parameters) = (OptimizerConfig::default(), parameter(8192));
        let bytes =
            |name| Optimizer::new(OptimizerConfig { name, ..config }, &parameters).state_bytes();
        assert_eq!(bytes(OptimizerName::AdamW), 8 * 8192);
        assert_eq!(bytes(OptimizerName::AdamW8bit), 2 * 8192 + 2 * 4 * 32);
    }

    #[test]
    fn clipping_scales_down_only_what_is_too_long() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert_eq!(clip_factor(4.0, 0.0), 1.0);
    }
}
