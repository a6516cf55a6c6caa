//! TLS with a PostgreSQL server, by libpq's rules for `sslmode`: whether to ask for it, and what the server's
//! certificate must prove.
//!
//! ```text
//!                           root certificate known?     no                    yes
//! prefer, allow, require                                any certificate       chain is verified
//! verify-ca                                             refused               chain is verified
//! verify-full                                           refused               chain and host name are verified
//! ```
//!
//! Sources: PostgreSQL documentation, "SSL Support"; the protocol chapter's "SSL Session Encryption"; RFC 5929 for
//! `tls-server-end-point`.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::conninfo::{ConnInfo, Host, RootCertificates, SslCertMode, SslMode, SslNegotiation, TlsVersion};
use crate::error::{Error, Kind, Result};
use crate::wire::certificate::{self, ChainVerifier, NameCheck, Proof};
pub use crate::wire::stream::Stream;

/// The protocol's registered name, which keeps a handshake from being relayed to a server of another kind.
const ALPN: &[u8] = b"postgresql";

/// What to do when the server does not offer TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    GoOnWithout,
    Insist,
}

/// Asks the server for TLS and performs the handshake. On [`Stream::Tcp`] the server had none to offer.
pub(super) async fn negotiate(
    mut tcp: TcpStream,
    conninfo: &ConnInfo,
    host: &Host,
    demand: Demand,
) -> Result<Stream> {
    let configuration = Arc::new(configuration(conninfo, host)?);
    if conninfo.sslnegotiation == SslNegotiation::Postgres {
        match ask(&mut tcp).await.map_err(|error| failure(error, conninfo, host))? {
            b'S' => {}
            b'N' if demand == Demand::GoOnWithout => return Ok(Stream::Tcp(tcp)),
            b'N' => return Err(no_tls(conninfo, host)),
            // An error this early is one of a server that cannot start a session, out of memory or processes.
            b'E' => {
                return Err(Error::new(
                    Kind::SourceUnreachable,
                    format!("the server at {} cannot open a session", host.display()),
                )
                .hint("the server's log says why"));
            }
            _ => return Err(not_postgresql(host)),
        }
    }
    let (name, _) = server_name(host);
    let stream = TlsConnector::from(configuration)
        .connect(name, tcp)
        .await
        .map_err(|error| failure(error, conninfo, host))?;
    if conninfo.sslnegotiation == SslNegotiation::Direct && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(not_postgresql(host));
    }
    Ok(Stream::Tls(Box::new(stream)))
}

/// Reads one byte and no more: anything sent along with the answer would come from outside the encryption
/// (CVE-2021-23222).
async fn ask(tcp: &mut TcpStream) -> io::Result<u8> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await?;
    tcp.read_u8().await
}

fn no_tls(conninfo: &ConnInfo, host: &Host) -> Error {
    let mode = conninfo.sslmode.as_str();
    Error::refused(format!("the server at {} does not do TLS", host.display())).hint(format!(
        "set ssl = on in the server's postgresql.conf; where the network may be trusted, sslmode=prefer \
         instead of {mode} connects without"
    ))
}

pub(super) fn not_postgresql(host: &Host) -> Error {
    Error::refused(format!("what answers at {} is not a PostgreSQL server", host.display()))
        .hint("check the host and the port")
}

/// The name to verify and to send, and whether it is real: a verification that ignores the name still needs one.
fn server_name(host: &Host) -> (ServerName<'static>, bool) {
    if host.name.is_empty()
        && let Some(address) = host.address
    {
        return (ServerName::IpAddress(address.into()), true);
    }
    match ServerName::try_from(host.name.clone()) {
        Ok(name) => (name, true),
        Err(_) => (ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()), false),
    }
}

fn configuration(conninfo: &ConnInfo, host: &Host) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(conninfo, host, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(conninfo)?)
        .map_err(|error| Error::unexpected("cannot prepare TLS").because(error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut configuration = match client_certificate(conninfo)? {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
            certificate::unusable_client_key(conninfo.sslkey.as_deref(), conninfo.sslcert.as_deref())
                .because(error)
        })?,
        None => builder.with_no_client_auth(),
    };
    configuration.alpn_protocols = vec![ALPN.to_vec()];
    configuration.enable_sni = conninfo.sslsni;
    // PostgreSQL does not resume TLS sessions.
    configuration.resumption = Resumption::disabled();
    Ok(configuration)
}

fn versions(conninfo: &ConnInfo) -> Result<Vec<&'static SupportedProtocolVersion>> {
    let (min, max) = (conninfo.ssl_min_protocol_version, conninfo.ssl_max_protocol_version);
    let mut versions = Vec::new();
    if min != TlsVersion::Tls13 && matches!(max, TlsVersion::Tls12 | TlsVersion::Tls13) {
        versions.push(&rustls::version::TLS12);
    }
    if max == TlsVersion::Tls13 {
        versions.push(&rustls::version::TLS13);
    }
    if versions.is_empty() {
        return Err(Error::config(format!(
            "no TLS version lies between ssl_min_protocol_version={} and ssl_max_protocol_version={}",
            min.as_str(),
            max.as_str()
        ))
        .hint("TLS 1.2 and 1.3 are spoken"));
    }
    Ok(versions)
}

fn verifier(
    conninfo: &ConnInfo,
    host: &Host,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>> {
    let name = match (conninfo.sslmode, server_name(host)) {
        (SslMode::VerifyFull, (_, true)) if !host.name.is_empty() => NameCheck::Verify,
        (SslMode::VerifyFull, _) => {
            return Err(Error::config(format!(
                "sslmode=verify-full cannot verify the name of host {:?}",
                host.display()
            ))
            .hint("give host, the name in the server's certificate, besides hostaddr"));
        }
        _ => NameCheck::Skip,
    };
    let roots = match &conninfo.sslrootcert {
        None if conninfo.sslmode.demands_roots() => {
            return Err(Error::config(format!(
                "sslmode={} needs a root certificate, and there is none",
                conninfo.sslmode.as_str()
            ))
            .hint(
                "give the file of the authority that signed the server's certificate as sslrootcert, put it into \
                 ~/.postgresql/root.crt, or use sslrootcert=system",
            ));
        }
        None => return Ok(Arc::new(AnyCertificate { provider: Arc::clone(provider) })),
        Some(RootCertificates::System) => certificate::system_roots()?,
        Some(RootCertificates::File(path)) => certificate::certificates("sslrootcert", path)?,
    };
    let source = root_source(conninfo);
    Ok(Arc::new(ChainVerifier::new(roots, revocation_lists(conninfo)?, name, &source, provider)?))
}

fn revocation_lists(conninfo: &ConnInfo) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let Some(path) = &conninfo.sslcrl else { return Ok(Vec::new()) };
    let malformed = || certificate::malformed("sslcrl", path);
    let text = certificate::read("sslcrl", path)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    let lists = lists.map_err(|error| malformed().because(error.to_string()))?;
    if lists.is_empty() { Err(malformed()) } else { Ok(lists) }
}

fn root_source(conninfo: &ConnInfo) -> String {
    match &conninfo.sslrootcert {
        Some(RootCertificates::File(path)) => format!("sslrootcert {}", path.display()),
        Some(RootCertificates::System) => "sslrootcert=system".to_owned(),
        None => "no sslrootcert".to_owned(),
    }
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(conninfo: &ConnInfo) -> Result<Option<ClientCertificate>> {
    let Some(path) = &conninfo.sslcert else { return Ok(None) };
    if conninfo.sslcertmode == SslCertMode::Disable {
        return Ok(None);
    }
    let Some(key) = &conninfo.sslkey else {
        return Err(Error::config(format!("sslcert {} has no key to it", path.display()))
            .hint("give its private key as sslkey, or put it into ~/.postgresql/postgresql.key"));
    };
    Ok(Some((certificate::certificates("sslcert", path)?, certificate::private_key(key)?)))
}

/// Encryption without authentication, which is what `require` means where no root certificate is known. The handshake's
/// signature is still checked, so the peer holds the key of the certificate it shows.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The `tls-server-end-point` data of SCRAM's channel binding: the hash of the server's certificate, with the hash of
/// its signature, or SHA-256 in place of MD5 and SHA-1 (RFC 5929, section 4.1). `None` without TLS, and where the
/// signature has no hash that we have: Ed25519, RSA-PSS, SHA-512.
pub(super) fn server_end_point(stream: &Stream) -> Option<Vec<u8>> {
    let Stream::Tls(stream) = stream else { return None };
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let parsed = Certificate::from_der(certificate).ok()?;
    let suite = match parsed.signature_algorithm.oid.to_string().as_str() {
        // RSA with MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        // RSA and ECDSA with SHA-384.
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        _ => return None,
    };
    // The TLS library shows its hashes through the cipher suites that use them.
    let hash = suite.tls13()?.common.hash_provider;
    Some(hash.hash(certificate).as_ref().to_vec())
}

/// What an I/O error on a connection that is being opened means. With TLS 1.3 a server that refuses our certificate
/// says so only after the handshake, so this serves all reads until the session is ready.
pub(super) fn failure(error: io::Error, conninfo: &ConnInfo, host: &Host) -> Error {
    let place = host.display();
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        None => Error::new(
            Kind::SourceUnreachable,
            format!("the connection to {place} broke while it was opened"),
        )
        .because(error)
        .hint("the server's log may say why it hung up"),
        Some(rustls::Error::InvalidCertificate(reason)) => {
            let (what, hint) = certificate_problem(reason, conninfo, host);
            Error::refused(what).because(error).hint(hint)
        }
        Some(rustls::Error::InvalidCertRevocationList(_)) => {
            let (what, hint) = revocation_problem(host);
            Error::refused(what).because(error).hint(hint)
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            let hint = alert_hint(*alert, conninfo);
            Error::refused(format!("the server at {place} ended the TLS handshake")).because(error).hint(hint)
        }
        Some(_) => Error::refused(format!("the TLS handshake with {place} failed"))
            .because(error)
            .hint("TLS 1.2 and 1.3 are spoken; check the server's ssl_min_protocol_version and ssl_ciphers"),
    }
}

fn certificate_problem(reason: &CertificateError, conninfo: &ConnInfo, host: &Host) -> (String, String) {
    match reason {
        CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => revocation_problem(host),
        _ => Proof {
            place: &host.display(),
            roots: &root_source(conninfo),
            name_hint: "connect by a name that the certificate carries (hostaddr can say where that is), or use \
                        sslmode=verify-ca to verify the authority only",
        }
        .problem(reason),
    }
}

fn revocation_problem(host: &Host) -> (String, String) {
    (
        format!("sslcrl does not tell whether the certificate of {} is revoked", host.display()),
        "give current revocation lists of every authority in the chain as sslcrl".to_owned(),
    )
}

fn alert_hint(alert: AlertDescription, conninfo: &ConnInfo) -> String {
    match alert {
        AlertDescription::ProtocolVersion => "the server speaks neither TLS 1.2 nor 1.3".to_owned(),
        AlertDescription::CertificateRequired => {
            "the server wants a client certificate: give sslcert and sslkey".to_owned()
        }
        _ => match &conninfo.sslcert {
            Some(path) => format!(
                "the server's log says why; sslcert {} must be signed by an authority in its ssl_ca_file",
                path.display()
            ),
            None => "the server's log says why".to_owned(),
        },
    }
}
