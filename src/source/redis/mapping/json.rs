//! JSON as it is: a document is read once, into a list of where everything stands, and nothing is copied or converted
//! before somebody asks for it. Numbers stay text.
//!
//! ```text
//! {"a": [1, 2], "b": "x"}      nodes: {} "a" [] 1 2 "b" "x"      each knows where it begins and ends in the text,
//!                                     0   1  2  3 4  5   6       and the node behind all that it holds
//! ```
//!
//! Reading keeps its place in a list of open brackets and not on the stack: a document may be nested as deep as it is
//! long. Bytes inside of texts are looked at when a text is asked for, so that one bad text spoils itself alone.

use std::borrow::Cow;

use super::misfit::Reason;

/// Where everything stands in one text.
#[derive(Debug, Default)]
pub(super) struct Outline {
    nodes: Vec<Node>,
    open: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    kind: Kind,
    /// A text that holds a backslash.
    is_escaped: bool,
    start: u32,
    end: u32,
    /// The index of the first node that is not inside of this one.
    next: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    List,
    Text,
    Number,
    /// `true`, `false`.
    Truth,
    Null,
}

/// A value inside of a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Json<'a> {
    pub(super) kind: Kind,
    is_escaped: bool,
    /// As it stands there, quotation marks included.
    pub(super) text: &'a [u8],
}

/// The text is no JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Value,
    ItemOrEnd,
    Name,
    NameOrEnd,
    CommaOrEnd,
}

impl Outline {
    /// Reads a text, all of it.
    pub(super) fn read(&mut self, text: &[u8]) -> Result<(), Malformed> {
        self.nodes.clear();
        self.open.clear();
        if u32::try_from(text.len()).is_err() {
            return Err(Malformed);
        }
        let mut expected = Expected::Value;
        let mut at = 0;
        loop {
            at = skip_spaces(text, at);
            let Some(&byte) = text.get(at) else {
                let is_whole = expected == Expected::CommaOrEnd && self.open.is_empty();
                return if is_whole { Ok(()) } else { Err(Malformed) };
            };
            (expected, at) = match (expected, byte) {
                (Expected::Value | Expected::ItemOrEnd, b'{') => {
                    (Expected::NameOrEnd, self.open(Kind::Object, at))
                }
                (Expected::Value | Expected::ItemOrEnd, b'[') => {
                    (Expected::ItemOrEnd, self.open(Kind::List, at))
                }
                (Expected::Value | Expected::ItemOrEnd, b'"') => (Expected::CommaOrEnd, self.text(text, at)?),
                (Expected::Value | Expected::ItemOrEnd, _) if byte != b']' => {
                    (Expected::CommaOrEnd, self.plain(text, at)?)
                }
                (Expected::Name | Expected::NameOrEnd, b'"') => {
                    let colon = skip_spaces(text, self.text(text, at)?);
                    if text.get(colon) != Some(&b':') {
                        return Err(Malformed);
                    }
                    (Expected::Value, colon + 1)
                }
                (Expected::CommaOrEnd, b',') => match self.innermost() {
                    Some(Kind::Object) => (Expected::Name, at + 1),
                    Some(_) => (Expected::Value, at + 1),
                    None => return Err(Malformed),
                },
                (Expected::ItemOrEnd | Expected::CommaOrEnd, b']') => {
                    (Expected::CommaOrEnd, self.close(Kind::List, at)?)
                }
                (Expected::NameOrEnd | Expected::CommaOrEnd, b'}') => {
                    (Expected::CommaOrEnd, self.close(Kind::Object, at)?)
                }
                _ => return Err(Malformed),
            };
        }
    }

    fn add(&mut self, kind: Kind, is_escaped: bool, start: usize, end: usize) {
        let next = self.nodes.len() + 1;
        self.nodes.push(Node { kind, is_escaped, start: short(start), end: short(end), next: short(next) });
    }

    fn open(&mut self, kind: Kind, at: usize) -> usize {
        self.open.push(short(self.nodes.len()));
        self.add(kind, false, at, at + 1);
        at + 1
    }

    fn innermost(&self) -> Option<Kind> {
        self.open.last().map(|&index| self.nodes[index as usize].kind)
    }

    fn close(&mut self, kind: Kind, at: usize) -> Result<usize, Malformed> {
        if self.innermost() != Some(kind) {
            return Err(Malformed);
        }
        let next = short(self.nodes.len());
        let index = self.open.pop().ok_or(Malformed)?;
        let node = &mut self.nodes[index as usize];
        (node.end, node.next) = (short(at + 1), next);
        Ok(at + 1)
    }

    /// A text from its quotation mark on; returns where it ends.
    fn text(&mut self, text: &[u8], start: usize) -> Result<usize, Malformed> {
        let mut at = start + 1;
        let mut is_escaped = false;
        loop {
            let run = text[at..].iter().position(|&byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            at += run.ok_or(Malformed)?;
            match text[at] {
                b'"' => break,
                b'\\' => {
                    is_escaped = true;
                    at += match text.get(at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                        Some(b'u') if hexadecimal(text, at + 2).is_some() => 6,
                        _ => return Err(Malformed),
                    };
                }
                _ => return Err(Malformed),
            }
        }
        self.add(Kind::Text, is_escaped, start, at + 1);
        Ok(at + 1)
    }

    /// A number, `true`, `false` or `null`.
    fn plain(&mut self, text: &[u8], start: usize) -> Result<usize, Malformed> {
        let words: [(&[u8], Kind); 3] =
            [(b"true", Kind::Truth), (b"false", Kind::Truth), (b"null", Kind::Null)];
        let word = words.into_iter().find(|(word, _)| text[start..].starts_with(word));
        let (end, kind) = match word {
            Some((word, kind)) => (start + word.len(), kind),
            None => (number_end(text, start).ok_or(Malformed)?, Kind::Number),
        };
        self.add(kind, false, start, end);
        Ok(end)
    }

    /// The value at `index`; 0 is the whole text's.
    pub(super) fn json<'a>(&self, text: &'a [u8], index: usize) -> Json<'a> {
        let node = &self.nodes[index];
        Json {
            kind: node.kind,
            is_escaped: node.is_escaped,
            text: &text[node.start as usize..node.end as usize],
        }
    }

    pub(super) fn kind(&self, index: usize) -> Kind {
        self.nodes[index].kind
    }

    /// Where the value at `index` stands in the text.
    pub(super) fn span(&self, index: usize) -> std::ops::Range<usize> {
        self.nodes[index].start as usize..self.nodes[index].end as usize
    }

    /// The indexes of what a list holds; nothing for other values.
    pub(super) fn items(&self, index: usize) -> Items<'_> {
        let at = if self.kind(index) == Kind::List { index + 1 } else { self.next(index) };
        Items { outline: self, at, end: self.next(index) }
    }

    /// The indexes of an object's names, each with its value's; nothing for other values.
    pub(super) fn fields(&self, index: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let at = if self.kind(index) == Kind::Object { index + 1 } else { self.next(index) };
        let mut items = Items { outline: self, at, end: self.next(index) };
        std::iter::from_fn(move || Some((items.next()?, items.next()?)))
    }

    /// An object's value of that name; where the name stands there several times, the last.
    pub(super) fn field(&self, text: &[u8], index: usize, name: &str) -> Option<usize> {
        let mut found = None;
        for (key, value) in self.fields(index) {
            if self.json(text, key).is_text(name) {
                found = Some(value);
            }
        }
        found
    }

    /// A list's item; negative: counted from its end.
    pub(super) fn item(&self, index: usize, number: i32) -> Option<usize> {
        let from_start = usize::try_from(number).ok();
        let place = match from_start {
            Some(place) => place,
            None => self.items(index).count().checked_sub(number.unsigned_abs() as usize)?,
        };
        self.items(index).nth(place)
    }

    fn next(&self, index: usize) -> usize {
        self.nodes[index].next as usize
    }
}

/// See [`Outline::items`].
pub(super) struct Items<'a> {
    outline: &'a Outline,
    at: usize,
    end: usize,
}

impl Iterator for Items<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let at = self.at;
        if at >= self.end {
            return None;
        }
        self.at = self.outline.next(at);
        Some(at)
    }
}

impl<'a> Json<'a> {
    /// A text without its quotation marks.
    fn inner(&self) -> &'a [u8] {
        &self.text[1..self.text.len() - 1]
    }

    fn is_text(&self, expected: &str) -> bool {
        if !self.is_escaped {
            return self.inner() == expected.as_bytes();
        }
        self.unescaped().is_ok_and(|plain| *plain == *expected.as_bytes())
    }

    /// A text's own bytes; itself where it means no characters.
    pub(super) fn unescaped(self) -> Result<Cow<'a, [u8]>, Json<'a>> {
        if !self.is_escaped {
            return Ok(Cow::Borrowed(self.inner()));
        }
        let mut plain = Vec::with_capacity(self.text.len());
        unescape(self.inner(), &mut plain).map_err(|_| self).map(|()| Cow::Owned(plain))
    }

    /// A text's own bytes, anything else as it stands there. `scratch` holds what had to be unescaped.
    pub(super) fn plain<'b>(&self, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], Reason>
    where
        'a: 'b,
    {
        match self.kind {
            Kind::Text if self.is_escaped => {
                scratch.clear();
                unescape(self.inner(), scratch)?;
                Ok(scratch)
            }
            Kind::Text => Ok(self.inner()),
            _ => Ok(self.text),
        }
    }
}

/// Every position and count fits: [`Outline::read`] takes no longer text.
fn short(number: usize) -> u32 {
    u32::try_from(number).expect("a text has less than 4 GB")
}

fn skip_spaces(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

fn number_end(text: &[u8], start: usize) -> Option<usize> {
    let digits = |mut at: usize| {
        let first = at;
        while text.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        (at > first).then_some(at)
    };
    let mut at = start + usize::from(text.get(start) == Some(&b'-'));
    at = if text.get(at) == Some(&b'0') { at + 1 } else { digits(at)? };
    if text.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let is_signed = matches!(text.get(at + 1), Some(b'+' | b'-'));
        at = digits(at + 1 + usize::from(is_signed))?;
    }
    Some(at)
}

fn hexadecimal(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at + 4)?;
    digits.iter().try_fold(0, |number, &digit| Some(number << 4 | char::from(digit).to_digit(16)?))
}

/// Appends what a text's inside means.
fn unescape(inner: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut rest = inner;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let length = match rest[at + 1] {
            b'u' => {
                let (character, length) = escaped_character(&rest[at..])?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                length
            }
            letter => {
                out.push(match letter {
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    itself => itself,
                });
                2
            }
        };
        rest = &rest[at + length..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// The character of `\uXXXX`, or of a pair of surrogates, at the beginning, and how long that is.
fn escaped_character(text: &[u8]) -> Result<(char, usize), Reason> {
    let unit = hexadecimal(text, 2).ok_or(Reason::LoneSurrogate)?;
    if let Some(character) = char::from_u32(unit) {
        return Ok((character, 6));
    }
    let is_followed = (0xD800..0xDC00).contains(&unit) && text.get(6..8) == Some(&b"\\u"[..]);
    let low = if is_followed { hexadecimal(text, 8) } else { None };
    let low = low.filter(|low| (0xDC00..0xE000).contains(low)).ok_or(Reason::LoneSurrogate)?;
    let character = char::from_u32(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00));
    Ok((character.ok_or(Reason::LoneSurrogate)?, 12))
}

/// Deeper than this PostgreSQL's own parser may run out of stack, and the rows beside this one would go with it.
const DEPTH_MAX: usize = 1000;

/// Whether `jsonb` takes this: it is stricter than JSON.
pub(super) fn check_storable(text: &[u8]) -> Result<(), Reason> {
    std::str::from_utf8(text).map_err(|_| Reason::NotUtf8)?;
    let (mut depth, mut deepest, mut at) = (0_usize, 0, 0);
    let mut is_inside_text = false;
    while let Some(&byte) = text.get(at) {
        at += match (is_inside_text, byte) {
            (_, b'"') => {
                is_inside_text = !is_inside_text;
                1
            }
            (true, b'\\') if text.get(at + 1) == Some(&b'u') => match escaped_character(&text[at..])? {
                ('\0', _) => return Err(Reason::Nul),
                (_, length) => length,
            },
            (true, b'\\') => 2,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
                1
            }
            (false, b'}' | b']') => {
                depth = depth.saturating_sub(1);
                1
            }
            (false, b'-' | b'0'..=b'9') => {
                let end = number_end(text, at).unwrap_or(at + 1);
                check_number(&text[at..end])?;
                end - at
            }
            _ => 1,
        };
    }
    if deepest > DEPTH_MAX { Err(Reason::TooDeep) } else { Ok(()) }
}

/// `numeric` has at most 131,072 digits before the decimal point and 16,383 after it.
fn check_number(number: &[u8]) -> Result<(), Reason> {
    let text = std::str::from_utf8(number).map_err(|_| Reason::NotUtf8)?;
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().map_err(|_| Reason::NumberTooLarge)?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let length = |digits: &str| i64::try_from(digits.len()).map_err(|_| Reason::NumberTooLarge);
    let fits = length(whole)?.saturating_add(exponent) <= 131_072
        && length(fraction)?.saturating_sub(exponent) <= 16_383;
    if fits { Ok(()) } else { Err(Reason::NumberTooLarge) }
}

#[cfg(test)]
pub(crate) mod tests;
