//! A conversation: one sequence whose cache lives on between turns.

use crate::error::InferError;
use crate::generate::Engine;
use crate::model::{LanguageModel, SequenceCache};
use crate::options::{Completion, Event, GenerateOptions, Generation};
use crate::prefix::common;
use crate::sampling::check;
use crate::sequence::Sequence;
use crate::speculate::Drafter;
use crate::stats::Timings;
use crate::text::Detokenizer;
use std::ops::ControlFlow;
use std::time::Instant;

/// A cache and the tokens it holds.
///
/// Every turn gives the whole conversation as its prompt; what the cache already holds of it is not
/// run again. With dynamic NTK scaling the reused part keeps the scaling of the turn it came from, as
/// with a reused cache in transformers; where LongRoPE changes its table, the decoder computes the
/// cache anew.
#[derive(Debug, Clone)]
pub struct Session<C> {
    sequence: Sequence<C>,
}

impl<C: SequenceCache> Session<C> {
    /// An empty session for `model`; use it with no other.
    pub fn new<M: LanguageModel<Cache = C>>(model: &M) -> Self {
        Self { sequence: Sequence { tokens: Vec::new(), cache: model.new_cache() } }
    }

    /// A session whose cache holds the first tokens of a sequence already, as
    /// [`crate::PrefixCache::take`] gives them; `tokens` are those.
    ///
    /// # Panics
    /// If the cache does not hold as many tokens.
    pub fn resume(tokens: Vec<u32>, cache: C) -> Self {
        assert_eq!(tokens.len(), cache.len(), "tokens that the cache holds");
        Self { sequence: Sequence { tokens, cache } }
    }

    /// The tokens the cache holds, and the cache: for [`crate::PrefixCache::store`].
    pub fn into_parts(self) -> (Vec<u32>, C) {
        (self.sequence.tokens, self.sequence.cache)
    }

    /// The tokens the cache holds.
    pub fn tokens(&self) -> &[u32] {
        &self.sequence.tokens
    }

    /// The cache.
    pub fn cache(&self) -> &C {
        &self.sequence.cache
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.sequence.tokens.clear();
        self.sequence.cache.clear();
    }

    /// Continues `prompt`, running only what the cache lacks of it. `sink` gets every event and may
    /// break off at each; the result then says [`crate::FinishReason::Cancelled`].
    ///
    /// # Errors
    /// Options or a prompt that make no sense, [`InferError::ContextOverflow`], and whatever model
    /// and tokenizer report; after an error the session is empty.
    pub fn generate<M, T>(
        &mut self,
        model: &M,
        detokenizer: &T,
        prompt: &[u32],
        options: &GenerateOptions,
        mut sink: impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generation, InferError>
    where
        M: LanguageModel<Cache = C>,
        T: Detokenizer,
    {
        self.continued(model, detokenizer, (prompt, options), None, &mut sink)
    }

    /// [`Session::generate`] with a drafter that proposes up to `max_draft` tokens per pass: the same
    /// tokens, in fewer passes where it guesses well.
    ///
    /// # Errors
    /// As there; also for context shift and for models whose rotary scaling depends on the length.
    pub fn generate_drafted<M, T>(
        &mut self,
        model: &M,
        detokenizer: &T,
        (prompt, options): (&[u32], &GenerateOptions),
        (drafter, max_draft): (&mut dyn Drafter, usize),
        mut sink: impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generation, InferError>
    where
        M: LanguageModel<Cache = C>,
        T: Detokenizer,
    {
        let drafting = Some((drafter, max_draft));
        self.continued(model, detokenizer, (prompt, options), drafting, &mut sink)
    }

    fn continued<M, T>(
        &mut self,
        model: &M,
        detokenizer: &T,
        (prompt, options): (&[u32], &GenerateOptions),
        drafting: Option<(&mut dyn Drafter, usize)>,
        sink: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generation, InferError>
    where
        M: LanguageModel<Cache = C>,
        T: Detokenizer,
    {
        let engine = Engine::new(model, detokenizer, options)?;
        if drafting.is_some() {
            engine.check_speculation()?;
        }
        check("completions", options.completions, |n| n == 1, "1 in a session")?;
        let tokens = engine.fit(0, prompt)?;
        let reused_tokens = self.reuse(tokens);
        let generation = self.run(&engine, &mut |_, event| sink(event), reused_tokens, drafting);
        // The last token chosen was never run.
        self.sequence.tokens.truncate(self.sequence.cache.len());
        if generation.is_err() {
            self.clear();
        }
        generation
    }

    /// Takes over the new tokens and keeps the cache of the common beginning; at least the last
    /// token is run again, for its logits.
    fn reuse(&mut self, tokens: Vec<u32>) -> usize {
        let common = common(&self.sequence.tokens, &tokens);
        self.sequence.rewind(common.min(tokens.len() - 1));
        self.sequence.tokens = tokens;
        self.sequence.cache.len()
    }

    fn run<M, T>(
        &mut self,
        engine: &Engine<'_, M, T>,
        sink: &mut dyn FnMut(usize, Event) -> ControlFlow<()>,
        reused_tokens: usize,
        drafting: Option<(&mut dyn Drafter, usize)>,
    ) -> Result<Generation, InferError>
    where
        M: LanguageModel<Cache = C>,
        T: Detokenizer,
    {
        let started = Instant::now();
        let prompt_tokens = self.sequence.tokens.len();
        let mut timings = Timings { reused_tokens, ..Default::default() };
        let (text, flow) = engine.text(0, &self.sequence.tokens, sink)?;
        let logits = match flow {
            ControlFlow::Continue(()) => engine.prefill(&mut [&mut self.sequence], sink)?,
            ControlFlow::Break(()) => None,
        };
        timings.prefill = started.elapsed();
        timings.prefill_tokens =
            self.sequence.cache.len().min(prompt_tokens).saturating_sub(reused_tokens);
        let Some(logits) = logits else {
            return Ok(Generation { completion: Completion::empty(), timings });
        };
        let started = Instant::now();
        let slot = engine.slot(0, 0, &mut self.sequence, text)?;
        let completion = if let Some(drafting) = drafting {
            let (completion, speculated) = engine.decode_drafted(slot, logits, drafting, sink)?;
            timings.speculated = Some(speculated);
            completion
        } else {
            let completions = engine.decode(vec![slot], logits, sink)?;
            completions.into_iter().next().unwrap_or_else(Completion::empty)
        };
        timings.decode = started.elapsed();
        timings.decode_tokens = completion.token_ids.len();
        Ok(Generation { completion, timings })
    }
}
