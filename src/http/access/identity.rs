//! Who is asking: a token, whom a proxy names, a name with a password, a session, or whoever is on this host.
//!
//! What is shown decides: a token that is not known, or a wrong password, is refused, and nothing else is tried then.

use std::net::{IpAddr, SocketAddr};

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use data_encoding::BASE64;

use super::Inner;
use super::attempts::TooMany;
use super::origin::one;
use super::sessions::Use;
use super::visitor::{By, Visitor};
use crate::credentials::{Grant, Role, TOKEN_PREFIX, is_name};
use crate::http::problem::Problem;
use crate::secret::Secret;

/// What a proxy adds, and nobody on this host does.
const BY_PROXY: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Inner {
    /// The client's address: the other end of the connection, or what trusted proxies say of theirs.
    pub(super) fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.ip().to_canonical();
        let values = headers.get_all(FORWARDED_FOR).iter();
        let listed: Vec<&str> =
            values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(',')).collect();
        // Each proxy appends whom it was asked by; what stands before the first one that is not ours is hearsay.
        for address in listed.iter().rev() {
            if !self.trusts(client) {
                break;
            }
            let Ok(address) = address.trim().parse::<IpAddr>() else { break };
            client = address.to_canonical();
        }
        client
    }

    fn trusts(&self, peer: IpAddr) -> bool {
        self.proxies.iter().any(|net| net.contains(&peer))
    }

    pub(super) async fn identify(
        &self,
        parts: &Parts,
        peer: SocketAddr,
        client: IpAddr,
    ) -> Result<Option<Visitor>, Problem> {
        let authorization = one(&parts.headers, &header::AUTHORIZATION)?;
        let shown = authorization.map(|text| text.split_once(' ').unwrap_or((text, "")));
        match shown {
            Some((scheme, token)) if is_token(scheme, token) => {
                return self.by_token(token.trim(), client).map(Some);
            }
            _ => {}
        }
        if let Some(visitor) = self.by_proxy(&parts.headers, peer, client)? {
            return Ok(Some(visitor));
        }
        match shown {
            Some((scheme, text)) if scheme.eq_ignore_ascii_case("basic") => {
                self.by_password(text, client).await.map(Some)
            }
            Some(_) => Err(unauthorized("that way of signing in is not known here")),
            None => match self.by_session(&parts.headers, how_used(&parts.headers), client) {
                Some(visitor) => Ok(Some(visitor)),
                None => self.by_being_here(&parts.headers, peer),
            },
        }
    }

    fn by_token(&self, token: &str, client: IpAddr) -> Result<Visitor, Problem> {
        let Some(grant) = self.grants(token) else {
            tracing::warn!(address = %client, "an unknown or expired token");
            return Err(unauthorized("the token is not known, or has expired"));
        };
        Ok(Visitor {
            name: grant.name,
            role: grant.role,
            by: By::Token,
            address: client,
            pipelines: grant.pipelines,
            csrf: None,
        })
    }

    /// Whether a visitor whose answer is still under way would be let in again.
    pub(super) fn knows_still(&self, visitor: &Visitor, headers: &HeaderMap) -> bool {
        match visitor.by {
            By::Session => {
                let found = self.by_session(headers, Use::ByItself, visitor.address);
                found.is_some_and(|found| found.csrf == visitor.csrf)
            }
            By::Token => {
                let shown = headers.get(header::AUTHORIZATION).and_then(|shown| shown.to_str().ok());
                let token =
                    shown.and_then(|shown| shown.split_once(' ')).map_or("", |(_, token)| token.trim());
                self.grants(token).is_some()
            }
            By::Basic => {
                self.users.as_ref().is_some_and(|users| users.now().password(&visitor.name).is_some())
            }
            By::Local | By::Proxy => true,
        }
    }

    fn grants(&self, token: &str) -> Option<Grant> {
        self.tokens.as_ref()?.now().grant(&Secret::new(token), self.clock.date()).cloned()
    }

    fn by_proxy(
        &self,
        headers: &HeaderMap,
        peer: SocketAddr,
        client: IpAddr,
    ) -> Result<Option<Visitor>, Problem> {
        let Some(name) = self.user_header.as_ref().filter(|_| self.trusts(peer.ip().to_canonical())) else {
            return Ok(None);
        };
        match one(headers, name)? {
            None | Some("") => Ok(None),
            Some(user) if is_name(user) => Ok(Some(self.visitor(user, By::Proxy, client, ""))),
            Some(_) => Err(unauthorized("the proxy's name for the user cannot be one here")),
        }
    }

    async fn by_password(&self, text: &str, client: IpAddr) -> Result<Visitor, Problem> {
        let wrong = || unauthorized("the name or the password is wrong");
        let decoded =
            BASE64.decode(text.trim().as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let (name, password) = decoded.as_deref().and_then(|text| text.split_once(':')).ok_or_else(wrong)?;
        let users = self.users.as_ref().ok_or_else(wrong)?.now();
        let shown = (name, Secret::new(password));
        let checked = self.passwords.check(&users, shown, client, self.clock.now()).await;
        match checked.map_err(too_many)? {
            Some(_) => Ok(self.visitor(name, By::Basic, client, "")),
            None => Err(wrong()),
        }
    }

    fn by_session(&self, headers: &HeaderMap, used: Use, client: IpAddr) -> Option<Visitor> {
        let users = self.users.as_ref()?.now();
        self.cookies(headers).into_iter().find_map(|id| {
            let session = self.sessions.find(id, used, self.clock.now())?;
            if users.password(&session.user) != Some(&session.password) {
                self.sessions.end(id);
                return None;
            }
            Some(self.visitor(&session.user, By::Session, client, id))
        })
    }

    fn by_being_here(&self, headers: &HeaderMap, peer: SocketAddr) -> Result<Option<Visitor>, Problem> {
        let peer = peer.ip().to_canonical();
        if !self.is_for_this_host || !peer.is_loopback() {
            return Ok(None);
        }
        // A proxy of which nobody was told here, and everybody behind it would be the operator.
        if let Some(name) = BY_PROXY.iter().find(|name| headers.contains_key(**name)) {
            let detail = format!(
                "the request came through a proxy (it has the header {name}), and nobody has to sign in"
            );
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "through-a-proxy",
                "A proxy stands in front",
                detail,
            )
            .hint("set `public_url` and `users_file` in [server]"));
        }
        Ok(Some(self.visitor("local", By::Local, peer, "")))
    }

    /// Somebody without a scope. `id` is the session's, where there is one.
    fn visitor(&self, name: &str, by: By, address: IpAddr, id: &str) -> Visitor {
        let role = if by == By::Local { Role::Operator } else { self.role_of(name) };
        let csrf = Some(self.csrf(&format!("{}\0{name}\0{id}", by.as_str())));
        Visitor { name: name.to_owned(), role, by, address, pipelines: None, csrf }
    }

    fn role_of(&self, name: &str) -> Role {
        let is_in = |names: &[String]| names.iter().any(|other| other == name);
        match () {
            () if is_in(&self.operators) => Role::Operator,
            () if is_in(&self.auditors) => Role::Auditor,
            () => Role::Viewer,
        }
    }

    /// Every session that the browser says it has: on plain HTTP anything on this host may have added one.
    pub(super) fn cookies<'a>(&self, headers: &'a HeaderMap) -> Vec<&'a str> {
        let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs = values.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(|(name, _)| *name == self.cookie_name()).map(|(_, id)| id).take(COOKIES_MAX).collect()
    }
}

/// A browser has one.
const COOKIES_MAX: usize = 4;

fn is_token(scheme: &str, text: &str) -> bool {
    scheme.eq_ignore_ascii_case("bearer") && text.trim_start().starts_with(TOKEN_PREFIX)
}

/// The console asks by itself for what has changed.
fn how_used(headers: &HeaderMap) -> Use {
    let by_itself = accepts(headers, "text/event-stream") || headers.contains_key("x-fragment");
    if by_itself { Use::ByItself } else { Use::ByPerson }
}

/// Whether the client names a media type among those that it accepts.
pub(in crate::http) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|text| text.split(',')).any(|range| {
        range.split(';').next().is_some_and(|range| range.trim().eq_ignore_ascii_case(media_type))
    })
}

pub(super) fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Sign in first", detail)
}

pub(super) fn too_many(TooMany { retry_after }: TooMany) -> Problem {
    let seconds = retry_after.as_secs();
    let detail = format!("too many attempts to sign in; the next is possible in {seconds} s");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-attempts", "Too many attempts", detail)
        .hint("wait, then try again; `pgdiode password NAME` makes a new password")
        .header("retry-after", seconds.to_string())
}
