//! How far a pipeline has come, and in whose history.
//!
//! `confirmed <= committed <= received`: the source may forget what lies before *confirmed*; the target holds
//! everything up to *committed* (stored in the same transaction as the rows); *received* has been read from the
//! socket and may still be lost without harm.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A place in a write-ahead log, in bytes since its beginning. Always a *commit end* LSN where a position is
/// meant: row LSNs of concurrent transactions go backwards, begin order is not commit order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lsn(pub u64);

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

impl TryFrom<String> for Lsn {
    type Error = Error;

    fn try_from(text: String) -> Result<Lsn> {
        text.parse()
    }
}

impl Lsn {
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes from `earlier` to here; 0 when `earlier` is not earlier.
    pub fn since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Lsn> {
        let malformed = || Error::unexpected(format!("\"{text}\" is not an LSN such as 16/B374D848"));
        let (high, low) = text.split_once('/').ok_or_else(malformed)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| malformed())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| malformed())?;
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}

/// Whose history an offset counts in. Two offsets compare only within one lineage; a changed lineage stops the
/// pipeline with an explanation, it is never guessed across.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// `pg_control`'s system identifier: a clone of the cluster keeps it, an `initdb` does not.
    pub system_identifier: u64,
    /// Rises with each promotion.
    pub timeline: u32,
    /// Database that the slot decodes.
    pub database: String,
    /// Name of the replication slot.
    pub slot: String,
    /// Where the slot was created: tells a re-created slot from the one that the position belongs to.
    pub consistent_point: Lsn,
}

/// Everything committed at the source up to `offset` is in the target, and nothing after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub lineage: Lineage,
    pub offset: Lsn,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text_round_trips() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn lsn_rejects_what_is_not_one() {
        for text in ["", "16", "16/", "G/1", "1/100000000", "-1/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text} was accepted");
        }
    }
}
