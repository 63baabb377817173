//! One choice's tokens to text: decoding, stop strings, the end.
//!
//! Runs beside the scheduler, so that the model's thread does none of it. It may be a token behind;
//! that token is not counted, so that the numbers do not depend on timing.

use std::sync::Arc;
use std::time::Instant;

use puna_infer::{FinishReason, InferError, JobEvent, JobUsage, StopMatcher, TokenLogprob};
use puna_text::{DecodeSpecials, TextError, TokenStream};
use tokio::sync::mpsc;

use super::{ChoiceUsage, End, Eos, Happening, JobGuard, draining};
use crate::api_error::ApiError;
use crate::app::App;
use crate::log;

/// Tells what happens to one choice.
pub(super) struct Narrator {
    pub(super) app: Arc<App>,
    pub(super) guard: JobGuard,
    pub(super) choice: usize,
    pub(super) stop: Vec<String>,
    pub(super) visible_specials: Vec<u32>,
    pub(super) ends: Eos,
    /// The field that gave a grammar.
    pub(super) grammar: Option<&'static str>,
    pub(super) began: Instant,
}

/// The text so far.
struct Text<'t> {
    stream: TokenStream<'t>,
    stops: StopMatcher,
    /// Tokens whose text is not out yet.
    held: Vec<TokenLogprob>,
    tokens: usize,
}

/// What a token led to.
struct Piece {
    text: String,
    stop: Option<String>,
}

impl Narrator {
    /// Narrates until the choice ends or nobody listens.
    pub(super) async fn narrate(
        self,
        mut events: mpsc::UnboundedReceiver<JobEvent>,
        listener: mpsc::Sender<Happening>,
    ) {
        let tokenizer = Arc::clone(&self.guard.engine.served.tokenizer);
        let mut text = Text {
            stream: tokenizer.stream(DecodeSpecials::Skip),
            stops: StopMatcher::new(&self.stop),
            held: Vec::new(),
            tokens: 0,
        };
        let mut last_token = self.began;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = listener.closed() => {
                    self.app.metrics.disconnected();
                    return;
                }
            };
            if let Some(JobEvent::Token(_)) = &event {
                let now = Instant::now();
                match text.tokens {
                    0 => self.app.metrics.first_token(now - self.began),
                    _ => self.app.metrics.next_token(now - last_token),
                }
                last_token = now;
            }
            let Some(happenings) = self.tell(event, &mut text) else { continue };
            let is_last = happenings
                .iter()
                .any(|h| matches!(h, Happening::End { .. } | Happening::Failed(_)));
            for happening in happenings {
                if listener.send(happening).await.is_err() {
                    self.app.metrics.disconnected();
                    return;
                }
            }
            if is_last {
                self.app.metrics.completion_tokens(text.tokens);
                return;
            }
        }
    }

    /// What an event means to the listener; `None` if nothing yet.
    fn tell(&self, event: Option<JobEvent>, text: &mut Text<'_>) -> Option<Vec<Happening>> {
        match event {
            Some(JobEvent::Started { .. }) => None,
            Some(JobEvent::PromptLogprobs(scores)) => {
                Some(vec![Happening::Prompt { choice: self.choice, scores }])
            }
            Some(JobEvent::Token(token)) => self.token(token, text),
            Some(JobEvent::Finished { reason, usage }) => Some(self.finished(reason, usage, text)),
            Some(JobEvent::Failed(error)) => Some(vec![Happening::Failed(self.failure(&error))]),
            None => {
                let error = ApiError::unavailable("the model was stopped", "not_available");
                Some(vec![Happening::Failed(error)])
            }
        }
    }

    /// What a sequence died of: the request where it left nothing to choose, else the server.
    fn failure(&self, error: &InferError) -> ApiError {
        match (error, self.grammar) {
            (InferError::NoCandidate, _) => ApiError::invalid(error.to_string()),
            (InferError::Text(_), Some(param)) => ApiError::field(param, log::chain(error)),
            _ => {
                log::line(&format!("error: a sequence failed: {}", log::chain(error)));
                ApiError::internal(format!("the sequence failed: {error}"))
            }
        }
    }

    fn token(&self, token: TokenLogprob, text: &mut Text<'_>) -> Option<Vec<Happening>> {
        text.tokens += 1;
        let id = token.id;
        if self.ends == Eos::End && self.guard.engine.served.eos.contains(&id) {
            // The end follows; its token is no text.
            return None;
        }
        text.held.push(token);
        let marker = self.visible_specials.contains(&id).then(|| self.marker(id)).flatten();
        let piece = match text.push(id, marker) {
            Ok(piece) => piece,
            Err(error) => return Some(vec![undecodable(&error)]),
        };
        let ended = piece.stop.is_some();
        if piece.text.is_empty() && !ended {
            return None;
        }
        let mut happenings = vec![self.text(piece.text, text)];
        if let Some(stop) = piece.stop {
            let usage = ChoiceUsage { completion_tokens: text.tokens, ..Default::default() };
            happenings.push(Happening::End { choice: self.choice, end: End::Stop(stop), usage });
        }
        Some(happenings)
    }

    fn marker(&self, id: u32) -> Option<String> {
        self.guard.engine.served.tokenizer.token(id)
    }

    fn text(&self, piece: String, text: &mut Text<'_>) -> Happening {
        let tokens = std::mem::take(&mut text.held);
        Happening::Text { choice: self.choice, text: piece, tokens }
    }

    fn finished(
        &self,
        reason: FinishReason,
        usage: JobUsage,
        text: &mut Text<'_>,
    ) -> Vec<Happening> {
        let end = match reason {
            FinishReason::Eos(_) | FinishReason::StopToken(_) => End::Eos,
            FinishReason::StopString(stop) => End::Stop(stop),
            FinishReason::Length => End::Length,
            FinishReason::Deadline => return vec![Happening::Failed(ApiError::timeout())],
            _ => return vec![Happening::Failed(draining())],
        };
        let piece = match text.finish() {
            Ok(piece) => piece,
            Err(error) => return vec![undecodable(&error)],
        };
        let end = piece.stop.map_or(end, End::Stop);
        let mut happenings = Vec::new();
        if !piece.text.is_empty() || !text.held.is_empty() {
            happenings.push(self.text(piece.text, text));
        }
        let usage = ChoiceUsage {
            completion_tokens: text.tokens,
            reused_tokens: usage.reused_tokens,
            prefill: usage.prefill,
            decode: usage.decode,
        };
        happenings.push(Happening::End { choice: self.choice, end, usage });
        happenings
    }
}

fn undecodable(error: &TextError) -> Happening {
    Happening::Failed(ApiError::internal(format!("the tokens have no text: {error}")))
}

impl Text<'_> {
    /// Takes a token; `marker` is the text of a special token that is to be seen.
    fn push(&mut self, id: u32, marker: Option<String>) -> Result<Piece, TextError> {
        let text = match marker {
            Some(marker) => {
                let before = self.stream.finish()?.unwrap_or_default();
                format!("{before}{marker}")
            }
            None => self.stream.push(id)?.unwrap_or_default(),
        };
        let matched = self.stops.push(&text);
        Ok(Piece { text: matched.text, stop: matched.stop })
    }

    /// What is held back at the end.
    fn finish(&mut self) -> Result<Piece, TextError> {
        let rest = self.stream.finish()?.unwrap_or_default();
        let mut matched = self.stops.push(&rest);
        if matched.stop.is_none() {
            matched.text += &self.stops.finish();
        }
        Ok(Piece { text: matched.text, stop: matched.stop })
    }
}
