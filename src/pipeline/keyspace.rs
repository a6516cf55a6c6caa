//! A run from Redis: join the server's history, look at every key where that is needed, then apply what is written.
//!
//! ```text
//! attempt:  lock -> join the history -> (look at every key) -> apply what was written ... -> broken -> backoff -> again
//! ```
//!
//! A key that was written is looked at: its value came with the command, or is fetched. What the target has stored of the
//! key says whether there is anything to do. So a key may be looked at any number of times, in any order with its writes;
//! what was seen last in the server's history stays.
//!
//! One bit is owed: `is_scanned` of the stored position is false from the moment when something was missed, or may have
//! been, until every key of the server and every key that the target knows has been looked at since. A crash forgets
//! which database it was, and nothing else.

mod apply;
mod cluster;
mod ladder;
mod place;
mod report;
mod survey;
pub mod verbs;
mod verify;
mod watch;
mod wish;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::{Sender, channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::apply::Work;
use self::ladder::Listening;
pub use self::place::location;
pub(super) use self::report::status;
pub(super) use self::verify::verify;
use self::wish::Wishes;
use crate::audit::{Action, Journal};
use crate::config::{Live as LiveMode, Pipeline};
use crate::error::{Error, Kind, Result};
use crate::keyspace::{ContentHash, NodePosition};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::lifecycle::{self, Asked, Attempted, Attempts, until_details};
use crate::pipeline::meter::Meter;
use crate::pipeline::{holder, stop};
use crate::redis::connection::Connection;
use crate::redis::location::Location;
use crate::redis::sentinel;
use crate::source::redis::ear;
use crate::source::redis::fetch::Fetcher;
use crate::source::redis::live::Live;
use crate::source::redis::mapping::Mapper;
use crate::source::redis::server::Server;
use crate::status::{Phase, Progress, StopReason, Stopped, Until};
use crate::target::postgres::keyspace::{CREATE_KEYSPACE_TABLES, KeyspaceTarget, wishes};
use crate::target::postgres::progress;

/// How often a Sentinel is asked whether the primary is still the same.
const SENTINEL_INTERVAL: Duration = Duration::from_secs(5);

/// Runs the pipeline until it is asked to stop, has reached `until`, or fails.
pub(super) async fn run(
    pipeline: &Pipeline,
    until: Until,
    progress: Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Stopped> {
    if let Until::Reached(_) = until {
        return Err(Error::config("a Redis server has no LSN to stop at")
            .hint("to end once the target has all that is there: pgdiode start --once-caught-up"));
    }
    let end = TargetEnd::resolve(pipeline)?;
    let journal =
        Journal::begin(&mut end.session().await?, pipeline, Action::Start, None, until_details(until))
            .await?;
    let meter = Arc::new(Meter::default());
    let asked = channel(None).0;
    let place = location(pipeline)?;
    let mut run = Run {
        pipeline,
        end: end.clone(),
        location: place.clone(),
        found: place,
        mapper: mapper(pipeline)?,
        meter: Arc::clone(&meter),
        until,
        asked: asked.clone(),
        resyncs: 0,
        began: None,
    };
    let work = lifecycle::until_ended(&mut run);
    let ended = lifecycle::watched(work, &meter, progress, &asked, stop).await;
    lifecycle::conclude(journal, ended, async || end.session().await).await
}

/// What becomes of its keys.
pub fn mapper(pipeline: &Pipeline) -> Result<Arc<Mapper>> {
    let missing = || Error::unexpected(format!("pipeline \"{}\" has no mapping of keys", pipeline.name));
    pipeline.mapper.clone().ok_or_else(missing)
}

struct Run<'a> {
    pipeline: &'a Pipeline,
    end: TargetEnd,
    location: Location,
    /// The same, where Sentinels say: of the primary that the current attempt is about.
    found: Location,
    mapper: Arc<Mapper>,
    meter: Arc<Meter>,
    until: Until,
    asked: Asked,
    /// How often everything was asked to be looked at anew.
    resyncs: u64,
    /// When the current attempt began to listen.
    began: Option<Instant>,
}

impl Attempts for Run<'_> {
    fn pipeline(&self) -> &Pipeline {
        self.pipeline
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn asked(&self) -> &Asked {
        &self.asked
    }

    async fn attempt(&mut self, retries: u64) -> Result<Attempted> {
        self.began = None;
        self.one_attempt(retries).await
    }

    fn streamed(&self) -> Option<Duration> {
        self.began.map(|since| since.elapsed())
    }

    async fn connect(&self) -> Result<Session> {
        self.end.session().await
    }
}

impl Run<'_> {
    async fn one_attempt(&mut self, retries: u64) -> Result<Attempted> {
        let mut target = self.end.session().await?;
        target.query(progress::CREATE_CONTROL_SCHEMA).await?;
        target.query(CREATE_KEYSPACE_TABLES).await?;
        let mut rows = self.end.session().await?;
        holder::lock(&mut rows, &self.pipeline.name).await?;
        if retries > 0 && stop::is_requested(&mut target, &self.pipeline.name).await? {
            return Ok(Attempted::Stopped(self.stopped(StopReason::Asked)));
        }
        lifecycle::register(&mut target, self.pipeline, retries).await?;
        self.create_tables(&mut target).await?;
        self.register_tables(&mut target).await?;
        let mut rows = KeyspaceTarget::open(rows, &self.pipeline.name, self.mapper.layout()).await?;
        self.resyncs = wishes(&mut target, &self.pipeline.name).await?.0;
        rows.begin_resync(self.resyncs);
        let mapping = self.mapping();
        // What is listened to and what is read must be one server: a Sentinel is asked once.
        self.found = sentinel::resolved(&self.location, &self.client_name()).await?;
        let mut reading = self.connect_source().await?;
        if self.location.primary_name.is_some() {
            sentinel::check_primary(&mut reading).await?;
        }
        let server = Server::ask(&mut reading).await?;
        if server.as_ref().is_some_and(|server| server.is_cluster) {
            return self.attempt_on_cluster(rows).await;
        }
        // By another mapping, or since a resync was asked for, every key has yet to be looked at.
        let stored = rows.position("").await?.map(|stored| NodePosition {
            is_scanned: stored.is_scanned && stored.mapping == mapping,
            ..stored
        });
        let joined = self.join(stored.as_ref(), server.as_ref()).await?;
        let way = joined.way();
        let (live, listening) = match joined {
            Listening::Replica(replica, position, is_owed) => {
                let live = self.live(position, is_owed);
                (Arc::clone(&live), ear::spawn(replica, live))
            }
            Listening::Told(told, _) => {
                let live = self.live(self.nowhere(), true);
                (Arc::clone(&live), ear::spawn(told, live))
            }
            Listening::Nobody => (self.live(self.nowhere(), true), JoinSet::new()),
        };
        let fetcher = Fetcher::new(reading, server.as_ref()).into();
        let has_history = way == LiveMode::Replica;
        let goal = server.filter(|_| has_history).map_or(0, |server| server.offset);
        let mut work =
            Work::new(self.pipeline, &self.mapper, Arc::clone(&live), way, fetcher, rows, &self.meter);
        self.meter.phase(Phase::CatchingUp, "");
        self.began = Some(Instant::now());
        let asked = Wishes::new(self.resyncs);
        let until = (self.until == Until::CaughtUp).then_some(goal);
        let worked = work.run(until, &self.asked, &asked);
        let reason = self.until_lost(worked, listening, &asked, &live).await?;
        Ok(Attempted::Stopped(self.stopped(reason)))
    }

    /// Works until that ends or the source is lost, and listens to the target meanwhile.
    async fn until_lost<T>(
        &self,
        work: impl Future<Output = Result<T>>,
        mut listening: JoinSet<Error>,
        wishes: &Wishes,
        live: &Live,
    ) -> Result<T> {
        let mut watch = watch::Watch::new(&self.end, self.pipeline, &self.meter, &self.asked, wishes, live);
        let worked = tokio::select! {
            // Asked to stop, it sees what it does to its end; when the source is lost, it is dropped: as in a crash.
            worked = work => worked,
            Some(ended) = listening.join_next() => Err(ended.unwrap_or_else(|error| {
                Error::unexpected("whoever listened to the source is gone").because(error)
            })),
            error = self.replaced() => Err(error),
            () = watch.run() => unreachable!("it watches until it is dropped"),
        };
        watch.store_last().await;
        worked
    }

    /// Creates the tables that are not there, in schemas that are: what is there is the user's.
    async fn create_tables(&self, target: &mut Session) -> Result<()> {
        for index in verbs::missing_tables(target, &self.mapper).await? {
            let table = &self.mapper.layout().tables[index];
            let schema = quote::literal(&quote::identifier(&table.name.schema));
            let has_schema = format!("select pg_catalog.to_regnamespace({schema}) is not null");
            if target.one(&has_schema).await?.bool(0) {
                target.query(&self.mapper.create_table(index)).await?;
                tracing::info!(table = %table.name, "created the table");
            }
        }
        Ok(())
    }

    /// Makes the tables known to the status.
    async fn register_tables(&self, target: &mut Session) -> Result<()> {
        let name = quote::literal(&self.pipeline.name);
        let rows = self.mapper.layout().tables.iter().map(|table| {
            let (schema, table) = (quote::literal(&table.name.schema), quote::literal(&table.name.name));
            format!("({name}, {schema}, {table}, 'ready')")
        });
        let sql = format!(
            "insert into pgdiode.relation (pipeline, schema_name, table_name, state) values {} on conflict do nothing",
            rows.collect::<Vec<_>>().join(", ")
        );
        target.query(&sql).await.map(drop)
    }

    fn mapping(&self) -> ContentHash {
        wish::salt(&self.mapper, self.resyncs)
    }

    fn client_name(&self) -> String {
        format!("pgdiode-{}", self.pipeline.name)
    }

    /// Waits until the Sentinels name another primary than the one that is listened to.
    async fn replaced(&self) -> Error {
        if self.location.primary_name.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(SENTINEL_INTERVAL).await;
            // While none of them answers there is nothing to be said against it.
            let Ok(named) = sentinel::resolved(&self.location, &self.client_name()).await else { continue };
            if named.hosts != self.found.hosts {
                let what = format!("the Sentinels name another primary: {}", named.display());
                return Error::new(Kind::SourceUnreachable, what);
            }
        }
    }

    async fn connect_source(&self) -> Result<Connection> {
        Connection::open(&self.found, &self.client_name()).await
    }

    fn live(&self, position: NodePosition, is_owed: bool) -> Arc<Live> {
        let live = self.one_of(1, position);
        if is_owed {
            live.heard().dirty.rescan_all();
        }
        Arc::new(live)
    }

    /// What is heard of one of so many servers.
    fn one_of(&self, servers: u64, position: NodePosition) -> Live {
        let mapper = Arc::clone(&self.mapper);
        let wanted = Arc::new(move |database: u32, name: &[u8]| mapper.wants(database, name));
        let bytes = (self.pipeline.redis.memory_mb << 20) / servers.max(1);
        let bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX);
        Live::new(wanted, self.mapper.databases(), bytes_max, position)
    }

    /// The position where there is no history.
    fn nowhere(&self) -> NodePosition {
        NodePosition {
            node: String::new(),
            replication_id: String::new(),
            offset: 0,
            database: None,
            is_scanned: false,
            mapping: self.mapping(),
        }
    }
}
