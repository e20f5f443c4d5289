//! Sockets: accepting, limits of time and number, and a graceful end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{interval, sleep, timeout};

use crate::limits::{CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADER_TIME_MAX, HEADERS_MAX};
use crate::metrics::TIDY_EVERY;
use crate::server::Server;
use crate::stall::StallGuard;

/// A machine that was switched off says nothing: silence is probed, so that the request of its
/// client ends some time.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// How often the worker's health is looked at.
const HEALTH_EVERY: Duration = Duration::from_millis(100);
/// Time for the last words of answers that the end of the server cut off.
const FAREWELL: Duration = Duration::from_secs(2);
/// Pause after a connection that could not be accepted, as when all file descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A path in the file system.
    #[cfg(unix)]
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Listener {
    /// Listens on an address.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::Tcp)
    }

    /// The address of a TCP listener.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Tokens are small and must not wait for one another.
                stream.set_nodelay(true)?;
                let keep_alive = TcpKeepalive::new().with_time(PROBE_AFTER);
                let keep_alive = keep_alive.with_interval(PROBE_EVERY);
                SockRef::from(&stream).set_tcp_keepalive(&keep_alive)?;
                Ok(Stream::Tcp(stream))
            }
            #[cfg(unix)]
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// Why a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was asked to.
    Asked,
    /// The device is lost, or the worker has panicked.
    DeviceLost,
}

/// Serves until `stop` is ready or the device is lost; then takes no more requests, gives those at
/// work their time, ends the rest, and stores every session.
pub async fn serve(
    server: Arc<Server>,
    listeners: Vec<Listener>,
    stop: impl Future<Output = ()>,
) -> Stopped {
    let theirs = Arc::clone(&server);
    // Nobody's first demand for a form should wait for this.
    drop(spawn_blocking(move || theirs.grammars().prepare()));
    let graceful = Arc::new(GracefulShutdown::new());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let (server, places) = (Arc::clone(&server), Arc::clone(&places));
        accepting.spawn(accept(server, listener, places, Arc::clone(&graceful)));
    }
    let stopped = wait(&server, stop).await;
    server.close();
    accepting.shutdown().await;
    let asked = stopped == Stopped::Asked;
    let drain_max = if asked { server.options().drain_max } else { FAREWELL };
    if asked && server.requests() > 0 {
        let seconds = drain_max.as_secs();
        tracing::info!("{} requests at work; ending them in {seconds} s", server.requests());
    }
    let graceful = Arc::into_inner(graceful).expect("those who accept have ended");
    drain(&server, graceful, drain_max).await;
    stopped
}

async fn wait(server: &Server, stop: impl Future<Output = ()>) -> Stopped {
    let mut stop = pin!(stop);
    let (mut health, mut tidy) = (interval(HEALTH_EVERY), interval(TIDY_EVERY));
    loop {
        tokio::select! {
            () = &mut stop => return Stopped::Asked,
            _ = tidy.tick() => server.metrics().tidy(),
            _ = health.tick() => if !server.is_alive() {
                return Stopped::DeviceLost;
            }
        }
    }
}

async fn drain(server: &Arc<Server>, graceful: GracefulShutdown, max: Duration) {
    let mut connections = pin!(graceful.shutdown());
    let is_drained = timeout(max, &mut connections).await.is_ok();
    let theirs = Arc::clone(server);
    let stored = spawn_blocking(move || theirs.worker().shut_down()).await;
    if stored.is_err() {
        tracing::error!("sessions were not stored: the worker broke");
    }
    if !is_drained {
        // The worker has told them all; what they write now is the end.
        let _ = timeout(FAREWELL, connections).await;
    }
}

async fn accept(
    server: Arc<Server>,
    listener: Listener,
    places: Arc<Semaphore>,
    graceful: Arc<GracefulShutdown>,
) {
    let router = server.router();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        let service = TowerToHyperService::new(router.clone());
        let stall_max = server.options().stall_max;
        let watch = graceful.watcher();
        match listener.accept().await {
            Ok(Stream::Tcp(stream)) => {
                tokio::spawn(connection(StallGuard::new(stream, stall_max), service, watch, place));
            }
            #[cfg(unix)]
            Ok(Stream::Unix(stream)) => {
                tokio::spawn(connection(StallGuard::new(stream, stall_max), service, watch, place));
            }
            Err(error) => {
                tracing::warn!("a connection was not accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    service: TowerToHyperService<axum::Router>,
    watch: Watcher,
    place: OwnedSemaphorePermit,
) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A client that goes away is no news.
    if let Err(error) = watch.watch(served).await {
        tracing::debug!("connection: {error}");
    }
    drop(place);
}
