//! Documents in batches: one thread reads while the others work on the batch before.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{SyncSender, sync_channel};

use super::document::RawDocument;
use super::inputs::InputFile;
use super::options::BadDocuments;
use super::read::{ReadSettings, read_file};
use crate::DataError;

/// A batch is closed by either: large enough that waiting for its last document costs little, small
/// enough that a stopped run loses little.
const BATCH_DOCUMENTS_PER_THREAD: usize = 128;
const BATCH_BYTES_PER_THREAD: usize = 4 << 20;
/// Batches that wait.
const WAITING: usize = 1;

/// A document, or why there is none.
pub(crate) type Item = Result<RawDocument, DataError>;

/// What to read and how.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    pub(crate) files: &'a [InputFile],
    pub(crate) settings: ReadSettings,
    pub(crate) bad_documents: BadDocuments,
    /// Counts bytes taken from the disk.
    pub(crate) done: Arc<AtomicU64>,
    pub(crate) threads: usize,
}

/// Gives all documents in order, batch by batch, until `work` breaks or fails.
pub(crate) fn for_each(
    reading: &Reading<'_>,
    work: &mut dyn FnMut(Vec<Item>) -> Result<ControlFlow<()>, DataError>,
) -> Result<(), DataError> {
    let (sender, receiver) = sync_channel(WAITING);
    std::thread::scope(|scope| {
        scope.spawn(move || Filling { reading, sender, batch: Vec::new(), bytes: 0 }.run());
        // Dropped on every way out, so that the reading thread ends.
        for batch in receiver {
            if work(batch)?.is_break() {
                break;
            }
        }
        Ok(())
    })
}

struct Filling<'a> {
    reading: &'a Reading<'a>,
    sender: SyncSender<Vec<Item>>,
    batch: Vec<Item>,
    bytes: usize,
}

impl Filling<'_> {
    fn run(mut self) {
        let reading = self.reading;
        for file in reading.files {
            let mut flow = ControlFlow::Continue(());
            let mut sink = |item| {
                flow = self.push(item);
                flow
            };
            let result = read_file(file, &reading.settings, &reading.done, &mut sink);
            if let Err(error) = result {
                flow = self.push(Err(error));
            }
            if flow.is_break() {
                return;
            }
        }
        // A receiver that has gone wants no more.
        let _ = self.sender.send(self.batch);
    }

    fn push(&mut self, item: Item) -> ControlFlow<()> {
        let last = item.is_err() && self.reading.bad_documents == BadDocuments::Stop;
        self.bytes += item.as_ref().map_or(0, RawDocument::bytes);
        self.batch.push(item);
        let threads = self.reading.threads.min(64);
        let full = self.batch.len() >= BATCH_DOCUMENTS_PER_THREAD * threads
            || self.bytes >= BATCH_BYTES_PER_THREAD * threads;
        if !last && !full {
            return ControlFlow::Continue(());
        }
        self.bytes = 0;
        let sent = self.sender.send(std::mem::take(&mut self.batch));
        if last || sent.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
