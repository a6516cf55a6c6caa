//! A daemon as a real Prometheus scrapes it: with our rules loaded, and every expression of the dashboard asked.

use std::fs;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::dashboard::expressions;
use super::{promtool, repository, said};
use crate::daemon::Lab;
use crate::harness::ground::free_port;
use crate::harness::http::Http;
use crate::harness::wait_for;

/// Ended when it is dropped.
struct Prometheus {
    process: Child,
    http: Http,
    directory: tempfile::TempDir,
}

impl Prometheus {
    /// With our rules, scraping this port.
    fn start(scraped: u16) -> Prometheus {
        let directory = tempfile::tempdir().unwrap();
        fs::copy(repository("deploy/prometheus/rules.yml"), directory.path().join("rules.yml")).unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\n\
             scrape_configs: [{{job_name: pgdiode, static_configs: [{{targets: [\"127.0.0.1:{scraped}\"]}}]}}]\n"
        );
        fs::write(directory.path().join("prometheus.yml"), config).unwrap();
        let port = free_port();
        let process = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(directory.path())
            .stderr(fs::File::create(directory.path().join("log")).unwrap())
            .stdout(Stdio::null())
            .spawn();
        let process = process.expect("prometheus can be started: scripts/install installs it");
        Prometheus { process, http: Http::new(port), directory }
    }

    /// What an expression comes to, now.
    fn ask(&self, expression: &str) -> Value {
        let mut path = "/api/v1/query?query=".to_owned();
        expression.bytes().for_each(|byte| path.push_str(&format!("%{byte:02X}")));
        let answer = self.http.try_send("GET", &path, &[], "");
        // Until it listens, and has read its own log, there is none.
        let answer = answer.ok().filter(|answer| answer.status != 503);
        answer.map_or(Value::Null, |answer| answer.success()["data"]["result"].clone())
    }

    fn wait_for(&self, expression: &str) -> Value {
        let found = wait_for(|| Some(self.ask(expression)).filter(|found| found.get(0).is_some()));
        found.unwrap_or_else(|| {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            panic!(
                "{expression} never came to anything; targets: {}; {log}",
                self.http.get("/api/v1/targets").body
            )
        })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_prometheus_takes_what_a_daemon_exports() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    let plain = lab.http().get("/metrics");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let checked = promtool(&["check", "metrics"], &plain.body);
    let complaints = said(&checked);
    assert!(complaints.lines().all(|line| line.ends_with(super::exported::EXCUSED)), "{complaints}");
    let open = lab.http().with("Accept", "application/openmetrics-text; version=1.0.0").get("/metrics");
    assert_eq!(
        open.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(open.body.ends_with("# EOF\n"), "{}", open.body);

    let prometheus = Prometheus::start(lab.port);
    prometheus.wait_for("pgdiode_pipeline_health{pipeline=\"orders\",health=\"healthy\"} == 1");
    let copied = prometheus.wait_for("pgdiode_rows_copied_total{pipeline=\"orders\"}");
    assert_eq!(copied[0]["value"][1], "501", "{copied}");
    lab.source.psql("app", "insert into orders select n, 'new' from generate_series(1001, 1030) n");
    prometheus.wait_for("pgdiode_rows_total{table=\"public.orders\",kind=\"insert\"} == 30");
    // It asked for OpenMetrics, whose metadata has the units.
    let metadata = prometheus.http.json("/api/v1/metadata?metric=pgdiode_replication_lag_seconds");
    assert_eq!(metadata["data"]["pgdiode_replication_lag_seconds"][0]["unit"], "seconds", "{metadata}");
    for (title, expression) in expressions(&super::dashboard::dashboard()) {
        let filled =
            expression.replace("$__rate_interval", "1m").replace("$pipeline", ".*").replace("$job", ".*");
        assert!(prometheus.ask(&filled).is_array(), "{title}: {expression}");
    }
    let rules = prometheus.http.json("/api/v1/rules");
    let groups = rules["data"]["groups"].as_array().expect("groups of rules").clone();
    assert!(groups.len() > 5, "{rules}");
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().expect("rules")) {
        assert_eq!(rule["lastError"], Value::Null, "{rule}");
        assert_ne!(rule["state"], "firing", "{rule}");
    }

    // What is watched in a terminal is the same.
    let shown = lab.run.run(&["top", "--once"]).success();
    let line = shown.lines().find(|line| line.contains(" orders ")).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.starts_with("✓ healthy") && line.contains("streaming"), "{shown}");
    running.terminate();
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
    prometheus.wait_for("up{job=\"pgdiode\"} == 0");
}
