//! `pgdiode demo`: throw-away servers and pipelines between them, of each kind.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use ratatui::crossterm::event::{Event, KeyCode};

use super::output;
use super::top::Keyboard;
use crate::demo::{self, Afterwards, Enough, Playing, Size};
use crate::error::Result;

/// See it work: two throw-away servers and a pipeline between them
///
/// Starts two PostgreSQL servers from this machine's binaries, fills one, mirrors it to the other under load, kills the
/// pipeline in the middle of a large transaction, starts it again, and compares both sides. Takes about a minute.
///
/// `demo snapshot` replaces a whole replica three times while readers read it without a pause, kills one of the runs
/// midway, and rolls back.
///
/// `demo archive` has production write change files to an SSH server and two laptops replay them; one laptop is closed
/// midway, a table is spoilt and brought again, and a bit that flips on the backup machine is found.
///
/// `demo redis` has a chat application keep its sessions in a Redis server, kills pgdiode and Redis while people talk, and
/// compares what is left in Redis with its rows.
///
/// The console is open meanwhile, and its address is printed. In a terminal everything stays when the story is told, until
/// you press Enter; where standard output is no terminal the demo ends.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing. The servers live in a temporary directory and on loopback ports, and are gone at the end, also after \
Ctrl-C. Needs PostgreSQL's server programs, `demo archive` an SSH server's too, and `demo redis` Redis's; root runs them as the user postgres, or nobody.

Examples:
  pgdiode demo
  pgdiode demo --no-console      ends when the story is told
  pgdiode demo --stay            stays, terminal or not
  pgdiode demo snapshot
  pgdiode demo archive
  pgdiode demo redis

Ends with 0 only when both sides were found identical; `demo snapshot`, also only when every reader saw whole copies.

",
    exit_statuses!()
))]
pub struct Demo {
    /// Which mode is shown
    #[arg(value_name = "MODE", default_value = "stream")]
    mode: Shown,
    /// Keep everything running afterwards, and say how to connect, also where no terminal shows it
    #[arg(long)]
    stay: bool,
    /// Open no console, and end when the story is told
    #[arg(long)]
    no_console: bool,
    /// How much the source holds, in MB
    #[arg(long, value_name = "MB", hide = true, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    size: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shown {
    /// Changes that are followed as they commit
    Stream,
    /// A replica that is replaced while it is read
    Snapshot,
    /// Change files on a backup machine, and who replays them
    Archive,
    /// Keys of a Redis server that become rows
    Redis,
}

impl Demo {
    pub(super) async fn run(self) -> Result<()> {
        let enough = Enough::default();
        let is_watched = io::stdout().is_terminal();
        let stays = self.stay || (is_watched && !self.no_console);
        let afterwards = if stays { Afterwards::Stay(enough.clone()) } else { Afterwards::End };
        let playing = Playing {
            size: Size(self.size.unwrap_or(if self.mode == Shown::Stream { 120 } else { 24 })),
            afterwards,
            has_console: !self.no_console,
            // The demo goes on when nobody reads any more: it has to clean up behind itself.
            tell: Arc::new(|line: &str| drop(output::text(line))),
        };
        let can_type = stays && is_watched && io::stdin().is_terminal();
        let mut keyboard = can_type.then(Keyboard::listen);
        let mut play = Box::pin(self.mode.play(playing));
        loop {
            tokio::select! {
                played = &mut play => return played,
                () = enter(&mut keyboard) => enough.is_said(),
            }
        }
    }
}

impl Shown {
    async fn play(self, playing: Playing) -> Result<()> {
        match self {
            Shown::Stream => Box::pin(demo::stream::run(playing)).await,
            Shown::Snapshot => Box::pin(demo::snapshot::run(playing)).await,
            Shown::Archive => Box::pin(demo::archive::run(playing)).await,
            Shown::Redis => Box::pin(demo::chat::run(playing)).await,
        }
    }
}

/// Until somebody presses Enter; for ever, where nobody can.
async fn enter(keyboard: &mut Option<Keyboard>) {
    while let Some(keys) = keyboard {
        match keys.next().await {
            Some(Ok(Event::Key(key))) if key.code == KeyCode::Enter => return,
            Some(Ok(_)) => {}
            Some(Err(_)) | None => *keyboard = None,
        }
    }
    std::future::pending::<()>().await;
}
