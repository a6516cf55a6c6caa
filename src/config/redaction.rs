//! What of a source a snapshot leaves out or replaces: tables without their rows, columns with other values.
//!
//! Here stands what was asked for; whether the source has such tables and columns is known only there. A name that it
//! does not have is refused then, since a slip would let through what was to stay: but for a preset's, which speaks of
//! several versions of one application.

use std::collections::BTreeMap;

use super::Pattern;
use crate::change::TableName;
use crate::error::{Error, Result};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redaction {
    pub emptied: Vec<Emptied>,
    /// Tables that keep their rows whatever [`emptied`](Redaction::emptied) says.
    pub filled: Vec<Pattern>,
    pub masks: Vec<Mask>,
}

/// Tables that come without rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emptied {
    pub tables: Pattern,
    /// No table of the source need match.
    pub if_there: bool,
}

/// A column whose values are replaced at the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    pub table: TableName,
    pub column: String,
    pub with: Masking,
    /// The source need not have it.
    pub if_there: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Masking {
    Null,
    Hash,
    Constant(String),
    /// SQL over the columns of the row.
    Expression(String),
    /// As it is.
    Keep,
}

impl Redaction {
    pub fn is_empty(&self) -> bool {
        self.emptied.is_empty() && self.masks.is_empty()
    }

    /// `at` says where a key of the pipeline stands.
    pub(super) fn parse(
        empty: &[String],
        mask: &BTreeMap<String, String>,
        at: &dyn Fn(&[&str]) -> String,
    ) -> Result<Redaction> {
        let mut redaction = Redaction::default();
        for pattern in empty {
            let parse = |text: &str| -> Result<Pattern> {
                text.parse::<Pattern>().map_err(|error| error.context(at(&["snapshot", "empty"])))
            };
            match pattern.trim().strip_prefix('!') {
                Some(filled) => redaction.filled.push(parse(filled)?),
                None => redaction.emptied.push(Emptied { tables: parse(pattern)?, if_there: false }),
            }
        }
        for (column, with) in mask {
            let parsed = Mask::parse(column, with);
            redaction.masks.push(parsed.map_err(|error| error.context(at(&["snapshot", "mask", column])))?);
        }
        Ok(redaction)
    }

    /// Adds what a preset asks for, where nothing else was asked for the same.
    pub(super) fn add(&mut self, preset: Redaction) {
        self.emptied.extend(preset.emptied.into_iter().map(|emptied| Emptied { if_there: true, ..emptied }));
        for mask in preset.masks {
            let is_overridden =
                self.masks.iter().any(|own| own.table == mask.table && own.column == mask.column);
            if !is_overridden {
                self.masks.push(Mask { if_there: true, ..mask });
            }
        }
    }
}

impl Mask {
    fn parse(name: &str, with: &str) -> Result<Mask> {
        let malformed = |why: &str| {
            Error::config(format!("\"{name}\" does not name a column: {why}")).hint(
                "write \"schema.table.column\" in one pair of quotation marks; a part with a dot in it stands in \
                 double quotes of its own: 'public.\"odd.name\".email'",
            )
        };
        let parts = parts(name).map_err(malformed)?;
        let [schema, table, column] = <[String; 3]>::try_from(parts).map_err(|parts| {
            malformed(if parts.len() < 3 { "it has too few parts" } else { "it has too many parts" })
        })?;
        let with = Masking::parse(with)?;
        Ok(Mask { table: TableName::new(schema, table), column, with, if_there: false })
    }
}

/// A dotted name's parts; a part in double quotes is taken literally.
fn parts(name: &str) -> Result<Vec<String>, &'static str> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut characters = name.trim().chars().peekable();
    while let Some(character) = characters.next() {
        let part = parts.last_mut().ok_or("it has no part")?;
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => part.push('"'),
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            '*' | '?' if !quoted => return Err("each column is named by itself, without * and ?"),
            _ => part.push(character),
        }
    }
    if quoted {
        return Err("a quotation mark is not closed");
    }
    if parts.iter().any(String::is_empty) {
        return Err("a part is empty");
    }
    Ok(parts)
}

impl Masking {
    fn parse(text: &str) -> Result<Masking> {
        match text.split_once(':') {
            None if text == "null" => Ok(Masking::Null),
            None if text == "hash" => Ok(Masking::Hash),
            None if text == "keep" => Ok(Masking::Keep),
            Some(("constant", constant)) => Ok(Masking::Constant(constant.to_owned())),
            Some(("sql", expression)) if !expression.trim().is_empty() => {
                Ok(Masking::Expression(expression.trim().to_owned()))
            }
            // What was written may be meant as a constant, and secret.
            _ => Err(Error::config("what is to replace the values is not understood")
                .hint("one of \"null\", \"hash\", \"constant:TEXT\", \"sql:EXPRESSION\" and \"keep\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(name: &str, with: &str) -> Result<Mask> {
        Mask::parse(name, with)
    }

    #[test]
    fn masks_are_read() {
        let mask = masked("public.\"a.b\".c", "sql: lower(c)").unwrap();
        assert_eq!((mask.table, mask.column.as_str()), (TableName::new("public", "a.b"), "c"));
        assert_eq!(mask.with, Masking::Expression("lower(c)".into()));
        for (text, with) in [
            ("null", Masking::Null),
            ("hash", Masking::Hash),
            ("keep", Masking::Keep),
            ("constant:", Masking::Constant(String::new())),
            ("constant:sql:x", Masking::Constant("sql:x".into())),
        ] {
            assert_eq!(masked("a.b.c", text).unwrap().with, with, "{text}");
        }
    }

    #[test]
    fn what_names_no_column_is_refused() {
        for (name, why) in [
            ("users.email", "too few parts"),
            ("a.b.c.d", "too many parts"),
            ("public.users.*", "without * and ?"),
            ("public..email", "a part is empty"),
            ("public.\"users.email", "not closed"),
        ] {
            let error = masked(name, "null").unwrap_err();
            assert!(error.what().contains(why) && error.hint_text().is_some(), "{error:?}");
        }
        for text in ["", "nul", "sql:", "sql: ", "NULL", "constant"] {
            assert!(masked("a.b.c", text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_operator_says_overrides_a_preset() {
        let parse = |empty: &[&str], mask: &[(&str, &str)]| {
            let empty: Vec<String> = empty.iter().map(ToString::to_string).collect();
            let mask = mask.iter().map(|(name, with)| ((*name).into(), (*with).into())).collect();
            Redaction::parse(&empty, &mask, &|_| "here".into()).unwrap()
        };
        let mut own = parse(&["!p.kept"], &[("p.t.a", "keep")]);
        own.add(parse(&["p.kept", "p.gone"], &[("p.t.a", "null"), ("p.t.b", "hash")]));
        assert_eq!(own.filled.len(), 1);
        assert!(own.emptied.iter().all(|emptied| emptied.if_there));
        let masks: Vec<_> =
            own.masks.iter().map(|mask| (mask.column.as_str(), &mask.with, mask.if_there)).collect();
        assert_eq!(masks, [("a", &Masking::Keep, false), ("b", &Masking::Hash, true)]);
    }
}
