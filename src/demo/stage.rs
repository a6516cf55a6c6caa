//! What the demos play on: two servers, a configuration, and writers that never stop.

use std::io;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;

use tokio::time::Instant;

use super::process::{CONFIG_FILE, Pgdiode, SERVICE_FILE, this_program};
use super::server::{self, DATABASE, Ground, Installation, Server, free_port};
use super::writers::Writers;
use super::{Enough, Playing, Size, Tell};
use crate::error::{Error, Kind, Result};
use crate::pg::session::{Session, Side};

const TABLES: &str = include_str!("tables.sql");

/// Two servers of PostgreSQL, and writers at one of them. Fields are dropped in this order: nobody loses the ground under
/// their feet.
pub(super) struct Stage {
    pub(super) writers: Writers,
    pub(super) source: Server,
    pub(super) target: Server,
    pub(super) size: Size,
    scene: Scene,
}

/// What every demo has: a place, a clock, and an audience.
pub(super) struct Scene {
    pub(super) ground: Ground,
    pg_dump: PathBuf,
    started: Instant,
    /// The port of the console, where there is to be one.
    console: Option<u16>,
    pub(super) tell: Tell,
}

impl Deref for Stage {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

impl Stage {
    /// Starts both servers, fills the source, with what `more` adds to its tables, and lets the writers in.
    pub(super) async fn set(title: &str, more: &str, playing: &Playing) -> Result<Stage> {
        let size = playing.size;
        let (scene, installation) = Scene::set(title, playing)?;
        let ground = &scene.ground;
        scene.step(&format!("Starting two servers of PostgreSQL {}.", installation.version));
        let (source, target) = tokio::try_join!(
            Server::start(&installation, ground, "source"),
            Server::start(&installation, ground, "target")
        )?;
        scene.say(&format!("source 127.0.0.1:{}, target 127.0.0.1:{}", source.port, target.port));
        scene.name_servers(&[("source", &source), ("target", &target)])?;
        scene.step(&format!(
            "Filling the source with about {} MB: accounts, wide orders, every type.",
            size.0
        ));
        let mut session = source.session(Side::Source).await?;
        session.query(&(tables(size) + more)).await?;
        let held =
            session.one("select pg_size_pretty(pg_database_size(current_database()))").await?.string(0);
        scene.say(&format!("the source holds {held}"));
        let writers = Writers::start(&source.conninfo, size).await?;
        scene.say("six connections write to it from now on: transfers, orders, deletes, bulk updates");
        Ok(Stage { writers, source, target, size, scene })
    }

    /// Writes the configuration of a pipeline between both servers, with these keys.
    pub(super) fn configure_pair(&self, keys: &str) -> Result<()> {
        self.configure(&format!(
            "[pipeline.{DATABASE}]\nsource = \"service=source\"\ntarget = \"service=target\"\n{keys}"
        ))
    }

    /// Lets the writers write again, and says how to join in: after `lines`, which may name `{program}`.
    pub(super) async fn invite(&mut self, heading: &str, lines: &[&str], enough: &Enough) -> Result<()> {
        self.writers = Writers::start(&self.source.conninfo, self.size).await?;
        self.scene.invite(heading, lines, enough)
    }
}

impl Scene {
    /// Finds a place, and says what will be shown there.
    pub(super) fn set(title: &str, playing: &Playing) -> Result<(Scene, Installation)> {
        let (started, tell) = (Instant::now(), playing.tell.clone());
        let console = if playing.has_console { Some(free_port()?) } else { None };
        let installation = Installation::find()?;
        let ground = Ground::new()?;
        tell(title);
        tell(&format!(
            "Everything lives in {} and is gone at the end; nothing else of this machine is touched.",
            ground.directory.display()
        ));
        let pg_dump = installation.program("pg_dump");
        Ok((Scene { ground, pg_dump, started, console, tell }, installation))
    }

    /// Makes servers known by name, to pgdiode and to `psql`.
    pub(super) fn name_servers(&self, servers: &[(&str, &Server)]) -> Result<()> {
        let entries = servers.iter().map(|(name, server)| server::service_entry(name, server, &self.ground));
        self.ground.write(SERVICE_FILE, &entries.collect::<String>()).map(drop).map_err(unwritten)
    }

    /// Writes the configuration: the connections in it are known by name, to `psql` too.
    pub(super) fn configure(&self, pipelines: &str) -> Result<()> {
        let door = self.console.map(|port| format!("[server]\nlisten = \"127.0.0.1:{port}\"\n\n"));
        let config = format!(
            "pg_dump = {:?}\n\n{}{pipelines}",
            self.pg_dump.to_string_lossy(),
            door.unwrap_or_default()
        );
        self.ground.write(CONFIG_FILE, &config).map(drop).map_err(unwritten)
    }

    /// Runs `pgdiode` to its end, which must be a good one. What it says is shown only if it is not.
    pub(super) async fn run_quietly(&self, arguments: &[&str]) -> Result<()> {
        self.say(&format!("$ pgdiode {}", arguments.join(" ")));
        let (said, heard) = std::sync::mpsc::channel();
        let keep: Tell = Arc::new(move |line| {
            // The receiver lives longer than the child.
            let _ = said.send(line.to_owned());
        });
        let status = Pgdiode::spawn(&self.ground, arguments, &keep)?.ended().await?;
        if !status.success() {
            for line in heard.try_iter() {
                (self.tell)(&line);
            }
        }
        well_ended(arguments, status)
    }

    /// The same, and all that it says is shown.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<()> {
        self.say(&format!("$ pgdiode {}", arguments.join(" ")));
        let status = self.spawn(arguments)?.ended().await?;
        well_ended(arguments, status)
    }

    /// Runs `pgdiode` beside the demo, until it is killed or ends.
    pub(super) fn spawn(&self, arguments: &[&str]) -> Result<Pgdiode> {
        Pgdiode::spawn(&self.ground, arguments, &self.tell)
    }

    /// Says how to join in: after `lines`, which may name `{program}`.
    pub(super) fn invite(&self, heading: &str, lines: &[&str], enough: &Enough) -> Result<()> {
        self.step(heading);
        let directory = self.ground.directory.display();
        self.say(&format!(
            "export PGSERVICEFILE={directory}/{SERVICE_FILE} PGDIODE_CONFIG={directory}/{CONFIG_FILE}"
        ));
        let program = this_program()?;
        for line in lines {
            self.say(&line.replace("{program}", &program.display().to_string()));
        }
        if let Some(address) = self.console() {
            self.say(&format!("{address}   the console: lag, history, Sync now, pause, verify"));
        }
        (self.tell)("Enter or Ctrl-C ends it and removes everything.");
        enough.forget();
        Ok(())
    }

    /// Where the console is, once a `pgdiode start` of all pipelines runs.
    pub(super) fn console(&self) -> Option<String> {
        self.console.map(|port| format!("http://127.0.0.1:{port}"))
    }

    /// Says where to look.
    pub(super) fn show_console(&self) {
        if let Some(address) = self.console() {
            self.step(&format!("The console is open: {address}"));
        }
    }

    pub(super) fn step(&self, text: &str) {
        (self.tell)(&format!("[{:>3} s] {text}", self.started.elapsed().as_secs()));
    }

    pub(super) fn say(&self, text: &str) {
        (self.tell)(&format!("    {text}"));
    }
}

fn tables(size: Size) -> String {
    [("{accounts}", size.accounts()), ("{branches}", size.branches()), ("{orders}", size.orders())]
        .iter()
        .fold(TABLES.to_owned(), |sql, (name, number)| sql.replace(name, &number.to_string()))
}

fn well_ended(arguments: &[&str], status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(Error::unexpected(format!("pgdiode {} ended: {status}", arguments[0]))
        .hint("what it said stands above"))
}

fn unwritten(error: io::Error) -> Error {
    Error::unexpected("cannot write the demo's configuration").because(error)
}

/// Fails unless both databases hold the same rows in these tables, each compared by a query of its own.
pub(super) async fn identical(
    source: &mut Session,
    target: &mut Session,
    tables: &[impl AsRef<str>],
) -> Result<()> {
    for table in tables {
        let table = table.as_ref();
        let sql = format!(
            "select count(*), md5(string_agg(digest, '' order by digest))
               from (select md5(t::text) as digest from {table} t) as rows"
        );
        let (ours, theirs) = (source.one(&sql).await?, target.one(&sql).await?);
        if (ours.text(0), ours.text(1)) != (theirs.text(0), theirs.text(1)) {
            return Err(Error::new(Kind::Difference, format!("table {table} differs")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_rows_is_filled_in() {
        let sql = tables(Size(1));
        for name in ["{accounts}", "{branches}", "{orders}"] {
            assert!(TABLES.contains(name) && !sql.contains(name), "{name}");
        }
    }
}
