//! From manifest to manifest: what follows, what is wanted of it, and what is missing.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::archive::manifest::Manifest;
use crate::change::TableName;
use crate::error::Result;
use crate::position::Lsn;
use crate::source::archive::marks::{Mark, Marks};
use crate::source::archive::shelf::{self, Place, Shelf};
use crate::source::archive::whole::broken;
use crate::source::archive::{ReadOptions, Wanted};

/// A file that is missing in the middle shows by those behind it, which are looked for no more often than this: the list
/// of an archive is long.
const LIST_INTERVAL: Duration = Duration::from_secs(30);

/// What the walk has come upon.
pub(super) enum Found {
    /// To be decoded.
    File(Box<Manifest>, File),
    /// Everything up to here is behind: files without a wanted table, or the end of what there is.
    Behind(Lsn),
}

pub(super) struct Walk {
    shelf: Arc<Shelf>,
    options: ReadOptions,
    marks: Arc<Marks>,
    next: u64,
    before: Option<Manifest>,
    /// The highest number that has been seen.
    last: u64,
    listed: Instant,
}

impl Walk {
    pub(super) async fn begin(
        shelf: Arc<Shelf>,
        mut options: ReadOptions,
        marks: Arc<Marks>,
    ) -> Result<Walk> {
        let Place { next, before, last } = shelf.locate(options.from, options.copied_at).await?;
        marks.begin(next, options.from);
        if let Some(before) = &before {
            shelf::check_origin(&before.name, &before.lineage, &options.lineage)?;
            options.lineage.timeline = before.lineage.timeline;
            marks.hand(Mark::of(before));
        }
        if last > 0 {
            let to = shelf.manifest_of_listed(last).await?.to;
            marks.sealed(last, to);
        }
        Ok(Walk { shelf, options, marks, next, before, last, listed: Instant::now() })
    }

    /// Walks until nobody takes what it finds. An error is the last thing it says.
    pub(super) async fn run(mut self, files: mpsc::Sender<Result<Found>>) {
        loop {
            let found = self.step().await;
            let is_end = matches!(found, Ok(None));
            let failed = found.is_err();
            let behind = self.before.as_ref().map_or(self.options.from, |before| before.to);
            let found = found.map(|found| found.unwrap_or(Found::Behind(behind)));
            if files.send(found).await.is_err() || failed {
                return;
            }
            if is_end {
                sleep(self.options.poll).await;
            }
        }
    }

    /// The next file; `None` when there is none yet.
    async fn step(&mut self) -> Result<Option<Found>> {
        let manifest = match self.shelf.manifest_where_known(self.next).await? {
            // It was sealed: then it has gone into a pack, or is lost.
            None if self.next <= self.last => self.shelf.manifest(self.next).await?,
            manifest => manifest,
        };
        let Some(manifest) = manifest else {
            return self.refuse_gap().await.map(|()| None);
        };
        self.check(&manifest)?;
        self.marks.hand(Mark::of(&manifest));
        let found = if manifest.to > self.options.from && is_wanted(&manifest, &self.options.wanted) {
            tracing::debug!(file = manifest.name, "fetching");
            let file = self
                .shelf
                .fetch(&manifest.name, manifest.stored_bytes, &self.options.spool_directory)
                .await?;
            Found::File(Box::new(manifest.clone()), file)
        } else {
            Found::Behind(manifest.to.max(self.options.from))
        };
        // It rises, and never falls again.
        self.options.lineage.timeline = manifest.lineage.timeline;
        self.next += 1;
        self.last = self.last.max(manifest.number);
        self.before = Some(manifest);
        Ok(Some(found))
    }

    fn check(&self, manifest: &Manifest) -> Result<()> {
        shelf::check_origin(&manifest.name, &manifest.lineage, &self.options.lineage)?;
        match &self.before {
            Some(before) => manifest.follows(before),
            None if manifest.number == 1 && manifest.previous.is_some() => {
                Err(broken(format!("{} is the first file, and names one before it", manifest.name)))
            }
            None if manifest.from > self.options.from => Err(broken(format!(
                "{} begins at {}, and the target stands at {}: files before it are missing or were pruned",
                manifest.name, manifest.from, self.options.from
            ))),
            None => Ok(()),
        }
    }

    /// Files are sealed in their order: one that is not there while a later one is, is lost.
    async fn refuse_gap(&mut self) -> Result<()> {
        self.shelf.still_there().await?;
        if self.last < self.next && self.listed.elapsed() >= LIST_INTERVAL {
            self.listed = Instant::now();
            let later = self.shelf.sealed(self.next).await?;
            self.last = later.last().copied().unwrap_or(0).max(self.last);
        }
        // A list of a directory that is written to may miss a name that was there before others of it.
        if self.last < self.next || self.shelf.manifest(self.next).await?.is_some() {
            return Ok(());
        }
        Err(broken(format!("file {} is missing: file {} is there", self.next, self.last)))
    }
}

/// Manifests name tables `schema.table`, unquoted: each place where the dot may be is tried.
fn is_wanted(manifest: &Manifest, wanted: &Wanted) -> bool {
    let names_wanted = |name: &String| {
        name.match_indices('.').any(|(dot, _)| wanted(&TableName::new(&name[..dot], &name[dot + 1..])))
    };
    manifest.tables.keys().any(names_wanted)
}
