//! The negative control: what becomes of a copy that listens to keyspace notifications, as is usual, when its connection
//! breaks. That loss is what pgdiode does not have; a scenario in which this loses nothing would prove nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use crate::harness::{Proxy, RedisClient, RedisServer, RedisVersion, Reply, wait_for};

const WRITES_BEFORE: usize = 200;
const WRITES_MEANWHILE: usize = 200;
const WRITES_AFTER: usize = 200;

/// What the listener holds for Redis's keys and values.
type Contents = BTreeMap<String, Vec<u8>>;

/// Subscribes, and on each event gets the key and remembers its value. When the connection breaks it subscribes again.
struct Listener {
    port: u16,
    copy: Arc<Mutex<Contents>>,
}

impl Listener {
    /// Until the key `end` is heard of.
    fn run(&self, subscribed: &mpsc::Sender<()>) {
        let done = wait_for(|| self.listen(subscribed).is_ok().then_some(()));
        assert!(done.is_some(), "the listener never hears of the end");
    }

    fn listen(&self, subscribed: &mpsc::Sender<()>) -> Result<(), String> {
        let broken = |error: std::io::Error| error.to_string();
        let mut events = RedisClient::connect(self.port).map_err(broken)?;
        let mut reader = RedisClient::connect(self.port).map_err(broken)?;
        events.try_call(&["PSUBSCRIBE", "__keyspace@0__:*"])?;
        subscribed.send(()).map_err(|error| error.to_string())?;
        loop {
            // ["pmessage", pattern, channel, event]
            let event = events.read().map_err(broken)?.items();
            let channel = event[2].to_string();
            let key = channel.strip_prefix("__keyspace@0__:").expect("it is the pattern's").to_owned();
            let value = reader.try_call(&["GET", &key])?;
            let mut copy = self.copy.lock().expect("nobody panics while holding it");
            match value {
                Reply::Bulk(value) => copy.insert(key.clone(), value),
                _ => copy.remove(&key),
            };
            if key == "end" {
                return Ok(());
            }
        }
    }
}

fn write(redis: &RedisServer, from: usize, count: usize) {
    let commands = (from..from + count)
        .map(|number| ["SET".to_owned(), format!("session:{number}"), format!("{{\"number\":{number}}}")]);
    for reply in redis.client().pipeline(commands) {
        assert_eq!(reply, Reply::Status("OK".to_owned()));
    }
}

fn contents(redis: &RedisServer) -> Contents {
    let mut client = redis.client();
    let keys = client.call(&["KEYS", "*"]).items();
    keys.into_iter()
        .map(|key| match client.call(&["GET", &key.to_string()]) {
            Reply::Bulk(value) => (key.to_string(), value),
            other => panic!("{key} is gone: {other:?}"),
        })
        .collect()
}

/// What the listener has at the end, and what Redis has. `meanwhile` happens when it has all that was written before.
fn listened(
    version: RedisVersion,
    meanwhile: impl FnOnce(&RedisServer, &Proxy, &mpsc::Receiver<()>),
) -> (Contents, Contents) {
    let redis = RedisServer::start(version, &[("notify-keyspace-events", "KA")]);
    let proxy = Proxy::start(redis.port());
    let copy = Arc::new(Mutex::new(Contents::new()));
    let listener = Listener { port: proxy.port(), copy: Arc::clone(&copy) };
    let (subscribed, is_subscribed) = mpsc::channel();
    let running = thread::spawn(move || listener.run(&subscribed));
    is_subscribed.recv().expect("the listener subscribes");
    write(&redis, 0, WRITES_BEFORE);
    let read = || copy.lock().expect("nobody panics while holding it").clone();
    wait_for(|| (read() == contents(&redis)).then_some(())).expect("the listener hears of what is written");
    meanwhile(&redis, &proxy, &is_subscribed);
    write(&redis, WRITES_BEFORE + WRITES_MEANWHILE, WRITES_AFTER);
    redis.cli(&["SET", "end", "1"]);
    running.join().expect("the listener does not panic");
    (read(), contents(&redis))
}

/// New keys, one that is changed and one that is deleted.
fn work(redis: &RedisServer) {
    write(redis, WRITES_BEFORE, WRITES_MEANWHILE);
    redis.cli(&["SET", "session:1", "changed"]);
    redis.cli(&["DEL", "session:0"]);
}

#[test]
fn a_listener_whose_connection_breaks_has_lost_what_was_written_meanwhile() {
    for version in RedisVersion::ALL {
        let (copy, redis) = listened(version, |redis, proxy, is_subscribed| {
            proxy.cut();
            work(redis);
            proxy.heal();
            is_subscribed.recv().expect("the listener subscribes again");
        });
        let missing = redis.keys().filter(|key| !copy.contains_key(*key)).count();
        assert_eq!(missing, WRITES_MEANWHILE, "{version}: keys that the listener never heard of");
        let wrong = redis.iter().filter(|(key, value)| copy.get(*key).is_some_and(|copied| copied != *value));
        assert_eq!(wrong.count(), 1, "{version}: keys with an old value");
        let extra = copy.keys().filter(|key| !redis.contains_key(*key)).count();
        assert_eq!(extra, 1, "{version}: keys that are gone");
        assert!(copy.contains_key("end"), "{version}: it goes on after the loss, and knows nothing of it");
    }
}

#[test]
fn a_listener_with_a_perfect_connection_loses_nothing() {
    let (copy, redis) = listened(RedisVersion::V7_0, |redis, _, _| work(redis));
    assert_eq!(copy, redis);
}
