//! The wire of Redis: where a server is, a connection to it, and what travels on that. What the bytes mean to a pipeline
//! is the business of `source::redis`.

pub mod connection;
pub mod location;
pub mod resp;
pub mod sentinel;
pub mod slot;
pub mod transport;
