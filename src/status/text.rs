//! A status for people: aligned, with colours only where they are wanted.
//!
//! Names come from databases and may hold anything: control characters are shown escaped, so that a table cannot
//! steer the terminal.

mod keys;

use std::borrow::Cow;
use std::fmt::Write;

use crate::config::written;

use super::{
    ArchiveStatus, CheckReport, DifferenceKind, KeysStatus, Level, Phase, PipelineStatus, SlotStatus,
    StopReason, Stopped, TableListing, TableState, TableStatus, TableVerification, VerifyReport,
};

/// Where a fact's words begin, and a finding's.
const FACT_INDENT: usize = 14;
const FINDING_INDENT: usize = 9;

/// Whether texts are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Coloured,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Strong,
    Good,
    Warning,
    Bad,
    Dim,
}

impl Paint {
    /// Colours, unless the output is no terminal or `NO_COLOR` (no-color.org) is set to anything.
    pub fn for_terminal(is_terminal: bool) -> Paint {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if is_terminal && !refused { Paint::Coloured } else { Paint::Plain }
    }

    pub fn strong(self, text: &str) -> String {
        self.tone(Tone::Strong, text)
    }

    pub fn bad(self, text: &str) -> String {
        self.tone(Tone::Bad, text)
    }

    fn tone(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if self == Paint::Plain || text.is_empty() => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

impl PipelineStatus {
    pub fn text(&self, paint: Paint) -> String {
        let mut text = String::new();
        let heading = paint.strong(&format!("pipeline {}", printable(&self.name)));
        let phase = paint.tone(self.phase.tone(), self.phase.words());
        line(&mut text, &format!("{heading}  {phase}  ({})", self.mode));
        let mut fact = |name: &str, words: &str| line(&mut text, &format!("  {name:<12}{words}"));
        if let Some(doing) = &self.doing {
            fact("doing", &printable(doing));
        }
        fact("source", &printable(&self.source));
        fact("target", &printable(&self.target));
        if let Some(ran) = &self.running_on {
            fact(
                "runs on",
                &format!("{}, process {}, since {}", printable(&ran.host), ran.process_id, ran.since),
            );
        }
        if let Some(position) = self.position {
            let of = self.source_position.map(|end| format!(" of {end}")).unwrap_or_default();
            fact("position", &format!("{position}{of}"));
        }
        if let Some(lag) = lag(self.lag_bytes, self.lag_seconds) {
            fact("lag", &lag);
        }
        if let Some(slot) = &self.slot {
            fact("slot", &slot.text(paint));
        }
        if let Some(archive) = &self.archive {
            fact("archive", &archive.text());
        }
        if let Some(keys) = &self.keys {
            keys.text(paint).into_iter().for_each(|(name, words)| fact(name, &words));
        }
        if let Some(at) = &self.sequences.carried_at {
            fact("sequences", &format!("{} carried at {at}", count(self.sequences.carried)));
        }
        if let Some(error) = &self.last_error {
            fact("last error", &paint.bad(&printable_lines(error, FACT_INDENT)));
        }
        if let Some(hint) = &self.hint {
            fact("hint", &printable_lines(hint, FACT_INDENT));
        }
        if self.retries > 0 {
            let next = match &self.retry_at {
                Some(at) => format!(", next at {at}"),
                None if self.phase == Phase::Retrying => ", the next attempt is under way".to_owned(),
                None => String::new(),
            };
            fact("retries", &format!("{}{next}", self.retries));
        }
        for note in &self.notes {
            fact("note", &printable(note));
        }
        if !self.tables.is_empty() {
            text.push('\n');
            text.push_str(&tables(&self.tables, paint));
        }
        text
    }
}

impl Phase {
    pub fn words(self) -> &'static str {
        match self {
            Phase::New => "new",
            Phase::Copying => "copying",
            Phase::CatchingUp => "catching up",
            Phase::Streaming => "streaming",
            Phase::Paused => "paused",
            Phase::Retrying => "retrying",
            Phase::Stopped => "stopped",
            Phase::Failed => "failed",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Phase::New | Phase::Stopped => Tone::Plain,
            Phase::Copying | Phase::CatchingUp | Phase::Streaming => Tone::Good,
            Phase::Paused | Phase::Retrying => Tone::Warning,
            Phase::Failed => Tone::Bad,
        }
    }
}

impl SlotStatus {
    fn text(&self, paint: Paint) -> String {
        let over = self.wal_held_bytes > self.wal_budget_bytes;
        let held = format!("holds {} of {}", bytes(self.wal_held_bytes), bytes(self.wal_budget_bytes));
        let mut parts = vec![
            format!("{} {}", printable(&self.name), if self.active { "active" } else { "inactive" }),
            paint.tone(if over { Tone::Warning } else { Tone::Plain }, &held),
        ];
        if let Some(status) = &self.wal_status {
            let tone = if matches!(status.as_str(), "unreserved" | "lost") { Tone::Bad } else { Tone::Plain };
            parts.push(paint.tone(tone, &printable(status)));
        }
        if let Some(left) = self.safe_wal_bytes {
            let left = u64::try_from(left).unwrap_or(0);
            parts.push(format!("{} until the server invalidates it", bytes(left)));
        }
        if let Some(reached) = self.budget_reached_in_seconds {
            parts.push(format!("over budget in {}", duration(reached)));
        }
        parts.join(", ")
    }
}

impl ArchiveStatus {
    fn text(&self) -> String {
        let mut parts = vec![match (self.file, self.last_file) {
            (Some(file), Some(last)) => format!("file {file} of {last}"),
            (Some(file), None) => format!("file {file}"),
            (None, Some(last)) => format!("no file of {last} yet"),
            (None, None) => "no file yet".to_owned(),
        }];
        parts.extend(self.files_behind.map(|behind| format!("{} behind", count(behind))));
        parts.extend(self.last_file_sealed_at.as_ref().map(|at| format!("the last sealed at {at}")));
        parts.extend(self.last_commit_at.as_ref().map(|at| format!("last commit at {at}")));
        parts.join(", ")
    }
}

impl KeysStatus {
    fn text(&self, paint: Paint) -> Vec<(&'static str, String)> {
        let mut keys = vec![several(self.present, "key")];
        if self.gone > 0 {
            keys.push(format!("{} gone", count(self.gone)));
        }
        if self.misfits > 0 {
            let misfits = format!("{} without a row", several(self.misfits, "part of a value"));
            keys.push(format!("{} (pgdiode.keyspace_misfit)", paint.tone(Tone::Warning, &misfits)));
        }
        if !self.is_scanned {
            keys.push("not all have been looked at yet".to_owned());
        }
        let mut facts = vec![("keys", keys.join(", "))];
        if let Some(history) = &self.history {
            let of = self.source_offset.map(|end| format!(" of {end}")).unwrap_or_default();
            facts.push(("history", format!("{}, at {}{of}", printable(history), self.offset)));
        }
        facts.extend(self.nodes.iter().map(|node| {
            let of = node.source_offset.map(|end| format!(" of {end}")).unwrap_or_default();
            let (id, history) = (printable(&node.id), printable(&node.history));
            ("node", format!("{id}: {history}, at {}{of}", node.offset))
        }));
        facts
    }
}

impl TableState {
    pub fn word(self) -> &'static str {
        match self {
            TableState::Pending => "pending",
            TableState::Copying => "copying",
            TableState::Ready => "ready",
            TableState::Quarantined => "quarantined",
        }
    }

    fn tone(self) -> Tone {
        match self {
            TableState::Pending => Tone::Dim,
            TableState::Copying => Tone::Plain,
            TableState::Ready => Tone::Good,
            TableState::Quarantined => Tone::Bad,
        }
    }
}

fn tables(tables: &[TableStatus], paint: Paint) -> String {
    let heading =
        ["TABLE", "STATE", "ROWS COPIED", "COPIED", "INSERTS", "UPDATES", "DELETES", "CONFLICTS", "SKIPPED"];
    let mut grid = Grid::new(&heading, 2);
    for table in tables {
        let copied = match table.bytes_total {
            Some(total) if table.state == TableState::Copying => {
                format!("{} of {}", bytes(table.bytes_copied), bytes(total))
            }
            _ => bytes(table.bytes_copied),
        };
        let warned = |number: u64| (count(number), if number > 0 { Tone::Warning } else { Tone::Plain });
        grid.row(vec![
            (printable(&written(&table.name)).into_owned(), Tone::Plain),
            (table.state.word().into(), table.state.tone()),
            (count(table.rows_copied), Tone::Plain),
            (copied, Tone::Plain),
            (count(table.inserts), Tone::Plain),
            (count(table.updates), Tone::Plain),
            (count(table.deletes), Tone::Plain),
            warned(table.conflicts),
            warned(table.skipped),
        ]);
        for (name, words) in [("reason", &table.reason), ("remedy", &table.remedy)] {
            if let Some(words) = words {
                grid.note(format!("  {name}: {}", printable_lines(words, 4)));
            }
        }
    }
    grid.text(paint)
}

impl CheckReport {
    pub fn text(&self, paint: Paint) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let (word, tone) = match finding.level {
                Level::Ok => ("ok", Tone::Good),
                Level::Warning => ("warning", Tone::Warning),
                Level::Refused => ("refused", Tone::Bad),
            };
            line(
                &mut text,
                &format!(
                    "{}  {}",
                    paint.tone(tone, &format!("{word:<7}")),
                    printable_lines(&finding.what, FINDING_INDENT)
                ),
            );
            if let Some(hint) = &finding.hint {
                line(&mut text, &format!("         hint: {}", printable_lines(hint, FINDING_INDENT)));
            }
        }
        let (warnings, refused) = (self.count(Level::Warning), self.count(Level::Refused));
        line(
            &mut text,
            &format!("{} ok, {warnings} with a warning, {refused} refused", self.count(Level::Ok)),
        );
        text
    }
}

impl VerifyReport {
    pub fn text(&self, paint: Paint) -> String {
        let heading = ["TABLE", "RESULT", "ROWS SOURCE", "ROWS TARGET", "DIFFERENCES"];
        let mut grid = Grid::new(&heading, 2);
        for table in &self.tables {
            verified(&mut grid, table);
        }
        let mut text = grid.text(paint);
        let rows = self.tables.iter().map(|table| table.rows_source).sum();
        let at = self.lsn.map(|lsn| format!(" at {lsn}")).unwrap_or_default();
        let verdict = if self.identical {
            paint.tone(Tone::Good, "both sides are identical")
        } else {
            paint.bad("both sides differ")
        };
        line(
            &mut text,
            &format!(
                "{verdict}{at}: {}, {}, {}",
                several(self.tables.len() as u64, "table"),
                several(rows, "row"),
                seconds(self.seconds)
            ),
        );
        text
    }
}

fn verified(grid: &mut Grid, table: &TableVerification) {
    let result =
        if table.identical { ("identical".into(), Tone::Good) } else { ("different".into(), Tone::Bad) };
    grid.row(vec![
        (printable(&written(&table.name)).into_owned(), Tone::Plain),
        result,
        (count(table.rows_source), Tone::Plain),
        (count(table.rows_target), Tone::Plain),
        (count(table.differences_total), Tone::Plain),
    ]);
    for difference in &table.differences {
        let kind = match difference.kind {
            DifferenceKind::Missing => "missing at the target",
            DifferenceKind::Extra => "only at the target",
            DifferenceKind::Different => "other values",
        };
        grid.note(format!("  {}: {kind}", printable(&difference.key)));
    }
    let unlisted = table.differences_total.saturating_sub(table.differences.len() as u64);
    if unlisted > 0 && !table.differences.is_empty() {
        grid.note(format!("  and {} more", count(unlisted)));
    }
    if let Some(note) = &table.note {
        grid.note(format!("  {}", printable(note)));
    }
}

/// The source's tables.
pub fn listing(tables: &[TableListing], paint: Paint) -> String {
    let mut grid = Grid::new(&["TABLE", "CARRIED", "STATE", "IDENTITY", "SIZE"], 4);
    for table in tables {
        let carried = if table.carried { ("yes".into(), Tone::Good) } else { ("no".into(), Tone::Dim) };
        let state = table.state.map_or(("-".into(), Tone::Dim), |state| (state.word().into(), state.tone()));
        grid.row(vec![
            (printable(&written(&table.name)).into_owned(), Tone::Plain),
            carried,
            state,
            (printable(&table.replica_identity).into_owned(), Tone::Plain),
            (bytes(table.bytes), Tone::Plain),
        ]);
        if let Some(note) = &table.note {
            grid.note(format!("  {}", printable(note)));
        }
    }
    grid.text(paint)
}

impl Stopped {
    pub fn text(&self, pipeline: &str) -> String {
        let why = match self.reason {
            StopReason::Reached => "reached what was asked for",
            StopReason::Asked => "stopped as asked",
            StopReason::Signal => "stopped by a signal",
        };
        let at = self.position.map(|position| format!(" at {position}")).unwrap_or_default();
        format!("pipeline \"{pipeline}\" {why}{at}")
    }
}

/// Rows of equal width, with notes between them.
pub(super) struct Grid {
    heading: Vec<String>,
    rows: Vec<Row>,
    /// So many columns are aligned to the left, the numbers after them to the right.
    left: usize,
}

enum Row {
    Cells(Vec<(String, Tone)>),
    Note(String),
}

impl Grid {
    pub(super) fn new(heading: &[&str], left: usize) -> Grid {
        Grid { heading: heading.iter().map(ToString::to_string).collect(), rows: Vec::new(), left }
    }

    pub(super) fn row(&mut self, cells: Vec<(String, Tone)>) {
        assert_eq!(cells.len(), self.heading.len(), "a row has a cell for each column");
        self.rows.push(Row::Cells(cells));
    }

    fn note(&mut self, text: String) {
        self.rows.push(Row::Note(text));
    }

    pub(super) fn text(&self, paint: Paint) -> String {
        let mut widths: Vec<usize> = self.heading.iter().map(|name| name.chars().count()).collect();
        for row in &self.rows {
            if let Row::Cells(cells) = row {
                for (width, (cell, _)) in widths.iter_mut().zip(cells) {
                    *width = (*width).max(cell.chars().count());
                }
            }
        }
        let mut text = String::new();
        let heading: Vec<_> = self.heading.iter().map(|name| (name.clone(), Tone::Dim)).collect();
        self.cells(&mut text, &heading, &widths, paint);
        for row in &self.rows {
            match row {
                Row::Cells(cells) => self.cells(&mut text, cells, &widths, paint),
                Row::Note(note) => line(&mut text, note),
            }
        }
        text
    }

    fn cells(&self, text: &mut String, cells: &[(String, Tone)], widths: &[usize], paint: Paint) {
        let mut written = String::new();
        for (column, ((cell, tone), width)) in cells.iter().zip(widths).enumerate() {
            let gap = " ".repeat(width - cell.chars().count());
            let between = if column == 0 { "" } else { "  " };
            let cell = paint.tone(*tone, cell);
            let (first, last) = if column < self.left { (cell, gap) } else { (gap, cell) };
            written.extend([between, &first, &last]);
        }
        line(text, written.trim_end());
    }
}

fn line(text: &mut String, words: &str) {
    text.push_str(words);
    text.push('\n');
}

/// How far behind, in bytes and seconds, whichever is known.
pub fn lag(lag_bytes: Option<u64>, lag_seconds: Option<f64>) -> Option<String> {
    let parts: Vec<String> = lag_bytes.map(bytes).into_iter().chain(lag_seconds.map(seconds)).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Whether it steers what it is shown in: a control character, or one that reorders or hides what is around it.
pub fn steers(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text that cannot steer a terminal. Line breaks, too, are shown.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if steers(character) {
            // Writing to a String cannot fail.
            let _ = write!(shown, "{}", character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown.into()
}

/// The same for what a program said in several lines: those stay, each later one behind `indent` spaces, so that none
/// passes for a line of ours.
pub fn printable_lines(text: &str, indent: usize) -> String {
    let lines: Vec<Cow<'_, str>> = text.trim_end().lines().map(printable).collect();
    lines.join(&format!("\n{:indent$}", ""))
}

/// `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 table`, `2 tables`.
pub fn several(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `999 B`, `1.5 kB`, `12 MB`: in steps of 1024, as `pg_size_pretty` has it.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if number < 1024 {
        return format!("{number} B");
    }
    // Tenths, so that no float rounds.
    let mut tenths = u128::from(number) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit < UNITS.len() - 1 {
        tenths /= 1024;
        unit += 1;
    }
    if tenths < 100 && !tenths.is_multiple_of(10) {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", tenths / 10, UNITS[unit])
    }
}

/// `0.03 s`, `12 s`, `2 min 3 s`.
pub fn seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{:.2} s", seconds.max(0.0));
    }
    // Saturates far beyond any duration.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    duration(seconds as u64)
}

/// `12 s`, `2 min 3 s`, `5 h 7 min`, `3 d 4 h`.
pub fn duration(seconds: u64) -> String {
    let pair = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => pair(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

#[cfg(test)]
mod tests;
