//! One pipeline of a daemon: what is wished of it, and what is known of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::runs::Runs;
use super::schemas::Ask;
use super::{judgement, locked, now};
use crate::config::Pipeline;
use crate::error::Error;
use crate::pipeline::ends::TargetEnd;
use crate::schedule::utc;
use crate::status::Progress;
use crate::status::drift::SchemaDrift;
use crate::status::fleet::{Duty, Health, Overview, Pause, Problem, Sample, State, Storage, Verification};

/// One sample a minute, for a day.
const SAMPLES_MAX: usize = 24 * 60;
const SAMPLE_SECONDS: i64 = 60;
/// Until there are so many, one comes every few seconds: whoever has just started something wants to see it.
const FIRST_MAX: usize = 60;
const FIRST_SECONDS: i64 = 5;

/// What a keeper is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Run,
    /// Nothing until somebody resumes it: it was stopped.
    Rest,
    /// The daemon ends, or has this pipeline no longer.
    End,
}

pub(super) struct Member {
    pub(super) pipeline: Arc<Pipeline>,
    standard: judgement::Standard,
    pub(super) wish: watch::Sender<Wish>,
    /// A keeper that waits goes on.
    pub(super) nudge: Notify,
    /// The sampler asks at once.
    pub(super) look: Notify,
    /// It measures at once, too.
    pub(super) measure: Notify,
    /// And compares both schemas.
    pub(super) compare: Ask,
    /// Why its first run was wanted.
    reason: Mutex<Option<String>>,
    known: Mutex<Known>,
    duty: watch::Sender<Duty>,
    paused: watch::Sender<Option<Pause>>,
    changed: AtomicBool,
}

#[derive(Default)]
struct Known {
    progress: Option<Progress>,
    /// Of the run.
    problem: Option<Problem>,
    /// Of asking.
    unreadable: Option<Problem>,
    state: Option<State>,
    asked_at: Option<String>,
    verification: Option<Verification>,
    storage: Option<Storage>,
    schema_drift: Option<SchemaDrift>,
    samples: Arc<Vec<Sample>>,
    /// The first minutes are over.
    is_coarse: bool,
    health: Option<(Health, String)>,
    shown: Option<Arc<Overview>>,
    runs_seen: u64,
}

impl Member {
    pub(super) fn new(pipeline: Pipeline, reason: Option<String>) -> Member {
        Member {
            standard: judgement::Standard::of(&pipeline),
            pipeline: Arc::new(pipeline),
            wish: watch::Sender::new(Wish::Run),
            nudge: Notify::new(),
            look: Notify::new(),
            measure: Notify::new(),
            compare: Ask::default(),
            reason: Mutex::new(reason),
            known: Mutex::default(),
            duty: watch::Sender::new(Duty::Idle),
            paused: watch::Sender::new(None),
            changed: AtomicBool::new(true),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut locked(&self.known));
        self.changed.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    // ---- told by the keeper ----

    /// Why it is run, for the audit log, until the run has begun.
    pub(super) fn reason(&self) -> Option<String> {
        locked(&self.reason).clone()
    }

    pub(super) fn has_duty(&self, duty: Duty) {
        if self.duty.send_replace(duty) != duty {
            self.changed.store(true, Ordering::Relaxed);
            self.look.notify_one();
        }
        if duty != Duty::Active {
            self.change(|known| known.progress = None);
        }
    }

    pub(super) fn progresses(&self, progress: Progress) {
        if progress.phase != crate::status::Phase::New {
            // It has begun; another one is not that wish's doing.
            locked(&self.reason).take();
        }
        self.change(|known| {
            known.problem = known.problem.take().filter(|_| progress.phase == crate::status::Phase::New);
            known.progress = Some(progress);
        });
    }

    pub(super) fn failed(&self, error: &Error, retry_in: Option<Duration>) {
        let problem = problem(error, retry_in);
        self.change(|known| known.problem = Some(problem));
    }

    pub(super) fn works(&self) {
        self.change(|known| known.problem = None);
    }

    pub(super) fn is_paused(&self, pause: Option<Pause>) {
        let differs = *self.paused.borrow() != pause;
        if differs {
            self.paused.send_replace(pause);
            self.changed.store(true, Ordering::Relaxed);
            self.nudge.notify_one();
        }
    }

    pub(super) fn paused(&self) -> watch::Receiver<Option<Pause>> {
        self.paused.subscribe()
    }

    pub(super) fn duty(&self) -> Duty {
        *self.duty.borrow()
    }

    /// Until this process does not run it, or so much time has passed.
    pub(super) async fn until_idle(&self, most: Duration) {
        let mut duty = self.duty.subscribe();
        // The sender is ours: it cannot be gone.
        let _ = tokio::time::timeout(most, duty.wait_for(|duty| *duty != Duty::Active)).await;
    }

    // ---- told by the sampler ----

    pub(super) fn has_state(&self, state: Result<State, Error>) {
        self.change(|known| match state {
            Ok(state) => {
                known.sample(&state);
                known.state = Some(state);
                known.asked_at = Some(now());
                known.unreadable = None;
            }
            Err(error) => known.unreadable = Some(problem(&error, None)),
        });
    }

    pub(super) fn has_storage(&self, storage: Option<Storage>) {
        self.change(|known| known.storage = storage);
    }

    pub(super) fn has_schema_drift(&self, drift: Option<SchemaDrift>) {
        self.change(|known| known.schema_drift = drift);
    }

    /// What its state tells; `None` before it could be asked.
    pub(super) fn with_state<T>(&self, read: impl FnOnce(&State) -> T) -> Option<T> {
        locked(&self.known).state.as_ref().map(read)
    }

    pub(super) fn was_verified(&self, verification: Option<Verification>) {
        self.change(|known| known.verification = verification);
    }

    // ---- telling ----

    /// As it is now; the same as before where nothing has changed.
    pub(super) fn overview(&self, runs: &Runs) -> Arc<Overview> {
        let mut known = locked(&self.known);
        let runs_seen = runs.revision(&self.pipeline.name);
        let is_stale = self.changed.swap(false, Ordering::Relaxed) || known.runs_seen != runs_seen;
        if let Some(shown) = known.shown.as_ref().filter(|_| !is_stale) {
            return Arc::clone(shown);
        }
        known.runs_seen = runs_seen;
        let (source, target) = ends(&self.pipeline, known.state.as_ref());
        let mut overview = Overview {
            name: self.pipeline.name.clone(),
            mode: self.pipeline.mode.as_str().into(),
            source,
            target,
            health: Health::Working,
            verdict: String::new(),
            since: String::new(),
            duty: *self.duty.borrow(),
            paused: self.paused.borrow().clone(),
            problem: known.problem.clone().or_else(|| known.unreadable.clone()),
            progress: known.progress.clone().filter(|_| known.is_at_work()),
            state: known.state.clone(),
            asked_at: known.asked_at.clone(),
            runs: runs.under_way(&self.pipeline.name),
            verification: known.verification.clone(),
            storage: known.storage.clone(),
            schema_drift: known.schema_drift.clone(),
            samples: Arc::clone(&known.samples),
        };
        let (health, verdict) =
            judgement::judge(&self.standard, &overview, *self.wish.borrow() == Wish::Rest);
        let since = match &known.health {
            Some((before, since)) if *before == health => since.clone(),
            _ => now(),
        };
        known.health = Some((health, since.clone()));
        (overview.health, overview.verdict, overview.since) = (health, verdict, since);
        let overview = Arc::new(overview);
        known.shown = Some(Arc::clone(&overview));
        overview
    }
}

impl Known {
    /// Who keeps a schedule rests between two syncs, and what the last one did is no progress.
    fn is_at_work(&self) -> bool {
        !matches!(&self.state, Some(State::Snapshot(status)) if status.running.is_none())
    }

    fn sample(&mut self, state: &State) {
        let at = jiff::Timestamp::now().as_second();
        let apart = if self.is_coarse { SAMPLE_SECONDS } else { FIRST_SECONDS };
        if self.samples.last().is_some_and(|last| at - last.at < apart) {
            return;
        }
        let (lag_bytes, lag_seconds) = match state {
            State::Stream(status) => (status.lag_bytes, status.lag_seconds),
            State::Snapshot(_) => (None, None),
        };
        let sample = Sample {
            at,
            lag_bytes,
            lag_seconds,
            changes_per_second: self.progress.as_ref().map(|progress| progress.changes_per_second),
            database_bytes: self.storage.as_ref().map(|storage| storage.database_bytes),
        };
        let samples = Arc::make_mut(&mut self.samples);
        if !self.is_coarse && samples.len() >= FIRST_MAX {
            self.is_coarse = true;
            thin(samples);
        }
        if samples.len() == SAMPLES_MAX {
            samples.remove(0);
        }
        samples.push(sample);
    }
}

/// Leaves one a minute, as all that follow will be.
fn thin(samples: &mut Vec<Sample>) {
    let mut last = None;
    samples.retain(|sample| {
        let is_kept = last.is_none_or(|last| sample.at - last >= SAMPLE_SECONDS);
        if is_kept {
            last = Some(sample.at);
        }
        is_kept
    });
}

fn problem(error: &Error, retry_in: Option<Duration>) -> Problem {
    let retry_at = retry_in.and_then(|wait| jiff::Timestamp::now().checked_add(wait).ok()).map(utc);
    Problem {
        what: error.chain(),
        hint: error.hint_text().map(str::to_owned),
        exit_status: error.kind().exit_status(),
        at: now(),
        retry_at,
    }
}

/// Where from and where to; before the first answer, the target alone can be told from the configuration.
fn ends(pipeline: &Pipeline, state: Option<&State>) -> (String, String) {
    match state {
        Some(State::Stream(status)) => (status.source.clone(), status.target.clone()),
        Some(State::Snapshot(status)) => (status.source.clone(), status.target.clone()),
        None => {
            let target = TargetEnd::resolve(pipeline).map(|end| end.conninfo.display()).unwrap_or_default();
            (String::new(), target)
        }
    }
}
