//! Scenarios with real Redis and Valkey servers.

mod connection;
mod convergence;
mod harness_works;
mod live_modes;
mod naive_listener;
mod transport;
mod world;
mod writer;
