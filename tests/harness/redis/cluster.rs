//! A Redis cluster of three primaries, each with a third of the slots; maybe with a replica each, and with nodes that come
//! and go.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::thread;
use std::time::Duration;

use super::super::{ground, wait_for};
use super::{RedisClient, RedisServer, RedisVersion, Reply};

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

    /// With a replica of each primary behind them, in the same order.
    pub fn with_replicas(version: RedisVersion) -> RedisCluster {
        let mut cluster = RedisCluster::start(version);
        for primary in 0..3 {
            let replica = cluster.add_node();
            let id = cluster.nodes[primary].cli(&["CLUSTER", "MYID"]);
            let node = &cluster.nodes[replica];
            node.wait_until("its primary", |client| client.try_call(&["CLUSTER", "REPLICATE", &id]).is_ok());
            node.wait_until("the link to the primary", |client| {
                client.info("replication", "master_link_status").as_deref() == Some("up")
            });
        }
        for node in &cluster.nodes {
            node.wait_until("all replicas", |client| {
                let nodes = client.call(&["CLUSTER", "NODES"]).to_string();
                nodes.lines().filter(|line| line.contains("slave")).count() == 3
            });
        }
        cluster
    }

    /// One more primary, without slots; its index.
    pub fn add_node(&mut self) -> usize {
        let node = start_node(self.nodes[0].version());
        let bus = bus_port(&node).to_string();
        let known = self.living().next().expect("somebody lives");
        known.cli(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &bus]);
        self.nodes.push(node);
        let ids: Vec<String> = self.living().map(|node| node.cli(&["CLUSTER", "MYID"])).collect();
        for node in self.living() {
            node.wait_until("all to know each other", |client| {
                let nodes = client.call(&["CLUSTER", "NODES"]).to_string();
                let is_up = client.call(&["CLUSTER", "INFO"]).to_string().contains("cluster_state:ok");
                is_up && ids.iter().all(|id| nodes.contains(id)) && !nodes.contains("handshake")
            });
        }
        self.nodes.len() - 1
    }

    /// Has all others forget a node, and stops it.
    pub fn remove(&self, index: usize) {
        let id = self.nodes[index].cli(&["CLUSTER", "MYID"]);
        for node in self.living().filter(|node| node.port() != self.nodes[index].port()) {
            node.cli(&["CLUSTER", "FORGET", &id]);
        }
        self.nodes[index].stop();
    }

    fn living(&self) -> impl Iterator<Item = &RedisServer> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// Moves a slot with its keys, as redis-cli does; `meanwhile` happens when the first of them have gone.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize, mut meanwhile: impl FnMut()) {
        self.wait_for_agreement();
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let (source_id, target_id) = (source.cli(&["CLUSTER", "MYID"]), target.cli(&["CLUSTER", "MYID"]));
        let slot = slot.to_string();
        target.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
        source.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
        let port = target.port().to_string();
        let mut client = source.client();
        loop {
            let keys = client.call(&["CLUSTER", "GETKEYSINSLOT", &slot, "3"]).items();
            if keys.is_empty() {
                target.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
                if client.try_call(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]).is_ok() {
                    break;
                }
                continue;
            }
            let mut command: Vec<String> =
                ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "REPLACE", "KEYS"].map(str::to_owned).into();
            command.extend(keys.iter().map(Reply::to_string));
            // On a busy machine a node may lose sight of the others for a moment.
            if client.try_call(&command).is_err() {
                thread::sleep(PAUSE);
                continue;
            }
            meanwhile();
        }
        // The others hear of it in time; who asks them is sent on.
    }

    /// Waits until all nodes that live see the same owners with the same epochs. The new owner of a slot takes the next
    /// epoch that it knows of: where another move's has not come to it yet, the old owner's word may count for more than its
    /// own, and in the end each of them names the other.
    fn wait_for_agreement(&self) {
        let owners = |node: &RedisServer| -> Option<Vec<String>> {
            let nodes = node.try_cli(&["CLUSTER", "NODES"]).ok()?;
            let owner = |line: &str| {
                let words: Vec<&str> = line.split(' ').filter(|word| !word.starts_with('[')).collect();
                let (id, epoch, slots) = (words.first()?, words.get(6)?, words.get(8..)?);
                (!slots.is_empty()).then(|| format!("{id} {epoch} {}", slots.join(" ")))
            };
            let mut owners: Vec<String> = nodes.lines().filter_map(owner).collect();
            owners.sort();
            Some(owners)
        };
        let agreed = wait_for(|| {
            let mut views = self.living().map(owners);
            let first = views.next()??;
            views.all(|view| view.as_ref() == Some(&first)).then_some(())
        });
        assert!(agreed.is_some(), "the nodes agree who owns which slots");
    }

    /// The index of the node that has the slot of a key.
    pub fn index_of(&self, key: &str) -> usize {
        let port = self.owner(key).port();
        self.nodes.iter().position(|node| node.port() == port).expect("it is one of ours")
    }

    /// Primaries that own slots, as they see it themselves.
    pub fn primaries(&self) -> Vec<&RedisServer> {
        self.living()
            .filter(|node| {
                let nodes = node.try_cli(&["CLUSTER", "NODES"]).unwrap_or_default();
                let own = nodes.lines().find(|line| line.contains("myself")).unwrap_or_default();
                own.contains("master") && own.split(' ').nth(8).is_some()
            })
            .collect()
    }

    /// All nodes that live agree that all slots are served.
    pub fn is_whole(&self) -> bool {
        self.living().all(|node| {
            let info = node.try_cli(&["CLUSTER", "INFO"]).unwrap_or_default();
            info.contains("cluster_state:ok")
        })
    }

    pub fn walker(&self) -> ClusterClient {
        ClusterClient {
            ports: self.nodes.iter().map(RedisServer::port).collect(),
            clients: HashMap::new(),
            routes: HashMap::new(),
            turn: 0,
        }
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
        let asked = self.living().next().expect("somebody lives");
        let owner = wait_for(|| match asked.try_cli(&["EXISTS", key]) {
            Ok(_) => Some(asked),
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

/// Sends commands to whoever owns their slot.
pub struct ClusterClient {
    ports: Vec<u16>,
    clients: HashMap<u16, RedisClient>,
    /// By what the keys of a command have in common.
    routes: HashMap<String, u16>,
    turn: usize,
}

/// A failover takes its time.
const TRIES_MAX: usize = 1500;
const PAUSE: Duration = Duration::from_millis(10);

impl ClusterClient {
    /// Runs commands of keys that are all in the slot of `tag`, as one; what a node refuses for other reasons than its
    /// being the wrong one is an answer. Panics where nobody takes them.
    pub fn run(&mut self, tag: &str, commands: &[Vec<String>]) -> Vec<Reply> {
        let mut asks = None;
        for _ in 0..TRIES_MAX {
            let port = asks.or(self.routes.get(tag).copied()).unwrap_or(self.ports[self.turn]);
            let asking = asks.take().map(|_: u16| vec!["ASKING".to_owned()]);
            let Some(replies) = self.send(port, asking.as_ref(), commands) else {
                self.routes.remove(tag);
                self.turn = (self.turn + 1) % self.ports.len();
                thread::sleep(PAUSE);
                continue;
            };
            let refused = replies.iter().find_map(|reply| match reply {
                Reply::Error(words) => Some(words.as_str()),
                _ => None,
            });
            let mut words = refused.unwrap_or_default().split(' ');
            let code = words.next().unwrap_or_default();
            let place = words.nth(1).and_then(|place| place.rsplit(':').next()?.parse().ok());
            match (code, place) {
                // Two nodes may name each other for a moment.
                ("MOVED", Some(port)) => {
                    self.routes.insert(tag.to_owned(), port);
                    thread::sleep(PAUSE);
                }
                ("ASK", Some(port)) => asks = Some(port),
                ("CLUSTERDOWN" | "TRYAGAIN" | "LOADING" | "MASTERDOWN", _) => thread::sleep(PAUSE),
                ("READONLY", _) => drop(self.routes.remove(tag)),
                _ => return replies,
            }
        }
        panic!("no node takes commands about {tag}: {commands:?}")
    }

    fn send(
        &mut self,
        port: u16,
        asking: Option<&Vec<String>>,
        commands: &[Vec<String>],
    ) -> Option<Vec<Reply>> {
        let client = match self.clients.entry(port) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(RedisClient::connect(port).ok()?),
        };
        let all = asking.into_iter().chain(commands);
        let Ok(replies) = client.try_pipeline(all) else {
            self.clients.remove(&port);
            return None;
        };
        Some(replies)
    }
}

fn start_node(version: RedisVersion) -> RedisServer {
    assert!(version >= RedisVersion::V7_0, "before 7.0 the port of the cluster's bus cannot be chosen");
    let bus = ground::free_port().to_string();
    let options = [
        ("cluster-enabled", "yes"),
        ("cluster-node-timeout", "4000"),
        ("cluster-port", bus.as_str()),
        ("cluster-allow-replica-migration", "no"),
        ("repl-backlog-size", "64mb"),
    ];
    RedisServer::start(version, &options)
}

fn bus_port(node: &RedisServer) -> u16 {
    let value = node.client().call(&["CONFIG", "GET", "cluster-port"]).items().pop();
    value.and_then(|value| value.to_string().parse().ok()).expect("a cluster's node has a bus")
}
