//! Splitting work over the pool without letting the split show in the results.

use crate::pool;
use std::ops::Range;

/// Products below this many multiplications run on the calling thread: waking another costs
/// about as much as this.
pub(crate) const MIN_TASK: usize = 32 * 1024;

/// Rows per task are a multiple of this: the rows of an interleaved panel.
const ROW_STEP: usize = 16;

/// Tokens per task are a multiple of this: the tokens of a tile.
const TOKEN_STEP: usize = 16;

/// A product `[tokens, rows]` cut into tasks.
pub(crate) struct Grid {
    rows: usize,
    tokens: usize,
    row_chunk: usize,
    token_chunk: usize,
}

impl Grid {
    pub(crate) fn new(rows: usize, tokens: usize, cols: usize) -> Self {
        let threads = pool::threads();
        let whole = Self { rows, tokens, row_chunk: rows, token_chunk: tokens };
        let work_per_row = tokens.saturating_mul(cols);
        if threads == 1 || rows.saturating_mul(work_per_row) < 2 * MIN_TASK {
            return whole;
        }
        // A few tasks per thread even out their speeds; long token runs need no more than 64 rows.
        let even = rows.div_ceil(4 * threads).max(MIN_TASK.div_ceil(work_per_row));
        let limit = if tokens > 8 { 64 } else { usize::MAX };
        let row_chunk = even.min(limit).next_multiple_of(ROW_STEP);
        let row_tasks = rows.div_ceil(row_chunk);
        let split = if row_tasks >= 2 * threads { 1 } else { (4 * threads).div_ceil(row_tasks) };
        let token_chunk = tokens.div_ceil(split).next_multiple_of(TOKEN_STEP);
        Self { row_chunk, token_chunk, ..whole }
    }

    /// The same with even cells of at most so many tokens, a multiple of 16, and of more rows.
    pub(crate) fn of_tokens(self, most: usize) -> Self {
        if self.cells() == 1 || self.tokens <= 8 {
            return self;
        }
        let even = self.tokens.div_ceil(self.tokens.div_ceil(most)).next_multiple_of(TOKEN_STEP);
        let token_chunk = self.token_chunk.min(even);
        let tasks = (4 * pool::threads()).div_ceil(self.tokens.div_ceil(token_chunk));
        let row_chunk = self.rows.div_ceil(tasks).min(256).next_multiple_of(32);
        Self { token_chunk, row_chunk, ..self }
    }

    /// Number of cells.
    pub(crate) fn cells(&self) -> usize {
        self.rows.div_ceil(self.row_chunk) * self.tokens.div_ceil(self.token_chunk)
    }

    /// Rows and tokens of a cell.
    pub(crate) fn cell(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let row_tasks = self.rows.div_ceil(self.row_chunk);
        let (r, t) = (index % row_tasks * self.row_chunk, index / row_tasks * self.token_chunk);
        (r..self.rows.min(r + self.row_chunk), t..self.tokens.min(t + self.token_chunk))
    }
}

/// `body(first, chunk)` for every chunk of `chunk` elements (the last may be shorter), `first`
/// being the index of its first element; on the pool where there is more than one.
pub fn for_each_chunk_mut<T: Send>(
    out: &mut [T],
    chunk: usize,
    body: impl Fn(usize, &mut [T]) + Sync,
) {
    let (len, chunk) = (out.len(), chunk.max(1));
    let out = OutPtr::new(out);
    pool::run(len.div_ceil(chunk), |i| {
        let first = i * chunk;
        // SAFETY: the chunks are disjoint and within `out`, which this function borrows mutably.
        body(first, unsafe { out.slice(first..len.min(first + chunk)) });
    });
}

/// So many zeros, written over the pool: of a large vector that is a pass over memory.
#[must_use]
pub fn zeros(len: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    let room = &mut values.spare_capacity_mut()[..len];
    for_each_chunk_mut(room, ZEROS_CHUNK, |_, part| part.fill(std::mem::MaybeUninit::new(0.0)));
    // SAFETY: every one of the first `len` values was written.
    unsafe { values.set_len(len) };
    values
}

/// What new memory holds before its chunks are changed.
#[derive(Clone, Copy)]
pub(crate) enum Begin<'a> {
    /// So many zeros.
    Zeros(usize),
    Copy(&'a [f32]),
}

/// New values, each chunk of which `change` gets while it is in the caches: memory is written once.
/// `first` is the index of the chunk's first value.
pub(crate) fn made(
    begin: Begin<'_>,
    chunk: usize,
    change: impl Fn(usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let len = match begin {
        Begin::Zeros(len) => len,
        Begin::Copy(of) => of.len(),
    };
    let mut values = Vec::with_capacity(len);
    let room = &mut values.spare_capacity_mut()[..len];
    for_each_chunk_mut(room, chunk, |first, part| {
        match begin {
            Begin::Zeros(_) => part.fill(std::mem::MaybeUninit::new(0.0)),
            Begin::Copy(of) => {
                part.write_copy_of_slice(&of[first..first + part.len()]);
            }
        }
        // SAFETY: all of the part was written.
        change(first, unsafe { part.assume_init_mut() });
    });
    // SAFETY: all values were written.
    unsafe { values.set_len(len) };
    values
}

/// Values per task of [`zeros`].
const ZEROS_CHUNK: usize = 128 * 1024;

/// A pointer into a buffer whose parts different tasks read or write.
pub(crate) struct OutPtr<T = f32>(*mut T);

impl<T> Clone for OutPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for OutPtr<T> {}

// SAFETY: a bare address; whoever dereferences it vouches that tasks do not overlap.
unsafe impl<T: Send> Send for OutPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for OutPtr<T> {}

impl<T> OutPtr<T> {
    pub(crate) fn new(out: &mut [T]) -> Self {
        Self(out.as_mut_ptr())
    }

    /// The buffer from an address in it on.
    pub(crate) fn from(address: *mut T) -> Self {
        Self(address)
    }

    /// Address of element `index`.
    pub(crate) fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }

    /// A part of the buffer.
    ///
    /// # Safety
    /// The range lies in the buffer, which lives, and no other reference to it exists.
    pub(crate) unsafe fn slice<'a>(self, range: Range<usize>) -> &'a mut [T] {
        // SAFETY: by contract.
        unsafe { std::slice::from_raw_parts_mut(self.at(range.start), range.len()) }
    }
}

impl OutPtr {
    /// An address that is only read from.
    pub(crate) fn shared(bytes: *const u8) -> Self {
        Self(bytes.cast_mut().cast())
    }

    /// The address as bytes.
    pub(crate) fn bytes(self) -> *const u8 {
        self.0.cast_const().cast()
    }
}
