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
use crate::config::{Config, ServerOptions};
use crate::daemon::{Applied, Daemon};
use crate::error::{Error, Result};

type Tls = Option<Arc<ServerConfig>>;

/// Opened, and nobody let in yet.
pub struct Entrance {
    listener: TcpListener,
    address: SocketAddr,
    tls: watch::Sender<Tls>,
    access: Access,
    options: ServerOptions,
}

impl Entrance {
    /// Refuses what is not safe, and takes the address.
    pub async fn open(options: &ServerOptions) -> Result<Entrance> {
        options.check_safe()?;
        let access = Access::open(options)?;
        let tls = watch::Sender::new(options.tls()?);
        let listener = server::bind(options.address()?).await?;
        let address = listener
            .local_addr()
            .map_err(|error| Error::unexpected("the listener has no address").because(error))?;
        Ok(Entrance { listener, address, tls, access, options: options.clone() })
    }

    /// Where it is, as one types it.
    pub fn address(&self) -> String {
        match self.options.public() {
            Ok(Some(url)) => url.origin(),
            _ => format!("{}://{}", if self.options.has_tls() { "https" } else { "http" }, self.address),
        }
    }

    /// Lets people in until the daemon ends.
    pub async fn serve(self, daemon: Daemon, ending: watch::Receiver<bool>) {
        daemon.shows_certificate(expiry(&self.options));
        let door = Door::new(daemon.clone(), ending.clone());
        let app = self.app(&door);
        let Entrance { listener, tls, access, options, .. } = self;
        let opened = Opened { options, configured: daemon.server_options() };
        let shown = tls.subscribe();
        daemon.has_door(Box::new(move |config| reload(&access, &tls, &opened, config)));
        server::serve(listener, shown, app, ending).await;
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

fn expiry(options: &ServerOptions) -> Option<jiff::Timestamp> {
    options.certificate_validity().map(|validity| validity.until)
}

/// What the door was opened with: by its options, and by what the configuration said, which `--listen` outweighs.
struct Opened {
    options: ServerOptions,
    configured: Option<ServerOptions>,
}

/// Applies what of another configuration can be while the door is open, all of it or nothing; the rest waits for the next
/// start.
fn reload(access: &Access, tls: &watch::Sender<Tls>, opened: &Opened, config: &Config) -> Result<Applied> {
    let waits = |keys: Vec<String>| {
        Ok(Applied { from_the_next_start: keys, certificate_until: expiry(&opened.options) })
    };
    let (before, wanted) = match (&opened.configured, &config.server) {
        (Some(before), Some(wanted)) => (before, wanted),
        (None, None) => return waits(Vec::new()),
        _ => return waits(vec!["server".to_owned()]),
    };
    // Browsers and their cookies do not change over between the two.
    if before.is_https() != wanted.is_https() || before.has_tls() != wanted.has_tls() {
        return waits(vec!["server".to_owned()]);
    }
    let applied = ServerOptions { listen: opened.options.listen.clone(), ..wanted.clone() };
    let rules = access.rules(&applied)?;
    let shown = applied.tls()?;
    access.follows(rules);
    tls.send_replace(shown);
    Ok(Applied { from_the_next_start: waiting(before, wanted), certificate_until: expiry(&applied) })
}

/// The keys that count from the next start on.
fn waiting(before: &ServerOptions, wanted: &ServerOptions) -> Vec<String> {
    let changed = [
        ("listen", before.listen != wanted.listen),
        ("session_idle_minutes", before.session_idle_minutes != wanted.session_idle_minutes),
        ("login_attempts_per_minute", before.login_attempts_per_minute != wanted.login_attempts_per_minute),
    ];
    changed.into_iter().filter(|(_, is)| *is).map(|(key, _)| format!("server.{key}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_next_start_is_told() {
        let opened = ServerOptions::default();
        let waits = |wanted: ServerOptions| waiting(&opened, &wanted);
        assert_eq!(waits(opened.clone()), [""; 0]);
        let roles = ServerOptions { operators: vec!["alice".into()], ..opened.clone() };
        assert_eq!(waits(roles), [""; 0]);
        let elsewhere =
            ServerOptions { listen: "127.0.0.1:9".into(), session_idle_minutes: 5, ..opened.clone() };
        assert_eq!(waits(elsewhere), ["server.listen", "server.session_idle_minutes"]);
    }
}
