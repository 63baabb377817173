//! The slots that a config has, and their shapes.

use puna_config::{
    AttentionBias, DecoderConfig, FfnBias, FfnConfig, HeadWeight, NormPlacement, QkNorm,
};
use puna_nn::{Expert, LayerSlot, Slot};

/// Every slot that a config has, in the order in which files list them.
#[must_use]
pub fn slots(config: &DecoderConfig) -> Vec<Slot> {
    let mut slots = vec![Slot::Embedding];
    for layer in 0..config.num_layers {
        slots.extend(layer_slots(config).into_iter().map(|slot| Slot::Layer(layer, slot)));
    }
    slots.push(Slot::FinalNorm);
    if config.embedding.head == HeadWeight::Separate {
        slots.push(Slot::Head);
    }
    slots
}

fn layer_slots(config: &DecoderConfig) -> Vec<LayerSlot> {
    use LayerSlot as L;
    let mut slots = vec![L::AttnPreNorm, L::Query, L::Key, L::Value, L::Output];
    match config.attention.bias {
        AttentionBias::None => {}
        AttentionBias::Qkv => slots.extend([L::QueryBias, L::KeyBias, L::ValueBias]),
        AttentionBias::QkvOutput => {
            slots.extend([L::QueryBias, L::KeyBias, L::ValueBias, L::OutputBias]);
        }
    }
    if config.attention.qk_norm != QkNorm::None {
        slots.extend([L::QueryNorm, L::KeyNorm]);
    }
    slots.push(L::FfnPreNorm);
    if config.placement == NormPlacement::Sandwich {
        slots.extend([L::AttnPostNorm, L::FfnPostNorm]);
    }
    match &config.ffn {
        FfnConfig::Dense { bias, .. } => {
            slots.extend([L::Gate(Expert::Dense), L::Up(Expert::Dense), L::Down(Expert::Dense)]);
            if *bias == FfnBias::All {
                slots.extend([L::GateBias, L::UpBias, L::DownBias]);
            }
        }
        FfnConfig::Moe { num_experts, .. } => {
            slots.push(L::Router);
            for expert in (0..*num_experts).map(Expert::Index) {
                slots.extend([L::Gate(expert), L::Up(expert), L::Down(expert)]);
            }
        }
    }
    slots
}

/// Shape of a slot's tensor; `None` where the config has no such slot's size.
#[must_use]
pub fn matrix_shape(config: &DecoderConfig, slot: Slot) -> Vec<usize> {
    let a = &config.attention;
    let (q, kv, hidden) =
        (a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim, config.hidden_size);
    let (ffn, experts) = match &config.ffn {
        FfnConfig::Dense { ffn_size, .. } => (*ffn_size, 0),
        FfnConfig::Moe { ffn_size, num_experts, .. } => (*ffn_size, *num_experts),
    };
    let whole = a.qk_norm == QkNorm::WholeProjection;
    let Slot::Layer(_, slot) = slot else {
        return match slot {
            Slot::FinalNorm => vec![hidden],
            _ => vec![config.vocab_size, hidden],
        };
    };
    match slot {
        LayerSlot::AttnPreNorm
        | LayerSlot::AttnPostNorm
        | LayerSlot::FfnPreNorm
        | LayerSlot::FfnPostNorm
        | LayerSlot::OutputBias
        | LayerSlot::DownBias => vec![hidden],
        LayerSlot::Query => vec![q, hidden],
        LayerSlot::Key | LayerSlot::Value => vec![kv, hidden],
        LayerSlot::Output => vec![hidden, q],
        LayerSlot::QueryBias => vec![q],
        LayerSlot::KeyBias | LayerSlot::ValueBias => vec![kv],
        LayerSlot::QueryNorm => vec![if whole { q } else { a.head_dim }],
        LayerSlot::KeyNorm => vec![if whole { kv } else { a.head_dim }],
        LayerSlot::Router => vec![experts, hidden],
        LayerSlot::Gate(_) | LayerSlot::Up(_) => vec![ffn, hidden],
        LayerSlot::Down(_) => vec![hidden, ffn],
        LayerSlot::GateBias | LayerSlot::UpBias => vec![ffn],
    }
}
