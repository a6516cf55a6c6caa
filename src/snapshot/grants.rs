//! The operator's grants: a file of SQL that runs in each shadow before it serves, so that who may read a replica, and
//! that they may do no more, holds for every copy by privileges and not by a setting that anyone can switch off.

use std::path::PathBuf;

use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::pg::dump::statements;
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::snapshot::place::not_promoted;

/// The file, read.
pub(super) struct Grants {
    path: PathBuf,
    sql: String,
}

/// Characters shown of a statement that failed.
const SHOWN_CHARACTERS_MAX: usize = 80;

/// What would end the transaction that the file runs in, or divide it.
const TRANSACTION_WORDS: [&str; 9] =
    ["begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare"];

impl Grants {
    /// Reads the file, if the pipeline has one, and refuses what could not run.
    pub(super) fn read(pipeline: &Pipeline) -> Result<Option<Grants>> {
        let Some(path) = pipeline.snapshot.grants.clone() else { return Ok(None) };
        let sql = std::fs::read_to_string(&path).map_err(|error| {
            Error::config(format!("cannot read {}", path.display()))
                .hint("snapshot.grants names a file of SQL; a relative path counts from the configuration's directory")
                .because(error)
        })?;
        let grants = Grants { path, sql };
        if let Some((line, _)) = grants.lines().find(|(_, text)| text.trim_start().starts_with('\\')) {
            return Err(Error::config(format!("{}: a command of psql", grants.at(line)))
                .hint("The file is run without psql: write SQL only."));
        }
        for (line, statement) in grants.statements() {
            let first: String = statement.chars().take_while(char::is_ascii_alphabetic).collect();
            if TRANSACTION_WORDS.contains(&first.to_ascii_lowercase().as_str()) {
                return Err(Error::config(format!("{}: \"{first}\" in a file of grants", grants.at(line)))
                    .hint("The whole file is one transaction by itself."));
            }
        }
        Ok(Some(grants))
    }

    /// Runs the file, whole or not at all.
    pub(super) async fn apply(&self, ends: &Ends, shadow: &mut Session) -> Result<()> {
        let begin = format!("{}; set local search_path = \"$user\", public", ends.begin_named());
        shadow.query(&begin).await?;
        for (line, statement) in self.statements() {
            match shadow.query(statement).await {
                Ok(_) => {}
                Err(error) if error.retries() => return Err(error),
                Err(error) => {
                    shadow.query("rollback").await?;
                    let shown: String = statement.chars().take(SHOWN_CHARACTERS_MAX).collect();
                    return Err(not_promoted(format!(
                        "the grants cannot be given: {}: {shown}",
                        self.at(line)
                    ))
                    .hint("Mend the file, or what it names, then sync again.")
                    .because(error));
                }
            }
        }
        let commit = format!("reset role; reset session authorization; {}", ends.commit_named());
        shadow.query(&commit).await.map(drop)
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.sql.lines().enumerate().map(|(index, text)| (index + 1, text))
    }

    /// The statements with the lines that they begin in.
    fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut from = 0;
        statements(&self.sql).into_iter().map(move |statement| {
            let at = self.sql[from..].find(statement).map_or(from, |offset| from + offset);
            from = at + statement.len();
            (self.sql[..at].matches('\n').count() + 1, statement)
        })
    }

    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_know_their_lines() {
        let sql =
            "-- who reads\ngrant a to b;\n\ndo $$ begin\n  perform 1; end $$;\ngrant a to b; grant a to b"
                .to_owned();
        let grants = Grants { path: "g.sql".into(), sql };
        let found: Vec<_> = grants.statements().map(|(line, text)| (line, &text[..2])).collect();
        assert_eq!(found, [(2, "gr"), (4, "do"), (6, "gr"), (6, "gr")]);
    }
}
