//! In what both sides' schemas differ, and what was done, as a daemon tells it.

use serde_json::{Value, json};

use super::Lab;

fn kinds(drift: &Value) -> Vec<String> {
    let differences = drift["differences"].as_array().cloned().unwrap_or_default();
    let told = |one: &Value| format!("{} {}", one["table"].as_str().unwrap(), one["kind"].as_str().unwrap());
    differences.iter().map(told).collect()
}

#[test]
fn what_differs_between_the_schemas_is_told_with_what_to_do_about_it() {
    let lab = Lab::new();
    lab.source.psql("app", "create index orders_what on orders (what)");
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    let path = "/api/v1/pipelines/orders/drift";
    let alike = lab.wait(&mut running, path, |drift| !drift.is_null());
    assert_eq!((&alike["differences"], &alike["tables"]), (&json!([]), &json!(2)), "{alike}");
    lab.target.psql(
        "replica",
        "drop index orders_what; alter table customers alter column name type varchar(80);
         alter table customers drop constraint customers_pkey; alter table orders add column mine int;
         create index of_the_replicas_own on orders (mine)",
    );
    lab.source.psql("app", "create unique index orders_renamed on orders (what, id)");
    lab.http().post(path, &json!({})).with_status(202);
    let drift = lab.wait(&mut running, path, |drift| drift["tables_different"] == 2);
    let wanted = [
        "public.customers column_differs",
        "public.customers constraint_missing",
        "public.orders index_missing",
        "public.orders index_missing",
        "public.orders column_added",
    ];
    assert_eq!(kinds(&drift), wanted, "{drift}");
    // What is said to help does.
    let remedies = drift["differences"].as_array().unwrap().iter();
    for sql in remedies.filter(|one| one["kind"] != "column_added").map(|one| &one["sql"]) {
        lab.target.psql("replica", sql.as_str().expect("one statement mends it"));
    }
    let said = lab.run.run(&["check", "--json", "--pipeline", "orders"]).success();
    assert!(said.contains("public.orders: column added, mine") && !said.contains("index missing"), "{said}");
    lab.http().post(path, &json!({})).with_status(202);
    let left = lab.wait(&mut running, path, |drift| drift["tables_different"] == 1);
    assert_eq!(kinds(&left), ["public.orders column_added"]);
    let metrics = lab.http().get("/metrics").body;
    assert!(
        metrics.contains("pgdiode_schema_differences{pipeline=\"orders\",kind=\"column_added\"} 1"),
        "{metrics}"
    );
    let page = lab.http().send("GET", "/pipelines/orders/schema", &[("Accept", "text/html")], "").body;
    assert!(page.contains("1 difference in 1 of 2 tables.") && page.contains("drop column"), "{page}");
}

#[test]
fn a_sync_tells_where_its_time_went_and_its_history_is_a_file() {
    let lab = Lab::new();
    let mut running = lab.run.spawn(&["start", "--verbose"]);
    lab.wait(&mut running, "/api/v1/pipelines", |list| list.as_array().is_some_and(|list| list.len() == 2));
    let order = json!({ "reason": "=1+1, said \"somebody\"" });
    let run = lab.http().post("/api/v1/pipelines/li/sync", &order).with_status(202);
    assert_eq!(lab.ended(&mut running, &run)["state"], "done");
    let one =
        lab.wait(&mut running, "/api/v1/pipelines/li", |one| one["state"]["runs"][0]["verdict"] == "done");
    let phases = one["state"]["runs"][0]["phases"].as_array().unwrap();
    let named: Vec<&str> = phases.iter().filter_map(|one| one["phase"].as_str()).collect();
    assert!(
        named.starts_with(&["starting", "exporting", "copying"]) && named.ends_with(&["swapping"]),
        "{named:?}"
    );
    let sum: f64 = phases.iter().filter_map(|one| one["seconds"].as_f64()).sum();
    let seconds = one["state"]["runs"][0]["seconds"].as_f64().unwrap();
    assert!((sum - seconds).abs() < 0.01, "{sum} of {seconds}");

    let file = lab.http().get("/pipelines/li/runs?kind=sync&format=csv");
    assert_eq!(file.status, 200);
    assert!(file.header("content-type").unwrap().starts_with("text/csv"), "{:?}", file.headers);
    assert!(file.header("content-disposition").unwrap().contains("li-history.csv"), "{:?}", file.headers);
    let lines: Vec<&str> = file.body.split("\r\n").collect();
    assert_eq!(lines.len(), 3, "once, although the target and the daemon both remember it: {}", file.body);
    assert!(lines[1].contains("\"'=1+1, said \"\"somebody\"\"\""), "{}", lines[1]);
    assert!(lines[1].contains("\"api\""), "{}", lines[1]);
    let records = lab.http().json("/pipelines/li/runs?format=json&outcome=failed");
    assert_eq!(records, json!([]));
    assert_eq!(lab.http().get("/pipelines/li/runs?format=xlsx").status, 400);
    let page = lab.http().send("GET", "/pipelines/li/runs", &[("Accept", "text/html")], "").body;
    assert!(page.contains("Where the time went") && page.contains("Generations"), "{page}");

    // Another process knows the same.
    running.kill9();
    let mut running = lab.run.spawn(&["start"]);
    lab.wait(&mut running, "/api/v1/pipelines", |list| list.as_array().is_some_and(|list| list.len() == 2));
    assert_eq!(lab.http().get("/pipelines/li/runs?kind=sync&format=csv").body, file.body);
    let run = lab.http().send(
        "GET",
        &format!("/runs/{}", run["id"].as_str().unwrap()),
        &[("Accept", "text/html")],
        "",
    );
    assert_eq!(run.status, 200, "{}", run.body);
}
