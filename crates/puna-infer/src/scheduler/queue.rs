//! Who is next: deficit round robin over clients (Shreedhar and Varghese 1995), in tokens.
//!
//! A client that is passed gets a quantum; its oldest job is taken once the client has saved what the
//! job's prompt costs. New tokens are charged as they come, since nobody knows their number before, so
//! a client whose sequences run long waits longer for the next. The debt of a client with no job left
//! is forgiven.

use std::collections::VecDeque;

/// Tokens that a client gets each time it is passed.
const QUANTUM: i64 = 256;

/// Jobs that wait, by client.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    /// Those that have jobs, waiting or running. None is there twice.
    clients: Vec<Client<T>>,
    /// The client to be looked at next.
    at: usize,
    len: usize,
}

#[derive(Debug)]
struct Client<T> {
    name: String,
    /// With what each costs.
    waiting: VecDeque<(T, usize)>,
    running: usize,
    /// Tokens that the client has saved.
    deficit: i64,
}

impl<T> FairQueue<T> {
    pub(super) fn new() -> Self {
        Self { clients: Vec::new(), at: 0, len: 0 }
    }

    /// Jobs that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Puts a job that will cost `tokens` behind its client's others.
    pub(super) fn push(&mut self, client: &str, job: T, tokens: usize) {
        self.len += 1;
        self.client(client).waiting.push_back((job, tokens));
    }

    /// Puts a job that ran and was paid for before all others of its client.
    pub(super) fn push_again(&mut self, client: &str, job: T) {
        self.len += 1;
        let client = self.client(client);
        client.running = client.running.saturating_sub(1);
        client.waiting.push_front((job, 0));
    }

    fn client(&mut self, name: &str) -> &mut Client<T> {
        let index = self.clients.iter().position(|client| client.name == name);
        let index = index.unwrap_or_else(|| {
            let (name, waiting) = (name.to_string(), VecDeque::new());
            self.clients.push(Client { name, waiting, running: 0, deficit: 0 });
            self.clients.len() - 1
        });
        &mut self.clients[index]
    }

    /// The client whose turn it is, of those with fewer than their share of `places`; of all, if none
    /// has.
    fn turn(&mut self, places: usize) -> Option<usize> {
        let share = places.div_ceil(self.clients.len().max(1));
        let below = |client: &Client<T>| !client.waiting.is_empty() && client.running < share;
        let any_below = self.clients.iter().any(below);
        if self.len == 0 {
            return None;
        }
        loop {
            self.at %= self.clients.len();
            let client = &mut self.clients[self.at];
            if let Some((_, tokens)) = client.waiting.front()
                && (!any_below || client.running < share)
            {
                if client.deficit >= i64::try_from(*tokens).unwrap_or(i64::MAX) {
                    return Some(self.at);
                }
                client.deficit = client.deficit.saturating_add(QUANTUM);
            }
            self.at += 1;
        }
    }

    /// The job that is next.
    pub(super) fn peek(&mut self, places: usize) -> Option<&T> {
        let turn = self.turn(places)?;
        self.clients[turn].waiting.front().map(|(job, _)| job)
    }

    /// Takes the job that is next; it runs until [`Self::ended`] or [`Self::push_again`].
    pub(super) fn pop(&mut self, places: usize) -> Option<T> {
        let turn = self.turn(places)?;
        let client = &mut self.clients[turn];
        let (job, tokens) = client.waiting.pop_front()?;
        client.deficit = client.deficit.saturating_sub_unsigned(tokens as u64);
        client.running += 1;
        self.len -= 1;
        Some(job)
    }

    /// The client that should give up a place to the job that is next: the one that has most, if it
    /// has two more than the job's client has.
    pub(super) fn overfull(&mut self, places: usize) -> Option<&str> {
        let turn = self.turn(places)?;
        let largest = self.clients.iter().max_by_key(|client| client.running)?;
        (largest.running >= self.clients[turn].running + 2).then_some(&*largest.name)
    }

    /// Charges a client for new tokens.
    pub(super) fn charge(&mut self, client: &str, tokens: usize) {
        if let Some(client) = self.clients.iter_mut().find(|c| c.name == client) {
            client.deficit = client.deficit.saturating_sub_unsigned(tokens as u64);
        }
    }

    /// A running job of a client has ended.
    pub(super) fn ended(&mut self, client: &str) {
        if let Some(client) = self.clients.iter_mut().find(|c| c.name == client) {
            client.running = client.running.saturating_sub(1);
        }
        self.forget_idle();
    }

    /// Takes the waiting jobs that `wanted` says.
    pub(super) fn remove(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for client in &mut self.clients {
            for (job, tokens) in std::mem::take(&mut client.waiting) {
                match wanted(&job) {
                    true => removed.push(job),
                    false => client.waiting.push_back((job, tokens)),
                }
            }
        }
        self.len -= removed.len();
        self.forget_idle();
        removed
    }

    fn forget_idle(&mut self) {
        self.clients.retain(|client| client.running > 0 || !client.waiting.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::FairQueue;

    fn drain(queue: &mut FairQueue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.pop(usize::MAX)).collect()
    }

    #[test]
    fn clients_take_turns_by_tokens_and_not_by_jobs() {
        let mut queue = FairQueue::new();
        for job in ["a1", "a2", "a3", "a4"] {
            queue.push("a", job, 256);
        }
        queue.push("b", "b1", 512);
        queue.push("b", "b2", 512);
        assert_eq!(drain(&mut queue), ["a1", "a2", "b1", "a3", "a4", "b2"]);
    }

    #[test]
    fn tokens_charged_later_count() {
        let mut queue = FairQueue::new();
        queue.push("a", "a1", 1);
        assert_eq!(queue.pop(4), Some("a1"));
        queue.charge("a", 4 * 256);
        queue.push("a", "a2", 1);
        for job in ["b1", "b2", "b3"] {
            queue.push("b", job, 256);
        }
        assert_eq!(drain(&mut queue), ["b1", "b2", "b3", "a2"]);
    }

    #[test]
    fn a_client_below_its_share_of_places_comes_first_and_may_ask_for_one() {
        let mut queue = FairQueue::new();
        for job in ["a1", "a2", "a3", "a4", "a5"] {
            queue.push("a", job, 1);
        }
        (0..4).for_each(|_| assert!(queue.pop(4).is_some()));
        assert_eq!(queue.overfull(4), None, "nobody else waits");
        queue.push("b", "b1", 100_000);
        assert_eq!(queue.overfull(4), Some("a"));
        queue.push_again("a", "a4");
        assert_eq!(queue.pop(4), Some("b1"));
        queue.push("b", "b2", 1);
        assert_eq!(queue.overfull(4), Some("a"), "three against one");
        queue.push_again("a", "a3");
        assert_eq!(queue.pop(4), Some("b2"));
        assert_eq!(queue.overfull(4), None);
        queue.ended("a");
        assert_eq!((queue.pop(4), queue.len()), (Some("a3"), 2));
    }

    #[test]
    fn jobs_leave_the_queue_and_clients_without_jobs_are_forgotten() {
        let mut queue = FairQueue::new();
        queue.push("a", "a1", 9);
        queue.push("b", "b1", 9);
        assert_eq!(queue.remove(|job| *job == "a1"), ["a1"]);
        assert_eq!((queue.len(), queue.clients.len()), (1, 1));
        assert_eq!(queue.pop(1), Some("b1"));
        queue.ended("b");
        assert!(queue.clients.is_empty() && queue.pop(1).is_none());
    }
}
