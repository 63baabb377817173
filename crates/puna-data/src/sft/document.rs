//! Conversations to tokens, with what is trained of them.
//!
//! An answer is what stands between a prompt (the messages before it, rendered to be answered)
//! and the same messages with the answer. Rendering both finds it under any template, where
//! searching for markers would need to know each. Where all prompts and answers of a
//! conversation are beginnings of one text, and their tokens of one sequence, it is one document.
//! Where they are not (a template that drops earlier thoughts, or puts the system message before
//! the last question), each answer becomes a document of its own, after exactly the tokens that
//! the model will see when it is to answer.

use std::ops::Range;

use puna_text::{DecodeSpecials, GenerationPrompt, TextError, Tokenizer};
use serde::{Deserialize, Serialize};

use super::conversation::{Conversation, role};
use super::error::SftError;
use super::render::{Prepared, Renderer};

/// What of a conversation is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    /// Every answer, with the token that ends it.
    #[default]
    Answers,
    /// The last answer.
    Last,
    /// Everything, prompts too.
    Everything,
}

/// Tokens that are trained together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    /// The tokens, up to the last trained one.
    pub tokens: Vec<u32>,
    /// Which of them are to be predicted: ranges in order, apart from each other, none with the
    /// first token.
    pub trained: Vec<Range<usize>>,
}

impl Document {
    /// Tokens, without what is behind the last trained one.
    fn new(tokens: Vec<u32>, trained: impl IntoIterator<Item = Range<usize>>) -> Self {
        Self { tokens, trained: trained.into_iter().collect() }.trimmed()
    }

    /// Tokens that are to be predicted.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().map(Range::len).sum()
    }

    /// Slots of a row that it takes: the last token is only ever predicted.
    pub(super) fn slots(&self) -> usize {
        self.tokens.len().saturating_sub(1)
    }

    /// Leaves out what is behind the last trained token.
    fn trimmed(mut self) -> Self {
        self.trained.retain(|range| !range.is_empty());
        self.tokens.truncate(self.trained.last().map_or(0, |range| range.end));
        self
    }

    /// Cuts it to fit into `slots` slots of a row.
    pub(super) fn cut(mut self, slots: usize) -> Self {
        let len = slots + 1;
        self.tokens.truncate(len);
        for range in &mut self.trained {
            *range = range.start.min(len)..range.end.min(len);
        }
        self.trimmed()
    }
}

/// A conversation's documents.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// Each with something trained; none where every answer has weight 0.
    pub(super) documents: Vec<Document>,
    /// Answers that no special token ends.
    pub(super) unended: usize,
}

/// An answer under its template.
struct Answer {
    /// Index of its message.
    index: usize,
    prompt: String,
    complete: String,
}

/// The documents of a conversation.
pub(super) fn encode(
    renderer: &Renderer<'_>,
    conversation: &Conversation,
    train_on: TrainOn,
) -> Result<Encoded, SftError> {
    let encoder = Encoder { renderer, conversation, prepared: renderer.prepare(conversation) };
    let answers = encoder.answers(train_on)?;
    let failed = |error| encoder.failed(error);
    if train_on == TrainOn::Everything {
        let all = encoder.render(usize::MAX, GenerationPrompt::Omit)?;
        let tokens = renderer.tokenizer.encode_rendered(&all).map_err(failed)?;
        let range = 1..tokens.len().max(1);
        let documents = vec![Document::new(tokens, [range])];
        return Ok(Encoded { documents, unended: 0 });
    }
    let mut encoded = Encoded::default();
    match whole(renderer.tokenizer, &answers, &mut encoded.unended).map_err(failed)? {
        Some(document) => encoded.documents.push(document),
        None => {
            for answer in &answers {
                let document = encoder.single(answer, &mut encoded.unended)?;
                encoded.documents.push(document);
            }
        }
    }
    Ok(encoded)
}

/// One conversation at work.
struct Encoder<'a> {
    renderer: &'a Renderer<'a>,
    conversation: &'a Conversation,
    prepared: Prepared,
}

impl Encoder<'_> {
    fn failed(&self, source: TextError) -> SftError {
        SftError::Text { place: self.conversation.place.clone(), source }
    }

    fn render(&self, count: usize, prompt: GenerationPrompt) -> Result<String, SftError> {
        self.renderer.render(&self.prepared, count, prompt).map_err(|error| self.failed(error))
    }

    /// The answers to train, rendered; and the check that no tool is lost.
    fn answers(&self, train_on: TrainOn) -> Result<Vec<Answer>, SftError> {
        let messages = &self.prepared.messages;
        let place = || self.conversation.place.clone();
        let is_answer = |&index: &usize| role(&messages[index]) == "assistant";
        let last = (0..messages.len()).rfind(is_answer);
        let mut answers = Vec::new();
        for index in (0..messages.len()).filter(is_answer) {
            let message = &messages[index];
            let unwanted = train_on == TrainOn::Last && Some(index) != last;
            let weightless = message.get("weight").and_then(|w| w.as_f64()) == Some(0.0);
            if unwanted || weightless {
                continue;
            }
            let prompt = self.render(index, GenerationPrompt::Add)?;
            let complete = self.render(index + 1, GenerationPrompt::Omit)?;
            let text = match complete.strip_prefix(&prompt).filter(|text| !text.is_empty()) {
                Some(text) => text,
                None if train_on == TrainOn::Everything => &complete,
                None => return Err(SftError::Unstable { place: place(), message: index + 1 }),
            };
            if self.renderer.loses_call(message, text) {
                return Err(SftError::NoTools { place: place(), what: "calls of tools" });
            }
            if Some(index) == last
                && let Some(what) = self.renderer.lost(&self.prepared, &complete)
            {
                return Err(SftError::NoTools { place: place(), what });
            }
            answers.push(Answer { index, prompt, complete });
        }
        Ok(answers)
    }

    /// One answer after its prompt.
    fn single(&self, answer: &Answer, unended: &mut usize) -> Result<Document, SftError> {
        let tokenizer = self.renderer.tokenizer;
        let found = continued(tokenizer, answer).map_err(|error| self.failed(error))?;
        let Some((tokens, start)) = found else {
            let place = self.conversation.place.clone();
            return Err(SftError::Inseparable { place, message: answer.index + 1 });
        };
        let end = ended(tokenizer, &tokens, start..tokens.len(), unended)
            .map_err(|error| self.failed(error))?;
        Ok(Document::new(tokens, std::iter::once(start..end)))
    }
}

/// All answers in one document, if each prompt and each answer is a beginning of the last, as
/// text and as tokens.
fn whole(
    tokenizer: &Tokenizer,
    answers: &[Answer],
    unended: &mut usize,
) -> Result<Option<Document>, TextError> {
    let Some(last) = answers.last() else { return Ok(Some(Document::default())) };
    let full = &last.complete;
    if !answers.iter().all(|answer| full.starts_with(&answer.complete)) {
        return Ok(None);
    }
    let tokens = tokenizer.encode_rendered(full)?;
    let (mut trained, mut without_end) = (Vec::with_capacity(answers.len()), 0);
    for answer in answers {
        let prompt = tokenizer.encode_rendered(&answer.prompt)?;
        let complete = tokenizer.encode_rendered(&answer.complete)?;
        if !tokens.starts_with(&complete) || !complete.starts_with(&prompt) {
            return Ok(None);
        }
        let range = prompt.len()..complete.len();
        let end = ended(tokenizer, &complete, range.clone(), &mut without_end)?;
        trained.push(range.start..end);
    }
    *unended += without_end;
    Ok(Some(Document::new(tokens, trained)))
}

/// The end of what is trained in `range`: behind the last special token if only space follows it
/// (the model stops there, and never writes that space), else the range's own end. Counts answers
/// that no special token ends.
fn ended(
    tokenizer: &Tokenizer,
    tokens: &[u32],
    range: Range<usize>,
    unended: &mut usize,
) -> Result<usize, TextError> {
    let ends = tokenizer.eos();
    let is_end = |id: u32| tokenizer.is_special(id) || ends.contains(&id);
    if let Some(last) = range.clone().rfind(|&at| is_end(tokens[at])) {
        let rest = tokenizer.decode(&tokens[last + 1..range.end], DecodeSpecials::Keep)?;
        if rest.trim().is_empty() {
            return Ok(last + 1);
        }
    }
    *unended += 1;
    Ok(range.end)
}

/// The tokens of an answer after those of its prompt, and where the answer begins. `None` if no
/// tokens were found that read as the answered conversation.
fn continued(
    tokenizer: &Tokenizer,
    answer: &Answer,
) -> Result<Option<(Vec<u32>, usize)>, TextError> {
    let prompt = tokenizer.encode_rendered(&answer.prompt)?;
    let complete = tokenizer.encode_rendered(&answer.complete)?;
    let start = prompt.len();
    if complete.starts_with(&prompt) {
        return Ok(Some((complete, start)));
    }
    // A token reaches across (a line break that ends the prompt and one that begins the answer):
    // the model will have the prompt's tokens, so the answer is encoded for itself, after some
    // text that keeps a tokenizer from beginning it as it begins a text.
    let text = &answer.complete[answer.prompt.len()..];
    let expected = tokenizer.decode(&complete, DecodeSpecials::Keep)?;
    let last_char = answer.prompt.chars().next_back().map(String::from).unwrap_or_default();
    for before in ["", "\n", "a", &last_char] {
        let head = tokenizer.encode_rendered(before)?;
        let both = tokenizer.encode_rendered(&format!("{before}{text}"))?;
        let Some(tail) = both.strip_prefix(head.as_slice()) else { continue };
        let tokens = [prompt.as_slice(), tail].concat();
        if tokenizer.decode(&tokens, DecodeSpecials::Keep)? == expected {
            return Ok(Some((tokens, start)));
        }
    }
    Ok(None)
}
