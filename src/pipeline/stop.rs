//! Asking whoever works on a pipeline to stop, through the target: wherever that process runs.
//!
//! Between two attempts it holds no lock, and is known by what it wrote there.

use std::time::Duration;

use serde_json::Map;
use tokio::time::Instant;

use crate::audit::{Action, Journal};
use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::holder::{holder, parse, told};
use crate::pipeline::step::has_control_schema;
use crate::status::RunningOn;

/// How long a process may take over its last commit.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(100);

pub(super) async fn stop(pipeline: &Pipeline) -> Result<Option<RunningOn>> {
    let mut target = TargetEnd::resolve(pipeline)?.session().await?;
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
                    "pipeline \"{}\" was asked to stop and still runs after {} seconds: {}",
                    pipeline.name,
                    PATIENCE.as_secs(),
                    told(&still)
                ),
            )
            .hint(
                "it stops after its present transaction; ending that process (kill -9 too) loses nothing",
            ));
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
