//! Packs, as a catalogue has them: which files they hold, and whether they are what their manifests say.

use std::collections::BTreeMap;

use super::catalogue::{Catalogue, Read};
use crate::archive::manifest::{self, Manifest};
use crate::archive::names;
use crate::archive::pack::{Pack, Span};
use crate::error::Result;
use crate::status::archive::Finding;
use crate::status::text::several;
use crate::store::{Object, Store};

/// What there is of a pack.
#[derive(Debug, Default)]
pub struct PackObjects {
    /// Absent: it is not finished.
    pub manifest: Read<Pack>,
    /// The size of the object that holds the files, if it is there.
    pub bytes: Option<u64>,
}

impl PackObjects {
    /// Whether its files can be read, as far as the store's list tells.
    pub fn whole(&self) -> Option<&Pack> {
        self.manifest.whole().filter(|pack| self.bytes == Some(pack.stored_bytes))
    }
}

impl Catalogue {
    /// After the single objects: what is not there any more by then is in a pack for certain.
    pub(super) async fn read_packs(&mut self, store: &impl Store) -> Result<()> {
        let mut packs: BTreeMap<Span, PackObjects> = BTreeMap::new();
        let key_of = |name: &str| names::parse_pack(name);
        for (span, manifest) in self.named(store, names::PACK_MANIFESTS, key_of).await? {
            packs.entry(span).or_default().manifest = manifest;
        }
        for object in store.list(names::PACKS, None).await? {
            match names::parse_pack(&object.name) {
                Some(span) => packs.entry(span).or_default().bytes = Some(object.size),
                None => self.stranger(&object.name),
            }
        }
        for (span, found) in &mut packs {
            if found.bytes.is_none() && found.manifest.whole().is_some() {
                // Removed meanwhile: its manifest goes first.
                let own = names::pack_manifest(*span);
                let is_there = store.size(&own).await?.is_some();
                found.bytes = store.size(&names::pack(*span)).await?;
                if !is_there && found.bytes.is_none() {
                    found.manifest = Read::Absent;
                }
            }
            self.take_pack(*span, found);
        }
        packs.retain(|_, found| found.bytes.is_some() || !matches!(found.manifest, Read::Absent));
        self.packs = packs;
        Ok(())
    }

    /// Its files are there as if they lay there by themselves.
    fn take_pack(&mut self, span: Span, found: &mut PackObjects) {
        let Some(pack) = found.manifest.whole() else { return };
        let own = names::pack_manifest(span);
        if let Err(what) = pack.check(span) {
            self.find(&own, what);
            found.manifest = Read::Damaged;
            return;
        }
        if let Some(identity) = self.identity.as_ref().filter(|identity| identity.archive != pack.archive) {
            let what = format!("it belongs to archive {}, and this is {}", pack.archive, identity.archive);
            self.find(&own, what);
        }
        for packed in &pack.files {
            let name = names::manifest(packed.number);
            let mut file = self.files.remove(&packed.number).unwrap_or_default();
            if matches!(file.manifest, Read::Absent) {
                file.manifest = self.parsed(&name, Some(packed.manifest.as_bytes()));
            } else if let Some(there) = file.manifest.whole() {
                let packed: Option<Manifest> = manifest::parse(&name, packed.manifest.as_bytes()).ok();
                if packed.as_ref() != Some(there) {
                    self.find(&name, format!("it is another than the one in {own}"));
                }
            }
            if let Some((_, stored)) = names::parse_change_file(&packed.name) {
                let object = Object { name: packed.name.clone(), size: packed.length };
                file.packed.get_or_insert((object, stored));
            }
            file.packs.push(span);
            self.files.insert(packed.number, file);
        }
    }

    pub(super) fn check_packs(&mut self) {
        let (mut findings, mut notes) = (Vec::new(), Vec::new());
        let gone = self.gone();
        for (span, found) in self.packs.iter().filter(|(span, _)| span.last > gone) {
            let (name, own) = (names::pack(*span), names::pack_manifest(*span));
            match (&found.manifest, found.bytes) {
                (Read::Absent, _) => notes.push(Finding::of(&name, "this pack is not finished")),
                (Read::Whole(_), None) => {
                    findings.push(Finding::of(&name, "it is missing, and its manifest is there"));
                }
                (Read::Whole(pack), Some(bytes)) if bytes != pack.stored_bytes => {
                    let what = format!("it has {bytes} bytes, and its manifest says {}", pack.stored_bytes);
                    findings.push(Finding::of(&name, what));
                }
                (Read::Damaged, _) | (Read::Whole(_), Some(_)) => {}
            }
            let singles = self.singles(*span);
            if singles > 0 && found.manifest.whole().is_some() {
                let singles = several(singles, "file");
                notes.push(Finding::of(
                    &own,
                    format!("{singles} of it still lie there singly: compact again"),
                ));
            }
        }
        self.findings.append(&mut findings);
        self.notes.append(&mut notes);
    }

    /// How many files of a pack lie there by themselves as well.
    fn singles(&self, span: Span) -> u64 {
        self.files
            .range(span.numbers())
            .filter(|(_, file)| file.has_own_manifest || file.rest().next().is_some())
            .count() as u64
    }
}
