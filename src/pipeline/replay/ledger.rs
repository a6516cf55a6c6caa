//! What users of syncdata read: `data_sync_logs`, a row for each table and file, as they know it.
//!
//! A file is written down right after it was wholly applied, not in the transaction of its rows: that one may hold parts of
//! several files, or a part of one. How far the writing has come (`pgdiode.ledger`) commits with it, so that each file is in
//! the log once, whatever is killed in between; what a killed run has not written the next one does. Rows that a base
//! fills a table with are logged in their own transaction.

use std::collections::HashSet;

use crate::archive::names;
use crate::change::TableName;
use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::replay::base::Bases;
use crate::pipeline::replay::control;
use crate::pipeline::replay::metrics::Metrics;
use crate::position::Lsn;
use crate::source::archive::Shelf;
use crate::source::archive::foreign::ledger::Counted;

/// Files that are written down at once: whoever stops the run waits for no more.
const FILES_MAX: u64 = 32;

/// The table of what concerns no single one: a file that was refused.
const ALL_TABLES: &str = "*";

/// Beside the control schema, which is there. Idempotent.
pub const CREATE: &str = "
create table if not exists pgdiode.ledger (
    pipeline text primary key,
    file int8 not null
);
";

pub struct Ledger {
    pipeline: String,
    logs: String,
    metrics: Metrics,
    /// Quarantines that are in the log.
    failures: HashSet<(String, String)>,
}

impl Ledger {
    pub fn of(pipeline: &Pipeline) -> Result<Ledger> {
        Ok(Ledger {
            pipeline: pipeline.name.clone(),
            logs: control::logs(pipeline),
            metrics: Metrics::of(pipeline)?,
            failures: HashSet::new(),
        })
    }

    /// Writes down what was applied and what has failed since the last time.
    pub async fn record(&mut self, target: &mut Session, shelf: Option<&Shelf>) -> Result<()> {
        self.metrics.record(target, jiff::Timestamp::now()).await?;
        if let Some(shelf) = shelf {
            while self.record_files(target, shelf).await? {}
        }
        self.record_failures(target).await
    }

    /// Whether there are more.
    async fn record_files(&self, target: &mut Session, shelf: &Shelf) -> Result<bool> {
        let sql =
            "select l.file, r.file from pgdiode.ledger l join pgdiode.replay r on r.pipeline = l.pipeline
                    where l.pipeline = $1 and r.file > l.file";
        let rows = target.query_with(sql, &[Some(&self.pipeline)]).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let (written, applied) = (row.get::<u64>(0)?, row.get::<u64>(1)?);
        let last = applied.min(written + FILES_MAX);
        let mut values = Vec::new();
        for number in written + 1..=last {
            // Pruned, if it is gone: then nobody knows any more what was in it.
            let Some(manifest) = shelf.manifest(number).await? else { continue };
            let tables =
                manifest.tables.iter().filter_map(|(name, rows)| Some((name.split_once('.')?, rows)));
            values.extend(tables.map(|((schema, table), rows)| {
                format!(
                    "({}, {}, {}, {rows}::int8, '{}'::pg_lsn)",
                    quote::literal(&manifest.name),
                    quote::literal(schema),
                    quote::literal(table),
                    manifest.to
                )
            }));
        }
        let pipeline = quote::literal(&self.pipeline);
        let mut sql = lock(&self.pipeline);
        if !values.is_empty() {
            let written = format!(
                "exists (select from pgdiode.ledger where pipeline = {pipeline} and file = {written})"
            );
            sql.push_str(&format!("{};", synced(&self.logs, &pipeline, &values, &written)));
        }
        sql.push_str(&format!(
            "update pgdiode.ledger set file = {last} where pipeline = {pipeline} and file = {written};"
        ));
        // One message is one transaction.
        target.query(&sql).await?;
        Ok(last < applied)
    }

    async fn record_failures(&mut self, target: &mut Session) -> Result<()> {
        let sql = format!(
            "select {}, r.reason, r.since from pgdiode.relation r where r.pipeline = $1 and r.state = 'quarantined'",
            control::name_sql("r")
        );
        let rows = target.query_with(&sql, &[Some(&self.pipeline)]).await?;
        let quarantined: HashSet<(String, String)> =
            rows.iter().map(|row| (row.string(0), row.string(2))).collect();
        for row in &rows {
            let (table, since) = (row.string(0), row.string(2));
            if self.failures.contains(&(table.clone(), since.clone())) {
                continue;
            }
            // The run before may have written it.
            let sql = format!(
                "insert into {logs} (table_name, status, archive_ref, error_detail)
                 select $1, 'FAILED', (select lsn::text from pgdiode.position where pipeline = $4), $2
                  where not exists (select from {logs} where table_name = $1 and status = 'FAILED'
                                       and sync_time >= $3::timestamptz and error_detail is not distinct from $2)",
                logs = self.logs
            );
            target.query_with(&sql, &[Some(&table), row.text(1), Some(&since), Some(&self.pipeline)]).await?;
        }
        self.failures = quarantined;
        Ok(())
    }
}

/// The statement that waits for whoever writes at the same time: a run that was cut off, whose last message still works.
pub fn lock(pipeline: &str) -> String {
    format!("select from pgdiode.ledger where pipeline = {} for update;", quote::literal(pipeline))
}

/// The statement that logs rows of tables by their files: `(file, schema, table, rows, position that it reaches)`.
fn synced(logs: &str, pipeline: &str, values: &[String], only_if: &str) -> String {
    format!(
        "insert into {logs} (table_name, status, rows_synced, archive_ref)
         select {}, 'SUCCESS', least(v.rows, 2147483647), v.file
           from (values {}) v (file, schema_name, table_name, rows, reaches)
           join pgdiode.relation r on r.schema_name = v.schema_name and r.table_name = v.table_name
          where r.pipeline = {pipeline} and r.state <> 'quarantined' and r.copied_at < v.reaches and {only_if}
          order by v.file, 1",
        control::name_sql("v"),
        values.join(", ")
    )
}

/// The statement that logs files of other writers, in the transaction of their last rows: they have no manifests that
/// could be asked afterwards.
pub fn applied(pipeline: &Pipeline, files: &[(Lsn, String, Counted)]) -> Option<String> {
    let of_file = |(reaches, name, counted): &(Lsn, String, Counted)| {
        let name = quote::literal(name);
        let row = |(table, rows): (&TableName, &u64)| {
            let (schema, table) = (quote::literal(&table.schema), quote::literal(&table.name));
            format!("({name}, {schema}, {table}, {rows}::int8, '{reaches}'::pg_lsn)")
        };
        counted.iter().map(row).collect::<Vec<_>>()
    };
    let values: Vec<String> = files.iter().flat_map(of_file).collect();
    let (logs, name) = (control::logs(pipeline), quote::literal(&pipeline.name));
    (!values.is_empty()).then(|| synced(&logs, &name, &values, "true"))
}

/// Where the log of a reader begins: what it had applied before there was one is not in it.
pub async fn begin(target: &mut Session, pipeline: &Pipeline, bases: &Bases) -> Result<()> {
    let first = bases.newest.as_ref().map_or(1, |base| base.next_file);
    let name = quote::literal(&pipeline.name);
    let sql = format!(
        "insert into pgdiode.ledger (pipeline, file)
         select {name}, coalesce(r.file, {}) from pgdiode.replay r where r.pipeline = {name}
         on conflict do nothing",
        first.saturating_sub(1)
    );
    target.query(&sql).await.map(drop)
}

/// The statement that logs a table which is filled from a base, in the transaction that fills it.
pub fn filled(pipeline: &Pipeline, table: &TableName, rows: u64, base: u64) -> String {
    format!(
        "insert into {} (table_name, status, rows_synced, archive_ref) values ({}, 'SUCCESS', {}, {})",
        control::logs(pipeline),
        quote::literal(&control::listed_name(table)),
        rows.min(i32::MAX as u64),
        quote::literal(&names::base(base))
    )
}

/// The statements that log tables which have caught up with the others, in all files at once.
pub fn caught_up<'a>(
    pipeline: &Pipeline,
    tables: impl Iterator<Item = (&'a TableName, u64)>,
    to: Lsn,
) -> String {
    let logs = control::logs(pipeline);
    let rows = tables.map(|(table, rows)| {
        let (table, rows) = (quote::literal(&control::listed_name(table)), rows.min(i32::MAX as u64));
        format!(
            "insert into {logs} (table_name, status, rows_synced, archive_ref) values ({table}, 'SUCCESS', {rows}, '{to}');"
        )
    });
    rows.collect()
}

/// Logs why a run has ended. Best effort: the target may be what failed.
pub async fn failed(end: &TargetEnd, pipeline: &Pipeline, error: &Error) {
    let logged = async {
        let sql = format!(
            "insert into {} (table_name, status, archive_ref, error_detail)
             values ($1, 'FAILED', (select lsn::text from pgdiode.position where pipeline = $2), $3)",
            control::logs(pipeline)
        );
        let values = [Some(ALL_TABLES), Some(pipeline.name.as_str()), Some(&error.chain())];
        end.session().await?.query_with(&sql, &values).await
    };
    if let Err(error) = logged.await {
        tracing::debug!(error = error.chain(), "the failure could not be logged in the target");
    }
}

/// The statements that forget all of this about a pipeline.
pub fn forget(pipeline: &str) -> String {
    format!("delete from pgdiode.ledger where pipeline = {}", quote::literal(pipeline))
}
