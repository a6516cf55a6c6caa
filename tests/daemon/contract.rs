//! The API does what its description says, as a client finds that knows nothing but the description: it asks every
//! route, with what is described and with what is not, and compares each answer.

use std::process::Output;

use serde_json::{Value, json};

use super::Lab;
use crate::harness::python_with;

/// Has the client try what is described at this place.
fn tried(lab: &Lab, place: &str, more: &[&str]) -> Output {
    let directory = lab.run.directory();
    let mut command = python_with("schemathesis");
    command.current_dir(directory).args(["-m", "schemathesis.cli", "run", place, "--seed", "1"]);
    // Requests that fit the description may be refused for other reasons: another run, a pause.
    command.args(["--checks", "all", "--exclude-checks", "positive_data_acceptance"]);
    // An answer of events does not end.
    command.args(["--exclude-path-regex", "events", "--phases", "examples,coverage,fuzzing"]);
    command.args(["--max-examples", "15", "--generation-database", "none", "--no-color"]).args(more);
    command.output().expect("python3 runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_client_that_has_only_the_description_finds_nothing_wrong() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    // Of names and ids that are guessed there is nothing, mostly; of `gone` neither.
    let http = lab.http();
    let run = http.post("/api/v1/pipelines/orders/verify", &json!({})).with_status(202);
    let known = format!(
        "[parameters]\n\"path.name\" = {{ dictionary = \"names\", probability = 0.8 }}\n\
         \"path.id\" = {{ dictionary = \"ids\", probability = 0.8 }}\n\
         [dictionaries]\nnames.values = [\"orders\", \"li\", \"gone\"]\nids.values = [{}, \"gone\"]\n",
        run["id"]
    );
    std::fs::write(lab.run.directory().join("schemathesis.toml"), known).unwrap();
    let place = format!("http://127.0.0.1:{}/openapi.json", lab.port);
    let output = tried(&lab, &place, &[]);
    assert!(output.status.success(), "{}\n{}", output.status, said(&output));
    assert!(running.is_running());
    assert_eq!(http.get("/readyz").status, 200);
}

#[test]
fn what_no_audit_log_can_hold_or_has_is_a_problem() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let _running = lab.start();
    let http = lab.http();
    for path in ["orders/pause", "orders/verify", "li/sync"] {
        let answer = http.post(&format!("/api/v1/pipelines/{path}"), &json!({ "reason": "a\0b" }));
        assert_eq!(answer.with_status(422)["type"], "/problems/unfit-body", "{path}");
    }
    // Its length is that of the description, blanks and all, in characters.
    let resume = |reason: String| http.post("/api/v1/pipelines/orders/resume", &json!({ "reason": reason }));
    resume("é".repeat(2000)).success();
    for reason in ["é".repeat(2001), " ".repeat(2001)] {
        assert_eq!(resume(reason).with_status(422)["type"], "/problems/reason-too-long");
    }
    // Nothing was ever done with this one: there is no log, and no half of an answer.
    let export = http.get("/api/v1/pipelines/li/audit/export").with_status(409);
    assert!(export["hint"].is_string(), "{export}");
}

#[test]
fn the_client_finds_a_description_that_is_wrong() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let _running = lab.start();
    let mut document = lab.http().json("/openapi.json");
    let list = &mut document["paths"]["/api/v1/runs"]["get"]["responses"]["200"];
    assert_eq!(list["content"]["application/json"]["schema"]["type"], "array", "{list}");
    list["content"]["application/json"]["schema"] = json!({ "type": "object" });
    document["paths"] = only(&document["paths"], "/api/v1/runs");
    let file = lab.run.directory().join("wrong.json");
    std::fs::write(&file, document.to_string()).unwrap();
    let url = format!("http://127.0.0.1:{}", lab.port);
    let output = tried(&lab, file.to_str().unwrap(), &["--url", &url]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("Response violates schema"), "{}", said(&output));
}

fn only(paths: &Value, path: &str) -> Value {
    json!({ path: paths[path] })
}
