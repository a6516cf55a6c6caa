//! Signatures of an archive's manifests: ed25519, in the form of `ssh-keygen -Y sign`, so that `ssh-keygen -Y verify` can
//! check one.
//!
//! The object's name is in the signature's namespace: what was signed under one name counts under no other.

use std::fmt;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use data_encoding::{BASE64, BASE64_NOPAD};

use crate::error::{Error, Kind, Result};
use crate::secret::Secret;

const ALGORITHM: &[u8] = b"ssh-ed25519";
const HASH: &[u8] = b"sha512";
const KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;

/// What stands before an object's own checksum, which is its last member.
pub(super) const SUM: &str = ",\n  \"sum\": \"";
/// What stands before its signature, the member before that, if it has one.
pub(super) const SIGNATURE: &str = ",\n  \"signature\": \"";

/// Who may have signed: the key that `ssh-keygen` writes into a `.pub` file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// From `ssh-ed25519 AAAA...`, with or without a comment.
    pub fn parse(text: &str) -> Result<PublicKey> {
        let mut words = text.split_ascii_whitespace();
        let parsed = (words.next() == Some("ssh-ed25519")).then(|| words.next()).flatten().and_then(|key| {
            let blob = BASE64.decode(key.as_bytes()).ok()?;
            let key = blob.strip_prefix(&*[string(ALGORITHM), length(KEY_BYTES)].concat())?;
            Some(PublicKey(key.try_into().ok()?))
        });
        parsed.ok_or_else(|| {
            Error::config(format!("{text:?} is no public key of ed25519"))
                .hint("it is the line of a .pub file, which begins with ssh-ed25519; `ssh-keygen -t ed25519` makes one")
        })
    }

    fn blob(&self) -> Vec<u8> {
        [string(ALGORITHM), string(&self.0)].concat()
    }

    /// As `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", BASE64_NOPAD.encode(digest(&SHA256, &self.blob()).as_ref()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ssh-ed25519 {}", BASE64.encode(&self.blob()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint())
    }
}

/// A writer's private key.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl Signer {
    /// Reads a file as `ssh-keygen -t ed25519` makes it, without a passphrase: nobody is there to type it.
    pub fn load(path: &Path) -> Result<Signer> {
        let text = Secret::of_file("signing key", path)?;
        let unusable = |what: &str| {
            Error::config(format!("signing key {}: {what}", path.display()))
                .hint("make one: ssh-keygen -t ed25519 -N '' -f FILE")
        };
        let key = russh::keys::decode_secret_key(text.reveal(), None).map_err(|error| match error {
            russh::keys::Error::KeyIsEncrypted => unusable("it has a passphrase"),
            error => unusable("it is no private key of OpenSSH").because(error),
        })?;
        let key = key.key_data().ed25519().ok_or_else(|| unusable("it is no key of ed25519"))?;
        Signer::of(&key.private.to_bytes(), &key.public.0)
            .ok_or_else(|| unusable("its parts do not belong together"))
    }

    fn of(seed: &[u8], public: &[u8]) -> Option<Signer> {
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).ok()?;
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        Some(Signer { pair, public })
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The signature of an object of this name, in base64.
    pub fn sign(&self, name: &str, text: &[u8]) -> String {
        self.sign_in(&namespace(name), text)
    }

    /// The signature of a text in a namespace, in base64.
    pub fn sign_in(&self, namespace: &str, text: &[u8]) -> String {
        let signature = self.pair.sign(&to_sign(namespace, text));
        BASE64.encode(&envelope(namespace, &self.public, signature.as_ref()))
    }

    #[cfg(test)]
    pub fn generated() -> Signer {
        let pair = Ed25519KeyPair::generate().expect("the system has random numbers");
        let public = PublicKey(pair.public_key().as_ref().try_into().expect("it has this length"));
        Signer { pair, public }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the private key of {}", self.public.fingerprint())
    }
}

/// What is signed of an object, and its signature, which may be wrong; `None`: it has none. In between and behind stands
/// nothing that was not signed, but for the checksum: a text has no line break inside of a value.
pub fn signed_part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rfind =
        |bytes: &[u8], part: &str| bytes.windows(part.len()).rposition(|window| window == part.as_bytes());
    let at = rfind(bytes, SIGNATURE)?;
    let behind = &bytes[at + SIGNATURE.len()..];
    let end = behind.iter().position(|byte| *byte == b'"').unwrap_or(behind.len());
    let sum = behind.get(end + 1..).and_then(|rest| rest.strip_prefix(SUM.as_bytes()));
    // Whatever else follows, the signature does not cover it, and so is none of this object.
    let is_last = sum.and_then(|sum| sum.strip_suffix(b"\"\n}\n")).is_some_and(is_hash);
    Some((&bytes[..at], if is_last { &behind[..end] } else { b"" }))
}

fn is_hash(text: &[u8]) -> bool {
    text.len() == 64 && text.iter().all(u8::is_ascii_hexdigit)
}

/// Who has signed an object: its bytes are what that key's owner wrote under this name. `None`: it has no signature.
pub fn signer_of(name: &str, bytes: &[u8]) -> Result<Option<PublicKey>> {
    let Some((text, signature)) = signed_part(bytes) else { return Ok(None) };
    let invalid = || {
        Error::new(Kind::Difference, format!("{name} has a signature that is not valid"))
            .hint("Somebody has changed it, or put it there from another place: put back what was there.")
    };
    signer_in(&namespace(name), text, signature).map(Some).ok_or_else(invalid)
}

/// Who has signed a text in a namespace; `None` where the signature, in base64, is not valid.
pub fn signer_in(namespace: &str, text: &[u8], signature: &[u8]) -> Option<PublicKey> {
    let found = BASE64.decode(signature).ok()?;
    // All of its other bytes follow from the namespace.
    let key_at = PREAMBLE.len() + 4 + 4 + 4 + ALGORITHM.len() + 4;
    let key = PublicKey(found.get(key_at..key_at + KEY_BYTES)?.try_into().ok()?);
    let (_, signature) = found.split_last_chunk::<SIGNATURE_BYTES>()?;
    UnparsedPublicKey::new(&ED25519, key.0).verify(&to_sign(namespace, text), signature).ok()?;
    (envelope(namespace, &key, signature) == found).then_some(key)
}

/// Keys of which one must have signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trusted(Vec<PublicKey>);

impl Trusted {
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Trusted> {
        texts.into_iter().map(PublicKey::parse).collect::<Result<_>>().map(Trusted)
    }

    pub fn extend(&mut self, keys: impl IntoIterator<Item = PublicKey>) {
        self.0.extend(keys);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, key: &PublicKey) -> bool {
        self.0.contains(key)
    }

    /// Whether one of these keys has signed the object.
    pub fn check(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let refused = |how: String| {
            Err(Error::new(Kind::Difference, format!("{name} {how}")).hint(
                "Who has the writer's key did not write it so: put back what was there. If the writer has a new key, add \
                 its public one to archive.signed_by.",
            ))
        };
        match signer_of(name, bytes)? {
            Some(key) if self.0.contains(&key) => Ok(()),
            Some(key) => refused(format!("is signed by another key, {}", key.fingerprint())),
            None => refused("is not signed".to_owned()),
        }
    }
}

/// `PROTOCOL.sshsig` of OpenSSH.
const PREAMBLE: &[u8] = b"SSHSIG";

fn to_sign(namespace: &str, text: &[u8]) -> Vec<u8> {
    let hash = digest(&SHA512, text);
    [PREAMBLE.to_vec(), string(namespace.as_bytes()), string(b""), string(HASH), string(hash.as_ref())]
        .concat()
}

fn envelope(namespace: &str, key: &PublicKey, signature: &[u8]) -> Vec<u8> {
    let signature = [string(ALGORITHM), string(signature)].concat();
    let version = 1_u32.to_be_bytes().to_vec();
    let parts = [&key.blob()[..], namespace.as_bytes(), b"", HASH, &signature].map(string);
    [PREAMBLE.to_vec(), version, parts.concat()].concat()
}

fn namespace(name: &str) -> String {
    format!("pgdiode-archive:{name}")
}

/// As SSH writes one: its length before it.
fn string(bytes: &[u8]) -> Vec<u8> {
    [&length(bytes.len()), bytes].concat()
}

fn length(bytes: usize) -> Vec<u8> {
    u32::try_from(bytes).expect("nothing here is that long").to_be_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::manifest::{Identity, signed_text, text};

    const NAME: &str = "meta/archive.json";

    fn signer() -> Signer {
        Signer::generated()
    }

    fn identity() -> Identity {
        Identity { format: 1, archive: "a".into(), created: "2026-02-05T10:30:00Z".into() }
    }

    fn trusting(keys: &[&Signer]) -> Trusted {
        Trusted(keys.iter().map(|signer| signer.public()).collect())
    }

    #[test]
    fn only_what_the_key_has_signed_under_this_name_counts() {
        let (ours, theirs) = (signer(), signer());
        let bytes = signed_text(NAME, &identity(), Some(&ours));
        trusting(&[&theirs, &ours]).check(NAME, &bytes).unwrap();
        let refused = |name: &str, bytes: &[u8], trusted: &Trusted| {
            trusted.check(name, bytes).unwrap_err().what().to_owned()
        };
        let other = refused(NAME, &bytes, &trusting(&[&theirs]));
        assert!(other.contains("another key") && other.contains(&ours.public().fingerprint()), "{other}");
        let moved = refused("meta/files/0000000001.json", &bytes, &trusting(&[&ours]));
        assert!(moved.contains("not valid"), "{moved}");
        assert!(refused(NAME, &text(&identity()), &trusting(&[&ours])).contains("is not signed"));
        assert!(trusting(&[]).check(NAME, &bytes).is_err());
    }

    #[test]
    fn no_bit_of_a_signed_object_may_be_another() {
        let ours = signer();
        let bytes = signed_text(NAME, &identity(), Some(&ours));
        let sum = bytes.windows(7).position(|part| part == b"  \"sum\"").unwrap();
        for bit in 0..sum * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(trusting(&[&ours]).check(NAME, &flipped).is_err(), "bit {bit}");
        }
        // A member beside those that were signed.
        let text = String::from_utf8(bytes).unwrap();
        for (before, after) in [
            ("  \"signature\"", "  \"archive\": \"b\",\n  \"signature\""),
            ("  \"sum\"", "  \"archive\": \"b\",\n  \"sum\""),
        ] {
            let more = text.replacen(before, after, 1);
            assert!(trusting(&[&ours]).check(NAME, more.as_bytes()).is_err(), "{more}");
        }
    }

    #[test]
    fn a_public_key_is_as_ssh_keygen_writes_it() {
        let text = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ someone@somewhere";
        let key = PublicKey::parse(text).unwrap();
        assert!(text.starts_with(&key.to_string()));
        for wrong in ["", "ssh-rsa AAAA", "ssh-ed25519", "ssh-ed25519 AAAA", &text.replace("JdD7", "JdD7AA")]
        {
            assert!(PublicKey::parse(wrong).is_err(), "{wrong}");
        }
    }
}
