//! Which change files go into which pack, by a catalogue alone.

use super::catalogue::{Catalogue, File, Read};
use crate::archive::manifest::{self, Manifest};
use crate::archive::pack::Span;

/// Files in a pack that is made here: with their manifests as long as usual a megabyte of manifests.
const FILES_MAX: u64 = 1000;

/// Manifests in a pack: who looks up one reads all of them.
const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What to pack, and what stays.
#[derive(Debug, Default)]
pub struct Layout {
    /// In the order of their files, with the size of each.
    pub packs: Vec<(Span, u64)>,
    /// The newest, which are left to writer and readers.
    pub newest: u64,
    /// Others that stay as they are.
    pub single: u64,
}

/// Files after one another that fit into one pack, as far as they have been looked at.
#[derive(Debug, Clone, Copy)]
struct Open {
    span: Span,
    bytes: u64,
    manifest_bytes: u64,
}

impl Layout {
    /// Runs of whole files, up to `keep_last` files before the newest.
    pub fn of(catalogue: &Catalogue, pack_bytes: u64, keep_last: u64) -> Layout {
        let mut layout = Layout::default();
        let (from, newest) = (catalogue.gone() + 1, catalogue.newest());
        let until = newest.saturating_sub(keep_last).max(from - 1);
        layout.newest =
            catalogue.files.range(until + 1..).filter(|(_, file)| file.packs.is_empty()).count() as u64;
        let mut open: Option<Open> = None;
        let mut number = from;
        while number <= until {
            if let Some((span, bytes)) = unfinished(catalogue, number, until) {
                layout.close(open.take());
                layout.packs.push((span, bytes));
                number = span.last + 1;
                continue;
            }
            let file = catalogue.files.get(&number);
            match file.and_then(packable).filter(|manifest| manifest.stored_bytes <= pack_bytes) {
                None => {
                    layout.close(open.take());
                    layout.single += u64::from(file.is_some_and(|file| file.packs.is_empty()));
                }
                Some(manifest) => open = layout.add(open, manifest, pack_bytes),
            }
            number += 1;
        }
        layout.close(open);
        layout
    }

    /// Into the pack that is open, or into the next.
    fn add(&mut self, open: Option<Open>, manifest: &Manifest, pack_bytes: u64) -> Option<Open> {
        let number = manifest.number;
        let more = Open {
            span: Span::new(number, number)?,
            bytes: manifest.stored_bytes,
            manifest_bytes: manifest::text(manifest).len() as u64,
        };
        let Some(before) = open else { return Some(more) };
        let both = Open {
            span: Span { first: before.span.first, last: number },
            bytes: before.bytes + more.bytes,
            manifest_bytes: before.manifest_bytes + more.manifest_bytes,
        };
        let fits = both.bytes <= pack_bytes
            && both.manifest_bytes <= MANIFEST_BYTES_MAX
            && both.span.files() <= FILES_MAX;
        if fits {
            return Some(both);
        }
        self.close(open);
        Some(more)
    }

    fn close(&mut self, open: Option<Open>) {
        match open {
            Some(Open { span, bytes, .. }) if span.files() > 1 => self.packs.push((span, bytes)),
            // Two objects would become two others.
            Some(_) => self.single += 1,
            None => {}
        }
    }
}

/// A file that lies there by itself, as it was sealed.
fn packable(file: &File) -> Option<&Manifest> {
    let manifest = file.manifest.whole().filter(|_| file.has_own_manifest && file.packs.is_empty())?;
    file.objects.iter().any(|(object, _)| object.name == manifest.name).then_some(manifest)
}

/// A pack that was killed before it counted: made again of the same files it is the same.
fn unfinished(catalogue: &Catalogue, first: u64, until: u64) -> Option<(Span, u64)> {
    let range = Span { first, last: first }..=Span { first, last: until };
    let mut begun = catalogue.packs.range(range).filter(|(_, pack)| matches!(pack.manifest, Read::Absent));
    let (span, _) = begun.next_back()?;
    let mut bytes = 0;
    for number in span.numbers() {
        bytes += catalogue.files.get(&number).and_then(packable)?.stored_bytes;
    }
    Some((*span, bytes))
}
