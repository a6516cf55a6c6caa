//! No bytes make a reader of change files panic, and none that it reads to the end hold more rows than lines. The first
//! byte says whether they are compressed, and which tables are wanted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgdiode::archive::names::Stored;
use pgdiode::archive::reading::{ChangeFile, Item};

fuzz_target!(|data: &[u8]| {
    let Some((&first, bytes)) = data.split_first() else { return };
    let stored = if first & 1 == 1 { Stored::Zstd } else { Stored::Plain };
    let Ok(mut file) = ChangeFile::open("0000000001.json", stored, bytes) else { return };
    let is_wanted = |_: &_| first & 2 == 0;
    let (mut changes, mut reached) = (0, file.header.from);
    let error = loop {
        match file.next(&is_wanted) {
            Ok(Some(Item::Change(_))) => changes += 1,
            Ok(Some(Item::Commit(end))) => {
                assert!(end > reached, "{end} after {reached}");
                reached = end;
            }
            Ok(Some(Item::Begin(_) | Item::End(_))) => {}
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert!(changes < file.line_number(), "{changes} changes of {} lines", file.line_number());
    if error.is_some() {
        while file.next_damaged().is_some() {}
        return;
    }
    if stored == Stored::Plain {
        assert_eq!(file.content(), (pgdiode::digest::sha256(bytes), bytes.len() as u64));
    }
});
