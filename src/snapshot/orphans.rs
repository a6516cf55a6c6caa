//! Rows without a parent: the shadow may have no more of them under a foreign key than its source has.
//!
//! What the restore validated needs no look, and a constraint that it cannot make fails the run. That leaves those that
//! are `not valid`, under which a source itself may have such rows. A key whose parents are not carried is left out of the
//! shadow, and told: that is the operator's decision.

use crate::error::{Error, Result};
use crate::pg::session::{Row, Session};
use crate::pipeline::ends::Ends;
use crate::snapshot::place::not_promoted;

/// Foreign keys that nobody has validated, those of partitions left out: their parents' stand for them. Composed where
/// the catalog is: the operators are those that the constraint was made with. `unnest` of several arrays must not be
/// qualified.
const FOREIGN_KEYS: &str = "
    select con.conname, pg_catalog.format('%I.%I', cn.nspname, c.relname), pg_catalog.format('%I.%I', pn.nspname, p.relname),
           case when c.relkind = 'p' then '' else 'only ' end, case when p.relkind = 'p' then '' else 'only ' end,
           (select pg_catalog.string_agg(pg_catalog.format('p.%I operator(%I.%s) c.%I', pa.attname, opn.nspname, op.oprname, ca.attname), ' and ' order by k.position)
              from unnest(con.conkey, con.confkey, con.conpfeqop) with ordinality as k (child, parent, operator, position)
              join pg_catalog.pg_attribute ca on ca.attrelid = con.conrelid and ca.attnum = k.child
              join pg_catalog.pg_attribute pa on pa.attrelid = con.confrelid and pa.attnum = k.parent
              join pg_catalog.pg_operator op on op.oid = k.operator
              join pg_catalog.pg_namespace opn on opn.oid = op.oprnamespace),
           (select pg_catalog.string_agg(pg_catalog.format('c.%I is not null', ca.attname), case con.confmatchtype when 'f' then ' or ' else ' and ' end)
              from pg_catalog.unnest(con.conkey) as k (child)
              join pg_catalog.pg_attribute ca on ca.attrelid = con.conrelid and ca.attnum = k.child),
           (select pg_catalog.string_agg(pg_catalog.format('c.%I', ca.attname), ', ' order by k.position)
              from pg_catalog.unnest(con.conkey) with ordinality as k (child, position)
              join pg_catalog.pg_attribute ca on ca.attrelid = con.conrelid and ca.attnum = k.child),
           cn.nspname
      from pg_catalog.pg_constraint con
      join pg_catalog.pg_class c on c.oid = con.conrelid join pg_catalog.pg_namespace cn on cn.oid = c.relnamespace
      join pg_catalog.pg_class p on p.oid = con.confrelid join pg_catalog.pg_namespace pn on pn.oid = p.relnamespace
     where con.contype = 'f' and con.conparentid = 0 and not con.convalidated
     order by 2, 1";

/// A foreign key, of the shadow and of its source.
struct ForeignKey {
    name: String,
    child: String,
    parent: String,
    /// Counts the rows without a parent, and shows the key of one.
    query: String,
}

impl ForeignKey {
    fn read(row: &Row) -> ForeignKey {
        let (child, parent) = (row.string(1), row.string(2));
        let query = format!(
            "select pg_catalog.count(*), pg_catalog.min(pg_catalog.concat_ws(', ', {keys})) from {only_child}{child} c
              where ({is_bound}) and not exists (select from {only_parent}{parent} p where {matches})",
            keys = row.string(7),
            only_child = row.string(3),
            is_bound = row.string(6),
            only_parent = row.string(4),
            matches = row.string(5),
        );
        ForeignKey { name: row.string(0), child, parent, query }
    }

    /// So many rows without a parent, and the key of one.
    async fn orphans(&self, session: &mut Session) -> Result<(u64, String)> {
        let row = session.one(&self.query).await?;
        Ok((row.get(0)?, row.string(1)))
    }
}

/// Refuses a shadow that lacks parents which its source has. `exported` shows the moment that was copied.
pub(super) async fn refuse_orphans(ends: &Ends, exported: &mut Session, shadow: &mut Session) -> Result<()> {
    shadow.query(&format!("{}; set transaction read only", ends.begin_named())).await?;
    let compared = compare(ends, exported, shadow).await;
    if compared.as_ref().err().is_none_or(|error| !error.retries()) {
        shadow.query("rollback").await?;
    }
    compared
}

async fn compare(ends: &Ends, exported: &mut Session, shadow: &mut Session) -> Result<()> {
    // Beside schemas that are filled stand others, which are none of the source's.
    let is_filled =
        |row: &&Row| ends.schemas.as_ref().is_none_or(|schemas| schemas.names().contains_key(&row.string(8)));
    let rows = shadow.query(FOREIGN_KEYS).await?;
    let keys: Vec<ForeignKey> = rows.iter().filter(is_filled).map(ForeignKey::read).collect();
    for key in keys {
        let (here, example) = key.orphans(shadow).await?;
        if here == 0 {
            continue;
        }
        let (there, _) = key.orphans(exported).await?;
        if here > there {
            return Err(refused(&key, here, there, &example));
        }
        let ForeignKey { name, child, parent, .. } = &key;
        tracing::info!(
            rows = here,
            "{child} has rows without a parent in {parent} ({name}), as its source has"
        );
    }
    Ok(())
}

fn refused(key: &ForeignKey, here: u64, there: u64, example: &str) -> Error {
    not_promoted(format!(
        "foreign key {} of {}: {here} rows without a parent in {}, for example ({example}), {there} at the source",
        key.name, key.child, key.parent
    ))
    .hint(
        "Sync again; if it is so each time, find out what takes the parents from the copy (a mask of the key may), or accept it with \
         snapshot.refuse_orphans = false.",
    )
}
