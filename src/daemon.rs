//! Runs every configured pipeline in one process, and knows how each does.
//!
//! ```text
//! keeper, one a pipeline    pause? somebody else? -> pipeline::start -> ended: why -> again    src/daemon/keeper.rs
//! sampler, one a pipeline   status, sizes, last comparison, now and then                       sampling.rs
//! runs                      what somebody asked for through a door: sync, verify, resync       runs.rs
//!                 |
//!                 v  a Fleet, as plain data, whenever something has changed                     src/status/fleet.rs
//!           every door
//! ```
//!
//! Who leads is decided for each pipeline by its lock in the target, on the session that writes its rows: a process that
//! loses the one has lost the other, so that a second daemon can stand by and take over without anything else to agree on.
//! That a pipeline is paused is recorded there too, for both.

mod alone;
mod judgement;
mod keeper;
mod member;
mod orders;
mod runs;
pub mod sampling;
mod schemas;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::{Config, Effective, Pipeline, ServerOptions, unknown_pipeline};
use crate::error::Result;
use crate::schedule::utc;
use crate::status::fleet::{Fleet, Instance};
use member::{Member, Wish};

pub use alone::on_its_own;
pub use orders::{Answer, Order, Orderer};
pub use runs::{Asked, Begun, Runs, Scope, pipeline_of};

/// How often those who watch are told, at most.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);
/// Before a keeper that panicked begins again.
const PANIC_PAUSE: Duration = Duration::from_secs(5);
/// How long pipelines that are to end may take.
const END_MAX: Duration = Duration::from_mins(1);
/// How long the daemon waits, at its end, for the ends of runs to be recorded.
const RECORD_MAX: Duration = Duration::from_secs(5);

/// Pipelines, and how each does. Cheap to clone.
#[derive(Clone)]
pub struct Daemon(Arc<Shared>);

/// Reads the configuration again.
pub type Reread = Box<dyn Fn() -> Result<Config> + Send + Sync>;

/// Applies what another configuration says of the door, or refuses it and changes nothing.
pub type Reopen = Box<dyn Fn(&Config) -> Result<Applied> + Send + Sync>;

/// What the door has made of another configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Keys that it cannot change while it is open.
    pub from_the_next_start: Vec<String>,
    /// Until when the certificate counts that it shows now.
    pub certificate_until: Option<jiff::Timestamp>,
}

struct Shared {
    config: Mutex<Arc<Config>>,
    reread: Reread,
    reopen: Mutex<Option<Reopen>>,
    members: Mutex<BTreeMap<String, Arc<Member>>>,
    runs: Runs,
    /// Runs whose end is yet to be recorded.
    recording: watch::Sender<usize>,
    fleet: watch::Sender<Arc<Fleet>>,
    instance: Mutex<Instance>,
    /// Whether pipelines are run, or only looked at.
    keeps: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This moment, RFC 3339 to the second.
fn now() -> String {
    utc(jiff::Timestamp::now())
}

/// What a reloaded configuration changed, by the names of pipelines.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reloaded {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
    /// Keys that have changed and count from the next start on.
    pub from_the_next_start: Vec<String>,
}

impl Daemon {
    /// Runs all pipelines; the audit log says of each first run why.
    pub fn start(config: Config, reread: Reread, reason: Option<String>) -> Daemon {
        Daemon::new(config, reread, true, reason)
    }

    /// Looks at all pipelines and runs none.
    pub fn observe(config: Config, reread: Reread) -> Daemon {
        Daemon::new(config, reread, false, None)
    }

    fn new(config: Config, reread: Reread, keeps: bool, reason: Option<String>) -> Daemon {
        let instance = Instance {
            host: crate::lock::host_name(),
            process_id: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: now(),
            at: now(),
            configured_at: now(),
            certificate_expires_at: None,
        };
        let fleet = watch::Sender::new(Arc::new(Fleet { instance: instance.clone(), pipelines: Vec::new() }));
        let config = Arc::new(config);
        let shared = Shared {
            config: Mutex::new(Arc::clone(&config)),
            reread,
            reopen: Mutex::default(),
            members: Mutex::default(),
            runs: Runs::default(),
            recording: watch::Sender::new(0),
            fleet,
            instance: Mutex::new(instance),
            keeps,
        };
        let daemon = Daemon(Arc::new(shared));
        let count = config.pipelines.len();
        for pipeline in &config.pipelines {
            daemon.adopt(pipeline, count, reason.clone());
        }
        daemon.publish();
        tokio::spawn(daemon.clone().publishes());
        daemon
    }

    fn adopt(&self, pipeline: &Pipeline, count: usize, reason: Option<String>) {
        let member = Arc::new(Member::new(pipeline.clone(), reason));
        locked(&self.0.members).insert(pipeline.name.clone(), Arc::clone(&member));
        tokio::spawn(sampling::sample(Arc::clone(&member), count));
        if self.0.keeps {
            tokio::spawn(keep(member));
        }
    }

    /// What counts now, after every default.
    pub fn configuration(&self) -> Vec<Effective> {
        locked(&self.0.config).effective()
    }

    /// What the configuration says of the door.
    pub fn server_options(&self) -> Option<ServerOptions> {
        locked(&self.0.config).server.clone()
    }

    /// The file that it came from; `None` where it came from the environment.
    pub fn configured_by(&self) -> Option<PathBuf> {
        locked(&self.0.config).file.clone()
    }

    /// Reads the configuration again: pipelines that it does not change go on undisturbed. One that is wrong changes
    /// nothing.
    pub async fn reload(&self) -> Result<Reloaded> {
        let config = Arc::new((self.0.reread)()?);
        let from_the_next_start = self.reopens(&config)?;
        *locked(&self.0.config) = Arc::clone(&config);
        if !from_the_next_start.is_empty() {
            tracing::warn!(
                "what was changed of {} counts from the next start on",
                from_the_next_start.join(", ")
            );
        }
        Ok(Reloaded { from_the_next_start, ..self.takes(&config).await })
    }

    /// Has the door apply what it can; the keys that count from the next start on.
    fn reopens(&self, config: &Config) -> Result<Vec<String>> {
        let before = Arc::clone(&locked(&self.0.config));
        let mut waiting = Vec::new();
        if before.log != config.log {
            waiting.push("log".to_owned());
        }
        let applied = locked(&self.0.reopen).as_ref().map(|reopen| reopen(config)).transpose()?;
        match applied {
            Some(applied) => {
                self.shows_certificate(applied.certificate_until);
                waiting.extend(applied.from_the_next_start);
            }
            None if self.0.keeps && config.server.is_some() => waiting.push("server".to_owned()),
            None => {}
        }
        Ok(waiting)
    }

    /// Asks the door from now on to apply what a reload changes of it.
    pub fn has_door(&self, reopen: Reopen) {
        *locked(&self.0.reopen) = Some(reopen);
    }

    async fn takes(&self, config: &Config) -> Reloaded {
        let mut reloaded = Reloaded::default();
        let wanted: BTreeMap<&str, &Pipeline> =
            config.pipelines.iter().map(|pipeline| (pipeline.name.as_str(), pipeline)).collect();
        let mut leaving = Vec::new();
        for (name, member) in locked(&self.0.members).iter() {
            match wanted.get(name.as_str()) {
                Some(pipeline) if format!("{pipeline:?}") == format!("{:?}", member.pipeline) => {}
                Some(_) => reloaded.changed.push(name.clone()),
                None => reloaded.removed.push(name.clone()),
            }
        }
        for name in reloaded.changed.iter().chain(&reloaded.removed) {
            leaving.extend(locked(&self.0.members).get(name).cloned());
        }
        end(&leaving).await;
        for name in &reloaded.removed {
            locked(&self.0.members).remove(name);
        }
        let known: Vec<String> = locked(&self.0.members).keys().cloned().collect();
        for (name, pipeline) in wanted {
            let is_new = !known.iter().any(|known| known == name);
            if is_new {
                reloaded.added.push(name.to_owned());
            }
            if is_new || reloaded.changed.iter().any(|changed| changed == name) {
                self.adopt(pipeline, config.pipelines.len(), None);
            }
        }
        locked(&self.0.instance).configured_at = now();
        self.publish();
        reloaded
    }

    /// Ends every run after its last commit.
    pub async fn end(&self) {
        let members: Vec<_> = locked(&self.0.members).values().cloned().collect();
        self.0.runs.cancel_all();
        end(&members).await;
        let mut recording = self.0.recording.subscribe();
        // The sender is ours: it cannot be gone. What is not recorded by then is told as interrupted.
        let _ = tokio::time::timeout(RECORD_MAX, recording.wait_for(|runs| *runs == 0)).await;
    }

    /// All there is to know, now and whenever it changes.
    pub fn fleet(&self) -> watch::Receiver<Arc<Fleet>> {
        self.0.fleet.subscribe()
    }

    /// Tells all who look until when the certificate counts that the door shows.
    pub fn shows_certificate(&self, until: Option<jiff::Timestamp>) {
        locked(&self.0.instance).certificate_expires_at = until.map(utc);
        self.publish();
    }

    pub fn runs(&self) -> &Runs {
        &self.0.runs
    }

    /// The configuration of a pipeline.
    pub fn pipeline(&self, name: &str) -> Result<Arc<Pipeline>> {
        self.member(name).map(|member| Arc::clone(&member.pipeline))
    }

    pub fn names(&self) -> Vec<String> {
        locked(&self.0.members).keys().cloned().collect()
    }

    fn member(&self, name: &str) -> Result<Arc<Member>> {
        let members = locked(&self.0.members);
        members.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = members.keys().map(String::as_str).collect();
            unknown_pipeline(name, &known)
        })
    }

    /// Keeps a pipeline from running here and elsewhere; returns when this process has stopped it.
    pub async fn pause(&self, name: &str, reason: Option<&str>) -> Result<()> {
        let member = self.member(name)?;
        let pause = crate::pipeline::record::pause(&member.pipeline, reason).await?;
        member.is_paused(Some(pause));
        member.until_idle(END_MAX).await;
        Ok(())
    }

    /// Lets a pipeline run: that it is paused, was stopped, or waits for its next attempt no longer counts.
    pub async fn resume(&self, name: &str, reason: Option<&str>) -> Result<()> {
        let member = self.member(name)?;
        crate::pipeline::record::resume(&member.pipeline, reason).await?;
        member.is_paused(None);
        member.wish.send_replace(Wish::Run);
        member.nudge.notify_one();
        Ok(())
    }

    // ---- telling ----

    async fn publishes(self) {
        let mut told = self.0.runs.changes();
        loop {
            tokio::time::sleep(PUBLISH_EVERY).await;
            let changed = told.has_changed().unwrap_or(false);
            told.mark_unchanged();
            let members = locked(&self.0.members).values().any(|member| member.has_changed());
            if changed || members {
                self.publish();
            }
        }
    }

    fn publish(&self) {
        let instance = {
            let mut instance = locked(&self.0.instance);
            instance.at = now();
            instance.clone()
        };
        let members: Vec<_> = locked(&self.0.members).values().cloned().collect();
        let pipelines = members.iter().map(|member| member.overview(&self.0.runs)).collect();
        self.0.fleet.send_replace(Arc::new(Fleet { instance, pipelines }));
    }
}

async fn end(members: &[Arc<Member>]) {
    for member in members {
        member.wish.send_replace(Wish::End);
        member.nudge.notify_one();
    }
    for member in members {
        member.until_idle(END_MAX).await;
    }
}

/// Keeps it on a thread of its own, and again after a panic.
async fn keep(member: Arc<Member>) {
    loop {
        let kept = Arc::clone(&member);
        if alone::alone(&member.pipeline.name, move || keeper::keep(kept)).await.is_ok() {
            return;
        }
        tracing::error!(pipeline = member.pipeline.name, "its keeper has panicked, and begins again");
        tokio::time::sleep(PANIC_PAUSE).await;
    }
}
