//! Objects that only their recipients can read: encrypted as [age](https://age-encryption.org/v1) does, after they were
//! compressed, so that `age -d -i KEY 0000000001.json.zst.age | zstd -d` prints one.
//!
//! A writer knows recipients alone, which are public: it cannot read what it has written. A file key is made for each
//! object, and its content is sealed in pieces of 64 KiB that can neither change nor be cut off nor trade places.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use age::stream::{StreamReader, StreamWriter};
use age::x25519;
use age::{DecryptError, Decryptor, Encryptor};

use crate::archive::names::Stored;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;

/// A header has some hundred bytes for each recipient.
const RECIPIENTS_MAX: usize = 256;
/// No header is longer. Until it is checked it is held in memory, whoever wrote it.
const HEADER_BYTES_MAX: u64 = 128 * 1024;

/// To whom a writer's objects are encrypted.
#[derive(Clone)]
pub struct Recipients(Vec<x25519::Recipient>);

impl Recipients {
    /// From `age1...` each.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Recipients> {
        let parse = |text: &str| {
            text.parse().map_err(|why: &str| {
                Error::config(format!("{text:?} is no recipient: {why}"))
                    .hint("a recipient begins with age1; `age-keygen -y IDENTITY` prints it")
            })
        };
        let recipients = texts.into_iter().map(parse).collect::<Result<Vec<x25519::Recipient>>>()?;
        match recipients.len() {
            0 => Err(Error::config("there is no recipient to encrypt to").hint("`age-keygen` makes a key")),
            1..=RECIPIENTS_MAX => Ok(Recipients(recipients)),
            many => Err(Error::config(format!("{many} recipients are too many"))
                .hint(format!("name up to {RECIPIENTS_MAX}; several readers may share an identity"))),
        }
    }

    /// What is written comes out at `to`, encrypted.
    pub fn encrypt<W: Write>(&self, to: W) -> io::Result<StreamWriter<W>> {
        let recipients = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        Encryptor::with_recipients(recipients).map_err(io::Error::other)?.wrap_output(to)
    }
}

/// Public, and of no use in a log.
impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("one recipient"),
            count => write!(f, "{count} recipients"),
        }
    }
}

/// Private keys: any of them opens what it is meant for.
#[derive(Clone)]
pub struct Identities(Arc<Vec<x25519::Identity>>);

impl Identities {
    /// Reads a file as `age-keygen` makes it: an `AGE-SECRET-KEY-1...` a line, and comments.
    pub fn load(path: &Path) -> Result<Identities> {
        let text = Secret::of_file("identity", path)?;
        Identities::parse(&text).map_err(|what| {
            Error::config(format!("identity {}: {what}", path.display())).hint(
                "pgdiode takes files as `age-keygen` writes them; one with a passphrase must be decrypted before: age -d",
            )
        })
    }

    /// The line that is none is told by its number: it may be most of a key.
    pub fn parse(text: &Secret) -> Result<Identities, String> {
        let lines = text.reveal().lines().enumerate();
        let keys = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let parse = |(at, line): (usize, &str)| {
            line.trim().parse().map_err(|_| format!("line {} is no private key of age", at + 1))
        };
        let keys = keys.map(parse).collect::<Result<Vec<x25519::Identity>, String>>()?;
        if keys.is_empty() { Err("it holds no key".to_owned()) } else { Ok(Identities(Arc::new(keys))) }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An object's bytes, decrypted where it is encrypted. What has come out is what was written; that nothing is missing
/// shows at the end.
pub enum Opened<R: Read> {
    Plain(R),
    Encrypted(Box<StreamReader<BufReader<Bounded<R>>>>),
}

/// Opens an object. [`Kind::Refused`] when it cannot be opened with what is given here, [`Kind::Difference`] when with
/// nothing.
pub fn open<R: Read>(
    name: &str,
    stored: Stored,
    identities: Option<&Identities>,
    from: R,
) -> Result<Opened<R>> {
    if !stored.is_encrypted() {
        return Ok(Opened::Plain(from));
    }
    let Some(Identities(keys)) = identities else {
        return Err(Error::refused(format!("{name} is encrypted, and there is no identity to open it with"))
            .hint("name the file of a recipient's key: archive.identity = \"FILE\", or --identity FILE"));
    };
    let left = Arc::new(AtomicU64::new(HEADER_BYTES_MAX));
    let from = BufReader::with_capacity(64 * 1024, Bounded { from, left: Arc::clone(&left) });
    let keys = keys.iter().map(|key| key as &dyn age::Identity);
    let opened = Decryptor::new_buffered(from).and_then(|header| header.decrypt(keys));
    left.store(u64::MAX, Ordering::Relaxed);
    opened.map(|content| Opened::Encrypted(Box::new(content))).map_err(|error| match error {
        DecryptError::NoMatchingKeys => {
            Error::refused(format!("{name} is not encrypted to any key of the identity that is given"))
                .hint("`age-keygen -y FILE` prints a key's recipient: what was written before it was named stays closed to it")
        }
        error => Error::new(Kind::Difference, format!("{name} cannot be decrypted"))
            .because(error)
            .hint("The object is not what its writer left: put back what was there, from a copy or a backup."),
    })
}

impl<R: Read> Read for Opened<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Opened::Plain(from) => from.read(into),
            Opened::Encrypted(from) => from.read(into),
        }
    }
}

/// Ends early, where a header does not.
pub struct Bounded<R> {
    from: R,
    left: Arc<AtomicU64>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        let length = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.from.read(&mut into[..length])?;
        if left < u64::MAX {
            self.left.store(left - read as u64, Ordering::Relaxed);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> (Identities, Recipients) {
        let identity = x25519::Identity::generate();
        let recipients = Recipients(vec![identity.to_public()]);
        (Identities(Arc::new(vec![identity])), recipients)
    }

    fn encrypted(recipients: &Recipients, content: &[u8]) -> Vec<u8> {
        let mut out = recipients.encrypt(Vec::new()).unwrap();
        out.write_all(content).unwrap();
        out.finish().unwrap()
    }

    fn read(bytes: &[u8], identities: &Identities) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        open("a.json.age", Stored::Age, Some(identities), bytes)?
            .read_to_end(&mut content)
            .map_err(|error| Error::new(Kind::Difference, "it cannot be read").because(error))?;
        Ok(content)
    }

    #[test]
    fn whoever_has_a_recipients_key_reads_it_and_nobody_else() {
        let ((ours, recipient), (theirs, _)) = (key(), key());
        for length in [0, 1, 64 * 1024, 64 * 1024 + 1, 200_000] {
            let content: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[1]).collect();
            let bytes = encrypted(&recipient, &content);
            assert_eq!(read(&bytes, &ours).unwrap(), content);
            assert_eq!(read(&bytes, &theirs).unwrap_err().kind(), Kind::Refused);
        }
        let closed = open("a.json.age", Stored::Age, None, &b""[..]).err().unwrap();
        assert!(closed.kind() == Kind::Refused && closed.hint_text().unwrap().contains("archive.identity"));
    }

    #[test]
    fn no_bit_may_be_another_and_no_byte_be_missing() {
        let (ours, recipient) = key();
        let bytes = encrypted(&recipient, b"some lines\n");
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(read(&flipped, &ours).is_err(), "byte {at}");
            assert!(read(&bytes[..at], &ours).is_err(), "cut at {at}");
        }
        assert!(read(&[&bytes[..], b"x"].concat(), &ours).is_err());
    }

    #[test]
    fn a_header_without_an_end_is_not_held_in_memory() {
        let (ours, _) = key();
        let (start, endless) = (&b"age-encryption.org/v1\n-> "[..], io::repeat(b'x'));
        let error = open("a.json.age", Stored::Age, Some(&ours), start.chain(endless)).err().unwrap();
        assert_eq!(error.kind(), Kind::Difference);
    }

    #[test]
    fn a_line_that_is_no_key_is_named_by_its_number_alone() {
        let error = Identities::parse(&Secret::new("# a comment\nAGE-SECRET-KEY-1SECRET\n")).unwrap_err();
        assert_eq!(error, "line 2 is no private key of age");
        let error = Recipients::parse(["age1nonsense"]).unwrap_err();
        assert!(error.what().contains("age1nonsense"), "{error:?}");
        assert!(Recipients::parse([]).is_err());
    }
}
