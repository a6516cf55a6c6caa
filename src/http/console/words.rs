//! What is written the same way on every page: moments, durations, states.

use std::fmt;

use askama::filters::{Html, HtmlSafe};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::status::fleet::{Health, RunState};
use crate::status::{TableState, text};

/// HTML that is written as it is: whoever makes one has escaped what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Markup(pub String);

impl fmt::Display for Markup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HtmlSafe for Markup {}

/// Text inside of an element or of a quoted attribute; control characters are shown.
pub fn escaped(text: &str) -> String {
    let shown = text::printable(text);
    askama::filters::escape(shown.as_ref(), Html).map(|safe| safe.to_string()).unwrap_or_default()
}

/// The page with characters that steer, rather than show, made visible; left as they are in what forms send back.
pub fn visible(page: String) -> String {
    let steers = |character: char| !matches!(character, '\n' | '\t') && text::steers(character);
    if !page.contains(steers) {
        return page;
    }
    let mut shown = String::with_capacity(page.len() + 64);
    let show = |part: &str, shown: &mut String| {
        for character in part.chars() {
            if steers(character) {
                shown.extend(character.escape_default());
            } else {
                shown.push(character);
            }
        }
    };
    // Quotes of data are escaped: what looks like an attribute is one of a template.
    let mut parts = page.split(" value=\"");
    show(parts.next().unwrap_or_default(), &mut shown);
    for part in parts {
        let (value, rest) = part.split_once('"').unwrap_or((part, ""));
        shown.push_str(" value=\"");
        shown.push_str(value);
        shown.push('"');
        show(rest, &mut shown);
    }
    shown
}

/// A part of an address.
pub fn segment(text: &str) -> String {
    askama::filters::urlencode_strict(text).map(|coded| coded.to_string()).unwrap_or_default()
}

/// The path of a pipeline's page.
pub fn pipeline_path(name: &str) -> String {
    format!("/pipelines/{}", segment(name))
}

/// A DOM id: unique as long as `name` is.
pub fn dom_id(prefix: &str, name: &str) -> String {
    let mut id = format!("{prefix}-");
    for character in name.chars() {
        if character.is_ascii_alphanumeric() || character == '-' {
            id.push(character);
        } else {
            id.push_str(&format!("_{:x}_", u32::from(character)));
        }
    }
    id
}

/// How something is: a shape, a hue and, beside them, always a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Good,
    Work,
    Paused,
    Warn,
    Bad,
    Idle,
}

impl Tone {
    /// The end of its icon's id and of its class.
    pub fn name(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Work => "work",
            Tone::Paused => "paused",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
            Tone::Idle => "idle",
        }
    }
}

/// A state in a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chip {
    pub tone: Tone,
    pub word: String,
}

impl Chip {
    pub fn new(tone: Tone, word: impl Into<String>) -> Chip {
        Chip { tone, word: word.into() }
    }
}

impl From<Health> for Chip {
    fn from(health: Health) -> Chip {
        Chip::new(health_tone(health), health_word(health))
    }
}

fn health_tone(health: Health) -> Tone {
    match health {
        Health::Healthy => Tone::Good,
        Health::Working => Tone::Work,
        Health::Paused => Tone::Paused,
        Health::Attention => Tone::Warn,
        Health::Failed => Tone::Bad,
    }
}

pub fn health_word(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Working => "working",
        Health::Paused => "paused",
        Health::Attention => "attention",
        Health::Failed => "failed",
    }
}

impl From<RunState> for Chip {
    fn from(state: RunState) -> Chip {
        match state {
            RunState::Running => Chip::new(Tone::Work, "running"),
            RunState::Cancelling => Chip::new(Tone::Warn, "cancelling"),
            RunState::Done => Chip::new(Tone::Good, "done"),
            RunState::Failed => Chip::new(Tone::Bad, "failed"),
            RunState::Cancelled => Chip::new(Tone::Idle, "cancelled"),
            RunState::Interrupted => Chip::new(Tone::Bad, "interrupted"),
        }
    }
}

impl From<TableState> for Chip {
    fn from(state: TableState) -> Chip {
        let tone = match state {
            TableState::Pending => Tone::Idle,
            TableState::Copying => Tone::Work,
            TableState::Ready => Tone::Good,
            TableState::Quarantined => Tone::Bad,
        };
        Chip::new(tone, state.word())
    }
}

/// Of a run in the history that the target keeps, and of an audit entry.
pub fn verdict_chip(verdict: &str) -> Chip {
    let tone = match verdict {
        "done" => Tone::Good,
        "running" | "begun" => Tone::Work,
        "not promoted" | "killed" => Tone::Warn,
        "failed" => Tone::Bad,
        _ => Tone::Idle,
    };
    Chip::new(tone, verdict)
}

/// `identical` or `different`.
pub fn sameness_chip(identical: bool) -> Chip {
    if identical { Chip::new(Tone::Good, "identical") } else { Chip::new(Tone::Bad, "different") }
}

/// The moment of which a page speaks.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    now: Option<Timestamp>,
}

impl Clock {
    pub fn new(at: &str) -> Clock {
        Clock { now: at.parse().ok() }
    }

    pub fn now(self) -> Option<Timestamp> {
        self.now
    }

    /// Seconds since then; `None` for what is no moment, or to come.
    pub fn seconds_since(self, at: &str) -> Option<u64> {
        let at: Timestamp = at.parse().ok()?;
        u64::try_from(self.now?.as_second() - at.as_second()).ok()
    }

    /// `3 h 12 min`.
    pub fn elapsed(self, at: &str) -> Option<String> {
        self.seconds_since(at).map(text::duration)
    }

    /// `3 h 12 min ago`, `in 5 min`; the moment itself where it is none.
    pub fn relative(self, at: &str) -> String {
        if let Some(past) = self.elapsed(at) {
            return format!("{past} ago");
        }
        let ahead =
            at.parse::<Timestamp>().ok().zip(self.now).map(|(at, now)| at.as_second() - now.as_second());
        match ahead.and_then(|seconds| u64::try_from(seconds).ok()) {
            Some(seconds) => format!("in {}", text::duration(seconds)),
            None => at.to_owned(),
        }
    }

    /// A `time` element in UTC, as short as it can be without doubt; a browser adds its own zone's.
    pub fn moment(self, at: &str) -> Markup {
        let Ok(moment) = at.parse::<Timestamp>() else { return Markup(escaped(at)) };
        let day = |moment: Timestamp| moment.to_zoned(TimeZone::UTC).date();
        let shape = match self.now {
            Some(now) if day(now) == day(moment) => "%H:%M:%S UTC",
            Some(now) if day(now).year() == day(moment).year() => "%-d %b %H:%M UTC",
            _ => "%Y-%m-%d %H:%M UTC",
        };
        let shown = moment.strftime(shape);
        let whole = moment.strftime("%Y-%m-%dT%H:%M:%SZ");
        let title = moment.strftime("%A %-d %B %Y, %H:%M:%S UTC");
        Markup(format!("<time datetime=\"{whole}\" title=\"{title}\">{shown}</time>"))
    }

    /// The same of seconds since 1970.
    pub fn moment_of(self, seconds: i64) -> Markup {
        Timestamp::from_second(seconds).map_or_else(|_| Markup::default(), |at| self.moment(&at.to_string()))
    }
}

/// `a`, `a and b`, `a, b and c`.
pub fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// `4 d`, `5.5 months`, for what is only roughly known.
pub fn rough_days(days: f64) -> String {
    match days {
        _ if days < 1.0 => "less than a day".to_owned(),
        _ if days < 2.0 => "1 day".to_owned(),
        _ if days < 60.0 => format!("{days:.0} days"),
        _ if days < 730.0 => format!("{:.0} months", days / 30.4),
        _ if days < 36_500.0 => format!("{:.0} years", days / 365.25),
        _ => "over 100 years".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_short_and_in_utc() {
        let clock = Clock::new("2026-11-22T05:12:26Z");
        let shown = |at: &str| {
            let markup = clock.moment(at).0;
            markup.split('>').nth(1).map(|text| text.replace("</time", "")).unwrap_or(markup)
        };
        assert_eq!(shown("2026-11-22T01:02:03.5Z"), "01:02:03 UTC");
        assert_eq!(shown("2026-11-21T23:02:03+02:00"), "21 Nov 21:02 UTC");
        assert_eq!(shown("2025-11-21T23:02:03Z"), "2025-11-21 23:02 UTC");
        assert_eq!(clock.moment("<b>").0, "&#60;b&#62;");
        assert_eq!(clock.relative("2026-11-22T05:07:26Z"), "5 min ago");
        assert_eq!(clock.relative("2026-11-22T06:12:26Z"), "in 1 h");
        assert_eq!(clock.relative("soon"), "soon");
    }

    #[test]
    fn names_make_ids_and_addresses_that_differ() {
        assert_eq!(dom_id("run", "a.b c"), "run-a_2e_b_20_c");
        assert_ne!(dom_id("x", "a.b"), dom_id("x", "a_2e_b"));
        assert_eq!(pipeline_path("a/b?c"), "/pipelines/a%2Fb%3Fc");
    }

    #[test]
    fn what_steers_is_shown_and_what_is_sent_stays() {
        let page = "<p>a\u{202e}b\u{1b}</p>\n<input value=\"a\u{202e}b\"><p>\u{2066}</p>";
        let shown = "<p>a\\u{202e}b\\u{1b}</p>\n<input value=\"a\u{202e}b\"><p>\\u{2066}</p>";
        assert_eq!(visible(page.into()), shown);
    }

    #[test]
    fn lists_and_spans_read_well() {
        let list = |words: &[&str]| listed(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!([list(&[]), list(&["a"]), list(&["a", "b", "c"])], ["", "a", "a, b and c"]);
        let spans: Vec<String> = [0.5, 1.2, 40.0, 90.0, 1000.0, 1e9].map(rough_days).to_vec();
        assert_eq!(spans, ["less than a day", "1 day", "40 days", "3 months", "3 years", "over 100 years"]);
    }
}
