//! The chain itself, without any I/O: what an entry's hash covers, and what is wrong with a row of entries.
//!
//! An entry's hash is the SHA-256 of these texts, each written as `LENGTH:TEXT,` with its length in bytes, and a
//! missing one as `-,`:
//!
//! ```text
//! pgdiode audit 1 · previous hash · number · at · pipeline · os_user · host · role · action · reason · verdict · details
//! ```
//!
//! Hashes are 64 lower-case hexadecimal digits; the first entry's previous hash is 64 zeros. `at` is in UTC with six
//! decimals, `2026-01-02T03:04:05.678901Z`, and `details` is what PostgreSQL prints of the `jsonb` value. The lengths
//! keep two different entries from having the same encoding.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::checkpoint::Checked;
use crate::digest::sha256;
use crate::error::{Error, Result};

/// Stands before everything that is hashed: another encoding will have another name.
const ENCODING: &str = "pgdiode audit 1";

/// What the first entry names as its predecessor's hash.
pub const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// How many numbers are tried for an entry that does not fit its own: whether it was moved, or edited.
const NUMBERS_TRIED_MAX: i64 = 20_000;

/// One entry, as it is stored, exported and checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Without gaps, from 1 on.
    pub number: i64,
    pub at: String,
    pub pipeline: String,
    pub os_user: String,
    pub host: String,
    /// The role at the server.
    pub role: String,
    pub action: String,
    pub reason: Option<String>,
    pub verdict: String,
    /// Kept as text: a number that is read and printed again may come out as another.
    pub details: Box<RawValue>,
    pub previous_hash: String,
    pub hash: String,
}

impl Record {
    /// The hash that this entry should have.
    pub fn computed_hash(&self) -> String {
        self.hash_as(self.number)
    }

    fn hash_as(&self, number: i64) -> String {
        let number = number.to_string();
        let texts = [
            Some(ENCODING),
            Some(&self.previous_hash),
            Some(&number),
            Some(&self.at),
            Some(&self.pipeline),
            Some(&self.os_user),
            Some(&self.host),
            Some(&self.role),
            Some(&self.action),
            self.reason.as_deref(),
            Some(&self.verdict),
            Some(self.details.get()),
        ];
        let mut encoded = String::new();
        for text in texts {
            match text {
                Some(text) => encoded.push_str(&format!("{}:{text},", text.len())),
                None => encoded.push_str("-,"),
            }
        }
        sha256(encoded.as_bytes())
    }

    /// The number that this entry was written with, if it bears another one now and is otherwise as it was.
    fn original_number(&self) -> Option<i64> {
        let window = NUMBERS_TRIED_MAX / 2;
        let from = self.number.saturating_sub(window).max(1);
        (from..from.saturating_add(NUMBERS_TRIED_MAX)).find(|number| self.hash_as(*number) == self.hash)
    }
}

/// The last entry's number and hash; kept elsewhere, it shows later that nothing before it was cut or rewritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub number: i64,
    pub hash: String,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.hash)
    }
}

impl FromStr for Head {
    type Err = Error;

    fn from_str(text: &str) -> Result<Head> {
        let malformed = || Error::config(format!("\"{text}\" is no head: NUMBER:HASH, as verify prints it"));
        let (number, hash) = text.trim().split_once(':').ok_or_else(malformed)?;
        let number = number.parse().ok().filter(|number| *number > 0).ok_or_else(malformed)?;
        let hash = hash.to_ascii_lowercase();
        if hash.len() != NO_HASH.len() || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(malformed());
        }
        Ok(Head { number, hash })
    }
}

/// What was done to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Damage {
    /// An entry is not what was written.
    Edited,
    /// An entry is gone.
    Missing,
    /// An entry bears another number than it was written with.
    Reordered,
    /// An entry does not follow the one before it: one of the two is not of this chain.
    Forked,
    /// The log ends before the known head.
    Cut,
    /// The log was made anew: at the known head's number stands another entry.
    Rewritten,
}

/// The first place where the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    pub number: i64,
    pub damage: Damage,
    pub why: String,
}

/// What a check of the whole log found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub intact: bool,
    /// Entries that hold, from the first on.
    pub entries: u64,
    /// The last of them.
    pub head: Option<Head>,
    pub broken: Option<Broken>,
    /// The signed checkpoints that it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<Checked>,
}

/// Takes entries in the order of their numbers and remembers one of them.
#[derive(Debug, Default)]
pub struct Chain {
    entries: u64,
    last: Option<Link>,
    /// Entries up to this one are not looked at.
    passed_over: i64,
    known: Vec<Head>,
    broken: Option<Broken>,
}

#[derive(Debug)]
struct Link {
    head: Head,
    previous_hash: String,
}

impl Chain {
    /// The chain must lead through what is `known`: heads that were kept elsewhere.
    pub fn new(known: impl IntoIterator<Item = Head>) -> Chain {
        Chain { known: known.into_iter().collect(), ..Chain::default() }
    }

    /// The same for the entries from `first` on.
    pub fn from(first: i64, known: impl IntoIterator<Item = Head>) -> Chain {
        let known = known.into_iter().filter(|head| head.number >= first).collect();
        Chain { known, passed_over: first - 1, ..Chain::default() }
    }

    /// Takes the next entry; whether it holds. After one that does not, no more are looked at.
    pub fn takes(&mut self, record: &Record) -> bool {
        if self.broken.is_some() {
            return false;
        }
        if self.last.is_none() && self.passed_over > 0 {
            let hash = record.previous_hash.clone();
            let head = Head { number: self.passed_over, hash };
            self.last = Some(Link { head, previous_hash: String::new() });
        }
        self.broken = self.damage(record);
        if self.broken.is_some() {
            return false;
        }
        self.entries += 1;
        self.last = Some(Link {
            head: Head { number: record.number, hash: record.hash.clone() },
            previous_hash: record.previous_hash.clone(),
        });
        true
    }

    fn last_number(&self) -> i64 {
        self.last.as_ref().map_or(self.passed_over, |last| last.head.number)
    }

    fn damage(&self, record: &Record) -> Option<Broken> {
        let (number, last) = (record.number, self.last_number());
        let broken = |number, damage, why| Some(Broken { number, damage, why });
        if number > last + 1 {
            let why = format!("entry {} is not there; the next one is {number}", last + 1);
            return broken(last + 1, Damage::Missing, why);
        }
        if number <= last || number < 1 {
            let why = format!("entry {number} stands where entry {} belongs", last + 1);
            return broken(number, Damage::Forked, why);
        }
        if record.computed_hash() != record.hash {
            return match record.original_number() {
                Some(original) => {
                    let why = format!("what bears the number {number} was written as entry {original}");
                    broken(number, Damage::Reordered, why)
                }
                None => broken(number, Damage::Edited, format!("entry {number} does not match its hash")),
            };
        }
        let follows = self.last.as_ref().map_or(NO_HASH, |last| &last.head.hash);
        if record.previous_hash != follows {
            let twin = self.last.as_ref().is_some_and(|last| last.previous_hash == record.previous_hash);
            let why = match (twin, last) {
                (true, _) => format!("entries {last} and {number} both follow the same entry"),
                (false, 0) => format!("entry {number} follows an entry that is not there"),
                (false, _) => {
                    format!("entry {number} follows another entry {last} than the one that is here")
                }
            };
            return broken(number, Damage::Forked, why);
        }
        let mut known = self.known.iter().filter(|known| known.number == number);
        known.any(|known| known.hash != record.hash).then(|| Broken {
            number,
            damage: Damage::Rewritten,
            why: format!("entry {number} is not the one of the known head"),
        })
    }

    /// What was found, after the last entry.
    pub fn report(mut self) -> Report {
        let last = self.last_number();
        let known = self.known.into_iter().max_by_key(|known| known.number);
        if let Some(known) = known.filter(|known| known.number > last && self.broken.is_none()) {
            self.broken = Some(Broken {
                number: last + 1,
                damage: Damage::Cut,
                why: format!("the log ends with entry {last}, and the known head is entry {}", known.number),
            });
        }
        Report {
            intact: self.broken.is_none(),
            entries: self.entries,
            head: self.last.map(|last| last.head),
            broken: self.broken,
            checkpoints: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: i64, previous_hash: &str) -> Record {
        let mut record = Record {
            number,
            at: "2026-01-02T03:04:05.678901Z".into(),
            pipeline: "main".into(),
            os_user: "ops".into(),
            host: "mirror1".into(),
            role: "pgdiode".into(),
            action: "resync".into(),
            reason: (number % 2 == 0).then(|| "case 7".to_owned()),
            verdict: "done".into(),
            details: RawValue::from_string(format!("{{\"tables\": [\"public.t{number}\"]}}")).unwrap(),
            previous_hash: previous_hash.into(),
            hash: String::new(),
        };
        record.hash = record.computed_hash();
        record
    }

    fn records(count: i64) -> Vec<Record> {
        let mut previous = NO_HASH.to_owned();
        let next = |number| {
            let record = record(number, &previous);
            previous.clone_from(&record.hash);
            record
        };
        (1..=count).map(next).collect()
    }

    fn report(records: &[Record], known: Option<Head>) -> Report {
        let mut chain = Chain::new(known);
        let _ = records.iter().all(|record| chain.takes(record));
        chain.report()
    }

    fn finds(records: &[Record], number: i64, damage: Damage) {
        let report = report(records, None);
        let broken = report.broken.clone().expect("the damage is found");
        assert_eq!((broken.number, broken.damage, report.intact), (number, damage, false), "{broken:?}");
    }

    fn head(record: &Record) -> Head {
        Head { number: record.number, hash: record.hash.clone() }
    }

    /// Computed by hand from the documented encoding: a change of it would break every stored log.
    #[test]
    fn the_encoding_is_the_documented_one() {
        let written = record(1, NO_HASH);
        let encoded = format!(
            "15:pgdiode audit 1,64:{NO_HASH},1:1,27:2026-01-02T03:04:05.678901Z,4:main,3:ops,7:mirror1,7:pgdiode,\
             6:resync,-,4:done,25:{{\"tables\": [\"public.t1\"]}},"
        );
        assert_eq!(written.hash, sha256(encoded.as_bytes()));
        assert_eq!(written.hash, EXPECTED);
    }

    const EXPECTED: &str = "a101d5d7c4322b50762d7990b796fe0999c17e743160fbf497d865fd999b0af7";

    #[test]
    fn what_was_written_is_intact() {
        let records = records(5);
        let found = report(&records, Some(head(&records[2])));
        assert_eq!((found.intact, found.entries, found.head), (true, 5, Some(head(&records[4]))));
        let empty = report(&[], None);
        assert_eq!((empty.intact, empty.entries, empty.head), (true, 0, None));
    }

    #[test]
    fn every_edit_is_found() {
        let edits: [fn(&mut Record); 11] = [
            |it| it.at = "2026-01-02T03:04:05.678902Z".into(),
            |it| it.pipeline.push('x'),
            |it| it.os_user.push('x'),
            |it| it.host.push('x'),
            |it| it.role.push('x'),
            |it| it.action = "reset".into(),
            |it| it.reason = None,
            |it| it.verdict = "failed".into(),
            |it| it.details = RawValue::from_string("{}".into()).unwrap(),
            |it| it.previous_hash = NO_HASH.into(),
            |it| it.hash = NO_HASH.into(),
        ];
        for edit in edits {
            let mut records = records(5);
            edit(&mut records[3]);
            finds(&records, 4, Damage::Edited);
        }
    }

    /// Text that moves from one field into the next makes another encoding.
    #[test]
    fn no_two_entries_are_encoded_alike() {
        let mut records = records(2);
        records[1].os_user = "op".into();
        records[1].host = "smirror1".into();
        finds(&records, 2, Damage::Edited);
    }

    #[test]
    fn what_is_gone_moved_or_added_is_found() {
        for gone in 0..4 {
            let mut records = records(5);
            records.remove(gone);
            finds(&records, i64::try_from(gone).unwrap() + 1, Damage::Missing);
            for (index, record) in records.iter_mut().enumerate() {
                record.number = i64::try_from(index).unwrap() + 1;
            }
            finds(&records, i64::try_from(gone).unwrap() + 1, Damage::Reordered);
        }
        let mut swapped = records(5);
        swapped.swap(1, 3);
        (swapped[1].number, swapped[3].number) = (2, 4);
        finds(&swapped, 2, Damage::Reordered);

        let mut twice = records(5);
        twice.insert(3, record(3, &twice[1].hash));
        finds(&twice, 3, Damage::Forked);

        let mut grafted = records(3);
        grafted.push(record(4, &grafted[1].hash));
        finds(&grafted, 4, Damage::Forked);

        // An edited entry with a hash made anew is no longer the one that its successor names.
        let mut rehashed = records(3);
        rehashed[1].verdict = "failed".into();
        rehashed[1].hash = rehashed[1].computed_hash();
        finds(&rehashed, 3, Damage::Forked);
    }

    #[test]
    fn a_known_head_shows_a_cut_and_a_log_made_anew() {
        let whole = records(5);
        let known = head(&whole[4]);
        let cut = report(&whole[..3], Some(known.clone())).broken.expect("the cut is found");
        assert_eq!((cut.number, cut.damage), (4, Damage::Cut));
        let nothing = report(&[], Some(known.clone())).broken.expect("the cut is found");
        assert_eq!((nothing.number, nothing.damage), (1, Damage::Cut));

        let mut anew = whole[..2].to_vec();
        for number in 3..=6 {
            let mut next = record(number, &anew.last().unwrap().hash);
            next.verdict = "failed".into();
            next.hash = next.computed_hash();
            anew.push(next);
        }
        assert!(report(&anew, None).intact, "only a head that was kept elsewhere shows this");
        let rewritten = report(&anew, Some(known)).broken.expect("the other history is found");
        assert_eq!((rewritten.number, rewritten.damage), (5, Damage::Rewritten));
    }

    #[test]
    fn a_part_is_checked_from_what_is_known_of_its_begin() {
        let whole = records(6);
        let part = |records: &[Record], known: Head| {
            let mut chain = Chain::from(known.number, [known]);
            let _ = records.iter().all(|record| chain.takes(record));
            chain.report()
        };
        let known = head(&whole[2]);
        let found = part(&whole[2..], known.clone());
        assert_eq!((found.intact, found.entries, found.head), (true, 4, Some(head(&whole[5]))));
        assert_eq!(part(&whole[3..], known.clone()).broken.unwrap().damage, Damage::Missing);
        assert_eq!(part(&[], known.clone()).broken.unwrap().damage, Damage::Cut);
        let mut other = whole[2..].to_vec();
        other[0].verdict = "failed".into();
        other[0].hash = other[0].computed_hash();
        assert_eq!(part(&other, known).broken.unwrap().damage, Damage::Rewritten);
    }

    #[test]
    fn heads_are_read_as_they_are_printed() {
        let head = head(&record(7, NO_HASH));
        assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
        for text in [
            "",
            "7",
            "7:",
            "0:".to_owned().as_str(),
            "7:abc",
            &format!("0:{NO_HASH}"),
            &format!("x:{NO_HASH}"),
        ] {
            assert!(text.parse::<Head>().is_err(), "{text}");
        }
    }
}
