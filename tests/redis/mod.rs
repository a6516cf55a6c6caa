//! Scenarios with real Redis and Valkey servers.

mod chaos;
mod connection;
mod convergence;
mod failover;
mod harness_works;
mod naive_listener;
mod sessions;
mod transport;
mod verbs;
mod world;
mod writer;
