//! What the next forward pass runs.
//!
//! Every sequence that decodes gets its token. Prompts share what is left of the pass: as much for
//! each client as for every other, the older sequences of a client before its younger ones. Of
//! sequences that would compute the same block only the first does; the others find it a step later.

use super::active::Active;
use super::blocks::BlockKey;
use crate::model::{LanguageModel, Logits, SequenceCache};
use std::collections::HashSet;

/// Fewest prompt tokens that are worth a segment; with more clients than a pass has room for, they
/// take turns.
const LEAST_SHARE: usize = 16;

/// Most prompt tokens of a sequence in a pass that gives the logits of all of them: `V` floats each.
const LOGITS_CHUNK: usize = 64;

/// Tokens of one sequence in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Which of the sequences.
    pub(super) index: usize,
    /// The first token.
    pub(super) start: usize,
    /// One behind the last.
    pub(super) end: usize,
    /// Of which logits are wanted.
    pub(super) wanted: Logits,
}

impl Part {
    /// Rows of logits that it gives.
    pub(super) fn rows(&self) -> usize {
        match self.wanted {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => self.end - self.start,
        }
    }
}

/// What a prompt could use of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Want {
    client: usize,
    tokens: usize,
}

/// Prompt tokens per pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunks {
    /// Beside sequences that decode.
    pub(super) mixed: usize,
    /// Where nothing decodes.
    pub(super) alone: usize,
}

/// The parts of the next pass, in the order of the sequences. `turn` grows from pass to pass.
pub(super) fn plan<M: LanguageModel>(
    model: &M,
    active: &[Active<M::Cache>],
    chunks: Chunks,
    turn: u64,
) -> Vec<Part> {
    let by_token = model.depends_on_length();
    let mut ends: Vec<usize> = active.iter().map(|a| a.cache.len()).collect();
    let mut prompts: Vec<usize> = Vec::new();
    let mut decoding = 0;
    for (index, a) in active.iter().enumerate() {
        match a.pending() {
            0 => {}
            1 => {
                ends[index] += 1;
                decoding += 1;
            }
            _ => prompts.push(index),
        }
    }
    prompts.sort_by_key(|&index| active[index].sequence.age);
    let mut computed: HashSet<BlockKey> = HashSet::new();
    prompts.retain(|&index| {
        let key = active[index].next_block(model.block_tokens());
        key.is_none_or(|key| computed.insert(key))
    });
    let wants = wants(active, &prompts, by_token);
    let budget = if decoding > 0 { chunks.mixed } else { chunks.alone };
    for (&index, tokens) in prompts.iter().zip(share(budget, &wants, turn)) {
        ends[index] += tokens;
    }
    let parts = active.iter().zip(ends).enumerate().filter_map(|(index, (a, end))| {
        let start = a.cache.len();
        let wanted = a.sequence.wanted(start, end);
        (end > start).then_some(Part { index, start, end, wanted })
    });
    parts.collect()
}

fn wants<C: SequenceCache>(active: &[Active<C>], prompts: &[usize], by_token: bool) -> Vec<Want> {
    let mut clients: Vec<&str> = Vec::new();
    let mut want = |&index: &usize| {
        let a = &active[index];
        let name = &*a.sequence.job.client;
        let client = clients.iter().position(|&client| client == name).unwrap_or_else(|| {
            clients.push(name);
            clients.len() - 1
        });
        Want { client, tokens: a.longest_part(by_token, LOGITS_CHUNK) }
    };
    prompts.iter().map(&mut want).collect()
}

/// Shares `budget` tokens: first among clients, then, in their order, among a client's prompts.
fn share(budget: usize, wants: &[Want], turn: u64) -> Vec<usize> {
    let mut totals: Vec<(usize, usize)> = Vec::new();
    for want in wants {
        match totals.iter_mut().find(|(client, _)| *client == want.client) {
            Some((_, total)) => *total += want.tokens,
            None => totals.push((want.client, want.tokens)),
        }
    }
    let clients = totals.len().min((budget / LEAST_SHARE).max(1));
    if !totals.is_empty() {
        let turn = turn % totals.len() as u64;
        totals.rotate_left(turn as usize);
    }
    totals.truncate(clients);
    totals.sort_by_key(|&(_, total)| total);
    let mut left = budget;
    for (served, (_, total)) in totals.iter_mut().enumerate() {
        *total = (*total).min(left / (clients - served));
        left -= *total;
    }
    let mut take = |want: &Want| {
        let of_client = totals.iter_mut().find(|(client, _)| *client == want.client);
        of_client.map_or(0, |(_, left)| {
            let tokens = want.tokens.min(*left);
            *left -= tokens;
            tokens
        })
    };
    wants.iter().map(&mut take).collect()
}

#[cfg(test)]
mod tests {
    use super::{Want, share};

    fn wants(wants: &[(usize, usize)]) -> Vec<Want> {
        wants.iter().map(|&(client, tokens)| Want { client, tokens }).collect()
    }

    #[test]
    fn clients_share_evenly_and_what_one_leaves_goes_to_the_others() {
        let two = wants(&[(0, 500), (0, 500), (1, 500)]);
        assert_eq!(share(64, &two, 0), [32, 0, 32]);
        let short = wants(&[(0, 500), (1, 10), (0, 500)]);
        assert_eq!(share(64, &short, 0), [54, 10, 0]);
        assert_eq!(share(600, &wants(&[(3, 500), (3, 500)]), 7), [500, 100]);
        assert!(share(64, &[], 3).is_empty());
    }

    #[test]
    fn more_clients_than_room_take_turns() {
        let many: Vec<Want> = wants(&[(0, 99), (1, 99), (2, 99)]);
        assert_eq!(share(32, &many, 0), [16, 16, 0]);
        assert_eq!(share(32, &many, 1), [0, 16, 16]);
        assert_eq!(share(32, &many, 2), [16, 0, 16]);
        assert_eq!(share(1, &many, 1), [0, 1, 0]);
    }
}
