//! The decoder: embedding, blocks, final norm, head.
//!
//! Weights are immutable and `&self` everywhere; what a sequence remembers is in its cache. The
//! tokens of all segments run through the matrix products together, attention looks at each
//! segment alone, and every kernel computes a row the same way whatever stands beside it: the
//! same sequence gives bitwise the same logits alone, in a batch, whole, in chunks or step by step.

mod adapted;
mod output;
mod rows;
mod tensors;
mod traffic;
mod training;
mod values;

pub use training::{Recompute, Stage, TokenRows, Trainable, TrainingPass};

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Device;
use puna_config::{DecoderConfig, RopeScaling};
use puna_kernels::{KvLayout, KvType, Output as Sum};
use puna_nn::{
    AdapterSet, Attention, Context, Embedding, FeedForward, KvCache, Linear, Pass, Precision,
    RmsNorm, Rotary, Tokens, Workspace,
};

use crate::{ModelError, Slot};
use output::{Output, Rows};

/// New tokens of one sequence.
pub struct Segment<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// What the sequence remembers; grows by the tokens.
    pub cache: &'a mut KvCache,
    /// Length of the sequence once its whole prompt is in, at least the cache's length plus the
    /// tokens. Dynamic NTK and LongRoPE choose their frequencies by it, so that a prompt given in
    /// chunks is rotated like one given whole.
    pub total_len: usize,
}

/// Which tokens' logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// Those of each segment's last token.
    Last,
    /// Those of every token.
    All,
    /// None: the tokens only go into the caches.
    None,
}

/// A LLaMA-family decoder.
#[derive(Debug)]
pub struct Decoder {
    pub(crate) config: DecoderConfig,
    pub(crate) precision: Precision,
    pub(crate) kv_layout: KvLayout,
    /// Where the layers run as tensors; `None`: on slices, with the kernels of the CPU.
    pub(crate) device: Option<Device>,
    pub(crate) embedding: Embedding,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: RmsNorm,
    pub(crate) head: Linear,
    pub(crate) global_rotary: Rotary,
    pub(crate) local_rotary: Option<Rotary>,
    /// What new caches apply to their sequences.
    pub(crate) adapters: Option<Arc<AdapterSet>>,
    /// Memory of passes that are over, for those to come.
    pub(crate) workspaces: Mutex<Vec<Buffers>>,
}

/// Memory of one forward pass.
#[derive(Default)]
pub(crate) struct Buffers {
    workspace: Workspace,
    /// The residual stream, `[N, C]`.
    x: Vec<f32>,
    normed: Vec<f32>,
    branch: Vec<f32>,
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffers({} values)", self.x.capacity())
    }
}

/// Tokens per pass when a cache is computed anew.
const REPLAY_CHUNK: usize = 512;

/// One block: attention and feed-forward, each behind a norm and in front of a residual sum.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) attn_pre_norm: RmsNorm,
    pub(crate) attention: Attention,
    pub(crate) attn_post_norm: Option<RmsNorm>,
    pub(crate) ffn_pre_norm: RmsNorm,
    pub(crate) ffn: FeedForward,
    pub(crate) ffn_post_norm: Option<RmsNorm>,
}

impl Block {
    /// Adds both branches to the residual stream `x` `[N, C]`.
    fn infer(&self, buffers: &mut Buffers, ctx: &mut Context<'_, '_>) -> Result<(), ModelError> {
        let Buffers { workspace, x, normed, branch } = buffers;
        self.attn_pre_norm.infer(x, normed)?;
        match &self.attn_post_norm {
            None => self.attention.infer(normed, Sum::Add(x), workspace, ctx)?,
            Some(norm) => {
                self.attention.infer(normed, Sum::Set(branch), workspace, ctx)?;
                add_normed(x, branch, normed, norm)?;
            }
        }
        self.ffn_pre_norm.infer(x, normed)?;
        match &self.ffn_post_norm {
            None => self.ffn.infer(normed, Sum::Add(x), workspace, ctx.pass.precision)?,
            Some(norm) => {
                self.ffn.infer(normed, Sum::Set(branch), workspace, ctx.pass.precision)?;
                add_normed(x, branch, normed, norm)?;
            }
        }
        Ok(())
    }
}

/// `x += norm(branch)`
fn add_normed(
    x: &mut [f32],
    branch: &[f32],
    normed: &mut [f32],
    norm: &RmsNorm,
) -> Result<(), ModelError> {
    norm.infer(branch, normed)?;
    x.iter_mut().zip(normed).for_each(|(x, y)| *x += *y);
    Ok(())
}

impl Decoder {
    /// The config it was built from.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// All linear layers, with their places; the head is [`Slot::Head`], tied or not.
    #[must_use]
    pub fn linears(&self) -> Vec<(Slot, &Linear)> {
        let mut all = Vec::new();
        for block in &self.blocks {
            let parts = block.attention.parts();
            all.extend([&parts.query, &parts.key, &parts.value, &parts.output]);
            match &block.ffn {
                FeedForward::Dense(mlp) => all.extend([&mlp.gate, &mlp.up, &mlp.down]),
                FeedForward::Moe(moe) => {
                    all.push(&moe.router);
                    for mlp in &moe.experts {
                        all.extend([&mlp.gate, &mlp.up, &mlp.down]);
                    }
                }
            }
        }
        all.push(&self.head);
        all.into_iter().filter_map(|linear| Some((linear.slot()?, linear))).collect()
    }

    /// The token embedding.
    #[must_use]
    pub fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// Storage of the first block's matrices, as `Weight::format_name` gives it.
    #[must_use]
    pub fn matrix_format(&self) -> &'static str {
        let query = self.blocks.first().map(|b| &b.attention.parts().query);
        query.unwrap_or(&self.head).weight().format_name()
    }

    /// An empty cache for one sequence.
    #[must_use]
    pub fn new_cache(&self) -> KvCache {
        let cache = match self.device {
            None => KvCache::new(&self.config, self.kv_layout),
            Some(_) => KvCache::of_tensors(&self.config, self.kv_layout),
        };
        cache.with_adapters(self.adapters.clone())
    }

    /// What caches made from now on apply to their sequences, unless they are told otherwise. Nothing
    /// is loaded or changed: the weights are the same for all.
    pub fn use_adapters(&mut self, adapters: Option<Arc<AdapterSet>>) {
        self.adapters = adapters;
    }

    /// What new caches apply to their sequences.
    #[must_use]
    pub fn adapters(&self) -> Option<&Arc<AdapterSet>> {
        self.adapters.as_ref()
    }

    /// The device on which the layers run as tensors; `None` where they run with the kernels of the
    /// CPU.
    #[must_use]
    pub fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    /// Whether a sequence that will have `total_len` tokens gets the same results behind this cache,
    /// filled by a sequence of another length, as behind its own: with dynamic NTK scaling the
    /// remembered keys depend on that length, with LongRoPE it chooses one of two tables.
    #[must_use]
    pub fn can_continue(&self, cache: &KvCache, total_len: usize) -> bool {
        let adapters = self.adapters.as_ref().map(Arc::as_ptr);
        cache.adapters().map(Arc::as_ptr) == adapters && self.rotates_alike(cache, total_len)
    }

    fn rotates_alike(&self, cache: &KvCache, total_len: usize) -> bool {
        match self.config.layers.global_rope.scaling {
            RopeScaling::DynamicNtk { .. } => false,
            _ => {
                let end = cache.first_position() + total_len;
                self.global_rotary.table(end) == cache.rotary_table()
            }
        }
    }

    /// What tells apart the sequences that may share blocks of keys and values: those that have the
    /// same key and begin with the same tokens. `None` where `cache` can share none: its keys depend
    /// on the length of the sequence or on later tokens, or lie elsewhere than blocks say.
    ///
    /// The key of an adapter is good for as long as something holds the adapter; blocks do.
    #[must_use]
    pub fn share_key(&self, cache: &KvCache, total_len: usize) -> Option<[usize; 2]> {
        let adapters = cache.adapters();
        if !cache.has_blocks() || adapters.is_some_and(|set| set.whole_sequence) {
            return None;
        }
        if let RopeScaling::DynamicNtk { .. } = self.config.layers.global_rope.scaling {
            return None;
        }
        let table = self.global_rotary.table(cache.first_position() + total_len);
        Some([adapters.map_or(0, |set| Arc::as_ptr(set).addr()), table as usize])
    }

    /// Bytes of a block of keys and values ([`puna_nn::KvBlock`]) over all layers; on a device the
    /// most that its tokens take, as buffers there double.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        let per_page = match self.device {
            None => self.kv_layout.page_bytes(),
            // Two bytes or four per value, of keys and of values.
            Some(_) => {
                let value = if self.precision == Precision::Exact { 4 } else { 2 };
                4 * value * puna_nn::KvBlock::TOKENS * self.kv_layout.width()
            }
        };
        self.config.num_layers * per_page
    }

    /// How caches store keys and values.
    #[must_use]
    pub fn kv_type(&self) -> KvType {
        self.kv_layout.kv_type()
    }

    /// Runs new tokens of one or more independent sequences.
    ///
    /// # Shapes
    /// Returns float32 logits, row-major `[rows, V]`: one row per segment for [`Logits::Last`],
    /// one per token for [`Logits::All`].
    ///
    /// # Errors
    /// If there are no tokens, or an id is outside the vocabulary; the caches are then as before.
    pub fn forward(
        &self,
        segments: &mut [Segment<'_>],
        logits: Logits,
    ) -> Result<Vec<f32>, ModelError> {
        let wanted = vec![logits; segments.len()];
        self.run(segments, &wanted, Output::Logits)
    }

    /// As [`Self::forward`], with rows of its own for each segment.
    ///
    /// # Shapes
    /// `wanted`: one per segment; returns `[rows, V]`, those of segment 0 first.
    ///
    /// # Errors
    /// As there.
    pub fn forward_each(
        &self,
        segments: &mut [Segment<'_>],
        wanted: &[Logits],
    ) -> Result<Vec<f32>, ModelError> {
        self.run(segments, wanted, Output::Logits)
    }

    /// Runs new tokens up to the final norm: what the head would be applied to, and what embeddings
    /// of texts are made from.
    ///
    /// # Shapes
    /// Returns `[N, C]`, a row for every token.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn final_states(&self, segments: &mut [Segment<'_>]) -> Result<Vec<f32>, ModelError> {
        let wanted = vec![Logits::All; segments.len()];
        self.run(segments, &wanted, Output::States)
    }

    fn run(
        &self,
        segments: &mut [Segment<'_>],
        wanted: &[Logits],
        output: Output,
    ) -> Result<Vec<f32>, ModelError> {
        let tokens: Vec<u32> = segments.iter().flat_map(|s| s.tokens.iter().copied()).collect();
        let empty = segments.iter().any(|s| s.tokens.is_empty());
        if tokens.is_empty() || empty || wanted.len() != segments.len() {
            return Err(ModelError::NoTokens);
        }
        for segment in segments.iter_mut() {
            self.rotate_anew(segment)?;
        }
        if segments.iter().any(|s| s.cache.adapters().is_some()) {
            return self.run_adapted(segments, wanted, output);
        }
        let rows = Rows::new(segments, wanted);
        if self.device.is_some() {
            let pass = Pass::new(self.precision);
            let x = self.hidden_states(&tokens, segments, &pass)?;
            return self.tensor_output(x, &rows, output, &pass);
        }
        let mut buffers = self.take_buffers();
        let result = self.embed(&tokens, &mut buffers).and_then(|()| {
            self.run_blocks(&mut buffers, segments)?;
            self.slice_output(&mut buffers, &rows, output)
        });
        self.give_back(buffers);
        result
    }

    fn take_buffers(&self) -> Buffers {
        let mut kept = self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        kept.pop().unwrap_or_default()
    }

    fn give_back(&self, buffers: Buffers) {
        self.workspaces.lock().unwrap_or_else(PoisonError::into_inner).push(buffers);
    }

    /// Fills the residual stream.
    fn embed(&self, tokens: &[u32], buffers: &mut Buffers) -> Result<(), ModelError> {
        let len = tokens.len() * self.config.hidden_size;
        for buffer in [&mut buffers.x, &mut buffers.normed, &mut buffers.branch] {
            buffer.resize(len, 0.0);
        }
        Ok(self.embedding.infer(tokens, &mut buffers.x)?)
    }

    /// LongRoPE rotates a whole sequence by one of two tables, chosen by its length. Where the
    /// remembered keys have the other one, they are computed anew, as the reference does.
    fn rotate_anew(&self, segment: &mut Segment<'_>) -> Result<(), ModelError> {
        let total = segment.total_len.max(segment.cache.len() + segment.tokens.len());
        let table = self.global_rotary.table(segment.cache.first_position() + total);
        if table == segment.cache.rotary_table() {
            return Ok(());
        }
        let tokens = segment.cache.tokens().to_vec();
        segment.cache.clear();
        segment.cache.set_rotary_table(table);
        for chunk in tokens.chunks(REPLAY_CHUNK) {
            let mut replay =
                [Segment { tokens: chunk, cache: &mut *segment.cache, total_len: total }];
            if self.device.is_some() || replay[0].cache.adapters().is_some() {
                let pass = self.pass_of(&replay[0]);
                self.prepare_virtual(&mut replay[0], &pass)?;
                self.hidden_states(chunk, &mut replay, &pass)?;
                continue;
            }
            let mut buffers = self.take_buffers();
            let done = self
                .embed(chunk, &mut buffers)
                .and_then(|()| self.run_blocks(&mut buffers, &mut replay));
            self.give_back(buffers);
            done?;
        }
        Ok(())
    }

    /// Runs the residual stream through all blocks.
    fn run_blocks(
        &self,
        buffers: &mut Buffers,
        segments: &mut [Segment<'_>],
    ) -> Result<(), ModelError> {
        self.with_context(segments, &Pass::new(self.precision), |ctx| {
            self.blocks.iter().try_for_each(|block| block.infer(buffers, ctx))
        })
    }

    /// Runs layers on what they share in this pass, and lets the caches remember its tokens.
    fn with_context<T>(
        &self,
        segments: &mut [Segment<'_>],
        pass: &Pass,
        run: impl FnOnce(&mut Context<'_, '_>) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        let before = pass.adapters.as_ref().map_or(0, |set| set.first_position);
        let runs: Vec<(usize, usize, usize)> = segments
            .iter()
            .map(|s| {
                let (first, len) = (before + s.cache.len(), s.tokens.len());
                (first, len, (before + s.total_len).max(first + len))
            })
            .collect();
        let global_rope = Arc::new(self.global_rotary.tables(&runs));
        let local_rope = match &self.local_rotary {
            None => Arc::clone(&global_rope),
            Some(rotary) => Arc::new(rotary.tables(&runs)),
        };
        let mut parts: Vec<puna_nn::Segment<'_>> = segments
            .iter_mut()
            .map(|s| puna_nn::Segment { len: s.tokens.len(), cache: &mut *s.cache })
            .collect();
        let mut ctx = Context {
            pass: pass.clone(),
            prefix: None,
            global_rope,
            local_rope,
            tokens: Tokens::Segments(&mut parts),
            balance: None,
        };
        let result = run(&mut ctx)?;
        for segment in segments {
            segment.cache.advance(segment.tokens);
        }
        Ok(result)
    }
}
