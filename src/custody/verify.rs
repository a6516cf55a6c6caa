//! Every byte of an archive, several objects at once.

use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::watch;

use super::Archive;
use super::base::{self, CheckedPiece};
use super::catalogue::{Catalogue, Read};
use super::file::{self, Checked, Expected};
use super::pull::pull;
use crate::archive::manifest::{Base, Manifest, Piece};
use crate::archive::names::{self, Stored};
use crate::error::{Error, Result};
use crate::status::archive::{ArchiveProgress, ArchiveVerification, Finding};
use crate::store::Object;

/// Objects looked at at once; each has a thread and a few pieces in memory.
const JOBS: usize = 4;

#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyOptions {
    /// Look only into this file and those after; the chain is checked as a whole.
    pub from: u64,
    /// The chain, the small objects and the sizes, and no look into any file.
    pub quick: bool,
}

/// An object to look into.
enum Job<'a> {
    File {
        number: u64,
        object: &'a Object,
        stored: Stored,
        manifest: Option<&'a Manifest>,
    },
    /// A base's object, and which table's rows it has.
    Piece(&'a Piece, Option<(u64, usize)>, Option<usize>),
}

enum Done {
    File(Checked),
    Piece(Option<(u64, usize)>, CheckedPiece),
}

impl Archive {
    /// Looks at everything, and goes on after what it finds.
    pub async fn verify(
        &self,
        options: VerifyOptions,
        progress: &watch::Sender<ArchiveProgress>,
    ) -> Result<ArchiveVerification> {
        let mut catalogue = Catalogue::read(&self.store).await?;
        let jobs = if options.quick { Vec::new() } else { jobs(&catalogue, options.from) };
        let mut report = ArchiveVerification {
            location: self.display(),
            archive: catalogue.identity.as_ref().map(|identity| identity.archive.clone()),
            quick: options.quick,
            objects: jobs.len() as u64,
            ..ArchiveVerification::default()
        };
        let total = jobs.iter().map(Job::size).sum();
        progress.send_replace(ArchiveProgress {
            objects: jobs.len() as u64,
            bytes: total,
            ..ArchiveProgress::default()
        });
        let mut rows = std::collections::BTreeMap::<(u64, usize), u64>::new();
        let mut findings = Vec::new();
        let mut done = futures_util::stream::iter(jobs.iter().map(|job| self.look(job, progress)))
            .buffer_unordered(JOBS);
        while let Some(one) = done.try_next().await? {
            match one {
                Done::File(mut checked) => {
                    report.files += 1;
                    report.records += checked.counted.records;
                    report.transactions += checked.counted.transactions;
                    findings.append(&mut checked.findings);
                }
                Done::Piece(table, mut piece) => {
                    if let Some(table) = table {
                        *rows.entry(table).or_default() += piece.rows;
                    }
                    findings.append(&mut piece.findings);
                }
            }
        }
        drop(done);
        report.bytes = progress.borrow().bytes_done;
        check_rows(&catalogue, &rows, &mut findings);
        report.bases = catalogue.bases.values().filter(|base| base.manifest.whole().is_some()).count() as u64;
        report.head = head(&catalogue);
        catalogue.findings.append(&mut findings);
        catalogue.findings.sort();
        catalogue.findings.dedup();
        catalogue.notes.sort();
        report.findings = catalogue.findings;
        report.notes = catalogue.notes;
        report.intact = report.findings.is_empty();
        Ok(report)
    }

    /// One object, from its first byte to its last.
    async fn look(&self, job: &Job<'_>, progress: &watch::Sender<ArchiveProgress>) -> Result<Done> {
        let passed = |bytes| progress.send_modify(|progress| progress.bytes_done += bytes);
        let name = job.name().to_owned();
        let looked = match job {
            Job::File { number, object, stored, manifest } => {
                let expected = Expected {
                    name: object.name.clone(),
                    stored: *stored,
                    number: *number,
                    manifest: manifest.cloned(),
                };
                pull(&self.store, &name, passed, move |from| Done::File(file::check(&expected, from))).await
            }
            Job::Piece(piece, table, columns) => {
                let (piece, table, columns) = ((*piece).clone(), *table, *columns);
                pull(&self.store, &name, passed, move |from| {
                    Done::Piece(table, base::check(&piece, columns, from))
                })
                .await
            }
        };
        progress.send_modify(|progress| progress.objects_done += 1);
        looked.or_else(|error| job.unreadable(error))
    }
}

impl Job<'_> {
    fn name(&self) -> &str {
        match self {
            Job::File { object, .. } => &object.name,
            Job::Piece(piece, ..) => &piece.name,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Job::File { object, .. } => object.size,
            Job::Piece(piece, ..) => piece.stored_bytes,
        }
    }

    /// A disk that cannot give one object may give the others; a store that cannot be reached gives none.
    fn unreadable(&self, error: Error) -> Result<Done> {
        if error.retries() {
            return Err(error);
        }
        let findings = vec![Finding::of(self.name(), format!("it cannot be read: {}", error.chain()))];
        Ok(match self {
            Job::File { .. } => Done::File(Checked { findings, ..Checked::default() }),
            Job::Piece(_, table, _) => Done::Piece(*table, CheckedPiece { findings, rows: 0 }),
        })
    }
}

fn jobs(catalogue: &Catalogue, from: u64) -> Vec<Job<'_>> {
    let mut jobs = Vec::new();
    let first = from.max(catalogue.gone() + 1);
    for (number, file) in catalogue.files.range(first..) {
        // What is not sealed is still its writer's.
        let (Some((object, stored)), false) = (file.object(), matches!(file.manifest, Read::Absent)) else {
            continue;
        };
        jobs.push(Job::File { number: *number, object, stored: *stored, manifest: file.manifest.whole() });
    }
    for (number, found) in &catalogue.bases {
        let Some(base) = found.manifest.whole().filter(|base| base.next_file >= from) else { continue };
        let is_there = |piece: &&Piece| found.objects.contains_key(&piece.name);
        jobs.extend([&base.schema].into_iter().filter(is_there).map(|piece| Job::Piece(piece, None, None)));
        for (at, table) in base.tables.iter().enumerate() {
            let pieces = table.pieces.iter().filter(is_there);
            jobs.extend(
                pieces.map(|piece| Job::Piece(piece, Some((*number, at)), Some(table.columns.len()))),
            );
        }
    }
    jobs
}

/// Whether the tables of the bases have as many rows as their manifests say, where nothing else is wrong with them.
fn check_rows(
    catalogue: &Catalogue,
    rows: &std::collections::BTreeMap<(u64, usize), u64>,
    findings: &mut Vec<Finding>,
) {
    for ((number, at), rows) in rows {
        let base: Option<&Base> = catalogue.bases.get(number).and_then(|found| found.manifest.whole());
        let Some(table) = base.and_then(|base| base.tables.get(*at)) else { continue };
        let is_named = |finding: &Finding| table.pieces.iter().any(|piece| piece.name == finding.object);
        if *rows != table.rows && !findings.iter().chain(&catalogue.findings).any(is_named) {
            let what = format!(
                "{}.{} has {rows} rows, and {} are written here",
                table.schema, table.table, table.rows
            );
            findings.push(Finding::of(&names::base_manifest(*number), what));
        }
    }
}

/// The newest file's number and hash: kept elsewhere, it tells whether an end was cut off.
fn head(catalogue: &Catalogue) -> Option<String> {
    let newest = catalogue.files.values().filter_map(|file| file.manifest.whole()).next_back();
    let newest = newest.or(catalogue.pruned.as_ref().map(|pruned| &pruned.last));
    newest.map(|manifest| format!("{}:{}", manifest.number, manifest.content_sha256))
}
