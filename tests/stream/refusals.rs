//! What must stop a run instead of being guessed at, with an explanation and the documented exit status.

use std::fs;
use std::process::Command;

use super::{Ends, Pair, stop};

fn small(pair: &Pair) {
    pair.at_source("create table t (id int primary key, v text); insert into t select n, 'v' from generate_series(1, 100) n");
    pair.publish("t");
}

#[test]
fn a_slot_that_is_not_the_one_is_refused() {
    let pair = Pair::start(Ends::default());
    small(&pair);
    stop(pair.begin_and_copy());

    // Moved on beyond what the target holds.
    pair.at_source("insert into t values (101, 'lost if guessed')");
    pair.at_source("select pg_replication_slot_advance('pgdiode_main', pg_current_wal_lsn())");
    let said = pair.pgdiode.run(&["start"]).failure(3);
    assert!(
        said.contains("pgdiode_main") && said.contains("would be lost") && said.contains("hint:"),
        "{said}"
    );

    // Gone.
    pair.at_source("select pg_drop_replication_slot('pgdiode_main')");
    let said = pair.pgdiode.run(&["start"]).failure(3);
    assert!(said.contains("is gone"), "{said}");

    // Another of the same name.
    pair.at_source("select pg_create_logical_replication_slot('pgdiode_main', 'pgoutput')");
    let said = pair.pgdiode.run(&["start"]).failure(3);
    assert!(said.contains("created again"), "{said}");
    assert_eq!(pair.at_target("select count(*) from t"), "100", "a refused run writes nothing");
}

#[test]
fn another_cluster_and_a_missing_publication_are_refused() {
    let pair = Pair::start(Ends::default());
    small(&pair);
    pair.at_source("drop publication pgdiode_main");
    let said = pair.pgdiode.run(&["start"]).failure(3);
    assert!(said.contains("publication"), "{said}");
    pair.publish("t");
    stop(pair.begin_and_copy());
    pair.at_target("update pgdiode.pipeline set system_identifier = system_identifier + 1");
    let said = pair.pgdiode.run(&["start"]).failure(3);
    assert!(said.contains("another cluster"), "{said}");
}

#[test]
fn a_position_that_somebody_else_moved_stops_the_run() {
    let pair = Pair::start(Ends::default());
    small(&pair);
    let mut running = pair.begin_and_copy();
    pair.at_target("update pgdiode.position set lsn = '0/1'");
    pair.at_source("insert into t values (101, 'must not be applied')");
    assert_eq!(running.wait().code(), Some(1), "{}", running.stderr());
    assert!(running.stderr().contains("the stored position"), "{}", running.stderr());
    assert_eq!(pair.at_target("select count(*) from t"), "100");
    // Before the slot's own position: what lies between is not to be had any more.
    let said = pair.pgdiode.run(&["start"]).failure(3);
    assert!(said.contains("would be lost"), "{said}");
}

#[test]
fn a_second_run_is_locked_out_and_the_first_goes_on() {
    let pair = Pair::start(Ends::default());
    small(&pair);
    let running = pair.begin_and_copy();
    let said = pair.pgdiode.run(&["start"]).failure(5);
    assert!(said.contains("is running already"), "{said}");
    pair.at_source("insert into t values (101, 'goes on')");
    pair.assert_alike();
    stop(running);
}

/// A run that reaches its goal ends by itself, having applied exactly what it was asked for.
#[test]
fn a_run_ends_where_it_is_told() {
    let pair = Pair::start(Ends::default());
    small(&pair);
    pair.pgdiode.run(&["start", "--once-caught-up"]).success();
    pair.assert_alike_now(&[]);
    pair.at_source("insert into t values (101, 'one')");
    let between = pair.at_source("select pg_current_wal_lsn()");
    pair.at_source("insert into t values (102, 'two')");
    pair.pgdiode.run(&["start", "--until-lsn", &between]).success();
    assert_eq!(pair.at_target("select max(id) from t"), "101");
    pair.pgdiode.run(&["start", "--once-caught-up"]).success();
    pair.assert_alike_now(&[]);
}

/// The source's data directory as it was before its last changes, which the target has seen.
fn put_back(pair: &Pair, changes: impl FnOnce()) {
    let (data, backup) = (pair.source.data_directory(), pair.source.directory().join("backup"));
    pair.source.stop_fast();
    let copied = Command::new("cp").arg("-a").args([&data, &backup]).status();
    assert!(copied.is_ok_and(|status| status.success()), "the data directory can be copied");
    pair.source.start_again();
    changes();
    pair.source.stop_fast();
    fs::remove_dir_all(&data).expect("the data directory can be removed");
    fs::rename(&backup, &data).expect("the backup can take its place");
}

fn insert_and_apply(pair: &Pair) {
    let running = pair.begin();
    pair.at_source("insert into t select n, 'lost' from generate_series(1000, 1100) n");
    pair.catch_up();
    stop(running);
}

#[test]
fn a_source_that_was_put_back_is_refused() {
    let pair = Pair::start(Ends::default());
    small(&pair);
    stop(pair.begin_and_copy());
    put_back(&pair, || insert_and_apply(&pair));
    pair.source.start_again();
    pair.at_source("insert into t values (2000, 'another history')");
    let said = pair.pgdiode.run(&["start", "--once-caught-up"]).failure(3);
    assert!(said.contains("restored from a backup"), "{said}");
}

/// Starts the source, which is stopped, on a timeline of its own.
fn promote(pair: &Pair) {
    pair.source.configure(&[("restore_command", "false")]);
    fs::write(pair.source.data_directory().join("recovery.signal"), "").expect("a file can be made");
    pair.source.start_again();
    // It answers before it is promoted, and takes no writes until then.
    pair.source.wait_until("postgres", "select not pg_is_in_recovery()", "the promotion");
}

/// The new primary has long written past the position: only its timeline's history tells.
#[test]
fn a_source_promoted_before_the_position_is_refused() {
    let pair = Pair::start(Ends::default());
    small(&pair);
    stop(pair.begin_and_copy());
    put_back(&pair, || insert_and_apply(&pair));
    promote(&pair);
    let position = pair.at_target("select lsn from pgdiode.position");
    pair.at_source("create table other (v text); insert into t values (2000, 'another history')");
    while pair.at_source(&format!("select pg_current_wal_lsn() <= '{position}'")) == "t" {
        pair.at_source("insert into other select repeat('x', 1000) from generate_series(1, 100)");
    }
    let said = pair.pgdiode.run(&["start", "--once-caught-up"]).failure(3);
    assert!(said.contains("was promoted (timeline 1 to 2)"), "{said}");
}

/// A promotion that lost nothing is gone along with.
#[test]
fn a_source_promoted_after_the_position_is_followed() {
    let pair = Pair::start(Ends::default());
    small(&pair);
    stop(pair.begin_and_copy());
    pair.source.stop_fast();
    promote(&pair);
    pair.at_source("insert into t values (2000, 'on the next timeline')");
    let running = pair.begin();
    pair.assert_alike();
    assert_eq!(pair.at_target("select timeline from pgdiode.pipeline"), "2");
    stop(running);
}

#[test]
fn a_slot_that_the_target_was_not_filled_through_is_refused() {
    let pair = Pair::start(Ends::default());
    small(&pair);
    stop(pair.begin_and_copy());
    pair.at_source("insert into t values (101, 'before the other slot')");
    pair.at_source("select pg_create_logical_replication_slot('other', 'pgoutput')");
    let config = fs::read_to_string(pair.pgdiode.config_path()).expect("a configuration");
    let other = config.replacen("[pipeline.main]", "[pipeline.main]\nslot = \"other\"", 1);
    fs::write(pair.pgdiode.config_path(), other).expect("a configuration can be written");
    for verb in [&["start", "--once-caught-up"][..], &["setup", "--yes"]] {
        let said = pair.pgdiode.run(verb).failure(3);
        assert!(said.contains("filled through the slot \"pgdiode_main\""), "{said}");
    }
}

/// The source let go of its log: nothing is guessed at, and nothing tried again.
#[test]
fn a_slot_whose_log_was_removed_is_refused() {
    let pair = Pair::start(Ends { source_settings: &[("max_slot_wal_keep_size", "1MB")], ..Ends::default() });
    small(&pair);
    stop(pair.begin_and_copy());
    for n in 0..5 {
        pair.at_source(&format!("insert into t values ({n} + 1000, 'old'); select pg_switch_wal()"));
    }
    pair.at_source("checkpoint");
    pair.source.wait_until(
        "postgres",
        "select wal_status = 'lost' from pg_replication_slots where slot_name = 'pgdiode_main'",
        "the slot to be lost",
    );
    let said = pair.pgdiode.run(&["start"]).failure(3);
    assert!(said.contains("is lost"), "{said}");
    assert_eq!(pair.at_target("select count(*) from t"), "100");
}
