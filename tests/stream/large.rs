//! Transactions by size and kind: huge ones, tiny ones, empty ones, prepared ones, ones that roll back in part.

use std::fs;

use super::{Ends, Pair, stop};
use crate::harness::Version;

/// In-progress transactions are streamed as soon as they can be; little is kept in memory on either side.
const SMALL: Ends = Ends {
    versions: (Version::V15, Version::V15),
    source_settings: &[("logical_decoding_work_mem", "64kB")],
    target_settings: &[],
    stream: "batch_mb = 1\nspool_mb = 1",
    sections: "",
    proxied: false,
};

const MEMORY_KB_MAX: u64 = 256 * 1024;

fn peak_memory_kb(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("pgdiode runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("Linux tells the peak");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of kB")
}

#[test]
fn large_transactions_arrive_whole_in_little_memory() {
    let pair = Pair::start(SMALL);
    pair.at_source(
        "create table big (id int primary key, v text); create table big_too (id int primary key, v text);
         create table small (id int primary key, v text); create table other (a int, b text); alter table other replica identity full",
    );
    pair.publish("big, big_too, small, other");
    let running = pair.begin_and_copy();
    // Subtransactions that roll back, nested, at the beginning, in the middle, at the end.
    pair.at_source(
        "begin;
         savepoint zero; insert into big select n, repeat('gone', 50) from generate_series(1, 3000) n; rollback to zero;
         insert into big select n, repeat('stays', 100) from generate_series(1, 150000) n;
         savepoint one; update big set v = 'gone' where id < 20000;
           savepoint two; delete from big where id < 5000; release two;
           savepoint three; insert into big_too select n, 'gone' from generate_series(1, 5000) n; rollback to three;
           insert into small values (1, 'gone');
         rollback to one;
         savepoint four; insert into big_too select n, repeat('x', 200) from generate_series(1, 40000) n;
           savepoint five; update big_too set v = 'five' where id % 3 = 0; release five;
         release four;
         insert into other select n % 10, 'o' from generate_series(1, 1000) n;
         delete from big where id % 10 = 0; update big set id = id + 1000000 where id % 100 = 1;
         savepoint six; truncate big_too; insert into small values (2, 'gone'); rollback to six;
         insert into small values (3, 'stays');
         commit",
    );
    pair.assert_alike();
    assert_eq!(pair.at_target("select count(*) from small"), "1");
    // Large ones that interleave with each other and with small ones; one of them rolls back.
    let write = |from: u32, table: &str, end: &str| {
        pair.source.spawn_psql(
            "postgres",
            &format!(
                "begin; insert into {table} select n, repeat('i', 100) from generate_series({from}, {from} + 8000) n;
                 select pg_sleep(0.2); update {table} set v = 'u' || id where id between {from} and {from} + 4000; select pg_sleep(0.2);
                 savepoint s; delete from {table} where id between {from} and {from} + 500; {end}"
            ),
        )
    };
    let writers = [
        write(2_000_000, "big", "rollback to s; commit"),
        write(3_000_000, "big", "commit"),
        write(4_000_000, "big", "rollback"),
        write(5_000_000, "big_too", "release s; commit"),
        write(6_000_000, "big_too", "commit"),
    ];
    for n in 10..60 {
        pair.at_source(&format!("insert into small values ({n}, 'between')"));
    }
    for writer in writers {
        writer.wait().expect("a writer");
    }
    pair.assert_alike();
    let peak = peak_memory_kb(running.pid());
    assert!(peak < MEMORY_KB_MAX, "pgdiode took {peak} kB");
    assert_eq!(pair.at_target("select * from pgdiode.note"), "");
    stop(running);
}

#[test]
fn a_killed_run_begins_a_large_transaction_again() {
    let pair = Pair::start(SMALL);
    pair.at_source("create table big (id int primary key, v text); create table keyless (v text); alter table keyless replica identity full");
    pair.publish("big, keyless");
    let mut running = pair.begin_and_copy();
    let writer = pair.source.spawn_psql(
        "postgres",
        "begin; insert into big select n, repeat('x', 200) from generate_series(1, 60000) n;
         insert into keyless select 'k' || n % 7 from generate_series(1, 20000) n; commit",
    );
    for _ in 0..4 {
        // Killed while it applies: the target has a session in a transaction that writes rows.
        pair.wait_at_target(
            "select exists (select from pg_locks l join pg_class c on c.oid = l.relation
                             where c.relname in ('big', 'keyless') and l.mode = 'RowExclusiveLock')
                 or (select count(*) > 0 from keyless)",
            "the large transaction",
        );
        running.kill9();
        running = pair.begin();
    }
    writer.wait().expect("the writer");
    pair.assert_alike();
    assert_eq!(pair.at_target("select count(*) from keyless"), "20000");
    stop(running);
}

#[test]
fn prepared_and_tiny_and_empty_transactions() {
    let pair = Pair::start(Ends {
        source_settings: &[("logical_decoding_work_mem", "64kB"), ("max_prepared_transactions", "10")],
        ..Ends::default()
    });
    pair.at_source("create table t (id int primary key, v text); create table unpublished (id int)");
    pair.publish("t");
    // Prepared before the slot exists, and while it does.
    pair.at_source("begin; insert into t values (1, 'prepared early'); prepare transaction 'early'");
    let running = pair.begin();
    // A slot waits for what is running, prepared transactions too.
    pair.source.wait_until(
        "postgres",
        "select exists (select from pg_stat_activity where query like 'CREATE_REPLICATION_SLOT%' and wait_event = 'transactionid')",
        "the slot to wait",
    );
    pair.at_source("commit prepared 'early'");
    pair.assert_alike();
    pair.at_source(
        "begin; insert into t select n, 'kept' from generate_series(100, 200) n; prepare transaction 'kept';
         begin; insert into t select n, repeat('large and kept', 20) from generate_series(1000, 6000) n; prepare transaction 'large';
         begin; insert into t select n, 'gone' from generate_series(300, 400) n; prepare transaction 'gone';
         insert into t values (2, 'between')",
    );
    pair.assert_alike();
    assert_eq!(pair.at_target("select count(*) from t"), "2", "prepared is not committed");
    pair.at_source("commit prepared 'large'; insert into t values (3, 'after'); rollback prepared 'gone'; commit prepared 'kept'");
    pair.assert_alike();
    // Ten thousand tiny ones, and as many that change nothing that is published.
    pair.at_source(
        "do $$ begin
           for n in 10001 .. 20000 loop
             insert into t values (n, 'tiny'); commit;
             if n % 2 = 0 then insert into unpublished values (n); commit; end if;
           end loop;
         end $$;
         select pg_logical_emit_message(true, 'a', 'message'), pg_logical_emit_message(false, 'a', 'nother')",
    );
    pair.assert_alike();
    assert_eq!(pair.at_target("select count(*) from t where v = 'tiny'"), "10000");
    stop(running);
}

/// What happens elsewhere in the cluster must not make the slot keep the log for ever.
#[test]
fn an_idle_database_beside_a_busy_one_lets_the_slot_advance() {
    let pair = Pair::start(Ends::default());
    pair.at_source("create table t (id int primary key)");
    pair.at_source("create database busy");
    pair.publish("t");
    let running = pair.begin_and_copy();
    let confirmed = || {
        pair.at_source(
            "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'pgdiode_main'",
        )
    };
    let before = confirmed();
    pair.source.psql("busy", "create table b as select n from generate_series(1, 10000) n");
    let after = pair.at_source("select pg_current_wal_lsn()");
    pair.source.wait_until(
        "postgres",
        &format!("select confirmed_flush_lsn >= '{after}' from pg_replication_slots where slot_name = 'pgdiode_main'"),
        "the slot to advance",
    );
    assert_ne!(before, confirmed());
    pair.assert_alike();
    stop(running);
}

/// What is prepared outlives every process; its rows come once, with the position of its commit.
#[test]
fn prepared_transactions_outlive_restarts() {
    let pair = Pair::start(Ends {
        source_settings: &[("logical_decoding_work_mem", "64kB"), ("max_prepared_transactions", "10")],
        ..Ends::default()
    });
    pair.at_source("create table t (id int primary key, v text)");
    pair.publish("t");
    let mut running = pair.begin_and_copy();
    pair.at_source(
        "begin; insert into t values (1, 'kept'); prepare transaction 'kept';
         begin; insert into t select n, repeat('large', 20) from generate_series(1001, 6000) n;
           savepoint a; insert into t select n, 'gone' from generate_series(7000, 9000) n; rollback to a;
           prepare transaction 'large';
         begin; insert into t select n, repeat('gone', 50) from generate_series(10000, 16000) n; prepare transaction 'gone';
         insert into t values (2, 'between')",
    );
    pair.catch_up();
    running.kill9();
    pair.source.restart();
    pair.at_source("commit prepared 'kept'; insert into t values (3, 'while away')");
    let mut running = pair.begin();
    pair.assert_alike();
    running.kill9();
    pair.at_source("rollback prepared 'gone'; commit prepared 'large'; insert into t values (4, 'after')");
    let running = pair.begin();
    pair.assert_alike();
    assert_eq!(pair.at_target("select count(*) from t"), "5004");
    stop(running);
}

/// Asked for, a message is written where nothing else is, as a transaction that the slot moves past.
#[test]
fn a_heartbeat_is_written_when_it_is_asked_for() {
    let pair = Pair::start(Ends { stream: "heartbeat_seconds = 1", ..Ends::default() });
    pair.at_source("create table t (id int primary key)");
    pair.publish("t");
    let running = pair.begin_and_copy();
    pair.at_source("select pg_create_logical_replication_slot('watch', 'test_decoding')");
    let beats = "select count(*) > 1 from pg_logical_slot_peek_changes('watch', null, null)
        where data like 'message: transactional: 1 prefix: pgdiode%'";
    pair.source.wait_until("postgres", beats, "two beats");
    pair.assert_alike();
    stop(running);
}
