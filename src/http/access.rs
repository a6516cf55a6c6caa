//! Who may do what through the HTTP door.
//!
//! [`Access::layer`] goes around the whole router. Each request that passes it is meant for this server, was not sent by
//! a foreign page, and has a [`Visitor`], whom handlers ask what it may: `visitor.must(Right::Act)?`. What needs nobody is
//! listed in `guard.rs`. `docs/decisions/0028-who-comes-in.md` has the reasons.
//!
//! The connection's other end must be in each request's extensions, as `ConnectInfo<SocketAddr>`.

mod attempts;
mod clock;
mod guard;
mod headers;
mod identity;
mod login;
mod origin;
mod passwords;
mod sessions;
mod visitor;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::http::HeaderName;
use axum::{Router, middleware};
use data_encoding::BASE64URL_NOPAD;
use ipnet::IpNet;

use attempts::Attempts;
use origin::Origins;
use passwords::Passwords;
use sessions::Sessions;

use crate::config::ServerOptions;
use crate::credentials::{Kept, Tokens, Users};
use crate::error::{Error, Result};

pub use crate::credentials::{Right, Role};
pub use clock::Clock;
pub use headers::{Scheme, secure};
pub(super) use identity::accepts;
pub use visitor::{By, Visitor};

/// The doorkeeper. Clones are the same one.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    origins: Origins,
    users: Option<Kept<Users>>,
    tokens: Option<Kept<Tokens>>,
    operators: Vec<String>,
    auditors: Vec<String>,
    proxies: Vec<IpNet>,
    user_header: Option<HeaderName>,
    is_for_this_host: bool,
    metrics_are_public: bool,
    scheme: Scheme,
    sessions: Sessions,
    passwords: Passwords,
    /// Of this process alone.
    key: hmac::Key,
    clock: Clock,
}

impl Access {
    /// Refuses what is not safe, and reads the files of users and tokens.
    pub fn open(options: &ServerOptions) -> Result<Access> {
        Access::open_at(options, Clock::default())
    }

    /// The same with a clock that can be put forward.
    pub fn open_at(options: &ServerOptions, clock: Clock) -> Result<Access> {
        options.check_safe()?;
        let users = options.users_file.as_deref().map(Kept::<Users>::open).transpose()?;
        let tokens = options.tokens_file.as_deref().map(Kept::<Tokens>::open).transpose()?;
        let user_header = options.believes_proxies().then(|| options.proxy_user_header.parse()).transpose();
        let user_header = user_header.map_err(|error| Error::config("proxy_user_header").because(error))?;
        warn_of_strangers(options, users.as_ref());
        let key = new_key()?;
        let attempts = Attempts::new(options.login_attempts_per_minute);
        Ok(Access(Arc::new(Inner {
            origins: Origins::of(options)?,
            users,
            tokens,
            operators: options.operators.clone(),
            auditors: options.auditors.clone(),
            proxies: options.proxies()?,
            user_header,
            is_for_this_host: options.is_for_this_host(),
            metrics_are_public: options.metrics_are_public(),
            scheme: if options.is_https() { Scheme::Https } else { Scheme::Http },
            sessions: Sessions::new(Duration::from_secs(options.session_idle_minutes * 60)),
            passwords: Passwords::new(new_key()?, attempts),
            key,
            clock,
        })))
    }

    /// `/login` and `/logout`, to be merged into what [`Access::layer`] goes around.
    pub fn router(&self) -> Router {
        login::router(self.clone())
    }

    /// Around everything: routes that are added later are not guarded.
    pub fn layer(&self, router: Router) -> Router {
        secure(router.layer(middleware::from_fn_with_state(self.clone(), guard::guard)), self.0.scheme)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("origins", &self.0.origins).finish_non_exhaustive()
    }
}

impl Inner {
    /// What a form of somebody's must hold.
    fn csrf(&self, whose: &str) -> String {
        BASE64URL_NOPAD.encode(hmac::sign(&self.key, whose.as_bytes()).as_ref())
    }

    /// With the prefix a browser takes the cookie from this host alone, and over TLS alone.
    fn cookie_name(&self) -> &'static str {
        match self.scheme {
            Scheme::Http => "pgdiode",
            Scheme::Https => "__Host-pgdiode",
        }
    }

    fn cookie(&self, id: &str) -> String {
        let secure = if self.scheme == Scheme::Https { "; Secure" } else { "" };
        format!("{}={id}; Path=/; HttpOnly; SameSite=Strict{secure}", self.cookie_name())
    }

    fn cookie_that_is_gone(&self) -> String {
        format!("{}; Max-Age=0", self.cookie(""))
    }
}

fn new_key() -> Result<hmac::Key> {
    let random = aws_lc_rs::rand::SystemRandom::new();
    hmac::Key::generate(hmac::HMAC_SHA256, &random)
        .map_err(|_| Error::unexpected("the system has no random numbers"))
}

/// A role for a name that nobody has is a slip of the pen, or waits for somebody to take that name.
fn warn_of_strangers(options: &ServerOptions, users: Option<&Kept<Users>>) {
    let Some(users) = users.filter(|_| !options.believes_proxies()).map(Kept::now) else { return };
    for name in
        options.operators.iter().chain(&options.auditors).filter(|name| users.password(name).is_none())
    {
        tracing::warn!("\"{name}\" has a role in [server], and is not in users_file");
    }
}
