//! What every run has in common, wherever its changes come from: it is watched while it works, ends with a word in the
//! audit log, says in the target which phase it is in, and hears between two attempts that it is to stop.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::audit::Journal;
use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::backoff::{Backoff, Failed};
use crate::pipeline::holder;
use crate::pipeline::meter::Meter;
use crate::pipeline::monitor::phase_word;
use crate::pipeline::stop;
use crate::source::postgres::stream::now_us;
use crate::status::{Phase, Progress, StopReason, Stopped, Until};

/// How soon a wish is heard between two attempts.
const LISTEN_INTERVAL: Duration = Duration::from_millis(250);
/// How long a run that has ended tries to reach the audit log.
const AUDIT_PATIENCE: Duration = Duration::from_secs(10);
/// How often whoever watches is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Why a run is to end, once it is.
pub(super) type Asked = watch::Sender<Option<StopReason>>;

/// What a run is to reach, for the audit log.
pub(super) fn until_details(until: Until) -> Map<String, Value> {
    let until = match until {
        Until::Stopped => "stopped".to_owned(),
        Until::CaughtUp => "caught up".to_owned(),
        Until::Reached(lsn) => lsn.to_string(),
    };
    Map::from_iter([("until".into(), until.into())])
}

/// Why a run ended, and where, for the audit log.
pub(super) fn stopped_details(stopped: &Stopped) -> Map<String, Value> {
    match serde_json::to_value(stopped) {
        Ok(Value::Object(details)) => details,
        _ => Map::new(),
    }
}

/// Works to the end, passes `stop` on to whoever works, and tells whoever watches.
pub(super) async fn watched<T>(
    work: impl Future<Output = Result<T>>,
    meter: &Meter,
    progress: watch::Sender<Progress>,
    asked: &Asked,
    stop: impl Future<Output = ()>,
) -> Result<T> {
    tokio::pin!(work, stop);
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            ended = &mut work => return ended,
            () = &mut stop, if asked.borrow().is_none() => {
                asked.send_replace(Some(StopReason::Signal));
            }
            _ = ticks.tick() => {
                // Nobody has to watch.
                let _ = progress.send(meter.progress(now_us()));
            }
        }
    }
}

/// Writes into the audit log how a run ended. `connect` opens a session with the target.
pub(super) async fn conclude(
    journal: Journal,
    ended: Result<Stopped>,
    connect: impl AsyncFn() -> Result<Session>,
) -> Result<Stopped> {
    // A run outlasts many a connection; a target that does not answer must not keep it from ending.
    let Ok(connected) = tokio::time::timeout(AUDIT_PATIENCE, connect()).await else {
        let error = Error::new(Kind::TargetUnreachable, "the target does not answer");
        return journal.conclude_without(ended, error);
    };
    match connected {
        Ok(mut target) => journal.conclude_with(&mut target, ended, stopped_details).await,
        Err(error) => journal.conclude_without(ended, error),
    }
}

/// How an attempt ended without an error.
pub(super) enum Attempted {
    Stopped(Stopped),
    /// Something must be filled anew: again from the top.
    Again,
}

/// A run that is attempted until it is asked to stop, is done, or fails for good.
pub(super) trait Attempts {
    fn pipeline(&self) -> &Pipeline;
    fn meter(&self) -> &Meter;
    fn asked(&self) -> &Asked;

    /// From connecting to the end of the stream.
    async fn attempt(&mut self, retries: u64) -> Result<Attempted>;

    /// How long the last attempt did its work; `None` if it never came to that.
    fn streamed(&self) -> Option<Duration>;

    /// A session with the target.
    async fn connect(&self) -> Result<Session>;

    /// The pause between two attempts.
    async fn rest(&self, _error: &Error, wait: Duration) {
        tokio::time::sleep(wait).await;
    }

    /// It has failed for good.
    async fn failed(&self, _error: &Error) {}

    fn stopped(&self, reason: StopReason) -> Stopped {
        Stopped { reason, position: self.meter().progress(0).position }
    }
}

/// Attempts, with pauses in between.
pub(super) async fn until_ended(run: &mut impl Attempts) -> Result<Stopped> {
    let mut backoff = Backoff::new(&run.pipeline().retry);
    loop {
        let retries = backoff.retries;
        let error = match Box::pin(run.attempt(retries)).await {
            Ok(Attempted::Stopped(stopped)) => {
                tell(run, Phase::Stopped, None, retries).await;
                return Ok(stopped);
            }
            Ok(Attempted::Again) => continue,
            Err(error) => error,
        };
        let failed = Failed {
            streamed: run.streamed(),
            nothing_worked: run.meter().progress(0).phase == Phase::New,
            is_over: run.asked().borrow().is_some(),
        };
        let (error, wait) = match backoff.wait(error, &failed) {
            Ok(waits) => waits,
            Err(error) => {
                tell(run, Phase::Failed, Some((&error, None)), backoff.retries).await;
                run.failed(&error).await;
                return Err(error);
            }
        };
        run.meter().phase(Phase::Retrying, error.what());
        tell(run, Phase::Retrying, Some((&error, Some(wait))), backoff.retries).await;
        let requested = requested_to_stop(async || run.connect().await, &run.pipeline().name);
        if let Some(reason) = pause(run.rest(&error, wait), run.asked(), requested).await {
            tell(run, Phase::Stopped, None, backoff.retries).await;
            return Ok(run.stopped(reason));
        }
        run.meter().phase(Phase::Retrying, "connecting");
    }
}

async fn tell(run: &impl Attempts, phase: Phase, failed: Option<(&Error, Option<Duration>)>, retries: u64) {
    let (error, next_in) = failed.map_or((None, None), |(error, next_in)| (Some(error), next_in));
    let told = Told { phase, error, retries, next_in };
    store_phase(async || run.connect().await, &run.pipeline().name, told).await;
}

/// Says in the target who runs the pipeline.
pub(super) async fn register(target: &mut Session, pipeline: &Pipeline, retries: u64) -> Result<()> {
    // What went wrong before a retry stays to be seen until something is applied.
    let forgets = if retries == 0 { "error = null, hint = null, retries = 0, " } else { "" };
    let sql = format!(
        "insert into pgdiode.pipeline (name, mode, runs_at) values ({}, {}, {})
         on conflict (name) do update set mode = excluded.mode, runs_at = excluded.runs_at, stop_requested = false,
                hold_id = null, held_id = null, {forgets}retry_at = null, updated_at = pg_catalog.now()",
        quote::literal(&pipeline.name),
        quote::literal(pipeline.mode.as_str()),
        quote::literal(&holder::ourselves()),
    );
    target.query(&sql).await.map(drop)
}

/// `pgdiode stop` was heard: the run is to end, unless it is to anyway.
pub(super) fn ask_to_stop(asked: &Asked) {
    asked.send_if_modified(|reason| reason.is_none() && reason.replace(StopReason::Asked).is_none());
}

/// Waits until somebody wants the run to end.
pub(super) async fn asked_to_stop(asked: &Asked) -> StopReason {
    let mut asked = asked.subscribe();
    match asked.wait_for(Option::is_some).await.map(|reason| *reason) {
        Ok(Some(reason)) => reason,
        // The run holds a sender itself: it cannot be gone.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// Lasts as long as `rest`, before the next attempt; or why there is to be none. `requested` is `pgdiode stop`.
async fn pause(
    rest: impl Future<Output = ()>,
    asked: &Asked,
    requested: impl Future<Output = ()>,
) -> Option<StopReason> {
    tokio::select! {
        () = rest => None,
        reason = asked_to_stop(asked) => Some(reason),
        () = requested => Some(StopReason::Asked),
    }
}

/// Waits until `pgdiode stop` asks for it, as far as the target can be reached: between two attempts nobody else listens.
async fn requested_to_stop(connect: impl AsyncFn() -> Result<Session>, pipeline: &str) {
    loop {
        if let Ok(mut target) = connect().await {
            while let Ok(requested) = stop::is_requested(&mut target, pipeline).await {
                if requested {
                    return;
                }
                tokio::time::sleep(LISTEN_INTERVAL).await;
            }
        }
        tokio::time::sleep(LISTEN_INTERVAL).await;
    }
}

/// The phase of a run, as the target has it.
struct Told<'a> {
    phase: Phase,
    error: Option<&'a Error>,
    retries: u64,
    /// How long until the next attempt.
    next_in: Option<Duration>,
}

/// Best effort: the target may be what failed.
async fn store_phase(connect: impl AsyncFn() -> Result<Session>, pipeline: &str, told: Told<'_>) {
    let text = |text: Option<&str>| text.map_or_else(|| "null".to_owned(), quote::literal);
    let retry_at = told.next_in.map_or_else(
        || "null".to_owned(),
        |wait| format!("pg_catalog.now() + interval '{} milliseconds'", wait.as_millis()),
    );
    let sql = format!(
        "update pgdiode.pipeline set phase = {}, error = {}, hint = {}, retries = {}, retry_at = {retry_at}, doing = {},
                updated_at = pg_catalog.now()
          where name = {}",
        quote::literal(phase_word(told.phase)),
        text(told.error.map(Error::chain).as_deref()),
        text(told.error.and_then(Error::hint_text)),
        if told.error.is_some() { told.retries } else { 0 },
        text(told.next_in.map(|_| "waiting for the next attempt")),
        quote::literal(pipeline)
    );
    let stored = async { connect().await?.query(&sql).await };
    if let Err(error) = stored.await {
        tracing::debug!(error = error.chain(), "the phase could not be stored");
    }
}
