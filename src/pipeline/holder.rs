//! Who runs a pipeline: one process at most, wherever it is.
//!
//! It holds an advisory lock in the target, on the session that writes the rows, and loses it with that connection. What
//! it has written there about itself says who it is.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::pg::advisory::AdvisoryLock;
use crate::pg::session::Session;
use crate::pipeline::step::has_control_schema;
use crate::status::RunningOn;

/// A killed run's session at the server may take a moment to notice.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

pub fn lock_of(pipeline: &str) -> AdvisoryLock {
    AdvisoryLock::named(&format!("pgdiode pipeline {pipeline}"))
}

/// Takes the pipeline's lock on a session of the target, for as long as that lives.
pub(super) async fn lock(session: &mut Session, pipeline: &str) -> Result<()> {
    if lock_of(pipeline).take(session, LOCK_PATIENCE).await? {
        return Ok(());
    }
    let by =
        holder(session, pipeline).await?.map_or_else(String::new, |running| format!(": {}", told(&running)));
    Err(Error::new(Kind::Locked, format!("pipeline \"{pipeline}\" is running already{by}"))
        .hint("Stop it with: pgdiode stop. Its state: pgdiode status."))
}

/// Who holds the pipeline's lock; works without a control schema too.
pub async fn holder(target: &mut Session, pipeline: &str) -> Result<Option<RunningOn>> {
    let Some(holder) = lock_of(pipeline).holder(target).await? else { return Ok(None) };
    if has_control_schema(target).await? {
        let sql = "select runs_at from pgdiode.pipeline where name = $1";
        let rows = target.query_with(sql, &[Some(pipeline)]).await?;
        if let Some(running) = rows.first().and_then(|row| row.text(0)).and_then(parse) {
            return Ok(Some(running));
        }
    }
    Ok(Some(RunningOn { host: holder.host, process_id: holder.backend, since: holder.since }))
}

/// Refuses what must not happen under a running pipeline.
pub(super) async fn refuse_running(target: &mut Session, pipeline: &str) -> Result<()> {
    match holder(target, pipeline).await? {
        None => Ok(()),
        Some(running) => {
            Err(Error::new(Kind::Locked, format!("pipeline \"{pipeline}\" is running: {}", told(&running)))
                .hint("stop it first: pgdiode stop"))
        }
    }
}

pub(crate) fn told(running: &RunningOn) -> String {
    format!("process {} on {} since {}", running.process_id, running.host, running.since)
}

/// What a run writes of itself, for [`parse`].
pub(crate) fn ourselves() -> String {
    let since = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    format!("{} {} {since}", crate::lock::host_name(), std::process::id())
}

/// `HOST PID RFC3339`, as the run writes it.
pub(crate) fn parse(runs_at: &str) -> Option<RunningOn> {
    let mut words = runs_at.rsplitn(3, ' ');
    let (since, process_id, host) = (words.next()?, words.next()?, words.next()?);
    Some(RunningOn { host: host.to_owned(), process_id: process_id.parse().ok()?, since: since.to_owned() })
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
        assert_eq!(parse(&ourselves()).unwrap().process_id, std::process::id());
        for text in ["", "host", "host 1", "host x 2026-01-02T03:04:05Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
