//! Has both sides' schemas compared: seldom, because it reads both catalogs whole; at once when somebody asks, and when
//! a replica has just become what it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Daemon;
use super::member::Member;
use crate::error::Result;
use crate::pipeline;
use crate::status::Phase;
use crate::status::fleet::State;

const COMPARE_EVERY: Duration = Duration::from_mins(10);
/// One that takes longer must not keep others from being asked.
const COMPARE_MAX: Duration = Duration::from_secs(20);

/// When what was compared last, for one sampler.
#[derive(Default)]
pub(super) struct Compared {
    at: Option<Instant>,
    /// Of what: the generation that serves, or 0 for a replica that follows.
    of: Option<i64>,
}

/// Whether somebody has asked for it.
#[derive(Default)]
pub(super) struct Ask(std::sync::atomic::AtomicBool);

impl Ask {
    fn ask(&self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.0.swap(false, std::sync::atomic::Ordering::Relaxed)
    }
}

/// Compares, where it is time.
pub(super) async fn compare(member: &Arc<Member>, compared: &mut Compared) {
    let Some(of) = member.with_state(comparable).flatten() else { return };
    let is_asked = member.compare.take();
    let is_new = compared.of != Some(of);
    let is_due = compared.at.is_none_or(|at| at.elapsed() >= COMPARE_EVERY);
    if !(is_asked || is_new || is_due) {
        return;
    }
    (compared.at, compared.of) = (Some(Instant::now()), Some(of));
    let work = Box::pin(pipeline::compare_schemas(&member.pipeline));
    match tokio::time::timeout(COMPARE_MAX, work).await {
        Ok(Ok(drift)) => member.has_schema_drift(drift),
        Ok(Err(error)) => {
            tracing::debug!(
                pipeline = member.pipeline.name,
                error = error.chain(),
                "its schemas are not compared"
            );
        }
        Err(_) => tracing::debug!(pipeline = member.pipeline.name, "comparing its schemas takes too long"),
    }
}

/// What can be compared now: not a replica that is being made.
fn comparable(state: &State) -> Option<i64> {
    match state {
        State::Stream(status) => {
            (!matches!(status.phase, Phase::New | Phase::Copying) && !status.tables.is_empty()).then_some(0)
        }
        State::Snapshot(status) => status.serving.as_ref().map(|serving| serving.number),
    }
}

impl Daemon {
    /// Has the schemas of a pipeline compared at once; what comes of it is in the fleet some time later.
    pub fn compare_schemas(&self, name: &str) -> Result<()> {
        let member = self.member(name)?;
        member.compare.ask();
        member.look.notify_one();
        Ok(())
    }
}
