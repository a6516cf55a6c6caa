//! A fleet in every state there is, made up, at one fixed moment.

// Sizes and waves of made-up data.
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]

use std::sync::Arc;

use pgdiode::audit::{Broken, Damage, Head, Record, Report};
use pgdiode::change::TableName;
use pgdiode::http::console::{Certificate, Section, SettingsPage, Viewer};
use pgdiode::position::Lsn;
use pgdiode::status::drift::{SchemaDifference, SchemaDifferenceKind, SchemaDrift};
use pgdiode::status::fleet::{
    Duty, Fleet, Health, Instance, LogLine, Overview, Pause, Problem, Run, RunState, Sample, State, Storage,
    TableSize, Verification, VerifiedTable,
};
use pgdiode::status::snapshot::{
    Discarded, GenerationStatus, PhaseTime, RunStatus, ScheduleStatus, SnapshotStatus,
};
use pgdiode::status::{
    ArchiveStatus, KeysStatus, Phase, PipelineStatus, Progress, RunningOn, SequenceStatus, SlotStatus,
    TableState, TableStatus,
};

/// 22 November 2026, 05:12:26 UTC.
pub const NOW: i64 = 1_795_324_346;
pub const HOSTILE: &str = "<script>alert(1)</script>\" onload='x' {{ 7 }} & \u{202e}moc";

const GB: u64 = 1 << 30;
const MB: u64 = 1 << 20;

pub fn at(seconds_ago: i64) -> String {
    jiff::Timestamp::from_second(NOW - seconds_ago).unwrap().to_string()
}

pub fn viewer() -> Viewer {
    Viewer {
        name: "ana.ruiz".into(),
        may_act: true,
        may_audit: true,
        csrf: "c5b1d0e7".into(),
        form_key: "8f2a".into(),
        may_sign_out: true,
        ..Viewer::default()
    }
}

pub fn instance() -> Instance {
    Instance {
        host: "replica-1.internal".into(),
        process_id: 4711,
        version: "0.1.0".into(),
        started_at: at(9 * 86_400 + 3_700),
        at: at(0),
        configured_at: at(2 * 86_400),
        certificate_expires_at: None,
    }
}

fn fleet_of(pipelines: Vec<Overview>) -> Fleet {
    let mut pipelines: Vec<Arc<Overview>> = pipelines.into_iter().map(Arc::new).collect();
    pipelines.sort_by(|a, b| a.name.cmp(&b.name));
    Fleet { instance: instance(), pipelines }
}

pub fn rich() -> Fleet {
    fleet_of(vec![orders(), billing(), matrix(), nightly(), sessions(), ledger(), warehouse(), reports()])
}

/// With names that want to be markup.
pub fn with_hostile() -> Fleet {
    fleet_of(vec![orders(), billing(), hostile()])
}

pub fn healthy() -> Fleet {
    let mut found = vec![orders()];
    for (name, lag) in [("customers", 0.08), ("payments", 0.12), ("search", 0.05)] {
        let mut one = orders();
        one.name = name.into();
        if let Some(State::Stream(status)) = &mut one.state {
            status.lag_seconds = Some(lag);
        }
        if let Some(progress) = &mut one.progress {
            progress.lag_seconds = Some(lag);
        }
        found.push(one);
    }
    fleet_of(found)
}

pub fn large() -> Fleet {
    let mut found = Vec::new();
    for index in 0..200 {
        let mut one = match index % 20 {
            3 => billing(),
            7 => nightly(),
            11 => reports(),
            _ => orders(),
        };
        one.name = format!("tenant-{index:03}");
        found.push(one);
    }
    fleet_of(found)
}

/// The first of the large fleet, failing ones among them.
pub fn first(number: usize) -> Fleet {
    let mut fleet = large();
    fleet.pipelines.truncate(number);
    fleet
}

pub fn named<'a>(fleet: &'a Fleet, name: &str) -> &'a Overview {
    fleet.pipelines.iter().find(|one| one.name == name).unwrap()
}

/// A wave with a peak and a hole: nothing was measured while the process was away.
fn samples(scale: f64, rate: f64, size: u64) -> Arc<Vec<Sample>> {
    let every = 60;
    let measured = (0..1440).filter(|index| !(610..660).contains(index)).map(|index: i64| {
        let phase = f64::from(i32::try_from(index).unwrap()) / 90.0;
        let wave = 1.0 + 0.45 * phase.sin() + 0.25 * (phase * 7.3).cos();
        let peak = if (980..1010).contains(&index) { 6.0 } else { 1.0 };
        let whole = |value: f64| value as u64;
        Sample {
            at: NOW - (1440 - index) * every,
            lag_bytes: Some(whole(scale * wave * peak * 40_000.0)),
            lag_seconds: Some(scale * wave * peak),
            changes_per_second: Some(whole(rate * wave)),
            database_bytes: Some(size - size / 400 + size / 400 * u64::try_from(index).unwrap() / 1440),
        }
    });
    Arc::new(measured.collect())
}

fn base(name: &str, mode: &str, source: &str, target: &str) -> Overview {
    Overview {
        name: name.into(),
        mode: mode.into(),
        source: source.into(),
        target: target.into(),
        health: Health::Healthy,
        verdict: "It streams and is 0.38 s behind.".into(),
        since: at(3 * 86_400 + 4 * 3600),
        duty: Duty::Active,
        paused: None,
        problem: None,
        progress: None,
        state: None,
        asked_at: Some(at(3)),
        runs: Vec::new(),
        verification: None,
        storage: None,
        schema_drift: None,
        samples: Arc::new(Vec::new()),
    }
}

fn table(schema: &str, name: &str, rows: u64) -> TableStatus {
    TableStatus {
        name: TableName::new(schema, name),
        state: TableState::Ready,
        reason: None,
        remedy: None,
        rows_copied: rows,
        bytes_copied: rows * 143,
        bytes_total: None,
        inserts: rows / 7,
        updates: rows / 11,
        deletes: rows / 97,
        conflicts: 0,
        skipped: 0,
    }
}

fn stream(of: &Overview, phase: Phase, lag: f64) -> PipelineStatus {
    PipelineStatus {
        name: of.name.clone(),
        mode: of.mode.clone(),
        phase,
        doing: None,
        running_on: Some(RunningOn {
            host: "replica-1.internal".into(),
            process_id: 4711,
            since: at(275_000),
        }),
        source: of.source.clone(),
        target: of.target.clone(),
        position: Some(Lsn(0x16_B374_D848)),
        source_position: Some(Lsn(0x16_B375_1F20)),
        lag_bytes: Some(18_136),
        lag_seconds: Some(lag),
        slot: Some(SlotStatus {
            name: format!("pgdiode_{}", of.name),
            active: true,
            wal_held_bytes: 212 * MB,
            wal_budget_bytes: 10 * GB,
            budget_reached_in_seconds: None,
            wal_status: Some("reserved".into()),
            safe_wal_bytes: Some(48 * 1_073_741_824),
        }),
        archive: None,
        keys: None,
        tables: vec![
            table("public", "orders", 18_402_118),
            table("public", "order_lines", 74_118_903),
            table("public", "customers", 2_118_440),
            table("public", "addresses", 2_790_012),
            table("catalogue", "products", 48_220),
            table("catalogue", "prices", 391_004),
        ],
        sequences: SequenceStatus { carried: 14, carried_at: Some(at(40)) },
        last_error: None,
        hint: None,
        retries: 0,
        retry_at: None,
        notes: vec![],
    }
}

fn progress(lag: f64) -> Progress {
    Progress {
        phase: Phase::Streaming,
        lag_bytes: Some(18_136),
        lag_seconds: Some(lag),
        transactions: 81_440_112,
        changes: 412_008_331,
        changes_per_second: 1_284,
        position: Some(Lsn(0x16_B374_D848)),
        ..Progress::default()
    }
}

fn verification(different: u64) -> Verification {
    let of = |name: &str, rows: u64, differences: u64| VerifiedTable {
        name: name.into(),
        at: at(2 * 3600),
        identical: differences == 0,
        rows_source: rows,
        rows_target: rows - differences,
        differences,
    };
    Verification {
        at: at(2 * 3600),
        identical: different == 0,
        tables: 6,
        tables_different: different,
        seconds: 74.2,
        of_tables: vec![
            of("public.orders", 21_031_006, 0),
            of("public.order_lines", 84_707_318, if different > 0 { 17 } else { 0 }),
            of("public.customers", 2_421_074, 0),
        ],
    }
}

fn storage(bytes: u64, volume: u64, growth: f64) -> Storage {
    let days = |share: f64| {
        let left = volume as f64 * share - bytes as f64;
        Some((left / growth).max(0.0))
    };
    Storage {
        database_bytes: bytes,
        volume_bytes: Some(volume),
        growth_bytes_per_day: Some(growth),
        days_until_70: days(0.7),
        days_until_85: days(0.85),
        days_until_95: days(0.95),
        tables: vec![
            TableSize { name: "public.order_lines".into(), bytes: bytes / 2, rows: 84_700_000 },
            TableSize { name: "public.orders".into(), bytes: bytes / 4, rows: 21_000_000 },
            TableSize { name: "public.customers".into(), bytes: bytes / 31, rows: 2_400_000 },
        ],
    }
}

pub fn orders() -> Overview {
    let mut one =
        base("orders", "stream", "postgresql://main-db:5432/shop", "postgresql://replica:5432/shop");
    one.progress = Some(progress(0.38));
    one.state = Some(State::Stream(Box::new(stream(&one, Phase::Streaming, 0.38))));
    one.verification = Some(verification(0));
    one.samples = samples(0.38, 1200.0, 61 * GB);
    one.storage = Some(storage(61 * GB, 100 * GB, 0.21 * GB as f64));
    one.schema_drift = Some(alike());
    one.runs = vec![ended_run("verify", RunState::Done, 2 * 3600)];
    one
}

/// It failed, and is not tried again.
pub fn billing() -> Overview {
    let mut one = base(
        "billing",
        "stream",
        "postgresql://billing-db:5432/billing",
        "postgresql://replica:5432/billing",
    );
    one.health = Health::Failed;
    one.verdict = "It stopped: the source has discarded write-ahead log that the replica still needs.".into();
    one.since = at(47 * 60);
    one.duty = Duty::Idle;
    one.problem = Some(Problem {
        what: "slot \"pgdiode_billing\" was invalidated: its write-ahead log exceeded max_slot_wal_keep_size".into(),
        hint: Some("Raise max_slot_wal_keep_size at the source, then: pgdiode reset --drop-slot billing && pgdiode start billing".into()),
        exit_status: 3,
        at: at(47 * 60),
        retry_at: None,
    });
    let mut status = stream(&one, Phase::Failed, 2_880.0);
    status.slot = Some(SlotStatus {
        name: "pgdiode_billing".into(),
        active: false,
        wal_held_bytes: 14 * GB,
        wal_budget_bytes: 10 * GB,
        budget_reached_in_seconds: Some(0),
        wal_status: Some("lost".into()),
        safe_wal_bytes: Some(-1),
    });
    one.state = Some(State::Stream(Box::new(status)));
    one.samples = samples(400.0, 90.0, 12 * GB);
    one.verification = Some(verification(1));
    one
}

/// It streams, with quarantined tables and a retry behind it.
pub fn matrix() -> Overview {
    let mut one = base(
        "synapse",
        "stream",
        "postgresql://matrix-db:5432/synapse",
        "postgresql://replica:5432/synapse_li",
    );
    one.health = Health::Attention;
    one.verdict = "2 tables are quarantined; the others are 1.90 s behind.".into();
    one.since = at(5 * 3600 + 120);
    let mut status = stream(&one, Phase::Streaming, 1.9);
    status.retries = 2;
    status.retry_at = Some(at(-45));
    for (name, reason, remedy) in [
        (
            "event_json",
            "column \"json\" became jsonb at the source, which the target's text cannot take",
            "alter table public.event_json alter column json type jsonb using json::jsonb; then resync",
        ),
        ("device_inbox", "it has no primary key and its replica identity is nothing", "resync"),
    ] {
        let mut broken = table("public", name, 8_120_448);
        broken.state = TableState::Quarantined;
        broken.reason = Some(reason.into());
        broken.remedy = Some(remedy.into());
        broken.skipped = 31;
        broken.conflicts = 4;
        status.tables.push(broken);
    }
    let mut copying = table("public", "state_groups_state", 190_118_220);
    copying.state = TableState::Copying;
    copying.bytes_total = Some(41 * GB);
    status.tables.push(copying);
    status.notes = vec![
        "A row of public.profiles was overwritten by a later insert with the same key.".into(),
        "The index \"events_order_room\" was left out: its collation does not exist at the target.".into(),
    ];
    one.progress = Some(progress(1.9));
    one.state = Some(State::Stream(Box::new(status)));
    one.samples = samples(1.9, 410.0, 240 * GB);
    one.storage = Some(storage(240 * GB, 300 * GB, 1.6 * GB as f64));
    one.schema_drift = Some(drifted());
    one.runs = vec![running_run(), ended_run("resync", RunState::Failed, 9_000)];
    one
}

fn kept_run(id: i64, verdict: &str, seconds: f64) -> RunStatus {
    let started = (40 - id) * 6 * 3600 + 1_500;
    RunStatus {
        id,
        verb: "sync".into(),
        verdict: verdict.into(),
        phase: Some("swapping".into()),
        started: at(started),
        ended: Some(at(started - 600)),
        seconds,
        actor: if id % 7 == 0 { "ana.ruiz".into() } else { "schedule".into() },
        reason: (id % 7 == 0).then(|| "Fresh copy for the quarter's report".into()),
        error: (verdict == "failed")
            .then(|| "the source closed the connection while copying public.events".into()),
        hint: (verdict == "failed").then(|| "See the source's log; the next run starts anew.".into()),
        bytes: Some(31 * GB + 90 * MB * u64::try_from(id).unwrap()),
        rows: Some(214_400_118),
        generation: (verdict == "done").then_some(id),
        position: Some("16/B374D848".into()),
        discarded: if id == 39 {
            vec![Discarded {
                object: "table public.users".into(),
                what: "rows".into(),
                rows_written: 3,
                rows_gone: 1,
            }]
        } else {
            Vec::new()
        },
        phases: phases(seconds),
    }
}

fn phases(seconds: f64) -> Vec<PhaseTime> {
    let parts =
        [("starting", 0.01), ("exporting", 0.04), ("copying", 0.62), ("analyzing", 0.12), ("checking", 0.2)];
    let rest = [("swapping", 0.01)];
    let of = |(phase, share): (&str, f64)| PhaseTime { phase: phase.into(), seconds: seconds * share };
    parts.into_iter().chain(rest).map(of).collect()
}

fn alike() -> SchemaDrift {
    SchemaDrift { at: at(250), tables: 6, tables_different: 0, differences: Vec::new(), left_out: 0 }
}

fn drifted() -> SchemaDrift {
    use SchemaDifferenceKind as Kind;
    const SENDER: &str = "FOREIGN KEY (sender) REFERENCES public.users(name)";
    const ORDER: &str =
        "public.events USING btree (room_id, topological_ordering, stream_ordering) WHERE (NOT outlier)";
    let of =
        |table: &str, kind, object: &str, (source, target): (&str, &str), (remedy, sql): (&str, String)| {
            let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            SchemaDifference {
                table: format!("public.{table}"),
                kind,
                object: some(object),
                source: some(source),
                target: some(target),
                remedy: remedy.into(),
                sql: Some(sql),
            }
        };
    let at_target = "at the target";
    let identity = "alter table public.device_inbox replica identity full; -- or give it a primary key: full logs the \
                    whole old row with each UPDATE and DELETE";
    let retype = "alter table public.event_json alter column json type jsonb;";
    let constrain = format!("alter table public.events add constraint events_sender_fkey {SENDER};");
    let added = "the table's next change brings it, where changes of the schema are followed; else at the target, before \
                 pgdiode resync 'public.receipts'";
    let own = "nothing, where it is the replica's own; if the source has dropped it and nobody needs it, at the target";
    let column = "alter table public.receipts add column thread_id character varying(255);";
    let differences = vec![
        of("device_inbox", Kind::ReplicaIdentity, "", ("", ""), ("at the source", identity.into())),
        of(
            "event_json",
            Kind::ColumnDiffers,
            "json",
            ("jsonb not null", "text not null"),
            ("at the target, before pgdiode resync 'public.event_json'", retype.into()),
        ),
        of("events", Kind::ConstraintMissing, "events_sender_fkey", (SENDER, ""), (at_target, constrain)),
        of(
            "events",
            Kind::IndexMissing,
            "events_order_room",
            (&format!("CREATE INDEX ON {ORDER}"), ""),
            (at_target, format!("CREATE INDEX events_order_room ON {ORDER};")),
        ),
        of(
            "receipts",
            Kind::ColumnMissing,
            "thread_id",
            ("character varying(255)", ""),
            (added, column.into()),
        ),
        of(
            "receipts",
            Kind::ColumnAdded,
            "reviewed_by",
            ("", "text"),
            (own, "alter table public.receipts drop column reviewed_by;".into()),
        ),
    ];
    SchemaDrift { at: at(250), tables: 7, tables_different: 4, differences, left_out: 0 }
}

pub fn generations() -> Vec<GenerationStatus> {
    [(39, "serving", 1_500), (38, "kept", 23_100), (36, "kept", 66_300)]
        .map(|(number, state, age)| GenerationStatus {
            number,
            state: state.into(),
            database: if state == "serving" { "analytics".into() } else { format!("analytics_g{number}") },
            taken_at: Some(at(age)),
            age_seconds: Some(age.unsigned_abs()),
            position: Some("16/B374D848".into()),
            run: Some(number),
            bytes: (number != 36).then_some(34 * GB),
            schemas: Vec::new(),
        })
        .to_vec()
}

pub fn nightly() -> Overview {
    let mut one = base(
        "analytics",
        "snapshot",
        "postgresql://main-db:5432/analytics",
        "postgresql://replica:5432/analytics",
    );
    one.verdict = "Generation 39 is 25 min old; the next sync is due in 5 h.".into();
    let runs: Vec<RunStatus> = (14..40)
        .rev()
        .map(|id| match id {
            22 => kept_run(id, "failed", 212.0),
            31 => kept_run(id, "not promoted", 640.0),
            _ => kept_run(id, "done", 540.0 + 17.0 * f64::from(i32::try_from(id % 9).unwrap())),
        })
        .collect();
    one.state = Some(State::Snapshot(Box::new(SnapshotStatus {
        name: one.name.clone(),
        mode: "snapshot".into(),
        source: one.source.clone(),
        target: one.target.clone(),
        serving: generations().into_iter().next(),
        running: None,
        schedule: Some(ScheduleStatus {
            expression: "0 */6 * * *".into(),
            time_zone: "Europe/Madrid".into(),
            next_run: Some(at(-17_254)),
            next_run_local: Some("2026-11-22 11:00".into()),
        }),
        kept_by: vec![RunningOn { host: "replica-1.internal".into(), process_id: 4711, since: at(275_000) }],
        last_run: runs.first().cloned(),
        runs,
        runs_done: 211,
        runs_failed: 4,
    })));
    one.storage = Some(storage(68 * GB, 200 * GB, 0.09 * GB as f64));
    one
}

pub fn sessions() -> Overview {
    let mut one = base("sessions", "stream", "redis://cache-db:6379/0", "postgresql://replica:5432/sessions");
    one.verdict = "It follows the server and is 0.04 s behind.".into();
    let mut status = stream(&one, Phase::Streaming, 0.04);
    status.slot = None;
    status.position = None;
    status.source_position = None;
    status.tables = vec![table("public", "session", 88_120)];
    status.keys = Some(KeysStatus {
        present: 88_120,
        gone: 1_204,
        misfits: 12,
        history: Some("8ca4f0a1b6d54e0d9f5c2f4b7d1c5a3e9f0b2c4d".into()),
        offset: 1_220_445_118,
        source_offset: Some(1_220_446_002),
        is_scanned: true,
        nodes: Vec::new(),
    });
    one.state = Some(State::Stream(Box::new(status)));
    one.samples = samples(0.04, 300.0, GB);
    one
}

pub fn ledger() -> Overview {
    let mut one = base("ledger", "stream", "archive sftp://vault/ledger", "postgresql://dr-db:5432/ledger");
    one.health = Health::Working;
    one.verdict = "It reads the archive: 14 files behind.".into();
    let mut status = stream(&one, Phase::CatchingUp, 0.0);
    status.slot = None;
    status.lag_seconds = None;
    status.lag_bytes = None;
    status.doing = Some("reading file 2,204".into());
    status.archive = Some(ArchiveStatus {
        archive: "01970b5e-8d5f-7c33-9d3e-2f1b8c1f4a77".into(),
        file: Some(2203),
        last_file: Some(2217),
        last_file_sealed_at: Some(at(61)),
        files_behind: Some(14),
        last_commit_at: Some(at(905)),
    });
    one.state = Some(State::Stream(Box::new(status)));
    one
}

pub fn warehouse() -> Overview {
    let mut one = base("warehouse", "stream", "postgresql://erp:5432/wms", "postgresql://replica:5432/wms");
    one.health = Health::Paused;
    one.verdict = "Paused by Tomás Ibáñez while the target is upgraded.".into();
    one.since = at(5_400);
    one.duty = Duty::Idle;
    one.paused = Some(Pause {
        actor: "tomas".into(),
        reason: Some("PostgreSQL of the target is upgraded, change 4412".into()),
        since: at(5_400),
    });
    one.state = Some(State::Stream(Box::new(stream(&one, Phase::Paused, 5_412.0))));
    one.samples = samples(900.0, 0.0, 9 * GB);
    one
}

/// A sync is under way, and nothing serves yet.
pub fn reports() -> Overview {
    let mut one =
        base("reports", "snapshot", "postgresql://main-db:5432/reports", "postgresql://replica:5432/reports");
    one.health = Health::Working;
    one.verdict = "The first sync is under way: copying, 62 % of about 41 GB.".into();
    one.since = at(840);
    let mut running = kept_run(35, "running", 840.0);
    running.phase = Some("copying".into());
    running.ended = None;
    one.state = Some(State::Snapshot(Box::new(SnapshotStatus {
        name: one.name.clone(),
        mode: "snapshot".into(),
        source: one.source.clone(),
        target: one.target.clone(),
        serving: None,
        running: Some(running),
        schedule: None,
        kept_by: Vec::new(),
        last_run: None,
        runs: Vec::new(),
        runs_done: 0,
        runs_failed: 0,
    })));
    let mut run = running_run();
    run.pipeline = "reports".into();
    one.runs = vec![run];
    one
}

/// Names that want to be markup, and a state that could not be asked.
pub fn hostile() -> Overview {
    let mut one = base(HOSTILE, "stream", HOSTILE, HOSTILE);
    one.health = Health::Attention;
    one.verdict = HOSTILE.into();
    one.since = HOSTILE.into();
    one.paused = Some(Pause { actor: HOSTILE.into(), reason: Some(HOSTILE.into()), since: HOSTILE.into() });
    one.problem = Some(Problem {
        what: format!("{HOSTILE}\nsecond line"),
        hint: Some(HOSTILE.into()),
        exit_status: 7,
        at: HOSTILE.into(),
        retry_at: Some(HOSTILE.into()),
    });
    let mut status = stream(&one, Phase::Retrying, 3.0);
    for table in &mut status.tables {
        table.name.name = format!("{HOSTILE}{}", table.name.name);
    }
    status.tables[0].state = TableState::Quarantined;
    status.tables[0].reason = Some(HOSTILE.into());
    status.tables[0].remedy = Some(HOSTILE.into());
    status.notes = vec![HOSTILE.into()];
    status.doing = Some(HOSTILE.into());
    if let Some(slot) = &mut status.slot {
        slot.name = HOSTILE.into();
    }
    one.state = Some(State::Stream(Box::new(status)));
    let mut storage = storage(GB, 10 * GB, 1e6);
    storage.tables[0].name = HOSTILE.into();
    one.storage = Some(storage);
    let mut verification = verification(1);
    verification.of_tables[0].name = HOSTILE.into();
    one.verification = Some(verification);
    let mut run = ended_run(HOSTILE, RunState::Failed, 60);
    run.id = HOSTILE.into();
    run.subject = vec![HOSTILE.into()];
    run.actor = HOSTILE.into();
    run.reason = Some(HOSTILE.into());
    run.log = vec![LogLine { at: at(60), text: HOSTILE.into() }];
    run.result = Some(serde_json::json!({ HOSTILE: HOSTILE }));
    one.runs = vec![run];
    one
}

pub fn running_run() -> Run {
    Run {
        id: "01970b61-77aa-7d10-a1b2-6a0d5f3c1e11".into(),
        pipeline: "synapse".into(),
        verb: "sync".into(),
        subject: vec![],
        by: "console".into(),
        actor: "ana.ruiz".into(),
        reason: Some("Case 2207 needs today's rooms".into()),
        state: RunState::Running,
        started_at: at(840),
        ended_at: None,
        seconds: 840.0,
        progress: Some(Progress {
            phase: Phase::Copying,
            doing: "copying".into(),
            tables_done: 131,
            tables_total: 214,
            rows: 148_220_310,
            bytes: 25 * GB + 420 * MB,
            bytes_total: 41 * GB,
            bytes_per_second: 48 * MB,
            eta_seconds: Some(332),
            current: vec!["public.event_json".into(), "public.state_groups_state".into()],
            ..Progress::default()
        }),
        error: None,
        result: None,
        log: (0..14)
            .map(|index| LogLine {
                at: at(840 - index * 58),
                text: format!("copied public.events_{index:02}: {} rows", 1_204_118 + index * 77_121),
            })
            .collect(),
    }
}

pub fn ended_run(verb: &str, state: RunState, ago: i64) -> Run {
    let mut run = running_run();
    run.id = format!("01970b61-0000-7d10-a1b2-{ago:012}");
    run.verb = verb.into();
    run.state = state;
    run.started_at = at(ago);
    run.ended_at = Some(at(ago - 74));
    run.seconds = 74.2;
    run.progress = None;
    if state == RunState::Failed {
        run.error = Some(Problem {
            what: "table public.event_json: the target is out of disk space".into(),
            hint: Some("Free space on the target's volume, then resync again.".into()),
            exit_status: 8,
            at: at(ago - 74),
            retry_at: None,
        });
    } else {
        run.result = Some(serde_json::json!({
            "identical": true, "lsn": "16/B374D848", "seconds": 74.2, "rows": 108_159_398_u64, "tables": [{"name": "public.orders"}]
        }));
    }
    run
}

pub fn records() -> Vec<Record> {
    (1..=40)
        .map(|number| {
            let action =
                ["start", "sync", "swap", "resync", "rollback"][usize::try_from(number).unwrap() % 5];
            let mut record = Record {
                number,
                at: at((41 - number) * 5_000),
                pipeline: if number % 3 == 0 { "analytics".into() } else { "orders".into() },
                os_user: if number % 4 == 0 { "ana.ruiz".into() } else { "pgdiode".into() },
                host: "replica-1.internal".into(),
                role: "pgdiode_owner".into(),
                action: action.into(),
                reason: (number % 4 == 0).then(|| "Fresh copy for the quarter's report".into()),
                verdict: if number % 11 == 0 {
                    "failed".into()
                } else if number % 2 == 0 {
                    "done".into()
                } else {
                    "begun".into()
                },
                details: serde_json::value::RawValue::from_string(format!(
                    "{{\"run\": {number}, \"what\": \"<b>\"}}"
                ))
                .unwrap(),
                previous_hash: format!("{:064x}", number - 1),
                hash: String::new(),
            };
            record.hash = record.computed_hash();
            record
        })
        .collect()
}

pub fn report(intact: bool) -> Report {
    Report {
        intact,
        entries: if intact { 40 } else { 23 },
        head: Some(Head { number: 40, hash: "9f".repeat(32) }),
        broken: (!intact).then(|| Broken {
            number: 24,
            damage: Damage::Edited,
            why: "the entry is not what was written".into(),
        }),
        checkpoints: None,
    }
}

pub fn settings_page() -> SettingsPage {
    let section = |title: &str, values: &[(&str, &str)]| Section {
        title: title.into(),
        values: values.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
    };
    SettingsPage {
        path: Some("/etc/pgdiode/pgdiode.toml".into()),
        sections: vec![
            section(
                "http",
                &[
                    ("listen", "127.0.0.1:8000"),
                    ("users", "/etc/pgdiode/htpasswd"),
                    ("session_idle_minutes", "15"),
                    ("behind_proxy", "false"),
                ],
            ),
            section(
                "pipeline.orders",
                &[
                    ("mode", "stream"),
                    ("source.host", "main-db"),
                    ("source.user", "pgdiode"),
                    ("source.password", "set"),
                    ("target.host", "replica"),
                    ("target.password", "unset"),
                    ("tables", "public.*, catalogue.*, !public.audit_*"),
                    ("slot.wal_budget", "10 GB"),
                ],
            ),
        ],
        certificates: vec![
            Certificate {
                of: "source of orders".into(),
                subject: "CN=main-db".into(),
                issuer: "CN=Internal CA,O=Example".into(),
                expires_at: at(-9 * 86_400),
                waiting: Some(at(-380 * 86_400)),
            },
            Certificate {
                of: "this console".into(),
                subject: "CN=replica-1.internal".into(),
                issuer: "CN=replica-1.internal".into(),
                expires_at: at(-80 * 86_400),
                waiting: None,
            },
        ],
        versions: vec![("Rust".into(), "1.95".into())],
    }
}
