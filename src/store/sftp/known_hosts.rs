//! The user's `known_hosts`: which keys a host may show, in the format that sshd(8) describes.
//!
//! Plain and hashed names, `[host]:port` for other ports than 22, `*`, `?` and `!`, `@revoked`. Authorities
//! (`@cert-authority`) are not followed: no host is asked for a certificate.

use aws_lc_rs::hmac;
use russh::keys::{Algorithm, PublicKey};

/// What the file says of a key that a host has shown. Lines count from 1.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Known,
    Unknown,
    /// Another key stands there for the host.
    Changed {
        line: usize,
    },
    Revoked {
        line: usize,
    },
}

/// The lines that speak of one host.
#[derive(Debug, Default)]
pub struct KnownHost {
    keys: Vec<(usize, PublicKey)>,
    revoked: Vec<(usize, PublicKey)>,
}

impl KnownHost {
    pub fn read(text: &str, host: &str, port: u16) -> KnownHost {
        let mut known = KnownHost::default();
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_ascii_whitespace().peekable();
            let marker = words.next_if(|word| word.starts_with('@'));
            let (Some(names), Some(_), Some(key)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if names.starts_with('#') || !names_host(names, &address(host, port)) {
                continue;
            }
            let Ok(key) = russh::keys::parse_public_key_base64(key) else { continue };
            match marker {
                None => known.keys.push((index + 1, key)),
                Some("@revoked") => known.revoked.push((index + 1, key)),
                Some(_) => {}
            }
        }
        known
    }

    pub fn check(&self, key: &PublicKey) -> Verdict {
        let is_it = |(_, known): &&(usize, PublicKey)| known.key_data() == key.key_data();
        if let Some((line, _)) = self.revoked.iter().find(is_it) {
            return Verdict::Revoked { line: *line };
        }
        if self.keys.iter().any(|known| is_it(&known)) {
            return Verdict::Known;
        }
        // A host whose keys are known shows one of these kinds: it was asked for them first.
        let of_its_kind = self.keys.iter().find(|(_, known)| known.algorithm() == key.algorithm());
        match of_its_kind.or(self.keys.first()) {
            Some((line, _)) => Verdict::Changed { line: *line },
            None => Verdict::Unknown,
        }
    }

    /// The kinds of keys that are known come first, so that the host shows one of them, as `ssh` does it.
    pub fn order(&self, kinds: &[Algorithm]) -> Vec<Algorithm> {
        let is_known = |kind: &&Algorithm| {
            self.keys.iter().any(|(_, key)| match (key.algorithm(), kind) {
                (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
                (key, kind) => key == **kind,
            })
        };
        let (known, others): (Vec<&Algorithm>, Vec<&Algorithm>) = kinds.iter().partition(is_known);
        known.into_iter().chain(others).cloned().collect()
    }
}

/// As the file has it.
pub fn address(host: &str, port: u16) -> String {
    if port == 22 { host.to_lowercase() } else { format!("[{}]:{port}", host.to_lowercase()) }
}

fn names_host(names: &str, address: &str) -> bool {
    let mut named = false;
    for name in names.split(',') {
        if let Some(hashed) = name.strip_prefix("|1|") {
            named |= is_hash_of(hashed, address);
        } else if let Some(pattern) = name.strip_prefix('!') {
            if matches(pattern.to_lowercase().as_bytes(), address.as_bytes()) {
                return false;
            }
        } else {
            named |= matches(name.to_lowercase().as_bytes(), address.as_bytes());
        }
    }
    named
}

/// `salt|hash`, in base64: HMAC-SHA1 is what the file's format has.
fn is_hash_of(hashed: &str, address: &str) -> bool {
    let decode = |text: &str| data_encoding::BASE64.decode(text.as_bytes()).ok();
    let Some((salt, hash)) = hashed.split_once('|') else { return false };
    let (Some(salt), Some(hash)) = (decode(salt), decode(hash)) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    hmac::verify(&key, address.as_bytes(), &hash).is_ok()
}

fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|skipped| matches(rest, &text[skipped..])),
        (Some((b'?', pattern)), Some((_, text))) => matches(pattern, text),
        (Some((byte, pattern)), Some((other, text))) => byte == other && matches(pattern, text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";
    const ECDSA: &str = "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBMxBTpMIGvo7CnordO7wP0QQRqpBwUjOLl4eMhfucfE1sjTYyK5wmTl1UqoSDS1PtRVTBdl+0+9pquFb46U7fwg=";

    fn key(text: &str) -> PublicKey {
        russh::keys::parse_public_key_base64(text).unwrap()
    }

    fn verdict(file: &str, host: &str, port: u16) -> Verdict {
        KnownHost::read(file, host, port).check(&key(ED25519))
    }

    /// As `ssh-keygen -H` writes it, for a name and salt of our own.
    fn hashed(address: &str) -> String {
        let salt = [7; 20];
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
        let encode = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
        format!("|1|{}|{}", encode(&salt), encode(hmac::sign(&key, address.as_bytes()).as_ref()))
    }

    #[test]
    fn each_way_to_name_a_host_is_understood() {
        for (names, host, port) in [
            ("backup".to_owned(), "backup", 22),
            ("a,backup,b".to_owned(), "Backup", 22),
            ("[backup]:2222".to_owned(), "backup", 2222),
            ("*.example.org".to_owned(), "backup.example.org", 22),
            ("backup?".to_owned(), "backup1", 22),
            ("!backup2,backup?".to_owned(), "backup1", 22),
            (hashed("backup"), "backup", 22),
            (hashed("[backup]:2222"), "backup", 2222),
        ] {
            let file = format!("# {names} ssh-ed25519 {OTHER}\n\n{names} ssh-ed25519 {ED25519} comment\n");
            assert_eq!(verdict(&file, host, port), Verdict::Known, "{file}");
            let file = format!("\n#comment\n\t\n{names}\tssh-ed25519  {OTHER}\n");
            assert_eq!(verdict(&file, host, port), Verdict::Changed { line: 4 }, "{file}");
        }
        for names in ["backup", "[backup]:22", "!backup1,backup?", "*.backup1", "@backup1", "|1|a|b", "|1|"] {
            let file = format!("{names} ssh-ed25519 {ED25519}\nbackup1\nbackup1 ssh-ed25519 no-key\n");
            assert_eq!(verdict(&file, "backup1", 22), Verdict::Unknown, "{file}");
        }
        // The same host on another port is another host.
        assert_eq!(verdict(&format!("backup ssh-ed25519 {ED25519}"), "backup", 2222), Verdict::Unknown);
    }

    #[test]
    fn a_host_may_have_several_keys_and_lose_some() {
        let two = format!("h ssh-ed25519 {OTHER}\nh ssh-ed25519 {ED25519}\n");
        assert_eq!(verdict(&two, "h", 22), Verdict::Known);
        let revoked = format!("{two}@revoked * ssh-ed25519 {ED25519}\n");
        assert_eq!(verdict(&revoked, "h", 22), Verdict::Revoked { line: 3 });
        assert_eq!(verdict(&format!("@cert-authority h ssh-ed25519 {ED25519}"), "h", 22), Verdict::Unknown);
        // It is known by a key of another kind.
        let other_kind = format!("h ecdsa-sha2-nistp256 {ECDSA}\n");
        assert_eq!(verdict(&other_kind, "h", 22), Verdict::Changed { line: 1 });
        let kinds = [Algorithm::Ed25519, key(ECDSA).algorithm()];
        let order = KnownHost::read(&other_kind, "h", 22).order(&kinds);
        assert_eq!(order, [key(ECDSA).algorithm(), Algorithm::Ed25519]);
    }
}
