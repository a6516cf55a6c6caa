//! Snapshots of both sides that show exactly the same transactions, while the source is written and the pipeline runs.
//!
//! 1. The pipeline is asked to hold where the source is now, and answers once the target stands still.
//! 2. A temporary slot is created at the source. Its consistent point L lies behind everything written until then, so
//!    the target has nothing beyond L; and its exported snapshot shows exactly the transactions whose commit record
//!    begins before L.
//! 3. The pipeline is asked to hold at L: it applies exactly the transactions whose commit record begins before L.
//! 4. A snapshot of the target is taken and read: it shows the answer to this very request, and a position that is not
//!    beyond L. The position commits with the rows, so that the snapshot vouches for itself: nothing of what came later
//!    is in it, even if the hold had ended meanwhile.
//! 5. The hold is cleared, the pipeline goes on. The snapshots live in two idle transactions.
//!
//! Without a running pipeline only the slot comes first, then this process runs the pipeline up to L.
//!
//! Creating a slot waits for the transactions that are writing at the source, and the target stands still meanwhile:
//! a source with long transactions is better verified when there are none. A hold is a lease: it expires soon after the
//! process that asked for it is gone, and the pipeline ignores one that has expired.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::replication::{CreatedSlot, SlotLife};
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::pipeline::holder::lock_of;
use crate::position::Lsn;

/// How long a hold lasts unless it is renewed.
const LEASE_SECONDS: u32 = 60;
/// `RENEWED_AFTER < LEASE_SECONDS`, with room for a slow network.
const RENEWED_AFTER: Duration = Duration::from_secs(15);
/// Between two looks at the pipeline's answer.
const POLL: Duration = Duration::from_millis(100);
/// A pipeline whose position does not move for so long will not get there.
const STANDSTILL_MAX: Duration = Duration::from_mins(10);
/// Transactions at the source that run longer make the slot fail: the target is held for them.
const SLOT_WITHIN: Duration = Duration::from_mins(5);

/// Both sides at one position.
pub struct Agreed {
    /// Both snapshots show exactly the transactions whose commit record begins before this.
    pub at: Lsn,
    pub source: Snapshot,
    pub target: Snapshot,
}

/// An exported snapshot; it can be imported until this is dropped.
pub struct Snapshot {
    pub id: String,
    /// Its open transaction is what keeps the snapshot.
    session: Session,
}

impl Agreed {
    /// Ends both transactions; merely dropped, each leaves a complaint about a lost connection in its server's log.
    pub async fn end(mut self) -> Result<()> {
        self.source.session.query("rollback").await?;
        self.target.session.query("rollback").await?;
        Ok(())
    }
}

impl Snapshot {
    /// Exports what the transaction that is open on `session` sees.
    async fn export(mut session: Session) -> Result<Snapshot> {
        let id = session.one("select pg_catalog.pg_export_snapshot()").await?.string(0);
        Ok(Snapshot { id, session })
    }
}

/// Gets the snapshots. `target` is any session with the target; `catch_up` is called only while no process runs the
/// pipeline, and has to apply exactly the transactions before the given position.
pub async fn agree(
    ends: &Ends,
    pipeline: &str,
    target: Session,
    catch_up: impl AsyncFnOnce(Lsn) -> Result<()>,
) -> Result<Agreed> {
    let mut hold = Hold::new(target, pipeline).await?;
    let agreed = hold.agree(ends, catch_up).await;
    // Also after an error: nobody waits for the lease to end.
    let cleared = hold.clear().await;
    let agreed = agreed?;
    cleared?;
    Ok(agreed)
}

/// Our request in the pipeline's row of the control schema.
struct Hold {
    session: Session,
    pipeline: String,
    /// Begins the ids of our requests.
    owner: String,
    requests: u32,
}

/// What came of a request to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// The id of the request that was answered.
    Held(String),
    /// No process runs the pipeline (any more).
    NotRunning,
}

impl Hold {
    /// Only one verification at a time may ask a pipeline to hold.
    async fn new(mut session: Session, pipeline: &str) -> Result<Hold> {
        let key = quote::literal(&format!("pgdiode verify {pipeline}"));
        let lock = format!("select pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended({key}, 0))");
        if !session.one(&lock).await?.bool(0) {
            return Err(Error::new(
                Kind::Locked,
                format!("pipeline \"{pipeline}\" is being verified by another process"),
            )
            .hint("Try again in a moment: it lets go of the pipeline before it compares."));
        }
        let owner = format!("{:016x}", fastrand::u64(..));
        Ok(Hold { session, pipeline: pipeline.to_owned(), owner, requests: 0 })
    }

    async fn agree(&mut self, ends: &Ends, catch_up: impl AsyncFnOnce(Lsn) -> Result<()>) -> Result<Agreed> {
        let mut answer = Answer::NotRunning;
        if self.is_running().await? {
            let now = source_position(&mut ends.source().await?).await?;
            answer = self.hold(now).await?;
        }
        let (at, source) = self.source_snapshot(ends).await?;
        if answer != Answer::NotRunning {
            answer = self.hold(at).await?;
        }
        if answer == Answer::NotRunning {
            self.clear().await?;
            catch_up(at).await.map_err(|error| match error.kind() {
                Kind::Locked => error.hint("The pipeline was started meanwhile. Verify again."),
                _ => error,
            })?;
        }
        let target = self.target_snapshot(ends, at, &answer).await?;
        Ok(Agreed { at, source, target })
    }

    /// Asks the pipeline to hold at `at`, and waits for its answer.
    async fn hold(&mut self, at: Lsn) -> Result<Answer> {
        self.requests += 1;
        let id = format!("{}-{}", self.owner, self.requests);
        let sql = format!(
            "update pgdiode.pipeline set hold_id = {}, hold_at = '{at}', held_id = null,
                    hold_expires_at = pg_catalog.clock_timestamp() + interval '{LEASE_SECONDS} s'
              where name = {}",
            quote::literal(&id),
            quote::literal(&self.pipeline)
        );
        if self.session.execute(&sql).await? != 1 {
            return Err(Error::refused(format!("the target knows no pipeline \"{}\"", self.pipeline))
                .hint("Set it up with: pgdiode setup."));
        }
        tracing::debug!(%at, id, "asked the pipeline to hold");
        let mut renewed = Instant::now();
        let mut moved = Instant::now();
        let mut position = Lsn::ZERO;
        loop {
            // In this order: what had ended after its answer has answered.
            let runs = self.is_running().await?;
            let (held, stands_at) = self.answer().await?;
            if held.as_ref() == Some(&id) {
                return Ok(Answer::Held(id));
            }
            if !runs {
                return Ok(Answer::NotRunning);
            }
            if stands_at != position {
                (position, moved) = (stands_at, Instant::now());
            }
            if moved.elapsed() > STANDSTILL_MAX {
                return Err(Error::unexpected(format!(
                    "the pipeline was asked to hold at {at} and has stood at {position} for {} minutes",
                    STANDSTILL_MAX.as_secs() / 60
                ))
                .hint("Its state and its last error: pgdiode status."));
            }
            if renewed.elapsed() > RENEWED_AFTER {
                self.renew().await?;
                renewed = Instant::now();
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The last request that was answered, and the target's position.
    async fn answer(&mut self) -> Result<(Option<String>, Lsn)> {
        let sql = format!(
            "select p.held_id, s.lsn from pgdiode.pipeline p left join pgdiode.position s on s.pipeline = p.name
              where p.name = {}",
            quote::literal(&self.pipeline)
        );
        let row = self.session.one(&sql).await?;
        Ok((row.text(0).map(str::to_owned), row.optional(1)?.unwrap_or(Lsn::ZERO)))
    }

    /// Whether any process holds the pipeline's lock.
    async fn is_running(&mut self) -> Result<bool> {
        Ok(lock_of(&self.pipeline).holder(&mut self.session).await?.is_some())
    }

    async fn renew(&mut self) -> Result<()> {
        let sql = format!(
            "update pgdiode.pipeline
                set hold_expires_at = pg_catalog.clock_timestamp() + interval '{LEASE_SECONDS} s'
              where {}",
            self.is_ours()
        );
        self.session.query(&sql).await.map(drop)
    }

    async fn clear(&mut self) -> Result<()> {
        let sql = format!(
            "update pgdiode.pipeline set hold_id = null, hold_at = null, held_id = null, hold_expires_at = null
              where {}",
            self.is_ours()
        );
        self.session.query(&sql).await.map(drop)
    }

    fn is_ours(&self) -> String {
        format!(
            "name = {} and pg_catalog.starts_with(hold_id, {})",
            quote::literal(&self.pipeline),
            quote::literal(&self.owner)
        )
    }

    /// The slot's position and its snapshot, handed on to an ordinary transaction: so the slot, and the log that the
    /// source keeps for it, need not last as long as the comparison.
    async fn source_snapshot(&mut self, ends: &Ends) -> Result<(Lsn, Snapshot)> {
        let mut replication = ends.replication().await?;
        let slot = format!("pgdiode_verify_{}", self.owner);
        let created = self.renewing(create_slot(&mut replication, &slot)).await?;
        let exported = created.snapshot.ok_or_else(|| Error::unexpected("a slot came without a snapshot"))?;
        let mut session = ends.source().await?;
        let import = format!(
            "begin isolation level repeatable read read only; set transaction snapshot {}",
            quote::literal(&exported)
        );
        session.query(&import).await?;
        let snapshot = Snapshot::export(session).await?;
        replication.query(&format!("DROP_REPLICATION_SLOT {}", quote::identifier(&slot))).await?;
        Ok((created.consistent_point, snapshot))
    }

    /// Does `work` while the hold is renewed.
    async fn renewing<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(RENEWED_AFTER) => self.renew().await?,
            }
        }
    }

    /// A snapshot of the target that shows exactly what is before `at`, or an error.
    async fn target_snapshot(&self, ends: &Ends, at: Lsn, answer: &Answer) -> Result<Snapshot> {
        let mut session = ends.target().await?;
        session.query("begin isolation level repeatable read read only").await?;
        let sql = format!(
            "select s.lsn, p.hold_id, p.held_id
               from pgdiode.pipeline p join pgdiode.position s on s.pipeline = p.name where p.name = {}",
            quote::literal(&self.pipeline)
        );
        let row = session.one(&sql).await?;
        let position: Lsn = row.get(0)?;
        let is_held = match answer {
            Answer::Held(id) => row.text(1) == Some(id.as_str()) && row.text(2) == Some(id.as_str()),
            Answer::NotRunning => true,
        };
        if position > at || !is_held {
            return Err(Error::unexpected(format!(
                "the target went on to {position} while it was to stand at {at}: both sides cannot be compared"
            ))
            .hint("Verify again; if this repeats, the connection to the target is too slow to keep the pipeline held."));
        }
        Snapshot::export(session).await
    }
}

async fn create_slot(replication: &mut Session, slot: &str) -> Result<CreatedSlot> {
    let created = tokio::time::timeout(SLOT_WITHIN, replication.create_slot(slot, SlotLife::Temporary)).await;
    let created = created.unwrap_or_else(|_| {
        Err(Error::refused(format!(
            "a snapshot of the source was not to be had within {} minutes: transactions that write there run as long",
            SLOT_WITHIN.as_secs() / 60
        ))
        .hint("Verify again when they have ended: select pid, xact_start, query from pg_stat_activity where backend_xid is not null."))
    });
    created.map_err(|error| match error.sqlstate() {
        Some("53400") => error.with_kind(Kind::Refused).hint(
            "Verifying takes a replication slot for a moment. Raise max_replication_slots at the source, or drop a slot \
             that nobody uses.",
        ),
        Some("42501") => error.hint("The source's user needs the REPLICATION attribute."),
        _ => error,
    })
}

/// Where the source's write-ahead log ends.
async fn source_position(session: &mut Session) -> Result<Lsn> {
    let sql = "select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
                           else pg_catalog.pg_current_wal_lsn() end";
    session.one(sql).await?.get(0)
}
