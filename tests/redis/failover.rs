//! Histories that go on elsewhere: a replica as the source, a promotion, a restart.

use super::world::World;
use super::writer::{Sweeping, Writer};
use crate::harness::{RedisServer, RedisVersion, Rng};

const LONG_HISTORY: (&str, &str) = ("repl-backlog-size", "64mb");

fn write(redis: &RedisServer, seed: u64, count: usize) {
    assert!(Writer::new(Rng::with_seed(seed), redis.client(), Sweeping::Never).write(count));
}

#[test]
fn a_replica_is_a_source_like_its_primary() {
    let primary = RedisServer::start(RedisVersion::V7_0, &[LONG_HISTORY]);
    let replica = RedisServer::start_replica(RedisVersion::V7_0, &primary, &[LONG_HISTORY]);
    write(&primary, 21, 1500);
    let world = World::new(replica);
    let run = world.pgdiode(world.redis.port(), "");
    let mut running = run.spawn(&["start"]);
    running.wait_for_log("listening as a replica");
    // The primary does nothing for us.
    assert_eq!(primary.info("replication", "connected_slaves"), "1");
    write(&primary, 22, 1500);
    world.settle(|| running.stderr());
    let number = |text: &str| text.parse::<u64>().expect("it is a number");
    let offset = number(&primary.info("replication", "master_repl_offset"));
    world.redis.wait_until("the replica has it all", |client| {
        client.info("replication", "slave_repl_offset").is_some_and(|at| number(&at) >= offset)
    });
    world.settle(|| running.stderr());
}

#[test]
fn after_a_promotion_the_history_goes_on() {
    let primary = RedisServer::start(RedisVersion::V7_0, &[LONG_HISTORY]);
    let replica = RedisServer::start_replica(RedisVersion::V7_0, &primary, &[LONG_HISTORY]);
    let source = format!("redis://127.0.0.1:{},127.0.0.1:{}", primary.port(), replica.port());
    let world = World::new(replica);
    let run = world.pgdiode_from(&source, "");
    let mut running = run.spawn(&["start"]);
    running.wait_for_log("listening as a replica");
    write(&primary, 31, 1500);
    world.settle(|| running.stderr());
    primary.kill();
    world.redis.cli(&["REPLICAOF", "NO", "ONE"]);
    write(&world.redis, 32, 1500);
    world.settle(|| running.stderr());
    running.wait_for_log("goes_on=true");
}

#[test]
fn after_a_restart_with_its_data_the_history_goes_on() {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[("save", "3600 1"), LONG_HISTORY]));
    let run = world.pgdiode(world.redis.port(), "");
    let mut running = run.spawn(&["start"]);
    running.wait_for_log("listening as a replica");
    write(&world.redis, 41, 1500);
    world.settle(|| running.stderr());
    world.redis.stop();
    world.redis.start_again();
    write(&world.redis, 42, 500);
    world.settle(|| running.stderr());
}
