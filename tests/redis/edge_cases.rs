//! What is left of docs/redis-edge-cases.md: cases that no other scenario comes by.

use super::world::World;
use crate::harness::{Cluster, PgdiodeRun, RedisServer, RedisVersion, Version, wait_for};

fn becomes(postgres: &Cluster, sql: &str, wanted: &str, log: impl Fn() -> String) {
    let mut last = String::new();
    let became = wait_for(|| {
        postgres.try_psql("mirror", sql).unwrap_or_default().trim().clone_into(&mut last);
        (last == wanted).then_some(())
    });
    assert!(became.is_some(), "{sql}: {last:?} and not {wanted:?}\n{}", log());
}

#[test]
fn fields_of_a_hash_expire_one_by_one() {
    let world = World::new(RedisServer::start(RedisVersion::V7_4, &[]));
    let run = world.pgdiode(world.redis.port(), "");
    let running = run.spawn(&["start"]);
    world.redis.cli(&["HSET", "h:one", "short", "1", "long", "2"]);
    becomes(&world.postgres, "select count(*) from fields", "2", || running.stderr());
    world.redis.cli(&["HPEXPIRE", "h:one", "50", "FIELDS", "1", "short"]);
    becomes(&world.postgres, "select string_agg(field, ',') from fields", "long", || running.stderr());
}

#[test]
fn scores_may_be_infinite() {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[]));
    world.redis.cli(&["ZADD", "z:one", "inf", "a", "-inf", "b", "1e300", "c"]);
    let run = world.pgdiode(world.redis.port(), "");
    run.run(&["start", "--once-caught-up"]).success();
    let scores = "select string_agg(member || '=' || score, ' ' order by member) from scores";
    assert_eq!(world.postgres.psql("mirror", scores).trim(), "a=Infinity b=-Infinity c=1e+300");
}

#[test]
fn counters_and_sketches_that_are_no_text_are_kept_with_the_reason() {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[]));
    world.redis.cli(&["PFADD", "s:sketch", "a", "b", "c"]);
    world.redis.cli(&["SETBIT", "s:bits", "7", "1"]);
    world.redis.cli(&["SET", "s:text", "text"]);
    let run = world.pgdiode(world.redis.port(), "");
    run.run(&["start", "--once-caught-up"]).success();
    assert_eq!(
        world.postgres.psql("mirror", "select string_agg(name, ' ' order by name) from strings").trim(),
        "bits text"
    );
    let misfits =
        "select convert_from(name, 'UTF8') || ': ' || (content is not null) from pgdiode.keyspace_misfit";
    assert_eq!(world.postgres.psql("mirror", misfits).trim(), "s:sketch: true");
}

/// Keys `doc:*` of `kind`, whose `$.name` and `$.tags` become columns.
fn documents(postgres: &Cluster, port: u16, kind: &str) -> PgdiodeRun {
    PgdiodeRun::new(&format!(
        r#"
[pipeline.mirror]
source = "redis://127.0.0.1:{port}"
target = "{}"
[[pipeline.mirror.redis.key]]
pattern = "doc:{{id}}"
type = "{kind}"
table = [{{ table = "docs", key = ["id"], column = [
    {{ name = "id", from = "{{id}}" }}, {{ name = "name", from = "$.name" }},
    {{ name = "tags", from = "$.tags", as = "json", type = "jsonb" }} ] }}]
"#,
        postgres.conninfo("mirror")
    ))
}

#[test]
fn documents_of_the_json_module_follow_writes_to_their_parts() {
    let world = World::new(RedisServer::start(RedisVersion::V7_4, &[]));
    let run = documents(&world.postgres, world.redis.port(), "rejson");
    let running = run.spawn(&["start"]);
    world.redis.cli(&["JSON.SET", "doc:1", "$", r#"{"name":"one","tags":["a"]}"#]);
    let row = "select name || ' ' || tags from docs";
    becomes(&world.postgres, row, r#"one ["a"]"#, || running.stderr());
    world.redis.cli(&["JSON.ARRAPPEND", "doc:1", "$.tags", r#""b""#]);
    world.redis.cli(&["JSON.SET", "doc:1", "$.name", r#""two""#]);
    becomes(&world.postgres, row, r#"two ["a", "b"]"#, || running.stderr());
    world.redis.cli(&["JSON.MSET", "doc:1", "$.name", r#""three""#, "doc:2", "$", r#"{"name":"new"}"#]);
    becomes(&world.postgres, "select string_agg(name, ' ' order by id) from docs", "three new", || {
        running.stderr()
    });
    world.redis.cli(&["JSON.DEL", "doc:1"]);
    becomes(&world.postgres, "select string_agg(name, ' ' order by id) from docs", "new", || {
        running.stderr()
    });
    // A document of the module under a name that is to be a hash, and the other way round.
    world.redis.cli(&["JSON.SET", "h:doc", "$", "{}"]);
    world.redis.cli(&["SET", "doc:3", "no document"]);
    becomes(&world.postgres, "select count(*) from pgdiode.keyspace_misfit", "1", || running.stderr());
}

#[test]
fn under_another_mapping_every_key_is_looked_at_again() {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[("repl-backlog-size", "16mb")]));
    world.redis.cli(&["SET", "doc:1", r#"{"name":"one","tags":[1,2]}"#]);
    let run = documents(&world.postgres, world.redis.port(), "json");
    run.run(&["start", "--once-caught-up"]).success();
    let config = std::fs::read_to_string(run.config_path()).unwrap();
    let other = config.replace("from = \"$.name\"", "from = [\"$.title\", \"$.tags[0]\"]");
    assert_ne!(config, other);
    std::fs::write(run.config_path(), other).unwrap();
    run.run(&["start", "--once-caught-up"]).success();
    assert_eq!(world.postgres.psql("mirror", "select name from docs").trim(), "1");
    // Under the same one it goes on.
    let said = run.run(&["start", "--once-caught-up"]);
    assert!(said.stderr.contains("goes_on=true"), "{}", said.stderr);
}

#[test]
fn a_storm_of_expiries_is_weathered() {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[("repl-backlog-size", "64mb")]));
    let run = world.pgdiode(world.redis.port(), "");
    let mut running = run.spawn(&["start"]);
    running.wait_for_log("listening as a replica");
    let commands = (0..20_000).map(|number| {
        [
            "SET".to_owned(),
            format!("s:{number}"),
            "v".to_owned(),
            "PX".to_owned(),
            (1000 + number % 100).to_string(),
        ]
    });
    world.redis.client().pipeline(commands);
    becomes(&world.postgres, "select count(*) > 0 from strings", "t", || running.stderr());
    becomes(&world.postgres, "select count(*) from strings", "0", || running.stderr());
    assert_eq!(
        world
            .postgres
            .psql("mirror", "select count(*) from pgdiode.keyspace_key where hash is not null")
            .trim(),
        "0"
    );
}

#[test]
fn a_hot_key_is_one_row_and_few_commits() {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[("repl-backlog-size", "64mb")]));
    let run = world.pgdiode(world.redis.port(), "");
    let mut running = run.spawn(&["start"]);
    running.wait_for_log("listening as a replica");
    let commands = (0..20_000).map(|number| ["SET".to_owned(), "s:hot".to_owned(), format!("v{number}")]);
    world.redis.client().pipeline(commands);
    becomes(&world.postgres, "select value from strings", "v19999", || running.stderr());
    let updates = world
        .postgres
        .psql("mirror", "select coalesce(sum(inserts + updates), 0) from pgdiode.relation_count");
    assert!(updates.trim().parse::<u64>().unwrap() < 10_000, "{updates}");
}

#[test]
fn one_server_of_another_version_is_enough() {
    // A target of another version of PostgreSQL takes the rows as well.
    let redis = RedisServer::start(RedisVersion::Valkey9, &[]);
    redis.cli(&["SET", "doc:1", r#"{"name":"one","tags":{"a":1}}"#]);
    for version in [Version::V14, Version::V18] {
        let postgres = Cluster::start(version, &[]);
        postgres.psql("postgres", "create database mirror");
        let run = documents(&postgres, redis.port(), "json");
        run.run(&["start", "--once-caught-up"]).success();
        assert_eq!(
            postgres.psql("mirror", "select name || tags from docs").trim(),
            r#"one{"a": 1}"#,
            "{version:?}"
        );
    }
}

#[test]
fn a_stream_that_is_not_there_is_no_empty_stream() {
    for version in [RedisVersion::V6_2, RedisVersion::V7_0] {
        let world = World::new(RedisServer::start(version, &[]));
        let run = world.pgdiode(world.redis.port(), "");
        let running = run.spawn(&["start"]);
        let there = "select coalesce(string_agg(convert_from(name, 'UTF8'), ' ' order by name), '')
                       from pgdiode.keyspace_key where hash is not null";
        world.redis.cli(&["XADD", "x:gone", "*", "field", "1"]);
        world.redis.cli(&["XGROUP", "CREATE", "x:empty", "readers", "$", "MKSTREAM"]);
        becomes(&world.postgres, there, "x:empty x:gone", || running.stderr());
        // The command says that something is about the key, not that it is gone.
        world.redis.cli(&["RENAME", "x:gone", "other"]);
        becomes(&world.postgres, there, "x:empty", || running.stderr());
        let verified = run.run(&["verify"]);
        assert_eq!(verified.status.code(), Some(0), "{}", verified.stderr);
    }
}
