//! Which names an object may have: what every kind of store, shell and file system takes as it is.

use crate::error::{Error, Result};

/// Where unfinished objects are, below the root: on the same file system, and hidden from every list.
pub const UNFINISHED: &str = ".partial";

/// File systems end a name at 255 bytes; unfinished ones have an addition.
const PART_BYTES_MAX: usize = 200;
const NAME_BYTES_MAX: usize = 800;

/// An object's name, or a folder's.
pub fn check(name: &str) -> Result<()> {
    let parts_are_plain = name.split('/').all(is_plain);
    if parts_are_plain && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(Error::config(format!("{name:?} cannot be the name of an object")).hint(format!(
        "a name has letters, digits and ._-+=,:@ in parts of at most {PART_BYTES_MAX} bytes, parted by /, none of them \
         beginning with a dot"
    )))
}

/// The root, or a folder's name.
pub fn check_folder(folder: &str) -> Result<()> {
    if folder.is_empty() { Ok(()) } else { check(folder) }
}

pub fn is_plain(part: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+=,:@".contains(&byte);
    (1..=PART_BYTES_MAX).contains(&part.len()) && !part.starts_with('.') && part.bytes().all(is_known)
}

/// `name` directly in `folder`, as it is called from the root.
pub fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// The folder a name is in, and what it is called there.
pub fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

/// A name that no other writer will think of, for what is not finished.
pub fn unfinished(name: &str) -> String {
    format!("{}.{:016x}", split(name).1, fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_plain_everywhere_are_refused() {
        for name in ["0000000001.json.zst", "meta/readers/li-1.json", "a", "2026-11-21T10:00:00+01=x,y@z"] {
            check(name).unwrap();
        }
        let long = "x".repeat(PART_BYTES_MAX + 1);
        for name in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            ".partial/a",
            "a/.b",
            "a b",
            "a\nb",
            "a\0",
            "ä",
            "a\\b",
            "a*",
            "a?b",
            "a%2fb",
            "~",
            "#",
            "-rf x",
            &long,
        ] {
            let error = check(name).unwrap_err();
            assert!(error.hint_text().is_some() && error.what().contains("cannot be the name"), "{name:?}");
        }
        check_folder("").unwrap();
    }
}
