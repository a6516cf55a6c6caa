//! The publication: whether it exists, can be made, and publishes what it should.

use super::{Purpose, Survey, counted, listed};
use crate::change::TableName;
use crate::config::written;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::selection::Selection;
use crate::source::postgres::catalog;

impl Survey<'_> {
    pub(super) async fn publication(&mut self, session: &mut Session, selection: &Selection) -> Result<()> {
        match catalog::published(session, &self.pipeline.publication).await? {
            Some(published) => {
                self.published_tables(selection, &published);
                self.published_changes(session).await?;
                self.published_parts(session).await
            }
            None => self.publication_missing(session, selection).await,
        }
    }

    async fn publication_missing(&mut self, session: &mut Session, selection: &Selection) -> Result<()> {
        let what = format!("publication \"{}\" does not exist at the source", self.pipeline.publication);
        match self.purpose {
            Purpose::Start => self.report.refuse(what, "create it with: pgdiode setup"),
            Purpose::Check => self.report.warn(what, "create it with: pgdiode setup"),
            Purpose::Setup => {}
        }
        if self.purpose == Purpose::Start {
            return Ok(());
        }
        if let Some(trouble) = may_create(session, &selection.named).await? {
            let hint =
                "have its owner or a superuser run what `pgdiode setup --print-sql` prints for the source";
            if self.purpose == Purpose::Setup {
                self.report.refuse(trouble, hint);
            } else {
                self.report.warn(trouble, hint);
            }
        }
        Ok(())
    }

    fn published_tables(&mut self, selection: &Selection, published: &[TableName]) {
        let name = &self.pipeline.publication;
        let missing: Vec<String> = selection
            .carried
            .iter()
            .filter(|table| !selection.is_carried_by(table, published))
            .map(written)
            .collect();
        let further: Vec<String> = published
            .iter()
            .filter(|table| !selection.carried.contains(table) && !selection.named.contains(table))
            .map(written)
            .collect();
        let what = format!("publication \"{name}\" carries {}", counted(published.len(), "table"));
        if !missing.is_empty() && self.purpose != Purpose::Setup {
            self.report.warn(
                format!("{what}, and lacks {} that the patterns match: {}", missing.len(), listed(&missing)),
                "add them with: pgdiode setup",
            );
        } else {
            self.report.ok(what);
        }
        if !further.is_empty() {
            self.report.warn(
                format!(
                    "publication \"{name}\" carries tables that the patterns leave out: {}",
                    listed(&further)
                ),
                format!("take them out with: pgdiode remove-tables '{}'", further.join("' '")),
            );
        }
    }

    /// Whether every kind of change is published, of an explicit list of tables.
    async fn published_changes(&mut self, session: &mut Session) -> Result<()> {
        let name = &self.pipeline.publication;
        let row = session
            .one(&format!(
                "select puballtables, pubinsert and pubupdate and pubdelete and pubtruncate \
                   from pg_catalog.pg_publication where pubname = {}",
                quote::literal(name)
            ))
            .await?;
        if row.bool(0) {
            self.report.warn(
                format!(
                    "publication \"{name}\" is for all tables: UPDATE and DELETE fail on each table without replica \
                     identity, temporary ones made at run time included"
                ),
                format!("drop publication {}, then: pgdiode setup", quote::identifier(name)),
            );
        }
        if !row.bool(1) && self.purpose != Purpose::Setup {
            self.report.refuse(
                format!("publication \"{name}\" leaves out some kinds of change: the target would differ"),
                format!(
                    "alter publication {} set (publish = 'insert, update, delete, truncate')",
                    quote::identifier(name)
                ),
            );
        }
        Ok(())
    }

    /// Row filters and column lists: the target then is a part of the source, on purpose or not.
    async fn published_parts(&mut self, session: &mut Session) -> Result<()> {
        if session.server_major() < 15 {
            return Ok(());
        }
        let name = &self.pipeline.publication;
        let rows = session
            .query(&format!(
                "select n.nspname, c.relname
                   from pg_catalog.pg_publication p
                   join pg_catalog.pg_publication_rel r on r.prpubid = p.oid
                   join pg_catalog.pg_class c on c.oid = r.prrelid
                   join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                  where p.pubname = {} and (r.prqual is not null or r.prattrs is not null)
                  order by 1, 2",
                quote::literal(name)
            ))
            .await?;
        let tables: Vec<String> =
            rows.iter().map(|row| written(&TableName::new(row.string(0), row.string(1)))).collect();
        if !tables.is_empty() {
            self.report.warn(
                format!("publication \"{name}\" filters rows or columns of {}", listed(&tables)),
                "the initial copy takes whole tables, the changes only what passes; publish them without where and \
                 column list unless that is meant",
            );
        }
        Ok(())
    }
}

/// Why this user may not publish the tables.
async fn may_create(session: &mut Session, tables: &[TableName]) -> Result<Option<String>> {
    let row = session
        .one(
            "select pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create'), current_user, \
                    (select rolsuper from pg_catalog.pg_roles where rolname = current_user)",
        )
        .await?;
    if !row.bool(0) {
        return Ok(Some(format!(
            "the source's user {} may not create a publication: it lacks the database's CREATE privilege",
            row.string(1)
        )));
    }
    if row.bool(2) {
        return Ok(None);
    }
    let rows = session
        .query(
            "select n.nspname, c.relname
               from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
              where c.relkind in ('r', 'p') and not pg_catalog.pg_has_role(c.relowner, 'usage')",
        )
        .await?;
    let foreign: Vec<String> = rows
        .iter()
        .map(|row| TableName::new(row.string(0), row.string(1)))
        .filter(|table| tables.contains(table))
        .map(|table| written(&table))
        .collect();
    Ok((!foreign.is_empty()).then(|| {
        format!(
            "the source's user {} does not own {} and so may not publish them: {}",
            row.string(1),
            counted(foreign.len(), "table"),
            listed(&foreign)
        )
    }))
}
