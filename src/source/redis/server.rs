//! What a Redis server says of itself: version, role, and whose history it has, how much of it kept.
//!
//! Source: Redis' documentation of `INFO`.

use std::collections::HashMap;

use crate::error::Result;
use crate::redis::connection::Connection;
use crate::redis::resp::Reply;

/// What `INFO` said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// Major and minor version of Redis; Valkey says which Redis it stands for.
    pub version: (u32, u32),
    pub is_cluster: bool,
    /// A replica of another server.
    pub is_replica: bool,
    /// Of a replica: it is connected to its primary and not loading from it.
    pub is_linked: bool,
    /// Whose history this is, and how far it goes; empty where the server does not say.
    pub replication_id: String,
    pub offset: u64,
    /// The history that this one continues, up to an offset.
    pub replaced_id: String,
    pub replaced_until: u64,
    /// The part of the history that can still be read, while there is any.
    pub kept: Option<Kept>,
}

/// From which offset on, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub first: u64,
    pub length: u64,
}

impl Server {
    /// Asks; `None` where this user or service does not allow it.
    pub async fn ask(connection: &mut Connection) -> Result<Option<Server>> {
        match connection.ask(&[b"INFO"]).await? {
            Reply::Error(words) if words.starts_with("LOADING") => Err(connection.refusal(&words)),
            Reply::Error(_) => Ok(None),
            reply => Ok(reply.text().map(Server::parse)),
        }
    }

    fn parse(info: &str) -> Server {
        let fields: HashMap<&str, &str> =
            info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let text = |name: &str| fields.get(name).copied().unwrap_or_default();
        let number =
            |name: &str| text(name).parse::<i64>().ok().and_then(|number| u64::try_from(number).ok());
        let mut version = text("redis_version").split('.').map(|part| part.parse().unwrap_or(0));
        let is_replica = text("role") == "slave";
        let kept = (text("repl_backlog_active") == "1").then(|| Kept {
            first: number("repl_backlog_first_byte_offset").unwrap_or(0),
            length: number("repl_backlog_histlen").unwrap_or(0),
        });
        Server {
            version: (version.next().unwrap_or(0), version.next().unwrap_or(0)),
            is_cluster: text("cluster_enabled") == "1",
            is_replica,
            is_linked: !is_replica || text("master_link_status") == "up",
            replication_id: text("master_replid").to_owned(),
            offset: number(if is_replica { "slave_repl_offset" } else { "master_repl_offset" }).unwrap_or(0),
            replaced_id: text("master_replid2").to_owned(),
            replaced_until: number("second_repl_offset").unwrap_or(0),
            kept,
        }
    }

    /// The offset alone, from an answer to `INFO replication`.
    pub fn offset_of(info: &str) -> u64 {
        Server::parse(info).offset
    }

    /// Whether everything that came behind `offset` of that history can still be read here.
    pub fn continues(&self, replication_id: &str, offset: u64) -> bool {
        let Some(kept) = self.kept else { return false };
        let next = offset + 1;
        let is_kept = next >= kept.first && next <= kept.first + kept.length;
        let is_ours = replication_id == self.replication_id && offset <= self.offset;
        let was_ours = replication_id == self.replaced_id && next <= self.replaced_until;
        !replication_id.is_empty() && is_kept && (is_ours || was_ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: &str = "# Server\r\nredis_version:7.0.15\r\n# Replication\r\nrole:master\r\nconnected_slaves:1\r\n\
        master_replid:aaaa\r\nmaster_replid2:bbbb\r\nmaster_repl_offset:1000\r\nsecond_repl_offset:501\r\n\
        repl_backlog_active:1\r\nrepl_backlog_size:1048576\r\nrepl_backlog_first_byte_offset:301\r\n\
        repl_backlog_histlen:700\r\n# Cluster\r\ncluster_enabled:0\r\n";

    #[test]
    fn a_history_goes_on_where_all_of_it_is_kept() {
        let server = Server::parse(PRIMARY);
        assert_eq!((server.version, server.offset, server.is_replica), ((7, 0), 1000, false));
        assert!(server.continues("aaaa", 1000));
        assert!(server.continues("aaaa", 300));
        assert!(!server.continues("aaaa", 299), "it was let go of");
        assert!(!server.continues("aaaa", 1001), "we hold what this server never had");
        assert!(server.continues("bbbb", 500));
        assert!(!server.continues("bbbb", 501), "the other history had gone on");
        assert!(!server.continues("cccc", 500) && !server.continues("", 500));
        let idle = Server::parse(&PRIMARY.replace("repl_backlog_active:1", "repl_backlog_active:0"));
        assert!(!idle.continues("aaaa", 1000));
    }

    #[test]
    fn a_replica_counts_what_it_has_executed() {
        let text =
            "role:slave\r\nmaster_link_status:down\r\nslave_repl_offset:90\r\nmaster_repl_offset:95\r\n";
        let server = Server::parse(text);
        assert!(server.is_replica && !server.is_linked);
        assert_eq!(server.offset, 90);
    }
}
