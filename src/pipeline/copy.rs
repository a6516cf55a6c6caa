//! The copy: tables as of one snapshot of the source, with indexes built while other tables are still coming.
//!
//! ```text
//! temporary slot, or a transaction that the caller holds open -> point C + exported snapshot, imported by every worker
//! pg_dump pre-data -> tables            (one transaction)
//! largest piece first: COPY out -> COPY in, frames relayed; the last piece of a table sets copied_at = C
//!                      then that table's keys, then its other indexes, each as it becomes possible
//!                      then, if ordered, its statistics, while others are not as far
//! attachments, foreign keys, the rest -> sequences -> ready
//! ```
//!
//! A crash at any point leaves each table either done (`copied_at` set, in the transaction of its last rows) or to be
//! done again from its beginning; the next run copies only those, under a new snapshot. The stream then skips for each
//! table what its own snapshot already showed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::change::TableName;
use crate::config::{Format, Pipeline, Plugin};
use crate::error::{Error, Kind, Result};
use crate::pg::copy::relay;
use crate::pg::dump::{self, Dump, DumpOptions, Entry, EntryKind, Section};
use crate::pg::quote;
use crate::pg::replication::SlotLife;
use crate::pg::session::Session;
use crate::pipeline::continuity::{self, Carriage};
use crate::pipeline::drift;
use crate::pipeline::ends::{Ends, Origin};
use crate::pipeline::labels;
use crate::pipeline::meter::Meter;
use crate::pipeline::queue::Queue;
use crate::pipeline::shadow_schemas;
use crate::pipeline::statistics;
use crate::position::Lsn;
use crate::source::postgres::catalog::{self, SourceColumn, SourceTable};
use crate::source::postgres::slot;
use crate::status::Phase;
use crate::target::postgres::progress;
use crate::target::postgres::schema::{self, LeftOut};

/// Statistics of smaller tables take no time worth saving: 8 MB.
const STATISTICS_BLOCKS_MIN: u64 = 1024;

/// What to copy.
pub struct Order {
    pub tables: Vec<SourceTable>,
    pub schema: SchemaWork,
    /// Workers that would idle gather statistics of the tables that are done.
    pub gathers_statistics: bool,
}

/// What of the schema is missing at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaWork {
    /// Everything: a first copy.
    All,
    /// The tables are there from an earlier attempt, but for those that joined since; indexes and constraints may be.
    Finish,
    /// The first copy is long done; only tables that are not there are created.
    NewTables,
}

/// The moment of the source that a copy shows.
pub enum Moment {
    /// That of a slot made for the copy, so that the stream can go on from there.
    OfSlot,
    /// That of a transaction which the caller holds open until the copy is done.
    Exported { snapshot: String, at: Lsn, schema: SchemaAhead },
}

/// What a copy needs to know; shared by its workers.
struct Copy {
    ends: Ends,
    pipeline: Pipeline,
    meter: Arc<Meter>,
    snapshot: String,
    consistent_point: Lsn,
    carriage: Carriage,
    /// Both servers are new enough for binary values of one to be read by the other.
    may_be_binary: bool,
    /// Tables, by OID, that are filled under the source's names, where the target's are others.
    named: HashSet<u32>,
    tables: Vec<TableCopy>,
    queue: Queue<Work>,
    gathers_statistics: bool,
    /// Tables whose statistics were gathered, by their names at the source.
    gathered: Mutex<HashSet<TableName>>,
    post_data: OnceCell<Dump>,
    post_data_options: DumpOptions,
    pg_dump: PathBuf,
    roles: HashSet<String>,
}

struct TableCopy {
    source: SourceTable,
    parts: Vec<Part>,
    parts_left: AtomicUsize,
    rows: AtomicU64,
    indexes_left: AtomicUsize,
    /// One of its pieces could not be copied; the others need not be.
    failed: AtomicBool,
    /// What was read of it is not what the snapshot shows: it stays pending.
    rewritten: AtomicBool,
}

/// A range of blocks, or the whole table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// From this block on, up to the other; open-ended for the last: the table may have grown since it was measured.
    Blocks(u64, Option<u64>),
}

/// A piece of work for a worker; tables by their index.
enum Work {
    Rows(usize, Part),
    /// Primary key and unique constraints; then the other indexes become possible.
    Keys(usize),
    Index(usize, Box<Entry>),
    /// What a table has beside indexes: triggers, policies.
    Finish(usize),
    Statistics(usize),
}

impl Work {
    fn name(&self) -> &'static str {
        match self {
            Work::Rows(..) => "rows",
            Work::Keys(_) => "keys",
            Work::Index(..) => "index",
            Work::Finish(_) => "rest",
            Work::Statistics(_) => "statistics",
        }
    }

    /// The index of the table that it is done for.
    fn table(&self) -> usize {
        match self {
            Work::Rows(index, _)
            | Work::Keys(index)
            | Work::Index(index, _)
            | Work::Finish(index)
            | Work::Statistics(index) => *index,
        }
    }
}

/// What came of a copy.
pub struct Copied {
    /// Parts of the schema.
    pub left_out: Vec<LeftOut>,
    /// A table was rewritten under the copy's hands, and is pending still.
    pub is_partial: bool,
    /// Tables that have statistics already.
    pub gathered: HashSet<TableName>,
    /// The rows of each table that one COPY has read, as the source itself counted them.
    pub sent: HashMap<TableName, u64>,
}

/// Waits for a slot, and says in log and status for whom that waits.
pub async fn telling_who_delays<T>(
    origin: &Origin,
    meter: &Meter,
    making: impl Future<Output = Result<T>>,
) -> Result<T> {
    slot::telling_who_delays(
        making,
        async || origin.session().await,
        |who| {
            tracing::warn!(
                hint = "It goes on when these have ended, been committed or rolled back.",
                "the replication slot waits for transactions that write at the source: {who}"
            );
            meter.phase(Phase::Copying, &format!("the replication slot waits for {who}"));
        },
    )
    .await
}

/// Copies what is ordered.
pub async fn run(
    ends: &Ends,
    pipeline: &Pipeline,
    meter: &Arc<Meter>,
    order: Order,
    moment: Moment,
) -> Result<Copied> {
    meter.phase(Phase::Copying, "waiting for a consistent point of the source");
    let holding = hold(ends, pipeline, moment);
    let Held { snapshot, consistent_point, carriage, session: held, schema } =
        telling_who_delays(&ends.origin(), meter, holding).await?;
    let mut target = ends.target_for_rows().await?;
    let mut source = ends.source().await?;
    let source_major = source.server_major();
    let (pg_dump, pre_data) = match schema {
        Some(schema) => schema.read().await.map(|(pg_dump, text)| (pg_dump, Some(text)))?,
        None => (dump::find_pg_dump(pipeline.pg_dump.as_deref(), source_major).await?, None),
    };
    let may_be_binary = target.server_major() >= source_major;
    meter.phase(Phase::Copying, "creating tables");
    if order.schema != SchemaWork::All {
        let tables: Vec<u32> = order.tables.iter().map(|table| table.oid).collect();
        if let Err(reason) = labels::follow(ends, &tables).await? {
            tracing::warn!(reason, "an enum could not be followed");
        }
    }
    let mut making =
        Making { ends, pipeline, target: &mut target, pg_dump: &pg_dump, snapshot: &snapshot, pre_data };
    let Created { tables: created, mut left_out, refused } = create_tables(&mut making, &order).await?;
    let fair_share = fair_share(&order.tables, pipeline);
    let mut tables = Vec::new();
    for table in order.tables.into_iter().filter(|table| !refused.contains(&table.table)) {
        if order.schema == SchemaWork::All || prepare(&mut source, &mut target, pipeline, &table).await? {
            tables.push(split(table, pipeline, fair_share, source_major));
        }
    }
    let named = match &ends.schemas {
        Some(_) => shadow_schemas::read_by_name(&mut source).await?,
        None => HashSet::new(),
    };
    drop(source);
    meter.copy_begins(tables.len(), tables.iter().map(|table| table.source.bytes).sum());
    meter.phase(Phase::Copying, "copying rows and building indexes");
    let copy = Arc::new(Copy {
        ends: ends.clone(),
        pipeline: pipeline.clone(),
        meter: Arc::clone(meter),
        consistent_point,
        carriage,
        may_be_binary,
        named,
        tables,
        queue: Queue::default(),
        gathers_statistics: order.gathers_statistics,
        gathered: Mutex::default(),
        post_data: OnceCell::new(),
        post_data_options: DumpOptions {
            section: Some(Section::PostData),
            snapshot: Some(snapshot.clone()),
            tables: if order.schema == SchemaWork::NewTables { created.clone() } else { Vec::new() },
            ..DumpOptions::default()
        },
        snapshot,
        pg_dump,
        roles: schema::roles(&mut target).await?,
    });
    let builds_indexes = order.schema != SchemaWork::NewTables || !created.is_empty();
    copy_all(&copy, builds_indexes).await?;
    if builds_indexes {
        left_out.extend(finish_schema(&copy, &mut target).await?);
    }
    carry_sequences(ends, &mut ends.source().await?, &mut target).await?;
    mark_ready(&mut target, &pipeline.name, order.schema).await?;
    drop(held);
    let is_partial = copy.tables.iter().any(|table| table.rewritten.load(Ordering::Acquire));
    let gathered = std::mem::take(&mut *copy.gathered.lock().expect("nobody panics over a set"));
    let in_one = copy.tables.iter().filter(|table| table.parts == [Part::Whole]);
    let sent = in_one.map(|table| (table.source.table.clone(), table.rows.load(Ordering::Relaxed))).collect();
    Ok(Copied { left_out, is_partial, gathered, sent })
}

/// The moment, and what keeps it in reach.
struct Held {
    snapshot: String,
    consistent_point: Lsn,
    carriage: Carriage,
    /// The session of the slot; `None` where the caller holds the moment.
    session: Option<Session>,
    /// The caller has it read already.
    schema: Option<SchemaAhead>,
}

async fn hold(ends: &Ends, pipeline: &Pipeline, moment: Moment) -> Result<Held> {
    if let Moment::Exported { snapshot, at, schema } = moment {
        let carriage = Carriage::default();
        return Ok(Held { snapshot, consistent_point: at, carriage, session: None, schema: Some(schema) });
    }
    // Before the snapshot: what leaves and returns after this is seen to have done so.
    let carriage = continuity::read(&mut ends.source().await?, &pipeline.publication).await?;
    let mut replication = ends.replication().await?;
    let name = format!("pgdiode_copy_{}_{:08x}", pipeline.name, fastrand::u32(..));
    let slot = replication.create_slot(&name, SlotLife::Temporary).await?;
    let snapshot = slot.snapshot.ok_or_else(|| Error::unexpected("the source exported no snapshot"))?;
    let session = Some(replication);
    Ok(Held { snapshot, consistent_point: slot.consistent_point, carriage, session, schema: None })
}

/// What became of the tables that the target did not have.
#[derive(Default)]
struct Created {
    tables: Vec<TableName>,
    left_out: Vec<LeftOut>,
    /// Could not be created, and are quarantined.
    refused: Vec<TableName>,
}

/// Creates what is missing.
async fn create_tables(making: &mut Making<'_>, order: &Order) -> Result<Created> {
    if order.schema == SchemaWork::All {
        let left_out = making.create(&[]).await?;
        return Ok(Created { left_out, ..Created::default() });
    }
    let mut missing = Vec::new();
    for table in &order.tables {
        let sql = format!("select pg_catalog.to_regclass({})", quote::literal(&quote::table(&table.table)));
        if making.target.one(&sql).await?.text(0).is_none() {
            missing.push(table.table.clone());
        }
    }
    if missing.is_empty() {
        return Ok(Created::default());
    }
    match making.create(&missing).await {
        Ok(left_out) => return Ok(Created { tables: missing, left_out, ..Created::default() }),
        Err(error) if error.kind() == Kind::Refused => making.target.query("rollback").await?,
        Err(error) => return Err(error),
    };
    making.create_each(missing).await
}

async fn pre_data(ends: &Ends, pg_dump: &Path, snapshot: &str, tables: &[TableName]) -> Result<String> {
    let options = DumpOptions {
        section: Some(Section::PreData),
        snapshot: Some(snapshot.to_owned()),
        tables: tables.to_vec(),
        ..DumpOptions::default()
    };
    dump::run(pg_dump, &ends.source.to_libpq_env(), &options).await
}

/// Reads the schema that a copy begins with, while the caller makes a place for it; stops when it is dropped.
pub struct SchemaAhead(JoinSet<Result<(PathBuf, String)>>);

impl SchemaAhead {
    /// Begins to read it, in a moment that is held open at a source of that major version.
    pub fn begin(ends: &Ends, pipeline: &Pipeline, snapshot: &str, source_major: u32) -> SchemaAhead {
        let (ends, named, snapshot) = (ends.clone(), pipeline.pg_dump.clone(), snapshot.to_owned());
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            let pg_dump = dump::find_pg_dump(named.as_deref(), source_major).await?;
            let text = pre_data(&ends, &pg_dump, &snapshot, &[]).await?;
            Ok((pg_dump, text))
        });
        SchemaAhead(reading)
    }

    async fn read(mut self) -> Result<(PathBuf, String)> {
        let failed = || Error::unexpected("the source's schema was not read");
        self.0.join_next().await.ok_or_else(failed)?.map_err(|error| failed().because(error))?
    }
}

/// What creating tables takes.
struct Making<'a> {
    ends: &'a Ends,
    pipeline: &'a Pipeline,
    target: &'a mut Session,
    pg_dump: &'a Path,
    snapshot: &'a str,
    /// All of it, where it has been read already.
    pre_data: Option<String>,
}

impl Making<'_> {
    /// One by one: one table's trouble is that table's alone.
    async fn create_each(&mut self, missing: Vec<TableName>) -> Result<Created> {
        let mut created = Created::default();
        for table in missing {
            match self.create(std::slice::from_ref(&table)).await {
                Ok(left_out) => {
                    created.left_out.extend(left_out);
                    created.tables.push(table);
                }
                Err(error) if error.kind() == Kind::Refused => {
                    self.target.query("rollback").await?;
                    let remedy =
                        format!("create what the reason names at the target, then: pgdiode resync '{table}'");
                    quarantine(self.target, self.pipeline, &table, &error.chain(), &remedy).await?;
                    created.refused.push(table);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(created)
    }

    /// Creates tables, or with none named everything, in one transaction with the mark that says so.
    async fn create(&mut self, tables: &[TableName]) -> Result<Vec<LeftOut>> {
        let text = match self.pre_data.take() {
            Some(text) if tables.is_empty() => text,
            _ => pre_data(self.ends, self.pg_dump, self.snapshot, tables).await?,
        };
        let dump = Dump::parse(&text)?;
        self.target.query(&self.ends.begin_named()).await?;
        // A dump of single tables leaves their schemas out.
        let schemas: BTreeSet<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
        for schema in schemas {
            self.target.query(&format!("create schema if not exists {}", quote::identifier(schema))).await?;
        }
        let (ends, pipeline) = (self.ends, self.pipeline);
        let mut left_out =
            schema::replay_pre_data(self.target, &dump, |entry| is_carried(ends, pipeline, entry)).await?;
        if ends.schemas.is_some() {
            let reason = "it belongs to the database, which is not replaced";
            let of_database = dump.entries.iter().filter(|entry| entry.is_of_database());
            left_out.extend(of_database.map(|entry| LeftOut {
                entry: format!("{} {}", entry.kind, entry.name),
                reason: reason.to_owned(),
            }));
        }
        let name = quote::literal(&pipeline.name);
        self.target
            .query(&format!("update pgdiode.pipeline set tables_created = true where name = {name}"))
            .await?;
        self.target.query(&self.ends.commit_named()).await?;
        Ok(left_out)
    }
}

async fn quarantine(
    target: &mut Session,
    pipeline: &Pipeline,
    table: &TableName,
    reason: &str,
    remedy: &str,
) -> Result<()> {
    tracing::error!(%table, reason, "the table cannot be copied; it is quarantined");
    target.query(&progress::quarantine(&pipeline.name, table, reason, remedy)).await.map(drop)
}

/// Empties a table that may hold rows of an earlier copy, and gives it the source's columns. Says whether it could:
/// one table's trouble is that table's alone.
async fn prepare(
    source: &mut Session,
    target: &mut Session,
    pipeline: &Pipeline,
    table: &SourceTable,
) -> Result<bool> {
    target.query("begin").await?;
    let prepared = match empty(target, &table.table, table.is_partitioned).await {
        Ok(_) => drift::conform(source, target, &pipeline.name, table).await,
        Err(error) => Err(error),
    };
    match prepared {
        Ok(()) => target.query("commit").await.map(|_| true),
        Err(error) if error.retries() || error.kind() == Kind::Capacity => Err(error),
        Err(error) => {
            target.query("rollback").await?;
            let reason = format!("the table cannot be made ready for its copy: {}", error.chain());
            let remedy = format!("mend what the reason names, then: pgdiode resync '{}'", table.table);
            quarantine(target, pipeline, &table.table, &reason, &remedy).await.map(|()| false)
        }
    }
}

/// Whether an entry belongs to no table, or to one that the pipeline is to carry. What is a database's and not a
/// schema's is not made again beside what is there.
fn is_carried(ends: &Ends, pipeline: &Pipeline, entry: &Entry) -> bool {
    if let Some(schemas) = &ends.schemas {
        let is_there = entry.kind == EntryKind::Schema && schemas.names().contains_key(&entry.name);
        if is_there || entry.is_of_database() {
            return false;
        }
    }
    entry.table.as_ref().is_none_or(|table| pipeline.tables.match_table(table))
}

/// The bytes that each worker copies when all have the same to do.
fn fair_share(tables: &[SourceTable], pipeline: &Pipeline) -> u64 {
    tables.iter().map(|table| table.bytes).sum::<u64>() / pipeline.copy.jobs() as u64
}

/// Cuts a table that is larger than `split_mb`, if it would keep one worker busy long after the others: rows that come
/// in one piece can be frozen as they arrive, which a table in pieces pays for later.
fn split(source: SourceTable, pipeline: &Pipeline, fair_share: u64, source_major: u32) -> TableCopy {
    let blocks_max = pipeline.copy.split_mb * 128;
    // Before 14 a range of ctids is no range scan; partitioned tables have no blocks of their own.
    let is_balanced = source.bytes <= fair_share + fair_share / 2;
    let is_small = source.blocks <= blocks_max;
    let parts = if source.is_partitioned || is_small || is_balanced || source_major < 14 {
        vec![Part::Whole]
    } else {
        let count = source.blocks.div_ceil(blocks_max);
        let bound = |part: u64| source.blocks * part / count;
        (0..count)
            .map(|part| Part::Blocks(bound(part), (part + 1 < count).then(|| bound(part + 1))))
            .collect()
    };
    TableCopy {
        parts_left: AtomicUsize::new(parts.len()),
        parts,
        source,
        rows: AtomicU64::new(0),
        indexes_left: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        rewritten: AtomicBool::new(false),
    }
}

/// Runs workers until all tables are copied and indexed.
async fn copy_all(copy: &Arc<Copy>, builds_indexes: bool) -> Result<()> {
    for (index, table) in copy.tables.iter().enumerate() {
        for part in &table.parts {
            copy.queue.push(table.source.bytes / table.parts.len() as u64, Work::Rows(index, *part));
        }
    }
    let mut workers = JoinSet::new();
    if builds_indexes {
        // Early: the snapshot must still be there, and the first table to end should find its indexes known.
        let copy = Arc::clone(copy);
        workers.spawn(async move { copy.post_data().await.map(drop) });
    }
    for _ in 0..copy.pipeline.copy.jobs() {
        let copy = Arc::clone(copy);
        workers.spawn(async move {
            Worker { copy: &copy, source: None, target: None, builds_indexes }.run().await
        });
    }
    while let Some(worker) = workers.join_next().await {
        // The first failure drops the others: stopping is the same as crashing.
        worker.map_err(|panic| Error::unexpected("a copy worker failed").because(panic))??;
    }
    Ok(())
}

struct Worker<'a> {
    copy: &'a Copy,
    source: Option<Session>,
    target: Option<Session>,
    builds_indexes: bool,
}

impl Worker<'_> {
    async fn run(mut self) -> Result<()> {
        while let Some(work) = self.copy.queue.next().await {
            let began = Instant::now();
            let outcome = self.work(&work).await;
            tracing::debug!(table = %self.copy.tables[work.table()].source.table, work = work.name(), ms = began.elapsed().as_millis(), "worked");
            if let Err(error) = outcome {
                self.give_up(&work, error).await?;
            }
            self.copy.queue.done();
        }
        Ok(())
    }

    async fn work(&mut self, work: &Work) -> Result<()> {
        match work {
            _ if self.copy.tables[work.table()].failed.load(Ordering::Acquire) => Ok(()),
            Work::Rows(index, part) => self.copy_rows(*index, *part).await,
            Work::Keys(index) => self.build_keys(*index).await,
            Work::Index(index, entry) => {
                let entry = std::slice::from_ref(&**entry);
                self.replay(entry.iter()).await?;
                self.index_is_built(*index);
                Ok(())
            }
            Work::Finish(index) => self.finish_table(*index).await,
            // The rest is left to the caller, who has more to do at that time.
            Work::Statistics(_) if self.copy.queue.is_ending() => Ok(()),
            Work::Statistics(index) => self.gather_statistics(*index).await,
        }
    }

    /// One table's trouble is that table's alone, unless trying again can help or the disk is full.
    async fn give_up(&mut self, work: &Work, error: Error) -> Result<()> {
        if error.retries() || error.kind() == Kind::Capacity {
            return Err(error);
        }
        let table = &self.copy.tables[work.table()];
        if table.failed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let table = &table.source.table;
        (self.source, self.target) = (None, None);
        let remedy = format!("mend what the reason names, then: pgdiode resync '{table}'");
        let reason = format!("copy failed: {}", error.chain());
        let copy = self.copy;
        quarantine(self.target().await?, &copy.pipeline, table, &reason, &remedy).await?;
        self.copy.meter.table_ends(table, 0);
        Ok(())
    }

    async fn source(&mut self) -> Result<&mut Session> {
        if self.source.is_none() {
            self.source = Some(self.copy.ends.source().await?);
        }
        Ok(self.source.as_mut().expect("just connected"))
    }

    async fn target(&mut self) -> Result<&mut Session> {
        if self.target.is_none() {
            let mut session = self.copy.ends.target_for_rows().await?;
            let memory = self.copy.pipeline.copy.maintenance_work_mem_mb;
            session.query(&format!("set maintenance_work_mem = '{memory}MB'")).await?;
            self.target = Some(session);
        }
        Ok(self.target.as_mut().expect("just connected"))
    }

    // ---- rows ----

    async fn copy_rows(&mut self, index: usize, part: Part) -> Result<()> {
        let copy = self.copy;
        let table = &copy.tables[index];
        let name = &table.source.table;
        copy.meter.table_begins(name);
        let format = copy.format(&table.source);
        let out = copy_out(&table.source, part, format);
        self.source().await?;
        self.target().await?;
        let (Some(source), Some(target)) = (&mut self.source, &mut self.target) else {
            unreachable!("connected")
        };
        let is_named = copy.named.contains(&table.source.oid);
        let [begin, commit] = copy.transaction(is_named);
        target.query(&begin).await?;
        let at_target = if is_named { name.clone() } else { copy.ends.at_target(name) };
        let frozen = part == Part::Whole && empty(target, &at_target, table.source.is_partitioned).await?;
        let into = copy_into(&at_target, &table.source, format, frozen);
        let snapshot = quote::literal(&copy.snapshot);
        source
            .query(&format!(
                "begin isolation level repeatable read read only; set transaction snapshot {snapshot}"
            ))
            .await?;
        let rows = relay(source, &out, target, &into, |bytes| copy.meter.copied_bytes(name, bytes))
            .await
            .map_err(|error| without_values(&table.source, error))?;
        table.rows.fetch_add(rows, Ordering::Relaxed);
        if is_rewritten(source, &table.source).await? {
            tracing::warn!(%name, "the table was truncated or rewritten at the source while it was copied: it is copied again");
            table.rewritten.store(true, Ordering::Release);
        }
        // Held on to, the table's lock would keep a TRUNCATE waiting, and whoever comes after it: other pieces and
        // pg_dump too, for which this worker would wait in turn.
        source.query("commit").await?;
        let is_as_of_snapshot = || !table.rewritten.load(Ordering::Acquire);
        if part == Part::Whole && is_as_of_snapshot() {
            copy.mark_copied(target, table).await?;
        }
        target.query(&commit).await?;
        // Only now: a piece whose commit fails must never let another one call the table copied.
        if table.parts_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            if part != Part::Whole && is_as_of_snapshot() {
                copy.mark_copied(target, table).await?;
            }
            copy.meter.table_ends(name, table.rows.load(Ordering::Relaxed));
            if self.builds_indexes {
                copy.queue.push(table.source.bytes, Work::Keys(index));
            }
        }
        Ok(())
    }

    // ---- indexes ----

    async fn build_keys(&mut self, index: usize) -> Result<()> {
        let copy = self.copy;
        let table = &copy.tables[index];
        let entries = copy.entries_of(&table.source.table).await?;
        let keys = entries.iter().filter(|entry| entry.kind == EntryKind::Constraint);
        self.replay(keys).await?;
        let indexes: Vec<_> = entries.into_iter().filter(|entry| entry.kind == EntryKind::Index).collect();
        table.indexes_left.store(indexes.len(), Ordering::Release);
        if indexes.is_empty() {
            copy.queue.push(0, Work::Finish(index));
        }
        for entry in indexes {
            let cost = index_cost(&entry, table.source.bytes);
            copy.queue.push(cost, Work::Index(index, Box::new(entry)));
        }
        Ok(())
    }

    fn index_is_built(&self, index: usize) {
        if self.copy.tables[index].indexes_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.copy.queue.push(0, Work::Finish(index));
        }
    }

    /// Statistics of tables that a stream follows are left to the target's autovacuum, which sees the new rows at once.
    async fn finish_table(&mut self, index: usize) -> Result<()> {
        let entries = self.copy.entries_of(&self.copy.tables[index].source.table).await?;
        let rest =
            entries.iter().filter(|entry| !matches!(entry.kind, EntryKind::Constraint | EntryKind::Index));
        self.replay(rest).await?;
        let is_worth_it = self.copy.tables[index].source.blocks >= STATISTICS_BLOCKS_MIN;
        if self.copy.gathers_statistics && is_worth_it {
            self.copy.queue.push(0, Work::Statistics(index));
        }
        Ok(())
    }

    /// A table that cannot be analyzed is tried again, and told of, by whoever looks after statistics.
    async fn gather_statistics(&mut self, index: usize) -> Result<()> {
        let copy = self.copy;
        let table = &copy.tables[index].source.table;
        match statistics::gather_early(self.target().await?, &copy.ends.at_target(table)).await {
            Ok(true) => {
                copy.gathered.lock().expect("nobody panics over a set").insert(table.clone());
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) if error.retries() => Err(error),
            Err(error) => {
                tracing::debug!(%table, error = error.chain(), "no statistics yet");
                Ok(())
            }
        }
    }

    async fn replay(&mut self, entries: impl Iterator<Item = &Entry>) -> Result<()> {
        let copy = self.copy;
        for entry in entries {
            let left_out = replay_post_data(&copy.ends, self.target().await?, entry, &copy.roles).await?;
            for LeftOut { entry, reason } in left_out {
                tracing::warn!(entry, reason, "left out of the target's schema");
            }
        }
        Ok(())
    }
}

impl Copy {
    fn format(&self, table: &SourceTable) -> &'static str {
        let binary = match self.pipeline.copy.format {
            Format::Text => false,
            Format::Binary => true,
            Format::Auto => self.may_be_binary && table.is_binary_safe,
        };
        if binary { "binary" } else { "text" }
    }

    /// Whether an entry speaks of rows that did not come as they are. Of a partitioned table that is not known here.
    fn is_redacted(&self, entry: &Entry) -> bool {
        let redacted = |table: &TableName| match self.tables.iter().find(|copy| copy.source.table == *table) {
            Some(copy) => copy.source.is_redacted(),
            None => self.tables.iter().any(|copy| copy.source.is_redacted()),
        };
        entry.table.iter().chain(&entry.referenced_table).any(redacted)
    }

    /// What begins and commits a transaction of the target, under the source's names if it is `named`.
    fn transaction(&self, named: bool) -> [String; 2] {
        if named {
            [self.ends.begin_named(), self.ends.commit_named()]
        } else {
            ["begin".into(), "commit".into()]
        }
    }

    async fn post_data(&self) -> Result<&Dump> {
        self.post_data
            .get_or_try_init(async || {
                let environment = self.ends.source.to_libpq_env();
                Dump::parse(&dump::run(&self.pg_dump, &environment, &self.post_data_options).await?)
            })
            .await
    }

    /// A table's own post-data entries.
    async fn entries_of(&self, table: &TableName) -> Result<Vec<Entry>> {
        let order = self.post_data().await?.rebuild_order();
        let entries = order.tables.into_iter().find(|rebuild| rebuild.table == *table);
        Ok(entries.map(|rebuild| rebuild.entries.into_iter().cloned().collect()).unwrap_or_default())
    }

    /// The table is here as of the consistent point. In the transaction of its last rows, where there is one.
    async fn mark_copied(&self, target: &mut Session, table: &TableCopy) -> Result<()> {
        let rows = table.rows.load(Ordering::Relaxed);
        let table = &table.source;
        let by_number = |text: fn(&SourceColumn) -> &str| {
            let texts: BTreeMap<i16, &str> =
                table.columns.iter().map(|column| (column.number, text(column))).collect();
            serde_json::to_string(&texts)
                .map_err(|error| Error::unexpected("columns cannot be written as JSON").because(error))
        };
        let columns = by_number(|column| &column.name)?;
        let types = by_number(|column| &column.type_sql)?;
        let [by, partitions, options, files] =
            self.carriage.get(&table.table).cloned().unwrap_or_default().literals();
        let sql = format!(
            "insert into pgdiode.relation as r
                    (pipeline, schema_name, table_name, state, copied_at, source_oid, rows_copied, columns, column_types,
                     carried_by, partitions, options, files)
             values ({}, {}, {}, 'copied', '{}', {}, {rows}, {}, {}, {by}, {partitions},
                     {options}, {files})
             on conflict (pipeline, schema_name, table_name) do update
                set state = excluded.state, copied_at = excluded.copied_at, source_oid = excluded.source_oid,
                    rows_copied = excluded.rows_copied, columns = excluded.columns,
                    column_types = excluded.column_types, carried_by = excluded.carried_by,
                    partitions = excluded.partitions, options = excluded.options,
                    files = excluded.files, reason = null, remedy = null, since = now()",
            quote::literal(&self.pipeline.name),
            quote::literal(&table.table.schema),
            quote::literal(&table.table.name),
            self.consistent_point,
            table.oid,
            quote::literal(&columns),
            quote::literal(&types)
        );
        target.query(&sql).await.map(drop)
    }
}

/// What building an index costs, next to copying the table: those that hold several entries a row cost far more than
/// it, and must not begin last.
fn index_cost(entry: &Entry, table_bytes: u64) -> u64 {
    let has_many_entries = ["\"gin\"", "\"gist\"", "\"spgist\"", " gin ", " gist ", " spgist "];
    if has_many_entries.iter().any(|method| entry.sql.contains(method)) {
        table_bytes * 2
    } else {
        table_bytes / 2
    }
}

/// Empties a table for its copy, in the open transaction; whether its rows may be frozen on arrival.
pub(super) async fn empty(target: &mut Session, table: &TableName, is_partitioned: bool) -> Result<bool> {
    let name = quote::table(table);
    let referenced = format!(
        "select exists (select from pg_catalog.pg_constraint
                         where confrelid = {}::pg_catalog.regclass and contype = 'f' and conrelid <> confrelid)",
        quote::literal(&name)
    );
    if target.one(&referenced).await?.bool(0) {
        // TRUNCATE refuses while another table's foreign key points here, even though it does not fire for us.
        target.query(&format!("delete from only {name}")).await?;
        return Ok(false);
    }
    let only = if is_partitioned { "" } else { "only " };
    target.query(&format!("truncate {only}{name}")).await?;
    Ok(!is_partitioned)
}

/// Whether the table was written anew since the snapshot, in the transaction that has just read it. TRUNCATE and
/// rewriting ALTER TABLE do not keep to snapshots: what they leave looks empty to an older one. Who has read the table
/// holds its lock, so nothing of the kind follows before the transaction's end.
pub(super) async fn is_rewritten(source: &mut Session, table: &SourceTable) -> Result<bool> {
    let (oid, name) = (table.oid, quote::literal(&quote::table(&table.table)));
    let sql = format!(
        "select coalesce(pg_catalog.to_regclass({name})::oid <> {oid}, true) or exists (
             select from pg_catalog.pg_class c
              where c.oid in (select {oid} union all select p.relid from pg_catalog.pg_partition_tree({oid}) p)
                and c.relkind = 'r' and c.relfilenode <> pg_catalog.pg_relation_filenode(c.oid))"
    );
    Ok(source.one(&sql).await?.bool(0))
}

/// All rows of a table in text format, with the columns that are carried.
pub fn whole_table_out(table: &SourceTable) -> String {
    copy_out(table, Part::Whole, "text")
}

/// The source's half; the column list is pinned, since a snapshot pins rows but not the catalog.
fn copy_out(table: &SourceTable, part: Part, format: &str) -> String {
    let name = quote::table(&table.table);
    let columns = quote::identifiers(table.columns.iter().map(|column| column.name.as_str()));
    if table.is_redacted() {
        return copy_out_redacted(table, part, format);
    }
    match part {
        Part::Whole if table.is_partitioned => {
            format!("copy (select {columns} from {name}) to stdout (format {format})")
        }
        Part::Whole if table.columns.is_empty() => format!("copy {name} to stdout (format {format})"),
        Part::Whole => format!("copy {name} ({columns}) to stdout (format {format})"),
        Part::Blocks(from, to) => {
            let end = to.map_or_else(String::new, |to| format!(" and ctid < '({to},0)'::tid"));
            format!(
                "copy (select {columns} from only {name} where ctid >= '({from},0)'::tid{end}) to stdout (format {format})"
            )
        }
    }
}

/// Masks are evaluated by the source: what they hide does not leave it.
fn copy_out_redacted(table: &SourceTable, part: Part, format: &str) -> String {
    let value = |column: &SourceColumn| {
        let name = quote::identifier(&column.name);
        column.mask.as_ref().map_or_else(|| format!("t.{name}"), |mask| format!("{mask} as {name}"))
    };
    let values = table.columns.iter().map(value).collect::<Vec<_>>().join(", ");
    let rows = match part {
        _ if table.is_emptied => " where false".to_owned(),
        Part::Whole => String::new(),
        Part::Blocks(from, to) => {
            let end = to.map_or_else(String::new, |to| format!(" and t.ctid < '({to},0)'::tid"));
            format!(" where t.ctid >= '({from},0)'::tid{end}")
        }
    };
    let only = if table.is_partitioned { "" } else { "only " };
    format!(
        "copy (select {values} from {only}{} t{rows}) to stdout (format {format})",
        quote::table(&table.table)
    )
}

/// A value that a mask could not be computed of may stand in the server's message: it is not passed on.
fn without_values(table: &SourceTable, error: Error) -> Error {
    let is_of_values = error.sqlstate().is_some_and(|state| state.starts_with("22"));
    if !table.is_redacted() || !is_of_values {
        return error;
    }
    let state = error.sqlstate().unwrap_or_default().to_owned();
    Error::unexpected(format!("a mask cannot be computed for one of the rows (SQLSTATE {state})"))
        .with_sqlstate(state)
        .hint("Find the row at the source by running the mask's expression there.")
}

fn copy_into(at_target: &TableName, table: &SourceTable, format: &str, frozen: bool) -> String {
    let name = quote::table(at_target);
    let columns = if table.columns.is_empty() {
        String::new()
    } else {
        format!(" ({})", quote::identifiers(table.columns.iter().map(|column| column.name.as_str())))
    };
    let freeze = if frozen { ", freeze" } else { "" };
    format!("copy {name}{columns} from stdin (format {format}{freeze})")
}

/// Replays one post-data entry, in the source's names.
async fn replay_post_data(
    ends: &Ends,
    target: &mut Session,
    entry: &Entry,
    roles: &HashSet<String>,
) -> Result<Vec<LeftOut>> {
    let Some(schemas) = &ends.schemas else {
        return schema::replay_post_data(target, entry, roles).await;
    };
    // Such transactions come one after the other: what can do without runs beside them.
    if let Some(entry) = entry.elsewhere(schemas.names()) {
        return schema::replay_post_data(target, &entry, roles).await;
    }
    target.query(&ends.begin_named()).await?;
    let replayed = schema::replay_post_data(target, entry, roles).await;
    let ended = match &replayed {
        Err(error) if error.retries() => return replayed,
        Err(_) => target.query("rollback").await,
        Ok(_) => target.query(&ends.commit_named()).await,
    };
    match ended {
        // The entry failed, and that was said or need not be.
        Err(error) if error.sqlstate() == Some("25P02") => target.query("rollback").await.and(replayed),
        Err(error) => Err(error),
        Ok(_) => replayed,
    }
}

/// What needs several tables, or tables that hold no rows of their own.
async fn finish_schema(copy: &Copy, target: &mut Session) -> Result<Vec<LeftOut>> {
    copy.meter.phase(Phase::Copying, "adding foreign keys and the rest of the schema");
    let dump = copy.post_data().await?;
    schema::apply_settings(target, dump).await?;
    let order = dump.rebuild_order();
    let copied: HashSet<&TableName> = copy.tables.iter().map(|table| &table.source.table).collect();
    let others = order.tables.iter().filter(|rebuild| !copied.contains(&rebuild.table));
    let entries = others
        .flat_map(|rebuild| rebuild.entries.iter())
        .chain(&order.attachments)
        .chain(&order.foreign_keys)
        .chain(&order.rest);
    let mut left_out = Vec::new();
    for entry in
        entries.filter(|entry| !entry.stays_at_source() && is_carried(&copy.ends, &copy.pipeline, entry))
    {
        let needs_uncarried =
            entry.referenced_table.as_ref().is_some_and(|table| !copy.pipeline.tables.match_table(table));
        if needs_uncarried {
            let reason = "it refers to a table that is not carried".to_owned();
            left_out.push(LeftOut { entry: entry.name.clone(), reason });
            continue;
        }
        match replay_post_data(&copy.ends, target, entry, &copy.roles).await {
            Ok(more) => left_out.extend(more),
            // The rows that it speaks of were left at the source, or masked.
            Err(error) if error.sqlstate() == Some("23503") && copy.is_redacted(entry) => {
                left_out.push(LeftOut { entry: entry.name.clone(), reason: error.chain() });
            }
            // What belongs to a table that could not be created waits for that table.
            Err(error) if error.sqlstate() == Some("42P01") => {
                left_out.push(LeftOut { entry: entry.name.clone(), reason: error.chain() });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(left_out)
}

/// Sets every sequence that exists on both sides to the source's value. Not transactional on either side: sequences
/// only ever run ahead.
pub async fn carry_sequences(ends: &Ends, source: &mut Session, target: &mut Session) -> Result<u64> {
    let rows = source
        .query(
            "select schemaname, sequencename, last_value from pg_catalog.pg_sequences
              where last_value is not null and schemaname <> 'pgdiode'",
        )
        .await?;
    let values: Vec<String> = rows
        .iter()
        .map(|row| {
            let name = quote::table(&ends.at_target(&TableName::new(row.string(0), row.string(1))));
            format!("({}, {})", quote::literal(&name), row.string(2))
        })
        .collect();
    let mut carried = 0;
    for values in values.chunks(1000) {
        let sql = format!(
            "select pg_catalog.count(pg_catalog.setval(s.oid, v.value))
               from (values {}) as v (name, value)
               cross join lateral (select pg_catalog.to_regclass(v.name) as oid) as s
               join pg_catalog.pg_class c on c.oid = s.oid and c.relkind = 'S'
               left join pg_catalog.pg_sequences q
                 on q.schemaname = c.relnamespace::pg_catalog.regnamespace::text and q.sequencename = c.relname
              where q.last_value is distinct from v.value",
            values.join(", ")
        );
        carried += target.one(&sql).await?.get::<u64>(0)?;
    }
    Ok(carried)
}

async fn mark_ready(target: &mut Session, pipeline: &str, schema: SchemaWork) -> Result<()> {
    let name = quote::literal(pipeline);
    let mut sql =
        format!("update pgdiode.relation set state = 'ready' where pipeline = {name} and state = 'copied';");
    if schema != SchemaWork::NewTables {
        sql.push_str(&format!("update pgdiode.pipeline set schema_copied = true where name = {name};"));
    }
    target.query(&sql).await.map(drop)
}

/// The tables that a first copy carries: what the publication names, as far as the patterns want it.
pub async fn carried(source: &mut Session, pipeline: &Pipeline) -> Result<Vec<SourceTable>> {
    if pipeline.plugin == Plugin::Wal2json {
        // Such a slot has no publication, and names partitions, never their roots.
        let tables = catalog::tables(source).await?.into_values();
        let is_wanted =
            |table: &SourceTable| !table.is_partitioned && pipeline.tables.match_table(&table.table);
        return Ok(tables.filter(is_wanted).collect());
    }
    let Some(published) = catalog::published(source, &pipeline.publication).await? else {
        return Err(Error::refused(format!(
            "there is no publication \"{}\" at the source",
            pipeline.publication
        ))
        .hint("Create it with: pgdiode setup. To see what that runs: pgdiode setup --print-sql."));
    };
    let mut tables = catalog::tables(source).await?;
    let wanted = published.into_iter().filter(|table| pipeline.tables.match_table(table));
    Ok(wanted.filter_map(|table| tables.remove(&table)).collect())
}
