//! The file of users: `NAME:HASH`, as `htpasswd -B` and `pgdiode password` write it.
//!
//! Only what is slow to guess is accepted: bcrypt and argon2id. What is weaker is refused by name, since a file that was
//! made with another option of `htpasswd` looks alike.

use std::collections::BTreeMap;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};

use super::file::Listed;
use super::is_name;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// A line that needs more, in KiB, would let whoever signs in exhaust this host.
const ARGON2_MEMORY_KIB_MAX: u32 = 256 * 1024;
const ARGON2_PASSES_MAX: u32 = 32;
/// Some seconds.
const BCRYPT_COST_MAX: u32 = 15;
/// Below this a password of eight letters is guessed within days.
const BCRYPT_COST_ADVISED: u32 = 10;

/// The bytes of a password that are looked at; longer ones are wrong.
pub const PASSWORD_BYTES_MAX: usize = 1024;

#[derive(Debug, Default)]
pub struct Users(BTreeMap<String, Password>);

/// The hash of a password.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    Argon2id(String),
    Bcrypt(String),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Listed for Users {
    const WHAT: &'static str = "users_file";

    fn add(&mut self, line: &str) -> Result<()> {
        let hint = "a line is NAME:HASH; `pgdiode password NAME` prints one";
        let (name, hash) =
            line.split_once(':').ok_or_else(|| Error::config("there is no colon in the line").hint(hint))?;
        if !is_name(name) {
            return Err(Error::config("what stands before the colon cannot be a user's name")
                .hint("use letters, digits and . _ @ + -, at most 64 characters"));
        }
        if self.0.contains_key(name) {
            return Err(
                Error::config(format!("user \"{name}\" is there twice")).hint("leave one line of them")
            );
        }
        let password = Password::of_hash(hash).map_err(|error| error.context(format!("user \"{name}\"")))?;
        self.0.insert(name.to_owned(), password);
        Ok(())
    }
}

impl Users {
    pub fn password(&self, name: &str) -> Option<&Password> {
        self.0.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The password to compare with for a name that nobody has, so that it takes as long as for one that somebody has:
    /// some user's, always the same for the same name. What comes of the comparison must be thrown away.
    pub fn decoy(&self, name: &str) -> Password {
        let hash = crate::digest::sha256(name.as_bytes());
        let number = usize::from_str_radix(&hash[..8], 16).unwrap_or_default();
        let chosen = number.checked_rem(self.0.len()).and_then(|index| self.0.values().nth(index));
        chosen.cloned().unwrap_or_else(|| Password::Argon2id(DECOY.to_owned()))
    }
}

/// Of nothing that anybody knows; made with the defaults of [`Password::new`].
const DECOY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGtub3dzIGl0$eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg";

impl Password {
    /// Hashes a new password, with a salt of its own.
    pub fn new(password: &Secret) -> Result<Password> {
        let text = password.reveal();
        if text.is_empty() || text.len() > PASSWORD_BYTES_MAX {
            return Err(Error::config("a password has 1 to 1024 bytes").hint("choose another"));
        }
        let hash = Argon2::default().hash_password(text.as_bytes());
        let hash =
            hash.map_err(|error| Error::unexpected("cannot hash a password").because(error.to_string()))?;
        Ok(Password::Argon2id(hash.to_string()))
    }

    pub fn as_str(&self) -> &str {
        let (Password::Argon2id(hash) | Password::Bcrypt(hash)) = self;
        hash
    }

    /// Whether it is that password. Takes long, on purpose: never on a thread that serves others.
    pub fn is(&self, password: &Secret) -> bool {
        let text = password.reveal();
        if text.len() > PASSWORD_BYTES_MAX {
            return false;
        }
        match self {
            Password::Argon2id(hash) => PasswordHash::new(hash)
                .is_ok_and(|hash| Argon2::default().verify_password(text.as_bytes(), &hash).is_ok()),
            Password::Bcrypt(hash) => bcrypt::verify(text, hash).unwrap_or(false),
        }
    }

    fn of_hash(hash: &str) -> Result<Password> {
        match hash {
            _ if hash.starts_with("$2y$") || hash.starts_with("$2b$") => Password::of_bcrypt(hash),
            _ if hash.starts_with("$argon2id$") => Password::of_argon2id(hash),
            _ => Err(Error::config(weakness(hash))
                .hint("write the line anew with `pgdiode password NAME`, or with `htpasswd -B -C 12`")),
        }
    }

    fn of_bcrypt(hash: &str) -> Result<Password> {
        let parts = hash.parse::<bcrypt::HashParts>();
        let cost = parts.as_ref().map_or(u32::MAX, bcrypt::HashParts::get_cost);
        if hash.len() != 60 || cost > BCRYPT_COST_MAX {
            return Err(Error::config(format!(
                "that is no hash of bcrypt with a cost of at most {BCRYPT_COST_MAX}"
            ))
            .hint("write the line anew with `htpasswd -B -C 12`, or with `pgdiode password NAME`"));
        }
        if cost < BCRYPT_COST_ADVISED {
            tracing::warn!(
                "users_file has a hash of bcrypt with cost {cost}, quick to guess: `htpasswd -B -C 12`"
            );
        }
        Ok(Password::Bcrypt(hash.to_owned()))
    }

    fn of_argon2id(hash: &str) -> Result<Password> {
        let wrong = |why: &str| {
            Error::config(format!("that is no hash of argon2id that is accepted: {why}"))
                .hint("write the line anew with `pgdiode password NAME`")
        };
        let parsed = PasswordHash::new(hash).map_err(|_| wrong("it is not whole"))?;
        if parsed.salt.is_none() || parsed.hash.is_none() {
            return Err(wrong("it has no salt or no hash"));
        }
        let params =
            argon2::Params::try_from(&parsed).map_err(|_| wrong("its parameters are not argon2's"))?;
        if params.m_cost() > ARGON2_MEMORY_KIB_MAX || params.t_cost() > ARGON2_PASSES_MAX {
            return Err(wrong("it takes more than 256 MiB or 32 passes"));
        }
        Ok(Password::Argon2id(hash.to_owned()))
    }
}

/// Why a hash is refused.
fn weakness(hash: &str) -> String {
    let known = [
        ("$apr1$", "MD5 (apr1)"),
        ("$1$", "MD5"),
        ("{SHA}", "SHA-1 without a salt"),
        ("{SSHA}", "SHA-1"),
        ("$5$", "crypt with SHA-256"),
        ("$6$", "crypt with SHA-512"),
        ("$2a$", "bcrypt as early programs made it (2a)"),
        ("$2x$", "bcrypt with a known fault (2x)"),
        ("$argon2i$", "argon2i"),
        ("$argon2d$", "argon2d"),
    ];
    match known.iter().find(|(start, _)| hash.starts_with(start)) {
        Some((_, name)) => format!("the hash is {name}; only bcrypt (2y, 2b) and argon2id are accepted"),
        None if hash.is_empty() => "there is no hash".to_owned(),
        None => "what follows the colon is plain text or an old crypt hash; only bcrypt (2y, 2b) and argon2id are \
                 accepted"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::file::parsed;

    /// As `htpasswd -nbB -C 4 alice secret` makes it; quick, for tests.
    fn bcrypt_of(password: &str) -> String {
        bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap().format_for_version(bcrypt::Version::TwoY)
    }

    fn is(users: &Users, name: &str, password: &str) -> bool {
        users.password(name).unwrap().is(&Secret::new(password))
    }

    #[test]
    fn both_kinds_of_hash_know_their_password() {
        let made = Password::new(&Secret::new("korrekt pferd")).unwrap();
        assert!(made.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", made.as_str());
        let text = format!("# users\nalice:{}\n\nbob:{}\n", bcrypt_of("secret"), made.as_str());
        let users = parsed::<Users>(&text).unwrap();
        assert_eq!(users.names().collect::<Vec<_>>(), ["alice", "bob"]);
        assert!(is(&users, "alice", "secret") && !is(&users, "alice", "Secret") && !is(&users, "alice", ""));
        assert!(is(&users, "bob", "korrekt pferd") && !is(&users, "bob", "secret"));
        assert!(!is(&users, "bob", &"x".repeat(PASSWORD_BYTES_MAX + 1)));
        assert!(users.password("carol").is_none());
        assert!(!format!("{users:?}").contains('$'));
    }

    #[test]
    fn two_hashes_of_one_password_differ() {
        let [one, other] = [(); 2].map(|()| Password::new(&Secret::new("same")).unwrap());
        assert_ne!(one, other);
    }

    #[test]
    fn whatever_is_quick_to_guess_is_refused_with_line_and_reason() {
        for (hash, reason) in [
            ("$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00", "MD5 (apr1)"),
            ("$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/", "MD5"),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "SHA-1 without a salt"),
            ("$5$s$x", "SHA-256"),
            ("$6$s$x", "SHA-512"),
            ("rqXexS6ZhobKA", "plain text or an old crypt"),
            ("secret", "plain text"),
            ("", "there is no hash"),
            ("$argon2i$v=19$m=4096,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", "argon2i;"),
            ("$argon2id$v=19$m=4194304,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", "more than 256 MiB"),
            ("$argon2id$v=19$m=4096,t=3,p=1$c2FsdHNhbHQ", "no hash"),
            ("$argon2id$nonsense", "no"),
            ("$2y$05$short", "no hash of bcrypt"),
            ("$2y$31$abcdefghijklmnopqrstuuJ1J1J1J1J1J1J1J1J1J1J1J1J1J1J1J1", "at most 15"),
            ("$2a$12$abcdefghijklmnopqrstuuJ1J1J1J1J1J1J1J1J1J1J1J1J1J1J1J1", "2a"),
        ] {
            let error = parsed::<Users>(&format!("# users\nmallory:{hash}\n")).unwrap_err();
            let text = error.what();
            assert!(
                text.starts_with("file:2: user \"mallory\": ") && text.contains(reason),
                "{hash}: {text}"
            );
            let told = format!("{error:?}");
            assert!(hash.len() < 8 || !told.contains(hash), "{told} tells the hash");
        }
    }

    #[test]
    fn a_line_that_is_none_is_refused() {
        let of = |text: &str| parsed::<Users>(text).unwrap_err().what().to_owned();
        assert_eq!(of("alice"), "file:1: there is no colon in the line");
        assert!(of(":x").contains("cannot be a user's name"));
        assert!(of("a b:x").contains("cannot be a user's name"));
        let line = format!("alice:{}\n", bcrypt_of("x"));
        assert!(of(&line.repeat(2)).contains("file:2: user \"alice\" is there twice"));
    }

    #[test]
    fn a_name_that_nobody_has_is_compared_too() {
        let users = parsed::<Users>(&format!("alice:{}\n", bcrypt_of("secret"))).unwrap();
        assert_eq!(Some(&users.decoy("mallory")), users.password("alice"));
        let decoy = Users::default().decoy("mallory");
        assert!(PasswordHash::new(decoy.as_str()).is_ok() && !decoy.is(&Secret::new("")));
        assert_eq!(Password::of_hash(decoy.as_str()).unwrap(), decoy);
    }
}
