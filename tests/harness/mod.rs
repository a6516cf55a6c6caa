//! The test ground: real PostgreSQL clusters, a network that breaks on demand, the built binary, seeded chance.
//!
//! ```text
//! let source = Cluster::start(Version::V17, &[]);
//! load_fixtures(&source, "postgres");
//! let proxy = Proxy::start(source.port());             // cut, heal, delay, freeze, truncate
//! let pgdiode = PgdiodeRun::new(&config);              // run, spawn, kill
//! ```
//!
//! Everything lives under one directory per test process; what a killed process leaves behind is swept by the
//! next one. Nothing is ever ended by name, only by the process ids that this process started or wrote down.

// A scenario file uses the parts it needs.
#![allow(dead_code, unused_imports)]

mod authority;
mod cluster;
mod fixtures;
pub mod ground;
pub mod http;
mod pipeline;
mod proxy;
mod redis;
mod rng;
mod s3;
mod service;
mod ssh;
mod version;

pub use authority::Authority;
pub use cluster::{Cluster, PsqlRun};
pub use fixtures::{load_fixtures, work};
pub use ground::give_to_service_user;
pub use pipeline::{Output, PgdiodeRun, Running};
pub use proxy::Proxy;
pub use redis::{ClusterClient, RedisClient, RedisCluster, RedisServer, RedisVersion, Reply};
pub use rng::Rng;
pub use s3::{BUCKET, S3Server};
pub use ssh::SshServer;
pub use version::{Tools, Version, python_with};

use std::time::{Duration, Instant};

/// How long a condition may take before its test fails: generous, because nothing is measured by it.
pub const PATIENCE: Duration = Duration::from_mins(1);

const POLL: Duration = Duration::from_millis(20);

/// Asks `condition` again and again until it answers something, or until `PATIENCE` is over: `None`.
pub fn wait_for<T>(mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}
