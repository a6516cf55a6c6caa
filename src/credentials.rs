//! Who may come in through the HTTP door: the files of users and of machine tokens, and what a role may do.
//!
//! Both files hold hashes alone. `pgdiode password` and `pgdiode token` make their lines. They are read again when they
//! have changed ([`Kept`]), so that whoever is taken out of them is out at once.

mod file;
mod tokens;
mod users;

pub use file::{Kept, Listed};
pub use tokens::{Grant, TOKEN_PREFIX, Token, Tokens};
pub use users::{Password, Users};

/// The longest name of a user or of a token.
const NAME_CHARACTERS_MAX: usize = 64;

/// Whether a text can name somebody: what stands in logs, headers and files without being quoted.
pub fn is_name(text: &str) -> bool {
    let plain = |character: char| character.is_alphanumeric() || "._@+-".contains(character);
    !text.is_empty() && text.chars().count() <= NAME_CHARACTERS_MAX && text.chars().all(plain)
}

/// What somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees everything but the audit log.
    Viewer,
    /// Sees everything and acts.
    Operator,
    /// Sees everything, checks and exports the audit log, changes nothing.
    Auditor,
}

/// What somebody may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// See how the pipelines do.
    Look,
    /// Change something.
    Act,
    /// See, check and export the audit log.
    Audit,
}

impl Role {
    pub fn may(self, right: Right) -> bool {
        match (self, right) {
            (_, Right::Look) | (Role::Operator, _) | (Role::Auditor, Right::Audit) => true,
            (Role::Viewer, Right::Act | Right::Audit) | (Role::Auditor, Right::Act) => false,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Auditor => "auditor",
        }
    }

    pub fn named(word: &str) -> Option<Role> {
        [Role::Viewer, Role::Operator, Role::Auditor].into_iter().find(|role| role.as_str() == word)
    }
}
