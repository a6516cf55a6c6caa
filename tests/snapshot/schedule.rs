//! `pgdiode start` keeps the schedule, wherever the clock stands: what is due at once is what was missed.

use super::*;

/// Never due while a test runs, and due once a year before: so that a start has missed one.
const YEARLY: &str = "snapshot.schedule = \"0 0 1 1 *\"\nsnapshot.time_zone = \"Europe/Berlin\"";

/// Due in the first second of the next minute, and of every other.
const EACH_MINUTE: &str = "snapshot.schedule = \"* * * * *\"\nsnapshot.catch_up = false";

fn runs(ground: &Ground) -> String {
    ground.control("select count(*) from pgdiode.run")
}

fn json(pgdiode: &PgdiodeRun) -> serde_json::Value {
    let said = pgdiode.run(&["sync", "--status", "--json"]).success();
    serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"))
}

#[test]
fn a_start_makes_up_for_what_was_missed_and_stops_at_once() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode(YEARLY);
    let mut running = pgdiode.spawn(&["start"]);
    running.wait_for_log("generation 1 serves");
    assert_eq!(ground.stamp(), "1");
    let reason = ground.control("select reason from pgdiode.run");
    assert!(reason.starts_with("scheduled, due at 20") && reason.ends_with("-12-31T23:00:00Z"), "{reason}");
    running.wait_for_log("the next is due at");

    let status = pgdiode.run(&["status"]).success();
    let next = status.lines().find(|line| line.starts_with("  next run")).expect("a next run");
    assert!(next.contains("-12-31T23:00:00Z (2") && next.contains("T00:00:00+01:00 Europe/Berlin"), "{next}");
    assert!(next.contains(&format!("by process {} on ", running.pid())), "{next}");
    let status = json(&pgdiode);
    assert!(status["next_run"].as_str().unwrap().ends_with("-12-31T23:00:00Z"), "{status}");
    assert_eq!((&status["schedule"], &status["time_zone"]), (&"0 0 1 1 *".into(), &"Europe/Berlin".into()));
    assert_eq!(status["kept_by"][0]["process_id"], running.pid());

    running.terminate();
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
    assert_eq!(json(&pgdiode)["kept_by"].as_array().unwrap().len(), 0);
    let next = pgdiode.run(&["status"]).success();
    assert!(next.contains("nobody keeps the schedule: pgdiode start"), "{next}");

    // It has missed nothing since, and a sync that somebody else has run counts too.
    let mut running = pgdiode.spawn(&["start"]);
    running.wait_for_log("has succeeded since");
    assert_eq!(runs(&ground), "1");
    running.terminate();
    running.wait();

    // One that began in the future, by a clock that has been set back, does not keep the next from coming.
    ground.control("update pgdiode.run set started = started + interval '1 year'");
    let mut running = pgdiode.spawn(&["start"]);
    running.wait_for_log("generation 2 serves");
    running.terminate();
    running.wait();
}

#[test]
fn it_is_detached_and_stopped_through_the_target() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode(&format!("{YEARLY}\nsnapshot.catch_up = false"));
    let said = pgdiode.run(&["start", "--detach"]);
    assert!(said.stderr.contains("runs in the background, process"), "{said:?}");
    assert_eq!(runs(&ground), "0", "nothing was to be made up for");
    let said = pgdiode.run(&["stop"]);
    assert!(said.status.success() && said.stderr.contains("stopped process "), "{said:?}");
    let said = pgdiode.run(&["stop"]);
    assert!(said.status.success() && said.stderr.contains("was not running"), "{said:?}");

    let pgdiode = ground.pgdiode(YEARLY);
    let mut held = ground.held_start(&pgdiode);
    let said = pgdiode.run(&["stop"]);
    assert!(said.stderr.contains(&format!("stopped process {} ", held.pid())), "{said:?}");
    assert_eq!(held.wait().code(), Some(0), "{}", held.stderr());
    assert_eq!(ground.last_verdict(), "killed");
    ground.let_copy_go();
}

impl Ground {
    /// A start that is busy with the copy of a sync.
    fn held_start(&self, pgdiode: &PgdiodeRun) -> Running {
        self.hold_copy();
        let running = pgdiode.spawn(&["start"]);
        self.wait_for_phase("copying");
        running
    }
}

#[test]
fn a_stop_while_it_syncs_leaves_the_replica_as_it_was() {
    let ground = Ground::new();
    sync(&ground.pgdiode("")).success();
    ground.source.psql("app", "update stamp set generation = 2");
    ground.control("update pgdiode.run set started = started - interval '2 years'");
    let pgdiode = ground.pgdiode(YEARLY);
    let mut running = ground.held_start(&pgdiode);
    running.terminate();
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
    assert_eq!((ground.last_verdict().as_str(), ground.stamp().as_str()), ("killed", "1"));
    assert_eq!(ground.databases(), "li li_pgdiode");
}

/// The one test that waits for the clock: until the next minute begins.
#[test]
fn it_syncs_when_the_time_comes_and_a_failure_does_not_end_it() {
    let ground = Ground::new();
    let checked = "snapshot.checks = [\"select generation = 2 from public.stamp\"]";
    let pgdiode = ground.pgdiode(&format!("{EACH_MINUTE}\n{checked}"));
    let mut running = pgdiode.spawn(&["start"]);
    // The first fails by its check, the second finds what it wants.
    let said = "a check is not content";
    let found =
        (0..8).any(|_| crate::harness::wait_for(|| running.stderr().contains(said).then_some(())).is_some());
    assert!(found, "{}", running.stderr());
    assert!(running.is_running() && running.stderr().contains("the next is due at"), "{}", running.stderr());
    assert_eq!(ground.last_verdict(), "not promoted");
    ground.source.psql("app", "update stamp set generation = 2");
    let served = (0..8).any(|_| {
        crate::harness::wait_for(|| running.stderr().contains("generation 1 serves").then_some(())).is_some()
    });
    assert!(served, "{}", running.stderr());
    assert_eq!(ground.stamp(), "2");
    running.terminate();
    assert_eq!(running.wait().code(), Some(143));
}

#[test]
fn a_target_that_is_away_is_tried_again_and_another_sync_is_let_be() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode(YEARLY);
    let mut first = ground.held_sync(&pgdiode);
    let mut running = pgdiode.spawn(&["start"]);
    running.wait_for_log("skipped: ");
    assert!(running.is_running());
    ground.let_copy_go();
    assert!(first.wait().success());
    running.terminate();
    running.wait();
    ground.control("update pgdiode.run set started = started - interval '2 years'");

    ground.target.kill9();
    let mut running = pgdiode.spawn(&["start"]);
    running.wait_for_log("it is tried again in");
    ground.target.start_again();
    running.wait_for_log("generation 2 serves");
    running.terminate();
    assert_eq!(running.wait().code(), Some(143));
}

/// The second waits for the lock of the first, and then finds that its due time is done.
#[test]
fn of_two_that_keep_a_schedule_one_syncs() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode(YEARLY);
    let mut first = ground.held_start(&pgdiode);
    let sessions = "select count(*) from pg_stat_activity where datname = 'li_pgdiode'";
    let before = ground.target.psql("postgres", sessions).parse::<u32>().unwrap();
    let mut second = pgdiode.spawn(&["start"]);
    ground.target.wait_until("postgres", &format!("select ({sessions}) > {before}"), "the second");
    ground.let_copy_go();
    first.wait_for_log("generation 1 serves");
    second.wait_for_log("skipped: a sync ");
    assert_eq!(runs(&ground), "1");
    assert_eq!(json(&pgdiode)["kept_by"].as_array().unwrap().len(), 2);
    let said = pgdiode.run(&["stop"]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!((first.wait().code(), second.wait().code()), (Some(0), Some(0)));
}

#[test]
fn what_no_sync_may_replace_no_schedule_replaces() {
    let ground = Ground::new();
    ground.target.psql("postgres", "create database li");
    ground.target.psql("li", "create table own (id int)");
    let pgdiode = ground.pgdiode(YEARLY);
    let said = pgdiode.run(&["start"]).failure(3);
    assert!(said.contains("is not empty, and no sync has made it"), "{said}");
    assert_eq!(ground.databases(), "li", "not even a control database is made");

    for (lines, what) in [
        ("snapshot.schedule = \"0 25 * * *\"", "is not a cron expression"),
        ("snapshot.schedule = \"0 0 * * *\"\nsnapshot.time_zone = \"Mars/Olympus\"", "there is no time zone"),
    ] {
        let said = ground.pgdiode(lines).run(&["status"]).failure(2);
        assert!(
            said.contains(what) && said.contains("pgdiode.toml:5: ") && said.contains("hint: "),
            "{said}"
        );
    }
    let said = pgdiode.run(&["start", "--once-caught-up"]).failure(2);
    assert!(said.contains("pgdiode sync"), "{said}");
}
