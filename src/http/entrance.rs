//! The door as a whole: what listens, who is let in, and every route behind that.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Router, middleware};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

use super::access::Access;
use super::door::Door;
use super::{api, pages, probes, server};
use crate::config::ServerOptions;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::wire::validity::Validity;

/// Opened, and nobody let in yet.
pub struct Entrance {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    certificate: Option<Validity>,
    access: Access,
    options: ServerOptions,
}

impl Entrance {
    /// Refuses what is not safe, and takes the address.
    pub async fn open(options: &ServerOptions) -> Result<Entrance> {
        options.check_safe()?;
        let access = Access::open(options)?;
        let tls = options.tls()?;
        let listener = server::bind(options.address()?).await?;
        let address = listener
            .local_addr()
            .map_err(|error| Error::unexpected("the listener has no address").because(error))?;
        let certificate = options.certificate_validity();
        Ok(Entrance { listener, address, tls, certificate, access, options: options.clone() })
    }

    /// Where it is, as one types it.
    pub fn address(&self) -> String {
        match self.options.public() {
            Ok(Some(url)) => url.origin(),
            _ => format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address),
        }
    }

    /// Lets people in until the daemon ends.
    pub async fn serve(self, daemon: Daemon, ending: watch::Receiver<bool>) {
        daemon.shows_certificate(self.certificate.map(|validity| validity.until));
        let door = Door::new(daemon, ending.clone());
        let app = self.app(&door);
        server::serve(self.listener, self.tls, app, ending).await;
    }

    /// All of it behind the layer that says who is asking, which knows what anybody may ask.
    fn app(&self, door: &Door) -> Router {
        let routes = api::router()
            .merge(pages::router())
            .merge(pages::assets())
            .merge(probes::router())
            .fallback(pages::nothing)
            .with_state(door.clone())
            .merge(self.access.router());
        let shown = middleware::from_fn_with_state(door.clone(), pages::show_problems);
        self.access.layer(routes.layer(shown))
    }
}
