//! Batches of many rows: references are looked up once each, and foreign keys that this has checked do not fire.

use std::thread;

use pgdiode::keyspace::Rows;
use pgdiode::pg::conninfo::{ConnInfo, Environment};
use pgdiode::pg::session::{Session, Side};
use tokio::runtime::Runtime;

use super::{Chat, Ground, MESSAGES, SESSIONS, TABLES, USERS, at, chat_layout, counts, open_as};

const SESSIONS_MANY: usize = 600;

/// Notes the role in which messages are merged, and fires in each.
const NOTE_ROLE: &str = "
create table noted (role text);
create function note() returns trigger language plpgsql as $$
begin
    insert into public.noted values (current_setting('session_replication_role'));
    return null;
end $$;
create trigger note after insert on messages for each statement execute function note();
alter table messages enable always trigger note;";

/// Each with three messages of some of 40 people.
fn many(round: usize) -> Vec<Chat> {
    let chat = |number: usize| {
        let name = format!("s{number}");
        let bodies: Vec<(String, String)> =
            (0..3).map(|place| (format!("m{place}"), format!("{round} of {place}"))).collect();
        let bodies: Vec<(&str, &str)> =
            bodies.iter().map(|(key, body)| (key.as_str(), body.as_str())).collect();
        let mut chat =
            Chat::new(&name, &format!("title {round}"), &bodies).of_user(&format!("u{}", number % 40));
        for (place, message) in chat.messages.iter_mut().enumerate() {
            message.1 = (place > 0).then(|| format!("u{}", (number * 7 + place) % 40));
        }
        chat
    };
    (0..SESSIONS_MANY).map(chat).collect()
}

/// All rows with what they refer to, by names.
fn content(ground: &Ground) -> String {
    ground.sql(
        "select string_agg(format('%s %s %s %s %s %s', session_key, o.external_id, title, message_key, w.external_id, body), '/'
                           order by session_key, message_key)
           from messages m join sessions s on s.id = m.session_id
           left join users o on o.id = s.user_id left join users w on w.id = m.sender_id",
    )
}

fn roles(ground: &Ground) -> String {
    ground.sql("select string_agg(distinct role, ',') from noted where role is not null")
}

/// Constraints that are made anew read every row.
fn assert_nothing_is_orphaned(ground: &Ground) {
    ground.sql(
        "alter table messages add foreign key (session_id) references sessions, add foreign key (sender_id) references users;
         alter table sessions add foreign key (user_id) references users",
    );
}

#[test]
fn many_rows_become_the_same_whoever_checks_their_references() {
    let mut quick = Ground::new(&format!("{TABLES}{NOTE_ROLE}"), &chat_layout());
    // What fires for a user keeps all checks where they are.
    let fires = "create function pass() returns trigger language plpgsql as $$ begin return new; end $$;
                 create trigger fires before insert on messages for each row execute function pass();";
    let mut plain = Ground::new(&format!("{TABLES}{NOTE_ROLE}{fires}"), &chat_layout());
    for round in 0..3 {
        let mut chats = many(round);
        if round == 2 {
            for chat in &mut chats {
                chat.messages.remove(1);
            }
        }
        let entries = || chats.iter().map(Chat::present).collect();
        let (one, other) = (quick.apply(entries()), plain.apply(entries()));
        assert_eq!(one, other, "round {round}");
        let expected = match round {
            0 => [SESSIONS_MANY as u64 * 3, 0, 0, 0],
            1 => [0, SESSIONS_MANY as u64 * 3, 0, 0],
            _ => [0, SESSIONS_MANY as u64 * 2, SESSIONS_MANY as u64, 0],
        };
        assert_eq!(counts(&one, MESSAGES), expected, "round {round}");
        assert_eq!(content(&quick), content(&plain), "round {round}");
    }
    assert_eq!((roles(&quick), roles(&plain)), ("replica".to_owned(), "origin".to_owned()));
    assert_nothing_is_orphaned(&quick);
}

#[test]
fn who_may_not_switch_roles_writes_the_same() {
    let mut ground = Ground::new(&format!("{TABLES}{NOTE_ROLE}"), &chat_layout());
    ground.sql(
        "create role weak login password 'weak';
         grant usage on schema public, pgdiode to weak;
         grant select, insert, update, delete on all tables in schema public, pgdiode to weak;
         grant usage on all sequences in schema public, pgdiode to weak",
    );
    ground.target =
        ground.runtime.block_on(open_as(&ground.cluster, "weak", &chat_layout())).expect("it may");
    let applied = ground.apply(many(0).iter().map(Chat::present).collect());
    assert_eq!(counts(&applied, SESSIONS), [SESSIONS_MANY as u64, 0, 0, 0]);
    assert_eq!(roles(&ground), "origin");
    assert_nothing_is_orphaned(&ground);
}

#[test]
fn a_foreign_key_that_is_no_reference_is_checked() {
    let words = "create table words (word text primary key); insert into words values ('0 of 0'), ('0 of 2');
                 alter table messages add foreign key (body) references words;";
    let mut ground = Ground::new(&format!("{TABLES}{words}{NOTE_ROLE}"), &chat_layout());
    let chats: Vec<Chat> = many(0).into_iter().take(200).collect();
    let applied = ground.apply(chats.iter().map(Chat::present).collect());
    assert_eq!((counts(&applied, MESSAGES), applied.misfits), ([400, 0, 0, 0], 200));
    assert_eq!(ground.sql("select count(*) from messages where body = '0 of 1'"), "0");
    assert_eq!(roles(&ground), "origin");
}

#[test]
fn a_row_that_goes_while_it_is_referred_to_is_waited_for() {
    let mut ground = Ground::new(&format!("{TABLES}{NOTE_ROLE}"), &chat_layout());
    // Nobody refers to this one yet.
    ground.sql("insert into users (external_id, name) values ('u7', 'about to go')");
    let conninfo =
        ConnInfo::parse(&ground.cluster.conninfo("postgres"), &Environment::default()).expect("a conninfo");
    let connect = Session::connect(&conninfo, Side::Target, &[]);
    let mut other = ground.runtime.block_on(connect).expect("a session");
    let going = "begin; delete from users where external_id = 'u7'";
    ground.runtime.block_on(other.query(going)).expect("it is deleted");
    let entries: Vec<_> = many(0).iter().map(Chat::present).collect();
    let Ground { cluster, runtime, target } = &mut ground;
    thread::scope(|scope| {
        let cluster = &*cluster;
        scope.spawn(move || {
            let waits = "select count(*) = 1 from pg_stat_activity where wait_event_type = 'Lock'";
            cluster.wait_until("postgres", waits, "the batch waits for the user to be gone");
            let runtime = Runtime::new().expect("a runtime can be made");
            runtime.block_on(other.query("commit")).expect("it is gone");
        });
        runtime.block_on(target.apply(entries, &at(1))).expect("the user is made again");
    });
    assert_eq!(ground.sql("select count(*), max(name) from users where external_id = 'u7'"), "1|User");
    assert_eq!(ground.sql("select count(*) from messages"), (SESSIONS_MANY * 3).to_string());
    assert_nothing_is_orphaned(&ground);
}

#[test]
fn nothing_is_noted_of_who_is_not_there() {
    let mut ground = Ground::new(&format!("{TABLES}{NOTE_ROLE}"), &chat_layout());
    let mut chats = many(0);
    let mut entries: Vec<_> = chats.iter().map(Chat::present).collect();
    // Its users are not among the rows of any entry.
    chats[5].user = Some("nobody".to_owned());
    entries[5] = chats[5].present();
    entries[5].entry.parts[USERS].rows = Rows::default();
    let applied = ground.apply(entries);
    assert_eq!(counts(&applied, SESSIONS)[0], SESSIONS_MANY as u64 - 1);
    assert!(applied.misfits >= 1, "{applied:?}");
    let said = ground
        .sql("select count(*) > 0 from pgdiode.keyspace_misfit where reason ~ 'referred to is not there'");
    assert_eq!(said, "t");
}
