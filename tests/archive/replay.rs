//! Reading an archive into a database: what arrives is what the origin had, and tables come and go while it does.

use std::fs;

use pgdiode::archive::names::{self, Stored};

use super::origin::{Laptop, Origin};
use crate::harness::{Cluster, Version, load_fixtures};

const ITEMS: &str = "create table items (id int primary key, v text); insert into items select n, 'base ' || n from generate_series(1, 10) n;
    create table other (id int primary key, v text); insert into other values (1, 'not wanted')";

pub fn items() -> Origin {
    let mut origin = Origin::start(ITEMS);
    origin.base(&["public.items", "public.other"]);
    origin
}

pub const ITEMS_ONLY: &str = "tables = [\"public.items\"]";

#[test]
fn a_base_and_its_changes_make_the_tables_alike() {
    let mut origin = items();
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    laptop.once();
    laptop.assert_alike(&origin, &["items"]);
    origin.psql("insert into items values (11, 'new'); update items set v = 'changed' where id = 2; delete from items where id = 3");
    origin.psql("insert into other values (2, 'x')");
    origin.psql("update items set id = 100 where id = 4");
    origin.seal(2);
    laptop.once();
    laptop.assert_alike(&origin, &["items"]);
    assert_eq!(laptop.psql("select to_regclass('other') is null"), "t", "only what is wanted is made");
    let key = "select count(*) from pg_constraint where conrelid = 'items'::regclass and contype = 'p'";
    assert_eq!(laptop.psql(key), "1");
    let status = laptop.pgdiode.run(&["status"]).success();
    assert!(status.contains(&format!("file {0} of {0}, 0 behind", origin.files())), "{status}");
    let note =
        fs::read_dir(origin.object(names::READERS)).unwrap().flatten().next().expect("the reader's note");
    let note = fs::read_to_string(note.path()).unwrap();
    assert!(note.contains(&format!("\"file\": {}", origin.files() + 1)), "{note}");
}

const TYPES: [&str; 12] = [
    "odd.numbers",
    "odd.texts",
    "odd.bits",
    "odd.times",
    "odd.documents",
    "odd.arrays",
    "odd.composed",
    "odd.ranges",
    "odd.places",
    "odd.searches",
    "odd.internals",
    "odd.large",
];

/// Out of the base, as new rows, under other keys, and with values that an update left out of line.
#[test]
fn every_type_arrives_as_it_was() {
    for stored in [Stored::Plain, Stored::Zstd] {
        let cluster = Cluster::start(Version::V15, &[]);
        load_fixtures(&cluster, "postgres");
        let mut origin = Origin::of(cluster, "");
        origin.stored = stored;
        origin.base(&TYPES);
        for table in TYPES {
            origin.psql(&format!(
                "create temporary table copied as select * from {table}; update copied set id = id + 5000;
                 insert into {table} select * from copied; update {table} set id = id + 1000 where id between 2 and 3;
                 delete from {table} where id = 1"
            ));
        }
        origin.psql("update odd.large set note = 'only this' where id > 5002");
        origin.seal(3);
        let patterns: Vec<String> = TYPES.iter().map(|table| format!("\"{table}\"")).collect();
        let laptop = Laptop::start(&origin, &format!("tables = [{}]", patterns.join(", ")), "");
        laptop.once();
        let states = "select string_agg(distinct state || coalesce(reason, ''), '; ') from pgdiode.relation";
        assert_eq!(laptop.psql(states), "ready");
        laptop.assert_alike(&origin, &TYPES);
    }
}

/// What is not wanted costs nothing: a file without a wanted table is not even read.
#[test]
fn files_without_a_wanted_table_are_passed_over_unread() {
    let mut origin = items();
    origin.psql("insert into other values (2, 'x')");
    origin.psql("insert into items values (11, 'new')");
    origin.seal(1);
    fs::write(origin.object(&names::change_file(1, Stored::Plain)), "nobody looks").unwrap();
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    laptop.once();
    laptop.assert_alike(&origin, &["items"]);
}

#[test]
fn a_running_reader_follows_and_stops_when_it_is_asked_to() {
    let mut origin = items();
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    let mut running = laptop.begin();
    laptop.catch_up(&origin);
    for round in 0..3 {
        origin.psql(&format!("insert into items values ({}, 'round')", 20 + round));
        origin.seal(1);
        laptop.catch_up(&origin);
        laptop.assert_alike(&origin, &["items"]);
    }
    let status = laptop.pgdiode.run(&["status"]).success();
    assert!(status.contains("streaming"), "{status}");
    laptop.pgdiode.run(&["stop"]).success();
    assert!(running.wait().success(), "{}", running.stderr());
    let audit = laptop.psql(
        "select string_agg(action || ' ' || coalesce(verdict, 'begun'), ', ' order by number) from pgdiode.audit",
    );
    assert!(audit.contains("start") && audit.contains("stop"), "{audit}");
}

/// Its disk is unmounted, and mounted again.
#[test]
fn an_archive_that_goes_away_is_waited_for() {
    let mut origin = items();
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    let running = laptop.begin();
    laptop.catch_up(&origin);
    laptop.wait_until("select phase = 'streaming' from pgdiode.pipeline", "the files");
    let elsewhere = origin.path().with_extension("unmounted");
    fs::rename(origin.path(), &elsewhere).unwrap();
    laptop.wait_until("select phase = 'retrying' from pgdiode.pipeline", "another attempt");
    let status = laptop.pgdiode.run(&["status"]).success();
    assert!(status.contains("not all can be shown"), "{status}");
    fs::rename(&elsewhere, origin.path()).unwrap();
    origin.psql("insert into items values (11, 'after')");
    origin.seal(1);
    laptop.catch_up(&origin);
    laptop.assert_alike(&origin, &["items"]);
    drop(running);
    // Where it was never there, nobody waits for it.
    fs::rename(origin.path(), &elsewhere).unwrap();
    let said = laptop.refused(2);
    assert!(said.contains("there is no directory"), "{said}");
    fs::rename(&elsewhere, origin.path()).unwrap();
}

#[test]
fn inserts_that_meet_a_row_and_updates_that_meet_none() {
    let clash = |origin: &mut Origin, laptop: &Laptop| {
        laptop.once();
        laptop.psql("insert into items values (11, 'already here'); delete from items where id in (1, 2)");
        origin.psql("insert into items values (11, 'from the origin'); update items set v = 'x' where id = 1; delete from items where id = 2");
        origin.seal(1);
        laptop.once();
    };
    let mut origin = items();
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    clash(&mut origin, &laptop);
    assert_eq!(laptop.psql("select v from items where id = 11"), "from the origin");
    assert_eq!(
        (laptop.count_of("public.items", "conflicts"), laptop.count_of("public.items", "missing")),
        ("1".into(), "2".into())
    );
    let status = laptop.pgdiode.run(&["status"]).success();
    assert!(status.contains("row to change was not there"), "{status}");

    let mut origin = items();
    let sections = "[pipeline.main.stream]\non_conflict = \"quarantine\"\n";
    let laptop = Laptop::start(&origin, ITEMS_ONLY, sections);
    clash(&mut origin, &laptop);
    assert!(
        laptop.state_of("public.items").starts_with("quarantined"),
        "{}",
        laptop.state_of("public.items")
    );
    assert_eq!(laptop.psql("select v from items where id = 11"), "already here");
    // A fresh fill brings it back, with all that has come since.
    origin.psql("insert into items values (12, 'while it was away')");
    origin.seal(1);
    laptop.pgdiode.run(&["resync", "public.items"]).success();
    laptop.once();
    assert_eq!(laptop.state_of("public.items"), "ready");
    laptop.assert_alike(&origin, &["items"]);
}

/// A table that joins late, or is filled anew, begins at an old base: what came since is applied to it alone.
#[test]
fn a_table_that_joins_late_catches_up_alone() {
    let mut origin = items();
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "[pipeline.main.stream]\nnew_tables = false\n");
    origin.psql("insert into other values (2, 'x'); insert into items values (11, 'new')");
    origin.psql("update other set v = 'y' where id = 1; delete from items where id = 1");
    origin.seal(1);
    laptop.once();
    let before = laptop.psql("select sum(inserts + updates + deletes) from pgdiode.relation_count");
    assert_eq!(laptop.psql("select to_regclass('other') is null"), "t");
    let mut running = laptop.begin();
    laptop.catch_up(&origin);
    laptop.pgdiode.run(&["add-tables", "public.other"]).success();
    laptop.wait_until(
        "select exists (select from pgdiode.relation where table_name = 'other' and state = 'ready')",
        "the table",
    );
    laptop.assert_alike(&origin, &["items", "other"]);
    origin.psql("update other set v = 'z'; update items set v = 'z'");
    origin.seal(1);
    laptop.catch_up(&origin);
    laptop.assert_alike(&origin, &["items", "other"]);
    assert_eq!(laptop.psql("select count(*) from pgdiode.position"), "1", "a pass leaves nothing behind");
    laptop.pgdiode.run(&["stop"]).success();
    running.wait();
    let of_items =
        laptop.psql("select inserts + deletes from pgdiode.relation_count where table_name = 'items'");
    assert_eq!(of_items, before, "what was in step is not applied again");

    laptop.psql("delete from items where id > 5");
    let newer_base = [false, true];
    for takes_base in newer_base {
        if takes_base {
            origin.base(&["public.items", "public.other"]);
        }
        origin.psql("insert into items select max(id) + 1, 'more' from items");
        origin.seal(1);
        laptop.pgdiode.run(&["resync", "public.items"]).success();
        laptop.once();
        laptop.assert_alike(&origin, &["items", "other"]);
    }
}

/// A table that no base holds is met with its first change: it stops alone, until a base has it.
#[test]
fn a_new_table_waits_for_a_base_that_holds_it() {
    let mut origin = items();
    let laptop = Laptop::start(&origin, "tables = [\"public.*\", \"!public.pulse\"]", "");
    laptop.once();
    origin.psql("create table late (id int primary key, v text)");
    origin.psql("insert into late values (1, 'first'); insert into items values (11, 'x')");
    origin.seal(1);
    laptop.once();
    let state = laptop.state_of("public.late");
    assert!(state.contains("quarantined: base 1, the newest, does not hold this table"), "{state}");
    laptop.assert_alike(&origin, &["items", "other"]);
    let listed = laptop.pgdiode.run(&["list-tables"]).success();
    assert!(listed.contains("public.late"), "{listed}");
    origin.base(&["public.items", "public.other", "public.late"]);
    origin.psql("insert into late values (2, 'second')");
    origin.seal(1);
    laptop.pgdiode.run(&["resync", "public.late"]).success();
    laptop.once();
    assert_eq!(laptop.state_of("public.late"), "ready");
    laptop.assert_alike(&origin, &["items", "other", "late"]);
}

#[test]
fn added_columns_arrive_and_other_drift_stops_its_table_alone() {
    let mut origin = Origin::start(
        "create table grows (id int primary key, v text); create table renamed (id int primary key, v text);
         create table retyped (id int primary key, v int); create table anew (id int primary key, v text);
         insert into grows values (1, 'a'); insert into renamed values (1, 'a'); insert into retyped values (1, 1);
         insert into anew values (1, 'old')",
    );
    origin.base(&["public.grows", "public.renamed", "public.retyped", "public.anew"]);
    // The base alone tells what these were.
    for table in ["grows", "renamed"] {
        origin.psql(&format!("insert into {table} values (2, 'b')"));
    }
    origin.psql("alter table grows add column amount numeric(10, 2); insert into grows values (3, 'c', 1.5)");
    origin.psql("alter table renamed rename column v to w; insert into renamed values (3, 'c')");
    origin.psql("alter table retyped alter column v type text; insert into retyped values (3, 'c')");
    origin.psql(
        "drop table anew; create table anew (id int primary key, v text); insert into anew values (1, 'new')",
    );
    origin.seal(1);
    let laptop = Laptop::start(&origin, "tables = [\"public.*\", \"!public.pulse\"]", "");
    laptop.once();
    laptop.assert_alike(&origin, &["grows"]);
    for (table, reason) in
        [("renamed", "renamed or not"), ("retyped", "changed its type"), ("anew", "another one now")]
    {
        let state = laptop.state_of(&format!("public.{table}"));
        assert!(state.starts_with("quarantined") && state.contains(reason), "{table}: {state}");
    }
    assert_eq!(laptop.psql("select v from anew where id = 1"), "old", "rows of two tables are not mixed");
    let status = laptop.pgdiode.run(&["status"]).success();
    assert!(status.contains("column-added"), "{status}");
}

/// The configuration wants more than before: what the base holds joins with the next start, but not over foreign rows.
#[test]
fn tables_that_the_configuration_adds_join_at_the_next_start() {
    let mut origin = Origin::start(&format!(
        "{ITEMS}; create table third (id int primary key); insert into third values (1)"
    ));
    origin.base(&["public.items", "public.other", "public.third"]);
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    origin.psql("update other set v = 'since'; insert into items values (11, 'x')");
    origin.seal(1);
    laptop.once();
    laptop.psql("create table third (id int primary key); insert into third values (7)");
    let config = fs::read_to_string(laptop.pgdiode.config_path()).unwrap();
    let config = config.replace(ITEMS_ONLY, "tables = [\"public.*\", \"!public.pulse\"]");
    fs::write(laptop.pgdiode.config_path(), config).unwrap();
    laptop.once();
    laptop.assert_alike(&origin, &["items", "other"]);
    let state = laptop.state_of("public.third");
    assert!(state.contains("quarantined: the target has rows in it"), "{state}");
    assert_eq!(laptop.psql("select id from third"), "7");
    laptop.pgdiode.run(&["resync", "public.third"]).success();
    laptop.once();
    laptop.assert_alike(&origin, &["third"]);
}

#[test]
fn without_a_base_changes_are_applied_to_what_is_there() {
    let mut origin = Origin::start(ITEMS);
    let laptop = Laptop::start(&origin, "tables = [\"public.items\"]", "");
    assert!(laptop.refused(3).contains("neither a base nor a change file"));
    origin.psql("insert into items values (11, 'new'); update items set v = 'x' where id = 1");
    origin.psql("insert into other values (2, 'x')");
    origin.seal(1);
    let said = laptop.refused(3);
    assert!(said.contains("public.items is not at the target") && said.contains("no base"), "{said}");
    laptop.psql("create table items (id int primary key, v text); insert into items select n, 'base ' || n from generate_series(1, 10) n");
    let said = laptop.pgdiode.run(&["start", "--once"]);
    assert!(said.stderr.contains("the archive has no base"), "{}", said.stderr);
    laptop.assert_alike(&origin, &["items"]);
    let said = laptop.pgdiode.run(&["resync", "public.items"]).failure(3);
    assert!(said.contains("no base"), "{said}");
    // Added later, it is brought up from the first file on.
    laptop
        .psql("create table other (id int primary key, v text); insert into other values (1, 'not wanted')");
    laptop.pgdiode.run(&["add-tables", "public.other"]).success();
    laptop.once();
    laptop.assert_alike(&origin, &["items", "other"]);
}

#[test]
fn removed_tables_and_a_reset_leave_rows_as_they_are() {
    let mut origin = items();
    let laptop = Laptop::start(
        &origin,
        "tables = [\"public.items\", \"public.other\"]",
        "[pipeline.main.stream]\nnew_tables = false\n",
    );
    let mut running = laptop.begin();
    laptop.catch_up(&origin);
    laptop.wait_until("select phase = 'streaming' from pgdiode.pipeline", "the files");
    let removed = laptop.pgdiode.run(&["remove-tables", "public.other"]).success();
    assert!(removed.contains("drop table \"public\".\"other\""), "{removed}");
    running.wait_for_log("tables=1");
    origin.psql("insert into other values (2, 'x'); insert into items values (11, 'x')");
    origin.seal(1);
    laptop.catch_up(&origin);
    laptop.assert_alike(&origin, &["items"]);
    assert_eq!(laptop.psql("select count(*) from other"), "1");
    let said = laptop.pgdiode.run(&["reset", "--yes"]).failure(5);
    assert!(said.contains("running"), "{said}");
    laptop.pgdiode.run(&["stop"]).success();
    running.wait();
    laptop.pgdiode.run(&["reset", "--yes"]).success();
    assert_eq!(laptop.psql("select count(*) from pgdiode.position"), "0");
    laptop.once();
    laptop.assert_alike(&origin, &["items", "other"]);
    let said = laptop.pgdiode.run(&["verify"]).failure(2);
    assert!(said.contains("is an archive"), "{said}");
}

/// Partitions, a foreign key, a view, a serial column, an index: what the base's schema has for the tables that are wanted.
#[test]
fn tables_are_made_as_the_base_has_them() {
    let mut origin = Origin::start(
        "create type mood as enum ('sad', 'happy');
         create table parent (id serial primary key, m mood default 'sad', upper_m text generated always as ('x') stored);
         create table child (id int primary key, parent int references parent, at timestamptz default now());
         create index child_at on child (at);
         create table logs (day date, line text, primary key (day, line)) partition by range (day);
         create table logs_1 partition of logs for values from ('2024-01-01') to ('2025-01-01');
         create index logs_line on logs (line);
         create view seen as select * from child;
         create table unwanted (id int references parent);
         insert into parent (m) values ('happy'), ('sad'); insert into child values (1, 1); insert into logs values ('2024-02-03', 'a')",
    );
    origin.base(&["public.child", "public.parent", "public.logs_1"]);
    origin.psql("insert into parent default values; insert into child values (2, 3); insert into logs values ('2024-05-06', 'b')");
    origin.seal(1);
    let laptop =
        Laptop::start(&origin, "tables = [\"public.*\", \"!public.pulse\", \"!public.unwanted\"]", "");
    laptop.once();
    laptop.assert_alike(&origin, &["parent", "child", "logs_1", "logs", "seen"]);
    for (sql, what) in [
        ("select count(*) = 1 from pg_constraint where contype = 'f' and convalidated", "the foreign key"),
        ("select count(*) = 1 from pg_indexes where indexname = 'child_at'", "the index"),
        (
            "select count(*) = 2 from pg_inherits i join pg_class c on c.oid = i.inhrelid where c.relkind = 'i'",
            "attached indexes",
        ),
        ("select to_regclass('unwanted') is null", "what is not wanted"),
        ("select pg_get_serial_sequence('parent', 'id') is not null", "the serial's sequence"),
    ] {
        assert_eq!(
            laptop.psql(sql),
            "t",
            "{what}: {}",
            laptop.psql("select string_agg(detail, E'\\n') from pgdiode.note")
        );
    }
}
