//! Readers that never stop see whole generations, the old one or the new one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::*;

/// Both tables in one statement, again and again over one connection, which is made anew when it breaks.
const READ: &str = "select (select min(generation) || ' ' || max(generation) from stamp)
    || ' ' || (select count(*) || ' ' || min(v) || ' ' || max(v) from item);\n";

#[test]
fn readers_see_only_whole_generations() {
    let ground = Ground::new();
    ground.source.psql("app", "update item set v = 'g1'");
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).success();
    let stop = Arc::new(AtomicBool::new(false));
    let (seen, errors) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (stop, seen, errors, target) = (stop.clone(), seen.clone(), errors.clone(), &ground.target);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Many reads over one connection: some are cut in the middle of it.
                    match target.try_psql("li", &READ.repeat(50)) {
                        Ok(lines) => seen.lock().unwrap().extend(lines.lines().map(str::to_owned)),
                        Err(error) => errors.lock().unwrap().push(error),
                    }
                }
            });
        }
        for generation in 2..=4 {
            ground.source.psql(
                "app",
                &format!("begin; update stamp set generation = {generation}; update item set v = 'g{generation}'; commit"),
            );
            sync(&pgdiode).success();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut seen = Arc::try_unwrap(seen).unwrap().into_inner().unwrap();
    assert!(seen.len() > 100, "the readers read {} times only", seen.len());
    seen.dedup();
    seen.sort();
    seen.dedup();
    for line in &seen {
        let number = &line[..1];
        assert_eq!(line, &format!("{number} {number} 1000 g{number} g{number}"), "{seen:?}");
    }
    for error in errors.lock().unwrap().iter() {
        let is_a_reconnect = [
            "terminating connection due to administrator command",
            "has just been dropped or renamed",
            "seems to have just been dropped or renamed",
            "server closed the connection unexpectedly",
            "does not exist",
        ];
        assert!(is_a_reconnect.iter().any(|text| error.contains(text)), "{error}");
    }
    assert_eq!(ground.stamp(), "4");
}
