//! Whether a server would let us listen as a replica, found out without becoming one.
//!
//! A server looks at a user's rights before anything else, and begins no history for who still has an answer to come
//! (`SYNC and PSYNC are invalid with pending output`), nor behind an offset that is no number. So what it refuses says
//! which: `NOPERM`, or one of these. Servers before 7.0 take such an offset, but queue the command inside of `MULTI`,
//! where it is discarded.
//!
//! Source: what servers of versions 6.2 to 7.4 and Valkey 9 answer; that none of them makes a snapshot is tested.

use super::server::Server;
use crate::error::Result;
use crate::redis::connection::Connection;
use crate::redis::resp::Reply;

/// The server's words where it would not. The connection is of no further use.
pub async fn refuses_replica(
    mut connection: Connection,
    psync: &str,
    server: &Server,
) -> Result<Option<String>> {
    if let Reply::Error(words) = connection.ask(&[b"REPLCONF", b"capa", b"psync2"]).await? {
        return Ok(Some(words));
    }
    let is_old = server.version < (7, 0);
    let before: &[u8] = if is_old { b"MULTI" } else { b"PING" };
    connection.send(&[before]);
    connection.send(&[psync.as_bytes(), b"?", b"none"]);
    if is_old {
        connection.send(&[b"DISCARD"]);
    }
    connection.flush().await?;
    connection.reply().await?;
    Ok(match connection.reply().await? {
        Reply::Error(words) if words.starts_with("NOPERM") || words.contains("unknown command") => {
            Some(words)
        }
        Reply::Error(words) if words.starts_with("NOMASTERLINK") => Some(words),
        _ => None,
    })
}
