//! A pipeline on one line: the same words on the screen and in a plain picture.

use std::cmp::Reverse;

use ratatui::style::{Color, Modifier, Style};

use crate::status::fleet::{Fleet, Health, Overview, RunState};
use crate::status::text::{Paint, bytes, count, duration, printable, seconds};
use crate::status::{Phase, Progress};

pub(super) const HEADING: [&str; 7] = ["HEALTH", "PIPELINE", "PHASE", "BEHIND", "RATE", "TRIES", "VERDICT"];

/// From the worst to the best, as they are counted.
pub(super) const HEALTHS: [Health; 5] =
    [Health::Failed, Health::Attention, Health::Paused, Health::Working, Health::Healthy];

/// Told by shape and by word; a colour only comes on top.
pub(super) fn symbol(health: Health) -> &'static str {
    match health {
        Health::Healthy => "✓",
        Health::Working => "↻",
        Health::Paused => "‖",
        Health::Attention => "!",
        Health::Failed => "✗",
    }
}

pub(super) fn health(health: Health) -> String {
    format!("{} {}", symbol(health), health.word())
}

/// `6 pipelines: 1 failed, 5 healthy`.
pub(super) fn summary(fleet: &Fleet) -> String {
    let of = |health| fleet.pipelines.iter().filter(|one| one.health == health).count();
    let counts: Vec<String> = HEALTHS
        .iter()
        .filter(|health| of(**health) > 0)
        .map(|health| format!("{} {}", of(*health), health.word()))
        .collect();
    let all = crate::status::text::several(fleet.pipelines.len() as u64, "pipeline");
    if counts.is_empty() { all } else { format!("{all}: {}", counts.join(", ")) }
}

/// What stands in each column.
pub(super) fn cells(overview: &Overview) -> [String; 7] {
    let retries = overview.stream().map_or(0, |status| status.retries);
    [
        health(overview.health),
        printable(&overview.name).into_owned(),
        phase(overview),
        behind(overview),
        rate(overview),
        if retries > 0 { count(retries) } else { String::new() },
        printable(&overview.verdict).into_owned(),
    ]
}

fn phase(overview: &Overview) -> String {
    if let Some(phase) = overview.phase() {
        return phase.words().into();
    }
    match overview.snapshot() {
        Some(status) if status.running.is_some() || working(overview).is_some() => "syncing".into(),
        Some(status) if status.serving.is_some() => "serving".into(),
        Some(_) => "new".into(),
        None => "-".into(),
    }
}

/// The age of what the target lacks, and of a replica that is replaced its own.
fn behind(overview: &Overview) -> String {
    if let Some(age) = overview.snapshot().and_then(|status| status.serving.as_ref()?.age_seconds) {
        return duration(age);
    }
    match overview.lag() {
        (_, Some(lag)) => seconds(lag),
        (Some(lag), None) => bytes(lag),
        (None, None) => "-".into(),
    }
}

/// In seconds, for sorting; what is unknown is at the end.
pub(super) fn behind_seconds(overview: &Overview) -> f64 {
    let age = overview.snapshot().and_then(|status| status.serving.as_ref()?.age_seconds);
    #[allow(clippy::cast_precision_loss)] // ages of millions of years
    age.map(|age| age as f64).or(overview.lag().1).unwrap_or(-1.0)
}

/// How the run does that is under way, of this process or asked for through a door.
fn working(overview: &Overview) -> Option<&Progress> {
    let running = |run: &&crate::status::fleet::Run| run.state == RunState::Running;
    overview.progress.as_ref().or_else(|| overview.runs.iter().find(running)?.progress.as_ref())
}

fn rate(overview: &Overview) -> String {
    match working(overview) {
        Some(progress) if progress.phase == Phase::Copying => {
            format!("{}/s", bytes(progress.bytes_per_second))
        }
        Some(progress) => format!("{}/s", count(progress.changes_per_second)),
        None => "-".into(),
    }
}

/// Changes or bytes a second, for sorting within each.
pub(super) fn rate_number(overview: &Overview) -> u64 {
    working(overview).map_or(0, |progress| progress.changes_per_second.max(progress.bytes_per_second))
}

/// Whatever is worst, then whatever is furthest behind.
pub(super) fn by_badness(left: &Overview, right: &Overview) -> std::cmp::Ordering {
    let lags = behind_seconds(right).total_cmp(&behind_seconds(left));
    Reverse(left.health).cmp(&Reverse(right.health)).then(lags).then_with(|| left.name.cmp(&right.name))
}

/// All of it as text, for a pipe or a ticket.
pub(super) fn picture(fleet: &Fleet, paint: Paint) -> String {
    let mut overviews: Vec<&Overview> = fleet.pipelines.iter().map(AsRef::as_ref).collect();
    overviews.sort_by(|left, right| by_badness(left, right));
    let rows: Vec<[String; 7]> = overviews.iter().map(|overview| cells(overview)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEADING[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEADING.len()).map(width).collect();
    let line = |cells: &[String; 7]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![format!("{}  {}", fleet.instance.at, summary(fleet))];
    if !rows.is_empty() {
        lines.push(paint.strong(&line(&HEADING.map(str::to_owned))));
    }
    for (overview, row) in overviews.iter().zip(&rows) {
        let text = line(row);
        lines.push(if overview.health == Health::Failed { paint.bad(&text) } else { text });
        for (name, words) in problem(overview) {
            lines.push(format!("    {name}: {}", crate::status::text::printable_lines(&words, 6)));
        }
    }
    lines.join("\n") + "\n"
}

/// What went wrong, and what to do.
pub(super) fn problem(overview: &Overview) -> Vec<(&'static str, String)> {
    let Some(problem) = &overview.problem else { return Vec::new() };
    let mut facts = vec![("problem", format!("{} (exit status {})", problem.what, problem.exit_status))];
    facts.extend(problem.hint.clone().map(|hint| ("hint", hint)));
    facts.extend(problem.retry_at.as_ref().map(|at| ("next try", format!("at {at}"))));
    facts
}

/// A colour, where colours are wanted. Symbol and word say the same.
pub(super) fn health_style(health: Health, paint: Paint) -> Style {
    let strong = Style::new().add_modifier(Modifier::BOLD);
    let (style, colour) = match health {
        Health::Healthy => (Style::new(), Color::Green),
        Health::Working => (Style::new(), Color::Cyan),
        Health::Paused => (Style::new(), Color::Magenta),
        Health::Attention => (strong, Color::Yellow),
        Health::Failed => (strong, Color::Red),
    };
    if paint == Paint::Coloured { style.fg(colour) } else { style }
}
