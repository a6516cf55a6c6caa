use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Documents of every kind of value, texts of any characters among them.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec(("[a-c\"\\\\é]{0,2}", inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn read(text: &[u8]) -> Result<Outline, Malformed> {
    let mut outline = Outline::default();
    outline.read(text).map(|()| outline)
}

/// Whether what is outlined at `index` is what serde has read.
fn agrees(outline: &Outline, text: &[u8], index: usize, expected: &Value) -> bool {
    let json = outline.json(text, index);
    let mut scratch = Vec::new();
    match expected {
        Value::Object(fields) => {
            json.kind == Kind::Object
                && fields.iter().all(|(name, value)| {
                    outline.field(text, index, name).is_some_and(|at| agrees(outline, text, at, value))
                })
                && outline.field(text, index, "is not there").is_none()
        }
        Value::Array(items) => {
            json.kind == Kind::List
                && outline.items(index).count() == items.len()
                && outline.items(index).zip(items).all(|(at, item)| agrees(outline, text, at, item))
                && outline.item(index, -1)
                    == (items.len().checked_sub(1)).and_then(|last| outline.items(index).nth(last))
                && outline.item(index, i32::try_from(items.len()).unwrap()).is_none()
        }
        Value::String(expected) => {
            json.kind == Kind::Text && json.plain(&mut scratch).unwrap() == expected.as_bytes()
        }
        other => {
            let kind = match other {
                Value::Null => Kind::Null,
                Value::Bool(_) => Kind::Truth,
                _ => Kind::Number,
            };
            json.kind == kind && json.plain(&mut scratch).unwrap() == other.to_string().as_bytes()
        }
    }
}

proptest! {
    #[test]
    fn documents_are_understood_as_serde_does(document in any_json(), is_pretty: bool) {
        let text = if is_pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) };
        let text = text.unwrap();
        let outline = read(text.as_bytes()).unwrap();
        prop_assert!(agrees(&outline, text.as_bytes(), 0, &document), "{}", text);
        prop_assert_eq!(outline.json(text.as_bytes(), 0).text, text.as_bytes());
    }

    #[test]
    fn what_serde_refuses_is_refused(text in r#"[\[\]{}",:0-9eE+.\-\\untrfalse /ab]{0,12}"#) {
        let expected = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
        prop_assert_eq!(read(text.as_bytes()).is_ok(), expected, "{}", text);
    }

    #[test]
    fn a_document_with_a_slip_is_judged_as_serde_does(document in any_json(), at: prop::sample::Index, byte in "[\\[\\]{}\",:0\\\\ ]") {
        let mut text = document.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte.as_bytes()[0];
        if let Ok(text) = std::str::from_utf8(&text) {
            let expected = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
            prop_assert_eq!(read(text.as_bytes()).is_ok(), expected, "{}", text);
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>) {
        if let Ok(outline) = read(&bytes) {
            let _ = outline.json(&bytes, 0).plain(&mut Vec::new());
            let _ = check_storable(&bytes);
        }
    }

    #[test]
    fn escapes_mean_what_serde_says(units in prop::collection::vec(prop_oneof![any::<u16>(), 0xD7F0..=0xE010_u16], 0..6)) {
        let text: Vec<String> = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
        let text = format!("\"{}\"", text.concat());
        let outline = read(text.as_bytes()).unwrap();
        let mut scratch = Vec::new();
        let found = outline.json(text.as_bytes(), 0).plain(&mut scratch).map(<[u8]>::to_vec);
        match serde_json::from_str::<String>(&text) {
            Ok(expected) => prop_assert_eq!(found, Ok(expected.into_bytes())),
            Err(_) => prop_assert_eq!(found, Err(Reason::LoneSurrogate)),
        }
    }
}

#[test]
fn of_equal_names_the_last_counts_however_it_is_written() {
    let text = br#"{"a":1,"\u0061":2,"b":3}"#;
    let outline = read(text).unwrap();
    let at = outline.field(text, 0, "a").unwrap();
    assert_eq!(outline.json(text, at).text, b"2");
}

#[test]
fn depth_and_digits_are_no_danger() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let outline = read(deep.as_bytes()).unwrap();
    assert_eq!(outline.json(deep.as_bytes(), 0).text.len(), deep.len());
    assert_eq!(check_storable(deep.as_bytes()), Err(Reason::TooDeep));
    let number = b"123456789012345678901234567890.5";
    assert_eq!(read(number).unwrap().json(number, 0).text, number);
}

#[test]
fn what_jsonb_refuses_is_known() {
    for (text, expected) in [
        (&br#"{"a":"\u0000"}"#[..], Err(Reason::Nul)),
        (br#"{"\u0000":1}"#, Err(Reason::Nul)),
        (br#"["\\u0000"]"#, Ok(())),
        (br#"["\ud800"]"#, Err(Reason::LoneSurrogate)),
        (br#"["\udc00\ud800"]"#, Err(Reason::LoneSurrogate)),
        (br#"["\ud83d\ude00"]"#, Ok(())),
        (b"[\"\xff\"]", Err(Reason::NotUtf8)),
        (b"[1e131071]", Ok(())),
        (b"[1e131073]", Err(Reason::NumberTooLarge)),
        (b"[1e-16384]", Err(Reason::NumberTooLarge)),
        (b"[1e99999999999999999999]", Err(Reason::NumberTooLarge)),
        (b"[\"1e999999\", -0.5E+3]", Ok(())),
    ] {
        assert_eq!(check_storable(text), expected, "{}", String::from_utf8_lossy(text));
        assert!(read(text).is_ok());
    }
}
