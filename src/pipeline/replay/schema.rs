//! The schema of a base, taken apart: what must be there before rows, what each table gets after them, and the rest.

use std::collections::HashSet;
use std::io::Read;

use crate::archive::manifest::Base;
use crate::change::TableName;
use crate::error::{Error, Result};
use crate::pg::dump::{Dump, Entry, EntryKind};
use crate::pipeline::replay::attempt::Desk;

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

    /// Tables without rows of their own that those need: the partitioned ones above them, and what they inherit from.
    pub fn parents(&self, tables: &HashSet<&TableName>) -> HashSet<TableName> {
        let mut parents = HashSet::new();
        loop {
            let attached = self.before.entries.iter().filter(|entry| entry.kind == EntryKind::TableAttach);
            let more: Vec<TableName> = attached
                .filter(|entry| {
                    entry
                        .table
                        .as_ref()
                        .is_some_and(|table| tables.contains(table) || parents.contains(table))
                })
                .filter_map(|entry| entry.referenced_table.clone())
                .filter(|parent| !tables.contains(parent) && !parents.contains(parent))
                .collect();
            if more.is_empty() {
                return parents;
            }
            parents.extend(more);
        }
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
