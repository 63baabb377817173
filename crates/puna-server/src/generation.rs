//! From a prompt to pieces of text: what all endpoints share.
//!
//! ```text
//! Ask ─> Scheduler::submit (one job per choice) ─> tokens ─> Narrator ─> Happening, …  ─> endpoint
//! ```
//! Streaming and whole answers read the same happenings, so they cannot differ. Dropping a
//! [`Running`] cancels its jobs, which is what happens when a client goes away.

mod narrator;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use puna_infer::{Job, JobEvent, JobId, Refused, SamplingParams, TokenLogprob};
use tokio::sync::mpsc;

use crate::api_error::ApiError;
use crate::app::App;
use crate::model::{Engine, Grammar, Opened};
use narrator::Narrator;

/// Pieces that may wait for a slow reader; the model does not wait for it.
const PIECES_AHEAD: usize = 64;

/// One prompt and what is wanted of it.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) prompt: Vec<u32>,
    /// Continuations of it; number `i` is sampled with `seed + i`.
    pub(crate) choices: usize,
    pub(crate) sampling: SamplingParams,
    pub(crate) max_tokens: usize,
    /// Strings that end the text and are not part of it.
    pub(crate) stop: Vec<String>,
    /// Whether end-of-sequence tokens end it.
    pub(crate) eos: Eos,
    pub(crate) top_logprobs: Option<usize>,
    pub(crate) prompt_logprobs: Option<usize>,
    /// What the text has to be, and the field that said so.
    pub(crate) grammar: Option<(Grammar, &'static str)>,
    /// Special tokens that leave their text: those that begin calls of tools.
    pub(crate) visible_specials: Vec<u32>,
    /// Whom it is for.
    pub(crate) client: String,
}

/// What end-of-sequence tokens do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Eos {
    End,
    /// They are forbidden (`ignore_eos`).
    Forbid,
}

/// What comes of an [`Ask`].
#[derive(Debug)]
pub(crate) enum Happening {
    /// Log-probabilities of the prompt's tokens, before any text of the choice.
    Prompt { choice: usize, scores: Vec<Option<TokenLogprob>> },
    /// Text of a choice, and the tokens since the last text.
    Text { choice: usize, text: String, tokens: Vec<TokenLogprob> },
    /// A choice has ended.
    End { choice: usize, end: End, usage: ChoiceUsage },
    /// It went wrong; nothing follows.
    Failed(ApiError),
}

/// Why a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Eos,
    Stop(String),
    Length,
}

/// What a choice took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ChoiceUsage {
    pub(crate) completion_tokens: usize,
    pub(crate) reused_tokens: usize,
    pub(crate) prefill: std::time::Duration,
    pub(crate) decode: std::time::Duration,
}

/// An ask that runs.
pub(crate) struct Running {
    happenings: mpsc::Receiver<Happening>,
    pub(crate) prompt_tokens: usize,
    pub(crate) choices: usize,
}

impl Running {
    /// The next thing that happens; `None` after the end of every choice.
    pub(crate) async fn next(&mut self) -> Option<Happening> {
        self.happenings.recv().await
    }

    /// Everything that happens, until the end.
    pub(crate) async fn finish(mut self) -> Result<Vec<Finished>, ApiError> {
        let mut choices: Vec<Finished> = (0..self.choices).map(|_| Finished::default()).collect();
        while let Some(happening) = self.next().await {
            match happening {
                Happening::Failed(error) => return Err(error),
                Happening::Prompt { choice, scores } => choices[choice].prompt = scores,
                Happening::Text { choice, text, tokens } => {
                    choices[choice].text += &text;
                    choices[choice].tokens.extend(tokens);
                }
                Happening::End { choice, end, usage } => {
                    choices[choice].end = Some(end);
                    choices[choice].usage = usage;
                }
            }
        }
        Ok(choices)
    }
}

/// A choice from beginning to end.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    pub(crate) prompt: Vec<Option<TokenLogprob>>,
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenLogprob>,
    pub(crate) end: Option<End>,
    pub(crate) usage: ChoiceUsage,
}

/// Cancels a job that is not needed any more.
struct JobGuard {
    engine: Arc<Engine>,
    id: JobId,
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        self.engine.scheduler.cancel(self.id);
    }
}

/// Checks an ask against the context and the server's limit, and starts it.
pub(crate) async fn start(
    app: &Arc<App>,
    model: &Opened,
    mut ask: Ask,
) -> Result<Running, ApiError> {
    let engine = &model.engine;
    let prompt_tokens = ask.prompt.len();
    if let Some(most) = app.config.max_prompt_tokens
        && prompt_tokens > most
    {
        let message =
            format!("the prompt has {prompt_tokens} tokens; this server takes at most {most}");
        return Err(ApiError::too_long("prompt", message));
    }
    if let (Eos::Forbid, Some((_, param))) = (ask.eos, &ask.grammar) {
        let message = format!("cannot be combined with {param}: such a text has an end of its own");
        return Err(ApiError::field("ignore_eos", message));
    }
    if ask.eos == Eos::Forbid {
        let forbidden = engine.served.eos.iter().map(|&id| (id, f32::NEG_INFINITY));
        ask.sampling.logit_bias.extend(forbidden);
    }
    let (sender, happenings) = mpsc::channel(PIECES_AHEAD);
    let began = Instant::now();
    for choice in 0..ask.choices {
        let (events, received) = mpsc::unbounded_channel();
        let job = job(app, model, &ask, choice, events).await?;
        let id = engine.scheduler.submit(job).map_err(|refused| refusal(refused, app))?;
        let guard = JobGuard { engine: Arc::clone(engine), id };
        let narrator = Narrator {
            app: Arc::clone(app),
            guard,
            choice,
            stop: ask.stop.clone(),
            visible_specials: ask.visible_specials.clone(),
            ends: ask.eos,
            grammar: ask.grammar.as_ref().map(|(_, param)| *param),
            began,
        };
        tokio::spawn(narrator.narrate(received, sender.clone()));
    }
    app.metrics.prompt_tokens(prompt_tokens);
    Ok(Running { happenings, prompt_tokens, choices: ask.choices })
}

async fn job(
    app: &App,
    model: &Opened,
    ask: &Ask,
    choice: usize,
    events: mpsc::UnboundedSender<JobEvent>,
) -> Result<Job, ApiError> {
    let sink = move |event| match events.send(event) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    let mut job = Job::new(ask.prompt.clone(), sink);
    job.sampling = ask.sampling.clone();
    job.sampling.seed = ask.sampling.seed.wrapping_add(choice as u64);
    job.max_tokens = ask.max_tokens;
    job.top_logprobs = ask.top_logprobs;
    job.prompt_logprobs = ask.prompt_logprobs;
    job.client = ask.client.clone();
    job.deadline = app.config.request_timeout.map(|time| Instant::now() + time);
    job.cache = model.engine.cache(model.adapter.as_deref());
    if ask.eos == Eos::End {
        job.stop_tokens = model.engine.served.eos.clone();
    }
    if let Some((grammar, param)) = &ask.grammar {
        job.constraint = Some(compile(&model.engine, grammar.clone(), param).await?);
    }
    Ok(job)
}

/// Compiles a grammar away from the threads that serve connections.
async fn compile(
    engine: &Arc<Engine>,
    grammar: Grammar,
    param: &'static str,
) -> Result<Box<dyn puna_infer::Constraint>, ApiError> {
    let engine = Arc::clone(engine);
    let compiled = tokio::task::spawn_blocking(move || {
        let side = engine.grammar_side().map_err(|reason| ApiError::unsupported(param, &reason))?;
        side.compile(&grammar, param)
    });
    // A panic of the parser is the grammar's doing.
    compiled.await.unwrap_or_else(|_| Err(ApiError::field(param, "cannot be used as a grammar")))
}

fn refusal(refused: Refused, app: &App) -> ApiError {
    match refused {
        Refused::QueueFull { retry_after } => {
            app.metrics.refused();
            let seconds = u32::try_from(retry_after.as_secs()).unwrap_or(u32::MAX).max(1);
            ApiError::busy("too many requests are waiting already", seconds)
        }
        Refused::TooLong { prompt_tokens, context_tokens } => {
            ApiError::too_long("prompt", context_message(prompt_tokens, 0, context_tokens))
        }
        Refused::Invalid(error) => ApiError::invalid(error.to_string()),
        Refused::Draining => draining(),
        other => ApiError::unavailable(other.to_string(), "not_available"),
    }
}

/// 503 while the server finishes what it has accepted.
pub(crate) fn draining() -> ApiError {
    ApiError::unavailable("this server is shutting down", "shutting_down")
}

/// OpenAI's sentence for what does not fit.
pub(crate) fn context_message(prompt: usize, new: usize, context: usize) -> String {
    format!(
        "this model's context holds {context} tokens; the request has {prompt} in its prompt and \
         asks for {new} more"
    )
}

/// Room for new tokens after a prompt; an explicit wish beyond it is an error.
pub(crate) fn room(
    engine: &Engine,
    prompt_tokens: usize,
    wanted: Option<usize>,
    param: &str,
) -> Result<usize, ApiError> {
    let context = engine.context_tokens;
    let left = context.saturating_sub(prompt_tokens);
    let message = |new| context_message(prompt_tokens, new, context);
    match wanted {
        Some(new) if new > left => Err(ApiError::too_long(param, message(new))),
        Some(new) => Ok(new),
        None if left == 0 => Err(ApiError::too_long("messages", message(1))),
        None => Ok(left),
    }
}
