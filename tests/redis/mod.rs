//! Scenarios with real Redis and Valkey servers.

mod connection;
mod convergence;
mod failover;
mod harness_works;
mod naive_listener;
mod sessions;
mod transport;
mod verify;
mod world;
mod writer;
