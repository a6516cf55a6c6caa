//! A source's schema as `pg_dump` writes it, taken apart into entries that can be replayed one by one.
//!
//! `pg_dump --schema-only` (plain format) writes, entry by entry, a header of three comment lines and the SQL:
//!
//! ```text
//! SET default_tablespace = '';                  <- holds from here on: goes to every later entry that it matters to
//! --
//! -- Name: t; Type: TABLE; Schema: public; Owner: -
//! --
//! CREATE TABLE public.t (...);                  <- up to the next header, or to the mark that the dump is complete
//! ```
//!
//! Headers are for people: line ends in names are spaces there, and nothing is quoted. So they only say where an
//! entry starts and what kind it is; which table it belongs to is read from its SQL. [`statements`] and the parser
//! share one scanner, so a text that looks like a header inside a function body is a part of that body.

mod elsewhere;
mod entry;
mod process;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

pub use entry::{Entry, EntryKind, roles_in};
pub use process::{DumpOptions, Section, Tablespaces, find_pg_dump, run};
pub use scan::statements;

use crate::change::TableName;
use crate::error::{Error, Result};
use entry::Header;
use scan::Piece;

/// A whole dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    /// What the dump sets for its session before the first entry; [`Dump::settings_for`] chooses from it.
    pub preamble_settings: Vec<Setting>,
    pub entries: Vec<Entry>,
    /// The major version of the `pg_dump` that wrote it, where it says so.
    pub pg_dump_major: Option<u32>,
}

/// A setting of the session, and the statement that makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: String,
    pub sql: String,
}

/// Settings that not every server has: the first and the last major version that know them.
const VERSIONED_SETTINGS: [(&str, u32, u32); 4] = [
    ("transaction_timeout", 17, u32::MAX),
    ("default_table_access_method", 12, u32::MAX),
    ("default_with_oids", 0, 11),
    ("row_security", 10, u32::MAX),
];

/// Settings that every server has which pgdiode talks to.
const COMMON_SETTINGS: [&str; 12] = [
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "client_encoding",
    "standard_conforming_strings",
    "escape_string_warning",
    "search_path",
    "check_function_bodies",
    "xmloption",
    "client_min_messages",
    "default_tablespace",
    "quote_all_identifiers",
];

impl Dump {
    /// Takes a plain dump of a schema apart. Refuses one that was cut off, holds rows, or has a header that it does
    /// not understand: an entry is never lost silently.
    pub fn parse(text: &str) -> Result<Dump> {
        let mut parser = Parser::default();
        for piece in scan::pieces(text) {
            parser.take(piece)?;
        }
        parser.finish()
    }

    /// The preamble's settings that a server of this major version knows. One that this list has never heard of is
    /// kept for servers at least as new as the `pg_dump` that wrote it.
    pub fn settings_for(&self, major: u32) -> Vec<&Setting> {
        self.preamble_settings.iter().filter(|setting| setting.exists_in(major, self.pg_dump_major)).collect()
    }

    /// The entries of a post-data dump in the order that rebuilds tables side by side.
    pub fn rebuild_order(&self) -> RebuildOrder<'_> {
        RebuildOrder::new(&self.entries)
    }
}

impl Setting {
    /// Reads `SET name = ...` and `SELECT pg_catalog.set_config('name', ...)`.
    fn parse(statement: &str) -> Option<Setting> {
        let tokens: Vec<_> = scan::tokens(statement).filter(scan::Token::counts).collect();
        let name = match tokens.first()? {
            word if word.is_word("set") => {
                tokens.get(1)?.name().filter(|_| tokens.get(2).is_some_and(assigns))?
            }
            word if word.is_word("select") => {
                let call = tokens.iter().position(|token| token.is_word("set_config"))?;
                tokens.get(call + 2)?.text.trim_matches('\'').to_owned()
            }
            _ => return None,
        };
        Some(Setting { name, sql: statement.to_owned() })
    }

    fn exists_in(&self, major: u32, pg_dump_major: Option<u32>) -> bool {
        match VERSIONED_SETTINGS.iter().find(|(name, ..)| *name == self.name) {
            Some((_, first, last)) => (*first..=*last).contains(&major),
            None if COMMON_SETTINGS.contains(&self.name.as_str()) => true,
            None => pg_dump_major.is_some_and(|dumper| major >= dumper),
        }
    }

    /// `pg_dump` sets these between entries (`_selectTablespace` and its kin), before the header of the first entry
    /// that needs the new value.
    fn stands_between_entries(&self) -> bool {
        ["default_tablespace", "default_table_access_method", "default_with_oids"]
            .contains(&self.name.as_str())
    }
}

fn assigns(token: &scan::Token<'_>) -> bool {
    token.is_symbol("=") || token.is_word("to")
}

/// The parser's place in the dump.
#[derive(Default)]
struct Parser<'a> {
    preamble: Vec<Setting>,
    pg_dump_major: Option<u32>,
    entries: Vec<Entry>,
    open: Option<OpenEntry<'a>>,
    /// The values of the settings between entries at this point.
    current: Vec<Setting>,
    complete: bool,
}

/// An entry whose end has not been seen.
struct OpenEntry<'a> {
    header: &'a str,
    settings: Vec<Setting>,
    statements: Vec<&'a str>,
}

const HEADER: &str = "-- Name: ";
const COMPLETE: &str = "-- PostgreSQL database dump complete";
const DUMPED_BY: &str = "-- Dumped by pg_dump version ";

impl<'a> Parser<'a> {
    fn take(&mut self, piece: Piece<'a>) -> Result<()> {
        match piece {
            Piece::Unfinished(rest) => {
                let start = rest.chars().take(60).collect::<String>();
                return Err(cut_off(format!("the schema dump ends inside a statement: {start:?}")));
            }
            Piece::Meta(_) => {}
            Piece::Comment(COMPLETE) => self.complete = true,
            Piece::Comment(comment) if comment.starts_with("-- Data for Name: ") => {
                return Err(Error::unexpected(format!("the schema dump holds rows: {comment:?}"))
                    .hint("take the dump with --schema-only"));
            }
            Piece::Comment(comment) if comment.starts_with(HEADER) => {
                self.open_entry(&comment[HEADER.len()..])?;
            }
            Piece::Comment(comment) => {
                if let Some(version) = comment.strip_prefix(DUMPED_BY) {
                    self.pg_dump_major = process::leading_number(version);
                }
            }
            Piece::Statement(statement) => self.take_statement(statement)?,
        }
        Ok(())
    }

    fn open_entry(&mut self, header: &'a str) -> Result<()> {
        self.close_entry()?;
        self.open = Some(OpenEntry { header, settings: self.current.clone(), statements: Vec::new() });
        Ok(())
    }

    fn take_statement(&mut self, statement: &'a str) -> Result<()> {
        let setting = Setting::parse(statement);
        match (&mut self.open, setting) {
            (_, Some(setting)) if setting.stands_between_entries() => {
                self.current.retain(|earlier| earlier.name != setting.name);
                self.current.push(setting);
            }
            (Some(entry), _) => entry.statements.push(statement),
            (None, Some(setting)) => self.preamble.push(setting),
            (None, None) => {
                let start = statement.chars().take(60).collect::<String>();
                return Err(Error::unexpected(format!(
                    "the schema dump has a statement before any entry: {start:?}"
                ))
                .hint("report this with the version of pg_dump: its format is not the one pgdiode knows"));
            }
        }
        Ok(())
    }

    fn close_entry(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            let sql = open.statements.join("\n");
            let header = Header::parse(open.header, &sql).ok_or_else(|| {
                Error::unexpected(format!("the schema dump has a header of unknown form: {:?}", open.header))
                    .hint("report this with the version of pg_dump: its format is not the one pgdiode knows")
            })?;
            self.entries.push(Entry::new(header, open.settings, sql));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Dump> {
        self.close_entry()?;
        if !self.complete {
            return Err(cut_off("the schema dump lacks its last line".to_owned()));
        }
        resolve_indexes(&mut self.entries);
        Ok(Dump {
            preamble_settings: self.preamble,
            entries: self.entries,
            pg_dump_major: self.pg_dump_major,
        })
    }
}

fn cut_off(what: String) -> Error {
    Error::unexpected(what).hint("run pg_dump again: its output was cut off")
}

/// Gives the entries that name an index the table of that index.
fn resolve_indexes(entries: &mut [Entry]) {
    let tables: HashMap<TableName, TableName> =
        entries.iter().filter_map(|entry| Some((entry.index()?, entry.table.clone()?))).collect();
    for entry in entries.iter_mut().filter(|entry| entry.table.is_none()) {
        entry.table = entry.index_referred_to().and_then(|index| tables.get(&index).cloned());
    }
}

/// Post-data entries, in stages: each stage needs the ones before it done.
#[derive(Debug, Default)]
pub struct RebuildOrder<'a> {
    /// Side by side; inside of a table one after the other.
    pub tables: Vec<TableRebuild<'a>>,
    /// Indexes of partitions into their parents' indexes, in this order.
    pub attachments: Vec<&'a Entry>,
    /// Each locks two tables.
    pub foreign_keys: Vec<&'a Entry>,
    /// In the dump's order: what may need several tables' keys (views, materialized views and the entries on them,
    /// rules), and what speaks of earlier entries (comments, grants, the state of partitions' triggers).
    pub rest: Vec<&'a Entry>,
}

/// One table's entries: keys and unique indexes, then other indexes, then triggers, policies and the like.
#[derive(Debug)]
pub struct TableRebuild<'a> {
    pub table: TableName,
    pub entries: Vec<&'a Entry>,
}

impl<'a> RebuildOrder<'a> {
    fn new(entries: &'a [Entry]) -> Self {
        let mut order = RebuildOrder::default();
        let mut places: HashMap<&TableName, usize> = HashMap::new();
        let late = LateDefinitions::of(entries);
        for entry in entries {
            match (&entry.kind, &entry.table) {
                (EntryKind::IndexAttach, _) => order.attachments.push(entry),
                (EntryKind::FkConstraint, _) => order.foreign_keys.push(entry),
                (_, Some(table)) if entry.rebuild_rank().is_some() && !late.needed_by(entry) => {
                    let place = *places.entry(table).or_insert(order.tables.len());
                    if place == order.tables.len() {
                        order.tables.push(TableRebuild { table: table.clone(), entries: Vec::new() });
                    }
                    order.tables[place].entries.push(entry);
                }
                _ => order.rest.push(entry),
            }
        }
        for table in &mut order.tables {
            table.entries.sort_by_key(|entry| entry.rebuild_rank());
        }
        order
    }
}

/// What `pg_dump` moved from before the rows to behind the keys, because it needs one of them: views that group by a
/// key and name other columns, and the like in materialized views and `BEGIN ATOMIC` bodies. What is built on them
/// comes later still.
struct LateDefinitions<'a> {
    relations: HashSet<&'a TableName>,
    routines: Vec<&'a str>,
}

impl<'a> LateDefinitions<'a> {
    fn of(entries: &'a [Entry]) -> Self {
        let mut late = LateDefinitions { relations: HashSet::new(), routines: Vec::new() };
        for entry in entries {
            match entry.kind {
                EntryKind::Table | EntryKind::View | EntryKind::MaterializedView => {
                    late.relations.extend(&entry.table);
                }
                EntryKind::Function | EntryKind::Procedure | EntryKind::Aggregate => {
                    // Up to what SQL may spell otherwise: doubled quotes, line ends.
                    late.routines.extend(entry.name.split(['(', '"', ' ']).next());
                }
                _ => {}
            }
        }
        late
    }

    /// Waiting in vain costs a little time, so a mention of the routine's name is enough.
    fn needed_by(&self, entry: &Entry) -> bool {
        entry.table.as_ref().is_some_and(|table| self.relations.contains(table))
            || self.routines.iter().any(|routine| entry.sql.contains(routine))
    }
}
