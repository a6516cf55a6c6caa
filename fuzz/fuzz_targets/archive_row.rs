//! No line makes the decoder of rows panic, and a change that was decoded is encoded and decoded to the same again.
#![no_main]

use std::sync::Arc;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pgdiode::archive::decode;
use pgdiode::archive::encode::Encoder;
use pgdiode::archive::line::Row;
use pgdiode::change::{Column, Relation, ReplicaIdentity, Transaction};
use pgdiode::position::Lsn;

fuzz_target!(|data: &[u8]| {
    let Ok(row) = serde_json::from_slice::<Row<'_>>(data) else { return };
    let (relation, mut room) = (users(), BytesMut::new());
    let Ok(change) = decode::change(&row, &relation, &mut room) else { return };
    let mut encoder = Encoder::default();
    encoder.begin(&Transaction { xid: 1, commit_lsn: Lsn(1), committed_at_us: 0 });
    let mut lines = Vec::new();
    encoder.change(&change, &mut lines);
    let line = lines.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).expect("a row is a line");
    let row: Row<'_> = serde_json::from_slice(line).expect("what is encoded is a row");
    assert_eq!(decode::change(&row, &relation, &mut room).expect("it was just encoded"), change);
});

fn users() -> Arc<Relation> {
    let column = |name: &str, type_id, key| Column { name: name.into(), type_id, type_modifier: -1, key };
    Arc::new(Relation {
        id: 16_385,
        schema: "public".into(),
        name: "users".into(),
        identity: ReplicaIdentity::Default,
        columns: vec![column("id", 23, true), column("name", 25, false), column("score", 1700, false)],
    })
}
