//! The wire words of logical replication, decoded without any I/O: [`Frame`]s, and the pgoutput [`Message`]s in them,
//! protocol versions 1 to 4.
//!
//! ```text
//!   CopyData  =  w | start | end | sent at | message body           k | end | sent at | reply?
//!   message   =  kind | [xid, in a stream] | fields                 tuple = column count | Tuple's own encoding
//! ```
//!
//! Sources: the PostgreSQL manual, "Streaming Replication Protocol" and "Logical Replication Message Formats", and
//! `src/backend/replication/logical/proto.c`. Whatever is not exactly one message is [`Malformed`]: bytes left over,
//! flags that no version defines, and names that are not UTF-8 too, since any of them means that we misread the rest.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};

use crate::change::{Column, Old, Relation, ReplicaIdentity, Tuple};
use crate::error::Error;
use crate::position::Lsn;

/// One decoded message, with its kind byte; values stay slices of the body. Times are microseconds since
/// 2000-01-01 UTC.
///
/// `xid` is `Some` between Stream Start and Stream Stop. There it names the subtransaction, which may be aborted alone;
/// only a logical message names the transaction, so that it stays although its subtransaction is undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// `B`. `final_lsn` is where the commit record begins, not yet a position.
    Begin { final_lsn: Lsn, committed_at_us: i64, xid: u32 },
    /// `C`. `commit_lsn < end_lsn`, the position after the transaction.
    Commit { commit_lsn: Lsn, end_lsn: Lsn, committed_at_us: i64 },
    /// `O`. The source got this transaction from elsewhere; `commit_lsn` is there, or zero in a stream.
    Origin { commit_lsn: Lsn, name: String },
    /// `M`. What `pg_logical_emit_message` wrote; outside of any transaction when it is not transactional.
    Logical { xid: Option<u32>, transactional: bool, lsn: Lsn, prefix: String, content: Bytes },
    /// `R`. Holds for the messages after it that name its id, until it comes again.
    Relation { xid: Option<u32>, relation: Relation },
    /// `Y`. A type of a column that is not built in; a domain has its own id and its base type's name.
    Type { xid: Option<u32>, id: u32, schema: String, name: String },
    /// `I`.
    Insert { xid: Option<u32>, relation_id: u32, new: Tuple },
    /// `U`.
    Update { xid: Option<u32>, relation_id: u32, old: Option<Old>, new: Tuple },
    /// `D`.
    Delete { xid: Option<u32>, relation_id: u32, old: Old },
    /// `T`. The published ones among the tables of one statement, those it cascaded to included.
    Truncate { xid: Option<u32>, relation_ids: Vec<u32>, cascade: bool, restart_identity: bool },
    /// `S`. A segment of a transaction that is still in progress.
    StreamStart { xid: u32, first_segment: bool },
    /// `E`.
    StreamStop,
    /// `c`. As [`Message::Commit`], of a streamed transaction.
    StreamCommit { xid: u32, commit_lsn: Lsn, end_lsn: Lsn, committed_at_us: i64 },
    /// `A`. `subxid` and nothing else of `xid` is undone; all of it when they are equal.
    StreamAbort { xid: u32, subxid: u32, aborted: Option<Aborted> },
    /// `b`. As [`Message::Begin`], of a transaction that will be prepared.
    BeginPrepare(Prepared),
    /// `P`. Ends what [`Message::BeginPrepare`] began; whether it takes effect is told later.
    Prepare(Prepared),
    /// `K`. `commit_lsn < end_lsn`, the position after it.
    CommitPrepared { commit_lsn: Lsn, end_lsn: Lsn, committed_at_us: i64, xid: u32, gid: String },
    /// `r`.
    RollbackPrepared(RolledBack),
    /// `p`. As [`Message::Prepare`], of a streamed transaction.
    StreamPrepare(Prepared),
}

/// When and where a streamed transaction was undone; only with the option `streaming 'parallel'` (protocol 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted {
    pub lsn: Lsn,
    pub at_us: i64,
}

/// A transaction that was prepared for two-phase commit. `prepare_lsn < end_lsn`, the position after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    pub prepare_lsn: Lsn,
    pub end_lsn: Lsn,
    pub prepared_at_us: i64,
    pub xid: u32,
    pub gid: String,
}

/// A prepared transaction that was rolled back. `prepare_end_lsn` is what [`Prepared::end_lsn`] said; `end_lsn` is the
/// position after the rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledBack {
    pub prepare_end_lsn: Lsn,
    pub end_lsn: Lsn,
    pub prepared_at_us: i64,
    pub rolled_back_at_us: i64,
    pub xid: u32,
    pub gid: String,
}

/// Decodes one message. `in_stream`: whether the last Stream Start has not met its Stream Stop yet.
pub fn decode(body: Bytes, in_stream: bool) -> Result<Message, Malformed> {
    let mut reader = Reader::new(body);
    let message = match reader.u8()? {
        b'I' => insert(&mut reader, in_stream),
        b'U' => update(&mut reader, in_stream),
        b'D' => delete(&mut reader, in_stream),
        b'B' => begin(&mut reader),
        b'C' => commit(&mut reader),
        b'R' => relation(&mut reader, in_stream),
        b'T' => truncate(&mut reader, in_stream),
        b'M' => logical(&mut reader, in_stream),
        b'Y' => type_name(&mut reader, in_stream),
        b'O' => origin(&mut reader),
        b'S' => stream_start(&mut reader),
        b'E' => Ok(Message::StreamStop),
        b'c' => stream_commit(&mut reader),
        b'A' => stream_abort(&mut reader),
        b'b' => prepared(&mut reader).map(Message::BeginPrepare),
        b'P' => reader.no_flags().and_then(|()| prepared(&mut reader)).map(Message::Prepare),
        b'p' => reader.no_flags().and_then(|()| prepared(&mut reader)).map(Message::StreamPrepare),
        b'K' => commit_prepared(&mut reader),
        b'r' => rolled_back(&mut reader).map(Message::RollbackPrepared),
        _ => return Err(reader.unexpected_byte("a message of protocol versions 1 to 4")),
    }?;
    reader.end()?;
    Ok(message)
}

fn begin(reader: &mut Reader) -> Result<Message, Malformed> {
    Ok(Message::Begin { final_lsn: reader.lsn()?, committed_at_us: reader.i64()?, xid: reader.u32()? })
}

fn commit(reader: &mut Reader) -> Result<Message, Malformed> {
    reader.no_flags()?;
    Ok(Message::Commit { commit_lsn: reader.lsn()?, end_lsn: reader.lsn()?, committed_at_us: reader.i64()? })
}

fn origin(reader: &mut Reader) -> Result<Message, Malformed> {
    Ok(Message::Origin { commit_lsn: reader.lsn()?, name: reader.string()? })
}

fn logical(reader: &mut Reader, in_stream: bool) -> Result<Message, Malformed> {
    let xid = reader.xid(in_stream)?;
    let transactional = reader.bool()?;
    let lsn = reader.lsn()?;
    let prefix = reader.string()?;
    let length = reader.u32()?;
    Ok(Message::Logical { xid, transactional, lsn, prefix, content: reader.bytes(length)? })
}

fn relation(reader: &mut Reader, in_stream: bool) -> Result<Message, Malformed> {
    let xid = reader.xid(in_stream)?;
    let id = reader.u32()?;
    let schema = reader.schema()?;
    let name = reader.string()?;
    let identity = replica_identity(reader)?;
    let columns = columns(reader)?;
    Ok(Message::Relation { xid, relation: Relation { id, schema, name, identity, columns } })
}

fn replica_identity(reader: &mut Reader) -> Result<ReplicaIdentity, Malformed> {
    match reader.u8()? {
        b'd' => Ok(ReplicaIdentity::Default),
        b'n' => Ok(ReplicaIdentity::Nothing),
        b'f' => Ok(ReplicaIdentity::Full),
        b'i' => Ok(ReplicaIdentity::Index),
        _ => Err(reader.unexpected_byte("a replica identity: d, n, f or i")),
    }
}

fn columns(reader: &mut Reader) -> Result<Vec<Column>, Malformed> {
    /// Flag, empty name, type and modifier.
    const SMALLEST: usize = 10;
    let count = usize::from(reader.u16()?);
    let mut columns = Vec::with_capacity(count.min(reader.rest.len() / SMALLEST));
    for _ in 0..count {
        let key = reader.bool()?;
        let name = reader.string()?;
        columns.push(Column { name, type_id: reader.u32()?, type_modifier: reader.i32()?, key });
    }
    Ok(columns)
}

fn type_name(reader: &mut Reader, in_stream: bool) -> Result<Message, Malformed> {
    let xid = reader.xid(in_stream)?;
    Ok(Message::Type { xid, id: reader.u32()?, schema: reader.schema()?, name: reader.string()? })
}

fn insert(reader: &mut Reader, in_stream: bool) -> Result<Message, Malformed> {
    let xid = reader.xid(in_stream)?;
    let relation_id = reader.u32()?;
    match reader.u8()? {
        b'N' => Ok(Message::Insert { xid, relation_id, new: reader.tuple()? }),
        _ => Err(reader.unexpected_byte("a new tuple")),
    }
}

fn update(reader: &mut Reader, in_stream: bool) -> Result<Message, Malformed> {
    let xid = reader.xid(in_stream)?;
    let relation_id = reader.u32()?;
    let old = match reader.u8()? {
        b'N' => return Ok(Message::Update { xid, relation_id, old: None, new: reader.tuple()? }),
        b'K' => Old::Key(reader.tuple()?),
        b'O' => Old::Full(reader.tuple()?),
        _ => return Err(reader.unexpected_byte("an old key, an old tuple or a new tuple")),
    };
    match reader.u8()? {
        b'N' => Ok(Message::Update { xid, relation_id, old: Some(old), new: reader.tuple()? }),
        _ => Err(reader.unexpected_byte("a new tuple after the old one")),
    }
}

fn delete(reader: &mut Reader, in_stream: bool) -> Result<Message, Malformed> {
    let xid = reader.xid(in_stream)?;
    let relation_id = reader.u32()?;
    let old = match reader.u8()? {
        b'K' => Old::Key(reader.tuple()?),
        b'O' => Old::Full(reader.tuple()?),
        _ => return Err(reader.unexpected_byte("an old key or an old tuple")),
    };
    Ok(Message::Delete { xid, relation_id, old })
}

fn truncate(reader: &mut Reader, in_stream: bool) -> Result<Message, Malformed> {
    const CASCADE: u8 = 1;
    const RESTART_IDENTITY: u8 = 2;
    let xid = reader.xid(in_stream)?;
    let count = reader.u32()?;
    let flags = reader.flags(CASCADE | RESTART_IDENTITY)?;
    let ids = reader.bytes(count.checked_mul(4).ok_or_else(|| reader.malformed("fewer relations"))?)?;
    Ok(Message::Truncate {
        xid,
        relation_ids: ids
            .chunks_exact(4)
            .map(|id| u32::from_be_bytes([id[0], id[1], id[2], id[3]]))
            .collect(),
        cascade: flags & CASCADE != 0,
        restart_identity: flags & RESTART_IDENTITY != 0,
    })
}

fn stream_start(reader: &mut Reader) -> Result<Message, Malformed> {
    Ok(Message::StreamStart { xid: reader.u32()?, first_segment: reader.bool()? })
}

fn stream_commit(reader: &mut Reader) -> Result<Message, Malformed> {
    let xid = reader.u32()?;
    reader.no_flags()?;
    let (commit_lsn, end_lsn) = (reader.lsn()?, reader.lsn()?);
    Ok(Message::StreamCommit { xid, commit_lsn, end_lsn, committed_at_us: reader.i64()? })
}

/// Whether the slot was started with `streaming 'parallel'` shows in the length alone.
fn stream_abort(reader: &mut Reader) -> Result<Message, Malformed> {
    let (xid, subxid) = (reader.u32()?, reader.u32()?);
    let aborted = if reader.rest.is_empty() {
        None
    } else {
        Some(Aborted { lsn: reader.lsn()?, at_us: reader.i64()? })
    };
    Ok(Message::StreamAbort { xid, subxid, aborted })
}

fn prepared(reader: &mut Reader) -> Result<Prepared, Malformed> {
    Ok(Prepared {
        prepare_lsn: reader.lsn()?,
        end_lsn: reader.lsn()?,
        prepared_at_us: reader.i64()?,
        xid: reader.u32()?,
        gid: reader.string()?,
    })
}

fn commit_prepared(reader: &mut Reader) -> Result<Message, Malformed> {
    reader.no_flags()?;
    Ok(Message::CommitPrepared {
        commit_lsn: reader.lsn()?,
        end_lsn: reader.lsn()?,
        committed_at_us: reader.i64()?,
        xid: reader.u32()?,
        gid: reader.string()?,
    })
}

fn rolled_back(reader: &mut Reader) -> Result<RolledBack, Malformed> {
    reader.no_flags()?;
    Ok(RolledBack {
        prepare_end_lsn: reader.lsn()?,
        end_lsn: reader.lsn()?,
        prepared_at_us: reader.i64()?,
        rolled_back_at_us: reader.i64()?,
        xid: reader.u32()?,
        gid: reader.string()?,
    })
}

/// What a `CopyData` frame from the server carries once replication has started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// `start` is where the message's record lies in the log; zero where another message of the same record follows
    /// (a relation before its row). Not a position, and `end` only repeats it (walsender.c, `WalSndPrepareWrite`).
    XLogData { start: Lsn, end: Lsn, sent_at_us: i64, body: Bytes },
    /// The server has read its log up to `end` and has nothing to send before it.
    Keepalive { end: Lsn, sent_at_us: i64, reply_requested: bool },
}

/// Decodes the content of one `CopyData` frame.
pub fn decode_frame(content: Bytes) -> Result<Frame, Malformed> {
    let mut reader = Reader::new(content);
    match reader.u8()? {
        b'w' => Ok(Frame::XLogData {
            start: reader.lsn()?,
            end: reader.lsn()?,
            sent_at_us: reader.i64()?,
            body: reader.rest,
        }),
        b'k' => {
            let (end, sent_at_us) = (reader.lsn()?, reader.i64()?);
            let reply_requested = reader.bool()?;
            reader.end()?;
            Ok(Frame::Keepalive { end, sent_at_us, reply_requested })
        }
        _ => Err(reader.unexpected_byte("XLogData or a keepalive")),
    }
}

/// The content of a `CopyData` frame that tells the server how far we have come: `applied <= flushed <= written`.
/// What lies before `flushed` the server may forget. `now_us` is in microseconds since 2000-01-01 UTC.
pub fn encode_status_update(
    written: Lsn,
    flushed: Lsn,
    applied: Lsn,
    now_us: i64,
    reply_requested: bool,
) -> [u8; 34] {
    let mut content = [0; 34];
    let mut rest = &mut content[..];
    rest.put_u8(b'r');
    rest.put_u64(written.0);
    rest.put_u64(flushed.0);
    rest.put_u64(applied.0);
    rest.put_i64(now_us);
    rest.put_u8(u8::from(reply_requested));
    content
}

/// Bytes that are not the message they claim to be. We are out of step with the server, so nothing after them can
/// be trusted either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// The first byte of the message or frame; 0 when there is none.
    pub kind: u8,
    /// Where in it the decoder stopped.
    pub offset: usize,
    /// What should have stood there.
    pub expected: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Malformed { kind, offset, expected } = self;
        write!(
            f,
            "replication message '{}' is malformed at byte {offset}: expected {expected}",
            kind.escape_ascii()
        )
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Error {
        Error::unexpected(malformed.to_string()).hint(
            "check that no proxy alters the connection to the source, and report this with the server's version",
        )
    }
}

/// Takes fields off the front of a message.
struct Reader {
    rest: Bytes,
    kind: u8,
    length: usize,
}

impl Reader {
    fn new(body: Bytes) -> Reader {
        Reader { kind: body.first().copied().unwrap_or(0), length: body.len(), rest: body }
    }

    #[cold]
    fn malformed(&self, expected: &'static str) -> Malformed {
        Malformed { kind: self.kind, offset: self.length - self.rest.len(), expected }
    }

    /// The byte just taken is none of those that may stand there.
    #[cold]
    fn unexpected_byte(&self, expected: &'static str) -> Malformed {
        Malformed { kind: self.kind, offset: self.length - self.rest.len() - 1, expected }
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("the end of the message")) }
    }

    fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], Malformed> {
        let array = *self.rest.first_chunk().ok_or_else(|| self.malformed(expected))?;
        self.rest.advance(N);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array("a byte").map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array("2 bytes").map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array("4 bytes").map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        self.array("4 bytes").map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        self.array("8 bytes").map(i64::from_be_bytes)
    }

    fn lsn(&mut self) -> Result<Lsn, Malformed> {
        self.array("an LSN").map(u64::from_be_bytes).map(Lsn)
    }

    /// The transaction that a message within a stream belongs to.
    fn xid(&mut self, in_stream: bool) -> Result<Option<u32>, Malformed> {
        if in_stream { self.u32().map(Some) } else { Ok(None) }
    }

    /// A byte of flags, of which only those in `known` may be set.
    fn flags(&mut self, known: u8) -> Result<u8, Malformed> {
        match self.rest.first() {
            Some(flags) if flags & !known == 0 => self.u8(),
            _ => Err(self.malformed("flags that are defined")),
        }
    }

    fn bool(&mut self) -> Result<bool, Malformed> {
        self.flags(1).map(|flag| flag == 1)
    }

    /// A byte of flags of which none is defined yet.
    fn no_flags(&mut self) -> Result<(), Malformed> {
        self.flags(0).map(|_| ())
    }

    fn bytes(&mut self, length: u32) -> Result<Bytes, Malformed> {
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() => Ok(self.rest.split_to(length)),
            _ => Err(self.malformed("as many bytes as announced")),
        }
    }

    /// Text up to a zero byte, which is taken too.
    fn string(&mut self) -> Result<String, Malformed> {
        let end = self.rest.iter().position(|&byte| byte == 0);
        let end = end.ok_or_else(|| self.malformed("text that ends with a zero byte"))?;
        let text = std::str::from_utf8(&self.rest[..end]).map_err(|_| self.malformed("text in UTF-8"))?;
        let text = text.to_owned();
        self.rest.advance(end + 1);
        Ok(text)
    }

    /// A schema's name; `pg_catalog` travels as the empty string.
    fn schema(&mut self) -> Result<String, Malformed> {
        let name = self.string()?;
        Ok(if name.is_empty() { "pg_catalog".to_owned() } else { name })
    }

    fn tuple(&mut self) -> Result<Tuple, Malformed> {
        let columns = self.u16()?;
        Tuple::split(&mut self.rest, columns)
            .ok_or_else(|| self.malformed("as many well-formed values as announced"))
    }
}

#[cfg(test)]
mod tests;
