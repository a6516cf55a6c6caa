//! Scenarios with real Redis and Valkey servers.

mod connection;
mod convergence;
mod harness_works;
mod naive_listener;
mod transport;
mod verbs;
mod world;
mod writer;
