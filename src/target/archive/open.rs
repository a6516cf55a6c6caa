//! An archive is opened by its writer: whose it is, how far it is, and what a writer that was killed left unsealed.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;

use crate::archive::draft::{Counted, Sums};
use crate::archive::keys::{WriterKeys, speaks_for};
use crate::archive::manifest::{self, Claim, Identity, Manifest};
use crate::archive::names::{self, Stored};
use crate::archive::reading::{ChangeFile, Item};
use crate::archive::{FORMAT, encryption};
use crate::digest::Sha256;
use crate::error::{Error, Kind, Result};
use crate::position::Lsn;
use crate::store::{AnyStore, Content, Put, Store};
use crate::target::archive::press::spool_failed;

/// No identity, claim or manifest is longer: a manifest has a line for each table of a file.
const OBJECT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The last sealed file.
pub type Head = Manifest;

/// An archive, as its writer finds it.
#[derive(Debug)]
pub struct Opened {
    /// `None` in an empty place, where none has been begun.
    pub identity: Option<Identity>,
    pub head: Option<Head>,
    /// The newest claim.
    pub claim: Option<Claim>,
}

impl Opened {
    /// Whether the slot is the archive's: what another has let go of would be missing here.
    pub fn knows(&self, slot: &str) -> bool {
        self.head.is_some() || self.claim.as_ref().is_some_and(|claim| claim.slot == slot)
    }
}

/// Reads how far the archive is. `spool` takes a file that must be looked through.
pub async fn open(store: &AnyStore, spool: &Path, keys: &WriterKeys) -> Result<Opened> {
    let mut opened = look(store, keys).await?;
    let Some(identity) = &opened.identity else { return Ok(opened) };
    let unsealed = leftover(store, opened.head.as_ref()).await?;
    if let Some(unsealed) = unsealed.filter(|_| !keys.distrust_the_place()) {
        refuse_open(&unsealed.name, keys)?;
        opened.head = Some(seal_leftover(store, spool, identity, opened.head.as_ref(), &unsealed).await?);
    }
    Ok(opened)
}

/// The same, leaving everything as it is: a file may lie behind the head.
pub async fn look(store: &AnyStore, keys: &WriterKeys) -> Result<Opened> {
    let Some(identity) = identity(store).await? else {
        return Ok(Opened { identity: None, head: None, claim: None });
    };
    let claim = match store.list(names::EPOCHS, None).await?.last() {
        Some(object) => Some((object.name.clone(), bytes(store, &object.name).await?)),
        None => None,
    };
    check_identity(store, claim.as_ref(), keys).await?;
    let head = head(store, keys).await?;
    if let Some(head) = head.as_ref().filter(|head| head.archive != identity.archive) {
        return Err(Error::new(Kind::Difference, format!("{} belongs to another archive", head.name))
            .hint("Somebody has put it there: put back what was there."));
    }
    let claim = claim.map(|(name, bytes)| manifest::parse(&name, &bytes)).transpose()?;
    Ok(Opened { identity: Some(identity), head, claim })
}

/// The last sealed file, as it is there.
pub async fn newest(store: &AnyStore) -> Result<Option<Head>> {
    newest_object(store).await?.map(|(name, bytes)| manifest::parse(&name, &bytes)).transpose()
}

/// The last sealed file, to go on from: as the keys have it.
pub async fn head(store: &AnyStore, keys: &WriterKeys) -> Result<Option<Head>> {
    let Some((name, bytes)) = newest_object(store).await? else { return Ok(None) };
    keys.check(&name, &bytes)?;
    let head: Head = manifest::parse(&name, &bytes)?;
    refuse_open(&head.name, keys)?;
    Ok(Some(head))
}

/// What follows an encrypted file is encrypted.
fn refuse_open(name: &str, keys: &WriterKeys) -> Result<()> {
    if keys.recipients.is_some() || !Stored::of(name).is_encrypted() {
        return Ok(());
    }
    Err(Error::refused(format!("{name} is encrypted, and there are no archive.recipients"))
        .hint("What follows would lie there for anybody to read: set archive.recipients. For an archive that is not encrypted name an empty place."))
}

async fn newest_object(store: &AnyStore) -> Result<Option<(String, Bytes)>> {
    let there = store.list(names::MANIFESTS, None).await?;
    let is_ours =
        |name: &str| names::parse_numbered(name).is_some_and(|number| names::manifest(number) == name);
    match there.iter().rev().find(|object| is_ours(&object.name)) {
        Some(object) => Ok(Some((object.name.clone(), bytes(store, &object.name).await?))),
        None => Ok(None),
    }
}

/// An identity is signed once and for all; a claim of a writer with a newer key speaks for it.
async fn check_identity(store: &AnyStore, claim: Option<&(String, Bytes)>, keys: &WriterKeys) -> Result<()> {
    let identity = bytes(store, names::IDENTITY).await?;
    let check = |name: &str, bytes: &[u8]| keys.check(name, bytes);
    let Err(error) = check(names::IDENTITY, &identity) else { return Ok(()) };
    match claim {
        Some((name, bytes)) if keys.signer.is_some() => {
            speaks_for(&identity, (name, bytes), check).map_err(|_| error)
        }
        _ => Err(error),
    }
}

/// Whose archive it is; `None` in an empty place.
pub async fn identity(store: &AnyStore) -> Result<Option<Identity>> {
    if let Some(text) = store.read_all(names::IDENTITY, OBJECT_BYTES_MAX).await? {
        return manifest::parse(names::IDENTITY, &text).map(Some);
    }
    match store.list("", None).await?.first() {
        None => Ok(None),
        Some(foreign) => Err(Error::refused(format!(
            "{} holds {} and is no archive of ours",
            store.display(),
            foreign.name
        ))
        .hint("Name an empty directory for a new archive.")),
    }
}

async fn begin(store: &AnyStore, keys: &WriterKeys) -> Result<Identity> {
    let identity = Identity { format: FORMAT, archive: random_id()?, created: now() };
    let text = manifest::signed_text(names::IDENTITY, &identity, keys.signer.as_deref());
    match store.create(names::IDENTITY, Content::Bytes(Bytes::from(text))).await? {
        Put::Created => Ok(identity),
        // Another writer was faster, or an answer was lost.
        Put::Taken => {
            check_identity(store, None, keys).await?;
            read(store, names::IDENTITY).await
        }
    }
}

/// What lies behind the last sealed file.
async fn leftover(store: &AnyStore, head: Option<&Head>) -> Result<Option<Leftover>> {
    let number = head.map_or(1, |head| head.number + 1);
    let before = head.map(|head| head.name.clone());
    let there = store.list("", before.as_deref()).await?;
    let mut unsealed =
        there.iter().filter_map(|object| Some((names::parse_change_file(&object.name)?, object)));
    let Some(((found, stored), object)) = unsealed.find(|((found, _), _)| *found >= number) else {
        return Ok(None);
    };
    if found != number {
        return Err(Error::new(
            Kind::Difference,
            format!(
                "{}: there is {}, and no {}",
                store.display(),
                object.name,
                names::change_file(number, stored)
            ),
        )
        .hint("A file is missing. `pgdiode archive verify` tells more; put it back from a copy."));
    }
    Ok(Some(Leftover { number, name: object.name.clone(), stored }))
}

/// A file without a manifest.
struct Leftover {
    number: u64,
    name: String,
    stored: Stored,
}

/// A writer that was killed between a file and its manifest has left a whole file: creating it was all or nothing.
async fn seal_leftover(
    store: &AnyStore,
    spool: &Path,
    identity: &Identity,
    head: Option<&Head>,
    leftover: &Leftover,
) -> Result<Manifest> {
    let Leftover { number, stored, .. } = *leftover;
    let local = spool.join(format!("leftover-{}", leftover.name));
    store.fetch(&leftover.name, &local).await?;
    let examined = {
        let (local, name, spool) = (local.clone(), leftover.name.clone(), spool.to_owned());
        tokio::task::spawn_blocking(move || examine(&local, &name, stored, &spool)).await
    };
    // It is in the archive.
    let _ = std::fs::remove_file(&local);
    let manifest =
        examined.map_err(|error| Error::unexpected("a file could not be examined").because(error))??;
    if manifest.archive != identity.archive {
        return Err(Error::new(Kind::Difference, format!("{} belongs to another archive", manifest.name))
            .hint("Somebody has put it there: take it away."));
    }
    if let Some(head) = head {
        manifest.follows(head)?;
    }
    let text = Bytes::from(manifest::text(&manifest));
    match store.create(&names::manifest(number), Content::Bytes(text)).await? {
        Put::Created => tracing::info!(name = manifest.name, "sealed what a writer that was killed has left"),
        Put::Taken => return read(store, &names::manifest(number)).await,
    }
    Ok(manifest)
}

/// Reads a whole file for its manifest.
fn examine(path: &Path, name: &str, stored: Stored, spool: &Path) -> Result<Manifest> {
    let failed = |error: std::io::Error| spool_failed(spool, error);
    let mut hash = Sha256::default();
    let mut bytes = 0;
    let mut buffer = vec![0; 256 * 1024];
    let mut raw = File::open(path).map_err(failed)?;
    loop {
        let read = std::io::Read::read(&mut raw, &mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
    let content = encryption::open(name, stored, None, File::open(path).map_err(failed)?)?;
    let mut file = ChangeFile::open(name, stored, content)?;
    let header = file.header.clone();
    let mut counted = Counted::default();
    let mut to = Lsn::ZERO;
    while let Some(item) = file.next(&|_| true)? {
        match item {
            Item::Change(change) => counted.count(&change),
            Item::Commit(_) => counted.transactions += 1,
            Item::Begin(_) => {}
            Item::End(end) => to = end.to,
        }
    }
    let (content_sha256, content_bytes) = file.content();
    let sums = Sums { content_sha256, content_bytes, stored_sha256: hash.finish(), stored_bytes: bytes };
    Ok(Manifest::of(&header, name.to_owned(), to, counted, sums, now()))
}

/// A writer's right to append.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub archive: String,
    pub epoch: u64,
}

/// Claims the archive, and begins it if there is none: from now on an older writer is refused.
pub async fn claim(
    store: &AnyStore,
    opened: &Opened,
    pipeline: &str,
    slot: &str,
    host: &str,
    keys: &WriterKeys,
) -> Result<Claimed> {
    let archive = match &opened.identity {
        Some(identity) => identity.archive.clone(),
        None => begin(store, keys).await?.archive,
    };
    let mut epoch = opened.claim.as_ref().map_or(0, |claim| claim.epoch);
    loop {
        epoch += 1;
        let claim = Claim {
            archive: archive.clone(),
            epoch,
            host: host.to_owned(),
            process: std::process::id(),
            pipeline: pipeline.to_owned(),
            slot: slot.to_owned(),
            since: now(),
        };
        let name = names::epoch(epoch);
        let text = Bytes::from(manifest::signed_text(&name, &claim, keys.signer.as_deref()));
        let put = store.create(&name, Content::Bytes(text.clone())).await?;
        // Taken by ourselves, when the answer to our own attempt was lost.
        if put == Put::Created || store.holds(&name, Content::Bytes(text)).await? {
            return Ok(Claimed { archive, epoch });
        }
    }
}

async fn read<T: for<'a> serde::Deserialize<'a>>(store: &AnyStore, name: &str) -> Result<T> {
    manifest::parse(name, &bytes(store, name).await?)
}

async fn bytes(store: &AnyStore, name: &str) -> Result<Bytes> {
    store.read_all(name, OBJECT_BYTES_MAX).await?.ok_or_else(|| {
        Error::new(Kind::Difference, format!("{}: {name} was there, and is gone", store.display()))
            .hint("Is somebody tidying up there?")
    })
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// A random UUID (version 4).
fn random_id() -> Result<String> {
    let mut bytes = random_bytes()?;
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &digits[range]);
    Ok(parts.join("-"))
}

/// 128 random bits.
pub(super) fn random_digits() -> Result<String> {
    random_bytes().map(|bytes| format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn random_bytes() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::unexpected("the system has no random numbers"))?;
    Ok(bytes)
}
