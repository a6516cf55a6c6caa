//! A throw-away Redis or Valkey of one of the versions that pgdiode is tested with, and small clusters of them.
//!
//! ```text
//! let redis = RedisServer::start(RedisVersion::V7_4, &[("save", "3600 1")]);
//! redis.cli(&["SET", "k", "v"]);
//! redis.client().pipeline(commands);     // many at once
//! redis.kill(); redis.start_again();     // on the same port, in the same directory
//! ```
//!
//! Without other words it keeps nothing on disk: killed, it comes back empty.

mod client;
mod cluster;

use std::fmt::{self, Write as _};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

pub use client::{RedisClient, Reply};
pub use cluster::{ClusterClient, RedisCluster};

use super::authority::Authority;
use super::service::Service;
use super::version::packages;
use super::{ground, wait_for};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RedisVersion {
    V6_2,
    V7_0,
    V7_4,
    Valkey9,
}

pub struct RedisServer {
    version: RedisVersion,
    service: Service,
    tls_port: Option<u16>,
    password: Option<String>,
    is_sentinel: bool,
}

impl RedisVersion {
    pub const ALL: [RedisVersion; 4] =
        [RedisVersion::V6_2, RedisVersion::V7_0, RedisVersion::V7_4, RedisVersion::Valkey9];

    /// Those whose builds speak TLS.
    pub const WITH_TLS: [RedisVersion; 2] = [RedisVersion::V7_0, RedisVersion::V7_4];

    /// RedisJSON is loaded, and time series.
    pub fn has_json(self) -> bool {
        self == RedisVersion::V7_4
    }

    fn package(self) -> PathBuf {
        packages().join(match self {
            RedisVersion::V6_2 => "redis-6.2",
            RedisVersion::V7_0 => unreachable!("it is Debian's"),
            RedisVersion::V7_4 => "redis-7.4",
            RedisVersion::Valkey9 => "valkey-9",
        })
    }

    fn program(self) -> PathBuf {
        let path = match self {
            RedisVersion::V7_0 => std::env::var_os("PGDIODE_TEST_REDIS_7_0")
                .map_or_else(|| PathBuf::from("/usr/bin/redis-server"), PathBuf::from),
            _ => self.package().join("bin/redis-server"),
        };
        assert!(path.exists(), "{} is missing\n  hint: run scripts/install", path.display());
        // The server changes its directory before it looks for its modules. Links stay: what Debian's links to is several
        // programs in one, told apart by their names.
        std::path::absolute(&path).expect("there is a working directory")
    }

    fn command(self) -> Command {
        let program = self.program();
        let mut command = ground::service_command(&program);
        if self != RedisVersion::V7_0 {
            command.env("LD_LIBRARY_PATH", program.with_file_name("../lib"));
        }
        command
    }

    fn defaults(self) -> Vec<(&'static str, String)> {
        let mut options = vec![
            ("bind", "127.0.0.1".to_owned()),
            ("daemonize", "no".to_owned()),
            ("save", String::new()),
            ("repl-diskless-sync-delay", "0".to_owned()),
        ];
        if self >= RedisVersion::V7_0 {
            options.push(("enable-debug-command", "yes".to_owned()));
        }
        if self.has_json() {
            let library =
                |name: &str| self.program().with_file_name("../lib").join(name).display().to_string();
            options.push(("loadmodule", library("rejson.so")));
            options.push(("loadmodule", library("redistimeseries.so")));
        }
        options
    }
}

impl fmt::Display for RedisVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            RedisVersion::V6_2 => "Redis 6.2",
            RedisVersion::V7_0 => "Redis 7.0",
            RedisVersion::V7_4 => "Redis 7.4",
            RedisVersion::Valkey9 => "Valkey 9",
        })
    }
}

impl RedisServer {
    /// `options` are lines of `redis.conf`: `("user", "reader on >secret ~* +@read")`. They go over the defaults.
    pub fn start(version: RedisVersion, options: &[(&str, &str)]) -> RedisServer {
        RedisServer::start_with(version, None, options)
    }

    /// With a further port that speaks TLS, by a certificate for 127.0.0.1 and localhost that `authority` signs. Clients
    /// need none, unless `options` say `tls-auth-clients yes`; then it must be of the same authority.
    pub fn start_tls(version: RedisVersion, authority: &Authority, options: &[(&str, &str)]) -> RedisServer {
        RedisServer::start_with(version, Some(authority), options)
    }

    /// A Sentinel that alone decides who is the primary called `main`, at first this.
    pub fn start_sentinel(primary: &RedisServer) -> RedisServer {
        let monitor = format!("monitor main 127.0.0.1 {} 1", primary.port());
        let options = [
            ("sentinel", monitor.as_str()),
            ("sentinel", "down-after-milliseconds main 1000"),
            ("sentinel", "failover-timeout main 5000"),
        ];
        RedisServer::start(primary.version, &options)
    }

    /// A replica, when it has caught up once.
    pub fn start_replica(
        version: RedisVersion,
        primary: &RedisServer,
        options: &[(&str, &str)],
    ) -> RedisServer {
        let of = format!("127.0.0.1 {}", primary.port());
        let mut all = vec![("replicaof", of.as_str())];
        if let Some(password) = &primary.password {
            all.push(("masterauth", password));
        }
        all.extend(options);
        let replica = RedisServer::start(version, &all);
        replica.wait_until("the link to the primary", |client| {
            client.info("replication", "master_link_status").as_deref() == Some("up")
        });
        replica
    }

    fn start_with(
        version: RedisVersion,
        authority: Option<&Authority>,
        options: &[(&str, &str)],
    ) -> RedisServer {
        let password = options.iter().rfind(|(name, _)| *name == "requirepass").map(|(_, value)| value);
        let server = RedisServer {
            version,
            service: Service::new("redis"),
            tls_port: authority.map(|_| ground::free_port()),
            password: password.map(|password| (*password).to_owned()),
            is_sentinel: options.iter().any(|(name, _)| *name == "sentinel"),
        };
        let mut all = version.defaults();
        all.push(("port", server.port().to_string()));
        all.push(("unixsocket", server.socket().display().to_string()));
        if let Some(authority) = authority {
            all.extend(server.tls_options(authority));
        }
        all.extend(options.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let mut text = String::new();
        for (name, value) in all {
            let value = if value.is_empty() { "\"\"" } else { &value };
            writeln!(text, "{name} {value}").expect("a text can be written to");
        }
        server.place("redis.conf", &text);
        server.start_again();
        server
    }

    fn tls_options(&self, authority: &Authority) -> Vec<(&'static str, String)> {
        let issued = authority.issue("redis", &["127.0.0.1", "localhost"]);
        let place = |name, text| self.place(name, text).display().to_string();
        vec![
            ("tls-port", self.tls_port().to_string()),
            ("tls-cert-file", place("server.pem", &issued.certificate)),
            ("tls-key-file", place("server.key", &issued.key)),
            ("tls-ca-cert-file", place("authority.pem", authority.certificate())),
            ("tls-auth-clients", "no".to_owned()),
        ]
    }

    pub fn version(&self) -> RedisVersion {
        self.version
    }

    pub fn port(&self) -> u16 {
        self.service.port()
    }

    pub fn tls_port(&self) -> u16 {
        self.tls_port.expect("it was started with TLS")
    }

    /// The Unix socket that it listens on too.
    pub fn socket(&self) -> PathBuf {
        self.data().join("redis.sock")
    }

    /// Where it runs, with its files.
    pub fn data(&self) -> PathBuf {
        self.service.data()
    }

    /// `redis://127.0.0.1:port`, without a password.
    pub fn location(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// The same over the Unix socket.
    pub fn socket_location(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// A file that the server may read and nobody else.
    pub fn place(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.data().join(name);
        fs::write(&path, contents).expect("the directory is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        ground::give_to_service_user(&path);
        path
    }

    /// A connection that may do everything.
    pub fn client(&self) -> RedisClient {
        self.try_client()
            .unwrap_or_else(|error| panic!("{} cannot be asked: {error}\n{}", self.version, self.log()))
    }

    pub fn try_client(&self) -> Result<RedisClient, String> {
        let mut client = RedisClient::connect(self.port()).map_err(|error| error.to_string())?;
        if let Some(password) = &self.password {
            client.try_call(&["AUTH", password])?;
        }
        Ok(client)
    }

    /// One command on a connection of its own, and the answer as `redis-cli` writes it into a pipe. Panics at an error.
    pub fn cli(&self, command: &[&str]) -> String {
        self.try_cli(command).unwrap_or_else(|error| panic!("{}: {command:?}: {error}", self.version))
    }

    pub fn try_cli(&self, command: &[&str]) -> Result<String, String> {
        self.try_client()?.try_call(command).map(|reply| reply.to_string())
    }

    /// A field of `INFO section`.
    pub fn info(&self, section: &str, field: &str) -> String {
        let value = self.client().info(section, field);
        value.unwrap_or_else(|| panic!("{} says no {field} in {section}", self.version))
    }

    /// Asks again and again; a server that is not there means "not yet".
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut(&mut RedisClient) -> bool) {
        let met = wait_for(|| condition(&mut self.try_client().ok()?).then_some(()));
        assert!(met.is_some(), "{}: waited in vain for {what}\n{}", self.version, self.log());
    }

    /// What a power cut looks like to clients.
    pub fn kill(&self) {
        self.service.kill();
    }

    /// In order: it writes its file first, where it has been told to keep one.
    pub fn stop(&self) {
        self.service.stop();
    }

    pub fn is_running(&self) -> bool {
        self.service.is_running()
    }

    /// On its old port, in its old directory, when it has read its files.
    pub fn start_again(&self) {
        // A killed server leaves it behind.
        drop(fs::remove_file(self.socket()));
        let mut command = self.version.command();
        command.arg(self.data().join("redis.conf"));
        if self.is_sentinel {
            command.arg("--sentinel");
        }
        self.service.start(command);
        self.wait_until("its data", |client| client.try_call(&["PING"]).is_ok());
    }

    pub fn log(&self) -> String {
        super::cluster::tail(&self.service.log(), LOG_TAIL_LINES)
    }
}

const LOG_TAIL_LINES: usize = 40;
