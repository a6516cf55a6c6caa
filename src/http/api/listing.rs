//! The list of pipelines as text, made once for each fleet that is published, however many ask for it.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use serde_json::json;

use super::pipelines::Summary;
use crate::status::fleet::{Fleet, Overview};

/// The text of the fleet that was asked for last.
#[derive(Clone, Default)]
pub(in crate::http) struct Listings(Arc<Mutex<Option<Arc<Listing>>>>);

/// A fleet's pipelines in short, as JSON.
pub(super) struct Listing {
    fleet: Arc<Fleet>,
    each: Vec<String>,
    all: Bytes,
}

impl Listings {
    /// Whoever asks for a new fleet first makes its text; others wait for that.
    pub(super) fn of(&self, fleet: &Arc<Fleet>) -> Arc<Listing> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It is held, so that no other one can be where it was.
        if let Some(listing) = kept.as_ref().filter(|listing| Arc::ptr_eq(&listing.fleet, fleet)) {
            return Arc::clone(listing);
        }
        Arc::clone(kept.insert(Arc::new(Listing::new(Arc::clone(fleet)))))
    }
}

impl Listing {
    fn new(fleet: Arc<Fleet>) -> Listing {
        let each: Vec<String> =
            fleet.pipelines.iter().map(|one| json!(Summary::of(one)).to_string()).collect();
        let all = joined(each.iter());
        Listing { fleet, each, all }
    }

    /// Of all pipelines.
    pub(super) fn all(&self) -> Bytes {
        self.all.clone()
    }

    /// Of those that are wanted.
    pub(super) fn of_those(&self, is_wanted: impl Fn(&Overview) -> bool) -> Bytes {
        let both = self.fleet.pipelines.iter().zip(&self.each);
        joined(both.filter(|(one, _)| is_wanted(one)).map(|(_, text)| text))
    }
}

fn joined<'a>(each: impl Iterator<Item = &'a String>) -> Bytes {
    let each: Vec<&str> = each.map(String::as_str).collect();
    format!("[{}]", each.join(",")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::fleet::{Duty, Health, Instance};

    fn overview(name: &str, health: Health) -> Arc<Overview> {
        Arc::new(Overview {
            name: name.into(),
            mode: "stream".into(),
            source: String::new(),
            target: "\"quoted\"".into(),
            health,
            verdict: "Streaming; it has everything.".into(),
            since: "2026-11-22T09:00:00Z".into(),
            duty: Duty::Active,
            paused: None,
            problem: None,
            progress: None,
            state: None,
            asked_at: None,
            runs: Vec::new(),
            verification: None,
            storage: None,
            schema_drift: None,
            samples: Arc::default(),
        })
    }

    fn fleet(pipelines: Vec<Arc<Overview>>) -> Arc<Fleet> {
        let instance = Instance {
            host: "h".into(),
            process_id: 1,
            version: "0".into(),
            started_at: String::new(),
            at: String::new(),
            configured_at: String::new(),
            certificate_expires_at: None,
        };
        Arc::new(Fleet { instance, pipelines })
    }

    fn anew(fleet: &Fleet) -> serde_json::Value {
        json!(fleet.pipelines.iter().map(|one| Summary::of(one)).collect::<Vec<_>>())
    }

    fn read(bytes: &Bytes) -> serde_json::Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn the_text_is_made_once_and_anew_for_another_fleet() {
        let listings = Listings::default();
        let one = fleet(vec![overview("a", Health::Healthy), overview("b", Health::Failed)]);
        let listing = listings.of(&one);
        assert_eq!(read(&listing.all()), anew(&one));
        assert!(Arc::ptr_eq(&listing, &listings.of(&one)), "it is the same text, not an equal one");
        let other = fleet(vec![overview("a", Health::Paused)]);
        let renewed = listings.of(&other);
        assert_eq!(read(&renewed.all()), anew(&other));
        assert_ne!(renewed.all(), listing.all());
        assert_eq!(read(&listings.of(&fleet(Vec::new())).all()), json!([]));
    }

    #[test]
    fn nobody_is_told_of_what_was_not_wanted() {
        let fleet = fleet(["a", "b", "c"].map(|name| overview(name, Health::Healthy)).to_vec());
        let listing = Listings::default().of(&fleet);
        let some = listing.of_those(|one| one.name != "b");
        let names: Vec<_> = read(&some).as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(read(&listing.of_those(|_| false)), json!([]));
        assert_eq!(listing.of_those(|_| true), listing.all());
    }
}
