//! `pgdiode audit`: the log of what pgdiode was asked to change.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{Global, output};
use crate::audit::checkpoint::{self, Checkpoint};
use crate::audit::{self, Head, Record, Report};
use crate::error::{Error, Kind, Result};
use crate::pipeline;
use crate::status::text::{printable, several};

/// Check, export or show the audit log
///
/// Everything that changes a pipeline is written into the table pgdiode.audit of the target (with mode = "snapshot" of its
/// control database) before it is done, and again with how it ended. Each entry holds the hash of the one before it: an
/// entry that is edited, removed, moved or put in is found.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing.

Examples:
  pgdiode audit verify                  and keep the head that it prints, elsewhere
  pgdiode audit list --last 50
  pgdiode audit export > audit.jsonl
  pgdiode audit verify audit.jsonl      needs no server
  pgdiode audit checkpoint              signs the head; keep a copy of the line elsewhere
  pgdiode audit verify audit.jsonl --checkpoints main.jsonl

Ends with 4 when the log is broken. An end that was cut off, and a log that was made anew by somebody who may write \
the table, show only with a head that was kept elsewhere: pgdiode audit verify --head NUMBER:HASH. With audit.signing_key \
each operation ends with a signed checkpoint, and verify compares the log with all of them by itself.

",
    exit_statuses!()
))]
pub struct Audit {
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// Check every entry of the log, or of an export
    Verify {
        /// An export; without it, the log of the target
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// A head that verify printed earlier: the log must still lead through it
        #[arg(long, value_name = "NUMBER:HASH", value_parser = head)]
        head: Option<Head>,
        /// Signed checkpoints that the export must lead through [default: for the log itself, those of audit.checkpoint_dir]
        #[arg(long, value_name = "FILE", requires = "file")]
        checkpoints: Vec<PathBuf>,
        /// A public key that may have signed them [default: those of the configuration]
        #[arg(long, value_name = "KEY")]
        signed_by: Vec<String>,
    },
    /// Check the log, sign its head, and keep and print that
    Checkpoint {
        /// A private key of ed25519 [default: audit.signing_key]
        #[arg(long, value_name = "FILE")]
        signing_key: Option<PathBuf>,
    },
    /// Write every entry as JSON, one a line
    Export,
    /// Show the latest entries, the newest last
    List {
        /// So many
        #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        last: u32,
    },
}

fn head(text: &str) -> Result<Head, String> {
    text.parse().map_err(|error: Error| error.what().to_owned())
}

impl Audit {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        match self.verb {
            AuditVerb::Verify { file: Some(file), head, checkpoints, signed_by } => {
                let options = || Ok(global.pipeline()?.audit);
                let signed = checkpoint::read_all(&checkpoints, &signed_by, options)?;
                let known = head.into_iter().chain(signed.iter().map(Checkpoint::head));
                let report = in_file(&file, known)?;
                told(&Report { checkpoints: checkpoint::summary(&signed), ..report }, global.json)
            }
            AuditVerb::Verify { file: None, head, signed_by, .. } => {
                let mut pipeline = global.pipeline()?;
                pipeline.audit.signed_by.extend(signed_by);
                told(&pipeline::audit_verify(&pipeline, head).await?, global.json)
            }
            AuditVerb::Checkpoint { signing_key } => {
                let mut pipeline = global.pipeline()?;
                pipeline.audit.signing_key = signing_key.or(pipeline.audit.signing_key);
                match pipeline::audit_checkpoint(&pipeline).await? {
                    Some(checkpoint) => output::json_line(&checkpoint),
                    None => Err(Error::refused("the audit log has no entries yet")
                        .hint("what pgdiode is asked to change makes some")),
                }
            }
            AuditVerb::Export => pipeline::audit_export(&global.pipeline()?, output::json_line).await,
            AuditVerb::List { last } => {
                let entries = pipeline::audit_latest(&global.pipeline()?, last).await?;
                if global.json { output::json(&entries) } else { output::text(&listed(&entries)) }
            }
        }
    }
}

fn in_file(path: &Path, known: impl IntoIterator<Item = Head>) -> Result<Report> {
    let file = File::open(path).map_err(|error| {
        Error::config(format!("cannot read {}", path.display()))
            .because(error)
            .hint("write an export with: pgdiode audit export > FILE")
    })?;
    audit::verify_export(BufReader::new(file), known).map_err(|error| error.context(path.display()))
}

fn told(report: &Report, as_json: bool) -> Result<()> {
    if as_json {
        output::json(report)?;
    } else if let (true, Some(head)) = (report.intact, &report.head) {
        output::text(&format!("intact     {} entries\nhead       {head}", report.entries))?;
    } else if report.intact {
        output::text("intact     no entries")?;
    }
    if let (false, Some(signed)) = (as_json || !report.intact, &report.checkpoints) {
        let (number, at, key) = (signed.number, &signed.at, &signed.signed_by);
        output::text(&format!(
            "signed     {}, the last of entry {number} at {at} by {key}",
            several(signed.count, "checkpoint")
        ))?;
    }
    let Some(broken) = &report.broken else { return Ok(()) };
    Err(Error::new(
        Kind::Difference,
        format!("the audit log is broken at entry {}: {}", broken.number, broken.why),
    )
    .hint("compare with an earlier export; entries before that one hold"))
}

fn listed(entries: &[Record]) -> String {
    let mut text = String::new();
    for entry in entries {
        // The microseconds are for the hash.
        let at = entry.at.split('.').next().unwrap_or_default();
        let reason = entry.reason.as_ref().map(|reason| format!(": {}", printable(reason)));
        text.push_str(&format!(
            "{:>6}  {}Z  {}@{} as {}  {}  {} {}{}\n",
            entry.number,
            printable(at),
            printable(&entry.os_user),
            printable(&entry.host),
            printable(&entry.role),
            printable(&entry.pipeline),
            printable(&entry.action),
            printable(&entry.verdict),
            reason.unwrap_or_default(),
        ));
    }
    text
}
