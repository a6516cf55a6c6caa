//! `verify` against real servers: what is the same is called the same, and each difference is found and named.

mod agree;
mod compare;

use pgdiode::change::TableName;
use pgdiode::pg::conninfo::{ConnInfo, Environment};
use pgdiode::pg::session::Session;
use pgdiode::pipeline::ends::Ends;
use pgdiode::position::Lsn;
use pgdiode::status::{DifferenceKind, Progress, TableVerification, VerifyReport};
use pgdiode::verify::{TableToVerify, compare};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::harness::{Cluster, Version};

/// Two clusters, and a runtime for what talks to them.
struct Sides {
    source: Cluster,
    target: Cluster,
    database: String,
    runtime: Runtime,
}

impl Sides {
    fn start(source: Version, target: Version) -> Sides {
        Sides::start_with(source, target, &[])
    }

    fn start_with(source: Version, target: Version, settings: &[(&str, &str)]) -> Sides {
        Sides {
            source: Cluster::start(source, settings),
            target: Cluster::start(target, settings),
            database: "postgres".into(),
            runtime: Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"),
        }
    }

    /// Runs the same on both sides.
    fn both(&self, sql: &str) {
        self.source(sql);
        self.target(sql);
    }

    fn source(&self, sql: &str) -> String {
        self.source.psql(&self.database, sql)
    }

    fn target(&self, sql: &str) -> String {
        self.target.psql(&self.database, sql)
    }

    fn ends(&self) -> Ends {
        let parse = |cluster: &Cluster| {
            ConnInfo::parse(&cluster.conninfo(&self.database), &Environment::default()).expect("a conninfo")
        };
        Ends {
            source: parse(&self.source),
            target: parse(&self.target),
            target_is_fresh: false,
            schemas: None,
        }
    }

    fn compare(&self, tables: &[TableToVerify]) -> VerifyReport {
        self.compare_after(tables, || {})
    }

    /// Takes both snapshots, does `meanwhile`, and compares.
    fn compare_after(&self, tables: &[TableToVerify], meanwhile: impl FnOnce()) -> VerifyReport {
        let ends = self.ends();
        self.runtime.block_on(async {
            let mut source = ends.source().await.expect("the source answers");
            let mut target = ends.target().await.expect("the target answers");
            let snapshots = [snapshot(&mut source).await, snapshot(&mut target).await];
            meanwhile();
            let progress = watch::Sender::new(Progress::default());
            let report = compare(&ends, &snapshots[0], &snapshots[1], Lsn(1), tables, 2, &progress);
            let report = report.await.expect("a comparison");
            assert_eq!(progress.borrow().tables_done, tables.len() as u64);
            assert_eq!(progress.borrow().current, [""; 0]);
            report
        })
    }

    fn compare_one(&self, table: &str) -> TableVerification {
        self.compare(&[whole(table)]).tables.remove(0)
    }
}

async fn snapshot(session: &mut Session) -> String {
    session.query("begin isolation level repeatable read read only").await.expect("a transaction");
    session.one("select pg_catalog.pg_export_snapshot()").await.expect("a snapshot").string(0)
}

/// `schema.table`, whole.
fn whole(table: &str) -> TableToVerify {
    let (schema, name) = table.split_once('.').expect("a qualified name");
    TableToVerify::new(TableName::new(schema, name))
}

fn differences(table: &TableVerification) -> Vec<(&str, DifferenceKind)> {
    table.differences.iter().map(|difference| (difference.key.as_str(), difference.kind)).collect()
}
