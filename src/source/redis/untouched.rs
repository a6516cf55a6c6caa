//! Tells whether anybody wrote to some keys meanwhile; also when what they hold is again what it was.
//!
//! Source: Redis' documentation of `WATCH`: `EXEC` answers nothing if a watched key was touched.

use super::fetch::Fetcher;
use super::server::Server;
use crate::error::{Error, Result};
use crate::keyspace::Key;
use crate::redis::connection::Connection;
use crate::redis::resp::Reply;

/// Watches keys over a connection of its own.
pub struct Watcher(Fetcher);

impl Watcher {
    pub fn new(connection: Connection) -> Watcher {
        Watcher(Fetcher::new(connection, None))
    }

    /// From now on these keys are watched; where in the server's history that is. What had expired is gone by then.
    pub async fn watch(&mut self, keys: &[Key]) -> Result<u64> {
        for key in keys {
            let connection = self.0.connection();
            connection.send(&[b"SELECT", key.database.to_string().as_bytes()]);
            connection.send(&[b"WATCH", &key.name]);
        }
        self.0.connection().flush().await?;
        let mut refused = None;
        for _ in 0..keys.len() * 2 {
            if let Reply::Error(words) = self.0.connection().reply().await? {
                refused.get_or_insert(words);
            }
        }
        if let Some(words) = refused {
            return Err(self.0.connection().refusal(&words).context("WATCH"));
        }
        self.0.exist(keys).await?;
        let answer = self.0.connection().call(&[b"INFO", b"replication"]).await?;
        let info = answer.text().ok_or_else(|| Error::unexpected("INFO was answered with no text"))?;
        Ok(Server::offset_of(info))
    }

    /// Whether nobody has written to what is watched; it is watched no longer.
    pub async fn are_untouched(&mut self) -> Result<bool> {
        let connection = self.0.connection();
        connection.call(&[b"MULTI"]).await?;
        connection.call(&[b"PING"]).await?;
        Ok(connection.call(&[b"EXEC"]).await? != Reply::Nil)
    }
}
