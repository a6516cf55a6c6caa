//! All pipelines at a glance: one sentence, how many are how, and a list with the worst first.

use std::cmp::Reverse;

use askama::Template;

use crate::error::{Error, Result};
use crate::status::fleet::{Fleet, Health, Overview, RunState, Sample, State};
use crate::status::text;

use super::action::{self, Action};
use super::chart::{Point, Unit, spark};
use super::list::{Pager, Query};
use super::shell::{Room, Shell, Viewer};
use super::words::{Chip, Clock, Markup, dom_id, health_word, listed, pipeline_path, visible};

#[derive(Template)]
#[template(path = "overview.html")]
struct Page<'a> {
    shell: Shell<'a>,
    verdict: String,
    counters: Vec<Counter>,
    query: &'a Query,
    rows: Vec<Row>,
    pager: Pager,
}

struct Counter {
    chip: Chip,
    number: usize,
    href: String,
    is_chosen: bool,
}

struct Row {
    id: String,
    name: String,
    href: String,
    mode: String,
    source: String,
    target: String,
    chip: Chip,
    /// Its verdict, where that is more than the numbers beside it.
    says: Option<String>,
    behind: Option<Behind>,
    /// What to say where there is none.
    no_behind: &'static str,
    spark: Markup,
    since: Option<String>,
    since_at: Markup,
    next: Option<(String, Markup)>,
    quarantined: usize,
    run: Option<(String, String)>,
    actions: Vec<Action>,
}

/// How far a replica is behind, or how old it is.
pub(super) struct Behind {
    pub value: String,
    /// `behind` or `old`.
    pub how: &'static str,
}

const HEALTHS: [Health; 5] =
    [Health::Failed, Health::Attention, Health::Paused, Health::Working, Health::Healthy];

/// The page of all pipelines.
pub fn overview(fleet: &Fleet, query: &Query, viewer: &Viewer) -> Result<String> {
    let shell = Shell::new("Overview", Room::Fleet, fleet, viewer);
    let counters = HEALTHS.into_iter().map(|health| counter(fleet, query, health)).collect();
    let mut found: Vec<&Overview> = fleet
        .pipelines
        .iter()
        .map(AsRef::as_ref)
        .filter(|one| query.matches(&one.name) || query.matches(&one.source) || query.matches(&one.target))
        .filter(|one| chosen(query).is_none_or(|health| one.health == health))
        .collect();
    found.sort_by(|a, b| {
        let order = |one: &Overview| Reverse(one.health);
        let lag = |one: &Overview| lag_seconds(one).unwrap_or(0.0);
        order(a).cmp(&order(b)).then(lag(b).total_cmp(&lag(a))).then(a.name.cmp(&b.name))
    });
    let (found, pager) = query.page(found, "/");
    let rows = found.into_iter().map(|one| row(one, shell.clock)).collect();
    render(&Page { verdict: verdict(fleet), counters, query, rows, pager, shell })
}

pub(super) fn render(page: &impl Template) -> Result<String> {
    let page = page.render().map_err(|error| Error::unexpected("a page cannot be written").because(error))?;
    Ok(visible(page))
}

fn chosen(query: &Query) -> Option<Health> {
    HEALTHS.into_iter().find(|health| health_word(*health) == query.health)
}

fn counter(fleet: &Fleet, query: &Query, health: Health) -> Counter {
    let is_chosen = chosen(query) == Some(health);
    // Chosen once more, it is chosen no longer.
    let word = if is_chosen { "" } else { health_word(health) };
    Counter {
        chip: health.into(),
        number: fleet.pipelines.iter().filter(|one| one.health == health).count(),
        href: query.href("/", word, 1),
        is_chosen,
    }
}

/// All of them in one sentence.
fn verdict(fleet: &Fleet) -> String {
    let total = fleet.pipelines.len();
    let names = |health: Health| -> Vec<String> {
        fleet.pipelines.iter().filter(|one| one.health == health).map(|one| one.name.clone()).collect()
    };
    let healthy = names(Health::Healthy).len();
    let mut said = Vec::new();
    for (health, one, many) in [
        (Health::Failed, "has failed", "have failed"),
        (Health::Attention, "needs attention", "need attention"),
    ] {
        let names = names(health);
        match names.len() {
            0 => {}
            1..=2 => said.push(format!("{} {}", listed(&names), if names.len() == 1 { one } else { many })),
            more => said.push(format!("{more} replicas {many}")),
        }
    }
    if !said.is_empty() {
        return format!(
            "{}; {healthy} of {total} {} healthy.",
            listed(&said),
            if healthy == 1 { "is" } else { "are" }
        );
    }
    match (total, healthy) {
        (0, _) => "No pipeline is configured.".to_owned(),
        (1, 1) => format!("The replica {} is healthy{}.", fleet.pipelines[0].name, furthest(fleet, "")),
        _ if healthy == total => {
            format!("All {total} replicas are healthy{}.", furthest(fleet, "the furthest behind is "))
        }
        _ => {
            let rest = [(Health::Working, "working"), (Health::Paused, "paused")].map(|(health, word)| {
                let number = names(health).len();
                (number > 0).then(|| format!("{number} {} {word}", if number == 1 { "is" } else { "are" }))
            });
            let mut said = vec![format!(
                "{healthy} of {total} replicas {} healthy",
                if healthy == 1 { "is" } else { "are" }
            )];
            said.extend(rest.into_iter().flatten());
            format!("{}.", listed(&said))
        }
    }
}

/// `; the furthest behind is orders, 0.40 s`.
fn furthest(fleet: &Fleet, lead: &str) -> String {
    let lagging = fleet.pipelines.iter().filter_map(|one| lag_seconds(one).map(|lag| (lag, one)));
    let Some((lag, one)) = lagging.max_by(|a, b| a.0.total_cmp(&b.0)) else { return String::new() };
    match lead {
        "" => format!(", {} behind", text::seconds(lag)),
        _ => format!("; {lead}{}, {}", one.name, text::seconds(lag)),
    }
}

/// Of what streams: a snapshot is as old as it was meant to be.
pub(super) fn lag_seconds(pipeline: &Overview) -> Option<f64> {
    if action::is_snapshot(pipeline) {
        return None;
    }
    let running = pipeline.progress.as_ref().and_then(|progress| progress.lag_seconds);
    running.or(match &pipeline.state {
        Some(State::Stream(status)) => status.lag_seconds,
        _ => None,
    })
}

pub(super) fn behind(pipeline: &Overview) -> Option<Behind> {
    if let Some(lag) = lag_seconds(pipeline) {
        return Some(Behind { value: text::seconds(lag), how: "behind" });
    }
    match &pipeline.state {
        Some(State::Snapshot(status)) => {
            let age = status.serving.as_ref()?.age_seconds?;
            Some(Behind { value: text::duration(age), how: "old" })
        }
        Some(State::Stream(status)) => {
            let files = status.archive.as_ref().and_then(|archive| archive.files_behind);
            let value =
                files.map(|files| text::several(files, "file")).or(status.lag_bytes.map(text::bytes))?;
            Some(Behind { value, how: "behind" })
        }
        None => None,
    }
}

pub(super) fn lag_points(samples: &[Sample]) -> Vec<Point> {
    samples.iter().map(|sample| Point { at: sample.at, value: sample.lag_seconds }).collect()
}

/// In a list nearly all are PostgreSQL's, and as whom one is there is on the pipeline's page.
fn short(place: &str) -> &str {
    let bare = ["postgresql://", "postgres://"].iter().find_map(|scheme| place.strip_prefix(scheme));
    let bare = bare.unwrap_or(place);
    bare.split_once(" as ").map_or(bare, |(place, _)| place)
}

fn row(pipeline: &Overview, clock: Clock) -> Row {
    let quarantined = match &pipeline.state {
        Some(State::Stream(status)) => super::tables::quarantined(status).count(),
        _ => 0,
    };
    let next = match &pipeline.state {
        Some(State::Snapshot(status)) => status
            .schedule
            .as_ref()
            .and_then(|schedule| schedule.next_run.as_deref())
            .map(|at| (clock.relative(at), clock.moment(at))),
        _ => None,
    };
    let run = pipeline
        .runs
        .iter()
        .find(|run| matches!(run.state, RunState::Running | RunState::Cancelling))
        .map(|run| (super::run::path(run), format!("{} by {}", run.verb, run.actor)));
    Row {
        id: dom_id("pipeline", &pipeline.name),
        href: pipeline_path(&pipeline.name),
        name: pipeline.name.clone(),
        mode: pipeline.mode.clone(),
        source: short(&pipeline.source).to_owned(),
        target: short(&pipeline.target).to_owned(),
        chip: pipeline.health.into(),
        says: (pipeline.health != Health::Healthy).then(|| pipeline.verdict.clone()),
        behind: behind(pipeline),
        no_behind: match &pipeline.state {
            Some(State::Snapshot(_)) => "no copy yet",
            _ => "unknown",
        },
        spark: spark(&lag_points(&pipeline.samples), Unit::Seconds, "Lag of the last day"),
        since: clock.elapsed(&pipeline.since),
        since_at: clock.moment(&pipeline.since),
        next,
        quarantined,
        run,
        actions: action::foremost(pipeline),
    }
}
