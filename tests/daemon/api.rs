//! What the API answers, and what it has done.

use serde_json::json;

use super::Lab;
use crate::harness::wait_for;

#[test]
fn each_pipeline_is_told_as_the_command_line_tells_it() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    let http = lab.http();
    assert_eq!(http.get("/livez").status, 200);
    assert_eq!(http.get("/readyz").status, 200);
    lab.wait(&mut running, "/api/v1/pipelines/li", |one| one["asked_at"].is_string());
    assert_eq!(http.get("/startupz").status, 200);
    let list = http.json("/api/v1/pipelines");
    let names: Vec<_> = list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["li", "orders"]);
    assert_eq!(list[1]["health"], "healthy", "{list}");
    assert_eq!((&list[1]["duty"], &list[0]["duty"]), (&json!("active"), &json!("idle")), "{list}");
    assert_eq!(http.json("/api/v1/pipelines?health=healthy").as_array().unwrap().len(), 1);
    assert_eq!(http.json("/api/v1/pipelines?name=ord")[0]["name"], "orders");
    // What is told of it is the status itself.
    lab.source.psql("app", "insert into orders values (1000, 'new'); delete from orders where id = 1");
    lab.wait(&mut running, "/api/v1/pipelines/orders", |one| {
        let tables = one["state"]["tables"].as_array().unwrap();
        tables
            .iter()
            .any(|table| table["name"] == "public.orders" && table["inserts"] == 1 && table["deletes"] == 1)
    });
    let told: serde_json::Value =
        serde_json::from_str(&lab.run.run(&["status", "--json", "--pipeline", "orders"]).success()).unwrap();
    let state = &http.json("/api/v1/pipelines/orders")["state"];
    for key in ["phase", "source", "target", "tables", "running_on"] {
        assert_eq!(state[key], told[key], "{key}");
    }
    let tables = http.json("/api/v1/pipelines/orders/tables");
    assert_eq!(tables, told["tables"]);
    let metrics = http.get("/metrics");
    assert!(
        metrics.body.contains("pgdiode_replication_lag_seconds{pipeline=\"orders\"}"),
        "{}",
        metrics.body
    );
    assert!(metrics.body.contains("pg_replication_lag{"), "{}", metrics.body);
    let check = http.json("/api/v1/pipelines/orders/check");
    assert!(check["findings"].as_array().is_some_and(|findings| !findings.is_empty()), "{check}");
    // Nothing secret, and where a password would come from.
    let configuration = http.get("/api/v1/configuration");
    assert_eq!(configuration.status, 200);
    assert!(configuration.body.contains("\"pipeline.orders.stream\""), "{}", configuration.body);
    running.terminate();
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
}

#[test]
fn orders_are_runs_that_can_be_watched() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    let http = lab.http();
    // A sync with a reason, twice with one key: one run.
    let keyed = http.with("Idempotency-Key", "one");
    let answer = keyed.post("/api/v1/pipelines/li/sync", &json!({"reason": "case-4711"}));
    let location = answer.header("location").map(str::to_owned);
    let run = answer.with_status(202);
    assert_eq!(location, Some(format!("/api/v1/runs/{}", run["id"].as_str().unwrap())));
    let again = keyed.post("/api/v1/pipelines/li/sync", &json!({"reason": "case-4711"})).with_status(202);
    assert_eq!(again["id"], run["id"]);
    keyed.post("/api/v1/pipelines/li/rollback", &json!({})).with_status(422);
    let ended = lab.ended(&mut running, &run);
    assert_eq!((&ended["state"], &ended["result"]["generation"]), (&json!("done"), &json!(1)), "{ended}");
    assert_eq!(lab.target.psql("li", "select count(*) from orders"), "500");
    assert!(ended["log"].as_array().unwrap().len() > 1, "{ended}");
    // Who and why is in the history and in the audit log.
    let li = lab.wait(&mut running, "/api/v1/pipelines/li", |one| one["state"]["runs_done"] == 1);
    assert_eq!(li["health"], "healthy", "{li}");
    assert_eq!(li["state"]["last_run"]["reason"], "case-4711");
    let actor = li["state"]["last_run"]["actor"].as_str().unwrap();
    assert!(actor.starts_with("local (local, 127.0.0.1"), "{actor}");
    let audit = http.json("/api/v1/pipelines/li/audit");
    let begun = audit.as_array().unwrap().iter().find(|entry| entry["action"] == "sync").unwrap();
    assert_eq!(
        (&begun["reason"], &begun["details"]["actor"]),
        (&json!("case-4711"), &json!(actor)),
        "{audit}"
    );
    assert_eq!(
        http.post("/api/v1/pipelines/li/audit/verify", &json!({})).success()["entries"],
        audit.as_array().unwrap().len()
    );
    let export = http.get("/api/v1/pipelines/li/audit/export");
    assert_eq!(export.body.lines().count(), audit.as_array().unwrap().len());
    let file = lab.run.directory().join("audit.jsonl");
    std::fs::write(&file, &export.body).unwrap();
    lab.run.run(&["audit", "verify", file.to_str().unwrap()]).success();
    // Both sides compared; what was changed by hand is found, and stays to be seen.
    let verify = || http.post("/api/v1/pipelines/orders/verify", &json!({})).with_status(202);
    let ended = lab.ended(&mut running, &verify());
    assert_eq!(ended["result"]["identical"], true, "{ended}");
    lab.target.psql("replica", "update orders set what = 'other' where id = 7");
    let ended = lab.ended(&mut running, &verify());
    assert_eq!((&ended["state"], &ended["result"]["identical"]), (&json!("done"), &json!(false)), "{ended}");
    let orders = lab.wait(&mut running, "/api/v1/pipelines/orders", |one| one["health"] == "failed");
    assert_eq!(orders["verification"]["tables_different"], 1, "{orders}");
    let resync = http.post("/api/v1/pipelines/orders/resync", &json!({"tables": ["public.orders"]}));
    assert_eq!(lab.ended(&mut running, &resync.with_status(202))["state"], "done");
    lab.target.wait_until(
        "replica",
        "select what = 'order 7' from orders where id = 7",
        "the table is copied again",
    );
    // While it catches up it says so, and what to do.
    let ended = wait_for(|| Some(lab.ended(&mut running, &verify())).filter(|run| run["state"] == "done"));
    assert_eq!(ended.expect("it catches up")["result"]["identical"], true);
    lab.wait(&mut running, "/api/v1/pipelines/orders", |one| one["health"] == "healthy");
}

#[test]
fn what_cannot_be_done_is_a_problem_with_a_hint() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    let http = lab.http();
    let missing = http.get("/api/v1/pipelines/order");
    assert_eq!(missing.header("content-type"), Some("application/problem+json"));
    let missing = missing.with_status(404);
    assert_eq!(
        (&missing["type"], &missing["hint"]),
        (&json!("/problems/no-such-pipeline"), &json!("did you mean \"orders\"?"))
    );
    let sync = http.post("/api/v1/pipelines/orders/sync", &json!({})).with_status(422);
    assert!(sync["hint"].as_str().unwrap().contains("resync"), "{sync}");
    http.post("/api/v1/pipelines/orders/resync", &json!({})).with_status(422);
    http.post("/api/v1/pipelines/li/sync", &json!({"adpot": true})).with_status(422);
    assert_eq!(
        http.send("POST", "/api/v1/pipelines/li/sync", &[("Content-Type", "application/json")], "{").status,
        400
    );
    assert_eq!(http.get("/api/v1/pipelines?healthy=1").status, 400);
    assert_eq!(http.get("/api/v1/runs/none").status, 404);
    assert_eq!(http.get("/nowhere").status, 404);
    // Nothing begins while it is paused, by whatever way; the daemon stops what runs.
    http.post("/api/v1/pipelines/li/pause", &json!({"reason": "audit"})).success();
    let paused = http.post("/api/v1/pipelines/li/sync", &json!({})).with_status(423);
    assert_eq!(paused["pause"]["reason"], "audit", "{paused}");
    let refused = lab.run.run(&["sync", "--pipeline", "li"]).failure(3);
    assert!(refused.contains("is paused by") && refused.contains("pgdiode resume"), "{refused}");
    http.post("/api/v1/pipelines/orders/pause", &json!({})).success();
    lab.wait(&mut running, "/api/v1/pipelines/orders", |one| {
        one["health"] == "paused" && one["duty"] == "idle"
    });
    lab.source.psql("app", "insert into orders values (2000, 'while paused')");
    lab.run.run(&["resume", "--pipeline", "orders"]).success();
    lab.target.wait_until("replica", "select exists (select from orders where id = 2000)", "it goes on");
    http.post("/api/v1/pipelines/li/resume", &json!({})).success();
    let run = http.post("/api/v1/pipelines/li/sync", &json!({})).with_status(202);
    assert_eq!(lab.ended(&mut running, &run)["state"], "done");
}

#[test]
fn a_run_can_be_cancelled_and_a_second_one_is_told_of_it() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    let http = lab.http();
    // The copy waits for a lock that somebody holds.
    let holder = lab
        .source
        .spawn_psql("app", "begin; lock table orders in access exclusive mode; select pg_sleep(600)");
    lab.source.wait_until(
        "app",
        "select exists (select from pg_locks where mode = 'AccessExclusiveLock' and relation = 'orders'::regclass)",
        "it is locked",
    );
    let run = http.post("/api/v1/pipelines/li/sync", &json!({})).with_status(202);
    let busy = http.post("/api/v1/pipelines/li/sync", &json!({})).with_status(409);
    assert_eq!((&busy["run"], &busy["type"]), (&run["id"], &json!("/problems/busy")), "{busy}");
    let path = format!("/api/v1/runs/{}", run["id"].as_str().unwrap());
    let mut events = http.lines(&format!("{path}/events"));
    let first = events.by_ref().find(|line| line.starts_with("data:")).unwrap();
    assert!(first.contains("\"state\":\"running\""), "{first}");
    assert_eq!(http.post(&format!("{path}/cancel"), &json!({"reason": "too slow"})).status, 202);
    let last = events.filter(|line| line.starts_with("data:")).last().unwrap();
    assert!(last.contains("\"state\":\"cancelled\""), "{last}");
    assert_eq!(lab.ended(&mut running, &run)["state"], "cancelled");
    http.post(&format!("{path}/cancel"), &json!({})).with_status(409);
    let holds = "select pg_terminate_backend(pid) from pg_locks
                  where mode = 'AccessExclusiveLock' and relation = 'orders'::regclass";
    lab.source.psql("app", holds);
    holder.kill();
    let run = http.post("/api/v1/pipelines/li/sync", &json!({})).with_status(202);
    assert_eq!(lab.ended(&mut running, &run)["state"], "done");
}

#[test]
fn the_description_names_every_route() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let _running = lab.start();
    let document = lab.http().json("/openapi.json");
    let source = include_str!("../../src/http/api.rs");
    let routes = source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let described = &document["paths"];
    let missing: Vec<_> =
        routes.filter(|route| *route != "/openapi.json" && described[*route].is_null()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
