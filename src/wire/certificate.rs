//! Certificates: files with them and with keys, whom they vouch for, and what it means when they do not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::error::{Error, Result};

/// Those of the operating system.
pub fn system_roots() -> Result<Vec<CertificateDer<'static>>> {
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

/// Those of a file in PEM form: at least one. `parameter` is what named it, for errors.
pub fn certificates(parameter: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(parameter, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| malformed(parameter, path).because(error.to_string()))?;
    if found.is_empty() { Err(malformed(parameter, path)) } else { Ok(found) }
}

pub fn read(parameter: &str, path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        Error::config(format!("cannot read {parameter} {}", path.display()))
            .because(error)
            .hint("check that the file exists and that this user may read it")
    })
}

pub fn malformed(parameter: &str, path: &Path) -> Error {
    Error::config(format!("{parameter} {} holds nothing of its kind in PEM form", path.display()))
        .hint("a certificate begins with -----BEGIN CERTIFICATE-----, a list with -----BEGIN X509 CRL-----")
}

/// A client's key, in a file that must be its owner's alone.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
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

/// Of `sslkey` and `sslcert`.
pub fn unusable_client_key(key: Option<&Path>, certificate: Option<&Path>) -> Error {
    let shown = |path: Option<&Path>| path.map_or_else(String::new, |path| path.display().to_string());
    Error::config(format!("sslkey {} cannot be used with sslcert {}", shown(key), shown(certificate)))
        .hint("the key must belong to the certificate and be RSA, EC (P-256, P-384, P-521) or Ed25519")
}

/// Whether the certificate must carry the host's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameCheck {
    Verify,
    Skip,
}

/// Verifies the chain, with OpenSSL's readings that many servers depend on: a certificate that is itself among the
/// roots is trusted, and one without alternative names is known by its common name.
#[derive(Debug)]
pub struct ChainVerifier {
    inner: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
    name: NameCheck,
}

impl ChainVerifier {
    /// `source` is where the roots are from, for errors. Without lists nothing is taken for revoked.
    pub fn new(
        roots: Vec<CertificateDer<'static>>,
        revoked: Vec<CertificateRevocationListDer<'static>>,
        name: NameCheck,
        source: &str,
        provider: &Arc<CryptoProvider>,
    ) -> Result<ChainVerifier> {
        let mut store = RootCertStore::empty();
        let (usable, _) = store.add_parsable_certificates(roots.iter().cloned());
        if usable == 0 {
            return Err(Error::config(format!("{source} holds no usable root certificate"))
                .hint("it must hold X.509 certificates in PEM form"));
        }
        let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
        if !revoked.is_empty() {
            builder = builder.with_crls(revoked).enforce_revocation_expiration();
        }
        let inner = builder
            .build()
            .map_err(|error| Error::config(format!("cannot verify with {source}")).because(error))?;
        Ok(ChainVerifier { inner, roots, name })
    }
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

/// What a certificate that was not accepted was to prove, in words for people.
pub struct Proof<'a> {
    /// The server.
    pub place: &'a str,
    /// Where the roots are from.
    pub roots: &'a str,
    /// What to do about a certificate for another host name.
    pub name_hint: &'a str,
}

impl Proof<'_> {
    /// What is wrong, and a hint.
    pub fn problem(&self, reason: &CertificateError) -> (String, String) {
        let Proof { place, roots, name_hint } = self;
        match reason {
            // An authority made anew under its old name shows as a bad signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => (
                format!("the certificate of {place} is not trusted: {roots} does not vouch for it"),
                "give the certificate of the authority that signed the server's as sslrootcert".to_owned(),
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                (format!("the certificate of {place} is for another host name"), (*name_hint).to_owned())
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                format!("a certificate of {place} has expired"),
                format!("renew it on the server, or in {roots}; check this machine's clock"),
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
                format!("a certificate of {place} is not valid yet"),
                "check this machine's clock".to_owned(),
            ),
            CertificateError::Revoked => {
                (format!("the certificate of {place} is revoked"), "replace it on the server".to_owned())
            }
            _ => (
                format!("the certificate of {place} is not acceptable"),
                format!("it must be X.509 version 3 and signed by an authority in {roots}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
