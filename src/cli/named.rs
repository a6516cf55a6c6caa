//! Tables that an operator names: `schema.table`, or for who comes from syncdata the table alone.

use crate::change::TableName;
use crate::config::{Pattern, Pipeline};
use crate::error::Result;

/// As it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTable {
    text: String,
    /// Without a schema.
    is_bare: bool,
}

impl NamedTable {
    pub(super) fn parse(text: &str) -> Result<NamedTable, String> {
        let is_bare = match super::table_name(text) {
            Ok(_) => false,
            Err(error) => super::table_name(&format!("public.{text}")).map(|_| true).map_err(|_| error)?,
        };
        Ok(NamedTable { text: text.to_owned(), is_bare })
    }
}

/// The tables meant: one that was named alone is in the schema `public` for a pipeline made from a syncdata file, and
/// refused for every other.
pub(super) fn tables(pipeline: &Pipeline, named: &[NamedTable]) -> Result<Vec<TableName>> {
    let meant = |named: &NamedTable| {
        let text = if named.is_bare && pipeline.is_whitelisted {
            format!("public.{}", named.text)
        } else {
            named.text.clone()
        };
        // Names were looked at before: without a schema is all that can be wrong here.
        let table = text.parse::<Pattern>()?.exact();
        Ok(table.unwrap_or_else(|| TableName::new("public", text)))
    };
    named.iter().map(meant).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_name_alone_is_a_syncdata_users() {
        let text = "[pipeline.main]\nsource = \"/archive\"\ntarget = \"host=a\"\n";
        let mut pipeline = Config::parse(Path::new("p.toml"), text).unwrap().pipelines.remove(0);
        let named = |text: &str| vec![NamedTable::parse(text).unwrap()];
        let error = tables(&pipeline, &named("users")).unwrap_err();
        assert!(error.what().contains("the schema is missing") && error.hint_text().is_some());
        assert_eq!(tables(&pipeline, &named("a.b")).unwrap(), [TableName::new("a", "b")]);
        pipeline.is_whitelisted = true;
        assert_eq!(tables(&pipeline, &named("users")).unwrap(), [TableName::new("public", "users")]);
        assert_eq!(tables(&pipeline, &named("\"a.b\"")).unwrap(), [TableName::new("public", "a.b")]);
        assert_eq!(tables(&pipeline, &named("a.b")).unwrap(), [TableName::new("a", "b")]);
        for text in ["", "a.b.c", "public.*", "user*"] {
            assert!(NamedTable::parse(text).is_err(), "{text}");
        }
    }
}
