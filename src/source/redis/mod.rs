//! Keys of a Redis server as a source: what is there, what changes, and what rows that becomes.

pub mod commands;
pub mod dirty;
pub mod value;
