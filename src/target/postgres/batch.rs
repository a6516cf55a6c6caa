//! What has been gathered for one target transaction: whole source transactions, in segments whose order matters.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::change::{ByNumber, Change, TableName};
use crate::position::Lsn;
use crate::target::Counts;
use crate::target::postgres::merge::{Merge, NetEffect};
use crate::target::postgres::table::Table;

/// From this many changes of one table in a batch on, merging and COPY beat one execution each.
const MERGE_CHANGES_MIN: usize = 64;

/// Changes of one table, in the source's order.
pub struct TableRows {
    pub table: Arc<Table>,
    /// The table's number within the session: names its stages and prepared statements.
    pub number: usize,
    pub changes: Vec<Change>,
    merge: Merge,
}

impl TableRows {
    fn new(table: &Arc<Table>, number: usize) -> TableRows {
        TableRows { table: Arc::clone(table), number, changes: Vec::new(), merge: Merge::default() }
    }

    fn push(&mut self, change: Change) {
        self.changes.push(change);
        match self.changes.len() {
            ..MERGE_CHANGES_MIN => {}
            MERGE_CHANGES_MIN => {
                (1..=MERGE_CHANGES_MIN).for_each(|end| self.merge.add(&self.table, &self.changes[..end]));
            }
            _ => self.merge.add(&self.table, &self.changes),
        }
    }

    /// What the changes amount to; `None` where they are few, or must be applied in order. Asked once.
    pub fn net_effect(&mut self) -> Option<NetEffect> {
        if self.changes.len() < MERGE_CHANGES_MIN {
            return None;
        }
        std::mem::take(&mut self.merge).net_effect(&self.table, &self.changes).ok()
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for change in &self.changes {
            match change {
                Change::Insert { .. } => counts.inserts += 1,
                Change::Update { .. } => counts.updates += 1,
                Change::Delete { .. } => counts.deletes += 1,
                Change::Truncate { .. } => counts.truncates += 1,
            }
        }
        counts
    }
}

/// Tables emptied by one statement.
pub struct Truncation {
    pub tables: Vec<Arc<Table>>,
    pub restart_identity: bool,
}

/// Rows of different tables may change places (foreign keys do not fire here); nothing moves across a truncation.
pub enum Segment {
    Rows(Vec<TableRows>),
    Truncate(Truncation),
}

#[derive(Default)]
pub struct Batch {
    pub segments: Vec<Segment>,
    /// In the last segment, where each table's rows are, by the table's number.
    places: ByNumber<usize, usize>,
    pub bytes: usize,
    pub transactions: u64,
    /// Commit end LSN and source commit time of the last whole transaction.
    pub position: Option<(Lsn, i64)>,
    /// Changes passed over because their table is quarantined.
    pub skipped: HashMap<TableName, u64>,
    /// When the first transaction came in.
    pub since: Option<Instant>,
}

impl Batch {
    pub fn push(&mut self, table: &Arc<Table>, number: usize, change: Change) {
        self.bytes += change.size();
        if !matches!(self.segments.last(), Some(Segment::Rows(_))) {
            self.segments.push(Segment::Rows(Vec::new()));
            self.places.clear();
        }
        let Some(Segment::Rows(tables)) = self.segments.last_mut() else { unreachable!("just pushed") };
        let place = *self.places.entry(number).or_insert_with(|| {
            tables.push(TableRows::new(table, number));
            tables.len() - 1
        });
        tables[place].push(change);
    }

    pub fn truncate(&mut self, tables: Vec<Arc<Table>>, restart_identity: bool) {
        self.segments.push(Segment::Truncate(Truncation { tables, restart_identity }));
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.position.is_none() && self.skipped.is_empty()
    }
}
