//! Who works on a pipeline, and asking them to stop.
//!
//! Both go through the target: the process that works on a pipeline holds its advisory lock there, wherever it runs.
//! Between two attempts it holds none, and is known by what it wrote there.

use std::time::Duration;

use serde_json::Map;
use tokio::time::Instant;

use crate::audit::{Action, Journal};
use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::{Ends, lock_key};
use crate::pipeline::step::has_control_schema;
use crate::status::RunningOn;

/// How long a process may take over its last commit.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(100);

pub(super) async fn stop(pipeline: &Pipeline) -> Result<Option<RunningOn>> {
    let ends = Ends::resolve(pipeline)?;
    let mut target = ends.target().await?;
    let Some(running) = at_work(&mut target, &pipeline.name).await? else { return Ok(None) };
    let journal = Journal::begin(&mut target, pipeline, Action::Stop, None, Map::new()).await?;
    let done = end(&mut target, pipeline, &running).await;
    journal.conclude(&mut target, done).await?;
    Ok(Some(running))
}

/// Asks the run to end and waits until it has.
async fn end(target: &mut Session, pipeline: &Pipeline, running: &RunningOn) -> Result<()> {
    target
        .query_with(
            "update pgdiode.pipeline set stop_requested = true where name = $1",
            &[Some(&pipeline.name)],
        )
        .await?;
    let deadline = Instant::now() + PATIENCE;
    while let Some(still) = at_work(target, &pipeline.name).await? {
        // Somebody started it again meanwhile: what was asked to stop has stopped.
        if still.process_id != running.process_id || still.host != running.host {
            break;
        }
        if Instant::now() > deadline {
            return Err(Error::new(
                Kind::Locked,
                format!(
                    "pipeline \"{}\" was asked to stop and still runs after {} seconds: process {} on {}, since {}",
                    pipeline.name,
                    PATIENCE.as_secs(),
                    still.process_id,
                    still.host,
                    still.since
                ),
            )
            .hint("it stops after its present transaction; ending that process (kill -9 too) loses nothing"));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Who works on the pipeline, or waits for the next attempt at it.
async fn at_work(target: &mut Session, pipeline: &str) -> Result<Option<RunningOn>> {
    if let Some(running) = holder(target, pipeline).await? {
        return Ok(Some(running));
    }
    if !has_control_schema(target).await? {
        return Ok(None);
    }
    // One that was killed while it waited is told by the time of its next attempt, which it let pass.
    let waiting = "select runs_at from pgdiode.pipeline
        where name = $1 and phase = 'retrying' and retry_at > pg_catalog.now() - interval '1 minute'";
    let rows = target.query_with(waiting, &[Some(pipeline)]).await?;
    Ok(rows.first().and_then(|row| row.text(0)).and_then(parse))
}

/// Whether somebody wants the run to stop.
pub(super) async fn is_requested(target: &mut Session, pipeline: &str) -> Result<bool> {
    let sql = "select stop_requested from pgdiode.pipeline where name = $1";
    let rows = target.query_with(sql, &[Some(pipeline)]).await?;
    Ok(rows.first().is_some_and(|row| row.bool(0)))
}

/// Who holds the pipeline's lock; works without a control schema too.
pub(super) async fn holder(target: &mut Session, pipeline: &str) -> Result<Option<RunningOn>> {
    let runs_at = if has_control_schema(target).await? {
        format!("(select runs_at from pgdiode.pipeline where name = {})", quote::literal(pipeline))
    } else {
        "null::text".to_owned()
    };
    let rows = target
        .query(&format!(
            "select {runs_at}, coalesce(pg_catalog.host(a.client_addr), 'the target''s own machine'), l.pid,
                    pg_catalog.to_char(coalesce(a.backend_start, pg_catalog.now()) at time zone 'UTC',
                                       'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
               from pg_catalog.pg_locks l
               left join pg_catalog.pg_stat_activity a on a.pid = l.pid
              where l.locktype = 'advisory' and l.granted and l.objsubid = 1
                and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
                and (l.classid::int8 << 32) | l.objid::int8 = {}",
            lock_key(pipeline)
        ))
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if let Some(running) = row.text(0).and_then(parse) {
        return Ok(Some(running));
    }
    Ok(Some(RunningOn { host: row.string(1), process_id: row.get(2)?, since: row.string(3) }))
}

/// `HOST PID RFC3339`, as the run writes it.
pub(super) fn parse(runs_at: &str) -> Option<RunningOn> {
    let mut words = runs_at.rsplitn(3, ' ');
    let (since, process_id, host) = (words.next()?, words.next()?, words.next()?);
    Some(RunningOn { host: host.to_owned(), process_id: process_id.parse().ok()?, since: since.to_owned() })
}

/// Refuses what must not happen under a running pipeline.
pub(super) async fn refuse_running(target: &mut Session, pipeline: &str) -> Result<()> {
    match holder(target, pipeline).await? {
        None => Ok(()),
        Some(running) => Err(Error::new(
            Kind::Locked,
            format!(
                "pipeline \"{pipeline}\" is running: process {} on {} since {}",
                running.process_id, running.host, running.since
            ),
        )
        .hint("stop it first: pgdiode stop")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_writes_of_itself_is_read() {
        let running = parse("mirror-0 4711 2026-01-02T03:04:05Z").unwrap();
        assert_eq!((running.host.as_str(), running.process_id), ("mirror-0", 4711));
        assert_eq!(running.since, "2026-01-02T03:04:05Z");
        assert_eq!(parse("a host 1 x").unwrap().host, "a host");
        for text in ["", "host", "host 1", "host x 2026-01-02T03:04:05Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
