//! IA³ on a golden model.

use puna_peft::{AdapterConfig, Ia3Config, combine};

use crate::adapted::Adapted;

fn adapted(base: &str) -> Option<Adapted> {
    Adapted::new(base, &AdapterConfig::Ia3(Ia3Config::default()))
}

#[test]
fn ia3_begins_as_the_base_and_has_one_value_per_key_value_and_inner_activation() {
    let Some(adapted) = adapted("text/llama2-gqa") else { return };
    adapted.begins_as_the_base();
    // L (K·D + K·D + F) (section 3.3 of the paper, with grouped keys)
    assert_eq!(adapted.method.size(), 2 * (32 + 32 + 192));
    let error = combine(&[(&*adapted.method, 0.5)]).unwrap_err().to_string();
    assert_eq!(error, "IA3 multiplies and has scale 1 only, not 0.5");
}

#[test]
fn ia3_learns_merges_and_is_loaded_as_it_was_saved() {
    for base in ["text/llama2-gqa", "text/llama-bias", "bnb/nf4"] {
        let Some(adapted) = adapted(base) else { return };
        adapted.randomize(0.3);
        adapted.gradients_match("ia3_l");
        let losses = adapted.learns(12, 0.05);
        println!("ia3 on {base}: loss {:.3} → {:.3}", losses[0], losses[losses.len() - 1]);
        adapted.merges();
        let (_, config) = adapted.saves();
        assert_eq!(
            (&config["peft_type"], &config["feedforward_modules"][0]),
            (&"IA3".into(), &"down_proj".into())
        );
    }
}
