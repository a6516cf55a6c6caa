//! The three control tables of syncdata, with its columns: in the schema `archive.control_schema` of the target.

use crate::change::TableName;
use crate::config::{Pattern, Pipeline, written};
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;

const LOGS: &str = "data_sync_logs";
const METRICS: &str = "data_sync_metrics";
const TABLES: &str = "tables_to_sync";

const LOGS_COLUMNS: &str = "
    id uuid primary key default gen_random_uuid(),
    table_name text not null,
    status text not null,
    rows_synced int default 0,
    archive_ref text,
    error_detail text,
    sync_time timestamptz default now()";

const METRICS_COLUMNS: &str = "
    id serial primary key,
    table_name text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    period_type text not null,
    records_added bigint default 0,
    records_updated bigint default 0,
    records_deleted bigint default 0,
    unique (table_name, period_start, period_type)";

const TABLES_COLUMNS: &str = "
    id serial primary key,
    table_name text not null,
    creator text default null,
    created_at timestamptz default now(),
    unique (table_name)";

/// The log's name in SQL.
pub fn logs(pipeline: &Pipeline) -> String {
    named(pipeline, LOGS)
}

pub fn metrics(pipeline: &Pipeline) -> String {
    named(pipeline, METRICS)
}

pub fn tables(pipeline: &Pipeline) -> String {
    named(pipeline, TABLES)
}

fn named(pipeline: &Pipeline, table: &str) -> String {
    quote::table(&TableName::new(&pipeline.archive.control_schema, table))
}

/// Creates what is missing of them; asks for no privilege when nothing is.
pub async fn create(target: &mut Session, pipeline: &Pipeline) -> Result<()> {
    for sql in missing(target, pipeline).await? {
        target.query(&sql).await?;
    }
    Ok(())
}

/// The statements that create what is missing.
pub async fn missing(target: &mut Session, pipeline: &Pipeline) -> Result<Vec<String>> {
    let schema = &pipeline.archive.control_schema;
    let mut statements = Vec::new();
    let is_there = format!("select pg_catalog.to_regnamespace({}) is null", quote::literal(schema));
    if target.one(&is_there).await?.bool(0) {
        statements.push(format!("create schema if not exists {}", quote::identifier(schema)));
    }
    for (table, columns) in [(LOGS, LOGS_COLUMNS), (METRICS, METRICS_COLUMNS), (TABLES, TABLES_COLUMNS)] {
        let name = named(pipeline, table);
        let is_missing = format!("select pg_catalog.to_regclass({}) is null", quote::literal(&name));
        if target.one(&is_missing).await?.bool(0) {
            statements.push(format!("create table if not exists {name} ({columns}\n)"));
        }
    }
    Ok(statements)
}

/// A table as the control tables call it: the schema `public` goes without saying.
pub fn listed_name(table: &TableName) -> String {
    let written = written(table);
    match written.strip_prefix("public.") {
        Some(name) if !name.contains(['.', '"']) => name.to_owned(),
        _ => written,
    }
}

/// The same in SQL, of the row `from` that has `schema_name` and `table_name`.
pub fn name_sql(from: &str) -> String {
    format!(
        "case when {from}.schema_name = 'public' then {from}.table_name else {from}.schema_name || '.' || {from}.table_name end"
    )
}

/// What such a name means; `None` when it is none.
pub fn parse_name(text: &str) -> Option<TableName> {
    let text = text.trim();
    let pattern = text.parse::<Pattern>().or_else(|_| format!("public.{text}").parse());
    pattern.ok()?.exact()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_schema_is_in_public() {
        for (text, schema, name) in [
            ("users", "public", "users"),
            (" users ", "public", "users"),
            ("shop.orders", "shop", "orders"),
            ("Users", "public", "Users"),
            (r#"public."a.b""#, "public", "a.b"),
            (r#""a.b""#, "public", "a.b"),
        ] {
            assert_eq!(parse_name(text), Some(TableName::new(schema, name)), "{text}");
        }
        for text in ["", "a.b.c", "user*", "a.", "\"a"] {
            assert_eq!(parse_name(text), None, "{text}");
        }
    }

    #[test]
    fn listed_names_read_back() {
        for (schema, name, expected) in [
            ("public", "users", "users"),
            ("shop", "orders", "shop.orders"),
            ("public", "a.b", r#"public."a.b""#),
        ] {
            let table = TableName::new(schema, name);
            assert_eq!(listed_name(&table), expected);
            assert_eq!(parse_name(expected), Some(table));
        }
    }
}
