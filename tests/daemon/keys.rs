//! The routes for sessions out of a Redis server, as other programs call them.

use serde_json::json;

use crate::harness::ground::free_port;
use crate::harness::http::Http;
use crate::harness::wait_for;
use crate::redis::sessions::{Chat, SESSION};

#[test]
fn sessions_are_synced_and_compared() {
    let mut chat = Chat::new();
    let port = free_port();
    chat.run.set("PGDIODE_LISTEN", &format!("127.0.0.1:{port}"));
    for name in ["a", "b"] {
        chat.redis.cli(&["SET", &format!("session:{name}"), SESSION]);
    }
    let running = chat.run.spawn(&["start"]);
    let http = Http::new(port);
    let status = wait_for(|| {
        let answer = http.try_send("GET", "/api/v1/sync/status", &[], "").ok()?;
        let status = (answer.status == 200).then(|| answer.success())?;
        (status["service_status"] == "running" && status["redis_connected"] == true).then_some(status)
    });
    let status = status.unwrap_or_else(|| panic!("{}", running.stderr()));
    assert_eq!(status["sync_enabled"], true, "{status}");
    wait_for(|| (chat.sql("select count(*) from sessions") == "2").then_some(())).expect("both are there");
    let compared = http.json("/api/v1/sync/sessions/compare");
    assert_eq!(
        (&compared["identical"], &compared["redis_sessions"]),
        (&json!(true), &json!(2)),
        "{compared}"
    );
    // What was lost by hand is told by its id, and comes back by its id.
    chat.sql("delete from messages; delete from sessions where session_key = 'b'");
    let compared = http.json("/api/v1/sync/sessions/compare");
    assert_eq!(compared["different"], json!(["a", "b"]), "{compared}");
    for id in ["a", "b"] {
        let run = http.send("POST", &format!("/api/v1/sync/session/{id}"), &[], "").with_status(202);
        let path = format!("/api/v1/runs/{}", run["id"].as_str().unwrap());
        let ended = wait_for(|| Some(http.json(&path)).filter(|run| run["state"] != "running"));
        assert_eq!(ended.unwrap()["result"]["synced"], true);
    }
    assert_eq!(http.json("/api/v1/sync/sessions/compare")["identical"], true);
    // As with curl, without a body. Every key is looked at again, at any time from now on: nothing is spoilt by hand after it.
    let manual = http.send("POST", "/api/v1/sync/manual", &[], "").with_status(202);
    assert_eq!(manual["verb"], "sync", "{manual}");
}
