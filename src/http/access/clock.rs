//! The time, for whatever ends by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// Clones tell the same time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    ahead_ms: Arc<AtomicU64>,
}

impl Clock {
    /// Lets time pass, for whoever cannot wait.
    pub fn advance(&self, by: Duration) {
        self.ahead_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// For how long something took: it never goes back.
    pub(super) fn now(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// For what was written down as a date.
    pub(super) fn date(&self) -> Timestamp {
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        let ahead = SignedDuration::from_millis(i64::try_from(ahead).unwrap_or(i64::MAX));
        Timestamp::now().checked_add(ahead).unwrap_or(Timestamp::MAX)
    }
}
