//! Which tables a pipeline carries: patterns `schema.table`.
//!
//! A table is carried when a pattern matches it and no excluding pattern does, whatever their order. A list of
//! exclusions alone starts from every table. Names count as the catalog stores them: nothing is folded to lower case.

use std::fmt;

use crate::change::TableName;
use crate::error::{Error, Result};

#[derive(Clone, PartialEq, Eq)]
pub struct Tables {
    pub included: Vec<Pattern>,
    pub excluded: Vec<Pattern>,
}

/// A pattern for a schema and one for a name.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    schema: Vec<Piece>,
    name: Vec<Piece>,
    written: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    Character(char),
    /// `?`: any one character.
    One,
    /// `*`: any number of characters.
    Any,
}

impl Tables {
    pub fn parse(patterns: &[String]) -> Result<Tables> {
        let mut tables = Tables { included: Vec::new(), excluded: Vec::new() };
        for pattern in patterns {
            match pattern.trim().strip_prefix('!') {
                Some(excluded) => tables.excluded.push(excluded.parse()?),
                None => tables.included.push(pattern.parse()?),
            }
        }
        if tables.included.is_empty() && tables.excluded.is_empty() {
            return Err(Error::config("the list is empty").hint("leave the key out to carry every table"));
        }
        if tables.included.is_empty() {
            tables.included.push("*.*".parse()?);
        }
        Ok(tables)
    }

    /// Whether the pipeline carries `table`.
    pub fn match_table(&self, table: &TableName) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(table));
        any(&self.included) && !any(&self.excluded)
    }
}

impl Tables {
    /// The included patterns where each part is one plain name or `*`: what any program can be told. Empty where one
    /// is not, and where every table is included.
    pub fn plain(&self) -> Vec<(String, String)> {
        let part = |pieces: &[Piece]| match pieces {
            [Piece::Any] => Some("*".to_owned()),
            pieces => text(pieces)
                .filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')),
        };
        let plain = self.included.iter().map(|pattern| Some((part(&pattern.schema)?, part(&pattern.name)?)));
        let plain: Option<Vec<(String, String)>> = plain.collect();
        let plain = plain.unwrap_or_default();
        if plain.iter().any(|(schema, name)| schema == "*" && name == "*") { Vec::new() } else { plain }
    }
}

/// The text that only these pieces match.
fn text(pieces: &[Piece]) -> Option<String> {
    let characters = pieces.iter().map(|piece| match piece {
        Piece::Character(character) => Some(*character),
        Piece::One | Piece::Any => None,
    });
    characters.collect()
}

impl Pattern {
    pub fn matches(&self, table: &TableName) -> bool {
        matches(&self.schema, &table.schema) && matches(&self.name, &table.name)
    }

    /// The one table that the pattern can match, when it holds no `*` or `?`.
    pub fn exact(&self) -> Option<TableName> {
        Some(TableName::new(text(&self.schema)?, text(&self.name)?))
    }
}

impl std::str::FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Pattern> {
        let written = text.trim();
        let refuse = |why: &str| {
            Error::config(format!("\"{written}\" is not a table pattern: {why}"))
                .hint("write schema.table, for example \"public.*\" or 'public.\"odd.name\"'")
        };
        let mut parts = vec![Vec::new()];
        let mut quoted = false;
        let mut characters = written.chars().peekable();
        while let Some(character) = characters.next() {
            let part = parts.last_mut().ok_or_else(|| refuse("it has no part"))?;
            match character {
                '"' if quoted && characters.next_if_eq(&'"').is_some() => part.push(Piece::Character('"')),
                '"' => quoted = !quoted,
                '.' if !quoted => parts.push(Vec::new()),
                '*' if !quoted => part.push(Piece::Any),
                '?' if !quoted => part.push(Piece::One),
                _ => part.push(Piece::Character(character)),
            }
        }
        if quoted {
            return Err(refuse("a quotation mark is not closed"));
        }
        match <[Vec<Piece>; 2]>::try_from(parts) {
            Ok([schema, name]) if !schema.is_empty() && !name.is_empty() => {
                Ok(Pattern { schema, name, written: written.to_owned() })
            }
            Ok(_) => Err(refuse("a part is empty")),
            Err(parts) if parts.len() == 1 => Err(refuse("the schema is missing")),
            Err(_) => Err(refuse("it has more than two parts")),
        }
    }
}

/// `table` as a pattern that matches it alone: quoted only where it must be. What status prints can be typed again.
pub fn written(table: &TableName) -> String {
    let part = |name: &str| {
        let plain = !name.contains(['.', '*', '?', '!', '"', ',']) && name.trim() == name && !name.is_empty();
        if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
    };
    format!("{}.{}", part(&table.schema), part(&table.name))
}

/// Matches with one remembered `*`: linear for each, never exponential.
fn matches(pattern: &[Piece], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut reached) = (0, 0);
    let mut star = None;
    while reached < text.len() {
        match pattern.get(at) {
            Some(Piece::Any) => {
                star = Some((at, reached));
                at += 1;
                continue;
            }
            Some(Piece::One) => {}
            Some(Piece::Character(character)) if *character == text[reached] => {}
            _ => {
                let Some((star_at, star_reached)) = star else { return false };
                star = Some((star_at, star_reached + 1));
                (at, reached) = (star_at + 1, star_reached + 1);
                continue;
            }
        }
        (at, reached) = (at + 1, reached + 1);
    }
    pattern[at..].iter().all(|piece| *piece == Piece::Any)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// As in the file, exclusions last.
impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let included = self.included.iter().map(ToString::to_string);
        let excluded = self.excluded.iter().map(|pattern| format!("!{pattern}"));
        f.write_str(&included.chain(excluded).collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(patterns: &[&str], schema: &str, name: &str) -> bool {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        Tables::parse(&patterns).unwrap().match_table(&TableName::new(schema, name))
    }

    #[test]
    fn patterns_choose_tables() {
        for (patterns, schema, name, expected) in [
            (&["*.*"][..], "public", "users", true),
            (&["public.*"], "other", "users", false),
            (&["public.*", "!public.audit_*"], "public", "audit_2024", false),
            (&["!public.audit_*", "public.*"], "public", "audit_2024", false),
            (&["!public.audit_*"], "other", "t", true),
            (&["public.event_?"], "public", "event_1", true),
            (&["public.event_?"], "public", "event_", false),
            (&["public.a*b*c"], "public", "aXbYbZc", true),
            (&["public.a*b*c"], "public", "aXbYbZ", false),
            (&["public.*"], "public", "", true),
            (&["public.Users"], "public", "users", false),
            (&[r#"public."a.b""#], "public", "a.b", true),
            (&[r#""we*rd"."say ""hi""""#], "we*rd", r#"say "hi""#, true),
            (&[r#""we*rd".x"#], "weird", "x", false),
            (&["größe.t?"], "größe", "tä", true),
        ] {
            assert_eq!(carried(patterns, schema, name), expected, "{patterns:?} {schema}.{name}");
        }
    }

    #[test]
    fn a_thousand_stars_do_not_hang() {
        let pattern = format!("public.{}b", "*a".repeat(1000));
        assert!(!carried(&[&pattern], "public", &"a".repeat(5000)));
    }

    #[test]
    fn patterns_that_are_not_schema_and_table_are_refused() {
        for (pattern, why) in [
            ("users", "the schema is missing"),
            ("", "the schema is missing"),
            ("a.b.c", "it has more than two parts"),
            ("a.", "a part is empty"),
            (".b", "a part is empty"),
            (r#"a."b"#, "a quotation mark is not closed"),
        ] {
            let error = pattern.parse::<Pattern>().unwrap_err();
            assert_eq!(error.what(), format!("\"{pattern}\" is not a table pattern: {why}"));
            assert!(error.hint_text().is_some());
        }
        assert_eq!(Tables::parse(&[]).unwrap_err().what(), "the list is empty");
    }

    #[test]
    fn written_tables_read_back() {
        for (schema, name, expected) in [
            ("public", "users", "public.users"),
            ("public", "Users", "public.Users"),
            ("a.b", "say \"hi\"", r#""a.b"."say ""hi""""#),
            ("!x", "y*", r#""!x"."y*""#),
            (" a", "b c", r#"" a".b c"#),
        ] {
            let table = TableName::new(schema, name);
            assert_eq!(written(&table), expected);
            assert_eq!(expected.parse::<Pattern>().unwrap().exact(), Some(table));
        }
    }

    #[test]
    fn an_exact_pattern_names_its_table() {
        assert_eq!(
            r#"public."a*b""#.parse::<Pattern>().unwrap().exact(),
            Some(TableName::new("public", "a*b"))
        );
        assert_eq!("public.a*b".parse::<Pattern>().unwrap().exact(), None);
    }
}
