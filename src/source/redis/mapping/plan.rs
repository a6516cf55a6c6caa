//! What was written, checked and understood once: where each column's value comes from, and the tables of all mappings
//! in an order in which each stands behind those that it refers to.

use crate::change::TableName;
use crate::error::{Error, Result};
use crate::keyspace::{Gone, Layout, Write};
use crate::nearest::nearest;

use super::path::{Path, Root, Step};
use super::pattern::Pattern;
use super::tables::{Filled, Tables};
use super::written::{ColumnMapping, Conversion, KeyMapping, TableMapping, ValueType, WhenGone};

/// Says where a key of the configuration was written, for the front of a message: `["key", "0", "table", "1"]`.
pub type Place<'a> = &'a dyn Fn(&[&str]) -> String;

/// What the keys of one pattern become.
#[derive(Debug, Clone)]
pub(super) struct KeyPlan {
    pub(super) pattern: Pattern,
    pub(super) holds: ValueType,
    /// For each capture whether a column holds it.
    pub(super) used: Vec<bool>,
    pub(super) uses_key: bool,
    pub(super) tables: Vec<TablePlan>,
}

/// How rows of one table are made.
#[derive(Debug, Clone)]
pub(super) struct TablePlan {
    /// Its index in the layout.
    pub(super) table: usize,
    pub(super) each: Each,
    /// In the layout's order.
    pub(super) columns: Vec<ColumnPlan>,
    /// Whether a path goes into elements: then each is read once.
    pub(super) reads_elements: bool,
}

/// What a row is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Each {
    Value,
    /// Each element of the value.
    Element,
    /// Each element of what is there in a document.
    Below(Path),
}

#[derive(Debug, Clone)]
pub(super) struct ColumnPlan {
    pub(super) name: String,
    pub(super) from: Vec<Origin>,
    pub(super) conversion: Conversion,
    pub(super) default: Option<String>,
    pub(super) absent: Absent,
}

/// What follows where a column finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    Null,
    /// The row is a misfit.
    Misfit,
    /// There is no row.
    NoRow,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The key's part, by its number.
    Capture(usize),
    Key,
    Database,
    ExpiresAt,
    /// The element's number.
    Index,
    /// How many equal elements stand before this one.
    Occurrence,
    ContentHash,
    /// What the element is called: a hash's field, a stream entry's id, a sorted set's member.
    Name,
    Path(Path),
}

impl Origin {
    /// Whether it follows from the key's name alone.
    fn is_of_key(&self) -> bool {
        matches!(self, Origin::Capture(_) | Origin::Key | Origin::Database)
    }

    fn is_of_element(&self) -> bool {
        match self {
            Origin::Index | Origin::Occurrence | Origin::ContentHash | Origin::Name => true,
            Origin::Path(path) => path.root == Root::Element,
            _ => false,
        }
    }
}

impl ColumnPlan {
    pub(super) fn is_anchor(&self) -> bool {
        self.conversion == Conversion::Text && matches!(self.from.as_slice(), [one] if one.is_of_key())
    }
}

/// Checks and understands all mappings.
pub(super) fn compile(
    written: &[KeyMapping],
    databases: &[u32],
    place: Place<'_>,
) -> Result<(Layout, Vec<KeyPlan>, Tables)> {
    let mut tables = Tables::default();
    let mut plans = Vec::with_capacity(written.len());
    for (number, key) in written.iter().enumerate() {
        let number = number.to_string();
        let at = |path: &[&str]| place(&[&["key", number.as_str()], path].concat());
        plans.push(compile_key(key, databases, &mut tables, &at)?);
    }
    let order = tables.sort(place)?;
    for plan in &mut plans {
        for table in &mut plan.tables {
            table.table = order[table.table];
        }
        plan.tables.sort_by_key(|table| table.table);
    }
    Ok((tables.layout(), plans, tables))
}

fn compile_key(
    written: &KeyMapping,
    databases: &[u32],
    tables: &mut Tables,
    at: Place<'_>,
) -> Result<KeyPlan> {
    let pattern = Pattern::parse(&written.pattern).map_err(|error| error.context(at(&["pattern"])))?;
    let words = Words::new(&pattern, written.holds, at)?;
    if written.tables.is_empty() {
        return Err(Error::config(format!("{}: the keys fill no table", at(&["table"])))
            .hint("add [[pipeline.NAME.redis.key.table]] below the pattern"));
    }
    let mut plans = Vec::with_capacity(written.tables.len());
    for (number, table) in written.tables.iter().enumerate() {
        let number = number.to_string();
        let at = |path: &[&str]| at(&[&["table", number.as_str()], path].concat());
        let (mut plan, filled) = compile_table(table, &words, databases, &at)?;
        plan.table = tables.add(filled, &written.pattern, &mut plan.columns, &at)?;
        plans.push(plan);
    }
    let origins = || plans.iter().flat_map(|table| &table.columns).flat_map(|column| &column.from);
    let used = (0..pattern.captures.len()).map(|number| origins().any(|one| *one == Origin::Capture(number)));
    let (used, uses_key) = (used.collect(), origins().any(|origin| *origin == Origin::Key));
    Ok(KeyPlan { used, uses_key, tables: plans, pattern, holds: written.holds })
}

/// What may stand in braces.
struct Words<'a> {
    captures: &'a [String],
    holds: ValueType,
    pattern: &'a Pattern,
}

const OF_EVERY_KEY: [&str; 3] = ["key", "database", "expires_at"];
const OF_EVERY_ELEMENT: [&str; 3] = ["index", "occurrence", "content_hash"];

impl<'a> Words<'a> {
    fn new(pattern: &'a Pattern, holds: ValueType, at: Place<'_>) -> Result<Words<'a>> {
        let words = Words { captures: &pattern.captures, holds, pattern };
        let own = OF_EVERY_KEY.iter().chain(&OF_EVERY_ELEMENT).chain(words.of_type());
        for word in own {
            if pattern.captures.iter().any(|capture| capture == word) {
                return Err(Error::config(format!(
                    "{}: {{{word}}} has a meaning of its own",
                    at(&["pattern"])
                ))
                .hint("give the capture another name"));
            }
        }
        Ok(words)
    }

    /// What values of the type have besides.
    fn of_type(&self) -> &'static [&'static str] {
        match self.holds {
            ValueType::String | ValueType::List => &["value"],
            ValueType::Json | ValueType::ReJson => &[],
            ValueType::Hash => &["field", "value"],
            ValueType::Set => &["member"],
            ValueType::ZSet => &["member", "score"],
            ValueType::Stream => &["id"],
        }
    }

    fn origin(&self, text: &str) -> Result<Origin> {
        if Path::begins(text) {
            return Path::parse(text).map(Origin::Path);
        }
        let word = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(|| {
            Error::config(format!("\"{text}\" is neither a path nor a word in braces")).hint(
                "write \"$.path\", \"@.path\" or \"{name}\"; what is the same in every row is a default without from",
            )
        })?;
        if let Some(number) = self.captures.iter().position(|capture| capture == word) {
            return Ok(Origin::Capture(number));
        }
        let content = || Origin::Path(Path { root: Root::Element, steps: Vec::new() });
        Ok(match word {
            "key" => Origin::Key,
            "database" => Origin::Database,
            "expires_at" => Origin::ExpiresAt,
            "index" => Origin::Index,
            "occurrence" => Origin::Occurrence,
            "content_hash" => Origin::ContentHash,
            _ if !self.of_type().contains(&word) => return Err(self.unknown(word)),
            "value" if self.holds == ValueType::String => {
                Origin::Path(Path { root: Root::Value, steps: Vec::new() })
            }
            "value" | "score" => content(),
            "member" if self.holds == ValueType::Set => content(),
            _ => Origin::Name,
        })
    }

    fn unknown(&self, word: &str) -> Error {
        let captures = self.captures.iter().map(String::as_str);
        let own = OF_EVERY_KEY.iter().chain(&OF_EVERY_ELEMENT).chain(self.of_type()).copied();
        let known: Vec<&str> = captures.chain(own).collect();
        let error = Error::config(format!("{{{word}}} is not known here"));
        match nearest(word, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean {{{near}}}?")),
            None => error.hint(format!("known for this pattern and type: {{{}}}", known.join("}, {"))),
        }
    }
}

fn compile_table(
    written: &TableMapping,
    words: &Words<'_>,
    databases: &[u32],
    at: Place<'_>,
) -> Result<(TablePlan, Filled)> {
    let each = compile_each(written.each.as_deref(), words.holds, at)?;
    let mut columns: Vec<ColumnPlan> = Vec::with_capacity(written.columns.len());
    for (number, column) in written.columns.iter().enumerate() {
        let number = number.to_string();
        let at = |path: &[&str]| at(&[&["column", number.as_str()], path].concat());
        if columns.iter().any(|other| other.name == column.name) {
            return Err(Error::config(format!("{}: column \"{}\" is there twice", at(&[]), column.name))
                .hint("several places for one value stand in one from, as a list"));
        }
        columns.push(compile_column(column, words, &each, &at)?);
    }
    let named = |name: &String, key: &str| {
        columns.iter().position(|column| column.name == *name).ok_or_else(|| {
            let known = || columns.iter().map(|column| column.name.as_str());
            let error = Error::config(format!("{}: there is no column \"{name}\"", at(&[key])));
            match nearest(name, known()) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint(format!("the columns are {}", known().collect::<Vec<_>>().join(", "))),
            }
        })
    };
    let key: Vec<usize> = written.key.iter().map(|name| named(name, "key")).collect::<Result<_>>()?;
    if key.is_empty() {
        return Err(Error::config(format!("{}: nothing says what tells rows apart", at(&["key"])))
            .hint("name the columns of a unique index: key = [\"id\"]"));
    }
    let skipped: Vec<usize> =
        written.skip_without.iter().map(|name| named(name, "skip_without")).collect::<Result<_>>()?;
    let gone = gone(written, at)?;
    for &column in &key {
        columns[column].absent = Absent::Misfit;
    }
    for &column in &skipped {
        columns[column].absent = Absent::NoRow;
    }
    let filled = Filled::new(written, &columns, key, gone, at)?;
    if written.write == Write::Replace {
        check_owner(&columns, words.pattern, databases, at)?;
    }
    let reads_elements = columns.iter().flat_map(|column| &column.from).any(
        |origin| matches!(origin, Origin::Path(Path { root: Root::Element, steps }) if !steps.is_empty()),
    );
    Ok((TablePlan { table: 0, each, columns, reads_elements }, filled))
}

fn compile_each(written: Option<&str>, holds: ValueType, at: Place<'_>) -> Result<Each> {
    let wrong = |what: &str, hint: &str| Err(Error::config(format!("{}: {what}", at(&["each"]))).hint(hint));
    let path = written.map(Path::parse).transpose().map_err(|error| error.context(at(&["each"])))?;
    if path.as_ref().is_some_and(|path| path.root == Root::Element) {
        return wrong(
            "there is no element yet that @ could mean",
            "write the path from the value's top: $.items",
        );
    }
    match (holds, path) {
        (ValueType::List | ValueType::Set | ValueType::ZSet | ValueType::Stream, None) => Ok(Each::Element),
        (_, None) => Ok(Each::Value),
        (ValueType::String, Some(_)) => {
            wrong("a text has no elements", "where it is JSON, say type = \"json\"")
        }
        (_, Some(path)) if path.steps.is_empty() => Ok(Each::Element),
        (ValueType::Json | ValueType::ReJson, Some(path)) => Ok(Each::Below(path)),
        _ => wrong(
            "rows are made of the elements of the value itself here",
            "write each = \"$\", or leave it out",
        ),
    }
}

fn compile_column(
    written: &ColumnMapping,
    words: &Words<'_>,
    each: &Each,
    at: Place<'_>,
) -> Result<ColumnPlan> {
    if written.name.is_empty() || written.name.len() > 63 {
        return Err(Error::config(format!("{}: a column's name has 1 to 63 bytes", at(&["name"])))
            .hint("name = \"title\""));
    }
    let wrong = |key: &str, what: String| Error::config(format!("{}: {what}", at(&[key])));
    let mut from = Vec::with_capacity(written.from.len());
    for text in &written.from {
        let origin = words.origin(text).map_err(|error| error.context(at(&["from"])))?;
        check_origin(&origin, text, words.holds, each)
            .map_err(|(what, hint)| wrong("from", what).hint(hint))?;
        if written.conversion != Conversion::Text && !matches!(origin, Origin::Path(_) | Origin::Name) {
            return Err(wrong("as", format!("{text} is not converted"))
                .hint("leave out as: times among these are times already"));
        }
        from.push(origin);
    }
    if from.is_empty() && written.default.is_none() {
        return Err(wrong("from", format!("nothing says where column \"{}\" comes from", written.name))
            .hint("set from = \"$.path\", or default for the same in every row"));
    }
    if written.is_required && written.default.is_some() {
        return Err(wrong("required", "a column with a default is never missing".into())
            .hint("leave out one of required and default"));
    }
    if written.default.as_ref().is_some_and(|text| text.contains('\0')) {
        return Err(wrong("default", "PostgreSQL stores no NUL character".into()).hint("remove it"));
    }
    Ok(ColumnPlan {
        name: written.name.clone(),
        from,
        conversion: written.conversion,
        default: written.default.clone(),
        absent: if written.is_required { Absent::Misfit } else { Absent::Null },
    })
}

/// Whether the origin is there where the row is made.
fn check_origin(
    origin: &Origin,
    text: &str,
    holds: ValueType,
    each: &Each,
) -> Result<(), (String, &'static str)> {
    if origin.is_of_element() && *each == Each::Value {
        return Err((
            format!("{text} speaks of an element, and one row is made of the whole value"),
            "set each to the path of a list, or write the path from the value's top: $.path",
        ));
    }
    let Origin::Path(path) = origin else { return Ok(()) };
    let is_document = matches!(holds, ValueType::Json | ValueType::ReJson);
    match (path.root, path.steps.as_slice()) {
        (Root::Value, []) if is_document || holds == ValueType::String => Ok(()),
        (Root::Value, [Step::Field(_), ..]) if holds == ValueType::Hash => Ok(()),
        (Root::Value, [_, ..]) if is_document => Ok(()),
        (Root::Element, []) if holds == ValueType::Stream => {
            Err(("an entry of a stream is no single value".into(), "name one of its fields: @.field"))
        }
        (Root::Element, [Step::Item(_), ..]) if holds == ValueType::Stream => {
            Err(("an entry of a stream has fields, not items".into(), "name one of its fields: @.field"))
        }
        (Root::Element, _) => Ok(()),
        _ => Err((
            format!("{text} cannot be found in a value of type \"{}\"", holds.as_str()),
            "from the element at hand a path begins with @; of a hash: $.field; of a string: {value}",
        )),
    }
}

fn gone(written: &TableMapping, at: Place<'_>) -> Result<Gone> {
    if written.write != Write::Replace {
        return match written.gone {
            None | Some(WhenGone::Keep) => Ok(Gone::Keep),
            Some(_) => {
                Err(Error::config(format!("{}: rows of this table belong to no single key", at(&["gone"])))
                    .hint("gone is for write = \"replace\""))
            }
        };
    }
    Ok(match written.gone.unwrap_or(WhenGone::Delete) {
        WhenGone::Delete => Gone::Delete,
        WhenGone::Keep => Gone::Keep,
        WhenGone::Mark => {
            let names = [("expired_at", &written.expired_at), ("deleted_at", &written.deleted_at)];
            for (key, name) in names {
                let is_free = !written.columns.iter().any(|column| column.name == *name);
                if name.is_empty() || !is_free || written.expired_at == written.deleted_at {
                    return Err(Error::config(format!(
                        "{}: the marks need two columns of their own",
                        at(&[key])
                    ))
                    .hint("they are written when a key is gone, and by nothing else"));
                }
            }
            Gone::Mark { expired_at: written.expired_at.clone(), deleted_at: written.deleted_at.clone() }
        }
    })
}

/// Two keys must never own the same rows: what the rows say of their key has to be the whole key.
fn check_owner(columns: &[ColumnPlan], pattern: &Pattern, databases: &[u32], at: Place<'_>) -> Result<()> {
    let has = |origin: &Origin| {
        columns.iter().any(|column| column.is_anchor() && column.from.first() == Some(origin))
    };
    let missing = |word: &str, why: &str| {
        Err(Error::config(format!("{}: no column holds {{{word}}} alone, and {why}", at(&["column"]))).hint(
            format!("add {{ name = \"{word}\", from = \"{{{word}}}\" }}: with write = \"replace\" each row says whose it is"),
        ))
    };
    if databases.len() > 1 && !has(&Origin::Database) {
        return missing("database", "the same key may be in several databases");
    }
    if has(&Origin::Key) {
        return Ok(());
    }
    if pattern.has_any() {
        return missing("key", "the pattern's * makes keys that differ in nothing else");
    }
    for (number, capture) in pattern.captures.iter().enumerate() {
        if !has(&Origin::Capture(number)) {
            return missing(capture, "two keys would own the same rows");
        }
    }
    if pattern.captures.is_empty() {
        return missing("key", "nothing else would say that the rows belong to this key");
    }
    Ok(())
}

/// `schema.table`, or a table of `public`.
pub(super) fn table_name(text: &str) -> Option<TableName> {
    let (schema, name) = text.split_once('.').unwrap_or(("public", text));
    let fits = |part: &str| !part.is_empty() && part.len() <= 63 && !part.contains(['.', '"', '*', '\0']);
    (fits(schema) && fits(name)).then(|| TableName::new(schema, name))
}
