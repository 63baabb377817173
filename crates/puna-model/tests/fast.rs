//! Fast mode: how far it may be from the reference, on every golden case.

use puna_model::Precision;

use crate::support::{cases, load, prefill, prompts, rms_over_std};

/// Quantized weights with 8-bit activations; llama.cpp itself shows 0.016 to 0.031.
const QUANTIZED: f32 = 0.05;
/// Activations rounded to bf16.
const BF16: f32 = 0.015;
/// f16 weights; float32 arithmetic needs none of it.
const F16: f32 = 0.002;

fn bound(format: &str) -> f32 {
    match format {
        "F32" | "F16" => F16,
        // exact themselves, but their embeddings and heads are BF16
        "BF16" | "codebook4" | "F8_E4M3" => BF16,
        _ => QUANTIZED,
    }
}

#[test]
fn the_fast_mode_stays_within_its_bounds_on_every_case() {
    for group in ["text", "layout", "gguf", "gptq", "awq", "bnb"] {
        let Some(cases) = cases(group) else { continue };
        for case in cases.iter().filter(|c| !c.ends_with("llama4-text")) {
            let model = load(case, Precision::Fast);
            let bound = bound(model.decoder.matrix_format());
            for (i, prompt) in prompts(case).iter().enumerate() {
                let (_, logits) = prefill(&model.decoder, &prompt.input);
                let error = rms_over_std(&logits, &prompt.logits);
                let name = case.display();
                assert!(error <= bound, "{name} prompt {i}: rms/std {error:.4} above {bound}");
                eprintln!("{name} prompt {i}: rms/std {error:.5} (bound {bound})");
            }
        }
    }
}
