//! What becomes of entries one after the other: new, equal, grown, shrunk, gone and back.

use pgdiode::error::Kind;
use pgdiode::keyspace::{Gone, Layout, Why, Write};

use super::{Chat, GROUPS, Ground, MESSAGES, SESSIONS, Stored, TABLES, USERS, at, chat_layout, counts, open};

const EXPIRED: i64 = 1_700_000_000_123;

#[test]
fn a_key_comes_grows_shrinks_and_goes() {
    let mut ground = Ground::chat();
    assert_eq!(ground.position(), None);
    let mut chat = Chat::new("s1", "first", &[("m1", "one"), ("m2", "two\tand\\half")]).of_user("ann");
    chat.messages[1].1 = Some("bob".to_owned());
    chat.group = Some("crew".to_owned());

    let applied = ground.apply(vec![chat.present()]);
    assert_eq!(counts(&applied, USERS), [2, 0, 0, 0]);
    assert_eq!(counts(&applied, GROUPS), [1, 0, 0, 0]);
    assert_eq!(counts(&applied, SESSIONS), [1, 0, 0, 0]);
    assert_eq!(counts(&applied, MESSAGES), [2, 0, 0, 0]);
    assert_eq!((applied.unchanged, applied.misfits), (0, 0));
    assert_eq!(ground.messages(), "s1/m1=one s1/m2=two\tand\\half");
    let senders = "select string_agg(external_id, ',') from messages m join users u on u.id = sender_id";
    assert_eq!(ground.sql(senders), "bob");
    assert_eq!(ground.known(&[&chat]), [Some(Stored(Some(chat.hash())))]);

    // The same again writes nothing at all.
    let written = "select string_agg(xmin::text, ',') from (select xmin from sessions union all select xmin from messages) x";
    let before = ground.sql(written);
    let applied = ground.apply(vec![chat.present()]);
    assert_eq!(applied.unchanged, 6);
    assert_eq!(ground.sql(written), before);

    chat.messages.push(("m3".to_owned(), None, "three".to_owned()));
    let applied = ground.apply(vec![chat.present()]);
    assert_eq!((counts(&applied, MESSAGES), applied.unchanged), ([1, 0, 0, 0], 6));

    // The second is lost and the others change places; one has another body.
    chat.messages.remove(1);
    chat.messages.swap(0, 1);
    chat.messages[0].2 = "THREE".to_owned();
    let applied = ground.apply(vec![chat.present()]);
    assert_eq!(counts(&applied, MESSAGES), [0, 1, 1, 0]);
    assert_eq!(ground.messages(), "s1/m1=one s1/m3=THREE");

    let applied = ground.apply(vec![chat.gone(EXPIRED, Why::Expired)]);
    assert_eq!(counts(&applied, SESSIONS), [0, 0, 0, 1]);
    let marks = "select expired_at, deleted_at from sessions";
    assert_eq!(ground.sql(marks), "2023-11-14 22:13:20.123+00|");
    assert_eq!(ground.messages(), "s1/m1=one s1/m3=THREE");
    assert_eq!(ground.known(&[&chat]), [Some(Stored(None))]);

    // Gone once more, for another reason: the first mark stays.
    let applied = ground.apply(vec![chat.gone(EXPIRED + 1, Why::Deleted)]);
    assert_eq!(counts(&applied, SESSIONS), [0; 4]);
    assert_eq!(ground.sql(marks), "2023-11-14 22:13:20.123+00|");

    // It returns with less than it had.
    chat.messages.pop();
    let applied = ground.apply(vec![chat.present()]);
    assert_eq!((counts(&applied, SESSIONS), counts(&applied, MESSAGES)), ([0, 1, 0, 0], [0, 0, 1, 0]));
    assert_eq!(ground.sql(marks), "|");
    assert_eq!(ground.messages(), "s1/m3=THREE");

    // It changed and went, both since the last look.
    chat.title = "last words".to_owned();
    let applied = ground.apply(vec![chat.passed(EXPIRED, Why::Deleted)]);
    assert_eq!(counts(&applied, SESSIONS), [0, 1, 0, 1]);
    let seen = "select title, expired_at, deleted_at from sessions";
    assert_eq!(ground.sql(seen), "last words||2023-11-14 22:13:20.123");
    assert_eq!(ground.known(&[&chat]), [Some(Stored(None))]);
    // Nothing was ever taken from a sequence for a row that was there.
    assert_eq!(ground.sql("select last_value from sessions_id_seq"), "1");
    assert_eq!(ground.sql("select last_value from users_id_seq"), "2");
}

#[test]
fn what_the_target_does_not_know_is_not_touched() {
    let mut ground = Ground::chat();
    ground.sql("insert into sessions (session_key, title) values ('own', 'a user''s')");
    let own = Chat::new("own", "x", &[]);
    let applied = ground.apply(vec![own.gone(EXPIRED, Why::Deleted)]);
    assert_eq!(counts(&applied, SESSIONS), [0; 4]);
    assert_eq!(ground.sql("select deleted_at is null from sessions"), "t");
    assert_eq!(ground.known(&[&own]), [None]);
    // Passed is another matter: there are rows to write.
    ground.apply(vec![Chat::new("new", "short", &[("m", "b")]).passed(EXPIRED, Why::Expired)]);
    assert_eq!(
        ground.sql("select title, expired_at is null from sessions where session_key = 'new'"),
        "short|f"
    );
}

#[test]
fn rows_that_are_ensured_stay_as_they_are() {
    let mut ground = Ground::chat();
    ground.apply(vec![Chat::new("s1", "a", &[]).of_user("ann").present()]);
    ground.sql("update users set name = 'Ann Smith'");
    let applied = ground.apply(vec![Chat::new("s2", "b", &[]).of_user("ann").present()]);
    assert_eq!((counts(&applied, USERS), applied.unchanged), ([0; 4], 1));
    ground.apply(vec![Chat::new("s1", "a", &[]).of_user("ann").gone(EXPIRED, Why::Deleted)]);
    assert_eq!(ground.sql("select name, count(*) from users group by 1"), "Ann Smith|1");
    let users = "select string_agg(external_id, ',' order by session_key) from sessions join users u on u.id = user_id";
    assert_eq!(ground.sql(users), "ann,ann");
}

#[test]
fn with_delete_a_key_leaves_nothing_behind() {
    let mut layout = chat_layout();
    layout.tables[SESSIONS].gone = Gone::Delete;
    layout.tables[MESSAGES].gone = Gone::Delete;
    let mut ground = Ground::new(TABLES, &layout);
    let [one, two] = ["s1", "s2"].map(|name| Chat::new(name, "t", &[("m1", "a"), ("m2", "b")]));
    ground.apply(vec![one.present(), two.present()]);
    let applied = ground.apply(vec![two.present(), one.gone(EXPIRED, Why::Expired)]);
    assert_eq!((counts(&applied, SESSIONS), counts(&applied, MESSAGES)), ([0, 0, 1, 0], [0, 0, 2, 0]));
    assert_eq!(ground.messages(), "s2/m1=a s2/m2=b");
    // And may come again.
    ground.apply(vec![one.present()]);
    assert_eq!(ground.messages(), "s1/m1=a s1/m2=b s2/m1=a s2/m2=b");
}

#[test]
fn of_several_entries_the_last_counts() {
    let mut ground = Ground::chat();
    let chat = |title| Chat::new("s1", title, &[("m1", title)]).of_user("ann");
    let other = Chat::new("s2", "other", &[("m1", "x")]).of_user("ann");
    let applied = ground.apply(vec![chat("first").present(), other.present(), chat("second").present()]);
    assert_eq!(counts(&applied, USERS), [1, 0, 0, 0]);
    assert_eq!(ground.messages(), "s1/m1=second s2/m1=x");
    ground.apply(vec![chat("third").present(), chat("x").gone(EXPIRED, Why::Expired)]);
    assert_eq!(ground.messages(), "s1/m1=second s2/m1=x");
    assert_eq!(
        ground.sql("select string_agg(session_key, ',') from sessions where expired_at is not null"),
        "s1"
    );
}

/// Keys of two databases with the same rows: what happened last is what is there.
#[test]
fn keys_with_the_same_rows_are_applied_in_order() {
    let mut ground = Ground::chat();
    let chat = |title| Chat::new("s1", title, &[("m1", title)]);
    let elsewhere = |title| {
        let mut observed = chat(title).present();
        observed.entry.key.database = 1;
        observed
    };
    ground.apply(vec![chat("zero").present(), elsewhere("one")]);
    assert_eq!(ground.messages(), "s1/m1=one");
    ground.apply(vec![chat("x").gone(EXPIRED, Why::Deleted), elsewhere("two")]);
    assert_eq!(ground.sql("select title, deleted_at is null from sessions"), "two|t");
    let applied = ground.apply(vec![elsewhere("three"), chat("four").present(), elsewhere("five")]);
    // Of three entries the first is the same key's as the last.
    assert_eq!(counts(&applied, SESSIONS), [0, 2, 0, 0]);
    assert_eq!(ground.messages(), "s1/m1=five");
}

#[test]
fn keys_are_paged_and_may_be_long_and_binary() {
    let mut ground = Ground::chat();
    let long = "k".repeat(5000);
    let mut entries: Vec<_> =
        (0..25).map(|number| Chat::new(&format!("s{number}"), "t", &[]).present()).collect();
    let mut binary = Chat::new("b", "t", &[]).present();
    binary.entry.key.name = bytes::Bytes::from_static(b"\x00\xff\\\n");
    entries.push(binary);
    let gone = Chat::new("s3", "t", &[]);
    let mut wide = Chat::new("w", "t", &[]).present();
    wide.entry.key.name = bytes::Bytes::from(long.into_bytes());
    entries.push(wide);
    let mut expected: Vec<_> =
        entries.iter().map(|one| (one.entry.key.id(), one.entry.key.clone())).collect();
    ground.apply(entries);
    ground.apply(vec![gone.gone(EXPIRED, Why::Deleted)]);
    expected.retain(|(id, _)| *id != gone.key().id());
    expected.sort();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = ground.runtime.block_on(ground.target.page(after, 10)).unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        found.extend(page);
    }
    assert_eq!(found, expected);
    assert_eq!(ground.runtime.block_on(ground.target.count()).unwrap(), 26);
}

#[test]
fn nodes_have_positions_of_their_own() {
    let mut ground = Ground::chat();
    let mut position = at(5);
    position.node = "node-a".to_owned();
    position.database = None;
    position.is_scanned = false;
    ground.runtime.block_on(ground.target.apply(Vec::new(), &position)).unwrap();
    assert_eq!(ground.runtime.block_on(ground.target.position("node-a")).unwrap(), Some(position));
    assert_eq!(ground.position(), None);
}

#[test]
fn a_layout_that_does_not_fit_is_refused() {
    let ground = Ground::chat();
    let refused = |change: &dyn Fn(&mut Layout), what: &str| {
        let mut layout = chat_layout();
        change(&mut layout);
        let error = ground.runtime.block_on(open(&ground.cluster, &layout)).err().expect("it is refused");
        assert_eq!(error.kind(), Kind::Refused, "{error:?}");
        assert!(error.what().contains(what), "{error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("makes one that fits")), "{error:?}");
    };
    refused(&|layout| layout.tables[SESSIONS].name.name = "nothing".to_owned(), "there is no such table");
    refused(
        &|layout| layout.tables[SESSIONS].columns[3].name = "headline".to_owned(),
        "lacks the columns headline",
    );
    refused(&|layout| layout.tables[SESSIONS].key = vec![3], "no unique index on exactly (title)");
    refused(&|layout| layout.tables[MESSAGES].columns[1].name = "body".to_owned(), "wants values");
    refused(
        &|layout| {
            let reference = layout.tables[MESSAGES].columns[0].reference.as_mut().unwrap();
            reference.by = "title".to_owned();
        },
        "no unique index on exactly (title)",
    );
    ground.sql("create view people as select * from users");
    refused(&|layout| layout.tables[USERS].name.name = "people".to_owned(), "not a table");
}

/// Numbers are the same under several texts: no row is ever touched twice by one statement.
#[test]
fn texts_that_differ_may_be_one_key() {
    let layout = Layout {
        tables: vec![
            super::Table {
                gone: Gone::Delete,
                anchor: vec![1],
                ..super::table(
                    "scores",
                    vec![super::column("id"), super::column("board"), super::column("points")],
                    vec![0],
                )
            },
            super::Table {
                write: Write::Ensure,
                anchor: Vec::new(),
                ..super::table("boards", vec![super::column("id")], vec![0])
            },
        ],
    };
    let tables = "create table scores (id int primary key, board text, points numeric);
                  create index on scores (board);
                  create table boards (id int primary key)";
    let partitioned =
        "create table scores (id int primary key, board text, points numeric) partition by hash (id);
                       create table some_scores partition of scores for values with (modulus 2, remainder 0);
                       create table other_scores partition of scores for values with (modulus 2, remainder 1);
                       create index on scores (board);
                       create table boards (id int primary key)";
    for tables in [tables, partitioned] {
        let mut ground = Ground::new(tables, &layout);
        one_row_of_a_key(&mut ground);
    }
}

fn one_row_of_a_key(ground: &mut Ground) {
    let board = |name: &str, scores: &[(&str, &str)]| {
        let mut observed = Chat::new(name, "", &[]).present();
        let all: Vec<_> =
            scores.iter().map(|(id, points)| vec![Some(*id), Some(name), Some(*points)]).collect();
        let ids: Vec<_> = scores.iter().map(|(id, _)| vec![Some(*id)]).collect();
        observed.entry.parts = vec![
            super::Part { table: 0, anchor: name.as_bytes().to_vec(), rows: super::rows(1, &all) },
            super::Part { table: 1, anchor: Vec::new(), rows: super::rows(1, &ids) },
        ];
        observed
    };
    let all = "select string_agg(concat_ws('/', id, board, points), ' ' order by id) from scores";
    ground.apply(vec![board("a", &[("1", "10"), ("01", "11"), ("2", "20")]), board("b", &[("+1", "12")])]);
    assert_eq!(ground.sql(all), "1/b/12 2/a/20");
    // 1 went over to the other board, and is there although this one lost it.
    ground.apply(vec![board("a", &[("2", "20.0")]), board("b", &[("1", "12"), ("001", "13")])]);
    assert_eq!(ground.sql(all), "1/b/13 2/a/20.0");
    ground.apply(vec![board("a", &[]), board("b", &[])]);
    assert_eq!(ground.sql(all), "");
    assert_eq!(ground.sql("select string_agg(id::text, ',' order by id) from boards"), "1,2");
}
