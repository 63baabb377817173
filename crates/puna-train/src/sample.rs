//! What a model writes while it is trained.

use puna_model::Decoder;
use puna_nn::Pass;
use puna_text::{DecodeSpecials, SpecialTokens, Tokenizer};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::TrainError;

/// Between repeating itself (0) and drawing from the whole distribution (1).
const TEMPERATURE: f32 = 0.8;

/// A continuation of `prompt` by up to so many tokens; the same for the same seed.
pub(crate) fn continuation(
    (decoder, pass): (&Decoder, &Pass),
    tokenizer: &Tokenizer,
    (prompt, tokens): (&str, usize),
    seed: u64,
) -> Result<String, TrainError> {
    let mut ids = tokenizer.encode(prompt, SpecialTokens::Add)?;
    let given = ids.len();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    while ids.len() < (given + tokens).min(decoder.config().max_seq_len) {
        let mut probabilities = decoder.next_logits(&ids, pass)?;
        probabilities.iter_mut().for_each(|logit| *logit /= TEMPERATURE);
        puna_kernels::softmax(&mut probabilities);
        let id = draw(&probabilities, rng.next_u32());
        if tokenizer.eos().contains(&id) {
            break;
        }
        ids.push(id);
    }
    Ok(tokenizer.decode(&ids[given..], DecodeSpecials::Skip)?)
}

/// The class whose part of the whole holds the number's place in its range.
fn draw(probabilities: &[f32], number: u32) -> u32 {
    let mut left = f64::from(number) / 2f64.powi(32);
    for (id, &probability) in probabilities.iter().enumerate() {
        left -= f64::from(probability);
        if left < 0.0 {
            return id as u32;
        }
    }
    probabilities.len().saturating_sub(1) as u32
}

#[cfg(test)]
mod tests {
    use super::draw;

    #[test]
    fn classes_are_drawn_by_their_share_of_the_range() {
        let probabilities = [0.25, 0.0, 0.75];
        assert_eq!(draw(&probabilities, 0), 0);
        assert_eq!(draw(&probabilities, u32::MAX / 4 - 1), 0);
        assert_eq!(draw(&probabilities, u32::MAX / 4 + 2), 2);
        assert_eq!(draw(&probabilities, u32::MAX), 2);
    }
}
