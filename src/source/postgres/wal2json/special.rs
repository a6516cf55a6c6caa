//! Numbers that JSON has no word for. Before 2.6, wal2json prints NaN and the infinities as `null`, and says what they
//! were at the level `debug1`, each before the message that it belongs to (`pg_decode_write_value`). So they are put back
//! where it can be told which of a row's nulls they are, and nothing goes on where it cannot.
//!
//! It also says so, as a warning, when it leaves a change out: that of a row without an identity.

use std::collections::VecDeque;

use crate::archive::row::{Field, Row};
use crate::change::TableName;
use crate::error::{Error, Kind, Result};

/// float4, float8, numeric: the types that have such values and are printed without quotes.
const TYPES: [u32; 3] = [700, 701, 1700];

/// What the server has said since the last message.
#[derive(Default)]
pub(super) struct Told(VecDeque<String>);

/// The values that were lost, for the nulls of these types in their order: first of the new row, then of the old one.
#[derive(Default)]
pub(super) struct Lost {
    new: Vec<(usize, String)>,
    old: Vec<(usize, String)>,
}

impl Lost {
    /// What the new row's null at `at` was.
    pub(super) fn new_at(&self, at: usize) -> Option<&str> {
        self.new.iter().find(|(lost, _)| *lost == at).map(|(_, text)| text.as_str())
    }

    pub(super) fn old_at(&self, at: usize) -> Option<&str> {
        self.old.iter().find(|(lost, _)| *lost == at).map(|(_, text)| text.as_str())
    }
}

impl Told {
    /// Takes what the server says beside its messages.
    pub(super) fn hear(
        &mut self,
        text: &str,
        wanted: &(dyn Fn(&TableName) -> bool + Send + Sync),
    ) -> Result<()> {
        if let Some(value) = text.strip_prefix("special value: ") {
            self.0.push_back(value.to_owned());
            return Ok(());
        }
        let is_left_out = ["no tuple data for", "no tuple identifier for", "no old tuple data for"]
            .iter()
            .any(|beginning| text.starts_with(beginning));
        if is_left_out && names_wanted(text, wanted) {
            return Err(left_out(text));
        }
        Ok(())
    }

    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// Which of the row's nulls are none.
    pub(super) fn fill(&mut self, row: &mut Row<'_>) -> Result<Lost> {
        if self.0.is_empty() {
            return Ok(Lost::default());
        }
        let mut places: Vec<(bool, usize, bool)> = Vec::new();
        let mut look = |fields: &[Field<'_>], is_new: bool| {
            for (at, field) in fields.iter().enumerate() {
                if field.type_id.is_some_and(|id| TYPES.contains(&id)) && field.raw.get() == "null" {
                    places.push((is_new, at, field.optional == Some(false)));
                }
            }
        };
        look(&row.new, true);
        look(row.old.as_deref().unwrap_or_default(), false);
        if places.len() != self.0.len() {
            // Those that cannot be null are all that there are.
            places.retain(|(_, _, is_certain)| *is_certain);
        }
        if places.len() != self.0.len() {
            return Err(ambiguous(&row.table, &self.0));
        }
        let mut lost = Lost::default();
        for ((is_new, at, _), value) in places.into_iter().zip(self.0.drain(..)) {
            if is_new { lost.new.push((at, value)) } else { lost.old.push((at, value)) }
        }
        Ok(lost)
    }
}

/// Whether a message's `"schema"."table"` may be one that is wanted; names are not escaped in it.
fn names_wanted(text: &str, wanted: &(dyn Fn(&TableName) -> bool + Send + Sync)) -> bool {
    const BETWEEN: &str = "\".\"";
    let Some((_, names)) = text.split_once(" in table \"") else { return true };
    let Some(names) = names.strip_suffix('"') else { return true };
    names
        .match_indices(BETWEEN)
        .any(|(at, _)| wanted(&TableName::new(&names[..at], &names[at + BETWEEN.len()..])))
}

fn left_out(text: &str) -> Error {
    Error::new(Kind::Refused, format!("the source's wal2json leaves out a change: {text}")).hint(
        "The table's rows have nothing that names them. Give it a replica identity; what was left out is lost to this \
         slot, so leave the table out of the pipeline's tables until the archive is begun anew, or for good.",
    )
}

fn ambiguous(table: &TableName, values: &VecDeque<String>) -> Error {
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    Error::new(
        Kind::Refused,
        format!(
            "a row of {table} holds {} and nulls in columns of numbers, and the source's wal2json prints all of them as null",
            values.join(", ")
        ),
    )
    .hint(
        "Nothing is lost: install wal2json 2.6 or newer at the source, which tells them apart, and start again. Or leave \
         the table out of the pipeline's tables.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::wal2json::{Said, parse_2};

    fn row(columns: &str) -> Row<'_> {
        let Ok(Said::Row(row)) = parse_2(columns) else { panic!("{columns}") };
        row
    }

    fn told(values: &[&str]) -> Told {
        let mut told = Told::default();
        for value in values {
            told.hear(&format!("special value: {value}"), &|_| true).unwrap();
        }
        told
    }

    const TWO: &str = r#"{"action":"I","table":"t","columns":[
        {"name":"a","typeoid":1700,"value":null,"optional":false},{"name":"b","typeoid":25,"value":null},
        {"name":"c","typeoid":701,"value":null,"optional":true},{"name":"d","typeoid":701,"value":1}]}"#;

    #[test]
    fn lost_numbers_are_put_back_where_there_is_no_doubt() {
        let lost = told(&["NaN", "-Infinity"]).fill(&mut row(TWO)).unwrap();
        assert_eq!((lost.new_at(0), lost.new_at(1), lost.new_at(2)), (Some("NaN"), None, Some("-Infinity")));
        let lost = told(&["NaN"]).fill(&mut row(TWO)).unwrap();
        assert_eq!((lost.new_at(0), lost.new_at(2)), (Some("NaN"), None), "the column that cannot be null");
        let unsure = TWO.replace("\"optional\":false", "\"optional\":true");
        let error = told(&["NaN"]).fill(&mut row(&unsure)).err().unwrap();
        assert!(error.what().contains("NaN and nulls"), "{}", error.what());
        let none = told(&[]).fill(&mut row(TWO)).unwrap();
        assert_eq!((none.new_at(0), none.new_at(2)), (None, None));
    }

    #[test]
    fn a_change_that_is_left_out_is_told() {
        let text = r#"no tuple identifier for UPDATE in table "a"."b"."c""#;
        let is = |schema: &'static str, name: &'static str| {
            move |table: &TableName| table.schema == schema && table.name == name
        };
        let mut told = Told::default();
        assert!(told.hear(text, &is("a", "b\".\"c")).is_err());
        assert!(told.hear(text, &is("a\".\"b", "c")).is_err());
        assert!(told.hear(text, &is("a", "b")).is_ok(), "nobody wants that table");
        assert!(told.hear("REPLICA IDENTITY: obtain old tuple using new tuple", &|_| true).is_ok());
    }
}
