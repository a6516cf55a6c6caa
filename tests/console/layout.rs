//! The pages as a real Chromium lays them out: nothing runs over the edge, every word stands out from what is really
//! behind it. The screenshots stay in `target/console/shots/`.

use std::path::Path;

use super::browser::Browser;
use super::gallery::{leave, pages};

/// What reaches beyond the window, unless it is in a part that scrolls by itself; with each of the first forms open.
const OVERFLOW: &str = r"(() => {
    const beyond = () => [...document.querySelectorAll('main *, header *, footer *')].filter((one) => {
        const box = one.getBoundingClientRect();
        return box.width > 1 && (box.right > innerWidth + 1 || box.left < -1) && one.checkVisibility()
            && !one.closest('.tabs, .scroll, pre, .log, .visually-hidden, svg, thead');
    });
    const found = beyond();
    for (const form of [...document.querySelectorAll('details.act')].slice(0, 8)) {
        form.open = true;
        found.push(...beyond());
        form.open = false;
    }
    return found.slice(0, 3).map((one) => `${one.tagName}.${one.className}: ${one.textContent.trim().slice(0, 40)}`);
})()";

/// Words whose contrast with the ground that is painted behind them is below what WCAG asks for.
const PALE: &str = r"(() => {
    const parts = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
    const linear = (part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const light = ([red, green, blue]) => 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
    const ground = (one) => {
        for (; one; one = one.parentElement) {
            const colour = parts(getComputedStyle(one).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
    };
    const pale = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let looked = 0;
    while (walker.nextNode()) {
        const one = walker.currentNode.parentElement;
        if (!walker.currentNode.nodeValue.trim() || !one.checkVisibility() || one.closest('.visually-hidden, .skip')) continue;
        const style = getComputedStyle(one);
        const colour = parts(one.closest('svg') ? style.fill : style.color);
        const [a, b] = [light(colour), light(ground(one))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        looked += 1;
        if (ratio < 4.5) pale.push(`${ratio.toFixed(2)}: ${one.textContent.trim().slice(0, 40)}`);
    }
    return looked < 5 ? ['too few words to be a page'] : pale.slice(0, 5);
})()";

/// Too small to hit, WCAG 2.5.8: a link within a line of words is excused.
const SMALL: &str = r"
    [...document.querySelectorAll('button, summary, input:not([type=hidden]), select, nav a, .button')].filter((one) => {
        const box = one.getBoundingClientRect();
        return box.width > 1 && (box.height < 20 || box.width < 16) && !one.closest('.crumbs, .pager, .skip');
    }).slice(0, 3).map((one) => `${one.tagName} ${one.textContent.trim().slice(0, 30)}: ${Math.round(one.getBoundingClientRect().height)}`)";

const SIZES: [(u32, u32); 4] = [(360, 780), (390, 844), (768, 1024), (1440, 900)];

#[test]
fn pages_fit_and_stand_out_at_every_size_in_both_schemes() {
    let directory = leave();
    let mut browser = Browser::start();
    let mut found = Vec::new();
    for (name, _) in pages() {
        browser.open(&format!("file://{}", directory.join(format!("{name}.html")).display()));
        for (width, height) in SIZES {
            for scheme in ["light", "dark"] {
                browser.appear(width, height, scheme);
                // Dark or light, a page is as wide.
                let looks = [("is pale", PALE), ("overflows", OVERFLOW), ("is small", SMALL)];
                for (what, look) in &looks[..if scheme == "dark" { 1 } else { 3 }] {
                    let faults = browser.evaluate(look);
                    let faults = faults.as_array().unwrap().iter();
                    found.extend(faults.map(|fault| format!("{name} {width} {scheme} {what}: {fault}")));
                }
                if is_kept(&name, width) {
                    browser.screenshot(&shot(&directory, &name, width, scheme));
                }
            }
        }
    }
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

/// One of each kind.
fn is_kept(name: &str, width: u32) -> bool {
    const KEPT: &[&str] = &[
        "overview",
        "overview-healthy",
        "pipeline-synapse",
        "overview-1",
        "overview-20",
        "overview-200",
        "pipeline-synapse-tables",
        "pipeline-synapse-schema",
        "pipeline-synapse-storage",
        "pipeline-analytics",
        "pipeline-analytics-runs",
        "pipeline-billing-verification",
        "run-reports-0",
        "audit",
        "settings",
        "problem",
    ];
    width != 360 && KEPT.contains(&name)
}

fn shot(directory: &Path, name: &str, width: u32, scheme: &str) -> std::path::PathBuf {
    directory.join("shots").join(format!("{name}-{width}-{scheme}.png"))
}

/// The looks would find what they look for.
#[test]
fn what_is_wide_pale_or_small_is_found() {
    let directory = leave();
    let mut browser = Browser::start();
    browser.open(&format!("file://{}", directory.join("overview-healthy.html").display()));
    browser.appear(390, 844, "light");
    for (look, change) in [
        (OVERFLOW, "document.querySelector('h1').style.cssText = 'width: 600px; max-width: none'"),
        (PALE, "document.querySelector('.route').style.color = '#999'"),
        (
            SMALL,
            "document.querySelector('summary').style.cssText = 'display: inline-block; height: 9px; padding: 0; overflow: hidden'",
        ),
    ] {
        assert_eq!(browser.evaluate(look), serde_json::json!([]), "{look}");
        browser.evaluate(change);
        assert_ne!(browser.evaluate(look), serde_json::json!([]), "{change}");
        browser
            .evaluate("document.querySelectorAll('[style]').forEach((one) => one.removeAttribute('style'))");
    }
}
