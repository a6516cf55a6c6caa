//! The listener: connections with TLS or without, bounded in number and time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
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

use crate::error::{Error, Result};

/// Connections at once; each that waits for events is one.
const CONNECTIONS_MAX: usize = 2048;
/// Whoever begins a request or a handshake ends it within this time.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long answers that are under way may take when the daemon ends.
const END_MAX: Duration = Duration::from_secs(5);

/// Opens the listener.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Error::config(format!("cannot listen on {address}"))
            .because(error)
            .hint("name a free address: server.listen, or pgdiode start --listen")
    })
}

/// Serves until `ending` holds true, each connection with the certificate of its moment, and then until what is under way has been answered.
pub async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    app: Router,
    mut ending: watch::Receiver<bool>,
) {
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
                let (app, over) = (app.clone(), over.clone());
                let tls = tls.borrow().clone().map(TlsAcceptor::from);
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
