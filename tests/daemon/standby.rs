//! Two daemons of one configuration: one works, the other takes over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use super::Lab;
use crate::harness::ground::free_port;
use crate::harness::http::Http;
use crate::harness::wait_for;

#[test]
fn a_standby_takes_over_from_one_that_was_killed_and_nothing_is_lost_or_applied_twice() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut first = lab.start();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let mut second = lab.run.spawn(&["start", "--listen", &listen]);
    let duty = |port: u16| {
        let answer = Http::new(port).try_send("GET", "/api/v1/pipelines/orders", &[], "").ok()?;
        (answer.status == 200).then(|| answer.success()["duty"].clone())
    };
    wait_for(|| (duty(port)? == "standby").then_some(())).unwrap_or_else(|| panic!("{}", second.stderr()));
    // Somebody writes all the time: each row twice changed, so that a change that is applied twice or never shows.
    let is_over = AtomicBool::new(false);
    let write = || {
        let mut next = 10_000;
        while !is_over.load(Ordering::SeqCst) {
            let sql = format!(
                "insert into orders values ({next}, 'a'); update orders set what = what || 'b' where id = {next}; \
                 update orders set what = what || {next} where id = 2"
            );
            lab.source.psql("app", &sql);
            next += 1;
        }
        next - 1
    };
    let mut kill_in_turns = || {
        lab.target.wait_until("replica", "select count(*) > 5 from orders where id >= 10000", "rows come");
        for _ in 0..2 {
            let (active, other) = if duty(lab.port).as_ref() == Some(&json!("active")) {
                (&mut first, port)
            } else {
                (&mut second, lab.port)
            };
            let before: i64 = lab.target.psql("replica", "select max(id) from orders").parse().unwrap();
            active.kill9();
            wait_for(|| (duty(other)? == "active").then_some(())).expect("the standby takes over");
            let sql = format!("select exists (select from orders where id > {before})");
            lab.target.wait_until("replica", &sql, "rows come again");
            // The one that was killed is started again, and stands by.
            if other == port {
                first = lab.run.spawn(&["start"]);
            } else {
                second = lab.run.spawn(&["start", "--listen", &listen]);
            }
            let killed = if other == port { lab.port } else { port };
            wait_for(|| (duty(killed)? == "standby").then_some(())).expect("it stands by");
        }
        is_over.store(true, Ordering::SeqCst);
    };
    let last = thread::scope(|scope| {
        let writer = scope.spawn(write);
        kill_in_turns();
        writer.join().expect("it wrote")
    });
    lab.target.wait_until(
        "replica",
        &format!("select exists (select from orders where id = {last})"),
        "the last row",
    );
    let all = "select md5(string_agg(id || ' ' || what, ',' order by id)) from orders";
    let expected = lab.source.psql("app", all);
    lab.target.wait_until("replica", &format!("select ({all}) = '{expected}'"), "both sides are alike");
    // A pause counts for both.
    Http::new(lab.port).post("/api/v1/pipelines/orders/pause", &json!({})).success();
    for port in [lab.port, port] {
        wait_for(|| (duty(port)? == "idle").then_some(())).expect("neither runs it");
    }
}
