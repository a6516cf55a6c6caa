//! What must stop a run instead of being guessed at, with an explanation and the documented exit status.

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
