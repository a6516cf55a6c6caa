//! The verbs around a run from Redis: all of them work at the target alone, but that the source's rights are written down
//! for whoever gives them.

use std::time::Duration;

use serde_json::Map;
use tokio::time::Instant;

use super::verify::shown;
use super::{location, mapper};
use crate::audit::{self, Action, Journal};
use crate::change::TableName;
use crate::config::{Live as LiveMode, Pipeline};
use crate::error::{Error, Result};
use crate::keyspace::Key;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::membership::states;
use crate::pipeline::replay::verbs::{run, texts};
use crate::pipeline::step::{Step, has_control_schema, tables_sql};
use crate::pipeline::{holder, reset as of_target};
use crate::redis::connection::Connection;
use crate::redis::location::Location;
use crate::redis::resp::Reply;
use crate::source::redis::mapping::Mapper;
use crate::source::redis::server::Server;
use crate::status::{KeySync, Reset, TableListing};
use crate::target::postgres::keyspace::{CREATE_KEYSPACE_TABLES, KeyspaceTarget};
use crate::target::postgres::progress;

/// How long a run may take over a key that it is asked for.
const KEY_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// What every run and `verify` send, and what reads a key of any type.
const READING: &[&str] = &[
    "auth", "ping", "info", "select", "scan", "multi", "exec", "watch", "time", "exists", "type", "get",
    "hgetall", "lrange", "smembers", "zrange", "xrange", "pttl",
];

/// What is sent to the nodes of a cluster beside that.
const OF_A_CLUSTER: [&str; 5] = ["cluster|info", "cluster|nodes", "cluster|slots", "asking", "dbsize"];

// ---- setup ----

pub(in crate::pipeline) async fn setup_plan(pipeline: &Pipeline) -> Result<Vec<String>> {
    let end = TargetEnd::resolve(pipeline)?;
    let steps = setup_steps(&mut end.session().await?, pipeline).await?;
    Ok(texts(&steps, &end))
}

pub(in crate::pipeline) async fn setup(pipeline: &Pipeline, reason: Option<&str>) -> Result<Vec<String>> {
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    let steps = setup_steps(&mut target, pipeline).await?;
    let details = Map::from_iter([("statements".into(), steps.len().into())]);
    let journal = Journal::begin(&mut target, pipeline, Action::Setup, reason, details).await?;
    let done = run(&steps, &mut target).await;
    journal.conclude(&mut target, done).await?;
    Ok(texts(&steps, &end))
}

/// What is missing at the target. Tables that are there and do not fit are refused.
async fn setup_steps(target: &mut Session, pipeline: &Pipeline) -> Result<Vec<Step>> {
    let mapper = mapper(pipeline)?;
    let layout = mapper.layout();
    let missing = missing_tables(target, &mapper).await?;
    for index in (0..layout.tables.len()).filter(|index| refers_to_none(&mapper, *index, &missing)) {
        KeyspaceTarget::check_table(target, layout, index).await?;
    }
    let mut steps = Vec::new();
    if !has_control_schema(target).await? {
        steps.push(Step::target(progress::CREATE_CONTROL_SCHEMA));
    }
    if !audit::exists(target).await? {
        steps.push(Step::target(audit::CREATE_AUDIT));
    }
    if !has_keyspace_tables(target).await? {
        steps.push(Step::target(CREATE_KEYSPACE_TABLES));
    }
    let mut schemas: Vec<&str> =
        missing.iter().map(|index| layout.tables[*index].name.schema.as_str()).collect();
    schemas.sort_unstable();
    schemas.dedup();
    for schema in schemas {
        let name = quote::literal(&quote::identifier(schema));
        if target.one(&format!("select pg_catalog.to_regnamespace({name}) is null")).await?.bool(0) {
            steps.push(Step::target(format!("create schema {}", quote::identifier(schema))));
        }
    }
    steps.extend(missing.iter().map(|index| Step::target(mapper.create_table(*index))));
    Ok(steps)
}

/// The tables of the layout that are not at the target, by their index.
pub async fn missing_tables(target: &mut Session, mapper: &Mapper) -> Result<Vec<usize>> {
    let mut missing = Vec::new();
    for (index, table) in mapper.layout().tables.iter().enumerate() {
        let name = quote::literal(&quote::table(&table.name));
        if target.one(&format!("select pg_catalog.to_regclass({name}) is null")).await?.bool(0) {
            missing.push(index);
        }
    }
    Ok(missing)
}

/// Whether the table of that index is there, as are those that it refers to.
pub fn refers_to_none(mapper: &Mapper, index: usize, missing: &[usize]) -> bool {
    let references =
        mapper.layout().tables[index].columns.iter().filter_map(|column| column.reference.as_ref());
    !missing.contains(&index) && references.into_iter().all(|to| !missing.contains(&to.table))
}

/// Whether a pipeline out of Redis was ever set up or started here.
pub(super) async fn has_keyspace_tables(target: &mut Session) -> Result<bool> {
    let row = target.one("select pg_catalog.to_regclass('pgdiode.keyspace_wish') is not null").await?;
    Ok(row.bool(0))
}

/// The rights that pgdiode needs at the source, as comments: an administrator gives them there.
pub(in crate::pipeline) async fn rights(pipeline: &Pipeline) -> Result<Vec<String>> {
    let mapper = mapper(pipeline)?;
    let location = location(pipeline)?;
    let knows = Knows::ask(&location, pipeline, mapper.reads_documents()).await;
    let mut commands: Vec<String> = READING.iter().map(|name| (*name).to_owned()).collect();
    commands.push("client|setname".into());
    commands.extend(knows.expiry_times.then(|| "pexpiretime".to_owned()));
    commands.extend(knows.documents.then(|| "json.get".to_owned()));
    if knows.is_cluster {
        commands.extend(OF_A_CLUSTER.map(str::to_owned));
    }
    commands.extend(listening(pipeline));
    let granted: Vec<String> = commands.iter().map(|name| format!("+{name}")).collect();
    let mut patterns: Vec<String> = mapper.globs().iter().map(|glob| quoted(&pattern(glob))).collect();
    if pipeline.redis.live == LiveMode::Notifications {
        patterns.extend(mapper.databases().iter().map(|database| format!("&__keyevent@{database}__:*")));
    }
    let user = location.user.as_deref().unwrap_or("pgdiode");
    let mut text = format!(
        "-- at the source, {}, by an administrator, with redis-cli (a password in place of PASSWORD):\n\
         --   ACL SETUSER {} on resetpass >PASSWORD resetkeys resetchannels {} -@all {}",
        location.display(),
        quoted(user),
        patterns.join(" "),
        granted.join(" ")
    );
    if matches!(pipeline.redis.live, LiveMode::Auto | LiveMode::Replica) {
        text.push_str(
            "\n-- patterns of keys do not filter what a replica is sent: with +psync this user sees every write of every key",
        );
    }
    Ok(vec![text])
}

/// What hears of changes.
fn listening(pipeline: &Pipeline) -> Vec<String> {
    let redis = &pipeline.redis;
    match redis.live {
        LiveMode::Auto | LiveMode::Replica => vec![redis.psync_command.to_lowercase(), "replconf".into()],
        LiveMode::Tracking => vec!["hello".into(), "client|tracking".into()],
        LiveMode::Notifications => {
            let set = redis.notifications_set.then_some("config|set");
            ["psubscribe", "config|get"].into_iter().chain(set).map(str::to_owned).collect()
        }
        LiveMode::Polling => Vec::new(),
    }
}

/// What the server has, as far as it can be asked already.
struct Knows {
    expiry_times: bool,
    documents: bool,
    is_cluster: bool,
}

impl Knows {
    async fn ask(location: &Location, pipeline: &Pipeline, reads_documents: bool) -> Knows {
        let asked = async {
            let name = format!("pgdiode-{}-setup", pipeline.name);
            let mut connection = Connection::open(location, &name).await?;
            let server = Server::ask(&mut connection).await?;
            // Of a command that nobody knows it says nothing.
            let documents = match connection.ask(&[b"COMMAND", b"INFO", b"JSON.GET"]).await? {
                Reply::Array(about) => matches!(about.first(), Some(Reply::Array(_))),
                _ => reads_documents,
            };
            Ok::<Knows, Error>(Knows {
                expiry_times: server.as_ref().is_none_or(|server| server.version >= (7, 0)),
                documents,
                is_cluster: server.is_some_and(|server| server.is_cluster),
            })
        };
        match asked.await {
            Ok(knows) => knows,
            Err(error) => {
                tracing::debug!(error = error.chain(), "the source could not be asked what it knows");
                Knows { expiry_times: true, documents: reads_documents, is_cluster: false }
            }
        }
    }
}

/// A pattern that an ACL takes: whatever is no plain character stands for any.
fn pattern(glob: &[u8]) -> String {
    let plain = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' };
    format!("~{}", glob.iter().map(plain).collect::<String>())
}

/// As redis-cli reads a word.
fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_graphic() && !"\"'\\".contains(character);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

// ---- resync ----

/// Has every key looked at, and every row written anew: by a running pipeline at once, by a stopped one when it is
/// started.
pub(in crate::pipeline) async fn resync(
    pipeline: &Pipeline,
    tables: &[TableName],
    reason: Option<&str>,
) -> Result<()> {
    if !tables.is_empty() {
        return Err(Error::config(format!(
            "the source of pipeline \"{}\" is a Redis server: a key may fill several tables, and none is written alone",
            pipeline.name
        ))
        .hint("name no table to have every key looked at, or a key: pgdiode resync --key NAME"));
    }
    let mut target = begun(pipeline).await?;
    let journal = Journal::begin(&mut target, pipeline, Action::Resync, reason, Map::new()).await?;
    let sql = format!(
        "insert into pgdiode.keyspace_resync as r (pipeline, number) values ({}, 1) \
         on conflict (pipeline) do update set number = r.number + 1, at = now()",
        quote::literal(&pipeline.name)
    );
    let done = target.query(&sql).await.map(drop);
    journal.conclude(&mut target, done).await
}

/// Has one key looked at and its rows written anew; waits for that where the pipeline is running.
pub async fn sync_key(
    pipeline: &Pipeline,
    database: u32,
    key: &[u8],
    reason: Option<&str>,
) -> Result<KeySync> {
    let key = Key::new(database, key.to_vec());
    if !mapper(pipeline)?.matches(&key) {
        return Err(Error::config(format!(
            "no pattern of pipeline \"{}\" matches this key of database {database}",
            pipeline.name
        ))
        .hint("pgdiode check shows the patterns, and what they match"));
    }
    let mut target = begun(pipeline).await?;
    let details =
        Map::from_iter([("database".into(), database.into()), ("key".into(), shown(&key.name).into())]);
    let journal = Journal::begin(&mut target, pipeline, Action::Resync, reason, details).await?;
    let synced = wish_for(&mut target, pipeline, &key).await;
    let told = |done: &KeySync| Map::from_iter([("looked_at".into(), (*done == KeySync::Done).into())]);
    journal.conclude_with(&mut target, synced, told).await
}

/// Writes the wish down, and waits for whoever runs the pipeline to fulfil it.
async fn wish_for(target: &mut Session, pipeline: &Pipeline, key: &Key) -> Result<KeySync> {
    let sql = "insert into pgdiode.keyspace_wish (pipeline, database, name) \
               values ($1, $2::int4, pg_catalog.decode($3, 'hex')) returning number";
    let name = data_encoding::HEXLOWER.encode(&key.name);
    let database = key.database.to_string();
    let rows = target.query_with(sql, &[Some(&pipeline.name), Some(&database), Some(&name)]).await?;
    let number = rows.first().map(|row| row.string(0)).unwrap_or_default();
    let deadline = Instant::now() + KEY_PATIENCE;
    while holder::holder(target, &pipeline.name).await?.is_some() && Instant::now() < deadline {
        let waits = format!("select exists (select from pgdiode.keyspace_wish where number = {number})");
        if !target.one(&waits).await?.bool(0) {
            return Ok(KeySync::Done);
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(KeySync::Later)
}

/// A session with a target that knows the pipeline.
async fn begun(pipeline: &Pipeline) -> Result<Session> {
    let mut target = TargetEnd::resolve(pipeline)?.session().await?;
    if !has_control_schema(&mut target).await? || !has_keyspace_tables(&mut target).await? {
        return Err(Error::refused(format!("pipeline \"{}\" has not been started yet", pipeline.name))
            .hint("its first start looks at every key: pgdiode start"));
    }
    Ok(target)
}

// ---- tables ----

/// The tables that the mapping fills.
pub(in crate::pipeline) async fn list(pipeline: &Pipeline) -> Result<Vec<TableListing>> {
    let mapper = mapper(pipeline)?;
    let mut target = TargetEnd::resolve(pipeline)?.session().await?;
    let states = states(&mut target, &pipeline.name).await?;
    let mut listed = Vec::new();
    for table in &mapper.layout().tables {
        let regclass = format!("pg_catalog.to_regclass({})", quote::literal(&quote::table(&table.name)));
        let size = format!("select {regclass} is null, coalesce(pg_catalog.pg_table_size({regclass}), 0)");
        let row = target.one(&size).await?;
        let key: Vec<&str> = table.key.iter().map(|index| table.columns[*index].name.as_str()).collect();
        listed.push(TableListing {
            name: table.name.clone(),
            carried: true,
            state: states.get(&table.name).copied(),
            replica_identity: format!("unique ({})", key.join(", ")),
            bytes: row.get(1)?,
            note: row.bool(0).then(|| "it is made by pgdiode setup, or the first start".to_owned()),
        });
    }
    Ok(listed)
}

// ---- reset ----

pub(in crate::pipeline) async fn reset_plan(pipeline: &Pipeline, reset: Reset) -> Result<Vec<String>> {
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    let (steps, remains) = reset_steps(&mut target, pipeline, reset).await?;
    Ok(texts(&steps, &end).into_iter().chain(remains).collect())
}

pub(in crate::pipeline) async fn reset(
    pipeline: &Pipeline,
    reset: Reset,
    reason: Option<&str>,
) -> Result<Vec<String>> {
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    let (steps, remains) = reset_steps(&mut target, pipeline, reset).await?;
    let journal = Journal::begin(&mut target, pipeline, Action::Reset, reason, Map::new()).await?;
    let done = run(&steps, &mut target).await;
    journal.conclude(&mut target, done).await?;
    Ok(texts(&steps, &end).into_iter().chain(remains).collect())
}

/// What goes, and what stays.
async fn reset_steps(
    target: &mut Session,
    pipeline: &Pipeline,
    reset: Reset,
) -> Result<(Vec<Step>, Vec<String>)> {
    if reset.drop_slot || reset.drop_publication {
        return Err(Error::config("a Redis server has neither a slot nor a publication to drop")
            .hint("reset without these options; at the server nothing of pgdiode stays"));
    }
    holder::refuse_running(target, &pipeline.name).await?;
    if !has_control_schema(target).await? {
        return Ok((Vec::new(), Vec::new()));
    }
    let name = quote::literal(&pipeline.name);
    let mut steps = Vec::new();
    if has_keyspace_tables(target).await? {
        let tables = ["key", "position", "misfit", "resync", "wish"];
        let forget =
            tables.map(|table| format!("delete from pgdiode.keyspace_{table} where pipeline = {name}"));
        steps.push(Step::target(forget.join("; ")));
    }
    let mut tables: Vec<TableName> = states(target, &pipeline.name).await?.into_keys().collect();
    tables.sort();
    steps.extend(of_target::at_target(target, pipeline, reset).await?);
    let remains = (!tables.is_empty()).then(|| {
        format!(
            "-- the tables stay with their rows; those of keys that are gone by the next start stay for good;\n\
             -- to drop them at the target:\n--   drop table {};",
            tables_sql(&tables)
        )
    });
    Ok((steps, remains.into_iter().collect()))
}

pub(in crate::pipeline) fn refuse_tables(pipeline: &Pipeline, verb: &str) -> Result<()> {
    pipeline.refuse_redis(
        verb,
        "The mapping says which tables are filled: change [[pipeline.NAME.redis.key]] in the configuration, then start again.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_quoted_as_redis_cli_reads_them() {
        assert_eq!(quoted(&pattern(b"session:*")), "~session:*");
        assert_eq!(quoted(&pattern(b"a b\xff*")), "~a?b?*");
        assert_eq!(quoted(&pattern(b"a\\*\"*")), "\"~a\\\\*\\\"*\"");
    }
}
