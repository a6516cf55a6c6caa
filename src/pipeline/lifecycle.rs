//! What every run has in common, wherever its changes come from: it is watched while it works, ends with a word in the
//! audit log, says in the target which phase it is in, and hears between two attempts that it is to stop.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::audit::Journal;
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::Session;
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
pub(super) async fn pause(
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
pub(super) async fn requested_to_stop(connect: impl AsyncFn() -> Result<Session>, pipeline: &str) {
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
pub(super) struct Told<'a> {
    pub(super) phase: Phase,
    pub(super) error: Option<&'a Error>,
    pub(super) retries: u64,
    /// How long until the next attempt.
    pub(super) next_in: Option<Duration>,
}

/// Best effort: the target may be what failed.
pub(super) async fn store_phase(connect: impl AsyncFn() -> Result<Session>, pipeline: &str, told: Told<'_>) {
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
