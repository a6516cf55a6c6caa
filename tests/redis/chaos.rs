//! Everything at once, by chance: writers of every command, and pgdiode, PostgreSQL, Redis and the network between them
//! broken in turns. A short run is a gate; `make chaos` goes on for `PGDIODE_CHAOS_SECONDS`.

use std::thread;
use std::time::{Duration, Instant};

use super::world::World;
use super::writer::{Sweeping, Writer};
use crate::harness::{PgdiodeRun, Proxy, RedisServer, RedisVersion, Rng, Running, wait_for};

#[test]
fn redis_and_its_mirror_agree_after_a_bad_day() {
    bad_day(&mut Rng::from_environment_or(2), Duration::from_secs(20));
}

#[test]
#[ignore = "as long as PGDIODE_CHAOS_SECONDS says, by default ten minutes"]
fn redis_and_its_mirror_agree_after_many_bad_days() {
    let seconds = std::env::var("PGDIODE_CHAOS_SECONDS").map_or(600, |text| text.parse().expect("seconds"));
    bad_day(&mut Rng::from_environment(), Duration::from_secs(seconds));
}

fn bad_day(rng: &mut Rng, length: Duration) {
    let version = RedisVersion::ALL[rng.usize(0..RedisVersion::ALL.len())];
    // Sometimes too little history for an outage, sometimes enough.
    let history = if rng.bool() { "16kb" } else { "32mb" };
    let options = [("repl-backlog-size", history), ("appendonly", "yes"), ("appendfsync", "everysec")];
    let world = World::new(RedisServer::start(version, &options));
    let proxy = Proxy::start(world.redis.port());
    let run = world.pgdiode(proxy.port(), "disappearance_percent_max = 100");
    let mut running = run.spawn(&["start"]);
    let began = Instant::now();
    while began.elapsed() < length {
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let mut writer =
                    Writer::new(Rng::with_seed(rng.u64(..)), world.redis.client(), Sweeping::Rarely);
                let commands = rng.usize(100..2500);
                thread::spawn(move || writer.write(commands))
            })
            .collect();
        for _ in 0..rng.usize(0..3) {
            running = trouble(&world, &proxy, &run, running, rng);
        }
        // A writer whose server is gone has ended.
        for writer in writers {
            drop(writer.join());
        }
        proxy.heal();
        let settled = wait_for(|| {
            // A run that lost a server before anything had worked has ended, and said so.
            if !running.is_running() {
                running = run.spawn(&["start"]);
            }
            world.agrees().then_some(())
        });
        if settled.is_none() {
            world.settle(|| running.stderr());
        }
    }
}

/// One thing that breaks.
fn trouble(world: &World, proxy: &Proxy, run: &PgdiodeRun, mut running: Running, rng: &mut Rng) -> Running {
    thread::sleep(Duration::from_millis(rng.u64(0..300)));
    match rng.u8(0..7) {
        0 => {
            running.kill9();
            return run.spawn(&["start"]);
        }
        1 => drop(world.redis.try_cli(&["CLIENT", "KILL", "TYPE", "replica"])),
        2 => {
            proxy.cut();
            thread::sleep(Duration::from_millis(rng.u64(0..400)));
            proxy.heal();
        }
        3 => proxy.truncate_after(rng.u64(1..20_000)),
        4 => {
            world.redis.kill();
            world.redis.start_again();
        }
        5 => {
            let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'mirror' and pid <> pg_backend_pid()";
            world.postgres.psql("postgres", end);
        }
        _ => {
            world.postgres.kill9();
            world.postgres.start_again();
        }
    }
    running
}
