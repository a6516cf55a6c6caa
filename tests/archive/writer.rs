//! The writer: every committed transaction is in the archive once, in order, whatever is killed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use pgdiode::archive::line::Row;
use pgdiode::archive::manifest::{Base, Claim, Manifest, parse, text};
use pgdiode::archive::names::{self, Stored};
use pgdiode::archive::reading::{ChangeFile, Item};
use pgdiode::position::Lsn;
use serde_json::Value;

use crate::harness::{Cluster, PgdiodeRun, Rng, Running, Version, ground, wait_for};

const TABLES: &str = "
    create table counter (id int primary key, n int not null); insert into counter select n, 0 from generate_series(1, 5) n;
    create table entry (id bigserial primary key, v text); insert into entry (v) select 'old' from generate_series(1, 100);
    create procedure work(steps int) language plpgsql as $$ begin
      for step in 1 .. steps loop
        insert into entry (v) select 'w' || step from generate_series(1, 3);
        update counter set n = n + 1 where id = 1 + step % 5;
        if step % 3 = 0 then delete from entry where id = (select min(id) from entry); end if;
        if step % 7 = 0 then update entry set id = -id where id = (select max(id) from entry); end if;
        commit;
      end loop; end $$;";

struct Ground {
    source: Cluster,
    archive: PathBuf,
}

impl Ground {
    fn new() -> Ground {
        let source = Cluster::start(Version::V15, &[]);
        source.psql("postgres", "create database app");
        source.psql("app", TABLES);
        let archive = ground::fresh_directory("archive");
        Ground { source, archive }
    }

    fn pgdiode(&self, lines: &str) -> PgdiodeRun {
        let pgdiode = PgdiodeRun::new(&format!(
            "[pipeline.out]\nsource = \"{}\"\ntarget = \"{}\"\narchive.file_seconds = 0\n{lines}\n",
            self.source.conninfo("app"),
            self.archive.display()
        ));
        pgdiode.run(&["setup", "--yes"]).success();
        pgdiode
    }

    fn work(&self, steps: u32) {
        self.source.psql("app", &format!("call work({steps})"));
    }

    fn manifests(&self) -> Vec<Manifest> {
        let mut manifests: Vec<Manifest> = listed(&self.archive.join(names::MANIFESTS))
            .iter()
            .map(|path| parse("a manifest", &fs::read(path).unwrap()).unwrap())
            .collect();
        manifests.sort_by_key(|manifest| manifest.number);
        manifests
    }

    /// Its number is not always 1: one that was killed half made keeps its own.
    fn base(&self) -> Base {
        let bases = listed(&self.archive.join(names::BASES));
        let made = bases.iter().find_map(|base| fs::read(base.join("manifest.json")).ok());
        parse("a base", &made.expect("there is a base")).unwrap()
    }

    /// What the archive says that the tables hold: its base, and every change once.
    fn replayed(&self) -> Model {
        let base = self.base();
        let mut model = Model::default();
        for table in &base.tables {
            for piece in &table.pieces {
                model.load(&table.table, &content(&self.archive.join(&piece.name)));
            }
        }
        let manifests = self.manifests();
        assert_eq!(manifests[0].number, 1);
        for pair in manifests.windows(2) {
            pair[1].follows(&pair[0]).unwrap();
        }
        for manifest in &manifests {
            assert_eq!(
                sha256(&self.archive.join(&manifest.name)),
                manifest.stored_sha256,
                "{}",
                manifest.name
            );
            model.replay(&self.archive.join(&manifest.name), manifest, base.at);
        }
        model
    }

    /// The archive tells what the source holds now.
    fn assert_complete(&self) {
        let replayed = self.replayed();
        for table in ["counter", "entry"] {
            let rows = self
                .source
                .psql("app", &format!("select coalesce(json_agg(t order by id), '[]') from {table} t"));
            let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
            let here: BTreeMap<i64, Value> =
                rows.into_iter().map(|row| (row["id"].as_i64().unwrap(), row)).collect();
            assert_eq!(replayed.0.get(table).cloned().unwrap_or_default(), here, "table {table}");
        }
        let place = self.archive.display().to_string();
        PgdiodeRun::new("").run(&["archive", "verify", &place]).success();
    }

    fn start(&self, pgdiode: &PgdiodeRun) -> Running {
        let files = self.manifests().len();
        let running = pgdiode.spawn(&["start"]);
        let sealed = wait_for(|| {
            self.source.psql("app", "update counter set n = n where id = 1");
            (self.manifests().len() > files).then_some(())
        });
        assert!(sealed.is_some(), "nothing was sealed: {}", running.stderr());
        running
    }
}

fn catch_up(pgdiode: &PgdiodeRun) {
    pgdiode.run(&["start", "--once-caught-up"]).success();
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'));
    paths.sort();
    paths
}

fn content(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let is_compressed = path.extension().is_some_and(|extension| extension == "zst");
    let bytes = if is_compressed { zstd::decode_all(&bytes[..]).unwrap() } else { bytes };
    String::from_utf8(bytes).unwrap()
}

fn sha256(path: &Path) -> String {
    pgdiode::digest::sha256(&fs::read(path).unwrap())
}

/// Tables by name, rows by their integer key. It takes no change that does not fit, so that nothing can come twice.
#[derive(Default, Debug, PartialEq)]
struct Model(BTreeMap<String, BTreeMap<i64, Value>>);

impl Model {
    /// Rows of `copy`: both tables have a number and a plain value.
    fn load(&mut self, table: &str, text: &str) {
        if table == "bulk" {
            return;
        }
        for line in text.lines() {
            let (id, value) = line.split_once('\t').unwrap();
            let id: i64 = id.parse().unwrap();
            let row = match table {
                "counter" => serde_json::json!({"id": id, "n": value.parse::<i64>().unwrap()}),
                _ => serde_json::json!({"id": id, "v": value}),
            };
            assert!(
                self.0.entry(table.to_owned()).or_default().insert(id, row).is_none(),
                "{table} {id} twice"
            );
        }
    }

    fn replay(&mut self, path: &Path, manifest: &Manifest, base_at: Lsn) {
        let stored = names::parse_change_file(&manifest.name).unwrap().1;
        let mut file = ChangeFile::open(&manifest.name, stored, File::open(path).unwrap()).unwrap();
        while let Some(item) = file.next(&|_| true).unwrap() {
            if let Item::End(end) = item {
                assert_eq!((end.records, end.to), (manifest.records, manifest.to));
            }
        }
        for line in content(path).lines() {
            let row: Row<'_> = serde_json::from_str(line).unwrap();
            let is_row = ["INSERT", "UPDATE", "DELETE"].contains(&row.op.as_ref());
            if !is_row || row.lsn.as_ref().unwrap().parse::<Lsn>().unwrap() < base_at {
                continue;
            }
            let table = self.0.entry(row.table.unwrap().into_owned()).or_default();
            let object = |raw: Option<&serde_json::value::RawValue>| -> Option<Value> {
                raw.map(|raw| serde_json::from_str(raw.get()).unwrap())
            };
            let id = |row: &Value| row["id"].as_i64().unwrap();
            if let Some(old) = object(row.old_keys) {
                assert!(table.remove(&id(&old)).is_some(), "no row for {line}");
            }
            if let Some(new) = object(row.data) {
                assert!(table.insert(id(&new), new).is_none(), "a row is there already for {line}");
            }
        }
    }
}

#[test]
fn what_a_source_commits_is_in_the_archive() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("archive.compression = \"none\"");
    ground.work(10);
    catch_up(&pgdiode);
    ground.assert_complete();
    ground.work(50);
    ground.source.psql("app", "insert into entry (v) values (E'a\\n\"b\\\\'), (null)");
    catch_up(&pgdiode);
    ground.assert_complete();
    let manifests = ground.manifests();
    assert_eq!(manifests.last().unwrap().lineage.slot, "pgdiode_out");
    let status = pgdiode.run(&["status"]).success();
    assert!(
        status.contains(&ground.archive.display().to_string()) && status.contains("the last change file is"),
        "{status}"
    );
    // What is sealed need not be kept by the source.
    let confirmed = "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'pgdiode_out'";
    assert_eq!(ground.source.psql("app", confirmed), manifests.last().unwrap().to.to_string());
}

#[test]
fn compressed_files_hold_the_same() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("archive.compression = \"zstd\"");
    catch_up(&pgdiode);
    ground.work(200);
    catch_up(&pgdiode);
    ground.assert_complete();
    let manifests = ground.manifests();
    assert!(
        manifests.iter().all(|manifest| names::parse_change_file(&manifest.name).unwrap().1 == Stored::Zstd)
    );
    let largest = manifests.iter().max_by_key(|manifest| manifest.content_bytes).unwrap();
    assert!(largest.stored_bytes * 4 < largest.content_bytes, "{largest:?}");
}

#[test]
fn a_writer_killed_at_any_moment_loses_and_repeats_nothing() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    let mut rng = Rng::from_environment_or(1);
    for _ in 0..12 {
        let mut running = pgdiode.spawn(&["start"]);
        let writer = ground.source.spawn_psql("app", "call work(150)");
        std::thread::sleep(std::time::Duration::from_millis(u64::try_from(rng.i32(0..1200)).unwrap()));
        running.kill9();
        writer.wait().unwrap();
    }
    catch_up(&pgdiode);
    ground.assert_complete();
}

#[test]
fn a_source_that_is_killed_is_followed_again() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("retry.first_ms = 50\nretry.max_ms = 200");
    let running = ground.start(&pgdiode);
    ground.work(100);
    ground.source.kill9();
    ground.source.start_again();
    ground.work(100);
    running.terminate();
    let mut running = running;
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
    catch_up(&pgdiode);
    ground.assert_complete();
}

#[test]
fn an_archive_that_is_away_for_a_while_is_waited_for() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("retry.first_ms = 50\nretry.max_ms = 200");
    let mut running = ground.start(&pgdiode);
    let away = ground.archive.with_extension("away");
    fs::rename(&ground.archive, &away).unwrap();
    ground.work(50);
    running.wait_for_log("trying again");
    // What lies below a disk that is not mounted is no archive.
    fs::create_dir(&ground.archive).unwrap();
    running.wait_for_log("holds no archive");
    assert_eq!(listed(&ground.archive), Vec::<PathBuf>::new());
    fs::remove_dir(&ground.archive).unwrap();
    fs::rename(&away, &ground.archive).unwrap();
    let files = ground.manifests().len();
    assert!(wait_for(|| (ground.manifests().len() > files).then_some(())).is_some(), "{}", running.stderr());
    pgdiode.run(&["stop"]).success();
    assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
    catch_up(&pgdiode);
    ground.assert_complete();
}

#[test]
fn a_killed_writers_whole_file_is_sealed_by_the_next() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    catch_up(&pgdiode);
    ground.work(20);
    catch_up(&pgdiode);
    let before = ground.manifests();
    let last = before.last().unwrap();
    fs::remove_file(ground.archive.join(names::manifest(last.number))).unwrap();
    ground.work(5);
    catch_up(&pgdiode);
    let after = ground.manifests();
    let again = &after[before.len() - 1];
    assert_eq!(Manifest { sealed: again.sealed.clone(), ..last.clone() }, *again);
    ground.assert_complete();
}

#[test]
fn an_idle_sources_position_moves_on() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("archive.idle_seconds = 1");
    let running = ground.start(&pgdiode);
    ground
        .source
        .psql("app", "create table elsewhere (n int); insert into elsewhere select generate_series(1, 1000)");
    let end: Lsn = ground.source.psql("app", "select pg_current_wal_flush_lsn()").parse().unwrap();
    let empty =
        || ground.manifests().into_iter().find(|manifest| manifest.records == 0 && manifest.to >= end);
    assert!(wait_for(empty).is_some(), "{}", running.stderr());
    ground.assert_complete();
}

/// What rewrites a table does not keep to snapshots: to one that is older the table looks empty.
#[test]
fn a_table_that_is_written_anew_while_the_base_reads_it_is_read_again() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("retry.first_ms = 50\ncopy.jobs = 1\ntables = [\"public.*\"]");
    // Read first, and for long enough.
    ground.source.psql("app", "create table bulk (id int primary key, v text); insert into bulk select n, repeat('x', 300) from generate_series(1, 100000) n");
    pgdiode.run(&["setup", "--yes"]).success();
    let rewrite = ground.source.spawn_psql(
        "app",
        "do $$ begin
           while not exists (select from pg_replication_slots where slot_name like 'pgdiode_base%' and confirmed_flush_lsn is not null) loop
             perform pg_sleep(0.005);
           end loop; end $$;
         alter table entry alter v type varchar(60);",
    );
    let running = ground.start(&pgdiode);
    rewrite.wait().unwrap();
    assert!(running.stderr().contains("was written anew"), "{}", running.stderr());
    drop(running);
    ground.work(5);
    catch_up(&pgdiode);
    ground.assert_complete();
}

/// A later base lets what lies before it be pruned, and a new reader needs nothing else.
#[test]
fn a_base_is_added_while_the_writer_runs() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    let running = ground.start(&pgdiode);
    ground.source.psql("app", "create table late (id int primary key); insert into late values (1)");
    pgdiode.run(&["setup", "--yes"]).success();
    ground.work(50);
    let said = pgdiode.run(&["archive", "base"]).success();
    assert!(said.contains("base 2:") && said.contains("of 3 tables"), "{said}");
    running.terminate();
    let mut running = running;
    running.wait();
    let pruned = pgdiode.run(&["archive", "prune", "--yes"]).success();
    let first = ground.manifests()[0].number;
    assert!(first > 1, "{pruned}");
    let target = Cluster::start(Version::V15, &[]);
    let reader = PgdiodeRun::new(&format!(
        "[pipeline.laptop]\nsource = \"{}\"\ntarget = \"{}\"",
        ground.archive.display(),
        target.conninfo("postgres")
    ));
    reader.run(&["start", "--once-caught-up"]).success();
    for table in ["counter", "entry", "late"] {
        let sql = format!("select json_agg(t order by id) from {table} t");
        assert_eq!(target.psql("postgres", &sql), ground.source.psql("app", &sql), "table {table}");
    }
    let said = reader.run(&["archive", "base"]).failure(2);
    assert!(said.contains("does not write an archive"), "{said}");
}

#[test]
fn one_archive_has_one_writer() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    let mut running = ground.start(&pgdiode);
    let said = pgdiode.run(&["start"]).failure(5);
    assert!(said.contains("start of pipeline out"), "{said}");
    // Somebody on another host takes over.
    let newest = listed(&ground.archive.join(names::EPOCHS)).pop().unwrap();
    let newest: Claim = parse("a claim", &fs::read(newest).unwrap()).unwrap();
    let claim = Claim { epoch: newest.epoch + 1, host: "elsewhere".into(), ..newest };
    fs::write(ground.archive.join(names::epoch(claim.epoch)), text(&claim)).unwrap();
    ground.work(1);
    assert_eq!(running.wait().code(), Some(5), "{}", running.stderr());
    assert!(running.stderr().contains("another writer has taken over"), "{}", running.stderr());
    // What it had put there is whole, and is sealed by whoever goes on.
    catch_up(&pgdiode);
    ground.assert_complete();
}

#[test]
fn a_number_that_another_has_taken_is_not_written_over() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    let mut running = ground.start(&pgdiode);
    // The run may be about to take that number itself: whoever is first has it.
    let next = loop {
        let number = ground.manifests().len() as u64 + 1;
        let next = ground.archive.join(names::change_file(number, Stored::Plain));
        if let Ok(mut file) = File::create_new(&next) {
            file.write_all(b"not ours\n").unwrap();
            break next;
        }
    };
    ground.work(1);
    assert_eq!(running.wait().code(), Some(5), "{}", running.stderr());
    assert_eq!(fs::read_to_string(&next).unwrap(), "not ours\n");
    let said = pgdiode.run(&["start"]).failure(4);
    assert!(said.contains("it is no header of a change file"), "{said}");
}

#[test]
fn what_no_archive_should_be_filled_from_is_refused() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    catch_up(&pgdiode);
    // The slot is made again: what it had is gone.
    ground.work(5);
    ground.source.psql("app", "select pg_drop_replication_slot('pgdiode_out')");
    let said = pgdiode.run(&["start"]).failure(3);
    assert!(said.contains("slot \"pgdiode_out\" is gone"), "{said}");
    ground.source.psql("app", "select pg_create_logical_replication_slot('pgdiode_out', 'pgoutput')");
    let said = pgdiode.run(&["start"]).failure(3);
    assert!(said.contains("beyond the target's position"), "{said}");
    // An empty place where the archive should be: its disk is not mounted.
    let away = ground.archive.with_extension("away");
    fs::rename(&ground.archive, &away).unwrap();
    fs::create_dir(&ground.archive).unwrap();
    let said = pgdiode.run(&["start"]).failure(3);
    assert!(said.contains("holds no archive that knows of it") && said.contains("mounted?"), "{said}");
    assert_eq!(listed(&ground.archive), Vec::<PathBuf>::new());
    let foreign = ground::fresh_directory("foreign");
    fs::write(foreign.join("holiday.jpg"), "x").unwrap();
    let other = PgdiodeRun::new(&format!(
        "[pipeline.out]\nsource = \"{}\"\ntarget = \"{}\"",
        ground.source.conninfo("app"),
        foreign.display()
    ));
    let said = other.run(&["start"]).failure(3);
    assert!(said.contains("holds holiday.jpg and is no archive of ours"), "{said}");
}

#[test]
fn a_paused_writer_rests_until_it_is_resumed() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    pgdiode.run(&["pause", "--reason", "maintenance"]).success();
    pgdiode.run(&["pause", "--reason", "another"]).success();
    let refused = pgdiode.run(&["start", "--once-caught-up"]).failure(3);
    assert!(refused.contains("is paused by") && refused.contains(": maintenance"), "{refused}");
    assert!(pgdiode.run(&["resume"]).stderr.contains("may run again"));
    assert!(pgdiode.run(&["resume"]).stderr.contains("was not paused"));

    // A daemon hears it as well, and starts again by itself.
    let listen = format!("127.0.0.1:{}", ground::free_port());
    let daemon = pgdiode.spawn(&["start", "--listen", &listen]);
    let runs = |wanted: bool| {
        let is_so = wait_for(|| {
            let status = pgdiode.run(&["status", "--json"]).success();
            let status: Value = serde_json::from_str(&status).unwrap();
            (status["running_on"].is_object() == wanted).then_some(())
        });
        assert!(is_so.is_some(), "it runs: {wanted}? {}", daemon.stderr());
    };
    runs(true);
    pgdiode.run(&["pause", "--reason", "again"]).success();
    runs(false);
    ground.work(9);
    pgdiode.run(&["resume"]).success();
    runs(true);
    drop(daemon);
    pgdiode.run(&["start", "--once-caught-up"]).success();
    ground.assert_complete();
}
