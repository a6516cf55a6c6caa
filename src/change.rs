//! What moves: changes of rows, grouped in transactions. **Values are bytes from end to end.**
//!
//! A [`Tuple`] keeps the encoding that it arrived in (`TupleData` of PostgreSQL's logical replication protocol), so
//! that nothing is allocated per column and a value is copied once, into the statement that applies it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::position::Lsn;

/// A table as the source described it right before the changes that carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The source's OID: tells a table that was dropped and created again from the one before.
    pub id: u32,
    pub schema: String,
    pub name: String,
    pub identity: ReplicaIdentity,
    pub columns: Vec<Column>,
}

impl Relation {
    pub fn table(&self) -> TableName {
        TableName { schema: self.schema.clone(), name: self.name.clone() }
    }
}

/// A table's qualified name, unquoted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        TableName { schema: schema.into(), name: name.into() }
    }
}

/// For people: `schema.table`. SQL uses `pg::quote`.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A map by small numbers of one server or of our own, such as OIDs: every change is looked up in several.
pub type ByNumber<N, T> = HashMap<N, T, BuildHasherDefault<NumberHasher>>;

/// Spreads a number by one multiplication; nobody chooses these numbers to collide.
#[derive(Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
        self.0 = (self.0 ^ number).wrapping_mul(ODD).rotate_left(32);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// The source's type OID; means the same on both sides only below 16384.
    pub type_id: u32,
    pub type_modifier: i32,
    /// Part of the replica identity.
    pub key: bool,
}

/// `pg_class.relreplident`: what an update or delete says of the old row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key.
    Default,
    /// `n`: nothing; updates and deletes fail at the source.
    Nothing,
    /// `f`: the whole old row.
    Full,
    /// `i`: the columns of a chosen unique index.
    Index,
}

/// One column's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// An out-of-line (TOAST) value that the update did not touch: the target already holds it.
    Unchanged,
    /// The type's output text, in the client encoding UTF-8.
    Text(&'a [u8]),
    /// The type's send function's output.
    Binary(&'a [u8]),
}

/// A row's values, in the order of its relation's columns, still encoded:
/// a kind byte each (`n`, `u`, `t`, `b`), for `t` and `b` followed by a length (i32, big endian) and so many bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Tuple {
    data: Bytes,
    columns: u16,
    kinds: Kinds,
}

/// Which kinds of values a tuple has, so that nobody needs to look at each of them again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Kinds(u8);

impl Kinds {
    const UNCHANGED: Kinds = Kinds(1);
    const TEXT: Kinds = Kinds(2);
    const BINARY: Kinds = Kinds(4);

    fn add(&mut self, value: Value<'_>) {
        self.0 |= match value {
            Value::Null => 0,
            Value::Unchanged => Kinds::UNCHANGED.0,
            Value::Text(_) => Kinds::TEXT.0,
            Value::Binary(_) => Kinds::BINARY.0,
        };
    }

    fn has(self, kind: Kinds) -> bool {
        self.0 & kind.0 != 0
    }
}

impl Tuple {
    /// Takes `data` as `columns` encoded values; `None` when it is not exactly that.
    pub fn parse(mut data: Bytes, columns: u16) -> Option<Tuple> {
        let tuple = Tuple::split(&mut data, columns)?;
        data.is_empty().then_some(tuple)
    }

    /// Takes `columns` encoded values off the front of `data`; `None`, and `data` as it was, when they are not there.
    pub fn split(data: &mut Bytes, columns: u16) -> Option<Tuple> {
        let (length, kinds) = measure(data, columns)?;
        Some(Tuple { data: data.split_to(length), columns, kinds })
    }

    /// Encodes values into `room`, which many tuples share: one that is made alone takes up to twice its size, and an
    /// allocation.
    pub fn pack<'a>(values: impl IntoIterator<Item = Value<'a>>, room: &mut BytesMut) -> Tuple {
        let mut columns = 0;
        let mut kinds = Kinds::default();
        for value in values {
            columns += 1;
            kinds.add(value);
            match value {
                Value::Null => room.put_u8(b'n'),
                Value::Unchanged => room.put_u8(b'u'),
                Value::Text(bytes) => put_sized(room, b't', bytes),
                Value::Binary(bytes) => put_sized(room, b'b', bytes),
            }
        }
        Tuple { data: room.split().freeze(), columns, kinds }
    }

    /// Whether some value was left alone by an update and is not here.
    pub fn has_unchanged(&self) -> bool {
        self.kinds.has(Kinds::UNCHANGED)
    }

    pub fn has_text(&self) -> bool {
        self.kinds.has(Kinds::TEXT)
    }

    pub fn has_binary(&self) -> bool {
        self.kinds.has(Kinds::BINARY)
    }

    /// The values in column order.
    pub fn values(&self) -> Values<'_> {
        Values { rest: &self.data }
    }

    /// How many values the tuple has.
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// Bytes that the values take in memory.
    pub fn size(&self) -> usize {
        self.data.len()
    }
}

impl<'a> FromIterator<Value<'a>> for Tuple {
    fn from_iter<I: IntoIterator<Item = Value<'a>>>(values: I) -> Tuple {
        Tuple::pack(values, &mut BytesMut::new())
    }
}

fn put_sized(data: &mut BytesMut, kind: u8, bytes: &[u8]) {
    data.put_u8(kind);
    data.put_i32(i32::try_from(bytes.len()).expect("a value is smaller than 1 GB"));
    data.put_slice(bytes);
}

/// How many bytes of `data` its first `columns` values take, and of which kinds they are. Every value of every change
/// passes here once.
fn measure(data: &[u8], columns: u16) -> Option<(usize, Kinds)> {
    let mut rest = data;
    let mut kinds = Kinds::default();
    for _ in 0..columns {
        let value;
        (value, rest) = split_value(rest)?;
        kinds.add(value);
    }
    Some((data.len() - rest.len(), kinds))
}

/// The first encoded value of `data`, and what follows it.
fn split_value(data: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let (&kind, rest) = data.split_first()?;
    match kind {
        b'n' => Some((Value::Null, rest)),
        b'u' => Some((Value::Unchanged, rest)),
        b't' | b'b' => {
            let (length, rest) = rest.split_at_checked(4)?;
            let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
            let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            Some((if kind == b't' { Value::Text(bytes) } else { Value::Binary(bytes) }, rest))
        }
        _ => None,
    }
}

/// Iterates over a tuple's values.
pub struct Values<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (value, rest) = split_value(self.rest).expect("a tuple is checked when it is made");
        self.rest = rest;
        Some(value)
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values().map(Shown)).finish()
    }
}

/// A value as golden tests print it.
struct Shown<'a>(Value<'a>);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("null"),
            Value::Unchanged => f.write_str("unchanged"),
            Value::Text(bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            Value::Binary(bytes) => {
                f.write_str("0x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// What is known of a row before an update or delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Old {
    /// The replica identity's columns; the others are null. Sent when the identity changed or is out of line.
    Key(Tuple),
    /// The whole row (`REPLICA IDENTITY FULL`).
    Full(Tuple),
}

impl Old {
    pub fn tuple(&self) -> &Tuple {
        match self {
            Old::Key(tuple) | Old::Full(tuple) => tuple,
        }
    }
}

/// One change. Each carries its relation's shape as of its own moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Insert {
        relation: Arc<Relation>,
        new: Tuple,
    },
    /// `old` is `None` when the identity did not change: then `new` carries it.
    Update {
        relation: Arc<Relation>,
        old: Option<Old>,
        new: Tuple,
    },
    Delete {
        relation: Arc<Relation>,
        old: Old,
    },
    Truncate {
        relations: Vec<Arc<Relation>>,
        cascade: bool,
        restart_identity: bool,
    },
}

impl Change {
    /// Bytes of memory that the change's values hold, for the bounds on buffers.
    pub fn size(&self) -> usize {
        /// What an item costs beside its values.
        const OVERHEAD: usize = 160;
        OVERHEAD
            + match self {
                Change::Insert { new, .. } => new.size(),
                Change::Update { old, new, .. } => {
                    new.size() + old.as_ref().map_or(0, |old| old.tuple().size())
                }
                Change::Delete { old, .. } => old.tuple().size(),
                Change::Truncate { .. } => 0,
            }
    }
}

/// A source transaction's envelope; its changes follow it, up to its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    pub xid: u32,
    /// Where its commit record begins. A snapshot or slot at consistent point `p` shows the transaction exactly when
    /// `commit_lsn < p`.
    pub commit_lsn: Lsn,
    /// Commit time at the source, microseconds since 2000-01-01 UTC.
    pub committed_at_us: i64,
}

/// What a source delivers, in commit order, transaction after transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Begin(Transaction),
    Change(Change),
    /// The commit end LSN: the position once the transaction is applied, and what orders and de-duplicates.
    Commit(Lsn),
    /// The source has nothing up to this position: an empty transaction. Never between Begin and Commit.
    Idle {
        position: Lsn,
        /// The source waits to hear that it was received, such as when it shuts down.
        urgent: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuple_keeps_its_values() {
        let values =
            [Value::Null, Value::Text(b""), Value::Unchanged, Value::Binary(b"\x00\xff"), Value::Text(b"a")];
        let tuple: Tuple = values.into_iter().collect();
        assert_eq!(tuple.values().collect::<Vec<_>>(), values);
        assert_eq!(Tuple::parse(tuple.data.clone(), 5), Some(tuple.clone()));
        assert_eq!(format!("{tuple:?}"), r#"[null, "", unchanged, 0x00ff, "a"]"#);
        assert!(tuple.has_unchanged() && tuple.has_text() && tuple.has_binary());
        let nulls: Tuple = [Value::Null].into_iter().collect();
        assert!(!nulls.has_unchanged() && !nulls.has_text() && !nulls.has_binary());
    }

    #[test]
    fn tuple_splits_off_the_front() {
        let first: Tuple = [Value::Null, Value::Text(b"abc")].into_iter().collect();
        let second: Tuple = [Value::Binary(b"d")].into_iter().collect();
        let mut data = Bytes::from([&first.data[..], &second.data[..]].concat());
        assert_eq!(Tuple::split(&mut data, 4), None);
        assert_eq!(Tuple::split(&mut data, 2), Some(first));
        assert_eq!(Tuple::split(&mut data, 1), Some(second));
        assert!(data.is_empty());
    }

    #[test]
    fn tuple_refuses_what_is_not_exactly_its_columns() {
        let tuple: Tuple = [Value::Null, Value::Text(b"abc")].into_iter().collect();
        for columns in [0, 1, 3] {
            assert_eq!(Tuple::parse(tuple.data.clone(), columns), None);
        }
        for end in 0..tuple.data.len() {
            assert_eq!(Tuple::parse(tuple.data.slice(..end), 2), None);
        }
        assert_eq!(Tuple::parse(Bytes::from_static(b"t\xff\xff\xff\xff"), 1), None);
    }
}
