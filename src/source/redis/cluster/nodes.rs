//! Reads keys of a cluster: each at the node that has it at that moment.
//!
//! ```text
//! MULTI  GET | HGETALL ...  PEXPIRETIME ...  EXEC         a slot, all slots of all nodes at once
//!   -MOVED slot   somebody else owns it: who, is asked of the node that said so
//!   -ASK slot     it is on the move, and the key has gone already: ASKING, then the same, there
//!   -TRYAGAIN     some of these keys have gone and some not: each alone
//! ```
//!
//! A transaction of a cluster is about one slot, so one of ours shows what one of the writers' did whole.
//!
//! Source: the Redis cluster specification; what servers of versions 6.2 to 7.4 and Valkey 9 answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::topology::{Primary, Topology};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::keyspace::Key;
use crate::redis::connection::Connection;
use crate::redis::location::{Host, Location};
use crate::redis::resp::Reply;
use crate::redis::slot::slot;
use crate::source::redis::fetch::{
    Fetched, Found, Kind, NOT_THERE, Read, alike, expires_at, milliseconds, read,
};
use crate::source::redis::scan::Scan;
use crate::source::redis::server::Server;

/// A slot that is handed over sends its keys on one after the other; more answers than these in a row lead nowhere.
const ROUNDS_MAX: u32 = 60;
/// Before the next round where nodes do not agree yet; it grows.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSES_MAX: u32 = 20;
/// So many slots are named in an error.
const SLOTS_NAMED_MAX: usize = 5;

/// Connections to all primaries of a cluster.
pub struct Nodes {
    all: Vec<Node>,
    topology: Topology,
    knows_expiry_times: bool,
    /// The node whose history is being applied.
    home: usize,
    /// Who is asked next how the cluster is.
    asked: usize,
}

struct Node {
    primary: Primary,
    connection: Connection,
}

/// What is to be found out about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Value(Kind),
    Type,
    Exists,
}

#[derive(Debug, Clone)]
enum Answer {
    Value(Option<Found>),
    Exists(bool),
}

/// A key that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Open {
    place: usize,
    slot: u16,
    question: Question,
    /// To be asked without others: they may be somewhere else.
    is_alone: bool,
    /// It was sent on from the node that owns its slot.
    asks: Option<usize>,
}

/// What one transaction at one node came to.
enum Outcome {
    Answers(Vec<Reply>),
    Refused(String),
}

/// Questions to one node that run as one.
type Group = Vec<Open>;

impl Nodes {
    /// Connects to every primary of the cluster that the first of the location's hosts belongs to which is not alone.
    pub async fn open(location: &Location, name: &str) -> Result<Nodes> {
        let topology = learn(location, name).await?;
        let mut nodes = Vec::new();
        let mut version = (u32::MAX, 0);
        for primary in &topology.primaries {
            let mut connection = Connection::open(&at(location, &primary.host), name).await?;
            let server = Server::ask(&mut connection).await?;
            version = version.min(server.map_or((0, 0), |server| server.version));
            nodes.push(Node { primary: primary.clone(), connection });
        }
        Ok(Nodes { all: nodes, topology, knows_expiry_times: version >= (7, 0), home: 0, asked: 0 })
    }

    /// The primaries that it is connected with.
    pub fn primaries(&self) -> impl Iterator<Item = &Primary> {
        self.all.iter().map(|node| &node.primary)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What is applied next is of this node's history.
    pub fn go_home(&mut self, node: usize) {
        self.home = node;
    }

    /// Whether the node whose history is applied owns the key's slot, as far as is known.
    pub fn is_at_home(&self, key: &Key) -> bool {
        self.topology.owners[usize::from(slot(&key.name))] == Some(self.home)
    }

    pub fn connection(&mut self, node: usize) -> &mut Connection {
        &mut self.all[node].connection
    }

    /// Asks one of the nodes, each in turn, how the cluster is. False where its primaries are others than these.
    pub async fn look_around(&mut self) -> Result<bool> {
        self.asked = (self.asked + 1) % self.all.len();
        self.learn_from(self.asked).await
    }

    /// Whether this node owns any slot.
    pub fn has_slots(&self, node: usize) -> bool {
        self.topology.owners.contains(&Some(node))
    }

    pub fn expires_alike(&self, one: Option<i64>, other: Option<i64>) -> bool {
        alike(one, other, self.knows_expiry_times)
    }

    /// The clock of the node whose history is applied, milliseconds since 1970.
    pub async fn now(&mut self) -> Result<i64> {
        let answer = self.all[self.home].connection.call(&[b"TIME"]).await?;
        milliseconds(&answer).ok_or_else(|| Error::unexpected("the Redis server does not tell the time"))
    }

    pub async fn fetch(&mut self, keys: &[(Key, Kind)]) -> Result<Fetched> {
        let now = self.now().await?;
        let questions = keys.iter().map(|(key, kind)| (key, Question::Value(*kind)));
        let answers = self.ask(questions).await?.into_iter().map(|answer| match answer {
            Answer::Value(found) => found,
            Answer::Exists(_) => None,
        });
        // Of whose history an offset would be is not the same for all keys.
        Ok(Fetched { values: answers.collect(), offset: None, now })
    }

    /// Which of `keys` are there.
    pub async fn exist(&mut self, keys: &[Key]) -> Result<Vec<bool>> {
        let answers = self.ask(keys.iter().map(|key| (key, Question::Exists))).await?;
        Ok(answers.into_iter().map(|answer| matches!(answer, Answer::Exists(true))).collect())
    }

    /// Some more keys of a scan of all nodes; nothing once all were there.
    pub async fn scan(&mut self, scan: &mut Scan) -> Result<Option<Vec<Key>>> {
        let node = scan.node(self.all.len());
        scan.next(&mut self.all[node].connection).await
    }

    // ---- questions ----

    async fn ask<'k>(&mut self, questions: impl Iterator<Item = (&'k Key, Question)>) -> Result<Vec<Answer>> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut open: Vec<Open> = Vec::new();
        for (place, (key, question)) in questions.enumerate() {
            names.push(&key.name);
            open.push(Open { place, slot: slot(&key.name), question, is_alone: false, asks: None });
        }
        let mut answers = vec![Answer::Value(None); names.len()];
        let mut confused = 0;
        for _ in 0..ROUNDS_MAX {
            if open.is_empty() {
                return Ok(answers);
            }
            let before = std::mem::take(&mut open);
            let is_news = self.round(&names, before, &mut answers, &mut open).await?;
            if !open.is_empty() && !is_news {
                confused = (confused + 1).min(PAUSES_MAX);
                tokio::time::sleep(PAUSE * confused).await;
            }
        }
        let slots: BTreeSet<u16> = open.iter().map(|open| open.slot).collect();
        let some: Vec<String> = slots.iter().take(SLOTS_NAMED_MAX).map(u16::to_string).collect();
        Err(Error::new(
            ErrorKind::SourceUnreachable,
            format!(
                "each node of the Redis cluster sends on to another who asks for keys of slot {}",
                some.join(", ")
            ),
        )
        .hint("redis-cli --cluster check shows slots that no node takes for its own; --cluster fix gives them one."))
    }

    /// Asks everything once; what has no answer yet is open again. Whether something was learnt by which it will be answered.
    async fn round(
        &mut self,
        names: &[&[u8]],
        open: Vec<Open>,
        answers: &mut [Answer],
        again: &mut Vec<Open>,
    ) -> Result<bool> {
        let groups = self.groups(open)?;
        for (&node, groups) in &groups {
            for group in groups {
                send(&mut self.all[node].connection, group, names, self.knows_expiry_times);
            }
            self.all[node].connection.send(&[b"TIME"]);
        }
        for &node in groups.keys() {
            self.all[node].connection.flush().await?;
        }
        let mut is_news = false;
        // Nodes that say that a slot is not theirs, or not whole, and keys that they no longer have.
        let mut doubted: Vec<usize> = Vec::new();
        let mut sent_on: Vec<(usize, Open)> = Vec::new();
        let mut moved: Vec<(usize, u16)> = Vec::new();
        for (node, groups) in groups {
            let mut heard = Vec::with_capacity(groups.len());
            for group in groups {
                let outcome = self.hear(node, &group).await?;
                heard.push((group, outcome));
            }
            let time = self.all[node].connection.reply().await?;
            let now = milliseconds(&time).unwrap_or_else(crate::source::redis::live::now);
            for (group, outcome) in heard {
                match outcome {
                    Outcome::Answers(replies) => {
                        is_news |= self.take(node, &group, replies, now, answers, again)?;
                    }
                    Outcome::Refused(words) => {
                        let code = self.redirection(node, &words)?;
                        if matches!(code, "MOVED" | "ASK") && !doubted.contains(&node) {
                            doubted.push(node);
                        }
                        if code == "MOVED" {
                            moved.extend(group.iter().map(|open| (node, open.slot)));
                        }
                        let is_alone = code != "MOVED";
                        match group.as_slice() {
                            [only] if code == "ASK" => sent_on.push((node, *only)),
                            _ => again.extend(group.into_iter().map(|open| Open {
                                is_alone,
                                asks: None,
                                ..open
                            })),
                        }
                    }
                }
            }
        }
        for node in doubted {
            let before = self.topology.owners.clone();
            if !self.learn_from(node).await? {
                return Err(changed());
            }
            // A node knows best what it has given away; of other slots its view may be older than what was learnt before.
            let seen = std::mem::replace(&mut self.topology.owners, before);
            for (_, slot) in moved.iter().filter(|(from, _)| *from == node) {
                self.topology.owners[usize::from(*slot)] = seen[usize::from(*slot)];
            }
            for (_, open) in sent_on.extract_if(.., |(from, _)| *from == node) {
                // Where the slot is on the move no longer, its owner is asked.
                let asks = self.topology.leaving.get(&open.slot).copied();
                is_news |= asks.is_some();
                again.push(Open { is_alone: true, asks, ..open });
            }
        }
        Ok(is_news)
    }

    /// Who is asked what: by node, the questions that run as one.
    fn groups(&self, open: Vec<Open>) -> Result<BTreeMap<usize, Vec<Group>>> {
        let mut groups: BTreeMap<usize, Vec<Group>> = BTreeMap::new();
        let mut by_slot: BTreeMap<(usize, u16), Group> = BTreeMap::new();
        for open in open {
            let owner = open.asks.or(self.topology.owners[usize::from(open.slot)]);
            let Some(node) = owner else {
                return Err(Error::new(
                    ErrorKind::SourceUnreachable,
                    format!("no node of the Redis cluster has slot {}", open.slot),
                )
                .hint("redis-cli --cluster check shows what is missing."));
            };
            if open.is_alone {
                groups.entry(node).or_default().push(vec![open]);
            } else {
                by_slot.entry((node, open.slot)).or_default().push(open);
            }
        }
        for ((node, _), group) in by_slot {
            groups.entry(node).or_default().push(group);
        }
        Ok(groups)
    }

    /// What a node answers to one transaction.
    async fn hear(&mut self, node: usize, group: &Group) -> Result<Outcome> {
        let connection = &mut self.all[node].connection;
        let mut refused = None;
        let commands: usize = group.iter().map(|open| open.question.commands()).sum();
        let asking = usize::from(group.iter().any(|open| open.asks.is_some()));
        for _ in 0..asking + 1 + commands {
            if let Reply::Error(words) = connection.reply().await? {
                refused.get_or_insert(words);
            }
        }
        Ok(match (connection.reply().await?, refused) {
            (_, Some(words)) | (Reply::Error(words), None) => Outcome::Refused(words),
            (Reply::Array(replies), None) if replies.len() == commands => Outcome::Answers(replies),
            _ => return Err(Error::unexpected("the Redis server did not run a transaction that only reads")),
        })
    }

    /// Takes answers; a key of another type is asked about again. Whether that was so.
    fn take(
        &self,
        node: usize,
        group: &Group,
        replies: Vec<Reply>,
        now: i64,
        answers: &mut [Answer],
        again: &mut Vec<Open>,
    ) -> Result<bool> {
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Reply::Nil);
        let mut is_again = false;
        for open in group {
            let refused = |words: &str| Err(self.all[node].connection.refusal(words).context("reading keys"));
            let mut ask = |question: Question| {
                is_again = true;
                again.push(Open { question, ..*open });
            };
            match open.question {
                Question::Value(kind) => {
                    let (value, expiry) = (read(kind, next()), next().integer().unwrap_or(-1));
                    match value {
                        // A stream that is empty reads like one that is not there.
                        _ if expiry == NOT_THERE => answers[open.place] = Answer::Value(None),
                        Read::Nothing => answers[open.place] = Answer::Value(None),
                        Read::Value(value) => {
                            let expires_at = expires_at(expiry, self.knows_expiry_times, now);
                            answers[open.place] = Answer::Value(Some(Found { value, expires_at }));
                        }
                        Read::OtherType => ask(Question::Type),
                        Read::Refused(words) => return refused(&words),
                    }
                }
                Question::Type => match next() {
                    Reply::Error(words) => return refused(&words),
                    name => {
                        match (name.text().unwrap_or_default(), Kind::named(name.text().unwrap_or_default()))
                        {
                            (_, Some(kind)) => ask(Question::Value(kind)),
                            ("none", _) => answers[open.place] = Answer::Value(None),
                            (other, _) => {
                                let value = crate::source::redis::value::Value::Other(other.to_owned());
                                answers[open.place] = Answer::Value(Some(Found { value, expires_at: None }));
                            }
                        }
                    }
                },
                Question::Exists => match next() {
                    Reply::Error(words) => return refused(&words),
                    reply => answers[open.place] = Answer::Exists(reply.integer() == Some(1)),
                },
            }
        }
        Ok(is_again)
    }

    /// What a refusal means, where it is about where keys are.
    fn redirection<'w>(&self, node: usize, words: &'w str) -> Result<&'w str> {
        let code = words.split(' ').next().unwrap_or_default();
        if matches!(code, "MOVED" | "ASK" | "TRYAGAIN" | "CROSSSLOT") {
            return Ok(code);
        }
        Err(self.all[node].connection.refusal(words).context("reading keys"))
    }

    /// Sees the cluster as this node does. False where its primaries are others than these.
    async fn learn_from(&mut self, node: usize) -> Result<bool> {
        let Node { primary, connection } = &mut self.all[node];
        let topology = Topology::ask(connection, &primary.host).await?;
        let is_same =
            topology.primaries.iter().map(|primary| &primary.id).eq(self.primaries().map(|one| &one.id));
        if is_same {
            self.topology = topology;
        }
        Ok(is_same)
    }
}

impl Question {
    fn commands(self) -> usize {
        match self {
            Question::Value(_) => 2,
            Question::Type | Question::Exists => 1,
        }
    }
}

/// Other nodes are its primaries than those that are listened to: nobody else's word is taken.
fn changed() -> Error {
    Error::new(ErrorKind::SourceUnreachable, "the Redis cluster has other primaries by now")
}

fn send(connection: &mut Connection, group: &Group, names: &[&[u8]], knows_expiry_times: bool) {
    if group.iter().any(|open| open.asks.is_some()) {
        connection.send(&[b"ASKING"]);
    }
    connection.send(&[b"MULTI"]);
    for open in group {
        let name = names[open.place];
        match open.question {
            Question::Value(kind) => {
                kind.send(connection, name);
                let expiry: &[u8] = if knows_expiry_times { b"PEXPIRETIME" } else { b"PTTL" };
                connection.send(&[expiry, name]);
            }
            Question::Type => connection.send(&[b"TYPE", name]),
            Question::Exists => connection.send(&[b"EXISTS", name]),
        }
    }
    connection.send(&[b"EXEC"]);
}

/// The cluster as seen by the first of the hosts that is part of one.
async fn learn(location: &Location, name: &str) -> Result<Topology> {
    let mut last = None;
    for host in &location.hosts {
        let asked = async {
            let mut connection = Connection::open(&at(location, host), name).await?;
            Topology::ask(&mut connection, host).await
        };
        match asked.await {
            Ok(topology) if topology.owners.iter().any(Option::is_some) => return Ok(topology),
            Ok(_) => {
                let what = format!("no node of the cluster of {} has any slot", host.display());
                last = Some(Error::new(ErrorKind::SourceUnreachable, what));
            }
            Err(error) if error.retries() => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::config("no Redis server is named")))
}

/// The same location at one host.
pub fn at(location: &Location, host: &Host) -> Location {
    Location { hosts: vec![host.clone()], ..location.clone() }
}
