//! The models by name: loaded when first asked for, unloaded when nobody has asked for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use puna_infer::SchedulerOptions;

use super::{Engine, ModelSpec};
use crate::api_error::ApiError;
use crate::error::ServerError;
use crate::log;

/// How long a model stays after its last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepAlive {
    /// Until the server ends.
    Forever,
    /// So long after the last request.
    For(Duration),
}

/// All models that requests can name.
pub(crate) struct Registry {
    entries: Vec<Entry>,
    /// Names of models and of adapters.
    names: HashMap<String, Named>,
    options: SchedulerOptions,
    keep_alive: KeepAlive,
    pub(crate) since_unix_secs: u64,
}

#[derive(Debug, Clone)]
struct Named {
    entry: usize,
    adapter: Option<String>,
}

struct Entry {
    spec: Arc<ModelSpec>,
    engine: tokio::sync::Mutex<Option<Arc<Engine>>>,
    usage: Mutex<Use>,
}

#[derive(Debug, Clone, Copy)]
struct Use {
    last: Instant,
    keep_alive: KeepAlive,
}

/// A model that a request runs on; as long as this lives it stays loaded.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) name: String,
    pub(crate) engine: Arc<Engine>,
    pub(crate) adapter: Option<String>,
    /// What loading took, where this request caused it.
    pub(crate) load_time: Duration,
}

/// A model in memory, for `/api/ps`.
pub(crate) struct Resident {
    pub(crate) name: String,
    pub(crate) engine: Arc<Engine>,
    /// When it will be unloaded; `None`: never.
    pub(crate) expires_in: Option<Duration>,
}

impl Registry {
    pub(crate) fn new(
        specs: Vec<ModelSpec>,
        options: SchedulerOptions,
        keep_alive: KeepAlive,
    ) -> Result<Self, ServerError> {
        let mut names = HashMap::new();
        for (entry, spec) in specs.iter().enumerate() {
            let adapters = spec.adapters.iter().map(|name| (name, Some(name.clone())));
            for (name, adapter) in std::iter::once((&spec.name, None)).chain(adapters) {
                if names.insert(name.clone(), Named { entry, adapter }).is_some() {
                    return Err(ServerError::NameTaken { name: name.clone() });
                }
            }
        }
        if specs.is_empty() {
            return Err(ServerError::NoModel);
        }
        let fresh = |spec| Entry {
            spec: Arc::new(spec),
            engine: tokio::sync::Mutex::new(None),
            usage: Mutex::new(Use { last: Instant::now(), keep_alive }),
        };
        let entries = specs.into_iter().map(fresh).collect();
        let since_unix_secs = crate::clock::unix_secs();
        Ok(Self { entries, names, options, keep_alive, since_unix_secs })
    }

    /// Names of models and adapters, models first, in the order they were given.
    pub(crate) fn names(&self) -> Vec<&str> {
        let models = self.entries.iter().map(|entry| entry.spec.name.as_str());
        let adapters = self.entries.iter().flat_map(|e| e.spec.adapters.iter().map(String::as_str));
        models.chain(adapters).collect()
    }

    /// The name of the model that a name belongs to, and whether there is such a name.
    pub(crate) fn base_of(&self, name: &str) -> Option<&str> {
        let named = self.names.get(name)?;
        Some(self.entries[named.entry].spec.name.as_str())
    }

    /// The name of the first model.
    pub(crate) fn first(&self) -> &str {
        self.entries.first().map_or("", |entry| entry.spec.name.as_str())
    }

    /// The model of a name, loading it if it is not in memory.
    pub(crate) async fn open(&self, name: &str) -> Result<Opened, ApiError> {
        let named = self
            .names
            .get(name)
            .ok_or_else(|| ApiError::model_not_found(name, &self.names().join(", ")))?
            .clone();
        let entry = &self.entries[named.entry];
        let mut slot = entry.engine.lock().await;
        entry.touch();
        let (engine, load_time) = match &*slot {
            Some(engine) => (Arc::clone(engine), Duration::ZERO),
            None => {
                let started = Instant::now();
                let engine = Arc::new(self.load(entry).await.map_err(|error| {
                    log::line(&format!("error: {}", log::chain(&error)));
                    ApiError::unavailable(
                        format!("the model `{name}` cannot be loaded; the server's log says why"),
                        "model_not_loaded",
                    )
                })?);
                *slot = Some(Arc::clone(&engine));
                (engine, started.elapsed())
            }
        };
        drop(slot);
        Ok(Opened { name: name.to_owned(), engine, adapter: named.adapter, load_time })
    }

    /// Loads the first model, so that the first request need not wait.
    pub(crate) async fn preload(&self) -> Result<(), ServerError> {
        let Some(entry) = self.entries.first() else { return Err(ServerError::NoModel) };
        let mut slot = entry.engine.lock().await;
        if slot.is_none() {
            *slot = Some(Arc::new(self.load(entry).await?));
        }
        entry.touch();
        Ok(())
    }

    async fn load(&self, entry: &Entry) -> Result<Engine, ServerError> {
        let spec = Arc::clone(&entry.spec);
        let options = self.options;
        let loaded = tokio::task::spawn_blocking(move || {
            let name = spec.name.clone();
            let served =
                (spec.load)().map_err(|source| ServerError::Load { name: name.clone(), source })?;
            Engine::start(&name, served, options)
        });
        let name = entry.spec.name.clone();
        loaded.await.unwrap_or_else(|_| {
            let problem = "its loader panicked".to_owned();
            Err(ServerError::Unservable { name, problem })
        })
    }

    /// Says how long a model stays from now on; `None` is the server's own setting.
    pub(crate) fn keep(&self, name: &str, keep_alive: Option<KeepAlive>) {
        let Some(named) = self.names.get(name) else { return };
        let mut used = self.entries[named.entry].used();
        used.keep_alive = keep_alive.unwrap_or(self.keep_alive);
        used.last = Instant::now();
    }

    /// Unloads what nobody has used for its time. Returns the names.
    pub(crate) async fn unload_idle(&self) -> Vec<String> {
        let mut unloaded = Vec::new();
        for entry in &self.entries {
            let used = *entry.used();
            let KeepAlive::For(time) = used.keep_alive else { continue };
            // Whoever holds the lock is loading or asking: not idle.
            let Ok(mut slot) = entry.engine.try_lock() else { continue };
            let in_use = slot.as_ref().is_none_or(|engine| Arc::strong_count(engine) > 1);
            if in_use {
                if slot.is_some() {
                    entry.touch();
                }
                continue;
            }
            if used.last.elapsed() < time {
                continue;
            }
            let engine = slot.take();
            unloaded.push(entry.spec.name.clone());
            // Waits for the scheduler's thread and gives back memory: not on this thread.
            let _ = tokio::task::spawn_blocking(move || drop(engine)).await;
        }
        unloaded
    }

    /// The models in memory.
    pub(crate) async fn resident(&self) -> Vec<Resident> {
        let mut list = Vec::new();
        for entry in &self.entries {
            let used = *entry.used();
            if let Some(engine) = &*entry.engine.lock().await {
                let expires_in = match used.keep_alive {
                    KeepAlive::Forever => None,
                    KeepAlive::For(time) => Some(time.saturating_sub(used.last.elapsed())),
                };
                let (name, engine) = (entry.spec.name.clone(), Arc::clone(engine));
                list.push(Resident { name, engine, expires_in });
            }
        }
        list
    }
}

impl Entry {
    fn used(&self) -> std::sync::MutexGuard<'_, Use> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        self.used().last = Instant::now();
    }
}
