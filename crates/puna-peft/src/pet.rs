//! Pattern-exploiting training (PET, arXiv:2001.07676): classification as a question with a gap.
//!
//! A pattern makes a text of an input, a verbalizer has a word for every label, and the label is that
//! whose word the model would rather put into the gap (section 3.1): with the logit `s_p(l | x)` of the
//! word, `q_p(l | x) = e^{s_p(l|x)} / Σ_l' e^{s_p(l'|x)}`. Here are texts of tokens only; making them is for
//! who has a tokenizer.
//!
//! Where the paper has masked models, these are causal: the gap is behind the last token of a pattern,
//! and a text has to stand before its question. Words are single tokens, as in the paper.
//!
//! The loss is the paper's `L_CE`, over the verbalizer's words alone: in training a head that has only
//! their rows takes the place of the model's ([`Verbalizer::restrict`]), and targets are labels. With the
//! model's own head the same rows can have the words as targets, with the loss of a language model over
//! the vocabulary; which one a batch is for, [`ClozeLoss`] says. The paper's auxiliary `L_MLM` (section
//! 3.2) is language modeling on other text: rows like any others.
//!
//! Several patterns are one model each, whose scores are averaged; the soft labels of unlabeled examples
//! are `softmax(s / T)` with `T` = 2 (section 3.3). What is trained on them takes an example once for each
//! label, with the label's probability as the factor of its loss, which is linear in the target.

use std::sync::Arc;

use puna_model::TokenRows;
use puna_nn::ops::with_f32;
use puna_nn::{AdaptedLinear, AdapterSet, Parameter, Slot, Weight};

use crate::{Base, PeftError};

/// Temperature of soft labels in the paper.
pub const TEMPERATURE: f32 = 2.0;

/// A word for every label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verbalizer {
    tokens: Vec<u32>,
}

impl Verbalizer {
    /// From the tokens of the labels' words, in the order of the labels.
    ///
    /// # Errors
    /// If there are fewer than two, a word has not one token, two have the same, or one is outside a
    /// vocabulary of `vocab`.
    pub fn new(words: &[Vec<u32>], vocab: usize) -> Result<Self, PeftError> {
        let wrong = |expected: &str| PeftError::Setting {
            key: "verbalizer",
            value: format!("{words:?}"),
            expected: expected.to_owned(),
        };
        if words.len() < 2 {
            return Err(wrong("words of at least two labels"));
        }
        let mut tokens = Vec::new();
        for word in words {
            let &[token] = word.as_slice() else {
                return Err(wrong("words of one token each"));
            };
            if token as usize >= vocab {
                return Err(wrong("tokens of the vocabulary"));
            }
            if tokens.contains(&token) {
                return Err(wrong("another word for each label"));
            }
            tokens.push(token);
        }
        Ok(Self { tokens })
    }

    /// The labels' tokens.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The labels' scores `s_p`, from the logits `[V]` behind a pattern's last token.
    ///
    /// # Errors
    /// If these are too few.
    pub fn scores(&self, logits: &[f32]) -> Result<Vec<f32>, PeftError> {
        let score = |&token: &u32| logits.get(token as usize).copied();
        let scores: Option<Vec<f32>> = self.tokens.iter().map(score).collect();
        scores.ok_or_else(|| PeftError::Combination {
            problem: format!("a verbalizer of {:?} and {} logits", self.tokens, logits.len()),
        })
    }

    /// A set whose head has the words' rows only, `[labels, C]`: its logits are the scores, its targets
    /// labels. For `Decoder::train_on`, `evaluate` and `next_logits`; these rows are not trained.
    ///
    /// # Errors
    /// If the set adapts the head, which would be left out, or the head has a bias.
    pub fn restrict(&self, base: &Base<'_>, set: &AdapterSet) -> Result<AdapterSet, PeftError> {
        let refuse = |problem: &str| {
            Err(PeftError::Combination { problem: format!("a verbalizer's head: {problem}") })
        };
        if set.linears.contains_key(&Slot::Head) {
            return refuse("an adapter of the head would be left out");
        }
        let linears = base.decoder.linears();
        let Some((_, head)) = linears.into_iter().find(|(slot, _)| *slot == Slot::Head) else {
            return refuse("the model has none");
        };
        if head.bias().is_some() {
            return refuse("the model's has a bias");
        }
        let (vocab, width) = (head.weight().rows(), head.weight().cols());
        let mut rows = Vec::with_capacity(self.tokens.len() * width);
        with_f32(&head.weight().dequantize()?, |weight| {
            for &token in &self.tokens {
                let row = token as usize * width..(token as usize + 1) * width;
                rows.extend_from_slice(weight.get(row).unwrap_or_default());
            }
        })?;
        if rows.len() != self.tokens.len() * width {
            return refuse(&format!("{:?} of {vocab} rows", self.tokens));
        }
        let parameter = Parameter::new("verbalizer", &[self.tokens.len(), width], rows);
        let weight = Some(Arc::new(Weight::Trained(Arc::new(parameter))));
        let mut set = set.clone();
        set.linears.insert(Slot::Head, AdaptedLinear { weight, ..AdaptedLinear::default() });
        Ok(set)
    }
}

/// What the loss of a batch is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClozeLoss {
    /// The verbalizer's words: for a set of [`Verbalizer::restrict`].
    Words,
    /// The vocabulary: for the model's own head.
    Vocabulary,
}

/// Texts of a pattern and the labels of their gaps, as rows for training. Each row is one text, and
/// filled up with tokens that nobody sees.
#[derive(Debug, Clone, PartialEq)]
pub struct ClozeRows {
    len: usize,
    tokens: Vec<u32>,
    targets: Vec<Option<u32>>,
    /// The labels' probabilities, where they are soft.
    weights: Option<Vec<f32>>,
    positions: Vec<u32>,
    visible_from: Vec<u32>,
}

impl ClozeRows {
    /// Rows of texts, the gap of each behind its last token, with its label.
    ///
    /// # Errors
    /// If a text is empty or a label has no word.
    pub fn new(
        examples: &[(&[u32], usize)],
        verbalizer: &Verbalizer,
        loss: ClozeLoss,
    ) -> Result<Self, PeftError> {
        let len = examples.iter().map(|(tokens, _)| tokens.len()).max().unwrap_or(0);
        let mut rows = Self {
            len,
            tokens: Vec::new(),
            targets: Vec::new(),
            weights: None,
            positions: Vec::new(),
            visible_from: Vec::new(),
        };
        for &(tokens, label) in examples {
            let word = verbalizer.tokens.get(label).copied();
            let (Some(word), false) = (word, tokens.is_empty()) else {
                let labels = verbalizer.tokens.len();
                let tokens = tokens.len();
                let problem =
                    format!("an example of {tokens} tokens with label {label} of {labels}");
                return Err(PeftError::Combination { problem });
            };
            let target = match loss {
                ClozeLoss::Words => label as u32,
                ClozeLoss::Vocabulary => word,
            };
            let padding = len - tokens.len();
            rows.tokens.extend_from_slice(tokens);
            rows.tokens.resize(rows.tokens.len() + padding, 0);
            rows.targets.resize(rows.targets.len() + tokens.len() - 1, None);
            rows.targets.push(Some(target));
            rows.targets.resize(rows.targets.len() + padding, None);
            rows.positions.extend((0..tokens.len() as u32).chain(0..padding as u32));
            rows.visible_from.resize(rows.visible_from.len() + tokens.len(), 0);
            rows.visible_from.resize(rows.visible_from.len() + padding, tokens.len() as u32);
        }
        Ok(rows)
    }

    /// Rows of texts whose labels are soft (section 3.3): each text once for every label, with the label's
    /// probability as the factor of its loss, in which the loss is linear.
    ///
    /// # Shapes
    /// a probability for each label
    ///
    /// # Errors
    /// As [`Self::new`], and if probabilities are too few or too many.
    pub fn soft(
        examples: &[(&[u32], &[f32])],
        verbalizer: &Verbalizer,
        loss: ClozeLoss,
    ) -> Result<Self, PeftError> {
        let labels = verbalizer.tokens.len();
        if let Some((_, wrong)) = examples.iter().find(|(_, soft)| soft.len() != labels) {
            let problem = format!("{} probabilities for {labels} labels", wrong.len());
            return Err(PeftError::Combination { problem });
        }
        let hard: Vec<_> = examples
            .iter()
            .flat_map(|&(tokens, _)| (0..labels).map(move |label| (tokens, label)))
            .collect();
        let mut rows = Self::new(&hard, verbalizer, loss)?;
        let probabilities = examples.iter().flat_map(|(_, soft)| soft.iter().copied());
        let mut weights = Vec::with_capacity(rows.tokens.len());
        for probability in probabilities {
            weights.resize(weights.len() + rows.len, probability);
        }
        rows.weights = Some(weights);
        Ok(rows)
    }

    /// The rows.
    #[must_use]
    pub fn view(&self) -> TokenRows<'_> {
        TokenRows {
            len: self.len,
            tokens: &self.tokens,
            targets: &self.targets,
            weights: self.weights.as_deref(),
            positions: &self.positions,
            visible_from: &self.visible_from,
        }
    }
}

/// Scores of an example by several patterns' models, averaged: `Σ_p w(p) s_p(l | x) / Σ_p w(p)`, with
/// equal weights or, as in the paper's other variant, those given (accuracies before training).
///
/// # Shapes
/// `scores` `[patterns][labels]`, `weights` `[patterns]` → `[labels]`
///
/// # Errors
/// If there are none, their numbers differ, or the weights have no positive sum.
pub fn average_scores(scores: &[Vec<f32>], weights: Option<&[f32]>) -> Result<Vec<f32>, PeftError> {
    let wrong = |problem: String| Err(PeftError::Combination { problem });
    let Some(labels) = scores.first().map(Vec::len) else {
        return wrong("no pattern has scores".to_owned());
    };
    let equal = vec![1.0; scores.len()];
    let weights = weights.unwrap_or(&equal);
    let total: f32 = weights.iter().sum();
    if weights.len() != scores.len() || scores.iter().any(|s| s.len() != labels) {
        let lens: Vec<usize> = scores.iter().map(Vec::len).collect();
        return wrong(format!("{} weights for patterns of {lens:?} scores", weights.len()));
    }
    if !(total > 0.0 && total.is_finite()) || weights.iter().any(|&w| w < 0.0) {
        return wrong(format!("weights of patterns: {weights:?}"));
    }
    let mut mean = vec![0.0; labels];
    for (scores, weight) in scores.iter().zip(weights) {
        mean.iter_mut().zip(scores).for_each(|(sum, score)| *sum += weight / total * score);
    }
    Ok(mean)
}

/// `softmax(s / T)`: probabilities of labels with `temperature` 1, soft labels of unlabeled examples
/// with [`TEMPERATURE`].
#[must_use]
pub fn label_probabilities(scores: &[f32], temperature: f32) -> Vec<f32> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = scores.iter().map(|s| ((s - largest) / temperature).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_averaged_by_scores_and_soft_labels_are_softer() {
        let scores = [vec![2.0, 0.0], vec![0.0, 1.0]];
        assert_eq!(average_scores(&scores, None).unwrap(), [1.0, 0.5]);
        assert_eq!(average_scores(&scores, Some(&[3.0, 1.0])).unwrap(), [1.5, 0.25]);
        let sharp = label_probabilities(&[2.0, 0.0], 1.0);
        let soft = label_probabilities(&[2.0, 0.0], TEMPERATURE);
        // 1 / (1 + e^−2), 1 / (1 + e^−1)
        assert!((sharp[0] - 0.880_797).abs() < 1e-6 && (soft[0] - 0.731_059).abs() < 1e-6);
        assert!((soft[0] + soft[1] - 1.0).abs() < 1e-6);
        for (scores, weights) in [
            (&[][..], None),
            (&scores[..], Some(&[1.0][..])),
            (&scores[..], Some(&[0.0, 0.0][..])),
            (&scores[..], Some(&[2.0, -1.0][..])),
            (&[vec![1.0], vec![1.0, 2.0]][..], None),
        ] {
            assert!(average_scores(scores, weights).is_err(), "{weights:?}");
        }
    }

    #[test]
    fn a_verbalizer_has_one_token_for_each_of_several_labels() {
        let verbalizer = Verbalizer::new(&[vec![3], vec![1]], 4).unwrap();
        assert_eq!(verbalizer.scores(&[0.0, 1.0, 2.0, 3.0]).unwrap(), [3.0, 1.0]);
        assert!(verbalizer.scores(&[0.0, 1.0]).is_err());
        for (words, expected) in [
            (vec![vec![3]], "at least two labels"),
            (vec![vec![3], vec![1, 2]], "one token each"),
            (vec![vec![3], vec![3]], "another word"),
            (vec![vec![3], vec![4]], "of the vocabulary"),
        ] {
            let error = Verbalizer::new(&words, 4).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn rows_ask_behind_the_last_token() {
        let verbalizer = Verbalizer::new(&[vec![8], vec![9]], 10).unwrap();
        let examples: [(&[u32], usize); 2] = [(&[1, 2, 3], 1), (&[4], 0)];
        let rows = ClozeRows::new(&examples, &verbalizer, ClozeLoss::Vocabulary).unwrap();
        let view = rows.view();
        assert_eq!((view.len, view.tokens), (3, &[1, 2, 3, 4, 0, 0][..]));
        assert_eq!(view.targets, [None, None, Some(9), Some(8), None, None]);
        assert_eq!(view.positions, [0, 1, 2, 0, 0, 1]);
        assert_eq!(view.visible_from, [0, 0, 0, 0, 1, 1]);
        let words = ClozeRows::new(&examples, &verbalizer, ClozeLoss::Words).unwrap();
        assert_eq!(words.view().targets, [None, None, Some(1), Some(0), None, None]);
        let soft: [(&[u32], &[f32]); 1] = [(&[1, 2], &[0.25, 0.75])];
        let soft = ClozeRows::soft(&soft, &verbalizer, ClozeLoss::Words).unwrap();
        assert_eq!(soft.view().tokens, [1, 2, 1, 2]);
        assert_eq!(soft.view().targets, [None, Some(0), None, Some(1)]);
        assert_eq!(soft.view().weights, Some(&[0.25, 0.25, 0.75, 0.75][..]));
        assert!(ClozeRows::soft(&[(&[1], &[1.0])], &verbalizer, ClozeLoss::Words).is_err());
        for wrong in [(&[][..], 0), (&[1][..], 2)] {
            assert!(ClozeRows::new(&[wrong], &verbalizer, ClozeLoss::Words).is_err());
        }
    }
}
