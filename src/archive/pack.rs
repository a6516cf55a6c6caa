//! Packs: many change files in one object, byte for byte one after the other, and their manifests in another.
//!
//! ```text
//! packs/0000000001-0000001000.pack       the stored files 1 to 1000
//! meta/packs/0000000001-0000001000.json  a [`Pack`]: where each begins, and its manifest as it was
//! ```
//!
//! Nothing is opened, decompressed or signed again: hashes, the chain and signatures are those of the files. A pack
//! counts once its manifest is there, and only then the single objects go.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::archive::{manifest, names};
use crate::error::{Error, Kind, Result};

/// No pack has more, whoever made it: a name alone must not make a reader count to a billion.
pub const FILES_MAX: u64 = 10_000;

/// Consecutive change files, ordered by the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub first: u64,
    /// `first <= last`.
    pub last: u64,
}

impl Span {
    /// `None` where no pack can be of these files.
    pub fn new(first: u64, last: u64) -> Option<Span> {
        let is_one = first > 0 && first <= last && last - first < FILES_MAX;
        is_one.then_some(Span { first, last })
    }

    pub fn numbers(self) -> RangeInclusive<u64> {
        self.first..=self.last
    }

    pub fn files(self) -> u64 {
        self.last - self.first + 1
    }

    pub fn overlaps(self, other: Span) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// A pack's manifest. It says nothing that the files in it do not say: whoever packs the same files writes the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    pub format: u32,
    pub archive: String,
    /// The object that holds the files.
    pub name: String,
    pub stored_sha256: String,
    pub stored_bytes: u64,
    /// In the order of their numbers, none of which is missing.
    pub files: Vec<PackedFile>,
}

/// A change file in a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedFile {
    pub number: u64,
    /// As it was called by itself.
    pub name: String,
    /// Where it begins in the pack; it ends where the next begins.
    pub offset: u64,
    pub length: u64,
    /// All of its manifest as it was, with its signature and checksum.
    pub manifest: String,
}

impl Pack {
    /// Reads the manifest of this pack.
    pub fn parse(span: Span, bytes: &[u8]) -> Result<Pack> {
        let name = names::pack_manifest(span);
        let pack: Pack = manifest::parse(&name, bytes)?;
        pack.check(span).map_err(|what| {
            Error::new(Kind::Difference, format!("{name}: {what}"))
                .hint("It is not what pgdiode wrote there; `pgdiode archive verify` looks at everything.")
        })?;
        Ok(pack)
    }

    /// Whether it is one of these files without holes; says what it is instead.
    pub fn check(&self, span: Span) -> Result<(), String> {
        if self.name != names::pack(span) {
            return Err(format!("it is the manifest of {}", self.name));
        }
        if self.files.len() as u64 != span.files() {
            return Err(format!("it has {} files, and its name says {}", self.files.len(), span.files()));
        }
        let mut end = 0_u64;
        for (number, file) in span.numbers().zip(&self.files) {
            let named = names::parse_change_file(&file.name).map(|(number, _)| number);
            if (file.number, named, file.offset) != (number, Some(number), end) {
                return Err(format!(
                    "where file {number} should be, it has {} at {}",
                    file.name, file.offset
                ));
            }
            end = end.checked_add(file.length).ok_or("its files are larger than anything")?;
        }
        if end != self.stored_bytes {
            return Err(format!("its files have {end} bytes, and it {}", self.stored_bytes));
        }
        Ok(())
    }

    pub fn file(&self, number: u64) -> Option<&PackedFile> {
        let at = number.checked_sub(self.files.first()?.number)?;
        self.files.get(usize::try_from(at).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::FORMAT;

    fn pack() -> Pack {
        let file = |number, offset, length| PackedFile {
            number,
            name: format!("{number:010}.json"),
            offset,
            length,
            manifest: "{}".into(),
        };
        Pack {
            format: FORMAT,
            archive: "a".into(),
            name: "packs/0000000003-0000000005.pack".into(),
            stored_sha256: "hash".into(),
            stored_bytes: 60,
            files: vec![file(3, 0, 10), file(4, 10, 20), file(5, 30, 30)],
        }
    }

    #[test]
    fn a_pack_has_its_files_without_holes() {
        let span = Span::new(3, 5).unwrap();
        let whole = pack();
        assert_eq!(Pack::parse(span, &manifest::text(&whole)).unwrap(), whole);
        assert_eq!(whole.file(4).map(|file| file.offset), Some(10));
        assert_eq!((whole.file(2), whole.file(6)), (None, None));
        let breaks: [fn(&mut Pack); 7] = [
            |pack| pack.name = "packs/0000000003-0000000006.pack".into(),
            |pack| drop(pack.files.pop()),
            |pack| pack.files.swap(0, 1),
            |pack| pack.files[1].offset = 11,
            |pack| pack.files[1].length = u64::MAX,
            |pack| pack.files[2].name = "0000000006.json".into(),
            |pack| pack.stored_bytes = 61,
        ];
        for (at, damage) in breaks.iter().enumerate() {
            let mut broken = pack();
            damage(&mut broken);
            let error = Pack::parse(span, &manifest::text(&broken)).unwrap_err();
            assert_eq!(error.kind(), Kind::Difference, "{at}: {error:?}");
            assert!(error.what().starts_with("meta/packs/0000000003-0000000005.json: "), "{at}: {error:?}");
        }
    }

    #[test]
    fn spans_are_small_and_forward() {
        for (first, last) in [(0, 3), (4, 3), (1, FILES_MAX + 1), (1, u64::MAX)] {
            assert_eq!(Span::new(first, last), None, "{first} to {last}");
        }
        let span = Span::new(3, 5).unwrap();
        assert!(span.overlaps(Span::new(5, 9).unwrap()) && !span.overlaps(Span::new(6, 9).unwrap()));
        assert_eq!((span.files(), Span::new(1, FILES_MAX).unwrap().files()), (3, FILES_MAX));
    }
}
