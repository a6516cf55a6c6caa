//! A configuration file of syncdata, as it is: one flat list of keys that describes the archive on a backup machine and
//! the PostgreSQL that follows it. It becomes the pipeline `syncdata`.
//!
//! The variables that syncdata reads override the file, each its key. Which tables the pipeline carries stands in
//! neither: the table `tables_to_sync` of the target says it (`Pipeline::is_whitelisted`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::DeTable;

use super::{
    ArchiveOptions, Audit, Config, Document, Endpoint, Key, Log, PipelineKeys, Section, Shape, Shown,
    Variable, file,
};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// What the pipeline of such a file is called.
pub const PIPELINE: &str = "syncdata";

/// The longest that a file may say, a year.
const SECONDS_MAX: u64 = 31_536_000;
const HOURS_MAX: u64 = 8_760;

section! {
    /// A file of syncdata. Beside its keys it may hold the sections `archive`, `log` and `audit` of a pgdiode file.
    SyncdataKeys {
        /// The backup machine's host name.
        archive_host: Option<String> = None, Shape::Text, r#""backup.example.com""#;
        /// The user there.
        archive_user: Option<String> = None, Shape::Text, r#""backupuser""#;
        /// The directory there that holds the change files.
        archive_dir: Option<String> = None, Shape::Text, r#""/backups/postgresql/changes""#;
        /// Its SSH server's port.
        archive_port: u64 = 22, Shape::Whole(1, 65_535);
        /// The host of the local PostgreSQL.
        pg_host: String = "127.0.0.1".to_owned(), Shape::Text;
        /// Its port.
        pg_port: u64 = 5432, Shape::Whole(1, 65_535);
        /// Its user.
        pg_user: String = "admin".to_owned(), Shape::Text;
        /// The user's password.
        pg_password: Option<Secret> = None, Shape::Text;
        /// The database.
        pg_database: Option<String> = None, Shape::Text, r#""app""#;
        /// How often the archive is looked into, in seconds.
        data_sync_freq: u64 = 600, Shape::Whole(60, SECONDS_MAX);
        /// How often metrics are aggregated, in hours.
        metric_freq: u64 = 24, Shape::Whole(1, HOURS_MAX);
        /// The archive of change files.
        archive: ArchiveOptions = ArchiveOptions::default(), Shape::of::<ArchiveOptions>();
        /// What goes to standard error.
        log: Log = Log::default(), Shape::of::<Log>();
        /// The audit log.
        audit: Audit = Audit::default(), Shape::of::<Audit>();
    }
}

impl Shown for Option<Secret> {
    fn toml(&self) -> Option<String> {
        None
    }
}

/// What `DATA_SYNC_CONFIG` names; whoever sets it without a shell leaves a `~` in it.
pub(super) fn path(text: &str, variable: Variable<'_>) -> PathBuf {
    match (text.strip_prefix("~/"), variable("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => text.into(),
    }
}

/// Whether `text` is such a file, by any of its keys; a file that has sections of pipelines as well is refused.
pub(super) fn describes(path: &Path, text: &str) -> Result<bool> {
    // What is no TOML is said with its line by whoever reads it.
    let Ok(table) = DeTable::parse(text) else { return Ok(false) };
    let known = SyncdataKeys::keys();
    let is_own = |name: &str| {
        let own = known.iter().find(|key| key.name == name);
        own.is_some_and(|key| !matches!(key.shape, Shape::Section(..)))
    };
    let keys = table.get_ref().keys().filter(|name| is_own(name.get_ref()));
    let key = keys.min_by_key(|name| name.span().start);
    let pipeline = table.get_ref().keys().find(|name| name.get_ref() == "pipeline");
    match (key, pipeline) {
        (Some(key), Some(pipeline)) => {
            let line = text.get(..pipeline.span().start).unwrap_or(text).matches('\n').count() + 1;
            Err(Error::config(format!(
                "{}:{line}: [pipeline] stands beside the key \"{}\" of a syncdata file",
                path.display(),
                key.get_ref()
            ))
            .hint(
                "a file is either syncdata's or pgdiode's: move the [pipeline] sections to a file of their own, or write \
                 the keys as source and target of one ([pipeline.syncdata]; `pgdiode init` writes a sample)",
            ))
        }
        (key, _) => Ok(key.is_some()),
    }
}

/// Understands such a file, overridden by the variables.
pub(super) fn parse(path: &Path, text: &str, variable: Variable<'_>) -> Result<Config> {
    let (mut keys, places) = file::read::<SyncdataKeys>(path, text)?;
    let password_env = override_with(&mut keys, variable)?;
    let at = |key: &str| places.of(&[key]);
    let source = archive(&keys, &at)?;
    let target = database(&keys, password_env, &at)?;
    let log = keys.log.clone();
    let mut pipeline = PipelineKeys {
        source: Some(source),
        target: Some(target),
        archive: ArchiveOptions {
            poll_seconds: keys.data_sync_freq,
            metrics_hours: keys.metric_freq,
            // Its users look for the three tables without naming a schema.
            control_schema: if names(text, "archive", "control_schema") {
                keys.archive.control_schema.clone()
            } else {
                "public".to_owned()
            },
            ..keys.archive
        },
        ..PipelineKeys::default()
    };
    // The whitelist alone says what joins.
    pipeline.stream.new_tables = false;
    let document = Document {
        pipeline: BTreeMap::from([(PIPELINE.to_owned(), pipeline)]),
        log,
        audit: keys.audit,
        ..Document::default()
    };
    // Within the pipeline its keys have other places than in the file.
    let mut config = Config::check(document, &|key| match key {
        [_, _, "archive", key, ..] => places.of(&["archive", *key]),
        [_, _, "source", ..] => at("archive_host"),
        [_, _, "target", ..] => at("pg_host"),
        _ => places.of(&[]),
    })?;
    for pipeline in &mut config.pipelines {
        pipeline.is_whitelisted = true;
    }
    Ok(config)
}

/// Whether the file has the key in the section.
fn names(text: &str, section: &str, key: &str) -> bool {
    let Ok(table) = DeTable::parse(text) else { return false };
    let section = table.get_ref().get(section).and_then(|section| section.get_ref().as_table());
    section.is_some_and(|section| section.contains_key(key))
}

/// Overrides what variables say otherwise; returns the variable that holds the password, if one does.
fn override_with(keys: &mut SyncdataKeys, variable: Variable<'_>) -> Result<Option<String>> {
    let texts = [("PG_USER_NAME", &mut keys.pg_user), ("PG_HOST", &mut keys.pg_host)];
    for (name, key) in texts {
        if let Some(text) = variable(name) {
            *key = text;
        }
    }
    if let Some(name) = variable("PG_DB_NAME") {
        keys.pg_database = Some(name);
    }
    let numbers = [
        ("PG_PORT", &mut keys.pg_port, 1, 65_535),
        ("DATA_SYNC_FREQ", &mut keys.data_sync_freq, 60, SECONDS_MAX),
        ("METRIC_FREQ", &mut keys.metric_freq, 1, HOURS_MAX),
    ];
    for (name, key, least, most) in numbers {
        let Some(text) = variable(name) else { continue };
        let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
        *key = number.ok_or_else(|| {
            Error::config(format!(
                "the variable {name} must be a whole number from {least} to {most}, not {text:?}"
            ))
            .hint(format!("set {name} to such a number, or unset it to use the file's key"))
        })?;
    }
    Ok(variable("PG_PASSWORD").map(|_| "PG_PASSWORD".to_owned()))
}

fn required<'a>(
    text: Option<&'a String>,
    key: &str,
    at: &dyn Fn(&str) -> String,
    or: &str,
) -> Result<&'a str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty()).ok_or_else(|| {
        let example =
            SyncdataKeys::keys().iter().find(|known| known.name == key).map_or("", |key| key.example);
        Error::config(format!("{}: {key} is missing", at(key))).hint(format!("set {key} = {example}{or}"))
    })
}

fn archive(keys: &SyncdataKeys, at: &dyn Fn(&str) -> String) -> Result<Endpoint> {
    let host = required(keys.archive_host.as_ref(), "archive_host", at, "")?;
    let user = required(keys.archive_user.as_ref(), "archive_user", at, "")?;
    let directory = required(keys.archive_dir.as_ref(), "archive_dir", at, "")?;
    if host.contains(['/', '@', '[', ']', '?', '#']) || host.contains(char::is_whitespace) {
        return Err(Error::config(format!("{}: {host:?} is no host name", at("archive_host")))
            .hint("name the backup machine alone; user, port and directory have keys of their own"));
    }
    if !directory.starts_with('/') {
        return Err(Error::config(format!("{}: archive_dir must begin with a slash", at("archive_dir")))
            .hint("write the directory's absolute path on the backup machine"));
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Ok(Endpoint::from_text(format!(
        "sftp://{}@{host}:{}{}",
        encoded(user),
        keys.archive_port,
        encoded(directory)
    )))
}

/// As a part of a location, where some characters have a meaning.
fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte);
    text.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn database(
    keys: &SyncdataKeys,
    password_env: Option<String>,
    at: &dyn Fn(&str) -> String,
) -> Result<Endpoint> {
    let database = required(keys.pg_database.as_ref(), "pg_database", at, ", or the variable PG_DB_NAME")?;
    let mut parameters = vec![
        ("host", keys.pg_host.clone()),
        ("port", keys.pg_port.to_string()),
        ("user", keys.pg_user.clone()),
        ("dbname", database.to_owned()),
    ];
    match (&keys.pg_password, &password_env) {
        (_, Some(_)) => {}
        (Some(password), None) => parameters.push(("password", password.reveal().to_owned())),
        (None, None) => {
            return Err(Error::config(format!("{}: pg_password is missing", at("pg_password")))
                .hint("set the variable PG_PASSWORD, or the key pg_password"));
        }
    }
    Ok(Endpoint::from_parameters(parameters, password_env))
}

#[cfg(test)]
mod tests;
