//! A disk that is too small: told before anything is made, and survived when it becomes full all the same.

use super::*;

#[test]
fn a_sync_that_the_disk_would_not_hold_is_refused() {
    let ground = Ground::new();
    let small = ground.pgdiode("snapshot.disk_mb = 1");
    let said = sync(&small).failure(8);
    assert!(said.contains("the target's disk has too little room: 0 B left of snapshot.disk_mb"), "{said}");
    assert!(said.contains("(200 %)") && said.contains("hint: "), "{said}");
    assert_eq!(ground.databases(), "", "nothing was made");
    let checked = small.run(&["check"]);
    assert!(checked.stdout.contains("too little room"), "{checked:?}");
    assert_eq!(checked.status.code(), Some(3));

    sync(&ground.pgdiode("snapshot.disk_mb = 1000000")).success();
    let databases = ground.databases();
    sync(&small).failure(8);
    assert_eq!((ground.databases(), ground.last_verdict()), (databases.clone(), "failed".to_owned()));
    assert!(small.run(&["status"]).success().contains("too little room"));

    // What serves is larger than the source by now, and counts.
    ground
        .target
        .psql("li", "create table more as select repeat('x', 1000) as text from generate_series(1, 20000)");
    let stored = "select (sum(pg_database_size(oid)) / 1048576)::int8
                         + (select sum(size) / 1048576 from pg_ls_waldir())::int8 from pg_database";
    let stored: u64 = ground.target.psql("postgres", stored).parse().unwrap();
    let said = sync(&ground.pgdiode(&format!("snapshot.disk_mb = {}", stored + 30))).failure(8);
    assert!(said.contains("too little room"), "{said}");
    let once = "snapshot.free_disk_percent_min = 0\nsnapshot.disk_mb = 1";
    let checked = ground.pgdiode(once).run(&["check"]).success();
    assert!(checked.contains("free disk is not guarded: snapshot.free_disk_percent_min = 0"), "{checked}");
    sync(&ground.pgdiode(once)).success();
}

/// The data directory is on this host: its file system says what is free. A user who may not know where it is, is told.
#[test]
fn the_volume_of_a_server_on_this_host_is_looked_at() {
    let ground = Ground::new();
    let checked = ground.pgdiode("").run(&["check"]).success();
    assert!(checked.contains("target's disk: ") && checked.contains(" needed"), "{checked}");
    let said = sync(&ground.pgdiode("snapshot.free_disk_percent_min = 10000")).success();
    assert_eq!(said, "");
    ground.target.psql("postgres", "create role li_owner login createdb");
    ground
        .target
        .psql("postgres", "alter database li owner to li_owner; alter database li_pgdiode owner to li_owner");
    let plain = ground.configured(&ground.target.conninfo_as("li_owner", "other"), "");
    let checked = plain.run(&["check"]).success();
    assert!(checked.contains("free disk is not guarded: nothing here tells how much there is"), "{checked}");
    assert!(checked.contains("snapshot.disk_mb"), "{checked}");
    let stated = ground.configured(&ground.target.conninfo_as("li_owner", "other"), "snapshot.disk_mb = 1");
    sync(&stated).failure(8);
}

/// As on a full disk, a server whose files may not grow beyond a size writes a part of a page and then nothing: it
/// reports `disk_full`.
#[test]
fn a_disk_that_becomes_full_hurts_nobody() {
    const FILE_BYTES_MAX: u64 = (20 << 20) + 4096;
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).success();
    ground.source.psql(
        "app",
        "create table large as select n, repeat('x', 1000) as text from generate_series(1, 30000) n; update stamp set generation = 2",
    );
    ground.target.limit_files(Some(FILE_BYTES_MAX));
    let said = sync(&pgdiode).failure(8);
    assert!(
        said.contains("could not extend file") && said.contains("hint: Free disk space at the target"),
        "{said}"
    );
    assert_eq!((ground.last_verdict().as_str(), ground.stamp().as_str()), ("failed", "1"));
    assert_eq!(ground.databases(), "li li_pgdiode", "the shadow is gone");
    let ended = ground
        .control("select verdict, details ->> 'exit_status' from pgdiode.audit order by number desc limit 1");
    assert_eq!(ended, "failed|8");
    ground.target.limit_files(None);
    sync(&pgdiode).success();
    assert_eq!(
        (ground.stamp().as_str(), ground.target.psql("li", "select count(*) from large").as_str()),
        ("2", "30000")
    );
}
