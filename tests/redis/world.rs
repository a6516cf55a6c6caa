//! A Redis, a PostgreSQL, a mapping of every type that Redis itself has, and what must be in the tables: read from Redis
//! by the tests' own client.

use std::collections::BTreeSet;

use crate::harness::{Cluster, PgdiodeRun, RedisClient, RedisServer, Reply, Version, wait_for};

/// The databases that are mapped; the one behind them is not.
pub const DATABASES: [u32; 3] = [0, 1, 2];

pub const TABLES: &str = "
create table strings (database int, name text, value text, expires_at timestamptz, primary key (database, name));
create table fields (database int, name text, field text, value text, primary key (database, name, field));
create table items (database int, name text, place int, value text, primary key (database, name, place));
create table members (database int, name text, member text, primary key (database, name, member));
create table scores (database int, name text, member text, score float8, primary key (database, name, member));
create table entries (database int, name text, id text, primary key (database, name, id));
";

/// The mapping's keys of a pipeline called `mirror`.
pub const MAPPING: &str = r#"
[[pipeline.mirror.redis.key]]
pattern = "s:{name}"
type = "string"
table = [{ table = "strings", key = ["database", "name"], column = [
    { name = "database", from = "{database}" }, { name = "name", from = "{name}" },
    { name = "value", from = "{value}" }, { name = "expires_at", from = "{expires_at}" } ] }]
[[pipeline.mirror.redis.key]]
pattern = "h:{name}"
type = "hash"
table = [{ table = "fields", each = "$", key = ["database", "name", "field"], column = [
    { name = "database", from = "{database}" }, { name = "name", from = "{name}" },
    { name = "field", from = "{field}" }, { name = "value", from = "{value}" } ] }]
[[pipeline.mirror.redis.key]]
pattern = "l:{name}"
type = "list"
table = [{ table = "items", each = "$", key = ["database", "name", "place"], column = [
    { name = "database", from = "{database}" }, { name = "name", from = "{name}" },
    { name = "place", from = "{index}" }, { name = "value", from = "{value}" } ] }]
[[pipeline.mirror.redis.key]]
pattern = "e:{name}"
type = "set"
table = [{ table = "members", each = "$", key = ["database", "name", "member"], column = [
    { name = "database", from = "{database}" }, { name = "name", from = "{name}" },
    { name = "member", from = "{member}" } ] }]
[[pipeline.mirror.redis.key]]
pattern = "z:{name}"
type = "zset"
table = [{ table = "scores", each = "$", key = ["database", "name", "member"], column = [
    { name = "database", from = "{database}" }, { name = "name", from = "{name}" },
    { name = "member", from = "{member}" }, { name = "score", from = "{score}" } ] }]
[[pipeline.mirror.redis.key]]
pattern = "x:{name}"
type = "stream"
table = [{ table = "entries", each = "$", key = ["database", "name", "id"], column = [
    { name = "database", from = "{database}" }, { name = "name", from = "{name}" },
    { name = "id", from = "{id}" } ] }]
"#;

/// One row as a line of text.
pub type Row = String;

pub struct World {
    pub postgres: Cluster,
    pub redis: RedisServer,
}

impl World {
    pub fn new(redis: RedisServer) -> World {
        let postgres = Cluster::start(Version::V15, &[]);
        postgres.psql("postgres", "create database mirror");
        postgres.psql("mirror", TABLES);
        World { postgres, redis }
    }

    /// A pgdiode that reads from `port` of this machine; `keys` are more keys of `[pipeline.mirror.redis]`.
    pub fn pgdiode(&self, port: u16, keys: &str) -> PgdiodeRun {
        self.pgdiode_from(&format!("redis://127.0.0.1:{port}"), keys)
    }

    /// A pgdiode that reads from `source`.
    pub fn pgdiode_from(&self, source: &str, keys: &str) -> PgdiodeRun {
        let config = format!(
            "[pipeline.mirror]\nsource = \"{source}\"\ntarget = \"{}\"\n\
             [pipeline.mirror.retry]\nfirst_ms = 50\nmax_ms = 500\n\
             [pipeline.mirror.redis]\ndatabases = [0, 1, 2]\n{keys}\n{MAPPING}",
            self.postgres.conninfo("mirror")
        );
        PgdiodeRun::new(&config)
    }

    /// What the tables must hold.
    pub fn expected(&self) -> BTreeSet<Row> {
        rows_at(&self.redis, &DATABASES)
    }

    pub fn actual(&self) -> BTreeSet<Row> {
        rows_in(&self.postgres, &self.redis)
    }

    /// Rows that are missing, and rows that should not be there.
    pub fn differences(&self) -> (Vec<Row>, Vec<Row>) {
        let (expected, actual) = (self.expected(), self.actual());
        let missing = expected.difference(&actual).cloned().collect();
        (missing, actual.difference(&expected).cloned().collect())
    }

    pub fn agrees(&self) -> bool {
        self.expected() == self.actual()
    }

    /// Waits until the tables hold what Redis does; nobody may be writing.
    pub fn settle(&self, log: impl Fn() -> String) {
        let settled = wait_for(|| self.agrees().then_some(()));
        if settled.is_none() {
            let (missing, extra) = self.differences();
            panic!("missing: {missing:#?}\nextra: {extra:#?}\n{}", log());
        }
    }
}

/// The rows that a server's keys make.
pub fn rows_at(redis: &RedisServer, databases: &[u32]) -> BTreeSet<Row> {
    let mut client = redis.client();
    let has_expiry_times = !redis.info("server", "redis_version").starts_with("6.");
    let mut rows = BTreeSet::new();
    for &database in databases {
        client.call(&["SELECT", &database.to_string()]);
        for key in client.call(&["KEYS", "?:*"]).items() {
            let key = key.to_string();
            rows.extend(rows_of(&mut client, database, &key, has_expiry_times));
        }
    }
    rows
}

/// The rows of the tables that are filled from a server like this.
pub fn rows_in(postgres: &Cluster, redis: &RedisServer) -> BTreeSet<Row> {
    let is_old = redis.info("server", "redis_version").starts_with("6.");
    let expiry = if is_old {
        "(expires_at is not null)::text"
    } else {
        "coalesce(round(extract(epoch from expires_at) * 1000)::int8::text, '-')"
    };
    let sql = format!(
        "select concat_ws('|', 's', database, name, value, {expiry}) from strings
         union all select concat_ws('|', 'h', database, name, field, value) from fields
         union all select concat_ws('|', 'l', database, name, place, value) from items
         union all select concat_ws('|', 'e', database, name, member) from members
         union all select concat_ws('|', 'z', database, name, member, score) from scores
         union all select concat_ws('|', 'x', database, name, id) from entries"
    );
    postgres.psql("mirror", &sql).lines().map(str::to_owned).collect()
}

fn rows_of(client: &mut RedisClient, database: u32, key: &str, has_expiry_times: bool) -> Vec<Row> {
    let (kind, name) = key.split_once(':').expect("it is the pattern's");
    let row = |values: &[String]| format!("{kind}|{database}|{name}|{}", values.join("|"));
    let texts = |reply: Reply| reply.items().iter().map(Reply::to_string).collect::<Vec<_>>();
    let pairs = |reply: Reply| texts(reply).chunks(2).map(&row).collect();
    let reply = match kind {
        "s" => client.try_call(&["GET", key]),
        "h" => client.try_call(&["HGETALL", key]),
        "l" => client.try_call(&["LRANGE", key, "0", "-1"]),
        "e" => client.try_call(&["SMEMBERS", key]),
        "z" => client.try_call(&["ZRANGE", key, "0", "-1", "WITHSCORES"]),
        "x" => client.try_call(&["XRANGE", key, "-", "+"]),
        _ => return Vec::new(),
    };
    // Of another type than its name says: it has no rows.
    let Ok(reply) = reply else { return Vec::new() };
    match (kind, reply) {
        (_, Reply::Nil) => Vec::new(),
        ("s", value) => {
            let expiry = if has_expiry_times {
                let at = client.call(&["PEXPIRETIME", key]).integer();
                if at < 0 { "-".to_owned() } else { at.to_string() }
            } else {
                (client.call(&["PTTL", key]).integer() > 0).to_string()
            };
            vec![row(&[value.to_string(), expiry])]
        }
        ("h" | "z", value) => pairs(value),
        ("l", value) => {
            let items = texts(value).into_iter().enumerate();
            items.map(|(place, value)| row(&[place.to_string(), value])).collect()
        }
        ("x", value) => {
            let ids = value.items().into_iter().map(|entry| entry.items()[0].to_string());
            ids.map(|id| row(&[id])).collect()
        }
        (_, value) => texts(value).into_iter().map(|member| row(&[member])).collect(),
    }
}
