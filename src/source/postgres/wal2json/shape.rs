//! A table's shape at the moment of a change, from what the change says of its columns and the catalog of the rest; and
//! the change in that shape.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::archive::row::{self, Field, Op, Row};
use crate::change::{Change, Column, Old, Relation, ReplicaIdentity, Tuple, Value};

use super::described::Described;
use super::special::Lost;

const BOOL: u32 = 16;
const BYTEA: u32 = 17;

/// The relation of a table's latest change.
pub(super) struct Shape {
    pub relation: Arc<Relation>,
    /// `pg_attribute.attnum` of each of its columns; 0 where nobody said it.
    numbers: Vec<i16>,
    described: Option<Arc<Described>>,
}

/// A column on its way into a shape.
struct Candidate<'a> {
    number: i16,
    name: &'a str,
    type_id: u32,
}

impl Shape {
    /// The shape of a row that does not fit the one before.
    pub(super) fn of(
        row: &Row<'_>,
        described: Option<&Arc<Described>>,
        before: Option<&Shape>,
        nameless: u32,
    ) -> Shape {
        let candidates = candidates(row, described.map(Arc::as_ref), before);
        let named: BTreeSet<&str> = row
            .old
            .iter()
            .flatten()
            .map(|field| field.name.as_ref())
            .filter(|name| is_stored(described, None, name))
            .collect();
        let (identity, keys) = identity(row, &named, &candidates, described.map(Arc::as_ref));
        let modifier = |candidate: &Candidate<'_>| {
            let column = described
                .iter()
                .flat_map(|described| &described.columns)
                .find(|column| column.number == candidate.number && column.type_id == candidate.type_id);
            column.map_or(-1, |column| column.type_modifier)
        };
        let columns = candidates.iter().map(|candidate| Column {
            name: candidate.name.to_owned(),
            type_id: candidate.type_id,
            type_modifier: modifier(candidate),
            key: keys.contains(candidate.name),
        });
        let relation = Relation {
            id: described
                .map(|described| described.oid)
                .or(before.map(|before| before.relation.id))
                .unwrap_or(nameless),
            schema: row.table.schema.clone(),
            name: row.table.name.clone(),
            identity,
            columns: columns.collect(),
        };
        let relation = match before {
            Some(before) if *before.relation == relation => Arc::clone(&before.relation),
            _ => Arc::new(relation),
        };
        let numbers = candidates.iter().map(|candidate| candidate.number).collect();
        Shape { relation, numbers, described: described.cloned() }
    }

    /// Whether the row has this shape.
    pub(super) fn fits(&self, row: &Row<'_>, described: Option<&Arc<Described>>) -> bool {
        let is_described_so = match (&self.described, described) {
            (Some(here), Some(now)) => Arc::ptr_eq(here, now),
            (None, None) => true,
            _ => false,
        };
        is_described_so && self.fits_new(row) && self.fits_old(row)
    }

    /// Whether the row's columns are among these, in this order, and all of them but those that an update may leave out.
    fn fits_new(&self, row: &Row<'_>) -> bool {
        let mut columns = self.numbers.iter().zip(&self.relation.columns);
        let mut fields =
            row.new.iter().filter(|field| is_stored(self.described.as_ref(), field.number, &field.name));
        match row.op {
            Op::Insert => {
                fields.by_ref().all(|field| columns.next().is_some_and(|column| is_of(field, column)))
                    && columns.next().is_none()
            }
            Op::Update => fields.all(|field| columns.any(|column| is_of(field, column))),
            Op::Delete | Op::Truncate => true,
        }
    }

    fn fits_old(&self, row: &Row<'_>) -> bool {
        let Some(old) = &row.old else { return true };
        let is_key =
            |name: &str| self.relation.columns.iter().any(|column| column.key && column.name == name);
        let mut stored = old.iter().filter(|field| is_stored(self.described.as_ref(), None, &field.name));
        let keys = self.relation.columns.iter().filter(|column| column.key).count();
        let has_null = self.relation.identity != ReplicaIdentity::Full
            && old.iter().any(|field| field.raw.get() == "null");
        !has_null && stored.clone().count() == keys && stored.all(|field| is_key(&field.name))
    }

    /// The change that a row says.
    pub(super) fn change(&self, row: &Row<'_>, lost: &Lost) -> Result<Change, String> {
        let relation = Arc::clone(&self.relation);
        Ok(match row.op {
            Op::Insert => Change::Insert { new: self.new_row(row, lost)?, relation },
            Op::Update => {
                let new = self.new_row(row, lost)?;
                let old = row.old.as_deref().ok_or("\"identity\" is missing")?;
                let old = self.old_row(old, lost)?;
                let old = Some(old).filter(|old| !self.is_same_key(old, &new));
                Change::Update { relation, old, new }
            }
            Op::Delete => {
                let old = row.old.as_deref().ok_or("\"identity\" is missing")?;
                Change::Delete { old: self.old_row(old, lost)?, relation }
            }
            Op::Truncate => return Err("a truncation has no row".to_owned()),
        })
    }

    fn new_row(&self, row: &Row<'_>, lost: &Lost) -> Result<Tuple, String> {
        let mut texts = Vec::with_capacity(self.numbers.len());
        let mut from = 0;
        for (number, column) in self.numbers.iter().zip(&self.relation.columns) {
            let at = row.new[from..].iter().position(|field| is_of(field, (number, column)));
            let Some(at) = at.map(|at| at + from) else {
                texts.push(None);
                continue;
            };
            from = at + 1;
            texts.push(Some(text(&row.new[at], lost.new_at(at))?));
        }
        Ok(texts.iter().map(|text| value(text.as_ref(), Value::Unchanged)).collect())
    }

    fn old_row(&self, old: &[Field<'_>], lost: &Lost) -> Result<Old, String> {
        let mut texts = Vec::with_capacity(self.numbers.len());
        for column in &self.relation.columns {
            let at = old.iter().position(|field| column.key && field.name == column.name);
            texts.push(at.map(|at| text(&old[at], lost.old_at(at))).transpose()?);
        }
        let tuple = texts.iter().map(|text| value(text.as_ref(), Value::Null)).collect();
        let is_full = self.relation.identity == ReplicaIdentity::Full;
        Ok(if is_full { Old::Full(tuple) } else { Old::Key(tuple) })
    }

    /// pgoutput says nothing of a key that stays.
    fn is_same_key(&self, old: &Old, new: &Tuple) -> bool {
        let Old::Key(old) = old else { return false };
        let mut columns = self.relation.columns.iter().zip(old.values().zip(new.values()));
        columns.all(|(column, (old, new))| !column.key || old == new)
    }
}

/// Whether the column's values are stored, and so carried: not where the server computes them.
fn is_stored(described: Option<&Arc<Described>>, number: Option<i16>, name: &str) -> bool {
    described.is_none_or(|described| !described.is_generated(number, name))
}

fn is_of(field: &Field<'_>, (number, column): (&i16, &Column)) -> bool {
    field.number == Some(*number) && field.type_id == Some(column.type_id) && field.name == column.name
}

/// The table's columns at the row's moment. An insert says them all. An update says those that have no large value which
/// it did not touch: others are added from what is known, and at worst one that did not exist yet, or any more, is said not
/// to have been touched. A delete says the identity's alone.
fn candidates<'a>(
    row: &'a Row<'_>,
    described: Option<&'a Described>,
    before: Option<&'a Shape>,
) -> Vec<Candidate<'a>> {
    let is_generated =
        |number, name: &str| described.is_some_and(|described| described.is_generated(number, name));
    let said = row.new.iter().filter(|field| !is_generated(field.number, &field.name));
    let mut candidates: Vec<Candidate<'_>> = said
        .map(|field| Candidate {
            number: field.number.unwrap_or(0),
            name: field.name.as_ref(),
            type_id: field.type_id.unwrap_or(0),
        })
        .collect();
    if row.op == Op::Insert {
        return candidates;
    }
    let mut add = |number: i16, name: &'a str, type_id: u32| {
        if candidates.iter().all(|there| there.number != number && there.name != name) {
            candidates.push(Candidate { number, name, type_id });
        }
    };
    let is_update = row.op == Op::Update;
    if let Some(before) = before {
        for (number, column) in before.numbers.iter().zip(&before.relation.columns) {
            let may_be_absent = described.is_none_or(|described| {
                described.columns.iter().all(|there| there.number != *number || there.may_be_absent)
            });
            if !is_update || may_be_absent {
                add(*number, &column.name, column.type_id);
            }
        }
    }
    if is_update || before.is_none() {
        for column in described.iter().flat_map(|described| &described.columns) {
            if !column.is_generated && (!is_update || column.may_be_absent) {
                add(column.number, &column.name, column.type_id);
            }
        }
    }
    // What is known by name alone goes behind.
    for (at, field) in row.old.iter().flatten().enumerate() {
        if !is_generated(None, &field.name) && candidates.iter().all(|there| there.name != field.name) {
            let number = i16::MAX - i16::try_from(at).unwrap_or(0);
            candidates.push(Candidate {
                number,
                name: field.name.as_ref(),
                type_id: field.type_id.unwrap_or(0),
            });
        }
    }
    candidates.sort_by_key(|candidate| candidate.number);
    candidates
}

/// What names the row, and by which columns.
fn identity<'a>(
    row: &Row<'_>,
    named: &BTreeSet<&'a str>,
    candidates: &[Candidate<'a>],
    described: Option<&'a Described>,
) -> (ReplicaIdentity, BTreeSet<&'a str>) {
    let now = described.map_or(ReplicaIdentity::Default, |described| described.identity);
    let now_keys: BTreeSet<&str> = described
        .iter()
        .flat_map(|described| &described.columns)
        .filter(|column| column.is_key && !column.is_generated)
        .map(|column| column.name.as_str())
        .collect();
    let all = || candidates.iter().map(|candidate| candidate.name).collect::<BTreeSet<&str>>();
    let Some(old) = &row.old else {
        return (now, if now == ReplicaIdentity::Full { all() } else { now_keys });
    };
    // The columns of a primary key or chosen index are never null.
    let has_null = old.iter().any(|field| field.raw.get() == "null" && field.optional != Some(false));
    let names_all = candidates.iter().all(|candidate| named.contains(candidate.name));
    let is_full = names_all && (now == ReplicaIdentity::Full || *named != now_keys || has_null);
    match (is_full, now) {
        (true, _) => (ReplicaIdentity::Full, named.clone()),
        (false, ReplicaIdentity::Index) => (ReplicaIdentity::Index, named.clone()),
        (false, _) => (ReplicaIdentity::Default, named.clone()),
    }
}

/// As PostgreSQL prints it; `None` is null.
fn text<'a>(field: &Field<'a>, lost: Option<&'a str>) -> Result<Option<Cow<'a, str>>, String> {
    if let Some(lost) = lost {
        return Ok(Some(lost.into()));
    }
    let text = row::text(field, false, field.type_id == Some(BYTEA));
    let text = text.map_err(|error| format!("column \"{}\": {error}", field.name))?;
    Ok(match (text.as_deref(), field.type_id) {
        (Some("true"), Some(BOOL)) => Some("t".into()),
        (Some("false"), Some(BOOL)) => Some("f".into()),
        _ => text,
    })
}

fn value<'v>(text: Option<&'v Option<Cow<'_, str>>>, missing: Value<'v>) -> Value<'v> {
    match text {
        None => missing,
        Some(None) => Value::Null,
        Some(Some(text)) => Value::Text(text.as_bytes()),
    }
}
