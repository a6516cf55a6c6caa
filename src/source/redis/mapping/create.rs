//! The tables that a mapping fills, as `create table` statements: for the user to read, change and run.

use crate::keyspace::{Gone, Write};
use crate::pg::quote;

use super::tables::{Filled, FilledColumn, Tables};

pub(super) fn statements(tables: &Tables) -> String {
    let mut sql = String::new();
    for index in 0..tables.list.len() {
        if index > 0 {
            sql.push('\n');
        }
        sql.push_str(&of(tables, index));
    }
    sql
}

/// What makes the table of that index in the layout.
pub(super) fn of(tables: &Tables, index: usize) -> String {
    let mut sql = String::new();
    statement(tables, index, &tables.list[index], &mut sql);
    sql
}

fn statement(tables: &Tables, index: usize, table: &Filled, sql: &mut String) {
    let name = quote::table(&table.name);
    let key = names(table, &table.key);
    let identity = identity(tables, index);
    // What a line defines, and a remark.
    let mut lines: Vec<(String, Option<String>)> = Vec::new();
    if let Some(identity) = identity {
        let definition =
            format!("{} bigint generated always as identity primary key", quote::identifier(identity));
        lines.push((definition, Some("what others refer to".into())));
    }
    for (number, column) in table.columns.iter().enumerate() {
        let definition = definition(tables, column, table.key.contains(&number));
        lines.push((definition, Some(column.about.clone()).filter(|about| !about.is_empty())));
    }
    if let Gone::Mark { expired_at, deleted_at } = &table.gone {
        for (column, remark) in
            [(expired_at, "when the key expired"), (deleted_at, "when the key was deleted")]
        {
            lines.push((format!("{} timestamptz", quote::identifier(column)), Some(remark.into())));
        }
    }
    let unique = if identity.is_some() { "unique" } else { "primary key" };
    lines.push((format!("{unique} ({key})"), None));
    sql.push_str(&format!("-- {}\ncreate table {name} (\n", purpose(table)));
    let last = lines.len() - 1;
    for (number, (definition, remark)) in lines.into_iter().enumerate() {
        let comma = if number == last { "" } else { "," };
        // A line's end would end the remark.
        let remark =
            remark.map_or(String::new(), |remark| format!(" -- {}", remark.replace(['\n', '\r'], " ")));
        sql.push_str(&format!("    {definition}{comma}{remark}\n"));
    }
    sql.push_str(");\n");
    if !table.anchor.is_empty() && !table.key.starts_with(&table.anchor) {
        let anchor = names(table, &table.anchor);
        sql.push_str(&format!("create index on {name} ({anchor}); -- finds what belongs to a key\n"));
    }
}

fn names(table: &Filled, columns: &[usize]) -> String {
    quote::identifiers(columns.iter().map(|&index| table.columns[index].name.as_str()))
}

fn purpose(table: &Filled) -> &'static str {
    match (table.write, &table.gone) {
        (Write::Ensure, _) => "A row is made where there is none, and then left alone.",
        (Write::Upsert, _) => "A row is made or updated, and never removed.",
        (Write::Replace, Gone::Delete) => "The rows of a key are removed with the key.",
        (Write::Replace, Gone::Mark { .. }) => "The rows of a key stay when the key is gone, marked.",
        (Write::Replace, Gone::Keep) => "The rows of a key stay as they are when the key is gone.",
    }
}

/// The column that others take and no mapping fills.
fn identity(tables: &Tables, index: usize) -> Option<&str> {
    let references = tables.list.iter().flat_map(|table| &table.columns).filter_map(|c| c.reference.as_ref());
    references
        .filter(|reference| reference.index == index)
        .map(|reference| reference.take.as_str())
        .find(|take| tables.list[index].columns.iter().all(|column| column.name != *take))
}

fn definition(tables: &Tables, column: &FilledColumn, is_key: bool) -> String {
    let mut definition = format!("{} {}", quote::identifier(&column.name), sql_type(tables, column));
    if is_key || !column.may_be_null {
        definition.push_str(" not null");
    }
    if let Some(reference) = &column.reference {
        let (table, take) = (quote::table(&reference.table), quote::identifier(&reference.take));
        definition.push_str(&format!(" references {table} ({take})"));
    }
    definition
}

fn sql_type(tables: &Tables, column: &FilledColumn) -> String {
    match (&column.sql_type, &column.reference) {
        (Some(sql_type), None) => sql_type.clone(),
        (None, None) => "text".into(),
        (_, Some(reference)) => {
            let parent = &tables.list[reference.index];
            let taken = parent.columns.iter().find(|column| column.name == reference.take);
            taken.map_or_else(|| "bigint".into(), |taken| sql_type(tables, taken))
        }
    }
}
