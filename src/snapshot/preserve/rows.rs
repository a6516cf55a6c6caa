//! Rows of the source's tables in which the replica has values of its own.
//!
//! They are read from the serving database into a temporary table of the shadow and joined there by a key. Written after
//! the shadow's mark, they look changed in the replica to the next sync too, which so finds them again.

use crate::change::TableName;
use crate::config::{self, PreservedRows};
use crate::error::{Error, Result};
use crate::pg::copy::relay;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::snapshot::discarded::Younger;
use crate::snapshot::place::not_promoted;

const KEPT: &str = "pg_temp.pgdiode_kept";

/// Refuses what the source's table does not allow.
pub(super) async fn refuse_impossible(
    source: &mut Session,
    table: &TableName,
    keys: &PreservedRows,
) -> Result<()> {
    let named = config::written(table);
    let kind = format!(
        "select relkind from pg_catalog.pg_class where oid = pg_catalog.to_regclass({})",
        quote::literal(&quote::table(table))
    );
    match source.query(&kind).await?.first().map(|row| row.string(0)).as_deref() {
        Some("r") => {}
        None => {
            return Err(Error::refused(format!("snapshot.preserve_rows: the source has no table {named}"))
                .hint("What the replica alone has is preserved whole, with snapshot.preserve."));
        }
        Some(_) => {
            return Err(Error::refused(format!("snapshot.preserve_rows: {named} holds no rows of its own"))
                .hint("Name the table or partition that does."));
        }
    }
    let columns = super::written_columns(source, table).await?;
    if let Some(unknown) = keys.columns.iter().find(|column| !columns.contains(column)) {
        let error = Error::refused(format!(
            "snapshot.preserve_rows: table {named} has no column \"{unknown}\" to write"
        ));
        return Err(match config::nearest(unknown, columns.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("Did you mean \"{near}\"?")),
            None => error.hint(format!("It has {}.", columns.join(", "))),
        });
    }
    if key(source, table).await?.is_empty() {
        return Err(Error::refused(format!(
            "snapshot.preserve_rows: nothing tells the rows of {named} apart"
        ))
        .hint("It takes a primary key or a unique index over columns."));
    }
    Ok(())
}

/// The columns of the primary key, else of the first unique index over columns.
async fn key(session: &mut Session, table: &TableName) -> Result<Vec<String>> {
    let sql = format!(
        "select i.indexrelid, a.attname
           from pg_catalog.pg_index i
          cross join lateral pg_catalog.unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
           join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
          where i.indrelid = pg_catalog.to_regclass({}) and i.indisunique and i.indisvalid and i.indimmediate
            and i.indpred is null and i.indexprs is null and k.place <= i.indnkeyatts
          order by i.indisprimary desc, i.indexrelid, k.place",
        quote::literal(&quote::table(table))
    );
    let rows = session.query(&sql).await?;
    let Some(first) = rows.first().map(|row| row.string(0)) else { return Ok(Vec::new()) };
    Ok(rows.iter().filter(|row| row.string(0) == first).map(|row| row.string(1)).collect())
}

/// What came of the rows of one table.
pub(super) struct Carried {
    pub(super) rows: u64,
    /// Rows whose columns were to be kept, without a row of the source to put them in.
    pub(super) unmatched: u64,
}

/// Carries the rows of one table over, and counts them; `None` when it cannot be told which they are.
pub(super) async fn carry(
    serving: &mut Session,
    shadow: &mut Session,
    table: &TableName,
    keys: &PreservedRows,
    younger: Option<Younger>,
) -> Result<Option<Carried>> {
    let there = super::written_columns(serving, table).await?;
    if there.is_empty() {
        return Ok(Some(Carried { rows: 0, unmatched: 0 }));
    }
    let condition = match (&keys.rows, younger) {
        (Some(rows), _) => format!("(\n{rows}\n)"),
        (None, Some(younger)) => younger.is("xmin"),
        (None, None) => return Ok(None),
    };
    let key = key(shadow, table).await?;
    let here = super::written_columns(shadow, table).await?;
    let is_wanted = |column: &&String| {
        there.contains(*column)
            && (keys.columns.is_empty() || keys.columns.contains(*column) || key.contains(*column))
    };
    let columns: Vec<String> = here.iter().filter(is_wanted).cloned().collect();
    if let Some(missing) = key.iter().find(|column| !columns.contains(column)) {
        return Err(not_promoted(format!("the replica's table has no column \"{missing}\" to tell rows by")));
    }
    let merge = Merge { table, key: &key, columns: &columns };
    let replica_role = write_without_triggers(shadow, table).await?;
    shadow.query("begin; set local search_path = \"$user\", public").await?;
    shadow.query(&merge.temporary()).await?;
    let listed = quote::identifiers(columns.iter().map(String::as_str));
    let out = format!("copy (select {listed} from only {} where {condition}) to stdout", quote::table(table));
    let found = relay(serving, &out, shadow, &format!("copy {KEPT} ({listed}) from stdin"), |_| ()).await?;
    let mut rows = 0;
    if let Some(update) = merge.update(&identities(shadow, table).await?) {
        rows += shadow.execute(&update).await?;
    }
    if keys.columns.is_empty() {
        rows += shadow.execute(&merge.insert()).await?;
    }
    shadow.query(&format!("drop table {KEPT}; commit")).await?;
    if replica_role {
        shadow.query("reset session_replication_role").await?;
    }
    Ok(Some(Carried { rows, unmatched: found.saturating_sub(rows) }))
}

/// Columns that only an insert may write.
async fn identities(session: &mut Session, table: &TableName) -> Result<Vec<String>> {
    let sql = format!(
        "select attname from pg_catalog.pg_attribute
          where attrelid = pg_catalog.to_regclass({}) and attidentity = 'a' and not attisdropped",
        quote::literal(&quote::table(table))
    );
    Ok(session.query(&sql).await?.iter().map(|row| row.string(0)).collect())
}

/// Triggers did their work when the rows were written first. Says whether they were switched off.
async fn write_without_triggers(shadow: &mut Session, table: &TableName) -> Result<bool> {
    match shadow.query("set session_replication_role = replica").await {
        Ok(_) => return Ok(true),
        Err(error) if error.sqlstate() == Some("42501") => {}
        Err(error) => return Err(error),
    }
    let sql = format!(
        "select tgname from pg_catalog.pg_trigger
          where tgrelid = pg_catalog.to_regclass({}) and not tgisinternal and tgenabled in ('O', 'A')",
        quote::literal(&quote::table(table))
    );
    match shadow.query(&sql).await?.first() {
        None => Ok(false),
        Some(row) => Err(not_promoted(format!("trigger \"{}\" would fire once more", row.string(0))).hint(
            "On PostgreSQL 15 or newer, as a superuser: grant set on parameter session_replication_role to the target's user.",
        )),
    }
}

struct Merge<'a> {
    table: &'a TableName,
    key: &'a [String],
    /// The key's among them.
    columns: &'a [String],
}

impl Merge<'_> {
    fn listed(&self) -> String {
        quote::identifiers(self.columns.iter().map(String::as_str))
    }

    fn temporary(&self) -> String {
        let (columns, table) = (self.listed(), quote::table(self.table));
        format!("create temporary table pgdiode_kept as select {columns} from only {table} where false")
    }

    fn joined(&self) -> String {
        let equal = |name: &String| {
            let name = quote::identifier(name);
            format!("t.{name} = k.{name}")
        };
        self.key.iter().map(equal).collect::<Vec<_>>().join(" and ")
    }

    /// `None` when there is nothing but the key.
    fn update(&self, identities: &[String]) -> Option<String> {
        let is_set = |name: &&String| !self.key.contains(*name) && !identities.contains(*name);
        let set = |name: &String| {
            let name = quote::identifier(name);
            format!("{name} = k.{name}")
        };
        let sets: Vec<String> = self.columns.iter().filter(is_set).map(set).collect();
        let table = quote::table(self.table);
        (!sets.is_empty()).then(|| {
            format!("update only {table} t set {} from {KEPT} k where {}", sets.join(", "), self.joined())
        })
    }

    fn insert(&self) -> String {
        let (columns, table) = (self.listed(), quote::table(self.table));
        format!(
            "insert into {table} ({columns}) overriding system value
             select {columns} from {KEPT} k where not exists (select from only {table} t where {})",
            self.joined()
        )
    }
}
