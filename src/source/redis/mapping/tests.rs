//! The mapper as an operator sees it: mappings are written as in the file.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::keyspace::{Gone, Part, Write};

const ENDS: &str = "[pipeline.p]\nsource = \"redis://h\"\ntarget = \"host=b\"\n";

/// The mapper of a pipeline whose section `redis` is `keys`.
fn configured(keys: &str) -> Result<Arc<Mapper>> {
    let config = Config::parse(Path::new("/p.toml"), &format!("{ENDS}[pipeline.p.redis]\n{keys}"))?;
    Ok(config.pipelines[0].mapper.clone().unwrap())
}

fn chat() -> Arc<Mapper> {
    configured("preset = \"chat-sessions\"").unwrap()
}

/// One table `t`, replaced, its key `k`, with these columns beside that, from keys `k:{a}` of a type.
fn one_table(holds: &str, each: &str, columns: &str) -> Result<Arc<Mapper>> {
    configured(&format!(
        "key = [{{ pattern = \"k:{{a}}\", type = \"{holds}\", table = [{{ table = \"t\", {each} key = [\"k\", \"c\"], \
         column = [{{ name = \"k\", from = \"{{a}}\" }}, {columns}] }}] }}]"
    ))
}

fn key(name: &str) -> Key {
    Key::new(0, name.to_owned())
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned().into())
}

fn bytes(text: &str) -> Bytes {
    text.to_owned().into()
}

fn rows(part: &Part) -> Vec<String> {
    (0..part.rows.len()).map(|index| String::from_utf8(part.rows.line(index).to_vec()).unwrap()).collect()
}

/// Rows of the table called so, and all misfits as `at: reason`.
fn mapped(mapper: &Mapper, name: &str, value: &Value, table: &str) -> (Vec<String>, Vec<String>) {
    let entry = mapper.map(&key(name), value, None);
    let index = mapper.layout().tables.iter().position(|known| known.name.name == table).unwrap();
    let part = entry.parts.iter().find(|part| part.table == index);
    let misfits = entry.misfits.iter().map(|misfit| format!("{}: {}", misfit.at, misfit.reason));
    (part.map(rows).unwrap_or_default(), misfits.collect())
}

fn refused(config: Result<Arc<Mapper>>) -> (String, String) {
    let error = config.expect_err("the mapping is wrong");
    assert_eq!(error.kind(), crate::error::Kind::Config);
    (error.what().to_owned(), error.hint_text().expect("every error has a hint").to_owned())
}

#[test]
fn a_chat_session_becomes_four_tables() {
    let mapper = chat();
    let names: Vec<&str> = mapper.layout().tables.iter().map(|table| table.name.name.as_str()).collect();
    assert_eq!(names, ["users", "groups", "sessions", "messages"]);
    let value = text(
        r#"{"user_id": 12345678901234567890, "group": {"id": "g1", "name": "All\tof us"}, "created_at": 1763775068,
            "metadata": {"a": [1,  2]}, "messages": [
            {"id": 7, "sender_id": "u1", "sender_name": "Ann", "content": "hi\nthere", "timestamp": "2025-11-22T01:31:08"},
            {"from": "u2", "text": "hi"}, {"from": "u2", "text": "hi"}, {"text": "nobody"}, {"from": "u2", "text": "\ud800"}]}"#,
    );
    let entry = mapper.map(&key("session:s:1"), &value, Some(1_763_861_468_000));
    let all: Vec<Vec<String>> = entry.parts.iter().map(rows).collect();
    assert_eq!(all[0], ["u1\tAnn\n", "u2\t\\N\n", "12345678901234567890\t\\N\n"]);
    assert_eq!(all[1], ["g1\tAll\\tof us\n"]);
    assert_eq!(
        all[2],
        [
            "s:1\t12345678901234567890\tg1\t\\N\t\\N\t2025-11-22T01:31:08Z\t\\N\t2025-11-23T01:31:08Z\t{\"a\": [1,  2]}\n"
        ]
    );
    assert_eq!(all[3][0], "s:1\t7\t0\tu1\thi\\nthere\t\\N\t2025-11-22T01:31:08Z\t\\N\n");
    assert_eq!(all[3].len(), 3);
    let hashes: Vec<&str> = all[3][1..].iter().map(|row| row.split('\t').nth(1).unwrap()).collect();
    assert!(hashes[0] != hashes[1] && hashes.iter().all(|hash| hash.len() == 64), "{hashes:?}");
    let misfits: Vec<String> = entry.misfits.iter().map(|one| format!("{} {}", one.at, one.reason)).collect();
    assert_eq!(
        misfits,
        [
            "$.messages[3] column \"sender_id\": required, and there is none",
            "$.messages[4] column \"content\": holds half of a surrogate pair, which is no character",
        ]
    );
    assert_eq!(entry.misfits[0].table, Some(3));
    assert_eq!(entry.misfits[0].content, r#"{"text": "nobody"}"#);
    assert_eq!(entry.parts[3].anchor, b"s:1\n");
    assert_eq!(entry.parts[0].anchor, b"");
    let messages = &mapper.layout().tables[3];
    assert_eq!((messages.key.as_slice(), messages.anchor.as_slice()), (&[0, 1][..], &[0][..]));
    let reference = messages.columns[0].reference.as_ref().unwrap();
    assert_eq!((reference.table, reference.by.as_str(), reference.take.as_str()), (2, "session_key", "id"));
    assert_eq!((messages.write, &messages.gone), (Write::Replace, &Gone::Keep));
    assert!(matches!(mapper.layout().tables[2].gone, Gone::Mark { .. }));
}

#[test]
fn a_key_that_is_gone_has_anchors_and_no_rows() {
    let mapper = chat();
    let entry = mapper.gone(&key("session:a\tb"));
    let parts: Vec<(usize, &[u8], usize)> =
        entry.parts.iter().map(|part| (part.table, part.anchor.as_slice(), part.rows.len())).collect();
    assert_eq!(parts, [(0, &b""[..], 0), (1, b"", 0), (2, b"a\\tb\n", 0), (3, b"a\\tb\n", 0)]);
    assert_eq!(mapper.gone(&key("other:1")).parts, []);
    assert!(mapper.matches(&key("session:x")) && !mapper.matches(&key("session:")));
    assert!(!mapper.matches(&Key::new(1, "session:x")), "another database is not mapped");
    assert_eq!(
        (mapper.globs(), mapper.prefixes()),
        (vec![b"session:*".to_vec()], vec![b"session:".to_vec()])
    );
    assert!(mapper.reads_expiry());
}

#[test]
fn values_that_fit_as_a_whole_or_not_at_all() {
    let mapper = chat();
    for (value, reason) in [
        (text("{\"messages\": [}"), "not JSON"),
        (text(""), "not JSON"),
        (Value::List(vec![bytes("x")]), "holds a list, and the mapping reads a string"),
        (Value::Other("graph".into()), "holds a graph, and the mapping reads a string"),
        (Value::Json(bytes("{}")), "holds a ReJSON-RL, and the mapping reads a string"),
    ] {
        let entry = mapper.map(&key("session:x"), &value, None);
        let [misfit] = entry.misfits.as_slice() else { panic!("{:?}", entry.misfits) };
        assert_eq!((misfit.table, misfit.at.as_str(), misfit.reason.as_str()), (None, "$", reason));
        assert_eq!(entry.parts.len(), 4);
        assert!(entry.parts.iter().all(|part| part.rows.is_empty()));
        assert_eq!(entry.parts[2].anchor, b"x\n");
    }
    let (messages, misfits) = mapped(&mapper, "session:x", &text("{\"messages\": 3}"), "messages");
    assert_eq!(messages, [""; 0]);
    let reason = "$.messages: neither a list nor an object, where rows are made of each element";
    assert_eq!(misfits, [reason, reason], "of users and of messages");
}

#[test]
fn keys_that_are_no_text_are_misfits() {
    let mapper = chat();
    for (name, reason) in [
        (&b"session:\xff"[..], "not UTF-8"),
        (b"session:a\0", "holds a NUL character, which PostgreSQL does not store"),
    ] {
        let name = Key::new(0, name.to_vec());
        let entry = mapper.map(&name, &text("{}"), None);
        assert_eq!(
            (entry.misfits[0].at.as_str(), entry.misfits[0].reason.as_str()),
            ("{session_id}", reason)
        );
        assert!(entry.parts.is_empty() && mapper.gone(&name).parts.is_empty());
    }
}

#[test]
fn one_bad_element_spoils_itself_alone() {
    let mapper = one_table(
        "json",
        "each = \"$.l\",",
        "{ name = \"c\", from = \"@.c\" }, { name = \"j\", from = \"@.j\", as = \"json\" }, \
         { name = \"t\", from = \"@.t\", as = \"epoch_seconds\" }",
    )
    .unwrap();
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let mut value =
        br#"{"l":[{"c":1},{"c":"\u0000"},{"c":null},{"c":2,"j":"\u0000"},{"c":3,"t":"soon"},{"c":1},7,"#
            .to_vec();
    value.extend_from_slice(b"{\"c\":\"\xff\"},{\"c\":4,\"j\":");
    value.extend_from_slice(deep.as_bytes());
    value.extend_from_slice(b"},{\"c\":9007199254740993.00,\"x\":\"\xff\",\"x\":1}]}");
    let (rows, misfits) = mapped(&mapper, "k:a", &Value::Text(value.into()), "t");
    assert_eq!(rows, ["a\t1\t\\N\t\\N\n", "a\t9007199254740993.00\t\\N\t\\N\n"]);
    assert_eq!(
        misfits,
        [
            "$.l[1]: column \"c\": holds a NUL character, which PostgreSQL does not store",
            "$.l[2]: column \"c\": required, and there is none",
            "$.l[3]: column \"j\": holds a NUL character, which PostgreSQL does not store",
            "$.l[4]: column \"t\": not a time as the mapping says it",
            "$.l[5]: another row of this value has the same key",
            "$.l[6]: column \"c\": required, and there is none",
            "$.l[7]: column \"c\": not UTF-8",
            "$.l[8]: column \"j\": nested deeper than 1000 levels",
        ]
    );
}

#[test]
fn every_type_of_value_has_its_rows() {
    let list = || vec![bytes("{\"c\":1}"), bytes("x")];
    let pairs = || vec![(bytes("f"), bytes("{\"c\":2}")), (bytes("g"), bytes("v"))];
    for (holds, each, columns, value, expected) in [
        ("string", "", "{ name = \"c\", from = \"{value}\" }", text("{\"c\":1}"), vec!["a\t{\"c\":1}\n"]),
        (
            "json",
            "",
            "{ name = \"c\", from = [\"$.x\", \"$.c[-1]\"] }",
            text("{\"x\":null,\"c\":[1,2]}"),
            vec!["a\t2\n"],
        ),
        (
            "rejson",
            "each = \"$\",",
            "{ name = \"c\", from = \"@\" }",
            Value::Json(bytes("[true,\"t\"]")),
            vec!["a\ttrue\n", "a\tt\n"],
        ),
        (
            "json",
            "each = \"$\",",
            "{ name = \"c\", from = \"@\" }",
            text("{\"m\":1,\"n\":2,\"m\":3}"),
            vec!["a\t3\n", "a\t2\n"],
        ),
        ("hash", "", "{ name = \"c\", from = \"$.f.c\" }", Value::Hash(pairs()), vec!["a\t2\n"]),
        (
            "hash",
            "each = \"$\",",
            "{ name = \"c\", from = \"{field}\" }, { name = \"v\", from = \"{value}\" }",
            Value::Hash(pairs()),
            vec!["a\tf\t{\"c\":2}\n", "a\tg\tv\n"],
        ),
        (
            "list",
            "",
            "{ name = \"c\", from = \"{index}\" }, { name = \"v\", from = \"{value}\" }",
            Value::List(list()),
            vec!["a\t0\t{\"c\":1}\n", "a\t1\tx\n"],
        ),
        ("list", "", "{ name = \"c\", from = \"@.c\" }", Value::List(list()), vec!["a\t1\n"]),
        (
            "set",
            "",
            "{ name = \"c\", from = \"{member}\" }",
            Value::Set(list()),
            vec!["a\t{\"c\":1}\n", "a\tx\n"],
        ),
        (
            "zset",
            "",
            "{ name = \"c\", from = \"{member}\" }, { name = \"v\", from = \"{score}\" }",
            Value::SortedSet(vec![(bytes("m"), bytes("-inf"))]),
            vec!["a\tm\t-inf\n"],
        ),
        (
            "stream",
            "",
            "{ name = \"c\", from = \"{id}\" }, { name = \"v\", from = \"@.f\" }, { name = \"w\", from = \"@.f.c\" }",
            Value::Stream(vec![(bytes("1-0"), pairs())]),
            vec!["a\t1-0\t{\"c\":2}\t2\n"],
        ),
    ] {
        let mapper = one_table(holds, each, columns).unwrap();
        let (rows, misfits) = mapped(&mapper, "k:a", &value, "t");
        assert_eq!(rows, expected, "{holds} {columns}");
        let is_spoiled = columns.contains("@.c") && holds == "list";
        assert_eq!(misfits.len(), usize::from(is_spoiled), "{misfits:?}");
    }
}

#[test]
fn the_same_said_twice_is_two_rows_however_it_is_written() {
    let mapper = one_table(
        "json",
        "each = \"$\",",
        "{ name = \"c\", from = [\"@.id\", \"{content_hash}\"] }, { name = \"o\", from = \"{occurrence}\" }",
    )
    .unwrap();
    let (one, misfits) =
        mapped(&mapper, "k:a", &text(r#"[{"t":"x","u":1},{"t":"y"},{"u":1,"t":"\u0078"}]"#), "t");
    assert_eq!(misfits, [""; 0]);
    let (other, _) = mapped(&mapper, "k:a", &text(r#"[{"id":5},{"u":1, "t":"x"},{"t":"x","u":1}]"#), "t");
    assert!(one[0] != one[2] && one[0].ends_with("\t0\n") && one[2].ends_with("\t1\n"), "{one:?}");
    assert_eq!(
        other,
        ["a\t5\t0\n", &one[0], &one[2]],
        "what an element is called does not follow from its place"
    );
}

#[test]
fn shared_rows_are_there_once() {
    for (write, expected) in [("ensure", vec!["1\tx\n", "2\ty\n"]), ("upsert", vec!["2\ty\n", "1\tz\n"])] {
        let mapper = configured(&format!(
            "key = [{{ pattern = \"k:{{a}}\", table = [{{ table = \"t\", each = \"$\", write = \"{write}\", key = [\"c\"], \
             column = [{{ name = \"c\", from = \"@.c\" }}, {{ name = \"v\", from = \"@.v\" }}] }}] }}]"
        ))
        .unwrap();
        let value = text(r#"[{"c":1,"v":"x"},{"c":2,"v":"y"},{"c":1,"v":"z"}]"#);
        assert_eq!(
            mapped(&mapper, "k:a", &value, "t"),
            (expected.iter().map(ToString::to_string).collect(), vec![])
        );
        let part = &mapper.map(&key("k:a"), &value, None).parts[0];
        assert_eq!(part.rows.identities.len(), 2);
        assert_ne!(part.rows.identities[0], part.rows.identities[1]);
    }
}

#[test]
fn a_key_that_two_patterns_match_has_the_parts_of_both() {
    let table = |name: &str| {
        format!(
            "table = [{{ table = \"{name}\", key = [\"k\"], column = [{{ name = \"k\", from = \"{{key}}\" }}] }}]"
        )
    };
    let both = |one: &str, other: &str| {
        configured(&format!(
            "key = [{{ pattern = \"k:*\", type = \"string\", {} }}, {{ pattern = \"k:a*\", type = \"string\", {} }}]",
            table(one),
            table(other)
        ))
        .unwrap()
    };
    let mapper = both("one", "other");
    assert_eq!(mapper.map(&key("k:a"), &text(""), None).parts.len(), 2);
    assert_eq!(mapper.map(&key("k:b"), &text(""), None).parts.len(), 1);
    assert_eq!(mapper.prefixes(), [b"k:".to_vec()], "a server refuses prefixes that overlap");
    let entry = both("one", "one").map(&key("k:a"), &text(""), None);
    assert_eq!((entry.parts.len(), entry.parts[0].rows.len(), entry.misfits.len()), (1, 1, 1));
}

#[test]
fn another_mapping_has_another_digest() {
    let of = |columns: &str| one_table("hash", "", columns).unwrap().digest();
    let one = of("{ name = \"c\", from = \"$.x\" }");
    assert_eq!(one, of("{ name = \"c\", from = \"$.x\", type = \"integer\" }"));
    for other in [
        "{ name = \"c\", from = \"$.y\" }",
        "{ name = \"c\", from = \"$.x\", default = \"\" }",
        "{ name = \"c\", from = \"$.x\", as = \"json\" }",
        "{ name = \"c\", from = [\"$.x\", \"$.y\"] }",
    ] {
        assert_ne!(one, of(other), "{other}");
    }
}

#[test]
fn the_tables_can_be_made_by_hand() {
    let sql = chat().create_tables();
    for part in [
        "create table \"public\".\"users\" (\n    \"id\" bigint generated always as identity primary key, -- what others refer to\n    \"external_id\" text not null",
        "unique (\"session_key\")\n);\n",
        "\"session_id\" bigint not null references \"public\".\"sessions\" (\"id\"), -- {session_id}\n",
        "primary key (\"session_id\", \"message_key\")\n);\n",
        "\"expired_at\" timestamptz, -- when the key expired\n",
        "\"metadata\" jsonb, -- $.metadata, else $.meta\n",
        "-- The rows of a key stay when the key is gone, marked.\ncreate table \"public\".\"sessions\"",
    ] {
        assert!(sql.contains(part), "{part}\n{sql}");
    }
}

#[test]
fn wrong_columns_are_refused_with_place_and_hint() {
    for (columns, what, hint) in [
        ("{ name = \"c\", from = \"{aa}\" }", "{aa} is not known here", "did you mean {a}?"),
        (
            "{ name = \"c\", from = \"{field}\" }",
            "{field} is not known here",
            "{a}, {key}, {database}, {expires_at}",
        ),
        ("{ name = \"c\", from = \"@.c\" }", "speaks of an element", "set each"),
        ("{ name = \"c\", from = \"{index}\" }", "speaks of an element", "set each"),
        ("{ name = \"c\", from = \"text\" }", "neither a path nor a word", "default without from"),
        ("{ name = \"c\", from = \"$..c\" }", "a name is empty", "a path is like"),
        ("{ name = \"c\" }", "nothing says where column \"c\" comes from", "set from"),
        (
            "{ name = \"c\", from = \"$.c\", required = true, default = \"x\" }",
            "never missing",
            "leave out one",
        ),
        ("{ name = \"c\", from = \"{key}\", as = \"json\" }", "{key} is not converted", "leave out as"),
        ("{ name = \"k\", from = \"$.c\" }", "column \"k\" is there twice", "as a list"),
        ("{ name = \"cc\", from = \"$.c\" }", "there is no column \"c\"", "did you mean"),
        (
            "{ name = \"c\", from = \"$.c\", reference = { table = \"elsewhere\", by = \"x\" } }",
            "refers to public.elsewhere, which no mapping fills",
            "tables that are filled: public.t",
        ),
        (
            "{ name = \"c\", from = \"$.c\", reference = { table = \"t\", by = \"c\" } }",
            "which is not its whole key",
            "told apart by k, c",
        ),
        (
            "{ name = \"c\", from = \"$.c\", requird = true }",
            "unknown key \"requird\" in [pipeline.p.redis.key.0.table.0.column.1]",
            "did you mean \"required\"?",
        ),
        (
            "{ name = \"c\", from = 3 }",
            "from must be a text in quotation marks, or a list of texts, not an integer",
            "for example from",
        ),
        (
            "{ name = \"c\", from = \"$.c\", as = \"epoch_second\" }",
            "as must be",
            "did you mean \"epoch_seconds\"?",
        ),
    ] {
        let (found, hinted) = refused(one_table("json", "", columns));
        assert!(found.starts_with("/p.toml:5: ") && found.contains(what), "{found}");
        assert!(hinted.contains(hint), "{hinted}");
    }
    for (holds, each, columns) in [
        ("string", "each = \"$\",", "{ name = \"c\", from = \"{value}\" }"),
        ("list", "each = \"$.x\",", "{ name = \"c\", from = \"{value}\" }"),
        ("list", "", "{ name = \"c\", from = \"$[0]\" }"),
        ("hash", "", "{ name = \"c\", from = \"$\" }"),
        ("stream", "", "{ name = \"c\", from = \"@\" }"),
        ("json", "each = \"@.x\",", "{ name = \"c\", from = \"@\" }"),
        ("json", "gone = \"mark\", expired_at = \"c\",", "{ name = \"c\", from = \"$.c\" }"),
        ("json", "write = \"ensure\", gone = \"mark\",", "{ name = \"c\", from = \"$.c\" }"),
        ("json", "skip_without = [\"d\"],", "{ name = \"c\", from = \"$.c\" }"),
    ] {
        refused(one_table(holds, each, columns));
    }
}

#[test]
fn two_keys_never_own_the_same_rows() {
    let of = |databases: &str, pattern: &str, columns: &str| {
        configured(&format!(
            "databases = {databases}\nkey = [{{ pattern = \"{pattern}\", table = [{{ table = \"t\", key = [\"x\"], \
             column = [{{ name = \"x\", from = \"$.x\" }}{columns}] }}] }}]"
        ))
    };
    let a = ", { name = \"a\", from = \"{a}\" }";
    let b = ", { name = \"b\", from = \"{b}\" }";
    let whole = ", { name = \"w\", from = \"{key}\" }";
    let database = ", { name = \"d\", from = \"{database}\" }";
    for (databases, pattern, columns, missing) in [
        ("[0]", "k:{a}:{b}", a.to_owned(), Some("{b}")),
        ("[0]", "k:{a}:{b}", format!("{a}{b}"), None),
        ("[0]", "k:{a}:{b}", whole.to_owned(), None),
        ("[0]", "k:{a}", ", { name = \"a\", from = [\"{a}\", \"$.y\"] }".to_owned(), Some("{a}")),
        ("[0]", "k:{a}:*", a.to_owned(), Some("{key}")),
        ("[0]", "k", String::new(), Some("{key}")),
        ("[0, 1]", "k:{a}", a.to_owned(), Some("{database}")),
        ("[1, 0, 1]", "k:{a}", format!("{a}{database}"), None),
        ("[1, 1]", "k:{a}", a.to_owned(), None),
    ] {
        let mapper = of(databases, pattern, &columns);
        match missing {
            Some(missing) => assert!(refused(mapper).0.contains(missing), "{pattern} {columns}"),
            None => assert!(mapper.is_ok(), "{pattern} {columns}"),
        }
    }
    let table = "table = [{ table = \"t\", key = [\"a\"], column = [{ name = \"a\", from = \"{a}\" }] }]";
    let twice = configured(&format!(
        "key = [{{ pattern = \"k:{{a}}\", {table} }}, {{ pattern = \"l:{{a}}\", {table} }}]"
    ));
    assert!(refused(twice).0.contains("keys of both patterns would own the same rows"));
}

#[test]
fn tables_are_in_the_order_of_their_references() {
    let table = |name: &str, to: &str, more: &str| {
        let reference = if to.is_empty() {
            String::new()
        } else {
            format!(", reference = {{ table = \"{to}\", by = \"k\" }}")
        };
        format!(
            "{{ table = \"{name}\", key = [\"k\"], {more} column = [{{ name = \"k\", from = \"{{key}}\" }}, \
             {{ name = \"r\", from = \"$.r\"{reference} }}] }}"
        )
    };
    let of = |tables: &[String]| {
        configured(&format!("key = [{{ pattern = \"*\", table = [{}] }}]", tables.join(", ")))
    };
    let mapper = of(&[table("c", "b", ""), table("b", "a", ""), table("a", "", "")]).unwrap();
    let names: Vec<&str> = mapper.layout().tables.iter().map(|table| table.name.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let entry = mapper.map(&key("x"), &text("{\"r\":1}"), None);
    assert_eq!(entry.parts.iter().map(|part| part.table).collect::<Vec<_>>(), [0, 1, 2]);
    let circle = of(&[table("a", "b", ""), table("b", "a", ""), table("c", "", "")]);
    assert!(refused(circle).0.contains("in a circle: public.a, public.b"));
    let stays = of(&[table("a", "", ""), table("b", "a", "gone = \"keep\",")]);
    assert!(
        refused(stays)
            .0
            .contains("refers to rows of public.a that are removed with their keys, and its own stay")
    );
    let near = of(&[table("users", "", ""), table("b", "user", "")]);
    assert_eq!(refused(near).1, "did you mean public.users?");
    let differs = of(&[table("a", "", ""), table("b", "a", ""), table("b", "", "")]);
    assert!(refused(differs).0.contains("column \"r\" does not refer to the same"));
}

proptest! {
    /// COPY's reader gets back what was there.
    #[test]
    fn lines_give_back_the_values(values in prop::collection::vec(any::<String>(), 1..4)) {
        let mapper = one_table("list", "", "{ name = \"c\", from = \"{index}\" }, { name = \"v\", from = \"{value}\" }").unwrap();
        let items = values.iter().map(|value| bytes(value)).collect();
        let entry = mapper.map(&key("k:a"), &Value::List(items), None);
        let kept: Vec<&String> = values.iter().filter(|value| !value.contains('\0')).collect();
        prop_assert_eq!(entry.misfits.len(), values.len() - kept.len());
        for (row, value) in rows(&entry.parts[0]).iter().zip(kept) {
            let fields: Vec<&str> = row.strip_suffix('\n').unwrap().split('\t').collect();
            prop_assert_eq!(fields.len(), 3);
            prop_assert!(!fields[2].contains(['\n', '\r']));
            let mut back = String::new();
            let mut characters = fields[2].chars();
            while let Some(character) = characters.next() {
                back.push(match character {
                    '\\' => match characters.next().unwrap() { 'n' => '\n', 'r' => '\r', 't' => '\t', other => other },
                    plain => plain,
                });
            }
            prop_assert_eq!(&back, value);
        }
    }

    #[test]
    fn any_value_is_survived(value: Vec<u8>) {
        let entry = chat().map(&key("session:x"), &Value::Text(value.into()), None);
        prop_assert!(entry.parts.len() == 4 && entry.misfits.len() < 2);
    }
}
