//! A target that somebody writes to, and tables that cannot be followed: the trouble of one is nobody else's.

use super::{Ends, Pair, stop};

#[test]
fn rows_changed_by_hand_are_counted_noted_and_put_right() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table t (id int primary key, v text); create table other (id int primary key, v text);
         insert into t select n, 'v' from generate_series(1, 300) n; insert into other select n, 'v' from generate_series(1, 100) n",
    );
    pair.publish("t, other");
    let running = pair.begin_and_copy();
    pair.at_target(
        "insert into t values (1000, 'by hand'), (1001, 'by hand'); delete from t where id in (1, 2, 3)",
    );
    pair.at_source(
        "begin; insert into t values (1000, 'source'), (1001, 'source'), (1002, 'source'); update t set v = 'new' where id in (1, 4);
         delete from t where id in (2, 5); update other set v = 'unaffected'; commit",
    );
    pair.pulse();
    pair.wait_for_count("public.t", "conflicts", 2);
    pair.wait_for_count("public.t", "missing", 2);
    assert_eq!(pair.count_of("public.other", "updates"), 100);
    assert_eq!(
        pair.at_target(
            "select kind, count(*) from pgdiode.note where table_name = 't' group by 1 order by 1"
        ),
        "insert-exists|2\nrow-missing|2"
    );
    let note =
        pair.at_target("select detail from pgdiode.note where kind = 'row-missing' order by id limit 1");
    assert_eq!(note, r#"row to change was not there, skipped: ("id") = ["1"]"#);
    // Rows 1 and 3 are missing still: they were skipped, and nothing has touched them. All else is alike.
    pair.at_source("insert into t values (1, 'again') on conflict (id) do update set v = 'again'");
    pair.pulse();
    assert_eq!(pair.at_target("select count(*) from t where v = 'by hand'"), "0");
    pair.at_source("delete from t where id in (1, 3)");
    pair.assert_alike();
    // Wide enough to be merged: found all the same.
    pair.at_target("delete from t where id = 100; insert into t values (5000, 'by hand')");
    pair.at_source(
        "begin; update t set v = 'wide'; insert into t select n, 'wide' from generate_series(4950, 5050) n; delete from t where id = 200; commit",
    );
    pair.pulse();
    pair.at_source("delete from t where id = 100");
    pair.assert_alike();
    stop(running);
}

/// Whatever the values travelled as.
#[test]
fn keys_are_shown_as_people_write_them() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table keys (a bigint, b uuid, c varchar(10), d date, primary key (a, b, c, d));
         insert into keys values (-7, '01234567-89ab-cdef-0123-456789abcdef', 'x\"y', '2024-02-29')",
    );
    pair.publish("keys");
    let running = pair.begin_and_copy();
    pair.at_target("delete from keys");
    pair.at_source("delete from keys");
    pair.wait_for_count("public.keys", "missing", 1);
    let note = pair.at_target("select detail from pgdiode.note where table_name = 'keys'");
    let values = r#"["-7", "01234567-89ab-cdef-0123-456789abcdef", "x\"y", 4 bytes of date]"#;
    assert_eq!(note, format!(r#"row to change was not there, skipped: ("a", "b", "c", "d") = {values}"#));
    stop(running);
}

#[test]
fn a_table_that_cannot_be_followed_is_quarantined_alone() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table lacks (id int primary key, v text, w text); create table checked (id int primary key, n int);
         create table taken (id int primary key, u int); create table referenced (id int primary key);
         create table fine (id int primary key, v text); create table gone (id int primary key);
         insert into lacks select n, 'v', 'w' from generate_series(1, 100) n; insert into checked select n, n from generate_series(1, 100) n",
    );
    pair.publish("lacks, checked, taken, referenced, fine, gone");
    let running = pair.begin_and_copy();
    pair.at_target(
        "alter table lacks drop column w; alter table checked add check (n < 1000); create unique index on taken (u);
         drop table gone; create table mine (id int references referenced)",
    );
    let slot = "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'pgdiode_main'";
    pair.at_source("insert into referenced values (1), (2)");
    let before = pair.at_source(slot);
    pair.at_source("begin; update lacks set w = 'x' where id = 1; insert into fine values (1, 'a'); commit");
    pair.at_source(
        "begin; insert into checked values (1000, 1000); insert into fine values (2, 'b'); commit",
    );
    pair.at_source(
        "begin; insert into taken values (1, 7), (2, 7); insert into fine values (3, 'c'); commit",
    );
    pair.at_source("begin; insert into gone values (1); insert into fine values (4, 'd'); commit");
    pair.pulse();
    for (table, reason) in [
        ("public.lacks", "was dropped at the target"),
        ("public.checked", "violates check constraint"),
        ("public.taken", "duplicate key"),
        ("public.gone", "no such table"),
    ] {
        let said = pair.quarantine_of(table);
        assert!(said.contains(reason), "{table}: {said}");
    }
    pair.at_source("update checked set n = n + 1 where id < 20; insert into fine values (5, 'e'); truncate referenced, taken");
    pair.pulse();
    pair.assert_alike_now(&["lacks", "checked", "taken", "gone"]);
    pair.wait_for_count("public.checked", "skipped", 20);
    // They stay out after a restart, and never hold the slot.
    stop(running);
    let running = pair.begin();
    pair.at_source("update checked set n = n + 1 where id < 20; insert into fine values (6, 'f')");
    pair.pulse();
    pair.assert_alike_now(&["lacks", "checked", "taken", "gone"]);
    assert_ne!(pair.at_source(slot), before, "the slot is held");
    // Copied again they are alike.
    pair.at_target("alter table checked drop constraint checked_n_check");
    pair.at_target("update pgdiode.relation set state = 'pending' where table_name = 'checked'");
    pair.wait_at_target(
        "select state = 'ready' from pgdiode.relation where table_name = 'checked'",
        "the copy",
    );
    pair.pulse();
    pair.assert_alike_now(&["lacks", "taken", "gone"]);
    stop(running);
}

/// The pipeline must not try again for ever what one column's type makes impossible.
#[test]
fn a_column_that_got_a_wider_type_at_the_target_stops_nobody() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table t (id int primary key, v int); insert into t select n, n from generate_series(1, 100) n;
         create table fine (id int primary key)",
    );
    pair.publish("t, fine");
    let running = pair.begin_and_copy();
    pair.at_target("alter table t alter v type bigint");
    pair.at_source("insert into t values (101, 101); insert into fine values (1)");
    pair.pulse();
    assert!(pair.quarantine_of("public.t").contains("insert of"));
    pair.assert_alike_now(&["public.t"]);
    stop(running);
    // Known before the stream begins, it is text that travels.
    let running = pair.begin();
    pair.pgdiode.run(&["resync", "public.t"]).success();
    pair.wait_at_target("select state = 'ready' from pgdiode.relation where table_name = 't'", "the copy");
    stop(running);
    pair.at_target("alter table t alter v type bigint");
    let running = pair.begin();
    pair.at_source("insert into t values (102, 102); update t set v = v + 1 where id < 50");
    pair.assert_alike();
    assert_eq!(pair.state_of("public.t"), "ready");
    stop(running);
}

#[test]
fn rows_that_a_trigger_keeps_out_are_counted_and_noted() {
    let pair = Pair::start(Ends::default());
    pair.at_source("create table t (id int primary key, v int)");
    pair.publish("t");
    let running = pair.begin_and_copy();
    pair.at_target(
        "create function keep_out() returns trigger language plpgsql as $$ begin return null; end $$;
         create trigger keep_out before insert on t for each row when (new.id % 50 = 0) execute function keep_out();
         alter table t enable always trigger keep_out",
    );
    pair.at_source("insert into t select n, n from generate_series(1, 100) n");
    pair.pulse();
    pair.wait_for_count("public.t", "skipped", 2);
    pair.wait_for_count("public.t", "inserts", 98);
    assert_eq!(pair.at_target("select kind, count(*) from pgdiode.note group by 1"), "row-kept-out|2");
    stop(running);
}
