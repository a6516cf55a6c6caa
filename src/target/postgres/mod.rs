//! PostgreSQL as a target: gathers transactions into a [`batch`], matches each [`table`], and lets the [`apply`]
//! session do a batch at a time while the next one gathers.
//!
//! The schema `pgdiode` in the target ([`progress`]) holds the position, written in the same transactions.

pub mod apply;
pub mod batch;
pub mod encode;
pub mod keyspace;
pub mod merge;
pub mod progress;
pub mod schema;
pub mod shown;
pub mod statement;
pub mod table;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;

use crate::change::{ByNumber, Change, Relation, TableName};
use crate::error::{Error, Result};
use crate::position::Lsn;
use crate::target::postgres::apply::Applier;
use crate::target::postgres::batch::Batch;
use crate::target::postgres::table::{Mismatch, Table};
use crate::target::{Flushed, Gathered, Target};

/// Bytes that a transaction may hold here before it is sent ahead; with one batch gathering and one under way, twice
/// this is what a pipeline's changes occupy.
pub const BATCH_BYTES_DEFAULT: usize = 16 * 1024 * 1024;

/// How a table is made to fit what the source now sends.
#[derive(Debug)]
pub enum Followed {
    /// By these statements; none where it fits already.
    Altered(Vec<String>),
    /// By what was committed beside the open transaction: what was refused may be tried again.
    Beside,
    /// By a fresh copy, which these statements ask for: until then its changes are passed over, the copy will hold them.
    CopiedAgain(Vec<String>),
    /// Not at all, for this reason.
    Refused(String),
}

/// Asks what lies outside of the target how a table is to be changed: the source knows the new columns' definitions.
pub type FollowSchema = Arc<
    dyn Fn(Arc<Relation>, Mismatch) -> Pin<Box<dyn Future<Output = Result<Followed>> + Send>> + Send + Sync,
>;

pub struct PostgresTarget {
    applier: Seat,
    batch: Batch,
    batch_bytes_max: usize,
    /// By the source's OID: the shape that its changes come in, and what they are applied to.
    tables: ByNumber<u32, Known>,
    tables_seen: usize,
    finished: VecDeque<Flushed>,
    follow: FollowSchema,
}

struct Known {
    relation: Arc<Relation>,
    /// `None`: its changes are passed over.
    table: Option<(Arc<Table>, usize)>,
}

/// The applier is at one place at a time: here, or with the flush that is under way.
enum Seat {
    Here(Box<Applier>),
    Away(JoinHandle<(Box<Applier>, Result<Flushed>)>),
    /// A flush failed; the session is in an unknown state and gone.
    Empty,
}

impl PostgresTarget {
    pub fn new(applier: Applier, batch_bytes_max: usize, follow: FollowSchema) -> PostgresTarget {
        PostgresTarget {
            applier: Seat::Here(Box::new(applier)),
            batch: Batch::default(),
            batch_bytes_max,
            tables: ByNumber::default(),
            tables_seen: 0,
            finished: VecDeque::new(),
            follow,
        }
    }

    /// Forgets a table's shape: it is looked up again with its next change.
    pub fn forget(&mut self, name: &TableName) {
        self.tables.retain(|_, known| known.relation.table() != *name);
    }

    /// The table for a relation's changes; `None` when they are passed over.
    async fn resolve(&mut self, relation: &Arc<Relation>) -> Result<Option<(Arc<Table>, usize)>> {
        if let Some(known) = self.tables.get(&relation.id) {
            if Arc::ptr_eq(&known.relation, relation) {
                return Ok(known.table.clone());
            }
            if self.is_as_before(known, relation).await? {
                let table = known.table.clone();
                self.tables
                    .insert(relation.id, Known { relation: Arc::clone(relation), table: table.clone() });
                return Ok(table);
            }
        }
        self.send_gathered().await?;
        self.settle().await?;
        let Seat::Here(applier) = &mut self.applier else { unreachable!("settled") };
        let table = match_table(applier, relation, &self.follow).await?;
        self.tables_seen += 1;
        let table = table.map(|table| (Arc::new(table), self.tables_seen));
        self.tables.insert(relation.id, Known { relation: Arc::clone(relation), table: table.clone() });
        Ok(table)
    }

    /// Whether a table that the source described anew is still what it was.
    async fn is_as_before(&self, known: &Known, relation: &Arc<Relation>) -> Result<bool> {
        if known.relation != *relation {
            return Ok(false);
        }
        // What is passed over is copied before it is applied again.
        let follow = || (self.follow)(Arc::clone(relation), Mismatch::Unseen);
        Ok(known.table.is_none()
            || matches!(follow().await?, Followed::Altered(statements) if statements.is_empty()))
    }

    /// Sends what is gathered inside the open transaction, without committing it.
    async fn send_gathered(&mut self) -> Result<()> {
        if self.batch.segments.is_empty() {
            return Ok(());
        }
        self.settle().await?;
        let position = self.batch.position.take();
        let (transactions, since) = (std::mem::take(&mut self.batch.transactions), self.batch.since);
        self.depart();
        // What was committed at the source before stays to be committed here, with what follows.
        self.batch.position = position;
        self.batch.transactions = transactions;
        self.batch.since = since;
        Ok(())
    }

    /// Gives the batch to the applier and sends it off.
    fn depart(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        let Seat::Here(mut applier) = std::mem::replace(&mut self.applier, Seat::Empty) else {
            unreachable!("a flush starts only when none is under way")
        };
        self.applier = Seat::Away(tokio::spawn(async move {
            let outcome = applier.flush(&mut batch).await;
            (applier, outcome)
        }));
    }

    /// Waits until no flush is under way; what it did is kept for [`Target::flushed`]. Cancel safe.
    async fn settle(&mut self) -> Result<()> {
        match &mut self.applier {
            Seat::Here(_) => Ok(()),
            Seat::Empty => Err(Error::unexpected("the target was used after it failed")),
            Seat::Away(flush) => {
                let arrived = flush.await;
                self.applier = Seat::Empty;
                let (applier, outcome) = arrived.map_err(|panic| {
                    Error::unexpected("the task that applies changes failed").because(panic)
                })?;
                let flushed = outcome?;
                for (name, _) in &flushed.quarantined {
                    for known in self.tables.values_mut().filter(|known| known.relation.table() == *name) {
                        known.table = None;
                    }
                }
                self.applier = Seat::Here(applier);
                self.finished.push_back(flushed);
                Ok(())
            }
        }
    }

    fn skip(&mut self, relation: &Relation) {
        *self.batch.skipped.entry(relation.table()).or_default() += 1;
    }
}

/// A pipeline owns its tasks: dropping the target ends a flush that is under way; stopping is the same as crashing.
impl Drop for PostgresTarget {
    fn drop(&mut self) {
        if let Seat::Away(flush) = &self.applier {
            flush.abort();
        }
    }
}

impl Target for PostgresTarget {
    async fn apply(&mut self, change: Change) -> Result<()> {
        let relation = match &change {
            Change::Insert { relation, .. }
            | Change::Update { relation, .. }
            | Change::Delete { relation, .. } => relation,
            Change::Truncate { relations, restart_identity, .. } => {
                let mut tables = Vec::new();
                for relation in relations {
                    match self.resolve(relation).await? {
                        Some((table, _)) => tables.push(table),
                        None => self.skip(relation),
                    }
                }
                if !tables.is_empty() {
                    self.batch.truncate(tables, *restart_identity);
                }
                return Ok(());
            }
        };
        match self.resolve(relation).await? {
            Some((table, number)) => self.batch.push(&table, number, change),
            None => self.skip(relation),
        }
        if self.batch.bytes > self.batch_bytes_max { self.send_gathered().await } else { Ok(()) }
    }

    fn pass_over(&mut self, relation: &Relation) {
        self.skip(relation);
    }

    fn commit(&mut self, position: Lsn, committed_at_us: i64) {
        self.batch.since.get_or_insert_with(Instant::now);
        self.batch.transactions += 1;
        self.batch.position = Some((position, committed_at_us));
    }

    fn gathered(&self) -> Gathered {
        Gathered { transactions: self.batch.transactions, bytes: self.batch.bytes, since: self.batch.since }
    }

    fn is_busy(&self) -> bool {
        matches!(self.applier, Seat::Away(_)) || !self.finished.is_empty()
    }

    fn flush(&mut self) {
        self.depart();
    }

    async fn flushed(&mut self) -> Result<Flushed> {
        if self.finished.is_empty() {
            self.settle().await?;
        }
        Ok(self.finished.pop_front().unwrap_or_default())
    }
}

/// Looks up the table of a relation, follows the source's schema where it can, quarantines where it cannot.
async fn match_table(
    applier: &mut Applier,
    relation: &Arc<Relation>,
    follow: &FollowSchema,
) -> Result<Option<Table>> {
    applier.open().await?;
    let loaded = table::load(&mut applier.session, relation).await?;
    let mismatch = loaded.as_ref().err().cloned().unwrap_or(Mismatch::Unseen);
    let reason = match (follow(Arc::clone(relation), mismatch).await?, loaded) {
        (Followed::Altered(statements), Ok(table)) if statements.is_empty() => return Ok(Some(table)),
        (Followed::CopiedAgain(statements), _) => match run_together(applier, &statements).await? {
            Ok(()) => {
                applier.pass_over(relation.table());
                return Ok(None);
            }
            Err(reason) => reason,
        },
        (Followed::Altered(statements), _) => match run_together(applier, &statements).await? {
            Ok(()) => match table::load(&mut applier.session, relation).await? {
                Ok(table) => return Ok(Some(table)),
                Err(mismatch) => mismatch.to_string(),
            },
            Err(reason) => reason,
        },
        (Followed::Beside, _) => unreachable!("only a refused value is followed so"),
        (Followed::Refused(reason), _) => reason,
    };
    let name = relation.table();
    let remedy = format!("make the tables alike, then: pgdiode resync '{name}'");
    applier.quarantine_table(&name, &reason, &remedy).await?;
    Ok(None)
}

/// Runs schema changes in the open transaction, all or none.
async fn run_together(applier: &mut Applier, statements: &[String]) -> Result<Result<(), String>> {
    applier.session.query("savepoint follow_schema").await?;
    for sql in statements {
        tracing::info!(sql, "following the source's schema");
        if let Err(error) = applier.session.query(sql).await {
            if error.retries() {
                return Err(error);
            }
            applier.session.query("rollback to savepoint follow_schema").await?;
            return Ok(Err(format!("the schema change failed here: {sql}: {}", error.what())));
        }
    }
    applier.session.query("release savepoint follow_schema").await?;
    Ok(Ok(()))
}
