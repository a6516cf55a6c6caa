//! The demo of an archive: production writes change files to a backup machine, two laptops replay the tables that they
//! want, and nobody in between is trusted.
//!
//! ```text
//! writers -> source server -> `pgdiode start` -> SSH server -> `pgdiode start` -> target server, database anna
//!                                                          `-> `pgdiode start` -> target server, database ben
//! ```

use std::path::PathBuf;

use tokio::time::{Instant, sleep};

use super::backup::{Backup, flip_a_bit};
use super::process::Pgdiode;
use super::stage::{Stage, identical};
use super::{Afterwards, Enough, PATIENCE, POLL, Playing};
use crate::error::{Error, Kind, Result};
use crate::pg::session::{Session, Side};

/// Who replays which tables.
const ANNA: Laptop = Laptop { name: "anna", tables: &["branches", "tellers", "accounts", "pulse"] };
const BEN: Laptop = Laptop { name: "ben", tables: &["orders", "specimens", "pulse"] };

#[derive(Clone, Copy)]
struct Laptop {
    /// Of its pipeline and its database.
    name: &'static str,
    tables: &'static [&'static str],
}

/// Plays the demo. `Ok` means that both laptops hold what production holds, and that a flipped bit was found.
pub async fn run(playing: Playing) -> Result<()> {
    let mut play = Archived::set(&playing).await?;
    play.production_writes().await?;
    play.laptops_follow().await?;
    play.a_laptop_is_closed().await?;
    play.a_table_is_damaged().await?;
    play.compare().await?;
    play.a_bit_flips().await?;
    if let Afterwards::Stay(enough) = playing.afterwards {
        play.share_a_console().await?;
        play.stay(&enough).await?;
    }
    Ok(())
}

/// Processes are dropped before what they work on.
struct Archived {
    production: Option<Pgdiode>,
    anna: Option<Pgdiode>,
    ben: Option<Pgdiode>,
    /// Of all three, once the story is told.
    daemon: Option<Pgdiode>,
    backup: Backup,
    stage: Stage,
}

impl Archived {
    async fn set(playing: &Playing) -> Result<Archived> {
        let title = "pgdiode demo archive: production writes change files, two laptops replay them.";
        let stage = Stage::set(title, "", playing).await?;
        stage.step("Starting the backup machine: an SSH server that lets one key in, and only to files.");
        let backup = Backup::start(&stage.ground).await?;
        stage.say(&format!("{} is where the archive will be", backup.location()));
        let mut target = stage.target.session(Side::Target).await?;
        for laptop in [ANNA, BEN] {
            target.query(&format!("create database {}", laptop.name)).await?;
        }
        stage.configure(&pipelines(&stage, &backup))?;
        Ok(Archived { production: None, anna: None, ben: None, daemon: None, backup, stage })
    }

    async fn production_writes(&mut self) -> Result<()> {
        self.stage.step(
            "Production: a publication, then a base snapshot and change files, for the backup machine.",
        );
        self.stage.run_quietly(&["setup", "--yes", "--pipeline", "production"]).await?;
        self.production = Some(self.start("production")?);
        self.wait_until("three change files", async |play: &Archived| Ok(play.change_files()?.len() >= 3))
            .await?;
        self.stage.run(&["archive", "list", "--pipeline", "production"]).await
    }

    async fn laptops_follow(&mut self) -> Result<()> {
        self.stage.step(
            "Two laptops begin: each fills the tables that it wants from the base, then replays the files.",
        );
        self.anna = Some(self.start(ANNA.name)?);
        self.ben = Some(self.start(BEN.name)?);
        self.catch_up(&[ANNA, BEN]).await?;
        self.stage.say("both show what production had committed a moment ago");
        Ok(())
    }

    /// Kills one reader, and has it go on.
    async fn a_laptop_is_closed(&mut self) -> Result<()> {
        self.stage.step("Anna closes her laptop in the middle of it.");
        if let Some(anna) = self.anna.take() {
            self.stage.say(&format!("kill -9 {}", anna.id()));
            anna.kill().await?;
        }
        let files = self.change_files()?.len();
        self.wait_until("change files that she misses", async |play: &Archived| {
            Ok(play.change_files()?.len() >= files + 2)
        })
        .await?;
        self.stage.step("She opens it again: it goes on from where her own data says it stands.");
        self.anna = Some(self.start(ANNA.name)?);
        self.catch_up(&[ANNA]).await
    }

    /// Spoils rows behind pgdiode's back, and has them brought again.
    async fn a_table_is_damaged(&mut self) -> Result<()> {
        self.stage.step("Ben tries something on his copy of the orders, and regrets it.");
        let spoil = "delete from orders where id % 400 = 0; update orders set total = 0, tags = '{}' where id % 3 = 0";
        self.stage.say(spoil);
        self.laptop(BEN).await?.query(spoil).await?;
        self.stage.run(&["resync", "public.orders", "--pipeline", BEN.name, "--reason", "the demo"]).await?;
        let mut session = self.laptop(BEN).await?;
        let sql = "select state = 'ready' from pgdiode.relation where table_name = 'orders'";
        let deadline = Instant::now() + PATIENCE;
        while !session.one(sql).await?.bool(0) || session.one(SPOILED).await?.bool(0) {
            self.still_well(deadline, "the table to be brought again")?;
            sleep(POLL).await;
        }
        self.stage.say("the table was filled from the base and has caught up; the others went on meanwhile");
        Ok(())
    }

    async fn compare(&mut self) -> Result<()> {
        self.stage.writers.stop().await?;
        self.stage.step(&format!("The writers stop, after {} transactions.", self.stage.writers.committed()));
        self.catch_up(&[ANNA, BEN]).await?;
        self.stage.step("Comparing each laptop's tables with production's, row by row.");
        for laptop in [ANNA, BEN] {
            let (mut source, mut target) =
                (self.stage.source.session(Side::Source).await?, self.laptop(laptop).await?);
            identical(&mut source, &mut target, laptop.tables).await?;
            self.stage.say(&format!("{}: {} are identical", laptop.name, laptop.tables.join(", ")));
        }
        Ok(())
    }

    /// Spoils one bit on the backup machine's disk.
    async fn a_bit_flips(&mut self) -> Result<()> {
        self.stage.step("The backup machine's disk is not to be trusted: one bit of a change file flips.");
        let files = self.change_files()?;
        // The largest: there are rows in it.
        let size = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
        let file = files.into_iter().max_by_key(size).ok_or_else(|| Error::unexpected("there is no file"))?;
        let flip = || {
            flip_a_bit(&file)
                .map_err(|error| Error::unexpected("cannot write to a change file").because(error))
        };
        flip()?;
        self.stage.say("$ pgdiode archive verify --pipeline production");
        let status = self.stage.spawn(&["archive", "verify", "--pipeline", "production"])?.ended().await?;
        if status.code() != Some(i32::from(Kind::Difference.exit_status())) {
            return Err(Error::unexpected(format!("the flipped bit was not found: {status}")));
        }
        self.stage.step("Found, with the file and the line. The bit is put back.");
        flip()?;
        self.stage.run(&["archive", "verify", "--pipeline", "production"]).await?;
        self.stage
            .step("Intact. Nothing was lost and nothing applied twice, and nobody in between was trusted.");
        Ok(())
    }

    /// Has one process run what three ran, and show it. Until here each was one machine's, which nobody else sees.
    async fn share_a_console(&mut self) -> Result<()> {
        if self.stage.console().is_none() {
            return Ok(());
        }
        self.stage.step("From here on one daemon runs all three pipelines: it goes on where each stands.");
        for process in [&mut self.production, &mut self.anna, &mut self.ben] {
            if let Some(process) = process.take() {
                process.kill().await?;
            }
        }
        self.stage.say("$ pgdiode start");
        self.daemon = Some(self.stage.spawn(&["start"])?);
        self.stage.show_console();
        Ok(())
    }

    /// Goes on until somebody has seen enough, or something ends by itself.
    async fn stay(&mut self, enough: &Enough) -> Result<()> {
        let heading = "Everything stays, and the writers write again. In another terminal:";
        let list = format!("ls {}", self.backup.archive().display());
        let lines = [
            "psql service=source             write what you like",
            "psql service=target dbname=anna   read it there some seconds later",
            "{program} status --pipeline ben",
            "{program} archive verify --pipeline production",
            list.as_str(),
        ];
        self.stage.invite(heading, &lines, enough).await?;
        while !enough.was_said() {
            self.still_well(Instant::now() + PATIENCE, "the end")?;
            sleep(POLL).await;
        }
        Ok(())
    }

    fn start(&self, pipeline: &str) -> Result<Pgdiode> {
        self.stage.say(&format!("$ pgdiode start --pipeline {pipeline}"));
        self.stage.spawn(&["start", "--pipeline", pipeline, "--progress-seconds=2"])
    }

    async fn laptop(&self, laptop: Laptop) -> Result<Session> {
        let mut conninfo = self.stage.target.conninfo.clone();
        laptop.name.clone_into(&mut conninfo.dbname);
        Session::connect(&conninfo, Side::Target, &[]).await
    }

    /// Waits until each laptop holds all that production has committed by now.
    async fn catch_up(&mut self, laptops: &[Laptop]) -> Result<()> {
        let mut source = self.stage.source.session(Side::Source).await?;
        let committed = source.one("update pulse set at = clock_timestamp() returning at").await?.string(0);
        let sql = format!("select coalesce(max(at) >= '{committed}', false) from pulse");
        let deadline = Instant::now() + PATIENCE;
        for laptop in laptops {
            let mut session = self.laptop(*laptop).await?;
            loop {
                match session.one(&sql).await {
                    Ok(row) if row.bool(0) => break,
                    // The table is not there yet.
                    Err(error) if error.sqlstate() != Some("42P01") => return Err(error),
                    _ => {}
                }
                self.still_well(deadline, "a laptop to catch up")?;
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// The sealed change files.
    fn change_files(&self) -> Result<Vec<PathBuf>> {
        let archive = self.backup.archive();
        let unreadable = |error| Error::unexpected("cannot look into the archive").because(error);
        let Ok(sealed) = archive.join("meta/files").read_dir() else { return Ok(Vec::new()) };
        let mut files = Vec::new();
        for entry in sealed {
            files.push(archive.join(entry.map_err(unreadable)?.file_name()));
        }
        Ok(files)
    }

    async fn wait_until(&mut self, what: &str, is_so: impl AsyncFn(&Archived) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self).await? {
            self.still_well(deadline, what)?;
            sleep(POLL).await;
        }
        Ok(())
    }

    fn still_well(&mut self, deadline: Instant, what: &str) -> Result<()> {
        self.stage.writers.still_write()?;
        for process in
            [&mut self.production, &mut self.anna, &mut self.ben, &mut self.daemon].into_iter().flatten()
        {
            process.still_runs()?;
        }
        if Instant::now() > deadline {
            return Err(Error::unexpected(format!("waited {} s in vain for {what}", PATIENCE.as_secs())));
        }
        Ok(())
    }
}

/// Whether Ben's work shows still: no order at production is without a total and without tags.
const SPOILED: &str = "select exists (select from orders where total = 0 and tags = '{}')";

fn pipelines(stage: &Stage, backup: &Backup) -> String {
    let directory = stage.ground.directory.display();
    let archive = format!(
        "{{ archive = \"{}\", identity_file = \"{directory}/key\", known_hosts = \"{directory}/known_hosts\" }}",
        backup.location()
    );
    let spool = format!("archive.spool_dir = \"{directory}\"\n");
    let mut text = format!(
        "[pipeline.production]\nsource = \"service=source\"\ntarget = {archive}\narchive.file_seconds = 2\n{spool}"
    );
    for Laptop { name, tables } in [ANNA, BEN] {
        let tables: Vec<String> = tables.iter().map(|table| format!("\"public.{table}\"")).collect();
        text.push_str(&format!(
            "\n[pipeline.{name}]\nsource = {archive}\ntarget = \"service=target dbname={name}\"\ntables = [{}]\n\
             archive.poll_seconds = 1\n{spool}",
            tables.join(", ")
        ));
    }
    text
}
