//! The names of an archive's objects.

use crate::archive::pack::Span;

/// Digits of a number in a name: so that names sort as numbers do, and `ls` shows the order.
const DIGITS: usize = 10;

pub const IDENTITY: &str = "meta/archive.json";
pub const MANIFESTS: &str = "meta/files";
pub const EPOCHS: &str = "meta/epochs";
pub const READERS: &str = "meta/readers";
pub const PRUNED: &str = "meta/pruned";
pub const BASES: &str = "bases";
pub const PACKS: &str = "packs";
pub const PACK_MANIFESTS: &str = "meta/packs";
/// Where it is, the archive is a pipeline's spill: filled and emptied by it alone.
pub const SPILL: &str = "meta/spill.json";

/// How an object's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stored {
    #[default]
    Plain,
    Zstd,
    /// Encrypted.
    Age,
    /// Compressed, then encrypted.
    ZstdAge,
}

impl Stored {
    pub const ALL: [Stored; 4] = [Stored::Plain, Stored::Zstd, Stored::Age, Stored::ZstdAge];

    /// By an object's name.
    pub fn of(name: &str) -> Stored {
        let is = |stored: &Stored| *stored != Stored::Plain && name.ends_with(stored.suffix());
        // The longest suffix first.
        Stored::ALL.into_iter().rev().find(is).unwrap_or_default()
    }

    /// What it adds to a name.
    pub fn suffix(self) -> &'static str {
        match self {
            Stored::Plain => "",
            Stored::Zstd => ".zst",
            Stored::Age => ".age",
            Stored::ZstdAge => ".zst.age",
        }
    }

    pub fn is_compressed(self) -> bool {
        matches!(self, Stored::Zstd | Stored::ZstdAge)
    }

    pub fn is_encrypted(self) -> bool {
        matches!(self, Stored::Age | Stored::ZstdAge)
    }

    #[must_use]
    pub fn encrypted(self) -> Stored {
        if self.is_compressed() { Stored::ZstdAge } else { Stored::Age }
    }
}

pub fn change_file(number: u64, stored: Stored) -> String {
    format!("{number:0DIGITS$}.json{}", stored.suffix())
}

/// A change file that a writer puts beside one of the same number, which was left there without a manifest and which it
/// cannot vouch for.
pub fn superseding_file(number: u64, epoch: u64, stored: Stored) -> String {
    format!("{number:0DIGITS$}-{epoch:0DIGITS$}.json{}", stored.suffix())
}

/// The number of a change file of ours, and how it is stored; `None` for any other name.
pub fn parse_change_file(name: &str) -> Option<(u64, Stored)> {
    let stored = Stored::of(name);
    let stem = name.strip_suffix(stored.suffix())?.strip_suffix(".json")?;
    let (digits, epoch) = stem.split_once('-').map_or((stem, None), |(digits, epoch)| (digits, Some(epoch)));
    epoch.is_none_or(|epoch| parse_number(epoch).is_some()).then_some((parse_number(digits)?, stored))
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

/// Holds these files, one after the other.
pub fn pack(span: Span) -> String {
    format!("{PACKS}/{:0DIGITS$}-{:0DIGITS$}.pack", span.first, span.last)
}

/// The pack counts once this is there.
pub fn pack_manifest(span: Span) -> String {
    format!("{PACK_MANIFESTS}/{:0DIGITS$}-{:0DIGITS$}.json", span.first, span.last)
}

/// The files of a pack, by its name or its manifest's.
pub fn parse_pack(name: &str) -> Option<Span> {
    let last = name.rsplit('/').next()?;
    let stem = last.strip_suffix(".json").or_else(|| last.strip_suffix(".pack"))?;
    let (first, last) = stem.split_once('-')?;
    let span = Span::new(parse_number(first)?, parse_number(last)?)?;
    [pack(span), pack_manifest(span)].iter().any(|own| own == name).then_some(span)
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
        for stored in Stored::ALL {
            assert_eq!(parse_change_file(&change_file(42, stored)), Some((42, stored)));
            assert_eq!(parse_change_file(&superseding_file(42, 7, stored)), Some((42, stored)));
        }
        assert_eq!(superseding_file(42, 7, Stored::ZstdAge), "0000000042-0000000007.json.zst.age");
        assert_eq!(change_file(42, Stored::Plain), "0000000042.json");
        assert_eq!(parse_numbered(&manifest(7)), Some(7));
        assert_eq!(parse_numbered(&epoch(7)), Some(7));
        assert_eq!(parse_numbered(&base(7)), Some(7));
        let span = Span::new(7, 42).unwrap();
        assert_eq!(pack(span), "packs/0000000007-0000000042.pack");
        assert_eq!(parse_pack(&pack(span)), Some(span));
        assert_eq!(parse_pack(&pack_manifest(span)), Some(span));
        for other in [
            "packs/0000000042-0000000007.pack",
            "packs/0000000007-0000000042.json",
            "meta/packs/0000000007.json",
            "meta/packs/0000000001-9999999999.json",
        ] {
            assert_eq!(parse_pack(other), None, "{other}");
        }
        for other in [
            "42.json",
            "changes.json",
            "0000000000.json",
            "0000000042.jsonl",
            "+000000042.json",
            "0000000042-7.json",
            "0000000042-.json",
        ] {
            assert_eq!(parse_change_file(other), None, "{other}");
        }
    }
}
