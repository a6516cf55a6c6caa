//! Thousands of entries by chance, some refused, against a model that applies one after the other in memory.

use std::collections::{BTreeMap, BTreeSet};

use pgdiode::keyspace::{Gone, Layout, Observed, Part, Rows, Why};

use super::{Chat, Ground, TABLES, chat_layout, column, escaped, rows, table};
use crate::harness::Rng;

const NAMES: usize = 30;
const BATCHES: usize = 180;
/// Each session's rows of `tags` may be another's the next moment: their key is not part of the session's.
const TAGS: &str = "
create table tags (tag text primary key, session_key text not null, note text);
create index on tags (session_key);
alter table messages add constraint decent check (body <> 'bad');";

fn layout() -> Layout {
    let mut layout = chat_layout();
    let mut tags = table("tags", vec![column("tag"), column("session_key"), column("note")], vec![0]);
    tags.anchor = vec![1];
    tags.gone = Gone::Delete;
    layout.tables.push(tags);
    layout
}

/// A session with its tags.
#[derive(Clone)]
struct Value {
    chat: Chat,
    tags: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Event {
    Present,
    Gone(i64, Why),
    Passed(i64, Why),
}

impl Value {
    fn by_chance(rng: &mut Rng, before: Option<&Value>) -> Value {
        let name = format!("s\\{}\t", rng.usize(..NAMES));
        let mut value = match before {
            // Most values are a little more than they were.
            Some(before) if rng.u8(..10) < 7 => before.clone(),
            _ => Value { chat: Chat { name, ..Chat::default() }, tags: Vec::new() },
        };
        let chat = &mut value.chat;
        chat.title = format!("title {}", rng.u8(..5));
        chat.since = (rng.u8(..100) == 0).then(|| "never".to_owned());
        if rng.bool() {
            chat.user = rng.bool().then(|| format!("u{}", rng.u8(..20)));
            chat.group = rng.bool().then(|| format!("g{}", rng.u8(..5)));
        }
        for _ in 0..rng.usize(..4) {
            let body = if rng.u8(..150) == 0 { "bad".to_owned() } else { format!("body {}", rng.u8(..3)) };
            let sender = rng.bool().then(|| format!("u{}", rng.u8(..20)));
            let message = (format!("m{}", rng.u8(..40)), sender, body);
            if chat.messages.iter().all(|(key, ..)| *key != message.0) {
                chat.messages.push(message);
            }
        }
        if rng.u8(..4) == 0 && !chat.messages.is_empty() {
            chat.messages.remove(rng.usize(..chat.messages.len()));
        }
        if rng.u8(..8) == 0 {
            rng.shuffle(&mut chat.messages);
        }
        value.tags.retain(|_| rng.u8(..4) > 0);
        let tag = format!("t{}", rng.u8(..40));
        if rng.u8(..4) > 0 && value.tags.iter().all(|(one, _)| *one != tag) {
            value.tags.push((tag, format!("note {}", rng.u8(..3))));
        }
        value
    }

    fn observed(&self, event: Event) -> Observed {
        let mut observed = match event {
            Event::Present => self.chat.present(),
            Event::Gone(at, why) => self.chat.gone(at, why),
            Event::Passed(at, why) => self.chat.passed(at, why),
        };
        let all: Vec<_> = self
            .tags
            .iter()
            .map(|(tag, note)| vec![Some(tag.as_str()), Some(self.chat.name.as_str()), Some(note.as_str())])
            .collect();
        let rows = if matches!(event, Event::Gone(..)) { Rows::default() } else { rows(1, &all) };
        let anchor = escaped(Some(&self.chat.name)).into_bytes();
        observed.entry.parts.push(Part { table: 4, anchor, rows });
        observed
    }
}

#[derive(Default)]
struct Session {
    user: Option<String>,
    group: Option<String>,
    title: String,
    mark: Option<(i64, Why)>,
}

/// What the tables hold, by the rules of the keyspace alone.
#[derive(Default)]
struct Model {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
    sessions: BTreeMap<String, Session>,
    /// By session and key: sender and body.
    messages: BTreeMap<(String, String), (Option<String>, String)>,
    /// By tag: session and note.
    tags: BTreeMap<String, (String, String)>,
    /// Whether the key is there.
    keys: BTreeMap<String, bool>,
}

impl Model {
    fn apply(&mut self, value: &Value, event: Event) {
        let name = &value.chat.name;
        if matches!(event, Event::Gone(..)) && self.keys.get(name) != Some(&true) {
            return;
        }
        if !matches!(event, Event::Gone(..)) {
            self.write(value);
        }
        if let Event::Gone(at, why) | Event::Passed(at, why) = event {
            if let Some(session) = self.sessions.get_mut(name) {
                session.mark.get_or_insert((at, why));
            }
            self.tags.retain(|_, (owner, _)| owner != name);
        }
        self.keys.insert(name.clone(), event == Event::Present);
    }

    fn write(&mut self, value: &Value) {
        let chat = &value.chat;
        self.users.extend(chat.people().iter().map(|id| (*id).to_owned()));
        self.groups.extend(chat.group.clone());
        if chat.since.is_none() {
            let (user, group, title) = (chat.user.clone(), chat.group.clone(), chat.title.clone());
            self.sessions.insert(chat.name.clone(), Session { user, group, title, mark: None });
        }
        let has_session = self.sessions.contains_key(&chat.name);
        let is_taken = |body: &str| has_session && body != "bad";
        if chat.messages.iter().all(|(.., body)| is_taken(body)) {
            self.messages.retain(|(session, key), _| {
                *session != chat.name || chat.messages.iter().any(|(one, ..)| one == key)
            });
        }
        for (key, sender, body) in chat.messages.iter().filter(|(.., body)| is_taken(body)) {
            self.messages.insert((chat.name.clone(), key.clone()), (sender.clone(), body.clone()));
        }
        self.tags
            .retain(|tag, (owner, _)| *owner != chat.name || value.tags.iter().any(|(one, _)| one == tag));
        for (tag, note) in &value.tags {
            self.tags.insert(tag.clone(), (chat.name.clone(), note.clone()));
        }
    }

    /// A line for each row, as [`DUMP`] has them.
    fn dump(&self) -> BTreeSet<String> {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let mut lines = BTreeSet::new();
        lines.extend(self.users.iter().map(|id| format!("user {id}")));
        lines.extend(self.groups.iter().map(|id| format!("group {id}")));
        for (name, Session { user, group, title, mark }) in &self.sessions {
            let mark = match mark {
                Some((at, Why::Expired)) => format!("expired {at}"),
                Some((at, Why::Deleted)) => format!("deleted {at}"),
                None => "-".to_owned(),
            };
            lines.insert(format!("session {name} {} {} {title} {mark}", text(user), text(group)));
        }
        for ((session, key), (sender, body)) in &self.messages {
            lines.insert(format!("message {session} {key} {} {body}", text(sender)));
        }
        lines.extend(self.tags.iter().map(|(tag, (session, note))| format!("tag {tag} {session} {note}")));
        lines.extend(self.keys.iter().map(|(name, present)| format!("key {name} {present}")));
        lines
    }
}

const DUMP: &str = "
select 'user ' || external_id from users where name = 'User'
union all select 'group ' || external_id from groups
union all select format('session %s %s %s %s %s', session_key, coalesce(u.external_id, '-'), coalesce(g.external_id, '-'), title,
        coalesce('expired ' || (extract(epoch from expired_at) * 1000)::int8, 'deleted ' || (extract(epoch from deleted_at) * 1000)::int8, '-'))
    from sessions left join users u on u.id = user_id left join groups g on g.id = group_id
union all select format('message %s %s %s %s', session_key, message_key, coalesce(u.external_id, '-'), body)
    from messages m join sessions s on s.id = m.session_id left join users u on u.id = m.sender_id
union all select format('tag %s %s %s', tag, session_key, note) from tags
union all select format('key %s %s', convert_from(name, 'utf8'), (hash is not null)::text) from pgdiode.keyspace_key";

#[test]
fn the_tables_end_as_the_model_does() {
    let mut rng = Rng::from_environment();
    let mut ground = Ground::new(&format!("{TABLES}{TAGS}"), &layout());
    let mut model = Model::default();
    let mut values: BTreeMap<String, Value> = BTreeMap::new();
    let (mut applied, mut refused) = (0, 0);
    for number in 0..BATCHES {
        let mut batch: Vec<(Value, Event)> = Vec::new();
        for _ in 0..rng.usize(1..if number % 3 == 0 { 4 } else { 45 }) {
            let before = values.values().nth(rng.usize(..values.len().max(1)));
            let value = Value::by_chance(&mut rng, before);
            let at = 1_700_000_000_000 + rng.i64(0..1_000_000);
            let why = if rng.bool() { Why::Expired } else { Why::Deleted };
            let event = match rng.u8(..10) {
                0 | 1 => Event::Gone(at, why),
                2 => Event::Passed(at, why),
                _ => Event::Present,
            };
            values.insert(value.chat.name.clone(), value.clone());
            batch.push((value, event));
        }
        applied += batch.len();
        refused += ground.apply(batch.iter().map(|(value, event)| value.observed(*event)).collect()).misfits;
        // Of several entries of one key the last counts.
        for (index, (value, event)) in batch.iter().enumerate() {
            let is_last = batch[index + 1..].iter().all(|(other, _)| other.chat.name != value.chat.name);
            if is_last {
                model.apply(value, *event);
            }
        }
        if number % 5 == 0 || number + 1 == BATCHES {
            let found: BTreeSet<String> = ground.sql(DUMP).lines().map(str::to_owned).collect();
            let expected = model.dump();
            let missing: Vec<_> = expected.difference(&found).collect();
            let extra: Vec<_> = found.difference(&expected).collect();
            assert!(
                missing.is_empty() && extra.is_empty(),
                "batch {number}: missing {missing:#?}, extra {extra:#?}"
            );
        }
    }
    assert!(applied > 2000, "{applied} entries");
    assert!(refused > 0, "nothing was refused");
}
