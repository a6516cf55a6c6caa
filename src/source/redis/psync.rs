//! Listening as a replica does: every write of the server, in order, and after a broken connection from where it broke.
//!
//! ```text
//! REPLCONF capa eof capa psync2, rdb-filter-only ""  ->  PSYNC history offset+1
//!    +CONTINUE                     the history goes on: nothing was missed
//!    +FULLRESYNC history offset    another history: a snapshot follows, which is passed over; every key is looked at
//! ```
//!
//! No snapshot is wanted: values are read by whoever looks at all keys. A server that keeps any history is joined at its
//! end (`INFO` says where that is), which costs it nothing; the others are asked for an empty snapshot.
//!
//! What this connection says is durable is what the target has committed. A primary that waits for its replicas
//! (`min-replicas-to-write`) counts us as one, whatever we say.
//!
//! Source: Redis' documentation of replication; what servers of versions 6.2 to 7.4 and Valkey 9 answer.

use std::time::Duration;

use bytes::{Buf, BytesMut};

use super::commands::{Effect, effects};
use super::dirty::Moment;
use super::ear::Ear;
use super::live::Live;
use super::server::Server;
use crate::error::{Error, Kind, Result};
use crate::keyspace::{ContentHash, NodePosition};
use crate::redis::connection::Connection;
use crate::redis::resp::Command;

/// A primary drops who is silent for its `repl-timeout`, 60 s by default; after a snapshot without a length it waits for
/// the first word that comes once it is ready, and says nothing until then.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_secs(1);
/// A primary says something each `repl-ping-replica-period`, 10 s by default.
const SILENCE_MAX: Duration = Duration::from_mins(2);
/// What separates a snapshot of unknown length from what follows.
const MARK_BYTES: usize = 40;

/// How a server was joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Where the stream begins; node and mapping are the caller's to fill in.
    pub position: NodePosition,
    /// Everything behind the position that was asked for will be heard.
    pub goes_on: bool,
}

/// A connection on which the stream has begun.
pub struct Replica {
    connection: Connection,
    command: Command,
    /// The server sends a snapshot first.
    awaits_snapshot: bool,
    /// Nothing of the history has come since the snapshot.
    awaits_command: bool,
}

impl Replica {
    /// Joins the server behind `from`, or where its history ends now.
    pub async fn join(
        mut connection: Connection,
        psync: &str,
        from: Option<&NodePosition>,
    ) -> Result<(Replica, Joined)> {
        let server = Server::ask(&mut connection).await?.unwrap_or_default();
        if !server.is_linked {
            return Err(unreachable("the Redis server is a replica that has no connection to its primary"));
        }
        let from = from.filter(|from| server.continues(&from.replication_id, from.offset));
        let at_end = NodePosition {
            node: String::new(),
            replication_id: server.replication_id.clone(),
            offset: server.offset,
            database: None,
            is_scanned: false,
            mapping: ContentHash([0; 16]),
        };
        let joins_end = server.continues(&at_end.replication_id, at_end.offset);
        let asked = from.or(joins_end.then_some(&at_end));
        connection.ask(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]).await?;
        if server.version >= (7, 0) {
            // An empty list of what the snapshot is to hold. Who does not know it sends a whole one.
            connection.ask(&[b"REPLCONF", b"rdb-filter-only", b""]).await?;
        }
        let (id, offset) = asked.map_or(("?".to_owned(), "-1".to_owned()), |asked| {
            (asked.replication_id.clone(), (asked.offset + 1).to_string())
        });
        connection.send(&[psync.as_bytes(), id.as_bytes(), offset.as_bytes()]);
        connection.flush().await?;
        let answer = line(&mut connection).await?;
        let mut words = answer.split(' ');
        let mut awaits_snapshot = false;
        let joined = match (words.next(), asked) {
            (Some("+CONTINUE"), Some(asked)) => {
                let replication_id = words.next().unwrap_or(&asked.replication_id).to_owned();
                Joined { position: NodePosition { replication_id, ..asked.clone() }, goes_on: from.is_some() }
            }
            (Some("+FULLRESYNC"), _) => {
                let (Some(id), Some(Ok(offset))) = (words.next(), words.next().map(str::parse)) else {
                    return Err(strange(&answer));
                };
                awaits_snapshot = true;
                let position = NodePosition { replication_id: id.to_owned(), offset, ..at_end };
                Joined { position, goes_on: false }
            }
            _ => return Err(refused(&connection, &answer)),
        };
        let command = Command::default();
        Ok((Replica { connection, command, awaits_snapshot, awaits_command: awaits_snapshot }, joined))
    }
}

impl Ear for Replica {
    const SPEAK_INTERVAL: Duration = ACKNOWLEDGE_INTERVAL;
    const SILENCE_MAX: Duration = SILENCE_MAX;

    async fn begin(&mut self) -> Result<()> {
        if self.awaits_snapshot { pass_over_snapshot(&mut self.connection).await } else { Ok(()) }
    }

    fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Takes every whole command out of what was received.
    async fn hear(&mut self, live: &Live) -> Result<()> {
        let now = live.now();
        let mut is_asked = false;
        {
            let mut heard = live.heard();
            let heard = &mut *heard;
            let received = self.connection.received();
            self.awaits_command = self.awaits_command && only_signs_of_life(received);
            let mut taken = 0;
            // Offset and database behind the last command, which may be inside of a transaction.
            let mut inside = heard.inside.take().unwrap_or((heard.position.offset, heard.position.database));
            while let Some(length) = self.command.read(&received[taken..])? {
                let bytes = &received[taken..taken + length];
                taken += length;
                inside.0 += length as u64;
                effects(&self.command, bytes, |effect| match effect {
                    Effect::Selected(database) => inside.1 = Some(database),
                    Effect::Asked => is_asked = true,
                    effect => heard.dirty.add(effect, Moment { database: inside.1, offset: inside.0, now }),
                });
                if !heard.dirty.is_open() {
                    (heard.position.offset, heard.position.database) = inside;
                }
            }
            heard.inside = heard.dirty.is_open().then_some(inside);
            received.advance(taken);
        }
        live.tell();
        if is_asked { self.speak(live).await } else { Ok(()) }
    }

    /// Acknowledges what is durable.
    async fn speak(&mut self, live: &Live) -> Result<()> {
        self.connection.send(&[b"REPLCONF", b"ACK", live.durable().to_string().as_bytes()]);
        self.connection.flush().await
    }
}

/// A line of the handshake; empty ones say that the server is still there.
async fn line(connection: &mut Connection) -> Result<String> {
    loop {
        let received = connection.received();
        while received.first() == Some(&b'\n') {
            received.advance(1);
        }
        if let Some(end) = received.iter().position(|&byte| byte == b'\n') {
            let line = received.split_to(end + 1);
            return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        within_silence(connection).await?;
    }
}

async fn within_silence(connection: &mut Connection) -> Result<()> {
    let seconds = SILENCE_MAX.as_secs();
    tokio::time::timeout(SILENCE_MAX, connection.receive())
        .await
        .map_err(|_| unreachable(format!("the Redis server prepared a snapshot for more than {seconds} s")))?
}

/// Drops the empty lines before the first command. A server that has just sent its snapshot, and is busy, may still say by
/// one that it is there: it is no part of its history. Whether nothing else has come.
fn only_signs_of_life(received: &mut BytesMut) -> bool {
    let length = received.iter().take_while(|byte| **byte == b'\n').count();
    received.advance(length);
    received.is_empty()
}

/// Reads `$LENGTH` and as many bytes, or `$EOF:MARK`, bytes, and the mark again.
async fn pass_over_snapshot(connection: &mut Connection) -> Result<()> {
    let head = line(connection).await?;
    if let Some(mark) = head.strip_prefix("$EOF:").filter(|mark| mark.len() == MARK_BYTES) {
        while !passed_mark(connection.received(), mark.as_bytes()) {
            within_silence(connection).await?;
        }
        return Ok(());
    }
    let length = head.strip_prefix('$').and_then(|length| length.parse::<usize>().ok());
    let mut left = length.ok_or_else(|| strange(&head))?;
    while left > 0 {
        let received = connection.received();
        let part = left.min(received.len());
        received.advance(part);
        left -= part;
        if left > 0 {
            within_silence(connection).await?;
        }
    }
    Ok(())
}

/// Drops what stands before the mark, and the mark; of what may be its beginning nothing.
fn passed_mark(received: &mut BytesMut, mark: &[u8]) -> bool {
    if let Some(at) = received.windows(mark.len()).position(|window| window == mark) {
        received.advance(at + mark.len());
        return true;
    }
    let kept = mark.len().saturating_sub(1);
    received.advance(received.len().saturating_sub(kept));
    false
}

fn unreachable(what: impl Into<String>) -> Error {
    Error::new(Kind::SourceUnreachable, what)
}

fn strange(answer: &str) -> Error {
    Error::unexpected(format!("the Redis server answered PSYNC with \"{answer}\""))
}

/// Why the server lets nobody listen this way.
fn refused(connection: &Connection, answer: &str) -> Error {
    let words = answer.strip_prefix('-').unwrap_or(answer);
    match words.split(' ').next().unwrap_or_default() {
        "NOPERM" | "ERR" => Error::refused(format!("the Redis server at {} says: {words}", connection.place()))
            .hint("Listening as a replica needs the rights +psync and +replconf; many a service gives them to nobody."),
        _ => connection.refusal(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lines_before_the_first_command_are_no_history() {
        let mut received = BytesMut::from(&b"\n\n"[..]);
        assert!(only_signs_of_life(&mut received) && received.is_empty());
        received.extend_from_slice(b"\n*1\r\n$4\r\nPING\r\n");
        assert!(!only_signs_of_life(&mut received));
        assert_eq!(&received[..], b"*1\r\n$4\r\nPING\r\n");
    }

    #[test]
    fn a_snapshot_ends_at_its_mark_wherever_the_reads_were_cut() {
        let mark = [b'm'; MARK_BYTES];
        let whole = [&b"REDIS0010 mmm data"[..], &mark, b"*1\r\n"].concat();
        for cut in 0..whole.len() {
            let mut received = BytesMut::from(&whole[..cut]);
            let passed = passed_mark(&mut received, &mark);
            received.extend_from_slice(&whole[cut..]);
            assert!(passed || passed_mark(&mut received, &mark), "cut at {cut}");
            assert_eq!(&received[..], b"*1\r\n", "cut at {cut}");
        }
    }
}
