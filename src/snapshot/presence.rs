//! Which processes keep a pipeline's schedule, and asking them to stop: both through the control database, wherever
//! they run.
//!
//! Each has a row there that it renews every few seconds. Between two syncs it holds no lock; one whose row has become
//! old has gone.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::holder::{parse, told};
use crate::snapshot::control;
use crate::snapshot::place::Place;
use crate::status::RunningOn;

const RENEW_EVERY: Duration = Duration::from_secs(2);
/// A process that has not renewed its row for so long has gone.
const ALIVE: &str = "seen > pg_catalog.clock_timestamp() - interval '30 seconds'";
/// How long a process may take over the end of its sync.
const STOP_PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(200);
/// A server that does not answer does not keep anybody from ending.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// Makes the control database where there is none yet; what a sync would refuse was refused before.
pub(super) async fn prepare(place: &Place<'_>) -> Result<()> {
    match control::open(place).await {
        Ok(_) => Ok(()),
        // Whoever syncs has made it.
        Err(error) if error.kind() == Kind::Locked => Ok(()),
        Err(error) => Err(error),
    }
}

/// Renews the row of the process that calls itself so, until somebody asks it to stop.
pub(super) async fn until_asked(place: &Place<'_>, ourselves: &str) {
    let mut session = None;
    loop {
        match renew(place, &mut session, ourselves).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(error = error.chain(), "the schedule's row could not be renewed");
                session = None;
            }
        }
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

/// Whether somebody wants it to stop.
async fn renew(place: &Place<'_>, session: &mut Option<Session>, ourselves: &str) -> Result<bool> {
    if session.is_none() {
        *session = place.session_if_there(&place.control).await?;
    }
    let Some(session) = session else { return Ok(false) };
    let sql = "insert into pgdiode.scheduler (target, runs_at) values ($1, $2)
               on conflict (target, runs_at) do update set seen = pg_catalog.clock_timestamp() returning stop_requested";
    let rows = session.query_with(sql, &[Some(&place.database), Some(ourselves)]).await?;
    Ok(rows.first().is_some_and(|row| row.bool(0)))
}

/// Takes the row away, and those that have long been nobody's. Without it, the row becomes old.
pub(super) async fn leave(place: &Place<'_>, ourselves: &str) {
    let gone = async {
        let Some(mut session) = place.session_if_there(&place.control).await? else { return Ok(()) };
        let sql = "delete from pgdiode.scheduler
                    where target = $1 and (runs_at = $2 or seen < pg_catalog.clock_timestamp() - interval '1 day')";
        session.query_with(sql, &[Some(&place.database), Some(ourselves)]).await.map(drop)
    };
    if let Ok(Err(error)) = tokio::time::timeout(LEAVE_MAX, gone).await {
        tracing::debug!(error = error.chain(), "the schedule's row stays");
    }
}

/// The processes that keep the schedule; asks the control database of this session.
pub(super) async fn keepers(session: &mut Session, target: &str) -> Result<Vec<RunningOn>> {
    if session.one("select pg_catalog.to_regclass('pgdiode.scheduler') is null").await?.bool(0) {
        return Ok(Vec::new());
    }
    let sql = format!("select runs_at from pgdiode.scheduler where target = $1 and {ALIVE} order by runs_at");
    let rows = session.query_with(&sql, &[Some(target)]).await?;
    Ok(rows.iter().filter_map(|row| parse(&row.string(0))).collect())
}

/// Asks whoever keeps the schedule to stop, and waits until they have; the first of them, `None` when there was none.
pub async fn stop(pipeline: &Pipeline) -> Result<Option<RunningOn>> {
    let place = Place::resolve(pipeline)?;
    let found = match place.session_if_there(&place.control).await? {
        Some(mut session) => {
            let keepers = keepers(&mut session, &place.database).await?;
            keepers.first().cloned().map(|first| (session, first))
        }
        None => None,
    };
    let Some((mut session, first)) = found else {
        if pipeline.snapshot.schedule.is_none() {
            let hint = "Send the process of the sync SIGTERM: pgdiode status names it.";
            pipeline.refuse_snapshot("stop", hint)?;
        }
        return Ok(None);
    };
    let target = quote::literal(&place.database);
    session
        .query(&format!("update pgdiode.scheduler set stop_requested = true where target = {target}"))
        .await?;
    let deadline = Instant::now() + STOP_PATIENCE;
    let asked = format!(
        "select runs_at from pgdiode.scheduler where target = {target} and stop_requested and {ALIVE}"
    );
    while let Some(row) = session.query(&asked).await?.first() {
        if Instant::now() > deadline {
            let still = parse(&row.string(0)).as_ref().map(told).unwrap_or_default();
            let what = format!("pipeline \"{}\" was asked to stop and still runs: {still}", pipeline.name);
            return Err(Error::new(Kind::Locked, what)
                .hint("ending that process (kill -9 too) leaves the replica that serves as it is"));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(Some(first))
}
