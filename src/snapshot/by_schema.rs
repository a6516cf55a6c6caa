//! `method = "schema"`: the target database stays, and the source's schemas in it are replaced.
//!
//! - `NAME`: the schema that serves, by the source's name.
//! - `NAME_shadow_RUN`: being filled by a run; nobody's but that run's.
//! - `NAME_gen_NUMBER`: kept, for a rollback.
//! - `pgdiode`: what the control database is for `method = "database"`.
//!
//! A schema is known by its OID, which no rename changes. Schemas that the source has not are left alone.

mod outside;
mod preparation;
mod swap;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::{Row, Session};
use crate::pipeline::ends::Ends;
use crate::pipeline::shadow_schemas::{LOCK, ShadowSchemas};
use crate::snapshot::generation::{Generation, Schemas, read_schemas, written_schemas};
use crate::snapshot::place::Place;

pub(super) use preparation::refuse_unsafe;
pub(super) use swap::{Recorded, is_intact, roll_back, swap};

/// Leaves room for `_shadow_` and a number within the 63 bytes of a name.
const NAME_BYTES_MAX: usize = 45;

pub(super) fn shadow(plain: &str, run: i64) -> String {
    format!("{plain}_shadow_{run}")
}

pub(super) fn generation(plain: &str, number: i64) -> String {
    format!("{plain}_gen_{number}")
}

/// The source's schemas, but for those that hold nothing but an extension's objects and an empty `public`; that one is
/// replaced all the same where it is `ours`.
async fn carried(source: &mut Session, ours: &Schemas) -> Result<Vec<String>> {
    let sql = "
        select n.nspname from pg_catalog.pg_namespace n
         where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgdiode')
           and not exists (select from pg_catalog.pg_depend d
                            where d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.objid = n.oid
                              and d.deptype = 'e')
           and (n.nspname <> 'public'
                    and not exists (select from pg_catalog.pg_extension e where e.extnamespace = n.oid)
                or exists (select from pg_catalog.pg_depend d
                            where d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.refobjid = n.oid
                              and d.classid not in ('pg_catalog.pg_extension'::pg_catalog.regclass,
                                                    'pg_catalog.pg_default_acl'::pg_catalog.regclass)
                              and not exists (select from pg_catalog.pg_depend m
                                               where m.classid = d.classid and m.objid = d.objid
                                                 and m.deptype = 'e')))
         order by 1";
    let mut names: Vec<String> = source.query(sql).await?.iter().map(|row| row.string(0)).collect();
    if ours.contains_key("public") && !names.iter().any(|name| name == "public") {
        names.push("public".to_owned());
    }
    Ok(names)
}

/// Those of the names that stand for a schema of the target.
async fn standing(target: &mut Session, names: &[String]) -> Result<Schemas> {
    let names = names.iter().map(|name| quote::literal(name)).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        return Ok(Schemas::new());
    }
    let sql = format!("select nspname, oid from pg_catalog.pg_namespace where nspname in ({names})");
    target.query(&sql).await?.iter().map(|row| Ok((row.string(0), row.get(1)?))).collect()
}

/// The extensions whose objects are in one of the schemas: `(extension, schema)`.
async fn extensions_in(session: &mut Session, schemas: &[String]) -> Result<Vec<(String, String)>> {
    let sql = "select e.extname, n.nspname from pg_catalog.pg_extension e
                 join pg_catalog.pg_namespace n on n.oid = e.extnamespace order by e.extname";
    let all = session.query(sql).await?;
    let all = all.iter().map(|row: &Row| (row.string(0), row.string(1)));
    Ok(all.filter(|(_, schema)| schemas.contains(schema)).collect())
}

/// Creates the run's schemas, and notes them in the same transaction: a shadow always has a run that answers for it.
pub(super) async fn create(
    control: &mut Session,
    place: &Place<'_>,
    exported: &mut Session,
    run: i64,
    outgoing: &Schemas,
) -> Result<Ends> {
    refuse_large_objects(exported).await?;
    // As of the moment that pg_dump sees: a schema that it names and this does not would be written where it serves.
    let names = carried(exported, outgoing).await?;
    let serving: Vec<String> = standing(control, &names).await?.into_keys().collect();
    let extensions = extensions_in(control, &names).await?;
    let shadows: BTreeMap<String, String> =
        names.iter().map(|plain| (plain.clone(), shadow(plain, run))).collect();
    let schemas = ShadowSchemas::new(shadows.clone(), &serving, &extensions);
    control.query("begin").await?;
    for (plain, shadow) in &shadows {
        create_schema(control, plain, shadow).await?;
    }
    let wanted: Vec<String> = shadows.values().cloned().collect();
    let made = standing(control, &wanted).await?;
    let oid = |shadow: &String| made.get(shadow).copied().unwrap_or_default();
    let noted: Schemas = shadows.iter().map(|(plain, shadow)| (plain.clone(), oid(shadow))).collect();
    control
        .query(&format!(
            "update pgdiode.run set schemas = {} where id = {run}; commit",
            written_schemas(&noted)?
        ))
        .await?;
    Ok(Ends { schemas: Some(Arc::new(schemas)), target_is_fresh: true, ..place.ends.clone() })
}

/// What `create database` would make of `public` is made of it here; what `pg_dump` says of the others comes with it.
async fn create_schema(control: &mut Session, plain: &str, shadow: &str) -> Result<()> {
    let name = quote::identifier(shadow);
    control.query(&format!("create schema {name}")).await.map_err(|error| match error.sqlstate() {
        Some("42P06") => Error::refused(format!("there is a schema \"{shadow}\" that no sync has made"))
            .hint("Rename or drop it, then sync again."),
        _ => error.context("the shadow schemas cannot be created"),
    })?;
    if plain != "public" {
        return Ok(());
    }
    let privileges = if control.server_major() >= 15 { "usage" } else { "usage, create" };
    control
        .query(&format!(
            "grant {privileges} on schema {name} to public; comment on schema {name} is 'standard public schema'"
        ))
        .await?;
    let owner =
        "select pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(nspowner)) from pg_catalog.pg_namespace
                  where nspname = 'public'";
    let Some(owner) = control.query(owner).await?.first().map(|row| row.string(0)) else { return Ok(()) };
    control.query("savepoint owner").await?;
    match control.query(&format!("alter schema {name} owner to {owner}")).await {
        Err(error) if error.sqlstate() == Some("42501") => {
            control.query("rollback to savepoint owner").await.map(drop)
        }
        done => done.map(drop),
    }
}

/// The size on disk of all that is in the schemas; an SQL expression.
pub(super) fn size_of(oids: &str) -> String {
    format!(
        "(select coalesce(pg_catalog.sum(pg_catalog.pg_total_relation_size(c.oid)), 0)::int8
            from pg_catalog.pg_class c where c.relnamespace in ({oids}) and c.relkind in ('r', 'm', 'S'))"
    )
}

/// A subquery for the OIDs of the shadow's schemas.
pub(super) fn oids_of_shadow(schemas: &ShadowSchemas) -> String {
    let names = schemas.shadows().map(quote::literal).collect::<Vec<_>>().join(", ");
    format!("select oid from pg_catalog.pg_namespace where nspname in ({names})")
}

/// The schemas of a run's shadow that are still there, by OID and name both: what somebody has renamed is theirs.
pub(super) async fn drop_shadow(session: &mut Session, run: i64) -> Result<()> {
    let sql = format!("select schemas from pgdiode.run where id = {run}");
    let schemas = read_schemas(session.one(&sql).await?.text(0))?;
    let named = schemas.iter().map(|(plain, oid)| (shadow(plain, run), *oid)).collect();
    drop_schemas(session, &named).await?;
    session.query(&format!("update pgdiode.run set schemas = null where id = {run}")).await.map(drop)
}

/// Drops schemas that bear these names and OIDs, with all that is in them; refuses to if something outside needs it.
/// Whoever still works in them, a killed run's session say, is ended.
pub(super) async fn drop_schemas(session: &mut Session, named: &Schemas) -> Result<()> {
    let oids = named.values().map(u32::to_string).collect::<Vec<_>>().join(", ");
    if oids.is_empty() {
        return Ok(());
    }
    let sql = format!("select nspname, oid from pg_catalog.pg_namespace where oid in ({oids})");
    let rows = session.query(&sql).await?;
    let mut found = Vec::new();
    for row in &rows {
        if named.get(&row.string(0)) == Some(&row.get(1)?) {
            found.push(quote::identifier(&row.string(0)));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    if let Some(needed) = outside::dependents(session, &oids).await?.first() {
        return Err(Error::refused(format!("{needed} depends on what is in {}", found.join(", ")))
            .hint("Drop it, or make it anew on what serves now."));
    }
    let end = format!(
        "select pg_catalog.pg_terminate_backend(l.pid)
           from (select distinct pid from pg_catalog.pg_locks l
                  where l.pid <> pg_catalog.pg_backend_pid()
                    and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
                    and (l.relation in (select oid from pg_catalog.pg_class where relnamespace in ({oids}))
                         or (l.locktype = 'advisory' and l.objsubid = 1
                             and (l.classid::int8 << 32 | l.objid::int8) = {LOCK}))) l"
    );
    if let Err(error) = session.query(&end).await
        && error.sqlstate() != Some("42501")
    {
        return Err(error);
    }
    session
        .query(&format!(
            "begin; set local lock_timeout = '10s'; drop schema {} cascade; commit",
            found.join(", ")
        ))
        .await
        .map(drop)
}

/// Of generations: the schemas by the names that they have while they are kept.
pub(super) fn kept_names(schemas: &Schemas, number: i64) -> Schemas {
    schemas.iter().map(|(plain, oid)| (generation(plain, number), *oid)).collect()
}

/// Drops a kept generation.
pub(super) async fn drop_generation(session: &mut Session, one: &Generation) -> Result<()> {
    let dropped = drop_schemas(session, &kept_names(&one.schemas, one.number)).await;
    if dropped.is_err() {
        session.query("rollback").await?;
    }
    dropped
}

/// Whether the schemas are there under these names.
pub(super) async fn are_there(session: &mut Session, named: &Schemas) -> Result<bool> {
    let names: Vec<String> = named.keys().cloned().collect();
    Ok(standing(session, &names).await? == *named)
}

/// Whether nobody has made anything in the schemas: extensions and their objects do not count.
pub(super) async fn are_empty(session: &mut Session, schemas: &Schemas) -> Result<bool> {
    let oids = schemas.values().map(u32::to_string).collect::<Vec<_>>().join(", ");
    if oids.is_empty() {
        return Ok(true);
    }
    let sql = format!(
        "select not exists (
             select from pg_catalog.pg_depend d
              where d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.refobjid in ({oids})
                and d.classid not in ('pg_catalog.pg_extension'::pg_catalog.regclass,
                                      'pg_catalog.pg_default_acl'::pg_catalog.regclass)
                and not exists (select from pg_catalog.pg_depend m
                                 where m.classid = d.classid and m.objid = d.objid and m.deptype = 'e'))"
    );
    Ok(session.one(&sql).await?.bool(0))
}

/// What large objects there are cannot be replaced together with schemas.
pub(super) async fn refuse_large_objects(source: &mut Session) -> Result<()> {
    let sql = "select exists (select from pg_catalog.pg_largeobject_metadata)";
    if source.one(sql).await?.bool(0) {
        return Err(Error::refused(
            "the source has large objects, which belong to a database and to no schema",
        )
        .hint("Use snapshot.method = \"database\", which carries them."));
    }
    Ok(())
}

/// Makes room for the copy's own state of this run; what a killed one left goes.
pub(super) async fn forget_copies(session: &mut Session) -> Result<()> {
    session
        .query(&format!(
            "delete from pgdiode.relation where pipeline like '{COPY_NAME}%';
             delete from pgdiode.pipeline where name like '{COPY_NAME}%'"
        ))
        .await
        .map(drop)
}

/// What the copy calls itself in the control tables: no pipeline's name has a space.
pub(super) const COPY_NAME: &str = "sync of ";
