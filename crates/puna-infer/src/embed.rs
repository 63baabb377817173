//! Embeddings of texts: one vector for each, pooled from the states behind the final norm.
//!
//! A causal model's last token is the only one that has seen the whole text; models that were trained to
//! embed use it (E5-Mistral, arXiv:2401.00368) or the mean over all tokens (LLM2Vec,
//! arXiv:2404.05961). What a checkpoint was trained for its authors say; a plain language model
//! was trained for neither.

use crate::error::{InferError, Source};
use crate::model::{LanguageModel, Segment, SequenceCache, check_tokens, decoder_segments};
use crate::sampling::check;

/// A language model that gives the states its head is applied to.
pub trait EmbeddingModel: LanguageModel {
    /// Width of a state (`C`).
    fn hidden_size(&self) -> usize;

    /// Runs the new tokens of independent sequences up to the final norm.
    ///
    /// # Shapes
    /// Returns `[N, C]`, a row for every token.
    ///
    /// # Errors
    /// The model's own error.
    fn final_states(&self, segments: &mut [Segment<'_, Self::Cache>]) -> Result<Vec<f32>, Source>;
}

impl EmbeddingModel for puna_model::Decoder {
    fn hidden_size(&self) -> usize {
        self.config().hidden_size
    }

    fn final_states(&self, segments: &mut [Segment<'_, Self::Cache>]) -> Result<Vec<f32>, Source> {
        Ok(self.final_states(&mut decoder_segments(segments))?)
    }
}

/// How a text's states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// That of the last token.
    Last,
}

/// How long a vector is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Magnitude {
    /// 1, so that the product of two vectors is the cosine of their angle.
    #[default]
    Unit,
    /// What pooling gives.
    AsPooled,
}

/// How to embed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedOptions {
    /// What becomes of the states of a text's tokens.
    pub pooling: Pooling,
    /// How long vectors are.
    pub magnitude: Magnitude,
    /// Tokens per forward pass, over all texts; changes no bit of the results.
    pub chunk: usize,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self {
            pooling: Pooling::default(),
            magnitude: Magnitude::default(),
            chunk: crate::DEFAULT_PREFILL_CHUNK,
        }
    }
}

/// A text on its way.
struct Embedded<C> {
    cache: C,
    /// Of the states so far, `[C]`: their sum, or the last.
    pooled: Vec<f64>,
}

/// One vector `[C]` for each text, in their order.
///
/// `cache` makes the empty cache of a text, `model.new_cache()` where no adapter is wanted.
///
/// # Errors
/// [`InferError::EmptyPrompt`], [`InferError::TokenOutOfRange`] and [`InferError::ContextOverflow`]
/// for texts that cannot be run, [`InferError::InvalidOption`], [`InferError::Model`].
pub fn embed<M: EmbeddingModel>(
    model: &M,
    texts: &[Vec<u32>],
    options: &EmbedOptions,
    cache: impl Fn() -> M::Cache,
) -> Result<Vec<Vec<f32>>, InferError> {
    check("chunk", options.chunk, |n| n >= 1, "at least 1")?;
    for (sequence, text) in texts.iter().enumerate() {
        if text.is_empty() {
            return Err(InferError::EmptyPrompt { sequence });
        }
        check_tokens(text, model.vocab_size())?;
        let (prompt, context) = (text.len(), model.max_seq_len());
        if prompt > context {
            return Err(InferError::ContextOverflow { prompt, max_new: 0, context });
        }
    }
    let mut vectors = Vec::with_capacity(texts.len());
    let mut open: Vec<Embedded<M::Cache>> = Vec::new();
    while vectors.len() < texts.len() {
        let first = vectors.len();
        let parts = take_parts(&texts[first..], &mut open, options.chunk, || Embedded {
            cache: cache(),
            pooled: vec![0.0; model.hidden_size()],
        });
        run(model, &texts[first..], &mut open, &parts, options.pooling)?;
        let ended = open.iter().zip(&texts[first..]).take_while(|(e, t)| e.cache.len() == t.len());
        let ended = ended.count();
        for (embedded, text) in open.drain(..ended).zip(&texts[first..]) {
            vectors.push(finish(embedded.pooled, text.len(), options));
        }
    }
    Ok(vectors)
}

/// Tokens of each text in the next pass, of the first texts that are not finished; begins texts where
/// there is room for more.
fn take_parts<C: SequenceCache>(
    texts: &[Vec<u32>],
    open: &mut Vec<Embedded<C>>,
    chunk: usize,
    begin: impl Fn() -> Embedded<C>,
) -> Vec<usize> {
    let (mut left, mut parts) = (chunk, Vec::new());
    for (index, text) in texts.iter().enumerate() {
        if left == 0 {
            break;
        }
        if open.len() == index {
            open.push(begin());
        }
        let part = (text.len() - open[index].cache.len()).min(left);
        left -= part;
        parts.push(part);
    }
    parts
}

fn run<M: EmbeddingModel>(
    model: &M,
    texts: &[Vec<u32>],
    open: &mut [Embedded<M::Cache>],
    parts: &[usize],
    pooling: Pooling,
) -> Result<(), InferError> {
    let mut segments = Vec::with_capacity(parts.len());
    let mut sums = Vec::with_capacity(parts.len());
    for ((embedded, text), part) in open.iter_mut().zip(texts).zip(parts) {
        let start = embedded.cache.len();
        let tokens = &text[start..start + part];
        segments.push(Segment { tokens, cache: &mut embedded.cache, total_len: text.len() });
        sums.push(&mut embedded.pooled);
    }
    let states = model.final_states(&mut segments).map_err(InferError::Model)?; // [N, C]
    let width = model.hidden_size();
    let expected = parts.iter().sum::<usize>() * width;
    if states.len() != expected {
        return Err(InferError::LogitCount { expected, got: states.len() });
    }
    let mut rows = states.chunks_exact(width);
    for (sum, &part) in sums.into_iter().zip(parts) {
        for row in rows.by_ref().take(part) {
            let row = row.iter().map(|&value| f64::from(value));
            match pooling {
                Pooling::Mean => sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value),
                Pooling::Last => sum.iter_mut().zip(row).for_each(|(last, value)| *last = value),
            }
        }
    }
    Ok(())
}

fn finish(mut pooled: Vec<f64>, tokens: usize, options: &EmbedOptions) -> Vec<f32> {
    if options.pooling == Pooling::Mean {
        pooled.iter_mut().for_each(|value| *value /= tokens as f64);
    }
    let norm = match options.magnitude {
        Magnitude::Unit => pooled.iter().map(|value| value * value).sum::<f64>().sqrt(),
        Magnitude::AsPooled => 1.0,
    };
    // A vector of zeros has no direction.
    let factor = if norm > 0.0 { 1.0 / norm } else { 1.0 };
    pooled.into_iter().map(|value| (value * factor) as f32).collect()
}
