//! Keyspace notifications: the server publishes the name of each key that an event happened to, by database.
//!
//! They are off unless `notify-keyspace-events` names their classes. Any class of writes may turn a key of ours into one
//! of another type, so all are needed. `FLUSHDB`, `FLUSHALL` and `SWAPDB` are no events, nor is what `PFCOUNT` remembers in
//! its key: the next look at every key finds them.
//!
//! Source: Redis' documentation of keyspace notifications; what servers of versions 6.2 to 7.4 and Valkey 9 publish.

use super::commands::Effect;
use super::told::{Told, refused};
use super::tracking::speak_version_3;
use crate::error::{Error, Kind, Result};
use crate::redis::connection::Connection;
use crate::redis::resp::Reply;

const SETTING: &str = "notify-keyspace-events";
const ASK_SETTING: &[&[u8]] = &[b"CONFIG", b"GET", SETTING.as_bytes()];
/// Events by their names (`E`), not by keys: of writes of any type, expiries and evictions.
const CLASSES: &str = "Eg$lshzxet";
/// `A` stands for all of these.
const CLASSES_OF_A: &str = "g$lshzxetd";
/// Events of modules.
const MODULES: char = 'd';

const CHANNEL: &str = "__keyevent@";
const HINT: &str = "Keyspace notifications need the right +psubscribe, and the channels &__keyevent@N__:* of each mapped database N.";

/// What is to be heard of, and what may be done for that.
pub struct Wish<'a> {
    pub databases: &'a [u32],
    /// Documents of a module are mapped too.
    pub has_documents: bool,
    /// Missing classes of events may be added to the server's.
    pub may_set: bool,
    /// A server that does not say which events it tells of is believed to tell all.
    pub is_trusting: bool,
}

/// Subscribes to events of the databases.
pub async fn join(mut connection: Connection, wish: &Wish<'_>) -> Result<Told> {
    let is_readable = check(&mut connection, wish).await?;
    let is_conversation = speak_version_3(&mut connection).await?.is_none();
    let own: Vec<String> = wish.databases.iter().map(|database| format!("{CHANNEL}{database}__:*")).collect();
    // Who may subscribe to all databases only is given that: a right is for the pattern as it is written.
    let all = vec![format!("{CHANNEL}*__:*")];
    if let Some(words) = subscribe(&mut connection, &own).await?
        && subscribe(&mut connection, &all).await?.is_some()
    {
        return Err(refused(&connection, &words, HINT));
    }
    // In version 2 a subscriber may ask for nothing else.
    let asks_setting = is_readable && is_conversation;
    let question: &'static [&'static [u8]] = if asks_setting { ASK_SETTING } else { &[b"PING"] };
    let understood = if wish.has_documents { with_documents } else { without_documents };
    Ok(Told { connection, question, understood })
}

/// Whether the server says which events it tells of, and tells all that are needed.
async fn check(connection: &mut Connection, wish: &Wish<'_>) -> Result<bool> {
    let answer = connection.ask(ASK_SETTING).await?;
    let refusal = if let Reply::Error(words) = &answer { words.as_str() } else { "nothing of that name" };
    let Some(set) = setting(&answer) else {
        let error = refused(
            connection,
            refusal,
            "Whether keyspace notifications are on needs the right +config|get. Where they are known to be on with the classes \
             KEA, redis.live = \"notifications\" takes them as they are.",
        );
        if error.retries() || !wish.is_trusting {
            return Err(error.context(format!("CONFIG GET {SETTING}")));
        }
        tracing::warn!(error = error.chain(), "whether the server tells of all events cannot be seen");
        return Ok(false);
    };
    let missing = missing(set, wish.has_documents);
    if missing.is_empty() {
        return Ok(true);
    }
    if !wish.may_set {
        return Err(Error::refused(format!(
            "the Redis server at {} does not tell of all events: {SETTING} is \"{set}\", and \"{missing}\" is missing",
            connection.place()
        ))
        .hint(format!(
            "CONFIG SET {SETTING} {set}{missing} at the server, or let pgdiode do that with redis.notifications_set = true."
        )));
    }
    let whole = format!("{set}{missing}");
    tracing::info!(before = set, after = whole, "adding classes of events to {SETTING}");
    match connection.ask(&[b"CONFIG", b"SET", SETTING.as_bytes(), whole.as_bytes()]).await? {
        Reply::Error(words) => Err(refused(
            connection,
            &words,
            "To set notify-keyspace-events needs the right +config|set; many a service has it among its own settings.",
        )),
        _ => Ok(true),
    }
}

/// What the answer says that it is set to.
fn setting(answer: &Reply) -> Option<&str> {
    match answer {
        Reply::Array(pair) => match pair.as_slice() {
            [name, value] if name.text() == Some(SETTING) => value.text(),
            _ => None,
        },
        _ => None,
    }
}

/// The classes that must be added.
fn missing(set: &str, has_documents: bool) -> String {
    let is_set = |class: &char| set.contains(*class) || (set.contains('A') && CLASSES_OF_A.contains(*class));
    let needed = CLASSES.chars().chain(has_documents.then_some(MODULES));
    needed.filter(|class| !is_set(class)).collect()
}

/// What the server says where it refuses.
async fn subscribe(connection: &mut Connection, patterns: &[String]) -> Result<Option<String>> {
    let mut command: Vec<&[u8]> = vec![b"PSUBSCRIBE"];
    command.extend(patterns.iter().map(String::as_bytes));
    if let Reply::Error(words) = connection.ask(&command).await? {
        return Ok(Some(words));
    }
    // Each pattern is confirmed.
    for _ in 1..patterns.len() {
        connection.reply().await?;
    }
    Ok(None)
}

fn with_documents(reply: &Reply, each: &mut dyn FnMut(Effect<'_>)) -> Result<()> {
    happened(reply, true, each)
}

fn without_documents(reply: &Reply, each: &mut dyn FnMut(Effect<'_>)) -> Result<()> {
    happened(reply, false, each)
}

fn happened(reply: &Reply, has_documents: bool, each: &mut dyn FnMut(Effect<'_>)) -> Result<()> {
    if let Some(set) = setting(reply) {
        let missing = missing(set, has_documents);
        if !missing.is_empty() {
            // Whoever begins again says what is to be done about it.
            return Err(Error::new(
                Kind::SourceUnreachable,
                format!(
                    "somebody has set {SETTING} to \"{set}\": the Redis server no longer tells of all events"
                ),
            ));
        }
    }
    let (Reply::Push(message) | Reply::Array(message)) = reply else { return Ok(()) };
    if let [kind, _, channel, key] = message.as_slice()
        && kind.text() == Some("pmessage")
        && let (Some(database), Some(key)) = (channel.text().and_then(database_of), key.bytes())
    {
        each(Effect::Touched { database: Some(database), key });
    }
    Ok(())
}

fn database_of(channel: &str) -> Option<u32> {
    channel.strip_prefix(CHANNEL)?.split_once("__:")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::resp::take_reply;

    #[test]
    fn only_what_is_missing_is_added() {
        assert_eq!(missing("", false), CLASSES);
        assert_eq!(missing("AKE", true), "");
        assert_eq!(missing("A", true), "E");
        assert_eq!(missing("xK", false), "Eg$lshzet");
        assert_eq!(missing("Eg$lshzxet", true), "d");
        assert_eq!(missing("g$lshzxetE", false), "");
    }

    #[test]
    fn an_event_names_a_key_of_its_database_in_both_versions_of_the_protocol() {
        let message = |kind: &str| {
            format!("{kind}4\r\n$8\r\npmessage\r\n$1\r\np\r\n$19\r\n__keyevent@12__:set\r\n$2\r\n\x01\n\r\n")
        };
        for kind in ["*", ">"] {
            let mut told = Vec::new();
            let reply = take_reply(&mut message(kind).as_bytes().into()).unwrap().unwrap();
            without_documents(&reply, &mut |effect| told.push(format!("{effect:?}"))).unwrap();
            assert_eq!(told, ["Touched { database: Some(12), key: [1, 10] }"]);
        }
    }

    #[test]
    fn a_setting_that_was_taken_away_ends_it() {
        let answer = |set: &str| {
            let pair = [SETTING, set].map(|text| Reply::Bulk(text.to_owned().into()));
            without_documents(&Reply::Array(pair.into()), &mut |_| unreachable!("no key is named"))
        };
        assert!(answer("AE").is_ok());
        assert!(answer("Ex").is_err_and(|error| error.retries()));
    }
}
