//! The verbs around a run, through the built binary and real servers: what is wrong is said, with its remedy and exit
//! status; what is right is done once.

mod bad_input;
mod door;
mod membership;
mod setup;
mod subscription;

use super::harness::{Cluster, Output, PgdiodeRun, Version};

/// A source with an unlimited user, an empty target, and a configuration that joins them.
struct Ground {
    source: Cluster,
    target: Cluster,
}

impl Ground {
    fn new() -> Ground {
        Ground { source: Cluster::start(Version::V15, &[]), target: Cluster::start(Version::V15, &[]) }
    }

    /// A pipeline between the two databases `postgres`, with further lines of its section.
    fn pgdiode(&self, lines: &str) -> PgdiodeRun {
        configured(&self.source.conninfo("postgres"), &self.target.conninfo("postgres"), lines)
    }

    /// A new database at both ends.
    fn databases(&self, name: &str, sql: &str) -> (String, String) {
        for cluster in [&self.source, &self.target] {
            cluster.psql("postgres", &format!("create database {name}"));
        }
        self.source.psql(name, sql);
        (self.source.conninfo(name), self.target.conninfo(name))
    }
}

fn configured(source: &str, target: &str, lines: &str) -> PgdiodeRun {
    PgdiodeRun::new(&format!("[pipeline.main]\nsource = \"{source}\"\ntarget = \"{target}\"\n{lines}\n"))
}

/// The findings of `pgdiode check --json` and how it ended.
fn check(pgdiode: &PgdiodeRun) -> (i32, Vec<(String, String, String)>) {
    let output: Output = pgdiode.run(&["check", "--json"]);
    let status = output.status.code().unwrap();
    let document: serde_json::Value = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", output.stdout, output.stderr));
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = document["findings"].as_array().unwrap();
    (status, findings.iter().map(|it| (text(it, "level"), text(it, "what"), text(it, "hint"))).collect())
}

/// The check ends with `status`, and one of its findings of this level says so and hints so.
fn finds(pgdiode: &PgdiodeRun, status: i32, level: &str, what: &str, hint: &str) {
    let (ended, findings) = check(pgdiode);
    let found = findings.iter().any(|(its_level, its_what, its_hint)| {
        its_level == level && its_what.contains(what) && its_hint.contains(hint)
    });
    assert!(found && ended == status, "wanted {status} {level} {what:?} {hint:?}, got {ended} {findings:#?}");
}
