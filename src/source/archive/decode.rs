//! Files to events, on a thread of its own: first the hashes of the whole file, only then its lines.

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
use crate::source::archive::flow::{Gone, Out};
use crate::source::archive::walk::Found;
use crate::source::archive::whole::{self, broken};

/// Decodes what is found until there is no more, or nobody takes it.
pub(super) fn run(
    mut files: mpsc::Receiver<Result<Found>>,
    mut out: Out,
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
                opened.and_then(|file| decode(&manifest, file, &mut out, wanted))
            }
            // It waits to hear that the position is stored: until then its files are not known to be applied.
            Ok(Found::Behind(position)) => Ok(out.push(Event::Idle { position, urgent: true })),
            Err(error) => Err(error),
        };
        match decoded.map(|pushed| pushed.and_then(|()| out.flush())) {
            Ok(Ok(())) => {}
            Ok(Err(Gone)) => return,
            Err(error) => return out.fail(error),
        }
    }
}

fn decode(
    manifest: &Manifest,
    file: Opened<File>,
    out: &mut Out,
    wanted: &Wanted,
) -> Result<Result<(), Gone>> {
    let mut file = ChangeFile::open(&manifest.name, Stored::of(&manifest.name), file)?;
    check_header(manifest, &file.header)?;
    while let Some(item) = file.next(&**wanted)? {
        let event = match item {
            Item::Begin(transaction) => Event::Begin(transaction),
            Item::Change(change) => Event::Change(change),
            Item::Commit(end) => Event::Commit(end),
            Item::End(end) if end.to != manifest.to => {
                return Err(broken(format!(
                    "{} ends at {}, its manifest says {}",
                    manifest.name, end.to, manifest.to
                )));
            }
            Item::End(end) => Event::Idle { position: end.to, urgent: false },
        };
        if out.push(event).is_err() {
            return Ok(Err(Gone));
        }
    }
    Ok(Ok(()))
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
