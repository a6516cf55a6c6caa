//! Runs that were: what the target remembers of syncs and rollbacks, and what was asked for here.

use crate::status::fleet::{Overview, Run, State};
use crate::status::snapshot::{GenerationStatus, RunStatus};
use crate::status::text;

use super::action::{self, Action};
use super::chart::{Bar, Chart, bars};
use super::words::{Chip, Clock, Markup, Tone, verdict_chip};

#[derive(Default)]
pub(super) struct History {
    pub chart: Option<Chart>,
    /// Of the target: whoever asked for them, from wherever.
    pub kept: Vec<KeptRun>,
    pub done: u64,
    pub failed: u64,
    pub asked: Vec<AskedRun>,
}

pub(super) struct KeptRun {
    pub id: i64,
    pub verb: String,
    pub chip: Chip,
    pub phase: Option<String>,
    pub actor: String,
    pub reason: Option<String>,
    pub started: Markup,
    pub took: String,
    pub rows: String,
    pub bytes: String,
    pub generation: Option<i64>,
    pub error: Option<String>,
    pub hint: Option<String>,
    pub discarded: Vec<String>,
}

pub(super) struct AskedRun {
    pub href: String,
    pub verb: String,
    pub subject: String,
    pub chip: Chip,
    pub by: String,
    pub actor: String,
    pub reason: Option<String>,
    pub started: Markup,
    pub took: String,
}

pub(super) struct Generation {
    pub number: i64,
    pub chip: Chip,
    pub taken: Option<Markup>,
    pub age: Option<String>,
    pub size: String,
    pub place: String,
    pub action: Option<Action>,
}

pub(super) fn history(pipeline: &Overview, clock: Clock) -> History {
    let asked = pipeline.runs.iter().map(|run| asked(run, clock)).collect();
    let Some(State::Snapshot(status)) = &pipeline.state else {
        return History { asked, ..History::default() };
    };
    let drawn: Vec<Bar> = status.runs.iter().rev().map(bar).collect();
    let runs = status.running.iter().chain(&status.runs);
    History {
        chart: bars("durations", "How long runs took", &drawn, clock),
        kept: runs.map(|run| kept(run, clock)).collect(),
        done: status.runs_done,
        failed: status.runs_failed,
        asked,
    }
}

fn bar(run: &RunStatus) -> Bar {
    Bar {
        label: format!("{} {}", run.verb, run.id),
        at: run.started.clone(),
        seconds: run.seconds,
        tone: verdict_chip(&run.verdict).tone,
        word: run.verdict.clone(),
    }
}

fn kept(run: &RunStatus, clock: Clock) -> KeptRun {
    KeptRun {
        id: run.id,
        verb: run.verb.clone(),
        chip: verdict_chip(&run.verdict),
        phase: run.phase.clone().filter(|_| run.ended.is_none()),
        actor: run.actor.clone(),
        reason: run.reason.clone(),
        started: clock.moment(&run.started),
        took: text::seconds(run.seconds),
        rows: run.rows.map(text::count).unwrap_or_default(),
        bytes: run.bytes.map(text::bytes).unwrap_or_default(),
        generation: run.generation,
        error: run.error.clone(),
        hint: run.hint.clone(),
        discarded: run.discarded.iter().map(crate::status::snapshot::Discarded::text).collect(),
    }
}

pub(super) fn asked(run: &Run, clock: Clock) -> AskedRun {
    AskedRun {
        href: super::run::path(run),
        verb: run.verb.clone(),
        subject: run.subject.join(", "),
        chip: run.state.into(),
        by: run.by.clone(),
        actor: run.actor.clone(),
        reason: run.reason.clone(),
        started: clock.moment(&run.started_at),
        took: text::seconds(run.seconds),
    }
}

/// The one that serves first; of the others, those that are still there can serve again.
pub(super) fn generations(
    pipeline: &Overview,
    generations: &[GenerationStatus],
    clock: Clock,
) -> Vec<Generation> {
    generations
        .iter()
        .map(|one| {
            let serves = one.state == "serving";
            let can_serve = !serves && one.bytes.is_some();
            Generation {
                number: one.number,
                chip: Chip::new(if serves { Tone::Good } else { Tone::Idle }, one.state.clone()),
                taken: one.taken_at.as_deref().map(|at| clock.moment(at)),
                age: one.age_seconds.map(text::duration),
                size: one.bytes.map_or_else(|| "gone".into(), text::bytes),
                place: [one.database.as_str()]
                    .into_iter()
                    .chain(one.schemas.iter().map(String::as_str))
                    .collect::<Vec<_>>()
                    .join(" "),
                action: can_serve.then(|| action::roll_back(pipeline, one.number)),
            }
        })
        .collect()
}
