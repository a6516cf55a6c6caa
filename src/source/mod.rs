//! Where transactions come from.
//!
//! A source delivers [`Event`]s in commit order and is told what may be forgotten. It knows nothing of targets.

pub mod archive;
pub mod postgres;
pub mod redis;

use std::future::Future;

use crate::change::Event;
use crate::error::Result;
use crate::position::Lsn;

pub trait Source: Send {
    /// The next event; waits until there is one. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Result<Event>> + Send;

    /// The next event if it is already here: sparing the pump a look at everything else for each.
    fn try_next(&mut self) -> Option<Event>;

    /// The target has durably committed everything up to `position`; the source may forget all before it.
    fn confirm(&mut self, position: Lsn) -> Result<()>;
}
