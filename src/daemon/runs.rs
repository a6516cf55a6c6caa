//! What somebody asks for through a door and takes a while: begun at once, watched, cancelled, and remembered for a
//! while after its end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{locked, now, on_its_own};
use crate::audit;
use crate::error::{Error, Result};
use crate::status::Progress;
use crate::status::fleet::{LogLine, Problem, Run, RunState};

/// Ended ones that are remembered.
const KEPT_MAX: usize = 500;
const LOG_LINES_MAX: usize = 200;

/// Who asks for what.
#[derive(Debug, Clone)]
pub struct Asked {
    pub pipeline: String,
    pub verb: &'static str,
    pub subject: Vec<String>,
    /// `api` or `console`.
    pub by: &'static str,
    pub actor: String,
    pub reason: Option<String>,
    /// Whoever asks twice with the same key has asked once.
    pub idempotency_key: Option<String>,
}

impl Asked {
    /// Tells two orders apart that come with one key.
    pub fn what(&self) -> String {
        format!("{} {} {:?}", self.pipeline, self.verb, self.subject)
    }
}

/// What became of asking.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// It runs, by this id.
    New(String),
    /// It was asked for before, with the same key.
    Known(String),
    /// Another one of the kind is under way.
    Busy(String),
    /// The key was used for something else.
    Misused,
}

/// What a run is handed: where to tell how it does, and when to end.
pub struct Scope {
    pub progress: watch::Sender<Progress>,
    cancelled: watch::Receiver<bool>,
}

impl Scope {
    /// Lasts until somebody cancels the run.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut cancelled = self.cancelled.clone();
        async move {
            if cancelled.wait_for(|is| *is).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The runs of a daemon.
#[derive(Clone, Default)]
pub struct Runs(Arc<Shared>);

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    /// The oldest first.
    runs: VecDeque<Cell>,
    keys: BTreeMap<String, (String, String)>,
    revisions: BTreeMap<String, u64>,
}

struct Cell {
    run: Run,
    began: Instant,
    key: Option<String>,
    cancel: watch::Sender<bool>,
}

impl Known {
    fn cell(&mut self, id: &str) -> Option<&mut Cell> {
        self.runs.iter_mut().rev().find(|cell| cell.run.id == id)
    }

    fn changed(&mut self, pipeline: &str) {
        *self.revisions.entry(pipeline.to_owned()).or_default() += 1;
    }

    fn forget_the_oldest(&mut self) {
        while self.runs.len() > KEPT_MAX {
            let Some(ended) = self.runs.iter().position(|cell| !is_open(cell.run.state)) else { return };
            let gone = self.runs.remove(ended).and_then(|cell| cell.key);
            if let Some(key) = gone {
                self.keys.remove(&key);
            }
        }
    }
}

fn is_open(state: RunState) -> bool {
    matches!(state, RunState::Running | RunState::Cancelling)
}

impl Runs {
    /// Begins what is asked for, in the name of whoever asks. The work says what came of it, or nothing where it ended
    /// because it was cancelled.
    pub fn begin<F>(&self, asked: Asked, work: impl FnOnce(Scope) -> F + Send + 'static) -> Result<Begun>
    where
        F: Future<Output = Result<Option<Value>>>,
    {
        let what = asked.what();
        let mut known = locked(&self.0.known);
        if let Some((id, before)) = asked.idempotency_key.as_ref().and_then(|key| known.keys.get(key)) {
            return Ok(if *before == what { Begun::Known(id.clone()) } else { Begun::Misused });
        }
        let same = known.runs.iter().find(|cell| {
            is_open(cell.run.state) && cell.run.pipeline == asked.pipeline && cell.run.verb == asked.verb
        });
        if let Some(busy) = same {
            return Ok(Begun::Busy(busy.run.id.clone()));
        }
        let id = new_id(&asked.pipeline)?;
        let (cancel, cancelled) = watch::channel(false);
        let (sender, progress) = watch::channel(Progress::default());
        let mut run = Run {
            id: id.clone(),
            pipeline: asked.pipeline,
            verb: asked.verb.into(),
            subject: asked.subject,
            by: asked.by.into(),
            actor: asked.actor.clone(),
            reason: asked.reason,
            state: RunState::Running,
            started_at: now(),
            ended_at: None,
            seconds: 0.0,
            progress: None,
            error: None,
            result: None,
            log: Vec::new(),
        };
        let says = format!("{} begins", run.verb);
        say(&mut run, says);
        known.changed(&run.pipeline);
        if let Some(key) = &asked.idempotency_key {
            known.keys.insert(key.clone(), (id.clone(), what));
        }
        known.runs.push_back(Cell { run, began: Instant::now(), key: asked.idempotency_key, cancel });
        known.forget_the_oldest();
        drop(known);
        let scope = Scope { progress: sender, cancelled };
        let runs = self.clone();
        let (name, number) = (format!("run {id}"), id.clone());
        tokio::spawn(async move {
            let work = on_its_own(&name, move || audit::acting_as(asked.actor, work(scope)));
            runs.attend(number, work, progress).await;
        });
        self.tell();
        Ok(Begun::New(id))
    }

    async fn attend(
        self,
        id: String,
        work: impl Future<Output = Result<Option<Value>>>,
        mut progress: watch::Receiver<Progress>,
    ) {
        let mut work = std::pin::pin!(work);
        let mut is_told = true;
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut work => break ended,
                changed = progress.changed(), if is_told => {
                    is_told = changed.is_ok();
                    let now = progress.borrow_and_update().clone();
                    self.change(&id, |run| progressed(run, now));
                }
            }
        };
        self.change(&id, |run| conclude(run, ended));
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Run)) {
        let mut known = locked(&self.0.known);
        let Some(cell) = known.cell(id) else { return };
        change(&mut cell.run);
        if is_open(cell.run.state) || cell.run.ended_at.is_some() && cell.run.seconds == 0.0 {
            cell.run.seconds = cell.began.elapsed().as_secs_f64();
        }
        let pipeline = cell.run.pipeline.clone();
        known.changed(&pipeline);
        drop(known);
        self.tell();
    }

    /// Takes one in that another process had, and that has ended.
    pub(super) fn remember(&self, run: Run) {
        let mut known = locked(&self.0.known);
        if is_open(run.state) || known.cell(&run.id).is_some() {
            return;
        }
        known.changed(&run.pipeline);
        let (cancel, _) = watch::channel(false);
        // The newest are last.
        let at = known.runs.iter().position(|cell| cell.run.started_at > run.started_at);
        let at = at.unwrap_or(known.runs.len());
        known.runs.insert(at, Cell { run, began: Instant::now(), key: None, cancel });
        known.forget_the_oldest();
    }

    /// Forgets one that was never begun.
    pub(super) fn forget(&self, id: &str) {
        let mut known = locked(&self.0.known);
        let Some(at) = known.runs.iter().position(|cell| cell.run.id == id) else { return };
        if let Some(cell) = known.runs.remove(at) {
            known.changed(&cell.run.pipeline);
            if let Some(key) = cell.key {
                known.keys.remove(&key);
            }
        }
        drop(known);
        self.tell();
    }

    /// Until it has ended; `None` where it is forgotten.
    pub(super) async fn ended(&self, id: &str) -> Option<Run> {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let run = self.run(id)?;
            if !is_open(run.state) {
                return Some(run);
            }
            changes.changed().await.ok()?;
        }
    }

    fn tell(&self) {
        self.0.changes.send_modify(|revision| *revision += 1);
    }

    /// Asks a run to end; `None` where there is none by that id, false where it has ended.
    pub fn cancel(&self, id: &str) -> Option<bool> {
        let mut known = locked(&self.0.known);
        let cell = known.cell(id)?;
        let was_open = is_open(cell.run.state);
        if was_open {
            cell.run.state = RunState::Cancelling;
            cell.cancel.send_replace(true);
        }
        let pipeline = cell.run.pipeline.clone();
        known.changed(&pipeline);
        drop(known);
        self.tell();
        Some(was_open)
    }

    pub(super) fn cancel_all(&self) {
        for cell in &locked(&self.0.known).runs {
            cell.cancel.send_replace(true);
        }
    }

    pub fn run(&self, id: &str) -> Option<Run> {
        locked(&self.0.known).cell(id).map(|cell| Cell::told(cell))
    }

    /// Of one pipeline, or all; the newest first.
    pub fn list(&self, pipeline: Option<&str>) -> Vec<Run> {
        let known = locked(&self.0.known);
        let wanted = |cell: &&Cell| pipeline.is_none_or(|name| cell.run.pipeline == name);
        known.runs.iter().rev().filter(wanted).map(Cell::told).collect()
    }

    pub(super) fn under_way(&self, pipeline: &str) -> Vec<Run> {
        self.list(Some(pipeline)).into_iter().filter(|run| is_open(run.state)).collect()
    }

    pub(super) fn revision(&self, pipeline: &str) -> u64 {
        locked(&self.0.known).revisions.get(pipeline).copied().unwrap_or_default()
    }

    /// Counts up with each change of any run.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}

impl Cell {
    fn told(&self) -> Run {
        let mut run = self.run.clone();
        if is_open(run.state) {
            run.seconds = self.began.elapsed().as_secs_f64();
        }
        run
    }
}

fn progressed(run: &mut Run, now_at: Progress) {
    let before = run.progress.as_ref().map_or("", |progress| progress.doing.as_str());
    if before != now_at.doing && !now_at.doing.is_empty() {
        let text = now_at.doing.clone();
        say(run, text);
    }
    run.progress = Some(now_at);
}

fn say(run: &mut Run, text: String) {
    if run.log.len() == LOG_LINES_MAX {
        run.log.remove(0);
    }
    run.log.push(LogLine { at: now(), text });
}

fn conclude(run: &mut Run, ended: Result<Option<Value>>) {
    run.ended_at = Some(now());
    match ended {
        Ok(Some(result)) => {
            run.state = RunState::Done;
            run.result = Some(result);
            say(run, "done".into());
        }
        Ok(None) => {
            run.state = RunState::Cancelled;
            say(run, "cancelled".into());
        }
        Err(error) => {
            run.state = RunState::Failed;
            say(run, error.chain());
            run.error = Some(Problem {
                what: error.chain(),
                hint: error.hint_text().map(str::to_owned),
                exit_status: error.kind().exit_status(),
                at: now(),
                retry_at: None,
            });
        }
    }
}

/// 128 random bits, behind whose it is: another process knows by that where to ask.
fn new_id(pipeline: &str) -> Result<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::unexpected("the system has no random numbers"))?;
    Ok(format!("{pipeline}-{}", data_encoding::HEXLOWER.encode(&bytes)))
}

/// Whose run it is, by its id.
pub fn pipeline_of(id: &str) -> Option<&str> {
    let (pipeline, bits) = id.rsplit_once('-')?;
    let is_ours = bits.len() == 32 && bits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_ours.then_some(pipeline)
}
