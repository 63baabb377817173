//! SentencePiece's unigram model: the segmentation with the highest sum of log-probabilities.
//!
//! Viterbi over character positions, a port of `unigram::Model::EncodeOptimized`
//! (unigram_model.cc, google/sentencepiece 0.2.3), with a hash map of pieces bounded by the longest
//! piece in place of its trie. Sums are f32 in the same order, so that ties fall the same way.

use super::SentencePiece;
use super::proto::PieceKind;

/// How much worse an unknown character is than the worst piece (`kUnkPenalty`).
const UNKNOWN_PENALTY: f32 = 10.0;

/// Score of a user-defined symbol for each of its bytes beyond the first, whatever its own score:
/// better than any log-probability, so that it is always chosen (measured on 0.2.3; 0.2.1 and
/// before had another formula).
const USER_DEFINED_BONUS: f32 = 0.1;

/// Best way to reach a position.
#[derive(Clone, Copy)]
struct Node {
    id: u32,
    score: f32,
    start: usize,
    reached: bool,
}

/// Cuts normalized text into pieces, each with its id (the unknown id where it has none).
pub(crate) fn segment<'a>(model: &'a SentencePiece, text: &'a str) -> Vec<(&'a str, u32)> {
    let unknown = model.lowest_score - UNKNOWN_PENALTY;
    let origin = Node { id: model.unknown, score: 0.0, start: 0, reached: false };
    let mut best = vec![origin; text.len() + 1];
    for (start, c) in text.char_indices() {
        let here = best[start].score;
        let mut single = false;
        let rest = &text[start..];
        for (index, c) in rest.char_indices() {
            let length = index + c.len_utf8();
            if length > model.longest_piece {
                break;
            }
            let Some(&id) = model.lookup.get(&rest[..length]) else { continue };
            let piece = &model.pieces[id as usize];
            let score = match piece.kind {
                PieceKind::Unused => continue,
                PieceKind::UserDefined => USER_DEFINED_BONUS * (length - 1) as f32,
                _ => piece.score,
            };
            single |= index == 0;
            relax(
                &mut best[start + length],
                Node { id, score: here + score, start, reached: true },
            );
        }
        if !single {
            let node = Node { id: model.unknown, score: here + unknown, start, reached: true };
            relax(&mut best[start + c.len_utf8()], node);
        }
    }
    let mut out = Vec::new();
    let mut end = text.len();
    while end > 0 {
        let node = best[end];
        out.push((&text[node.start..end], node.id));
        end = node.start;
    }
    out.reverse();
    out
}

/// Keeps the better of two ways; the first of equals.
fn relax(target: &mut Node, candidate: Node) {
    if !target.reached || candidate.score > target.score {
        *target = candidate;
    }
}
