//! The ways to hear of changes where nobody may listen as a replica: which one is taken, and that the tables come to hold
//! what Redis does in each, though in each something is missed.

use std::thread;

use super::convergence::{Falsifier, Liar, rounds};
use super::world::World;
use super::writer::{Sweeping, Writer};
use crate::harness::{PgdiodeRun, Proxy, RedisServer, RedisVersion, Rng, Running, wait_for};

/// What every user of a test may do.
const READS: &str =
    "on >secret ~* resetchannels -@all +@read +select +time +info +ping +multi +exec +client|setname";

/// `user` has these rights beside reading.
fn world_with_user(version: RedisVersion, rights: &str, options: &[(&str, &str)]) -> (World, String) {
    let user = format!("reader {READS} {rights}");
    let mut options = options.to_vec();
    options.push(("user", &user));
    let world = World::new(RedisServer::start(version, &options));
    let source = format!("redis://reader:secret@127.0.0.1:{}", world.redis.port());
    (world, source)
}

fn listening(run: &PgdiodeRun, way: &str) -> Running {
    let mut running = run.spawn(&["start"]);
    running.wait_for_log(way);
    running
}

/// What the server must be told before it notifies.
const ENABLED: (&str, &str) = ("notify-keyspace-events", "KEA");

const LISTENING: &str = "listening, after";
const TRACKING: &str = "way=\"tracking\"";
const NOTIFICATIONS: &str = "way=\"notifications\"";
const POLLING: &str = "looking at every key from time to time";

/// What the pipeline says that it does, once it has looked at every key.
fn doing(world: &World) -> String {
    let sql = "select doing from pgdiode.pipeline where phase = 'streaming'";
    let seen = wait_for(|| Some(world.postgres.psql("mirror", sql)).filter(|doing| !doing.trim().is_empty()));
    seen.expect("it comes to apply what changes")
}

/// A key that is written while it listens arrives, as does one that was there before.
fn mirrors(world: &World, running: &Running) {
    world.redis.cli(&["SET", "s:live", "v"]);
    world.redis.client().pipeline([vec!["SELECT", "2"], vec!["RPUSH", "l:live", "a", "b"]]);
    world.settle(|| running.stderr());
    world.redis.cli(&["DEL", "s:live"]);
    world.settle(|| running.stderr());
}

#[test]
fn the_best_way_that_the_user_is_allowed_is_taken() {
    let channels = "&__keyevent@0__:* &__keyevent@1__:* &__keyevent@2__:* +psubscribe +config|get";
    for version in [RedisVersion::V7_0, RedisVersion::Valkey9] {
        for (rights, way, said) in [
            ("+psync +replconf", "listening as a replica", "as a replica"),
            ("+hello +client|tracking", TRACKING, "by client tracking"),
            (channels, NOTIFICATIONS, "by keyspace notifications"),
            ("&__keyevent@*__:* +psubscribe +config|get", NOTIFICATIONS, "by keyspace notifications"),
            ("", POLLING, "looking at every key each 1 s"),
        ] {
            let (world, source) = world_with_user(version, rights, &[ENABLED]);
            world.redis.cli(&["SET", "s:before", "v"]);
            let run = world.pgdiode_from(&source, "poll_seconds = 1");
            let running = listening(&run, way);
            mirrors(&world, &running);
            let doing = doing(&world);
            assert!(doing.starts_with(said), "{version}, {rights}: {doing}");
        }
    }
}

#[test]
fn an_old_server_has_them_too() {
    // Before 7.0 a part of a command can be allowed, and channels are for everybody.
    for (rights, way) in [
        ("+hello +client|tracking", TRACKING),
        ("allchannels +psubscribe +config|get", NOTIFICATIONS),
        ("allchannels", POLLING),
    ] {
        let (world, source) = world_with_user(RedisVersion::V6_2, rights, &[ENABLED]);
        let run = world.pgdiode_from(&source, "poll_seconds = 1");
        let running = listening(&run, way);
        mirrors(&world, &running);
    }
}

#[test]
fn a_way_that_is_asked_for_and_impossible_is_refused() {
    let (world, source) = world_with_user(RedisVersion::V7_0, "+config|get +psubscribe", &[]);
    for (way, why, hint) in [
        ("replica", "NOPERM", "+psync and +replconf"),
        ("tracking", "NOPERM", "+client|tracking"),
        (
            "notifications",
            "notify-keyspace-events is \"\", and \"Eg$lshzxet\" is missing",
            "redis.notifications_set = true",
        ),
    ] {
        let run = world.pgdiode_from(&source, &format!("live = \"{way}\""));
        let text = run.run(&["start", "--once-caught-up"]).failure(3);
        for part in [&format!("redis.live = \"{way}\""), why, hint] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}

#[test]
fn missing_classes_of_events_are_added_and_none_is_taken_away() {
    let options = [("notify-keyspace-events", "Kn")];
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &options));
    let run = world.pgdiode(world.redis.port(), "live = \"notifications\"\nnotifications_set = true");
    let running = listening(&run, NOTIFICATIONS);
    let set = || world.redis.cli(&["CONFIG", "GET", "notify-keyspace-events"]);
    let now = set();
    for class in "KEng$lshzxet".chars() {
        assert!(now.lines().nth(1).unwrap().contains(class), "{class} in {now}");
    }
    mirrors(&world, &running);
    // Somebody takes them away: that is noticed, and made good.
    world.redis.cli(&["CONFIG", "SET", "notify-keyspace-events", ""]);
    world.redis.cli(&["SET", "s:unheard", "v"]);
    world.settle(|| running.stderr());
    assert!(set().contains('E'));
}

/// Ends the connections on which `way` is heard, at the server.
fn disconnect(redis: &RedisServer, way: &str) {
    let mut client = redis.client();
    if way == "notifications" {
        client.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        return;
    }
    let clients = client.call(&["CLIENT", "LIST"]).to_string();
    for line in clients.lines() {
        let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name));
        // B: tracking in broadcast mode.
        if field("flags=").is_some_and(|flags| flags.contains('B')) {
            drop(client.try_call(&["CLIENT", "KILL", "ID", field("id=").expect("each has one")]));
        }
    }
}

fn converges(version: RedisVersion, way: &'static str) {
    let seed = Rng::from_environment_or(17).seed();
    let world = World::new(RedisServer::start(version, &[ENABLED]));
    Writer::new(Rng::with_seed(seed), world.redis.client(), Sweeping::Never).write(500);
    // What notifications do not tell of is found soon. Half of all keys may come and go unheard.
    let reconcile = if way == "notifications" { 1 } else { 3600 };
    let keys = format!(
        "live = \"{way}\"\nreconcile_seconds = {reconcile}\npoll_seconds = 1\ndisappearance_percent_max = 100"
    );
    let run = world.pgdiode(world.redis.port(), &keys);
    let running = listening(&run, if way == "polling" { POLLING } else { LISTENING });
    let disturb = |round: u64| match round % 3 {
        1 => disconnect(&world.redis, way),
        2 => drop(world.redis.cli(&["FLUSHALL"])),
        _ => {}
    };
    rounds(&world, seed, 6, 800, Sweeping::Never, disturb, || running.stderr());
    assert_eq!(running.stderr().matches("trying again").count(), if way == "polling" { 0 } else { 2 });
}

#[test]
fn by_tracking_redis_7_0_converges() {
    converges(RedisVersion::V7_0, "tracking");
}

#[test]
fn by_tracking_valkey_9_converges() {
    converges(RedisVersion::Valkey9, "tracking");
}

#[test]
fn by_notifications_redis_7_0_converges() {
    converges(RedisVersion::V7_0, "notifications");
}

#[test]
fn by_notifications_valkey_9_converges() {
    converges(RedisVersion::Valkey9, "notifications");
}

#[test]
fn by_polling_redis_7_0_converges() {
    converges(RedisVersion::V7_0, "polling");
}

/// The ways in which names of keys are told.
fn in_both_ways(scenario: impl Fn(&str) + Sync) {
    thread::scope(|scope| {
        for way in ["tracking", "notifications"] {
            scope.spawn(|| scenario(way));
        }
    });
}

#[test]
fn databases_that_change_places_are_found_by_looking_at_every_key() {
    in_both_ways(|way| {
        let world = World::new(RedisServer::start(RedisVersion::V7_0, &[ENABLED]));
        world.redis.cli(&["SET", "s:moved", "v"]);
        let run = world.pgdiode(world.redis.port(), &format!("live = \"{way}\"\nreconcile_seconds = 2"));
        let running = listening(&run, LISTENING);
        world.settle(|| running.stderr());
        world.redis.cli(&["SWAPDB", "0", "1"]);
        world.settle(|| running.stderr());
        assert_eq!(world.postgres.psql("mirror", "select database from strings").trim(), "1");
    });
}

#[test]
fn a_server_that_is_silent_is_given_up() {
    in_both_ways(|way| {
        let world = World::new(RedisServer::start(RedisVersion::V7_0, &[ENABLED]));
        let proxy = Proxy::start(world.redis.port());
        let run = world.pgdiode(proxy.port(), &format!("live = \"{way}\"\nreconcile_seconds = 0"));
        let mut running = listening(&run, LISTENING);
        world.redis.cli(&["SET", "s:a", "heard"]);
        world.settle(|| running.stderr());
        proxy.freeze();
        world.redis.cli(&["SET", "s:a", "unheard"]);
        running.wait_for_log("nothing was heard from the Redis server for 20 s");
        // What is frozen never arrives.
        proxy.cut();
        proxy.heal();
        world.settle(|| running.stderr());
    });
}

/// More keys than may be gone without anybody's word.
fn fill(redis: &RedisServer) {
    let commands = (0..300).map(|number| ["SET".to_owned(), format!("s:{number}"), "v".to_owned()]);
    redis.client().pipeline(commands);
}

#[test]
fn by_tracking_a_flush_is_believed() {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[]));
    fill(&world.redis);
    let run = world.pgdiode(world.redis.port(), "live = \"tracking\"");
    let running = listening(&run, TRACKING);
    world.settle(|| running.stderr());
    world.redis.cli(&["FLUSHALL"]);
    world.settle(|| running.stderr());
    assert_eq!(doing(&world).matches("by client tracking").count(), 1);
}

#[test]
fn by_tracking_a_replica_whose_primary_comes_back_empty_is_not_believed() {
    for version in [RedisVersion::V7_0, RedisVersion::Valkey9] {
        let primary = RedisServer::start(version, &[]);
        fill(&primary);
        let world = World::new(RedisServer::start_replica(version, &primary, &[]));
        let run = world.pgdiode(world.redis.port(), "live = \"tracking\"");
        let mut running = listening(&run, TRACKING);
        world.settle(|| running.stderr());
        primary.kill();
        primary.start_again();
        assert_eq!(running.wait().code(), Some(3), "{}", running.stderr());
        assert!(running.stderr().contains("300 of 300 known keys are no longer at the source"));
        assert_eq!(world.postgres.psql("mirror", "select count(*) from strings").trim(), "300");
    }
}

/// How many rows are wrong after a connection that broke while keys were written, where the client's words `from` reach
/// the server as `to`.
fn wrong_rows_after_a_break(way: &str, from: &'static str, to: &'static str) -> usize {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[ENABLED]));
    let proxy = Proxy::start(world.redis.port());
    let falsifier = Falsifier::start(proxy.port(), Liar::Client, from, to);
    let keys = format!("live = \"{way}\"\nreconcile_seconds = 0\ndisappearance_percent_max = 100");
    let run = world.pgdiode(falsifier.port, &keys);
    let running = listening(&run, LISTENING);
    let write = |seed| Writer::new(Rng::with_seed(seed), world.redis.client(), Sweeping::Never).write(500);
    // Heard, so that it arrives whatever becomes of looking at every key.
    write(1);
    world.settle(|| running.stderr());
    proxy.cut();
    write(2);
    proxy.heal();
    let again = || (running.stderr().matches(LISTENING).count() == 2).then_some(());
    wait_for(again).expect("it listens again");
    world.redis.cli(&["SET", "s:last", "v"]);
    // False while every key is looked at: the last key arrives with it, or after it.
    let done = "select count(*) from strings, pgdiode.keyspace_position where name = 'last' and is_scanned";
    wait_for(|| (world.postgres.psql("mirror", done).trim() == "1").then_some(()))
        .expect("every key is looked at");
    let (missing, extra) = world.differences();
    missing.len() + extra.len()
}

#[test]
fn what_was_missed_is_found_by_looking_at_every_key() {
    in_both_ways(|way| {
        assert_eq!(wrong_rows_after_a_break(way, "NOTHING LIKE THIS", "IS EVER SENT HERE"), 0, "{way}");
    });
}

/// The negative control. The position has no part in these ways, so that falsifying it proves nothing: the look at every
/// key itself is made to see none.
#[test]
fn without_looking_at_every_key_the_difference_is_seen() {
    in_both_ways(|way| {
        let wrong = wrong_rows_after_a_break(way, "COUNT\r\n$4\r\n1000\r\n", "MATCH\r\n$4\r\nnone\r\n");
        assert_ne!(wrong, 0, "{way}: nothing was missed while the connection was down");
    });
}

#[test]
fn check_says_what_each_way_would_give_and_lacks() {
    let world = World::new(RedisServer::start(RedisVersion::V7_0, &[]));
    let run = world.pgdiode(world.redis.port(), "");
    let checked = run.run(&["check"]).success();
    assert!(checked.contains("redis.live = \"tracking\" is allowed: names of changed keys"), "{checked}");
    let lacking = "redis.live = \"notifications\" is not allowed:";
    assert!(checked.contains(lacking) && checked.contains("is missing"), "{checked}");
    assert!(checked.contains("redis.live = \"polling\" is always allowed"), "{checked}");
    assert_eq!(
        world.redis.cli(&["CONFIG", "GET", "notify-keyspace-events"]).trim(),
        "notify-keyspace-events"
    );
    world.redis.cli(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
    assert!(!run.run(&["check"]).success().contains(lacking));
    let run = world.pgdiode(world.redis.port(), "live = \"notifications\"");
    run.run(&["check"]).success();
    world.redis.cli(&["CONFIG", "SET", "notify-keyspace-events", "KEx"]);
    let refused = run.run(&["check"]).stdout;
    assert!(refused.contains("refused") && refused.contains("is missing"), "{refused}");
}
