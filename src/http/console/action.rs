//! Buttons that change something: each asks for a reason first, and what cannot be taken back for a typed word too.
//! They open without JavaScript, as `details`.

use crate::status::fleet::{Duty, Health, Overview, Run, RunState, State};

use super::words::{dom_id, pipeline_path, segment};

/// A form behind a button.
#[derive(Debug, Clone)]
pub(super) struct Action {
    /// Of the DOM.
    pub id: String,
    /// The end of the route, and of the idempotency key.
    pub verb: &'static str,
    pub label: String,
    /// Where it is sent to.
    pub path: String,
    /// What it does, in a sentence.
    pub says: String,
    pub fields: Vec<(&'static str, String)>,
    /// A field to fill in: its name, label and an example.
    pub asks: Option<(&'static str, &'static str, &'static str)>,
    /// What has to be typed into the field `confirm`.
    pub confirm: Option<String>,
    pub is_dangerous: bool,
}

impl Action {
    fn new(verb: &'static str, label: &str, path: String, says: impl Into<String>) -> Action {
        Action {
            id: dom_id(verb, &path),
            verb,
            label: label.to_owned(),
            path,
            says: says.into(),
            fields: Vec::new(),
            asks: None,
            confirm: None,
            is_dangerous: false,
        }
    }

    fn of(pipeline: &Overview, verb: &'static str, label: &str, says: impl Into<String>) -> Action {
        Action::new(verb, label, format!("{}/{verb}", pipeline_path(&pipeline.name)), says)
    }

    fn confirmed(mut self, word: &str) -> Action {
        self.confirm = Some(word.to_owned());
        self.is_dangerous = true;
        self
    }
}

/// Whether its source has keys and no tables.
pub(super) fn has_keys(pipeline: &Overview) -> bool {
    match &pipeline.state {
        Some(State::Stream(status)) if status.keys.is_some() => true,
        _ => pipeline.source.starts_with("redis"),
    }
}

pub(super) fn is_snapshot(pipeline: &Overview) -> bool {
    pipeline.mode == "snapshot"
}

/// What an operator may want of a pipeline at any time, the likeliest first.
pub(super) fn of_pipeline(pipeline: &Overview) -> Vec<Action> {
    let mut actions = Vec::new();
    if is_snapshot(pipeline) {
        let says = "Copies the source anew beside what serves, checks the copy and puts it in its place.";
        actions.push(Action::of(pipeline, "sync", "Sync now", says));
    } else if has_keys(pipeline) {
        actions.push(Action::of(pipeline, "sync", "Sync now", "Looks at every key of the server again."));
    }
    let rests = pipeline.paused.is_some() || pipeline.health == Health::Paused;
    if !rests && waits_after_an_error(pipeline) {
        let says =
            "Tries at once what failed, instead of at the next attempt. Nothing that was done is lost.";
        actions.insert(0, Action::of(pipeline, "resume", "Start again", says));
    }
    actions.push(if rests {
        Action::of(pipeline, "resume", "Resume", "Runs the pipeline again from where it stopped.")
    } else {
        let says = if is_snapshot(pipeline) {
            "No sync begins until somebody resumes it."
        } else {
            "Stops the pipeline until somebody resumes it; the source keeps what it will need."
        };
        Action::of(pipeline, "pause", "Pause", says)
    });
    actions
}

/// It has ended by an error. Of a snapshot pipeline a sync says the same.
fn waits_after_an_error(pipeline: &Overview) -> bool {
    pipeline.problem.is_some() && pipeline.duty == Duty::Idle && !is_snapshot(pipeline)
}

/// The one for a row of a list.
pub(super) fn foremost(pipeline: &Overview) -> Vec<Action> {
    let mut actions = of_pipeline(pipeline);
    // A row has room for one: what it waits for.
    if actions.iter().any(|action| action.verb == "resume") {
        actions.retain(|action| action.verb == "resume");
    }
    actions
}

/// Compares both sides; a sync does that by itself.
pub(super) fn verify(pipeline: &Overview) -> Option<Action> {
    let says = "Compares every row of both sides at one commit. Nothing is changed.";
    (!is_snapshot(pipeline)).then(|| Action::of(pipeline, "verify", "Verify now", says))
}

pub(super) fn resync_table(pipeline: &Overview, table: &str) -> Action {
    let says = format!("Copies {table} again; the other tables go on.");
    let mut action = Action::of(pipeline, "resync", "Resync", says);
    action.id = dom_id("resync", table);
    action.fields.push(("table", table.to_owned()));
    action
}

pub(super) fn resync_key(pipeline: &Overview) -> Action {
    let says = "Looks at one key of the server again, and puts what it holds in the place of its rows.";
    let mut action = Action::of(pipeline, "resync", "Resync a key", says);
    action.asks = Some(("key", "Key", "session:42"));
    action
}

pub(super) fn roll_back(pipeline: &Overview, generation: i64) -> Action {
    let says = format!(
        "Puts generation {generation} in the place of the one that serves, which is kept. Readers see older data at once."
    );
    let mut action = Action::of(pipeline, "rollback", &format!("Roll back to {generation}"), says)
        .confirmed(&pipeline.name);
    action.id = dom_id("rollback", &generation.to_string());
    action.fields.push(("generation", generation.to_string()));
    action
}

pub(super) fn cancel(run: &Run) -> Option<Action> {
    let path = format!("/runs/{}/cancel", segment(&run.id));
    let says = match run.verb.as_str() {
        "sync" => "Ends the run; what serves now goes on serving, and the half-made copy is removed.",
        _ => "Ends the run; what it has done until now stays as it is.",
    };
    (run.state == RunState::Running)
        .then(|| Action::new("cancel", "Cancel the run", path, says).confirmed(&run.pipeline))
}

pub(super) fn verify_audit() -> Action {
    let says = "Reads every entry and checks that each still follows the one before it.";
    Action::new("verify", "Verify now", "/audit/verify".to_owned(), says)
}
