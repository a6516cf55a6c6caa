//! The HTTP door: where it listens, who may come in, and what is refused before it opens.
//!
//! One rule is checked whatever else is configured ([`ServerOptions::check_safe`]): beyond this host nobody is let in
//! without TLS and without saying who they are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use super::{Key, Place, Section, Shape, Shown};
use crate::credentials::{Users, is_name};
use crate::error::{Error, Result};

section! {
    /// The HTTP door: console, API and metrics. It opens when this section is there. On a loopback address without
    /// `users_file`, everybody who has an account on this host may do everything through it.
    ServerOptions {
        /// Where it listens: an IP address and a port. Any but a loopback address needs TLS, or `behind_proxy`, and
        /// somebody to let in: `users_file`, `tokens_file` or `proxy_user_header`.
        listen: String = "127.0.0.1:8000".to_owned(), Shape::Text, r#""[::]:8443""#;
        /// The address that people type, where it is not that of `listen`: a name, or the address of a proxy. Requests
        /// that name any other host are refused, so that no foreign page can pass for this one.
        public_url: Option<String> = None, Shape::Text, r#""https://replica.example.com""#;
        /// The certificate of this server and those that vouch for it: a PEM file.
        tls_certificate: Option<PathBuf> = None, Shape::Path, r#""/etc/pgdiode/server.crt""#;
        /// Its private key: a PEM file.
        tls_key: Option<PathBuf> = None, Shape::Path, r#""/etc/pgdiode/server.key""#;
        /// A proxy in front does TLS, and between it and pgdiode is a network that can be trusted. Needs `public_url`.
        behind_proxy: bool = false, Shape::Switch;
        /// Who signs in, a user a line: `NAME:HASH`, as `pgdiode password NAME` or `htpasswd -B` writes it. Hashes of bcrypt
        /// and argon2id are accepted, no others. A change counts from the next request on.
        users_file: Option<PathBuf> = None, Shape::Path, r#""/etc/pgdiode/users""#;
        /// Which users act: sync, verify, resync, pause and whatever else changes something.
        operators: Vec<String> = Vec::new(), Shape::Texts, r#"["alice"]"#;
        /// Which users see, check and export the audit log, and change nothing. Everybody else is a viewer, who sees
        /// everything but that log.
        auditors: Vec<String> = Vec::new(), Shape::Texts, r#"["carol"]"#;
        /// Tokens for machines, one a line, as `pgdiode token NAME` writes it. A change counts from the next request on.
        tokens_file: Option<PathBuf> = None, Shape::Path, r#""/etc/pgdiode/tokens""#;
        /// Which peers are proxies: addresses, or networks as `10.0.0.0/8`. From these alone `proxy_user_header` is
        /// believed, and `X-Forwarded-For` for the client's address.
        trusted_proxies: Vec<String> = Vec::new(), Shape::Texts, r#"["10.0.0.0/8"]"#;
        /// The header in which a trusted proxy says who has signed in there. The proxy must remove it from what clients
        /// send. Empty: no header is believed.
        proxy_user_header: String = String::new(), Shape::Text, r#""X-Auth-Request-User""#;
        /// A session ends when nothing was asked for so long, and in any case after 12 hours.
        session_idle_minutes: u64 = 15, Shape::Whole(1, 720);
        /// Whether `/metrics` answers without signing in. Left out: on a loopback address alone.
        metrics_public: Option<bool> = None, Shape::Switch, "true";
        /// How often a wrong password may be sent from one address within a minute; for one user, from wherever, three
        /// times as often.
        login_attempts_per_minute: u64 = 10, Shape::Whole(1, 1000);
    }
}

shown! {
    Option<bool>: |_| None,
    Option<ServerOptions>: |_| None,
}

/// What people type: `https://replica.example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    pub is_https: bool,
    /// Host and, where it is not the scheme's own, port; in lower case.
    pub authority: String,
}

impl ServerOptions {
    /// All defaults but the address: what `--listen` makes.
    pub fn listening(address: &str) -> ServerOptions {
        ServerOptions { listen: address.to_owned(), ..ServerOptions::default() }
    }

    /// `listen`, understood.
    pub fn address(&self) -> Result<SocketAddr> {
        let text = self.listen.trim();
        if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
            return Ok((Ipv4Addr::LOCALHOST, port).into());
        }
        text.parse().map_err(|_| {
            Error::config(format!("listen: \"{text}\" is no IP address and port")).hint(
                "for example 127.0.0.1:8000, [::1]:8000, or 0.0.0.0:8443 for every address of this host",
            )
        })
    }

    /// `public_url`, understood.
    pub fn public(&self) -> Result<Option<PublicUrl>> {
        self.public_url.as_deref().map(PublicUrl::parse).transpose()
    }

    /// `trusted_proxies`, understood.
    pub fn proxies(&self) -> Result<Vec<IpNet>> {
        let understood = |text: &String| {
            let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            net.map_err(|_| {
                Error::config(format!("trusted_proxies: \"{text}\" is no address and no network"))
                    .hint("for example 10.1.2.3, 10.0.0.0/8 or fd00::/8")
            })
        };
        self.trusted_proxies.iter().map(understood).collect()
    }

    /// Whether TLS ends here.
    pub fn has_tls(&self) -> bool {
        self.tls_certificate.is_some()
    }

    /// Whether browsers come by `https`, here or at a proxy.
    pub fn is_https(&self) -> bool {
        self.has_tls() || self.public().ok().flatten().is_some_and(|url| url.is_https)
    }

    /// Whether whoever comes from this host is let in as its operator, without signing in.
    pub fn is_for_this_host(&self) -> bool {
        let for_others = self.public_url.is_some() || self.behind_proxy;
        let signs_in = self.users_file.is_some() || self.believes_proxies();
        !signs_in && !for_others && self.is_loopback()
    }

    pub fn believes_proxies(&self) -> bool {
        !self.proxy_user_header.is_empty()
    }

    /// Names with a role that nobody has: a slip of the pen, or waiting for somebody to take that name.
    pub fn strangers<'a>(&'a self, users: &'a Users) -> impl Iterator<Item = &'a str> {
        let named = self.operators.iter().chain(&self.auditors);
        named.map(String::as_str).filter(|name| users.password(name).is_none())
    }

    /// `metrics_public`, decided.
    pub fn metrics_are_public(&self) -> bool {
        self.metrics_public.unwrap_or_else(|| self.is_loopback())
    }

    fn is_loopback(&self) -> bool {
        self.address().is_ok_and(|address| address.ip().to_canonical().is_loopback())
    }

    /// Refuses to let strangers in, or to have passwords read on their way.
    pub fn check_safe(&self) -> Result<()> {
        let address = self.address()?;
        let is_protected = self.has_tls() || self.behind_proxy;
        let knows_somebody =
            self.users_file.is_some() || self.tokens_file.is_some() || self.believes_proxies();
        let known = "name who may come in: users_file (`pgdiode password NAME` writes a line of it), tokens_file \
                     (`pgdiode token NAME`) or proxy_user_header";
        if !self.is_loopback() && !is_protected {
            return Err(Error::config(format!("{address} can be reached from other hosts, and there is no TLS"))
                .hint(
                    "set tls_certificate and tls_key; or behind_proxy = true where a proxy does TLS; or listen on \
                     127.0.0.1 and come through an SSH tunnel",
                ));
        }
        if !self.is_loopback() && !knows_somebody {
            return Err(Error::config(format!(
                "{address} can be reached from other hosts, and nobody has to sign in"
            ))
            .hint(known));
        }
        if (self.public_url.is_some() || self.behind_proxy) && !knows_somebody {
            return Err(Error::config(
                "public_url and behind_proxy lead others here, and nobody has to sign in: each would be the operator",
            )
            .hint(known));
        }
        Ok(())
    }

    pub(super) fn check(&self, at: Place<'_>) -> Result<()> {
        let place = |key: &'static str| move |error: Error| error.context(at(&["server", key]));
        self.address().map_err(place("listen"))?;
        let public = self.public().map_err(place("public_url"))?;
        self.proxies().map_err(place("trusted_proxies"))?;
        self.check_tls().map_err(place("tls_certificate"))?;
        self.check_header().map_err(place("proxy_user_header"))?;
        self.check_names().map_err(place("operators"))?;
        if self.behind_proxy && public.is_none() {
            return Err(Error::config(format!(
                "{}: the proxy's address is missing",
                at(&["server", "behind_proxy"])
            ))
            .hint("set public_url to what people type, for example \"https://replica.example.com\""));
        }
        self.check_safe().map_err(place("listen"))
    }

    fn check_tls(&self) -> Result<()> {
        if self.tls_certificate.is_some() == self.tls_key.is_some() {
            return Ok(());
        }
        Err(Error::config("a certificate and its key belong together")
            .hint("set tls_certificate and tls_key both"))
    }

    fn check_header(&self) -> Result<()> {
        let name = &self.proxy_user_header;
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(Error::config(format!("proxy_user_header: \"{name}\" is no header's name"))
                .hint("use letters, digits and -, for example X-Auth-Request-User"));
        }
        if self.believes_proxies() && self.trusted_proxies.is_empty() {
            return Err(Error::config(format!(
                "{name} would be believed of nobody: trusted_proxies is empty"
            ))
            .hint("name the proxies' addresses, for example trusted_proxies = [\"10.1.2.3\"]"));
        }
        Ok(())
    }

    fn check_names(&self) -> Result<()> {
        if let Some(name) = self.operators.iter().chain(&self.auditors).find(|name| !is_name(name)) {
            return Err(Error::config(format!("\"{name}\" cannot be a user's name"))
                .hint("use letters, digits and . _ @ + -, at most 64 characters"));
        }
        if let Some(name) = self.operators.iter().find(|name| self.auditors.contains(name)) {
            return Err(Error::config(format!("\"{name}\" is in operators and in auditors")).hint(
                "who checks the log should not be who acts; an operator sees the audit log in any case",
            ));
        }
        Ok(())
    }

    /// Makes relative paths count from `directory`.
    pub(super) fn anchor(&mut self, directory: &Path) {
        let paths =
            [&mut self.tls_certificate, &mut self.tls_key, &mut self.users_file, &mut self.tokens_file];
        for path in paths.into_iter().flatten() {
            *path = directory.join(&*path);
        }
    }
}

impl PublicUrl {
    fn parse(text: &str) -> Result<PublicUrl> {
        let wrong = || {
            Error::config(format!("public_url: \"{text}\" is no address of a server"))
                .hint("for example https://replica.example.com or http://10.1.2.3:8000, without a path")
        };
        let lower = text.trim().to_ascii_lowercase();
        let (scheme, rest) = lower.split_once("://").ok_or_else(wrong)?;
        let (is_https, own_port) = match scheme {
            "https" => (true, ":443"),
            "http" => (false, ":80"),
            _ => return Err(wrong()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority = rest.strip_suffix(own_port).unwrap_or(rest);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if authority.is_empty() || !authority.bytes().all(is_plain) {
            return Err(wrong());
        }
        Ok(PublicUrl { is_https, authority: authority.to_owned() })
    }

    /// As browsers write it in `Origin`.
    pub fn origin(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests;
