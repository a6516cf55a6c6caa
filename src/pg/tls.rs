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

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::client::Resumption;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::conninfo::{ConnInfo, Host, RootCertificates, SslCertMode, SslMode, SslNegotiation, TlsVersion};
use crate::error::{Error, Kind, Result};

/// The protocol's registered name, which keeps a handshake from being relayed to a server of another kind.
const ALPN: &[u8] = b"postgresql";

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
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable_client_key(conninfo).because(error))?,
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
        Some(RootCertificates::System) => system_roots()?,
        Some(RootCertificates::File(path)) => certificates("sslrootcert", path)?,
    };
    Ok(Arc::new(ChainVerifier { inner: webpki_verifier(conninfo, &roots, provider)?, roots, name }))
}

fn webpki_verifier(
    conninfo: &ConnInfo,
    roots: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>> {
    let mut store = RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(roots.iter().cloned());
    let source = root_source(conninfo);
    if usable == 0 {
        return Err(Error::config(format!("{source} holds no usable root certificate"))
            .hint("it must hold X.509 certificates in PEM form"));
    }
    let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
    if let Some(path) = &conninfo.sslcrl {
        let text = read("sslcrl", path)?;
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
        let lists = lists.map_err(|error| malformed("sslcrl", path).because(error.to_string()))?;
        if lists.is_empty() {
            return Err(malformed("sslcrl", path));
        }
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    builder.build().map_err(|error| Error::config(format!("cannot verify with {source}")).because(error))
}

fn root_source(conninfo: &ConnInfo) -> String {
    match &conninfo.sslrootcert {
        Some(RootCertificates::File(path)) => format!("sslrootcert {}", path.display()),
        Some(RootCertificates::System) => "sslrootcert=system".to_owned(),
        None => "no sslrootcert".to_owned(),
    }
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>> {
    let mut found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let error = Error::config("the operating system has no trusted root certificates")
            .hint("install its package of certificates (ca-certificates), or name a file as sslrootcert");
        return Err(match found.errors.pop() {
            Some(cause) => error.because(cause),
            None => error,
        });
    }
    Ok(found.certs)
}

fn certificates(parameter: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(parameter, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| malformed(parameter, path).because(error.to_string()))?;
    if found.is_empty() { Err(malformed(parameter, path)) } else { Ok(found) }
}

fn read(parameter: &str, path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        Error::config(format!("cannot read {parameter} {}", path.display()))
            .because(error)
            .hint("check that the file exists and that this user may read it")
    })
}

fn malformed(parameter: &str, path: &Path) -> Error {
    Error::config(format!("{parameter} {} holds nothing of its kind in PEM form", path.display()))
        .hint("a certificate begins with -----BEGIN CERTIFICATE-----, a list with -----BEGIN X509 CRL-----")
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(conninfo: &ConnInfo) -> Result<Option<ClientCertificate>> {
    let Some(certificate) = &conninfo.sslcert else { return Ok(None) };
    if conninfo.sslcertmode == SslCertMode::Disable {
        return Ok(None);
    }
    let Some(key) = &conninfo.sslkey else {
        return Err(Error::config(format!("sslcert {} has no key to it", certificate.display()))
            .hint("give its private key as sslkey, or put it into ~/.postgresql/postgresql.key"));
    };
    Ok(Some((certificates("sslcert", certificate)?, private_key(key)?)))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = read("sslkey", path)?;
    let metadata = fs::metadata(path)
        .map_err(|error| Error::config(format!("cannot look at sslkey {}", path.display())).because(error))?;
    // libpq's rule: nobody but the owner, except that root may share its key with a group that reads.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(Error::config(format!("sslkey {} can be read by others", path.display()))
            .hint(format!("chmod 600 {}", path.display())));
    }
    let contains = |needle: &str| text.windows(needle.len()).any(|window| window == needle.as_bytes());
    if contains("ENCRYPTED") {
        return Err(Error::config(format!("sslkey {} is encrypted, which is not supported", path.display()))
            .hint("decrypt it into a file with mode 0600: openssl pkey -in KEY -out DECRYPTED"));
    }
    let key = if contains("-----BEGIN") {
        PrivateKeyDer::from_pem_slice(&text).ok()
    } else {
        PrivateKeyDer::try_from(text).ok()
    };
    key.ok_or_else(|| {
        Error::config(format!("sslkey {} holds no private key that can be read", path.display()))
            .hint("RSA, EC and Ed25519 keys are supported: openssl pkey -in KEY -out CONVERTED")
    })
}

fn unusable_client_key(conninfo: &ConnInfo) -> Error {
    let shown = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or_else(String::new, |path| path.display().to_string())
    };
    Error::config(format!(
        "sslkey {} cannot be used with sslcert {}",
        shown(&conninfo.sslkey),
        shown(&conninfo.sslcert)
    ))
    .hint("the key must belong to the certificate and be RSA, EC (P-256, P-384, P-521) or Ed25519")
}

/// Whether the certificate must carry the host's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameCheck {
    Verify,
    Skip,
}

/// verify-ca and verify-full, with OpenSSL's readings that many PostgreSQL servers depend on: a certificate that is
/// itself among the roots is trusted, and one without alternative names is known by its common name.
#[derive(Debug)]
struct ChainVerifier {
    inner: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
    name: NameCheck,
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The inner verifier looks at the name last: an error about the name says that the chain is good.
        let verified = if self.roots.iter().any(|root| root.as_ref() == certificate.as_ref()) {
            verify_validity(certificate, now).and_then(|()| {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)
            })
        } else {
            self.inner.verify_server_cert(certificate, intermediates, name, ocsp_response, now).map(|_| ())
        };
        match verified {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.name == NameCheck::Skip || common_name_matches(certificate, name) => {}
            verified => verified?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn verify_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let parsed = Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let validity = &parsed.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// The rule that libpq keeps for certificates without alternative names, which `openssl req` makes by default.
fn common_name_matches(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
    use x509_cert::der::oid::db::rfc5280::ID_CE_SUBJECT_ALT_NAME;
    let (ServerName::DnsName(host), Ok(parsed)) = (name, Certificate::from_der(certificate)) else {
        return false;
    };
    let extensions = parsed.tbs_certificate.extensions.unwrap_or_default();
    if extensions.iter().any(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME) {
        return false;
    }
    let attributes = parsed.tbs_certificate.subject.0.iter().flat_map(|relative| relative.0.iter());
    let mut names = attributes.filter(|attribute| attribute.oid == COMMON_NAME);
    names.any(|attribute| {
        std::str::from_utf8(attribute.value.value()).is_ok_and(|common| name_matches(common, host.as_ref()))
    })
}

/// A `*` stands for the whole first label and for no more than that.
fn name_matches(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((label, rest))) => {
            !label.is_empty() && domain.contains('.') && domain.eq_ignore_ascii_case(rest)
        }
        (Some(_), None) => false,
        (None, _) => pattern.eq_ignore_ascii_case(host),
    }
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
    let (place, roots) = (host.display(), root_source(conninfo));
    match reason {
        // An authority made anew under its old name shows as a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            format!("the certificate of {place} is not trusted: {roots} does not vouch for it"),
            "give the certificate of the authority that signed the server's as sslrootcert".to_owned(),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            format!("the certificate of {place} is for another host name"),
            "connect by a name that the certificate carries (hostaddr can say where that is), or use \
             sslmode=verify-ca to verify the authority only"
                .to_owned(),
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            format!("a certificate of {place} has expired"),
            format!("renew it on the server, or in {roots}; check this machine's clock"),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            (format!("a certificate of {place} is not valid yet"), "check this machine's clock".to_owned())
        }
        CertificateError::Revoked => {
            (format!("the certificate of {place} is revoked"), "replace it on the server".to_owned())
        }
        CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => revocation_problem(host),
        _ => (
            format!("the certificate of {place} is not acceptable"),
            format!("it must be X.509 version 3 and signed by an authority in {roots}"),
        ),
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

#[cfg(test)]
mod tests;
