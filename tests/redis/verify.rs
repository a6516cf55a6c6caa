//! `pgdiode verify` finds whatever differs between keys and rows, in both directions, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use super::sessions::{Chat, SESSION};
use super::world::World;
use super::writer::{Sweeping, Writer};
use crate::harness::{PgdiodeRun, RedisServer, RedisVersion, Rng};

/// A world whose tables hold what Redis does; nobody runs the pipeline any more.
fn filled(version: RedisVersion) -> (World, PgdiodeRun) {
    let world = World::new(RedisServer::start(version, &[]));
    Writer::new(Rng::with_seed(17), world.redis.client(), Sweeping::Never).write(1500);
    // What has a deadline that comes meanwhile would be a difference.
    let mut client = world.redis.client();
    for database in 0..4 {
        client.call(&["SELECT", &database.to_string()]);
        for key in client.call(&["KEYS", "*"]).items() {
            if client.call(&["PTTL", &key.to_string()]).integer() < 100_000 {
                client.call(&["PERSIST", &key.to_string()]);
            }
        }
        client.call(&["SET", "s:one", "1"]);
        client.call(&["SET", "s:timed", "1", "EX", "1000"]);
        client.call(&["RPUSH", "l:three", "a", "b", "c"]);
        client.call(&["HSET", "s:not-a-string", "f", "v"]);
    }
    let run = world.pgdiode(world.redis.port(), "");
    run.run(&["start", "--once-caught-up"]).success();
    (world, run)
}

/// What was found, as `kind key table row rows`.
fn verify(run: &PgdiodeRun) -> (Value, Vec<String>) {
    let output = run.run(&["verify", "--json"]);
    let report: Value = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", output.stdout, output.stderr));
    let is_identical = report["identical"].as_bool().expect("it is a verdict");
    assert_eq!(output.status.code(), Some(if is_identical { 0 } else { 4 }), "{}", output.stderr);
    let told = |difference: &Value| {
        let text = |name: &str| difference[name].as_str().unwrap_or("-").to_owned();
        format!("{} {} {} {} {}", text("kind"), text("key"), text("table"), text("row"), difference["rows"])
    };
    let mut found: Vec<String> = report["differences"].as_array().expect("a list").iter().map(told).collect();
    found.sort();
    assert_eq!(is_identical, found.is_empty());
    (report, found)
}

fn finds_each_difference(version: RedisVersion) {
    let (world, run) = filled(version);
    let (report, found) = verify(&run);
    assert_eq!(found, [""; 0]);
    assert_eq!(report["is_running"], false);
    assert!(report["keys"].as_u64() > Some(100), "{report}");
    assert!(report["misfits"].as_u64() > Some(2), "{report}");
    let rows: u64 =
        report["tables"].as_array().unwrap().iter().map(|one| one["rows"].as_u64().unwrap()).sum();
    assert_eq!(rows, world.actual().len() as u64);
    // (what is done by hand, what is to be found of it)
    let changes: [(&str, &[&str]); 8] = [
        (
            "update strings set value = 'secret' where name = 'one' and database = 1",
            &["other_values s:one public.strings - 1"],
        ),
        (
            "update strings set expires_at = null where name = 'timed' and database = 0",
            &["other_values s:timed public.strings - 1"],
        ),
        (
            "delete from strings where name = 'one' and database = 2",
            &["row_missing s:one public.strings - 1"],
        ),
        (
            "delete from items where name = 'three' and place > 0 and database = 0",
            &["row_missing l:three public.items - 2"],
        ),
        ("insert into items values (0, 'three', 17, 'secret')", &["row_extra l:three public.items - 1"]),
        (
            "insert into strings values (0, 'nobody', 'secret'), (7, 'one', 'secret')",
            &["row_of_no_key - public.strings 0, nobody 1", "row_of_no_key - public.strings 7, one 1"],
        ),
        (
            "delete from pgdiode.keyspace_key where name = 's:timed' and database = 2",
            &["key_missing s:timed - - 0", "row_of_no_key - public.strings 2, timed 1"],
        ),
        (
            "insert into pgdiode.keyspace_key (pipeline, id, database, name, hash) select 'mirror', \
             encode(substring(sha256('\\x00000000'::bytea || 's:unknown'::bytea) for 16), 'hex')::uuid, 0, 's:unknown', '00000000-0000-0000-0000-000000000001'",
            &["key_extra s:unknown - - 0"],
        ),
    ];
    for (sql, expected) in changes {
        let tables = ["strings", "fields", "items", "members", "scores", "entries", "pgdiode.keyspace_key"];
        let each = |what: &dyn Fn(&str, &str) -> String| -> String {
            tables.iter().map(|table| what(table, &table.replace("pgdiode.", ""))).collect()
        };
        world
            .postgres
            .psql("mirror", &each(&|table, name| format!("create table saved_{name} as table {table};")));
        world.postgres.psql("mirror", sql);
        let (_, found) = verify(&run);
        assert_eq!(found, expected, "{sql}");
        world.postgres.psql(
            "mirror",
            &each(&|table, name| {
                format!(
                    "delete from {table}; insert into {table} table saved_{name}; drop table saved_{name};"
                )
            }),
        );
    }
    assert_eq!(verify(&run).1, [""; 0]);
    // What was written since it stopped, a new key, a value and a key that is gone.
    world.redis.cli(&["SET", "s:new", "v"]);
    world.redis.cli(&["APPEND", "s:one", "2"]);
    world.redis.cli(&["DEL", "l:three"]);
    let expected =
        ["key_extra l:three - - 0", "key_missing s:new - - 0", "other_values s:one public.strings - 1"];
    assert_eq!(verify(&run).1, expected);
    let said = run.run(&["verify"]);
    assert_eq!(said.status.code(), Some(4));
    assert!(said.stdout.contains("s:one (database 0) public.strings: other values"), "{}", said.stdout);
    assert!(said.stdout.contains("nobody runs the pipeline"), "{}", said.stdout);
    assert!(said.stderr.contains("keys and rows differ in 3 places"), "{}", said.stderr);
    assert!(!said.stdout.contains("secret") && !said.stderr.contains("secret"));
    run.run(&["start", "--once-caught-up"]).success();
    assert_eq!(verify(&run).1, [""; 0]);
}

#[test]
fn each_difference_is_found_and_nothing_else() {
    finds_each_difference(RedisVersion::V7_0);
}

#[test]
fn so_it_is_where_the_server_does_not_tell_when_a_key_expires() {
    finds_each_difference(RedisVersion::V6_2);
}

#[test]
fn what_is_being_written_is_no_difference_and_what_was_changed_by_hand_is() {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[("repl-backlog-size", "64mb")]));
    world.redis.cli(&["SET", "s:by-hand", "1"]);
    let run = world.pgdiode(world.redis.port(), "");
    let mut running = run.spawn(&["start"]);
    running.wait_for_log("streaming");
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|seed| {
            let mut writer = Writer::new(Rng::with_seed(seed), world.redis.client(), Sweeping::Never);
            let is_over = Arc::clone(&is_over);
            let mut pace = world.redis.client();
            thread::spawn(move || {
                while !is_over.load(Ordering::SeqCst) && writer.write(100) {
                    // No faster than what is written becomes durable, however slow the machine.
                    pace.call(&["SET", "pace", "1"]);
                    pace.call(&["WAIT", "1", "5000"]);
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let (report, found) = verify(&run);
        assert_eq!(found, [""; 0], "{}", running.stderr());
        assert_eq!(report["is_running"], true);
        assert!(report["unsettled"].as_u64() < report["keys"].as_u64(), "{report}");
    }
    world.postgres.psql("mirror", "update strings set value = '2' where name = 'by-hand'");
    let (_, found) = verify(&run);
    assert_eq!(found, ["other_values s:by-hand public.strings - 1"], "{}", running.stderr());
    is_over.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.join().expect("it wrote");
    }
    world.redis.cli(&["SET", "s:by-hand", "3"]);
    assert_eq!(verify(&run).1, [""; 0], "{}", running.stderr());
}

#[test]
fn marks_references_and_shared_rows_are_compared_as_they_are_written() {
    let chat = Chat::new();
    assert_eq!(chat.run.run(&["verify"]).status.code(), Some(3), "it was never started");
    for name in ["a", "b", "gone"] {
        chat.redis.cli(&["SET", &format!("session:{name}"), SESSION]);
    }
    chat.run.run(&["start", "--once-caught-up"]).success();
    chat.redis.cli(&["DEL", "session:gone"]);
    chat.run.run(&["start", "--once-caught-up"]).success();
    assert_eq!(chat.sql("select count(*) from sessions where deleted_at is not null"), "1");
    let (report, found) = verify(&chat.run);
    assert_eq!(found, [""; 0], "{report}");
    // What others did to rows that are made once is theirs.
    chat.sql("update users set name = 'Augusta' where external_id = 'u1'");
    assert_eq!(verify(&chat.run).1, [""; 0]);
    let of = |key: &str| format!("(select id from sessions where session_key = '{key}')");
    let message = chat.sql(&format!("select min(message_key) from messages where session_id = {}", of("a")));
    let rename = |from: &str, to: &str| {
        format!(
            "update messages set message_key = '{to}' where message_key = '{from}' and session_id = {}",
            of("a")
        )
    };
    let changes: [(String, String, &[&str]); 4] = [
        (
            "update sessions set deleted_at = now() where session_key = 'a'".to_owned(),
            "update sessions set deleted_at = null where session_key = 'a'".to_owned(),
            &["other_values session:a public.sessions"],
        ),
        (
            "update sessions set deleted_at = null where session_key = 'gone'".to_owned(),
            "update sessions set deleted_at = now() where session_key = 'gone'".to_owned(),
            &["row_of_no_key - public.sessions"],
        ),
        (
            rename(&message, "another"),
            rename("another", &message),
            &["row_extra session:a public.messages - 1", "row_missing session:a public.messages - 1"],
        ),
        (
            format!(
                "update messages set sender_id = (select id from users where external_id = 'u1') where session_id = {}",
                of("b")
            ),
            String::new(),
            &["other_values session:b public.messages"],
        ),
    ];
    for (change, back, expected) in &changes {
        chat.sql(change);
        let (_, found) = verify(&chat.run);
        let is_it = |(found, expected): (&String, &&str)| found.starts_with(expected);
        assert!(
            found.len() == expected.len() && found.iter().zip(*expected).all(is_it),
            "{change}: {found:?} and not {expected:?}"
        );
        chat.sql(back);
    }
    // What PostgreSQL refused is a misfit; a row that is missing beside it is a difference.
    chat.sql("alter table sessions add constraint c check (title <> 'no')");
    chat.redis.cli(&["SET", "session:refused", r#"{"title":"no"}"#]);
    chat.redis.cli(&["SET", "session:b", SESSION]);
    chat.sql("update pgdiode.keyspace_key set hash = pipeline_hash from (select '00000000-0000-0000-0000-000000000000'::uuid as pipeline_hash) as x where name = 'session:b'");
    chat.run.run(&["start", "--once-caught-up"]).success();
    let (report, found) = verify(&chat.run);
    assert_eq!(found, [""; 0], "{report}");
    assert!(report["misfits"].as_u64() > Some(0), "{report}");
    chat.sql("delete from pgdiode.keyspace_misfit where name = 'session:refused'");
    let (_, found) = verify(&chat.run);
    assert_eq!(found, ["row_missing session:refused public.sessions - 1"]);
}
