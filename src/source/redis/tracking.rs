//! Client tracking in broadcast mode: the server names every key that changes and begins with one of our prefixes.
//!
//! It needs no configuration at the server. It does not say in which database the key is, so the key is looked at in each
//! that is mapped. `FLUSHDB` and `FLUSHALL` come as a message without keys; `SWAPDB` does not come at all, and is found by
//! the next look at every key.
//!
//! Source: Redis' documentation of `CLIENT TRACKING`; what servers of versions 6.2 to 7.4 and Valkey 9 send.

use super::commands::Effect;
use super::server::Server;
use super::told::{Told, Understood, refused};
use crate::error::{Error, Result};
use crate::redis::connection::Connection;
use crate::redis::resp::Reply;

const HINT: &str = "Client tracking needs Redis 6.0 or newer, and the rights +hello and +client|tracking.";

/// Has keys named that begin with one of `prefixes`; an empty one stands for all.
pub async fn join(mut connection: Connection, prefixes: &[Vec<u8>], server: Option<&Server>) -> Result<Told> {
    if let Some(words) = speak_version_3(&mut connection).await? {
        return Err(refused(&connection, &words, HINT));
    }
    let mut command: Vec<&[u8]> = vec![b"CLIENT", b"TRACKING", b"ON", b"BCAST"];
    for prefix in prefixes.iter().filter(|prefix| !prefix.is_empty()) {
        command.extend([b"PREFIX", prefix.as_slice()]);
    }
    if let Reply::Error(words) = connection.ask(&command).await? {
        return Err(refused(&connection, &words, HINT));
    }
    let is_replica = server.is_some_and(|server| server.is_replica);
    let understood: Understood = if is_replica { of_replica } else { of_primary };
    Ok(Told { connection, question: &[b"PING"], understood })
}

/// Has the server tell things without having been asked; what it says where it cannot.
pub(super) async fn speak_version_3(connection: &mut Connection) -> Result<Option<String>> {
    let answer = match connection.ask(&[b"HELLO", b"3"]).await? {
        Reply::Error(words) => {
            let error = connection.refusal(&words);
            return if error.retries() { Err(error) } else { Ok(Some(words)) };
        }
        answer => answer.into_array().unwrap_or_default(),
    };
    // Names and values in turns.
    let proto = answer.chunks(2).find(|pair| pair[0].text() == Some("proto"));
    let is_spoken = proto.and_then(|pair| pair.get(1)).and_then(Reply::integer) == Some(3);
    Ok((!is_spoken).then(|| "another version of its protocol than 3".to_owned()))
}

fn of_primary(reply: &Reply, each: &mut dyn FnMut(Effect<'_>)) -> Result<()> {
    invalidated(reply, Effect::Flushed { all: true }, each)
}

/// A replica says the same when it takes another primary's data, which may have lost all of its own.
fn of_replica(reply: &Reply, each: &mut dyn FnMut(Effect<'_>)) -> Result<()> {
    invalidated(reply, Effect::Anything, each)
}

fn invalidated(reply: &Reply, all: Effect<'_>, each: &mut dyn FnMut(Effect<'_>)) -> Result<()> {
    let Reply::Push(message) = reply else { return Ok(()) };
    match message.as_slice() {
        [kind, keys] if kind.text() == Some("invalidate") => match keys {
            Reply::Array(keys) => {
                for key in keys.iter().filter_map(Reply::bytes) {
                    each(Effect::Touched { database: None, key });
                }
            }
            Reply::Nil => each(all),
            _ => return Err(Error::unexpected("the Redis server names invalid keys in another shape")),
        },
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::resp::take_reply;

    fn effects(bytes: &[u8], understood: Understood) -> Vec<String> {
        let mut effects = Vec::new();
        let reply = take_reply(&mut bytes.into()).unwrap().expect("it is whole");
        understood(&reply, &mut |effect| effects.push(format!("{effect:?}"))).unwrap();
        effects
    }

    #[test]
    fn a_message_names_keys_or_stands_for_all() {
        let keys = effects(b">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n", of_primary);
        assert_eq!(keys.len(), 2);
        assert!(keys[1].contains("database: None") && keys[1].contains("[98]"), "{keys:?}");
        let flushed = b">2\r\n$10\r\ninvalidate\r\n_\r\n";
        assert_eq!(effects(flushed, of_primary), ["Flushed { all: true }"]);
        assert_eq!(effects(flushed, of_replica), ["Anything"]);
        assert!(effects(b"+PONG\r\n", of_primary).is_empty());
    }
}
