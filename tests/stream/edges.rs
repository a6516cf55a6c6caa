//! Rare states of either server: slots that the source gave up, publications made anew, bytes of no encoding, triggers
//! on DDL.

use std::fs;

use super::{Ends, Pair, stop};
use crate::harness::Version;

fn small(pair: &Pair) {
    pair.at_source("create table t (id int primary key, v int); insert into t select n, n from generate_series(1, 100) n");
    pair.publish("t");
}

/// More write-ahead log than the slot may hold back, then a checkpoint that removes it.
fn outgrow_the_slot(pair: &Pair) {
    pair.at_source("create table if not exists ballast (v text)");
    for _ in 0..3 {
        pair.at_source(
            "insert into ballast select repeat(md5(n::text), 60) from generate_series(1, 12000) n",
        );
        pair.at_source("select pg_switch_wal()");
    }
    pair.at_source("checkpoint");
}

#[test]
fn a_slot_that_the_source_sacrificed_ends_the_run_and_reset_starts_anew() {
    let pair = Pair::start(Ends {
        source_settings: &[
            ("max_slot_wal_keep_size", "16MB"),
            ("min_wal_size", "32MB"),
            ("max_wal_size", "48MB"),
        ],
        ..Ends::default()
    });
    small(&pair);
    let mut running = pair.begin_and_copy();
    // The target stands still, so that the slot cannot advance.
    let lock = pair.target.spawn_psql("postgres", "begin; lock table t; select pg_sleep(600)");
    pair.wait_at_target(
        "select exists (select from pg_locks where relation = 't'::regclass and mode = 'AccessExclusiveLock' and granted)",
        "the lock",
    );
    pair.at_source("update t set v = v + 1");
    outgrow_the_slot(&pair);
    let status =
        pair.at_source("select wal_status from pg_replication_slots where slot_name = 'pgdiode_main'");
    assert_eq!(status, "lost");
    pair.at_target("select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(600)%' and pid <> pg_backend_pid()");
    drop(lock);

    assert_eq!(running.wait().code(), Some(3), "{}", running.stderr());
    let said = pair.pgdiode.run(&["start"]).failure(3);
    assert!(said.contains("is lost") && said.contains("pgdiode reset"), "{said}");
    let shown = pair.pgdiode.run(&["status"]).success();
    assert!(shown.contains("lost"), "{shown}");

    pair.pgdiode.run(&["reset", "--drop-slot", "--yes"]).success();
    let running = pair.begin_and_copy();
    pair.at_source("update t set v = v + 1");
    pair.assert_alike();
    stop(running);
}

#[test]
fn a_slot_that_was_idle_for_too_long_is_told_with_its_reason() {
    let pair = Pair::start(Ends {
        versions: (Version::V18, Version::V18),
        source_settings: &[("idle_replication_slot_timeout", "1s")],
        ..Ends::default()
    });
    small(&pair);
    stop(pair.begin_and_copy());
    pair.at_source("select pg_sleep(1.5)");
    pair.at_source("checkpoint");
    let reason = pair
        .at_source("select invalidation_reason from pg_replication_slots where slot_name = 'pgdiode_main'");
    assert_eq!(reason, "idle_timeout");
    let said = pair.pgdiode.run(&["start"]).failure(3);
    assert!(said.contains("is lost: idle_timeout") && said.contains("pgdiode reset"), "{said}");
    let checked = pair.pgdiode.run(&["check"]);
    assert!(checked.stdout.contains("idle_timeout"), "{}{}", checked.stdout, checked.stderr);
}

/// Made anew in one transaction, a publication has no gap; what it misses shows in the ties of its tables.
#[test]
fn a_publication_made_anew_in_one_transaction_is_followed() {
    let pair = Pair::start(Ends::default());
    small(&pair);
    let running = pair.begin_and_copy();
    pair.at_source(
        "begin; drop publication pgdiode_main; create publication pgdiode_main for table public.pulse, t; commit",
    );
    pair.at_source("update t set v = -v where id <= 50");
    pair.assert_alike();
    stop(running);
}

/// Changes from while there was no publication: before PostgreSQL 18 they cannot be decoded, since then they are passed
/// over. Neither may be passed over in silence.
#[test]
fn changes_without_a_publication_are_not_lost_in_silence() {
    for version in [Version::V15, Version::V18] {
        let pair = Pair::start(Ends { versions: (version, version), ..Ends::default() });
        small(&pair);
        let mut running = pair.begin_and_copy();
        pair.at_source("drop publication pgdiode_main");
        pair.at_source("update t set v = v + 1000 where id > 50");
        pair.publish("t");
        pair.at_source("insert into t values (101, 101)");
        if version == Version::V15 {
            assert_eq!(running.wait().code(), Some(3), "{}", running.stderr());
            let said = running.stderr();
            assert!(
                said.contains("pgdiode_main") && said.contains("hint:") && said.contains("pgdiode reset"),
                "{said}"
            );
            pair.pgdiode.run(&["reset", "--drop-slot", "--yes"]).success();
            running = pair.begin_and_copy();
        }
        pair.wait_at_target(
            "select count(*) = 101 and bool_and(v > 1000) filter (where id between 51 and 100) from t",
            "all rows",
        );
        pair.assert_alike();
        stop(running);
    }
}

#[test]
fn bytes_that_are_no_text_quarantine_their_table_alone() {
    let pair = Pair::start(Ends::default());
    pair.at_source("create database d encoding 'sql_ascii' template template0 lc_collate 'C' lc_ctype 'C'");
    pair.at_target("create database d");
    let config = fs::read_to_string(pair.pgdiode.config_path()).expect("a configuration");
    fs::write(pair.pgdiode.config_path(), config.replace("/postgres\"", "/d\"")).expect("written");
    pair.source.psql(
        "d",
        r"create table good (id int primary key, v text); insert into good values (1, 'ä');
          create table later (id int primary key, v text);
          create table bad (id int primary key, v text); insert into bad values (1, E'\xe4');
          create publication pgdiode_main for table good, bad, later",
    );
    let states = || {
        pair.target.psql(
            "d",
            "select string_agg(table_name || ' ' || state || ' ' || coalesce(reason, ''), E'\\n' order by table_name) from pgdiode.relation",
        )
    };
    pair.pgdiode.run(&["start", "--once-caught-up"]).success();
    let shown = states();
    assert!(shown.contains("good ready") && shown.contains("later ready"), "{shown}");
    assert!(shown.contains("bad quarantined") && shown.contains("invalid byte sequence"), "{shown}");
    pair.source.psql(
        "d",
        r"insert into later values (1, 'fine'), (2, E'not \xff fine'); insert into good values (2, 'ß')",
    );
    pair.pgdiode.run(&["start", "--once-caught-up"]).success();
    let shown = states();
    assert!(shown.contains("later quarantined") && shown.contains("invalid byte sequence"), "{shown}");
    assert_eq!(pair.target.psql("d", "select v from good order by id"), "ä\nß");
    assert_eq!(pair.target.psql("d", "select count(*) from later"), "0", "the change is refused as a whole");
}

/// A trigger on DDL at the target belongs to its owner; one that refuses is told with its own words.
#[test]
fn a_trigger_on_ddl_at_the_target_is_not_passed_over() {
    let pair = Pair::start(Ends::default());
    small(&pair);
    pair.at_target(
        "create function no_tables() returns event_trigger language plpgsql as
           $$ begin if tg_tag like '%TABLE%' then raise exception 'tables are made by hand here'; end if; end $$;
         create event trigger guard on ddl_command_start when tag in ('CREATE TABLE', 'ALTER TABLE') execute function no_tables()",
    );
    let out = pair.pgdiode.run(&["start", "--once-caught-up"]);
    assert!(!out.status.success(), "{}", out.stderr);
    assert!(out.stderr.contains("tables are made by hand here"), "{}", out.stderr);
    pair.at_target("drop event trigger guard");
    let running = pair.begin_and_copy();
    pair.assert_alike();
    // The sessions that write rows run as a replica; a trigger that fires there too stops that table alone.
    pair.at_target(
        "create event trigger guard on ddl_command_start when tag in ('ALTER TABLE') execute function no_tables();
         alter event trigger guard enable always",
    );
    pair.at_source("alter table t add column w int default 7; insert into t values (101, 1, 1)");
    let reason = pair.quarantine_of("public.t");
    assert!(reason.contains("tables are made by hand here"), "{reason}");
    pair.at_target("drop event trigger guard");
    pair.pgdiode.run(&["resync", "public.t"]).success();
    pair.assert_alike();
    stop(running);
}

/// A slot begins where nobody writes; whose transaction it waits for is told, not guessed at.
#[test]
fn a_start_that_waits_says_for_whom() {
    let pair =
        Pair::start(Ends { source_settings: &[("max_prepared_transactions", "5")], ..Ends::default() });
    small(&pair);
    pair.at_source("begin; insert into t values (0, 0); prepare transaction 'forgotten'");
    let mut running = pair.begin();
    running.wait_for_log(
        "waits for transactions that write at the source: prepared transaction \"forgotten\" of postgres",
    );
    pair.wait_at_target(
        "select doing like 'the replication slot waits for prepared transaction%' from pgdiode.pipeline",
        "the status",
    );
    pair.at_source("commit prepared 'forgotten'");
    pair.assert_alike();
    assert_eq!(pair.at_target("select count(*) from t"), "101");
    stop(running);
}
