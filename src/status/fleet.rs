//! What a daemon knows of all its pipelines at one moment: what console, API, metrics and `pgdiode top` render.
//!
//! [`Overview`] puts around a pipeline's own status what only a daemon knows: whether that could be asked, who runs it,
//! what is under way by somebody's wish, what was verified last, and what was measured over time. [`Health`] and the
//! verdict are made here, once, from the rest.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::drift::SchemaDrift;
use super::snapshot::SnapshotStatus;
use super::{Phase, PipelineStatus, Progress};

/// A daemon and its pipelines.
#[derive(Debug, Clone, Serialize)]
pub struct Fleet {
    pub instance: Instance,
    /// In the order of their names.
    pub pipelines: Vec<Arc<Overview>>,
}

/// The process that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instance {
    pub host: String,
    pub process_id: u32,
    pub version: String,
    /// RFC 3339, like every moment here.
    pub started_at: String,
    /// When this was put together.
    pub at: String,
    /// When the configuration was read.
    pub configured_at: String,
    /// Until when the certificate counts that the door shows; `None` where it shows none.
    pub certificate_expires_at: Option<String>,
}

/// One pipeline.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    pub name: String,
    /// `stream`, `subscription` or `snapshot`.
    pub mode: String,
    /// Where from and where to, without anything secret.
    pub source: String,
    pub target: String,
    pub health: Health,
    /// Its state in one sentence.
    pub verdict: String,
    /// Since when its health has been what it is.
    pub since: String,
    pub duty: Duty,
    pub paused: Option<Pause>,
    /// What went wrong last in this process, and what to do: a run that ended, or a status that could not be read.
    pub problem: Option<Problem>,
    /// How the run of this process does; `None` while it has none.
    pub progress: Option<Progress>,
    /// As it was asked last; `None` until it could be.
    pub state: Option<State>,
    /// When that was.
    pub asked_at: Option<String>,
    /// What was asked for through a door and is under way, the newest first.
    pub runs: Vec<Run>,
    /// The last comparison of both sides by this daemon or any other `pgdiode verify`.
    pub verification: Option<Verification>,
    pub storage: Option<Storage>,
    /// Both schemas compared; `None` before that, and where there are no two sides of tables.
    pub schema_drift: Option<SchemaDrift>,
    /// Of the last day, the oldest first.
    pub samples: Arc<Vec<Sample>>,
}

impl Overview {
    /// As the run of this process has it, which is fresher, else as the status.
    pub fn phase(&self) -> Option<Phase> {
        let status = self.stream().map(|status| status.phase);
        self.progress.as_ref().filter(|_| status.is_some()).map(|progress| progress.phase).or(status)
    }

    /// How far behind, in bytes and in seconds.
    pub fn lag(&self) -> (Option<u64>, Option<f64>) {
        match (&self.progress, self.stream()) {
            (Some(progress), _) if progress.lag_bytes.is_some() => (progress.lag_bytes, progress.lag_seconds),
            (_, Some(status)) => (status.lag_bytes, status.lag_seconds),
            (_, None) => (None, None),
        }
    }

    /// Of any pipeline but a snapshot's.
    pub fn stream(&self) -> Option<&PipelineStatus> {
        match &self.state {
            Some(State::Stream(status)) => Some(status),
            _ => None,
        }
    }

    pub fn snapshot(&self) -> Option<&SnapshotStatus> {
        match &self.state {
            Some(State::Snapshot(status)) => Some(status),
            _ => None,
        }
    }
}

/// A pipeline's own status.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum State {
    Stream(Box<PipelineStatus>),
    Snapshot(Box<SnapshotStatus>),
}

/// From the best to the worst; an operator looks at the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It does what it should, and the replica is fresh.
    Healthy,
    /// The first copy, or catching up: it comes nearer.
    Working,
    /// Somebody stopped it or told it to pause.
    Paused,
    /// It runs, and somebody should look: quarantined tables, a broken connection, an old replica.
    Attention,
    /// It does not run, and will not by itself; or what it has is not what it should be.
    Failed,
}

impl Health {
    pub fn word(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Working => "working",
            Health::Paused => "paused",
            Health::Attention => "attention",
            Health::Failed => "failed",
        }
    }
}

/// What the process that answers does about a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// It runs it.
    Active,
    /// Another process runs it; when that ends this one takes over.
    Standby,
    /// It does not run it: paused, stopped, or between two attempts.
    Idle,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who.
    pub actor: String,
    pub reason: Option<String>,
    pub since: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub what: String,
    pub hint: Option<String>,
    pub exit_status: u8,
    pub at: String,
    /// When it is tried again, where it is.
    pub retry_at: Option<String>,
}

/// What somebody asked for: a sync, a verification, a resync. It is kept for a while after it has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Opaque, and its own in the world.
    pub id: String,
    pub pipeline: String,
    /// `sync`, `verify`, `resync`, `rollback`.
    pub verb: String,
    /// What of: tables, a key, a generation; empty for all.
    pub subject: Vec<String>,
    /// `api` or `console`.
    pub by: String,
    pub actor: String,
    pub reason: Option<String>,
    pub state: RunState,
    pub started_at: String,
    pub ended_at: Option<String>,
    pub seconds: f64,
    pub progress: Option<Progress>,
    pub error: Option<Problem>,
    /// What came of it, as the verb prints it with `--json`.
    pub result: Option<Value>,
    /// What it said, the oldest first; of a long run the last lines.
    pub log: Vec<LogLine>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    /// Somebody asked it to end; it is about to.
    Cancelling,
    Done,
    Failed,
    Cancelled,
    /// The process that worked on it is gone, and nobody knows how far it came.
    Interrupted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    pub at: String,
    pub text: String,
}

/// A comparison of both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    pub at: String,
    pub identical: bool,
    pub tables: u64,
    pub tables_different: u64,
    pub seconds: f64,
    /// Each table's part; empty where the keys of a Redis server were compared.
    pub of_tables: Vec<VerifiedTable>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifiedTable {
    pub name: String,
    pub at: String,
    pub identical: bool,
    pub rows_source: u64,
    pub rows_target: u64,
    pub differences: u64,
}

/// What the target's database takes, and may take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Storage {
    pub database_bytes: u64,
    /// The volume that it lies on, as configured; `None` where it is not.
    pub volume_bytes: Option<u64>,
    /// By the slope of what was measured; `None` before there is enough of it.
    pub growth_bytes_per_day: Option<f64>,
    /// Until so much of the volume is full, at that slope; `None` where it is not growing or nobody knows.
    pub days_until_70: Option<f64>,
    pub days_until_85: Option<f64>,
    pub days_until_95: Option<f64>,
    /// The largest, with indexes, the largest first.
    pub tables: Vec<TableSize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableSize {
    pub name: String,
    pub bytes: u64,
    /// As the server estimates it.
    pub rows: u64,
}

/// What was measured at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since 1970.
    pub at: i64,
    pub lag_bytes: Option<u64>,
    pub lag_seconds: Option<f64>,
    pub changes_per_second: Option<u64>,
    pub database_bytes: Option<u64>,
}
