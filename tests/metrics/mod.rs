//! What Prometheus is given: the metrics of a made-up fleet, and the alert rules and the dashboard made for them, as the
//! real `promtool` takes them.

mod alerts;
mod dashboard;
mod exported;
pub mod fleet;
mod promql;
mod scraped;
mod top;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares with a file of `tests/data`; `UPDATE_GOLDEN=1` renews it.
fn golden(name: &str, text: &str) {
    let path = repository("tests/data").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "tests/data/{name} differs: UPDATE_GOLDEN=1 renews it. Now it is:\n{text}");
}

/// Runs it to its end with this on its standard input.
fn promtool(arguments: &[&str], input: &str) -> Output {
    let started = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir(repository(""))
        .spawn();
    let mut child = started.expect("promtool can be started: scripts/install installs it");
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(input.as_bytes()).expect("promtool reads its input");
    drop(stdin);
    child.wait_with_output().expect("promtool ends")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
