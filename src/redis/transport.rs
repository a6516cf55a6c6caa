//! A way to a Redis server, before anything is said on it: TCP, TLS with a certificate and host name that are verified,
//! or a Unix socket.
//!
//! Redis has no upgrade to TLS within a connection: a port speaks it from the first byte on, or never. Against a server
//! that refuses our certificate with TLS 1.3 the handshake succeeds, and the first read fails: [`failure`] tells.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::location::{Host, Location, Tls};
use crate::error::{Error, Kind, Result};
use crate::wire::certificate::{self, ChainVerifier, NameCheck, Proof};
use crate::wire::stream::{self, Keepalives, Stream};

pub type Transport = Stream;

const TLS_PORT_HINT: &str = "is that the port that tls-port names in the server's configuration? Where the network may be \
                             trusted, redis:// connects to a port without TLS";

/// To one server: of the location's hosts, or another that it names, as nodes of a cluster name each other. Dropping the
/// future closes what was opened.
pub async fn connect(location: &Location, host: &Host) -> Result<Transport> {
    let timeout = Some(location.connect_timeout);
    let (name, port) = match host {
        Host::Unix(path) => {
            let attempt = async {
                UnixStream::connect(path).await.map_err(|error| stream::unreachable_socket(path, error))
            };
            return stream::within(timeout, &host.display(), attempt).await.map(Stream::Unix);
        }
        Host::Tcp { name, port } => (name, *port),
    };
    let tls = match &location.tls {
        Some(tls) => Some((Arc::new(configuration(tls)?), server_name(name)?)),
        None => None,
    };
    let mut last = None;
    for address in stream::look_up(name, port, timeout).await? {
        let reached = async {
            let tcp = stream::tcp(address, Keepalives::default()).await;
            tcp.map_err(|error| stream::unreachable_address(host.display(), address, error))
        };
        let transport = match (stream::within(timeout, &address.to_string(), reached).await, tls.clone()) {
            (Ok(tcp), None) => Ok(Stream::Tcp(tcp)),
            (Ok(tcp), Some((configuration, name))) => {
                Box::pin(secure(tcp, configuration, name, location, host)).await
            }
            (Err(error), _) => Err(error),
        };
        match transport {
            Err(error) if error.retries() => last = Some(error),
            result => return result,
        }
    }
    Err(last.unwrap_or_else(|| stream::no_address(name)))
}

async fn secure(
    tcp: TcpStream,
    configuration: Arc<ClientConfig>,
    name: ServerName<'static>,
    location: &Location,
    host: &Host,
) -> Result<Stream> {
    let handshake = TlsConnector::from(configuration).connect(name, tcp);
    // A port without TLS may take the first bytes for the beginning of a command, and wait for the rest.
    match tokio::time::timeout(location.connect_timeout, handshake).await {
        Ok(connected) => connected
            .map(|stream| Stream::Tls(Box::new(stream)))
            .map_err(|error| failure(error, location, host)),
        Err(_) => Err(Error::new(
            Kind::SourceUnreachable,
            format!(
                "the server at {} has not answered the TLS handshake within {} s",
                host.display(),
                location.connect_timeout.as_secs()
            ),
        )
        .hint(TLS_PORT_HINT)),
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(name.to_owned()).map_err(|error| {
        Error::config(format!("no certificate can be verified for host {name:?}"))
            .because(error)
            .hint("connect by a name or an address that stands in the server's certificate")
    })
}

fn configuration(tls: &Tls) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = match &tls.root_certificates {
        Some(path) => certificate::certificates("sslrootcert", path)?,
        None => certificate::system_roots()?,
    };
    let verifier = ChainVerifier::new(roots, Vec::new(), NameCheck::Verify, &root_source(tls), &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::unexpected("cannot prepare TLS").because(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut configuration = match &tls.client {
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                certificate::certificates("sslcert", certificate)?,
                certificate::private_key(key)?,
            )
            .map_err(|error| certificate::unusable_client_key(Some(key), Some(certificate)).because(error))?,
        None => builder.with_no_client_auth(),
    };
    // A connection is kept for long: there is nothing to gain.
    configuration.resumption = Resumption::disabled();
    Ok(configuration)
}

fn root_source(tls: &Tls) -> String {
    let shown = |path: &Path| format!("sslrootcert {}", path.display());
    tls.root_certificates.as_deref().map_or_else(|| "the operating system".to_owned(), shown)
}

/// What an I/O error means on a connection on which the server has not answered yet.
pub fn failure(error: io::Error, location: &Location, host: &Host) -> Error {
    let place = host.display();
    let Some(tls) = &location.tls else {
        return broken(&place)
            .because(error)
            .hint("the server's log may say why it hung up; if that port speaks TLS, write rediss://");
    };
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        None => broken(&place).because(error).hint(TLS_PORT_HINT),
        Some(rustls::Error::InvalidMessage(_)) => {
            Error::refused(format!("the server at {place} does not do TLS"))
                .because(error)
                .hint(TLS_PORT_HINT)
        }
        Some(rustls::Error::InvalidCertificate(reason)) => {
            let roots = root_source(tls);
            let name_hint = "connect by a name or an address that the certificate carries";
            let (what, hint) = Proof { place: &place, roots: &roots, name_hint }.problem(reason);
            Error::refused(what).because(error).hint(hint)
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            let hint = alert_hint(*alert, tls);
            Error::refused(format!("the server at {place} ended the TLS handshake")).because(error).hint(hint)
        }
        Some(_) => Error::refused(format!("the TLS handshake with {place} failed"))
            .because(error)
            .hint("TLS 1.2 and 1.3 are spoken; check the server's tls-protocols and tls-ciphers"),
    }
}

fn broken(place: &str) -> Error {
    Error::new(Kind::SourceUnreachable, format!("the connection to {place} broke while it was opened"))
}

fn alert_hint(alert: AlertDescription, tls: &Tls) -> String {
    match (alert, &tls.client) {
        (AlertDescription::ProtocolVersion, _) => "the server speaks neither TLS 1.2 nor 1.3".to_owned(),
        (AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure, None) => {
            "the server wants a client certificate (tls-auth-clients): give sslcert and sslkey".to_owned()
        }
        (_, Some((certificate, _))) => format!(
            "the server's log says why; sslcert {} must be signed by an authority in its tls-ca-cert-file",
            certificate.display()
        ),
        (_, None) => "the server's log says why".to_owned(),
    }
}

#[cfg(test)]
mod tests;
