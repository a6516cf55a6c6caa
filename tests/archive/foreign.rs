//! Change files that pgdiode did not write: by hand, and by a real wal2json.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{Cluster, PgdiodeRun, Rng, Running, Version, ground, load_fixtures, wait_for};

/// The seed's three example lines.
const EXAMPLES: &str = r#"{"table": "users", "op": "INSERT", "data": {"id": 1, "name": "John"}, "lsn": "0/16B3D40", "ts": "2026-02-05T10:30:00Z"}
{"table": "users", "op": "UPDATE", "data": {"id": 1, "name": "Jane"}, "old_keys": {"id": 1}, "lsn": "0/16B3D50", "ts": "2026-02-05T10:31:00Z"}
{"table": "users", "op": "DELETE", "old_keys": {"id": 1}, "lsn": "0/16B3D60", "ts": "2026-02-05T10:32:00Z"}
"#;

const USERS: &str =
    "create table users (id int primary key, name text, joined date not null default '2026-01-01')";

/// A database that a directory of files is replayed into.
struct Replica {
    cluster: Cluster,
    pgdiode: PgdiodeRun,
    directory: tempfile::TempDir,
}

impl Replica {
    fn start(sql: &str, archive: &str) -> Replica {
        let cluster = Cluster::start(Version::V15, &[]);
        Replica::of(cluster, sql, archive)
    }

    fn of(cluster: Cluster, sql: &str, archive: &str) -> Replica {
        cluster.psql("postgres", sql);
        let directory = tempfile::tempdir().expect("a directory can be made");
        let config = format!(
            "[pipeline.main]\nsource = \"{}\"\ntarget = \"{}\"\n[pipeline.main.archive]\n{archive}\n\
             [pipeline.main.retry]\nfirst_ms = 50\nmax_ms = 500\n",
            directory.path().display(),
            cluster.conninfo("postgres")
        );
        Replica { pgdiode: PgdiodeRun::new(&config), cluster, directory }
    }

    fn put(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        // Nobody sees half of it.
        let unfinished = self.directory.path().join(".unfinished");
        fs::write(&unfinished, content).expect("a file can be written");
        fs::rename(&unfinished, &path).expect("a file can be renamed");
        path
    }

    fn psql(&self, sql: &str) -> String {
        self.cluster.psql("postgres", sql)
    }

    fn once(&self) {
        self.pgdiode.run(&["start", "--once-caught-up"]).success();
    }

    fn refused(&self, status: i32) -> String {
        self.pgdiode.run(&["start", "--once-caught-up"]).failure(status)
    }

    fn begin(&self) -> Running {
        self.pgdiode.spawn(&["start", "-v"])
    }

    fn wait_until(&self, sql: &str, what: &str) {
        self.cluster.wait_until("postgres", sql, what);
    }

    fn state_of(&self, table: &str) -> String {
        self.psql(&format!(
            "select state || coalesce(': ' || reason, '') from pgdiode.relation where schema_name || '.' || table_name = '{table}'"
        ))
    }

    fn counts_of(&self, table: &str) -> String {
        self.psql(&format!(
            "select concat_ws(' ', inserts, updates, deletes, conflicts, missing) from pgdiode.relation_count
              where schema_name || '.' || table_name = '{table}'"
        ))
    }
}

const AT_ONCE: &str = "settle_seconds = 0";

fn insert(table: &str, id: u32, name: &str) -> String {
    format!("{{\"table\":\"{table}\",\"op\":\"INSERT\",\"data\":{{\"id\":{id},\"name\":\"{name}\"}}}}\n")
}

#[test]
fn the_example_lines_apply() {
    let replica = Replica::start(USERS, AT_ONCE);
    replica.put("1.json", EXAMPLES);
    replica.once();
    assert_eq!(replica.psql("select count(*) from users"), "0");
    assert_eq!(replica.counts_of("public.users"), "1 1 1 0 0");
    assert_eq!(replica.psql("select name, records, ends_at from pgdiode.archive_file"), "1.json|3|1/3");
    // Each alone, and what follows.
    for (number, line) in EXAMPLES.lines().enumerate() {
        replica.put(&format!("2{number}.jsonl"), &format!("{line}\n"));
        replica.once();
        let expected = ["John|2026-01-01", "Jane|2026-01-01", ""][number];
        assert_eq!(replica.psql("select name, joined from users"), expected);
    }
    let status = replica.pgdiode.run(&["status"]).success();
    assert!(status.contains("users"), "{status}");
}

/// "INSERT with existing PK: treated as upsert. UPDATE/DELETE on missing row: logged as warning, skipped."
#[test]
fn conflicts_are_resolved_as_the_format_says() {
    let replica = Replica::start(USERS, AT_ONCE);
    replica.psql("insert into users values (1, 'here before', '2020-01-01')");
    let lines = insert("users", 1, "upserted")
        + "{\"table\":\"users\",\"op\":\"UPDATE\",\"data\":{\"id\":8,\"name\":\"x\"},\"old_keys\":{\"id\":8}}\n"
        + "{\"table\":\"public.users\",\"op\":\"DELETE\",\"old_keys\":{\"id\":9}}\n"
        + "{\"table\":\"users\",\"op\":\"UPDATE\",\"data\":{\"id\":3},\"old_keys\":{\"id\":1}}\n";
    replica.put("1.json", &lines);
    let said = replica.pgdiode.run(&["start", "--once-caught-up"]);
    assert!(said.stderr.contains("was not there, skipped"), "{}", said.stderr);
    said.success();
    assert_eq!(replica.psql("select * from users"), "3|upserted|2020-01-01");
    assert_eq!(replica.counts_of("public.users"), "0 1 0 1 2");
}

#[test]
fn values_keep_every_digit() {
    let sql = "create table v (id int8 primary key, exact numeric, doc jsonb, words text[], bytes bytea, at timestamptz, yes bool, twice float8)";
    let replica = Replica::start(sql, AT_ONCE);
    let line = r#"{"table":"v","op":"INSERT","data":{"id":9007199254740993,"exact":1234567890123456789.1234567890,"doc":{"a":[1.50]},"words":["a,b",null,"c\"d"],"bytes":"\\x00ff","at":"2026-02-05T10:30:00Z","yes":true,"twice":"NaN"}}"#;
    replica.put("1.json", &format!("{line}\n"));
    replica.once();
    assert_eq!(
        replica.psql("set timezone = 'UTC'; select * from v"),
        "9007199254740993|1234567890123456789.1234567890|{\"a\": [1.50]}|{\"a,b\",NULL,\"c\\\"d\"}|\\x00ff|2026-02-05 10:30:00+00|t|NaN"
    );
}

#[test]
fn a_table_that_does_not_fit_stops_alone() {
    let replica = Replica::start(USERS, AT_ONCE);
    replica.psql("create table narrow (id int primary key)");
    let lines = insert("nowhere", 1, "x") + &insert("users", 1, "John") + &insert("narrow", 1, "x");
    replica.put("1.json", &lines);
    replica.once();
    assert_eq!(replica.psql("select name from users"), "John");
    assert!(
        replica.state_of("public.nowhere").contains("no such table"),
        "{}",
        replica.state_of("public.nowhere")
    );
    assert!(
        replica.state_of("public.narrow").contains("lacks the columns name"),
        "{}",
        replica.state_of("public.narrow")
    );
    assert_eq!(replica.state_of("public.users"), "ready");
    // Mended, it reads all files again, the first too.
    replica.put("2.json", &insert("narrow", 2, "y"));
    replica.once();
    replica.psql("alter table narrow add column name text");
    replica.pgdiode.run(&["resync", "public.narrow"]).success();
    replica.once();
    assert_eq!(replica.psql("select string_agg(id || name, ' ' order by id) from narrow"), "1x 2y");
    assert_eq!(replica.state_of("public.narrow"), "ready");
    assert_eq!(replica.psql("select count(*) from pgdiode.position"), "1");
}

#[test]
fn a_resynced_table_is_emptied_and_replayed_alone() {
    let replica = Replica::start(USERS, AT_ONCE);
    replica.psql("create table other (id int primary key, name text)");
    for number in 1..=3 {
        replica.put(
            &format!("{number}.json"),
            &(insert("users", number, "file") + &insert("other", number, "file")),
        );
    }
    replica.once();
    replica.psql("insert into users values (77, 'not of any file'); delete from users where id = 2; delete from other where id = 2");
    replica.pgdiode.run(&["resync", "public.users"]).success();
    replica.put("4.json", &insert("users", 4, "file"));
    replica.once();
    assert_eq!(replica.psql("select string_agg(id::text, ' ' order by id) from users"), "1 2 3 4");
    assert_eq!(
        replica.psql("select string_agg(id::text, ' ' order by id) from other"),
        "1 3",
        "others are let alone"
    );
    // What was taken and is gone cannot be replayed.
    fs::remove_file(replica.directory.path().join("2.json")).unwrap();
    replica.once();
    replica.pgdiode.run(&["resync", "public.users"]).success();
    let said = replica.refused(4);
    assert!(said.contains("2.json") && said.contains("not there any more"), "{said}");
}

#[test]
fn a_file_is_applied_whole_or_not_at_all() {
    for (broken, line, what) in [
        ("{\"table\":\"users\",\"op\":\"INSERT\",\"data\":{\"id\":3,", 3, "cut off"),
        ("{\"table\":\"users\",\"op\":\"INSERT\",\"data\":{\"id\":3,\n", 3, "EOF"),
        ("not json\n", 3, "expected"),
        ("{\"table\":\"users\",\"op\":\"INSERT\"}\n", 3, "\"data\" is missing"),
    ] {
        let replica = Replica::start(USERS, AT_ONCE);
        replica.put("1.json", &insert("users", 1, "good"));
        let good = insert("users", 2, "a") + &insert("users", 4, "b");
        replica.put("2.json", &(good.clone() + broken));
        replica.put("3.json", &insert("users", 5, "later"));
        let said = replica.refused(4);
        assert!(said.contains(&format!("2.json, line {line}")) && said.contains(what), "{said}");
        assert_eq!(
            replica.psql("select string_agg(name, ' ') from users"),
            "good",
            "the file before is applied"
        );
        replica.put("2.json", &good);
        replica.once();
        assert_eq!(replica.psql("select string_agg(name, ' ' order by id) from users"), "good a b later");
    }
}

#[test]
fn a_file_that_comes_late_or_changes_stops_the_run() {
    let replica = Replica::start(USERS, AT_ONCE);
    replica.put("10.json", &insert("users", 1, "a"));
    replica.put("20.json", &insert("users", 2, "b"));
    replica.once();
    let late = replica.put("15.json", &insert("users", 3, "late"));
    let said = replica.refused(4);
    assert!(said.contains("15.json") && said.contains("20.json") && said.contains("a later name"), "{said}");
    fs::remove_file(late).unwrap();
    for (name, content) in [("10.json", insert("users", 1, "A")), ("20.json", insert("users", 2, "longer"))] {
        let before = fs::read_to_string(replica.directory.path().join(name)).unwrap();
        replica.put(name, &content);
        let said = replica.refused(4);
        assert!(said.contains(&format!("{name} is another file")), "{said}");
        replica.put(name, &before);
        replica.once();
    }
    assert_eq!(replica.psql("select string_agg(name, ' ' order by id) from users"), "a b");
    // While a run is under way, too.
    let mut running = replica.begin();
    replica.wait_until("select phase = 'streaming' from pgdiode.pipeline", "the run");
    replica.put("15.json", &insert("users", 3, "late"));
    assert_eq!(running.wait().code(), Some(4), "{}", running.stderr());
    assert!(running.stderr().contains("15.json"), "{}", running.stderr());
}

#[test]
fn a_growing_file_is_not_taken_half() {
    let replica = Replica::start(USERS, "settle_seconds = 4\ndialect = \"seed\"");
    let mut running = replica.begin();
    replica.wait_until("select to_regclass('pgdiode.position') is not null", "the control schema");
    let path = replica.directory.path().join("1.json");
    let whole = (1..=40).map(|id| insert("users", id, "grown")).collect::<Vec<_>>().concat();
    // Slower than anybody looks; whole lines, and halves.
    for end in (0..whole.len()).step_by(whole.len() / 50).chain([whole.len() - 1]) {
        fs::write(&path, &whole[..end]).unwrap();
        assert_eq!(replica.psql("select count(*) from users"), "0", "half of a file was taken");
    }
    fs::write(&path, &whole).unwrap();
    replica.wait_until("select count(*) = 40 from users", "the whole file");
    // One that has another behind it is whole.
    replica.put("2.json", &insert("users", 41, "b"));
    replica.put("3.json", &insert("users", 42, "c"));
    replica.wait_until("select count(*) = 42 from users", "the later files");
    assert_eq!(replica.psql("select count(*) from pgdiode.archive_file"), "3");
    replica.pgdiode.run(&["stop"]).success();
    assert!(running.wait().success(), "{}", running.stderr());
}

/// Rows without any key would be doubled by a file that is applied twice, and short by one that is lost.
#[test]
fn killed_at_any_moment_each_file_is_applied_once() {
    let mut rng = Rng::from_environment_or(17);
    let sql = "create table keyless (n int, v text); create table log (at timestamptz default clock_timestamp(), n int);
        create function logged() returns trigger language plpgsql as $$ begin insert into public.log (n) values (new.n); return new; end $$;
        create trigger logged after insert on keyless for each row execute function logged();
        alter table keyless enable always trigger logged";
    let replica = Replica::start(sql, AT_ONCE);
    let mut files = 0;
    let mut add = |count: u32| {
        for _ in 0..count {
            files += 1;
            let line = |n: u32| {
                format!("{{\"table\":\"keyless\",\"op\":\"INSERT\",\"data\":{{\"n\":{n},\"v\":\"w\"}}}}\n")
            };
            let lines: Vec<String> = match files % 3 {
                // Transactions of their own, in one file.
                0 => (0..10)
                    .map(|part| {
                        let columns = format!("[{{\"name\":\"n\",\"type\":\"integer\",\"value\":{}}}]", files * 10 + part);
                        format!("{{\"action\":\"B\"}}\n{{\"action\":\"I\",\"schema\":\"public\",\"table\":\"keyless\",\"columns\":{columns}}}\n{{\"action\":\"C\"}}\n")
                    })
                    .collect(),
                _ => (0..10).map(|part| line(files * 10 + part)).collect(),
            };
            replica.put(&format!("{files:06}.json"), &lines.concat());
        }
        files
    };
    add(150);
    let mut kills_inside = 0;
    for round in 0..60 {
        if round >= 14 && kills_inside > 0 {
            break;
        }
        let mut running = replica.begin();
        // Not slept to test anything: the moment is what is random, later where the machine is slow.
        std::thread::sleep(Duration::from_millis(rng.u64(30..400 + 20 * round)));
        running.kill9();
        let is_there = replica.psql("select to_regclass('pgdiode.archive_file') is not null") == "t";
        let taken =
            if is_there { replica.psql("select count(*) from pgdiode.archive_file") } else { "0".into() };
        kills_inside += u32::from(taken != "0" && taken.parse::<u32>().unwrap() < add(0));
        add(20);
    }
    assert!(kills_inside > 0, "no kill met a run at work; other moments are needed");
    replica.once();
    let total = add(0);
    assert_eq!(
        replica.psql("select count(*), count(distinct n) from keyless"),
        format!("{0}|{0}", total * 10)
    );
    assert_eq!(replica.psql("select count(*), count(distinct n) from log"), format!("{0}|{0}", total * 10));
    assert_eq!(
        replica.psql("select count(*), max(ordinal) from pgdiode.archive_file"),
        format!("{total}|{total}")
    );
    assert_eq!(replica.psql("select count(*) from pgdiode.note"), "0");
}

#[test]
fn compressed_files_and_a_named_dialect() {
    let replica = Replica::start(USERS, "settle_seconds = 0\ndialect = \"seed\"");
    let bytes = zstd::encode_all(insert("users", 1, "small").as_bytes(), 0).unwrap();
    fs::write(replica.directory.path().join("1.json.zst"), &bytes).unwrap();
    replica.once();
    assert_eq!(replica.psql("select name from users"), "small");
    replica.put("2.json", "{\"action\":\"B\"}\n{\"action\":\"C\"}\n");
    let said = replica.refused(4);
    assert!(said.contains("2.json, line 1") && said.contains("archive.dialect"), "{said}");
    fs::remove_file(replica.directory.path().join("2.json")).unwrap();
    // Half of a compressed file is waited for while it is the last.
    fs::write(replica.directory.path().join("3.json.zst"), &bytes[..bytes.len() - 3]).unwrap();
    let mut running = replica.begin();
    running.wait_for_log("cannot be read yet");
    let again = zstd::encode_all(insert("users", 3, "later").as_bytes(), 0).unwrap();
    fs::write(replica.directory.path().join("3.json.zst"), again).unwrap();
    replica.wait_until("select count(*) = 2 from users", "the whole file");
}

// ---- a real wal2json ----

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

/// What `pg_recvlogical` writes of everything since the slot was made.
fn receive(source: &Cluster, slot: &str, options: &[&str], to: &Path) {
    let end = source.psql("postgres", "select pg_current_wal_insert_lsn()");
    // A record after it, so that the end is reached.
    source.psql("postgres", "select pg_switch_wal(), pg_logical_emit_message(false, 'end', '')");
    let program = source.tools().path("pg_recvlogical");
    let mut command = ground::clean_command(&program);
    command
        .args(["-d", &source.conninfo("postgres"), "--slot", slot, "--start", "--endpos", &end, "-f"])
        .arg(to);
    for option in options {
        command.args(["-o", option]);
    }
    let output = command.stdin(Stdio::null()).output().expect("pg_recvlogical runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn schema_of(source: &Cluster) -> String {
    let mut command = source.tools().command("pg_dump");
    command.args(["--schema-only", "--no-owner", "--no-privileges", "-d", &source.conninfo("postgres")]);
    let output = command.stdin(Stdio::null()).output().expect("pg_dump runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // psql's own commands are for psql alone.
    let sql = String::from_utf8(output.stdout).expect("a dump is text");
    sql.lines().filter(|line| !line.starts_with('\\')).collect::<Vec<_>>().join("\n")
}

const PINNED: &str = "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 3; \
     set bytea_output = 'hex'; set lc_monetary = 'C'; set search_path = '';\n";

fn rows_of(cluster: &Cluster, table: &str) -> String {
    cluster.psql("postgres", &format!("{PINNED}select t::text from {table} t order by id"))
}

/// wal2json itself writes NaN and the infinities of numbers as null: no reader can tell them from it.
const WITHOUT_NAN: &str = "
    update odd.numbers set exact = 0 where exact in ('NaN', 'Infinity', '-Infinity');
    update odd.numbers set scaled = 0 where scaled = 'NaN';
    update odd.numbers set single = 0 where single in ('NaN', 'Infinity', '-Infinity');
    update odd.numbers set twice = 0 where twice in ('NaN', 'Infinity', '-Infinity')";

#[test]
fn what_a_real_wal2json_writes_arrives_as_it_was() {
    let source = Cluster::start(Version::V15, &[]);
    load_fixtures(&source, "postgres");
    source.psql("postgres", WITHOUT_NAN);
    let roles = "create role fixture_reader; create role \"Fixture Owner\";\n";
    let (schema, tables) = (roles.to_owned() + &schema_of(&source), TYPES);
    let formats: [(&str, &[&str]); 4] = [
        ("two", &["format-version=2", "include-lsn=1", "include-timestamp=1", "include-xids=1"]),
        ("one", &["format-version=1", "include-timestamp=1"]),
        ("chunks", &["format-version=1", "write-in-chunks=1"]),
        ("pretty", &["format-version=1", "pretty-print=1"]),
    ];
    for (name, _) in formats {
        source.psql("postgres", &format!("select pg_create_logical_replication_slot('{name}', 'wal2json')"));
    }
    for table in tables {
        source.psql("postgres", &format!(
            "create temporary table copied as select * from {table}; delete from {table};
             insert into {table} select * from copied; update copied set id = id + 5000; insert into {table} select * from copied;
             update {table} set id = id + 1000 where id between 2 and 3; delete from {table} where id = 1"
        ));
    }
    source.psql("postgres", "update odd.large set note = 'only this' where id > 5002");
    let mut differences = Vec::new();
    for (name, options) in formats {
        let replica = Replica::start(&schema, AT_ONCE);
        receive(&source, name, options, &replica.directory.path().join("1.json"));
        replica.once();
        let states = "select string_agg(distinct state || coalesce(reason, ''), '; ') from pgdiode.relation where schema_name = 'odd'";
        assert_eq!(replica.psql(states), "ready", "{name}");
        for table in tables {
            let (here, there) = (rows_of(&replica.cluster, table), rows_of(&source, table));
            assert!(!there.is_empty(), "the oracle sees no rows of {table}");
            if here != there {
                differences.push(format!("{name}: {table}:\n{}", first_difference(&here, &there)));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn first_difference(here: &str, there: &str) -> String {
    let differs = here.lines().zip(there.lines()).find(|(here, there)| here != there);
    let (here, there) = differs.unwrap_or(("another number of rows", ""));
    let shown = |line: &str| line.chars().take(600).collect::<String>();
    format!("here:  {}\nthere: {}", shown(here), shown(there))
}

/// A file may be empty of what is wanted, and wait for what is.
#[test]
fn a_running_reader_follows_wal2json() {
    let source = Cluster::start(Version::V15, &[]);
    source.psql("postgres", "create table t (id int primary key, v text); create table keyless (v text); alter table keyless replica identity full");
    source.psql("postgres", "select pg_create_logical_replication_slot('two', 'wal2json')");
    let replica = Replica::start(
        "create table t (id int primary key, v text); create table keyless (v text)",
        "settle_seconds = 0\ndialect = \"wal2json\"",
    );
    let mut running = replica.begin();
    for round in 1..=4 {
        source.psql("postgres", &format!(
            "insert into t values ({round}, 'a'); insert into keyless values ('x'), ('x'), ('y'); delete from keyless where ctid = (select min(ctid) from keyless where v = 'x');
             begin; update t set v = v || 'b'; savepoint s; delete from t; rollback to s; commit; {}",
            if round == 3 { "truncate t; insert into t values (100, 'after')" } else { "" }
        ));
        let unfinished = replica.directory.path().join(".unfinished");
        receive(&source, "two", &["format-version=2"], &unfinished);
        fs::rename(&unfinished, replica.directory.path().join(format!("{round}.json"))).unwrap();
        let rows = "select (select string_agg(id || v, ' ' order by id) from t) || ' ' || (select string_agg(v, '' order by v) from keyless)";
        let there = source.psql("postgres", rows);
        let is_alike = wait_for(|| (replica.psql(rows) == there).then_some(()));
        assert!(is_alike.is_some(), "here {}, there {there}", replica.psql(rows));
    }
    assert_eq!(replica.psql("select count(*) from pgdiode.note"), "0");
    replica.pgdiode.run(&["stop"]).success();
    assert!(running.wait().success(), "{}", running.stderr());
}
