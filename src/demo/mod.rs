//! The demos: two throw-away PostgreSQL servers and pgdiode between them, under load, killed where it hurts most, and
//! compared at the end.
//!
//! ```text
//! writers -> source server -> `pgdiode` (a child process) -> target server <- what the demo looks at
//! ```
//!
//! [`stream`] shows a live pipeline, [`snapshot`] full replacement, [`archive`] change files, and [`chat`] a
//! Redis server in the source's place. Everything belongs to one `Scene` and is gone when that is dropped, however a demo ends.

pub mod archive;
mod backup;
mod cache;
pub mod chat;
mod process;
mod readers;
mod server;
pub mod snapshot;
mod stage;
pub mod stream;
mod writers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Takes one line of the narration.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// For anything that a demo waits for; a slow laptop is not a failure.
const PATIENCE: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_millis(50);

/// How much the source holds, in MB, indexes and all.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub u64);

impl Size {
    fn accounts(self) -> u64 {
        self.0 * 3000
    }

    fn branches(self) -> u64 {
        1 + self.accounts() / 100_000
    }

    fn orders(self) -> u64 {
        self.0 * 250
    }
}

/// How a demo is played, and to whom.
#[derive(Clone)]
pub struct Playing {
    pub size: Size,
    pub afterwards: Afterwards,
    /// Whether a daemon opens its console on a free port of 127.0.0.1.
    pub has_console: bool,
    pub tell: Tell,
}

/// What happens after both sides were found identical.
#[derive(Debug, Clone)]
pub enum Afterwards {
    End,
    /// All goes on, with writers that write again, until somebody has seen enough or the future is dropped.
    Stay(Enough),
}

/// Whether whoever watches has seen enough.
#[derive(Debug, Clone, Default)]
pub struct Enough(Arc<AtomicBool>);

impl Enough {
    pub fn is_said(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// What was said before was not meant.
    fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn was_said(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
