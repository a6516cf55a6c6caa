//! The value of a key, as the server has it: bytes, of one of the types that Redis knows.

use bytes::Bytes;

use crate::digest::Sha256;
use crate::keyspace::ContentHash;

/// Fields and values, or members and scores.
pub type Pairs = Vec<(Bytes, Bytes)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string: text, JSON, or any bytes.
    Text(Bytes),
    /// `RedisJSON`: the whole document as its module writes it.
    Json(Bytes),
    /// Fields and their values, in order of the fields.
    Hash(Pairs),
    List(Vec<Bytes>),
    /// In order of the members' bytes.
    Set(Vec<Bytes>),
    /// Members with their scores as the server writes them, in the server's order.
    SortedSet(Pairs),
    /// Entries: their id, and fields with values in the order in which they were added.
    Stream(Vec<(Bytes, Pairs)>),
    /// A type that nothing is known of, by the name that the server has for it.
    Other(String),
}

impl Value {
    /// The name that the server's `TYPE` has for it.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Text(_) => "string",
            Value::Json(_) => "ReJSON-RL",
            Value::Hash(_) => "hash",
            Value::List(_) => "list",
            Value::Set(_) => "set",
            Value::SortedSet(_) => "zset",
            Value::Stream(_) => "stream",
            Value::Other(name) => name,
        }
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        let pairs = |pairs: &[(Bytes, Bytes)]| -> usize {
            pairs.iter().map(|(one, other)| one.len() + other.len() + 64).sum()
        };
        match self {
            Value::Text(bytes) | Value::Json(bytes) => bytes.len(),
            Value::List(items) | Value::Set(items) => items.iter().map(|item| item.len() + 32).sum(),
            Value::Hash(items) | Value::SortedSet(items) => pairs(items),
            Value::Stream(entries) => entries.iter().map(|(id, fields)| id.len() + 64 + pairs(fields)).sum(),
            Value::Other(_) => 0,
        }
    }

    /// A hash of type and content. `salt` is the digest of the mapping: the same value is another one to another mapping.
    pub fn hash(&self, salt: &[u8; 16]) -> ContentHash {
        let mut hash = Sha256::default();
        hash.update(salt);
        hash.update(self.type_name().as_bytes());
        let mut add = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        match self {
            Value::Text(bytes) | Value::Json(bytes) => add(bytes),
            Value::List(items) | Value::Set(items) => items.iter().for_each(|item| add(item)),
            Value::Hash(pairs) | Value::SortedSet(pairs) => pairs.iter().for_each(|(one, other)| {
                add(one);
                add(other);
            }),
            Value::Stream(entries) => {
                for (id, fields) in entries {
                    add(id);
                    add(&(fields.len() as u64).to_be_bytes());
                    for (field, value) in fields {
                        add(field);
                        add(value);
                    }
                }
            }
            Value::Other(_) => {}
        }
        ContentHash(hash.half())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn what_differs_hashes_differently() {
        let values = [
            Value::Text(bytes("ab")),
            Value::Json(bytes("ab")),
            Value::List(vec![bytes("ab")]),
            Value::List(vec![bytes("a"), bytes("b")]),
            Value::Set(vec![bytes("a"), bytes("b")]),
            Value::Hash(vec![(bytes("a"), bytes("b"))]),
            Value::SortedSet(vec![(bytes("a"), bytes("b"))]),
            Value::Stream(vec![(bytes("1-1"), vec![(bytes("a"), bytes("b"))])]),
            Value::Stream(vec![(bytes("1-1"), vec![]), (bytes("a"), vec![])]),
            Value::Other("graphdata".into()),
        ];
        let salt = [0; 16];
        for (index, one) in values.iter().enumerate() {
            for (other_index, other) in values.iter().enumerate() {
                assert_eq!(one.hash(&salt) == other.hash(&salt), index == other_index, "{one:?} {other:?}");
            }
            assert_ne!(one.hash(&salt), one.hash(&[1; 16]), "{one:?}");
        }
    }
}
