//! BitFit on golden models with and without biases.

use puna_peft::{AdapterConfig, BitFitConfig};

use crate::adapted::Adapted;

fn adapted(base: &str) -> Option<Adapted> {
    Adapted::new(base, &AdapterConfig::BitFit(BitFitConfig::default()))
}

#[test]
fn bitfit_trains_the_biases_that_a_model_has_or_new_ones_of_zeros() {
    for (base, sizes) in [
        // q, k, v, o, gate, up, down, all with biases
        ("text/llama-bias", 2 * (64 + 32 + 32 + 64 + 112 + 112 + 64)),
        // none of them has one, so all get one
        ("text/llama2-gqa", 2 * (64 + 32 + 32 + 64 + 192 + 192 + 64)),
    ] {
        let Some(adapted) = adapted(base) else { return };
        adapted.begins_as_the_base();
        assert_eq!(adapted.method.size(), sizes, "{base}");
    }
    // Only q, k and v have one: L (H·D + 2 K·D).
    let Some(qwen) = adapted("text/qwen2") else { return };
    let attention = &qwen.model.config.decoder.attention;
    let of_layer = (attention.num_heads + 2 * attention.num_kv_heads) * attention.head_dim;
    assert_eq!(qwen.method.size(), qwen.model.config.decoder.num_layers * of_layer);
}

#[test]
fn bitfit_learns_merges_and_is_loaded_as_it_was_saved() {
    for base in ["text/llama-bias", "text/llama2-gqa"] {
        let Some(adapted) = adapted(base) else { return };
        adapted.randomize(0.1);
        adapted.gradients_match(".bias");
        let losses = adapted.learns(12, 0.03);
        println!("bitfit on {base}: loss {:.3} → {:.3}", losses[0], losses[losses.len() - 1]);
        adapted.merges();
        let (_, config) = adapted.saves();
        assert_eq!(
            (&config["method"], &config["values"]),
            (&"bitfit".into(), &"replacement".into())
        );
    }
}
