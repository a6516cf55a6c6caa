//! Signed checkpoints: what the log's head was at a moment, with a signature that whoever owns the database cannot make.
//!
//! Hashes alone do not show that somebody who may write the table made all of it anew. A checkpoint does: it is a line of
//! a file on the host that has the key, and counts wherever a copy of that file is kept.
//!
//! ```text
//! pgdiode audit checkpoint 1 · pipeline · at · NUMBER:HASH       each on a line of its own; this is what is signed,
//!                                                                as `ssh-keygen -Y sign -n pgdiode-audit` does
//! ```
//!
//! A log is only signed if it goes on from the last checkpoint. Otherwise the key's owner would vouch for whatever was
//! put in the place of what it had signed before.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::chain::{Head, Report};
use crate::archive::signing::{PublicKey, Signer, Trusted, signer_in};
use crate::config::{Audit, state_directory};
use crate::error::{Error, Kind, Result};
use crate::pg::session::Session;

const NAMESPACE: &str = "pgdiode-audit";

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    pub pipeline: String,
    /// When it was made, RFC 3339, by the signer's clock.
    pub at: String,
    pub number: i64,
    pub hash: String,
    pub signature: String,
}

/// Checkpoints that a log leads through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub count: u64,
    /// The last entry that is covered, when it was signed, and by whose key.
    pub number: i64,
    pub at: String,
    pub signed_by: String,
}

impl Checkpoint {
    fn new(pipeline: &str, head: &Head, signer: &Signer) -> Checkpoint {
        let mut checkpoint = Checkpoint {
            pipeline: pipeline.to_owned(),
            at: crate::schedule::utc(jiff::Timestamp::now()),
            number: head.number,
            hash: head.hash.clone(),
            signature: String::new(),
        };
        checkpoint.signature = signer.sign_in(NAMESPACE, checkpoint.signed_text().as_bytes());
        checkpoint
    }

    fn signed_text(&self) -> String {
        format!("pgdiode audit checkpoint 1\n{}\n{}\n{}\n", self.pipeline, self.at, self.head())
    }

    pub fn head(&self) -> Head {
        Head { number: self.number, hash: self.hash.clone() }
    }

    /// Whose key has signed it; `None` where the signature is not valid.
    fn signer(&self) -> Option<PublicKey> {
        signer_in(NAMESPACE, self.signed_text().as_bytes(), self.signature.as_bytes())
    }
}

/// Reads a file of checkpoints. Each must be signed by one who is trusted.
pub fn read(path: &Path, trusted: &Trusted) -> Result<Vec<Checkpoint>> {
    let text = fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(index, line)| of_line(path, index + 1, line, trusted)).collect()
}

fn of_line(path: &Path, number: usize, line: &str, trusted: &Trusted) -> Result<Checkpoint> {
    let place = format!("{}:{number}", path.display());
    let refused = |what: String| {
        Err(Error::new(Kind::Difference, format!("{place}: {what}")).hint(
            "Somebody has changed the file: put back a copy of it. If the signer has a new key, add its public one to \
             audit.signed_by, beside the old one.",
        ))
    };
    let Ok(checkpoint) = serde_json::from_str::<Checkpoint>(line) else {
        return refused("the line is no checkpoint".into());
    };
    match checkpoint.signer() {
        Some(key) if trusted.contains(&key) => Ok(checkpoint),
        Some(key) => refused(format!("the checkpoint is signed by another key, {}", key.fingerprint())),
        None => refused("the checkpoint has a signature that is not valid".into()),
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::config(format!("cannot read the checkpoints in {}", path.display()))
        .because(error)
        .hint("name a file that `pgdiode audit checkpoint` writes, and that this user may read")
}

/// Reads files of checkpoints, each signed by one of these keys; without any, by whom the options trust.
pub fn read_all(
    files: &[PathBuf],
    keys: &[String],
    options: impl FnOnce() -> Result<Audit>,
) -> Result<Vec<Checkpoint>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let whose = if keys.is_empty() {
        let options = options()?;
        let signer = options.signing_key.as_deref().map(Signer::load).transpose()?;
        trusted(&options, signer.as_ref())?
    } else {
        Trusted::parse(keys.iter().map(String::as_str))?
    };
    if whose.is_empty() {
        return Err(Error::config("nobody says who must have signed the checkpoints")
            .hint("name the public key with --signed-by, or audit.signed_by"));
    }
    let each = files.iter().map(|file| read(file, &whose)).collect::<Result<Vec<_>>>()?;
    Ok(each.concat())
}

/// What a report says of them.
pub fn summary(checkpoints: &[Checkpoint]) -> Option<Checked> {
    let last = checkpoints.iter().max_by_key(|one| one.number)?;
    Some(Checked {
        count: checkpoints.len() as u64,
        number: last.number,
        at: last.at.clone(),
        signed_by: last.signer()?.fingerprint(),
    })
}

/// The file of one pipeline's checkpoints, and who signs them here.
#[derive(Debug)]
pub struct Checkpoints {
    pipeline: String,
    pub file: PathBuf,
    signer: Option<Signer>,
    trusted: Trusted,
}

impl Checkpoints {
    /// `None` where nobody signs, and nobody must have signed.
    pub fn of(pipeline: &str, options: &Audit) -> Result<Option<Checkpoints>> {
        if options.signing_key.is_none() && options.signed_by.is_empty() {
            return Ok(None);
        }
        let signer = options.signing_key.as_deref().map(Signer::load).transpose()?;
        let trusted = trusted(options, signer.as_ref())?;
        let usual = || state_directory(&|name| std::env::var(name).ok()).join("checkpoints");
        let directory = options.checkpoint_dir.clone().unwrap_or_else(usual);
        let file = directory.join(format!("{pipeline}.jsonl"));
        Ok(Some(Checkpoints { pipeline: pipeline.to_owned(), file, signer, trusted }))
    }

    /// All there are, checked.
    pub fn all(&self) -> Result<Vec<Checkpoint>> {
        if self.file.exists() { read(&self.file, &self.trusted) } else { Ok(Vec::new()) }
    }

    /// The latest, which is the last one that was appended or one beside it.
    fn last(&self) -> Result<Option<Checkpoint>> {
        if !self.file.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&self.file).map_err(|error| unreadable(&self.file, error))?;
        let last = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).last();
        last.map(|(index, line)| of_line(&self.file, index + 1, line, &self.trusted)).transpose()
    }

    /// Checks the whole log, and all checkpoints, then signs its head.
    pub async fn make(&self, session: &mut Session) -> Result<Option<Checkpoint>> {
        let known = self.all()?;
        self.sign(session, &known, 1).await
    }

    /// Checks what has come since the last checkpoint, then signs the head.
    pub(super) async fn go_on(&self, session: &mut Session) -> Result<Option<Checkpoint>> {
        let known: Vec<Checkpoint> = self.last()?.into_iter().collect();
        let first = known.first().map_or(1, |last| last.number);
        self.sign(session, &known, first).await
    }

    async fn sign(
        &self,
        session: &mut Session,
        known: &[Checkpoint],
        first: i64,
    ) -> Result<Option<Checkpoint>> {
        let Some(signer) = &self.signer else {
            return Err(Error::config("there is no key to sign with")
                .hint("name one with audit.signing_key, or --signing-key; ssh-keygen -t ed25519 -N '' -f FILE makes one"));
        };
        let report = super::verify_from(session, first, known.iter().map(Checkpoint::head)).await;
        if report.is_err() {
            // The first error is the one that counts.
            let _ = session.query("rollback").await;
        }
        let Some(head) = fit_to_sign(report?, &self.file)? else { return Ok(None) };
        if let Some(same) = known.iter().find(|one| one.number == head.number) {
            return Ok(Some(same.clone()));
        }
        let checkpoint = Checkpoint::new(&self.pipeline, &head, signer);
        append(&self.file, &checkpoint)?;
        Ok(Some(checkpoint))
    }
}

fn trusted(options: &Audit, signer: Option<&Signer>) -> Result<Trusted> {
    let mut trusted = options.trusted()?;
    trusted.extend(signer.map(Signer::public));
    Ok(trusted)
}

/// The head, if the log holds and leads through what was signed before.
fn fit_to_sign(report: Report, file: &Path) -> Result<Option<Head>> {
    match report.broken {
        None => Ok(report.head),
        Some(broken) => Err(Error::new(
            Kind::Difference,
            format!("the audit log is broken at entry {} and is not signed: {}", broken.number, broken.why),
        )
        .hint(format!(
            "find out who did it: pgdiode audit verify, and compare with an earlier export. Where the log was restored \
             or begun anew on purpose, move {} aside",
            file.display()
        ))),
    }
}

/// One write, so that two processes' lines do not mix; on disk before anything counts on it.
fn append(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let unwritable = |error: std::io::Error| {
        Error::config(format!("cannot write the checkpoint into {}", path.display()))
            .because(error)
            .hint("name a directory of this user's with audit.checkpoint_dir")
    };
    let mut line = serde_json::to_string(checkpoint)
        .map_err(|error| Error::unexpected("a checkpoint is no JSON").because(error))?;
    line.push('\n');
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(unwritable)?;
    }
    let mut file: File = File::options().create(true).append(true).open(path).map_err(unwritable)?;
    file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "a101d5d7c4322b50762d7990b796fe0999c17e743160fbf497d865fd999b0af7";

    fn made() -> (Signer, Checkpoint) {
        let signer = Signer::generated();
        let checkpoint = Checkpoint::new("main", &Head { number: 7, hash: HASH.into() }, &signer);
        (signer, checkpoint)
    }

    fn trusting(signer: &Signer) -> Trusted {
        let mut trusted = Trusted::default();
        trusted.extend([signer.public()]);
        trusted
    }

    #[test]
    fn a_checkpoint_counts_as_it_was_signed_and_by_whom() {
        let (signer, checkpoint) = made();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep").join("main.jsonl");
        append(&path, &checkpoint).unwrap();
        append(&path, &checkpoint).unwrap();
        let found = read(&path, &trusting(&signer)).unwrap();
        assert_eq!(found, [checkpoint.clone(), checkpoint.clone()]);
        let told = summary(&found).unwrap();
        assert_eq!((told.count, told.number, told.signed_by), (2, 7, signer.public().fingerprint()));
        let refused = |trusted: &Trusted| read(&path, trusted).unwrap_err();
        let stranger = refused(&trusting(&Signer::generated()));
        assert!(stranger.what().ends_with(&signer.public().fingerprint()), "{stranger:?}");
        assert_eq!(stranger.kind(), Kind::Difference);
        assert_eq!(refused(&Trusted::default()).kind(), Kind::Difference);
    }

    #[test]
    fn nothing_of_a_checkpoint_may_be_another() {
        let (signer, checkpoint) = made();
        let edits: [fn(&mut Checkpoint); 5] = [
            |it| it.pipeline = "other".into(),
            |it| it.at = "2026-01-01T00:00:00Z".into(),
            |it| it.number = 8,
            |it| it.hash = HASH.replace('a', "b"),
            |it| it.signature = it.signature.replacen("AAAA", "AAAB", 1),
        ];
        for edit in edits {
            let mut edited = checkpoint.clone();
            edit(&mut edited);
            assert_ne!(edited, checkpoint);
            let line = serde_json::to_string(&edited).unwrap();
            let error = of_line(Path::new("f"), 3, &line, &trusting(&signer)).unwrap_err();
            assert!(error.what().starts_with("f:3: ") && error.what().ends_with("not valid"), "{error:?}");
        }
        for line in ["{}", "7", &serde_json::to_string(&checkpoint).unwrap().replace("\"at\"", "\"ta\"")] {
            assert!(of_line(Path::new("f"), 1, line, &trusting(&signer)).is_err(), "{line}");
        }
    }
}
