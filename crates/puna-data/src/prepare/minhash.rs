//! MinHash signatures of texts (Broder, "On the resemblance and containment of documents", 1997).
//!
//! A text is the set of its shingles, five words in a row. For each of 128 hash functions the
//! signature keeps the least value over the set; two texts agree at a place with the probability of
//! their Jaccard similarity, so the share of places that agree estimates it with a standard error of
//! at most √(0.25/128) = 0.044. The hash functions are h ↦ ⌊(a·h + b) / 2³²⌋ mod 2³² with odd a
//! (multiply-shift, Dietzfelbinger et al. 1997) over a 64-bit hash of the shingle.

use std::sync::LazyLock;

use crate::permutation::mix;

/// Hash functions.
pub(crate) const PERMUTATIONS: usize = 128;
/// Words of a shingle.
const SHINGLE_WORDS: usize = 5;

/// The least value of each hash function.
pub(crate) type Signature = Box<[u32; PERMUTATIONS]>;

/// a and b of each hash function, from a fixed seed.
static FUNCTIONS: LazyLock<[(u64, u64); PERMUTATIONS]> = LazyLock::new(|| {
    std::array::from_fn(|i| {
        let seed = 0x7075_6E61_0000_0000 + 2 * i as u64; // "puna"
        (mix(seed) | 1, mix(seed + 1))
    })
});

/// The signature of a text; `None` for one without a letter or digit.
pub(crate) fn signature(text: &str) -> Option<Signature> {
    let words = word_hashes(text);
    if words.is_empty() {
        return None;
    }
    let mut shingles: Vec<u64> = match words.len() {
        0..SHINGLE_WORDS => vec![combine(&words)],
        _ => words.windows(SHINGLE_WORDS).map(combine).collect(),
    };
    shingles.sort_unstable();
    shingles.dedup();
    let mut least = Box::new([u32::MAX; PERMUTATIONS]);
    for shingle in shingles {
        for (least, (a, b)) in least.iter_mut().zip(FUNCTIONS.iter()) {
            let value = (a.wrapping_mul(shingle).wrapping_add(*b) >> 32) as u32;
            *least = (*least).min(value);
        }
    }
    Some(least)
}

/// The estimated Jaccard similarity.
pub(crate) fn similarity(a: &[u32; PERMUTATIONS], b: &[u32; PERMUTATIONS]) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    equal as f64 / PERMUTATIONS as f64
}

/// Words are runs of letters and digits, in lower case; a character of a script that sets no
/// spaces (U+2E80 and above, Thai to Khmer) is a word of its own.
fn word_hashes(text: &str) -> Vec<u64> {
    const START: u64 = 0xCBF2_9CE4_8422_2325; // FNV-1a over characters, then mixed
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    let mut words = Vec::new();
    let mut word = None;
    for c in text.chars() {
        let alone = matches!(c, '\u{0E00}'..='\u{0EFF}' | '\u{1000}'..='\u{109F}'
            | '\u{1780}'..='\u{17FF}' | '\u{2E80}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}'
            | '\u{20000}'..='\u{3FFFF}');
        if alone || !c.is_alphanumeric() {
            words.extend(word.take().map(mix));
        }
        if c.is_alphanumeric() {
            let mut hash = word.unwrap_or(START);
            for lower in c.to_lowercase() {
                hash = (hash ^ u64::from(lower)).wrapping_mul(PRIME);
            }
            if alone {
                words.push(mix(hash));
            } else {
                word = Some(hash);
            }
        }
    }
    words.extend(word.map(mix));
    words
}

fn combine(words: &[u64]) -> u64 {
    words.iter().fold(words.len() as u64, |hash, word| mix(hash ^ word).wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words from..to of an endless text.
    fn words(from: usize, to: usize) -> String {
        (from..to).map(|i| format!("w{i} ")).collect()
    }

    #[test]
    fn the_estimate_is_near_the_true_similarity() {
        // 996 shingles each; of a shift by s, 996 − s are shared: J = (996 − s) / (996 + s).
        let a = signature(&words(0, 1000)).expect("words");
        for shift in [0, 50, 110, 330] {
            let b = signature(&words(shift, 1000 + shift)).expect("words");
            let truth = (996 - shift) as f64 / (996 + shift) as f64;
            let estimate = similarity(&a, &b);
            assert!((estimate - truth).abs() < 0.13, "{estimate} for {truth}"); // 3 σ
        }
        let other = signature(&words(5000, 6000)).expect("words");
        assert!(similarity(&a, &other) < 0.05);
    }

    #[test]
    fn case_and_punctuation_do_not_matter_and_word_order_does() {
        let a = signature("The llama, the alpaca; and the vicuña!").expect("words");
        let b = signature("the LLAMA the alpaca and the VICUÑA").expect("words");
        assert_eq!(a, b);
        let c = signature("the vicuña and the alpaca the llama").expect("words");
        assert!(similarity(&a, &c) < 0.5);
        assert!(signature(" -- ").is_none());
    }

    #[test]
    fn scripts_without_spaces_have_a_word_per_character() {
        assert_eq!(word_hashes("大羊驼吃草").len(), 5);
        assert_eq!(word_hashes("a llama 吃草2 go").len(), 6);
    }
}
