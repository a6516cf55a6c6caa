//! The decoder against what real servers sent (`tests/data/pgoutput`, made by `capture.sh` there), against an encoder,
//! and against noise.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::change::Value;

fn captures() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pgoutput");
    let mut captures: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    captures.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    captures.sort();
    captures
}

/// The `CopyData` contents of a capture: hex, a frame a line, after comments.
fn frames(capture: &Path) -> Vec<Bytes> {
    let text = fs::read_to_string(capture).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(from_hex).collect()
}

fn from_hex(line: &str) -> Bytes {
    (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect()
}

/// The message bodies of a capture, each with whether it stands in a stream.
fn bodies(capture: &Path) -> Vec<(Bytes, bool)> {
    let mut in_stream = false;
    let mut bodies = Vec::new();
    for frame in frames(capture) {
        let Frame::XLogData { body, .. } = decode_frame(frame).unwrap() else { continue };
        bodies.push((body.clone(), in_stream));
        match body[0] {
            b'S' => in_stream = true,
            b'E' => in_stream = false,
            _ => {}
        }
    }
    bodies
}

fn decoded_text(capture: &Path) -> String {
    let mut text = String::new();
    for (body, in_stream) in bodies(capture) {
        writeln!(text, "{:?}", decode(body, in_stream).unwrap()).unwrap();
    }
    text
}

/// `UPDATE_GOLDEN=1` rewrites what this compares with.
#[test]
fn captures_decode_to_their_golden_text() {
    let captures = captures();
    assert!(captures.len() >= 9, "captures are missing");
    for capture in captures {
        let golden = capture.with_extension("golden");
        let text = decoded_text(&capture);
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, text).unwrap();
        } else {
            let expected = fs::read_to_string(&golden).unwrap();
            for (line, (text, expected)) in text.lines().zip(expected.lines()).enumerate() {
                assert_eq!(text, expected, "{}:{}", golden.display(), line + 1);
            }
            assert_eq!(text.lines().count(), expected.lines().count(), "{}", golden.display());
        }
    }
}

#[test]
fn captured_frames_say_where_they_are() {
    for capture in captures() {
        let frames: Vec<_> = frames(&capture).into_iter().map(|frame| decode_frame(frame).unwrap()).collect();
        let Some((Frame::Keepalive { end: last, .. }, before)) = frames.split_last() else {
            panic!("{} does not end with a keepalive", capture.display());
        };
        for frame in before {
            let Frame::XLogData { start, end, .. } = frame else { panic!("{frame:?} amid messages") };
            assert!(start == end && end <= last, "{frame:?}");
        }
    }
}

/// The scenario that the captures show has every kind of message, and what is special in each.
#[test]
fn captures_cover_the_protocol() {
    let kinds: std::collections::BTreeSet<u8> =
        captures().iter().flat_map(|capture| bodies(capture)).map(|(body, _)| body[0]).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), b"ABCDEIKMOPRSTUYbcpr");
    let messages: Vec<_> = captures()
        .iter()
        .flat_map(|capture| bodies(capture))
        .map(|(body, in_stream)| decode(body, in_stream).unwrap())
        .collect();
    let any = |wanted: fn(&Message) -> bool| messages.iter().any(wanted);
    assert!(any(|m| matches!(m, Message::StreamAbort { xid, subxid, aborted: Some(_) } if xid != subxid)));
    assert!(any(|m| matches!(m, Message::StreamAbort { xid, subxid, aborted: None } if xid == subxid)));
    assert!(any(|m| matches!(m, Message::Update { xid: Some(_), old: Some(Old::Key(_)), .. })));
    assert!(any(|m| matches!(m, Message::Update { old: Some(Old::Full(_)), .. })));
    assert!(any(|m| matches!(m, Message::Truncate { cascade: true, restart_identity: true, .. })));
    assert!(any(|m| matches!(m, Message::Logical { xid: Some(_), transactional: true, .. })));
    assert!(any(|m| matches!(m, Message::Logical { xid: None, transactional: false, .. })));
    assert!(any(|m| matches!(m, Message::Update { new, .. } if new.values().any(|v| v == Value::Unchanged))));
    // A type without a send function stays text among binary values.
    assert!(any(|m| matches!(m, Message::Insert { new, .. } if mixes_text_and_binary(new))));
}

fn mixes_text_and_binary(tuple: &Tuple) -> bool {
    tuple.values().any(|value| matches!(value, Value::Text(_)))
        && tuple.values().any(|value| matches!(value, Value::Binary(_)))
}

#[test]
fn status_update_says_how_far_we_are() {
    let update = encode_status_update(Lsn(3), Lsn(2), Lsn(1), -1, true);
    let expected =
        "72 0000000000000003 0000000000000002 0000000000000001 ffffffffffffffff 01".replace(' ', "");
    assert_eq!(Bytes::copy_from_slice(&update), from_hex(&expected));
}

#[test]
fn values_are_not_copied() {
    let body = from_hex("49 00000001 4e 0001 74 00000003 616263".replace(' ', "").as_str());
    let within = body.as_ptr_range();
    let Message::Insert { new, .. } = decode(body, false).unwrap() else { panic!() };
    let Some(Value::Text(text)) = new.values().next() else { panic!() };
    assert!(within.contains(&text.as_ptr()));
}

#[test]
fn malformed_messages_say_where_and_why() {
    for (hex, expected) in [
        ("", "replication message '\\x00' is malformed at byte 0: expected a byte"),
        (
            "5a",
            "replication message 'Z' is malformed at byte 0: expected a message of protocol versions 1 to 4",
        ),
        ("4500", "replication message 'E' is malformed at byte 1: expected the end of the message"),
        // A new tuple is asked for where an old one stands.
        ("49000000014b", "replication message 'I' is malformed at byte 5: expected a new tuple"),
        // One value of -1 bytes, then of more than there are.
        (
            "49000000014e000174ffffffff",
            "replication message 'I' is malformed at byte 8: expected as many well-formed values as announced",
        ),
        (
            "49000000014e00017400000001",
            "replication message 'I' is malformed at byte 8: expected as many well-formed values as announced",
        ),
        // Claims that would take gigabytes.
        ("54ffffffff00", "replication message 'T' is malformed at byte 6: expected fewer relations"),
        (
            "543fffffff00",
            "replication message 'T' is malformed at byte 6: expected as many bytes as announced",
        ),
        ("540000000004", "replication message 'T' is malformed at byte 5: expected flags that are defined"),
    ] {
        let malformed = decode(from_hex(hex), false).unwrap_err();
        assert_eq!(malformed.to_string(), expected);
    }
}

#[test]
fn names_must_be_utf8_and_end() {
    let origin = |name: &[u8]| decode([b"O\0\0\0\0\0\0\0\0".as_slice(), name].concat().into(), false);
    assert_eq!(origin("ä\0".as_bytes()), Ok(Message::Origin { commit_lsn: Lsn(0), name: "ä".into() }));
    assert_eq!(origin(b"\xe4\0").unwrap_err().expected, "text in UTF-8");
    assert_eq!(origin(b"a").unwrap_err().expected, "text that ends with a zero byte");
    assert_eq!(origin(b"a\0b").unwrap_err().expected, "the end of the message");
}

/// A truncated message is never taken for a shorter one, but for the abort that has two lengths.
#[test]
fn no_prefix_of_a_message_is_one() {
    for (body, in_stream) in captures().iter().flat_map(|capture| bodies(capture)) {
        let length = body.len();
        for end in (0..length).filter(|&end| end < 200 || end + 200 > length) {
            if body[0] == b'A' && end == 9 {
                continue;
            }
            assert!(decode(body.slice(..end), in_stream).is_err(), "{end} bytes of {body:?}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded((message, in_stream) in messages()) {
        prop_assert_eq!(decode(encode(&message), in_stream), Ok(message));
    }

    #[test]
    fn noise_never_panics(kind in any::<u8>(), rest in vec(any::<u8>(), 0..200), in_stream in any::<bool>()) {
        let body: Bytes = std::iter::once(kind).chain(rest).collect();
        let _ = decode_frame(body.clone());
        let _ = decode(body, in_stream);
    }

    /// Whatever decodes is exactly its message's encoding: nothing was skipped and nothing was guessed.
    #[test]
    fn mutated_messages_are_refused_or_taken_whole(
        (message, in_stream) in messages(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = encode(&message).to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let body = Bytes::from(body);
        if let Ok(message) = decode(body.clone(), in_stream) {
            prop_assert_eq!(encode(&message), body);
        }
    }
}

/// Every byte of every captured message, changed in turn.
#[test]
fn mutated_captures_never_panic() {
    let captures = captures();
    for (body, in_stream) in captures.iter().flat_map(|path| bodies(path)) {
        for at in 0..body.len().min(120) {
            for byte in [0, 1, 0x7f, 0xff, body[at] ^ 0x20] {
                let mut changed = BytesMut::from(&body[..]);
                changed[at] = byte;
                let _ = decode(changed.freeze(), in_stream);
            }
        }
    }
}

/// A message of any kind with whether it stands in a stream.
fn messages() -> impl Strategy<Value = (Message, bool)> {
    any::<bool>().prop_flat_map(|in_stream| {
        let message = prop_oneof![
            4 => row_messages(in_stream),
            2 => description_messages(in_stream),
            1 => transaction_messages(),
            1 => stream_messages(),
            1 => two_phase_messages(),
        ];
        (message, Just(in_stream))
    })
}

fn xid(in_stream: bool) -> impl Strategy<Value = Option<u32>> + Clone {
    any::<u32>().prop_map(move |xid| in_stream.then_some(xid))
}

fn lsn() -> impl Strategy<Value = Lsn> {
    any::<u64>().prop_map(Lsn)
}

fn name() -> &'static str {
    "[^\0]{0,12}"
}

fn schema() -> impl Strategy<Value = String> {
    prop_oneof![Just("pg_catalog".to_owned()), "[^\0]{1,12}"]
}

fn tuple() -> impl Strategy<Value = Tuple> {
    #[derive(Debug, Clone)]
    enum Owned {
        Null,
        Unchanged,
        Text(Vec<u8>),
        Binary(Vec<u8>),
    }
    let value = prop_oneof![
        Just(Owned::Null),
        Just(Owned::Unchanged),
        vec(any::<u8>(), 0..40).prop_map(Owned::Text),
        vec(any::<u8>(), 0..40).prop_map(Owned::Binary),
    ];
    vec(value, 0..12).prop_map(|values| {
        let borrow = |value| match value {
            &Owned::Null => Value::Null,
            &Owned::Unchanged => Value::Unchanged,
            Owned::Text(bytes) => Value::Text(bytes),
            Owned::Binary(bytes) => Value::Binary(bytes),
        };
        values.iter().map(borrow).collect()
    })
}

fn old() -> impl Strategy<Value = Old> {
    prop_oneof![tuple().prop_map(Old::Key), tuple().prop_map(Old::Full)]
}

fn row_messages(in_stream: bool) -> impl Strategy<Value = Message> {
    let xid = xid(in_stream);
    prop_oneof![
        (xid.clone(), any::<u32>(), tuple()).prop_map(|(xid, relation_id, new)| Message::Insert {
            xid,
            relation_id,
            new
        }),
        (xid.clone(), any::<u32>(), option::of(old()), tuple())
            .prop_map(|(xid, relation_id, old, new)| Message::Update { xid, relation_id, old, new }),
        (xid.clone(), any::<u32>(), old()).prop_map(|(xid, relation_id, old)| Message::Delete {
            xid,
            relation_id,
            old
        }),
        (xid, vec(any::<u32>(), 0..5), any::<bool>(), any::<bool>()).prop_map(
            |(xid, relation_ids, cascade, restart_identity)| {
                Message::Truncate { xid, relation_ids, cascade, restart_identity }
            }
        ),
    ]
}

fn description_messages(in_stream: bool) -> impl Strategy<Value = Message> {
    let xid = xid(in_stream);
    prop_oneof![
        (xid.clone(), relations()).prop_map(|(xid, relation)| Message::Relation { xid, relation }),
        (xid.clone(), any::<u32>(), schema(), name()).prop_map(|(xid, id, schema, name)| Message::Type {
            xid,
            id,
            schema,
            name
        }),
        (xid, any::<bool>(), lsn(), name(), vec(any::<u8>(), 0..40)).prop_map(
            |(xid, transactional, lsn, prefix, content)| {
                Message::Logical { xid, transactional, lsn, prefix, content: content.into() }
            }
        ),
    ]
}

fn relations() -> impl Strategy<Value = Relation> {
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index),
    ];
    let column = (name(), any::<u32>(), any::<i32>(), any::<bool>())
        .prop_map(|(name, type_id, type_modifier, key)| Column { name, type_id, type_modifier, key });
    (any::<u32>(), schema(), name(), identity, vec(column, 0..8))
        .prop_map(|(id, schema, name, identity, columns)| Relation { id, schema, name, identity, columns })
}

fn transaction_messages() -> impl Strategy<Value = Message> {
    prop_oneof![
        (lsn(), any::<i64>(), any::<u32>()).prop_map(|(final_lsn, committed_at_us, xid)| Message::Begin {
            final_lsn,
            committed_at_us,
            xid
        }),
        (lsn(), lsn(), any::<i64>()).prop_map(|(commit_lsn, end_lsn, committed_at_us)| Message::Commit {
            commit_lsn,
            end_lsn,
            committed_at_us
        }),
        (lsn(), name()).prop_map(|(commit_lsn, name)| Message::Origin { commit_lsn, name }),
    ]
}

fn stream_messages() -> impl Strategy<Value = Message> {
    let aborted = (lsn(), any::<i64>()).prop_map(|(lsn, at_us)| Aborted { lsn, at_us });
    prop_oneof![
        (any::<u32>(), any::<bool>())
            .prop_map(|(xid, first_segment)| Message::StreamStart { xid, first_segment }),
        Just(Message::StreamStop),
        (any::<u32>(), lsn(), lsn(), any::<i64>()).prop_map(|(xid, commit_lsn, end_lsn, committed_at_us)| {
            Message::StreamCommit { xid, commit_lsn, end_lsn, committed_at_us }
        }),
        (any::<u32>(), any::<u32>(), option::of(aborted))
            .prop_map(|(xid, subxid, aborted)| Message::StreamAbort { xid, subxid, aborted }),
    ]
}

fn two_phase_messages() -> impl Strategy<Value = Message> {
    let fields = || (lsn(), lsn(), any::<i64>(), any::<u32>(), name());
    let prepared = || {
        fields().prop_map(|(prepare_lsn, end_lsn, prepared_at_us, xid, gid)| Prepared {
            prepare_lsn,
            end_lsn,
            prepared_at_us,
            xid,
            gid,
        })
    };
    prop_oneof![
        prepared().prop_map(Message::BeginPrepare),
        prepared().prop_map(Message::Prepare),
        prepared().prop_map(Message::StreamPrepare),
        fields().prop_map(|(commit_lsn, end_lsn, committed_at_us, xid, gid)| {
            Message::CommitPrepared { commit_lsn, end_lsn, committed_at_us, xid, gid }
        }),
        (fields(), any::<i64>()).prop_map(
            |((prepare_end_lsn, end_lsn, prepared_at_us, xid, gid), rolled_back_at_us)| {
                Message::RollbackPrepared(RolledBack {
                    prepare_end_lsn,
                    end_lsn,
                    prepared_at_us,
                    rolled_back_at_us,
                    xid,
                    gid,
                })
            }
        ),
    ]
}

/// The server's side, written from the manual's tables.
fn encode(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    match message {
        Message::Begin { final_lsn, committed_at_us, xid } => {
            out.put_u8(b'B');
            out.put_u64(final_lsn.0);
            out.put_i64(*committed_at_us);
            out.put_u32(*xid);
        }
        Message::Commit { commit_lsn, end_lsn, committed_at_us } => {
            out.put_slice(b"C\0");
            put_times(&mut out, *commit_lsn, *end_lsn, *committed_at_us);
        }
        Message::Origin { commit_lsn, name } => {
            out.put_u8(b'O');
            out.put_u64(commit_lsn.0);
            put_string(&mut out, name);
        }
        Message::Logical { xid, transactional, lsn, prefix, content } => {
            put_kind(&mut out, b'M', *xid);
            out.put_u8(u8::from(*transactional));
            out.put_u64(lsn.0);
            put_string(&mut out, prefix);
            out.put_u32(u32::try_from(content.len()).unwrap());
            out.put_slice(content);
        }
        Message::Relation { xid, relation } => {
            put_kind(&mut out, b'R', *xid);
            put_relation(&mut out, relation);
        }
        Message::Type { xid, id, schema, name } => {
            put_kind(&mut out, b'Y', *xid);
            out.put_u32(*id);
            put_schema(&mut out, schema);
            put_string(&mut out, name);
        }
        Message::Insert { xid, relation_id, new } => {
            put_kind(&mut out, b'I', *xid);
            out.put_u32(*relation_id);
            put_tuple(&mut out, b'N', new);
        }
        Message::Update { xid, relation_id, old, new } => {
            put_kind(&mut out, b'U', *xid);
            out.put_u32(*relation_id);
            if let Some(old) = old {
                put_old(&mut out, old);
            }
            put_tuple(&mut out, b'N', new);
        }
        Message::Delete { xid, relation_id, old } => {
            put_kind(&mut out, b'D', *xid);
            out.put_u32(*relation_id);
            put_old(&mut out, old);
        }
        Message::Truncate { xid, relation_ids, cascade, restart_identity } => {
            put_kind(&mut out, b'T', *xid);
            out.put_u32(u32::try_from(relation_ids.len()).unwrap());
            out.put_u8(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            for id in relation_ids {
                out.put_u32(*id);
            }
        }
        _ => encode_stream_or_two_phase(&mut out, message),
    }
    out.freeze()
}

fn encode_stream_or_two_phase(out: &mut BytesMut, message: &Message) {
    match message {
        Message::StreamStart { xid, first_segment } => {
            put_kind(out, b'S', Some(*xid));
            out.put_u8(u8::from(*first_segment));
        }
        Message::StreamStop => out.put_u8(b'E'),
        Message::StreamCommit { xid, commit_lsn, end_lsn, committed_at_us } => {
            put_kind(out, b'c', Some(*xid));
            out.put_u8(0);
            put_times(out, *commit_lsn, *end_lsn, *committed_at_us);
        }
        Message::StreamAbort { xid, subxid, aborted } => {
            put_kind(out, b'A', Some(*xid));
            out.put_u32(*subxid);
            if let Some(aborted) = aborted {
                out.put_u64(aborted.lsn.0);
                out.put_i64(aborted.at_us);
            }
        }
        Message::BeginPrepare(prepared) => put_prepared(out, b"b", prepared),
        Message::Prepare(prepared) => put_prepared(out, b"P\0", prepared),
        Message::StreamPrepare(prepared) => put_prepared(out, b"p\0", prepared),
        Message::CommitPrepared { commit_lsn, end_lsn, committed_at_us, xid, gid } => {
            out.put_slice(b"K\0");
            put_times(out, *commit_lsn, *end_lsn, *committed_at_us);
            out.put_u32(*xid);
            put_string(out, gid);
        }
        Message::RollbackPrepared(rolled_back) => {
            out.put_slice(b"r\0");
            put_times(out, rolled_back.prepare_end_lsn, rolled_back.end_lsn, rolled_back.prepared_at_us);
            out.put_i64(rolled_back.rolled_back_at_us);
            out.put_u32(rolled_back.xid);
            put_string(out, &rolled_back.gid);
        }
        _ => unreachable!("encode has the others"),
    }
}

fn put_kind(out: &mut BytesMut, kind: u8, xid: Option<u32>) {
    out.put_u8(kind);
    if let Some(xid) = xid {
        out.put_u32(xid);
    }
}

fn put_times(out: &mut BytesMut, lsn: Lsn, end_lsn: Lsn, at_us: i64) {
    out.put_u64(lsn.0);
    out.put_u64(end_lsn.0);
    out.put_i64(at_us);
}

fn put_prepared(out: &mut BytesMut, kind_and_flags: &[u8], prepared: &Prepared) {
    out.put_slice(kind_and_flags);
    put_times(out, prepared.prepare_lsn, prepared.end_lsn, prepared.prepared_at_us);
    out.put_u32(prepared.xid);
    put_string(out, &prepared.gid);
}

fn put_relation(out: &mut BytesMut, relation: &Relation) {
    out.put_u32(relation.id);
    put_schema(out, &relation.schema);
    put_string(out, &relation.name);
    out.put_u8(match relation.identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    out.put_u16(u16::try_from(relation.columns.len()).unwrap());
    for column in &relation.columns {
        out.put_u8(u8::from(column.key));
        put_string(out, &column.name);
        out.put_u32(column.type_id);
        out.put_i32(column.type_modifier);
    }
}

fn put_string(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn put_schema(out: &mut BytesMut, schema: &str) {
    put_string(out, if schema == "pg_catalog" { "" } else { schema });
}

fn put_old(out: &mut BytesMut, old: &Old) {
    put_tuple(out, if matches!(old, Old::Key(_)) { b'K' } else { b'O' }, old.tuple());
}

fn put_tuple(out: &mut BytesMut, kind: u8, tuple: &Tuple) {
    out.put_u8(kind);
    out.put_u16(u16::try_from(tuple.len()).unwrap());
    for value in tuple.values() {
        let (kind, bytes) = match value {
            Value::Null => (b'n', None),
            Value::Unchanged => (b'u', None),
            Value::Text(bytes) => (b't', Some(bytes)),
            Value::Binary(bytes) => (b'b', Some(bytes)),
        };
        out.put_u8(kind);
        if let Some(bytes) = bytes {
            out.put_u32(u32::try_from(bytes.len()).unwrap());
            out.put_slice(bytes);
        }
    }
}
