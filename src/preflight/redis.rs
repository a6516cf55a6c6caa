//! A Redis server as the source of a pipeline: whether it can be read, how changes will be heard of, for how long an outage
//! may last; and what its mapping makes of the keys that are there. Nothing is written, nor any snapshot caused.

mod cluster;
mod lesser;
mod sample;

use std::collections::HashMap;

use super::{Purpose, Survey, counted, listed};
use crate::config::{Live as LiveMode, Pipeline, written};
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::keyspace::verbs::{missing_tables, refers_to_none};
use crate::pipeline::{holder, keyspace};
use crate::redis::connection::Connection;
use crate::redis::location::Location;
use crate::redis::resp::Reply;
use crate::source::redis::fetch::Fetcher;
use crate::source::redis::mapping::Mapper;
use crate::source::redis::probe;
use crate::source::redis::server::Server;
use crate::status::CheckReport;
use crate::target::postgres::keyspace::KeyspaceTarget;

/// Older servers hand scripts on as they are, and not what they did.
const MAJOR_MIN: u32 = 5;
/// A restart, or a short night: what the kept history is to bridge.
const OUTAGE_MIN_SECONDS: f64 = 600.0;

/// Everything that can be found wrong with a pipeline from a Redis server.
pub async fn check_keys(pipeline: &Pipeline) -> Result<CheckReport> {
    let mut survey = Survey::new(pipeline, Purpose::Check);
    let mapper = keyspace::mapper(pipeline)?;
    let location = keyspace::location(pipeline)?;
    let examined = survey.keys_source(&location, &mapper).await;
    survey.kept(examined);
    let target = TargetEnd::resolve(pipeline)?.session().await;
    if let Some(mut target) = survey.kept(target) {
        let examined = survey.keys_target(&mut target, &mapper).await;
        survey.kept(examined);
    }
    Ok(survey.report)
}

/// What `INFO` says beside what [`Server`] reads of it.
struct Info(HashMap<String, String>);

impl Info {
    async fn ask(connection: &mut Connection) -> Result<Info> {
        let answer = connection.ask(&[b"INFO"]).await?;
        let fields = answer.text().unwrap_or_default().lines();
        let fields = fields.filter_map(|line| line.trim_end().split_once(':'));
        Ok(Info(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> f64 {
        self.text(name).parse().unwrap_or(0.0)
    }
}

impl Survey<'_> {
    async fn keys_source(&mut self, location: &Location, mapper: &Mapper) -> Result<()> {
        let name = format!("pgdiode-{}-check", self.pipeline.name);
        let mut connection = Connection::open(location, &name).await?;
        let server = Server::ask(&mut connection).await?;
        if let Some(server) = &server {
            let info = Info::ask(&mut connection).await?;
            self.redis_server(&connection, server, &info);
            if server.version.0 < MAJOR_MIN {
                return Ok(());
            }
            if server.is_cluster {
                return self.cluster(location, &name, mapper).await;
            }
            self.way_of_listening(Connection::open(location, &name).await?, server).await?;
            self.lesser_ways(location, &name, server, mapper).await?;
            self.kept_history(&mut connection, server, &info).await?;
            self.eviction(&info);
            self.unmapped_databases(&info, mapper);
        } else {
            self.report.warn(
                format!(
                    "the Redis server at {} does not say what it is: INFO is not allowed",
                    connection.place()
                ),
                "give the user +info: without it nobody can listen as a replica",
            );
        }
        self.sample(Fetcher::new(connection, server.as_ref()).into(), mapper).await
    }

    fn redis_server(&mut self, connection: &Connection, server: &Server, info: &Info) {
        let (major, minor) = server.version;
        let of = if server.is_cluster { " of a cluster" } else { "" };
        let role = if server.is_replica { "a replica" } else { "a primary" };
        let named = match info.text("server_name") {
            "valkey" => format!("Valkey {}", info.text("valkey_version")),
            _ => format!("Redis {}", info.text("redis_version")),
        };
        let what = format!("source {} is {named}, {role}{of}", connection.place());
        if major < MAJOR_MIN {
            self.report.refuse(
                format!("{what}: too old"),
                format!("{major}.{minor} hands scripts on instead of what they did; upgrade to Redis {MAJOR_MIN} or newer"),
            );
        } else if server.is_linked {
            self.report.ok(what);
        } else {
            self.report.refuse(
                format!("{what} without a connection to its primary"),
                "mend the replication there: what it has is as old as the connection is gone",
            );
        }
    }

    async fn way_of_listening(&mut self, connection: Connection, server: &Server) -> Result<()> {
        let redis = &self.pipeline.redis;
        if !matches!(redis.live, LiveMode::Auto | LiveMode::Replica) {
            let way = redis.live.as_str();
            self.report.ok(format!(
                "changes are heard of by redis.live = \"{way}\": every key is looked at after each broken connection"
            ));
            return Ok(());
        }
        match probe::refuses_replica(connection, &redis.psync_command, server).await? {
            None => self.report.ok("changes are heard of as a replica (PSYNC is allowed): no write is missed"),
            Some(words) if redis.live == LiveMode::Replica => self.report.refuse(
                format!("redis.live = \"replica\", and the server lets nobody listen as a replica: {words}"),
                "give the user what pgdiode setup --print-sql prints, or set redis.live = \"auto\"",
            ),
            Some(words) => self.report.warn(
                format!(
                    "the server lets nobody listen as a replica ({words}): changes are heard of in a lesser way, and every \
                     key is looked at after each broken connection"
                ),
                "give the user what pgdiode setup --print-sql prints, where the server has it",
            ),
        }
        Ok(())
    }

    /// For how long nobody may listen before all has to be looked at.
    async fn kept_history(
        &mut self,
        connection: &mut Connection,
        server: &Server,
        info: &Info,
    ) -> Result<()> {
        let size = info.number("repl_backlog_size");
        let rate = info.number("instantaneous_input_kbps") * 1024.0;
        let megabytes = size / f64::from(1 << 20);
        let begins = if server.kept.is_none() { "; it is begun when the first replica connects" } else { "" };
        if rate < 1.0 {
            self.report.ok(format!(
                "the server keeps {megabytes:.0} MB of its history{begins}; nothing is written at the moment"
            ));
        } else {
            let seconds = (size / rate).min(1e9).round();
            let what = format!(
                "the server keeps {megabytes:.0} MB of its history{begins}: at {:.0} kB/s as now, an outage of up to {seconds} s \
                 is caught up with; after a longer one every key is looked at",
                rate / 1024.0
            );
            if seconds < OUTAGE_MIN_SECONDS {
                let enough = (rate * OUTAGE_MIN_SECONDS / f64::from(1 << 20)).ceil();
                self.report.warn(
                    what,
                    format!("at the server: CONFIG SET repl-backlog-size {enough}mb bridges {OUTAGE_MIN_SECONDS} s"),
                );
            } else {
                self.report.ok(what);
            }
        }
        match setting(connection, "client-output-buffer-limit").await? {
            Some(limits) => {
                let limit = limits.split(' ').skip_while(|word| !["slave", "replica"].contains(word));
                let limit: Vec<&str> = limit.skip(1).take(3).collect();
                if let [hard, soft, seconds] = limit[..] {
                    self.report.ok(format!(
                        "the server closes a replica's connection at {hard} bytes that wait for it, or at {soft} for {seconds} s; \
                         0 is no limit"
                    ));
                }
            }
            None => self
                .report
                .ok("settings of the server cannot be asked for (CONFIG GET): its defaults are assumed"),
        }
        let waits_for = setting(connection, "min-replicas-to-write").await?;
        if let Some(number) = waits_for.filter(|number| number != "0") {
            self.report.warn(
                format!("the server takes writes only while {number} of its replicas answer, and counts pgdiode as one"),
                format!("it holds no data: raise min-replicas-to-write by one, where {number} copies are meant"),
            );
        }
        Ok(())
    }

    fn eviction(&mut self, info: &Info) {
        let policy = info.text("maxmemory_policy");
        if info.number("maxmemory") > 0.0 && !["noeviction", ""].contains(&policy) {
            self.report.warn(
                format!("the server evicts keys when its memory is full (maxmemory-policy {policy}): their rows count as deleted"),
                "where rows are to outlive that, set gone = \"mark\" or \"keep\" of their tables",
            );
        }
    }

    fn unmapped_databases(&mut self, info: &Info, mapper: &Mapper) {
        let mut others: Vec<u32> = info
            .0
            .keys()
            .filter_map(|name| name.strip_prefix("db")?.parse().ok())
            .filter(|database| !mapper.databases().contains(database))
            .collect();
        others.sort_unstable();
        if !others.is_empty() {
            let numbers: Vec<String> = others.iter().map(u32::to_string).collect();
            self.report.ok(format!("of databases that have keys, not mapped: {}", numbers.join(", ")));
        }
    }

    async fn keys_target(&mut self, target: &mut Session, mapper: &Mapper) -> Result<()> {
        self.target_version(target);
        self.target_privileges(target).await?;
        let layout = mapper.layout();
        let missing = missing_tables(target, mapper).await?;
        let mut fitting = 0;
        for index in (0..layout.tables.len()).filter(|index| refers_to_none(mapper, *index, &missing)) {
            let checked = KeyspaceTarget::check_table(target, layout, index).await;
            fitting += usize::from(self.kept(checked).is_some());
        }
        if fitting > 0 {
            self.report.ok(format!("{} at the target fit the mapping", counted(fitting, "table")));
        }
        let mut names = Vec::new();
        for index in missing {
            let table = &layout.tables[index].name;
            let schema = quote::literal(&quote::identifier(&table.schema));
            if target.one(&format!("select pg_catalog.to_regnamespace({schema}) is null")).await?.bool(0) {
                self.report.warn(
                    format!("neither table {} nor its schema is at the target", written(table)),
                    "pgdiode setup creates both",
                );
            } else {
                names.push(written(table));
            }
        }
        if !names.is_empty() {
            self.report.ok(format!("will be created at the target: {}", listed(&names)));
        }
        if let Some(running) = holder::holder(target, &self.pipeline.name).await? {
            self.report.ok(format!("the pipeline runs: {}", holder::told(&running)));
        }
        Ok(())
    }
}

/// A setting of the server; nothing where it is not told.
async fn setting(connection: &mut Connection, name: &str) -> Result<Option<String>, Error> {
    let answer = connection.ask(&[b"CONFIG", b"GET", name.as_bytes()]).await?;
    let Reply::Array(pair) = answer else { return Ok(None) };
    Ok(pair.get(1).and_then(Reply::text).map(str::to_owned))
}
