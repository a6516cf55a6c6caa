use super::*;
use crate::change::TableName;
use crate::position::Lsn;
use crate::status::{Difference, Finding, RunningOn, SequenceStatus};
use std::path::Path;

/// Compares with a committed file; `UPDATE_GOLDEN=1` renews it.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/status").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, text, "{name} differs: UPDATE_GOLDEN=1 renews it");
}

fn table(name: &str, state: TableState) -> TableStatus {
    TableStatus {
        name: TableName::new("public", name),
        state,
        reason: None,
        remedy: None,
        rows_copied: 1_234_567,
        bytes_copied: 98_765_432,
        bytes_total: Some(123_456_789),
        inserts: 12_345,
        updates: 678,
        deletes: 9,
        conflicts: 0,
        skipped: 0,
    }
}

fn status() -> PipelineStatus {
    PipelineStatus {
        name: "main".into(),
        mode: "stream".into(),
        phase: Phase::Streaming,
        doing: Some("waiting for the next attempt".into()),
        running_on: Some(RunningOn {
            host: "mirror-0".into(),
            process_id: 4711,
            since: "2026-01-02T03:04:05Z".into(),
        }),
        source: "repl@db1:5432/app".into(),
        target: "mirror@db2:5432/app".into(),
        position: Some(Lsn(0x16_B374_D848)),
        source_position: Some(Lsn(0x16_B374_E000)),
        lag_bytes: Some(1976),
        lag_seconds: Some(0.034),
        archive: None,
        keys: None,
        slot: Some(SlotStatus {
            name: "pgdiode_main".into(),
            active: true,
            wal_held_bytes: 7 << 30,
            wal_budget_bytes: 10 << 30,
            budget_reached_in_seconds: Some(7500),
            wal_status: Some("extended".into()),
            safe_wal_bytes: Some(5 << 30),
        }),
        tables: vec![
            table("users", TableState::Ready),
            TableStatus { skipped: 3, ..table("orders", TableState::Copying) },
            TableStatus {
                reason: Some("column total: type numeric became text".into()),
                remedy: Some("pgdiode resync public.bad".into()),
                ..table("bad\x1b[2J", TableState::Quarantined)
            },
        ],
        sequences: SequenceStatus { carried: 12, carried_at: Some("2026-01-02T03:04:55Z".into()) },
        last_error: Some("connection to db1 lost".into()),
        hint: Some("check that db1 is up".into()),
        retries: 2,
        retry_at: Some("2026-01-02T03:05:00Z".into()),
        notes: vec!["1 table is quarantined".into()],
    }
}

#[test]
fn status_for_people() {
    golden("streaming.txt", &status().text(Paint::Plain));
    golden("streaming.colour.txt", &status().text(Paint::Coloured));
    let mut over = status();
    over.slot.as_mut().unwrap().wal_held_bytes = 12 << 30;
    let warned = "\x1b[33mholds 12 GB of 10 GB\x1b[0m";
    assert!(
        over.text(Paint::Coloured).contains(warned)
            && !status().text(Paint::Coloured).contains("\x1b[33mholds")
    );
    let new = PipelineStatus {
        phase: Phase::New,
        doing: None,
        running_on: None,
        position: None,
        source_position: None,
        lag_bytes: None,
        lag_seconds: None,
        archive: None,
        slot: None,
        tables: Vec::new(),
        sequences: SequenceStatus::default(),
        last_error: None,
        hint: None,
        retries: 0,
        retry_at: None,
        notes: Vec::new(),
        ..status()
    };
    golden("new.txt", &new.text(Paint::Plain));
}

#[test]
fn status_for_machines() {
    golden("streaming.json", &(serde_json::to_string_pretty(&status()).unwrap() + "\n"));
}

#[test]
fn colours_only_decorate() {
    let coloured = status().text(Paint::Coloured);
    let mut plain = String::new();
    for (place, part) in coloured.split('\x1b').enumerate() {
        plain.push_str(if place == 0 { part } else { part.split_once('m').unwrap().1 });
    }
    assert_eq!(plain, status().text(Paint::Plain));
}

#[test]
fn check_for_people() {
    let finding = |level, what: &str, hint: Option<&str>| Finding {
        level,
        what: what.into(),
        hint: hint.map(Into::into),
    };
    let report = CheckReport {
        findings: vec![
            finding(Level::Ok, "source db1:5432/app is PostgreSQL 15.8", None),
            finding(
                Level::Warning,
                "max_slot_wal_keep_size is unlimited",
                Some("set it to what the disk can spare"),
            ),
            finding(
                Level::Refused,
                "public.t has no replica identity",
                Some("alter table public.t replica identity full"),
            ),
        ],
        ..CheckReport::default()
    };
    golden("check.txt", &report.text(Paint::Plain));
    golden("check.json", &(serde_json::to_string_pretty(&report).unwrap() + "\n"));
}

#[test]
fn verify_for_people() {
    let table = |name: &str, identical, differences: Vec<Difference>, differences_total| TableVerification {
        name: TableName::new("public", name),
        rows_source: 1_000_000,
        rows_target: if identical { 1_000_000 } else { 999_999 },
        digest_source: "aa".into(),
        digest_target: if identical { "aa".into() } else { "ab".into() },
        identical,
        differences,
        differences_total,
        note: None,
    };
    let quarantined = || TableVerification {
        identical: false,
        note: Some("not compared: it is quarantined: a column is missing".into()),
        ..table("events", true, Vec::new(), 0)
    };
    let difference = |key: &str, kind| Difference { key: key.into(), kind };
    let same = VerifyReport {
        identical: true,
        lsn: Some(Lsn(0x16_B374_D848)),
        tables: vec![table("users", true, Vec::new(), 0)],
        seconds: 1.5,
    };
    golden("verify.identical.txt", &same.text(Paint::Plain));
    let differences = vec![
        difference("id=7", DifferenceKind::Missing),
        difference("id=8", DifferenceKind::Extra),
        difference("id=9", DifferenceKind::Different),
    ];
    let other = VerifyReport {
        identical: false,
        tables: vec![
            table("users", true, Vec::new(), 0),
            table("orders", false, differences, 1234),
            quarantined(),
        ],
        seconds: 75.0,
        ..same
    };
    golden("verify.different.txt", &other.text(Paint::Plain));
    golden("verify.different.json", &(serde_json::to_string_pretty(&other).unwrap() + "\n"));
}

#[test]
fn listing_for_people() {
    let tables = [
        TableListing {
            name: TableName::new("public", "users"),
            carried: true,
            state: Some(TableState::Ready),
            replica_identity: "primary key".into(),
            bytes: 123_456_789,
            note: None,
        },
        TableListing {
            name: TableName::new("public", "log"),
            carried: false,
            state: None,
            replica_identity: "nothing".into(),
            bytes: 0,
            note: Some("left out by \"!public.log\"".into()),
        },
    ];
    golden("list-tables.txt", &listing(&tables, Paint::Plain));
}

#[test]
fn sizes_and_durations_read_well() {
    for (number, text) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 kB"),
        (1536, "1.5 kB"),
        (10 << 20, "10 MB"),
        ((1 << 20) - 1, "1023 kB"),
        (u64::MAX, "15 EB"),
    ] {
        assert_eq!(bytes(number), text);
    }
    for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(count(number), text);
    }
    for (number, text) in [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (123, "2 min 3 s"),
        (7500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
    ] {
        assert_eq!(duration(number), text);
    }
    assert_eq!(seconds(0.034), "0.03 s");
    assert_eq!(seconds(-1.0), "0.00 s");
    assert_eq!(seconds(12.9), "12 s");
}
