//! What a swap takes out of sight: whatever was changed in the serving database since its own sync filled it.
//!
//! The sync notes a transaction number of the target's server when it has written the last row (`pgdiode.run.filled_xid`)
//! and how many rows each table had. A row whose inserting transaction is younger was written by somebody else, and so was
//! an object whose rows in the catalog are; where fewer of the old rows are left than there were, the rest was deleted or
//! changed. Nothing is digested: each table is read once, beside the guards, which read the shadow.
//!
//! Row locks, vacuum and analyze write no such row. What is changed after the look, in the moments before the swap, is
//! not in the list.

use std::collections::BTreeSet;

use crate::change::TableName;
use crate::config::Preserve;
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::{Row, Session};
use crate::snapshot::generation::Standing;
use crate::snapshot::guards::Contents;
use crate::snapshot::place::Place;
use crate::status::snapshot::Discarded;

/// How many are logged one by one.
const LOGGED_MAX: usize = 20;
/// Ages of transactions are told apart up to two thousand million.
const AGE_MAX: i64 = 2_000_000_000;

/// What the sync that made the serving database had put there.
pub(super) struct Made {
    pub(super) contents: Contents,
    /// All of it was written by transactions up to this one; `None` when that was not noted.
    filled_xid: Option<i64>,
}

impl Made {
    pub(super) async fn read(control: &mut Session, standing: &Standing) -> Result<Made> {
        let run = standing.serving.as_ref().and_then(|serving| serving.run);
        let sql = format!(
            "select tables, filled_xid from pgdiode.run where id = {} and tables is not null",
            run.unwrap_or(0)
        );
        let rows = control.query(&sql).await?;
        let Some(row) = rows.first() else { return Ok(Made { contents: Contents::new(), filled_xid: None }) };
        let contents = serde_json::from_str(&row.string(0))
            .map_err(|error| Error::unexpected("pgdiode.run holds unreadable row counts").because(error))?;
        Ok(Made { contents, filled_xid: row.optional(1)? })
    }

    /// SQL for whether a row's `xmin` is younger, as far as the server can still tell.
    pub(super) async fn younger(&self, serving: &mut Session) -> Result<Option<Younger>> {
        let Some(filled) = self.filled_xid else { return Ok(None) };
        let now: i64 = serving
            .one("select pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())")
            .await?
            .get(0)?;
        let xid = filled & 0xffff_ffff;
        Ok((0..AGE_MAX).contains(&(now - filled)).then_some(Younger { xid }))
    }
}

/// Tells rows that were written after a transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Younger {
    xid: i64,
}

impl Younger {
    /// SQL for whether `xmin`, qualified as need be, is.
    pub(super) fn is(self, xmin: &str) -> String {
        // A subquery is evaluated once, and not for each row.
        format!("pg_catalog.age({xmin}) < (select pg_catalog.age('{}'::pg_catalog.xid))", self.xid)
    }
}

/// Says that all has been written that the sync itself writes.
pub(super) async fn mark_filled(control: &mut Session, shadow: &mut Session, run: i64) -> Result<()> {
    let xid: i64 = shadow.one("select pg_catalog.txid_current()").await?.get(0)?;
    control.query(&format!("update pgdiode.run set filled_xid = {xid} where id = {run}")).await.map(drop)
}

/// Looks what the swap will take out of sight.
pub(super) async fn find(place: &Place<'_>, standing: &Standing, made: &Made) -> Result<Vec<Discarded>> {
    if !standing.exists || (standing.serving.is_none() && standing.was_empty) {
        return Ok(Vec::new());
    }
    let mut serving = place.session(&place.database).await?;
    let Some(younger) = made.younger(&mut serving).await? else {
        let what = match &standing.serving {
            Some(_) => "unknown",
            None => "replaced",
        };
        let object = if place.is_by_schema() {
            format!("schemas {}", quote::identifiers(standing.schemas.keys().map(String::as_str)))
        } else {
            format!("database {}", quote::identifier(&place.database))
        };
        return Ok(vec![Discarded::of(object, what)]);
    };
    let preserve = &place.pipeline.preserve;
    // Beside schemas that are replaced stand others, which stay; those themselves are renamed at each swap.
    let is_replaced = |schema: &str| !place.is_by_schema() || standing.schemas.contains_key(schema);
    let mut all = rows(&mut serving, made, preserve, younger, &is_replaced).await?;
    let added: BTreeSet<String> =
        all.iter().filter(|one| one.what == "added").map(|one| one.object.clone()).collect();
    all.extend(
        objects(&mut serving, preserve, younger)
            .await?
            .into_iter()
            .filter(|(schema, one)| {
                let is_lost = match schema {
                    Some(schema) => {
                        is_replaced(schema) && !(place.is_by_schema() && one.object.starts_with("schema "))
                    }
                    None => !place.is_by_schema(),
                };
                is_lost && !added.contains(&one.object)
            })
            .map(|(_, one)| one),
    );
    all.sort_by(|one, other| one.object.cmp(&other.object));
    Ok(all)
}

/// Says it in the log and in the run's row.
pub(super) async fn tell(control: &mut Session, run: i64, discarded: &[Discarded]) -> Result<()> {
    for one in discarded.iter().take(LOGGED_MAX) {
        tracing::warn!(run, "will be discarded: {}", one.text());
    }
    if discarded.len() > LOGGED_MAX {
        tracing::warn!(
            run,
            "will be discarded: {} more, listed in the run's row",
            discarded.len() - LOGGED_MAX
        );
    }
    let json = serde_json::to_string(discarded)
        .map_err(|error| Error::unexpected("what is discarded cannot be written").because(error))?;
    let sql = format!("update pgdiode.run set discarded = {} where id = {run}", quote::literal(&json));
    control.query(&sql).await.map(drop)
}

const TABLES: &str = "
    select n.nspname, c.relname, (pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, c.oid, 0)).identity,
           not exists (select from pg_catalog.pg_attribute a where a.attrelid = c.oid and not ({YOUNGER}))
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'r' and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
       and not exists (select from pg_catalog.pg_depend d
                        where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype = 'e')
     order by 1, 2";

/// Tables whose rows are not what they were, and tables that are new or gone.
async fn rows(
    serving: &mut Session,
    made: &Made,
    preserve: &Preserve,
    younger: Younger,
    is_replaced: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Vec<Discarded>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let tables = serving.query(&TABLES.replace("{YOUNGER}", &younger.is("a.xmin"))).await?;
    for row in &tables {
        let table = TableName::new(row.string(0), row.string(1));
        let object = format!("table {}", row.string(2));
        let before = made.contents.get(&table.to_string()).map(|content| content.rows);
        seen.insert(table.to_string());
        if preserve.whole.match_table(&table) || !is_replaced(&table.schema) {
            continue;
        }
        let is_added = row.bool(3);
        // Of the rows that were written some may be kept.
        let kept = preserve.rows.iter().find(|(kept, _)| *kept == table).map(|(_, keys)| keys);
        let written = younger.is("xmin");
        let name = quote::table(&table);
        let sql = match kept.map(|keys| keys.rows.as_deref()) {
            None => format!(
                "select r.now, r.written, r.written
                   from (select pg_catalog.count(*), pg_catalog.count(*) filter (where {written}) from only {name}) as r (now, written)"
            ),
            Some(rows) => format!(
                "select pg_catalog.count(*), pg_catalog.count(*) filter (where {written}),
                        pg_catalog.count(*) filter (where {written} and {}) from only {name}",
                rows.map_or_else(|| "false".to_owned(), |rows| format!("(\n{rows}\n) is not true"))
            ),
        };
        let (now, written, lost) = match serving.one(&sql).await {
            Ok(row) => (row.get::<u64>(0)?, row.get::<u64>(1)?, row.get::<u64>(2)?),
            Err(error) if error.retries() => return Err(error),
            // Somebody else's table, or one that has just been dropped.
            Err(_) => {
                found.push(Discarded::of(object, "unknown"));
                continue;
            }
        };
        let one = match before {
            None if is_added || now > 0 => Discarded { rows_written: now, ..Discarded::of(object, "added") },
            None => continue,
            Some(before) => {
                let gone = before.saturating_sub(now - written);
                // What is kept was changed, as far as that can be.
                let rows_gone = gone.saturating_sub(written - lost);
                Discarded { rows_written: lost, rows_gone, ..Discarded::of(object, "rows") }
            }
        };
        if one.what == "added" || one.rows_written + one.rows_gone > 0 {
            found.push(one);
        }
    }
    let gone = made.contents.iter().filter(|(table, _)| !seen.contains(*table));
    found.extend(gone.map(|(table, content)| Discarded {
        rows_gone: content.rows,
        ..Discarded::of(format!("table {table}"), "dropped")
    }));
    Ok(found)
}

/// Objects but tables that are new, or whose rows in the catalog are. Of what belongs to a new table only the table is
/// named. Grants are seen by the roles that they are the first for.
const OBJECTS: &str = "
    with relation as (
        select c.oid, c.relkind,
               not exists (select from pg_catalog.pg_attribute a where a.attrelid = c.oid and not ({a})) as is_new
          from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'),
    object (class, oid, what, relation) as (
        select 'pg_catalog.pg_namespace'::pg_catalog.regclass, n.oid, 'changed', null::pg_catalog.oid from pg_catalog.pg_namespace n
         where n.nspname !~ '^pg_' and {n}
        union all
        select 'pg_catalog.pg_class'::pg_catalog.regclass, r.oid, case when r.is_new then 'added' else 'changed' end, r.oid
          from relation r
         where r.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
           and (r.is_new or exists (select from pg_catalog.pg_attribute a where a.attrelid = r.oid and a.attnum > 0 and {a})
                or exists (select from pg_catalog.pg_rewrite w where w.ev_class = r.oid and {w}))
           and not exists (select from pg_catalog.pg_depend d join relation o on o.oid = d.refobjid
                            where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = r.oid
                              and d.deptype in ('a', 'i') and r.relkind = 'S' and o.is_new)
        union all
        select 'pg_catalog.pg_class'::pg_catalog.regclass, r.oid, 'added', t.oid
          from relation r join pg_catalog.pg_index i on i.indexrelid = r.oid join relation t on t.oid = i.indrelid
         where r.is_new and not t.is_new
           and not exists (select from pg_catalog.pg_constraint c where c.conindid = r.oid)
        union all
        select 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 'changed', null from pg_catalog.pg_proc p where {p}
        union all
        select 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, 'changed', null from pg_catalog.pg_type t
         where t.typtype in ('e', 'd', 'r') and ({t}
            or exists (select from pg_catalog.pg_enum e where e.enumtypid = t.oid and {e}))
        union all
        select 'pg_catalog.pg_constraint'::pg_catalog.regclass, c.oid, 'changed', r.oid
          from pg_catalog.pg_constraint c join relation r on r.oid = c.conrelid where not r.is_new and {c}
        union all
        select 'pg_catalog.pg_trigger'::pg_catalog.regclass, g.oid, 'changed', r.oid
          from pg_catalog.pg_trigger g join relation r on r.oid = g.tgrelid
         where not g.tgisinternal and not r.is_new and {g}
        union all
        select 'pg_catalog.pg_policy'::pg_catalog.regclass, y.oid, 'changed', r.oid
          from pg_catalog.pg_policy y join relation r on r.oid = y.polrelid where not r.is_new and {y}
        union all
        select 'pg_catalog.pg_extension'::pg_catalog.regclass, x.oid, 'changed', null from pg_catalog.pg_extension x where {x})
    select i.type || ' ' || i.identity, object.what, case i.type when 'schema' then i.name else i.schema end,
           n.nspname, k.relname
      from object cross join lateral pg_catalog.pg_identify_object(object.class, object.oid, 0) i
      left join pg_catalog.pg_class k on k.oid = object.relation
      left join pg_catalog.pg_namespace n on n.oid = k.relnamespace
     where coalesce(i.schema, '') !~ '^pg_' and coalesce(i.schema, '') <> 'information_schema'
       and not exists (select from pg_catalog.pg_depend d
                        where d.classid = object.class and d.objid = object.oid and d.deptype = 'e')
    union all
    select i.type || ' ' || i.identity, 'granted to ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(s.refobjid)),
           case i.type when 'schema' then i.name else i.schema end, n.nspname, k.relname
      from pg_catalog.pg_shdepend s
      left join relation r on r.oid = s.objid and s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
      left join pg_catalog.pg_class k on k.oid = r.oid
      left join pg_catalog.pg_namespace n on n.oid = k.relnamespace
     cross join lateral pg_catalog.pg_identify_object(s.classid, s.objid, 0) i
     where s.deptype = 'a' and {s} and not coalesce(r.is_new, false)
       and s.dbid = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
    union all
    select 'large objects', 'written ' || pg_catalog.count(*), null, null, null from pg_catalog.pg_largeobject_metadata l where {l}
    having pg_catalog.count(*) > 0";

/// Each with the schema that it is in, if any.
async fn objects(
    serving: &mut Session,
    preserve: &Preserve,
    younger: Younger,
) -> Result<Vec<(Option<String>, Discarded)>> {
    let mut sql = OBJECTS.to_owned();
    for alias in ["a", "n", "w", "p", "t", "e", "c", "g", "y", "x", "s", "l"] {
        sql = sql.replace(&format!("{{{alias}}}"), &younger.is(&format!("{alias}.xmin")));
    }
    let is_kept = |row: &Row| match (row.text(3), row.text(4)) {
        (Some(schema), Some(name)) => preserve.whole.match_table(&TableName::new(schema, name)),
        _ => row.text(2).is_some_and(|schema| preserve.holds_schema(schema)),
    };
    let rows = serving.query(&sql).await?;
    let lost = rows.iter().filter(|row| !is_kept(row));
    let object = |row: &Row| (row.text(2).map(str::to_owned), Discarded::of(row.string(0), &row.string(1)));
    Ok(lost.map(object).collect())
}
