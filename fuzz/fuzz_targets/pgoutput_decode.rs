//! No bytes make the decoder panic or make up data. The first byte says whether the message stands in a stream.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pgdiode::change::{Tuple, Value};
use pgdiode::source::postgres::pgoutput::{self, Message};

fuzz_target!(|data: &[u8]| {
    let Some((&first, body)) = data.split_first() else { return };
    let Ok(message) = pgoutput::decode(Bytes::copy_from_slice(body), first & 1 == 1) else { return };
    let held = match &message {
        Message::Insert { new, .. } => held(new),
        Message::Update { old, new, .. } => held(new) + old.as_ref().map_or(0, |old| held(old.tuple())),
        Message::Delete { old, .. } => held(old.tuple()),
        Message::Truncate { relation_ids, .. } => relation_ids.len() * 4,
        Message::Relation { relation, .. } => {
            relation.columns.iter().map(|column| column.name.len() + 10).sum()
        }
        Message::Logical { prefix, content, .. } => prefix.len() + content.len(),
        _ => 0,
    };
    assert!(held <= body.len(), "{message:?} holds more than it was made of");
});

/// Bytes of the tuple's values, each of which must be there.
fn held(tuple: &Tuple) -> usize {
    assert_eq!(tuple.values().count(), tuple.len());
    let length = |value| match value {
        Value::Null | Value::Unchanged => 0,
        Value::Text(bytes) | Value::Binary(bytes) => bytes.len(),
    };
    tuple.values().map(length).sum()
}
