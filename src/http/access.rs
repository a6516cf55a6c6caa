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
use std::sync::{Arc, PoisonError, RwLock};
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
pub struct Access(Arc<RwLock<Current>>);

/// What counts at one moment; a reloaded configuration puts another in its place.
#[derive(Clone)]
struct Current(Arc<Inner>);

/// Other rules that have been checked, and do not count yet.
pub(super) struct Rules(Current);

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
    sessions: Arc<Sessions>,
    passwords: Arc<Passwords>,
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
        let attempts = Attempts::new(options.login_attempts_per_minute);
        let lasting = Lasting {
            scheme: if options.is_https() { Scheme::Https } else { Scheme::Http },
            sessions: Arc::new(Sessions::new(Duration::from_secs(options.session_idle_minutes * 60))),
            passwords: Arc::new(Passwords::new(new_key()?, attempts)),
            key: new_key()?,
            clock,
        };
        let current = Current(Arc::new(Inner::new(options, lasting)?));
        Ok(Access(Arc::new(RwLock::new(current))))
    }

    /// Checks other rules, by which who has signed in stays signed in.
    pub(super) fn rules(&self, options: &ServerOptions) -> Result<Rules> {
        let now = self.now().0;
        let lasting = Lasting {
            scheme: now.scheme,
            sessions: Arc::clone(&now.sessions),
            passwords: Arc::clone(&now.passwords),
            key: now.key.clone(),
            clock: now.clock.clone(),
        };
        Ok(Rules(Current(Arc::new(Inner::new(options, lasting)?))))
    }

    /// From the next request on these count.
    pub(super) fn follows(&self, rules: Rules) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rules.0;
    }

    fn now(&self) -> Current {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `/login` and `/logout`, to be merged into what [`Access::layer`] goes around.
    pub fn router(&self) -> Router {
        login::router(self.clone())
    }

    /// Around everything: routes that are added later are not guarded.
    pub fn layer(&self, router: Router) -> Router {
        secure(router.layer(middleware::from_fn_with_state(self.clone(), guard::guard)), self.now().0.scheme)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("origins", &self.now().0.origins).finish_non_exhaustive()
    }
}

/// What no reload changes: who has signed in stays so.
struct Lasting {
    scheme: Scheme,
    sessions: Arc<Sessions>,
    passwords: Arc<Passwords>,
    key: hmac::Key,
    clock: Clock,
}

impl Inner {
    /// Refuses what is not safe, and reads the files.
    fn new(options: &ServerOptions, lasting: Lasting) -> Result<Inner> {
        options.check_safe()?;
        let users = options.users_file.as_deref().map(Kept::<Users>::open).transpose()?;
        let tokens = options.tokens_file.as_deref().map(Kept::<Tokens>::open).transpose()?;
        let user_header = options.believes_proxies().then(|| options.proxy_user_header.parse()).transpose();
        let user_header = user_header.map_err(|error| Error::config("proxy_user_header").because(error))?;
        warn_of_strangers(options, users.as_ref());
        let Lasting { scheme, sessions, passwords, key, clock } = lasting;
        Ok(Inner {
            origins: Origins::of(options)?,
            users,
            tokens,
            operators: options.operators.clone(),
            auditors: options.auditors.clone(),
            proxies: options.proxies()?,
            user_header,
            is_for_this_host: options.is_for_this_host(),
            metrics_are_public: options.metrics_are_public(),
            scheme,
            sessions,
            passwords,
            key,
            clock,
        })
    }

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

fn warn_of_strangers(options: &ServerOptions, users: Option<&Kept<Users>>) {
    let Some(users) = users.filter(|_| !options.believes_proxies()).map(Kept::now) else { return };
    for name in options.strangers(&users) {
        tracing::warn!("\"{name}\" has a role in [server], and is not in users_file");
    }
}
