//! What other programs will not see in a GGUF that puna writes.
//!
//! Some settings have no place in GGUF's own keys, or llama.cpp does not use them. puna writes them
//! (under `puna.*` where needed) and reads them back; llama.cpp goes on without and gives other
//! logits. A conversion says so. Each case here was seen: `docs/gguf.md`.

use puna_config::{Family, LocalLayers, ModelConfig, RopeScaling};

/// Notes for the person who converts, one per setting that llama.cpp does not know.
pub(super) fn notes(config: &ModelConfig) -> Vec<String> {
    let decoder = &config.decoder;
    let mut notes = Vec::new();
    let mut note = |what: String| {
        notes.push(format!("{what}: puna reads it back from the file, llama.cpp will differ"));
    };
    if let Some(local) = &decoder.layers.local {
        let applied = match local.which {
            LocalLayers::AllButEvery(n) => config.family == Family::Gemma3 || n == 2,
            LocalLayers::All | LocalLayers::From(_) => false,
        };
        if !applied {
            let window = local.window;
            note(format!("llama.cpp does not apply these layers' sliding window of {window}"));
        }
    }
    if matches!(decoder.layers.global_rope.scaling, RopeScaling::DynamicNtk { .. }) {
        note("llama.cpp has no dynamic NTK scaling".into());
    }
    let usual_scale = (decoder.attention.head_dim as f64).powf(-0.5);
    let is_27b = matches!(decoder.num_layers, 46 | 62); // llama.cpp knows Gemma 27B's by its layers
    if (decoder.attention.scale - usual_scale).abs() > 1e-9 && !is_27b {
        let scale = decoder.attention.scale;
        note(format!("GGUF has no key for this architecture's attention scale of {scale:.6}"));
    }
    notes
}
