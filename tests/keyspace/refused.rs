//! What PostgreSQL refuses because of the data: it is found, kept with the reason, and holds nothing else up.

use bytes::Bytes;
use pgdiode::keyspace::{Gone, Misfit, Observed, Why};

use super::{Chat, Ground, MESSAGES, SESSIONS, Stored, TABLES, USERS, chat_layout, counts};

/// Place and reason of all misfits.
const MISFITS: &str =
    "select string_agg(place || ': ' || reason, e'\\n' order by place) from pgdiode.keyspace_misfit";

fn chats(count: usize) -> Vec<Chat> {
    (0..count).map(|number| Chat::new(&format!("s{number:04}"), "t", &[("m1", "a"), ("m2", "b")])).collect()
}

fn present(chats: &[Chat]) -> Vec<Observed> {
    chats.iter().map(Chat::present).collect()
}

#[test]
fn one_bad_value_among_thousands_is_found() {
    let mut ground = Ground::chat();
    let mut chats = chats(1000);
    chats[617].since = Some("the \"secret\" day".to_owned());
    let applied = ground.apply(present(&chats));
    // Its messages have no session to belong to.
    assert_eq!((applied.misfits, applied.unchanged), (3, 0));
    assert_eq!((counts(&applied, SESSIONS), counts(&applied, MESSAGES)), ([999, 0, 0, 0], [1998, 0, 0, 0]));
    assert_eq!(ground.sql("select count(*) from sessions"), "999");
    assert_eq!(
        ground.sql(MISFITS),
        "row 1 of public.messages: a row of public.sessions that is referred to is not there (23503)\n\
         row 1 of public.sessions: invalid input syntax for type timestamp with time zone: … (22007)\n\
         row 2 of public.messages: a row of public.sessions that is referred to is not there (23503)"
    );
    let kept = "select database, convert_from(name, 'utf8'), convert_from(content, 'utf8') from pgdiode.keyspace_misfit
                 where table_name = 'public.messages' order by place limit 1";
    assert_eq!(ground.sql(kept), "0|s0617|s0617\tm1\t\\N\ta");
    assert_eq!(ground.known(&[&chats[617]]), [Some(Stored(Some(chats[617].hash())))]);

    // Mended at the source, it is stored, and no misfit is left.
    chats[617].since = Some("2026-01-02 03:04:05+00".to_owned());
    let applied = ground.apply(present(&chats));
    assert_eq!((counts(&applied, SESSIONS), counts(&applied, MESSAGES)), ([1, 0, 0, 0], [2, 0, 0, 0]));
    assert_eq!((applied.unchanged, ground.sql(MISFITS)), (2997, String::new()));
}

#[test]
fn a_row_that_the_users_own_constraint_refuses_stands_alone() {
    let mut ground = Ground::chat();
    ground.sql("alter table messages add constraint decent check (body <> 'bad')");
    let mut chat =
        Chat::new("s1", "t", &[("m1", "a"), ("m2", "bad"), ("m3", "c"), ("m4", "bad"), ("m5", "e")]);
    let applied = ground.apply(vec![Chat::new("s0", "t", &[("m", "x")]).present(), chat.present()]);
    assert_eq!((counts(&applied, MESSAGES), applied.misfits), ([4, 0, 0, 0], 2));
    assert_eq!(ground.messages(), "s0/m=x s1/m1=a s1/m3=c s1/m5=e");
    let reasons = "select string_agg(distinct reason, ',') from pgdiode.keyspace_misfit";
    let decent = r#"new row for relation "messages" violates check constraint "decent" (23514)"#;
    assert_eq!(ground.sql(reasons), decent);

    // A row that is there stays as it was when its new value is refused, whatever else is lost.
    chat.messages = vec![
        ("m1".to_owned(), None, "bad".to_owned()),
        ("m2".to_owned(), None, "b".to_owned()),
        ("m6".to_owned(), None, "f".to_owned()),
    ];
    assert_eq!(ground.apply(vec![chat.present()]).misfits, 1);
    assert_eq!(ground.messages(), "s0/m=x s1/m1=a s1/m2=b s1/m3=c s1/m5=e s1/m6=f");
    // What was lost meanwhile goes with the next value that is taken whole.
    chat.messages[0].2 = "A".to_owned();
    assert_eq!(counts(&ground.apply(vec![chat.present()]), MESSAGES), [0, 1, 2, 0]);
    assert_eq!(ground.messages(), "s0/m=x s1/m1=A s1/m2=b s1/m6=f");
    assert_eq!(ground.sql(MISFITS), "");
}

#[test]
fn what_no_text_can_hold_is_kept_as_it_was() {
    let mut ground = Ground::chat();
    let mut chats = chats(3);
    chats[1].messages[0].2 = "zero \0 byte".to_owned();
    let mut entries = present(&chats);
    // Not UTF-8 in the last one's title.
    let lines = &mut entries[2].entry.parts[SESSIONS].rows.lines;
    let title = lines.iter().position(|byte| *byte == b't').unwrap();
    lines[title] = 0xff;
    let applied = ground.apply(entries);
    assert_eq!(counts(&applied, SESSIONS), [2, 0, 0, 0]);
    assert_eq!(counts(&applied, MESSAGES), [3, 0, 0, 0]);
    let bytes =
        "select string_agg(encode(content, 'hex'), ',') from pgdiode.keyspace_misfit where reason ~ '22021'";
    let kept = ground.sql(bytes);
    assert!(kept.contains("7a65726f200020627974650a"), "{kept}");
    assert!(kept.contains("ff"), "{kept}");
}

#[test]
fn what_a_trigger_raises_says_no_value() {
    let mut ground = Ground::chat();
    // It names a table without its schema, and fires: nothing is switched off.
    ground.sql(
        "create table seen (session_key text);
         create function look() returns trigger language plpgsql as $$
         begin
            if new.title = 'x' then raise exception 'not this: %', new.title using detail = new.title; end if;
            insert into seen values (new.session_key);
            return new;
         end $$;
         create trigger look before insert on sessions for each row execute function look()",
    );
    let refused = Chat::new("s1", "x", &[]);
    assert_eq!(ground.apply(vec![refused.present(), Chat::new("s2", "y", &[]).present()]).misfits, 1);
    assert_eq!(ground.sql("select string_agg(session_key, ',') from seen"), "s2");
    let reason = ground.sql("select reason from pgdiode.keyspace_misfit");
    assert_eq!(reason, "a trigger or function of the target refused it (P0001)");
}

#[test]
fn what_is_only_checked_with_the_commit_is_found_too() {
    let mut ground = Ground::chat();
    ground.sql(
        "create table titles (title text primary key); insert into titles values ('good');
         alter table sessions add foreign key (title) references titles deferrable initially deferred",
    );
    let chats: Vec<Chat> = ["good", "bad", "good"]
        .iter()
        .enumerate()
        .map(|(n, title)| Chat::new(&format!("s{n}"), title, &[]))
        .collect();
    assert_eq!(ground.apply(present(&chats)).misfits, 1);
    assert_eq!(ground.sql("select string_agg(session_key, ',' order by 1) from sessions"), "s0,s2");
}

#[test]
fn misfits_are_replaced_with_their_key_and_outlive_it() {
    let mut ground = Ground::chat();
    let chat = Chat::new("s1", "t", &[]);
    let with = |reasons: &[&str]| {
        let mut observed = chat.present();
        let misfit = |reason: &&str| Misfit {
            table: (*reason != "none").then_some(MESSAGES),
            at: "$.messages[3].\0".to_owned(),
            reason: (*reason).to_owned(),
            content: Bytes::from_static(b"\x00\xff{"),
        };
        observed.entry.misfits = reasons.iter().map(misfit).collect();
        observed
    };
    assert_eq!(ground.apply(vec![with(&["one", "none"])]).misfits, 2);
    let seen = "select string_agg(concat_ws('|', table_name, place, reason, encode(content, 'hex')), ',' order by reason)
                from pgdiode.keyspace_misfit";
    assert_eq!(
        ground.sql(seen),
        "$.messages[3].\u{fffd}|none|00ff7b,public.messages|$.messages[3].\u{fffd}|one|00ff7b"
    );
    assert_eq!(ground.apply(vec![with(&["two"])]).misfits, 1);
    assert_eq!(ground.sql(seen), "public.messages|$.messages[3].\u{fffd}|two|00ff7b");
    ground.apply(vec![chat.gone(5, Why::Expired)]);
    assert_eq!(ground.sql("select count(*) from pgdiode.keyspace_misfit"), "1");
    ground.apply(vec![chat.present()]);
    assert_eq!(ground.sql("select count(*) from pgdiode.keyspace_misfit"), "0");
}

#[test]
fn rows_that_cannot_be_removed_are_tried_again() {
    let mut layout = chat_layout();
    layout.tables[SESSIONS].gone = Gone::Delete;
    layout.tables[MESSAGES].gone = Gone::Delete;
    let mut ground = Ground::new(TABLES, &layout);
    let (one, mut two) =
        (Chat::new("s1", "t", &[("m1", "a")]), Chat::new("s2", "t", &[("m1", "a"), ("m2", "b")]));
    ground.apply(vec![one.present(), two.present()]);
    ground.sql(
        "create table stars (message_id bigint references messages); insert into stars select id from messages",
    );
    two.messages.remove(0);
    two.title = "new".to_owned();
    let entries = vec![one.gone(5, Why::Deleted), two.present()];
    for _ in 0..2 {
        assert_eq!(ground.apply(entries.clone()).misfits, 2);
        assert_eq!(ground.messages(), "s1/m1=a s2/m1=a s2/m2=b");
        assert_eq!(ground.sql("select string_agg(title, ',' order by session_key) from sessions"), "t,new");
        assert_eq!(
            ground.known(&[&one, &two]),
            [Some(Stored(Some(one.hash()))), Some(Stored(Some(two.hash())))]
        );
        let places =
            "select string_agg(place || ' ' || (reason ~ 'stars.*23503'), ',') from pgdiode.keyspace_misfit";
        assert_eq!(ground.sql(places), "its rows true,its rows true");
    }
    ground.sql("drop table stars");
    let applied = ground.apply(entries);
    assert_eq!((counts(&applied, MESSAGES), applied.misfits), ([0, 0, 2, 0], 0));
    assert_eq!(ground.messages(), "s2/m2=b");
    assert_eq!(ground.known(&[&one]), [Some(Stored(None))]);
}

/// A unique value that belonged to a row which is lost is free for another.
#[test]
fn a_unique_value_moves_to_another_row() {
    let mut ground = Ground::chat();
    ground.sql("alter table messages add unique (session_id, body)");
    ground.apply(vec![Chat::new("s1", "t", &[("m1", "a"), ("m2", "b")]).present()]);
    let applied = ground.apply(vec![Chat::new("s1", "t", &[("m2", "a")]).present()]);
    assert_eq!((counts(&applied, MESSAGES), applied.misfits), ([0, 1, 1, 0], 0));
    // Where two change places, one statement cannot do it; the order in which it can is found.
    let chat = Chat::new("s1", "t", &[("m3", "a"), ("m2", "c")]);
    let applied = ground.apply(vec![chat.present()]);
    assert_eq!(applied.misfits, 0);
    assert_eq!(ground.messages(), "s1/m2=c s1/m3=a");
}

#[test]
fn an_error_that_is_not_the_datas_stops_and_changes_nothing() {
    let mut ground = Ground::chat();
    let chats = chats(3);
    ground.apply(present(&chats[..1]));
    ground.sql("alter table messages rename column body to text");
    let error = ground.try_apply(present(&chats), 9).unwrap_err();
    assert_eq!((error.sqlstate(), error.retries()), (Some("42703"), false), "{error:?}");
    ground.sql("alter table messages rename column text to body");
    assert_eq!(ground.messages(), "s0000/m1=a s0000/m2=b");
    assert_eq!(ground.position().unwrap().offset, 1);
    // The session is as good as before.
    let applied = ground.apply(present(&chats));
    assert_eq!((counts(&applied, SESSIONS), counts(&applied, USERS)), ([2, 0, 0, 0], [0; 4]));
}
