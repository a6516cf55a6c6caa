//! The preset `chat-sessions` with nothing but the environment that the seed has.

use crate::harness::{Cluster, PgdiodeRun, RedisServer, RedisVersion, Running, Version, wait_for};

pub struct Chat {
    postgres: Cluster,
    pub redis: RedisServer,
    pub run: PgdiodeRun,
}

impl Chat {
    pub fn new() -> Chat {
        let postgres = Cluster::start(Version::V15, &[]);
        postgres.psql("postgres", "create database chat");
        let redis = RedisServer::start(RedisVersion::V7_0, &[("repl-backlog-size", "16mb")]);
        let mut run = PgdiodeRun::new("");
        std::fs::remove_file(run.config_path()).expect("it was made");
        run.set("PGDIODE_CONFIG", "");
        run.set("REDIS_HOST", "127.0.0.1");
        run.set("REDIS_PORT", &redis.port().to_string());
        run.set("REDIS_SESSION_TTL_HOURS", "24");
        run.set("DATABASE_URL", &postgres.conninfo("chat"));
        Chat { postgres, redis, run }
    }

    fn start(&self) -> Running {
        let mut running = self.run.spawn(&["start"]);
        running.wait_for_log("listening as a replica");
        running
    }

    pub fn sql(&self, sql: &str) -> String {
        self.postgres.psql("chat", sql).trim().to_owned()
    }

    fn becomes(&self, sql: &str, wanted: &str, running: &Running) {
        let mut last = String::new();
        let became = wait_for(|| {
            self.postgres.try_psql("chat", sql).unwrap_or_default().trim().clone_into(&mut last);
            (last == wanted).then_some(())
        });
        assert!(became.is_some(), "{sql}: {last:?} and not {wanted:?}\n{}", running.stderr());
    }
}

pub const SESSION: &str = r#"{"session_id":"a","user_id":"u1","user_name":"Ada","group_id":"g1","title":"first",
"created_at":"2026-01-02T03:04:05Z","messages":[
{"sender_id":"u1","sender_name":"Ada","content":"hello","timestamp":1767323046},
{"sender_id":"u2","content":"hello","timestamp":1767323046},
{"sender_id":"u2","content":"hello","timestamp":1767323046},
{"content":"nobody said this"}]}"#;

#[test]
fn sessions_become_rows_and_outlive_their_keys() {
    let chat = Chat::new();
    chat.redis.cli(&["SET", "session:a", SESSION, "EX", "86400"]);
    let mut running = chat.start();
    chat.becomes("select count(*) from messages", "3", &running);
    // Said twice by the same one at the same time: two messages all the same.
    assert_eq!(
        chat.sql(
            "select count(*) from messages m join users u on u.id = m.sender_id where u.external_id = 'u2'"
        ),
        "2"
    );
    assert_eq!(chat.sql("select name from users where external_id = 'u1'"), "Ada");
    assert_eq!(
        chat.sql(
            "select count(*) from groups g join sessions s on s.group_id = g.id where g.external_id = 'g1'"
        ),
        "1"
    );
    assert_eq!(chat.sql("select expires_at > now() + interval '23 hours' from sessions"), "t");
    // What is no row says why, and no log has what was said.
    assert_eq!(
        chat.sql("select table_name || ' ' || place from pgdiode.keyspace_misfit"),
        "public.messages $.messages[3]"
    );
    assert!(!running.stderr().contains("nobody said this"), "{}", running.stderr());
    let id = chat.sql("select id from sessions");
    chat.redis.cli(&["SET", "session:a", &SESSION.replace("first", "second"), "PX", "80"]);
    chat.becomes(
        "select title || ' ' || (expired_at is not null) || ' ' || (deleted_at is null) from sessions",
        "second true true",
        &running,
    );
    assert_eq!(chat.sql("select count(*) from messages"), "3");
    // It returns as the session that it was.
    chat.redis.cli(&["SET", "session:a", SESSION]);
    chat.becomes("select id || ' ' || (expired_at is null) from sessions", &format!("{id} true"), &running);
    chat.redis.cli(&["DEL", "session:a"]);
    chat.becomes(
        "select (expired_at is null) || ' ' || (deleted_at is not null) from sessions",
        "true true",
        &running,
    );
    running.terminate();
    assert_eq!(running.wait().code(), Some(143));
    let status = chat.run.run(&["status"]).success();
    assert!(status.contains("0 keys, 1 gone"), "{status}");
}

#[test]
fn sessions_that_live_for_a_moment_are_not_lost() {
    let chat = Chat::new();
    let running = chat.start();
    chat.becomes("select is_scanned from pgdiode.keyspace_position", "t", &running);
    let commands = (0..400).map(|number| {
        let session = format!(r#"{{"messages":[{{"sender_id":"u","id":"m","content":"{number}"}}]}}"#);
        ["SET".to_owned(), format!("session:{number}"), session, "PX".to_owned(), "20".to_owned()]
    });
    chat.redis.client().pipeline(commands);
    chat.becomes("select count(*) from sessions where expired_at is not null", "400", &running);
    assert_eq!(chat.sql("select count(distinct content) from messages"), "400");
}

#[test]
fn a_value_that_is_no_session_holds_nobody_up() {
    let chat = Chat::new();
    let mut client = chat.redis.client();
    let huge = format!(r#"{{"title":"huge","metadata":{{"x":"{}"}}}}"#, "y".repeat(30 << 20));
    let deep = format!(r#"{{"metadata":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let values: [(&[u8], &[u8]); 9] = [
        (b"session:good", br#"{"title":"good","messages":[]}"#),
        (b"session:no-json", b"{\"title\":"),
        (b"session:not-utf8", b"{\"title\":\"\xff\"}"),
        (b"session:nul", br#"{"title":"a\u0000b"}"#),
        (b"session:surrogate", br#"{"title":"a","metadata":{"x":"\ud800"}}"#),
        (b"session:big-number", br#"{"title":"big","metadata":{"n":123456789012345678901234567890}}"#),
        (b"session:\xff\xfe", br#"{"title":"binary key"}"#),
        (b"session:huge", huge.as_bytes()),
        (b"session:deep", deep.as_bytes()),
    ];
    for (key, value) in values {
        client.call(&[b"SET", key, value]);
    }
    client.call(&["HSET", "session:hash", "a", "b"]);
    let long = format!("session:{}", "k".repeat(5000));
    client.call(&["SET", &long, r#"{"title":"long key"}"#]);
    let running = chat.start();
    chat.becomes("select is_scanned from pgdiode.keyspace_position", "t", &running);
    assert_eq!(chat.sql("select title from sessions where session_key = 'good'"), "good");
    assert_eq!(
        chat.sql("select metadata ->> 'n' from sessions where session_key = 'big-number'"),
        "123456789012345678901234567890"
    );
    assert_eq!(
        chat.sql("select length(metadata ->> 'x') from sessions where session_key = 'huge'"),
        (30 << 20).to_string()
    );
    let names = "select string_agg(distinct convert_from(name, 'LATIN1'), ' ' order by convert_from(name, 'LATIN1')) from pgdiode.keyspace_misfit where length(name) < 100";
    let misfits = chat.sql(names);
    for key in ["no-json", "not-utf8", "nul", "surrogate", "hash", "deep"] {
        assert!(misfits.contains(&format!("session:{key}")), "{key}: {misfits}");
    }
    // A key longer than an index takes: its session is one of them, or a misfit; it stopped nobody.
    let told = "select count(*) from (select 1 from sessions where length(session_key) = 5000 union all
                select 1 from pgdiode.keyspace_misfit where length(name) > 5000) as either";
    assert_eq!(chat.sql(told), "1");
    // Put right, it fits.
    client.call(&["SET", "session:nul", r#"{"title":"ab"}"#]);
    chat.becomes("select title from sessions where session_key = 'nul'", "ab", &running);
    chat.becomes("select count(*) from pgdiode.keyspace_misfit where name = 'session:nul'", "0", &running);
}
