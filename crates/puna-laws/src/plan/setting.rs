//! What is done with a model (full training, adapters, inference), and what its devices must hold.

use puna_config::DecoderConfig;

use crate::claims::CARDS;
use crate::error::{LawError, Result};
use crate::hardware::{Gpu, Machine};
use crate::layout::{Batch, Fixed, Layout, Placed, search};
use crate::memory::{
    AdapterTraining, Inference, Need, Optimizer, Recompute, Training, WeightFormat, Zero,
    adapter_training, inference, training,
};

/// GPUs that are tried in turn where no number is given.
const FEWEST: [usize; 4] = [1, 2, 4, 8];
/// The most that are tried: beyond Llama 3's 16,384 nobody has said how.
const MOST: usize = 16_384;

/// What is done with the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// Training of all parameters.
    #[default]
    Full,
    /// Low-rank adapters on 16-bit weights.
    Lora,
    /// Low-rank adapters on 4-bit weights.
    Qlora,
    /// Serving.
    Inference,
}

/// How it is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// What is done.
    pub method: Method,
    /// How weights are stored, if not as usual for the method.
    pub precision: Option<WeightFormat>,
    /// Tokens per sequence.
    pub seq: usize,
    /// Tokens per optimizer step.
    pub batch_tokens: f64,
    /// Rank of adapters.
    pub rank: usize,
    /// What of the layout is decided.
    pub fixed: Fixed,
}

impl Setting {
    /// LLaMA's batch of 4M tokens, adapters of rank 16, nothing of the layout decided.
    #[must_use]
    pub fn new(method: Method, seq: usize) -> Self {
        let (precision, fixed) = (None, Fixed::default());
        Self { method, precision, seq, batch_tokens: 4e6, rank: 16, fixed }
    }

    /// How weights are stored.
    ///
    /// # Errors
    /// [`LawError::WrongFormat`] if the method cannot use what was asked for.
    pub fn format(&self) -> Result<WeightFormat> {
        use WeightFormat as F;
        let (method, usual, known, ok): (_, _, _, &[F]) = match self.method {
            Method::Full => {
                ("full training", F::Bf16, "bf16, fp16 or f32", &[F::Bf16, F::Fp16, F::F32])
            }
            Method::Lora => {
                ("LoRA", F::Bf16, "bf16, fp16, int8 or f32", &[F::Bf16, F::Fp16, F::Int8, F::F32])
            }
            Method::Qlora => {
                ("QLoRA", F::Nf4, "nf4, q4_0, int8 or q8_0", &[F::Nf4, F::Q4_0, F::Int8, F::Q8_0])
            }
            Method::Inference => return Ok(self.precision.unwrap_or(F::Bf16)),
        };
        match self.precision {
            None => Ok(usual),
            Some(format) if ok.contains(&format) => Ok(format),
            Some(format) => Err(LawError::WrongFormat { method, format: format.name(), known }),
        }
    }

    fn optimizer(&self) -> Result<Optimizer> {
        Ok(match self.format()? {
            WeightFormat::F32 => Optimizer::AdamWF32,
            _ => Optimizer::AdamW,
        })
    }

    /// What the fullest device of a layout holds.
    ///
    /// # Errors
    /// [`LawError::WrongFormat`].
    pub fn need(&self, config: &DecoderConfig, layout: &Layout) -> Result<Need> {
        let (seq, format) = (self.seq, self.format()?);
        Ok(match self.method {
            Method::Full => {
                training(config, layout, Training { seq, optimizer: self.optimizer()? })
            }
            Method::Lora | Method::Qlora => {
                let how = AdapterTraining { rank: self.rank, base: format, seq };
                adapter_training(config, layout, how)
            }
            Method::Inference => inference(
                config,
                Inference {
                    format,
                    context: seq,
                    sequences: layout.micro_batch,
                    devices: layout.tp * layout.pp,
                },
            ),
        })
    }

    /// The layout of a machine; see [`search`].
    ///
    /// # Errors
    /// As [`search`], and [`LawError::WrongFormat`].
    pub fn place(&self, config: &DecoderConfig, machine: &Machine) -> Result<Placed> {
        self.format()?;
        let batch = Batch { seq: self.seq, tokens: self.batch_tokens };
        let mut fixed = self.fixed;
        if self.method != Method::Full {
            fixed.zero = Some(Zero::Off); // what is trained or cached is small
        }
        if self.method == Method::Inference {
            fixed.recompute = Some(Recompute::Selective);
        }
        let empty = || Need { items: Vec::new() };
        search(config, machine, batch, &fixed, |layout| {
            self.need(config, layout).unwrap_or_else(|_| empty())
        })
    }

    /// The smallest machine of `gpu` that holds the model: 1, 2, 4 or 8, then whole nodes; if none
    /// does, what the largest that was tried lacks.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub fn smallest(&self, config: &DecoderConfig, gpu: &Gpu) -> Result<(Machine, Placed)> {
        let nodes = (2..=MOST / 8).map(|nodes| nodes * 8);
        // A layout that is given decides the number.
        let degrees = [self.fixed.tp, self.fixed.pp, self.fixed.dp];
        let least: usize = degrees.iter().flatten().product();
        let mut last = None;
        for count in FEWEST.into_iter().chain(nodes).filter(|count| *count >= least) {
            let machine = Machine { gpu: gpu.clone(), count };
            match self.place(config, &machine) {
                Ok(placed) if placed.fits => return Ok((machine, placed)),
                Ok(placed) => last = Some((machine, placed)),
                Err(error) if last.is_none() && count >= least.max(8) => return Err(error),
                Err(_) => {}
            }
        }
        last.ok_or(LawError::OtherGpuCount { layout: least, gpus: MOST })
    }
}

/// What one device would hold under a method.
#[derive(Debug, Clone, PartialEq)]
pub struct Overview {
    /// In words.
    pub what: &'static str,
    /// What is done.
    pub method: Method,
    /// How weights are stored.
    pub format: WeightFormat,
    /// On one device, undivided.
    pub need: Need,
    /// The smallest card that holds it; `None` if none does.
    pub card: Option<&'static str>,
}

/// The usual methods side by side, each undivided on one device with one sequence of `seq` tokens.
///
/// # Errors
/// Never for the embedded table.
pub fn overview(config: &DecoderConfig, seq: usize) -> Result<Vec<Overview>> {
    use WeightFormat as F;
    let rows = [
        ("full training, AdamW in float32", Method::Full, F::F32),
        ("full training, AdamW, bf16 with float32 master weights", Method::Full, F::Bf16),
        ("LoRA, bf16 base, rank 16", Method::Lora, F::Bf16),
        ("QLoRA, 4-bit base (nf4), rank 16", Method::Qlora, F::Nf4),
        ("inference, bf16", Method::Inference, F::Bf16),
        ("inference, int8", Method::Inference, F::Int8),
        ("inference, 8 bits in blocks (q8_0)", Method::Inference, F::Q8_0),
        ("inference, 4 bits in blocks (q4_0)", Method::Inference, F::Q4_0),
    ];
    let mut all = Vec::new();
    for (what, method, format) in rows {
        let setting = Setting { precision: Some(format), ..Setting::new(method, seq) };
        let recompute = match method {
            Method::Inference | Method::Full => Recompute::Selective,
            Method::Lora | Method::Qlora => Recompute::Full,
        };
        let need = setting.need(config, &Layout { recompute, ..Layout::single() })?;
        let card = smallest_card(&need)?;
        all.push(Overview { what, method, format, need, card });
    }
    Ok(all)
}

fn smallest_card(need: &Need) -> Result<Option<&'static str>> {
    let mut cards = Vec::new();
    for card in CARDS {
        cards.push((Gpu::find(card.gpu)?.memory_bytes, card.label));
    }
    cards.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(cards.into_iter().find(|(bytes, _)| need.fits(*bytes)).map(|(_, label)| label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_config::preset;

    fn config(name: &str) -> DecoderConfig {
        preset(name).unwrap().unwrap().decoder
    }

    #[test]
    fn qlora_of_8b_fits_a_4090_and_full_training_no_single_card() {
        let llama = config("llama-3.1-8b");
        let rows = overview(&llama, 2048).unwrap();
        let card = |method, format| {
            rows.iter().find(|row| row.method == method && row.format == format).unwrap().card
        };
        assert_eq!(card(Method::Full, WeightFormat::Bf16), Some("H200-141GB"));
        assert_eq!(card(Method::Qlora, WeightFormat::Nf4), Some("RTX-3060-12GB"));
        assert_eq!(card(Method::Inference, WeightFormat::Q4_0), Some("RTX-3060-12GB"));
        let (machine, placed) = Setting::new(Method::Qlora, 2048)
            .smallest(&llama, &Gpu::find("4090").unwrap())
            .unwrap();
        assert_eq!((machine.count, placed.fits), (1, true));
    }

    #[test]
    fn seventy_billion_are_served_by_the_fewest_gpus() {
        let setting = Setting::new(Method::Inference, 4096);
        let (machine, placed) =
            setting.smallest(&config("llama-2-70b"), &Gpu::find("a100-80").unwrap()).unwrap();
        assert_eq!((machine.count, placed.layout.tp), (2, 2));
        let (machine, _) = Setting::new(Method::Full, 4096)
            .smallest(&config("llama-2-70b"), &Gpu::find("h100").unwrap())
            .unwrap();
        assert!(machine.count.is_multiple_of(8) && machine.count <= 32, "{}", machine.count);
    }

    #[test]
    fn a_method_refuses_weights_it_cannot_train() {
        let setting =
            Setting { precision: Some(WeightFormat::Q4_0), ..Setting::new(Method::Full, 2048) };
        assert!(setting.format().unwrap_err().to_string().contains("q4_0"));
    }
}
