//! Whoever reads keys: of one server, or of all nodes of a cluster.

use super::cluster::Nodes;
use super::fetch::{Fetched, Fetcher, Kind};
use super::scan::Scan;
use crate::error::Result;
use crate::keyspace::Key;
use crate::redis::connection::Connection;

pub enum Reader {
    Server(Box<Fetcher>),
    Cluster(Box<Nodes>),
}

impl From<Fetcher> for Reader {
    fn from(fetcher: Fetcher) -> Reader {
        Reader::Server(Box::new(fetcher))
    }
}

impl From<Nodes> for Reader {
    fn from(nodes: Nodes) -> Reader {
        Reader::Cluster(Box::new(nodes))
    }
}

impl Reader {
    /// The values of `keys`, each read as what it is expected to be. Keys of one database should stand together.
    pub async fn fetch(&mut self, keys: &[(Key, Kind)]) -> Result<Fetched> {
        match self {
            Reader::Server(fetcher) => fetcher.fetch(keys).await,
            Reader::Cluster(nodes) => nodes.fetch(keys).await,
        }
    }

    /// Which of `keys` are there.
    pub async fn exist(&mut self, keys: &[Key]) -> Result<Vec<bool>> {
        match self {
            Reader::Server(fetcher) => fetcher.exist(keys).await,
            Reader::Cluster(nodes) => nodes.exist(keys).await,
        }
    }

    /// Some more keys of a database, maybe none; nothing once all were there.
    pub async fn scan(&mut self, scan: &mut Scan) -> Result<Option<Vec<Key>>> {
        match self {
            Reader::Server(fetcher) => scan.next(fetcher.connection()).await,
            Reader::Cluster(nodes) => nodes.scan(scan).await,
        }
    }

    /// Where the keys came from that a scan showed last.
    pub fn scanned(&mut self, scan: &Scan) -> &mut Connection {
        match self {
            Reader::Server(fetcher) => fetcher.connection(),
            Reader::Cluster(nodes) => nodes.connection(scan.at()),
        }
    }

    /// The clock of the server, milliseconds since 1970.
    pub async fn now(&mut self) -> Result<i64> {
        match self {
            Reader::Server(fetcher) => fetcher.now().await,
            Reader::Cluster(nodes) => nodes.now().await,
        }
    }

    /// Whether two looks at a key may have found the same time of expiry.
    pub fn expires_alike(&self, one: Option<i64>, other: Option<i64>) -> bool {
        match self {
            Reader::Server(fetcher) => fetcher.expires_alike(one, other),
            Reader::Cluster(nodes) => nodes.expires_alike(one, other),
        }
    }

    /// The one server, where there is one.
    pub fn server(&mut self) -> Option<&mut Connection> {
        match self {
            Reader::Server(fetcher) => Some(fetcher.connection()),
            Reader::Cluster(_) => None,
        }
    }

    pub fn cluster(&mut self) -> Option<&mut Nodes> {
        match self {
            Reader::Server(_) => None,
            Reader::Cluster(nodes) => Some(nodes),
        }
    }

    /// The nodes of a cluster that are listened to, 0 where it is none.
    pub fn nodes(&self) -> usize {
        match self {
            Reader::Server(_) => 0,
            Reader::Cluster(nodes) => nodes.len(),
        }
    }

    /// Whether what a command says of a key, in the history that is being applied, is what the key holds. In a cluster it is
    /// not: by the time that it is heard another node may own the key, and what is heard of that node came first.
    pub fn takes_at_word(&self) -> bool {
        matches!(self, Reader::Server(_))
    }

    /// Whether the key is still where the history is made that is being applied.
    pub fn is_at_home(&self, key: &Key) -> bool {
        match self {
            Reader::Server(_) => true,
            Reader::Cluster(nodes) => nodes.is_at_home(key),
        }
    }
}
