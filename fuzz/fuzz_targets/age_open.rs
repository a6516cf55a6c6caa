//! No bytes make the reader of encrypted objects panic, or hold memory for a header that does not end.
#![no_main]

use std::io::{Read, sink};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use pgdiode::archive::encryption::{Identities, open};
use pgdiode::archive::names::Stored;
use pgdiode::archive::reading::Content;
use pgdiode::secret::Secret;

/// Nobody's: `fuzz/seed.py` encrypts to it.
const IDENTITY: &str = "AGE-SECRET-KEY-1F3MA9QN7UN30T78JXZM4LAPYYWSRARCLZ6UPKKVDSGVZVJY57MJQYLCD59";

fuzz_target!(|data: &[u8]| {
    static IDENTITIES: OnceLock<Identities> = OnceLock::new();
    let identities =
        IDENTITIES.get_or_init(|| Identities::parse(&Secret::new(IDENTITY)).expect("it is an identity"));
    let Ok(opened) = open("0000000001.json.zst.age", Stored::ZstdAge, Some(identities), data) else { return };
    let Ok(content) = Content::new(Stored::ZstdAge, opened) else { return };
    // A few bytes may become many.
    drop(std::io::copy(&mut content.take(1 << 20), &mut sink()));
});
