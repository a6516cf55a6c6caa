//! Rows back from JSON: the very bytes that were encoded.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::archive::line::Row;
use crate::change::{Change, Old, Relation, ReplicaIdentity, Tuple, Value};
use crate::error::{Error, Result};

/// The change that a row of a described relation says; its values go into `room`.
pub fn change(row: &Row<'_>, relation: &Arc<Relation>, room: &mut BytesMut) -> Result<Change> {
    let relation = Arc::clone(relation);
    let missing = |what: &str| Error::unexpected(format!("a row's \"{what}\" is missing"));
    match row.op.as_ref() {
        "INSERT" => {
            let new = tuple(row.data.ok_or_else(|| missing("data"))?, &relation, &[], false, room)?;
            Ok(Change::Insert { relation, new })
        }
        "UPDATE" => {
            let new =
                tuple(row.data.ok_or_else(|| missing("data"))?, &relation, &row.unchanged, false, room)?;
            let old = row.old_keys.map(|keys| old(keys, &relation, room)).transpose()?;
            let old = old.filter(|old| !is_same_key(old, &new, &relation));
            Ok(Change::Update { relation, old, new })
        }
        "DELETE" => {
            let old = old(row.old_keys.ok_or_else(|| missing("old_keys"))?, &relation, room)?;
            Ok(Change::Delete { relation, old })
        }
        other => Err(Error::unexpected(format!("\"{other}\" is no operation on a row"))),
    }
}

fn old(keys: &RawValue, relation: &Relation, room: &mut BytesMut) -> Result<Old> {
    if relation.identity == ReplicaIdentity::Full {
        return tuple(keys, relation, &[], false, room).map(Old::Full);
    }
    tuple(keys, relation, &[], true, room).map(Old::Key)
}

/// An update that leaves the identity alone says so by having no old row.
fn is_same_key(old: &Old, new: &Tuple, relation: &Relation) -> bool {
    let Old::Key(old) = old else { return false };
    let mut columns = relation.columns.iter().zip(old.values().zip(new.values()));
    columns.all(|(column, (old, new))| !column.key || old == new)
}

/// The values of an object in the order of the relation's columns. Of `keys` only the identity's are wanted; of a row all
/// but those that are `unchanged` must be there.
fn tuple(
    object: &RawValue,
    relation: &Relation,
    unchanged: &[String],
    keys: bool,
    room: &mut BytesMut,
) -> Result<Tuple> {
    let mut values = vec![Cell::Missing; relation.columns.len()];
    let fill = Fill { relation, values: &mut values };
    let mut json = serde_json::Deserializer::from_str(object.get());
    fill.deserialize(&mut json)
        .map_err(|error| Error::unexpected("a row's values cannot be read").because(error))?;
    let mut found = Vec::with_capacity(values.len());
    for (column, value) in relation.columns.iter().zip(&values) {
        found.push(match value {
            Cell::Null => Value::Null,
            Cell::Text(text) => Value::Text(text),
            Cell::Missing if keys && !column.key => Value::Null,
            Cell::Missing if !keys && unchanged.contains(&column.name) => Value::Unchanged,
            Cell::Missing => {
                return Err(Error::unexpected(format!("a row has no value for column \"{}\"", column.name)));
            }
        });
    }
    Ok(Tuple::pack(found, room))
}

/// A value's text as PostgreSQL printed it.
fn cell(value: &RawValue) -> Result<Cell<'_>, serde_json::Error> {
    let raw = value.get();
    Ok(Cell::Text(match raw.as_bytes().first() {
        Some(b'n') => return Ok(Cell::Null),
        Some(b't') => Cow::Borrowed(b"t"),
        Some(b'f') => Cow::Borrowed(b"f"),
        Some(b'"') => match serde_json::from_str::<Borrowed<'_>>(raw)?.0 {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        },
        Some(b'{') => Cow::Owned(bytes(serde_json::from_str::<Hex>(raw)?.hex)?),
        // A number, digit for digit.
        _ => Cow::Borrowed(raw.as_bytes()),
    }))
}

/// A text without a copy where it has no escapes.
#[derive(serde::Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Hex<'a> {
    hex: &'a str,
}

fn bytes(hex: &str) -> Result<Vec<u8>, serde_json::Error> {
    let malformed = || serde::de::Error::custom("\"hex\" is no pairs of hexadecimal digits");
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return Err(malformed());
    }
    let pairs = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16));
    pairs.collect::<Result<_, _>>().map_err(|_| malformed())
}

/// A column's place.
#[derive(Clone)]
enum Cell<'a> {
    /// The object has no such name, so far.
    Missing,
    Null,
    Text(Cow<'a, [u8]>),
}

/// Puts an object's values in their columns' places.
struct Fill<'r, 'v, 'a> {
    relation: &'r Relation,
    values: &'v mut Vec<Cell<'a>>,
}

impl<'a> DeserializeSeed<'a> for Fill<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'a>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Fill<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of column values")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        use serde::de::Error as _;
        // Written in the columns' order: the next name is nearly always the next column's.
        let mut expected = 0;
        while let Some(Borrowed(name)) = map.next_key()? {
            let columns = &self.relation.columns;
            let at = (expected..columns.len()).chain(0..expected).find(|at| columns[*at].name == name);
            let at = at.ok_or_else(|| M::Error::custom(format!("there is no column \"{name}\"")))?;
            if !matches!(self.values[at], Cell::Missing) {
                return Err(M::Error::custom(format!("column \"{name}\" is there twice")));
            }
            self.values[at] = cell(map.next_value()?).map_err(M::Error::custom)?;
            expected = at + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::archive::encode::Encoder;
    use crate::change::{Column, Transaction};
    use crate::position::Lsn;

    fn relation(identity: ReplicaIdentity) -> Arc<Relation> {
        let types = [23, 25, 1700, 16, 17];
        let columns = types.iter().enumerate().map(|(number, type_id)| Column {
            name: format!("c\"{number}"),
            type_id: *type_id,
            type_modifier: -1,
            key: number < 2,
        });
        Arc::new(Relation {
            id: 1,
            schema: "s".into(),
            name: "t".into(),
            identity,
            columns: columns.collect(),
        })
    }

    /// Encodes, reads back and decodes.
    fn there_and_back(change: &Change) -> Change {
        let mut encoder = Encoder::default();
        let mut out = Vec::new();
        encoder.begin(&Transaction { xid: 1, commit_lsn: Lsn(1), committed_at_us: 0 });
        encoder.change(change, &mut out);
        let text = String::from_utf8(out).expect("lines are UTF-8");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "a line break in a value breaks no line: {text}");
        let relation: Relation =
            serde_json::from_str::<crate::archive::line::RelationLine>(lines[0]).unwrap().into();
        super::change(&serde_json::from_str(lines[1]).unwrap(), &Arc::new(relation), &mut BytesMut::new())
            .unwrap()
    }

    #[derive(Debug, Clone)]
    enum Given {
        Null,
        Unchanged,
        Text(Vec<u8>),
    }

    impl Given {
        fn value(&self) -> Value<'_> {
            match self {
                Given::Null => Value::Null,
                Given::Unchanged => Value::Unchanged,
                Given::Text(text) => Value::Text(text),
            }
        }
    }

    fn given_text() -> impl Strategy<Value = Given> {
        prop_oneof![
            "\\PC*".prop_map(|text| Given::Text(text.into_bytes())),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Given::Text),
            "-?[0-9]{1,40}(\\.[0-9]{1,40})?".prop_map(|text| Given::Text(text.into_bytes())),
            prop_oneof!["NaN", "-Infinity", "t", "f", "true", "null", "1e5", ""]
                .prop_map(|text| Given::Text(text.into_bytes())),
        ]
    }

    fn given() -> impl Strategy<Value = Given> {
        prop_oneof![4 => given_text(), 1 => Just(Given::Null), 1 => Just(Given::Unchanged)]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            keys in [given_text(), given_text()],
            others in [given(), given(), given()],
            old in proptest::option::of([given_text(), given_text()]),
        ) {
            let row = |keys: &[Given; 2]| -> Tuple {
                keys.iter().chain(&others).map(Given::value).collect()
            };
            let full = |keys: &[Given; 2]| -> Tuple {
                let whole = others.iter().map(|given| match given.value() { Value::Unchanged => Value::Null, value => value });
                keys.iter().map(Given::value).chain(whole).collect()
            };
            let key_only = |keys: &[Given; 2]| -> Tuple {
                keys.iter().map(Given::value).chain([Value::Null; 3]).collect()
            };
            let by_key = relation(ReplicaIdentity::Default);
            let whole = relation(ReplicaIdentity::Full);
            let mut changes = vec![
                Change::Insert { relation: Arc::clone(&by_key), new: full(&keys) },
                Change::Update { relation: Arc::clone(&by_key), old: None, new: row(&keys) },
                Change::Delete { relation: Arc::clone(&by_key), old: Old::Key(key_only(&keys)) },
                Change::Delete { relation: Arc::clone(&whole), old: Old::Full(full(&keys)) },
                Change::Update { relation: whole, old: Some(Old::Full(full(&keys))), new: row(&keys) },
            ];
            if let Some(old) = old.filter(|old| key_only(old) != key_only(&keys)) {
                let old = Some(Old::Key(key_only(&old)));
                changes.push(Change::Update { relation: by_key, old, new: row(&keys) });
            }
            for change in changes {
                prop_assert_eq!(there_and_back(&change), change);
            }
        }
    }

    #[test]
    fn damaged_rows_are_refused() {
        let relation = relation(ReplicaIdentity::Default);
        for (line, what) in [
            (r#"{"op":"INSERT","table":"t"}"#, "\"data\" is missing"),
            (r#"{"op":"DELETE","table":"t"}"#, "\"old_keys\" is missing"),
            (r#"{"op":"MERGE","table":"t"}"#, "no operation"),
            (r#"{"op":"DELETE","table":"t","old_keys":{}}"#, "no value for column"),
            (r#"{"op":"DELETE","table":"t","old_keys":{"x":1}}"#, "no column \"x\""),
            (r#"{"op":"DELETE","table":"t","old_keys":[1]}"#, "an object of column values"),
            (r#"{"op":"DELETE","table":"t","old_keys":{"c\"0":1,"c\"0":1}}"#, "there twice"),
            (r#"{"op":"DELETE","table":"t","old_keys":{"c\"0":1,"c\"1":{"hex":"0"}}}"#, "hexadecimal"),
            (r#"{"op":"DELETE","table":"t","old_keys":{"c\"0":1,"c\"1":{"a":1}}}"#, "unknown field"),
        ] {
            let error =
                change(&serde_json::from_str(line).unwrap(), &relation, &mut BytesMut::new()).unwrap_err();
            assert!(error.chain().contains(what), "{line}: {}", error.chain());
        }
    }
}
