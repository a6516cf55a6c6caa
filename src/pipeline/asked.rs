//! What was asked for through a door, kept where the audit log is: so that it can be asked after when the process that did
//! it is gone, and a request that is sent again after that does not do it twice.
//!
//! Whoever works on it holds an advisory lock for as long, on a session of its own. A row that says `running`, and whose lock
//! nobody holds, is of a process that was killed: whoever sees that writes so.

use super::record;
use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::session::{Row, Session};
use crate::status::fleet::{Run, RunState};

const CREATE: &str = "
create table if not exists pgdiode.asked (
    id text primary key,
    pipeline text not null,
    verb text not null,
    subject jsonb not null,
    door text not null,
    actor text not null,
    reason text,
    idempotency_key text unique,
    wanted text not null,
    state text not null,
    started_at timestamptz not null,
    ended_at timestamptz,
    seconds float8 not null default 0,
    error jsonb,
    result jsonb
);
comment on table pgdiode.asked is 'what was asked for through a door, and what came of it';
";

/// How long it is kept.
const KEPT: &str = "30 days";

/// How much of it a history has.
const LATEST_MAX: u32 = 500;

/// Held by whoever works on it.
const LOCK: &str =
    "select pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended('pgdiode asked ' || $1, 0))";

const INSERT: &str = "
    insert into pgdiode.asked (id, pipeline, verb, subject, door, actor, reason, idempotency_key, wanted, state, started_at)
    values ($1, $2, $3, $4::jsonb, $5, $6, $7, $8, $9, 'running', $10::timestamptz)
    on conflict (idempotency_key) do nothing returning id";

const COLUMNS: &str = "
    id, pipeline, verb, subject::text, door, actor, reason, state,
    pg_catalog.to_char(started_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
    pg_catalog.to_char(ended_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
    seconds, error::text, result::text, wanted";

/// Nobody works on it any more, and it has not ended.
const INTERRUPT: &str = "
    update pgdiode.asked set state = 'interrupted', ended_at = pg_catalog.clock_timestamp(),
           seconds = extract(epoch from pg_catalog.clock_timestamp() - started_at)
     where id = $1 and state = 'running'
       and pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended('pgdiode asked ' || $1, 0))";

/// What became of recording it.
pub enum Recorded {
    /// It is; the session holds its lock until it is dropped.
    New(Box<Session>),
    /// It was asked for before, with the same key: what that was, and which order it stood for.
    Known(Box<Run>, String),
    /// This pipeline has no place for it.
    Nowhere,
}

/// Records it before it begins. `wanted` tells two orders apart that came with one key.
pub async fn begin(pipeline: &Pipeline, run: &Run, key: Option<&str>, wanted: &str) -> Result<Recorded> {
    if !record::has_record(pipeline) {
        return Ok(Recorded::Nowhere);
    }
    let mut session = open(pipeline).await?;
    session.query_with(LOCK, &[Some(&run.id)]).await?;
    let subject = json(&run.subject)?;
    let values = [
        Some(run.id.as_str()),
        Some(&run.pipeline),
        Some(&run.verb),
        Some(&subject),
        Some(&run.by),
        Some(&run.actor),
        run.reason.as_deref(),
        key,
        Some(wanted),
        Some(&run.started_at),
    ];
    if session.query_with(INSERT, &values).await?.is_empty() {
        let sql = format!("select {COLUMNS} from pgdiode.asked where idempotency_key = $1");
        let rows = session.query_with(&sql, &[key]).await?;
        let row = rows.first().ok_or_else(|| Error::unexpected("what has this key is gone"))?;
        let (id, wanted) = (row.string(0), row.string(13));
        let known = read(&mut session, &id).await?;
        let known = known.ok_or_else(|| Error::unexpected("what has this key is gone"))?;
        return Ok(Recorded::Known(Box::new(known), wanted));
    }
    Ok(Recorded::New(Box::new(session)))
}

/// Records how it ended, by the session that holds its lock, or where that broke by another.
pub async fn end(pipeline: &Pipeline, session: &mut Session, run: &Run) -> Result<()> {
    if write_end(session, run).await.is_ok() {
        return Ok(());
    }
    write_end(&mut open(pipeline).await?, run).await
}

async fn write_end(session: &mut Session, run: &Run) -> Result<()> {
    let error = run.error.as_ref().map(json).transpose()?;
    let result = run.result.as_ref().map(json).transpose()?;
    let seconds = run.seconds.to_string();
    let values = [
        Some(run.id.as_str()),
        Some(word(run.state)),
        run.ended_at.as_deref(),
        Some(&seconds),
        error.as_deref(),
        result.as_deref(),
    ];
    let sql = "update pgdiode.asked set state = $2, ended_at = $3::timestamptz, seconds = $4::float8, error = $5::jsonb,
                      result = $6::jsonb where id = $1";
    session.query_with(sql, &values).await?;
    let sql = format!(
        "delete from pgdiode.asked where state <> 'running'
            and started_at < pg_catalog.clock_timestamp() - interval '{KEPT}'"
    );
    session.query(&sql).await.map(drop)
}

/// What was asked for by this id.
pub async fn find(pipeline: &Pipeline, id: &str) -> Result<Option<Run>> {
    let Some(mut session) = look(pipeline).await? else { return Ok(None) };
    let run = read(&mut session, id).await?;
    Ok(run.filter(|run| run.pipeline == pipeline.name))
}

/// What was asked for of a pipeline of late, the newest first.
pub async fn latest(pipeline: &Pipeline) -> Result<Vec<Run>> {
    let Some(mut session) = look(pipeline).await? else { return Ok(Vec::new()) };
    let running = "select id from pgdiode.asked where pipeline = $1 and state = 'running'";
    for row in session.query_with(running, &[Some(&pipeline.name)]).await? {
        session.query_with(INTERRUPT, &[Some(&row.string(0))]).await?;
    }
    let sql = format!(
        "select {COLUMNS} from pgdiode.asked where pipeline = $1 order by started_at desc limit {LATEST_MAX}"
    );
    session.query_with(&sql, &[Some(&pipeline.name)]).await?.iter().map(run).collect()
}

/// A session where it is kept; `None` where nothing was ever asked for.
async fn look(pipeline: &Pipeline) -> Result<Option<Session>> {
    if !record::has_record(pipeline) {
        return Ok(None);
    }
    let mut session = match super::audit_session(pipeline).await {
        Err(error) if error.kind() == Kind::Refused => return Ok(None),
        session => session?,
    };
    Ok(is_there(&mut session).await?.then_some(session))
}

async fn read(session: &mut Session, id: &str) -> Result<Option<Run>> {
    session.query_with(INTERRUPT, &[Some(id)]).await?;
    let sql = format!("select {COLUMNS} from pgdiode.asked where id = $1");
    session.query_with(&sql, &[Some(id)]).await?.first().map(run).transpose()
}

fn run(row: &Row) -> Result<Run> {
    Ok(Run {
        id: row.string(0),
        pipeline: row.string(1),
        verb: row.string(2),
        subject: parsed(&row.string(3))?,
        by: row.string(4),
        actor: row.string(5),
        reason: row.text(6).map(str::to_owned),
        state: state(&row.string(7)),
        started_at: row.string(8),
        ended_at: row.text(9).map(str::to_owned),
        seconds: row.get(10)?,
        progress: None,
        error: row.text(11).map(parsed).transpose()?,
        result: row.text(12).map(parsed).transpose()?,
        log: Vec::new(),
    })
}

async fn open(pipeline: &Pipeline) -> Result<Session> {
    let mut session = record::open(pipeline).await?;
    if !is_there(&mut session).await? {
        record::create(&mut session, CREATE).await?;
    }
    Ok(session)
}

async fn is_there(session: &mut Session) -> Result<bool> {
    Ok(session.one("select pg_catalog.to_regclass('pgdiode.asked') is not null").await?.bool(0))
}

const STATES: [RunState; 6] = [
    RunState::Running,
    RunState::Cancelling,
    RunState::Done,
    RunState::Failed,
    RunState::Cancelled,
    RunState::Interrupted,
];

fn word(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Cancelling => "cancelling",
        RunState::Done => "done",
        RunState::Failed => "failed",
        RunState::Cancelled => "cancelled",
        RunState::Interrupted => "interrupted",
    }
}

/// A word that a later version has written is of something that has ended somehow.
fn state(text: &str) -> RunState {
    STATES.into_iter().find(|state| word(*state) == text).unwrap_or(RunState::Interrupted)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::unexpected("what was asked for is no JSON").because(error))
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| Error::unexpected("pgdiode.asked does not hold what was written").because(error))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_state_is_read_as_it_is_written_and_as_the_api_says_it() {
        for is in STATES {
            assert_eq!(state(word(is)), is);
            assert_eq!(serde_json::to_value(is).unwrap(), Value::from(word(is)));
        }
        assert_eq!(state("postponed"), RunState::Interrupted);
    }
}
