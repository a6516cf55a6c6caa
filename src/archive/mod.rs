//! Change files: what an archive holds and how it is written and read, without a word of where it lies.
//!
//! ```text
//! 0000000001.json             a change file; never changed, numbered without gaps
//! meta/archive.json           whose archive this is               ([`names`], [`manifest::Identity`])
//! meta/files/0000000001.json  the file's manifest: it is sealed   ([`manifest::Manifest`])
//! meta/epochs/0000000001.json a writer's claim                    ([`manifest::Claim`])
//! meta/readers/NAME.json      how far a registered reader is      ([`manifest::ReaderNote`])
//! meta/pruned/0000000001.json files up to this one are gone       ([`manifest::Pruned`])
//! bases/0000000001/           every table as of one moment        ([`manifest::Base`])
//! packs/, meta/packs/         many change files in two objects    ([`pack::Pack`])
//! ```
//!
//! A change file is JSON lines (`docs/archive-format.md`): a header, then for each transaction its rows and a line that
//! commits it, then a line that ends the file. [`line`] has their shapes, [`encode`] writes rows without parsing a value,
//! [`decode`] reads them back to the same bytes, [`draft`] makes a file and [`reading`] checks one. Where the place is not
//! to be trusted, [`encryption`] keeps it from reading and [`signing`] from changing anything; [`keys`] are for both.
//!
//! What others write: [`row`] is a row of theirs, and [`wal2json`] what that plugin says, in files and on the wire.

pub mod decode;
pub mod draft;
pub mod encode;
pub mod encryption;
pub mod keys;
pub mod line;
pub mod manifest;
pub mod names;
pub mod pack;
pub mod reading;
pub mod row;
pub mod signing;
pub mod time;
pub mod wal2json;

/// The layout of archives and files that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
