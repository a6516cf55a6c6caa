//! What lies in an archive, and whether its change files are one chain: all that needs no look into them.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::de::DeserializeOwned;

use crate::archive::keys::ReaderKeys;
use crate::archive::manifest::{self, Base, Claim, Identity, Manifest, Pruned, ReaderNote};
use crate::archive::names::{self, Stored};
use crate::archive::pack::Span;
use crate::custody::packs::PackObjects;
use crate::custody::signatures::Signatures;
use crate::error::Result;
use crate::source::archive::Packed;
use crate::status::archive::Finding;
use crate::status::text::several;
use crate::store::{Object, Store};

/// The largest object that is read at once: a base's manifest has a few hundred bytes for each table.
const OBJECT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Small objects asked for at once.
const IN_FLIGHT: usize = 16;

/// Everything but the content of change files and bases.
#[derive(Debug, Default)]
pub struct Catalogue {
    pub identity: Option<Identity>,
    pub files: BTreeMap<u64, File>,
    pub claims: BTreeMap<u64, Read<Claim>>,
    pub readers: Vec<ReaderNote>,
    /// The latest, which covers those before.
    pub pruned: Option<Pruned>,
    /// The latest cannot be read: any number may be the first.
    is_beginning_unknown: bool,
    pub bases: BTreeMap<u64, BaseObjects>,
    pub packs: BTreeMap<Span, PackObjects>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What need not be.
    pub notes: Vec<Finding>,
    pub signatures: Signatures,
}

/// What there is of a number.
#[derive(Debug, Default)]
pub struct File {
    /// As a rule one, and none of a file in a pack; more, where two have written it in different ways.
    pub objects: Vec<(Object, Stored)>,
    pub manifest: Read<Manifest>,
    /// Whether that lies there by itself.
    pub has_own_manifest: bool,
    /// As a pack has it.
    pub packed: Option<(Object, Stored)>,
    /// As a rule one at most; more, where two have packed at the same time.
    pub packs: Vec<Span>,
}

#[derive(Debug, Default)]
pub struct BaseObjects {
    pub manifest: Read<Base>,
    /// All but the manifest.
    pub objects: BTreeMap<String, u64>,
}

/// A small object.
#[derive(Debug, Default)]
pub enum Read<T> {
    #[default]
    Absent,
    /// There, and a finding of its own says what is wrong with it.
    Damaged,
    Whole(Box<T>),
}

impl<T> Read<T> {
    pub fn whole(&self) -> Option<&T> {
        match self {
            Read::Whole(object) => Some(object),
            Read::Absent | Read::Damaged => None,
        }
    }
}

impl File {
    /// The object that the manifest is of; the only one, where there is no manifest.
    pub fn object(&self) -> Option<&(Object, Stored)> {
        let mut all = self.packed.iter().chain(&self.objects);
        match &self.manifest {
            Read::Whole(manifest) => all.find(|(object, _)| object.name == manifest.name),
            Read::Absent | Read::Damaged => all.next(),
        }
    }

    fn take_manifest(&mut self, manifest: Read<Manifest>) {
        self.has_own_manifest = !matches!(manifest, Read::Absent);
        self.manifest = manifest;
    }

    /// Whether there is an object of its own.
    pub fn is_single(&self) -> bool {
        !self.objects.is_empty() || self.has_own_manifest
    }

    /// What is still there of it singly, though it is in a pack. What was never sealed is in none.
    pub fn rest(&self) -> impl Iterator<Item = &Object> {
        let packed = self.packed.as_ref().map(|(object, _)| &object.name);
        self.objects.iter().map(|(object, _)| object).filter(move |object| Some(&object.name) == packed)
    }
}

impl Catalogue {
    /// Reads all small objects and lists the others.
    pub async fn read(store: &Packed<impl Store>, keys: &ReaderKeys) -> Result<Catalogue> {
        let store = store.singly();
        let mut catalogue = Catalogue { signatures: Signatures::of(keys), ..Catalogue::default() };
        let identity: Read<Identity> = catalogue.object(store, names::IDENTITY).await?;
        if let Read::Absent = identity {
            catalogue.find(names::IDENTITY, "it is missing: is this an archive of pgdiode?");
        }
        catalogue.identity = identity.whole().cloned();
        // While this is read, its writer goes on. What speaks of a file is read before the files, so that none is taken
        // for missing that was not there yet; what a file rests on, after them.
        catalogue.readers(store).await?;
        catalogue.bases(store).await?;
        let manifests = catalogue.numbered(store, names::MANIFESTS, names::manifest).await?;
        for (number, manifest) in manifests {
            catalogue.files.entry(number).or_default().take_manifest(manifest);
        }
        catalogue.change_files(store).await?;
        catalogue.read_packs(store).await?;
        catalogue.claims = catalogue.numbered(store, names::EPOCHS, names::epoch).await?;
        let pruned: BTreeMap<u64, Read<Pruned>> =
            catalogue.numbered(store, names::PRUNED, names::pruned).await?;
        catalogue.is_beginning_unknown = matches!(pruned.values().next_back(), Some(Read::Damaged));
        catalogue.pruned = pruned.into_values().filter_map(|pruned| pruned.whole().cloned()).next_back();
        catalogue.strangers(store).await?;
        catalogue.check_signatures();
        catalogue.check_chain();
        catalogue.check_packs();
        catalogue.check_claims();
        catalogue.check_bases();
        catalogue.check_readers();
        Ok(catalogue)
    }

    /// Up to here files were removed on purpose.
    pub fn gone(&self) -> u64 {
        self.pruned.as_ref().map_or(0, |pruned| pruned.number)
    }

    /// The newest sealed file, those that are gone included.
    pub fn newest(&self) -> u64 {
        let sealed = self.files.iter().filter(|(_, file)| !matches!(file.manifest, Read::Absent));
        sealed.map(|(number, _)| *number).next_back().unwrap_or(0).max(self.gone())
    }

    /// The newest base that is whole as far as the store's list tells.
    pub fn newest_base(&self) -> Option<&Base> {
        self.bases.values().filter_map(|base| base.manifest.whole()).next_back()
    }

    pub(super) fn find(&mut self, object: &str, what: impl Into<String>) {
        self.findings.push(Finding::of(object, what));
    }

    pub(super) fn note(&mut self, object: &str, what: impl Into<String>) {
        self.notes.push(Finding::of(object, what));
    }

    pub(super) fn stranger(&mut self, object: &str) {
        self.note(object, "it is none of an archive's objects");
    }

    async fn object<T: DeserializeOwned>(&mut self, store: &impl Store, name: &str) -> Result<Read<T>> {
        let bytes = store.read_all(name, OBJECT_BYTES_MAX).await?;
        Ok(self.parsed(name, bytes.as_deref()))
    }

    pub(super) fn parsed<T: DeserializeOwned>(&mut self, name: &str, bytes: Option<&[u8]>) -> Read<T> {
        let Some(bytes) = bytes else { return Read::Absent };
        let what = match (manifest::is_whole(bytes), manifest::parse(name, bytes)) {
            (Some(true), Ok(object)) => match self.signatures.look(name, bytes) {
                None => return Read::Whole(Box::new(object)),
                Some(finding) => finding.what,
            },
            (Some(true), Err(error)) => error.chain(),
            (Some(false), _) => "its checksum does not agree: it is not what was written".to_owned(),
            (None, _) => "it has no checksum: it is not what was written".to_owned(),
        };
        self.find(name, what.trim_start_matches(name).trim_start_matches(": ").to_owned());
        Read::Damaged
    }

    /// The objects of a folder whose names are numbers.
    async fn numbered<T: DeserializeOwned>(
        &mut self,
        store: &impl Store,
        folder: &str,
        name_of: impl Fn(u64) -> String,
    ) -> Result<BTreeMap<u64, Read<T>>> {
        let number_of = |name: &str| names::parse_numbered(name).filter(|number| name_of(*number) == name);
        self.named(store, folder, number_of).await
    }

    /// The objects of a folder, by what their names say.
    pub(super) async fn named<K: Ord, T: DeserializeOwned>(
        &mut self,
        store: &impl Store,
        folder: &str,
        key_of: impl Fn(&str) -> Option<K>,
    ) -> Result<BTreeMap<K, Read<T>>> {
        let mut keys = Vec::new();
        for object in store.list(folder, None).await? {
            match key_of(&object.name) {
                Some(key) => keys.push((key, object.name)),
                None => self.stranger(&object.name),
            }
        }
        let reads = keys.into_iter().map(|(key, name)| async move {
            let bytes = store.read_all(&name, OBJECT_BYTES_MAX).await;
            bytes.map(|bytes| (key, name, bytes))
        });
        let mut reads = futures_util::stream::iter(reads).buffered(IN_FLIGHT);
        let mut objects = BTreeMap::new();
        while let Some((key, name, bytes)) = reads.try_next().await? {
            objects.insert(key, self.parsed(&name, bytes.as_deref()));
        }
        Ok(objects)
    }

    async fn change_files(&mut self, store: &impl Store) -> Result<()> {
        for object in store.list("", None).await? {
            match names::parse_change_file(&object.name) {
                Some((number, stored)) => {
                    self.files.entry(number).or_default().objects.push((object, stored));
                }
                None => self.stranger(&object.name),
            }
        }
        // Sealed while this was listed.
        let without =
            |(number, file): (&u64, &File)| matches!(file.manifest, Read::Absent).then_some(*number);
        let unsealed: Vec<u64> = self.files.iter().filter_map(without).collect();
        for number in unsealed {
            let manifest = self.object(store, &names::manifest(number)).await?;
            self.files.entry(number).or_default().take_manifest(manifest);
        }
        Ok(())
    }

    async fn readers(&mut self, store: &impl Store) -> Result<()> {
        for object in store.list(names::READERS, None).await? {
            let note: Read<ReaderNote> = self.object(store, &object.name).await?;
            let Read::Whole(note) = note else { continue };
            if names::reader(&note.name) == object.name {
                self.readers.push(*note);
            } else {
                self.find(&object.name, format!("it is of another reader: {}", note.name));
            }
        }
        Ok(())
    }

    async fn bases(&mut self, store: &impl Store) -> Result<()> {
        for object in store.list(names::BASES, None).await? {
            self.stranger(&object.name);
        }
        for folder in store.folders(names::BASES).await? {
            let number = names::parse_numbered(&folder).filter(|number| names::base(*number) == folder);
            let Some(number) = number else {
                self.stranger(&folder);
                continue;
            };
            let mut objects = store.list(&folder, None).await?;
            for inner in store.folders(&folder).await? {
                objects.extend(store.list(&inner, None).await?);
            }
            let name = names::base_manifest(number);
            let manifest = self.object(store, &name).await?;
            let objects = objects.into_iter().filter(|object| object.name != name);
            let objects: BTreeMap<String, u64> = objects.map(|object| (object.name, object.size)).collect();
            // The folders of what was removed stay where a store has folders.
            if !objects.is_empty() || !matches!(manifest, Read::Absent) {
                self.bases.insert(number, BaseObjects { manifest, objects });
            }
        }
        Ok(())
    }

    /// What lies beside the objects of an archive.
    async fn strangers(&mut self, store: &impl Store) -> Result<()> {
        let folders = [names::MANIFESTS, names::EPOCHS, names::READERS, names::PRUNED, names::PACK_MANIFESTS];
        let is_ours = |name: &str| ["meta", names::BASES, names::PACKS].contains(&name);
        for folder in store.folders("").await?.iter().filter(|name| !is_ours(name)) {
            self.stranger(folder);
        }
        for folder in store.folders("meta").await?.iter().filter(|name| !folders.contains(&name.as_str())) {
            self.stranger(folder);
        }
        for object in store.list("meta", None).await?.iter().filter(|object| object.name != names::IDENTITY) {
            self.stranger(&object.name);
        }
        Ok(())
    }

    fn check_signatures(&mut self) {
        let archive = self.identity.as_ref().map(|identity| &identity.archive);
        let newest = self
            .claims
            .last_key_value()
            .filter(|(_, claim)| claim.whole().is_some_and(|claim| Some(&claim.archive) == archive));
        let newest = newest.map(|(number, _)| names::epoch(*number));
        let (findings, note) = self.signatures.conclude(newest.as_deref());
        self.findings.extend(findings);
        self.notes.extend(note);
    }

    /// Whether the files lead without a gap from the first that is left to the newest.
    fn check_chain(&mut self) {
        let (mut findings, mut notes) = (Vec::new(), Vec::new());
        let gone = self.gone();
        let newest = self.newest();
        // A pack goes as a whole.
        let is_held = |file: &File| !file.is_single() && file.packs.iter().all(|pack| pack.last > gone);
        let leftovers = self.files.range(..=gone).filter(|(_, file)| !is_held(file)).count();
        if leftovers > 0 {
            let are = if leftovers == 1 { "is" } else { "are" };
            let leftovers = several(leftovers as u64, "file");
            let what = format!("{leftovers} up to this one {are} still there: prune again");
            notes.push(Finding::of(&names::pruned(gone), what));
        }
        let mut before = self.pruned.as_ref().map(|pruned| &pruned.last);
        let mut expected = gone + 1;
        for (number, file) in self.files.range(gone + 1..) {
            let plain = names::change_file(*number, Stored::Plain);
            let name = file.object().map_or(&plain, |(object, _)| &object.name);
            if *number > expected {
                if !(self.is_beginning_unknown && expected == gone + 1) {
                    findings.push(missing(expected, number - 1, gone));
                }
                before = None;
            }
            expected = number + 1;
            let Read::Whole(manifest) = &file.manifest else {
                before = None;
                match file.manifest {
                    Read::Absent if *number > newest => notes.push(Finding::of(name, "it is not sealed yet")),
                    Read::Absent => {
                        findings.push(Finding::of(name, "its manifest is missing, and files follow it"));
                    }
                    _ if file.object().is_none() => findings.push(Finding::of(&plain, "it is missing")),
                    _ => {}
                }
                continue;
            };
            self.check_manifest(*number, manifest, file, &mut findings, &mut notes);
            let is_ours = self.identity.as_ref().is_none_or(|identity| identity.archive == manifest.archive);
            if let (Some(before), true) = (before, is_ours)
                && let Err(error) = manifest.follows(before)
            {
                let what =
                    error.what().trim_start_matches(&manifest.name).trim_start_matches(": ").to_owned();
                findings.push(Finding::of(&manifest.name, what));
            }
            before = is_ours.then_some(manifest);
        }
        self.findings.append(&mut findings);
        self.notes.append(&mut notes);
    }

    /// A manifest against the names and sizes that are there.
    fn check_manifest(
        &self,
        number: u64,
        manifest: &Manifest,
        file: &File,
        findings: &mut Vec<Finding>,
        notes: &mut Vec<Finding>,
    ) {
        let own = names::manifest(number);
        if let Some(identity) = self.identity.as_ref().filter(|identity| identity.archive != manifest.archive)
        {
            let what =
                format!("it belongs to archive {}, and this is {}", manifest.archive, identity.archive);
            findings.push(Finding::of(&own, what));
        }
        if manifest.number != number {
            findings.push(Finding::of(&own, format!("it is the manifest of file {}", manifest.number)));
        }
        match file.object() {
            None => findings.push(Finding::of(&manifest.name, "it is missing, and its manifest is there")),
            Some((object, _)) if object.size != manifest.stored_bytes => {
                let what =
                    format!("it has {} bytes, and its manifest says {}", object.size, manifest.stored_bytes);
                findings.push(Finding::of(&object.name, what));
            }
            Some(_) => {}
        }
        for (other, stored) in file.objects.iter().filter(|(object, _)| object.name != manifest.name) {
            // What its writer cannot vouch for it passes over.
            if self.signatures.is_signed() || stored.is_encrypted() {
                let what = format!("it was never sealed: {} has its number", manifest.name);
                notes.push(Finding::of(&other.name, what));
                continue;
            }
            let what = format!("it has the number of {}, which is the one that was sealed", manifest.name);
            findings.push(Finding::of(&other.name, what));
        }
    }

    /// Whoever wrote must have said so before.
    fn check_claims(&mut self) {
        let mut findings = Vec::new();
        for (number, claim) in &self.claims {
            let Some(claim) = claim.whole() else { continue };
            let is_ours = self.identity.as_ref().is_none_or(|identity| identity.archive == claim.archive);
            if !is_ours || claim.epoch != *number {
                findings.push(Finding::of(&names::epoch(*number), "it is the claim of another writer"));
            }
        }
        let files =
            self.files.values().filter_map(|file| file.manifest.whole().map(|manifest| manifest.epoch));
        let bases = self.bases.values().filter_map(|base| base.manifest.whole().map(|base| base.epoch));
        let epochs: BTreeSet<u64> = files.chain(bases).collect();
        for epoch in epochs.iter().filter(|epoch| !self.claims.contains_key(epoch)) {
            findings.push(Finding::of(&names::epoch(*epoch), "it is missing, and this writer wrote"));
        }
        self.findings.append(&mut findings);
    }

    fn check_bases(&mut self) {
        let (mut findings, mut notes) = (Vec::new(), Vec::new());
        let (gone, newest) = (self.gone(), self.newest());
        // One that is damaged, too: those before it are old.
        let finished = self.bases.iter().filter(|(_, base)| !matches!(base.manifest, Read::Absent));
        let newest_base = finished.map(|(number, _)| *number).next_back();
        for (number, found) in &self.bases {
            let own = names::base_manifest(*number);
            let Some(base) = found.manifest.whole() else {
                if let Read::Absent = found.manifest {
                    notes.push(Finding::of(&names::base(*number), "this base is not finished"));
                }
                continue;
            };
            if self.identity.as_ref().is_some_and(|identity| identity.archive != base.archive) {
                findings.push(Finding::of(&own, format!("it belongs to archive {}", base.archive)));
            }
            if base.number != *number {
                findings.push(Finding::of(&own, format!("it is the manifest of base {}", base.number)));
            }
            let next = base.next_file;
            if next > newest + 1 {
                let what = format!(
                    "it goes on with file {next}, and the newest is {newest}: newer ones are missing"
                );
                findings.push(Finding::of(&own, what));
            } else if next <= gone && newest_base == Some(*number) {
                findings.push(Finding::of(&own, format!("it goes on with file {next}, which was pruned")));
            } else if next <= gone {
                notes.push(Finding::of(&own, format!("it goes on with file {next}, which was pruned")));
            }
            let pieces: BTreeMap<&str, u64> = pieces(base).collect();
            for (name, size) in &pieces {
                match found.objects.get(*name) {
                    None => {
                        findings.push(Finding::of(name, "it is missing, and its base's manifest is there"));
                    }
                    Some(there) if there != size => {
                        let what = format!("it has {there} bytes, and its base's manifest says {size}");
                        findings.push(Finding::of(name, what));
                    }
                    Some(_) => {}
                }
            }
            for name in found.objects.keys().filter(|name| !pieces.contains_key(name.as_str())) {
                notes.push(Finding::of(name, "it is none of its base's objects"));
            }
        }
        self.findings.append(&mut findings);
        self.notes.append(&mut notes);
    }

    fn check_readers(&mut self) {
        let (mut findings, mut notes) = (Vec::new(), Vec::new());
        let (gone, newest) = (self.gone(), self.newest());
        for reader in &self.readers {
            let own = names::reader(&reader.name);
            if self.identity.as_ref().is_some_and(|identity| identity.archive != reader.archive) {
                findings.push(Finding::of(&own, format!("it is a reader of archive {}", reader.archive)));
            } else if reader.file > newest + 1 {
                let what = format!(
                    "it has read all before file {}, and the newest is {newest}: newer ones are missing",
                    reader.file
                );
                findings.push(Finding::of(&own, what));
            } else if reader.file <= gone {
                notes.push(Finding::of(
                    &own,
                    format!("it still needs file {}, which was pruned", reader.file),
                ));
            }
        }
        self.findings.append(&mut findings);
        self.notes.append(&mut notes);
    }
}

/// The names and sizes of a base's objects.
pub fn pieces(base: &Base) -> impl Iterator<Item = (&str, u64)> {
    let tables = base.tables.iter().flat_map(|table| &table.pieces);
    [&base.schema].into_iter().chain(tables).map(|piece| (piece.name.as_str(), piece.stored_bytes))
}

fn missing(first: u64, last: u64, gone: u64) -> Finding {
    let name = names::change_file(first, Stored::Plain);
    let what = match (first == gone + 1, last - first) {
        (true, 0) => "it is missing, and no prune has been recorded".to_owned(),
        (true, _) => format!("files {first} to {last} are missing, and no prune has been recorded"),
        (false, 0) => "it is missing".to_owned(),
        (false, _) => format!("files {first} to {last} are missing"),
    };
    Finding::of(&name, what)
}
