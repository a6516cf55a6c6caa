//! `pgdiode start` of a snapshot pipeline: a sync at each time of its schedule.
//!
//! A due time is done when a sync has begun since and succeeded, whoever ran it: so several processes may keep one
//! schedule, and one that was down knows whether it has missed anything.

use jiff::Timestamp;
use tokio::sync::watch;

use super::{SyncOptions, sync};
use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::holder::ourselves;
use crate::schedule::keeping::{self, Clock, WallClock};
use crate::schedule::{Schedule, Timetable, utc};
use crate::snapshot::place::Place;
use crate::snapshot::{preparation, presence};
use crate::status::{Progress, StopReason, Stopped};

/// Refuses a pipeline without a schedule.
pub fn refuse_unscheduled(pipeline: &Pipeline) -> Result<()> {
    schedule_of(pipeline).map(drop)
}

fn schedule_of(pipeline: &Pipeline) -> Result<Schedule> {
    pipeline.schedule()?.ok_or_else(|| {
        let what =
            format!("pipeline \"{}\" has mode = \"snapshot\" and no schedule to be started", pipeline.name);
        Error::config(what).hint("Run pgdiode sync, from cron or a timer, or set snapshot.schedule.")
    })
}

/// Syncs at each due time, until `stop` is ready or somebody asks for it through the target.
pub async fn keep_schedule(
    pipeline: &Pipeline,
    progress: &watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Stopped> {
    let schedule = schedule_of(pipeline)?;
    let place = Place::resolve(pipeline)?;
    let mut stop = std::pin::pin!(stop);
    let prepared = tokio::select! {
        prepared = prepare(&place) => prepared,
        () = &mut stop => return Ok(Stopped { reason: StopReason::Signal, position: None }),
    };
    match prepared {
        // What cannot be reached now may be when a sync is due.
        Err(error) if error.retries() => tracing::warn!("{}", error.chain()),
        prepared => prepared?,
    }
    let now = WallClock.now();
    let timetable = if pipeline.snapshot.catch_up {
        Timetable::from_the_last(schedule, now)
    } else {
        Timetable::from(schedule, now)
    };
    if let Some(next) = timetable.next(now) {
        tracing::info!("keeping the schedule; the next sync is due at {}", utc(next));
    }
    let name = ourselves();
    let (ask, asked) = watch::channel(false);
    let kept = keeping::keep(timetable, &pipeline.retry, &WallClock, asked.clone(), async |due| {
        Box::pin(work(&place, due, progress, asked.clone())).await
    });
    let told = async {
        let reason = tokio::select! {
            () = stop => StopReason::Signal,
            () = presence::until_asked(&place, &name) => StopReason::Asked,
        };
        ask.send_replace(true);
        reason
    };
    let (mut kept, mut told) = (std::pin::pin!(kept), std::pin::pin!(told));
    let mut reason = None;
    let ended = loop {
        tokio::select! {
            ended = &mut kept => break ended,
            told = &mut told, if reason.is_none() => reason = Some(told),
        }
    };
    presence::leave(&place, &name).await;
    ended.map(|()| Stopped { reason: reason.unwrap_or(StopReason::Signal), position: None })
}

/// Finds at the start what would be refused each time, and makes the control database.
async fn prepare(place: &Place<'_>) -> Result<()> {
    preparation::refuse_unsafe(place, false).await?;
    presence::prepare(place).await
}

/// One due time.
async fn work(
    place: &Place<'_>,
    due: Timestamp,
    progress: &watch::Sender<Progress>,
    mut asked: watch::Receiver<bool>,
) -> Result<()> {
    let stop = async {
        // A dropped sender is no reason to stop.
        if asked.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let mut stop = std::pin::pin!(stop);
    let looked = async {
        // Without a control database there has been no sync.
        let Some(mut session) = place.session_if_there(&place.control).await? else { return Ok(()) };
        refuse_done(&mut session, place, Some(due)).await
    };
    tokio::select! {
        looked = looked => looked?,
        () = &mut stop => return Ok(()),
    }
    let reason = Some(format!("scheduled, due at {}", utc(due)));
    let options = SyncOptions { reason, due: Some(due), ..SyncOptions::default() };
    if let Some(promoted) = sync(place.pipeline, &options, progress, stop).await? {
        tracing::info!(run = promoted.run, "{}", promoted.text());
    }
    Ok(())
}

/// Refuses a sync whose due time is done: under the lock too, so that of two processes that keep the schedule one syncs.
/// Both ages are taken by one clock each: the target's and ours need not agree.
pub(super) async fn refuse_done(
    session: &mut Session,
    place: &Place<'_>,
    due: Option<Timestamp>,
) -> Result<()> {
    let Some(due) = due else { return Ok(()) };
    if session.one("select pg_catalog.to_regclass('pgdiode.run') is null").await?.bool(0) {
        return Ok(());
    }
    let passed = WallClock.now().duration_since(due).as_secs_f64();
    // One of the future began before the target's clock was set back: it says nothing.
    let sql = format!(
        "select exists (select from pgdiode.run where target = {} and verb = 'sync' and verdict = 'done'
            and started between pg_catalog.clock_timestamp() - {passed} * interval '1 second' and pg_catalog.clock_timestamp())",
        quote::literal(&place.database)
    );
    if !session.one(&sql).await?.bool(0) {
        return Ok(());
    }
    Err(Error::new(Kind::Locked, format!("a sync has succeeded since {} already", utc(due))))
}
