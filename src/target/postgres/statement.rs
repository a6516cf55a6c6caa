//! The statements that apply changes, and the values that go into them.
//!
//! Row statements (prepared, one execution a change) keep the source's order; stage statements apply what a merge
//! left over for a whole batch at once, from a temporary table that a COPY filled.

use crate::change::{Change, Old, Tuple, Value};
use crate::target::postgres::table::{Key, Table};

/// Names a row statement of one table, so that equal ones are prepared once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RowStatement {
    Insert,
    /// Sets the columns that are in the new tuple; `unchanged` ones (indexes into the table's columns) are left alone.
    Update {
        unchanged: Vec<usize>,
        sets_key: bool,
    },
    /// Deletes the old row and inserts the new one: for columns that an UPDATE may not set.
    Replace {
        unchanged: Vec<usize>,
    },
    Delete,
}

/// A row statement with its parameters.
pub struct Bound<'a> {
    pub statement: RowStatement,
    pub parameters: Vec<Value<'a>>,
}

/// Why a change cannot be put into a statement: the message for the table's quarantine.
#[derive(Debug, PartialEq, Eq)]
pub struct Unidentifiable(pub &'static str);

/// The statement for `change` and its parameters.
pub fn bind<'a>(table: &Table, change: &'a Change) -> Result<Bound<'a>, Unidentifiable> {
    match change {
        Change::Insert { new, .. } => {
            let parameters = stored_values(table, new).collect();
            Ok(Bound { statement: RowStatement::Insert, parameters })
        }
        Change::Update { old, new, .. } => bind_update(table, old.as_ref(), new),
        Change::Delete { old, .. } => {
            let mut parameters = Vec::new();
            push_row_finder(table, old.tuple(), &mut parameters)?;
            Ok(Bound { statement: RowStatement::Delete, parameters })
        }
        Change::Truncate { .. } => unreachable!("truncates are not rows"),
    }
}

fn bind_update<'a>(table: &Table, old: Option<&'a Old>, new: &'a Tuple) -> Result<Bound<'a>, Unidentifiable> {
    let finder = old.map_or(new, Old::tuple);
    let values: Vec<Value<'a>> = stored_values(table, new).collect();
    let unchanged: Vec<usize> = values
        .iter()
        .enumerate()
        .filter(|(_, value)| **value == Value::Unchanged)
        .map(|(index, _)| index)
        .collect();
    let sets_key =
        old.is_some_and(|old| moves_key(table, old.tuple(), new)) || sets_nothing_else(table, &unchanged);
    let written = |index: usize| !unchanged.contains(&index) && (sets_key || !table.columns[index].key);
    let needs_replace =
        table.columns.iter().enumerate().any(|(index, column)| column.identity_always && written(index));
    let mut parameters: Vec<Value<'a>> = values
        .iter()
        .enumerate()
        .filter(|(index, _)| if needs_replace { !unchanged.contains(index) } else { written(*index) })
        .map(|(_, value)| *value)
        .collect();
    push_row_finder(table, finder, &mut parameters)?;
    let statement = if needs_replace {
        RowStatement::Replace { unchanged }
    } else {
        RowStatement::Update { unchanged, sets_key }
    };
    Ok(Bound { statement, parameters })
}

/// Whether any column of the key has another value than before.
fn moves_key(table: &Table, old: &Tuple, new: &Tuple) -> bool {
    key_values(table, old).zip(key_values(table, new)).any(|(old, new)| new != Value::Unchanged && old != new)
}

/// Whether an update that leaves the key alone would have no column to set.
fn sets_nothing_else(table: &Table, unchanged: &[usize]) -> bool {
    table.columns.iter().enumerate().all(|(index, column)| column.key || unchanged.contains(&index))
}

/// The tuple's values for the table's columns.
pub fn stored_values<'t, 'v>(
    table: &'t Table,
    tuple: &'v Tuple,
) -> impl Iterator<Item = Value<'v>> + use<'t, 'v> {
    tuple.values().zip(&table.by_source).filter(|(_, column)| column.is_some()).map(|(value, _)| value)
}

/// The values that find a row.
pub fn key_values<'t, 'v>(
    table: &'t Table,
    tuple: &'v Tuple,
) -> impl Iterator<Item = Value<'v>> + use<'t, 'v> {
    stored_values(table, tuple).zip(&table.columns).filter(|(_, column)| column.key).map(|(value, _)| value)
}

fn push_row_finder<'a>(
    table: &Table,
    tuple: &'a Tuple,
    parameters: &mut Vec<Value<'a>>,
) -> Result<(), Unidentifiable> {
    let before = parameters.len();
    for (value, column) in tuple.values().zip(&table.by_source) {
        let Some(column) = column else { continue };
        if table.key == Key::Image || table.columns[*column].key {
            parameters.push(value);
        }
    }
    if parameters[before..].contains(&Value::Unchanged) {
        return Err(Unidentifiable("an out-of-line value of the replica identity was not sent"));
    }
    if parameters.len() == before {
        return Err(Unidentifiable("nothing identifies the row"));
    }
    Ok(())
}

/// The SQL of a row statement; parameters in the order in which [`bind`] gives them.
pub fn row_sql(table: &Table, statement: &RowStatement) -> String {
    let mut numbers = 1..;
    let mut parameter = |column: usize| {
        let number = numbers.next().unwrap_or_default();
        format!("${number}::{}", table.columns[column].type_sql)
    };
    let all = 0..table.columns.len();
    match statement {
        RowStatement::Insert => {
            let values: Vec<String> = all.map(&mut parameter).collect();
            insert_sql(table, &values)
        }
        RowStatement::Update { unchanged, sets_key } => {
            let mut sets: Vec<String> = all
                .filter(|index| !unchanged.contains(index) && (*sets_key || !table.columns[*index].key))
                .map(|index| format!("{} = {}", table.columns[index].name, parameter(index)))
                .collect();
            // Nothing but values that are left alone: the row must be found all the same.
            if let (true, Some(column)) = (sets.is_empty(), unchanged.first()) {
                let name = &table.columns[*column].name;
                sets.push(format!("{name} = t.{name}"));
            }
            let condition = row_condition(table, &mut parameter);
            format!("update {} as t set {} where {condition}", table.target, sets.join(", "))
        }
        RowStatement::Replace { unchanged } => {
            let values: Vec<String> = all
                .map(|index| {
                    if unchanged.contains(&index) {
                        format!("gone.{}", table.columns[index].name)
                    } else {
                        parameter(index)
                    }
                })
                .collect();
            let condition = row_condition(table, &mut parameter);
            format!(
                "with gone as (delete from {} as t where {condition} returning *) \
                 insert into {} ({}) overriding system value select {} from gone",
                table.target,
                table.target_plain,
                column_list(table, |_| true),
                values.join(", ")
            )
        }
        RowStatement::Delete => {
            let condition = row_condition(table, &mut parameter);
            format!("delete from {} as t where {condition}", table.target)
        }
    }
}

fn insert_sql(table: &Table, values: &[String]) -> String {
    if values.is_empty() {
        return format!("insert into {} default values", table.target_plain);
    }
    format!(
        "insert into {} ({}) overriding system value values ({})",
        table.target_plain,
        column_list(table, |_| true),
        values.join(", ")
    )
}

fn row_condition(table: &Table, parameter: &mut impl FnMut(usize) -> String) -> String {
    let keys = (0..table.columns.len()).filter(|&index| table.columns[index].key);
    match table.key {
        Key::Unique => {
            let terms: Vec<String> = keys
                .map(|index| {
                    let column = &table.columns[index];
                    format!("t.{} {} {}", column.name, column.equality, parameter(index))
                })
                .collect();
            terms.join(" and ")
        }
        Key::Search => {
            let terms: Vec<String> = keys
                .map(|index| {
                    format!("f.{} is not distinct from {}", table.columns[index].name, parameter(index))
                })
                .collect();
            one_row(table, &terms.join(" and "))
        }
        // `*=` compares images byte by byte: it takes json, tells -0 from 0, and finds NaN. The casts keep the parser from
        // taking it for a comparison column by column.
        Key::Image => {
            let here: Vec<String> = table
                .columns
                .iter()
                .map(|column| format!("f.{}::{}", column.name, column.type_sql))
                .collect();
            let given: Vec<String> = (0..table.columns.len()).map(parameter).collect();
            let (here, given) = (here.join(", "), given.join(", "));
            one_row(table, &format!("row({here})::record operator(pg_catalog.*=) row({given})::record"))
        }
    }
}

/// Exactly one of the rows that match; partitions each count their own `ctid`s.
fn one_row(table: &Table, condition: &str) -> String {
    format!(
        "(t.tableoid, t.ctid) = (select f.tableoid, f.ctid from {} as f where {condition} limit 1)",
        table.target
    )
}

/// Quoted names of the columns that `wanted` picks by index.
fn column_list(table: &Table, wanted: impl Fn(usize) -> bool) -> String {
    let names: Vec<&str> = table
        .columns
        .iter()
        .enumerate()
        .filter(|(index, _)| wanted(*index))
        .map(|(_, column)| column.name.as_str())
        .collect();
    names.join(", ")
}

/// What a batch-wide statement works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Keys of rows to delete.
    Deletes,
    /// Keys and new values.
    Updates,
}

/// The name of a table's stage; `number` is the table's within the session.
pub fn stage_name(stage: Stage, number: usize) -> String {
    match stage {
        Stage::Deletes => format!("pg_temp.pgdiode_delete_{number}"),
        Stage::Updates => format!("pg_temp.pgdiode_update_{number}"),
    }
}

/// Creates a stage. Emptied by each commit, which costs nothing in transactions that touch no temporary table.
pub fn create_stage(table: &Table, stage: Stage, number: usize) -> String {
    let columns: Vec<String> = (0..table.columns.len())
        .filter(|&index| stage == Stage::Updates || table.columns[index].key)
        .map(|index| format!("c{index} {}", table.columns[index].type_sql))
        .collect();
    format!(
        "create temporary table if not exists {} ({}) on commit delete rows",
        stage_name(stage, number),
        columns.join(", ")
    )
}

/// The COPY that fills a stage: the key's columns, and those others that `unchanged` does not name.
pub fn copy_into_stage(
    table: &Table,
    stage: Stage,
    number: usize,
    unchanged: &[usize],
    format: &str,
) -> String {
    let columns: Vec<String> = (0..table.columns.len())
        .filter(|&index| staged(table, stage, unchanged, index))
        .map(|index| format!("c{index}"))
        .collect();
    format!("copy {} ({}) from stdin (format {format})", stage_name(stage, number), columns.join(", "))
}

/// Whether column `index` is part of a stage's rows.
pub fn staged(table: &Table, stage: Stage, unchanged: &[usize], index: usize) -> bool {
    table.columns[index].key || (stage == Stage::Updates && !unchanged.contains(&index))
}

pub fn delete_staged(table: &Table, number: usize) -> String {
    format!(
        "delete from {} as t using {} as s where {}",
        table.target,
        stage_name(Stage::Deletes, number),
        stage_condition(table)
    )
}

pub fn update_staged(table: &Table, number: usize, unchanged: &[usize]) -> String {
    let sets: Vec<String> = (0..table.columns.len())
        .filter(|index| !table.columns[*index].key && !unchanged.contains(index))
        .map(|index| format!("{} = s.c{index}", table.columns[index].name))
        .collect();
    format!(
        "update {} as t set {} from {} as s where {}",
        table.target,
        sets.join(", "),
        stage_name(Stage::Updates, number),
        stage_condition(table)
    )
}

fn stage_condition(table: &Table) -> String {
    let terms: Vec<String> = table
        .columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.key)
        .map(|(index, column)| format!("t.{} {} s.c{index}", column.name, column.equality))
        .collect();
    terms.join(" and ")
}

/// The COPY straight into the table.
pub fn copy_into_table(table: &Table, format: &str) -> String {
    format!("copy {} ({}) from stdin (format {format})", table.target_plain, column_list(table, |_| true))
}
