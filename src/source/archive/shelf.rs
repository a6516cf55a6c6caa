//! What is in an archive, read and checked: whose it is, which files are sealed, which bases are whole.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::archive::encryption;
use crate::archive::keys::{ReaderKeys, speaks_for};
use crate::archive::line::Origin;
use crate::archive::manifest::{self, Base, Identity, Manifest, Piece, Pruned};
use crate::archive::names::{self, Stored};
use crate::archive::reading::Content;
use crate::archive::signing;
use crate::error::{Error, Kind, Result};
use crate::position::{Lineage, Lsn};
use crate::source::archive::packed::Packed;
use crate::source::archive::whole::{self, broken};
use crate::store::{AnyStore, Location, Store, StoreOptions};

/// A manifest says a line for each table; this is a million of them.
const MANIFEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// An archive that is there.
pub struct Shelf {
    pub store: Packed,
    pub identity: Identity,
    pub keys: ReaderKeys,
    /// Whether its writer signs.
    pub is_signed: bool,
}

/// Where a reader goes on.
pub(super) struct Place {
    /// The first file that may hold what it lacks.
    pub next: u64,
    /// The file before that.
    pub before: Option<Manifest>,
    /// The last file that was sealed when this was looked up.
    pub last: u64,
}

impl Shelf {
    pub async fn open(location: &Location, options: &StoreOptions, keys: ReaderKeys) -> Result<Shelf> {
        let store = AnyStore::open(location, options).await?;
        let Some(bytes) = store.read_all(names::IDENTITY, MANIFEST_BYTES_MAX).await? else {
            return Err(Error::refused(format!("{}: this is no archive: there is no {}", store.display(), names::IDENTITY))
                .hint("Name the directory that the writing pipeline has as its target; its first start makes the archive."));
        };
        check_identity(&store, &bytes, &keys).await?;
        let identity = manifest::parse(names::IDENTITY, &bytes)?;
        let store = Packed::over(store);
        Ok(Shelf { store, identity, keys, is_signed: signing::signed_part(&bytes).is_some() })
    }

    /// A manifest, once it is proven to be its writer's.
    fn vouched<T: DeserializeOwned>(&self, name: &str, bytes: Option<Bytes>) -> Result<Option<T>> {
        let Some(bytes) = bytes else { return Ok(None) };
        self.keys.check(name, &bytes)?;
        manifest::parse(name, &bytes).map(Some)
    }

    /// A disk that was unmounted looks like an archive to which nothing is added.
    pub(super) async fn still_there(&self) -> Result<()> {
        if self.store.singly().size(names::IDENTITY).await?.is_some() {
            return Ok(());
        }
        Err(Error::new(
            Kind::SourceUnreachable,
            format!("{}: the archive is not there any more", self.store.singly().display()),
        )
        .hint("Is its disk mounted? The pipeline looks again."))
    }

    /// The numbers of the sealed files after `after`.
    pub async fn sealed(&self, after: u64) -> Result<Vec<u64>> {
        self.store.sealed(after).await
    }

    /// `None`: the file is not sealed, or has been pruned.
    pub async fn manifest(&self, number: u64) -> Result<Option<Manifest>> {
        self.manifest_of(number, self.store.manifest(number).await?)
    }

    /// The same, without a look for packs that have been made since the last one.
    pub(super) async fn manifest_where_known(&self, number: u64) -> Result<Option<Manifest>> {
        self.manifest_of(number, self.store.manifest_where_known(number).await?)
    }

    fn manifest_of(&self, number: u64, bytes: Option<Bytes>) -> Result<Option<Manifest>> {
        let name = names::manifest(number);
        let Some(manifest) = self.vouched::<Manifest>(&name, bytes)? else { return Ok(None) };
        if manifest.archive != self.identity.archive {
            return Err(foreign(&name, &manifest.archive, &self.identity.archive));
        }
        if manifest.number != number
            || names::parse_change_file(&manifest.name).map(|(of, _)| of) != Some(number)
        {
            return Err(broken(format!(
                "{name} speaks of {} with the number {}",
                manifest.name, manifest.number
            )));
        }
        Ok(Some(manifest))
    }

    /// The same of a file that was there a moment ago.
    pub async fn manifest_of_listed(&self, number: u64) -> Result<Manifest> {
        let gone = || broken(format!("{} has gone while it was needed", names::manifest(number)));
        self.manifest(number).await?.ok_or_else(gone)
    }

    /// The newest base that is whole.
    pub async fn newest_base(&self) -> Result<Option<Base>> {
        let folders = self.store.singly().folders(names::BASES).await?;
        for number in folders.iter().rev().filter_map(|folder| names::parse_numbered(folder)) {
            let name = names::base_manifest(number);
            // One without a manifest is being made, or was left half made.
            let bytes = self.store.singly().read_all(&name, MANIFEST_BYTES_MAX).await?;
            let Some(base) = self.vouched::<Base>(&name, bytes)? else { continue };
            if base.archive != self.identity.archive {
                return Err(foreign(&name, &base.archive, &self.identity.archive));
            }
            return Ok(Some(base));
        }
        Ok(None)
    }

    /// The file to go on with at a position. Files end at ever higher positions: looked for by halves, since there may be
    /// a hundred thousand of them at the other end of a slow line.
    pub(super) async fn locate(&self, position: Lsn, copied_at: Lsn) -> Result<Place> {
        let sealed = self.sealed(0).await?;
        let (mut low, mut high) = (0, sealed.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.manifest_of_listed(sealed[middle]).await?.to > position {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let before = match low.checked_sub(1) {
            Some(before) => Some(self.manifest_of_listed(sealed[before]).await?),
            None => self.pruned_before(sealed.first(), position).await?,
        };
        let reached = before.as_ref().map_or(Lsn::ZERO, |before| before.to);
        if low == sealed.len() && reached < position && copied_at < position {
            return Err(Error::new(
                Kind::Difference,
                format!("the target stands at {position}, and the archive ends at {reached}: it lacks what was applied"),
            )
            .hint(
                "The archive was restored from an older copy, or is another one. Put the missing files back; or, if they \
                 are lost for good, start over from its newest base: pgdiode reset, then pgdiode start.",
            ));
        }
        let next = match (sealed.get(low), &before) {
            (Some(next), None) => *next,
            (_, Some(before)) => before.number + 1,
            (None, None) => 1,
        };
        Ok(Place { next, before, last: sealed.last().copied().unwrap_or(0) })
    }

    /// The file before the first that is left, as the record of its removal has it, if all of it is applied: what is left
    /// must go on from it. Such records are not signed, so that who asks for signatures believes none.
    async fn pruned_before(&self, first: Option<&u64>, position: Lsn) -> Result<Option<Manifest>> {
        let Some(number) = first.and_then(|first| first.checked_sub(1)).filter(|number| *number > 0) else {
            return Ok(None);
        };
        let name = names::pruned(number);
        let asks = !self.keys.signed_by.is_empty();
        let Some(bytes) = self.store.singly().read_all(&name, MANIFEST_BYTES_MAX).await?.filter(|_| !asks)
        else {
            return Ok(None);
        };
        // A damaged one is for `archive verify`: without it less is known, and nothing wrong.
        let Ok(Pruned { archive, last, .. }) = manifest::parse(&name, &bytes) else { return Ok(None) };
        if archive != self.identity.archive || last.archive != archive {
            return Err(foreign(&name, &last.archive, &self.identity.archive));
        }
        Ok(Some(last).filter(|last| last.number == number && last.to <= position))
    }

    /// Copies an object to a local file of no name: whatever is killed, nothing is left of it.
    pub(super) async fn fetch(&self, name: &str, stored_bytes: u64, directory: &Path) -> Result<File> {
        match self.store.size(name).await? {
            Some(size) if size == stored_bytes => {}
            Some(size) => {
                return Err(broken(format!("{name} has {size} bytes, and should have {stored_bytes}")));
            }
            None => return Err(broken(format!("{name} is missing, though its manifest is there"))),
        }
        // A fetch that was dropped may still give its file its name: not to one that another removes.
        let path = directory.join(format!("{:016x}.{}", fastrand::u64(..), name.replace('/', "_")));
        self.store.fetch(name, &path).await?;
        let opened = File::open(&path).and_then(|file| std::fs::remove_file(&path).map(|()| file));
        opened.map_err(|error| {
            Error::unexpected(format!("{} cannot be read", path.display()))
                .because(error)
                .hint("Has somebody removed it? The spool directory belongs to pgdiode.")
        })
    }

    /// The content of an object of a base, once it is proven whole.
    pub async fn piece(&self, piece: &Piece, directory: &Path) -> Result<Box<dyn Read + Send>> {
        let file = self.fetch(&piece.name, piece.stored_bytes, directory).await?;
        let (piece, identities) = (piece.clone(), self.keys.identities.clone());
        let checked = tokio::task::spawn_blocking(move || {
            let (name, stored) = (&piece.name, Stored::of(&piece.name));
            let file = whole::check(name, &(&piece).into(), identities.as_ref(), file)?;
            let content = encryption::open(name, stored, identities.as_ref(), file)?;
            Content::new(stored, content)
                .map_err(|error| broken(format!("{name} cannot be decompressed")).because(error))
        });
        let content =
            checked.await.map_err(|error| Error::unexpected("the process is ending").because(error))??;
        Ok(Box::new(content))
    }
}

/// An identity is signed once and for all; a claim of a writer with a newer key speaks for it.
async fn check_identity(store: &AnyStore, identity: &[u8], keys: &ReaderKeys) -> Result<()> {
    let Err(error) = keys.check(names::IDENTITY, identity) else { return Ok(()) };
    let claims = store.list(names::EPOCHS, None).await?;
    let Some(newest) = claims.last() else { return Err(error) };
    let claim = store.read_all(&newest.name, MANIFEST_BYTES_MAX).await?.unwrap_or_default();
    let check = |name: &str, bytes: &[u8]| keys.check(name, bytes);
    speaks_for(identity, (&newest.name, &claim), check).map_err(|_| error)
}

fn foreign(name: &str, archive: &str, ours: &str) -> Error {
    Error::new(Kind::Difference, format!("{name} belongs to archive {archive}, this is archive {ours}"))
        .hint("Somebody copied it here from another archive: put back what was there.")
}

/// Whether `origin` is the history that the positions count in. Its timeline rises with each failover of the origin.
pub fn check_origin(name: &str, origin: &Origin, known: &Lineage) -> Result<()> {
    let found = Lineage::from(origin.clone());
    if found == (Lineage { timeline: found.timeline, ..known.clone() }) && found.timeline >= known.timeline {
        return Ok(());
    }
    let told = |lineage: &Lineage| {
        format!(
            "system {}, timeline {}, database \"{}\", slot \"{}\" from {}",
            lineage.system_identifier,
            lineage.timeline,
            lineage.database,
            lineage.slot,
            lineage.consistent_point
        )
    };
    Err(Error::new(
        Kind::Difference,
        format!("{name} holds the history of {}; the target was filled from {}", told(&found), told(known)),
    )
    .hint("Positions of one mean nothing in the other. If that is intended, start over: pgdiode reset, then pgdiode start."))
}
