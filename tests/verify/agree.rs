//! Getting two snapshots of one position, from a pipeline that is written for these tests: it moves the rows of one
//! table with PostgreSQL's own decoding plugin and answers holds as the real one does.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use pgdiode::change::TableName;
use pgdiode::config::Config;
use pgdiode::error::Kind;
use pgdiode::position::Lsn;
use pgdiode::status::VerifyReport;
use pgdiode::target::postgres::progress::CREATE_CONTROL_SCHEMA;
use pgdiode::verify::{Agreed, agree, compare, verify};

use super::{Sides, whole};
use crate::harness::{Cluster, PsqlRun, Version};

const PIPELINE: &str = "main";

/// Both sides with a table `t`, a slot that the pipeline decodes from, and its control schema.
fn prepared() -> Sides {
    let sides = Sides::start(Version::V15, Version::V15);
    sides.both("create table t (id int primary key)");
    let slot = "select lsn from pg_create_logical_replication_slot('moved', 'test_decoding')";
    let from = sides.source(slot);
    sides.target(CREATE_CONTROL_SCHEMA);
    sides.target(&format!(
        "insert into pgdiode.pipeline (name, mode) values ('{PIPELINE}', 'stream');
         insert into pgdiode.position (pipeline, lsn) values ('{PIPELINE}', '{from}')"
    ));
    sides
}

/// Moves what was committed before `at` (to the end without), rows and position in one transaction.
fn move_rows(source: &Cluster, target: &Cluster, at: Option<&str>) {
    let at = at.map_or_else(|| "null".to_owned(), |at| format!("'{at}'"));
    let changes = source.psql(
        "postgres",
        &format!(
            "select lsn, data from pg_logical_slot_get_changes('moved', {at}, null, 'include-xids', 'off')"
        ),
    );
    let mut sql = String::from("begin;");
    let mut position = None;
    for line in changes.lines() {
        if let Some((lsn, "COMMIT")) = line.split_once('|') {
            position = Some(lsn);
        }
        if let Some((_, id)) = line.split_once("table public.t: INSERT: id[integer]:") {
            sql.push_str(&format!("insert into t values ({id});"));
        }
        if let Some((_, id)) = line.split_once("table public.t: DELETE: id[integer]:") {
            sql.push_str(&format!("delete from t where id = {id};"));
        }
    }
    if let Some(lsn) = position {
        sql.push_str(&format!("update pgdiode.position set lsn = '{lsn}';"));
    }
    target.psql("postgres", &(sql + "commit"));
}

/// A process that runs the pipeline: it holds the lock, and looks at what is asked of it in each turn.
struct Fake {
    stop: Arc<AtomicBool>,
    /// Gives the number of requests that were answered.
    thread: JoinHandle<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Obedient,
    /// Says that it holds, and moves on.
    Lying,
    /// Lets go of the lock when it is asked to hold at the slot's position.
    Ending,
}

impl Fake {
    fn start(sides: Arc<Sides>, manner: Manner) -> Fake {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let lock = take_lock(&sides);
        let thread = thread::spawn(move || {
            let mut answered = 0;
            while !stopped.load(Ordering::Relaxed) {
                let asked = sides.target(
                    "select hold_id, hold_at, held_id is not distinct from hold_id from pgdiode.pipeline
                      where hold_id is not null and hold_expires_at > now()",
                );
                let asked: Vec<&str> = asked.split('|').collect();
                let [id, at, is_held] = asked[..] else {
                    move_rows(&sides.source, &sides.target, None);
                    continue;
                };
                if is_held == "t" {
                    if manner == Manner::Lying {
                        move_rows(&sides.source, &sides.target, None);
                    }
                    continue;
                }
                if manner == Manner::Ending && answered == 1 {
                    break;
                }
                move_rows(&sides.source, &sides.target, Some(at));
                if manner == Manner::Lying {
                    sides.source("insert into t select max(id) + 1 from t");
                    move_rows(&sides.source, &sides.target, None);
                }
                sides.target(&format!("update pgdiode.pipeline set held_id = '{id}' where hold_id = '{id}'"));
                answered += 1;
            }
            release_lock(&sides, lock);
            answered
        });
        Fake { stop, thread }
    }

    fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the pipeline went well")
    }
}

const LOCKED: &str = "select exists (select from pg_locks where locktype = 'advisory' and granted)";

fn take_lock(sides: &Sides) -> PsqlRun {
    let sql = format!(
        "select pg_advisory_lock(hashtextextended('pgdiode pipeline {PIPELINE}', 0)); select pg_sleep(600)"
    );
    let lock = sides.target.spawn_psql("postgres", &sql);
    sides.target.wait_until("postgres", LOCKED, "the pipeline's lock");
    lock
}

fn release_lock(sides: &Sides, lock: PsqlRun) {
    sides.target(
        "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted
        and pid in (select pid from pg_stat_activity where query like '%pg_sleep%')",
    );
    lock.wait().expect_err("its backend was ended");
}

/// Commits without a pause, rows in and out, by several sessions.
struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    written: Arc<AtomicU64>,
}

impl Writers {
    fn start(sides: &Arc<Sides>) -> Writers {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = |number: u64| {
            let (sides, stop, written) = (sides.clone(), stop.clone(), written.clone());
            thread::spawn(move || {
                let from = number * 1_000_000;
                sides.source(&format!("insert into t values ({from})"));
                while !stop.load(Ordering::Relaxed) {
                    let next = format!("select max(id) from t where id < {from} + 1000000");
                    let one =
                        format!("insert into t select ({next}) + 1; delete from t where id = ({next}) - 3;");
                    sides.source(&one.repeat(50));
                    written.fetch_add(50, Ordering::Relaxed);
                }
            })
        };
        let threads = (1..=2).map(writer).collect();
        Writers { stop, threads, written }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("the writers go well");
        }
        self.written.load(Ordering::Relaxed)
    }
}

/// Agrees, and lets `catch_up` be called so many times.
fn agreed(sides: &Sides, caught_up: &AtomicU64) -> pgdiode::error::Result<Agreed> {
    let ends = sides.ends();
    sides.runtime.block_on(async {
        let target = ends.target().await.expect("the target answers");
        agree(&ends, PIPELINE, target, async |at: Lsn| {
            caught_up.fetch_add(1, Ordering::Relaxed);
            move_rows(&sides.source, &sides.target, Some(&at.to_string()));
            Ok(())
        })
        .await
    })
}

/// Compares `t` under what was agreed; its rows.
fn assert_identical(sides: &Sides, agreed: &Agreed) -> u64 {
    let progress = tokio::sync::watch::Sender::default();
    let ends = sides.ends();
    let tables = [whole("public.t")];
    let compared = compare(&ends, &agreed.source.id, &agreed.target.id, agreed.at, &tables, 2, &progress);
    let report = sides.runtime.block_on(compared).expect("a comparison");
    assert!(report.identical, "{report:#?}");
    assert_eq!(report.lsn, Some(agreed.at));
    report.tables[0].rows_source
}

fn assert_nothing_is_left(sides: &Sides) {
    let hold = "select concat(hold_id, hold_at, held_id, hold_expires_at) from pgdiode.pipeline";
    assert_eq!(sides.target(hold), "", "a hold is left");
    let slots = "select slot_name from pg_replication_slots";
    assert_eq!(sides.source(slots), "moved", "the temporary slot is left");
}

#[test]
fn a_running_pipeline_is_held_at_one_position_while_the_source_is_written() {
    let sides = Arc::new(prepared());
    let writers = Writers::start(&sides);
    let fake = Fake::start(sides.clone(), Manner::Obedient);
    let caught_up = AtomicU64::new(0);
    let mut rows = Vec::new();
    for _ in 0..5 {
        let agreed = agreed(&sides, &caught_up).expect("an agreement");
        assert_nothing_is_left(&sides);
        // The pipeline goes on while the snapshots stay.
        let position = sides.target("select lsn from pgdiode.position");
        let goes_on = format!("select lsn > '{position}' from pgdiode.position");
        sides.target.wait_until("postgres", &goes_on, "the pipeline to go on");
        rows.push(assert_identical(&sides, &agreed));
    }
    assert!(writers.stop() > 0);
    // Once before the slot is there, lest it run ahead of it, and once at the slot's position.
    assert_eq!(fake.stop(), 10);
    assert_eq!(caught_up.into_inner(), 0, "the pipeline was run beside a running one");
    assert!(rows.iter().all(|rows| *rows > 0), "{rows:?}");
}

#[test]
fn without_a_running_pipeline_the_target_is_brought_to_the_position() {
    let sides = Arc::new(prepared());
    // What a process left that was killed while it verified.
    sides.target("update pgdiode.pipeline set hold_id = 'old', hold_at = '0/1'");
    let writers = Writers::start(&sides);
    let caught_up = AtomicU64::new(0);
    let agreed = agreed(&sides, &caught_up).expect("an agreement");
    writers.stop();
    assert_identical(&sides, &agreed);
    assert_eq!(caught_up.into_inner(), 1);
}

#[test]
fn a_pipeline_that_ends_while_it_is_asked_is_replaced() {
    let sides = Arc::new(prepared());
    let writers = Writers::start(&sides);
    let fake = Fake::start(sides.clone(), Manner::Ending);
    let caught_up = AtomicU64::new(0);
    let agreed = agreed(&sides, &caught_up).expect("an agreement");
    writers.stop();
    assert_identical(&sides, &agreed);
    assert_eq!(caught_up.into_inner(), 1);
    assert_nothing_is_left(&sides);
    fake.stop();
}

#[test]
fn a_target_that_went_on_is_not_compared() {
    let sides = Arc::new(prepared());
    sides.source("insert into t values (1)");
    let fake = Fake::start(sides.clone(), Manner::Lying);
    let error = agreed(&sides, &AtomicU64::new(0)).err().expect("an error");
    assert!(error.what().contains("the target went on to"), "{error:?}");
    assert_nothing_is_left(&sides);
    fake.stop();
}

#[test]
fn a_source_without_a_free_slot_leaves_no_hold_behind() {
    let sides = Arc::new(prepared());
    sides.source.configure(&[("max_replication_slots", "1")]);
    sides.source.restart();
    let fake = Fake::start(sides.clone(), Manner::Obedient);
    let error = agreed(&sides, &AtomicU64::new(0)).err().expect("an error");
    assert_eq!(error.kind(), Kind::Refused, "{error:?}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("max_replication_slots")), "{error:?}");
    assert_nothing_is_left(&sides);
    fake.stop();
}

#[test]
fn two_verifications_do_not_ask_at_once() {
    let sides = Arc::new(prepared());
    let other = format!(
        "select pg_advisory_lock(hashtextextended('pgdiode verify {PIPELINE}', 0)); select pg_sleep(600)"
    );
    let other = sides.target.spawn_psql("postgres", &other);
    sides.target.wait_until("postgres", LOCKED, "the other's lock");
    let error = agreed(&sides, &AtomicU64::new(0)).err().expect("an error");
    assert_eq!(error.kind(), Kind::Locked, "{error:?}");
    release_lock(&sides, other);
}

#[test]
fn verify_knows_what_the_pipeline_carries() {
    let sides = Arc::new(prepared());
    sides.both(
        "create table public.part (id int primary key, a int, secret text); create table public.held (id int primary key);
         create table public.late (id int primary key); create table public.dropped (id int primary key);
         create table public.elsewhere (id int primary key)",
    );
    sides.source(
        "create publication pgdiode_main for table t, part (id, a) where (id < 10), held, late, elsewhere;
         insert into part select n, n, 'secret' from generate_series(1, 20) n; insert into t values (1), (2)",
    );
    sides.target("insert into part select n, n from generate_series(1, 9) n");
    let relation = |name: &str, state: &str, reason: &str| {
        sides.target(&format!(
            "insert into pgdiode.relation (pipeline, schema_name, table_name, state, copied_at, reason)
             values ('{PIPELINE}', 'public', '{name}', '{state}', '0/1', nullif('{reason}', ''))"
        ));
    };
    for (name, state) in [("t", "ready"), ("part", "copied"), ("late", "pending"), ("dropped", "ready")] {
        relation(name, state, "");
    }
    relation("held", "quarantined", "a column is missing");

    let error = verified(&sides, &[]).expect_err("its copy was never finished");
    assert!(error.kind() == Kind::Refused && error.what().contains("never finished its copy"), "{error:?}");
    sides.target("update pgdiode.pipeline set schema_copied = true");

    let report = verified(&sides, &[]).expect("a report");
    let found: Vec<_> = report
        .tables
        .iter()
        .map(|table| (table.name.name.as_str(), table.identical, table.note.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            (
                "dropped",
                false,
                Some("not compared: the publication \"pgdiode_main\" does not carry it any more")
            ),
            ("held", false, Some("not compared: it is quarantined: a column is missing")),
            ("late", false, Some("not compared: it has not been copied yet")),
            ("part", true, None),
            ("t", true, None),
        ]
    );
    assert!(!report.identical);
    assert_eq!(report.tables[4].rows_source, 2);

    let named = |name: &str| TableName::new("public", name);
    assert!(verified(&sides, &[named("t"), named("part")]).expect("a report").identical);
    let error = verified(&sides, &[named("parts")]).expect_err("there is no such table");
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.hint_text().is_some_and(|hint| hint.starts_with("Did you mean public.part?")), "{error:?}");

    sides.target("update pgdiode.relation set copied_at = 'FFFFFFFF/0' where table_name = 't'");
    let error = verified(&sides, &[]).expect_err("its copy is ahead");
    assert!(error.what().contains("of one moment only from FFFFFFFF/0 on"), "{error:?}");
}

fn verified(sides: &Sides, tables: &[TableName]) -> pgdiode::error::Result<VerifyReport> {
    let config = format!(
        "[pipeline.{PIPELINE}]\nsource = '{}'\ntarget = '{}'\ntables = ['public.*', '!public.elsewhere']\n",
        sides.source.conninfo("postgres"),
        sides.target.conninfo("postgres")
    );
    let config = Config::parse(Path::new("pgdiode.toml"), &config).expect("a configuration");
    let pipeline = config.pipeline(None).expect("one pipeline");
    let progress = tokio::sync::watch::Sender::default();
    sides.runtime.block_on(verify(pipeline, tables, &progress, async |at: Lsn| {
        move_rows(&sides.source, &sides.target, Some(&at.to_string()));
        Ok(())
    }))
}
