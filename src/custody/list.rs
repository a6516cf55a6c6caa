//! What an archive holds, without a look into its files.

use super::Archive;
use super::catalogue::{Catalogue, pieces};
use crate::archive::manifest::{Base, Manifest, ReaderNote};
use crate::archive::pack::{Pack, PackedFile};
use crate::error::Result;
use crate::status::archive::{ArchiveBase, ArchiveFile, ArchiveListing, ArchivePack, ArchiveReader};

impl Archive {
    /// Reads the small objects.
    pub async fn list(&self) -> Result<ArchiveListing> {
        let catalogue = Catalogue::read(&self.store, &self.keys).await?;
        let newest = catalogue.newest();
        let files = catalogue.files.iter().map(|(number, file)| {
            let name = file.object().map(|(object, _)| object.name.clone()).unwrap_or_default();
            let size = file.object().map(|(object, _)| object.size).unwrap_or_default();
            let unsealed =
                ArchiveFile { number: *number, name, stored_bytes: size, ..ArchiveFile::default() };
            file.manifest.whole().map_or(unsealed, ArchiveFile::from)
        });
        let bases = catalogue.bases.values().filter_map(|base| base.manifest.whole());
        let packs = catalogue.packs.values().filter_map(|pack| pack.manifest.whole());
        let mut listing = ArchiveListing {
            location: self.display(),
            archive: catalogue.identity.as_ref().map(|identity| identity.archive.clone()),
            created: catalogue.identity.as_ref().map(|identity| identity.created.clone()),
            pruned_to: catalogue.pruned.as_ref().map(|pruned| pruned.number),
            files: files.collect(),
            packs: packs.map(ArchivePack::from).collect(),
            bases: bases.map(ArchiveBase::from).collect(),
            readers: catalogue.readers.iter().map(|reader| ArchiveReader::of(reader, newest)).collect(),
            findings: catalogue.findings,
            notes: catalogue.notes,
            ..ArchiveListing::default()
        };
        for file in &listing.files {
            listing.records += file.records;
            listing.transactions += file.transactions;
            listing.stored_bytes += file.stored_bytes;
            listing.content_bytes += file.content_bytes;
        }
        Ok(listing)
    }
}

impl From<&Manifest> for ArchiveFile {
    fn from(manifest: &Manifest) -> ArchiveFile {
        ArchiveFile {
            number: manifest.number,
            name: manifest.name.clone(),
            sealed: Some(manifest.sealed.clone()),
            records: manifest.records,
            transactions: manifest.transactions,
            stored_bytes: manifest.stored_bytes,
            content_bytes: manifest.content_bytes,
            from: Some(manifest.from),
            to: Some(manifest.to),
            epoch: manifest.epoch,
            tables: manifest.tables.clone(),
        }
    }
}

impl From<&Pack> for ArchivePack {
    fn from(pack: &Pack) -> ArchivePack {
        let number = |file: Option<&PackedFile>| file.map_or(0, |file| file.number);
        ArchivePack {
            name: pack.name.clone(),
            first: number(pack.files.first()),
            last: number(pack.files.last()),
            stored_bytes: pack.stored_bytes,
        }
    }
}

impl From<&Base> for ArchiveBase {
    fn from(base: &Base) -> ArchiveBase {
        ArchiveBase {
            number: base.number,
            sealed: base.sealed.clone(),
            at: base.at,
            next_file: base.next_file,
            tables: base.tables.len() as u64,
            rows: base.tables.iter().map(|table| table.rows).sum(),
            stored_bytes: pieces(base).map(|(_, size)| size).sum(),
        }
    }
}

impl ArchiveReader {
    fn of(note: &ReaderNote, newest: u64) -> ArchiveReader {
        ArchiveReader {
            name: note.name.clone(),
            file: note.file,
            position: note.position,
            updated: note.updated.clone(),
            files_behind: (newest + 1).saturating_sub(note.file),
        }
    }
}
