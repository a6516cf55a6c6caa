//! Following the source's schema: what to do when changes of a table arrive in a shape that the target does not have.
//!
//! The stream says *that* a table changed, not how: a renamed column and one that was dropped while another was added
//! look the same. The source's catalog tells them apart by the column's number, which the copy has written down. What
//! the rows that were there before got for an added column is in the catalog too, for a constant default; where it is
//! not (a volatile default rewrote the table, and rewriting is not in the stream), the table is copied again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::change::{Relation, TableName};
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::target::postgres::table::Mismatch;
use crate::target::postgres::{FollowSchema, Followed};

/// A column as the source's catalog has it now.
struct SourceColumn {
    number: i16,
    name: String,
    type_sql: String,
    not_null: bool,
    default: Option<String>,
    identity: bool,
    /// What older rows show for it, as text: `pg_attribute.attmissingval`.
    missing_value: Option<String>,
}

/// How the target asks. `follows`: what the configuration wants of drift.
pub fn follow(ends: &Ends, pipeline: &str, follows: bool) -> FollowSchema {
    let (ends, pipeline) = (ends.clone(), pipeline.to_owned());
    Arc::new(move |relation, mismatch| {
        let (ends, pipeline) = (ends.clone(), pipeline.clone());
        Box::pin(async move {
            if !follows {
                return Ok(Err(format!("{mismatch}, and the configuration says not to follow")));
            }
            match mismatch {
                Mismatch::MissingColumns(missing) => {
                    added_columns(&ends, &pipeline, &relation, &missing).await
                }
                Mismatch::RequiredColumns(required) => {
                    Ok(Ok(no_longer_required(&relation.table(), &required)))
                }
                Mismatch::NoTable | Mismatch::NotATable(_) => Ok(Err(mismatch.to_string())),
            }
        })
    })
}

/// The column was dropped at the source: here it stays, with what it held, and new rows have none.
fn no_longer_required(table: &TableName, columns: &[String]) -> Vec<String> {
    let table = quote::table(table);
    columns
        .iter()
        .map(|column| format!("alter table {table} alter column {} drop not null", quote::identifier(column)))
        .collect()
}

async fn added_columns(
    ends: &Ends,
    pipeline: &str,
    relation: &Relation,
    missing: &[String],
) -> Result<Followed> {
    let table = relation.table();
    let columns = source_columns(&mut ends.source().await?, relation.id).await?;
    let known = copied_columns(&mut ends.target().await?, pipeline, &table).await?;
    let mut statements = Vec::new();
    let mut copies_again = false;
    for name in missing {
        let Some(column) = columns.iter().find(|column| column.name == *name) else {
            return Ok(Err(format!(
                "column \"{name}\" came and went at the source before it could be followed"
            )));
        };
        if known.get(&column.number) == Some(name) {
            // It was copied: adding it again would leave its older values behind.
            return Ok(Err(format!("column \"{name}\" was dropped at the target")));
        }
        let renamed_from = known
            .get(&column.number)
            .filter(|old| *old != name && !relation.columns.iter().any(|column| column.name == **old));
        match renamed_from {
            Some(old) => statements.push(format!(
                "alter table {} rename column {} to {}",
                quote::table(&table),
                quote::identifier(old),
                quote::identifier(name)
            )),
            None if column.identity => {
                return Ok(Err(format!("identity column \"{name}\" was added at the source")));
            }
            None => {
                copies_again |= column.default.is_some() && column.missing_value.is_none();
                statements.extend(add_column(&table, column));
            }
        }
    }
    statements.push(remember_columns(pipeline, &table, &columns, copies_again));
    Ok(Ok(statements))
}

/// Old rows get what they show at the source; new ones what the stream says, or the source's default.
fn add_column(table: &TableName, column: &SourceColumn) -> Vec<String> {
    let (table, name) = (quote::table(table), quote::identifier(&column.name));
    let mut statements = Vec::new();
    match &column.missing_value {
        Some(value) => {
            let value = quote::literal(value);
            let not_null = if column.not_null { " not null" } else { "" };
            statements.push(format!(
                "alter table {table} add column {name} {} default {value}::{}{not_null}",
                column.type_sql, column.type_sql
            ));
        }
        None => statements.push(format!("alter table {table} add column {name} {}", column.type_sql)),
    }
    match &column.default {
        Some(default) => {
            statements.push(format!("alter table {table} alter column {name} set default {default}"));
        }
        None if column.missing_value.is_some() => {
            statements.push(format!("alter table {table} alter column {name} drop default"));
        }
        None => {}
    }
    statements
}

/// Writes down the columns' numbers; a table whose old rows cannot be filled in is marked to be copied again.
fn remember_columns(
    pipeline: &str,
    table: &TableName,
    columns: &[SourceColumn],
    copies_again: bool,
) -> String {
    let numbers: HashMap<i16, &str> =
        columns.iter().map(|column| (column.number, column.name.as_str())).collect();
    let numbers = serde_json::to_string(&numbers).expect("names are text");
    let state = if copies_again { ", state = 'pending'" } else { "" };
    format!(
        "update pgdiode.relation set columns = {}{state} where pipeline = {} and schema_name = {} and table_name = {}",
        quote::literal(&numbers),
        quote::literal(pipeline),
        quote::literal(&table.schema),
        quote::literal(&table.name)
    )
}

async fn source_columns(source: &mut Session, relation: u32) -> Result<Vec<SourceColumn>> {
    let sql = format!(
        "select a.attnum, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
                pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attidentity <> '',
                case when a.atthasmissing then (a.attmissingval::text::text[])[1] end
           from pg_catalog.pg_attribute a
           left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
          where a.attrelid = {relation} and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''"
    );
    let rows = source.query(&sql).await?;
    rows.iter()
        .map(|row| {
            Ok(SourceColumn {
                number: row.get(0)?,
                name: row.string(1),
                type_sql: row.string(2),
                not_null: row.bool(3),
                default: row.text(4).map(str::to_owned),
                identity: row.bool(5),
                missing_value: row.text(6).map(str::to_owned),
            })
        })
        .collect()
}

/// The columns that the table's copy had, by number.
async fn copied_columns(
    target: &mut Session,
    pipeline: &str,
    table: &TableName,
) -> Result<HashMap<i16, String>> {
    let rows = target
        .query_with(
            "select c.key, c.value
               from pgdiode.relation r cross join lateral pg_catalog.jsonb_each_text(r.columns) as c
              where r.pipeline = $1 and r.schema_name = $2 and r.table_name = $3",
            &[Some(pipeline), Some(&table.schema), Some(&table.name)],
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.string(1)))).collect()
}
