//! An archive of change files as a source: sealed files in their order, each proven whole before any of its changes is
//! delivered.
//!
//! ```text
//! walk.rs    manifests one after the other, each must follow the one before; files that are wanted are fetched   (task)
//!   | at most FILES_AHEAD files, in the spool directory under no name
//! decode.rs  hashes of the whole file, then lines -> events                                                    (thread)
//!   | bounded channel of chunks
//! the pump   what it confirms becomes marks.rs: which file is applied, for status and for the archive's pruning
//! ```
//!
//! Positions are the origin's commit end LSNs, so that nothing behind this knows that there was a file in between.

mod decode;
pub mod foreign;
mod marks;
pub mod shelf;
mod walk;
mod whole;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::change::{Event, TableName};
use crate::error::{Error, Result};
use crate::position::{Lineage, Lsn};
use crate::source::Source;

pub use marks::{Mark, Marks};
pub use shelf::Shelf;

use decode::Chunk;
use marks::Notes;
use walk::Walk;

/// Fetched files that wait to be decoded; one more is being fetched and one being decoded.
const FILES_AHEAD: usize = 1;
/// Chunks between the decoder and the pump; with `decode::CHUNK_BYTES_MAX` this bounds what is read ahead to 4 MiB.
const CHUNKS_MAX: usize = 16;

/// Whether a table's changes are wanted.
pub type Wanted = Arc<dyn Fn(&TableName) -> bool + Send + Sync>;

/// What to read of an archive, and how.
#[derive(Clone)]
pub struct ReadOptions {
    /// In whose history the positions count.
    pub lineage: Lineage,
    /// Where the target stands: everything up to here is already applied.
    pub from: Lsn,
    /// The latest moment that a base shows: up to here `from` may lie beyond all files.
    pub copied_at: Lsn,
    pub wanted: Wanted,
    /// A directory of this reader's own.
    pub spool_directory: PathBuf,
    /// How long to wait where there is no new file.
    pub poll: Duration,
    /// How this reader is called in the archive; `None` leaves no note there.
    pub reader: Option<String>,
}

/// A running walk through an archive.
pub struct ArchiveSource {
    chunks: mpsc::Receiver<Result<Chunk>>,
    current: Chunk,
    marks: Arc<Marks>,
    notes: Option<Notes>,
    /// `confirmed <= delivered`, once nothing is under way: the ends of transactions.
    delivered: Lsn,
    confirmed: Lsn,
    is_inside: bool,
    /// Why there is no more: told once what was good is durable, which is then not to be done again.
    failed: Option<Error>,
    /// A pipeline owns its tasks: dropping this ends the walk, and the decoder with it.
    walk: JoinHandle<()>,
}

impl ArchiveSource {
    /// Finds the file to go on with, and begins.
    pub async fn start(shelf: Arc<Shelf>, options: ReadOptions) -> Result<ArchiveSource> {
        let marks = Arc::new(Marks::default());
        let (chunk_sender, chunks) = mpsc::channel(CHUNKS_MAX);
        let (file_sender, files) = mpsc::channel(FILES_AHEAD);
        let notes = options.reader.as_ref().map(|reader| Notes::begin(&shelf, reader, &marks));
        let (wanted, from) = (Arc::clone(&options.wanted), options.from);
        let identities = shelf.keys.identities.clone();
        let walk = Walk::begin(shelf, options, Arc::clone(&marks)).await?;
        let decoder = std::thread::Builder::new()
            .name("archive".into())
            .spawn(move || decode::run(files, &chunk_sender, &wanted, identities.as_ref()));
        decoder.map_err(|error| Error::unexpected("no thread can be started").because(error))?;
        let walk = tokio::spawn(walk.run(file_sender));
        Ok(ArchiveSource {
            chunks,
            current: Chunk::default(),
            marks,
            notes,
            delivered: from,
            confirmed: from,
            is_inside: false,
            failed: None,
            walk,
        })
    }

    fn pop(&mut self) -> Option<Event> {
        let event = self.current.events.pop_front()?;
        match event {
            Event::Begin(_) => self.is_inside = true,
            Event::Commit(end) => (self.is_inside, self.delivered) = (false, end),
            Event::Change(_) | Event::Idle { .. } => {}
        }
        Some(event)
    }

    /// Which files there are, and which are applied.
    pub fn marks(&self) -> Arc<Marks> {
        Arc::clone(&self.marks)
    }

    /// Leaves a last note of how far this reader has come. Best effort and bounded.
    pub async fn finish(mut self) {
        if let Some(notes) = self.notes.take() {
            notes.finish().await;
        }
    }
}

impl Drop for ArchiveSource {
    fn drop(&mut self) {
        self.walk.abort();
    }
}

impl Source for ArchiveSource {
    async fn next(&mut self) -> Result<Event> {
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

    fn try_next(&mut self) -> Option<Event> {
        self.pop()
    }

    fn confirm(&mut self, position: Lsn) -> Result<()> {
        self.confirmed = self.confirmed.max(position);
        self.marks.applied_up_to(position);
        Ok(())
    }
}
