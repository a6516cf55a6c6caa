//! From messages to events: whole transactions in commit order.
//!
//! Ordinary transactions arrive whole and pass straight through. Large ones may be streamed while they are still in
//! progress, in segments that interleave; those wait in a [`Spool`] each until their commit or abort is known.
//! No socket here: messages in, events out.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::change::{ByNumber, Change, Event, Relation, Transaction};
use crate::error::{Error, Kind, Result};
use crate::position::Lsn;
use crate::source::postgres::pgoutput::{self, Message};
use crate::source::postgres::spool::{Messages, Spool};

/// Events in order, with the memory that they hold.
#[derive(Default)]
pub struct Chunk {
    pub events: VecDeque<Event>,
    pub bytes: usize,
}

impl Chunk {
    pub(super) fn push(&mut self, event: Event) {
        self.bytes += match &event {
            Event::Change(change) => change.size(),
            _ => 32,
        };
        self.events.push_back(event);
    }
}

pub struct Assembler {
    /// What the server last said of each relation, by its OID.
    relations: ByNumber<u32, Arc<Relation>>,
    /// In-progress transactions by top-level transaction id.
    spools: ByNumber<u32, Spool>,
    /// The in-progress transaction whose segment we are in.
    segment: Option<u32>,
    /// Between Begin and Commit.
    in_transaction: bool,
    /// A streamed transaction whose commit has arrived and whose messages are being turned into events.
    replay: Option<Replay>,
    /// Most bytes that all spools together hold in memory.
    spool_memory_max: usize,
    spool_directory: PathBuf,
    spooled: usize,
}

struct Replay {
    messages: Messages,
    end_lsn: Lsn,
}

impl Assembler {
    pub fn new(spool_memory_max: usize, spool_directory: PathBuf) -> Assembler {
        Assembler {
            relations: ByNumber::default(),
            spools: ByNumber::default(),
            segment: None,
            in_transaction: false,
            replay: None,
            spool_memory_max,
            spool_directory,
            spooled: 0,
        }
    }

    /// Whether a committed streamed transaction is still coming out: no further message may be given before
    /// [`Assembler::replay`] has emptied it.
    pub fn is_replaying(&self) -> bool {
        self.replay.is_some()
    }

    /// A keepalive says that all up to `end` has been sent. Inside a transaction that says nothing.
    pub fn keepalive(&mut self, end: Lsn, urgent: bool, out: &mut Chunk) {
        if !self.in_transaction && self.segment.is_none() && self.replay.is_none() {
            out.push(Event::Idle { position: end, urgent });
        }
    }

    /// Takes one message.
    pub fn message(&mut self, body: Bytes, out: &mut Chunk) -> Result<()> {
        assert!(self.replay.is_none(), "a message was given before the replay ended");
        if let Some(xid) = self.segment {
            return match pgoutput::decode(body.clone(), true)? {
                Message::StreamStop => {
                    self.segment = None;
                    Ok(())
                }
                message => self.spool(xid, &body, message),
            };
        }
        match pgoutput::decode(body, false)? {
            Message::StreamStart { xid, .. } => {
                self.segment = Some(xid);
                self.spools.entry(xid).or_default();
            }
            Message::StreamCommit { xid, commit_lsn, end_lsn, committed_at_us } => {
                let messages = self.take_spool(xid).into_messages().map_err(spool_failed)?;
                out.push(Event::Begin(Transaction { xid, commit_lsn, committed_at_us }));
                self.replay = Some(Replay { messages, end_lsn });
            }
            Message::StreamAbort { xid, subxid, .. } => self.abort(xid, subxid)?,
            Message::Begin { final_lsn, committed_at_us, xid } => {
                self.in_transaction = true;
                out.push(Event::Begin(Transaction { xid, commit_lsn: final_lsn, committed_at_us }));
            }
            Message::Commit { end_lsn, .. } => {
                self.in_transaction = false;
                out.push(Event::Commit(end_lsn));
            }
            message => self.emit(message, out)?,
        }
        Ok(())
    }

    /// Turns more of the committed streamed transaction into events, until `out` holds `bytes_max`.
    pub fn replay(&mut self, out: &mut Chunk, bytes_max: usize) -> Result<()> {
        while out.bytes < bytes_max {
            let Some(replay) = &mut self.replay else { return Ok(()) };
            if let Some(body) = replay.messages.read().map_err(spool_failed)? {
                let message = pgoutput::decode(body, true)?;
                self.emit(message, out)?;
            } else {
                out.push(Event::Commit(replay.end_lsn));
                self.replay = None;
            }
        }
        Ok(())
    }

    /// Keeps a message of an in-progress transaction. Relations are noted at once as well: if their message is
    /// rolled back with a subtransaction, the server does not repeat it.
    fn spool(&mut self, top_xid: u32, body: &[u8], message: Message) -> Result<()> {
        let xid = match message {
            Message::Relation { xid, relation } => {
                self.relations.insert(relation.id, Arc::new(relation));
                xid
            }
            Message::Insert { xid, .. }
            | Message::Update { xid, .. }
            | Message::Delete { xid, .. }
            | Message::Truncate { xid, .. } => xid,
            _ => return Ok(()),
        };
        let spool = self.spools.entry(top_xid).or_default();
        let before = spool.memory();
        spool.append(xid.unwrap_or(top_xid), body);
        self.spooled += spool.memory() - before;
        if self.spooled > self.spool_memory_max { self.store_largest() } else { Ok(()) }
    }

    fn store_largest(&mut self) -> Result<()> {
        if let Some(spool) = self.spools.values_mut().max_by_key(|spool| spool.memory()) {
            self.spooled -= spool.memory();
            spool.store(&self.spool_directory).map_err(spool_failed)?;
        }
        Ok(())
    }

    fn take_spool(&mut self, xid: u32) -> Spool {
        let spool = self.spools.remove(&xid).unwrap_or_default();
        self.spooled -= spool.memory();
        spool
    }

    fn abort(&mut self, xid: u32, subxid: u32) -> Result<()> {
        if xid == subxid {
            self.take_spool(xid);
            return Ok(());
        }
        let Some(spool) = self.spools.get_mut(&xid) else { return Ok(()) };
        let before = spool.memory();
        spool.roll_back(subxid).map_err(spool_failed)?;
        self.spooled -= before - spool.memory();
        Ok(())
    }

    /// A message of a transaction that is known to commit.
    fn emit(&mut self, message: Message, out: &mut Chunk) -> Result<()> {
        let change = match message {
            Message::Relation { relation, .. } => {
                self.relations.insert(relation.id, Arc::new(relation));
                return Ok(());
            }
            Message::Insert { relation_id, new, .. } => {
                Change::Insert { relation: self.relation(relation_id)?, new }
            }
            Message::Update { relation_id, old, new, .. } => {
                Change::Update { relation: self.relation(relation_id)?, old, new }
            }
            Message::Delete { relation_id, old, .. } => {
                Change::Delete { relation: self.relation(relation_id)?, old }
            }
            Message::Truncate { relation_ids, cascade, restart_identity, .. } => {
                let relations =
                    relation_ids.into_iter().map(|id| self.relation(id)).collect::<Result<_>>()?;
                Change::Truncate { relations, cascade, restart_identity }
            }
            // What another session says in the log, where rows came from, and type names are not changes.
            Message::Logical { .. } | Message::Origin { .. } | Message::Type { .. } => return Ok(()),
            unexpected => {
                return Err(Error::unexpected(format!("the source sent {unexpected:?} where it cannot be"))
                    .hint("Please report this: the stream is stopped rather than guessed at."));
            }
        };
        out.push(Event::Change(change));
        Ok(())
    }

    fn relation(&self, id: u32) -> Result<Arc<Relation>> {
        self.relations.get(&id).cloned().ok_or_else(|| {
            Error::unexpected(format!("the source sent a change of relation {id} that it never described"))
        })
    }
}

fn spool_failed(cause: io::Error) -> Error {
    let kind = if cause.kind() == io::ErrorKind::StorageFull { Kind::Capacity } else { Kind::Unexpected };
    Error::new(kind, "a large in-progress transaction cannot be kept on disk").because(cause).hint(
        "Give `stream.spool_dir` a directory with room for the largest transaction; the transaction is streamed again.",
    )
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};

    use super::*;

    fn message(tag: u8, numbers: &[u64], put: impl Fn(&mut BytesMut, &[u64])) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u8(tag);
        put(&mut body, numbers);
        body.freeze()
    }

    fn begin(commit_lsn: u64) -> Bytes {
        message(b'B', &[commit_lsn, 0], |body, numbers| {
            body.extend(numbers.iter().flat_map(|number: &u64| number.to_be_bytes()));
            body.put_u32(7);
        })
    }

    fn commit(end_lsn: u64) -> Bytes {
        message(b'C', &[0, end_lsn, 0], |body, numbers| {
            body.put_u8(0);
            body.extend(numbers.iter().flat_map(|number: &u64| number.to_be_bytes()));
        })
    }

    fn stream_start(xid: u32) -> Bytes {
        message(b'S', &[], |body, _| {
            body.put_u32(xid);
            body.put_u8(1);
        })
    }

    fn stream_commit(xid: u32, end_lsn: u64) -> Bytes {
        message(b'c', &[0, end_lsn, 0], |body, numbers| {
            body.put_u32(xid);
            body.put_u8(0);
            body.extend(numbers.iter().flat_map(|number: &u64| number.to_be_bytes()));
        })
    }

    /// What a keepalive after each message brings forth.
    fn idle_after(messages: &[Bytes]) -> Vec<bool> {
        let mut assembler = Assembler::new(1024, std::env::temp_dir());
        let said_idle = |message: &Bytes| {
            let mut chunk = Chunk::default();
            assembler.message(message.clone(), &mut chunk).unwrap();
            chunk.events.clear();
            assembler.keepalive(Lsn(1000), false, &mut chunk);
            let is_idle = !chunk.events.is_empty();
            assembler.replay(&mut chunk, usize::MAX).unwrap();
            is_idle
        };
        messages.iter().map(said_idle).collect()
    }

    /// Its position is that of what has been sent, and so beyond what is only half here (invariant 3).
    #[test]
    fn a_keepalive_inside_a_transaction_says_nothing() {
        assert_eq!(idle_after(&[begin(10), commit(20)]), [false, true]);
        let stop = Bytes::from_static(b"E");
        assert_eq!(idle_after(&[stream_start(9), stop, stream_commit(9, 30)]), [false, true, false]);
    }
}
