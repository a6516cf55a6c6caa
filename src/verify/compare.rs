//! The comparison under two given snapshots: `jobs` pieces of tables at once, the largest table first, each piece by a
//! session a side. A table is digested in one piece, or if it is large in several, by where its rows lie.
//!
//! A session reads each piece in a transaction of its own that imports the side's snapshot, so that no table stays
//! locked longer than it is read. What a server refuses about one table (a privilege, a row policy, a row too long for
//! a text) is said of that table and the others go on; a lost connection ends the comparison.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::TableToVerify;
use super::differences::{Found, find};
use super::digest::{Digest, Hashing, Piece, Reading};
use super::pair::{Pair, Place};
use super::shape::{Shape, ShapeColumn, shapes};
use crate::change::TableName;
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::{Row, Side};
use crate::pipeline::ends::Ends;
use crate::position::Lsn;
use crate::status::{Progress, TableVerification, VerifyReport};

/// Compares `tables` as the two exported snapshots show them; whoever exported these keeps them open meanwhile.
/// `at` is the position of both, for the report.
pub async fn compare(
    ends: &Ends,
    source_snapshot: &str,
    target_snapshot: &str,
    at: Lsn,
    tables: &[TableToVerify],
    jobs: usize,
    progress: &watch::Sender<Progress>,
) -> Result<VerifyReport> {
    let started = Instant::now();
    let place =
        Arc::new(Place { ends: ends.clone(), snapshots: [source_snapshot.into(), target_snapshot.into()] });
    let mut pair = Pair::open(&place).await?;
    let (tasks, mut verified) = plan(&mut pair, tables).await?;
    progress.send_modify(|progress| {
        progress.doing = "comparing".into();
        progress.tables_total = tables.len() as u64;
        progress.tables_done = verified.len() as u64;
    });
    let pieces: Vec<(Arc<Task>, Piece)> = tasks.into_iter().flat_map(Task::pieces).collect();
    let jobs = jobs.clamp(1, pieces.len().max(1));
    let queue = Arc::new(Mutex::new(pieces));
    let mut workers = JoinSet::new();
    workers.spawn(work(pair, queue.clone(), progress.clone()));
    for _ in 1..jobs {
        let (place, queue, progress) = (place.clone(), queue.clone(), progress.clone());
        workers.spawn(async move { work(Pair::open(&place).await?, queue, progress).await });
    }
    while let Some(finished) = workers.join_next().await {
        let finished =
            finished.map_err(|error| Error::unexpected("a comparison broke off").because(error))?;
        verified.extend(finished?);
    }
    verified.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(VerifyReport {
        identical: verified.iter().all(|table| table.identical),
        lsn: Some(at),
        tables: verified,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A table, matched, waiting for its turn.
struct Task {
    name: TableName,
    source: Reading,
    target: Reading,
    bytes: u64,
    /// Why the sides are not the same, whatever their rows.
    difference: Option<String>,
    sum: Mutex<Sum>,
}

/// What the pieces of a table add up to.
#[derive(Debug, Clone, Default)]
struct Sum {
    source: Digest,
    target: Digest,
    pieces_done: u64,
    /// Why it cannot be compared, once a piece could not.
    obstacle: Option<String>,
}

/// Pieces of a table are digested at once, each of so many blocks (64 MiB) or less.
const PIECE_BLOCKS: u64 = 8192;

impl Task {
    /// How many pieces there are: the larger side decides.
    fn parts(&self) -> u64 {
        self.source.blocks.max(self.target.blocks).div_ceil(PIECE_BLOCKS).max(1)
    }

    /// The first last, where it is taken first.
    fn pieces(self) -> impl Iterator<Item = (Arc<Task>, Piece)> {
        let task = Arc::new(self);
        let of = task.parts();
        (0..of).rev().map(move |number| (task.clone(), Piece { number, of }))
    }

    /// Adds a piece; the sum of all of them once it was the last.
    fn add(&self, piece: Piece, digests: Result<(Digest, Digest), String>) -> Option<Sum> {
        let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        match digests {
            Ok((source, target)) => {
                sum.source.add(source);
                sum.target.add(target);
            }
            Err(obstacle) => {
                sum.obstacle.get_or_insert(obstacle);
            }
        }
        sum.pieces_done += 1;
        (sum.pieces_done == piece.of).then(|| sum.clone())
    }

    fn has_obstacle(&self) -> bool {
        self.sum.lock().unwrap_or_else(PoisonError::into_inner).obstacle.is_some()
    }
}

/// The largest table last, where it is taken first: see [`work`].
type Queue = Arc<Mutex<Vec<(Arc<Task>, Piece)>>>;

/// What is to be compared, the largest last; and what needs no comparison to be different.
async fn plan(pair: &mut Pair, tables: &[TableToVerify]) -> Result<(Vec<Task>, Vec<TableVerification>)> {
    pair.begin().await?;
    let (source, target) = tokio::join!(shapes(&mut pair.source), shapes(&mut pair.target));
    let (source, target) = (source?, target?);
    let hashing = pair.hashing().await?;
    pair.end().await?;
    let (mut tasks, mut settled) = (Vec::new(), Vec::new());
    for table in tables {
        let at_target = pair.place.ends.at_target(&table.name);
        match matched(table, &at_target, &source, &target, hashing) {
            Ok(task) => tasks.push(task),
            Err(obstacle) => settled.push(not_compared(&table.name, &obstacle)),
        }
    }
    tasks.sort_by_key(|task| task.bytes);
    Ok((tasks, settled))
}

fn not_compared(name: &TableName, obstacle: &str) -> TableVerification {
    TableVerification {
        name: name.clone(),
        rows_source: 0,
        rows_target: 0,
        digest_source: String::new(),
        digest_target: String::new(),
        identical: false,
        differences: Vec::new(),
        differences_total: 0,
        note: Some(format!("not compared: {obstacle}")),
    }
}

/// How both sides read the table, or why they cannot.
fn matched(
    table: &TableToVerify,
    at_target: &TableName,
    sources: &BTreeMap<TableName, Shape>,
    targets: &BTreeMap<TableName, Shape>,
    hashing: Hashing,
) -> Result<Task, String> {
    if let Some(obstacle) = &table.obstacle {
        return Err(obstacle.clone());
    }
    let shape = |shapes: &BTreeMap<TableName, Shape>, name: &TableName, side: Side| match shapes.get(name) {
        None => Err(format!("there is no such table at the {}", side.name())),
        Some(shape) if !["r", "p"].contains(&shape.kind.as_str()) => {
            Err(format!("at the {} it is no table (relkind {})", side.name(), shape.kind))
        }
        Some(shape) => Ok(shape.clone()),
    };
    let source = shape(sources, &table.name, Side::Source)?;
    let target = shape(targets, at_target, Side::Target)?;
    let is_at_target = |column: &ShapeColumn| target.columns.iter().any(|here| here.name == column.name);
    let is_carried = |column: &ShapeColumn| {
        column.generated.is_empty()
            && table.columns.as_ref().is_none_or(|carried| carried.contains(&column.name))
    };
    let columns: Vec<String> = source
        .columns
        .iter()
        .filter(|column| {
            // What is generated from a masked column differs as it should.
            let is_stored = column.generated == "s" && table.masks.is_empty();
            (is_carried(column) || is_stored) && is_at_target(column)
        })
        .map(|column| column.name.clone())
        .collect();
    let missing = source.columns.iter().filter(|column| is_carried(column) && !is_at_target(column));
    let missing: Vec<&str> = missing.map(|column| column.name.as_str()).collect();
    let difference =
        (!missing.is_empty()).then(|| format!("the target's table lacks columns: {}", missing.join(", ")));
    let has_key = source.key.iter().all(|name| columns.contains(name));
    let key = if has_key { source.key.clone() } else { Vec::new() };
    let reading = |shape: &Shape,
                   name: &TableName,
                   filter: &Option<String>,
                   masks: &BTreeMap<String, String>| Reading {
        oid: shape.oid,
        relation: relation(name, &shape.kind),
        filter: filter.clone(),
        blocks: shape.blocks,
        columns: columns.clone(),
        masks: masks.clone(),
        key: key.clone(),
        hashing,
    };
    Ok(Task {
        name: table.name.clone(),
        source: reading(&source, &table.name, &table.filter, &table.masks),
        target: reading(&target, at_target, &None, &BTreeMap::new()),
        bytes: source.bytes.max(target.bytes),
        difference,
        sum: Mutex::default(),
    })
}

/// A partitioned table's rows are in its partitions; any other's children are tables of their own.
fn relation(name: &TableName, kind: &str) -> String {
    let only = if kind == "p" { "" } else { "only " };
    format!("{only}{} t", quote::table(name))
}

/// Takes pieces off the queue's end until there are none. Whoever adds a table's last piece looks for its differences.
async fn work(
    mut pair: Pair,
    queue: Queue,
    progress: watch::Sender<Progress>,
) -> Result<Vec<TableVerification>> {
    let mut verified = Vec::new();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some((task, piece)) = next else { return Ok(verified) };
        let name = task.name.to_string();
        if piece.number == 0 {
            progress.send_modify(|progress| progress.current.push(name.clone()));
        }
        let digests = if task.has_obstacle() {
            Ok(Err(String::new()))
        } else {
            piece_digests(&mut pair, &task, piece).await
        };
        let sum = task.add(piece, digests.map_err(|error| error.context(&name))?);
        progress.send_modify(|progress| progress.bytes += task.bytes / piece.of);
        let Some(sum) = sum else { continue };
        let table = verdict(&mut pair, &task, sum).await.map_err(|error| error.context(&name))?;
        progress.send_modify(|progress| {
            progress.current.retain(|current| *current != name);
            progress.tables_done += 1;
            progress.rows += table.rows_source;
        });
        verified.push(table);
    }
}

/// Both sides' digests of a piece, or why they are not to be had.
async fn piece_digests(
    pair: &mut Pair,
    task: &Task,
    piece: Piece,
) -> Result<Result<(Digest, Digest), String>> {
    let (source, target) = (task.source.piece_digest(piece), task.target.piece_digest(piece));
    let asked = pair.under_snapshots(async |pair| {
        let (source, target) = pair.ask(&source, &target).await?;
        Ok((digest_of_piece(&source)?, digest_of_piece(&target)?))
    });
    Ok(asked.await?.and_then(|((source, source_rewritten), (target, target_rewritten))| {
        check_not_rewritten(source_rewritten, target_rewritten)?;
        Ok((source, target))
    }))
}

/// The rows that make the table differ.
async fn rows_that_differ(pair: &mut Pair, task: &Task, rows: u64) -> Result<Result<Found, String>> {
    let rewritten = |reading: &Reading| format!("select {}", reading.is_rewritten());
    let asked = pair.under_snapshots(async |pair| {
        let found = find(pair, &task.source, &task.target, rows).await?;
        let (source, target) = pair.ask(&rewritten(&task.source), &rewritten(&task.target)).await?;
        let is_rewritten = |rows: &[Row]| rows.first().is_some_and(|row| row.bool(0));
        Ok((found, is_rewritten(&source), is_rewritten(&target)))
    });
    Ok(asked.await?.and_then(|(found, source_rewritten, target_rewritten)| {
        check_not_rewritten(source_rewritten, target_rewritten)?;
        Ok(found)
    }))
}

/// What there is to say of a table whose pieces add up to `sum`.
async fn verdict(pair: &mut Pair, task: &Task, sum: Sum) -> Result<TableVerification> {
    let Sum { source, target, .. } = sum;
    if let Some(obstacle) = sum.obstacle {
        return Ok(not_compared(&task.name, &obstacle));
    }
    let rows = source.rows.max(target.rows);
    let found =
        if source == target { Ok(Found::default()) } else { rows_that_differ(pair, task, rows).await? };
    let (found, refused) = match found {
        Ok(found) => (found, None),
        Err(refused) => (Found::default(), Some(format!("the rows that differ cannot be found: {refused}"))),
    };
    let note = match &task.difference {
        Some(difference) => Some(difference.clone()),
        None if refused.is_some() => refused,
        None if found.is_partial => Some("there are more differences than were counted".into()),
        None if source != target && found.total == 0 => Some(
            "the table as a whole differs, yet no row of it: its values are not written the same twice"
                .into(),
        ),
        None => None,
    };
    Ok(TableVerification {
        name: task.name.clone(),
        rows_source: source.rows,
        rows_target: target.rows,
        digest_source: source.to_string(),
        digest_target: target.to_string(),
        identical: source == target && task.difference.is_none(),
        differences: found.first,
        differences_total: found.total,
        note,
    })
}

fn check_not_rewritten(at_source: bool, at_target: bool) -> Result<(), String> {
    let side = match (at_source, at_target) {
        (false, false) => return Ok(()),
        (true, _) => Side::Source,
        (false, true) => Side::Target,
    };
    let side = side.name();
    Err(format!("it was truncated or rewritten at the {side} while it was to be compared; verify it again"))
}

/// The digest, and whether the table was written anew since the snapshot.
fn digest_of_piece(rows: &[Row]) -> Result<(Digest, bool)> {
    let row = rows.first().ok_or_else(|| Error::unexpected("a digest came without a row"))?;
    Ok((Digest::read(row, 0)?, row.bool(3)))
}
