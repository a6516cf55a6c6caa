//! Rows as JSON, their values escaped and never parsed.
//!
//! A number stands as the number that PostgreSQL printed, digit for digit; `true` and `false` for booleans; everything
//! else, and the numbers that JSON has no word for such as `NaN`, as the text that PostgreSQL printed. A value that is no
//! UTF-8 (a source in `SQL_ASCII` may have it) is `{"hex":"ff00"}`.

use std::sync::Arc;

use crate::archive::line::{Commit, RelationLine};
use crate::archive::time;
use crate::change::{ByNumber, Change, Old, Relation, ReplicaIdentity, Transaction, Tuple, Value};
use crate::position::Lsn;

/// Names of types by OID.
pub type TypeNames = ByNumber<u32, String>;

/// Writes the lines of transactions; knows which relations the file has described.
#[derive(Default)]
pub struct Encoder {
    types: Arc<TypeNames>,
    shapes: ByNumber<u32, Shape>,
    /// What follows the values in every row of the current transaction.
    stamp: Vec<u8>,
    xid: u32,
    /// The rows of the current transaction.
    records: u64,
}

/// A relation, and the parts of its rows that are always the same.
struct Shape {
    relation: Arc<Relation>,
    /// `{"table":"users","op":"`
    head: Vec<u8>,
    /// `"id":` for each column, and how its values are written.
    columns: Vec<(Vec<u8>, Kind)>,
    /// `,"schema":"public","xid":`
    tail: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Boolean,
    Text,
}

impl Kind {
    /// By the OIDs that every PostgreSQL has for its own types.
    fn of(type_id: u32) -> Kind {
        match type_id {
            16 => Kind::Boolean,
            // int8, int2, int4, oid, float4, float8, numeric
            20 | 21 | 23 | 26 | 700 | 701 | 1700 => Kind::Number,
            _ => Kind::Text,
        }
    }
}

impl Encoder {
    pub fn new(types: Arc<TypeNames>) -> Encoder {
        Encoder { types, ..Encoder::default() }
    }

    /// A new file knows no relation yet.
    pub fn forget_relations(&mut self) {
        self.shapes.clear();
    }

    pub fn begin(&mut self, transaction: &Transaction) {
        self.xid = transaction.xid;
        self.records = 0;
        self.stamp.clear();
        put(&mut self.stamp, ",\"lsn\":\"");
        put(&mut self.stamp, &transaction.commit_lsn.to_string());
        put(&mut self.stamp, "\",\"ts\":\"");
        put(&mut self.stamp, &time::text(transaction.committed_at_us));
        put(&mut self.stamp, "\"");
    }

    /// Appends the change's line, and before it what the reader must know of its relation.
    pub fn change(&mut self, change: &Change, out: &mut Vec<u8>) {
        self.records += 1;
        match change {
            Change::Insert { relation, new } => self.row(relation, "INSERT", Some(new), None, out),
            Change::Update { relation, old, new } => {
                self.row(relation, "UPDATE", Some(new), old.as_ref(), out);
            }
            Change::Delete { relation, old } => self.row(relation, "DELETE", None, Some(old), out),
            Change::Truncate { relations, cascade, restart_identity } => {
                self.truncate(relations, *cascade, *restart_identity, out);
            }
        }
    }

    /// Appends the line that ends the transaction; gives the number of its rows.
    pub fn commit(&mut self, transaction: &Transaction, end: Lsn, out: &mut Vec<u8>) -> u64 {
        let line = Commit {
            xid: transaction.xid,
            lsn: transaction.commit_lsn,
            end,
            ts: time::text(transaction.committed_at_us),
            records: self.records,
        };
        put_line(out, &line);
        std::mem::take(&mut self.records)
    }

    fn row(
        &mut self,
        relation: &Arc<Relation>,
        op: &str,
        new: Option<&Tuple>,
        old: Option<&Old>,
        out: &mut Vec<u8>,
    ) {
        self.describe(relation, out);
        let shape = &self.shapes[&relation.id];
        out.extend_from_slice(&shape.head);
        put(out, op);
        put(out, "\"");
        if let Some(new) = new {
            put(out, ",\"data\":");
            shape.object(new, |_| true, out);
        }
        match (old, new) {
            (Some(Old::Full(old)), _) => {
                put(out, ",\"old_keys\":");
                shape.object(old, |_| true, out);
            }
            (Some(Old::Key(keys)), _) => shape.keys(keys, out),
            // The identity did not change: the new row has it.
            (None, Some(new)) if op == "UPDATE" => shape.keys(new, out),
            (None, _) => {}
        }
        out.extend_from_slice(&self.stamp);
        out.extend_from_slice(&shape.tail);
        put(out, &self.xid.to_string());
        if let Some(new) = new.filter(|new| new.has_unchanged()) {
            shape.unchanged(new, out);
        }
        put(out, "}\n");
    }

    fn truncate(&mut self, relations: &[Arc<Relation>], cascade: bool, restart: bool, out: &mut Vec<u8>) {
        for relation in relations {
            self.describe(relation, out);
        }
        let Some(first) = relations.first() else { return };
        let shape = &self.shapes[&first.id];
        out.extend_from_slice(&shape.head);
        put(out, "TRUNCATE\"");
        out.extend_from_slice(&self.stamp);
        out.extend_from_slice(&shape.tail);
        put(out, &self.xid.to_string());
        put(out, ",\"tables\":[");
        for (number, relation) in relations.iter().enumerate() {
            put(out, if number == 0 { "[" } else { ",[" });
            put_text(out, relation.schema.as_bytes());
            put(out, ",");
            put_text(out, relation.name.as_bytes());
            put(out, "]");
        }
        put(out, "]");
        for (name, is_set) in [("cascade", cascade), ("restart_identity", restart)] {
            if is_set {
                put(out, &format!(",\"{name}\":true"));
            }
        }
        put(out, "}\n");
    }

    fn describe(&mut self, relation: &Arc<Relation>, out: &mut Vec<u8>) {
        if let Some(shape) = self.shapes.get_mut(&relation.id) {
            if Arc::ptr_eq(&shape.relation, relation) {
                return;
            }
            if shape.relation == *relation {
                // Compared once; by its address from now on.
                shape.relation = Arc::clone(relation);
                return;
            }
        }
        put_line(out, &RelationLine::of(relation, |oid| self.types.get(&oid).cloned()));
        self.shapes.insert(relation.id, Shape::of(relation));
    }
}

impl Shape {
    fn of(relation: &Arc<Relation>) -> Shape {
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        put(&mut head, "{\"table\":");
        put_text(&mut head, relation.name.as_bytes());
        put(&mut head, ",\"op\":\"");
        put(&mut tail, ",\"schema\":");
        put_text(&mut tail, relation.schema.as_bytes());
        put(&mut tail, ",\"xid\":");
        let name = |name: &str| {
            let mut text = Vec::new();
            put_text(&mut text, name.as_bytes());
            put(&mut text, ":");
            text
        };
        let columns =
            relation.columns.iter().map(|column| (name(&column.name), Kind::of(column.type_id))).collect();
        Shape { relation: Arc::clone(relation), head, columns, tail }
    }

    /// The identity's values; nothing for a relation without one.
    fn keys(&self, tuple: &Tuple, out: &mut Vec<u8>) {
        if self.relation.identity != ReplicaIdentity::Nothing {
            put(out, ",\"old_keys\":");
            self.object(tuple, |column| self.relation.columns[column].key, out);
        }
    }

    fn object(&self, tuple: &Tuple, wanted: impl Fn(usize) -> bool, out: &mut Vec<u8>) {
        out.push(b'{');
        let start = out.len();
        for (number, (value, (name, kind))) in tuple.values().zip(&self.columns).enumerate() {
            if value == Value::Unchanged || !wanted(number) {
                continue;
            }
            if out.len() > start {
                out.push(b',');
            }
            out.extend_from_slice(name);
            match value {
                Value::Null => put(out, "null"),
                Value::Text(text) => put_value(out, *kind, text),
                Value::Binary(_) | Value::Unchanged => unreachable!("an archive is written in text"),
            }
        }
        out.push(b'}');
    }

    fn unchanged(&self, tuple: &Tuple, out: &mut Vec<u8>) {
        put(out, ",\"unchanged\":");
        let mut separator = b'[';
        for (value, (name, _)) in tuple.values().zip(&self.columns) {
            if value == Value::Unchanged {
                out.push(separator);
                // The name without its colon.
                out.extend_from_slice(&name[..name.len() - 1]);
                separator = b',';
            }
        }
        out.push(b']');
    }
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn put_line(out: &mut Vec<u8>, line: &impl serde::Serialize) {
    serde_json::to_writer(&mut *out, line).expect("a line is made of texts and numbers");
    out.push(b'\n');
}

fn put_value(out: &mut Vec<u8>, kind: Kind, text: &[u8]) {
    match kind {
        Kind::Number if is_json_number(text) => out.extend_from_slice(text),
        Kind::Boolean if text == b"t" => put(out, "true"),
        Kind::Boolean if text == b"f" => put(out, "false"),
        _ => put_text(out, text),
    }
}

/// As JSON defines it: neither `NaN` nor `Infinity` is one.
pub(super) fn is_json_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut rest = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        rest = &fraction[length..];
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let exponent =
            exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let length = digits(exponent);
        return length > 0 && length == exponent.len();
    }
    rest.is_empty()
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    if std::str::from_utf8(text).is_err() {
        put(out, "{\"hex\":\"");
        out.extend(text.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]));
        put(out, "\"}");
        return;
    }
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => put(out, "\\\""),
            b'\\' => put(out, "\\\\"),
            b'\n' => put(out, "\\n"),
            b'\r' => put(out, "\\r"),
            b'\t' => put(out, "\\t"),
            byte => {
                put(out, "\\u00");
                out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Column;

    pub(crate) fn users() -> Arc<Relation> {
        let column = |name: &str, type_id: u32, key: bool| Column {
            name: name.into(),
            type_id,
            type_modifier: -1,
            key,
        };
        Arc::new(Relation {
            id: 16384,
            schema: "public".into(),
            name: "users".into(),
            identity: ReplicaIdentity::Default,
            columns: vec![column("id", 20, true), column("name", 25, false), column("ok", 16, false)],
        })
    }

    fn tuple(values: &[Value<'_>]) -> Tuple {
        values.iter().copied().collect()
    }

    fn lines(changes: &[Change]) -> Vec<String> {
        let mut encoder = Encoder::new(Arc::new([(20, "bigint".to_owned())].into_iter().collect()));
        let transaction =
            Transaction { xid: 742, commit_lsn: Lsn(0x16B_3D40), committed_at_us: 823_602_600_000_000 };
        let mut out = Vec::new();
        encoder.begin(&transaction);
        for change in changes {
            encoder.change(change, &mut out);
        }
        encoder.commit(&transaction, Lsn(0x16B_3D70), &mut out);
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn rows_look_as_the_format_has_them() {
        let relation = users();
        let (one, john) = (Value::Text(b"1"), Value::Text(b"Jo\"hn\n\x01"));
        let written = lines(&[
            Change::Insert { relation: Arc::clone(&relation), new: tuple(&[one, john, Value::Text(b"t")]) },
            Change::Update {
                relation: Arc::clone(&relation),
                old: None,
                new: tuple(&[one, Value::Unchanged, Value::Null]),
            },
            Change::Delete {
                relation: Arc::clone(&relation),
                old: Old::Key(tuple(&[one, Value::Null, Value::Null])),
            },
            Change::Truncate { relations: vec![relation], cascade: true, restart_identity: false },
        ]);
        let stamp = r#""lsn":"0/16B3D40","ts":"2026-02-05T10:30:00Z","schema":"public","xid":742"#;
        assert_eq!(
            written,
            [
                r#"{"op":"RELATION","schema":"public","table":"users","oid":16384,"identity":"default","columns":[{"name":"id","type":"bigint","oid":20,"modifier":-1,"key":true},{"name":"name","oid":25,"modifier":-1,"key":false},{"name":"ok","oid":16,"modifier":-1,"key":false}]}"#.to_owned(),
                format!(r#"{{"table":"users","op":"INSERT","data":{{"id":1,"name":"Jo\"hn\n\u0001","ok":true}},{stamp}}}"#),
                format!(r#"{{"table":"users","op":"UPDATE","data":{{"id":1,"ok":null}},"old_keys":{{"id":1}},{stamp},"unchanged":["name"]}}"#),
                format!(r#"{{"table":"users","op":"DELETE","old_keys":{{"id":1}},{stamp}}}"#),
                format!(r#"{{"table":"users","op":"TRUNCATE",{stamp},"tables":[["public","users"]],"cascade":true}}"#),
                r#"{"op":"COMMIT","xid":742,"lsn":"0/16B3D40","end":"0/16B3D70","ts":"2026-02-05T10:30:00Z","records":4}"#.to_owned(),
            ]
        );
    }

    #[test]
    fn only_what_json_calls_a_number_is_one() {
        for text in
            ["0", "-0", "12", "9223372036854775807", "0.50", "1e+20", "-1.5E-7", "1234567890.0987654321"]
        {
            assert!(is_json_number(text.as_bytes()), "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}");
        }
        for text in ["", "-", "01", "1.", ".5", "NaN", "-Infinity", "1e", "1e+", "0x1", "1 ", "+1", "1_000"] {
            assert!(!is_json_number(text.as_bytes()), "{text}");
        }
    }
}
