//! What there is to say about an archive: what it holds, what is wrong with it, what can go.

use std::collections::BTreeMap;

use serde::Serialize;

use super::text::{Grid, Paint, Tone, bytes, count, printable, several};
use crate::position::Lsn;

/// Something about one of an archive's objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Its name, from the archive's root.
    pub object: String,
    /// The line, from 1 on, where one shows it.
    pub line: Option<u64>,
    pub what: String,
}

impl Finding {
    pub fn of(object: &str, what: impl Into<String>) -> Finding {
        Finding { object: object.to_owned(), line: None, what: what.into() }
    }

    /// `0000000007.json, line 12: it is no row`.
    pub fn text(&self) -> String {
        let line = self.line.map(|line| format!(", line {line}")).unwrap_or_default();
        printable(&format!("{}{line}: {}", self.object, self.what)).into_owned()
    }
}

/// How far a verification is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveProgress {
    pub objects: u64,
    pub objects_done: u64,
    pub bytes: u64,
    pub bytes_done: u64,
}

impl ArchiveProgress {
    pub fn text(&self) -> String {
        format!(
            "{} of {}, {} of {}",
            count(self.objects_done),
            several(self.objects, "object"),
            bytes(self.bytes_done),
            bytes(self.bytes)
        )
    }
}

/// What a look at a whole archive has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ArchiveVerification {
    pub location: String,
    /// Its identity, if that could be read.
    pub archive: Option<String>,
    pub intact: bool,
    /// Only the chain, the small objects and the sizes.
    pub quick: bool,
    /// Change files that were read.
    pub files: u64,
    /// Change files and bases' objects that were read.
    pub objects: u64,
    pub bases: u64,
    pub records: u64,
    pub transactions: u64,
    pub bytes: u64,
    /// Objects of these that are encrypted, and not to those who look: only their hashes were checked.
    pub closed: u64,
    /// Fingerprints of the keys that have signed its manifests.
    pub signed_by: Vec<String>,
    /// `NUMBER:HASH` of the newest file's content.
    pub head: Option<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What is not wrong, and may be worth a look.
    pub notes: Vec<Finding>,
}

impl ArchiveVerification {
    pub fn text(&self, paint: Paint) -> String {
        let mut lines: Vec<String> = self
            .findings
            .iter()
            .map(|finding| format!("{} {}", paint.bad("damaged   "), finding.text()))
            .collect();
        lines.extend(self.notes.iter().map(|note| format!("note       {}", note.text())));
        let looked = if self.quick {
            "chain and sizes only".to_owned()
        } else {
            format!(
                "{}, {}, {}, {}, {}",
                several(self.files, "change file"),
                several(self.transactions, "transaction"),
                several(self.records, "row"),
                several(self.bases, "base"),
                bytes(self.bytes)
            )
        };
        let verdict = if self.intact { "intact     " } else { "looked at  " };
        lines.push(format!("{verdict}{looked}"));
        if self.closed > 0 {
            let closed = several(self.closed, "encrypted object");
            lines.push(format!(
                "closed     {closed}: what is stored has its hash; --identity FILE looks into what it holds"
            ));
        }
        lines.extend(self.signed_by.iter().map(|key| format!("signed by  {key}")));
        lines.extend(self.head.as_ref().map(|head| format!("head       {head}")));
        lines.join("\n") + "\n"
    }
}

/// What an archive holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ArchiveListing {
    pub location: String,
    pub archive: Option<String>,
    /// RFC 3339.
    pub created: Option<String>,
    /// Files up to this one were removed.
    pub pruned_to: Option<u64>,
    pub files: Vec<ArchiveFile>,
    /// Those of the files that lie in one object.
    pub packs: Vec<ArchivePack>,
    pub bases: Vec<ArchiveBase>,
    pub readers: Vec<ArchiveReader>,
    pub records: u64,
    pub transactions: u64,
    pub stored_bytes: u64,
    pub content_bytes: u64,
    /// What is wrong, as far as it shows without a look into the files.
    pub findings: Vec<Finding>,
    pub notes: Vec<Finding>,
}

/// A change file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ArchiveFile {
    pub number: u64,
    pub name: String,
    /// RFC 3339; `None` where there is no manifest yet, and nothing else is known.
    pub sealed: Option<String>,
    pub records: u64,
    pub transactions: u64,
    pub stored_bytes: u64,
    pub content_bytes: u64,
    pub from: Option<Lsn>,
    pub to: Option<Lsn>,
    pub epoch: u64,
    /// Rows by table.
    pub tables: BTreeMap<String, u64>,
}

/// Change files in one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchivePack {
    pub name: String,
    pub first: u64,
    pub last: u64,
    pub stored_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchiveBase {
    pub number: u64,
    pub sealed: String,
    pub at: Lsn,
    /// Who begins with it goes on with this file.
    pub next_file: u64,
    pub tables: u64,
    pub rows: u64,
    pub stored_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchiveReader {
    pub name: String,
    /// The first file that it may still need.
    pub file: u64,
    pub position: Lsn,
    pub updated: String,
    pub files_behind: u64,
}

impl ArchiveListing {
    pub fn text(&self, paint: Paint) -> String {
        let unknown = || "unknown".to_owned();
        let mut text = format!(
            "{}  archive {}, made {}\n",
            paint.strong(&printable(&self.location)),
            printable(&self.archive.clone().unwrap_or_else(unknown)),
            printable(&self.created.clone().unwrap_or_else(unknown)),
        );
        if let Some(pruned) = self.pruned_to {
            text.push_str(&format!("files up to {pruned} were pruned\n"));
        }
        if !self.files.is_empty() {
            text.push_str(&format!("\n{}", self.files_text(paint)));
        }
        if !self.packs.is_empty() {
            text.push_str(&format!("\n{}", self.packs_text(paint)));
        }
        if !self.bases.is_empty() {
            text.push_str(&format!("\n{}", self.bases_text(paint)));
        }
        if !self.readers.is_empty() {
            text.push_str(&format!("\n{}", self.readers_text(paint)));
        }
        text.push_str(&format!(
            "\n{}, {}, {}, {}{}\n",
            several(self.files.len() as u64, "file"),
            several(self.transactions, "transaction"),
            several(self.records, "row"),
            bytes(self.stored_bytes),
            ratio(self.content_bytes, self.stored_bytes)
                .map(|ratio| format!(" ({ratio})"))
                .unwrap_or_default(),
        ));
        for finding in &self.findings {
            text.push_str(&format!("{} {}\n", paint.bad("damaged   "), finding.text()));
        }
        for note in &self.notes {
            text.push_str(&format!("note       {}\n", note.text()));
        }
        text
    }

    fn files_text(&self, paint: Paint) -> String {
        let heading = ["file", "sealed", "from", "to", "epoch", "transactions", "rows", "size", "compressed"];
        let mut grid = Grid::new(&heading, 4);
        for file in &self.files {
            let position = |position: Option<Lsn>| position.map(|lsn| lsn.to_string()).unwrap_or_default();
            let cells = [
                file.name.clone(),
                file.sealed.clone().unwrap_or_else(|| "not yet".to_owned()),
                position(file.from),
                position(file.to),
                file.epoch.to_string(),
                count(file.transactions),
                count(file.records),
                bytes(file.stored_bytes),
                ratio(file.content_bytes, file.stored_bytes).unwrap_or_else(|| "no".to_owned()),
            ];
            grid.row(plain(cells));
        }
        grid.text(paint)
    }

    fn packs_text(&self, paint: Paint) -> String {
        let mut grid = Grid::new(&["pack", "files", "from", "to", "size"], 1);
        for pack in &self.packs {
            grid.row(plain([
                pack.name.clone(),
                count(pack.last - pack.first + 1),
                pack.first.to_string(),
                pack.last.to_string(),
                bytes(pack.stored_bytes),
            ]));
        }
        grid.text(paint)
    }

    fn bases_text(&self, paint: Paint) -> String {
        let mut grid = Grid::new(&["base", "sealed", "at", "next file", "tables", "rows", "size"], 3);
        for base in &self.bases {
            grid.row(plain([
                base.number.to_string(),
                base.sealed.clone(),
                base.at.to_string(),
                base.next_file.to_string(),
                count(base.tables),
                count(base.rows),
                bytes(base.stored_bytes),
            ]));
        }
        grid.text(paint)
    }

    fn readers_text(&self, paint: Paint) -> String {
        let mut grid = Grid::new(&["reader", "updated", "position", "next file", "behind"], 3);
        for reader in &self.readers {
            grid.row(plain([
                reader.name.clone(),
                reader.updated.clone(),
                reader.position.to_string(),
                reader.file.to_string(),
                several(reader.files_behind, "file"),
            ]));
        }
        grid.text(paint)
    }
}

fn plain<const COLUMNS: usize>(cells: [String; COLUMNS]) -> Vec<(String, Tone)> {
    cells.into_iter().map(|cell| (printable(&cell).into_owned(), Tone::Plain)).collect()
}

/// `5.2 : 1`; `None` for what is not compressed.
fn ratio(content: u64, stored: u64) -> Option<String> {
    if stored == 0 || content <= stored {
        return None;
    }
    let tenths = u128::from(content) * 10 / u128::from(stored);
    Some(format!("{}.{} : 1", tenths / 10, tenths % 10))
}

/// What a prune removes, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PrunePlan {
    pub location: String,
    /// Whether it has been done.
    pub done: bool,
    /// The first change file that stays.
    pub first_kept: u64,
    /// Why it stays.
    pub kept_for: Vec<String>,
    pub forgotten_readers: Vec<String>,
    /// Change files that go.
    pub files: Vec<u64>,
    /// Bases that go.
    pub bases: Vec<u64>,
    /// Everything that goes, in this order.
    pub objects: Vec<String>,
    pub bytes: u64,
}

impl PrunePlan {
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.forgotten_readers.is_empty()
    }

    pub fn text(&self) -> String {
        let verb = if self.done { "removed  " } else { "remove   " };
        let mut lines = Vec::new();
        lines.extend(
            self.forgotten_readers.iter().map(|name| format!("{verb}  reader \"{}\"", printable(name))),
        );
        lines.extend(self.bases.iter().map(|base| format!("{verb}  base {base}")));
        if let (Some(first), Some(last)) = (self.files.first(), self.files.last()) {
            let which =
                if first == last { format!("file {first}") } else { format!("files {first} to {last}") };
            lines.push(format!("{verb}  {which}"));
        }
        if self.is_empty() {
            lines.push("nothing to remove".to_owned());
        } else {
            lines.push(format!(
                "{}  {}",
                if self.done { "freed    " } else { "to free  " },
                bytes(self.bytes)
            ));
        }
        lines.push(format!("keep       file {} and later ones:", self.first_kept));
        lines.extend(self.kept_for.iter().map(|why| format!("           {}", printable(why))));
        lines.join("\n") + "\n"
    }
}

/// What a compaction has packed, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Compaction {
    pub location: String,
    /// Whether it has been done.
    pub done: bool,
    pub packs: Vec<ArchivePack>,
    /// Change files in these packs.
    pub files: u64,
    pub bytes: u64,
    /// What earlier ones that were killed have left, and what is there twice: objects that go.
    pub rest: u64,
    /// The newest files, which stay as they are.
    pub newest: u64,
    /// Others that stay as they are: too large, or without a neighbour to be packed with.
    pub single: u64,
}

impl Compaction {
    pub fn text(&self) -> String {
        let verb = if self.done { "packed   " } else { "pack     " };
        let mut lines: Vec<String> = Vec::new();
        for pack in &self.packs {
            lines.push(format!(
                "{verb}  files {} to {} into {}, {}",
                pack.first,
                pack.last,
                printable(&pack.name),
                bytes(pack.stored_bytes)
            ));
        }
        if self.rest > 0 {
            let verb = if self.done { "removed  " } else { "remove   " };
            lines.push(format!("{verb}  {} that an earlier one has left", several(self.rest, "object")));
        }
        if self.packs.is_empty() {
            lines.push("nothing to pack".to_owned());
        } else {
            let became = if self.done { "became" } else { "become" };
            let after = several(2 * self.packs.len() as u64, "object");
            let of = several(self.files, "file");
            lines.push(format!("objects    {} of {of} {became} {after}", count(2 * self.files)));
        }
        lines.push(match self.newest {
            1 => "keep       the newest file as it is".to_owned(),
            newest => format!("keep       the newest {} as they are", several(newest, "file")),
        });
        if self.single > 0 {
            let single = several(self.single, "other file");
            lines.push(format!("keep       {single}: too large, or without a neighbour to be packed with"));
        }
        lines.join("\n") + "\n"
    }
}
