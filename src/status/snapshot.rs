//! What there is to say about a snapshot pipeline: its generations and its runs.

use serde::{Deserialize, Serialize};

use super::RunningOn;
use super::text::{Paint, bytes, count, duration, printable};

/// A snapshot pipeline at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SnapshotStatus {
    pub name: String,
    /// `snapshot`.
    pub mode: String,
    pub source: String,
    pub target: String,
    /// What readers see; `None` before the first sync.
    pub serving: Option<GenerationStatus>,
    /// The run that is under way.
    pub running: Option<RunStatus>,
    /// When `pgdiode start` syncs next; `None` without a schedule.
    #[serde(flatten)]
    pub schedule: Option<ScheduleStatus>,
    /// The processes that keep the schedule.
    pub kept_by: Vec<RunningOn>,
    /// The last one that has ended.
    pub last_run: Option<RunStatus>,
    /// Ended runs, the newest first; the last of them, not all.
    pub runs: Vec<RunStatus>,
    pub runs_done: u64,
    pub runs_failed: u64,
}

/// A copy of the source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GenerationStatus {
    pub number: i64,
    /// `serving` or `kept`.
    pub state: String,
    pub database: String,
    /// RFC 3339; `None` for what was there before the first sync.
    pub taken_at: Option<String>,
    pub age_seconds: Option<u64>,
    /// Where the source's log stood.
    pub position: Option<String>,
    pub run: Option<i64>,
    /// Size on disk; `None` when the database is gone.
    pub bytes: Option<u64>,
    /// The schemas of the database that it consists of; none where it is the whole database.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<String>,
}

/// What is due next by the configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScheduleStatus {
    #[serde(rename = "schedule")]
    pub expression: String,
    /// As an IANA name.
    pub time_zone: String,
    /// RFC 3339, in UTC.
    pub next_run: Option<String>,
    /// The same moment in the schedule's zone.
    pub next_run_local: Option<String>,
}

/// A sync or a rollback.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunStatus {
    pub id: i64,
    /// `sync` or `rollback`.
    pub verb: String,
    /// `running`, `done`, `failed`, `killed` or `not promoted`.
    pub verdict: String,
    pub phase: Option<String>,
    /// RFC 3339.
    pub started: String,
    pub ended: Option<String>,
    pub seconds: f64,
    pub actor: String,
    pub reason: Option<String>,
    pub error: Option<String>,
    pub hint: Option<String>,
    pub bytes: Option<u64>,
    pub rows: Option<u64>,
    pub generation: Option<i64>,
    pub position: Option<String>,
    pub discarded: Vec<Discarded>,
    /// Where the time went, in order; empty where nobody noted it.
    pub phases: Vec<PhaseTime>,
}

/// How long a run was in a phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseTime {
    pub phase: String,
    pub seconds: f64,
}

/// Something of the replaced database that its own sync had not put there, and that its successor lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discarded {
    /// What it is and its name: `table public.users`.
    pub object: String,
    /// `rows`: some of a table's are others. `added`, `changed` (or added), `dropped`, `granted to ROLE`: the object
    /// itself. `unknown`: it could not be looked at. `replaced`: a whole database that no sync had made.
    pub what: String,
    /// Rows that were inserted or changed.
    pub rows_written: u64,
    /// Rows of the sync that were deleted or changed.
    pub rows_gone: u64,
}

/// What a sync or a rollback has come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Promoted {
    pub run: i64,
    pub generation: i64,
    pub database: String,
    /// The generation that served before, and is kept.
    pub previous: Option<i64>,
    pub rows: u64,
    pub bytes: u64,
    pub seconds: f64,
    /// Parts of the source's schema that the target could not take, with their reasons.
    pub left_out: Vec<String>,
    /// What was changed in the replica since the sync before, and is in the kept generation alone.
    pub discarded: Vec<Discarded>,
    /// What was taken over from the replica before.
    pub preserved: Vec<Preserved>,
}

/// Rows that went over from the replica before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preserved {
    pub table: String,
    pub rows: u64,
}

impl SnapshotStatus {
    pub fn text(&self, paint: Paint) -> String {
        let mut lines = vec![format!("{}  snapshot", paint.strong(&format!("pipeline {}", self.name)))];
        let mut line = |name: &str, text: String| lines.push(format!("  {name:<10}{}", printable(&text)));
        line("source", self.source.clone());
        line("target", self.target.clone());
        line(
            "serving",
            match &self.serving {
                Some(serving) => serving.line(),
                None => "nothing yet: run pgdiode sync".into(),
            },
        );
        if let Some(run) = &self.running {
            line("running", run.line());
        }
        if let Some(run) = &self.last_run {
            line("last run", run.line());
            if let Some(error) = &run.error {
                line("error", error.clone());
            }
            if let Some(hint) = &run.hint {
                line("hint", hint.clone());
            }
            for one in discarded_lines(&run.discarded) {
                line("discarded", one);
            }
        }
        if let Some(schedule) = &self.schedule {
            line("next run", schedule.line(&self.kept_by));
        }
        line("runs", format!("{} done, {} not", count(self.runs_done), count(self.runs_failed)));
        lines.join("\n") + "\n"
    }
}

impl ScheduleStatus {
    fn line(&self, kept_by: &[RunningOn]) -> String {
        let (Some(next), Some(local)) = (&self.next_run, &self.next_run_local) else { return "never".into() };
        let keepers: Vec<String> =
            kept_by.iter().map(|one| format!("process {} on {}", one.process_id, one.host)).collect();
        let by = if keepers.is_empty() {
            "nobody keeps the schedule: pgdiode start".to_owned()
        } else {
            format!("by {}", keepers.join(", "))
        };
        format!("{next} ({local} {}, \"{}\"), {by}", self.time_zone, self.expression)
    }
}

impl GenerationStatus {
    fn line(&self) -> String {
        let mut parts = vec![format!("generation {}", self.number)];
        parts.extend(self.taken_at.as_ref().map(|at| format!("taken {at}")));
        parts.extend(self.age_seconds.map(|age| format!("{} ago", duration(age))));
        parts.extend(self.bytes.map(bytes));
        parts.join(", ")
    }
}

impl RunStatus {
    fn line(&self) -> String {
        let mut parts = vec![format!("{} {} {}", self.verb, self.id, self.verdict)];
        if self.verdict == "running" {
            parts.extend(self.phase.clone());
        }
        parts.push(format!("started {}", self.started));
        parts.push(format!("{:.1} s", self.seconds));
        parts.extend(self.rows.map(|rows| format!("{} rows", count(rows))));
        parts.extend(self.bytes.map(bytes));
        parts.push(format!("by {}", self.actor));
        parts.extend(self.reason.as_ref().map(|reason| format!("because: {reason}")));
        parts.join(", ")
    }
}

/// Generations as a table, the one that serves first.
pub fn generations_text(generations: &[GenerationStatus], paint: Paint) -> String {
    let mut lines = vec![
        paint.strong(&format!("{:>6}  {:<8} {:<21} {:>10}  database", "number", "state", "taken", "size")),
    ];
    for one in generations {
        let place: Vec<&str> =
            [one.database.as_str()].into_iter().chain(one.schemas.iter().map(String::as_str)).collect();
        lines.push(format!(
            "{:>6}  {:<8} {:<21} {:>10}  {}",
            one.number,
            one.state,
            one.taken_at.as_deref().unwrap_or("before any sync"),
            one.bytes.map_or_else(|| "gone".into(), bytes),
            printable(&place.join(" "))
        ));
    }
    lines.join("\n") + "\n"
}

impl Discarded {
    pub fn of(object: impl Into<String>, what: &str) -> Discarded {
        Discarded { object: object.into(), what: what.to_owned(), rows_written: 0, rows_gone: 0 }
    }

    /// One line.
    pub fn text(&self) -> String {
        let Discarded { object, what, rows_written, rows_gone } = self;
        let (written, gone) = (count(*rows_written), count(*rows_gone));
        let how = match what.as_str() {
            "rows" => format!("{written} rows written since, {gone} rows of the copy deleted or changed"),
            "added" if *rows_written > 0 => format!("added, with {written} rows"),
            "dropped" => format!("dropped, with {gone} rows of the copy"),
            "unknown" => "it cannot be told what was changed".to_owned(),
            "replaced" => "all that was in it, made by no sync".to_owned(),
            other => other.to_owned(),
        };
        printable(&format!("{object}: {how}")).into_owned()
    }
}

/// Lines that are shown of what is discarded.
const DISCARDED_SHOWN_MAX: usize = 10;

fn discarded_lines(discarded: &[Discarded]) -> Vec<String> {
    let mut lines: Vec<String> = discarded.iter().take(DISCARDED_SHOWN_MAX).map(Discarded::text).collect();
    if discarded.len() > DISCARDED_SHOWN_MAX {
        lines.push(format!("and {} more: --json has them all", discarded.len() - DISCARDED_SHOWN_MAX));
    }
    lines
}

impl Promoted {
    pub fn text(&self) -> String {
        let mut lines = vec![self.line()];
        lines.extend(discarded_lines(&self.discarded).into_iter().map(|one| format!("discarded: {one}")));
        lines.join("\n")
    }

    fn line(&self) -> String {
        format!(
            "generation {} serves as \"{}\": {} rows, {}, after {:.1} s",
            self.generation,
            printable(&self.database),
            count(self.rows),
            bytes(self.bytes),
            self.seconds
        )
    }
}
