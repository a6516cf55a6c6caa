//! The tables come to hold what Redis does, whatever is written and whatever breaks meanwhile; and the same look would
//! notice if they did not.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::world::World;
use super::writer::{Sweeping, Writer};
use crate::harness::{PgdiodeRun, RedisServer, RedisVersion, Rng, Running, ground};

/// Enough history for what is written while nobody listens.
const LONG_HISTORY: (&str, &str) = ("repl-backlog-size", "64mb");

fn start(run: &PgdiodeRun) -> Running {
    let mut running = run.spawn(&["start"]);
    running.wait_for_log("listening as a replica");
    running
}

/// Writes in rounds; `disturb` breaks something while each is under way.
pub fn rounds(
    world: &World,
    seed: u64,
    count: u64,
    commands: usize,
    sweeping: Sweeping,
    mut disturb: impl FnMut(u64),
    log: impl Fn() -> String,
) {
    for round in 0..count {
        let writers: Vec<_> = (0..3)
            .map(|number| {
                let rng = Rng::with_seed(seed * 1000 + round * 10 + number);
                let mut writer = Writer::new(rng, world.redis.client(), sweeping);
                thread::spawn(move || writer.write(commands))
            })
            .collect();
        disturb(round);
        for writer in writers {
            drop(writer.join());
        }
        world.settle(&log);
    }
}

fn converges(version: RedisVersion) {
    let seed = Rng::from_environment_or(7).seed();
    let world = World::new(RedisServer::start(version, &[LONG_HISTORY]));
    // There before anybody listens.
    Writer::new(Rng::with_seed(seed), world.redis.client(), Sweeping::Never).write(500);
    let run = world.pgdiode(world.redis.port(), "");
    let mut running = start(&run);
    let disconnect = |round: u64| {
        if round % 2 == 1 {
            world.redis.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
        }
    };
    rounds(&world, seed, 4, 1500, Sweeping::Rarely, disconnect, || running.stderr());
    let pair =
        "select count(distinct value) from strings where name in ('pair-a', 'pair-b') and database = 0";
    assert!(matches!(world.postgres.psql("mirror", pair).trim(), "0" | "1"));
    running.terminate();
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
}

#[test]
fn redis_6_2_converges() {
    converges(RedisVersion::V6_2);
}

#[test]
fn redis_7_0_converges() {
    converges(RedisVersion::V7_0);
}

#[test]
fn redis_7_4_converges() {
    converges(RedisVersion::V7_4);
}

#[test]
fn valkey_9_converges() {
    converges(RedisVersion::Valkey9);
}

#[test]
fn killed_anywhere_it_goes_on_where_it_was() {
    let seed = Rng::from_environment_or(11).seed();
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[LONG_HISTORY]));
    let run = world.pgdiode(world.redis.port(), "");
    let running = std::cell::RefCell::new(start(&run));
    let kill = |_| {
        running.borrow_mut().kill9();
        *running.borrow_mut() = run.spawn(&["start"]);
    };
    rounds(&world, seed, 6, 1200, Sweeping::Rarely, kill, || running.borrow().stderr());
    // It went on in the same history, and did not look at everything again.
    running.borrow_mut().wait_for_log("goes_on=true");
}

#[test]
fn a_history_that_was_missed_is_made_up_for_by_a_look_at_everything() {
    let seed = Rng::from_environment_or(13).seed();
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[("repl-backlog-size", "16kb")]));
    let run = world.pgdiode(world.redis.port(), "disappearance_percent_max = 100");
    let running = std::cell::RefCell::new(start(&run));
    let disturb = |_| {
        running.borrow_mut().kill9();
        let rng = Rng::with_seed(seed);
        Writer::new(rng, world.redis.client(), Sweeping::Rarely).write(2000);
        *running.borrow_mut() = run.spawn(&["start"]);
    };
    rounds(&world, seed, 3, 500, Sweeping::Rarely, disturb, || running.borrow().stderr());
    running.borrow_mut().wait_for_log("goes_on=false");
}

#[test]
fn a_server_that_comes_back_older_takes_back_what_it_lost() {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[("save", "3600 1"), LONG_HISTORY]));
    let run = world.pgdiode(world.redis.port(), "");
    let running = start(&run);
    world.redis.cli(&["SET", "s:kept", "before"]);
    // The snapshot for its new replica may be under way.
    world.redis.wait_until("its file", |client| client.try_call(&["SAVE"]).is_ok());
    world.redis.cli(&["SET", "s:kept", "after"]);
    world.redis.cli(&["SET", "s:lost", "after"]);
    world.settle(|| running.stderr());
    world.redis.kill();
    world.redis.start_again();
    assert_eq!(world.redis.cli(&["GET", "s:kept"]), "before");
    world.settle(|| running.stderr());
}

#[test]
fn a_server_that_comes_back_empty_is_not_believed() {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[]));
    let commands = (0..300).map(|number| ["SET".to_owned(), format!("s:{number}"), "v".to_owned()]);
    world.redis.client().pipeline(commands);
    let run = world.pgdiode(world.redis.port(), "");
    let mut running = start(&run);
    world.settle(|| running.stderr());
    world.redis.kill();
    world.redis.start_again();
    assert_eq!(running.wait().code(), Some(3), "{}", running.stderr());
    let log = running.stderr();
    assert!(log.contains("300 of 300 known keys are no longer at the source"), "{log}");
    assert!(log.contains("disappearance_percent_max"), "{log}");
    assert_eq!(world.postgres.psql("mirror", "select count(*) from strings").trim(), "300");
    // Whoever knows better says so.
    let run = world.pgdiode(world.redis.port(), "disappearance_percent_max = 100");
    run.run(&["start", "--once-caught-up"]).success();
    assert_eq!(world.postgres.psql("mirror", "select count(*) from strings").trim(), "0");
    // Emptied while somebody listens, it is believed.
    let commands = (0..300).map(|number| ["SET".to_owned(), format!("s:{number}"), "v".to_owned()]);
    world.redis.client().pipeline(commands);
    let run = world.pgdiode(world.redis.port(), "");
    let running = start(&run);
    world.settle(|| running.stderr());
    world.redis.cli(&["FLUSHALL"]);
    world.settle(|| running.stderr());
}

/// Passes bytes on, those of one side with a text replaced by one of the same length: a stream in which a command did not
/// happen.
pub struct Falsifier {
    pub port: u16,
    ended: Arc<AtomicBool>,
}

/// Whose bytes are falsified.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Liar {
    Server,
    Client,
}

impl Falsifier {
    pub fn start(upstream: u16, liar: Liar, from: &'static str, to: &'static str) -> Falsifier {
        assert_eq!(from.len(), to.len());
        let port = ground::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ended);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let server = TcpStream::connect(("127.0.0.1", upstream)).unwrap();
                let (from_client, to_client) = (client.try_clone().unwrap(), client);
                let (from_server, to_server) = (server.try_clone().unwrap(), server);
                let replaced = move |side| (liar == side).then_some((from.as_bytes(), to.as_bytes()));
                thread::spawn(move || pass_on(from_client, to_server, replaced(Liar::Client)));
                thread::spawn(move || pass_on(from_server, to_client, replaced(Liar::Server)));
            }
        });
        Falsifier { port, ended }
    }
}

impl Drop for Falsifier {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, replaced: Option<(&[u8], &[u8])>) {
    let mut waiting = Vec::new();
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        waiting.extend_from_slice(&buffer[..length]);
        let mut sent = waiting.len();
        if let Some((wrong, right)) = replaced {
            while let Some(at) = waiting.windows(wrong.len()).position(|window| window == wrong) {
                waiting[at..at + wrong.len()].copy_from_slice(right);
            }
            // What may be its beginning waits for the rest.
            let begins = |at: &usize| wrong.starts_with(&waiting[*at..]);
            sent = (waiting.len().saturating_sub(wrong.len())..waiting.len())
                .find(begins)
                .unwrap_or(waiting.len());
        }
        if to.write_all(&waiting[..sent]).is_err() {
            break;
        }
        waiting.drain(..sent);
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Runs the usual writes through a falsified stream, and says how many rows are wrong at the end.
fn wrong_rows_without(from: &'static str, to: &'static str) -> usize {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[LONG_HISTORY]));
    let falsifier = Falsifier::start(world.redis.port(), Liar::Server, from, to);
    let run = world.pgdiode(falsifier.port, "");
    let mut running = start(&run);
    running.wait_for_log("streaming");
    Writer::new(Rng::with_seed(3), world.redis.client(), Sweeping::Never).write(6000);
    world.redis.cli(&["SWAPDB", "0", "1"]);
    running.terminate();
    running.wait();
    run.run(&["start", "--once-caught-up"]).success();
    let (missing, extra) = world.differences();
    missing.len() + extra.len()
}

#[test]
fn an_unfalsified_stream_leaves_no_difference() {
    assert_eq!(wrong_rows_without("NOTHING LIKE THIS", "IS EVER SENT HERE"), 0);
}

#[test]
fn without_moves_the_difference_is_seen() {
    assert_ne!(wrong_rows_without("$4\r\nMOVE\r\n", "$4\r\nPING\r\n"), 0);
}

#[test]
fn without_copies_the_difference_is_seen() {
    assert_ne!(wrong_rows_without("$4\r\nCOPY\r\n", "$4\r\nPING\r\n"), 0);
}

#[test]
fn without_swaps_the_difference_is_seen() {
    assert_ne!(wrong_rows_without("$6\r\nSWAPDB\r\n", "$6\r\nSCRIPT\r\n"), 0);
}

#[test]
fn in_another_database_the_difference_is_seen() {
    // Not one of those that are swapped at the end, which are looked at whole.
    assert_ne!(wrong_rows_without("SELECT\r\n$1\r\n2\r\n", "SELECT\r\n$1\r\n0\r\n"), 0);
}

#[test]
fn a_position_that_lies_about_what_was_looked_at_is_seen() {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[("repl-backlog-size", "16kb")]));
    let run = world.pgdiode(world.redis.port(), "");
    run.run(&["start", "--once-caught-up"]).success();
    Writer::new(Rng::with_seed(5), world.redis.client(), Sweeping::Never).write(3000);
    let history = world.redis.info("replication", "master_replid");
    let offset = world.redis.info("replication", "master_repl_offset");
    world.postgres.psql(
        "mirror",
        &format!("update pgdiode.keyspace_position set replication_id = '{history}', read_offset = {offset}, is_scanned = true"),
    );
    run.run(&["start", "--once-caught-up"]).success();
    let (missing, extra) = world.differences();
    assert_ne!(missing.len() + extra.len(), 0, "the look at everything is what makes up for lost history");
}
