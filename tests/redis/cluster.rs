//! A Redis cluster as the source: slots that move under load, primaries that fail and are replaced, nodes that come and go;
//! the tables hold what the cluster does, and whoever believes each node's deletions does not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::world::{MAPPING, Row, TABLES, rows_at, rows_in};
use super::writer::Commands;
use crate::harness::{
    Cluster, PgdiodeRun, RedisCluster, RedisServer, RedisVersion, Rng, Running, Version, wait_for,
};

/// Hash tags of the keys that are written: so many slots have keys.
const TAGS: usize = 60;

struct World {
    postgres: Cluster,
    cluster: RedisCluster,
}

impl World {
    fn new(cluster: RedisCluster) -> World {
        let postgres = Cluster::start(Version::V15, &[]);
        postgres.psql("postgres", "create database mirror");
        postgres.psql("mirror", TABLES);
        World { postgres, cluster }
    }

    fn pgdiode(&self, keys: &str) -> PgdiodeRun {
        let config = format!(
            "[pipeline.mirror]\nsource = \"{}\"\ntarget = \"{}\"\n\
             [pipeline.mirror.retry]\nfirst_ms = 50\nmax_ms = 500\n\
             [pipeline.mirror.redis]\n{keys}\n{MAPPING}",
            self.cluster.location(),
            self.postgres.conninfo("mirror")
        );
        PgdiodeRun::new(&config)
    }

    fn expected(&self) -> BTreeSet<Row> {
        self.cluster.primaries().into_iter().flat_map(|node| rows_at(node, &[0])).collect()
    }

    fn actual(&self) -> BTreeSet<Row> {
        rows_in(&self.postgres, self.cluster.primaries()[0])
    }

    /// Waits until the tables hold what the cluster does; nobody may be writing.
    fn settle(&self, log: impl Fn() -> String) {
        let settled =
            wait_for(|| (self.cluster.is_whole() && self.expected() == self.actual()).then_some(()));
        if settled.is_none() {
            let (expected, actual) = (self.expected(), self.actual());
            let missing: Vec<_> = expected.difference(&actual).collect();
            let extra: Vec<_> = actual.difference(&expected).collect();
            panic!("missing: {missing:#?}\nextra: {extra:#?}\n{}", log());
        }
    }

    fn writers(&self, seed: u64) -> Writers {
        let stops = Arc::new(AtomicBool::new(false));
        let write = |number: u64| {
            let (stops, mut walker) = (Arc::clone(&stops), self.cluster.walker());
            let mut commands = Commands::of_cluster(Rng::with_seed(seed * 10 + number), TAGS);
            thread::spawn(move || {
                let mut written = 0;
                while !stops.load(Ordering::Relaxed) {
                    let next = commands.next();
                    walker.run(commands.tag(), &next);
                    written += 1;
                }
                written
            })
        };
        Writers { threads: (0..3).map(write).collect(), stops }
    }

    /// Writes so many commands.
    fn write(&self, seed: u64, count: usize) {
        let mut walker = self.cluster.walker();
        let mut commands = Commands::of_cluster(Rng::with_seed(seed), TAGS);
        for _ in 0..count {
            let next = commands.next();
            walker.run(commands.tag(), &next);
        }
    }

    /// Slots that have keys, with the node that has them; in an order by chance.
    fn slots(&self, rng: &mut Rng) -> Vec<(u16, usize)> {
        let slot = |tag: usize| {
            let key = format!("{{{tag}}}");
            let node = self.cluster.index_of(&key);
            let slot = self.cluster.nodes()[node].cli(&["CLUSTER", "KEYSLOT", &key]);
            (slot.parse().expect("a slot is a number"), node)
        };
        let mut slots: Vec<_> = (0..TAGS).map(slot).collect();
        rng.shuffle(&mut slots);
        slots
    }
}

struct Writers {
    threads: Vec<JoinHandle<u64>>,
    stops: Arc<AtomicBool>,
}

impl Writers {
    fn stop(self) {
        self.stops.store(true, Ordering::Relaxed);
        for thread in self.threads {
            assert!(thread.join().expect("a writer finds its nodes") > 0);
        }
    }
}

fn start(run: &PgdiodeRun) -> Running {
    let mut running = run.spawn(&["start"]);
    running.wait_for_log("listening as a replica");
    running
}

fn follows_slots_that_move(version: RedisVersion) {
    let mut rng = Rng::from_environment_or(61);
    let world = World::new(RedisCluster::start(version));
    world.write(rng.seed(), 1500);
    let run = world.pgdiode("");
    let running = start(&run);
    world.settle(|| running.stderr());
    for round in 0..2 {
        let writers = world.writers(rng.seed() + round);
        for (slot, from) in world.slots(&mut rng).into_iter().take(20) {
            let to = (from + rng.usize(1..3)) % 3;
            world.cluster.move_slot(slot, from, to, || ());
        }
        writers.stop();
        world.settle(|| running.stderr());
    }
    let log = running.stderr();
    assert!(!log.contains("other primaries"), "slots are followed without joining anew\n{log}");
}

#[test]
fn slots_that_move_are_followed_with_redis_7_0() {
    follows_slots_that_move(RedisVersion::V7_0);
}

#[test]
fn slots_that_move_are_followed_with_redis_7_4() {
    follows_slots_that_move(RedisVersion::V7_4);
}

#[test]
fn slots_that_move_are_followed_with_valkey_9() {
    follows_slots_that_move(RedisVersion::Valkey9);
}

/// How often everything was looked at.
fn looks_at_everything(log: &str) -> usize {
    log.matches("every key is looked at").count()
}

/// Kills a primary and waits until its replica has taken its place.
fn fail_over(cluster: &RedisCluster, primary: usize) {
    let id = cluster.nodes()[primary].cli(&["CLUSTER", "MYID"]);
    cluster.nodes()[primary].kill();
    let is_replaced = || {
        let owned = |line: &str| {
            line.starts_with(&id) && line.contains("connected") && line.split(' ').nth(8).is_some()
        };
        let forgets = |node: &&RedisServer| {
            let nodes = node.try_cli(&["CLUSTER", "NODES"]).unwrap_or_default();
            !nodes.is_empty() && !nodes.lines().any(owned)
        };
        cluster.nodes().iter().filter(|node| node.is_running()).all(|node| forgets(&node))
            && cluster.is_whole()
    };
    assert!(wait_for(|| is_replaced().then_some(())).is_some(), "the replica takes its primary's place");
}

#[test]
fn where_a_replica_takes_over_the_history_goes_on() {
    let world = World::new(RedisCluster::with_replicas(RedisVersion::V7_0));
    world.write(71, 1500);
    let run = world.pgdiode("");
    let running = start(&run);
    world.settle(|| running.stderr());
    let primary = &world.cluster.nodes()[0];
    let end = primary.info("replication", "master_repl_offset");
    world.cluster.nodes()[3].wait_until("all that its primary has", |client| {
        client.info("replication", "slave_repl_offset").is_some_and(|at| at >= end)
    });
    fail_over(&world.cluster, 0);
    world.write(72, 1500);
    world.settle(|| running.stderr());
    // The old one is its replica now.
    world.cluster.nodes()[0].start_again();
    world.write(73, 500);
    world.settle(|| running.stderr());
    assert_eq!(looks_at_everything(&running.stderr()), 1, "{}", running.stderr());
}

#[test]
fn nodes_come_and_go_and_nothing_is_looked_at_twice() {
    let mut rng = Rng::from_environment_or(67);
    let mut world = World::new(RedisCluster::start(RedisVersion::V7_4));
    world.write(rng.seed(), 1500);
    let run = world.pgdiode("");
    let mut running = start(&run);
    world.settle(|| running.stderr());
    let new = world.cluster.add_node();
    running.wait_for_log(&world.cluster.nodes()[new].cli(&["CLUSTER", "MYID"]));
    let writers = world.writers(rng.seed());
    for (slot, from) in world.slots(&mut rng).into_iter().take(25) {
        world.cluster.move_slot(slot, from, new, || ());
    }
    writers.stop();
    world.settle(|| running.stderr());
    let writers = world.writers(rng.seed() + 1);
    for (slot, from) in world.slots(&mut rng).into_iter().filter(|(_, node)| *node == new) {
        world.cluster.move_slot(slot, from, rng.usize(0..3), || ());
    }
    writers.stop();
    let id = world.cluster.nodes()[new].cli(&["CLUSTER", "MYID"]);
    let sql = format!("select count(*) from pgdiode.keyspace_position where node = '{id}'");
    let is_let_go = || world.postgres.psql("mirror", &sql).trim() == "0";
    assert!(wait_for(|| is_let_go().then_some(())).is_some(), "{}", running.stderr());
    world.cluster.remove(new);
    world.write(rng.seed() + 2, 500);
    world.settle(|| running.stderr());
    assert_eq!(looks_at_everything(&running.stderr()), 1, "{}", running.stderr());
}

fn bad_day(rng: &mut Rng, rounds: u64) {
    let version = [RedisVersion::V7_0, RedisVersion::V7_4, RedisVersion::Valkey9][rng.usize(0..3)];
    let world = World::new(RedisCluster::with_replicas(version));
    let run = world.pgdiode("disappearance_percent_max = 100");
    let mut running = start(&run);
    for round in 0..rounds {
        let writers = world.writers(rng.seed() + round * 100);
        match rng.u8(0..3) {
            0 => {
                let victim = world.cluster.primaries()[rng.usize(0..3)].port();
                let index = world.cluster.nodes().iter().position(|node| node.port() == victim);
                let index = index.expect("it is one of ours");
                fail_over(&world.cluster, index);
                world.cluster.nodes()[index].start_again();
            }
            1 => {
                running.kill9();
                move_some(&world, rng);
                running = run.spawn(&["start"]);
            }
            _ => {
                let mut moves = 0;
                for (slot, from) in world.slots(rng).into_iter().take(10) {
                    let to = world.another(from, rng);
                    world.cluster.move_slot(slot, from, to, || {
                        moves += 1;
                        if moves % 4 == 0 {
                            running.kill9();
                            running = run.spawn(&["start"]);
                        }
                    });
                }
            }
        }
        writers.stop();
        let settled = wait_for(|| {
            // A run that lost a node before anything had worked has ended, and said so.
            if !running.is_running() {
                running = run.spawn(&["start"]);
            }
            (world.cluster.is_whole() && world.expected() == world.actual()).then_some(())
        });
        if settled.is_none() {
            world.settle(|| running.stderr());
        }
    }
}

fn move_some(world: &World, rng: &mut Rng) {
    for (slot, from) in world.slots(rng).into_iter().take(10) {
        world.cluster.move_slot(slot, from, world.another(from, rng), || ());
    }
}

impl World {
    /// Another primary than this.
    fn another(&self, node: usize, rng: &mut Rng) -> usize {
        let port = self.cluster.nodes()[node].port();
        let others: Vec<u16> =
            self.cluster.primaries().iter().map(|node| node.port()).filter(|other| *other != port).collect();
        let chosen = others[rng.usize(0..others.len())];
        self.cluster.nodes().iter().position(|node| node.port() == chosen).expect("it is one of ours")
    }
}

#[test]
fn a_cluster_and_its_mirror_agree_after_a_bad_day() {
    bad_day(&mut Rng::from_environment_or(3), 4);
}

#[test]
#[ignore = "as long as PGDIODE_CHAOS_SECONDS says, by default ten minutes"]
fn a_cluster_and_its_mirror_agree_after_many_bad_days() {
    let seconds = std::env::var("PGDIODE_CHAOS_SECONDS").map_or(600, |text| text.parse().expect("seconds"));
    let began = Instant::now();
    let mut rng = Rng::from_environment();
    while began.elapsed() < Duration::from_secs(seconds) {
        bad_day(&mut rng, 4);
    }
}

/// Listens to every node's events, and does what each says.
fn obey(world: &World, keys: usize) -> (usize, usize) {
    let nodes = world.cluster.nodes();
    let mut listeners: Vec<_> = nodes
        .iter()
        .map(|node| {
            node.cli(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
            let mut listener = node.client();
            listener.call(&["PSUBSCRIBE", "__keyspace@0__:*"]);
            listener
        })
        .collect();
    let mut walker = world.cluster.walker();
    for key in 0..keys {
        walker.run("{moved}", &[vec!["SET".into(), format!("s:{{moved}}{key}"), "v".into()]]);
    }
    let from = world.cluster.index_of("{moved}");
    let slot = nodes[from].cli(&["CLUSTER", "KEYSLOT", "{moved}"]).parse().expect("a slot");
    world.cluster.move_slot(slot, from, (from + 1) % 3, || ());
    let mut held = BTreeSet::new();
    // In the order in which they happened: a restoration is over before its key is deleted.
    for (listener, events) in [(from, keys), ((from + 1) % 3, keys), (from, keys)] {
        for _ in 0..events {
            let message = listeners[listener].read().expect("events come").items();
            let key = message[2].to_string();
            match message[3].to_string().as_str() {
                "del" => held.remove(&key),
                _ => held.insert(key),
            };
        }
    }
    let at_cluster = rows_at(&nodes[(from + 1) % 3], &[0]).len();
    (held.len(), at_cluster)
}

#[test]
fn whoever_obeys_the_deletion_at_the_old_node_loses_what_moved() {
    let world = World::new(RedisCluster::start(RedisVersion::V7_0));
    let run = world.pgdiode("");
    let running = start(&run);
    assert_eq!(obey(&world, 50), (0, 50), "each key has moved, and its deletion was heard");
    world.settle(|| running.stderr());
    assert_eq!(world.actual().len(), 50);
    // And back: the nodes' histories are taken in the other order.
    let at = world.cluster.index_of("{moved}");
    let slot = world.cluster.nodes()[at].cli(&["CLUSTER", "KEYSLOT", "{moved}"]).parse().expect("a slot");
    world.cluster.move_slot(slot, at, (at + 2) % 3, || ());
    world.cluster.cli("{moved}", &["SET", "s:{moved}0", "last"]);
    world.settle(|| running.stderr());
    assert_eq!(world.actual().len(), 50);
}

#[test]
fn the_verbs_know_a_cluster() {
    let mut rng = Rng::from_environment_or(73);
    let world = World::new(RedisCluster::start(RedisVersion::V7_0));
    world.write(rng.seed(), 1500);
    let run = world.pgdiode("");
    let checked = run.run(&["check"]).success();
    assert!(checked.contains("the cluster has 3 primary nodes, 3 of them with slots"), "{checked}");
    assert!(checked.contains("pattern s:*:") && !checked.contains("no key matches"), "{checked}");
    let rights = run.run(&["setup", "--print-sql"]).success();
    assert!(rights.contains("+cluster|slots") && rights.contains("+asking"), "{rights}");
    run.run(&["start", "--once-caught-up"]).success();
    assert_eq!(world.expected(), world.actual());
    let verified = |wanted: bool| {
        let output = run.run(&["verify", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&output.stdout).expect("a report");
        assert_eq!(report["identical"], wanted, "{report}\n{}", output.stderr);
        report
    };
    assert!(verified(true)["keys"].as_u64() > Some(50));
    world.postgres.psql(
        "mirror",
        "update fields set value = 'other' where (name, field) = (select name, field from fields limit 1)",
    );
    assert_eq!(verified(false)["differences_total"], 1);
    run.run(&["resync", "--reason", "a row was spoilt"]).success();
    let mut running = run.spawn(&["start"]);
    running.wait_for_log("every key is looked at");
    world.settle(|| running.stderr());
    // While slots move and are written to it differs in nothing either.
    let writers = world.writers(rng.seed());
    for (slot, from) in world.slots(&mut rng).into_iter().take(10) {
        world.cluster.move_slot(slot, from, (from + 1) % 3, || ());
    }
    writers.stop();
    verified(true);
    let status = run.run(&["status", "--json"]).success();
    let status: serde_json::Value = serde_json::from_str(&status).expect("a status");
    let nodes = &status["keys"]["nodes"];
    assert_eq!(nodes.as_array().map(Vec::len), Some(3), "{status}");
    assert!(nodes[0]["source_offset"].as_u64() >= nodes[0]["offset"].as_u64(), "{nodes}");
}

#[test]
fn what_a_cluster_has_not_is_refused() {
    let world = World::new(RedisCluster::start(RedisVersion::V7_0));
    for (keys, hint) in
        [("databases = [0, 1]", "set redis.databases = [0]"), ("live = \"polling\"", "redis.live = \"auto\"")]
    {
        let run = world.pgdiode(keys);
        let refused = run.run(&["start"]).failure(2);
        assert!(refused.contains(hint), "{refused}");
        assert!(run.run(&["check"]).stdout.contains(hint));
    }
}
