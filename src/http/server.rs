//! The listener: connections with TLS or without, bounded in number, time and size; and what every handler is handed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tower_service::Service;

use super::access::Visitor;
use super::{api, metrics, pages};
use crate::audit::Report;
use crate::config::Effective;
use crate::daemon::{Daemon, Reloaded};
use crate::error::{Error, Result};
use crate::status::fleet::{Fleet, Overview};

/// What no request's body is longer than.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Connections at once; each that waits for events is one.
const CONNECTIONS_MAX: usize = 2048;
/// Whoever begins a request or a handshake ends it within this time.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long answers that are under way may take when the daemon ends.
const END_MAX: Duration = Duration::from_secs(5);

/// What every handler is handed. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    pub daemon: Daemon,
    fleet: watch::Receiver<Arc<Fleet>>,
    ending: watch::Receiver<bool>,
    checks: Arc<Mutex<BTreeMap<String, Checked>>>,
}

/// What a check of an audit log found, and when it was made.
pub(super) type Checked = (Arc<Report>, String);

impl Door {
    pub fn new(daemon: Daemon, ending: watch::Receiver<bool>) -> Door {
        let fleet = daemon.fleet();
        Door { daemon, fleet, ending, checks: Arc::default() }
    }

    /// All there is to know, as it was published last.
    pub fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.fleet.borrow())
    }

    /// The part of it that a visitor may see.
    pub(super) fn fleet_of(&self, visitor: &Visitor) -> Arc<Fleet> {
        let fleet = self.fleet();
        if visitor.pipelines.is_none() {
            return fleet;
        }
        let pipelines = fleet.pipelines.iter().filter(|one| visitor.sees(&one.name)).cloned().collect();
        Arc::new(Fleet { instance: fleet.instance.clone(), pipelines })
    }

    /// A pipeline with what was asked for lately too, not only with what is under way.
    pub(super) fn with_ended_runs(&self, one: &Overview) -> Overview {
        Overview { runs: self.daemon.runs().list(Some(&one.name)), ..one.clone() }
    }

    /// The last check of a pipeline's audit log.
    pub(super) fn checked(&self, pipeline: &str) -> Option<Checked> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).get(pipeline).cloned()
    }

    pub(super) fn was_checked(&self, pipeline: &str, report: Report) {
        let checked = (Arc::new(report), crate::schedule::utc(jiff::Timestamp::now()));
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).insert(pipeline.to_owned(), checked);
    }

    /// Holds true once the daemon ends.
    pub fn ending(&self) -> watch::Receiver<bool> {
        self.ending.clone()
    }

    pub fn configuration(&self) -> Vec<Effective> {
        self.daemon.configuration()
    }

    pub async fn reload(&self) -> Result<Reloaded> {
        self.daemon.reload().await
    }
}

/// Every route behind the layer that says who is asking.
pub fn routes() -> Router<Door> {
    api::router().merge(pages::router())
}

/// Routes that anybody may ask: whether the process is alive, ready, and has started.
pub fn probes() -> Router<Door> {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/startupz", get(started))
}

/// What Prometheus scrapes.
pub fn scraped() -> Router<Door> {
    Router::new().route("/metrics", get(scrape))
}

async fn ready(State(door): State<Door>) -> impl IntoResponse {
    if *door.ending.borrow() {
        (StatusCode::SERVICE_UNAVAILABLE, "ending\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

/// Once each pipeline was asked how it does, or could not be.
async fn started(State(door): State<Door>) -> impl IntoResponse {
    let waits =
        door.fleet().pipelines.iter().filter(|one| one.asked_at.is_none() && one.problem.is_none()).count();
    if waits == 0 {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{waits} pipelines have not been asked yet\n"))
    }
}

/// Where it takes no signing in there is no visitor, and nothing that would be kept from one.
async fn scrape(
    State(door): State<Door>,
    visitor: Option<Extension<Visitor>>,
    headers: axum::http::HeaderMap,
) -> impl IntoResponse {
    let fleet = visitor.map_or_else(|| door.fleet(), |Extension(visitor)| door.fleet_of(&visitor));
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = metrics::Format::accepted(accepted);
    ([(header::CONTENT_TYPE, format.content_type())], metrics::render(&fleet, format))
}

// ---- connections ----

/// Opens the listener.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Error::config(format!("cannot listen on {address}"))
            .because(error)
            .hint("name a free address: server.listen, or pgdiode start --listen")
    })
}

/// Serves until `ending` holds true, and then until what is under way has been answered.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    app: Router,
    mut ending: watch::Receiver<bool>,
) {
    let tls = tls.map(TlsAcceptor::from);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let over = ending.clone();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = async { drop(ending.wait_for(|ends| *ends).await) } => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let (app, tls, over) = (app.clone(), tls.clone(), over.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else { return talk(stream, peer, app, over, place).await };
                    // Whoever shakes hands badly has gone or is no client of ours.
                    if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
                        talk(stream, peer, app, over, place).await;
                    }
                });
            }
            Err(error) => {
                // Too many open files, mostly: some will be closed.
                tracing::warn!("a connection was not accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    // Nobody is left who would take another place, when all are free.
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(END_MAX, places.acquire_many(all)).await;
}

async fn talk<S>(
    stream: S,
    peer: SocketAddr,
    app: Router,
    mut ending: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let mut app = app.clone();
        async move {
            let answer: Result<_, Infallible> = app.call(request.map(axum::body::Body::new)).await;
            answer
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // How it ended is the client's business.
        _ = &mut connection => return,
        () = async { drop(ending.wait_for(|ends| *ends).await) } => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
