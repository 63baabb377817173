//! Who runs: places and memory, given and taken back.

use super::Inbox;
use super::active::{Active, Memory, empty_cache, first_total};
use super::sequence::{Ended, Sequence};
use super::worker::Worker;
use crate::model::{LanguageModel, SequenceCache};
use std::sync::Arc;

impl<M: LanguageModel> Worker<M> {
    /// Takes jobs from the queue for as long as there is a place and memory for their prompts.
    pub(super) fn admit(&mut self) {
        // Sinks that learn of their start may take time, or cancel jobs. Where the scheduler stops, nothing
        // is left in the queue.
        while !self.sweep() {
            let shared = Arc::clone(&self.shared);
            let mut inbox = shared.lock();
            let places = self.options.max_sequences;
            let Some(next) = inbox.waiting.peek(places) else { return };
            let fits = self.fits(next);
            if self.active.len() >= places || !(fits || self.active.is_empty()) {
                let Some(client) = inbox.waiting.overfull(places) else { return };
                let Some(youngest) = self.youngest(Some(client)) else { return };
                self.preempt(youngest, &mut inbox);
                continue;
            }
            let Some(mut sequence) = inbox.waiting.pop(places) else { return };
            drop(inbox);
            let is_new = sequence.age.is_none();
            if is_new {
                sequence.age = Some(self.ages);
                self.ages += 1;
            }
            let mut active = Active::new(sequence, &*self.model, &mut self.memory);
            let reused = active.cache.len();
            if is_new {
                self.counts.reused_tokens += reused as u64;
                self.counts.prefix_hits += u64::from(reused > 0);
            }
            let flow = active.sequence.start(reused);
            self.active.push(active);
            if flow.is_break() {
                self.end(self.active.len() - 1, Ended::Broken);
            }
        }
    }

    /// Whether memory holds a sequence's tokens and the next one beside all that is claimed, and a block
    /// more for each sequence that runs: one that begins only to give way soon has begun for nothing.
    fn fits(&self, sequence: &Sequence<M::Cache>) -> bool {
        let cache = empty_cache(sequence, &*self.model);
        let root = self.model.share_key(&cache, first_total(sequence, &*self.model));
        let size = self.memory.block_tokens;
        let known = root.map(|root| self.memory.index.known(root, sequence.reusable(), size));
        let (_, held_already) = known.unwrap_or((0, 0));
        let tokens = sequence.tokens.len() + 1 + cache.extra_tokens();
        let needed = self.memory.blocks(tokens) - held_already;
        self.claimed() + self.active.len() + needed <= self.memory.total
    }

    /// Blocks that running sequences have or will need in the next pass.
    fn claimed(&self) -> usize {
        let own: usize = self.active.iter().map(|active| active.claim(&self.memory)).sum();
        own + self.memory.index.held()
    }

    /// The sequence that left the queue last, of one client or of all.
    fn youngest(&self, client: Option<&str>) -> Option<usize> {
        let of_client = |index: &usize| {
            client.is_none_or(|client| self.active[*index].sequence.job.client == client)
        };
        let running = (0..self.active.len()).filter(of_client);
        running.max_by_key(|&index| self.active[index].sequence.age)
    }

    /// Puts a sequence back into the queue, before the others of its client.
    fn preempt(&mut self, index: usize, inbox: &mut Inbox<M::Cache>) {
        let mut active = self.active.remove(index);
        active.release(&mut self.memory);
        let mut sequence = active.sequence;
        sequence.usage.preemptions += 1;
        self.counts.preemptions += 1;
        let client = sequence.job.client.clone();
        inbox.waiting.push_again(&client, sequence);
    }

    /// Sees to it that the next pass has memory: remembered blocks go first, then the youngest
    /// sequences. The oldest fits alone, as its length is limited to what memory holds.
    pub(super) fn make_room(&mut self) {
        while self.claimed() > self.memory.total && self.active.len() > 1 {
            let Some(youngest) = self.youngest(None) else { break };
            let shared = Arc::clone(&self.shared);
            self.preempt(youngest, &mut shared.lock());
        }
        for active in &mut self.active {
            let gained = active.reuse(&mut self.memory);
            self.counts.reused_tokens += active.sequence.count_reused(gained) as u64;
        }
        let cached = |memory: &Memory<_>| memory.index.len() - memory.index.held();
        while self.claimed() + cached(&self.memory) > self.memory.total {
            if !self.memory.index.evict() {
                break;
            }
        }
    }
}
