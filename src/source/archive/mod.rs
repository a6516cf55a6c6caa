//! An archive of change files as a source: sealed files in their order, each proven whole before any of its changes is
//! delivered.
//!
//! ```text
//! walk.rs    manifests one after the other, each must follow the one before; files that are wanted are fetched   (task)
//!   |        packed.rs: one by one, or out of packs
//!   | at most FILES_AHEAD files, in the spool directory under no name
//! decode.rs  hashes of the whole file, then lines -> events                                                    (thread)
//!   | bounded channel of chunks
//! the pump   what it confirms becomes marks.rs: which file is applied, for status and for the archive's pruning
//! ```
//!
//! Positions are the origin's commit end LSNs, so that nothing behind this knows that there was a file in between.

mod decode;
mod flow;
pub mod foreign;
mod marks;
pub mod packed;
pub mod shelf;
mod walk;
mod whole;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::change::{Event, TableName};
use crate::error::Result;
use crate::position::{Lineage, Lsn};
use crate::source::Source;

pub use marks::{Mark, Marks};
pub use packed::Packed;
pub use shelf::Shelf;

use flow::Flow;
use marks::Notes;
use walk::Walk;

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
    flow: Flow,
    marks: Arc<Marks>,
    notes: Option<Notes>,
}

impl ArchiveSource {
    /// Finds the file to go on with, and begins.
    pub async fn start(shelf: Arc<Shelf>, options: ReadOptions) -> Result<ArchiveSource> {
        let marks = Arc::new(Marks::default());
        let notes = options.reader.as_ref().map(|reader| Notes::begin(&shelf, reader, &marks));
        let (wanted, from) = (Arc::clone(&options.wanted), options.from);
        let identities = shelf.keys.identities.clone();
        let walk = Walk::begin(shelf, options, Arc::clone(&marks)).await?;
        let decode = move |files, out| decode::run(files, out, &wanted, identities.as_ref());
        let flow = Flow::begin(from, |files| walk.run(files), decode)?;
        Ok(ArchiveSource { flow, marks, notes })
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

impl Source for ArchiveSource {
    async fn next(&mut self) -> Result<Event> {
        self.flow.next().await
    }

    fn try_next(&mut self) -> Option<Event> {
        self.flow.pop()
    }

    fn confirm(&mut self, position: Lsn) -> Result<()> {
        self.flow.confirm(position);
        self.marks.applied_up_to(position);
        Ok(())
    }
}
