//! RESP, the protocol of Redis, both versions: what a server answers, and what a client or a primary sends. No I/O.
//!
//! ```text
//! +OK  -ERR why  :42  $3 abc  *2 ...           version 2
//! _  #t  ,1.5  (123  =7 txt:abc  %1 ...  ~1 ...  >2 ...     version 3 too
//! ```
//!
//! Bulk strings of an answer share the memory that was received. Source: the Redis serialization protocol specification.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{Error, Result};

/// Redis' own limit for a bulk string (`proto-max-bulk-len`) is 512 MB by default and can be raised.
const BULK_BYTES_MAX: usize = 4 << 30;
/// More items than any answer has; a length of this size is a stranger's.
const ITEMS_MAX: usize = 1 << 30;
/// Deeper than any command answers.
const DEPTH_MAX: usize = 32;
/// The longest line that announces something.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// What a server answers, or tells of its own accord.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status, a number with a fraction, a large number: whatever is one line.
    Line(Bytes),
    /// The server refuses: its words.
    Error(String),
    Integer(i64),
    Bulk(Bytes),
    Nil,
    /// A list, a set, or a map as keys and values in turns.
    Array(Vec<Reply>),
    /// Told without having been asked.
    Push(Vec<Reply>),
}

impl Reply {
    /// The bytes of a text, however it came.
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Reply::Line(bytes) | Reply::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        self.bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    pub fn integer(&self) -> Option<i64> {
        match self {
            Reply::Integer(number) => Some(*number),
            other => other.text()?.parse().ok(),
        }
    }

    pub fn into_array(self) -> Option<Vec<Reply>> {
        match self {
            Reply::Array(items) => Some(items),
            _ => None,
        }
    }
}

/// Takes the next whole answer out of what was received; `None` until it is all here.
pub fn take_reply(buffer: &mut BytesMut) -> Result<Option<Reply>> {
    let mut end = 0;
    if !measure(buffer, &mut end, 0)? {
        return Ok(None);
    }
    let bytes = buffer.split_to(end).freeze();
    let mut at = 0;
    Ok(Some(read(&bytes, &mut at)))
}

/// Appends a command.
pub fn put_command(out: &mut BytesMut, arguments: &[&[u8]]) {
    put_length(out, b'*', arguments.len());
    for argument in arguments {
        put_length(out, b'$', argument.len());
        out.put_slice(argument);
        out.put_slice(b"\r\n");
    }
}

fn put_length(out: &mut BytesMut, kind: u8, length: usize) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    let mut rest = length;
    loop {
        first -= 1;
        digits[first] = b"0123456789"[rest % 10];
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.put_u8(kind);
    out.put_slice(&digits[first..]);
    out.put_slice(b"\r\n");
}

/// A command of a primary, as its arguments' places in what was received.
#[derive(Debug, Default)]
pub struct Command {
    places: Vec<(usize, usize)>,
}

impl Command {
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Argument `index`; the command's name is argument 0. Beyond the last it is empty.
    pub fn argument<'a>(&self, bytes: &'a [u8], index: usize) -> &'a [u8] {
        self.places.get(index).map_or(&[], |&(start, end)| &bytes[start..end])
    }

    /// Reads the command that begins at `bytes[0]`, and says how many bytes it takes; `None` until it is all here.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        self.places.clear();
        let Some((count, mut at)) = announced(bytes, 0, b'*', ITEMS_MAX)? else { return Ok(None) };
        for _ in 0..count {
            let Some((length, start)) = announced(bytes, at, b'$', BULK_BYTES_MAX)? else { return Ok(None) };
            let end = start + length;
            if bytes.len() < end + 2 {
                return Ok(None);
            }
            self.places.push((start, end));
            at = end + 2;
        }
        Ok(Some(at))
    }
}

/// A length behind `kind` at `at`, and where what it speaks of begins.
fn announced(bytes: &[u8], at: usize, kind: u8, most: usize) -> Result<Option<(usize, usize)>> {
    let Some(&first) = bytes.get(at) else { return Ok(None) };
    if first != kind {
        return Err(out_of_step(first));
    }
    let mut length = 0_usize;
    for (index, &byte) in bytes.iter().enumerate().skip(at + 1) {
        match byte {
            b'0'..=b'9' if length <= most => length = length * 10 + usize::from(byte - b'0'),
            b'\r' if length <= most && index > at + 1 => {
                return Ok((bytes.len() > index + 1).then_some((length, index + 2)));
            }
            _ => return Err(out_of_step(byte)),
        }
    }
    Ok(None)
}

fn out_of_step(byte: u8) -> Error {
    Error::unexpected(format!("the Redis server sent the byte {byte:#04x} where its protocol has none"))
        .hint("Is this a Redis server's port? A proxy in between may speak another protocol.")
}

/// The line at `at`, without its end, and where the next begins.
fn line(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>> {
    let rest = &bytes[at.min(bytes.len())..];
    match rest.iter().position(|&byte| byte == b'\r') {
        Some(length) if rest.len() > length + 1 => Ok(Some((&rest[..length], at + length + 2))),
        None if rest.len() > LINE_BYTES_MAX => Err(out_of_step(rest[0])),
        _ => Ok(None),
    }
}

/// The number of a line's text; -1 is the old way to say nil.
fn number(text: &[u8]) -> Result<i64> {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| out_of_step(text.first().copied().unwrap_or(b'\r')))
}

/// How many answers follow the line of a list.
fn items(kind: u8, text: &[u8]) -> Result<usize> {
    let count = usize::try_from(number(text)?.max(0)).unwrap_or(usize::MAX);
    if count > ITEMS_MAX {
        return Err(out_of_step(kind));
    }
    Ok(if matches!(kind, b'%' | b'|') { count * 2 } else { count })
}

/// Moves `at` behind the answer that begins there; false while it is not all here.
fn measure(bytes: &[u8], at: &mut usize, depth: usize) -> Result<bool> {
    let Some(&kind) = bytes.get(*at) else { return Ok(false) };
    let Some((text, next)) = line(bytes, *at + 1)? else { return Ok(false) };
    match kind {
        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
        b'$' | b'=' | b'!' => {
            let length = number(text)?;
            if length >= 0 {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if length > BULK_BYTES_MAX {
                    return Err(out_of_step(kind));
                }
                *at = next + length + 2;
                return Ok(bytes.len() >= *at);
            }
        }
        b'*' | b'%' | b'~' | b'>' | b'|' if depth < DEPTH_MAX => {
            *at = next;
            // An attribute stands before the answer that it is about.
            let answers = items(kind, text)? + usize::from(kind == b'|');
            for _ in 0..answers {
                if !measure(bytes, at, depth + 1)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        other => return Err(out_of_step(other)),
    }
    *at = next;
    Ok(true)
}

/// Reads the answer at `at`, which [`measure`] has found to be whole and well-formed.
fn read(bytes: &Bytes, at: &mut usize) -> Reply {
    let kind = bytes[*at];
    let Ok(Some((text, next))) = line(bytes, *at + 1) else { return Reply::Nil };
    let start = *at + 1;
    *at = next;
    match kind {
        b'-' => Reply::Error(String::from_utf8_lossy(text).into_owned()),
        b':' => Reply::Integer(number(text).unwrap_or_default()),
        b'#' => Reply::Integer(i64::from(text == b"t")),
        b'$' | b'=' | b'!' => {
            let Ok(length) = usize::try_from(number(text).unwrap_or(-1)) else { return Reply::Nil };
            *at = next + length + 2;
            match kind {
                b'!' => Reply::Error(String::from_utf8_lossy(&bytes[next..next + length]).into_owned()),
                // `txt:` or `mkd:` stands before the text.
                b'=' => Reply::Bulk(bytes.slice(next + length.min(4)..next + length)),
                _ => Reply::Bulk(bytes.slice(next..next + length)),
            }
        }
        b'*' | b'~' | b'%' | b'>' => {
            if text.first() == Some(&b'-') {
                return Reply::Nil;
            }
            let list = (0..items(kind, text).unwrap_or_default()).map(|_| read(bytes, at)).collect();
            if kind == b'>' { Reply::Push(list) } else { Reply::Array(list) }
        }
        b'|' => {
            for _ in 0..items(kind, text).unwrap_or_default() {
                read(bytes, at);
            }
            read(bytes, at)
        }
        b'_' => Reply::Nil,
        _ => Reply::Line(bytes.slice(start..start + text.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &[u8]) -> Reply {
        let mut buffer = BytesMut::from(text);
        let reply = take_reply(&mut buffer).unwrap().expect("it is whole");
        assert!(buffer.is_empty(), "{buffer:?}");
        // Every shorter text is the beginning of an answer and no answer.
        for end in 0..text.len() {
            let mut part = BytesMut::from(&text[..end]);
            assert_eq!(take_reply(&mut part).unwrap(), None, "{end} bytes");
            assert_eq!(part.len(), end);
        }
        reply
    }

    fn bulk(text: &'static str) -> Reply {
        Reply::Bulk(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn every_kind_of_answer_is_read() {
        assert_eq!(whole(b"+OK\r\n").text(), Some("OK"));
        assert_eq!(whole(b"-ERR no\r\n"), Reply::Error("ERR no".into()));
        assert_eq!(whole(b"!6\r\nERR no\r\n"), Reply::Error("ERR no".into()));
        assert_eq!(whole(b":-42\r\n").integer(), Some(-42));
        assert_eq!(whole(b"#t\r\n").integer(), Some(1));
        assert_eq!(whole(b",1.5\r\n").text(), Some("1.5"));
        assert_eq!(whole(b"(123456789012345678901\r\n").text(), Some("123456789012345678901"));
        assert_eq!(whole(b"$4\r\na\r\nb\r\n"), bulk("a\r\nb"));
        assert_eq!(whole(b"$0\r\n\r\n"), bulk(""));
        assert_eq!(whole(b"=7\r\ntxt:abc\r\n"), bulk("abc"));
        for nil in [&b"$-1\r\n"[..], b"*-1\r\n", b"_\r\n"] {
            assert_eq!(whole(nil), Reply::Nil);
        }
        let list = Reply::Array(vec![bulk("a"), Reply::Integer(1)]);
        assert_eq!(whole(b"*2\r\n$1\r\na\r\n:1\r\n"), list);
        assert_eq!(whole(b"%1\r\n$1\r\na\r\n:1\r\n"), list);
        assert_eq!(whole(b"~2\r\n$1\r\na\r\n:1\r\n"), list);
        assert_eq!(whole(b">1\r\n_\r\n"), Reply::Push(vec![Reply::Nil]));
        assert_eq!(whole(b"|1\r\n+k\r\n+v\r\n*0\r\n"), Reply::Array(vec![]));
    }

    #[test]
    fn what_is_no_protocol_is_refused() {
        for text in [&b"HTTP/1.1 400\r\n"[..], b"$x\r\n", b"*99999999999\r\n", b"$99999999999\r\n"] {
            assert!(take_reply(&mut BytesMut::from(text)).is_err(), "{text:?}");
        }
        let deep = "*1\r\n".repeat(100);
        assert!(take_reply(&mut BytesMut::from(deep.as_str())).is_err());
        assert!(Command::default().read(b"*1\r\n+OK\r\n").is_err());
        assert!(Command::default().read(b"*\r\n").is_err());
        assert!(Command::default().read(b"*1\r\n$99999999999999999999999\r\n").is_err());
    }

    proptest! {
        #[test]
        fn a_command_is_read_as_it_was_written(arguments in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..40), 0..6)) {
            let mut out = BytesMut::new();
            let borrowed: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
            put_command(&mut out, &borrowed);
            let mut command = Command::default();
            for end in 0..out.len() {
                prop_assert_eq!(command.read(&out[..end]).unwrap(), None);
            }
            prop_assert_eq!(command.read(&out).unwrap(), Some(out.len()));
            let read: Vec<&[u8]> = (0..command.len()).map(|index| command.argument(&out, index)).collect();
            prop_assert_eq!(read, borrowed);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = take_reply(&mut BytesMut::from(bytes.as_slice()));
            let _ = Command::default().read(&bytes);
        }
    }
}
