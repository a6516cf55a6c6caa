//! What pages say, to whom, and what their forms send.

use std::collections::BTreeSet;

use pgdiode::http::console::{
    Beside, HistoryQuery, Query, Section, Tab, Viewer, asset, asset_url, csv, history_records, overview,
    pipeline, problem, run, settings,
};
use pgdiode::status::fleet::{Fleet, Health};

use super::document::{Element, parse};
use super::fleet;
use super::gallery::{TABS, pages};

fn overview_of(fleet: &Fleet, query: &Query) -> Element {
    parse(&overview(fleet, query, &fleet::viewer()).unwrap()).root
}

fn verdict(fleet: &Fleet) -> String {
    overview_of(fleet, &Query::default()).named("h1")[0].text()
}

fn names(page: &Element) -> Vec<String> {
    page.all().into_iter().filter(|one| one.has_class("name")).map(Element::text).collect()
}

fn of_health(healths: &[Health]) -> Fleet {
    let mut fleet = fleet::healthy();
    fleet.pipelines.truncate(healths.len());
    for (one, health) in fleet.pipelines.iter_mut().zip(healths) {
        std::sync::Arc::make_mut(one).health = *health;
    }
    fleet
}

#[test]
fn one_sentence_says_how_all_are() {
    use Health::{Attention, Failed, Healthy, Paused, Working};
    assert_eq!(verdict(&of_health(&[])), "No pipeline is configured.");
    assert_eq!(verdict(&of_health(&[Healthy])), "The replica customers is healthy, 0.08 s behind.");
    let all = verdict(&fleet::healthy());
    assert_eq!(all, "All 4 replicas are healthy; the furthest behind is orders, 0.38 s.");
    let one = verdict(&of_health(&[Healthy, Working]));
    assert_eq!(one, "1 of 2 replicas is healthy and 1 is working.");
    let some = verdict(&of_health(&[Healthy, Healthy, Working, Paused]));
    assert_eq!(some, "2 of 4 replicas are healthy, 1 is working and 1 is paused.");
    let bad = verdict(&of_health(&[Failed, Attention, Healthy, Attention]));
    assert_eq!(bad, "customers has failed and orders and search need attention; 1 of 4 is healthy.");
    let worse = verdict(&of_health(&[Failed, Failed, Failed, Healthy]));
    assert_eq!(worse, "3 replicas have failed; 1 of 4 is healthy.");
}

#[test]
fn the_worst_is_first_and_what_is_sought_is_found() {
    let rich = fleet::rich();
    let all = names(&overview_of(&rich, &Query::default()));
    assert_eq!(all[0], "billing");
    assert_eq!(all.len(), rich.pipelines.len());
    assert_eq!(all.last().map(String::as_str), Some("analytics"), "{all:?}");
    let query = |q: &str, health: &str| Query { q: q.into(), health: health.into(), page: String::new() };
    assert_eq!(names(&overview_of(&rich, &query("MATRIX-db", ""))), ["synapse"]);
    assert_eq!(names(&overview_of(&rich, &query("", "paused"))), ["warehouse"]);
    assert_eq!(names(&overview_of(&rich, &query("orders", "paused"))), [""; 0]);
}

#[test]
fn two_hundred_pipelines_are_two_small_pages() {
    let large = fleet::large();
    let page = |page: &str| Query { page: page.into(), ..Query::default() };
    let first = overview(&large, &page("1"), &fleet::viewer()).unwrap();
    assert!(first.len() < 450_000, "{} bytes", first.len());
    let (first, second) = (parse(&first).root, overview_of(&large, &page("2")));
    let mut all: BTreeSet<String> = names(&first).into_iter().collect();
    assert_eq!(all.len(), 100);
    all.extend(names(&second));
    assert_eq!(all.len(), 200);
    assert_eq!(names(&first)[0], "tenant-003", "the failed ones are first");
}

/// Exactly those that the server answers.
#[test]
fn forms_name_the_servers_routes() {
    let mut routes = BTreeSet::new();
    for (_, page) in pages() {
        for form in parse(&page).root.named("form") {
            let path = form.get("action").unwrap().to_owned();
            if form.get("method") == Some("post") {
                let end = path.rsplit('/').next().unwrap().to_owned();
                let of = path.split('/').nth(1).unwrap().to_owned();
                routes.insert(format!("{of} {end}"));
            }
        }
    }
    let known = [
        "audit verify",
        "logout logout",
        "pipelines pause",
        "pipelines resume",
        "pipelines resync",
        "pipelines rollback",
        "pipelines schema",
        "pipelines sync",
        "pipelines verify",
        "runs cancel",
    ];
    assert_eq!(routes.into_iter().collect::<Vec<_>>(), known);
}

#[test]
fn what_data_says_is_never_markup_and_is_sent_back_as_it_is() {
    let rich = fleet::with_hostile();
    let one = fleet::named(&rich, fleet::HOSTILE);
    for (name, page) in pages() {
        let root = parse(&page).root;
        assert_eq!(root.named("script").len(), 1, "{name}");
        assert!(!root.text().contains('\u{202e}'), "{name}: a name turns the words around it");
    }
    let page =
        pipeline(&rich, one, Tab::Tables, &Query::default(), &Beside::default(), &fleet::viewer()).unwrap();
    let root = parse(&page).root;
    assert!(root.text().contains("<script>alert(1)</script>"), "it is shown as text");
    let sent: Vec<&str> = root
        .named("input")
        .into_iter()
        .filter(|input| input.get("name") == Some("table"))
        .filter_map(|input| input.get("value"))
        .collect();
    assert!(sent.iter().any(|table| table.contains('\u{202e}')), "{sent:?}");
    for form in root.named("form").iter().filter(|form| form.get("method") == Some("post")) {
        let path = form.get("action").unwrap();
        assert!(path == "/logout" || path.starts_with("/pipelines/%3Cscript%3E"), "{path}");
    }
}

#[test]
fn who_may_only_look_is_offered_nothing_to_change() {
    let guest = Viewer { name: "guest".into(), ..Viewer::default() };
    let rich = fleet::rich();
    let mut looked_at = vec![overview(&rich, &Query::default(), &guest).unwrap()];
    for one in &rich.pipelines {
        let generations = fleet::generations();
        let beside = Beside { generations: &generations, ..Beside::default() };
        for tab in TABS {
            let tab = Tab::of_path(tab).unwrap();
            looked_at.push(pipeline(&rich, one, tab, &Query::default(), &beside, &guest).unwrap());
        }
        looked_at.extend(one.runs.iter().map(|asked| run(&rich, asked, &beside, &guest).unwrap()));
    }
    for page in looked_at {
        let root = parse(&page).root;
        assert!(root.named("form").iter().all(|form| form.get("method") == Some("get")));
        assert!(root.named("a").iter().all(|link| link.get("href") != Some("/audit")));
    }
}

#[test]
fn a_fragment_is_the_live_parts_without_the_frame() {
    let rich = fleet::rich();
    let live = Viewer { is_fragment: true, ..fleet::viewer() };
    let ids = |page: &str| -> BTreeSet<String> {
        let root = parse(page).root;
        let live = root.all().into_iter().filter(|one| one.has("data-live"));
        live.filter_map(|one| one.get("id")).map(str::to_owned).collect()
    };
    for one in &rich.pipelines {
        let page = |viewer: &Viewer| {
            pipeline(&rich, one, Tab::Now, &Query::default(), &Beside::default(), viewer).unwrap()
        };
        let (whole, part) = (page(&fleet::viewer()), page(&live));
        assert!(part.len() < whole.len() && !part.contains("<header") && !part.contains("<script src"));
        assert_eq!(ids(&whole), ids(&part));
        assert!(ids(&whole).len() > 4);
    }
}

#[test]
fn a_problem_tells_what_to_do_and_nothing_of_the_process() {
    let page = pages().into_iter().find(|(name, _)| name == "problem-bare").unwrap().1;
    assert!(page.contains("Wait for it to end") && page.contains("/runs/01970b61"));
    assert!(!page.contains("replica-1"));
    assert!(problem(None, &pgdiode::http::console::ProblemPage::default(), &Viewer::default()).is_ok());
}

#[test]
fn settings_are_grouped_and_many_are_folded() {
    let titles = |page: &str| {
        let root = parse(page).root;
        let sections = root.named("details").into_iter().filter(|one| one.has_class("section"));
        sections.map(|one| (one.named("h2")[0].text(), one.has("open"))).collect::<Vec<_>>()
    };
    let mut shown = fleet::settings_page();
    let page = |shown: &_| settings(&fleet::rich(), shown, &fleet::viewer()).unwrap();
    assert_eq!(titles(&page(&shown)), [("http".to_owned(), true), ("pipeline.orders".to_owned(), true)]);
    for name in ["pipeline.a", "pipeline.ab", "pipeline.ab.copy"] {
        shown.sections.push(Section { title: name.into(), values: Vec::new() });
    }
    let folded = titles(&page(&shown));
    assert_eq!(folded.len(), 4, "{folded:?}");
    assert!(folded.iter().all(|(_, is_open)| !is_open));
}

#[test]
fn assets_are_known_by_their_content() {
    for name in ["console.css", "console.js", "icon.svg"] {
        let body = String::from_utf8(asset(name).unwrap().body.to_vec()).unwrap();
        assert!(
            asset_url(name).starts_with(&format!("/assets/{name}?v="))
                && asset_url(name).len() > 20 + name.len()
        );
        assert!(!body.contains("https://") && !body.contains("@import") && !body.contains("url("), "{name}");
    }
    assert!(asset("../console.rs").is_none() && asset("").is_none());
}

/// The rows of a history, as a reader sees them.
fn runs_of(query: &HistoryQuery) -> Vec<String> {
    let rich = fleet::rich();
    let one = fleet::named(&rich, "analytics");
    let beside = Beside { history: query.clone(), ..Beside::default() };
    let page = pipeline(&rich, one, Tab::Runs, &Query::default(), &beside, &fleet::viewer()).unwrap();
    let root = parse(&page).root;
    let rows = root
        .all()
        .into_iter()
        .filter(|row| row.name == "tr" && row.get("id").is_some_and(|id| !id.starts_with("gen")));
    rows.map(|row| row.named("th")[0].text().trim().to_owned()).collect()
}

#[test]
fn a_history_is_filtered_by_its_address_and_the_file_has_the_same_runs() {
    let all = runs_of(&HistoryQuery::default());
    assert!(all.len() > 5, "{all:?}");
    let rich = fleet::rich();
    let failed = HistoryQuery { outcome: "failed".into(), ..HistoryQuery::default() };
    let shown = runs_of(&failed);
    assert!(!shown.is_empty() && shown.len() < all.len(), "{shown:?} of {all:?}");
    let beside = Beside { history: failed, ..Beside::default() };
    let records = history_records(fleet::named(&rich, "analytics"), &beside);
    assert_eq!(records.len(), shown.len());
    assert!(records.iter().all(|record| record.outcome == "failed"));
    let file = csv(&records);
    assert_eq!(file.split("\r\n").count(), records.len() + 2, "{file}");
    let nobody = HistoryQuery { who: "nobody".into(), page: "7".into(), ..HistoryQuery::default() };
    assert_eq!(runs_of(&nobody), [""; 0]);
}

#[test]
fn schemas_that_differ_are_told_with_what_to_do() {
    let rich = fleet::rich();
    let of = |name: &str, q: &str| {
        let query = Query { q: q.into(), ..Query::default() };
        let page = pipeline(
            &rich,
            fleet::named(&rich, name),
            Tab::Schema,
            &query,
            &Beside::default(),
            &fleet::viewer(),
        );
        parse(&page.unwrap()).root.text()
    };
    let synapse = of("synapse", "");
    for said in [
        "6 differences in 4 of 7 tables.",
        "column differs",
        "CREATE INDEX events_order_room",
        "alter table public.receipts",
    ] {
        assert!(synapse.contains(said), "{said}: {synapse}");
    }
    assert!(!of("synapse", "receipts").contains("CREATE INDEX"));
    assert!(of("orders", "").contains("Both schemas agree"));
    assert!(of("sessions", "").contains("no two databases"));
}

#[test]
fn a_pipeline_that_waits_after_an_error_can_be_started_again() {
    let rich = fleet::rich();
    let page = |name: &str| {
        let one = fleet::named(&rich, name);
        let page = pipeline(&rich, one, Tab::Now, &Query::default(), &Beside::default(), &fleet::viewer());
        parse(&page.unwrap()).root
    };
    let buttons = |name: &str| -> Vec<String> {
        page(name).all().into_iter().filter(|one| one.name == "summary").map(Element::text).collect()
    };
    assert!(buttons("billing").iter().any(|label| label.trim() == "Start again"), "{:?}", buttons("billing"));
    assert!(!buttons("orders").iter().any(|label| label.trim() == "Start again"));
}
