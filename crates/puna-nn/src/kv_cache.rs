//! Keys and values of one sequence, per layer, in pages of 64 positions.
//!
//! Page `p` of a layer holds the positions from `64 p` on. Pages are shared: a clone of a cache (a
//! beam, another completion, a remembered beginning) costs a counter per page, and only the page
//! that is written next is copied, if others hold it too. A sliding-window layer drops the pages
//! that no query will see again. The alternative, one buffer per layer (a ring where there is a
//! window), copied everything for each fork (`docs/decisions/0006-paged-kv-cache.md`).
//!
//! The cache is an argument of the forward pass, never part of a layer, so one copy of the weights
//! serves any number of sequences.

mod block;

pub use block::KvBlock;

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use puna_config::{DecoderConfig, LayerKind};
use puna_kernels::{KV_PAGE, KvLayout, KvPage, KvView, for_each_chunk_mut};

use crate::kv_tensors::{KeptAs, TensorLayer};
use crate::{AdapterSet, NnError};

/// What a sequence remembers. Cloning it shares the pages.
#[derive(Debug, Clone)]
pub struct KvCache {
    layout: KvLayout,
    /// In pages, for layers that run on slices.
    layers: Vec<LayerCache>,
    /// In tensors, for layers that run on a device; one of the two is empty.
    tensors: Vec<TensorLayer>,
    tokens: Vec<u32>,
    table: RotaryTable,
    /// Keys before the first token that belong to no token: an adapter's.
    virtual_len: usize,
    adapters: Option<Arc<AdapterSet>>,
}

/// Which rotary table the remembered keys were rotated with; only LongRoPE has a second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryTable {
    /// The only one, or LongRoPE's for short sequences.
    Short,
    /// LongRoPE's for long sequences.
    Long,
}

#[derive(Debug, Clone)]
struct LayerCache {
    /// Those that a window has passed are absent.
    pages: Vec<Option<Arc<KvPage>>>,
    window: Option<usize>,
}

impl KvCache {
    /// An empty cache for a decoder.
    #[must_use]
    pub fn new(config: &DecoderConfig, layout: KvLayout) -> Self {
        let window = |layer| match config.layers.kind(layer) {
            LayerKind::Global => None,
            LayerKind::Local { window } => Some(window),
        };
        let layers = (0..config.num_layers)
            .map(|layer| LayerCache { pages: Vec::new(), window: window(layer) })
            .collect();
        let tensors = Vec::new();
        Self {
            layout,
            layers,
            tensors,
            tokens: Vec::new(),
            table: RotaryTable::Short,
            virtual_len: 0,
            adapters: None,
        }
    }

    /// An empty cache for a decoder whose layers run as tensors; keys and values have the type of
    /// its products.
    #[must_use]
    pub fn of_tensors(config: &DecoderConfig, layout: KvLayout) -> Self {
        let tensors = vec![TensorLayer::default(); config.num_layers];
        Self { layers: Vec::new(), tensors, ..Self::new(config, layout) }
    }

    /// An empty cache for sequences that some adapters are applied to.
    #[must_use]
    pub fn with_adapters(mut self, adapters: Option<Arc<AdapterSet>>) -> Self {
        self.clear();
        self.virtual_len = 0;
        self.adapters = adapters;
        self
    }

    /// What is applied to the sequence.
    #[must_use]
    pub fn adapters(&self) -> Option<&Arc<AdapterSet>> {
        self.adapters.as_ref()
    }

    /// Position of the first token.
    #[must_use]
    pub fn first_position(&self) -> usize {
        self.adapters.as_ref().map_or(0, |set| set.first_position)
    }

    /// Keys that a layer remembers: those of the tokens, and an adapter's before them.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.virtual_len + self.tokens.len()
    }

    /// Says how many of an adapter's keys there are before the first token.
    pub fn set_virtual_len(&mut self, len: usize) {
        self.virtual_len = len;
    }

    /// Makes what the tokens that are remembered have left keys of an adapter.
    pub fn forget_tokens_as_virtual(&mut self) {
        self.virtual_len += self.tokens.len();
        self.tokens.clear();
    }

    /// Whether the layers are to write an adapter's `len` keys before those of the first token.
    pub(crate) fn wants_prefix(&self, len: usize) -> bool {
        self.is_empty() && self.virtual_len == len && len > 0
    }

    /// Whether layers keep keys and values in pages, not in tensors.
    pub(crate) fn is_paged(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Tokens remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The remembered tokens.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The rotary table of the remembered keys.
    #[must_use]
    pub fn rotary_table(&self) -> RotaryTable {
        self.table
    }

    /// Says which rotary table the next keys are rotated with.
    pub fn set_rotary_table(&mut self, table: RotaryTable) {
        self.table = table;
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Bytes of the pages this cache holds; pages shared with others count in each.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let pages = self.layers.iter().flat_map(|layer| layer.pages.iter().flatten());
        let tensors = self.tensors.iter().map(TensorLayer::bytes);
        pages.map(|page| page.bytes()).chain(tensors).sum()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.layers.iter_mut().for_each(|layer| layer.pages.clear());
        self.tensors.iter_mut().for_each(TensorLayer::clear);
    }

    /// Goes back to the first `len` tokens; does nothing if there are not more.
    ///
    /// # Errors
    /// If a sliding-window layer has dropped positions that the next token would see.
    pub fn truncate(&mut self, len: usize) -> Result<(), NnError> {
        if len >= self.len() {
            return Ok(());
        }
        if len == 0 {
            // An adapter's keys too: a window may have dropped some, and they are written anew.
            self.clear();
            return Ok(());
        }
        for layer in &self.layers {
            let oldest = layer.oldest();
            if oldest > layer.oldest_seen(self.virtual_len + len) {
                return Err(NnError::CacheDropped { len, oldest });
            }
        }
        for layer in &mut self.layers {
            // What is left of the last page's later slots is overwritten before a query sees it.
            layer.pages.truncate((self.virtual_len + len).div_ceil(KV_PAGE));
        }
        self.tokens.truncate(len);
        Ok(())
    }

    /// Remembers tokens, once every layer has written their keys and values.
    pub fn advance(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Writes the keys and values of new tokens of one layer behind the remembered ones.
    ///
    /// # Shapes
    /// `k`, `v` `[T, K·D]`
    pub(crate) fn write(&mut self, layer: usize, k: &[f32], v: &[f32]) {
        self.write_at(layer, self.positions(), k, v);
    }

    /// As [`Self::write`], from key `first` on.
    pub(crate) fn write_at(&mut self, layer: usize, first: usize, k: &[f32], v: &[f32]) {
        self.layers[layer].write(self.layout, first, k, v);
    }

    /// As [`Self::write`] for a layer that runs as tensors; returns all keys and values.
    ///
    /// # Shapes
    /// `k`, `v` `[K, T, D]` → `[K, S, D]` each
    pub(crate) fn append(
        &mut self,
        layer: usize,
        (k, v): (&Tensor, &Tensor),
    ) -> Result<(Tensor, Tensor), NnError> {
        let first = self.positions();
        self.append_at(layer, first, (k, v))
    }

    /// As [`Self::append`], from key `first` on.
    pub(crate) fn append_at(
        &mut self,
        layer: usize,
        first: usize,
        (k, v): (&Tensor, &Tensor),
    ) -> Result<(Tensor, Tensor), NnError> {
        self.tensor_layer(layer)?.append(first, k, v)
    }

    /// Buffers of a layer that runs as tensors, in which `tokens` positions behind the remembered ones
    /// may be written.
    ///
    /// # Shapes
    /// `[K, capacity, D]` each
    pub(crate) fn room(
        &mut self,
        layer: usize,
        tokens: usize,
        like: &KeptAs<'_>,
    ) -> Result<(&Tensor, &Tensor), NnError> {
        let first = self.positions();
        self.tensor_layer(layer)?.room(first, first + tokens, like)
    }

    fn tensor_layer(&mut self, layer: usize) -> Result<&mut TensorLayer, NnError> {
        let got = self.tensors.len();
        let what = "layers of the tensor cache";
        self.tensors.get_mut(layer).ok_or(NnError::Shape { what, expected: layer + 1, got })
    }

    /// A layer's keys and values.
    pub(crate) fn view(&self, layer: usize) -> KvView<'_> {
        KvView { layout: self.layout, pages: &self.layers[layer].pages }
    }
}

impl LayerCache {
    /// The oldest position that the query at `position` sees.
    fn oldest_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The oldest position that is still there.
    fn oldest(&self) -> usize {
        self.pages.iter().take_while(|page| page.is_none()).count() * KV_PAGE
    }

    fn write(&mut self, layout: KvLayout, first: usize, k: &[f32], v: &[f32]) {
        let width = layout.width();
        let end = first + k.len() / width;
        let passed = self.oldest_seen(first) / KV_PAGE;
        for page in self.pages.iter_mut().take(passed).rev().take_while(|page| page.is_some()) {
            *page = None;
        }
        while self.pages.len() < end.div_ceil(KV_PAGE) {
            self.pages.push(Some(Arc::new(KvPage::new(layout))));
        }
        let first_page = first / KV_PAGE;
        let write = |index: usize, page: &mut Option<Arc<KvPage>>| {
            let Range { start, end } = part(index, first..end);
            let values = (start - first) * width..(end - first) * width;
            if let Some(page) = page {
                let page = Arc::make_mut(page);
                page.write(start - index * KV_PAGE, &k[values.clone()], &v[values]);
            }
        };
        let pages = &mut self.pages[first_page..end.div_ceil(KV_PAGE)];
        for_each_chunk_mut(pages, 1, |i, page| write(first_page + i, &mut page[0]));
    }
}

/// The positions of a range that lie in a page.
fn part(page: usize, positions: Range<usize>) -> Range<usize> {
    positions.start.max(page * KV_PAGE)..positions.end.min((page + 1) * KV_PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_kernels::{AttentionMask, AttentionShape, KvType, ScoreTransform, attention};

    pub(super) const WIDTH: usize = 2;

    fn layout() -> KvLayout {
        KvLayout::new(KvType::F32, WIDTH, 1).unwrap()
    }

    fn rows(positions: Range<usize>) -> Vec<f32> {
        positions.flat_map(|p| [p as f32, -(p as f32)]).collect()
    }

    fn layer(window: Option<usize>) -> LayerCache {
        LayerCache { pages: Vec::new(), window }
    }

    pub(super) fn cache(windows: &[Option<usize>]) -> KvCache {
        let layers = windows.iter().map(|&window| layer(window)).collect();
        let (tensors, tokens, table) = (Vec::new(), Vec::new(), RotaryTable::Short);
        let (virtual_len, adapters) = (0, None);
        KvCache { layout: layout(), layers, tensors, tokens, table, virtual_len, adapters }
    }

    /// Writes tokens whose keys and values are their positions.
    pub(super) fn extend(cache: &mut KvCache, tokens: usize) {
        let positions = cache.len()..cache.len() + tokens;
        for layer in 0..cache.layers.len() {
            cache.write(layer, &rows(positions.clone()), &rows(positions.clone()));
        }
        cache.advance(&vec![0; tokens]);
    }

    /// The value at one position: what a query sees that sees nothing else.
    pub(super) fn value(layer: &LayerCache, position: usize) -> [f32; WIDTH] {
        let view = KvView { layout: layout(), pages: &layer.pages };
        let shape = AttentionShape { heads: WIDTH, kv_heads: WIDTH, head_dim: 1 };
        let mask = AttentionMask { first_position: position, window: Some(1) };
        let mut out = [0.0; WIDTH];
        let scores = ScoreTransform { scale: 1.0, softcap: None };
        attention(&[1.0; WIDTH], &view, &shape, &mask, &scores, &mut out);
        out
    }

    #[test]
    fn a_window_keeps_what_the_first_new_query_sees_and_drops_older_pages() {
        let mut layer = layer(Some(3));
        for position in 0..300 {
            let row = rows(position..position + 1);
            layer.write(layout(), position, &row, &row);
            for p in position.saturating_sub(2)..=position {
                assert_eq!(value(&layer, p), [p as f32, -(p as f32)]);
            }
            let held = layer.pages.iter().flatten().count();
            assert!(held <= 2, "{held} pages at {position}");
        }
    }

    #[test]
    fn a_long_chunk_keeps_the_window_of_its_first_query() {
        let mut layer = layer(Some(40));
        layer.write(layout(), 0, &rows(0..70), &rows(0..70));
        layer.write(layout(), 70, &rows(70..270), &rows(70..270));
        for p in 31..270 {
            assert_eq!(value(&layer, p), [p as f32, -(p as f32)], "position {p}");
        }
    }

    #[test]
    fn a_clone_shares_pages_until_one_is_written() {
        let mut one = cache(&[None]);
        extend(&mut one, 100);
        let mut other = one.clone();
        let shared = |a: &KvCache, b: &KvCache, page: usize| {
            let pages = [a, b].map(|cache| cache.layers[0].pages[page].clone().unwrap());
            Arc::ptr_eq(&pages[0], &pages[1])
        };
        assert!(shared(&one, &other, 0) && shared(&one, &other, 1));
        other.write(0, &[7.0; WIDTH], &[7.0; WIDTH]);
        other.advance(&[0]);
        assert!(shared(&one, &other, 0) && !shared(&one, &other, 1));
        extend(&mut one, 1);
        assert_eq!(value(&one.layers[0], 100), [100.0, -100.0]);
        assert_eq!(value(&other.layers[0], 100), [7.0, 7.0]);
        assert_eq!(value(&other.layers[0], 99), [99.0, -99.0]);
        assert_eq!(one.bytes(), 2 * layout().page_bytes());
    }

    #[test]
    fn going_back_frees_pages_and_is_refused_where_a_window_has_passed() {
        let mut whole = cache(&[None]);
        extend(&mut whole, 200);
        whole.truncate(64).unwrap();
        assert_eq!((whole.len(), whole.bytes()), (64, layout().page_bytes()));
        extend(&mut whole, 3);
        assert_eq!(value(&whole.layers[0], 65), [65.0, -65.0]);

        let mut mixed = cache(&[None, Some(10)]);
        extend(&mut mixed, 200);
        extend(&mut mixed, 1);
        // The query at 200 sees 191: pages from position 128 on are left, which 137 sees first.
        assert!(matches!(mixed.truncate(136), Err(NnError::CacheDropped { oldest: 128, .. })));
        mixed.truncate(137).unwrap();
        extend(&mut mixed, 1);
        assert_eq!(value(&mixed.layers[1], 137), [137.0, -137.0]);
        assert_eq!(value(&mixed.layers[1], 128), [128.0, -128.0]);
        mixed.truncate(0).unwrap();
        assert_eq!((mixed.len(), mixed.bytes()), (0, 0));
    }
}
