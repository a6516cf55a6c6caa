//! Reads the file and refuses what it does not know, saying file, line, key and the key that was probably meant.
//!
//! Two steps: the text is walked against the table of keys, which gives the good messages; then serde fills the
//! structs, which can only fail where the two disagree.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::de::{DeArray, DeTable, DeValue};

use super::{Key, Section, Shape, endpoint, nearest};
use crate::error::{Error, Result};

/// Where each key of a file stands.
pub(super) struct Places {
    file: String,
    lines: HashMap<Vec<String>, usize>,
}

impl Places {
    /// `file:line` of a key, or of the innermost section around it that is written.
    pub(super) fn of(&self, key: &[&str]) -> String {
        let path: Vec<String> = key.iter().map(ToString::to_string).collect();
        let written = (1..=path.len()).rev().find_map(|length| self.lines.get(&path[..length]));
        written.map_or_else(|| self.file.clone(), |line| format!("{}:{line}", self.file))
    }
}

pub(super) fn read<D: Section + DeserializeOwned>(path: &Path, text: &str) -> Result<(D, Places)> {
    let mut reading = Reading {
        text,
        places: Places { file: path.display().to_string(), lines: HashMap::new() },
        path: Vec::new(),
    };
    let malformed = |reading: &Reading<'_>, error: &toml::de::Error| {
        let at = reading.at(&error.span().unwrap_or_default());
        Error::config(format!("{at}: {}", error.message().lines().collect::<Vec<_>>().join(", ")))
            .hint("the file is TOML; texts stand in quotation marks, sections in brackets")
    };
    let table = DeTable::parse(text).map_err(|error| malformed(&reading, &error))?;
    reading.section(table.get_ref(), &D::keys())?;
    let document =
        D::deserialize(toml::Deserializer::from(table)).map_err(|error| malformed(&reading, &error))?;
    Ok((document, reading.places))
}

struct Reading<'a> {
    text: &'a str,
    places: Places,
    /// The section that is being read.
    path: Vec<String>,
}

impl Reading<'_> {
    fn at(&self, span: &Range<usize>) -> String {
        format!("{}:{}", self.places.file, self.line(span))
    }

    fn line(&self, span: &Range<usize>) -> usize {
        self.text.get(..span.start).unwrap_or(self.text).matches('\n').count() + 1
    }

    fn section(&mut self, table: &DeTable<'_>, known: &[Key]) -> Result<()> {
        for (name, value) in table {
            let key = known
                .iter()
                .find(|key| key.name == name.get_ref())
                .ok_or_else(|| self.unknown(name.get_ref(), &name.span(), known))?;
            self.enter(name.get_ref(), &name.span());
            self.value(key, value.get_ref(), &value.span())?;
            self.path.pop();
        }
        Ok(())
    }

    fn enter(&mut self, name: &str, span: &Range<usize>) {
        self.path.push(name.to_owned());
        let line = self.line(span);
        self.places.lines.insert(self.path.clone(), line);
    }

    fn value(&mut self, key: &Key, value: &DeValue<'_>, span: &Range<usize>) -> Result<()> {
        match (key.shape, value) {
            (Shape::Text | Shape::TextOrTexts | Shape::Path | Shape::Connection, DeValue::String(_))
            | (Shape::Switch, DeValue::Boolean(_)) => Ok(()),
            (Shape::Texts | Shape::TextOrTexts, DeValue::Array(items))
                if items.iter().all(|item| item.get_ref().is_str()) =>
            {
                Ok(())
            }
            (Shape::Wholes(least, most), DeValue::Array(items))
                if items.iter().all(|item| is_whole(item.get_ref(), least, most)) =>
            {
                Ok(())
            }
            (Shape::Sections(keys, _), DeValue::Array(items)) => self.sections(key, items, &keys()),
            (Shape::TextsByName, DeValue::Table(table)) => self.texts_by_name(key, table),
            (Shape::Whole(least, most), DeValue::Integer(_)) if is_whole(value, least, most) => Ok(()),
            (Shape::Choice(words), DeValue::String(word)) if words.contains(&word.as_ref()) => Ok(()),
            (Shape::Connection, DeValue::Table(table)) => self.section(table, &endpoint::parameters()),
            (Shape::Section(keys, _), DeValue::Table(table)) => self.section(table, &keys()),
            (Shape::Named(keys), DeValue::Table(table)) => self.named(table, &keys()),
            _ => Err(self.unfit(key, value, span)),
        }
    }

    fn named(&mut self, table: &DeTable<'_>, known: &[Key]) -> Result<()> {
        for (name, value) in table {
            let DeValue::Table(section) = value.get_ref() else {
                let inside = self.path.join(".");
                return Err(Error::config(format!(
                    "{}: \"{}\" stands in [{inside}], which holds named sections only",
                    self.at(&name.span()),
                    name.get_ref()
                ))
                .hint(format!("begin a section such as [{inside}.main]")));
            };
            self.enter(name.get_ref(), &name.span());
            self.section(section, known)?;
            self.path.pop();
        }
        Ok(())
    }

    /// Sections without names: their places are numbered.
    fn sections(&mut self, key: &Key, items: &DeArray<'_>, known: &[Key]) -> Result<()> {
        for (number, item) in items.iter().enumerate() {
            let DeValue::Table(section) = item.get_ref() else {
                return Err(self.unfit(key, item.get_ref(), &item.span()));
            };
            self.enter(&number.to_string(), &item.span());
            self.section(section, known)?;
            self.path.pop();
        }
        Ok(())
    }

    fn texts_by_name(&mut self, key: &Key, table: &DeTable<'_>) -> Result<()> {
        for (name, value) in table {
            if !value.get_ref().is_str() {
                return Err(self.unfit(key, value.get_ref(), &value.span()));
            }
            self.enter(name.get_ref(), &name.span());
            self.path.pop();
        }
        Ok(())
    }

    fn unknown(&self, name: &str, span: &Range<usize>, known: &[Key]) -> Error {
        let section =
            if self.path.is_empty() { String::new() } else { format!(" in [{}]", self.path.join(".")) };
        let names = || known.iter().map(|key| key.name);
        Error::config(format!("{}: unknown key \"{name}\"{section}", self.at(span))).hint(
            match nearest(name, names()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("known here: {}", names().collect::<Vec<_>>().join(", ")),
            },
        )
    }

    fn unfit(&self, key: &Key, value: &DeValue<'_>, span: &Range<usize>) -> Error {
        let wanted = match key.shape {
            Shape::Text => "a text in quotation marks".into(),
            Shape::Path => "a path in quotation marks".into(),
            Shape::Texts => "a list of texts".into(),
            Shape::TextOrTexts => "a text in quotation marks, or a list of texts".into(),
            Shape::Wholes(least, most) => format!("a list of whole numbers from {least} to {most}"),
            Shape::TextsByName => "a table of names in quotation marks and texts".into(),
            Shape::Switch => "true or false".into(),
            Shape::Whole(least, most) => format!("a whole number from {least} to {most}"),
            Shape::Choice(words) => {
                words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
            }
            Shape::Connection => "a connection text or a table of connection parameters".into(),
            Shape::Section(..) | Shape::Named(_) => "a section".into(),
            Shape::Sections(..) => "a list of sections".into(),
        };
        let error =
            Error::config(format!("{}: {} must be {wanted}{}", self.at(span), key.name, shown(key, value)));
        match (key.shape, value) {
            (Shape::Choice(words), DeValue::String(word)) => match nearest(word, words.iter().copied()) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint(format!("known: {}", words.join(", "))),
            },
            _ if key.example.is_empty() => match &key.default {
                Some(default) => error.hint(format!("for example {} = {default}", key.name)),
                None => error.hint("`pgdiode init` writes a sample with every key"),
            },
            _ => error.hint(format!("for example {} = {}", key.name, key.example)),
        }
    }
}

fn is_whole(value: &DeValue<'_>, least: u64, most: u64) -> bool {
    let DeValue::Integer(number) = value else { return false };
    let number = u64::from_str_radix(number.as_str(), number.radix());
    number.is_ok_and(|number| (least..=most).contains(&number))
}

/// The unfit value where it cannot be a misplaced secret: a password, or a text that holds one.
fn shown(key: &Key, value: &DeValue<'_>) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_-./".contains(character);
    let open = matches!(key.shape, Shape::Choice(_) | Shape::Whole(..) | Shape::Switch);
    match value {
        DeValue::String(text) if open && text.len() <= 40 && text.chars().all(plain) => {
            format!(", not \"{text}\"")
        }
        DeValue::Integer(number) if open => format!(", not {number}"),
        other => {
            let name = other.type_str();
            let article = if name.starts_with(['a', 'i']) { "an" } else { "a" };
            format!(", not {article} {name}")
        }
    }
}
