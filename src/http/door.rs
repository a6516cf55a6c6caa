//! What every handler is handed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::access::Visitor;
use super::api::Listings;
use super::kept::Lookups;
use crate::audit::Report;
use crate::config::Effective;
use crate::daemon::{Daemon, Reloaded};
use crate::error::Result;
use crate::status::fleet::{Fleet, Overview};

/// The daemon behind the door, and what is known of it. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    pub daemon: Daemon,
    fleet: watch::Receiver<Arc<Fleet>>,
    ending: watch::Receiver<bool>,
    checks: Arc<Mutex<BTreeMap<String, Checked>>>,
    pub(super) lookups: Lookups,
    pub(super) listings: Listings,
}

/// What a check of an audit log found, and when it was made.
pub(super) type Checked = (Arc<Report>, String);

impl Door {
    pub fn new(daemon: Daemon, ending: watch::Receiver<bool>) -> Door {
        let fleet = daemon.fleet();
        Door {
            daemon,
            fleet,
            ending,
            checks: Arc::default(),
            lookups: Lookups::default(),
            listings: Listings::default(),
        }
    }

    /// All there is to know, as it was published last.
    pub fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.fleet.borrow())
    }

    /// The part of it that a visitor may see.
    pub(super) fn fleet_of(&self, visitor: &Visitor) -> Arc<Fleet> {
        let fleet = self.fleet();
        if visitor.pipelines.is_none() {
            return fleet;
        }
        let pipelines = fleet.pipelines.iter().filter(|one| visitor.sees(&one.name)).cloned().collect();
        Arc::new(Fleet { instance: fleet.instance.clone(), pipelines })
    }

    /// A pipeline with what was asked for lately too, not only with what is under way.
    pub(super) fn with_ended_runs(&self, one: &Overview) -> Overview {
        Overview { runs: self.daemon.runs().list(Some(&one.name)), ..one.clone() }
    }

    /// The last check of a pipeline's audit log.
    pub(super) fn checked(&self, pipeline: &str) -> Option<Checked> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).get(pipeline).cloned()
    }

    pub(super) fn was_checked(&self, pipeline: &str, report: Report) {
        let checked = (Arc::new(report), crate::schedule::utc(jiff::Timestamp::now()));
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).insert(pipeline.to_owned(), checked);
    }

    /// Holds true once the daemon ends.
    pub fn ending(&self) -> watch::Receiver<bool> {
        self.ending.clone()
    }

    /// The part of the configuration that a visitor may see.
    pub(super) fn configuration_of(&self, visitor: &Visitor) -> Vec<Effective> {
        let mut sections = self.daemon.configuration();
        // Who acts here is nobody's business who sees some pipelines alone.
        let sees_all = visitor.pipelines.is_none();
        sections.retain(|section| match &section.pipeline {
            Some(name) => visitor.sees(name),
            None => sees_all || section.section != "server",
        });
        sections
    }

    pub async fn reload(&self) -> Result<Reloaded> {
        self.daemon.reload().await
    }
}
