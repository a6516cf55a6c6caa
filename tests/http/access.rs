//! Attacks on the door: whatever a foreign page, a stranger or a signed-in user without the right can send.
//!
//! A small router stands for console and API. Its `POST /act` counts: what was refused must not have been counted.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Form, Request as AxumRequest};
use axum::response::IntoResponse as _;
use axum::response::sse::{Event, Sse};
use axum::routing::{get as on_get, post as on_post};
use axum::{Json, Router};
use pgdiode::config::ServerOptions;
use pgdiode::credentials::{Grant, Role, Token};
use pgdiode::error::Error;
use pgdiode::http::access::{Access, By, Clock, Right, Visitor};
use pgdiode::http::problem::Problem;
use tokio::net::TcpListener;
use tokio::sync::broadcast;

use crate::harness::PATIENCE;

use super::client::{Answer, Request, get, post, request};

const PASSWORD: &str = "correct horse";

/// A served router, its files and its clock.
struct Door {
    address: SocketAddr,
    clock: Clock,
    acted: Arc<AtomicUsize>,
    told: broadcast::Sender<()>,
    files: tempfile::TempDir,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// As `htpasswd -nbB -C 4` makes it: quick, for tests.
fn user(name: &str, password: &str) -> String {
    let hash = bcrypt::hash_with_result(password, 4).unwrap();
    format!("{name}:{}\n", hash.format_for_version(bcrypt::Version::TwoY))
}

impl Door {
    /// Nobody signs in: whoever is on this host is the operator.
    async fn local() -> Door {
        Door::open(ServerOptions::default(), "", "").await
    }

    /// With alice the operator, carol the auditor and bob.
    async fn with_users(options: ServerOptions) -> Door {
        let users: String = ["alice", "bob", "carol"].map(|name| user(name, PASSWORD)).concat();
        Door::open(options, &users, "").await
    }

    async fn open(mut options: ServerOptions, users: &str, tokens: &str) -> Door {
        let files = tempfile::tempdir().unwrap();
        let written = |name: &str, text: &str| -> Option<PathBuf> {
            let path = files.path().join(name);
            std::fs::write(&path, text).unwrap();
            (!text.is_empty()).then_some(path)
        };
        options.users_file = written("users", users);
        options.tokens_file = written("tokens", tokens);
        options.operators = vec!["alice".to_owned()];
        options.auditors = vec!["carol".to_owned()];
        let clock = Clock::default();
        let access = Access::open_at(&options, clock.clone()).unwrap();
        let acted = Arc::new(AtomicUsize::new(0));
        let told = broadcast::channel(8).0;
        let router = access.layer(pages(&acted, &told).merge(access.router()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let serving = tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        Door { address, clock, acted, told, files, serving }
    }

    async fn send(&self, request: Request) -> Answer {
        request.send(self.address).await
    }

    /// Its own pages' origin.
    fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Until so many listen to events.
    async fn until_heard_by(&self, listeners: usize) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.told.receiver_count() < listeners {
            assert!(tokio::time::Instant::now() < deadline, "nobody listens");
            tokio::task::yield_now().await;
        }
    }

    fn acted(&self) -> usize {
        self.acted.load(Ordering::Relaxed)
    }

    /// Refused so, and nothing happened.
    #[track_caller]
    fn refused(&self, answer: &Answer, status: u16) {
        assert_eq!((answer.status, self.acted()), (status, 0), "{answer:?}");
    }

    async fn sign_in(&self, name: &str) -> Session {
        let answer = self.send(login(name, PASSWORD, "/")).await;
        assert_eq!(answer.status, 303, "{answer:?}");
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        let csrf = self.send(get("/csrf").header("Cookie", &cookie)).await.body;
        assert!(csrf.len() > 40, "{csrf}");
        Session { cookie, csrf }
    }
}

struct Session {
    cookie: String,
    csrf: String,
}

impl Session {
    fn of(&self, request: Request) -> Request {
        request.header("Cookie", &self.cookie)
    }

    fn act(&self) -> Request {
        self.of(post("/act")).header("X-CSRF-Token", &self.csrf)
    }
}

fn pages(acted: &Arc<AtomicUsize>, told: &broadcast::Sender<()>) -> Router {
    let counted = |visitor: Visitor, acted: Arc<AtomicUsize>, told: broadcast::Sender<()>| async move {
        visitor.must(Right::Act)?;
        acted.fetch_add(1, Ordering::Relaxed);
        let _ = told.send(());
        Ok::<_, Problem>(visitor.actor())
    };
    let act = {
        let (acted, told) = (acted.clone(), told.clone());
        move |visitor: Visitor| counted(visitor, acted, told)
    };
    let told = told.clone();
    let events = async move || {
        let mut told = told.subscribe();
        let events = async_stream::stream! {
            for _ in 0..2 {
                let _ = told.recv().await;
                yield Ok::<_, Infallible>(Event::default().data("acted"));
            }
        };
        Sse::new(events)
    };
    Router::new()
        .route("/", on_get(async || "overview"))
        .route("/act", on_post(act.clone()).delete(act.clone()).put(act.clone()))
        .route("/api/v1/sync/manual", on_post(act))
        .route("/fields", on_post(async |Form(fields): Form<Vec<(String, String)>>| Json(fields)))
        .route("/careless", on_post(async || "a handler that forgot to ask"))
        .route("/whoami", on_get(async |visitor: Visitor| format!("{visitor:?}")))
        .route("/csrf", on_get(async |visitor: Visitor| visitor.csrf.unwrap_or_default()))
        .route(
            "/header",
            on_get(async |request: AxumRequest| format!("{:?}", request.headers().get("x-user"))),
        )
        .route("/locked", on_get(async || Problem::from(Error::refused("the <main> door")).into_response()))
        .route("/events", on_get(events))
        .route("/metrics", on_get(async || "metrics"))
        .route("/livez", on_get(async || "alive"))
        .route("/assets/console.css", on_get(async || "body {}"))
}

fn login(name: &str, password: &str, next: &str) -> Request {
    let fields = [("name", name), ("password", password), ("next", next)];
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    post("/login").form(&form)
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", data_encoding::BASE64.encode(format!("{name}:{password}").as_bytes()))
}

fn https() -> ServerOptions {
    ServerOptions { public_url: Some("https://replica.example".to_owned()), ..ServerOptions::default() }
}

mod this_host {
    use super::*;

    #[tokio::test]
    async fn whoever_is_here_is_the_operator() {
        let door = Door::local().await;
        let whoami = door.send(get("/whoami")).await;
        assert!(whoami.body.contains("Operator") && whoami.body.contains("Local"), "{whoami:?}");
        // As the documented `curl -X POST` sends it.
        let curl = post("/api/v1/sync/manual").header("User-Agent", "curl/8.5.0").header("Accept", "*/*");
        let answer = door.send(curl.clone()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "local (local, 127.0.0.1)"));
        assert_eq!(door.send(curl.clone().json("{\"reason\": \"x\"}")).await.status, 200);
        let port = door.address.port();
        assert_eq!(door.send(curl.header("Host", &format!("localhost:{port}"))).await.status, 200);
        assert_eq!(door.acted(), 3);
    }

    #[tokio::test]
    async fn a_name_that_was_pointed_here_reads_and_changes_nothing() {
        let door = Door::local().await;
        let port = door.address.port();
        for host in ["evil.example".to_owned(), format!("evil.example:{port}"), format!("10.0.0.1:{port}")] {
            for target in ["/", "/csrf", "/metrics", "/livez", "/login", "/assets/console.css"] {
                let answer = door.send(get(target).header("Host", &host)).await;
                assert_eq!(answer.status, 421, "{host} {target}");
            }
            // As the rebound page's own script sends it: for the browser that is the same origin.
            let rebound = post("/act").header("Host", &host).header("Origin", &format!("http://{host}"));
            door.refused(&door.send(rebound.header("Sec-Fetch-Site", "same-origin")).await, 421);
        }
    }

    /// Without being asked first, a browser sends for a foreign page: forms of three kinds, `fetch` with `no-cors`, and
    /// beacons. `Origin` and `Sec-Fetch-*` are the browser's own; an old one may lack either.
    #[tokio::test]
    async fn whatever_a_foreign_page_sends_changes_nothing() {
        let door = Door::local().await;
        let kinds = [
            post("/act"),
            post("/act").form(""),
            post("/act").form("csrf=guessed&reason=x"),
            post("/act").body("text/plain", "{\"reason\": \"x\"}"),
            post("/act").body("text/plain;charset=UTF-8", ""),
            post("/act").body("multipart/form-data; boundary=x", "--x--\r\n"),
            post("/act").json("{}"),
            request("DELETE", "/act"),
            request("PUT", "/act").json("{}"),
        ];
        for kind in kinds {
            for origin in ["http://evil.example", "null", "http://localhost:3000", "https://127.0.0.1"] {
                door.refused(&door.send(kind.clone().header("Origin", origin)).await, 403);
            }
            for site in ["cross-site", "same-site"] {
                door.refused(&door.send(kind.clone().header("Sec-Fetch-Site", site)).await, 403);
            }
            let referred = kind.clone().header("Referer", "http://evil.example/page");
            door.refused(&door.send(referred).await, 403);
        }
        // Neither header: what is left are the kinds that no program of ours sends.
        door.refused(&door.send(post("/act").form("")).await, 403);
        door.refused(&door.send(post("/act").form("reason=x")).await, 403);
        door.refused(&door.send(post("/act").body("text/plain", "{}")).await, 415);
        door.refused(
            &door.send(post("/act").body("multipart/form-data; boundary=x", "--x--\r\n")).await,
            415,
        );
    }

    #[tokio::test]
    async fn no_page_elsewhere_is_given_leave_to_read() {
        let door = Door::local().await;
        let asked = request("OPTIONS", "/act").header("Origin", "http://evil.example");
        let answer = door.send(asked.header("Access-Control-Request-Method", "POST")).await;
        assert_eq!(answer.all("access-control-allow-origin"), [""; 0]);
        let picture = get("/").header("Sec-Fetch-Site", "cross-site").header("Sec-Fetch-Mode", "no-cors");
        assert_eq!(door.send(picture).await.status, 403);
        let link = get("/").header("Sec-Fetch-Site", "cross-site").header("Sec-Fetch-Mode", "navigate");
        assert_eq!(door.send(link).await.status, 200);
    }

    #[tokio::test]
    async fn its_own_pages_act() {
        let door = Door::local().await;
        let csrf = door.send(get("/csrf")).await.body;
        let form = post("/act").form(&format!("reason=x&csrf={csrf}")).header("Origin", &door.origin());
        assert_eq!(door.send(form.header("Sec-Fetch-Site", "same-origin")).await.status, 200);
        let script = post("/act").header("Origin", &door.origin()).header("X-CSRF-Token", &csrf);
        assert_eq!(door.send(script.clone()).await.status, 200);
        assert_eq!(door.send(script.header("X-CSRF-Token", "")).await.status, 400);
        // The handler finds the form as it was sent.
        let fields = door.send(post("/fields").form(&format!("a=1&csrf={csrf}&b=%20"))).await.json();
        assert_eq!(fields, serde_json::json!([["a", "1"], ["csrf", csrf], ["b", " "]]));
        let long = format!("csrf={csrf}&reason={}", "x".repeat(70_000));
        assert_eq!(door.send(post("/act").form(&long)).await.status, 413);
        assert_eq!(door.acted(), 2);
    }

    /// Such a proxy would make everybody the operator.
    #[tokio::test]
    async fn a_proxy_that_nobody_told_of_is_let_in_by_nothing() {
        let door = Door::local().await;
        for name in ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host"] {
            let answer = door.send(post("/act").header(name, "10.0.0.7")).await;
            door.refused(&answer, 403);
            assert!(answer.json()["hint"].as_str().unwrap().contains("users_file"));
        }
    }
}

mod sessions {
    use super::*;

    #[tokio::test]
    async fn signing_in_and_out() {
        let door = Door::with_users(ServerOptions::default()).await;
        let page = door.send(get("/?a=b").browser()).await;
        assert_eq!((page.status, page.header("location")), (303, "/login?next=%2F%3Fa%3Db"));
        let page = door.send(get("/login?next=%2F%3Fa%3Db").browser()).await;
        assert!(page.status == 200 && page.body.contains("value=\"/?a=b\""), "{page:?}");
        assert!(page.body.contains("autocomplete=\"current-password\""));
        let answer = door.send(login("alice", PASSWORD, "/?a=b").header("Origin", &door.origin())).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/?a=b"));

        let session = door.sign_in("alice").await;
        let acted = door.send(session.act()).await;
        assert_eq!((acted.status, acted.body.as_str()), (200, "alice (console, 127.0.0.1)"));
        assert_eq!(door.send(session.of(get("/login").browser())).await.header("location"), "/");

        door.refused_sign_out(&session).await;
        let out = session.of(post("/logout")).form(&format!("csrf={}", session.csrf));
        let out = door.send(out).await;
        assert_eq!((out.status, out.header("location")), (303, "/login"));
        assert_eq!(out.header("set-cookie"), "pgdiode=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
        assert_eq!(door.send(session.of(get("/whoami"))).await.status, 401);
        assert_eq!(door.send(session.act()).await.status, 401);
        assert_eq!(door.acted(), 1);
    }

    impl Door {
        /// A foreign page signs nobody out.
        async fn refused_sign_out(&self, session: &Session) {
            assert_eq!(self.send(session.of(post("/logout"))).await.status, 403);
            let foreign = session.of(post("/logout")).form(&format!("csrf={}", session.csrf));
            assert_eq!(self.send(foreign.header("Origin", "http://evil.example")).await.status, 403);
            assert_eq!(self.send(session.of(get("/logout"))).await.status, 405);
            assert_eq!(self.send(session.of(get("/whoami"))).await.status, 200);
        }
    }

    #[tokio::test]
    async fn the_cookie_is_kept_from_scripts_other_sites_and_plain_connections() {
        let plain = Door::with_users(ServerOptions::default()).await;
        let answer = plain.send(login("alice", PASSWORD, "/")).await;
        let (id, flags) = answer.header("set-cookie").split_once(';').unwrap();
        assert_eq!(flags, " Path=/; HttpOnly; SameSite=Strict");
        assert!(id.starts_with("pgdiode=") && id.len() == "pgdiode=".len() + 43, "{id}");
        assert_eq!(answer.header("strict-transport-security"), "");

        let tls = Door::with_users(https()).await;
        let answer =
            tls.send(login("alice", PASSWORD, "/").header("Origin", "https://replica.example")).await;
        let (id, flags) = answer.header("set-cookie").split_once(';').unwrap();
        assert!(id.starts_with("__Host-pgdiode="), "{id}");
        assert_eq!(flags, " Path=/; HttpOnly; SameSite=Strict; Secure");
        assert_eq!(answer.header("strict-transport-security"), "max-age=31536000");
        // The other name does not count there: anything could have set it.
        let bare = id.strip_prefix("__Host-").unwrap();
        assert_eq!(tls.send(get("/whoami").header("Cookie", bare)).await.status, 401);
        assert_eq!(tls.send(get("/whoami").header("Cookie", id)).await.status, 200);
    }

    #[tokio::test]
    async fn a_change_needs_the_page_of_this_very_session() {
        let door = Door::with_users(ServerOptions::default()).await;
        let session = door.sign_in("alice").await;
        let other = door.sign_in("alice").await;
        let bobs = door.sign_in("bob").await;
        assert_ne!(session.csrf, other.csrf);
        for wrong in ["", "x", &other.csrf, &bobs.csrf, &session.csrf[1..]] {
            door.refused(&door.send(session.of(post("/act")).form(&format!("csrf={wrong}"))).await, 403);
            door.refused(&door.send(session.of(post("/act")).header("X-CSRF-Token", wrong)).await, 403);
            let json = session.of(post("/act")).json("{}").header("X-CSRF-Token", wrong);
            door.refused(&door.send(json).await, 403);
        }
        for missing in
            [post("/act"), post("/act").json("{}"), post("/act").form("a=b"), request("DELETE", "/act")]
        {
            door.refused(&door.send(session.of(missing)).await, 403);
        }
        // With the right one in the wrong place.
        door.refused(&door.send(session.of(post(&format!("/act?csrf={}", session.csrf)))).await, 403);
        let twice = format!("csrf=x&csrf={}", session.csrf);
        door.refused(&door.send(session.of(post("/act")).form(&twice)).await, 403);
        let foreign = session.act().header("Origin", "http://evil.example");
        door.refused(&door.send(foreign).await, 403);
        assert_eq!(door.send(session.act()).await.status, 200);
    }

    #[tokio::test]
    async fn a_session_that_was_planted_is_not_the_one_that_is_signed_in() {
        let door = Door::with_users(ServerOptions::default()).await;
        let planted = format!("pgdiode={}", "A".repeat(43));
        let answer = door.send(login("alice", PASSWORD, "/").header("Cookie", &planted)).await;
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        assert_ne!(cookie, planted);
        assert_eq!(door.send(get("/whoami").header("Cookie", &planted)).await.status, 401);
        // Bob's own session in alice's browser ends when she signs in.
        let bobs = door.sign_in("bob").await;
        let answer = door.send(bobs.of(login("alice", PASSWORD, "/"))).await;
        assert_eq!(answer.status, 303);
        assert_eq!(door.send(bobs.of(get("/whoami"))).await.status, 401);
        // Beside one that was planted the true one is found.
        let both = format!("{planted}; {cookie}");
        assert!(door.send(get("/whoami").header("Cookie", &both)).await.body.contains("alice"));
    }

    #[tokio::test]
    async fn a_session_ends_when_nobody_is_there_and_after_half_a_day() {
        let door = Door::with_users(ServerOptions::default()).await;
        let session = door.sign_in("alice").await;
        let minutes = |count| door.clock.advance(Duration::from_mins(count));
        minutes(14);
        assert_eq!(door.send(session.of(get("/whoami"))).await.status, 200);
        minutes(14);
        // A page that keeps itself fresh is nobody.
        let stream = session.of(get("/whoami")).header("Accept", "text/event-stream");
        assert_eq!(door.send(stream).await.status, 200);
        let fragment = session.of(get("/whoami")).header("X-Fragment", "live");
        assert_eq!(door.send(fragment).await.status, 200);
        minutes(1);
        assert_eq!(door.send(session.of(get("/whoami"))).await.status, 401);
        assert_eq!(door.send(session.of(get("/").browser())).await.header("location"), "/login");

        let session = door.sign_in("alice").await;
        for _ in 0..71 {
            minutes(10);
            assert_eq!(door.send(session.of(get("/whoami"))).await.status, 200);
        }
        minutes(10);
        assert_eq!(door.send(session.of(get("/whoami"))).await.status, 401);
    }

    #[tokio::test]
    async fn whoever_leaves_the_file_or_changes_the_password_is_signed_out() {
        let door = Door::with_users(ServerOptions::default()).await;
        let (alice, bob) = (door.sign_in("alice").await, door.sign_in("bob").await);
        let users = user("alice", "another password") + &user("carol", PASSWORD);
        std::fs::write(door.files.path().join("users"), users).unwrap();
        for gone in [&alice, &bob] {
            assert_eq!(door.send(gone.of(get("/whoami"))).await.status, 401);
        }
        let alice = basic("alice", "another password");
        assert_eq!(door.send(get("/whoami").header("Authorization", &alice)).await.status, 200);
        // A password that was remembered as right is forgotten with its hash.
        std::fs::write(door.files.path().join("users"), user("carol", PASSWORD)).unwrap();
        assert_eq!(door.send(get("/whoami").header("Authorization", &alice)).await.status, 401);
    }

    /// A page that stays open hears nothing more.
    #[tokio::test]
    async fn events_end_with_the_session_that_asked_for_them() {
        let door = Door::with_users(ServerOptions::default()).await;
        let (alice, bob) = (door.sign_in("alice").await, door.sign_in("bob").await);
        let carol = door.sign_in("carol").await;
        let listening = [&alice, &bob, &carol].map(|session| {
            let (events, address) = (session.of(get("/events")), door.address);
            tokio::spawn(async move { events.send(address).await })
        });
        door.until_heard_by(3).await;
        let out = bob.of(post("/logout")).header("X-CSRF-Token", &bob.csrf);
        assert_eq!(door.send(out).await.status, 303);
        let users = std::fs::read_to_string(door.files.path().join("users")).unwrap();
        let without_carol = users.lines().filter(|line| !line.starts_with("carol")).collect::<Vec<_>>();
        std::fs::write(door.files.path().join("users"), without_carol.join("\n")).unwrap();
        // Each tells one event, and after two of them they end.
        for _ in 0..2 {
            assert_eq!(door.send(alice.act()).await.status, 200);
        }
        for (listener, heard) in listening.into_iter().zip([2, 0, 0]) {
            let told = tokio::time::timeout(PATIENCE, listener).await.expect("it ends").unwrap();
            assert_eq!((told.status, told.body.matches("acted").count()), (200, heard), "{told:?}");
        }
    }

    #[tokio::test]
    async fn nobody_is_sent_to_another_server() {
        let door = Door::with_users(ServerOptions::default()).await;
        for next in [
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "/\t/evil.example",
            "evil",
            "/login",
        ] {
            let answer = door.send(login("alice", PASSWORD, next)).await;
            assert_eq!((answer.status, answer.header("location")), (303, "/"), "{next:?}");
        }
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("next", "//evil.example\"><x")
            .finish();
        let page = door.send(get(&format!("/login?{query}")).browser()).await;
        assert!(page.body.contains("name=\"next\" value=\"/\""), "{page:?}");
        assert_eq!(door.send(get("//evil.example").browser()).await.header("location"), "/login");
    }
}

mod passwords {
    use super::*;

    #[tokio::test]
    async fn nobody_learns_which_users_there_are() {
        let door = Door::with_users(ServerOptions::default()).await;
        let known = door.send(login("alice", "wrong", "/")).await;
        let unknown = door.send(login("mallo", "wrong", "/")).await;
        assert_eq!((known.status, unknown.status), (403, 403));
        assert_eq!(known.body.replace("alice", "mallo"), unknown.body);
        assert!(known.body.contains("The name or the password is wrong."));
        assert_eq!((known.all("set-cookie"), unknown.all("set-cookie")), (vec![], vec![]));
        let [known, unknown] =
            ["alice", "mallo"].map(|name| get("/").header("Authorization", &basic(name, "wrong")));
        let (known, unknown) = (door.send(known).await, door.send(unknown).await);
        assert_eq!((known.status, &known.body), (401, &unknown.body));
        // What was typed comes back as text.
        let page = door.send(login("\"><script>alert(1)</script>", "wrong", "/")).await;
        assert!(page.status == 403 && !page.body.contains("<script>"), "{page:?}");
    }

    #[tokio::test]
    async fn who_guesses_has_to_wait() {
        let options = ServerOptions { login_attempts_per_minute: 3, ..ServerOptions::default() };
        let door = Door::with_users(options).await;
        for _ in 0..3 {
            assert_eq!(door.send(login("alice", "wrong", "/")).await.status, 403);
        }
        let tired = door.send(login("alice", "wrong", "/")).await;
        assert_eq!((tired.status, tired.header("retry-after")), (429, "20"));
        assert!(tired.body.contains("The next is possible in 20 seconds."), "{tired:?}");
        // Not by another name, not by another way, not with a false address, not even with the right password.
        assert_eq!(door.send(login("bob", "wrong", "/")).await.status, 429);
        assert_eq!(door.send(login("alice", PASSWORD, "/")).await.status, 429);
        let hidden = login("alice", "wrong", "/").header("X-Forwarded-For", "10.0.0.1");
        assert_eq!(door.send(hidden).await.status, 429);
        let by_basic = door.send(get("/").header("Authorization", &basic("alice", "wrong"))).await;
        assert_eq!((by_basic.status, by_basic.header("retry-after")), (429, "20"));
        // Others go on, until too many have guessed for alice.
        for host in [2, 3] {
            for _ in 0..3 {
                assert_eq!(door.send(login("alice", "wrong", "/").from([127, 0, 0, host])).await.status, 403);
            }
        }
        assert_eq!(door.send(login("alice", "wrong", "/").from([127, 0, 0, 4])).await.status, 429);
        assert_eq!(door.send(login("bob", PASSWORD, "/").from([127, 0, 0, 4])).await.status, 303);
        door.clock.advance(Duration::from_secs(20));
        assert_eq!(door.send(login("alice", PASSWORD, "/")).await.status, 303);
    }

    #[tokio::test]
    async fn a_program_sends_its_password_with_each_request() {
        let options = ServerOptions { login_attempts_per_minute: 2, ..ServerOptions::default() };
        let door = Door::with_users(options).await;
        let alice = basic("alice", PASSWORD);
        for _ in 0..10 {
            let answer = door.send(post("/act").json("{}").header("Authorization", &alice)).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "alice (password, 127.0.0.1)"));
        }
        // Who was known a moment ago is not shut out by somebody who guesses.
        for _ in 0..2 {
            door.send(get("/").header("Authorization", &basic("alice", "wrong"))).await;
        }
        assert_eq!(door.send(get("/").header("Authorization", &basic("alice", "wrong"))).await.status, 429);
        assert_eq!(door.send(get("/").header("Authorization", &alice)).await.status, 200);
        let acted = door.acted();
        // A browser that remembers the password sends it for any page.
        let form = post("/act").form("a=b").header("Authorization", &alice);
        assert_eq!(door.send(form).await.status, 403);
        let foreign = post("/act").header("Authorization", &alice).header("Origin", "http://evil.example");
        assert_eq!(door.send(foreign).await.status, 403);
        for malformed in
            ["Basic", "Basic ???", "Basic YWxpY2U=", "Digest x", "Bearer x", "pgd_x", "Bearer pgd_x"]
        {
            let answer = door.send(post("/act").header("Authorization", malformed)).await;
            assert_eq!(answer.status, 401, "{malformed}");
        }
        assert_eq!(door.acted(), acted);
    }

    #[tokio::test]
    async fn each_role_may_what_is_its_own() {
        let door = Door::with_users(ServerOptions::default()).await;
        let as_user = |name: &str, request: Request| request.header("Authorization", &basic(name, PASSWORD));
        for (name, look, act, careless) in
            [("alice", 200, 200, 200), ("bob", 200, 403, 403), ("carol", 200, 403, 200)]
        {
            assert_eq!(door.send(as_user(name, get("/whoami"))).await.status, look, "{name}");
            assert_eq!(door.send(as_user(name, post("/act"))).await.status, act, "{name}");
            assert_eq!(door.send(as_user(name, post("/careless"))).await.status, careless, "{name}");
        }
        assert_eq!(door.acted(), 1);
        let refused = door.send(as_user("bob", post("/act"))).await;
        assert_eq!(refused.json()["type"], "/problems/forbidden");
        let session = door.sign_in("bob").await;
        let out = session.of(post("/logout")).form(&format!("csrf={}", session.csrf));
        assert_eq!(door.send(out).await.status, 303, "a viewer signs out too");
    }
}

mod tokens {
    use super::*;

    fn token(
        name: &str,
        role: Role,
        expires: Option<&str>,
        pipelines: Option<Vec<String>>,
    ) -> (String, String) {
        let expires = expires.map(|at| at.parse().unwrap());
        let token = Token::new(&Grant { name: name.to_owned(), role, expires, pipelines }).unwrap();
        (format!("Bearer {}", token.secret.reveal()), token.line + "\n")
    }

    fn in_an_hour() -> String {
        let hour = jiff::SignedDuration::from_hours(1);
        (jiff::Timestamp::now() + hour).to_string()
    }

    #[tokio::test]
    async fn a_token_acts_until_it_expires_or_is_taken_back() {
        let (kept, kept_line) = token("deploy", Role::Operator, None, Some(vec!["main".to_owned()]));
        let (brief, brief_line) = token("brief", Role::Operator, Some(&in_an_hour()), None);
        let (viewer, viewer_line) = token("grafana", Role::Viewer, None, None);
        let lines = [kept_line.as_str(), &brief_line, &viewer_line].concat();
        let door = Door::open(ServerOptions::default(), &user("alice", PASSWORD), &lines).await;
        let with = |token: &str, request: Request| request.header("Authorization", token);
        // Neither origin nor CSRF token: a browser adds no token by itself. A foreign origin is still foreign.
        let acted = door.send(with(&kept, post("/act").form("a=b"))).await;
        assert_eq!((acted.status, acted.body.as_str()), (200, "deploy (token, 127.0.0.1)"));
        let whoami = door.send(with(&kept, get("/whoami"))).await;
        assert!(whoami.body.contains("pipelines: Some([\"main\"])") && whoami.body.contains("csrf: None"));
        assert_eq!(
            door.send(with(&kept, post("/act")).header("Origin", "http://evil.example")).await.status,
            403
        );
        assert_eq!(door.send(with(&viewer, get("/whoami"))).await.status, 200);
        assert_eq!(door.send(with(&viewer, post("/act"))).await.status, 403);
        let unknown = door.send(with(&format!("Bearer pgd_{}", "A".repeat(43)), get("/"))).await;
        assert_eq!((unknown.status, unknown.json()["type"].as_str()), (401, Some("/problems/unauthorized")));
        // What the file holds is no token.
        let hash = kept_line.split(':').nth(1).unwrap();
        assert_eq!(door.send(with(&format!("Bearer pgd_{hash}"), get("/"))).await.status, 401);
        // A token that is wrong is not made good by a session.
        let session = door.sign_in("alice").await;
        assert_eq!(door.send(with("Bearer pgd_x", session.of(get("/")))).await.status, 401);

        assert_eq!(door.send(with(&brief, get("/"))).await.status, 200);
        door.clock.advance(Duration::from_mins(61));
        assert_eq!(door.send(with(&brief, get("/"))).await.status, 401);
        std::fs::write(door.files.path().join("tokens"), viewer_line).unwrap();
        assert_eq!(door.send(with(&kept, get("/"))).await.status, 401);
        assert_eq!(door.send(with(&viewer, get("/"))).await.status, 200);
    }

    #[tokio::test]
    async fn on_this_host_a_token_gives_what_it_says_and_no_more() {
        let (viewer, line) = token("grafana", Role::Viewer, None, None);
        let door = Door::open(ServerOptions::default(), "", &line).await;
        let answer = door.send(post("/act").header("Authorization", &viewer)).await;
        door.refused(&answer, 403);
        door.refused(&door.send(post("/act").header("Authorization", "Bearer pgd_x")).await, 401);
        assert_eq!(door.send(post("/act")).await.status, 200);
    }
}

mod proxies {
    use super::*;

    const PROXY: [u8; 4] = [127, 0, 0, 2];

    fn behind_a_proxy() -> ServerOptions {
        ServerOptions {
            proxy_user_header: "X-User".to_owned(),
            trusted_proxies: vec!["127.0.0.2".to_owned(), "10.0.0.0/8".to_owned()],
            login_attempts_per_minute: 2,
            ..https()
        }
    }

    #[tokio::test]
    async fn a_proxys_word_is_taken_from_that_proxy_alone() {
        let door = Door::open(behind_a_proxy(), "", "").await;
        let named = |name: &str| get("/whoami").header("X-User", name);
        let by_proxy = door.send(named("alice").from(PROXY)).await;
        assert!(by_proxy.body.contains("alice") && by_proxy.body.contains("Operator"), "{by_proxy:?}");
        assert!(by_proxy.body.contains("Proxy"));
        assert!(door.send(named("dave").from(PROXY)).await.body.contains("Viewer"));
        // From anybody else it is nothing, whatever else they say; and being on this host is nothing either.
        for spoofed in
            [named("alice"), named("alice").from([127, 0, 0, 3]), get("/whoami"), get("/whoami").from(PROXY)]
        {
            assert_eq!(door.send(spoofed.clone()).await.status, 401);
            assert_eq!(door.send(spoofed.header("X-Forwarded-For", "127.0.0.2")).await.status, 401);
        }
        // A client that adds the header before the proxy does.
        assert_eq!(door.send(named("alice").header("X-User", "dave").from(PROXY)).await.status, 400);
        for malformed in ["alice (console, 10.0.0.1)", "a,b", "a b"] {
            assert_eq!(door.send(named(malformed).from(PROXY)).await.status, 401, "{malformed}");
        }
        assert_eq!(door.send(named("").from(PROXY)).await.status, 401);
        // Handlers never see it.
        let seen = door.send(get("/header").header("X-User", "alice").from(PROXY)).await;
        assert_eq!(seen.body, "None");
    }

    #[tokio::test]
    async fn what_a_proxy_lets_through_is_checked_all_the_same() {
        let door = Door::open(behind_a_proxy(), "", "").await;
        let alice = |request: Request| request.header("X-User", "alice").from(PROXY);
        // The proxy's cookie goes along with whatever a foreign page sends.
        door.refused(&door.send(alice(post("/act").form("a=b"))).await, 403);
        door.refused(&door.send(alice(post("/act")).header("Origin", "https://evil.example")).await, 403);
        door.refused(&door.send(alice(post("/act")).header("Host", "evil.example")).await, 421);
        let csrf = door.send(alice(get("/csrf"))).await.body;
        let others = door.send(get("/csrf").header("X-User", "dave").from(PROXY)).await.body;
        door.refused(&door.send(alice(post("/act").form(&format!("csrf={others}")))).await, 403);
        let own = alice(post("/act").form(&format!("csrf={csrf}"))).header("Host", "replica.example");
        assert_eq!(door.send(own.header("Origin", "https://replica.example")).await.status, 200);
    }

    #[tokio::test]
    async fn a_clients_address_is_believed_of_trusted_proxies_alone() {
        let door = Door::with_users(behind_a_proxy()).await;
        let alice = basic("alice", PASSWORD);
        let seen = async |forwarded: &str, from: [u8; 4]| {
            let request = get("/whoami").header("Authorization", &alice).from(from);
            let body = door.send(request.header("X-Forwarded-For", forwarded)).await.body;
            body.split("address: ").nth(1).unwrap().split(',').next().unwrap().to_owned()
        };
        assert_eq!(seen("192.0.2.1", PROXY).await, "192.0.2.1");
        assert_eq!(seen("192.0.2.1", [127, 0, 0, 1]).await, "127.0.0.1");
        // What the client wrote stands in front of what the proxies added.
        assert_eq!(seen("198.51.100.9, 192.0.2.1, 10.0.0.4", PROXY).await, "192.0.2.1");
        assert_eq!(seen("nonsense", PROXY).await, "127.0.0.2");
        // So that one client's guesses are its own, however it calls itself.
        let guess =
            |forwarded: &str| login("bob", "wrong", "/").header("X-Forwarded-For", forwarded).from(PROXY);
        for statuses in [("192.0.2.1", [403, 403, 429]), ("192.0.2.2", [403, 403, 429])] {
            for status in statuses.1 {
                assert_eq!(
                    door.send(guess(&format!("10.1.1.1, 203.0.113.9, {}", statuses.0))).await.status,
                    status
                );
            }
        }
    }
}

#[tokio::test]
async fn who_has_not_signed_in_sees_what_is_open_and_nothing_else() {
    let options = ServerOptions { metrics_public: Some(false), ..ServerOptions::default() };
    let door = Door::with_users(options).await;
    for open in ["/livez", "/assets/console.css", "/login"] {
        assert_eq!(door.send(get(open)).await.status, 200, "{open}");
    }
    for shut in [
        "/",
        "/whoami",
        "/metrics",
        "/metrics/",
        "/livez/",
        "/assets",
        "/login/",
        "/nothing",
        "/LIVEZ",
        "//livez",
    ] {
        assert_eq!(door.send(get(shut)).await.status, 401, "{shut}");
        assert_eq!(door.send(get(shut).browser()).await.status, 303, "{shut}");
    }
    let refused = door.send(get("/whoami")).await;
    assert_eq!(refused.header("content-type"), "application/problem+json");
    let ways = refused.all("www-authenticate");
    assert_eq!(ways, ["Bearer realm=\"pgdiode\"", "Basic realm=\"pgdiode\", charset=\"UTF-8\""]);
    // A browser's script must not make it ask for a password.
    let script = door.send(get("/whoami").header("Sec-Fetch-Site", "same-origin")).await;
    assert_eq!(script.all("www-authenticate"), ["Bearer realm=\"pgdiode\""]);
    let changed = door.send(post("/act").browser().form("a=b")).await;
    assert_eq!((changed.status, changed.header("location"), door.acted()), (303, "/login", 0));
    let public = Door::with_users(ServerOptions::default()).await;
    assert_eq!(public.send(get("/metrics")).await.body, "metrics");
}

#[tokio::test]
async fn each_answer_tells_the_browser_what_not_to_do() {
    let door = Door::with_users(ServerOptions::default()).await;
    for target in ["/login", "/livez", "/whoami", "/nothing", "/assets/console.css"] {
        let answer = door.send(get(target)).await;
        let policy = answer.header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{target}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "same-origin");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin");
        let is_asset = target.starts_with("/assets/");
        assert_eq!(answer.header("cache-control"), if is_asset { "" } else { "no-store" }, "{target}");
    }
}

#[tokio::test]
async fn a_browser_gets_a_problem_as_a_page() {
    let door = Door::local().await;
    let json = door.send(get("/locked")).await;
    assert_eq!((json.status, json.json()["exit_status"].as_u64()), (409, Some(3)));
    let page = door.send(get("/locked").browser()).await;
    assert_eq!((page.status, page.header("content-type")), (409, "text/html; charset=utf-8"));
    assert!(page.body.contains("the &#60;main&#62; door"), "{page:?}");
}

/// Runs the program, with something on standard input.
fn pgdiode(arguments: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgdiode"));
    command.args(arguments).env_clear().current_dir(std::env::temp_dir());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[tokio::test]
async fn what_the_verbs_make_lets_in() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("tokens");
    let made =
        ["token", "deploy", "--role", "operator", "--scope", "main", "--append", path.to_str().unwrap()];
    let token = pgdiode(&made, "").unwrap();
    assert!(pgdiode(&made, "").unwrap_err().contains("has a token \"deploy\" already"));
    let scoped: serde_json::Value =
        serde_json::from_str(&pgdiode(&["token", "chat", "--pipeline", "chat", "--json"], "").unwrap())
            .unwrap();
    let tokens = format!("{}{}\n", std::fs::read_to_string(&path).unwrap(), scoped["line"].as_str().unwrap());
    let alice = pgdiode(&["password", "alice"], "correct horse\n").unwrap();
    assert!(pgdiode(&["password", "alice"], "short\n").unwrap_err().contains("at least 8 characters"));

    let door = Door::open(ServerOptions::default(), &alice, &tokens).await;
    let whoami = async |authorization: &str| {
        let answer = door.send(get("/whoami").header("Authorization", authorization)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    };
    let deploy = whoami(&format!("Bearer {}", token.trim())).await;
    assert!(deploy.contains("Operator") && deploy.contains("[\"main\"]"), "{deploy}");
    let chat = whoami(&format!("Bearer {}", scoped["token"].as_str().unwrap())).await;
    assert!(chat.contains("Viewer") && chat.contains("[\"chat\"]"), "{chat}");
    assert!(whoami(&basic("alice", PASSWORD)).await.contains("\"alice\""));
}

#[test]
fn a_door_that_is_not_safe_is_not_opened() {
    let open = |options: &ServerOptions| Access::open(options).unwrap_err();
    let error = open(&ServerOptions::listening("0.0.0.0:8000"));
    assert!(error.what().contains("there is no TLS"), "{error:?}");
    let files = tempfile::tempdir().unwrap();
    let users = files.path().join("users");
    std::fs::write(&users, "alice:$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00\n").unwrap();
    let error = open(&ServerOptions { users_file: Some(users), ..ServerOptions::default() });
    assert!(error.what().contains("users:1: user \"alice\": the hash is MD5"), "{error:?}");
    assert_eq!(By::Session.as_str(), "console");
}
