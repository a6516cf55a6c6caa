//! A change file's lines, as they are or those of one table.

use std::io::{BufRead as _, BufReader, Read};

use serde::Serialize;

use super::Archive;
use super::pull::pull;
use crate::archive::encryption;
use crate::archive::line::{Header, Row};
use crate::archive::manifest::{self, Manifest};
use crate::archive::names::{self, Stored};
use crate::archive::reading::Content;
use crate::change::TableName;
use crate::error::{Error, Kind, Result};

const BUFFER_BYTES: usize = 64 * 1024;

/// Which lines.
#[derive(Debug, Clone, Default)]
pub struct ShowOptions {
    /// Only the rows of this table.
    pub table: Option<TableName>,
    /// Only so many lines.
    pub limit: Option<u64>,
}

/// What a file says of itself, and what was said when it was sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileHeader {
    /// `None` before it is sealed.
    pub manifest: Option<Manifest>,
    pub header: Header,
}

impl Archive {
    /// Gives whole lines to `out`, many at once. `file` is a number or a name.
    pub async fn show(
        &self,
        file: &str,
        options: ShowOptions,
        out: impl FnMut(&[u8]) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (name, stored) = self.find(file).await?;
        let (shown, identities) = (name.clone(), self.keys.identities.clone());
        let work = move |from| {
            lines(&shown, stored, encryption::open(&shown, stored, identities.as_ref(), from)?, &options, out)
        };
        pull(&self.store, &name, |_| (), work).await?
    }

    pub async fn header(&self, file: &str) -> Result<FileHeader> {
        let (name, stored) = self.find(file).await?;
        let (shown, identities) = (name.clone(), self.keys.identities.clone());
        let work =
            move |from| header(&shown, stored, encryption::open(&shown, stored, identities.as_ref(), from)?);
        let header = pull(&self.store, &name, |_| (), work).await??;
        let number = names::parse_change_file(&name).map_or(header.number, |(number, _)| number);
        Ok(FileHeader { manifest: self.manifest(number).await?, header })
    }

    async fn manifest(&self, number: u64) -> Result<Option<Manifest>> {
        let own = names::manifest(number);
        let bytes = self.store.manifest(number).await?;
        bytes.map(|bytes| manifest::parse(&own, &bytes)).transpose()
    }

    /// The object of a file that is named by its number or its name.
    async fn find(&self, file: &str) -> Result<(String, Stored)> {
        let named = names::parse_change_file(file);
        let number =
            named.map(|(number, _)| number).or_else(|| file.parse().ok().filter(|number| *number > 0));
        let number = number.ok_or_else(|| {
            Error::config(format!("{file:?} names no change file"))
                .hint("give its number, as 12, or its name, as 0000000012.json")
        })?;
        let names = match named {
            Some(_) => vec![file.to_owned()],
            None => {
                // One beside it may never have been sealed.
                let sealed = self.manifest(number).await.ok().flatten().map(|manifest| manifest.name);
                let forms = Stored::ALL.map(|stored| names::change_file(number, stored));
                sealed.into_iter().chain(forms).collect()
            }
        };
        for name in names {
            let stored = Stored::of(&name);
            if self.store.size(&name).await?.is_some() {
                return Ok((name, stored));
            }
        }
        Err(Error::config(format!("archive {} has no file {file}", self.display()))
            .hint("`pgdiode archive list` shows those that there are"))
    }
}

fn lines(
    name: &str,
    stored: Stored,
    from: impl Read,
    options: &ShowOptions,
    mut out: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let unreadable = |line: u64, error: std::io::Error| unreadable(name, line, error);
    let content = Content::new(stored, from).map_err(|error| unreadable(1, error))?;
    let mut content = BufReader::with_capacity(BUFFER_BYTES, content);
    let mut shown = Vec::with_capacity(BUFFER_BYTES);
    let (mut number, mut left) = (0, options.limit.unwrap_or(u64::MAX));
    while left > 0 {
        let start = shown.len();
        number += 1;
        if content.read_until(b'\n', &mut shown).map_err(|error| unreadable(number, error))? == 0 {
            break;
        }
        if options.table.as_ref().is_some_and(|table| !is_row_of(table, &shown[start..])) {
            shown.truncate(start);
            continue;
        }
        left -= 1;
        if shown.len() >= BUFFER_BYTES {
            out(&shown)?;
            shown.clear();
        }
    }
    out(&shown)
}

/// What cannot be understood is none; to find it is for verifying.
fn is_row_of(table: &TableName, line: &[u8]) -> bool {
    let Ok(row) = serde_json::from_slice::<Row<'_>>(line) else { return false };
    if row.op == "TRUNCATE" {
        return row.tables.iter().any(|(schema, name)| (schema, name) == (&table.schema, &table.name));
    }
    let is_its = row.schema.as_deref() == Some(&table.schema) && row.table.as_deref() == Some(&table.name);
    is_its && row.op != "RELATION"
}

fn header(name: &str, stored: Stored, from: impl Read) -> Result<Header> {
    let content = Content::new(stored, from).map_err(|error| unreadable(name, 1, error))?;
    let mut line = Vec::new();
    BufReader::new(content).read_until(b'\n', &mut line).map_err(|error| unreadable(name, 1, error))?;
    serde_json::from_slice(&line).map_err(|error| {
        Error::new(Kind::Difference, format!("{name}, line 1: it is no header of a change file"))
            .because(error)
            .hint("`pgdiode archive verify` looks at all of it")
    })
}

fn unreadable(name: &str, line: u64, error: std::io::Error) -> Error {
    Error::new(Kind::Difference, format!("{name}, line {line}: it cannot be read"))
        .because(error)
        .hint("`pgdiode archive verify` looks at all of it")
}
