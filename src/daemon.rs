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

use crate::config::{Config, Effective, Pipeline};
use crate::error::{Error, Result};
use crate::schedule::utc;
use crate::status::fleet::{Fleet, Instance};
use member::{Member, Wish};

pub use alone::on_its_own;
pub use orders::{Answer, Order, Orderer};
pub use runs::{Asked, Begun, Runs, Scope};

/// How often those who watch are told, at most.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);
/// Before a keeper that panicked begins again.
const PANIC_PAUSE: Duration = Duration::from_secs(5);
/// How long pipelines that are to end may take.
const END_MAX: Duration = Duration::from_mins(1);

/// Pipelines, and how each does. Cheap to clone.
#[derive(Clone)]
pub struct Daemon(Arc<Shared>);

/// Reads the configuration again.
pub type Reread = Box<dyn Fn() -> Result<Config> + Send + Sync>;

struct Shared {
    config: Mutex<Arc<Config>>,
    reread: Reread,
    members: Mutex<BTreeMap<String, Arc<Member>>>,
    runs: Runs,
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
}

impl Daemon {
    /// Runs all pipelines.
    pub fn start(config: Config, reread: Reread) -> Daemon {
        Daemon::new(config, reread, true)
    }

    /// Looks at all pipelines and runs none.
    pub fn observe(config: Config, reread: Reread) -> Daemon {
        Daemon::new(config, reread, false)
    }

    fn new(config: Config, reread: Reread, keeps: bool) -> Daemon {
        let instance = Instance {
            host: crate::lock::host_name(),
            process_id: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: now(),
            at: now(),
            configured_at: now(),
        };
        let fleet = watch::Sender::new(Arc::new(Fleet { instance: instance.clone(), pipelines: Vec::new() }));
        let config = Arc::new(config);
        let shared = Shared {
            config: Mutex::new(Arc::clone(&config)),
            reread,
            members: Mutex::default(),
            runs: Runs::default(),
            fleet,
            instance: Mutex::new(instance),
            keeps,
        };
        let daemon = Daemon(Arc::new(shared));
        let count = config.pipelines.len();
        for pipeline in &config.pipelines {
            daemon.adopt(pipeline, count);
        }
        daemon.publish();
        tokio::spawn(daemon.clone().publishes());
        daemon
    }

    fn adopt(&self, pipeline: &Pipeline, count: usize) {
        let member = Arc::new(Member::new(pipeline.clone()));
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

    /// The file that it came from; `None` where it came from the environment.
    pub fn configured_by(&self) -> Option<PathBuf> {
        locked(&self.0.config).file.clone()
    }

    /// Reads the configuration again: pipelines that it does not change go on undisturbed. One that is wrong changes
    /// nothing.
    pub async fn reload(&self) -> Result<Reloaded> {
        let config = Arc::new((self.0.reread)()?);
        *locked(&self.0.config) = Arc::clone(&config);
        Ok(self.takes(&config).await)
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
                self.adopt(pipeline, config.pipelines.len());
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
    }

    /// All there is to know, now and whenever it changes.
    pub fn fleet(&self) -> watch::Receiver<Arc<Fleet>> {
        self.0.fleet.subscribe()
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
        locked(&self.0.members).get(name).cloned().ok_or_else(|| {
            let names = self.names();
            let near = crate::config::nearest(name, names.iter().map(String::as_str));
            let error = Error::config(format!("there is no pipeline \"{name}\""));
            match near {
                Some(near) => error.hint(format!("is \"{near}\" meant?")),
                None => error.hint(format!("configured are: {}", names.join(", "))),
            }
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
