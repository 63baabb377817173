//! A bound on what a parser may swallow for one record: an unclosed quote must not pull a whole
//! file into memory.

use std::cell::Cell;
use std::io::{Error, ErrorKind, Read};
use std::rc::Rc;

use super::MOST_DOCUMENT_BYTES;

/// What the current record may still read.
#[derive(Debug, Clone)]
pub(super) struct Allowance(Rc<Cell<u64>>);

impl Allowance {
    /// Starts the next record.
    pub(super) fn renew(&self) {
        self.0.set(MOST_DOCUMENT_BYTES);
    }

    /// Whether a record was longer than it may be.
    pub(super) fn is_spent(&self) -> bool {
        self.0.get() == 0
    }
}

/// Fails when the allowance is spent.
#[derive(Debug)]
pub(super) struct Limited<R> {
    inner: R,
    left: Allowance,
}

impl<R: Read> Limited<R> {
    pub(super) fn new(inner: R) -> (Self, Allowance) {
        let left = Allowance(Rc::new(Cell::new(MOST_DOCUMENT_BYTES)));
        (Self { inner, left: left.clone() }, left)
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.left.0.get();
        if left == 0 && !buffer.is_empty() {
            return Err(Error::new(ErrorKind::InvalidData, "a record is too long"));
        }
        let most = buffer.len().min(left as usize);
        let count = self.inner.read(&mut buffer[..most])?;
        self.left.0.set(left - count as u64);
        Ok(count)
    }
}
