//! `mode = "subscription"`, from set-up to reset.

use super::*;
use crate::harness::wait_for;

fn status(pgdiode: &PgdiodeRun) -> serde_json::Value {
    serde_json::from_str(&pgdiode.run(&["status", "--json"]).success()).unwrap()
}

#[test]
fn the_servers_replicate_and_pgdiode_watches() {
    let ground = Ground::new();
    ground.source.add_scram_user("repl", "s3cret'\\", "superuser replication");
    ground.databases(
        "app",
        "create type mood as enum ('good', 'bad');
         create table orders (id int primary key, mood mood);
         insert into orders select n, 'good' from generate_series(1, 100) n;
         create table late (id int primary key)",
    );
    let source = format!("postgresql://repl:s3cret'%5C@127.0.0.1:{}/app", ground.source.port());
    let source = source.replace('\\', "\\\\");
    let lines = "mode = \"subscription\"\ntables = [\"public.orders\"]";
    let pgdiode = configured(&source, &ground.target.conninfo("app"), lines);

    let early = pgdiode.run(&["start"]).failure(3);
    assert!(early.contains("pgdiode setup"), "{early}");
    let printed = pgdiode.run(&["setup", "--print-sql"]).success();
    assert!(
        printed.contains("create subscription \"pgdiode_main\"") && printed.contains("password=***"),
        "{printed}"
    );
    let set_up = pgdiode.run(&["setup", "--yes"]);
    let said = format!("{}{}", set_up.stdout, set_up.stderr);
    assert!(!said.contains("s3cret") && !printed.contains("s3cret"), "{said}");
    set_up.success();
    assert_eq!(pgdiode.run(&["setup", "--yes"]).success(), "", "a second set-up has nothing to do");
    assert_eq!(status(&pgdiode)["phase"], "stopped");

    pgdiode.run(&["start", "--once-caught-up"]).success();
    assert_eq!(ground.target.psql("app", "select count(*) from orders where mood = 'good'"), "100");
    ground.source.psql("app", "update orders set mood = 'bad' where id <= 10");
    ground.target.wait_until("app", "select count(*) = 10 from orders where mood = 'bad'", "the updates");
    let shown = wait_for(|| Some(status(&pgdiode)).filter(|status| status["phase"] == "streaming"));
    let shown = shown.expect("it streams");
    assert!(shown["lag_bytes"].is_u64() && shown["lag_seconds"].is_number(), "{shown}");
    assert_eq!((&shown["slot"]["active"], &shown["tables"][0]["state"]), (&true.into(), &"ready".into()));
    assert!(shown["running_on"]["process_id"].as_u64().unwrap() > 0);

    // A table joins, schema and rows; another one is copied again.
    ground.source.psql("app", "insert into late values (7)");
    pgdiode.run(&["add-tables", "public.late"]).success();
    ground.target.wait_until("app", "select exists (select from late where id = 7)", "the late table");
    ground.target.psql("app", "delete from orders where id = 5");
    pgdiode.run(&["resync", "public.orders"]).success();
    ground.target.wait_until("app", "select count(*) = 100 from orders", "the second copy");

    assert!(pgdiode.run(&["stop"]).stderr.contains("stopped process"));
    assert_eq!(status(&pgdiode)["phase"], "stopped");
    let reset = pgdiode.run(&["reset", "--drop-slot", "--drop-publication", "--yes"]).success();
    assert!(reset.contains("drop subscription \"pgdiode_main\";"), "{reset}");
    assert_eq!(ground.target.psql("app", "select count(*) from pg_subscription"), "0");
    assert_eq!(
        ground.source.psql(
            "app",
            "select (select count(*) from pg_replication_slots) + (select count(*) from pg_publication)"
        ),
        "0"
    );
}

#[test]
fn a_subscription_goes_even_when_its_source_is_gone() {
    let ground = Ground::new();
    let (source, target) = ground.databases("app", "create table t (id int primary key)");
    let pgdiode = configured(&source, &target, "mode = \"subscription\"");
    pgdiode.run(&["setup", "--yes"]).success();
    ground.source.stop_fast();
    let reset = pgdiode.run(&["reset", "--yes"]);
    assert!(reset.stderr.contains("the slot stays at the source"), "{reset:?}");
    reset.success();
    assert_eq!(ground.target.psql("app", "select count(*) from pg_subscription"), "0");
}

#[test]
fn newer_servers_stream_in_parallel() {
    let ground = Ground {
        source: Cluster::start(Version::V16, &[]),
        target: Cluster::start(Version::V18, &[("max_logical_replication_workers", "4")]),
    };
    let (source, target) =
        ground.databases("app", "create table t (id int primary key); insert into t values (1)");
    let mut pgdiode = configured(&source, &target, "mode = \"subscription\"");
    pgdiode.set("PGDIODE_PG_DUMP", &ground.source.tools().path("pg_dump").display().to_string());
    let set_up = pgdiode.run(&["setup", "--yes"]).success();
    assert!(set_up.contains("streaming = parallel, origin = any"), "{set_up}");
    pgdiode.run(&["start", "--once-caught-up"]).success();
    assert_eq!(ground.target.psql("app", "select count(*) from t"), "1");
    assert_eq!(status(&pgdiode)["tables"][0]["state"], "ready");
    pgdiode.run(&["reset", "--yes"]).success();
    assert_eq!(ground.source.psql("app", "select count(*) from pg_replication_slots"), "0");
}
