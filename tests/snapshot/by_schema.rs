//! `method = "schema"`: the database stays, its schemas are replaced, and readers do not even reconnect.

use super::*;

const BY_SCHEMA: &str = "snapshot.method = \"schema\"";

/// The target's schemas but the system's.
fn schemas(ground: &Ground) -> String {
    ground.target.psql(
        "li",
        "select string_agg(nspname, ' ' order by nspname) from pg_namespace
          where nspname !~ '^pg_' and nspname <> 'information_schema'",
    )
}

fn prepared() -> (Ground, PgdiodeRun) {
    let ground = Ground::new();
    ground.target.psql("postgres", "create database li");
    let pgdiode = ground.pgdiode(BY_SCHEMA);
    (ground, pgdiode)
}

fn last_verdict(ground: &Ground) -> String {
    ground.target.psql("li", "select verdict from pgdiode.run order by id desc limit 1")
}

#[test]
fn a_sync_replaces_the_schemas_and_leaves_the_rest() {
    let (ground, pgdiode) = prepared();
    ground.source.psql("app", "create schema more; create table more.t (id int references public.item); insert into more.t values (1)");
    ground.target.psql("li", "create schema li_local; create table li_local.own (id int); insert into li_local.own values (7)");
    assert_eq!(pgdiode.run(&["check"]).status.code(), Some(0));
    assert_eq!(schemas(&ground), "li_local public", "a check leaves nothing");
    sync(&pgdiode).success();
    assert_eq!(schemas(&ground), "li_local more pgdiode public");
    assert_eq!(ground.databases(), "li", "there is no control database");
    assert_eq!(ground.target.psql("li", "select count(*), max(v) from item"), "1000|v999");
    assert_eq!(ground.target.psql("li", "select items from totals"), "1000");
    assert_eq!(ground.target.psql("li", "select reltuples from pg_class where oid = 'item'::regclass"), "1000");

    ground.source.psql("app", "delete from item where id > 900; update stamp set generation = 2");
    let status = pgdiode.run(&["sync", "--json"]).success();
    let promoted: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&promoted["generation"], &promoted["previous"]), (&2.into(), &1.into()));
    assert!(promoted["bytes"].as_u64().unwrap() > 100_000, "{status}");
    assert_eq!(schemas(&ground), "li_local more more_gen_1 pgdiode public public_gen_1");
    assert_eq!(ground.target.psql("li", "select (select count(*) from item), (select count(*) from public_gen_1.item), (select id from li_local.own)"), "900|1000|7");
    let key = "select confrelid::regclass from pg_constraint where conrelid = 'more.t'::regclass and contype = 'f'";
    assert_eq!(ground.target.psql("li", key), "item");

    // A schema that the source has no more goes with the generation.
    ground.source.psql("app", "drop schema more cascade; update stamp set generation = 3");
    sync(&pgdiode).success();
    assert_eq!(schemas(&ground), "li_local more_gen_2 pgdiode public public_gen_2");
    let listed: serde_json::Value =
        serde_json::from_str(&pgdiode.run(&["generations", "--json"]).success()).unwrap();
    assert_eq!(listed[0]["schemas"], serde_json::json!(["public"]));
    assert_eq!(listed[1]["schemas"], serde_json::json!(["more_gen_2", "public_gen_2"]));
    assert!(listed[1]["bytes"].as_u64().unwrap() > 100_000);
    let status = pgdiode.run(&["status"]).success();
    assert!(status.contains("generation 3, taken 20") && status.contains("sync 3 done"), "{status}");

    pgdiode.run(&["rollback"]).success();
    assert_eq!(ground.stamp(), "2");
    assert_eq!(schemas(&ground), "li_local more pgdiode public public_gen_3");
    pgdiode.run(&["rollback", "--to", "3"]).success();
    assert_eq!(ground.stamp(), "3");
    assert_eq!(schemas(&ground), "li_local more_gen_2 pgdiode public public_gen_2");
    assert_eq!(ground.target.psql("li", "select count(*) from pgdiode.relation"), "0");
}

/// What `pg_dump` prints of a database's schemas, in an order of its own making.
fn dumped(cluster: &Cluster, database: &str) -> Vec<String> {
    let output = cluster
        .tools()
        .command("pg_dump")
        .args(["--no-owner", "--no-publications", "--no-subscriptions", "--inserts", "--rows-per-insert=1"])
        .args(["--exclude-schema=pgdiode", "--exclude-schema=*_gen_*"])
        .arg(cluster.conninfo(database))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let is_random = |line: &&str| line.starts_with("\\restrict") || line.starts_with("\\unrestrict");
    text.lines().filter(|line| !is_random(line)).map(str::to_owned).collect()
}

#[test]
fn what_pg_dump_says_of_both_sides_is_the_same() {
    let (ground, _) = prepared();
    crate::harness::load_fixtures(&ground.source, "app");
    ground.source.psql(
        "app",
        "create materialized view deeper as select items + 1 as more from totals;
         create materialized view a_first as select more from deeper;
         create materialized view unfilled as select 1 as one with no data;
         create function via() returns bigint language sql stable as 'select more from public.deeper';
         create materialized view a_through as select public.via() as more;
         create sequence fresh start 5; select setval('fresh', 17, false);
         create sequence used; select setval('used', 99);
         comment on materialized view deeper is 'two'",
    );
    let roles = ground.source.psql("postgres", "select string_agg(format('create role %I', rolname), ';') from pg_roles where rolname !~ '^pg_' and rolname <> 'postgres'");
    ground.target.psql("postgres", &roles);
    let pgdiode = ground.pgdiode(&format!("{BY_SCHEMA}\nsnapshot.verify = \"full\""));
    for again in [false, true] {
        sync(&pgdiode).success();
        let (source, replica) = (dumped(&ground.source, "app"), dumped(&ground.target, "li"));
        let only = |one: &[String], other: &[String]| -> Vec<String> {
            let other: std::collections::HashSet<&String> = other.iter().collect();
            one.iter().filter(|line| !other.contains(line)).take(20).cloned().collect()
        };
        assert!(source.len() > 500);
        assert_eq!((only(&source, &replica), only(&replica, &source)), (Vec::new(), Vec::new()), "{again}");
        assert_eq!(source.len(), replica.len());
        assert_eq!(ground.target.psql("li", "select more from a_through"), "1001");
    }
}
