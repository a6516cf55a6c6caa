//! PostgreSQL as a source: its catalog, its replication slot, its stream of changes.
//!
//! ```text
//! socket -> [stream] frame -> [pgoutput] message -> [assemble] whole transactions, in-progress ones kept in [spool]
//!                         -> [wal2json] the same of a slot that has that plugin
//!        -> bounded channel -> PostgresSource::next
//! ```
//!
//! Sessions are read-only; a slot and its confirmations are the only trace that is left at the source.

pub mod assemble;
pub mod catalog;
pub mod pgoutput;
pub mod slot;
pub mod spool;
pub mod stream;
pub mod wal2json;
