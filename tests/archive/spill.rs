//! A live pipeline whose target is too slow: the source lets go of its log, nothing is lost, nothing comes twice.

use std::fs;
use std::path::PathBuf;

use pgdiode::archive::manifest::{Manifest, parse};
use pgdiode::position::Lsn;

use crate::harness::{BUCKET, PgdiodeRun, Proxy, PsqlRun, Rng, Running, S3Server, ground, wait_for};
use crate::stream::{Ends, Pair, stop};

/// Rows without any key would be doubled by a change applied twice; counters would be off by one lost. The sums agree
/// after each transaction. `bulk` is one large transaction.
const TABLES: &str = "
    create table keyless (n int, v text); alter table keyless replica identity full;
    create table counter (id int primary key, n int not null); insert into counter select n, 0 from generate_series(1, 5) n;
    create table ballast (id int primary key, v text); insert into ballast select n, repeat('b', 300) from generate_series(1, 2000) n;
    create procedure work(steps int) language plpgsql as $$ begin
      for step in 1 .. steps loop
        insert into keyless select step % 10, 'w' from generate_series(1, 3);
        update counter set n = n + 3 where id = 1 + step % 5;
        update ballast set v = repeat('x', 200 + step) where id % 20 = step % 20;
        commit;
      end loop; end $$;
    create procedure bulk(rows int) language plpgsql as $$ begin
      insert into keyless select 0, repeat('k', 100) from generate_series(1, rows);
      update counter set n = n + rows where id = 1;
      update ballast set v = repeat('y', 400);
      commit; end $$;";

const SLOT: &str = "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'pgdiode_main'";

struct Ground {
    pair: Pair,
    place: PathBuf,
}

impl Ground {
    fn start() -> Ground {
        let place = ground::fresh_directory("spill");
        let archive = place.display().to_string();
        Ground::start_at(&archive, place)
    }

    fn start_at(archive: &str, place: PathBuf) -> Ground {
        let sections = format!(
            "[pipeline.main.spill]\narchive = \"{archive}\"\nafter_mb = 1\n[pipeline.main.archive]\nfile_seconds = 0\ncompression = \"zstd\"\n"
        );
        let ends = Ends { stream: "batch_mb = 1", sections: sections.leak(), ..Ends::default() };
        let mut pair = Pair::start(ends);
        pair.pgdiode.set("AWS_ACCESS_KEY_ID", "test");
        pair.pgdiode.set("AWS_SECRET_ACCESS_KEY", "hunter2");
        pair.at_source(TABLES);
        pair.publish("keyless, counter, ballast");
        Ground { pair, place }
    }

    fn work(&self, steps: u32) {
        self.pair.at_source(&format!("call work({steps})"));
    }

    /// Keeps the target from taking rows of `ballast`.
    fn hold(&self) -> PsqlRun {
        let sql = "begin; lock table ballast in exclusive mode; select pg_sleep(600)";
        let held = self.pair.target.spawn_psql("postgres", sql);
        let is_locked = "select exists (select from pg_locks where mode = 'ExclusiveLock' and granted
                            and relation = 'ballast'::regclass)";
        self.pair.target.wait_until("postgres", is_locked, "the lock");
        held
    }

    fn release(&self, held: PsqlRun) {
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(600)' and pid <> pg_backend_pid()";
        self.pair.at_target(sql);
        assert!(held.wait().is_err(), "it was ended");
    }

    /// Whether the source has let go of what the target lacks.
    fn is_spilled(&self) -> bool {
        let position = self.pair.at_target("select lsn from pgdiode.position");
        self.pair.at_source(&format!("select ({SLOT}) > '{position}'")) == "t"
    }

    /// Holds the target and writes until the source lets go of what the target lacks.
    fn spill(&self, running: &mut Running) -> PsqlRun {
        let held = self.hold();
        // The target takes a part of it only: it is cut there.
        self.pair.at_source("call bulk(20000)");
        self.work(60);
        self.wait_until_spilled(running);
        held
    }

    fn wait_until_spilled(&self, running: &mut Running) {
        let spilled = wait_for(|| (self.is_spilled() || !running.is_running()).then(|| self.is_spilled()));
        assert_eq!(spilled, Some(true), "nothing was spilled: {}", running.stderr());
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(&self.place).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.is_file());
        files.sort();
        files
    }

    /// Manifests, and where they are.
    fn sealed(&self) -> Vec<(Manifest, PathBuf)> {
        let folder = fs::read_dir(self.place.join("meta/files")).unwrap();
        let paths = folder.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let mut sealed: Vec<(Manifest, PathBuf)> =
            paths.map(|path| (parse("a manifest", &fs::read(&path).unwrap()).unwrap(), path)).collect();
        sealed.sort_by_key(|(manifest, _)| manifest.number);
        sealed
    }

    /// Live again, with nothing left behind.
    fn wait_until_drained(&self) {
        self.pair.catch_up();
        let is_empty =
            || (self.files().is_empty() && !self.place.join("meta/spill.json").exists()).then_some(());
        assert!(wait_for(is_empty).is_some(), "the place is not empty: {:?}", self.files());
        self.pair.wait_at_target("select phase = 'streaming' from pgdiode.pipeline", "the live stream");
    }

    fn assert_exact(&self) {
        self.pair.assert_alike_now(&[]);
        let met = "select coalesce(sum(conflicts + missing), 0) || ' ' || (select count(*) from pgdiode.note where kind <> 'spill')
                     from pgdiode.relation_count";
        assert_eq!(self.pair.at_target(met), "0 0", "something was met twice, or not at all");
    }
}

#[test]
fn a_slow_target_does_not_hold_the_sources_log() {
    let ground = Ground::start();
    let pair = &ground.pair;
    let mut running = pair.begin_and_copy();
    for round in 0..2 {
        let restart = "select restart_lsn from pg_replication_slots where slot_name = 'pgdiode_main'";
        let before = pair.at_source(restart);
        let held = ground.spill(&mut running);
        pair.wait_at_target("select doing like 'spilled: %' from pgdiode.pipeline", "what it does");
        assert_eq!(pair.at_target("select phase from pgdiode.pipeline"), "catching_up");
        let status = pair.pgdiode.run(&["status"]).success();
        assert!(status.contains("spilled: "), "{status}");
        // It goes on while the target stands still.
        let confirmed = pair.at_source(SLOT);
        ground.work(20);
        let goes_on = wait_for(|| {
            pair.at_source("select pg_switch_wal()");
            (pair.at_source(&format!("select ({SLOT}) > '{confirmed}' and ({restart}) > '{before}'")) == "t")
                .then_some(())
        });
        assert!(goes_on.is_some(), "the source keeps its log: {}", running.stderr());
        if round == 0 {
            ground.release(held);
            pair.pgdiode.run(&["stop"]).success();
            assert!(running.wait().success(), "{}", running.stderr());
            running = pair.begin();
        } else {
            // Asked while there is a spill, it compares once the target has come so far.
            let mut verifying = pair.pgdiode.spawn(&["verify"]);
            pair.wait_at_target("select hold_id is not null from pgdiode.pipeline", "the wish to hold");
            assert!(ground.is_spilled());
            ground.release(held);
            assert!(verifying.wait().success(), "{}", verifying.stderr());
        }
        ground.wait_until_drained();
        ground.assert_exact();
        pair.pgdiode.run(&["verify"]).success();
    }
    let log = running.stderr();
    assert!(log.contains("a transaction that was cut is told again"), "no transaction was cut: {log}");
    let notes = pair.at_target("select string_agg(kind, ' ') from pgdiode.note");
    assert!(notes.starts_with("spill spill"), "{notes}");
    stop(running);
}

/// The target's server is gone, comes back, and is gone again in the middle of the drain.
#[test]
fn a_target_that_is_away_does_not_hold_the_sources_log_either() {
    let ground = Ground::start();
    let pair = &ground.pair;
    let mut running = pair.begin_and_copy();
    for round in 0..3 {
        if round == 1 {
            // Gone while there is a spill already.
            let held = ground.spill(&mut running);
            pair.target.kill9();
            assert!(held.wait().is_err(), "its server is gone");
        } else {
            pair.target.kill9();
        }
        ground.work(60);
        pair.at_source("call bulk(20000)");
        let written = pair.at_source("select pg_current_wal_flush_lsn()");
        let goes_on = wait_for(|| {
            let is_confirmed = pair.at_source(&format!("select ({SLOT}) >= '{written}'")) == "t";
            (is_confirmed || !running.is_running()).then_some(is_confirmed)
        });
        assert_eq!(goes_on, Some(true), "the source keeps its log: {}", running.stderr());
        pair.target.start_again();
        if round != 0 {
            ground.wait_until_drained();
            ground.assert_exact();
        }
    }
    stop(running);
}

/// Whatever is killed and whenever: before, while and after it spills, seals, drains and tidies up.
#[test]
fn a_run_killed_at_any_moment_of_a_spill_applies_all_once() {
    let mut rng = Rng::from_environment_or(17);
    let ground = Ground::start();
    let mut running = ground.pair.begin_and_copy();
    let mut met_spilled = 0;
    for round in 0..16 {
        let held = (round % 4 != 3).then(|| ground.hold());
        let is_much = round % 3 == 0;
        if is_much {
            ground.pair.at_source("call bulk(15000)");
        }
        ground.work(rng.u32(10..50));
        if is_much && held.is_some() && rng.bool() {
            let _ = wait_for(|| (ground.is_spilled() || !running.is_running()).then_some(()));
        }
        // Not slept to test anything: the moment is what is random.
        std::thread::sleep(std::time::Duration::from_millis(rng.u64(0..1500)));
        let release_first = rng.bool();
        if let Some(held) = held {
            if release_first {
                ground.release(held);
                std::thread::sleep(std::time::Duration::from_millis(rng.u64(0..700)));
                running.kill9();
            } else {
                running.kill9();
                ground.release(held);
            }
        } else {
            running.kill9();
        }
        met_spilled += u32::from(ground.is_spilled());
        running = ground.pair.begin();
    }
    assert!(met_spilled > 2, "no kill met a spill; other moments are needed");
    ground.wait_until_drained();
    ground.assert_exact();
    stop(running);
}

#[test]
fn what_the_spill_lacks_is_refused_by_name() {
    let ground = Ground::start();
    let pair = &ground.pair;
    let mut running = pair.begin_and_copy();
    let held = ground.spill(&mut running);
    let confirmed = pair.at_source(SLOT);
    running.kill9();
    ground.release(held);
    assert!(ground.is_spilled());

    // Without the place.
    let without = PgdiodeRun::new(&format!(
        "[pipeline.main]\nsource = \"{}\"\ntarget = \"{}\"\n",
        pair.source.conninfo("postgres"),
        pair.target.conninfo("postgres")
    ));
    let refused = without.run(&["start", "--once-caught-up"]).failure(3);
    assert!(refused.contains(&confirmed) && refused.contains("beyond the target's position"), "{refused}");

    // With another.
    let meta = ground.place.join("meta");
    let aside = ground.place.with_extension("aside");
    fs::rename(&meta, &aside).unwrap();
    let refused = pair.pgdiode.run(&["start", "--once-caught-up"]).failure(3);
    assert!(
        refused.contains("there is no spill") && refused.contains(ground.place.to_str().unwrap()),
        "{refused}"
    );
    fs::rename(&aside, &meta).unwrap();

    // Without the end of it.
    let reached: Lsn = confirmed.parse().unwrap();
    let sealed = ground.sealed();
    let (last, _) = sealed.last().unwrap();
    let end: Vec<&PathBuf> =
        sealed.iter().filter(|(manifest, _)| manifest.to >= reached).map(|(_, path)| path).collect();
    for path in &end {
        fs::rename(path, path.with_extension("aside")).unwrap();
    }
    let refused = pair.pgdiode.run(&["start", "--once-caught-up"]).failure(3);
    assert!(refused.contains("does not hold what lies between"), "{refused}");
    for path in &end {
        fs::rename(path.with_extension("aside"), path).unwrap();
    }

    // A file is gone, or is not what it was.
    let (file, name) = (ground.place.join(&last.name), last.name.as_str());
    let content = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let failed = pair.pgdiode.run(&["start", "--once-caught-up"]).failure(4);
    assert!(failed.contains(name) && failed.contains("is missing"), "{failed}");
    let mut flipped = content.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&file, flipped).unwrap();
    let failed = pair.pgdiode.run(&["start", "--once-caught-up"]).failure(4);
    assert!(failed.contains(name) && failed.contains("other content"), "{failed}");

    fs::write(&file, content).unwrap();
    let running = pair.begin();
    ground.wait_until_drained();
    ground.assert_exact();
    stop(running);
}

#[test]
fn tables_that_change_or_join_while_there_is_a_spill_are_followed() {
    let ground = Ground::start();
    let pair = &ground.pair;
    pair.at_source(
        "create table swapped (id int primary key, a int); insert into swapped select n, n from generate_series(1, 9) n;
         alter publication pgdiode_main add table swapped",
    );
    let mut running = pair.begin_and_copy();
    let held = ground.spill(&mut running);
    // Another column under the same name: older rows have lost their values, and no change of any row says so.
    pair.at_source(
        "begin; update swapped set a = a + 1; alter table swapped drop column a; alter table swapped add column a int;
         update swapped set a = 0 where id = 1; commit",
    );
    pair.at_source(
        "alter table counter add column note text default 'old'; update counter set note = 'new' where id = 2;
         create table joiner (id int primary key, v text); alter publication pgdiode_main add table joiner;
         insert into joiner select n, 'joined' from generate_series(1, 1000) n",
    );
    pair.pgdiode.run(&["resync", "public.keyless"]).success();
    ground.work(30);
    // Copies wait, whatever is asked.
    pair.wait_at_target(
        "select state = 'pending' from pgdiode.relation where table_name = 'keyless'",
        "the resync",
    );
    ground.release(held);
    ground.wait_until_drained();
    pair.assert_alike_now(&[]);
    assert_eq!(pair.state_of("public.joiner"), "ready");
    assert_eq!(pair.at_target("select count(*) from pgdiode.relation where state <> 'ready'"), "0");
    stop(running);
}

/// A place in S3, behind a network that breaks before anything is spilled, and in the middle.
#[test]
fn a_place_that_cannot_be_reached_costs_nothing_but_time() {
    let server = S3Server::start();
    let proxy = Proxy::start(server.port());
    let ground = Ground::start_at(&S3Server::location_at(proxy.port(), BUCKET), PathBuf::new());
    let pair = &ground.pair;
    proxy.cut();
    let mut running = pair.begin_and_copy();
    let held = ground.hold();
    pair.at_source("call bulk(20000)");
    running.wait_for_log("nothing can be spilled");
    assert!(!ground.is_spilled());
    ground.release(held);
    pair.catch_up();
    proxy.heal();
    stop(running);

    let mut running = pair.begin_and_copy();
    let held = ground.spill(&mut running);
    proxy.cut();
    ground.work(60);
    ground.release(held);
    proxy.heal();
    pair.catch_up();
    pair.wait_at_target("select phase = 'streaming' from pgdiode.pipeline", "the live stream");
    ground.assert_exact();
    stop(running);
}

/// A place that is nobody's spill is left alone, and the pipeline goes on as without one.
#[test]
fn what_is_not_a_spill_is_not_touched() {
    let ground = Ground::start();
    let pair = &ground.pair;
    fs::write(ground.place.join("0000000001.json"), "somebody's").unwrap();
    let mut running = pair.begin_and_copy();
    let found = pair.pgdiode.run(&["check"]).success();
    assert!(found.contains("is not empty, and no spill: there is 0000000001.json"), "{found}");
    let held = ground.hold();
    ground.work(60);
    pair.at_source("call bulk(10000)");
    running.wait_for_log("nothing can be spilled");
    assert!(!ground.is_spilled());
    ground.release(held);
    pair.assert_alike();
    assert_eq!(fs::read_to_string(ground.place.join("0000000001.json")).unwrap(), "somebody's");
    stop(running);
}
