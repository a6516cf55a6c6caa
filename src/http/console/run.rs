//! Something that was asked for, while it works and after it has ended: one page, one address.

use askama::Template;

use crate::error::Result;
use crate::status::fleet::{Fleet, LogLine, Problem, Run, RunState};
use crate::status::{Progress, text};

use super::action::{self, Action};
use super::chart::Chart;
use super::history::{Beside, Generation, generations_of, phases, phases_of};
use super::overview::render;
use super::shell::{Room, Shell, Viewer};
use super::words::{Chip, Markup, pipeline_path, segment};

#[derive(Template)]
#[template(path = "run.html")]
struct Page<'a> {
    shell: Shell<'a>,
    run: &'a Run,
    pipeline_href: String,
    chip: Chip,
    verdict: String,
    started: Markup,
    ended: Option<Markup>,
    took: String,
    steps: Vec<Step>,
    doing: Option<Doing>,
    error: Option<&'a Problem>,
    title: String,
    result: Vec<(String, String)>,
    result_json: Option<String>,
    log: Vec<(Markup, &'a LogLine)>,
    cancel: Option<Action>,
    phases: Option<Chart>,
    generations: Vec<Generation>,
}

/// How far it is.
struct Doing {
    words: String,
    percent: Option<u64>,
    tables: Option<String>,
    rows: String,
    bytes: String,
    of_bytes: Option<String>,
    rate: String,
    left: Option<String>,
    current: Vec<String>,
}

struct Step {
    word: &'static str,
    /// `done`, `now` or `ahead`.
    state: &'static str,
}

/// What a sync goes through, in this order.
const SYNC_PHASES: [&str; 7] =
    ["exporting", "copying", "refreshing", "analyzing", "checking", "preserving", "swapping"];

pub(super) fn path(run: &Run) -> String {
    format!("/runs/{}", segment(&run.id))
}

/// The page of a run, with what was looked up for its pipeline.
pub fn run(fleet: &Fleet, run: &Run, beside: &Beside<'_>, viewer: &Viewer) -> Result<String> {
    let title = capitalised(&format!("{} of {}", run.verb, run.pipeline));
    let shell = Shell::new(title.clone(), Room::Fleet, fleet, viewer);
    let clock = shell.clock;
    let is_on = matches!(run.state, RunState::Running | RunState::Cancelling);
    let of = fleet
        .pipelines
        .iter()
        .find(|one| one.name == run.pipeline)
        .filter(|one| action::is_snapshot(one) && matches!(run.verb.as_str(), "sync" | "rollback"));
    let page = Page {
        run,
        title,
        pipeline_href: pipeline_path(&run.pipeline),
        chip: run.state.into(),
        verdict: verdict(run),
        started: clock.moment(&run.started_at),
        ended: run.ended_at.as_deref().map(|at| clock.moment(at)),
        took: text::seconds(run.seconds),
        steps: steps(run),
        doing: run.progress.as_ref().filter(|_| is_on).map(doing),
        error: run.error.as_ref(),
        result: run.result.as_ref().map(plain_facts).unwrap_or_default(),
        result_json: run.result.as_ref().and_then(|result| serde_json::to_string_pretty(result).ok()),
        log: run.log.iter().map(|line| (clock.moment(&line.at), line)).collect(),
        cancel: action::cancel(run),
        phases: of.and_then(|of| phases("run", &phases_of(of, run, beside, &SYNC_PHASES, clock))),
        generations: of.map_or_else(Vec::new, |of| generations_of(of, beside.generations, clock)),
        shell,
    };
    render(&page)
}

fn capitalised(words: &str) -> String {
    let mut rest = words.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

fn verdict(run: &Run) -> String {
    let took = text::seconds(run.seconds);
    let verb = &run.verb;
    match run.state {
        RunState::Running => match &run.progress {
            Some(progress) if !progress.doing.is_empty() => {
                format!("The {verb} of {} is {}, for {took} now.", run.pipeline, progress.doing)
            }
            _ => format!("The {verb} of {} has been running for {took}.", run.pipeline),
        },
        RunState::Cancelling => {
            format!("The {verb} of {} is about to end: somebody cancelled it.", run.pipeline)
        }
        RunState::Done => format!("The {verb} of {} was done in {took}.", run.pipeline),
        RunState::Failed => format!("The {verb} of {} failed after {took}.", run.pipeline),
        RunState::Cancelled => format!("The {verb} of {} was cancelled after {took}.", run.pipeline),
        RunState::Interrupted => format!("The {verb} of {} ended with its process.", run.pipeline),
    }
}

fn steps(run: &Run) -> Vec<Step> {
    let doing = run.progress.as_ref().map_or("", |progress| progress.doing.as_str());
    let now = SYNC_PHASES.iter().position(|phase| doing.starts_with(phase));
    let ended_well = run.state == RunState::Done;
    if run.verb != "sync" || (now.is_none() && !ended_well) {
        return Vec::new();
    }
    let state = |index: usize| match now {
        _ if ended_well => "done",
        Some(now) if index < now => "done",
        Some(now) if index == now => "now",
        _ => "ahead",
    };
    SYNC_PHASES.iter().enumerate().map(|(index, word)| Step { word, state: state(index) }).collect()
}

fn doing(progress: &Progress) -> Doing {
    let words = if progress.doing.is_empty() { progress.phase.words() } else { &progress.doing };
    Doing {
        words: words.to_owned(),
        percent: progress
            .bytes
            .saturating_mul(100)
            .checked_div(progress.bytes_total)
            .map(|percent| percent.min(100)),
        tables: (progress.tables_total > 0).then(|| {
            format!("{} of {}", text::count(progress.tables_done), text::count(progress.tables_total))
        }),
        rows: text::count(progress.rows),
        bytes: text::bytes(progress.bytes),
        of_bytes: (progress.bytes_total > 0).then(|| text::bytes(progress.bytes_total)),
        rate: format!("{}/s", text::bytes(progress.bytes_per_second)),
        left: progress.eta_seconds.map(text::duration),
        current: progress.current.clone(),
    }
}

/// What of a result can be said in a line each.
fn plain_facts(result: &serde_json::Value) -> Vec<(String, String)> {
    let Some(fields) = result.as_object() else { return Vec::new() };
    fields
        .iter()
        .filter_map(|(name, value)| {
            let shown = match value {
                serde_json::Value::Bool(true) => "yes".to_owned(),
                serde_json::Value::Bool(false) => "no".to_owned(),
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Number(number) => match (number.as_u64(), name.as_str()) {
                    (Some(bytes), "bytes") => text::bytes(bytes),
                    (Some(number), _) => text::count(number),
                    (None, "seconds") => text::seconds(number.as_f64().unwrap_or_default()),
                    _ => number.to_string(),
                },
                _ => return None,
            };
            // What took how long stands above.
            (name != "seconds").then(|| (capitalised(&name.replace('_', " ")), shown))
        })
        .collect()
}
