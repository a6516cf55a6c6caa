//! Every page of the made-up fleet: the other tests look at them, and those with a browser leave them in `target/console/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pgdiode::http::console::{
    AuditPage, AuditQuery, Beside, Flash, ProblemPage, Query, Tab, Viewer, asset, audit, overview, pipeline,
    problem, run, settings,
};
use pgdiode::status::fleet::Fleet;

use super::fleet;

pub const TABS: [&str; 6] = ["", "tables", "schema", "runs", "verification", "storage"];

/// Names and whole pages.
pub fn pages() -> Vec<(String, String)> {
    let viewer = fleet::viewer();
    let mut pages = lists(&viewer);
    for name in ["orders", "billing", "synapse", "analytics", "sessions", "ledger", "warehouse", "reports"] {
        pages.extend(of_pipeline(&fleet::rich(), name, name, &viewer));
    }
    pages.extend(of_pipeline(&fleet::with_hostile(), fleet::HOSTILE, "hostile", &viewer));
    pages.extend(others(&viewer));
    pages
}

fn lists(viewer: &Viewer) -> Vec<(String, String)> {
    let rich = fleet::rich();
    let all = Query::default();
    let of = |name: &str, fleet: &Fleet, query: &Query, viewer: &Viewer| {
        (name.to_owned(), overview(fleet, query, viewer).unwrap())
    };
    let told = Viewer {
        flash: Some(Flash { is_bad: false, text: "The sync of analytics has begun.".into(), hint: None }),
        ..viewer.clone()
    };
    let second = Query { page: "2".into(), q: "tenant".into(), ..Query::default() };
    let nothing = Query { q: "no such name".into(), ..Query::default() };
    vec![
        of("overview", &rich, &all, viewer),
        of("overview-hostile", &fleet::with_hostile(), &all, viewer),
        of("overview-healthy", &fleet::healthy(), &all, viewer),
        of("overview-1", &fleet::first(1), &all, viewer),
        of("overview-20", &fleet::first(20), &all, viewer),
        of("overview-200", &fleet::large(), &all, viewer),
        of("overview-200-page-2", &fleet::large(), &second, viewer),
        of("overview-nothing-found", &rich, &nothing, viewer),
        of("overview-empty", &Fleet { pipelines: Vec::new(), ..rich.clone() }, &all, viewer),
        of("overview-told", &fleet::healthy(), &all, &told),
        of("overview-viewer", &rich, &all, &Viewer { name: "guest".into(), ..Viewer::default() }),
    ]
}

fn of_pipeline(fleet: &Fleet, name: &str, file: &str, viewer: &Viewer) -> Vec<(String, String)> {
    let one = fleet::named(fleet, name);
    let generations = if name == "analytics" { fleet::generations() } else { Vec::new() };
    let beside = Beside { generations: &generations, ..Beside::default() };
    let mut pages = Vec::new();
    for tab in TABS {
        let known = Tab::of_path(tab).unwrap();
        let page = pipeline(fleet, one, known, &Query::default(), &beside, viewer).unwrap();
        pages.push((format!("pipeline-{file}{}{tab}", if tab.is_empty() { "" } else { "-" }), page));
    }
    for (index, asked) in one.runs.iter().enumerate() {
        pages.push((format!("run-{file}-{index}"), run(fleet, asked, &beside, viewer).unwrap()));
    }
    pages
}

fn others(viewer: &Viewer) -> Vec<(String, String)> {
    let rich = fleet::rich();
    let records = fleet::records();
    let at = fleet::at(600);
    let audited = |name: &str, page: &AuditPage<'_>, query: &AuditQuery| {
        (name.to_owned(), audit(&rich, page, query, viewer).unwrap())
    };
    let (intact, broken) = (fleet::report(true), fleet::report(false));
    let page = |report| AuditPage {
        entries: &records,
        verified: report,
        problem: None,
        export_url: "/audit/export".into(),
    };
    let unreadable = AuditPage {
        problem: Some(("the target cannot be reached".into(), Some("Check that it runs.".into()))),
        ..AuditPage::default()
    };
    let some = AuditQuery { pipeline: "orders".into(), action: "sync".into(), ..AuditQuery::default() };
    let wrong = ProblemPage {
        status: 409,
        title: "A sync of analytics is already running".into(),
        detail: "ana.ruiz asked for it 14 minutes ago.".into(),
        hint: Some("Wait for it to end, or cancel it.".into()),
        link: Some(("/runs/01970b61".into(), "Watch the run".into())),
    };
    vec![
        audited("audit", &page(Some((&intact, at.as_str()))), &AuditQuery::default()),
        audited("audit-broken", &page(Some((&broken, at.as_str()))), &some),
        audited("audit-unchecked", &page(None), &AuditQuery::default()),
        audited("audit-unreadable", &unreadable, &AuditQuery::default()),
        ("settings".into(), settings(&rich, &fleet::settings_page(), viewer).unwrap()),
        ("problem".into(), problem(Some(&rich), &wrong, viewer).unwrap()),
        ("problem-bare".into(), problem(None, &wrong, &Viewer::default()).unwrap()),
    ]
}

/// For eyes and for browsers: the pages as files, with the assets beside them.
pub fn leave() -> PathBuf {
    static LEFT: OnceLock<PathBuf> = OnceLock::new();
    LEFT.get_or_init(|| {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/console");
        fs::create_dir_all(&directory).unwrap();
        for name in ["console.css", "console.js", "icon.svg"] {
            fs::write(directory.join(name), asset(name).unwrap().body).unwrap();
        }
        for (name, page) in pages() {
            let page = page.replace("\"/assets/", "\"").replace("?v=", "#");
            fs::write(directory.join(format!("{name}.html")), page).unwrap();
        }
        directory
    })
    .clone()
}
