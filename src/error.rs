//! The one error type: what went wrong, what to do about it, and whether trying again can help.
//!
//! An error answers a single question for the code that receives it, *retry or stop* ([`Error::retries`]), and
//! one for the operator, *what now* (the hint). [`Kind`] decides both, and the process's exit status with them.

use std::error::Error as StdError;
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means for the process; the exit statuses are part of the interface and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A bug, or something of the environment that no other kind names. Exit status 1.
    Unexpected,
    /// The command line or the configuration is wrong. Exit status 2.
    Config,
    /// A check made before touching anything refused: version, replica identity, privileges, ownership,
    /// a slot that is not the one the stored position belongs to. Exit status 3.
    Refused,
    /// Verification found a difference. Exit status 4.
    Difference,
    /// Another run holds the lock. Exit status 5.
    Locked,
    /// The source cannot be reached, or the connection to it broke. Exit status 6.
    SourceUnreachable,
    /// The target cannot be reached, or the connection to it broke. Exit status 7.
    TargetUnreachable,
    /// A capacity guard: disk full, or less free than a run needs. Exit status 8.
    Capacity,
    /// The audit log cannot be written. Exit status 9.
    Audit,
}

impl Kind {
    pub fn exit_status(self) -> u8 {
        match self {
            Kind::Unexpected => 1,
            Kind::Config => 2,
            Kind::Refused => 3,
            Kind::Difference => 4,
            Kind::Locked => 5,
            Kind::SourceUnreachable => 6,
            Kind::TargetUnreachable => 7,
            Kind::Capacity => 8,
            Kind::Audit => 9,
        }
    }
}

/// Which side of the pipeline a wire serves: it decides what a lost connection is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

impl Side {
    pub fn unreachable(self) -> Kind {
        match self {
            Side::Source => Kind::SourceUnreachable,
            Side::Target => Kind::TargetUnreachable,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Target => "target",
        }
    }
}

/// An expected failure. Bugs are assertions, not errors.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    what: String,
    hint: Option<String>,
    sqlstate: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// `what` is lower case, without a full stop, and names the place: the file, the key, the table, the host.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, what: what.into(), hint: None, sqlstate: None, source: None }))
    }

    pub fn unexpected(what: impl Into<String>) -> Self {
        Error::new(Kind::Unexpected, what)
    }

    pub fn config(what: impl Into<String>) -> Self {
        Error::new(Kind::Config, what)
    }

    pub fn refused(what: impl Into<String>) -> Self {
        Error::new(Kind::Refused, what)
    }

    /// A sentence that tells the operator the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The cause, kept whole: it is printed after the message, never formatted into it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The five-character SQLSTATE that a server reported with this error.
    #[must_use]
    pub fn with_sqlstate(mut self, sqlstate: impl Into<String>) -> Self {
        self.0.sqlstate = Some(sqlstate.into());
        self
    }

    /// The same error as another kind: a wire does not know which side of the pipeline it serves.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The same error with the place put in front: `context: what`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.what = format!("{context}: {}", self.0.what);
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn what(&self) -> &str {
        &self.0.what
    }

    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    pub fn sqlstate(&self) -> Option<&str> {
        self.0.sqlstate.as_deref()
    }

    /// Whether the same attempt can succeed later without anybody changing anything.
    pub fn retries(&self) -> bool {
        matches!(self.0.kind, Kind::SourceUnreachable | Kind::TargetUnreachable)
    }

    /// The message and its causes on one line, without the hint.
    pub fn chain(&self) -> String {
        let mut text = self.0.what.clone();
        let mut cause: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.chain())?;
        if let Some(hint) = &self.0.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
