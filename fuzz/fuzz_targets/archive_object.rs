//! No bytes make a reader of an archive's small objects panic; what is read and written again is read as the same. What
//! has no signature of a key does not come to have one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgdiode::archive::manifest::{
    Base, Claim, Identity, Manifest, Pruned, ReaderNote, is_whole, parse, text,
};
use pgdiode::archive::signing::{Trusted, signer_of};

const NAME: &str = "meta/files/0000000001.json";

/// Whose private key nobody has.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

fuzz_target!(|data: &[u8]| {
    again::<Identity>(data);
    again::<Claim>(data);
    again::<Manifest>(data);
    again::<Base>(data);
    again::<ReaderNote>(data);
    again::<Pruned>(data);
    if let Ok(Some(signer)) = signer_of(NAME, data) {
        assert_ne!(signer.to_string(), KEY);
    }
    let trusted = Trusted::parse([KEY]).expect("it is a key");
    assert!(trusted.check(NAME, data).is_err());
});

fn again<T>(data: &[u8])
where
    T: for<'a> serde::Deserialize<'a> + serde::Serialize + PartialEq + std::fmt::Debug,
{
    let Ok(object) = parse::<T>(NAME, data) else { return };
    let written = text(&object);
    assert_eq!(is_whole(&written), Some(true));
    assert_eq!(parse::<T>(NAME, &written).expect("it was just written"), object);
}
