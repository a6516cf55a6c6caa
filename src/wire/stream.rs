//! The bytes' way to a server: TCP that notices a peer that has gone, a Unix socket, or TLS.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::error::{Error, Kind, Result};

const NAME_HINT: &str = "check the host's spelling and this machine's name servers";

/// The bytes' way to a server.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

macro_rules! delegate {
    ($stream:expr, $method:ident $(, $argument:expr)*) => {
        match $stream.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, poll_read, context, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write, context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored, context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown, context)
    }
}

/// How soon a peer that has silently gone away is noticed. libpq leaves unset timings to the operating system, which
/// waits for two hours; a pipeline that waits so long for a broken network looks alive and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalives {
    pub enabled: bool,
    /// Silence before the first probe. Default 30 s.
    pub idle: Duration,
    /// Between probes. Default 10 s.
    pub interval: Duration,
    /// Unanswered probes that end the connection. Default 3.
    pub count: u32,
    /// How long sent bytes may go unacknowledged. Default 60 s.
    pub user_timeout: Duration,
}

impl Default for Keepalives {
    fn default() -> Self {
        Keepalives {
            enabled: true,
            idle: Duration::from_secs(30),
            interval: Duration::from_secs(10),
            count: 3,
            user_timeout: Duration::from_mins(1),
        }
    }
}

/// The addresses of a host, at least one.
pub async fn look_up(name: &str, port: u16, timeout: Option<Duration>) -> Result<Vec<SocketAddr>> {
    let unknown = || {
        Error::new(Kind::SourceUnreachable, format!("host name {name:?} cannot be resolved")).hint(NAME_HINT)
    };
    let look_up = tokio::net::lookup_host((name, port));
    let found = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, look_up).await.map_err(|_| unknown())?,
        None => look_up.await,
    };
    let found: Vec<SocketAddr> = found.map_err(|error| unknown().because(error))?.collect();
    if found.is_empty() { Err(no_address(name)) } else { Ok(found) }
}

pub fn no_address(name: &str) -> Error {
    Error::new(Kind::SourceUnreachable, format!("host name {name:?} has no address")).hint(NAME_HINT)
}

/// What `attempt` comes to, if it does so in time. `place` is the server, for errors.
pub async fn within<T>(
    timeout: Option<Duration>,
    place: &str,
    attempt: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(timeout) = timeout else { return attempt.await };
    tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| {
        Err(Error::new(
            Kind::SourceUnreachable,
            format!("no session with {place} within {} s", timeout.as_secs()),
        )
        .hint(
            "a firewall may be dropping packets, or the server is overloaded; connect_timeout sets the limit",
        ))
    })
}

/// A connection, without delay for small writes.
pub async fn tcp(address: SocketAddr, keepalives: Keepalives) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    watch_for_silence(&socket, keepalives)?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn watch_for_silence(socket: &TcpSocket, keepalives: Keepalives) -> io::Result<()> {
    if !keepalives.enabled {
        return socket.set_keepalive(false);
    }
    let socket = SockRef::from(socket);
    let probes = TcpKeepalive::new().with_time(keepalives.idle).with_interval(keepalives.interval);
    socket.set_tcp_keepalive(&probes.with_retries(keepalives.count))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(keepalives.user_timeout))?;
    Ok(())
}

/// `place` is the server as the operator names it.
pub fn unreachable_address(mut place: String, address: SocketAddr, error: io::Error) -> Error {
    if place != address.to_string() {
        place = format!("{place} ({})", address.ip());
    }
    let hint = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("is the server running, and does it listen on that address and port {}?", address.port())
        }
        _ => "check the address, the network and firewalls between here and the server".to_owned(),
    };
    Error::new(Kind::SourceUnreachable, format!("cannot connect to {place}")).because(error).hint(hint)
}

pub fn unreachable_socket(path: &Path, error: io::Error) -> Error {
    let what = format!("cannot connect to socket {}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Error::refused(what).because(error).hint("this user may not use the server's socket directory")
        }
        io::ErrorKind::InvalidInput => {
            Error::config(what).because(error).hint("the path of a socket has at most 107 bytes")
        }
        _ => Error::new(Kind::SourceUnreachable, what)
            .because(error)
            .hint("is the server running on this machine, with that port and socket directory?"),
    }
}
