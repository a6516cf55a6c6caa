//! A Redis cluster as the source: each of its primaries is looked at, and the keys of all.

use super::super::{Survey, counted};
use super::{Info, MAJOR_MIN};
use crate::config::Live as LiveMode;
use crate::error::Result;
use crate::redis::connection::Connection;
use crate::redis::location::Location;
use crate::source::redis::cluster::{Nodes, Primary, at};
use crate::source::redis::mapping::Mapper;
use crate::source::redis::reader::Reader;
use crate::source::redis::server::Server;

impl Survey<'_> {
    pub(super) async fn cluster(&mut self, location: &Location, name: &str, mapper: &Mapper) -> Result<()> {
        if mapper.databases() != [0] {
            self.report.refuse(
                "redis.databases names others than 0, and a cluster has no other",
                "set redis.databases = [0]",
            );
            return Ok(());
        }
        let live = self.pipeline.redis.live;
        if !matches!(live, LiveMode::Auto | LiveMode::Replica) {
            self.report.refuse(
                format!("redis.live = \"{}\", and the source is a Redis cluster", live.as_str()),
                "the nodes of a cluster are listened to as a replica does: set redis.live = \"auto\"",
            );
            return Ok(());
        }
        let nodes = Nodes::open(location, name).await?;
        let primaries: Vec<Primary> = nodes.primaries().cloned().collect();
        let with_slots = primaries.iter().filter(|primary| primary.has_slots).count();
        self.report.ok(format!(
            "the cluster has {}, {with_slots} of them with slots; each is listened to",
            counted(primaries.len(), "primary node")
        ));
        for primary in primaries {
            let location = at(location, &primary.host);
            let mut connection = Connection::open(&location, name).await?;
            let Some(server) = Server::ask(&mut connection).await? else { continue };
            let info = Info::ask(&mut connection).await?;
            self.redis_server(&connection, &server, &info);
            if server.version.0 < MAJOR_MIN {
                continue;
            }
            self.way_of_listening(Connection::open(&location, name).await?, &server).await?;
            self.kept_history(&mut connection, &server, &info).await?;
            self.eviction(&info);
        }
        self.sample(Reader::from(nodes), mapper).await
    }
}
