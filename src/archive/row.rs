//! A row that somebody else spelled as JSON, before anything is known of its table: names with values as they stand there.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::change::TableName;
use crate::position::Lsn;

/// What happened to the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Insert,
    Update,
    Delete,
    Truncate,
}

/// A column's value.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    pub name: Cow<'a, str>,
    pub raw: &'a RawValue,
    /// As the file declares it.
    pub type_name: Option<Cow<'a, str>>,
    /// `pg_attribute.atttypid`, where it is told.
    pub type_id: Option<u32>,
    /// `pg_attribute.attnum`, where it is told.
    pub number: Option<i16>,
    /// Whether it may be null, where that is told.
    pub optional: Option<bool>,
}

impl<'a> Field<'a> {
    /// A value of which nothing more is told.
    pub fn new(name: Cow<'a, str>, raw: &'a RawValue) -> Field<'a> {
        Field { name, raw, type_name: None, type_id: None, number: None, optional: None }
    }
}

#[derive(Debug, Clone)]
pub struct Row<'a> {
    pub table: TableName,
    pub op: Op,
    pub new: Vec<Field<'a>>,
    /// What is known of the row before.
    pub old: Option<Vec<Field<'a>>>,
    /// Where its record lies, where that is told.
    pub lsn: Option<Lsn>,
}

/// No schema means public; a table `a.b` without one is b in a.
pub fn table(schema: Option<Cow<'_, str>>, table: &str) -> TableName {
    match (schema, table.split_once('.')) {
        (Some(schema), _) => TableName::new(schema, table),
        (None, Some((schema, table))) => TableName::new(schema, table),
        (None, None) => TableName::new("public", table),
    }
}

/// A text without a copy where it has no escapes.
#[derive(Debug, serde::Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// An object's members in their order; a name that is there twice is refused.
pub fn members(object: &RawValue) -> Result<Vec<Field<'_>>, serde_json::Error> {
    serde_json::Deserializer::from_str(object.get()).deserialize_map(Members)
}

struct Members;

impl<'a> Visitor<'a> for Members {
    type Value = Vec<Field<'a>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of column values")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<Vec<Field<'a>>, M::Error> {
        use serde::de::Error as _;
        let mut fields: Vec<Field<'a>> = Vec::new();
        while let Some(Text(name)) = map.next_key()? {
            if fields.iter().any(|field| field.name == name) {
                return Err(M::Error::custom(format!("column \"{name}\" is there twice")));
            }
            fields.push(Field::new(name, map.next_value()?));
        }
        Ok(fields)
    }
}

/// A value as PostgreSQL reads it; `None` is null. `array`: the column is one.
pub fn text<'a>(
    field: &Field<'a>,
    array: bool,
    hex_bytes: bool,
) -> Result<Option<Cow<'a, str>>, serde_json::Error> {
    let raw = field.raw.get();
    Ok(Some(match raw.as_bytes().first() {
        Some(b'n') => return Ok(None),
        Some(b'"') => {
            let Text(text) = serde_json::from_str(raw)?;
            // wal2json leaves the prefix out of a bytea, and of nothing else.
            if hex_bytes && !text.starts_with("\\x") { format!("\\x{text}").into() } else { text }
        }
        Some(b'[') if array => array_text(raw)?.into(),
        // A number, digit for digit; true and false; a document as it is spelled.
        _ => raw.into(),
    }))
}

/// A JSON array as PostgreSQL's text of an array.
fn array_text(raw: &str) -> Result<String, serde_json::Error> {
    let elements: Vec<&RawValue> = serde_json::from_str(raw)?;
    let mut texts = Vec::with_capacity(elements.len());
    for element in elements {
        let element = element.get();
        texts.push(match element.as_bytes().first() {
            Some(b'n') => "NULL".to_owned(),
            Some(b'[') => array_text(element)?,
            Some(b'"') => quoted(&serde_json::from_str::<Text<'_>>(element)?.0),
            Some(b'{') => quoted(element),
            _ => element.to_owned(),
        });
    }
    Ok(format!("{{{}}}", texts.join(",")))
}

fn quoted(element: &str) -> String {
    format!("\"{}\"", element.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_every_digit_and_letter() {
        for (json, array, hex_bytes, expected) in [
            ("9007199254740993", false, false, Some("9007199254740993")),
            ("1.50", false, false, Some("1.50")),
            ("1e-16383", false, false, Some("1e-16383")),
            ("null", false, false, None),
            ("\"null\"", false, false, Some("null")),
            ("\"NaN\"", false, false, Some("NaN")),
            ("true", false, false, Some("true")),
            (r#""a\"\u00e9\n""#, false, false, Some("a\"é\n")),
            (r#""00ff""#, false, true, Some("\\x00ff")),
            (r#""\\x00ff""#, false, true, Some("\\x00ff")),
            (r#""00ff""#, false, false, Some("00ff")),
            (r#"{"a": 1.0}"#, false, false, Some(r#"{"a": 1.0}"#)),
            ("[1, 2]", false, false, Some("[1, 2]")),
            (r#"[1, null, "a\"b", [true]]"#, true, false, Some(r#"{1,NULL,"a\"b",{true}}"#)),
            ("\"{1,2}\"", true, false, Some("{1,2}")),
        ] {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            let field = Field::new("c".into(), raw);
            assert_eq!(text(&field, array, hex_bytes).unwrap().as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        let raw: &RawValue = serde_json::from_str(r#"{"a": 1, "a": 2}"#).unwrap();
        assert!(members(raw).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn tables_without_a_schema_are_public() {
        assert_eq!(table(None, "users"), TableName::new("public", "users"));
        assert_eq!(table(None, "app.users"), TableName::new("app", "users"));
        assert_eq!(table(Some("app".into()), "a.b"), TableName::new("app", "a.b"));
    }
}
