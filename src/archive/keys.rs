//! What an archive's two ends know of keys: the writer whom to encrypt to and with what to sign, a reader with what to
//! decrypt and whom to believe.

use std::sync::Arc;

use crate::archive::encryption::{Identities, Recipients};
use crate::archive::manifest::{self, Claim, Identity};
use crate::archive::names;
use crate::archive::signing::{Signer, Trusted, signer_of};
use crate::error::{Error, Result};

/// A writer's.
#[derive(Debug, Clone, Default)]
pub struct WriterKeys {
    pub recipients: Option<Recipients>,
    pub signer: Option<Arc<Signer>>,
    /// With the signer's own key those before it, which have signed what is there.
    pub signed_by: Trusted,
}

impl WriterKeys {
    /// Whether the place is not trusted: then what a killed writer left there without a manifest is not to be sealed. It
    /// cannot be read, or may be anybody's.
    pub fn distrust_the_place(&self) -> bool {
        self.recipients.is_some() || self.signer.is_some()
    }

    /// Whether to go on from an object: an archive is signed from its first one on, or not at all.
    pub fn check(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let signed = signer_of(name, bytes)?;
        match (&self.signer, signed) {
            (None, None) => Ok(()),
            (Some(_), Some(_)) => self.signed_by.check(name, bytes).map_err(|error| {
                error.hint("If the archive's writer had another key before, name its public one in archive.signed_by.")
            }),
            (Some(_), None) => Err(Error::refused(format!("{name} is not signed, and archive.signing_key is set"))
                .hint("A signed archive is signed from its first object on: name an empty place for a new one. If this archive was signed, somebody has changed it.")),
            (None, Some(key)) => Err(Error::refused(format!(
                "{name} is signed by {}, and archive.signing_key is not set",
                key.fingerprint()
            ))
            .hint("Readers refuse what follows unsigned: set archive.signing_key. For an archive without signatures name an empty place.")),
        }
    }
}

/// A reader's.
#[derive(Debug, Clone, Default)]
pub struct ReaderKeys {
    pub identities: Option<Identities>,
    /// Empty: whoever wrote it is believed.
    pub signed_by: Trusted,
}

impl ReaderKeys {
    pub fn check(&self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.signed_by.is_empty() { Ok(()) } else { self.signed_by.check(name, bytes) }
    }
}

/// Whether a claim speaks for the identity, whose signature is older than the keys that are believed. `check` is that of
/// the keys.
pub fn speaks_for(
    identity: &[u8],
    (name, bytes): (&str, &[u8]),
    check: impl Fn(&str, &[u8]) -> Result<()>,
) -> Result<()> {
    check(name, bytes)?;
    let identity: Identity = manifest::parse(names::IDENTITY, identity)?;
    let claim: Claim = manifest::parse(name, bytes)?;
    if claim.archive == identity.archive {
        Ok(())
    } else {
        Err(Error::unexpected(format!("{name} is of archive {}", claim.archive)))
    }
}
