//! A connection to one Redis server: commands out, answers in, several under way at once.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::{Error, Kind, Result};
use crate::redis::location::{Host, Location};
use crate::redis::resp::{self, Reply};
use crate::redis::sentinel;
use crate::redis::transport::{self, Transport};

/// How much is read from the socket at once.
const READ_BYTES: usize = 256 * 1024;
/// A server that does not answer for so long is gone: even a slow one is done with a batch long before.
const ANSWER_PATIENCE: Duration = Duration::from_mins(2);

pub struct Connection {
    transport: Transport,
    received: BytesMut,
    out: BytesMut,
    /// `host:port`, for messages.
    place: String,
}

impl Connection {
    /// Connects to the first server of the list that answers, authenticates, and gives itself `name` there.
    pub async fn open(location: &Location, name: &str) -> Result<Connection> {
        if location.primary_name.is_some() {
            let found = sentinel::resolved(location, name).await?;
            let mut connection = Connection::open_first(&found, name).await?;
            sentinel::check_primary(&mut connection).await?;
            return Ok(connection);
        }
        Connection::open_first(location, name).await
    }

    async fn open_first(location: &Location, name: &str) -> Result<Connection> {
        let mut last = None;
        for host in &location.hosts {
            match transport::connect(location, host).await {
                Ok(transport) => return Connection::begin(transport, location, host, name).await,
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::config("no Redis server is named")))
    }

    /// To this one server, whichever others the location names.
    pub(super) async fn open_at(location: &Location, host: &Host, name: &str) -> Result<Connection> {
        let transport = transport::connect(location, host).await?;
        Connection::begin(transport, location, host, name).await
    }

    async fn begin(transport: Transport, location: &Location, host: &Host, name: &str) -> Result<Connection> {
        let (received, out, place) = (BytesMut::new(), BytesMut::new(), host.display());
        let mut connection = Connection { transport, received, out, place };
        let answered = connection.authenticate(location, host);
        tokio::time::timeout(location.connect_timeout, answered).await.map_err(|_| {
            Error::new(Kind::SourceUnreachable, format!("the server at {} does not answer", host.display()))
                .hint("Is it a Redis server? The host or a firewall may be in the way.")
        })??;
        // Told to whoever looks at the server's list of clients; some services do not allow it.
        connection.ask(&[b"CLIENT", b"SETNAME", name.as_bytes()]).await?;
        Ok(connection)
    }

    async fn authenticate(&mut self, location: &Location, host: &Host) -> Result<()> {
        match (&location.user, &location.password) {
            (Some(user), Some(password)) => {
                self.send(&[b"AUTH", user.as_bytes(), password.reveal().as_bytes()]);
            }
            // A user that needs no password is asked for none.
            (Some(user), None) => self.send(&[b"AUTH", user.as_bytes(), b""]),
            (None, Some(password)) => self.send(&[b"AUTH", password.reveal().as_bytes()]),
            (None, None) => self.send(&[b"PING"]),
        }
        let Reply::Error(words) = self.first_reply(location, host).await? else { return Ok(()) };
        let code = words.split(' ').next().unwrap_or_default();
        let refused =
            |what: &str, hint: &str| Err(Error::refused(format!("{what} {}", self.place)).hint(hint));
        match code {
            "WRONGPASS" | "ERR" if location.password.is_some() => refused(
                "user name or password are not right for the Redis server at",
                "Check the user, password_env or password_file of the source; REDIS_USERNAME and REDIS_PASSWORD where it comes from these.",
            ),
            "NOAUTH" => refused(
                "a password is needed for the Redis server at",
                "Name one by password_env or password_file of the source, or by REDIS_PASSWORD.",
            ),
            // Nobody needs to be allowed to PING.
            "NOPERM" => Ok(()),
            "LOADING" | "MASTERDOWN" | "BUSY" => Err(self.refusal(&words)),
            _ => Err(self.refusal(&words).with_kind(Kind::Refused)),
        }
    }

    /// Before the first answer a connection breaks for reasons of its own: what was said may not be its protocol.
    async fn first_reply(&mut self, location: &Location, host: &Host) -> Result<Reply> {
        let broken = |error: io::Error| transport::failure(error, location, host);
        self.transport.write_all(&self.out).await.map_err(broken)?;
        self.transport.flush().await.map_err(broken)?;
        self.out.clear();
        loop {
            if let Some(reply) = resp::take_reply(&mut self.received)? {
                return Ok(reply);
            }
            if self.transport.read_buf(&mut self.received).await.map_err(broken)? == 0 {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    /// Appends a command to what the next flush sends.
    pub fn send(&mut self, arguments: &[&[u8]]) {
        resp::put_command(&mut self.out, arguments);
    }

    pub async fn flush(&mut self) -> Result<()> {
        let sent = async {
            self.transport.write_all(&self.out).await?;
            self.transport.flush().await
        };
        let sent = tokio::time::timeout(ANSWER_PATIENCE, sent).await;
        self.out.clear();
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.broken().because(error)),
            Err(_) => Err(self.silent()),
        }
    }

    /// The next answer. Not to be cancelled with commands under way: they would be answered to somebody else.
    pub async fn reply(&mut self) -> Result<Reply> {
        loop {
            if let Some(reply) = resp::take_reply(&mut self.received)? {
                return Ok(reply);
            }
            tokio::time::timeout(ANSWER_PATIENCE, self.receive()).await.map_err(|_| self.silent())??;
        }
    }

    /// Sends one command; the server's refusal is an answer like any other.
    pub async fn ask(&mut self, arguments: &[&[u8]]) -> Result<Reply> {
        self.send(arguments);
        self.flush().await?;
        self.reply().await
    }

    /// Sends one command; the server's refusal is an error.
    pub async fn call(&mut self, arguments: &[&[u8]]) -> Result<Reply> {
        match self.ask(arguments).await? {
            Reply::Error(words) => Err(self.refusal(&words).context(said(arguments))),
            reply => Ok(reply),
        }
    }

    /// Waits for bytes and buffers them. Cancel safe.
    pub async fn receive(&mut self) -> Result<()> {
        self.received.reserve(READ_BYTES);
        match self.transport.read_buf(&mut self.received).await {
            Ok(0) => Err(self.broken()),
            Ok(_) => Ok(()),
            Err(error) => Err(self.broken().because(error)),
        }
    }

    /// What has been received and not taken.
    pub fn received(&mut self) -> &mut BytesMut {
        &mut self.received
    }

    fn broken(&self) -> Error {
        Error::new(
            Kind::SourceUnreachable,
            format!("the connection to the Redis server at {} broke", self.place),
        )
    }

    fn silent(&self) -> Error {
        let seconds = ANSWER_PATIENCE.as_secs();
        Error::new(
            Kind::SourceUnreachable,
            format!("the Redis server at {} has not answered for {seconds} s", self.place),
        )
    }

    /// What the server refuses, in its words. Trying again may help where the server's state is the reason.
    pub fn refusal(&self, words: &str) -> Error {
        let code = words.split(' ').next().unwrap_or_default();
        let what = format!("the Redis server at {} says: {words}", self.place);
        match code {
            "LOADING" | "MASTERDOWN" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "NOMASTERLINK" => {
                Error::new(Kind::SourceUnreachable, what)
            }
            "NOPERM" => Error::refused(what).hint(
                "The user needs more rights: pgdiode setup --print-sql prints the command that gives them.",
            ),
            _ => Error::unexpected(what),
        }
    }
}

/// A command's name, without what may be secret.
fn said(arguments: &[&[u8]]) -> String {
    let words = arguments.iter().take(1).map(|word| String::from_utf8_lossy(word));
    words.collect::<Vec<_>>().join(" ")
}
