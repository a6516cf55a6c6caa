//! Files to events, on a thread of its own: first the hashes of the whole file, only then its lines.

use std::collections::VecDeque;
use std::fs::File;

use tokio::sync::mpsc;

use crate::archive::encryption::{self, Identities, Opened};
use crate::archive::line::Header;
use crate::archive::manifest::Manifest;
use crate::archive::names::Stored;
use crate::archive::reading::{ChangeFile, Item};
use crate::change::Event;
use crate::error::Result;
use crate::source::archive::Wanted;
use crate::source::archive::shelf::broken;
use crate::source::archive::walk::Found;
use crate::source::archive::whole;

/// Bytes of events that one chunk holds before it is handed on.
const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Events without rows take room too.
const EVENT_BYTES: usize = 64;

/// Events on their way to the pump.
#[derive(Default)]
pub(super) struct Chunk {
    pub events: VecDeque<Event>,
    bytes: usize,
}

/// Nobody takes chunks any more.
struct Gone;

/// Decodes what is found until there is no more, or nobody takes it.
pub(super) fn run(
    mut files: mpsc::Receiver<Result<Found>>,
    chunks: &mpsc::Sender<Result<Chunk>>,
    wanted: &Wanted,
    identities: Option<&Identities>,
) {
    while let Some(found) = files.blocking_recv() {
        let decoded = match found {
            Ok(Found::File(manifest, file)) => {
                let checked = whole::check(&manifest.name, &(&*manifest).into(), identities, file);
                let opened = checked.and_then(|file| {
                    encryption::open(&manifest.name, Stored::of(&manifest.name), identities, file)
                });
                opened.and_then(|file| decode(&manifest, file, chunks, wanted))
            }
            // It waits to hear that the position is stored: until then its files are not known to be applied.
            Ok(Found::Behind(position)) => {
                let events = VecDeque::from([Event::Idle { position, urgent: true }]);
                Ok(chunks.blocking_send(Ok(Chunk { events, bytes: 0 })).map_err(|_| Gone))
            }
            Err(error) => Err(error),
        };
        match decoded {
            Ok(Ok(())) => {}
            Ok(Err(Gone)) => return,
            // Whoever does not wait for it any more has let go of the thread as well.
            Err(error) => return drop(chunks.blocking_send(Err(error))),
        }
    }
}

fn decode(
    manifest: &Manifest,
    file: Opened<File>,
    chunks: &mpsc::Sender<Result<Chunk>>,
    wanted: &Wanted,
) -> Result<Result<(), Gone>> {
    let mut file = ChangeFile::open(&manifest.name, Stored::of(&manifest.name), file)?;
    check_header(manifest, &file.header)?;
    let mut chunk = Chunk::default();
    while let Some(item) = file.next(&**wanted)? {
        chunk.bytes += EVENT_BYTES;
        chunk.events.push_back(match item {
            Item::Begin(transaction) => Event::Begin(transaction),
            Item::Change(change) => {
                chunk.bytes += change.size();
                Event::Change(change)
            }
            Item::Commit(end) => Event::Commit(end),
            Item::End(end) if end.to != manifest.to => {
                return Err(broken(format!(
                    "{} ends at {}, its manifest says {}",
                    manifest.name, end.to, manifest.to
                )));
            }
            Item::End(end) => Event::Idle { position: end.to, urgent: false },
        });
        if chunk.bytes >= CHUNK_BYTES_MAX && chunks.blocking_send(Ok(std::mem::take(&mut chunk))).is_err() {
            return Ok(Err(Gone));
        }
    }
    Ok(chunks.blocking_send(Ok(chunk)).map_err(|_| Gone))
}

fn check_header(manifest: &Manifest, header: &Header) -> Result<()> {
    let is_its = header.archive == manifest.archive
        && (header.number, header.epoch, header.from) == (manifest.number, manifest.epoch, manifest.from)
        && (&header.previous, &header.lineage) == (&manifest.previous, &manifest.lineage);
    if is_its {
        Ok(())
    } else {
        Err(broken(format!("{} begins otherwise than its manifest says", manifest.name)))
    }
}
