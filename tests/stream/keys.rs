//! How rows are named: replica identities, keys that move, values that change hands, rows without a name.

use super::{Ends, Pair, stop};

const TABLES: &str = "
    create extension citext;
    create table by_key (id int primary key, v text);
    create table by_index (a int not null, b text not null, v text, id int primary key);
    create unique index by_index_key on by_index (b, a);
    alter table by_index replica identity using index by_index_key;
    create table in_full (id int primary key, u int unique, v text);
    alter table in_full replica identity full;
    create table with_nothing (id int primary key, v text);
    alter table with_nothing replica identity nothing;
    create table uniques (id int primary key, u int unique, w text unique);
    create table deferred (id int unique not null, p int, primary key (p) deferrable initially immediate);
    alter table deferred replica identity using index deferred_id_key;
    create table no_key (a int, b text, j json, f float8);
    alter table no_key replica identity full;
    create table folded (k citext primary key, v text);
    create table exact (k numeric primary key, v text);
    create table floats (k float8 primary key, v text);
    create table only_key (a int, b text, primary key (a, b));
    create table swaps (id int primary key, v text);
    insert into by_key select n, 'v' || n from generate_series(1, 200) n;
    insert into by_index select n, 'b' || n % 10, 'v', n from generate_series(1, 50) n;
    insert into in_full select n, n, 'v' from generate_series(1, 50) n;
    insert into uniques select n, n, 'w' || n from generate_series(1, 200) n;
    insert into deferred select n, n from generate_series(1, 100) n;
    insert into no_key select n % 3, 'same', '{\"a\":  1}', (array['NaN', '-0', '0', '0'])[1 + n % 4]::float8
      from generate_series(1, 24) n;
    insert into no_key values (null, null, null, null), (null, null, null, null);
    insert into folded values ('Abc', '1'), ('dEF', '2');
    insert into exact values (1.0, 'one'), (2.50, 'two'), ('NaN', 'nan');
    insert into floats values ('-0', 'zero'), ('NaN', 'nan'), ('Infinity', 'inf');
    insert into only_key select n, 'b' from generate_series(1, 100) n;
    insert into swaps select n, 'v' || n from generate_series(1, 150) n;";

const ALL: &str = "by_key, by_index, in_full, with_nothing, uniques, deferred, no_key, folded, exact, floats, only_key, swaps";

/// Each is a transaction; all of them run once one at a time and once in a single batch.
const WORK: &[&str] = &[
    "update by_key set v = 'new' where id = 1; delete from by_key where id = 2; insert into by_key values (201, 'x')",
    // A key that moves, moves on and comes back; a row that comes, moves and goes.
    "update by_key set id = 1000 where id = 3; update by_key set id = 1001, v = 'moved' where id = 1000;
     update by_key set id = 3 where id = 1001",
    "insert into by_key values (300, 'a'); update by_key set id = 301 where id = 300; delete from by_key where id = 301",
    "delete from by_key where id = 4; insert into by_key values (4, 'again'); update by_key set v = 'and again' where id = 4",
    // A swap of keys through a value in between, and one of many.
    "update swaps set id = -1 where id = 1; update swaps set id = 1 where id = 2; update swaps set id = 2 where id = -1",
    "update swaps set id = -id; update swaps set id = 151 + id",
    "update by_index set a = a + 1000 where b = 'b1'; update by_index set v = 'by index' where b = 'b2'",
    "update by_index set b = 'moved', v = null where a = 7; delete from by_index where a = 8",
    "update in_full set v = 'full' where id < 40; delete from in_full where id > 45; update in_full set id = id + 100 where id < 5",
    "insert into with_nothing select n, 'nothing' from generate_series(1, 100) n",
    // Unique values that change hands inside one transaction ...
    "update uniques set u = -1, w = null where id = 1; update uniques set u = 1, w = 'w1' where id = 2;
     update uniques set u = 2, w = 'w2' where id = 1",
    "update uniques set u = -u; update uniques set u = 201 + u",
    // ... and between transactions.
    "update uniques set u = 100000 where id = 10",
    "update uniques set u = 191 where id = 11",
    "update uniques set u = 190 where id = 12",
    "delete from uniques where id = 20; insert into uniques values (2000, 181, 'w20')",
    // A shift by one, which only a deferrable key allows.
    "update deferred set p = p + 1",
    "update deferred set p = p - 1; update deferred set p = 101 - p",
    // One of several identical rows, a row of nulls, values that equal others without being them.
    "delete from no_key where ctid = (select min(ctid) from no_key where a = 1)",
    "update no_key set b = 'one of many' where ctid = (select max(ctid) from no_key where a = 2)",
    "delete from no_key where ctid = (select ctid from no_key where a is null limit 1)",
    "update no_key set f = 0 where ctid = (select min(ctid) from no_key where f = 0 and f::text = '-0')",
    "update no_key set j = '{\"a\": 1}' where ctid = (select min(ctid) from no_key where f = 'NaN')",
    "insert into no_key select 9, 'many', null, n from generate_series(1, 80) n; update no_key set b = 'more' where a = 9",
    // Keys that change without becoming another.
    "update folded set k = 'ABC' where k = 'abc'; update folded set v = 'after' where k = 'abc'",
    "update folded set k = 'Def' where k = 'def'; delete from folded where k = 'DEF'; insert into folded values ('DEF', '3')",
    "update exact set k = 1.00 where k = 1; update exact set v = 'three zeros' where k = 1; update exact set k = 2.500 where k = 2.5",
    "update exact set v = 'not a number' where k = 'NaN'; delete from exact where k = 1.000; insert into exact values (1, 'integer')",
    "update floats set k = 0 where k = 0; update floats set v = 'n' where k = 'NaN'; delete from floats where k = 'Infinity'",
    "update only_key set b = 'c' where a = 5; delete from only_key where a = 6; insert into only_key values (6, 'd')",
    "update only_key set a = a + 1000; update only_key set a = a - 1000 where a > 1050",
    // Enough of one kind to be merged: updates, deletes and inserts of one table, some rows several times.
    "update by_key set v = 'wide'; update by_key set v = 'twice' where id % 2 = 0; delete from by_key where id % 5 = 0;
     insert into by_key select n, 'back' from generate_series(5, 100, 5) n; update by_key set v = null where id % 10 = 0",
];

#[test]
fn rows_are_found_by_whatever_names_them() {
    let pair = Pair::start(Ends::default());
    pair.at_source(TABLES);
    pair.publish(ALL);
    let running = pair.begin_and_copy();
    for sql in WORK {
        pair.at_source(&format!("begin; {sql}; commit"));
        pair.pulse();
        let differences = pair.differences(&[]);
        assert!(differences.is_empty(), "after: {sql}\n{}", differences.join("\n"));
    }
    assert_eq!(pair.at_target("select * from pgdiode.note"), "", "conflicts on an untouched target");
    stop(running);
}

/// The same while the target is away: all transactions come in one batch.
#[test]
fn rows_are_found_in_one_wide_batch() {
    let pair = Pair::start(Ends { stream: "batch_ms_max = 5000", ..Ends::default() });
    pair.at_source(TABLES);
    pair.publish(ALL);
    let mut running = pair.begin_and_copy();
    running.kill9();
    for sql in WORK {
        pair.at_source(&format!("begin; {sql}; commit"));
    }
    running = pair.begin();
    pair.assert_alike();
    assert_eq!(pair.at_target("select * from pgdiode.note"), "", "conflicts on an untouched target");
    stop(running);
}

/// What names the rows may change between two changes, in one transaction, or while nobody looks.
#[test]
fn replica_identities_that_change_are_followed() {
    let pair = Pair::start(Ends { stream: "batch_ms_max = 1000", ..Ends::default() });
    let tables =
        ["to_full", "to_index", "to_other", "to_nothing", "to_default", "in_one", "late_index", "toasted"];
    for table in tables {
        pair.at_source(&format!(
            "create table {table} (id int primary key, a int not null, b text not null, v text);
             create unique index {table}_a on {table} (a); create unique index {table}_b on {table} (b, a);
             insert into {table} select n, -n, 'b' || n % 3, 'v' from generate_series(1, 200) n"
        ));
    }
    pair.at_source("alter table toasted alter v set storage external");
    pair.publish(&tables.join(", "));
    let mut running = pair.begin_and_copy();
    let work = |table: &str, step: i32| {
        format!(
            "update {table} set v = 'step {step}' where id % 7 = {step}; delete from {table} where id = 10 + {step};
             update {table} set id = id + 1000, a = a - 1000 where id = 20 + {step};
             update {table} set b = 'moved {step}' where id = 30 + {step};
             update {table} set v = 'wide {step}' where id % 2 = 0;
             insert into {table} values (500 + {step}, 500 + {step}, 'new', null)"
        )
    };
    let identity = |table: &str, identity: &str| format!("alter table {table} replica identity {identity}");
    for phase in [0, 1] {
        let step = phase * 3;
        let at = |table: &str, change: &str, step: i32| {
            pair.at_source(&format!("{}; {}", identity(table, change), work(table, step)));
        };
        for table in tables.iter().filter(|table| **table != "to_nothing") {
            pair.at_source(&work(table, step));
        }
        at("to_full", "full", step + 1);
        at("to_full", "default", step + 2);
        at("to_index", "using index to_index_a", step + 1);
        at("to_other", "using index to_other_a", step + 1);
        at("to_other", "using index to_other_b", step + 2);
        at("to_default", "using index to_default_b", step + 1);
        at("to_default", "default", step + 2);
        // One that takes inserts alone needs no name; and gets one again.
        pair.at_source(&identity("to_nothing", "full"));
        pair.at_source(&work("to_nothing", step));
        pair.at_source(&identity("to_nothing", "nothing"));
        pair.at_source(&format!(
            "insert into to_nothing select n + {step} * 1000, n + {step} * 1000, 'x', 'y' from generate_series(3000, 3100) n"
        ));
        pair.at_source(&identity("to_nothing", "default"));
        pair.at_source(&work("to_nothing", step + 1));
        // All in one transaction.
        pair.at_source(&format!(
            "begin; {}; {}; {}; {}; {}; commit",
            work("in_one", step + 1),
            identity("in_one", "full"),
            work("in_one", step + 2),
            identity("in_one", "using index in_one_b"),
            "update in_one set v = 'last' where id > 100; delete from in_one where id between 150 and 160"
        ));
        // An index that the target does not have.
        pair.at_source(&format!("create unique index late_{phase} on late_index (a, id)"));
        at("late_index", &format!("using index late_{phase}"), step + 1);
        // Out-of-line values that are a part of the name, or are not.
        pair.at_source("update toasted set v = repeat('long', 2000) where id in (50, 51)");
        pair.at_source(
            "alter table toasted replica identity full; update toasted set b = 'full' where id = 50; delete from toasted where id = 51",
        );
        pair.at_source(
            "alter table toasted replica identity default; update toasted set b = 'key' where id = 50",
        );
        // A second time: in one batch, after a crash.
        if phase == 0 {
            pair.assert_alike();
            running.kill9();
        }
    }
    running = pair.begin();
    pair.assert_alike();
    assert_eq!(pair.at_target("select * from pgdiode.note"), "", "conflicts on an untouched target");
    assert_eq!(
        pair.at_target("select string_agg(r::text, ' ') from pgdiode.relation r where state <> 'ready'"),
        ""
    );
    stop(running);
}

/// Keys that are equal and not identical, by a collation, by padding, by digits after the point.
#[test]
fn keys_that_are_equal_and_not_identical_keep_apart() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create table a (k text collate ci primary key, v text); create table b (k char(6) primary key, v text);
         create table c (k text collate ci, l numeric, v text, primary key (k, l));
         insert into a select 'Key' || n, 'v' from generate_series(1, 100) n;
         insert into b select 'k' || n, 'v' from generate_series(1, 100) n;
         insert into c select 'Key' || n, n::numeric(10, 2), 'v' from generate_series(1, 100) n",
    );
    pair.publish("a, b, c");
    let running = pair.begin_and_copy();
    pair.at_source(
        "update a set k = 'KEY1', v = 'x' where k = 'key1'; delete from a where k = 'key2'; insert into a values ('kEY2', 'again');
         update b set k = 'k1 ', v = 'y' where k = 'k1'; update c set k = upper(k), l = l::numeric(10, 1)",
    );
    pair.assert_alike();
    // Wide enough to be merged.
    pair.at_source(
        "begin; update a set k = upper(k); update a set k = lower(k), v = 'w'; delete from a where k = 'KEY7';
         insert into a values ('kEy7', '7'); update a set v = 'seven' where k = 'KEY7'; update b set v = v || '!';
         update b set k = rtrim(k) || 'x'; delete from b where k = 'k9x'; update c set l = l::numeric(10, 3), k = lower(k);
         update c set v = 'z' where l < 50; commit",
    );
    pair.assert_alike();
    assert_eq!(pair.at_target("select * from pgdiode.note"), "");
    stop(running);
}

/// Rows that only their whole image names, of every type: copied in one format, streamed in another.
#[test]
fn images_of_every_type_are_found() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create extension hstore; create extension citext; create type mood as enum ('sad', 'ok');
         create type pt as (x float8, y numeric, l text); alter type pt drop attribute x; create domain d as numeric(10, 3)[];
         create type fr as range (subtype = float8);
         create table t (n numeric, ns numeric[], tv tsvector, tq tsquery, j json, jb jsonb, pa path, po polygon, b bit(5), vb varbit,
           p pt, ps pt[], r int4range, mr int4multirange, h hstore, ci citext, x xml, ch char(5), c \"char\", nm name, i interval,
           tz timetz, mac macaddr, ip inet, cd cidr, mo money, ar int[], m mood, dm d, fr fr, f float8, f4 float4, by bytea, o oid,
           rc regclass, u uuid, ls pg_lsn, bx box, cc circle, td tid);
         alter table t replica identity full;
         insert into t select 1.500 + k, array[k, null, 2.50]::numeric[], to_tsvector('english', 'a fat cat ' || k), 'a & b'::tsquery,
           '{\"a\":  1}', jsonb_build_object('a', 1.0, 'b', array[k]), '[(0,0),(1,1)]', '((0,0),(1,1),(2,0))', B'10101',
           B'101' || B'0', row(1.0, 'l')::pt, array[row(k, 'm')::pt, null], int4range(1, k + 5),
           int4multirange(int4range(1, 2), int4range(5, 9)), hstore('a', k::text), 'MiX', '<a/>', 'ab', 'z', 'nme',
           make_interval(0, 1, 0, -2, 3), '12:00:00+05', '08:00:2b:01:02:03', '::1/64', '10.0.0.0/8', 12.50::money,
           (array_append(array_remove(array[1, null, k], null), k))[1:2], 'ok', array[1.5, k]::d, fr(1.5, 2.5 + k), '-0'::float8,
           'NaN', '\\x00ff', 4294967295, 'pg_class', gen_random_uuid(), '1/2', '((0,0),(1,1))', '<(0,0),1>', '(1,2)'
           from generate_series(1, 60) k",
    );
    pair.publish("t");
    let running = pair.begin_and_copy();
    pair.assert_alike();
    pair.at_source("update t set nm = 'x' where n < 10");
    pair.at_source("insert into t select * from t where n > 50; delete from t where n < 20");
    pair.at_source("update t set n = n + 1");
    pair.assert_alike();
    assert_eq!(pair.at_target("select * from pgdiode.note where kind <> 'schema-left-out'"), "");
    stop(running);
}

/// What names a row may change at any time; each change says for itself what names it.
#[test]
fn a_replica_identity_that_changes_is_followed() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table t (id int primary key, u int not null, v text); create unique index t_u on t (u);
         insert into t select n, n + 1000, 'v' from generate_series(1, 200) n",
    );
    pair.publish("t");
    let running = pair.begin_and_copy();
    for work in [
        "update t set v = 'by key' where id < 10; update t set id = -id where id = 10",
        "alter table t replica identity full; update t set v = 'in full' where id between 5 and 90; delete from t where id = 11",
        "alter table t replica identity using index t_u; update t set u = u + 5000 where id < 100; delete from t where id = 12",
        "begin; update t set v = 'before' where id > 150; alter table t replica identity full; update t set id = id + 1000 where id > 160;
         alter table t replica identity default; delete from t where id > 1190; commit",
        "alter table t drop constraint t_pkey, replica identity using index t_u; update t set v = 'by index', u = u + 10000",
        "drop index t_u; alter table t replica identity full; update t set v = 'in full' where u % 2 = 0; delete from t where u % 5 = 3",
    ] {
        pair.at_source(work);
        pair.assert_alike();
        assert_eq!(pair.state_of("public.t"), "ready", "{work}");
    }
    assert_eq!(pair.at_target("select * from pgdiode.note"), "");
    stop(running);
}
