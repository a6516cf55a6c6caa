//! Compares the tables of both sides by their catalogs: columns, constraints, indexes, and what names a row.
//!
//! [`drift`](super::drift) follows what the stream tells; this looks at what no stream tells: an index that was made at
//! the source since the copy, a table that somebody changed at the target. It reads catalogs alone, and is asked for by
//! `check` and, seldom, by the daemon.
//!
//! Indexes and constraints are compared by what they are, not by their names: a replica may have its own, and more of
//! them. A foreign key to a table that is not carried is nobody's loss.

use std::collections::{BTreeMap, BTreeSet};

use crate::change::TableName;
use crate::config::{Mode, Pipeline, Way, written};
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::pipeline::selection::Selection;
use crate::preflight::unnamed_rows;
use crate::schedule::utc;
use crate::snapshot;
use crate::status::drift::{SchemaDifference, SchemaDifferenceKind as Kind, SchemaDrift};

/// Differences that are listed: a page and an answer stay readable, and memory bounded.
const DIFFERENCES_MAX: usize = 500;

/// What a table consists of, a row a part. A partition's own parts are told like a table's.
const PARTS: &str = "
    select n.nspname, c.relname, 'column', a.attname,
           pg_catalog.format_type(a.atttypid, a.atttypmod)
               || case when a.attgenerated <> '' then ' generated' else '' end
               || case when a.attnotnull then ' not null' else '' end, '', '', ''
      from pg_catalog.pg_attribute a
      join pg_catalog.pg_class c on c.oid = a.attrelid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
       and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgdiode')
    union all
    select n.nspname, c.relname, 'index', x.relname,
           pg_catalog.replace(pg_catalog.pg_get_indexdef(i.indexrelid),
                              ' INDEX ' || pg_catalog.quote_ident(x.relname) || ' ON ', ' INDEX ON '),
           pg_catalog.pg_get_indexdef(i.indexrelid), '', ''
      from pg_catalog.pg_index i
      join pg_catalog.pg_class x on x.oid = i.indexrelid
      join pg_catalog.pg_class c on c.oid = i.indrelid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where i.indisvalid and c.relkind = 'r'
       and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgdiode')
       and not exists (select from pg_catalog.pg_constraint k
                        where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'))
    union all
    select n.nspname, c.relname, 'constraint', k.conname,
           pg_catalog.regexp_replace(pg_catalog.pg_get_constraintdef(k.oid), ' NOT VALID$', ''), '',
           coalesce(rn.nspname, ''), coalesce(r.relname, '')
      from pg_catalog.pg_constraint k
      join pg_catalog.pg_class c on c.oid = k.conrelid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      left join pg_catalog.pg_class r on r.oid = k.confrelid
      left join pg_catalog.pg_namespace rn on rn.oid = r.relnamespace
     where k.contype in ('p', 'u', 'f', 'c', 'x')
       and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgdiode')";

/// A table's parts at one side.
#[derive(Debug, Default)]
struct Parts {
    /// Name and type.
    columns: BTreeMap<String, String>,
    indexes: Vec<Part>,
    constraints: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    name: String,
    /// What it is, without its name.
    means: String,
    /// The statement that makes it, of an index.
    sql: String,
    /// The table that a foreign key leads to.
    refers_to: Option<TableName>,
}

/// What is looked at together, and how it is put right.
struct Comparison<'a> {
    is_snapshot: bool,
    carried: &'a BTreeSet<&'a TableName>,
    found: Vec<SchemaDifference>,
}

/// Looks at both sides; `None` where there are no two sides of tables: archives, keys, a replica that nobody has made.
pub(crate) async fn compare(pipeline: &Pipeline) -> Result<Option<SchemaDrift>> {
    if pipeline.way() != Way::Direct {
        return Ok(None);
    }
    let ends = Ends::resolve(pipeline)?;
    let target = if pipeline.mode == Mode::Snapshot {
        snapshot::replica_session(pipeline).await?
    } else {
        Some(ends.target().await?)
    };
    let Some(mut target) = target else { return Ok(None) };
    let mut source = ends.source().await?;
    let selection = Selection::read(&mut source, &pipeline.tables).await?;
    between(pipeline, &mut source, &mut target, &selection).await.map(Some)
}

/// The same, with sessions that are open.
pub(crate) async fn between(
    pipeline: &Pipeline,
    source: &mut Session,
    target: &mut Session,
    selection: &Selection,
) -> Result<SchemaDrift> {
    let (ours, theirs) = (parts(source).await?, parts(target).await?);
    let is_snapshot = pipeline.mode == Mode::Snapshot;
    let carried: BTreeSet<&TableName> = selection.carried.iter().collect();
    let mut comparison = Comparison { is_snapshot, carried: &carried, found: Vec::new() };
    let nothing = Parts::default();
    for table in &carried {
        comparison.table(table, ours.get(*table).unwrap_or(&nothing), theirs.get(*table));
    }
    let mut found = comparison.found;
    if !is_snapshot {
        for (table, _, sql) in unnamed_rows(source, selection, &selection.carried, pipeline.plugin).await? {
            let cure = Cure::by("at the source", sql);
            found.push(difference(&table, Kind::ReplicaIdentity, None, (None, None), cure));
        }
    }
    Ok(summed(found, selection.carried.len()))
}

fn summed(mut found: Vec<SchemaDifference>, tables: usize) -> SchemaDrift {
    found.sort_by(|a, b| (&a.table, a.kind, &a.object).cmp(&(&b.table, b.kind, &b.object)));
    let different: BTreeSet<&String> = found.iter().map(|one| &one.table).collect();
    let tables_different = different.len() as u64;
    let left_out = found.len().saturating_sub(DIFFERENCES_MAX) as u64;
    found.truncate(DIFFERENCES_MAX);
    SchemaDrift {
        at: utc(jiff::Timestamp::now()),
        tables: tables as u64,
        tables_different,
        differences: found,
        left_out,
    }
}

async fn parts(session: &mut Session) -> Result<BTreeMap<TableName, Parts>> {
    let mut found: BTreeMap<TableName, Parts> = BTreeMap::new();
    for row in session.query(PARTS).await? {
        let parts = found.entry(TableName::new(row.string(0), row.string(1))).or_default();
        let (name, means) = (row.string(3), row.string(4));
        let refers_to = TableName::new(row.string(6), row.string(7));
        let refers_to = Some(refers_to).filter(|table| !table.name.is_empty());
        let part = |name, means| Part { name, means, sql: row.string(5), refers_to };
        match row.string(2).as_str() {
            "column" => drop(parts.columns.insert(name, means)),
            "index" => parts.indexes.push(part(name, means)),
            _ => parts.constraints.push(part(name, means)),
        }
    }
    Ok(found)
}

/// What to do about a difference.
struct Cure {
    remedy: String,
    sql: Option<String>,
}

impl Cure {
    fn words(remedy: impl Into<String>) -> Cure {
        Cure { remedy: remedy.into(), sql: None }
    }

    fn by(remedy: impl Into<String>, sql: String) -> Cure {
        Cure { remedy: remedy.into(), sql: Some(sql) }
    }
}

impl Comparison<'_> {
    fn table(&mut self, table: &TableName, ours: &Parts, theirs: Option<&Parts>) {
        let Some(theirs) = theirs else {
            let cure = self.cure(|| {
                let resync = resync(table);
                Cure::words(format!("the next start makes it; if there has been one since, then: {resync}"))
            });
            self.found.push(difference(table, Kind::TableMissing, None, (None, None), cure));
            return;
        };
        self.columns(table, ours, theirs);
        for part in missing(&ours.constraints, &theirs.constraints) {
            if part.refers_to.as_ref().is_some_and(|other| !self.carried.contains(other)) {
                continue;
            }
            let cure = self.cure(|| {
                let (table, name) = (quote::table(table), quote::identifier(&part.name));
                Cure::by(
                    "at the target",
                    format!("alter table {table} add constraint {name} {};", part.means),
                )
            });
            self.lacks(table, Kind::ConstraintMissing, part, cure);
        }
        for part in missing(&ours.indexes, &theirs.indexes) {
            let cure = self.cure(|| Cure::by("at the target", format!("{};", part.sql)));
            self.lacks(table, Kind::IndexMissing, part, cure);
        }
    }

    fn columns(&mut self, table: &TableName, ours: &Parts, theirs: &Parts) {
        for (column, here) in &ours.columns {
            let there = theirs.columns.get(column);
            if there == Some(here) {
                continue;
            }
            let kind = if there.is_some() { Kind::ColumnDiffers } else { Kind::ColumnMissing };
            let cure = self.cure(|| match there {
                Some(there) => alike(table, column, here, there),
                None => added(table, column, here),
            });
            let both = (Some(here.clone()), there.cloned());
            self.found.push(difference(table, kind, Some(column), both, cure));
        }
        for (column, there) in theirs.columns.iter().filter(|(column, _)| !ours.columns.contains_key(*column))
        {
            let cure = self.cure(|| {
                let (table, column) = (quote::table(table), quote::identifier(column));
                Cure::by(
                    "nothing, where it is the replica's own; if the source has dropped it and nobody needs it, at the target",
                    format!("alter table {table} drop column {column};"),
                )
            });
            let both = (None, Some(there.clone()));
            self.found.push(difference(table, Kind::ColumnAdded, Some(column), both, cure));
        }
    }

    fn lacks(&mut self, table: &TableName, kind: Kind, part: &Part, cure: Cure) {
        let both = (Some(part.means.clone()), None);
        self.found.push(difference(table, kind, Some(&part.name), both, cure));
    }

    /// A replica that is copied as a whole is put right by the next copy.
    fn cure(&self, by_hand: impl FnOnce() -> Cure) -> Cure {
        if self.is_snapshot { Cure::words("the next sync brings it: pgdiode sync") } else { by_hand() }
    }
}

/// Those of ours that they do not have, whatever they call them.
fn missing<'a>(ours: &'a [Part], theirs: &'a [Part]) -> impl Iterator<Item = &'a Part> {
    ours.iter().filter(|part| theirs.iter().all(|other| other.means != part.means))
}

fn resync(table: &TableName) -> String {
    format!("pgdiode resync '{}'", written(table))
}

/// The type without what else stands there.
fn type_of(column: &str) -> &str {
    column.trim_end_matches(" not null").trim_end_matches(" generated")
}

fn added(table: &TableName, column: &str, here: &str) -> Cure {
    let remedy = format!(
        "the table's next change brings it, where changes of the schema are followed; else at the target, before {}",
        resync(table)
    );
    let (table, column) = (quote::table(table), quote::identifier(column));
    Cure::by(remedy, format!("alter table {table} add column {column} {};", type_of(here)))
}

/// How the target's column becomes what the source's is.
fn alike(table: &TableName, column: &str, here: &str, there: &str) -> Cure {
    let alter = format!("alter table {} alter column {}", quote::table(table), quote::identifier(column));
    if type_of(here) == type_of(there) {
        if here.contains(" generated") != there.contains(" generated") {
            return Cure::words("only one side computes it: have both do the same, or none");
        }
        let verb = if here.ends_with(" not null") { "set" } else { "drop" };
        return Cure::by("at the target", format!("{alter} {verb} not null;"));
    }
    let sql = format!("{alter} type {};", type_of(here));
    Cure::by(format!("at the target, before {}", resync(table)), sql)
}

fn difference(
    table: &TableName,
    kind: Kind,
    object: Option<&String>,
    (source, target): (Option<String>, Option<String>),
    Cure { remedy, sql }: Cure,
) -> SchemaDifference {
    SchemaDifference { table: written(table), kind, object: object.cloned(), source, target, remedy, sql }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_becomes_what_the_source_has() {
        let table = TableName::new("public", "a");
        let cure = |here, there| alike(&table, "b", here, there);
        let sql = |here, there| cure(here, there).sql.unwrap_or_default();
        assert_eq!(
            sql("text not null", "text"),
            r#"alter table "public"."a" alter column "b" set not null;"#
        );
        assert_eq!(
            sql("text", "text not null"),
            r#"alter table "public"."a" alter column "b" drop not null;"#
        );
        assert_eq!(
            sql("bigint not null", "integer"),
            r#"alter table "public"."a" alter column "b" type bigint;"#
        );
        assert_eq!(cure("bigint", "integer").remedy, "at the target, before pgdiode resync 'public.a'");
        assert!(cure("text generated not null", "text not null").sql.is_none());
    }

    #[test]
    fn very_many_differences_are_counted_and_not_listed() {
        let one = |number: usize| {
            let table = TableName::new("public", format!("t{:03}", number / 2));
            difference(&table, Kind::IndexMissing, None, (None, None), Cure::words(""))
        };
        let drift = summed((0..600).map(one).collect(), 400);
        assert_eq!((drift.differences.len(), drift.left_out), (500, 100));
        assert_eq!((drift.tables, drift.tables_different), (400, 300));
    }
}
