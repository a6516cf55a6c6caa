//! A run from a Redis cluster: a history for each primary, applied in turns over one session, so that what is read of a key
//! and what is stored of it are never two things at once.
//!
//! ```text
//! primary A   history, position A   -+
//! primary B   history, position B   -+-> keys that were written -> asked of whoever owns their slot now -> rows, position
//! primary C   history, position C   -+
//! ```
//!
//! What a history says of a key is never taken for what the key holds: `MIGRATE` writes a deletion at the old node behind
//! the restoration at the new one, and the two are in no order. It says that the key is to be looked at (decision 34).
//!
//! A primary's history goes on at the replica that takes its place, found by the histories' own names. When the
//! primaries are others than those that are listened to, the attempt ends and the next one joins them. Every key is
//! looked at where a history was lost: one that is stored and nowhere goes on, or one that begins anew at a node with keys.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Run;
use super::apply::{CLOCK_INTERVAL, IDLE_INTERVAL, Work};
use super::survey::Survey;
use super::wish::Wishes;
use crate::config::Live as LiveMode;
use crate::error::{Error, Result};
use crate::keyspace::{ContentHash, NodePosition};
use crate::pipeline::lifecycle::{self, Asked, Attempted};
use crate::redis::connection::Connection;
use crate::source::redis::cluster::{Nodes, Primary, at};
use crate::source::redis::ear;
use crate::source::redis::live::Live;
use crate::source::redis::psync::Replica;
use crate::source::redis::reader::Reader;
use crate::source::redis::server::Server;
use crate::status::{Phase, StopReason, Until};
use crate::target::postgres::keyspace::KeyspaceTarget;

/// How often one of the nodes is asked how the cluster is.
const LOOK_AROUND_INTERVAL: Duration = Duration::from_secs(1);

/// What is applied of one primary's history.
struct Stream {
    id: String,
    live: Arc<Live>,
    position: NodePosition,
    committed: Option<NodePosition>,
    stored: Instant,
    clock_read: Option<Instant>,
    /// How far the history went when it was joined.
    goal: u64,
    /// It holds nothing, and all that it ever did is applied: no position of it is stored, so that it may go.
    is_empty: bool,
}

/// A primary that was joined.
struct JoinedNode {
    replica: Replica,
    position: NodePosition,
    goal: u64,
    /// Something may have been missed.
    is_owed: bool,
}

/// All primaries' histories, one of them with the [`Work`].
struct Streams<'w, 'a> {
    work: &'w mut Work<'a>,
    all: Vec<Stream>,
    /// Which one the work has; what it had before lies in its place.
    current: usize,
    bell: Arc<Notify>,
    looked_around: Instant,
    /// Nodes whose positions have been taken over, or come to nothing.
    obsolete: Vec<String>,
}

impl Run<'_> {
    pub(super) async fn attempt_on_cluster(&mut self, mut rows: KeyspaceTarget) -> Result<Attempted> {
        self.refuse_for_cluster()?;
        let name = format!("pgdiode-{}", self.pipeline.name);
        let mut nodes = Nodes::open(&self.location, &name).await?;
        let primaries: Vec<Primary> = nodes.primaries().cloned().collect();
        for primary in &primaries {
            // By whom the cluster is found when those are gone that were named.
            if !self.location.hosts.contains(&primary.host) {
                self.location.hosts.push(primary.host.clone());
            }
        }
        let mapping = self.mapping();
        let all_stored = rows.positions().await?;
        let stored: Vec<NodePosition> =
            all_stored.iter().filter(|stored| !stored.node.is_empty()).cloned().collect();
        let mut continued = vec![false; stored.len()];
        let mut joined = Vec::new();
        for (node, primary) in primaries.iter().enumerate() {
            joined.push(self.join_node(&mut nodes, node, primary, &stored, &mut continued).await?);
        }
        let is_owed = stored.is_empty()
            || stored.iter().any(|stored| !stored.is_scanned || stored.mapping != mapping)
            || continued.contains(&false)
            || joined.iter().any(|joined| joined.is_owed);
        let bell = Arc::new(Notify::new());
        let mut listening = JoinSet::new();
        let mut streams = Vec::new();
        for (joined, primary) in joined.into_iter().zip(&primaries) {
            let position =
                NodePosition { node: primary.id.clone(), is_scanned: !is_owed, mapping, ..joined.position };
            let live = self.one_of(primaries.len() as u64, position).with_bell(Arc::clone(&bell));
            let live = Arc::new(live);
            ear::spawn_with(&mut listening, joined.replica, Arc::clone(&live));
            streams.push(Stream::new(live, joined.goal));
        }
        let is_present = |id: &String| primaries.iter().any(|primary| primary.id == *id);
        let obsolete =
            all_stored.into_iter().map(|stored| stored.node).filter(|id| !is_present(id)).collect();
        let live = Arc::clone(&streams[0].live);
        let mut work = Work::new(
            self.pipeline,
            &self.mapper,
            Arc::clone(&live),
            LiveMode::Replica,
            Reader::from(nodes),
            rows,
            &self.meter,
        );
        self.meter.phase(Phase::CatchingUp, "");
        self.began = Some(Instant::now());
        if is_owed {
            let databases = self.mapper.databases().iter().copied().collect();
            work.survey =
                Some(Survey::owed(&self.mapper, None, databases, std::collections::BTreeSet::new()));
            self.meter.phase(Phase::Copying, "looking at every key");
            tracing::info!(
                "a history begins, or something of one may have been missed: every key is looked at"
            );
        }
        let wishes = Wishes::new(self.resyncs);
        let looked_around = Instant::now();
        let mut streams =
            Streams { work: &mut work, all: streams, current: 0, bell, looked_around, obsolete };
        let worked = streams.run(self.until == Until::CaughtUp, &self.asked, &wishes);
        Ok(match self.until_lost(worked, listening, &wishes, &live).await? {
            Some(reason) => Attempted::Stopped(lifecycle::Attempts::stopped(self, reason)),
            None => Attempted::Again,
        })
    }

    /// What is not done in a cluster.
    fn refuse_for_cluster(&self) -> Result<()> {
        if self.mapper.databases() != [0] {
            return Err(Error::config("the source is a Redis cluster, which has database 0 and no other")
                .hint("set redis.databases = [0]"));
        }
        let live = self.pipeline.redis.live;
        if !matches!(live, LiveMode::Auto | LiveMode::Replica) {
            let what = format!("redis.live = \"{}\", and the source is a Redis cluster", live.as_str());
            return Err(Error::config(what).hint(
                "the nodes of a cluster are listened to as a replica does: set redis.live = \"auto\"",
            ));
        }
        Ok(())
    }

    /// Begins to listen to a primary: behind its own position, or that of whoever made its history before.
    async fn join_node(
        &self,
        nodes: &mut Nodes,
        node: usize,
        primary: &Primary,
        stored: &[NodePosition],
        continued: &mut [bool],
    ) -> Result<JoinedNode> {
        let location = at(&self.location, &primary.host);
        let mut connection = Connection::open(&location, &format!("pgdiode-{}", self.pipeline.name)).await?;
        let Some(server) = Server::ask(&mut connection).await? else {
            return Err(Error::refused(format!("{} does not say whose history it has", connection.place()))
                .hint("Listening to the nodes of a cluster needs the right +info."));
        };
        let goes_on = |stored: &&NodePosition| server.continues(&stored.replication_id, stored.offset);
        for (stored, continued) in stored.iter().zip(continued) {
            *continued |= goes_on(&stored);
        }
        let own = stored.iter().filter(goes_on).find(|stored| stored.node == primary.id);
        let from = own.or_else(|| stored.iter().filter(goes_on).max_by_key(|stored| stored.offset));
        let (replica, joined) = Replica::join(connection, &self.pipeline.redis.psync_command, from).await?;
        // Whatever came to a node that holds nothing, and left it before it was listened to, was told by where it came from.
        let is_owed = !joined.goes_on && (from.is_some() || keys(nodes.connection(node)).await? > 0);
        tracing::info!(
            node = primary.id,
            at = primary.host.display(),
            history = joined.position.replication_id,
            offset = joined.position.offset,
            goes_on = joined.goes_on,
            "listening as a replica"
        );
        Ok(JoinedNode { replica, position: joined.position, goal: server.offset, is_owed })
    }
}

/// How many keys a node has.
async fn keys(connection: &mut Connection) -> Result<i64> {
    let answer = connection.call(&[b"DBSIZE"]).await?;
    answer.integer().ok_or_else(|| Error::unexpected("DBSIZE was answered with no number"))
}

impl Stream {
    fn new(live: Arc<Live>, goal: u64) -> Stream {
        let position = live.heard().position.clone();
        let (committed, stored, clock_read) = (None, Instant::now(), None);
        let id = position.node.clone();
        Stream { id, live, position, committed, stored, clock_read, goal, is_empty: false }
    }
}

impl Streams<'_, '_> {
    /// Works until it is asked to stop, or holds everything that was there when it began; nothing where the cluster's
    /// primaries are others by now.
    async fn run(
        &mut self,
        until_caught_up: bool,
        asked: &Asked,
        wishes: &Wishes,
    ) -> Result<Option<StopReason>> {
        if !self.work.is_owed() {
            self.store_all(Duration::ZERO).await?;
            self.forget_obsolete().await?;
        }
        loop {
            let is_asked = *asked.borrow();
            if is_asked.is_some() {
                self.store_all(Duration::ZERO).await?;
                return Ok(is_asked);
            }
            if !self.look_around().await? {
                tracing::info!("the cluster has other primaries by now");
                self.store_all(Duration::ZERO).await?;
                return Ok(None);
            }
            self.enter(0);
            self.work.fulfil(wishes).await?;
            self.store_all(IDLE_INTERVAL).await?;
            let has_taken = self.take().await?;
            if self.survey().await? || has_taken {
                continue;
            }
            if until_caught_up && self.is_caught_up() {
                self.store_all(Duration::ZERO).await?;
                return Ok(Some(StopReason::Reached));
            }
            let next = self.work.next_look().min(self.looked_around + LOOK_AROUND_INTERVAL);
            tokio::select! {
                () = self.bell.notified() => {}
                () = tokio::time::sleep_until(next) => self.work.begin_routine_survey(),
                _ = lifecycle::asked_to_stop(asked) => {}
            }
        }
    }

    /// Gives the work the stream of that index.
    fn enter(&mut self, index: usize) {
        if index != self.current {
            self.exchange(self.current);
            self.exchange(index);
            self.current = index;
        }
        if let Some(nodes) = self.work.fetcher.cluster() {
            nodes.go_home(index);
        }
    }

    fn exchange(&mut self, index: usize) {
        let stream = &mut self.all[index];
        mem::swap(&mut self.work.live, &mut stream.live);
        mem::swap(&mut self.work.position, &mut stream.position);
        mem::swap(&mut self.work.committed, &mut stream.committed);
        mem::swap(&mut self.work.stored, &mut stream.stored);
    }

    /// Applies what was heard of each.
    async fn take(&mut self) -> Result<bool> {
        let mut has_taken = false;
        for index in 0..self.all.len() {
            self.enter(index);
            if self.all[index].clock_read.is_none_or(|read| read.elapsed() >= CLOCK_INTERVAL) {
                let now = self.work.fetcher.now().await?;
                self.work.live.set_clock(now);
                self.all[index].clock_read = Some(Instant::now());
            }
            if self.work.take().await? {
                self.all[index].is_empty = false;
                has_taken = true;
            }
        }
        Ok(has_taken)
    }

    /// Goes on with the look at every key. Once it is done, no history owes it.
    async fn survey(&mut self) -> Result<bool> {
        if self.work.survey.is_none() {
            return Ok(false);
        }
        self.enter(0);
        let was_owed = self.work.is_owed();
        let has_worked = self.work.survey_step().await?;
        if was_owed && self.work.survey.is_none() {
            for index in 0..self.all.len() {
                self.enter(index);
                let mapping = ContentHash(self.work.salt);
                let position = NodePosition { is_scanned: true, mapping, ..self.work.position.clone() };
                self.work.position = position;
            }
            self.store_all(Duration::ZERO).await?;
            self.forget_obsolete().await?;
        }
        Ok(has_worked)
    }

    async fn store_all(&mut self, interval: Duration) -> Result<()> {
        for index in 0..self.all.len() {
            if !self.all[index].is_empty {
                self.enter(index);
                self.work.store_idle(interval).await?;
            }
        }
        Ok(())
    }

    /// Nobody asks for these positions any more: those that took over from them are stored.
    async fn forget_obsolete(&mut self) -> Result<()> {
        let obsolete = mem::take(&mut self.obsolete);
        if obsolete.is_empty() { Ok(()) } else { self.work.target.forget_positions(&obsolete).await }
    }

    fn is_caught_up(&mut self) -> bool {
        let mut is_caught_up = !self.work.is_owed();
        for index in 0..self.all.len() {
            self.enter(index);
            is_caught_up &= self.work.position.offset >= self.all[index].goal;
        }
        is_caught_up
    }

    /// Whether the primaries are still those that are listened to.
    async fn look_around(&mut self) -> Result<bool> {
        if self.looked_around.elapsed() < LOOK_AROUND_INTERVAL {
            return Ok(true);
        }
        self.looked_around = Instant::now();
        let Some(nodes) = self.work.fetcher.cluster() else { return Ok(true) };
        if !nodes.look_around().await? {
            return Ok(false);
        }
        let without_slots: Vec<usize> = (0..nodes.len()).filter(|node| !nodes.has_slots(*node)).collect();
        for node in without_slots {
            self.let_go_of(node).await?;
        }
        Ok(true)
    }

    /// Stores no position of a node that holds nothing once all is applied that it did: it may leave the cluster without
    /// anything having been missed.
    async fn let_go_of(&mut self, node: usize) -> Result<()> {
        if self.all[node].is_empty || self.work.is_owed() {
            return Ok(());
        }
        self.enter(node);
        let Some(nodes) = self.work.fetcher.cluster() else { return Ok(()) };
        let has_keys = keys(nodes.connection(node)).await? > 0;
        let server = Server::ask(nodes.connection(node)).await?;
        if !has_keys && server.is_some_and(|server| server.offset <= self.work.position.offset) {
            let id = self.all[node].id.clone();
            tracing::info!(node = id, "the node holds nothing any more, and all that it did is applied");
            self.work.target.forget_positions(&[id]).await?;
            self.work.committed = None;
            self.all[node].is_empty = true;
        }
        Ok(())
    }
}
