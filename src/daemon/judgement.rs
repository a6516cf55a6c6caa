//! How a pipeline does, in one word and one sentence.

use crate::config::Pipeline;
use crate::status::fleet::{Health, Overview, State};
use crate::status::snapshot::SnapshotStatus;
use crate::status::text::{bytes, count, duration, seconds, several};
use crate::status::{Phase, PipelineStatus, TableState};

/// A replica that follows is fresh up to this; an older one wants a look.
const LAG_SECONDS_MAX: f64 = 60.0;
/// A replica that is copied by a schedule may miss one time.
const INTERVALS_MAX: u64 = 2;

type Judged = (Health, String);

/// What of the configuration counts here, worked out once.
pub(super) struct Standard {
    /// The longest time between two syncs by the schedule, in seconds.
    interval: Option<u64>,
}

impl Standard {
    pub(super) fn of(pipeline: &Pipeline) -> Standard {
        let schedule = pipeline.schedule().ok().flatten();
        let interval = schedule.and_then(|schedule| schedule.longest_interval(jiff::Timestamp::now()));
        Standard { interval: interval.and_then(|seconds| u64::try_from(seconds).ok()) }
    }
}

/// Judges what is known; `is_stopped`: somebody had it end, and nobody had it go on since.
pub(super) fn judge(standard: &Standard, overview: &Overview, is_stopped: bool) -> Judged {
    if let Some(pause) = &overview.paused {
        let why = pause.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        return (Health::Paused, format!("Paused by {} since {}{why}.", pause.actor, pause.since));
    }
    if is_stopped {
        return (Health::Paused, "Stopped by an operator; resume it to go on.".into());
    }
    if let Some(problem) = &overview.problem {
        // What nobody mends stays: another attempt is a mere look whether somebody has.
        let health = if matches!(problem.exit_status, 5..=7) { Health::Attention } else { Health::Failed };
        return (health, format!("{}.", sentence(&problem.what)));
    }
    let judged = match &overview.state {
        None => (Health::Working, "It is being asked for the first time.".to_owned()),
        Some(State::Stream(status)) => of_stream(overview, status),
        Some(State::Snapshot(status)) => of_snapshot(standard, status),
    };
    match &overview.verification {
        Some(last) if !last.identical && judged.0 < Health::Failed => {
            let tables = several(last.tables_different.max(1), "table");
            (Health::Failed, format!("Not identical when verified at {}: {tables} differ.", last.at))
        }
        _ => judged,
    }
}

fn of_stream(overview: &Overview, status: &PipelineStatus) -> Judged {
    let (lag_bytes, lag_seconds) = overview.lag();
    let phase = overview.phase().unwrap_or(status.phase);
    if let Some(slot) = &status.slot
        && slot.wal_status.as_deref() == Some("lost")
    {
        return (Health::Failed, format!("The slot {} is lost: the source has dropped changes.", slot.name));
    }
    let error = status.last_error.as_deref().map(sentence);
    let behind = behind(lag_bytes, lag_seconds);
    match phase {
        Phase::Failed => (Health::Failed, error.map_or("It has failed.".into(), |error| format!("{error}."))),
        Phase::Retrying => {
            let what = error.unwrap_or_else(|| "A connection broke".into());
            (Health::Attention, format!("{what}; it is tried again ({}).", count(status.retries.max(1))))
        }
        Phase::New => (Health::Working, "Nothing has been copied yet.".into()),
        Phase::Copying => (Health::Working, copying(overview, status)),
        Phase::CatchingUp => (Health::Working, format!("Copied, and catching up: {behind}.")),
        Phase::Stopped | Phase::Paused if status.running_on.is_none() => {
            (Health::Attention, format!("Nobody runs it; {behind}."))
        }
        Phase::Streaming | Phase::Stopped | Phase::Paused => {
            let quarantined =
                status.tables.iter().filter(|table| table.state == TableState::Quarantined).count();
            if quarantined > 0 {
                let tables = several(quarantined as u64, "table");
                return (Health::Attention, format!("Streaming, but {tables} quarantined; {behind}."));
            }
            let is_fresh = lag_seconds.is_none_or(|seconds| seconds <= LAG_SECONDS_MAX);
            let health = if is_fresh { Health::Healthy } else { Health::Attention };
            (health, format!("Streaming; {behind}."))
        }
    }
}

/// How far, as the end of a sentence.
fn behind(lag_bytes: Option<u64>, lag_seconds: Option<f64>) -> String {
    match (lag_bytes, lag_seconds) {
        (Some(0), _) => "it has everything".into(),
        (None, None) => "nobody knows how far behind".into(),
        (Some(lag), None) => format!("{} behind", bytes(lag)),
        (None, Some(lag)) => format!("{} behind", seconds(lag)),
        (Some(lag), Some(age)) => format!("{} behind ({})", seconds(age), bytes(lag)),
    }
}

fn copying(overview: &Overview, status: &PipelineStatus) -> String {
    let ready = status.tables.iter().filter(|table| table.state == TableState::Ready).count();
    let of = several(status.tables.len() as u64, "table");
    let eta = overview.progress.as_ref().and_then(|progress| progress.eta_seconds);
    let eta = eta.map(|seconds| format!(", about {} to go", duration(seconds))).unwrap_or_default();
    format!("Copying: {ready} of {of} done{eta}.")
}

fn of_snapshot(standard: &Standard, status: &SnapshotStatus) -> Judged {
    if let Some(run) = &status.running {
        let phase = run.phase.as_deref().unwrap_or("starting");
        return (Health::Working, format!("A {} is under way: {phase}.", run.verb));
    }
    let Some(serving) = &status.serving else {
        return match &status.last_run {
            Some(run) => {
                (Health::Failed, format!("There is no replica, and the last {} {}.", run.verb, run.verdict))
            }
            None => (Health::Working, "It was never synced.".into()),
        };
    };
    let age = serving.age_seconds.unwrap_or_default();
    let replica = format!("The replica is {} old", duration(age));
    if let Some(run) = status.last_run.as_ref().filter(|run| run.verdict != "done") {
        return (Health::Attention, format!("{replica}, and the last {} {}.", run.verb, run.verdict));
    }
    let is_old = standard.interval.is_some_and(|interval| age > interval * INTERVALS_MAX);
    let next = status.schedule.as_ref().and_then(|schedule| schedule.next_run.as_deref());
    let next = next.map(|next| format!("; the next sync is due at {next}")).unwrap_or_default();
    let health = if is_old { Health::Attention } else { Health::Healthy };
    (health, format!("{replica}{next}."))
}

/// An error as the begin of a sentence.
fn sentence(error: &str) -> String {
    let mut letters = error.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
