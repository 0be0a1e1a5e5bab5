//! Headless Chromium through ChromeDriver: the few WebDriver commands the tests need, as plain HTTP and JSON.

use crate::http::request;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// How long something may take to appear on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A window.
pub struct Browser {
    driver: Child,
    address: String,
    session: String,
    _profile: TempDir,
}

fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).flat_map(|d| names.iter().map(move |n| d.join(n))).find(|p| p.is_file())
}

impl Browser {
    /// A window of this size, or `None`, said loudly, where there is no browser.
    pub fn open(wide: u32, high: u32, dark: bool) -> Option<Self> {
        let found = program(&["chromedriver"]).zip(program(&["chromium", "google-chrome", "chrome"]));
        let Some((driver, chromium)) = found else {
            eprintln!(
                "SKIPPED: no chromium and chromedriver on this machine, so no page was opened in a browser"
            );
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let lines = BufReader::new(driver.stdout.take().expect("its output")).lines();
        let port = lines.map_while(Result::ok).find_map(|l| {
            let rest = l.split_once("started successfully on port ")?.1;
            rest.trim_end_matches('.').parse::<u16>().ok()
        });
        let address = format!("127.0.0.1:{}", port.expect("chromedriver says its port"));
        let mut args = vec![
            "--headless".to_owned(),
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--disable-quic".into(),
            "--disable-dev-shm-usage".into(),
            "--no-first-run".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--disable-sync".into(),
            "--hide-scrollbars".into(),
            format!("--user-data-dir={}", profile.path().display()),
            format!("--window-size={wide},{high}"),
        ];
        if dark {
            args.push("--force-dark-mode".into());
            args.push("--blink-settings=preferredColorScheme=0".into());
        }
        let options = json!({ "binary": chromium, "args": args });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        let session = browser.command("POST", "/session", &wanted);
        browser.session = session["sessionId"].as_str().expect("a session").into();
        browser.run("POST", "/window/rect", &json!({ "width": wide, "height": high }));
        // A phone is narrower than the narrowest window.
        let metrics = json!({ "width": wide, "height": high, "deviceScaleFactor": 1, "mobile": wide < 500 });
        let command = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": metrics });
        browser.run("POST", "/goog/cdp/execute", &command);
        Some(browser)
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let json = [("content-type", "application/json")];
        let answer = request(&self.address, method, path, &json, body.as_bytes());
        let value = answer.json()["value"].clone();
        assert_eq!(answer.status, 200, "{method} {path}: {value}");
        value
    }

    fn run(&self, method: &str, path: &str, body: &Value) -> Value {
        self.command(method, &format!("/session/{}{path}", self.session), body)
    }

    pub fn go(&self, url: &str) {
        self.run("POST", "/url", &json!({ "url": url }));
    }

    pub fn url(&self) -> String {
        self.run("GET", "/url", &Value::Null).as_str().unwrap().into()
    }

    /// The value of an expression in the page.
    pub fn eval(&self, expression: &str) -> Value {
        self.run("POST", "/execute/sync", &json!({ "script": format!("return {expression};"), "args": [] }))
    }

    fn all(&self, selector: &str) -> Vec<Value> {
        let found = self.run("POST", "/elements", &json!({ "using": "css selector", "value": selector }));
        found.as_array().cloned().unwrap_or_default()
    }

    fn element(&self, selector: &str) -> String {
        let mut found = Vec::new();
        self.wait(&format!("{selector} to be there"), || {
            found = self.all(selector);
            !found.is_empty()
        });
        found[0][ELEMENT].as_str().expect("an element").into()
    }

    /// Waits until something holds.
    pub fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < until, "waited in vain for {what} at {}", self.url());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until an expression in the page is true.
    pub fn until(&self, expression: &str) {
        self.wait(expression, || self.eval(&format!("!!({expression})")) == true);
    }

    pub fn click(&self, selector: &str) {
        let e = self.element(selector);
        self.run("POST", &format!("/element/{e}/click"), &json!({}));
    }

    /// Replaces what a field holds by typing.
    pub fn type_into(&self, selector: &str, text: &str) {
        let e = self.element(selector);
        self.run("POST", &format!("/element/{e}/clear"), &json!({}));
        self.run("POST", &format!("/element/{e}/value"), &json!({ "text": text }));
    }

    /// Presses a key on the page itself.
    pub fn press(&self, key: &str) {
        let actions = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        self.run(
            "POST",
            "/actions",
            &json!({ "actions": [{ "type": "key", "id": "k", "actions": actions }] }),
        );
    }

    /// Moves the pointer onto an element.
    pub fn point_at(&self, selector: &str) {
        let e = self.element(selector);
        let to = json!({ "type": "pointerMove", "duration": 0, "x": 0, "y": 0, "origin": { ELEMENT: e } });
        let mouse = json!({ "type": "pointer", "id": "m", "parameters": { "pointerType": "mouse" }, "actions": [to] });
        self.run("POST", "/actions", &json!({ "actions": [mouse] }));
    }

    fn point(&self, actions: &[Value]) {
        let mouse = json!({ "type": "pointer", "id": "m", "parameters": { "pointerType": "mouse" }, "actions": actions });
        self.run("POST", "/actions", &json!({ "actions": [mouse] }));
    }

    /// Moves the pointer to a place in the window.
    pub fn move_to(&self, (x, y): (f64, f64)) {
        self.point(&[step((x, y))]);
    }

    /// Presses the button in one place and lets it go in another.
    pub fn drag(&self, from: (f64, f64), to: (f64, f64)) {
        let button = |what: &str| json!({ "type": what, "button": 0 });
        let half = ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0);
        self.point(&[step(from), button("pointerDown"), step(half), step(to), button("pointerUp")]);
    }

    /// The addresses pages asked for since the last time.
    pub fn requests(&self) -> Vec<String> {
        let log = self.run("POST", "/se/log", &json!({ "type": "performance" }));
        let asked = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let event = &message["message"];
            let sent = event["method"] == "Network.requestWillBeSent";
            sent.then(|| event["params"]["request"]["url"].as_str().map(String::from)).flatten()
        };
        log.as_array().into_iter().flatten().filter_map(asked).collect()
    }

    pub fn text(&self, selector: &str) -> String {
        let e = self.element(selector);
        self.run("GET", &format!("/element/{e}/text"), &Value::Null).as_str().unwrap_or_default().into()
    }

    /// What the page complained about since the last time: errors of scripts, refused by the content policy, missing files.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.run("POST", "/se/log", &json!({ "type": "browser" }));
        let severe = log.as_array().into_iter().flatten().filter(|e| e["level"] == "SEVERE");
        severe.filter_map(|e| e["message"].as_str().map(String::from)).collect()
    }

    /// Keeps a picture where `LM_SAES_SHOTS` names a folder.
    pub fn shot(&self, name: &str) {
        let Some(folder) = std::env::var_os("LM_SAES_SHOTS") else { return };
        let found = self.run("GET", "/screenshot", &Value::Null);
        let bytes = unbase64(found.as_str().unwrap_or_default());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.run("DELETE", "", &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// A movement of the pointer, to a whole pixel of the window.
fn step((x, y): (f64, f64)) -> Value {
    json!({ "type": "pointerMove", "duration": 0, "x": x.round() as i64, "y": y.round() as i64, "origin": "viewport" })
}

fn unbase64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(digit).collect();
    let whole = |d: &[u8]| d.iter().fold(0u32, |n, &x| n << 6 | u32::from(x)) << (6 * (4 - d.len()));
    digits.chunks(4).flat_map(|d| whole(d).to_be_bytes()[1..d.len()].to_vec()).collect()
}
