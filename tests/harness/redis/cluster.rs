//! A Redis cluster of three primaries, each with a third of the slots.

use super::super::{ground, wait_for};
use super::{RedisClient, RedisServer, RedisVersion};

const SLOTS: u32 = 16_384;

pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub fn start(version: RedisVersion) -> RedisCluster {
        let nodes: Vec<RedisServer> = (0..3).map(|_| start_node(version)).collect();
        let cluster = RedisCluster { nodes };
        for (index, node) in (0..).zip(&cluster.nodes) {
            let slots = (SLOTS * index / 3..SLOTS * (index + 1) / 3).map(|slot| slot.to_string());
            let words = ["CLUSTER".to_owned(), "ADDSLOTS".to_owned()];
            node.client().call(&words.into_iter().chain(slots).collect::<Vec<_>>());
            // Otherwise the nodes first argue about who has which.
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for other in &cluster.nodes[1..] {
            let bus = bus_port(other).to_string();
            cluster.nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), &bus]);
        }
        for node in &cluster.nodes {
            node.wait_until("the cluster to agree", |client| {
                let info = client.call(&["CLUSTER", "INFO"]).to_string();
                ["cluster_state:ok", "cluster_slots_assigned:16384", "cluster_known_nodes:3"]
                    .iter()
                    .all(|line| info.contains(line))
            });
        }
        cluster
    }

    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// Every node, for `redis://..`.
    pub fn location(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis://{}", hosts.join(","))
    }

    /// The node that has the slot of a key.
    pub fn owner(&self, key: &str) -> &RedisServer {
        let owner = wait_for(|| match self.nodes[0].try_cli(&["EXISTS", key]) {
            Ok(_) => Some(&self.nodes[0]),
            // "MOVED slot host:port"
            Err(error) => {
                let port = error.strip_prefix("MOVED ")?.rsplit(':').next()?.parse::<u16>().ok()?;
                self.nodes.iter().find(|node| node.port() == port)
            }
        });
        owner.unwrap_or_else(|| panic!("no node has the slot of {key}"))
    }

    /// One command about `key`, at the node that has it.
    pub fn cli(&self, key: &str, command: &[&str]) -> String {
        self.owner(key).cli(command)
    }

    pub fn client(&self, key: &str) -> RedisClient {
        self.owner(key).client()
    }
}

fn start_node(version: RedisVersion) -> RedisServer {
    assert!(version >= RedisVersion::V7_0, "before 7.0 the port of the cluster's bus cannot be chosen");
    let bus = ground::free_port().to_string();
    let options =
        [("cluster-enabled", "yes"), ("cluster-node-timeout", "2000"), ("cluster-port", bus.as_str())];
    RedisServer::start(version, &options)
}

fn bus_port(node: &RedisServer) -> u16 {
    let value = node.client().call(&["CONFIG", "GET", "cluster-port"]).items().pop();
    value.and_then(|value| value.to_string().parse().ok()).expect("a cluster's node has a bus")
}
