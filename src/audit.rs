//! The audit log: who had pgdiode do what, when, why, and how it went; in `pgdiode.audit`, beside the state it is about.
//!
//! Entries are only ever added, and each holds the hash of the one before it ([`chain`] says of what), so that an entry
//! that is edited, removed, moved or put in is found by [`verify`], in the database or in an exported file. Two things
//! the chain alone cannot show: that its end was cut off, and that somebody who may write the table made all of it anew.
//! Both show against a [`Head`] that was kept elsewhere.
//!
//! What changes something is framed by a [`Journal`]: an entry with the verdict `begun` before anything is done, without
//! which nothing is done, and one that says how it ended. Where the second is missing, the process was killed.

pub mod chain;
pub mod checkpoint;
mod journal;

use std::io::BufRead;
use std::os::unix::fs::MetadataExt;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};
use crate::lock::host_name;
use crate::pg::session::{Row, Session};

pub use chain::{Broken, Chain, Damage, Head, Record, Report};
pub use journal::Journal;

/// Creates what is missing of the log. Idempotent.
pub const CREATE_AUDIT: &str = "
create schema if not exists pgdiode;
create table if not exists pgdiode.audit (
    number int8 primary key check (number > 0),
    at timestamptz not null,
    pipeline text not null,
    os_user text not null,
    host text not null,
    role text not null,
    action text not null,
    reason text,
    verdict text not null,
    details jsonb not null,
    previous_hash text not null,
    hash text not null
);
comment on table pgdiode.audit is 'who had pgdiode do what; each entry holds the hash of the one before it';
";

/// One writer at a time, for the length of its transaction: two would both follow the same entry.
const LOCK: &str = "select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('pgdiode audit', 0))";

/// Another writer's transaction is short; one that is not must not keep a verb waiting without a word.
pub const LOCK_WAIT: &str = "30s";

/// The last entry, and of the next one what only the server knows.
const NEXT: &str = "
    select coalesce(last.number, 0), last.hash, pg_catalog.to_char(now.at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
           session_user, $1::jsonb::text
      from (select pg_catalog.clock_timestamp()) as now (at)
      left join (select number, hash from pgdiode.audit order by number desc limit 1) as last on true";

const INSERT: &str = "
    insert into pgdiode.audit
           (number, at, pipeline, os_user, host, role, action, reason, verdict, details, previous_hash, hash)
    values ($1::int8, $2::timestamptz, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11, $12)";

/// The columns of a [`Record`]. A time before our era is marked, or it would read like one of ours.
const COLUMNS: &str = "
    number, pg_catalog.to_char(at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
            || case when at < timestamptz '0001-01-01 00:00:00+00' then ' BC' else '' end,
    pipeline, os_user, host, role, action, reason, verdict, details::text, previous_hash, hash";

/// Entries that are in memory at once while the log is read.
const PAGE: u32 = 100;

/// With [`PAGE`] it bounds what reading the log takes.
const ENTRY_BYTES_MAX: usize = 64 * 1024;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Setup,
    /// A run, from its start to its end.
    Start,
    /// Somebody asked a run to end.
    Stop,
    Reset,
    Resync,
    Clear,
    AddTables,
    RemoveTables,
    Sync,
    Swap,
    Rollback,
    DropGeneration,
    Pause,
    Resume,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Setup => "setup",
            Action::Start => "start",
            Action::Stop => "stop",
            Action::Reset => "reset",
            Action::Resync => "resync",
            Action::Clear => "clear",
            Action::AddTables => "add-tables",
            Action::RemoveTables => "remove-tables",
            Action::Sync => "sync",
            Action::Swap => "swap",
            Action::Rollback => "rollback",
            Action::DropGeneration => "drop-generation",
            Action::Pause => "pause",
            Action::Resume => "resume",
        }
    }
}

tokio::task_local! {
    /// Who asked for what this task does, where that is not whoever started the process.
    static ACTOR: String;
    /// Why it is done, where nobody says so on the way.
    static REASON: String;
}

/// Does `work` for a reason. Entries that it writes say so, unless they have one of their own.
pub async fn because<T>(reason: Option<String>, work: impl Future<Output = T>) -> T {
    match reason {
        Some(reason) => REASON.scope(reason, work).await,
        None => work.await,
    }
}

fn for_the_reason() -> Option<String> {
    REASON.try_with(String::clone).ok()
}

/// Does `work` in the name of somebody: `alice (console, 127.0.0.1)`. Entries and runs that it writes say so.
pub async fn acting_as<T>(actor: String, work: impl Future<Output = T>) -> T {
    ACTOR.scope(actor, work).await
}

/// Who acts: in whose name it is done, else the process by user, host and number.
pub fn actor() -> String {
    ACTOR
        .try_with(String::clone)
        .unwrap_or_else(|_| format!("{} on {}, process {}", os_user(), host_name(), std::process::id()))
}

fn in_the_name_of() -> Option<String> {
    ACTOR.try_with(String::clone).ok()
}

/// What an entry says beside what is the same for all of a process.
#[derive(Debug, Clone)]
pub struct Entry {
    pub pipeline: String,
    pub action: Action,
    /// Why, in the words of whoever asked for it.
    pub reason: Option<String>,
    /// `begun`, `done`, `failed`, or what else became of it.
    pub verdict: String,
    pub details: Map<String, Value>,
}

/// Whether the log is there.
pub async fn exists(session: &mut Session) -> Result<bool> {
    Ok(session.one("select pg_catalog.to_regclass('pgdiode.audit') is not null").await?.bool(0))
}

/// Creates the log where there is none. Not inside a transaction.
pub async fn create_if_missing(session: &mut Session) -> Result<()> {
    let create = async {
        if exists(session).await? {
            return Ok(());
        }
        match session.query(CREATE_AUDIT).await {
            // Another process made it at the same moment; `if not exists` does not wait for that.
            Err(error) if matches!(error.sqlstate(), Some("23505" | "42P06" | "42P07")) => {
                session.query(CREATE_AUDIT).await.map(drop)
            }
            created => created.map(drop),
        }
    };
    create.await.map_err(unwritable)
}

/// Adds an entry in a transaction of its own, and says its number. When it cannot, what was to be audited must not be
/// done: [`Kind::Audit`], or [`Kind::TargetUnreachable`] where the connection broke.
pub async fn append(session: &mut Session, entry: &Entry) -> Result<i64> {
    let appended = async {
        let begin = format!(
            "begin isolation level read committed read write; set local lock_timeout = '{LOCK_WAIT}'"
        );
        session.query(&begin).await?;
        let number = append_in_transaction(session, entry).await?;
        // The entry must be on disk before what it announces is done.
        session.query("set local synchronous_commit = on; commit").await?;
        Ok(number)
    };
    let result = appended.await;
    if result.is_err() {
        // The first error is the one that counts.
        let _ = session.query("rollback").await;
    }
    result.map_err(unwritable)
}

/// Adds an entry in the open transaction, which must be `read committed`: it commits, or does not, with the rest. Other
/// writers wait until then.
pub async fn append_in_transaction(session: &mut Session, entry: &Entry) -> Result<i64> {
    append_next(session, entry).await.map_err(unwritable)
}

async fn append_next(session: &mut Session, entry: &Entry) -> Result<i64> {
    let details = serde_json::to_string(&entry.details)
        .map_err(|error| Error::unexpected("the details cannot be written as JSON").because(error))?;
    let reason_bytes = entry.reason.as_ref().map_or(0, String::len);
    if details.len() + reason_bytes + entry.verdict.len() > ENTRY_BYTES_MAX {
        return Err(Error::unexpected(format!("the audit entry is longer than {ENTRY_BYTES_MAX} bytes")));
    }
    session.query(LOCK).await?;
    // A statement after the lock, so that it sees what the last holder committed.
    let rows = session.query_with(NEXT, &[Some(&details)]).await?;
    let next = rows.first().ok_or_else(|| Error::unexpected("the audit log has no next entry"))?;
    let mut record = Record {
        number: next.get::<i64>(0)? + 1,
        at: next.string(2),
        pipeline: entry.pipeline.clone(),
        os_user: os_user(),
        host: host_name(),
        role: next.string(3),
        action: entry.action.as_str().to_owned(),
        reason: entry.reason.clone(),
        verdict: entry.verdict.clone(),
        details: raw(next.string(4))?,
        previous_hash: next.text(1).unwrap_or(chain::NO_HASH).to_owned(),
        hash: String::new(),
    };
    record.hash = record.computed_hash();
    insert(session, &record).await.map(|()| record.number)
}

async fn insert(session: &mut Session, record: &Record) -> Result<()> {
    let number = record.number.to_string();
    let values = [
        Some(number.as_str()),
        Some(&record.at),
        Some(&record.pipeline),
        Some(&record.os_user),
        Some(&record.host),
        Some(&record.role),
        Some(&record.action),
        record.reason.as_deref(),
        Some(&record.verdict),
        Some(record.details.get()),
        Some(&record.previous_hash),
        Some(&record.hash),
    ];
    session.query_with(INSERT, &values).await.map(drop)
}

/// Why an entry was not written. A target that is gone is still that: trying again later can help.
fn unwritable(error: Error) -> Error {
    if error.kind() == Kind::Audit || is_disconnection(&error) {
        return error;
    }
    let hint = match error.sqlstate() {
        Some("42501") => {
            "as the owner of the log: grant usage on schema pgdiode, and select and insert on pgdiode.audit, \
                          to the target's user"
        }
        Some("23505") => "the log was tampered with, or restored in part: pgdiode audit verify",
        Some("55P03") => {
            "another transaction has written an entry and does not end: see pg_locks at the target"
        }
        _ => "see why the target does not take the entry; what is not audited is not done",
    };
    let sqlstate = error.sqlstate().unwrap_or_default().to_owned();
    let unwritable = Error::new(Kind::Audit, "the audit log cannot be written").because(error).hint(hint);
    if sqlstate.is_empty() { unwritable } else { unwritable.with_sqlstate(sqlstate) }
}

/// Whether the connection broke, by itself or because the server ended it (`57P01` to `57P05`).
fn is_disconnection(error: &Error) -> bool {
    error.retries() && error.sqlstate().is_none_or(|state| state.starts_with("57P0"))
}

/// Checks every entry, in bounded memory; a `known` head shows a log that was cut off or made anew.
pub async fn verify(session: &mut Session, known: impl IntoIterator<Item = Head>) -> Result<Report> {
    verify_from(session, 1, known).await
}

/// The same for the entries from `first` on.
async fn verify_from(
    session: &mut Session,
    first: i64,
    known: impl IntoIterator<Item = Head>,
) -> Result<Report> {
    let known: Vec<Head> = known.into_iter().collect();
    let is_known = !known.is_empty();
    let mut chain = Chain::from(first, known);
    if exists(session).await? {
        read(session, first, |record| Ok(chain.takes(&record))).await?;
    } else if !is_known {
        return Err(no_log());
    }
    Ok(chain.report())
}

/// Hands on every entry, in the order of their numbers.
pub async fn export(session: &mut Session, mut each: impl FnMut(&Record) -> Result<()>) -> Result<()> {
    if !exists(session).await? {
        return Err(no_log());
    }
    read(session, 1, |record| each(&record).map(|()| true)).await
}

/// The latest entries, the oldest of them first.
pub async fn latest(session: &mut Session, count: u32) -> Result<Vec<Record>> {
    if !exists(session).await? {
        return Err(no_log());
    }
    let sql = format!("select {COLUMNS} from pgdiode.audit order by number desc limit {count}");
    session.query(&sql).await.map_err(unreadable)?.iter().rev().map(record).collect()
}

/// Checks an export, one JSON object a line.
pub fn verify_export(lines: impl BufRead, known: impl IntoIterator<Item = Head>) -> Result<Report> {
    let mut chain = Chain::new(known);
    for (index, line) in lines.lines().enumerate() {
        let number = index + 1;
        let line =
            line.map_err(|error| Error::config(format!("line {number}: cannot be read")).because(error))?;
        let record: Record = serde_json::from_str(&line).map_err(|error| {
            Error::config(format!("line {number} is no entry of an audit log"))
                .because(error)
                .hint("name a file that `pgdiode audit export` wrote")
        })?;
        if !chain.takes(&record) {
            break;
        }
    }
    Ok(chain.report())
}

/// Reads under one snapshot, a page at a time, until `go_on` says no; what stands before the first entry is looked at
/// with it.
async fn read(
    session: &mut Session,
    first: i64,
    mut go_on: impl FnMut(Record) -> Result<bool>,
) -> Result<()> {
    let part = if first > 1 { format!("where number >= {first}") } else { String::new() };
    let begin = format!(
        "begin isolation level repeatable read read only; declare pgdiode_audit no scroll cursor for
         select {COLUMNS} from pgdiode.audit {part} order by number nulls first, hash"
    );
    session.query(&begin).await.map_err(unreadable)?;
    let fetch = format!("fetch {PAGE} from pgdiode_audit");
    'pages: loop {
        let rows = session.query(&fetch).await?;
        for row in &rows {
            if !go_on(record(row)?)? {
                break 'pages;
            }
        }
        if rows.len() < PAGE as usize {
            break;
        }
    }
    session.query("rollback").await.map(drop)
}

/// Whatever stands in the table: what pgdiode did not write must be seen, not fail here.
fn record(row: &Row) -> Result<Record> {
    Ok(Record {
        number: row.optional(0)?.unwrap_or(0),
        at: row.string(1),
        pipeline: row.string(2),
        os_user: row.string(3),
        host: row.string(4),
        role: row.string(5),
        action: row.string(6),
        reason: row.text(7).map(str::to_owned),
        verdict: row.string(8),
        details: raw(row.text(9).unwrap_or("null").to_owned())?,
        previous_hash: row.string(10),
        hash: row.string(11),
    })
}

fn raw(json: String) -> Result<Box<RawValue>> {
    RawValue::from_string(json)
        .map_err(|error| Error::unexpected("the details of an audit entry are no JSON").because(error))
}

fn no_log() -> Error {
    Error::refused("the target has no audit log").hint("`pgdiode setup` creates it")
}

fn unreadable(error: Error) -> Error {
    match error.sqlstate() {
        Some("42501") => error
            .with_kind(Kind::Refused)
            .hint("as the owner of the log: grant usage on schema pgdiode, and select on pgdiode.audit, to this user"),
        _ => error,
    }
}

/// The account that owns this process: `USER` and its like can be set by anybody.
pub fn os_user() -> String {
    let Ok(process) = std::fs::metadata("/proc/self") else { return "unknown".into() };
    let uid = process.uid().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let account = accounts
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find_map(|fields| fields.get(2).is_some_and(|field| *field == uid).then(|| fields[0].to_owned()));
    account.unwrap_or_else(|| format!("uid {uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_checked_without_a_server() {
        let line = |number: i64, previous_hash: &str| {
            let details = raw(r#"{"exact": 1.00000000000000000001}"#.to_owned()).unwrap();
            let text = |text: &str| text.to_owned();
            let mut record = Record {
                number,
                at: text("2026-01-02T03:04:05.678901Z"),
                pipeline: text("main"),
                os_user: text("ops"),
                host: text("h"),
                role: text("r"),
                action: text("setup"),
                reason: None,
                verdict: text("done"),
                details,
                previous_hash: text(previous_hash),
                hash: String::new(),
            };
            record.hash = record.computed_hash();
            (serde_json::to_string(&record).unwrap(), record.hash)
        };
        let (first, hash) = line(1, chain::NO_HASH);
        let (second, _) = line(2, &hash);
        let check = |text: &str| verify_export(text.as_bytes(), None);
        let whole = format!("{first}\n{second}\n");
        assert!(check(&whole).unwrap().intact);
        let edited = whole.replacen("1.00000000000000000001", "1.00000000000000000002", 1);
        assert_eq!(check(&edited).unwrap().broken.unwrap().damage, Damage::Edited);
        assert_eq!(check(&second).unwrap().broken.unwrap().damage, Damage::Missing);
        for text in ["{}\n", &whole[..whole.len() - 9], &whole.replace("\"host\"", "\"ghost\"")] {
            assert_eq!(check(text).unwrap_err().kind(), Kind::Config, "{text}");
        }
    }

    #[test]
    fn what_a_target_that_is_there_refuses_ends_with_9() {
        let refused = |kind, sqlstate| unwritable(Error::new(kind, "x").with_sqlstate(sqlstate)).kind();
        for (kind, sqlstate) in [
            (Kind::Unexpected, "42501"),
            (Kind::Unexpected, "25006"),
            (Kind::Capacity, "53100"),
            (Kind::TargetUnreachable, "55P03"),
        ] {
            assert_eq!(refused(kind, sqlstate).exit_status(), 9, "{sqlstate}");
        }
        assert_eq!(refused(Kind::TargetUnreachable, "57P01"), Kind::TargetUnreachable);
        let broke = unwritable(Error::new(Kind::TargetUnreachable, "the connection broke"));
        assert_eq!(broke.kind(), Kind::TargetUnreachable);
    }
}
