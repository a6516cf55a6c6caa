//! Which keys are of interest, and as what they are read.

use super::{Mapper, ValueType};
use crate::keyspace::Key;
use crate::source::redis::fetch::Kind;

impl Mapper {
    /// As [`matches`](Mapper::matches), for a name in a buffer.
    pub fn wants(&self, database: u32, name: &[u8]) -> bool {
        self.databases.binary_search(&database).is_ok()
            && self.keys.iter().any(|plan| plan.pattern.matches(name))
    }

    /// Whether documents of a module are read.
    pub fn reads_documents(&self) -> bool {
        self.keys.iter().any(|plan| plan.holds == ValueType::ReJson)
    }

    /// As what the key is read; `None` where no mapping matches it. Of several mappings the first says it: a key that is
    /// of another type is found out when it is read.
    pub fn kind(&self, key: &Key) -> Option<Kind> {
        let (plan, _) = self.plans(key).next()?;
        Some(match plan.holds {
            ValueType::String | ValueType::Json => Kind::Text,
            ValueType::ReJson => Kind::Json,
            ValueType::Hash => Kind::Hash,
            ValueType::List => Kind::List,
            ValueType::Set => Kind::Set,
            ValueType::ZSet => Kind::SortedSet,
            ValueType::Stream => Kind::Stream,
        })
    }
}
