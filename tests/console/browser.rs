//! A real Chromium without a window, driven by its protocol for developers over two pipes: messages are JSON, each ended by a
//! NUL (`--remote-debugging-pipe`). `scripts/install browser` installs it; `PGDIODE_TEST_CHROMIUM` names another.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::ground::fresh_directory;
use crate::harness::{PATIENCE, wait_for};

/// A picture of a page is for people to look at. Chromium paints none now and then; nothing is proven by one.
const PAINTED_WITHIN: Duration = Duration::from_secs(15);

pub struct Browser {
    child: Child,
    to: File,
    /// What it says, as it comes.
    from: Receiver<Vec<u8>>,
    /// Of the page.
    session: String,
    number: u64,
    directory: PathBuf,
}

fn program() -> PathBuf {
    let known = std::env::var_os("PGDIODE_TEST_CHROMIUM").map(PathBuf::from).into_iter();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium-headless-shell", "chromium", "google-chrome"];
    let found = names.iter().flat_map(|name| std::env::split_paths(&path).map(move |part| part.join(name)));
    let mut found = known.chain(found.filter(|program| program.is_file()));
    found.next().expect("no Chromium is here: scripts/install browser")
}

impl Browser {
    pub fn start() -> Browser {
        let directory = fresh_directory("chromium");
        let (to, from) = (directory.join("to"), directory.join("from"));
        for pipe in [&to, &from] {
            assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        }
        // The shell gives it the pipes as the file descriptors that it looks for.
        let script = "exec \"$0\" --remote-debugging-pipe --headless --no-sandbox --disable-gpu --hide-scrollbars --disable-renderer-backgrounding \
                      --allow-file-access-from-files --user-data-dir=\"$3\" about:blank 3<\"$1\" 4>\"$2\"";
        let child = Command::new("sh")
            .args(["-c", script])
            .arg(program())
            .args([&to, &from, &directory.join("profile")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("log")).unwrap())
            .spawn()
            .unwrap();
        // In the order in which the shell opens them: each waits for the other side.
        let to = OpenOptions::new().write(true).open(to).unwrap();
        let mut messages = BufReader::new(File::open(from).unwrap());
        let (heard, from) = mpsc::channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            while messages.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                if heard.send(std::mem::take(&mut message)).is_err() {
                    break;
                }
            }
        });
        let mut browser = Browser { child, to, from, session: String::new(), number: 0, directory };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attached =
            browser.call("Target.attachToTarget", &json!({"targetId": target["targetId"], "flatten": true}));
        attached["sessionId"].as_str().unwrap().clone_into(&mut browser.session);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// One command and its answer; what the browser tells meanwhile is passed over.
    pub fn call(&mut self, method: &str, parameters: &Value) -> Value {
        let answer = self.answer(method, parameters, PATIENCE);
        answer.unwrap_or_else(|| panic!("{method} was never answered: {}", self.log()))
    }

    fn answer(&mut self, method: &str, parameters: &Value, within: Duration) -> Option<Value> {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let answer: Value = serde_json::from_slice(&self.from.recv_timeout(left).ok()?).unwrap();
            if answer["id"] == self.number {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return Some(answer["result"].clone());
            }
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// The value of an expression in the page; promises are waited for.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", &parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    pub fn is_so(&mut self, expression: &str) -> bool {
        // A page that is on its way has no context to ask in.
        let parameters = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", &parameters)["result"]["value"] == true
    }

    /// Waits until an expression is true in whatever page is there then.
    pub fn wait(&mut self, expression: &str) {
        let found = wait_for(|| self.is_so(expression).then_some(()));
        if found.is_none() {
            let there = self.evaluate("location.href + '\\n' + document.body.innerText");
            panic!("{expression} never became true at {}", there.as_str().unwrap_or_default());
        }
    }

    pub fn open(&mut self, address: &str) {
        self.call("Page.navigate", &json!({"url": address}));
        let whole = format!("location.href === {} && document.readyState === 'complete'", json!(address));
        self.wait(&whole);
    }

    /// The page as a window of this size has it, in a colour scheme.
    pub fn appear(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &features);
    }

    /// Of the whole page, however long.
    pub fn screenshot(&mut self, file: &Path) {
        let parameters = json!({"format": "png", "captureBeyondViewport": true});
        let Some(shot) = self.answer("Page.captureScreenshot", &parameters, PAINTED_WITHIN) else {
            eprintln!("{} was not painted", file.display());
            return;
        };
        let bytes = data_encoding::BASE64.decode(shot["data"].as_str().unwrap().as_bytes()).unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
