//! The tables that all mappings fill, brought together: what is said of one table twice has to be the same.

use crate::change::TableName;
use crate::error::{Error, Result};
use crate::keyspace::{Column, Gone, Layout, Reference, Table, Write};
use crate::nearest::nearest;

use super::plan::{Absent, ColumnPlan, Origin, Place, table_name};
use super::written::{Conversion, ReferenceMapping, TableMapping};

#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    pub(super) list: Vec<Filled>,
}

/// One table as a mapping describes it.
#[derive(Debug, Clone)]
pub(super) struct Filled {
    pub(super) name: TableName,
    pub(super) columns: Vec<FilledColumn>,
    pub(super) key: Vec<usize>,
    pub(super) anchor: Vec<usize>,
    pub(super) write: Write,
    pub(super) gone: Gone,
    /// Each row holds the whole key's name.
    holds_key: bool,
    /// Where it was described, and for keys of which pattern.
    place: String,
    pattern: String,
}

#[derive(Debug, Clone)]
pub(super) struct FilledColumn {
    pub(super) name: String,
    pub(super) reference: Option<ReferenceTo>,
    pub(super) sql_type: Option<String>,
    pub(super) may_be_null: bool,
    /// Where its values come from, for people.
    pub(super) about: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReferenceTo {
    pub(super) table: TableName,
    pub(super) by: String,
    pub(super) take: String,
    /// The table's index, once all are known.
    pub(super) index: usize,
}

impl Filled {
    pub(super) fn new(
        written: &TableMapping,
        columns: &[ColumnPlan],
        key: Vec<usize>,
        gone: Gone,
        at: Place<'_>,
    ) -> Result<Filled> {
        let name = table_name(&written.table).ok_or_else(|| {
            Error::config(format!("{}: \"{}\" does not name a table", at(&["table"]), written.table))
                .hint("write table = \"schema.table\", or a table of the schema public")
        })?;
        let mut filled = Vec::with_capacity(columns.len());
        for (number, (plan, column)) in columns.iter().zip(&written.columns).enumerate() {
            let reference = column.reference.as_ref().map(|reference| {
                let at = |path: &[&str]| at(&[&["column", &number.to_string()], path].concat());
                reference_to(reference, &at)
            });
            filled.push(FilledColumn {
                name: column.name.clone(),
                reference: reference.transpose()?,
                sql_type: column.sql_type.clone().or_else(|| usual_type(plan)),
                may_be_null: plan.absent == Absent::Null && plan.default.is_none() && !plan.is_anchor(),
                about: about(column.from.as_slice(), column.default.as_deref()),
            });
        }
        let is_owned = written.write == Write::Replace;
        let anchor = (0..columns.len()).filter(|&index| is_owned && columns[index].is_anchor()).collect();
        let holds_key = columns.iter().any(|column| column.is_anchor() && column.from == [Origin::Key]);
        Ok(Filled {
            name,
            columns: filled,
            key,
            anchor,
            write: written.write,
            gone,
            holds_key,
            place: at(&[]),
            pattern: String::new(),
        })
    }

    fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Where this says something else of the table than `other`.
    fn difference(&self, other: &Filled) -> Option<String> {
        let names = |list: &Filled, columns: &[usize]| -> Vec<String> {
            let mut names: Vec<_> = columns.iter().map(|&index| list.columns[index].name.clone()).collect();
            names.sort();
            names
        };
        let other_alone = other.columns.iter().find(|column| self.column(&column.name).is_none());
        for column in &self.columns {
            let Some(twin) = other.column(&column.name) else {
                return Some(format!("column \"{}\" is in one alone", column.name));
            };
            if other.columns[twin].reference != column.reference {
                return Some(format!("column \"{}\" does not refer to the same", column.name));
            }
        }
        if let Some(column) = other_alone {
            return Some(format!("column \"{}\" is in one alone", column.name));
        }
        if names(self, &self.key) != names(other, &other.key) {
            return Some("the keys differ".into());
        }
        if names(self, &self.anchor) != names(other, &other.anchor) {
            return Some("not the same columns say whose a row is".into());
        }
        if self.write != other.write || self.gone != other.gone {
            return Some("write and gone must be the same".into());
        }
        let is_shared = self.write != Write::Replace || self.holds_key || self.pattern == other.pattern;
        (!is_shared).then(|| "keys of both patterns would own the same rows".into())
    }
}

fn reference_to(written: &ReferenceMapping, at: Place<'_>) -> Result<ReferenceTo> {
    let wrong = |key: &str, what: &str| {
        Error::config(format!("{}: {what}", at(&["reference", key])))
            .hint("reference = { table = \"public.users\", by = \"external_id\", take = \"id\" }")
    };
    let table = table_name(&written.table).ok_or_else(|| wrong("table", "it names no table"))?;
    for (key, name) in [("by", &written.by), ("take", &written.take)] {
        if name.is_empty() || name.len() > 63 {
            return Err(wrong(key, "it names no column"));
        }
    }
    Ok(ReferenceTo { table, by: written.by.clone(), take: written.take.clone(), index: 0 })
}

/// What a column is in `create table` unless the mapping says it; `None` for one that takes the type of what it refers to.
fn usual_type(plan: &ColumnPlan) -> Option<String> {
    let of = |name: &str| Some(name.to_owned());
    match plan.conversion {
        Conversion::Json => return of("jsonb"),
        Conversion::EpochSeconds | Conversion::EpochMilliseconds | Conversion::Timestamp => {
            return of("timestamptz");
        }
        Conversion::Text => {}
    }
    match plan.from.first() {
        Some(Origin::ExpiresAt) => of("timestamptz"),
        Some(Origin::Index | Origin::Occurrence) => of("bigint"),
        Some(Origin::Database) => of("integer"),
        _ => None,
    }
}

fn about(from: &[String], default: Option<&str>) -> String {
    let from = from.join(", else ");
    match default {
        Some(default) if from.is_empty() => format!("always {default:?}"),
        Some(default) => format!("{from}, else {default:?}"),
        None => from,
    }
}

impl Tables {
    /// Adds what a mapping says of a table, and puts `columns` into the table's order; returns its index.
    pub(super) fn add(
        &mut self,
        mut filled: Filled,
        pattern: &str,
        columns: &mut [ColumnPlan],
        at: Place<'_>,
    ) -> Result<usize> {
        pattern.clone_into(&mut filled.pattern);
        let Some(index) = self.list.iter().position(|table| table.name == filled.name) else {
            self.list.push(filled);
            return Ok(self.list.len() - 1);
        };
        let table = &mut self.list[index];
        if let Some(difference) = table.difference(&filled) {
            return Err(Error::config(format!(
                "{}: {} was described otherwise at {}: {difference}",
                at(&["table"]),
                table.name,
                table.place
            ))
            .hint(
                "describe the table in both places with the same columns, key and write, or fill two tables",
            ));
        }
        for (column, twin) in table.columns.iter_mut().map(|column| {
            let twin = filled.columns.iter().find(|twin| twin.name == column.name);
            (column, twin)
        }) {
            column.may_be_null |= twin.is_none_or(|twin| twin.may_be_null);
        }
        columns.sort_by_key(|column| table.column(&column.name));
        Ok(index)
    }

    /// Puts each table behind those that it refers to; returns where each has gone.
    pub(super) fn sort(&mut self, place: Place<'_>) -> Result<Vec<usize>> {
        for index in 0..self.list.len() {
            self.check_references(index)?;
        }
        let mut sorted: Vec<usize> = Vec::with_capacity(self.list.len());
        while sorted.len() < self.list.len() {
            let is_free = |&index: &usize| {
                !sorted.contains(&index) && self.referred(index).all(|other| sorted.contains(&other))
            };
            let Some(next) = (0..self.list.len()).find(is_free) else {
                let left: Vec<String> = (0..self.list.len())
                    .filter(|index| !sorted.contains(index))
                    .map(|index| self.list[index].name.to_string())
                    .collect();
                return Err(Error::config(format!(
                    "{}: tables refer to each other in a circle: {}",
                    place(&["key"]),
                    left.join(", ")
                ))
                .hint("leave out one reference; its column then holds the value itself"));
            };
            sorted.push(next);
        }
        let mut moved = vec![0; sorted.len()];
        for (new, &old) in sorted.iter().enumerate() {
            moved[old] = new;
        }
        let mut list: Vec<Option<Filled>> = std::mem::take(&mut self.list).into_iter().map(Some).collect();
        self.list = sorted.iter().filter_map(|&old| list[old].take()).collect();
        for column in self.list.iter_mut().flat_map(|table| &mut table.columns) {
            if let Some(reference) = &mut column.reference {
                reference.index = moved[reference.index];
            }
        }
        Ok(moved)
    }

    fn referred(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        self.list[index].columns.iter().filter_map(|column| Some(column.reference.as_ref()?.index))
    }

    fn check_references(&mut self, index: usize) -> Result<()> {
        for column in 0..self.list[index].columns.len() {
            let Some(reference) = self.list[index].columns[column].reference.clone() else { continue };
            let table = &self.list[index];
            let wrong = |what: String, hint: String| {
                let name = &table.columns[column].name;
                Err(Error::config(format!("{}: column \"{name}\" {what}", table.place)).hint(hint))
            };
            let Some(other) = self.list.iter().position(|table| table.name == reference.table) else {
                let names: Vec<String> = self.list.iter().map(|table| table.name.to_string()).collect();
                let near = nearest(&reference.table.to_string(), names.iter().map(String::as_str));
                return wrong(
                    format!("refers to {}, which no mapping fills", reference.table),
                    match near {
                        Some(near) => format!("did you mean {near}?"),
                        None => format!("tables that are filled: {}", names.join(", ")),
                    },
                );
            };
            let parent = &self.list[other];
            let key: Vec<&str> = parent.key.iter().map(|&key| parent.columns[key].name.as_str()).collect();
            if key != [reference.by.as_str()] {
                return wrong(
                    format!("looks up {} by \"{}\", which is not its whole key", parent.name, reference.by),
                    format!("rows of {} are told apart by {}", parent.name, key.join(", ")),
                );
            }
            if parent.write == Write::Replace && parent.gone == Gone::Delete && table.gone != Gone::Delete {
                return wrong(
                    format!(
                        "refers to rows of {} that are removed with their keys, and its own stay",
                        parent.name
                    ),
                    "set gone = \"delete\" here, or gone = \"mark\" or \"keep\" there".into(),
                );
            }
            if let Some(reference) = &mut self.list[index].columns[column].reference {
                reference.index = other;
            }
        }
        Ok(())
    }

    pub(super) fn layout(&self) -> Layout {
        let column = |column: &FilledColumn| Column {
            name: column.name.clone(),
            reference: column.reference.as_ref().map(|reference| Reference {
                table: reference.index,
                by: reference.by.clone(),
                take: reference.take.clone(),
            }),
        };
        let tables = self.list.iter().map(|table| Table {
            name: table.name.clone(),
            columns: table.columns.iter().map(column).collect(),
            key: table.key.clone(),
            anchor: table.anchor.clone(),
            write: table.write,
            gone: table.gone.clone(),
        });
        Layout { tables: tables.collect() }
    }
}
