//! Who may come in through the HTTP door: the files of users and of machine tokens, and what a role may do.
//!
//! Both files hold hashes alone. `pgdiode password` and `pgdiode token` make their lines.

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
