//! A row's key for people, in notes and reasons. What the source sends in binary is read where that takes a line, for
//! the types that keys are mostly of; of any other value the length is said.

use std::fmt::Write;

use crate::change::{Tuple, Value};
use crate::target::postgres::table::{Table, TableColumn};

/// A key is data, and may be long.
const SHOWN_CHARS_MAX: usize = 200;

/// `(a, b) = ["1", null]`; the values of all columns where no key finds the row.
pub fn key(table: &Table, tuple: &Tuple) -> String {
    let has_key = table.columns.iter().any(|column| column.key);
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (shown, column) in tuple.values().zip(&table.by_source) {
        let Some(column) = column.map(|index| &table.columns[index]) else { continue };
        if column.key || !has_key {
            names.push(column.name.as_str());
            values.push(value(shown, column));
        }
    }
    let values = values.join(", ");
    let text = if has_key { format!("({}) = [{values}]", names.join(", ")) } else { format!("[{values}]") };
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

fn value(value: Value<'_>, column: &TableColumn) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Unchanged => "unchanged".to_owned(),
        Value::Text(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Value::Binary(bytes) => match binary(bytes, &column.type_sql) {
            Some(text) => format!("{text:?}"),
            None => format!("{} bytes of {}", bytes.len(), column.type_sql),
        },
    }
}

/// What the types' send functions write.
fn binary(bytes: &[u8], type_sql: &str) -> Option<String> {
    match type_sql {
        "smallint" => Some(i16::from_be_bytes(bytes.try_into().ok()?).to_string()),
        "integer" => Some(i32::from_be_bytes(bytes.try_into().ok()?).to_string()),
        "bigint" => Some(i64::from_be_bytes(bytes.try_into().ok()?).to_string()),
        "oid" => Some(u32::from_be_bytes(bytes.try_into().ok()?).to_string()),
        "boolean" => Some(if bytes == [1] { "t" } else { "f" }.to_owned()),
        "uuid" => uuid(bytes),
        "text" | "character varying" | "character" | "name" => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
        _ => None,
    }
}

fn uuid(bytes: &[u8]) -> Option<String> {
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    let mut text = String::with_capacity(36);
    for (place, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&place) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_values_read_as_their_text() {
        let id: Vec<u8> = (0..16).collect();
        for (type_sql, bytes, expected) in [
            ("smallint", &[0xff, 0xfe][..], Some("-2")),
            ("integer", &[0, 0, 1, 0], Some("256")),
            ("bigint", &[0, 0, 0, 1, 0, 0, 0, 0], Some("4294967296")),
            ("oid", &[0xff; 4], Some("4294967295")),
            ("boolean", &[1], Some("t")),
            ("uuid", &id, Some("00010203-0405-0607-0809-0a0b0c0d0e0f")),
            ("text", "aä".as_bytes(), Some("aä")),
            ("numeric", &[0, 1], None),
            ("integer", &[1], None),
        ] {
            assert_eq!(binary(bytes, type_sql).as_deref(), expected, "{type_sql}");
        }
    }
}
