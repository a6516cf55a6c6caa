//! The base snapshot of an archive: every table as of one moment, so that a new reader needs nothing but the archive.
//!
//! The moment is that of a temporary slot: it shows exactly the transactions whose commit record begins before its
//! consistent point, which is what a reader goes by when it skips what the base already has.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::archive::FORMAT;
use crate::archive::draft::Press;
use crate::archive::line::Origin as LineageLine;
use crate::archive::manifest::{self, Base, BaseTable, Piece, TableShape};
use crate::archive::names;
use crate::change::TableName;
use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::copy::Rows;
use crate::pg::dump::{self, DumpOptions};
use crate::pg::quote;
use crate::pg::replication::SlotLife;
use crate::pg::session::Session;
use crate::pipeline::copy;
use crate::pipeline::ends::Origin;
use crate::pipeline::meter::Meter;
use crate::position::Lineage;
use crate::source::postgres::catalog::SourceTable;
use crate::status::Phase;
use crate::store::{AnyStore, Content, Store};
use crate::target::archive::{Claimed, Making, create, spool_failed};

/// Rows are pressed in pieces of this size.
const ROWS_BYTES: usize = 256 * 1024;

pub(super) struct Order<'a> {
    pub(super) store: &'a Arc<AnyStore>,
    pub(super) claimed: &'a Claimed,
    /// The first change file that is not sealed yet.
    pub(super) next_file: u64,
    pub(super) making: &'a Making,
}

/// What every table's copy needs.
struct Moment {
    origin: Origin,
    store: Arc<AnyStore>,
    meter: Arc<Meter>,
    snapshot: String,
    number: u64,
    making: Making,
    piece_bytes: u64,
    tables: Vec<SourceTable>,
    next: AtomicUsize,
}

/// Makes a base, unless the archive has one.
pub(super) async fn make_first(
    pipeline: &Pipeline,
    origin: &Origin,
    meter: &Arc<Meter>,
    order: &Order<'_>,
    lineage: &Lineage,
) -> Result<()> {
    let folders = order.store.folders(names::BASES).await?;
    for folder in &folders {
        if order.store.size(&format!("{folder}/manifest.json")).await?.is_some() {
            return Ok(());
        }
    }
    make(pipeline, origin, meter, order, lineage, next_number(&folders)).await.map(drop)
}

/// Makes one more, beside a writer that runs or without one.
pub(super) async fn make_another(
    pipeline: &Pipeline,
    origin: &Origin,
    meter: &Arc<Meter>,
    order: &Order<'_>,
    lineage: &Lineage,
) -> Result<Base> {
    let folders = order.store.folders(names::BASES).await?;
    make(pipeline, origin, meter, order, lineage, next_number(&folders)).await
}

/// What a run that was killed has left keeps its number: nothing in an archive is written twice.
fn next_number(folders: &[String]) -> u64 {
    folders.iter().filter_map(|folder| names::parse_numbered(folder)).max().unwrap_or(0) + 1
}

async fn make(
    pipeline: &Pipeline,
    origin: &Origin,
    meter: &Arc<Meter>,
    order: &Order<'_>,
    lineage: &Lineage,
    number: u64,
) -> Result<Base> {
    meter.phase(Phase::Copying, "waiting for a consistent point of the source");
    let mut replication = origin.replication().await?;
    let name = format!("pgdiode_base_{}_{:08x}", pipeline.name, fastrand::u32(..));
    let making = replication.create_slot(&name, SlotLife::Temporary);
    let slot = copy::telling_who_delays(origin, meter, making).await?;
    let snapshot = slot.snapshot.ok_or_else(|| Error::unexpected("the source exported no snapshot"))?;
    meter.phase(Phase::Copying, "copying rows into the archive");
    let mut source = origin.session().await?;
    let mut tables = copy::carried(&mut source, pipeline).await?;
    tables.sort_by_key(|table| std::cmp::Reverse(table.bytes));
    meter.copy_begins(tables.len(), tables.iter().map(|table| table.bytes).sum());
    let moment = Arc::new(Moment {
        origin: origin.clone(),
        store: Arc::clone(order.store),
        meter: Arc::clone(meter),
        snapshot,
        number,
        making: order.making.clone(),
        piece_bytes: pipeline.archive.file_mb << 20,
        tables,
        next: AtomicUsize::new(0),
    });
    let mut workers = JoinSet::new();
    for _ in 0..pipeline.copy.jobs() {
        workers.spawn(work(Arc::clone(&moment)));
    }
    let pg_dump = dump::find_pg_dump(pipeline.pg_dump.as_deref(), source.server_major()).await?;
    let excluded = unreadable(&mut source).await?;
    let options = DumpOptions { snapshot: Some(moment.snapshot.clone()), excluded, ..DumpOptions::default() };
    let text = dump::run(&pg_dump, &origin.0.to_libpq_env(), &options).await?;
    let schema = moment.put("schema.sql", text.into()).await?;
    let mut copied = Vec::new();
    while let Some(worked) = workers.join_next().await {
        copied.extend(worked.map_err(|error| Error::unexpected("a table's copy failed").because(error))??);
    }
    drop(replication);
    copied.sort_by(|one: &BaseTable, other| (&one.schema, &one.table).cmp(&(&other.schema, &other.table)));
    let base = Base {
        format: FORMAT,
        archive: order.claimed.archive.clone(),
        number,
        epoch: order.claimed.epoch,
        lineage: LineageLine::from(lineage),
        at: slot.consistent_point,
        next_file: order.next_file,
        schema,
        tables: copied,
        sealed: jiff::Timestamp::now().to_string(),
    };
    let name = names::base_manifest(number);
    let text = Bytes::from(manifest::signed_text(&name, &base, moment.making.keys.signer.as_deref()));
    create(&moment.store, &name, Content::Bytes(text)).await?;
    let rows: u64 = base.tables.iter().map(|table| table.rows).sum();
    tracing::info!(number, tables = base.tables.len(), rows, at = %base.at, "put a base snapshot into the archive");
    Ok(base)
}

/// Tables that this user may not read, and so may not lock for `pg_dump`. Those that are carried have been looked at.
async fn unreadable(source: &mut Session) -> Result<Vec<TableName>> {
    let sql = "
        select n.nspname, c.relname
          from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p', 'f') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
           and not (pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_table_privilege(c.oid, 'select'))";
    let rows = source.query(sql).await?;
    Ok(rows.iter().map(|row| TableName::new(row.string(0), row.string(1))).collect())
}

/// Takes one table after the other.
async fn work(moment: Arc<Moment>) -> Result<Vec<BaseTable>> {
    let mut copied = Vec::new();
    loop {
        let index = moment.next.fetch_add(1, Ordering::Relaxed);
        let Some(table) = moment.tables.get(index) else { return Ok(copied) };
        copied.push(moment.copy(index, table).await?);
    }
}

impl Moment {
    async fn copy(&self, index: usize, table: &SourceTable) -> Result<BaseTable> {
        self.meter.table_begins(&table.table);
        let mut session = self.origin.session().await?;
        session
            .query(&format!(
                "begin isolation level repeatable read read only; set transaction snapshot {}",
                quote::literal(&self.snapshot)
            ))
            .await?;
        let mut rows = Rows::begin(&mut session, &copy::whole_table_out(table)).await?;
        let mut pieces = Vec::new();
        let (mut counted, mut is_over) = (0, false);
        while !is_over {
            let number = pieces.len() + 1;
            let name = format!("tables/{:04}-{number:04}.copy", index + 1);
            let mut piece = self.begin(&name)?;
            let mut buffer = Vec::new();
            loop {
                match rows.next().await? {
                    Some(row) => {
                        counted += 1;
                        self.meter.copied_bytes(&table.table, row.len() as u64);
                        buffer.extend_from_slice(&row);
                    }
                    None => is_over = true,
                }
                if buffer.len() >= ROWS_BYTES || is_over {
                    piece = piece.write(std::mem::take(&mut buffer)).await?;
                }
                if is_over || piece.bytes >= self.piece_bytes {
                    break;
                }
            }
            pieces.push(self.finish(piece).await?);
        }
        let sent = rows.sent().await?;
        if sent != counted {
            return Err(Error::unexpected(format!(
                "the source sent {counted} rows of {} and counted {sent}",
                table.table
            )));
        }
        // Under the lock that the copy has taken.
        let shape = shape(&mut session, table).await?;
        if copy::is_rewritten(&mut session, table).await? {
            let what =
                format!("table {} was written anew at the source while its rows were read", table.table);
            // The next attempt begins a base of its own.
            return Err(Error::new(Kind::SourceUnreachable, what).hint("Nothing is lost: try again."));
        }
        self.meter.table_ends(&table.table, counted);
        Ok(BaseTable {
            schema: table.table.schema.clone(),
            table: table.table.name.clone(),
            columns: table.columns.iter().map(|column| column.name.clone()).collect(),
            shape: Some(shape),
            rows: counted,
            pieces,
        })
    }

    async fn put(&self, name: &str, content: Vec<u8>) -> Result<Piece> {
        let piece = self.begin(name)?.write(content).await?;
        self.finish(piece).await
    }

    fn begin(&self, name: &str) -> Result<Pressed> {
        let Making { stored, level, keys, spool } = &self.making;
        let name = format!("{}/{name}{}", names::base(self.number), stored.suffix());
        let path = spool.join(name.replace('/', "-"));
        let failed = |error: std::io::Error| spool_failed(spool, error);
        let file = BufWriter::new(File::create(&path).map_err(failed)?);
        let press = Press::encrypting(file, *stored, *level, keys.recipients.as_ref()).map_err(failed)?;
        Ok(Pressed { name, path, press, bytes: 0 })
    }

    async fn finish(&self, piece: Pressed) -> Result<Piece> {
        let Pressed { name, path, press, .. } = piece;
        let spool = self.making.spool.clone();
        let pressed = tokio::task::spawn_blocking(move || {
            let (out, sums) = press.finish()?;
            out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            Ok(sums)
        });
        let sums = pressed.await.map_err(thread_failed)?.map_err(|error| spool_failed(&spool, error))?;
        create(&self.store, &name, Content::File(&path)).await?;
        // What stays is overwritten by the next run.
        let _ = std::fs::remove_file(&path);
        Ok(Piece::of(name, sums))
    }
}

/// What tells the table from one of the same name that is made, or altered, later.
async fn shape(session: &mut Session, table: &SourceTable) -> Result<TableShape> {
    let sql = format!(
        "select attname, atttypid, atttypmod from pg_catalog.pg_attribute where attrelid = {} and attnum > 0",
        table.oid
    );
    let mut types = HashMap::new();
    for row in session.query(&sql).await? {
        types.insert(row.string(0), (row.get(1)?, row.get(2)?));
    }
    let types = table.columns.iter().map(|column| {
        types.get(&column.name).copied().ok_or_else(|| {
            Error::unexpected(format!(
                "column {} of {} has gone while it was copied",
                column.name, table.table
            ))
        })
    });
    Ok(TableShape { oid: table.oid, types: types.collect::<Result<_>>()? })
}

/// A piece that is being written to the spool directory.
struct Pressed {
    name: String,
    path: PathBuf,
    press: Press<BufWriter<File>>,
    bytes: u64,
}

impl Pressed {
    /// On another thread: compressing takes its time.
    async fn write(mut self, bytes: Vec<u8>) -> Result<Pressed> {
        let written = tokio::task::spawn_blocking(move || {
            let result = self.press.write(&bytes);
            self.bytes += bytes.len() as u64;
            (self, result)
        });
        let (pressed, result) = written.await.map_err(thread_failed)?;
        match result {
            Ok(()) => Ok(pressed),
            Err(error) => Err(spool_failed(pressed.path.parent().unwrap_or(&pressed.path), error)),
        }
    }
}

fn thread_failed(error: tokio::task::JoinError) -> Error {
    Error::unexpected("a thread that writes into the archive failed").because(error)
}
