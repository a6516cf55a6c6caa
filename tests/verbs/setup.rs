//! Set-up and reset: printed, run once, run again, taken away.

use super::*;

const TABLES: &str = "
    create table plain (id int primary key);
    create table events (id int, at date, primary key (id, at)) partition by range (at);
    create table events_1 partition of events for values from ('2024-01-01') to ('2025-01-01');
    create table events_2 partition of events for values from ('2025-01-01') to ('2026-01-01');
    create table left_out (id int primary key)";

fn published(ground: &Ground, database: &str) -> String {
    ground.source.psql(
        database,
        "select string_agg(tablename, ' ' order by tablename) from pg_publication_tables where pubname = 'pgdiode_main'",
    )
}

#[test]
fn setup_is_printed_run_once_and_completed() {
    let ground = Ground::new();
    let (source, target) = ground.databases("app", TABLES);
    let lines = "tables = [\"public.*\", \"!public.left_out\"]";
    let pgdiode = configured(&source, &target, lines);

    let printed = pgdiode.run(&["setup", "--print-sql"]).success();
    assert!(printed.starts_with("-- at the source, 127.0.0.1:"), "{printed}");
    let publication = "create publication \"pgdiode_main\" for table \"public\".\"events\", \"public\".\"plain\" \
        with (publish = 'insert, update, delete, truncate');";
    assert!(printed.contains(publication), "{printed}");
    assert_eq!(published(&ground, "app"), "", "printing runs nothing");

    // A database administrator runs the printed text, each side's part there.
    let parts: Vec<&str> = printed.split("-- at the ").collect();
    for part in &parts[1..] {
        let (head, sql) = part.split_once(":\n").unwrap();
        let cluster = if head.starts_with("source") { &ground.source } else { &ground.target };
        cluster.psql("app", sql);
    }
    assert_eq!(published(&ground, "app"), "events_1 events_2 plain");
    let again = pgdiode.run(&["setup", "--yes"]);
    assert!(again.stderr.contains("everything is set up already"), "{again:?}");
    assert_eq!(again.success(), "");

    // A new table joins, a partition joins by itself, nothing is dropped.
    ground.source.psql(
        "app",
        "create table events_3 partition of events for values from ('2026-01-01') to ('2027-01-01');
         create table more (id int primary key)",
    );
    let fewer = configured(&source, &target, "tables = [\"public.more\"]");
    let added = fewer.run(&["setup", "--yes"]).success();
    assert!(added.contains("alter publication \"pgdiode_main\" add table \"public\".\"more\";"), "{added}");
    assert_eq!(published(&ground, "app"), "events_1 events_2 events_3 more plain");
    finds(
        &fewer,
        0,
        "warning",
        "carries tables that the patterns leave out: public.events_1",
        "pgdiode remove-tables",
    );
}

#[test]
fn an_excluded_partition_is_not_published() {
    let ground = Ground::new();
    let (source, target) = ground.databases("app", TABLES);
    let pgdiode = configured(&source, &target, "tables = [\"public.events\", \"!public.events_1\"]");
    pgdiode.run(&["setup", "--yes"]).success();
    assert_eq!(published(&ground, "app"), "events_2");
}

#[test]
fn start_needs_setup_and_status_says_so() {
    let ground = Ground::new();
    let (source, target) = ground.databases("app", TABLES);
    let pgdiode = configured(&source, &target, "");
    let status = pgdiode.run(&["status"]).success();
    assert!(status.contains("pipeline main  new") && status.contains("run pgdiode setup"), "{status}");
    finds(&pgdiode, 0, "warning", "publication \"pgdiode_main\" does not exist", "pgdiode setup");

    pgdiode.run(&["setup", "--yes"]).success();
    let status = pgdiode.run(&["status"]).success();
    assert!(status.contains("pipeline main  new"), "{status}");
    let stopped = pgdiode.run(&["stop"]);
    assert!(stopped.stderr.contains("was not running"), "{stopped:?}");

    // One side is down: the other one's part is still shown.
    ground.source.stop_fast();
    let status = pgdiode.run(&["status"]).success();
    assert!(status.contains("not all can be shown: source: cannot connect to"), "{status}");
    ground.target.stop_fast();
    pgdiode.run(&["status"]).failure(6);
}

/// A start that goes on says only what would have refused a first one.
#[test]
fn warnings_are_not_repeated_at_every_start() {
    let ground = Ground::new();
    let (_, target) = ground.databases("app", "create table t (id int primary key)");
    ground.source.psql(
        "app",
        "create role reader login replication; grant select on t to reader;
         create publication pgdiode_main for table t",
    );
    let pgdiode = configured(&ground.source.conninfo_as("reader", "app"), &target, "");
    let warning = "max_slot_wal_keep_size is unlimited";
    let start = || {
        let output = pgdiode.run(&["start", "--once-caught-up"]);
        assert!(output.status.success(), "{output:?}");
        output.stderr
    };
    let first = start();
    assert!(first.contains(warning), "{first}");
    let second = start();
    assert!(!second.contains("WARN"), "{second}");
    let verified = pgdiode.run(&["verify"]);
    assert!(verified.status.success() && !verified.stderr.contains("WARN"), "{verified:?}");
    finds(&pgdiode, 0, "warning", warning, "limits.wal_budget_mb");

    ground.source.psql("app", "revoke select on t from reader");
    let third = start();
    assert!(third.contains("may not read 1 table: public.t") && !third.contains(warning), "{third}");
}

#[test]
fn whoever_holds_the_lock_is_named() {
    let ground = Ground::new();
    let (source, target) = ground.databases("app", TABLES);
    let pgdiode = configured(&source, &target, "");
    pgdiode.run(&["setup", "--yes"]).success();
    let since = "2026-01-02T03:04:05Z";
    ground.target.psql(
        "app",
        &format!("update pgdiode.pipeline set runs_at = 'mirror-0 4711 {since}', phase = 'streaming'"),
    );
    let lock = "select pg_advisory_lock(hashtextextended('pgdiode pipeline main', 0));";
    // It ends as a run does: when it is asked to.
    let wait = "do $$ begin loop perform pg_sleep(0.02);
        exit when (select stop_requested from pgdiode.pipeline); commit; end loop; end $$;";
    let mut holder = ground.target.spawn_psql("app", &format!("{lock}{wait}"));
    ground.target.wait_until(
        "app",
        "select exists (select from pg_locks where locktype = 'advisory')",
        "the lock",
    );
    ground.source.stop_fast();
    let status = pgdiode.run(&["status"]).success();
    assert!(status.contains(&format!("runs on     mirror-0, process 4711, since {since}")), "{status}");
    assert!(status.contains("pipeline main  streaming"), "{status}");
    let refused = pgdiode.run(&["reset", "--yes"]).failure(5);
    assert!(refused.contains("process 4711 on mirror-0") && refused.contains("pgdiode stop"), "{refused}");

    let stopped = pgdiode.run(&["stop"]);
    assert!(stopped.stderr.contains("stopped process 4711 on mirror-0"), "{stopped:?}");
    assert!(!holder.is_running() || holder.wait().is_ok());
    let reset = pgdiode.run(&["reset", "--yes"]).success();
    assert!(reset.contains("the publication stays"), "{reset}");
}

#[test]
fn reset_takes_away_what_it_is_told_to() {
    let ground = Ground::new();
    let (source, target) = ground.databases("app", TABLES);
    let pgdiode = configured(&source, &target, "");
    pgdiode.run(&["setup", "--yes"]).success();
    ground.source.psql("app", "select pg_create_logical_replication_slot('pgdiode_main', 'pgoutput')");
    ground.target.psql(
        "app",
        "create table plain (id int primary key); insert into plain values (1);
         insert into pgdiode.relation (pipeline, schema_name, table_name) values ('main', 'public', 'plain');
         insert into pgdiode.position (pipeline, lsn) values ('main', '0/1');
         update pgdiode.pipeline set slot_begun = true",
    );
    let reset = pgdiode.run(&["reset", "--yes"]).success();
    assert!(reset.contains("drop table \"public\".\"plain\";"), "{reset}");
    assert_eq!(
        ground.target.psql(
            "app",
            "select (select count(*) from pgdiode.position) + (select count(*) from pgdiode.relation)"
        ),
        "0"
    );
    assert_eq!(ground.source.psql("app", "select count(*) from pg_replication_slots"), "1");

    // What is pgdiode's stays so: it may be set up again over its own rows.
    assert_eq!(check(&pgdiode).0, 0, "{:?}", check(&pgdiode).1);
    let gone = pgdiode.run(&["reset", "--drop-slot", "--drop-publication", "--yes"]).success();
    assert!(gone.contains("\ndrop table pgdiode.note, ") && gone.contains("the audit log stays"), "{gone}");
    assert_eq!(
        ground.source.psql(
            "app",
            "select (select count(*) from pg_replication_slots) + (select count(*) from pg_publication)"
        ),
        "0"
    );
    assert_eq!(
        ground.target.psql(
            "app",
            "select (select string_agg(relname, ' ') from pg_class
                      where relnamespace = 'pgdiode'::regnamespace and relkind = 'r'), count(*) from plain"
        ),
        "audit|1"
    );
}

#[test]
fn what_belongs_to_somebody_else_is_refused_before_anything_is_dropped() {
    let ground = Ground::new();
    let (source, target) = ground.databases("app", TABLES);
    let pgdiode = configured(&source, &target, "");
    pgdiode.run(&["setup", "--yes"]).success();
    ground.source.psql(
        "app",
        "create role reader login replication; select pg_create_logical_replication_slot('pgdiode_main', 'pgoutput')",
    );
    let reader = configured(&ground.source.conninfo_as("reader", "app"), &target, "");
    let args = ["reset", "--drop-slot", "--drop-publication", "--yes"];
    let remains = || {
        let slots = ground.source.psql("app", "select count(*) from pg_replication_slots");
        (slots, ground.target.psql("app", "select to_regclass('pgdiode.pipeline') is null"))
    };
    let refused = reader.run(&args).failure(3);
    assert!(refused.contains("publication \"pgdiode_main\" of the source belongs to postgres"), "{refused}");
    assert!(refused.contains("run there: drop publication \"pgdiode_main\""), "{refused}");
    assert_eq!(remains(), ("1".into(), "f".into()));

    ground.source.psql("app", "drop publication pgdiode_main; alter role reader noreplication");
    let refused = reader.run(&args).failure(3);
    assert!(refused.contains("alter role \"reader\" replication"), "{refused}");
    ground.source.psql("app", "alter role reader replication");

    ground.target.psql("app", "create role writer login; grant usage on schema pgdiode to writer");
    ground.target.psql("app", "grant select on all tables in schema pgdiode to writer");
    let writer = configured(
        &ground.source.conninfo_as("reader", "app"),
        &ground.target.conninfo_as("writer", "app"),
        "",
    );
    let refused = writer.run(&args).failure(3);
    assert!(refused.contains("schema pgdiode of the target belongs to postgres"), "{refused}");
    assert_eq!(remains(), ("1".into(), "f".into()));
    reader.run(&args).success();
    assert_eq!(remains(), ("0".into(), "t".into()));
}

/// The catalogs differ between versions: each is asked everything once, as a source and as a target.
#[test]
fn every_version_is_understood() {
    for version in Version::ALL {
        let cluster = Cluster::start(version, &[]);
        cluster.psql("postgres", "create database app");
        cluster.psql("postgres", "create database mirror");
        cluster.psql("app", TABLES);
        let mut pgdiode = configured(&cluster.conninfo("app"), &cluster.conninfo("mirror"), "");
        pgdiode.set("PGDIODE_PG_DUMP", &cluster.tools().path("pg_dump").display().to_string());
        let (ended, findings) = check(&pgdiode);
        assert_eq!(ended, 0, "{version}: {findings:#?}");
        pgdiode.run(&["setup", "--yes"]).success();
        cluster.psql("app", "select pg_create_logical_replication_slot('pgdiode_main', 'pgoutput')");
        cluster.psql("mirror", "update pgdiode.pipeline set slot_begun = true");
        let (ended, findings) = check(&pgdiode);
        assert_eq!(ended, 0, "{version}: {findings:#?}");
        let status = pgdiode.run(&["status"]).success();
        assert!(status.contains("slot        pgdiode_main"), "{version}: {status}");
        let listed = pgdiode.run(&["list-tables"]).success();
        assert_eq!(listed.matches("primary key").count(), 4, "{version}: {listed}");
        pgdiode.run(&["reset", "--drop-slot", "--drop-publication", "--yes"]).success();
    }
}
