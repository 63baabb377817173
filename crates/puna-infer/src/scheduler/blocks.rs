//! Blocks of keys and values that sequences share, found by the tokens they were computed from.
//!
//! A node is a block behind the blocks before it: its key is a hash over the whole beginning, chained
//! block by block, and the tokens and the parent's key are compared, so that a collision is a miss and
//! not a mixture. A sequence holds the nodes of its beginning; nodes that nobody holds stay for
//! later sequences until memory is wanted, and then go in the order of their last use, the ends of
//! chains first. The alternative, whole caches compared token by token ([`crate::PrefixCache`]), can
//! part inside a block, but neither counts shared memory once nor shares with sequences that still
//! run.

use crate::model::ShareKey;
use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Names a node, and with it the whole beginning that ends there.
pub(super) type BlockKey = u64;

/// Where a chain of blocks begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Before {
    /// At the beginning of the sequences of a key.
    Root(ShareKey),
    /// Behind a block.
    Block(BlockKey),
}

struct Node<B> {
    before: Before,
    tokens: Box<[u32]>,
    block: B,
    /// Sequences that hold it.
    holders: usize,
    /// Nodes right behind it.
    children: usize,
    last_use: u64,
}

/// All nodes.
pub(super) struct BlockIndex<B> {
    nodes: HashMap<BlockKey, Node<B>>,
    /// By last use, those that nobody holds and nothing stands behind.
    free: BTreeSet<(u64, BlockKey)>,
    /// Nodes that somebody holds.
    held: usize,
    clock: u64,
}

/// The key of the block with these tokens.
pub(super) fn block_key(before: Before, tokens: &[u32]) -> BlockKey {
    let mut hasher = DefaultHasher::new();
    (before, tokens).hash(&mut hasher);
    hasher.finish()
}

impl<B: Clone> BlockIndex<B> {
    pub(super) fn new() -> Self {
        Self { nodes: HashMap::new(), free: BTreeSet::new(), held: 0, clock: 0 }
    }

    /// Blocks there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Blocks that some sequence holds.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// The block with these tokens at this place, if it is there.
    pub(super) fn find(&self, before: Before, tokens: &[u32]) -> Option<BlockKey> {
        let key = block_key(before, tokens);
        let node = self.nodes.get(&key)?;
        (node.before == before && *node.tokens == *tokens).then_some(key)
    }

    /// Blocks of the beginning of `tokens` that are there, and how many of them somebody holds.
    pub(super) fn known(&self, root: ShareKey, tokens: &[u32], size: usize) -> (usize, usize) {
        let mut before = Before::Root(root);
        let (mut known, mut held) = (0, 0);
        for part in tokens.chunks_exact(size) {
            let Some(key) = self.find(before, part) else { break };
            before = Before::Block(key);
            known += 1;
            held += usize::from(self.nodes.get(&key).is_some_and(|node| node.holders > 0));
        }
        (known, held)
    }

    /// Holds a block that is there, and gives it.
    pub(super) fn hold(&mut self, key: BlockKey) -> Option<B> {
        self.clock += 1;
        let node = self.nodes.get_mut(&key)?;
        self.free.remove(&(node.last_use, key));
        node.last_use = self.clock;
        self.held += usize::from(node.holders == 0);
        node.holders += 1;
        Some(node.block.clone())
    }

    /// Adds a block and holds it. `None` if another beginning has its key, or the block before it is
    /// not there.
    pub(super) fn insert(&mut self, before: Before, tokens: &[u32], block: B) -> Option<BlockKey> {
        let key = block_key(before, tokens);
        if self.nodes.contains_key(&key) {
            return None;
        }
        if let Before::Block(parent) = before {
            let parent_key = parent;
            let parent = self.nodes.get_mut(&parent)?;
            parent.children += 1;
            self.free.remove(&(parent.last_use, parent_key));
        }
        self.clock += 1;
        let tokens = tokens.into();
        let node = Node { before, tokens, block, holders: 1, children: 0, last_use: self.clock };
        self.nodes.insert(key, node);
        self.held += 1;
        Some(key)
    }

    /// Lets go of a block.
    pub(super) fn release(&mut self, key: BlockKey) {
        let Some(node) = self.nodes.get_mut(&key) else { return };
        node.holders = node.holders.saturating_sub(1);
        if node.holders == 0 {
            self.held -= 1;
            self.offer(key);
        }
    }

    /// Makes a node free if it is.
    fn offer(&mut self, key: BlockKey) {
        if let Some(node) = self.nodes.get(&key)
            && node.holders == 0
            && node.children == 0
        {
            self.free.insert((node.last_use, key));
        }
    }

    /// Forgets the block that was used longest ago of those that can be; `false` if none can.
    pub(super) fn evict(&mut self) -> bool {
        let Some((_, key)) = self.free.pop_first() else { return false };
        let Some(node) = self.nodes.remove(&key) else { return false };
        if let Before::Block(parent) = node.before
            && let Some(before) = self.nodes.get_mut(&parent)
        {
            before.children -= 1;
            self.offer(parent);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Before, BlockIndex};

    const ROOT: Before = Before::Root([0, 0]);

    #[test]
    fn beginnings_are_found_block_by_block_and_only_under_their_key() {
        let mut index = BlockIndex::new();
        let a = index.insert(ROOT, &[1, 2], 'a').unwrap();
        let b = index.insert(Before::Block(a), &[3, 4], 'b').unwrap();
        assert_eq!(index.insert(ROOT, &[1, 2], 'x'), None);
        assert_eq!(index.known([0, 0], &[1, 2, 3, 4, 5], 2), (2, 2));
        assert_eq!(index.known([0, 0], &[1, 2, 4, 3], 2), (1, 1));
        assert_eq!(index.known([1, 0], &[1, 2, 3, 4], 2), (0, 0));
        assert_eq!(index.find(ROOT, &[3, 4]), None, "at another place");
        assert_eq!((index.hold(b), index.len(), index.held()), (Some('b'), 2, 2));
    }

    #[test]
    fn what_nobody_holds_goes_oldest_first_and_from_the_end() {
        let mut index = BlockIndex::new();
        let a = index.insert(ROOT, &[1], 'a').unwrap();
        let b = index.insert(Before::Block(a), &[2], 'b').unwrap();
        let c = index.insert(ROOT, &[9], 'c').unwrap();
        assert!(!index.evict(), "all are held");
        [a, b, c].iter().for_each(|&key| index.release(key));
        assert_eq!((index.held(), index.len()), (0, 3));
        index.hold(a);
        index.release(a); // now `a` is the youngest; it still goes after `b`
        assert!(index.evict());
        assert_eq!(index.find(Before::Block(a), &[2]), None);
        assert!(index.evict());
        assert_eq!((index.find(ROOT, &[9]), index.find(ROOT, &[1])), (None, Some(a)));
        assert!(index.evict() && !index.evict());
        assert_eq!(index.len(), 0);
    }
}
