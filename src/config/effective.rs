//! What counts, after the file, the environment and every default: for people to see, without anything secret.

use serde::Serialize;

use super::{Config, Pipeline, Section, Shown};
use crate::error::Side;

/// A part of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// As the file would have it: `pipeline.orders.copy`.
    pub section: String,
    /// Whose it is; `None` for what is of all.
    pub pipeline: Option<String>,
    pub values: Vec<Setting>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub key: String,
    /// As TOML; `None` where it is left out. Of a secret it says only that there is one.
    pub value: Option<String>,
}

impl Config {
    /// Everything that counts.
    pub fn effective(&self) -> Vec<Effective> {
        let server = self.server.iter().map(|server| section("server", None, settings(server)));
        let mut sections: Vec<Effective> =
            server.chain(self.pipelines.iter().flat_map(of_pipeline)).collect();
        sections.push(section("log", None, settings(&self.log)));
        if let Some(pipeline) = self.pipelines.first() {
            sections.push(section("audit", None, settings(&pipeline.audit)));
        }
        sections
    }
}

fn of_pipeline(pipeline: &Pipeline) -> Vec<Effective> {
    let mut own = vec![setting("mode", pipeline.mode.as_str().to_owned().toml())];
    for (side, end) in [(Side::Source, &pipeline.source), (Side::Target, &pipeline.target)] {
        own.push(setting(&format!("{}.password", side.name()), end.password_origin()));
    }
    own.push(setting("tables", Some(pipeline.tables.to_string())));
    own.push(setting("publication", pipeline.publication.toml()));
    own.push(setting("slot", pipeline.slot.toml()));
    own.push(setting("plugin", pipeline.plugin.toml()));
    let parts = [
        ("copy", settings(&pipeline.copy)),
        ("stream", settings(&pipeline.stream)),
        ("archive", settings(&pipeline.archive)),
        ("spill", settings(&pipeline.spill)),
        ("redis", settings(&pipeline.redis)),
        ("snapshot", settings(&pipeline.snapshot)),
        ("limits", settings(&pipeline.limits)),
        ("retry", settings(&pipeline.retry)),
    ];
    let title = format!("pipeline.{}", pipeline.name);
    let name = Some(pipeline.name.as_str());
    let mut sections = vec![section(&title, name, own)];
    sections.extend(parts.map(|(part, values)| section(&format!("{title}.{part}"), name, values)));
    sections
}

fn settings<S: Section>(options: &S) -> Vec<Setting> {
    options.values().into_iter().map(|(key, value)| setting(key, value)).collect()
}

fn setting(key: &str, value: Option<String>) -> Setting {
    Setting { key: key.to_owned(), value }
}

fn section(title: &str, pipeline: Option<&str>, values: Vec<Setting>) -> Effective {
    Effective { section: title.to_owned(), pipeline: pipeline.map(str::to_owned), values }
}
