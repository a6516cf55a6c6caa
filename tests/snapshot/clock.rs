//! A clock that jumps: what was first and what is last goes by numbers that only grow, never by what a clock said.

use super::*;

/// As if the target's clock had been decades ahead, was put right, and jumped back: later runs and copies have earlier
/// times, and some ended before they began.
const JUMP: &str = "
    update pgdiode.run set started = timestamptz '2090-01-01 00:00:00+00' - id * interval '10 years', ended = timestamptz '1980-01-01 00:00:00+00' - id * interval '1 day';
    update pgdiode.generation set taken_at = timestamptz '2090-01-01 00:00:00+00' - number * interval '10 years'";

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("snapshot.keep = 2");
    for generation in 1..=3 {
        ground.source.psql("app", &format!("update stamp set generation = {generation}"));
        sync(&pgdiode).success();
        ground.control(JUMP);
    }
    let status = |pgdiode: &PgdiodeRun| -> serde_json::Value {
        serde_json::from_str(&pgdiode.run(&["status", "--json"]).success()).unwrap()
    };
    let told = status(&pgdiode);
    assert_eq!((&told["last_run"]["id"], &told["serving"]["number"]), (&3.into(), &3.into()), "{told}");
    let runs: Vec<&serde_json::Value> =
        told["runs"].as_array().unwrap().iter().map(|run| &run["id"]).collect();
    assert_eq!(runs, [3, 2, 1]);
    for run in told["runs"].as_array().unwrap() {
        assert!(run["seconds"].as_f64().unwrap() >= 0.0, "{run}");
    }
    assert_eq!(told["serving"]["age_seconds"], 0, "from the future: {told}");

    // Back to the one before, and forward again: by number.
    let rolled: serde_json::Value =
        serde_json::from_str(&pgdiode.run(&["rollback", "--json"]).success()).unwrap();
    assert_eq!((&rolled["generation"], ground.stamp().as_str()), (&2.into(), "2"));
    assert!(rolled["seconds"].as_f64().unwrap() >= 0.0, "{rolled}");
    ground.control(JUMP);

    // Kept are those that served last, whatever their times say.
    ground.source.psql("app", "update stamp set generation = 4");
    sync(&pgdiode).success();
    ground.control(JUMP);
    assert_eq!(
        (ground.stamp().as_str(), ground.databases().as_str()),
        ("4", "li li_gen_2 li_gen_3 li_pgdiode")
    );
    assert_eq!(status(&pgdiode)["last_run"]["id"], 5);
    pgdiode.run(&["audit", "verify"]).success();

    // A killed run is found by the lock that it no longer holds, not by its age.
    let mut running = ground.held_sync(&pgdiode);
    ground.control("update pgdiode.run set started = '2090-01-01' where verdict = 'running'");
    assert_eq!(status(&pgdiode)["running"]["id"], 6);
    assert!(status(&pgdiode)["running"]["seconds"].as_f64().unwrap() >= 0.0);
    sync(&pgdiode).failure(5);
    running.kill9();
    ground.let_copy_go();
    sync(&pgdiode).success();
    assert_eq!(ground.control("select verdict from pgdiode.run where id = 6"), "killed");
}
