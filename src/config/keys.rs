//! The keys of an archive, as its options name them; files are read when they are needed, so that a new key needs no
//! restart.

use std::path::Path;
use std::sync::Arc;

use super::{ArchiveOptions, Audit, Dialect, Place};
use crate::archive::encryption::{Identities, Recipients};
use crate::archive::keys::{ReaderKeys, WriterKeys};
use crate::archive::signing::{Signer, Trusted};
use crate::error::{Error, Result};

impl ArchiveOptions {
    /// What whoever fills the archive needs.
    pub fn writer_keys(&self) -> Result<WriterKeys> {
        let signer = self.signing_key.as_deref().map(Signer::load).transpose()?;
        let mut signed_by = self.trusted()?;
        signed_by.extend(signer.as_ref().map(Signer::public));
        Ok(WriterKeys { recipients: self.recipients()?, signer: signer.map(Arc::new), signed_by })
    }

    /// What whoever reads the archive needs.
    pub fn reader_keys(&self) -> Result<ReaderKeys> {
        let identities = self.identity.as_deref().map(Identities::load).transpose()?;
        Ok(ReaderKeys { identities, signed_by: self.trusted()? })
    }

    /// What whoever tends the archive can know of its keys: those of a reader, and at the writer its own.
    pub fn custody_keys(&self) -> Result<ReaderKeys> {
        let mut keys = self.reader_keys()?;
        if self.signing_key.is_some() {
            keys.signed_by = self.writer_keys()?.signed_by;
        }
        Ok(keys)
    }

    fn trusted(&self) -> Result<Trusted> {
        Trusted::parse(self.signed_by.iter().map(String::as_str))
    }

    fn recipients(&self) -> Result<Option<Recipients>> {
        let file = self.recipients_file.as_deref().map(read_recipients).transpose()?;
        let lines = file.iter().flat_map(|text| text.lines());
        let listed = lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        if self.recipients.is_empty() && file.is_none() {
            return Ok(None);
        }
        Recipients::parse(self.recipients.iter().map(String::as_str).chain(listed)).map(Some)
    }

    /// What shows without a look into any file.
    pub(super) fn check_keys(&self, at: Place<'_>) -> Result<()> {
        if !self.recipients.is_empty() {
            let parsed = Recipients::parse(self.recipients.iter().map(String::as_str));
            parsed.map_err(|error| error.context(at(&["archive", "recipients"])))?;
        }
        self.trusted().map_err(|error| error.context(at(&["archive", "signed_by"])))?;
        if !self.signed_by.is_empty() && matches!(self.dialect, Dialect::Seed | Dialect::Wal2json) {
            return Err(Error::config(format!(
                "{}: nobody signs files of dialect \"{}\"",
                at(&["archive", "signed_by"]),
                self.dialect.as_str()
            ))
            .hint("leave out one of the two"));
        }
        Ok(())
    }
}

impl Audit {
    /// Whose checkpoints count, but for those of its own key.
    pub fn trusted(&self) -> Result<Trusted> {
        Trusted::parse(self.signed_by.iter().map(String::as_str))
    }
}

fn read_recipients(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        Error::config(format!("cannot read archive.recipients_file {}", path.display()))
            .because(error)
            .hint("it has a recipient a line: `age-keygen -y IDENTITY` prints one")
    })
}
