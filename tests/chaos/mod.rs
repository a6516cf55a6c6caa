//! Chance against the whole: writers work on the source while servers, networks and runs break at random, and the
//! target is asked all the time whether it shows a state that the source had. `PGDIODE_SEED` repeats the troubles,
//! though not the servers' own timing; `PGDIODE_CHAOS_SECONDS` says how long `make chaos` goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, Proxy, Rng, Running, Version, wait_for};
use crate::stream::{Ends, Pair, stop};

const SCHEMA: &str = include_str!("schema.sql");

const TABLES: &str = "chaos.account_a, chaos.account_b, chaos.audit, chaos.ledger, chaos.keyed, chaos.uniques, chaos.large, chaos.keyless,
    chaos.emptied, chaos.evolving, chaos.parts, chaos.prepared";

/// True of the source after every commit: each transfer takes as much as it gives, and is written down once.
const INVARIANT: &str = "
    select case when exists (select from pgdiode.relation where state <> 'ready')
                  or (select lsn from pgdiode.position) < (select max(copied_at) from pgdiode.relation) then 'copying'
           else concat_ws(' ',
                'balance', (select sum(balance) from chaos.account_a) + (select sum(balance) from chaos.account_b),
                'unwritten', (select sum(n) from chaos.ledger) - (select count(*) from chaos.audit),
                'moved', (select coalesce(sum(amount), 0) from chaos.audit) - (select sum(moved) from chaos.ledger)) end";
const HOLDS: &str = "balance 0 unwritten 0 moved 0";

#[test]
fn the_target_shows_only_states_that_the_source_had() {
    chaos(Rng::from_environment_or(1), Duration::from_secs(16));
}

/// The long run of `make chaos`.
#[test]
#[ignore = "as long as PGDIODE_CHAOS_SECONDS says, by default ten minutes"]
fn the_target_shows_only_states_that_the_source_had_for_long() {
    let seconds = std::env::var("PGDIODE_CHAOS_SECONDS").map_or(600, |text| text.parse().expect("seconds"));
    chaos(Rng::from_environment(), Duration::from_secs(seconds));
}

/// How long writers and troubles go on between comparisons of everything.
const ROUND: Duration = Duration::from_secs(8);

fn chaos(mut rng: Rng, length: Duration) {
    let versions = if rng.bool() { (Version::V15, Version::V15) } else { (Version::V17, Version::V18) };
    let pair = Pair::start(Ends {
        versions,
        source_settings: &[
            ("logical_decoding_work_mem", "64kB"),
            ("wal_sender_timeout", "3s"),
            ("deadlock_timeout", "50ms"),
        ],
        stream: "batch_mb = 1\nspool_mb = 1\nsequences_seconds = 1",
        sections: "[pipeline.main.copy]\nsplit_mb = 1\n",
        proxied: true,
        ..Ends::default()
    });
    pair.at_source(SCHEMA);
    pair.publish(TABLES);
    let mut running = Some(pair.begin());
    let end = Instant::now() + length;
    let mut columns = 0;
    while Instant::now() < end {
        let round = Instant::now() + ROUND.min(length);
        let ended = &AtomicBool::new(false);
        thread::scope(|scope| {
            let _finish = Finish(ended);
            let seeds: Vec<u64> = (0..4).map(|_| rng.u64(0..1_000_000)).collect();
            for (writer, seed) in seeds.into_iter().enumerate() {
                let source = &pair.source;
                scope.spawn(move || write(source, writer, seed, ended));
            }
            let target = &pair.target;
            let watcher = scope.spawn(move || watch(target, ended));
            let mut run = running.take().expect("there is a run");
            while Instant::now() < round && !watcher.is_finished() {
                run = trouble(&pair, run, &mut rng, &mut columns);
            }
            running = Some(run);
        });
        running = running.map(|run| settle(&pair, run));
        pair.assert_alike();
        let notes = pair.at_target("select * from pgdiode.note where kind <> 'schema-left-out' limit 10");
        assert_eq!(notes, "", "conflicts on a target that nobody else writes to");
        let shown = pair.at_target(INVARIANT);
        assert_eq!(shown, HOLDS);
    }
    running.into_iter().for_each(stop);
}

/// Ends the writers even if the troubles panic.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Works on the source until told to end; it may be away for a moment.
fn write(source: &Cluster, writer: usize, seed: u64, ended: &AtomicBool) {
    let mut rng = Rng::with_seed(seed);
    while !ended.load(Ordering::SeqCst) {
        let sql = if writer == 0 && rng.u32(0..3) == 0 {
            prepared(&mut rng)
        } else {
            format!("set lock_timeout = '1s'; call chaos.run({writer}, {}, 10)", rng.u32(0..1_000_000))
        };
        drop(source.try_psql("postgres", &sql));
    }
}

/// A transaction in two phases, with others in between; one that the source's end leaves behind is settled later.
fn prepared(rng: &mut Rng) -> String {
    let id = rng.u32(..1_000_000_000);
    let end = if rng.bool() { "commit" } else { "rollback" };
    format!(
        "set lock_timeout = '1s'; begin; insert into chaos.prepared select {id} + n, 'p' from generate_series(1, {}) n; delete from chaos.prepared where id % 7 = {};
         prepare transaction 'chaos {id}'; call chaos.run(0, {id}, 2); {end} prepared 'chaos {id}'",
        if rng.bool() { 2 } else { 2000 },
        id % 7
    )
}

/// Asks the target again and again; it may be away.
fn watch(target: &Cluster, ended: &AtomicBool) {
    while !ended.load(Ordering::SeqCst) {
        if let Ok(shown) = target.try_psql("postgres", INVARIANT) {
            assert!(
                shown == HOLDS || shown == "copying",
                "the target shows what the source never had: {shown}"
            );
        }
    }
}

/// Breaks something, lets it be so for a moment, and mends it.
fn trouble(pair: &Pair, mut running: Running, rng: &mut Rng, columns: &mut u32) -> Running {
    running = keep_running(pair, running);
    match rng.u32(0..14) {
        0..=2 => {
            running.kill9();
            moment(rng);
            running = pair.begin();
        }
        3 => {
            running.terminate();
            running.wait();
            running = pair.begin();
        }
        4 => break_server(&pair.source, rng),
        5 => break_server(&pair.target, rng),
        6..=8 => break_network(pair.source_proxy(), rng),
        9..=11 => break_network(pair.target_proxy(), rng),
        12 if *columns < 12 => {
            *columns += 1;
            let default = ["", " default 7", " not null default 'x'"][rng.usize(0..3)];
            let type_sql = if default.contains('x') { "text" } else { "int" };
            let sql = format!(
                "set lock_timeout = '2s'; alter table chaos.evolving add column c{columns} {type_sql}{default}"
            );
            drop(pair.source.try_psql("postgres", &sql));
        }
        _ => {}
    }
    moment(rng);
    running
}

fn moment(rng: &mut Rng) {
    thread::sleep(Duration::from_millis(rng.u64(0..400)));
}

fn break_server(server: &Cluster, rng: &mut Rng) {
    match rng.u32(0..3) {
        0 => server.kill9(),
        1 => server.stop_immediate(),
        _ => server.stop_fast(),
    }
    moment(rng);
    server.start_again();
}

fn break_network(proxy: &Proxy, rng: &mut Rng) {
    match rng.u32(0..5) {
        0 => proxy.cut(),
        1 => proxy.delay(rng.u64(1..50)),
        2 => proxy.half_close(),
        3 => proxy.truncate_after(rng.u64(0..200_000)),
        _ => {
            proxy.freeze();
            moment(rng);
            if rng.bool() {
                proxy.cut();
            }
        }
    }
    moment(rng);
    proxy.heal();
}

/// A run that began while a server was away gives up: that is no outage but, for all it knows, a wrong address.
fn keep_running(pair: &Pair, mut running: Running) -> Running {
    if running.is_running() {
        return running;
    }
    let status = running.wait();
    assert!(matches!(status.code(), Some(6 | 7)), "pgdiode ended by itself: {status}\n{}", running.stderr());
    pair.begin()
}

/// Everything works again, and nothing is written any more.
fn settle(pair: &Pair, mut running: Running) -> Running {
    pair.source_proxy().heal();
    pair.target_proxy().heal();
    let left = pair.at_source("select format('commit prepared %L;', gid) from pg_prepared_xacts");
    for sql in left.lines() {
        pair.at_source(sql);
    }
    // What a trouble has just broken may end a run that had just begun.
    let steady = wait_for(|| {
        let settled = pair.target.try_psql(
            "postgres",
            "select count(*) > 0 from pgdiode.pipeline where phase in ('streaming', 'catching_up')",
        );
        (!running.is_running() || settled.is_ok_and(|answer| answer == "t")).then_some(())
    });
    assert!(steady.is_some(), "pgdiode does not settle");
    keep_running(pair, running)
}
