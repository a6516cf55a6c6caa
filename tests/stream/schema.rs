//! The source's schema changes while its rows stream.

use std::fs;

use super::{Ends, Pair, stop};

#[test]
fn columns_that_come_and_go_are_followed() {
    let pair = Pair::start(Ends::default());
    let tables = [
        "constant",
        "constant_not_null",
        "plain",
        "volatile",
        "renamed",
        "dropped",
        "dropped_not_null",
        "in_one",
        "arrays",
        "via_default",
        "volatile_once",
    ];
    for table in tables {
        pair.at_source(&format!(
            "create table {table} (id int primary key, v text not null); insert into {table} select n, 'v' || n from generate_series(1, 100) n"
        ));
    }
    pair.publish(&tables.join(", "));
    let running = pair.begin_and_copy();
    pair.at_source("alter table constant add column c text default 'it''s', add column d timestamptz default '2024-01-01 00:00+00'");
    pair.at_source(
        "insert into constant (id, v) values (101, 'x'); update constant set c = 'new' where id = 1",
    );
    pair.at_source("alter table constant_not_null add column c int not null default 42; alter table constant_not_null alter c drop default");
    pair.at_source(
        "insert into constant_not_null values (101, 'x', 7); delete from constant_not_null where id = 2",
    );
    pair.at_source("alter table plain add column c numeric(10, 3); insert into plain values (101, 'x', 1.5); update plain set c = id where id < 10");
    pair.at_source("alter table arrays add column c int[] default '{1,NULL,3}', add column j jsonb default '{\"a\": \"b\"}'; insert into arrays values (101, 'x')");
    pair.at_source("alter table volatile add column c uuid default gen_random_uuid()");
    pair.at_source(
        "insert into volatile (id, v) values (101, 'x'); update volatile set v = 'y' where id = 3",
    );
    // What filled the older rows is gone from the catalog by the time that anybody asks.
    pair.at_source("begin; alter table volatile_once add column c uuid default gen_random_uuid() not null; alter table volatile_once alter c drop default; commit");
    pair.at_source("insert into volatile_once values (101, 'x', gen_random_uuid())");
    pair.at_source("alter table renamed rename column v to w; insert into renamed values (101, 'x'); update renamed set w = 'y' where id = 1");
    pair.at_source("alter table dropped add column gone int default 1");
    pair.at_source("insert into dropped values (101, 'x', 2)");
    pair.pulse();
    pair.at_source("alter table dropped drop column gone; insert into dropped values (102, 'y'); delete from dropped where id = 1");
    pair.at_source("alter table dropped_not_null drop column v; insert into dropped_not_null values (101); update dropped_not_null set id = -id where id = 1");
    // Shapes before and after in one transaction.
    pair.at_source(
        "begin; insert into in_one values (101, 'before'); alter table in_one add column c int default 5; insert into in_one values (102, 'after', 6);
         update in_one set c = 7 where id = 1; commit",
    );
    pair.at_source("alter table via_default alter column v set default 'changed', alter column v drop not null; insert into via_default (id) values (101), (102)");
    pair.assert_alike();
    assert_eq!(
        pair.at_target("select string_agg(table_name || ' ' || reason, E'\\n') from pgdiode.relation where state <> 'ready'"),
        ""
    );
    // Nothing of it is forgotten by a restart.
    stop(running);
    for table in tables.iter().filter(|table| !["dropped_not_null", "renamed"].contains(table)) {
        pair.at_source(&format!("update {table} set v = 'after the restart' where id % 2 = 0"));
    }
    pair.at_source("update renamed set w = 'again'");
    // The catalog is ahead of the stream by the time these arrive.
    for column in ["e", "f", "g"] {
        pair.at_source(&format!("alter table constant add column {column} int default 1; update constant set {column} = 2 where id = 7"));
    }
    let running = pair.begin();
    pair.assert_alike();
    stop(running);
}

/// What the stream does not say, the catalog or a fresh copy must: old rows that another shape has changed.
#[test]
fn rows_that_a_change_of_shape_rewrote_are_not_left_behind() {
    let pair = Pair::start(Ends::default());
    let tables = ["retyped", "same_name", "swapped", "widened", "passing", "fine"];
    for table in tables {
        pair.at_source(&format!(
            "create table {table} (id int primary key, v varchar(10), w varchar(10)); insert into {table} select n, n, -n from generate_series(1, 100) n"
        ));
    }
    pair.publish(&tables.join(", "));
    let running = pair.begin_and_copy();
    for table in tables {
        pair.at_source(&format!("update {table} set v = id where id = 1"));
    }
    pair.pulse();
    pair.at_source("alter table retyped alter column v type int using v::int * 2; update retyped set w = 'x' where id = 5");
    pair.at_source("alter table same_name drop column w; alter table same_name add column w varchar(10); update same_name set v = 'x' where id = 5");
    pair.at_source(
        "begin; alter table swapped rename column v to x; alter table swapped rename column w to v; alter table swapped rename column x to w; commit;
         update swapped set v = 'x' where id = 5",
    );
    pair.at_source("alter table widened alter column v type varchar(30); insert into widened values (500, 'longer than it was before')");
    // A shape that is gone again when its changes arrive.
    pair.at_source(
        "begin; alter table passing add column c int default 5; insert into passing values (102, 'after', 'x', 6); alter table passing rename column c to d;
         insert into passing values (103, 'renamed', 'x', 8); commit",
    );
    pair.at_source("insert into fine values (101, 'f', 'f')");
    pair.catch_up();
    // Alike or set aside with its reason: never silently different.
    for table in tables {
        let differences =
            pair.differences(&tables.into_iter().filter(|other| *other != table).collect::<Vec<_>>());
        let state = pair.state_of(&format!("public.{table}"));
        assert!(
            differences.is_empty() || state.starts_with("quarantined: "),
            "{table} is {state}: {differences:?}"
        );
    }
    for table in ["fine", "retyped", "same_name", "swapped", "widened"] {
        assert_eq!(pair.state_of(&format!("public.{table}")), "ready", "{table}");
    }
    stop(running);
}

#[test]
fn tables_that_come_and_go_are_copied_and_followed() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table first (id int primary key, v text); create table renamed (id int primary key, v text);
         insert into first select n, 'v' from generate_series(1, 100) n; insert into renamed select n, 'v' from generate_series(1, 100) n",
    );
    pair.publish("first, renamed");
    let running = pair.begin_and_copy();
    // Joins with rows, of a type and in a schema that the target does not have, under writes.
    pair.at_source(
        "create schema later; create type later.color as enum ('red'); create table later.colored (id int primary key, c later.color);
         create table later.second (id int primary key, v text); create index on later.second (v);
         insert into later.second select n, 'v' from generate_series(1, 20000) n",
    );
    let writer = pair.source.spawn_psql(
        "postgres",
        "do $$ begin for n in 30000 .. 32000 loop insert into later.second values (n, 'while copied'); commit;
           update later.second set v = 'u' where id = n - 10; commit; end loop; end $$",
    );
    pair.at_source("alter publication pgdiode_main add table later.second, later.colored");
    writer.wait().expect("the writer");
    pair.wait_at_target(
        "select exists (select from pgdiode.relation where table_name = 'second' and state = 'ready')",
        "the new table",
    );
    let reason = pair.quarantine_of("later.colored");
    assert!(reason.contains("later.color"), "{reason}");
    pair.catch_up();
    pair.assert_alike_now(&["colored"]);
    assert_eq!(pair.at_target("select count(*) from pg_indexes where tablename = 'second'"), "2");
    // With its type it can come.
    pair.at_target("create type later.color as enum ('red'); update pgdiode.relation set state = 'pending' where table_name = 'colored'");
    // Dropped and made again under its name: another table.
    pair.at_source(
        "drop table first; create table first (id int primary key, v text); alter publication pgdiode_main add table first;
         insert into first values (1, 'another'), (2, 'another')",
    );
    pair.wait_at_target("select count(*) = 2 from first", "the table made anew");
    pair.assert_alike();
    pair.at_source("insert into first values (3, 'and on')");
    pair.assert_alike();
    // Under another name it is another table too.
    pair.at_source(
        "alter table renamed rename to called_otherwise; insert into called_otherwise values (101, 'x')",
    );
    pair.wait_at_target("select to_regclass('public.called_otherwise') is not null", "the renamed table");
    pair.assert_alike();
    pair.at_source("update called_otherwise set v = 'followed'");
    pair.assert_alike();
    stop(running);
}

#[test]
fn sequences_are_carried_while_running_and_at_the_end() {
    let pair = Pair::start(Ends { stream: "sequences_seconds = 1", ..Ends::default() });
    pair.at_source(
        "create sequence \"Alone\" increment by -3 minvalue -1000 maxvalue 500 start 500; create sequence untouched start 17;
         create table t (id bigserial primary key, n int generated by default as identity);
         insert into t default values; select nextval('\"Alone\"'), nextval('\"Alone\"')",
    );
    pair.publish("t");
    let running = pair.begin_and_copy();
    let value = |name: &str| format!("select last_value, is_called from {name}");
    assert_eq!(pair.at_target(&value("\"Alone\"")), "497|t");
    assert_eq!(pair.at_target(&value("untouched")), "17|f");
    pair.at_source("insert into t select from generate_series(1, 10)");
    pair.wait_at_target("select last_value = 11 from t_id_seq", "a sequence's value while it runs");
    pair.at_source("select nextval('\"Alone\"'), nextval('untouched')");
    stop(running);
    for name in ["\"Alone\"", "untouched", "t_id_seq", "t_n_seq"] {
        assert_eq!(pair.at_target(&value(name)), pair.at_source(&value(name)), "{name}");
    }
}

#[test]
fn labels_that_an_enum_gains_are_followed() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create type mood as enum ('sad', 'happy'); create schema \"S\"; create type \"S\".\"It's\" as enum ('a', 'c');
         create type renamed as enum ('old'); create type defaulted as enum ('first'); create type later as enum ('one');
         create domain strict as mood check (value <> 'sad'); create type pair as (m mood, n int);
         create table plain (id int primary key, m mood); create table wide (m \"S\".\"It's\" primary key, n int);
         create table nested (id int primary key, many mood[], s strict, p pair);
         create table gains (id int primary key); create table refused (id int primary key, r renamed);
         create table copied (id int primary key, l later); create table fine (id int primary key);
         insert into plain values (1, 'sad'); insert into wide values ('a', 0); insert into gains values (1);
         insert into refused values (1, 'old'); insert into copied values (1, 'one')",
    );
    pair.publish("plain, wide, nested, gains, refused, copied, fine");
    let running = pair.begin_and_copy();
    // First, between and last; the same row again, and a transaction that uses what another has added.
    pair.at_source("alter type mood add value 'before' before 'sad'; alter type mood add value 'so so' after 'sad'; alter type mood add value 'last'");
    pair.at_source(
        "begin; insert into fine values (1); insert into plain values (2, 'so so'), (3, 'before'); update plain set m = 'last' where id = 1; commit",
    );
    pair.pulse();
    assert_eq!(pair.at_target("select enum_range(null::mood)"), "{before,sad,\"so so\",happy,last}");
    pair.at_source("alter type mood add value 'nested'");
    pair.at_source(
        "insert into nested values (1, '{nested}', 'last', '(nested,1)'), (2, null, 'nested', null)",
    );
    // Enough rows to be merged.
    for n in 1..=100 {
        pair.at_source(&format!("alter type \"S\".\"It's\" add value 'b\\\"'' {n}' before 'c'"));
    }
    pair.at_source(
        "insert into wide select m, 1 from unnest(enum_range(null::\"S\".\"It's\")) m where m <> 'a'",
    );
    pair.at_source("alter type defaulted add value 'second'");
    pair.at_source("alter table gains add column d defaulted default 'second'; insert into gains values (2)");
    pair.assert_alike();
    let order = "select enum_range(null::\"S\".\"It's\")";
    assert_eq!(pair.at_target(order), pair.at_source(order));

    // A copy needs them too.
    pair.at_source("alter type later add value 'two'");
    pair.at_source("alter table copied replica identity full");
    pair.at_target("update pgdiode.relation set state = 'pending' where table_name = 'copied'");
    pair.at_source("insert into copied values (2, 'two')");
    pair.assert_alike();
    assert_eq!(
        pair.at_target("select string_agg(table_name, ' ') from pgdiode.relation where state <> 'ready'"),
        ""
    );
    assert_eq!(pair.at_target("select * from pgdiode.note"), "");

    // One that was called otherwise is another matter: the older rows hold it under its old name.
    pair.at_source("alter type renamed rename value 'old' to 'new'; insert into refused values (2, 'new'); insert into fine values (2)");
    let reason = pair.quarantine_of("public.refused");
    assert!(reason.contains("has the label 'old' at the target and not at the source"), "{reason}");
    pair.pulse();
    pair.assert_alike_now(&["refused"]);
    stop(running);
}

#[test]
fn labels_are_not_followed_where_nothing_is() {
    let pair = Pair::start(Ends { stream: "schema_drift = \"quarantine\"", ..Ends::default() });
    pair.at_source("create type mood as enum ('sad'); create table t (id int primary key, m mood)");
    pair.publish("t");
    let running = pair.begin_and_copy();
    pair.at_source("alter type mood add value 'happy'");
    pair.at_source("insert into t values (1, 'happy')");
    let reason = pair.quarantine_of("public.t");
    assert!(
        reason.contains("invalid input value for enum") && reason.contains("says not to follow"),
        "{reason}"
    );
    assert_eq!(pair.at_target("select enum_range(null::mood)"), "{sad}");
    stop(running);
}

#[test]
fn tables_whose_changes_do_not_come_any_more_are_told_of() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table t (id int primary key, v int); insert into t select n, n from generate_series(1, 100) n;
         create table left_out (id int primary key); create table quiet (id int primary key); insert into quiet values (1)",
    );
    pair.publish("t, left_out, quiet");
    let running = pair.begin_and_copy();
    // Another table takes the name, which the publication does not follow; one is taken out; one is made anew, and
    // what it is filled with is in no stream.
    pair.at_source(
        "create table t_new (id int primary key, v int);
         begin; alter table t rename to t_old; alter table t_new rename to t; insert into t values (7, 7); commit",
    );
    pair.at_source("alter publication pgdiode_main drop table left_out");
    pair.at_source(
        "begin; drop table quiet; create table quiet (id int primary key); insert into quiet values (2), (3);
         alter publication pgdiode_main add table quiet; commit",
    );
    for (table, why) in [
        ("public.t", "at the source it is public.t_old now"),
        ("public.left_out", "the publication does not carry it any more"),
    ] {
        let reason = pair.quarantine_of(table);
        assert!(reason.contains(why), "{reason}");
    }
    pair.wait_at_target("select count(*) = 2 from quiet", "the table made anew");
    pair.wait_at_target("select to_regclass('public.t_old') is not null", "the renamed table");
    pair.assert_alike();
    stop(running);
}

/// A function that nobody here can run is no reason to try for ever.
#[test]
fn a_function_whose_library_is_missing_is_left_out() {
    let pair = Pair::start(Ends::default());
    let library = pair.source.place("lib.so", "");
    let original = pair.source.version().bin().with_file_name("lib").join("plpgsql.so");
    fs::copy(&original, &library).expect("a library can be copied");
    pair.at_source(&format!(
        "create table t (id int primary key, v int);
         create function f() returns language_handler language c as '{}', 'plpgsql_call_handler'",
        library.display()
    ));
    fs::remove_file(&library).expect("the library can be removed");
    pair.publish("t");
    let running = pair.begin_and_copy();
    pair.assert_alike();
    assert!(pair.at_target("select detail from pgdiode.note").contains("could not access file"));
    stop(running);
}

#[test]
fn columns_of_partitioned_tables_are_followed_in_every_partition() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table p (id int, r text, v text not null default 'v', gone text not null default 'g', primary key (id, r)) partition by list (r);
         create table p_a partition of p for values in ('a'); create table p_b partition of p for values in ('b');
         create table p_c partition of p for values in ('c') partition by range (id);
         create table p_c1 partition of p_c for values from (0) to (1000);
         insert into p select n, (array['a', 'b', 'c'])[1 + n % 3] from generate_series(1, 90) n",
    );
    pair.publish("p");
    let running = pair.begin_and_copy();
    for work in [
        "insert into p values (100, 'a', 'x')",
        "alter table p add column k int default 5; insert into p values (101, 'a', 'x', 'y', 6)",
        "insert into p values (101, 'b', 'x', 'y', 6), (101, 'c', 'x', 'y', 7)",
        "alter table p add column u uuid default gen_random_uuid(); insert into p (id, r) values (102, 'a'), (102, 'b'), (102, 'c')",
        "alter table p rename column v to w; update p set w = 'w' where id < 20",
        "alter table p drop column gone; insert into p (id, r) values (103, 'a'), (103, 'b'), (103, 'c')",
    ] {
        pair.at_source(work);
        pair.pulse();
        assert_eq!(
            pair.at_target("select table_name, reason from pgdiode.relation where state = 'quarantined'"),
            "",
            "{work}"
        );
        pair.assert_alike();
    }
    stop(running);
}
