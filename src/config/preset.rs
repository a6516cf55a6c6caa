//! Sets of keys that come with pgdiode, for kinds of replica that are known: `presets/`, a file each, every line with its
//! reason. The file is both what is read here and what an operator reads.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Mode, Pattern, Pipeline, Preset, Redaction, Tables};
use crate::error::{Error, Result};

/// What a preset's file holds: keys as they stand in a pipeline's file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Contents {
    audit_prefix: Option<String>,
    tables: Vec<String>,
    empty: Vec<String>,
    mask: BTreeMap<String, String>,
}

impl Preset {
    pub fn named(name: &str) -> Option<Preset> {
        [Preset::SynapseLi].into_iter().find(|preset| preset.as_str() == name)
    }

    /// The file.
    pub fn text(self) -> &'static str {
        match self {
            Preset::SynapseLi => include_str!("../../presets/synapse-li.toml"),
        }
    }

    pub(super) fn contents(self) -> Result<Contents> {
        toml::from_str(self.text()).map_err(|error| {
            Error::unexpected(format!("preset {} is unreadable", self.as_str())).because(error)
        })
    }
}

impl Contents {
    /// Adds to what the operator has asked for.
    pub(super) fn add_to(&self, tables: &mut Tables, redaction: &mut Redaction) -> Result<()> {
        for pattern in self.tables.iter().filter_map(|pattern| pattern.strip_prefix('!')) {
            let pattern: Pattern = pattern.parse()?;
            // Who names such a table wants it.
            if !tables.included.contains(&pattern) {
                tables.excluded.push(pattern);
            }
        }
        redaction.add(Redaction::parse(&self.empty, &self.mask, &|_| "the preset".to_owned())?);
        Ok(())
    }
}

/// Gives a pipeline the prefix of its preset, where the file names none.
pub(super) fn add_audit_prefix(pipeline: &mut Pipeline) {
    let preset = pipeline.snapshot.preset.filter(|_| pipeline.mode == Mode::Snapshot);
    let prefix = preset.and_then(|preset| preset.contents().ok()?.audit_prefix);
    if let (Some(prefix), true) = (prefix, pipeline.audit.audit_prefix.is_empty()) {
        pipeline.audit.audit_prefix = prefix;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_readable_and_every_line_has_its_reason() {
        for name in Preset::WORDS {
            let preset = Preset::named(name).unwrap();
            let contents = preset.contents().unwrap();
            let mut tables = Tables::parse(&["*.*".into()]).unwrap();
            let mut redaction = Redaction::default();
            contents.add_to(&mut tables, &mut redaction).unwrap();
            assert_eq!(redaction.emptied.len(), contents.empty.len());
            assert_eq!(redaction.masks.len(), contents.mask.len());
            for line in preset.text().lines().filter(|line| line.trim_start().starts_with('"')) {
                assert!(line.contains(" # "), "{line}");
            }
        }
    }
}
