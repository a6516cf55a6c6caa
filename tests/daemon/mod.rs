//! `pgdiode start` of several pipelines with its door, asked over HTTP as programs ask it.

mod api;
mod contract;
mod keys;
mod listeners;
mod many;
mod memory;
mod reload;
mod runs;
mod schemas;
mod standby;
mod supervision;

use serde_json::Value;

use crate::harness::ground::free_port;
use crate::harness::http::Http;
use crate::harness::{Cluster, PgdiodeRun, Running, Version, wait_for};

/// A source and a target, and a configuration with the pipelines `orders`, a stream, and `li`, a snapshot.
pub struct Lab {
    pub source: Cluster,
    pub target: Cluster,
    pub run: PgdiodeRun,
    pub port: u16,
}

impl Lab {
    pub fn new() -> Lab {
        Lab::with("")
    }

    /// With more configuration behind it.
    pub fn with(more: &str) -> Lab {
        let source = Cluster::start(Version::V15, &[("wal_level", "logical")]);
        let target = Cluster::start(Version::V15, &[]);
        source.psql("postgres", "create database app");
        target.psql("postgres", "create database replica");
        source.psql(
            "app",
            "create table orders (id int primary key, what text);
             insert into orders select n, 'order ' || n from generate_series(1, 500) n;
             create table customers (id int primary key, name text); insert into customers values (1, 'Ada')",
        );
        let port = free_port();
        let config = config(&source, &target, port) + more;
        Lab { source, target, run: PgdiodeRun::new(&config), port }
    }

    pub fn http(&self) -> Http {
        Http::new(self.port)
    }

    /// Starts the daemon, and returns once the stream is live.
    pub fn start(&self) -> Running {
        let mut running = self.run.spawn(&["start"]);
        self.wait(&mut running, "/api/v1/pipelines/orders", |one| one["health"] == "healthy");
        running
    }

    /// Waits until what is there is as it should be.
    pub fn wait(&self, running: &mut Running, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = String::new();
        let found = wait_for(|| {
            assert!(running.is_running(), "it has ended: {}", running.stderr());
            let answer = self.http().try_send("GET", path, &[], "").ok()?;
            last.clone_from(&answer.body);
            (answer.status == 200).then(|| answer.success()).filter(|value| is_so(value))
        });
        found.unwrap_or_else(|| panic!("{path} never became so: {last}\n{}", running.stderr()))
    }

    /// Waits for the end of a run; what it has become.
    pub fn ended(&self, running: &mut Running, run: &Value) -> Value {
        let path = format!("/api/v1/runs/{}", run["id"].as_str().expect("a run has an id"));
        self.wait(running, &path, |run| !["running", "cancelling"].iter().any(|state| run["state"] == *state))
    }
}

fn config(source: &Cluster, target: &Cluster, port: u16) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:{port}\"\n\
         [pipeline.orders]\nsource = \"{}\"\ntarget = \"{}\"\ntables = [\"public.*\"]\n\
         [pipeline.li]\nmode = \"snapshot\"\nsource = \"{}\"\ntarget = \"{}\"\n\
         [pipeline.li.snapshot]\nfree_disk_percent_min = 0\n",
        source.conninfo("app"),
        target.conninfo("replica"),
        source.conninfo("app"),
        target.conninfo("li"),
    )
}
