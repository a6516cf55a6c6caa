//! A mapping explained: by which pattern a key is taken.

use super::Mapper;
use crate::keyspace::Key;

impl Mapper {
    /// The patterns, with `*` for each capture, in the mapping's order.
    pub fn patterns(&self) -> Vec<String> {
        let shown = |glob: Vec<u8>| String::from_utf8_lossy(&glob).into_owned();
        self.keys.iter().map(|plan| shown(plan.pattern.glob())).collect()
    }

    /// The first pattern that matches the key, by its index.
    pub fn pattern_of(&self, key: &Key) -> Option<usize> {
        let is_mapped = self.databases.binary_search(&key.database).is_ok();
        self.keys.iter().position(|plan| is_mapped && plan.pattern.captured(&key.name).is_some())
    }
}
