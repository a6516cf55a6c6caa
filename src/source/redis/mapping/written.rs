//! A mapping as it was written: words and names, nothing checked yet.

use serde::Deserialize;

use crate::keyspace::Write;

/// What the keys of one pattern become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMapping {
    pub pattern: String,
    pub holds: ValueType,
    pub tables: Vec<TableMapping>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMapping {
    /// `schema.table`, or a table of `public`.
    pub table: String,
    /// A path to what a row is made of each element of.
    pub each: Option<String>,
    pub write: Write,
    pub key: Vec<String>,
    pub skip_without: Vec<String>,
    /// `None` where nothing was said.
    pub gone: Option<WhenGone>,
    pub expired_at: String,
    pub deleted_at: String,
    pub columns: Vec<ColumnMapping>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnMapping {
    pub name: String,
    /// Alternatives: the first that is there counts.
    pub from: Vec<String>,
    pub conversion: Conversion,
    pub default: Option<String>,
    pub is_required: bool,
    /// For `create table` alone.
    pub sql_type: Option<String>,
    pub reference: Option<ReferenceMapping>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceMapping {
    pub table: String,
    pub by: String,
    pub take: String,
}

/// What values of a pattern's keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// A string, taken as text.
    String,
    /// A string that holds JSON.
    Json,
    Hash,
    List,
    Set,
    ZSet,
    Stream,
    /// A document of the RedisJSON module.
    ReJson,
}

impl ValueType {
    pub const WORDS: &'static [&'static str] =
        &["string", "json", "hash", "list", "set", "zset", "stream", "rejson"];

    pub fn as_str(self) -> &'static str {
        match self {
            ValueType::String => "string",
            ValueType::Json => "json",
            ValueType::Hash => "hash",
            ValueType::List => "list",
            ValueType::Set => "set",
            ValueType::ZSet => "zset",
            ValueType::Stream => "stream",
            ValueType::ReJson => "rejson",
        }
    }

    /// As the server's `TYPE` has it.
    pub fn type_name(self) -> &'static str {
        match self {
            ValueType::Json => "string",
            ValueType::ReJson => "ReJSON-RL",
            other => other.as_str(),
        }
    }
}

/// What a column makes of what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conversion {
    /// A text's characters; anything else as it stands there.
    Text,
    /// A part of the document as it stands there, for `json` and `jsonb`.
    Json,
    EpochSeconds,
    EpochMilliseconds,
    /// A time in ISO 8601, in UTC where it names no zone, or seconds or milliseconds since 1970 by their size.
    Timestamp,
}

impl Conversion {
    pub const WORDS: &'static [&'static str] =
        &["text", "json", "epoch_seconds", "epoch_milliseconds", "timestamp"];

    pub fn as_str(self) -> &'static str {
        match self {
            Conversion::Text => "text",
            Conversion::Json => "json",
            Conversion::EpochSeconds => "epoch_seconds",
            Conversion::EpochMilliseconds => "epoch_milliseconds",
            Conversion::Timestamp => "timestamp",
        }
    }
}

/// What becomes of the rows of a key that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenGone {
    Delete,
    Mark,
    Keep,
}

impl WhenGone {
    pub const WORDS: &'static [&'static str] = &["delete", "mark", "keep"];
}
