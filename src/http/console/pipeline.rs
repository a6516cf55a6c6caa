//! One pipeline: how it does, what to do about it, and behind tabs its tables, runs, verification and storage.

use askama::Template;

use crate::error::Result;
use crate::status::fleet::{Duty, Fleet, Overview, Pause, Problem, RunState, State};
use crate::status::snapshot::{GenerationStatus, SnapshotStatus};
use crate::status::{PipelineStatus, SlotStatus, text};

use super::action::{self, Action};
use super::chart::{Chart, Line, Pick, Point, Unit, gauge, line};
use super::history::{AskedRun, Beside, Generation, History, durations, generations_of, history};
use super::list::Query;
use super::overview::{behind, lag_points, lag_seconds, render};
use super::schema::{SchemaView, schema};
use super::shell::{Room, Shell, Viewer};
use super::storage::{StorageView, storage};
use super::tables::{Quarantined, Tables, quarantined_of, tables};
use super::words::{Chip, Clock, Markup, Tone, pipeline_path, sameness_chip};

/// A part of a pipeline's page, each with an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Now,
    Tables,
    Schema,
    Runs,
    Verification,
    Storage,
}

impl Tab {
    const ALL: [Tab; 6] = [Tab::Now, Tab::Tables, Tab::Schema, Tab::Runs, Tab::Verification, Tab::Storage];

    /// The end of its address: `/pipelines/{name}/{this}`; of [`Tab::Now`] nothing.
    pub fn path(self) -> &'static str {
        match self {
            Tab::Now => "",
            Tab::Tables => "tables",
            Tab::Schema => "schema",
            Tab::Runs => "runs",
            Tab::Verification => "verification",
            Tab::Storage => "storage",
        }
    }

    pub fn of_path(path: &str) -> Option<Tab> {
        Tab::ALL.into_iter().find(|tab| tab.path() == path)
    }

    fn title(self) -> &'static str {
        match self {
            Tab::Now => "Now",
            Tab::Tables => "Tables",
            Tab::Schema => "Schema",
            Tab::Runs => "Runs",
            Tab::Verification => "Verification",
            Tab::Storage => "Storage",
        }
    }
}

#[derive(Template)]
#[template(path = "pipeline.html")]
struct Page<'a> {
    shell: Shell<'a>,
    pipeline: &'a Overview,
    path: String,
    chip: Chip,
    since: Option<String>,
    since_at: Markup,
    asked_at: Option<Markup>,
    tabs: Vec<TabLink>,
    actions: Vec<Action>,
    paused: Option<(&'a Pause, Markup)>,
    problem: Option<ProblemView<'a>>,
    running: Vec<AskedRun>,
    body: Body<'a>,
}

struct TabLink {
    title: &'static str,
    href: String,
    is_here: bool,
    note: Option<String>,
}

struct ProblemView<'a> {
    problem: &'a Problem,
    at: Markup,
    retry: Option<(String, Markup)>,
}

enum Body<'a> {
    Now(Box<Now>),
    Tables(Tables, &'a Query),
    Schema(Box<SchemaView>, &'a Query),
    Runs(Box<History>),
    Verification(Box<VerificationView>),
    Storage(Option<Box<StorageView>>),
}

struct Now {
    figures: Vec<Figure>,
    charts: Vec<Chart>,
    slot: Option<SlotView>,
    facts: Vec<(&'static str, Markup)>,
    quarantined: Vec<Quarantined>,
    notes: Vec<String>,
    generations: Vec<Generation>,
    durations: Option<Chart>,
    key_action: Option<Action>,
}

/// A number that is worth its size.
struct Figure {
    label: &'static str,
    value: String,
    detail: String,
    tone: Option<Tone>,
}

struct SlotView {
    name: String,
    says: String,
    gauge: Markup,
    detail: String,
}

struct VerificationView {
    says: String,
    chip: Chip,
    at: Option<Markup>,
    took: Option<String>,
    rows: Vec<VerifiedRow>,
    action: Option<Action>,
}

struct VerifiedRow {
    name: String,
    chip: Chip,
    at: Markup,
    rows_source: String,
    rows_target: String,
    differences: String,
}

/// The page of a pipeline, with what was looked up for it.
pub fn pipeline(
    fleet: &Fleet,
    pipeline: &Overview,
    tab: Tab,
    query: &Query,
    beside: &Beside<'_>,
    viewer: &Viewer,
) -> Result<String> {
    let title = match tab {
        Tab::Now => pipeline.name.clone(),
        tab => format!("{} of {}", tab.title(), pipeline.name),
    };
    let shell = Shell::new(title, Room::Fleet, fleet, viewer);
    let clock = shell.clock;
    let path = pipeline_path(&pipeline.name);
    let body = match tab {
        Tab::Now => Body::Now(Box::new(now(pipeline, beside.generations, clock))),
        Tab::Tables => Body::Tables(tables(pipeline, query, clock), query),
        Tab::Schema => Body::Schema(Box::new(schema(pipeline, query, clock)), query),
        Tab::Runs => Body::Runs(Box::new(history(pipeline, beside, clock))),
        Tab::Verification => Body::Verification(Box::new(verification(pipeline, clock))),
        Tab::Storage => Body::Storage(storage(pipeline, clock).map(Box::new)),
    };
    let is_on =
        |run: &&crate::status::fleet::Run| matches!(run.state, RunState::Running | RunState::Cancelling);
    render(&Page {
        chip: pipeline.health.into(),
        since: clock.elapsed(&pipeline.since),
        since_at: clock.moment(&pipeline.since),
        asked_at: pipeline.asked_at.as_deref().map(|at| clock.moment(at)),
        tabs: Tab::ALL.into_iter().map(|one| tab_link(pipeline, &path, one, tab)).collect(),
        actions: action::of_pipeline(pipeline),
        paused: pipeline.paused.as_ref().map(|pause| (pause, clock.moment(&pause.since))),
        problem: pipeline.problem.as_ref().map(|problem| problem_view(problem, clock)),
        running: pipeline.runs.iter().filter(is_on).map(|run| super::history::asked(run, clock)).collect(),
        body,
        pipeline,
        path,
        shell,
    })
}

fn tab_link(pipeline: &Overview, path: &str, tab: Tab, here: Tab) -> TabLink {
    let note = match (tab, &pipeline.state) {
        (Tab::Tables, Some(State::Stream(status))) => Some(text::count(status.tables.len() as u64)),
        (Tab::Schema, _) => pipeline
            .schema_drift
            .as_ref()
            .map(|drift| drift.differences.len() as u64 + drift.left_out)
            .filter(|number| *number > 0)
            .map(text::count),
        (Tab::Verification, _) => pipeline
            .verification
            .as_ref()
            .filter(|verification| !verification.identical)
            .map(|verification| format!("{} different", verification.tables_different)),
        _ => None,
    };
    let end = tab.path();
    let href = if end.is_empty() { path.to_owned() } else { format!("{path}/{end}") };
    TabLink { title: tab.title(), href, is_here: tab == here, note }
}

fn problem_view(problem: &Problem, clock: Clock) -> ProblemView<'_> {
    ProblemView {
        problem,
        at: clock.moment(&problem.at),
        retry: problem.retry_at.as_deref().map(|at| (clock.relative(at), clock.moment(at))),
    }
}

fn now(pipeline: &Overview, kept: &[GenerationStatus], clock: Clock) -> Now {
    let mut now = Now {
        figures: Vec::new(),
        charts: charts(pipeline, clock),
        slot: None,
        facts: Vec::new(),
        quarantined: quarantined_of(pipeline),
        notes: Vec::new(),
        generations: Vec::new(),
        durations: None,
        key_action: action::has_keys(pipeline).then(|| action::resync_key(pipeline)),
    };
    if let Some(behind) = behind(pipeline) {
        let label = if behind.how == "old" { "Age" } else { "Behind" };
        let detail = match &pipeline.state {
            Some(State::Stream(status)) => status.lag_bytes.map(text::bytes).unwrap_or_default(),
            _ => String::new(),
        };
        let detail = if lag_seconds(pipeline).is_some() { detail } else { String::new() };
        now.figures.push(Figure { label, value: behind.value, detail, tone: None });
    }
    match &pipeline.state {
        Some(State::Stream(status)) => of_stream(&mut now, pipeline, status, clock),
        Some(State::Snapshot(status)) => of_snapshot(&mut now, pipeline, status, kept, clock),
        None => {}
    }
    if let Some(verification) = &pipeline.verification {
        let (value, tone) =
            if verification.identical { ("identical", Tone::Good) } else { ("different", Tone::Bad) };
        now.figures.push(Figure {
            label: "Verified",
            value: value.into(),
            detail: clock.relative(&verification.at),
            tone: Some(tone),
        });
    }
    if let Some(drift) = &pipeline.schema_drift {
        let page = format!("{}/schema", pipeline_path(&pipeline.name));
        now.facts.push(("Schema", Markup(format!("<a href=\"{page}\">{}</a>", words(&drift.verdict())))));
    }
    now.facts.push(("Mode", words(&pipeline.mode)));
    now.facts.push(("This process", words(duty(pipeline.duty))));
    now
}

fn duty(duty: Duty) -> &'static str {
    match duty {
        Duty::Active => "runs it",
        Duty::Standby => "stands by while another runs it",
        Duty::Idle => "does not run it",
    }
}

fn words(text: &str) -> Markup {
    Markup(super::words::escaped(text))
}

fn of_stream(now: &mut Now, pipeline: &Overview, status: &PipelineStatus, clock: Clock) {
    if let Some(progress) = &pipeline.progress {
        now.figures.push(Figure {
            label: "Throughput",
            value: format!("{}/s", text::count(progress.changes_per_second)),
            detail: format!("{} applied", text::several(progress.changes, "change")),
            tone: None,
        });
    }
    if let Some(slot) = &status.slot {
        now.figures.push(Figure {
            label: "Log held",
            value: text::bytes(slot.wal_held_bytes),
            detail: format!("of {}", text::bytes(slot.wal_budget_bytes)),
            tone: (slot.wal_held_bytes > slot.wal_budget_bytes).then_some(Tone::Warn),
        });
        now.slot = Some(slot_view(slot));
    }
    let quarantined = now.quarantined.len();
    if !status.tables.is_empty() {
        now.figures.push(Figure {
            label: "Tables",
            value: text::count(status.tables.len() as u64),
            detail: if quarantined > 0 {
                format!("{quarantined} quarantined")
            } else {
                "none quarantined".into()
            },
            tone: (quarantined > 0).then_some(Tone::Bad),
        });
    }
    let phase = match &status.doing {
        Some(doing) => format!("{}: {doing}", status.phase.words()),
        None => status.phase.words().to_owned(),
    };
    now.facts.push(("Phase", words(&phase)));
    if let Some(ran) = &status.running_on {
        let on = words(&format!("{}, process {}", ran.host, ran.process_id));
        now.facts.push(("Runs on", Markup(format!("{on}, since {}", clock.moment(&ran.since)))));
    }
    if let Some(position) = status.position {
        let of = status.source_position.map(|end| format!(" of {end}")).unwrap_or_default();
        now.facts.push(("Position", words(&format!("{position}{of}"))));
    }
    if status.retries > 0 {
        let next = status.retry_at.as_deref().map(|at| format!(", next {}", clock.moment(at)));
        let times = text::several(status.retries, "attempt");
        now.facts
            .push(("Retries", Markup(format!("{times} since the last success{}", next.unwrap_or_default()))));
    }
    if let Some(at) = &status.sequences.carried_at {
        let carried = text::count(status.sequences.carried);
        now.facts.push(("Sequences", Markup(format!("{carried} carried at {}", clock.moment(at)))));
    }
    of_archive(now, status, clock);
    of_keys(now, status);
    now.notes.clone_from(&status.notes);
}

fn of_archive(now: &mut Now, status: &PipelineStatus, clock: Clock) {
    let Some(archive) = &status.archive else { return };
    now.facts.push(("Archive", words(&archive.archive)));
    let number = |file: Option<u64>| file.map_or_else(|| "none".into(), |file| file.to_string());
    let mut files = format!("{} of {}", number(archive.file), number(archive.last_file));
    if let Some(behind) = archive.files_behind {
        files.push_str(&format!(", {} behind", text::count(behind)));
    }
    now.facts.push(("Files applied", words(&files)));
    if let Some(at) = &archive.last_file_sealed_at {
        now.facts.push(("Last file sealed", clock.moment(at)));
    }
    if let Some(at) = &archive.last_commit_at {
        now.facts.push(("Last commit", clock.moment(at)));
    }
}

fn of_keys(now: &mut Now, status: &PipelineStatus) {
    let Some(keys) = &status.keys else { return };
    now.figures.push(Figure {
        label: "Keys",
        value: text::count(keys.present),
        detail: format!("{} gone", text::count(keys.gone)),
        tone: None,
    });
    now.figures.push(Figure {
        label: "Misfits",
        value: text::count(keys.misfits),
        detail: "parts of values without a row".into(),
        tone: (keys.misfits > 0).then_some(Tone::Warn),
    });
    if let Some(history) = &keys.history {
        let of = keys.source_offset.map(|end| format!(" of {}", text::count(end))).unwrap_or_default();
        let at = format!("{history}, at {}{of}", text::count(keys.offset));
        now.facts.push(("History", words(&at)));
    }
    if !keys.is_scanned {
        now.notes.push("Not all keys have been looked at yet.".into());
    }
    if keys.misfits > 0 {
        now.facts.push(("Misfits", words("pgdiode.keyspace_misfit at the target has them, with reasons")));
    }
}

#[allow(clippy::cast_precision_loss)] // a share of it is drawn
fn slot_view(slot: &SlotStatus) -> SlotView {
    let (held, budget) = (slot.wal_held_bytes as f64, slot.wal_budget_bytes as f64);
    let lost = slot.wal_status.as_deref().is_some_and(|status| matches!(status, "unreserved" | "lost"));
    let tone = match held / budget.max(1.0) {
        _ if lost => Tone::Bad,
        share if share > 1.0 => Tone::Warn,
        _ => Tone::Good,
    };
    let mut detail = vec![if slot.active { "active".to_owned() } else { "inactive".to_owned() }];
    detail.extend(slot.wal_status.clone());
    detail.extend(slot.safe_wal_bytes.filter(|_| !lost).map(|left| {
        format!("{} until the server invalidates it", text::bytes(u64::try_from(left).unwrap_or(0)))
    }));
    detail.extend(
        slot.budget_reached_in_seconds
            .filter(|_| held <= budget)
            .map(|left| format!("over budget in {}", text::duration(left))),
    );
    SlotView {
        name: slot.name.clone(),
        says: format!("{} of {}", text::bytes(slot.wal_held_bytes), text::bytes(slot.wal_budget_bytes)),
        gauge: gauge("Of the budget", held, budget, tone, &[]),
        detail: detail.join(", "),
    }
}

fn of_snapshot(
    now: &mut Now,
    pipeline: &Overview,
    status: &SnapshotStatus,
    kept: &[GenerationStatus],
    clock: Clock,
) {
    if let Some(serving) = &status.serving {
        now.figures.push(Figure {
            label: "Serving",
            value: format!("generation {}", serving.number),
            detail: serving.bytes.map(text::bytes).unwrap_or_default(),
            tone: None,
        });
    }
    if let Some(schedule) = &status.schedule {
        let next = schedule.next_run.as_deref();
        now.figures.push(Figure {
            label: "Next sync",
            value: next.map_or_else(|| "never".into(), |at| clock.relative(at)),
            detail: format!("{} {}", schedule.expression, schedule.time_zone),
            tone: None,
        });
        if let Some(at) = next {
            let local = schedule.next_run_local.as_deref().unwrap_or_default();
            let there = words(&format!("{local} {}", schedule.time_zone));
            now.facts.push(("Next sync", Markup(format!("{} ({there})", clock.moment(at)))));
        }
        let keepers: Vec<String> =
            status.kept_by.iter().map(|one| format!("process {} on {}", one.process_id, one.host)).collect();
        let by = if keepers.is_empty() { "nobody".to_owned() } else { keepers.join(", ") };
        now.facts.push(("Schedule kept by", words(&by)));
    }
    if let Some(run) = &status.last_run {
        let said =
            words(&format!("{} {}: {}, {}", run.verb, run.id, run.verdict, text::seconds(run.seconds)));
        now.facts.push(("Last run", Markup(format!("{said}, {}", clock.moment(&run.started)))));
    }
    let runs = format!("{} done, {} not", text::count(status.runs_done), text::count(status.runs_failed));
    now.facts.push(("Runs", words(&runs)));
    now.generations = generations_of(pipeline, kept, clock);
    now.durations = durations(pipeline, clock);
}

#[allow(clippy::cast_precision_loss)] // it is drawn
fn charts(pipeline: &Overview, clock: Clock) -> Vec<Chart> {
    let until = clock.now().map_or(0, jiff::Timestamp::as_second);
    let drawn = |id, title: &str, unit, points: Vec<Point>| {
        let one = Line {
            id,
            title: title.to_owned(),
            unit,
            points,
            forecast: None,
            marks: Vec::new(),
            at_least: 0.0,
            until,
        };
        line(&one, Pick::Largest, clock)
    };
    let rates = pipeline
        .samples
        .iter()
        .map(|sample| Point { at: sample.at, value: sample.changes_per_second.map(|rate| rate as f64) });
    [
        drawn("lag", "Lag", Unit::Seconds, lag_points(&pipeline.samples)),
        drawn("throughput", "Changes a second", Unit::PerSecond, rates.collect()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn verification(pipeline: &Overview, clock: Clock) -> VerificationView {
    let action = action::verify(pipeline);
    let Some(last) = &pipeline.verification else {
        let says = if action.is_some() {
            "Nothing has been verified yet."
        } else {
            "Every sync compares both sides before it swaps; the runs tell what came of it."
        };
        let chip = Chip::new(Tone::Idle, "not verified");
        return VerificationView { says: says.into(), chip, at: None, took: None, rows: Vec::new(), action };
    };
    let tables = text::several(last.tables, "table");
    let says = if last.identical {
        format!("Both sides are identical: {tables} compared, row by row, at one commit.")
    } else {
        format!("{} of {tables} differ.", text::count(last.tables_different))
    };
    let mut of_tables: Vec<_> = last.of_tables.iter().collect();
    of_tables.sort_by(|a, b| a.identical.cmp(&b.identical).then_with(|| a.name.cmp(&b.name)));
    let rows = of_tables.into_iter().map(|one| VerifiedRow {
        name: one.name.clone(),
        chip: sameness_chip(one.identical),
        at: clock.moment(&one.at),
        rows_source: text::count(one.rows_source),
        rows_target: text::count(one.rows_target),
        differences: text::count(one.differences),
    });
    VerificationView {
        says,
        chip: sameness_chip(last.identical),
        at: Some(clock.moment(&last.at)),
        took: Some(text::seconds(last.seconds)),
        rows: rows.collect(),
        action,
    }
}
