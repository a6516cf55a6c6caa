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
pub(super) mod verbs;
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
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::lifecycle::{self, Asked, Attempted, Attempts, until_details};
use crate::pipeline::meter::Meter;
use crate::status::{Progress, StopReason, Stopped, Until};

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
    };
    let work = lifecycle::until_ended(&mut replay);
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
}

impl Attempts for Replay<'_> {
    fn pipeline(&self) -> &Pipeline {
        self.pipeline
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn asked(&self) -> &Asked {
        &self.stop
    }

    async fn attempt(&mut self, retries: u64) -> Result<Attempted> {
        self.reached_files = None;
        Box::pin(self.one_attempt(retries)).await
    }

    fn streamed(&self) -> Option<Duration> {
        self.reached_files.map(|since| since.elapsed())
    }

    async fn connect(&self) -> Result<Session> {
        self.end.session().await
    }

    async fn failed(&self, error: &Error) {
        ledger::failed(&self.end, self.pipeline, error).await;
    }
}
