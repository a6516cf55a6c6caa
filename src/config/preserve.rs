//! What of a replica belongs to it alone, and goes over into each fresh copy: whole tables, and rows of the source's.

use std::collections::BTreeMap;

use super::{Pattern, PreservedRows, Tables};
use crate::change::TableName;
use crate::error::{Error, Result};

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Preserve {
    /// Tables that the source does not have.
    pub whole: Tables,
    pub rows: Vec<(TableName, PreservedRows)>,
}

impl Preserve {
    pub fn is_empty(&self) -> bool {
        self.whole.included.is_empty() && self.rows.is_empty()
    }

    /// Whether all of a schema is preserved, functions and types too.
    pub fn holds_schema(&self, schema: &str) -> bool {
        self.whole.match_table(&TableName::new(schema, ""))
    }

    /// `at` says where a key of the pipeline stands.
    pub(super) fn parse(
        whole: &[String],
        rows: BTreeMap<String, PreservedRows>,
        at: &dyn Fn(&[&str]) -> String,
    ) -> Result<Preserve> {
        let mut tables = Tables { included: Vec::new(), excluded: Vec::new() };
        if !whole.is_empty() {
            let key = || at(&["snapshot", "preserve"]);
            if whole.iter().all(|pattern| pattern.trim().starts_with('!')) {
                return Err(Error::config(format!("{}: every pattern excludes", key()))
                    .hint("name first what is to be preserved, for example \"li_local.*\""));
            }
            tables = Tables::parse(whole).map_err(|error| error.context(key()))?;
        }
        let mut parsed = Vec::new();
        for (name, keys) in rows {
            let place = || at(&["snapshot", "preserve_rows", &name]);
            let pattern: Pattern = name.parse::<Pattern>().map_err(|error| error.context(place()))?;
            let table = pattern.exact().ok_or_else(|| {
                Error::config(format!("{}: \"{name}\" names no single table", place()))
                    .hint("write schema.table, without * and ?")
            })?;
            parsed.push((table, keys));
        }
        Ok(Preserve { whole: tables, rows: parsed })
    }
}
