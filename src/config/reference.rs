//! The annotated sample and the configuration reference, both made from the table of keys.

use super::syncdata::SyncdataKeys;
use super::{Document, Key, PipelineKeys, Section, Shape, endpoint};

/// Columns of the sample's comments.
const WIDTH: usize = 100;

/// Sections that mean something by being there alone: the sample leaves them out.
const OFF: &[&str] = &["server"];

/// What `pgdiode init` writes: every key, with its default or an example, explained.
pub fn sample() -> String {
    let mut text = String::from(
        "# pgdiode moves data one way, from a PostgreSQL that it never writes into a PostgreSQL that you own.\n\
         # Lines that begin with \"# \" and a key show its default, or an example where there is none.\n\
         # Check this file with `pgdiode check`.\n\n",
    );
    for key in Document::keys() {
        if !matches!(key.shape, Shape::Named(_) | Shape::Section(..)) {
            sample_key(&mut text, &key, false);
        }
    }
    text.push_str("[pipeline.main]\n");
    sample_keys(&mut text, &PipelineKeys::keys(), "pipeline.main");
    for key in Document::keys() {
        if let Shape::Section(keys, about) = key.shape {
            sample_section(&mut text, key.name, &keys(), about);
        }
    }
    while text.ends_with("\n\n") {
        text.pop();
    }
    text
}

fn sample_keys(text: &mut String, keys: &[Key], section: &str) {
    for key in keys.iter().filter(|key| !matches!(key.shape, Shape::Section(..))) {
        // What no pipeline can do without.
        sample_key(text, key, ["source", "target"].contains(&key.name));
    }
    for key in keys {
        if let Shape::Section(keys, about) = key.shape {
            sample_section(text, &format!("{section}.{}", key.name), &keys(), about);
        }
    }
}

fn sample_section(text: &mut String, name: &str, keys: &[Key], about: &str) {
    comment(text, about);
    let mark = if OFF.contains(&name) { "# " } else { "" };
    line(text, &format!("{mark}[{name}]"));
    sample_keys(text, keys, name);
}

fn sample_key(text: &mut String, key: &Key, required: bool) {
    comment(text, key.text);
    let value = key.default.as_deref().unwrap_or(key.example);
    let mark = if required { "" } else { "# " };
    line(text, &format!("{mark}{} = {value}\n", key.name));
}

fn comment(text: &mut String, words: &str) {
    for words in wrapped(&prose(words), WIDTH - 3) {
        line(text, &format!("## {words}"));
    }
}

/// `docs/configuration.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Configuration reference\n\n\
         Generated from the code; `UPDATE_DOCS=1 cargo test --lib reference` renews it.\n\n\
         pgdiode reads one TOML file: the one named by `--config` or `PGDIODE_CONFIG`, else the first found of\n\
         `pgdiode.toml`, `$XDG_CONFIG_HOME/pgdiode/pgdiode.toml` and `/etc/pgdiode/pgdiode.toml`. `pgdiode init` writes\n\
         [an annotated sample](pgdiode.sample.toml). Unknown keys are errors. Relative paths count from the file's\n\
         directory.\n\n\
         ## Without a file\n\n\
         One pipeline can be described by variables alone:\n\n\
         | Variable | Meaning |\n|---|---|\n\
         | `PGDIODE_SOURCE` | the source, a libpq URI or `key=value` text |\n\
         | `PGDIODE_TARGET` | the target, in the same ways |\n\
         | `PGDIODE_TABLES` | patterns, separated by commas; default `*.*` |\n\
         | `PGDIODE_NAME` | the pipeline's name; default `main` |\n\n\
         With `REDIS_HOST` and `DATABASE_URL` it is the pipeline `chat` with the preset `chat-sessions`, from that Redis\n\
         server into that database:\n\n\
         | Variable | Meaning |\n|---|---|\n\
         | `REDIS_HOST` | the Redis server |\n\
         | `REDIS_PORT` | its port; default 6379 |\n\
         | `REDIS_USERNAME` | the user there; left out: the default user |\n\
         | `REDIS_PASSWORD` | that user's password |\n\
         | `REDIS_SESSION_TTL_HOURS` | accepted and checked to be a whole number; how long a session lives is read of each key |\n\
         | `DATABASE_URL` | the target, a libpq URI |\n\n\
         Where both a file found in the usual places and these variables describe what to do, pgdiode refuses to choose.\n\n",
    );
    let document = Document::keys();
    let loose = |key: &&Key| !matches!(key.shape, Shape::Named(_) | Shape::Section(..));
    text.push_str("## Top level\n\n");
    markdown_table(&mut text, document.iter().filter(loose));
    markdown_section(&mut text, "pipeline.NAME", &PipelineKeys::keys(), PipelineKeys::ABOUT);
    text.push_str(
        "## `[pipeline.NAME.source]` and `[pipeline.NAME.target]`\n\n\
         Instead of one text, an end can be a table of libpq's parameters. None has a default here: what is left out\n\
         comes from the `PG*` variables and then from libpq's own defaults.\n\n",
    );
    markdown_table(&mut text, endpoint::parameters().iter());
    for key in &document {
        if let Shape::Section(keys, about) = key.shape {
            markdown_section(&mut text, key.name, &keys(), about);
        }
    }
    text.push_str(
        "## A file of syncdata\n\n\
         Such a file stays as it is: `DATA_SYNC_CONFIG`, `--config` or `PGDIODE_CONFIG` names it. It describes one pipeline,\n\
         `syncdata`, and may hold the sections `archive`, `log` and `audit` as well, with the keys that they have above.\n\
         Variables override it: `PG_PASSWORD`, `PG_DB_NAME` (`pg_database`), `PG_USER_NAME` (`pg_user`), `PG_HOST`,\n\
         `PG_PORT`, `DATA_SYNC_FREQ` and `METRIC_FREQ`. `archive_host`, `archive_user`, `archive_dir`, `pg_password` and\n\
         `pg_database` have no default and are required.\n\n",
    );
    let syncdata = SyncdataKeys::keys();
    markdown_table(&mut text, syncdata.iter().filter(loose));
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn markdown_section(text: &mut String, name: &str, keys: &[Key], about: &str) {
    line(text, &format!("## `[{name}]`\n"));
    for words in wrapped(&prose(about), 118) {
        line(text, &words);
    }
    text.push('\n');
    markdown_table(text, keys.iter().filter(|key| !matches!(key.shape, Shape::Section(..))));
    for key in keys {
        if let Shape::Section(keys, about) = key.shape {
            markdown_section(text, &format!("{name}.{}", key.name), &keys(), about);
        }
        if let Shape::Named(keys) = key.shape {
            markdown_section(text, &format!("{name}.{}.NAME", key.name), &keys(), key.text);
        }
        if let Shape::Sections(keys, about) = key.shape {
            markdown_section(text, &format!("[{name}.{}]", key.name), &keys(), about);
        }
    }
}

fn markdown_table<'a>(text: &mut String, keys: impl Iterator<Item = &'a Key>) {
    text.push_str("| Key | Type | Default | Meaning |\n|---|---|---|---|\n");
    for key in keys {
        let default = key.default.as_deref().map_or_else(|| "-".into(), |value| format!("`{value}`"));
        let example = match key.example {
            "" => String::new(),
            example => format!(" Example: `{example}`."),
        };
        let (name, shape, meaning) = (key.name, shape(key.shape), prose(key.text));
        line(text, &format!("| `{name}` | {shape} | {default} | {meaning}{example} |"));
    }
    text.push('\n');
}

fn shape(shape: Shape) -> String {
    match shape {
        Shape::Text => "text".into(),
        Shape::Path => "path".into(),
        Shape::Texts => "list of texts".into(),
        Shape::TextsByName => "table of texts".into(),
        Shape::Switch => "`true` or `false`".into(),
        Shape::Whole(least, most) => format!("{least} to {most}"),
        Shape::Choice(words) => {
            words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
        }
        Shape::Connection => "text or table".into(),
        Shape::TextOrTexts => "text or list of texts".into(),
        Shape::Wholes(least, most) => format!("list of {least} to {most}"),
        Shape::Section(..) | Shape::Named(_) => "section".into(),
        Shape::Sections(..) => "list of sections".into(),
    }
}

fn line(text: &mut String, words: &str) {
    text.push_str(words);
    text.push('\n');
}

/// A doc comment as one line.
fn prose(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Lines of so many columns, broken between words.
pub(crate) fn wrapped(words: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words.split(' ') {
        let line = lines.last_mut().expect("there is always a last line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    /// Compares with the committed file; `UPDATE_DOCS=1` renews it.
    pub(crate) fn golden(name: &str, text: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "docs/{name} is stale: run UPDATE_DOCS=1 cargo test --lib reference");
    }

    #[test]
    fn reference_is_fresh() {
        golden("configuration.md", &markdown());
    }

    #[test]
    fn sample_is_fresh() {
        golden("pgdiode.sample.toml", &sample());
    }

    #[test]
    fn the_sample_is_a_configuration() {
        Config::parse(Path::new("sample.toml"), &sample()).unwrap();
    }

    /// Every shown default and example is valid where it stands, not only while it is commented out.
    #[test]
    fn the_sample_is_a_configuration_with_every_key_set() {
        let text = sample();
        let set: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = ") || key.starts_with('[') => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = Config::parse(Path::new("sample.toml"), &set).unwrap();
        assert_eq!(config.pipelines[0].slot, "pgdiode_main");
        assert!(set.matches("\nsplit_mb = 256\n").count() == 1);
        assert!(config.server.is_some());
    }

    #[test]
    fn every_key_is_explained() {
        fn walk(keys: &[Key]) {
            for key in keys {
                assert!(prose(key.text).ends_with('.'), "{} lacks its text", key.name);
                if let Shape::Section(keys, _) | Shape::Named(keys) | Shape::Sections(keys, _) = key.shape {
                    walk(&keys());
                }
            }
        }
        walk(&Document::keys());
        walk(&endpoint::parameters());
        walk(&SyncdataKeys::keys());
    }
}
