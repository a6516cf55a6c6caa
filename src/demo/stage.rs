//! What both demos play on: two servers, a configuration, and writers that never stop.

use tokio::time::Instant;

use super::process::{Pgdiode, this_program};
use super::server::{self, DATABASE, Ground, Installation, Server};
use super::writers::Writers;
use super::{Size, Tell};
use crate::error::{Error, Result};
use crate::pg::session::Side;

pub(super) const CONFIG_FILE: &str = "pgdiode.toml";
pub(super) const SERVICE_FILE: &str = "pg_service.conf";

const TABLES: &str = include_str!("tables.sql");

/// Fields are dropped in this order: nobody loses the ground under their feet.
pub(super) struct Stage {
    pub(super) writers: Writers,
    pub(super) source: Server,
    pub(super) target: Server,
    pub(super) ground: Ground,
    pub(super) size: Size,
    started: Instant,
    pub(super) tell: Tell,
}

/// What one demo adds to the stage.
pub(super) struct Play<'a> {
    pub(super) title: &'a str,
    /// The pipeline's own keys, given the directory that everything lives in.
    pub(super) keys: fn(&Ground) -> String,
    /// SQL that adds to the source's tables.
    pub(super) more: String,
}

impl Stage {
    /// Starts both servers, fills the source and lets the writers in.
    pub(super) async fn set(play: Play<'_>, size: Size, tell: Tell) -> Result<Stage> {
        let started = Instant::now();
        let installation = Installation::find()?;
        let ground = Ground::new()?;
        tell(play.title);
        tell(&format!(
            "Everything lives in {} and is gone at the end; nothing else of this machine is touched.",
            ground.directory.display()
        ));
        step(&tell, started, &format!("Starting two servers of PostgreSQL {}.", installation.version));
        let (source, target) = tokio::try_join!(
            Server::start(&installation, &ground, "source"),
            Server::start(&installation, &ground, "target")
        )?;
        tell(&format!("    source 127.0.0.1:{}, target 127.0.0.1:{}", source.port, target.port));
        write_files(&ground, &installation, &source, &target, &(play.keys)(&ground))?;
        step(
            &tell,
            started,
            &format!("Filling the source with about {} MB: accounts, wide orders, every type.", size.0),
        );
        let mut session = source.session(Side::Source).await?;
        session.query(&(tables(size) + &play.more)).await?;
        let held =
            session.one("select pg_size_pretty(pg_database_size(current_database()))").await?.string(0);
        tell(&format!("    the source holds {held}"));
        let writers = Writers::start(&source.conninfo, size).await?;
        tell("    six connections write to it from now on: transfers, orders, deletes, bulk updates");
        Ok(Stage { writers, source, target, ground, size, started, tell })
    }

    /// Runs `pgdiode` beside the demo, until it is killed or ends.
    pub(super) fn spawn(&self, arguments: &[&str]) -> Result<Pgdiode> {
        Pgdiode::spawn(&self.ground, arguments, &self.tell)
    }

    /// Lets the writers write again, and says how to join in: after `lines`, which may name `{program}`.
    pub(super) async fn invite(&mut self, heading: &str, lines: &[&str]) -> Result<()> {
        self.writers = Writers::start(&self.source.conninfo, self.size).await?;
        self.step(heading);
        let directory = self.ground.directory.display();
        self.say(&format!(
            "export PGSERVICEFILE={directory}/{SERVICE_FILE} PGDIODE_CONFIG={directory}/{CONFIG_FILE}"
        ));
        let program = this_program()?;
        for line in lines {
            self.say(&line.replace("{program}", &program.display().to_string()));
        }
        (self.tell)("Ctrl-C ends it and removes everything.");
        Ok(())
    }

    pub(super) fn step(&self, text: &str) {
        step(&self.tell, self.started, text);
    }

    pub(super) fn say(&self, text: &str) {
        (self.tell)(&format!("    {text}"));
    }
}

fn step(tell: &Tell, started: Instant, text: &str) {
    tell(&format!("[{:>3} s] {text}", started.elapsed().as_secs()));
}

fn tables(size: Size) -> String {
    [("{accounts}", size.accounts()), ("{branches}", size.branches()), ("{orders}", size.orders())]
        .iter()
        .fold(TABLES.to_owned(), |sql, (name, number)| sql.replace(name, &number.to_string()))
}

/// Writes the pipeline's configuration, and the connections that it and `psql` know by name.
fn write_files(
    ground: &Ground,
    installation: &Installation,
    source: &Server,
    target: &Server,
    pipeline: &str,
) -> Result<()> {
    let services =
        server::service_entry("source", source, ground) + &server::service_entry("target", target, ground);
    let config = format!(
        "pg_dump = {:?}\n\n[pipeline.{DATABASE}]\nsource = \"service=source\"\ntarget = \"service=target\"\n{pipeline}",
        installation.program("pg_dump").to_string_lossy(),
    );
    ground
        .write(SERVICE_FILE, &services)
        .and_then(|_| ground.write(CONFIG_FILE, &config))
        .map(drop)
        .map_err(|error| Error::unexpected("cannot write the demo's configuration").because(error))
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
