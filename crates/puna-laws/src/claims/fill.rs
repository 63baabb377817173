//! "Sizes 16B … 220B each fill some hardware": with a definition of "fill".

use serde_json::{Map, Value, json};

use super::{Claim, Figure, Unit};
use crate::error::Result;
use crate::hardware::{GIB, Gpu};
use crate::memory::{Optimizer, WeightFormat, weight_bytes};

/// Cache and workspace: this times the weights is needed.
pub const WEIGHT_FACTOR: f64 = 1.10;
/// GiB of each card that the driver keeps.
pub const RESERVED_GIB: f64 = 0.75;
/// From this share on a size fills a machine.
pub const MIN_FILL: f64 = 0.80;
/// Share of the memory that states of training may take; the rest is for activations.
const STATES_SHARE: f64 = 0.80;
/// Cards of a machine.
const COUNTS: [usize; 4] = [1, 2, 4, 8];
/// Cards of a training node.
const NODE: usize = 8;

/// A card that machines are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// What it and its like are called here.
    pub label: &'static str,
    /// The row of the table that stands for them.
    pub gpu: &'static str,
}

const fn card(label: &'static str, gpu: &'static str) -> Card {
    Card { label, gpu }
}

/// Cards that machines are made of, by memory.
pub const CARDS: [Card; 12] = [
    card("RTX-3060-12GB", "RTX-3060-12GB"),
    card("RTX-4060Ti-16GB", "RTX-4060Ti-16GB"),
    card("RTX-4090/3090-24GB", "RTX-4090"),
    card("A10/L4-24GB", "L4"),
    card("RTX-5090-32GB", "RTX-5090"),
    card("A100-40GB", "A100-SXM4-40GB"),
    card("L40S-48GB", "L40S"),
    card("A100-80GB", "A100-SXM4-80GB"),
    card("H100-80GB", "H100-SXM5-80GB"),
    card("H200-141GB", "H200-SXM-141GB"),
    card("B200-180GB", "B200-HGX-180GB"),
    card("MI300X-192GB", "MI300X"),
];

/// The sizes of the claim, in 1e9, each with a format and a card to show.
const WITNESSES: [(u32, WeightFormat, &str); 10] = [
    (16, WeightFormat::Fp16, "A100-40GB"),
    (34, WeightFormat::Fp16, "A100-80GB"),
    (52, WeightFormat::Q4_0, "RTX-5090-32GB"),
    (56, WeightFormat::Fp16, "H200-141GB"),
    (65, WeightFormat::Q8_0, "H100-80GB"),
    (70, WeightFormat::Fp16, "A100-80GB"),
    (100, WeightFormat::Q8_0, "RTX-5090-32GB"),
    (130, WeightFormat::Fp16, "A100-40GB"),
    (170, WeightFormat::Fp16, "MI300X-192GB"),
    (220, WeightFormat::Q4_0, "H200-141GB"),
];

/// A size on the smallest machine of a card that holds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fill {
    /// GiB needed.
    pub need_gib: f64,
    /// Cards.
    pub count: usize,
    /// GiB that they have for it.
    pub capacity_gib: f64,
    /// Need over capacity.
    pub fill: f64,
}

fn usable_gib(gpu: &Gpu) -> f64 {
    gpu.memory_gib() - RESERVED_GIB
}

/// Inference of `params` parameters on 1, 2, 4 or 8 cards; `None` if 8 do not hold it.
///
/// # Errors
/// If the card is not in the table.
pub fn inference_fill(params: f64, format: WeightFormat, card: &str) -> Result<Option<Fill>> {
    let gpu = Gpu::find(card)?;
    let need_gib = WEIGHT_FACTOR * weight_bytes(params, format) / GIB;
    Ok(COUNTS.into_iter().find_map(|count| {
        let capacity_gib = count as f64 * usable_gib(&gpu);
        let fill = need_gib / capacity_gib;
        (fill <= 1.0).then_some(Fill { need_gib, count, capacity_gib, fill })
    }))
}

/// Training states of a size, fully sharded over whole nodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingFill {
    /// GiB of states in all.
    pub states_gib: f64,
    /// The smallest multiple of 8 cards that keeps a fifth of its memory for activations.
    pub count: usize,
    /// GiB per card.
    pub per_gpu_gib: f64,
    /// Share of what a card has for it.
    pub fill: f64,
}

/// Training of `params` parameters with AdamW at 16 bytes each.
///
/// # Errors
/// If the card is not in the table.
pub fn training_fill(params: f64, card: &str) -> Result<TrainingFill> {
    let usable = usable_gib(&Gpu::find(card)?);
    let states_gib = params * Optimizer::AdamW.state_bytes().total() / GIB;
    let nodes = (states_gib / (STATES_SHARE * usable * NODE as f64)).ceil().max(1.0);
    let count = nodes as usize * NODE;
    let per_gpu_gib = states_gib / count as f64;
    Ok(TrainingFill { states_gib, count, per_gpu_gib, fill: per_gpu_gib / usable })
}

fn gpu_of(label: &str) -> &'static str {
    CARDS.iter().find(|card| card.label == label).map_or("", |card| card.gpu)
}

pub(super) fn claim() -> Result<Claim> {
    let mut figures = Vec::new();
    let mut filled = 0;
    for (size, format, label) in WITNESSES {
        let params = f64::from(size) * 1e9;
        let fill = inference_fill(params, format, gpu_of(label))?;
        let machines = machines(params)?;
        let (count, share) = fill.map_or((0, 0.0), |fill| (fill.count, fill.fill));
        filled += usize::from(share >= MIN_FILL);
        let what =
            format!("{size}B in {format} on {count} × {label} (one of {machines} that it fills)");
        figures.push(Figure {
            key: size.to_string(),
            what,
            value: json!([format.name(), label, count, (share * 1000.0).round() / 1000.0]),
            unit: Unit::Plain,
        });
    }
    let all = WITNESSES.len();
    let word = if filled == all { "true" } else { "false" };
    Ok(Claim {
        id: "sizes_fill",
        quote: "sizes 16B, 34B, 52B, 56B, 65B, 70B, 100B, 130B, 170B, 220B each fill some hardware",
        assumptions: vec![
            format!("needed: {WEIGHT_FACTOR:.2} × weights (a tenth for cache and workspace)"),
            format!("there: 1, 2, 4 or 8 cards of (reported GiB - {RESERVED_GIB})"),
            format!("filled: from {:.0} % on", 100.0 * MIN_FILL),
            format!(
                "machines: the fewest of each of {} cards, in fp16, q8_0 and q4_0",
                CARDS.len()
            ),
        ],
        inputs: Map::from_iter([
            ("weight_factor".to_owned(), json!(WEIGHT_FACTOR)),
            ("reserved_gib".to_owned(), json!(RESERVED_GIB)),
            ("min_fill".to_owned(), json!(MIN_FILL)),
            ("counts".to_owned(), json!(COUNTS)),
            ("sizes_b".to_owned(), Value::from(WITNESSES.map(|(size, ..)| size).to_vec())),
        ]),
        figures,
        verdict: format!(
            "{word} under that definition: {filled} of {all} sizes have a machine that they fill; \
             without a definition of \"fill\" it could not be false"
        ),
    })
}

/// How many cards and formats there are whose smallest machine `params` parameters fill.
fn machines(params: f64) -> Result<usize> {
    let mut found = 0;
    for format in [WeightFormat::Fp16, WeightFormat::Q8_0, WeightFormat::Q4_0] {
        for card in CARDS {
            let fill = inference_fill(params, format, card.gpu)?;
            found += usize::from(fill.is_some_and(|fill| fill.fill >= MIN_FILL));
        }
    }
    Ok(found)
}
