//! One daemon with many pipelines: each is asked and told, in lists as long as that.

use std::fmt::Write as _;

use super::Lab;
use super::memory::resident_mb;
use crate::harness::wait_for;

/// Beside the two of every lab.
const MORE: usize = 200;
/// A debug build takes some 120 MB.
const RESIDENT_MB_MAX: u64 = 250;

#[test]
fn two_hundred_pipelines_are_asked_and_told_by_one_daemon() {
    let mut more = String::new();
    let lab = Lab::new();
    let source = lab.source.conninfo("app");
    for number in 0..MORE {
        let target = lab.target.conninfo(&format!("many_{number}"));
        writeln!(more, "[pipeline.many_{number}]\nmode = \"snapshot\"\nsource = \"{source}\"").unwrap();
        writeln!(more, "target = \"{target}\"\nsnapshot.free_disk_percent_min = 0").unwrap();
    }
    let config = std::fs::read_to_string(lab.run.config_path()).unwrap();
    std::fs::write(lab.run.config_path(), config + &more).unwrap();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    let http = lab.http();
    let started = wait_for(|| (http.get("/startupz").status == 200).then_some(()));
    assert!(started.is_some(), "{}\n{}", http.get("/startupz").body, running.stderr());
    let list = lab.wait(&mut running, "/api/v1/pipelines", |list| {
        let mut snapshots = list.as_array().unwrap().iter().filter(|one| one["mode"] == "snapshot");
        snapshots.all(|one| one["verdict"] == "It was never synced.")
    });
    let mut names: Vec<_> =
        list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names.len(), MORE + 2);
    // Every one is on one page of the overview, and the second page is full.
    let rows = |page: u32| -> Vec<String> {
        let html = http.get(&format!("/?page={page}"));
        assert_eq!(html.status, 200, "{}", html.body);
        let links = html.body.split("class=\"name\" href=\"/pipelines/").skip(1);
        links.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    let pages = [rows(1), rows(2), rows(3)];
    assert_eq!(pages.each_ref().map(Vec::len), [100, 100, MORE + 2 - 200]);
    let mut shown = pages.concat();
    shown.sort();
    assert_eq!(shown, names);
    let resident = resident_mb(&running);
    assert!(resident < RESIDENT_MB_MAX, "{resident} MB are resident");
    // A server takes 100 sessions; others want some too.
    for server in [&lab.source, &lab.target] {
        assert!(!server.log().contains("too many clients"), "{}", server.log());
    }
    running.terminate();
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
}
