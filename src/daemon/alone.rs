//! A thread for one piece of work: a busy pipeline does not keep another one waiting, and one that panics takes
//! nobody along. What it spawns runs in the process's runtime like everything else.

use std::thread;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Reserved, not used: the main thread's usual size.
const STACK_BYTES: usize = 8 << 20;

/// Does the work on a thread of its own; the receiver hears what came of it, or nothing if it panicked.
pub(super) fn alone<T, F>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> oneshot::Receiver<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let (sender, receiver) = oneshot::channel();
    let runtime = Handle::current();
    // The system shows 15 letters of a name.
    let spawned = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(move || {
        // Nobody has to wait for it.
        let _ = sender.send(runtime.block_on(work()));
    });
    if let Err(error) = spawned {
        tracing::error!("no thread for {name}: {error}");
    }
    receiver
}

/// The same, for somebody who waits.
pub async fn on_its_own<T, F>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    alone(name, work).await.unwrap_or_else(|_| Err(Error::unexpected(format!("{name} has panicked"))))
}
