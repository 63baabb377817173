//! SentencePiece's BPE: merge the adjacent pair whose piece has the highest score.
//!
//! A port of `bpe::Model::SampleEncode` without sampling (bpe_model.cc, google/sentencepiece
//! 0.2): a heap of candidate pairs over a linked list of symbols, O(n log n). Equal scores go to
//! the leftmost pair. Pieces of kind UNUSED may be merged through but are split again at the end.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::SentencePiece;
use super::proto::PieceKind;
use crate::specials::Fragment;

const NONE: usize = usize::MAX;

/// A stretch of the text, in a doubly linked list; empty once merged into its left neighbor.
struct Symbol {
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
    /// User-defined symbols are never merged.
    frozen: bool,
}

/// Two neighbors that form a piece.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    bytes: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// One segmentation in progress.
struct Merger<'a> {
    model: &'a SentencePiece,
    text: &'a str,
    symbols: Vec<Symbol>,
    agenda: BinaryHeap<Pair>,
    /// Halves of the unused pieces that were proposed.
    unused: HashMap<&'a str, (&'a str, &'a str)>,
}

/// Cuts normalized text into pieces, each with its id (the unknown id where it has none).
pub(crate) fn segment<'a>(model: &'a SentencePiece, text: &'a str) -> Vec<(&'a str, u32)> {
    let mut merger = Merger {
        model,
        text,
        symbols: symbols(model, text),
        agenda: BinaryHeap::new(),
        unused: HashMap::new(),
    };
    for right in 1..merger.symbols.len() {
        merger.propose(right - 1, right);
    }
    merger.merge_all();
    merger.collect()
}

fn symbols(model: &SentencePiece, text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    let mut position = 0;
    let mut add = |length: usize, frozen: bool| {
        let index = symbols.len();
        symbols.push(Symbol {
            start: position,
            end: position + length,
            previous: index.checked_sub(1).unwrap_or(NONE),
            next: index + 1,
            frozen,
        });
        position += length;
    };
    for fragment in model.symbols.split(text) {
        match fragment {
            Fragment::Token(_, symbol) => add(symbol.len(), true),
            Fragment::Text(text) => text.chars().for_each(|c| add(c.len_utf8(), false)),
        }
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    symbols
}

impl<'a> Merger<'a> {
    fn text_of(&self, symbol: usize) -> &'a str {
        &self.text[self.symbols[symbol].start..self.symbols[symbol].end]
    }

    /// Puts a pair on the agenda if its text is a piece.
    fn propose(&mut self, left: usize, right: usize) {
        if left == NONE || right == NONE {
            return;
        }
        let (a, b) = (&self.symbols[left], &self.symbols[right]);
        if a.frozen || b.frozen {
            return;
        }
        let piece = &self.text[a.start..b.end];
        let Some(&id) = self.model.lookup.get(piece) else { return };
        let entry = &self.model.pieces[id as usize];
        // adding zero makes -0.0 equal to 0.0 in the total order
        self.agenda.push(Pair { score: entry.score + 0.0, left, right, bytes: piece.len() });
        if entry.kind == PieceKind::Unused {
            let halves = (self.text_of(left), self.text_of(right));
            self.unused.insert(piece, halves);
        }
    }

    fn merge_all(&mut self) {
        while let Some(pair) = self.agenda.pop() {
            let (a, b) = (&self.symbols[pair.left], &self.symbols[pair.right]);
            let (left_bytes, right_bytes) = (a.end - a.start, b.end - b.start);
            if left_bytes == 0 || right_bytes == 0 || left_bytes + right_bytes != pair.bytes {
                continue; // one of the two has been merged since
            }
            let (end, next) = (b.end, b.next);
            self.symbols[pair.left].end = end;
            self.symbols[pair.left].next = next;
            self.symbols[pair.right].start = end;
            if next != NONE {
                self.symbols[next].previous = pair.left;
            }
            self.propose(self.symbols[pair.left].previous, pair.left);
            self.propose(pair.left, next);
        }
    }

    fn collect(&self) -> Vec<(&'a str, u32)> {
        let mut out = Vec::new();
        let mut index = if self.symbols.is_empty() { NONE } else { 0 };
        while index != NONE {
            self.resegment(self.text_of(index), &mut out);
            index = self.symbols[index].next;
        }
        out
    }

    /// Emits a piece, an unused one as its halves; iterative, since halves nest.
    fn resegment(&self, piece: &'a str, out: &mut Vec<(&'a str, u32)>) {
        let mut stack = vec![piece];
        while let Some(piece) = stack.pop() {
            let id = self.model.piece_to_id(piece);
            let unused =
                self.model.pieces.get(id as usize).map(|p| p.kind) == Some(PieceKind::Unused);
            match self.unused.get(piece).filter(|_| unused) {
                Some((left, right)) => stack.extend([*right, *left]),
                None => out.push((piece, id)),
            }
        }
    }
}
