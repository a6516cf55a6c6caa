//! Where a Redis server is and who asks, in one line.
//!
//! ```text
//! redis://[user[:password]@]host[:port][,host2[:port2]..][/database][?option=value&..]
//! rediss://..                                    the same with TLS
//! redis+unix://[user[:password]@]/path/to.sock[?db=database]
//! redis+sentinel://[user[:password]@]sentinel[:port][,sentinel2[:port2]..][/database]?master_name=name
//! rediss+sentinel://..                           the same with TLS, to Sentinels and servers
//! ```
//!
//! Options: `db`, `connect_timeout` in seconds; with TLS `sslrootcert` (a file, or `system`), `sslcert`, `sslkey`. Parts are
//! percent-encoded. Several hosts are a replicated server's, or nodes of one cluster. No error repeats a piece of the
//! text that can belong to a password.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::wire::percent;

pub const DEFAULT_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT_SECONDS_MAX: u64 = 3600;

const FORMS: &str = "write redis://user@host:6379/0, rediss://… for TLS, or redis+unix:///path/to.sock?db=0; special characters in \
     the user's name and password are percent-encoded";

/// `Debug` does not show the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Never empty; a Unix socket stands alone.
    pub hosts: Vec<Host>,
    /// `None` is the server's `default` user.
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// `None` where the text names none.
    pub database: Option<u32>,
    /// The hosts are Sentinels, and this is what they call the primary that is meant.
    pub primary_name: Option<String>,
    /// `None` is a connection that everybody on the way can read.
    pub tls: Option<Tls>,
    /// For each address of each host.
    pub connect_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name, or an address without brackets.
    Tcp {
        name: String,
        port: u16,
    },
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Who vouches for the server; `None` are the authorities that the operating system trusts.
    pub root_certificates: Option<PathBuf>,
    /// Certificate and key, each in PEM form, that we show to the server.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Host {
    pub fn tcp(name: impl Into<String>, port: u16) -> Host {
        Host::Tcp { name: name.into(), port }
    }

    /// `name:port` or the socket's path, for messages.
    pub fn display(&self) -> String {
        match self {
            Host::Tcp { name, port } if name.contains(':') => format!("[{name}]:{port}"),
            Host::Tcp { name, port } => format!("{name}:{port}"),
            Host::Unix(path) => path.display().to_string(),
        }
    }
}

impl Location {
    pub fn parse(text: &str) -> Result<Location> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Error::config("a Redis location has no scheme").hint(FORMS));
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        if path.contains('@') || query.contains('@') {
            return Err(Error::config("a Redis location has an @ behind its host").hint(
                "the first / or ? ends the host: write %2F, %3F and %40 for them in a password or a path",
            ));
        }
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, authority),
        };
        let mut location = match scheme {
            "redis" | "rediss" => {
                Location { database: database(path)?, ..Location::of(hosts(address, DEFAULT_PORT)?) }
            }
            "redis+sentinel" | "rediss+sentinel" => Location {
                database: database(path)?,
                primary_name: Some(String::new()),
                ..Location::of(hosts(address, SENTINEL_PORT)?)
            },
            "redis+unix" | "unix+redis" => Location::of(vec![socket(address, path)?]),
            _ => return Err(Error::config(format!("{scheme}:// is no kind of Redis location")).hint(FORMS)),
        };
        location.tls = scheme.starts_with("rediss").then(Tls::default);
        if let Some(credentials) = credentials {
            location.identify(credentials)?;
        }
        location.apply_options(query)?;
        if location.primary_name.as_ref().is_some_and(String::is_empty) {
            return Err(Error::config("a location with Sentinels does not say which primary is meant").hint(
                "write redis+sentinel://host:26379/0?master_name=mymaster, the name behind `sentinel monitor`",
            ));
        }
        Ok(location)
    }

    /// One server without TLS, for `REDIS_HOST` and `REDIS_PORT`.
    pub fn at(name: &str, port: u16) -> Result<Location> {
        check_host(name)?;
        Ok(Location::of(vec![Host::tcp(name, port)]))
    }

    /// The same, with another user; an empty name is none.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Location {
        self.user = Some(user.into()).filter(|user: &String| !user.is_empty());
        self
    }

    #[must_use]
    pub fn with_password(mut self, password: Secret) -> Location {
        self.password = Some(password);
        self
    }

    /// The location as it is written, but for the password and the options.
    pub fn display(&self) -> String {
        let user = self.user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
        let database =
            |before: &str| self.database.map_or_else(String::new, |database| format!("{before}{database}"));
        if let [Host::Unix(path)] = self.hosts.as_slice() {
            return format!("redis+unix://{user}{}{}", path.display(), database("?db="));
        }
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let (kind, primary) = match &self.primary_name {
            Some(name) => ("+sentinel", format!("?master_name={name}")),
            None => ("", String::new()),
        };
        let hosts: Vec<String> = self.hosts.iter().map(Host::display).collect();
        format!("{scheme}{kind}://{user}{}{}{primary}", hosts.join(","), database("/"))
    }

    fn of(hosts: Vec<Host>) -> Location {
        Location {
            hosts,
            user: None,
            password: None,
            database: None,
            primary_name: None,
            tls: None,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
        }
    }

    fn identify(&mut self, credentials: &str) -> Result<()> {
        let read = |text: &str| {
            percent::decoded(text).ok_or_else(|| {
                Error::config("the user or the password of a Redis location has a % that stands for nothing")
                    .hint("write %25 for a % itself")
            })
        };
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        self.user = Some(read(user)?).filter(|user| !user.is_empty());
        self.password = match password {
            Some("") | None => None,
            Some(password) => Some(Secret::new(read(password)?)),
        };
        Ok(())
    }

    fn apply_options(&mut self, query: &str) -> Result<()> {
        let (mut certificate, mut key) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value =
                percent::decoded(value).ok_or_else(|| bad_option(name, "has a % that stands for nothing"))?;
            match name {
                "db" if self.database.is_some() => {
                    return Err(bad_option(name, "is the second database of this location"));
                }
                "db" => self.database = Some(database_number(&value)?),
                "master_name" if self.primary_name.is_none() => {
                    return Err(
                        bad_option(name, "means nothing without Sentinels").hint("write redis+sentinel://…")
                    );
                }
                "master_name" => self.primary_name = Some(value),
                "connect_timeout" => self.connect_timeout = seconds(&value)?,
                "sslrootcert" | "sslcert" | "sslkey" => {
                    let Some(tls) = &mut self.tls else {
                        return Err(bad_option(name, "means nothing without TLS").hint("write rediss://…"));
                    };
                    match name {
                        "sslrootcert" => tls.root_certificates = (value != "system").then(|| value.into()),
                        "sslcert" => certificate = Some(PathBuf::from(value)),
                        _ => key = Some(PathBuf::from(value)),
                    }
                }
                _ => return Err(bad_option(name, "is unknown")),
            }
        }
        match (certificate, key) {
            (None, None) => Ok(()),
            (Some(certificate), Some(key)) => {
                self.tls = self.tls.take().map(|tls| Tls { client: Some((certificate, key)), ..tls });
                Ok(())
            }
            _ => Err(Error::config("a Redis location has one of sslcert and sslkey without the other").hint(
                "give the file of the client's certificate as sslcert, and of its private key as sslkey",
            )),
        }
    }
}

fn bad_option(name: &str, problem: &str) -> Error {
    Error::config(format!("option {name:?} of a Redis location {problem}"))
        .hint("there are db, connect_timeout, and with rediss:// sslrootcert, sslcert and sslkey")
}

fn hosts(text: &str, port: u16) -> Result<Vec<Host>> {
    text.split(',').map(|text| host(text, port)).collect()
}

fn host(text: &str, default_port: u16) -> Result<Host> {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, "")) => (name, None),
        Some((name, rest)) => (name, Some(rest.strip_prefix(':').unwrap_or(rest))),
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    check_host(name)?;
    let port = match port {
        None | Some("") => default_port,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
            // What stands there may be a password whose @ is missing.
            Error::config(format!("host {name:?} of a Redis location has no port behind its colon"))
                .hint("a port is 1 to 65535; an IPv6 address stands in brackets: redis://[::1]:6379")
        })?,
    };
    Ok(Host::tcp(name, port))
}

fn check_host(name: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte) || !byte.is_ascii();
    if name.is_empty() || !name.bytes().all(fits) {
        return Err(Error::config("a Redis location names no host").hint(FORMS));
    }
    Ok(())
}

fn socket(address: &str, path: &str) -> Result<Host> {
    let no_path = || Error::config("a redis+unix:// location has no absolute path").hint(FORMS);
    let path = percent::decoded(path).ok_or_else(no_path)?;
    let is_path = address.is_empty() && Path::new(&path).file_name().is_some();
    if is_path { Ok(Host::Unix(path.into())) } else { Err(no_path()) }
}

fn database(path: &str) -> Result<Option<u32>> {
    match path.trim_matches('/') {
        "" => Ok(None),
        number => database_number(number).map(Some),
    }
}

fn database_number(text: &str) -> Result<u32> {
    text.parse().map_err(|_| {
        Error::config("the database of a Redis location is no number")
            .hint("Redis numbers its databases from 0: redis://host:6379/0")
    })
}

fn seconds(text: &str) -> Result<Duration> {
    let seconds = text.parse().ok().filter(|seconds| (1..=CONNECT_TIMEOUT_SECONDS_MAX).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| {
        bad_option("connect_timeout", &format!("is not 1 to {CONNECT_TIMEOUT_SECONDS_MAX} seconds"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_with_a_hint(
            text in "(redis|rediss|redis\\+unix|redis\\+sentinel)://[a-z0-9:@/?&=%,.é\\[\\]]{0,40}"
        ) {
            match Location::parse(&text) {
                Ok(location) => assert!(!location.hosts.is_empty()),
                Err(error) => assert!(error.hint_text().is_some(), "{error:?}"),
            }
        }
    }

    #[test]
    fn locations_are_read_and_shown_without_their_secrets() {
        for (text, shown) in [
            ("redis://host", "redis://host:6379"),
            (" redis://host:6380/2\n", "redis://host:6380/2"),
            ("redis://host/", "redis://host:6379"),
            ("redis://host?db=3", "redis://host:6379/3"),
            ("redis://:hunter2@host/0", "redis://host:6379/0"),
            ("redis://chat:hunter2@host", "redis://chat@host:6379"),
            ("redis://chat@host", "redis://chat@host:6379"),
            ("rediss://a:7000,b,[2001:db8::1]:7002", "rediss://a:7000,b:6379,[2001:db8::1]:7002"),
            ("redis://[::1]", "redis://[::1]:6379"),
            (
                "redis+sentinel://chat:hunter2@a,b:7/1?master_name=main",
                "redis+sentinel://chat@a:26379,b:7/1?master_name=main",
            ),
            ("rediss+sentinel://a?master_name=main", "rediss+sentinel://a:26379?master_name=main"),
            ("redis+unix:///run/redis/a%20b.sock?db=1", "redis+unix:///run/redis/a b.sock?db=1"),
            ("unix+redis://chat:hunter2@/run/r.sock", "redis+unix://chat@/run/r.sock"),
        ] {
            let location = Location::parse(text).unwrap();
            assert_eq!(location.display(), shown, "{text}");
            assert!(!format!("{location:?}").contains("hunter2"), "{location:?}");
            let given = location.password.as_ref().map(Secret::reveal);
            assert_eq!(given, text.contains("hunter2").then_some("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_is_percent_encoded_is_read_as_it_is_meant() {
        let location = Location::parse("redis://a%40b:p%2F%3F%3a+:%25@host").unwrap();
        assert_eq!(location.user.as_deref(), Some("a@b"));
        assert_eq!(location.password.as_ref().map(Secret::reveal), Some("p/?:+:%"));
        let location = Location::parse("redis://:p@ss@host").unwrap();
        assert_eq!(location.password.as_ref().map(Secret::reveal), Some("p@ss"));
    }

    #[test]
    fn options_are_read() {
        let text = "rediss://host?sslrootcert=/etc/ca.pem&sslcert=c.pem&sslkey=k.pem&connect_timeout=3";
        let location = Location::parse(text).unwrap();
        let tls = location.tls.unwrap();
        assert_eq!(tls.root_certificates, Some("/etc/ca.pem".into()));
        assert_eq!(tls.client, Some(("c.pem".into(), "k.pem".into())));
        assert_eq!(location.connect_timeout, Duration::from_secs(3));
        let system = Location::parse("rediss://host?sslrootcert=system").unwrap();
        assert_eq!(system.tls, Some(Tls::default()));
        assert_eq!(Location::parse("redis://host").unwrap().tls, None);
    }

    #[test]
    fn user_and_password_can_come_from_elsewhere() {
        let location = Location::at("::1", 6379).unwrap().with_user("chat").with_password(Secret::new("x"));
        assert_eq!(location.display(), "redis://chat@[::1]:6379");
        assert_eq!(location.password.as_ref().map(Secret::reveal), Some("x"));
        assert_eq!(location.with_user("").user, None);
        assert!(Location::at("no host", 1).is_err());
    }

    #[test]
    fn what_names_no_server_is_refused_with_a_hint() {
        for (text, expected) in [
            ("", "no scheme"),
            ("host:6379", "no scheme"),
            ("http://host", "no kind"),
            ("redis://", "names no host"),
            ("redis://a,,b", "names no host"),
            ("redis://a b", "names no host"),
            ("redis://host:0", "no port"),
            ("redis://host:70000", "no port"),
            ("redis://::1", "names no host"),
            ("redis://host/zero", "no number"),
            ("redis://host/1?db=2", "second database"),
            ("redis://host?db=-1", "no number"),
            ("redis://host?connect_timeout=0", "is not 1 to"),
            ("redis://host?sslrootcert=ca.pem", "without TLS"),
            ("rediss://host?sslcert=c.pem", "without the other"),
            ("rediss://host?ssl=1", "unknown"),
            ("redis+unix://run/redis.sock", "no absolute path"),
            ("redis+unix://", "no absolute path"),
            ("redis+unix:///a%00", "no absolute path"),
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(error.what().contains(expected) && error.hint_text().is_some(), "{text}: {error:?}");
        }
    }

    #[test]
    fn no_error_repeats_a_password() {
        for text in [
            "redis://:hunter2/hunter2@host",
            "redis://:hunter2?hunter2@host",
            "redis://:hunter2%zz@host",
            "redis://user:hunter2",
            "redis://user:hunter2@",
            "redis://user:hunter2@ho st",
            "redis://user:hunter2@host/db",
            "redis://host?password=hunter2",
            "user:hunter2@host",
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
