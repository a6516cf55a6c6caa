//! Changes at the source of which the stream says nothing: a column's values computed anew, options of the publication
//! that left out changes for a while. None may leave the target different in silence.

use super::{Ends, Pair, stop};

const TABLE: &str = "
    create table t (id int primary key, v int);
    insert into t select n, n from generate_series(1, 10) n";

fn wait_for_rows(pair: &Pair) {
    let rows = "select string_agg(r::text, ' ' order by id) from (select id, v from t) r";
    let wanted = pair.at_source(rows);
    pair.wait_at_target(&format!("select ({rows}) = '{wanted}'"), "the rows of t");
}

fn copied_at(pair: &Pair) -> String {
    pair.at_target("select copied_at from pgdiode.relation where table_name = 't'")
}

/// Waits until a look at the source has written down its present files, or anything else that differs from `before`.
fn wait_for_look(pair: &Pair, before: &str) {
    pair.wait_at_target(
        &format!(
            "select files <> '{before}' and state = 'ready' from pgdiode.relation where table_name = 't'"
        ),
        "a look at the table's file",
    );
}

fn files(pair: &Pair) -> String {
    pair.at_target("select files from pgdiode.relation where table_name = 't'")
}

#[test]
fn a_rewrite_that_keeps_the_type_is_copied() {
    let pair = Pair::start(Ends::default());
    pair.at_source(TABLE);
    pair.publish("t");
    let running = pair.begin_and_copy();
    pair.at_source("alter table t alter v type int using v + 1; insert into t values (11, 12)");
    wait_for_rows(&pair);

    // While no run looks.
    stop(running);
    pair.at_source("alter table t alter v type int using v + 1");
    let running = pair.begin();
    wait_for_rows(&pair);

    // Neither a new file alone nor new columns alone cost a copy.
    pair.assert_alike();
    let before = copied_at(&pair);
    for change in
        ["vacuum full t", "alter table t alter v set default 5", "alter table t add w int default 7"]
    {
        let known = files(&pair);
        pair.at_source(change);
        wait_for_look(&pair, &known);
    }
    pair.at_source("insert into t values (20, 20)");
    pair.assert_alike();
    assert_eq!(copied_at(&pair), before, "no copy");
    stop(running);
}

#[test]
fn options_that_left_out_changes_cost_a_copy() {
    let pair = Pair::start(Ends::default());
    pair.at_source(TABLE);
    pair.publish("t");
    let running = pair.begin_and_copy();
    pair.at_source(
        "alter publication pgdiode_main set (publish = 'insert, truncate'); update t set v = v + 100;
         alter publication pgdiode_main set (publish = 'insert, update, delete, truncate')",
    );
    wait_for_rows(&pair);

    pair.at_source(
        "alter publication pgdiode_main set (publish = 'insert, truncate'); update t set v = v + 100",
    );
    let reason = pair.quarantine_of("public.t");
    assert!(reason.contains("options leave out a kind of change"), "{reason}");
    pair.at_source("alter publication pgdiode_main set (publish = 'insert, update, delete, truncate')");
    wait_for_rows(&pair);
    pair.assert_alike();

    // Another table joins and leaves: none of this is a change of options.
    let before = copied_at(&pair);
    pair.at_source("create table other (id int primary key); alter publication pgdiode_main add table other");
    pair.wait_at_target(
        "select exists (select from pgdiode.relation where table_name = 'other')",
        "the other table being noticed",
    );
    pair.at_source("alter publication pgdiode_main drop table other");
    pair.quarantine_of("public.other");
    assert_eq!(copied_at(&pair), before, "no copy");
    stop(running);
}
