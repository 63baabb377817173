//! Why the server could not start, or a model could not be served.
//!
//! What a client is told is another type, `ApiError`: this one is for the person at the terminal.

use std::net::SocketAddr;
use std::path::PathBuf;

/// An error of another crate, carried whole.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The address is open to the network and nothing guards it.
    #[error("{address} is reachable from other machines, and no API key is set")]
    Unguarded {
        /// The address.
        address: SocketAddr,
    },
    /// The file of API keys could not be read.
    #[error("cannot read the API keys in {}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file of API keys holds none, or one that is too short to guard anything.
    #[error("{}, line {line}: {problem}", path.display())]
    KeyFileContent {
        /// The file.
        path: PathBuf,
        /// Counted from 1; the number of lines where no line is to blame.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// Two models have one name.
    #[error("two models are called `{name}`")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// An adapter names a model that is not served.
    #[error("adapter `{adapter}` belongs to the model `{model}`, which is not among {known}")]
    NoSuchBase {
        /// The adapter's name.
        adapter: String,
        /// The model it names.
        model: String,
        /// The models there are.
        known: String,
    },
    /// There is nothing to serve.
    #[error("no model to serve")]
    NoModel,
    /// An origin for CORS that is not one.
    #[error("`{origin}` is no origin; write it as https://example.org or http://localhost:3000")]
    Origin {
        /// As given.
        origin: String,
    },
    /// A model does not load.
    #[error("model `{name}` cannot be loaded")]
    Load {
        /// Its name.
        name: String,
        /// The loader's reason.
        source: Source,
    },
    /// A model that cannot be served once loaded.
    #[error("model `{name}` cannot be served: {problem}")]
    Unservable {
        /// Its name.
        name: String,
        /// Why.
        problem: String,
    },
    /// The runtime or a thread could not be started.
    #[error("the server's threads could not be started")]
    Runtime(#[source] std::io::Error),
}
