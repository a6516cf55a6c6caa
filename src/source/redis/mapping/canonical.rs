//! What a document says, whatever way it is written: the same for other spaces, another order of names, other escapes.
//!
//! It is what tells messages apart that bring no id. Numbers are taken as they stand there: `1` and `1.0` differ.

use std::borrow::Cow;

use super::json::{Kind, Outline};

/// Whatever is nested deeper is taken as it stands there.
const DEPTH_MAX: usize = 64;

/// Appends the canonical form of the value at `index`.
pub(super) fn put(outline: &Outline, text: &[u8], index: usize, out: &mut Vec<u8>) {
    put_value(outline, text, index, 0, out);
}

fn put_value(outline: &Outline, text: &[u8], index: usize, depth: usize, out: &mut Vec<u8>) {
    match outline.kind(index) {
        Kind::Object if depth < DEPTH_MAX => put_object(outline, text, index, depth, out),
        Kind::List if depth < DEPTH_MAX => {
            out.push(b'[');
            for item in outline.items(index) {
                put_value(outline, text, item, depth + 1, out);
                out.push(b',');
            }
            out.push(b']');
        }
        Kind::Text => put_sized(&plain(outline, text, index), out),
        _ => out.extend_from_slice(outline.json(text, index).text),
    }
}

fn put_object(outline: &Outline, text: &[u8], index: usize, depth: usize, out: &mut Vec<u8>) {
    let mut fields: Vec<(Cow<'_, [u8]>, usize)> =
        outline.fields(index).map(|(name, value)| (plain(outline, text, name), value)).collect();
    // Of equal names the last counts: sorting keeps their order.
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    out.push(b'{');
    for (place, (name, value)) in fields.iter().enumerate() {
        if fields.get(place + 1).is_some_and(|(next, _)| next == name) {
            continue;
        }
        put_sized(name, out);
        put_value(outline, text, *value, depth + 1, out);
        out.push(b',');
    }
    out.push(b'}');
}

/// A text that means no characters stands for itself.
fn plain<'a>(outline: &Outline, text: &'a [u8], index: usize) -> Cow<'a, [u8]> {
    outline.json(text, index).unescaped().unwrap_or_else(|json| Cow::Borrowed(json.text))
}

fn put_sized(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(&(text.len() as u64).to_be_bytes());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::source::redis::mapping::json::tests::any_json;

    fn canonical(text: &str) -> Vec<u8> {
        let mut outline = Outline::default();
        outline.read(text.as_bytes()).unwrap();
        let mut out = Vec::new();
        put(&outline, text.as_bytes(), 0, &mut out);
        out
    }

    #[test]
    fn only_what_it_says_counts() {
        for (one, other, is_equal) in [
            (r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [true, null],\n\"a\":1}", true),
            (r#"{"a":"\u0041\/"}"#, r#"{"a":"A/"}"#, true),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#, true),
            (r#"{"a":1}"#, r#"{"a":1.0}"#, false),
            (r#"{"a":"1"}"#, r#"{"a":1}"#, false),
            (r#"["a","b"]"#, r#"["b","a"]"#, false),
            (r#"["a,b"]"#, r#"["a","b"]"#, false),
            (r#"{"a":null}"#, "{}", false),
            ("[[]]", "[]", false),
        ] {
            assert_eq!(canonical(one) == canonical(other), is_equal, "{one} {other}");
        }
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(canonical(&deep).len() > 100_000);
    }

    proptest! {
        #[test]
        fn equal_documents_are_equal_and_others_are_not(one in any_json(), other in any_json()) {
            let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            let pretty = serde_json::to_string_pretty(&one).unwrap();
            prop_assert_eq!(canonical(&one.to_string()), canonical(&pretty));
            let is_equal = parsed(&one.to_string()) == parsed(&other.to_string());
            prop_assert_eq!(canonical(&one.to_string()) == canonical(&other.to_string()), is_equal);
        }
    }
}
