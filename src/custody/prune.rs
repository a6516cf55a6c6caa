//! What nobody needs any more: found, told, and removed so that a crash anywhere leaves a valid archive.
//!
//! A record of the removal is put first; then go older bases, each beginning with its manifest, and then the files, the
//! oldest first, each before its manifest; a pack goes as a whole, or not at all. Whatever is left of a removal that was cut off lies before the record, where
//! nobody looks for it, and the next one removes it.

use jiff::{SignedDuration, Timestamp};

use super::Archive;
use super::catalogue::{Catalogue, Read};
use crate::archive::FORMAT;
use crate::archive::manifest::{self, Pruned};
use crate::archive::names;
use crate::error::{Error, Kind, Result};
use crate::status::archive::PrunePlan;
use crate::store::{Content, Store};

#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Keep what was sealed within so many days, needed or not.
    pub keep_days: u32,
    /// Readers that will not come back.
    pub forget_readers: Vec<String>,
}

/// What a prune would do, and what it needs for doing so.
#[derive(Debug)]
pub struct Plan {
    pub report: PrunePlan,
    record: Option<Pruned>,
}

impl Archive {
    /// What could go now. A damaged archive is left alone: what is damaged may be all that is left of it.
    pub async fn plan_prune(&self, options: &PruneOptions) -> Result<Plan> {
        let catalogue = Catalogue::read(&self.store, &self.keys).await?;
        if let Some(finding) = catalogue.findings.first() {
            let what =
                format!("archive {} is damaged, and nothing is removed: {}", self.display(), finding.text());
            return Err(Error::new(Kind::Difference, what)
                .hint("`pgdiode archive verify` tells all that is wrong; repair the archive first"));
        }
        for name in &options.forget_readers {
            if !catalogue.readers.iter().any(|reader| reader.name == *name) {
                return Err(Error::config(format!("archive {} has no reader \"{name}\"", self.display()))
                    .hint("`pgdiode archive list` shows the readers"));
            }
        }
        Ok(plan(&catalogue, options, self.display(), Timestamp::now()))
    }

    /// Does it.
    pub async fn prune(&self, plan: &mut Plan) -> Result<()> {
        for reader in &plan.report.forgotten_readers {
            self.store.singly().remove(&names::reader(reader)).await?;
        }
        if let Some(record) = &plan.record {
            let content = Content::Bytes(manifest::text(record).into());
            // Taken: another prune came as far, at the same time.
            let _ = self.store.singly().create(&names::pruned(record.number), content).await?;
        }
        for name in &plan.report.objects {
            self.store.singly().remove(name).await?;
        }
        plan.report.done = true;
        Ok(())
    }
}

fn plan(catalogue: &Catalogue, options: &PruneOptions, location: String, now: Timestamp) -> Plan {
    let days = SignedDuration::from_hours(i64::from(options.keep_days) * 24);
    let keep_since = now.checked_sub(days).unwrap_or(Timestamp::MIN);
    // What has no readable time is kept: it may be of today.
    let is_recent = |sealed: &str| sealed.parse::<Timestamp>().map_or(true, |sealed| sealed > keep_since);
    let is_recent = |sealed: &str| options.keep_days > 0 && is_recent(sealed);
    let (gone, newest) = (catalogue.gone(), catalogue.newest());
    let (first_kept, mut kept_for) = needed(catalogue, options, &is_recent);
    let first_kept = whole_packs(catalogue, first_kept, &mut kept_for);
    let mut report = PrunePlan {
        location,
        first_kept,
        kept_for,
        forgotten_readers: options.forget_readers.clone(),
        ..PrunePlan::default()
    };
    let newest_base = catalogue.newest_base().map_or(0, |base| base.number);
    for (number, found) in catalogue.bases.range(..newest_base) {
        let base = found.manifest.whole();
        if base.is_some_and(|base| is_recent(&base.sealed)) {
            continue;
        }
        report.bases.push(*number);
        report.objects.extend(base.map(|_| names::base_manifest(*number)));
        report.objects.extend(found.objects.keys().cloned());
        report.bytes += found.objects.values().sum::<u64>();
    }
    for (number, file) in catalogue.files.range(..first_kept) {
        report.files.push(*number);
        for (object, _) in &file.objects {
            report.objects.push(object.name.clone());
            report.bytes += object.size;
        }
        report.objects.extend(file.has_own_manifest.then(|| names::manifest(*number)));
    }
    for (span, pack) in catalogue.packs.iter().filter(|(span, _)| span.last < first_kept) {
        let has_manifest = !matches!(pack.manifest, Read::Absent);
        report.objects.extend(has_manifest.then(|| names::pack_manifest(*span)));
        report.objects.extend(pack.bytes.map(|_| names::pack(*span)));
        report.bytes += pack.bytes.unwrap_or_default();
    }
    let last = catalogue.files.get(&first_kept.saturating_sub(1)).and_then(|file| file.manifest.whole());
    let record = last.filter(|last| last.number > gone && last.number < newest).map(|last| Pruned {
        format: FORMAT,
        archive: last.archive.clone(),
        number: last.number,
        last: last.clone(),
        host: crate::lock::host_name(),
        pruned: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    Plan { report, record }
}

/// The first file that stays, once nothing is taken out of a pack.
fn whole_packs(catalogue: &Catalogue, mut first_kept: u64, kept_for: &mut Vec<String>) -> u64 {
    let gone = catalogue.gone();
    // The last first: what is kept for one pack may lie in another.
    let sealed = catalogue.packs.iter().filter(|(_, pack)| pack.manifest.whole().is_some());
    for (span, _) in sealed.rev() {
        if span.numbers().contains(&first_kept) && span.first < first_kept {
            kept_for.push(format!("file {first_kept} lies in {}, which goes as a whole", names::pack(*span)));
            first_kept = span.first.max(gone + 1);
        }
    }
    first_kept
}

/// The first file that must stay, and for whom.
fn needed(
    catalogue: &Catalogue,
    options: &PruneOptions,
    is_recent: &impl Fn(&str) -> bool,
) -> (u64, Vec<String>) {
    let mut needs: Vec<(u64, String)> = Vec::new();
    match catalogue.newest_base() {
        Some(base) => needs.push((
            base.next_file,
            format!("base {}, the newest, goes on with file {}", base.number, base.next_file),
        )),
        None => needs.push((1, "there is no base: whoever begins needs every file".to_owned())),
    }
    let others = catalogue.bases.values().filter_map(|found| found.manifest.whole());
    for base in others.filter(|base| is_recent(&base.sealed) && base.next_file > catalogue.gone()) {
        let what =
            format!("base {}, sealed at {}, goes on with file {}", base.number, base.sealed, base.next_file);
        needs.push((base.next_file, what));
    }
    for reader in catalogue.readers.iter().filter(|reader| !options.forget_readers.contains(&reader.name)) {
        let what = format!(
            "reader \"{}\", last heard of at {}, needs file {}",
            reader.name, reader.updated, reader.file
        );
        needs.push((reader.file, what));
    }
    let sealed = catalogue.files.values().filter_map(|file| file.manifest.whole());
    if let Some(file) = sealed.into_iter().find(|file| is_recent(&file.sealed)) {
        needs.push((file.number, format!("file {} was sealed at {}", file.number, file.sealed)));
    }
    // What the next file is chained to.
    let newest = catalogue.newest();
    needs.push((newest, format!("file {newest} is the newest")));
    let first = needs.iter().map(|(file, _)| *file).min().unwrap_or(1);
    // Those who need the very first that stays are the ones that hold it.
    let first = first.max(catalogue.gone() + 1).min(newest.max(1));
    let kept_for = needs.into_iter().filter(|(file, _)| *file <= first).map(|(_, what)| what).collect();
    (first, kept_for)
}
