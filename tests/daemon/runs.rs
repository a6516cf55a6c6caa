//! What was asked for is known when the process that did it is gone.

use serde_json::{Value, json};

use super::Lab;
use crate::harness::PsqlRun;
use crate::harness::http::Http;

fn post(http: &Http, path: &str, key: &str, body: &Value) -> crate::harness::http::Answer {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    http.send("POST", path, &headers, &body.to_string())
}

/// Of a lock that a copy waits for.
struct Holder<'a> {
    lab: &'a Lab,
    session: PsqlRun,
}

const HELD: &str = "from pg_locks where mode = 'AccessExclusiveLock' and relation = 'customers'::regclass";

impl Holder<'_> {
    fn new(lab: &Lab) -> Holder<'_> {
        let sql = "begin; lock table customers in access exclusive mode; select pg_sleep(600)";
        let session = lab.source.spawn_psql("app", sql);
        lab.source.wait_until("app", &format!("select exists (select {HELD})"), "it is locked");
        Holder { lab, session }
    }

    fn release(self) {
        self.lab.source.psql("app", &format!("select pg_terminate_backend(pid) {HELD}"));
        self.session.kill();
    }
}

#[test]
fn a_run_is_told_of_after_its_process_was_killed_and_is_not_done_twice() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    let http = lab.http();
    let verify = "/api/v1/pipelines/orders/verify";
    let done = post(&http, verify, "first", &json!({"reason": "CHG-1"})).with_status(202);
    let done = lab.ended(&mut running, &done);
    assert_eq!((&done["state"], &done["result"]["identical"]), (&json!("done"), &json!(true)), "{done}");
    lab.target.wait_until("replica", "select state = 'done' from pgdiode.asked", "its end is recorded");

    let holder = Holder::new(&lab);
    let sync = "/api/v1/pipelines/li/sync";
    let open = post(&http, sync, "second", &json!({"reason": "CHG-2"})).with_status(202);
    let path = |run: &Value| format!("/api/v1/runs/{}", run["id"].as_str().unwrap());
    assert_eq!(http.json(&path(&open))["state"], "running");
    running.kill9();
    holder.release();

    let _running = lab.start();
    let told = http.json(&path(&open));
    assert_eq!(
        (&told["state"], &told["id"], &told["reason"]),
        (&json!("interrupted"), &open["id"], &json!("CHG-2"))
    );
    assert!(told["ended_at"].is_string() && told["verb"] == "sync" && told["by"] == "api", "{told}");
    let again = http.json(&path(&done));
    for member in ["id", "state", "result", "actor", "reason", "started_at", "ended_at"] {
        assert_eq!(again[member], done[member], "{member}: {again}");
    }
    for (route, key, run) in [(verify, "first", &done), (sync, "second", &open)] {
        let same = post(&http, route, key, &json!({})).with_status(202);
        assert_eq!(same["id"], run["id"], "{same}");
        assert!(same["state"] != "running", "{same}");
    }
    let misused = post(&http, "/api/v1/pipelines/li/rollback", "second", &json!({})).with_status(422);
    assert_eq!(misused["type"], "/problems/idempotency-key-reused", "{misused}");
    let listed = http.json("/api/v1/runs");
    let listed: Vec<&Value> = listed.as_array().unwrap().iter().map(|run| &run["id"]).collect();
    // Both may have begun within one second.
    assert!(
        listed.len() == 2 && listed.contains(&&open["id"]) && listed.contains(&&done["id"]),
        "{listed:?}"
    );
    for unknown in ["nonsense", &format!("orders-{}", "0".repeat(32)), &format!("nobody-{}", "0".repeat(32))]
    {
        http.get(&format!("/api/v1/runs/{unknown}")).with_status(404);
    }
}

#[test]
fn a_run_that_ends_with_its_daemon_is_recorded_as_it_ended() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    let holder = Holder::new(&lab);
    let run = lab.http().post("/api/v1/pipelines/li/sync", &json!({})).with_status(202);
    running.terminate();
    running.wait();
    holder.release();
    let _running = lab.start();
    let told = lab.http().json(&format!("/api/v1/runs/{}", run["id"].as_str().unwrap()));
    assert_eq!(told["state"], "cancelled", "{told}");
}

#[test]
fn a_table_that_nothing_can_be_called_is_refused() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let _running = lab.start();
    for verb in ["verify", "resync"] {
        let path = format!("/api/v1/pipelines/orders/{verb}");
        let refused = lab.http().post(&path, &json!({"tables": ["public.or\0ders"]})).with_status(422);
        assert!(refused["detail"].as_str().unwrap().contains("NUL"), "{refused}");
        assert!(refused["hint"].as_str().unwrap().contains("schema.table"), "{refused}");
    }
}
