//! "13B at 4k context with data parallel 2 exactly fills a node": of which card, and how.

use serde_json::{Map, json};

use super::{Claim, Figure, Unit, figure, preset_config};
use crate::error::Result;
use crate::hardware::{Gpu, Machine};
use crate::layout::Layout;
use crate::memory::{
    CONTEXT_BYTES, Inference, Optimizer, Training, WeightFormat, Zero, inference, training,
};

const MODEL: &str = "llama-1-13b";
const SEQ: usize = 4096;
const GPUS: usize = 8;

/// Key, tensor parallelism, ZeRO stage and micro-batch.
const LAYOUTS: [(&str, usize, Zero, usize); 6] = [
    ("tp4_dp2_zero1_mb1", 4, Zero::One, 1),
    ("tp4_dp2_zero0_mb1", 4, Zero::Off, 1),
    ("tp4_dp2_zero0_mb3", 4, Zero::Off, 3),
    ("tp4_dp2_zero0_mb4", 4, Zero::Off, 4),
    ("tp4_dp2_zero3_mb1", 4, Zero::Three, 1),
    ("tp8_dp1_mb1", 8, Zero::Off, 1),
];

pub(super) fn claim() -> Result<Claim> {
    let config = preset_config(MODEL)?;
    let (small, large) = (Gpu::find("a100-40")?, Gpu::find("a100-80")?);
    let machine = Machine { gpu: small.clone(), count: GPUS };
    let how = Training { seq: SEQ, optimizer: Optimizer::AdamW };
    let mut figures: Vec<Figure> = Vec::new();
    let mut fills = Vec::new();
    for (key, tp, zero, micro_batch) in LAYOUTS {
        let layout = Layout { tp, dp: GPUS / tp, zero, micro_batch, ..Layout::single() };
        layout.check(&config, &machine)?;
        let need = training(&config, &layout, how);
        let what = format!("training, {}, micro-batch {micro_batch}, per GPU", layout.describe());
        figures.push(figure(key, what.clone(), Unit::Gib, need.gib()));
        fills.push((what, need));
    }
    let serve = |format| {
        let how = Inference { format, context: SEQ, sequences: 1, devices: 1 };
        inference(&config, how)
    };
    let formats = [
        ("infer_fp16_4k", WeightFormat::Fp16),
        ("infer_int8_4k", WeightFormat::Int8),
        ("infer_q4_0_4k", WeightFormat::Q4_0),
    ];
    for (key, format) in formats {
        let what = format!("inference in {format} with 4096 tokens");
        figures.push(figure(key, what, Unit::Gib, serve(format).gib()));
    }
    let cache = serve(WeightFormat::Fp16).items.pop().map_or(0.0, |item| item.bytes);
    figures.push(figure("kv_4k", "of which KV cache", Unit::Gib, super::gib(cache)));
    let share = |i: usize, gpu: &Gpu| 100.0 * fills[i].1.bytes() / gpu.memory_bytes;
    let fits = |gpu: &str, format| {
        Ok::<_, crate::LawError>(serve(format).fits(Gpu::find(gpu)?.memory_bytes))
    };
    let mut cards = Vec::new();
    for (name, format) in [("fp16", WeightFormat::Fp16), ("int8", WeightFormat::Int8)]
        .into_iter()
        .chain([("q4_0", WeightFormat::Q4_0)])
    {
        let both = fits("a10", format)? && fits("4090", format)?;
        cards.push(format!("{name} {}", if both { "fits" } else { "does not fit" }));
    }
    let fullest = |i: usize, gpu: &Gpu| {
        let holds = fills[i].1.bytes() + CONTEXT_BYTES <= gpu.memory_bytes;
        format!("{:.1} % of {}{}", share(i, gpu), gpu.name, if holds { "" } else { ", too much" })
    };
    Ok(Claim {
        id: "13B_4k_node",
        quote: "13B at 4k context with data parallel 2 exactly fills one 8-GPU node, and quantized \
                fits A10/4090",
        assumptions: vec![
            "LLaMA-13B; tensor parallelism 4 and two replicas on 8 GPUs".to_owned(),
            "bf16 with AdamW: 16 bytes per parameter; float32 logits".to_owned(),
            "34 s b h / t bytes of activations per layer (fused attention, sequence parallel)"
                .to_owned(),
        ],
        inputs: Map::from_iter([
            ("params".to_owned(), json!(config.parameters().total)),
            ("layers".to_owned(), json!(config.num_layers)),
            ("hidden".to_owned(), json!(config.hidden_size)),
            ("seq".to_owned(), json!(SEQ)),
            ("gpus".to_owned(), json!(GPUS)),
            ("bytes_per_param".to_owned(), json!(Optimizer::AdamW.state_bytes().total())),
            ("act".to_owned(), json!("34*s*b*h/t")),
        ]),
        verdict: format!(
            "true with these assumptions: {} with ZeRO-1 and micro-batch 1, {} without ZeRO and \
             micro-batch 4; on A10 and 4090 {}",
            fullest(0, &small),
            fullest(3, &large),
            cards.join(", "),
        ),
        figures,
    })
}
