//! The door for browsers, programs and Prometheus: a console, a REST API and metrics, all of one [`Fleet`].
//!
//! ```text
//! request -> server.rs: TLS, limits -> access/: who is it, may they -> api/ | pages.rs + console/ | probes.rs + metrics/
//!                                                                        \_____ daemon: Fleet, orders ____/
//! ```
//!
//! [`Fleet`]: crate::status::fleet::Fleet

pub mod access;
pub mod api;
pub mod console;
mod door;
mod entrance;
mod kept;
pub mod metrics;
mod pages;
mod probes;
pub mod problem;
mod server;

pub use entrance::Entrance;
