//! Pipelines of one daemon do not hinder one another.

use std::os::unix::net::UnixDatagram;

use serde_json::json;

use super::Lab;
use crate::harness::{Cluster, PATIENCE, Version, ground};

#[test]
fn one_that_fails_keeps_no_other_from_running_and_comes_back_by_itself() {
    let other = Cluster::start(Version::V15, &[("wal_level", "logical")]);
    other.psql("postgres", "create table t (id int primary key); insert into t values (1)");
    let lab = Lab::new();
    lab.target.psql("postgres", "create database third");
    let config = std::fs::read_to_string(lab.run.config_path()).unwrap();
    let third = format!(
        "[pipeline.third]\nsource = \"{}\"\ntarget = \"{}\"\ntables = [\"public.t\"]\n",
        other.conninfo("postgres"),
        lab.target.conninfo("third")
    );
    std::fs::write(lab.run.config_path(), config + &third).unwrap();
    for name in ["orders", "third"] {
        lab.run.run(&["setup", "--yes", "--pipeline", name]).success();
    }
    let mut running = lab.start();
    lab.wait(&mut running, "/api/v1/pipelines/third", |one| one["health"] == "healthy");
    other.kill9();
    let away = lab.wait(&mut running, "/api/v1/pipelines/third", |one| one["health"] == "attention");
    assert!(away["verdict"].as_str().is_some_and(|verdict| !verdict.is_empty()), "{away}");
    lab.source.psql("app", "insert into orders values (3000, 'meanwhile')");
    lab.target.wait_until(
        "replica",
        "select exists (select from orders where id = 3000)",
        "the other one goes on",
    );
    other.start_again();
    other.psql("postgres", "insert into t values (2)");
    lab.target.wait_until("third", "select count(*) = 2 from t", "it comes back");
    lab.wait(&mut running, "/api/v1/pipelines/third", |one| one["health"] == "healthy");
}

#[test]
fn a_configuration_read_again_disturbs_only_what_it_changes() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    let http = lab.http();
    let since = |name: &str| http.json(&format!("/api/v1/pipelines/{name}"))["state"]["running_on"].clone();
    let before = since("orders");
    let config = std::fs::read_to_string(lab.run.config_path()).unwrap();
    // A wrong one changes nothing, and says what is wrong.
    std::fs::write(lab.run.config_path(), config.clone() + "[pipeline.new]\nmode = \"snapshoot\"\n").unwrap();
    let wrong = http.post("/api/v1/reload", &json!({})).with_status(422);
    assert!(wrong["detail"].as_str().unwrap().contains("snapshoot"), "{wrong}");
    let third = format!(
        "[pipeline.third]\nmode = \"snapshot\"\nsource = \"{}\"\ntarget = \"{}\"\nsnapshot.free_disk_percent_min = 0\n",
        lab.source.conninfo("app"),
        lab.target.conninfo("third")
    );
    let without = config.split("[pipeline.li]").next().unwrap().to_owned();
    std::fs::write(lab.run.config_path(), without + &third).unwrap();
    ground::signal("HUP", &[running.pid()]);
    let list = lab.wait(&mut running, "/api/v1/pipelines", |list| list[1]["name"] == "third");
    assert_eq!(list.as_array().unwrap().len(), 2, "{list}");
    assert_eq!(list[0]["name"], "orders");
    assert_eq!(since("orders"), before, "it was not started again");
    let run = http.post("/api/v1/pipelines/third/sync", &json!({})).with_status(202);
    assert_eq!(lab.ended(&mut running, &run)["state"], "done");
    assert_eq!(http.get("/api/v1/pipelines/li").status, 404);
}

#[test]
fn a_pipeline_that_was_stopped_rests_until_it_is_resumed() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    lab.run.run(&["stop", "--pipeline", "orders"]).success();
    let rests = lab.wait(&mut running, "/api/v1/pipelines/orders", |one| one["health"] == "paused");
    assert_eq!((&rests["duty"], &rests["paused"]), (&json!("idle"), &json!(null)), "{rests}");
    lab.http().post("/api/v1/pipelines/orders/resume", &json!({})).success();
    lab.wait(&mut running, "/api/v1/pipelines/orders", |one| one["health"] == "healthy");
}

#[test]
fn systemd_is_told_that_it_runs_lives_and_stops() {
    let mut lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let path = lab.run.directory().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = String::new();
    let mut hears = |word: &str| {
        while !said.lines().any(|line| line == word) {
            let mut buffer = [0; 1024];
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{word}: {error}; {said}"));
            said.push_str(&String::from_utf8_lossy(&buffer[..length]));
            said.push('\n');
        }
        said.clear();
    };
    lab.run.set("NOTIFY_SOCKET", path.to_str().unwrap());
    lab.run.set("WATCHDOG_USEC", "400000");
    let mut running = lab.run.spawn(&["start"]);
    hears("READY=1");
    hears("WATCHDOG=1");
    ground::signal("HUP", &[running.pid()]);
    hears("RELOADING=1");
    hears("READY=1");
    running.terminate();
    hears("STOPPING=1");
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
}
