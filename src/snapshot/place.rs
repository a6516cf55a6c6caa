//! Where a snapshot pipeline works: the source, and on the target's server the databases that belong to one target.
//!
//! - `NAME`: the one that serves, by the name that the configuration gives.
//! - `NAME_shadow_RUN`: being filled by a run; nobody's but that run's.
//! - `NAME_gen_NUMBER`: kept, for a rollback.
//! - `NAME_pgdiode`: the control database, which outlives them all.
//!
//! With `method = "schema"` there is the target alone, which is its own control database: see `by_schema`.

use crate::config::{Pipeline, SnapshotMethod};
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::{Session, Side};
use crate::pipeline::ends::Ends;
use crate::target::postgres::progress;

/// Leaves room for `_shadow_` and a number within the 63 bytes of a name.
const NAME_BYTES_MAX: usize = 45;

pub(super) struct Place<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) ends: Ends,
    /// The name of the database that serves.
    pub(super) database: String,
    pub(super) control: String,
}

impl<'a> Place<'a> {
    pub(super) fn resolve(pipeline: &'a Pipeline) -> Result<Place<'a>> {
        let ends = Ends::resolve(pipeline)?;
        let database = ends.target.dbname.clone();
        if pipeline.snapshot.method == SnapshotMethod::Schema {
            if pipeline.snapshot.control_database.is_some() {
                return Err(Error::config(
                    "snapshot.control_database is set, and snapshot.method = \"schema\" has none",
                )
                .hint("leave it out: the target's schema pgdiode takes its place"));
            }
            let control = database.clone();
            return Ok(Place { pipeline, ends, database, control });
        }
        if database.len() > NAME_BYTES_MAX {
            return Err(Error::config(format!("the target's name \"{database}\" is too long"))
                .hint(format!("generations are named after it: {NAME_BYTES_MAX} bytes at most")));
        }
        if ["postgres", "template0", "template1"].contains(&database.as_str()) {
            return Err(Error::config(format!("the database \"{database}\" cannot be a target of a sync"))
                .hint("clients and tools connect to it first; name a database of the replica's own"));
        }
        let named = pipeline.snapshot.control_database.clone();
        let control = named.unwrap_or_else(|| format!("{database}_pgdiode"));
        if control == database {
            return Err(Error::config("the control database is the target itself")
                .hint("a sync replaces its target: leave snapshot.control_database out, or name another"));
        }
        Ok(Place { pipeline, ends, database, control })
    }

    /// Schemas of the target are replaced, and not the target.
    pub(super) fn is_by_schema(&self) -> bool {
        self.pipeline.snapshot.method == SnapshotMethod::Schema
    }

    /// Both ends, with another database as the target.
    pub(super) fn ends_to(&self, database: &str) -> Ends {
        let mut ends = self.ends.clone();
        database.clone_into(&mut ends.target.dbname);
        ends.target_is_fresh = true;
        ends
    }

    /// A session with one of the databases of the target's server.
    pub(super) async fn session(&self, database: &str) -> Result<Session> {
        let options = format!("{} -c default_transaction_read_only=off", progress::TARGET_OPTIONS);
        let ends = self.ends_to(database);
        Session::connect(&ends.target, Side::Target, &[("options", &options)]).await
    }

    /// The same; `None` when there is no such database.
    pub(super) async fn session_if_there(&self, database: &str) -> Result<Option<Session>> {
        match self.session(database).await {
            Ok(session) => Ok(Some(session)),
            Err(error) if error.sqlstate() == Some("3D000") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A session with the server, in whichever database there is.
    pub(super) async fn server(&self) -> Result<Session> {
        for database in [self.control.as_str(), "postgres", "template1"] {
            if let Some(session) = self.session_if_there(database).await? {
                return Ok(session);
            }
        }
        self.session(&self.database).await
    }

    pub(super) fn shadow(&self, run: i64) -> String {
        format!("{}_shadow_{run}", self.database)
    }

    pub(super) fn generation(&self, number: i64) -> String {
        format!("{}_gen_{number}", self.database)
    }
}

/// The OID of the database of that name.
pub(super) async fn oid_of(session: &mut Session, database: &str) -> Result<Option<u32>> {
    let sql = format!("select oid from pg_catalog.pg_database where datname = {}", quote::literal(database));
    session.query(&sql).await?.first().map(|row| row.get(0)).transpose()
}

/// Ends whoever is in the database, and drops it.
pub(super) async fn drop_database(session: &mut Session, database: &str) -> Result<()> {
    let name = quote::identifier(database);
    if session.server_major() >= 13 {
        return session.query(&format!("drop database if exists {name} with (force)")).await.map(drop);
    }
    let ended = format!(
        "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity where datname = {}",
        quote::literal(database)
    );
    session.query(&ended).await?;
    session.query(&format!("drop database if exists {name}")).await.map(drop)
}

/// Whether nobody has made anything in the session's database: extensions and their objects do not count.
pub(super) async fn is_empty(session: &mut Session) -> Result<bool> {
    let sql = "
        with system as (
            select oid from pg_catalog.pg_namespace
             where nspname in ('pg_catalog', 'information_schema') or nspname ~ '^pg_(toast|temp)'),
        own as (
            select 'pg_catalog.pg_class'::regclass as class, oid from pg_catalog.pg_class
             where relnamespace not in (select oid from system)
            union all
            select 'pg_catalog.pg_proc'::regclass, oid from pg_catalog.pg_proc
             where pronamespace not in (select oid from system)
            union all
            select 'pg_catalog.pg_type'::regclass, oid from pg_catalog.pg_type
             where typnamespace not in (select oid from system))
        select not exists (
            select from own where not exists (
                select from pg_catalog.pg_depend d
                 where d.classid = own.class and d.objid = own.oid and d.deptype = 'e'))
           and not exists (select from pg_catalog.pg_largeobject_metadata)";
    Ok(session.one(sql).await?.bool(0))
}

/// What a run that was refused, or whose guard failed, is called.
pub(super) fn not_promoted(what: impl Into<String>) -> Error {
    Error::new(Kind::Difference, what)
}
