//! Every family that is exported: its name, kind, unit and help, and where its samples come from.

mod lists;

use jiff::Timestamp;

use super::samples::{Samples, Value, escape};
use crate::schedule::Schedule;
use crate::status::fleet::{Duty, Health, Instance, Overview, Storage};
use crate::status::snapshot::{RunStatus, SnapshotStatus};
use crate::status::{
    ArchiveStatus, KeysStatus, Phase, PipelineStatus, Progress, SlotStatus, TableState, TableStatus,
};

/// Tables of a pipeline that have samples of their own, the first by their names so that they stay the same ones; the
/// rest is summed under `table="other"`.
pub const TABLES_MAX: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    Counter,
    /// Always 1: what it says is in its labels.
    Info,
}

/// Samples with one name.
#[derive(Debug)]
pub struct Family {
    /// As its samples are called, in both formats.
    pub name: &'static str,
    pub kind: Kind,
    /// What its name says too; empty for what has none.
    pub unit: &'static str,
    /// Beside `pipeline`.
    pub labels: &'static [&'static str],
    pub help: &'static str,
    pub(super) read: Read,
}

/// Families that are explained together.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) families: &'static [Family],
}

/// Whom a family is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Read {
    Instance(fn(&Instance, &mut Samples<'_>)),
    /// One sample, if it is known.
    Value(fn(&View<'_>) -> Value),
    Pipeline(fn(&View<'_>, &mut Samples<'_>)),
}

/// All of them, in the order in which they are written.
pub fn families() -> impl Iterator<Item = &'static Family> {
    sections().iter().flat_map(|section| section.families)
}

pub(super) fn sections() -> &'static [Section] {
    lists::SECTIONS
}

/// A pipeline, with what several families need of it.
pub(super) struct View<'a> {
    overview: &'a Overview,
    /// Its name, escaped.
    pub(super) label: String,
    /// The fleet's moment: ages count up to it.
    at: Option<Timestamp>,
    stream: Option<&'a PipelineStatus>,
    snapshot: Option<&'a SnapshotStatus>,
}

impl<'a> View<'a> {
    pub(super) fn new(instance: &Instance, overview: &'a Overview) -> View<'a> {
        let mut label = String::new();
        escape(&mut label, &overview.name);
        View {
            overview,
            label,
            at: moment(&instance.at),
            stream: overview.stream(),
            snapshot: overview.snapshot(),
        }
    }

    /// Seconds since then.
    fn age(&self, since: Option<&String>) -> Option<i64> {
        Some((self.at?.as_second() - seconds(since)?).max(0))
    }

    fn slot(&self) -> Option<&'a SlotStatus> {
        self.stream?.slot.as_ref()
    }

    fn archive(&self) -> Option<&'a ArchiveStatus> {
        self.stream?.archive.as_ref()
    }

    fn keys(&self) -> Option<&'a KeysStatus> {
        self.stream?.keys.as_ref()
    }

    fn storage(&self) -> Option<&'a Storage> {
        self.overview.storage.as_ref()
    }

    /// Of all tables, where they are known.
    fn sum(&self, of: impl Fn(&TableStatus) -> u64) -> Option<u64> {
        self.stream.map(|status| status.tables.iter().map(of).sum())
    }

    fn in_state(&self, state: TableState) -> Option<u64> {
        self.sum(|table| u64::from(table.state == state))
    }

    /// The run that copies, of this process or asked for through a door.
    fn copying(&self) -> Option<&'a Progress> {
        let asked_for = self.overview.runs.iter().filter(|run| run.ended_at.is_none());
        let all = self.overview.progress.iter().chain(asked_for.filter_map(|run| run.progress.as_ref()));
        all.into_iter().find(|progress| progress.phase == Phase::Copying)
    }

    /// The newest sync that has ended.
    fn last_sync(&self) -> Option<&'a RunStatus> {
        self.ended_syncs().next()
    }

    fn ended_syncs(&self) -> impl Iterator<Item = &'a RunStatus> {
        self.snapshot
            .iter()
            .flat_map(|status| &status.runs)
            .filter(|run| run.verb == "sync" && run.ended.is_some())
    }

    /// The longest time between two of the next syncs by the schedule.
    fn interval(&self) -> Option<i64> {
        let due = self.snapshot?.schedule.as_ref()?;
        let schedule = Schedule::parse(&due.expression, &due.time_zone).ok()?;
        schedule.longest_interval(self.at?)
    }
}

fn moment(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// A moment as seconds since 1970.
fn seconds(text: Option<&String>) -> Option<i64> {
    Some(moment(text?)?.as_second())
}

/// A number of a table.
type Count = fn(&TableStatus) -> u64;

/// One sample a table for the first of them, and one for the rest.
fn by_table(view: &View<'_>, samples: &mut Samples<'_>, label: &str, kinds: &[(&str, Count)]) {
    let Some(status) = view.stream else { return };
    let (shown, rest) = status.tables.split_at(status.tables.len().min(TABLES_MAX));
    for table in shown {
        let name = crate::config::written(&table.name);
        for (kind, read) in kinds {
            samples.labelled(&[("table", &name), (label, kind)], read(table));
        }
    }
    for (kind, read) in kinds.iter().filter(|_| !rest.is_empty()) {
        samples.labelled(&[("table", "other"), (label, kind)], rest.iter().map(read).sum::<u64>());
    }
}

const HEALTHS: [Health; 5] =
    [Health::Healthy, Health::Working, Health::Paused, Health::Attention, Health::Failed];

const DUTIES: [Duty; 3] = [Duty::Active, Duty::Standby, Duty::Idle];

fn duty_word(duty: Duty) -> &'static str {
    match duty {
        Duty::Active => "active",
        Duty::Standby => "standby",
        Duty::Idle => "idle",
    }
}

const PHASES: [Phase; 8] = [
    Phase::New,
    Phase::Copying,
    Phase::CatchingUp,
    Phase::Streaming,
    Phase::Paused,
    Phase::Retrying,
    Phase::Stopped,
    Phase::Failed,
];

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::CatchingUp => "catching_up",
        other => other.words(),
    }
}

/// How a run can have ended, as `status --json` says it.
const VERDICTS: [&str; 4] = ["done", "failed", "killed", "not promoted"];
