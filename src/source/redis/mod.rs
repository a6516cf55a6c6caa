//! Keys of a Redis server as a source: what is there, what changes, and what rows that becomes.
//!
//! ```text
//! psync.rs     every write, in order  -> commands.rs -> dirty.rs: keys that were written, each once
//! told.rs      names of keys                               |
//! scan.rs      every key                                   |
//!                                        fetch.rs: values of keys, as of one moment -> value.rs
//! ```
//!
//! `cluster/` reads the keys of several servers as those of one; `reader.rs` is whichever of both it is.

pub mod cluster;
pub mod commands;
pub mod dirty;
pub mod ear;
pub mod fetch;
pub mod live;
pub mod mapping;
pub mod notifications;
pub mod probe;
pub mod psync;
pub mod reader;
pub mod scan;
pub mod server;
pub mod together;
pub mod told;
pub mod tracking;
pub mod untouched;
pub mod value;
