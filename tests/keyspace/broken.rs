//! The session is interrupted while a batch is applied.

use pgdiode::keyspace::Observed;

use super::{Chat, Ground, at, chat_layout, open};
use crate::harness::PsqlRun;

const IS_WAITING: &str = "select exists (select from pg_stat_activity where wait_event_type = 'Lock')";
/// Of the one session that waits for the lock.
const WAITING: &str = "from pg_stat_activity where wait_event_type = 'Lock'";

fn batch() -> Vec<Observed> {
    (0..50)
        .map(|number| Chat::new(&format!("s{number}"), "new", &[("m1", "new")]).of_user("ann").present())
        .collect()
}

/// A ground with some rows, and somebody who keeps messages from being written.
fn locked() -> (Ground, PsqlRun) {
    let mut ground = Ground::chat();
    ground.apply(vec![Chat::new("s1", "old", &[("m1", "old")]).present()]);
    let holder = ground
        .cluster
        .spawn_psql("postgres", "begin; lock table messages in share mode; select pg_sleep(600)");
    let is_held = "select exists (select from pg_locks where relation = 'messages'::regclass and granted and mode = 'ShareLock')";
    ground.cluster.wait_until("postgres", is_held, "the lock");
    (ground, holder)
}

/// Applies the batch and does `sql` while it waits; the error.
fn interrupted(ground: &mut Ground, sql: &str) -> pgdiode::error::Error {
    let Ground { cluster, runtime, target } = ground;
    let outcome = std::thread::scope(|scope| {
        let interruption = scope.spawn(|| {
            cluster.wait_until("postgres", IS_WAITING, "the batch to wait");
            cluster.psql("postgres", &format!("select {sql}(pid) {WAITING}"))
        });
        let outcome = runtime.block_on(target.apply(batch(), &at(2)));
        assert_eq!(interruption.join().expect("the session was there"), "t");
        outcome
    });
    outcome.expect_err("it was interrupted")
}

fn nothing_has_happened(ground: &Ground) {
    let seen = "select concat_ws(',', (select string_agg(title, '/') from sessions), (select count(*) from users), \
                (select count(*) from pgdiode.keyspace_key), (select read_offset from pgdiode.keyspace_position))";
    assert_eq!(ground.sql(seen), "old,0,1,1");
    assert_eq!(ground.messages(), "s1/m1=old");
}

fn all_is_there(ground: &Ground) {
    let seen = "select concat_ws(',', (select count(*) from sessions where title = 'new'), (select count(*) from users), \
                (select count(*) from messages where body = 'new'), (select count(*) from pgdiode.keyspace_key))";
    assert_eq!(ground.sql(seen), "50,1,50,50");
}

#[test]
fn a_session_that_is_killed_has_done_nothing() {
    let (mut ground, holder) = locked();
    let error = interrupted(&mut ground, "pg_terminate_backend");
    assert!(error.retries(), "{error:?}");
    ground.sql("select pg_terminate_backend(pid) from pg_locks where mode = 'ShareLock' and relation = 'messages'::regclass");
    drop(holder.wait());
    nothing_has_happened(&ground);
    ground.target = ground.runtime.block_on(open(&ground.cluster, &chat_layout())).unwrap();
    ground.apply(batch());
    all_is_there(&ground);
}

#[test]
fn a_batch_that_was_cancelled_may_be_applied_again() {
    let (mut ground, holder) = locked();
    let error = interrupted(&mut ground, "pg_cancel_backend");
    assert!(error.retries(), "{error:?}");
    nothing_has_happened(&ground);
    ground.sql("select pg_terminate_backend(pid) from pg_locks where mode = 'ShareLock' and relation = 'messages'::regclass");
    drop(holder.wait());
    ground.apply(batch());
    all_is_there(&ground);
}
