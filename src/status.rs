//! What there is to say about a pipeline, as plain data: every door (command line, API, console, metrics) renders
//! these structs and nothing else.
//!
//! Serialised they are the stable `--json` output: keys in snake case with their units, an absent value is null.
//! [`text`] renders them for people.

pub mod archive;
pub mod drift;
pub mod fleet;
pub mod keys;
pub mod snapshot;
pub mod syncdata;
pub mod text;

use serde::{Serialize, Serializer};

use crate::change::TableName;
use crate::config::written;
use crate::error::{Error, Kind};
use crate::position::Lsn;

/// A pipeline at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PipelineStatus {
    pub name: String,
    /// `stream` or `subscription`.
    pub mode: String,
    pub phase: Phase,
    /// What a run does beside applying changes, in a few words: `creating tables`, `waiting for the next attempt`.
    pub doing: Option<String>,
    /// The process that works on it now.
    pub running_on: Option<RunningOn>,
    /// Where the source is, without anything secret.
    pub source: String,
    pub target: String,
    /// Everything up to here is committed at the target.
    #[serde(serialize_with = "lsn")]
    pub position: Option<Lsn>,
    /// Where the source's write-ahead log ends: `position <= source_position`.
    #[serde(serialize_with = "lsn")]
    pub source_position: Option<Lsn>,
    pub lag_bytes: Option<u64>,
    /// The age of the oldest commit that the target lacks.
    pub lag_seconds: Option<f64>,
    pub slot: Option<SlotStatus>,
    /// How far the archive has been read, where the source is one.
    pub archive: Option<ArchiveStatus>,
    /// What is known of keys, where the source is a Redis server.
    pub keys: Option<KeysStatus>,
    pub tables: Vec<TableStatus>,
    pub sequences: SequenceStatus,
    pub last_error: Option<String>,
    pub hint: Option<String>,
    /// Attempts since the last success.
    pub retries: u64,
    /// When the next attempt begins, RFC 3339; `None` while one is under way.
    pub retry_at: Option<String>,
    /// What an operator should know, one sentence each.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing has been copied yet.
    #[default]
    New,
    Copying,
    /// The copy is done; what was committed meanwhile is being applied.
    CatchingUp,
    Streaming,
    /// Stopped by an operator, to be continued.
    Paused,
    /// A connection broke; another attempt follows.
    Retrying,
    /// No process works on it.
    Stopped,
    /// Stopped by an error that trying again does not help.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunningOn {
    pub host: String,
    pub process_id: u32,
    /// RFC 3339.
    pub since: String,
}

/// The replication slot, as `pg_replication_slots` has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlotStatus {
    pub name: String,
    pub active: bool,
    /// Write-ahead log that the source keeps for the slot.
    pub wal_held_bytes: u64,
    /// What it may keep before pgdiode warns.
    pub wal_budget_bytes: u64,
    /// When the budget is reached at the present rate, in seconds; `None` when it is not growing.
    pub budget_reached_in_seconds: Option<u64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// What can still be written before the server invalidates the slot; `None` without a server limit.
    pub safe_wal_bytes: Option<i64>,
}

/// An archive of change files, and how far its reader is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchiveStatus {
    /// Its identity.
    pub archive: String,
    /// The last file that is wholly applied; `None` before the first.
    pub file: Option<u64>,
    /// The last file that is sealed.
    pub last_file: Option<u64>,
    /// When that was, RFC 3339: an old one tells that the writer rests, or that newer ones are kept back.
    pub last_file_sealed_at: Option<String>,
    /// Sealed files that are not wholly applied; `None` where the archive cannot be reached.
    pub files_behind: Option<u64>,
    /// When the last applied transaction was committed at the origin, RFC 3339.
    pub last_commit_at: Option<String>,
}

/// Keys of a Redis server, as the target knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KeysStatus {
    /// Keys that are there, and keys that are gone and whose rows are marked or kept.
    pub present: u64,
    pub gone: u64,
    /// Parts of values that became no row: `pgdiode.keyspace_misfit` of the target has them.
    pub misfits: u64,
    /// Whose history is followed, by Redis' replication id; `None` where none is.
    pub history: Option<String>,
    /// How far it is applied, in bytes.
    pub offset: u64,
    /// How far it reaches at the server; `None` where that cannot be asked.
    pub source_offset: Option<u64>,
    /// Every key has been looked at since something may have been missed.
    pub is_scanned: bool,
    /// Of a cluster: its primaries, each with a history of its own; the offsets above are their sums then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeStatus>,
}

/// How far the history of one primary of a Redis cluster is applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    pub id: String,
    pub history: String,
    pub offset: u64,
    /// How far it reaches at the node; `None` where that cannot be asked.
    pub source_offset: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableStatus {
    #[serde(serialize_with = "table")]
    pub name: TableName,
    pub state: TableState,
    /// Why it is in this state, when that needs saying.
    pub reason: Option<String>,
    /// What brings it back.
    pub remedy: Option<String>,
    pub rows_copied: u64,
    pub bytes_copied: u64,
    /// Estimated from the table's size.
    pub bytes_total: Option<u64>,
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    /// Inserts of an existing key, applied as updates.
    pub conflicts: u64,
    /// Updates and deletes of a missing row.
    pub skipped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    #[default]
    Pending,
    Copying,
    Ready,
    Quarantined,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct SequenceStatus {
    pub carried: u64,
    /// RFC 3339; `None` before the first time.
    pub carried_at: Option<String>,
}

/// What the checks before any work found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CheckReport {
    pub findings: Vec<Finding>,
    /// What a refusal means for the process: an end that cannot be reached when that is all, else refused.
    #[serde(skip)]
    pub refusal: Option<Kind>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    pub what: String,
    pub hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    /// It works, and should not stay so.
    Warning,
    /// Nothing runs before this is settled.
    Refused,
}

impl CheckReport {
    pub fn push(&mut self, level: Level, what: impl Into<String>, hint: Option<String>) {
        if level == Level::Refused {
            self.refusal = Some(Kind::Refused);
        }
        self.findings.push(Finding { level, what: what.into(), hint });
    }

    pub fn ok(&mut self, what: impl Into<String>) {
        self.push(Level::Ok, what, None);
    }

    pub fn warn(&mut self, what: impl Into<String>, hint: impl Into<String>) {
        self.push(Level::Warning, what, Some(hint.into()));
    }

    pub fn refuse(&mut self, what: impl Into<String>, hint: impl Into<String>) {
        self.push(Level::Refused, what, Some(hint.into()));
    }

    /// Keeps what went wrong as a finding that refuses.
    pub fn fail(&mut self, error: &Error) {
        let refusal = match self.refusal {
            None if error.retries() => error.kind(),
            Some(kind) if error.retries() => kind,
            _ => Kind::Refused,
        };
        self.push(Level::Refused, error.chain(), error.hint_text().map(str::to_owned));
        self.refusal = Some(refusal);
    }

    /// Takes in what was found elsewhere. What is refused outweighs an end that cannot be reached.
    pub fn adds(&mut self, other: CheckReport) {
        self.refusal = match (self.refusal, other.refusal) {
            (Some(one), Some(another)) if one != another => Some(Kind::Refused),
            (one, another) => one.or(another),
        };
        self.findings.extend(other.findings);
    }

    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

/// Both sides compared at one position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifyReport {
    pub identical: bool,
    /// The position at which both sides were read.
    #[serde(serialize_with = "lsn")]
    pub lsn: Option<Lsn>,
    pub tables: Vec<TableVerification>,
    pub seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableVerification {
    #[serde(serialize_with = "table")]
    pub name: TableName,
    pub rows_source: u64,
    pub rows_target: u64,
    pub digest_source: String,
    pub digest_target: String,
    pub identical: bool,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// All of them; where these are too many to count, `note` says so and this is a lower bound.
    pub differences_total: u64,
    /// Why the rows were not compared, or what differs beside them.
    pub note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub key: String,
    pub kind: DifferenceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// At the source only.
    Missing,
    /// At the target only.
    Extra,
    /// On both sides, with other values.
    Different,
}

/// A table of the source and what the pipeline makes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableListing {
    #[serde(serialize_with = "table")]
    pub name: TableName,
    /// Whether the pipeline carries it.
    pub carried: bool,
    /// Its state at the target; `None` while it is not known there.
    pub state: Option<TableState>,
    /// `primary key`, `index NAME`, `full` or `nothing`.
    pub replica_identity: String,
    pub bytes: u64,
    /// Why it is not carried, or what to do before it can be.
    pub note: Option<String>,
}

/// What became of a key that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySync {
    /// Its rows are as the key is.
    Done,
    /// Nobody runs the pipeline, or is busy: the next run does it.
    Later,
}

/// Where a run of a pipeline is, told while it works.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Progress {
    pub phase: Phase,
    /// What is being done, in a few words: `building indexes`.
    pub doing: String,
    pub tables_done: u64,
    pub tables_total: u64,
    pub rows: u64,
    pub bytes: u64,
    /// Estimated; 0 while unknown.
    pub bytes_total: u64,
    pub bytes_per_second: u64,
    pub eta_seconds: Option<u64>,
    /// Tables that are being copied now.
    pub current: Vec<String>,
    /// Everything up to here is committed at the target.
    #[serde(serialize_with = "lsn")]
    pub position: Option<Lsn>,
    pub lag_bytes: Option<u64>,
    pub lag_seconds: Option<f64>,
    pub transactions: u64,
    pub changes: u64,
    pub changes_per_second: u64,
}

/// When a started pipeline ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Stopped,
    /// The target holds everything that the source had committed when the pipeline was started.
    CaughtUp,
    /// The target holds everything up to this position.
    Reached(Lsn),
}

/// Why a pipeline ended, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stopped {
    pub reason: StopReason,
    #[serde(serialize_with = "lsn")]
    pub position: Option<Lsn>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// What [`Until`] asked for.
    Reached,
    /// `pgdiode stop`, from anywhere.
    Asked,
    /// The process received a signal.
    Signal,
}

/// What `reset` takes away beside the pipeline's own state at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reset {
    pub drop_slot: bool,
    pub drop_publication: bool,
}

// serde hands over references.
#[allow(clippy::ref_option)]
fn lsn<S: Serializer>(lsn: &Option<Lsn>, serializer: S) -> Result<S::Ok, S::Error> {
    lsn.map(|lsn| lsn.to_string()).serialize(serializer)
}

fn table<S: Serializer>(name: &TableName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&written(name))
}
