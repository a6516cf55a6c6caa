//! Decoded events on their way to the pump: a task finds files, a thread decodes them, and whoever asks takes events out.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::change::Event;
use crate::error::{Error, Result};
use crate::position::Lsn;

/// Fetched files that wait to be decoded; one more is being fetched and one being decoded.
const FILES_AHEAD: usize = 1;
/// Chunks between the decoder and the pump; with [`CHUNK_BYTES_MAX`] this bounds what is read ahead to 4 MiB.
const CHUNKS_MAX: usize = 16;
/// Bytes of events that one chunk holds before it is handed on.
pub(super) const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Events without rows take room too.
const EVENT_BYTES: usize = 64;

pub(super) type Chunk = VecDeque<Event>;

/// The pump's end.
pub(super) struct Flow {
    chunks: mpsc::Receiver<Result<Chunk>>,
    current: Chunk,
    /// `confirmed <= delivered`, once nothing is under way: the ends of transactions.
    delivered: Lsn,
    confirmed: Lsn,
    is_inside: bool,
    /// Why there is no more: told once what was good is durable, which is then not to be done again.
    failed: Option<Error>,
    /// A pipeline owns its tasks: dropping this ends the walk, and the decoder with it.
    walk: JoinHandle<()>,
}

impl Flow {
    /// From a position on: `walk` finds files on a task, `decode` turns them into chunks on a thread.
    pub(super) fn begin<F, W>(
        from: Lsn,
        walk: impl FnOnce(mpsc::Sender<F>) -> W,
        decode: impl FnOnce(mpsc::Receiver<F>, Out) + Send + 'static,
    ) -> Result<Flow>
    where
        F: Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let (chunk_sender, chunks) = mpsc::channel(CHUNKS_MAX);
        let (file_sender, files) = mpsc::channel(FILES_AHEAD);
        std::thread::Builder::new()
            .name("archive".into())
            .spawn(move || decode(files, Out { chunks: chunk_sender, chunk: Chunk::new(), bytes: 0 }))
            .map_err(|error| Error::unexpected("no thread can be started").because(error))?;
        let walk = tokio::spawn(walk(file_sender));
        Ok(Flow {
            chunks,
            current: Chunk::new(),
            delivered: from,
            confirmed: from,
            is_inside: false,
            failed: None,
            walk,
        })
    }

    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.pop() {
                return Ok(event);
            }
            if self.failed.is_some() && !self.is_inside && self.confirmed < self.delivered {
                // Asked again after the next confirmation.
                std::future::pending::<()>().await;
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            match self.chunks.recv().await {
                Some(Ok(chunk)) => self.current = chunk,
                Some(Err(error)) => self.failed = Some(error),
                None => return Err(Error::unexpected("the reader of the archive ended by itself")),
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        let event = self.current.pop_front()?;
        match event {
            Event::Begin(_) => self.is_inside = true,
            Event::Commit(end) => (self.is_inside, self.delivered) = (false, end),
            Event::Change(_) | Event::Idle { .. } => {}
        }
        Some(event)
    }

    pub(super) fn confirm(&mut self, position: Lsn) {
        self.confirmed = self.confirmed.max(position);
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.walk.abort();
    }
}

/// Nobody takes events any more.
#[derive(Debug)]
pub(super) struct Gone;

/// The decoder's end: puts events into chunks of a bounded size.
pub(super) struct Out {
    chunks: mpsc::Sender<Result<Chunk>>,
    chunk: Chunk,
    bytes: usize,
}

impl Out {
    pub(super) fn push(&mut self, event: Event) -> Result<(), Gone> {
        self.bytes += EVENT_BYTES;
        if let Event::Change(change) = &event {
            self.bytes += change.size();
        }
        self.chunk.push_back(event);
        if self.bytes >= CHUNK_BYTES_MAX { self.flush() } else { Ok(()) }
    }

    /// Hands on what there is.
    pub(super) fn flush(&mut self) -> Result<(), Gone> {
        self.bytes = 0;
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.chunks.blocking_send(Ok(std::mem::take(&mut self.chunk))).map_err(|_| Gone)
    }

    /// Says why there is no more. What was not handed on is of the file that failed.
    pub(super) fn fail(self, error: Error) {
        // Whoever does not wait for it any more has let go of the thread as well.
        drop(self.chunks.blocking_send(Err(error)));
    }
}
