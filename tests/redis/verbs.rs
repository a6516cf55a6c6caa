//! The verbs around a pipeline out of Redis: each does something sensible, or refuses and says what else there is.

use super::world::{MAPPING, World};
use super::writer::{Sweeping, Writer};
use crate::harness::{PgdiodeRun, RedisServer, RedisVersion, Rng, Running, wait_for};

const LONG_HISTORY: (&str, &str) = ("repl-backlog-size", "64mb");

fn world() -> World {
    World::new(RedisServer::start(RedisVersion::V7_0, &[LONG_HISTORY]))
}

fn start(run: &PgdiodeRun) -> Running {
    let mut running = run.spawn(&["start"]);
    running.wait_for_log("listening as a replica");
    running
}

/// A world in which the tables hold some keys, and the pipeline runs no longer.
fn filled() -> (World, PgdiodeRun) {
    let world = world();
    Writer::new(Rng::with_seed(21), world.redis.client(), Sweeping::Never).write(800);
    for command in [
        &["SET", "s:one", "1"][..],
        &["SET", "s:other", "2"],
        &["HSET", "h:one", "a", "1", "b", "2"],
        &["RPUSH", "l:one", "x", "y"],
    ] {
        world.redis.cli(command);
    }
    let run = world.pgdiode(world.redis.port(), "");
    run.run(&["start", "--once-caught-up"]).success();
    assert_eq!(world.differences(), (vec![], vec![]));
    (world, run)
}

/// What an operator may do to rows, all of which a resync puts right.
const EDITS: &str = "
    update strings set value = 'edited' where name in ('one', 'other');
    delete from items where name = 'one';
    insert into fields (database, name, field, value) values (0, 'one', 'by hand', 'x')";

#[test]
fn check_explains_the_mapping_and_makes_no_snapshot() {
    for version in RedisVersion::ALL {
        let world = World::new(RedisServer::start(version, &[("maxmemory-policy", "allkeys-lru")]));
        world
            .postgres
            .psql("mirror", "drop table entries; drop table scores; create table scores (name text)");
        for command in [
            &["SET", "s:a", "a"][..],
            &["RPUSH", "s:list", "a secret value"],
            &["HSET", "h:a", "f", "v", "g", "w"],
            &["SET", "other:confidential", "x"],
            &["CONFIG", "SET", "maxmemory", "1gb"],
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
        ] {
            world.redis.cli(command);
        }
        let output = world.pgdiode(world.redis.port(), "").run(&["check"]);
        let text = output.stdout.clone();
        output.failure(3);
        let has = |words: &str| assert!(text.contains(words), "{version}: no {words:?} in\n{text}");
        has("a primary");
        has("as a replica (PSYNC is allowed)");
        has("MB of its history; it is begun when the first replica connects");
        has("maxmemory-policy allkeys-lru");
        has("pattern s:*: 2 keys (1 list, 1 string)");
        has("2 sampled keys would become rows: 1 of public.strings");
        has("1 of the whole value: holds a list, and the mapping reads a string");
        has("pattern h:*: 1 sampled key would become rows: 2 of public.fields");
        has("no key matches the pattern z:*");
        has("no pattern matches 1 of these keys: 1 of other:*");
        has("will be created at the target: public.entries");
        has("public.scores cannot take the rows");
        has("4 tables at the target fit the mapping");
        assert!(!text.contains("secret") && !text.contains("confidential"), "{text}");
        // Nobody has become a replica, and nobody's data was copied.
        assert_eq!(world.redis.info("stats", "sync_full"), "0", "{version}");
        assert_eq!(world.redis.info("stats", "sync_partial_ok"), "0", "{version}");
        assert_eq!(world.redis.info("replication", "connected_slaves"), "0", "{version}");
        assert_eq!(world.redis.info("stats", "total_forks"), "0", "{version}");
        assert_eq!(world.postgres.psql("mirror", "select to_regnamespace('pgdiode') is null").trim(), "t");
    }
}

#[test]
fn check_says_where_nobody_may_listen() {
    for version in [RedisVersion::V6_2, RedisVersion::V7_0] {
        let user = ("user", "default on nopass ~* +@all -psync");
        let world = World::new(RedisServer::start(version, &[user]));
        let text = world.pgdiode(world.redis.port(), "").run(&["check"]).success();
        assert!(text.contains("the server lets nobody listen as a replica (NOPERM"), "{version}: {text}");
        let output = world.pgdiode(world.redis.port(), "live = \"replica\"").run(&["check"]);
        assert!(
            output.stdout.contains("redis.live = \"replica\", and the server lets nobody"),
            "{}",
            output.stdout
        );
        output.failure(3);
    }
    let world = world();
    let run = world.pgdiode(world.redis.port(), "");
    world.redis.kill();
    run.run(&["check"]).failure(6);
}

#[test]
fn setup_makes_what_is_missing() {
    let world = world();
    world.postgres.psql("mirror", "drop table strings; drop table fields");
    let run = world.pgdiode(world.redis.port(), "");
    let printed = run.run(&["setup", "--print-sql"]).success();
    assert!(
        printed.contains("create table \"public\".\"strings\"") && printed.contains("keyspace_key"),
        "{printed}"
    );
    assert!(printed.contains("patterns of keys do not filter what a replica is sent"), "{printed}");
    assert_eq!(world.postgres.psql("mirror", "select to_regclass('strings') is null").trim(), "t");
    // What is printed is what psql takes.
    world.postgres.psql("mirror", &printed);
    run.run(&["setup", "--yes"]).success();
    let ran = run.run(&["setup", "--yes"]).success();
    assert!(!ran.contains("create"), "{ran}");
    world.redis.cli(&["SET", "s:one", "1"]);
    world.redis.cli(&["HSET", "h:one", "a", "1"]);
    run.run(&["start", "--once-caught-up"]).success();
    let names =
        "select string_agg(name, ' ') from (select name from strings union select name from fields) as t";
    assert_eq!(world.postgres.psql("mirror", names).trim(), "one");
    world.postgres.psql("mirror", "drop table strings; create table strings (name text)");
    let refused = run.run(&["setup", "--print-sql"]).failure(3);
    assert!(refused.contains("public.strings cannot take the rows"), "{refused}");
}

/// Under exactly the rights that are printed everything works; the server keeps a list of what it has denied.
fn printed_rights_are_enough(version: RedisVersion, live: &str, listening: &str, sweeping: Sweeping) {
    let world = World::new(RedisServer::start(version, &[LONG_HISTORY, ("notify-keyspace-events", "KEA")]));
    Writer::new(Rng::with_seed(4), world.redis.client(), Sweeping::Never).write(500);
    let config = format!(
        "[pipeline.mirror]\ntarget = \"{}\"\n[pipeline.mirror.source]\nredis = \"redis://127.0.0.1:{}\"\n\
         user = \"reader\"\npassword_env = \"READER_PASSWORD\"\n\
         [pipeline.mirror.redis]\ndatabases = [0, 1, 2]\nlive = \"{live}\"\n{MAPPING}",
        world.postgres.conninfo("mirror"),
        world.redis.port()
    );
    let mut run = PgdiodeRun::new(&config);
    run.set("READER_PASSWORD", "open sesame");
    let printed = run.run(&["setup", "--print-sql"]).success();
    let command = printed.lines().find_map(|line| line.strip_prefix("--   ACL SETUSER "));
    let (before, after) = command.and_then(|command| command.split_once(">PASSWORD")).expect("it is there");
    let words = before.split_whitespace().chain([">open sesame"]).chain(after.split_whitespace());
    let words: Vec<&str> = ["ACL", "SETUSER"].into_iter().chain(words).collect();
    world.redis.cli(&words);
    world.redis.cli(&["ACL", "LOG", "RESET"]);
    let mut running = run.spawn(&["start"]);
    running.wait_for_log(listening);
    Writer::new(Rng::with_seed(5), world.redis.client(), sweeping).write(1500);
    world.settle(|| running.stderr());
    world.redis.cli(&["CLIENT", "KILL", "USER", "reader"]);
    Writer::new(Rng::with_seed(6), world.redis.client(), sweeping).write(500);
    world.settle(|| running.stderr());
    run.run(&["resync"]).success();
    run.run(&["status"]).success();
    assert_eq!(world.redis.cli(&["ACL", "LOG"]), "", "{version}");
}

#[test]
fn the_printed_rights_of_a_replica_are_enough() {
    for version in [RedisVersion::V7_0, RedisVersion::V7_4] {
        printed_rights_are_enough(version, "auto", "listening as a replica", Sweeping::Rarely);
    }
}

#[test]
fn the_printed_rights_of_lesser_ways_are_enough() {
    for (live, listening) in [
        ("tracking", "listening, after which every key is looked at"),
        ("notifications", "listening, after which every key is looked at"),
        ("polling\"\npoll_seconds = 1\n#\"", "looking at every key"),
    ] {
        printed_rights_are_enough(RedisVersion::V7_0, live, listening, Sweeping::Never);
    }
}

#[test]
fn a_resync_puts_right_what_was_edited() {
    let (world, run) = filled();
    world.postgres.psql("mirror", EDITS);
    run.run(&["start", "--once-caught-up"]).success();
    let (missing, extra) = world.differences();
    assert_eq!(
        (missing.len(), extra.len()),
        (4, 3),
        "nobody looks at rows without being asked: {missing:?} {extra:?}"
    );
    // While nobody runs: at the next start.
    run.run(&["resync", "--reason", "edited by hand"]).success();
    run.run(&["start", "--once-caught-up"]).success();
    assert_eq!(world.differences(), (vec![], vec![]));
    // While it runs: at once, with what is written meanwhile.
    let running = start(&run);
    world.settle(|| running.stderr());
    for _ in 0..2 {
        world.postgres.psql("mirror", EDITS);
        run.run(&["resync"]).success();
        Writer::new(Rng::with_seed(22), world.redis.client(), Sweeping::Never).write(300);
        world.settle(|| running.stderr());
    }
    let audited = run.run(&["audit", "export"]).success();
    assert!(audited.contains("resync") && audited.contains("edited by hand"), "{audited}");
}

#[test]
fn a_resync_that_is_killed_is_still_owed() {
    let (world, run) = filled();
    world.postgres.psql("mirror", EDITS);
    run.run(&["resync"]).success();
    let mut running = start(&run);
    running.kill9();
    run.run(&["start", "--once-caught-up"]).success();
    assert_eq!(world.differences(), (vec![], vec![]));
}

#[test]
fn one_key_is_looked_at_when_asked_for() {
    let (world, run) = filled();
    let value = |name: &str| {
        let sql = format!("select value from strings where name = '{name}' and database = 0");
        world.postgres.psql("mirror", &sql).trim().to_owned()
    };
    world.postgres.psql("mirror", EDITS);
    let later = run.run(&["resync", "--key", "s:one"]);
    assert!(later.stderr.contains("by the pipeline's next run"), "{}", later.stderr);
    later.success();
    let running = start(&run);
    let mended = wait_for(|| (value("one") == "1").then_some(()));
    assert!(mended.is_some(), "waited in vain\n{}", running.stderr());
    assert_eq!(value("other"), "edited", "only the key that was asked for");
    let done = run.run(&["resync", "--key", "s:other", "--reason", "CHG-4712"]);
    assert!(done.stderr.contains("the key's rows are as the key is"), "{}", done.stderr);
    done.success();
    assert_eq!(value("other"), "2");
    run.run(&["resync", "--key", "h:one"]).success();
    run.run(&["resync", "--key", "l:one"]).success();
    assert_eq!(world.differences(), (vec![], vec![]));
    let audited = run.run(&["audit", "export"]).success();
    let ended =
        audited.lines().filter(|line| line.contains("CHG-4712") && line.contains("\"looked_at\": true"));
    assert_eq!(ended.count(), 1, "{audited}");
    assert!(audited.contains("s:other") && audited.contains("\"looked_at\": false"), "{audited}");
    run.run(&["audit", "verify"]).success();
    let refused = run.run(&["resync", "--key", "unknown:one"]).failure(2);
    assert!(refused.contains("no pattern of pipeline \"mirror\" matches this key"), "{refused}");
    let refused = run.run(&["resync", "--key", "s:one", "--database", "9"]).failure(2);
    assert!(refused.contains("database 9"), "{refused}");
}

#[test]
fn a_reset_forgets_and_leaves_the_rows() {
    let (world, run) = filled();
    let running = start(&run);
    run.run(&["reset", "--yes"]).failure(5);
    run.run(&["stop"]).success();
    drop(running);
    let count = "select count(*) from strings";
    let before = world.postgres.psql("mirror", count);
    let ran = run.run(&["reset", "--yes"]).success();
    assert!(ran.contains("the tables stay with their rows"), "{ran}");
    assert_eq!(world.postgres.psql("mirror", count), before);
    for table in ["keyspace_key", "keyspace_position", "keyspace_misfit", "relation"] {
        let left = world.postgres.psql("mirror", &format!("select count(*) from pgdiode.{table}"));
        assert_eq!(left.trim(), "0", "{table}");
    }
    world.redis.cli(&["SET", "s:one", "another"]);
    run.run(&["start", "--once-caught-up"]).success();
    assert_eq!(world.differences(), (vec![], vec![]));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_hint() {
    let (_world, run) = filled();
    for arguments in [
        &["add-tables", "public.more"][..],
        &["remove-tables", "public.strings"],
        &["resync", "public.strings"],
        &["reset", "--yes", "--drop-slot"],
        &["setup", "--yes", "--create-slot"],
        &["clear", "--yes"],
        &["sync"],
        &["generations"],
        &["rollback"],
        &["archive", "base"],
    ] {
        let said = run.run(arguments).failure(2);
        assert!(said.contains("hint: "), "{arguments:?}: {said}");
    }
    let listed = run.run(&["list-tables"]).success();
    assert!(listed.contains("public.strings") && listed.contains("unique (database, name)"), "{listed}");
    run.run(&["status"]).success();
    run.run(&["stop"]).success();
    run.run(&["audit", "verify"]).success();
}
