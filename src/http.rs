//! The door for browsers, programs and Prometheus.

pub mod access;
pub mod console;
pub mod metrics;
pub mod problem;
