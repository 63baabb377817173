//! Fast mode: how far it may be from the reference, on every golden case.

use puna_model::{LoadOptions, Model, Precision, WeightLayout};
use puna_nn::{BlockOrder, LayerSlot, Slot, Weight};

use crate::support::{cases, greedy, load, model_path, prefill, prompts, rms_over_std};

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

/// Quantized, BF16 and F16 weights, and integers beside a head of floats.
#[test]
fn weights_in_memory_of_their_own_give_the_bits_of_those_in_the_files_pages() {
    for group in ["text", "layout", "gguf", "gptq"] {
        let Some(cases) = cases(group) else { continue };
        for case in cases.iter().filter(|c| !c.ends_with("llama4-text")) {
            let logits = [WeightLayout::AsStored, WeightLayout::Panels].map(|layout| {
                let options = LoadOptions { layout, ..LoadOptions::new(Precision::Fast) };
                let model = Model::load(&model_path(case), &options).unwrap();
                let prompt = &prompts(case)[0].input;
                // The steps make the copies, which the second prompt then reads as well.
                [greedy(&model.decoder, prompt, 3).1, prefill(&model.decoder, prompt).1].concat()
            });
            assert!(logits[0] == logits[1], "{}", case.display());
        }
    }
}

/// Rows of queries and keys that a GGUF file has in another order are copied when they are needed, in the
/// form for products, and not as rows as well.
#[test]
fn reordered_rows_are_in_memory_once() {
    let Some(cases) = cases("gguf") else { return };
    let mut seen = 0;
    for case in cases {
        let model = load(&case, Precision::Fast);
        let prompt = &prompts(&case)[0].input;
        prefill(&model.decoder, prompt);
        greedy(&model.decoder, prompt, 3);
        let (mut rotary, mut open) = (0, 0);
        for (slot, linear) in model.decoder.linears() {
            let Weight::Block(block) = &**linear.weight() else { continue };
            assert_eq!(block.order(), BlockOrder::Rows, "{} {slot:?}", case.display());
            let is_rotary = matches!(slot, Slot::Layer(_, LayerSlot::Query | LayerSlot::Key));
            assert!(is_rotary || block.is_made(), "{} {slot:?}", case.display());
            rotary += usize::from(is_rotary);
            open += usize::from(!block.is_made());
        }
        // Not all families have another order.
        assert!(open == 0 || open == rotary, "{}: {open} of {rotary}", case.display());
        seen += open;
    }
    assert!(seen > 0, "no reordered rows in any case");
}
