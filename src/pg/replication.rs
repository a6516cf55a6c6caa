//! The replication half of the protocol: slots, and the two-way copy stream that `START_REPLICATION` opens.

use bytes::{BufMut, Bytes};

use crate::error::{Error, Result};
use crate::pg::conninfo::ConnInfo;
use crate::pg::quote;
use crate::pg::session::{Session, Side};
use crate::position::Lsn;

/// What a server says of itself.
#[derive(Debug, Clone)]
pub struct SystemIdentity {
    pub system_identifier: u64,
    pub timeline: u32,
    /// Flush position of the write-ahead log.
    pub position: Lsn,
}

/// A newly created slot.
#[derive(Debug, Clone)]
pub struct CreatedSlot {
    /// The exported snapshot shows exactly the transactions whose commit ends at or before this position; the slot
    /// decodes exactly those after it (`SnapBuildXactNeedsSkip`).
    pub consistent_point: Lsn,
    /// Valid until the next command on the session that created the slot.
    pub snapshot: Option<String>,
}

/// What a server says while it streams.
#[derive(Debug)]
pub enum Incoming {
    Frame(Bytes),
    /// What it remarks, of whatever severity the session asks for.
    Notice(String),
}

/// How long a slot lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotLife {
    Permanent,
    /// Dropped with the session.
    Temporary,
}

/// Run-time parameters under which values are written as text the same on any server.
pub const TEXT_FORMAT: &str = "-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 -c timezone=UTC \
     -c bytea_output=hex -c array_nulls=on -c lc_monetary=C -c xmloption=content -c search_path= -c statement_timeout=0 \
     -c lock_timeout=0 -c idle_in_transaction_session_timeout=0";

impl Session {
    /// Connects in replication mode to the database that `conninfo` names.
    pub async fn connect_replication(conninfo: &ConnInfo) -> Result<Session> {
        Session::connect_replication_with(conninfo, "").await
    }

    /// The same, with further run-time parameters.
    pub async fn connect_replication_with(conninfo: &ConnInfo, further: &str) -> Result<Session> {
        let options = format!("{TEXT_FORMAT} {further}");
        let parameters = [("replication", "database"), ("options", options.trim_end())];
        Session::connect(conninfo, Side::Source, &parameters).await
    }

    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let row = self.one("IDENTIFY_SYSTEM").await?;
        Ok(SystemIdentity { system_identifier: row.get(0)?, timeline: row.get(1)?, position: row.get(2)? })
    }

    /// Where `timeline` left its ancestor; `None` when that is none of its ancestors.
    pub async fn timeline_left(&mut self, timeline: u32, ancestor: u32) -> Result<Option<Lsn>> {
        let history = self.one(&format!("TIMELINE_HISTORY {timeline}")).await?.string(1);
        // A line for each ancestor: its number, where it was left, why.
        let mut lines = history.lines().map(str::split_whitespace);
        let left = lines.find_map(|mut words| {
            (words.next()?.parse() == Ok(ancestor)).then_some(())?;
            words.next()
        });
        left.map(str::parse).transpose()
    }

    /// Creates a logical slot for pgoutput; waits until all transactions that are running at the source have ended.
    pub async fn create_slot(&mut self, name: &str, life: SlotLife) -> Result<CreatedSlot> {
        self.create_slot_of("pgoutput", name, life).await
    }

    /// The same for any output plugin.
    pub async fn create_slot_of(&mut self, plugin: &str, name: &str, life: SlotLife) -> Result<CreatedSlot> {
        let temporary = if life == SlotLife::Temporary { "TEMPORARY " } else { "" };
        let (name, plugin) = (quote::identifier(name), quote::identifier(plugin));
        let sql = format!("CREATE_REPLICATION_SLOT {name} {temporary}LOGICAL {plugin} EXPORT_SNAPSHOT");
        let row = self.one(&sql).await?;
        Ok(CreatedSlot { consistent_point: row.get(1)?, snapshot: row.text(2).map(str::to_owned) })
    }

    /// Begins streaming. `options` are the plugin's, in SQL quoting.
    pub async fn start_replication(&mut self, slot: &str, from: Lsn, options: &str) -> Result<()> {
        if self.parameter("server_encoding") == Some("SQL_ASCII") {
            // It may hold bytes of any encoding. Checked at the source, the first that is no UTF-8 would end every stream;
            // as they are, the target judges each table's.
            self.query("set client_encoding = 'SQL_ASCII'").await?;
        }
        let slot = quote::identifier(slot);
        self.send_query(&format!("START_REPLICATION SLOT {slot} LOGICAL {from} ({options})"))?;
        self.flush().await?;
        let message = self.message().await?;
        match message.tag {
            b'W' => Ok(()),
            b'E' => Err(self.server_error(&message.body)),
            tag => Err(Error::unexpected(format!(
                "the source answered START_REPLICATION with message type {:?}",
                char::from(tag)
            ))),
        }
    }

    /// The next frame of a started replication. Cancel safe.
    pub async fn replication_frame(&mut self) -> Result<Bytes> {
        loop {
            if let Some(frame) = self.buffered_replication_frame()? {
                return Ok(frame);
            }
            self.receive().await?;
        }
    }

    /// A frame that is already here.
    pub fn buffered_replication_frame(&mut self) -> Result<Option<Bytes>> {
        while let Some(incoming) = self.buffered_replication()? {
            if let Incoming::Frame(frame) = incoming {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// A frame or a remark that is already here.
    pub fn buffered_replication(&mut self) -> Result<Option<Incoming>> {
        while let Some(message) = self.buffered_message()? {
            match message.tag {
                b'd' => return Ok(Some(Incoming::Frame(message.body))),
                b'N' => return Ok(Some(Incoming::Notice(Session::notice_text(&message.body)))),
                b'E' => return Err(self.server_error(&message.body)),
                b'c' | b'C' => {
                    return Err(Error::new(
                        self.side().unreachable(),
                        "the source ended the replication stream",
                    )
                    .hint("It may be shutting down; the pipeline connects again."));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Sends one frame of ours: a status update.
    pub async fn send_replication_frame(&mut self, frame: &[u8]) -> Result<()> {
        self.out.put_u8(b'd');
        self.out.put_u32(u32::try_from(frame.len() + 4).expect("a status update is short"));
        self.out.put_slice(frame);
        self.flush().await
    }
}
