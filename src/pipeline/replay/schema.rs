//! The schema of a base, taken apart: what must be there before rows, what each table gets after them, and the rest.

use std::collections::HashSet;
use std::io::Read;

use crate::archive::manifest::Base;
use crate::change::TableName;
use crate::error::{Error, Result};
use crate::pg::dump::{Dump, Entry, EntryKind};
use crate::pipeline::replay::desk::Desk;

/// `pg_dump` writes what comes before rows first.
pub struct BaseSchema {
    pub before: Dump,
    pub after: Dump,
}

impl BaseSchema {
    pub async fn read(desk: &Desk, base: &Base) -> Result<BaseSchema> {
        let mut content = desk.shelf.piece(&base.schema, &desk.spool).await?;
        let mut text = String::new();
        content.read_to_string(&mut text).map_err(|error| {
            Error::unexpected(format!("{} cannot be read", base.schema.name)).because(error)
        })?;
        Dump::parse(&text).map(BaseSchema::of).map_err(|error| error.context(&base.schema.name))
    }

    fn of(dump: Dump) -> BaseSchema {
        let at = dump.entries.iter().position(|entry| comes_after_rows(&entry.kind));
        let mut before = dump;
        let entries = before.entries.split_off(at.unwrap_or(before.entries.len()));
        let after = Dump {
            preamble_settings: before.preamble_settings.clone(),
            entries,
            pg_dump_major: before.pg_dump_major,
        };
        BaseSchema { before, after }
    }

    /// Tables in the order in which they can be made: parents first.
    pub fn place(&self, table: &TableName) -> usize {
        let makes = |entry: &Entry| entry.kind == EntryKind::Table && entry.belongs_to(table);
        self.before.entries.iter().position(makes).unwrap_or(usize::MAX)
    }

    /// Tables that go with those: the partitioned ones above them, and the partitions below, whose rows are theirs.
    pub fn kin(&self, tables: &HashSet<&TableName>) -> HashSet<TableName> {
        let ties: Vec<(&TableName, &TableName)> = self
            .before
            .entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::TableAttach)
            .filter_map(|entry| Some((entry.table.as_ref()?, entry.referenced_table.as_ref()?)))
            .collect();
        let above = reach(tables, |known| {
            ties.iter().filter(|(child, _)| known(child)).map(|(_, parent)| *parent).collect()
        });
        let below = reach(tables, |known| {
            ties.iter().filter(|(_, parent)| known(parent)).map(|(child, _)| *child).collect()
        });
        above.into_iter().chain(below).collect()
    }
}

/// All that can be reached from `tables`, step by step, but for themselves.
fn reach<'a>(
    tables: &HashSet<&TableName>,
    step: impl Fn(&dyn Fn(&TableName) -> bool) -> Vec<&'a TableName>,
) -> HashSet<TableName> {
    let mut reached: HashSet<TableName> = HashSet::new();
    loop {
        let next = step(&|table| tables.contains(table) || reached.contains(table));
        let more: Vec<TableName> = next
            .into_iter()
            .filter(|table| !tables.contains(table) && !reached.contains(table))
            .cloned()
            .collect();
        if more.is_empty() {
            return reached;
        }
        reached.extend(more);
    }
}

/// The section `post-data` of `pg_dump.c`.
fn comes_after_rows(kind: &EntryKind) -> bool {
    matches!(
        kind,
        EntryKind::Constraint
            | EntryKind::CheckConstraint
            | EntryKind::FkConstraint
            | EntryKind::Index
            | EntryKind::IndexAttach
            | EntryKind::Statistics
            | EntryKind::Trigger
            | EntryKind::Rule
            | EntryKind::Policy
            | EntryKind::RowSecurity
    )
}
