//! The console in a real Chromium: pages that keep themselves up to date, and an operator at work.

use serde_json::json;

use super::browser::Browser;
use super::gallery::leave;
use crate::daemon::Lab;

/// Stands in for the server: `serve()` says that something has changed, and then the page is `news`.
const SERVER: &str = r"
    window.EventSource = class extends EventTarget {
        constructor(path) { super(); window.told = this; window.path = path; }
        close() {}
    };
    window.fetch = async (address, options) => {
        window.asked = options.headers['X-Fragment'];
        return new Response(window.news, { status: 200 });
    };
    let revision = 0;
    window.serve = (news) => {
        window.news = news;
        window.told.dispatchEvent(new MessageEvent('fleet', { data: JSON.stringify({ revision: ++revision }) }));
    };";

#[test]
fn a_page_takes_over_what_changed_and_leaves_what_the_reader_does() {
    let directory = leave();
    let mut browser = Browser::start();
    browser.call("Page.addScriptToEvaluateOnNewDocument", &json!({"source": SERVER}));
    browser.open(&format!("file://{}", directory.join("pipeline-synapse-tables.html").display()));
    assert_eq!(browser.evaluate("window.path"), "/events");
    // The reader has opened a form, is writing into it, and has chosen a table.
    browser.evaluate(
        "const form = document.querySelector('#acts details');
         form.open = true;
         form.querySelector('input[name=reason]').focus();
         form.querySelector('input[name=reason]').value = 'half a rea';
         document.querySelector('input[type=checkbox]').checked = true;
         window.row = document.querySelector('#table-list tbody tr');",
    );
    browser.evaluate(
        "serve(document.documentElement.outerHTML
            .replaceAll('8,120,448', '9,999,999')
            .replace('2 tables are quarantined', '2 tables are broken')
            .replace('half a rea', ''))",
    );
    browser.wait("document.querySelector('.verdict').textContent.includes('2 tables are broken')");
    assert_eq!(browser.evaluate("window.asked"), "live");
    browser.wait("document.querySelector('#table-list').textContent.includes('9,999,999')");
    browser.wait("document.getElementById('announcer').textContent.includes('2 tables are broken')");
    for kept in [
        "document.querySelector('#acts details').open",
        "document.activeElement.name === 'reason'",
        "document.activeElement.value === 'half a rea'",
        "document.querySelector('input[type=checkbox]').checked",
        "document.querySelector('#table-list tbody tr') === window.row",
    ] {
        assert_eq!(browser.evaluate(kept), true, "{kept}");
    }
    // What is gone goes, and what is new comes, in its place.
    browser.evaluate(
        "const next = new DOMParser().parseFromString(document.documentElement.outerHTML, 'text/html');
         const body = next.querySelector('#table-list tbody');
         body.querySelectorAll('tr')[1].remove();
         const fresh = body.querySelector('tr').cloneNode(true);
         fresh.id = 'table-new'; fresh.querySelector('th').textContent = 'public.fresh';
         body.prepend(fresh);
         window.wanted = [...body.querySelectorAll('th')].map((one) => one.textContent).join();
         serve(next.documentElement.outerHTML)",
    );
    let names = "[...document.querySelectorAll('#table-list tbody th')].map((one) => one.textContent).join()";
    browser.wait(&format!("{names} === window.wanted"));
    assert!(browser.evaluate(names).as_str().unwrap().starts_with("public.fresh"));
}

#[test]
fn escape_closes_a_form_and_hands_the_focus_back() {
    let directory = leave();
    let mut browser = Browser::start();
    browser.call("Emulation.setTimezoneOverride", &json!({"timezoneId": "Europe/Madrid"}));
    browser.open(&format!("file://{}", directory.join("pipeline-analytics.html").display()));
    browser.evaluate("document.querySelector('#acts summary').click()");
    browser.wait("document.activeElement.name === 'reason'");
    browser
        .evaluate("document.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }))");
    browser
        .wait("!document.querySelector('#acts details').open && document.activeElement.matches('summary')");
    // The reader's own time is beside the one of everybody.
    let times = browser.evaluate("document.querySelector('.head time').textContent");
    assert_eq!(times, "19 Nov 01:12 UTC Nov 19, 02:12 AM local");
}

const PRESS: &str = "document.querySelector('#acts details.first').open = true;
    document.querySelector('#acts details.first input[name=reason]').value = 'Case 4711';
    document.querySelector('#acts details.first button').click()";

/// Sync Now, pressed and watched to its end, by a reader whose page renews itself.
#[test]
fn sync_now_is_pressed_and_its_run_seen_to_end() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let running = lab.start();
    let mut browser = Browser::start();
    browser.appear(1440, 900, "light");
    browser.open(&format!("http://127.0.0.1:{}/", lab.port));
    browser.wait("document.querySelectorAll('.name').length === 2");
    browser.wait("document.querySelector('[data-connection]').textContent === 'Live'");
    browser.screenshot(&leave().join("shots").join("live-overview.png"));
    browser
        .evaluate("[...document.querySelectorAll('.name')].find((one) => one.textContent === 'li').click()");
    browser.wait("document.querySelector('h1')?.textContent === 'li'");
    browser.evaluate(PRESS);
    browser.wait("location.pathname.startsWith('/runs/')");
    // The page was loaded once, and is told.
    browser.wait("document.querySelector('#run')?.dataset.runState === 'done'");
    assert_eq!(browser.evaluate("document.querySelector('h1').textContent"), "Sync of li");
    browser.wait("document.querySelector('#state').textContent.includes('Case 4711')");
    browser.wait("document.querySelectorAll('.log li').length > 1");
    assert_eq!(lab.target.psql("li", "select count(*) from orders"), "500");
    browser.screenshot(&leave().join("shots").join("live-run.png"));
    // It is in the history, with who and why.
    browser.open(&format!("http://127.0.0.1:{}/pipelines/li/runs", lab.port));
    browser.wait("document.querySelector('#kept-1')?.textContent.includes('Case 4711')");
    browser.screenshot(&leave().join("shots").join("live-runs.png"));
    for page in [
        "pipelines/orders",
        "pipelines/orders/tables",
        "pipelines/li",
        "settings",
        "audit?pipeline=li",
        "nowhere",
    ] {
        browser.open(&format!("http://127.0.0.1:{}/{page}", lab.port));
        let name = page.replace(['/', '?', '='], "-");
        browser.screenshot(&leave().join("shots").join(format!("live-{name}.png")));
    }
    running.terminate();
}

/// The same without a script: every step is a page.
#[test]
fn sync_now_works_without_scripts() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let running = lab.start();
    let mut browser = Browser::start();
    browser.call("Network.setBlockedURLs", &json!({"urls": ["*console.js*"]}));
    browser.open(&format!("http://127.0.0.1:{}/pipelines/li", lab.port));
    assert_eq!(browser.evaluate("document.querySelector('[data-connection]').textContent"), "");
    browser.evaluate(PRESS);
    browser.wait("location.pathname.startsWith('/runs/')");
    let address = browser.evaluate("location.href").as_str().unwrap().to_owned();
    let done = crate::harness::wait_for(|| {
        browser.open(&address);
        browser.is_so("document.querySelector('#run').dataset.runState === 'done'").then_some(())
    });
    assert!(done.is_some(), "{}", browser.evaluate("document.body.innerText"));
    running.terminate();
}
