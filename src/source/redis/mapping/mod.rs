//! Keys into rows, as the operator has described it: which keys, what their values hold, and which columns of which
//! tables take it. No I/O: a value comes in, an [`Entry`] goes out.
//!
//! ```text
//! session:{session_id}  of JSON      {"user": "u1", "messages": [{"id": 1, "text": "hi"}, {"text": "ho"}]}
//!      |                                    |                        |
//!   pattern.rs  captures               json.rs  outline          plan.rs  each = "$.messages": a row an element
//!                                           \________________________|
//!                                                                 rows.rs  lines as COPY takes them, or misfits
//! ```
//!
//! A misfit spoils its own row alone. The same value always makes the same rows, so that nothing has to be remembered.

mod canonical;
mod create;
mod explain;
mod interest;
mod json;
mod misfit;
mod path;
mod pattern;
mod plan;
mod rows;
mod tables;
mod time;
mod written;

use std::collections::HashMap;

use bytes::Bytes;

use crate::digest::Sha256;
use crate::error::Result;
use crate::keyspace::{Entry, Key, Layout, Misfit};

use super::value::Value;
use json::{Kind, Outline};
use misfit::Reason;
use plan::{Each, KeyPlan, Origin, TablePlan};
use rows::{Content, Element, PartDraft, RowMaker, Setting};
use tables::Tables;

pub use plan::Place;
pub use written::{
    ColumnMapping, Conversion, KeyMapping, ReferenceMapping, TableMapping, ValueType, WhenGone,
};

/// Raised whenever the same mapping comes to write other rows.
const EDITION: u32 = 1;

/// All mappings of a pipeline, ready to use.
#[derive(Debug, Clone)]
pub struct Mapper {
    layout: Layout,
    databases: Vec<u32>,
    keys: Vec<KeyPlan>,
    tables: Tables,
    digest: [u8; 16],
}

impl Mapper {
    /// Checks what was written; `place` says where, for messages.
    pub fn new(written: &[KeyMapping], databases: &[u32], place: Place<'_>) -> Result<Mapper> {
        let mut databases = databases.to_vec();
        databases.sort_unstable();
        databases.dedup();
        let (layout, keys, tables) = plan::compile(written, &databases, place)?;
        let mut hash = Sha256::default();
        hash.update(format!("{EDITION} {databases:?} {layout:?} {keys:?}").as_bytes());
        Ok(Mapper { layout, databases, keys, tables, digest: hash.half() })
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Another one where another mapping would write other rows.
    pub fn digest(&self) -> [u8; 16] {
        self.digest
    }

    /// In ascending order.
    pub fn databases(&self) -> &[u32] {
        &self.databases
    }

    /// Whether rows change when nothing but a key's deadline does.
    pub fn reads_expiry(&self) -> bool {
        let tables = self.keys.iter().flat_map(|key| &key.tables);
        tables.flat_map(|table| &table.columns).any(|column| column.from.contains(&Origin::ExpiresAt))
    }

    /// The key that stands for an id, by the first mapping whose keys have just one: `session:4711` for `4711`.
    pub fn key_of(&self, id: &[u8]) -> Option<Key> {
        let name = self.keys.iter().find_map(|key| key.pattern.filled(id))?;
        Some(Key { database: *self.databases.first()?, name: name.into() })
    }

    /// The id that a key stands for, by that same mapping.
    pub fn id_of<'k>(&self, name: &'k [u8]) -> Option<&'k [u8]> {
        let mapping = self.keys.iter().find(|key| key.pattern.filled(b"x").is_some())?;
        mapping.pattern.captured(name)?.first().copied()
    }

    pub fn matches(&self, key: &Key) -> bool {
        self.plans(key).next().is_some()
    }

    /// Patterns for `SCAN ... MATCH`, a mapping each; together they take in every key that [`matches`](Mapper::matches),
    /// and some that do not.
    pub fn globs(&self) -> Vec<Vec<u8>> {
        let mut globs: Vec<Vec<u8>> = self.keys.iter().map(|key| key.pattern.glob()).collect();
        globs.sort();
        globs.dedup();
        globs
    }

    /// What keys begin with, for `CLIENT TRACKING ... PREFIX`: none begins with another, and one that is empty stands
    /// alone and means every key.
    pub fn prefixes(&self) -> Vec<Vec<u8>> {
        let mut prefixes: Vec<Vec<u8>> = self.keys.iter().map(|key| key.pattern.prefix().to_vec()).collect();
        // Sorted, each stands behind what it begins with.
        prefixes.sort();
        prefixes.dedup_by(|later, kept| later.starts_with(kept));
        prefixes
    }

    /// The rows of a key that is there. `expires_at`: milliseconds since 1970. Where several mappings match the key, the
    /// entry has the parts of all.
    pub fn map(&self, key: &Key, value: &Value, expires_at: Option<i64>) -> Entry {
        let mut mapping = Mapping::new(self, key);
        for (plan, captures) in self.plans(key) {
            mapping.value(plan, &captures, value, expires_at);
        }
        mapping.finish()
    }

    /// The parts of a key that is gone: whose rows they are, and none of them.
    pub fn gone(&self, key: &Key) -> Entry {
        let mut mapping = Mapping::new(self, key);
        for (plan, captures) in self.plans(key) {
            let setting = Setting { key, captures: &captures, expires_at: None, top: None };
            if check_name(plan, &setting).is_ok() {
                mapping.open(plan, &setting);
            }
        }
        mapping.finish()
    }

    /// `create table` statements that fit the mapping, for a user to change and run.
    pub fn create_tables(&self) -> String {
        create::statements(&self.tables)
    }

    /// The statements that create the table of that index in the layout.
    pub fn create_table(&self, index: usize) -> String {
        create::of(&self.tables, index)
    }

    fn plans<'k>(&self, key: &'k Key) -> impl Iterator<Item = (&KeyPlan, Vec<&'k [u8]>)> {
        let is_mapped = self.databases.binary_search(&key.database).is_ok();
        let plans = if is_mapped { self.keys.as_slice() } else { &[] };
        plans.iter().filter_map(|plan| Some((plan, plan.pattern.captured(&key.name)?)))
    }
}

/// Whether what columns hold of the key is text.
fn check_name(plan: &KeyPlan, setting: &Setting<'_>) -> Result<(), (String, Reason)> {
    if plan.uses_key {
        rows::as_text(&setting.key.name).map_err(|reason| ("{key}".to_owned(), reason))?;
    }
    for (number, capture) in setting.captures.iter().enumerate().filter(|(number, _)| plan.used[*number]) {
        let at = || format!("{{{}}}", plan.pattern.captures[number]);
        rows::as_text(capture).map_err(|reason| (at(), reason))?;
    }
    Ok(())
}

/// One key's entry while it is made.
struct Mapping<'a> {
    mapper: &'a Mapper,
    key: &'a Key,
    /// By the table's index.
    parts: Vec<Option<PartDraft>>,
    misfits: Vec<Misfit>,
}

impl<'a> Mapping<'a> {
    fn new(mapper: &'a Mapper, key: &'a Key) -> Mapping<'a> {
        let parts = mapper.layout.tables.iter().map(|_| None).collect();
        Mapping { mapper, key, parts, misfits: Vec::new() }
    }

    fn finish(self) -> Entry {
        let parts = self.parts.into_iter().flatten().map(PartDraft::finish).collect();
        Entry { key: self.key.clone(), parts, misfits: self.misfits }
    }

    /// The parts that the mapping fills, still without rows.
    fn open(&mut self, plan: &KeyPlan, setting: &Setting<'_>) {
        for table in &plan.tables {
            let described = &self.mapper.layout.tables[table.table];
            self.parts[table.table].get_or_insert_with(|| {
                PartDraft::new(table.table, rows::anchor_line(described, table, setting))
            });
        }
    }

    fn value(&mut self, plan: &KeyPlan, captures: &[&[u8]], value: &Value, expires_at: Option<i64>) {
        let mut setting = Setting { key: self.key, captures, expires_at, top: None };
        if let Err((at, reason)) = check_name(plan, &setting) {
            return self.misfit(at, reason.to_string(), value);
        }
        self.open(plan, &setting);
        if value.type_name() != plan.holds.type_name() {
            let (is, wanted) = (value.type_name(), plan.holds.type_name());
            return self.misfit("$".into(), format!("holds a {is}, and the mapping reads a {wanted}"), value);
        }
        let mut outline = Outline::default();
        if let (ValueType::Json | ValueType::ReJson, Value::Text(text) | Value::Json(text)) =
            (plan.holds, value)
        {
            if outline.read(text).is_err() {
                return self.misfit("$".into(), Reason::NotJson.to_string(), value);
            }
            setting.top = Some(Content::Json { outline: &outline, text, index: 0 });
        } else {
            setting.top = match value {
                Value::Text(bytes) => Some(Content::Bytes { bytes, outline: None }),
                Value::Hash(pairs) => Some(Content::Pairs(pairs)),
                _ => None,
            };
        }
        for table in &plan.tables {
            self.fill(table, &setting, value);
        }
    }

    fn misfit(&mut self, at: String, reason: String, value: &Value) {
        self.misfits.push(Misfit { table: None, at, reason, content: shown(value) });
    }

    fn fill(&mut self, plan: &TablePlan, setting: &Setting<'_>, value: &Value) {
        let Some(draft) = self.parts[plan.table].as_mut() else { return };
        let maker = RowMaker {
            plan,
            table: &self.mapper.layout.tables[plan.table],
            setting,
            draft,
            misfits: &mut self.misfits,
            occurrences: HashMap::new(),
            scratch: Vec::new(),
        };
        match (&plan.each, setting.top) {
            (Each::Value, Some(content)) => one_row(maker, content, value),
            (_, Some(Content::Json { outline, text, .. })) => elements_of_json(maker, outline, text, value),
            _ => elements(maker, value),
        }
    }
}

fn one_row(mut maker: RowMaker<'_>, content: Content<'_>, value: &Value) {
    maker.row(&Element { content, name: None, index: 0, raw: shown(value) });
}

/// A row an element of a list or an object in a document.
fn elements_of_json(mut maker: RowMaker<'_>, outline: &Outline, text: &[u8], value: &Value) {
    let steps = if let Each::Below(path) = &maker.plan.each { path.steps.as_slice() } else { &[] };
    let Some(top) = rows::index_below(outline, text, 0, steps) else { return };
    let whole = shown(value);
    let raw = |index: usize| whole.slice(outline.span(index));
    match outline.kind(top) {
        Kind::List => {
            for (index, item) in outline.items(top).enumerate() {
                let content = Content::Json { outline, text, index: item };
                maker.row(&Element { content, name: None, index, raw: raw(item) });
            }
        }
        Kind::Object => {
            for (index, (name, item)) in last_fields(outline, text, top).into_iter().enumerate() {
                let content = Content::Json { outline, text, index: item };
                maker.row(&Element { content, name: Some(&name), index, raw: raw(item) });
            }
        }
        _ => {
            let at = maker.at(None);
            maker.misfit(at, Reason::NoElements.to_string(), raw(top));
        }
    }
}

/// An object's fields, without those whose name comes again. A name that means no text stays as it is written, and is a
/// misfit where a column holds it.
fn last_fields(outline: &Outline, text: &[u8], object: usize) -> Vec<(Vec<u8>, usize)> {
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut fields: Vec<(Vec<u8>, usize)> = Vec::new();
    for (name, value) in outline.fields(object) {
        let mut scratch = Vec::new();
        let json = outline.json(text, name);
        // A NUL is refused wherever text is: it stands for a name that has no characters.
        let name = json.plain(&mut scratch).map_or_else(|_| [json.text, b"\0"].concat(), <[u8]>::to_vec);
        let place = *places.entry(name.clone()).or_insert(fields.len());
        if place == fields.len() {
            fields.push((name, value));
        } else {
            fields[place].1 = value;
        }
    }
    fields
}

/// A row an element of a value that is no document.
fn elements(mut maker: RowMaker<'_>, value: &Value) {
    let mut outline = Outline::default();
    let reads = maker.plan.reads_elements;
    let mut one = |index: usize, name: Option<&[u8]>, bytes: &Bytes| {
        let is_read = reads && outline.read(bytes).is_ok();
        let content = Content::Bytes { bytes, outline: is_read.then_some(&outline) };
        maker.row(&Element { content, name, index, raw: bytes.clone() });
    };
    match value {
        Value::List(items) | Value::Set(items) => {
            items.iter().enumerate().for_each(|(index, item)| one(index, None, item));
        }
        Value::Hash(pairs) | Value::SortedSet(pairs) => {
            pairs.iter().enumerate().for_each(|(index, (name, item))| one(index, Some(name), item));
        }
        Value::Stream(entries) => {
            for (index, (id, fields)) in entries.iter().enumerate() {
                let content = Content::Pairs(fields);
                maker.row(&Element { content, name: Some(id), index, raw: joined(fields) });
            }
        }
        Value::Text(_) | Value::Json(_) | Value::Other(_) => {}
    }
}

/// A value as bytes, for people who look at what did not fit.
fn shown(value: &Value) -> Bytes {
    match value {
        Value::Text(bytes) | Value::Json(bytes) => bytes.clone(),
        Value::List(items) | Value::Set(items) => lines(items.iter()),
        Value::Hash(pairs) | Value::SortedSet(pairs) => joined(pairs),
        Value::Stream(entries) => {
            let entries: Vec<Bytes> =
                entries.iter().map(|(id, fields)| lines([id, &joined(fields)])).collect();
            lines(entries.iter())
        }
        Value::Other(_) => Bytes::new(),
    }
}

fn joined(pairs: &[(Bytes, Bytes)]) -> Bytes {
    lines(pairs.iter().flat_map(|(one, other)| [one, other]))
}

fn lines<'a>(items: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut all = Vec::new();
    for item in items {
        all.extend_from_slice(item);
        all.push(b'\n');
    }
    all.into()
}

#[cfg(test)]
mod tests;
