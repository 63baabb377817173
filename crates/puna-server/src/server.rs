//! Listening, and ending without losing what was accepted.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use crate::app::{App, Reach};
use crate::config::{Exposure, ServerConfig};
use crate::error::ServerError;
use crate::guard::{Keys, Peer};
use crate::log;
use crate::model::{KeepAlive, ModelSpec, Registry};
use crate::routes;

/// Time for a request's head, and for a connection to stay idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections at once.
const MOST_CONNECTIONS: usize = 1024;
/// Largest head of a request.
const HEAD_BYTES: usize = 64 << 10;
/// How often idle models are looked for, and how often the end of the last request.
const TICK: Duration = Duration::from_millis(50);
const IDLE_TICK: Duration = Duration::from_millis(500);
/// Time for connections to close once all requests are answered.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Checks the settings, listens and loads the first model.
    ///
    /// # Errors
    /// An address that cannot be listened on or that others can reach without a key; unreadable
    /// keys; two models of one name; a model that does not load.
    pub async fn bind(config: ServerConfig, models: Vec<ModelSpec>) -> Result<Self, ServerError> {
        let keys = match &config.api_key_file {
            Some(path) => Keys::read(path)?,
            None => Keys::default(),
        };
        for origin in &config.cors_origins {
            check_origin(origin)?;
        }
        let keep_alive = config.idle_unload.map_or(KeepAlive::Forever, KeepAlive::For);
        let registry = Registry::new(models, config.scheduler, keep_alive)?;
        let place = format!("{}:{}", config.host, config.port);
        let host = config.host.trim_start_matches('[').trim_end_matches(']');
        let listener = TcpListener::bind((host, config.port)).await;
        let listener =
            listener.map_err(|source| ServerError::Listen { address: place.clone(), source })?;
        let address = listener
            .local_addr()
            .map_err(|source| ServerError::Listen { address: place, source })?;
        let reach = if address.ip().is_loopback() { Reach::ThisMachine } else { Reach::Others };
        let is_guarded = config.api_key_file.is_some() || config.exposure == Exposure::Anywhere;
        if reach == Reach::Others && !is_guarded {
            return Err(ServerError::Unguarded { address });
        }
        registry.preload().await?;
        let app = Arc::new(App::new(config, keys, registry, reach));
        Ok(Self { listener, address, app })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is ready; then refuses new requests with 503, finishes those it has
    /// accepted and returns. What is left after the drain's time is cut off.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let router = routes::router(&self.app);
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let unloader = tokio::spawn(unload_idle(Arc::clone(&self.app)));
        let mut drained = std::pin::pin!(self.drained(shutdown));
        loop {
            let accepted = tokio::select! {
                () = &mut drained => break,
                accepted = accept(&self.listener, &places) => accepted,
            };
            let Some((stream, peer, place)) = accepted else { continue };
            let router = router.clone();
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let mut request = request.map(axum::body::Body::new);
                request.extensions_mut().insert(Peer(peer));
                router.clone().oneshot(request)
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                // A client that goes away in the middle is no news.
                let _ = connection.await;
                drop(place);
            });
        }
        unloader.abort();
        if tokio::time::timeout(CLOSE_TIMEOUT, graceful.shutdown()).await.is_err() {
            log::line("warning: some connections did not close in time");
        }
    }

    /// Ready once the server may end.
    async fn drained(&self, shutdown: impl Future<Output = ()>) {
        shutdown.await;
        self.app.drain();
        let deadline = Instant::now() + self.app.config.drain_timeout;
        while self.app.open_requests() > 0 {
            if Instant::now() >= deadline {
                let left = self.app.open_requests();
                log::line(&format!("warning: {left} requests are cut off: the drain's time is up"));
                return;
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<Accepted> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Tokens are small and should leave at once.
            let _ = stream.set_nodelay(true);
            Some((stream, peer, place))
        }
        Err(error) => {
            // Out of file descriptors: the next try may find one.
            log::line(&format!("warning: a connection could not be accepted: {error}"));
            tokio::time::sleep(TICK).await;
            None
        }
    }
}

async fn unload_idle(app: Arc<App>) {
    loop {
        tokio::time::sleep(IDLE_TICK).await;
        for name in app.registry.unload_idle().await {
            log::line(&format!("unloaded {name}"));
        }
    }
}

/// An origin is a scheme, a host and perhaps a port.
fn check_origin(origin: &str) -> Result<(), ServerError> {
    let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let is_origin = rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.contains(['/', ' ', '*', '?', '#']) && rest.is_ascii()
    });
    match origin == "*" || is_origin {
        true => Ok(()),
        false => Err(ServerError::Origin { origin: origin.to_owned() }),
    }
}

/// Serves until Ctrl-C or SIGTERM, with a runtime of its own. `ready` gets the address.
///
/// A second Ctrl-C ends at once.
///
/// # Errors
/// As [`Server::bind`].
pub fn serve(
    config: ServerConfig,
    models: Vec<ModelSpec>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(ServerError::Runtime)?;
    let served = runtime.block_on(async {
        let mut signals = Signals::new().map_err(ServerError::Runtime)?;
        let server = Server::bind(config, models).await?;
        ready(server.local_addr());
        let (first, began) = tokio::sync::oneshot::channel();
        let run = server.run(async move {
            let _ = began.await;
        });
        let mut run = std::pin::pin!(run);
        tokio::select! {
            () = &mut run => return Ok(()),
            () = signals.next() => {
                log::line("finishing what was accepted; Ctrl-C again ends at once");
                let _ = first.send(());
            }
        }
        tokio::select! {
            () = &mut run => {}
            () = signals.next() => {}
        }
        Ok(())
    });
    runtime.shutdown_timeout(CLOSE_TIMEOUT);
    served
}

/// Ctrl-C and SIGTERM.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}

#[cfg(test)]
mod tests {
    use super::check_origin;

    #[test]
    fn origins_have_no_path() {
        for origin in ["*", "http://localhost:3000", "https://example.org"] {
            assert!(check_origin(origin).is_ok(), "{origin}");
        }
        for origin in ["example.org", "https://example.org/", "https://", "https://*.example.org"] {
            assert!(check_origin(origin).is_err(), "{origin}");
        }
    }
}
