//! The loop: next, admit, apply, commit, confirm. No I/O of its own.
//!
//! Batches size themselves: while the target is busy with one flush, transactions gather; when it is done, what has
//! gathered goes next. So a lone transaction is flushed at once and a backlog in wide batches. With more still waiting
//! at the source a batch grows on, up to a size and an age.
//!
//! `confirmed <= flushed <= gathered <= received`, all of them commit end LSNs.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::change::{Change, Event, Relation, TableName, Transaction};
use crate::error::{Error, Result};
use crate::plan::{Admission, Plan};
use crate::position::Lsn;
use crate::source::Source;
use crate::target::{Flushed, Target};

/// Events taken in a row before anything else is looked at.
const EVENTS_IN_A_ROW_MAX: usize = 1024;
/// A source that waits for word (it is shutting down) is answered faster, yet bounded.
const URGENT_COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// How wide a batch grows while the source has more.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    pub bytes: usize,
    pub age: Duration,
    /// How long a batch waits for more though the source has nothing: zero, where a batch costs little.
    pub linger: Duration,
    /// An idle source's position is stored no more often than this, so that an idle pipeline hardly writes.
    pub idle: Duration,
}

impl BatchLimits {
    /// For a target that commits a batch at once.
    pub fn without_delay(bytes: usize, age: Duration) -> BatchLimits {
        BatchLimits { bytes, age, linger: Duration::ZERO, idle: Duration::from_secs(10) }
    }
}

/// What is asked of a running pump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Flush what has been gathered, then end.
    Stop,
    /// The same, to go on later: something must be done that a running pump is in the way of.
    Pause,
    /// Apply exactly the transactions whose commit ends at or before this position, say so, and wait for `Release`.
    /// `number` tells this wish from an earlier one for the same position.
    Hold {
        at: Lsn,
        number: u64,
    },
    Release,
    /// The same, but end there.
    EndAt(Lsn),
}

/// Whoever runs the pump.
pub trait Control: Send {
    /// The next command; waits for ever if there is none. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Command> + Send;

    /// A flush is durable.
    fn flushed(&mut self, flushed: &Flushed);

    /// The target shows exactly the state that the `Hold` of this number asked for, and stays there.
    fn held(&mut self, number: u64);
}

/// Why the pump ended without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Stopped,
    Paused,
    /// The position of `EndAt` is reached.
    Reached,
    /// Tables were met that must be copied first; everything gathered is flushed.
    AwaitsCopy(BTreeSet<TableName>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    None,
    Hold { at: Lsn, number: u64, told: bool },
    EndAt(Lsn),
}

impl Limit {
    fn at(self) -> Option<Lsn> {
        match self {
            Limit::None => None,
            Limit::Hold { at, .. } | Limit::EndAt(at) => Some(at),
        }
    }
}

pub struct Pump<'a, S, T, C> {
    source: &'a mut S,
    target: &'a mut T,
    control: &'a mut C,
    plan: &'a mut Plan,
    limits: BatchLimits,
    /// The transaction whose changes are coming in.
    current: Option<Transaction>,
    /// The current transaction was applied before: the source sent it again.
    repeated: bool,
    /// The end of the last transaction that was gathered.
    gathered: Lsn,
    /// The source has nothing undelivered before this.
    received: Lsn,
    limit: Limit,
    /// A transaction that begins beyond the limit, and waits.
    beyond: Option<Transaction>,
    /// How to end once everything gathered is flushed.
    ending: Option<Ended>,
    awaits_copy: BTreeSet<TableName>,
    idle_stored: Instant,
    /// Somebody waits for what has been gathered.
    urgent: bool,
}

impl<'a, S: Source, T: Target, C: Control> Pump<'a, S, T, C> {
    /// `from` is the position that the target holds.
    pub fn new(
        source: &'a mut S,
        target: &'a mut T,
        control: &'a mut C,
        plan: &'a mut Plan,
        limits: BatchLimits,
        from: Lsn,
    ) -> Self {
        Pump {
            source,
            target,
            control,
            plan,
            limits,
            current: None,
            repeated: false,
            gathered: from,
            received: from,
            limit: Limit::None,
            beyond: None,
            ending: None,
            awaits_copy: BTreeSet::new(),
            idle_stored: Instant::now(),
            urgent: false,
        }
    }

    /// Runs until told to end, or until an error. Dropping it at any point is the same as a crash: safe.
    pub async fn run(mut self) -> Result<Ended> {
        loop {
            if let Some(ended) = self.rest() {
                return Ok(ended);
            }
            let takes_more = self.takes_more();
            let may_flush = self.has_gathered() && self.current.is_none() && !self.target.is_busy();
            let due = self.flush_due();
            // In this order: learn what became durable, obey, take what the source has; flush once it has nothing.
            tokio::select! {
                biased;
                flushed = self.target.flushed(), if self.target.is_busy() => self.confirm(&flushed?)?,
                command = self.control.next() => self.obey(&command),
                event = self.source.next(), if takes_more => {
                    self.take(event?).await?;
                    self.take_ready().await?;
                }
                () = until(due), if may_flush => self.flush(),
            }
        }
    }

    /// Whether the next event is wanted: a transaction that has begun is always finished.
    fn takes_more(&self) -> bool {
        let is_full = || self.target.is_busy() && self.target.gathered().bytes >= self.limits.bytes;
        self.current.is_some()
            || (self.beyond.is_none() && self.ending.is_none() && self.awaits_copy.is_empty() && !is_full())
    }

    /// When what has been gathered is to be flushed, while the source has nothing; `None`: at once.
    fn flush_due(&self) -> Option<Instant> {
        let waits = self.limit != Limit::None || self.ending.is_some() || !self.awaits_copy.is_empty();
        if self.limits.linger.is_zero() || self.urgent || waits {
            return None;
        }
        let gathered = self.target.gathered();
        if gathered.bytes >= self.limits.bytes {
            return None;
        }
        Some(Instant::from_std(gathered.since?) + self.limits.linger)
    }

    fn flush(&mut self) {
        self.urgent = false;
        self.target.flush();
    }

    fn has_gathered(&self) -> bool {
        self.target.gathered().transactions > 0
    }

    /// When nothing is gathered and nothing under way: what this rest means.
    fn rest(&mut self) -> Option<Ended> {
        if self.current.is_some() || self.has_gathered() || self.target.is_busy() {
            return None;
        }
        if !self.awaits_copy.is_empty() {
            return Some(Ended::AwaitsCopy(std::mem::take(&mut self.awaits_copy)));
        }
        if self.ending == Some(Ended::Stopped) && self.limit == Limit::None && self.received > self.gathered {
            // What the source has said to be empty need not be read again by the next start.
            self.advance(self.received, 0);
            return None;
        }
        if let Some(ending) = self.ending.take() {
            return Some(ending);
        }
        let at = self.limit.at().filter(|at| self.beyond.is_some() || self.received >= *at)?;
        if self.gathered < at {
            // Nothing was committed between: the position says so too, and is stored before anybody is told.
            self.advance(at, 0);
            return None;
        }
        match self.limit {
            Limit::EndAt(_) => return Some(Ended::Reached),
            Limit::Hold { at, number, told: false } => {
                self.limit = Limit::Hold { at, number, told: true };
                self.control.held(number);
            }
            Limit::Hold { .. } | Limit::None => {}
        }
        None
    }

    fn obey(&mut self, command: &Command) {
        match *command {
            Command::Stop => self.ending = Some(Ended::Stopped),
            Command::Pause => self.ending = self.ending.take().or(Some(Ended::Paused)),
            Command::Hold { at, number } => self.limit = Limit::Hold { at, number, told: false },
            Command::EndAt(at) => self.limit = Limit::EndAt(at),
            Command::Release => self.limit = Limit::None,
        }
        let limit = self.limit.at();
        if let Some(beyond) = self.beyond.take_if(|beyond| limit.is_none_or(|at| beyond.commit_lsn < at)) {
            self.current = Some(beyond);
            self.tell_target(&beyond);
        }
    }

    fn confirm(&mut self, flushed: &Flushed) -> Result<()> {
        for (table, _) in &flushed.quarantined {
            self.plan.quarantine(table);
        }
        if let Some(position) = flushed.position {
            self.source.confirm(position)?;
        }
        self.control.flushed(flushed);
        Ok(())
    }

    /// Takes what is already here.
    async fn take_ready(&mut self) -> Result<()> {
        for _ in 0..EVENTS_IN_A_ROW_MAX {
            if !self.takes_more() {
                return Ok(());
            }
            let Some(event) = self.source.try_next() else { return Ok(()) };
            self.take(event).await?;
        }
        Ok(())
    }

    async fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Begin(transaction) => {
                assert!(self.current.is_none(), "a transaction began inside another");
                self.begin(transaction);
                Ok(())
            }
            Event::Change(change) => {
                let commit_lsn = self.current.expect("a change came outside of a transaction").commit_lsn;
                if self.repeated { Ok(()) } else { self.admit(change, commit_lsn).await }
            }
            Event::Commit(position) => self.commit(position),
            Event::Idle { position, urgent } => {
                assert!(self.current.is_none(), "the source called itself idle inside a transaction");
                self.idle(position, urgent);
                Ok(())
            }
        }
    }

    fn begin(&mut self, transaction: Transaction) {
        // Invariant 2: de-duplication goes by commit order. The source may send again what was never confirmed.
        self.repeated = transaction.commit_lsn < self.gathered;
        if self.limit.at().is_some_and(|at| transaction.commit_lsn >= at) {
            self.beyond = Some(transaction);
        } else {
            self.current = Some(transaction);
            self.tell_target(&transaction);
        }
    }

    fn tell_target(&mut self, transaction: &Transaction) {
        if !self.repeated {
            self.target.begin(transaction);
        }
    }

    async fn admit(&mut self, change: Change, commit_lsn: Lsn) -> Result<()> {
        let change = match change {
            Change::Truncate { relations, cascade, restart_identity } => {
                let relations: Vec<_> =
                    relations.into_iter().filter(|relation| self.admits(relation, commit_lsn)).collect();
                if relations.is_empty() {
                    return Ok(());
                }
                Change::Truncate { relations, cascade, restart_identity }
            }
            Change::Insert { ref relation, .. }
            | Change::Update { ref relation, .. }
            | Change::Delete { ref relation, .. } => {
                if !self.admits(relation, commit_lsn) {
                    return Ok(());
                }
                change
            }
        };
        self.target.apply(change).await
    }

    fn admits(&mut self, relation: &Relation, commit_lsn: Lsn) -> bool {
        match self.plan.admit(relation, commit_lsn) {
            Admission::Apply => true,
            Admission::InCopy | Admission::NotCarried => false,
            Admission::PassOver => {
                self.target.pass_over(relation);
                false
            }
            Admission::AwaitsCopy => {
                self.awaits_copy.insert(relation.table());
                false
            }
        }
    }

    fn commit(&mut self, position: Lsn) -> Result<()> {
        let transaction = self.current.take().expect("a commit came outside of a transaction");
        if self.repeated {
            return Ok(());
        }
        if position <= self.gathered {
            return Err(Error::unexpected(format!(
                "the source committed at {position} after it had committed at {}",
                self.gathered
            )));
        }
        self.advance(position, transaction.committed_at_us);
        let gathered = self.target.gathered();
        let is_old = gathered.since.is_some_and(|since| since.elapsed() >= self.limits.age);
        // A batch that is old while another is under way only grows wider.
        if (gathered.bytes >= self.limits.bytes || is_old) && !self.target.is_busy() {
            self.flush();
        }
        Ok(())
    }

    /// An idle source: the position moves without data, so that the source can let go of its log.
    fn idle(&mut self, position: Lsn, urgent: bool) {
        self.received = self.received.max(position);
        self.urgent |= urgent && self.has_gathered();
        let interval = if urgent { URGENT_COMMIT_INTERVAL.min(self.limits.idle) } else { self.limits.idle };
        // Until all tables are of one moment, every step counts.
        let is_due = self.idle_stored.elapsed() >= interval || self.gathered < self.plan.consistent_from();
        // Before a limit it moves as ever: who waits for the limit may be waiting for this.
        let is_free = self.limit.at().is_none_or(|at| position < at);
        if position > self.gathered && is_free && is_due {
            self.idle_stored = Instant::now();
            self.urgent |= urgent;
            self.advance(position, 0);
        }
    }

    fn advance(&mut self, position: Lsn, committed_at_us: i64) {
        assert!(position > self.gathered, "positions advance");
        self.gathered = position;
        self.received = self.received.max(position);
        self.target.commit(position, committed_at_us);
    }
}

async fn until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests;
