//! Keys of a Redis server as a source: what is there, what changes, and what rows that becomes.
//!
//! ```text
//! psync.rs     every write, in order  -> commands.rs -> dirty.rs: keys that were written, each once
//! scan.rs      every key                                   |
//!                                        fetch.rs: values of keys, as of one moment -> value.rs
//! ```

pub mod commands;
pub mod dirty;
pub mod fetch;
pub mod live;
pub mod mapping;
pub mod probe;
pub mod psync;
pub mod scan;
pub mod server;
pub mod value;
