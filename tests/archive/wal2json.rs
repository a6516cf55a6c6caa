//! A slot of wal2json's as the source of an archive: the same history gives the same tables as through pgoutput, whatever
//! is killed, and what that plugin cannot say is never passed over.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Cluster, PgdiodeRun, Rng, Version, ground, wait_for};

const DATABASE: &str = "app";

/// Every type that wal2json spells in its own way, and every kind of identity; numbers come as NaN in columns that cannot
/// be null.
const TABLES: &str = r#"
    create type colour as enum ('red', 'gr"een');
    create type pair as (a int, b text);
    create domain amount as numeric check (value <> 13);
    create domain bytes as bytea;
    create schema "Odd ""s";
    create table zoo (
      id bigint primary key, i2 smallint, i8 bigint, n numeric, m numeric(30, 10), f4 real, f8 double precision not null default 0,
      b boolean, t text, v varchar(20), c character(5), j json, jb jsonb, by bytea, dby bytes, da amount,
      d date, ts timestamp, tz timestamptz, iv interval, ta text[], na numeric[], ba bytea[], e colour, p pair, x xml,
      u uuid, ip inet, o oid, g bigint generated always as (id * 2) stored, mo money, bi bit varying, r numrange, q "char");
    create table "Odd ""s"."T \ é" ("K, 1" text, "k 2" int, "v'" text, primary key ("K, 1", "k 2"));
    create table whole (a int, b text, f float8 not null default 0);
    alter table whole replica identity full;
    create table by_index (a int not null, b text, c text); create unique index by_index_a on by_index (a) include (c);
    alter table by_index replica identity using index by_index_a;
    create table parent (id int primary key, v text);
    create table child (id int primary key, parent int references parent, v text);
    create table roots (id int primary key, v text) partition by hash (id);
    create table leaf0 partition of roots for values with (modulus 2, remainder 0);
    create table leaf1 partition of roots for values with (modulus 2, remainder 1);
    create table nan_key (num numeric primary key, v text);
    create table appended (a int, t text); alter table appended replica identity full;
    create table unwanted (id int, v text);
"#;

/// One random transaction of everything, by its seed alone.
const WORK: &str = r#"
    create function toast(seed int) returns text language sql immutable as
      $$ select string_agg(md5((seed * 1000 + i)::text), '') from generate_series(1, 200) i $$;
    create procedure act(seed int) language plpgsql as $$
      declare k int := seed % 17; big text := toast(seed); pick int := (hashint4(seed) & 2147483647) % 16; begin
      insert into zoo (id, i2, i8, n, m, f4, f8, b, t, v, c, j, jb, by, dby, da, d, ts, tz, iv, ta, na, ba, e, p, x, u, ip, o, mo, bi, r, q)
        values (seed, -k, 9007199254740993 + seed, ('12345678901234567890123456789.' || seed || '0')::numeric, seed / 7.0,
                seed / 3.0, (array[1e-300, 1e300, 0.1, seed / 3.0])[1 + k % 4], k % 2 = 0, big, E'q"uo\\te'' ' || k || E'\t\n\u00e9\u2028\U0001F600\x01',
                'c' || k, '{"a":  [1, 2.0 , null], "a": "\u0000x"}', '{"b": 12345678901234567890.10}', decode(md5(seed::text), 'hex'),
                decode('00ff', 'hex'), seed + 0.5, '4713-01-01 BC', '-infinity', '2026-02-05 10:30:00.000001+01', '1 year -3 days 04:05:06.7',
                array['a"b', null, '{}', E'\\'], array['NaN', 1.10, null]::numeric[], array['\x00ff', null]::bytea[], 'gr"een',
                row(k, 'x"y,z'), '<a b="c">&amp;</a>', md5(seed::text)::uuid, '10.0.0.0/8', 4294967295, -12.34, '10101', '[1,NaN]', 'q');
      insert into zoo (id) values (-seed);
      update zoo set b = null, i2 = i2 + 1 where id = seed - 1;
      update zoo set id = id + 100000 where id = seed - 2;
      update zoo set t = null, by = '' where id = 100000 + seed - 5;
      delete from zoo where id = seed - 9;
      insert into "Odd ""s"."T \ é" values (E'k\\"' || k, seed, big) on conflict do nothing;
      update "Odd ""s"."T \ é" set "K, 1" = 'new ' || seed where "k 2" = seed - 1;
      delete from "Odd ""s"."T \ é" where "k 2" = seed - 6;
      insert into whole values (k, null, 'NaN'), (k, big, '-Infinity'), (null, 'x', 1);
      update whole set a = a + 1 where ctid = (select min(ctid) from whole where a = k);
      delete from whole where ctid = (select max(ctid) from whole where b is null);
      insert into by_index values (seed, big, null) on conflict do nothing;
      update by_index set c = 'touched' where a = seed - 1;
      update by_index set a = -a where a = seed - 2;
      delete from by_index where a = -(seed - 7);
      insert into nan_key values (seed, big), ('NaN', 'v' || seed) on conflict (num) do update set v = excluded.v;
      if k % 3 = 0 then update nan_key set num = 'Infinity' where num = 'NaN' and not exists (select from nan_key where num = 'Infinity'); end if;
      if k % 5 = 0 then delete from nan_key where num = 'Infinity'; end if;
      insert into roots select i, 'r' || seed from generate_series(seed * 3, seed * 3 + 2) i on conflict do nothing;
      update roots set id = id + 1000003 where id = seed * 3 - 1;
      insert into appended values (seed, big);
      insert into unwanted values (seed);
      insert into parent values (seed, 'p') on conflict do nothing;
      insert into child values (seed, seed, big) on conflict do nothing;
      perform pg_logical_emit_message(true, 'm', 'transactional'), pg_logical_emit_message(false, 'm', 'at once');
      begin
        insert into parent values (-seed, 'rolled back'); raise exception 'x';
      exception when others then null; end;
      if pick = 1 then truncate parent, child; end if;
      if pick = 2 then truncate parent cascade; insert into parent values (seed, 'again'); end if;
      if pick = 3 then truncate leaf0, leaf1; end if;
      if pick = 4 then insert into whole select i, big, i from generate_series(1, 3000) i; end if;
      if pick = 5 then delete from whole where f > 1; end if;
      if pick = 6 then truncate appended; end if;
    end $$;
"#;

const CARRIED: [&str; 10] = [
    "zoo",
    r#""Odd ""s"."T \ é""#,
    "whole",
    "by_index",
    "parent",
    "child",
    "roots",
    "nan_key",
    "appended",
    "leaf0",
];

/// One production server, and the way to a laptop's through each of the plugins.
struct Ground {
    source: Cluster,
    ways: [Way; 2],
}

struct Way {
    archive: PathBuf,
    writer: PgdiodeRun,
    reader: PgdiodeRun,
    target: Cluster,
}

impl Way {
    fn new(source: &Cluster, plugin: &str, further: &str) -> Way {
        let archive = ground::fresh_directory("archive");
        let target = Cluster::start(Version::V15, &[]);
        target.psql("postgres", "create database app");
        let writer = PgdiodeRun::new(&format!(
            "[pipeline.{plugin}_out]\nsource = \"{}\"\ntarget = \"{}\"\nplugin = \"{plugin}\"\narchive.file_seconds = 0\n\
             tables = [\"*.*\", \"!public.unwanted\"]\nretry.first_ms = 50\nretry.max_ms = 300\n{further}\n",
            source.conninfo(DATABASE),
            archive.display()
        ));
        let reader = PgdiodeRun::new(&format!(
            "[pipeline.laptop]\nsource = \"{}\"\ntarget = \"{}\"\narchive.poll_seconds = 1\n",
            archive.display(),
            target.conninfo(DATABASE)
        ));
        Way { archive, writer, reader, target }
    }

    fn through(&self) {
        self.writer.run(&["start", "--once-caught-up"]).success();
        self.reader.run(&["start", "--once-caught-up"]).success();
    }

    fn odd(&self) -> String {
        self.target.psql(
            DATABASE,
            "select coalesce(sum(conflicts + missing + skipped), 0) from pgdiode.relation_count;
             select schema_name, table_name, state, reason from pgdiode.relation where state <> 'ready'",
        )
    }
}

fn source() -> Cluster {
    let source = Cluster::start(Version::V15, &[("logical_decoding_work_mem", "64kB")]);
    source.psql("postgres", "create database app");
    source
}

impl Ground {
    fn new() -> Ground {
        let source = source();
        source.psql(DATABASE, TABLES);
        source.psql(DATABASE, WORK);
        let ways = ["pgoutput", "wal2json"].map(|plugin| Way::new(&source, plugin, ""));
        ways[0].writer.run(&["setup", "--yes"]).success();
        Ground { source, ways }
    }

    fn act(&self, seeds: std::ops::Range<u32>) {
        for seed in seeds {
            self.source.psql(DATABASE, &format!("call act({seed})"));
        }
    }

    fn through(&self) {
        for way in &self.ways {
            way.through();
        }
    }

    fn assert_alike(&self) {
        let mut rows = 0;
        for table in CARRIED {
            for way in &self.ways {
                rows += assert_table_alike_in(&way.target, &self.source, table);
            }
        }
        assert!(rows > 30, "the oracle sees {rows} rows");
        for way in &self.ways {
            assert_eq!(way.odd(), "0", "an untouched target has no conflicts");
            let place = way.archive.display().to_string();
            PgdiodeRun::new("").run(&["archive", "verify", &place]).success();
        }
    }
}

/// Rows in no order, as PostgreSQL prints them.
fn assert_table_alike_in(target: &Cluster, source: &Cluster, table: &str) -> usize {
    let sql = format!("select t::text from {table} t order by 1");
    let (here, there) = (target.psql(DATABASE, &sql), source.psql(DATABASE, &sql));
    assert!(here == there, "{table} differs:\n{}", first_difference(&here, &there));
    here.lines().count()
}

fn first_difference(here: &str, there: &str) -> String {
    let pair = here.lines().zip(there.lines()).find(|(here, there)| here != there);
    let lines = format!("{} lines, {} expected", here.lines().count(), there.lines().count());
    pair.map_or(lines, |(here, there)| format!("{here}\nexpected\n{there}"))
}

/// The rows of an archive's change files: all that a reader is told of them, but for the tables' flags of truncation.
fn told(archive: &Path) -> Vec<serde_json::Value> {
    let mut files: Vec<PathBuf> = fs::read_dir(archive).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let texts = files.iter().map(|path| fs::read_to_string(path).unwrap());
    let lines: Vec<String> =
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let rows = lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let rows = rows.filter(|row| row.get("table").is_some() || row["op"] == "COMMIT");
    rows.map(|mut row| {
        if let Some(row) = row.as_object_mut() {
            row.remove("restart_identity");
            row.remove("cascade");
        }
        row
    })
    .filter(|row| row["op"] != "RELATION")
    .collect()
}

#[test]
fn both_plugins_tell_the_same_history() {
    let ground = Ground::new();
    ground.act(1..4);
    ground.through();
    ground.assert_alike();
    let mut rng = Rng::from_environment_or(5);
    let from = rng.u64(10..1000);
    let from = u32::try_from(from).unwrap();
    ground.act(from..from + 40);
    ground.through();
    ground.assert_alike();
    // Not only the tables: every row that either file says, in the same order, with the same positions.
    let [one, other] = [&ground.ways[0], &ground.ways[1]].map(|way| told(&way.archive));
    let start = |rows: &[serde_json::Value]| {
        rows.iter().position(|row| row["table"] == "zoo" && row["data"]["id"] == from)
    };
    let (one, other) = (&one[start(&one).unwrap()..], &other[start(&other).unwrap()..]);
    for (one, other) in one.iter().zip(other) {
        assert_eq!(one, other);
    }
    assert_eq!(one.len(), other.len());
    assert!(one.len() > 1000, "{} rows", one.len());
}

/// Only the number of files tells that it works.
fn sealed(archive: &Path) -> usize {
    fs::read_dir(archive.join("meta/files")).map_or(0, Iterator::count)
}

#[test]
fn a_killed_writer_and_source_lose_nothing() {
    let ground = Ground::new();
    ground.through();
    let way = &ground.ways[1];
    let mut rng = Rng::from_environment_or(3);
    let mut writer = way.writer.spawn(&["start"]);
    let mut seed = 100;
    for _ in 0..6 {
        // One that found no source at its very start has said so and ended.
        if !writer.is_running() {
            writer = way.writer.spawn(&["start"]);
        }
        let before = sealed(&way.archive);
        ground.act(seed..seed + 6);
        seed += 6;
        if rng.i32(0..3) > 0 {
            let grown = wait_for(|| (sealed(&way.archive) > before).then_some(()));
            assert!(grown.is_some(), "nothing is sealed: {}", writer.stderr());
        }
        if rng.i32(0..3) > 0 {
            writer.kill9();
            writer = way.writer.spawn(&["start"]);
        } else {
            ground.source.kill9();
            ground.source.start_again();
        }
    }
    writer.kill9();
    ground.through();
    ground.assert_alike();
}

/// Names and types are those of the change's own moment, whatever has become of the table before it was read.
#[test]
fn a_table_that_was_altered_keeps_its_columns_apart() {
    let ground = Ground::new();
    ground.through();
    let before = ground.ways.each_ref().map(|way| told(&way.archive).len());
    ground.source.psql(
        DATABASE,
        "insert into parent values (1, 'as it was'), (2, 'b');
         alter table parent rename v to w; alter table parent add v int; alter table parent add z text default 'z';
         insert into parent values (3, 'w', 3), (4, 'w', 4);
         update parent set v = 5 where id = 1;
         alter table parent drop w;
         update parent set v = 6 where id = 2; delete from parent where id = 4;
         alter table parent alter v type text; update parent set v = 'seven' where id = 3;
         alter table parent add g text generated always as (v || z) stored; update parent set v = 'eight' where id = 3;
         alter table whole add c int; insert into whole values (1, 'x', 'NaN', 3); alter table whole drop b; update whole set a = 2;
         alter table by_index replica identity full; insert into by_index values (1, 'b', null); update by_index set c = 'c';
         alter table by_index replica identity using index by_index_a; delete from by_index;
         begin; insert into child values (1, null, 'gone'); drop table child; create table child (id int primary key, v text);
         insert into child values (1, 'new'); commit",
    );
    for way in &ground.ways {
        way.writer.run(&["start", "--once-caught-up"]).success();
    }
    let [mut one, mut other] = [0, 1].map(|at| told(&ground.ways[at].archive)[before[at]..].to_vec());
    for row in one.iter_mut().chain(&mut other) {
        // A column that is gone by now and was not said may have been left alone, or be gone: it is called left alone.
        row.as_object_mut().unwrap().remove("unchanged");
    }
    let is_of = |table: &'static str| move |row: &&serde_json::Value| row["table"] == table;
    for table in ["parent", "whole", "by_index"] {
        let [one, other] = [&one, &other].map(|rows| rows.iter().filter(is_of(table)).collect::<Vec<_>>());
        for (one, other) in one.iter().zip(&other) {
            assert_eq!(one, other);
        }
        assert_eq!(one.len(), other.len(), "{table}");
        assert!(one.len() > 1, "{table}");
    }
}

/// The slot has been read by somebody else so far.
#[test]
fn an_existing_slot_goes_on_from_where_it_stands() {
    let source = source();
    source.psql(
        DATABASE,
        "create table t (id int primary key, n numeric not null); insert into t values (1, 1);
         select pg_create_logical_replication_slot('theirs', 'wal2json');
         insert into t values (2, 2);
         select count(*) from pg_logical_slot_get_changes('theirs', null, null);
         insert into t values (3, 3)",
    );
    let stood = source.psql(DATABASE, "select confirmed_flush_lsn from pg_replication_slots");
    let way = Way::new(&source, "wal2json", "slot = \"theirs\"");
    let refused = way.writer.run(&["start", "--once-caught-up"]).failure(3);
    assert!(refused.contains("\"theirs\"") && refused.contains("pgdiode setup --adopt-slot"), "{refused}");
    let refused = way.writer.run(&["setup", "--create-slot", "--yes"]).failure(3);
    assert!(refused.contains("pgdiode setup --adopt-slot"), "{refused}");
    let said = way.writer.run(&["setup", "--adopt-slot", "--yes"]).success();
    assert!(said.contains("the slot \"theirs\" is its own"), "{said}");
    source.psql(DATABASE, "insert into t values (4, 'NaN')");
    way.through();
    assert_eq!(assert_table_alike_in(&way.target, &source, "t"), 4);
    let first = fs::read(way.archive.join("meta/files/0000000001.json")).unwrap();
    let first: serde_json::Value = serde_json::from_slice(&first).unwrap();
    assert_eq!(first["from"], stood);
    // Another plugin's slot is somebody else's.
    let other = Way::new(&source, "pgoutput", "slot = \"theirs\"");
    let refused = other.writer.run(&["setup", "--adopt-slot", "--yes"]).failure(3);
    assert!(refused.contains("plugin wal2json"), "{refused}");
}

/// Before 2.6 a NaN is printed as null: it is known beside which row, and not always in which column.
#[test]
fn what_wal2json_cannot_say_is_not_passed_over() {
    let source = source();
    source.psql(
        DATABASE,
        "create table sure (id int primary key, n numeric, f float8); create table unsure (id int primary key, n numeric, f float8);
         create table nameless (id int); alter table nameless replica identity full",
    );
    let way = Way::new(&source, "wal2json", "");
    way.through();
    source.psql(
        DATABASE,
        "insert into sure values (1, 'NaN', '-Infinity'), (2, 'NaN', 1); update sure set id = 3 where id = 2",
    );
    way.through();
    assert_eq!(assert_table_alike_in(&way.target, &source, "sure"), 2);
    let files = sealed(&way.archive);
    source.psql(
        DATABASE,
        "begin; insert into sure values (4, 4, 4); insert into unsure values (1, 'NaN', null); commit",
    );
    let refused = way.writer.run(&["start", "--once-caught-up"]).failure(3);
    assert!(
        refused.contains("a row of public.unsure holds NaN and nulls") && refused.contains("wal2json 2.6"),
        "{refused}"
    );
    assert_eq!(sealed(&way.archive), files, "nothing of that transaction is in the archive");
    // Without that table it goes on, and nothing else was lost.
    let config = fs::read_to_string(way.writer.config_path()).unwrap();
    let without = |tables: &str| {
        fs::write(way.writer.config_path(), config.replace("\"!public.unwanted\"", tables)).unwrap();
    };
    without("\"!public.unsure\"");
    way.through();
    assert_eq!(assert_table_alike_in(&way.target, &source, "sure"), 3);
    // It leaves out what nothing names, and says so in a warning alone.
    source.psql(DATABASE, "alter table nameless replica identity default; insert into nameless values (1); update nameless set id = 2");
    let refused = way.writer.run(&["start", "--once-caught-up"]).failure(3);
    assert!(
        refused.contains("leaves out a change") && refused.contains("\"public\".\"nameless\""),
        "{refused}"
    );
    without("\"!public.unsure\", \"!public.nameless\"");
    way.through();
    let fresh = Way::new(&source, "wal2json", "slot = \"another\"");
    let refused = fresh.writer.run(&["start", "--once-caught-up"]).failure(3);
    assert!(refused.contains("wal2json leaves UPDATE and DELETE on it out"), "{refused}");
}

#[test]
fn wal2json_is_for_archives_alone() {
    let pgdiode =
        PgdiodeRun::new("[pipeline.main]\nsource = \"host=a\"\ntarget = \"host=b\"\nplugin = \"wal2json\"\n");
    let refused = pgdiode.run(&["check"]).failure(2);
    assert!(refused.contains("wal2json is read on the way") && refused.contains("pgoutput"), "{refused}");
}
