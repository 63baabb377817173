//! "6B models deploy and train on consumer cards": which card for which precision and method.

use serde_json::{Map, json};

use super::{Claim, Figure, Unit, figure, gib, listed};
use crate::error::Result;
use crate::hardware::{GIB, Gpu};
use crate::layout::Layout;
use crate::memory::{
    AdapterTraining, CONTEXT_BYTES, Need, Optimizer, Recompute, WeightFormat, adapter_training,
    weight_bytes,
};
use crate::shape::{Text, shape_for};

/// ChatGLM-6B.
const PARAMS: f64 = 6.2e9;
const LAYERS: f64 = 28.0;
const HIDDEN: f64 = 4096.0;
const VOCAB: usize = 130_528;
const CONTEXT: usize = 2048;
/// Pythia 2.8B and 1.4B: their published exact counts, layers and hidden sizes.
const PYTHIA_28: (f64, f64, f64) = (2_775_208_960.0, 32.0, 2560.0);
const PYTHIA_14: (f64, f64, f64) = (1_414_647_808.0, 24.0, 2048.0);
/// Half of the memory of an 8 GB phone.
const PHONE_GIB: f64 = 4.0;
/// Bytes per second that a phone delivers: measured, Llama 3.2's card on a OnePlus 12.
const PHONE_BANDWIDTH: f64 = 48e9;
/// Cards of 12, 16 and 24 GB.
const CARDS: [(&str, &str); 3] =
    [("12 GB", "RTX-3060-12GB"), ("16 GB", "RTX-4060Ti-16GB"), ("24 GB", "RTX-4090")];
const RANK: usize = 16;

/// 16-bit cache of multi-head attention: `2 L h` values per token.
fn cache((layers, hidden): (f64, f64)) -> f64 {
    2.0 * layers * hidden * 2.0 * CONTEXT as f64
}

fn states(params: f64, optimizer: Optimizer) -> f64 {
    params * optimizer.state_bytes().total()
}

/// The smallest card that holds `bytes` and the driver's context.
fn card(bytes: f64) -> Result<&'static str> {
    for (label, name) in CARDS {
        if bytes + CONTEXT_BYTES <= Gpu::find(name)?.memory_bytes {
            return Ok(label);
        }
    }
    Ok("no card of these")
}

/// Adapters on a LLaMA shape of this size, layers recomputed.
fn adapters(base: WeightFormat) -> Result<Need> {
    let config = shape_for(PARAMS, Text { vocab: VOCAB, seq: CONTEXT })?;
    let layout = Layout { recompute: Recompute::Full, ..Layout::single() };
    Ok(adapter_training(&config, &layout, AdapterTraining { rank: RANK, base, seq: CONTEXT }))
}

/// Pythia's two models on a phone: their figures, and the names of those that fit.
fn phone(figures: &mut Vec<Figure>) -> Vec<String> {
    let mut phone_holds = Vec::new();
    for (key, name, (params, layers, hidden)) in
        [("pythia28", "2.8B", PYTHIA_28), ("pythia14", "1.4B", PYTHIA_14)]
    {
        let weights = weight_bytes(params, WeightFormat::Q4_0);
        let kv = cache((layers, hidden));
        if weights + kv + GIB <= PHONE_GIB * GIB {
            phone_holds.push(name.to_owned());
        }
        let at = |what: &str| format!("{name}: {what}");
        figures.extend([
            figure(&format!("{key}_q4_0"), at("weights in q4_0"), Unit::Gib, gib(weights)),
            figure(&format!("{key}_kv_2k"), at("KV cache of 2048 tokens"), Unit::Gib, gib(kv)),
            figure(
                &format!("{key}_train"),
                at("full training, AdamW"),
                Unit::Gib,
                gib(states(params, Optimizer::AdamW)),
            ),
            figure(
                &format!("{key}_phone_tokens_per_sec"),
                at("most tokens/s at a phone's 48 GB/s"),
                Unit::Ratio,
                PHONE_BANDWIDTH / weights,
            ),
        ]);
    }
    phone_holds
}

pub(super) fn claim() -> Result<Claim> {
    let kv = cache((LAYERS, HIDDEN));
    let formats =
        [(WeightFormat::Fp16, "fp16"), (WeightFormat::Int8, "int8"), (WeightFormat::Q4_0, "q4_0")];
    let (lora, qlora) = (adapters(WeightFormat::Fp16)?, adapters(WeightFormat::Nf4)?);
    let train = states(PARAMS, Optimizer::AdamW);
    let mut figures: Vec<Figure> = formats
        .iter()
        .map(|(format, key)| {
            let bytes = weight_bytes(PARAMS, *format);
            figure(key, format!("6.2B weights in {format}"), Unit::Gib, gib(bytes))
        })
        .collect();
    figures.extend([
        figure("kv_2k", "its KV cache of 2048 tokens", Unit::Gib, gib(kv)),
        figure("train_adamw_16B", "full training, AdamW, 16 bytes each", Unit::Gib, gib(train)),
        figure(
            "train_6B_per_param",
            "full training, 8-bit moments and no master weights, 6 bytes each",
            Unit::Gib,
            gib(states(PARAMS, Optimizer::AdamW8bitWithoutMaster)),
        ),
        figure("lora_fp16", "LoRA on fp16, layers recomputed", Unit::Gib, lora.gib()),
        figure("qlora_nf4", "QLoRA on NF4, layers recomputed", Unit::Gib, qlora.gib()),
    ]);
    let phone_holds = phone(&mut figures);
    let deploy: Result<Vec<String>> = formats
        .iter()
        .map(|(format, _)| Ok(format!("{format} on {}", card(weight_bytes(PARAMS, *format) + kv)?)))
        .collect();
    let full = if train <= Gpu::find(CARDS[2].1)?.memory_bytes { "on 24 GB" } else { "on no card" };
    let verdict = format!(
        "deploy: true, {}; train: LoRA on {}, QLoRA on {}, full training {full} ({:.0} GiB); on a \
         phone (weights, cache and 1 GiB within half of 8 GB): {}",
        listed(&deploy?),
        card(lora.bytes())?,
        card(qlora.bytes())?,
        gib(train),
        listed(&phone_holds),
    );
    Ok(Claim {
        id: "6B_consumer",
        quote: "6B models deploy and train on 12/16/24 GB consumer cards, 1.4B/2.8B on phone/car \
                with quantization",
        assumptions: vec![
            "ChatGLM-6B: 6.2e9 parameters, 28 layers of 4096; Pythia's 1.4B and 2.8B".to_owned(),
            "a card must hold weights, the cache of 2048 tokens and 0.75 GiB of driver".to_owned(),
            format!("adapters of rank {RANK} on a LLaMA shape of that size"),
        ],
        inputs: inputs(),
        figures,
        verdict,
    })
}

fn inputs() -> Map<String, serde_json::Value> {
    // ChatGLM-6B's README, GB: for comparison, not computed here.
    let published = json!({"infer": {"fp16": 13, "int8": 8, "int4": 6},
                           "peft": {"fp16": 14, "int8": 9}});
    Map::from_iter([
        ("params".to_owned(), json!(PARAMS)),
        ("layers".to_owned(), json!(LAYERS as usize)),
        ("hidden".to_owned(), json!(HIDDEN as usize)),
        ("ctx".to_owned(), json!(CONTEXT)),
        ("chatglm6b_published_gb".to_owned(), published),
    ])
}
