//! An archive as the target: transactions become change files, each sealed once it is durable and has been read again.
//!
//! ```text
//! change -> draft (lines) -> press, a thread of its own (hash, zstd, spool file)
//! flush  -> create NNNN.json, read it again -> still ours? -> create its manifest: sealed -> flushed
//! ```
//!
//! The next file is begun while the one before is on its way. Appending is creating the next number, which the store does
//! for one writer only: a writer that finds it taken has been replaced, and stops (fencing).

mod open;
mod press;
mod seal;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::archive::FORMAT;
use crate::archive::draft::Draft;
use crate::archive::encode::TypeNames;
use crate::archive::keys::WriterKeys;
use crate::archive::line::{Header, Origin};
use crate::archive::names::Stored;
use crate::change::{ByNumber, Change, Relation, TableName, Transaction};
use crate::error::{Error, Result};
use crate::position::Lsn;
use crate::store::AnyStore;
use crate::target::{Counts, Flushed, Gathered, Target};

pub use open::{Claimed, Head, Opened, claim, head, identity, look, newest, open};
use press::Pressing;
pub use press::spool_failed;
pub use seal::create;

/// Lines are handed to the press in pieces of this size.
const PIECE_BYTES: usize = 256 * 1024;

/// How files are made.
#[derive(Debug, Clone)]
pub struct Making {
    /// Encrypted, where the keys have recipients.
    pub stored: Stored,
    pub level: i32,
    pub keys: WriterKeys,
    /// Where a file is written before it goes to the store.
    pub spool: PathBuf,
}

/// What all files of one writer have in common.
struct Writer {
    store: Arc<AnyStore>,
    claimed: Claimed,
    lineage: Origin,
    making: Making,
    types: Arc<TypeNames>,
}

pub struct ArchiveTarget {
    writer: Arc<Writer>,
    /// The file before the one that is written now.
    number: u64,
    previous: Previous,
    /// Where the file that is written now begins.
    from: Lsn,
    file: Option<File>,
    current: Option<Transaction>,
    /// Whether the current transaction is in the file already.
    is_begun: bool,
    gathered: Gathered,
    reached: Lsn,
    committed_at_us: i64,
    counts: ByNumber<u32, (Arc<Relation>, Counts)>,
    sealing: JoinSet<Result<Flushed>>,
}

/// The hash of the content of the file before; known as soon as all of it has been pressed.
enum Previous {
    Known(Option<String>),
    Pressing(oneshot::Receiver<String>),
}

/// A file that is being written.
struct File {
    draft: Draft,
    header: Header,
    pressing: Pressing,
}

impl ArchiveTarget {
    /// Goes on after `head`, the last sealed file, under a claim.
    pub fn new(
        store: Arc<AnyStore>,
        head: Option<&Head>,
        claimed: Claimed,
        lineage: Origin,
        making: Making,
        types: Arc<TypeNames>,
        from: Lsn,
    ) -> ArchiveTarget {
        ArchiveTarget {
            number: head.map_or(0, |head| head.number),
            previous: Previous::Known(head.map(|head| head.content_sha256.clone())),
            writer: Arc::new(Writer { store, claimed, lineage, making, types }),
            from,
            file: None,
            current: None,
            is_begun: false,
            gathered: Gathered::default(),
            reached: from,
            committed_at_us: 0,
            counts: ByNumber::default(),
            sealing: JoinSet::new(),
        }
    }

    /// The file that is written now; begins it if need be.
    async fn file(&mut self) -> Result<&mut File> {
        if self.file.is_none() {
            let previous = match &mut self.previous {
                Previous::Known(hash) => hash.clone(),
                Previous::Pressing(hash) => {
                    let hash =
                        hash.await.map_err(|_| Error::unexpected("the file before was not finished"))?;
                    self.previous = Previous::Known(Some(hash.clone()));
                    Some(hash)
                }
            };
            self.file = Some(File::begin(&self.writer, self.number + 1, previous, self.from)?);
        }
        Ok(self.file.as_mut().expect("it has just been begun"))
    }

    fn count(&mut self, change: &Change) {
        match change {
            Change::Insert { relation, .. } => self.counts_of(relation).inserts += 1,
            Change::Update { relation, .. } => self.counts_of(relation).updates += 1,
            Change::Delete { relation, .. } => self.counts_of(relation).deletes += 1,
            Change::Truncate { relations, .. } => {
                for relation in relations {
                    self.counts_of(relation).truncates += 1;
                }
            }
        }
    }

    fn counts_of(&mut self, relation: &Arc<Relation>) -> &mut Counts {
        &mut self.counts.entry(relation.id).or_insert_with(|| (Arc::clone(relation), Counts::default())).1
    }
}

impl File {
    fn begin(writer: &Writer, number: u64, previous: Option<String>, from: Lsn) -> Result<File> {
        let header = Header {
            format: FORMAT,
            archive: writer.claimed.archive.clone(),
            number,
            epoch: writer.claimed.epoch,
            previous,
            from,
            lineage: writer.lineage.clone(),
            created: jiff::Timestamp::now().to_string(),
            writer: concat!("pgdiode ", env!("CARGO_PKG_VERSION")).to_owned(),
            salt: writer.making.stored.is_encrypted().then(open::random_digits).transpose()?,
        };
        let draft = Draft::begin(&header, Arc::clone(&writer.types));
        Ok(File { draft, pressing: Pressing::begin(&writer.making, number)?, header })
    }
}

impl Target for ArchiveTarget {
    fn begin(&mut self, transaction: &Transaction) {
        self.current = Some(*transaction);
    }

    async fn apply(&mut self, change: Change) -> Result<()> {
        self.count(&change);
        let size = change.size();
        let begins = if self.is_begun { None } else { self.current };
        let file = self.file().await?;
        if let Some(transaction) = begins {
            file.draft.transaction(transaction);
        }
        file.draft.change(&change);
        if file.draft.waiting() >= PIECE_BYTES {
            let piece = file.draft.take();
            file.pressing.press(piece).await?;
        }
        self.is_begun = true;
        self.gathered.bytes += size;
        self.gathered.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Whoever reads the archive copies what he wants by himself: nothing is passed over here.
    fn pass_over(&mut self, _relation: &Relation) {}

    fn commit(&mut self, position: Lsn, committed_at_us: i64) {
        if std::mem::take(&mut self.is_begun) {
            let file = self.file.as_mut().expect("a transaction with rows is in a file");
            file.draft.commit(position);
            self.committed_at_us = committed_at_us;
        }
        self.current = None;
        self.reached = position;
        self.gathered.transactions += 1;
        self.gathered.since.get_or_insert_with(Instant::now);
    }

    fn gathered(&self) -> Gathered {
        self.gathered
    }

    fn is_busy(&self) -> bool {
        !self.sealing.is_empty()
    }

    fn flush(&mut self) {
        assert!(!self.is_busy() && !self.is_begun, "one file at a time is sealed, and at a commit");
        let (sender, hash) = oneshot::channel();
        let previous = std::mem::replace(&mut self.previous, Previous::Pressing(hash));
        let tables: Vec<(TableName, Counts)> =
            self.counts.drain().map(|(_, (relation, counts))| (relation.table(), counts)).collect();
        self.number += 1;
        let work = seal::Work {
            number: self.number,
            from: std::mem::replace(&mut self.from, self.reached),
            to: self.reached,
            file: self.file.take(),
            previous,
            hash: sender,
            flushed: Flushed {
                position: Some(self.reached),
                committed_at_us: std::mem::take(&mut self.committed_at_us),
                transactions: self.gathered.transactions,
                tables,
                quarantined: Vec::new(),
            },
        };
        self.gathered = Gathered::default();
        self.sealing.spawn(seal::seal(Arc::clone(&self.writer), work));
    }

    async fn flushed(&mut self) -> Result<Flushed> {
        match self.sealing.join_next().await {
            Some(Ok(flushed)) => flushed,
            Some(Err(error)) => Err(Error::unexpected("sealing a file failed").because(error)),
            None => std::future::pending().await,
        }
    }
}
