//! The invariants, and what fails when one is broken.
//!
//! | invariant | guarded by |
//! |---|---|
//! | 1 rows and position commit together | [`rows_and_position_commit_together`], `pump::tests`, `breaks`, `chaos` |
//! | 2 order and repetition by commit end | `pump::tests`, `plan::tests`, `breaks::killed_and_terminated_runs_go_on_where_they_were` |
//! | 3 nothing is confirmed that is not durable | [`nothing_is_confirmed_before_the_target_has_it`], `pump::tests` |
//! | 4 another history stops with an explanation | `refusals` |
//! | 5 only states that the source had | [`a_batch_shows_itself_whole`], `chaos` |
//! | 6 nothing is dropped silently | `conflicts`, `schema::rows_that_a_change_of_shape_rewrote_are_not_left_behind` |
//! | 7 the source is not written | [`the_source_is_not_written`] |
//! | 9 memory is bounded | `large::large_transactions_arrive_whole_in_little_memory` |
//! | 10 a secret is nowhere to be seen | [`a_password_is_nowhere_to_be_seen`] |

use std::fs;

use super::{Ends, Pair, stop};

const SLOT: &str = "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'pgdiode_main'";

#[test]
fn rows_and_position_commit_together() {
    let pair = Pair::start(Ends::default());
    pair.at_source("create table t (id int primary key)");
    pair.publish("t");
    let mut running = pair.begin_and_copy();
    // The position cannot be written: then neither may the rows.
    pair.at_target(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no position'; end $$;
         create trigger refuse before update on pgdiode.position for each row execute function refuse();
         alter table pgdiode.position enable always trigger refuse",
    );
    pair.at_source("insert into t select generate_series(1, 100)");
    assert!(!running.wait().success());
    assert!(running.stderr().contains("no position"), "{}", running.stderr());
    assert_eq!(pair.at_target("select count(*) from t"), "0", "rows without their position");
    pair.at_target("drop function refuse cascade");
    let running = pair.begin();
    pair.assert_alike();
    stop(running);
}

#[test]
fn nothing_is_confirmed_before_the_target_has_it() {
    let pair = Pair::start(Ends { source_settings: &[("wal_sender_timeout", "2s")], ..Ends::default() });
    pair.at_source("create table t (id int primary key, v text); create table u (id int primary key)");
    pair.publish("t, u");
    let mut running = pair.begin_and_copy();
    // The target holds the flush up; status goes to the source meanwhile, and it must not say "flushed".
    let locker =
        pair.target.spawn_psql("postgres", "begin; lock table t in exclusive mode; select pg_sleep(600)");
    let locked = "select exists (select from pg_locks l join pg_class c on c.oid = l.relation where relname = 't' and mode = 'ExclusiveLock' and granted)";
    pair.wait_at_target(locked, "the lock");
    let before = pair.at_source("select pg_current_wal_lsn()");
    pair.at_source("insert into t select n, 'held up' from generate_series(1, 100) n");
    pair.wait_at_target("select exists (select from pg_locks where not granted)", "the flush to be held up");
    pair.at_source("insert into u select generate_series(1, 100)");
    let replies = pair.at_source("select reply_time from pg_stat_replication");
    pair.source.wait_until(
        "postgres",
        &format!(
            "select reply_time > timestamptz '{replies}' + interval '1 second' from pg_stat_replication"
        ),
        "a later status",
    );
    assert_eq!(
        pair.at_source(&format!("select ({SLOT}) <= '{before}'")),
        "t",
        "confirmed what the target does not have"
    );
    running.kill9();
    locker.kill();
    pair.at_target("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'");
    let running = pair.begin();
    pair.assert_alike();
    stop(running);
}

/// Whoever looks sees all of a source transaction or nothing of it.
#[test]
fn a_batch_shows_itself_whole() {
    let pair = Pair::start(Ends { stream: "batch_mb = 1", ..Ends::default() });
    pair.at_source("create table a (n int primary key, v text); create table b (n int primary key, v text)");
    pair.publish("a, b");
    let running = pair.begin_and_copy();
    let writer = pair.source.spawn_psql(
        "postgres",
        "do $$ begin for step in 0 .. 60 loop
           insert into a select step * 1000 + n, repeat('a', 1000) from generate_series(1, 1 + (step * 37) % 900) n;
           insert into b select step * 1000 + n, 'b' from generate_series(1, 1 + (step * 37) % 900) n;
           commit; end loop; end $$",
    );
    let mut states = 0;
    let mut last = String::new();
    while last != pair.at_source("select count(*) from a") || last == "0" {
        let shown = pair.at_target("select (select count(*) from a) || ' ' || (select count(*) from b)");
        let (a, b) = shown.split_once(' ').expect("two counts");
        assert_eq!(a, b, "a part of a transaction");
        if last != a {
            (states, last) = (states + 1, a.to_owned());
        }
        pair.wait_at_target("select true", "pgdiode");
    }
    writer.wait().expect("the writer");
    assert!(states > 1, "the target was seen in one state only");
    pair.assert_alike();
    stop(running);
}

#[test]
fn the_source_is_not_written() {
    let pair = Pair::start(Ends { source_settings: &[("log_statement", "mod")], ..Ends::default() });
    pair.at_source("create table t (id int primary key); insert into t select generate_series(1, 100)");
    pair.publish("t");
    let running = pair.begin_and_copy();
    pair.at_source("insert into t values (1000)");
    pair.assert_alike();
    stop(running);
    let log = fs::read_to_string(pair.source.directory().join("log")).expect("the source has a log");
    let ours: Vec<&str> =
        log.lines().filter(|line| line.contains("pgdiode main") && line.contains("statement:")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
    assert!(
        log.lines().any(|line| line.contains("statement: insert into t values (1000)")),
        "the log shows nothing"
    );
}

#[test]
fn a_password_is_nowhere_to_be_seen() {
    const PASSWORD: &str = "hunter2-not-to-be-seen";
    let mut pair = Pair::start(Ends::default());
    pair.at_source("create table t (id int primary key); insert into t values (1)");
    pair.publish("t");
    for server in [&pair.source, &pair.target] {
        server.add_scram_user("mover", PASSWORD, "superuser replication");
    }
    let config = fs::read_to_string(pair.pgdiode.config_path()).expect("a configuration");
    let config = config.replace("postgresql://postgres@", &format!("postgresql://mover:{PASSWORD}@"));
    fs::write(pair.pgdiode.config_path(), config).expect("it can be written");
    pair.pgdiode.set("RUST_LOG", "trace");
    let running = pair.pgdiode.spawn(&["start", "-vvv"]);
    pair.process.set(running.pid());
    pair.assert_alike();
    let arguments = fs::read(format!("/proc/{}/cmdline", running.pid())).expect("pgdiode runs");
    assert!(!String::from_utf8_lossy(&arguments).contains(PASSWORD), "in the process list");
    // Something goes wrong, and is said.
    pair.target.restart();
    pair.assert_alike();
    let stored = pair.at_target(
        "select query_to_xml('select * from pgdiode.pipeline', true, false, ''), query_to_xml('select * from pgdiode.note', true, false, ''),
                query_to_xml('select application_name, query from pg_stat_activity', true, false, '')",
    );
    let said = running.stdout() + &running.stderr();
    assert!(said.len() > 100 && !said.contains(PASSWORD), "in the log");
    assert!(stored.contains("<row") && !stored.contains(PASSWORD), "in the target");
    stop(running);
}
