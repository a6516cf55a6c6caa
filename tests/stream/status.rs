//! What `pgdiode status` says of a run that does not stream: that it copies, waits, tries again, and since what.

use serde_json::Value;

use super::{Ends, Pair, stop};
use crate::harness::wait_for;

/// Asks until the status is as wanted; that status.
fn wait_for_status(pair: &Pair, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = String::new();
    let found = wait_for(|| {
        let output = pair.pgdiode.run(&["status", "--json"]);
        last = format!("{}{}", output.stdout, output.stderr);
        serde_json::from_str::<Value>(&output.stdout).ok().filter(|status| wanted(status))
    });
    found.unwrap_or_else(|| panic!("the status never said {what}: {last}"))
}

#[test]
fn status_says_what_a_run_waits_for() {
    let pair = Pair::start(Ends::default());
    pair.at_source("create table t (id int primary key); insert into t values (1)");
    pair.publish("t");
    // A slot is made once everybody who is writing has ended.
    let writer = pair.source.spawn_psql("postgres", "begin; insert into t values (2); select pg_sleep(600)");
    let writes = "from pg_stat_activity where backend_xid is not null";
    pair.source.wait_until("postgres", &format!("select exists (select {writes})"), "the writer");
    let running = pair.begin();
    let status = wait_for_status(&pair, "that it waits", |status| {
        status["phase"] == "copying" && status["doing"] == "creating the replication slot"
    });
    assert_eq!(status["running_on"]["process_id"], running.pid());
    let text = pair.pgdiode.run(&["status"]).success();
    assert!(text.contains("\n  doing       creating the replication slot\n"), "{text}");
    pair.at_source(&format!("select pg_terminate_backend(pid) {writes} and pid <> pg_backend_pid()"));
    drop(writer.wait());
    pair.assert_alike();
    wait_for_status(&pair, "that it streams", |status| {
        status["phase"] == "streaming" && status["doing"].is_null()
    });

    pair.source.stop_fast();
    let status = wait_for_status(&pair, "that it tries again", |status| {
        status["phase"] == "retrying"
            && status["retries"].as_u64().is_some_and(|retries| retries > 1)
            && status["retry_at"].is_string()
    });
    assert_eq!(status["running_on"]["process_id"], running.pid(), "between two attempts, too");
    assert_eq!(status["doing"], "waiting for the next attempt");
    assert!(status["last_error"].as_str().is_some_and(|error| error.contains("cannot connect")), "{status}");
    let text = pair.pgdiode.run(&["status"]).success();
    assert!(text.contains("pipeline main  retrying") && text.contains("\n  retries     "), "{text}");
    assert!(text.contains(", next at ") || text.contains(", the next attempt is under way"), "{text}");
    pair.source.start_again();
    pair.assert_alike();
    wait_for_status(&pair, "that all is well", |status| {
        status["phase"] == "streaming" && status["retries"] == 0 && status["last_error"].is_null()
    });

    // Whoever ends it while it waits is believed.
    pair.source.stop_fast();
    wait_for_status(&pair, "that it tries again", |status| status["phase"] == "retrying");
    stop(running);
    let status = wait_for_status(&pair, "that it is stopped", |status| status["phase"] == "stopped");
    assert!(status["running_on"].is_null(), "{status}");
}

#[test]
fn a_run_that_waits_for_its_next_attempt_can_be_stopped() {
    let pair = Pair::start(Ends::default());
    pair.at_source("create table t (id int primary key)");
    pair.publish("t");
    let mut running = pair.begin_and_copy();
    pair.source.stop_fast();
    wait_for_status(&pair, "that it tries again", |status| status["phase"] == "retrying");
    let told = pair.pgdiode.run(&["stop"]).stderr;
    assert!(told.contains(&format!("stopped process {}", running.pid())), "{told}");
    assert!(running.wait().success(), "{}", running.stderr());
    let again = pair.pgdiode.run(&["stop"]).stderr;
    assert!(again.contains("was not running"), "{again}");
    pair.source.start_again();
    running = pair.begin();
    pair.assert_alike();
    stop(running);
}
