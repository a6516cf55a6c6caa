//! One value into rows: each column looks in its places, and what it finds is written where the row is made.

use std::collections::HashMap;

use bytes::Bytes;

use crate::change::ByNumber;
use crate::digest::Sha256;
use crate::keyspace::{Key, Misfit, Part, Table, Write};
use crate::pg::copy_text::put_escaped;

use super::canonical;
use super::json::{Json, Kind, Outline, check_storable};
use super::misfit::Reason;
use super::path::{Root, Step};
use super::plan::{Absent, ColumnPlan, Each, Origin, TablePlan};
use super::time;
use super::written::Conversion;

/// Something of a value that columns look into.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    /// A part of a document.
    Json {
        outline: &'a Outline,
        text: &'a [u8],
        index: usize,
    },
    /// Bytes; as JSON only where a path goes into them.
    Bytes {
        bytes: &'a [u8],
        outline: Option<&'a Outline>,
    },
    Pairs(&'a [(Bytes, Bytes)]),
}

/// What a column finds.
#[derive(Clone, Copy)]
enum Found<'a> {
    Nothing,
    Bytes(&'a [u8]),
    Json(Json<'a>),
}

impl<'a> Content<'a> {
    fn find(self, steps: &[Step]) -> Result<Found<'a>, Reason> {
        match self {
            Content::Json { outline, text, index } => Ok(find_below(outline, text, index, steps)),
            Content::Bytes { bytes, .. } if steps.is_empty() => Ok(Found::Bytes(bytes)),
            Content::Bytes { bytes, outline: Some(outline) } => Ok(find_below(outline, bytes, 0, steps)),
            Content::Bytes { bytes, outline: None } => {
                let mut outline = Outline::default();
                outline.read(bytes).map_err(|_| Reason::NotJson)?;
                Ok(find_below(&outline, bytes, 0, steps))
            }
            Content::Pairs(pairs) => {
                let Some((Step::Field(name), below)) = steps.split_first() else { return Ok(Found::Nothing) };
                // A stream's entry may have a field twice: as in JSON the last counts.
                let pair = pairs.iter().rfind(|(field, _)| field == name.as_bytes());
                pair.map_or(Ok(Found::Nothing), |(_, value)| {
                    Content::Bytes { bytes: value, outline: None }.find(below)
                })
            }
        }
    }

    /// What it is as bytes, for the content hash.
    fn put_canonical(self, out: &mut Vec<u8>) {
        match self {
            Content::Json { outline, text, index } => canonical::put(outline, text, index, out),
            Content::Bytes { bytes, .. } => out.extend_from_slice(bytes),
            Content::Pairs(pairs) => {
                for bytes in pairs.iter().flat_map(|(field, value)| [field, value]) {
                    out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
                    out.extend_from_slice(bytes);
                }
            }
        }
    }
}

fn find_below<'a>(outline: &Outline, text: &'a [u8], index: usize, steps: &[Step]) -> Found<'a> {
    match index_below(outline, text, index, steps) {
        Some(found) => Found::Json(outline.json(text, found)),
        None => Found::Nothing,
    }
}

/// Where the steps lead to from the value at `index`; `None` where nothing is, or `null`.
pub(super) fn index_below(outline: &Outline, text: &[u8], index: usize, steps: &[Step]) -> Option<usize> {
    let found = steps.iter().try_fold(index, |index, step| match step {
        Step::Field(name) => outline.field(text, index, name),
        Step::Item(number) => outline.item(index, *number),
    })?;
    (outline.kind(found) != Kind::Null).then_some(found)
}

/// What a row is made of.
pub(super) struct Element<'a> {
    pub(super) content: Content<'a>,
    pub(super) name: Option<&'a [u8]>,
    pub(super) index: usize,
    /// As it was, for a misfit.
    pub(super) raw: Bytes,
}

/// What is the same for all rows of a key.
pub(super) struct Setting<'a> {
    pub(super) key: &'a Key,
    pub(super) captures: &'a [&'a [u8]],
    pub(super) expires_at: Option<i64>,
    /// The whole value, where paths from its top are known.
    pub(super) top: Option<Content<'a>>,
}

/// An entry's part while it is made.
pub(super) struct PartDraft {
    pub(super) part: Part,
    /// Of each identity the row.
    seen: ByNumber<u64, usize>,
    /// Rows that later ones have taken the place of.
    replaced: Vec<usize>,
}

impl PartDraft {
    pub(super) fn new(table: usize, anchor: Vec<u8>) -> PartDraft {
        let part = Part { table, anchor, ..Part::default() };
        PartDraft { part, seen: ByNumber::default(), replaced: Vec::new() }
    }

    /// Takes the row that was written behind the last one.
    fn take_row(&mut self, identity: u64, write: Write) -> Result<(), Reason> {
        let rows = &mut self.part.rows;
        if let Some(&twin) = self.seen.get(&identity) {
            match write {
                Write::Replace => return Err(Reason::SameKey),
                Write::Ensure => {
                    rows.lines.truncate(rows.ends.last().copied().unwrap_or(0));
                    return Ok(());
                }
                Write::Upsert => self.replaced.push(twin),
            }
        }
        self.seen.insert(identity, rows.ends.len());
        rows.ends.push(rows.lines.len());
        rows.identities.push(identity);
        Ok(())
    }

    pub(super) fn finish(self) -> Part {
        let mut part = self.part;
        if self.replaced.is_empty() {
            return part;
        }
        let rows = std::mem::take(&mut part.rows);
        for index in (0..rows.len()).filter(|index| !self.replaced.contains(index)) {
            part.rows.lines.extend_from_slice(rows.line(index));
            part.rows.ends.push(part.rows.lines.len());
            part.rows.identities.push(rows.identities[index]);
        }
        part
    }
}

/// Makes rows of one table from one value.
pub(super) struct RowMaker<'a> {
    pub(super) plan: &'a TablePlan,
    pub(super) table: &'a Table,
    pub(super) setting: &'a Setting<'a>,
    pub(super) draft: &'a mut PartDraft,
    pub(super) misfits: &'a mut Vec<Misfit>,
    /// How often each content has been there.
    pub(super) occurrences: HashMap<[u8; 16], u64>,
    pub(super) scratch: Vec<u8>,
}

/// Why there is no row.
enum NoRow {
    Skipped,
    Misfit { column: Option<usize>, reason: Reason },
}

/// The content's hash and how many equal ones were before, found out when it is first asked for.
type Told = Option<(Sha256, u64)>;

impl RowMaker<'_> {
    pub(super) fn row(&mut self, element: &Element<'_>) {
        let start = self.draft.part.rows.lines.len();
        let Err(no_row) = self.try_row(element) else { return };
        self.draft.part.rows.lines.truncate(start);
        let NoRow::Misfit { column, reason } = no_row else { return };
        let reason = match column {
            Some(column) => format!("column \"{}\": {reason}", self.plan.columns[column].name),
            None => reason.to_string(),
        };
        self.misfit(self.at(Some(element.index)), reason, element.raw.clone());
    }

    pub(super) fn misfit(&mut self, at: String, reason: String, content: Bytes) {
        self.misfits.push(Misfit { table: Some(self.plan.table), at, reason, content });
    }

    /// Where in the value the element is, or what all elements are in.
    pub(super) fn at(&self, index: Option<usize>) -> String {
        let top = match &self.plan.each {
            Each::Value => return "$".into(),
            Each::Element => "$".into(),
            Each::Below(path) => path.to_string(),
        };
        index.map_or(top.clone(), |index| format!("{top}[{index}]"))
    }

    fn try_row(&mut self, element: &Element<'_>) -> Result<(), NoRow> {
        let mut told = None;
        let mut identity = Identity::default();
        for (index, column) in self.plan.columns.iter().enumerate() {
            let lines = &mut self.draft.part.rows.lines;
            if index > 0 {
                lines.push(b'\t');
            }
            let start = lines.len();
            let misfit = |reason| NoRow::Misfit { column: Some(index), reason };
            let is_there = self.put_column(column, element, &mut told).map_err(misfit)?;
            if !is_there {
                match column.absent {
                    Absent::Null => self.draft.part.rows.lines.extend_from_slice(b"\\N"),
                    Absent::Misfit => return Err(misfit(Reason::Missing)),
                    Absent::NoRow => return Err(NoRow::Skipped),
                }
            }
            if self.table.key.contains(&index) {
                identity.add(&self.draft.part.rows.lines[start..]);
            }
        }
        self.draft.part.rows.lines.push(b'\n');
        let identity = identity.finish();
        self.draft
            .take_row(identity, self.table.write)
            .map_err(|reason| NoRow::Misfit { column: None, reason })
    }

    /// Writes the column's value; `false` where there is none.
    fn put_column(
        &mut self,
        column: &ColumnPlan,
        element: &Element<'_>,
        told: &mut Told,
    ) -> Result<bool, Reason> {
        for origin in &column.from {
            if self.put_origin(origin, column.conversion, element, told)? {
                return Ok(true);
            }
        }
        let Some(default) = &column.default else { return Ok(false) };
        put_escaped(self.lines(), default.as_bytes());
        Ok(true)
    }

    fn lines(&mut self) -> &mut Vec<u8> {
        &mut self.draft.part.rows.lines
    }

    fn put_origin(
        &mut self,
        origin: &Origin,
        conversion: Conversion,
        element: &Element<'_>,
        told: &mut Told,
    ) -> Result<bool, Reason> {
        let found = match origin {
            Origin::Index => return Ok(self.put_number(element.index as u64)),
            Origin::Occurrence => {
                let (_, occurrence) = self.told(element, told);
                return Ok(self.put_number(occurrence));
            }
            Origin::ContentHash => {
                let (mut hash, occurrence) = self.told(element, told);
                hash.update(&occurrence.to_be_bytes());
                self.lines().extend_from_slice(hash.finish().as_bytes());
                return Ok(true);
            }
            Origin::Path(path) => match (path.root, self.setting.top) {
                (Root::Element, _) => element.content.find(&path.steps)?,
                (Root::Value, Some(top)) => top.find(&path.steps)?,
                (Root::Value, None) => Found::Nothing,
            },
            Origin::Name => element.name.map_or(Found::Nothing, Found::Bytes),
            of_key => return put_of_key(of_key, self.setting, self.lines()),
        };
        self.put_found(found, conversion)
    }

    fn put_number(&mut self, number: u64) -> bool {
        self.lines().extend_from_slice(number.to_string().as_bytes());
        true
    }

    fn put_found(&mut self, found: Found<'_>, conversion: Conversion) -> Result<bool, Reason> {
        let lines = &mut self.draft.part.rows.lines;
        match (conversion, found) {
            (_, Found::Nothing) => return Ok(false),
            (Conversion::Json, Found::Json(json)) => {
                check_storable(json.text)?;
                put_escaped(lines, json.text);
            }
            (Conversion::Json, Found::Bytes(bytes)) => {
                Outline::default().read(bytes).map_err(|_| Reason::NotJson)?;
                check_storable(bytes)?;
                put_escaped(lines, bytes);
            }
            (conversion, found) => {
                let bytes = match found {
                    Found::Json(json) => json.plain(&mut self.scratch)?,
                    Found::Bytes(bytes) => bytes,
                    Found::Nothing => return Ok(false),
                };
                let text = as_text(bytes)?;
                if conversion == Conversion::Text {
                    put_escaped(lines, text.as_bytes());
                } else {
                    time::put(text, conversion, lines).ok_or(Reason::NoTimestamp)?;
                }
            }
        }
        Ok(true)
    }

    fn told(&mut self, element: &Element<'_>, told: &mut Told) -> (Sha256, u64) {
        let (hash, occurrence) = told.get_or_insert_with(|| {
            self.scratch.clear();
            element.content.put_canonical(&mut self.scratch);
            let mut hash = Sha256::default();
            hash.update(&self.scratch);
            let count = self.occurrences.entry(hash.clone().half()).or_default();
            *count += 1;
            (hash, *count - 1)
        });
        (hash.clone(), *occurrence)
    }
}

/// Writes what follows from the key and its deadline.
fn put_of_key(origin: &Origin, setting: &Setting<'_>, lines: &mut Vec<u8>) -> Result<bool, Reason> {
    match origin {
        Origin::Capture(number) => put_escaped(lines, setting.captures[*number]),
        Origin::Key => put_escaped(lines, &setting.key.name),
        Origin::Database => lines.extend_from_slice(setting.key.database.to_string().as_bytes()),
        Origin::ExpiresAt => {
            let Some(deadline) = setting.expires_at else { return Ok(false) };
            time::put_milliseconds(deadline, lines).ok_or(Reason::NoTimestamp)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// A line of the anchor's values.
pub(super) fn anchor_line(table: &Table, plan: &TablePlan, setting: &Setting<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    for (place, &column) in table.anchor.iter().enumerate() {
        if place > 0 {
            line.push(b'\t');
        }
        for origin in &plan.columns[column].from {
            // What follows from the key alone has been looked at, and is there.
            let _ = put_of_key(origin, setting, &mut line);
        }
    }
    if !line.is_empty() {
        line.push(b'\n');
    }
    line
}

pub(super) fn as_text(bytes: &[u8]) -> Result<&str, Reason> {
    let text = std::str::from_utf8(bytes).map_err(|_| Reason::NotUtf8)?;
    if bytes.contains(&0) { Err(Reason::Nul) } else { Ok(text) }
}

/// Tells rows of one part apart: the first 64 bits of the SHA-256 of what the key's columns hold.
#[derive(Default)]
struct Identity(Sha256);

impl Identity {
    /// A value as it stands in a line: a tabulator is never inside of one.
    fn add(&mut self, value: &[u8]) {
        self.0.update(value);
        self.0.update(b"\t");
    }

    fn finish(self) -> u64 {
        let half = self.0.half();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&half[..8]);
        u64::from_be_bytes(bytes)
    }
}
