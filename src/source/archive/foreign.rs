//! Change files that pgdiode did not write, as a source: no manifests, no relations, no end; only names and lines.
//!
//! ```text
//! walk.rs    names in their order; late, changed and growing files; each is fetched and hashed whole   (task)
//! decode.rs  lines -> events: seed.rs and archive/wal2json.rs give rows, shapes.rs gives them the target's columns (thread)
//! ledger.rs  which file has which place; the target writes it down with the file's first rows
//! ```
//!
//! Positions are made up: line `l` of the `n`-th file that was ever taken is `n << 32 | l`. A transaction ends at its last
//! line, so that position, pump and plan work as for any other source.

mod decode;
pub mod ledger;
mod seed;
pub mod shapes;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::archive::names;
use crate::change::Event;
use crate::error::Result;
use crate::position::Lsn;
use crate::source::Source;
use crate::source::archive::flow::Flow;
use crate::source::archive::{Marks, Wanted};
use crate::store::{AnyStore, Store};

use decode::Decoding;
use ledger::{Ledger, Taken};
use shapes::{Shapes, TargetTables};
use walk::Walk;

pub use walk::is_change_file;

/// Who wrote the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Seed,
    Wal2json,
}

/// What to read, and how.
#[derive(Clone)]
pub struct ReadOptions {
    pub dialect: Option<Dialect>,
    /// Where the target stands.
    pub from: Lsn,
    /// What was taken so far.
    pub taken: Vec<Taken>,
    pub tables: Arc<TargetTables>,
    pub wanted: Wanted,
    pub spool_directory: PathBuf,
    /// Where the files lie, if on this machine: then it can be known when they were written.
    pub directory: Option<PathBuf>,
    pub poll: Duration,
    pub settle: Duration,
    /// Whether files that were not taken yet are: a table that catches up reads only those that were.
    pub takes_more: bool,
}

/// Whether these are files of some other writer: pgdiode's own archive says so, even one that has lost its identity.
pub async fn is_foreign(store: &AnyStore) -> Result<bool> {
    let is_ours =
        store.size(names::IDENTITY).await?.is_some() || !store.list(names::MANIFESTS, None).await?.is_empty();
    if is_ours {
        return Ok(false);
    }
    Ok(store.list("", None).await?.iter().any(|object| is_change_file(&object.name)))
}

/// A running walk through the files.
pub struct ForeignSource {
    flow: Flow,
    marks: Arc<Marks>,
    ledger: Ledger,
    /// What there is at the start ends here.
    pub there_is_until: Lsn,
}

impl ForeignSource {
    pub async fn start(store: Arc<AnyStore>, options: ReadOptions) -> Result<ForeignSource> {
        let (marks, ledger, from) = (Arc::new(Marks::default()), Ledger::default(), options.from);
        let decoding = Decoding {
            dialect: options.dialect,
            shapes: Shapes::new(Arc::clone(&options.tables)),
            wanted: Arc::clone(&options.wanted),
            ledger: ledger.clone(),
        };
        let (walk, there_is_until) = Walk::begin(store, options, Arc::clone(&marks), ledger.clone()).await?;
        let flow =
            Flow::begin(from, |files| walk.run(files), |files, out| decode::run(files, out, decoding))?;
        Ok(ForeignSource { flow, marks, ledger, there_is_until })
    }

    /// Which files there are, and which are applied.
    pub fn marks(&self) -> Arc<Marks> {
        Arc::clone(&self.marks)
    }

    /// Which files are on their way.
    pub fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }
}

impl Source for ForeignSource {
    async fn next(&mut self) -> Result<Event> {
        self.flow.next().await
    }

    fn try_next(&mut self) -> Option<Event> {
        self.flow.pop()
    }

    fn confirm(&mut self, position: Lsn) -> Result<()> {
        self.flow.confirm(position);
        self.marks.applied_up_to(position);
        self.ledger.confirmed(position);
        Ok(())
    }
}
