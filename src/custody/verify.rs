//! Every byte of an archive, several objects at once.

use std::fmt;
use std::str::FromStr;

use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::watch;

use super::Archive;
use super::base::{self, CheckedPiece};
use super::catalogue::{Catalogue, Read};
use super::file::{self, Checked, Expected};
use super::odd;
use super::pull::pull;
use crate::archive::manifest::{Base, Manifest, Piece};
use crate::archive::names::{self, Stored};
use crate::archive::pack::Span;
use crate::archive::signing::PublicKey;
use crate::error::{Error, Result};
use crate::status::archive::{ArchiveProgress, ArchiveVerification, Finding};
use crate::store::Object;

/// Objects looked at at once; each has a thread and a few pieces in memory.
const JOBS: usize = 4;

#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Look only into this file and those after; the chain is checked as a whole.
    pub from: u64,
    /// The chain, the small objects and the sizes, and no look into any file.
    pub quick: bool,
    /// What was the newest file once: the archive must still lead through it.
    pub head: Option<Head>,
}

/// A file's number and the hash of its content, as a verification printed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    number: u64,
    content_sha256: String,
}

impl Head {
    fn of(manifest: &Manifest) -> Head {
        Head { number: manifest.number, content_sha256: manifest.content_sha256.clone() }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.content_sha256)
    }
}

impl FromStr for Head {
    type Err = Error;

    fn from_str(text: &str) -> Result<Head> {
        let parsed = text.split_once(':').and_then(|(number, hash)| {
            let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = number.parse().ok().filter(|number| *number > 0 && is_hash)?;
            Some(Head { number, content_sha256: hash.to_ascii_lowercase() })
        });
        parsed.ok_or_else(|| {
            Error::config(format!("{text:?} is no head, which is NUMBER:HASH"))
                .hint("pgdiode archive verify prints it")
        })
    }
}

/// An object to look into.
enum Job<'a> {
    File {
        number: u64,
        object: &'a Object,
        stored: Stored,
        manifest: Option<&'a Manifest>,
        pack: Option<Span>,
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
        options: &VerifyOptions,
        progress: &watch::Sender<ArchiveProgress>,
    ) -> Result<ArchiveVerification> {
        let mut catalogue = Catalogue::read(&self.store, &self.keys).await?;
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
                    report.closed += u64::from(checked.is_closed);
                    findings.append(&mut checked.findings);
                }
                Done::Piece(table, mut piece) => {
                    report.closed += u64::from(piece.is_closed);
                    if let Some(table) = table.filter(|_| !piece.is_closed) {
                        *rows.entry(table).or_default() += piece.rows;
                    }
                    findings.append(&mut piece.findings);
                }
            }
        }
        drop(done);
        report.bytes = progress.borrow().bytes_done;
        check_rows(&catalogue, &rows, &mut findings);
        if let Some(known) = &options.head {
            findings.extend(check_head(&catalogue, known));
        }
        report.signed_by = catalogue.signatures.signers.iter().map(PublicKey::fingerprint).collect();
        report.bases = catalogue.bases.values().filter(|base| base.manifest.whole().is_some()).count() as u64;
        report.head = head(&catalogue).map(|head| head.to_string());
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
        let (name, identities) = (job.name().to_owned(), self.keys.identities.clone());
        let looked = match job {
            Job::File { number, object, stored, manifest, pack } => {
                let (name, stored) = (object.name.clone(), *stored);
                let expected = Expected { name, stored, number: *number, manifest: manifest.cloned() };
                let checked = pull(&self.store, &object.name, passed, move |from| {
                    file::check(&expected, identities.as_ref(), from)
                });
                let checked = match checked.await {
                    Ok(checked) if checked.is_unexplained => self.explain(object, stored, checked).await,
                    checked => checked,
                };
                checked.map(|checked| Done::File(checked.within(*pack)))
            }
            Job::Piece(piece, table, columns) => {
                let (piece, table, columns) = ((*piece).clone(), *table, *columns);
                pull(&self.store, &name, passed, move |from| {
                    Done::Piece(table, base::check(&piece, columns, identities.as_ref(), from))
                })
                .await
            }
        };
        progress.send_modify(|progress| progress.objects_done += 1);
        looked.or_else(|error| job.unreadable(error))
    }

    /// Looks once more for the line that was changed, in a file whose hash alone tells that one was.
    async fn explain(&self, object: &Object, stored: Stored, mut checked: Checked) -> Result<Checked> {
        let (name, identities) = (object.name.clone(), self.keys.identities.clone());
        let odd = pull(
            &self.store,
            &object.name,
            |_| (),
            move |from| odd::lines(&name, stored, identities.as_ref(), from),
        );
        let odd = odd.await?;
        if !odd.is_empty() {
            checked.findings = odd;
        }
        Ok(checked)
    }
}

impl Checked {
    /// Says where to look for a file that does not lie there by itself.
    fn within(mut self, pack: Option<Span>) -> Checked {
        for finding in self.findings.iter_mut().filter(|_| pack.is_some()) {
            let pack = pack.map(names::pack).unwrap_or_default();
            finding.what.push_str(&format!(" (in {pack})"));
        }
        self
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
            Job::Piece(_, table, _) => {
                Done::Piece(*table, CheckedPiece { findings, ..CheckedPiece::default() })
            }
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
        let is_single = file.objects.iter().any(|(single, _)| single.name == object.name);
        let pack = file.packs.iter().rfind(|span| catalogue.packs[span].whole().is_some()).copied();
        if !is_single && pack.is_none() {
            // Its pack has a finding.
            continue;
        }
        let manifest = file.manifest.whole();
        jobs.push(Job::File { number: *number, object, stored: *stored, manifest, pack });
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
fn head(catalogue: &Catalogue) -> Option<Head> {
    let newest = catalogue.files.values().filter_map(|file| file.manifest.whole()).next_back();
    newest.or(catalogue.pruned.as_ref().map(|pruned| &pruned.last)).map(Head::of)
}

/// Whether the archive leads through a file that was its newest.
fn check_head(catalogue: &Catalogue, known: &Head) -> Option<Finding> {
    let pruned = catalogue.pruned.as_ref().map(|pruned| &pruned.last);
    let there = catalogue.files.get(&known.number).and_then(|file| file.manifest.whole());
    let what = match there.or(pruned.filter(|last| last.number == known.number)) {
        Some(manifest) if Head::of(manifest) == *known => return None,
        Some(_) => "it is another than the one of this number and hash that was there",
        // What came after it tells no more than that it was there.
        None if known.number <= catalogue.gone() => return None,
        None => "it was there, and is no more",
    };
    Some(Finding::of(&names::change_file(known.number, Stored::Plain), what))
}
