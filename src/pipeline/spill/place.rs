//! Where a pipeline spills to: an archive that begins with a spill and is removed once that is drained.
//!
//! `meta/spill.json` is made before anything else and removed after all else. It says whose place this is, so that
//! nothing of anybody else's is ever removed, and what a removal that was cut off has left is known for what it is.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::archive::FORMAT;
use crate::archive::line::Origin;
use crate::archive::manifest;
use crate::archive::names;
use crate::config::{ArchiveOptions, Pipeline};
use crate::error::{Error, Result, Side};
use crate::position::{Lineage, Lsn, Position};
use crate::source::archive::Shelf;
use crate::source::archive::shelf::check_origin;
use crate::store::{AnyStore, Content, Location, Store, StoreOptions};
use crate::target::archive::{Making, Opened, open};

/// What says that the place is a spill's.
const MARKER: &str = names::SPILL;
const MARKER_BYTES_MAX: usize = 64 * 1024;

/// Looking into a directory costs nothing; over the network each look is a request.
const POLL_DIRECTORY: Duration = Duration::from_millis(250);
const POLL_NETWORK: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Marker {
    format: u32,
    pipeline: String,
    lineage: Origin,
    since: String,
}

impl Marker {
    /// Whether this is a spill of the same slot, be it of a history that was given up.
    fn is_of(&self, pipeline: &str, lineage: &Lineage) -> bool {
        let ours = Origin::from(lineage);
        let known = Origin {
            timeline: ours.timeline,
            consistent_point: ours.consistent_point,
            ..self.lineage.clone()
        };
        self.pipeline == pipeline && known == ours
    }
}

#[derive(Clone)]
pub struct Place {
    pipeline: String,
    location: Location,
    options: StoreOptions,
    archive: ArchiveOptions,
}

impl Place {
    /// `None` where the configuration names none.
    pub fn of(pipeline: &Pipeline) -> Result<Option<Place>> {
        let Some(archive) = &pipeline.spill.archive else { return Ok(None) };
        let place = archive.archive(Side::Target)?.map(|(location, options)| Place {
            pipeline: pipeline.name.clone(),
            location,
            options,
            archive: pipeline.archive.clone(),
        });
        Ok(place)
    }

    pub fn display(&self) -> String {
        self.location.to_string()
    }

    /// How long to wait where there is no new file yet.
    pub(super) fn poll(&self) -> Duration {
        match self.location {
            Location::Directory(_) => POLL_DIRECTORY,
            Location::S3 { .. } | Location::Sftp { .. } => POLL_NETWORK,
        }
    }

    async fn store(&self) -> Result<AnyStore> {
        AnyStore::open(&self.location, &self.options).await.map_err(named)
    }

    /// For reading what has been spilled.
    pub(super) async fn shelf(&self) -> Result<Shelf> {
        Shelf::open(&self.location, &self.options, self.archive.custody_keys()?).await.map_err(named)
    }

    /// Where the sealed files end; an error if they do not hold all from the target's position to that of the slot.
    pub(super) async fn covers(&self, stored: &Position, confirmed: Lsn) -> Result<Lsn> {
        let missing = |why: String| {
            let what = format!(
                "the slot \"{}\" stands at {confirmed}, beyond the target's position {}, and the spill archive {} does \
                 not hold what lies between: {why}",
                stored.lineage.slot,
                stored.offset,
                self.display()
            );
            Err(Error::refused(what).hint(
                "Put back what was there: is its disk mounted? If it is lost, changes are: start over with pgdiode reset, \
                 then pgdiode start.",
            ))
        };
        let store = self.store().await?;
        let Some(marker) = marker(&store).await? else { return missing("there is no spill".into()) };
        if let Err(error) = check_origin(MARKER, &marker.lineage, &earliest(&stored.lineage)) {
            return missing(error.what().to_owned());
        }
        let numbers = sealed(&store).await?;
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
            return missing("there is no sealed file".into());
        };
        if let Some(gap) = (*first..=*last).zip(&numbers).find(|(number, there)| number != *there) {
            return missing(format!("{} is missing", names::manifest(gap.0)));
        }
        let shelf = self.shelf().await?;
        let (first, last) = (shelf.manifest_of_listed(*first).await?, shelf.manifest_of_listed(*last).await?);
        if first.from > stored.offset {
            return missing(format!("{} begins at {}", first.name, first.from));
        }
        if last.to < confirmed {
            return missing(format!("{}, the last, ends at {}", last.name, last.to));
        }
        check_origin(&last.name, &last.lineage, &earliest(&stored.lineage))?;
        Ok(last.to)
    }

    /// Opens the spill that is there, for its writer.
    pub(super) async fn resume(&self, making: &Making) -> Result<(Arc<AnyStore>, Opened)> {
        let store = self.store().await?;
        let opened = open(&store, &making.spool, &making.keys).await.map_err(named)?;
        Ok((Arc::new(store), opened))
    }

    /// Begins a spill. What an earlier one has left is drained: it goes first.
    pub(super) async fn begin(&self, lineage: &Lineage, making: &Making) -> Result<(Arc<AnyStore>, Opened)> {
        let store = self.store().await?;
        self.empty(&store, lineage).await?;
        let marker = Marker {
            format: FORMAT,
            pipeline: self.pipeline.clone(),
            lineage: lineage.into(),
            since: jiff::Timestamp::now().to_string(),
        };
        crate::target::archive::create(&store, MARKER, Content::Bytes(manifest::text(&marker).into()))
            .await?;
        let opened = open(&store, &making.spool, &making.keys).await.map_err(named)?;
        Ok((Arc::new(store), opened))
    }

    /// Removes a spill that is drained.
    pub(super) async fn clear(&self, lineage: &Lineage) -> Result<()> {
        self.empty(&self.store().await?, lineage).await
    }

    /// Whether a spill of this pipeline could go there.
    pub async fn look(&self) -> Result<()> {
        self.is_marked(&self.store().await?, |marker| marker.pipeline == self.pipeline).await.map(drop)
    }

    /// Whether it holds a spill of ours, or nothing at all; an error if it holds anything else.
    async fn is_marked(&self, store: &AnyStore, is_ours: impl FnOnce(&Marker) -> bool) -> Result<bool> {
        let what = match marker(store).await? {
            Some(marker) if is_ours(&marker) => return Ok(true),
            Some(marker) => format!(
                "holds what pipeline \"{}\" has spilled from slot \"{}\" of database \"{}\"",
                marker.pipeline, marker.lineage.slot, marker.lineage.database
            ),
            None => {
                let found = [store.list("", None).await?, store.list("meta", None).await?].concat();
                let Some(object) = found.first() else { return Ok(false) };
                format!("is not empty, and no spill: there is {}", object.name)
            }
        };
        Err(Error::refused(format!("{} {what}", self.display()))
            .hint("A spill needs a place of its own: name an empty directory with spill.archive."))
    }

    async fn empty(&self, store: &AnyStore, lineage: &Lineage) -> Result<()> {
        if !self.is_marked(store, |marker| marker.is_of(&self.pipeline, lineage)).await? {
            return Ok(());
        }
        for folder in ["", names::MANIFESTS, names::EPOCHS, names::READERS] {
            for object in store.list(folder, None).await? {
                store.remove(&object.name).await?;
            }
        }
        // What says whose this is goes last.
        for name in [names::IDENTITY, MARKER] {
            store.remove(name).await?;
        }
        Ok(())
    }

    /// Removes change files that are applied. Their manifests stay: they are the chain.
    pub(super) async fn prune(&self, applied: u64) -> Result<()> {
        let store = self.store().await?;
        for object in store.list("", None).await? {
            if names::parse_change_file(&object.name).is_some_and(|(number, _)| number <= applied) {
                store.remove(&object.name).await?;
            }
        }
        Ok(())
    }
}

/// Says that it is about the spill.
pub(super) fn named(error: Error) -> Error {
    error.context("the spill archive")
}

async fn marker(store: &AnyStore) -> Result<Option<Marker>> {
    let text = store.read_all(MARKER, MARKER_BYTES_MAX).await?;
    text.map(|text| manifest::parse(MARKER, &text)).transpose()
}

async fn sealed(store: &AnyStore) -> Result<Vec<u64>> {
    let manifests = store.list(names::MANIFESTS, None).await?;
    Ok(manifests.iter().filter_map(|object| names::parse_numbered(&object.name)).collect())
}

/// The history before any of its failovers that the target knows of: what was spilled before one is of it too.
pub(super) fn earliest(lineage: &Lineage) -> Lineage {
    Lineage { timeline: 0, ..lineage.clone() }
}
