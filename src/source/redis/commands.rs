//! What the commands of a replication stream do to keys.
//!
//! A primary sends what its commands did, not what was asked for: scripts and transactions as their effects, times as
//! points in time, expiries and evictions as deletions. Commands that carry a whole value are taken at their word. Every
//! other command may have changed any key that it names, and a key is named as an argument of its own: each argument that
//! is a key of ours is looked at again. Too many looks cost little; none is missed whatever modules add.
//!
//! Source: Redis' documentation of each command; what servers of versions 6.2 to 7.4 and Valkey 9 send.

use crate::redis::resp::Command;

/// What one command did, a key at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect<'a> {
    /// The key is a string, and holds this.
    Set {
        key: &'a [u8],
        value: &'a [u8],
        expiry: Expiry,
    },
    Gone {
        key: &'a [u8],
    },
    /// The key's value stayed; it expires then, in milliseconds since 1970, or never.
    Expires {
        key: &'a [u8],
        at: Option<i64>,
    },
    /// Something about what may be a key: to be looked at. `database` where it is not the selected one.
    Touched {
        database: Option<u32>,
        key: &'a [u8],
    },
    /// The commands after this one are for that database.
    Selected(u32),
    /// Commands up to [`Effect::End`] happened at one moment.
    Begin,
    End,
    /// A database lost all its keys, or all did.
    Flushed {
        all: bool,
    },
    /// Two databases changed places.
    Swapped(u32, u32),
    /// Whatever: every key of the database may be another.
    Anything,
    /// The primary wants to hear how far we are.
    Asked,
}

/// When a value that was set expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    Never,
    /// Milliseconds since 1970.
    At(i64),
    /// Milliseconds after the command ran: what servers before 7.0 send.
    In(i64),
    /// As before: not said.
    Kept,
}

/// The longest name of a command that has a rule of its own.
const NAME_BYTES_MAX: usize = 16;

/// Tells `each` what the command did.
pub fn effects<'a>(command: &Command, bytes: &'a [u8], mut each: impl FnMut(Effect<'a>)) {
    let argument = |index: usize| command.argument(bytes, index);
    let given = command.argument(bytes, 0);
    let mut name = [0; NAME_BYTES_MAX];
    let name = &mut name[..given.len().min(NAME_BYTES_MAX)];
    name.copy_from_slice(&given[..name.len()]);
    name.make_ascii_uppercase();
    match &*name {
        b"SELECT" => match number(argument(1)) {
            Some(database) => each(Effect::Selected(database)),
            None => each(Effect::Anything),
        },
        b"MULTI" => each(Effect::Begin),
        b"EXEC" => each(Effect::End),
        b"PING" | b"PUBLISH" | b"SPUBLISH" | b"FUNCTION" | b"SCRIPT" => {}
        b"REPLCONF" => {
            if argument(1).eq_ignore_ascii_case(b"GETACK") {
                each(Effect::Asked);
            }
        }
        b"SET" => set(command, bytes, each),
        b"SETEX" => timed(argument(1), argument(3), argument(2), 1000, each),
        b"PSETEX" => timed(argument(1), argument(3), argument(2), 1, each),
        b"SETNX" | b"GETSET" => {
            each(Effect::Set { key: argument(1), value: argument(2), expiry: Expiry::Never });
        }
        b"MSET" | b"MSETNX" => {
            for index in (1..command.len().saturating_sub(1)).step_by(2) {
                each(Effect::Set { key: argument(index), value: argument(index + 1), expiry: Expiry::Never });
            }
        }
        b"DEL" | b"UNLINK" | b"GETDEL" => {
            (1..command.len()).for_each(|index| each(Effect::Gone { key: argument(index) }));
        }
        b"PEXPIREAT" => match number(argument(2)) {
            // A condition that stands here was met.
            Some(at) => each(Effect::Expires { key: argument(1), at: Some(at) }),
            None => each(Effect::Touched { database: None, key: argument(1) }),
        },
        b"PERSIST" => each(Effect::Expires { key: argument(1), at: None }),
        b"MOVE" => {
            each(Effect::Touched { database: None, key: argument(1) });
            elsewhere(argument(1), argument(2), &mut each);
        }
        b"COPY" => {
            each(Effect::Touched { database: None, key: argument(2) });
            for index in 3..command.len() {
                if argument(index).eq_ignore_ascii_case(b"DB") {
                    elsewhere(argument(2), argument(index + 1), &mut each);
                }
            }
        }
        b"FLUSHDB" => each(Effect::Flushed { all: false }),
        b"FLUSHALL" => each(Effect::Flushed { all: true }),
        b"SWAPDB" => match (number(argument(1)), number(argument(2))) {
            (Some(one), Some(other)) => each(Effect::Swapped(one, other)),
            _ => each(Effect::Anything),
        },
        // Only a server older than 5.0 sends a script itself, which need not name its keys.
        b"EVAL" | b"EVALSHA" | b"FCALL" => each(Effect::Anything),
        _ => {
            (1..command.len())
                .for_each(|index| each(Effect::Touched { database: None, key: argument(index) }));
        }
    }
}

fn number<N: std::str::FromStr>(text: &[u8]) -> Option<N> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn elsewhere<'a>(key: &'a [u8], database: &[u8], each: &mut impl FnMut(Effect<'a>)) {
    match number(database) {
        Some(database) => each(Effect::Touched { database: Some(database), key }),
        None => each(Effect::Anything),
    }
}

fn timed<'a>(key: &'a [u8], value: &'a [u8], time: &[u8], unit: i64, mut each: impl FnMut(Effect<'a>)) {
    match number::<i64>(time).and_then(|time| time.checked_mul(unit)) {
        Some(milliseconds) => each(Effect::Set { key, value, expiry: Expiry::In(milliseconds) }),
        None => each(Effect::Touched { database: None, key }),
    }
}

/// `SET key value` and its options. A condition among them was met, or the command would not be here.
fn set<'a>(command: &Command, bytes: &'a [u8], mut each: impl FnMut(Effect<'a>)) {
    let argument = |index: usize| command.argument(bytes, index);
    let (key, value) = (argument(1), argument(2));
    let mut expiry = Some(Expiry::Never);
    let mut index = 3;
    while index < command.len() {
        let option = argument(index).to_ascii_uppercase();
        let time = |unit: i64| number::<i64>(argument(index + 1)).and_then(|time| time.checked_mul(unit));
        match option.as_slice() {
            b"PXAT" => expiry = time(1).map(Expiry::At),
            b"EXAT" => expiry = time(1000).map(Expiry::At),
            b"PX" => expiry = time(1).map(Expiry::In),
            b"EX" => expiry = time(1000).map(Expiry::In),
            b"KEEPTTL" => expiry = Some(Expiry::Kept),
            b"IFEQ" | b"NX" | b"XX" | b"GET" => {}
            // Whatever this is, the server knows.
            _ => expiry = None,
        }
        index += 1 + usize::from(matches!(option.as_slice(), b"PXAT" | b"EXAT" | b"PX" | b"EX" | b"IFEQ"));
    }
    match expiry {
        Some(expiry) => each(Effect::Set { key, value, expiry }),
        None => each(Effect::Touched { database: None, key }),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::redis::resp::put_command;

    /// The effects of a command that is written with spaces.
    fn of(text: &str) -> Vec<String> {
        let words: Vec<&[u8]> = text.split(' ').map(str::as_bytes).collect();
        let mut bytes = BytesMut::new();
        put_command(&mut bytes, &words);
        let mut command = Command::default();
        command.read(&bytes).unwrap().unwrap();
        let mut told = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        effects(&command, &bytes, |effect| {
            told.push(match effect {
                Effect::Set { key, value, expiry } => format!("{} = {} {expiry:?}", text(key), text(value)),
                Effect::Gone { key } => format!("- {}", text(key)),
                Effect::Expires { key, at } => format!("{} expires {at:?}", text(key)),
                Effect::Touched { database, key } => format!("? {database:?} {}", text(key)),
                other => format!("{other:?}"),
            });
        });
        told
    }

    #[test]
    fn a_command_that_carries_the_value_is_taken_at_its_word() {
        assert_eq!(of("SET k v"), ["k = v Never"]);
        assert_eq!(of("set k v pxat 17"), ["k = v At(17)"]);
        assert_eq!(of("SET k v EXAT 17"), ["k = v At(17000)"]);
        assert_eq!(of("SET k v PX 100"), ["k = v In(100)"]);
        assert_eq!(of("SET k v NX EX 100"), ["k = v In(100000)"]);
        assert_eq!(of("SET k v XX KEEPTTL"), ["k = v Kept"]);
        assert_eq!(of("SET k v IFEQ PXAT"), ["k = v Never"]);
        assert_eq!(of("SETEX k 10 v"), ["k = v In(10000)"]);
        assert_eq!(of("PSETEX k 10 v"), ["k = v In(10)"]);
        assert_eq!(of("MSET a 1 b 2"), ["a = 1 Never", "b = 2 Never"]);
        assert_eq!(of("DEL a b"), ["- a", "- b"]);
        assert_eq!(of("UNLINK a"), ["- a"]);
        assert_eq!(of("PEXPIREAT k 17"), ["k expires Some(17)"]);
        assert_eq!(of("PERSIST k"), ["k expires None"]);
    }

    #[test]
    fn every_argument_of_any_other_command_may_be_a_key() {
        assert_eq!(of("HSET k f v"), ["? None k", "? None f", "? None v"]);
        assert_eq!(of("RENAME a b"), ["? None a", "? None b"]);
        assert_eq!(of("json.mset a $ 1"), ["? None a", "? None $", "? None 1"]);
        assert_eq!(of("EXPIRE k 50"), ["? None k", "? None 50"]);
        assert_eq!(of("SET k v SOMEHOW"), ["? None k"]);
        assert_eq!(of("SET k v PX soon"), ["? None k"]);
    }

    #[test]
    fn what_crosses_databases_names_both() {
        assert_eq!(of("MOVE k 3"), ["? None k", "? Some(3) k"]);
        assert_eq!(of("COPY a b"), ["? None b"]);
        assert_eq!(of("COPY a b DB 2 REPLACE"), ["? None b", "? Some(2) b"]);
        assert_eq!(of("SWAPDB 0 1"), ["Swapped(0, 1)"]);
        assert_eq!(of("FLUSHALL ASYNC"), ["Flushed { all: true }"]);
        assert_eq!(of("FLUSHDB"), ["Flushed { all: false }"]);
        assert_eq!(of("SELECT 9"), ["Selected(9)"]);
    }

    #[test]
    fn what_is_no_write_does_nothing() {
        for command in ["PING", "PUBLISH c session:1", "REPLCONF ACK 1", "FUNCTION LOAD x"] {
            assert_eq!(of(command), [""; 0], "{command}");
        }
        assert_eq!(of("REPLCONF GETACK *"), ["Asked"]);
        assert_eq!(of("MULTI"), ["Begin"]);
        assert_eq!(of("EXEC"), ["End"]);
        assert_eq!(of("EVAL script 0"), ["Anything"]);
    }
}
