//! Whether what was fetched is what was written: by its hashes, as it is stored and as it is meant.

use std::fs::File;
use std::io::{self, Read, Seek};

use crate::archive::encryption::{self, Identities};
use crate::archive::manifest::{Manifest, Piece};
use crate::archive::names::Stored;
use crate::archive::reading::Content;
use crate::digest::Sha256;
use crate::error::{Error, Kind, Result};

/// What an object's bytes must be.
pub(super) struct Expected<'a> {
    /// `None` where that of the stored bytes says it all.
    content_sha256: Option<&'a str>,
    content_bytes: u64,
    stored_sha256: &'a str,
    stored_bytes: u64,
}

impl<'a> From<&'a Manifest> for Expected<'a> {
    fn from(manifest: &'a Manifest) -> Expected<'a> {
        Expected {
            content_sha256: Some(&manifest.content_sha256),
            content_bytes: manifest.content_bytes,
            stored_sha256: &manifest.stored_sha256,
            stored_bytes: manifest.stored_bytes,
        }
    }
}

impl<'a> From<&'a Piece> for Expected<'a> {
    fn from(piece: &'a Piece) -> Expected<'a> {
        Expected {
            content_sha256: piece.content_sha256.as_deref(),
            content_bytes: piece.content_bytes,
            stored_sha256: &piece.stored_sha256,
            stored_bytes: piece.stored_bytes,
        }
    }
}

/// Proves an object whole, and gives it back at its beginning.
pub(super) fn check(
    name: &str,
    expected: &Expected<'_>,
    identities: Option<&Identities>,
    mut file: File,
) -> Result<File> {
    let local =
        |error: io::Error| Error::unexpected(format!("the fetched {name} cannot be read")).because(error);
    let (sha256, bytes) = hash(&mut file, expected.stored_bytes).map_err(local)?;
    if (sha256.as_str(), bytes) != (expected.stored_sha256, expected.stored_bytes) {
        return Err(broken(format!(
            "{name} has other content than its manifest says: its SHA-256 is {sha256}"
        )));
    }
    file.rewind().map_err(local)?;
    let stored = Stored::of(name);
    let (sha256, bytes) = if stored == Stored::Plain {
        (sha256, bytes)
    } else {
        let content = encryption::open(name, stored, identities, &mut file)?;
        // What cannot be opened was so when its hash was taken.
        Content::new(stored, content)
            .and_then(|content| hash(content, expected.content_bytes))
            .map_err(|error| broken(format!("{name} cannot be opened")).because(error))?
    };
    if expected.content_sha256.is_some_and(|expected| expected != sha256) || bytes != expected.content_bytes {
        return Err(broken(format!("{name} has other content than its manifest says, once it is opened")));
    }
    file.rewind().map_err(local)?;
    Ok(file)
}

/// The hash and the size of what comes, or of one byte more than is expected.
fn hash(from: impl Read, bytes_max: u64) -> io::Result<(String, u64)> {
    let mut from = from.take(bytes_max.saturating_add(1));
    let (mut hash, mut bytes) = (Sha256::default(), 0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((hash.finish(), bytes)),
            Ok(read) => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The archive is not what it should be.
pub(super) fn broken(what: String) -> Error {
    Error::new(Kind::Difference, what).hint(
        "The archive is not what its writer left. `pgdiode archive verify` tells which files are affected; put back what \
         was there, or take a new base and start over from it: pgdiode reset, then pgdiode start.",
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::archive::draft::Press;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn no_byte_may_be_another() {
        for (name, stored) in [("a.json", Stored::Plain), ("a.json.zst", Stored::Zstd)] {
            let mut press = Press::new(Vec::new(), stored, 0).unwrap();
            press.write(b"some lines\n").unwrap();
            let (bytes, sums) = press.finish().unwrap();
            let expected = Expected {
                content_sha256: Some(&sums.content_sha256),
                content_bytes: sums.content_bytes,
                stored_sha256: &sums.stored_sha256,
                stored_bytes: sums.stored_bytes,
            };
            let mut whole = check(name, &expected, None, file_of(&bytes)).unwrap();
            let mut read = Vec::new();
            whole.read_to_end(&mut read).unwrap();
            assert_eq!(read, bytes, "it is given back at its beginning");
            for at in 0..bytes.len() {
                let mut tampered = bytes.clone();
                tampered[at] ^= 1;
                let error = check(name, &expected, None, file_of(&tampered)).unwrap_err();
                assert!(error.what().contains("other content"), "{error:?}");
            }
            let longer = [&bytes[..], b"x"].concat();
            assert!(check(name, &expected, None, file_of(&longer)).is_err());
            assert!(check(name, &expected, None, file_of(&bytes[1..])).is_err());
            let other_content = Expected { content_bytes: sums.content_bytes - 1, ..expected };
            assert!(check(name, &other_content, None, file_of(&bytes)).is_err());
        }
    }
}
