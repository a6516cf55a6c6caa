//! The application at the source: several connections that write at once, without an end, at a moderate pace.
//!
//! Their work is what replication is easily wrong about: rows of several tables in one transaction, many rows in one
//! statement, deletes, updates that leave a large value alone, rollbacks, and now and then a large transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::Size;
use crate::error::{Error, Result};
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::{Session, Side};

/// Between two transactions of one writer: together a few hundred a second, which a laptop bears.
const TRANSFER_EVERY: Duration = Duration::from_millis(10);
const ORDER_EVERY: Duration = Duration::from_millis(50);
const BULK_EVERY: Duration = Duration::from_secs(3);
/// The finest lag that the demo can see.
pub(super) const PULSE_EVERY: Duration = Duration::from_millis(20);

const PULSE: &str = "update pulse set at = clock_timestamp()";

pub(super) struct Writers {
    tasks: JoinSet<Result<()>>,
    stop: watch::Sender<bool>,
    committed: Arc<AtomicU64>,
}

/// One connection and what it repeats.
struct Writer {
    session: Session,
    every: Duration,
    stop: watch::Receiver<bool>,
    committed: Arc<AtomicU64>,
}

impl Writers {
    pub(super) async fn start(source: &ConnInfo, size: Size) -> Result<Writers> {
        let (stop, stopped) = watch::channel(false);
        let committed = Arc::<AtomicU64>::default();
        let mut tasks = JoinSet::new();
        let works: [(Duration, fn(Size) -> String); 6] = [
            (TRANSFER_EVERY, transfer),
            (TRANSFER_EVERY, transfer),
            (TRANSFER_EVERY, transfer),
            (ORDER_EVERY, order),
            (BULK_EVERY, bulk),
            (PULSE_EVERY, |_| PULSE.to_owned()),
        ];
        for (every, work) in works {
            let session = Session::connect(source, Side::Source, &[]).await?;
            let writer = Writer { session, every, stop: stopped.clone(), committed: Arc::clone(&committed) };
            tasks.spawn(writer.repeat(move || work(size)));
        }
        Ok(Writers { tasks, stop, committed })
    }

    /// Transactions so far.
    pub(super) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Fails once one of them has failed.
    pub(super) fn still_write(&mut self) -> Result<()> {
        self.tasks.try_join_next().map_or(Ok(()), flatten)
    }

    /// Lets each finish its transaction.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            flatten(ended)?;
        }
        Ok(())
    }
}

fn flatten(ended: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.unwrap_or_else(|error| Err(Error::unexpected("a writer of the demo panicked").because(error)))
}

impl Writer {
    async fn repeat(mut self, work: impl Fn() -> String) -> Result<()> {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*self.stop.borrow() {
            ticks.tick().await;
            match self.session.query(&work()).await {
                Ok(_) => {
                    self.committed.fetch_add(1, Ordering::Relaxed);
                }
                // Two writers in each other's way: one of them is rolled back, as in any application.
                Err(error) if matches!(error.sqlstate(), Some("40P01" | "40001")) => {
                    self.session.query("rollback").await?;
                }
                Err(error) => return Err(error.context("a writer of the demo")),
            }
        }
        Ok(())
    }
}

/// Money moves between two accounts, through a teller of a branch. Branches, tellers and history always agree.
fn transfer(size: Size) -> String {
    let (from, to) = (fastrand::u64(1..=size.accounts()), fastrand::u64(1..=size.accounts()));
    let teller = fastrand::u64(1..=size.branches() * 10);
    let branch = 1 + (teller - 1) / 10;
    let delta = fastrand::i64(-5000..=5000);
    let end = if fastrand::u8(..) < 10 { "rollback" } else { "commit" };
    // In the order of their numbers, or two transfers would wait for each other.
    let (low, high) = (from.min(to), from.max(to));
    format!(
        "begin;
         update accounts set balance = balance + {delta} where id = {low};
         update accounts set balance = balance - {delta} where id = {high};
         update tellers set balance = balance + {delta} where id = {teller};
         update branches set balance = balance + {delta} where id = {branch};
         insert into history (teller, branch, account, delta) values ({teller}, {branch}, {low}, {delta});
         {end}"
    )
}

/// The shop: orders come, several at once, change, and go.
fn order(size: Size) -> String {
    let some = fastrand::u64(1..=size.orders());
    let until = some + 20;
    match fastrand::u8(0..4) {
        0 => "insert into orders (customer, total, tags, details, letter)
              select 'new customer', n, array['new', null], jsonb_build_object('number', n), repeat(md5(n::text), 100 * n)
                from generate_series(1, 5) as n"
            .to_owned(),
        // The letter is not touched, and so not sent.
        1 => format!(
            "update orders set state = 'paid', tags = tags[1:5] || array['paid'] where id between {some} and {until}"
        ),
        2 => format!(
            "begin;
             update orders set details = details || '{{\"seen\": true}}', letter = letter || '.' where id between {some} and {until};
             savepoint before;
             delete from orders where id between {some} and {until};
             rollback to before;
             commit"
        ),
        _ => format!("delete from orders where id between {some} and {some} + 4"),
    }
}

/// Some thousand rows in one transaction.
fn bulk(size: Size) -> String {
    let rows = size.accounts() / 100;
    let first = fastrand::u64(1..=size.accounts() - rows);
    format!(
        "update accounts set filler = 'interest of ' || clock_timestamp()::timestamptz(0)
          where id between {first} and {first} + {rows}"
    )
}
