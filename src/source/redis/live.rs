//! Between whoever hears of changes and whoever applies them: what waits, how far it was heard, and how far it is
//! durable.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::dirty::{Dirty, Taken, Wanted};
use crate::keyspace::NodePosition;

pub struct Live {
    heard: Mutex<Heard>,
    changed: Arc<Notify>,
    durable: AtomicU64,
    /// What the server's clock is ahead of ours, in milliseconds.
    clock_ahead: AtomicI64,
}

/// What was heard, and up to where. Both change together.
pub struct Heard {
    pub dirty: Dirty,
    pub position: NodePosition,
    /// Offset and database behind the last command of an open transaction: no position is inside of one.
    pub(super) inside: Option<(u64, Option<u32>)>,
}

impl Live {
    pub fn new(wanted: Wanted, databases: &[u32], bytes_max: usize, position: NodePosition) -> Live {
        let durable = position.offset;
        let dirty = Dirty::new(wanted, databases, bytes_max);
        Live {
            heard: Mutex::new(Heard { dirty, position, inside: None }),
            changed: Arc::default(),
            durable: AtomicU64::new(durable),
            clock_ahead: AtomicI64::new(0),
        }
    }

    /// Tells whoever waits for any of those who have the same bell.
    #[must_use]
    pub fn with_bell(mut self, bell: Arc<Notify>) -> Live {
        self.changed = bell;
        self
    }

    /// To add what was heard.
    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        // Whoever panicked with it ends the process anyway.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was added.
    pub fn tell(&self) {
        self.changed.notify_one();
    }

    /// Waits until something was added since it was last waited for. Cancel safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// All that was heard, and up to where; nothing while a transaction of the source is open.
    pub fn take(&self) -> Option<(Taken, NodePosition)> {
        let mut heard = self.heard();
        if heard.dirty.is_open() {
            return None;
        }
        Some((heard.dirty.take(), heard.position.clone()))
    }

    /// Everything up to there is committed at the target.
    pub fn confirm(&self, offset: u64) {
        self.durable.store(offset, Ordering::Relaxed);
    }

    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Relaxed)
    }

    /// What the server's clock shows, set by [`Live::set_clock`].
    pub fn now(&self) -> i64 {
        now() + self.clock_ahead.load(Ordering::Relaxed)
    }

    /// The server's clock was just read.
    pub fn set_clock(&self, server_now: i64) {
        self.clock_ahead.store(server_now - now(), Ordering::Relaxed);
    }
}

/// Our clock, in milliseconds since 1970.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
