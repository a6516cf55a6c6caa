//! What an operator gets wrong, each with its message, its remedy and its exit status.

use super::*;

#[test]
fn an_end_that_cannot_be_used_is_named() {
    let ground = Ground::new();
    ground.source.add_scram_user("reader", "right", "superuser");
    let (source, target) = (ground.source.conninfo("postgres"), ground.target.conninfo("postgres"));
    let closed = crate::harness::ground::free_port();
    for (source, target, status, what, hint) in [
        (
            format!("postgresql://postgres@127.0.0.1:{closed}/postgres"),
            target.clone(),
            6,
            "source: cannot connect to",
            "is the server running",
        ),
        (
            source.clone(),
            format!("postgresql://postgres@127.0.0.1:{closed}/postgres"),
            7,
            "target: cannot connect to",
            "is the server running",
        ),
        (
            "postgresql://postgres@no-such-host.invalid/postgres".to_owned(),
            target.clone(),
            6,
            "no-such-host.invalid",
            "check the host's spelling",
        ),
        (
            format!("postgresql://reader:wrong@127.0.0.1:{}/postgres", ground.source.port()),
            target.clone(),
            3,
            "password authentication failed",
            "check the password of \"reader\"",
        ),
        (
            ground.source.conninfo("nowhere"),
            target.clone(),
            3,
            "database \"nowhere\" does not exist",
            "check dbname",
        ),
        (
            source.clone(),
            source.clone() + "?application_name=x",
            3,
            "the target is the source",
            "name another database",
        ),
    ] {
        finds(&configured(&source, &target, ""), status, "refused", what, hint);
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_said() {
    let said = |pgdiode: &PgdiodeRun| pgdiode.run(&["setup", "--yes"]).failure(2);
    let unknown = said(&configured("host=a", "host=b", "[pipeline.main.copy]\njbos = 1"));
    assert!(
        unknown.contains("unknown key \"jbos\"") && unknown.contains("did you mean \"jobs\"?"),
        "{unknown}"
    );
    let pgdiode = configured("host=a", "host=b", "");
    std::fs::remove_file(pgdiode.config_path()).unwrap();
    let unreadable = said(&pgdiode);
    assert!(unreadable.starts_with("error: cannot read ") && unreadable.contains("hint: "), "{unreadable}");
}

#[test]
fn a_source_that_cannot_replicate_is_refused() {
    let ground = Ground {
        source: Cluster::start(Version::V15, &[("wal_level", "replica"), ("max_replication_slots", "0")]),
        target: Cluster::start(Version::V15, &[]),
    };
    ground.source.psql("postgres", "create role plain login");
    ground.source.psql("postgres", "create table t (id int primary key)");
    let pgdiode = configured(
        &ground.source.conninfo_as("plain", "postgres"),
        &ground.target.conninfo("postgres"),
        "pg_dump_is_elsewhere = 1",
    );
    drop(pgdiode);
    let pgdiode =
        configured(&ground.source.conninfo_as("plain", "postgres"), &ground.target.conninfo("postgres"), "");
    for (what, hint) in [
        ("wal_level is replica", "alter system set wal_level = logical"),
        ("user plain may not replicate", "alter role \"plain\" replication"),
        ("all 0 slots of the source are in use", "alter system set max_replication_slots = 2"),
        ("may not read 1 table: public.t", "grant select on \"public\".\"t\" to \"plain\""),
    ] {
        finds(&pgdiode, 3, "refused", what, hint);
    }
    let refused = pgdiode.run(&["setup", "--yes"]).failure(3);
    assert!(refused.contains("wal_level is replica"), "{refused}");
    assert_eq!(ground.target.psql("postgres", "select to_regnamespace('pgdiode') is null"), "t");
}

#[test]
fn tables_that_cannot_be_published_or_found_are_refused() {
    let ground = Ground::new();
    ground.source.psql(
        "postgres",
        "create table plain (id int primary key);
         create table bare (a int);
         create table keyed (a int not null unique, b int unique);
         create table half (a int not null);
         create unique index on half (a) where a > 0;
         create unlogged table scratch (id int primary key);
         create table whole (a int);
         alter table whole replica identity full;
         create table secret (id int primary key);
         alter table secret enable row level security, force row level security;
         create role plain login replication;
         grant select on all tables in schema public to plain;",
    );
    let pgdiode = ground.pgdiode("");
    for (level, what, hint) in [
        ("refused", "table public.bare", "alter table \"public\".\"bare\" replica identity full;"),
        ("refused", "table public.half", "alter table \"public\".\"half\" replica identity full;"),
        (
            "refused",
            "table public.keyed",
            "alter table \"public\".\"keyed\" replica identity using index \"keyed_a_key\";",
        ),
        ("ok", "1 unlogged table not carried, its changes are not in the log: public.scratch", ""),
        ("warning", "1 table named by whole rows (replica identity full): public.whole", "a primary key"),
        ("warning", "max_slot_wal_keep_size is unlimited", "limits.wal_budget_mb = 10240"),
        ("warning", "publication \"pgdiode_main\" does not exist", "pgdiode setup"),
    ] {
        finds(&pgdiode, 3, level, what, hint);
    }
    // What the remedies say, done, settles it.
    for (_, _, remedy) in check(&pgdiode).1.iter().filter(|(level, ..)| level == "refused") {
        ground.source.psql("postgres", remedy);
    }
    assert_eq!(check(&pgdiode).0, 0, "{:?}", check(&pgdiode).1);

    let missing = ground.pgdiode("tables = [\"public.plian\"]");
    finds(&missing, 3, "refused", "the source has no table public.plian", "did you mean public.plain?");
    let other = ground.pgdiode("tables = [\"other.*\"]");
    finds(&other, 0, "warning", "the pattern other.* matches no table", "pgdiode list-tables");
    let hidden =
        configured(&ground.source.conninfo_as("plain", "postgres"), &ground.target.conninfo("postgres"), "");
    finds(&hidden, 3, "refused", "row security hides rows of 1 table", "alter role \"plain\" bypassrls");
}

#[test]
fn a_target_of_somebody_else_is_refused() {
    let ground = Ground::new();
    ground.source.psql("postgres", "create table t (id int primary key)");
    ground.target.psql("postgres", "create table t (id int primary key)");
    let pgdiode = ground.pgdiode("");
    assert_eq!(check(&pgdiode).0, 0, "an empty table is nobody's");
    ground.target.psql("postgres", "insert into t values (1)");
    finds(
        &pgdiode,
        3,
        "refused",
        "the target holds rows that pgdiode did not write, in public.t",
        "create schema pgdiode",
    );
    let refused = pgdiode.run(&["setup", "--yes"]).failure(3);
    assert!(refused.contains("the target holds rows"), "{refused}");
    assert_eq!(ground.source.psql("postgres", "select count(*) from pg_publication"), "0");
    ground.target.psql("postgres", "create schema pgdiode");
    assert_eq!(check(&pgdiode).0, 0, "adopted");

    ground.target.psql("postgres", "create role weak login; create schema other");
    let weak =
        configured(&ground.source.conninfo("postgres"), &ground.target.conninfo_as("weak", "postgres"), "");
    for (what, hint) in [
        ("lacks the CREATE privilege", "grant create on database \"postgres\" to \"weak\""),
        ("may not switch triggers off", "grant set on parameter session_replication_role to \"weak\""),
        ("may not write 1 table: public.t", "on \"public\".\"t\" to \"weak\""),
        ("may not create tables in public", "grant usage, create on schema \"public\" to \"weak\""),
    ] {
        finds(&weak, 3, "refused", what, hint);
    }
}

/// Rows that come from the source fire nothing here, but for what was told to.
#[test]
fn triggers_and_rules_that_fire_on_replicated_rows_are_told() {
    let ground = Ground::new();
    let tables = "create table t (id int primary key); create table other (id int primary key);
        create function f() returns trigger language plpgsql as 'begin return new; end'";
    for cluster in [&ground.source, &ground.target] {
        cluster.psql("postgres", tables);
    }
    ground.target.psql(
        "postgres",
        "create trigger usual after insert on t for each row execute function f();
         create trigger \"Always\" after insert on t for each row execute function f();
         create trigger replica after insert on t for each row execute function f();
         create trigger elsewhere after insert on other for each row execute function f();
         create rule usual_rule as on insert to t do also nothing;
         create rule fires as on delete to t do instead nothing;
         alter table t enable always trigger \"Always\", enable replica trigger replica, enable replica rule fires;
         alter table other enable always trigger elsewhere",
    );
    let pgdiode = ground.pgdiode("tables = [\"public.t\"]");
    let what = "fire triggers or rules at the target: rule fires on public.t, trigger Always on public.t, trigger \
        replica on public.t";
    finds(&pgdiode, 0, "warning", what, "alter table \"public\".\"t\" enable trigger \"Always\"");
    // What the remedy says, done, settles it.
    let (_, findings) = check(&pgdiode);
    let remedy = findings.iter().find(|(_, its, _)| its.contains(what)).unwrap().2.clone();
    ground.target.psql("postgres", remedy.split_once("alone: ").unwrap().1);
    let (_, findings) = check(&pgdiode);
    assert!(!findings.iter().any(|(_, its, _)| its.contains("fire triggers")), "{findings:#?}");
}

#[test]
fn what_only_the_source_has_is_told() {
    let ground = Ground::new();
    // Every extension of the one server is available to the other: one that is made up is not.
    let extensions = ground.source.psql("postgres", "select setting from pg_config where name = 'SHAREDIR'");
    assert!(!extensions.is_empty());
    ground.source.psql(
        "postgres",
        "create role clerk;
         create table t (id int primary key);
         grant select on t to clerk;
         create extension hstore; create table h (id int primary key, h hstore[]);
         update pg_extension set extname = 'made_up' where extname = 'hstore'",
    );
    let pgdiode = ground.pgdiode("");
    finds(
        &pgdiode,
        3,
        "refused",
        "extension made_up is not available at the target, and needed by public.h",
        "made_up",
    );
    finds(
        &pgdiode,
        3,
        "warning",
        "the target lacks roles that the source's tables are granted to: clerk",
        "create the roles",
    );
    finds(
        &ground.pgdiode("tables = [\"public.t\"]"),
        0,
        "warning",
        "extension made_up of the source is not available at the target; no carried table needs it",
        "made_up",
    );
}

#[test]
fn an_old_pg_dump_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let ground = Ground::new();
    let mut pgdiode = ground.pgdiode("");
    let old = pgdiode.directory().join("pg_dump");
    std::fs::write(&old, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n").unwrap();
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).unwrap();
    pgdiode.set("PGDIODE_PG_DUMP", &old.display().to_string());
    finds(
        &pgdiode,
        3,
        "refused",
        "no pg_dump for PostgreSQL 15 or newer",
        "install the PostgreSQL 15 client programs",
    );
}

#[test]
fn what_pg_dump_says_keeps_its_lines() {
    use std::os::unix::fs::PermissionsExt as _;
    let ground = Ground::new();
    ground.source.psql("postgres", "create table t (id int primary key)");
    let mut pgdiode = ground.pgdiode("");
    pgdiode.run(&["setup", "--yes"]).success();
    let program = pgdiode.directory().join("pg_dump");
    let script = "#!/bin/sh
        [ \"$1\" = --version ] && echo 'pg_dump (PostgreSQL) 15.4' && exit
        printf 'pg_dump: error: query failed: ERROR:  made up\\npg_dump: detail: Query was: select\\n' >&2; exit 1";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    pgdiode.set("PGDIODE_PG_DUMP", &program.display().to_string());
    let said = pgdiode.run(&["start"]).failure(1);
    let lines = "failed (exit status: 1):\n  pg_dump: error: query failed: ERROR:  made up\n  \
        pg_dump: detail: Query was: select\n";
    assert!(said.contains(lines), "{said}");
    let status = pgdiode.run(&["status"]).success();
    let indented = lines.replace("\n  pg_dump", "\n              pg_dump");
    assert!(status.contains(&indented), "{status}");
}

#[test]
fn users_that_may_just_enough_are_let_through() {
    for version in [Version::V15, Version::V18] {
        let ground = Ground { source: Cluster::start(version, &[]), target: Cluster::start(version, &[]) };
        ground.source.psql(
            "postgres",
            "create role reader login replication;
             create table t (id bigserial primary key);
             grant select on all tables in schema public to reader;
             grant select on all sequences in schema public to reader",
        );
        ground.target.psql(
            "postgres",
            "create role writer login;
             grant create, temporary on database postgres to writer;
             grant create on schema public to writer;
             grant set on parameter session_replication_role to writer",
        );
        let mut pgdiode = configured(
            &ground.source.conninfo_as("reader", "postgres"),
            &ground.target.conninfo_as("writer", "postgres"),
            "",
        );
        pgdiode.set("PGDIODE_PG_DUMP", &ground.source.tools().path("pg_dump").display().to_string());
        let by_hand = "pgdiode setup --print-sql";
        finds(&pgdiode, 0, "warning", "may not create a publication", by_hand);
        let refused = pgdiode.run(&["setup", "--yes"]).failure(3);
        assert!(refused.contains(by_hand), "{refused}");
        let printed = pgdiode.run(&["setup", "--print-sql"]).success();
        let publication = printed.split("-- at the ").nth(1).unwrap().split_once(":\n").unwrap().1;
        ground.source.psql("postgres", publication);
        pgdiode.run(&["setup", "--yes"]).success();
        let (ended, findings) = check(&pgdiode);
        assert_eq!(ended, 0, "{version}: {findings:#?}");
        let warnings: Vec<_> = findings.iter().filter(|(level, ..)| level == "warning").collect();
        assert!(
            warnings.len() == 1 && warnings[0].1.starts_with("max_slot_wal_keep_size"),
            "{version}: {warnings:#?}"
        );
    }
}

#[test]
fn a_position_in_another_history_is_refused() {
    let ground = Ground::new();
    ground.source.psql("postgres", "create table t (id int primary key)");
    let pgdiode = ground.pgdiode("");
    pgdiode.run(&["setup", "--yes"]).success();
    ground.source.psql("postgres", "select pg_create_logical_replication_slot('pgdiode_main', 'pgoutput')");
    finds(&pgdiode, 3, "refused", "the target knows nothing of it", "pgdiode reset --drop-slot");
    ground.target.psql("postgres", "update pgdiode.pipeline set slot_begun = true");
    finds(&pgdiode, 0, "warning", "holds nothing that the target could go on from", "makes it anew");
    let read = |sql: &str| ground.source.psql("postgres", sql);
    let system = read("select system_identifier from pg_control_system()");
    let confirmed = read("select confirmed_flush_lsn from pg_replication_slots");
    let store = |system: &str, position: &str| {
        ground.target.psql(
            "postgres",
            &format!(
                "update pgdiode.pipeline set system_identifier = {system}, timeline = 1, database = 'postgres',
                        slot = 'pgdiode_main', consistent_point = '{confirmed}', schema_copied = true;
                 insert into pgdiode.position (pipeline, lsn) values ('main', '{position}')
                 on conflict (pipeline) do update set lsn = excluded.lsn"
            ),
        );
    };
    store(&system, &confirmed);
    finds(&pgdiode, 0, "ok", &format!("slot \"pgdiode_main\" holds what follows {confirmed}"), "");
    store("4711", &confirmed);
    finds(&pgdiode, 3, "refused", "the source is another cluster", "pgdiode reset");
    store(&system, "0/1");
    finds(&pgdiode, 3, "refused", "beyond the target's position 0/1", "pgdiode reset");
    ground.source.psql("postgres", "select pg_drop_replication_slot('pgdiode_main')");
    finds(&pgdiode, 3, "refused", "the replication slot \"pgdiode_main\" is gone", "pgdiode reset");
    let status = pgdiode.run(&["status"]).success();
    assert!(status.contains("slot \"pgdiode_main\" is gone"), "{status}");
}
