//! Rows of conversations for training, and what was left out on the way.

use std::convert::Infallible;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::conversation::Conversation;
use super::document::{self, Document, Encoded, TrainOn};
use super::error::SftError;
use super::pack::{self, Packing};
use super::read::Unusable;
use super::render::Renderer;
use crate::permutation::{Permutation, mix};
use crate::row::{NO_TARGET, Row, RowSource};

/// What happens to a conversation longer than a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// It is left out and counted.
    #[default]
    Skip,
    /// Its end is cut off, and it is counted.
    Truncate,
}

/// How rows are made of conversations.
#[derive(Debug, Clone)]
pub struct SftOptions {
    /// Tokens of a row.
    pub sequence_length: usize,
    /// What is trained.
    pub train_on: TrainOn,
    /// What happens to conversations longer than a row.
    pub too_long: TooLong,
    /// What happens to conversations that the template refuses.
    pub unusable: Unusable,
    /// Whether conversations share rows.
    pub packing: Packing,
    /// Decides the order of rows.
    pub seed: u64,
}

impl SftOptions {
    /// Rows of a length; answers trained, too long conversations skipped, packed.
    pub fn new(sequence_length: usize) -> Self {
        Self {
            sequence_length,
            train_on: TrainOn::default(),
            too_long: TooLong::default(),
            unusable: Unusable::default(),
            packing: Packing::default(),
            seed: 0,
        }
    }
}

/// What became of the conversations.
#[derive(Debug, Default)]
pub struct SftReport {
    /// Conversations given.
    pub conversations: usize,
    /// Documents made of them.
    pub documents: usize,
    /// Conversations whose answers are documents of their own, because the template writes a
    /// turn otherwise once it is past.
    pub turn_by_turn: usize,
    /// Documents left out for their length.
    pub too_long: usize,
    /// Documents whose end was cut off.
    pub truncated: usize,
    /// Conversations without a trained token: every answer has weight 0, or its answer was cut off.
    pub unanswered: usize,
    /// Answers that no special token ends: the model cannot learn where to stop.
    pub unended_answers: usize,
    /// Why conversations were left out; empty unless [`Unusable::Skip`].
    pub unusable: Vec<SftError>,
    /// Tokens of all documents.
    pub tokens: u64,
    /// Of these, tokens that are to be predicted.
    pub trained_tokens: u64,
    /// Rows.
    pub rows: u64,
    /// Slots of rows filled with padding.
    pub padding: u64,
}

/// Conversations as rows. An epoch has every row once, in its own order.
#[derive(Debug, Clone)]
pub struct SftRows {
    documents: Vec<Document>,
    /// Documents of each row.
    rows: Vec<Vec<u32>>,
    sequence_length: usize,
    padding_token: u32,
    seed: u64,
}

impl SftRows {
    /// Renders, encodes and packs conversations, on all cores; the result depends on the input
    /// only.
    ///
    /// # Errors
    /// If a conversation cannot be used and is not to be skipped, or nothing is left.
    pub fn build(
        conversations: &[Conversation],
        renderer: &Renderer<'_>,
        options: &SftOptions,
    ) -> Result<(Self, SftReport), SftError> {
        let sequence_length = options.sequence_length;
        if sequence_length == 0 {
            return Err(SftError::NoRoom { sequence_length });
        }
        let mut report = SftReport { conversations: conversations.len(), ..SftReport::default() };
        let mut documents = Vec::with_capacity(conversations.len());
        let encode = |talk| document::encode(renderer, talk, options.train_on);
        let encoded: Vec<_> = conversations.par_iter().map(encode).collect();
        for encoded in encoded {
            match encoded {
                Ok(encoded) => report.take(encoded, options, &mut documents),
                Err(error) if options.unusable == Unusable::Skip => report.unusable.push(error),
                Err(error) => return Err(error),
            }
        }
        if documents.is_empty() {
            return Err(SftError::NothingLeft {
                conversations: conversations.len(),
                unusable: report.unusable.len(),
                too_long: report.too_long,
                unanswered: report.unanswered,
            });
        }
        let tokenizer = renderer.tokenizer;
        let padding_token = tokenizer.pad().or(tokenizer.eos().first().copied()).unwrap_or(0);
        let lengths: Vec<usize> = documents.iter().map(Document::slots).collect();
        let rows = pack::pack(&lengths, sequence_length, options.packing, options.seed);
        report.documents = documents.len();
        report.rows = rows.len() as u64;
        report.padding = (rows.len() * sequence_length - lengths.iter().sum::<usize>()) as u64;
        let seed = options.seed;
        Ok((Self { documents, rows, sequence_length, padding_token, seed }, report))
    }

    /// The documents, in the order of their conversations.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    fn fill(&self, documents: &[u32]) -> Row {
        let length = self.sequence_length;
        let mut row = Row {
            tokens: Vec::with_capacity(length),
            targets: Vec::with_capacity(length),
            positions: Vec::with_capacity(length),
            visible_from: Vec::with_capacity(length),
        };
        for &document in documents {
            let document = &self.documents[document as usize];
            let (start, slots) = (row.tokens.len(), document.slots());
            row.tokens.extend_from_slice(&document.tokens[..slots]);
            row.targets.resize(start + slots, NO_TARGET);
            for range in &document.trained {
                // The slot before a token predicts it.
                let slots = start + range.start - 1..start + range.end - 1;
                row.targets[slots].copy_from_slice(&document.tokens[range.clone()]);
            }
            row.segment(start, slots);
        }
        let (start, padding) = (row.tokens.len(), length - row.tokens.len());
        row.tokens.resize(length, self.padding_token);
        row.targets.resize(length, NO_TARGET);
        row.segment(start, padding);
        row
    }
}

impl Row {
    /// Positions and sight of a segment that begins at `start`.
    fn segment(&mut self, start: usize, len: usize) {
        self.positions.extend(0..len as u32);
        self.visible_from.resize(start + len, start as u32);
    }
}

impl RowSource for SftRows {
    type Error = Infallible;

    fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    fn rows_per_epoch(&self) -> u64 {
        self.rows.len() as u64
    }

    fn row(&self, number: u64) -> Result<Row, Infallible> {
        let len = self.rows_per_epoch();
        let (epoch, place) = (number / len, number % len);
        let row = Permutation::new(len, self.seed ^ mix(epoch + 1)).apply(place);
        Ok(self.fill(&self.rows[row as usize]))
    }
}

impl SftReport {
    /// What a user has to be told: a line for each thing that is not as one would expect.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(first) = self.unusable.first() {
            let reason = std::error::Error::source(first);
            let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
            let count = self.unusable.len();
            notes
                .push(format!("unusable conversations left out: {count} (first: {first}{reason})"));
        }
        let mut note = |count: usize, what: &str| {
            if count > 0 {
                notes.push(format!("{what}: {count}"));
            }
        };
        note(self.too_long, "longer than a row, left out");
        note(self.truncated, "longer than a row, end cut off");
        note(self.unanswered, "without a trained answer, left out");
        note(self.turn_by_turn, "trained turn by turn, as the chat template rewrites past turns");
        note(self.unended_answers, "answers without an end token, after which nothing stops");
        notes
    }

    /// Takes the documents of a conversation that fit.
    fn take(&mut self, encoded: Encoded, options: &SftOptions, documents: &mut Vec<Document>) {
        self.unended_answers += encoded.unended;
        self.turn_by_turn += usize::from(encoded.documents.len() > 1);
        for mut document in encoded.documents {
            if document.slots() > options.sequence_length {
                if options.too_long == TooLong::Skip {
                    self.too_long += 1;
                    continue;
                }
                self.truncated += 1;
                document = document.cut(options.sequence_length);
            }
            if document.trained.is_empty() {
                self.unanswered += 1;
                continue;
            }
            self.tokens += document.tokens.len() as u64;
            self.trained_tokens += document.trained_tokens() as u64;
            documents.push(document);
        }
    }
}
