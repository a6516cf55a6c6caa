//! Scenarios with real Redis and Valkey servers.

mod harness_works;
mod naive_listener;
mod transport;
