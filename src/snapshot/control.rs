//! The control database: who syncs now, every run and every generation. It is never swapped, so that its history and its
//! lock survive each swap and each rollback, and that one transaction holds a swap and the record of it.
//!
//! - `pgdiode.run`: one row a sync or rollback. `running` without a holder of the lock means killed.
//! - `pgdiode.generation`: one row a copy, by number: serving, kept or dropped.
//! - `pgdiode.scheduler`: one row a process that keeps the schedule; see [`super::presence`].

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::pg::advisory::AdvisoryLock;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::snapshot::place::Place;

/// A killed run's session at the server may take a moment to notice.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

const LAYOUT: &str = "
create schema if not exists pgdiode;
comment on schema pgdiode is 'state of pgdiode syncs; layout 1';
create sequence if not exists pgdiode.change;
create table if not exists pgdiode.run (
    id int8 generated always as identity primary key,
    target text not null,
    pipeline text not null,
    verb text not null,
    started timestamptz not null default clock_timestamp(),
    ended timestamptz,
    actor text not null,
    reason text,
    verdict text not null default 'running'
        check (verdict in ('running', 'done', 'failed', 'killed', 'not promoted')),
    phase text,
    error text,
    hint text,
    bytes int8,
    rows int8,
    source text,
    source_position pg_lsn,
    generation int8,
    shadow text,
    shadow_oid oid,
    schemas jsonb,
    tables jsonb,
    left_out jsonb,
    filled_xid int8,
    discarded jsonb,
    preserved jsonb,
    phases jsonb
);
create table if not exists pgdiode.generation (
    target text not null,
    number int8 not null,
    database text not null,
    database_oid oid not null,
    schemas jsonb,
    run int8,
    taken_at timestamptz,
    position pg_lsn,
    state text not null check (state in ('serving', 'kept', 'dropped')),
    changed int8 not null default nextval('pgdiode.change'),
    primary key (target, number)
);
create table if not exists pgdiode.scheduler (
    target text not null,
    runs_at text not null,
    seen timestamptz not null default clock_timestamp(),
    stop_requested bool not null default false,
    primary key (target, runs_at)
);
do $$
begin
    -- Made by an earlier version; an alter wants the owner and a lock even where it has nothing to do.
    if not exists (select from pg_catalog.pg_attribute
                    where attrelid = 'pgdiode.run'::pg_catalog.regclass and attname = 'phases') then
        alter table pgdiode.run add column phases jsonb;
    end if;
end
$$;
create unique index if not exists generation_serving on pgdiode.generation (target) where state = 'serving';
";

/// Whether there has ever been a sync: whoever only asks leaves nothing behind.
pub(super) async fn exists(place: &Place<'_>) -> Result<bool> {
    let Some(mut session) = place.session_if_there(&place.control).await? else { return Ok(false) };
    Ok(session.one("select pg_catalog.to_regclass('pgdiode.run') is not null").await?.bool(0))
}

/// The control session, which holds the lock as long as it lives.
pub(super) async fn open(place: &Place<'_>) -> Result<Session> {
    let mut session = match place.session_if_there(&place.control).await? {
        Some(session) => session,
        None => create(place).await?,
    };
    lock(&mut session, place).await?;
    session.query("set client_min_messages = warning").await?;
    session.query(LAYOUT).await?;
    Ok(session)
}

async fn create(place: &Place<'_>) -> Result<Session> {
    let name = quote::identifier(&place.control);
    let sql = format!("create database {name} template template0 encoding 'UTF8'");
    let made = place.server().await?.query(&sql).await;
    if let Err(error) = made {
        return Err(match error.sqlstate() {
            // Somebody else's sync was a moment faster.
            Some("42P04" | "23505") => return place.session(&place.control).await,
            Some("42501") => error.with_kind(Kind::Refused).hint(format!(
                "The target's user must be able to create databases: alter role {} createdb",
                quote::identifier(&place.ends.target.user)
            )),
            _ => error,
        });
    }
    place.session(&place.control).await
}

fn lock_of(place: &Place<'_>) -> AdvisoryLock {
    AdvisoryLock::named(&format!("pgdiode sync of {}", place.database))
}

/// Takes the lock: at most one sync of a target at any time.
async fn lock(session: &mut Session, place: &Place<'_>) -> Result<()> {
    if lock_of(place).take(session, LOCK_PATIENCE).await? {
        return Ok(());
    }
    let holder = holder(session, place).await?.unwrap_or_default();
    Err(Error::new(Kind::Locked, format!("a sync of \"{}\" is running already{holder}", place.database))
        .hint("Wait for it: pgdiode status shows how far it is. To stop it, send its process SIGTERM."))
}

/// `: WHO since WHEN (...)` of whoever holds the lock.
pub(super) async fn holder(session: &mut Session, place: &Place<'_>) -> Result<Option<String>> {
    let Some(holder) = lock_of(place).holder(session).await? else { return Ok(None) };
    let mut who = format!("somebody since {}", holder.since);
    if session.one("select pg_catalog.to_regclass('pgdiode.run') is not null").await?.bool(0) {
        let sql = "select actor || ' since ' || pg_catalog.to_char(started at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
                     from pgdiode.run where target = $1 and verdict = 'running' order by id desc limit 1";
        if let Some(row) = session.query_with(sql, &[Some(&place.database)]).await?.first() {
            who = row.string(0);
        }
    }
    Ok(Some(format!(": {who} (backend {} at the target)", holder.backend)))
}

/// Says that a run has begun; its number.
pub(super) async fn begin(
    session: &mut Session,
    place: &Place<'_>,
    verb: &str,
    reason: Option<&str>,
) -> Result<i64> {
    let actor = crate::audit::actor();
    let rows = session
        .query_with(
            "insert into pgdiode.run (target, pipeline, verb, actor, reason, source, phase)
             values ($1, $2, $3, $4, $5, $6, 'starting') returning id",
            &[
                Some(&place.database),
                Some(&place.pipeline.name),
                Some(verb),
                Some(&actor),
                reason,
                Some(&place.ends.source.display()),
            ],
        )
        .await?;
    rows.first().ok_or_else(|| Error::unexpected("the run was not noted"))?.get(0)
}

/// Whether the last run could not begin for the same reason and error, as when one due time is tried again and again:
/// then it has only gone on until now.
pub(super) async fn failed_again(
    session: &mut Session,
    place: &Place<'_>,
    reason: Option<&str>,
    error: &Error,
) -> Result<bool> {
    let sql = "update pgdiode.run set ended = clock_timestamp()
                where id = (select max(id) from pgdiode.run where target = $1) and verdict = 'failed'
                  and phase = 'starting' and error = $2 and reason = $3 returning id";
    let rows = session.query_with(sql, &[Some(&place.database), Some(&error.chain()), reason]).await?;
    Ok(!rows.is_empty())
}

/// How a run ended that was not promoted. A run whose swap was committed stays done: then false.
pub(super) async fn end(session: &mut Session, run: i64, verdict: &str, error: &Error) -> Result<bool> {
    let rows = session
        .query_with(
            "update pgdiode.run set verdict = $2, ended = clock_timestamp(), error = $3, hint = $4
              where id = $1::int8 and verdict = 'running' returning id",
            &[Some(&run.to_string()), Some(verdict), Some(&error.chain()), error.hint_text()],
        )
        .await?;
    Ok(!rows.is_empty())
}
