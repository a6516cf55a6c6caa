//! Why something became no row. No reason ever holds a value.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    NotUtf8,
    Nul,
    LoneSurrogate,
    Missing,
    NotJson,
    NoElements,
    NoTimestamp,
    TooDeep,
    NumberTooLarge,
    SameKey,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::NotUtf8 => "not UTF-8",
            Reason::Nul => "holds a NUL character, which PostgreSQL does not store",
            Reason::LoneSurrogate => "holds half of a surrogate pair, which is no character",
            Reason::Missing => "required, and there is none",
            Reason::NotJson => "not JSON",
            Reason::NoElements => "neither a list nor an object, where rows are made of each element",
            Reason::NoTimestamp => "not a time as the mapping says it",
            Reason::TooDeep => "nested deeper than 1000 levels",
            Reason::NumberTooLarge => "holds a number beyond what PostgreSQL's numeric holds",
            Reason::SameKey => "another row of this value has the same key",
        })
    }
}
