//! What other programs will not see in a GGUF that puna writes.
//!
//! Some settings have no place in GGUF's own keys. puna writes them under `puna.*` and reads them
//! back; llama.cpp goes on without them and gives other logits. A conversion says so.

use puna_config::{Family, LocalLayers, ModelConfig, RopeScaling};

/// Notes for the person who converts, one per setting that llama.cpp does not know.
pub(super) fn notes(config: &ModelConfig) -> Vec<String> {
    let decoder = &config.decoder;
    let mut notes = Vec::new();
    let mut note = |what: String| {
        notes.push(format!("{what}; puna reads it back from puna.* keys, llama.cpp will differ"));
    };
    let usual_period = match config.family {
        Family::Gemma2 => Some(2),
        Family::Gemma3 => Some(6),
        _ => None,
    };
    if let Some(local) = &decoder.layers.local {
        let known = matches!(local.which, LocalLayers::AllButEvery(n) if Some(n) == usual_period);
        if !known {
            let window = local.window;
            note(format!("GGUF has no key for these layers' sliding window of {window}"));
        }
    }
    if matches!(decoder.layers.global_rope.scaling, RopeScaling::DynamicNtk { .. }) {
        note("GGUF has no dynamic NTK scaling".into());
    }
    let usual_scale = (decoder.attention.head_dim as f64).powf(-0.5);
    let is_27b = matches!(decoder.num_layers, 46 | 62); // llama.cpp knows Gemma 27B's by its layers
    if (decoder.attention.scale - usual_scale).abs() > 1e-9 && !is_27b {
        let scale = decoder.attention.scale;
        note(format!("GGUF has no key for this architecture's attention scale of {scale:.6}"));
    }
    notes
}
