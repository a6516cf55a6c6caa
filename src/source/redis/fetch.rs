//! The current values of many keys, as of one moment.
//!
//! ```text
//! MULTI  [SELECT db]  GET | HGETALL | LRANGE ...  PEXPIRETIME ...  INFO replication  EXEC
//! ```
//!
//! One transaction of the server: nothing happens between two of its reads, and it says at which offset of the history
//! it ran. Which command reads a key follows from the type that is expected of it; a key that has another type is read
//! again by the type that it has.
//!
//! Source: Redis' documentation of each command; before 7.0 there is no `PEXPIRETIME`, but `PTTL` and `TIME`.

use bytes::Bytes;

use super::server::Server;
use super::value::{Pairs, Value};
use crate::error::{Error, Result};
use crate::keyspace::Key;
use crate::redis::connection::Connection;
use crate::redis::resp::Reply;

/// Servers before 7.0 say how long a key has left, to the millisecond: two looks differ by what they took.
const EXPIRY_JITTER_MS: i64 = 1000;

/// What a key's value is expected to be, which says how to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Text,
    Json,
    Hash,
    List,
    Set,
    SortedSet,
    Stream,
}

impl Kind {
    /// By what `TYPE` says; `None` for what nobody can read in general.
    pub(super) fn named(name: &str) -> Option<Kind> {
        Some(match name {
            "string" => Kind::Text,
            "ReJSON-RL" => Kind::Json,
            "hash" => Kind::Hash,
            "list" => Kind::List,
            "set" => Kind::Set,
            "zset" => Kind::SortedSet,
            "stream" => Kind::Stream,
            _ => return None,
        })
    }

    pub(super) fn send(self, connection: &mut Connection, key: &[u8]) {
        match self {
            Kind::Text => connection.send(&[b"GET", key]),
            Kind::Json => connection.send(&[b"JSON.GET", key]),
            Kind::Hash => connection.send(&[b"HGETALL", key]),
            Kind::List => connection.send(&[b"LRANGE", key, b"0", b"-1"]),
            Kind::Set => connection.send(&[b"SMEMBERS", key]),
            Kind::SortedSet => connection.send(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]),
            Kind::Stream => connection.send(&[b"XRANGE", key, b"-", b"+"]),
        }
    }
}

/// What a key is must be asked before it is read, and may be something else by then: as often as this in a row is not chance.
const TYPE_ROUNDS_MAX: usize = 8;

/// What `PEXPIRETIME` and `PTTL` answer of a key that is not there: a stream that is empty, and one that is not there,
/// read alike.
pub(super) const NOT_THERE: i64 = -2;

/// Several keys' values at one moment.
#[derive(Debug, Default)]
pub struct Fetched {
    /// As many as were asked for, in their order; `None` for a key that is not there.
    pub values: Vec<Option<Found>>,
    /// Where in the server's history that was; `None` where it does not say.
    pub offset: Option<u64>,
    /// The server's clock, milliseconds since 1970.
    pub now: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub value: Value,
    /// Milliseconds since 1970.
    pub expires_at: Option<i64>,
}

/// Reads keys of a server of version `version`.
pub struct Fetcher {
    connection: Connection,
    knows_expiry_times: bool,
    says_offset: bool,
}

impl Fetcher {
    /// `server` is what the server says of itself, where it says anything.
    pub fn new(connection: Connection, server: Option<&Server>) -> Fetcher {
        Fetcher {
            connection,
            knows_expiry_times: server.is_some_and(|server| server.version >= (7, 0)),
            says_offset: server.is_some(),
        }
    }

    /// Whether two looks at a key may have found the same time of expiry.
    pub fn expires_alike(&self, one: Option<i64>, other: Option<i64>) -> bool {
        alike(one, other, self.knows_expiry_times)
    }

    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// The values of `keys`, each read as what it is expected to be. Keys of one database should stand together.
    pub async fn fetch(&mut self, keys: &[(Key, Kind)]) -> Result<Fetched> {
        let (mut fetched, mut strange) = self.round(keys).await?;
        for _ in 0..TYPE_ROUNDS_MAX {
            if strange.is_empty() {
                // What was read last is younger than the offset of the first round says: older is on the safe side.
                return Ok(fetched);
            }
            strange = self.read_again(keys, &strange, &mut fetched).await?;
        }
        Err(Error::new(
            crate::error::Kind::SourceUnreachable,
            format!("a key changed its type while it was read, {TYPE_ROUNDS_MAX} times"),
        ))
    }

    /// Reads the keys at these places as what they are now, and says which have become something else before that.
    async fn read_again(
        &mut self,
        keys: &[(Key, Kind)],
        places: &[usize],
        fetched: &mut Fetched,
    ) -> Result<Vec<usize>> {
        let mut known = Vec::with_capacity(places.len());
        let mut again = Vec::with_capacity(places.len());
        for (&place, name) in places.iter().zip(self.types(keys, places).await?) {
            if let Some(kind) = Kind::named(&name) {
                known.push(place);
                again.push((keys[place].0.clone(), kind));
            } else if name != "none" {
                fetched.values[place] = Some(Found { value: Value::Other(name), expires_at: None });
            }
        }
        if again.is_empty() {
            return Ok(Vec::new());
        }
        let (second, still) = self.round(&again).await?;
        for (&place, found) in known.iter().zip(second.values) {
            fetched.values[place] = found;
        }
        Ok(still.into_iter().map(|index| known[index]).collect())
    }

    /// One transaction; beside the values, the places of keys that have another type.
    async fn round(&mut self, keys: &[(Key, Kind)]) -> Result<(Fetched, Vec<usize>)> {
        let connection = &mut self.connection;
        connection.send(&[b"MULTI"]);
        let mut commands = 0_usize;
        let mut selected = None;
        for (key, kind) in keys {
            if selected != Some(key.database) {
                connection.send(&[b"SELECT", key.database.to_string().as_bytes()]);
                selected = Some(key.database);
                commands += 1;
            }
            kind.send(connection, &key.name);
            let expiry: &[u8] = if self.knows_expiry_times { b"PEXPIRETIME" } else { b"PTTL" };
            connection.send(&[expiry, &key.name]);
            commands += 2;
        }
        connection.send(&[b"TIME"]);
        commands += 1;
        if self.says_offset {
            connection.send(&[b"INFO", b"replication"]);
            commands += 1;
        }
        connection.send(&[b"EXEC"]);
        connection.flush().await?;
        let mut refused = None;
        for _ in 0..=commands {
            if let Reply::Error(words) = connection.reply().await? {
                refused.get_or_insert(words);
            }
        }
        let answers = connection.reply().await?;
        if let Some(words) = refused {
            return Err(connection.refusal(&words).context("reading keys"));
        }
        let Reply::Array(answers) = answers else {
            return Err(Error::unexpected("the Redis server did not run a transaction that only reads"));
        };
        self.sort(keys, answers)
    }

    fn sort(&self, keys: &[(Key, Kind)], answers: Vec<Reply>) -> Result<(Fetched, Vec<usize>)> {
        let mut answers = answers.into_iter();
        let short = || Error::unexpected("the Redis server answered a transaction with too little");
        let mut found = Vec::with_capacity(keys.len());
        let mut selected = None;
        for (key, kind) in keys {
            if selected != Some(key.database) {
                if let Reply::Error(words) = answers.next().ok_or_else(short)? {
                    return Err(self.connection.refusal(&words).context("selecting a database"));
                }
                selected = Some(key.database);
            }
            let value = answers.next().ok_or_else(short)?;
            let expiry = answers.next().ok_or_else(short)?;
            found.push((read(*kind, value), expiry.integer().unwrap_or(-1)));
        }
        let now = answers.next().as_ref().and_then(milliseconds).ok_or_else(short)?;
        let offset = answers.next().and_then(|info| info.text().map(Server::offset_of));
        let mut strange = Vec::new();
        let mut values = Vec::with_capacity(found.len());
        for (index, (read, expiry)) in found.into_iter().enumerate() {
            values.push(match read {
                _ if expiry == NOT_THERE => None,
                Read::Nothing => None,
                Read::Value(value) => {
                    Some(Found { value, expires_at: expires_at(expiry, self.knows_expiry_times, now) })
                }
                Read::OtherType => {
                    strange.push(index);
                    None
                }
                Read::Refused(words) => return Err(self.connection.refusal(&words).context("reading a key")),
            });
        }
        Ok((Fetched { values, offset, now }, strange))
    }

    async fn types(&mut self, keys: &[(Key, Kind)], places: &[usize]) -> Result<Vec<String>> {
        for &place in places {
            let key = &keys[place].0;
            self.connection.send(&[b"SELECT", key.database.to_string().as_bytes()]);
            self.connection.send(&[b"TYPE", &key.name]);
        }
        self.connection.flush().await?;
        let mut names = Vec::with_capacity(places.len());
        for _ in places {
            self.connection.reply().await?;
            match self.connection.reply().await? {
                Reply::Error(words) => return Err(self.connection.refusal(&words).context("TYPE")),
                reply => names.push(reply.text().unwrap_or_default().to_owned()),
            }
        }
        Ok(names)
    }

    /// Which of `keys` are there.
    pub async fn exist(&mut self, keys: &[Key]) -> Result<Vec<bool>> {
        let mut selected = None;
        let mut asked = Vec::with_capacity(keys.len() * 2);
        for key in keys {
            if selected != Some(key.database) {
                self.connection.send(&[b"SELECT", key.database.to_string().as_bytes()]);
                selected = Some(key.database);
                asked.push(false);
            }
            self.connection.send(&[b"EXISTS", &key.name]);
            asked.push(true);
        }
        self.connection.flush().await?;
        let mut there = Vec::with_capacity(keys.len());
        let mut refused = None;
        for is_answer in asked {
            match self.connection.reply().await? {
                Reply::Error(words) => drop(refused.get_or_insert(words)),
                reply if is_answer => there.push(reply.integer() == Some(1)),
                _ => {}
            }
        }
        match refused {
            Some(words) => Err(self.connection.refusal(&words).context("EXISTS")),
            None => Ok(there),
        }
    }

    /// The server's clock, milliseconds since 1970.
    pub async fn now(&mut self) -> Result<i64> {
        let answer = self.connection.call(&[b"TIME"]).await?;
        milliseconds(&answer).ok_or_else(|| Error::unexpected("the Redis server does not tell the time"))
    }
}

/// What `PEXPIRETIME` or `PTTL` means; negative numbers say that there is none.
pub(super) fn expires_at(expiry: i64, is_time: bool, now: i64) -> Option<i64> {
    match (expiry, is_time) {
        (..0, _) => None,
        (at, true) => Some(at),
        (left, false) => Some(now + left),
    }
}

/// Whether two looks may have found the same time of expiry.
pub(super) fn alike(one: Option<i64>, other: Option<i64>, is_time: bool) -> bool {
    match (one, other) {
        (Some(one), Some(other)) if !is_time => (one - other).abs() <= EXPIRY_JITTER_MS,
        _ => one == other,
    }
}

/// The answer to `TIME`: seconds and microseconds.
pub(super) fn milliseconds(answer: &Reply) -> Option<i64> {
    let Reply::Array(parts) = answer else { return None };
    Some(parts.first()?.integer()? * 1000 + parts.get(1)?.integer()? / 1000)
}

/// What became of reading a key.
pub(super) enum Read {
    Nothing,
    Value(Value),
    OtherType,
    Refused(String),
}

pub(super) fn read(kind: Kind, reply: Reply) -> Read {
    let reply = match reply {
        Reply::Error(words) if words.starts_with("WRONGTYPE") || words.contains("wrong Redis type") => {
            return Read::OtherType;
        }
        Reply::Error(words) => return Read::Refused(words),
        Reply::Nil => return Read::Nothing,
        reply => reply,
    };
    let value = match kind {
        Kind::Text => reply.bytes().cloned().map(Value::Text),
        Kind::Json => reply.bytes().cloned().map(Value::Json),
        Kind::Stream => reply.into_array().and_then(stream).map(Value::Stream),
        Kind::Hash | Kind::SortedSet => reply.into_array().and_then(pairs).map(|mut pairs| {
            if kind == Kind::SortedSet {
                return Value::SortedSet(pairs);
            }
            pairs.sort_unstable();
            Value::Hash(pairs)
        }),
        Kind::List | Kind::Set => reply.into_array().and_then(|items| texts(&items)).map(|mut items| {
            if kind == Kind::List {
                return Value::List(items);
            }
            items.sort_unstable();
            Value::Set(items)
        }),
    };
    match value {
        // There is no empty collection: the key is not there.
        Some(Value::Hash(pairs) | Value::SortedSet(pairs)) if pairs.is_empty() => Read::Nothing,
        Some(Value::List(items) | Value::Set(items)) if items.is_empty() => Read::Nothing,
        Some(value) => Read::Value(value),
        None => Read::Refused("an answer of another shape than asked for".into()),
    }
}

fn texts(items: &[Reply]) -> Option<Vec<Bytes>> {
    items.iter().map(|item| item.bytes().cloned()).collect()
}

/// One after the other, or in pairs, as version 3 of the protocol has them.
fn pairs(items: Vec<Reply>) -> Option<Pairs> {
    let mut flat = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Reply::Array(pair) => flat.extend(pair),
            single => flat.push(single),
        }
    }
    let flat = texts(&flat)?;
    Some(flat.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
}

fn stream(entries: Vec<Reply>) -> Option<Vec<(Bytes, Pairs)>> {
    let entry = |entry: Reply| {
        let mut parts = entry.into_array()?.into_iter();
        let id = parts.next()?.bytes()?.clone();
        Some((id, pairs(parts.next()?.into_array().unwrap_or_default())?))
    };
    entries.into_iter().map(entry).collect()
}
