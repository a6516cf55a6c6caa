//! Keys and resizes, read by a thread of their own, because reading a terminal blocks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc;

/// Between two looks whether anybody still listens.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Keys that are typed ahead.
const AHEAD_MAX: usize = 64;

/// The thread ends with it.
pub(crate) struct Keyboard {
    events: mpsc::Receiver<io::Result<Event>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keyboard {
    pub(crate) fn listen() -> Keyboard {
        let (sender, events) = mpsc::channel(AHEAD_MAX);
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let event = match event::poll(LOOK_EVERY) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                let is_broken = event.is_err();
                // Full: somebody leans on a key, and the next one says the same.
                let _ = sender.try_send(event);
                if is_broken {
                    return;
                }
            }
        });
        Keyboard { events, is_over, thread: Some(thread) }
    }

    /// `None` once nothing can come any more. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Event>> {
        self.events.recv().await
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic; and if it did, there is nothing to do about it here.
            let _ = thread.join();
        }
    }
}
