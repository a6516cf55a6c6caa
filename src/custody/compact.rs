//! Many small change files into few packs, so that a crash anywhere leaves a valid archive.
//!
//! ```text
//! copy the stored files, each by its hash --> create the pack, read it back --> create its manifest
//!                                             --> only then remove the single objects, each file before its manifest
//! ```
//!
//! What was killed is gone on with by the next: a pack without a manifest is made again of the same files and found to
//! be the same; single objects of a pack that counts are removed once all of that pack has been read again. Nothing
//! else is ever removed here, and no pack, so that nobody need be locked out: who finds that something has moved meanwhile
//! looks again. `docs/decisions/0025-packs.md` has the reasons.

use std::io::Write as _;

use futures_util::{StreamExt as _, TryStreamExt as _};
use tempfile::NamedTempFile;

use super::Archive;
use super::catalogue::Catalogue;
use super::layout::Layout;
use crate::archive::manifest::{self, Manifest};
use crate::archive::names;
use crate::archive::pack::{Pack, PackedFile, Span};
use crate::archive::{FORMAT, keys::ReaderKeys};
use crate::digest::Sha256;
use crate::error::{Error, Kind, Result};
use crate::source::archive::Packed;
use crate::status::archive::{ArchivePack, Compaction};
use crate::store::{Content, Put, Store};

/// How much is read at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// Files that are read ahead, each up to a piece, and objects that are removed at once.
const IN_FLIGHT: usize = 8;

/// No manifest is longer.
const OBJECT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How often it looks again because another has moved something: each time that one has done some of the work.
const LOOKS_MAX: u32 = 20;

#[derive(Debug, Clone)]
pub struct CompactOptions {
    /// Files in a pack have no more bytes together; what is larger stays by itself.
    pub pack_bytes: u64,
    /// So many of the newest files stay as they are; the newest always does, since its writer goes on from it.
    pub keep_last: u64,
}

impl Archive {
    /// What would be packed now. A damaged archive is left alone: what is damaged may be all that is left of it.
    pub async fn plan_compact(&self, options: &CompactOptions) -> Result<Compaction> {
        let catalogue = look(&self.store, &self.keys).await?;
        let work = Work::of(&catalogue, options);
        let mut report = Compaction { location: self.display(), ..work.kept() };
        work.layout.packs.iter().for_each(|(span, bytes)| report.add(*span, *bytes));
        report.rest = work.rest();
        Ok(report)
    }

    /// Packs it.
    pub async fn compact(&self, options: &CompactOptions) -> Result<Compaction> {
        compact(&self.store, &self.keys, options).await
    }
}

/// The same, in whatever store.
pub async fn compact<S: Store>(
    store: &Packed<S>,
    keys: &ReaderKeys,
    options: &CompactOptions,
) -> Result<Compaction> {
    let mut report = Compaction::default();
    for _ in 0..LOOKS_MAX {
        let catalogue = look(store, keys).await?;
        let work = Work::of(&catalogue, options);
        if let Outcome::Done = work.run(store.singly(), &mut report).await? {
            let Compaction { packs, files, bytes, rest, .. } = report;
            let location = store.singly().display();
            return Ok(Compaction { location, done: true, packs, files, bytes, rest, ..work.kept() });
        }
    }
    Err(Error::new(
        Kind::Locked,
        format!("archive {}: others go on packing and pruning it", store.singly().display()),
    )
    .hint("Nothing is lost. Let the other one end, then compact again."))
}

async fn look(store: &Packed<impl Store>, keys: &ReaderKeys) -> Result<Catalogue> {
    let place = store.singly().display();
    if store.singly().size(names::SPILL).await?.is_some() {
        return Err(Error::refused(format!("{place} is the spill of a pipeline"))
            .hint("That pipeline drains it and then removes all of it: there is nothing to pack."));
    }
    let catalogue = Catalogue::read(store, keys).await?;
    let Some(finding) = catalogue.findings.first() else { return Ok(catalogue) };
    Err(Error::new(
        Kind::Difference,
        format!("archive {place} is damaged, and nothing is packed: {}", finding.text()),
    )
    .hint("`pgdiode archive verify` tells all that is wrong; repair the archive first"))
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Somebody else has packed or pruned what was to be packed: it must be looked at again.
    Moved,
}

/// What there is to do.
struct Work<'a> {
    catalogue: &'a Catalogue,
    layout: Layout,
    /// Packs that count, of which single objects are still there.
    begun: Vec<(&'a Pack, Vec<String>)>,
}

impl<'a> Work<'a> {
    fn of(catalogue: &'a Catalogue, options: &CompactOptions) -> Work<'a> {
        let layout = Layout::of(catalogue, options.pack_bytes, options.keep_last.max(1));
        let counting = catalogue.packs.iter().filter_map(|(span, found)| Some((*span, found.whole()?)));
        let begun = counting.map(|(span, pack)| (pack, rest(catalogue, span)));
        Work { catalogue, layout, begun: begun.filter(|(_, rest)| !rest.is_empty()).collect() }
    }

    fn kept(&self) -> Compaction {
        Compaction { newest: self.layout.newest, single: self.layout.single, ..Compaction::default() }
    }

    /// Objects that go without a new pack.
    fn rest(&self) -> u64 {
        self.begun.iter().map(|(_, rest)| rest.len() as u64).sum()
    }

    async fn run<S: Store>(&self, store: &S, report: &mut Compaction) -> Result<Outcome> {
        for (pack, rest) in &self.begun {
            if prove(store, pack).await? == Outcome::Moved {
                return Ok(Outcome::Moved);
            }
            remove(store, rest).await?;
            report.rest += rest.len() as u64;
        }
        let archive = self.catalogue.identity.as_ref().map_or("", |identity| &identity.archive);
        for (span, bytes) in &self.layout.packs {
            if make(store, archive, *span).await? == Outcome::Moved {
                return Ok(Outcome::Moved);
            }
            tracing::info!(first = span.first, last = span.last, bytes, "packed change files");
            report.add(*span, *bytes);
        }
        Ok(Outcome::Done)
    }
}

impl Compaction {
    fn add(&mut self, span: Span, bytes: u64) {
        let Span { first, last } = span;
        self.packs.push(ArchivePack { name: names::pack(span), first, last, stored_bytes: bytes });
        self.files += span.files();
        self.bytes += bytes;
    }
}

/// The single objects that are still there of the files of a pack, each file before its manifest.
fn rest(catalogue: &Catalogue, span: Span) -> Vec<String> {
    let mut rest = Vec::new();
    for (number, file) in catalogue.files.range(span.numbers()) {
        rest.extend(file.rest().map(|object| object.name.clone()));
        rest.extend(file.has_own_manifest.then(|| names::manifest(*number)));
    }
    rest
}

/// Makes a pack of single files, and removes them.
async fn make<S: Store>(store: &S, archive: &str, span: Span) -> Result<Outcome> {
    let mut spooled = NamedTempFile::new().map_err(spool_failed)?;
    let Some(pack) = gather(store, archive, span, &mut spooled).await? else { return Ok(Outcome::Moved) };
    let put_there = put(store, &pack.name, Content::File(spooled.path())).await?;
    if put_there == Outcome::Moved || has_moved(store, span).await? {
        return Ok(Outcome::Moved);
    }
    let own = names::pack_manifest(span);
    let sealed = put(store, &own, Content::Bytes(manifest::text(&pack).into())).await?;
    // A prune may have taken it for one that nobody finishes: its files were not needed then.
    if sealed == Outcome::Moved || store.size(&pack.name).await? != Some(pack.stored_bytes) {
        store.remove(&own).await?;
        return Ok(Outcome::Moved);
    }
    let singles = pack.files.iter().flat_map(|file| [file.name.clone(), names::manifest(file.number)]);
    remove(store, &singles.collect::<Vec<_>>()).await?;
    Ok(Outcome::Done)
}

/// A file and its manifest, the latter whole, the former as far as one piece of it.
struct Part {
    text: String,
    manifest: Manifest,
    head: bytes::Bytes,
}

/// Copies the files into the spooled one, each proven by its hash. `None`: one has gone.
async fn gather<S: Store>(
    store: &S,
    archive: &str,
    span: Span,
    spooled: &mut NamedTempFile,
) -> Result<Option<Pack>> {
    let parts = span.numbers().map(|number| part(store, number));
    let mut parts = futures_util::stream::iter(parts).buffered(IN_FLIGHT);
    let (mut whole, mut offset, mut files) = (Sha256::default(), 0, Vec::new());
    while let Some(part) = parts.try_next().await? {
        let Some(Part { text, manifest, head: mut piece }) = part else { return Ok(None) };
        let (mut hash, mut length) = (Sha256::default(), 0);
        while !piece.is_empty() {
            hash.update(&piece);
            whole.update(&piece);
            length += piece.len() as u64;
            spooled.write_all(&piece).map_err(spool_failed)?;
            let is_last = piece.len() < PIECE_BYTES || length > manifest.stored_bytes;
            let next = if is_last {
                Some(bytes::Bytes::new())
            } else {
                store.read_if_any(&manifest.name, length, PIECE_BYTES).await?
            };
            let Some(next) = next else { return Ok(None) };
            piece = next;
        }
        agree(&manifest, &hash.finish(), length)?;
        files.push(PackedFile {
            number: manifest.number,
            name: manifest.name,
            offset,
            length,
            manifest: text,
        });
        offset += length;
    }
    spooled.flush().map_err(spool_failed)?;
    let (name, stored_sha256) = (names::pack(span), whole.finish());
    Ok(Some(Pack {
        format: FORMAT,
        archive: archive.to_owned(),
        name,
        stored_sha256,
        stored_bytes: offset,
        files,
    }))
}

async fn part<S: Store>(store: &S, number: u64) -> Result<Option<Part>> {
    let own = names::manifest(number);
    let Some(text) = store.read_all(&own, OBJECT_BYTES_MAX).await? else { return Ok(None) };
    let manifest: Manifest = manifest::parse(&own, &text)?;
    let text = String::from_utf8(text.into()).map_err(|error| {
        Error::new(Kind::Difference, format!("{own} is no text")).because(error).hint(REPAIR)
    })?;
    let head = store.read_if_any(&manifest.name, 0, PIECE_BYTES).await?;
    Ok(head.map(|head| Part { text, manifest, head }))
}

const REPAIR: &str = "Nothing was removed of it. `pgdiode archive verify` tells more; put back what was there from a copy, \
                      then compact again.";

fn agree(manifest: &Manifest, sha256: &str, bytes: u64) -> Result<()> {
    if (sha256, bytes) == (manifest.stored_sha256.as_str(), manifest.stored_bytes) {
        return Ok(());
    }
    let Manifest { name, stored_sha256, .. } = manifest;
    let what = format!(
        "{name} does not hold what was sealed: its SHA-256 is {sha256}, and that of its manifest {stored_sha256}"
    );
    Err(Error::new(Kind::Difference, what).hint(REPAIR))
}

/// Creates an object, and reads it back. One that is there already must be the same: of another who packs the same files, or
/// of one that was killed. Moved: it has gone again.
async fn put<S: Store>(store: &S, name: &str, content: Content<'_>) -> Result<Outcome> {
    let put = store.create(name, content.clone()).await?;
    if store.holds(name, content).await? {
        return Ok(Outcome::Done);
    }
    if store.size(name).await?.is_none() {
        return Ok(Outcome::Moved);
    }
    let (what, hint) = match put {
        Put::Created => (
            "does not hold what was written into it",
            "Its place does not keep what it is given: look at its disk, and at who else writes there.",
        ),
        Put::Taken => (
            "is there and is not what its files make",
            "Nothing was removed. Look at who has put it there; take it away, then compact again.",
        ),
    };
    Err(Error::new(Kind::Difference, format!("{}: {name} {what}", store.display())).hint(hint))
}

/// Whether something has been packed or pruned since it was looked at that is to be packed now.
async fn has_moved<S: Store>(store: &S, span: Span) -> Result<bool> {
    let packs = store.list(names::PACK_MANIFESTS, None).await?;
    let mut packs = packs.iter().filter_map(|object| names::parse_pack(&object.name));
    let pruned = store.list(names::PRUNED, None).await?;
    let gone = pruned.iter().filter_map(|object| names::parse_numbered(&object.name)).max();
    Ok(packs.any(|other| other != span && other.overlaps(span))
        || gone.is_some_and(|gone| gone >= span.first))
}

/// Reads all of a pack that counts, before anything goes for its sake. Moved: the pack has gone.
async fn prove<S: Store>(store: &S, pack: &Pack) -> Result<Outcome> {
    for file in &pack.files {
        let own = names::manifest(file.number);
        let manifest: Manifest = manifest::parse(&own, file.manifest.as_bytes())?;
        let single = store.read_all(&own, OBJECT_BYTES_MAX).await?;
        if single.is_some_and(|single| single != file.manifest.as_bytes()) {
            let what = format!("{own} is another than the one in {}", pack.name);
            return Err(Error::new(Kind::Difference, what).hint(REPAIR));
        }
        let (mut hash, mut done) = (Sha256::default(), 0);
        while done < file.length {
            let length =
                usize::try_from(file.length - done).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let Some(piece) = store.read_if_any(&pack.name, file.offset + done, length).await? else {
                return Ok(Outcome::Moved);
            };
            if piece.is_empty() {
                break;
            }
            hash.update(&piece);
            done += piece.len() as u64;
        }
        agree(&manifest, &hash.finish(), done).map_err(|error| within(&error, &pack.name))?;
    }
    Ok(Outcome::Done)
}

fn within(error: &Error, pack: &str) -> Error {
    Error::new(error.kind(), format!("{pack}: {}", error.what())).hint(REPAIR)
}

/// In this order where it matters: a file, then its manifest.
async fn remove<S: Store>(store: &S, names: &[String]) -> Result<()> {
    let (manifests, files): (Vec<_>, Vec<_>) =
        names.iter().partition(|name| name.starts_with(names::MANIFESTS));
    for names in [files, manifests] {
        let removals = names.into_iter().map(|name| store.remove(name));
        futures_util::stream::iter(removals).buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;
    }
    Ok(())
}

fn spool_failed(error: std::io::Error) -> Error {
    let place = std::env::temp_dir();
    Error::new(Kind::Capacity, format!("a pack cannot be put together in {}", place.display()))
        .because(error)
        .hint("It takes as much room there as a pack has (--pack-mb); TMPDIR names another directory.")
}
