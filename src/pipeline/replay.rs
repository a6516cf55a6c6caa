//! A run from an archive: fill what is missing from a base, catch up with what is behind, then apply file after file;
//! again after a broken connection.
//!
//! ```text
//! attempt:  lock -> whose archive? -> fill what is pending -> passes -> apply ... -> pause -> (again, to fill)
//!                                                                          \-> broken -> backoff -> again
//! ```
//!
//! Positions are the origin's, so that plan, pump and target are those of every other run. What differs: a base is never
//! younger than the position, as a snapshot is, but most often older. A table that is filled while the others have gone
//! on is `copied` as of the base, and a pass (`pass.rs`) applies the files up to the pipeline's position to it alone.
//! The pass has a position of its own, which commits with the rows; then the table joins the others.
//!
//! In `pgdiode.relation` a table that was filled from an archive has `carried_by`, the pass that it is in, and `options`,
//! `created` while what the base's schema has for it beside keys and indexes is still to be made.

mod attempt;
mod base;
mod control;
mod desk;
mod filling;
mod foreign;
mod ledger;
mod metrics;
mod pass;
mod periods;
mod report;
mod schema;
mod shapes;
mod stored;
mod verbs;
mod watch;
mod whitelist;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::{Sender, channel};
use tokio::time::Instant;

use crate::audit::Action;
use crate::audit::Journal;
use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::pipeline::backoff::{Backoff, Failed};
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::lifecycle::{self, Told, until_details};
use crate::pipeline::meter::Meter;
use crate::status::{Phase, Progress, StopReason, Stopped, Until};

pub use control::missing as missing_control_tables;
pub(super) use desk::spool;
pub use report::{status, syncdata_status};
pub use verbs::{add, clear, clear_plan, list, remove, reset, reset_plan, resync};
pub use whitelist::read as whitelisted;

/// Runs the pipeline until it is asked to stop, has reached `until`, or fails.
pub async fn run(
    pipeline: &Pipeline,
    until: Until,
    progress: Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Stopped> {
    let end = TargetEnd::resolve(pipeline)?;
    let listed = if pipeline.is_whitelisted {
        Some(whitelist::narrowed(pipeline, &mut end.session().await?).await?)
    } else {
        None
    };
    let pipeline = listed.as_ref().unwrap_or(pipeline);
    let details = until_details(until);
    let journal = Journal::begin(&mut end.session().await?, pipeline, Action::Start, None, details).await?;
    let ended = work(pipeline, end.clone(), until, progress, stop).await;
    lifecycle::conclude(journal, ended, async || end.session().await).await
}

async fn work(
    pipeline: &Pipeline,
    end: TargetEnd,
    until: Until,
    progress: Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Stopped> {
    let meter = Arc::new(Meter::default());
    let stop_reason = channel(None).0;
    let mut replay = Replay {
        pipeline,
        end,
        meter: Arc::clone(&meter),
        until,
        stop: stop_reason.clone(),
        reached_files: None,
        was_open: false,
        retries: 0,
    };
    let work = replay.until_ended();
    lifecycle::watched(work, &meter, progress, &stop_reason, stop).await
}

struct Replay<'a> {
    pipeline: &'a Pipeline,
    end: TargetEnd,
    meter: Arc<Meter>,
    until: Until,
    stop: Sender<Option<StopReason>>,
    /// When the current attempt began to apply files.
    reached_files: Option<Instant>,
    /// Whether the archive has been there in this run.
    was_open: bool,
    /// Failed attempts since one that applied files for a while.
    retries: u64,
}

/// How an attempt ended without an error.
enum Attempted {
    Stopped(Stopped),
    /// Something must be filled: again from the top.
    Again,
}

impl Replay<'_> {
    async fn until_ended(&mut self) -> Result<Stopped> {
        let mut backoff = Backoff::new(&self.pipeline.retry);
        loop {
            self.reached_files = None;
            let error = match Box::pin(self.attempt()).await {
                Ok(Attempted::Stopped(stopped)) => {
                    self.store_phase(Phase::Stopped, None, None).await;
                    return Ok(stopped);
                }
                Ok(Attempted::Again) => continue,
                Err(error) => error,
            };
            let failed = Failed {
                streamed: self.reached_files.map(|since| since.elapsed()),
                nothing_worked: self.meter.progress(0).phase == Phase::New,
                is_over: self.stop.borrow().is_some(),
            };
            let waits = backoff.wait(error, &failed);
            self.retries = backoff.retries;
            let (error, wait) = match waits {
                Ok(waits) => waits,
                Err(error) => {
                    self.store_phase(Phase::Failed, Some(&error), None).await;
                    ledger::failed(&self.end, self.pipeline, &error).await;
                    return Err(error);
                }
            };
            self.meter.phase(Phase::Retrying, error.what());
            self.store_phase(Phase::Retrying, Some(&error), Some(wait)).await;
            let rest = tokio::time::sleep(wait);
            if let Some(reason) = lifecycle::pause(rest, &self.stop, self.requested_to_stop()).await {
                self.store_phase(Phase::Stopped, None, None).await;
                return Ok(self.stopped(reason));
            }
            self.meter.phase(Phase::Retrying, "connecting");
        }
    }

    fn stopped(&self, reason: StopReason) -> Stopped {
        Stopped { reason, position: self.meter.progress(0).position }
    }

    async fn asked_to_stop(&self) -> StopReason {
        lifecycle::asked_to_stop(&self.stop).await
    }

    async fn requested_to_stop(&self) {
        lifecycle::requested_to_stop(async || self.end.session().await, &self.pipeline.name).await;
    }

    async fn store_phase(&self, phase: Phase, error: Option<&Error>, next_in: Option<Duration>) {
        let told = Told { phase, error, retries: self.retries, next_in };
        lifecycle::store_phase(async || self.end.session().await, &self.pipeline.name, told).await;
    }
}
