//! Many rows of one table at once: each row that they refer to is looked up and locked once, not once a row.
//!
//! ```text
//! found_i   = the references of column i, distinct -> what they stand for, with a key share lock on each row
//! replica role, where that is all that the foreign keys ask; then the merge; then the role as it was
//! ```
//!
//! A foreign key's check is a query a row, and took five sixths of the time of inserting messages that refer to two
//! tables. Its promise is that the row referred to is there and cannot go before the commit: the lookup's lock gives the
//! same for all rows that share it. Where anything else would fire, or a foreign key is not one of the layout's references,
//! no trigger is switched off.

use crate::error::Result;
use crate::keyspace::Layout;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::target::postgres::keyspace::shape::{self, Lookup, Shape};
use crate::target::postgres::keyspace::statement::{Expected, Staged};
use crate::target::postgres::keyspace::underway::{Counts, Underway};

/// So many rows are worth the statements around them: two for each reference, and two more.
pub const ROWS_MIN: usize = 500;

/// Whether nothing of a merge into $1 fires but checks of foreign keys, each of which is a reference of the layout: of
/// column $2 to column $4 of table $3. The merge sets the columns $5, which nothing refers to. Who locks rows needs to be
/// allowed to change them.
const IS_CHECKED_BY_REFERENCES: &str = "
    select c.relkind = 'r' and not c.relhasrules
       and not exists (
           select from pg_catalog.pg_trigger t
             left join pg_catalog.pg_constraint f on f.oid = t.tgconstraint
            where t.tgrelid = c.oid and t.tgenabled not in ('D', 'A')
              and not (t.tgisinternal and f.contype = 'f'))
       and not exists (
           select from pg_catalog.pg_constraint f
            where f.conrelid = c.oid and f.contype = 'f' and not exists (
                select from rows from (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[]),
                                       pg_catalog.unnest($4::text[])) as o (of, refers_to, take)
                  join pg_catalog.pg_attribute a on a.attrelid = f.conrelid and a.attname = o.of
                  join pg_catalog.pg_attribute r on r.attrelid = f.confrelid and r.attname = o.take
                 where f.conkey = array[a.attnum] and f.confkey = array[r.attnum]
                   and f.confrelid = o.refers_to::pg_catalog.regclass
                   and pg_catalog.has_any_column_privilege(f.confrelid, 'update')))
       and not exists (
           select from pg_catalog.pg_constraint f
             join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = any (f.confkey)
            where f.confrelid = c.oid and f.contype = 'f' and a.attname = any ($5::text[]))
      from pg_catalog.pg_class c
     where c.oid = $1::pg_catalog.regclass";

/// The statements around the merge of many rows.
#[derive(Debug)]
pub struct Bulk {
    pub create_stages: Vec<String>,
    looks_up: Vec<LookUp>,
    /// Of rows that are new: references are joined to what was found.
    merge_new: String,
    /// The merge needs no check of a foreign key.
    is_checked: bool,
}

#[derive(Debug)]
struct LookUp {
    stage: String,
    sql: String,
}

impl Bulk {
    /// `None` where it would gain nothing, or where two texts may stand for one row.
    pub fn new(number: usize, shape: &Shape, is_checked: bool) -> Option<Bulk> {
        let lookups: Vec<(usize, &Lookup)> = shape
            .columns
            .iter()
            .enumerate()
            .filter_map(|(index, column)| Some((index, column.lookup.as_ref()?)))
            .collect();
        if lookups.is_empty() || lookups.iter().any(|(_, lookup)| !lookup.is_exact) {
            return None;
        }
        let rows = Staged { number, shape }.stage("rows");
        let mut joined = shape.clone();
        let (mut create_stages, mut looks_up) = (Vec::new(), Vec::new());
        for (index, lookup) in lookups {
            let stage = format!("pg_temp.pgdiode_found_{number}_{index}");
            create_stages.push(format!(
                "create temporary table pgdiode_found_{number}_{index} as select r.{} as given, r.{} as found from {} as r \
                 with no data",
                lookup.by, lookup.take, lookup.target
            ));
            looks_up.push(LookUp {
                sql: look_up(&stage, &rows, index, lookup, is_checked),
                stage: stage.clone(),
            });
            joined.columns[index].lookup = Some(Lookup {
                target: stage,
                by: "given".to_owned(),
                take: "found".to_owned(),
                ..lookup.clone()
            });
        }
        let merge_new = Staged { number, shape: &joined }.merge(Expected::New);
        Some(Bulk { create_stages, looks_up, merge_new, is_checked })
    }

    /// Sends the merge of a table's staged rows; `plain` is what it is without any of this.
    pub fn send_merge(
        &self,
        underway: &mut Underway,
        table: usize,
        plain: &str,
        expected: Expected,
        rows: usize,
    ) -> Result<()> {
        let is_joined = expected == Expected::New;
        if !is_joined && !self.is_checked {
            return underway.send(plain, Counts::Merged(table));
        }
        for look_up in &self.looks_up {
            underway.empty(&look_up.stage, rows)?;
            underway.send(&look_up.sql, Counts::Nothing)?;
        }
        let joins = "set local enable_hashjoin = on; set local enable_nestloop = off";
        let unjoins = "set local enable_hashjoin = off; set local enable_nestloop = on";
        if is_joined {
            underway.send(joins, Counts::Nothing)?;
        }
        if self.is_checked {
            underway.send("set local session_replication_role = replica", Counts::Nothing)?;
        }
        underway.send(if is_joined { &self.merge_new } else { plain }, Counts::Merged(table))?;
        if self.is_checked {
            underway.send("set local session_replication_role = origin", Counts::Nothing)?;
        }
        if is_joined {
            underway.send(unjoins, Counts::Nothing)?;
        }
        Ok(())
    }
}

/// Notes what each distinct reference of the staged rows stands for. One that stands for nothing is an error.
fn look_up(stage: &str, rows: &str, index: usize, lookup: &Lookup, is_locked: bool) -> String {
    let Lookup { name, target, by, take, equality, .. } = lookup;
    let lock = if is_locked { " for key share" } else { "" };
    format!(
        "insert into {stage} \
         select w.given, coalesce(r.take, pgdiode.missing_reference(r.take, {})) \
           from (select distinct s.c{index} as given from {rows} as s where s.c{index} is not null) as w \
           left join lateral (select t.{take} as take from {target} as t where t.{by} {equality} w.given{lock}) as r on true",
        quote::literal(&name.to_string())
    )
}

/// By table: whether its merge needs no check of a foreign key, and the session may do without.
pub async fn checked(session: &mut Session, layout: &Layout, shapes: &[Shape]) -> Result<Vec<bool>> {
    if !may_switch_roles(session).await? {
        return Ok(vec![false; shapes.len()]);
    }
    let mut checked = Vec::with_capacity(shapes.len());
    for (table, shape) in layout.tables.iter().zip(shapes) {
        let references = table
            .columns
            .iter()
            .filter_map(|column| Some((column.name.as_str(), column.reference.as_ref()?)));
        let (mut of, mut refers_to, mut take) = (Vec::new(), Vec::new(), Vec::new());
        for (column, reference) in references {
            of.push(column);
            refers_to.push(quote::table(&layout.tables[reference.table].name));
            take.push(reference.take.as_str());
        }
        let refers_to: Vec<&str> = refers_to.iter().map(String::as_str).collect();
        let set = table.columns.iter().enumerate().filter(|(index, _)| !table.key.contains(index));
        let set: Vec<&str> = set.map(|(_, column)| column.name.as_str()).collect();
        let arrays = [&of, &refers_to, &take, &set].map(|texts| shape::text_array(texts));
        let [of, refers_to, take, set] = arrays.each_ref().map(|array| Some(array.as_str()));
        let name = quote::table(&shape.name);
        let rows =
            session.query_with(IS_CHECKED_BY_REFERENCES, &[Some(&name), of, refers_to, take, set]).await?;
        checked.push(rows.first().is_some_and(|row| row.bool(0)));
    }
    Ok(checked)
}

/// Whether the role is the usual one and may be another for a while, which takes a privilege.
async fn may_switch_roles(session: &mut Session) -> Result<bool> {
    let role = session.one("select pg_catalog.current_setting('session_replication_role')").await?.string(0);
    if role != "origin" {
        return Ok(false);
    }
    let tried = session.query("begin; set local session_replication_role = replica; rollback").await;
    match tried {
        Ok(_) => Ok(true),
        Err(error) if error.sqlstate() == Some("42501") => {
            session.query("rollback").await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
