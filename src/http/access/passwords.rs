//! Whether a name and a password belong together, without telling anything else to whoever asks.
//!
//! A name that nobody has is compared with somebody's hash, so that it takes as long and is answered alike. Hashes are
//! slow and large on purpose: few are computed at once, on threads of their own, and what was right is remembered for a
//! while, keyed, so that a program that sends its password with each request does not wait for each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use tokio::sync::Semaphore;

use super::attempts::{Attempts, TooMany};
use crate::credentials::{Password, Users};
use crate::secret::Secret;

/// Each takes some 20 MiB and most of a core.
const AT_ONCE_MAX: usize = 2;
const REMEMBERED_MAX: usize = 1024;
/// How long a password is taken at its word after it was changed in another process's memory; a change of the file
/// counts at once, since the hash in it is a part of what is remembered.
const REMEMBERED_FOR: Duration = Duration::from_mins(5);

pub(super) struct Passwords {
    key: hmac::Key,
    attempts: Attempts,
    turns: Semaphore,
    /// What was right, until when.
    remembered: Mutex<HashMap<Vec<u8>, Instant>>,
}

impl Passwords {
    pub(super) fn new(key: hmac::Key, attempts: Attempts) -> Passwords {
        Passwords { key, attempts, turns: Semaphore::new(AT_ONCE_MAX), remembered: Mutex::default() }
    }

    /// The hash that the password fits, of the user with that name.
    pub(super) async fn check(
        &self,
        users: &Users,
        (name, password): (&str, Secret),
        address: IpAddr,
        now: Instant,
    ) -> Result<Option<Password>, TooMany> {
        let known = users.password(name).cloned();
        let proof = known.as_ref().map(|stored| self.proof(name, &password, stored));
        if proof.as_ref().is_some_and(|proof| self.remembers(proof, now)) {
            return Ok(known);
        }
        self.attempts.begin(address, name, now).inspect_err(|_| {
            tracing::warn!(%address, user = told(name, known.as_ref()), "too many attempts to sign in");
        })?;
        let compared = known.clone().unwrap_or_else(|| users.decoy(name));
        let fits = self.takes_its_time(compared, password).await;
        match (known, proof) {
            (Some(stored), Some(proof)) if fits => {
                self.attempts.succeeded(address, name);
                self.remember(proof, now);
                Ok(Some(stored))
            }
            (known, _) => {
                tracing::warn!(%address, user = told(name, known.as_ref()), "a wrong name or password");
                Ok(None)
            }
        }
    }

    async fn takes_its_time(&self, stored: Password, password: Secret) -> bool {
        let Ok(_turn) = self.turns.acquire().await else { return false };
        tokio::task::spawn_blocking(move || stored.is(&password)).await.unwrap_or(false)
    }

    fn proof(&self, name: &str, password: &Secret, stored: &Password) -> Vec<u8> {
        // No name and no hash has a zero byte.
        let text = [name, stored.as_str(), password.reveal()].join("\0");
        hmac::sign(&self.key, text.as_bytes()).as_ref().to_vec()
    }

    fn remembers(&self, proof: &[u8], now: Instant) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(proof).is_some_and(|until| now < *until)
    }

    fn remember(&self, proof: Vec<u8>, now: Instant) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, until| now < *until);
        }
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(proof, now + REMEMBERED_FOR);
    }
}

/// For the log: what nobody is called may be a password in the wrong field.
fn told<'a>(name: &'a str, known: Option<&Password>) -> &'a str {
    known.map_or("(nobody's name)", |_| name)
}
