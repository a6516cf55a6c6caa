//! Full replacement that cannot hurt: a fresh copy of the source is made beside the database that serves, checked, and
//! put in its place by two renames in one transaction.
//!
//! ```text
//! lock -> clear up after killed runs -> shadow database -> copy -> refresh, analyze -> guards -> swap -> drop old ones
//!                                             \------------- any failure: the shadow is dropped, nothing else happened
//! ```
//!
//! Until the swap commits, the serving database is only read: a run that fails, is killed or loses a server leaves it as
//! it was. [`control`] holds what must outlive every swap.

mod answers;
mod audited;
mod by_schema;
mod capacity;
mod control;
mod counts;
mod discarded;
mod generation;
mod grants;
mod guards;
mod host;
mod leftovers;
mod orphans;
mod place;
mod preparation;
mod presence;
mod preserve;
mod redaction;
mod report;
mod rollback;
mod run;
mod scheduled;
mod shadow;
mod swap;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::audit::{Action, Journal};
use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::session::Session;
use crate::pipeline::meter::Meter;
use crate::snapshot::generation::Standing;
use crate::snapshot::place::Place;
use crate::snapshot::run::Sync;
use crate::source::postgres::stream::now_us;
use crate::status::Progress;
use crate::status::snapshot::Promoted;

pub use audited::audit_session;
pub use capacity::{Volume, volume};
pub use preparation::check;
pub use presence::stop;
pub use report::{generations, history, status};
pub use rollback::rollback;
pub use scheduled::{keep_schedule, refuse_unscheduled};

/// How often whoever watches is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// How long a run that was stopped may clear up after itself; the next one does it otherwise.
const CLEAR_UP_MAX: Duration = Duration::from_secs(8);

/// What the operator says about one sync.
#[derive(Debug, Clone, Default)]
pub struct SyncOptions {
    /// Why it is run, for the history.
    pub reason: Option<String>,
    /// Replace a database that no sync has made; it is kept as a generation.
    pub adopt: bool,
    /// Swap although tables have lost more rows than they may.
    pub accept_losses: bool,
    /// Only if no sync that began since has succeeded, by the schedule that has it run.
    pub due: Option<jiff::Timestamp>,
}

/// A session with the replica that serves; `None` where there is none yet.
pub async fn replica_session(pipeline: &Pipeline) -> Result<Option<Session>> {
    let place = Place::resolve(pipeline)?;
    place.session_if_there(&place.database).await
}

/// Makes the control database, where no sync has yet.
pub async fn prepare(pipeline: &Pipeline) -> Result<()> {
    presence::prepare(&Place::resolve(pipeline)?).await
}

/// Makes a fresh copy serve; `None` when `stop` was ready before it did.
pub async fn sync(
    pipeline: &Pipeline,
    options: &SyncOptions,
    progress: &watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Option<Promoted>> {
    host::recorded(pipeline, Box::pin(sync_alone(pipeline, options, progress, stop))).await
}

/// Syncs, by itself on this host.
async fn sync_alone(
    pipeline: &Pipeline,
    options: &SyncOptions,
    progress: &watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Option<Promoted>> {
    let mut stop = std::pin::pin!(stop);
    crate::pipeline::record::refuse_paused(pipeline).await?;
    let place = Place::resolve(pipeline)?;
    let opened = tokio::select! {
        opened = begin(&place, options) => opened?,
        () = &mut stop => return Ok(None),
    };
    let (control, run, standing, journal) = opened;
    let meter = Arc::new(Meter::default());
    let mut sync =
        Sync { place: &place, options, control, run, standing, journal: &journal, meter: Arc::clone(&meter) };
    let worked = tokio::select! {
        worked = sync.work() => worked.map(Some),
        () = tell(&place, run, &meter, progress) => unreachable!("it tells until it is dropped"),
        () = &mut stop => Ok(None),
    };
    // With its session goes whatever transaction was open, before anything else is said of the run.
    drop(sync);
    let (verdict, error) = match &worked {
        Ok(Some(_)) => return worked,
        Ok(None) => ("killed", &Error::unexpected("it was asked to stop")),
        Err(error) if error.kind() == Kind::Difference => ("not promoted", error),
        Err(error) => ("failed", error),
    };
    let cleared = tokio::time::timeout(CLEAR_UP_MAX, clear_up(&place, run, journal, verdict, error)).await;
    if !matches!(cleared, Ok(Ok(()))) {
        tracing::warn!(run, "the next sync clears up after this one");
    }
    worked
}

/// Refuses what must not be replaced, before anything is written; then takes the lock and notes the run.
async fn begin(place: &Place<'_>, options: &SyncOptions) -> Result<(Session, i64, Standing, Journal)> {
    if let Err(error) = look(place, options).await {
        if let Err(unnoted) = note_refusal(place, options, &error).await {
            tracing::warn!(
                error = unnoted.chain(),
                "the history does not say that this sync could not begin"
            );
        }
        return Err(error);
    }
    let mut control = control::open(place).await?;
    scheduled::refuse_done(&mut control, place, options.due).await?;
    leftovers::clear(&mut control, place).await?;
    // What was looked at without the lock may have changed.
    let standing = preparation::refuse_unsafe(place, options.adopt).await?;
    let run = control::begin(&mut control, place, "sync", options.reason.as_deref()).await?;
    let details = audited::asked(place, options);
    let reason = options.reason.as_deref();
    let journal = audited::begin(&mut control, place, run, Action::Sync, reason, details).await?;
    Ok((control, run, standing, journal))
}

/// What can be looked at before anything is written.
async fn look(place: &Place<'_>, options: &SyncOptions) -> Result<()> {
    preparation::refuse_unsafe(place, options.adopt).await?;
    if !control::exists(place).await? {
        // Otherwise it waits until what was left behind is cleared up.
        capacity::refuse_full_disk(place).await?;
    }
    Ok(())
}

/// A replica that is not renewed because its source cannot be reached must not look as if it were. Where there is no
/// control database yet, none is made. A configuration that is wrong is no sync.
async fn note_refusal(place: &Place<'_>, options: &SyncOptions, error: &Error) -> Result<()> {
    let is_no_sync = matches!(error.kind(), Kind::TargetUnreachable | Kind::Config);
    if is_no_sync || !control::exists(place).await? {
        return Ok(());
    }
    let mut control = control::open(place).await?;
    leftovers::clear(&mut control, place).await?;
    let reason = options.reason.as_deref();
    if control::failed_again(&mut control, place, reason, error).await? {
        return Ok(());
    }
    let run = control::begin(&mut control, place, "sync", reason).await?;
    control::end(&mut control, run, "failed", error).await.map(drop)
}

/// Says how a run ended that was not promoted, and drops its shadow.
async fn clear_up(place: &Place<'_>, run: i64, journal: Journal, verdict: &str, error: &Error) -> Result<()> {
    let mut session = place.session(&place.control).await?;
    if control::end(&mut session, run, verdict, error).await? {
        journal.fails(&mut session, verdict, error).await;
    }
    leftovers::drop_shadow(&mut session, run).await
}

/// Keeps those who watch and the run's row informed.
async fn tell(place: &Place<'_>, run: i64, meter: &Meter, progress: &watch::Sender<Progress>) {
    let mut session: Option<Session> = None;
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let now = meter.progress(now_us());
        let (rows, bytes) = (now.rows, now.bytes);
        // Nobody has to watch.
        let _ = progress.send(now);
        if session.is_none() {
            session = place.session(&place.control).await.ok();
        }
        let sql = format!(
            "update pgdiode.run set rows = {rows}, bytes = {bytes} where id = {run} and verdict = 'running'"
        );
        let told = match &mut session {
            Some(session) => session.query(&sql).await,
            None => continue,
        };
        if let Err(error) = told {
            tracing::debug!(error = error.chain(), "the progress could not be stored");
            session = None;
        }
    }
}
