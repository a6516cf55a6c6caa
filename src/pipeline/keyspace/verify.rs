//! Compares keys with the rows that they have become: every key of the server that the mapping matches, every key that
//! the target knows, and every row of the tables that hold exactly the rows of their keys.
//!
//! ```text
//! scan  -> values, as of one offset -> rows that they make   -+
//!                                                             +-> compared in one snapshot of the target
//! page  -> known keys that the server does not have ----------+
//! differs? -> looked at again, in rounds -> differs still: a difference
//! then: rows under no known key, all in one more snapshot of the target
//! ```
//!
//! The pipeline may run meanwhile, so that a value read and the rows read may be of different moments. A key that differs
//! is looked at again while the server watches it: the target must have applied an offset from after the watch began, and
//! at the end nobody must have touched the key. Then what made the value is applied, and the rows are what they will be;
//! that a value was the same at two looks would not do, since it may have been another one between. Where no offset can
//! be compared, the same value for long enough stands for it. A key that is written to all the time, or which the target
//! does not come to, is left unsettled, and counted. Rows of no key need none of this: rows and what is stored of their
//! key commit together, so one snapshot of the target says it all.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::verbs::has_keyspace_tables;
use super::{mapper, place};
use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::keyspace::{ContentHash, Entry, Key, KeyId};
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::holder;
use crate::redis::connection::Connection;
use crate::source::redis::cluster::Nodes;
use crate::source::redis::fetch::{Fetcher, Found as Value};
use crate::source::redis::mapping::Mapper;
use crate::source::redis::reader::Reader;
use crate::source::redis::scan::Scan;
use crate::source::redis::server::Server;
use crate::source::redis::untouched::Watcher;
use crate::status::keys::{ComparedTable, KeyDifference, KeyDifferenceKind as Kind, KeysReport};
use crate::target::postgres::keyspace::{AsOf, Comparer, Known};

/// Differences that are listed.
const LISTED_MAX: usize = 300;
/// Keys that wait for another look at once.
const SUSPECTS_MAX: usize = 10_000;
/// Known keys that are asked about at once.
const PAGE_KEYS: usize = 2000;
/// What a fetch should bring.
const FETCH_BYTES: usize = 8 << 20;
const FETCH_KEYS_FIRST: usize = 64;

/// For how long what differs is looked at again. A position without rows is stored each 10 s.
const PATIENCE: Duration = Duration::from_secs(25);
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Where there is no offset: so many looks at the same value, at least.
const LOOKS_MIN: u32 = 3;
/// Keys that are watched together; one that is touched spoils the look at all of them.
const WATCHED_KEYS: usize = 256;

/// Compares all keys and rows of a pipeline out of Redis; whether or not it runs.
pub(in crate::pipeline) async fn verify(pipeline: &Pipeline) -> Result<KeysReport> {
    let started = Instant::now();
    let mapper = mapper(pipeline)?;
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    if !has_keyspace_tables(&mut target).await? {
        let what = format!("pipeline \"{}\" was never started: there is nothing to compare", pipeline.name);
        return Err(Error::refused(what).hint("Start it first: pgdiode start."));
    }
    let is_running = holder::holder(&mut target, &pipeline.name).await?.is_some();
    let target = Comparer::open(target, &pipeline.name, mapper.layout()).await?;
    let name = format!("pgdiode-{}-verify", pipeline.name);
    let location = place::location(pipeline)?;
    let mut source = Connection::open(&location, &name).await?;
    let server = Server::ask(&mut source).await?;
    let fetcher: Reader = if server.as_ref().is_some_and(|server| server.is_cluster) {
        Nodes::open(&location, &name).await?.into()
    } else {
        Fetcher::new(source, server.as_ref()).into()
    };
    let watcher = Watcher::new(Connection::open(&location, &name).await?);
    let history = server.map(|server| server.replication_id).unwrap_or_default();
    let mut comparison = Comparison::new(pipeline, &mapper, (fetcher, watcher), target, history, is_running);
    comparison.wait_for_survey().await?;
    comparison.keys_of_server().await?;
    comparison.known_keys().await?;
    comparison.settle().await?;
    comparison.rows_of_no_key().await?;
    let mut report = comparison.report;
    report.misfits = comparison.target.misfits().await?;
    report.identical = report.differences_total == 0;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// A difference of a key: the table's index, what, in how many rows.
type Finding = (Option<usize>, Kind, u64);

/// What a key's value was: to be compared with what it is later.
type Seen = Option<(ContentHash, Option<i64>)>;

/// A key that differs so far.
struct Suspect {
    seen: Seen,
    /// Looks at this very value.
    looks: u32,
    findings: Vec<Finding>,
    /// The target has applied what made the value, and nobody wrote to the key until that was seen.
    is_settled: bool,
}

/// A key that was looked at; without findings nothing differs.
struct Looked {
    key: Key,
    seen: Seen,
    findings: Vec<Finding>,
}

struct Comparison<'a> {
    pipeline: &'a Pipeline,
    mapper: &'a Mapper,
    fetcher: Reader,
    watcher: Watcher,
    target: Comparer,
    /// The server's, as it was at the beginning.
    history: String,
    /// Whether the target stores offsets of the server's history.
    has_offsets: bool,
    fetch_keys: usize,
    suspects: BTreeMap<Key, Suspect>,
    report: KeysReport,
}

impl<'a> Comparison<'a> {
    fn new(
        pipeline: &'a Pipeline,
        mapper: &'a Mapper,
        (fetcher, watcher): (Reader, Watcher),
        target: Comparer,
        history: String,
        is_running: bool,
    ) -> Comparison<'a> {
        let table = |table: &crate::keyspace::Table| ComparedTable {
            name: table.name.clone(),
            rows: 0,
            missing: 0,
            extra: 0,
            different: 0,
        };
        let report = KeysReport {
            identical: false,
            is_running,
            keys: 0,
            tables: mapper.layout().tables.iter().map(table).collect(),
            misfits: 0,
            unsettled: 0,
            differences: Vec::new(),
            differences_total: 0,
            seconds: 0.0,
        };
        Comparison {
            pipeline,
            mapper,
            fetcher,
            watcher,
            target,
            history,
            has_offsets: true,
            fetch_keys: FETCH_KEYS_FIRST,
            suspects: BTreeMap::new(),
            report,
        }
    }

    /// While every key is being looked at for the first time, the target lacks what it has not come to.
    async fn wait_for_survey(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.report.is_running {
            let as_of = self.target.begin(&[]).await?;
            self.target.compare(&[], &as_of).await?;
            if let Some((history, _, is_scanned)) = as_of.position {
                self.has_offsets = !history.is_empty();
                if is_scanned {
                    break;
                }
            }
            if Instant::now() >= until {
                let what = "not every key has been looked at yet: the target lacks what was not";
                return Err(Error::refused(what).hint("Try again when `pgdiode status` says streaming."));
            }
            tokio::time::sleep(PAUSE_FIRST).await;
        }
        Ok(())
    }

    // ---- which keys ----

    async fn keys_of_server(&mut self) -> Result<()> {
        let globs = self.mapper.globs();
        for &database in self.mapper.databases() {
            let mut scan = Scan::new(database, &globs);
            while let Some(mut keys) = self.fetcher.scan(&mut scan).await? {
                keys.retain(|key| self.mapper.wants(key.database, &key.name));
                keys.sort_unstable();
                keys.dedup();
                self.report.keys += keys.len() as u64;
                self.look_first(keys, true).await?;
            }
        }
        Ok(())
    }

    async fn known_keys(&mut self) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.target.page(after, PAGE_KEYS).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            let mut keys: Vec<Key> = page.into_iter().map(|(_, key)| key).collect();
            // Others are of another mapping; their rows are found as rows of no key.
            keys.retain(|key| self.mapper.wants(key.database, &key.name));
            keys.sort_unstable();
            let there = self.fetcher.exist(&keys).await?;
            let gone = keys.into_iter().zip(there).filter_map(|(key, is_there)| (!is_there).then_some(key));
            self.look_first(gone.collect(), false).await?;
        }
    }

    async fn look_first(&mut self, keys: Vec<Key>, counts: bool) -> Result<()> {
        for looked in self.look(keys, counts).await?.0 {
            if looked.findings.is_empty() {
                continue;
            }
            let Looked { key, seen, findings, .. } = looked;
            self.suspects.insert(key, Suspect { seen, looks: 1, findings, is_settled: false });
        }
        if self.suspects.len() >= SUSPECTS_MAX { self.settle().await } else { Ok(()) }
    }

    // ---- rounds ----

    /// Looks at suspects again until each is cleared or settled, or patience ends; what is left differs.
    async fn settle(&mut self) -> Result<()> {
        let patience = if self.has_offsets {
            PATIENCE
        } else {
            // It may be that nobody hears of changes: then a key is looked at after so many seconds.
            PATIENCE.max(Duration::from_secs(self.pipeline.redis.poll_seconds + 10))
        };
        let until = Instant::now() + patience;
        let mut pause = PAUSE_FIRST;
        let mut is_first = true;
        while Instant::now() < until && self.suspects.values().any(|suspect| !suspect.is_settled) {
            // Where nobody runs it the target stays as it is: a key may only have come or gone since it was listed.
            if !self.report.is_running && !is_first {
                break;
            }
            if self.report.is_running {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            is_first = false;
            if self.report.is_running && self.has_offsets {
                self.watched_round(until).await?;
            } else {
                self.round().await?;
            }
        }
        for (key, suspect) in std::mem::take(&mut self.suspects) {
            let is_certain = suspect.is_settled || !self.has_offsets && suspect.looks >= LOOKS_MIN;
            if self.report.is_running && !is_certain {
                self.report.unsettled += 1;
                continue;
            }
            for finding in suspect.findings {
                self.tell(&key, finding);
            }
        }
        Ok(())
    }

    fn open(&self) -> Vec<Key> {
        let open = self.suspects.iter().filter(|(_, suspect)| !suspect.is_settled);
        open.map(|(key, _)| key.clone()).collect()
    }

    /// One look at each suspect.
    async fn round(&mut self) -> Result<()> {
        for looked in self.look(self.open(), false).await?.0 {
            let Some((before, looks)) = self.clear(&looked).map(|suspect| (suspect.seen, suspect.looks))
            else {
                continue;
            };
            let is_same = match (before, looked.seen) {
                (Some(one), Some(other)) => one.0 == other.0 && self.fetcher.expires_alike(one.1, other.1),
                (one, other) => one.is_none() && other.is_none(),
            };
            let looks = if is_same { looks + 1 } else { 1 };
            let Looked { key, seen, findings } = looked;
            self.suspects.insert(key, Suspect { seen, looks, findings, is_settled: false });
        }
        Ok(())
    }

    /// Looks at each suspect while the server watches it; keys that were touched, in halves again.
    async fn watched_round(&mut self, until: Instant) -> Result<()> {
        let mut groups: Vec<Vec<Key>> = self.open().chunks(WATCHED_KEYS).map(<[Key]>::to_vec).collect();
        while let Some(group) = groups.pop() {
            let mut touched = self.look_watched(group, until).await?;
            if touched.len() > 1 {
                groups.push(touched.split_off(touched.len() / 2));
                groups.push(touched);
            }
        }
        Ok(())
    }

    /// Looks at keys until the target has applied all from before they were watched. Returns which differ, where
    /// somebody has touched one of them since: nothing is said of these.
    async fn look_watched(&mut self, keys: Vec<Key>, until: Instant) -> Result<Vec<Key>> {
        let offset = self.watcher.watch(&keys).await?;
        let mut differing = Vec::new();
        loop {
            let (looked, applied) = self.look(keys.clone(), false).await?;
            let has_come = applied.iter().all(|applied| applied.is_some_and(|applied| applied >= offset));
            for looked in looked {
                if self.clear(&looked).is_some() && has_come {
                    differing.push(looked);
                }
            }
            if has_come || Instant::now() >= until {
                break;
            }
            tokio::time::sleep(PAUSE_FIRST).await;
        }
        if !self.watcher.are_untouched().await? {
            return Ok(differing.into_iter().map(|looked| looked.key).collect());
        }
        for Looked { key, seen, findings } in differing {
            self.suspects.insert(key, Suspect { seen, looks: 1, findings, is_settled: true });
        }
        Ok(Vec::new())
    }

    /// A suspect that differs no more is none.
    fn clear(&mut self, looked: &Looked) -> Option<&Suspect> {
        if looked.findings.is_empty() {
            self.suspects.remove(&looked.key);
        }
        self.suspects.get(&looked.key)
    }

    // ---- one look ----

    /// Looks at keys; with each, how far the target has applied the server's history, where that can be said.
    async fn look(&mut self, keys: Vec<Key>, counts: bool) -> Result<(Vec<Looked>, Vec<Option<u64>>)> {
        let (mut all, mut positions) = (Vec::new(), Vec::new());
        let mut rest = keys;
        while !rest.is_empty() {
            let later = rest.split_off(self.fetch_keys.min(rest.len()));
            let (looked, applied) = self.look_at(rest, counts).await?;
            positions.extend(looked.iter().map(|_| applied));
            all.extend(looked);
            rest = later;
        }
        Ok((all, positions))
    }

    async fn look_at(&mut self, keys: Vec<Key>, counts: bool) -> Result<(Vec<Looked>, Option<u64>)> {
        let asked: Vec<_> =
            keys.into_iter().filter_map(|key| self.mapper.kind(&key).map(|kind| (key, kind))).collect();
        let fetched = self.fetcher.fetch(&asked).await?;
        let ids: Vec<KeyId> = asked.iter().map(|(key, _)| key.id()).collect();
        let as_of = self.target.begin(&ids).await?;
        let mut looked = Vec::with_capacity(asked.len());
        // Entries to compare, each with the place of what was looked at.
        let mut entries: Vec<(usize, Entry)> = Vec::new();
        let mut bytes = 0;
        for (((key, _), value), id) in asked.into_iter().zip(fetched.values).zip(ids) {
            let known = as_of.known.get(&id);
            let is_known = known.is_some_and(|known| known.hash.is_some());
            let (seen, entry) = match &value {
                Some(value) => {
                    bytes += value.value.bytes();
                    let expires_at = self.expires_at(value, known);
                    let hash = value.value.hash(&self.mapper.digest());
                    (Some((hash, expires_at)), Some(self.mapper.map(&key, &value.value, expires_at)))
                }
                None => (None, None),
            };
            let mut findings = Vec::new();
            match entry {
                Some(entry) if is_known => entries.push((looked.len(), entry)),
                Some(_) => findings.push((None, Kind::KeyMissing, 0)),
                None if is_known => findings.push((None, Kind::KeyExtra, 0)),
                None => {}
            }
            looked.push(Looked { key, seen, findings });
        }
        self.compare(&entries, &as_of, &mut looked, counts).await?;
        let a_key = (bytes / looked.len().max(1)).max(1);
        let keys_max = usize::try_from(self.pipeline.redis.batch_keys).unwrap_or(usize::MAX);
        self.fetch_keys = (FETCH_BYTES / a_key).clamp(1, keys_max.min(self.fetch_keys * 4).max(1));
        Ok((looked, self.applied(&as_of)))
    }

    /// Compares the rows of keys that both sides know.
    async fn compare(
        &mut self,
        entries: &[(usize, Entry)],
        as_of: &AsOf,
        looked: &mut [Looked],
        counts: bool,
    ) -> Result<()> {
        if counts {
            for part in entries.iter().flat_map(|(_, entry)| &entry.parts) {
                self.report.tables[part.table].rows += part.rows.len() as u64;
            }
        }
        let only: Vec<&Entry> = entries.iter().map(|(_, entry)| entry).collect();
        for found in self.target.compare(&only, as_of).await? {
            let kinds = [
                (Kind::RowMissing, found.missing),
                (Kind::OtherValues, found.other),
                (Kind::RowExtra, found.extra),
            ];
            let findings = kinds.into_iter().filter(|(_, rows)| *rows > 0);
            let place = entries[found.entry].0;
            looked[place].findings.extend(findings.map(|(kind, rows)| (Some(found.table), kind, rows)));
        }
        Ok(())
    }

    /// Servers before 7.0 say how long a key has left, to the millisecond: it is taken to be what was stored.
    fn expires_at(&self, value: &Value, known: Option<&Known>) -> Option<i64> {
        let stored = known.and_then(|known| known.expires_at);
        if self.fetcher.expires_alike(stored, value.expires_at) { stored } else { value.expires_at }
    }

    /// How far the target has applied what the server counts; `None` where it owes a look at every key.
    fn applied(&self, as_of: &AsOf) -> Option<u64> {
        let (history, offset, is_scanned) = as_of.position.as_ref()?;
        (*is_scanned && !history.is_empty() && *history == self.history).then_some(*offset)
    }

    // ---- rows of no key ----

    /// Rows under anchors of no key that is there. The target's own record says which keys there are: that it is right
    /// about them has been seen by then.
    async fn rows_of_no_key(&mut self) -> Result<()> {
        self.target.begin_owners().await?;
        let mut after = None;
        loop {
            let page = self.target.owners(after, PAGE_KEYS).await?;
            let Some((last, ..)) = page.last() else { break };
            after = Some(*last);
            let entries: Vec<(Entry, bool)> =
                page.into_iter().map(|(_, key, is_there)| (self.mapper.gone(&key), is_there)).collect();
            self.target.stage_owners(&entries).await?;
        }
        for (table, strangers) in self.target.strangers().await? {
            let report = &mut self.report;
            report.tables[table].extra += strangers.total;
            report.differences_total += strangers.total;
            let room = LISTED_MAX.saturating_sub(report.differences.len());
            let name = report.tables[table].name.to_string();
            report.differences.extend(strangers.listed.into_iter().take(room).map(|row| KeyDifference {
                database: None,
                key: None,
                table: Some(name.clone()),
                row: Some(row),
                kind: Kind::RowOfNoKey,
                rows: 1,
            }));
        }
        Ok(())
    }

    fn tell(&mut self, key: &Key, (table, kind, rows): Finding) {
        let report = &mut self.report;
        report.differences_total += 1;
        if let Some(compared) = table.map(|table| &mut report.tables[table]) {
            match kind {
                Kind::RowMissing => compared.missing += rows,
                Kind::OtherValues => compared.different += rows,
                _ => compared.extra += rows,
            }
        }
        if report.differences.len() < LISTED_MAX {
            report.differences.push(KeyDifference {
                database: Some(key.database),
                key: Some(shown(&key.name)),
                table: table.map(|table| report.tables[table].name.to_string()),
                row: None,
                kind,
                rows,
            });
        }
    }
}

/// A key's name as text.
pub(super) fn shown(name: &[u8]) -> String {
    std::str::from_utf8(name).map_or_else(|_| name.escape_ascii().to_string(), str::to_owned)
}
