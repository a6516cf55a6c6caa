//! From name to name: which file comes next, whether it is whole, and whether those before are what they were.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::archive::names::Stored;
use crate::archive::reading::Content;
use crate::error::{Error, Kind, Result};
use crate::position::Lsn;
use crate::source::archive::foreign::ReadOptions;
use crate::source::archive::foreign::decode::{Found, malformed};
use crate::source::archive::foreign::ledger::{Ledger, Taken, ordinal_of, place};
use crate::source::archive::{Mark, Marks};
use crate::store::{AnyStore, Object, Store};

/// While the last file is watched, it is looked at no less often than this.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Files of changes, by their names.
pub fn is_change_file(name: &str) -> bool {
    let plain = name.strip_suffix(".zst").unwrap_or(name);
    plain.rsplit_once('.').is_some_and(|(_, ending)| matches!(ending, "json" | "jsonl"))
}

pub(super) struct Walk {
    store: Arc<AnyStore>,
    options: ReadOptions,
    marks: Arc<Marks>,
    ledger: Ledger,
    taken: HashMap<String, Taken>,
    /// The last name that was taken: what comes later must come after it.
    last: Option<String>,
    /// The next file's place.
    next: u64,
    /// Files that were taken and are read again, the next of them last.
    again: Vec<Taken>,
    /// The last file as it was when it was first seen so.
    watched: Option<(String, u64, Option<i64>, Instant)>,
    /// The last file in the state in which it had no line break at its end.
    unfinished: Option<(String, u64, Option<i64>)>,
}

/// A fetched file and what it holds.
struct Fetched {
    file: File,
    sha256: String,
    bytes: u64,
    lines: u64,
    ends_with_break: bool,
}

impl Walk {
    /// Also: up to where there is something by now.
    pub(super) async fn begin(
        store: Arc<AnyStore>,
        options: ReadOptions,
        marks: Arc<Marks>,
        ledger: Ledger,
    ) -> Result<(Walk, Lsn)> {
        let last = options.taken.last();
        let mut again: Vec<Taken> =
            options.taken.iter().filter(|taken| taken.ends_at() > options.from).cloned().collect();
        again.reverse();
        for taken in options.taken.iter().filter(|taken| taken.ends_at() <= options.from) {
            marks.hand(mark(taken));
        }
        let next = last.map_or(ordinal_of(options.from).max(1), |taken| taken.ordinal + 1);
        let walk = Walk {
            taken: options.taken.iter().map(|taken| (taken.name.clone(), taken.clone())).collect(),
            last: last.map(|taken| taken.name.clone()),
            store,
            options,
            marks,
            ledger,
            next,
            again,
            watched: None,
            unfinished: None,
        };
        let listed = walk.list().await?;
        walk.refuse_changed(&listed).await?;
        let new = listed.iter().filter(|object| !walk.taken.contains_key(&object.name)).count() as u64;
        // One that is being written may never end.
        let growing = match listed.last() {
            Some(last) if new > 0 && !walk.ends_with_break(last).await? => 1,
            _ => 0,
        };
        let until = place(walk.next + new - growing, 0);
        Ok((walk, until))
    }

    /// Walks until nobody takes what it finds. An error is the last thing it says.
    pub(super) async fn run(mut self, files: mpsc::Sender<Result<Found>>) {
        loop {
            let found = self.step().await;
            let (is_end, failed) = (matches!(found, Ok(None)), found.is_err());
            let behind = place(self.next, 0);
            let found = found.map(|found| found.unwrap_or(Found::Behind(behind)));
            if files.send(found).await.is_err() || failed {
                return;
            }
            if is_end {
                let is_watching = self.watched.is_some() && self.unfinished.is_none();
                let poll = self.options.poll;
                sleep(if is_watching { poll.min(WATCH_INTERVAL) } else { poll }).await;
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Found>> {
        if let Some(taken) = self.again.pop() {
            return self.take_again(taken).await.map(Some);
        }
        if !self.options.takes_more {
            return Ok(None);
        }
        let listed = self.list().await?;
        let mut new = listed.iter().filter(|object| !self.taken.contains_key(&object.name));
        let Some(object) = new.next() else { return Ok(None) };
        if new.next().is_none() && !self.is_settled(object) {
            return Ok(None);
        }
        let is_last = listed.last().is_some_and(|last| last.name == object.name);
        self.take(object, is_last).await
    }

    /// The files of changes in the order of their names. One that came late has no place any more.
    async fn list(&self) -> Result<Vec<Object>> {
        let mut listed = self.store.list("", None).await?;
        listed.retain(|object| is_change_file(&object.name));
        for object in &listed {
            match (self.taken.get(&object.name), &self.last) {
                (Some(taken), _) if taken.bytes != object.size => return Err(changed(taken)),
                (None, Some(last)) if object.name < *last => return Err(late(&object.name, last)),
                _ => {}
            }
        }
        Ok(listed)
    }

    /// At a start: sizes have been compared; where times of writing can be known, a file with another one is hashed, and
    /// elsewhere the last one is.
    async fn refuse_changed(&self, listed: &[Object]) -> Result<()> {
        for object in listed {
            let Some(taken) = self.taken.get(&object.name) else { continue };
            let modified = self.modified(&object.name);
            let is_last = Some(&object.name) == self.last.as_ref();
            if (modified.is_some() && modified == taken.modified) || (modified.is_none() && !is_last) {
                continue;
            }
            if self.fetch(&object.name).await?.sha256 != taken.sha256 {
                return Err(changed(taken));
            }
        }
        Ok(())
    }

    fn modified(&self, name: &str) -> Option<i64> {
        let path = self.options.directory.as_ref()?.join(name);
        let modified = std::fs::metadata(path).ok()?.modified().ok()?;
        i64::try_from(modified.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
    }

    /// Whether the last file has stayed as it is for long enough.
    fn is_settled(&mut self, object: &Object) -> bool {
        let modified = self.modified(&object.name);
        let settle = self.options.settle;
        if self.unfinished.as_ref().is_some_and(|unfinished| is_as(unfinished, object, modified)) {
            return false;
        }
        let since = match &self.watched {
            Some((name, size, when, since)) if is_as(&(name.clone(), *size, *when), object, modified) => {
                *since
            }
            _ => Instant::now(),
        };
        self.watched = Some((object.name.clone(), object.size, modified, since));
        since.elapsed() >= settle || modified.and_then(age).is_some_and(|age| age >= settle)
    }

    async fn take(&mut self, object: &Object, is_last: bool) -> Result<Option<Found>> {
        let modified = self.modified(&object.name);
        let fetched = match self.fetch(&object.name).await {
            // Half of a compressed file cannot be read at all.
            Err(error) if is_last && error.kind() == Kind::Difference => {
                tracing::warn!(file = object.name, "the last file cannot be read yet: it is waited for");
                self.unfinished = Some((object.name.clone(), object.size, modified));
                return Ok(None);
            }
            fetched => fetched?,
        };
        if is_last && (!fetched.ends_with_break || fetched.bytes != object.size) {
            if self.options.settle > Duration::ZERO || fetched.lines > 0 {
                tracing::warn!(
                    file = object.name,
                    "the last file does not end with a line break: it is waited for"
                );
            }
            self.unfinished = Some((object.name.clone(), object.size, modified));
            return Ok(None);
        }
        if !fetched.ends_with_break && fetched.bytes > 0 {
            return Err(malformed(&object.name, fetched.lines, "the last line is cut off"));
        }
        let taken = Taken {
            ordinal: self.next,
            name: object.name.clone(),
            sha256: fetched.sha256,
            bytes: fetched.bytes,
            modified,
            lines: fetched.lines,
        };
        (self.watched, self.unfinished) = (None, None);
        self.next += 1;
        self.last = Some(taken.name.clone());
        self.taken.insert(taken.name.clone(), taken.clone());
        self.ledger.enter(&taken);
        Ok(Some(self.hand(taken, fetched.file)))
    }

    /// A file that was taken before: its changes are still wanted, by the pipeline or by a table that catches up.
    async fn take_again(&mut self, taken: Taken) -> Result<Found> {
        if self.store.size(&taken.name).await?.is_none() {
            return Err(Error::new(
                Kind::Difference,
                format!("{} was taken, is needed again, and is not there any more", taken.name),
            )
            .hint("Put it back: its changes cannot be had from anywhere else."));
        }
        let fetched = self.fetch(&taken.name).await?;
        if fetched.sha256 != taken.sha256 {
            return Err(changed(&taken));
        }
        Ok(self.hand(taken, fetched.file))
    }

    fn hand(&self, taken: Taken, file: File) -> Found {
        tracing::debug!(file = taken.name, ordinal = taken.ordinal, lines = taken.lines, "takes a file");
        self.marks.hand(mark(&taken));
        Found::File(taken, file)
    }

    /// Copies a file here, under no name, and looks at all of it.
    async fn fetch(&self, name: &str) -> Result<Fetched> {
        let path = self.options.spool_directory.join(format!("foreign_{}", name.replace('/', "_")));
        self.store.fetch(name, &path).await?;
        let stored = Stored::of(name);
        let examined = tokio::task::spawn_blocking(move || {
            let mut file = File::open(&path)?;
            std::fs::remove_file(&path)?;
            let (sha256, lines, ends_with_break) = examine(Content::new(stored, &mut file)?)?;
            file.rewind()?;
            let bytes = file.metadata()?.len();
            Ok(Fetched { file, sha256, bytes, lines, ends_with_break })
        });
        let examined =
            examined.await.map_err(|error| Error::unexpected("the process is ending").because(error))?;
        examined.map_err(|error: io::Error| malformed(name, 0, "it cannot be read").because(error))
    }

    /// Of a compressed file only its end would tell.
    async fn ends_with_break(&self, object: &Object) -> Result<bool> {
        if Path::new(&object.name).extension().is_some_and(|extension| extension == "zst") {
            return Ok(object.size > 0);
        }
        let Some(before) = object.size.checked_sub(1) else { return Ok(false) };
        Ok(self.store.read(&object.name, before, 1).await?.as_ref() == b"\n")
    }
}

fn mark(taken: &Taken) -> Mark {
    Mark { number: taken.ordinal, content_sha256: taken.sha256.clone(), to: taken.ends_at() }
}

fn is_as(known: &(String, u64, Option<i64>), object: &Object, modified: Option<i64>) -> bool {
    (known.0.as_str(), known.1, known.2) == (object.name.as_str(), object.size, modified)
}

/// How long ago something was written; `None` where clocks disagree.
fn age(modified: i64) -> Option<Duration> {
    let modified = UNIX_EPOCH.checked_add(Duration::from_nanos(u64::try_from(modified).ok()?))?;
    SystemTime::now().duration_since(modified).ok()
}

/// The hash, the number of lines, and whether the last one ends.
fn examine(mut content: Content<&mut File>) -> io::Result<(String, u64, bool)> {
    let mut buffer = vec![0; 256 * 1024];
    let (mut lines, mut last) = (0, b'\n');
    loop {
        let read = content.read(&mut buffer)?;
        let Some(end) = buffer[..read].last() else { break };
        lines += buffer[..read].split(|byte| *byte == b'\n').count() as u64 - 1;
        last = *end;
    }
    let (sha256, bytes) = content.finish();
    let is_whole = last == b'\n';
    Ok((sha256, lines + u64::from(!is_whole), is_whole && bytes > 0))
}

fn changed(taken: &Taken) -> Error {
    Error::new(Kind::Difference, format!("{} is another file than the one that was applied", taken.name)).hint(
        "A file must not change once it was taken. Put back what was there, and put new changes into a file of a later \
         name; or start over: pgdiode reset, then pgdiode start.",
    )
}

fn late(name: &str, last: &str) -> Error {
    Error::new(
        Kind::Difference,
        format!("{name} has come after {last} was applied, and its name is before that"),
    )
    .hint(
        "Files are applied in the order of their names. If its changes may come last, give it a later name.",
    )
}
