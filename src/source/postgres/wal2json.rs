//! From wal2json's messages (format 2) to events: the same that [`assemble`](super::assemble) makes of pgoutput's.
//!
//! ```text
//! frame, notice -> held -> [described] what the catalog says of their tables, asked after they came -> [shape] events
//! ```
//!
//! wal2json names columns and types as of the change's own moment, and says neither a table's OID, nor which columns are
//! computed, nor what kind of identity there is. The catalog does, as of now. What it says is asked once for all that was
//! received and before any of it becomes an event: where the answer is the one of the time before, it held at every
//! moment in between, since a table's OID does not come back. Where it is another, changes that are a little older
//! count as the new table's, which stops whoever follows the old one: never the other way round.
//!
//! Transactions come whole and committed, so nothing is spooled.

mod described;
mod shape;
mod special;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::archive::row::{Op, Row};
use crate::archive::wal2json::{self, Begin, Said};
use crate::change::{Change, Event, Relation, TableName, Transaction};
use crate::error::{Error, Kind, Result};
use crate::pg::conninfo::ConnInfo;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::position::Lsn;
use crate::source::postgres::assemble::Chunk;

use described::{Described, describe};
use shape::Shape;
use special::Told;

/// Which tables are wanted.
pub type Wanted = Arc<dyn Fn(&TableName) -> bool + Send + Sync>;

/// What is read of a slot of wal2json's.
#[derive(Clone)]
pub struct Options {
    pub wanted: Wanted,
    /// Tables that the server need not send others than: `*` stands for any schema or any name. Empty: all of them.
    pub sent: Vec<(String, String)>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("sent", &self.sent).finish_non_exhaustive()
    }
}

/// How the plugin says numbers that JSON has no word for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// As texts, as all numbers: wal2json 2.6 and newer.
    Texts,
    /// As `null`, with a notice beside it.
    Notices,
}

impl Numbers {
    /// What the session must be set to: an older wal2json says its losses at the level `debug1`, and what it leaves out as
    /// a warning.
    pub fn level(self) -> &'static str {
        match self {
            Numbers::Texts => "-c client_min_messages=warning",
            Numbers::Notices => "-c client_min_messages=debug1",
        }
    }
}

/// Whether this is the refusal of an option that the server's wal2json does not have yet.
pub fn is_older(error: &Error) -> bool {
    error.sqlstate() == Some("22023") && error.what().contains("numeric-data-types-as-string")
}

impl Options {
    /// The plugin's options, in SQL quoting.
    pub fn text(&self, numbers: Numbers) -> String {
        let mut text = "\"format-version\" '2', \"include-transaction\" 'on', \"include-xids\" 'on', \
             \"include-timestamp\" 'on', \"include-lsn\" 'on', \"include-types\" 'off', \"include-type-oids\" 'on', \
             \"include-column-positions\" 'on'"
            .to_owned();
        text.push_str(match numbers {
            Numbers::Texts => ", \"numeric-data-types-as-string\" 'on'",
            Numbers::Notices => ", \"include-not-null\" 'on'",
        });
        // Before 2.6 a server says nothing while it passes over a large transaction, and gives the connection up.
        if numbers == Numbers::Texts && !self.sent.is_empty() {
            let tables: Vec<String> =
                self.sent.iter().map(|(schema, name)| format!("{schema}.{name}")).collect();
            text.push_str(&format!(", \"add-tables\" {}", quote::literal(&tables.join(","))));
        }
        text
    }
}

/// What has come and is not an event yet.
enum Held {
    Message(Bytes),
    Notice(String),
    Keepalive { end: Lsn, urgent: bool },
}

pub struct Assembler {
    /// An ordinary session, for the catalog.
    catalog: Session,
    wanted: Wanted,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// What the catalog said since the last of what is held came; `None`: there is no such table.
    fresh: HashMap<TableName, Option<Arc<Described>>>,
    /// What it said when it was asked last.
    known: HashMap<TableName, Arc<Described>>,
    /// The tables of what came the time before: likely those of what comes now.
    recent: Vec<TableName>,
    shapes: HashMap<TableName, Shape>,
    /// Between `B` and `C`.
    transaction: Option<Open>,
    /// Tables that one statement empties come one by one.
    truncated: Option<(Option<Lsn>, Vec<Arc<Relation>>)>,
    /// What the server has said beside the next message.
    told: Told,
    /// Tables that were gone before anything was known of them.
    nameless: u32,
}

/// A transaction that has begun.
struct Open {
    transaction: Transaction,
    end_lsn: Lsn,
    /// Whether anybody has been told: most of a server's transactions are not about wanted tables.
    is_told: bool,
}

impl Assembler {
    pub async fn connect(conninfo: &ConnInfo, options: &Options) -> Result<Assembler> {
        Ok(Assembler {
            catalog: described::connect(conninfo).await?,
            wanted: Arc::clone(&options.wanted),
            held: VecDeque::new(),
            held_bytes: 0,
            fresh: HashMap::new(),
            known: HashMap::new(),
            recent: Vec::new(),
            shapes: HashMap::new(),
            transaction: None,
            truncated: None,
            told: Told::default(),
            nameless: 0,
        })
    }

    /// Takes one message; it becomes events with [`Assembler::release`].
    pub fn message(&mut self, body: Bytes) {
        self.held_bytes += body.len();
        self.held.push_back(Held::Message(body));
    }

    pub fn notice(&mut self, text: String) {
        self.held_bytes += text.len();
        self.held.push_back(Held::Notice(text));
    }

    pub fn keepalive(&mut self, end: Lsn, urgent: bool) {
        self.held.push_back(Held::Keepalive { end, urgent });
    }

    /// Bytes that wait for [`Assembler::release`].
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Makes events of all that was taken.
    pub async fn release(&mut self, out: &mut Chunk) -> Result<()> {
        if !self.fresh.is_empty() {
            self.recent = self.fresh.drain().map(|(table, _)| table).collect();
        }
        self.held_bytes = 0;
        while let Some(held) = self.held.pop_front() {
            match held {
                Held::Message(body) => self.say(&body, out).await?,
                Held::Notice(text) => self.told.hear(&text, &*self.wanted)?,
                // Its position is that of what has been sent: inside a transaction that says nothing.
                Held::Keepalive { end, urgent } if self.transaction.is_none() => {
                    out.push(Event::Idle { position: end, urgent });
                }
                Held::Keepalive { .. } => {}
            }
        }
        Ok(())
    }

    async fn say(&mut self, body: &[u8], out: &mut Chunk) -> Result<()> {
        let text = std::str::from_utf8(body).map_err(|_| malformed("it is not UTF-8"))?;
        let said = wal2json::parse_2(text).map_err(|what| malformed(&what))?;
        match said {
            Said::Begin(begin) => self.begin(&begin)?,
            Said::Row(row) if !(self.wanted)(&row.table) => {}
            Said::Row(row) => self.row(row, out).await?,
            Said::Commit => self.commit(out)?,
            // What another session says in the log is no change.
            Said::Message => {}
        }
        self.told.forget();
        Ok(())
    }

    fn begin(&mut self, begin: &Begin) -> Result<()> {
        let (Some(xid), Some(commit_lsn), Some(end_lsn)) = (begin.xid, begin.commit_lsn, begin.end_lsn)
        else {
            return Err(malformed("a transaction begins without its number and positions"));
        };
        if self.transaction.is_some() || end_lsn <= commit_lsn {
            return Err(malformed("a transaction begins inside another, or ends before it commits"));
        }
        let transaction = Transaction { xid, commit_lsn, committed_at_us: begin.committed_at_us };
        self.transaction = Some(Open { transaction, end_lsn, is_told: false });
        Ok(())
    }

    fn commit(&mut self, out: &mut Chunk) -> Result<()> {
        self.end_truncation(out)?;
        let open =
            self.transaction.take().ok_or_else(|| malformed("a transaction ends that has not begun"))?;
        out.push(if open.is_told {
            Event::Commit(open.end_lsn)
        } else {
            Event::Idle { position: open.end_lsn, urgent: false }
        });
        Ok(())
    }

    async fn row(&mut self, mut row: Row<'_>, out: &mut Chunk) -> Result<()> {
        let described = self.described(&row.table).await?;
        if described.as_ref().is_some_and(|described| !described.is_carried) {
            return Ok(());
        }
        if row.op != Op::Truncate {
            self.end_truncation(out)?;
        }
        let lost = self.told.fill(&mut row)?;
        let before = self.shapes.get(&row.table);
        if !before.is_some_and(|before| before.fits(&row, described.as_ref())) {
            let nameless = u32::MAX - self.nameless;
            let shape = Shape::of(&row, described.as_ref(), before, nameless);
            self.nameless += u32::from(shape.relation.id == nameless);
            self.shapes.insert(row.table.clone(), shape);
        }
        let shape = &self.shapes[&row.table];
        if row.op == Op::Truncate {
            let relation = Arc::clone(&shape.relation);
            return self.truncate(row.lsn, relation, out);
        }
        let change =
            shape.change(&row, &lost).map_err(|what| malformed(&format!("{}: {what}", row.table)))?;
        self.push(change, out)
    }

    /// What the catalog says of the table. Asked anew for whatever came since the last time, together with the tables that
    /// were asked for then.
    async fn described(&mut self, table: &TableName) -> Result<Option<Arc<Described>>> {
        if let Some(described) = self.fresh.get(table) {
            return Ok(described.clone());
        }
        let mut asked: Vec<&TableName> = vec![table];
        if self.fresh.is_empty() {
            asked.extend(self.recent.iter().filter(|recent| *recent != table));
        }
        let mut found = describe(&mut self.catalog, &asked).await?;
        let asked: Vec<TableName> = asked.into_iter().cloned().collect();
        for name in asked {
            let described = match (found.remove(&name), self.known.remove(&name)) {
                (Some(found), Some(known)) if found == *known => Some(known),
                (Some(found), _) => Some(Arc::new(found)),
                // It is gone by now: what comes is from before.
                (None, known) => known,
            };
            if let Some(described) = &described {
                self.known.insert(name.clone(), Arc::clone(described));
            }
            self.fresh.insert(name, described);
        }
        Ok(self.fresh.get(table).cloned().flatten())
    }

    fn truncate(&mut self, lsn: Option<Lsn>, relation: Arc<Relation>, out: &mut Chunk) -> Result<()> {
        if self.truncated.as_ref().is_some_and(|(at, _)| *at != lsn) {
            self.end_truncation(out)?;
        }
        self.truncated.get_or_insert_with(|| (lsn, Vec::new())).1.push(relation);
        Ok(())
    }

    fn end_truncation(&mut self, out: &mut Chunk) -> Result<()> {
        let Some((_, relations)) = self.truncated.take() else { return Ok(()) };
        // What was cascaded to is among them. Whether sequences begin anew is not said.
        self.push(Change::Truncate { relations, cascade: false, restart_identity: false }, out)
    }

    fn push(&mut self, change: Change, out: &mut Chunk) -> Result<()> {
        let open = self.transaction.as_mut().ok_or_else(|| malformed("a row is outside of transactions"))?;
        if !std::mem::replace(&mut open.is_told, true) {
            out.push(Event::Begin(open.transaction));
        }
        out.push(Event::Change(change));
        Ok(())
    }
}

fn malformed(what: &str) -> Error {
    Error::new(Kind::Unexpected, format!("the source's wal2json sent what cannot be read: {what}"))
        .hint("Nothing of that transaction was taken. Please report this, with the version of wal2json.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_asked_for_what_its_plugin_knows() {
        let sent = vec![("shop".to_owned(), "*".to_owned()), ("public".to_owned(), "users".to_owned())];
        let options = Options { wanted: Arc::new(|_| true), sent };
        let newer = options.text(Numbers::Texts);
        assert!(
            newer.ends_with("\"numeric-data-types-as-string\" 'on', \"add-tables\" 'shop.*,public.users'"),
            "{newer}"
        );
        let older = options.text(Numbers::Notices);
        assert!(older.ends_with("\"include-not-null\" 'on'"), "{older}");
        let unknown = Error::unexpected("option \"numeric-data-types-as-string\" = \"on\" is unknown");
        assert!(is_older(&unknown.with_sqlstate("22023")));
    }
}
