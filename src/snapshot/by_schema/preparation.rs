//! What must hold before schemas are replaced, beside what holds for any target: everything in them is ours to move,
//! and nothing outside hangs on them.

use super::{NAME_BYTES_MAX, are_empty, are_there, carried, extensions_in, outside, standing};
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::snapshot::generation::{Schemas, Standing, generations};
use crate::snapshot::place::Place;

/// Looks, keeps nothing that it writes, and refuses what must not be replaced.
pub(in crate::snapshot) async fn refuse_unsafe(
    place: &Place<'_>,
    source: &mut Session,
    target: &mut Session,
    adopt: bool,
) -> Result<Standing> {
    super::refuse_large_objects(source).await?;
    let serving = generations(target, &place.database).await?.into_iter().find(|one| one.is_serving);
    let mut serving = serving.filter(|one| !one.schemas.is_empty());
    if let Some(one) = &serving
        && !are_there(target, &one.schemas).await?
    {
        serving = None;
    }
    let ours = serving.as_ref().map(|one| one.schemas.clone()).unwrap_or_default();
    let names = carried(source, &ours).await?;
    refuse_names(&names)?;
    let mut outgoing = standing(target, &names).await?;
    let foreign: Schemas = outgoing
        .iter()
        .filter(|(name, oid)| ours.get(*name) != Some(*oid))
        .map(|(name, oid)| (name.clone(), *oid))
        .collect();
    outgoing.extend(ours);
    refuse_privileges(target, &outgoing).await?;
    refuse_extensions(source, target, &names).await?;
    refuse_outside(target, &outgoing).await?;
    let was_empty = are_empty(target, &foreign).await?;
    if !was_empty && !adopt {
        let foreign: Vec<&str> = foreign.keys().map(String::as_str).collect();
        return Err(Error::refused(format!(
            "the target has schemas of the source's names that are not empty, and no sync has made them: {}",
            foreign.join(", ")
        ))
        .hint(
            "If source and target are not swapped, and they are to be replaced: pgdiode sync --adopt, once. They are \
             then kept as a generation.",
        ));
    }
    Ok(Standing { exists: !outgoing.is_empty(), was_empty, serving, schemas: outgoing })
}

fn refuse_names(names: &[String]) -> Result<()> {
    match names.iter().find(|name| name.len() > NAME_BYTES_MAX) {
        Some(name) => Err(Error::refused(format!("the schema's name \"{name}\" is too long"))
            .hint(format!("Generations are named after it: {NAME_BYTES_MAX} bytes at most."))),
        None => Ok(()),
    }
}

async fn refuse_privileges(target: &mut Session, outgoing: &Schemas) -> Result<()> {
    let row = target
        .one(
            "select pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create'),
                    pg_catalog.quote_ident(pg_catalog.current_database()), pg_catalog.quote_ident(current_user)",
        )
        .await?;
    let (database, user) = (row.string(1), row.string(2));
    if !row.bool(0) {
        return Err(Error::refused("the target's user may not create schemas")
            .hint(format!("As the database's owner there: grant create on database {database} to {user}")));
    }
    let oids = oids(outgoing);
    if oids.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "select 'schema ' || pg_catalog.quote_ident(nspname), pg_catalog.pg_get_userbyid(nspowner)
           from pg_catalog.pg_namespace where oid in ({oids}) and not pg_catalog.pg_has_role(nspowner, 'usage')
         union all
         select case relkind when 'm' then 'materialized view ' else 'table ' end || c.oid::pg_catalog.regclass,
                pg_catalog.pg_get_userbyid(relowner)
           from pg_catalog.pg_class c where relnamespace in ({oids}) and relkind in ('r', 'p', 'm')
                and not pg_catalog.pg_has_role(relowner, 'usage')
                and not exists (select from pg_catalog.pg_depend d
                                 where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid
                                   and d.deptype = 'e')
          order by 1 limit 1"
    );
    let Some(row) = target.query(&sql).await?.into_iter().next() else { return Ok(()) };
    let (what, owner) = (row.string(0), row.string(1));
    let hint = if owner == "pg_database_owner" {
        format!(
            "As the database's owner there: alter {what} owner to {user}; or make {user} the database's owner."
        )
    } else {
        format!("As its owner or a superuser there: alter {what} owner to {user}")
    };
    Err(Error::refused(format!(
        "{what} of the target belongs to {owner}, so that the target's user may not move it"
    ))
    .hint(hint))
}

/// An extension is in a database once: its objects go along with the plain name, and must be able to.
async fn refuse_extensions(source: &mut Session, target: &mut Session, names: &[String]) -> Result<()> {
    let there = extensions_in(target, names).await?;
    for (extension, schema) in &there {
        let name = quote::identifier(extension);
        // The server alone knows whether this user may move this extension.
        let probe = format!(
            "begin; create schema pgdiode_probe; alter extension {name} set schema pgdiode_probe; rollback"
        );
        let Err(error) = target.query(&probe).await else { continue };
        if error.retries() {
            return Err(error);
        }
        target.query("rollback").await?;
        return Err(Error::refused(format!(
            "extension \"{extension}\" is in schema \"{schema}\" of the target, which is replaced, and cannot be moved"
        ))
        .hint(keep_apart(extension))
        .because(error));
    }
    let all = target.query("select extname from pg_catalog.pg_extension").await?;
    let installed: Vec<String> = all.iter().map(|row| row.string(0)).collect();
    for (extension, schema) in extensions_in(source, names).await? {
        if installed.contains(&extension) || will_move(target, &extension).await? {
            continue;
        }
        return Err(Error::refused(format!(
            "extension \"{extension}\" is in schema \"{schema}\" of the source, which is carried, and the target's user \
             could not move it with the next sync"
        ))
        .hint(keep_apart(&extension)));
    }
    Ok(())
}

fn keep_apart(extension: &str) -> String {
    format!(
        "Keep it in a schema that holds nothing else, on both sides, as a superuser: create schema extensions; \
         alter extension {} set schema extensions.",
        quote::identifier(extension)
    )
}

/// Whether what the sync would create can be moved by the next one. What cannot be created is for the copy to say.
async fn will_move(target: &mut Session, extension: &str) -> Result<bool> {
    let name = quote::identifier(extension);
    let create = format!(
        "begin; create schema pgdiode_probe; create schema pgdiode_probe_2;
         create extension {name} schema pgdiode_probe cascade"
    );
    let moved = match target.query(&create).await {
        Ok(_) => {
            target.query(&format!("alter extension {name} set schema pgdiode_probe_2")).await.map(|_| true)
        }
        Err(error) if error.retries() => Err(error),
        Err(_) => Ok(true),
    };
    match moved {
        Err(error) if error.retries() => return Err(error),
        _ => target.query("rollback").await?,
    };
    Ok(moved.is_ok())
}

pub(super) async fn refuse_outside(target: &mut Session, outgoing: &Schemas) -> Result<()> {
    let oids = oids(outgoing);
    if oids.is_empty() {
        return Ok(());
    }
    let found = outside::dependents(target, &oids).await?;
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "outside of the schemas that are replaced, something depends on them, and would stay with the old copy: {}",
        found.join(", ")
    ))
    .hint(
        "Drop it at the target; make it anew after each sync, or in the source, or let a function look names up when \
         it runs.",
    ))
}

fn oids(schemas: &Schemas) -> String {
    schemas.values().map(u32::to_string).collect::<Vec<_>>().join(", ")
}
