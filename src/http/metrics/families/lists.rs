//! The table of families itself.

use super::{
    Count, DUTIES, Family, HEALTHS, Kind, PHASES, Read, Section, TABLES_MAX, VERDICTS, by_table, duty_word,
    phase_word, seconds,
};
use crate::status::TableState;
use crate::status::drift::SchemaDifferenceKind;
use crate::status::fleet::Health;

pub(super) const SECTIONS: &[Section] = &[
    Section { title: "The daemon", families: DAEMON },
    Section { title: "Pipelines", families: PIPELINES },
    Section { title: "Lag and position", families: LAG },
    Section { title: "Rows and tables", families: ROWS },
    Section { title: "The replication slot", families: SLOT },
    Section { title: "Syncs of a snapshot pipeline", families: SYNCS },
    Section { title: "A source that is an archive", families: ARCHIVE },
    Section { title: "A source of keys", families: KEYS },
    Section { title: "Verification", families: VERIFICATION },
    Section { title: "Schemas", families: SCHEMAS },
    Section { title: "Storage at the target", families: STORAGE },
];

const DAEMON: &[Family] = &[
    Family {
        name: "pgdiode_build_info",
        kind: Kind::Info,
        unit: "",
        labels: &["version"],
        help: "The version that answers.",
        read: Read::Instance(|instance, samples| samples.labelled(&[("version", &instance.version)], 1_u64)),
    },
    Family {
        name: "pgdiode_start_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When the process started.",
        read: Read::Instance(|instance, samples| samples.value(seconds(Some(&instance.started_at)))),
    },
    Family {
        name: "pgdiode_configured_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When the configuration was read.",
        read: Read::Instance(|instance, samples| samples.value(seconds(Some(&instance.configured_at)))),
    },
    Family {
        name: "pgdiode_updated_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When what is exported here was put together.",
        read: Read::Instance(|instance, samples| samples.value(seconds(Some(&instance.at)))),
    },
    Family {
        name: "pgdiode_certificate_expiry_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "Until when the certificate counts that the door shows, and those that vouch for it.",
        read: Read::Instance(|instance, samples| {
            samples.value(seconds(instance.certificate_expires_at.as_ref()));
        }),
    },
];

const PIPELINES: &[Family] = &[
    Family {
        name: "pgdiode_pipeline_info",
        kind: Kind::Info,
        unit: "",
        labels: &["mode"],
        help: "A pipeline that is configured, and its mode: stream, subscription or snapshot.",
        read: Read::Pipeline(|view, samples| samples.labelled(&[("mode", &view.overview.mode)], 1_u64)),
    },
    Family {
        name: "pgdiode_pipeline_health",
        kind: Kind::Gauge,
        unit: "",
        labels: &["health"],
        help: "1 for the health that it has, of healthy, working, paused, attention, failed.",
        read: Read::Pipeline(|view, samples| {
            samples.states("health", &HEALTHS, Health::word, view.overview.health);
        }),
    },
    Family {
        name: "pgdiode_pipeline_health_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "Since when it has that health.",
        read: Read::Value(|view| seconds(Some(&view.overview.since)).into()),
    },
    Family {
        name: "pgdiode_pipeline_phase",
        kind: Kind::Gauge,
        unit: "",
        labels: &["phase"],
        help: "1 for the phase that it is in, of new, copying, catching_up, streaming, paused, retrying, stopped, failed.",
        read: Read::Pipeline(|view, samples| {
            if let Some(phase) = view.overview.phase() {
                samples.states("phase", &PHASES, phase_word, phase);
            }
        }),
    },
    Family {
        name: "pgdiode_pipeline_duty",
        kind: Kind::Gauge,
        unit: "",
        labels: &["duty"],
        help: "1 for what this process does about it: active (runs it), standby (takes over when another ends), idle.",
        read: Read::Pipeline(|view, samples| {
            samples.states("duty", &DUTIES, duty_word, view.overview.duty);
        }),
    },
    Family {
        name: "pgdiode_pipeline_running",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Whether a process, this one or another, works on it.",
        read: Read::Value(|view| view.stream.map(|status| status.running_on.is_some()).into()),
    },
    Family {
        name: "pgdiode_pipeline_paused",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Whether somebody paused it.",
        read: Read::Value(|view| view.overview.paused.is_some().into()),
    },
    Family {
        name: "pgdiode_pipeline_paused_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When it was paused, while it is.",
        read: Read::Value(|view| seconds(view.overview.paused.as_ref().map(|pause| &pause.since)).into()),
    },
    Family {
        name: "pgdiode_problem",
        kind: Kind::Gauge,
        unit: "",
        labels: &["exit_status"],
        help: "1 for the exit status of what went wrong last, while something is wrong.",
        read: Read::Pipeline(|view, samples| {
            if let Some(problem) = &view.overview.problem {
                samples.labelled(&[("exit_status", &problem.exit_status.to_string())], 1_u64);
            }
        }),
    },
    Family {
        name: "pgdiode_retries",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Attempts since the last success.",
        read: Read::Value(|view| view.stream.map(|status| status.retries).into()),
    },
    Family {
        name: "pgdiode_status_age_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "How old the status is that all else here was taken from: it grows while the target cannot be asked.",
        read: Read::Value(|view| view.age(view.overview.asked_at.as_ref()).into()),
    },
];

const LAG: &[Family] = &[
    Family {
        name: "pgdiode_replication_lag_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "Write-ahead log of the source that the target lacks.",
        read: Read::Value(|view| view.overview.lag().0.into()),
    },
    Family {
        name: "pgdiode_replication_lag_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "Age of the oldest commit that the target lacks.",
        read: Read::Value(|view| view.overview.lag().1.into()),
    },
    Family {
        name: "pg_replication_lag",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "The same as pgdiode_replication_lag_seconds, by the name that other exporters have for it.",
        read: Read::Value(|view| view.overview.lag().1.into()),
    },
    Family {
        name: "pgdiode_position_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "The log position up to which everything is committed at the target.",
        read: Read::Value(|view| view.stream.and_then(|status| status.position).map(|lsn| lsn.0).into()),
    },
    Family {
        name: "pgdiode_source_position_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "Where the source's write-ahead log ends.",
        read: Read::Value(|view| {
            view.stream.and_then(|status| status.source_position).map(|lsn| lsn.0).into()
        }),
    },
];

const ROWS: &[Family] = &[
    Family {
        name: "pgdiode_rows_total",
        kind: Kind::Counter,
        unit: "",
        labels: &["table", "kind"],
        help: "Rows applied to each table, by kind: insert, update, delete.",
        read: Read::Pipeline(|view, samples| {
            let kinds: [(&str, Count); 3] = [
                ("insert", |table| table.inserts),
                ("update", |table| table.updates),
                ("delete", |table| table.deletes),
            ];
            by_table(view, samples, "kind", &kinds);
        }),
    },
    Family {
        name: "pgdiode_conflicts_total",
        kind: Kind::Counter,
        unit: "",
        labels: &[],
        help: "Inserts of a key that was there, applied as updates: somebody else writes the target.",
        read: Read::Value(|view| view.sum(|table| table.conflicts).into()),
    },
    Family {
        name: "pgdiode_skipped_total",
        kind: Kind::Counter,
        unit: "",
        labels: &[],
        help: "Updates and deletes of a row that was not there.",
        read: Read::Value(|view| view.sum(|table| table.skipped).into()),
    },
    Family {
        name: "pgdiode_rows_copied_total",
        kind: Kind::Counter,
        unit: "",
        labels: &[],
        help: "Rows copied by initial copies and copies anew.",
        read: Read::Value(|view| view.sum(|table| table.rows_copied).into()),
    },
    Family {
        name: "pgdiode_copied_bytes_total",
        kind: Kind::Counter,
        unit: "bytes",
        labels: &[],
        help: "What these rows came to.",
        read: Read::Value(|view| view.sum(|table| table.bytes_copied).into()),
    },
    Family {
        name: "pgdiode_transactions_total",
        kind: Kind::Counter,
        unit: "",
        labels: &[],
        help: "Transactions applied since the run of this process began; none while it runs none.",
        read: Read::Value(|view| {
            view.overview.progress.as_ref().map(|progress| progress.transactions).into()
        }),
    },
    Family {
        name: "pgdiode_changes_total",
        kind: Kind::Counter,
        unit: "",
        labels: &[],
        help: "Changes of rows applied since the run of this process began; none while it runs none.",
        read: Read::Value(|view| view.overview.progress.as_ref().map(|progress| progress.changes).into()),
    },
    Family {
        name: "pgdiode_tables",
        kind: Kind::Gauge,
        unit: "",
        labels: &["state"],
        help: "Tables in each state: pending, copying, ready, quarantined.",
        read: Read::Pipeline(|view, samples| {
            for state in
                [TableState::Pending, TableState::Copying, TableState::Ready, TableState::Quarantined]
            {
                samples.labelled(&[("state", state.word())], view.in_state(state));
            }
        }),
    },
    Family {
        name: "pgdiode_quarantined_tables",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Tables whose rows stand still because they cannot be followed.",
        read: Read::Value(|view| view.in_state(TableState::Quarantined).into()),
    },
    Family {
        name: "pgdiode_copy_done_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "Copied by the copy or sync that is under way.",
        read: Read::Value(|view| view.copying().map(|progress| progress.bytes).into()),
    },
    Family {
        name: "pgdiode_copy_expected_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "All that it has to copy, as estimated.",
        read: Read::Value(|view| {
            view.copying().map(|progress| progress.bytes_total).filter(|bytes| *bytes > 0).into()
        }),
    },
    Family {
        name: "pgdiode_copy_remaining_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "How long it still takes at the present rate.",
        read: Read::Value(|view| view.copying().map(|progress| progress.eta_seconds).into()),
    },
];

const SLOT: &[Family] = &[
    Family {
        name: "pgdiode_slot_wal_held_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "Write-ahead log that the source keeps for the slot.",
        read: Read::Value(|view| view.slot().map(|slot| slot.wal_held_bytes).into()),
    },
    Family {
        name: "pgdiode_slot_wal_budget_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "What it may keep before pgdiode warns: limits.wal_budget_mb.",
        read: Read::Value(|view| view.slot().map(|slot| slot.wal_budget_bytes).into()),
    },
    Family {
        name: "pgdiode_slot_budget_remaining_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When the budget is reached at the present rate, while it grows.",
        read: Read::Value(|view| view.slot().map(|slot| slot.budget_reached_in_seconds).into()),
    },
    Family {
        name: "pgdiode_slot_safe_wal_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "What can still be written before the server gives the slot up, where it has a limit.",
        read: Read::Value(|view| view.slot().map(|slot| slot.safe_wal_bytes).into()),
    },
    Family {
        name: "pgdiode_slot_active",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Whether somebody reads the slot.",
        read: Read::Value(|view| view.slot().map(|slot| slot.active).into()),
    },
    Family {
        name: "pgdiode_slot_lost",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Whether the server has given the slot up: everything has to be copied anew.",
        read: Read::Value(|view| {
            view.slot().map(|slot| slot.wal_status.as_ref().map(|status| status == "lost")).into()
        }),
    },
];

const SYNCS: &[Family] = &[
    Family {
        name: "pgdiode_last_sync_success_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When the last sync that succeeded ended, of the last runs that are kept in view.",
        read: Read::Pipeline(|view, samples| {
            let done = view.ended_syncs().find(|run| run.verdict == "done");
            samples.value(seconds(done.and_then(|run| run.ended.as_ref())));
        }),
    },
    Family {
        name: "pgdiode_last_sync_duration_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "How long the last sync took, however it ended.",
        read: Read::Value(|view| view.last_sync().map(|run| run.seconds).into()),
    },
    Family {
        name: "pgdiode_last_sync_status",
        kind: Kind::Gauge,
        unit: "",
        labels: &["verdict"],
        help: "1 for how the last sync ended, of done, failed, killed, not promoted.",
        read: Read::Pipeline(|view, samples| {
            if let Some(run) = view.last_sync() {
                samples.states("verdict", &VERDICTS, |verdict| verdict, run.verdict.as_str());
            }
        }),
    },
    Family {
        name: "pgdiode_syncs_total",
        kind: Kind::Counter,
        unit: "",
        labels: &["result"],
        help: "Syncs and rollbacks that have ended, by result: done or failed.",
        read: Read::Pipeline(|view, samples| {
            if let Some(status) = view.snapshot {
                samples.labelled(&[("result", "done")], status.runs_done);
                samples.labelled(&[("result", "failed")], status.runs_failed);
            }
        }),
    },
    Family {
        name: "pgdiode_sync_running",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Whether a sync or a rollback is under way.",
        read: Read::Value(|view| view.snapshot.map(|status| status.running.is_some()).into()),
    },
    Family {
        name: "pgdiode_replica_age_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "How long ago the copy that serves was taken of the source.",
        read: Read::Pipeline(|view, samples| {
            let serving = view.snapshot.and_then(|status| status.serving.as_ref());
            samples.value(view.age(serving.and_then(|serving| serving.taken_at.as_ref())));
        }),
    },
    Family {
        name: "pgdiode_generation_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "Size of the copy that serves.",
        read: Read::Pipeline(|view, samples| {
            let serving = view.snapshot.and_then(|status| status.serving.as_ref());
            samples.value(serving.and_then(|serving| serving.bytes));
        }),
    },
    Family {
        name: "pgdiode_next_sync_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When the next sync is due by the schedule, where there is one.",
        read: Read::Pipeline(|view, samples| {
            let schedule = view.snapshot.and_then(|status| status.schedule.as_ref());
            samples.value(seconds(schedule.and_then(|schedule| schedule.next_run.as_ref())));
        }),
    },
    Family {
        name: "pgdiode_sync_interval_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "The longest time between two of the next syncs by the schedule.",
        read: Read::Value(|view| view.interval().into()),
    },
];

const ARCHIVE: &[Family] = &[
    Family {
        name: "pgdiode_archive_files_behind",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Sealed files that are not wholly applied.",
        read: Read::Value(|view| view.archive().map(|archive| archive.files_behind).into()),
    },
    Family {
        name: "pgdiode_archive_last_sealed_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When the last file was sealed.",
        read: Read::Value(|view| {
            seconds(view.archive().and_then(|archive| archive.last_file_sealed_at.as_ref())).into()
        }),
    },
    Family {
        name: "pgdiode_archive_last_commit_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When the last applied transaction was committed at the origin.",
        read: Read::Value(|view| {
            seconds(view.archive().and_then(|archive| archive.last_commit_at.as_ref())).into()
        }),
    },
];

const KEYS: &[Family] = &[
    Family {
        name: "pgdiode_keys",
        kind: Kind::Gauge,
        unit: "",
        labels: &["state"],
        help: "Keys that are present, and keys that are gone and whose rows are marked or kept.",
        read: Read::Pipeline(|view, samples| {
            if let Some(keys) = view.keys() {
                samples.labelled(&[("state", "present")], keys.present);
                samples.labelled(&[("state", "gone")], keys.gone);
            }
        }),
    },
    Family {
        name: "pgdiode_key_misfits",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Parts of values that became no row.",
        read: Read::Value(|view| view.keys().map(|keys| keys.misfits).into()),
    },
    Family {
        name: "pgdiode_keys_scanned",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Whether every key has been looked at since something may have been missed.",
        read: Read::Value(|view| view.keys().map(|keys| keys.is_scanned).into()),
    },
    Family {
        name: "pgdiode_keys_offset_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "How far the server's history is applied.",
        read: Read::Value(|view| view.keys().map(|keys| keys.offset).into()),
    },
    Family {
        name: "pgdiode_keys_source_offset_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "How far it reaches at the server.",
        read: Read::Value(|view| view.keys().map(|keys| keys.source_offset).into()),
    },
];

const VERIFICATION: &[Family] = &[
    Family {
        name: "pgdiode_verify_identical",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Whether both sides were identical when they were compared last.",
        read: Read::Value(|view| {
            view.overview.verification.as_ref().map(|verified| verified.identical).into()
        }),
    },
    Family {
        name: "pgdiode_verify_last_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When that was.",
        read: Read::Value(|view| {
            seconds(view.overview.verification.as_ref().map(|verified| &verified.at)).into()
        }),
    },
    Family {
        name: "pgdiode_verify_tables",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Tables that were compared then.",
        read: Read::Value(|view| view.overview.verification.as_ref().map(|verified| verified.tables).into()),
    },
    Family {
        name: "pgdiode_verify_differing_tables",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Those of them that differed.",
        read: Read::Value(|view| {
            view.overview.verification.as_ref().map(|verified| verified.tables_different).into()
        }),
    },
    Family {
        name: "pgdiode_verify_duration_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "How long that took.",
        read: Read::Value(|view| view.overview.verification.as_ref().map(|verified| verified.seconds).into()),
    },
];

const SCHEMAS: &[Family] = &[
    Family {
        name: "pgdiode_schema_differences",
        kind: Kind::Gauge,
        unit: "",
        labels: &["kind"],
        help: "In what the tables of both sides differ, of table_missing, column_missing, column_differs, \
               replica_identity, constraint_missing, index_missing, column_added.",
        read: Read::Pipeline(|view, samples| {
            let Some(drift) = &view.overview.schema_drift else { return };
            for kind in SchemaDifferenceKind::ALL {
                samples.labelled(&[("kind", kind.word())], drift.count(kind));
            }
        }),
    },
    Family {
        name: "pgdiode_schema_compared_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When the schemas of both sides were compared.",
        read: Read::Value(|view| seconds(view.overview.schema_drift.as_ref().map(|drift| &drift.at)).into()),
    },
];

const STORAGE: &[Family] = &[
    Family {
        name: "pgdiode_database_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "Size of the target's database.",
        read: Read::Value(|view| view.storage().map(|storage| storage.database_bytes).into()),
    },
    Family {
        name: "pgdiode_table_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &["table"],
        help: "Size of the largest tables, with their indexes.",
        read: Read::Pipeline(|view, samples| {
            for table in view.storage().iter().flat_map(|storage| &storage.tables).take(TABLES_MAX) {
                samples.labelled(&[("table", &table.name)], table.bytes);
            }
        }),
    },
    Family {
        name: "pgdiode_volume_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "Capacity of the volume that the database lies on, where it is configured.",
        read: Read::Value(|view| view.storage().map(|storage| storage.volume_bytes).into()),
    },
    Family {
        name: "pgdiode_growth_bytes_per_day",
        kind: Kind::Gauge,
        unit: "bytes_per_day",
        labels: &[],
        help: "How fast the database grows, by the slope of what was measured.",
        read: Read::Value(|view| view.storage().map(|storage| storage.growth_bytes_per_day).into()),
    },
    Family {
        name: "pgdiode_days_until_70_percent",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Days until 70 % of the volume is full at that slope, while it grows.",
        read: Read::Value(|view| view.storage().map(|storage| storage.days_until_70).into()),
    },
    Family {
        name: "pgdiode_days_until_85_percent",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "The same for 85 %.",
        read: Read::Value(|view| view.storage().map(|storage| storage.days_until_85).into()),
    },
    Family {
        name: "pgdiode_days_until_95_percent",
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "The same for 95 %.",
        read: Read::Value(|view| view.storage().map(|storage| storage.days_until_95).into()),
    },
];
