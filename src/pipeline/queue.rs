//! The copy's work, shared by its workers: the largest ready piece first, more pieces as earlier ones are done.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Mutex;

use tokio::sync::Notify;

/// Work with what it is expected to cost.
struct Ready<W> {
    cost: u64,
    work: W,
}

impl<W> PartialEq for Ready<W> {
    fn eq(&self, other: &Self) -> bool {
        self.cost == other.cost
    }
}

impl<W> Eq for Ready<W> {}

impl<W> PartialOrd for Ready<W> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<W> Ord for Ready<W> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.cost.cmp(&other.cost)
    }
}

struct State<W> {
    ready: BinaryHeap<Ready<W>>,
    /// Pieces that are being worked on: each may still add to the queue.
    working: usize,
}

/// A queue that ends when it is empty and nobody works any more.
pub struct Queue<W> {
    state: Mutex<State<W>>,
    changed: Notify,
}

impl<W> Default for Queue<W> {
    fn default() -> Queue<W> {
        Queue { state: Mutex::new(State { ready: BinaryHeap::new(), working: 0 }), changed: Notify::new() }
    }
}

impl<W> Queue<W> {
    pub fn push(&self, cost: u64, work: W) {
        self.lock().ready.push(Ready { cost, work });
        self.changed.notify_waiters();
    }

    /// The costliest piece; `None` once all work is done. Each piece taken must be [`Queue::done`].
    pub async fn next(&self) -> Option<W> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that a change in between is not missed.
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                if let Some(ready) = state.ready.pop() {
                    state.working += 1;
                    return Some(ready.work);
                }
                if state.working == 0 {
                    return None;
                }
            }
            changed.await;
        }
    }

    pub fn done(&self) {
        self.lock().working -= 1;
        self.changed.notify_waiters();
    }

    /// Whether whoever asks has taken the last piece there is, while nobody else works.
    pub fn is_ending(&self) -> bool {
        let state = self.lock();
        state.ready.is_empty() && state.working == 1
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<W>> {
        self.state.lock().expect("nobody panics while holding the queue")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn work_that_work_brings_is_done_too_and_the_costliest_first() {
        let queue = Arc::new(Queue::default());
        queue.push(1, 1);
        queue.push(5, 5);
        let done = Arc::new(Mutex::new(Vec::new()));
        let workers = (0..3).map(|_| {
            let (queue, done) = (Arc::clone(&queue), Arc::clone(&done));
            tokio::spawn(async move {
                while let Some(work) = queue.next().await {
                    done.lock().unwrap().push(work);
                    if work == 5 {
                        tokio::task::yield_now().await;
                        queue.push(3, 3);
                    }
                    queue.done();
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.unwrap();
        }
        let done = done.lock().unwrap().clone();
        assert_eq!(done[0], 5);
        assert_eq!(done.len(), 3);
    }
}
