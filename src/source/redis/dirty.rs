//! Keys that were written and are not yet applied: each once, however often it was written.
//!
//! The stream adds, the pipeline takes all there is. The set is never larger than its budget: first values are let go
//! of, which are then fetched, and then single keys, whose database is then looked at whole. The primary never waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use super::commands::{Effect, Expiry};
use super::together::Groups;
use crate::keyspace::Key;

/// Which keys of which databases are of interest.
pub type Wanted = Arc<dyn Fn(u32, &[u8]) -> bool + Send + Sync>;

/// Beside its name and value a waiting key takes about this much.
const KEY_BYTES: usize = 160;

/// What is known of a key that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The last whole value that came, even where the key was then touched or removed.
    pub value: Option<Inline>,
    pub what: What,
    /// Where in the history it was first written since the last take, for the order; and last.
    pub first: u64,
    pub last: u64,
    /// Keys with the same number were written in one transaction, or in several that have keys in common.
    pub group: Option<u32>,
}

impl Pending {
    /// Nothing was heard of the key, and it is to be looked at now: nothing that is stored of it is younger than that.
    pub fn look() -> Pending {
        Pending { value: None, what: What::Touched, first: u64::MAX, last: u64::MAX, group: None }
    }
}

/// A string's value that came with the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inline {
    pub value: Bytes,
    /// Milliseconds since 1970.
    pub expires_at: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// [`Pending::value`] is what the key holds.
    Valued,
    /// To be fetched.
    Touched,
    /// Milliseconds since 1970.
    Gone { at: i64 },
}

/// Everything up to a moment.
#[derive(Debug, Default)]
pub struct Taken {
    /// In the order in which they were first written; those of one group together.
    pub keys: Vec<(Key, Pending)>,
    /// Databases of which every key must be looked at, and every known one.
    pub rescan: BTreeSet<u32>,
    /// Of these, those that may have lost all their keys because somebody said so.
    pub emptied: BTreeSet<u32>,
}

/// The set. What happens between [`Effect::Begin`] and its end waits aside.
pub struct Dirty {
    wanted: Wanted,
    databases: Vec<u32>,
    keys: BTreeMap<u32, HashMap<Bytes, Pending>>,
    rescan: BTreeSet<u32>,
    emptied: BTreeSet<u32>,
    bytes: usize,
    bytes_max: usize,
    /// What commands of an open transaction did, and how much that takes.
    open: Option<(Vec<Step>, usize)>,
    groups: Groups,
}

/// What happened to one key.
#[derive(Debug)]
struct Step {
    database: Option<u32>,
    key: Bytes,
    act: Act,
    at: u64,
}

#[derive(Debug)]
enum Act {
    Set(Inline),
    Gone { at: i64 },
    Expires(Option<i64>),
    Touch,
}

/// When and where an effect came.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The database that was selected; `None` while no command has said it.
    pub database: Option<u32>,
    /// The history's offset behind the command.
    pub offset: u64,
    /// The server's clock, milliseconds since 1970.
    pub now: i64,
}

impl Dirty {
    pub fn new(wanted: Wanted, databases: &[u32], bytes_max: usize) -> Dirty {
        Dirty {
            wanted,
            databases: databases.to_vec(),
            keys: BTreeMap::new(),
            rescan: BTreeSet::new(),
            emptied: BTreeSet::new(),
            bytes: 0,
            bytes_max,
            open: None,
            groups: Groups::default(),
        }
    }

    /// Whether a transaction of the source has begun and not ended: no moment to stop at.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.rescan.is_empty() && self.keys.values().all(HashMap::is_empty)
    }

    pub fn len(&self) -> usize {
        self.keys.values().map(HashMap::len).sum()
    }

    /// Forgets the transaction that was cut off: it will come again, whole.
    pub fn forget_open(&mut self) {
        self.open = None;
    }

    /// Every key may be another.
    pub fn rescan_all(&mut self) {
        self.rescan.extend(&self.databases);
    }

    /// All keys and databases that wait. Not while a transaction is open.
    pub fn take(&mut self) -> Taken {
        let mut keys: Vec<(Key, Pending)> = Vec::with_capacity(self.len());
        for (database, waiting) in mem::take(&mut self.keys) {
            keys.extend(waiting.into_iter().map(|(name, pending)| (Key::new(database, name), pending)));
        }
        self.gather(&mut keys);
        self.bytes = 0;
        Taken { keys, rescan: mem::take(&mut self.rescan), emptied: mem::take(&mut self.emptied) }
    }

    /// Adds what a command did. What says nothing of keys (`Selected`, `Asked`) is the caller's.
    pub fn add(&mut self, effect: Effect<'_>, moment: Moment) {
        match effect {
            Effect::Begin => self.open = Some((Vec::new(), 0)),
            Effect::End => {
                let (steps, _) = self.open.take().unwrap_or_default();
                if steps.len() > 1 {
                    self.groups.begin();
                }
                for Step { database, key, act, at } in steps {
                    self.step(database, &key, act, at);
                }
                self.groups.end();
            }
            Effect::Selected(_) | Effect::Asked => {}
            Effect::Flushed { all } => self.rescan(if all { None } else { moment.database }, true),
            Effect::Swapped(one, other) => {
                self.rescan(Some(one), true);
                self.rescan(Some(other), true);
            }
            Effect::Anything => self.rescan(moment.database, false),
            Effect::Set { key, value, expiry } => {
                self.enter(key, moment.database, moment, |set| set.act_of(value, expiry, moment.now));
            }
            Effect::Gone { key } => {
                self.enter(key, moment.database, moment, |_| Act::Gone { at: moment.now });
            }
            Effect::Expires { key, at } => self.enter(key, moment.database, moment, |_| Act::Expires(at)),
            Effect::Touched { database, key } => {
                self.enter(key, database.or(moment.database), moment, |_| Act::Touch);
            }
        }
    }

    /// Remembers what was done to `key`, at once or with the open transaction, if the key is of interest.
    fn enter(&mut self, key: &[u8], database: Option<u32>, moment: Moment, act: impl FnOnce(&Dirty) -> Act) {
        let is_wanted = match database {
            Some(database) => (self.wanted)(database, key),
            None => self.databases.iter().any(|&database| (self.wanted)(database, key)),
        };
        if !is_wanted {
            return;
        }
        let act = act(self);
        let Some((steps, bytes)) = &mut self.open else {
            return self.step(database, key, act, moment.offset);
        };
        *bytes += KEY_BYTES + key.len() + act.bytes();
        steps.push(Step { database, key: Bytes::copy_from_slice(key), act, at: moment.offset });
        if *bytes > self.bytes_max {
            // A transaction larger than memory: all its keys are in databases that are looked at whole.
            self.open = Some((Vec::new(), 0));
            self.rescan(None, false);
        }
    }

    fn act_of(&self, value: &[u8], expiry: Expiry, now: i64) -> Act {
        let expires_at = match expiry {
            Expiry::Never => None,
            Expiry::At(at) => Some(at),
            // From when it arrived: what it took to come here is put right when the key is next looked at.
            Expiry::In(milliseconds) => Some(now.saturating_add(milliseconds)),
            Expiry::Kept => return Act::Touch,
        };
        if self.bytes + value.len() > self.bytes_max / 2 {
            return Act::Touch;
        }
        Act::Set(Inline { value: Bytes::copy_from_slice(value), expires_at })
    }

    fn rescan(&mut self, database: Option<u32>, is_emptied: bool) {
        let databases = self.databases.iter().copied();
        let concerned: Vec<u32> =
            databases.filter(|&own| database.is_none_or(|database| database == own)).collect();
        if is_emptied {
            self.emptied.extend(&concerned);
        }
        self.rescan.extend(concerned);
    }

    fn step(&mut self, database: Option<u32>, key: &[u8], act: Act, at: u64) {
        let Some(database) = database else {
            // Nobody has said which database it was: the server knows what each of them holds.
            for database in self.databases.clone() {
                if (self.wanted)(database, key) {
                    self.pending(database, key, at).what = What::Touched;
                }
            }
            return;
        };
        let added = act.bytes();
        let pending = self.pending(database, key, at);
        let mut removed = 0;
        match (act, &mut pending.value) {
            (Act::Set(value), before) => {
                removed = before.replace(value).map_or(0, |before| before.value.len());
                pending.what = What::Valued;
            }
            (Act::Gone { at }, _) => pending.what = What::Gone { at },
            (Act::Expires(at), Some(value)) if pending.what == What::Valued => value.expires_at = at,
            (Act::Expires(_) | Act::Touch, _) => pending.what = What::Touched,
        }
        self.bytes = self.bytes + added - removed;
    }

    /// The key's place in the set.
    fn pending(&mut self, database: u32, key: &[u8], at: u64) -> &mut Pending {
        if self.bytes > self.bytes_max {
            self.let_go();
        }
        let waiting = self.keys.entry(database).or_default();
        if !waiting.contains_key(key) {
            self.bytes += KEY_BYTES + key.len();
            let fresh = Pending { value: None, what: What::Touched, first: at, last: at, group: None };
            waiting.insert(Bytes::copy_from_slice(key), fresh);
        }
        let pending = waiting.get_mut(key).expect("it has just been put there where it was not");
        pending.last = at;
        self.groups.join(&mut pending.group);
        pending
    }

    /// Puts keys in the order in which they were written, and those of a group together. Where one of a group must be
    /// fetched all are, in one look: else one would be of now and another of then.
    fn gather(&mut self, keys: &mut [(Key, Pending)]) {
        let mut groups: HashMap<u32, (u64, bool)> = HashMap::new();
        for (_, pending) in keys.iter_mut() {
            let Some(group) = &mut pending.group else { continue };
            *group = self.groups.root(*group);
            let (first, is_fetched) = groups.entry(*group).or_insert((pending.first, false));
            *first = pending.first.min(*first);
            *is_fetched |= pending.what == What::Touched;
        }
        self.groups.clear();
        for (_, pending) in keys.iter_mut() {
            if pending.group.is_some_and(|group| groups[&group].1) {
                pending.what = What::Touched;
            }
        }
        let place = |pending: &Pending| {
            let first = pending.group.map_or(pending.first, |group| groups[&group].0);
            (first, pending.group, pending.first)
        };
        keys.sort_unstable_by(|(one, first), (other, second)| {
            (place(first), one).cmp(&(place(second), other))
        });
    }

    /// Trades memory for work: values are fetched again, and where that is not enough whole databases looked at.
    fn let_go(&mut self) {
        for pending in self.keys.values_mut().flat_map(HashMap::values_mut) {
            if let Some(value) = pending.value.take() {
                self.bytes -= value.value.len();
                if pending.what == What::Valued {
                    pending.what = What::Touched;
                }
            }
        }
        if self.bytes > self.bytes_max / 2 {
            tracing::warn!(keys = self.len(), "too many keys wait to be applied: all keys will be looked at");
            self.rescan.extend(self.keys.keys());
            self.keys.clear();
            self.bytes = 0;
        }
    }
}

impl Act {
    /// What its value takes.
    fn bytes(&self) -> usize {
        match self {
            Act::Set(value) => value.value.len(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Moment = Moment { database: Some(0), offset: 1, now: 1000 };

    fn dirty(bytes_max: usize) -> Dirty {
        Dirty::new(Arc::new(|database, key| database < 2 && key.starts_with(b"s:")), &[0, 1], bytes_max)
    }

    fn at(offset: u64) -> Moment {
        Moment { offset, ..AT }
    }

    fn set(key: &'static str, value: &'static str) -> Effect<'static> {
        Effect::Set { key: key.as_bytes(), value: value.as_bytes(), expiry: Expiry::Never }
    }

    fn touched(key: &'static str) -> Effect<'static> {
        Effect::Touched { database: None, key: key.as_bytes() }
    }

    fn gone(key: &'static str) -> Effect<'static> {
        Effect::Gone { key: key.as_bytes() }
    }

    /// What waits, in words.
    fn told(dirty: &mut Dirty) -> Vec<String> {
        let keys = dirty.take().keys.into_iter().map(|(key, pending)| {
            let value = pending.value.map(|value| String::from_utf8_lossy(&value.value).into_owned());
            let name = String::from_utf8_lossy(&key.name).into_owned();
            format!("{} {name} {value:?} {:?}", key.database, pending.what)
        });
        keys.collect()
    }

    #[test]
    fn the_last_word_about_a_key_counts() {
        let mut dirty = dirty(10_000);
        for (offset, effect) in
            [set("s:a", "1"), set("s:b", "1"), touched("s:a"), set("s:a", "2"), set("other", "1")]
                .into_iter()
                .enumerate()
        {
            dirty.add(effect, at(offset as u64));
        }
        assert_eq!(told(&mut dirty), ["0 s:a Some(\"2\") Valued", "0 s:b Some(\"1\") Valued"]);
        assert!(dirty.is_empty());
        dirty.add(set("s:a", "3"), at(7));
        dirty.add(gone("s:a"), at(8));
        dirty.add(touched("s:b"), at(9));
        assert_eq!(told(&mut dirty), ["0 s:a Some(\"3\") Gone { at: 1000 }", "0 s:b None Touched"]);
    }

    #[test]
    fn an_expiry_changes_the_value_that_waits_or_asks_for_it() {
        let mut dirty = dirty(10_000);
        dirty.add(Effect::Set { key: b"s:a", value: b"1", expiry: Expiry::In(50) }, AT);
        dirty.add(Effect::Expires { key: b"s:b", at: Some(9) }, AT);
        let taken = dirty.take();
        assert_eq!(taken.keys[0].1.value.as_ref().unwrap().expires_at, Some(1050));
        assert_eq!(taken.keys[1].1.what, What::Touched);
        dirty.add(set("s:a", "1"), AT);
        dirty.add(Effect::Expires { key: b"s:a", at: Some(9) }, AT);
        let pending = dirty.take().keys.remove(0).1;
        assert_eq!((pending.what, pending.value.unwrap().expires_at), (What::Valued, Some(9)));
    }

    #[test]
    fn a_transaction_enters_whole() {
        let mut dirty = dirty(10_000);
        dirty.add(Effect::Begin, AT);
        dirty.add(set("s:a", "1"), AT);
        assert!(dirty.is_open() && dirty.is_empty());
        dirty.forget_open();
        assert!(!dirty.is_open());
        dirty.add(Effect::Begin, AT);
        dirty.add(set("s:a", "2"), AT);
        dirty.add(Effect::End, AT);
        assert_eq!(told(&mut dirty), ["0 s:a Some(\"2\") Valued"]);
    }

    #[test]
    fn what_a_transaction_wrote_stands_together_and_is_fetched_together() {
        let mut dirty = dirty(10_000);
        let mut write = |effects: &[Effect<'static>], from: u64| {
            let is_transaction = effects.len() > 1;
            is_transaction.then(|| dirty.add(Effect::Begin, at(from)));
            for (offset, effect) in (from..).zip(effects) {
                dirty.add(*effect, at(offset));
            }
            is_transaction.then(|| dirty.add(Effect::End, at(from)));
        };
        write(&[set("s:a", "1"), set("s:b", "1")], 1);
        write(&[set("s:x", "1")], 5);
        write(&[set("s:b", "2"), touched("s:c")], 10);
        write(&[set("s:p", "1"), gone("s:q")], 20);
        let taken = dirty.take().keys;
        let shown: Vec<String> = taken
            .iter()
            .map(|(key, pending)| format!("{} {:?}", String::from_utf8_lossy(&key.name), pending.what))
            .collect();
        assert_eq!(
            shown,
            [
                "s:a Touched",
                "s:b Touched",
                "s:c Touched",
                "s:x Valued",
                "s:p Valued",
                "s:q Gone { at: 1000 }"
            ]
        );
        let groups: Vec<_> = taken.iter().map(|(_, pending)| pending.group).collect();
        assert!(groups[0].is_some() && groups[0] == groups[1] && groups[1] == groups[2], "{groups:?}");
        assert!(groups[3].is_none() && groups[4].is_some() && groups[4] == groups[5], "{groups:?}");
    }

    #[test]
    fn without_a_database_every_one_is_meant() {
        let mut dirty = dirty(10_000);
        dirty.add(set("s:a", "1"), Moment { database: None, ..AT });
        assert_eq!(told(&mut dirty), ["0 s:a None Touched", "1 s:a None Touched"]);
        dirty.add(Effect::Flushed { all: false }, Moment { database: None, ..AT });
        assert_eq!(dirty.take().emptied, BTreeSet::from([0, 1]));
        dirty.add(Effect::Swapped(1, 7), AT);
        assert_eq!(dirty.take().rescan, BTreeSet::from([1]));
        dirty.add(Effect::Touched { database: Some(1), key: b"s:a" }, AT);
        assert_eq!(told(&mut dirty), ["1 s:a None Touched"]);
    }

    #[test]
    fn beyond_its_budget_it_asks_for_a_look_at_everything_and_loses_nothing() {
        let mut dirty = dirty(4000);
        for number in 0..1000 {
            let key = format!("s:{number}");
            dirty.add(Effect::Set { key: key.as_bytes(), value: &[b'x'; 100], expiry: Expiry::Never }, AT);
            assert!(dirty.bytes <= 4000 + KEY_BYTES + 110, "{}", dirty.bytes);
        }
        assert_eq!(dirty.take().rescan, BTreeSet::from([0]));
        dirty.add(Effect::Begin, AT);
        for number in 0..1000 {
            dirty.add(gone(Box::leak(format!("s:{number}").into_boxed_str())), AT);
        }
        dirty.add(Effect::End, AT);
        assert_eq!(dirty.take().rescan, BTreeSet::from([0, 1]));
    }
}
