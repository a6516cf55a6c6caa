//! Where transactions go.
//!
//! A target gathers whole transactions, commits them together with the position that they reach, and says how far
//! it durably is. It knows nothing of sources.

pub mod archive;
pub mod postgres;

use std::future::Future;
use std::time::Instant;

use crate::change::{Change, Relation, TableName, Transaction};
use crate::error::Result;
use crate::position::Lsn;

/// What a finished flush made durable.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Everything up to here is durable; `None` when the flush ended inside a transaction.
    pub position: Option<Lsn>,
    /// Source commit time of the last transaction, microseconds since 2000-01-01 UTC.
    pub committed_at_us: i64,
    pub transactions: u64,
    /// What happened to each table's rows.
    pub tables: Vec<(TableName, Counts)>,
    /// Tables that could not be followed any more, with the reason.
    pub quarantined: Vec<(TableName, String)>,
}

/// Rows of one table by what became of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
    /// Inserts whose row was already there: it was overwritten.
    pub conflicts: u64,
    /// Updates and deletes whose row was not there: skipped.
    pub missing: u64,
    /// Changes passed over because the table is quarantined.
    pub skipped: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.inserts += other.inserts;
        self.updates += other.updates;
        self.deletes += other.deletes;
        self.truncates += other.truncates;
        self.conflicts += other.conflicts;
        self.missing += other.missing;
        self.skipped += other.skipped;
    }

    pub fn rows(&self) -> u64 {
        self.inserts + self.updates + self.deletes
    }
}

/// How much has been gathered and not flushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Whole transactions, empty ones included.
    pub transactions: u64,
    pub bytes: usize,
    /// When the first of them came in.
    pub since: Option<Instant>,
}

/// `apply* commit` is a transaction; `flush` makes what was gathered durable in the background, one flush at a time.
pub trait Target: Send {
    /// A transaction begins whose changes follow. Who needs only what they are need not listen.
    fn begin(&mut self, _transaction: &Transaction) {}

    /// Adds a change to the current transaction. A transaction that outgrows memory is sent ahead, uncommitted.
    fn apply(&mut self, change: Change) -> impl Future<Output = Result<()>> + Send;

    /// Counts a change of the current transaction that is not applied because its table is quarantined.
    fn pass_over(&mut self, relation: &Relation);

    /// Ends the current transaction; an empty one only moves the position.
    fn commit(&mut self, position: Lsn, committed_at_us: i64);

    fn gathered(&self) -> Gathered;

    /// Whether a flush is under way.
    fn is_busy(&self) -> bool;

    /// Starts to make the gathered transactions durable, together with the position after the last. Only when
    /// nothing is under way and no transaction is half applied.
    fn flush(&mut self);

    /// Waits for the flush that is under way. Cancel safe.
    fn flushed(&mut self) -> impl Future<Output = Result<Flushed>> + Send;
}
