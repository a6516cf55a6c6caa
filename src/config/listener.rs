//! The certificate that the HTTP door shows.

use std::sync::Arc;

use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;

use super::ServerOptions;
use crate::error::{Error, Result};
use crate::wire::certificate;
use crate::wire::validity::{Names, Validity};

impl ServerOptions {
    /// From when until when the certificate counts; `None` where there is none, or it cannot be read.
    pub fn certificate_validity(&self) -> Option<Validity> {
        let chain = certificate::certificates("server.tls_certificate", self.tls_certificate.as_deref()?);
        Validity::of(&chain.ok()?)
    }

    /// Whose certificate the file holds, and who vouches for it; `None` where there is none, or it cannot be read.
    pub fn certificate_names(&self) -> Option<Names> {
        let chain = certificate::certificates("server.tls_certificate", self.tls_certificate.as_deref()?);
        Names::of(&chain.ok()?)
    }

    /// TLS as configured, read from its files; `None` where it does not end here.
    pub fn tls(&self) -> Result<Option<Arc<ServerConfig>>> {
        let (Some(chain), Some(key)) = (&self.tls_certificate, &self.tls_key) else { return Ok(None) };
        let certificates = certificate::certificates("server.tls_certificate", chain)?;
        let private_key = certificate::private_key(key).map_err(|error| error.context("server.tls_key"))?;
        let unfit = |error: tokio_rustls::rustls::Error| {
            let what = format!("the key {} does not fit the certificate {}", key.display(), chain.display());
            Error::config(what).because(error).hint("name the private key that the certificate was made for")
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unfit)?
            .with_no_client_auth()
            .with_single_cert(certificates, private_key)
            .map_err(unfit)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Some(Arc::new(config)))
    }
}
