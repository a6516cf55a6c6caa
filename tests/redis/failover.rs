//! Histories that go on elsewhere: a replica as the source, a promotion, a restart.

use super::world::World;
use super::writer::{Sweeping, Writer};
use crate::harness::{RedisServer, RedisVersion, Rng, wait_for};

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

/// The port that the Sentinel names.
fn named(sentinel: &RedisServer) -> String {
    let address = sentinel.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]);
    address.lines().nth(1).unwrap_or_default().to_owned()
}

fn wait_for_primary(sentinel: &RedisServer, wanted: &RedisServer) {
    let port = wanted.port().to_string();
    let is_named =
        || (named(sentinel) == port && wanted.info("replication", "role") == "master").then_some(());
    assert!(wait_for(is_named).is_some(), "the Sentinel makes the other the primary\n{}", sentinel.log());
}

#[test]
fn sentinels_say_which_server_is_the_primary() {
    for version in [RedisVersion::V7_0, RedisVersion::Valkey9] {
        let primary = RedisServer::start(version, &[LONG_HISTORY]);
        let replica = RedisServer::start_replica(version, &primary, &[LONG_HISTORY]);
        let sentinel = RedisServer::start_sentinel(&primary);
        sentinel.wait_until("the replica", |client| {
            let replicas = client.try_call(&["SENTINEL", "REPLICAS", "main"]);
            replicas.is_ok_and(|replicas| replicas.to_string().contains(&replica.port().to_string()))
        });
        let source = format!("redis+sentinel://127.0.0.1:{}?master_name=main", sentinel.port());
        let world = World::new(replica);
        let run = world.pgdiode_from(&source, "");
        let mut running = run.spawn(&["start"]);
        running.wait_for_log("listening as a replica");
        write(&primary, 51, 1000);
        world.settle(|| running.stderr());
        primary.kill();
        wait_for_primary(&sentinel, &world.redis);
        write(&world.redis, 52, 1000);
        world.settle(|| running.stderr());
        assert!(run.run(&["check"]).success().contains(&world.redis.port().to_string()));
        // And back, while both live.
        primary.start_again();
        sentinel.wait_until("the old one to follow", |client| {
            let _ = client.try_call(&["SENTINEL", "FAILOVER", "main"]);
            client
                .try_call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"])
                .is_ok_and(|address| address.to_string().contains(&primary.port().to_string()))
        });
        wait_for_primary(&sentinel, &primary);
        write(&primary, 53, 1000);
        world.settle(|| running.stderr());
        assert!(running.stderr().contains("goes_on=true"), "{}", running.stderr());
    }
}

#[test]
fn a_name_that_no_sentinel_knows_is_said() {
    let primary = RedisServer::start(RedisVersion::V7_0, &[]);
    let sentinel = RedisServer::start_sentinel(&primary);
    let world = World::new(primary);
    let source = format!("redis+sentinel://127.0.0.1:{}?master_name=other", sentinel.port());
    let refused = world.pgdiode_from(&source, "").run(&["start"]).failure(3);
    assert!(refused.contains("knows no primary called \"other\""), "{refused}");
}
