//! The ways of listening below `replica`: what each would give here, and what it lacks. They are tried on connections that
//! are closed again, and nothing is set at the server.

use super::super::Survey;
use crate::config::Live as LiveMode;
use crate::error::{Error, Kind, Result};
use crate::redis::connection::Connection;
use crate::redis::location::Location;
use crate::source::redis::mapping::Mapper;
use crate::source::redis::notifications::{self, Wish};
use crate::source::redis::server::Server;
use crate::source::redis::tracking;

impl Survey<'_> {
    pub(super) async fn lesser_ways(
        &mut self,
        location: &Location,
        name: &str,
        server: &Server,
        mapper: &Mapper,
    ) -> Result<()> {
        let asked = self.pipeline.redis.live;
        for way in [LiveMode::Tracking, LiveMode::Notifications] {
            if asked != LiveMode::Auto && asked != way {
                continue;
            }
            let connection = Connection::open(location, name).await?;
            match self.try_way(way, connection, server, mapper).await {
                Ok(()) => {
                    self.report.ok(format!("redis.live = \"{}\" is allowed: {}", way.as_str(), gives(way)));
                }
                Err(error) if error.kind() == Kind::Refused => self.lacking(way, &error),
                Err(error) => return Err(error),
            }
        }
        if matches!(asked, LiveMode::Auto | LiveMode::Polling) {
            self.report.ok(format!(
                "redis.live = \"polling\" is always allowed: every key is looked at each {} s, and what comes and goes in between is \
                 not seen",
                self.pipeline.redis.poll_seconds
            ));
        }
        Ok(())
    }

    async fn try_way(
        &self,
        way: LiveMode,
        connection: Connection,
        server: &Server,
        mapper: &Mapper,
    ) -> Result<()> {
        if way == LiveMode::Tracking {
            return tracking::join(connection, &mapper.prefixes(), Some(server)).await.map(drop);
        }
        let wish = Wish {
            databases: mapper.databases(),
            has_documents: mapper.reads_documents(),
            may_set: false,
            is_trusting: self.pipeline.redis.live == LiveMode::Notifications,
        };
        notifications::join(connection, &wish).await.map(drop)
    }

    /// A way that the server does not allow is a problem where it is the one that is asked for.
    fn lacking(&mut self, way: LiveMode, error: &Error) {
        let redis = &self.pipeline.redis;
        let hint = error.hint_text().unwrap_or_default();
        if redis.live != way {
            let what = format!("redis.live = \"{}\" is not allowed: {}; {hint}", way.as_str(), error.what());
            self.report.ok(what);
        } else if way == LiveMode::Notifications && redis.notifications_set {
            self.report.warn(error.what(), "redis.notifications_set = true: the first start adds them");
        } else {
            self.report.refuse(error.what(), hint);
        }
    }
}

fn gives(way: LiveMode) -> &'static str {
    match way {
        LiveMode::Tracking => {
            "names of changed keys while connected, SWAPDB aside; every key is looked at after each broken connection"
        }
        _ => {
            "names of changed keys while connected, FLUSHDB, FLUSHALL and SWAPDB aside; every key is looked at after each broken \
             connection"
        }
    }
}
