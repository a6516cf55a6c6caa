//! Which files there are and which of them the target has wholly: for whoever watches, for the next start, which
//! compares, and for a note in the archive, which keeps pruning away from what this reader still needs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::archive::manifest::{self, Manifest, ReaderNote};
use crate::archive::{FORMAT, names};
use crate::position::Lsn;
use crate::source::archive::Shelf;
use crate::store::Store;

/// Notes are this far apart: each is a request, and nobody prunes by the second.
const NOTE_INTERVAL: Duration = Duration::from_secs(5);
/// The last note is given this long.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// A file by what tells it from any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub number: u64,
    pub content_sha256: String,
    pub to: Lsn,
}

impl Mark {
    pub fn of(manifest: &Manifest) -> Mark {
        Mark { number: manifest.number, content_sha256: manifest.content_sha256.clone(), to: manifest.to }
    }
}

/// `applied <= handed on <= sealed`.
#[derive(Default)]
pub struct Marks {
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Default)]
struct State {
    /// Passed on or passed over, and not yet known to be durable at the target.
    handed: VecDeque<Mark>,
    applied: Option<Mark>,
    /// The first file that may still be needed, once that is known.
    needs: Option<u64>,
    position: Lsn,
    /// The last file that is known to be sealed.
    sealed: Option<(u64, Lsn)>,
}

impl Marks {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while marking")
    }

    /// Where the walk begins.
    pub(super) fn begin(&self, next: u64, position: Lsn) {
        let mut state = self.lock();
        (state.needs, state.position) = (Some(next), position);
        drop(state);
        self.moved.notify_one();
    }

    /// A file goes on its way, or is behind already.
    pub(super) fn hand(&self, mark: Mark) {
        self.sealed(mark.number, mark.to);
        self.lock().handed.push_back(mark);
    }

    pub(super) fn sealed(&self, number: u64, to: Lsn) {
        let mut state = self.lock();
        if state.sealed.is_none_or(|(known, _)| known < number) {
            state.sealed = Some((number, to));
        }
    }

    pub(super) fn applied_up_to(&self, position: Lsn) {
        let mut state = self.lock();
        state.position = position;
        while let Some(mark) = state.handed.pop_front_if(|mark| mark.to <= position) {
            state.needs = Some(mark.number + 1);
            state.applied = Some(mark);
        }
        drop(state);
        self.moved.notify_one();
    }

    /// The last file that the target has wholly; `None` when this run has not applied one yet.
    pub fn applied(&self) -> Option<Mark> {
        self.lock().applied.clone()
    }

    /// The first file that may still be needed, once that is known.
    pub fn needs(&self) -> Option<u64> {
        self.lock().needs
    }

    /// The last sealed file and where it ends.
    pub fn last_sealed(&self) -> Option<(u64, Lsn)> {
        self.lock().sealed
    }

    fn note(&self, archive: &str, name: &str) -> Option<ReaderNote> {
        let state = self.lock();
        Some(ReaderNote {
            format: FORMAT,
            archive: archive.to_owned(),
            name: name.to_owned(),
            file: state.needs?,
            position: state.position,
            updated: jiff::Timestamp::now().to_string(),
        })
    }
}

/// Writes the notes. Best effort: a reader without the right to write there reads all the same.
pub(super) struct Notes {
    writer: Arc<Writer>,
    task: JoinHandle<()>,
}

struct Writer {
    shelf: Arc<Shelf>,
    reader: String,
    marks: Arc<Marks>,
}

impl Notes {
    pub(super) fn begin(shelf: &Arc<Shelf>, reader: &str, marks: &Arc<Marks>) -> Notes {
        let writer = Arc::new(Writer {
            shelf: Arc::clone(shelf),
            reader: reader.to_owned(),
            marks: Arc::clone(marks),
        });
        let writing = Arc::clone(&writer);
        let task = tokio::spawn(async move {
            loop {
                writing.marks.moved.notified().await;
                writing.write().await;
                sleep(NOTE_INTERVAL).await;
            }
        });
        Notes { writer, task }
    }

    pub(super) async fn finish(self) {
        self.task.abort();
        if timeout(FINISH_MAX, self.writer.write()).await.is_err() {
            tracing::debug!("the archive did not take the last note in time");
        }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Writer {
    async fn write(&self) {
        let Some(note) = self.marks.note(&self.shelf.identity.archive, &self.reader) else { return };
        let name = names::reader(&self.reader);
        if let Err(error) = self.shelf.store.singly().replace(&name, manifest::text(&note).into()).await {
            tracing::debug!(error = error.chain(), "the reader's note could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_applied_once_all_of_it_is() {
        let marks = Marks::default();
        for number in 1..=3 {
            let to = Lsn(number * 100);
            marks.hand(Mark { number, content_sha256: number.to_string(), to });
        }
        assert!(marks.note("a", "r").is_none(), "nothing is known yet");
        marks.begin(1, Lsn(50));
        assert_eq!(marks.note("a", "r").unwrap().file, 1);
        for (position, applied) in
            [(99, None), (100, Some(1)), (250, Some(2)), (300, Some(3)), (400, Some(3))]
        {
            marks.applied_up_to(Lsn(position));
            assert_eq!(marks.applied().map(|mark| mark.number), applied, "{position}");
        }
        assert_eq!(marks.last_sealed(), Some((3, Lsn(300))));
        let note = marks.note("a", "r").unwrap();
        assert_eq!((note.file, note.position), (4, Lsn(400)));
    }
}
