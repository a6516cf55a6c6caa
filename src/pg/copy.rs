//! Relaying `COPY … TO STDOUT` of one server into `COPY … FROM STDIN` of another, or reading its rows.
//!
//! The frames of both directions are the same (`CopyData`: `d`, length, bytes), so they are passed on as they come,
//! even in the middle of a frame; only their headers are looked at, to see the end.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::{Error, Result};
use crate::pg::session::Session;

/// Runs `out` at the source and `into` at the target and passes the rows from one to the other; `moved` is told of
/// each piece's size in bytes. Says how many rows went over; both servers' counts are compared.
///
/// After an error both sessions are in the middle of a copy and must be dropped.
pub async fn relay(
    source: &mut Session,
    out: &str,
    target: &mut Session,
    into: &str,
    mut moved: impl FnMut(u64),
) -> Result<u64> {
    begin(source, out, b'H').await?;
    begin(target, into, b'G').await?;
    // Bytes of the current frame's body that are still to come.
    let mut body_left = 0;
    loop {
        let ready = relayable(source.received(), &mut body_left);
        if ready > 0 {
            let mut piece = source.received().split_to(ready);
            target.send(&mut piece).await?;
            moved(ready as u64);
            refused_early(target)?;
        } else if body_left > 0 || source.received().first().is_none_or(|&tag| tag == b'd') {
            source.receive().await?;
        } else if ended(source).await? {
            break;
        }
    }
    let sent = source.reply().await?.ok()?.counts.last().copied().unwrap_or(0);
    finish(target, sent).await
}

/// `COPY … TO STDOUT`, row by row.
pub struct Rows<'a> {
    source: &'a mut Session,
}

impl<'a> Rows<'a> {
    pub async fn begin(source: &'a mut Session, out: &str) -> Result<Rows<'a>> {
        begin(source, out, b'H').await?;
        Ok(Rows { source })
    }

    /// The next row as the server wrote it, its line break included in text format; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let message = self.source.message().await?;
            match message.tag {
                b'd' => return Ok(Some(message.body)),
                b'c' => return Ok(None),
                b'E' => return Err(self.source.server_error(&message.body)),
                _ => {}
            }
        }
    }

    /// How many rows the server has sent, once `next` has given `None`.
    pub async fn sent(self) -> Result<u64> {
        Ok(self.source.reply().await?.ok()?.counts.last().copied().unwrap_or(0))
    }
}

/// Runs `into` at the target and sends it what `rows` gives, until that is nothing more. Says how many rows it stored.
///
/// After an error of `rows` the session is in the middle of a copy and must be dropped.
pub async fn feed(
    target: &mut Session,
    into: &str,
    mut rows: impl AsyncFnMut() -> Result<Option<Bytes>>,
) -> Result<u64> {
    begin(target, into, b'G').await?;
    while let Some(mut piece) = rows().await? {
        let length =
            u32::try_from(piece.len() + 4).map_err(|_| Error::unexpected("a piece of rows has over 4 GB"))?;
        let mut head = BytesMut::from(&b"d"[..]);
        head.put_u32(length);
        target.send(&mut head).await?;
        target.send(&mut piece).await?;
        refused_early(target)?;
    }
    target.out.put_slice(b"c\x00\x00\x00\x04");
    target.flush().await?;
    Ok(target.reply().await?.ok()?.counts.last().copied().unwrap_or(0))
}

/// Sends a COPY statement and waits until the server is in copy mode.
async fn begin(session: &mut Session, sql: &str, expected: u8) -> Result<()> {
    session.send_query(sql)?;
    session.flush().await?;
    let message = session.message().await?;
    if message.tag == expected {
        return Ok(());
    }
    let error = match message.tag {
        b'E' => session.server_error(&message.body),
        tag => Error::unexpected(format!("COPY was answered with message type {:?}", char::from(tag))),
    };
    // Up to the end of this query, so that the session can be used again.
    session.reply().await?;
    Err(error)
}

/// How many of the received bytes belong to `CopyData` frames and can be passed on.
fn relayable(received: &[u8], body_left: &mut usize) -> usize {
    let mut at = 0;
    loop {
        let body = (*body_left).min(received.len() - at);
        at += body;
        *body_left -= body;
        match received.get(at..at + 5) {
            Some([b'd', length @ ..]) if *body_left == 0 => {
                let mut length = length;
                *body_left = (length.get_u32() as usize).saturating_sub(4);
                at += 5;
            }
            _ => return at,
        }
    }
}

/// Takes a message that is not a frame; whether it is the end of the rows.
async fn ended(source: &mut Session) -> Result<bool> {
    match source.buffered_message()? {
        Some(message) if message.tag == b'c' => Ok(true),
        Some(message) if message.tag == b'E' => Err(source.server_error(&message.body)),
        Some(_) => Ok(false),
        None => source.receive().await.map(|()| false),
    }
}

/// A target that refuses a row says so at once and then ignores the rest: no need to send it.
fn refused_early(target: &mut Session) -> Result<()> {
    match target.received().first() {
        Some(b'E') => match target.buffered_message()? {
            Some(message) => Err(target.server_error(&message.body)),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

async fn finish(target: &mut Session, sent: u64) -> Result<u64> {
    target.out.put_slice(b"c\x00\x00\x00\x04");
    target.flush().await?;
    let stored = target.reply().await?.ok()?.counts.last().copied().unwrap_or(0);
    if stored == sent {
        return Ok(stored);
    }
    Err(Error::unexpected(format!("the source sent {sent} rows and the target stored {stored}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_passed_on_in_any_pieces() {
        let stream = b"d\x00\x00\x00\x07abcd\x00\x00\x00\x04d\x00\x00\x00\x06xyc\x00\x00\x00\x04C";
        for cut in 0..stream.len() {
            let mut body_left = 0;
            let mut buffer = stream[..cut].to_vec();
            let mut passed = Vec::new();
            let ready = relayable(&buffer, &mut body_left);
            passed.extend(buffer.drain(..ready));
            buffer.extend(&stream[cut..]);
            let ready = relayable(&buffer, &mut body_left);
            passed.extend(buffer.drain(..ready));
            assert_eq!(passed, &stream[..20], "cut at {cut}");
            assert_eq!(body_left, 0);
            assert_eq!(buffer, &stream[20..]);
        }
    }
}
