//! One SSH connection with one SFTP session on it: the host is checked first, then who we are.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use russh::client::{self, AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelId, ChannelMsg};
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::rawsession::Limits;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::known_hosts::{self, KnownHost, Verdict};
use crate::error::{Error, Result, Side};
use crate::store::SftpOptions;

/// For all of it: the address, the handshake, and the keys that are tried.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// No answer takes longer than flushing a large file to a busy disk.
const ANSWER_SECONDS_MAX: u64 = 120;

/// A dead peer is noticed after three of these, whatever the network does.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Every server takes packets of this size; larger ones are not faster.
const PACKET_BYTES: usize = 32 * 1024;

/// Where a host is and who we are there.
#[derive(Debug, Clone)]
pub struct Address {
    pub user: String,
    pub host: String,
    pub port: u16,
}

pub struct Connection {
    pub session: RawSftpSession,
    /// How much is read or written by one request.
    pub packet: usize,
    /// Whether leftovers were looked for: once is enough.
    pub swept: AtomicBool,
    extensions: HashMap<String, String>,
    /// Ends the connection when dropped.
    handle: Handle<Trust>,
    /// Becomes false, or loses its sender, when no answer will come any more.
    alive: watch::Receiver<bool>,
}

impl Connection {
    pub async fn open(address: &Address, options: &SftpOptions, side: Side) -> Result<Connection> {
        let place = format!("{}@{}", address.user, known_hosts::address(&address.host, address.port));
        match tokio::time::timeout(CONNECT_MAX, connect(address, options, side)).await {
            Ok(result) => result.map_err(|error| error.context(place)),
            Err(_) => Err(Error::new(
                side.unreachable(),
                format!("{place}: no answer within {} seconds", CONNECT_MAX.as_secs()),
            )
            .hint("is the host up, and does a firewall let SSH through?")),
        }
    }

    /// Known to be; one that is dead may not know yet.
    pub fn is_dead(&self) -> bool {
        self.handle.is_closed() || !*self.alive.borrow() || self.alive.has_changed().is_err()
    }

    /// Waits until no answer will come any more. A request that is sent just then would wait for its time to be over.
    pub async fn died(&self) {
        let mut alive = self.alive.clone();
        // An error is a session that has ended.
        let _ = alive.wait_for(|alive| !alive).await;
    }

    pub fn offers(&self, extension: &str) -> bool {
        self.extensions.contains_key(extension)
    }
}

async fn connect(address: &Address, options: &SftpOptions, side: Side) -> Result<Connection> {
    let unreachable = |what: &str, error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(side.unreachable(), what)
            .because(error)
            .hint("is the host up, is its name right, and does an SSH server listen on this port?")
    };
    let known = KnownHost::read(&read_known_hosts(&options.known_hosts)?, &address.host, address.port);
    let socket = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(|error| unreachable("cannot be reached", error.into()))?;
    // Requests are small and wait for their answers.
    let _ = socket.set_nodelay(true);
    let config = client::Config {
        keepalive_interval: Some(KEEPALIVE),
        preferred: russh::Preferred {
            key: known.order(&russh::Preferred::DEFAULT.key).into(),
            ..russh::Preferred::DEFAULT
        },
        ..client::Config::default()
    };
    let (still_alive, alive) = watch::channel(true);
    let trust = Trust {
        still_alive,
        known,
        address: address.clone(),
        file: options.known_hosts.display().to_string(),
    };
    let mut handle =
        client::connect_stream(Arc::new(config), socket, trust).await.map_err(|error| match error {
            Refusal::Host(error) => *error,
            Refusal::Broken(error) => unreachable("the SSH connection broke off", error.into()),
        })?;
    log_in(&mut handle, address, options).await.map_err(|failure| failure.into_error(side))?;
    let mut channel = handle.channel_open_session().await.map_err(|error| broken(side, error))?;
    channel.request_subsystem(true, "sftp").await.map_err(|error| broken(side, error))?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => break,
            Some(ChannelMsg::Failure) => {
                return Err(Error::refused("the server does not offer SFTP to this user").hint(
                    "sshd_config needs a line Subsystem sftp internal-sftp, and must let this user use it",
                ));
            }
            Some(_) => {}
            None => return Err(broken(side, russh::Error::Disconnect)),
        }
    }
    let config = russh_sftp::client::Config {
        request_timeout_secs: ANSWER_SECONDS_MAX,
        ..russh_sftp::client::Config::default()
    };
    let mut session = RawSftpSession::new_with_config(channel.into_stream(), config);
    let version = session.init().await.map_err(|error| {
        Error::new(side.unreachable(), "there is no answer from SFTP")
            .because(error)
            .hint("does the server offer SFTP (Subsystem sftp in sshd_config), and may this user use it?")
    })?;
    let mut packet = PACKET_BYTES;
    if version.extensions.contains_key("limits@openssh.com")
        && let Ok(limits) = session.limits().await
    {
        let limits = Limits::from(limits);
        for length in [limits.read_len, limits.write_len].into_iter().flatten() {
            packet = packet.min(usize::try_from(length).unwrap_or(packet));
        }
        session.set_limits(limits);
    }
    Ok(Connection {
        session,
        packet,
        swept: AtomicBool::new(false),
        extensions: version.extensions,
        handle,
        alive,
    })
}

fn broken(side: Side, error: russh::Error) -> Error {
    Error::new(side.unreachable(), "the SSH connection broke off")
        .because(error)
        .hint("look at the SSH server's log; it may limit sessions (MaxSessions, MaxStartups)")
}

fn read_known_hosts(file: &Path) -> Result<String> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        // Then no host is known, which the check says better.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(crate::store::local(file, error)),
    }
}

/// Which host keys are taken: those that the file has.
struct Trust {
    known: KnownHost,
    address: Address,
    file: String,
    /// Goes with this, which the session has.
    still_alive: watch::Sender<bool>,
}

/// Why there is no connection.
#[derive(Debug)]
enum Refusal {
    Host(Box<Error>),
    Broken(russh::Error),
}

impl From<russh::Error> for Refusal {
    fn from(error: russh::Error) -> Refusal {
        Refusal::Broken(error)
    }
}

impl client::Handler for Trust {
    type Error = Refusal;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Refusal> {
        let key = shown.public_key();
        match self.known.check(&key) {
            Verdict::Known => Ok(true),
            verdict => Err(Refusal::Host(Box::new(self.refusal(&verdict, &key)))),
        }
    }

    /// The host's SFTP process has ended; the connection that it was on may live on.
    async fn channel_eof(&mut self, _: ChannelId, _: &mut client::Session) -> Result<(), Refusal> {
        self.still_alive.send_replace(false);
        Ok(())
    }

    async fn channel_close(&mut self, _: ChannelId, _: &mut client::Session) -> Result<(), Refusal> {
        self.still_alive.send_replace(false);
        Ok(())
    }
}

impl Trust {
    fn refusal(&self, verdict: &Verdict, key: &PublicKey) -> Error {
        let (kind, fingerprint) = (key.algorithm(), key.fingerprint(HashAlg::Sha256));
        let file = &self.file;
        let Address { user, host, port } = &self.address;
        match verdict {
            Verdict::Changed { line } => Error::refused(format!(
                "the host shows another key than {file}, line {line}, has for it: {kind} {fingerprint}"
            ))
            .hint(format!(
                "somebody may be listening in: ask the host's administrator for its fingerprint; only if its key was \
                 changed on purpose: ssh-keygen -f {file} -R '{}', then add the new one",
                known_hosts::address(host, *port)
            )),
            Verdict::Revoked { line } => {
                Error::refused(format!("the host shows a key that {file}, line {line}, revokes: {fingerprint}"))
                    .hint("do not connect; ask the host's administrator for its new key")
            }
            Verdict::Known | Verdict::Unknown => {
                Error::refused(format!("the host is not in {file}; it shows {kind} {fingerprint}")).hint(format!(
                    "compare this fingerprint with what ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub prints on the host; if it is \
                     the same: ssh-keyscan -p {port} {host} >> {file}   (or log in once: ssh -p {port} {user}@{host})"
                ))
            }
        }
    }
}

/// Why nobody let us in.
enum Failure {
    Refused(Box<Error>),
    Broken(russh::Error),
}

impl From<russh::Error> for Failure {
    fn from(error: russh::Error) -> Failure {
        Failure::Broken(error)
    }
}

impl Failure {
    fn into_error(self, side: Side) -> Error {
        match self {
            Failure::Refused(error) => *error,
            Failure::Broken(error) => broken(side, error),
        }
    }
}

/// The agent's keys, then those of the files, until the host takes one.
async fn log_in(handle: &mut Handle<Trust>, address: &Address, options: &SftpOptions) -> Result<(), Failure> {
    let rsa_hash = handle.best_supported_rsa_hash().await?.flatten().or(Some(HashAlg::Sha256));
    let mut offered = Vec::new();
    if let Some(socket) = options.agent_socket.as_ref().filter(|_| options.use_agent)
        && offer_agent(handle, address, socket, rsa_hash, &mut offered).await?
    {
        return Ok(());
    }
    let mut unusable: Option<Error> = None;
    for file in options.identity_files.iter().filter(|file| file.exists()) {
        match load(file, options) {
            Err(error) => unusable = Some(error),
            Ok(key) => {
                offered.push(format!(
                    "{} ({})",
                    file.display(),
                    key.public_key().fingerprint(HashAlg::Sha256)
                ));
                let key = PrivateKeyWithHashAlg::new(Arc::new(key), rsa_hash);
                let answer = handle.authenticate_publickey(&address.user, key).await?;
                if is_accepted(&answer, offered.len())? {
                    return Ok(());
                }
            }
        }
    }
    if let Some(error) = unusable {
        return Err(Failure::Refused(Box::new(error)));
    }
    let files: Vec<String> = options.identity_files.iter().map(|file| file.display().to_string()).collect();
    let error = if offered.is_empty() {
        Error::refused(format!(
            "there is no key to log in with: no agent has one, and there is no {}",
            files.join(", ")
        ))
        .hint("make one: ssh-keygen -t ed25519, and add its .pub file to ~/.ssh/authorized_keys on the host")
    } else {
        Error::refused(format!("the host takes none of our keys: {}", offered.join(", "))).hint(format!(
            "add the key's .pub file to ~/.ssh/authorized_keys of {} on the host; that file and its folders may be \
             writable by nobody else",
            address.user
        ))
    };
    Err(Failure::Refused(Box::new(error)))
}

/// Whether the host takes a key, the last of so many. A host that refuses one says what else it would take: no answer
/// at all is a broken connection, or a host that has seen enough keys.
fn is_accepted(answer: &AuthResult, offered: usize) -> Result<bool, Failure> {
    const ENOUGH_KEYS: usize = 3;
    match answer {
        AuthResult::Success => Ok(true),
        AuthResult::Failure { remaining_methods, .. } if !remaining_methods.is_empty() => Ok(false),
        AuthResult::Failure { .. } if offered >= ENOUGH_KEYS => Err(Failure::Refused(Box::new(
            Error::refused(format!("the host ended the connection at our key number {offered}"))
                .hint("it may allow fewer tries: let the agent have fewer keys, or do not use it and name the one key"),
        ))),
        AuthResult::Failure { .. } => Err(Failure::Broken(russh::Error::Disconnect)),
    }
}

async fn offer_agent(
    handle: &mut Handle<Trust>,
    address: &Address,
    socket: &Path,
    rsa_hash: Option<HashAlg>,
    offered: &mut Vec<String>,
) -> Result<bool, Failure> {
    // An agent that is not there, or locked, is as good as none.
    let Ok(mut agent) = AgentClient::connect_uds(socket).await else { return Ok(false) };
    let Ok(identities) = agent.request_identities().await else { return Ok(false) };
    for identity in identities {
        let AgentIdentity::PublicKey { key, .. } = identity else { continue };
        let hash = matches!(key.algorithm(), Algorithm::Rsa { .. }).then_some(rsa_hash).flatten();
        offered.push(format!("the agent's {}", key.fingerprint(HashAlg::Sha256)));
        let answer = handle.authenticate_publickey_with(&address.user, key, hash, &mut agent).await;
        // A key that the agent does not sign with is passed over.
        if let Ok(answer) = answer
            && is_accepted(&answer, offered.len())?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn load(file: &Path, options: &SftpOptions) -> Result<russh::keys::PrivateKey> {
    use russh::keys::Error as KeyError;
    let passphrase = options.passphrase.as_ref().map(crate::secret::Secret::reveal);
    russh::keys::load_secret_key(file, passphrase).map_err(|error| {
        let what = file.display();
        let is_locked = matches!(&error, KeyError::KeyIsEncrypted);
        match (is_locked, passphrase) {
            (true, None) => Error::refused(format!("the key {what} needs its passphrase"))
                .hint("give the passphrase in the configuration, or add the key to an agent: ssh-add"),
            (_, Some(_)) => {
                Error::refused(format!("the key {what} cannot be used: is its passphrase wrong?"))
                    .because(error)
                    .hint("try it: ssh-keygen -yf the key's file")
            }
            (false, None) => Error::refused(format!("the key {what} cannot be used"))
                .because(error)
                .hint("pgdiode uses private keys of ed25519, ecdsa and rsa that it may read"),
        }
    })
}
