//! The shadow: a fresh database that nobody reads, filled with one moment of the source and dressed like the database
//! that it will replace.
//!
//! The copy keeps its state in schema `pgdiode` of the shadow; the schema goes before the shadow is looked at, so that
//! a replica has nothing that its source has not.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::change::TableName;
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::{Row, Session};
use crate::pipeline::copy::{self, Copied, Moment, Order, SchemaAhead, SchemaWork};
use crate::pipeline::ends::Ends;
use crate::pipeline::meter::Meter;
use crate::position::Lsn;
use crate::snapshot::by_schema;
use crate::snapshot::place::{Place, not_promoted};
use crate::snapshot::redaction;
use crate::source::postgres::catalog::{self, SourceTable};
use crate::target::postgres::progress;

/// A moment of the source, in reach as long as its session is open.
pub(super) struct Exported {
    pub(super) session: Session,
    pub(super) snapshot: String,
    pub(super) at: Lsn,
    pub(super) tables: Vec<SourceTable>,
}

/// Opens the moment and reads which tables it has.
pub(super) async fn export(place: &Place<'_>) -> Result<Exported> {
    let mut session = place.ends.source().await?;
    session.query("begin isolation level repeatable read read only").await?;
    let row = session
        .one(
            "select pg_catalog.pg_export_snapshot(),
                    case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
                         else pg_catalog.pg_current_wal_lsn() end, pg_catalog.pg_is_in_recovery()",
        )
        .await?;
    // A standby has no rows of unlogged tables.
    let tables = if row.bool(2) {
        catalog::tables(&mut session).await?
    } else {
        catalog::tables_with_unlogged(&mut session).await?
    };
    let is_carried =
        |table: &SourceTable| !table.is_partitioned && place.pipeline.tables.match_table(&table.table);
    let mut tables: Vec<SourceTable> = tables.into_values().filter(is_carried).collect();
    redaction::resolve(&mut session, &place.pipeline.redaction).await?.mark(&mut tables);
    Ok(Exported { session, snapshot: row.string(0), at: row.get(1)?, tables })
}

/// Columns of `pg_database` that make a new database the same, by the server's version.
fn locale_columns(major: u32) -> &'static str {
    match major {
        ..=14 => "'c', null, null",
        15 => "datlocprovider, daticulocale, null",
        16 => "datlocprovider, daticulocale, daticurules",
        17.. => "datlocprovider, datlocale, daticurules",
    }
}

/// Creates the shadow with the encoding, locale and owner of the database that serves, else of the source.
pub(super) async fn create(
    control: &mut Session,
    source: &mut Session,
    shadow: &str,
    serving: Option<&str>,
) -> Result<()> {
    let read = |major: u32, name: &str| {
        format!(
            "select pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype, {},
                    pg_catalog.pg_get_userbyid(datdba)
               from pg_catalog.pg_database where datname = {name}",
            locale_columns(major)
        )
    };
    let model = match serving {
        Some(serving) => control.one(&read(control.server_major(), &quote::literal(serving))).await?,
        None => source.one(&read(source.server_major(), "pg_catalog.current_database()")).await?,
    };
    let owner = quote::literal(&model.string(6));
    let may_own = format!(
        "select exists (select from pg_catalog.pg_roles
                         where rolname = {owner} and pg_catalog.pg_has_role(oid, 'member'))"
    );
    let owner = control.one(&may_own).await?.bool(0).then(|| model.string(6));
    let sql = create_sql(shadow, &model, owner.as_deref(), control.server_major());
    control.query(&sql).await.map(drop).map_err(|error| match error.sqlstate() {
        Some("42501") => error.with_kind(Kind::Refused).hint(
            "The target's user must be able to create databases: alter role USER createdb, run by a superuser there.",
        ),
        _ => error.context("the shadow database cannot be created"),
    })
}

fn create_sql(shadow: &str, model: &Row, owner: Option<&str>, major: u32) -> String {
    let mut sql = format!(
        "create database {} template template0 encoding {} lc_collate {} lc_ctype {}",
        quote::identifier(shadow),
        quote::literal(&model.string(0)),
        quote::literal(&model.string(1)),
        quote::literal(&model.string(2))
    );
    if major >= 15 {
        let (provider, key) = match model.text(3) {
            Some("i") => ("icu", "icu_locale"),
            Some("b") => ("builtin", "builtin_locale"),
            _ => ("libc", ""),
        };
        sql.push_str(&format!(" locale_provider {provider}"));
        if let (false, Some(locale)) = (key.is_empty(), model.text(4)) {
            sql.push_str(&format!(" {key} {}", quote::literal(locale)));
        }
        if let Some(rules) = model.text(5) {
            sql.push_str(&format!(" icu_rules {}", quote::literal(rules)));
        }
    }
    if let Some(owner) = owner {
        sql.push_str(&format!(" owner {}", quote::identifier(owner)));
    }
    sql
}

/// Copies schema and rows. What could not be carried is an error; what does not matter for the rows is listed.
pub(super) async fn fill(
    place: &Place<'_>,
    ends: &Ends,
    exported: &Exported,
    schema: SchemaAhead,
    meter: &Arc<Meter>,
) -> Result<Copied> {
    let mut target = ends.target().await?;
    target.query("set client_min_messages = warning").await?;
    target.query(progress::CREATE_CONTROL_SCHEMA).await?;
    let mut pipeline = place.pipeline.clone();
    if place.is_by_schema() {
        by_schema::forget_copies(&mut target).await?;
        pipeline.name = format!("{}{}", by_schema::COPY_NAME, pipeline.name);
    }
    let name = quote::literal(&pipeline.name);
    target.query(&format!("insert into pgdiode.pipeline (name, mode) values ({name}, 'snapshot')")).await?;
    let order = Order { tables: exported.tables.clone(), schema: SchemaWork::All, gathers_statistics: true };
    let moment = Moment::Exported { snapshot: exported.snapshot.clone(), at: exported.at, schema };
    let copied = copy::run(ends, &pipeline, meter, order, moment).await?;
    if copied.is_partial {
        return Err(Error::unexpected(
            "a table was truncated or rewritten at the source while it was copied",
        )
        .hint("Sync again; at a time when nobody truncates or rewrites tables, if it happens each time."));
    }
    refuse_quarantined(&mut target, &pipeline.name, exported).await?;
    set_fresh_sequences(ends, &mut target).await?;
    if place.is_by_schema() {
        by_schema::forget_copies(&mut target).await?;
    } else {
        target.query("drop schema pgdiode cascade").await?;
    }
    Ok(copied)
}

/// A replica without one of its tables is none.
async fn refuse_quarantined(target: &mut Session, pipeline: &str, exported: &Exported) -> Result<()> {
    let sql = "select schema_name, table_name, state, coalesce(reason, state) from pgdiode.relation where pipeline = $1";
    let rows = target.query_with(sql, &[Some(pipeline)]).await?;
    let state = |row: &Row| (TableName::new(row.string(0), row.string(1)), (row.string(2), row.string(3)));
    let states: BTreeMap<TableName, (String, String)> = rows.iter().map(state).collect();
    for table in &exported.tables {
        let reason = match states.get(&table.table) {
            Some((state, _)) if state == "ready" => continue,
            Some((_, reason)) => reason.as_str(),
            None => "it was not copied",
        };
        return Err(Error::unexpected(format!("table {} could not be copied: {reason}", table.table)).hint(
            "Mend what the reason names, or leave the table out with `tables = [\"*.*\", \"!schema.table\"]`.",
        ));
    }
    Ok(())
}

/// A sequence that was set and not used yet has no last value to carry, and still does not begin where it was made to.
async fn set_fresh_sequences(ends: &Ends, target: &mut Session) -> Result<()> {
    let mut source = ends.source().await?;
    let sql = "select schemaname, sequencename from pg_catalog.pg_sequences where last_value is null
                  and pg_catalog.has_sequence_privilege(
                      pg_catalog.quote_ident(schemaname) || '.' || pg_catalog.quote_ident(sequencename), 'select')";
    for row in source.query(sql).await? {
        let name = TableName::new(row.string(0), row.string(1));
        let (name, here) = (quote::table(&name), quote::table(&ends.at_target(&name)));
        let state = source.one(&format!("select last_value, is_called from {name}")).await?;
        let set = format!(
            "select pg_catalog.setval(oid, {}, {}) from pg_catalog.pg_class
              where oid = pg_catalog.to_regclass({}) and relkind = 'S'",
            state.string(0),
            state.bool(1),
            quote::literal(&here)
        );
        target.query(&set).await?;
    }
    Ok(())
}

/// The materialized views that the source has filled, those first that others need.
const MATERIALIZED: &str = "
    with recursive needs as (
        select distinct r.ev_class as view, d.refobjid as needed
          from pg_catalog.pg_rewrite r
          join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and d.objid = r.oid
         where d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.refobjid <> r.ev_class),
    reach as (
        select view, needed from needs
        union
        select reach.view, needs.needed from reach join needs on needs.view = reach.needed)
    select n.nspname, c.relname
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'm' and c.relispopulated
     order by (select count(*) from reach join pg_catalog.pg_class m on m.oid = reach.needed and m.relkind = 'm'
                where reach.view = c.oid), n.nspname, c.relname";

/// Fills the materialized views. One that finds another unfilled, through a function, waits for the next round.
pub(super) async fn refresh(ends: &Ends, source: &mut Session, shadow: &mut Session) -> Result<u64> {
    let named = |row: &Row| quote::table(&TableName::new(row.string(0), row.string(1)));
    shadow.query(&ends.begin_named()).await?;
    let here: HashSet<String> = shadow
        .query("select n.nspname, c.relname from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.relkind = 'm'")
        .await?
        .iter()
        .map(named)
        .collect();
    let mut waiting: Vec<String> = source.query(MATERIALIZED).await?.iter().map(named).collect();
    waiting.retain(|view| here.contains(view));
    let total = waiting.len() as u64;
    shadow.query("set search_path = \"$user\", public").await?;
    while !waiting.is_empty() {
        let mut unfilled = Vec::new();
        let mut last = None;
        for view in &waiting {
            let refreshed =
                format!("savepoint view; refresh materialized view {view}; release savepoint view");
            match shadow.query(&refreshed).await {
                Ok(_) => {}
                Err(error) if error.sqlstate() == Some("55000") => {
                    shadow.query("rollback to savepoint view").await?;
                    unfilled.push(view.clone());
                    last = Some(error);
                }
                Err(error) => return Err(error.context(format!("materialized view {view}"))),
            }
        }
        if let (true, Some(error)) = (unfilled.len() == waiting.len(), last) {
            return Err(error.context("materialized views wait for each other"));
        }
        waiting = unfilled;
    }
    shadow.query("set search_path = ''").await?;
    shadow.query(&ends.commit_named()).await?;
    Ok(total)
}

/// Settings whose values are lists of names: stored ready to be written again.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Gives the shadow what belongs to the database that serves and not to its contents: settings, grants, the comment, the
/// limit of connections.
pub(super) async fn dress(control: &mut Session, serving: &str, shadow: &str) -> Result<()> {
    for sql in clothes(control, serving, shadow).await? {
        control.query(&sql).await.map_err(|error| {
            not_promoted("what belongs to the serving database cannot be given to its successor")
                .hint(format!("Let the target's user run: {sql}"))
                .because(error)
        })?;
    }
    Ok(())
}

async fn clothes(control: &mut Session, serving: &str, shadow: &str) -> Result<Vec<String>> {
    let (here, name) = (quote::literal(serving), quote::identifier(shadow));
    let mut all = Vec::new();
    let row = control
        .one(&format!(
            "select datconnlimit, pg_catalog.shobj_description(oid, 'pg_database'), datacl is null,
                    pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(datdba)), datistemplate
               from pg_catalog.pg_database where datname = {here}"
        ))
        .await?;
    if row.text(0) != Some("-1") {
        all.push(format!("alter database {name} connection limit {}", row.string(0)));
    }
    if let Some(comment) = row.text(1) {
        all.push(format!("comment on database {name} is {}", quote::literal(comment)));
    }
    if !row.bool(2) {
        all.push(format!("revoke all on database {name} from public"));
        let grants = control
            .query(&format!(
                "select a.privilege_type, case a.grantee when 0 then 'public'
                        else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end, a.is_grantable
                   from pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a where d.datname = {here}"
            ))
            .await?;
        for grant in grants {
            let option = if grant.bool(2) { " with grant option" } else { "" };
            all.push(format!("grant {} on database {name} to {}{option}", grant.string(0), grant.string(1)));
        }
    }
    let settings = control
        .query(&format!(
            "select pg_catalog.quote_ident(r.rolname), pg_catalog.split_part(c.text, '=', 1),
                    pg_catalog.substr(c.text, pg_catalog.strpos(c.text, '=') + 1)
               from pg_catalog.pg_db_role_setting s
               join pg_catalog.pg_database d on d.oid = s.setdatabase
               left join pg_catalog.pg_roles r on r.oid = s.setrole
              cross join lateral pg_catalog.unnest(s.setconfig) as c (text)
              where d.datname = {here}"
        ))
        .await?;
    for setting in settings {
        let (key, value) = (setting.string(1), setting.string(2));
        let value = if LISTS.contains(&key.as_str()) && !value.is_empty() {
            value.replace("\"\"", "''")
        } else {
            quote::literal(&value)
        };
        let key = key.split('.').map(quote::identifier).collect::<Vec<_>>().join(".");
        all.push(match setting.text(0) {
            Some(role) => format!("alter role {role} in database {name} set {key} to {value}"),
            None => format!("alter database {name} set {key} to {value}"),
        });
    }
    Ok(all)
}

/// Large objects that travel in one statement, in pieces of this size.
const LARGE_OBJECT_PIECE: u32 = 1 << 20;

/// Carries large objects under their own numbers, piece by piece. Their owners and grants are the target's user's.
pub(super) async fn carry_large_objects(exported: &mut Session, shadow: &mut Session) -> Result<u64> {
    let objects = exported.query("select oid from pg_catalog.pg_largeobject_metadata order by oid").await?;
    for object in &objects {
        let oid: u32 = object.get(0)?;
        shadow.query(&format!("begin; select pg_catalog.lo_create({oid})")).await?;
        let mut offset: u64 = 0;
        loop {
            let sql = format!("select pg_catalog.lo_get({oid}, {offset}, {LARGE_OBJECT_PIECE})");
            let piece = exported.one(&sql).await?.string(0);
            let length = (piece.len().saturating_sub(2) / 2) as u64;
            if length > 0 {
                let sql = format!("select pg_catalog.lo_put({oid}, {offset}, {})", quote::literal(&piece));
                shadow.query(&sql).await?;
            }
            offset += length;
            if length < u64::from(LARGE_OBJECT_PIECE) {
                break;
            }
        }
        shadow.query("commit").await?;
    }
    Ok(objects.len() as u64)
}
