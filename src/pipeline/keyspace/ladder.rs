//! The ways to hear of changes, from the best down: which of them the server allows, and what each is good for.
//!
//! ```text
//! replica        every write, and those that were missed        nothing to look for but to be sure
//! tracking       names of keys, while connected                 every key is looked at after each connection
//! notifications  names of keys, without FLUSHDB and FLUSHALL    the same
//! polling        nothing                                        every key is looked at all the time
//! ```

use super::Run;
use super::apply::Work;
use crate::config::Live as LiveMode;
use crate::error::{Error, Kind, Result};
use crate::keyspace::NodePosition;
use crate::source::redis::notifications::{self, Wish};
use crate::source::redis::psync::Replica;
use crate::source::redis::server::Server;
use crate::source::redis::told::Told;
use crate::source::redis::tracking;

/// Who hears of changes.
pub(super) enum Listening {
    /// With where its stream begins, and whether every key must be looked at.
    Replica(Replica, NodePosition, bool),
    /// With the way in which names are told.
    Told(Told, LiveMode),
    /// Every key is looked at, again and again.
    Nobody,
}

impl Listening {
    pub(super) fn way(&self) -> LiveMode {
        match self {
            Listening::Replica(..) => LiveMode::Replica,
            Listening::Told(_, way) => *way,
            Listening::Nobody => LiveMode::Polling,
        }
    }
}

impl Run<'_> {
    /// Begins to listen in the best way that the server allows, or in the one that is asked for.
    pub(super) async fn join(
        &self,
        stored: Option<&NodePosition>,
        server: Option<&Server>,
    ) -> Result<Listening> {
        let asked = self.pipeline.redis.live;
        if asked != LiveMode::Auto {
            let said = |error: Error| error.context(format!("redis.live = \"{}\"", asked.as_str()));
            return self.join_by(asked, stored, server).await.map_err(said);
        }
        for way in [LiveMode::Replica, LiveMode::Tracking, LiveMode::Notifications] {
            match self.join_by(way, stored, server).await {
                Err(error) if error.kind() == Kind::Refused => {
                    let way = way.as_str();
                    tracing::warn!(way, error = error.chain(), "the server lets nobody listen this way");
                }
                joined => return joined,
            }
        }
        self.join_by(LiveMode::Polling, stored, server).await
    }

    async fn join_by(
        &self,
        way: LiveMode,
        stored: Option<&NodePosition>,
        server: Option<&Server>,
    ) -> Result<Listening> {
        let redis = &self.pipeline.redis;
        let told = match way {
            LiveMode::Replica | LiveMode::Auto => return self.join_as_replica(stored, server).await,
            LiveMode::Tracking => {
                tracking::join(self.connect_source().await?, &self.mapper.prefixes(), server).await?
            }
            LiveMode::Notifications => {
                let wish = Wish {
                    databases: self.mapper.databases(),
                    has_documents: self.mapper.reads_documents(),
                    may_set: redis.notifications_set,
                    is_trusting: redis.live == LiveMode::Notifications,
                };
                notifications::join(self.connect_source().await?, &wish).await?
            }
            LiveMode::Polling => {
                tracing::info!(seconds = redis.poll_seconds, "looking at every key from time to time");
                return Ok(Listening::Nobody);
            }
        };
        tracing::info!(way = way.as_str(), "listening, after which every key is looked at");
        Ok(Listening::Told(told, way))
    }

    async fn join_as_replica(
        &self,
        stored: Option<&NodePosition>,
        server: Option<&Server>,
    ) -> Result<Listening> {
        if server.is_none() {
            return Err(Error::refused("the Redis server does not say whose history it has")
                .hint("Listening as a replica needs the right +info."));
        }
        let connection = self.connect_source().await?;
        let (replica, joined) = Replica::join(connection, &self.pipeline.redis.psync_command, stored).await?;
        let is_owed = !joined.goes_on || stored.is_none_or(|stored| !stored.is_scanned);
        let position = NodePosition { mapping: self.mapping(), ..joined.position };
        tracing::info!(
            history = position.replication_id,
            offset = position.offset,
            goes_on = joined.goes_on,
            "listening as a replica"
        );
        Ok(Listening::Replica(replica, position, is_owed))
    }
}

impl Work<'_> {
    /// How changes are heard of, and what is guaranteed by that.
    pub(super) fn listening(&self) -> String {
        let redis = &self.pipeline.redis;
        match self.way {
            LiveMode::Replica | LiveMode::Auto => match self.fetcher.nodes() {
                0 => format!("as a replica, at {}", self.position.offset),
                nodes => format!("as a replica of each of {nodes} primaries"),
            },
            LiveMode::Tracking => {
                "by client tracking: what changes while the connection is down is found by looking at every key; so is SWAPDB"
                    .into()
            }
            LiveMode::Notifications => {
                "by keyspace notifications: what changes while the connection is down is found by looking at every key; so are \
                 FLUSHDB, FLUSHALL and SWAPDB"
                    .into()
            }
            LiveMode::Polling => format!(
                "looking at every key each {} s: what comes and goes in between is not seen",
                redis.poll_seconds
            ),
        }
    }
}
