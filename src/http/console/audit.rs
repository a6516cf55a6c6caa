//! Who had what done: the entries of a target's audit log, and whether they still follow one another.

use askama::Template;
use serde::Deserialize;

use crate::audit::{Record, Report};
use crate::error::Result;
use crate::status::fleet::Fleet;
use crate::status::text;

use super::action::{self, Action};
use super::overview::render;
use super::shell::{Room, Shell, Viewer};
use super::words::{Chip, Markup, Tone, segment, verdict_chip};

/// What the address of the page says after its question mark.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AuditQuery {
    /// Whose log: a pipeline's name.
    pub pipeline: String,
    /// Only what is done under this word, by this person, with this verdict; all where it is empty.
    pub action: String,
    pub actor: String,
    pub verdict: String,
}

/// What the page shows.
#[derive(Debug, Default)]
pub struct AuditPage<'a> {
    /// The oldest first, as [`latest`](crate::audit::latest) hands them over; the page filters them.
    pub entries: &'a [Record],
    /// The last check of the chain, and when that was; `None` before the first.
    pub verified: Option<(&'a Report, &'a str)>,
    /// Why the entries could not be read, and what to do.
    pub problem: Option<(String, Option<String>)>,
    /// Where all of them come as JSON lines.
    pub export_url: String,
}

#[derive(Template)]
#[template(path = "audit.html")]
struct Page<'a> {
    shell: Shell<'a>,
    query: &'a AuditQuery,
    pipelines: Vec<&'a str>,
    chain: Chain,
    entries: Vec<Entry>,
    total: usize,
    problem: &'a Option<(String, Option<String>)>,
    export_url: &'a str,
    verify: Action,
}

struct Chain {
    chip: Chip,
    says: String,
    at: Option<Markup>,
    head: Option<String>,
}

struct Entry {
    number: i64,
    at: Markup,
    pipeline: String,
    actor: String,
    action: String,
    reason: Option<String>,
    chip: Chip,
    details: String,
    hash: String,
}

/// The page of the audit log.
pub fn audit(fleet: &Fleet, page: &AuditPage<'_>, query: &AuditQuery, viewer: &Viewer) -> Result<String> {
    let shell = Shell::new("Audit", Room::Audit, fleet, viewer);
    let matches = |wanted: &str, found: &str| {
        wanted.trim().is_empty() || found.to_lowercase().contains(&wanted.trim().to_lowercase())
    };
    let entries: Vec<Entry> = page
        .entries
        .iter()
        .rev()
        .filter(|one| query.pipeline.is_empty() || one.pipeline == query.pipeline)
        .filter(|one| matches(&query.action, &one.action) && matches(&query.verdict, &one.verdict))
        .filter(|one| matches(&query.actor, &actor(one)))
        .map(|one| Entry {
            number: one.number,
            at: shell.clock.moment(&one.at),
            pipeline: one.pipeline.clone(),
            actor: actor(one),
            action: one.action.clone(),
            reason: one.reason.clone(),
            chip: verdict_chip(&one.verdict),
            details: details(one),
            hash: one.hash.clone(),
        })
        .collect();
    let mut verify = action::verify_audit();
    if !query.pipeline.is_empty() {
        verify.fields.push(("pipeline", query.pipeline.clone()));
    }
    render(&Page {
        query,
        pipelines: fleet.pipelines.iter().map(|one| one.name.as_str()).collect(),
        chain: chain(page, &shell),
        total: page.entries.len(),
        entries,
        problem: &page.problem,
        export_url: &page.export_url,
        verify,
        shell,
    })
}

/// Who asked for it, where that was through a door; else whose process did it.
fn actor(record: &Record) -> String {
    let details: Option<serde_json::Value> = serde_json::from_str(record.details.get()).ok();
    let asked = details.as_ref().and_then(|details| details["actor"].as_str());
    asked.map_or_else(|| format!("{}@{}", record.os_user, record.host), str::to_owned)
}

fn details(record: &Record) -> String {
    serde_json::from_str::<serde_json::Value>(record.details.get())
        .and_then(|value| serde_json::to_string_pretty(&value))
        .unwrap_or_else(|_| record.details.get().to_owned())
}

fn chain(page: &AuditPage<'_>, shell: &Shell<'_>) -> Chain {
    let Some((report, at)) = page.verified else {
        return Chain {
            chip: Chip::new(Tone::Idle, "not checked"),
            says: "Nobody has checked the chain since this process started.".into(),
            at: None,
            head: None,
        };
    };
    let (chip, says) = match &report.broken {
        None => (
            Chip::new(Tone::Good, "intact"),
            format!("{}, each following the one before it", entries(report)),
        ),
        Some(broken) => (
            Chip::new(Tone::Bad, "broken"),
            format!("at entry {}: {}; {} before it hold", broken.number, broken.why, entries(report)),
        ),
    };
    Chain {
        chip,
        says,
        at: Some(shell.clock.moment(at)),
        head: report.head.as_ref().map(ToString::to_string),
    }
}

fn entries(report: &Report) -> String {
    match report.entries {
        1 => "1 entry".to_owned(),
        more => format!("{} entries", text::count(more)),
    }
}

/// Where a pipeline's log is shown.
fn log_of(pipeline: &str) -> String {
    format!("/audit?pipeline={}", segment(pipeline))
}
