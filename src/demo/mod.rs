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

/// What happens after both sides were found identical.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    End,
    /// All goes on until the future is dropped, with writers that write again.
    Stay,
}
