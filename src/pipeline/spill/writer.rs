//! What reads the slot while there is a spill: it fills the archive beside the pump that drains it, and confirms to the
//! source what is sealed.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::archive::line::Origin as LineageLine;
use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::lock;
use crate::pipeline::archiving::{limits, type_names};
use crate::pipeline::meter::Meter;
use crate::pipeline::monitor::Link;
use crate::pipeline::spill::Spill;
use crate::pipeline::spill::place::named;
use crate::pipeline::streaming::{explained, start_stream, stream_options};
use crate::plan::Plan;
use crate::position::Lsn;
use crate::pump::{Command, Pump};
use crate::source::postgres::stream::{Format, PostgresSource};
use crate::store::AnyStore;
use crate::target::archive::{ArchiveTarget, Making, Opened, claim};

/// A writer that has its claim and does not read the slot yet.
pub(super) struct Ready {
    target: ArchiveTarget,
    from: Lsn,
    /// The end of what is sealed already.
    head: Option<Lsn>,
}

impl Ready {
    /// `from`: where an archive without a sealed file begins.
    pub(super) async fn claim(
        spill: &Spill,
        store: Arc<AnyStore>,
        opened: &Opened,
        making: &Making,
        from: Lsn,
    ) -> Result<Ready> {
        let pipeline = &spill.pipeline;
        let types = Arc::new(type_names(&mut spill.ends.source().await?).await?);
        let host = lock::host_name();
        let claimed = claim(&store, opened, &pipeline.name, &pipeline.slot, &host, &making.keys);
        let claimed = claimed.await.map_err(named)?;
        let head = opened.head.as_ref();
        let from = head.map_or(from, |head| head.to);
        let lineage = LineageLine::from(&spill.lineage);
        let target = ArchiveTarget::new(store, head, claimed, lineage, making.clone(), types, from);
        Ok(Ready { target, from, head: opened.head.as_ref().map(|head| head.to) })
    }

    /// Begins to read: the slot must be free.
    pub(super) async fn begin(self, spill: &Spill) -> Result<Writer> {
        let options = stream_options(&spill.pipeline, self.from, Format::Text);
        let stream = start_stream(&spill.ends.origin(), options).await?;
        Ok(self.begin_with(spill, stream))
    }

    /// The same, with a stream that goes on from where the archive ends.
    pub(super) fn begin_with(self, spill: &Spill, mut stream: PostgresSource) -> Writer {
        let Ready { mut target, from, head } = self;
        let meter = Arc::new(Meter::default());
        let (commands, mut link) = Link::without_monitor(Arc::clone(&meter));
        let pipeline = spill.pipeline.clone();
        let task = tokio::spawn(async move {
            let mut plan = Plan::of_all(Box::new(|_| true));
            let limits = limits(&pipeline);
            let pump = Pump::new(&mut stream, &mut target, &mut link, &mut plan, limits, from);
            pump.run().await.map_err(|error| failed(&pipeline, error))?;
            stream.finish().await;
            Ok(())
        });
        Writer { task, commands, meter, head }
    }
}

/// Whoever runs the pipeline holds its lock: a file that another has written is of an attempt of its own, which was still
/// at it. The next one takes it as it is.
fn failed(pipeline: &Pipeline, error: Error) -> Error {
    let error = named(explained(pipeline, error));
    if error.kind() == Kind::Locked { error.with_kind(Kind::TargetUnreachable) } else { error }
}

/// A pipeline owns its tasks: dropping this ends it, which is the same as a crash.
pub(super) struct Writer {
    task: JoinHandle<Result<()>>,
    commands: mpsc::Sender<Command>,
    meter: Arc<Meter>,
    head: Option<Lsn>,
}

impl Writer {
    /// The end of what is sealed; `None` where no file is.
    pub(super) fn sealed(&self) -> Option<Lsn> {
        self.meter.progress(0).position.or(self.head)
    }

    /// Has it seal what it has, and end.
    pub(super) fn stop(&self) {
        // One that has ended needs no command; the channel has room for it.
        let _ = self.commands.try_send(Command::Stop);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// How it ended.
    pub(super) async fn ended(&mut self) -> Result<()> {
        (&mut self.task)
            .await
            .map_err(|error| Error::unexpected("the spill's writer failed").because(error))?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
