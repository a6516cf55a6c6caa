//! One entry of a dump: its header, and what its SQL says about tables and roles.
//!
//! `pg_dump` writes names qualified and puts what it means in few shapes (`src/bin/pg_dump/pg_dump.c`), so that a
//! table is found by the keywords before it, outside of parentheses.

use std::fmt;

use super::Setting;
use super::scan::{self, Token, TokenKind};
use crate::change::TableName;
use crate::pg::quote;

/// One entry of the dump's table of contents with its SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: EntryKind,
    pub schema: Option<String>,
    /// As in the header: line ends are spaces, and what belongs to a table has the table's name in front.
    pub name: String,
    /// What the session must be set to for this entry; see [`Entry::script_for`].
    pub settings: Vec<Setting>,
    /// The statements as `pg_dump` wrote them, each with its semicolon, on lines of their own.
    pub sql: String,
    /// The table or view that the entry makes or belongs to.
    pub table: Option<TableName>,
    /// The other table it needs: that of a foreign key, the parent of a partition.
    pub referenced_table: Option<TableName>,
}

/// `Type:` of the header.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EntryKind {
    Schema,
    Extension,
    Type,
    Domain,
    Function,
    Procedure,
    Aggregate,
    Table,
    TableAttach,
    ForeignTable,
    View,
    MaterializedView,
    Sequence,
    SequenceOwnedBy,
    Default,
    Constraint,
    CheckConstraint,
    FkConstraint,
    Index,
    IndexAttach,
    Statistics,
    Trigger,
    Rule,
    Policy,
    RowSecurity,
    UserMapping,
    Comment,
    SecurityLabel,
    Acl,
    DefaultAcl,
    EventTrigger,
    Publication,
    PublicationTable,
    PublicationTablesInSchema,
    Subscription,
    SubscriptionTable,
    Other(String),
}

const KINDS: [(&str, EntryKind); 36] = [
    ("SCHEMA", EntryKind::Schema),
    ("EXTENSION", EntryKind::Extension),
    ("TYPE", EntryKind::Type),
    ("DOMAIN", EntryKind::Domain),
    ("FUNCTION", EntryKind::Function),
    ("PROCEDURE", EntryKind::Procedure),
    ("AGGREGATE", EntryKind::Aggregate),
    ("TABLE", EntryKind::Table),
    ("TABLE ATTACH", EntryKind::TableAttach),
    ("FOREIGN TABLE", EntryKind::ForeignTable),
    ("VIEW", EntryKind::View),
    ("MATERIALIZED VIEW", EntryKind::MaterializedView),
    ("SEQUENCE", EntryKind::Sequence),
    ("SEQUENCE OWNED BY", EntryKind::SequenceOwnedBy),
    ("DEFAULT", EntryKind::Default),
    ("CONSTRAINT", EntryKind::Constraint),
    ("CHECK CONSTRAINT", EntryKind::CheckConstraint),
    ("FK CONSTRAINT", EntryKind::FkConstraint),
    ("INDEX", EntryKind::Index),
    ("INDEX ATTACH", EntryKind::IndexAttach),
    ("STATISTICS", EntryKind::Statistics),
    ("TRIGGER", EntryKind::Trigger),
    ("RULE", EntryKind::Rule),
    ("POLICY", EntryKind::Policy),
    ("ROW SECURITY", EntryKind::RowSecurity),
    ("USER MAPPING", EntryKind::UserMapping),
    ("COMMENT", EntryKind::Comment),
    ("SECURITY LABEL", EntryKind::SecurityLabel),
    ("ACL", EntryKind::Acl),
    ("DEFAULT ACL", EntryKind::DefaultAcl),
    ("EVENT TRIGGER", EntryKind::EventTrigger),
    ("PUBLICATION", EntryKind::Publication),
    ("PUBLICATION TABLE", EntryKind::PublicationTable),
    ("PUBLICATION TABLES IN SCHEMA", EntryKind::PublicationTablesInSchema),
    ("SUBSCRIPTION", EntryKind::Subscription),
    ("SUBSCRIPTION TABLE", EntryKind::SubscriptionTable),
];

impl EntryKind {
    fn parse(text: &str) -> EntryKind {
        let known = KINDS.iter().find(|(name, _)| *name == text);
        known.map_or_else(|| EntryKind::Other(text.to_owned()), |(_, kind)| kind.clone())
    }

    /// The kinds that publish, subscribe or watch commands.
    fn stays_at_source(&self) -> bool {
        matches!(
            self,
            EntryKind::EventTrigger
                | EntryKind::Publication
                | EntryKind::PublicationTable
                | EntryKind::PublicationTablesInSchema
                | EntryKind::Subscription
                | EntryKind::SubscriptionTable
        )
    }
}

/// As in the header.
impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryKind::Other(name) => f.write_str(name),
            kind => f.write_str(KINDS.iter().find(|(_, known)| known == kind).map_or("", |(name, _)| name)),
        }
    }
}

impl Entry {
    pub(super) fn new(header: Header, settings: Vec<Setting>, sql: String) -> Entry {
        let Header { kind, mut schema, name } = header;
        let settings = settings.into_iter().filter(|setting| matters_to(setting, &kind)).collect();
        let tables = Tables { schema: schema.as_deref() }.read(&kind, &sql);
        if let (Some(table), Some(schema)) = (&tables.table, &mut schema)
            && one_line(&table.schema) == *schema
        {
            schema.clone_from(&table.schema);
        }
        Entry { kind, schema, name, settings, sql, table: tables.table, referenced_table: tables.referenced }
    }

    pub fn belongs_to(&self, table: &TableName) -> bool {
        self.table.as_ref() == Some(table)
    }

    /// Whether it makes something that belongs to the database and to no schema of it.
    pub fn is_of_database(&self) -> bool {
        let others = ["ACCESS METHOD", "FOREIGN DATA WRAPPER", "PROCEDURAL LANGUAGE", "SERVER"];
        match &self.kind {
            EntryKind::UserMapping => true,
            // Types of the database's own have a schema before their name.
            EntryKind::Other(kind) if kind == "CAST" => !self.name.contains('.'),
            EntryKind::Other(kind) => others.contains(&kind.as_str()),
            _ => false,
        }
    }

    /// The entry's statements, behind the settings it needs that a server of this major version knows. It runs in
    /// any session that has the dump's preamble.
    pub fn script_for(&self, major: u32) -> String {
        let settings = self.settings.iter().filter(|setting| setting.exists_in(major, None));
        settings.map(|setting| format!("{}\n", setting.sql)).chain([self.sql.clone()]).collect()
    }

    /// Whether replaying it would make the target publish, subscribe or watch commands by itself, or speaks of an
    /// entry that would: a mirror skips it.
    pub fn stays_at_source(&self) -> bool {
        let spoken_of = || {
            let tokens = top_level(&self.sql);
            let object =
                tokens.iter().position(|token| token.is_word("on")).map_or(&[][..], |at| &tokens[at + 1..]);
            ["publication", "subscription"].iter().any(|word| starts_with(object, &[word]))
                || starts_with(object, &["event", "trigger"])
        };
        self.kind.stays_at_source()
            || (matches!(self.kind, EntryKind::Comment | EntryKind::SecurityLabel) && spoken_of())
    }

    /// The roles that must exist for the entry: of its grants, and those that a policy or a user mapping names.
    /// `public` is not one of them.
    pub fn roles_granted(&self) -> Vec<String> {
        let mut roles: Vec<String> = scan::statements(&self.sql).into_iter().flat_map(roles_in).collect();
        roles.sort();
        roles.dedup();
        roles
    }

    /// The place among its table's post-data entries; `None` when it must wait for other tables or entries.
    pub(super) fn rebuild_rank(&self) -> Option<u8> {
        match self.kind {
            EntryKind::Constraint | EntryKind::Index if self.makes_unique() => Some(0),
            EntryKind::Constraint | EntryKind::Index => Some(1),
            // The state of a partition's trigger, which exists only once its parent's trigger does.
            EntryKind::Trigger if starts_with(&top_level(&self.sql), &["alter"]) => None,
            EntryKind::CheckConstraint
            | EntryKind::Statistics
            | EntryKind::Trigger
            | EntryKind::Policy
            | EntryKind::RowSecurity => Some(2),
            _ => None,
        }
    }

    /// A primary key, a unique constraint or a unique index.
    fn makes_unique(&self) -> bool {
        let tokens = top_level(&self.sql);
        match self.kind {
            EntryKind::Index => starts_with(&tokens, &["create", "unique", "index"]),
            EntryKind::Constraint => {
                let after_name =
                    after(&tokens, &["add", "constraint"]).and_then(|rest| rest.get(1..)).unwrap_or(&[]);
                starts_with(after_name, &["primary", "key"]) || starts_with(after_name, &["unique"])
            }
            _ => false,
        }
    }

    /// The index that an entry makes.
    pub(super) fn index(&self) -> Option<TableName> {
        let keywords: &[&str] = match self.kind {
            EntryKind::Index => &["index"],
            EntryKind::Constraint => &["add", "constraint"],
            _ => return None,
        };
        let name = name_after(&top_level(&self.sql), keywords)?.pop()?;
        Some(TableName { schema: self.table.as_ref()?.schema.clone(), name })
    }

    /// The index that an entry speaks of, or attaches.
    pub(super) fn index_referred_to(&self) -> Option<TableName> {
        let keywords: &[&str] = match self.kind {
            EntryKind::IndexAttach => &["attach", "partition"],
            EntryKind::Comment => &["comment", "on", "index"],
            _ => return None,
        };
        Tables { schema: self.schema.as_deref() }.after(&top_level(&self.sql), keywords)
    }
}

/// The settings between entries hold for what has storage.
fn matters_to(setting: &Setting, kind: &EntryKind) -> bool {
    match kind {
        EntryKind::Table | EntryKind::MaterializedView => true,
        EntryKind::Index | EntryKind::Constraint => setting.name == "default_tablespace",
        _ => false,
    }
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: EntryKind,
    pub schema: Option<String>,
    pub name: String,
}

impl Header {
    /// Reads `t; Type: TABLE; Schema: public; Owner: -`. Names may hold the very words that separate them; then the
    /// reading whose schema the entry's SQL mentions is the right one.
    pub(super) fn parse(text: &str, sql: &str) -> Option<Header> {
        let mut readings = Header::readings(text);
        if readings.len() > 1 {
            let sql = one_line(sql);
            let mentioned =
                |header: &Header| header.schema.as_ref().is_some_and(|schema| mentions(&sql, schema));
            let right = readings.iter().position(mentioned);
            let right = right.or_else(|| readings.iter().position(|header| header.schema.is_none()));
            return Some(readings.swap_remove(right.unwrap_or(0)));
        }
        readings.pop()
    }

    /// The likeliest first: of all readings, names that hold separators are the rarest.
    fn readings(text: &str) -> Vec<Header> {
        let mut readings = Vec::new();
        for (at, separator) in text.rmatch_indices("; Type: ") {
            let Some((kind, rest)) = text[at + separator.len()..].split_once("; Schema: ") else { continue };
            if kind.is_empty() || !kind.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b' ') {
                continue;
            }
            for (end, separator) in rest.rmatch_indices("; Owner: ") {
                let owner = &rest[end + separator.len()..];
                let schema = Some(rest[..end].to_owned()).filter(|schema| schema != "-");
                if owner == "-" || owner.starts_with("-; Tablespace: ") || !owner.contains("; ") {
                    readings.push(Header {
                        kind: EntryKind::parse(kind),
                        schema,
                        name: text[..at].to_owned(),
                    });
                }
            }
        }
        readings
    }
}

/// As in a header.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn mentions(sql: &str, schema: &str) -> bool {
    let quoted = quote::identifier(schema);
    sql.contains(&format!("{quoted}.")) || sql.contains(&format!(" {schema}."))
}

/// The tokens of the first statement that count, outside of parentheses.
fn top_level(sql: &str) -> Vec<Token<'_>> {
    let mut depth = 0_usize;
    let mut kept = Vec::new();
    for token in scan::tokens(sql).filter(Token::counts) {
        if token.is_symbol(")") {
            depth = depth.saturating_sub(1);
        } else if token.is_symbol("(") {
            depth += 1;
        } else if depth == 0 {
            if token.is_symbol(";") {
                break;
            }
            kept.push(token);
        }
    }
    kept
}

fn starts_with(tokens: &[Token<'_>], words: &[&str]) -> bool {
    tokens.len() >= words.len() && tokens.iter().zip(words).all(|(token, word)| token.is_word(word))
}

/// What follows the first place where `words` stand one after the other.
fn after<'a, 't>(tokens: &'a [Token<'t>], words: &[&str]) -> Option<&'a [Token<'t>]> {
    let at = (0..tokens.len()).find(|&at| starts_with(&tokens[at..], words))?;
    Some(&tokens[at + words.len()..])
}

/// The parts of the qualified name right after `words`.
fn name_after(tokens: &[Token<'_>], words: &[&str]) -> Option<Vec<String>> {
    let mut rest = after(tokens, words)?;
    for skipped in [&["if", "exists"][..], &["if", "not", "exists"], &["only"]] {
        if starts_with(rest, skipped) {
            rest = &rest[skipped.len()..];
        }
    }
    qualified_name(rest)
}

fn qualified_name(tokens: &[Token<'_>]) -> Option<Vec<String>> {
    let mut parts = vec![tokens.first()?.name()?];
    let mut rest = &tokens[1..];
    while let [dot, part, ..] = rest
        && dot.is_symbol(".")
    {
        parts.push(part.name()?);
        rest = &rest[2..];
    }
    Some(parts)
}

/// The tables of an entry.
#[derive(Default)]
struct FoundTables {
    table: Option<TableName>,
    referenced: Option<TableName>,
}

/// Reads tables out of SQL.
struct Tables<'a> {
    /// The header's, for a name without one.
    schema: Option<&'a str>,
}

impl Tables<'_> {
    fn read(&self, kind: &EntryKind, sql: &str) -> FoundTables {
        let tokens = top_level(sql);
        let after = |words: &[&str]| self.after(&tokens, words);
        let table = match kind {
            EntryKind::Table
            | EntryKind::ForeignTable
            | EntryKind::Default
            | EntryKind::Constraint
            | EntryKind::CheckConstraint
            | EntryKind::FkConstraint
            | EntryKind::RowSecurity
            | EntryKind::PublicationTable
            // An identity column's sequence is made by `alter table`.
            | EntryKind::Sequence => after(&["table"]),
            EntryKind::TableAttach => after(&["attach", "partition"]),
            EntryKind::View | EntryKind::MaterializedView => after(&["view"]),
            EntryKind::SequenceOwnedBy => self.without_column(name_after(&tokens, &["owned", "by"])),
            EntryKind::Statistics => after(&["from"]),
            EntryKind::Trigger if starts_with(&tokens, &["alter"]) => after(&["table"]),
            EntryKind::Index | EntryKind::Policy | EntryKind::Trigger => after(&["on"]),
            EntryKind::Rule => self.of_rule(&tokens),
            EntryKind::Comment | EntryKind::SecurityLabel => self.spoken_of(&tokens),
            EntryKind::Acl => scan::statements(sql).iter().find_map(|sql| self.after(&top_level(sql), &["on", "table"])),
            _ => None,
        };
        let referenced = match kind {
            EntryKind::FkConstraint => after(&["references"]),
            EntryKind::TableAttach => after(&["table"]),
            EntryKind::Trigger if starts_with(&tokens, &["create", "constraint"]) => after(&["from"]),
            _ => None,
        };
        FoundTables { table, referenced }
    }

    fn after(&self, tokens: &[Token<'_>], words: &[&str]) -> Option<TableName> {
        self.qualified(name_after(tokens, words)?)
    }

    fn qualified(&self, mut parts: Vec<String>) -> Option<TableName> {
        let name = parts.pop()?;
        let schema = parts.pop().or_else(|| self.schema.map(str::to_owned))?;
        Some(TableName { schema, name })
    }

    fn without_column(&self, name: Option<Vec<String>>) -> Option<TableName> {
        let mut parts = name?;
        parts.pop();
        self.qualified(parts)
    }

    /// A view that a circle of dependencies postponed is a rule entry too.
    fn of_rule(&self, tokens: &[Token<'_>]) -> Option<TableName> {
        if starts_with(tokens, &["alter"]) {
            return self.after(tokens, &["table"]);
        }
        let makes_rule = tokens.iter().take(4).any(|token| token.is_word("rule"));
        self.after(tokens, if makes_rule { &["to"] } else { &["view"] })
    }

    /// `{comment on | security label for p on} object`.
    fn spoken_of(&self, tokens: &[Token<'_>]) -> Option<TableName> {
        let object = after(tokens, &["on"])?;
        if starts_with(object, &["column"]) {
            return self.without_column(name_after(object, &["column"]));
        }
        if [&["table"][..], &["view"], &["materialized", "view"], &["foreign", "table"]]
            .iter()
            .any(|words| starts_with(object, words))
        {
            let word =
                if object.iter().take(2).any(|token| token.is_word("table")) { "table" } else { "view" };
            return self.after(object, &[word]);
        }
        let on_table =
            ["constraint", "trigger", "rule", "policy"].iter().any(|word| starts_with(object, &[word]));
        let owner = after(object, &["on"]).filter(|owner| on_table && !starts_with(owner, &["domain"]))?;
        self.qualified(qualified_name(owner)?)
    }
}

/// The roles that one statement of an entry names, without `public`.
pub fn roles_in(statement: &str) -> Vec<String> {
    let tokens = top_level(statement);
    let is_default = starts_with(&tokens, &["alter", "default", "privileges"]);
    let mut lists: Vec<&[Token<'_>]> = Vec::new();
    if is_default || starts_with(&tokens, &["grant"]) || starts_with(&tokens, &["revoke"]) {
        let revokes = tokens.iter().any(|token| token.is_word("revoke"));
        lists.extend(after(&tokens, &["for", "role"]).filter(|_| is_default));
        lists.extend(last_after(&tokens, if revokes { "from" } else { "to" }));
    } else if starts_with(&tokens, &["set", "session", "authorization"]) {
        lists.push(&tokens[3..]);
    } else if starts_with(&tokens, &["create", "policy"]) {
        lists.extend(after(&tokens, &["to"]));
    } else if starts_with(&tokens, &["create", "user", "mapping"]) {
        lists.extend(after(&tokens, &["for"]));
    }
    lists.into_iter().flat_map(role_list).collect()
}

fn last_after<'a, 't>(tokens: &'a [Token<'t>], word: &str) -> Option<&'a [Token<'t>]> {
    let at = tokens.iter().rposition(|token| token.is_word(word))?;
    Some(&tokens[at + 1..])
}

/// `a, "B"`, up to what is no longer a list.
fn role_list(tokens: &[Token<'_>]) -> Vec<String> {
    let mut roles = Vec::new();
    for (place, token) in tokens.iter().enumerate() {
        let is_comma = token.is_symbol(",");
        match token.name().filter(|_| place % 2 == 0) {
            // Unquoted only: a role's name cannot be `public` anyway, but `"PUBLIC"` is one.
            Some(name) if name != "public" || token.kind == TokenKind::QuotedName => roles.push(name),
            Some(_) => {}
            None if is_comma && place % 2 == 1 => {}
            None => break,
        }
    }
    roles
}
