//! All about one pipeline, as lines: what only a daemon knows of it, then what `pgdiode status` says.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::words;
use crate::config::reference::wrapped;
use crate::status::fleet::{Overview, RunState, State, Storage, Verification};
use crate::status::text::{Paint, bytes, count, duration, printable, seconds, several};

/// Where a fact's words begin, as in `pgdiode status`.
const INDENT: usize = 14;

/// Runs that are listed.
const RUNS_MAX: usize = 5;

/// Of how many moments the lag is drawn, at most.
const MOMENTS_MAX: usize = 60;

/// Everything there is to say, for this width.
pub(super) fn lines(overview: &Overview, width: usize, paint: Paint) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut fact = |name: &str, words: &str, style: Style| {
        let words = printable(words);
        for (row, part) in wrapped(&words, width.saturating_sub(INDENT).max(20)).into_iter().enumerate() {
            let name = if row == 0 { name } else { "" };
            lines.push(Line::from(vec![Span::raw(format!("  {name:<12}")), Span::styled(part, style)]));
        }
    };
    let plain = Style::new();
    let health = words::health_style(overview.health, paint);
    fact("health", &format!("{} since {}", words::health(overview.health), overview.since), health);
    fact("verdict", &overview.verdict, plain.add_modifier(Modifier::BOLD));
    for (name, words) in words::problem(overview) {
        fact(name, &words, if name == "problem" { health } else { plain });
    }
    if let Some(pause) = &overview.paused {
        let why = pause.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        fact("paused", &format!("by {} since {}{why}", pause.actor, pause.since), plain);
    }
    for words in runs(overview) {
        fact("run", &words, plain);
    }
    if let Some((drawn, words)) = lag_over_time(overview) {
        fact("lag so far", &drawn, plain);
        fact("", &words, plain.add_modifier(Modifier::DIM));
    }
    if let Some(verified) = &overview.verification {
        fact("verified", &verification(verified), plain);
    }
    if let Some(drift) = &overview.schema_drift {
        fact("schemas", &drift.verdict(), plain);
    }
    if let Some(stored) = &overview.storage {
        fact("storage", &storage(stored), plain);
    }
    if let Some(at) = &overview.asked_at {
        fact("asked", at, plain.add_modifier(Modifier::DIM));
    }
    lines.extend(status(overview, paint));
    lines
}

fn runs(overview: &Overview) -> Vec<String> {
    let word = |state| match state {
        RunState::Running => "runs",
        RunState::Cancelling => "is being cancelled",
        RunState::Done => "done",
        RunState::Failed => "failed",
        RunState::Cancelled => "was cancelled",
        RunState::Interrupted => "was interrupted",
    };
    let runs = overview.runs.iter().take(RUNS_MAX).map(|run| {
        let subject =
            if run.subject.is_empty() { String::new() } else { format!(" {}", run.subject.join(", ")) };
        let mut parts = vec![format!("{}{subject} {}", run.verb, word(run.state))];
        parts.push(format!("{} since {}", seconds(run.seconds), run.started_at));
        parts.push(format!("by {} ({})", run.actor, run.by));
        parts.extend(run.reason.as_ref().map(|reason| format!("because: {reason}")));
        if let Some(progress) = run.progress.as_ref().filter(|_| run.state == RunState::Running) {
            parts.push(progress.doing.clone());
            if progress.bytes_total > 0 {
                parts.push(format!("{} of {}", bytes(progress.bytes), bytes(progress.bytes_total)));
            }
            parts.extend(progress.eta_seconds.map(|eta| format!("{} left", duration(eta))));
        }
        parts.extend(run.error.as_ref().map(|error| error.what.clone()));
        parts.join(", ")
    });
    runs.collect()
}

/// The lag of the samples as a row of bars, and what it shows.
fn lag_over_time(overview: &Overview) -> Option<(String, String)> {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let samples = &overview.samples;
    let known: Vec<f64> = samples.iter().filter_map(|sample| sample.lag_seconds).collect();
    let most = known.iter().copied().reduce(f64::max)?;
    let each = samples.len().div_ceil(MOMENTS_MAX).max(1);
    let drawn = samples.chunks(each).map(|moment| {
        let lag = moment.iter().filter_map(|sample| sample.lag_seconds).reduce(f64::max);
        lag.map_or('·', |lag| {
            // Between 0 and 7: no lag is more than the most.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let level = if most > 0.0 { (lag / most * 7.0).round() as usize } else { 0 };
            BARS[level.min(BARS.len() - 1)]
        })
    });
    let span = u64::try_from(samples.last()?.at - samples.first()?.at).unwrap_or_default();
    Some((drawn.collect(), format!("the last {}, at most {}", duration(span), seconds(most))))
}

fn verification(verified: &Verification) -> String {
    let verdict = if verified.identical {
        "identical".to_owned()
    } else {
        format!("{} of them different", count(verified.tables_different))
    };
    format!(
        "{verdict} at {}, {}, {}",
        verified.at,
        several(verified.tables, "table"),
        seconds(verified.seconds)
    )
}

fn storage(stored: &Storage) -> String {
    let of = stored.volume_bytes.map(|volume| format!(" of {}", bytes(volume))).unwrap_or_default();
    let mut parts = vec![format!("{}{of}", bytes(stored.database_bytes))];
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // sizes of disks
    parts.extend(stored.growth_bytes_per_day.map(|growth| {
        format!("{}{} a day", if growth < 0.0 { "-" } else { "+" }, bytes(growth.abs() as u64))
    }));
    parts.extend(stored.days_until_85.map(|days| format!("85 % in {days:.0} days")));
    parts.join(", ")
}

/// The pipeline's own status, without its heading.
fn status(overview: &Overview, paint: Paint) -> Vec<Line<'static>> {
    let text = match &overview.state {
        Some(State::Stream(status)) => status.text(paint),
        Some(State::Snapshot(status)) => status.text(paint),
        None => return Vec::new(),
    };
    text.lines().skip(1).map(painted).collect()
}

/// A line with the few colours that our own texts have.
fn painted(line: &str) -> Line<'static> {
    let mut spans = Vec::new();
    let mut style = Style::new();
    for (number, part) in line.split("\x1b[").enumerate() {
        let text = match part.split_once('m') {
            Some((code, text)) if number > 0 => {
                style = match code {
                    "1" => style.add_modifier(Modifier::BOLD),
                    "2" => style.add_modifier(Modifier::DIM),
                    "31" => style.fg(Color::Red),
                    "32" => style.fg(Color::Green),
                    "33" => style.fg(Color::Yellow),
                    _ => Style::new(),
                };
                text
            }
            _ => part,
        };
        if !text.is_empty() {
            spans.push(Span::styled(text.to_owned(), style));
        }
    }
    Line::from(spans)
}
