//! Whoever reads the tables while they catch up sees the transactions of the source whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::world::World;
use crate::harness::{RedisServer, RedisVersion};

const PAIRS: usize = 400;
const LOOKS: usize = 40;

/// Pairs of keys whose values are not the same.
const TORN: &str = "select
    (select count(*) from strings s join fields f using (name) where s.value <> f.value) +
    (select count(*) from strings one join strings other on other.name = 'other-' || one.name where one.value <> other.value)";

/// How often pairs were seen that differ, while both keys of each are written all the time; `is_enough` says by the number
/// of looks and of such pairs when to stop.
fn seen_torn(begin: &str, end: &str, is_enough: impl Fn(usize, u64) -> bool) -> u64 {
    let redis = RedisServer::start(RedisVersion::V7_0, &[("repl-backlog-size", "64mb")]);
    let world = World::new(redis);
    // Small batches of an odd size: cut anywhere, one is cut between the keys of a pair.
    let run = world.pgdiode(world.redis.port(), "batch_keys = 7");
    let mut running = run.spawn(&["start"]);
    running.wait_for_log("listening as a replica");
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, mut client) = (Arc::clone(&is_over), world.redis.client());
    let around = [begin, end].map(|word| (!word.is_empty()).then(|| vec![word.to_owned()]));
    let writer = thread::spawn(move || {
        let mut round = 0;
        while !over.load(Ordering::Relaxed) {
            round += 1;
            let commands = (0..PAIRS).flat_map(|pair| {
                let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
                // One of each pair must be fetched; or none, since the commands say it all.
                let (one, other) = match pair % 2 {
                    0 => (format!("SET s:{pair} v{round}"), format!("HSET h:{pair} f v{round}")),
                    _ => (format!("SET s:{pair} v{round}"), format!("SET s:other-{pair} v{round}")),
                };
                let [begin, end] = around.clone();
                begin.into_iter().chain([words(one), words(other)]).chain(end).collect::<Vec<_>>()
            });
            client.pipeline(commands.collect::<Vec<_>>());
        }
    });
    let (mut looks, mut torn) = (0, 0);
    while !is_enough(looks, torn) {
        looks += 1;
        torn += world.postgres.psql("mirror", TORN).trim().parse::<u64>().expect("a number");
        assert!(running.is_running(), "{}", running.stderr());
    }
    is_over.store(true, Ordering::Relaxed);
    writer.join().expect("the writer writes");
    world.settle(|| running.stderr());
    torn
}

#[test]
fn while_catching_up_no_half_of_a_transaction_shows() {
    assert_eq!(seen_torn("MULTI", "EXEC", |looks, torn| looks >= LOOKS || torn > 0), 0);
}

#[test]
fn without_a_transaction_halves_are_seen() {
    let torn = seen_torn("", "", |looks, torn| torn > 0 || looks >= LOOKS * 10);
    assert!(torn > 0, "whoever reads would notice");
}
