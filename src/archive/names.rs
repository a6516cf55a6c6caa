//! The names of an archive's objects.

/// Digits of a number in a name: so that names sort as numbers do, and `ls` shows the order.
const DIGITS: usize = 10;

pub const IDENTITY: &str = "meta/archive.json";
pub const MANIFESTS: &str = "meta/files";
pub const EPOCHS: &str = "meta/epochs";
pub const READERS: &str = "meta/readers";
pub const PRUNED: &str = "meta/pruned";
pub const BASES: &str = "bases";

/// How a change file's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stored {
    #[default]
    Plain,
    Zstd,
}

pub fn change_file(number: u64, stored: Stored) -> String {
    match stored {
        Stored::Plain => format!("{number:0DIGITS$}.json"),
        Stored::Zstd => format!("{number:0DIGITS$}.json.zst"),
    }
}

/// The number of a change file of ours, and how it is stored; `None` for any other name.
pub fn parse_change_file(name: &str) -> Option<(u64, Stored)> {
    let (digits, stored) = match name.strip_suffix(".json.zst") {
        Some(digits) => (digits, Stored::Zstd),
        None => (name.strip_suffix(".json")?, Stored::Plain),
    };
    Some((parse_number(digits)?, stored))
}

pub fn manifest(number: u64) -> String {
    format!("{MANIFESTS}/{number:0DIGITS$}.json")
}

pub fn epoch(number: u64) -> String {
    format!("{EPOCHS}/{number:0DIGITS$}.json")
}

/// How far the reader of this name is.
pub fn reader(name: &str) -> String {
    format!("{READERS}/{name}.json")
}

/// Says that the files up to this one were removed on purpose.
pub fn pruned(number: u64) -> String {
    format!("{PRUNED}/{number:0DIGITS$}.json")
}

pub fn base(number: u64) -> String {
    format!("{BASES}/{number:0DIGITS$}")
}

/// The base is there once this is.
pub fn base_manifest(number: u64) -> String {
    format!("{}/manifest.json", base(number))
}

/// The number in the last part of a manifest's, a claim's or a base's name.
pub fn parse_numbered(name: &str) -> Option<u64> {
    let last = name.rsplit('/').next()?;
    parse_number(last.strip_suffix(".json").unwrap_or(last))
}

fn parse_number(digits: &str) -> Option<u64> {
    let is_number = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { digits.parse().ok().filter(|number| *number > 0) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_numbers() {
        for stored in [Stored::Plain, Stored::Zstd] {
            assert_eq!(parse_change_file(&change_file(42, stored)), Some((42, stored)));
        }
        assert_eq!(change_file(42, Stored::Plain), "0000000042.json");
        assert_eq!(parse_numbered(&manifest(7)), Some(7));
        assert_eq!(parse_numbered(&epoch(7)), Some(7));
        assert_eq!(parse_numbered(&base(7)), Some(7));
        for other in ["42.json", "changes.json", "0000000000.json", "0000000042.jsonl", "+000000042.json"] {
            assert_eq!(parse_change_file(other), None, "{other}");
        }
    }
}
