//! Hand-made dumps for the parser's corners, generated texts for the scanner, and a real server whose schema must
//! survive being dumped, taken apart, replayed and dumped again.

mod server;

use std::path::Path;

use proptest::prelude::*;

use super::*;
use server::Server;

fn table(schema: &str, name: &str) -> TableName {
    TableName::new(schema, name)
}

/// A dump with this body between the fixed first and last lines.
fn dump_of(body: &str) -> String {
    format!(
        "--\n-- PostgreSQL database dump\n--\n\n\\restrict Zq9\n\n-- Dumped from database version 15.18\n\
         -- Dumped by pg_dump version 17.2 (Debian 17.2-1)\n\nSET statement_timeout = 0;\n\
         SET transaction_timeout = 0;\nSET a_setting_of_the_future = on;\nSET client_encoding = 'UTF8';\n\
         SELECT pg_catalog.set_config('search_path', '', false);\n\n{body}\n\
         --\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict Zq9\n\n"
    )
}

fn entry_text(header: &str, sql: &str) -> String {
    format!("--\n-- Name: {header}\n--\n\n{sql}\n\n")
}

/// The only entry of a dump that has just this one.
fn one_entry(header: &str, sql: &str) -> Entry {
    let mut dump = Dump::parse(&dump_of(&entry_text(header, sql))).unwrap();
    assert_eq!(dump.entries.len(), 1, "{dump:?}");
    dump.entries.remove(0)
}

#[test]
fn a_header_inside_a_body_is_a_part_of_the_body() {
    let header = "--\n-- Name: evil; Type: TABLE; Schema: public; Owner: -\n--\n";
    let complete = "-- PostgreSQL database dump complete";
    for sql in [
        format!(
            "CREATE FUNCTION public.f() RETURNS text\n    LANGUAGE sql\n    AS $_$\n{header}drop $$ ; '\n$_$;"
        ),
        format!("CREATE FUNCTION public.f() RETURNS text\n    LANGUAGE sql\n    AS '\n{header}it''s\\';"),
        format!("CREATE FUNCTION public.f(a text DEFAULT E'\\'\n{header}') RETURNS text AS $$x$$;"),
        format!("CREATE FUNCTION public.f() RETURNS text /* a /* nested\n{header}*/\n{header}*/ AS $$x$$;"),
        format!("CREATE FUNCTION public.\"f\n{header}\"\"\"() AS $$\n{complete}\n$$;"),
    ] {
        assert_eq!(one_entry("f(); Type: FUNCTION; Schema: public; Owner: -", &sql).sql, sql);
    }
}

#[test]
fn a_dump_that_was_cut_off_is_refused() {
    let whole = dump_of(&entry_text("t; Type: TABLE; Schema: public; Owner: -", "CREATE TABLE public.t ();"));
    assert!(Dump::parse(&whole).is_ok());
    let last_needed = whole.find("complete").unwrap() + "complete".len();
    for end in 0..last_needed {
        assert!(Dump::parse(&whole[..end]).is_err(), "accepted: {}", &whole[..end]);
    }
}

#[test]
fn rows_and_unknown_headers_are_refused() {
    let rows = "--\n-- Data for Name: t; Type: TABLE DATA; Schema: public; Owner: -\n--\n\n";
    assert!(Dump::parse(&dump_of(rows)).unwrap_err().what().contains("holds rows"));
    let odd = entry_text("t; Kind: TABLE", "CREATE TABLE t ();");
    assert!(Dump::parse(&dump_of(&odd)).unwrap_err().what().contains("unknown form"));
    assert!(Dump::parse(&dump_of("DROP TABLE t;")).unwrap_err().what().contains("before any entry"));
}

#[test]
fn names_may_hold_the_words_that_separate_them() {
    let name = "a; Type: VIEW; Schema: b; Owner: -";
    let entry = one_entry(
        &format!("{name}; Type: TABLE; Schema: public; Owner: -"),
        &format!("CREATE TABLE public.\"{name}\" ();"),
    );
    assert_eq!((entry.kind.clone(), entry.name.as_str()), (EntryKind::Table, name));
    assert!(entry.belongs_to(&table("public", name)));

    let schema = "s; Type: VIEW; Schema: public; Owner: -";
    let entry = one_entry(
        &format!("t; Type: TABLE; Schema: {schema}; Owner: -"),
        &format!("CREATE TABLE \"{schema}\".t ();"),
    );
    assert_eq!((entry.kind.clone(), entry.name.as_str()), (EntryKind::Table, "t"));
    assert_eq!(entry.schema.as_deref(), Some(schema));
}

#[test]
fn line_ends_that_the_header_lost_come_back_from_the_sql() {
    let entry = one_entry("a b; Type: TABLE; Schema: c d; Owner: -", "CREATE TABLE \"c\nd\".\"a\nb\" ();");
    assert_eq!(entry.table, Some(table("c\nd", "a\nb")));
    assert_eq!(entry.schema.as_deref(), Some("c\nd"));
    assert_eq!(entry.name, "a b");
}

#[test]
fn each_kind_knows_its_table() {
    let cases = [
        ("t i; Type: CONSTRAINT", "ALTER TABLE ONLY s.t\n    ADD CONSTRAINT i PRIMARY KEY (id);", "s.t", ""),
        (
            "t f; Type: FK CONSTRAINT",
            "ALTER TABLE ONLY s.t\n    ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES x.u(b) ON DELETE SET NULL;",
            "s.t",
            "x.u",
        ),
        ("i; Type: INDEX", "CREATE UNIQUE INDEX i ON ONLY s.\"T\" USING btree (a) WHERE (a > 1);", "s.T", ""),
        (
            "t g; Type: TRIGGER",
            "CREATE TRIGGER g BEFORE UPDATE OF a, b ON s.t REFERENCING OLD TABLE AS o FOR EACH ROW WHEN ((old.a > 1)) EXECUTE FUNCTION s.f();",
            "s.t",
            "",
        ),
        (
            "t g; Type: TRIGGER",
            "CREATE CONSTRAINT TRIGGER g AFTER INSERT ON s.t FROM x.u NOT DEFERRABLE FOR EACH ROW EXECUTE FUNCTION s.f();",
            "s.t",
            "x.u",
        ),
        ("t g; Type: TRIGGER", "ALTER TABLE s.t DISABLE TRIGGER g;", "s.t", ""),
        (
            "t r; Type: RULE",
            "CREATE RULE r AS\n    ON INSERT TO s.t\n   WHERE (new.a > 1) DO ( SELECT 1;\n SELECT 2;\n);",
            "s.t",
            "",
        ),
        (
            "v _RETURN; Type: RULE",
            "CREATE OR REPLACE VIEW s.v AS\n SELECT t.id FROM x.t GROUP BY t.id;",
            "s.v",
            "",
        ),
        ("t p; Type: POLICY", "CREATE POLICY p ON s.t FOR SELECT TO r USING (true);", "s.t", ""),
        ("t; Type: ROW SECURITY", "ALTER TABLE s.t ENABLE ROW LEVEL SECURITY;", "s.t", ""),
        (
            "t a; Type: DEFAULT",
            "ALTER TABLE ONLY s.t ALTER COLUMN a SET DEFAULT nextval('s.q'::regclass);",
            "s.t",
            "",
        ),
        ("q; Type: SEQUENCE OWNED BY", "ALTER SEQUENCE s.q OWNED BY s.t.a;", "s.t", ""),
        (
            "q; Type: SEQUENCE",
            "ALTER TABLE s.t ALTER COLUMN a ADD GENERATED ALWAYS AS IDENTITY (\n    SEQUENCE NAME s.q\n);",
            "s.t",
            "",
        ),
        ("q; Type: SEQUENCE", "CREATE SEQUENCE s.q\n    START WITH 1;", "", ""),
        (
            "c; Type: TABLE ATTACH",
            "ALTER TABLE ONLY s.p ATTACH PARTITION x.c FOR VALUES FROM (1) TO (2);",
            "x.c",
            "s.p",
        ),
        ("st; Type: STATISTICS", "CREATE STATISTICS s.st ON a, b FROM s.t;", "s.t", ""),
        ("t; Type: FOREIGN TABLE", "CREATE FOREIGN TABLE s.t (\n    a integer\n)\nSERVER x;", "s.t", ""),
        ("COLUMN t.a; Type: COMMENT", "COMMENT ON COLUMN s.t.a IS 'on s.u';", "s.t", ""),
        ("CONSTRAINT c ON t; Type: COMMENT", "COMMENT ON CONSTRAINT c ON s.t IS 'x';", "s.t", ""),
        ("CONSTRAINT c ON d; Type: COMMENT", "COMMENT ON CONSTRAINT c ON DOMAIN s.d IS 'x';", "", ""),
        ("MATERIALIZED VIEW m; Type: COMMENT", "COMMENT ON MATERIALIZED VIEW s.m IS 'x';", "s.m", ""),
        ("TYPE m; Type: COMMENT", "COMMENT ON TYPE s.m IS 'on table x';", "", ""),
        (
            "TABLE t; Type: ACL",
            "SET SESSION AUTHORIZATION a;\nGRANT SELECT(x) ON TABLE s.t TO b;\nRESET SESSION AUTHORIZATION;",
            "s.t",
            "",
        ),
        (
            "d c; Type: CHECK CONSTRAINT",
            "ALTER DOMAIN s.d\n    ADD CONSTRAINT c CHECK ((VALUE > 0)) NOT VALID;",
            "",
            "",
        ),
    ];
    for (header, sql, own, other) in cases {
        let entry = one_entry(&format!("{header}; Schema: s; Owner: -"), sql);
        let text = |table: Option<TableName>| table.map(|table| table.to_string()).unwrap_or_default();
        assert_eq!(
            (text(entry.table).as_str(), text(entry.referenced_table).as_str()),
            (own, other),
            "{sql}"
        );
        assert!(!matches!(entry.kind, EntryKind::Other(_)));
        assert_eq!(entry.sql, sql);
    }
}

#[test]
fn index_entries_find_the_table_of_their_index() {
    let body = entry_text(
        "t i; Type: CONSTRAINT; Schema: s; Owner: -",
        "ALTER TABLE ONLY s.t ADD CONSTRAINT i UNIQUE (a);",
    ) + &entry_text(
        "j; Type: INDEX; Schema: s; Owner: -",
        "CREATE INDEX j ON s.u USING btree (a);",
    ) + &entry_text(
        "i; Type: INDEX ATTACH; Schema: s; Owner: -",
        "ALTER INDEX s.pi ATTACH PARTITION s.i;",
    ) + &entry_text("INDEX j; Type: COMMENT; Schema: s; Owner: -", "COMMENT ON INDEX s.j IS 'x';");
    let dump = Dump::parse(&dump_of(&body)).unwrap();
    assert_eq!(dump.entries[2].table, Some(table("s", "t")));
    assert_eq!(dump.entries[3].table, Some(table("s", "u")));
}

#[test]
fn settings_go_to_every_later_entry_that_they_matter_to() {
    let body = "SET default_tablespace = '';\n\nSET default_table_access_method = heap;\n\n".to_owned()
        + &entry_text("t; Type: TABLE; Schema: s; Owner: -", "CREATE TABLE s.t ();")
        + &entry_text(
            "f(); Type: FUNCTION; Schema: s; Owner: -",
            "CREATE FUNCTION s.f() AS $$x$$;\nSELECT 1;",
        )
        + "SET default_tablespace = fast;\n\n"
        + &entry_text("u; Type: TABLE; Schema: s; Owner: -; Tablespace: fast", "CREATE TABLE s.u ();")
        + &entry_text("i; Type: INDEX; Schema: s; Owner: -; Tablespace: fast", "CREATE INDEX i ON s.t (a);");
    let dump = Dump::parse(&dump_of(&body)).unwrap();
    let scripts: Vec<String> = dump.entries.iter().map(|entry| entry.script_for(15)).collect();
    assert_eq!(
        scripts,
        [
            "SET default_tablespace = '';\nSET default_table_access_method = heap;\nCREATE TABLE s.t ();",
            "CREATE FUNCTION s.f() AS $$x$$;\nSELECT 1;",
            "SET default_table_access_method = heap;\nSET default_tablespace = fast;\nCREATE TABLE s.u ();",
            "SET default_tablespace = fast;\nCREATE INDEX i ON s.t (a);",
        ]
    );
    assert_eq!(dump.entries[0].script_for(11), "SET default_tablespace = '';\nCREATE TABLE s.t ();");
}

#[test]
fn a_server_gets_only_the_settings_it_knows() {
    let dump = Dump::parse(&dump_of("")).unwrap();
    let names =
        |major| dump.settings_for(major).into_iter().map(|setting| setting.name.clone()).collect::<Vec<_>>();
    assert_eq!(dump.pg_dump_major, Some(17));
    assert_eq!(names(15), ["statement_timeout", "client_encoding", "search_path"]);
    let all = [
        "statement_timeout",
        "transaction_timeout",
        "a_setting_of_the_future",
        "client_encoding",
        "search_path",
    ];
    assert_eq!(names(17), all);
}

#[test]
fn roles_are_those_that_must_exist() {
    let cases: [(&str, &[&str]); 9] = [
        ("GRANT SELECT ON TABLE s.t TO \"Ro\"\"le\";", &["Ro\"le"]),
        ("GRANT SELECT(a) ON TABLE s.t TO r WITH GRANT OPTION;", &["r"]),
        ("GRANT ALL ON FUNCTION s.f(a integer) TO PUBLIC;", &[]),
        ("REVOKE ALL ON SCHEMA public FROM PUBLIC;", &[]),
        ("SET SESSION AUTHORIZATION a;", &["a"]),
        ("RESET SESSION AUTHORIZATION;", &[]),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA s GRANT SELECT ON TABLES TO b;", &["a", "b"]),
        ("CREATE POLICY p ON s.t TO a, \"B\" USING ((x = 'to c'));", &["a", "B"]),
        ("CREATE USER MAPPING FOR a SERVER s;", &["a"]),
    ];
    for (statement, roles) in cases {
        assert_eq!(roles_in(statement), roles, "{statement}");
    }
    let sql =
        "REVOKE ALL ON TABLE s.t FROM o;\nSET SESSION AUTHORIZATION a;\nGRANT SELECT ON TABLE s.t TO b;";
    let entry = one_entry("TABLE t; Type: ACL; Schema: s; Owner: -", sql);
    assert_eq!(entry.roles_granted(), ["a", "b", "o"]);
}

#[test]
fn a_mirror_can_tell_what_must_not_be_replayed() {
    let cases = [
        ("p; Type: PUBLICATION", "CREATE PUBLICATION p FOR ALL TABLES;", true),
        ("p t; Type: PUBLICATION TABLE", "ALTER PUBLICATION p ADD TABLE ONLY s.t;", true),
        ("p s; Type: PUBLICATION TABLES IN SCHEMA", "ALTER PUBLICATION p ADD TABLES IN SCHEMA s;", true),
        ("s; Type: SUBSCRIPTION", "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p;", true),
        ("e; Type: EVENT TRIGGER", "CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION f();", true),
        ("PUBLICATION p; Type: COMMENT", "COMMENT ON PUBLICATION p IS 'x';", true),
        ("EVENT TRIGGER e; Type: COMMENT", "COMMENT ON EVENT TRIGGER e IS 'x';", true),
        ("TABLE publication; Type: COMMENT", "COMMENT ON TABLE s.publication IS 'x';", false),
        ("t g; Type: TRIGGER", "CREATE TRIGGER g AFTER INSERT ON s.t EXECUTE FUNCTION f();", false),
    ];
    for (header, sql, stays) in cases {
        assert_eq!(
            one_entry(&format!("{header}; Schema: -; Owner: -"), sql).stays_at_source(),
            stays,
            "{sql}"
        );
    }
}

#[test]
fn tables_are_rebuilt_keys_first() {
    let entry = |header: &str, sql: &str| entry_text(&format!("{header}; Schema: s; Owner: -"), sql);
    let body = entry("c; Type: INDEX", "CREATE INDEX c ON s.t USING btree (a);")
        + &entry("t g; Type: TRIGGER", "CREATE TRIGGER g AFTER INSERT ON s.t EXECUTE FUNCTION s.f();")
        + &entry(
            "t f; Type: FK CONSTRAINT",
            "ALTER TABLE ONLY s.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES s.u(a);",
        )
        + &entry("b; Type: INDEX", "CREATE UNIQUE INDEX b ON s.t USING btree (a);")
        + &entry(
            "u x; Type: CONSTRAINT",
            "ALTER TABLE ONLY s.u ADD CONSTRAINT x EXCLUDE USING gist (r WITH &&);",
        )
        + &entry(
            "u \"unique\"; Type: CONSTRAINT",
            "ALTER TABLE ONLY s.u ADD CONSTRAINT \"unique\" PRIMARY KEY (a);",
        )
        + &entry("INDEX c; Type: COMMENT", "COMMENT ON INDEX s.c IS 'x';")
        + &entry("m; Type: MATERIALIZED VIEW", "CREATE MATERIALIZED VIEW s.m AS SELECT 1 AS a WITH NO DATA;")
        + &entry("mi; Type: INDEX", "CREATE UNIQUE INDEX mi ON s.m USING btree (a);")
        + &entry("t h; Type: TRIGGER", "ALTER TABLE s.t DISABLE TRIGGER h;")
        + &entry("b; Type: INDEX ATTACH", "ALTER INDEX s.pb ATTACH PARTITION s.b;");
    let dump = Dump::parse(&dump_of(&body)).unwrap();
    let order = dump.rebuild_order();
    let names = |entries: &[&Entry]| entries.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
    let tables: Vec<_> =
        order.tables.iter().map(|rebuild| (rebuild.table.to_string(), names(&rebuild.entries))).collect();
    let expected =
        |table: &str, names: &[&str]| (table.to_owned(), names.iter().map(|&name| name.to_owned()).collect());
    assert_eq!(tables, [expected("s.t", &["b", "c", "t g"]), expected("s.u", &["u \"unique\"", "u x"])]);
    assert_eq!(names(&order.attachments), ["b"]);
    assert_eq!(names(&order.foreign_keys), ["t f"]);
    assert_eq!(names(&order.rest), ["INDEX c", "m", "mi", "t h"]);
}

#[test]
fn statements_end_where_the_server_ends_them() {
    let cases: [&[&str]; 12] = [
        &["select 1;", "select 2;"],
        &["select ';';", "select E'\\';', ';';", "select $$;$$, $a$;$$;$a$;"],
        &["select \";\"\"; \";", "select U&\"d;\" , U&';';", "select a$b;", "select $1;"],
        &["select /* ; /* ; */ ; */ 1;", "select 1 -- ;\n;"],
        &["create rule r as on insert to t do (select 1; select 2);", "select 3;"],
        &[
            "create function f() returns int language sql begin atomic; select 1; select case when a then 2 end; end;",
            "x;",
        ],
        &[
            "create or replace procedure p(a int default (1)) begin atomic select (case 1 when 1 then 2 end); end;",
            "x;",
        ],
        &["create function f() begin atomic select a.end, b as end; select 2; end;", "x;"],
        &["create function begin() returns int as $$begin atomic;$$;", "x;"],
        &["begin;", "create table t (a int);", "end;"],
        &["select 'a'\n'b;', tablE'c;';", "select E'a'\n  -- note\n '\\';';", "x"],
        &["select $é$;$é$, '€;';", "select 'ü' ;"],
    ];
    for expected in cases {
        assert_eq!(statements(&expected.join("\n -- between;\n/* ; */ ; ")), expected);
        assert_eq!(statements(&format!("\\restrict a;'b\n{}", expected.join("\n"))), expected);
    }
    assert_eq!(statements(" -- nothing\n ; /* open"), Vec::<&str>::new());
    assert_eq!(statements("select 'open; "), ["select 'open;"]);
    assert_eq!(statements("select a\u{a0}\n"), ["select a\u{a0}"], "space beyond ASCII is a part of names");
}

/// Texts that are one token or several, whatever stands around them, and that end no statement.
fn statement_part() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zäß_]{1,8}",
        "[0-9]{1,3}",
        // The comma keeps it from going on where an E'' string on the line before ended.
        ", '([a-z;\\\\\n$-]|'')*'",
        "\"([a-z;\\\\\n$'-]|\"\"){1,6}\"",
        r"E'([a-z;$-]|''|\\'|\\\\)*'",
        r"\$\$[a-z;'\n\\-]*\$\$",
        r"\$ta\$[a-z;'\n\\-]*\$t\$\$\$ta\$",
        r"\([a-z; ]*\)",
        Just("-- Name: x; Type: TABLE; Schema: public; Owner: -\n".to_owned()),
        Just("/* ; /* ' */ $$ */".to_owned()),
    ]
}

fn statement() -> impl Strategy<Value = String> {
    ("[a-df-z][a-z]{1,5}", prop::collection::vec(statement_part(), 0..6))
        .prop_map(|(word, parts)| format!("{word} {} ;", parts.join(" ")))
}

fn gap() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("\n"),
        Just(" \t"),
        Just("\n-- it's; \"$$\n"),
        Just("/* a /* b */ ; ' */"),
        Just(" ; "),
        Just("\n\\restrict it's $$ \"\n"),
    ]
    .prop_map(str::to_owned)
}

/// Text that is more likely than random bytes to open something and not close it.
fn broken_text() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("'"),
        Just("\""),
        Just("E'"),
        Just("\\"),
        Just("$$"),
        Just("$a"),
        Just("$"),
        Just("/*"),
        Just("*/"),
        Just("--"),
        Just("\n"),
        Just(";"),
        Just("("),
        Just(")"),
        Just("create function "),
        Just("begin atomic "),
        Just("case "),
        Just("end "),
        Just("é"),
        Just("\u{0}"),
        Just("-- Name: "),
        Just("; Type: "),
        Just("TABLE"),
        Just("; Schema: "),
        Just("; Owner: "),
        Just("-"),
        Just("SET a = "),
        Just("select set_config("),
        Just("."),
        Just("grant x to "),
        Just("comment on "),
        Just("table "),
        Just("x ")
    ];
    prop::collection::vec(pieces, 0..60).prop_map(|pieces| pieces.concat())
}

/// `pieces` are in the text's order, and what lies between them holds nothing but space, comments, psql's lines and
/// lone semicolons, by a check that does not use the scanner's idea of statements.
fn leaves_only_gaps(text: &str, pieces: &[&str]) {
    let mut rest = text;
    for piece in pieces {
        let at = piece.as_ptr() as usize - rest.as_ptr() as usize;
        is_gap(&rest[..at]);
        rest = &rest[at + piece.len()..];
    }
    is_gap(rest);
}

fn is_gap(gap: &str) {
    let mut rest = gap.trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', ';']);
    while !rest.is_empty() {
        let length = match rest.as_bytes() {
            [b'-', b'-', ..] | [b'\\', ..] => rest.find(['\n', '\r']).unwrap_or(rest.len()),
            [b'/', b'*', ..] => scan::tokens(rest).next().unwrap().text.len(),
            _ => panic!("lost: {rest:?}"),
        };
        rest = rest[length..].trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', ';']);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn joined_statements_are_split_again(parts in prop::collection::vec((statement(), gap()), 0..8)) {
        let text: String = parts.iter().flat_map(|(statement, gap)| [gap.as_str(), statement]).collect();
        let expected: Vec<&str> = parts.iter().map(|(statement, _)| statement.as_str()).collect();
        prop_assert_eq!(statements(&text), expected);
    }

    #[test]
    fn entries_are_found_whatever_their_bodies_hold(bodies in prop::collection::vec(statement(), 0..8)) {
        let header = "f(); Type: FUNCTION; Schema: public; Owner: -";
        let text: String = bodies.iter().map(|body| entry_text(header, body)).collect();
        let dump = Dump::parse(&dump_of(&text)).unwrap();
        let found: Vec<&str> = dump.entries.iter().map(|entry| entry.sql.as_str()).collect();
        prop_assert_eq!(found, bodies);
    }

    #[test]
    fn tokens_are_the_text(text in prop_oneof![any::<String>(), broken_text()]) {
        prop_assert_eq!(scan::tokens(&text).map(|token| token.text).collect::<String>(), text);
    }

    #[test]
    fn nothing_panics_and_nothing_is_lost(text in prop_oneof![any::<String>(), broken_text()]) {
        leaves_only_gaps(&text, &statements(&text));
        let _ = Dump::parse(&text);
        let _ = roles_in(&text);
        if let Ok(dump) = Dump::parse(&dump_of(&entry_text("x; Type: TABLE; Schema: s; Owner: -", &text))) {
            dump.rebuild_order();
        }
    }
}

const NASTY_SCHEMA: &str = include_str!("tests/nasty_schema.sql");

/// What the nasty schema must produce: else the round trip says less than it seems to.
const KINDS_WANTED: [EntryKind; 33] = [
    EntryKind::Schema,
    EntryKind::Extension,
    EntryKind::Type,
    EntryKind::Domain,
    EntryKind::Function,
    EntryKind::Procedure,
    EntryKind::Aggregate,
    EntryKind::Table,
    EntryKind::TableAttach,
    EntryKind::ForeignTable,
    EntryKind::View,
    EntryKind::MaterializedView,
    EntryKind::Sequence,
    EntryKind::SequenceOwnedBy,
    EntryKind::Default,
    EntryKind::Constraint,
    EntryKind::CheckConstraint,
    EntryKind::FkConstraint,
    EntryKind::Index,
    EntryKind::IndexAttach,
    EntryKind::Statistics,
    EntryKind::Trigger,
    EntryKind::Rule,
    EntryKind::Policy,
    EntryKind::RowSecurity,
    EntryKind::UserMapping,
    EntryKind::Comment,
    EntryKind::Acl,
    EntryKind::DefaultAcl,
    EntryKind::EventTrigger,
    EntryKind::Publication,
    EntryKind::PublicationTable,
    EntryKind::PublicationTablesInSchema,
];

#[tokio::test]
async fn a_replayed_schema_dumps_the_same() {
    let server = Server::start();
    server.psql("postgres", &["create database source"]);
    server.psql("source", &statements(NASTY_SCHEMA));
    let dump = Dump::parse(&server.dump("source", &keep_tablespaces(None)).await.unwrap()).unwrap();
    for kind in &KINDS_WANTED {
        assert!(dump.entries.iter().any(|entry| entry.kind == *kind), "the schema has no {kind}");
    }
    replay(&server, "replayed", &dump, dump.entries.iter());

    let pre = Dump::parse(&server.dump("source", &keep_tablespaces(Some(Section::PreData))).await.unwrap())
        .unwrap();
    let post = Dump::parse(&server.dump("source", &keep_tablespaces(Some(Section::PostData))).await.unwrap())
        .unwrap();
    assert_eq!(pre.entries.len() + post.entries.len(), dump.entries.len());
    let order = post.rebuild_order();
    let tables = order.tables.iter().rev().flat_map(|table| &table.entries);
    let staged = tables.chain(&order.attachments).chain(&order.foreign_keys).chain(&order.rest).copied();
    replay(&server, "rebuilt", &pre, pre.entries.iter().chain(staged));

    // A pg_dump that quotes names only where it must says the same, but for quotes in some headers, and for the
    // comment of the schema public, which it fails to recognise as the usual one when it quotes.
    let unquoted = Dump::parse(&server.dump_unquoted("source")).unwrap();
    let facts = |dump: Dump| {
        let entries = dump
            .entries
            .into_iter()
            .filter(|entry| entry.kind != EntryKind::Comment || entry.name != "SCHEMA \"public\"");
        let mut facts: Vec<String> = entries
            .map(|entry| {
                format!("{} {:?} {:?} {:?}", entry.kind, entry.schema, entry.table, entry.referenced_table)
            })
            .collect();
        facts.sort();
        facts
    };
    let (unquoted, quoted) = (facts(unquoted), facts(dump));
    let apart: Vec<_> = unquoted.iter().zip(&quoted).filter(|(one, other)| one != other).collect();
    assert!(unquoted == quoted, "first of {apart:#?}");

    // Without the scanner: the two texts must have the same lines.
    server.psql(
        "source",
        &["drop event trigger \"ev; t\"", "drop publication \"Pub; 1\"", "drop publication p2"],
    );
    let wanted = sorted_lines(&server.dump("source", &keep_tablespaces(None)).await.unwrap());
    for database in ["replayed", "rebuilt"] {
        let got = sorted_lines(&server.dump(database, &keep_tablespaces(None)).await.unwrap());
        let lost: Vec<_> = wanted.iter().filter(|line| !got.contains(line)).collect();
        assert!(wanted == got, "{database} differs; lost: {lost:#?}");
    }
}

fn keep_tablespaces(section: Option<Section>) -> DumpOptions {
    DumpOptions { section, tablespaces: Tablespaces::Keep, ..DumpOptions::default() }
}

/// Each entry in a session of its own, each statement in a request of its own.
fn replay<'a>(server: &Server, database: &str, dump: &Dump, entries: impl Iterator<Item = &'a Entry>) {
    // PostgreSQL makes the schema public; a dump of a database where it was dropped would drop it.
    server.psql("postgres", &[&format!("create database {database} template template0")]);
    for entry in entries.filter(|entry| !entry.stays_at_source()) {
        let script = entry.script_for(15);
        let mut requests: Vec<&str> =
            dump.settings_for(15).iter().map(|setting| setting.sql.as_str()).collect();
        requests.extend(statements(&script));
        server.psql(database, &requests);
    }
}

fn sorted_lines(dump: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        dump.lines().filter(|line| !line.contains("restrict ")).map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[tokio::test]
async fn table_patterns_mean_exactly_the_table() {
    let server = Server::start();
    let names = [
        "plain",
        "Mixed",
        "a.b",
        "q\"q",
        "st*r",
        "qu?",
        "[a]",
        "(x|y)",
        "do$lar",
        "back\\slash",
        "Größe€",
        "new\nline",
        "it's; --x",
        " ",
    ];
    let decoys = ["mixed", "a", "b", "star", "staar", "qux", "aa", "x", "ab", "größe€", "xplain", "plainx"];
    for name in names.iter().chain(&decoys) {
        server.psql("postgres", &[&format!("create table {} ()", crate::pg::quote::identifier(name))]);
    }
    let tables: Vec<TableName> = names.iter().map(|name| table("public", name)).collect();
    let options = DumpOptions { tables: tables.clone(), ..DumpOptions::default() };
    let dump = Dump::parse(&server.dump("postgres", &options).await.unwrap()).unwrap();
    let mut found: Vec<TableName> = dump.entries.into_iter().filter_map(|entry| entry.table).collect();
    found.sort();
    let mut wanted = tables;
    wanted.sort();
    assert_eq!(found, wanted);

    let missing = DumpOptions { tables: vec![table("public", "Plain")], ..DumpOptions::default() };
    let error = server.dump("postgres", &missing).await.unwrap_err();
    assert_eq!(error.kind(), crate::error::Kind::Refused, "{error:?}");
    let error = server.dump("absent", &DumpOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), crate::error::Kind::SourceUnreachable, "{error:?}");
    assert!(error.what().contains("absent"), "{error:?}");
}

#[tokio::test]
async fn pg_dump_is_found_new_enough_or_explained() {
    let directory = tempfile::tempdir().unwrap();
    let place = |path: &str, says: &str| {
        let file = directory.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        server::write_program(&file, &format!("#!/bin/sh\necho \"{says}\"\n"));
        file
    };
    let on_path = place("bin/pg_dump", "pg_dump (PostgreSQL) 14.9 (Debian 14.9-1)");
    let old = place("usr/lib/postgresql/9.6/bin/pg_dump", "pg_dump (PostgreSQL) 9.6.24");
    let newest = place("usr/lib/postgresql/18/bin/pg_dump", "pg_dump (PostgreSQL) 18beta1");
    let middle = place("usr/lib/postgresql/15/bin/pg_dump", "pg_dump (PostgreSQL) 15.4");
    let rpm = place("usr/pgsql-17/bin/pg_dump", "pg_dump (EnterpriseDB) 17.4.0");
    place("debian/pg_wrapper", "pg_dump (PostgreSQL) 99.1");
    std::os::unix::fs::symlink("pg_wrapper", directory.path().join("debian/pg_dump")).unwrap();

    let path = std::env::join_paths([
        directory.path().join("debian"),
        directory.path().join("bin"),
        "/absent".into(),
    ]);
    let candidates = process::candidates(&path.unwrap(), &directory.path().join("usr"));
    assert_eq!(candidates, [on_path.clone(), newest.clone(), middle, old, rpm]);
    assert_eq!(process::find_among(&candidates, 14).await.unwrap(), on_path);
    assert_eq!(process::find_among(&candidates, 16).await.unwrap(), newest);
    let error = process::find_among(&candidates, 19).await.unwrap_err();
    assert!(error.what().contains("is version 18beta1") && error.what().contains("14.9"), "{error:?}");
    assert!(error.hint_text().is_some());
    let error = find_pg_dump(Some(Path::new("/absent/pg_dump")), 15).await.unwrap_err();
    assert!(error.what().contains("/absent/pg_dump"), "{error:?}");
    assert_eq!(find_pg_dump(Some(&on_path), 14).await.unwrap(), on_path);
}

#[tokio::test]
async fn the_child_sees_the_given_environment_and_no_password_argument() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("pg_dump");
    server::write_program(&program, "#!/bin/sh\necho \"args: $*\"\nenv | grep -E '^(PG|LC_ALL)' | sort\n");
    let environment = [("PGPASSWORD".to_owned(), "secret".to_owned()), ("PGHOST".to_owned(), "h".to_owned())];
    let options = DumpOptions {
        snapshot: Some("1-2-3".to_owned()),
        lock_wait_ms_max: Some(7),
        ..DumpOptions::default()
    };
    let text = run(&program, &environment, &options).await.unwrap();
    assert_eq!(
        text,
        "args: --schema-only --no-owner --no-password --encoding=UTF8 --quote-all-identifiers --no-tablespaces \
         --snapshot=1-2-3 --lock-wait-timeout=7\nLC_ALL=C\nPGHOST=h\nPGPASSWORD=secret\n"
    );
}
