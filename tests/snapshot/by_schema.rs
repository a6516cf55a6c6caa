//! `method = "schema"`: the database stays, its schemas are replaced, and readers do not even reconnect.

use std::sync::atomic::{AtomicBool, Ordering};

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
    prepared_on(Version::V15)
}

/// The target's version is that; the source's is not newer.
fn prepared_on(version: Version) -> (Ground, PgdiodeRun) {
    let mut ground = Ground::new();
    if version != Version::V15 {
        ground.target = Cluster::start(version, &[("max_prepared_transactions", "5")]);
    }
    ground.target.psql("postgres", "create database li");
    let pgdiode = ground.pgdiode(BY_SCHEMA);
    (ground, pgdiode)
}

fn last_verdict(ground: &Ground) -> String {
    ground.target.psql("li", "select verdict from pgdiode.run order by id desc limit 1")
}

#[test]
fn a_sync_replaces_the_schemas_and_leaves_the_rest() {
    replaces(Version::V15);
}

#[test]
fn it_does_so_on_newer_and_older_servers() {
    replaces(Version::V18);
    replaces(Version::V14);
}

fn replaces(version: Version) {
    let (ground, pgdiode) = prepared_on(version);
    ground.source.psql("app", "create schema more; create table more.t (id int references public.item); insert into more.t values (1)");
    ground.source.psql(
        "app",
        "create function to_point(int) returns point language sql immutable as 'select point($1, $1)';
         create cast (int as point) with function to_point(int)",
    );
    ground.target.psql(
        "li",
        "create schema li_local; create table li_local.own (id int); insert into li_local.own values (7)",
    );
    assert_eq!(pgdiode.run(&["check"]).status.code(), Some(0));
    assert_eq!(schemas(&ground), "li_local public", "a check leaves nothing");
    sync(&pgdiode).success();
    assert_eq!(schemas(&ground), "li_local more pgdiode public");
    assert_eq!(ground.databases(), "li", "there is no control database");
    assert_eq!(ground.target.psql("li", "select count(*), max(v) from item"), "1000|v999");
    assert_eq!(ground.target.psql("li", "select items from totals"), "1000");
    assert_eq!(
        ground.target.psql("li", "select reltuples from pg_class where oid = 'item'::regclass"),
        "1000"
    );

    ground.target.psql("li", "alter database li set default_transaction_read_only = on");
    ground.source.psql("app", "delete from item where id > 900; update stamp set generation = 2");
    let status = pgdiode.run(&["sync", "--json"]).success();
    let promoted: serde_json::Value = serde_json::from_str(&status).unwrap();
    let left_out = promoted["left_out"].to_string();
    assert!(left_out.contains("CAST (integer AS \\\"point\\\"): it belongs to the database"), "{left_out}");
    assert_eq!((&promoted["generation"], &promoted["previous"]), (&2.into(), &1.into()));
    assert!(promoted["bytes"].as_u64().unwrap() > 100_000, "{status}");
    assert_eq!(schemas(&ground), "li_local more more_gen_1 pgdiode public public_gen_1");
    assert_eq!(ground.target.psql("li", "select (select count(*) from item), (select count(*) from public_gen_1.item), (select id from li_local.own)"), "900|1000|7");
    let key =
        "select confrelid::regclass from pg_constraint where conrelid = 'more.t'::regclass and contype = 'f'";
    assert_eq!(ground.target.psql("li", key), "item");

    // A schema that the source has no more goes with the generation.
    ground.source.psql("app", "drop schema more cascade; update stamp set generation = 3");
    pgdiode.run(&["sync", "--accept-losses"]).success();
    assert_eq!(schemas(&ground), "li_local more_gen_2 pgdiode public public_gen_2");
    let listed: serde_json::Value =
        serde_json::from_str(&pgdiode.run(&["generations", "--json"]).success()).unwrap();
    assert_eq!(listed[0]["schemas"], serde_json::json!(["public"]));
    assert_eq!(listed[1]["schemas"], serde_json::json!(["more_gen_2", "public_gen_2"]));
    assert!(listed[1]["bytes"].as_u64().unwrap() > 100_000);
    assert!(!ground.target.log().contains("ERROR"), "{}", ground.target.log());
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
    // Casts are in no schema: those of a kept generation's types show.
    let is_kept = |line: &&str| line.contains("_gen_");
    text.lines().filter(|line| !is_random(line) && !is_kept(line)).map(str::to_owned).collect()
}

#[test]
fn what_pg_dump_says_of_both_sides_is_the_same() {
    let (ground, _) = prepared();
    ground.with_all_objects("");
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
        assert_eq!(ground.target.psql("li", "select more from a_through"), "1001");
    }
}

/// Every table in one statement, again and again over one connection that must never break.
const READ: &str = "select (select min(generation) || ' ' || max(generation) from stamp)
    || ' ' || (select count(*) || ' ' || min(v) || ' ' || max(v) from item) || ' ' || (select items from totals);\n";

/// Two statements in one transaction, the tables the other way round.
const READ_BACKWARDS: &str = "begin; select count(*) || ' ' || min(v) || ' ' || max(v) from item; select generation from stamp; commit;\n";

/// Stops the readers, however the test ends.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn readers_never_break_and_see_only_whole_generations() {
    let (ground, pgdiode) = prepared();
    ground.source.psql("app", "update item set v = 'g1'");
    sync(&pgdiode).success();
    let stop = AtomicBool::new(false);
    let seen = std::sync::Mutex::new(Vec::new());
    // The last one's statements were prepared before the swap that they meet.
    let prepared = format!("prepare r as {READ}");
    let readers = [("", READ), ("", READ_BACKWARDS), (prepared.as_str(), "execute r;\n")];
    std::thread::scope(|scope| {
        for (first, read) in readers {
            let (stop, seen, target) = (&stop, &seen, &ground.target);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let lines = target.psql("li", &format!("{first}{}", read.repeat(200)));
                    let parts = if read == READ_BACKWARDS { 2 } else { 1 };
                    let lines: Vec<&str> = lines.lines().collect();
                    let lines = lines.chunks(parts).map(|lines| lines.join(" "));
                    seen.lock().unwrap().extend(lines);
                }
            });
        }
        let _stopping = Stopping(&stop);
        for generation in 2..=5 {
            ground.source.psql(
                "app",
                &format!("begin; update stamp set generation = {generation}; update item set v = 'g{generation}'; commit"),
            );
            sync(&pgdiode).success();
        }
        pgdiode.run(&["rollback"]).success();
    });
    let mut seen = seen.into_inner().unwrap();
    assert!(seen.len() > 300, "the readers read {} times only", seen.len());
    seen.sort();
    seen.dedup();
    for line in &seen {
        let whole =
            (1..=5).flat_map(|n| [format!("{n} {n} 1000 g{n} g{n} 1000"), format!("1000 g{n} g{n} {n}")]);
        assert!(whole.collect::<Vec<_>>().contains(line), "{seen:?}");
    }
    for generation in 1..=5 {
        assert!(seen.iter().any(|line| line.contains(&format!("g{generation}"))), "{seen:?}");
    }
    assert_eq!(ground.stamp(), "4");
    // Not one was made to connect anew.
    assert!(!ground.target.log().contains("terminating connection"), "{}", ground.target.log());
    assert!(!ground.target.log().contains("deadlock"), "{}", ground.target.log());
}

/// The reason, at the end of a sync that was refused before it made anything.
fn refused(pgdiode: &PgdiodeRun, ground: &Ground, reason: &str, hint: &str) {
    let before = schemas(ground);
    let said = sync(pgdiode).failure(3);
    assert!(said.contains(reason) && said.contains(hint), "{said}");
    assert_eq!(pgdiode.run(&["check"]).status.code(), Some(3));
    assert_eq!(schemas(ground), before);
}

#[test]
fn what_cannot_be_replaced_whole_is_refused() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode(BY_SCHEMA);
    let named = ground.pgdiode(&format!("{BY_SCHEMA}\nsnapshot.control_database = \"other\""));
    assert!(sync(&named).failure(2).contains("leave it out"));
    let said = sync(&pgdiode).failure(3);
    assert!(said.contains("there is no database \"li\"") && said.contains("Create it"), "{said}");
    pgdiode.run(&["check"]).failure(3);
    ground.target.psql("postgres", "create database li");

    ground.target.psql("li", "create table own (id int)");
    refused(&pgdiode, &ground, "not empty, and no sync has made them: public", "--adopt");
    pgdiode.run(&["sync", "--adopt"]).success();
    assert_eq!(ground.target.psql("li", "select count(*) from public_gen_1.own"), "0");

    ground
        .target
        .psql("li", "create schema li_local; create view li_local.mine as select * from public.item");
    refused(&pgdiode, &ground, "would stay with the old copy: view li_local.mine", "Drop it at the target");
    pgdiode.run(&["rollback"]).failure(3);
    ground.target.psql("li", "drop schema li_local cascade");

    ground.source.psql("app", "select lo_create(4711)");
    refused(&pgdiode, &ground, "the source has large objects", "\"database\"");
    ground.source.psql("app", "select lo_unlink(4711)");

    // A new schema of the source that stands for something else at the target.
    ground.source.psql("app", "create schema mine; create table mine.t (id int)");
    ground.target.psql("li", "create schema mine; create table mine.own (id int)");
    refused(&pgdiode, &ground, "no sync has made them: mine", "--adopt");
    ground.target.psql("li", "drop schema mine cascade");
    sync(&pgdiode).success();
    assert_eq!(ground.target.psql("li", "select count(*) from mine.t"), "0");

    // What serves has gone by somebody's hand.
    ground.target.psql("li", "drop schema public cascade; create schema public; create table own (id int)");
    refused(&pgdiode, &ground, "no sync has made them: mine, public", "--adopt");
    ground.target.psql("li", "drop schema public, mine cascade");
    sync(&pgdiode).success();
    assert_eq!(ground.stamp(), "1");

    let same = ground.configured(&ground.source.socket_conninfo("app"), BY_SCHEMA);
    let said = sync(&same).failure(3);
    assert!(said.contains("is the source itself"), "{said}");
}

/// Who owns the database and nothing else, which is what a managed host gives.
#[test]
fn the_databases_owner_is_enough() {
    let (ground, _) = prepared();
    ground.source.psql("app", "create extension citext; alter table item add c citext default 'C'");
    ground.target.psql("postgres", "create role li_owner login; create role viewer login");
    let pgdiode = ground.configured(&ground.target.conninfo_as("li_owner", "li"), BY_SCHEMA);
    refused(&pgdiode, &ground, "the target's user may not create schemas", "grant create on database");
    ground.target.psql("li", "grant create on database li to li_owner");
    refused(
        &pgdiode,
        &ground,
        "schema public of the target belongs to pg_database_owner",
        "the database's owner",
    );
    ground.target.psql("li", "alter database li owner to li_owner");
    refused(
        &pgdiode,
        &ground,
        "extension \"citext\" is in schema \"public\" of the source",
        "set schema extensions",
    );
    ground.target.psql("li", "create extension citext");
    refused(
        &pgdiode,
        &ground,
        "extension \"citext\" is in schema \"public\" of the target",
        "set schema extensions",
    );
    let move_it = "create schema extensions; grant usage on schema extensions to public; alter extension citext set schema extensions";
    ground.target.psql("li", move_it);
    ground.source.psql("app", move_it);
    sync(&pgdiode).success();
    assert_eq!(
        ground
            .target
            .psql("li", "select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'public'"),
        "pg_database_owner"
    );
    assert_eq!(
        ground.target.psql("li", "select count(*) from item where c operator(extensions.=) 'c'"),
        "1000"
    );
    // A transaction that has read holds its table until it ends.
    ground.target.psql("li", "grant select on stamp to viewer");
    let viewer = ground.target.conninfo_as("viewer", "li");
    let reader = ground.target.spawn_psql_at(&viewer, "begin; select * from stamp;\n\\! sleep 30");
    let reading = "select exists (select from pg_stat_activity where usename = 'viewer' and state = 'idle in transaction' and query ~ 'stamp')";
    ground.target.wait_until("postgres", reading, "the reader");
    ground.source.psql("app", "update stamp set generation = 2");
    let said = sync(&pgdiode).failure(4);
    assert!(
        said.contains("still in use") && said.contains("of viewer") && said.contains("pg_signal_backend"),
        "{said}"
    );
    assert_eq!((last_verdict(&ground).as_str(), ground.stamp().as_str()), ("not promoted", "1"));
    assert_eq!(schemas(&ground), "extensions pgdiode public");

    // A snapshot from before the copy was complete would find tables without rows.
    let old = ground.target.spawn_psql_at(
        &viewer,
        "begin isolation level repeatable read; select count(*) from pg_class; select pg_sleep(600)",
    );
    let sleeps =
        "select exists (select from pg_stat_activity where datname = 'li' and wait_event = 'PgSleep')";
    ground.target.wait_until("postgres", sleeps, "the snapshot");
    let said = sync(&pgdiode).failure(4);
    assert!(said.contains("snapshot from before the copy") && said.contains("pg_signal_backend"), "{said}");
    assert_eq!(ground.stamp(), "1");

    ground.target.psql("postgres", "grant pg_signal_backend to li_owner");
    sync(&pgdiode).success();
    assert!(old.wait().unwrap_err().contains("terminating connection"));
    assert_eq!(ground.target.psql("postgres", reading), "f");
    reader.kill();
    assert_eq!(ground.stamp(), "2");
    pgdiode.run(&["rollback"]).success();
    assert_eq!(ground.stamp(), "1");
}

/// A sync that waits in its copy, for as long as the target has a role `hold`.
fn held_sync(ground: &Ground, pgdiode: &PgdiodeRun) -> Running {
    ground.source.psql(
        "app",
        "create or replace function wait() returns bool language plpgsql as $$ begin
             while current_database() = 'li' and exists (select from pg_roles where rolname = 'hold') loop
                 perform pg_sleep(0.02);
             end loop;
             return true;
         end $$;
         create table if not exists held (id int check (public.wait())); insert into held values (1)",
    );
    ground.target.psql("postgres", "create role hold");
    let running = pgdiode.spawn(&["sync"]);
    ground.target.wait_until(
        "postgres",
        "select exists (select from pg_stat_activity where datname = 'li' and query ilike 'copy %' and wait_event = 'PgSleep')",
        "the copy",
    );
    running
}

#[test]
fn a_killed_sync_leaves_the_schemas_as_they_were() {
    let (ground, pgdiode) = prepared();
    sync(&pgdiode).success();
    ground.source.psql("app", "update stamp set generation = 2");

    let mut running = held_sync(&ground, &pgdiode);
    assert!(schemas(&ground).contains("public_shadow_2"), "{}", schemas(&ground));
    // From another host, which has a lock file of its own.
    let said = ground.pgdiode(BY_SCHEMA).run(&["sync"]).failure(5);
    assert!(said.contains("is running already: "), "{said}");
    running.kill9();
    assert_eq!(ground.stamp(), "1");
    // What it left at work in the server is ended by the next one, which waits in its copy in turn.
    ground.target.psql("postgres", "drop role hold");
    let mut running = held_sync(&ground, &pgdiode);
    assert_eq!(schemas(&ground), "pgdiode public public_shadow_3");
    running.terminate();
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
    assert_eq!((last_verdict(&ground).as_str(), schemas(&ground).as_str()), ("killed", "pgdiode public"));

    ground.target.psql("postgres", "drop role hold");
    let mut running = held_sync(&ground, &pgdiode);
    ground.target.kill9();
    assert_eq!(running.wait().code(), Some(7), "{}", running.stderr());
    ground.target.start_again();
    ground.target.psql("postgres", "drop role hold");
    assert_eq!(ground.stamp(), "1");
    sync(&pgdiode).success();
    assert_eq!(ground.stamp(), "2");
    assert_eq!(schemas(&ground), "pgdiode public public_gen_1");
}

#[test]
fn a_sync_killed_at_any_moment_hurts_nobody() {
    let (ground, pgdiode) = prepared();
    ground.kill_at_any_moment(&pgdiode, || ground.stamp());
    let schemas = schemas(&ground);
    assert!(!schemas.contains("shadow") && schemas.matches("public_gen").count() == 1, "{schemas}");
    assert_eq!(ground.target.psql("li", "select count(*) from pgdiode.pipeline"), "0");
}

/// What is left at the source, masked, granted, compared and audited elsewhere is so here, in the shadow's schemas and
/// never in those that serve.
#[test]
fn masks_grants_guards_and_the_audit_log_work_on_the_shadows_schemas() {
    let (ground, _) = prepared();
    ground.target.psql("postgres", "create role viewer login");
    ground.source.psql(
        "app",
        "create table account (id int primary key, password text, admin bool);
         insert into account values (1, 'secret of alice', true), (2, 'secret of bob', false);
         create table token (id int primary key, account int, value text);
         insert into token values (1, 1, 'live token'), (2, 7, 'orphaned token');
         create table session (id int, token int);
         insert into session values (1, 99);
         alter table session add foreign key (token) references token not valid;
         create table version (n int); insert into version values (94)",
    );
    let pgdiode = ground.pgdiode(&format!(
        "{BY_SCHEMA}
         snapshot.empty = [\"public.token\"]
         snapshot.mask = {{ \"public.account.password\" = \"hash\", \"public.account.admin\" = \"constant:false\" }}
         snapshot.verify = \"full\"
         snapshot.schema_version = \"select n from version\"
         snapshot.grants = \"readers.sql\""
    ));
    let readers =
        "grant usage on schema public to viewer;\ngrant select on all tables in schema public to viewer;\n";
    std::fs::write(pgdiode.directory().join("readers.sql"), readers).unwrap();
    let viewer = ground.target.conninfo_as("viewer", "li");
    for generation in 1..=2 {
        ground.source.psql("app", &format!("update stamp set generation = {generation}"));
        sync(&pgdiode).success();
        let seen = ground.target.try_psql_at(
            &viewer,
            "select (select generation from stamp), (select count(*) from token),
                    (select bool_and(length(password) = 64 and not admin) from account)",
        );
        assert_eq!(seen.unwrap(), format!("{generation}|0|t"));
        assert!(ground.target.try_psql_at(&viewer, "delete from item").is_err());
    }
    let dump = dumped(&ground.target, "li").join("\n");
    assert!(!dump.contains("secret of") && !dump.contains("live token"), "{dump}");

    // What somebody changed in what serves is told before it is gone; what stays is not.
    ground.target.psql(
        "li",
        "create schema own; create table own.t (id int); insert into own.t values (1);
         delete from item where id > 990; create view public.added as select 1 as one",
    );
    let promoted: serde_json::Value =
        serde_json::from_str(&pgdiode.run(&["sync", "--json"]).success()).unwrap();
    let discarded = promoted["discarded"].to_string();
    assert!(
        discarded.contains("table public.item") && discarded.contains("view public.added"),
        "{discarded}"
    );
    assert!(!discarded.contains("own") && !discarded.contains("schema"), "{discarded}");
    assert_eq!(ground.target.psql("li", "select id from own.t"), "1");

    // A failed guard leaves what serves.
    std::fs::write(pgdiode.directory().join("readers.sql"), "grant select on item to nobody").unwrap();
    let said = sync(&pgdiode).failure(4);
    assert!(said.contains("readers.sql:1"), "{said}");
    assert_eq!((ground.stamp().as_str(), last_verdict(&ground).as_str()), ("2", "not promoted"));

    pgdiode.run(&["rollback"]).success();
    assert!(pgdiode.run(&["audit", "verify"]).status.success());
    let done = "select string_agg(action, ' ' order by number) from pgdiode.audit where verdict = 'done'";
    assert_eq!(
        ground.target.psql("li", done),
        "swap sync drop-generation swap sync swap sync drop-generation swap rollback"
    );
}

#[test]
fn what_belongs_to_the_replica_has_a_schema_of_its_own() {
    let (ground, _) = prepared();
    let said =
        sync(&ground.pgdiode(&format!("{BY_SCHEMA}\nsnapshot.preserve = [\"li_local.*\"]"))).failure(3);
    assert!(said.contains("preserves no tables") && said.contains("hint:"), "{said}");
    assert_eq!(schemas(&ground), "public", "nothing was made");
}
