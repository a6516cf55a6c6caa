//! A run from change files that pgdiode did not write: no base, no relations, made-up positions. The tables must be
//! there; a table joins with its first change.
//!
//! `pgdiode.archive_file` says which files were taken, in which order; a file's row commits with its first rows. A table
//! that is resynced is emptied and reads all of them again, alone, in a pass.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::change::TableName;
use crate::config::{Dialect as Configured, Pipeline};
use crate::error::{Error, Kind, Result, Side};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::lifecycle::{self, Attempted, Attempts};
use crate::pipeline::meter::Meter;
use crate::pipeline::replay::base::{self, Bases};
use crate::pipeline::replay::desk::{Applying, Steering, poll, spool};
use crate::pipeline::replay::stored::{self, Beginning};
use crate::pipeline::replay::watch::{self, Applied, Watch};
use crate::pipeline::replay::{Replay, ledger, pass, whitelist};
use crate::plan::{Plan, Rule};
use crate::position::{Lineage, Lsn};
use crate::pump::{Command, Ended, Pump};
use crate::source::archive::Wanted;
use crate::source::archive::foreign::ledger::{Ledger, Taken, place};
use crate::source::archive::foreign::shapes::{TargetColumn, TargetTable, TargetTables};
use crate::source::archive::foreign::{Dialect, ForeignSource, ReadOptions, is_foreign};
use crate::status::{Phase, Until};
use crate::store::{AnyStore, Location, StoreOptions};
use crate::target::postgres::apply::{Applier, Beside};
use crate::target::postgres::progress::{self, RelationState, Stored, of_relation};
use crate::target::postgres::table::Mismatch;
use crate::target::postgres::{FollowSchema, Followed, PostgresTarget};

/// Beside the control schema, which is there. Idempotent.
pub const CREATE: &str = "
create table if not exists pgdiode.archive_file (
    pipeline text not null,
    ordinal int8 not null,
    name text not null,
    sha256 text not null,
    bytes int8 not null,
    modified int8,
    records int8 not null,
    ends_at pg_lsn not null,
    taken_at timestamptz not null default now(),
    primary key (pipeline, ordinal),
    unique (pipeline, name)
);
";

/// What `pgdiode.replay` has for the archive's identity.
const NO_IDENTITY: &str = "foreign";

/// Files of another writer's.
pub struct Opened {
    store: Arc<AnyStore>,
    location: Location,
    /// `None`: each file says so itself.
    dialect: Option<Dialect>,
}

/// Opens an archive that pgdiode did not write; `None` where it did.
pub async fn open(pipeline: &Pipeline) -> Result<Option<Opened>> {
    let dialect = match pipeline.archive.dialect {
        Configured::Pgdiode => return Ok(None),
        // Nobody signs files of others: in the place of a signed archive such are an attack.
        Configured::Auto if !pipeline.archive.signed_by.is_empty() => return Ok(None),
        Configured::Auto => None,
        Configured::Seed => Some(Dialect::Seed),
        Configured::Wal2json => Some(Dialect::Wal2json),
    };
    let (location, options): (Location, StoreOptions) = pipeline
        .source
        .archive(Side::Source)?
        .ok_or_else(|| Error::unexpected("the source is no archive"))?;
    let store = AnyStore::open(&location, &options).await?;
    if dialect.is_none() && !is_foreign(&store).await? {
        return Ok(None);
    }
    Ok(Some(Opened { store: Arc::new(store), location, dialect }))
}

/// What a run works with.
struct Desk {
    opened: Opened,
    tables: Arc<TargetTables>,
    spool: PathBuf,
    poll: Duration,
    settle: Duration,
}

impl Desk {
    fn options(&self, from: Lsn, taken: Vec<Taken>, wanted: Wanted, takes_more: bool) -> ReadOptions {
        let directory = match &self.opened.location {
            Location::Directory(path) => Some(path.clone()),
            Location::S3 { .. } | Location::Sftp { .. } => None,
        };
        ReadOptions {
            dialect: self.opened.dialect,
            from,
            taken,
            tables: Arc::clone(&self.tables),
            wanted,
            spool_directory: self.spool.clone(),
            directory,
            poll: self.poll,
            settle: self.settle,
            takes_more,
        }
    }
}

impl Replay<'_> {
    pub(super) async fn attempt_foreign(
        &mut self,
        opened: Opened,
        target: Session,
        rows_session: Session,
    ) -> Result<Attempted> {
        let (mut watch, link) = Watch::new(&self.end, self.pipeline, &self.meter, &self.stop)?;
        let steering =
            Steering { commands: watch.commands.clone(), link, applied: Arc::clone(&watch.applied) };
        let attempted = tokio::select! {
            attempted = self.work_foreign(opened, target, rows_session, steering) => attempted,
            () = watch.run() => unreachable!("it watches until it is dropped"),
        };
        watch.store_last().await;
        attempted
    }

    async fn work_foreign(
        &mut self,
        opened: Opened,
        mut target: Session,
        mut rows_session: Session,
        steering: Steering,
    ) -> Result<Attempted> {
        target.query(CREATE).await?;
        let position = self.foreign_position(&mut target).await?;
        self.meter.positioned(position);
        let bases = Bases { newest: None };
        ledger::begin(&mut target, self.pipeline, &bases).await?;
        if self.pipeline.is_whitelisted {
            whitelist::follow(&mut target, self.pipeline, &bases).await?;
        }
        let desk = Desk {
            tables: Arc::new(tables_of_target(&mut target).await?),
            spool: spool(self.pipeline, &self.end.conninfo.display())?,
            poll: poll(self.pipeline, &opened.location),
            settle: Duration::from_secs(self.pipeline.archive.settle_seconds),
            opened,
        };
        let fill = async {
            empty_pending(self.pipeline, &mut target, &mut rows_session).await?;
            self.run_passes(&desk, &mut target, position).await
        };
        tokio::select! {
            filled = fill => filled?,
            // Stopping in mid-pass is the same as crashing there.
            reason = lifecycle::asked_to_stop(&self.stop) => return Ok(Attempted::Stopped(self.stopped(reason))),
        }
        self.apply_foreign(&desk, target, rows_session, position, steering).await
    }

    /// Where to go on: in front of the first file, when there is no history yet.
    async fn foreign_position(&self, target: &mut Session) -> Result<Lsn> {
        let known = progress::read(target, &self.pipeline.name).await?;
        let replayed = stored::read(target, &self.pipeline.name).await?;
        match (known.as_ref().and_then(Stored::at), replayed) {
            (Some(position), Some(replayed)) if replayed.archive == NO_IDENTITY => Ok(position.offset),
            (Some(_), replayed) => {
                let before = if replayed.is_some() { "an archive of pgdiode's" } else { "a database" };
                Err(Error::refused(format!(
                    "pipeline \"{}\" has filled this target from {before} so far, and these files are of another writer",
                    self.pipeline.name
                ))
                .hint("Give this pipeline another name, or start over: pgdiode reset, then pgdiode start."))
            }
            (None, _) => {
                let lineage = Lineage {
                    system_identifier: 0,
                    timeline: 0,
                    database: String::new(),
                    slot: NO_IDENTITY.to_owned(),
                    consistent_point: Lsn::ZERO,
                };
                let position = place(1, 0);
                let beginning =
                    Beginning { archive: NO_IDENTITY, lineage: &lineage, position, base: None, tables: &[] };
                stored::begin(target, self.pipeline, &beginning).await?;
                tracing::warn!(
                    "these change files are not pgdiode's: they are applied from the first on, to the tables as they are"
                );
                Ok(position)
            }
        }
    }

    async fn run_passes(&self, desk: &Desk, target: &mut Session, position: Lsn) -> Result<()> {
        pass::forget_abandoned(target, self.pipeline).await?;
        for (pass, tables) in pass::read(target, self.pipeline).await? {
            let names: Vec<String> = tables.iter().map(|(table, _)| table.to_string()).collect();
            self.meter.phase(Phase::Copying, &format!("replaying: {}", names.join(", ")));
            let from = pass::stands_at(target, &pass).await?;
            if from < position {
                self.run_pass(desk, target, &pass, &tables, from, position).await?;
            }
            pass::join(target, &pass).await?;
        }
        Ok(())
    }

    /// Has tables read all the files that were taken, alone.
    async fn run_pass(
        &self,
        desk: &Desk,
        target: &mut Session,
        pass: &str,
        tables: &[(TableName, Lsn)],
        from: Lsn,
        to: Lsn,
    ) -> Result<()> {
        tracing::info!(pass, %from, %to, tables = tables.len(), "tables are replayed");
        let rules =
            tables.iter().map(|(table, at)| (table.clone(), Rule::Copied { at: *at, relation: None }));
        let mut plan = Plan::new(rules, Box::new(|_| false));
        let names: HashSet<TableName> = tables.iter().map(|(table, _)| table.clone()).collect();
        let taken = taken(target, self.pipeline).await?;
        let wanted: Wanted = Arc::new(move |table| names.contains(table));
        let options = desk.options(from, taken, wanted, false);
        let mut source = ForeignSource::start(Arc::clone(&desk.opened.store), options).await?;
        let applying = Applying::of(self.pipeline);
        let follow = follow(&self.pipeline.name);
        let session = self.end.session_for_rows().await?;
        let name = self.pipeline.name.clone();
        let applier = Applier::new(session, name, from, applying.on_conflict, Arc::clone(&follow));
        let mut rows = PostgresTarget::new(applier.keeping_position_of(pass), applying.limits.bytes, follow);
        // Its position is not the pipeline's, but its rows count.
        let own = Arc::new(Meter::default());
        let (commands, mut link) = watch::link(&own);
        // The channel is empty: this cannot wait.
        let _ = commands.send(Command::EndAt(to)).await;
        let pump = Pump::new(&mut source, &mut rows, &mut link, &mut plan, applying.limits, from);
        let ended = pump.run().await;
        self.meter.put_counts_back(own.take_counts());
        match ended? {
            Ended::Reached => Ok(()),
            other => Err(Error::unexpected(format!("a pass ended otherwise than at its end: {other:?}"))),
        }
    }

    async fn apply_foreign(
        &mut self,
        desk: &Desk,
        mut target: Session,
        rows_session: Session,
        position: Lsn,
        mut steering: Steering,
    ) -> Result<Attempted> {
        let stored = self.stored(&mut target).await?;
        let mut plan = plan(self.pipeline, &stored);
        let taken = taken(&mut target, self.pipeline).await?;
        let options = desk.options(position, taken, wanted(self.pipeline, &stored), true);
        let mut source = ForeignSource::start(Arc::clone(&desk.opened.store), options).await?;
        let end = match self.until {
            Until::Stopped => None,
            Until::CaughtUp => Some(source.there_is_until.max(position)),
            Until::Reached(end) => Some(end),
        };
        if let Some(end) = end {
            // The channel is empty: this cannot wait.
            let _ = steering.commands.send(Command::EndAt(end)).await;
        }
        let (marks, tables) = (source.marks(), stored.relations.len());
        let _ = steering.applied.set(Applied { marks, tables, shelf: None });
        let applying = Applying::of(self.pipeline);
        let (name, follow) = (self.pipeline.name.clone(), follow(&self.pipeline.name));
        let applier = Applier::new(rows_session, name, position, applying.on_conflict, Arc::clone(&follow))
            .writing_beside(write_down(self.pipeline, source.ledger()));
        let mut rows = PostgresTarget::new(applier, applying.limits.bytes, follow);
        self.meter.streams(Lsn::ZERO);
        tracing::info!(tables = stored.relations.len(), %position, "applying files");
        self.reached_files = Some(Instant::now());
        let pump =
            Pump::new(&mut source, &mut rows, &mut steering.link, &mut plan, applying.limits, position);
        let ended = pump.run().await?;
        self.settle(&mut target, ended, false).await
    }
}

/// The statements that write down the files which a move of the position begins, and log those that it ends.
fn write_down(pipeline: &Pipeline, ledger: Ledger) -> Beside {
    let (logged, pipeline) = (pipeline.clone(), quote::literal(&pipeline.name));
    Arc::new(move |from, to| {
        let files = ledger.begun_between(from, to);
        let row = |taken: &Taken| {
            format!(
                "({pipeline}, {}, {}, {}, {}, {}::int8, {}, '{}'::pg_lsn)",
                taken.ordinal,
                quote::literal(&taken.name),
                quote::literal(&taken.sha256),
                taken.bytes,
                taken.modified.map_or_else(|| "null".to_owned(), |modified| modified.to_string()),
                taken.lines,
                taken.ends_at()
            )
        };
        let rows: Vec<String> = files.iter().map(row).collect();
        let begun = (!rows.is_empty()).then(|| {
            format!(
                "insert into pgdiode.archive_file (pipeline, ordinal, name, sha256, bytes, modified, records, ends_at) \
                 values {}",
                rows.join(", ")
            )
        });
        let ended = ledger::applied(&logged, &ledger.ended_between(from, to));
        begun.into_iter().chain(ended).collect()
    })
}

/// The files that were taken, in their order.
async fn taken(target: &mut Session, pipeline: &Pipeline) -> Result<Vec<Taken>> {
    let sql = "select ordinal, name, sha256, bytes, modified, records from pgdiode.archive_file
          where pipeline = $1 order by ordinal";
    let rows = target.query_with(sql, &[Some(&pipeline.name)]).await?;
    let taken = rows.iter().map(|row| {
        Ok(Taken {
            ordinal: row.get(0)?,
            name: row.string(1),
            sha256: row.string(2),
            bytes: row.get(3)?,
            modified: row.optional(4)?,
            lines: row.get(5)?,
        })
    });
    taken.collect()
}

fn plan(pipeline: &Pipeline, stored: &Stored) -> Plan {
    let rules = stored.relations.iter().filter_map(|relation| {
        let rule = match relation.state {
            RelationState::Ready => Rule::Copied { at: Lsn::ZERO, relation: None },
            RelationState::Quarantined => Rule::Quarantined,
            RelationState::Pending | RelationState::Copying | RelationState::Copied => return None,
        };
        Some((relation.table.clone(), rule))
    });
    let joins = joins(pipeline);
    Plan::without_copies(rules, Box::new(move |table| joins(table)))
}

fn joins(pipeline: &Pipeline) -> Wanted {
    let (patterns, new_tables) = (pipeline.tables.clone(), pipeline.stream.new_tables);
    Arc::new(move |table| new_tables && patterns.match_table(table))
}

/// The tables whose rows are read at all: those that are known, and those that may join.
fn wanted(pipeline: &Pipeline, stored: &Stored) -> Wanted {
    let known: HashSet<TableName> = stored.relations.iter().map(|relation| relation.table.clone()).collect();
    let joins = joins(pipeline);
    Arc::new(move |table| known.contains(table) || joins(table))
}

/// How the target asks: a table that is met is written down; one that does not fit is not made to.
fn follow(pipeline: &str) -> FollowSchema {
    let pipeline = pipeline.to_owned();
    let met: Arc<Mutex<HashSet<TableName>>> = Arc::default();
    Arc::new(move |relation, mismatch| {
        let (pipeline, met) = (pipeline.clone(), Arc::clone(&met));
        Box::pin(async move {
            let table = relation.table();
            Ok(match mismatch {
                Mismatch::Unseen => {
                    let is_new = met.lock().expect("nobody panics here").insert(table.clone());
                    Followed::Altered(if is_new { vec![join(&pipeline, &table)] } else { Vec::new() })
                }
                Mismatch::Value => Followed::Refused("where the type lacks a value, add it here".into()),
                other => Followed::Refused(other.to_string()),
            })
        })
    })
}

fn join(pipeline: &str, table: &TableName) -> String {
    format!(
        "insert into pgdiode.relation (pipeline, schema_name, table_name, state, copied_at)
         values ({}, {}, {}, 'ready', '0/0') on conflict (pipeline, schema_name, table_name) do nothing",
        quote::literal(pipeline),
        quote::literal(&table.schema),
        quote::literal(&table.name)
    )
}

/// Empties the tables that are to be filled anew, and puts them into a pass.
async fn empty_pending(pipeline: &Pipeline, target: &mut Session, rows_session: &mut Session) -> Result<()> {
    let sql = "select schema_name, table_name from pgdiode.relation where pipeline = $1 and state in ('pending', 'copying')";
    let rows = target.query_with(sql, &[Some(&pipeline.name)]).await?;
    let pending: Vec<TableName> =
        rows.iter().map(|row| TableName::new(row.string(0), row.string(1))).collect();
    let mut tables = Vec::new();
    for table in pending {
        if base::is_there(target, &table).await? {
            tables.push(table);
            continue;
        }
        let remedy = format!("create it, then: pgdiode resync '{table}'");
        let reason = Mismatch::NoTable.to_string();
        target.query(&progress::quarantine(&pipeline.name, &table, &reason, &remedy)).await?;
    }
    if tables.is_empty() {
        return Ok(());
    }
    let number = "select coalesce(pg_catalog.max(pg_catalog.split_part(pipeline, '/', 2)::int8), 0) + 1
          from pgdiode.position where pg_catalog.starts_with(pipeline, $1)";
    let passes = format!("{}/", pipeline.name);
    let rows = target.query_with(number, &[Some(&passes)]).await?;
    let number = rows.first().map_or_else(|| "1".to_owned(), |row| row.string(0));
    let pass = quote::literal(&format!("{}/{number}", pipeline.name));
    let mut sql = format!("insert into pgdiode.position (pipeline, lsn) values ({pass}, '0/0');");
    for table in &tables {
        sql.push_str(&format!(
            "update pgdiode.relation set state = 'copied', copied_at = '0/0', carried_by = {pass}, reason = null, remedy = null {};",
            of_relation(&pipeline.name, table)
        ));
    }
    let names: Vec<String> = tables.iter().map(quote::table).collect();
    // One message is one transaction.
    match rows_session.query(&format!("truncate {}; {sql}", names.join(", "))).await {
        Ok(_) => Ok(()),
        // Another table refers to one of them: TRUNCATE refuses, DELETE does not care.
        Err(error) if error.sqlstate() == Some("0A000") => {
            let deletes: Vec<String> = names.iter().map(|name| format!("delete from {name}")).collect();
            rows_session.query(&format!("{}; {sql}", deletes.join("; "))).await.map(drop)
        }
        Err(error) if error.retries() => Err(error),
        Err(error) => Err(Error::new(Kind::Refused, "the tables cannot be emptied").because(error)),
    }
}

/// Every table of the target, its columns, and what finds its rows.
async fn tables_of_target(target: &mut Session) -> Result<TargetTables> {
    let rows = target
        .query(
            "select n.nspname, c.relname, a.attname, pg_catalog.format_type(a.atttypid, -1), a.attgenerated <> '',
                    coalesce(a.attnum = any (k.columns), false)
               from pg_catalog.pg_class c
               join pg_catalog.pg_namespace n on n.oid = c.relnamespace
               join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
               left join lateral (
                    select (i.indkey::int2[])[0:i.indnkeyatts - 1] as columns
                      from pg_catalog.pg_index i
                     where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate
                       and i.indpred is null and i.indexprs is null
                       and not exists (select from pg_catalog.pg_attribute u
                                        where u.attrelid = c.oid and u.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                                          and not u.attnotnull)
                     order by i.indisprimary desc, i.indisreplident desc, i.indexrelid limit 1) k on true
              where c.relkind in ('r', 'p') and c.relpersistence <> 't'
                and n.nspname not in ('pg_catalog', 'information_schema', 'pgdiode')
              order by c.oid, a.attnum",
        )
        .await?;
    let mut tables: TargetTables = HashMap::new();
    for row in rows {
        let table: &mut TargetTable = tables.entry(TableName::new(row.string(0), row.string(1))).or_default();
        let name = row.string(2);
        if row.bool(5) {
            table.key.push(name.clone());
        }
        table.columns.push(TargetColumn { name, type_name: row.string(3), generated: row.bool(4) });
    }
    Ok(tables)
}
