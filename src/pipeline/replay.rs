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
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pipeline::backoff::{Backoff, Failed};
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::meter::Meter;
use crate::pipeline::monitor::phase_word;
use crate::pipeline::run::{stopped_details, until_details};
use crate::pipeline::stop;
use crate::source::postgres::stream::now_us;
use crate::status::{Phase, Progress, StopReason, Stopped, Until};

pub use report::{status, syncdata_status};
pub use verbs::{add, clear, clear_plan, list, remove, reset, reset_plan, resync};

/// How soon a wish is heard between two attempts.
const LISTEN_INTERVAL: Duration = Duration::from_millis(250);
/// How long a run that has ended tries to reach the audit log.
const AUDIT_PATIENCE: Duration = Duration::from_secs(10);
/// How often whoever watches is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

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
    // A run outlasts many a connection; a target that does not answer must not keep it from ending.
    let Ok(connected) = tokio::time::timeout(AUDIT_PATIENCE, end.session()).await else {
        let error = Error::new(Kind::TargetUnreachable, "the target does not answer");
        return journal.conclude_without(ended, error);
    };
    match connected {
        Ok(mut target) => journal.conclude_with(&mut target, ended, stopped_details).await,
        Err(error) => journal.conclude_without(ended, error),
    }
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
    tokio::pin!(work, stop);
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            ended = &mut work => return ended,
            () = &mut stop, if stop_reason.borrow().is_none() => {
                stop_reason.send_replace(Some(StopReason::Signal));
            }
            _ = ticks.tick() => {
                // Nobody has to watch.
                let _ = progress.send(meter.progress(now_us()));
            }
        }
    }
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
            if let Some(reason) = self.pause(&error, wait).await {
                self.store_phase(Phase::Stopped, None, None).await;
                return Ok(self.stopped(reason));
            }
        }
    }

    /// Waits for the next attempt; or why there is to be none.
    async fn pause(&self, error: &Error, wait: Duration) -> Option<StopReason> {
        self.meter.phase(Phase::Retrying, error.what());
        self.store_phase(Phase::Retrying, Some(error), Some(wait)).await;
        tokio::select! {
            () = tokio::time::sleep(wait) => {
                self.meter.phase(Phase::Retrying, "connecting");
                None
            }
            reason = self.asked_to_stop() => Some(reason),
            () = self.requested_to_stop() => Some(StopReason::Asked),
        }
    }

    fn stopped(&self, reason: StopReason) -> Stopped {
        Stopped { reason, position: self.meter.progress(0).position }
    }

    /// Waits until somebody wants the run to end.
    async fn asked_to_stop(&self) -> StopReason {
        let mut stop = self.stop.subscribe();
        match stop.wait_for(Option::is_some).await.map(|reason| *reason) {
            Ok(Some(reason)) => reason,
            // We hold a sender ourselves: it cannot be gone.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Waits until `pgdiode stop` asks for it, as far as the target can be reached: between two attempts nobody listens.
    async fn requested_to_stop(&self) {
        loop {
            if let Ok(mut target) = self.end.session().await {
                while let Ok(requested) = stop::is_requested(&mut target, &self.pipeline.name).await {
                    if requested {
                        return;
                    }
                    tokio::time::sleep(LISTEN_INTERVAL).await;
                }
            }
            tokio::time::sleep(LISTEN_INTERVAL).await;
        }
    }

    /// Best effort: the target may be what failed.
    async fn store_phase(&self, phase: Phase, error: Option<&Error>, next_in: Option<Duration>) {
        let text = |text: Option<&str>| text.map_or_else(|| "null".to_owned(), quote::literal);
        let retry_at = next_in.map_or_else(
            || "null".to_owned(),
            |wait| format!("pg_catalog.now() + interval '{} milliseconds'", wait.as_millis()),
        );
        let sql = format!(
            "update pgdiode.pipeline set phase = {}, error = {}, hint = {}, retries = {}, retry_at = {retry_at}, doing = {},
                    updated_at = pg_catalog.now()
              where name = {}",
            quote::literal(phase_word(phase)),
            text(error.map(Error::chain).as_deref()),
            text(error.and_then(Error::hint_text)),
            if error.is_some() { self.retries } else { 0 },
            text(next_in.map(|_| "waiting for the next attempt")),
            quote::literal(&self.pipeline.name)
        );
        let stored = async { self.end.session().await?.query(&sql).await };
        if let Err(error) = stored.await {
            tracing::debug!(error = error.chain(), "the phase could not be stored");
        }
    }
}
