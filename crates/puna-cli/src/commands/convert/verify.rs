//! `--verify`: both sides of a conversion, run in exact mode on the same prompts.
//!
//! Where the matrices kept their type, every logit must be bitwise the same. Where they were
//! rounded, the error must be no larger than the rounding explains (rms of the difference over the
//! standard deviation of the source's logits). Token ids must be the same always.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::bail;
use puna_infer::{GenerateOptions, Session, TokensOnly};
use puna_io::{Checkpoint, Dtype};
use puna_model::{Decoder, LoadOptions, Logits, Model, Precision, Segment};
use puna_text::{SpecialTokens, Tokenizer};

use crate::model_ref::ModelRef;
use crate::output;
use crate::progress::Spinner;
use crate::report::Outcome;
use crate::text_side::TextSide;

/// Greedy tokens compared per prompt.
const GREEDY_TOKENS: usize = 16;
/// Prompts of this many tokens, made of ids where there is no tokenizer on both sides.
const PROMPT_TOKENS: [usize; 3] = [3, 17, 40];
/// A widened model differs by the order of no sum, but its norms may pass other kernels.
const WIDENED_BOUND: f64 = 1e-5;

/// Texts with what tokenizers disagree about: spaces, line ends, digits, scripts, emoji, code.
const TEXTS: [&str; 8] = [
    "Hello world",
    "  two leading spaces and a trailing one ",
    "line one\nline two\r\n\n\ttabbed",
    "3.14159, 1,000,000 and 2024-07-26",
    "naïve café — “quotes” … ñandú",
    "中文字符与 English 混排，日本語も、한국어도",
    "emoji 👩‍👩‍👧 🦙 and a lone combining mark: e\u{301}",
    "fn main() { println!(\"{:?}\", vec![1u8; 3]); }",
];

/// How equal the sides must be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Expected {
    /// Every bit of every logit.
    Identical,
    /// rms(difference) / std(source) at most this.
    Within(f64),
}

/// Compares the source with what was written.
pub(super) fn verify(source: &ModelRef, written: &Path) -> anyhow::Result<Outcome> {
    let spinner = Spinner::new("verifying");
    let written = ModelRef::Path(written.to_path_buf());
    let (before, text_before) = load(source)?;
    let (after, text_after) = load(&written)?;
    let expected = expected(&before.checkpoint, &after.checkpoint);
    let mut prompts = made_up_prompts(&before);
    let mut same_ids = true;
    match (text_before.tokenizer, text_after.tokenizer) {
        (Some(before), Some(after)) => {
            let texts = token_ids(&before, &after)?;
            same_ids = texts.is_some();
            prompts.extend(texts.unwrap_or_default());
        }
        (None, None) => output::note("note: there is no tokenizer to compare"),
        (has_before, _) => {
            let side = if has_before.is_some() { &written } else { source };
            output::note(&format!("note: {side} has no tokenizer; token ids were not compared"));
        }
    }
    let context = before.config.decoder.max_seq_len;
    prompts.retain(|prompt| !prompt.is_empty() && prompt.len() + GREEDY_TOKENS <= context);
    if prompts.is_empty() {
        bail!("a context of {context} tokens is too short to compare anything");
    }
    let difference = compare(&before.decoder, &after.decoder, &prompts)?;
    drop(spinner);
    let (outcome, numbers) = judge(&difference, expected, same_ids, prompts.len());
    output::note(&numbers);
    output::note(match outcome {
        Outcome::Done => "verified",
        Outcome::No => "verification failed: the two sides are not the same model",
    });
    Ok(outcome)
}

fn load(model: &ModelRef) -> anyhow::Result<(Model, TextSide)> {
    let checkpoint = crate::loaded::open(model)?;
    let text = TextSide::of_checkpoint(&checkpoint)?;
    let options = LoadOptions::new(Precision::Exact);
    Ok((Model::from_checkpoint(checkpoint, &options)?, text))
}

/// Stored types of the matrices.
fn matrix_types(checkpoint: &Checkpoint) -> BTreeSet<Dtype> {
    let infos = checkpoint.names().filter_map(|name| checkpoint.info(name));
    infos.filter(|info| info.shape.len() > 1).map(|info| info.dtype).collect()
}

fn expected(before: &Checkpoint, after: &Checkpoint) -> Expected {
    let (before, after) = (matrix_types(before), matrix_types(after));
    if before == after {
        return Expected::Identical;
    }
    // Bounds on what rounding the weights does to the logits of small random models, the worst
    // case: trained models stay well below.
    let bound = |dtype: &Dtype| match dtype {
        Dtype::F32 | Dtype::F64 => WIDENED_BOUND,
        Dtype::F16 => 0.005,
        Dtype::BF16 => 0.02,
        Dtype::Q8_0 => 0.05,
        _ => 0.5,
    };
    let worst = after.difference(&before).map(bound).fold(WIDENED_BOUND, f64::max);
    Expected::Within(worst)
}

/// Prompts that need no tokenizer.
fn made_up_prompts(model: &Model) -> Vec<Vec<u32>> {
    let vocab_size = model.config.decoder.vocab_size as u32;
    let bos = model.config.tokens.bos.unwrap_or(1).min(vocab_size.saturating_sub(1));
    let prompt = |&length: &usize| {
        let spread = (1..length as u32).map(|i| i.wrapping_mul(7919) % vocab_size);
        std::iter::once(bos).chain(spread).collect()
    };
    PROMPT_TOKENS.iter().map(prompt).collect()
}

/// The ids of the texts; `None`, with a word about the first, where the sides differ.
fn token_ids(before: &Tokenizer, after: &Tokenizer) -> anyhow::Result<Option<Vec<Vec<u32>>>> {
    let mut all = Vec::new();
    for text in TEXTS {
        let ids = before.encode(text, SpecialTokens::Add)?;
        let others = after.encode(text, SpecialTokens::Add)?;
        if ids != others {
            output::note(&format!(
                "token ids of {text:?} differ: {ids:?} before, {others:?} after"
            ));
            return Ok(None);
        }
        all.push(ids);
    }
    Ok(Some(all))
}

/// How far the sides are apart.
#[derive(Debug, Default, Clone, Copy)]
struct Difference {
    max: f64,
    /// rms(difference) / std(source), over all logits.
    relative: f64,
    greedy_equal: usize,
    greedy_total: usize,
}

fn compare(before: &Decoder, after: &Decoder, prompts: &[Vec<u32>]) -> anyhow::Result<Difference> {
    let mut found = Difference::default();
    let (mut squares, mut sum, mut sum_squares, mut count) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for prompt in prompts {
        let (a, b) = (logits(before, prompt)?, logits(after, prompt)?);
        for (&a, &b) in a.iter().zip(&b) {
            let (a, difference) = (f64::from(a), f64::from(a) - f64::from(b));
            found.max = larger(found.max, difference.abs());
            squares += difference * difference;
            sum += a;
            sum_squares += a * a;
            count += 1.0;
        }
        let (a, b) = (greedy(before, prompt)?, greedy(after, prompt)?);
        found.greedy_total += a.len();
        found.greedy_equal += a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    }
    let variance = sum_squares / count - (sum / count) * (sum / count);
    found.relative = (squares / count / variance).sqrt();
    Ok(found)
}

/// The maximum, but NaN once there was one: it must not pass for equality.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// `[T, V]`
fn logits(decoder: &Decoder, prompt: &[u32]) -> anyhow::Result<Vec<f32>> {
    let mut cache = decoder.new_cache();
    let segment = Segment { tokens: prompt, cache: &mut cache, total_len: prompt.len() };
    Ok(decoder.forward(&mut [segment], Logits::All)?)
}

fn greedy(decoder: &Decoder, prompt: &[u32]) -> anyhow::Result<Vec<u32>> {
    let options =
        GenerateOptions { max_new_tokens: Some(GREEDY_TOKENS), ..GenerateOptions::default() };
    let mut session = Session::new(decoder);
    let keep_going = |_| std::ops::ControlFlow::Continue(());
    let made = session.generate(decoder, &TokensOnly, prompt, &options, keep_going)?;
    Ok(made.completion.token_ids)
}

/// The verdict, and the numbers it rests on.
fn judge(
    difference: &Difference,
    expected: Expected,
    same_ids: bool,
    prompts: usize,
) -> (Outcome, String) {
    let Difference { max, relative, greedy_equal, greedy_total } = *difference;
    let logits_agree = match expected {
        Expected::Identical => max == 0.0 && greedy_equal == greedy_total,
        Expected::Within(bound) => relative <= bound,
    };
    let wanted = match expected {
        Expected::Identical => "identical".to_string(),
        Expected::Within(bound) => format!("relative at most {bound}"),
    };
    let numbers = format!(
        "compared on {prompts} prompts: max |Δ logit| {max:.3e}, relative {relative:.3e} \
         (expected: {wanted}); {greedy_equal} of {greedy_total} greedy tokens equal; token ids {}",
        if same_ids { "equal" } else { "DIFFER" }
    );
    let outcome = if logits_agree && same_ids { Outcome::Done } else { Outcome::No };
    (outcome, numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(max: f64, relative: f64, greedy_equal: usize) -> Difference {
        Difference { max, relative, greedy_equal, greedy_total: 16 }
    }

    #[test]
    fn identical_means_every_bit_and_every_token() {
        let judged = |d| judge(&d, Expected::Identical, true, 1).0;
        assert_eq!(judged(difference(0.0, 0.0, 16)), Outcome::Done);
        assert_eq!(judged(difference(1e-7, 1e-8, 16)), Outcome::No);
        assert_eq!(judged(difference(f64::NAN, f64::NAN, 16)), Outcome::No);
    }

    #[test]
    fn rounding_is_bounded_and_ids_must_agree_anyway() {
        let within = Expected::Within(0.05);
        assert_eq!(judge(&difference(0.3, 0.04, 9), within, true, 1).0, Outcome::Done);
        assert_eq!(judge(&difference(0.3, 0.06, 16), within, true, 1).0, Outcome::No);
        assert_eq!(judge(&difference(f64::NAN, f64::NAN, 16), within, true, 1).0, Outcome::No);
        assert_eq!(judge(&difference(0.0, 0.0, 16), within, false, 1).0, Outcome::No);
    }
}
