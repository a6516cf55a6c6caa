//! Filling tables from a base, each in one transaction: its rows, its keys and indexes, and the state that says so. A crash leaves a table empty, or done.

use std::collections::HashSet;
use std::io::Read;

use bytes::Bytes;

use crate::archive::manifest::{Base, BaseTable, Piece};
use crate::change::TableName;
use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::copy::feed;
use crate::pg::dump::{Entry, EntryKind};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::copy::empty;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::meter::Meter;
use crate::pipeline::monitor::{Known, await_copies};
use crate::pipeline::replay::base::{Bases, has_rows, is_behind, is_partitioned, is_there, table_of};
use crate::pipeline::replay::desk::Desk;
use crate::pipeline::replay::ledger;
use crate::pipeline::replay::schema::BaseSchema;
use crate::pipeline::replay::shapes;
use crate::position::Lsn;
use crate::status::Phase;
use crate::target::postgres::progress::{self, RelationState, of_relation};
use crate::target::postgres::schema::{self, Existing, LeftOut};

/// Rows go to the server in messages of this size.
const MESSAGE_BYTES: usize = 256 * 1024;

/// In `pgdiode.relation.options`: the table is to be emptied before every change comes again, where there is no base.
pub const IS_EMPTIED: &str = "emptied";

pub struct Filling<'a> {
    pub pipeline: &'a Pipeline,
    pub end: &'a TargetEnd,
    pub desk: &'a Desk,
    pub bases: &'a Bases,
    pub meter: &'a Meter,
    /// Where the pipeline stands.
    pub position: Lsn,
}

/// A table to be filled.
struct Order<'a> {
    name: TableName,
    base: &'a Base,
    table: &'a BaseTable,
}

impl Filling<'_> {
    /// Fills every table that waits for it.
    pub async fn run(&self, target: &mut Session) -> Result<()> {
        if let Some(base) = self.bases.newest.as_ref().filter(|_| self.pipeline.stream.new_tables) {
            let tables =
                base.tables.iter().map(table_of).filter(|table| self.pipeline.tables.match_table(table));
            join(target, self.pipeline, &tables.collect::<Vec<_>>(), JoinsWith::Base).await?;
        }
        let stored = progress::read(target, &self.pipeline.name).await?;
        let Some(stored) = stored else { return Ok(()) };
        let pending: Vec<TableName> = stored
            .relations
            .iter()
            .filter(|relation| matches!(relation.state, RelationState::Pending | RelationState::Copying))
            .map(|relation| relation.table.clone())
            .collect();
        let unfinished = stored.relations.iter().any(|relation| relation.state == RelationState::Copied);
        if pending.is_empty() && !unfinished && stored.schema_copied {
            return Ok(());
        }
        match &self.bases.newest {
            Some(base) => self.out_of_base(target, base, pending).await?,
            None => self.without_base(target, &pending).await?,
        }
        let name = quote::literal(&self.pipeline.name);
        let sql = format!(
            "update pgdiode.relation set options = null where pipeline = {name} and options = 'created';
             update pgdiode.relation set state = 'ready' where pipeline = {name} and state = 'copied' and carried_by is null;
             update pgdiode.pipeline set schema_copied = true, tables_created = true where name = {name};"
        );
        target.query(&sql).await.map(drop)
    }

    async fn out_of_base(&self, target: &mut Session, base: &Base, pending: Vec<TableName>) -> Result<()> {
        self.meter.phase(Phase::Copying, "reading the base's schema");
        let schema = BaseSchema::read(self.desk, base).await?;
        let pass = format!("{}/{:016x}", self.pipeline.name, fastrand::u64(..));
        let mut orders = Vec::new();
        for name in pending {
            match self.bases.table(&name) {
                Some((base, table)) => orders.push(Order { name, base, table }),
                None => {
                    let reason = format!("base {}, the newest, does not hold this table", base.number);
                    let remedy = format!("take a new base at the writer, then: pgdiode resync '{name}'");
                    self.quarantine(target, &name, &reason, &remedy).await?;
                }
            }
        }
        orders.sort_by_key(|order| schema.place(&order.name));
        let created = self.create(target, &schema, &mut orders).await?;
        let bytes = |table: &BaseTable| table.pieces.iter().map(|piece| piece.content_bytes).sum::<u64>();
        self.meter.copy_begins(orders.len(), orders.iter().map(|order| bytes(order.table)).sum());
        self.meter.phase(Phase::Copying, "filling tables from the base");
        let mut rows_session = None;
        for order in &orders {
            let rebuild = if created.contains(&order.name) { Rebuild::Keys } else { Rebuild::Nothing };
            let filled = self.fill_or_quarantine(rows_session.take(), target, &schema, order, rebuild, &pass);
            rows_session = filled.await?;
        }
        self.finish(target, &schema).await
    }

    /// Tables of an archive without a base are taken as they are, and get every change from its first file on.
    async fn without_base(&self, target: &mut Session, pending: &[TableName]) -> Result<()> {
        for name in pending {
            if !is_there(target, name).await? {
                let reason = "table not found locally, and the archive has no base to make it from";
                let remedy = format!(
                    "create it as it is in production, or take a base at the writer; then: pgdiode resync '{name}'"
                );
                self.quarantine(target, name, reason, &remedy).await?;
                continue;
            }
            let pass = format!("{}/{:016x}", self.pipeline.name, fastrand::u64(..));
            let first = self.desk.shelf.manifest_of_listed(1).await?;
            target.query("begin").await?;
            let row = of_relation(&self.pipeline.name, name);
            let emptied = format!("select from pgdiode.relation {row} and options = '{IS_EMPTIED}'");
            if !target.query(&emptied).await?.is_empty() {
                empty(target, name, false).await?;
            }
            let sql = format!(
                "insert into pgdiode.position (pipeline, lsn) values ({pass}, '{}');
                 update pgdiode.relation set state = 'copied', copied_at = '0/0', carried_by = {pass}, options = null {row}",
                first.from,
                pass = quote::literal(&pass)
            );
            target.query(&sql).await?;
            target.query("commit").await?;
        }
        Ok(())
    }

    /// Makes the tables that are not there, all before the first row: a value may name another table. Says which were made
    /// now or by an attempt before; their keys and indexes are still to come.
    async fn create(
        &self,
        target: &mut Session,
        schema: &BaseSchema,
        orders: &mut Vec<Order<'_>>,
    ) -> Result<HashSet<TableName>> {
        let mut missing = Vec::new();
        for order in orders.iter() {
            if !is_there(target, &order.name).await? {
                missing.push(order.name.clone());
            }
        }
        if !missing.is_empty() {
            self.meter.phase(Phase::Copying, "creating tables");
            for refused in self.create_missing(target, schema, &missing).await? {
                orders.retain(|order| order.name != refused);
            }
        }
        self.created(target).await
    }

    /// All at once, or else one by one: one table's trouble is that table's alone. Those that could not be made.
    async fn create_missing(
        &self,
        target: &mut Session,
        schema: &BaseSchema,
        missing: &[TableName],
    ) -> Result<Vec<TableName>> {
        match self.create_together(target, schema, missing).await {
            Ok(()) => return Ok(Vec::new()),
            Err(error) if error.kind() == Kind::Refused => target.query("rollback").await?,
            Err(error) => return Err(error),
        };
        let mut refused = Vec::new();
        for table in missing {
            match self.create_together(target, schema, std::slice::from_ref(table)).await {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Refused => {
                    target.query("rollback").await?;
                    let remedy =
                        format!("create what the reason names at the target, then: pgdiode resync '{table}'");
                    self.quarantine(target, table, &error.chain(), &remedy).await?;
                    refused.push(table.clone());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    /// The tables with what belongs to none, and the tables above and below them, in one transaction with
    /// the mark that says so; what is there stays as it is.
    async fn create_together(
        &self,
        target: &mut Session,
        schema: &BaseSchema,
        tables: &[TableName],
    ) -> Result<()> {
        let wanted: HashSet<&TableName> = tables.iter().collect();
        let kin = schema.kin(&wanted);
        target.query("begin").await?;
        let is_wanted = |entry: &Entry| {
            let is_of = |table: &TableName| wanted.contains(table) || kin.contains(table);
            !is_late(&entry.kind) && entry.table.as_ref().is_none_or(is_of)
        };
        // What cannot be made yet is tried again at the end, and noted there.
        schema::replay_entries(target, &schema.before, Existing::Kept, is_wanted).await?;
        for table in tables {
            let of_table = of_relation(&self.pipeline.name, table);
            target.query(&format!("update pgdiode.relation set options = 'created' {of_table}")).await?;
        }
        target.query("commit").await.map(drop)
    }

    async fn created(&self, target: &mut Session) -> Result<HashSet<TableName>> {
        let rows = target
            .query_with(
                "select schema_name, table_name from pgdiode.relation where pipeline = $1 and options = 'created'",
                &[Some(&self.pipeline.name)],
            )
            .await?;
        Ok(rows.iter().map(|row| TableName::new(row.string(0), row.string(1))).collect())
    }

    /// One table's trouble is that table's alone, unless trying again can help, or the archive is not what it was.
    async fn fill_or_quarantine(
        &self,
        session: Option<Session>,
        target: &mut Session,
        schema: &BaseSchema,
        order: &Order<'_>,
        rebuild: Rebuild,
        pass: &str,
    ) -> Result<Option<Session>> {
        let mut session = match session {
            Some(session) => session,
            None => self.end.session_for_rows().await?,
        };
        self.meter.table_begins(&order.name);
        match self.fill(&mut session, schema, order, rebuild, pass).await {
            Ok(rows) => {
                self.meter.table_ends(&order.name, rows);
                Ok(Some(session))
            }
            Err(error) if error.retries() || matches!(error.kind(), Kind::Capacity | Kind::Difference) => {
                Err(error)
            }
            Err(error) => {
                // It may be in the middle of its rows: the session goes, and its transaction with it.
                drop(session);
                self.meter.table_ends(&order.name, 0);
                let reason =
                    format!("it could not be filled from base {}: {}", order.base.number, error.chain());
                let remedy = format!("mend what the reason names, then: pgdiode resync '{}'", order.name);
                self.quarantine(target, &order.name, &reason, &remedy).await.map(|()| None)
            }
        }
    }

    async fn fill(
        &self,
        session: &mut Session,
        schema: &BaseSchema,
        order: &Order<'_>,
        rebuild: Rebuild,
        pass: &str,
    ) -> Result<u64> {
        session.query("begin").await?;
        let is_partitioned = is_partitioned(session, &order.name).await?;
        empty(session, &order.name, is_partitioned).await?;
        let columns = quote::identifiers(order.table.columns.iter().map(String::as_str));
        let columns = if order.table.columns.is_empty() { String::new() } else { format!(" ({columns})") };
        let into = format!("copy {}{columns} from stdin (format text)", quote::table(&order.name));
        let mut rows = 0;
        for piece in &order.table.pieces {
            rows += self.load(session, &order.name, piece, &into).await?;
        }
        if rows != order.table.rows {
            return Err(Error::new(
                Kind::Difference,
                format!(
                    "base {} holds {rows} rows of {}, its manifest says {}",
                    order.base.number, order.name, order.table.rows
                ),
            )
            .hint("The base is not what its writer left: take a new one at the writer."));
        }
        if rebuild == Rebuild::Keys {
            let rebuilds = schema.after.rebuild_order();
            let own = rebuilds.tables.iter().find(|rebuild| rebuild.table == order.name);
            let own = own.map(|rebuild| rebuild.entries.as_slice()).unwrap_or_default();
            let is_own = |entry: &Entry| own.iter().any(|own| std::ptr::eq(*own, entry));
            schema::replay_entries(session, &schema.after, Existing::Kept, is_own).await?;
        }
        self.mark(session, order, rows, pass).await?;
        session.query("commit").await?;
        Ok(rows)
    }

    async fn load(&self, session: &mut Session, name: &TableName, piece: &Piece, into: &str) -> Result<u64> {
        let content = self.desk.shelf.piece(piece, &self.desk.spool).await?;
        let mut content = Some(content);
        let meter = self.meter;
        feed(session, into, async || {
            let Some(reading) = content.take() else { return Ok(None) };
            let read = tokio::task::spawn_blocking(move || read_message(reading)).await;
            let (reading, bytes) = read
                .map_err(|error| Error::unexpected("the process is ending").because(error))?
                .map_err(|error| {
                    Error::unexpected(format!("the fetched {} cannot be read", piece.name)).because(error)
                })?;
            if bytes.is_empty() {
                return Ok(None);
            }
            content = Some(reading);
            meter.copied_bytes(name, bytes.len() as u64);
            Ok(Some(bytes))
        })
        .await
    }

    /// In the transaction of the rows. Whoever filled it meanwhile has the pipeline's lock, and we have lost it.
    async fn mark(&self, session: &mut Session, order: &Order<'_>, rows: u64, pass: &str) -> Result<()> {
        let pass = quote::literal(pass);
        let carried_by = if is_behind(order.base, self.position) {
            let sql = format!(
                "insert into pgdiode.position (pipeline, lsn) values ({pass}, '{}') on conflict (pipeline) do nothing",
                order.base.at
            );
            session.query(&sql).await?;
            pass.as_str()
        } else {
            "null"
        };
        let [source_oid, columns] = shapes::of_base(order.table);
        let sql = format!(
            "update pgdiode.relation
                set state = 'copied', copied_at = '{}', rows_copied = {rows}, carried_by = {carried_by},
                    source_oid = {source_oid}, columns = null, column_types = {columns}, reason = null, remedy = null, since = now()
             {} and state in ('pending', 'copying')",
            order.base.at,
            of_relation(&self.pipeline.name, &order.name)
        );
        if session.execute(&sql).await? == 1 {
            let logged = ledger::filled(self.pipeline, &order.name, rows, order.base.number);
            return session.query(&logged).await.map(drop);
        }
        Err(Error::new(Kind::TargetUnreachable, format!("{} is not to be filled any more", order.name)))
    }

    /// What needs several tables, or is none: attachments, foreign keys, views, grants. Best effort and noted: rows do
    /// not depend on it.
    async fn finish(&self, target: &mut Session, schema: &BaseSchema) -> Result<()> {
        let created = self.created(target).await?;
        if created.is_empty() {
            return Ok(());
        }
        self.meter.phase(Phase::Copying, "adding foreign keys and the rest of the schema");
        let created: HashSet<&TableName> = created.iter().collect();
        let kin = schema.kin(&created);
        let concerns = |entry: &&Entry| {
            let is_known = |table: &TableName| created.contains(table) || kin.contains(table);
            !entry.stays_at_source()
                && match &entry.table {
                    Some(table) if is_late(&entry.kind) => self.pipeline.tables.match_table(table),
                    table => table.as_ref().is_none_or(is_known),
                }
        };
        let order = schema.after.rebuild_order();
        let of_kin = order.tables.iter().filter(|rebuild| kin.contains(&rebuild.table));
        let entries = of_kin
            .flat_map(|rebuild| rebuild.entries.iter().copied())
            .chain(order.attachments.iter().copied())
            .chain(order.foreign_keys.iter().copied())
            .chain(schema.before.entries.iter().filter(|entry| is_late(&entry.kind) || entry.table.is_none()))
            .chain(order.rest.iter().copied());
        let roles = schema::roles(target).await?;
        schema::apply_settings(target, &schema.after).await?;
        for entry in entries.filter(concerns) {
            let left_out = match schema::replay_post_data(target, entry, &roles).await {
                Ok(left_out) => left_out,
                Err(error) if error.retries() || error.kind() == Kind::Capacity => return Err(error),
                Err(error) => vec![LeftOut { entry: entry.name.clone(), reason: error.chain() }],
            };
            for left_out in left_out {
                self.note(target, &left_out).await?;
            }
        }
        Ok(())
    }

    /// Once: what cannot be made stays so each time that a table joins.
    async fn note(&self, target: &mut Session, left_out: &LeftOut) -> Result<()> {
        let LeftOut { entry, reason } = left_out;
        let (name, detail) = (&self.pipeline.name, format!("{entry}: {reason}"));
        let sql = "insert into pgdiode.note (pipeline, kind, detail) select $1, 'schema-left-out', $2
             where not exists (select from pgdiode.note where pipeline = $1 and detail = $2)";
        tracing::warn!(entry, reason, "left out of the target's schema");
        target.query_with(sql, &[Some(name), Some(&detail)]).await.map(drop)
    }

    async fn quarantine(
        &self,
        target: &mut Session,
        table: &TableName,
        reason: &str,
        remedy: &str,
    ) -> Result<()> {
        tracing::error!(%table, reason, "the table cannot be filled; it is quarantined");
        target.query(&progress::quarantine(&self.pipeline.name, table, reason, remedy)).await.map(drop)
    }
}

/// What tables that join begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinsWith {
    /// Its rows take the place of those that are there.
    Base,
    /// The rows that are there.
    ItsRows,
}

/// Has tables filled that nobody knows of yet, but for those with rows that are not pgdiode's to replace (invariant 8).
pub async fn join(
    target: &mut Session,
    pipeline: &Pipeline,
    tables: &[TableName],
    joins_with: JoinsWith,
) -> Result<()> {
    let known =
        progress::read(target, &pipeline.name).await?.map(|stored| stored.relations).unwrap_or_default();
    let known: HashSet<TableName> = known.into_iter().map(|relation| relation.table).collect();
    let mut joining = Vec::new();
    for table in tables.iter().filter(|table| !known.contains(table)) {
        if joins_with == JoinsWith::Base && is_there(target, table).await? && has_rows(target, table).await? {
            let reason = "the target has rows in it that are not pgdiode's to replace";
            let remedy = format!("empty it, or to have them replaced: pgdiode resync '{table}'");
            tracing::warn!(%table, reason, "a table that would join is quarantined");
            target.query(&progress::quarantine(&pipeline.name, table, reason, &remedy)).await?;
        } else {
            joining.push(table.clone());
        }
    }
    await_copies(target, &pipeline.name, &joining, Known::Kept).await
}

/// Whether a table's keys, indexes and the like come after its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rebuild {
    Keys,
    /// It was there, with its own.
    Nothing,
}

/// What stands before the rows in a dump, and may need other tables than its own.
fn is_late(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::View | EntryKind::MaterializedView | EntryKind::ForeignTable)
}

/// Reads up to one message's worth; nothing at the end.
fn read_message(mut from: Box<dyn Read + Send>) -> std::io::Result<(Box<dyn Read + Send>, Bytes)> {
    let mut bytes = Vec::new();
    (&mut from).take(MESSAGE_BYTES as u64).read_to_end(&mut bytes)?;
    Ok((from, bytes.into()))
}
