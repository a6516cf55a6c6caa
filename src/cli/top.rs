//! `pgdiode top`: every pipeline, live, in a terminal. It looks and runs nothing.
//!
//! [`Screen`] is what somebody sees and the keys that they pressed; it draws any [`Fleet`] on any ratatui backend, and
//! knows no terminal. [`show`] joins it to the real one, which it leaves as it was, however it ends.

mod detail;
mod keyboard;
mod screen;
mod words;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::Event;
use tokio::sync::watch;

use super::{Global, output, progress};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::status::fleet::Fleet;
use crate::status::text::Paint;

pub(super) use keyboard::Keyboard;
pub use screen::{Answer, Screen};

/// How long a single picture waits for pipelines that do not answer.
const ANSWERS_WAIT: Duration = Duration::from_secs(30);

/// Watch every pipeline live
///
/// One line a pipeline, the worst first: health, phase, how far behind, rate, attempts. Below it all that `status` says of
/// the one that is chosen, its problem with a hint, its lag over time and what is under way.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing.

Examples:
  pgdiode top
  pgdiode top --once
  pgdiode top --once --json | jq '.pipelines[] | [.name, .health]'

The keys are at the bottom of the screen; ? explains them. Where standard output is no terminal it is as with --once.

",
    exit_statuses!()
))]
pub struct Top {
    /// Print one picture as text, once every pipeline has answered, and end
    #[arg(long)]
    once: bool,
}

impl Top {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let mut config = global.config()?;
        if let Some(name) = &global.pipeline {
            let one = config.pipeline(Some(name))?.clone();
            config.pipelines = vec![one];
        }
        let count = config.pipelines.len();
        let daemon = Daemon::observe(
            config,
            Box::new(|| Err(Error::unexpected("pgdiode top reads its configuration once"))),
        );
        if self.once || global.json || !io::stdout().is_terminal() {
            let fleet = answered(daemon.fleet(), count).await;
            return if global.json {
                output::json(&*fleet)
            } else {
                output::text(&picture(&fleet, output::paint()))
            };
        }
        show(daemon.fleet(), output::paint()).await
    }
}

/// The fleet once all of its pipelines have said something, or have had their time.
async fn answered(mut fleet: watch::Receiver<Arc<Fleet>>, count: usize) -> Arc<Fleet> {
    let all = fleet.wait_for(|fleet| {
        let answers = fleet.pipelines.iter().filter(|one| one.asked_at.is_some() || one.problem.is_some());
        answers.count() == count
    });
    // Whether or not: what is known is shown.
    let _ = tokio::time::timeout(ANSWERS_WAIT, all).await;
    Arc::clone(&fleet.borrow())
}

/// One picture as text: a line a pipeline, the worst first, and what is wrong with those that have a problem.
pub fn picture(fleet: &Fleet, paint: Paint) -> String {
    words::picture(fleet, paint)
}

/// Shows the fleet as it changes, until somebody quits or nobody sends any more.
pub async fn show(mut fleet: watch::Receiver<Arc<Fleet>>, paint: Paint) -> Result<()> {
    let mut terminal = Taken::take()?;
    let mut keyboard = Keyboard::listen();
    let mut screen = Screen::new(paint);
    loop {
        let shown = Arc::clone(&fleet.borrow_and_update());
        terminal.0.draw(|frame| screen.draw(frame, &shown)).map_err(|error| broken(error, "be drawn on"))?;
        tokio::select! {
            changed = fleet.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            event = keyboard.next() => match event {
                Some(Ok(Event::Key(key))) if screen.press(key, &shown) == Answer::Quit => return Ok(()),
                // Whatever else happened, a resize for one, it is drawn anew.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(broken(error, "be read")),
                None => return Ok(()),
            }
        }
    }
}

fn broken(error: io::Error, what: &str) -> Error {
    Error::unexpected(format!("the terminal cannot {what}"))
        .because(error)
        .hint("pgdiode top --once needs none")
}

/// The terminal, taken over until this is dropped; a panic gives it back too, before its message.
struct Taken(DefaultTerminal);

impl Taken {
    fn take() -> Result<Taken> {
        progress::hide();
        ratatui::try_init().map(Taken).map_err(|error| {
            ratatui::restore();
            progress::unhide();
            broken(error, "be taken over")
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        ratatui::restore();
        progress::unhide();
    }
}
