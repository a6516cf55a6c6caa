//! The readers of a replica: connections that read without an end while it is replaced, and check each answer.
//!
//! A reader reads the whole of what was published in one statement. It must be one edition, with books that balance: a
//! mixture of two copies would show. When its connection ends it connects again, as any client would.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::error::{Error, Kind, Result};
use crate::pg::conninfo::ConnInfo;
use crate::pg::session::{Session, Side};

/// Rows that each edition rewrites, so that a mixture of two would show.
pub(super) const LEAVES: u32 = 5000;

const READERS: usize = 4;
/// Between two reads: four readers leave a laptop something for the copy.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(1);
/// Longer than this nobody waits for a replica: the demo fails.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What a client is told when the database under it is replaced, or was a moment ago: `admin_shutdown`,
/// `object_in_use`, `undefined_database`, and that it was just renamed.
const REPLACED: [&str; 4] = ["57P01", "55006", "3D000", "08006"];

/// The edition, whether all of it is there and nothing else, and whether branches, tellers and history agree.
fn read() -> String {
    format!(
        "select e.number,
                (select count(*) = {LEAVES} and bool_and(l.edition = e.number) from leaf l),
                (select sum(balance) from branches) = (select sum(balance) from tellers)
            and (select sum(balance) from branches) = (select coalesce(sum(delta), 0) from history)
           from edition e"
    )
}

/// What the readers saw since they were last asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) reads: u64,
    pub(super) reconnects: u64,
    /// From one answer to the next, of any reader.
    pub(super) longest_wait: Duration,
    pub(super) editions: BTreeSet<i64>,
}

impl Seen {
    pub(super) fn text(&self) -> String {
        let editions: Vec<String> = self.editions.iter().map(ToString::to_string).collect();
        format!(
            "{} reads, {} reconnects, longest wait {:.0} ms, editions seen: {}, each of them whole",
            self.reads,
            self.reconnects,
            self.longest_wait.as_secs_f64() * 1000.0,
            editions.join(", ")
        )
    }

    pub(super) fn add(&mut self, other: &Seen) {
        self.reads += other.reads;
        self.reconnects += other.reconnects;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
        self.editions.extend(&other.editions);
    }
}

pub(super) struct Readers {
    tasks: JoinSet<Result<()>>,
    seen: Arc<Mutex<Seen>>,
}

impl Readers {
    pub(super) fn start(replica: &ConnInfo) -> Readers {
        let seen = Arc::<Mutex<Seen>>::default();
        let mut tasks = JoinSet::new();
        for _ in 0..READERS {
            tasks.spawn(read_on(replica.clone(), Arc::clone(&seen)));
        }
        Readers { tasks, seen }
    }

    /// What was seen since the last call. Fails once a reader has failed.
    pub(super) fn take(&mut self) -> Result<Seen> {
        self.still_read()?;
        Ok(std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Fails once a reader has failed, which is the only way to end.
    pub(super) fn still_read(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(Ok(ended)) => ended,
            Some(Err(error)) => Err(Error::unexpected("a reader of the demo panicked").because(error)),
        }
    }
}

/// Reads until it is dropped, or sees what nobody may see.
async fn read_on(replica: ConnInfo, seen: Arc<Mutex<Seen>>) -> Result<()> {
    let note = |note: &dyn Fn(&mut Seen)| note(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
    let sql = read();
    let mut session = None;
    let (began, mut last) = (Instant::now(), None::<Instant>);
    loop {
        match read_once(&replica, &mut session, &sql).await {
            Ok(edition) => {
                let now = Instant::now();
                let waited = last.replace(now).map_or(Duration::ZERO, |last| now - last);
                note(&|seen| {
                    seen.reads += 1;
                    seen.longest_wait = seen.longest_wait.max(waited);
                    seen.editions.insert(edition);
                });
                sleep(PAUSE).await;
            }
            Err(error) if is_replaced(&error) && last.unwrap_or(began).elapsed() < WAIT_MAX => {
                if session.take().is_some() {
                    note(&|seen| seen.reconnects += 1);
                }
                sleep(RECONNECT_PAUSE).await;
            }
            Err(error) => return Err(error.context("a reader of the replica")),
        }
    }
}

fn is_replaced(error: &Error) -> bool {
    match error.sqlstate() {
        Some(state) => REPLACED.contains(&state),
        None => error.retries(),
    }
}

/// The edition that it read, whole.
async fn read_once(replica: &ConnInfo, session: &mut Option<Session>, sql: &str) -> Result<i64> {
    let open = match session.take() {
        Some(open) => open,
        None => Session::connect(replica, Side::Target, &[]).await?,
    };
    let row = session.insert(open).one(sql).await?;
    let holds = [row.text(1), row.text(2)];
    let edition = row.string(0);
    if is_whole(holds) {
        return row.get(0);
    }
    Err(Error::new(Kind::Difference, format!("edition {edition} was seen in part, or mixed with another")))
}

/// An answer of nothing, as from an empty table, is none either.
fn is_whole(holds: [Option<&str>; 2]) -> bool {
    holds == [Some("t"); 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_adds_up() {
        let seen = |reads, wait, edition| Seen {
            reads,
            reconnects: 1,
            longest_wait: Duration::from_millis(wait),
            editions: [edition].into(),
        };
        let mut sum = seen(3, 20, 1);
        sum.add(&seen(4, 10, 2));
        let text = "7 reads, 2 reconnects, longest wait 20 ms, editions seen: 1, 2, each of them whole";
        assert_eq!(sum.text(), text);
    }

    #[test]
    fn a_part_of_a_copy_is_seen() {
        assert!(is_whole([Some("t"), Some("t")]));
        for holds in [[Some("f"), Some("t")], [Some("t"), Some("f")], [None, Some("t")], [Some("t"), None]] {
            assert!(!is_whole(holds), "{holds:?}");
        }
    }

    #[test]
    fn only_what_a_swap_brings_is_a_reconnect() {
        for (state, replaced) in [("57P01", true), ("3D000", true), ("42P01", false), ("28P01", false)] {
            let error = Error::new(Kind::TargetUnreachable, "it ended").with_sqlstate(state);
            assert_eq!(is_replaced(&error), replaced, "{state}");
        }
        assert!(is_replaced(&Error::new(Kind::TargetUnreachable, "the connection broke")));
        assert!(!is_replaced(&Error::new(Kind::Difference, "mixed")));
    }
}
