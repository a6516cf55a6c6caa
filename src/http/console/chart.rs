//! Drawings as SVG: lines over time, bars, small lines beside a name, and gauges.
//!
//! A drawing is as wide as its place: horizontal places are in per cent, and the line itself is stretched without its
//! stroke, so that words keep their size on a narrow screen. What was not measured is a gap, never a guess.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::status::text;

use super::words::{Clock, Markup, Tone, escaped};

/// What a scale counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Seconds,
    PerSecond,
}

/// One measurement, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Seconds since 1970.
    pub at: i64,
    pub value: Option<f64>,
}

/// A level worth seeing.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    pub label: String,
    pub value: f64,
    pub tone: Tone,
}

/// A line over time.
#[derive(Debug, Clone)]
pub struct Line {
    /// Of the DOM.
    pub id: &'static str,
    pub title: String,
    pub unit: Unit,
    pub points: Vec<Point>,
    /// Where the line goes from the last measurement, if it goes on like that.
    pub forecast: Option<(i64, f64)>,
    pub marks: Vec<Mark>,
    /// The least that the scale ends with.
    pub at_least: f64,
    /// The right end; the last measurement where that is later.
    pub until: i64,
}

/// A drawing and, for those who read rather than look, its numbers.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    pub id: String,
    pub title: String,
    /// What it shows, in a sentence.
    pub summary: String,
    pub svg: Markup,
    pub columns: Vec<&'static str>,
    pub rows: Vec<Vec<Markup>>,
}

/// How many measurements become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    Largest,
    Last,
}

const HEIGHT: f64 = 190.0;
const TOP: f64 = 16.0;
const SHARES_HEIGHT: f64 = 26.0;
const BOTTOM: f64 = 24.0;
/// The line's own scale, which is stretched to its place.
const GRAIN: f64 = 1000.0;
/// Points of a line, of a line beside a name, and rows of a table.
const LINE_POINTS: usize = 240;
const SPARK_POINTS: usize = 48;
/// In per cent: the scale's words are beside the bars, not below them.
const GUTTER: f64 = 8.0;
/// In per cent: as wide as a level's word may be.
const MARK_WORD: f64 = 12.0;
const TABLE_ROWS: usize = 48;
/// Lines of the scale, about.
const TICKS: f64 = 5.0;

/// At most `most` points between the first and the last, and no fewer than what was measured can fill.
pub fn thinned(points: &[Point], most: usize, pick: Pick) -> Vec<Point> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let span = (last.at - first.at).max(1);
    let mut steps: Vec<i64> = points.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    steps.sort_unstable();
    let usual = steps.get(steps.len() / 2).copied().unwrap_or(1).max(1);
    // A place is wide enough that one late measurement leaves none empty.
    let width = (span / i64::try_from(most).unwrap_or(i64::MAX) + 1).max(usual * 2);
    let places = usize::try_from(span / width + 1).unwrap_or(1);
    let mut thinned: Vec<Point> = (0..places)
        .map(|place| Point { at: first.at + width * i64::try_from(place).unwrap_or(0), value: None })
        .collect();
    for point in points {
        let place = usize::try_from((point.at - first.at) / width).unwrap_or(0).min(places - 1);
        let there = &mut thinned[place].value;
        *there = match (*there, point.value, pick) {
            (Some(a), Some(b), Pick::Largest) => Some(a.max(b)),
            (there, value, _) => value.or(there),
        };
    }
    thinned
}

/// Points that lie together, between gaps.
fn stretches(points: &[Point]) -> Vec<Vec<(i64, f64)>> {
    let mut stretches = vec![Vec::new()];
    for point in points {
        match (point.value, stretches.last_mut()) {
            (Some(value), Some(stretch)) => stretch.push((point.at, value)),
            _ => stretches.push(Vec::new()),
        }
    }
    stretches.retain(|stretch| !stretch.is_empty());
    stretches
}

impl Unit {
    /// Steps that a person counts in, the first that is not smaller than wanted.
    fn step(self, wanted: f64) -> f64 {
        const SPANS: [f64; 17] = [
            1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0,
            21600.0, 43200.0, 86400.0,
        ];
        let wanted = if wanted.is_finite() && wanted > 0.0 { wanted } else { 1.0 };
        match self {
            Unit::Bytes => {
                let unit = 1024_f64.powf(wanted.log(1024.0).floor().max(0.0));
                // 500 kB and then 1 MB, which is 1024.
                let step = round_step(wanted / unit);
                if step > 500.0 { unit * 1024.0 } else { (step * unit).max(1.0) }
            }
            Unit::Seconds if wanted > 0.5 && wanted <= 86_400.0 => {
                SPANS.into_iter().find(|span| *span >= wanted).unwrap_or(86_400.0)
            }
            Unit::Seconds if wanted > 86_400.0 => round_step(wanted / 86_400.0) * 86_400.0,
            Unit::PerSecond => round_step(wanted).max(1.0),
            Unit::Seconds => round_step(wanted),
        }
    }

    /// 0 and the steps up to the first that is not below `largest`.
    fn ticks(self, largest: f64) -> Vec<f64> {
        let step = self.step(largest / TICKS);
        let mut ticks = vec![0.0];
        while ticks.last().is_some_and(|last| *last < largest) && ticks.len() < 12 {
            ticks.push(index_of(ticks.len()) * step);
        }
        if ticks.len() == 1 {
            ticks.push(step);
        }
        ticks
    }

    pub fn words(self, value: f64) -> String {
        match self {
            Unit::Bytes => text::bytes(whole(value)),
            Unit::PerSecond => format!("{}/s", text::count(whole(value))),
            Unit::Seconds if value > 0.0 && value < 0.1 => {
                format!("{} s", (value * 1000.0).round() / 1000.0)
            }
            Unit::Seconds if value < 10.0 => format!("{} s", (value * 100.0).round() / 100.0),
            Unit::Seconds => text::duration(whole(value.round())),
        }
    }
}

/// 1, 2 or 5, times a power of ten, not below `wanted`.
fn round_step(wanted: f64) -> f64 {
    let power = 10_f64.powf(wanted.log10().floor());
    let leading = wanted / power;
    // What a division leaves above a round number is not above it.
    [1.0, 2.0, 5.0].into_iter().find(|step| leading <= step * (1.0 + 1e-9)).unwrap_or(10.0) * power
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates, and what is drawn is never negative
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[allow(clippy::cast_precision_loss)] // far below where a float skips
fn index_of(index: usize) -> f64 {
    index as f64
}

#[allow(clippy::cast_precision_loss)] // seconds since 1970
fn seconds_of(seconds: i64) -> f64 {
    seconds as f64
}

/// Places of a time scale, in whole steps of UTC.
fn time_ticks(from: i64, until: i64) -> Vec<(i64, String)> {
    const STEPS: [i64; 16] = [
        60, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600,
        2_592_000, 7_776_000,
    ];
    let span = until - from;
    let step = STEPS.into_iter().find(|step| span / step <= 6).unwrap_or(31_104_000);
    let mut ticks = Vec::new();
    let mut at = from.div_euclid(step) * step + step;
    while at < until {
        let shape = if step < 86_400 && at.rem_euclid(86_400) != 0 { "%H:%M" } else { "%-d %b" };
        if let Ok(moment) = Timestamp::from_second(at) {
            ticks.push((at, moment.to_zoned(TimeZone::UTC).strftime(shape).to_string()));
        }
        at += step;
    }
    ticks
}

/// Where something is on the paper.
struct Scale {
    from: i64,
    until: i64,
    top: f64,
}

impl Scale {
    fn share(&self, at: i64) -> f64 {
        seconds_of(at - self.from) / seconds_of((self.until - self.from).max(1))
    }

    fn y(&self, value: f64) -> f64 {
        TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - (value / self.top).clamp(0.0, 1.0))
    }

    /// In the line's own scale.
    fn grain(&self, (at, value): (i64, f64)) -> String {
        format!("{:.1},{:.1}", self.share(at) * GRAIN, GRAIN * (1.0 - (value / self.top).clamp(0.0, 1.0)))
    }
}

/// The drawing of a line; `None` where nothing was measured.
pub fn line(line: &Line, pick: Pick, clock: Clock) -> Option<Chart> {
    let points = thinned(&line.points, LINE_POINTS, pick);
    let values: Vec<f64> = points.iter().filter_map(|point| point.value).collect();
    let (first, last) = (points.first()?, points.last()?);
    let latest = *values.last()?;
    let largest = values.iter().copied().fold(0.0, f64::max);
    let marked = line.marks.iter().map(|mark| mark.value).fold(line.at_least, f64::max);
    let ahead = line.forecast.map_or(0.0, |(_, value)| value);
    let ticks = line.unit.ticks(largest.max(marked).max(ahead));
    let until = line.forecast.map_or(last.at, |(at, _)| at).max(line.until);
    let scale = Scale { from: first.at, until, top: ticks.last().copied().unwrap_or(1.0) };
    let span = span_words(last.at - first.at);
    let mut summary =
        format!("now {}, at most {} in {span}", line.unit.words(latest), line.unit.words(largest));
    if let Some((at, value)) = line.forecast {
        let when = rough_date(at);
        summary.push_str(&format!("; if it goes on like this, {} on {when}", line.unit.words(value)));
    }
    let (mut body, words) = paper(line.unit, &ticks, &scale);
    body.push_str(&words);
    body.push_str(&marks(&line.marks, &scale));
    body.push_str(&plot(line, &points, &scale));
    let rows = thinned(&line.points, TABLE_ROWS, pick)
        .into_iter()
        .rev()
        .map(|point| {
            let value = point.value.map_or_else(|| "not measured".into(), |value| line.unit.words(value));
            vec![clock.moment_of(point.at), Markup(escaped(&value))]
        })
        .collect();
    let svg = svg("chart-line", line.id, &line.title, &summary, &body);
    Some(Chart {
        id: line.id.to_owned(),
        title: line.title.clone(),
        summary,
        svg,
        columns: vec!["From", if pick == Pick::Largest { "At most" } else { "At the end" }],
        rows,
    })
}

/// Whole hours, where there are some.
fn span_words(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let hours = (seconds + 1800) / 3600;
    match seconds {
        0..5400 => format!("the last {}", text::duration(seconds.max(60) / 60 * 60)),
        _ if hours == 24 => "the last day".to_owned(),
        _ => format!("the last {}", text::duration(hours * 3600)),
    }
}

fn rough_date(at: i64) -> String {
    Timestamp::from_second(at)
        .map(|at| at.to_zoned(TimeZone::UTC).strftime("%-d %B %Y").to_string())
        .unwrap_or_default()
}

/// Scale and grid, and the words beside them.
fn paper(unit: Unit, ticks: &[f64], scale: &Scale) -> (String, String) {
    let mut body = String::new();
    for tick in ticks {
        let y = scale.y(*tick);
        let class = if *tick == 0.0 { "base" } else { "grid" };
        body.push_str(&format!(r#"<line class="{class}" x1="0" x2="100%" y1="{y:.1}" y2="{y:.1}"/>"#));
    }
    for (at, label) in time_ticks(scale.from, scale.until) {
        let place = scale.share(at) * 100.0;
        let anchor = if place < 4.0 {
            "start"
        } else if place > 96.0 {
            "end"
        } else {
            "middle"
        };
        body.push_str(&format!(
            r#"<line class="nick" x1="{place:.2}%" x2="{place:.2}%" y1="{0:.1}" y2="{1:.1}"/><text class="tick" x="{place:.2}%" y="{2:.1}" text-anchor="{anchor}">{label}</text>"#,
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 4.0,
            HEIGHT - 6.0,
        ));
    }
    let mut words = String::new();
    for tick in ticks.iter().skip(1) {
        let y = scale.y(*tick) - 4.0;
        words.push_str(&format!(r#"<text class="tick" x="0" y="{y:.1}">{}</text>"#, unit.words(*tick)));
    }
    (body, words)
}

fn marks(marks: &[Mark], scale: &Scale) -> String {
    let mut body = String::new();
    for (index, mark) in marks.iter().enumerate() {
        let y = scale.y(mark.value);
        // Side by side: levels may be nearer to one another than a word is high.
        let x = 100.0 - index_of(index) * MARK_WORD;
        body.push_str(&format!(
            r#"<line class="level tone-{0}" x1="0" x2="100%" y1="{y:.1}" y2="{y:.1}"/><text class="tick tone-{0}" x="{x}%" y="{1:.1}" text-anchor="end">{2}</text>"#,
            mark.tone.name(),
            y - 4.0,
            escaped(&mark.label),
        ));
    }
    body
}

fn plot(line: &Line, points: &[Point], scale: &Scale) -> String {
    let mut inside = String::new();
    let stretches = stretches(points);
    for stretch in &stretches {
        let path: Vec<String> = stretch.iter().map(|point| scale.grain(*point)).collect();
        // A lone point is a line to itself: its round end shows.
        let drawn = if let [only] = path.as_slice() { format!("{only} {only}") } else { path.join(" ") };
        let (Some(first), Some(last)) = (stretch.first(), stretch.last()) else { continue };
        let floor = |at: i64| scale.grain((at, 0.0));
        inside.push_str(&format!(
            r#"<polygon class="area" points="{} {} {}"/><polyline class="line" points="{drawn}"/>"#,
            floor(first.0),
            path.join(" "),
            floor(last.0),
        ));
    }
    if let (Some(ahead), Some(last)) = (line.forecast, stretches.last().and_then(|stretch| stretch.last())) {
        let points = format!("{} {}", scale.grain(*last), scale.grain(ahead));
        inside.push_str(&format!(r#"<polyline class="forecast" points="{points}"/>"#));
    }
    format!(
        r#"<svg x="0" y="{TOP}" width="100%" height="{}" viewBox="0 0 {GRAIN} {GRAIN}" preserveAspectRatio="none">{inside}</svg>"#,
        HEIGHT - TOP - BOTTOM
    )
}

fn svg(class: &str, id: &str, title: &str, summary: &str, body: &str) -> Markup {
    let (title, summary) = (escaped(title), escaped(summary));
    Markup(format!(
        r#"<svg class="chart {class}" role="img" aria-labelledby="{id}-title {id}-desc" width="100%" height="{HEIGHT}"><title id="{id}-title">{title}</title><desc id="{id}-desc">{summary}</desc>{body}</svg>"#
    ))
}

/// One run, as a bar.
#[derive(Debug, Clone)]
pub struct Bar {
    pub label: String,
    pub at: String,
    pub seconds: f64,
    pub tone: Tone,
    pub word: String,
}

/// Bars of equal width, the oldest first; what did not end well is hollow and has a cross.
pub fn bars(id: &'static str, title: &str, bars: &[Bar], clock: Clock) -> Option<Chart> {
    if bars.is_empty() {
        return None;
    }
    let largest = bars.iter().map(|bar| bar.seconds).fold(0.0, f64::max);
    let ticks = Unit::Seconds.ticks(largest);
    let scale = Scale { from: 0, until: 0, top: ticks.last().copied().unwrap_or(1.0) };
    let (mut body, words) = paper(Unit::Seconds, &ticks, &scale);
    // Few bars are not to be as wide as a hand.
    let places = index_of(bars.len().max(12));
    for (index, bar) in bars.iter().enumerate() {
        let (x, width) =
            (GUTTER + index_of(index) * (100.0 - GUTTER) / places, (100.0 - GUTTER) / places * 0.72);
        let y = scale.y(bar.seconds).min(HEIGHT - BOTTOM - 1.0);
        let height = HEIGHT - BOTTOM - y;
        let tip = escaped(&format!("{}: {}, {}", bar.label, Unit::Seconds.words(bar.seconds), bar.word));
        let class = if bar.tone == Tone::Good { "stick" } else { "stick hollow" };
        body.push_str(&format!(
            r#"<rect class="{class} tone-{}" x="{x:.2}%" y="{y:.1}" width="{width:.2}%" height="{height:.1}"><title>{tip}</title></rect>"#,
            bar.tone.name()
        ));
        if matches!(bar.tone, Tone::Bad | Tone::Warn) {
            body.push_str(&format!(
                r#"<text class="cross tone-{}" x="{:.2}%" y="{:.1}" text-anchor="middle" aria-hidden="true">×</text>"#,
                bar.tone.name(),
                x + width / 2.0,
                y - 4.0
            ));
        }
    }
    // On a narrow screen they are over a bar, and have a halo.
    body.push_str(&words);
    let well = bars.iter().filter(|bar| bar.tone == Tone::Good).count();
    let runs = text::several(bars.len() as u64, "run");
    let summary = format!("{runs}, {well} of them well, the longest {}", Unit::Seconds.words(largest));
    let rows = bars.iter().rev().map(|bar| {
        vec![
            Markup(escaped(&bar.label)),
            clock.moment(&bar.at),
            Markup(Unit::Seconds.words(bar.seconds)),
            Markup(escaped(&bar.word)),
        ]
    });
    Some(Chart {
        id: id.to_owned(),
        title: title.to_owned(),
        svg: svg("chart-bars", id, title, &summary, &body),
        summary,
        columns: vec!["Run", "Started", "Took", "Verdict"],
        rows: rows.collect(),
    })
}

/// One bar, divided: what each part took of the whole.
pub fn shares(id: &str, title: &str, of: &'static str, parts: &[(&str, f64)]) -> Option<Chart> {
    /// In per cent: a part that is narrower has no room for its word.
    const WORD: f64 = 16.0;
    let whole: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
    if whole <= 0.0 {
        return None;
    }
    let (mut body, mut x) = (String::new(), 0.0);
    for (index, (name, seconds)) in parts.iter().enumerate() {
        let width = seconds / whole * 100.0;
        let (shade, name) = (if index % 2 == 0 { "even" } else { "odd" }, escaped(name));
        let tip = format!("{name}: {}", text::seconds(*seconds));
        body.push_str(&format!(
            r#"<rect class="share-part {shade}" x="{x:.2}%" width="{width:.2}%" height="{SHARES_HEIGHT}"><title>{tip}</title></rect>"#
        ));
        if width >= WORD {
            body.push_str(&format!(
                r#"<text class="share-word" x="{:.2}%" y="{}" text-anchor="middle" aria-hidden="true">{name}</text>"#,
                x + width / 2.0,
                SHARES_HEIGHT / 2.0 + 4.0
            ));
        }
        x += width;
    }
    let longest = parts.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let summary = longest.map_or_else(String::new, |(name, seconds)| {
        format!("{} in all, longest {name}: {}", text::seconds(whole), text::seconds(*seconds))
    });
    let rows = parts.iter().map(|(name, seconds)| {
        let share = format!("{:.0} %", seconds / whole * 100.0);
        vec![Markup(escaped(name)), Markup(text::seconds(*seconds)), Markup(share)]
    });
    Some(Chart {
        id: id.to_owned(),
        title: title.to_owned(),
        svg: Markup(format!(
            r#"<svg class="chart shares" role="img" aria-labelledby="{id}-title {id}-desc" width="100%" height="{SHARES_HEIGHT}"><title id="{id}-title">{}</title><desc id="{id}-desc">{}</desc>{body}</svg>"#,
            escaped(title),
            escaped(&summary)
        )),
        summary,
        columns: vec![of, "Took", "Share"],
        rows: rows.collect(),
    })
}

/// A line without words, beside a name; what it is of is in its title.
pub fn spark(points: &[Point], unit: Unit, what: &str) -> Markup {
    let points = thinned(points, SPARK_POINTS, Pick::Largest);
    let values: Vec<f64> = points.iter().filter_map(|point| point.value).collect();
    let (Some(first), Some(last), false) = (points.first(), points.last(), values.is_empty()) else {
        return Markup::default();
    };
    let largest = values.iter().copied().fold(0.0, f64::max);
    let top = if largest > 0.0 { largest } else { 1.0 };
    let scale = Scale { from: first.at, until: last.at, top };
    let mut inside = String::new();
    for stretch in stretches(&points) {
        let mut path: Vec<String> = stretch.iter().map(|point| scale.grain(*point)).collect();
        if let [only] = path.as_slice() {
            path.push(only.clone());
        }
        inside.push_str(&format!(r#"<polyline class="line" points="{}"/>"#, path.join(" ")));
    }
    let name = escaped(&format!("{what}: at most {}", unit.words(largest)));
    Markup(format!(
        r#"<svg class="spark" role="img" aria-label="{name}" viewBox="0 -60 {GRAIN} 1120" preserveAspectRatio="none">{inside}</svg>"#
    ))
}

/// How much of something is used, with marks at some of it in per cent.
pub fn gauge(name: &str, used: f64, of: f64, tone: Tone, marks: &[f64]) -> Markup {
    let share = if of > 0.0 { (used / of * 100.0).clamp(0.0, 100.0) } else { 0.0 };
    let mut body = format!(
        r#"<rect class="track" width="100%" height="12"/><rect class="fill tone-{}" width="{share:.2}%" height="12"/>"#,
        tone.name()
    );
    for mark in marks {
        body.push_str(&format!(r#"<line class="notch" x1="{mark}%" x2="{mark}%" y1="0" y2="12"/>"#));
    }
    let name = escaped(&format!("{name}: {share:.0} %"));
    Markup(format!(
        r#"<svg class="gauge" role="img" aria-label="{name}" width="100%" height="12">{body}</svg>"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: &[Option<f64>]) -> Vec<Point> {
        (0..)
            .zip(values)
            .map(|(index, value)| Point { at: 1_763_784_000 + index * 60, value: *value })
            .collect()
    }

    #[test]
    fn scales_are_round_in_their_unit() {
        let words = |unit: Unit, largest: f64| -> Vec<String> {
            unit.ticks(largest).into_iter().map(|tick| unit.words(tick)).collect()
        };
        assert_eq!(words(Unit::Seconds, 0.35), ["0 s", "0.1 s", "0.2 s", "0.3 s", "0.4 s"]);
        assert_eq!(words(Unit::Seconds, 100.0), ["0 s", "30 s", "1 min", "1 min 30 s", "2 min"]);
        assert_eq!(words(Unit::Seconds, 11_000.0), ["0 s", "1 h", "2 h", "3 h", "4 h"]);
        assert_eq!(words(Unit::Bytes, 3.0 * 1024.0 * 1024.0), ["0 B", "1 MB", "2 MB", "3 MB"]);
        assert_eq!(
            words(Unit::Bytes, 900.0 * 1024.0),
            ["0 B", "200 kB", "400 kB", "600 kB", "800 kB", "1000 kB"]
        );
        assert_eq!(
            words(Unit::PerSecond, 4_100.0),
            ["0/s", "1,000/s", "2,000/s", "3,000/s", "4,000/s", "5,000/s"]
        );
        for unit in [Unit::Bytes, Unit::Seconds, Unit::PerSecond] {
            for largest in [0.0, 1e-9, 0.5, 1.0, 999.0, 1023.5, 86_401.0, 1e9, 9e17, f64::NAN, f64::INFINITY]
            {
                let ticks = unit.ticks(largest);
                assert!(
                    ticks.len() >= 2 && ticks.windows(2).all(|pair| pair[0] < pair[1]),
                    "{largest} {ticks:?}"
                );
            }
        }
    }

    #[test]
    fn a_scale_reaches_what_is_drawn() {
        for unit in [Unit::Bytes, Unit::Seconds, Unit::PerSecond] {
            for largest in [0.2, 7.0, 1025.0, 4e4, 1e7, 3e12] {
                assert!(unit.ticks(largest).last().is_some_and(|top| *top >= largest), "{unit:?} {largest}");
            }
        }
    }

    #[test]
    fn what_was_not_measured_is_a_gap() {
        let some = Some(1.0);
        let measured = points(&[some, some, some, some, None, None, None, None, some, some, some, some]);
        let thinned = thinned(&measured, 240, Pick::Largest);
        assert_eq!(stretches(&thinned).len(), 2, "{thinned:?}");
        // A hole in the measurements is one as well.
        let mut holed = points(&[some; 6]);
        holed.push(Point { at: holed[5].at + 3600, value: some });
        assert_eq!(stretches(&super::thinned(&holed, 240, Pick::Largest)).len(), 2);
        // One late measurement is not.
        let mut late = points(&[some; 12]);
        late.remove(5);
        assert_eq!(stretches(&super::thinned(&late, 240, Pick::Largest)).len(), 1);
    }

    #[test]
    fn thinning_keeps_the_peak_or_the_end() {
        let values: Vec<Option<f64>> = (0..5000).map(|index| Some(f64::from(index % 100))).collect();
        let of = |pick| thinned(&points(&values), 100, pick);
        assert!(of(Pick::Largest).len() <= 100);
        assert!(of(Pick::Largest).iter().any(|point| point.value == Some(99.0)));
        assert_eq!(of(Pick::Last).last().and_then(|point| point.value), Some(99.0));
        assert!(thinned(&[], 10, Pick::Last).is_empty());
        assert_eq!(thinned(&points(&[None]), 10, Pick::Last).len(), 1);
    }

    #[test]
    fn times_are_named_in_whole_steps() {
        let labels = |hours: i64| -> Vec<String> {
            time_ticks(1_763_784_000, 1_763_784_000 + hours * 3600)
                .into_iter()
                .map(|(_, label)| label)
                .collect()
        };
        // 04:00 on 22 November 2025.
        assert_eq!(labels(24), ["06:00", "12:00", "18:00", "23 Nov"]);
        assert_eq!(labels(1), ["04:10", "04:20", "04:30", "04:40", "04:50"]);
        assert!(labels(24 * 400).len() <= 6);
    }

    #[test]
    fn a_line_draws_its_forecast_marks_and_names() {
        let line_of = |values: &[Option<f64>]| Line {
            id: "x",
            title: "<size>".into(),
            unit: Unit::Bytes,
            points: points(values),
            forecast: Some((1_763_784_000 + 86_400, 4096.0)),
            marks: vec![Mark { label: "85 %".into(), value: 8192.0, tone: Tone::Bad }],
            at_least: 0.0,
            until: 0,
        };
        let clock = Clock::new("2025-11-22T05:00:00Z");
        let chart = line(&line_of(&[Some(1024.0), Some(2048.0)]), Pick::Last, clock).unwrap();
        for part in
            ["class=\"forecast\"", "85 %", "<title id=\"x-title\">&#60;size&#62;</title>", "<desc id="]
        {
            assert!(chart.svg.0.contains(part), "{part}: {}", chart.svg);
        }
        assert!(chart.summary.contains("now 2 kB") && chart.summary.contains("4 kB on 23 November 2025"));
        assert!(!chart.svg.0.contains("NaN") && !chart.svg.0.contains("style="));
        assert!(line(&line_of(&[None, None]), Pick::Last, clock).is_none());
        assert!(line(&line_of(&[]), Pick::Last, clock).is_none());
    }
}
