//! Every way of touching the log that the chain can show, and that it shows where.

use std::fs;

use super::*;

/// A log of six entries, and a copy of them to begin again from.
struct Log {
    ground: Ground,
    pgdiode: PgdiodeRun,
    head: String,
}

impl Log {
    fn new() -> Log {
        let ground = Ground::new();
        let pgdiode = ground.pgdiode();
        pgdiode.run(&["setup", "--yes", "--reason", "first"]).success();
        ground.target.psql(
            "app",
            "insert into pgdiode.relation (pipeline, schema_name, table_name) values ('main', 'public', 'orders')",
        );
        for reason in ["second", "third"] {
            pgdiode.run(&["resync", "public.orders", "--reason", reason]).success();
        }
        ground.target.psql("app", "create schema saved; create table saved.audit as table pgdiode.audit");
        let head = head(&pgdiode);
        assert!(head.starts_with("6:"), "{head}");
        Log { ground, pgdiode, head }
    }

    fn restore(&self) {
        let sql = "delete from pgdiode.audit; insert into pgdiode.audit table saved.audit";
        self.ground.target.psql("app", sql);
        assert_eq!(head(&self.pgdiode), self.head, "it is as it was");
    }

    /// After this the log is broken at `number`, in this way.
    fn finds(&self, tampering: &str, number: i64, damage: &str) {
        self.ground.target.psql("app", tampering);
        let (status, report) = verify(&self.pgdiode, &[]);
        let broken = (report["broken"]["number"].as_i64(), report["broken"]["damage"].as_str());
        assert_eq!((status, broken), (4, (Some(number), Some(damage))), "{tampering}: {report}");
        // Those before it hold; of two with one number, the first.
        assert_eq!(report["entries"], if damage == "forked" { number } else { number - 1 });
        self.restore();
    }
}

#[test]
fn every_edited_column_is_found() {
    let log = Log::new();
    for set in [
        "at = at + interval '1 microsecond'",
        "at = 'infinity'",
        "at = (at::timestamp::text || ' BC')::timestamptz",
        "pipeline = 'other'",
        "os_user = 'nobody'",
        "host = host || ' '",
        "role = 'nobody'",
        "action = 'reset'",
        "reason = null",
        "reason = ''",
        "verdict = 'done '",
        "details = details || '{\"x\": 1}'",
        "details = '{}'",
        "details = 'null'",
        "previous_hash = repeat('0', 64)",
        "hash = repeat('0', 64)",
        "hash = upper(hash)",
    ] {
        log.finds(&format!("update pgdiode.audit set {set} where number = 3"), 3, "edited");
    }
    log.finds("update pgdiode.audit set reason = 'x' where number = 1", 1, "edited");
    log.finds("update pgdiode.audit set verdict = 'failed' where number = 6", 6, "edited");
    log.finds("update pgdiode.audit set number = 9 where number = 3", 3, "missing");
    log.finds("update pgdiode.audit set number = 9 where number = 6", 6, "missing");
}

#[test]
fn what_is_removed_moved_or_put_in_is_found() {
    let log = Log::new();
    let renumber =
        "update pgdiode.audit a set number = -b.n from (select number, row_number() over (order by number) as n
                                                     from pgdiode.audit) b where a.number = b.number;
         update pgdiode.audit set number = -number where number < 0";
    // A check keeps numbers positive: not from whoever may drop it.
    log.ground.target.psql("app", "alter table pgdiode.audit drop constraint audit_number_check");
    for number in [1, 3, 5] {
        let delete = format!("delete from pgdiode.audit where number = {number}");
        log.finds(&delete, number, "missing");
        log.finds(&format!("{delete}; {renumber}"), number, "reordered");
    }
    log.finds("delete from pgdiode.audit where number in (1, 2, 4)", 1, "missing");
    log.finds(
        "update pgdiode.audit set number = 100 where number = 2; update pgdiode.audit set number = 2 where number = 4;
         update pgdiode.audit set number = 4 where number = 100",
        2,
        "reordered",
    );
    let copied = "at, pipeline, os_user, host, role, action, reason, verdict, details, previous_hash, hash";
    let insert = |number: i64, from: i64| {
        format!("insert into pgdiode.audit select {number}, {copied} from saved.audit where number = {from}")
    };
    // In the middle, with the rest moved up; and at the end.
    let room = "update pgdiode.audit set number = -number - 1 where number >= 3;
        update pgdiode.audit set number = -number where number < 0";
    log.finds(&format!("{room}; {}", insert(3, 2)), 3, "reordered");
    log.finds(&insert(7, 6), 7, "reordered");
    log.ground.target.psql("app", "alter table pgdiode.audit drop constraint audit_pkey");
    log.finds(&insert(3, 3), 3, "forked");
}

#[test]
fn a_cut_tail_is_found_with_a_known_head() {
    let log = Log::new();
    log.ground.target.psql("app", "delete from pgdiode.audit where number > 4");
    assert_eq!(verify(&log.pgdiode, &[]).0, 0, "the chain alone cannot show it");
    let (status, report) = verify(&log.pgdiode, &["--head", &log.head]);
    assert_eq!((status, &report["broken"]["damage"]), (4, &"cut".into()), "{report}");
    let said = log.pgdiode.run(&["audit", "verify", "--head", &log.head]).failure(4);
    assert!(said.contains("the log ends with entry 4, and the known head is entry 6"), "{said}");

    // What grew again in its place is another history.
    log.pgdiode.run(&["resync", "public.orders"]).success();
    assert_eq!(verify(&log.pgdiode, &[]).0, 0);
    let (status, report) = verify(&log.pgdiode, &["--head", &log.head]);
    assert_eq!((status, &report["broken"]["damage"]), (4, &"rewritten".into()), "{report}");

    log.ground.target.psql("app", "delete from pgdiode.audit");
    let (status, report) = verify(&log.pgdiode, &["--head", &log.head]);
    assert_eq!((status, report["broken"]["number"].as_i64()), (4, Some(1)), "{report}");
    log.ground.target.psql("app", "drop table pgdiode.audit");
    assert_eq!(verify(&log.pgdiode, &["--head", &log.head]).0, 4);
    log.pgdiode.run(&["audit", "verify", "--head", "6:abc"]).failure(2);
}

#[test]
fn an_export_is_checked_without_the_server() {
    let log = Log::new();
    let export = log.pgdiode.run(&["audit", "export"]).success();
    assert_eq!(export.lines().count(), 6);
    log.ground.target.stop_fast();
    let check = |text: &str, arguments: &[&str]| {
        fs::write(log.pgdiode.directory().join("audit.jsonl"), text).unwrap();
        verify(&log.pgdiode, &[&["audit.jsonl"], arguments].concat())
    };
    assert_eq!(check(&export, &["--head", &log.head]).0, 0);
    let (status, report) = check(&export.replace("second", "sekond"), &[]);
    assert_eq!((status, report["broken"]["number"].as_i64()), (4, Some(3)), "{report}");
    let lines: Vec<&str> = export.split_inclusive('\n').collect();
    let without_third = [&lines[..2], &lines[3..]].concat().concat();
    assert_eq!(check(&without_third, &[]).1["broken"]["damage"], "missing");
    let cut = lines[..4].concat();
    assert_eq!(check(&cut, &[]).0, 0);
    assert_eq!(check(&cut, &["--head", &log.head]).1["broken"]["damage"], "cut");
    log.pgdiode.run(&["audit", "verify", "nowhere.jsonl"]).failure(2);
    log.pgdiode.run(&["audit", "verify"]).failure(7);
}

/// More entries than are read at once.
#[test]
fn a_long_log_is_checked_to_its_end() {
    let log = Log::new();
    let pgdiode = &log.pgdiode;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..15 {
                    pgdiode.run(&["resync", "public.orders"]).success();
                }
            });
        }
    });
    assert_eq!(verify(pgdiode, &[]).1["entries"], 126);
    log.ground.target.psql("app", "update pgdiode.audit set reason = 'x' where number = 120");
    assert_eq!(verify(pgdiode, &[]).1["broken"]["number"], 120);
}
