//! A loaded model as the endpoints see it: scheduler, tokenizer, template, grammar.

mod grammar;
mod registry;

use std::sync::{Arc, OnceLock};

use puna_infer::{
    EmbedOptions, GenerationConfig, InferError, LanguageModel, Scheduler, SchedulerOptions,
};
use puna_model::{Decoder, KvCache};
use puna_nn::AdapterSet;
use puna_text::{ChatTemplate, Tokenizer};
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};

use crate::api_error::ApiError;
use crate::error::{ServerError, Source};
pub(crate) use grammar::{Grammar, GrammarSide};
pub(crate) use registry::{KeepAlive, Opened, Registry, Resident};

/// What a loader returns.
pub struct Served {
    /// The weights.
    pub decoder: Arc<Decoder>,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// How conversations become prompts; without it their contents are joined by blank lines.
    pub template: Option<ChatTemplate>,
    /// What the checkpoint recommends.
    pub generation: GenerationConfig,
    /// Ids that end a sequence.
    pub eos: Vec<u32>,
    /// What `/api/show` and `/api/tags` tell.
    pub facts: ModelFacts,
    /// Adapters by the name they are served under.
    pub adapters: Vec<(String, Arc<AdapterSet>)>,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// What a model is, for those who list it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// Architecture, such as `llama`.
    pub family: String,
    /// `safetensors`, `pytorch`, `meta` or `gguf`.
    pub format: String,
    /// Trained values.
    pub parameters: u64,
    /// How most weights are stored.
    pub quantization: String,
    /// Bytes of the weights.
    pub size_bytes: u64,
}

/// Loads a model; called when it is first asked for, and again after it was unloaded.
pub type Loader = Box<dyn Fn() -> Result<Served, Source> + Send + Sync>;

/// A model to serve.
pub struct ModelSpec {
    /// The name that requests give.
    pub name: String,
    /// How to load it.
    pub load: Loader,
    /// Names of the adapters it comes with; each is a model of its own to clients.
    pub adapters: Vec<String>,
}

impl std::fmt::Debug for ModelSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelSpec").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A model in memory.
pub(crate) struct Engine {
    pub(crate) served: Served,
    pub(crate) scheduler: Scheduler,
    /// Tokens that a sequence may have.
    pub(crate) context_tokens: usize,
    pub(crate) tool_format: Option<crate::tools::Format>,
    pub(crate) embeddings: EmbeddingLine,
    grammar: OnceLock<Result<GrammarSide, String>>,
}

/// Where requests for embeddings stand in line, beside the scheduler's queue: one text at a time, in
/// the order of asking, so that many texts of one request do not keep another's from their turn.
pub(crate) struct EmbeddingLine {
    /// Requests that may stand in it.
    places: Semaphore,
    turn: Mutex<()>,
}

impl EmbeddingLine {
    fn new(places: usize) -> Self {
        Self { places: Semaphore::new(places.min(Semaphore::MAX_PERMITS)), turn: Mutex::new(()) }
    }

    /// A place, for all texts of a request; `None` if the line is full.
    pub(crate) fn enter(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }

    /// The turn of one text.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

impl Engine {
    /// Starts a scheduler over loaded weights.
    pub(crate) fn start(
        name: &str,
        served: Served,
        options: SchedulerOptions,
    ) -> Result<Self, ServerError> {
        let unservable =
            |problem: String| ServerError::Unservable { name: name.to_owned(), problem };
        let embeddings = EmbeddingLine::new(options.queue_length.saturating_add(1));
        let model_context = LanguageModel::max_seq_len(&*served.decoder);
        let scheduler = Scheduler::start(Arc::clone(&served.decoder), options)
            .map_err(|error| unservable(error.to_string()))?;
        let context_tokens = match scheduler.stats().context_tokens {
            0 => model_context,
            known => known.min(model_context),
        };
        let tool_format = served
            .template
            .as_ref()
            .and_then(|template| crate::tools::Format::of(template, &served.tokenizer));
        let grammar = OnceLock::new();
        Ok(Self { served, scheduler, context_tokens, tool_format, embeddings, grammar })
    }

    /// The side of the tokenizer that grammars need, made when first asked for.
    pub(crate) fn grammar_side(&self) -> Result<&GrammarSide, String> {
        let made = self.grammar.get_or_init(|| {
            GrammarSide::new(
                &self.served.tokenizer,
                &self.served.eos,
                self.served.decoder.config().vocab_size,
            )
        });
        made.as_ref().map_err(Clone::clone)
    }

    /// A text's vector: its hidden states behind the final norm, averaged and of length 1.
    pub(crate) fn embed(&self, ids: &[u32], cache: Option<KvCache>) -> Result<Vec<f32>, ApiError> {
        let decoder = &*self.served.decoder;
        let cache = || cache.clone().unwrap_or_else(|| decoder.new_cache());
        let vectors = puna_infer::embed(decoder, &[ids.to_vec()], &EmbedOptions::default(), cache);
        let mut vectors = vectors.map_err(|error| match error {
            InferError::Model(_) => ApiError::internal("the model failed"),
            error => ApiError::invalid(error.to_string()),
        })?;
        Ok(vectors.pop().unwrap_or_default())
    }

    /// The empty cache of a sequence with an adapter.
    pub(crate) fn cache(&self, adapter: Option<&str>) -> Option<KvCache> {
        let set = self.served.adapters.iter().find(|(name, _)| Some(name.as_str()) == adapter)?;
        Some(self.served.decoder.new_cache().with_adapters(Some(Arc::clone(&set.1))))
    }
}
