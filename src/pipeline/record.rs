//! What outlives a run and is no part of its position: that a pipeline is paused, what was verified, how large the
//! replica was. In the database that has the audit log, for whoever runs or watches the pipeline.
//!
//! - `pgdiode.pause`: one row a pipeline that is not to run until somebody resumes it. Where an archive is written it is
//!   a file on this host (`archiving/pause.rs`).
//! - `pgdiode.verification`: one row a table, how its last comparison ended; with an empty name, of all keys.
//! - `pgdiode.size`: the size of the replica, now and then.

use std::time::Duration;

use crate::audit::{self, Action, Journal};
use crate::change::TableName;
use crate::config::{Mode, Pipeline, Way, written};
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::{Row, Session};
use crate::pipeline::archiving::pause as of_archive;
use crate::snapshot;
use crate::status::VerifyReport;
use crate::status::fleet::{Pause, Verification, VerifiedTable};
use crate::status::keys::KeysReport;

const CREATE: &str = "
create schema if not exists pgdiode;
create table if not exists pgdiode.pause (
    pipeline text primary key,
    actor text not null,
    reason text,
    since timestamptz not null default clock_timestamp()
);
create table if not exists pgdiode.verification (
    pipeline text not null,
    table_name text not null,
    at timestamptz not null default clock_timestamp(),
    identical boolean not null,
    rows_source int8 not null,
    rows_target int8 not null,
    differences int8 not null,
    seconds float8 not null,
    primary key (pipeline, table_name)
);
create table if not exists pgdiode.size (
    pipeline text not null,
    at timestamptz not null default clock_timestamp(),
    bytes int8 not null,
    primary key (pipeline, at)
);
";

const INSTANT: &str = "'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'";
/// How long sizes are kept.
const SIZES_KEPT: &str = "400 days";
/// The size is recorded once in so long.
const SIZE_EVERY: &str = "1 hour";

/// A session with the tables above, made where they are not.
pub(super) async fn open(pipeline: &Pipeline) -> Result<Session> {
    let mut session = match super::audit_session(pipeline).await {
        Err(error) if error.kind() == Kind::Refused && pipeline.mode == Mode::Snapshot => {
            snapshot::prepare(pipeline).await?;
            super::audit_session(pipeline).await?
        }
        session => session?,
    };
    if !is_there(&mut session).await? {
        create(&mut session, CREATE).await?;
    }
    Ok(session)
}

/// Runs what creates tables where they are missing.
pub(super) async fn create(session: &mut Session, sql: &str) -> Result<()> {
    match session.query(sql).await {
        // Another process made them at the same moment; `if not exists` does not wait for that.
        Err(error) if matches!(error.sqlstate(), Some("23505" | "42P06" | "42P07")) => {
            session.query(sql).await.map(drop)
        }
        created => created.map(drop),
    }
}

async fn is_there(session: &mut Session) -> Result<bool> {
    Ok(session.one("select pg_catalog.to_regclass('pgdiode.size') is not null").await?.bool(0))
}

/// The database of the replica has this record; an archive has none.
pub fn has_record(pipeline: &Pipeline) -> bool {
    pipeline.way() != Way::ToArchive
}

// ---- pause ----

/// Why the pipeline is not to run, if so.
pub async fn pause_of(pipeline: &Pipeline) -> Result<Option<Pause>> {
    if !has_record(pipeline) {
        return of_archive::pause_of(pipeline);
    }
    let mut session = match super::audit_session(pipeline).await {
        // Nothing has ever run: nothing is there that could say so.
        Err(error) if error.kind() == Kind::Refused => return Ok(None),
        session => session?,
    };
    read_pause(&mut session, &pipeline.name).await
}

/// Lasts until somebody has paused it, over one session for as long as that lives.
pub async fn until_paused(pipeline: &Pipeline, look_every: Duration) -> Pause {
    let mut session = None;
    loop {
        tokio::time::sleep(look_every).await;
        match look(pipeline, &mut session).await {
            Ok(Some(pause)) => return pause,
            Ok(None) => {}
            // The run itself tells of a target that is away.
            Err(error) => {
                tracing::debug!(error = error.chain(), "whether it is paused could not be asked");
                session = None;
            }
        }
    }
}

async fn look(pipeline: &Pipeline, session: &mut Option<Session>) -> Result<Option<Pause>> {
    if !has_record(pipeline) {
        return of_archive::pause_of(pipeline);
    }
    let session = match session {
        Some(session) => session,
        None => session.insert(super::audit_session(pipeline).await?),
    };
    read_pause(session, &pipeline.name).await
}

/// Why it is not to run, by a session of [`audit_session`](super::audit_session).
pub async fn read_pause(session: &mut Session, pipeline: &str) -> Result<Option<Pause>> {
    if !is_there(session).await? {
        return Ok(None);
    }
    let sql = format!(
        "select actor, reason, pg_catalog.to_char(since at time zone 'UTC', {INSTANT}) from pgdiode.pause where pipeline = $1"
    );
    let rows = session.query_with(&sql, &[Some(pipeline)]).await?;
    let read = |row: &Row| Pause {
        actor: row.string(0),
        reason: row.text(1).map(str::to_owned),
        since: row.string(2),
    };
    Ok(rows.first().map(read))
}

/// Keeps the pipeline from being run, by any daemon, until somebody resumes it; whoever runs it stops.
pub async fn pause(pipeline: &Pipeline, reason: Option<&str>) -> Result<Pause> {
    if !has_record(pipeline) {
        return of_archive::pause(pipeline, reason);
    }
    let mut session = open(pipeline).await?;
    let journal =
        Journal::begin(&mut session, pipeline, Action::Pause, reason, serde_json::Map::new()).await?;
    let sql =
        "insert into pgdiode.pause (pipeline, actor, reason) values ($1, $2, $3) on conflict do nothing";
    let done = session.query_with(sql, &[Some(&pipeline.name), Some(&audit::actor()), reason]).await;
    journal.conclude(&mut session, done.map(drop)).await?;
    read_pause(&mut session, &pipeline.name)
        .await?
        .ok_or_else(|| Error::unexpected("the pause was not recorded"))
}

/// Lets it run again; false when it was not paused.
pub async fn resume(pipeline: &Pipeline, reason: Option<&str>) -> Result<bool> {
    if !has_record(pipeline) {
        return of_archive::resume(pipeline, reason);
    }
    let mut session = open(pipeline).await?;
    if read_pause(&mut session, &pipeline.name).await?.is_none() {
        return Ok(false);
    }
    let journal =
        Journal::begin(&mut session, pipeline, Action::Resume, reason, serde_json::Map::new()).await?;
    let done =
        session.query_with("delete from pgdiode.pause where pipeline = $1", &[Some(&pipeline.name)]).await;
    journal.conclude(&mut session, done.map(drop)).await?;
    Ok(true)
}

/// Refuses what must not be done while the pipeline is paused.
pub async fn refuse_paused(pipeline: &Pipeline) -> Result<()> {
    let Some(pause) = pause_of(pipeline).await? else { return Ok(()) };
    let why = pause.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let what =
        format!("pipeline \"{}\" is paused by {} since {}{why}", pipeline.name, pause.actor, pause.since);
    Err(Error::refused(what).hint("let it run again: pgdiode resume"))
}

// ---- verification ----

/// Keeps how a comparison of tables ended; `is_whole` says that all were compared.
pub async fn verified(pipeline: &Pipeline, report: &VerifyReport, is_whole: bool) -> Result<()> {
    let each = report.tables.iter().map(|table| {
        let name = written(&table.name);
        (name, table.identical, [table.rows_source, table.rows_target, table.differences_total])
    });
    keep(pipeline, each.collect(), report.seconds, is_whole).await
}

/// Keeps how a comparison of all keys ended.
pub async fn keys_verified(pipeline: &Pipeline, report: &KeysReport) -> Result<()> {
    let rows = report.tables.iter().map(|table| table.rows).sum();
    let all = (String::new(), report.identical, [report.keys, rows, report.differences_total]);
    keep(pipeline, vec![all], report.seconds, true).await
}

type Compared = (String, bool, [u64; 3]);

async fn keep(pipeline: &Pipeline, tables: Vec<Compared>, seconds: f64, is_whole: bool) -> Result<()> {
    let mut session = open(pipeline).await?;
    let name = quote::literal(&pipeline.name);
    let mut sql = String::from("begin;");
    if is_whole {
        sql.push_str(&format!("delete from pgdiode.verification where pipeline = {name};"));
    }
    for (table, is_identical, [source, target, differences]) in tables {
        let table = quote::literal(&table);
        sql.push_str(&format!(
            "insert into pgdiode.verification
                    (pipeline, table_name, identical, rows_source, rows_target, differences, seconds)
             values ({name}, {table}, {is_identical}, {source}, {target}, {differences}, {seconds})
             on conflict (pipeline, table_name) do update set at = excluded.at, identical = excluded.identical,
                rows_source = excluded.rows_source, rows_target = excluded.rows_target,
                differences = excluded.differences, seconds = excluded.seconds;"
        ));
    }
    sql.push_str("commit");
    session.query(&sql).await.map(drop)
}

/// The last comparison of each table.
pub async fn verification_of(session: &mut Session, pipeline: &str) -> Result<Option<Verification>> {
    if !is_there(session).await? {
        return Ok(None);
    }
    let sql = format!(
        "select table_name, pg_catalog.to_char(at at time zone 'UTC', {INSTANT}), identical, rows_source, rows_target, differences, seconds
           from pgdiode.verification where pipeline = $1 order by table_name"
    );
    let rows = session.query_with(&sql, &[Some(pipeline)]).await?;
    let read = |row: &Row| {
        Ok(VerifiedTable {
            name: row.string(0),
            at: row.string(1),
            identical: row.bool(2),
            rows_source: row.get(3)?,
            rows_target: row.get(4)?,
            differences: row.get(5)?,
        })
    };
    let tables = rows.iter().map(read).collect::<Result<Vec<_>>>()?;
    let Some(at) = tables.iter().map(|table| table.at.clone()).max() else { return Ok(None) };
    let mut seconds: f64 = 0.0;
    for row in &rows {
        seconds = seconds.max(row.get(6)?);
    }
    let different = tables.iter().filter(|table| !table.identical).count() as u64;
    Ok(Some(Verification {
        at,
        identical: different == 0,
        tables: tables.len() as u64,
        tables_different: different,
        seconds,
        of_tables: tables.into_iter().filter(|table| !table.name.is_empty()).collect(),
    }))
}

// ---- size ----

/// Records the replica's size, if the last record is old enough.
pub async fn record_size(pipeline: &Pipeline, bytes: u64) -> Result<()> {
    let mut session = open(pipeline).await?;
    let name = quote::literal(&pipeline.name);
    let sql = format!(
        "delete from pgdiode.size where pipeline = {name} and at < pg_catalog.clock_timestamp() - interval '{SIZES_KEPT}';
         insert into pgdiode.size (pipeline, bytes) select {name}, {bytes}
          where not exists (select from pgdiode.size where pipeline = {name}
                             and at > pg_catalog.clock_timestamp() - interval '{SIZE_EVERY}')"
    );
    session.query(&sql).await.map(drop)
}

/// Bytes a day, by the line through what was recorded in the last 30 days; `None` before two hours are known.
pub async fn growth_of(session: &mut Session, pipeline: &str) -> Result<Option<f64>> {
    if !is_there(session).await? {
        return Ok(None);
    }
    let sql = "select case when pg_catalog.max(at) - pg_catalog.min(at) >= interval '2 hours'
                           then pg_catalog.regr_slope(bytes, extract(epoch from at)::float8) * 86400 end
                 from pgdiode.size where pipeline = $1 and at > pg_catalog.clock_timestamp() - interval '30 days'";
    session.query_with(sql, &[Some(pipeline)]).await?.first().map_or(Ok(None), |row| row.optional(0))
}

/// A table as it is written in the configuration.
pub fn table_of(name: &str) -> Result<TableName> {
    if name.contains('\0') {
        return Err(Error::config(format!("{name:?} has a NUL character in it, which no table's name has"))
            .hint("name it as the configuration does: schema.table"));
    }
    let pattern: crate::config::Pattern = name.parse()?;
    pattern.exact().ok_or_else(|| Error::config(format!("\"{name}\" does not name one table")))
}
