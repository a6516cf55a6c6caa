//! Who has signed in at the console, kept in memory: a restart signs everybody out.
//!
//! The browser has 256 random bits; here is their hash alone, so that nothing that is read of this process's memory or
//! of a dump comes in with it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;

use crate::credentials::Password;
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// However busy it is.
const AGE_MAX: Duration = Duration::from_hours(12);
/// More end the one that was idle for the longest.
const SESSIONS_MAX: usize = 1000;
const SESSIONS_OF_A_USER_MAX: usize = 20;

#[derive(Debug)]
pub(super) struct Sessions {
    idle_max: Duration,
    /// By the hash of what the browser has.
    open: Mutex<HashMap<String, Session>>,
}

#[derive(Debug, Clone)]
pub(super) struct Session {
    pub user: String,
    /// With what that user signed in; another one ends the session.
    pub password: Password,
    begun: Instant,
    used: Instant,
}

/// Whether a request shows that somebody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    ByPerson,
    /// A page that keeps itself fresh.
    ByItself,
}

impl Sessions {
    pub(super) fn new(idle_max: Duration) -> Sessions {
        Sessions { idle_max, open: Mutex::default() }
    }

    /// Begins one, under an identity that nobody can have known before.
    pub(super) fn begin(&self, user: &str, password: Password, now: Instant) -> Result<Secret> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|_| Error::unexpected("the system has no random numbers"))?;
        let id = BASE64URL_NOPAD.encode(&bytes);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, session| self.lives(session, now));
        end_the_idlest(&mut open, SESSIONS_OF_A_USER_MAX, |session| session.user == user);
        end_the_idlest(&mut open, SESSIONS_MAX, |_| true);
        let session = Session { user: user.to_owned(), password, begun: now, used: now };
        open.insert(sha256(id.as_bytes()), session);
        Ok(Secret::new(id))
    }

    pub(super) fn find(&self, id: &str, used: Use, now: Instant) -> Option<Session> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = sha256(id.as_bytes());
        let session = open.get_mut(&hash)?;
        if !self.lives(session, now) {
            open.remove(&hash);
            return None;
        }
        if used == Use::ByPerson {
            session.used = now;
        }
        Some(session.clone())
    }

    pub(super) fn end(&self, id: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&sha256(id.as_bytes()));
    }

    fn lives(&self, session: &Session, now: Instant) -> bool {
        now.saturating_duration_since(session.used) < self.idle_max
            && now.saturating_duration_since(session.begun) < AGE_MAX
    }
}

/// Makes room for one more.
fn end_the_idlest(open: &mut HashMap<String, Session>, most: usize, which: impl Fn(&Session) -> bool) {
    while open.values().filter(|session| which(session)).count() >= most {
        let idlest =
            open.iter().filter(|(_, session)| which(session)).min_by_key(|(_, session)| session.used);
        let Some(hash) = idlest.map(|(hash, _)| hash.clone()) else { return };
        open.remove(&hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_mins(15);

    fn password() -> Password {
        Password::Bcrypt("x".to_owned())
    }

    fn lives(sessions: &Sessions, id: &Secret, used: Use, now: Instant) -> bool {
        sessions.find(id.reveal(), used, now).is_some()
    }

    #[test]
    fn a_session_ends_when_nobody_is_there() {
        let (sessions, start) = (Sessions::new(IDLE), Instant::now());
        let id = sessions.begin("alice", password(), start).unwrap();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(lives(&sessions, &id, Use::ByPerson, at(899)));
        assert!(lives(&sessions, &id, Use::ByItself, at(1798)));
        assert!(!lives(&sessions, &id, Use::ByPerson, at(1799)));
        assert!(!lives(&sessions, &id, Use::ByPerson, at(899)), "it came back");
    }

    #[test]
    fn a_session_ends_after_twelve_hours_however_busy() {
        let (sessions, start) = (Sessions::new(IDLE), Instant::now());
        let id = sessions.begin("alice", password(), start).unwrap();
        let minutes = |minutes: u64| start + Duration::from_secs(minutes * 60);
        assert!((0..720).all(|minute| lives(&sessions, &id, Use::ByPerson, minutes(minute))));
        assert!(!lives(&sessions, &id, Use::ByPerson, minutes(720)));
    }

    #[test]
    fn what_is_kept_does_not_come_in() {
        let (sessions, now) = (Sessions::new(IDLE), Instant::now());
        let id = sessions.begin("alice", password(), now).unwrap();
        assert_eq!(id.reveal().len(), 43);
        let kept = sessions.open.lock().unwrap().keys().next().unwrap().clone();
        assert!(sessions.find(&kept, Use::ByPerson, now).is_none());
        assert!(sessions.find("", Use::ByPerson, now).is_none());
        sessions.end(id.reveal());
        assert!(!lives(&sessions, &id, Use::ByPerson, now));
    }

    #[test]
    fn sessions_are_bounded_by_user_and_together() {
        let (sessions, start) = (Sessions::new(IDLE), Instant::now());
        let begin =
            |user: &str, ms| sessions.begin(user, password(), start + Duration::from_millis(ms)).unwrap();
        let other = begin("bob", 0);
        let of_alice: Vec<_> = (0..25).map(|ms| begin("alice", ms)).collect();
        let alive = |id: &Secret| sessions.open.lock().unwrap().contains_key(&sha256(id.reveal().as_bytes()));
        assert_eq!(of_alice.iter().map(alive).position(|alive| alive), Some(5));
        assert!(alive(&other));
        for number in 0..SESSIONS_MAX {
            begin(&format!("user{number}"), 100);
        }
        assert_eq!(sessions.open.lock().unwrap().len(), SESSIONS_MAX);
        assert!(!alive(&other));
    }
}
