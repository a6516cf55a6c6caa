//! Whatever is killed, the serving database serves on, and the next sync clears up.

use super::*;

/// Killed in the copy and in the guards.
#[test]
fn a_killed_sync_leaves_the_replica_as_it_was() {
    let ground = Ground::new();
    let plain = ground.pgdiode("");
    sync(&plain).success();
    ground.source.psql("app", "update stamp set generation = 2");
    let slow = ground.pgdiode("snapshot.checks = [\"select pg_sleep(600) is not null\"]");

    let mut running = ground.held_sync(&plain);
    running.kill9();
    assert_eq!(ground.stamp(), "1");
    assert!(ground.databases().contains("li_shadow_2"), "{}", ground.databases());
    ground.let_copy_go();

    let mut running = slow.spawn(&["sync"]);
    ground.wait_for_phase("checking");
    assert!(!ground.databases().contains("li_shadow_2"), "the next one has cleared up");
    running.kill9();
    assert_eq!(ground.stamp(), "1");
    let status = plain.run(&["status"]).success();
    assert!(status.contains("killed"), "{status}");

    sync(&plain).success();
    assert_eq!(ground.stamp(), "2");
    assert_eq!(ground.databases(), "li li_gen_1 li_pgdiode");
    let verdicts = ground.control("select string_agg(verdict, ' ' order by id) from pgdiode.run");
    assert_eq!(verdicts, "done killed killed done");
}

/// Killed at moments that nobody has chosen.
#[test]
fn a_sync_killed_at_any_moment_hurts_nobody() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    ground.kill_at_any_moment(&pgdiode, || {
        // Nobody can connect while the server undoes a swap that was killed.
        let stamp = || ground.target.try_psql("li", "select generation from stamp").ok();
        crate::harness::wait_for(stamp).expect("the replica serves")
    });
    let unaudited = ground.control(
        "select count(*) from pgdiode.run r where (verdict = 'done') <> (
             select count(*) filter (where action = 'swap') = 1 and count(*) filter (where verdict = 'done') = 2
               from pgdiode.audit where details ->> 'run' = r.id::text)",
    );
    assert_eq!(unaudited, "0", "a run is done together with its entries, or neither");
    let databases = ground.databases();
    assert!(!databases.contains("shadow") && databases.matches("li_gen").count() == 1, "{databases}");
}

#[test]
fn a_server_that_goes_away_hurts_nobody() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).success();
    ground.source.psql("app", "update stamp set generation = 2");
    let mut running = ground.held_sync(&pgdiode);
    ground.source.kill9();
    ground.let_copy_go();
    assert_eq!(running.wait().code(), Some(6), "{}", running.stderr());
    ground.source.start_again();
    assert_eq!((ground.last_verdict().as_str(), ground.stamp().as_str()), ("failed", "1"));
    assert_eq!(ground.databases(), "li li_pgdiode");

    let mut running = ground.held_sync(&pgdiode);
    ground.target.kill9();
    assert_eq!(running.wait().code(), Some(7), "{}", running.stderr());
    ground.target.start_again();
    ground.let_copy_go();
    assert_eq!(ground.stamp(), "1");
    sync(&pgdiode).success();
    assert_eq!(ground.stamp(), "2");
    assert_eq!(ground.databases(), "li li_gen_1 li_pgdiode");
}

#[test]
fn a_sync_stops_when_it_is_asked_to() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).success();
    let mut running = ground.held_sync(&pgdiode);
    running.terminate();
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
    assert_eq!((ground.last_verdict().as_str(), ground.stamp().as_str()), ("killed", "1"));
    let said = ground.control("select error from pgdiode.run order by id desc limit 1");
    assert_eq!(said, "it was asked to stop");
    assert_eq!(ground.databases(), "li li_pgdiode");
}
