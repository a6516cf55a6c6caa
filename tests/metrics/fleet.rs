//! A made-up fleet: a pipeline of each sort, in each health, as a daemon would know it at one moment.

use std::sync::Arc;

use pgdiode::change::TableName;
use pgdiode::position::Lsn;
use pgdiode::status::drift::{SchemaDifference, SchemaDifferenceKind, SchemaDrift};
use pgdiode::status::fleet::{
    Duty, Fleet, Health, Instance, Overview, Pause, Problem, Run, RunState, Sample, State, Storage,
    TableSize, Verification,
};
use pgdiode::status::snapshot::{GenerationStatus, RunStatus, ScheduleStatus, SnapshotStatus};
use pgdiode::status::{
    ArchiveStatus, KeysStatus, Phase, PipelineStatus, Progress, RunningOn, SequenceStatus, SlotStatus,
    TableState, TableStatus,
};

/// Noon, when all of this was looked at.
const AT: &str = "2026-11-22T12:00:00Z";
const NOON: i64 = 1_795_348_800;

pub fn fleet() -> Fleet {
    let pipelines = [analytics(), broken(), chat(), li(), main_one(), orders()];
    Fleet { instance: instance(), pipelines: pipelines.into_iter().map(Arc::new).collect() }
}

pub fn instance() -> Instance {
    Instance {
        host: "mover-1".into(),
        process_id: 4711,
        version: "0.1.0".into(),
        started_at: "2026-11-20T08:00:00Z".into(),
        at: AT.into(),
        configured_at: "2026-11-21T09:30:00Z".into(),
        certificate_expires_at: Some("2027-02-01T00:00:00Z".into()),
    }
}

pub fn overview(name: &str, health: Health, verdict: &str) -> Overview {
    Overview {
        name: name.into(),
        mode: "stream".into(),
        source: format!("{name} at source.example:5432"),
        target: format!("{name} at target.example:5432"),
        health,
        verdict: verdict.into(),
        since: "2026-11-22T09:00:00Z".into(),
        duty: Duty::Active,
        paused: None,
        problem: None,
        progress: None,
        state: None,
        asked_at: Some("2026-11-22T11:59:57Z".into()),
        runs: Vec::new(),
        verification: None,
        storage: None,
        schema_drift: None,
        samples: Arc::new(Vec::new()),
    }
}

fn status(name: &str, phase: Phase) -> PipelineStatus {
    PipelineStatus {
        name: name.into(),
        mode: "stream".into(),
        phase,
        doing: None,
        running_on: Some(RunningOn {
            host: "mover-1".into(),
            process_id: 4711,
            since: "2026-11-20T08:00:01Z".into(),
        }),
        source: format!("{name} at source.example:5432"),
        target: format!("{name} at target.example:5432"),
        position: None,
        source_position: None,
        lag_bytes: None,
        lag_seconds: None,
        slot: None,
        archive: None,
        keys: None,
        tables: Vec::new(),
        sequences: SequenceStatus::default(),
        last_error: None,
        hint: None,
        retries: 0,
        retry_at: None,
        notes: Vec::new(),
    }
}

pub fn table(name: &str, state: TableState, inserts: u64) -> TableStatus {
    TableStatus {
        name: TableName::new("public", name),
        state,
        reason: None,
        remedy: None,
        rows_copied: 1000,
        bytes_copied: 64_000,
        bytes_total: None,
        inserts,
        updates: inserts / 2,
        deletes: inserts / 10,
        conflicts: 0,
        skipped: 0,
    }
}

/// With these tables, and nothing else to say.
pub fn streaming(name: &str, tables: Vec<TableStatus>) -> Overview {
    let mut streaming = status(name, Phase::Streaming);
    (streaming.lag_bytes, streaming.lag_seconds, streaming.tables) = (Some(0), Some(0.0), tables);
    Overview {
        state: Some(State::Stream(Box::new(streaming))),
        ..overview(name, Health::Healthy, "0 s behind")
    }
}

/// It streams, was compared yesterday, and its volume fills.
fn main_one() -> Overview {
    let mut streaming = status("main", Phase::Streaming);
    streaming.position = Some(Lsn(0x16_B374_D848));
    streaming.source_position = Some(Lsn(0x16_B374_E000));
    (streaming.lag_bytes, streaming.lag_seconds) = (Some(1976), Some(0.4));
    streaming.slot = Some(SlotStatus {
        name: "pgdiode_main".into(),
        active: true,
        wal_held_bytes: 48_234_496,
        wal_budget_bytes: 10_737_418_240,
        budget_reached_in_seconds: Some(604_800),
        wal_status: Some("reserved".into()),
        safe_wal_bytes: Some(52_428_800),
    });
    streaming.tables = vec![
        table("customers", TableState::Ready, 120),
        table("order\"s \\ drafts", TableState::Ready, 34_000),
    ];
    streaming.tables[1].skipped = 2;
    Overview {
        state: Some(State::Stream(Box::new(streaming))),
        progress: Some(Progress {
            phase: Phase::Streaming,
            transactions: 90_210,
            changes: 412_345,
            changes_per_second: 320,
            ..Progress::default()
        }),
        verification: Some(Verification {
            at: "2026-11-21T03:10:00Z".into(),
            identical: true,
            tables: 2,
            tables_different: 0,
            seconds: 12.5,
            of_tables: Vec::new(),
        }),
        storage: Some(Storage {
            database_bytes: 64_424_509_440,
            volume_bytes: Some(107_374_182_400),
            growth_bytes_per_day: Some(536_870_912.5),
            days_until_70: Some(20.0),
            days_until_85: Some(50.0),
            days_until_95: Some(70.0),
            tables: vec![
                TableSize { name: "public.events".into(), bytes: 32_212_254_720, rows: 40_000_000 },
                TableSize { name: "public.customers".into(), bytes: 1_048_576, rows: 1200 },
            ],
        }),
        schema_drift: Some(SchemaDrift {
            at: "2026-11-22T11:52:00Z".into(),
            tables: 2,
            tables_different: 1,
            differences: vec![SchemaDifference {
                table: "public.events".into(),
                kind: SchemaDifferenceKind::IndexMissing,
                object: Some("events_at".into()),
                source: Some("CREATE INDEX ON public.events USING btree (at)".into()),
                target: None,
                remedy: "at the target".into(),
                sql: Some("CREATE INDEX events_at ON public.events USING btree (at);".into()),
            }],
            left_out: 0,
        }),
        samples: Arc::new(samples()),
        ..overview("main", Health::Healthy, "0.40 s behind, identical when compared on 2026-11-21")
    }
}

/// Of the last two hours, one a minute: a hill in the middle.
fn samples() -> Vec<Sample> {
    (0_i64..120)
        .map(|minute| {
            let hill = u64::try_from(60 - (minute - 60).abs()).unwrap();
            Sample {
                at: NOON - (120 - minute) * 60,
                lag_bytes: Some(hill * 4096),
                lag_seconds: Some(f64::from(u32::try_from(hill).unwrap())),
                changes_per_second: Some(300 + hill),
                database_bytes: Some(64_000_000_000),
            }
        })
        .collect()
}

/// Its first copy.
fn analytics() -> Overview {
    let mut copying = status("analytics", Phase::Copying);
    copying.tables = vec![table("events", TableState::Copying, 0), table("visits", TableState::Pending, 0)];
    copying.tables[0].bytes_total = Some(9_000_000);
    Overview {
        state: Some(State::Stream(Box::new(copying))),
        progress: Some(Progress {
            phase: Phase::Copying,
            doing: "copying rows".into(),
            tables_total: 2,
            rows: 51_000,
            bytes: 4_000_000,
            bytes_total: 9_000_000,
            bytes_per_second: 1_000_000,
            eta_seconds: Some(5),
            current: vec!["public.events".into()],
            ..Progress::default()
        }),
        ..overview("analytics", Health::Working, "copying, 44 % of 8.5 MB, 5 s to go")
    }
}

/// Its target could never be asked.
fn broken() -> Overview {
    Overview {
        duty: Duty::Idle,
        asked_at: None,
        problem: Some(Problem {
            what: "cannot connect to target.example:5432: connection refused".into(),
            hint: Some("is the server running, and does it listen there?".into()),
            exit_status: 7,
            at: "2026-11-22T11:59:30Z".into(),
            retry_at: Some("2026-11-22T12:00:30Z".into()),
        }),
        ..overview("broken", Health::Failed, "the target cannot be reached")
    }
}

/// Keys of a Redis server, paused by somebody.
fn chat() -> Overview {
    let mut paused = status("chat", Phase::Paused);
    paused.running_on = None;
    paused.keys = Some(KeysStatus {
        present: 1834,
        gone: 12,
        misfits: 1,
        history: Some("8f2c1d".into()),
        offset: 734_003,
        source_offset: Some(734_100),
        is_scanned: true,
        nodes: Vec::new(),
    });
    Overview {
        duty: Duty::Standby,
        paused: Some(Pause {
            actor: "eva".into(),
            reason: Some("the server moves".into()),
            since: "2026-11-22T08:00:00Z".into(),
        }),
        state: Some(State::Stream(Box::new(paused))),
        ..overview("chat", Health::Paused, "paused by eva since 08:00: the server moves")
    }
}

/// A replica that is replaced every six hours; the last time it was not.
fn li() -> Overview {
    let run = |id, verb: &str, verdict: &str, ended: &str, seconds| RunStatus {
        id,
        verb: verb.into(),
        verdict: verdict.into(),
        phase: None,
        started: "2026-11-22T06:00:00Z".into(),
        ended: Some(ended.into()),
        seconds,
        actor: "root@mover-1".into(),
        reason: None,
        error: (verdict != "done").then(|| "3 orphans in public.orders".into()),
        hint: None,
        bytes: Some(1_073_741_824),
        rows: Some(7_200_000),
        generation: None,
        position: None,
        discarded: Vec::new(),
        phases: Vec::new(),
    };
    let runs = vec![
        run(9, "rollback", "done", "2026-11-22T10:00:00Z", 0.2),
        run(8, "sync", "not promoted", "2026-11-22T06:04:10Z", 250.0),
        run(7, "sync", "done", "2026-11-22T00:04:00Z", 240.0),
    ];
    let status = SnapshotStatus {
        name: "li".into(),
        mode: "snapshot".into(),
        source: "li at source.example:5432".into(),
        target: "li at target.example:5432".into(),
        serving: Some(GenerationStatus {
            number: 7,
            state: "serving".into(),
            database: "li".into(),
            taken_at: Some("2026-11-22T00:00:10Z".into()),
            age_seconds: Some(43_187),
            position: Some("16/B3000000".into()),
            run: Some(7),
            bytes: Some(1_073_741_824),
            schemas: Vec::new(),
        }),
        running: None,
        schedule: Some(ScheduleStatus {
            expression: "0 */6 * * *".into(),
            time_zone: "UTC".into(),
            next_run: Some("2026-11-22T18:00:00Z".into()),
            next_run_local: Some("2026-11-22T18:00:00+00:00".into()),
        }),
        kept_by: Vec::new(),
        last_run: runs.first().cloned(),
        runs,
        runs_done: 41,
        runs_failed: 2,
    };
    Overview {
        mode: "snapshot".into(),
        state: Some(State::Snapshot(Box::new(status))),
        runs: vec![under_way()],
        ..overview("li", Health::Attention, "12 h old; the last sync was not promoted")
    }
}

fn under_way() -> Run {
    Run {
        id: "01JD5".into(),
        pipeline: "li".into(),
        verb: "sync".into(),
        subject: Vec::new(),
        by: "console".into(),
        actor: "eva".into(),
        reason: Some("after the repair".into()),
        state: RunState::Running,
        started_at: "2026-11-22T11:58:00Z".into(),
        ended_at: None,
        seconds: 120.0,
        progress: Some(Progress {
            phase: Phase::Copying,
            doing: "copying rows".into(),
            bytes: 500,
            bytes_total: 1000,
            ..Progress::default()
        }),
        error: None,
        result: None,
        log: Vec::new(),
    }
}

/// Fed from an archive; one table stands still, and the connection breaks again and again.
fn orders() -> Overview {
    let mut retrying = status("orders", Phase::Retrying);
    (retrying.retries, retrying.retry_at) = (4, Some("2026-11-22T12:00:08Z".into()));
    retrying.last_error = Some("the archive cannot be read: connection reset".into());
    (retrying.lag_bytes, retrying.lag_seconds) = (Some(8_388_608), Some(754.25));
    retrying.archive = Some(ArchiveStatus {
        archive: "a7".into(),
        file: Some(118),
        last_file: Some(121),
        last_file_sealed_at: Some("2026-11-22T11:40:00Z".into()),
        files_behind: Some(3),
        last_commit_at: Some("2026-11-22T11:30:00Z".into()),
    });
    let mut lines = table("lines", TableState::Quarantined, 88);
    lines.reason = Some("column \"price\" became text".into());
    lines.remedy = Some("pgdiode resync public.lines".into());
    (lines.conflicts, lines.skipped) = (3, 1);
    retrying.tables = vec![lines, table("orders", TableState::Ready, 5210)];
    Overview {
        state: Some(State::Stream(Box::new(retrying))),
        problem: Some(Problem {
            what: "the archive cannot be read: connection reset".into(),
            hint: Some("nothing to do if it comes back: it is tried again".into()),
            exit_status: 6,
            at: "2026-11-22T11:59:55Z".into(),
            retry_at: Some("2026-11-22T12:00:08Z".into()),
        }),
        verification: Some(Verification {
            at: "2026-11-15T12:00:00Z".into(),
            identical: false,
            tables: 2,
            tables_different: 1,
            seconds: 3.25,
            of_tables: Vec::new(),
        }),
        ..overview("orders", Health::Attention, "12 min 34 s behind, 1 table quarantined, trying again")
    }
}
