//! What everybody needs of a page, checked on every page: names, labels, order; and that nothing inline runs.

use std::collections::BTreeSet;

use super::document::{Document, Element, parse};
use super::gallery::pages;

#[test]
fn every_page_can_be_read_and_used_by_everybody() {
    let mut found = Vec::new();
    for (name, page) in pages() {
        found.extend(faults(&parse(&page)).into_iter().map(|fault| format!("{name}: {fault}")));
    }
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

/// What is wrong with a page, in a line each.
fn faults(document: &Document) -> Vec<String> {
    let mut faults: Vec<String> = document.errors.iter().map(|error| format!("parser: {error}")).collect();
    let all = document.root.all();
    outline(&document.root, &all, &mut faults);
    references(&document.root, &all, &mut faults);
    for element in &all {
        names(&document.root, element, &mut faults);
        nothing_inline(element, &mut faults);
        tables(element, &mut faults);
        forms(element, &mut faults);
    }
    drawings(&document.root, &mut faults);
    faults
}

fn outline(root: &Element, all: &[&Element], faults: &mut Vec<String>) {
    for (name, number) in [("h1", 1), ("main", 1), ("title", 1), ("header", 1), ("footer", 1)] {
        // A drawing has a title as well.
        let found = all.iter().filter(|one| one.name == name && !is_drawn(root, one)).count();
        if found != number {
            faults.push(format!("{found} {name}"));
        }
    }
    let html = all.iter().find(|one| one.name == "html");
    if html.and_then(|html| html.get("lang")).is_none_or(str::is_empty) {
        faults.push("no lang".to_owned());
    }
    let mut last = 0;
    for element in all {
        let Some(level) = element.name.strip_prefix('h').and_then(|level| level.parse::<u32>().ok()) else {
            continue;
        };
        if level > last + 1 {
            faults.push(format!("h{level} after h{last}: {}", element.text()));
        }
        last = level;
    }
}

fn is_drawn(root: &Element, element: &Element) -> bool {
    root.named("svg").iter().any(|svg| svg.all().iter().any(|one| std::ptr::eq(*one, element)))
}

fn references(root: &Element, all: &[&Element], faults: &mut Vec<String>) {
    let mut ids = BTreeSet::new();
    for id in all.iter().filter_map(|element| element.get("id")) {
        if id.is_empty() || id.contains(char::is_whitespace) || !ids.insert(id) {
            faults.push(format!("the id {id:?} is no id, or there twice"));
        }
    }
    for element in all {
        for attribute in ["for", "aria-labelledby", "aria-describedby", "form"] {
            for id in element.get(attribute).unwrap_or_default().split_whitespace() {
                if !ids.contains(id) {
                    faults.push(format!("{attribute} names {id}, which is not there"));
                }
            }
        }
        let shape = element.get("href").and_then(|href| href.strip_prefix('#'));
        if let Some(id) = shape.filter(|id| !ids.contains(id)) {
            faults.push(format!("#{id} is not there"));
        }
        if element.has("data-live") && element.get("id").is_none() {
            faults.push("what is renewed has no id".to_owned());
        }
    }
    let navs = root.named("nav");
    if navs.len() > 1 && navs.iter().any(|nav| !nav.has("aria-label")) {
        faults.push("one nav of several has no name".to_owned());
    }
}

/// What says its name by itself, or has one.
fn is_named(root: &Element, element: &Element) -> bool {
    let by_id = |id: &str| root.with_id(id).is_some_and(|one| !one.text().is_empty());
    let labelled = element.get("aria-labelledby").is_some_and(|ids| ids.split_whitespace().all(by_id));
    let label = element.get("aria-label").is_some_and(|label| !label.trim().is_empty());
    let by_for = element.get("id").is_some_and(|id| {
        root.named("label").iter().any(|label| label.get("for") == Some(id) && !label.text().is_empty())
    });
    label || labelled || by_for
}

fn names(root: &Element, element: &Element, faults: &mut Vec<String>) {
    let hidden = element.get("type") == Some("hidden");
    let needed = match element.name.as_str() {
        "input" | "select" | "textarea" | "progress" | "meter" => !hidden && !is_named(root, element),
        "a" | "button" | "summary" => element.text().is_empty() && !is_named(root, element),
        "img" => element.get("alt").is_none(),
        "h1" | "h2" | "h3" | "label" | "th" | "figcaption" => element.text().is_empty(),
        _ => false,
    };
    if needed {
        faults.push(format!("a {} has no name: {:?}", element.name, element.attributes));
    }
    if element.name == "a" && element.get("href").is_none() {
        faults.push(format!("a link goes nowhere: {}", element.text()));
    }
    if element.name == "details" && element.elements().next().is_none_or(|first| first.name != "summary") {
        faults.push("a details has no summary".to_owned());
    }
    if element.get("tabindex").and_then(|index| index.parse::<i32>().ok()).is_some_and(|index| index > 0) {
        faults.push("a tabindex changes the order".to_owned());
    }
}

fn drawings(element: &Element, faults: &mut Vec<String>) {
    for child in element.elements() {
        if child.name == "svg" {
            let is_named = child.has("aria-label") || child.has("aria-labelledby");
            if child.get("aria-hidden") != Some("true") && !(child.get("role") == Some("img") && is_named) {
                faults.push(format!("a drawing has no name: {:?}", child.attributes));
            }
        } else {
            drawings(child, faults);
        }
    }
    if element.name == "figure" && element.named("table").iter().all(|table| table.named("td").is_empty()) {
        faults.push(format!("a drawing has no numbers behind it: {}", element.text()));
    }
}

/// The Content-Security-Policy would refuse it, and a name of a table must never become it.
fn nothing_inline(element: &Element, faults: &mut Vec<String>) {
    for (name, value) in &element.attributes {
        let address = ["href", "src", "action"].contains(&name.as_str());
        let is_ours = value.starts_with('/') || value.starts_with('#') || value.is_empty();
        if name == "style" || name.starts_with("on") || (address && !is_ours) {
            faults.push(format!("{} {name}={value:?}", element.name));
        }
    }
    if element.name == "style" || (element.name == "script" && element.get("src").is_none()) {
        faults.push(format!("inline {}: {}", element.name, element.text()));
    }
}

fn tables(element: &Element, faults: &mut Vec<String>) {
    if element.name == "th" && !matches!(element.get("scope"), Some("col" | "row")) {
        faults.push(format!("a heading has no scope: {}", element.text()));
    }
    if element.name != "table" {
        return;
    }
    let rows = element.named("tr");
    let width = |row: &&Element| row.elements().count();
    if rows.iter().any(|row| width(row) != width(&rows[0])) {
        faults.push(format!("rows of several widths: {}", rows[0].text()));
    }
    if element.named("thead").is_empty() {
        faults.push(format!("a table has no heading: {}", element.text()));
    }
}

/// What changes something says who, why and once only.
fn forms(element: &Element, faults: &mut Vec<String>) {
    if element.name != "form" || element.get("method") != Some("post") {
        return;
    }
    let inputs = element.named("input");
    let input = |name: &str| inputs.iter().find(|input| input.get("name") == Some(name));
    let path = element.get("action").unwrap_or_default();
    if input("csrf").is_none() {
        faults.push(format!("{path}: no csrf"));
    }
    // What only has somebody look again changes nothing that the log should tell.
    if path == "/logout" || path.ends_with("/schema") {
        return;
    }
    if input("idempotency_key").is_none_or(|key| key.get("value").is_none_or(str::is_empty)) {
        faults.push(format!("{path}: no idempotency key"));
    }
    if input("reason").is_none_or(|reason| !reason.has("required")) {
        faults.push(format!("{path}: no reason is asked for"));
    }
    if (path.ends_with("/rollback") || path.ends_with("/cancel"))
        && input("confirm").is_none_or(|confirm| !confirm.has("required"))
    {
        faults.push(format!("{path}: nothing has to be typed"));
    }
}

/// A check that finds nothing is no check.
#[test]
fn planted_faults_are_found() {
    let page = |body: &str| {
        format!(
            "<!doctype html><html lang=\"en\"><head><title>t</title></head><body><header></header>\
             <main><h1>one</h1>{body}</main><footer></footer></body></html>"
        )
    };
    assert_eq!(faults(&parse(&page("<p>fine</p>"))), [""; 0]);
    for (body, expected) in [
        ("<p><div></p>", "parser"),
        ("<h3>x</h3>", "h3 after h1"),
        ("<h1>x</h1>", "2 h1"),
        ("<p id=\"a\"></p><p id=\"a\"></p>", "there twice"),
        ("<label for=\"b\">x</label>", "names b"),
        ("<input id=\"a\">", "a input has no name"),
        ("<button></button>", "a button has no name"),
        ("<a href=\"/\"></a>", "a a has no name"),
        ("<a>x</a>", "goes nowhere"),
        ("<a href=\"javascript:x\">x</a>", "javascript"),
        ("<img src=\"https://elsewhere/x.png\" alt=\"x\">", "elsewhere"),
        ("<img src=\"/x\">", "a img has no name"),
        ("<svg></svg>", "a drawing has no name"),
        ("<svg aria-hidden=\"true\"><use href=\"#i-none\"/></svg>", "#i-none is not there"),
        ("<p style=\"color: red\">x</p>", "style"),
        ("<p onclick=\"x()\">x</p>", "onclick"),
        ("<script>x</script>", "inline script"),
        ("<table><thead><tr><th>x</th></tr></thead></table>", "no scope"),
        ("<table><tbody><tr><td>x</td></tr></tbody></table>", "no heading"),
        (
            "<table><thead><tr><th scope=\"col\">x</th></tr></thead><tbody><tr><td>x</td><td>y</td></tr></tbody></table>",
            "several widths",
        ),
        ("<figure><figcaption>x</figcaption></figure>", "no numbers behind it"),
        ("<form method=\"post\" action=\"/x\"></form>", "no csrf"),
        ("<form method=\"post\" action=\"/x/rollback\"></form>", "nothing has to be typed"),
        ("<p tabindex=\"2\">x</p>", "tabindex"),
        ("<p data-live>x</p>", "no id"),
        ("<nav></nav><nav></nav>", "has no name"),
        ("<details><p>x</p></details>", "no summary"),
    ] {
        let found = faults(&parse(&page(body)));
        assert!(found.iter().any(|fault| fault.contains(expected)), "{body}: {found:?}");
    }
}
