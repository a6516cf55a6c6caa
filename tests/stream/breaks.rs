//! Servers, networks and runs that break, at awkward moments: nothing is lost, nothing applied twice.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{Ends, Pair, stop};

/// Rows without any key would be doubled by a change applied twice; counters would be off by one lost.
const TABLES: &str = "
    create table keyless (n int, v text); alter table keyless replica identity full;
    create table counter (id int primary key, n int not null); insert into counter select n, 0 from generate_series(1, 5) n;
    create procedure work(steps int) language plpgsql as $$ begin
      for step in 1 .. steps loop
        insert into keyless select step % 10, 'w' from generate_series(1, 3);
        update counter set n = n + 1 where id = 1 + step % 5;
        if step % 3 = 0 then delete from keyless where ctid = (select min(ctid) from keyless where n = step % 10); end if;
        commit;
      end loop; end $$;";

fn working_pair(ends: Ends) -> Pair {
    let pair = Pair::start(ends);
    pair.at_source(TABLES);
    pair.publish("keyless, counter");
    pair
}

/// Runs `trouble` while a writer works, and stops the writer after it.
fn while_writing(pair: &Pair, trouble: impl FnOnce()) {
    let (done, source) = (AtomicBool::new(false), &pair.source);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                // The source itself may be away for a moment.
                drop(source.try_psql("postgres", "call work(20)"));
            }
        });
        let finish = Finish(&done);
        trouble();
        drop(finish);
    });
}

/// Ends the writer even if the trouble panics.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn progress(pair: &Pair) -> String {
    pair.at_target("select coalesce(sum(n), 0) from counter")
}

/// Waits until the target shows newer work.
fn wait_for_progress(pair: &Pair) {
    let before = progress(pair);
    pair.wait_at_target(&format!("select sum(n) > {before} from counter"), "progress");
}

#[test]
fn servers_that_go_and_come_back() {
    let pair = working_pair(Ends::default());
    let running = pair.begin_and_copy();
    while_writing(&pair, || {
        pair.target.stop_fast();
        pair.at_source("call work(50)");
        pair.target.start_again();
        wait_for_progress(&pair);
        pair.target.kill9();
        pair.at_source("call work(50)");
        pair.target.start_again();
        wait_for_progress(&pair);
        pair.source.kill9();
        pair.source.start_again();
        wait_for_progress(&pair);
        pair.source.restart();
        wait_for_progress(&pair);
        pair.source.stop_immediate();
        pair.target.stop_immediate();
        pair.target.start_again();
        pair.source.start_again();
        wait_for_progress(&pair);
    });
    pair.assert_alike();
    assert_eq!(pair.at_target("select * from pgdiode.note"), "");
    stop(running);
}

#[test]
fn networks_that_break_on_either_side() {
    let pair = working_pair(Ends {
        proxied: true,
        source_settings: &[("wal_sender_timeout", "3s")],
        ..Ends::default()
    });
    let running = pair.begin_and_copy();
    while_writing(&pair, || {
        for proxy in [pair.source_proxy(), pair.target_proxy()] {
            proxy.cut();
            pair.at_source("call work(5)");
            proxy.heal();
            wait_for_progress(&pair);
            proxy.half_close();
            pair.at_source("call work(5)");
            proxy.heal();
            wait_for_progress(&pair);
            proxy.freeze();
            pair.at_source("call work(5)");
            proxy.heal();
            wait_for_progress(&pair);
            proxy.freeze();
            pair.at_source("call work(5)");
            proxy.cut();
            proxy.heal();
            wait_for_progress(&pair);
            proxy.delay(50);
            wait_for_progress(&pair);
            proxy.heal();
            for bytes in [1, 100, 5_000, 50_000] {
                proxy.truncate_after(bytes);
                let cut = crate::harness::wait_for(|| {
                    drop(pair.source.try_psql("postgres", "call work(20)"));
                    (proxy.connections() == 0).then_some(())
                });
                assert!(cut.is_some(), "{bytes} bytes never passed");
                proxy.heal();
                wait_for_progress(&pair);
            }
        }
    });
    pair.assert_alike();
    assert_eq!(pair.at_target("select * from pgdiode.note"), "");
    stop(running);
}

/// A connection that a firewall has forgotten: no end of it is ever told, and the pipeline must find out.
#[test]
fn a_source_that_falls_silent_is_left() {
    let pair = working_pair(Ends {
        proxied: true,
        source_settings: &[("wal_sender_timeout", "2s")],
        ..Ends::default()
    });
    let mut running = pair.begin_and_copy();
    pair.source_proxy().freeze();
    pair.at_source("call work(5)");
    running.wait_for_log("silent");
    pair.source_proxy().cut();
    pair.source_proxy().heal();
    pair.assert_alike();
    stop(running);
}

#[test]
fn killed_and_terminated_runs_go_on_where_they_were() {
    let pair = working_pair(Ends::default());
    let mut running = pair.begin();
    while_writing(&pair, || {
        for round in 0..8 {
            pair.wait_at_target("select to_regclass('counter') is not null", "the tables");
            if round > 2 {
                wait_for_progress(&pair);
            }
            if round % 3 == 2 {
                running.terminate();
                let status = running.wait();
                // Before it listens for signals it ends like any other process, having done nothing.
                let ended =
                    status.code() == Some(0) || status.code() == Some(143) || status.signal() == Some(15);
                assert!(ended, "{status}\n{}", running.stderr());
            } else {
                running.kill9();
            }
            running = pair.begin();
        }
    });
    pair.assert_alike();
    assert_eq!(pair.at_target("select * from pgdiode.note"), "");
    stop(running);
}

/// Killed in mid-copy, it goes on with what is unfinished; large tables in pieces are begun again, not doubled.
#[test]
fn a_copy_that_was_cut_off_goes_on_with_the_unfinished_tables() {
    let pair = Pair::start(Ends {
        sections: "[pipeline.main.copy]\nsplit_mb = 1\njobs = 2\n",
        proxied: true,
        ..Ends::default()
    });
    pair.at_source(
        "create table pieces (id int, v text); alter table pieces replica identity full;
         insert into pieces select n, repeat('p', 200) from generate_series(1, 60000) n;
         create table pieces_key (id int primary key, v text); insert into pieces_key select n, repeat('p', 200) from generate_series(1, 40000) n",
    );
    let small: Vec<String> = (1..=8).map(|n| format!("small_{n}")).collect();
    for table in &small {
        pair.at_source(&format!("create table {table} (id int primary key, v text); insert into {table} select n, 'v' from generate_series(1, 500) n"));
    }
    pair.publish(&format!("pieces, pieces_key, {}", small.join(", ")));
    // Slow enough to be met in the middle.
    pair.source_proxy().delay(20);
    let mut running = pair.begin();
    for _ in 0..3 {
        pair.wait_at_target("select sum(n_tup_ins) > 0 from pg_stat_all_tables where relname like 'pieces%' or relname like 'small%'", "rows");
        let partly = "select exists (select from pieces) or exists (select from pieces_key) or exists (select from pgdiode.relation where copied_at is not null)";
        pair.wait_at_target(partly, "a part of the copy");
        running.kill9();
        pair.at_source("insert into pieces values (0, 'between'); update pieces_key set v = 'between' where id % 1000 = 0; delete from small_1 where id < 10");
        let copied = pair.at_target("select string_agg(table_name || ' ' || copied_at, ', ' order by 1) from pgdiode.relation where copied_at is not null and state in ('copied', 'ready')");
        running = pair.begin();
        let kept: Vec<&str> = copied.split(", ").filter(|entry| !entry.is_empty()).collect();
        pair.wait_at_target(
            "select exists (select from pgdiode.pipeline where phase <> 'new')",
            "the next run",
        );
        for entry in kept {
            let (table, at) = entry.split_once(' ').expect("a table and a position");
            assert_eq!(
                pair.at_target(&format!(
                    "select copied_at from pgdiode.relation where table_name = '{table}'"
                )),
                at,
                "{table} was copied again"
            );
        }
    }
    pair.source_proxy().heal();
    pair.assert_alike();
    assert_eq!(pair.at_target("select count(*) from pg_indexes where tablename = 'pieces_key'"), "1");
    stop(running);
}

/// A slot that is being made belongs to its session: it may be gone by the time the next run drops it.
#[test]
fn a_run_killed_while_its_slot_is_made_leaves_nothing_in_the_way() {
    let pair = working_pair(Ends::default());
    pair.at_source("begin; insert into keyless values (0, 'held'); prepare transaction 'held'");
    let mut running = pair.begin();
    let walsender = |command: &str| {
        format!(
            "select count(*) > 0 from pg_stat_activity where backend_type = 'walsender' and query like '{command}%' and state = 'active'"
        )
    };
    pair.source.wait_until("postgres", &walsender("CREATE_REPLICATION_SLOT"), "the slot to wait");
    running.kill9();
    let running = pair.begin();
    pair.source.wait_until("postgres", &walsender("DROP_REPLICATION_SLOT"), "the next run to wait for it");
    pair.at_source(
        "select pg_terminate_backend(pid) from pg_stat_activity where query like 'CREATE_REPLICATION_SLOT%'",
    );
    pair.at_source("commit prepared 'held'");
    pair.assert_alike();
    stop(running);
}
