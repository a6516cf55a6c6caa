//! The socket's own thread: it reads, decodes and answers the server for as long as the pipeline runs.
//!
//! On its own because the server must hear from us within `wal_sender_timeout` even while the target is busy for an
//! hour. Back-pressure is the bounded channel: when it is full the socket is not read, and the server waits.
//!
//! A thread and not a task because of the pauses between two reads: the server sends each message by itself, and whoever
//! waits for the socket is woken for each, at the server's cost too. In a pause this thread sleeps and nobody waits.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::change::Event;
use crate::error::{Error, Kind, Result};
use crate::pg::conninfo::ConnInfo;
use crate::pg::quote;
use crate::pg::replication::Incoming;
use crate::pg::session::Session;
use crate::position::Lsn;
use crate::source::Source;
use crate::source::postgres::assemble::{Assembler, Chunk};
use crate::source::postgres::pgoutput::{self, Frame};
use crate::source::postgres::wal2json::{self, Numbers};

/// Bytes of events that one chunk holds before it must be handed on.
const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Chunks between the socket and the pump; with [`CHUNK_BYTES_MAX`] this bounds what is read ahead to 4 MiB.
const CHUNKS_MAX: usize = 16;
/// The server hears from us at least this often; its default time-out is 60 s.
const STATUS_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// A server that has been silent for so many times its own `wal_sender_timeout`, though asked for a word in between, is
/// gone: a firewall may have forgotten the connection, and then nobody is told.
const SILENCE_FACTOR: u32 = 2;
/// The bound on silence where the server sets none (`wal_sender_timeout = 0`), and the least there is.
const SILENCE_DEFAULT: Duration = Duration::from_mins(5);
const SILENCE_MIN: Duration = Duration::from_secs(4);
/// A confirmation waits this long for others: each may cost the server a slot file write.
const STATUS_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// The last confirmation is given this long to leave.
const FINISH_MAX: Duration = Duration::from_secs(2);
/// The server sends each message by itself. After a read that brought little the next one waits this long, so that a
/// busy stream is read a thousand times a second and not for every row; what comes after a silence is read at once.
const READ_PAUSE: Duration = Duration::from_millis(1);
/// A read that brought this much is followed by another at once.
const READ_BYTES_FULL: usize = 32 * 1024;

/// How values travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    /// Binary for types that have it; only where both sides agree on every type of every table.
    Binary,
}

/// What the slot's output plugin is asked for.
#[derive(Debug, Clone)]
pub enum Plugin {
    Pgoutput { publication: String },
    Wal2json(wal2json::Options),
}

/// What to stream, and how.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    pub slot: String,
    pub plugin: Plugin,
    /// Where the target stands: everything up to here is already applied.
    pub from: Lsn,
    pub format: Format,
    pub spool_memory_max: usize,
    pub spool_directory: PathBuf,
}

/// A running stream of changes.
pub struct PostgresSource {
    chunks: mpsc::Receiver<Chunk>,
    current: Chunk,
    confirmed: watch::Sender<Lsn>,
    server_end: watch::Receiver<Lsn>,
    /// How the thread ended; nothing if it failed.
    ended: oneshot::Receiver<Result<()>>,
    /// A pipeline owns its threads: dropping this ends the socket's.
    owner: Option<Leash>,
}

/// Who holds this holds the stream: without it the stream ends at once, wherever it is.
pub struct Leash(#[allow(dead_code)] oneshot::Sender<Infallible>);

impl PostgresSource {
    /// Connects and starts streaming from the slot.
    pub async fn start(conninfo: &ConnInfo, options: StreamOptions) -> Result<PostgresSource> {
        let (chunk_sender, chunks) = mpsc::channel(CHUNKS_MAX);
        let (confirmed, confirmed_receiver) = watch::channel(options.from);
        let (server_end_sender, server_end) = watch::channel(options.from);
        let (started_sender, started) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        let (owner, owned) = oneshot::channel::<Infallible>();
        let conninfo = conninfo.clone();
        let stream = async move {
            match Socket::start(&conninfo, options, confirmed_receiver, server_end_sender).await {
                Ok(socket) => {
                    // Whoever does not wait for this any more has let go of the thread as well.
                    let _ = started_sender.send(Ok(()));
                    socket.run(chunk_sender).await
                }
                Err(error) => {
                    let _ = started_sender.send(Err(error));
                    Ok(())
                }
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| thread_failed().because(error))?;
        let work = move || {
            let ended = runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = owned => Ok(()),
                    ended = stream => ended,
                }
            });
            let _ = ended_sender.send(ended);
        };
        let thread = std::thread::Builder::new().name("source".into()).spawn(work);
        thread.map_err(|error| thread_failed().because(error))?;
        started.await.map_err(|_| thread_failed())??;
        let owner = Some(Leash(owner));
        Ok(PostgresSource { chunks, current: Chunk::default(), confirmed, server_end, ended, owner })
    }

    /// For whoever must be able to end the stream while another one listens to it. What has been read is still there then.
    pub fn leash(&mut self) -> Option<Leash> {
        self.owner.take()
    }

    /// How far the server had sent when it last spoke: `confirmed <= committed <= received <= server end`.
    pub fn server_end(&self) -> Lsn {
        *self.server_end.borrow()
    }

    /// Tells the server what is confirmed and ends the stream: what it knows it need not read again for us. Best
    /// effort and bounded; a server that does not hear it repeats what the target will recognize.
    pub async fn finish(mut self) {
        // Without a sender the socket's thread says its last word and ends.
        drop(std::mem::replace(&mut self.confirmed, watch::channel(Lsn::ZERO).0));
        if tokio::time::timeout(FINISH_MAX, &mut self.ended).await.is_err() {
            tracing::debug!("the source did not take the last confirmation in time");
        }
    }

    async fn ended(&mut self) -> Error {
        match (&mut self.ended).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => Error::unexpected("the replication stream ended by itself"),
            Err(_) => thread_failed(),
        }
    }
}

fn thread_failed() -> Error {
    Error::unexpected("the thread of the replication stream failed")
}

impl Source for PostgresSource {
    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.current.events.pop_front() {
                return Ok(event);
            }
            match self.chunks.recv().await {
                Some(chunk) => self.current = chunk,
                None => return Err(self.ended().await),
            }
        }
    }

    fn try_next(&mut self) -> Option<Event> {
        self.current.events.pop_front()
    }

    fn confirm(&mut self, position: Lsn) -> Result<()> {
        self.confirmed.send_if_modified(|confirmed| {
            let advanced = position > *confirmed;
            *confirmed = position.max(*confirmed);
            advanced
        });
        Ok(())
    }
}

/// How long the server may be silent.
async fn silence_max(session: &mut Session) -> Result<Duration> {
    let sql = "select setting from pg_catalog.pg_settings where name = 'wal_sender_timeout'";
    let timeout = Duration::from_millis(session.one(sql).await?.get(0)?);
    Ok(if timeout.is_zero() { SILENCE_DEFAULT } else { (timeout * SILENCE_FACTOR).max(SILENCE_MIN) })
}

/// A session that streams from a slot of wal2json's.
async fn start_wal2json(
    conninfo: &ConnInfo,
    options: &StreamOptions,
    asked: &wal2json::Options,
    numbers: Numbers,
) -> Result<(Session, Duration)> {
    let mut session = Session::connect_replication_with(conninfo, numbers.level()).await?;
    let silence_max = silence_max(&mut session).await?;
    session.start_replication(&options.slot, options.from, &asked.text(numbers)).await?;
    Ok((session, silence_max))
}

fn pgoutput_options(server_major: u32, publication: &str, format: Format) -> String {
    let protocol = match server_major {
        ..=13 => 1,
        14 => 2,
        15 => 3,
        16.. => 4,
    };
    let publications = quote::literal(&quote::identifier(publication));
    let mut text = format!("proto_version '{protocol}', publication_names {publications}");
    if server_major >= 14 {
        text.push_str(", streaming 'on'");
        if format == Format::Binary {
            text.push_str(", binary 'true'");
        }
    }
    text
}

/// What makes events of messages.
enum Decoder {
    Pgoutput(Box<Assembler>),
    Wal2json(Box<wal2json::Assembler>),
}

impl Decoder {
    fn is_replaying(&self) -> bool {
        matches!(self, Decoder::Pgoutput(assembler) if assembler.is_replaying())
    }

    /// Bytes that were taken and are not in a chunk yet.
    fn held_bytes(&self) -> usize {
        match self {
            Decoder::Pgoutput(_) => 0,
            Decoder::Wal2json(assembler) => assembler.held_bytes(),
        }
    }

    fn message(&mut self, body: Bytes, chunk: &mut Chunk) -> Result<()> {
        match self {
            Decoder::Pgoutput(assembler) => assembler.message(body, chunk),
            Decoder::Wal2json(assembler) => {
                assembler.message(body);
                Ok(())
            }
        }
    }

    fn keepalive(&mut self, end: Lsn, urgent: bool, chunk: &mut Chunk) {
        match self {
            Decoder::Pgoutput(assembler) => assembler.keepalive(end, urgent, chunk),
            Decoder::Wal2json(assembler) => assembler.keepalive(end, urgent),
        }
    }
}

struct Socket {
    session: Session,
    decoder: Decoder,
    /// Decoded and not yet handed on.
    chunk: Chunk,
    confirmed: watch::Receiver<Lsn>,
    /// End of what has been read from the socket.
    received: Lsn,
    server_end: watch::Sender<Lsn>,
    /// When the server must next hear from us.
    status_due: Instant,
    /// When the server was last heard, or not listened to.
    heard: Instant,
    /// Not to be read before this.
    read_due: Instant,
    silence_max: Duration,
}

impl Socket {
    async fn start(
        conninfo: &ConnInfo,
        options: StreamOptions,
        confirmed: watch::Receiver<Lsn>,
        server_end: watch::Sender<Lsn>,
    ) -> Result<Socket> {
        let (session, silence_max, decoder) = match &options.plugin {
            Plugin::Pgoutput { publication } => {
                let mut session = Session::connect_replication(conninfo).await?;
                let text = pgoutput_options(session.server_major(), publication, options.format);
                let silence_max = silence_max(&mut session).await?;
                session.start_replication(&options.slot, options.from, &text).await?;
                let assembler = Assembler::new(options.spool_memory_max, options.spool_directory);
                (session, silence_max, Decoder::Pgoutput(Box::new(assembler)))
            }
            Plugin::Wal2json(asked) => {
                let assembler = wal2json::Assembler::connect(conninfo, asked).await?;
                let started = start_wal2json(conninfo, &options, asked, Numbers::Texts).await;
                let (session, silence_max) = match started {
                    Err(error) if wal2json::is_older(&error) => {
                        start_wal2json(conninfo, &options, asked, Numbers::Notices).await?
                    }
                    started => started?,
                };
                (session, silence_max, Decoder::Wal2json(Box::new(assembler)))
            }
        };
        let now = Instant::now();
        Ok(Socket {
            session,
            decoder,
            chunk: Chunk::default(),
            confirmed,
            received: options.from,
            server_end,
            status_due: now,
            heard: now,
            read_due: now,
            silence_max,
        })
    }

    async fn run(mut self, chunks: mpsc::Sender<Chunk>) -> Result<()> {
        loop {
            self.fill_chunk().await?;
            self.tell_server_end();
            let wants_more = self.chunk.bytes < CHUNK_BYTES_MAX && !self.decoder.is_replaying();
            if !wants_more {
                self.heard = Instant::now();
            } else if !self.pause(&chunks) {
                return Ok(());
            }
            // In this order: keep the connection alive, hand on what is here, then read more.
            tokio::select! {
                biased;
                () = sleep_until(self.status_due) => self.send_status().await?,
                changed = self.confirmed.changed() => match changed {
                    Ok(()) => self.status_due = self.status_due.min(Instant::now() + STATUS_INTERVAL_MIN),
                    Err(_) => return self.send_status().await,
                },
                permit = chunks.reserve(), if !self.chunk.events.is_empty() => match permit {
                    Ok(permit) => permit.send(std::mem::take(&mut self.chunk)),
                    Err(_) => return Ok(()),
                },
                received = self.session.receive(), if wants_more => {
                    received?;
                    self.heard = Instant::now();
                    if self.session.received().len() < READ_BYTES_FULL {
                        self.read_due = self.heard + READ_PAUSE;
                    }
                }
            }
        }
    }

    /// Lets the time pass until the next read, once what is here has been handed on as far as there is room; false when
    /// nobody takes it any more.
    fn pause(&mut self, chunks: &mpsc::Sender<Chunk>) -> bool {
        let pause = self.read_due.saturating_duration_since(Instant::now());
        if pause.is_zero() {
            return true;
        }
        if !self.chunk.events.is_empty() {
            match chunks.try_reserve() {
                Ok(permit) => permit.send(std::mem::take(&mut self.chunk)),
                Err(mpsc::error::TrySendError::Full(())) => {}
                Err(mpsc::error::TrySendError::Closed(())) => return false,
            }
        }
        std::thread::sleep(pause);
        true
    }

    /// Decodes what has been received, as far as the chunk has room.
    async fn fill_chunk(&mut self) -> Result<()> {
        while self.chunk.bytes + self.decoder.held_bytes() < CHUNK_BYTES_MAX {
            if let Decoder::Pgoutput(assembler) = &mut self.decoder
                && assembler.is_replaying()
            {
                assembler.replay(&mut self.chunk, CHUNK_BYTES_MAX)?;
                continue;
            }
            let frame = match (self.session.buffered_replication()?, &mut self.decoder) {
                (Some(Incoming::Frame(frame)), _) => frame,
                (Some(Incoming::Notice(text)), Decoder::Wal2json(assembler)) => {
                    assembler.notice(text);
                    continue;
                }
                (Some(Incoming::Notice(_)), Decoder::Pgoutput(_)) => continue,
                (None, _) => break,
            };
            match pgoutput::decode_frame(frame)? {
                Frame::XLogData { start, end, body, .. } => {
                    self.received = self.received.max(end).max(start);
                    self.decoder.message(body, &mut self.chunk)?;
                }
                Frame::Keepalive { end, reply_requested, .. } => {
                    self.received = self.received.max(end);
                    self.decoder.keepalive(end, reply_requested, &mut self.chunk);
                    if reply_requested {
                        self.status_due = Instant::now();
                    }
                }
            }
        }
        match &mut self.decoder {
            Decoder::Pgoutput(_) => Ok(()),
            Decoder::Wal2json(assembler) => assembler.release(&mut self.chunk).await,
        }
    }

    /// Once for all that was read: a word to whoever watches costs more than a row.
    fn tell_server_end(&self) {
        self.server_end.send_if_modified(|server_end| {
            let advanced = self.received > *server_end;
            *server_end = self.received.max(*server_end);
            advanced
        });
    }

    async fn send_status(&mut self) -> Result<()> {
        let silence = self.heard.elapsed();
        if silence > self.silence_max {
            return Err(Error::new(
                Kind::SourceUnreachable,
                format!("the source has been silent for {} s", silence.as_secs()),
            )
            .hint("The network may have forgotten the connection; the pipeline connects again."));
        }
        let confirmed = *self.confirmed.borrow_and_update();
        let status = pgoutput::encode_status_update(
            self.received.max(confirmed),
            confirmed,
            confirmed,
            now_us(),
            silence > self.silence_max / 2,
        );
        self.status_due = Instant::now() + STATUS_INTERVAL_MAX.min(self.silence_max / 4);
        self.session.send_replication_frame(&status).await
    }
}

/// Microseconds since 2000-01-01 UTC, PostgreSQL's epoch.
pub fn now_us() -> i64 {
    const EPOCH_2000_US: i64 = 946_684_800_000_000;
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX) - EPOCH_2000_US
}
