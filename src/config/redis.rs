//! A pipeline out of a Redis server: how its keys are listened to, and the mapping that says which rows they become.
//!
//! A preset is a mapping in a file of its own, `presets/`, written as the keys of this section are. What the operator maps
//! comes behind it; a mapping of the same pattern takes the place of the preset's.

use std::path::Path;

use serde::Deserialize;

use super::{
    Config, Document, Endpoint, Key, Mode, Pipeline, PipelineKeys, Place, Plugin, Section, Shape, Shown,
    Variable, Way, file,
};
use crate::error::{Error, Result};
use crate::keyspace::Write;
use crate::source::redis::mapping::{
    ColumnMapping, Conversion, KeyMapping, Mapper, ReferenceMapping, TableMapping, ValueType, WhenGone,
};

choice! {
    /// How changes of keys are heard of.
    Live {
        /// The best way that the server allows, in the order below.
        Auto = "auto",
        /// As a replica of the server: nothing is lost, and what was missed is caught up with.
        Replica = "replica",
        /// Client tracking in broadcast mode.
        Tracking = "tracking",
        /// Keyspace notifications.
        Notifications = "notifications",
        /// Looking at every key again and again.
        Polling = "polling",
    }
}

choice! {
    /// A mapping that comes with pgdiode.
    RedisPreset {
        /// Sessions of a chat application, with their messages.
        ChatSessions = "chat-sessions",
    }
}

choice! {
    /// What is done with rows that are there already, or are no longer in a value.
    WriteOption {
        /// The table holds of a key exactly the rows of its value.
        Replace = "replace",
        /// A row is made where there is none, and then left alone.
        Ensure = "ensure",
        /// A row is made or updated, and never removed.
        Upsert = "upsert",
    }
}

section! {
    /// A pipeline out of a Redis server: how changes of its keys are heard of, and which rows they become.
    RedisOptions {
        /// A mapping that comes with pgdiode; `pgdiode init --preset NAME` prints it. `chat-sessions`: keys `session:ID`
        /// that hold JSON, into `users`, `groups`, `sessions` and `messages`. What is mapped here is added to it; the
        /// mapping of a pattern that the preset has too takes its place.
        preset: Option<RedisPreset> = None, Shape::Choice(RedisPreset::WORDS), r#""chat-sessions""#;
        /// How changes are heard of. `replica`: as one of the server's replicas, without loss, and what was missed is
        /// caught up with. `tracking`: client tracking in broadcast mode. `notifications`: keyspace notifications.
        /// `polling`: every key is looked at again and again. `auto`: the first of these that the server allows; any other
        /// that it does not allow is refused. All but `replica` miss what happens while they are not connected, and look at
        /// every key afterwards.
        live: Live = Live::Auto, Shape::Choice(Live::WORDS);
        /// The numbered databases whose keys are mapped.
        databases: Vec<u64> = vec![0], Shape::Wholes(0, 65_535);
        /// How many keys one commit at the target holds at most.
        batch_keys: u64 = 5000, Shape::Whole(1, 100_000);
        /// Memory for names of keys that have changed and wait to be read; beyond it the whole database is looked at again.
        memory_mb: u64 = 64, Shape::Whole(1, 65_536);
        /// How often `polling` looks at every key.
        poll_seconds: u64 = 60, Shape::Whole(1, 86_400);
        /// How often every key is compared with the target while changes are heard of, to find what was missed; all ways but
        /// `polling` do so. 0: never.
        reconcile_seconds: u64 = 3600, Shape::Whole(0, 2_592_000);
        /// How many keys such a comparison reads in a second at most.
        reconcile_keys_per_second: u64 = 20_000, Shape::Whole(1, 10_000_000);
        /// When every key is looked at and more than this of those that the target knows are gone, in percent, the
        /// pipeline stops and asks: a server that has lost its data looks the same.
        disappearance_percent_max: u64 = 50, Shape::Whole(0, 100);
        /// What the server calls `PSYNC`: some hosted servers rename it.
        psync_command: String = "PSYNC".to_owned(), Shape::Text;
        /// Whether pgdiode may set `notify-keyspace-events` at the server, where `notifications` is the way; it adds the
        /// classes that it needs, and takes none away.
        notifications_set: bool = false, Shape::Switch;
        /// What keys become, a pattern each.
        key: Vec<KeyOptions> = Vec::new(), Shape::each::<KeyOptions>(), r#"[{ pattern = "user:{name}", type = "hash", table = [{ table = "public.people", key = ["name"], column = [{ name = "name", from = "{name}" }, { name = "email", from = "$.email" }] }] }]"#;
    }
}

section! {
    /// What the keys of one pattern become. A key that several patterns match fills the tables of all.
    KeyOptions {
        /// Which keys: text with captures such as `{session_id}`, which end at the next text, and `*`. A `\` before a
        /// character takes it as it is.
        pattern: String = String::new(), Shape::Text, r#""session:{session_id}""#;
        /// What the keys hold: `string`, taken as text; `json`, a string that holds JSON; `hash`, `list`, `set`, `zset`,
        /// `stream`; `rejson`, a document of the RedisJSON module. A key of another type is quarantined, and its rows go.
        r#type: ValueType = ValueType::Json, Shape::Choice(ValueType::WORDS);
        /// The tables that they fill.
        table: Vec<TableOptions> = Vec::new(), Shape::each::<TableOptions>(), r#"[{ table = "public.sessions", key = ["session_key"], column = [{ name = "session_key", from = "{session_id}" }] }]"#;
    }
}

section! {
    /// One table that keys of a pattern fill. Tables are filled in the order in which they refer to each other.
    TableOptions {
        /// The table, `schema.table`; without a schema it is in `public`.
        table: String = String::new(), Shape::Text, r#""public.messages""#;
        /// The path to a list, or an object, of which each element becomes a row; `$` is the value itself, and each
        /// element of a list, set, sorted set or stream always does. Left out: the value becomes one row.
        each: Option<String> = None, Shape::Text, r#""$.messages""#;
        /// What is done with rows. `replace`: the table holds of each key exactly the rows of its value; captures in its
        /// columns say whose they are. `ensure`: a row is made where there is none, and then left alone. `upsert`: a row is
        /// made or updated, and never removed.
        write: WriteOption = WriteOption::Replace, Shape::Choice(WriteOption::WORDS);
        /// The columns that tell rows apart, which have a unique index of their own. An element without a value for one is
        /// quarantined.
        key: Vec<String> = Vec::new(), Shape::Texts, r#"["session_id", "message_key"]"#;
        /// Columns without which there is no row, and nothing to quarantine.
        skip_without: Vec<String> = Vec::new(), Shape::Texts, r#"["external_id"]"#;
        /// What becomes of rows whose key is gone, with `write = "replace"`. `delete`: they go too. `mark`: `expired_at` or
        /// `deleted_at` says when. `keep`: nothing. Left out: `delete`.
        gone: Option<WhenGone> = None, Shape::Choice(WhenGone::WORDS), r#""mark""#;
        /// The column that `mark` fills when a key has expired.
        expired_at: String = "expired_at".to_owned(), Shape::Text;
        /// The column that `mark` fills when a key was deleted.
        deleted_at: String = "deleted_at".to_owned(), Shape::Text;
        /// The columns that are written.
        column: Vec<ColumnOptions> = Vec::new(), Shape::each::<ColumnOptions>(), r#"[{ name = "session_key", from = "{session_id}" }]"#;
    }
}

section! {
    /// One column, and where its value comes from.
    ColumnOptions {
        /// The column.
        name: String = String::new(), Shape::Text, r#""content""#;
        /// Where the value is, or several places of which the first that has one counts: a path from the value's top
        /// (`$.user.name`, `$.tags[0]`; of a hash `$.field`), a path from the element at hand (`@.text`), a capture
        /// (`{session_id}`), or a word: `{key}`, `{database}`, `{expires_at}`; of each element `{index}`, `{content_hash}`,
        /// a hash of what it says and of how many equal ones stand before it, `{occurrence}`, that number alone; of a
        /// string `{value}`, of a hash's fields `{field}` and `{value}`, of a list `{value}`, of a set `{member}`, of a
        /// sorted set `{member}` and `{score}`, of a stream `{id}`. JSON's `null` is no value.
        from: Texts = Texts::default(), Shape::TextOrTexts, r#"["@.content", "@.text"]"#;
        /// What is made of it. `text`: a text's characters, a number with all its digits. `json`: that part of the document
        /// as it stands there. `epoch_seconds`, `epoch_milliseconds`: a time. `timestamp`: a time in ISO 8601, in UTC where
        /// it names no zone, or seconds or milliseconds since 1970, told apart by their size.
        r#as: Conversion = Conversion::Text, Shape::Choice(Conversion::WORDS);
        /// The value where there is none; without `from`, the value in every row.
        default: Option<String> = None, Shape::Text, r#""unknown""#;
        /// Whether an element without a value is quarantined.
        required: bool = false, Shape::Switch;
        /// The column's type in the `create table` statements that pgdiode prints.
        r#type: Option<String> = None, Shape::Text, r#""text""#;
        /// The row of another mapped table that the value stands for.
        reference: Option<ReferenceOptions> = None, Shape::of::<ReferenceOptions>(), r#"{ table = "public.users", by = "external_id", take = "id" }"#;
    }
}

section! {
    /// The row of another mapped table that a value stands for: what is stored is a column of that row.
    ReferenceOptions {
        /// The table.
        table: String = String::new(), Shape::Text, r#""public.users""#;
        /// Its column that holds the value, which is its whole key.
        by: String = String::new(), Shape::Text, r#""external_id""#;
        /// Its column that is stored.
        take: String = "id".to_owned(), Shape::Text;
    }
}

/// One text, or several.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "OneOrMore")]
pub struct Texts(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl From<OneOrMore> for Texts {
    fn from(texts: OneOrMore) -> Texts {
        match texts {
            OneOrMore::One(text) => Texts(vec![text]),
            OneOrMore::More(texts) => Texts(texts),
        }
    }
}

shown! {
    Vec<u64>: |numbers| serde_json::to_string(numbers).ok(),
    ValueType: |holds| holds.as_str().to_owned().toml(),
    Conversion: |conversion| conversion.as_str().to_owned().toml(),
    Option<RedisPreset>: |_| None,
    Option<WhenGone>: |_| None,
    Option<ReferenceOptions>: |_| None,
    Texts: |_| None,
    Vec<KeyOptions>: |_| None,
    Vec<TableOptions>: |_| None,
    Vec<ColumnOptions>: |_| None,
}

impl RedisPreset {
    pub fn named(name: &str) -> Option<RedisPreset> {
        [RedisPreset::ChatSessions].into_iter().find(|preset| preset.as_str() == name)
    }

    /// The file.
    pub fn text(self) -> &'static str {
        match self {
            RedisPreset::ChatSessions => include_str!("../../presets/chat-sessions.toml"),
        }
    }

    fn keys(self) -> Result<Vec<KeyOptions>> {
        let path = Path::new("presets").join(self.as_str()).with_extension("toml");
        Ok(file::read::<RedisOptions>(&path, self.text())?.0.key)
    }
}

impl RedisOptions {
    /// What becomes of keys; `at` says where a key of the pipeline stands.
    pub(super) fn mapper(&self, at: Place<'_>) -> Result<Mapper> {
        let preset = self.preset.map(RedisPreset::keys).transpose()?.unwrap_or_default();
        let is_own = |key: &KeyOptions| self.key.iter().any(|own| own.pattern == key.pattern);
        let preset: Vec<KeyOptions> = preset.into_iter().filter(|key| !is_own(key)).collect();
        if preset.is_empty() && self.key.is_empty() {
            return Err(Error::config(format!(
                "{}: nothing says which keys become which rows",
                at(&["redis"])
            ))
            .hint(
                "describe them under [[pipeline.NAME.redis.key]], or set redis.preset = \"chat-sessions\"",
            ));
        }
        if self.databases.is_empty() {
            return Err(Error::config(format!("{}: no database is mapped", at(&["redis", "databases"])))
                .hint("databases = [0]"));
        }
        let databases = self.databases.iter().filter_map(|number| u32::try_from(*number).ok());
        let written: Vec<KeyMapping> = preset.iter().chain(&self.key).map(KeyOptions::mapping).collect();
        Mapper::new(&written, &databases.collect::<Vec<u32>>(), &|path| match path {
            ["key", number, rest @ ..] => {
                let number: usize = number.parse().unwrap_or(0);
                match number.checked_sub(preset.len()) {
                    Some(own) => at(&[&["redis", "key", own.to_string().as_str()], rest].concat()),
                    None => format!("{}: the preset", at(&["redis", "preset"])),
                }
            }
            path => at(&[&["redis"], path].concat()),
        })
    }
}

impl KeyOptions {
    fn mapping(&self) -> KeyMapping {
        KeyMapping {
            pattern: self.pattern.clone(),
            holds: self.r#type,
            tables: self.table.iter().map(TableOptions::mapping).collect(),
        }
    }
}

impl TableOptions {
    fn mapping(&self) -> TableMapping {
        TableMapping {
            table: self.table.clone(),
            each: self.each.clone(),
            write: match self.write {
                WriteOption::Replace => Write::Replace,
                WriteOption::Ensure => Write::Ensure,
                WriteOption::Upsert => Write::Upsert,
            },
            key: self.key.clone(),
            skip_without: self.skip_without.clone(),
            gone: self.gone,
            expired_at: self.expired_at.clone(),
            deleted_at: self.deleted_at.clone(),
            columns: self.column.iter().map(ColumnOptions::mapping).collect(),
        }
    }
}

impl ColumnOptions {
    fn mapping(&self) -> ColumnMapping {
        let reference = self.reference.as_ref().map(|reference| ReferenceMapping {
            table: reference.table.clone(),
            by: reference.by.clone(),
            take: reference.take.clone(),
        });
        ColumnMapping {
            name: self.name.clone(),
            from: self.from.0.clone(),
            conversion: self.r#as,
            default: self.default.clone(),
            is_required: self.required,
            sql_type: self.r#type.clone(),
            reference,
        }
    }
}

/// What does not go together with a Redis server.
pub(super) fn check_ends(
    keys: &PipelineKeys,
    source: &Endpoint,
    target: &Endpoint,
    at: Place<'_>,
) -> Result<()> {
    let wrong = |key: &[&str], what: &str, hint: &str| {
        Err(Error::config(format!("{}: {what}", at(key))).hint(hint.to_owned()))
    };
    if target.is_redis() {
        return wrong(&["target"], "a Redis server is only read", "name a PostgreSQL database");
    }
    if !source.is_redis() {
        return Ok(());
    }
    if keys.mode != Mode::Stream {
        let what = format!("a Redis server has no mode = \"{}\"", keys.mode.as_str());
        return wrong(&["mode"], &what, "leave the key out: its keys are followed with mode = \"stream\"");
    }
    if target.is_archive() {
        return wrong(
            &["target"],
            "keys become rows of a database, not of an archive",
            "name a PostgreSQL database",
        );
    }
    if keys.spill.archive.is_some() {
        return wrong(
            &["spill", "archive"],
            "nothing of a Redis server has to be spilled",
            "leave the section spill out",
        );
    }
    if keys.plugin != Plugin::Pgoutput {
        return wrong(&["plugin"], "a Redis server has no output plugin", "leave the key out");
    }
    for (key, is_set) in [("slot", keys.slot.is_some()), ("publication", keys.publication.is_some())] {
        if is_set {
            return wrong(&[key], &format!("a Redis server has no {key}"), "leave the key out");
        }
    }
    source.check_redis().map_err(|error| error.context(at(&["source"])))
}

impl Pipeline {
    /// Keys are no tables; `instead` says what there is.
    pub fn refuse_redis(&self, verb: &str, instead: &str) -> Result<()> {
        if self.way() != Way::FromRedis {
            return Ok(());
        }
        let what = format!(
            "the source of pipeline \"{}\" is a Redis server, for which there is no {verb}",
            self.name
        );
        Err(Error::config(what).hint(instead))
    }
}

/// Whether the environment describes a pipeline of this kind.
pub(super) fn is_described(variable: Variable<'_>) -> bool {
    variable("REDIS_HOST").is_some() && variable("DATABASE_URL").is_some()
}

/// The pipeline `chat`, described by `REDIS_*` and `DATABASE_URL`.
pub(super) fn from_environment(variable: Variable<'_>) -> Result<Config> {
    let unfit = |name: &str, what: &str, hint: &str| {
        Error::config(format!("the variable {name} must be {what}")).hint(hint.to_owned())
    };
    let host = variable("REDIS_HOST").unwrap_or_default().trim().to_owned();
    let is_name = |character: char| character.is_ascii_alphanumeric() || ".-_:[]".contains(character);
    if host.is_empty() || !host.chars().all(is_name) {
        return Err(unfit(
            "REDIS_HOST",
            "a host name or an address",
            "the port has its own variable, REDIS_PORT",
        ));
    }
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
    let port = match variable("REDIS_PORT") {
        None => 6379,
        Some(port) => port.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
            unfit("REDIS_PORT", "a port", "set it to a whole number from 1 to 65535, or unset it for 6379")
        })?,
    };
    // Redis itself says of each key when it ends; nothing follows from this.
    if let Some(hours) = variable("REDIS_SESSION_TTL_HOURS") {
        hours.trim().parse::<u32>().map_err(|_| {
            unfit(
                "REDIS_SESSION_TTL_HOURS",
                "a whole number of hours",
                "unset it: each key's own deadline is read",
            )
        })?;
    }
    let mut parameters = vec![("redis", format!("redis://{host}:{port}"))];
    parameters.extend(variable("REDIS_USERNAME").map(|user| ("user", user.trim().to_owned())));
    let password = variable("REDIS_PASSWORD").map(|_| "REDIS_PASSWORD".to_owned());
    let keys = PipelineKeys {
        source: Some(Endpoint::from_parameters(parameters, password)),
        target: variable("DATABASE_URL").map(Endpoint::from_text),
        redis: RedisOptions { preset: Some(RedisPreset::ChatSessions), ..RedisOptions::default() },
        ..PipelineKeys::default()
    };
    let document = Document { pipeline: [("chat".to_owned(), keys)].into(), ..Document::default() };
    Config::check(document, &|key| match key.get(2) {
        Some(&"target") => "DATABASE_URL".into(),
        _ => "REDIS_*".into(),
    })
}

#[cfg(test)]
mod tests;
