//! Byte-pair merging of one word: the pair with the lowest rank first, the leftmost of equals.
//!
//! A heap over a linked list, so that a word of n bytes costs O(n log n); tiktoken's and llama.cpp's
//! results are the same for any order of work.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{BytePair, MergeOrder};

const NONE: usize = usize::MAX;

/// A token within the word; empty once merged into its left neighbor.
#[derive(Clone, Copy)]
struct Part {
    id: u32,
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
}

/// Candidate: rank, left part, right part's end (to see whether it is stale), the merged id.
type Candidate = Reverse<(u32, usize, usize, u32)>;

/// Merges `word`, whose bytes have the ids `bytes`, and appends the ids that remain.
pub(super) fn merge(model: &BytePair, word: &[u8], bytes: &[u32], ids: &mut Vec<u32>) {
    let last = bytes.len().saturating_sub(1);
    let part = |(index, &id): (usize, &u32)| Part {
        id,
        start: index,
        end: index + 1,
        previous: index.checked_sub(1).unwrap_or(NONE),
        next: if index == last { NONE } else { index + 1 },
    };
    let mut parts: Vec<Part> = bytes.iter().enumerate().map(part).collect();
    let mut agenda: BinaryHeap<Candidate> = BinaryHeap::new();
    for left in 0..last {
        propose(model, word, &parts, left, &mut agenda);
    }
    while let Some(Reverse((rank, left, end, id))) = agenda.pop() {
        let current = parts[left];
        let stale = current.start == current.end
            || current.next == NONE
            || parts[current.next].end != end
            || pair(model, word, &parts, left) != Some((rank, id));
        if stale {
            continue;
        }
        let right = parts[current.next];
        parts[current.next].start = right.end;
        parts[left] = Part { id, end: right.end, next: right.next, ..current };
        if right.next != NONE {
            parts[right.next].previous = left;
        }
        if current.previous != NONE {
            propose(model, word, &parts, current.previous, &mut agenda);
        }
        propose(model, word, &parts, left, &mut agenda);
    }
    ids.extend(parts.iter().filter(|p| p.start < p.end).map(|p| p.id));
}

/// Rank and id of what `left` and its right neighbor merge into.
fn pair(model: &BytePair, word: &[u8], parts: &[Part], left: usize) -> Option<(u32, u32)> {
    let a = &parts[left];
    let b = parts.get(a.next)?;
    match &model.order {
        MergeOrder::Rank => {
            let id = *model.lookup.get(&word[a.start..b.end])?;
            Some((id, id))
        }
        MergeOrder::Pairs(pairs) => pairs.get(&(a.id, b.id)).copied(),
    }
}

fn propose(
    model: &BytePair,
    word: &[u8],
    parts: &[Part],
    left: usize,
    agenda: &mut BinaryHeap<Candidate>,
) {
    if let Some((rank, id)) = pair(model, word, parts, left) {
        agenda.push(Reverse((rank, left, parts[parts[left].next].end, id)));
    }
}
