//! The integration tests, one binary: a scenario per file, against servers that they start themselves.

// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod harness;

mod archive;
mod audit;
mod chaos;
mod cli;
mod console;
mod daemon;
mod demo;
mod harness_works;
mod http;
mod keyspace;
mod metrics;
mod packaging;
mod readme;
mod redis;
mod snapshot;
mod store;
mod stream;
mod tidy;
mod verbs;
mod verify;
