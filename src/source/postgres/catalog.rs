//! What the source's catalog says of its tables: which there are, which a publication carries, how large they are,
//! how their rows are named, and whether their values mean the same in binary elsewhere.

use std::collections::{BTreeMap, HashMap};

use crate::change::TableName;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;

/// A table that can be copied and followed.
#[derive(Debug, Clone)]
pub struct SourceTable {
    pub oid: u32,
    pub table: TableName,
    /// Its rows are in its partitions; it is read through the parent.
    pub is_partitioned: bool,
    /// Size of its rows on disk, out-of-line values included, indexes not.
    pub bytes: u64,
    /// Blocks of 8 KiB in its main fork.
    pub blocks: u64,
    /// In order; generated columns are left out, the target computes them.
    pub columns: Vec<SourceColumn>,
    pub identity: Identity,
    /// Values of every column are the same bytes on any server of the same types.
    pub is_binary_safe: bool,
    /// Its rows are not to be read.
    pub is_emptied: bool,
}

impl SourceTable {
    /// Whether it comes otherwise than it is.
    pub fn is_redacted(&self) -> bool {
        self.is_emptied || self.columns.iter().any(|column| column.mask.is_some())
    }

    /// Whether columns of the same name have the same type in the other table.
    pub fn has_types_of(&self, other: &SourceTable) -> bool {
        self.columns.iter().all(|column| {
            let named = other.columns.iter().find(|there| there.name == column.name);
            named.is_none_or(|there| there.type_sql == column.type_sql)
        })
    }
}

#[derive(Debug, Clone)]
pub struct SourceColumn {
    pub name: String,
    /// Attribute number: stays when the column is renamed, is never used again when it is dropped.
    pub number: i16,
    /// With its modifier, qualified where the search path does not reach.
    pub type_sql: String,
    /// SQL over the row's columns that is read in place of this one, of the same type.
    pub mask: Option<String>,
}

/// What names a row in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// A primary key or a chosen unique index.
    Index,
    /// The whole row.
    Full,
    /// Nothing: once published, UPDATE and DELETE fail at the source.
    None,
}

/// Ordinary and partitioned tables outside of the system's schemas and of extensions. Temporary and unlogged tables
/// are not in the write-ahead log, foreign tables not in this server.
const TABLES: &str = "
    select c.oid, n.nspname, c.relname, c.relkind = 'p',
           pg_catalog.pg_table_size(c.oid), pg_catalog.pg_relation_size(c.oid) / 8192,
           case when c.relreplident = 'f' then 'full'
                when c.relreplident = 'n' then 'none'
                when exists (select from pg_catalog.pg_index i
                              where i.indrelid = c.oid and i.indisvalid
                                and case c.relreplident when 'i' then i.indisreplident
                                    else i.indisprimary and i.indimmediate end) then 'index'
                else 'none' end
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and c.relpersistence = any ('{PERSISTENCE}')
       and n.nspname not in ('pg_catalog', 'information_schema', 'pgdiode') and n.nspname !~ '^pg_toast'
       and not exists (select from pg_catalog.pg_depend d
                        where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid
                          and d.deptype = 'e')";

const COLUMNS: &str = "
    select a.attrelid, a.attname, a.attnum, a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod)
      from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid
     where a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and c.relkind in ('r', 'p')
     order by a.attrelid, a.attnum";

/// All tables that could be carried, by name.
pub async fn tables(session: &mut Session) -> Result<BTreeMap<TableName, SourceTable>> {
    read_tables(session, "p").await
}

/// The same, and unlogged tables: for a copy that no stream follows.
pub async fn tables_with_unlogged(session: &mut Session) -> Result<BTreeMap<TableName, SourceTable>> {
    read_tables(session, "p,u").await
}

async fn read_tables(session: &mut Session, persistence: &str) -> Result<BTreeMap<TableName, SourceTable>> {
    let safe_types = BinarySafety::load(session).await?;
    let mut columns: HashMap<u32, Vec<(SourceColumn, u32)>> = HashMap::new();
    for row in session.query(COLUMNS).await? {
        let column =
            SourceColumn { name: row.string(1), number: row.get(2)?, type_sql: row.string(4), mask: None };
        columns.entry(row.get(0)?).or_default().push((column, row.get(3)?));
    }
    let mut tables = BTreeMap::new();
    for row in session.query(&TABLES.replace("PERSISTENCE", persistence)).await? {
        let oid = row.get(0)?;
        let columns = columns.remove(&oid).unwrap_or_default();
        let table = SourceTable {
            oid,
            table: TableName::new(row.string(1), row.string(2)),
            is_partitioned: row.bool(3),
            bytes: row.optional(4)?.unwrap_or(0),
            blocks: row.optional(5)?.unwrap_or(0),
            is_binary_safe: columns.iter().all(|(_, type_id)| safe_types.is_safe(*type_id)),
            columns: columns.into_iter().map(|(column, _)| column).collect(),
            identity: match row.text(6) {
                Some("index") => Identity::Index,
                Some("full") => Identity::Full,
                _ => Identity::None,
            },
            is_emptied: false,
        };
        tables.insert(table.table.clone(), table);
    }
    Ok(tables)
}

/// The tables whose changes the publication carries, as it names them: partitions, or their roots where the
/// publication says so. `None` when there is no such publication.
pub async fn published(session: &mut Session, publication: &str) -> Result<Option<Vec<TableName>>> {
    let publication = quote::literal(publication);
    let exists = format!("select from pg_catalog.pg_publication where pubname = {publication}");
    if session.query(&exists).await?.is_empty() {
        return Ok(None);
    }
    let sql = format!(
        "select schemaname, tablename from pg_catalog.pg_publication_tables where pubname = {publication} order by 1, 2"
    );
    let rows = session.query(&sql).await?;
    Ok(Some(rows.iter().map(|row| TableName::new(row.string(0), row.string(1))).collect()))
}

/// Which types may travel in binary.
///
/// The binary form of an array names its element type by OID, that of a composite its columns' types, and the `reg*`
/// types are OIDs: those mean something else on another server, so they travel as text. So does what has no binary
/// form, xml (OID 142), whose binary form may gain a declaration, and tsquery (3615), whose `tsqueryrecv` refuses the
/// empty query that `tsquerysend` writes.
struct BinarySafety {
    types: HashMap<u32, TypeFacts>,
}

struct TypeFacts {
    /// `pg_type.typtype`.
    kind: String,
    /// Element type of an array, base type of a domain, subtype of a range; else 0.
    inner: u32,
    is_array: bool,
    has_binary: bool,
}

/// Below this, OIDs are the same on every server.
const FIRST_NORMAL_OID: u32 = 16_384;

impl BinarySafety {
    async fn load(session: &mut Session) -> Result<BinarySafety> {
        let rows = session
            .query(
                "select t.oid, t.typtype, t.typcategory = 'A' and t.typelem <> 0 and t.typlen = -1,
                        case when t.typtype = 'd' then t.typbasetype
                             when t.typtype = 'r' then (select r.rngsubtype from pg_catalog.pg_range r where r.rngtypid = t.oid)
                             when t.typcategory = 'A' then t.typelem else 0 end,
                        t.typsend <> 0 and t.typreceive <> 0 and t.oid not in (142, 143, 3615)
                        and t.typsend::pg_catalog.regproc::text !~ '^(pg_catalog\\.)?reg'
                   from pg_catalog.pg_type t",
            )
            .await?;
        let mut types = HashMap::new();
        for row in rows {
            let facts = TypeFacts {
                kind: row.string(1),
                is_array: row.bool(2),
                inner: row.optional(3)?.unwrap_or(0),
                has_binary: row.bool(4),
            };
            types.insert(row.get(0)?, facts);
        }
        Ok(BinarySafety { types })
    }

    fn is_safe(&self, type_id: u32) -> bool {
        let Some(facts) = self.types.get(&type_id) else { return false };
        match facts.kind.as_str() {
            "c" | "p" => false,
            "d" | "r" => self.is_safe(facts.inner),
            // A multirange is safe where its range is; its bounds hold no OIDs.
            "m" => type_id < FIRST_NORMAL_OID,
            _ if facts.is_array => facts.inner < FIRST_NORMAL_OID && self.is_safe(facts.inner),
            _ => facts.has_binary,
        }
    }
}
