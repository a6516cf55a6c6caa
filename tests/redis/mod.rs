//! Scenarios with real Redis and Valkey servers.

mod captures;
mod chaos;
mod cluster;
mod connection;
mod convergence;
mod edge_cases;
mod failover;
mod harness_works;
mod live_modes;
mod naive_listener;
pub mod sessions;
mod transactions;
mod transport;
mod verbs;
mod verify;
mod world;
mod writer;
