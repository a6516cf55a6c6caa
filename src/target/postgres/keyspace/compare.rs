//! Compares what the tables really hold with what they should: entries staged like a batch, then joined with the tables by
//! their keys and by their anchors. Nothing is written but temporary tables, which each transaction leaves empty.
//!
//! ```text
//! rows of the entries  ->  in the table by their key?        missing, or with other values
//! anchors              ->  rows of the table under these     extra, where no entry has their key
//! owners: all anchors  ->  rows of the table under none      of no key
//! ```
//!
//! Every answer is of one snapshot of the target. Rows, what is stored of their key, and the position commit together:
//! whatever a pipeline does meanwhile, within one snapshot they belong together.

use std::collections::HashMap;

use crate::error::Result;
use crate::keyspace::{Entry, Gone, Key, KeyId, Layout, Write};
use crate::pg::quote;
use crate::pg::session::{Row, Session};
use crate::target::postgres::encode::{CopyFormat, CopyRows};
use crate::target::postgres::keyspace::KeyspaceTarget;
use crate::target::postgres::keyspace::batch;
use crate::target::postgres::keyspace::control::{self, Known};
use crate::target::postgres::keyspace::shape::Shape;
use crate::target::postgres::keyspace::sieve::is_about_data;
use crate::target::postgres::keyspace::statement::Staged;
use crate::target::postgres::keyspace::underway::Counts;

const SNAPSHOT: &str = "begin isolation level repeatable read read only";

/// A session that compares.
pub struct Comparer {
    target: KeyspaceTarget,
    tables: Vec<Statements>,
}

/// What one table is asked.
struct Statements {
    rows: String,
    anchors: String,
    owners: String,
    /// Answers table, entry, and how many rows are missing, have other values, are extra.
    compare: String,
    /// Fills and asks; where the table holds exactly the rows of its keys.
    extra: Option<[String; 2]>,
    /// Says of rows whose key is not there how many they are, and their keys.
    strangers: Option<String>,
}

/// What the target has stored of some keys, as of the snapshot in which their rows are compared next.
#[derive(Debug, Default)]
pub struct AsOf {
    pub known: HashMap<KeyId, Known>,
    /// Whose history the target has applied and how far; whether every key has been looked at. Of several histories no name.
    pub position: Option<(String, u64, bool)>,
    misfits: HashMap<KeyId, Misfits>,
}

#[derive(Debug, Default)]
struct Misfits {
    by_table: HashMap<String, u64>,
    is_stuck: bool,
}

/// How a table differs from an entry, in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// By their index.
    pub entry: usize,
    pub table: usize,
    pub missing: u64,
    pub other: u64,
    pub extra: u64,
}

/// Rows that no key has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strangers {
    pub total: u64,
    /// The keys of the first of them.
    pub listed: Vec<String>,
}

/// A line for a stage, with the number before it.
type Line<'a> = (&'a str, usize, &'a [u8]);

impl Comparer {
    pub async fn open(session: Session, pipeline: &str, layout: &Layout) -> Result<Comparer> {
        let mut target = KeyspaceTarget::open(session, pipeline, layout).await?;
        let mut tables = Vec::new();
        for (number, shape) in target.shapes.iter().enumerate() {
            let staged = Staged { number, shape };
            let session = &mut target.underway.session;
            for create in creations(&staged) {
                session.query(&create).await?;
            }
            tables.push(Statements::new(&staged));
        }
        target.underway.session.query("set default_transaction_read_only = on").await?;
        Ok(Comparer { target, tables })
    }

    /// How many misfits are stored of the pipeline.
    pub async fn misfits(&mut self) -> Result<u64> {
        let sql = "select count(*) from pgdiode.keyspace_misfit where pipeline = $1";
        let rows = self.target.underway.session.query_with(sql, &[Some(&self.target.pipeline)]).await?;
        rows.first().map_or(Ok(0), |row| row.get(0))
    }

    /// Keys that are there, in order of their ids.
    pub async fn page(&mut self, after: Option<KeyId>, limit: usize) -> Result<Vec<(KeyId, Key)>> {
        self.target.page(after, limit).await
    }

    // ---- entries ----

    /// Takes a snapshot and says what is stored there of these keys; [`Comparer::compare`] ends it.
    pub async fn begin(&mut self, ids: &[KeyId]) -> Result<AsOf> {
        let pipeline = &self.target.pipeline;
        let position = format!(
            "select case when count(*) = 1 then min(replication_id) else '' end, min(read_offset), \
             bool_and(is_scanned) from pgdiode.keyspace_position where pipeline = {} having count(*) > 0",
            quote::literal(pipeline)
        );
        let asked = [
            SNAPSHOT.to_owned(),
            control::select_keys(pipeline, ids.iter().copied()),
            control::count_misfits(pipeline, ids.iter().copied()),
            position,
        ];
        let session = &mut self.target.underway.session;
        for sql in &asked {
            session.send_query(sql)?;
        }
        session.flush().await?;
        let mut replies = Vec::with_capacity(asked.len());
        for _ in &asked {
            replies.push(session.reply().await?);
        }
        let mut rows = replies.into_iter().map(|reply| reply.ok().map(|reply| reply.rows));
        let mut next = || rows.next().unwrap_or_else(|| Ok(Vec::new()));
        next()?;
        let known = next()?;
        let known = known.iter().map(control::read_key);
        let known = known.map(|read| read.map(|(id, stored)| (id, stored.known))).collect::<Result<_>>()?;
        let misfits = read_misfits(&next()?)?;
        let position = match next()?.first() {
            Some(row) => Some((row.string(0), row.get(1)?, row.bool(2))),
            None => None,
        };
        Ok(AsOf { known, position, misfits })
    }

    /// How the tables differ from these entries, each of a key that is there; ends the snapshot. What PostgreSQL refused and
    /// is kept as a misfit is no difference.
    pub async fn compare(&mut self, entries: &[&Entry], as_of: &AsOf) -> Result<Vec<Found>> {
        let compared = self.compare_in_snapshot(entries, as_of).await;
        // Empties the stages; after an error it does not matter whether it is heard.
        let ended = self.target.underway.session.query("commit").await;
        let found = compared?;
        ended.map(|_| found)
    }

    async fn compare_in_snapshot(&mut self, entries: &[&Entry], as_of: &AsOf) -> Result<Vec<Found>> {
        let mut found: HashMap<(usize, usize), Found> = HashMap::new();
        for (entry, table) in self.stage_entries(entries).await? {
            at(&mut found, entry, table).missing += 1;
        }
        let questions = self.questions(entries);
        for row in self.ask(questions).await? {
            let one = at(&mut found, row.get(1)?, row.get(0)?);
            one.missing += row.get::<u64>(2)?;
            one.other += row.get::<u64>(3)?;
            one.extra += row.get::<u64>(4)?;
        }
        let mut found: Vec<Found> = found
            .into_values()
            .map(|one| self.excuse(one, entries[one.entry], as_of))
            .filter(|one| one.missing + one.other + one.extra > 0)
            .collect();
        found.sort_unstable_by_key(|one| (one.entry, one.table));
        Ok(found)
    }

    /// Stages rows and anchors. The entry and table of each row that PostgreSQL does not take.
    async fn stage_entries(&mut self, entries: &[&Entry]) -> Result<Vec<(usize, usize)>> {
        let mut lines: Vec<Line<'_>> = Vec::new();
        let mut meant = Vec::new();
        for table in 0..self.tables.len() {
            let of = &self.tables[table];
            let parts = entries.iter().enumerate().flat_map(|(index, entry)| {
                entry.parts.iter().filter(move |part| part.table == table).map(move |part| (index, part))
            });
            for (entry, part) in parts.clone() {
                lines.extend((0..part.rows.len()).map(|row| (of.rows.as_str(), entry, part.rows.line(row))));
                meant.extend((0..part.rows.len()).map(|_| Some((entry, table))));
            }
            for (entry, part) in parts.filter(|_| of.extra.is_some()) {
                lines.push((&of.anchors, entry, batch::anchor(part)));
                meant.push(None);
            }
        }
        let refused = stage(&mut self.target, &lines).await?;
        Ok(refused.into_iter().filter_map(|index| meant[index]).collect())
    }

    fn questions(&self, entries: &[&Entry]) -> Vec<String> {
        let mut questions = Vec::new();
        for (table, of) in self.tables.iter().enumerate() {
            let mut parts = entries.iter().flat_map(|entry| &entry.parts).filter(|part| part.table == table);
            if parts.clone().any(|part| !part.rows.is_empty()) {
                questions.push(of.compare.clone());
            }
            if parts.next().is_some() {
                questions.extend(of.extra.iter().flatten().cloned());
            }
        }
        questions
    }

    /// Asks all at once; the rows of all answers.
    async fn ask(&mut self, questions: Vec<String>) -> Result<Vec<Row>> {
        let session = &mut self.target.underway.session;
        for sql in &questions {
            session.send_query(sql)?;
        }
        session.flush().await?;
        let mut rows = Vec::new();
        let mut outcome = Ok(());
        for _ in &questions {
            match session.reply().await?.ok() {
                Ok(reply) => rows.extend(reply.rows),
                Err(error) if outcome.is_ok() => outcome = Err(error),
                Err(_) => {}
            }
        }
        outcome.map(|()| rows)
    }

    /// Leaves out as many rows as are known not to fit. A row that was refused may be there as it was before, and what its
    /// key had beside it may be there still.
    fn excuse(&self, found: Found, entry: &Entry, as_of: &AsOf) -> Found {
        let Some(misfits) = as_of.misfits.get(&entry.key.id()) else { return found };
        let name = self.target.shapes[found.table].name.to_string();
        let stored = misfits.by_table.get(&name).copied().unwrap_or(0);
        let of_mapping = entry.misfits.iter().filter(|misfit| misfit.table == Some(found.table)).count();
        let refused = stored.saturating_sub(of_mapping as u64);
        let other = refused.saturating_sub(found.missing);
        Found {
            missing: found.missing.saturating_sub(refused),
            other: found.other.saturating_sub(other),
            extra: if refused > 0 || misfits.is_stuck { 0 } else { found.extra },
            ..found
        }
    }

    // ---- rows of no key ----

    /// Takes the snapshot in which [`Comparer::strangers`] looks.
    pub async fn begin_owners(&mut self) -> Result<()> {
        self.target.underway.session.query(SNAPSHOT).await.map(drop)
    }

    /// Keys that are there or were, in order of their ids, with whether they are there.
    pub async fn owners(&mut self, after: Option<KeyId>, limit: usize) -> Result<Vec<(KeyId, Key, bool)>> {
        let sql = control::select_owners(&self.target.pipeline, after, limit);
        let rows = self.target.underway.session.query(&sql).await?;
        rows.iter().map(|row| control::read_page(row).map(|(id, key)| (id, key, row.bool(3)))).collect()
    }

    /// Stages whose rows may be there. The target keeps them on disk: memory does not grow with the keys.
    pub async fn stage_owners(&mut self, entries: &[(Entry, bool)]) -> Result<()> {
        let mut lines: Vec<Line<'_>> = Vec::new();
        for (table, of) in self.tables.iter().enumerate().filter(|(_, of)| of.strangers.is_some()) {
            for (entry, is_there) in entries {
                let parts = entry.parts.iter().filter(|part| part.table == table);
                lines.extend(
                    parts.map(|part| (of.owners.as_str(), usize::from(*is_there), batch::anchor(part))),
                );
            }
        }
        // An anchor that PostgreSQL does not take has no rows.
        stage(&mut self.target, &lines).await.map(drop)
    }

    /// By table, the rows under no staged owner; ends the snapshot.
    pub async fn strangers(&mut self) -> Result<Vec<(usize, Strangers)>> {
        let session = &mut self.target.underway.session;
        // All of a table is read here: what is good for a batch is not for this.
        session.query("set local enable_hashjoin = on; set local enable_mergejoin = on").await?;
        let mut found = Vec::new();
        for (table, of) in self.tables.iter().enumerate() {
            let Some(strangers) = &of.strangers else { continue };
            session.query(&format!("analyze {}", of.owners)).await?;
            let rows = session.query(strangers).await?;
            let total = rows.first().map_or(Ok(0), |row| row.get(0))?;
            if total > 0 {
                let listed = rows.iter().map(|row| row.string(1)).collect();
                found.push((table, Strangers { total, listed }));
            }
        }
        session.query("commit").await?;
        Ok(found)
    }
}

fn at(found: &mut HashMap<(usize, usize), Found>, entry: usize, table: usize) -> &mut Found {
    found.entry((entry, table)).or_insert(Found { entry, table, missing: 0, other: 0, extra: 0 })
}

fn read_misfits(rows: &[Row]) -> Result<HashMap<KeyId, Misfits>> {
    let mut misfits: HashMap<KeyId, Misfits> = HashMap::new();
    for row in rows {
        let of = misfits.entry(KeyId(control::half(row.text(0).unwrap_or_default())?)).or_default();
        of.is_stuck |= row.bool(3);
        if let Some(table) = row.text(1) {
            of.by_table.insert(table.to_owned(), row.get(2)?);
        }
    }
    Ok(misfits)
}

/// Stages lines, those of one stage together; the indexes of those that PostgreSQL does not take, found by halving.
async fn stage(target: &mut KeyspaceTarget, lines: &[Line<'_>]) -> Result<Vec<usize>> {
    let mut refused = Vec::new();
    let mut pieces = vec![(0, lines.len())];
    while let Some((start, end)) = pieces.pop() {
        if start == end {
            continue;
        }
        target.underway.send("savepoint stage", Counts::Nothing)?;
        for of in lines[start..end].chunk_by(|one, other| one.0 == other.0) {
            let sql = format!("copy {} from stdin", of[0].0);
            let write = |copy: &mut CopyRows<'_>, (_, number, line): &Line<'_>| {
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                copy.line(&[number.to_string().as_bytes(), b"\t", line].concat(), b"\n");
            };
            target.underway.copy(&sql, CopyFormat::Text, of.iter(), write).await?;
        }
        match target.underway.settle().await? {
            Ok(_) => drop(target.underway.session.query("release savepoint stage").await?),
            Err(error) if is_about_data(&error) => {
                target.underway.session.query("rollback to savepoint stage; release savepoint stage").await?;
                if end - start == 1 {
                    refused.push(start);
                } else {
                    let middle = start + (end - start) / 2;
                    pieces.extend([(middle, end), (start, middle)]);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

// ---- statements ----

/// The names of the stages; those of a batch have others.
const ROWS: &str = "compared_rows";
const ANCHORS: &str = "compared_anchors";
const KEPT: &str = "compared_kept";
const OWNERS: &str = "compared_owners";

fn creations(staged: &Staged<'_>) -> Vec<String> {
    let number = ["0::int4 as n"];
    let mut creations = vec![staged.create_as(ROWS, &number, staged.all())];
    if staged.shape.write == Write::Replace {
        let anchor = || staged.shape.anchor.iter().copied();
        creations.push(staged.create_as(ANCHORS, &number, anchor()));
        creations.push(staged.create_as(OWNERS, &number, anchor()));
        creations.push(staged.create_keys(KEPT));
    }
    // A transaction that may not write may not truncate either.
    let mut creations: Vec<String> = creations
        .into_iter()
        .map(|create| create.replacen(" as select ", " on commit delete rows as select ", 1))
        .collect();
    if staged.shape.write == Write::Replace {
        creations.push(staged.index_keys(KEPT));
    }
    creations
}

impl Statements {
    fn new(staged: &Staged<'_>) -> Statements {
        let replaces = staged.shape.write == Write::Replace;
        Statements {
            rows: staged.stage(ROWS),
            anchors: staged.stage(ANCHORS),
            owners: staged.stage(OWNERS),
            compare: compare(staged),
            extra: replaces.then(|| [staged.note_keys(KEPT, ROWS), extra(staged)]),
            strangers: replaces.then(|| strangers(staged)),
        }
    }
}

/// The staged rows with references looked up. Of rows that are one to the table the last counts, as when they are written.
fn expected(staged: &Staged<'_>) -> String {
    let value = |index: usize| format!("{} as c{index}", staged.taken(index));
    let values: Vec<String> = staged.all().map(value).collect();
    let lost = |index: usize| {
        let take = &staged.lookup(index)?.take;
        Some(format!(" or (s.c{index} is not null and r{index}.{take} is null)"))
    };
    let rows = format!(
        "select s.n, s.ctid as place, {}, false{} as is_lost from {} as s{}",
        values.join(", "),
        staged.all().filter_map(lost).collect::<String>(),
        staged.stage(ROWS),
        staged.lookups(staged.all(), "left join")
    );
    if !staged.shape.is_loose {
        return rows;
    }
    let key = staged.key_list("d.c");
    format!("select distinct on (d.n, {key}) d.* from ({rows}) as d order by d.n, {key}, d.place desc")
}

fn compare(staged: &Staged<'_>) -> String {
    let Shape { target, key, columns, write, .. } = staged.shape;
    let absent = format!("e.{} is null", columns[key[0]].name);
    // Where a row is made once, its other values are the user's.
    let differs = match staged.differs("e", |index| format!("x.c{index}")) {
        terms if *write == Write::Ensure || terms.is_empty() => String::new(),
        terms => format!(" or x.is_lost or {terms}"),
    };
    format!(
        "select {}, x.n, count(*) filter (where {absent}), count(*) filter (where not ({absent})), 0 \
         from ({}) as x left join {target} as e on {} where {absent}{differs} group by x.n",
        staged.number,
        expected(staged),
        staged.key_condition("e", "x")
    )
}

fn extra(staged: &Staged<'_>) -> String {
    format!(
        "select {}, s.n, 0, 0, count(*) from {} join {} as t on {} \
         where not exists (select from {} as k where {}) group by s.n",
        staged.number,
        staged.owners(ANCHORS),
        staged.shape.target,
        staged.anchor_condition(),
        staged.stage(KEPT),
        staged.key_condition("t", "k")
    )
}

/// How many rows are listed of a table that are of no key.
const LISTED_MAX: u64 = 100;

/// A key that is gone leaves marked rows, no rows, or whatever there was; a row that is marked may be of a key that has been
/// forgotten.
fn strangers(staged: &Staged<'_>) -> String {
    let key: Vec<String> =
        staged.shape.key.iter().map(|&index| format!("t.{}", staged.shape.columns[index].name)).collect();
    let is_there = if staged.shape.gone == Gone::Keep { "" } else { "s.n = 1 and " };
    let unmarked = staged.shape.marks.as_ref().map_or_else(String::new, |(expired, deleted)| {
        format!("t.{expired} is null and t.{deleted} is null and ")
    });
    format!(
        "select count(*) over (), pg_catalog.concat_ws(', ', {}) from {} as t \
         where {unmarked}not exists (select from {} where {is_there}{}) limit {LISTED_MAX}",
        key.join(", "),
        staged.shape.target,
        staged.owners(OWNERS),
        staged.anchor_condition()
    )
}
