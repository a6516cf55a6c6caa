//! Keys into tables: applies [`Observed`] entries set by set, each batch in one transaction with the position.
//!
//! A batch waits for the server twice. First: what is stored of its keys ([`control`]), which whoever makes the entries
//! has asked already. Then all the rest at once ([`run`]): rows by COPY into stages, one merge a table ([`statement`]), what is known of the keys, the position, and
//! the commit, which rolls back when anything before it failed.
//!
//! What PostgreSQL refuses because of its data is found by halving, under savepoints ([`sieve`]): it becomes a misfit
//! of its key, and the rest of the batch is stored all the same.
//!
//! What arrives has never been checked by a PostgreSQL before: no trigger is switched off, and a foreign key only where
//! the lookup of its rows has just done what it does ([`bulk`]).

mod batch;
mod bulk;
mod compare;
mod control;
mod run;
mod shape;
mod sieve;
mod statement;
mod underway;
mod wishes;

use std::collections::HashMap;

pub use self::compare::{AsOf, Comparer, Found, Strangers};
pub use self::control::{CREATE_KEYSPACE_TABLES, Known};
pub use self::underway::RowCounts;
pub use self::wishes::{Wish, wishes};

use crate::change::TableName;
use crate::error::{Error, Result};
use crate::keyspace::{ContentHash, Key, KeyId, Layout, NodePosition, Observed};
use crate::pg::quote;
use crate::pg::session::{Row, Session};
use crate::target::postgres::keyspace::batch::Item;
use crate::target::postgres::keyspace::control::Stored;
use crate::target::postgres::keyspace::run::{Run, Verdict};
use crate::target::postgres::keyspace::shape::Shape;
use crate::target::postgres::keyspace::statement::Statements;
use crate::target::postgres::keyspace::underway::{Counts, Underway};
use crate::target::postgres::progress::{APPLY_SETTINGS, REPLICA_ROLE};

/// The one session that writes the rows of a source of keys.
pub struct KeyspaceTarget {
    underway: Underway,
    pipeline: String,
    shapes: Vec<Shape>,
    statements: Vec<Statements>,
    /// What was stored of the keys that were asked for last, until they are written.
    asked: HashMap<KeyId, Option<Stored>>,
    /// How often everything was asked to be written anew.
    resyncs: u64,
}

/// What a batch has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// In the layout's order.
    pub tables: Vec<(TableName, RowCounts)>,
    /// What became no row: of the entries, and what PostgreSQL refused.
    pub misfits: u64,
    /// Rows that were there as they are to be.
    pub unchanged: u64,
    /// How many rows the entries had, each counted once.
    rows: u64,
    /// How many misfits are PostgreSQL's.
    refused: u64,
}

impl Applied {
    fn of(shapes: &[Shape]) -> Applied {
        let tables = shapes.iter().map(|shape| (shape.name.clone(), RowCounts::default())).collect();
        Applied { tables, ..Applied::default() }
    }

    fn add(&mut self, done: &[RowCounts]) {
        for ((_, counts), more) in self.tables.iter_mut().zip(done) {
            *counts += *more;
        }
    }

    fn finish(mut self) -> Applied {
        let written: u64 = self.tables.iter().map(|(_, counts)| counts.inserted + counts.updated).sum();
        self.unchanged = self.rows.saturating_sub(written);
        self
    }
}

impl KeyspaceTarget {
    /// Checks the layout against the target's tables and prepares the session: any with the options of a target's. The
    /// control tables are there ([`CREATE_KEYSPACE_TABLES`]).
    pub async fn open(mut session: Session, pipeline: &str, layout: &Layout) -> Result<KeyspaceTarget> {
        session.leave_out_details();
        session.query(&APPLY_SETTINGS.replace(REPLICA_ROLE, "")).await?;
        session.query("set client_min_messages = error").await?;
        // A foreign key's check is planned once a session, most likely while its table is empty: it must not be a scan of
        // what grows meanwhile.
        session.query("set enable_seqscan = off").await?;
        session.query(&search_path(layout)).await?;
        let shapes = shape::load(&mut session, layout).await?;
        let checked = bulk::checked(&mut session, layout, &shapes).await?;
        let numbered = shapes.iter().zip(checked).enumerate();
        let statements: Vec<Statements> = numbered
            .map(|(number, (shape, is_checked))| Statements::new(number, shape, is_checked))
            .collect();
        session.query(control::CREATE_KEY_STAGE).await?;
        for create in statements.iter().flat_map(|of| &of.create_stages) {
            session.query(create).await?;
        }
        let underway = Underway::new(session, shapes.len());
        let (pipeline, asked) = (pipeline.to_owned(), HashMap::new());
        Ok(KeyspaceTarget { underway, pipeline, shapes, statements, asked, resyncs: 0 })
    }

    /// Whether the table of that index is fit for the layout; it is there, as are those that it refers to.
    pub async fn check_table(session: &mut Session, layout: &Layout, index: usize) -> Result<()> {
        shape::load_one(session, layout, &layout.tables[index]).await.map(drop)
    }

    /// How far a node's history has been applied; `None` before its first batch.
    pub async fn position(&mut self, node: &str) -> Result<Option<NodePosition>> {
        Ok(self.positions().await?.into_iter().find(|position| position.node == node))
    }

    /// How far each history has been applied.
    pub async fn positions(&mut self) -> Result<Vec<NodePosition>> {
        let sql = "select node, replication_id, read_offset, database, is_scanned, mapping \
                   from pgdiode.keyspace_position where pipeline = $1 order by node";
        let rows = self.underway.session.query_with(sql, &[Some(&self.pipeline)]).await?;
        let position = |row: &Row| {
            Ok(NodePosition {
                node: row.string(0),
                replication_id: row.string(1),
                offset: row.get(2)?,
                database: row.optional(3)?,
                is_scanned: row.bool(4),
                mapping: ContentHash(control::half(row.text(5).unwrap_or_default())?),
            })
        };
        rows.iter().map(position).collect()
    }

    /// Forgets how far the histories of these nodes have been applied.
    pub async fn forget_positions(&mut self, nodes: &[String]) -> Result<()> {
        let nodes: Vec<String> = nodes.iter().map(|node| quote::literal(node)).collect();
        let sql = format!(
            "delete from pgdiode.keyspace_position where pipeline = {} and node in ({})",
            quote::literal(&self.pipeline),
            nodes.join(", ")
        );
        self.underway.session.query(&sql).await.map(drop)
    }

    /// What is stored of these keys; those that nothing is stored of are left out. Who applies entries of them next need
    /// not ask again: nobody else writes to the pipeline's rows.
    pub async fn known(&mut self, keys: &[KeyId]) -> Result<HashMap<KeyId, Known>> {
        self.asked.clear();
        let sql = control::select_keys(&self.pipeline, keys.iter().copied());
        let rows = self.underway.session.query(&sql).await?;
        let mut asked: HashMap<KeyId, Option<Stored>> = keys.iter().map(|id| (*id, None)).collect();
        let mut known = HashMap::with_capacity(rows.len());
        for row in &rows {
            let (id, stored) = control::read_key(row)?;
            known.insert(id, stored.known.clone());
            asked.insert(id, Some(stored));
        }
        self.asked = asked;
        Ok(known)
    }

    /// Keys that are there, in order of their ids.
    pub async fn page(&mut self, after: Option<KeyId>, limit: usize) -> Result<Vec<(KeyId, Key)>> {
        let rows = self.underway.session.query(&control::select_page(&self.pipeline, after, limit)).await?;
        rows.iter().map(control::read_page).collect()
    }

    /// How many keys are there.
    pub async fn count(&mut self) -> Result<u64> {
        self.underway.session.one(&control::count_keys(&self.pipeline)).await?.get(0)
    }

    /// Applies entries and commits them with the position. Of several entries of one key the last counts.
    ///
    /// An entry's rows are written whether or not its hash is stored already: whoever asks for it again wants it mended.
    /// Not cancel safe: a session that was left in the middle is of no use. After an error nothing of the batch has
    /// happened, and where the error [retries](Error::retries) without the connection being lost, the same batch may
    /// be applied again.
    pub async fn apply(&mut self, entries: Vec<Observed>, position: &NodePosition) -> Result<Applied> {
        let entries: Vec<(KeyId, Observed)> =
            entries.into_iter().map(|observed| (observed.entry.key.id(), observed)).collect();
        let advance = control::write_position(&self.pipeline, position)?;
        let outcome = self.apply_in_transaction(&entries, position, &advance).await;
        if outcome.is_err() {
            // It may be over already, or the connection lost; what matters is the error.
            drop(self.underway.session.query("rollback").await);
        }
        outcome.map(Applied::finish)
    }

    async fn apply_in_transaction(
        &mut self,
        entries: &[(KeyId, Observed)],
        position: &NodePosition,
        advance: &str,
    ) -> Result<Applied> {
        let stored = self.begin(entries).await?;
        let items = batch::items(entries, &stored);
        let runs = batch::runs(&items, &self.shapes);
        match self.together(&runs, position, advance).await? {
            Ok(applied) => Ok(applied),
            Err(error) => {
                tracing::debug!(error = error.what(), "a batch is applied in halves");
                self.carefully(&runs, position, advance).await
            }
        }
    }

    /// Opens the transaction; what is stored of the keys is asked where it was not.
    async fn begin(&mut self, entries: &[(KeyId, Observed)]) -> Result<HashMap<KeyId, Stored>> {
        let ids = entries.iter().map(|(id, _)| *id);
        let unasked: Vec<KeyId> = ids.clone().filter(|id| !self.asked.contains_key(id)).collect();
        let mut stored: HashMap<KeyId, Stored> =
            ids.filter_map(|id| Some((id, self.asked.remove(&id)??))).collect();
        if unasked.is_empty() {
            self.underway.send("begin", Counts::Nothing)?;
            return Ok(stored);
        }
        let session = &mut self.underway.session;
        session.send_query("begin")?;
        session.send_query(&control::select_keys(&self.pipeline, unasked.into_iter()))?;
        session.flush().await?;
        let (begun, known) = (session.reply().await?, session.reply().await?);
        begun.ok()?;
        for row in &known.ok()?.rows {
            let (id, found) = control::read_key(row)?;
            stored.insert(id, found);
        }
        Ok(stored)
    }

    /// All in one go; the server's refusal, where it is about the data.
    async fn together(
        &mut self,
        runs: &[&[Item<'_>]],
        position: &NodePosition,
        advance: &str,
    ) -> Result<Result<Applied, Error>> {
        let mut applied = Applied::of(&self.shapes);
        for items in runs {
            let run = Run::new(items, &self.shapes);
            self.send_run(&run, position, &Verdict::default(), &mut applied).await?;
        }
        self.underway.send(advance, Counts::Nothing)?;
        // Rolls back when anything before it failed.
        self.underway.send("commit", Counts::Nothing)?;
        match self.underway.settle().await? {
            Ok(done) => {
                applied.add(&done);
                Ok(Ok(applied))
            }
            Err(error) if sieve::is_about_data(&error) => Ok(Err(error)),
            Err(error) => Err(error),
        }
    }

    async fn send_run(
        &mut self,
        run: &Run<'_>,
        position: &NodePosition,
        verdict: &Verdict,
        applied: &mut Applied,
    ) -> Result<()> {
        run.send_tables(&mut self.underway, &self.shapes, &self.statements).await?;
        applied.rows += run.rows();
        applied.misfits += run
            .send_keys(&mut self.underway, &self.shapes, &self.pipeline, &position.replication_id, verdict)
            .await?;
        Ok(())
    }
}

/// Triggers and defaults of the target's tables may name things without a schema, most likely of their own.
fn search_path(layout: &Layout) -> String {
    let mut schemas = vec!["pg_catalog"];
    for table in &layout.tables {
        if !schemas.contains(&table.name.schema.as_str()) {
            schemas.push(&table.name.schema);
        }
    }
    format!("set search_path = {}", quote::identifiers(schemas))
}
