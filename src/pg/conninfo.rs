//! Where a PostgreSQL server is and how to connect to it, said the way libpq says it.
//!
//! A connection is described by a URI (`postgresql://…`), by a `key=value` string or by the pairs of a configuration
//! table. What the description leaves open comes from the service file, then from the `PG*` variables, then from
//! defaults; passwords still missing are looked up in the password file. The result is a [`ConnInfo`] in which
//! nothing is left to resolve but host names.
//!
//! Rules: PostgreSQL documentation, "Database Connection Control Functions", "The Password File", "The Connection
//! Service File". Stricter than libpq in three places: a file of certificates that is named must exist, what we do
//! not support is refused rather than ignored, and a URI whose password may not be percent-encoded is refused.

mod environment;
mod parameter;
mod text;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::environment::Environment;
pub use self::parameter::{
    ChannelBindingMode, LoadBalance, SslCertMode, SslMode, SslNegotiation, TargetSessionAttrs, TlsVersion,
};
use crate::error::{Error, Result};
use crate::secret::Secret;
pub use crate::wire::stream::Keepalives;

pub const DEFAULT_PORT: u16 = 5432;

/// libpq waits forever unless told otherwise; a daemon that retries does better to notice a silent host.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A complete description of a connection. `Debug` does not show passwords.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// Never empty; tried in order.
    pub hosts: Vec<Host>,
    /// Whether hosts and their addresses are shuffled before they are tried.
    pub load_balance_hosts: LoadBalance,
    pub dbname: String,
    pub user: String,
    /// The password that is said for all hosts; see [`ConnInfo::password_for`].
    pub password: Option<Secret>,
    pub passfile: Option<PathBuf>,
    pub sslmode: SslMode,
    pub sslnegotiation: SslNegotiation,
    pub sslrootcert: Option<RootCertificates>,
    pub sslcrl: Option<PathBuf>,
    pub sslcertmode: SslCertMode,
    /// The client's certificate and key: the ones named, or the ones in `~/.postgresql` when they exist.
    pub sslcert: Option<PathBuf>,
    pub sslkey: Option<PathBuf>,
    pub sslsni: bool,
    pub ssl_min_protocol_version: TlsVersion,
    pub ssl_max_protocol_version: TlsVersion,
    pub channel_binding: ChannelBindingMode,
    /// For each address tried; `None` waits without limit.
    pub connect_timeout: Option<Duration>,
    pub application_name: Option<String>,
    pub options: Option<String>,
    pub target_session_attrs: TargetSessionAttrs,
    pub keepalives: Keepalives,
}

/// One server to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A host name or address, the directory of a Unix socket (it begins with `/`), or empty when only `hostaddr`
    /// was given.
    pub name: String,
    /// `hostaddr`: the address to connect to, without asking a name server.
    pub address: Option<IpAddr>,
    pub port: u16,
    /// From the password file, where it has a line for this host.
    pub password: Option<Secret>,
}

impl Host {
    /// The directory of the Unix socket, unless the host is reached over TCP.
    pub fn socket_directory(&self) -> Option<&Path> {
        (self.address.is_none() && self.name.starts_with('/')).then(|| Path::new(&self.name))
    }

    /// `name:port`, for messages.
    pub fn display(&self) -> String {
        match self.address {
            Some(address) if self.name.is_empty() => {
                std::net::SocketAddr::new(address, self.port).to_string()
            }
            _ if self.name.contains(':') => format!("[{}]:{}", self.name, self.port),
            _ => format!("{}:{}", self.name, self.port),
        }
    }
}

/// Which authorities a server's certificate may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// `sslrootcert=system`: the operating system's.
    System,
    File(PathBuf),
}

impl ConnInfo {
    /// From a libpq URI or a `key=value` string. The empty text is a description too: everything by default.
    pub fn parse(text: &str, environment: &Environment) -> Result<ConnInfo> {
        resolve(text::pairs(text)?, environment)
    }

    /// From a text and pairs that override what it says.
    pub fn parse_with(
        text: &str,
        parameters: impl IntoIterator<Item = (String, String)>,
        environment: &Environment,
    ) -> Result<ConnInfo> {
        let mut pairs = text::pairs(text)?;
        for (name, value) in parameters {
            pairs.retain(|(written, _)| *written != name);
            pairs.push((name, value));
        }
        resolve(pairs, environment)
    }

    /// From the pairs of a configuration table; an empty value means what it means in a `key=value` string.
    pub fn from_parameters<N: Into<String>, V: Into<String>>(
        parameters: impl IntoIterator<Item = (N, V)>,
        environment: &Environment,
    ) -> Result<ConnInfo> {
        let pairs = parameters.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        resolve(pairs, environment)
    }

    /// The password to offer to `host`.
    pub fn password_for<'a>(&'a self, host: &'a Host) -> Option<&'a Secret> {
        self.password.as_ref().or(host.password.as_ref())
    }

    /// `host:port/dbname as user`, without secrets, for messages.
    pub fn display(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(Host::display).collect();
        format!("{}/{} as {}", hosts.join(","), self.dbname, self.user)
    }

    /// Makes `command`, a client of PostgreSQL such as `pg_dump`, connect to the same server: every libpq variable
    /// it would inherit is replaced by ours. Secrets travel in its environment, not on its command line.
    pub fn prepare_command(&self, command: &mut std::process::Command) {
        for variable in parameter::variables().chain(["PGSERVICEFILE", "PGSYSCONFDIR", "PGPASSFILE"]) {
            command.env_remove(variable);
        }
        command.envs(self.to_libpq_env());
    }

    /// The `PG*` variables that lead a client of PostgreSQL to the same server. They contain the password; variables
    /// that they do not set can still contradict them, so prefer [`ConnInfo::prepare_command`].
    pub fn to_libpq_env(&self) -> Vec<(String, String)> {
        let mut variables: Vec<(String, String)> = Vec::new();
        let mut set = |name: &str, value: String| variables.push((name.to_owned(), value));
        set("PGHOST", self.each_host(|host| host.name.clone()));
        if self.hosts.iter().any(|host| host.address.is_some()) {
            set("PGHOSTADDR", self.each_host(|host| host.address.map_or(String::new(), |it| it.to_string())));
        }
        set("PGPORT", self.each_host(|host| host.port.to_string()));
        set("PGDATABASE", self.dbname.clone());
        set("PGUSER", self.user.clone());
        set("PGSSLMODE", self.sslmode.as_str().to_owned());
        set("PGCHANNELBINDING", self.channel_binding.as_str().to_owned());
        set("PGTARGETSESSIONATTRS", self.target_session_attrs.as_str().to_owned());
        set("PGSSLMINPROTOCOLVERSION", self.ssl_min_protocol_version.as_str().to_owned());
        set("PGSSLMAXPROTOCOLVERSION", self.ssl_max_protocol_version.as_str().to_owned());
        set("PGCONNECT_TIMEOUT", self.connect_timeout.map_or(0, |timeout| timeout.as_secs()).to_string());
        variables.extend(self.optional_variables().map(|(name, value)| (name.to_owned(), value)));
        variables
    }

    fn optional_variables(&self) -> impl Iterator<Item = (&'static str, String)> {
        let mut variables = Vec::new();
        let mut set = |name, value| variables.push((name, value));
        // Variables that only newer clients know are set only when they say something.
        if self.sslnegotiation != SslNegotiation::Postgres {
            set("PGSSLNEGOTIATION", self.sslnegotiation.as_str().to_owned());
        }
        if self.sslcertmode != SslCertMode::Allow {
            set("PGSSLCERTMODE", self.sslcertmode.as_str().to_owned());
        }
        if !self.sslsni {
            set("PGSSLSNI", "0".to_owned());
        }
        if self.load_balance_hosts != LoadBalance::Disable {
            set("PGLOADBALANCEHOSTS", self.load_balance_hosts.as_str().to_owned());
        }
        for (name, path) in [
            ("PGPASSFILE", self.passfile.as_deref()),
            ("PGSSLCERT", self.sslcert.as_deref()),
            ("PGSSLKEY", self.sslkey.as_deref()),
            ("PGSSLCRL", self.sslcrl.as_deref()),
            ("PGSSLROOTCERT", self.sslrootcert.as_ref().map(RootCertificates::path)),
        ] {
            if let Some(path) = path {
                set(name, path.to_string_lossy().into_owned());
            }
        }
        for (name, text) in [
            ("PGPASSWORD", self.password.as_ref().map(Secret::reveal)),
            ("PGAPPNAME", self.application_name.as_deref()),
            ("PGOPTIONS", self.options.as_deref()),
        ] {
            if let Some(text) = text {
                set(name, text.to_owned());
            }
        }
        variables.into_iter()
    }

    fn each_host(&self, text: impl Fn(&Host) -> String) -> String {
        self.hosts.iter().map(text).collect::<Vec<_>>().join(",")
    }
}

impl RootCertificates {
    fn path(&self) -> &Path {
        match self {
            RootCertificates::System => Path::new("system"),
            RootCertificates::File(path) => path,
        }
    }
}

/// Values by parameter name. Deliberately without `Debug`: the password is among them.
type Values = BTreeMap<&'static str, String>;

fn resolve(pairs: Vec<(String, String)>, environment: &Environment) -> Result<ConnInfo> {
    let mut values = check_names(pairs)?;
    fill_from_service(&mut values, environment)?;
    fill_from_variables(&mut values, environment)?;
    let given = Given(values);
    let (sslmode, sslrootcert) = server_verification(&given, environment)?;
    let sslnegotiation = given.keyword("sslnegotiation", SslNegotiation::Postgres)?;
    if sslnegotiation == SslNegotiation::Direct && !sslmode.demands_tls() {
        return Err(Error::config(format!(
            "sslnegotiation=direct does not go with sslmode={}",
            sslmode.as_str()
        ))
        .hint("direct negotiation cannot fall back: use sslmode=require, verify-ca or verify-full"));
    }
    let user = given.text("user").or_else(|| environment.user().map(str::to_owned)).ok_or_else(|| {
        Error::config("no user name is given, and the operating system's is unknown").hint("add user=…")
    })?;
    let mut conninfo = ConnInfo {
        hosts: hosts(&given, environment)?,
        load_balance_hosts: given.keyword("load_balance_hosts", LoadBalance::Disable)?,
        dbname: given.text("dbname").unwrap_or_else(|| user.clone()),
        user,
        password: given.text("password").map(Secret::new),
        passfile: given.path("passfile").or_else(|| environment.existing(".pgpass")),
        sslmode,
        sslnegotiation,
        sslrootcert,
        sslcrl: given.path("sslcrl").or_else(|| environment.existing(".postgresql/root.crl")),
        sslcertmode: given.keyword("sslcertmode", SslCertMode::Allow)?,
        sslcert: given.path("sslcert").or_else(|| environment.existing(".postgresql/postgresql.crt")),
        sslkey: given.path("sslkey").or_else(|| environment.existing(".postgresql/postgresql.key")),
        sslsni: given.switch("sslsni")?,
        ssl_min_protocol_version: given.keyword("ssl_min_protocol_version", TlsVersion::Tls12)?,
        ssl_max_protocol_version: given.keyword("ssl_max_protocol_version", TlsVersion::Tls13)?,
        channel_binding: given.keyword("channel_binding", ChannelBindingMode::Prefer)?,
        connect_timeout: connect_timeout(&given)?,
        application_name: given.text("application_name").or_else(|| given.text("fallback_application_name")),
        options: given.text("options"),
        target_session_attrs: given.keyword("target_session_attrs", TargetSessionAttrs::Any)?,
        keepalives: keepalives(&given)?,
    };
    refuse_unsupported_values(&given)?;
    look_up_passwords(&mut conninfo);
    Ok(conninfo)
}

/// Puts each pair under its parameter's name; of two values for one name the later wins, as in libpq.
fn check_names(pairs: Vec<(String, String)>) -> Result<Values> {
    let mut values = Values::new();
    // Behind a password that was not quoted or encoded, a "name" may be a piece of the password.
    let mut behind_password = false;
    for (name, value) in pairs {
        let known = parameter::find(&name).ok_or_else(|| unknown(&name, behind_password))?;
        if let Some(reason) = known.unsupported
            && !value.is_empty()
        {
            return Err(Error::config(format!("connection parameter {name} is not supported")).hint(reason));
        }
        behind_password |= matches!(known.name, "password" | "sslpassword");
        values.insert(known.name, value);
    }
    Ok(values)
}

fn unknown(name: &str, behind_password: bool) -> Error {
    let nearest = parameter::nearest(name);
    let mut what = "unknown connection parameter".to_owned();
    if !behind_password || nearest.is_some() {
        let _ = write!(what, " {name:?}");
    }
    match nearest {
        Some(nearest) => Error::config(what).hint(format!("did you mean {nearest}?")),
        None if behind_password => Error::config(what).hint(
            "a password with spaces, quotes, '@', '/', ':', '?' or '&' must be quoted in a key=value string and \
             percent-encoded in a URI",
        ),
        None => Error::config(what).hint("parameter names are those of libpq, in lower case"),
    }
}

fn fill_from_service(values: &mut Values, environment: &Environment) -> Result<()> {
    let service = values.get("service").cloned().or_else(|| environment.variable("PGSERVICE"));
    let Some(service) = service.filter(|service| !service.is_empty()) else { return Ok(()) };
    let file = values.get("servicefile").map(PathBuf::from);
    let found = check_names(environment.service(&service, file)?)
        .map_err(|error| error.context(format!("service {service:?}")))?;
    for (name, value) in found {
        values.entry(name).or_insert(value);
    }
    Ok(())
}

fn fill_from_variables(values: &mut Values, environment: &Environment) -> Result<()> {
    for known in parameter::ALL {
        let Some(variable) = known.variable else { continue };
        let Some(value) = environment.variable(variable).filter(|value| !value.is_empty()) else { continue };
        if values.contains_key(known.name) {
            continue;
        }
        if let Some(reason) = known.unsupported {
            return Err(
                Error::config(format!("environment variable {variable} is not supported")).hint(reason)
            );
        }
        values.insert(known.name, value);
    }
    Ok(())
}

/// The resolved values, read by type; an empty value counts as absent.
struct Given(Values);

impl Given {
    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    fn keyword<K: parameter::Keyword>(&self, name: &str, default: K) -> Result<K> {
        let Some(value) = self.text(name) else { return Ok(default) };
        K::from_word(&value).ok_or_else(|| {
            Error::config(format!("{name}={value:?} is not a known value"))
                .hint(format!("{name} is one of {}", K::WORDS.join(", ")))
        })
    }

    /// `0` or `1`; on by default, like every switch of libpq that we have.
    fn switch(&self, name: &str) -> Result<bool> {
        Ok(self.integer(name)?.is_none_or(|value| value != 0))
    }

    fn integer(&self, name: &str) -> Result<Option<i64>> {
        let Some(value) = self.text(name) else { return Ok(None) };
        let number = value.trim().parse::<i32>();
        number
            .map(|number| Some(i64::from(number)))
            .map_err(|_| Error::config(format!("{name}={value:?} is not a number")).hint("give an integer"))
    }
}

fn connect_timeout(given: &Given) -> Result<Option<Duration>> {
    Ok(match given.integer("connect_timeout")? {
        None => Some(DEFAULT_CONNECT_TIMEOUT),
        // libpq: zero and below wait forever, one is rounded up to two.
        Some(seconds) => {
            u64::try_from(seconds).ok().filter(|it| *it > 0).map(|it| Duration::from_secs(it.max(2)))
        }
    })
}

/// `sslmode` and `sslrootcert` depend on each other: the system's authorities sign for everyone, so trusting them
/// without checking the name would be no check at all.
fn server_verification(
    given: &Given,
    environment: &Environment,
) -> Result<(SslMode, Option<RootCertificates>)> {
    let roots = match given.path("sslrootcert") {
        Some(path) if path.as_os_str() == "system" => Some(RootCertificates::System),
        Some(path) => Some(RootCertificates::File(path)),
        None => environment.existing(".postgresql/root.crt").map(RootCertificates::File),
    };
    let from_system = roots == Some(RootCertificates::System);
    let default = if from_system { SslMode::VerifyFull } else { SslMode::Prefer };
    let mode = given.keyword("sslmode", default)?;
    if from_system && mode != SslMode::VerifyFull {
        return Err(Error::config(format!("sslrootcert=system does not go with sslmode={}", mode.as_str()))
            .hint("use sslmode=verify-full, or leave sslmode out"));
    }
    Ok((mode, roots))
}

/// Pairs up the lists of `host`, `hostaddr` and `port`.
fn hosts(given: &Given, environment: &Environment) -> Result<Vec<Host>> {
    let list = |name| given.text(name).map(|text| text.split(',').map(str::to_owned).collect::<Vec<_>>());
    let names = list("host");
    let addresses = list("hostaddr");
    let ports = list("port").unwrap_or_else(|| vec![String::new()]);
    let count = names.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
    if let Some(addresses) = &addresses
        && addresses.len() != count
    {
        return Err(Error::config(format!("{count} host names but {} hostaddr values", addresses.len()))
            .hint("give as many hostaddr values as hosts"));
    }
    if ports.len() != 1 && ports.len() != count {
        return Err(Error::config(format!("{count} hosts but {} port numbers", ports.len()))
            .hint("give one port for all hosts, or one for each"));
    }
    let text_at =
        |list: &Option<Vec<String>>, at: usize| list.as_ref().map_or("", |list| &list[at]).to_owned();
    (0..count)
        .map(|at| {
            let port = if ports.len() == 1 { &ports[0] } else { &ports[at] };
            host(text_at(&names, at), &text_at(&addresses, at), port, environment)
        })
        .collect()
}

fn host(name: String, address: &str, port: &str, environment: &Environment) -> Result<Host> {
    let address = match address.trim() {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            Error::config(format!("hostaddr {text:?} is not an address"))
                .hint("hostaddr takes an IPv4 or IPv6 address; put a name into host")
        })?),
    };
    // The value is not repeated: behind a `user:password` without `@` it is a piece of the password.
    let bad_port = || {
        Error::config("invalid port number").hint(
            "a port is a number from 1 to 65535; in a URI a password must be percent-encoded, with '/' as %2F",
        )
    };
    let port = match port.trim() {
        "" => DEFAULT_PORT,
        text => text.parse().ok().filter(|port| *port > 0).ok_or_else(bad_port)?,
    };
    if name.contains('@') {
        return Err(Error::config("a host name contains '@'").hint(
            "in a URI a password's '@' is written %40; sockets of the abstract namespace are not supported",
        ));
    }
    let name = if name.is_empty() && address.is_none() { environment.default_host() } else { name };
    Ok(Host { name, address, port, password: None })
}

/// Parameters that we understand in one value only.
fn refuse_unsupported_values(given: &Given) -> Result<()> {
    let refuse = |name: &str, hint: &str| {
        Err(Error::config(format!("{name}={:?} is not supported", given.text(name).unwrap_or_default()))
            .hint(hint))
    };
    let is_one_of = |name: &str, words: &[&str]| {
        given.text(name).is_none_or(|value| words.iter().any(|word| value.eq_ignore_ascii_case(word)))
    };
    if !is_one_of("gssencmode", &["disable", "prefer"]) {
        return refuse("gssencmode", "connections are encrypted with TLS: use sslmode");
    }
    if !is_one_of("client_encoding", &["auto", "utf8", "utf-8", "unicode"]) {
        return refuse("client_encoding", "connections always speak UTF8; leave client_encoding out");
    }
    if !is_one_of("min_protocol_version", &["3.0"]) {
        return refuse("min_protocol_version", "connections speak version 3.0 of the protocol");
    }
    if given.text("sslpassword").is_some() {
        tracing::warn!("connection parameter sslpassword is ignored: encrypted keys are not supported");
    }
    Ok(())
}

/// As in libpq, 0 or less means the default; `tcp_user_timeout` is in milliseconds, the others in seconds.
fn keepalives(given: &Given) -> Result<Keepalives> {
    let number = |name: &str, default: u64| -> Result<u64> {
        Ok(given
            .integer(name)?
            .and_then(|value| u64::try_from(value).ok())
            .filter(|value| *value > 0)
            .unwrap_or(default))
    };
    let Keepalives { idle, interval, count, user_timeout, .. } = Keepalives::default();
    let user_timeout_ms = u64::try_from(user_timeout.as_millis()).unwrap_or(u64::MAX);
    Ok(Keepalives {
        enabled: given.switch("keepalives")?,
        idle: Duration::from_secs(number("keepalives_idle", idle.as_secs())?),
        interval: Duration::from_secs(number("keepalives_interval", interval.as_secs())?),
        count: u32::try_from(number("keepalives_count", count.into())?).unwrap_or(u32::MAX),
        user_timeout: Duration::from_millis(number("tcp_user_timeout", user_timeout_ms)?),
    })
}

fn look_up_passwords(conninfo: &mut ConnInfo) {
    if conninfo.password.is_some() {
        return;
    }
    let Some(file) = conninfo.passfile.as_deref().and_then(environment::PasswordFile::open) else { return };
    for host in &mut conninfo.hosts {
        host.password = file.find(host, &conninfo.dbname, &conninfo.user);
    }
}

#[cfg(test)]
mod tests;
