//! `POST /v1/completions`: continue texts or token ids, with the prompt's log-probabilities where
//! `echo` and `logprobs` ask for them. lm-eval's `local-completions` scores models this way.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use puna_infer::TokenLogprob;
use puna_text::{DecodeSpecials, SpecialTokens};
use serde_json::{Value, json};

use super::logprobs::Lists;
use super::{Delivery, client_of, finish_reason, model_name, refuse_service_fields, sums, usage};
use crate::api_error::{ApiError, Dialect};
use crate::app::App;
use crate::body::{self, EventWriter, Framing, Gone, Posted};
use crate::clock;
use crate::fields::Fields;
use crate::generation::{self, Ask, Eos, Happening, Running};
use crate::model::{Engine, Opened};
use crate::prompt;
use crate::sampling::{self, MOST_CHOICES, MOST_LOGPROBS};

/// Prompts in one request.
const MOST_PROMPTS: usize = 128;
/// New tokens where none are asked for: OpenAI's default.
const DEFAULT_MAX_TOKENS: usize = 16;

/// A prompt as its text and its ids.
struct Prompt {
    text: String,
    ids: Vec<u32>,
}

/// What all choices of an answer share.
struct Answer {
    id: String,
    model: Opened,
    echo: Echo,
    logprobs: Option<usize>,
    per_prompt: usize,
}

/// Whether the prompt stands before its continuation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Echo {
    Off,
    On,
}

/// Continues prompts.
pub(crate) async fn completions(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, client } = body::read(&app, request).await?;
    let name = model_name(&mut fields, app.registry.first())?;
    let model = app.registry.open(&name).await?;
    let engine = Arc::clone(&model.engine);
    let delivery = Delivery::read(&mut fields)?;
    let prompt = fields.value("prompt").ok_or_else(|| ApiError::missing("prompt"))?;
    let echo = if fields.switch("echo")? { Echo::On } else { Echo::Off };
    let ask = ask(&mut fields, &engine, client, echo)?;
    let max_tokens = fields.count("max_tokens", 0..=usize::MAX)?;
    refuse(&mut fields, ask.choices)?;
    fields.finish()?;
    let prompts = prompts(&app, &engine, prompt).await?;
    let mut running = Vec::with_capacity(prompts.len());
    for prompt in &prompts {
        let mut ask = ask.clone();
        let wanted = max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
        let room = engine.context_tokens.saturating_sub(prompt.ids.len());
        // Without a wish of its own a request gets what the context still holds.
        let wanted = if max_tokens.is_some() { wanted } else { wanted.min(room.max(1)) };
        ask.max_tokens = generation::room(&engine, prompt.ids.len(), Some(wanted), "max_tokens")?;
        ask.prompt.clone_from(&prompt.ids);
        running.push(generation::start(&app, &model, ask).await?);
    }
    let answer = Answer {
        id: app.id("cmpl-"),
        model,
        echo,
        logprobs: ask.top_logprobs,
        per_prompt: ask.choices,
    };
    match delivery {
        Delivery::Whole => whole(&answer, &prompts, running).await,
        delivery => Ok(body::stream(Framing::Sse, move |events| {
            write(events, answer, (prompts, running), delivery)
        })),
    }
}

/// Everything of the ask but the prompt and its length.
fn ask(fields: &mut Fields, engine: &Engine, client: String, echo: Echo) -> Result<Ask, ApiError> {
    let choices = fields.count("n", 1..=MOST_CHOICES)?.unwrap_or(1);
    let top_logprobs = fields.count("logprobs", 0..=MOST_LOGPROBS)?;
    let grammar = sampling::grammar(fields)?;
    let eos = if fields.switch("ignore_eos")? { Eos::Forbid } else { Eos::End };
    Ok(Ask {
        prompt: Vec::new(),
        choices,
        sampling: sampling::read(fields, &engine.served.generation)?,
        max_tokens: 0,
        stop: sampling::stop(fields, "stop")?,
        eos,
        top_logprobs,
        prompt_logprobs: top_logprobs.filter(|_| echo == Echo::On),
        grammar,
        visible_specials: Vec::new(),
        client: client_of(fields, client)?,
    })
}

fn refuse(fields: &mut Fields, choices: usize) -> Result<(), ApiError> {
    refuse_service_fields(fields)?;
    fields.refuse("suffix", &[json!("")], "text is continued, not filled in")?;
    fields.refuse(
        "best_of",
        &[json!(choices)],
        "every choice that is computed is returned; use `n`",
    )
}

/// One prompt or several, as texts or as token ids.
async fn prompts(
    app: &Arc<App>,
    engine: &Arc<Engine>,
    value: Value,
) -> Result<Vec<Prompt>, ApiError> {
    let expected = || ApiError::field("prompt", "expected text, token ids, or a list of either");
    let list = match value {
        Value::Array(list) if list.is_empty() => return Err(ApiError::field("prompt", "is empty")),
        Value::Array(list) if list.iter().all(Value::is_number) => vec![Value::Array(list)],
        Value::Array(list) => list,
        one => vec![one],
    };
    if list.len() > MOST_PROMPTS {
        return Err(ApiError::field("prompt", format!("at most {MOST_PROMPTS} prompts")));
    }
    let mut prompts = Vec::with_capacity(list.len());
    for value in list {
        prompts.push(match value {
            Value::String(text) => {
                let special = SpecialTokens::Add;
                let ids = prompt::encode(app, engine, text.clone(), special).await?;
                Prompt { text, ids }
            }
            Value::Array(ids) => {
                let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
                let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
                let ids = ids.ok_or_else(expected)?;
                Prompt { text: decoded(engine, &ids)?, ids }
            }
            _ => return Err(expected()),
        });
    }
    match prompts.iter().any(|prompt| prompt.ids.is_empty()) {
        true => Err(ApiError::field("prompt", "a prompt needs at least one token")),
        false => Ok(prompts),
    }
}

fn decoded(engine: &Engine, ids: &[u32]) -> Result<String, ApiError> {
    let vocab_size = engine.served.decoder.config().vocab_size;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
        let message = format!("token {id} is outside the vocabulary of {vocab_size} tokens");
        return Err(ApiError::field("prompt", message));
    }
    let text = engine.served.tokenizer.decode(ids, DecodeSpecials::Skip);
    text.map_err(|error| ApiError::field("prompt", error.to_string()))
}

/// A prompt's tokens with their log-probabilities, for [`Lists`].
fn scored_prompt<'a>(
    prompt: &'a Prompt,
    scores: &'a [Option<TokenLogprob>],
) -> Vec<(u32, Option<&'a TokenLogprob>)> {
    let score = |(index, &id): (usize, &u32)| (id, scores.get(index).and_then(Option::as_ref));
    prompt.ids.iter().enumerate().map(score).collect()
}

fn scored(tokens: &[TokenLogprob]) -> impl Iterator<Item = (u32, Option<&TokenLogprob>)> {
    tokens.iter().map(|token| (token.id, Some(token)))
}

async fn whole(
    answer: &Answer,
    prompts: &[Prompt],
    running: Vec<Running>,
) -> Result<Response, ApiError> {
    let tokenizer = &answer.model.engine.served.tokenizer;
    let (mut choices, mut given, mut new, mut reused) = (Vec::new(), 0, 0, 0);
    for (prompt, running) in prompts.iter().zip(running) {
        given += running.prompt_tokens;
        let finished = running.finish().await?;
        let (more, remembered) = sums(&finished);
        new += more;
        reused += remembered;
        for choice in finished {
            let (mut text, mut tokens) = (String::new(), Vec::new());
            if answer.echo == Echo::On {
                text.clone_from(&prompt.text);
                tokens = scored_prompt(prompt, &choice.prompt);
            }
            text += &choice.text;
            tokens.extend(scored(&choice.tokens));
            let lists = answer.logprobs.map(|_| Lists::default().next(tokenizer, &tokens));
            choices.push(json!({
                "index": choices.len(), "text": text, "logprobs": lists,
                "finish_reason": finish_reason(choice.end.as_ref()),
            }));
        }
    }
    Ok(body::json(&json!({
        "id": answer.id, "object": "text_completion", "created": clock::unix_secs(),
        "model": answer.model.name, "system_fingerprint": null, "choices": choices,
        "usage": usage(given, new, reused),
    })))
}

/// Streams prompt after prompt; the choices of one prompt come interleaved.
async fn write(
    events: EventWriter,
    answer: Answer,
    (prompts, running): (Vec<Prompt>, Vec<Running>),
    delivery: Delivery,
) -> Result<(), Gone> {
    let engine = Arc::clone(&answer.model.engine);
    let tokenizer = &engine.served.tokenizer;
    let created = clock::unix_secs();
    let frame = |choices: Value| {
        json!({
            "id": answer.id, "object": "text_completion", "created": created,
            "model": answer.model.name, "system_fingerprint": null, "choices": choices,
        })
    };
    let chunk = |index: usize, text: &str, logprobs: Value, end: Option<&str>| {
        let mut chunk = frame(json!([{
            "index": index, "text": text, "logprobs": logprobs, "finish_reason": end,
        }]));
        if delivery == Delivery::StreamWithUsage {
            chunk["usage"] = Value::Null;
        }
        chunk
    };
    let (mut given, mut new, mut reused) = (0, 0, 0);
    for (at, (prompt, mut running)) in prompts.iter().zip(running).enumerate() {
        given += running.prompt_tokens;
        let first = at * answer.per_prompt;
        let mut lists: Vec<Lists> = (0..answer.per_prompt).map(|_| Lists::default()).collect();
        if answer.echo == Echo::On && answer.logprobs.is_none() {
            for choice in 0..answer.per_prompt {
                events.data(&chunk(first + choice, &prompt.text, Value::Null, None)).await?;
            }
        }
        while let Some(happening) = events.waiting(running.next()).await? {
            match happening {
                Happening::Prompt { choice, scores } => {
                    let shown = lists[choice].next(tokenizer, &scored_prompt(prompt, &scores));
                    events.data(&chunk(first + choice, &prompt.text, shown, None)).await?;
                }
                Happening::Text { choice, text, tokens } => {
                    let tokens: Vec<_> = scored(&tokens).collect();
                    let shown = match answer.logprobs {
                        Some(_) => lists[choice].next(tokenizer, &tokens),
                        None => Value::Null,
                    };
                    events.data(&chunk(first + choice, &text, shown, None)).await?;
                }
                Happening::End { choice, end, usage } => {
                    new += usage.completion_tokens;
                    reused += usage.reused_tokens;
                    let reason = finish_reason(Some(&end));
                    events.data(&chunk(first + choice, "", Value::Null, Some(reason))).await?;
                }
                Happening::Failed(error) => {
                    events.data(&error.body(Dialect::OpenAi)).await?;
                    return events.done().await;
                }
            }
        }
    }
    if delivery == Delivery::StreamWithUsage {
        let mut last = frame(json!([]));
        last["usage"] = usage(given, new, reused);
        events.data(&last).await?;
    }
    events.done().await
}
