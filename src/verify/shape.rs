//! What one side's catalog says of the tables to compare: their columns, their key, their size.

use std::collections::{BTreeMap, HashMap};

use crate::change::TableName;
use crate::error::Result;
use crate::pg::session::Session;

/// A table as one side has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) oid: u32,
    /// `pg_class.relkind`.
    pub(super) kind: String,
    /// In order.
    pub(super) columns: Vec<ShapeColumn>,
    /// The columns of the primary key or of the replica identity's index; empty without either.
    pub(super) key: Vec<String>,
    /// Size on disk, that of its partitions included.
    pub(super) bytes: u64,
    /// Blocks of its main fork; 0 for a partitioned table.
    pub(super) blocks: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShapeColumn {
    pub(super) name: String,
    /// `pg_attribute.attgenerated`: `s` stored, `v` virtual, empty for a column that is written.
    pub(super) generated: String,
}

const TABLES: &str = "
    select c.oid, n.nspname, c.relname, c.relkind,
           case when c.relkind = 'p'
                then (select pg_catalog.sum(pg_catalog.pg_table_size(p.relid))::int8
                        from pg_catalog.pg_partition_tree(c.oid) p)
                when c.relkind = 'r' then pg_catalog.pg_table_size(c.oid) end,
           case when c.relkind = 'r'
                then pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int8 end
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'";

const COLUMNS: &str = "
    select a.attrelid, a.attname, a.attgenerated
      from pg_catalog.pg_attribute a
      join pg_catalog.pg_class c on c.oid = a.attrelid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p')
       and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
     order by a.attrelid, a.attnum";

/// The primary key before the index that was chosen as replica identity.
const KEYS: &str = "
    select i.indrelid, i.indexrelid, a.attname
      from pg_catalog.pg_index i
      join pg_catalog.pg_class c on c.oid = i.indrelid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      cross join lateral pg_catalog.unnest(i.indkey::int2[]) with ordinality as k(attnum, place)
      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
     where (i.indisprimary or i.indisreplident) and i.indisvalid and k.place <= i.indnkeyatts
       and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
     order by i.indrelid, i.indisprimary desc, i.indexrelid, k.place";

/// Every relation that rows could be read from, by name.
pub(super) async fn shapes(session: &mut Session) -> Result<BTreeMap<TableName, Shape>> {
    let mut columns: HashMap<u32, Vec<ShapeColumn>> = HashMap::new();
    for row in session.query(COLUMNS).await? {
        let column = ShapeColumn { name: row.string(1), generated: row.string(2) };
        columns.entry(row.get(0)?).or_default().push(column);
    }
    let mut keys: HashMap<u32, (u32, Vec<String>)> = HashMap::new();
    for row in session.query(KEYS).await? {
        let index = row.get(1)?;
        let (chosen, names) = keys.entry(row.get(0)?).or_insert_with(|| (index, Vec::new()));
        if *chosen == index {
            names.push(row.string(2));
        }
    }
    let mut shapes = BTreeMap::new();
    for row in session.query(TABLES).await? {
        let oid = row.get(0)?;
        let shape = Shape {
            oid,
            kind: row.string(3),
            columns: columns.remove(&oid).unwrap_or_default(),
            key: keys.remove(&oid).map(|(_, names)| names).unwrap_or_default(),
            bytes: row.optional(4)?.unwrap_or(0),
            blocks: row.optional(5)?.unwrap_or(0),
        };
        shapes.insert(TableName::new(row.string(1), row.string(2)), shape);
    }
    Ok(shapes)
}
