//! Compares both sides of a pipeline, table by table, at one and the same position.
//!
//! [`agree`] gets a snapshot of each side that shows exactly the transactions committed before one position;
//! [`compare`] has both servers count and digest the rows of each table under these snapshots and, where they differ,
//! narrows that down to rows. The pipeline goes on meanwhile, and no row crosses the network.
//!
//! ```text
//! source:  temporary slot -> position L, snapshot -+
//!                                                  +-> digests by `jobs` sessions a side -> equal, or which rows
//! target:  pipeline held at L -> snapshot ---------+
//! ```
//!
//! Values are compared as their types write them, under the same settings: `1.0` is not `1.00`, `-0` is not `0`, white
//! space in json counts, and a key that differs in its spelling alone (citext) is one row missing and one extra. A type
//! whose text depends on the server's version (an extension's, say) would differ between versions with every row.

mod agree;
mod compare;
mod differences;
mod digest;
mod pair;
mod shape;

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;

use crate::change::TableName;
use crate::config::{self, Pipeline};
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::plan::{Plan, Rule};
use crate::position::Lsn;
use crate::status::{Progress, VerifyReport};
use crate::target::postgres::progress::{self, RelationState, Stored};

pub use agree::{Agreed, Snapshot, agree};
pub use compare::compare;

/// A table and what of it the publication carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableToVerify {
    pub name: TableName,
    /// The columns that the publication names; `None`: all.
    pub columns: Option<Vec<String>>,
    /// The publication's row filter, SQL for the source.
    pub filter: Option<String>,
    /// SQL over the source's row that the target's column must equal, by column.
    pub masks: BTreeMap<String, String>,
    /// Why it cannot be the same on both sides, so that its rows are not looked at.
    pub obstacle: Option<String>,
}

impl TableToVerify {
    /// The whole table.
    pub fn new(name: TableName) -> TableToVerify {
        TableToVerify { name, columns: None, filter: None, masks: BTreeMap::new(), obstacle: None }
    }
}

/// Compares `tables`, or with none named all that the pipeline carries.
///
/// `catch_up` runs the pipeline in this process until the target shows exactly the transactions before the given
/// position; it is called only while no other process runs the pipeline.
pub async fn verify(
    pipeline: &Pipeline,
    tables: &[TableName],
    progress: &watch::Sender<Progress>,
    catch_up: impl AsyncFnOnce(Lsn) -> Result<()>,
) -> Result<VerifyReport> {
    let ends = Ends::resolve(pipeline)?;
    let mut target = ends.target().await?;
    let stored = progress::read(&mut target, &pipeline.name).await?;
    let stored = stored.filter(|stored| stored.schema_copied).ok_or_else(|| never_copied(&pipeline.name))?;
    check_consistent(&pipeline.name, &stored)?;
    let reasons = quarantine_reasons(&mut target, &pipeline.name).await?;
    let mut source = ends.source().await?;
    let carried = carried(&mut source, pipeline, &stored, &reasons).await?;
    let chosen = choose(carried, tables)?;
    drop(source);
    let agreed = agree(&ends, &pipeline.name, target, catch_up).await?;
    let (source, target) = (&agreed.source.id, &agreed.target.id);
    let report = compare(&ends, source, target, agreed.at, &chosen, pipeline.copy.jobs(), progress).await?;
    agreed.end().await?;
    Ok(report)
}

fn never_copied(pipeline: &str) -> Error {
    Error::refused(format!(
        "pipeline \"{pipeline}\" has never finished its copy: there is nothing to compare"
    ))
    .hint("Start it and wait until `pgdiode status` says streaming: pgdiode start.")
}

/// Before the position of the latest copy, the target shows tables of different moments.
fn check_consistent(pipeline: &str, stored: &Stored) -> Result<()> {
    let position = stored.position.ok_or_else(|| never_copied(pipeline))?;
    let copied = stored.relations.iter().filter_map(|relation| {
        Some((relation.table.clone(), Rule::Copied { at: relation.copied_at?, relation: None }))
    });
    let consistent_from = Plan::new(copied, Box::new(|_| false)).consistent_from();
    if consistent_from == Lsn::ZERO && !stored.relations.is_empty() {
        return Err(never_copied(pipeline));
    }
    if position >= consistent_from {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the target stands at {position}; its tables are of one moment only from {consistent_from} on"
    ))
    .hint("The copy is done and what was committed meanwhile is being applied. Try again when `pgdiode status` says streaming."))
}

async fn quarantine_reasons(target: &mut Session, pipeline: &str) -> Result<BTreeMap<TableName, String>> {
    let sql = "select schema_name, table_name, coalesce(reason, 'for an unknown reason')
                 from pgdiode.relation where pipeline = $1 and state = 'quarantined'";
    let rows = target.query_with(sql, &[Some(pipeline)]).await?;
    Ok(rows.iter().map(|row| (TableName::new(row.string(0), row.string(1)), row.string(2))).collect())
}

/// The tables that the pipeline carries or should: those of the publication, and those it once copied.
async fn carried(
    source: &mut Session,
    pipeline: &Pipeline,
    stored: &Stored,
    reasons: &BTreeMap<TableName, String>,
) -> Result<BTreeMap<TableName, TableToVerify>> {
    let mut tables = published(source, &pipeline.publication).await?;
    tables.retain(|name, _| pipeline.tables.match_table(name));
    for relation in &stored.relations {
        tables.entry(relation.table.clone()).or_insert_with(|| TableToVerify {
            obstacle: Some(format!(
                "the publication \"{}\" does not carry it any more",
                pipeline.publication
            )),
            ..TableToVerify::new(relation.table.clone())
        });
    }
    let copied: BTreeSet<&TableName> = stored
        .relations
        .iter()
        .filter(|relation| matches!(relation.state, RelationState::Copied | RelationState::Ready))
        .map(|relation| &relation.table)
        .collect();
    for (name, table) in &mut tables {
        if let Some(reason) = reasons.get(name) {
            table.obstacle = Some(format!("it is quarantined: {reason}"));
        } else if table.obstacle.is_none() && !copied.contains(name) {
            table.obstacle = Some("it has not been copied yet".into());
        }
    }
    Ok(tables)
}

/// The publication's tables, with what it leaves out of them.
async fn published(source: &mut Session, publication: &str) -> Result<BTreeMap<TableName, TableToVerify>> {
    let details = if source.server_major() >= 15 {
        "pg_catalog.array_to_json(attnames), rowfilter"
    } else {
        "null, null"
    };
    let sql = format!(
        "select schemaname, tablename, {details} from pg_catalog.pg_publication_tables where pubname = {}",
        quote::literal(publication)
    );
    let mut tables = BTreeMap::new();
    for row in source.query(&sql).await? {
        let name = TableName::new(row.string(0), row.string(1));
        let columns = row.text(2).map(serde_json::from_str).transpose();
        let columns = columns.map_err(|error| {
            Error::unexpected(format!("the columns published of {name} are no list")).because(error)
        })?;
        let filter = row.text(3).map(str::to_owned);
        tables.insert(name.clone(), TableToVerify { columns, filter, ..TableToVerify::new(name) });
    }
    Ok(tables)
}

/// Those named; an unknown one is refused before anything else is done.
fn choose(
    mut carried: BTreeMap<TableName, TableToVerify>,
    named: &[TableName],
) -> Result<Vec<TableToVerify>> {
    if named.is_empty() {
        return Ok(carried.into_values().collect());
    }
    let mut chosen = Vec::new();
    for name in named.iter().collect::<BTreeSet<_>>() {
        match carried.remove(name) {
            Some(table) => chosen.push(table),
            None => return Err(unknown(name, carried.keys())),
        }
    }
    Ok(chosen)
}

fn unknown<'a>(name: &TableName, known: impl Iterator<Item = &'a TableName>) -> Error {
    let known: Vec<String> = known.map(config::written).collect();
    let written = config::written(name);
    let error = Error::config(format!("the pipeline does not carry a table {written}"));
    match config::nearest(&written, known.iter().map(String::as_str)) {
        Some(nearest) => error.hint(format!("Did you mean {nearest}? All of them: pgdiode list-tables.")),
        None => error.hint("All that it carries: pgdiode list-tables."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::target::postgres::progress::StoredRelation;

    fn name(text: &str) -> TableName {
        TableName::new("public", text)
    }

    fn carried_tables(names: &[&str]) -> BTreeMap<TableName, TableToVerify> {
        names.iter().map(|text| (name(text), TableToVerify::new(name(text)))).collect()
    }

    #[test]
    fn an_unknown_table_is_refused_with_the_nearest_known_one() {
        let error = choose(carried_tables(&["users", "orders"]), &[name("user")]).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.hint_text().unwrap().contains("Did you mean public.users?"), "{error:?}");
        let error = choose(carried_tables(&["users"]), &[name("something_else")]).unwrap_err();
        assert!(!error.hint_text().unwrap().contains("Did you mean"), "{error:?}");
    }

    #[test]
    fn tables_named_twice_are_verified_once_and_none_named_means_all() {
        let chosen = choose(carried_tables(&["a", "b"]), &[name("b"), name("b")]).unwrap();
        assert_eq!(chosen, [TableToVerify::new(name("b"))]);
        assert_eq!(choose(carried_tables(&["a", "b"]), &[]).unwrap().len(), 2);
    }

    #[test]
    fn a_target_of_different_moments_is_refused() {
        let stored = |position: Option<u64>, copied_at: Option<u64>| Stored {
            slot_begun: false,
            tables_created: true,
            lineage: None,
            position: position.map(Lsn),
            schema_copied: true,
            relations: vec![StoredRelation {
                table: name("t"),
                state: RelationState::Ready,
                copied_at: copied_at.map(Lsn),
                source_oid: None,
            }],
        };
        for (position, copied_at, expected) in [
            (Some(100), Some(100), None),
            (Some(99), Some(100), Some("from 0/64 on")),
            (None, Some(100), Some("never finished its copy")),
            (Some(100), None, Some("never finished its copy")),
        ] {
            let result = check_consistent("main", &stored(position, copied_at));
            let found = result.err().map(|error| (error.kind(), error.what().to_owned()));
            match (expected, found) {
                (None, None) => {}
                (Some(expected), Some((kind, what))) => {
                    assert!(kind == Kind::Refused && what.contains(expected), "{what}");
                }
                (expected, found) => panic!("{position:?} {copied_at:?}: {expected:?} {found:?}"),
            }
        }
    }
}
