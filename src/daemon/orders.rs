//! What doors may have done to a pipeline, as data, and how it is begun.

use std::sync::Arc;

use serde_json::{Value, json};

use tokio::sync::oneshot;

use super::runs::{Asked, Begun, Scope, pipeline_of};
use super::{Daemon, on_its_own};
use crate::config::{Mode, Pipeline, Way};
use crate::error::{Error, Result};
use crate::pg::session::Session;
use crate::pipeline::asked::{self, Recorded};
use crate::pipeline::{self, record};
use crate::snapshot::{self, SyncOptions};
use crate::status::fleet::{Overview, Pause, Run, State};
use crate::status::{KeySync, Progress};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// A fresh copy of the whole source; of a Redis server, a look at every key.
    Sync { adopt: bool, accept_losses: bool },
    /// Both sides compared; no tables means all.
    Verify { tables: Vec<String> },
    /// Tables copied again.
    Resync { tables: Vec<String> },
    /// One key of a Redis server looked at.
    Key { database: u32, key: Vec<u8> },
    /// The generation put back, or the one before the one that serves.
    Rollback { generation: Option<i64> },
}

/// Who gives an order, how and why.
#[derive(Debug, Clone)]
pub struct Orderer {
    /// `api` or `console`.
    pub by: &'static str,
    pub actor: String,
    pub reason: Option<String>,
    pub idempotency_key: Option<String>,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The run with this id does it.
    Run(String),
    /// The run with this id does the same already, asked for by somebody else.
    Busy(String),
    /// Another process does it, or the schedule: who.
    BusyElsewhere(String),
    Paused(Pause),
    /// The idempotency key stands for another order.
    Misused,
}

impl Order {
    fn verb(&self) -> &'static str {
        match self {
            Order::Sync { .. } => "sync",
            Order::Verify { .. } => "verify",
            Order::Resync { .. } | Order::Key { .. } => "resync",
            Order::Rollback { .. } => "rollback",
        }
    }

    fn subject(&self) -> Vec<String> {
        match self {
            Order::Sync { adopt, accept_losses } => {
                let words = [(adopt, "adopt"), (accept_losses, "accept losses")];
                words.into_iter().filter(|(is, _)| **is).map(|(_, word)| word.to_owned()).collect()
            }
            Order::Verify { tables } | Order::Resync { tables } => tables.clone(),
            Order::Key { key, .. } => vec![key.escape_ascii().to_string()],
            Order::Rollback { generation } => generation.iter().map(ToString::to_string).collect(),
        }
    }

    /// Whether it is only looked, so that a pause does not matter.
    fn only_looks(&self) -> bool {
        matches!(self, Order::Verify { .. })
    }
}

impl Daemon {
    /// Begins what is ordered, or says why not.
    pub async fn order(&self, name: &str, order: Order, orderer: Orderer) -> Result<Answer> {
        let member = self.member(name)?;
        let pipeline = Arc::clone(&member.pipeline);
        refuse(&pipeline, &order)?;
        if !order.only_looks() {
            let asked = Arc::clone(&pipeline);
            let pause =
                on_its_own("looking for a pause", async move || record::pause_of(&asked).await).await?;
            member.is_paused(pause.clone());
            if let Some(pause) = pause {
                return Ok(Answer::Paused(pause));
            }
        }
        if let Some(busy) = self.busy_elsewhere(name, &order) {
            return Ok(Answer::BusyElsewhere(busy));
        }
        let asked = Asked {
            pipeline: name.to_owned(),
            verb: order.verb(),
            subject: order.subject(),
            by: orderer.by,
            actor: orderer.actor,
            reason: orderer.reason.clone(),
            idempotency_key: orderer.idempotency_key,
        };
        let (go, begins) = oneshot::channel::<()>();
        let (key, wanted) = (asked.idempotency_key.clone(), asked.what());
        let kept = Arc::clone(&pipeline);
        let begun = self.0.runs.begin(asked, move |scope| async move {
            if begins.await.is_err() {
                return Err(Error::unexpected("it was not begun"));
            }
            let done = Box::pin(follow(&pipeline, order, orderer.reason.as_deref(), scope)).await;
            member.look.notify_one();
            member.measure.notify_one();
            done
        })?;
        match begun {
            Begun::New(id) => self.recorded(kept, id, key, &wanted, go).await,
            Begun::Known(id) => Ok(Answer::Run(id)),
            Begun::Busy(id) => Ok(Answer::Busy(id)),
            Begun::Misused => Ok(Answer::Misused),
        }
    }

    /// Lets a run begin once it is recorded, so that whoever asks again after our end is told of it.
    async fn recorded(
        &self,
        pipeline: Arc<Pipeline>,
        id: String,
        key: Option<String>,
        wanted: &str,
        go: oneshot::Sender<()>,
    ) -> Result<Answer> {
        let run = self.0.runs.run(&id).ok_or_else(|| Error::unexpected("the run is gone"))?;
        let (of, with, what) = (Arc::clone(&pipeline), key.clone(), wanted.to_owned());
        let recorded = on_its_own("recording a run", async move || {
            asked::begin(&of, &run, with.as_deref(), &what).await
        });
        match recorded.await {
            Ok(Recorded::New(session)) => self.keep_outcome(pipeline, id.clone(), session),
            Ok(Recorded::Nowhere) => {}
            Ok(Recorded::Known(run, before)) => {
                self.0.runs.forget(&id);
                let known = run.id.clone();
                self.0.runs.remember(*run);
                return Ok(if before == wanted { Answer::Run(known) } else { Answer::Misused });
            }
            // Whoever sends a key counts on it, and can send it again.
            Err(error) if key.is_some() => {
                self.0.runs.forget(&id);
                return Err(error);
            }
            Err(error) => tracing::warn!(
                hint = error.hint_text(),
                "run {id} is known until this process ends: it could not be recorded: {}",
                error.chain()
            ),
        }
        // It waits for this.
        let _ = go.send(());
        Ok(Answer::Run(id))
    }

    /// Waits for a run's end and records it.
    fn keep_outcome(&self, pipeline: Arc<Pipeline>, id: String, mut session: Box<Session>) {
        let daemon = self.clone();
        daemon.0.recording.send_modify(|runs| *runs += 1);
        tokio::spawn(async move {
            let runs = daemon.0.runs.clone();
            let kept = on_its_own("a run's end", async move || {
                let Some(run) = runs.ended(&id).await else { return Ok(()) };
                asked::end(&pipeline, &mut session, &run).await
            });
            if let Err(error) = kept.await {
                tracing::warn!("the end of a run could not be recorded: {}", error.chain());
            }
            daemon.0.recording.send_modify(|runs| *runs -= 1);
        });
    }

    /// A run of this process, or one that was recorded by another or by one before it.
    pub async fn run(&self, id: &str) -> Result<Option<Run>> {
        if let Some(run) = self.0.runs.run(id) {
            return Ok(Some(run));
        }
        let Some(pipeline) = pipeline_of(id).and_then(|name| self.pipeline(name).ok()) else {
            return Ok(None);
        };
        let wanted = id.to_owned();
        let found =
            on_its_own("looking for a run", async move || asked::find(&pipeline, &wanted).await).await?;
        if let Some(run) = &found {
            self.0.runs.remember(run.clone());
        }
        Ok(found)
    }

    /// A sync that was not asked for through this process.
    fn busy_elsewhere(&self, name: &str, order: &Order) -> Option<String> {
        if !matches!(order, Order::Sync { .. } | Order::Rollback { .. }) {
            return None;
        }
        let fleet = self.fleet();
        let fleet = fleet.borrow();
        let overview: &Overview = fleet.pipelines.iter().find(|one| one.name == name)?;
        // One of ours has an id to be told.
        if overview.runs.iter().any(|run| run.verb == order.verb()) {
            return None;
        }
        let Some(State::Snapshot(status)) = &overview.state else { return None };
        let run = status.running.as_ref()?;
        Some(format!("a {} is under way since {}, by {}", run.verb, run.started, run.actor))
    }
}

/// What makes no sense for such a pipeline.
fn refuse(pipeline: &Pipeline, order: &Order) -> Result<()> {
    let is_snapshot = pipeline.mode == Mode::Snapshot;
    let refuse = |what: &str, hint: &str| {
        Err(Error::config(format!("pipeline \"{}\" {what}", pipeline.name)).hint(hint))
    };
    match order {
        Order::Sync { .. } if !is_snapshot && pipeline.way() != Way::FromRedis => refuse(
            "follows its source by itself: there is nothing to sync",
            "to have tables copied again: resync",
        ),
        Order::Rollback { .. } if !is_snapshot => {
            refuse("has no generations", "only with mode = \"snapshot\" there are older copies")
        }
        Order::Verify { .. } | Order::Resync { .. } if is_snapshot => refuse(
            "is copied as a whole, and compared before each swap",
            "sync it; snapshot.verify says how it is compared",
        ),
        Order::Resync { tables } if tables.is_empty() && pipeline.way() != Way::FromRedis => {
            refuse("has tables, and none is named", "name the tables to be copied again")
        }
        Order::Key { .. } if pipeline.way() != Way::FromRedis => {
            refuse("has no keys", "only the source of a Redis pipeline has keys")
        }
        Order::Verify { tables } | Order::Resync { tables } => names(tables).map(drop),
        _ => Ok(()),
    }
}

/// Does it; `None` where it was cancelled.
async fn follow(
    pipeline: &Pipeline,
    order: Order,
    reason: Option<&str>,
    scope: Scope,
) -> Result<Option<Value>> {
    let cancelled = scope.cancelled();
    match order {
        Order::Sync { adopt, accept_losses } if pipeline.mode == Mode::Snapshot => {
            let reason = reason.map(str::to_owned);
            let options = SyncOptions { reason, adopt, accept_losses, ..SyncOptions::default() };
            let promoted = snapshot::sync(pipeline, &options, &scope.progress, cancelled).await?;
            return promoted.map(|promoted| value(&promoted)).transpose();
        }
        _ => {}
    }
    let work = async {
        match order {
            Order::Sync { .. } => {
                pipeline::resync(pipeline, &[], reason).await?;
                Ok(json!({ "requested": "a look at every key" }))
            }
            Order::Verify { .. } if pipeline.way() == Way::FromRedis => {
                say(&scope, "comparing keys with rows");
                value(&pipeline::verify_keys(pipeline).await?)
            }
            Order::Verify { tables } => {
                say(&scope, "comparing both sides");
                value(&pipeline::verify(pipeline, &names(&tables)?).await?)
            }
            Order::Resync { tables } => {
                pipeline::resync(pipeline, &names(&tables)?, reason).await?;
                Ok(json!({ "requested": tables }))
            }
            Order::Key { database, key } => {
                let done = pipeline::sync_key(pipeline, database, &key, reason).await?;
                Ok(json!({ "synced": done == KeySync::Done }))
            }
            Order::Rollback { generation } => value(&snapshot::rollback(pipeline, generation, reason).await?),
        }
    };
    tokio::select! {
        done = Box::pin(work) => done.map(Some),
        () = cancelled => Ok(None),
    }
}

fn say(scope: &Scope, doing: &str) {
    scope.progress.send_replace(Progress { doing: doing.into(), ..Progress::default() });
}

fn names(tables: &[String]) -> Result<Vec<crate::change::TableName>> {
    tables.iter().map(|name| record::table_of(name)).collect()
}

fn value(result: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(result).map_err(|error| Error::unexpected("a result is no JSON").because(error))
}
