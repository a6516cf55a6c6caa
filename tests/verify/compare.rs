//! The comparison under given snapshots.

use std::fs;

use pgdiode::change::TableName;
use pgdiode::status::DifferenceKind::{self, Different, Extra, Missing};
use pgdiode::verify::TableToVerify;

use super::{Sides, differences, whole};
use crate::harness::{Cluster, Version, load_fixtures};

/// Every table of the fixtures, partitions and their roots included.
fn fixture_tables(cluster: &Cluster) -> Vec<TableToVerify> {
    let names = cluster.psql(
        "postgres",
        "select n.nspname || e'\\x1f' || replace(c.relname, e'\\n', e'\\x1e')
           from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'",
    );
    let tables: Vec<_> = names
        .lines()
        .map(|line| {
            let (schema, name) = line.split_once('\x1f').expect("a qualified name");
            TableToVerify::new(TableName::new(schema, name.replace('\x1e', "\n")))
        })
        .collect();
    assert!(tables.len() > 50, "{} tables", tables.len());
    tables
}

/// The fixtures on the source, and a dump of them on the target: the same values, whatever is chance in them.
fn load_both(sides: &Sides) {
    load_fixtures(&sides.source, "postgres");
    let dump = sides
        .target
        .tools()
        .command("pg_dump")
        .args(["--no-owner", "--no-privileges", &sides.source.conninfo("postgres")])
        .output()
        .expect("pg_dump runs");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let dump = String::from_utf8(dump.stdout).expect("a dump is UTF-8");
    sides.target(&format!("create role fixture_reader; create role \"Fixture Owner\";\n{dump}"));
}

fn fixtures_are_identical(sides: &Sides) {
    let tables = fixture_tables(&sides.source);
    let report = sides.compare(&tables);
    let different: Vec<_> = report.tables.iter().filter(|table| !table.identical).collect();
    assert!(report.identical && different.is_empty(), "{different:#?}");
    assert_eq!(report.tables.len(), tables.len());
    assert!(report.tables.iter().map(|table| table.rows_source).sum::<u64>() > 500);
    let mut digests: Vec<&str> = report
        .tables
        .iter()
        .filter(|table| table.rows_source > 1)
        .map(|table| table.digest_source.as_str())
        .collect();
    let count = digests.len();
    digests.sort_unstable();
    digests.dedup();
    // Tables of equal rows there are: a partitioned table and its only filled partition.
    assert!(digests.len() * 10 > count * 8, "{} digests of {count} tables", digests.len());
}

/// A change at the target, the table it is in, and what must be found there.
type Case = (&'static str, &'static str, &'static [(&'static str, DifferenceKind)]);

const CASES: &[Case] = &[
    ("update odd.numbers set big = big - 1 where id = 3", "odd.numbers", &[("id=3", Different)]),
    (
        "update odd.numbers set twice = 0 where id = 5",
        "odd.numbers",
        &[("id=3", Different), ("id=5", Different)],
    ),
    ("delete from odd.bits where id = 2", "odd.bits", &[("id=2", Missing)]),
    ("insert into odd.ranges (id) values (77)", "odd.ranges", &[("id=77", Extra)]),
    ("update odd.texts set body = body || ' ' where id = 1", "odd.texts", &[("id=1", Different)]),
    ("update odd.documents set doc = '{\"a\":1}' where id = 1", "odd.documents", &[("id=1", Different)]),
    ("update odd.composed set label = '' where id = 1", "odd.composed", &[("id=1", Different)]),
    ("update odd.places set host = null where id = 2", "odd.places", &[("id=2", Different)]),
    ("update odd.arrays set words[1] = 'NULL' where id = 3", "odd.arrays", &[]),
    ("update odd.arrays set words[2] = 'NULL' where id = 3", "odd.arrays", &[("id=3", Different)]),
    ("update odd.holes set kept = '' where id = 1", "odd.holes", &[("id=1", Different)]),
    (
        "update odd.large set body = overlay(body placing '!' from 2999999) where id = 7",
        "odd.large",
        &[("id=7", Different)],
    ),
    (
        "update odd.key_exact set k = 1.00 where k = 1",
        "odd.key_exact",
        &[("k=1.0", Missing), ("k=1.00", Extra)],
    ),
    (
        "update odd.key_folded set k = 'abC' where k = 'abc'",
        "odd.key_folded",
        &[("k=Abc", Missing), ("k=abC", Extra)],
    ),
    (
        "update odd.key_collated set plain = 'Ä' where k = 'straße'",
        "odd.key_collated",
        &[("k=Straße", Different)],
    ),
    (
        "delete from odd.wide_key where a = ''",
        "odd.wide_key",
        &[("d=1, b=00000000-0000-0000-0000-000000000000, a=, c=infinity", Missing)],
    ),
    (
        "update odd.identity_by_index set d = null where a = 2",
        "odd.identity_by_index",
        &[("b=x, a=2", Different)],
    ),
    (
        "delete from odd.keyless where ctid in (select ctid from odd.keyless where a = 1 and c::text like '% %' limit 1)",
        "odd.keyless",
        &[("(1,same,\"{\"\"x\"\": 1}\")", Missing)],
    ),
    ("insert into odd.no_columns default values", "odd.no_columns", &[("()", Extra)]),
    (
        "update odd.by_range set v = 'other' where id = 7",
        "odd.by_range",
        &[("id=7, at=2022-09-07, region=asia", Different)],
    ),
    ("select 1", "odd.by_range_2022", &[("id=7, at=2022-09-07, region=asia", Different)]),
    ("update only odd.child set common = 'other' where id = 1", "odd.parent", &[]),
    ("select 1", "odd.child", &[("id=1", Different)]),
    (
        "update odd.with_identity set a = a + 1, b = b - 1 where id = 5000",
        "odd.with_identity",
        &[("id=5000", Different)],
    ),
];

#[test]
fn the_fixtures_are_the_same_until_one_value_changes() {
    let sides = Sides::start(Version::V15, Version::V15);
    load_both(&sides);
    fixtures_are_identical(&sides);
    // What an application's triggers do is not what this is about.
    let without_triggers = "set session_replication_role = replica;";
    for (sql, table, expected) in CASES {
        sides.target(&format!("{without_triggers} {sql}"));
        let found = sides.compare_one(table);
        assert_eq!(differences(&found), *expected, "{sql}");
        assert_eq!(found.differences_total, expected.len() as u64, "{sql}: {found:#?}");
        assert_eq!(found.identical, expected.is_empty(), "{sql}");
        assert_eq!(found.note, None, "{sql}");
        assert_eq!(found.digest_source == found.digest_target, expected.is_empty(), "{sql}");
    }
}

#[test]
fn rows_without_a_key_are_counted() {
    let sides = Sides::start(Version::V15, Version::V15);
    sides.both("create table t (a int, b text); insert into t values (1, 'x'), (1, 'x'), (2, null), (2, ''), (3, 'z')");
    assert!(sides.compare_one("public.t").identical);
    sides.target("insert into t values (1, 'x'), (1, 'x')");
    sides.source("insert into t values (3, 'z')");
    let found = sides.compare_one("public.t");
    assert_eq!(differences(&found), [("(1,x) (2 times)", Extra), ("(3,z)", Missing)]);
    assert_eq!((found.rows_source, found.rows_target, found.differences_total), (6, 7, 3));
    // As many rows, as many different ones: only the counts of each tell.
    sides.target("delete from t where ctid in (select ctid from t where a = 1 limit 1)");
    sides.target("update t set b = '' where b is null");
    let found = sides.compare_one("public.t");
    assert_eq!(
        differences(&found),
        [("(1,x)", Extra), ("(2,\"\")", Extra), ("(2,)", Missing), ("(3,z)", Missing)]
    );
}

#[test]
fn the_fixtures_are_the_same_across_versions() {
    for (source, target) in [(Version::V15, Version::V17), (Version::V14, Version::V18)] {
        let sides = Sides::start(source, target);
        load_both(&sides);
        fixtures_are_identical(&sides);
    }
}

#[test]
fn a_few_differences_in_a_large_table_take_a_few_statements() {
    let sides = Sides::start_with(Version::V15, Version::V15, &[("log_statement", "all")]);
    sides.both("create table big (id int primary key, v text); insert into big select n, md5(n::text) from generate_series(1, 200000) n");
    sides.target("delete from big where id = 77777; insert into big values (-5, 'new'); update big set v = '' where id = 199999");
    let found = sides.compare_one("public.big");
    assert_eq!(differences(&found), [("id=-5", Extra), ("id=199999", Different), ("id=77777", Missing)]);
    assert_eq!((found.rows_source, found.rows_target, found.differences_total), (200_000, 200_000, 3));
    assert_eq!(found.note, None);
    for cluster in [&sides.source, &sides.target] {
        let log = fs::read_to_string(cluster.directory().join("log")).expect("a log");
        let scans = log.matches("from only \"public\".\"big\"").count();
        assert_eq!(scans, 3, "the digest, the buckets, the rows");
    }
}

#[test]
fn a_table_of_several_pieces_may_lie_in_any_order() {
    let sides = Sides::start(Version::V15, Version::V15);
    let create = "create table big (id int primary key, v text) with (fillfactor = 20)";
    sides.source(&format!(
        "{create}; insert into big select n, repeat('x', 300) from generate_series(1, 100000) n"
    ));
    // Not only in another order: of another size, too.
    let create = create.replace("20", "30");
    sides.target(&format!(
        "{create}; insert into big select n, repeat('x', 300) from generate_series(100000, 1, -1) n"
    ));
    assert!(sides.source("select pg_relation_size('big') > 2 * 8192 * 8192") == "t");
    let found = sides.compare_one("public.big");
    assert!(found.identical && found.rows_source == 100_000, "{found:#?}");
    sides.target("delete from big where id = 5");
    let found = sides.compare_one("public.big");
    assert_eq!(differences(&found), [("id=5", Missing)]);
    assert_eq!((found.rows_source, found.rows_target), (100_000, 99_999));
}

#[test]
fn a_table_that_differs_everywhere_is_not_counted_to_the_end() {
    let sides = Sides::start(Version::V15, Version::V15);
    sides.both("create table keyed (id int primary key, v int); insert into keyed select n, n from generate_series(1, 100000) n");
    sides.both("create table keyless (v int); insert into keyless select n from generate_series(1, 20000) n");
    sides.target("update keyed set v = v + 1; insert into keyless select 7 from generate_series(1, 30000)");
    let keyed = sides.compare_one("public.keyed");
    assert_eq!(keyed.differences.len(), 20);
    assert!(keyed.differences.iter().all(|difference| difference.kind == Different), "{keyed:?}");
    assert!((1000..100_000).contains(&keyed.differences_total), "{}", keyed.differences_total);
    assert_eq!(keyed.note.as_deref(), Some("there are more differences than were counted"));
    // One row many times cannot be split further, and is counted exactly.
    let keyless = sides.compare_one("public.keyless");
    assert_eq!(differences(&keyless), [("(7) (30000 times)", Extra)]);
    assert_eq!((keyless.differences_total, keyless.note.as_deref()), (30_000, None));
    // Hundreds of differences are.
    sides.target("update keyed set v = id where id % 250 <> 0");
    let keyed = sides.compare_one("public.keyed");
    assert_eq!((keyed.differences_total, keyed.differences.len(), keyed.note), (400, 20, None));
}

#[test]
fn what_cannot_be_compared_says_why() {
    let sides = Sides::start(Version::V15, Version::V15);
    sides.source(
        "create table gone (id int); create table viewed (id int); create table narrow (id int primary key, a int, b int);
         create table wide (id int primary key, a int); create table fine (id int); insert into narrow values (1, 2, 3)",
    );
    sides.target(
        "create view viewed as select 1 as id; create table narrow (id int primary key, a int);
         create table wide (a int, extra int default 5, id int primary key); create table fine (id int);
         insert into narrow values (1, 2)",
    );
    sides.both("insert into wide (id, a) values (1, 2)");
    let quarantined =
        TableToVerify { obstacle: Some("it is quarantined: no column b".into()), ..whole("public.held") };
    let mut tables =
        ["gone", "viewed", "narrow", "wide", "fine"].map(|name| whole(&format!("public.{name}"))).to_vec();
    tables.push(quarantined);
    let report = sides.compare(&tables);
    assert!(!report.identical);
    let found: Vec<_> = report
        .tables
        .iter()
        .map(|table| (table.name.name.as_str(), table.identical, table.note.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            ("fine", true, None),
            ("gone", false, Some("not compared: there is no such table at the target")),
            ("held", false, Some("not compared: it is quarantined: no column b")),
            ("narrow", false, Some("the target's table lacks columns: b")),
            ("viewed", false, Some("not compared: at the target it is no table (relkind v)")),
            ("wide", true, None),
        ]
    );
    assert_eq!(report.tables[3].digest_source, report.tables[3].digest_target);
}

#[test]
fn what_a_server_refuses_about_one_table_stops_no_other() {
    let sides = Sides::start(Version::V15, Version::V15);
    sides.both(
        "create table first (id int); create table broken (id int); create table last (id int);
         insert into first values (1); insert into last values (1)",
    );
    let broken = TableToVerify { filter: Some("1 / id > 0".into()), ..whole("public.broken") };
    sides.both("insert into broken values (0)");
    let report = sides.compare(&[whole("public.first"), broken, whole("public.last")]);
    let identical: Vec<bool> = report.tables.iter().map(|table| table.identical).collect();
    assert_eq!(identical, [false, true, true]);
    let note = report.tables[0].note.as_deref().expect("a note");
    assert!(note.starts_with("not compared: source (") && note.contains("division by zero"), "{note}");
}

#[test]
fn what_the_publication_leaves_out_is_not_missed() {
    let sides = Sides::start(Version::V15, Version::V15);
    sides.both("create table t (id int primary key, a int, secret text)");
    sides.source("insert into t select n, n, 'secret' from generate_series(1, 9) n");
    sides.target("insert into t select n, n from generate_series(1, 5) n");
    let published = TableToVerify {
        columns: Some(vec!["id".into(), "a".into()]),
        filter: Some("(id <= 5)".into()),
        ..whole("public.t")
    };
    assert!(sides.compare(std::slice::from_ref(&published)).identical);
    sides.target("insert into t values (6, 6)");
    let report = sides.compare(&[published]);
    assert_eq!(differences(&report.tables[0]), [("id=6", Extra)]);
}

#[test]
fn what_came_after_the_snapshots_is_not_seen() {
    let sides = Sides::start(Version::V15, Version::V15);
    sides.both("create table t (id int primary key); insert into t values (1); create table cut (id int); insert into cut values (1)");
    sides.both("create table parts (id int) partition by range (id); create table part partition of parts default; insert into parts values (1)");
    let tables = [whole("public.cut"), whole("public.parts"), whole("public.t")];
    let report = sides.compare_after(&tables, || {
        sides.target("insert into t values (2); delete from t where id = 1");
        sides.source("truncate cut");
        sides.target("truncate part");
    });
    let notes: Vec<_> = report.tables.iter().map(|table| (table.identical, table.note.as_deref())).collect();
    assert_eq!(
        notes,
        [
            (
                false,
                Some(
                    "not compared: it was truncated or rewritten at the source while it was to be compared; verify it again"
                )
            ),
            (
                false,
                Some(
                    "not compared: it was truncated or rewritten at the target while it was to be compared; verify it again"
                )
            ),
            (true, None)
        ]
    );
}

#[test]
fn databases_of_different_encodings_are_compared_by_their_characters() {
    let mut sides = Sides::start(Version::V15, Version::V15);
    sides.source("create database other encoding 'LATIN1' locale 'C' template template0");
    sides.target("create database other");
    sides.database = "other".into();
    sides.both("create table \"ä\" (\"ö\" text primary key, v text); insert into \"ä\" values ('ü', 'ß'), ('plain', null)");
    let found = sides.compare_one("public.ä");
    assert!(found.identical, "{found:#?}");
    sides.target("update \"ä\" set v = 'ss' where \"ö\" = 'ü'");
    assert_eq!(differences(&sides.compare_one("public.ä")), [("ö=ü", Different)]);
}
