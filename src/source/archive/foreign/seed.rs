//! The dialect `seed`: one row a line, `{"table","op","data","old_keys","lsn","ts"}`, as a person or a script writes it.

use crate::archive::line;
use crate::archive::row::{self, Op, Row};

/// A line's row, and its time.
pub fn parse(line: &str) -> Result<(Row<'_>, i64), String> {
    let line: line::Row<'_> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let table = line.table.as_deref().ok_or("\"table\" is missing")?;
    let missing = |what: &str| format!("\"{what}\" is missing");
    let op = match line.op.as_ref() {
        "INSERT" => Op::Insert,
        "UPDATE" => Op::Update,
        "DELETE" => Op::Delete,
        "TRUNCATE" => Op::Truncate,
        other => return Err(format!("op \"{other}\" is none of INSERT, UPDATE, DELETE")),
    };
    let fields = |raw| row::members(raw).map_err(|error: serde_json::Error| error.to_string());
    let new = match (op, line.data) {
        (Op::Insert | Op::Update, None) => return Err(missing("data")),
        (Op::Insert | Op::Update, Some(data)) => fields(data)?,
        (Op::Delete | Op::Truncate, _) => Vec::new(),
    };
    let old = match (op, line.old_keys) {
        (Op::Delete, None) => return Err(missing("old_keys")),
        (Op::Update | Op::Delete, Some(keys)) => Some(fields(keys)?),
        _ => None,
    };
    let time = line.ts.as_deref().and_then(crate::archive::time::parse).unwrap_or(0);
    Ok((Row { table: row::table(line.schema, table), op, new, old, lsn: None }, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        for (line, what) in [
            (r#"{"op":"INSERT","data":{}}"#, "\"table\" is missing"),
            (r#"{"table":"t","op":"INSERT"}"#, "\"data\" is missing"),
            (r#"{"table":"t","op":"DELETE"}"#, "\"old_keys\" is missing"),
            (r#"{"table":"t","op":"MERGE"}"#, "\"MERGE\""),
            (r#"{"table":"t","op":"INSERT","data":[1]}"#, "an object of column values"),
            (r#"{"table":"t","op":"INSERT","da"#, "EOF"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(what), "{line}: {error}");
        }
    }
}
