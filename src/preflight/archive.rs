//! An archive as an end of a pipeline: whether it can be reached and read, how far it is, and whether the other end goes
//! with it. Nothing is made on the way.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Purpose, Survey, counted, listed};
use crate::archive::keys::WriterKeys;
use crate::archive::manifest::Identity;
use crate::change::TableName;
use crate::config::{Dialect, Pattern, Pipeline, written};
use crate::error::{Error, Result, Side};
use crate::lock;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::archiving;
use crate::pipeline::ends::{Origin, TargetEnd};
use crate::pipeline::{holder, replay};
use crate::position::{Lineage, Lsn};
use crate::source::archive::Shelf;
use crate::source::archive::foreign::{is_change_file, is_foreign};
use crate::source::postgres::slot;
use crate::status::CheckReport;
use crate::store::{AnyStore, Store};
use crate::target::archive::{Opened, look};
use crate::target::postgres::progress;

/// Everything that can be found wrong with a pipeline into an archive.
pub async fn check_writer(pipeline: &Pipeline) -> Result<CheckReport> {
    let mut survey = Survey::new(pipeline, Purpose::Check);
    let opened = match survey.keys() {
        Some(keys) => {
            let opened = open_for_writing(pipeline, &keys).await;
            survey.kept(opened)
        }
        None => None,
    };
    if let Some((place, opened)) = &opened {
        survey.archive_is(place, opened);
        survey.goes_on = opened.head.is_some();
    }
    survey.spool(&pipeline.archive_spool_dir());
    let holder = lock::holder(&archiving::lock_path(pipeline)?)?;
    if let Some(holder) = holder {
        survey.report.ok(format!(
            "the pipeline runs: process {} on {} since {}",
            holder.pid, holder.host, holder.since
        ));
    }
    survey.origin().await?;
    if let (Some((place, opened)), None) = (opened, survey.report.refusal) {
        let followed = survey.slot_follows(&place, &opened).await;
        survey.kept(followed);
    }
    Ok(survey.report)
}

/// Everything that can be found wrong with a pipeline from an archive.
pub async fn check_reader(pipeline: &Pipeline) -> Result<CheckReport> {
    let mut survey = Survey::new(pipeline, Purpose::Check);
    let found = look_at_source(pipeline).await;
    let found = survey.kept(found);
    match &found {
        Some(Found::Ours { what, .. }) => survey.report.ok(what.clone()),
        Some(Found::Foreign { what }) => survey.report.warn(
            what.clone(),
            "such files are applied from the first on, in the order of their names, to tables that are there",
        ),
        None => {}
    }
    survey.spool(&pipeline.archive_spool_dir());
    let target = TargetEnd::resolve(pipeline)?.session().await;
    if let Some(mut target) = survey.kept(target) {
        let stored = progress::read(&mut target, &pipeline.name).await;
        survey.stored = survey.kept(stored).flatten();
        let examined = survey.target(&mut target, None).await;
        survey.kept(examined);
        let controlled = survey.control_tables(&mut target).await;
        survey.kept(controlled);
        let carried = survey.tables_to_fill(&mut target, found.as_ref()).await;
        survey.kept(carried);
        if let Some(running) = holder::holder(&mut target, &pipeline.name).await? {
            survey.report.ok(format!("the pipeline runs: {}", holder::told(&running)));
        }
    }
    Ok(survey.report)
}

async fn open_for_writing(pipeline: &Pipeline, keys: &WriterKeys) -> Result<(String, Opened)> {
    let store = archiving::open_store(pipeline).await?;
    Ok((store.display(), look(&store, keys).await?))
}

/// What a reader finds at its source.
enum Found {
    Ours { what: String, tables: Option<BTreeSet<TableName>> },
    Foreign { what: String },
}

async fn look_at_source(pipeline: &Pipeline) -> Result<Found> {
    let place = pipeline.source.archive(Side::Source)?;
    let (location, options) = place.ok_or_else(|| Error::unexpected("the source is no archive"))?;
    let store = AnyStore::open(&location, &options).await?;
    let is_foreign = match pipeline.archive.dialect {
        Dialect::Pgdiode => false,
        Dialect::Seed | Dialect::Wal2json => true,
        Dialect::Auto => pipeline.archive.signed_by.is_empty() && is_foreign(&store).await?,
    };
    if is_foreign {
        let files = store.list("", None).await?;
        let files = files.iter().filter(|object| is_change_file(&object.name)).count();
        let what = format!("{} holds {} of another writer's", store.display(), counted(files, "change file"));
        return Ok(Found::Foreign { what });
    }
    let shelf = Shelf::open(&location, &options, pipeline.archive.reader_keys()?).await?;
    let sealed = shelf.sealed(0).await?;
    let base = shelf.newest_base().await?;
    let Some(last) = sealed.last() else {
        let what =
            format!("{}: no change file is sealed yet", archive_named(&store.display(), &shelf.identity));
        return Ok(Found::Ours { what, tables: None });
    };
    let last = shelf.manifest_of_listed(*last).await?;
    let based = match &base {
        Some(base) => format!("base {} as of {}", base.number, base.at),
        None => "no base".to_owned(),
    };
    let what = format!(
        "{}: {} up to {}, {based}",
        archive_named(&store.display(), &shelf.identity),
        counted(sealed.len(), "change file"),
        last.to
    );
    let tables = base
        .map(|base| base.tables.iter().map(|table| TableName::new(&table.schema, &table.table)).collect());
    Ok(Found::Ours { what, tables })
}

fn archive_named(place: &str, identity: &Identity) -> String {
    format!("archive {} at {place}", identity.archive)
}

impl Survey<'_> {
    fn archive_is(&mut self, place: &str, opened: &Opened) {
        let Some(identity) = &opened.identity else {
            self.report.ok(format!("{place} is empty: the first start begins an archive there"));
            return;
        };
        let archive = archive_named(place, identity);
        self.report.ok(match &opened.head {
            Some(head) => format!("{archive}: the last change file is {}, up to {}", head.name, head.to),
            None => format!("{archive}: no change file is sealed yet"),
        });
    }

    /// Files pass through a directory of this host's.
    fn spool(&mut self, spool: &Path) {
        if !spool.is_dir() {
            self.report.refuse(
                format!("there is no directory {}, where change files are written and read", spool.display()),
                "make it, or name another with archive.spool_dir",
            );
        }
    }

    /// Whether what the archive holds is of the slot's history.
    async fn slot_follows(&mut self, place: &str, opened: &Opened) -> Result<()> {
        let origin = Origin::resolve(self.pipeline)?;
        let mut source = origin.session().await?;
        archiving::refuse_unknown_slot(&mut source, opened, place, &self.pipeline.slot).await?;
        let Some(head) = &opened.head else { return Ok(()) };
        let lineage = Lineage::from(head.lineage.clone());
        slot::check_name(&lineage, &self.pipeline.slot)?;
        let mut replication = origin.replication().await?;
        slot::check_lineage(&mut replication, &mut source, &lineage, head.to).await?;
        let reaches: Lsn = slot::log_reaches(&mut source).await?;
        let behind = reaches.since(head.to) >> 20;
        self.report.ok(format!("the archive is {behind} MB of log behind the source"));
        Ok(())
    }

    /// Whether a reader's own tables are there, or can be made.
    async fn control_tables(&mut self, target: &mut Session) -> Result<()> {
        let schema = &self.pipeline.archive.control_schema;
        if replay::missing_control_tables(target, self.pipeline).await?.is_empty() {
            self.report.ok(format!("the control tables are in schema {schema}"));
            return Ok(());
        }
        let sql = format!(
            "select current_user, pg_catalog.has_schema_privilege(oid, 'create') from pg_catalog.pg_namespace where nspname = {}",
            quote::literal(schema)
        );
        let rows = target.query(&sql).await?;
        if let Some(row) = rows.first().filter(|row| !row.bool(1)) {
            self.report.refuse(
                format!("the target's user may not make the control tables in schema {schema}"),
                format!(
                    "grant create on schema {} to {}; or set archive.control_schema",
                    quote::identifier(schema),
                    quote::identifier(&row.string(0))
                ),
            );
        } else {
            self.report.ok(format!("the control tables will be made in schema {schema}"));
        }
        Ok(())
    }

    /// Whether the tables that are asked for are at the target, or come with a base.
    async fn tables_to_fill(&mut self, target: &mut Session, found: Option<&Found>) -> Result<()> {
        let wanted: BTreeSet<TableName> = if self.pipeline.is_whitelisted {
            let listed = replay::whitelisted(target, self.pipeline).await?;
            if listed.is_empty() {
                self.report.warn(
                    "no table is on the list tables_to_sync: a start is refused",
                    "add some: pgdiode add-tables users orders",
                );
            }
            listed
        } else {
            self.pipeline.tables.included.iter().filter_map(Pattern::exact).collect()
        };
        let base = match found {
            Some(Found::Ours { tables: Some(tables), .. }) => Some(tables),
            _ => None,
        };
        if let Some(base) = base {
            let carried = base.iter().filter(|table| self.pipeline.tables.match_table(table)).count();
            if !self.pipeline.is_whitelisted {
                self.report.ok(format!("{} of the base match", counted(carried, "table")));
            }
        }
        let mut missing = Vec::new();
        for table in &wanted {
            let sql =
                format!("select pg_catalog.to_regclass({}) is null", quote::literal(&quote::table(table)));
            let is_in_base = base.is_some_and(|base| base.contains(table));
            if !is_in_base && target.one(&sql).await?.bool(0) {
                missing.push(written(table));
            }
        }
        if !missing.is_empty() && found.is_some() {
            let why = match (found, base) {
                (Some(Found::Foreign { .. }), _) => "files of other writers describe no tables",
                (_, Some(_)) => "the archive's base does not have them",
                _ => "the archive has no base to make them from",
            };
            self.report.refuse(
                format!("not at the target, and {why}: {}", listed(&missing)),
                "make them at the target, or correct the names",
            );
        } else if !wanted.is_empty() {
            self.report.ok(format!("{} asked for by name", counted(wanted.len(), "table")));
        }
        Ok(())
    }
}
