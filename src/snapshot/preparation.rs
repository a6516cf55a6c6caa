//! What must hold before a sync writes anything: the target is not the source, and what would be replaced is nobody's
//! work. Swapped credentials end here.

use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::dump;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::snapshot::generation::{Standing, generations};
use crate::snapshot::grants::Grants;
use crate::snapshot::place::{Place, is_empty, oid_of};
use crate::snapshot::{by_schema, preserve, redaction};
use crate::status::CheckReport;

async fn identity(session: &mut Session) -> Result<String> {
    let sql = "select system_identifier from pg_catalog.pg_control_system()";
    Ok(session.one(sql).await?.string(0))
}

/// A session with the target's server; with the target itself, where that must be there already.
async fn server(place: &Place<'_>) -> Result<Session> {
    if !place.is_by_schema() {
        return place.server().await;
    }
    place.session_if_there(&place.database).await?.ok_or_else(|| {
        Error::refused(format!("there is no database \"{}\" at the target", place.database))
            .hint("Create it: with snapshot.method = \"schema\" a sync makes no databases.")
    })
}

/// Looks, writes nothing, and refuses what must not be replaced.
pub(super) async fn refuse_unsafe(place: &Place<'_>, adopt: bool) -> Result<Standing> {
    Grants::read(place.pipeline)?;
    let (mut source, mut server) = tokio::try_join!(place.ends.source(), server(place))?;
    let database = source.one("select pg_catalog.current_database()").await?.string(0);
    let is_same_server = identity(&mut source).await? == identity(&mut server).await?;
    if is_same_server && [&place.database, &place.control].contains(&&database) {
        return Err(Error::refused(format!("the target \"{database}\" is the source itself"))
            .hint("A sync replaces its target: name another database, or another server."));
    }
    if server.one("select pg_catalog.pg_is_in_recovery()").await?.bool(0) {
        return Err(Error::refused("the target's server is a standby, which cannot be written")
            .hint("Name its primary as the target."));
    }
    if place.is_by_schema() {
        if !place.pipeline.preserve.is_empty() {
            return Err(Error::refused("snapshot.method = \"schema\" preserves no tables and no rows").hint(
                "Schemas that the source does not have stay as they are: keep there what belongs to the replica.",
            ));
        }
        return by_schema::refuse_unsafe(place, &mut source, &mut server, adopt).await;
    }
    let may_create =
        "select rolsuper or rolcreatedb, rolname from pg_catalog.pg_roles where rolname = current_user";
    let row = server.one(may_create).await?;
    if !row.bool(0) {
        let role = quote::identifier(&row.string(1));
        return Err(Error::refused("the target's user may not create databases")
            .hint(format!("As a superuser there: alter role {role} createdb")));
    }
    redaction::resolve(&mut source, &place.pipeline.redaction).await?;
    preserve::refuse_impossible(&mut source, place.pipeline).await?;
    stands(place, &mut server, adopt).await
}

async fn stands(place: &Place<'_>, server: &mut Session, adopt: bool) -> Result<Standing> {
    let oid = oid_of(server, &place.database).await?;
    let generations = match place.session_if_there(&place.control).await? {
        Some(mut control) => generations(&mut control, &place.database).await?,
        None => Vec::new(),
    };
    let serving = generations.into_iter().find(|one| one.is_serving && Some(one.oid) == oid);
    let Some(_) = oid else { return Ok(Standing::default()) };
    let owner = format!(
        "select pg_catalog.pg_has_role(datdba, 'usage'), pg_catalog.pg_get_userbyid(datdba)
           from pg_catalog.pg_database where datname = {}",
        quote::literal(&place.database)
    );
    let row = server.one(&owner).await?;
    if !row.bool(0) {
        return Err(Error::refused(format!(
            "database \"{}\" belongs to {}, so that the target's user may not rename it",
            place.database,
            row.string(1)
        ))
        .hint("Make the target's user its owner, or a member of the owner."));
    }
    if serving.is_some() {
        return Ok(Standing { exists: true, serving, ..Standing::default() });
    }
    let was_empty = is_empty(&mut place.session(&place.database).await?).await?;
    if !was_empty && !adopt {
        return Err(Error::refused(format!(
            "database \"{}\" of the target is not empty, and no sync has made it",
            place.database
        ))
        .hint(
            "If source and target are not swapped, and it is to be replaced: pgdiode sync --adopt, once. It is then \
             kept as a generation.",
        ));
    }
    Ok(Standing { exists: true, was_empty, ..Standing::default() })
}

/// Everything that can be found wrong before a sync.
pub async fn check(pipeline: &Pipeline) -> Result<CheckReport> {
    let place = Place::resolve(pipeline)?;
    let mut report = CheckReport::default();
    match place.ends.source().await {
        Err(error) => report.fail(&error),
        Ok(source) => {
            report.ok(format!("source {}: PostgreSQL {}", source.place(), source.server_major()));
            match dump::find_pg_dump(pipeline.pg_dump.as_deref(), source.server_major()).await {
                Ok(path) => report.ok(format!("pg_dump: {}", path.display())),
                Err(error) => report.fail(&error),
            }
        }
    }
    match server(&place).await {
        Err(error) if error.kind() == Kind::Refused => {
            report.refuse(error.what(), error.hint_text().unwrap_or_default());
        }
        Err(error) => report.fail(&error),
        Ok(server) => report.ok(format!("target {}: PostgreSQL {}", server.place(), server.server_major())),
    }
    if report.refusal.is_some() {
        return Ok(report);
    }
    match redaction::resolve(&mut place.ends.source().await?, &pipeline.redaction).await {
        Ok(_) if pipeline.redaction.is_empty() => {}
        Ok(redacted) => report.ok(redacted.summary()),
        Err(error) => {
            report.fail(&error);
            return Ok(report);
        }
    }
    check_readable(&place, &mut report).await?;
    crate::snapshot::capacity::check(&place, &mut report).await?;
    match refuse_unsafe(&place, false).await {
        Ok(Standing { serving: Some(serving), .. }) => {
            report.ok(format!("database \"{}\" is generation {}", place.database, serving.number));
        }
        Ok(_) if place.is_by_schema() => {
            report.ok(format!("database \"{}\" is ready for a first sync", place.database));
        }
        Ok(Standing { exists: true, .. }) => report.ok(format!("database \"{}\" is empty", place.database)),
        Ok(_) => report.ok(format!("database \"{}\" will be created", place.database)),
        Err(error) if error.kind() == Kind::Refused => {
            report.refuse(error.what(), error.hint_text().unwrap_or_default());
        }
        Err(error) => report.fail(&error),
    }
    Ok(report)
}

/// Whether every table that is carried may be read.
async fn check_readable(place: &Place<'_>, report: &mut CheckReport) -> Result<()> {
    let exported = crate::snapshot::shadow::export(place).await?;
    let mut source = exported.session;
    let mut unreadable = Vec::new();
    for table in &exported.tables {
        let sql = format!("select pg_catalog.has_table_privilege({}, 'select')", table.oid);
        if !source.one(&sql).await?.bool(0) {
            unreadable.push(table.table.to_string());
        }
    }
    if unreadable.is_empty() {
        report.ok(format!("{} tables are carried", exported.tables.len()));
    } else {
        report.refuse(
            format!("the source's user may not read {}", unreadable.join(", ")),
            format!(
                "At the source: grant pg_read_all_data to {}",
                quote::identifier(&place.ends.source.user)
            ),
        );
    }
    Ok(())
}
