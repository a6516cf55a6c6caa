//! Listening to a server that names keys that have changed, and keeps nothing for whoever is not there.
//!
//! ```text
//! tracking.rs        HELLO 3, CLIENT TRACKING ON BCAST   ->  [invalidate, [key, ..]]
//! notifications.rs   PSUBSCRIBE __keyevent@N__:*         ->  [pmessage, pattern, __keyevent@N__:event, key]
//! ```
//!
//! Nobody can tell whether something was missed. So the connection is asked for a word every few seconds, and when it is
//! lost the run begins again with a look at every key.

use std::time::Duration;

use super::commands::Effect;
use super::dirty::Moment;
use super::ear::Ear;
use super::live::Live;
use crate::error::{Error, Result};
use crate::redis::connection::Connection;
use crate::redis::resp::{Reply, take_reply};

/// What one message says of keys, told to `each`.
pub(super) type Understood = fn(&Reply, each: &mut dyn FnMut(Effect<'_>)) -> Result<()>;

/// A connection on which the server has begun to name keys.
pub struct Told {
    pub(super) connection: Connection,
    /// Its answer shows that the server is still there, and still tells.
    pub(super) question: &'static [&'static [u8]],
    pub(super) understood: Understood,
}

impl Ear for Told {
    const SPEAK_INTERVAL: Duration = Duration::from_secs(5);
    /// A server that is busy with one command for longer is taken for gone: that costs a look at every key.
    const SILENCE_MAX: Duration = Duration::from_secs(20);

    fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    async fn hear(&mut self, live: &Live) -> Result<()> {
        {
            // No place in any history: whatever is fetched afterwards is younger.
            let moment = Moment { database: None, offset: 0, now: live.now() };
            let mut heard = live.heard();
            while let Some(reply) = take_reply(self.connection.received())? {
                (self.understood)(&reply, &mut |effect| heard.dirty.add(effect, moment))?;
            }
        }
        live.tell();
        Ok(())
    }

    async fn speak(&mut self, _: &Live) -> Result<()> {
        self.connection.send(self.question);
        self.connection.flush().await
    }
}

/// Why the server does not tell anything this way: in its words, unless it may do so later.
pub(super) fn refused(connection: &Connection, words: &str, hint: &str) -> Error {
    let error = connection.refusal(words);
    if error.retries() { error } else { Error::refused(error.what()).hint(hint) }
}
