//! What looks at an archive and tends it, without any PostgreSQL.
//!
//! ```text
//! Archive::at("/srv/changes") --catalogue.rs--> what lies there, and whether it is one chain
//!                             --verify.rs-----> every byte of it: file.rs change files, base.rs bases,
//!                                               odd.rs the line that a hash cannot name
//!                             --prune.rs------> what nobody needs any more
//!                             --compact.rs----> many small files become few objects: layout.rs says which
//!                             --list.rs-------> what it holds
//!                             --show.rs-------> a file's lines
//!
//! signatures.rs tells by whom the manifests are signed; without an identity what is encrypted stays closed
//! ```
//!
//! Everything is read through the store and nothing is believed: each look goes on after the first thing that is wrong
//! and names the object, and the line where there is one. `docs/archive-format.md` says what an archive must be.

mod base;
mod catalogue;
mod compact;
mod file;
mod layout;
mod list;
mod odd;
mod packs;
mod prune;
mod pull;
mod show;
mod signatures;
mod verify;

use std::path::Path;

use crate::archive::encryption::Identities;
use crate::archive::keys::ReaderKeys;
use crate::archive::signing::Trusted;
use crate::config::Pipeline;
use crate::error::{Error, Result, Side};
use crate::source::archive::Packed;
use crate::store::{AnyStore, Location, Store, StoreOptions};

pub use compact::{CompactOptions, compact};
pub use prune::{Plan, PruneOptions};
pub use show::{FileHeader, ShowOptions};
pub use verify::{Head, VerifyOptions};

/// An archive, wherever it lies.
#[derive(Debug)]
pub struct Archive {
    store: Packed,
    /// To look into what is encrypted, and to know who has signed; without them that stays open.
    keys: ReaderKeys,
}

impl Archive {
    /// By its location; a path may begin at the working directory.
    pub async fn at(location: &str) -> Result<Archive> {
        let is_relative = !location.contains("://") && !location.starts_with('/');
        let location = if is_relative {
            let absolute = std::path::absolute(location).map_err(|error| {
                Error::config(format!("{location:?} names no directory"))
                    .because(error)
                    .hint("name a directory")
            })?;
            Location::Directory(absolute)
        } else {
            Location::parse(location)?
        };
        Archive::open(&location, &StoreOptions::new(Side::Source)).await
    }

    /// The end of a pipeline that is one.
    pub async fn of(pipeline: &Pipeline) -> Result<Archive> {
        for (endpoint, side) in [(&pipeline.source, Side::Source), (&pipeline.target, Side::Target)] {
            if let Some((location, options)) = endpoint.archive(side)? {
                let keys = pipeline.archive.custody_keys()?;
                return Ok(Archive::open(&location, &options).await?.with_keys(keys));
            }
        }
        Err(Error::config(format!("pipeline \"{}\" has no archive at either end", pipeline.name))
            .hint("name the archive: pgdiode archive VERB LOCATION"))
    }

    async fn open(location: &Location, options: &StoreOptions) -> Result<Archive> {
        let store = Packed::over(AnyStore::open(location, options).await?);
        Ok(Archive { store, keys: ReaderKeys::default() })
    }

    /// What is given takes the place of what a configuration says.
    pub fn with_key_files(self, identity: Option<&Path>, signed_by: &[String]) -> Result<Archive> {
        let identities = identity.map(Identities::load).transpose()?;
        let signed_by = Trusted::parse(signed_by.iter().map(String::as_str))?;
        Ok(self.with_keys(ReaderKeys { identities, signed_by }))
    }

    fn with_keys(mut self, keys: ReaderKeys) -> Archive {
        if keys.identities.is_some() {
            self.keys.identities = keys.identities;
        }
        if !keys.signed_by.is_empty() {
            self.keys.signed_by = keys.signed_by;
        }
        self
    }

    /// Where it is, for people.
    pub fn display(&self) -> String {
        self.store.singly().display()
    }
}
