//! What a fuzzer does with any bytes that may have come from a Redis server; the tests do the same with captures that they
//! spoil. Nothing may panic, run past the end, or go on for ever.

use std::hint::black_box;
use std::path::Path;
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use pgdiode::config::Config;
use pgdiode::keyspace::Key;
use pgdiode::redis::resp::{Command, take_reply};
use pgdiode::source::redis::commands::effects;
use pgdiode::source::redis::mapping::Mapper;
use pgdiode::source::redis::value::Value;

/// Answers, as many as there are.
pub fn replies(data: &[u8]) -> usize {
    let mut received = BytesMut::from(data);
    let mut count = 0;
    loop {
        let before = received.len();
        let Ok(Some(reply)) = take_reply(&mut received) else { return count };
        assert!(received.len() < before, "an answer of no bytes");
        black_box(reply);
        count += 1;
    }
}

/// Commands of a replication stream, with what they did; how many bytes they were.
pub fn commands(data: &[u8], mut each: impl FnMut(&str)) -> usize {
    let (mut command, mut taken) = (Command::default(), 0);
    while let Ok(Some(length)) = command.read(&data[taken..]) {
        assert!(length > 0 && taken + length <= data.len(), "{length} bytes at {taken} of {}", data.len());
        effects(&command, &data[taken..taken + length], |effect| each(&format!("{effect:?}")));
        taken += length;
    }
    taken
}

/// A document, into rows of several tables.
pub fn document(data: &[u8]) {
    static MAPPER: OnceLock<std::sync::Arc<Mapper>> = OnceLock::new();
    let mapper = MAPPER.get_or_init(|| {
        let text = "[pipeline.chat]\nsource = \"redis://127.0.0.1\"\ntarget = \"postgresql://u@127.0.0.1/d\"\n\
                    [pipeline.chat.redis]\npreset = \"chat-sessions\"\n";
        let config = Config::parse(Path::new("pgdiode.toml"), text).expect("it is a configuration");
        config.pipelines[0].mapper.clone().expect("it has a mapping")
    });
    let value = Value::Text(Bytes::copy_from_slice(data));
    let entry = mapper.map(&Key::new(0, &b"session:1"[..]), &value, None);
    for part in &entry.parts {
        assert_eq!(part.rows.ends.last().copied().unwrap_or(0), part.rows.lines.len());
        assert_eq!(part.rows.identities.len(), part.rows.len());
    }
}
