//! Executing a batch on the target: one session, one open transaction, as few waits as there can be.
//!
//! Three ways, each slower and more patient than the one before:
//!
//! 1. **Together**: all of the batch in one pipeline. Tables with many changes are merged to their net effect and go
//!    through COPY; tables with few get prepared statements. Any error, or a row count that is not what the source's
//!    history demands, rolls the flush back and nothing has happened.
//! 2. **In order**: table by table under a savepoint, every change by itself in the source's order, pipelined. Takes
//!    unique values that move between rows.
//! 3. **Row by row**: each change looked at. Finds the row that is already there or is not there, and counts it; or the
//!    change that cannot be applied, which quarantines its table and no other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use postgres_protocol::message::frontend;

use crate::change::{Change, Relation, TableName, Tuple};
use crate::error::{Error, Result};
use crate::pg::session::{Reply, Session};
use crate::position::Lsn;
use crate::target::postgres::batch::{Batch, Segment, TableRows, Truncation};
use crate::target::postgres::encode::{CopyFormat, CopyRows, Part, WrongFormat, bind_and_execute};
use crate::target::postgres::merge::{self, NetEffect};
use crate::target::postgres::progress;
use crate::target::postgres::shown;
use crate::target::postgres::statement::{self, Bound, RowStatement, Stage};
use crate::target::postgres::table::{Mismatch, Table};
use crate::target::postgres::{FollowSchema, Followed};
use crate::target::{Counts, Flushed};

/// Encoded bytes are sent whenever so many have gathered, so that the server works while the rest is encoded.
const SEND_BYTES: usize = 256 * 1024;
/// Rows noted by name in one flush and table; all are counted.
const NOTES_MAX: u64 = 10;

/// What to do with a row that is there and should not be, or is not there and should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// An insert overwrites, an update or delete of nothing is skipped; both are counted and noted.
    Apply,
    /// The table is quarantined.
    Quarantine,
}

/// The one session that writes rows.
pub struct Applier {
    pub session: Session,
    pipeline: String,
    /// Whose row of `pgdiode.position` it advances.
    position_of: String,
    /// The stored position: what the next advance starts from.
    pub position: Lsn,
    on_conflict: OnConflict,
    /// Whether a transaction is open.
    open: bool,
    /// Whether the open transaction has a flush's savepoint.
    continued: bool,
    prepared: HashMap<(usize, RowStatement), String>,
    statements_made: u64,
    stages: HashSet<(usize, Stage)>,
    /// Stages that hold rows of the open transaction.
    filled: HashSet<(usize, Stage)>,
    quarantined: HashSet<TableName>,
    follow: FollowSchema,
    beside: Option<Beside>,
}

/// What else is written when the position moves from one place to another: statements that become part of the one that
/// moves it, so that all happen or none.
pub type Beside = Arc<dyn Fn(Lsn, Lsn) -> Vec<String> + Send + Sync>;

/// How a flush begins, so that it alone can be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Transaction,
    /// The transaction has grown past one flush.
    Savepoint,
    /// It did so before; savepoints are replaced, not piled up.
    NextSavepoint,
}

impl Start {
    fn sql(self) -> &'static str {
        match self {
            Start::Transaction => "begin",
            Start::Savepoint => "savepoint flush",
            Start::NextSavepoint => "release savepoint flush; savepoint flush",
        }
    }

    fn undone_by(self) -> &'static str {
        match self {
            Start::Transaction => "rollback",
            Start::Savepoint | Start::NextSavepoint => "rollback to savepoint flush",
        }
    }

    /// After it was undone: rolling back to a savepoint keeps it.
    fn again(self) -> Start {
        match self {
            Start::Transaction => Start::Transaction,
            Start::Savepoint | Start::NextSavepoint => Start::NextSavepoint,
        }
    }
}

/// What one `ReadyForQuery`'s worth of replies must say.
enum Expect {
    Anything,
    /// The last command touched exactly so many rows.
    Rows(u64),
    /// Each of so many executions touched exactly one row.
    OneEach(usize),
}

/// Why a pipeline of statements did not do what it must; nothing is lost, another way is tried.
enum Trouble {
    Server(Error),
    Count,
}

impl Applier {
    pub fn new(
        session: Session,
        pipeline: String,
        position: Lsn,
        on_conflict: OnConflict,
        follow: FollowSchema,
    ) -> Applier {
        Applier {
            session,
            position_of: pipeline.clone(),
            pipeline,
            position,
            on_conflict,
            open: false,
            continued: false,
            prepared: HashMap::new(),
            statements_made: 0,
            stages: HashSet::new(),
            filled: HashSet::new(),
            quarantined: HashSet::new(),
            follow,
            beside: None,
        }
    }

    /// Has it write something beside the position.
    #[must_use]
    pub fn writing_beside(self, beside: Beside) -> Applier {
        Applier { beside: Some(beside), ..self }
    }

    /// Has it advance another position than the pipeline's: that of tables which are behind the others.
    #[must_use]
    pub fn keeping_position_of(mut self, name: &str) -> Applier {
        name.clone_into(&mut self.position_of);
        self
    }

    /// Applies a batch; commits it with its position if it ends with a whole transaction.
    pub async fn flush(&mut self, batch: &mut Batch) -> Result<Flushed> {
        let mut flushed = Flushed {
            position: batch.position.map(|(position, _)| position),
            committed_at_us: batch.position.map_or(0, |(_, at)| at),
            transactions: batch.transactions,
            ..Flushed::default()
        };
        let began = Instant::now();
        let mut report = Report::default();
        report.skip(batch);
        let start = self.start();
        if let Err(trouble) = self.together(batch, start, &mut report).await? {
            if let Trouble::Server(error) = &trouble {
                tracing::debug!(error = error.chain(), "a batch is applied table by table");
            }
            self.undo(start.undone_by()).await?;
            report = Report::default();
            report.skip(batch);
            self.carefully(batch, start, &mut report).await?;
            self.advance(batch)?;
            self.session.flush().await?;
            self.settle_advance(batch).await?;
        }
        if let Some((position, _)) = batch.position {
            self.commit().await?;
            self.position = position;
        }
        tracing::debug!(
            transactions = batch.transactions,
            bytes = batch.bytes,
            ms = began.elapsed().as_millis(),
            "flushed"
        );
        flushed.tables = report.counts.into_iter().collect();
        flushed.quarantined = report.quarantined;
        Ok(flushed)
    }

    /// Opens a transaction, for work that must commit with the changes that follow.
    pub async fn open(&mut self) -> Result<()> {
        if !self.open {
            self.session.query("begin").await?;
            self.open = true;
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<()> {
        self.session.query("commit").await?;
        (self.open, self.continued) = (false, false);
        self.filled.clear();
        Ok(())
    }

    fn start(&self) -> Start {
        match (self.open, self.continued) {
            (false, _) => Start::Transaction,
            (true, false) => Start::Savepoint,
            (true, true) => Start::NextSavepoint,
        }
    }

    /// Sends what opens a flush. One reply is to be read.
    fn begin(&mut self, start: Start) -> Result<()> {
        self.open = true;
        self.continued = start != Start::Transaction;
        self.session.send_query(start.sql())
    }

    /// Rolls back; what the session had prepared or created meanwhile may be gone.
    async fn undo(&mut self, rollback: &str) -> Result<()> {
        self.session.query(rollback).await?;
        self.session.query("deallocate all").await?;
        self.prepared.clear();
        self.stages.clear();
        Ok(())
    }

    fn advance(&mut self, batch: &Batch) -> Result<()> {
        match batch.position {
            Some((to, committed_at_us)) => {
                let sql = progress::advance(&self.position_of, self.position, to, committed_at_us);
                let beside = self.beside.as_ref().map(|beside| beside(self.position, to)).unwrap_or_default();
                let beside =
                    beside.iter().enumerate().map(|(number, other)| format!("beside{number} as ({other})"));
                let beside: Vec<String> = beside.collect();
                let with =
                    if beside.is_empty() { String::new() } else { format!("with {} ", beside.join(", ")) };
                self.session.send_query(&format!("{with}{sql}"))
            }
            None => Ok(()),
        }
    }

    async fn settle_advance(&mut self, batch: &Batch) -> Result<()> {
        if batch.position.is_none() {
            return Ok(());
        }
        let reply = self.session.reply().await?.ok()?;
        if reply.counts == [1] { Ok(()) } else { Err(self.position_moved()) }
    }

    fn position_moved(&self) -> Error {
        Error::unexpected(format!("the stored position of pipeline \"{}\" is not {} any more", self.pipeline, self.position))
            .hint("Somebody else changed pgdiode.position; nothing was committed. Start again to go on from what it says.")
    }

    // ---- 1. together ----

    async fn together(
        &mut self,
        batch: &mut Batch,
        start: Start,
        report: &mut Report,
    ) -> Result<Result<(), Trouble>> {
        self.begin(start)?;
        let mut expected = vec![Expect::Anything];
        for segment in &mut batch.segments {
            match segment {
                Segment::Rows(tables) => {
                    for rows in tables {
                        if self.passes_over(&rows.table.name, rows.changes.len(), report) {
                            continue;
                        }
                        if self.encode_table(rows, &mut expected).await?.is_err() {
                            // Not identifiable: found again, with its reason, on the careful way.
                            self.settle_all(&expected).await?.ok();
                            return Ok(Err(Trouble::Count));
                        }
                        report.count(&rows.table.name, rows.counts());
                    }
                }
                Segment::Truncate(truncation) => {
                    if let Some(sql) = self.truncate_sql(truncation, report) {
                        self.session.send_query(&sql)?;
                        expected.push(Expect::Anything);
                    }
                }
            }
        }
        self.advance(batch)?;
        let moved = batch.position.is_some();
        self.session.flush().await?;
        if let Err(trouble) = self.settle_all(&expected).await? {
            if moved {
                self.session.reply().await?;
            }
            return Ok(Err(trouble));
        }
        self.settle_advance(batch).await.map(Ok)
    }

    /// Reads a reply for each expectation; the first that disagrees is the trouble.
    async fn settle_all(&mut self, expected: &[Expect]) -> Result<Result<(), Trouble>> {
        self.session.flush().await?;
        let mut outcome = Ok(());
        for expect in expected {
            let reply = self.session.reply().await?;
            if outcome.is_ok() {
                outcome = settle(reply, expect)?;
            }
        }
        Ok(outcome)
    }

    async fn encode_table(
        &mut self,
        rows: &mut TableRows,
        expected: &mut Vec<Expect>,
    ) -> Result<Result<(), ()>> {
        if let Some(net) = rows.net_effect()
            && self.encode_net(rows, &net, expected).await?.is_ok()
        {
            return Ok(Ok(()));
        }
        match self.encode_in_order(rows).await? {
            Ok(()) => {
                expected.push(Expect::OneEach(rows.changes.len()));
                Ok(Ok(()))
            }
            Err(_) => {
                expected.push(Expect::Anything);
                Ok(Err(()))
            }
        }
    }

    /// Deletes, then updates, then inserts, each by one COPY and at most one statement.
    async fn encode_net(
        &mut self,
        rows: &TableRows,
        net: &NetEffect,
        expected: &mut Vec<Expect>,
    ) -> Result<Result<(), WrongFormat>> {
        let table = &*rows.table;
        let Some(format) = copy_format(net) else { return Ok(Err(WrongFormat)) };
        if !net.deletes.is_empty() {
            self.fill_stage(rows, Stage::Deletes, &[], format, &net.deletes, expected).await?;
            self.session.send_query(&statement::delete_staged(table, rows.number))?;
            expected.push(Expect::Rows(net.deletes.len() as u64));
        }
        for (unchanged, tuples) in &net.updates {
            self.fill_stage(rows, Stage::Updates, unchanged, format, tuples, expected).await?;
            self.session.send_query(&statement::update_staged(table, rows.number, unchanged))?;
            expected.push(Expect::Rows(tuples.len() as u64));
        }
        if !net.inserts.is_empty() {
            self.session.send_query(&statement::copy_into_table(table, format.sql()))?;
            self.copy(format, table, &net.inserts, |_| true).await?;
            expected.push(Expect::Rows(net.inserts.len() as u64));
        }
        Ok(Ok(()))
    }

    async fn fill_stage(
        &mut self,
        rows: &TableRows,
        stage: Stage,
        unchanged: &[usize],
        format: CopyFormat,
        tuples: &[Tuple],
        expected: &mut Vec<Expect>,
    ) -> Result<()> {
        let (table, number) = (&*rows.table, rows.number);
        if self.stages.insert((number, stage)) {
            self.session.send_query(&statement::create_stage(table, stage, number))?;
            expected.push(Expect::Anything);
        }
        if !self.filled.insert((number, stage)) {
            self.session.send_query(&format!("truncate {}", statement::stage_name(stage, number)))?;
            expected.push(Expect::Anything);
        }
        self.session.send_query(&statement::copy_into_stage(
            table,
            stage,
            number,
            unchanged,
            format.sql(),
        ))?;
        self.copy(format, table, tuples, |index| statement::staged(table, stage, unchanged, index)).await?;
        expected.push(Expect::Rows(tuples.len() as u64));
        Ok(())
    }

    /// Sends the rows of a COPY whose statement has just been appended. No need to wait for the server's consent:
    /// if it refuses the statement it ignores the rows (`PostgresMain`, messages `d`, `c`, `f`).
    async fn copy(
        &mut self,
        format: CopyFormat,
        table: &Table,
        tuples: &[Tuple],
        wanted: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let wanted: Vec<bool> = (0..table.columns.len()).map(wanted).collect();
        let columns = wanted.iter().filter(|&&wanted| wanted).count();
        for piece in pieces(tuples) {
            merge::reserve_for(&mut self.session.out, piece.tuples);
            let mut copy = CopyRows::new(&mut self.session.out, format, piece.part);
            for tuple in piece.tuples {
                let values = statement::stored_values(table, tuple).zip(&wanted);
                let values = values.filter(|(_, wanted)| **wanted).map(|(value, _)| value);
                copy.row(columns, values).expect("the format was chosen for these rows");
            }
            copy.finish();
            self.session.flush().await?;
        }
        Ok(())
    }

    // ---- 2. in order ----

    async fn carefully(&mut self, batch: &Batch, start: Start, report: &mut Report) -> Result<()> {
        self.begin(start.again())?;
        self.session.flush().await?;
        self.session.reply().await?.ok()?;
        for segment in &batch.segments {
            match segment {
                Segment::Rows(tables) => {
                    for rows in tables {
                        if !self.passes_over(&rows.table.name, rows.changes.len(), report) {
                            self.apply_table(rows, report).await?;
                        }
                    }
                }
                Segment::Truncate(truncation) => self.truncate(truncation, report).await?,
            }
        }
        Ok(())
    }

    async fn apply_table(&mut self, rows: &TableRows, report: &mut Report) -> Result<()> {
        self.session.query("savepoint apply_table").await?;
        let outcome = match self.encode_in_order(rows).await? {
            Ok(()) => self.settle_all(&[Expect::OneEach(rows.changes.len())]).await?,
            Err(_) => {
                self.settle_all(&[Expect::Anything]).await?.ok();
                Err(Trouble::Count)
            }
        };
        if outcome.is_ok() {
            report.count(&rows.table.name, rows.counts());
            return self.session.query("release savepoint apply_table").await.map(drop);
        }
        self.undo("rollback to savepoint apply_table").await?;
        let mut counts = Counts::default();
        match self.row_by_row(rows, &mut counts).await? {
            Ok(()) => {
                self.session.query("release savepoint apply_table").await?;
                report.count(&rows.table.name, counts);
            }
            Err(reason) => {
                self.undo("rollback to savepoint apply_table; release savepoint apply_table").await?;
                self.quarantine(&rows.table.name, &reason, report).await?;
                report.skipped(&rows.table.name, rows.changes.len() as u64);
            }
        }
        Ok(())
    }

    /// Appends one execution a change, with a sync at the end: one reply is to be read, whatever is returned.
    async fn encode_in_order(&mut self, rows: &TableRows) -> Result<Result<(), String>> {
        let mut outcome = Ok(());
        for change in &rows.changes {
            match statement::bind(&rows.table, change) {
                Ok(bound) => self.encode_bound(rows, &bound)?,
                Err(statement::Unidentifiable(reason)) => {
                    outcome = Err(reason.to_owned());
                    break;
                }
            }
            if self.session.out.len() > SEND_BYTES {
                self.session.flush().await?;
            }
        }
        frontend::sync(&mut self.session.out);
        Ok(outcome)
    }

    fn encode_bound(&mut self, rows: &TableRows, bound: &Bound<'_>) -> Result<()> {
        let key = (rows.number, bound.statement.clone());
        if let Some(name) = self.prepared.get(&key) {
            bind_and_execute(&mut self.session.out, name, &bound.parameters);
            return Ok(());
        }
        self.statements_made += 1;
        let name = format!("s{}", self.statements_made);
        let sql = statement::row_sql(&rows.table, &bound.statement);
        frontend::parse(&name, &sql, [], &mut self.session.out)
            .map_err(|error| Error::unexpected("a statement cannot be encoded").because(error))?;
        bind_and_execute(&mut self.session.out, &name, &bound.parameters);
        self.prepared.insert(key, name);
        Ok(())
    }

    // ---- 3. row by row ----

    async fn row_by_row(&mut self, rows: &TableRows, counts: &mut Counts) -> Result<Result<(), String>> {
        for change in &rows.changes {
            let outcome = match change {
                Change::Insert { new, .. } => self.insert_one(rows, change, new, counts).await?,
                Change::Update { .. } => {
                    self.touch_one(rows, change, &mut counts.updates, &mut counts.missing).await?
                }
                Change::Delete { .. } => {
                    self.touch_one(rows, change, &mut counts.deletes, &mut counts.missing).await?
                }
                Change::Truncate { .. } => unreachable!("truncates are not rows"),
            };
            if let Err(reason) = outcome {
                return Ok(Err(reason));
            }
        }
        Ok(Ok(()))
    }

    async fn insert_one(
        &mut self,
        rows: &TableRows,
        change: &Change,
        new: &Tuple,
        counts: &mut Counts,
    ) -> Result<Result<(), String>> {
        let error = match self.execute_one(rows, change).await? {
            Ok(0) => return self.kept_out(rows, new, counts).await,
            Ok(_) => {
                counts.inserts += 1;
                return Ok(Ok(()));
            }
            Err(error) => error,
        };
        let is_duplicate = error.sqlstate() == Some("23505");
        let Change::Insert { relation, .. } = change else { unreachable!("an insert") };
        if !is_duplicate || self.on_conflict == OnConflict::Quarantine {
            return Ok(Err(refused(rows, change, &error)));
        }
        let overwrite = Change::Update { relation: relation.clone(), old: None, new: new.clone() };
        match self.execute_one(rows, &overwrite).await? {
            Ok(1..) => {
                counts.conflicts += 1;
                let detail = format!(
                    "inserted row was already there and has been overwritten: {}",
                    shown::key(&rows.table, new)
                );
                self.note(rows, "insert-exists", counts.conflicts, &detail).await?;
                Ok(Ok(()))
            }
            // Another unique value is taken than the key's.
            Ok(0) => Ok(Err(refused(rows, change, &error))),
            Err(error) => Ok(Err(refused(rows, change, &error))),
        }
    }

    /// A trigger or rule here, one that fires for replicated rows too, let nothing be inserted.
    async fn kept_out(
        &mut self,
        rows: &TableRows,
        new: &Tuple,
        counts: &mut Counts,
    ) -> Result<Result<(), String>> {
        let detail =
            format!("a trigger or rule at the target kept a row out: {}", shown::key(&rows.table, new));
        if self.on_conflict == OnConflict::Quarantine {
            return Ok(Err(detail));
        }
        counts.skipped += 1;
        self.note(rows, "row-kept-out", counts.skipped, &detail).await?;
        Ok(Ok(()))
    }

    async fn touch_one(
        &mut self,
        rows: &TableRows,
        change: &Change,
        touched: &mut u64,
        missing: &mut u64,
    ) -> Result<Result<(), String>> {
        match self.execute_one(rows, change).await? {
            Ok(0) if self.on_conflict == OnConflict::Quarantine => {
                Ok(Err(format!("a row to change is not there: {}", shown_row(rows, change))))
            }
            Ok(0) => {
                *missing += 1;
                let detail = format!("row to change was not there, skipped: {}", shown_row(rows, change));
                self.note(rows, "row-missing", *missing, &detail).await?;
                Ok(Ok(()))
            }
            Ok(_) => {
                *touched += 1;
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(refused(rows, change, &error))),
        }
    }

    /// Executes one change; how many rows it touched, or the server's refusal. A value that its type lacks here may be
    /// one that the type has gained at the source.
    async fn execute_one(&mut self, rows: &TableRows, change: &Change) -> Result<Result<u64, Error>> {
        let error = match self.attempt_one(rows, change).await? {
            Err(error) if error.sqlstate() == Some("22P02") => error,
            outcome => return Ok(outcome),
        };
        match (self.follow)(Arc::clone(relation_of(change)), Mismatch::Value).await? {
            Followed::Beside => self.attempt_one(rows, change).await,
            Followed::Refused(reason) => {
                let what = format!("{} ({reason})", error.what());
                Ok(Err(Error::new(error.kind(), what).with_sqlstate("22P02")))
            }
            Followed::Altered(_) | Followed::CopiedAgain(_) => Ok(Err(error)),
        }
    }

    /// Executes one change under a savepoint.
    async fn attempt_one(&mut self, rows: &TableRows, change: &Change) -> Result<Result<u64, Error>> {
        let bound = match statement::bind(&rows.table, change) {
            Ok(bound) => bound,
            Err(statement::Unidentifiable(reason)) => return Ok(Err(Error::unexpected(reason))),
        };
        self.session.query("savepoint apply_row").await?;
        self.encode_bound(rows, &bound)?;
        frontend::sync(&mut self.session.out);
        self.session.flush().await?;
        let reply = self.session.reply().await?;
        match reply.error {
            None => {
                self.session.query("release savepoint apply_row").await?;
                Ok(Ok(reply.counts.last().copied().unwrap_or(0)))
            }
            Some(error) if is_fatal(&error) => Err(error),
            Some(error) => {
                self.undo("rollback to savepoint apply_row; release savepoint apply_row").await?;
                Ok(Err(error))
            }
        }
    }

    async fn note(&mut self, rows: &TableRows, kind: &str, so_far: u64, detail: &str) -> Result<()> {
        tracing::warn!(table = %rows.table.name, kind, "{detail}");
        if so_far > NOTES_MAX {
            return Ok(());
        }
        self.session.query(&progress::note(&self.pipeline, &rows.table.name, kind, detail)).await.map(drop)
    }

    // ---- truncation and quarantine ----

    fn truncate_sql(&mut self, truncation: &Truncation, report: &mut Report) -> Option<String> {
        let mut targets = Vec::new();
        for table in &truncation.tables {
            if !self.passes_over(&table.name, 1, report) {
                report.count(&table.name, Counts { truncates: 1, ..Counts::default() });
                targets.push(table.target.as_str());
            }
        }
        // Without CASCADE: the source names every table that it emptied, and others here are not ours to empty.
        let identity = if truncation.restart_identity { " restart identity" } else { "" };
        (!targets.is_empty()).then(|| format!("truncate {}{identity}", targets.join(", ")))
    }

    async fn truncate(&mut self, truncation: &Truncation, report: &mut Report) -> Result<()> {
        let mut counted = report.clone_counts();
        let Some(sql) = self.truncate_sql(truncation, &mut counted) else { return Ok(()) };
        let Err(error) = self.try_truncation(&sql).await? else {
            report.counts = counted.counts;
            return Ok(());
        };
        // TRUNCATE refuses while a table that is not emptied with it refers to one that is (0A000): one that only the
        // target has, or that was copied later and shows the truncation already. DELETE does not care.
        if error.sqlstate() == Some("0A000")
            && self.try_truncation(&self.delete_sql(truncation)).await?.is_ok()
        {
            report.counts = counted.counts;
            return Ok(());
        }
        for table in &truncation.tables {
            self.quarantine(&table.name, &format!("truncate failed: {}", error.what()), report).await?;
        }
        Ok(())
    }

    /// Runs a statement under a savepoint; the server's refusal.
    async fn try_truncation(&mut self, sql: &str) -> Result<Result<(), Error>> {
        self.session.query("savepoint apply_table").await?;
        match self.session.query(sql).await {
            Ok(_) => self.session.query("release savepoint apply_table").await.map(|_| Ok(())),
            Err(error) if is_fatal(&error) => Err(error),
            Err(error) => {
                self.undo("rollback to savepoint apply_table; release savepoint apply_table").await?;
                Ok(Err(error))
            }
        }
    }

    fn delete_sql(&self, truncation: &Truncation) -> String {
        let tables = truncation.tables.iter().filter(|table| !self.quarantined.contains(&table.name));
        tables.map(|table| format!("delete from {}", table.target)).collect::<Vec<_>>().join("; ")
    }

    /// Takes a table out of the stream, in the open transaction.
    pub async fn quarantine_table(&mut self, table: &TableName, reason: &str, remedy: &str) -> Result<()> {
        tracing::error!(%table, reason, "the table is quarantined: its changes are passed over until it is copied again");
        self.open().await?;
        self.session.query(&progress::quarantine(&self.pipeline, table, reason, remedy)).await?;
        self.quarantined.insert(table.clone());
        Ok(())
    }

    /// Applies no more changes of a table for as long as the session lives.
    pub fn pass_over(&mut self, table: TableName) {
        self.quarantined.insert(table);
    }

    async fn quarantine(&mut self, table: &TableName, reason: &str, report: &mut Report) -> Result<()> {
        let remedy = format!("mend what the reason names, then: pgdiode resync '{table}'");
        self.quarantine_table(table, reason, &remedy).await?;
        report.quarantined.push((table.clone(), reason.to_owned()));
        Ok(())
    }

    /// Counts and passes over the changes of a quarantined table.
    fn passes_over(&self, table: &TableName, changes: usize, report: &mut Report) -> bool {
        let passes = self.quarantined.contains(table);
        if passes {
            report.skipped(table, changes as u64);
        }
        passes
    }
}

/// What became of the rows of one flush.
#[derive(Default)]
struct Report {
    counts: HashMap<TableName, Counts>,
    quarantined: Vec<(TableName, String)>,
}

impl Report {
    fn count(&mut self, table: &TableName, counts: Counts) {
        self.counts.entry(table.clone()).or_default().add(&counts);
    }

    fn skipped(&mut self, table: &TableName, skipped: u64) {
        self.count(table, Counts { skipped, ..Counts::default() });
    }

    fn skip(&mut self, batch: &Batch) {
        for (table, skipped) in &batch.skipped {
            self.skipped(table, *skipped);
        }
    }

    fn clone_counts(&self) -> Report {
        Report { counts: self.counts.clone(), quarantined: Vec::new() }
    }
}

/// Compares a reply with what it must say.
fn settle(reply: Reply, expect: &Expect) -> Result<Result<(), Trouble>> {
    if let Some(error) = reply.error {
        return if is_fatal(&error) { Err(error) } else { Ok(Err(Trouble::Server(error))) };
    }
    let holds = match expect {
        Expect::Anything => true,
        Expect::Rows(rows) => reply.counts.last() == Some(rows),
        Expect::OneEach(executions) => {
            reply.counts.len() == *executions && reply.counts.iter().all(|&count| count == 1)
        }
    };
    Ok(if holds { Ok(()) } else { Err(Trouble::Count) })
}

/// Errors that are not about one table's data: trying the rows one by one would blame the wrong thing.
fn is_fatal(error: &Error) -> bool {
    error.retries()
        || error.kind() == crate::error::Kind::Capacity
        // No SQLSTATE: not the server's word at all. 25006: the target became read-only (a demoted primary).
        || error.sqlstate().is_none_or(|state| state == "25006")
}

/// The format that all values of a net effect share; `None` if they share none.
fn copy_format(net: &NetEffect) -> Option<CopyFormat> {
    let mut tuples =
        net.deletes.iter().chain(net.updates.iter().flat_map(|(_, tuples)| tuples)).chain(&net.inserts);
    let (_, binary) = tuples.try_fold((false, false), |(text, binary), tuple| {
        let found = (text || tuple.has_text(), binary || tuple.has_binary());
        (found != (true, true)).then_some(found)
    })?;
    // Without any value it does not matter.
    Some(if binary { CopyFormat::Binary } else { CopyFormat::Text })
}

/// A part of a COPY's rows that is encoded before it is sent.
struct Piece<'a> {
    tuples: &'a [Tuple],
    part: Part,
}

/// Cuts rows so that about [`SEND_BYTES`] are encoded at once.
fn pieces(tuples: &[Tuple]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, tuple) in tuples.iter().enumerate() {
        bytes += tuple.size();
        if bytes > SEND_BYTES || index + 1 == tuples.len() {
            let part = Part { first: start == 0, last: index + 1 == tuples.len() };
            pieces.push(Piece { tuples: &tuples[start..=index], part });
            (start, bytes) = (index + 1, 0);
        }
    }
    pieces
}

fn relation_of(change: &Change) -> &Arc<Relation> {
    match change {
        Change::Insert { relation, .. }
        | Change::Update { relation, .. }
        | Change::Delete { relation, .. } => relation,
        Change::Truncate { .. } => unreachable!("truncates are not rows"),
    }
}

fn refused(rows: &TableRows, change: &Change, error: &Error) -> String {
    let verb = match change {
        Change::Insert { .. } => "insert",
        Change::Update { .. } => "update",
        Change::Delete { .. } => "delete",
        Change::Truncate { .. } => "truncate",
    };
    format!("{verb} of {} failed: {}", shown_row(rows, change), error.what())
}

fn shown_row(rows: &TableRows, change: &Change) -> String {
    match change {
        Change::Insert { new, .. } | Change::Update { old: None, new, .. } => shown::key(&rows.table, new),
        Change::Update { old: Some(old), .. } | Change::Delete { old, .. } => {
            shown::key(&rows.table, old.tuple())
        }
        Change::Truncate { .. } => String::new(),
    }
}
