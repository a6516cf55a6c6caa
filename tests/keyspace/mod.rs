//! Entries of keys into the tables of a real PostgreSQL, without any source: the layout is seed 003's, sessions of a chat
//! with messages, users and groups.

mod basics;
mod broken;
mod bulk;
mod model;
mod refused;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use pgdiode::change::TableName;
use pgdiode::keyspace::{
    Column, ContentHash, Entry, Gone, Key, KeyId, Layout, NodePosition, Observed, Part, Reference, Rows,
    State, Table, Why, Write,
};
use pgdiode::pg::conninfo::{ConnInfo, Environment};
use pgdiode::pg::session::{Session, Side};
use pgdiode::target::postgres::keyspace::{Applied, CREATE_KEYSPACE_TABLES, KeyspaceTarget};
use pgdiode::target::postgres::progress::{CREATE_CONTROL_SCHEMA, TARGET_OPTIONS};
use tokio::runtime::Runtime;

use crate::harness::{Cluster, Version};

pub const TABLES: &str = "
create table users (id serial primary key, external_id text not null unique, name text);
create table groups (id serial primary key, external_id text not null unique, name text);
create table sessions (
    id serial primary key,
    session_key text not null unique,
    user_id int references users,
    group_id int references groups,
    title text,
    since timestamptz,
    about json,
    expired_at timestamptz,
    deleted_at timestamp
);
create table messages (
    id bigserial primary key,
    session_id bigint not null references sessions,
    message_key text not null,
    sender_id int references users,
    body text,
    unique (session_id, message_key)
);";

pub const USERS: usize = 0;
pub const GROUPS: usize = 1;
pub const SESSIONS: usize = 2;
pub const MESSAGES: usize = 3;

fn column(name: &str) -> Column {
    Column { name: name.to_owned(), reference: None }
}

fn reference(name: &str, table: usize, by: &str) -> Column {
    Column {
        name: name.to_owned(),
        reference: Some(Reference { table, by: by.to_owned(), take: "id".to_owned() }),
    }
}

fn table(name: &str, columns: Vec<Column>, key: Vec<usize>) -> Table {
    let name = TableName::new("public", name);
    Table { name, columns, key, anchor: vec![0], write: Write::Replace, gone: Gone::Keep }
}

/// Users and groups are ensured, sessions replaced and marked, messages replaced and kept.
pub fn chat_layout() -> Layout {
    let people = |name| Table {
        anchor: Vec::new(),
        write: Write::Ensure,
        ..table(name, vec![column("external_id"), column("name")], vec![0])
    };
    let sessions = Table {
        gone: Gone::Mark { expired_at: "expired_at".to_owned(), deleted_at: "deleted_at".to_owned() },
        ..table(
            "sessions",
            vec![
                column("session_key"),
                reference("user_id", USERS, "external_id"),
                reference("group_id", GROUPS, "external_id"),
                column("title"),
                column("since"),
                column("about"),
            ],
            vec![0],
        )
    };
    let messages = table(
        "messages",
        vec![
            reference("session_id", SESSIONS, "session_key"),
            column("message_key"),
            reference("sender_id", USERS, "external_id"),
            column("body"),
        ],
        vec![0, 1],
    );
    Layout { tables: vec![people("users"), people("groups"), sessions, messages] }
}

/// A value for COPY's text format.
pub fn escaped(value: Option<&str>) -> String {
    let Some(value) = value else { return "\\N".to_owned() };
    value.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

/// Rows of values, of which the first `key` tell them apart.
pub fn rows(key: usize, all: &[Vec<Option<&str>>]) -> Rows {
    let mut rows = Rows::default();
    for values in all {
        let line: Vec<String> = values.iter().map(|value| escaped(*value)).collect();
        rows.lines.extend_from_slice(line.join("\t").as_bytes());
        rows.lines.push(b'\n');
        rows.ends.push(rows.lines.len());
        let mut hasher = DefaultHasher::new();
        values[..key].hash(&mut hasher);
        rows.identities.push(hasher.finish());
    }
    rows
}

/// A session as the application wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chat {
    pub name: String,
    pub user: Option<String>,
    pub group: Option<String>,
    pub title: String,
    pub since: Option<String>,
    /// Key, sender, body.
    pub messages: Vec<(String, Option<String>, String)>,
}

impl Chat {
    pub fn new(name: &str, title: &str, messages: &[(&str, &str)]) -> Chat {
        let message = |(key, body): &(&str, &str)| ((*key).to_owned(), None, (*body).to_owned());
        Chat {
            name: name.to_owned(),
            title: title.to_owned(),
            messages: messages.iter().map(message).collect(),
            ..Chat::default()
        }
    }

    pub fn of_user(mut self, user: &str) -> Chat {
        self.user = Some(user.to_owned());
        self
    }

    fn people(&self) -> Vec<&str> {
        let senders = self.messages.iter().filter_map(|(_, sender, _)| sender.as_deref());
        let mut people: Vec<&str> = self.user.as_deref().into_iter().chain(senders).collect();
        people.sort_unstable();
        people.dedup();
        people
    }

    pub fn key(&self) -> Key {
        Key::new(0, Bytes::copy_from_slice(self.name.as_bytes()))
    }

    pub fn entry(&self) -> Entry {
        let people = |ids: &[&str]| {
            let all: Vec<_> = ids.iter().map(|id| vec![Some(*id), Some("User")]).collect();
            rows(1, &all)
        };
        let group: Vec<&str> = self.group.as_deref().into_iter().collect();
        let session = vec![
            Some(self.name.as_str()),
            self.user.as_deref(),
            self.group.as_deref(),
            Some(self.title.as_str()),
            self.since.as_deref(),
            Some("{\"b\": 1, \"a\": [\"\\t\"]}"),
        ];
        let message = |(key, sender, body): &'_ (String, Option<String>, String)| {
            vec![Some(self.name.clone()), Some(key.clone()), sender.clone(), Some(body.clone())]
        };
        let messages: Vec<Vec<Option<String>>> = self.messages.iter().map(message).collect();
        let messages: Vec<Vec<Option<&str>>> =
            messages.iter().map(|row| row.iter().map(Option::as_deref).collect()).collect();
        let anchor = format!("{}\n", escaped(Some(&self.name))).into_bytes();
        let part = |table, anchor: &[u8], rows| Part { table, anchor: anchor.to_vec(), rows };
        Entry {
            key: self.key(),
            parts: vec![
                part(USERS, b"", people(&self.people())),
                part(GROUPS, b"", people(&group)),
                part(SESSIONS, &anchor, rows(1, &[session])),
                part(MESSAGES, &anchor, rows(2, &messages)),
            ],
            misfits: Vec::new(),
        }
    }

    pub fn hash(&self) -> ContentHash {
        let mut hasher = DefaultHasher::new();
        format!("{self:?}").hash(&mut hasher);
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&hasher.finish().to_be_bytes());
        ContentHash(hash)
    }

    pub fn present(&self) -> Observed {
        self.seen(State::Present { hash: self.hash(), expires_at: None })
    }

    pub fn passed(&self, at: i64, why: Why) -> Observed {
        self.seen(State::Passed { hash: self.hash(), expires_at: Some(at), at, why })
    }

    pub fn gone(&self, at: i64, why: Why) -> Observed {
        let mut observed = self.seen(State::Gone { at, why });
        observed.entry.parts.iter_mut().for_each(|part| part.rows = Rows::default());
        observed
    }

    fn seen(&self, state: State) -> Observed {
        Observed { entry: self.entry(), state, offset: Some(7) }
    }
}

pub fn at(offset: u64) -> NodePosition {
    NodePosition {
        node: String::new(),
        replication_id: "8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb".to_owned(),
        offset,
        database: Some(0),
        is_scanned: true,
        mapping: ContentHash([7; 16]),
    }
}

/// The hash that is stored of a key, null where it is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored(pub Option<ContentHash>);

/// A server with the tables, and a target on it.
pub struct Ground {
    pub cluster: Cluster,
    pub runtime: Runtime,
    pub target: KeyspaceTarget,
}

impl Ground {
    pub fn chat() -> Ground {
        Ground::new(TABLES, &chat_layout())
    }

    pub fn new(sql: &str, layout: &Layout) -> Ground {
        let cluster = Cluster::start(Version::V15, &[]);
        cluster.psql("postgres", sql);
        // Twice: what is there already is no error.
        for control in [CREATE_CONTROL_SCHEMA, CREATE_KEYSPACE_TABLES, CREATE_KEYSPACE_TABLES] {
            cluster.psql("postgres", control);
        }
        let runtime = Runtime::new().expect("a runtime can be made");
        let target = runtime.block_on(open(&cluster, layout)).expect("the layout fits");
        Ground { cluster, runtime, target }
    }

    pub fn try_apply(&mut self, entries: Vec<Observed>, offset: u64) -> pgdiode::error::Result<Applied> {
        self.runtime.block_on(self.target.apply(entries, &at(offset)))
    }

    pub fn apply(&mut self, entries: Vec<Observed>) -> Applied {
        let before = self.position().map_or(0, |position| position.offset);
        let applied = self.try_apply(entries, before + 1).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(self.position(), Some(at(before + 1)));
        applied
    }

    pub fn position(&mut self) -> Option<NodePosition> {
        self.runtime.block_on(self.target.position("")).expect("the position can be read")
    }

    pub fn known(&mut self, chats: &[&Chat]) -> Vec<Option<Stored>> {
        let ids: Vec<KeyId> = chats.iter().map(|chat| chat.key().id()).collect();
        let known = self.runtime.block_on(self.target.known(&ids)).expect("keys can be read");
        ids.iter().map(|id| known.get(id).map(|known| Stored(known.hash))).collect()
    }

    pub fn sql(&self, sql: &str) -> String {
        self.cluster.psql("postgres", sql)
    }

    /// Each message with its session: `s1/m1=body`.
    pub fn messages(&self) -> String {
        self.sql(
            "select string_agg(session_key || '/' || message_key || '=' || body, ' ' order by session_key, message_key)
               from messages m join sessions s on s.id = m.session_id",
        )
    }
}

pub async fn open(cluster: &Cluster, layout: &Layout) -> pgdiode::error::Result<KeyspaceTarget> {
    open_as(cluster, "postgres", layout).await
}

pub async fn open_as(
    cluster: &Cluster,
    user: &str,
    layout: &Layout,
) -> pgdiode::error::Result<KeyspaceTarget> {
    let conninfo = cluster.conninfo_as(user, "postgres");
    let conninfo = ConnInfo::parse(&conninfo, &Environment::default()).expect("a conninfo");
    let session = Session::connect(&conninfo, Side::Target, &[("options", TARGET_OPTIONS)]).await?;
    KeyspaceTarget::open(session, "main", layout).await
}

/// What was done to a table: inserted, updated, deleted, marked.
pub fn counts(applied: &Applied, table: usize) -> [u64; 4] {
    let counts = applied.tables[table].1;
    [counts.inserted, counts.updated, counts.deleted, counts.marked]
}
