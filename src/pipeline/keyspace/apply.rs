//! The loop of a run from Redis: takes what was heard, looks at keys, applies what they have become.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::survey::Survey;
use super::wish::Wishes;
use crate::config::{Live as LiveMode, Pipeline};
use crate::error::Result;
use crate::keyspace::{ContentHash, Key, KeyId, NodePosition, Observed, State, Why};
use crate::pipeline::lifecycle::{self, Asked};
use crate::pipeline::meter::Meter;
use crate::source::redis::dirty::{Inline, Pending, What};
use crate::source::redis::fetch::{Found, Kind};
use crate::source::redis::live::Live;
use crate::source::redis::mapping::Mapper;
use crate::source::redis::reader::Reader;
use crate::source::redis::together::cut;
use crate::source::redis::value::Value;
use crate::status::{Phase, StopReason};
use crate::target::postgres::keyspace::{Applied, KeyspaceTarget, Known};
use crate::target::{Counts, Flushed};

/// How often the position of a server where nothing happens is stored.
pub(super) const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// How often the server's clock is looked at.
pub(super) const CLOCK_INTERVAL: Duration = Duration::from_secs(30);
/// A key that is gone so shortly before its time has expired: clocks differ, and the news was on its way.
const EXPIRY_SLACK_MS: i64 = 50;

/// What a fetch may bring, and how many keys the first one asks for, when nothing is known of their size.
const FETCH_BYTES: usize = 8 << 20;
const FETCH_KEYS_FIRST: usize = 64;

/// What transactions of the source have written is committed together, as far as it is not more than this.
const WHOLE_KEYS_MAX: usize = 100_000;
const WHOLE_BYTES_MAX: usize = 64 << 20;

/// A key to be fetched.
struct Touched {
    key: Key,
    kind: Kind,
    /// The last value that came with a command, if the key is gone by now.
    passed: Option<Inline>,
    id: KeyId,
    group: Option<u32>,
}

pub(super) struct Work<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) mapper: &'a Mapper,
    pub(super) live: Arc<Live>,
    /// How changes are heard of.
    pub(super) way: LiveMode,
    pub(super) fetcher: Reader,
    pub(super) target: KeyspaceTarget,
    pub(super) meter: &'a Meter,
    /// Up to here everything is applied; what it is ahead of `committed` had no rows.
    pub(super) position: NodePosition,
    pub(super) committed: Option<NodePosition>,
    /// Every key is being looked at.
    pub(super) survey: Option<Survey>,
    survey_ended: Instant,
    /// How many keys are fetched at once.
    fetch_keys: usize,
    pub(super) stored: Instant,
    clock_read: Option<Instant>,
    pub(super) salt: [u8; 16],
}

impl<'a> Work<'a> {
    pub(super) fn new(
        pipeline: &'a Pipeline,
        mapper: &'a Mapper,
        live: Arc<Live>,
        way: LiveMode,
        fetcher: Reader,
        target: KeyspaceTarget,
        meter: &'a Meter,
    ) -> Work<'a> {
        let now = Instant::now();
        let position = live.heard().position.clone();
        let salt = position.mapping.0;
        Work {
            pipeline,
            mapper,
            live,
            way,
            fetcher,
            target,
            meter,
            position,
            committed: None,
            survey: None,
            survey_ended: now,
            fetch_keys: FETCH_KEYS_FIRST,
            stored: now,
            clock_read: None,
            salt,
        }
    }

    /// Works until it is asked to stop, or holds everything up to `goal` of the history.
    pub(super) async fn run(
        &mut self,
        goal: Option<u64>,
        asked: &Asked,
        wishes: &Wishes,
    ) -> Result<StopReason> {
        loop {
            let is_asked = *asked.borrow();
            if let Some(reason) = is_asked {
                self.store_idle(Duration::ZERO).await?;
                return Ok(reason);
            }
            self.fulfil(wishes).await?;
            self.read_clock().await?;
            self.store_idle(IDLE_INTERVAL).await?;
            let mut has_worked = self.take().await?;
            if self.survey.is_some() {
                has_worked |= self.survey_step().await?;
            }
            if has_worked {
                continue;
            }
            if goal.is_some_and(|goal| !self.is_owed() && self.position.offset >= goal) {
                self.store_idle(Duration::ZERO).await?;
                return Ok(StopReason::Reached);
            }
            let pause = tokio::time::sleep_until(self.next_look());
            tokio::select! {
                () = self.live.changed() => {}
                () = pause => self.begin_routine_survey(),
                _ = lifecycle::asked_to_stop(asked) => {}
            }
        }
    }

    /// When all keys are looked at again, or the survey that waits for its turn goes on.
    pub(super) fn next_look(&self) -> Instant {
        let idle = Instant::now() + IDLE_INTERVAL;
        let next = match &self.survey {
            Some(survey) => survey.goes_on_at(),
            None => self.routine_interval().map_or(idle, |interval| self.survey_ended + interval),
        };
        next.min(idle)
    }

    /// Where nobody hears of changes, all keys are looked at all the time; otherwise once in a while, to be sure.
    fn routine_interval(&self) -> Option<Duration> {
        let redis = &self.pipeline.redis;
        let seconds =
            if self.way == LiveMode::Polling { redis.poll_seconds } else { redis.reconcile_seconds };
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    pub(super) fn begin_routine_survey(&mut self) {
        let is_due = self.routine_interval().is_some_and(|interval| self.survey_ended.elapsed() >= interval);
        if is_due && self.survey.is_none() {
            self.survey = Some(Survey::routine(self.mapper));
        }
    }

    /// Owes a look at every key, by which each value is news.
    pub(super) async fn begin_anew(&mut self, mapping: ContentHash) -> Result<()> {
        self.salt = mapping.0;
        self.position = NodePosition { mapping, is_scanned: false, ..self.position.clone() };
        self.live.heard().dirty.rescan_all();
        self.store_idle(Duration::ZERO).await
    }

    pub(super) fn end_survey(&mut self) {
        self.survey = None;
        self.survey_ended = Instant::now();
    }

    async fn read_clock(&mut self) -> Result<()> {
        if self.clock_read.is_none_or(|read| read.elapsed() >= CLOCK_INTERVAL) {
            let now = self.fetcher.now().await?;
            self.live.set_clock(now);
            self.clock_read = Some(Instant::now());
        }
        Ok(())
    }

    /// Applies what was heard; false where that was nothing.
    pub(super) async fn take(&mut self) -> Result<bool> {
        let Some((taken, heard)) = self.live.take() else { return Ok(false) };
        if !taken.rescan.is_empty() {
            self.survey = Some(Survey::owed(self.mapper, self.survey.take(), taken.rescan, taken.emptied));
            self.meter.phase(Phase::Copying, "looking at every key");
        }
        let heard = NodePosition { is_scanned: !self.is_owed(), mapping: ContentHash(self.salt), ..heard };
        let has_keys = !taken.keys.is_empty();
        let mut rest = taken.keys;
        loop {
            let end = cut(&rest, self.batch_keys(), WHOLE_KEYS_MAX, |(_, pending)| pending.group);
            let later = rest.split_off(end);
            if later.is_empty() {
                break;
            }
            let before = self.position.clone();
            self.look(rest, &before).await?;
            rest = later;
        }
        if has_keys {
            self.look(rest, &heard).await?;
        } else {
            // Waits for the next commit with rows, or for the idle store.
            self.position = heard;
        }
        Ok(has_keys)
    }

    pub(super) fn is_owed(&self) -> bool {
        self.survey.as_ref().is_some_and(|survey| survey.is_owed)
    }

    pub(super) fn batch_keys(&self) -> usize {
        usize::try_from(self.pipeline.redis.batch_keys).unwrap_or(usize::MAX)
    }

    /// Stores the position where no rows do, if the last commit is that long ago.
    pub(super) async fn store_idle(&mut self, interval: Duration) -> Result<()> {
        if self.stored.elapsed() < interval || self.committed.as_ref() == Some(&self.position) {
            return Ok(());
        }
        let position = self.position.clone();
        self.store(Vec::new(), &position).await
    }

    /// Looks at keys, applies what they have become, and commits that with `position`.
    pub(super) async fn look(&mut self, keys: Vec<(Key, Pending)>, position: &NodePosition) -> Result<()> {
        let ids: Vec<KeyId> = keys.iter().map(|(key, _)| key.id()).collect();
        let has_groups = keys.iter().any(|(_, pending)| pending.group.is_some());
        let known = self.target.known(&ids).await?;
        let mut observed = Vec::with_capacity(keys.len());
        let mut touched = Vec::new();
        for ((key, pending), id) in keys.into_iter().zip(ids) {
            let known = known.get(&id);
            if self.is_seen_later(&pending, known) {
                continue;
            }
            let what = if self.fetcher.takes_at_word() { pending.what } else { What::Touched };
            match what {
                What::Touched => {
                    if let Some(kind) = self.mapper.kind(&key) {
                        let passed = pending.value.filter(|_| self.fetcher.is_at_home(&key));
                        touched.push(Touched { key, kind, passed, id, group: pending.group });
                    }
                }
                What::Valued => {
                    let Some(Inline { value, expires_at }) = pending.value else { continue };
                    let found = Found { value: Value::Text(value), expires_at };
                    observed.extend(self.present(&key, &found, known, Some(pending.last)));
                }
                What::Gone { at } => {
                    observed.extend(self.gone(&key, pending.value, at, known, Some(pending.last)));
                }
            }
        }
        let mut held = 0;
        while !touched.is_empty() {
            let end = cut(&touched, self.fetch_keys, self.batch_keys(), |touched| touched.group);
            let later = touched.split_off(end);
            let bytes = self.fetch(touched, &known, &mut observed).await?;
            held += bytes;
            touched = later;
            let is_much = if has_groups { held > WHOLE_BYTES_MAX } else { bytes > FETCH_BYTES / 2 };
            if is_much && !touched.is_empty() {
                held = 0;
                let before = self.position.clone();
                self.commit(std::mem::take(&mut observed), &before).await?;
            }
        }
        self.commit(observed, position).await
    }

    /// What the stream says of a key is older than what was fetched of it: a row must not go back in time.
    fn is_seen_later(&self, pending: &Pending, known: Option<&Known>) -> bool {
        let Some(known) = known else { return false };
        let is_same_history = known.replication_id.as_deref() == Some(self.position.replication_id.as_str())
            && !self.position.replication_id.is_empty();
        is_same_history && known.offset.is_some_and(|offset| offset >= pending.last)
    }

    /// Adds what keys hold now; how many bytes that were.
    async fn fetch(
        &mut self,
        touched: Vec<Touched>,
        known: &HashMap<KeyId, Known>,
        observed: &mut Vec<Observed>,
    ) -> Result<usize> {
        let asked: Vec<(Key, Kind)> =
            touched.iter().map(|touched| (touched.key.clone(), touched.kind)).collect();
        let fetched = self.fetcher.fetch(&asked).await?;
        let mut bytes = 0;
        for (Touched { key, passed, id, .. }, found) in touched.into_iter().zip(fetched.values) {
            let known = known.get(&id);
            bytes += found.as_ref().map_or(0, |found| found.value.bytes());
            observed.extend(match found {
                Some(found) => self.present(&key, &found, known, fetched.offset),
                None => self.gone(&key, passed, fetched.now, known, fetched.offset),
            });
        }
        // The next ones will not be very different: small values by the thousand, huge ones alone.
        let a_key = (bytes / asked.len().max(1)).max(1);
        self.fetch_keys = (FETCH_BYTES / a_key).clamp(1, self.batch_keys().min(self.fetch_keys * 4));
        Ok(bytes)
    }

    /// The key holds this; nothing where that is known.
    fn present(
        &self,
        key: &Key,
        found: &Found,
        known: Option<&Known>,
        offset: Option<u64>,
    ) -> Option<Observed> {
        let hash = found.value.hash(&self.salt);
        let is_known = known.is_some_and(|known| {
            known.hash == Some(hash) && self.fetcher.expires_alike(known.expires_at, found.expires_at)
        });
        if is_known {
            return None;
        }
        let entry = self.mapper.map(key, &found.value, found.expires_at);
        Some(Observed { entry, state: State::Present { hash, expires_at: found.expires_at }, offset })
    }

    /// The key is gone, maybe with a value that nobody has seen; nothing where it never was there.
    fn gone(
        &self,
        key: &Key,
        passed: Option<Inline>,
        at: i64,
        known: Option<&Known>,
        offset: Option<u64>,
    ) -> Option<Observed> {
        let why = |expires_at: Option<i64>| match expires_at {
            Some(expires_at) if at + EXPIRY_SLACK_MS >= expires_at => Why::Expired,
            _ => Why::Deleted,
        };
        if let Some(Inline { value, expires_at }) = passed {
            let value = Value::Text(value);
            let hash = value.hash(&self.salt);
            let entry = self.mapper.map(key, &value, expires_at);
            let state = State::Passed { hash, expires_at, at, why: why(expires_at) };
            return Some(Observed { entry, state, offset });
        }
        let known = known.filter(|known| known.hash.is_some())?;
        let state = State::Gone { at, why: why(known.expires_at) };
        Some(Observed { entry: self.mapper.gone(key), state, offset })
    }

    async fn commit(&mut self, observed: Vec<Observed>, position: &NodePosition) -> Result<()> {
        if observed.is_empty()
            && (position.is_scanned == self.position.is_scanned)
            && self.committed.is_some()
        {
            // Nothing to do: the next commit with rows, or the idle store, says how far it has come.
            self.position = position.clone();
            return Ok(());
        }
        self.store(observed, position).await
    }

    async fn store(&mut self, observed: Vec<Observed>, position: &NodePosition) -> Result<()> {
        let is_idle = observed.is_empty();
        let keys = observed.len() as u64;
        let applied = self.target.apply(observed, position).await?;
        self.position = position.clone();
        self.committed = Some(position.clone());
        self.stored = Instant::now();
        self.live.confirm(position.offset);
        if !is_idle {
            self.count(keys, &applied);
        }
        self.show();
        Ok(())
    }

    /// Where nothing is owed: how it listens, and what that is good for.
    pub(super) fn show(&self) {
        if !self.is_owed() {
            self.meter.phase(Phase::Streaming, &self.listening());
        }
    }

    fn count(&self, keys: u64, applied: &Applied) {
        let tables = applied.tables.iter().map(|(table, counts)| {
            let counts = Counts {
                inserts: counts.inserted,
                updates: counts.updated + counts.marked,
                deletes: counts.deleted,
                ..Counts::default()
            };
            (table.clone(), counts)
        });
        if applied.misfits > 0 {
            tracing::warn!(
                misfits = applied.misfits,
                "not all of what was read became rows: pgdiode.keyspace_misfit of the target has it, and why"
            );
        }
        let tables = tables.collect();
        self.meter.flushed(&Flushed { transactions: keys, tables, ..Flushed::default() });
    }
}
