//! What a mapping makes of the keys that are there: some of them are looked at, and mapped as a run would. Names are shown
//! as far as their first separator, values never.

use std::collections::BTreeMap;

use super::super::{Survey, counted};
use crate::config::written;
use crate::error::Result;
use crate::keyspace::{Entry, Key};
use crate::redis::connection::Connection;
use crate::redis::resp::Reply;
use crate::source::redis::fetch::Kind;
use crate::source::redis::mapping::Mapper;
use crate::source::redis::reader::Reader;
use crate::source::redis::scan::Scan;

/// Keys of a database whose names are looked at.
const KEYS_MAX: usize = 10_000;
/// Keys of a pattern whose values are.
const VALUES_MAX: usize = 200;
/// Values that are asked for at once, and what they may hold altogether.
const VALUES_AT_ONCE: usize = 20;
const BYTES_MAX: usize = 32 << 20;
/// Prefixes of keys that no pattern matches, and reasons of a table, that are shown.
const SHOWN_MAX: usize = 5;
const PREFIX_MAX: usize = 32;

/// Keys of one pattern.
#[derive(Default)]
struct Matched {
    keys: u64,
    types: BTreeMap<String, u64>,
    sample: Vec<Key>,
}

/// What the values of one pattern's sample become.
#[derive(Default)]
struct Mapped {
    values: usize,
    /// By the table's index.
    rows: BTreeMap<usize, usize>,
    /// By the table's index, where there is one, and the reason.
    misfits: BTreeMap<(Option<usize>, String), u64>,
}

impl Survey<'_> {
    pub(super) async fn sample(&mut self, mut reader: Reader, mapper: &Mapper) -> Result<()> {
        let patterns = mapper.patterns();
        let mut matched: Vec<Matched> = patterns.iter().map(|_| Matched::default()).collect();
        let mut others: BTreeMap<String, u64> = BTreeMap::new();
        for &database in mapper.databases() {
            let mut scan = Scan::new(database, &[]);
            let (mut seen, mut is_whole) = (0, true);
            while let Some(keys) = reader.scan(&mut scan).await? {
                seen += keys.len();
                let types = types(reader.scanned(&scan), &keys).await?;
                for (key, name) in keys.into_iter().zip(types) {
                    let Some(pattern) = mapper.pattern_of(&key) else {
                        *others.entry(prefix(&key.name)).or_default() += 1;
                        continue;
                    };
                    let matched = &mut matched[pattern];
                    matched.keys += 1;
                    *matched.types.entry(name).or_default() += 1;
                    if matched.sample.len() < VALUES_MAX {
                        matched.sample.push(key);
                    }
                }
                if seen >= KEYS_MAX {
                    is_whole = false;
                    break;
                }
            }
            let all = if is_whole { "all" } else { "a sample" };
            self.report
                .ok(format!("database {database}: looked at {}, {all} that it has", counted(seen, "key")));
        }
        self.unmatched(&others);
        for (pattern, matched) in patterns.iter().zip(&matched) {
            if matched.keys == 0 {
                self.report.warn(
                    format!("no key matches the pattern {pattern}"),
                    "nothing is wrong where such keys are yet to come; else correct the pattern",
                );
                continue;
            }
            let types: Vec<String> =
                matched.types.iter().map(|(name, number)| format!("{number} {name}")).collect();
            self.report.ok(format!(
                "pattern {pattern}: {} ({})",
                counted(usize::try_from(matched.keys).unwrap_or(usize::MAX), "key"),
                types.join(", ")
            ));
            let mapped = mapped(&mut reader, mapper, &matched.sample).await;
            if let Some(mapped) = self.kept(mapped) {
                self.mapped(pattern, mapper, &mapped);
            }
        }
        Ok(())
    }

    fn unmatched(&mut self, others: &BTreeMap<String, u64>) {
        if others.is_empty() {
            return;
        }
        let mut prefixes: Vec<(&String, &u64)> = others.iter().collect();
        prefixes.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
        let shown: Vec<String> =
            prefixes.iter().take(SHOWN_MAX).map(|(prefix, number)| format!("{number} of {prefix}")).collect();
        let more = match prefixes.len().saturating_sub(SHOWN_MAX) {
            0 => String::new(),
            more => format!(" and {more} other prefixes"),
        };
        let sum: u64 = others.values().sum();
        self.report.ok(format!("no pattern matches {sum} of these keys: {}{more}", shown.join(", ")));
    }

    fn mapped(&mut self, pattern: &str, mapper: &Mapper, mapped: &Mapped) {
        let table = |index: &usize| written(&mapper.layout().tables[*index].name);
        let rows: Vec<String> =
            mapped.rows.iter().map(|(index, rows)| format!("{rows} of {}", table(index))).collect();
        let rows = if rows.is_empty() { "none".to_owned() } else { rows.join(", ") };
        self.report.ok(format!(
            "pattern {pattern}: {} would become rows: {rows}",
            counted(mapped.values, "sampled key")
        ));
        if mapped.misfits.is_empty() {
            return;
        }
        let mut misfits: Vec<_> = mapped.misfits.iter().collect();
        misfits.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
        let shown = misfits.iter().take(SHOWN_MAX).map(|((index, reason), number)| {
            let at = index.as_ref().map_or_else(|| "the whole value".to_owned(), table);
            format!("{number} of {at}: {reason}")
        });
        self.report.warn(
            format!(
                "pattern {pattern}: of these would become no row: {}",
                shown.collect::<Vec<_>>().join("; ")
            ),
            "they are kept in pgdiode.keyspace_misfit; where they should be rows, change the mapping",
        );
    }
}

/// As far as the first separator.
fn prefix(name: &[u8]) -> String {
    let end = name.iter().position(|byte| b":/|.".contains(byte));
    match end.filter(|end| *end <= PREFIX_MAX) {
        Some(end) => format!("{}*", name[..=end].escape_ascii()),
        None => "names without a prefix".to_owned(),
    }
}

/// The server's name for the type of each key; `none` of one that is gone by now.
async fn types(connection: &mut Connection, keys: &[Key]) -> Result<Vec<String>> {
    for key in keys {
        connection.send(&[b"TYPE", &key.name]);
    }
    connection.flush().await?;
    let mut types = Vec::with_capacity(keys.len());
    for _ in keys {
        types.push(match connection.reply().await? {
            // Of keys that no pattern matches nobody need be allowed to ask.
            Reply::Error(_) => "of unknown type".to_owned(),
            reply => reply.text().unwrap_or_default().to_owned(),
        });
    }
    Ok(types)
}

async fn mapped(reader: &mut Reader, mapper: &Mapper, sample: &[Key]) -> Result<Mapped> {
    let mut mapped = Mapped::default();
    let mut bytes = 0;
    for keys in sample.chunks(VALUES_AT_ONCE) {
        let asked: Vec<(Key, Kind)> =
            keys.iter().filter_map(|key| Some((key.clone(), mapper.kind(key)?))).collect();
        let fetched = reader.fetch(&asked).await?;
        for ((key, _), found) in asked.iter().zip(fetched.values) {
            let Some(found) = found else { continue };
            bytes += found.value.bytes();
            mapped.add(mapper.map(key, &found.value, found.expires_at));
        }
        if bytes > BYTES_MAX {
            break;
        }
    }
    Ok(mapped)
}

impl Mapped {
    fn add(&mut self, entry: Entry) {
        self.values += 1;
        for part in entry.parts.iter().filter(|part| !part.rows.is_empty()) {
            *self.rows.entry(part.table).or_default() += part.rows.len();
        }
        for misfit in entry.misfits {
            *self.misfits.entry((misfit.table, misfit.reason)).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_far_as_their_first_separator() {
        assert_eq!(prefix(b"cart:secret:1"), "cart:*");
        assert_eq!(prefix(b"token-of-somebody"), "names without a prefix");
        assert_eq!(prefix(b"\xff:1"), "\\xff:*");
        assert_eq!(prefix(&[&[b'x'; 100][..], b":1"].concat()), "names without a prefix");
    }
}
