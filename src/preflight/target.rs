//! The target: that it is not the source, holds nothing of anybody else's, and lets this user write.

use std::collections::HashSet;

use super::server::MAJOR_MIN;
use super::{Identity, Source, Survey, counted, listed};
use crate::change::TableName;
use crate::config::written;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;

const PRIVILEGES: &str = "
    select current_user, pg_catalog.pg_is_in_recovery(),
           pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create'),
           pg_catalog.has_database_privilege(pg_catalog.current_database(), 'temp'),
           pg_catalog.current_setting('max_connections')::int
           - pg_catalog.current_setting('superuser_reserved_connections')::int
           - (select pg_catalog.count(*) from pg_catalog.pg_stat_activity where backend_type = 'client backend'),
           pg_catalog.current_setting('synchronous_standby_names'),
           pg_catalog.current_setting('synchronous_commit'),
           pg_catalog.current_database()";

/// Tables that exist, which of the five privileges this user lacks there, and whether they have any pages.
const TABLES: &str = "
    select n.nspname, c.relname, c.relkind in ('r', 'p'),
           pg_catalog.has_table_privilege(c.oid, 'insert') and pg_catalog.has_table_privilege(c.oid, 'update')
           and pg_catalog.has_table_privilege(c.oid, 'delete') and pg_catalog.has_table_privilege(c.oid, 'truncate')
           and pg_catalog.has_table_privilege(c.oid, 'select'),
           c.relkind = 'r' and pg_catalog.pg_relation_size(c.oid) > 0
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'v', 'm', 'f')
       and n.nspname not in ('pg_catalog', 'information_schema', 'pgdiode') and n.nspname !~ '^pg_toast'
     order by 1, 2";

/// Triggers and rules that fire on replicated rows as well (`session_replication_role = replica`), each with the
/// statement that makes it fire on the target's own rows alone. Internal triggers are foreign keys'.
const FIRING: &str = "
    select n.nspname, c.relname, 'trigger ' || t.tgname, 'enable trigger ' || pg_catalog.quote_ident(t.tgname)
      from pg_catalog.pg_trigger t
      join pg_catalog.pg_class c on c.oid = t.tgrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where t.tgenabled in ('A', 'R') and not t.tgisinternal
    union all
    select n.nspname, c.relname, 'rule ' || r.rulename, 'enable rule ' || pg_catalog.quote_ident(r.rulename)
      from pg_catalog.pg_rewrite r
      join pg_catalog.pg_class c on c.oid = r.ev_class join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where r.ev_enabled in ('A', 'R') and r.ev_type <> '1' and c.relkind in ('r', 'p')
     order by 1, 2, 3";

/// Schemas that this user may not create tables and indexes in.
const CLOSED_SCHEMAS: &str = "
    select n.nspname, current_user from pg_catalog.pg_namespace n
     where not pg_catalog.has_schema_privilege(n.oid, 'create')
        or not pg_catalog.has_schema_privilege(n.oid, 'usage')
     order by 1";

/// Tables with rows that are looked for before the list is taken as long enough.
const OCCUPIED_MAX: usize = 9;

impl Survey<'_> {
    pub(super) async fn target(&mut self, session: &mut Session, source: Option<&Source>) -> Result<()> {
        self.target_version(session);
        if let Some(source) = source {
            let identity = Identity::read(session).await?;
            if identity == source.identity {
                self.report.refuse(
                    format!(
                        "the target is the source: database \"{}\" of the same cluster",
                        identity.database
                    ),
                    "name another database as the target; nothing was written",
                );
                return Ok(());
            }
        }
        self.target_privileges(session).await?;
        self.row_settings(session).await?;
        if self.is_subscription() {
            self.subscriber(session).await?;
        }
        match source {
            Some(source) => self.occupied(session, source).await,
            None => Ok(()),
        }
    }

    pub(super) fn target_version(&mut self, session: &Session) {
        let version = session.parameter("server_version").unwrap_or("of unknown version").to_owned();
        let what = format!("target {} is PostgreSQL {version}", session.place());
        if session.server_major() < MAJOR_MIN {
            self.report.refuse(
                format!("{what}, too old"),
                format!("pgdiode writes PostgreSQL {MAJOR_MIN} and newer; upgrade the target"),
            );
        } else {
            self.report.ok(what);
        }
    }

    pub(super) async fn target_privileges(&mut self, session: &mut Session) -> Result<()> {
        let row = session.one(PRIVILEGES).await?;
        let (user, database) = (quote::identifier(&row.string(0)), quote::identifier(&row.string(7)));
        if row.bool(1) {
            self.report.refuse(
                "the target is a standby and takes no writes",
                "point the pipeline at its primary: target_session_attrs=read-write finds it among several hosts",
            );
        }
        let control_schema =
            session.one("select pg_catalog.to_regnamespace('pgdiode') is not null").await?.bool(0);
        for (has, privilege) in
            [(row.bool(2) || (control_schema && self.is_under_way()), "create"), (row.bool(3), "temporary")]
        {
            if !has {
                self.report.refuse(
                    format!(
                        "the target's user lacks the {} privilege on the database",
                        privilege.to_uppercase()
                    ),
                    format!("grant {privilege} on database {database} to {user}"),
                );
            }
        }
        let (free, jobs) = (row.get::<i64>(4)?.max(0).unsigned_abs(), self.pipeline.copy.jobs() as u64);
        // Beside the copying sessions: the one that applies, and the one that stores the status.
        if free < jobs + 2 {
            self.report.warn(
                format!("the target has {free} connections left, the initial copy wants {}", jobs + 2),
                "raise max_connections at the target, or lower copy.jobs",
            );
        }
        if !row.string(5).is_empty() && row.string(6) != "off" && row.string(6) != "local" {
            self.report.warn(
                format!("each commit at the target waits for its standbys ({})", row.string(5)),
                "expect their round trip in each batch's latency; a standby that is away stops the pipeline",
            );
        }
        Ok(())
    }

    /// Whether triggers and foreign keys can be kept from firing a second time.
    async fn row_settings(&mut self, session: &mut Session) -> Result<()> {
        if self.is_subscription() {
            return Ok(());
        }
        session.query("begin").await?;
        let tried = session.query("set local session_replication_role = replica").await;
        session.query("rollback").await?;
        match tried {
            Ok(_) => Ok(()),
            Err(error) if error.sqlstate() == Some("42501") => {
                let user = quote::identifier(&session.one("select current_user").await?.string(0));
                let remedy = if session.server_major() >= 15 {
                    format!("grant set on parameter session_replication_role to {user}")
                } else {
                    format!("alter role {user} superuser (from PostgreSQL 15 on a grant does)")
                };
                self.report.refuse(
                    "the target's user may not switch triggers off for its own session",
                    format!("as a superuser of the target: {remedy}"),
                );
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// What native replication wants of the target.
    async fn subscriber(&mut self, session: &mut Session) -> Result<()> {
        let may = if session.server_major() >= 16 {
            "rolsuper or pg_catalog.pg_has_role('pg_create_subscription', 'member')"
        } else {
            "rolsuper"
        };
        let row = session
            .one(&format!(
                "select {may}, current_user, pg_catalog.current_setting('max_logical_replication_workers')::int
                   from pg_catalog.pg_roles where rolname = current_user"
            ))
            .await?;
        if !row.bool(0) {
            let user = quote::identifier(&row.string(1));
            let remedy = if session.server_major() >= 16 {
                format!("grant pg_create_subscription to {user}")
            } else {
                format!("alter role {user} superuser")
            };
            self.report.refuse(
                "the target's user may not create a subscription",
                format!("as a superuser: {remedy}"),
            );
        }
        if row.get::<i32>(2)? < 2 {
            self.report.refuse(
                "the target has no workers for a subscription",
                "as a superuser: alter system set max_logical_replication_workers = 4; then restart the server",
            );
        }
        Ok(())
    }

    /// Refuses to write into what somebody else filled. A database becomes pgdiode's by the schema `pgdiode` in it.
    async fn occupied(&mut self, session: &mut Session, source: &Source) -> Result<()> {
        let wanted: HashSet<&TableName> = source.selection.carried.iter().collect();
        let control_schema =
            session.one("select pg_catalog.to_regnamespace('pgdiode') is not null").await?.bool(0);
        let (mut not_tables, mut unwritable, mut occupied) = (Vec::new(), Vec::new(), Vec::new());
        for row in session.query(TABLES).await? {
            let table = TableName::new(row.string(0), row.string(1));
            if !wanted.contains(&table) {
                continue;
            }
            if !row.bool(2) {
                not_tables.push(written(&table));
            } else if !row.bool(3) {
                unwritable.push(table.clone());
            }
            if row.bool(4)
                && !control_schema
                && occupied.len() < OCCUPIED_MAX
                && has_rows(session, &table).await?
            {
                occupied.push(written(&table));
            }
        }
        if !occupied.is_empty() {
            self.report.refuse(
                format!("the target holds rows that pgdiode did not write, in {}", listed(&occupied)),
                "name an empty database; or, if these tables may be replaced by the source's, say so there: create \
                 schema pgdiode",
            );
        }
        if !not_tables.is_empty() {
            self.report.refuse(
                format!("at the target these are no ordinary tables: {}", listed(&not_tables)),
                "drop or rename them there, or leave the tables out",
            );
        }
        if !unwritable.is_empty() {
            let names: Vec<String> = unwritable.iter().map(written).collect();
            let quoted: Vec<String> = unwritable.iter().map(quote::table).collect();
            let user = quote::identifier(&session.one("select current_user").await?.string(0));
            self.refuse_at_first(
                format!(
                    "the target's user may not write {}: {}",
                    counted(names.len(), "table"),
                    listed(&names)
                ),
                format!("grant select, insert, update, delete, truncate on {} to {user}", quoted.join(", ")),
            );
        }
        self.closed_schemas(session, &wanted).await?;
        self.firing(session, &wanted).await?;
        self.shared(session, &wanted).await
    }

    /// Schemas that the copy is to create tables and indexes in, and may not: `public` from PostgreSQL 15 on, for one.
    async fn closed_schemas(&mut self, session: &mut Session, wanted: &HashSet<&TableName>) -> Result<()> {
        if self.stored.as_ref().is_some_and(|stored| stored.schema_copied) {
            return Ok(());
        }
        let rows = session.query(CLOSED_SCHEMAS).await?;
        let is_wanted = |schema: &str| wanted.iter().any(|table| table.schema == schema);
        let closed: Vec<String> =
            rows.iter().map(|row| row.string(0)).filter(|schema| is_wanted(schema)).collect();
        if let (false, Some(row)) = (closed.is_empty(), rows.first()) {
            let quoted: Vec<String> = closed.iter().map(|schema| quote::identifier(schema)).collect();
            self.report.refuse(
                format!("the target's user may not create tables in {}", listed(&closed)),
                format!(
                    "grant usage, create on schema {} to {}",
                    quoted.join(", "),
                    quote::identifier(&row.string(1))
                ),
            );
        }
        Ok(())
    }

    /// What they did at the source is in the stream already.
    async fn firing(&mut self, session: &mut Session, wanted: &HashSet<&TableName>) -> Result<()> {
        let (mut firing, mut remedies) = (Vec::new(), Vec::new());
        for row in session.query(FIRING).await? {
            let table = TableName::new(row.string(0), row.string(1));
            if wanted.contains(&table) {
                firing.push(format!("{} on {}", row.string(2), written(&table)));
                remedies.push(format!("alter table {} {}", quote::table(&table), row.string(3)));
            }
        }
        if !firing.is_empty() {
            self.report.warn(
                format!("replicated rows fire triggers or rules at the target: {}", listed(&firing)),
                format!(
                    "what these do comes on top of what the source sends; unless that is meant, have them fire on the \
                     target's own writes alone: {}",
                    remedies.join("; ")
                ),
            );
        }
        Ok(())
    }

    /// Tables that another pipeline writes.
    async fn shared(&mut self, session: &mut Session, wanted: &HashSet<&TableName>) -> Result<()> {
        if session.one("select pg_catalog.to_regclass('pgdiode.relation') is null").await?.bool(0) {
            return Ok(());
        }
        let rows = session
            .query_with(
                "select schema_name, table_name, pipeline from pgdiode.relation where pipeline <> $1 order by 3, 1, 2",
                &[Some(&self.pipeline.name)],
            )
            .await?;
        let shared: Vec<String> = rows
            .iter()
            .map(|row| (TableName::new(row.string(0), row.string(1)), row.string(2)))
            .filter(|(table, _)| wanted.contains(table))
            .map(|(table, other)| format!("{} (pipeline {other})", written(&table)))
            .collect();
        if !shared.is_empty() {
            self.report.refuse(
                format!("other pipelines write the same tables: {}", listed(&shared)),
                "leave them out of one of the pipelines, or give each pipeline a database of its own",
            );
        }
        Ok(())
    }
}

/// Whether the table holds rows; one that may not be read is taken to.
async fn has_rows(session: &mut Session, table: &TableName) -> Result<bool> {
    let sql = format!("select exists (select from only {})", quote::table(table));
    match session.one(&sql).await {
        Ok(row) => Ok(row.bool(0)),
        Err(error) if error.retries() => Err(error),
        Err(_) => Ok(true),
    }
}
