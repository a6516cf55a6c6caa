//! A table as the target has it, matched column by column with what the source sends.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::change::{Relation, ReplicaIdentity, TableName};
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;

/// One source relation's rows, and how they are stored here.
#[derive(Debug)]
pub struct Table {
    pub name: TableName,
    /// Quoted and qualified, with `only` where children must be left alone.
    pub target: String,
    /// The same without `only`: COPY and INSERT never reach children.
    pub target_plain: String,
    /// In the source's column order; source columns that the target computes itself are absent.
    pub columns: Vec<TableColumn>,
    /// For each source column the index into `columns`.
    pub by_source: Vec<Option<usize>>,
    pub key: Key,
}

#[derive(Debug)]
pub struct TableColumn {
    pub name: String,
    /// Base type (a domain's), qualified, without modifier: casting to a modifier would truncate silently, while
    /// assignment to the column refuses what is too long.
    pub type_sql: String,
    /// The equality operator of the key's index, `operator(schema.=)`: with an empty search path a plain `=` of, say,
    /// citext would quietly be text's.
    pub equality: String,
    pub key: bool,
    /// `generated always as identity`: updates may not set it.
    pub identity_always: bool,
}

/// How a row is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// By the columns marked `key`, which a unique index here covers exactly.
    Unique,
    /// By the columns marked `key`, though nothing here makes them unique: one row is taken.
    Search,
    /// By the image of the whole row (`REPLICA IDENTITY FULL` without a key here): one of the identical rows is taken.
    Image,
}

/// Why a relation's rows cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// No such table here.
    NoTable,
    /// It is a view, a foreign table or the like.
    NotATable(String),
    /// Source columns that are missing here.
    MissingColumns(Vec<String>),
    /// Columns that must have a value here, have no default, and do not come from the source.
    RequiredColumns(Vec<String>),
    /// None that can be seen from here: the names are the same. But the source has described the table anew, and its
    /// columns may be others under the same names, or of other types.
    Unseen,
    /// None of its shape: a value was refused as none of its type (SQLSTATE 22P02), as an enum's label is that the type
    /// lacks here.
    Value,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::NoTable => f.write_str("there is no such table at the target"),
            Mismatch::NotATable(kind) => {
                write!(f, "at the target this is not a table that rows can be written to (relkind {kind})")
            }
            Mismatch::MissingColumns(columns) => {
                write!(f, "the target's table lacks the columns {}", columns.join(", "))
            }
            Mismatch::RequiredColumns(columns) => {
                write!(
                    f,
                    "the target's table wants values that the source does not have, for {}",
                    columns.join(", ")
                )
            }
            Mismatch::Value => f.write_str("a value is none of its column's type at the target"),
            Mismatch::Unseen => f.write_str("the source's columns have changed under the same names"),
        }
    }
}

/// What the target's catalog says of a column.
struct CatalogColumn {
    type_sql: String,
    generated: bool,
    identity_always: bool,
    required: bool,
}

const COLUMNS: &str = "
    with recursive base as (
        select a.attnum, a.attname, a.attidentity, a.attgenerated, a.atttypid as type_oid,
               a.attnotnull and not a.atthasdef and a.attidentity = '' as required
          from pg_catalog.pg_attribute a
         where a.attrelid = $1::oid and a.attnum > 0 and not a.attisdropped
        union all
        select b.attnum, b.attname, b.attidentity, b.attgenerated, t.typbasetype, b.required
          from base b join pg_catalog.pg_type t on t.oid = b.type_oid
         where t.typtype = 'd'
    )
    select b.attname, pg_catalog.format_type(b.type_oid, -1), b.attgenerated <> '', b.attidentity = 'a', b.required
      from base b join pg_catalog.pg_type t on t.oid = b.type_oid
     where t.typtype <> 'd'
     order by b.attnum";

/// Unique indexes that can identify a row: immediate, whole, on plain columns; the primary key first. For each column
/// the equality operator of its operator class (the one that belongs to the index's access method).
const UNIQUE_INDEXES: &str = "
    select i.indexrelid, i.indisprimary, a.attname,
           'operator(' || pg_catalog.quote_ident(n.nspname) || '.' || o.oprname || ')', a.attnotnull
      from pg_catalog.pg_index i
      cross join lateral rows from (pg_catalog.unnest(i.indkey::int2[]), pg_catalog.unnest(i.indclass::oid[]))
           with ordinality as k(attnum, opclass, place)
      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
      join pg_catalog.pg_opclass c on c.oid = k.opclass
      join pg_catalog.pg_amop m on m.amopfamily = c.opcfamily and m.amopstrategy = 3
           and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype
      join pg_catalog.pg_operator o on o.oid = m.amopopr
      join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
     where i.indrelid = $1::oid and i.indisunique and i.indisvalid and i.indimmediate
       and i.indpred is null and i.indexprs is null and k.place <= i.indnkeyatts
     order by i.indisprimary desc, i.indexrelid, k.place";

/// Looks the relation's table up and matches it.
pub async fn load(session: &mut Session, relation: &Relation) -> Result<Result<Table, Mismatch>> {
    let name = relation.table();
    let found = session
        .query_with(
            "select c.oid, c.relkind from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
              where n.nspname = $1 and c.relname = $2",
            &[Some(&name.schema), Some(&name.name)],
        )
        .await?;
    let Some(found) = found.first() else { return Ok(Err(Mismatch::NoTable)) };
    let (oid, kind) = (found.string(0), found.string(1));
    if !["r", "p"].contains(&kind.as_str()) {
        return Ok(Err(Mismatch::NotATable(kind)));
    }
    let mut catalog = HashMap::new();
    for row in session.query_with(COLUMNS, &[Some(&oid)]).await? {
        let column = CatalogColumn {
            type_sql: row.string(1),
            generated: row.bool(2),
            identity_always: row.bool(3),
            required: row.bool(4),
        };
        catalog.insert(row.string(0), column);
    }
    let missing: Vec<String> = relation
        .columns
        .iter()
        .filter(|column| !catalog.contains_key(&column.name))
        .map(|column| column.name.clone())
        .collect();
    if !missing.is_empty() {
        return Ok(Err(Mismatch::MissingColumns(missing)));
    }
    let from_source = |name: &String| relation.columns.iter().any(|column| column.name == *name);
    let mut required: Vec<String> = catalog
        .iter()
        .filter(|(name, column)| column.required && !from_source(name))
        .map(|(name, _)| name.clone())
        .collect();
    if !required.is_empty() {
        required.sort();
        return Ok(Err(Mismatch::RequiredColumns(required)));
    }
    let indexes = unique_indexes(session, &oid).await?;
    Ok(Ok(matched(relation, &kind, &catalog, &indexes)))
}

/// A unique index's columns with their equality operators.
type UniqueIndex = Vec<(String, String)>;

async fn unique_indexes(session: &mut Session, oid: &str) -> Result<Vec<UniqueIndex>> {
    let mut indexes: Vec<(String, UniqueIndex)> = Vec::new();
    let mut nullable = HashSet::new();
    for row in session.query_with(UNIQUE_INDEXES, &[Some(oid)]).await? {
        let index = row.string(0);
        // A null in a unique index identifies nothing.
        if !row.bool(4) {
            nullable.insert(index.clone());
        }
        if indexes.last().is_none_or(|(last, _)| *last != index) {
            indexes.push((index, Vec::new()));
        }
        if let Some((_, columns)) = indexes.last_mut() {
            columns.push((row.string(2), row.string(3)));
        }
    }
    Ok(indexes
        .into_iter()
        .filter(|(index, _)| !nullable.contains(index))
        .map(|(_, columns)| columns)
        .collect())
}

fn matched(
    relation: &Relation,
    kind: &str,
    catalog: &HashMap<String, CatalogColumn>,
    indexes: &[UniqueIndex],
) -> Table {
    let (key, identity) = choose_key(relation, catalog, indexes);
    let mut columns = Vec::new();
    let mut by_source = Vec::new();
    for column in &relation.columns {
        let here = &catalog[&column.name];
        if here.generated {
            by_source.push(None);
            continue;
        }
        by_source.push(Some(columns.len()));
        let equality =
            identity.iter().find(|(name, _)| *name == column.name).map(|(_, operator)| operator.clone());
        columns.push(TableColumn {
            name: quote::identifier(&column.name),
            type_sql: here.type_sql.clone(),
            key: equality.is_some(),
            equality: equality.unwrap_or_default(),
            identity_always: here.identity_always,
        });
    }
    let name = relation.table();
    let plain = quote::table(&name);
    // A partitioned table holds its rows in its partitions; any other may have inheritance children to be left alone.
    let target = if kind == "p" { plain.clone() } else { format!("only {plain}") };
    Table { name, target, target_plain: plain, columns, by_source, key }
}

/// The columns that find a row, with their equality operators.
fn choose_key(
    relation: &Relation,
    catalog: &HashMap<String, CatalogColumn>,
    indexes: &[UniqueIndex],
) -> (Key, UniqueIndex) {
    let usable = |index: &&UniqueIndex| {
        index.iter().all(|(name, _)| {
            !catalog[name].generated
                && relation.columns.iter().any(|column| {
                    column.name == *name && (column.key || relation.identity == ReplicaIdentity::Full)
                })
        })
    };
    let sent: Vec<&str> =
        relation.columns.iter().filter(|column| column.key).map(|column| column.name.as_str()).collect();
    if relation.identity == ReplicaIdentity::Full {
        return match indexes.iter().find(usable) {
            Some(index) => (Key::Unique, index.clone()),
            None => (Key::Image, Vec::new()),
        };
    }
    match indexes.iter().find(|index| index.len() == sent.len() && usable(index)) {
        Some(index) => (Key::Unique, index.clone()),
        None if sent.is_empty() => (Key::Image, Vec::new()),
        None => {
            let plain = |name: &&str| ((*name).to_owned(), "operator(pg_catalog.=)".to_owned());
            (Key::Search, sent.iter().map(plain).collect())
        }
    }
}
