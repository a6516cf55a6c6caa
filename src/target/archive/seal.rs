//! Seals a file: at its place, read again, and nobody has taken over. Then its manifest says that it counts.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::archive::manifest::{self, Manifest};
use crate::archive::names;
use crate::error::{Error, Kind, Result};
use crate::position::Lsn;
use crate::store::{AnyStore, Content, Put, Store};
use crate::target::Flushed;
use crate::target::archive::{File, Making, Previous, Writer};

pub(super) struct Work {
    pub(super) number: u64,
    pub(super) from: Lsn,
    pub(super) to: Lsn,
    /// `None` when nothing but time has passed: the file then says how far the source is.
    pub(super) file: Option<File>,
    pub(super) previous: Previous,
    /// Told the content's hash as soon as it is known.
    pub(super) hash: oneshot::Sender<String>,
    pub(super) flushed: Flushed,
}

pub(super) async fn seal(writer: Arc<Writer>, work: Work) -> Result<Flushed> {
    let Work { number, from, to, file, previous, hash, flushed } = work;
    let file = match file {
        Some(file) => file,
        None => {
            let previous = match previous {
                Previous::Known(hash) => hash,
                Previous::Pressing(hash) => {
                    Some(hash.await.map_err(|_| Error::unexpected("the file before was not finished"))?)
                }
            };
            File::begin(&writer, number, previous, from)?
        }
    };
    let File { draft, header, mut pressing } = file;
    let (rest, counted) = draft.end(to);
    pressing.press(rest).await?;
    let (spooled, sums) = pressing.finish().await?;
    // Whoever writes the next file may have given up.
    let _ = hash.send(sums.content_sha256.clone());

    check_claim(&writer).await?;
    let name = put(&writer, number, Content::File(spooled.path())).await?;
    // Whoever has claimed it since has seen this file and seals it, or has not and writes its number.
    check_claim(&writer).await?;
    let sealed = jiff::Timestamp::now().to_string();
    let manifest = Manifest::of(&header, name, to, counted, sums, sealed);
    let own = names::manifest(number);
    let text = manifest::signed_text(&own, &manifest, writer.making.keys.signer.as_deref());
    append(&writer, &own, Content::Bytes(Bytes::from(text))).await?;
    tracing::debug!(number, rows = manifest.records, bytes = manifest.stored_bytes, to = %to, "sealed a change file");
    Ok(flushed)
}

/// Puts the file of a number there, and says under which name. What a killed writer left under its first name is passed
/// over where it cannot be vouched for: it was not sealed, and two cannot seal one number.
async fn put(writer: &Writer, number: u64, content: Content<'_>) -> Result<String> {
    let Making { stored, keys, .. } = &writer.making;
    let name = names::change_file(number, *stored);
    if !keys.distrust_the_place() {
        return append(writer, &name, content).await.map(|()| name);
    }
    match create(&writer.store, &name, content.clone()).await {
        Err(error) if error.kind() == Kind::Locked => {}
        created => return created.map(|()| name),
    }
    check_claim(writer).await?;
    let beside = names::superseding_file(number, writer.claimed.epoch, *stored);
    tracing::info!(
        passed_over = name,
        name = beside,
        "a writer that was killed has left a file without a manifest"
    );
    append(writer, &beside, content).await.map(|()| beside)
}

/// Appends an object under our claim; whoever finds its number taken has been replaced.
async fn append(writer: &Writer, name: &str, content: Content<'_>) -> Result<()> {
    create(&writer.store, name, content).await.map_err(|error| match error.kind() {
        Kind::Locked => replaced(writer, &format!("{name} has been written by another")),
        _ => error,
    })
}

/// Creates an object, and reads it again before it is believed in; [`Kind::Locked`] when there is another of its name.
pub async fn create(store: &AnyStore, name: &str, content: Content<'_>) -> Result<()> {
    let put = store.create(name, content.clone()).await?;
    // Taken by ourselves, perhaps, when the answer to an earlier attempt was lost.
    if store.holds(name, content).await? {
        return Ok(());
    }
    match put {
        Put::Taken => Err(Error::new(Kind::Locked, format!("{}: there is another {name}", store.display()))
            .hint("Somebody else writes there, or has: one archive has one writer.")),
        Put::Created => Err(Error::new(
            Kind::Difference,
            format!("{}: {name} does not hold what was written into it", store.display()),
        )
        .hint("Its place does not keep what it is given: look at its disk, and at who else writes there.")),
    }
}

/// A writer whose claim is not the newest appends no more; and where its claim is not, the archive is not either.
async fn check_claim(writer: &Writer) -> Result<()> {
    let ours = names::epoch(writer.claimed.epoch);
    let before = (writer.claimed.epoch > 1).then(|| names::epoch(writer.claimed.epoch - 1));
    let claims = writer.store.list(names::EPOCHS, before.as_deref()).await?;
    match claims.as_slice() {
        [only] if only.name == ours => Ok(()),
        [first, .., newest] if first.name == ours => {
            Err(replaced(writer, &format!("there is a newer claim, {}", newest.name)))
        }
        _ => Err(Error::new(
            Kind::TargetUnreachable,
            format!("{}: the archive is not there any more", writer.store.display()),
        )
        .hint("Is its disk mounted? Has somebody moved it?")),
    }
}

fn replaced(writer: &Writer, how: &str) -> Error {
    Error::new(Kind::Locked, format!("another writer has taken over the archive {}: {how}", writer.store.display()))
        .hint("One writer fills an archive. Find the other one (meta/epochs says where it runs), and stop one of the two.")
}
