//! The shapes of tables: large values, generated and identity columns, partitions, inheritance, truncation, names, types.

use super::{Ends, Pair, stop};

/// Runs each statement list as a transaction and compares everything after each.
fn compare_after_each(pair: &Pair, work: &[&str]) {
    for sql in work {
        pair.at_source(&format!("begin; {sql}; commit"));
        pair.pulse();
        let differences = pair.differences(&[]);
        assert!(differences.is_empty(), "after: {sql}\n{}", differences.join("\n"));
    }
    assert_eq!(pair.at_target("select * from pgdiode.note"), "", "conflicts on an untouched target");
}

const NOISE: &str = "
    create function noise(seed int) returns text language sql immutable as
      $$ select string_agg(md5((seed * 1000 + n)::text), '') from generate_series(1, 300) n $$;";

#[test]
fn values_out_of_line_that_an_update_leaves_alone_stay() {
    let pair = Pair::start(Ends::default());
    pair.at_source(NOISE);
    pair.at_source(
        "create table large (id int primary key, note text, a text, b text, c text);
         create table large_full (id int primary key, note text, a text); alter table large_full replica identity full;
         create table large_no_key (note text, a text); alter table large_no_key replica identity full;
         create table large_key (k text primary key, note text, a text); alter table large_key alter k set storage external;
         create table large_only (k text primary key, a text); alter table large_only alter k set storage external, alter a set storage external;
         insert into large_only select left(noise(n), 2200), noise(n) from generate_series(1, 5) n;
         insert into large select n, 'n', noise(n), noise(-n), noise(n + 500) from generate_series(1, 90) n;
         insert into large_full select n, 'n', noise(n) from generate_series(1, 90) n;
         insert into large_no_key select n, noise(n) from generate_series(1, 90) n;
         insert into large_key select left(noise(n), 2200), 'n', noise(n) from generate_series(1, 5) n;",
    );
    pair.publish("large, large_full, large_no_key, large_key, large_only");
    let running = pair.begin_and_copy();
    compare_after_each(
        &pair,
        &[
            "update large set note = 'touched' where id = 1; update large_full set note = 'touched' where id = 1",
            // Other columns left alone in each row.
            "update large set a = 'new' where id = 2; update large set b = 'new' where id = 2; update large set c = null where id = 2",
            "update large set note = 'moved', id = -id where id = 3; update large_full set id = -id where id = 3",
            "update large set id = id + 1000 where id < 90; update large_full set id = id + 1000",
            // Many masks at once, wide enough to be merged.
            "update large set note = 'all'; update large set a = noise(id) where id % 3 = 0; update large set b = 'short' where id % 5 = 0;
             update large set c = noise(-id) where id % 7 = 0; delete from large where id % 11 = 0",
            "update large_full set note = 'all'; update large_full set a = 'short' where id % 2 = 0; update large_full set note = 'again'",
            "update large_no_key set note = 'one' where note = '1'; update large_no_key set note = note || '.'; delete from large_no_key where note like '2%'",
            // Nothing in the row is sent but what names it, and in the keyless one nothing is set at all.
            "alter table large_key alter a set storage external; update large_key set k = k, note = null; update large_key set a = a; update large_no_key set note = note",
            "update large_only set a = a",
            "update large_key set note = 'same key'; update large_key set k = k || 'x' where note is not null; update large_key set a = null",
            "insert into large values (5000, 'new', noise(1), noise(2), noise(3)); update large set note = 'newer' where id = 5000;
             update large set id = 5001 where id = 5000; update large set note = 'newest' where id = 5001",
        ],
    );
    stop(running);
}

#[test]
fn columns_that_the_target_makes_itself_come_out_the_same() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table made (id int generated always as identity primary key, a int, twice int generated always as (a * 2) stored, v text);
         create table made_beside (id int primary key, n int generated always as identity, v text);
         create table made_no_key (n int generated always as identity, v text, up text generated always as (upper(v)) stored);
         alter table made_no_key replica identity full;
         create table made_only (id int generated always as identity primary key);
         insert into made (a, v) select n, 'v' from generate_series(1, 100) n;
         insert into made_beside (id, v) select n, 'v' from generate_series(1, 100) n;
         insert into made_no_key (v) select 'v' || n % 4 from generate_series(1, 100) n;
         insert into made_only select from generate_series(1, 10)",
    );
    pair.publish("made, made_beside, made_no_key, made_only");
    let running = pair.begin_and_copy();
    compare_after_each(
        &pair,
        &[
            "update made set a = 7 where id = 1; update made set id = default where id = 2; insert into made (a) values (1)",
            "update made set a = a + 1; delete from made where a % 10 = 0; update made set v = null where a % 7 = 0",
            "update made set id = default, v = 'renumbered' where id < 80",
            "update made_beside set v = 'new' where id = 1; update made_beside set n = default where id < 5; update made_beside set id = -id where id = 9",
            "update made_beside set v = 'all'; insert into made_beside (id, v) select n, 'new' from generate_series(1000, 1100) n",
            "update made_no_key set v = 'x' where v = 'v1'; delete from made_no_key where v = 'v2'",
            "insert into made_only default values; update made_only set id = default where id = 1; delete from made_only where id = 3",
        ],
    );
    stop(running);
}

const PARTITIONED: &str = "
    create table parts (id int, region text, v text, primary key (id, region)) partition by list (region);
    create table parts_eu partition of parts for values in ('eu');
    create table parts_us (v text, gone int, region text not null, id int not null);
    alter table parts_us drop gone;
    alter table parts attach partition parts_us for values in ('us');
    create table parts_rest partition of parts default partition by range (id);
    create table parts_rest_low partition of parts_rest for values from (minvalue) to (1000);
    create table parts_rest_high partition of parts_rest for values from (1000) to (maxvalue);
    create table parent (id int primary key, v text);
    create table child (w text, primary key (id)) inherits (parent);
    insert into parts select n, (array['eu', 'us', 'asia'])[1 + n % 3], 'v' || n from generate_series(1, 120) n;
    insert into parent values (1, 'parent'), (2, 'parent');
    insert into child values (1, 'child', 'w'), (3, 'child', 'w')";

const ON_PARTITIONS: &[&str] = &[
    "update parts set v = 'new' where id = 1; delete from parts where id = 2; insert into parts values (500, 'us', 'new')",
    "update parts set region = 'us' where region = 'eu' and id < 50; update parts set region = 'mars' where id = 60",
    "update parts set id = id + 2000 where region = 'asia' and id % 2 = 0",
    "update parts set v = v || '.'; delete from parts where id % 9 = 0",
    "truncate parts_us; insert into parts values (1, 'us', 'after')",
    "truncate parts; insert into parts select n, 'eu', 'refilled' from generate_series(1, 100) n",
    "update only parent set v = 'only'; update parent set v = v || '!' where id = 1; delete from only parent where id = 2",
    "truncate only parent; insert into parent values (9, 'after')",
    "truncate parent; insert into child values (7, 'child', 'again')",
];

#[test]
fn partitions_and_children_keep_their_own_rows() {
    let pair = Pair::start(Ends::default());
    pair.at_source(PARTITIONED);
    pair.publish("parts, parent");
    let running = pair.begin_and_copy();
    compare_after_each(&pair, ON_PARTITIONS);
    pair.at_source("create table parts_mars partition of parts for values in ('mars')");
    pair.at_source("insert into parts values (1, 'mars', 'in a new partition')");
    pair.wait_at_target(
        "select exists (select from pgdiode.relation where table_name = 'parts_mars')",
        "the new partition",
    );
    pair.assert_alike();
    pair.at_source("update parts set region = 'mars' where id = 3");
    pair.assert_alike();
    stop(running);
}

#[test]
fn partitions_arrive_through_their_root() {
    let pair = Pair::start(Ends::default());
    pair.at_source(PARTITIONED);
    pair.publish_with("parts", "with (publish_via_partition_root = true)");
    let running = pair.begin_and_copy();
    let on_parts: Vec<&str> = ON_PARTITIONS
        .iter()
        .copied()
        .filter(|sql| !sql.contains("parent") && !sql.contains("truncate parts_us"))
        .collect();
    compare_after_each(&pair, &on_parts);
    stop(running);
}

#[test]
fn truncation_empties_what_the_source_emptied_and_nothing_else() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table a (id serial primary key, v text); create table b (id int primary key, a int references a);
         create table c (id int primary key, b int references b); create table d (id int primary key);
         insert into a (v) select 'v' from generate_series(1, 100); insert into b select n, n from generate_series(1, 50) n;
         insert into c select n, n from generate_series(1, 20) n; insert into d select generate_series(1, 5)",
    );
    pair.publish("a, b, c, d");
    let running = pair.begin_and_copy();
    compare_after_each(
        &pair,
        &[
            "truncate d",
            "insert into d values (1); truncate d; insert into d values (2), (3)",
            "insert into d values (4); delete from d where id = 2; truncate d, c; insert into d values (2); insert into c values (1, 1)",
            "truncate a cascade; insert into a values (1, 'after'); insert into b values (1, 1)",
            "insert into a values (7, 'seven'); truncate a, b, c restart identity; insert into a (v) values ('one'), ('two')",
            "truncate d; truncate d; insert into d select generate_series(1, 200); savepoint s; truncate d; rollback to s",
        ],
    );
    assert_eq!(pair.at_target("select count(*) from d"), "200");
    stop(running);
    // Sequences are carried when a run ends.
    assert_eq!(
        pair.at_target("select last_value from a_id_seq"),
        pair.at_source("select last_value from a_id_seq")
    );
}

#[test]
fn names_and_types_survive_the_stream() {
    let pair = Pair::start(Ends::default());
    let long = format!("{}é", "n".repeat(61));
    pair.at_source(&format!(
        "create extension hstore; create extension citext; create schema other; create schema \"Sché.ma \"\"x\"\"\";
         create table other.t (id int primary key, v text); create table public.t (id int primary key, v text);
         create table public.\"T\" (id int primary key, \"Id\" text, \"ID\" text);
         create table \"Sché.ma \"\"x\"\"\".\"{long}\" (\"{long}\" int primary key, \"a.b\" text, \"select\" text, \"$1\" text, \"q\"\"q\" text, \"\\\" text);
         create type mood as enum ('sad', 'ok'); create type point3 as (x float8, y numeric, label text);
         create domain positive as int check (value > 0); create domain positives as positive[];
         create table typed (id int primary key, m mood, ms mood[], p point3, ps point3[], d positive, ds positives, h hstore,
           r int4range, rs int4multirange, c citext, n numeric, f float8, t timestamptz, i interval, j json, jb jsonb, b bytea,
           bits varbit, ch char(5), vc varchar(3), x xml, ip inet, arr int[], tsv tsvector, o oid, rc regclass, mon money);
         insert into typed (id) select generate_series(1, 80)"
    ));
    pair.publish(&format!("other.t, public.t, public.\"T\", \"Sché.ma \"\"x\"\"\".\"{long}\", typed"));
    let running = pair.begin_and_copy();
    let odd = format!("\"Sché.ma \"\"x\"\"\".\"{long}\"");
    let typed = "m = 'ok', ms = '{sad,ok,NULL}', p = row('-0', 'NaN', 'a \"b\", (c)'), ps = array[row(1, 2.50, null)::point3, null],
        d = 5, ds = '{1,2}', h = 'a=>1, \"b c\"=>NULL', r = '[1,5)', rs = '{[1,2),[5,9)}', c = 'MiXed', n = 1.500, f = 'NaN',
        t = 'infinity', i = '1 mon -2 days 03:04:05.678', j = '{\"a\":  \"\\u0000\", \"a\": 2}', jb = '{\"a\": [1.0, 1.00]}', b = '\\x00ff',
        bits = B'101', ch = 'ab', vc = 'ä', x = '<a>b</a>', ip = '::1/64', arr = '[5:6]={1,NULL}', tsv = 'a:1A b', o = 4294967295,
        rc = 'typed', mon = '1234.56'";
    compare_after_each(
        &pair,
        &[
            "insert into other.t values (1, 'other'); insert into public.t values (1, 'public'); insert into \"T\" values (1, 'Id', 'ID')",
            "update other.t set v = null; delete from public.t; update \"T\" set \"Id\" = \"ID\", \"ID\" = 'x'",
            &format!(
                "insert into {odd} select n, 'a.b', 'select', '$1', 'q', E'\\\\' from generate_series(1, 70) n"
            ),
            &format!(
                "update {odd} set \"a.b\" = E'tab\\t\\\\N\\n', \"$1\" = ''; delete from {odd} where \"q\"\"q\" = 'q' and \"a.b\" = 'no'"
            ),
            &format!("update typed set {typed} where id = 1"),
            &format!(
                "update typed set {typed}; insert into typed select (t2).* from (select typed as t2 from typed limit 0) x"
            ),
            "update typed set n = 'Infinity', f = '-0', t = '4713-01-01 00:00:00+00 BC', c = 'mixed', j = 'null', vc = '', arr = '{}' where id % 2 = 0",
            "delete from typed where id > 50; insert into typed (id, n) values (1000, 1e300::numeric), (1001, 0.00000)",
        ],
    );
    // A value that the enumeration learns later is not in the stream.
    pair.at_source("alter type mood add value 'happy'");
    pair.at_source("update typed set m = 'happy' where id = 2");
    pair.at_source("insert into public.t values (3, 'goes on')");
    pair.assert_alike();
    assert_eq!(pair.state_of("public.typed"), "ready");
    stop(running);
}

/// A row that an update takes across a filter comes or goes; of several columns only those of the list are sent.
#[test]
fn filtered_rows_and_columns_arrive_as_far_as_they_are_published() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table t (id int primary key, n int, v text, w text); alter table t replica identity full;
         create table l (id int primary key, v text, w text)",
    );
    pair.at_source("create publication pgdiode_main for table public.pulse, t where (n > 10), l (id, v)");
    let running = pair.begin_and_copy();
    for work in [
        "insert into t select n, n, 'v', 'w' from generate_series(1, 100) n; insert into l select n, 'v', 'w' from generate_series(1, 100) n",
        "update t set n = n - 5 where id < 20; update l set v = 'x', w = 'y' where id < 20",
        "update t set n = 200 where id < 5; update t set v = 'z', id = id + 1000 where id > 50; update l set w = 'z'; update l set id = -id where id > 90",
        "delete from t where id % 7 = 0; delete from l where id % 7 = 0",
        "truncate t; insert into t values (1, 1, 'in', 'no'), (2, 20, 'yes', 'yes')",
    ] {
        pair.at_source(work);
        pair.catch_up();
        for (here, there) in [
            ("select t::text from t where n > 10 order by 1", "select t::text from t order by 1"),
            ("select id, v from l order by 1", "select id, v from l order by 1"),
        ] {
            assert_eq!(pair.at_source(here), pair.at_target(there), "{work}");
        }
    }
    assert_eq!(pair.at_target("select * from pgdiode.note"), "");
    pair.pgdiode.run(&["verify"]).success();
    stop(running);
}
