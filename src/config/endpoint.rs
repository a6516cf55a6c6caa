//! Where a database is: kept as it was written, a libpq text or a table of connection parameters.
//!
//! Passwords come by reference: `password_env` names a variable, `password_file` a file that only its owner may read.
//! They are looked up when a connection is made, so that a rotated password needs no restart.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Key, Shape, Variable};
use crate::error::{Error, Result, Side};
use crate::redis;
use crate::secret::Secret;
use crate::store::{Location, StoreOptions};

#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Written")]
pub struct Endpoint {
    /// A libpq URI or `key=value` text; may hold a password.
    text: Option<Secret>,
    /// libpq's parameters, a list joined with commas; they override the text.
    parameters: BTreeMap<String, Secret>,
    password_file: Option<PathBuf>,
    password_env: Option<String>,
}

/// An endpoint's parts with the password looked up: `parameters` override what `text` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conninfo {
    pub text: Option<Secret>,
    pub parameters: BTreeMap<String, Secret>,
}

/// A Redis server as it was written, with the password looked up; a key overrides what the text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisEnd {
    /// `redis://user:password@host:port/0`; may hold a password.
    pub text: Secret,
    pub password: Option<Secret>,
    /// Of `user`, `sslrootcert`, `sslcert`, `sslkey` and `connect_timeout` those that were set.
    pub parameters: BTreeMap<String, Secret>,
}

impl Endpoint {
    pub fn from_text(text: impl Into<String>) -> Endpoint {
        Endpoint { text: Some(Secret::new(text)), ..Endpoint::default() }
    }

    /// From parameters and the name of the variable that holds the password.
    pub(super) fn from_parameters(parameters: Vec<(&str, String)>, password_env: Option<String>) -> Endpoint {
        let parameters =
            parameters.into_iter().map(|(name, value)| (name.to_owned(), Secret::new(value))).collect();
        Endpoint { parameters, password_env, ..Endpoint::default() }
    }

    /// What to connect to, the password looked up.
    pub fn conninfo(&self) -> Result<Conninfo> {
        self.conninfo_with(&|name| std::env::var(name).ok())
    }

    fn conninfo_with(&self, variable: Variable<'_>) -> Result<Conninfo> {
        let mut parameters = self.parameters.clone();
        if let Some(name) = &self.password_env {
            let password = variable(name).ok_or_else(|| {
                Error::config(format!("the variable {name}, named by password_env, is not set"))
                    .hint(format!("set {name} to the password in the environment of pgdiode"))
            })?;
            parameters.insert("password".into(), Secret::new(password));
        }
        if let Some(path) = &self.password_file {
            parameters.insert("password".into(), read_password(path)?);
        }
        Ok(Conninfo { text: self.text.clone(), parameters })
    }

    /// That there is a password, and where it comes from; `None` where none is configured.
    pub(super) fn password_origin(&self) -> Option<String> {
        if let Some(path) = &self.password_file {
            return Some(format!("set, in {}", path.display()));
        }
        if let Some(name) = &self.password_env {
            let is_set = std::env::var_os(name).is_some();
            return Some(format!("{}, in the variable {name}", if is_set { "set" } else { "unset" }));
        }
        let text = self.text.as_ref().map_or("", |text| text.reveal());
        let in_uri = text.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
        let in_text = in_uri.is_some_and(|(user, _)| user.contains(':')) || text.contains("password=");
        (in_text || self.parameters.contains_key("password")).then(|| "set, in the configuration".into())
    }

    /// Whether this is an archive and no database: `sftp://`, `s3://`, `file://`, an absolute path, or key `archive`.
    pub fn is_archive(&self) -> bool {
        self.archive_text().is_some()
    }

    /// Whether this is a Redis server: `redis://`, `rediss://`, `redis+unix://`, or key `redis`.
    pub fn is_redis(&self) -> bool {
        self.redis_text().is_some()
    }

    fn redis_text(&self) -> Option<&str> {
        if let Some(redis) = self.parameters.get("redis") {
            return Some(redis.reveal());
        }
        let text = self.text.as_ref()?.reveal().trim();
        ["redis://", "rediss://", "redis+unix://", "unix+redis://", "redis+sentinel://", "rediss+sentinel://"]
            .iter()
            .any(|start| text.starts_with(start))
            .then_some(text)
    }

    /// Where the Redis server is, the password looked up; `None` for anything else.
    pub fn redis(&self) -> Result<Option<RedisEnd>> {
        self.redis_with(&|name| std::env::var(name).ok())
    }

    fn redis_with(&self, variable: Variable<'_>) -> Result<Option<RedisEnd>> {
        let Some(text) = self.redis_text() else { return Ok(None) };
        self.check_redis()?;
        let mut parameters = self.conninfo_with(variable)?.parameters;
        parameters.remove("redis");
        let password = parameters.remove("password");
        Ok(Some(RedisEnd { text: Secret::new(text), password, parameters }))
    }

    /// Whether a Redis server's location can be read, and the keys beside it are a Redis server's.
    pub(super) fn check_redis(&self) -> Result<()> {
        self.redis_text().map(redis::location::Location::parse).transpose()?;
        const KNOWN: [&str; 7] =
            ["redis", "user", "password", "sslrootcert", "sslcert", "sslkey", "connect_timeout"];
        let other = self.parameters.keys().find(|name| !KNOWN.contains(&name.as_str()));
        other.map_or(Ok(()), |other| {
            Err(Error::config(format!("{other} is a database's key, and this is a Redis server")).hint(
                "a Redis server takes: redis, user, password_file, password_env, sslrootcert, sslcert, sslkey, \
                 connect_timeout",
            ))
        })
    }

    fn archive_text(&self) -> Option<&str> {
        if let Some(archive) = self.parameters.get("archive") {
            return Some(archive.reveal());
        }
        let text = self.text.as_ref()?.reveal().trim_start();
        ["/", "file://", "sftp://", "s3://"].iter().any(|start| text.starts_with(start)).then_some(text)
    }

    /// Where the archive is and how to get in; `None` for a database.
    pub fn archive(&self, side: Side) -> Result<Option<(Location, StoreOptions)>> {
        self.archive_with(side, &|name| std::env::var(name).ok())
    }

    fn archive_with(&self, side: Side, variable: Variable<'_>) -> Result<Option<(Location, StoreOptions)>> {
        let Some(text) = self.archive_text() else { return Ok(None) };
        let location = Location::parse(text)?;
        let mut options = StoreOptions::new(side);
        let named = |key: &str| -> Result<Option<Secret>> {
            let Some(name) = self.parameters.get(key).map(Secret::reveal) else { return Ok(None) };
            let unset = || {
                Error::config(format!("the variable {name}, named by {key}, is not set"))
                    .hint(format!("set {name} in the environment of pgdiode"))
            };
            variable(name).map(Secret::new).map(Some).ok_or_else(unset)
        };
        for (key, value) in &self.parameters {
            match key.as_str() {
                "archive" | "passphrase_env" | "secret_access_key_env" => {}
                "identity_file" => options.sftp.identity_files = vec![value.reveal().into()],
                "known_hosts" => options.sftp.known_hosts = value.reveal().into(),
                "access_key_id" => options.s3.access_key_id = Some(value.reveal().to_owned()),
                other => {
                    return Err(Error::config(format!("{other} is a database's key, and {location} is an archive"))
                        .hint("an archive takes: archive, identity_file, known_hosts, passphrase_env, access_key_id, secret_access_key_env"));
                }
            }
        }
        options.sftp.passphrase = named("passphrase_env")?;
        options.s3.secret_access_key = named("secret_access_key_env")?;
        Ok(Some((location, options)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parameters.is_empty() && self.text.as_ref().is_none_or(|text| text.reveal().trim().is_empty())
    }

    /// Whether a password stands here literally.
    pub(super) fn holds_password(&self) -> bool {
        let in_text = self.text.as_ref().is_some_and(|text| {
            let text = text.reveal();
            let user = text.split_once("://").map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or(rest));
            let in_uri =
                user.and_then(|rest| rest.rsplit_once('@')).is_some_and(|(user, _)| user.contains(':'));
            in_uri || text.contains("password=") || text.contains("password =")
        });
        in_text || self.parameters.contains_key("password")
    }

    pub(super) fn anchor(&mut self, directory: &Path) {
        if let Some(path) = &mut self.password_file {
            *path = directory.join(&*path);
        }
        for key in ["identity_file", "known_hosts"] {
            if let Some(path) = self.parameters.get_mut(key) {
                *path = Secret::new(directory.join(path.reveal()).to_string_lossy());
            }
        }
    }
}

fn read_password(path: &Path) -> Result<Secret> {
    if others_can_read(path) {
        return Err(Error::config(format!("password file {} can be read by other users", path.display()))
            .hint(format!("run `chmod 600 {}`", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::config(format!("cannot read password file {}", path.display()))
            .hint("check the path and its owner; it counts from the configuration file's directory")
            .because(error)
    })?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Error::config(format!("password file {} is empty", path.display()))
            .hint("write the password as its only line"));
    }
    Ok(Secret::new(password))
}

/// Whether the group or others may read the file.
pub(super) fn others_can_read(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o044 != 0)
}

/// Parameters by name, everything that may be secret hidden.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        if let Some(text) = &self.text {
            map.entry(&"url", text);
        }
        for (name, value) in &self.parameters {
            // `options` and `service` are harmless most of the time; only what always is, is shown.
            if matches!(name.as_str(), "host" | "port" | "dbname" | "user" | "sslmode") {
                map.entry(name, &value.reveal());
            } else {
                map.entry(name, value);
            }
        }
        if let Some(path) = &self.password_file {
            map.entry(&"password_file", path);
        }
        if let Some(name) = &self.password_env {
            map.entry(&"password_env", name);
        }
        map.finish()
    }
}

/// An endpoint as the file has it; the shapes have been checked before.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Table(BTreeMap<String, Parameter>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Parameter {
    Number(u64),
    Text(String),
    List(Vec<String>),
}

impl From<Written> for Endpoint {
    fn from(written: Written) -> Endpoint {
        let table = match written {
            Written::Text(text) => return Endpoint::from_text(text),
            Written::Table(table) => table,
        };
        let mut endpoint = Endpoint::default();
        let mut hosts = Vec::new();
        for (name, value) in table {
            let text = match value {
                Parameter::Number(number) => number.to_string(),
                Parameter::Text(text) => text,
                Parameter::List(list) => {
                    hosts = list;
                    continue;
                }
            };
            match name.as_str() {
                "url" => endpoint.text = Some(Secret::new(text)),
                "password_file" => endpoint.password_file = Some(text.into()),
                "password_env" => endpoint.password_env = Some(text),
                _ => drop(endpoint.parameters.insert(name, Secret::new(text))),
            }
        }
        if !hosts.is_empty() {
            endpoint.set_hosts(&hosts);
        }
        endpoint
    }
}

impl Endpoint {
    /// libpq takes two lists of equal length; a host without a port takes `port`, or the default when that is empty.
    fn set_hosts(&mut self, hosts: &[String]) {
        let default = self.parameters.get("port").map_or("", Secret::reveal).to_owned();
        let pairs: Vec<(&str, &str)> = hosts.iter().map(|host| split_port(host)).collect();
        let names: Vec<&str> = pairs.iter().map(|(host, _)| *host).collect();
        let ports: Vec<&str> =
            pairs.iter().map(|(_, port)| if port.is_empty() { &default } else { *port }).collect();
        self.parameters.insert("host".into(), Secret::new(names.join(",")));
        self.parameters.insert("port".into(), Secret::new(ports.join(",")));
    }
}

/// `host:port`, `host`, `[address]:port`, `[address]` or a bare IPv6 address.
fn split_port(host: &str) -> (&str, &str) {
    if let Some((address, rest)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        return (address, rest.strip_prefix(':').unwrap_or(""));
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, port),
        _ => (host, ""),
    }
}

/// The keys of `[pipeline.NAME.source]` and `[pipeline.NAME.target]`.
pub(super) fn parameters() -> Vec<Key> {
    const SSLMODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
    const SESSIONS: &[&str] = &["any", "read-write", "read-only", "primary", "standby", "prefer-standby"];
    const ON_OFF: Shape = Shape::Whole(0, 1);
    const SECONDS: Shape = Shape::Whole(0, 86_400);
    [
        ("url", Shape::Text, r#""postgresql://repl@db1/app""#, "A libpq URI or `key=value` text; the other keys override its parts."),
        ("host", Shape::Text, r#""db1""#, "Host name, address, or directory of the Unix socket."),
        ("hosts", Shape::Texts, r#"["db1:5432", "db2:5432"]"#, "Several hosts, tried in this order, each with its port."),
        ("hostaddr", Shape::Text, r#""192.0.2.7""#, "The host's address, to spare its look-up; `host` is still what the certificate is checked against."),
        ("port", Shape::Whole(1, 65_535), "5432", "Port."),
        ("dbname", Shape::Text, r#""app""#, "Database."),
        ("user", Shape::Text, r#""repl""#, "Role."),
        ("password", Shape::Text, "", "The password itself. Prefer `password_file` or `password_env`."),
        ("password_file", Shape::Path, r#""/run/secrets/source""#, "A file whose only line is the password; refused when other users can read it."),
        ("password_env", Shape::Text, r#""SOURCE_PASSWORD""#, "The environment variable that holds the password."),
        ("passfile", Shape::Path, r#""/etc/pgdiode/pgpass""#, "A file of passwords in the format of `~/.pgpass`."),
        ("service", Shape::Text, r#""mirror""#, "A section of `pg_service.conf`."),
        ("sslmode", Shape::Choice(SSLMODES), r#""verify-full""#, "How much TLS is required."),
        ("sslrootcert", Shape::Path, r#""/etc/ssl/db-ca.pem""#, "The authorities that may sign the server's certificate; `system` for the system's own."),
        ("sslcert", Shape::Path, r#""/etc/pgdiode/client.pem""#, "The client's certificate."),
        ("sslkey", Shape::Path, r#""/etc/pgdiode/client.key""#, "The client certificate's private key."),
        ("channel_binding", Shape::Choice(&["disable", "prefer", "require"]), r#""require""#, "Whether authentication is bound to the TLS connection."),
        ("connect_timeout", SECONDS, "10", "Seconds to wait for a connection."),
        ("application_name", Shape::Text, r#""pgdiode""#, "Shown in `pg_stat_activity`."),
        ("options", Shape::Text, r#""-c statement_timeout=0""#, "Options sent to the server at the start of each session."),
        ("target_session_attrs", Shape::Choice(SESSIONS), r#""read-write""#, "Which of several hosts will do."),
        ("keepalives", ON_OFF, "1", "Whether TCP keepalives are sent."),
        ("keepalives_idle", SECONDS, "60", "Seconds of silence before the first keepalive."),
        ("keepalives_interval", SECONDS, "10", "Seconds between keepalives."),
        ("keepalives_count", Shape::Whole(0, 1000), "6", "Lost keepalives that end the connection."),
        ("archive", Shape::Text, r#""sftp://backup@host:22/changes""#, "No database but an archive of change files: `/path`, `sftp://user@host:port/path`, or `s3://bucket/prefix?endpoint=https://host&region=name`."),
        ("redis", Shape::Text, r#""redis://pgdiode@cache1:6379""#, "No database but a Redis server: `redis://`, over TLS `rediss://`, over a socket `redis+unix:///path`, by Sentinels `redis+sentinel://host:26379?master_name=name`."),
        ("identity_file", Shape::Path, r#""/etc/pgdiode/id_ed25519""#, "Of an archive over SFTP: the private key. Left out: the agent, then the user's own keys."),
        ("known_hosts", Shape::Path, r#""/etc/pgdiode/known_hosts""#, "Of an archive over SFTP: which host keys are believed. Left out: `~/.ssh/known_hosts`."),
        ("passphrase_env", Shape::Text, r#""KEY_PASSPHRASE""#, "The environment variable that holds the private key's passphrase."),
        ("access_key_id", Shape::Text, r#""AKIDEXAMPLE""#, "Of an archive in S3: who asks. Left out: `AWS_ACCESS_KEY_ID` and the other usual places."),
        ("secret_access_key_env", Shape::Text, r#""ARCHIVE_SECRET""#, "The environment variable that holds the secret access key."),
        ("tcp_user_timeout", Shape::Whole(0, 86_400_000), "30000", "Milliseconds that sent data may stay unacknowledged."),
    ]
    .into_iter()
    .map(|(name, shape, example, text)| Key { name, shape, default: None, example, text })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        toml::from_str(text).unwrap()
    }

    fn revealed(conninfo: &Conninfo) -> Vec<(&str, &str)> {
        conninfo.parameters.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect()
    }

    #[test]
    fn hosts_become_the_two_lists_of_libpq() {
        let hosts = endpoint(r#"hosts = ["db1:5433", "db2", "[::1]:5434", "fe80::1"]"#);
        let conninfo = hosts.conninfo_with(&|_| None).unwrap();
        assert_eq!(revealed(&conninfo), [("host", "db1,db2,::1,fe80::1"), ("port", "5433,,5434,")]);
        let hosts = endpoint("hosts = [\"db1\", \"db2:6000\"]\nport = 5499");
        assert_eq!(revealed(&hosts.conninfo_with(&|_| None).unwrap())[1], ("port", "5499,6000"));
    }

    #[test]
    fn passwords_come_by_reference() {
        let by_name = endpoint("host = \"db1\"\npassword_env = \"PW\"");
        let found = by_name.conninfo_with(&|name| (name == "PW").then(|| "s3cret".into())).unwrap();
        assert_eq!(revealed(&found), [("host", "db1"), ("password", "s3cret")]);
        let missing = by_name.conninfo_with(&|_| None).unwrap_err();
        assert_eq!(missing.what(), "the variable PW, named by password_env, is not set");
    }

    #[test]
    fn a_password_file_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "s3cret\n").unwrap();
        let mut endpoint = endpoint("password_file = \"password\"");
        endpoint.anchor(directory.path());
        for (mode, accepted) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let conninfo = endpoint.conninfo_with(&|_| None);
            assert_eq!(conninfo.is_ok(), accepted, "mode {mode:o}");
            match conninfo {
                Ok(conninfo) => assert_eq!(revealed(&conninfo), [("password", "s3cret")]),
                Err(error) => assert!(error.what().ends_with("can be read by other users"), "{error:?}"),
            }
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "\n").unwrap();
        assert!(endpoint.conninfo_with(&|_| None).unwrap_err().what().ends_with("is empty"));
        std::fs::remove_file(&path).unwrap();
        assert!(
            endpoint.conninfo_with(&|_| None).unwrap_err().what().starts_with("cannot read password file")
        );
    }

    #[test]
    fn an_archive_is_told_from_a_database() {
        for text in ["/srv/changes", "file:///srv/changes", "sftp://u@h/changes", "s3://bucket/changes"] {
            assert!(Endpoint::from_text(text).archive(Side::Source).unwrap().is_some(), "{text}");
        }
        for text in ["postgresql://u@h/d", "host=/run/postgresql dbname=d", "service=s"] {
            assert!(Endpoint::from_text(text).archive(Side::Source).unwrap().is_none(), "{text}");
        }
        let archive =
            endpoint("archive = \"sftp://u@h/c\"\nidentity_file = \"key\"\npassphrase_env = \"PW\"");
        let open = |value: Option<&str>| archive.archive_with(Side::Source, &|_| value.map(str::to_owned));
        let (_, options) = open(Some("s3cret")).unwrap().unwrap();
        assert_eq!(options.sftp.passphrase.unwrap().reveal(), "s3cret");
        assert!(open(None).unwrap_err().what().contains("PW, named by passphrase_env"));
        let mixed = endpoint("archive = \"/srv/changes\"\ndbname = \"d\"");
        assert!(mixed.archive(Side::Source).unwrap_err().what().contains("dbname is a database's key"));
    }

    #[test]
    fn literal_passwords_are_noticed() {
        for (text, expected) in [
            ("postgresql://a:b@h/d", true),
            ("postgresql://a@h:5432/d", false),
            ("postgresql://a@h/d?password=x", true),
            ("host=h password=x", true),
            ("host=h user=u", false),
        ] {
            assert_eq!(Endpoint::from_text(text).holds_password(), expected, "{text}");
        }
        assert!(endpoint("password = \"x\"").holds_password());
        assert!(!endpoint("password_env = \"x\"").holds_password());
    }
}
