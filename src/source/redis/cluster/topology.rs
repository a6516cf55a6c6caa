//! The nodes of a cluster as one of them sees them.
//!
//! Source: the documentation of `CLUSTER NODES` and `CLUSTER SLOTS`; what servers of versions 6.2 to 7.4 and Valkey 9
//! answer. A node without slots stands in the first only, the name by which clients are to call a node in the second.

use std::collections::HashMap;

use crate::error::{Error, Kind, Result};
use crate::redis::connection::Connection;
use crate::redis::location::Host;
use crate::redis::resp::Reply;
use crate::redis::slot::SLOTS;

/// A node that takes writes, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Primary {
    pub id: String,
    pub host: Host,
    pub has_slots: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// In order of their ids. Who has failed and owns nothing any more is none.
    pub primaries: Vec<Primary>,
    /// By slot, whose it is: the index of the primary.
    pub owners: Vec<Option<usize>>,
    /// Slots that the node itself is handing over, and to whom.
    pub leaving: HashMap<u16, usize>,
}

/// What one line of `CLUSTER NODES` says.
struct Line<'a> {
    id: &'a str,
    address: &'a str,
    flags: Vec<&'a str>,
    slots: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Line<'a>> {
        let mut words = line.split(' ');
        let (id, address, flags) = (words.next()?, words.next()?, words.next()?);
        // Its primary, two times, an epoch and the state of the link.
        let slots = words.skip(5).collect();
        Some(Line { id, address, flags: flags.split(',').collect(), slots })
    }

    fn is_primary(&self) -> bool {
        let has = |flag: &str| self.flags.contains(&flag);
        let is_nobody = has("handshake") || has("noaddr");
        has("master") && !is_nobody && !(has("fail") && self.slots.is_empty())
    }

    /// The slots that it owns.
    fn owned(&self) -> impl Iterator<Item = u16> {
        self.slots.iter().filter(|word| !word.starts_with('[')).flat_map(|word| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let number = |text: &str| text.parse::<u16>().ok().filter(|slot| *slot < SLOTS);
            match (number(first), number(last)) {
                (Some(first), Some(last)) => first..last + 1,
                _ => 0..0,
            }
        })
    }

    /// `[93->-id]`: the slots that it hands over.
    fn leaving(&self) -> impl Iterator<Item = (u16, &'a str)> {
        self.slots.iter().filter_map(|word| {
            let (slot, id) = word.strip_prefix('[')?.strip_suffix(']')?.split_once("->-")?;
            Some((slot.parse().ok()?, id))
        })
    }

    /// `ip:port@busport,hostname`; a node that does not know its own address is where it was asked.
    fn host(&self, asked: &Host) -> Option<Host> {
        let place = self.address.split([',', '@']).next()?;
        let (ip, port) = place.rsplit_once(':')?;
        Some(Host::tcp(or_asked(ip, asked), port.parse().ok()?))
    }
}

impl Topology {
    /// Asks the node that is called `host`.
    pub async fn ask(connection: &mut Connection, host: &Host) -> Result<Topology> {
        let info = connection.call(&[b"CLUSTER", b"INFO"]).await?;
        if !info.text().is_some_and(|info| info.lines().any(|line| line.trim_end() == "cluster_state:ok")) {
            return Err(Error::new(
                Kind::SourceUnreachable,
                format!("the Redis cluster is down, or {} has lost the rest of it", connection.place()),
            )
            .hint("redis-cli --cluster check shows what is missing."));
        }
        let nodes = connection.call(&[b"CLUSTER", b"NODES"]).await?;
        let slots = connection.call(&[b"CLUSTER", b"SLOTS"]).await?;
        let strange = || Error::unexpected("the Redis server describes its cluster in another shape");
        Ok(Topology::parse(nodes.text().ok_or_else(strange)?, names(slots, host), host))
    }

    fn parse(nodes: &str, mut names: HashMap<String, Host>, asked: &Host) -> Topology {
        let mut lines: Vec<Line<'_>> =
            nodes.lines().filter_map(Line::parse).filter(Line::is_primary).collect();
        lines.sort_unstable_by_key(|line| line.id);
        let mut owners = vec![None; usize::from(SLOTS)];
        let mut primaries = Vec::new();
        for line in &lines {
            let Some(host) = names.remove(line.id).or_else(|| line.host(asked)) else { continue };
            let index = primaries.len();
            line.owned().for_each(|slot| owners[usize::from(slot)] = Some(index));
            let has_slots = line.owned().next().is_some();
            primaries.push(Primary { id: line.id.to_owned(), host, has_slots });
        }
        let index = |id: &str| primaries.iter().position(|primary: &Primary| primary.id == id);
        let itself = lines.iter().filter(|line| line.flags.contains(&"myself"));
        let leaving =
            itself.flat_map(Line::leaving).filter_map(|(slot, id)| Some((slot, index(id)?))).collect();
        Topology { primaries, owners, leaving }
    }
}

/// By id, what clients are to call each node that owns slots.
fn names(slots: Reply, asked: &Host) -> HashMap<String, Host> {
    let name = |range: Reply| {
        let owner = range.into_array()?.into_iter().nth(2)?.into_array()?;
        let [name, port, id, ..] = owner.as_slice() else { return None };
        let name = name.text().filter(|name| *name != "?").unwrap_or_default();
        let port = u16::try_from(port.integer()?).ok()?;
        Some((id.text()?.to_owned(), Host::tcp(or_asked(name, asked), port)))
    };
    slots.into_array().unwrap_or_default().into_iter().filter_map(name).collect()
}

fn or_asked(name: &str, asked: &Host) -> String {
    match asked {
        Host::Tcp { name: asked, .. } if name.is_empty() => asked.clone(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
07c3 127.0.0.1:30004@31004,host-4 slave e7d1 0 1426238317239 4 connected\n\
e7d1 :30001@31001 myself,master - 0 0 1 connected 0-5460 [93->-6ec2] [77-<-292f]\n\
292f 127.0.0.1:30003@31003,,shard-id=ab master - 0 1426238318243 3 connected 10923-16383\n\
6ec2 127.0.0.1:30002@31002,hostname2 master,fail? - 0 1426238316232 2 connected 5461-10921 10922\n\
dead 127.0.0.1:30005@31005 master,fail - 0 1426238316232 2 disconnected\n\
new1 127.0.0.1:30006@31006 master - 0 1426238316232 2 connected\n\
hand :0@0 handshake,master - 0 0 0 disconnected\n";

    #[test]
    fn nodes_are_told_with_their_slots_and_where_these_go() {
        let names = HashMap::from([("6ec2".to_owned(), Host::tcp("redis-2.example", 6379))]);
        let topology = Topology::parse(NODES, names, &Host::tcp("seed.example", 30001));
        let shown: Vec<String> = topology
            .primaries
            .iter()
            .map(|primary| format!("{} {} {}", primary.id, primary.host.display(), primary.has_slots))
            .collect();
        assert_eq!(
            shown,
            [
                "292f 127.0.0.1:30003 true",
                "6ec2 redis-2.example:6379 true",
                "e7d1 seed.example:30001 true",
                "new1 127.0.0.1:30006 false"
            ]
        );
        let owner = |slot: usize| topology.owners[slot];
        assert_eq!([owner(0), owner(5460), owner(5461)], [Some(2), Some(2), Some(1)]);
        assert_eq!([owner(10922), owner(10923), owner(16383)], [Some(1), Some(0), Some(0)]);
        assert_eq!(topology.leaving, HashMap::from([(93, 1)]));
    }

    #[test]
    fn clients_call_a_node_by_the_name_that_it_prefers() {
        let owner = |name: Reply| {
            Reply::Array(vec![name, Reply::Integer(7000), Reply::Bulk("id".into()), Reply::Array(Vec::new())])
        };
        let range = |name: Reply| Reply::Array(vec![Reply::Integer(0), Reply::Integer(5), owner(name)]);
        let asked = Host::tcp("seed", 1);
        let told = |name: Reply| names(Reply::Array(vec![range(name)]), &asked)["id"].display();
        assert_eq!(told(Reply::Bulk("redis-1".into())), "redis-1:7000");
        assert_eq!(told(Reply::Nil), "seed:7000");
        assert_eq!(told(Reply::Bulk("?".into())), "seed:7000");
    }
}
