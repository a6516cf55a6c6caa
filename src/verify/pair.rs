//! A session with each side, both reading the snapshots that are to be compared.

use std::sync::Arc;

use super::digest::Hashing;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::replication::TEXT_FORMAT;
use crate::pg::session::{Row, Session, Side};
use crate::pipeline::ends::Ends;

/// Where the sessions of a comparison go, and which snapshots they read.
pub(super) struct Place {
    pub(super) ends: Ends,
    /// The source's, the target's.
    pub(super) snapshots: [String; 2],
}

/// A session with each side.
pub(super) struct Pair {
    pub(super) source: Session,
    pub(super) target: Session,
    pub(super) place: Arc<Place>,
}

impl Pair {
    pub(super) async fn open(place: &Arc<Place>) -> Result<Pair> {
        let (source, target) =
            tokio::try_join!(reader(&place.ends, Side::Source), reader(&place.ends, Side::Target))?;
        Ok(Pair { source, target, place: place.clone() })
    }

    /// Asks both sides at once. Not cancel safe; waits for both even if one fails, so that both stay in step.
    pub(super) async fn ask(&mut self, source: &str, target: &str) -> Result<(Vec<Row>, Vec<Row>)> {
        let (source, target) = tokio::join!(self.source.query(source), self.target.query(target));
        Ok((source?, target?))
    }

    pub(super) async fn begin(&mut self) -> Result<()> {
        let begin = |snapshot: &str| {
            let snapshot = quote::literal(snapshot);
            format!("begin isolation level repeatable read read only; set transaction snapshot {snapshot}")
        };
        let [source, target] = self.place.snapshots.each_ref().map(|snapshot| begin(snapshot));
        self.ask(&source, &target).await.map(drop)
    }

    pub(super) async fn end(&mut self) -> Result<()> {
        self.ask("rollback", "rollback").await.map(drop)
    }

    /// The servers' own hash where both compute the same from the same text.
    pub(super) async fn hashing(&mut self) -> Result<Hashing> {
        let encoding = |session: &Session| session.parameter("server_encoding").map(str::to_owned);
        if encoding(&self.source) != encoding(&self.target) {
            return Ok(Hashing::Md5);
        }
        let probe = Hashing::probe();
        let (source, target) = self.ask(&probe, &probe).await?;
        let answer = |rows: &[Row]| rows.first().map(|row| row.string(0));
        Ok(if answer(&source) == answer(&target) { Hashing::Text } else { Hashing::Md5 })
    }

    /// Does `work` under the snapshots. What a server refuses is handed back as a text, a lost connection as an error.
    pub(super) async fn under_snapshots<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Pair) -> Result<T>,
    ) -> Result<Result<T, String>> {
        self.begin().await?;
        let done = work(self).await;
        if let Err(error) = &done
            && error.retries()
        {
            return done.map(Ok);
        }
        self.end().await?;
        Ok(done.map_err(|error| error.chain()))
    }
}

/// A session that reads values as both sides write them, and cannot write.
async fn reader(ends: &Ends, side: Side) -> Result<Session> {
    let conninfo = match side {
        Side::Source => &ends.source,
        Side::Target => &ends.target,
    };
    let options = format!("{TEXT_FORMAT} -c default_transaction_read_only=on -c row_security=off -c jit=off");
    let mut session = Session::connect(conninfo, side, &[("options", &options)]).await?;
    // Lets the server give up a long statement when we are gone; not every system can.
    let noticing = session.query("set client_connection_check_interval = '10s'").await;
    match noticing {
        Err(error) if error.retries() => Err(error),
        _ => Ok(session),
    }
}
