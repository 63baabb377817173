//! A conversation with a loaded model: its cache, its options and its answers.

use std::ops::ControlFlow;

use puna_infer::{
    Completion, Drafter, Event, FinishReason, GenerateOptions, SamplingParams, Session, Timings,
};
use puna_kernels::peak_rss_bytes;
use puna_model::KvCache;
use puna_text::Tokenizer;

use crate::chat_format::ChatFormat;
use crate::commands::chat::conversation::Conversation;
use crate::draft_args::Draft;
use crate::loaded::Loaded;
use crate::progress::{Progress, Unit};
use crate::{interrupt, output, units};

/// A conversation and what answers in it.
pub(super) struct Talk<'a> {
    loaded: &'a Loaded,
    draft: &'a Draft,
    tokenizer: &'a Tokenizer,
    /// Without a template the model continues each message as plain text.
    format: Option<ChatFormat<'a>>,
    options: GenerateOptions,
    session: Session<KvCache>,
    pub(super) conversation: Conversation,
    /// Answers given; moves the seed, so that no two answers draw the same numbers.
    answers: u64,
    last: Option<Timings>,
}

impl<'a> Talk<'a> {
    pub(super) fn new(
        (loaded, draft): (&'a Loaded, &'a Draft),
        format: Option<ChatFormat<'a>>,
        options: GenerateOptions,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            loaded,
            draft,
            tokenizer: loaded.tokenizer()?,
            format,
            options,
            session: Session::new(&loaded.model.decoder),
            conversation: Conversation::default(),
            answers: 0,
            last: None,
        })
    }

    /// Whether messages are put into a template; only then does a system prompt count.
    pub(super) fn has_template(&self) -> bool {
        self.format.is_some()
    }

    /// Asks, and prints the answer as it comes. A message that fails is taken back.
    pub(super) fn ask(&mut self, message: &str) -> anyhow::Result<()> {
        self.conversation.ask(message);
        self.reply()
    }

    /// Answers the last message anew; `false` if there is none.
    pub(super) fn regenerate(&mut self) -> anyhow::Result<bool> {
        if !self.conversation.reopen() {
            return Ok(false);
        }
        self.reply()?;
        Ok(true)
    }

    /// Forgets what was said.
    pub(super) fn clear(&mut self) {
        self.conversation.clear();
        self.session.clear();
    }

    fn reply(&mut self) -> anyhow::Result<()> {
        let made = self.prompt().and_then(|prompt| self.generate(&prompt));
        let completion = match made {
            Ok(completion) => completion,
            Err(error) => {
                self.conversation.take_back();
                return Err(error);
            }
        };
        output::line("")?;
        if completion.finish == FinishReason::Cancelled {
            output::note("(stopped)");
        }
        self.conversation.answer(completion.text);
        Ok(())
    }

    fn prompt(&self) -> anyhow::Result<Vec<u32>> {
        match &self.format {
            Some(format) => format.ids(self.tokenizer, &self.conversation.messages()),
            None => self.loaded.encode(self.conversation.last_message()),
        }
    }

    fn generate(&mut self, prompt: &[u32]) -> anyhow::Result<Completion> {
        interrupt::reset();
        let sampling = &self.options.sampling;
        let seed = sampling.seed.wrapping_add(self.answers);
        let sampling = SamplingParams { seed, ..sampling.clone() };
        let options = GenerateOptions { sampling, ..self.options.clone() };
        let mut failed = None;
        let mut progress = Some(Progress::new("reading", Unit::Tokens));
        let sink = |event| {
            let printed = match event {
                Event::Prefill { done, total } => {
                    if let Some(bar) = &mut progress {
                        bar.update(done as u64, total as u64);
                    }
                    Ok(())
                }
                Event::Token { text: Some(text), .. } => {
                    if let Some(bar) = progress.take() {
                        bar.finish();
                    }
                    output::text(&text)
                }
                _ => Ok(()),
            };
            failed = printed.err();
            match failed.is_some() || interrupt::asked() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let decoder = &self.loaded.model.decoder;
        let (session, tokenizer) = (&mut self.session, self.tokenizer);
        let made = match self.draft.drafter() {
            None => session.generate(decoder, tokenizer, prompt, &options, sink),
            Some((mut drafter, max)) => {
                let drafter: &mut dyn Drafter = &mut *drafter;
                let (request, drafting) = ((prompt, &options), (drafter, max));
                session.generate_drafted(decoder, tokenizer, request, drafting, sink)
            }
        }?;
        interrupt::reset();
        if let Some(bar) = progress {
            bar.finish();
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.answers += 1;
        self.last = Some(made.timings);
        Ok(made.completion)
    }

    /// Speed and memory, for `/stats`.
    pub(super) fn stats(&self) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_string(), value]);
        if let Some(timings) = &self.last {
            row(
                "prompt",
                format!(
                    "{} tokens at {:.1} tokens/s, {} reused",
                    timings.prefill_tokens,
                    timings.prefill_tokens_per_sec(),
                    timings.reused_tokens
                ),
            );
            row(
                "answer",
                format!(
                    "{} tokens at {:.1} tokens/s",
                    timings.decode_tokens,
                    timings.decode_tokens_per_sec()
                ),
            );
        }
        let cache = self.session.cache();
        let context = self.loaded.model.config.decoder.max_seq_len;
        row("context", format!("{} of {context} tokens", cache.len()));
        row("cache", units::bytes(cache.bytes() as u64));
        if let Some(peak) = peak_rss_bytes() {
            row("peak memory", units::bytes(peak));
        }
        rows.iter().map(|row| format!("{:<12} {}\n", row[0], row[1])).collect()
    }
}
