//! The heart in a simulated world: thousands of histories, each from a seed, with lost connections, commits whose
//! answer is lost, and pumps that are dropped at any moment. Whatever happens, the target must show only states that
//! the source had at a commit, and in the end the last one. A failing seed is printed: give it to `lives`.
//!
//! Each planted fault (what a pump, source or target might do wrong) must be noticed, or the simulation is blind.

use std::collections::{BTreeMap, VecDeque};
use std::future::{pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use super::*;
use crate::change::{Old, ReplicaIdentity, Tuple, Value};
use crate::error::Kind;
use crate::plan::Rule;
use crate::target::Gathered;

const SEEDS: u64 = 3_000;
const TRANSACTIONS_MAX: usize = 12;
/// Pumps that one history may take.
const LIVES_MAX: usize = 400;

/// What could be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The target commits its rows and, later, the position.
    PositionApart,
    /// The source is told before the target has flushed.
    ConfirmedEarly,
    /// The source acknowledges what it has merely sent.
    ConfirmedBySource,
    /// A change at exactly its table's copy is skipped.
    SkippedAtCopy,
    /// A transaction that was sent twice is applied twice.
    AppliedTwice,
    /// A batch ends inside a transaction.
    TornTransaction,
}

type Rows = BTreeMap<(u32, u64), u64>;

/// A transaction of the source's history.
#[derive(Debug, Clone)]
struct Committed {
    transaction: Transaction,
    end: Lsn,
    /// Row and delta: adding is not idempotent, so that a change applied twice shows.
    changes: Vec<(u32, u64, u64)>,
}

/// What survives a crash of the pump.
struct World {
    history: Vec<Committed>,
    /// What the source may have forgotten.
    confirmed: Lsn,
    rows: Rows,
    position: Lsn,
    copied_at: [Lsn; 3],
    rng: fastrand::Rng,
    fault: Fault,
    /// Positions are written so late that a crash may come between.
    owed_position: Option<Lsn>,
}

type Shared = Arc<Mutex<World>>;

fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl World {
    fn new(seed: u64, fault: Fault) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut at = 100;
        let mut history = Vec::new();
        for xid in 1..=rng.u32(1..=u32::try_from(TRANSACTIONS_MAX).unwrap()) {
            at += rng.u64(1..20);
            let begin = at;
            at += rng.u64(1..10);
            let changes =
                (0..rng.usize(0..6)).map(|_| (rng.u32(0..3), rng.u64(0..4), rng.u64(1..1000))).collect();
            let transaction = Transaction { xid, commit_lsn: Lsn(begin), committed_at_us: 0 };
            history.push(Committed { transaction, end: Lsn(at), changes });
        }
        // Tables 0 and 1 were copied at the slot's beginning, table 2 later, exactly between two transactions.
        let late = history[rng.usize(0..history.len())].transaction.commit_lsn;
        let copied_at = [Lsn(0), Lsn(0), late];
        let mut world = World {
            history,
            confirmed: Lsn(50),
            rows: Rows::new(),
            position: Lsn(50),
            copied_at,
            rng,
            fault,
            owed_position: None,
        };
        world.rows = world.state_at(Lsn(0), true);
        world
    }

    /// The source's rows after all commits that end at or before `position`; `copied` shows each table no older than
    /// its copy.
    fn state_at(&self, position: Lsn, copied: bool) -> Rows {
        let mut rows = Rows::new();
        for committed in &self.history {
            for (table, row, delta) in &committed.changes {
                let is_copied = copied && committed.transaction.commit_lsn < self.copied_at[*table as usize];
                if committed.end <= position || is_copied {
                    *rows.entry((*table, *row)).or_default() += delta;
                }
            }
        }
        rows
    }

    /// The invariant: rows and position belong together, and the source has kept what the target lacks.
    fn check(&self) {
        assert_eq!(
            self.rows,
            self.state_at(self.position, true),
            "not a state of the source at {}",
            self.position
        );
        assert!(self.confirmed <= self.position, "confirmed {} beyond {}", self.confirmed, self.position);
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.rng.u64(0..one_in) == 0
    }
}

fn relation(table: u32) -> Relation {
    let identity = ReplicaIdentity::Default;
    Relation { id: table, schema: "s".into(), name: format!("t{table}"), identity, columns: Vec::new() }
}

fn lost(kind: Kind) -> Error {
    Error::new(kind, "the connection broke")
}

/// Sends the history from a position on, and at times something twice.
struct SimulatedSource {
    world: Shared,
    events: VecDeque<Event>,
}

impl SimulatedSource {
    fn new(world: &Shared, from: Lsn) -> SimulatedSource {
        let mut guard = lock(world);
        // What is confirmed is never sent again, whatever is asked for; what is not may be.
        let from = if guard.chance(3) { guard.confirmed } else { from.max(guard.confirmed) };
        let mut events = VecDeque::new();
        let mut end = Lsn::ZERO;
        for committed in guard.history.clone().into_iter().filter(|committed| committed.end > from) {
            if guard.chance(4) && end > from {
                events.push_back(Event::Idle { position: end, urgent: guard.chance(2) });
            }
            events.push_back(Event::Begin(committed.transaction));
            for (table, row, delta) in &committed.changes {
                let new: Tuple = [row, delta]
                    .map(|value| value.to_be_bytes())
                    .iter()
                    .map(|bytes| Value::Binary(bytes))
                    .collect();
                let relation = Arc::new(relation(*table));
                let change = match delta % 3 {
                    0 => Change::Insert { relation, new },
                    1 => Change::Update { relation, old: None, new },
                    _ => Change::Delete { relation, old: Old::Key(new) },
                };
                events.push_back(Event::Change(change));
            }
            events.push_back(Event::Commit(committed.end));
            end = committed.end;
        }
        events.push_back(Event::Idle { position: guard.history.last().unwrap().end, urgent: true });
        drop(guard);
        SimulatedSource { world: Arc::clone(world), events }
    }

    fn take(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        let mut world = lock(&self.world);
        if world.fault == Fault::ConfirmedBySource
            && let Event::Commit(end) = event
        {
            world.confirmed = world.confirmed.max(end);
        }
        Some(event)
    }
}

impl Source for SimulatedSource {
    async fn next(&mut self) -> Result<Event> {
        if lock(&self.world).chance(40) {
            return Err(lost(Kind::SourceUnreachable));
        }
        pause(&self.world).await;
        match self.take() {
            Some(event) => Ok(event),
            None => pending().await,
        }
    }

    fn try_next(&mut self) -> Option<Event> {
        if lock(&self.world).chance(3) { None } else { self.take() }
    }

    fn confirm(&mut self, position: Lsn) -> Result<()> {
        let mut world = lock(&self.world);
        assert!(position <= world.position, "confirmed {position} before it was flushed: {}", world.position);
        // The word may be lost on its way.
        if !world.chance(3) {
            world.confirmed = world.confirmed.max(position);
        }
        Ok(())
    }
}

/// Yields a few times, so that anything may come in between.
async fn pause(world: &Shared) {
    let mut yields = { lock(world).rng.u32(0..3) };
    poll_fn(|context| {
        if yields == 0 {
            return Poll::Ready(());
        }
        yields -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[derive(Default)]
struct Gathering {
    changes: Vec<(u32, u64, u64)>,
    position: Option<Lsn>,
    transactions: u64,
}

/// Commits changes and position at once, or loses both; the answer may be lost either way.
struct SimulatedTarget {
    world: Shared,
    gathering: Gathering,
    flushing: Option<Gathering>,
}

impl Target for SimulatedTarget {
    async fn apply(&mut self, change: Change) -> Result<()> {
        pause(&self.world).await;
        let (relation, tuple) = match &change {
            Change::Insert { relation, new } | Change::Update { relation, new, .. } => (relation, new),
            Change::Delete { relation, old } => (relation, old.tuple()),
            Change::Truncate { .. } => unreachable!("the simulation has none"),
        };
        let values: Vec<u64> = tuple
            .values()
            .map(|value| match value {
                Value::Binary(bytes) => u64::from_be_bytes(bytes.try_into().unwrap()),
                _ => unreachable!("binary values only"),
            })
            .collect();
        self.gathering.changes.push((relation.id, values[0], values[1]));
        Ok(())
    }

    fn pass_over(&mut self, _: &Relation) {}

    fn commit(&mut self, position: Lsn, _: i64) {
        self.gathering.position = Some(position);
        self.gathering.transactions += 1;
    }

    fn gathered(&self) -> Gathered {
        let bytes = self.gathering.changes.len();
        Gathered { transactions: self.gathering.transactions, bytes, since: None }
    }

    fn is_busy(&self) -> bool {
        self.flushing.is_some()
    }

    fn flush(&mut self) {
        assert!(self.flushing.is_none(), "two flushes at once");
        let mut gathering = std::mem::take(&mut self.gathering);
        if lock(&self.world).fault == Fault::TornTransaction && gathering.changes.len() > 1 {
            gathering.changes.pop();
        }
        self.flushing = Some(gathering);
    }

    async fn flushed(&mut self) -> Result<Flushed> {
        pause(&self.world).await;
        let Some(flushing) = self.flushing.take() else { return Ok(Flushed::default()) };
        let mut world = lock(&self.world);
        if world.chance(20) {
            return Err(lost(Kind::TargetUnreachable));
        }
        for (table, row, delta) in flushing.changes {
            *world.rows.entry((table, row)).or_default() += delta;
        }
        if let Some(position) = flushing.position {
            if world.fault == Fault::PositionApart {
                if let Some(owed) = world.owed_position.replace(position) {
                    world.position = owed;
                }
            } else {
                world.position = position;
            }
        }
        if world.fault != Fault::PositionApart {
            world.check();
        }
        // Committed, and nobody hears of it.
        if world.chance(20) {
            return Err(lost(Kind::TargetUnreachable));
        }
        if world.fault == Fault::PositionApart
            && let Some(owed) = world.owed_position.take()
        {
            world.position = owed;
        }
        let (position, transactions) = (flushing.position, flushing.transactions);
        Ok(Flushed { position, transactions, ..Flushed::default() })
    }
}

/// Asks for this and that.
struct SimulatedControl {
    world: Shared,
    holds: bool,
    /// How often it wished for a hold, and where the last.
    wishes: u64,
    hold_at: Lsn,
}

impl Control for SimulatedControl {
    async fn next(&mut self) -> Command {
        pause(&self.world).await;
        match self.wish() {
            Some(command) => command,
            None => pending().await,
        }
    }

    fn flushed(&mut self, flushed: &Flushed) {
        let mut world = lock(&self.world);
        if world.fault == Fault::ConfirmedEarly && flushed.position.is_some() {
            world.confirmed = world.history.last().unwrap().end;
        }
    }

    fn held(&mut self, number: u64) {
        assert_eq!(number, self.wishes, "held for an earlier wish");
        assert!(lock(&self.world).position >= self.hold_at, "held before it is there");
    }
}

impl SimulatedControl {
    fn wish(&mut self) -> Option<Command> {
        if std::mem::take(&mut self.holds) {
            return Some(Command::Release);
        }
        let mut world = lock(&self.world);
        match world.rng.u32(0..400) {
            0 => Some(Command::Stop),
            1 => Some(Command::Pause),
            2 => {
                self.holds = true;
                let count = world.history.len();
                let at = world.rng.usize(0..count);
                self.hold_at = world.history[at].end;
                self.wishes += 1;
                Some(Command::Hold { at: self.hold_at, number: self.wishes })
            }
            _ => None,
        }
    }
}

fn plan(world: &World) -> Plan {
    let late = |table: usize| match world.fault {
        Fault::SkippedAtCopy => Lsn(world.copied_at[table].0 + 1),
        _ => world.copied_at[table],
    };
    let rules = (0..3).map(|table| {
        let rule = Rule::Copied { at: late(table), relation: Some(u32::try_from(table).unwrap()) };
        (relation(u32::try_from(table).unwrap()).table(), rule)
    });
    Plan::new(rules, Box::new(|_| false))
}

/// One pump's life: until it ends, fails, or is dropped.
fn live(world: &Shared) {
    let (mut plan, from, mut polls_left) = {
        let mut guard = lock(world);
        let polls = if guard.chance(2) { guard.rng.u32(0..40) } else { 600 };
        let from = match guard.fault {
            Fault::AppliedTwice => guard.confirmed,
            _ => guard.position,
        };
        (plan(&guard), from, polls)
    };
    let mut source = SimulatedSource::new(world, from);
    let mut target =
        SimulatedTarget { world: Arc::clone(world), gathering: Gathering::default(), flushing: None };
    let mut control =
        SimulatedControl { world: Arc::clone(world), holds: false, wishes: 0, hold_at: Lsn::ZERO };
    let bytes = lock(world).rng.usize(1..8);
    let limits = BatchLimits::without_delay(bytes, Duration::from_hours(1));
    let pump = Pump::new(&mut source, &mut target, &mut control, &mut plan, limits, from);
    let mut run = pin!(pump.run());
    let mut context = Context::from_waker(Waker::noop());
    while polls_left > 0 {
        polls_left -= 1;
        match run.as_mut().poll(&mut context) {
            Poll::Pending => {}
            Poll::Ready(Err(error)) => {
                assert!(error.retries(), "the pump failed for no reason of the world: {error:?}");
                break;
            }
            Poll::Ready(Ok(_)) => break,
        }
    }
    lock(world).check();
}

/// A whole history, to its end; panics where an invariant breaks.
fn lives(seed: u64, fault: Fault) {
    let world: Shared = Arc::new(Mutex::new(World::new(seed, fault)));
    let last = lock(&world).history.last().unwrap().end;
    for _ in 0..LIVES_MAX {
        live(&world);
        if lock(&world).position >= last {
            let world = lock(&world);
            assert_eq!(world.rows, world.state_at(last, false), "the last state is not reached");
            return;
        }
    }
    panic!("after {LIVES_MAX} lives the target stands at {} of {last}", lock(&world).position);
}

/// The clock of tokio is real unless a paused runtime is entered.
fn in_a_runtime<T>(work: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    work()
}

#[test]
fn every_life_leaves_a_state_of_the_source() {
    in_a_runtime(|| {
        for seed in 0..SEEDS {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| lives(seed, Fault::None))) {
                eprintln!("the failing history is lives({seed}, Fault::None)");
                std::panic::resume_unwind(panic);
            }
        }
    });
}

#[test]
fn each_planted_fault_is_noticed() {
    let faults = [
        Fault::PositionApart,
        Fault::ConfirmedEarly,
        Fault::ConfirmedBySource,
        Fault::SkippedAtCopy,
        Fault::AppliedTwice,
        Fault::TornTransaction,
    ];
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let blind: Vec<Fault> = in_a_runtime(|| {
        let unnoticed = |fault: &Fault| (0..500).all(|seed| catch_unwind(|| lives(seed, *fault)).is_ok());
        faults.into_iter().filter(unnoticed).collect()
    });
    std::panic::set_hook(quiet);
    assert_eq!(blind, [], "the simulation is blind");
}
