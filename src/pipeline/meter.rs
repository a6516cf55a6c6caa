//! What a run has done so far: counted where the work is, read by whoever shows it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::Notify;

use crate::change::TableName;
use crate::position::Lsn;
use crate::status::{Phase, Progress};
use crate::target::{Counts, Flushed};

/// Shared by a run's tasks.
#[derive(Default)]
pub struct Meter {
    state: Mutex<State>,
    streaming: Notify,
    copied: Notify,
}

struct State {
    progress: Progress,
    copying: BTreeSet<TableName>,
    /// Bytes of each table's copy since the last [`Meter::take_copied`].
    copied: HashMap<TableName, u64>,
    /// Row counts since the last [`Meter::take_counts`].
    counts: HashMap<TableName, Counts>,
    phase_began: Instant,
    /// Changes at `phase_began` of streaming and after: for the rate.
    window: (Instant, u64),
    committed_at_us: i64,
    source_end: Lsn,
    /// Before this the target shows tables of different moments.
    consistent_from: Lsn,
    /// What is being drained lies between the source and the target.
    is_spilled: bool,
}

impl Default for State {
    fn default() -> State {
        let now = Instant::now();
        State {
            progress: Progress::default(),
            copying: BTreeSet::new(),
            copied: HashMap::new(),
            counts: HashMap::new(),
            phase_began: now,
            window: (now, 0),
            committed_at_us: 0,
            source_end: Lsn::ZERO,
            consistent_from: Lsn::ZERO,
            is_spilled: false,
        }
    }
}

impl State {
    fn enter_streaming(&mut self) {
        let is_consistent = self.progress.position.is_some_and(|position| position >= self.consistent_from);
        if self.progress.phase == Phase::CatchingUp && is_consistent && !self.is_spilled {
            self.progress.phase = Phase::Streaming;
        }
    }
}

impl Meter {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while counting")
    }

    /// Enters a phase, or names what it does now.
    pub fn phase(&self, phase: Phase, doing: &str) {
        tracing::debug!(?phase, doing);
        let mut state = self.lock();
        if state.progress.phase != phase {
            state.phase_began = Instant::now();
        }
        state.progress.phase = phase;
        doing.clone_into(&mut state.progress.doing);
    }

    pub fn copy_begins(&self, tables: usize, bytes: u64) {
        let mut state = self.lock();
        state.progress.tables_total = tables as u64;
        state.progress.tables_done = 0;
        (state.progress.rows, state.progress.bytes) = (0, 0);
        state.progress.bytes_total = bytes;
    }

    pub fn table_begins(&self, table: &TableName) {
        self.lock().copying.insert(table.clone());
    }

    pub fn copied_bytes(&self, table: &TableName, bytes: u64) {
        let mut state = self.lock();
        state.progress.bytes += bytes;
        match state.copied.get_mut(table) {
            Some(copied) => *copied += bytes,
            None => {
                state.copied.insert(table.clone(), bytes);
            }
        }
    }

    pub fn table_ends(&self, table: &TableName, rows: u64) {
        let mut state = self.lock();
        state.copying.remove(table);
        state.progress.tables_done += 1;
        state.progress.rows += rows;
        if state.progress.tables_done == state.progress.tables_total {
            self.copied.notify_one();
        }
    }

    /// Returns once the rows of all tables have been copied; their indexes may not be there yet. Cancel safe; for one
    /// listener.
    pub async fn rows_are_copied(&self) {
        self.copied.notified().await;
    }

    pub fn flushed(&self, flushed: &Flushed) {
        let mut state = self.lock();
        state.progress.transactions += flushed.transactions;
        if let Some(position) = flushed.position {
            state.progress.position = Some(position);
            state.enter_streaming();
        }
        if flushed.committed_at_us != 0 {
            state.committed_at_us = flushed.committed_at_us;
        }
        for (table, counts) in &flushed.tables {
            state.progress.changes += counts.rows();
            state.counts.entry(table.clone()).or_default().add(counts);
        }
    }

    pub fn positioned(&self, position: Lsn) {
        self.lock().progress.position = Some(position);
    }

    /// Enters the stream: streaming from `consistent_from` on, catching up before.
    pub fn streams(&self, consistent_from: Lsn) {
        let mut state = self.lock();
        state.consistent_from = consistent_from;
        state.progress.phase = Phase::CatchingUp;
        state.progress.doing.clear();
        state.enter_streaming();
        self.streaming.notify_one();
    }

    /// Streams by way of a spill, which `doing` tells of: catching up until there is none.
    pub fn spills(&self, doing: Option<&str>) {
        let mut state = self.lock();
        let was_spilled = std::mem::replace(&mut state.is_spilled, doing.is_some());
        if doing.is_none() && !was_spilled {
            return;
        }
        if matches!(state.progress.phase, Phase::CatchingUp | Phase::Streaming) {
            state.progress.phase = Phase::CatchingUp;
            doing.unwrap_or_default().clone_into(&mut state.progress.doing);
            state.enter_streaming();
        }
    }

    /// Whether there is a spill, and copies wait for its end.
    pub fn is_spilled(&self) -> bool {
        self.lock().is_spilled
    }

    /// Returns once, after each time that the stream was entered. Cancel safe; for one listener.
    pub async fn enters_stream(&self) {
        self.streaming.notified().await;
    }

    /// How far the source's log reaches.
    pub fn source_reaches(&self, end: Lsn) {
        let mut state = self.lock();
        state.source_end = state.source_end.max(end);
    }

    pub fn source_end(&self) -> Lsn {
        self.lock().source_end
    }

    /// Row counts since the last call.
    pub fn take_counts(&self) -> HashMap<TableName, Counts> {
        std::mem::take(&mut self.lock().counts)
    }

    /// Puts counts back that could not be stored.
    pub fn put_counts_back(&self, counts: HashMap<TableName, Counts>) {
        let mut state = self.lock();
        for (table, counts) in counts {
            state.counts.entry(table).or_default().add(&counts);
        }
    }

    /// Bytes copied per table since the last call.
    pub fn take_copied(&self) -> HashMap<TableName, u64> {
        std::mem::take(&mut self.lock().copied)
    }

    /// All of it, with rates as of now (`now_us`: microseconds since 2000-01-01 UTC).
    pub fn progress(&self, now_us: i64) -> Progress {
        let mut state = self.lock();
        let mut progress = state.progress.clone();
        progress.current = state.copying.iter().map(ToString::to_string).collect();
        if progress.phase == Phase::Copying {
            let seconds = state.phase_began.elapsed().as_secs_f64().max(0.001);
            progress.bytes_per_second = ratio(progress.bytes, seconds);
            let left = progress.bytes_total.saturating_sub(progress.bytes);
            progress.eta_seconds = left.checked_div(progress.bytes_per_second);
            return progress;
        }
        progress.lag_bytes = progress.position.map(|position| state.source_end.since(position));
        progress.lag_seconds = match progress.lag_bytes {
            Some(0) => Some(0.0),
            Some(_) if state.committed_at_us != 0 => Some(seconds_between(state.committed_at_us, now_us)),
            _ => None,
        };
        let elapsed = state.window.0.elapsed().as_secs_f64();
        if elapsed >= 1.0 {
            state.progress.changes_per_second = ratio(progress.changes - state.window.1, elapsed);
            state.window = (Instant::now(), progress.changes);
        }
        progress.changes_per_second = state.progress.changes_per_second;
        progress
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn ratio(count: u64, seconds: f64) -> u64 {
    (count as f64 / seconds) as u64
}

#[allow(clippy::cast_precision_loss)]
fn seconds_between(earlier_us: i64, later_us: i64) -> f64 {
    (later_us - earlier_us).max(0) as f64 / 1_000_000.0
}
