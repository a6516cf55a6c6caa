//! Paths into a value: `$.user.name`, `$.tags[0]`, `$["odd.name"]` from its top, `@.text` from the element at hand.

use std::fmt;

use super::pattern::is_word;
use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) root: Root,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// `$`: the value.
    Value,
    /// `@`: the element that a row is made of.
    Element,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Field(String),
    /// Negative: from the end.
    Item(i32),
}

impl Path {
    /// Whether `text` is meant to be one.
    pub(super) fn begins(text: &str) -> bool {
        text.starts_with(['$', '@'])
    }

    pub(super) fn parse(text: &str) -> Result<Path> {
        let wrong = |why: &str| {
            Error::config(format!("\"{text}\" is no path: {why}")).hint(
                "a path is like $.user.name, $.tags[0] or $[\"odd.name\"]; from the element at hand: @.text",
            )
        };
        let root = match text.as_bytes().first() {
            Some(b'$') => Root::Value,
            Some(b'@') => Root::Element,
            _ => return Err(wrong("it begins with neither $ nor @")),
        };
        let mut steps = Vec::new();
        let mut rest = &text[1..];
        while !rest.is_empty() {
            let (step, after) = step(rest).map_err(wrong)?;
            steps.push(step);
            rest = after;
        }
        Ok(Path { root, steps })
    }
}

fn step(rest: &str) -> Result<(Step, &str), &'static str> {
    if let Some(rest) = rest.strip_prefix('.') {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        return match name {
            "" => Err("a name is empty"),
            "*" => Err("one value of each row is meant, not all; lists are gone through by each"),
            name => Ok((Step::Field(name.to_owned()), after)),
        };
    }
    let inner = rest.strip_prefix('[').ok_or("a step begins with . or [")?;
    if let Some(quoted) = inner.strip_prefix('"') {
        let (name, after) = quoted.split_once("\"]").ok_or("a [\" is not closed")?;
        return Ok((Step::Field(name.to_owned()), after));
    }
    let (number, after) = inner.split_once(']').ok_or("a [ is not closed")?;
    let number = number.parse().map_err(|_| "in [ ] stands a whole number, or a name in quotation marks")?;
    Ok((Step::Item(number), after))
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.root == Root::Value { "$" } else { "@" })?;
        for step in &self.steps {
            match step {
                Step::Field(name) if is_word(name) => write!(f, ".{name}")?,
                Step::Field(name) => write!(f, "[\"{name}\"]")?,
                Step::Item(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_written() {
        for (text, written) in [
            ("$", "$"),
            ("@", "@"),
            ("$.a.b[0]", "$.a.b[0]"),
            ("$[\"odd.name\"].x", "$[\"odd.name\"].x"),
            ("@.a-b", "@[\"a-b\"]"),
            ("$[-1][\"a\"]", "$[-1].a"),
        ] {
            let path = Path::parse(text).unwrap();
            assert_eq!(path.to_string(), written);
            assert_eq!(Path::parse(written).unwrap(), path);
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in ["", "a", "$a", "$.", "$..a", "$.*", "$[", "$[x]", "$[*]", "$[\"a]", "$.a[1", "@ .a"] {
            let error = Path::parse(text).unwrap_err();
            assert!(error.hint_text().is_some(), "{text}");
        }
    }
}
