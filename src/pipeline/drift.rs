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
use crate::pipeline::labels;
use crate::source::postgres::catalog::SourceTable;
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
            if !follows && mismatch != Mismatch::Unseen {
                let reason = format!("{mismatch}, and the configuration says not to follow");
                return Ok(Followed::Refused(reason));
            }
            match mismatch {
                Mismatch::Value => Ok(match labels::follow(&ends, &[relation.id]).await? {
                    Ok(0) => Followed::Altered(Vec::new()),
                    Ok(_) => Followed::Beside,
                    Err(reason) => Followed::Refused(reason),
                }),
                Mismatch::MissingColumns(missing) => {
                    added_columns(&ends, &pipeline, &relation, &missing).await
                }
                Mismatch::RequiredColumns(required) => {
                    let altered = altered_table(&mut ends.target().await?, &relation.table()).await?;
                    Ok(Followed::Altered(no_longer_required(&altered, &required)))
                }
                Mismatch::Unseen => match changed_columns(&ends, &pipeline, &relation).await? {
                    Followed::CopiedAgain(_) if !follows => Ok(Followed::Refused(
                        "a column was replaced or changed its type at the source, and the configuration says not to \
                         follow"
                            .into(),
                    )),
                    followed => Ok(followed),
                },
                Mismatch::NoTable | Mismatch::NotATable(_) => Ok(Followed::Refused(mismatch.to_string())),
            }
        })
    })
}

/// The column was dropped at the source: here it stays, with what it held, and new rows have none.
pub(super) fn no_longer_required(table: &TableName, columns: &[String]) -> Vec<String> {
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
    let mut source = ends.source().await?;
    let columns = source_columns(&mut source, relation.id).await?;
    let mut target = ends.target().await?;
    let known = copied_columns(&mut target, pipeline, &table).await?;
    let altered = altered_table(&mut target, &table).await?;
    // An added column's default may be a label that its enum has gained. Where that fails, so does adding the column.
    if let Err(reason) = labels::follow(ends, &[relation.id]).await? {
        tracing::warn!(%table, reason, "an enum could not be followed");
    }
    let mut statements = Vec::new();
    let mut copies_again = false;
    for name in missing {
        let Some(column) = columns.iter().find(|column| column.name == *name) else {
            return Ok(Followed::Refused(format!(
                "column \"{name}\" came and went at the source before it could be followed"
            )));
        };
        if known.get(&column.number) == Some(name) {
            // It was copied: adding it again would leave its older values behind.
            return Ok(Followed::Refused(format!("column \"{name}\" was dropped at the target")));
        }
        let renamed_from = known
            .get(&column.number)
            .filter(|old| *old != name && !relation.columns.iter().any(|column| column.name == **old));
        match renamed_from {
            Some(old) => statements.push(format!(
                "alter table {} rename column {} to {}",
                quote::table(&altered),
                quote::identifier(old),
                quote::identifier(name)
            )),
            None if column.identity => {
                return Ok(Followed::Refused(format!("identity column \"{name}\" was added at the source")));
            }
            None => {
                copies_again |= was_filled(&mut source, &table, column).await?;
                statements.extend(add_column(&altered, column));
            }
        }
    }
    let columns = sent(&columns, relation);
    statements.push(remember_columns(pipeline, &table, &columns, copies_again));
    Ok(Followed::Altered(statements))
}

/// The table whose columns are changed when this one's are: a partition has its root's.
pub(super) async fn altered_table(target: &mut Session, table: &TableName) -> Result<TableName> {
    let sql = format!(
        "select n.nspname, c.relname
           from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
          where c.oid = pg_catalog.pg_partition_root(pg_catalog.to_regclass({}))",
        quote::literal(&quote::table(table))
    );
    let rows = target.query(&sql).await?;
    Ok(rows.first().map_or_else(|| table.clone(), |row| TableName::new(row.string(0), row.string(1))))
}

/// Whether adding the column gave older rows values that the catalog does not tell. A default that rewrote the table may
/// be gone by now; what it left in the rows was never in the stream.
async fn was_filled(source: &mut Session, table: &TableName, column: &SourceColumn) -> Result<bool> {
    if column.missing_value.is_some() || column.default.is_some() {
        return Ok(column.missing_value.is_none());
    }
    let (table, name) = (quote::table(table), quote::identifier(&column.name));
    // A table that was never rewritten lies in the file that it was made with: no need to read it.
    let sql = format!(
        "select case when exists (select from pg_catalog.pg_class c
                                   where c.oid = pg_catalog.to_regclass({}) and (c.relkind = 'p' or c.relfilenode <> c.oid))
                then exists (select from {table} where {name} is not null) end",
        quote::literal(&table)
    );
    match source.query(&sql).await {
        Ok(rows) => Ok(rows.first().is_some_and(|row| row.bool(0))),
        Err(error) if error.retries() => Err(error),
        // The catalog is ahead of the stream: the table or the column has gone since.
        Err(error) => {
            tracing::debug!(error = error.chain(), "the column cannot be looked into");
            Ok(false)
        }
    }
}

/// The names are the same on both sides. Columns that are others now under their names, or of another type, hold values
/// in older rows that were never in the stream.
async fn changed_columns(ends: &Ends, pipeline: &str, relation: &Relation) -> Result<Followed> {
    let table = relation.table();
    let mut source = ends.source().await?;
    let columns = source_columns(&mut source, relation.id).await?;
    let mut target = ends.target().await?;
    let known = copied_columns(&mut target, pipeline, &table).await?;
    let types = known_types(&mut target, pipeline, &table).await?;
    let is_sent = |name: &str| relation.columns.iter().any(|column| column.name == name);
    let has_changed = |column: &&SourceColumn| {
        let was_elsewhere =
            known.iter().any(|(number, name)| *name == column.name && *number != column.number);
        was_elsewhere || types.get(&column.number).is_some_and(|type_sql| *type_sql != column.type_sql)
    };
    let changed = columns.iter().filter(|column| is_sent(&column.name)).find(has_changed);
    let Some(column) = changed else {
        return changed_through_root(&mut source, pipeline, &table, &known, &sent(&columns, relation)).await;
    };
    tracing::warn!(%table, column = column.name, "the column was replaced or changed its type at the source: the table is copied again");
    let columns = sent(&columns, relation);
    Ok(Followed::CopiedAgain(vec![remember_columns(pipeline, &table, &columns, true)]))
}

/// A partition has the columns already that another one's changes gave their root: they are written down for it too.
async fn changed_through_root(
    source: &mut Session,
    pipeline: &str,
    table: &TableName,
    known: &HashMap<i16, String>,
    columns: &[&SourceColumn],
) -> Result<Followed> {
    let is_new = |column: &&&SourceColumn| known.get(&column.number) != Some(&column.name);
    if known.is_empty() || !columns.iter().any(|column| is_new(&column)) {
        return Ok(Followed::Altered(Vec::new()));
    }
    for column in columns.iter().filter(|column| !known.contains_key(&column.number)) {
        if was_filled(source, table, column).await? {
            return Ok(Followed::CopiedAgain(vec![remember_columns(pipeline, table, columns, true)]));
        }
    }
    Ok(Followed::Altered(vec![remember_columns(pipeline, table, columns, false)]))
}

/// Gives an emptied table at the target the columns that the source's has now, in the open transaction.
pub async fn conform(
    source: &mut Session,
    target: &mut Session,
    pipeline: &str,
    table: &SourceTable,
) -> Result<()> {
    let columns = source_columns(source, table.oid).await?;
    let known = copied_columns(target, pipeline, &table.table).await?;
    let here = target_columns(target, &table.table).await?;
    let name = quote::table(&table.table);
    for column in &columns {
        let quoted = quote::identifier(&column.name);
        let type_sql = &column.type_sql;
        let renamed_from = known
            .get(&column.number)
            .filter(|old| here.contains_key(*old) && !columns.iter().any(|column| column.name == **old));
        let change = match (here.get(&column.name), renamed_from) {
            (Some(column_here), _) if column_here.type_sql == *type_sql => continue,
            (Some(_), _) => format!(
                "alter table {name} alter column {quoted} drop default, alter column {quoted} type {type_sql} using null::{type_sql}"
            ),
            (None, Some(old)) => {
                format!("alter table {name} rename column {} to {quoted}", quote::identifier(old))
            }
            (None, None) => format!("alter table {name} add column {quoted} {type_sql}"),
        };
        target.query(&change).await?;
        if let Some(default) = &column.default {
            target.query(&format!("alter table {name} alter column {quoted} set default {default}")).await?;
        }
    }
    let is_gone = |name: &&String| !columns.iter().any(|column| column.name == **name);
    let required: Vec<String> = here
        .iter()
        .filter(|(_, column)| column.required)
        .map(|(name, _)| name)
        .filter(is_gone)
        .cloned()
        .collect();
    for statement in no_longer_required(&table.table, &required) {
        target.query(&statement).await?;
    }
    Ok(())
}

/// A column as the target's catalog has it.
struct ColumnHere {
    type_sql: String,
    required: bool,
}

async fn target_columns(target: &mut Session, table: &TableName) -> Result<HashMap<String, ColumnHere>> {
    let sql = format!(
        "select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull and not a.atthasdef and a.attidentity = ''
           from pg_catalog.pg_attribute a
          where a.attrelid = {}::pg_catalog.regclass and a.attnum > 0 and not a.attisdropped",
        quote::literal(&quote::table(table))
    );
    let rows = target.query(&sql).await?;
    Ok(rows
        .iter()
        .map(|row| (row.string(0), ColumnHere { type_sql: row.string(1), required: row.bool(2) }))
        .collect())
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

/// The columns that the target has after this: the catalog may be ahead of the stream and show later ones.
fn sent<'a>(columns: &'a [SourceColumn], relation: &Relation) -> Vec<&'a SourceColumn> {
    let is_sent = |column: &&SourceColumn| relation.columns.iter().any(|sent| sent.name == column.name);
    columns.iter().filter(is_sent).collect()
}

/// Writes down the columns' numbers; a table whose old rows cannot be filled in is marked to be copied again.
fn remember_columns(
    pipeline: &str,
    table: &TableName,
    columns: &[&SourceColumn],
    copies_again: bool,
) -> String {
    let by_number = |text: fn(&SourceColumn) -> &str| {
        let texts: HashMap<i16, &str> = columns.iter().map(|column| (column.number, text(column))).collect();
        quote::literal(&serde_json::to_string(&texts).expect("names are text"))
    };
    let state = if copies_again { ", state = 'pending'" } else { "" };
    format!(
        "update pgdiode.relation set columns = {}, column_types = {}{state} where pipeline = {} and schema_name = {} and table_name = {}",
        by_number(|column| &column.name),
        by_number(|column| &column.type_sql),
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
    remembered(target, pipeline, table, "columns").await
}

/// Their types, by number.
async fn known_types(
    target: &mut Session,
    pipeline: &str,
    table: &TableName,
) -> Result<HashMap<i16, String>> {
    remembered(target, pipeline, table, "column_types").await
}

async fn remembered(
    target: &mut Session,
    pipeline: &str,
    table: &TableName,
    what: &str,
) -> Result<HashMap<i16, String>> {
    let rows = target
        .query_with(
            &format!(
                "select c.key, c.value
                   from pgdiode.relation r cross join lateral pg_catalog.jsonb_each_text(r.{what}) as c
                  where r.pipeline = $1 and r.schema_name = $2 and r.table_name = $3"
            ),
            &[Some(pipeline), Some(&table.schema), Some(&table.name)],
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.string(1)))).collect()
}
