//! How often a wrong password may be sent.
//!
//! Each address and each name has a bucket that a wrong password empties by one and time fills again. A name's bucket is
//! larger, so that one address alone cannot shut a user out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::digest::Sha256;

/// Memory is bounded: of more addresses and names, those with the fullest buckets are forgotten.
const BUCKETS_MAX: usize = 8192;
/// How much larger a name's bucket is than an address's.
const NAME_FACTOR: f64 = 3.0;

#[derive(Debug)]
pub(super) struct Attempts {
    per_minute: f64,
    buckets: Mutex<HashMap<Who, Bucket>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Address(IpAddr),
    /// By its hash: what is sent as a name can be long.
    Name([u8; 16]),
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// From 0 to 1, at the moment.
    filled: f64,
    at: Instant,
}

/// After how long it may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany {
    pub retry_after: Duration,
}

impl Attempts {
    pub(super) fn new(per_minute: u64) -> Attempts {
        let per_minute = f64::from(u32::try_from(per_minute).unwrap_or(u32::MAX));
        Attempts { per_minute, buckets: Mutex::default() }
    }

    /// Counts an attempt before its password is looked at, so that many at once are counted too.
    pub(super) fn begin(&self, address: IpAddr, name: &str, now: Instant) -> Result<(), TooMany> {
        let both = [Who::of(address), Who::named(name)];
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = both.each_ref().map(|who| buckets.get(who).map_or(1.0, |bucket| bucket.at(now)));
        let missing = both.iter().zip(filled).map(|(who, filled)| (1.0 / self.size(who) - filled) * 60.0);
        let seconds = missing.fold(0.0, f64::max);
        if seconds > 1e-9 {
            return Err(TooMany { retry_after: Duration::from_secs_f64(seconds.ceil()) });
        }
        for (who, filled) in both.into_iter().zip(filled) {
            let filled = filled - 1.0 / self.size(&who);
            buckets.insert(who, Bucket { filled, at: now });
        }
        forget(&mut buckets, now);
        Ok(())
    }

    /// The password was right.
    pub(super) fn succeeded(&self, address: IpAddr, name: &str) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        for who in [Who::of(address), Who::named(name)] {
            let size = self.size(&who);
            if let Some(bucket) = buckets.get_mut(&who) {
                bucket.filled = (bucket.filled + 1.0 / size).min(1.0);
            }
        }
    }

    /// How many attempts a full bucket has; it fills within a minute.
    fn size(&self, who: &Who) -> f64 {
        match who {
            Who::Address(_) => self.per_minute,
            Who::Name(_) => self.per_minute * NAME_FACTOR,
        }
    }
}

impl Bucket {
    fn at(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.filled + since / 60.0).min(1.0)
    }
}

fn forget(buckets: &mut HashMap<Who, Bucket>, now: Instant) {
    if buckets.len() <= BUCKETS_MAX {
        return;
    }
    buckets.retain(|_, bucket| bucket.at(now) < 1.0);
    while buckets.len() > BUCKETS_MAX {
        let fullest = buckets.iter().max_by(|(_, one), (_, other)| one.at(now).total_cmp(&other.at(now)));
        let Some(who) = fullest.map(|(who, _)| who.clone()) else { return };
        buckets.remove(&who);
    }
}

impl Who {
    fn named(name: &str) -> Who {
        let mut hash = Sha256::default();
        hash.update(name.as_bytes());
        Who::Name(hash.half())
    }

    /// Whoever has an address of IPv6 has 2^64 of them.
    fn of(address: IpAddr) -> Who {
        Who::Address(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn tries(attempts: &Attempts, address: &str, name: &str, now: Instant) -> usize {
        (0..1000).take_while(|_| attempts.begin(ip(address), name, now).is_ok()).count()
    }

    #[test]
    fn an_address_may_be_wrong_so_often_in_a_minute() {
        let attempts = Attempts::new(10);
        let start = Instant::now();
        assert_eq!(tries(&attempts, "10.0.0.1", "alice", start), 10);
        let refused = attempts.begin(ip("10.0.0.1"), "bob", start).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_secs(6));
        assert_eq!(tries(&attempts, "10.0.0.1", "bob", start + Duration::from_secs(6)), 1);
        assert_eq!(tries(&attempts, "10.0.0.1", "bob", start + Duration::from_mins(10)), 10);
        // An address of a whole network of IPv6, and one that is IPv4 in other words.
        assert_eq!(tries(&attempts, "2001:db8::1", "a", start), 10);
        assert_eq!(tries(&attempts, "2001:db8::ffff:2", "b", start), 0);
        assert_eq!(tries(&attempts, "2001:db8:0:1::1", "c", start), 10);
        assert_eq!(tries(&attempts, "::ffff:10.0.0.1", "d", start), 0);
    }

    #[test]
    fn a_name_is_guarded_against_many_addresses() {
        let attempts = Attempts::new(10);
        let start = Instant::now();
        let tried: Vec<_> =
            (0..5).map(|host| tries(&attempts, &format!("10.0.0.{host}"), "alice", start)).collect();
        assert_eq!(tried, [10, 10, 10, 0, 0]);
        assert_eq!(tries(&attempts, "10.0.0.9", "bob", start), 10);
    }

    #[test]
    fn the_right_password_costs_nothing() {
        let attempts = Attempts::new(1);
        let start = Instant::now();
        for _ in 0..100 {
            attempts.begin(ip("10.0.0.1"), "alice", start).unwrap();
            attempts.succeeded(ip("10.0.0.1"), "alice");
        }
        assert_eq!(tries(&attempts, "10.0.0.1", "alice", start), 1);
    }

    #[test]
    fn memory_is_bounded_and_whoever_is_guessing_is_not_forgotten() {
        let attempts = Attempts::new(10);
        let start = Instant::now();
        for host in 1..=3 {
            assert_eq!(tries(&attempts, &format!("10.0.0.{host}"), "alice", start), 10);
        }
        for number in 0..u32::try_from(BUCKETS_MAX).unwrap() {
            let address = std::net::Ipv4Addr::from_bits(0x0b00_0000 + number);
            attempts.begin(address.into(), &format!("user{number}"), start).unwrap();
        }
        assert!(attempts.buckets.lock().unwrap().len() <= BUCKETS_MAX);
        assert_eq!(tries(&attempts, "10.9.9.9", "alice", start), 0);
    }
}
