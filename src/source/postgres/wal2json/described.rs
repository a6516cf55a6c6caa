//! What the catalog says of tables now, where wal2json says nothing.

use std::collections::HashMap;

use crate::change::{ReplicaIdentity, TableName};
use crate::error::Result;
use crate::pg::conninfo::ConnInfo;
use crate::pg::quote;
use crate::pg::replication::TEXT_FORMAT;
use crate::pg::session::{Session, Side};

/// A table as the catalog has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub oid: u32,
    /// Whether it is of those that are carried at all, as `catalog::tables` has them; a partitioned table is not, whose
    /// rows and truncations are its partitions'.
    pub is_carried: bool,
    pub identity: ReplicaIdentity,
    pub columns: Vec<DescribedColumn>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct DescribedColumn {
    pub number: i16,
    pub name: String,
    pub type_id: u32,
    pub type_modifier: i32,
    /// Computed by the server.
    pub is_generated: bool,
    /// Part of the identity.
    pub is_key: bool,
    /// Its values may be out of line: then an update that does not touch one does not say it.
    pub may_be_absent: bool,
}

impl Described {
    pub(super) fn is_generated(&self, number: Option<i16>, name: &str) -> bool {
        self.columns.iter().any(|column| {
            column.is_generated && number.map_or(column.name == name, |number| column.number == number)
        })
    }
}

/// The session for these questions: it cannot write.
pub(super) async fn connect(conninfo: &ConnInfo) -> Result<Session> {
    let options = format!("{TEXT_FORMAT} -c default_transaction_read_only=on");
    Session::connect(conninfo, Side::Source, &[("options", &options)]).await
}

/// Those of the tables that there are.
pub(super) async fn describe(
    session: &mut Session,
    tables: &[&TableName],
) -> Result<HashMap<TableName, Described>> {
    let names: Vec<String> = tables
        .iter()
        .map(|table| format!("({}, {})", quote::literal(&table.schema), quote::literal(&table.name)))
        .collect();
    let sql = format!(
        "select n.nspname, c.relname, c.oid, c.relreplident,
                c.relkind = 'r' and c.relpersistence = 'p'
                and n.nspname not in ('pg_catalog', 'information_schema', 'pgdiode')
                and not exists (select from pg_catalog.pg_depend d
                                 where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid
                                   and d.deptype = 'e'),
                a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated <> '',
                c.relreplident = 'f' or coalesce(a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1]), false),
                a.attlen = -1
           from pg_catalog.pg_class c
           join pg_catalog.pg_namespace n on n.oid = c.relnamespace
           left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
           left join pg_catalog.pg_index i
                  on i.indrelid = c.oid and i.indisvalid and i.indimmediate
                 and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end
          where (n.nspname, c.relname) in ({})
          order by c.oid, a.attnum",
        names.join(", ")
    );
    let mut found: HashMap<TableName, Described> = HashMap::new();
    for row in session.query(&sql).await? {
        let name = TableName::new(row.string(0), row.string(1));
        let (oid, is_carried) = (row.get(2)?, row.bool(4));
        let identity = match row.text(3) {
            Some("f") => ReplicaIdentity::Full,
            Some("i") => ReplicaIdentity::Index,
            Some("n") => ReplicaIdentity::Nothing,
            _ => ReplicaIdentity::Default,
        };
        let described =
            found.entry(name).or_insert_with(|| Described { oid, is_carried, identity, columns: Vec::new() });
        // A table may have no column at all.
        if let Some(number) = row.optional(5)? {
            described.columns.push(DescribedColumn {
                number,
                name: row.string(6),
                type_id: row.get(7)?,
                type_modifier: row.get(8)?,
                is_generated: row.bool(9),
                is_key: row.bool(10),
                may_be_absent: row.bool(11),
            });
        }
    }
    Ok(found)
}
