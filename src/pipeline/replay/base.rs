//! Where a replay begins: the newest base that is whole, or without any the first file. And whether the archive is still
//! the one that the target was filled from.

use std::collections::{BTreeSet, HashSet};

use crate::archive::manifest::{Base, BaseTable};
use crate::change::TableName;
use crate::config::{Pipeline, nearest, written};
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::meter::Meter;
use crate::pipeline::replay::stored::{self, Beginning};
use crate::position::{Lineage, Lsn, Position};
use crate::source::archive::Shelf;
use crate::source::archive::shelf::check_origin;
use crate::status::Phase;
use crate::target::postgres::progress;

/// From what tables can be filled.
pub struct Bases {
    pub newest: Option<Base>,
}

impl Bases {
    pub async fn read(shelf: &Shelf) -> Result<Bases> {
        Ok(Bases { newest: shelf.newest_base().await? })
    }

    pub fn table(&self, name: &TableName) -> Option<(&Base, &BaseTable)> {
        let base = self.newest.as_ref()?;
        Some((base, base.tables.iter().find(|table| table_of(table) == *name)?))
    }
}

pub fn table_of(table: &BaseTable) -> TableName {
    TableName::new(&table.schema, &table.table)
}

/// Where to go on; where to begin, when there is no history yet.
pub async fn find_position(
    target: &mut Session,
    pipeline: &Pipeline,
    shelf: &Shelf,
    bases: &Bases,
    meter: &Meter,
) -> Result<Position> {
    let known = progress::read(target, &pipeline.name).await?;
    let replayed = stored::read(target, &pipeline.name).await?;
    match (known.as_ref().and_then(progress::Stored::at), replayed) {
        (Some(position), Some(replayed)) => {
            go_on(shelf, &position, &replayed).await?;
            // A first start that was cut off has not said yet that it may write over what is there.
            if known.is_some_and(|known| !known.schema_copied && !known.tables_created) {
                refuse_foreign_rows(target, pipeline).await?;
            }
            Ok(position)
        }
        (Some(_), None) => Err(Error::refused(format!(
            "pipeline \"{}\" has filled this target from a database so far, not from an archive",
            pipeline.name
        ))
        .hint("Give this pipeline another name, or start over: pgdiode reset, then pgdiode start.")),
        (None, _) => {
            meter.phase(Phase::Copying, "looking for a base");
            let position = match &bases.newest {
                Some(base) => {
                    // After a reset the tables are ours to replace.
                    if !known.is_some_and(|known| known.tables_created) {
                        refuse_rows_in(target, &tables_from(pipeline, base)?).await?;
                    }
                    from_base(target, pipeline, shelf, base).await?
                }
                None => from_first_file(target, pipeline, shelf).await?,
            };
            Ok(position)
        }
    }
}

/// Whether the archive is the one that the stored position counts in, and still has what was applied.
async fn go_on(shelf: &Shelf, position: &Position, replayed: &stored::Stored) -> Result<()> {
    if shelf.identity.archive != replayed.archive {
        return Err(Error::new(
            Kind::Difference,
            format!(
                "this is archive {}; the target was filled from archive {}",
                shelf.identity.archive, replayed.archive
            ),
        )
        .hint("Point the pipeline at the archive that it has followed. If the other is intended, start over: pgdiode reset, then pgdiode start."));
    }
    let Some(applied) = &replayed.file else { return Ok(()) };
    let started_over =
        "put back what was there, or start over from the newest base: pgdiode reset, then pgdiode start";
    match shelf.manifest(applied.number).await? {
        Some(manifest) if manifest.content_sha256 == applied.content_sha256 => {
            check_origin(&manifest.name, &manifest.lineage, &position.lineage)
        }
        Some(manifest) => Err(Error::new(
            Kind::Difference,
            format!("{} is another file than the one that was applied: the archive was written anew", manifest.name),
        )
        .hint(format!("The target holds what this archive does not: {started_over}."))),
        // Pruned, if what is there begins later.
        None if shelf.sealed(applied.number).await?.is_empty() => Err(Error::new(
            Kind::Difference,
            format!(
                "file {} was applied and is not in the archive any more, nor is any later one: the archive was restored \
                 from an older copy",
                applied.number
            ),
        )
        .hint(format!("The target is ahead of it: {started_over}."))),
        None => Ok(()),
    }
}

async fn from_base(
    target: &mut Session,
    pipeline: &Pipeline,
    shelf: &Shelf,
    base: &Base,
) -> Result<Position> {
    let tables = tables_from(pipeline, base)?;
    if let Some(next) = shelf.manifest(base.next_file).await?
        && next.from > base.at
    {
        return Err(Error::new(
            Kind::Difference,
            format!(
                "{} begins at {}, and base {} shows only what was before {}",
                next.name, next.from, base.number, base.at
            ),
        )
        .hint("Changes between the two are lost to a new reader: take a new base at the writer."));
    }
    let lineage = Lineage::from(base.lineage.clone());
    let beginning = Beginning {
        archive: &base.archive,
        lineage: &lineage,
        position: base.at,
        base: Some(base.number),
        tables: &tables,
    };
    stored::begin(target, pipeline, &beginning).await?;
    tracing::info!(base = base.number, position = %base.at, tables = tables.len(), "begins with a base");
    Ok(Position { lineage, offset: base.at })
}

/// The tables of a base that the configuration wants.
fn tables_from(pipeline: &Pipeline, base: &Base) -> Result<Vec<TableName>> {
    let all: BTreeSet<TableName> = base.tables.iter().map(table_of).collect();
    refuse_unknown(pipeline, &all, &format!("base {}", base.number))?;
    Ok(all.into_iter().filter(|table| pipeline.tables.match_table(table)).collect())
}

/// Without a base the tables must be there, as they were when the archive was begun.
async fn from_first_file(target: &mut Session, pipeline: &Pipeline, shelf: &Shelf) -> Result<Position> {
    let sealed = shelf.sealed(0).await?;
    let Some(first) = sealed.first() else {
        return Err(Error::refused("the archive holds neither a base nor a change file yet")
            .hint("Let the writing pipeline run for a while, then start again."));
    };
    if *first != 1 {
        return Err(Error::new(
            Kind::Difference,
            format!("the archive has no base, and its files begin with {first}"),
        )
        .hint("Nobody can begin there: take a base at the writer."));
    }
    let mut all = BTreeSet::new();
    for number in &sealed {
        let manifest = shelf.manifest_of_listed(*number).await?;
        all.extend(manifest.tables.keys().filter_map(|name| {
            let (schema, table) = name.split_once('.')?;
            Some(TableName::new(schema, table))
        }));
    }
    let mut tables = Vec::new();
    for table in all.iter().filter(|table| pipeline.tables.match_table(table)) {
        if is_there(target, table).await? {
            tables.push(table.clone());
        }
    }
    let exact = pipeline.tables.included.iter().filter_map(crate::config::Pattern::exact);
    for table in exact {
        if !is_there(target, &table).await? {
            return Err(Error::refused(format!(
                "table {} is not at the target, and the archive has no base to make it from",
                written(&table)
            ))
            .hint("Create it here as it was when the archive was begun, with its rows; or take a base at the writer."));
        }
    }
    let manifest = shelf.manifest_of_listed(1).await?;
    let lineage = Lineage::from(manifest.lineage);
    let beginning = Beginning {
        archive: &shelf.identity.archive,
        lineage: &lineage,
        position: manifest.from,
        base: None,
        tables: &tables,
    };
    stored::begin(target, pipeline, &beginning).await?;
    tracing::warn!(
        tables = tables.len(),
        "the archive has no base: changes are applied from its first file on, to the tables as they are at the target"
    );
    Ok(Position { lineage, offset: manifest.from })
}

/// Tables that the configuration names without a wildcard must be there.
fn refuse_unknown(pipeline: &Pipeline, all: &BTreeSet<TableName>, place: &str) -> Result<()> {
    let mut exact = pipeline.tables.included.iter().filter_map(crate::config::Pattern::exact);
    if let Some(table) = exact.find(|table| !all.contains(table)) {
        return Err(unknown(&table, all, place));
    }
    if all.iter().any(|table| pipeline.tables.match_table(table)) {
        return Ok(());
    }
    Err(Error::config(format!("no table of {place} matches {}", pipeline.tables))
        .hint("see what there is with: pgdiode list-tables"))
}

pub fn unknown<'a>(table: &TableName, all: impl IntoIterator<Item = &'a TableName>, place: &str) -> Error {
    let known: Vec<String> = all.into_iter().map(written).collect();
    let name = written(table);
    let error = Error::config(format!("{place} has no table {name}"));
    match nearest(&name, known.iter().map(String::as_str)) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint("see what there is with: pgdiode list-tables"),
    }
}

pub async fn is_there(target: &mut Session, table: &TableName) -> Result<bool> {
    let sql = format!("select pg_catalog.to_regclass({}) is not null", quote::literal(&quote::table(table)));
    Ok(target.one(&sql).await?.bool(0))
}

pub async fn is_partitioned(target: &mut Session, table: &TableName) -> Result<bool> {
    let name = quote::literal(&quote::table(table));
    let sql =
        format!("select relkind = 'p' from pg_catalog.pg_class where oid = {name}::pg_catalog.regclass");
    Ok(target.one(&sql).await?.bool(0))
}

pub async fn has_rows(target: &mut Session, table: &TableName) -> Result<bool> {
    let sql = format!("select exists (select from {})", quote::table(table));
    Ok(target.one(&sql).await?.bool(0))
}

/// A first start that was cut off: what is pending holds no rows of ours.
async fn refuse_foreign_rows(target: &mut Session, pipeline: &Pipeline) -> Result<()> {
    let rows = target
        .query_with(
            "select schema_name, table_name from pgdiode.relation where pipeline = $1 and state = 'pending'",
            &[Some(&pipeline.name)],
        )
        .await?;
    let tables: Vec<TableName> =
        rows.iter().map(|row| TableName::new(row.string(0), row.string(1))).collect();
    refuse_rows_in(target, &tables).await
}

/// Invariant 8: rows that are not pgdiode's own are not written over.
pub async fn refuse_rows_in(target: &mut Session, tables: &[TableName]) -> Result<()> {
    let mut filled = HashSet::new();
    for table in tables {
        if is_there(target, table).await? && has_rows(target, table).await? {
            filled.insert(written(table));
        }
    }
    if filled.is_empty() {
        return Ok(());
    }
    let mut filled: Vec<String> = filled.into_iter().collect();
    filled.sort();
    Err(Error::refused(format!("the target has rows already in {}", filled.join(", "))).hint(
        "They would be replaced by those of the base. Empty these tables, drop them, or leave them out with the key tables.",
    ))
}

/// Whether a position lies behind what a base shows: then its tables must catch up.
pub fn is_behind(base: &Base, position: Lsn) -> bool {
    base.at < position
}
