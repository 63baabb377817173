//! What all requests share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::config::ServerConfig;
use crate::guard::Keys;
use crate::metrics::Metrics;
use crate::model::Registry;

/// Who can reach the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    ThisMachine,
    Others,
}

/// The server's state.
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) keys: Keys,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    /// Held while a rating is written.
    pub(crate) feedback: Mutex<()>,
    draining: AtomicBool,
    open: Arc<AtomicUsize>,
    next_id: AtomicUsize,
    reach: Reach,
}

/// A request that has been accepted and is not answered to its end.
pub(crate) struct OpenRequest(Arc<AtomicUsize>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl App {
    pub(crate) fn new(config: ServerConfig, keys: Keys, registry: Registry, reach: Reach) -> Self {
        Self {
            config,
            keys,
            registry,
            metrics: Metrics::default(),
            feedback: Mutex::default(),
            draining: AtomicBool::new(false),
            open: Arc::default(),
            next_id: AtomicUsize::new(0),
            reach,
        }
    }

    /// Whether only this machine can reach the server.
    pub(crate) fn is_loopback(&self) -> bool {
        self.reach == Reach::ThisMachine
    }

    /// Accepts a request, unless the server is shutting down.
    pub(crate) fn accept(&self) -> Option<OpenRequest> {
        // Counted before the question, so that a drain that begins between both still waits.
        self.open.fetch_add(1, Ordering::SeqCst);
        let accepted = OpenRequest(Arc::clone(&self.open));
        (!self.is_draining()).then_some(accepted)
    }

    pub(crate) fn open_requests(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// An id for an answer, such as `chatcmpl-…`.
    pub(crate) fn id(&self, prefix: &str) -> String {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}{:08x}{:08x}", self.registry.since_unix_secs as u32, number)
    }
}
