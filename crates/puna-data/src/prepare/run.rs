//! The preparation itself: see [`super`] for its course.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use puna_text::{MOST_TRAINING_BYTES, Tokenizer, TrainedTokenizer, train_bpe};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::batches::{Item, Reading, for_each};
use super::document::pieces;
use super::duplicates::{Duplicate, Fingerprint, Seen};
use super::inputs::{InputFiles, expand};
use super::options::{BadDocuments, PrepareOptions, Source, TokenizerChoice};
use super::output::{Admission, Admitted, Output, finish_killed};
use super::quality::{self, Reason};
use super::read::ReadSettings;
use super::tokenizer;
use crate::DataError;
use crate::manifest::{
    Counts, FORMAT, Manifest, SourceEntry, Split, TokenType, TokenizerEntry, VERSION,
};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The inputs are read to train a tokenizer.
    TrainTokenizer,
    /// The inputs are read to be tokenized.
    Tokenize,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Bytes of input files read in this stage, as they are on disk.
    pub bytes: u64,
    /// Bytes of all input files.
    pub total_bytes: u64,
    /// Documents read in this stage.
    pub documents: u64,
    /// Tokens written so far.
    pub tokens: u64,
}

/// Where progress is told; a break stops the preparation in a state that can be continued.
type Listener<'a> = &'a mut dyn FnMut(&Progress) -> ControlFlow<()>;

/// Prepares data; see [`super`].
///
/// # Errors
/// A setting, an input or a document that cannot be used; the output folder's state; a full disk.
/// What was finished stays, and the same call continues from there.
pub fn prepare(options: &PrepareOptions, progress: Listener<'_>) -> Result<Manifest, DataError> {
    options.check()?;
    let mut inputs = Vec::new();
    for source in &options.sources {
        inputs.push(expand(&source.inputs, &options.output)?);
    }
    let files = tokenizer::files(&options.tokenizer)?;
    let digest = files.as_deref().and_then(tokenizer::digest);
    let pool = pool(options.threads)?;
    let record = options.record();
    if let Some(manifest) = finish_killed(&options.output, &record, options.existing)? {
        return Ok(manifest);
    }
    let mut output = Output::open(&options.output, record, options.existing)?;
    let mut run = Run {
        options,
        pool,
        total_bytes: inputs.iter().flat_map(|i| &i.files).map(|file| file.bytes).sum(),
        inputs,
        documents: 0,
        done: Arc::new(AtomicU64::new(0)),
        progress,
    };
    if !output.has_tokenizer(digest.as_deref())? {
        let files = match files {
            Some(files) => files,
            None => tokenizer::trained_files(run.train_tokenizer()?),
        };
        tokenizer::write(&options.output, &files)?;
    }
    run.tokenize(output)
}

fn pool(threads: usize) -> Result<ThreadPool, DataError> {
    ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| DataError::Setting {
        option: "threads",
        expected: "as many as the system grants",
        got: format!("{threads} ({error})"),
    })
}

/// Takes what became of a batch's items.
type Work<'a> = &'a mut dyn FnMut(&ThreadPool, Vec<Outcome>) -> Result<Step, DataError>;

struct Run<'a> {
    options: &'a PrepareOptions,
    pool: ThreadPool,
    inputs: Vec<InputFiles>,
    total_bytes: u64,
    /// Documents read in this stage.
    documents: u64,
    done: Arc<AtomicU64>,
    progress: Listener<'a>,
}

/// A text that passed the filters.
struct Document {
    place: Place,
    text: String,
    fingerprint: Fingerprint,
}

/// Where a document comes from, for errors.
type Place = (Arc<std::path::Path>, crate::error::At);

/// What became of an item.
enum Outcome {
    Kept(Document),
    Dropped(Reason),
    Bad(DataError),
}

impl Run<'_> {
    /// Reads a source; `work` gets what became of each batch's items, in order.
    fn read(&mut self, source: usize, stage: Stage, work: Work<'_>) -> Result<(), DataError> {
        let options = self.options;
        let key = key(&options.sources[source], options);
        let reading = Reading {
            files: &self.inputs[source].files,
            settings: ReadSettings {
                text_key: key.to_owned(),
                separator: options.separator.clone(),
                piece_bytes: options.piece_bytes as usize,
            },
            bad_documents: options.bad_documents,
            done: self.done.clone(),
            threads: options.threads,
        };
        for_each(&reading, &mut |items| {
            let judge = |item| outcomes(item, key, options);
            let outcomes: Vec<Outcome> = self
                .pool
                .install(|| items.into_par_iter().with_max_len(16).flat_map_iter(judge).collect());
            self.documents += outcomes.len() as u64;
            let step = work(&self.pool, outcomes)?;
            let told = Progress {
                stage,
                bytes: self.done.load(Ordering::Relaxed),
                total_bytes: self.total_bytes,
                documents: self.documents,
                tokens: step.tokens,
            };
            if (self.progress)(&told).is_break() {
                return Err(DataError::Stopped { documents: self.documents });
            }
            Ok(if step.last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
    }

    /// Trains a tokenizer on what passes the filters.
    fn train_tokenizer(&mut self) -> Result<TrainedTokenizer, DataError> {
        let TokenizerChoice::TrainBpe { vocab_size, most_bytes } = self.options.tokenizer else {
            unreachable!("the other choices come with files");
        };
        let most_bytes = most_bytes.min(MOST_TRAINING_BYTES);
        // Of more text a sample, by the hash of the documents: no order is favored.
        let share = most_bytes as f64 / self.total_bytes.max(1) as f64;
        let (sender, receiver) = sync_channel::<String>(64);
        std::thread::scope(|scope| {
            let trainer = scope.spawn(move || train_bpe(receiver.into_iter(), vocab_size));
            let mut bytes = 0;
            let mut fed = Ok(());
            for source in 0..self.inputs.len() {
                let skip = self.options.bad_documents == BadDocuments::Skip;
                fed = self.read(source, Stage::TrainTokenizer, &mut |_, outcomes| {
                    for outcome in outcomes {
                        let document = match outcome {
                            Outcome::Kept(document) => document,
                            Outcome::Bad(error) if !skip => return Err(error),
                            _ => continue,
                        };
                        if document.fingerprint.fraction() >= share {
                            continue;
                        }
                        bytes += document.text.len() as u64;
                        // The trainer ends early only with an error, which is asked for below.
                        if bytes > most_bytes || sender.send(document.text).is_err() {
                            return Ok(Step { tokens: 0, last: true });
                        }
                    }
                    Ok(Step { tokens: 0, last: false })
                });
                if fed.is_err() || bytes > most_bytes {
                    break;
                }
            }
            drop(sender);
            let trained = trainer.join();
            fed?;
            self.documents = 0;
            self.done.store(0, Ordering::Relaxed);
            match trained {
                Ok(trained) => trained.map_err(DataError::tokenizer("training")),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Tokenizes everything and writes the manifest.
    fn tokenize(&mut self, mut output: Output) -> Result<Manifest, DataError> {
        let (tokenizer, entry) = tokenizer::load(&self.options.output, self.options)?;
        let vocab_size = tokenizer.vocab_size();
        output.start(&entry, vocab_size, self.options.shard_tokens)?;
        let mut seen = Seen::new(self.options.duplicates);
        let mut sources = Vec::new();
        for (index, source) in self.options.sources.iter().enumerate() {
            let mut part = Part {
                source: index,
                options: self.options,
                tokenizer: &tokenizer,
                entry: &entry,
                seen: &mut seen,
                output: &mut output,
                counts: Counts::default(),
            };
            self.read(index, Stage::Tokenize, &mut |pool, outcomes| part.batch(pool, outcomes))?;
            let counts = part.counts;
            output.end_source(index)?;
            let inputs = &self.inputs[index];
            sources.push(SourceEntry {
                name: source.name.clone(),
                weight: source.weight,
                inputs: source.inputs.clone(),
                files: inputs.files.len() as u64,
                files_left_out: inputs.left_out,
                documents: counts,
            });
        }
        if sources.iter().all(|s| s.documents.train + s.documents.validation == 0) {
            return Err(nothing_kept(&sources));
        }
        output.finish(Manifest {
            format: FORMAT.to_owned(),
            version: VERSION,
            tokenizer: entry,
            vocab_size,
            dtype: TokenType::for_vocab(vocab_size),
            options: self.options.record(),
            sources,
            train: Vec::new(),
            validation: Vec::new(),
        })
    }
}

/// What came of a batch.
struct Step {
    /// Tokens so far.
    tokens: u64,
    /// Whether no more is wanted.
    last: bool,
}

fn key<'a>(source: &'a Source, options: &'a PrepareOptions) -> &'a str {
    source.text_key.as_deref().unwrap_or(&options.text_key)
}

/// What is done with an item by itself: a long document becomes several.
fn outcomes(item: Item, key: &str, options: &PrepareOptions) -> Vec<Outcome> {
    let raw = match item {
        Ok(raw) => raw,
        Err(error) => return vec![Outcome::Bad(error)],
    };
    let place = (raw.path.clone(), raw.at);
    let text = match raw.into_text(key) {
        Ok(text) => text,
        Err(error) => return vec![Outcome::Bad(error)],
    };
    let outcome = |text: String| match quality::judge(&options.quality, &text) {
        Some(reason) => Outcome::Dropped(reason),
        None => {
            let fingerprint = Fingerprint::new(&text, options.duplicates);
            Outcome::Kept(Document { place: place.clone(), text, fingerprint })
        }
    };
    pieces(text, options.piece_bytes as usize).into_iter().map(outcome).collect()
}

/// One source on its way into the shards.
struct Part<'a> {
    source: usize,
    options: &'a PrepareOptions,
    tokenizer: &'a Tokenizer,
    entry: &'a TokenizerEntry,
    seen: &'a mut Seen,
    output: &'a mut Output,
    counts: Counts,
}

impl Part<'_> {
    fn batch(&mut self, pool: &ThreadPool, outcomes: Vec<Outcome>) -> Result<Step, DataError> {
        let mut needed = Vec::new();
        for outcome in outcomes {
            if let Some(document) = self.judge(outcome)? {
                needed.push(document);
            }
        }
        let encode = |(split, document): (Split, Document)| {
            let tokens = tokenizer::encode(self.tokenizer, self.entry, &document.text);
            let (path, at) = &document.place;
            let tokens =
                tokens.map_err(|e| DataError::tokenizer(format!("{}{at}", path.display()))(e))?;
            Ok((split, document.fingerprint.text, document.text.len() as u64, tokens))
        };
        type Encoded = Result<(Split, [u8; 32], u64, Vec<u32>), DataError>;
        let encoded: Vec<Encoded> =
            pool.install(|| needed.into_par_iter().with_max_len(16).map(encode).collect());
        for document in encoded {
            let (split, text, bytes, tokens) = document?;
            let admitted = Admitted { split, source: self.source, text: &text };
            self.output.push(admitted, &tokens, bytes)?;
        }
        Ok(Step { tokens: self.output.tokens(), last: false })
    }

    /// Counts an item; gives the document if it has to be tokenized.
    fn judge(&mut self, outcome: Outcome) -> Result<Option<(Split, Document)>, DataError> {
        self.counts.read += 1;
        let mut document = match outcome {
            Outcome::Kept(document) => document,
            Outcome::Bad(error) if self.options.bad_documents == BadDocuments::Stop => {
                return Err(error);
            }
            Outcome::Bad(_) => {
                self.counts.bad += 1;
                return Ok(None);
            }
            Outcome::Dropped(reason) => {
                *match reason {
                    Reason::Empty => &mut self.counts.empty,
                    Reason::TooShort => &mut self.counts.too_short,
                    Reason::TooLong => &mut self.counts.too_long,
                    Reason::Symbols => &mut self.counts.symbols,
                    Reason::RepeatedLines => &mut self.counts.repeated_lines,
                } += 1;
                return Ok(None);
            }
        };
        match self.seen.check(&mut document.fingerprint) {
            Some(Duplicate::Exact) => self.counts.exact_duplicates += 1,
            Some(Duplicate::Near) => self.counts.near_duplicates += 1,
            None => {
                let held_out = document.fingerprint.fraction() < self.options.validation_fraction;
                let split = if held_out { Split::Validation } else { Split::Train };
                match split {
                    Split::Train => self.counts.train += 1,
                    Split::Validation => self.counts.validation += 1,
                }
                let text = document.fingerprint.text;
                let admitted = Admitted { split, source: self.source, text: &text };
                return Ok(match self.output.admit(admitted)? {
                    Admission::Finished => None,
                    Admission::Needed => Some((split, document)),
                });
            }
        }
        Ok(None)
    }
}

/// The error of a preparation without a single document.
fn nothing_kept(sources: &[SourceEntry]) -> DataError {
    let mut totals = Counts::default().named();
    for source in sources {
        for (total, count) in totals.iter_mut().zip(source.documents.named()) {
            total.1 += count.1;
        }
    }
    let dropped: Vec<String> = totals[1..]
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    DataError::NothingKept { read: totals[0].1, dropped: dropped.join(", ") }
}
