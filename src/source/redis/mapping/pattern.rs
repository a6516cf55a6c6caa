//! Patterns of keys: `session:{session_id}`, `cart:{user}:{cart}`, `log:*:{day}`.
//!
//! A capture holds at least one byte and ends where the next literal begins for the first time; a literal at the end of
//! the pattern is the end of the key. Going for the first place each time never misses a match, and needs no way back:
//! whatever comes later only gains room.

use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    parts: Vec<Part>,
    /// The captures' names, in the order in which they stand.
    pub(super) captures: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    Capture,
    /// `*`: any bytes, none too.
    Any,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Pattern> {
        let wrong = |why: String| {
            Error::config(format!("\"{text}\" is no pattern of keys: {why}")).hint(
                "a pattern is text with captures and *, such as \"session:{session_id}\"; \\ before a character takes it \
                 as it is",
            )
        };
        let mut pattern = Pattern { parts: Vec::new(), captures: Vec::new() };
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '*' => pattern.open(Part::Any).map_err(wrong)?,
                '{' => {
                    let name = name(&mut characters).map_err(wrong)?;
                    if pattern.captures.contains(&name) {
                        return Err(wrong(format!("{{{name}}} stands in it twice")));
                    }
                    pattern.open(Part::Capture).map_err(wrong)?;
                    pattern.captures.push(name);
                }
                '}' | '?' | '[' => {
                    return Err(wrong(format!("{character} has no meaning here")));
                }
                '\\' => match characters.next() {
                    Some(escaped) => pattern.literal(escaped),
                    None => return Err(wrong("it ends with \\".into())),
                },
                plain => pattern.literal(plain),
            }
        }
        if pattern.parts.is_empty() { Err(wrong("it is empty".into())) } else { Ok(pattern) }
    }

    fn literal(&mut self, character: char) {
        let mut buffer = [0; 4];
        let bytes = character.encode_utf8(&mut buffer).as_bytes();
        match self.parts.last_mut() {
            Some(Part::Literal(literal)) => literal.extend_from_slice(bytes),
            _ => self.parts.push(Part::Literal(bytes.to_vec())),
        }
    }

    fn open(&mut self, part: Part) -> Result<(), String> {
        if self.parts.last().is_some_and(|last| !matches!(last, Part::Literal(_))) {
            return Err("nothing says where a capture or * ends that another follows at once".into());
        }
        self.parts.push(part);
        Ok(())
    }

    /// Whether a part of the key is in no capture.
    pub(super) fn has_any(&self) -> bool {
        self.parts.contains(&Part::Any)
    }

    /// What the captures hold of a key, in their order; `None` where the key does not match.
    pub(super) fn captured<'k>(&self, name: &'k [u8]) -> Option<Vec<&'k [u8]>> {
        let mut captured = Vec::with_capacity(self.captures.len());
        self.split(name, |held| captured.push(held))?;
        Some(captured)
    }

    pub(super) fn matches(&self, name: &[u8]) -> bool {
        self.split(name, |_| ()).is_some()
    }

    /// Tells what each capture holds, and whether the key matches; if not, some may have been told.
    fn split<'k>(&self, name: &'k [u8], mut each: impl FnMut(&'k [u8])) -> Option<()> {
        let mut parts = self.parts.as_slice();
        let mut rest = name;
        if let [Part::Literal(literal), after @ ..] = parts {
            (rest, parts) = (rest.strip_prefix(literal.as_slice())?, after);
        }
        while let [open, after @ ..] = parts {
            let least = usize::from(*open == Part::Capture);
            let held = match after {
                [Part::Literal(last)] => {
                    let held = rest.strip_suffix(last.as_slice())?;
                    rest = &[];
                    held
                }
                [Part::Literal(next), ..] => {
                    let end = least + find(rest.get(least..)?, next)?;
                    let held = &rest[..end];
                    rest = &rest[end + next.len()..];
                    held
                }
                _ => std::mem::take(&mut rest),
            };
            if held.len() < least {
                return None;
            }
            if *open == Part::Capture {
                each(held);
            }
            parts = after.get(1..).unwrap_or_default();
        }
        rest.is_empty().then_some(())
    }

    /// The key whose only capture holds this; `None` where there are more of them, or parts in none.
    pub(super) fn filled(&self, capture: &[u8]) -> Option<Vec<u8>> {
        if self.captures.len() != 1 || self.has_any() || capture.is_empty() {
            return None;
        }
        let part = |part: &Part| match part {
            Part::Literal(literal) => literal.clone(),
            Part::Capture | Part::Any => capture.to_vec(),
        };
        Some(self.parts.iter().flat_map(part).collect())
    }

    /// As Redis' `SCAN` and `KEYS` understand patterns; takes in all that match, and perhaps keys with empty captures.
    pub(super) fn glob(&self) -> Vec<u8> {
        let mut glob = Vec::new();
        for part in &self.parts {
            let Part::Literal(literal) = part else {
                glob.push(b'*');
                continue;
            };
            for &byte in literal {
                if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'^') {
                    glob.push(b'\\');
                }
                glob.push(byte);
            }
        }
        glob
    }

    /// What each key begins with that matches; may be empty.
    pub(super) fn prefix(&self) -> &[u8] {
        match self.parts.first() {
            Some(Part::Literal(literal)) => literal,
            _ => &[],
        }
    }
}

/// A capture's name, behind its opening brace.
fn name(characters: &mut std::str::Chars<'_>) -> Result<String, String> {
    let (name, rest) = characters.as_str().split_once('}').ok_or("a { is not closed")?;
    *characters = rest.chars();
    if is_word(name) {
        Ok(name.to_owned())
    } else {
        Err("a capture's name has letters, digits and _, and begins with no digit".into())
    }
}

/// Whether this can name a capture.
pub(super) fn is_word(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(is_plain) && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn captured<'k>(pattern: &str, name: &'k str) -> Option<Vec<&'k str>> {
        let captured = Pattern::parse(pattern).unwrap().captured(name.as_bytes())?;
        Some(captured.into_iter().map(|bytes| std::str::from_utf8(bytes).unwrap()).collect())
    }

    #[test]
    fn captures_end_at_the_next_literal() {
        for (pattern, name, expected) in [
            ("session:{id}", "session:a:b", Some(vec!["a:b"])),
            ("session:{id}", "session:", None),
            ("session:{id}", "Session:a", None),
            ("cart:{user}:{cart}", "cart:u:c:d", Some(vec!["u", "c:d"])),
            ("cart:{user}:{cart}", "cart:::x", Some(vec![":", "x"])),
            ("cart:{user}:{cart}", "cart:u:", None),
            ("{a}:name", "x:name:name", Some(vec!["x:name"])),
            ("{a}:name", ":name", None),
            ("*:{a}", ":x", Some(vec!["x"])),
            ("a*b", "ab", Some(vec![])),
            ("a*b", "aXbY", None),
            ("*", "", Some(vec![])),
            ("only", "only", Some(vec![])),
            ("only", "only ", None),
            ("\\{{tag}\\}.\\*", "{u1}.*", Some(vec!["u1"])),
        ] {
            assert_eq!(captured(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn keys_are_bytes() {
        let pattern = Pattern::parse("k:{a}:{b}").unwrap();
        assert_eq!(pattern.captured(b"k:\xff\x00:\xfe"), Some(vec![&b"\xff\x00"[..], &b"\xfe"[..]]));
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "it is empty"),
            ("a{b", "not closed"),
            ("a{}", "a capture's name"),
            ("a{1b}", "a capture's name"),
            ("{a}{b}", "another follows"),
            ("{a}*", "another follows"),
            ("{a}:{a}", "{a} stands in it twice"),
            ("a?", "? has no meaning"),
            ("a}", "} has no meaning"),
            ("[ab]", "[ has no meaning"),
            ("a\\", "ends with"),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert!(error.what().contains(why) && error.hint_text().is_some(), "{text}: {error:?}");
        }
    }

    #[test]
    fn servers_get_globs_and_prefixes() {
        let pattern = Pattern::parse("a\\*[b^:{x}:*".replace('[', "\\[").as_str()).unwrap();
        assert_eq!(pattern.glob(), b"a\\*\\[b\\^:*:*");
        assert_eq!(pattern.prefix(), b"a*[b^:");
        assert_eq!(Pattern::parse("{x}:a").unwrap().prefix(), b"");
    }

    /// Tries every way to cut a key: whether there is any.
    fn matches_somehow(parts: &[Part], name: &[u8]) -> bool {
        match parts {
            [] => name.is_empty(),
            [Part::Literal(literal), rest @ ..] => {
                name.strip_prefix(literal.as_slice()).is_some_and(|name| matches_somehow(rest, name))
            }
            [open, rest @ ..] => (usize::from(*open == Part::Capture)..=name.len())
                .any(|end| matches_somehow(rest, &name[end..])),
        }
    }

    proptest! {
        #[test]
        fn the_first_place_is_always_the_right_one(
            pattern in "(ab?)?((\\{x\\}|\\*)(a|b|ab|ba)){0,2}(\\{y\\}|\\*)?", name in "[ab]{0,9}",
        ) {
            if let Ok(pattern) = Pattern::parse(&pattern) {
                let expected = matches_somehow(&pattern.parts, name.as_bytes());
                prop_assert_eq!(pattern.captured(name.as_bytes()).is_some(), expected);
            }
        }

        #[test]
        fn keys_come_back_from_their_captures(user in "[a-z]{1,4}", cart in "[a-z:]{1,6}") {
            let name = format!("cart:{user}:{cart}!");
            prop_assert_eq!(captured("cart:{user}:{cart}!", &name), Some(vec![user.as_str(), cart.as_str()]));
        }
    }
}
