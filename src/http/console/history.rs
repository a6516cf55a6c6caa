//! What was done and when: what the target remembers of syncs and rollbacks, and what was asked for here; filtered by
//! the address, a page at a time, and as a file.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::status::fleet::{Overview, Run, RunState, State};
use crate::status::snapshot::{GenerationStatus, PhaseTime, RunStatus};
use crate::status::text;

use super::action::{self, Action};
use super::chart::{Bar, Chart, bars, shares};
use super::list::{Pager, paged};
use super::words::{Chip, Clock, Markup, Tone, pipeline_path, segment, verdict_chip};

/// What the address of the history says after its question mark; whatever it says, there is a page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HistoryQuery {
    /// `sync`, `rollback`, `verify`, `resync`; all where it is empty.
    pub kind: String,
    /// `done`, `failed`...; all where it is empty.
    pub outcome: String,
    /// A part of who asked, in any case.
    pub who: String,
    /// A day of UTC, or a moment: nothing that began before it.
    pub since: String,
    pub page: String,
    /// `csv` or `json`: a file in place of the page.
    pub format: String,
}

/// What is looked up for a pipeline's page, beside the fleet.
#[derive(Debug, Default)]
pub struct Beside<'a> {
    /// The generations of a snapshot pipeline, the one that serves first; without them only that one is shown.
    pub generations: &'a [GenerationStatus],
    /// More of its runs than its status has, the newest first.
    pub runs: &'a [RunStatus],
    pub history: HistoryQuery,
}

/// One run in a file: stable names, moments in RFC 3339, nothing rounded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryRecord {
    pub run: String,
    pub kind: String,
    pub subject: String,
    pub outcome: String,
    pub who: String,
    /// `api`, `console`; empty where nobody noted it.
    pub by: String,
    pub reason: String,
    pub started_at: String,
    pub ended_at: String,
    pub seconds: f64,
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
    pub generation: Option<i64>,
    pub error: String,
}

pub(super) struct History {
    pub chart: Option<Chart>,
    pub rows: Vec<HistoryRow>,
    pub pager: Pager,
    /// Of the target, all there ever were.
    pub counts: Option<(u64, u64)>,
    pub kinds: Vec<&'static str>,
    pub outcomes: Vec<&'static str>,
    pub query: HistoryQuery,
    pub path: String,
    pub csv: String,
    pub json: String,
    pub has_any: bool,
    pub generations: Vec<Generation>,
}

pub(super) struct HistoryRow {
    pub id: String,
    pub title: String,
    pub href: Option<String>,
    pub chip: Chip,
    pub phase: Option<String>,
    pub who: String,
    pub by: Option<String>,
    pub reason: Option<String>,
    pub started: Markup,
    pub took: String,
    pub rows: String,
    pub bytes: String,
    pub generation: Option<i64>,
    pub error: Option<String>,
    pub hint: Option<String>,
    pub discarded: Vec<String>,
    pub phases: Option<Chart>,
}

/// What is under way, for a banner.
pub(super) struct AskedRun {
    pub href: String,
    pub verb: String,
    pub subject: String,
    pub chip: Chip,
    pub actor: String,
    pub reason: Option<String>,
    pub started: Markup,
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

/// A run, by whom it is remembered: the target, this process, or both.
enum Entry<'a> {
    Kept(&'a RunStatus, Option<&'a Run>),
    Asked(&'a Run),
}

impl HistoryQuery {
    fn matches(&self, record: &HistoryRecord) -> bool {
        let part = |wanted: &str, found: &str| found.to_lowercase().contains(&wanted.trim().to_lowercase());
        (self.kind.is_empty() || record.kind == self.kind)
            && (self.outcome.is_empty() || record.outcome == self.outcome)
            && part(&self.who, &record.who)
            && self.since().is_none_or(|since| moment(&record.started_at).is_none_or(|at| at >= since))
    }

    fn since(&self) -> Option<Timestamp> {
        let text = self.since.trim();
        let day = || text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp());
        text.parse().ok().or_else(day)
    }

    pub(super) fn is_narrowed(&self) -> bool {
        [&self.kind, &self.outcome, &self.who, &self.since].iter().any(|field| !field.trim().is_empty())
    }

    /// The same history with something more in its address.
    fn href(&self, path: &str, more: &str) -> String {
        let fields =
            [("kind", &self.kind), ("outcome", &self.outcome), ("who", &self.who), ("since", &self.since)];
        let said = fields.iter().filter(|(_, value)| !value.trim().is_empty());
        let mut said: Vec<String> =
            said.map(|(name, value)| format!("{name}={}", segment(value.trim()))).collect();
        said.extend(Some(more.to_owned()).filter(|more| !more.is_empty()));
        if said.is_empty() { path.to_owned() } else { format!("{path}?{}", said.join("&")) }
    }
}

fn moment(at: &str) -> Option<Timestamp> {
    at.parse().ok()
}

impl Entry<'_> {
    fn record(&self) -> HistoryRecord {
        match self {
            Entry::Kept(run, asked) => HistoryRecord {
                run: run.id.to_string(),
                kind: run.verb.clone(),
                subject: String::new(),
                outcome: run.verdict.clone(),
                who: run.actor.clone(),
                by: asked.map(|asked| asked.by.clone()).unwrap_or_default(),
                reason: run.reason.clone().unwrap_or_default(),
                started_at: run.started.clone(),
                ended_at: run.ended.clone().unwrap_or_default(),
                seconds: run.seconds,
                rows: run.rows,
                bytes: run.bytes,
                generation: run.generation,
                error: run.error.clone().unwrap_or_default(),
            },
            Entry::Asked(run) => HistoryRecord {
                run: run.id.clone(),
                kind: run.verb.clone(),
                subject: run.subject.join(", "),
                outcome: Chip::from(run.state).word,
                who: run.actor.clone(),
                by: run.by.clone(),
                reason: run.reason.clone().unwrap_or_default(),
                started_at: run.started_at.clone(),
                ended_at: run.ended_at.clone().unwrap_or_default(),
                seconds: run.seconds,
                rows: None,
                bytes: None,
                generation: None,
                error: run.error.as_ref().map(|error| error.what.clone()).unwrap_or_default(),
            },
        }
    }

    fn row(&self, clock: Clock) -> HistoryRow {
        let record = self.record();
        let (kept, asked) = match self {
            Entry::Kept(run, asked) => (Some(*run), *asked),
            Entry::Asked(run) => (None, Some(*run)),
        };
        let title = match kept {
            Some(run) => format!("{} {}", run.verb, run.id),
            None if record.subject.is_empty() => record.kind.clone(),
            None => format!("{} of {}", record.kind, record.subject),
        };
        let hint = kept.map(|run| run.hint.clone());
        let hint = hint.unwrap_or_else(|| asked.and_then(|run| run.error.as_ref()?.hint.clone()));
        let id = super::words::dom_id(if kept.is_some() { "kept" } else { "asked" }, &record.run);
        HistoryRow {
            phases: kept.and_then(|run| phases(&id, &run.phases)),
            title,
            href: asked.map(super::run::path),
            chip: kept.map_or_else(
                || asked.map_or(Chip::new(Tone::Idle, ""), |run| run.state.into()),
                |run| verdict_chip(&run.verdict),
            ),
            phase: kept.and_then(|run| run.phase.clone().filter(|_| run.ended.is_none())),
            who: record.who,
            by: Some(record.by).filter(|by| !by.is_empty()),
            reason: Some(record.reason).filter(|reason| !reason.is_empty()),
            started: clock.moment(&record.started_at),
            took: text::seconds(record.seconds),
            rows: record.rows.map(text::count).unwrap_or_default(),
            bytes: record.bytes.map(text::bytes).unwrap_or_default(),
            generation: record.generation,
            error: Some(record.error).filter(|error| !error.is_empty()),
            hint,
            discarded: kept.map_or_else(Vec::new, |run| {
                run.discarded.iter().map(crate::status::snapshot::Discarded::text).collect()
            }),
            id,
        }
    }
}

/// Of both memories, each run once, the newest first.
fn entries<'a>(pipeline: &'a Overview, more: &'a [RunStatus]) -> Vec<Entry<'a>> {
    let status = match &pipeline.state {
        Some(State::Snapshot(status)) => Some(status),
        _ => None,
    };
    let running = status.and_then(|status| status.running.as_ref());
    let known = status.map_or(&[][..], |status| &status.runs[..]);
    let shown = if more.is_empty() { known } else { more };
    // What the page looked up itself has the one that runs, too.
    let running = running.filter(|run| shown.iter().all(|other| other.id != run.id));
    let mut left: Vec<&Run> = pipeline.runs.iter().collect();
    let mut entries: Vec<(String, Entry<'_>)> = Vec::new();
    for run in running.into_iter().chain(shown) {
        let same = left.iter().position(|asked| is_same(asked, run));
        let asked = same.map(|at| left.remove(at));
        entries.push((run.started.clone(), Entry::Kept(run, asked)));
    }
    entries.extend(left.into_iter().map(|run| (run.started_at.clone(), Entry::Asked(run))));
    entries.sort_by_key(|(at, _)| std::cmp::Reverse(moment(at)));
    entries.into_iter().map(|(_, entry)| entry).collect()
}

/// Whether the target remembers what was asked for here: the same verb by the same person, begun while that ran.
fn is_same(asked: &Run, kept: &RunStatus) -> bool {
    const CLOCKS_DIFFER_SECONDS: i64 = 5;
    if asked.result.as_ref().and_then(|result| result["run"].as_i64()) == Some(kept.id) {
        return true;
    }
    let (Some(from), Some(began)) = (moment(&asked.started_at), moment(&kept.started)) else { return false };
    let until = asked.ended_at.as_deref().and_then(moment).map_or(i64::MAX, Timestamp::as_second);
    asked.verb == kept.verb
        && asked.actor == kept.actor
        && began.as_second() >= from.as_second() - CLOCKS_DIFFER_SECONDS
        && began.as_second() <= until.saturating_add(CLOCKS_DIFFER_SECONDS)
}

pub(super) fn history(pipeline: &Overview, beside: &Beside<'_>, clock: Clock) -> History {
    let all = entries(pipeline, beside.runs);
    let has_any = !all.is_empty();
    let query = beside.history.clone();
    let found: Vec<&Entry<'_>> = all.iter().filter(|entry| query.matches(&entry.record())).collect();
    let path = format!("{}/runs", pipeline_path(&pipeline.name));
    let (found, pager) = paged(found, &query.page, |page| {
        query.href(&path, &if page > 1 { format!("page={page}") } else { String::new() })
    });
    let is_snapshot = action::is_snapshot(pipeline);
    History {
        chart: durations(pipeline, clock),
        rows: found.into_iter().map(|entry| entry.row(clock)).collect(),
        pager,
        counts: pipeline.snapshot().map(|status| (status.runs_done, status.runs_failed)),
        kinds: if is_snapshot { vec!["sync", "rollback"] } else { vec!["verify", "resync", "sync"] },
        outcomes: if is_snapshot {
            vec!["done", "failed", "killed", "not promoted", "cancelled", "interrupted", "running"]
        } else {
            vec!["done", "failed", "cancelled", "interrupted", "running"]
        },
        csv: query.href(&path, "format=csv"),
        json: query.href(&path, "format=json"),
        generations: generations_of(pipeline, beside.generations, clock),
        query,
        path,
        has_any,
    }
}

/// The same as plain data, all pages of it.
pub fn history_records(pipeline: &Overview, beside: &Beside<'_>) -> Vec<HistoryRecord> {
    let records = entries(pipeline, beside.runs).into_iter().map(|entry| entry.record());
    records.filter(|record| beside.history.matches(record)).collect()
}

/// How long each run took that the target remembers of late.
pub(super) fn durations(pipeline: &Overview, clock: Clock) -> Option<Chart> {
    let status = pipeline.snapshot()?;
    let drawn: Vec<Bar> = status.runs.iter().rev().map(bar).collect();
    bars("durations", "How long runs took", &drawn, clock)
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

/// Where a run's time went.
pub(super) fn phases(id: &str, phases: &[PhaseTime]) -> Option<Chart> {
    let parts: Vec<(&str, f64)> = phases.iter().map(|one| (one.phase.as_str(), one.seconds)).collect();
    shares(&format!("phases-{id}"), "Where the time went", "Phase", &parts)
}

pub(super) fn asked(run: &Run, clock: Clock) -> AskedRun {
    AskedRun {
        href: super::run::path(run),
        verb: run.verb.clone(),
        subject: run.subject.join(", "),
        chip: run.state.into(),
        actor: run.actor.clone(),
        reason: run.reason.clone(),
        started: clock.moment(&run.started_at),
    }
}

/// Those that are there, or, where nobody has looked, the one that serves.
pub(super) fn generations_of(
    pipeline: &Overview,
    kept: &[GenerationStatus],
    clock: Clock,
) -> Vec<Generation> {
    let serving = pipeline.snapshot().and_then(|status| status.serving.as_ref());
    let known = if kept.is_empty() { serving.map_or(&[][..], std::slice::from_ref) } else { kept };
    generations(pipeline, known, clock)
}

/// The one that serves first; of the others, those that are still there can serve again.
fn generations(pipeline: &Overview, generations: &[GenerationStatus], clock: Clock) -> Vec<Generation> {
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

/// Where the time of a run went that was asked for here: as the target noted it, or else by what it said.
pub(super) fn phases_of(
    pipeline: &Overview,
    run: &Run,
    beside: &Beside<'_>,
    phases: &[&str],
    clock: Clock,
) -> Vec<PhaseTime> {
    let known = pipeline.snapshot().into_iter().flat_map(|status| status.running.iter().chain(&status.runs));
    let noted = beside.runs.iter().chain(known).find(|kept| is_same(run, kept) && !kept.phases.is_empty());
    noted.map_or_else(|| phases_of_log(run, phases, clock), |kept| kept.phases.clone())
}

/// To the second, and without what went by too fast to be said.
fn phases_of_log(run: &Run, phases: &[&str], clock: Clock) -> Vec<PhaseTime> {
    let is_on = matches!(run.state, RunState::Running | RunState::Cancelling);
    let end = run.ended_at.as_deref().and_then(moment).or_else(|| clock.now().filter(|_| is_on));
    let named = run.log.iter().filter_map(|line| {
        let phase = phases.iter().find(|phase| line.text.starts_with(**phase))?;
        Some((*phase, moment(&line.at)?))
    });
    let mut begun: Vec<(&str, Timestamp)> = named.collect();
    begun.dedup_by_key(|(phase, _)| *phase);
    let ends: Vec<Option<Timestamp>> = begun.iter().skip(1).map(|(_, at)| Some(*at)).chain([end]).collect();
    begun
        .iter()
        .zip(ends)
        .filter_map(|((phase, from), until)| {
            let seconds = until?.duration_since(*from).as_secs_f64();
            Some(PhaseTime { phase: (*phase).to_owned(), seconds: seconds.max(0.0) })
        })
        .collect()
}

/// Records as RFC 4180 has them. A spreadsheet takes a cell that begins like a formula for one, and what people write as
/// a reason would then be run on the desk of whoever opens the file: such cells begin with an apostrophe.
pub fn csv(records: &[HistoryRecord]) -> String {
    const COLUMNS: [&str; 14] = [
        "run",
        "kind",
        "subject",
        "outcome",
        "who",
        "by",
        "reason",
        "started_at",
        "ended_at",
        "seconds",
        "rows",
        "bytes",
        "generation",
        "error",
    ];
    let mut lines = vec![COLUMNS.map(str::to_owned).join(",")];
    let number = |value: Option<String>| value.unwrap_or_default();
    for one in records {
        let texts = [&one.run, &one.kind, &one.subject, &one.outcome, &one.who, &one.by, &one.reason];
        let mut cells: Vec<String> = texts.into_iter().map(|text| cell(text)).collect();
        cells.extend([cell(&one.started_at), cell(&one.ended_at), format!("{:.3}", one.seconds)]);
        cells.extend([
            number(one.rows.map(|rows| rows.to_string())),
            number(one.bytes.map(|bytes| bytes.to_string())),
            number(one.generation.map(|generation| generation.to_string())),
        ]);
        cells.push(cell(&one.error));
        lines.push(cells.join(","));
    }
    lines.push(String::new());
    lines.join("\r\n")
}

fn cell(text: &str) -> String {
    let begins_a_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let apostrophe = if begins_a_formula { "'" } else { "" };
    format!("\"{apostrophe}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::fleet::LogLine;

    fn record(who: &str, started_at: &str) -> HistoryRecord {
        HistoryRecord {
            run: "7".into(),
            kind: "sync".into(),
            subject: String::new(),
            outcome: "done".into(),
            who: who.into(),
            by: String::new(),
            reason: "a \"good\" one,\nreally".into(),
            started_at: started_at.into(),
            ended_at: String::new(),
            seconds: 1.5,
            rows: Some(3),
            bytes: None,
            generation: None,
            error: "=cmd|' /C calc'!A0".into(),
        }
    }

    #[test]
    fn a_file_is_quoted_and_holds_no_formula() {
        let file = csv(&[record("@ana", "2026-11-22T05:12:26Z")]);
        let (head, rest) = file.split_once("\r\n").unwrap();
        assert_eq!(head.split(',').count(), 14);
        assert_eq!(
            rest,
            "\"7\",\"sync\",\"\",\"done\",\"'@ana\",\"\",\"a \"\"good\"\" one,\nreally\",\"2026-11-22T05:12:26Z\",\"\",\
             1.500,3,,,\"'=cmd|' /C calc'!A0\"\r\n"
        );
        for begin in ["=", "+", "-", "@", "\t", "\r", "\n"] {
            assert!(cell(begin).starts_with("\"'"), "{begin:?}");
        }
    }

    #[test]
    fn filters_narrow_and_nonsense_does_not() {
        let one = record("ana.ruiz", "2026-11-22T05:12:26Z");
        let query = |kind: &str, outcome: &str, who: &str, since: &str| HistoryQuery {
            kind: kind.into(),
            outcome: outcome.into(),
            who: who.into(),
            since: since.into(),
            ..HistoryQuery::default()
        };
        for (query, matches) in [
            (query("", "", "", ""), true),
            (query("sync", "done", " RUIZ ", "2026-11-22"), true),
            (query("rollback", "", "", ""), false),
            (query("", "failed", "", ""), false),
            (query("", "", "bo", ""), false),
            (query("", "", "", "2026-11-23"), false),
            (query("", "", "", "2026-11-22T05:12:27Z"), false),
            (query("", "", "", "yesterday"), true),
        ] {
            assert_eq!(query.matches(&one), matches, "{query:?}");
        }
        let narrowed = query("sync", "not promoted", "a&b", "");
        assert_eq!(
            narrowed.href("/x", "format=csv"),
            "/x?kind=sync&outcome=not%20promoted&who=a%26b&format=csv"
        );
        assert_eq!(HistoryQuery::default().href("/x", ""), "/x");
    }

    #[test]
    fn a_runs_log_tells_where_its_time_went() {
        let line = |at: &str, text: &str| LogLine { at: format!("2026-11-22T05:{at}Z"), text: text.into() };
        let run = Run {
            id: "1".into(),
            pipeline: "a".into(),
            verb: "sync".into(),
            subject: Vec::new(),
            by: "api".into(),
            actor: "ana".into(),
            reason: None,
            state: RunState::Done,
            started_at: "2026-11-22T05:00:00Z".into(),
            ended_at: Some("2026-11-22T05:03:10Z".into()),
            seconds: 190.0,
            progress: None,
            error: None,
            result: None,
            log: vec![
                line("00:00", "sync begins"),
                line("00:01", "copying"),
                line("01:00", "copying: creating indexes"),
                line("03:01", "swapping"),
                line("03:10", "done"),
            ],
        };
        let found = phases_of_log(&run, &["copying", "swapping"], Clock::new("2026-11-22T06:00:00Z"));
        let found: Vec<(&str, f64)> = found.iter().map(|one| (one.phase.as_str(), one.seconds)).collect();
        assert_eq!(found, [("copying", 180.0), ("swapping", 9.0)]);
    }
}
