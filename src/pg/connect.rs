//! Opening a connection: the first server of the list that answers and suits, up to its first `ReadyForQuery`.
//!
//! ```text
//! hosts -> addresses -> TCP or Unix socket -> TLS (or not) -> startup -> authentication -> parameters -> ready
//! ```
//!
//! A server that cannot be reached, is starting, full, or not of the wanted kind makes room for the next one of the
//! list; one that refuses us ends the attempt, as with libpq. An error's kind is [`Kind::SourceUnreachable`] where
//! trying again can help, whichever side of a pipeline the server is on: callers that know better re-label it.
//!
//! Source: PostgreSQL documentation, "Message Flow", "SASL Authentication"; `target_session_attrs` of libpq.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::conninfo::{ChannelBindingMode, ConnInfo, Host, LoadBalance, SslMode, TargetSessionAttrs};
pub use super::tls::Stream;
use super::tls::{self, Demand};
use crate::error::{Error, Kind, Result};
use crate::wire::stream;

/// Longer than any message of a server that is opening a session, short enough not to believe a stranger's length.
const STARTUP_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Codes of authentication requests (protocol chapter, "Message Formats").
mod authentication {
    pub(super) const OK: u32 = 0;
    pub(super) const CLEARTEXT_PASSWORD: u32 = 3;
    pub(super) const MD5_PASSWORD: u32 = 5;
    pub(super) const SASL: u32 = 10;
    pub(super) const SASL_CONTINUE: u32 = 11;
    pub(super) const SASL_FINAL: u32 = 12;
}

/// An authenticated connection, idle.
pub struct Connected {
    pub stream: Stream,
    /// Bytes that were read behind `ReadyForQuery`.
    pub buffer: BytesMut,
    /// The last `ParameterStatus` of each parameter.
    pub parameters: HashMap<String, String>,
    pub process_id: i32,
    pub secret_key: i32,
    pub tls: bool,
    /// The server of the list that it is, with the address that answered.
    pub host: Host,
}

/// `startup` are further startup parameters: `("replication", "database")`, or `("options", …)`, which is appended to
/// the description's own options. Dropping the future closes what was opened.
pub async fn connect(conninfo: &ConnInfo, startup: &[(&str, &str)]) -> Result<Connected> {
    match conninfo.target_session_attrs {
        TargetSessionAttrs::PreferStandby => {
            match first_suitable(conninfo, startup, TargetSessionAttrs::Standby).await {
                Err(error) if error.retries() => {
                    first_suitable(conninfo, startup, TargetSessionAttrs::Any).await
                }
                result => result,
            }
        }
        wanted => first_suitable(conninfo, startup, wanted).await,
    }
}

/// Asks the server at `host` ([`Connected::host`]) to cancel what the session `process_id` is doing. The server does
/// not say whether there was anything to cancel.
pub async fn cancel(conninfo: &ConnInfo, host: &Host, process_id: i32, secret_key: i32) -> Result<()> {
    let mut request = BytesMut::new();
    frontend::cancel_request(process_id, secret_key, &mut request);
    let mut last = None;
    for address in addresses(host, conninfo).await? {
        match stream::within(
            conninfo.connect_timeout,
            &address.display(),
            send_alone(conninfo, host, &address, &request),
        )
        .await
        {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| stream::no_address(&host.name)))
}

async fn send_alone(conninfo: &ConnInfo, host: &Host, address: &Address, request: &[u8]) -> Result<()> {
    let mut stream = match conninfo.sslmode {
        SslMode::Disable | SslMode::Allow => reach(conninfo, host, address, Encryption::None).await?,
        SslMode::Prefer => match reach(conninfo, host, address, Encryption::IfOffered).await {
            Ok(stream) => stream,
            Err(_) => reach(conninfo, host, address, Encryption::None).await?,
        },
        _ => reach(conninfo, host, address, Encryption::Required).await?,
    };
    let broken = |error| tls::failure(error, conninfo, host);
    stream.write_all(request).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    // The server hangs up when it has passed the request on; however it does that is fine.
    let _ = stream.read(&mut [0; 1]).await;
    Ok(())
}

async fn first_suitable(
    conninfo: &ConnInfo,
    startup: &[(&str, &str)],
    wanted: TargetSessionAttrs,
) -> Result<Connected> {
    let mut hosts: Vec<&Host> = conninfo.hosts.iter().collect();
    if conninfo.load_balance_hosts == LoadBalance::Random {
        fastrand::shuffle(&mut hosts);
    }
    let mut failures = Vec::new();
    for host in hosts {
        let addresses = match addresses(host, conninfo).await {
            Ok(addresses) => addresses,
            Err(error) => {
                failures.push(error);
                continue;
            }
        };
        for address in addresses {
            let attempt = Box::pin(open(conninfo, host, &address, startup, wanted));
            match stream::within(conninfo.connect_timeout, &address.display(), attempt).await {
                Err(error) if error.retries() => failures.push(error),
                result => return result,
            }
        }
    }
    Err(none_of(failures))
}

/// One failure is the error itself; of several, the last one leads and the others are told.
fn none_of(mut failures: Vec<Error>) -> Error {
    let Some(last) = failures.pop() else { return Error::config("no server is given").hint("add host=…") };
    if failures.is_empty() {
        return last;
    }
    let mut all: Vec<String> = failures.iter().map(Error::chain).collect();
    all.push(last.chain());
    let mut error = Error::new(last.kind(), format!("no server of the list can be used: {}", all.join("; ")));
    if let Some(hint) = last.hint_text() {
        error = error.hint(hint);
    }
    match last.sqlstate() {
        Some(sqlstate) => error.with_sqlstate(sqlstate),
        None => error,
    }
}

enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    fn display(&self) -> String {
        match self {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => path.display().to_string(),
        }
    }
}

async fn addresses(host: &Host, conninfo: &ConnInfo) -> Result<Vec<Address>> {
    if let Some(directory) = host.socket_directory() {
        return Ok(vec![Address::Unix(socket_path(directory, host.port))]);
    }
    if let Some(address) = host.address {
        return Ok(vec![Address::Tcp(SocketAddr::new(address, host.port))]);
    }
    let mut found = stream::look_up(&host.name, host.port, conninfo.connect_timeout).await?;
    if conninfo.load_balance_hosts == LoadBalance::Random {
        fastrand::shuffle(&mut found);
    }
    Ok(found.into_iter().map(Address::Tcp).collect())
}

fn socket_path(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

/// What the connection of one attempt is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encryption {
    None,
    IfOffered,
    Required,
}

/// Why an attempt failed, and whether the server may take us with the other choice of encryption.
struct Failure {
    error: Error,
    other_encryption_may_help: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { error, other_encryption_may_help: false }
    }
}

/// One address, by the rules of `sslmode`: `allow` and `prefer` are two attempts.
async fn open(
    conninfo: &ConnInfo,
    host: &Host,
    address: &Address,
    startup: &[(&str, &str)],
    wanted: TargetSessionAttrs,
) -> Result<Connected> {
    let attempt = |encryption| Box::pin(attempt(conninfo, host, address, startup, encryption));
    let (first, second) = match (address, conninfo.sslmode) {
        (Address::Unix(_), _) | (_, SslMode::Disable) => (Encryption::None, None),
        (_, SslMode::Allow) => (Encryption::None, Some(Encryption::Required)),
        (_, SslMode::Prefer) => (Encryption::IfOffered, Some(Encryption::None)),
        _ => (Encryption::Required, None),
    };
    let mut session = match (attempt(first).await, second) {
        (Ok(session), _) => session,
        // The first error is the one to report: the second attempt only looked for a way around it.
        (Err(failure), Some(second)) if failure.other_encryption_may_help => {
            attempt(second).await.map_err(|_| failure.error)?
        }
        (Err(failure), _) => return Err(failure.error),
    };
    session.check_attributes(wanted, startup).await?;
    Ok(session.connected(address))
}

async fn attempt<'a>(
    conninfo: &'a ConnInfo,
    host: &'a Host,
    address: &Address,
    startup: &[(&str, &str)],
    encryption: Encryption,
) -> Result<Opening<'a>, Failure> {
    let stream = reach(conninfo, host, address, encryption).await.map_err(|error| Failure {
        other_encryption_may_help: encryption == Encryption::IfOffered && error.kind() == Kind::Refused,
        error,
    })?;
    let encrypted = matches!(stream, Stream::Tls(_));
    let mut session = Opening {
        conninfo,
        host,
        stream,
        buffer: BytesMut::new(),
        parameters: HashMap::new(),
        process_id: 0,
        secret_key: 0,
    };
    match session.start(startup).await {
        Ok(()) => Ok(session),
        // libpq tries again after any error here; only pg_hba.conf tells encrypted connections from others, and a
        // password that was wrong once need not be shown again in the clear.
        Err(error) => Err(Failure {
            other_encryption_may_help: error.sqlstate() == Some("28000")
                && encrypted == (encryption == Encryption::IfOffered),
            error,
        }),
    }
}

/// A connection to the server on which nothing was said yet but TLS.
async fn reach(
    conninfo: &ConnInfo,
    host: &Host,
    address: &Address,
    encryption: Encryption,
) -> Result<Stream> {
    let tcp = match address {
        Address::Unix(path) => {
            let stream =
                UnixStream::connect(path).await.map_err(|error| stream::unreachable_socket(path, error))?;
            return Ok(Stream::Unix(stream));
        }
        Address::Tcp(address) => stream::tcp(*address, conninfo.keepalives)
            .await
            .map_err(|error| stream::unreachable_address(host.display(), *address, error))?,
    };
    match encryption {
        Encryption::None => Ok(Stream::Tcp(tcp)),
        Encryption::IfOffered => tls::negotiate(tcp, conninfo, host, Demand::GoOnWithout).await,
        Encryption::Required => tls::negotiate(tcp, conninfo, host, Demand::Insist).await,
    }
}

/// A connection on its way to being [`Connected`].
struct Opening<'a> {
    conninfo: &'a ConnInfo,
    host: &'a Host,
    stream: Stream,
    buffer: BytesMut,
    parameters: HashMap<String, String>,
    process_id: i32,
    secret_key: i32,
}

impl Opening<'_> {
    fn connected(self, address: &Address) -> Connected {
        let mut host = self.host.clone();
        if let Address::Tcp(address) = address {
            host.address = Some(address.ip());
        }
        Connected {
            tls: matches!(self.stream, Stream::Tls(_)),
            stream: self.stream,
            buffer: self.buffer,
            parameters: self.parameters,
            process_id: self.process_id,
            secret_key: self.secret_key,
            host,
        }
    }

    async fn start(&mut self, startup: &[(&str, &str)]) -> Result<()> {
        let parameters = startup_parameters(self.conninfo, startup);
        let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut message = BytesMut::new();
        frontend::startup_message(parameters, &mut message).map_err(|error| self.not_sendable(error))?;
        self.send(&message).await?;
        self.authenticate().await?;
        self.until_ready().await
    }

    async fn send(&mut self, message: &[u8]) -> Result<()> {
        let sent = async {
            self.stream.write_all(message).await?;
            self.stream.flush().await
        };
        let sent = sent.await;
        sent.map_err(|error| tls::failure(error, self.conninfo, self.host))
    }

    /// The next message; an error of the server is returned as one, its notices are left out.
    async fn message(&mut self) -> Result<Message> {
        loop {
            let message =
                next_message(&mut self.buffer).map_err(|NotPostgres| tls::not_postgresql(self.host))?;
            match message {
                Some(message) if message.tag == b'E' => return Err(self.refusal(&message.body)),
                Some(message) if message.tag == b'N' => {}
                Some(message) => return Ok(message),
                None => self.read().await?,
            }
        }
    }

    /// What the server asks for to know us by, and the data to it.
    async fn authentication_request(&mut self) -> Result<(u32, Bytes)> {
        let mut message = self.message().await?;
        match message.body.try_get_u32() {
            Ok(code) if message.tag == b'R' => Ok((code, message.body)),
            _ => Err(self.out_of_turn()),
        }
    }

    async fn expect_authentication(&mut self, expected: u32) -> Result<Bytes> {
        match self.authentication_request().await? {
            (code, data) if code == expected => Ok(data),
            _ => Err(self.out_of_turn()),
        }
    }

    async fn read(&mut self) -> Result<()> {
        let count = self.stream.read_buf(&mut self.buffer).await;
        let count = count.map_err(|error| tls::failure(error, self.conninfo, self.host))?;
        if count == 0 {
            let end = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(tls::failure(end, self.conninfo, self.host));
        }
        Ok(())
    }

    async fn authenticate(&mut self) -> Result<()> {
        match self.authentication_request().await? {
            (authentication::OK, _) => {
                return self.refuse_without_binding("the server asked for no password");
            }
            (authentication::CLEARTEXT_PASSWORD, _) => {
                self.refuse_without_binding("the server asked for the password itself")?;
                let password = self.password()?.to_owned();
                self.send_password(password.as_bytes()).await?;
            }
            (authentication::MD5_PASSWORD, salt) => {
                self.refuse_without_binding("the server asked for an MD5 hash")?;
                let salt: [u8; 4] = salt.as_ref().try_into().map_err(|_| self.out_of_turn())?;
                let hash = md5_hash(self.conninfo.user.as_bytes(), self.password()?.as_bytes(), salt);
                self.send_password(hash.as_bytes()).await?;
            }
            (authentication::SASL, offer) => self.scram(&offer).await?,
            _ => {
                return Err(Error::refused(format!(
                    "the server at {} asks for a way of authentication that is not supported",
                    self.host.display()
                ))
                .hint("in pg_hba.conf, give this user scram-sha-256, md5, password, cert or trust"));
            }
        }
        self.expect_authentication(authentication::OK).await.map(|_| ())
    }

    async fn send_password(&mut self, password: &[u8]) -> Result<()> {
        let mut message = BytesMut::new();
        frontend::password_message(password, &mut message).map_err(|error| self.not_sendable(error))?;
        self.send(&message).await
    }

    fn password(&self) -> Result<&str> {
        self.conninfo.password_for(self.host).map(crate::secret::Secret::reveal).ok_or_else(|| {
            Error::refused(format!(
                "the server at {} asks for a password of user {:?}, and none is given",
                self.host.display(),
                self.conninfo.user
            ))
            .hint(
                "give the password in the connection's settings, in PGPASSWORD, or in ~/.pgpass (mode 0600)",
            )
        })
    }

    fn refuse_without_binding(&self, what: &str) -> Result<()> {
        if self.conninfo.channel_binding != ChannelBindingMode::Require {
            return Ok(());
        }
        Err(Error::refused(format!("channel_binding=require, but {what} ({})", self.host.display())).hint(
            "channel binding needs TLS and scram-sha-256 in pg_hba.conf; or use channel_binding=prefer",
        ))
    }

    async fn scram(&mut self, offer: &[u8]) -> Result<()> {
        let (mechanism, binding) = self.mechanism(offer)?;
        let mut scram = ScramSha256::new(self.password()?.as_bytes(), binding);
        let mut reply = BytesMut::new();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut reply)
            .map_err(|error| self.not_sendable(error))?;
        self.send(&reply).await?;
        let challenge = self.expect_authentication(authentication::SASL_CONTINUE).await?;
        scram.update(&challenge).map_err(|error| self.unproven(error))?;
        reply.clear();
        frontend::sasl_response(scram.message(), &mut reply).map_err(|error| self.not_sendable(error))?;
        self.send(&reply).await?;
        let proof = self.expect_authentication(authentication::SASL_FINAL).await?;
        scram.finish(&proof).map_err(|error| self.unproven(error))
    }

    fn mechanism(&self, offer: &[u8]) -> Result<(&'static str, ChannelBinding)> {
        let offers = |name: &str| offer.split(|byte| *byte == 0).any(|offered| offered == name.as_bytes());
        let end_point = match self.conninfo.channel_binding {
            ChannelBindingMode::Disable => None,
            _ => tls::server_end_point(&self.stream),
        };
        if let (true, Some(end_point)) = (offers(SCRAM_SHA_256_PLUS), &end_point) {
            return Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(end_point.clone())));
        }
        self.refuse_without_binding(match (&self.stream, &end_point) {
            (Stream::Tls(_), None) => "the server's certificate is signed in a way that cannot be bound to",
            (Stream::Tls(_), Some(_)) => "the server does not offer it",
            _ => "the connection is not encrypted",
        })?;
        if !offers(SCRAM_SHA_256) {
            return Err(Error::refused(format!(
                "the server at {} offers no way of authentication that is supported",
                self.host.display()
            ))
            .hint("in pg_hba.conf, give this user scram-sha-256"));
        }
        // "y" tells a server that did offer binding that somebody removed its offer on the way.
        let binding = match end_point {
            Some(_) => ChannelBinding::unrequested(),
            None => ChannelBinding::unsupported(),
        };
        Ok((SCRAM_SHA_256, binding))
    }

    async fn until_ready(&mut self) -> Result<()> {
        loop {
            let mut message = self.message().await?;
            match message.tag {
                b'K' if message.body.len() == 8 => {
                    self.process_id = message.body.get_i32();
                    self.secret_key = message.body.get_i32();
                }
                b'S' => self.remember(&message.body),
                b'Z' => return Ok(()),
                _ => return Err(self.out_of_turn()),
            }
        }
    }

    fn remember(&mut self, status: &[u8]) {
        let mut texts =
            status.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
        if let (Some(name), Some(value)) = (texts.next(), texts.next()) {
            self.parameters.insert(name, value);
        }
    }

    /// Whether the session is of the wanted kind; servers from 14 on have said so already.
    async fn check_attributes(&mut self, wanted: TargetSessionAttrs, startup: &[(&str, &str)]) -> Result<()> {
        let suits = match wanted {
            TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby => true,
            TargetSessionAttrs::Primary => !self.in_recovery().await?,
            TargetSessionAttrs::Standby => self.in_recovery().await?,
            TargetSessionAttrs::ReadWrite => !self.read_only(startup).await?,
            TargetSessionAttrs::ReadOnly => self.read_only(startup).await?,
        };
        if suits {
            return Ok(());
        }
        let mut goodbye = BytesMut::new();
        frontend::terminate(&mut goodbye);
        // It is left either way.
        let _ = self.send(&goodbye).await;
        Err(Error::new(
            Kind::SourceUnreachable,
            format!("the server at {} is not {}", self.host.display(), wanted.as_str()),
        )
        .hint("add the server that is to the list of hosts, or change target_session_attrs"))
    }

    async fn in_recovery(&mut self) -> Result<bool> {
        match self.parameters.get("in_hot_standby") {
            Some(value) => Ok(value == "on"),
            None => Ok(self.value("select pg_catalog.pg_is_in_recovery()").await? == "t"),
        }
    }

    /// Sessions that the caller itself opens read-only say nothing about the server by being so.
    async fn read_only(&mut self, startup: &[(&str, &str)]) -> Result<bool> {
        if startup.iter().any(|(name, value)| {
            *name == "default_transaction_read_only"
                || (*name == "options" && value.contains("default_transaction_read_only"))
        }) {
            return self.in_recovery().await;
        }
        if let Some(read_only) = self.parameters.get("default_transaction_read_only") {
            return Ok(read_only == "on" || self.in_recovery().await?);
        }
        Ok(self.value("show transaction_read_only").await? == "on")
    }

    /// The one value of a statement that returns one.
    async fn value(&mut self, statement: &str) -> Result<String> {
        let mut message = BytesMut::new();
        frontend::query(statement, &mut message).map_err(|error| self.not_sendable(error))?;
        self.send(&message).await?;
        let mut value = String::new();
        loop {
            let message = self.message().await?;
            match message.tag {
                // The number of columns in two bytes; of the one column, its length in four, then its text.
                b'D' => {
                    value = String::from_utf8_lossy(message.body.get(6..).unwrap_or_default()).into_owned();
                }
                b'T' | b'C' => {}
                b'S' => self.remember(&message.body),
                b'Z' => return Ok(value),
                _ => return Err(self.out_of_turn()),
            }
        }
    }

    fn not_sendable(&self, error: io::Error) -> Error {
        Error::config(format!("the settings for {} cannot be sent", self.host.display()))
            .because(error)
            .hint("a user name, database name, password or option contains a null character")
    }

    fn out_of_turn(&self) -> Error {
        Error::unexpected(format!("the server at {} sent a message out of turn", self.host.display())).hint(
            "check that the host and port are those of a PostgreSQL server, or of a pooler that is supported",
        )
    }

    fn unproven(&self, error: io::Error) -> Error {
        Error::refused(format!(
            "the server at {} did not prove that it knows the password",
            self.host.display()
        ))
        .because(error)
        .hint("somebody may be answering in the server's place; check the host, and use sslmode=verify-full")
    }

    fn refusal(&self, body: &[u8]) -> Error {
        let said = Said::read(body);
        let error = Error::new(kind_of(&said.sqlstate), format!("{}: {}", self.host.display(), said.message));
        let error = match self.hint_for(&said) {
            Some(hint) => error.hint(hint),
            None => error,
        };
        error.with_sqlstate(said.sqlstate)
    }

    fn hint_for(&self, said: &Said) -> Option<String> {
        let user = &self.conninfo.user;
        Some(match said.sqlstate.as_str() {
            "28P01" => self.password_hint(),
            // The servers' languages differ, the name of the file does not.
            "28000" if said.message.contains("pg_hba.conf") => format!(
                "add a line for database {:?}, user {user:?} and this machine's address to the server's pg_hba.conf, \
                 then reload it",
                self.conninfo.dbname
            ),
            "28000" => format!(
                "check that role {user:?} exists on the server and may log in, and that the client certificate, if \
                 one is wanted, carries that name"
            ),
            "3D000" => format!("check dbname: {:?} is not on this server", self.conninfo.dbname),
            "42501" => format!("grant connect on the database to {user:?}"),
            "53300" => {
                "raise max_connections (or the role's or database's connection limit), or close other \
                        sessions"
                    .to_owned()
            }
            "57P03" => {
                "the server is starting up, shutting down or recovering; it should accept sessions soon"
                    .to_owned()
            }
            "55000" => "the database does not accept connections (datallowconn)".to_owned(),
            _ => return said.hint.clone(),
        })
    }

    fn password_hint(&self) -> String {
        let user = &self.conninfo.user;
        match (&self.conninfo.password, &self.conninfo.passfile) {
            (None, Some(file)) => {
                format!("check the password of {user:?}: it comes from the password file {}", file.display())
            }
            _ => format!(
                "check the password of {user:?}: it comes from the connection's settings, a service file or \
                 PGPASSWORD"
            ),
        }
    }
}

/// One message of the server: its type and what follows its length.
struct Message {
    tag: u8,
    body: Bytes,
}

/// The bytes are not those of a server that is opening a session.
struct NotPostgres;

fn next_message(buffer: &mut BytesMut) -> Result<Option<Message>, NotPostgres> {
    let Some((&tag, rest)) = buffer.split_first() else { return Ok(None) };
    if !b"RENSKZTDCv".contains(&tag) {
        return Err(NotPostgres);
    }
    let Some(length) = rest.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize) else {
        return Ok(None);
    };
    if !(4..=STARTUP_MESSAGE_BYTES_MAX).contains(&length) {
        return Err(NotPostgres);
    }
    if rest.len() < length {
        return Ok(None);
    }
    let mut message = buffer.split_to(1 + length).freeze();
    message.advance(5);
    Ok(Some(Message { tag, body: message }))
}

/// What an error message says: fields of one type byte and a text, each ended by zero.
#[derive(Default)]
struct Said {
    sqlstate: String,
    message: String,
    hint: Option<String>,
}

impl Said {
    fn read(body: &[u8]) -> Said {
        let mut said = Said::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'C' => said.sqlstate = text,
                b'M' => said.message = text,
                b'H' => said.hint = Some(text),
                _ => {}
            }
        }
        said
    }
}

/// Whether a server that refuses a session for this reason may take one later.
fn kind_of(sqlstate: &str) -> Kind {
    match sqlstate.get(..2) {
        // Connection trouble, too little of something, operator intervention, the server's own system.
        Some("08" | "53" | "57" | "58") => Kind::SourceUnreachable,
        _ => Kind::Refused,
    }
}

fn startup_parameters(conninfo: &ConnInfo, further: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut parameters = vec![
        ("user".to_owned(), conninfo.user.clone()),
        ("database".to_owned(), conninfo.dbname.clone()),
        ("client_encoding".to_owned(), "UTF8".to_owned()),
    ];
    let own = [("application_name", &conninfo.application_name), ("options", &conninfo.options)];
    for (name, value) in own {
        parameters.extend(value.as_ref().map(|value| (name.to_owned(), value.clone())));
    }
    for (name, value) in further {
        match parameters.iter_mut().find(|(existing, _)| existing == name) {
            Some((_, options)) if *name == "options" => *options = format!("{options} {value}"),
            Some((_, existing)) => (*value).clone_into(existing),
            None => parameters.push(((*name).to_owned(), (*value).to_owned())),
        }
    }
    parameters
}

#[cfg(test)]
mod tests;
