//! By whom an archive's manifests are signed, and whether that is by whom they must be.

use std::collections::BTreeSet;

use crate::archive::keys::ReaderKeys;
use crate::archive::names;
use crate::archive::signing::{PublicKey, Trusted, signer_of};
use crate::status::archive::Finding;

#[derive(Debug, Default)]
pub struct Signatures {
    /// Empty: nobody has said whose they must be.
    trusted: Trusted,
    pub signers: BTreeSet<PublicKey>,
    unsigned: Vec<String>,
    /// Signed by a key that is trusted.
    claims: BTreeSet<String>,
    /// Why the identity by itself is not to be believed.
    doubt: Option<Finding>,
}

impl Signatures {
    pub fn of(keys: &ReaderKeys) -> Signatures {
        Signatures { trusted: keys.signed_by.clone(), ..Signatures::default() }
    }

    /// Looks at an object that is otherwise whole; says why it is not to be believed.
    pub fn look(&mut self, name: &str, bytes: &[u8]) -> Option<Finding> {
        let is_below = |folder: &str| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let is_claim = is_below(names::EPOCHS);
        let is_identity = name == names::IDENTITY;
        if !is_claim && !is_identity && !is_below(names::MANIFESTS) && !is_below(names::BASES) {
            return None;
        }
        let trusted = if self.trusted.is_empty() { Ok(()) } else { self.trusted.check(name, bytes) };
        let doubted = match (signer_of(name, bytes), trusted) {
            (Err(error), _) => return Some(finding(name, error.what())),
            (Ok(signer), trusted) => {
                self.signers.extend(signer);
                if signer.is_none() && !is_claim {
                    self.unsigned.push(name.to_owned());
                }
                trusted.err()
            }
        };
        match doubted {
            None => {
                self.claims.extend(is_claim.then(|| name.to_owned()));
                None
            }
            // A writer without the key, or with one before: what it has sealed says so itself.
            Some(_) if is_claim => None,
            Some(error) if is_identity => {
                self.doubt = Some(finding(name, error.what()));
                None
            }
            Some(error) => Some(finding(name, error.what())),
        }
    }

    pub fn is_signed(&self) -> bool {
        !self.signers.is_empty()
    }

    /// What shows once all is looked at. `claim` is the newest, if it is of this archive.
    pub fn conclude(&mut self, claim: Option<&str>) -> (Vec<Finding>, Option<Finding>) {
        if !self.trusted.is_empty() {
            let is_vouched = claim.is_some_and(|claim| self.claims.contains(claim));
            return (self.doubt.take().filter(|_| !is_vouched).into_iter().collect(), None);
        }
        if !self.is_signed() {
            return (Vec::new(), None);
        }
        let unsigned = self.unsigned.iter();
        let findings =
            unsigned.map(|name| Finding::of(name, "it is not signed, and others of this archive are"));
        let signers: Vec<String> = self.signers.iter().map(PublicKey::fingerprint).collect();
        let what = format!(
            "the archive is signed by {}; whether that is its writer can be told with --signed-by",
            signers.join(" and ")
        );
        (findings.collect(), Some(Finding::of(names::IDENTITY, what)))
    }
}

/// An error begins with the object.
fn finding(name: &str, what: &str) -> Finding {
    Finding::of(name, format!("it {}", what.trim_start_matches(name).trim_start()))
}
