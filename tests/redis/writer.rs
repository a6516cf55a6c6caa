//! Seeded writers: commands of every kind, on few keys, so that they meet.

use crate::harness::{RedisClient, Rng};

const NAMES: usize = 25;
const KINDS: [&str; 6] = ["s", "h", "l", "e", "z", "x"];

/// How often commands come that change whole databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweeping {
    Never,
    Rarely,
}

pub struct Writer {
    commands: Commands,
    client: RedisClient,
}

/// Commands without end.
pub struct Commands {
    rng: Rng,
    sweeping: Sweeping,
    counter: u64,
    /// Of a cluster: how many hash tags there are; all keys of a command have one of them.
    tags: usize,
    tag: String,
}

pub type Command = Vec<String>;

fn words(text: &str) -> Command {
    text.split(' ').map(str::to_owned).collect()
}

impl Writer {
    pub fn new(rng: Rng, client: RedisClient, sweeping: Sweeping) -> Writer {
        Writer { commands: Commands { rng, sweeping, counter: 0, tags: 0, tag: String::new() }, client }
    }

    /// So many commands, some of them in transactions. What the server refuses (a key of the wrong type) is part of it;
    /// false where the connection broke.
    pub fn write(&mut self, count: usize) -> bool {
        for _ in 0..count {
            if self.client.try_pipeline(self.commands.next()).is_err() {
                return false;
            }
        }
        true
    }
}

impl Commands {
    /// For a cluster, of keys with so many hash tags.
    pub fn of_cluster(rng: Rng, tags: usize) -> Commands {
        Commands { rng, sweeping: Sweeping::Never, counter: 0, tags, tag: String::new() }
    }

    /// The tag of the commands that were had last.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// One command, or a transaction.
    pub fn next(&mut self) -> Vec<Command> {
        if self.tags > 0 {
            self.tag = format!("{{{}}}", self.rng.usize(0..self.tags));
        }
        if self.rng.u8(..) < 16 { self.transaction() } else { vec![self.command()] }
    }

    fn transaction(&mut self) -> Vec<Command> {
        let mut commands = vec![words("MULTI")];
        // Always the same value in both: torn where they differ.
        let value = self.value();
        commands.push(words("SELECT 0"));
        commands.push(words(&format!("SET s:{}pair-a {value}", self.tag)));
        commands.push(self.command());
        commands.push(words("SELECT 0"));
        commands.push(words(&format!("SET s:{}pair-b {value}", self.tag)));
        commands.push(words("EXEC"));
        commands
    }

    fn value(&mut self) -> String {
        self.counter += 1;
        format!("v{}-{}", self.counter, "x".repeat(self.rng.usize(0..40)))
    }

    fn name(&mut self, kind: &str) -> String {
        // Names of another type's pattern as well: a key may change its type.
        let kind = if self.rng.u8(..) < 8 { KINDS[self.rng.usize(0..KINDS.len())] } else { kind };
        format!("{kind}:{}{}", self.tag, self.rng.usize(0..NAMES))
    }

    fn command(&mut self) -> Command {
        let kind = KINDS[self.rng.usize(0..KINDS.len())];
        let (key, other) = (self.name(kind), self.name(kind));
        let value = self.value();
        let number = self.rng.usize(0..8);
        let database = if self.tags == 0 { self.rng.usize(0..4) } else { 0 };
        let text = match self.rng.u8(..) {
            // About the key, whatever it is.
            0..=9 => format!("SELECT {database}"),
            10..=24 => format!("DEL {key} {other}"),
            25..=29 => format!("UNLINK {key}"),
            30..=36 => format!("RENAME {key} {other}"),
            37..=40 => format!("RENAMENX {key} {other}"),
            41..=48 => format!("MOVE {key} {database}"),
            49..=54 => format!("COPY {key} {other} REPLACE"),
            55..=62 => format!("COPY {key} {other} DB {database} REPLACE"),
            63..=68 => format!("PEXPIRE {key} {}", 5 + self.rng.usize(0..60)),
            69..=74 => format!("EXPIRE {key} {}", 1000 + number),
            75..=79 => format!("PERSIST {key}"),
            80..=83 => return self.script(&key, &other, &value),
            84 if self.sweeping == Sweeping::Rarely && number == 0 => "FLUSHDB".to_owned(),
            85 if self.sweeping == Sweeping::Rarely && number == 0 => "FLUSHALL".to_owned(),
            86 if self.sweeping == Sweeping::Rarely && number < 3 => format!("SWAPDB 0 {}", 1 + number),
            84..=89 => format!("SORT {key} ALPHA STORE {other}"),
            _ => self.of_kind(kind, &key, &other, &value, number),
        };
        words(&text)
    }

    /// Writes to keys that it does not name.
    fn script(&mut self, key: &str, other: &str, value: &str) -> Command {
        let script = format!(
            "redis.call('SET', 's:' .. ARGV[1], ARGV[2]); redis.call('DEL', '{key}'); return redis.call('EXISTS', '{other}')"
        );
        let name = format!("{}{}", self.tag, self.rng.usize(0..NAMES));
        let mut command: Command = vec!["EVAL".into(), script];
        // A cluster wants to know where to run it.
        let keys = if self.tags == 0 { vec!["0".to_owned()] } else { vec!["1".to_owned(), key.to_owned()] };
        command.extend(keys);
        command.extend([name, value.to_owned()]);
        command
    }

    fn of_kind(&mut self, kind: &str, key: &str, other: &str, value: &str, number: usize) -> String {
        let choice = self.rng.u8(0..12);
        match (kind, choice) {
            ("s", 0) => format!("APPEND {key} {number}"),
            ("s", 1) => format!("SET {key} {value} PX {}", 5 + number * 10),
            ("s", 2) => format!("SET {key} {value} KEEPTTL"),
            ("s", 3) => format!("SETEX {key} 1000 {value}"),
            ("s", 4) => format!("MSET {key} {value} {other} {value}"),
            ("s", 5) => format!("GETSET {key} {value}"),
            ("s", 6) => format!("SETRANGE {key} 0 {value}"),
            ("s", 7) => format!("INCR s:{}number-{number}", self.tag),
            ("s", 8) => format!("INCRBYFLOAT s:{}number-{number} 0.5", self.tag),
            ("s", 9) => format!("SETNX {key} {value}"),
            ("s", 10) => format!("GETDEL {key}"),
            ("s", _) => format!("SET {key} {value}"),
            ("h", 0..=2) => format!("HDEL {key} f{number}"),
            ("h", 3) => format!("HINCRBY {key} n{number} 3"),
            ("h", _) => format!("HSET {key} f{number} {value} g{number} {value}"),
            ("l", 0) => format!("LPOP {key}"),
            ("l", 1) => format!("LTRIM {key} 0 {number}"),
            ("l", 2) => format!("LSET {key} {number} {value}"),
            ("l", 3) => format!("LMOVE {key} {other} LEFT RIGHT"),
            ("l", 4) => format!("RPOPLPUSH {key} {other}"),
            ("l", 5) => format!("LREM {key} 1 {value}"),
            ("l", _) => format!("RPUSH {key} {value} {number}"),
            ("e", 0) => format!("SREM {key} m{number}"),
            ("e", 1) => format!("SPOP {key} 2"),
            ("e", 2) => format!("SMOVE {key} {other} m{number}"),
            ("e", 3) => format!("SINTERSTORE {key} {other} {key}"),
            ("e", 4) => format!("SUNIONSTORE {key} {other} {key}"),
            ("e", _) => format!("SADD {key} m{number} {value}"),
            ("z", 0) => format!("ZREM {key} m{number}"),
            ("z", 1) => format!("ZPOPMIN {key}"),
            ("z", 2) => format!("ZINCRBY {key} 2.5 m{number}"),
            ("z", 3) => format!("ZRANGESTORE {key} {other} 0 3"),
            ("z", _) => format!("ZADD {key} {number} m{number} {} {value}", number * 3),
            (_, 0) => format!("XTRIM {key} MAXLEN {number}"),
            (_, 1) => format!("XDEL {key} 1-{number}"),
            (_, 2) => format!("XGROUP CREATE {key} g{number} 0 MKSTREAM"),
            _ => format!("XADD {key} MAXLEN ~ 50 * f {value}"),
        }
    }
}
