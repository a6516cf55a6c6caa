//! What the output plugin wal2json says, one object a change (format 2) or a transaction (format 1).

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::archive::row::{self, Field, Op, Row};
use crate::position::Lsn;

/// An object of format 2.
#[derive(Debug)]
pub enum Said<'a> {
    Begin(Begin),
    Commit,
    Row(Row<'a>),
    /// A message that somebody wrote into the log.
    Message,
}

/// A transaction's first object; positions and numbers where the plugin was asked for them.
#[derive(Debug, Clone, Copy)]
pub struct Begin {
    pub xid: Option<u32>,
    /// Where its commit record begins: the plugin's `lsn`, `ReorderBufferTXN.final_lsn`.
    pub commit_lsn: Option<Lsn>,
    /// Where its commit record ends, the position after it: the plugin's `nextlsn`, `ReorderBufferTXN.end_lsn`.
    pub end_lsn: Option<Lsn>,
    pub committed_at_us: i64,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow, default)]
    schema: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    table: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    columns: Option<Vec<Column<'a>>>,
    #[serde(borrow, default)]
    identity: Option<Vec<Column<'a>>>,
    #[serde(borrow, default)]
    timestamp: Option<Cow<'a, str>>,
    #[serde(default)]
    xid: Option<u32>,
    #[serde(borrow, default)]
    lsn: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    nextlsn: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Column<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default, rename = "type")]
    type_name: Option<Cow<'a, str>>,
    /// Printed with a sign.
    #[serde(default)]
    typeoid: Option<i64>,
    #[serde(default)]
    position: Option<i16>,
    #[serde(default)]
    optional: Option<bool>,
    #[serde(borrow)]
    value: &'a RawValue,
}

impl<'a> From<Column<'a>> for Field<'a> {
    fn from(column: Column<'a>) -> Field<'a> {
        // An OID of the upper half is printed as a negative number.
        let type_id = column.typeoid.and_then(|oid| u32::try_from(oid & i64::from(u32::MAX)).ok());
        Field {
            type_name: column.type_name,
            type_id,
            number: column.position,
            optional: column.optional,
            ..Field::new(column.name, column.value)
        }
    }
}

/// Reads an object of format 2.
pub fn parse_2<'a>(line: &'a str) -> Result<Said<'a>, String> {
    let line: Line<'_> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let op = match line.action.as_ref() {
        "B" => {
            return Ok(Said::Begin(Begin {
                xid: line.xid,
                commit_lsn: position(line.lsn.as_deref())?,
                end_lsn: position(line.nextlsn.as_deref())?,
                committed_at_us: time(line.timestamp.as_deref()),
            }));
        }
        "C" => return Ok(Said::Commit),
        "M" => return Ok(Said::Message),
        "I" => Op::Insert,
        "U" => Op::Update,
        "D" => Op::Delete,
        "T" => Op::Truncate,
        other => return Err(format!("action \"{other}\" is none of B, C, I, U, D, T, M")),
    };
    let table = line.table.ok_or("\"table\" is missing")?;
    let fields = |columns: Vec<Column<'a>>| columns.into_iter().map(Field::from).collect();
    let new: Vec<Field<'_>> = match (op, line.columns) {
        (Op::Insert | Op::Update, None) => return Err("\"columns\" are missing".into()),
        (_, columns) => columns.map(fields).unwrap_or_default(),
    };
    let old = line.identity.map(fields);
    if op == Op::Delete && old.is_none() {
        return Err("\"identity\" is missing".into());
    }
    Ok(Said::Row(Row {
        table: row::table(Some(line.schema.unwrap_or("public".into())), &table),
        op,
        new,
        old,
        lsn: position(line.lsn.as_deref())?,
    }))
}

#[derive(Deserialize)]
struct Transaction<'a> {
    #[serde(borrow)]
    change: Vec<Change<'a>>,
    #[serde(borrow, default)]
    timestamp: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Change<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    schema: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    table: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    columnnames: Vec<row::Text<'a>>,
    #[serde(borrow, default)]
    columntypes: Vec<row::Text<'a>>,
    #[serde(borrow, default)]
    columnvalues: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    oldkeys: Option<OldKeys<'a>>,
}

#[derive(Deserialize)]
struct OldKeys<'a> {
    #[serde(borrow)]
    keynames: Vec<row::Text<'a>>,
    #[serde(borrow, default)]
    keytypes: Vec<row::Text<'a>>,
    #[serde(borrow)]
    keyvalues: Vec<&'a RawValue>,
}

/// wal2json 2.5 begins the list of a message outside of transactions with a comma, when it comes after a transaction.
pub fn without_stray_comma(object: &str) -> Cow<'_, str> {
    let Some((before, list)) = object.split_once('[') else { return object.into() };
    match list.trim_start().strip_prefix(',') {
        Some(list) => format!("{before}[{list}").into(),
        None => object.into(),
    }
}

/// Reads a transaction of format 1: its rows and its time.
pub fn parse_1(object: &str) -> Result<(Vec<Row<'_>>, i64), String> {
    let transaction: Transaction<'_> = serde_json::from_str(object).map_err(|error| error.to_string())?;
    let mut rows = Vec::with_capacity(transaction.change.len());
    for change in transaction.change {
        let op = match change.kind.as_ref() {
            "insert" => Op::Insert,
            "update" => Op::Update,
            "delete" => Op::Delete,
            "truncate" => Op::Truncate,
            "message" => continue,
            other => return Err(format!("kind \"{other}\" is none of insert, update, delete")),
        };
        let table = change.table.ok_or("\"table\" is missing")?;
        let new = zipped(change.columnnames, change.columntypes, change.columnvalues)?;
        let old = change.oldkeys.map(|old| zipped(old.keynames, old.keytypes, old.keyvalues)).transpose()?;
        if op == Op::Delete && old.is_none() {
            return Err("\"oldkeys\" are missing".into());
        }
        let table = row::table(Some(change.schema.unwrap_or("public".into())), &table);
        rows.push(Row { table, op, new, old, lsn: None });
    }
    Ok((rows, time(transaction.timestamp.as_deref())))
}

/// Names, types and values that stand in three lists; types may have been left out.
fn zipped<'a>(
    names: Vec<row::Text<'a>>,
    types: Vec<row::Text<'a>>,
    values: Vec<&'a RawValue>,
) -> Result<Vec<Field<'a>>, String> {
    if names.len() != values.len() || !(types.is_empty() || types.len() == names.len()) {
        return Err(format!(
            "there are {} names, {} types and {} values",
            names.len(),
            types.len(),
            values.len()
        ));
    }
    let mut types = types.into_iter();
    let fields = names
        .into_iter()
        .zip(values)
        .map(|(name, raw)| Field { type_name: types.next().map(|name| name.0), ..Field::new(name.0, raw) });
    Ok(fields.collect())
}

fn position(text: Option<&str>) -> Result<Option<Lsn>, String> {
    text.map(|text| text.parse().map_err(|_| format!("\"{text}\" is no position"))).transpose()
}

fn time(text: Option<&str>) -> i64 {
    text.and_then(crate::archive::time::parse).unwrap_or(0)
}

/// Finds the end of an object that may be spread over lines, without reading it.
#[derive(Default)]
pub struct Depth {
    open: usize,
    in_text: bool,
    escaped: bool,
}

impl Depth {
    /// Takes a line; whether everything that was opened is closed after it.
    pub fn closes_with(&mut self, line: &[u8]) -> bool {
        for byte in line {
            match (self.in_text, *byte) {
                (true, _) if self.escaped => self.escaped = false,
                (true, b'\\') => self.escaped = true,
                (_, b'"') => self.in_text = !self.in_text,
                (false, b'{' | b'[') => self.open += 1,
                (false, b'}' | b']') => self.open = self.open.saturating_sub(1),
                _ => {}
            }
        }
        self.open == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_ends_where_its_braces_do() {
        let mut depth = Depth::default();
        let lines = [r#"{"change":["#, r#"{"a":"}]}\"}"}"#, r#",{"b":[1]}"#, "]}"];
        let closed: Vec<bool> = lines.iter().map(|line| depth.closes_with(line.as_bytes())).collect();
        assert_eq!(closed, [false, false, false, true]);
    }

    #[test]
    fn a_stray_comma_is_passed_over() {
        let object = r#"{"change":[,{"kind":"message","prefix":"p","content":"[,"}]}"#;
        assert!(parse_1(object).is_err());
        assert_eq!(parse_1(&without_stray_comma(object)).unwrap().0.len(), 0);
        let whole = r#"{"change":[{"kind":"message","content":"[,"}]}"#;
        assert_eq!(without_stray_comma(whole), whole);
    }

    #[test]
    fn what_is_missing_is_said() {
        for (line, what) in [
            (r#"{"action":"I","table":"t"}"#, "\"columns\" are missing"),
            (r#"{"action":"D","table":"t"}"#, "\"identity\" is missing"),
            (r#"{"action":"X","table":"t"}"#, "\"X\""),
            (r#"{"action":"I","columns":[]}"#, "\"table\" is missing"),
        ] {
            let error = parse_2(line).unwrap_err();
            assert!(error.contains(what), "{line}: {error}");
        }
        for (object, what) in [
            (r#"{"change":[{"kind":"delete","table":"t"}]}"#, "\"oldkeys\" are missing"),
            (
                r#"{"change":[{"kind":"insert","table":"t","columnnames":["a"],"columnvalues":[]}]}"#,
                "1 names",
            ),
            (r#"{"change":[{"kind":"x"}]}"#, "\"x\""),
        ] {
            let error = parse_1(object).unwrap_err();
            assert!(error.contains(what), "{object}: {error}");
        }
    }
}
